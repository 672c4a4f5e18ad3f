"""The expressions of the suites `mysql_*.slt`: functions crossed with values. No results here."""

import itertools

NUMBERS = ["0", "1", "-1", "7", "-13", "2.5", "-2.5", "0.05", "123.456", "-123.456", "1e3", "-1.5e0", "'12'", "'3.7abc'",
           "'abc'", "NULL", "9223372036854775807"]
SMALL = ["0", "1", "2", "-1", "NULL"]
TEXTS = ["''", "'a'", "'abc'", "'Hello World'", "'  padded  '", "'a,b,c'", "'Grüße'", "'世界'", "'100%'", "NULL", "123", "-4.5"]
DATES = ["'2024-02-29'", "'2023-12-31'", "'2024-01-01 00:00:00'", "'1999-07-04 13:45:59'", "'2008-02-20 10:11:12'",
         "DATE '2000-01-01'", "TIMESTAMP '2024-06-15 23:59:59'", "20240305", "'24-3-5'", "'abc'", "NULL"]
TIMES = ["'00:00:00'", "'10:11:12'", "'23:59:59'", "'-01:30:00'", "'100:00:00'", "'1 02:03:04'", "101112", "NULL"]
UNITS = ["MICROSECOND", "SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR"]
COMPOUND = [("'1.5'", "SECOND_MICROSECOND"), ("'1:1.5'", "MINUTE_MICROSECOND"), ("'2:30'", "MINUTE_SECOND"),
            ("'1:2:3.5'", "HOUR_MICROSECOND"), ("'1:2:3'", "HOUR_SECOND"), ("'1:30'", "HOUR_MINUTE"),
            ("'1 2:3:4.5'", "DAY_MICROSECOND"), ("'1 2:3:4'", "DAY_SECOND"), ("'1 2:3'", "DAY_MINUTE"),
            ("'1 2'", "DAY_HOUR"), ("'1-2'", "YEAR_MONTH"), ("'-1 2'", "DAY_HOUR"), ("'-1-2'", "YEAR_MONTH")]
PATTERNS = ["^a", "b", "l+", "[0-9]+", "o W", "z$", "."]


def crossed(template, *lists):
    return [template.format(*values) for values in itertools.product(*lists)]


def numeric():
    out = []
    for name in ["ABS", "CEIL", "CEILING", "FLOOR", "ROUND", "SIGN", "BIT_COUNT", "CRC32"]:
        out += crossed(name + "({})", [n for n in NUMBERS if not (name == "BIT_COUNT" and "abc" in n)])
    out += crossed("ROUND({}, {})", NUMBERS, ["0", "1", "2", "-1", "-2", "NULL"])
    out += crossed("TRUNCATE({}, {})", NUMBERS, ["0", "1", "2", "-1", "-2", "NULL"])
    for name in ["SQRT", "EXP", "LN", "LOG2", "LOG10", "SIN", "COS", "ATAN", "RADIANS", "DEGREES"]:
        out += crossed("ROUND(" + name + "({}), 6)", ["0", "1", "2", "0.5", "-1", "'4'", "NULL"])
    out += crossed("ROUND(POW({}, {}), 6)", ["0", "2", "-2", "1.5", "NULL"], ["0", "2", "3", "0.5"])
    out += crossed("ROUND(LOG({}, {}), 6)", ["2", "10", "0", "1", "NULL"], ["8", "100", "0", "-1"])
    out += crossed("ROUND(ATAN2({}, {}), 6)", ["0", "1", "-1"], ["1", "-1", "NULL"])
    out += crossed("{} {} {}", ["7", "-7", "7.5", "-7.25", "'9'", "NULL", "0"], ["+", "-", "*", "/", "DIV", "%", "MOD"],
                   ["2", "-3", "0", "1.5", "'4'", "NULL"])
    out += crossed("MOD({}, {})", ["29", "-29", "34.5", "NULL", "'11'"], ["9", "3", "0", "2.5", "-4"])
    out += crossed("{} / {}", ["1", "2", "10", "100.50", "1e0", "22"], ["3", "7", "0.3", "6.25", "1e1"])
    out += crossed("CONV({}, {}, {})", ["'a'", "'6E'", "10", "-17", "'ff'", "NULL"], ["10", "16", "18"], ["2", "16", "-18"])
    out += crossed("{} {} {}", ["5", "255", "-1", "0", "NULL"], ["&", "|", "^", "<<", ">>"], ["3", "1", "64", "0"])
    out += crossed("~{}", ["0", "5", "-1", "NULL"])
    out += crossed("-({})", ["5", "-2.5", "'12'", "NULL", "1e2"])
    out += ["PI()", "ROUND(COT(1), 6)", "ROUND(ACOS(0.5), 6)", "ROUND(ASIN(0.5), 6)", "ACOS(2)", "ROUND(TAN(1), 6)"]
    out += crossed("FORMAT({}, {})", ["12332.123456", "12332.1", "12332.2", "-1234567.891", "0", "999.995", "NULL", "1e6"],
                   ["0", "2", "4"])
    out += crossed("HEX({})", ["255", "0", "'abc'", "'Grüße'", "-1", "NULL"])
    out += crossed("BIN({})", ["12", "0", "-1", "NULL", "'7'"])
    out += crossed("OCT({})", ["12", "0", "NULL", "'8'"])
    return out


def string():
    out = []
    for name in ["ASCII", "BIT_LENGTH", "CHAR_LENGTH", "CHARACTER_LENGTH", "LENGTH", "OCTET_LENGTH", "LCASE", "LOWER",
                 "UCASE", "UPPER", "LTRIM", "RTRIM", "TRIM", "REVERSE", "ORD", "QUOTE", "TO_BASE64", "HEX", "MD5",
                 "SHA1", "SOUNDEX"]:
        texts = [t for t in TEXTS if not (name == "SOUNDEX" and t in ("'Grüße'", "'世界'"))]
        out += crossed(name + "({})", texts)
    out += crossed("LEFT({}, {})", TEXTS, ["2", "0", "-1", "100", "NULL"])
    out += crossed("RIGHT({}, {})", TEXTS, ["2", "0", "-1", "100", "NULL"])
    out += crossed("SUBSTRING({}, {})", TEXTS, ["1", "3", "-2", "0", "100", "NULL"])
    out += crossed("SUBSTRING({}, {}, {})", ["'Hello World'", "'Grüße'", "''", "NULL"], ["1", "2", "-3", "0"], ["0", "1", "4", "-1", "100", "NULL"])
    out += crossed("SUBSTR({} FROM {} FOR {})", ["'abcdef'", "'世界'"], ["1", "2", "-1"], ["1", "3"])
    out += crossed("MID({}, 2, 3)", TEXTS)
    out += crossed("LPAD({}, {}, {})", ["'hi'", "''", "'Grüße'", "NULL", "5"], ["1", "4", "7", "0", "NULL"], ["'?'", "'xy'", "NULL"])
    out += crossed("RPAD({}, {}, {})", ["'hi'", "''", "'Grüße'", "NULL", "5"], ["1", "4", "7", "0", "NULL"], ["'?'", "'xy'", "NULL"])
    out += crossed("REPEAT({}, {})", ["'ab'", "''", "NULL", "7"], ["0", "1", "3", "-1", "NULL"])
    out += crossed("REPLACE({}, {}, {})", ["'www.mysql.com'", "''", "NULL", "'aaa'"], ["'w'", "'aa'", "''", "NULL"], ["'Ww'", "''"])
    out += crossed("CONCAT({}, {})", TEXTS, ["'x'", "NULL", "5"])
    out += crossed("CONCAT_WS({}, {}, {}, 'z')", ["','", "''", "NULL"], ["'a'", "NULL", "1"], ["'b'", "NULL", "2.50"])
    out += crossed("INSTR({}, {})", ["'foobarbar'", "'Grüße'", "''", "NULL"], ["'bar'", "'ß'", "''", "'xyz'", "NULL"])
    out += crossed("LOCATE({}, {}, {})", ["'bar'", "''", "NULL"], ["'foobarbar'", "'bar'", "NULL"], ["1", "5", "0", "100"])
    out += crossed("LOCATE({}, {})", ["'a'", "'b'", "''"], TEXTS)
    out += crossed("POSITION({} IN {})", ["'l'", "'World'"], ["'Hello World'", "''", "NULL"])
    out += crossed("SUBSTRING_INDEX({}, {}, {})", ["'www.mysql.com'", "''", "NULL"], ["'.'", "'mysql'", "''", "'x'"], ["1", "2", "-1", "-2", "0", "100"])
    out += crossed("INSERT({}, {}, {}, {})", ["'Quadratic'", "'Grüße'"], ["3", "-1", "1", "100"], ["4", "100", "0", "-1"], ["'What'"])
    out += crossed("ELT({}, 'Aa', 'Bb', NULL, 'Dd')", ["1", "2", "3", "4", "5", "0", "-1", "NULL"])
    out += crossed("FIELD({}, 'Aa', 'Bb', 'Cc')", ["'Bb'", "'Gg'", "'Cc'", "NULL", "''"])
    out += crossed("FIELD({}, 1, 2, 3)", ["2", "9", "3.0", "NULL"])
    out += crossed("FIND_IN_SET({}, {})", ["'b'", "'a'", "''", "NULL", "'x'"], ["'a,b,c,d'", "''", "'a'", "NULL"])
    out += crossed("STRCMP({}, {})", ["'a'", "'b'", "''", "NULL"], ["'a'", "'abc'", "''", "NULL"])
    out += crossed("TRIM({} {} FROM {})", ["LEADING", "TRAILING", "BOTH"], ["'x'", "'xy'", "' '"], ["'xxbarxx'", "'xyxybarxy'", "' a '", "''"])
    out += crossed("MAKE_SET({}, 'a', 'b', NULL, 'c')", ["1", "3", "5", "0", "15", "NULL"])
    out += crossed("EXPORT_SET({}, 'Y', 'N', {}, {})", ["5", "6", "0"], ["','", "''"], ["4", "10"])
    out += crossed("CHAR({})", ["77", "77, 121, 83", "77.3, '77'", "65, NULL, 66"])
    out += crossed("FROM_BASE64({})", ["'YWJj'", "''", "'not base64!'", "NULL"])
    out += crossed("UNHEX({})", ["'4D7953514C'", "'616263'", "''", "'GG'", "NULL"])
    out += crossed("SPACE({})", ["0", "3", "-1", "NULL"])
    out += crossed("{} LIKE {}", ["'abc'", "'ABC'", "''", "'100%'", "'a_c'", "NULL", "123"],
                   ["'a%'", "'_b_'", "'%'", "''", "'%\\\\%'", "'1%'", "'a\\\\_c'", "NULL"])
    out += crossed("{} NOT LIKE {}", ["'abc'", "NULL"], ["'a%'", "'x%'"])
    out += crossed("'a%c' LIKE {} ESCAPE '|'", ["'a|%c'", "'a|_c'", "'a%'"])
    out += crossed("SHA2({}, {})", ["'abc'", "''", "NULL"], ["0", "224", "256", "384", "512", "100"])
    out += ["'a' 'b'", "CHAR_LENGTH(SPACE(10))", "LOWER(UPPER('xYz'))", "CONCAT('a')", "UPPER(NULL)"]
    out += crossed("{} || {}", ["1", "0", "NULL"], ["1", "0", "NULL"])
    return out


def regexp():
    out = []
    texts = ["'abc'", "'Hello World'", "''", "'x1y22z'", "NULL"]
    out += crossed("{} REGEXP '{}'", texts, PATTERNS)
    out += crossed("{} NOT REGEXP '{}'", texts, PATTERNS[:3])
    out += crossed("{} RLIKE '{}'", texts, PATTERNS[:3])
    out += crossed("REGEXP_REPLACE({}, '{}', '#')", texts, PATTERNS)
    out += crossed("REGEXP_SUBSTR({}, '{}')", ["'abc'", "'Hello World'", "'x1y22z'"], ["b", "l+", "[0-9]+"])
    out += crossed("REGEXP_INSTR({}, '{}')", texts, PATTERNS)
    return out


def datetime():
    out = []
    for name in ["DATE", "DAY", "DAYOFMONTH", "DAYNAME", "DAYOFWEEK", "DAYOFYEAR", "LAST_DAY", "MONTH", "MONTHNAME",
                 "QUARTER", "TO_DAYS", "WEEK", "WEEKDAY", "WEEKOFYEAR", "YEAR", "YEARWEEK", "TO_SECONDS"]:
        out += crossed(name + "({})", DATES)
    for name in ["HOUR", "MINUTE", "SECOND", "MICROSECOND", "TIME_TO_SEC", "TIME"]:
        out += crossed(name + "({})", TIMES + ["'2024-02-29 12:34:56'"])
    out += crossed("WEEK({}, {})", ["'2008-02-20'", "'2024-01-01'", "'2023-12-31'", "'2000-01-01'", "'2008-12-31'", "'2010-01-03'"],
                   ["0", "1", "2", "3", "4", "5", "6", "7"])
    out += crossed("YEARWEEK({}, {})", ["'1987-01-01'", "'2024-12-30'", "'2023-01-01'"], ["0", "1", "2", "3", "5", "6"])
    for letter in "abcDdefHhIijklMmprSsTUuVvWwXxYy%":
        out += crossed("DATE_FORMAT({}, '%" + letter + "')", ["'2009-10-04 22:23:00'", "'2024-01-01'", "'1999-12-31 00:05:09'"])
    out += crossed("DATE_FORMAT({}, '{}')", DATES, ["%W %M %Y", "%Y-%m-%d %H:%i:%s", "%D %b %y", "x%%y", "no letters", ""])
    out += crossed("TIME_FORMAT({}, '{}')", ["'10:11:12'", "'23:00:00'", "'100:00:00'"], ["%H %k %h %I %l", "%i:%s", "%r", "%T", "%p"])
    out += [f"STR_TO_DATE({a}, {b})" for a, b in [
        ("'01,5,2013'", "'%d,%m,%Y'"), ("'May 1, 2013'", "'%M %d,%Y'"), ("'a09:30:17'", "'a%h:%i:%s'"),
        ("'09:30:17'", "'%h:%i:%s'"), ("'2024-02-30'", "'%Y-%m-%d'"), ("'abc'", "'%Y'"), ("NULL", "'%Y-%m-%d'"),
        ("'31/12/99'", "'%d/%m/%y'"), ("'Dec 25 2020 03:04:05 PM'", "'%b %d %Y %h:%i:%s %p'"),
        ("'20240305101112'", "'%Y%m%d%H%i%s'"), ("'200442 Monday'", "'%X%V %W'"), ("'12:00:00 AM'", "'%r'"),
        ("'23:59:59'", "'%T'"), ("'2024-060'", "'%Y-%j'"), ("'13:00:00'", "'%h:%i:%s'"),
        ("'2024-02-29 10:11:12'", "'%Y-%m-%d %H:%i:%s'")]]
    for unit in UNITS:
        out += crossed("DATE_ADD({}, INTERVAL {} " + unit + ")",
                       ["'2024-01-31'", "'2024-02-29 10:11:12'", "DATE '2023-12-31'", "'abc'", "NULL"], ["1", "-1", "0", "13", "NULL"])
        out += crossed("DATE_SUB({}, INTERVAL {} " + unit + ")", ["'2024-03-31'", "TIMESTAMP '2000-01-01 00:00:00'"], ["1", "5"])
        out += crossed("TIMESTAMPDIFF(" + unit + ", {}, {})",
                       ["'2003-02-01'", "'2024-02-29 12:00:00'", "NULL"], ["'2003-05-01'", "'2025-02-28 11:59:59'", "'1999-12-31'"])
        out += crossed("TIMESTAMPADD(" + unit + ", {}, {})", ["1", "-2"], ["'2003-01-02'", "'2024-01-31 23:59:59'"])
        out += crossed("EXTRACT(" + unit + " FROM {})", ["'2019-07-02 01:02:03'", "TIMESTAMP '2024-12-31 23:59:59'", "NULL"])
    for value, unit in COMPOUND:
        out += crossed("DATE_ADD({}, INTERVAL " + value + " " + unit + ")", ["'2024-01-31 10:00:00'", "TIMESTAMP '1999-12-31 23:59:59'"])
        out += crossed("{} - INTERVAL " + value + " " + unit, ["TIMESTAMP '2024-01-31 10:00:00'"])
        if "MICRO" not in unit:
            out += crossed("EXTRACT(" + unit + " FROM {})", ["'2019-07-02 01:02:03'", "TIMESTAMP '2024-12-31 23:59:59'"])
    out += crossed("{} + INTERVAL 1 DAY", ["DATE '2024-02-28'", "TIMESTAMP '2024-02-28 10:00:00'", "'2024-02-28'"])
    out += crossed("INTERVAL 2 MONTH + {}", ["DATE '2024-12-31'", "'2024-12-31 10:00:00'"])
    out += crossed("ADDDATE({}, {})", ["'2008-01-02'", "DATE '2024-02-28'", "NULL"], ["31", "1", "-1", "INTERVAL 1 YEAR"])
    out += crossed("SUBDATE({}, {})", ["'2008-01-02'", "TIMESTAMP '2024-03-01 12:00:00'"], ["31", "1", "INTERVAL 1 MONTH"])
    out += crossed("DATEDIFF({}, {})", DATES[:6] + ["NULL"], ["'2024-01-01'", "'2023-12-31 23:59:59'", "'abc'"])
    out += crossed("TIMEDIFF({}, {})", ["'2000-01-01 00:00:00'", "'10:00:00'", "NULL"], ["'2000-01-01 00:00:01'", "'09:59:59'"])
    out += crossed("ADDTIME({}, {})", ["'2007-12-31 23:59:59'", "'01:00:00'", "NULL"], ["'1 1:1:1'", "'02:00:00'", "'-00:30:00'"])
    out += crossed("SUBTIME({}, {})", ["'2007-12-31 23:59:59'", "'01:00:00'"], ["'1 1:1:1'", "'00:30:00'"])
    out += crossed("MAKEDATE({}, {})", ["2011", "2024", "24", "NULL"], ["31", "366", "0", "1"])
    out += crossed("MAKETIME({}, {}, {})", ["12", "-5", "100"], ["15", "59", "60"], ["30", "0", "60"])
    out += crossed("PERIOD_ADD({}, {})", ["200801", "9912", "202412"], ["2", "-13", "0"])
    out += crossed("PERIOD_DIFF({}, {})", ["200802", "9912"], ["200703", "202401"])
    out += crossed("FROM_DAYS({})", ["730669", "719528", "366", "NULL"])
    out += crossed("SEC_TO_TIME({})", ["2378", "0", "-5", "86400", "NULL", "3599"])
    out += crossed("UNIX_TIMESTAMP({})", ["'2015-11-13 10:20:19'", "'1970-01-01 00:00:00'", "DATE '2024-02-29'", "NULL", "'1969-12-31'"])
    out += crossed("FROM_UNIXTIME({})", ["0", "1447430881", "NULL", "-1"])
    out += crossed("FROM_UNIXTIME({}, '%Y %D %M %h:%i:%s %x')", ["0", "1447430881"])
    out += crossed("CONVERT_TZ('2004-01-01 12:00:00', '{}', '{}')", ["+00:00", "-05:30"], ["+10:00", "-08:00", "bad"])
    out += crossed("GET_FORMAT({}, '{}')", ["DATE", "TIME", "DATETIME"], ["USA", "JIS", "ISO", "EUR", "INTERNAL"])
    out += crossed("TIMESTAMP({})", ["'2003-12-31'", "'2003-12-31 12:00:00'", "NULL"])
    out += crossed("TIMESTAMP({}, {})", ["'2003-12-31 12:00:00'", "'2003-12-31'"], ["'12:00:00'", "'-01:00:00'"])
    return out


def comparison():
    values = ["1", "0", "-1", "1.0", "1.5", "'1'", "'a'", "'1.0'", "''", "NULL", "1e0", "TRUE"]
    out = []
    out += crossed("{} = {}", values, values)
    out += crossed("{} <=> {}", values, ["1", "'1'", "NULL", "'a'"])
    out += crossed("{} {} {}", ["1", "2", "'10'", "'9'", "NULL", "1.5"], ["<", "<=", ">", ">=", "<>", "!="], ["1", "'9'", "1.5", "NULL"])
    out += crossed("{} {} {}", ["DATE '2024-01-02'", "'2024-01-02'", "TIMESTAMP '2024-01-02 00:00:00'"], ["=", "<", ">"],
                   ["DATE '2024-01-02'", "'2024-01-03'", "'2024-1-2'", "20240102", "TIMESTAMP '2024-01-01 12:00:00'"])
    out += crossed("{} BETWEEN {} AND {}", ["5", "'5'", "5.5", "NULL"], ["1", "'6'", "NULL"], ["9", "'9'"])
    out += crossed("{} NOT BETWEEN 2 AND 4", ["1", "3", "NULL"])
    out += crossed("{} IN ({}, {})", ["1", "'1'", "2.0", "NULL", "'a'"], ["1", "'1'", "NULL"], ["2", "'a'"])
    out += crossed("{} NOT IN (1, 2)", ["1", "3", "NULL", "'2'"])
    out += crossed("GREATEST({}, {}, {})", ["1", "2.5", "NULL"], ["3", "0.5", "1e0"], ["2", "7.25"])
    out += crossed("LEAST({}, {}, {})", ["1", "2.5", "NULL"], ["3", "0.5", "1e0"], ["2", "7.25"])
    out += crossed("{}('b', {})", ["GREATEST", "LEAST"], ["'a'", "'c'", "NULL", "'B'"])
    out += crossed("{}(DATE '2024-01-02', {})", ["GREATEST", "LEAST"], ["DATE '2023-12-31'", "NULL"])
    out += crossed("INTERVAL({}, 1, 15, 17, 30)", ["23", "0", "1", "30", "99", "NULL"])
    out += crossed("COALESCE({}, {}, 3)", ["NULL", "1", "'a'"], ["NULL", "2"])
    out += crossed("IFNULL({}, {})", ["NULL", "1", "'a'", "2.5"], ["5", "'x'", "NULL"])
    out += crossed("NULLIF({}, {})", ["1", "'a'", "NULL"], ["1", "'a'", "2", "NULL"])
    out += crossed("IF({}, 'yes', 'no')", ["1", "0", "NULL", "'1'", "'a'", "0.5", "2 > 1", "'0'"])
    out += crossed("ISNULL({})", ["NULL", "1", "''", "1/0"])
    out += crossed("{} IS NULL", values)
    out += crossed("{} IS NOT NULL", values)
    out += crossed("{} {} {}", ["1", "0", "NULL", "'a'", "2.5", "'1'"], ["AND", "OR", "XOR", "&&"], ["1", "0", "NULL"])
    out += crossed("NOT {}", ["1", "0", "NULL", "'a'", "2.5"])
    out += crossed("!{}", ["1", "0", "NULL"])
    out += crossed("{} IS {}", ["1", "0", "NULL", "1 = 1"], ["TRUE", "FALSE", "NOT TRUE", "NOT FALSE", "UNKNOWN", "NOT UNKNOWN"])
    out += crossed("CASE {} WHEN 1 THEN 'one' WHEN 2 THEN 'two' ELSE 'more' END", ["1", "2", "'2'", "3", "NULL"])
    out += crossed("CASE WHEN {} THEN 'a' WHEN {} THEN 'b' END", ["1", "0", "NULL"], ["1", "0", "'x'"])
    out += crossed("(1, 2) = ({}, {})", ["1", "3"], ["2", "4"])
    return out


def casts():
    out = []
    values = ["0", "1", "-1", "2.5", "-2.5", "'12'", "'-7abc'", "'abc'", "''", "NULL", "1e3", "'1.5'", "TRUE", "'  42  '"]
    dates = ["'2024-02-29'", "'2024-02-30'", "'24-1-2'", "20240305", "'2024-02-29 10:11:12'", "'abc'", "NULL",
             "DATE '2024-01-01'", "TIMESTAMP '2024-01-01 10:20:30'"]
    out += crossed("CAST({} AS SIGNED)", values + ["DATE '2024-01-02'", "TIMESTAMP '2024-01-02 03:04:05'", "9223372036854775807"])
    out += crossed("CAST({} AS UNSIGNED)", ["0", "1", "'12'", "'abc'", "NULL", "18446744073709551615", "2.5"])
    out += crossed("CAST({} AS CHAR)", values + dates)
    out += crossed("CAST({} AS CHAR(2))", values)
    out += crossed("CAST({} AS DECIMAL(10, 2))", values)
    out += crossed("CAST({} AS DECIMAL)", ["1", "2.5", "'12.7'", "NULL", "'x'"])
    out += crossed("CAST({} AS DECIMAL(4, 1))", ["99999", "-99999", "12.34", "12.35", "'1e2'"])
    out += crossed("CAST({} AS DOUBLE)", values)
    out += crossed("CAST({} AS DATE)", dates)
    out += crossed("CAST({} AS DATETIME)", dates)
    out += crossed("CAST({} AS TIME)", TIMES + ["'2024-02-29 10:11:12'", "'abc'"])
    out += crossed("CONVERT({}, SIGNED)", values)
    out += crossed("CONVERT({}, CHAR)", values)
    out += crossed("CONVERT({}, DATE)", dates)
    out += crossed("CONVERT({} USING utf8mb4)", ["'abc'", "'Grüße'", "NULL"])
    out += crossed("{} + 0", ["'12'", "'abc'", "'1.5e1'", "NULL", "DATE '2024-01-02'", "TRUE", "'-3x'"])
    out += crossed("CONCAT({}, '')", ["1.50", "1e3", "0.1e0", "-0.5", "TRUE", "DATE '2024-01-02'", "1e20", "123456789.125e0"])
    out += crossed("'5' * {}", ["2", "'3'", "1.5", "NULL"])
    return out


def various():
    out = []
    out += crossed("INET_ATON({})", ["'10.0.5.9'", "'127.0.0.1'", "'bad'", "NULL", "'255.255.255.255'"])
    out += crossed("INET_NTOA({})", ["167773449", "0", "4294967295", "NULL"])
    out += crossed("IS_IPV4({})", ["'10.0.5.9'", "'256.1.1.1'", "''", "'a'"])
    out += crossed("IS_IPV6({})", ["'::1'", "'10.0.5.9'", "'fe80::1'", "'x'"])
    out += crossed("HEX(INET6_ATON({}))", ["'::1'", "'10.0.5.9'", "'bad'", "NULL"])
    out += crossed("INET6_NTOA(INET6_ATON({}))", ["'::1'", "'10.0.5.9'", "'fdfe::5a55:caff:fefa:9089'"])
    out += ["LENGTH(UUID())", "UUID() = UUID()", "RAND() BETWEEN 0 AND 1", "NOW() > '2020-01-01'", "CURDATE() = DATE(NOW())",
            "NAME_CONST('a', 14)", "CHAR_LENGTH(VERSION()) > 0", "DATABASE() IS NULL"]
    return out


def json():
    doc = "'{\"a\": 1, \"b\": [1, 2, {\"c\": \"x\"}]}'"
    array = "'[1, [2, 3], \"a\", null, true, 1.5]'"
    paths = ["$", "$.a", "$.b", "$.b[0]", "$.b[2].c", "$.x", "$.b[*]", "$[0]", "$[1][1]", "$.*"]
    out = []
    out += crossed("JSON_EXTRACT({}, '{}')", [doc, array, "NULL"], paths)
    out += crossed("JSON_UNQUOTE(JSON_EXTRACT({}, '{}'))", [doc, array], ["$.b[2].c", "$[2]", "$.a", "$[0]"])
    out += crossed("JSON_VALUE({}, '{}')", [doc, array], ["$.b[2].c", "$[2]", "$.a", "$[0]"])
    out += crossed("JSON_LENGTH({})", [doc, array, "'1'", "'[]'", "'{}'", "NULL"])
    out += crossed("JSON_LENGTH({}, '{}')", [doc, array], paths[:6])
    out += crossed("JSON_DEPTH({})", [doc, array, "'1'", "'[]'", "'[[1]]'"])
    out += crossed("JSON_TYPE({})", ["'1'", "'1.5'", "'\"a\"'", "'[]'", "'{}'", "'true'", "'null'", "NULL"])
    out += crossed("JSON_VALID({})", ["'1'", "'{'", "'[1]'", "'abc'", "'\"abc\"'", "NULL"])
    out += crossed("JSON_KEYS({})", [doc, "'[]'", "'{}'"])
    out += crossed("JSON_CONTAINS({}, '{}')", [doc, array], ["1", "[2, 3]", "{\"a\": 1}", "\"a\""])
    out += crossed("JSON_CONTAINS({}, '{}', '{}')", [doc], ["1", "2"], ["$.a", "$.b"])
    out += crossed("JSON_CONTAINS_PATH({}, '{}', '$.a', '$.e')", [doc], ["one", "all"])
    out += crossed("JSON_SET({}, '{}', 9)", [doc, array], ["$.a", "$.z", "$.b[0]", "$[1]"])
    out += crossed("JSON_INSERT({}, '{}', 9)", [doc, array], ["$.a", "$.z", "$.b[0]", "$[1]"])
    out += crossed("JSON_REPLACE({}, '{}', 9)", [doc, array], ["$.a", "$.z", "$.b[0]", "$[1]"])
    out += crossed("JSON_REMOVE({}, '{}')", [doc, array], ["$.a", "$.z", "$.b[0]", "$[1]"])
    out += crossed("JSON_ARRAY_APPEND({}, '{}', 9)", [doc, array], ["$.b", "$[1]"])
    out += crossed("JSON_ARRAY_INSERT({}, '{}', 9)", [array], ["$[0]", "$[1]", "$[9]"])
    out += crossed("JSON_MERGE_PATCH({}, {})", ["'{\"a\": 1, \"b\": 2}'", "'[1, 2]'"], ["'{\"a\": 3}'", "'{\"b\": null}'", "'true'"])
    out += crossed("JSON_MERGE_PRESERVE({}, {})", ["'{\"a\": 1}'", "'[1, 2]'", "'1'"], ["'{\"b\": 3}'", "'[true]'", "'2'"])
    out += crossed("JSON_QUOTE({})", ["'null'", "'\"null\"'", "'[1, 2]'", "NULL"])
    out += crossed("JSON_UNQUOTE({})", ["'\"abc\"'", "'[1, 2]'", "'abc'", "NULL"])
    out += ["JSON_ARRAY()", "JSON_ARRAY(1, 'abc', NULL)", "JSON_OBJECT()", "JSON_OBJECT('a', 1, 'b', 'x')",
            "JSON_ARRAY(JSON_ARRAY(1), JSON_OBJECT('a', 1))", "JSON_OBJECT('k', JSON_ARRAY(1, 2))",
            "JSON_SEARCH('[\"abc\", {\"x\": \"abc\"}]', 'one', 'abc')", "JSON_SEARCH('[\"abc\", {\"x\": \"abc\"}]', 'all', 'abc')",
            "JSON_SEARCH('[\"abc\"]', 'one', 'x')"]
    return out


FACTS = """id k g v d amt day ts ok""".split()


def columns():
    """Expressions over the columns of `facts`, which workers compute."""
    number, text, date = ["k", "v", "d", "amt"], ["g"], ["day", "ts"]
    out = []
    for name in ["ABS", "CEIL", "FLOOR", "ROUND", "SIGN"]:
        out += crossed(name + "({})", number)
    out += crossed("ROUND({}, {})", ["d", "amt", "v"], ["0", "1", "-1"])
    out += crossed("TRUNCATE({}, 1)", ["d", "amt", "v"])
    out += crossed("{} {} {}", ["k", "v", "amt"], ["+", "-", "*", "/", "DIV", "%"], ["k", "3", "v"])
    out += crossed("{} {} {}", ["k", "id"], ["&", "|", "^", "<<", ">>"], ["3", "k"])
    for name in ["UPPER", "LENGTH", "HEX", "ASCII", "REVERSE", "MD5", "CHAR_LENGTH", "TO_BASE64", "CRC32"]:
        out += crossed(name + "({})", text + ["id"])
    out += crossed("CONCAT({}, '-', {})", ["g", "id", "amt"], ["k", "v", "day"])
    out += crossed("CONCAT_WS('/', {}, {}, {})", ["g", "k"], ["v", "day"], ["g", "id"])
    out += crossed("LPAD({}, {}, '0')", ["id", "g", "v"], ["4", "k"])
    out += crossed("REPEAT(g, {})", ["k", "3"])
    out += crossed("SUBSTRING(CONCAT(g, id), {}, {})", ["1", "2", "k"], ["1", "2"])
    out += crossed("{}(CONCAT(g, id), {})", ["LEFT", "RIGHT"], ["1", "2", "k"])
    out += crossed("ELT({}, 'a', 'b', 'c')", ["k", "id"])
    out += crossed("FIELD(g, {})", ["'a', 'b'", "'c', g"])
    out += crossed("FIND_IN_SET(g, 'a,c,e')", [""])
    out += crossed("REPLACE(g, 'a', {})", ["'xx'", "id"])
    out += crossed("LOCATE('1', {})", ["id", "amt"])
    out += crossed("SUBSTRING_INDEX(amt, '.', {})", ["1", "-1"])
    out += crossed("FORMAT({}, {})", ["amt", "v"], ["0", "1"])
    out += crossed("CONV({}, 10, 16)", ["id", "k"])
    out += crossed("g {} '{}'", ["LIKE", "NOT LIKE", "REGEXP"], ["a", "b", "c"])
    for name in ["YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "DAYNAME", "DAYOFWEEK", "DAYOFYEAR", "LAST_DAY", "TO_DAYS", "DATE", "YEARWEEK"]:
        out += crossed(name + "({})", date)
    for name in ["HOUR", "MINUTE", "SECOND", "TIME"]:
        out += crossed(name + "({})", ["ts"])
    out += crossed("DATE_FORMAT({}, '{}')", date, ["%Y-%m", "%W %D", "%j %u"])
    for unit in ["SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR"]:
        out += crossed("DATE_ADD({}, INTERVAL {} " + unit + ")", date, ["1", "k"])
        out += crossed("{} - INTERVAL v " + unit, date)
        out += crossed("TIMESTAMPDIFF(" + unit + ", {}, {})", ["day"], ["ts", "'2024-03-01'"])
    out += crossed("DATEDIFF({}, {})", date, ["'2024-01-15'", "day"])
    out += crossed("STR_TO_DATE(CONCAT(id + 1, '-01-2024'), '%d-%m-%Y')", [""])
    out += crossed("ADDDATE(day, {})", ["k", "v"])
    out += crossed("EXTRACT({} FROM ts)", ["DAY_HOUR", "HOUR_MINUTE", "YEAR_MONTH"])
    out += crossed("{} = {}", ["k", "v", "g", "amt", "id"], ["'3'", "3", "'a'", "k"])
    out += crossed("day {} {}", ["=", "<", ">="], ["'2024-01-03'", "'2024-1-3'", "20240103"])
    out += crossed("ts {} {}", ["<", ">="], ["'2024-01-01 03:00:00'", "day"])
    out += crossed("k IN ({})", ["'1', 2", "1, NULL", "'a', '3'"])
    out += crossed("g IN ({})", ["'a', 'b'", "'c', NULL"])
    out += crossed("k BETWEEN {} AND {}", ["2", "'2'"], ["5", "'5'"])
    out += crossed("GREATEST({}, {})", ["k", "amt", "d"], ["3", "v", "d"])
    out += crossed("LEAST({}, {})", ["k", "amt", "d"], ["3", "v", "d"])
    out += crossed("COALESCE({}, {})", ["k", "v"], ["id", "-1"])
    out += crossed("IFNULL({}, {})", ["k", "g"], ["id", "'none'"])
    out += crossed("NULLIF({}, {})", ["k", "g"], ["3", "'a'"])
    out += crossed("IF({}, 'yes', 'no')", ["k > 3", "ok", "v", "g = 'a'"])
    out += crossed("{} AND {}", ["ok", "k"], ["v", "ok"])
    out += crossed("NOT {}", ["ok", "k", "v"])
    out += crossed("CASE {} WHEN 1 THEN 'one' WHEN 2 THEN 'two' ELSE 'more' END", ["k", "id"])
    out += crossed("CAST({} AS {})", ["k", "v", "d", "amt", "g", "day", "ts"], ["SIGNED", "CHAR", "DECIMAL(12, 1)", "DOUBLE"])
    out += crossed("CAST({} AS {})", ["day", "ts", "g", "id + 20240101"], ["DATE", "DATETIME"])
    out += crossed("JSON_OBJECT('k', {}, 'id', id)", ["k", "g"])
    out += crossed("JSON_EXTRACT(JSON_ARRAY(id, k, g), '$[{}]')", ["0", "1", "2"])
    out += crossed("INTERVAL({}, 1, 3, 5)", ["k", "v"])
    return out


AGGREGATES = ["COUNT(*)", "COUNT({0})", "COUNT(DISTINCT {0})", "SUM({0})", "AVG({0})", "MIN({0})", "MAX({0})",
              "ROUND(STD({0}), 6)", "ROUND(STDDEV_SAMP({0}), 6)", "ROUND(VAR_POP({0}), 4)", "ROUND(VARIANCE({0}), 4)", "SUM(DISTINCT {0})",
              "AVG(DISTINCT {0})"]


def aggregates():
    """Whole queries over `facts` whose order is decided."""
    out = []
    for aggregate in AGGREGATES:
        for column in ["k", "v", "amt", "d"]:
            out.append(f"SELECT {aggregate.format(column)} FROM facts")
            out.append(f"SELECT g, {aggregate.format(column)} FROM facts GROUP BY g ORDER BY g")
    for aggregate in ["BIT_AND({})", "BIT_OR({})", "BIT_XOR({})"]:
        out.append(f"SELECT {aggregate.format('k')} FROM facts")
        out.append(f"SELECT g, {aggregate.format('id')} FROM facts GROUP BY g ORDER BY g")
        out.append(f"SELECT {aggregate.format('k')} FROM facts WHERE id < 0")
    for column, order in [("k", "k"), ("id", "id DESC"), ("g", "g"), ("v", "v DESC"), ("day", "day")]:
        out.append(f"SELECT GROUP_CONCAT({column} ORDER BY {order}) FROM facts WHERE id < 20")
        out.append(f"SELECT GROUP_CONCAT(DISTINCT {column} ORDER BY {order}) FROM facts WHERE id < 30")
        out.append(f"SELECT GROUP_CONCAT({column} ORDER BY {order} SEPARATOR '; ') FROM facts WHERE id < 10")
    out.append("SELECT g, GROUP_CONCAT(id ORDER BY id SEPARATOR '') FROM facts WHERE id < 40 GROUP BY g ORDER BY g")
    out.append("SELECT GROUP_CONCAT(g, ':', id ORDER BY id) FROM facts WHERE id < 12")
    for condition in ["k > 5", "g = 'a'", "v < 0", "ok", "day >= '2024-02-01'", "g IS NULL", "NOT ok", "k", "amt > '500'", "ts < '2024-01-02'",
                      "k IN ('1', '2')", "g LIKE 'a%'", "k = '3'", "id % 7", "LENGTH(g) = 1", "MONTH(day) = 2", "v BETWEEN '-5' AND 5"]:
        out.append(f"SELECT COUNT(*), MIN(id), MAX(id) FROM facts WHERE {condition}")
        out.append(f"SELECT SUM({condition}) FROM facts")
        out.append(f"SELECT id FROM facts WHERE {condition} ORDER BY id LIMIT 3")
        out.append(f"SELECT id FROM facts WHERE {condition} ORDER BY id DESC LIMIT 2, 3")
    for key in ["k", "g", "k % 3", "MONTH(day)", "v > 0", "id DIV 50"]:
        out.append(f"SELECT {key} AS x, COUNT(*) AS n FROM facts GROUP BY x ORDER BY x")
        out.append(f"SELECT {key} AS x, COUNT(*) AS n FROM facts GROUP BY 1 ORDER BY 2 DESC, 1")
        out.append(f"SELECT {key} AS x, SUM(id) AS n FROM facts GROUP BY x HAVING n > 3000 ORDER BY x")
        out.append(f"SELECT DISTINCT {key} AS x FROM facts ORDER BY x DESC")
        out.append(f"SELECT x, n FROM (SELECT {key} AS x, COUNT(*) AS n FROM facts GROUP BY {key} WITH ROLLUP HAVING COUNT(*) > 100) AS r ORDER BY n, x")
    for function in ["ROW_NUMBER()", "RANK()", "DENSE_RANK()", "LAG(id)", "LEAD(id)", "FIRST_VALUE(id)", "NTILE(3)",
                     "SUM(id)", "COUNT(*)", "AVG(id)", "MIN(v)", "MAX(v)", "LAST_VALUE(id)",
                     "NTH_VALUE(id, 2)"]:
        for over in ["ORDER BY id", "PARTITION BY g ORDER BY id", "PARTITION BY k ORDER BY id DESC"]:
            out.append(f"SELECT id, {function} OVER ({over}) FROM facts WHERE id < 12 ORDER BY id")
    for join in ["JOIN", "LEFT JOIN", "RIGHT JOIN"]:
        for on in ["f.k = e.k", "f.k = e.k AND f.g = e.g", "f.id = e.v"]:
            out.append(f"SELECT COUNT(*), SUM(f.id), SUM(e.id) FROM facts f {join} facts e ON {on} WHERE f.id < 50 OR f.id IS NULL")
    for query in ["SELECT COUNT(*) FROM facts WHERE k IN (SELECT v FROM facts WHERE v > 0)",
                  "SELECT COUNT(*) FROM facts f WHERE EXISTS (SELECT 1 FROM facts e WHERE e.k = f.v)",
                  "SELECT id, (SELECT COUNT(*) FROM facts e WHERE e.k = f.k) FROM facts f WHERE id < 8 ORDER BY id",
                  "SELECT COUNT(*) FROM (SELECT k FROM facts UNION SELECT v FROM facts) AS u",
                  "SELECT COUNT(*) FROM (SELECT k FROM facts UNION ALL SELECT v FROM facts) AS u",
                  "SELECT id FROM facts WHERE v = (SELECT MAX(v) FROM facts) ORDER BY id",
                  "WITH a AS (SELECT k, COUNT(*) AS n FROM facts GROUP BY k) SELECT k, n FROM a WHERE n > 20 ORDER BY k",
                  "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT i FROM n ORDER BY i",
                  "SELECT COUNT(DISTINCT k, g) FROM facts", "SELECT COUNT(DISTINCT k, v, g) FROM facts",
                  "SELECT k FROM facts WHERE id < 15 ORDER BY k", "SELECT k FROM facts WHERE id < 15 ORDER BY k DESC",
                  "SELECT id FROM facts ORDER BY -id LIMIT 3", "SELECT id FROM facts ORDER BY g, id LIMIT 5, 5",
                  "SELECT g, k FROM facts WHERE id < 9 ORDER BY g DESC, k, id", "SELECT 1 FROM DUAL", "SELECT /*!40101 1 */ + 1",
                  "SELECT `id` FROM `facts` WHERE `id` = 7", "SELECT ID FROM facts WHERE Id = 7", "SELECT \"text\"",
                  "SELECT COUNT(*) FROM facts WHERE 1", "SELECT COUNT(*) FROM facts WHERE 0", "SELECT COUNT(*) FROM facts WHERE NULL",
                  "SELECT COUNT(*) FROM facts WHERE 'a'", "SELECT COUNT(*) FROM facts WHERE '1'"]:
        out.append(query)
    return out


CHAPTERS = {
    "numeric": numeric, "string": string, "regexp": regexp, "datetime": datetime, "comparison": comparison,
    "casts": casts, "various": various, "json": json,
}
