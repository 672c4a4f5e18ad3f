"""Writes the suites `tests/suites/mysql_*.slt`: the expressions of `mysql_expressions.py` with MariaDB's answers.

    python mysql_suites.py <MariaDB's socket> [<a SheafDB's port>]

With the port it only prints where SheafDB answers otherwise. What is meant to differ stands in the table of
`website/docs/functions.md`, with SheafDB's answer, and is left out of the suites: `tests/it/mariadb.rs` holds SheafDB
to that table.
"""

import datetime
import decimal
import pathlib
import re
import sys

import pymysql
import pymysql.converters
import pymysql.constants.FIELD_TYPE as F

import mysql_expressions as expressions

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
INTEGERS = {F.TINY, F.SHORT, F.INT24, F.LONG, F.LONGLONG, F.YEAR}
FRACTIONS = {F.FLOAT, F.DOUBLE, F.DECIMAL, F.NEWDECIMAL}
SQL_MODE = "PIPES_AS_CONCAT,ONLY_FULL_GROUP_BY,ERROR_FOR_DIVISION_BY_ZERO"


def facts():
    """The rows of `tests/src/fixtures.rs::facts`."""
    def row(i):
        unless = lambda n, value: value if i % n else None
        rust_rem = lambda a, b: a - b * int(a / b)
        day = lambda n: datetime.date(2024, 1, 1) + datetime.timedelta(days=n)
        at = datetime.datetime(2024, 1, 1) + datetime.timedelta(minutes=i * 61)
        return (i, unless(11, i % 10), unless(7, chr(97 + i % 5)), unless(13, rust_rem(i * 37, 101) - 50), unless(17, i / 4),
                unless(19, decimal.Decimal(i * 7919 % 100_000) / 100), unless(23, day(i % 60)), unless(29, at),
                unless(5, int(i % 3 == 0)))
    return [row(i) for i in range(240)]


def text(value):
    """A cell as the suites' client shows it."""
    if value is None:
        return "NULL"
    try:
        value = value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        value = "".join(f"\\x{byte:02x}" for byte in value)
    return value or "(empty)"


def connect(**where):
    return pymysql.connect(user="root", charset="utf8mb4", conv=pymysql.converters.encoders, **where)


def ask(connection, sql):
    """Types and rows, or the error's number."""
    with connection.cursor() as cursor:
        try:
            cursor.execute(sql)
            rows = [[text(cell) for cell in row] for row in cursor.fetchall()]
        except pymysql.err.Error as error:
            return None, error.args[0]
        # A double that was rounded to so many digits is padded with zeros by MariaDB, and shown as short as it can be
        # by SheafDB.
        doubles = [idx for idx, t in enumerate(cursor.description or []) if t[1] == F.DOUBLE]
        for row in rows:
            for idx in doubles:
                if re.fullmatch(r"-?\d+\.\d*0", row[idx]):
                    row[idx] = row[idx].rstrip("0").rstrip(".")
        # SUM of whole numbers is a BIGINT here and a DECIMAL there; NULL alone has a type that tells nothing.
        sums = [idx for idx, t in enumerate(cursor.description or []) if "SUM(" in sql and t[1] == F.NEWDECIMAL]
        types = "".join("I" if t[1] in INTEGERS else "R" if t[1] in FRACTIONS else "T" for t in cursor.description or [])
        for idx in sums:
            if not any("." in row[idx] for row in rows):
                types = types[:idx] + "I" + types[idx + 1:]
        return types, rows


def prepare(connection):
    with connection.cursor() as cursor:
        cursor.execute("DROP DATABASE IF EXISTS suite")
        cursor.execute("CREATE DATABASE suite COLLATE utf8mb4_bin")
        cursor.execute("USE suite")
        cursor.execute("SET time_zone = '+00:00', SESSION group_concat_max_len = 100000, NAMES utf8mb4 COLLATE utf8mb4_bin")
        cursor.execute(f"SET sql_mode = '{SQL_MODE}'")
        cursor.execute("CREATE TABLE facts (id BIGINT, k BIGINT, g VARCHAR(10), v INT, d DOUBLE, amt DECIMAL(12, 2), day DATE, "
                       "ts DATETIME(6), ok BOOLEAN)")
        for row in facts():
            values = ", ".join("NULL" if cell is None else f"'{cell}'" for cell in row)
            cursor.execute(f"INSERT INTO facts VALUES ({values})")
    connection.commit()


def differences():
    """The statements of the table in the documentation."""
    page = ROOT / "website/docs/functions.md"
    rows = re.findall(r"^\| `` ?(.*?) ?`` \|", page.read_text(), re.M) if page.exists() else []
    return {"SELECT " + row.replace("\\|", "|") for row in rows}


def normal(rows):
    """Times and fractions without the zeros at their end, in which the two may differ by declared precision."""
    return [[re.sub(r"(:\d\d)\.000000$", r"\1", cell) for cell in row] for row in rows]


def is_null(rows):
    """Nothing but NULL: its type is a matter of taste."""
    return bool(rows) and all(cell == "NULL" for row in rows for cell in row)


def queries():
    """File, whether the order is the statement's, and the statement."""
    for chapter, make in expressions.CHAPTERS.items():
        for expression in dict.fromkeys(make()):
            yield chapter, f"SELECT {expression}"
    for expression in dict.fromkeys(expressions.columns()):
        yield "columns", f"SELECT id, {expression} FROM facts WHERE id < 12 ORDER BY id"
    for query in dict.fromkeys(expressions.aggregates()):
        yield "queries", query


def main():
    maria = connect(unix_socket=sys.argv[1])
    prepare(maria)
    known = differences()
    if len(sys.argv) > 2:
        sheaf = connect(host="127.0.0.1", port=int(sys.argv[2]), database="suite")
        ask(sheaf, f"SET sql_mode = '{SQL_MODE}'")
        n = n_wrong = 0
        for chapter, sql in queries():
            (types, rows), (own_types, own) = ask(maria, sql), ask(sheaf, sql)
            n += 1
            if types is None or own_types is None:
                is_equal = types is None and own_types is None
            else:
                is_equal = normal(rows) == normal(own) and (types == own_types or is_null(rows))
            if not is_equal and sql not in known:
                n_wrong += 1
                print(f"{chapter}\t{sql}\n\tMariaDB {types} {rows}\n\tSheafDB {own_types} {own}")
        print(f"{n} statements, {n_wrong} answered otherwise")
        return
    files, compared = {}, []
    for idx, (chapter, sql) in enumerate(queries()):
        types, rows = ask(maria, sql)
        # What `tests/it/mariadb.rs` asks anew in each run: a quarter of the expressions, those that fail too.
        if chapter in expressions.CHAPTERS and idx % 4 == 0:
            compared.append(sql.removeprefix("SELECT "))
        if types is None or sql in known or is_null(rows):
            continue
        lines = files.setdefault(chapter, [])
        lines.append(f"query {types}\n{sql}\n----\n" + "".join(" ".join(row) + "\n" for row in normal(rows)))
    for chapter, records in files.items():
        head = f"# {chapter}: answers of MariaDB, written by tests/python/mysql_suites.py. Not to be changed by hand.\n"
        head += "\nstatement ok\nSET sql_mode = '" + SQL_MODE + "'\n\n"
        (ROOT / f"tests/suites/mysql_{chapter}.slt").write_text(head + "\n".join(records))
        print(chapter, len(records))
    head = "# Written by tests/python/mysql_suites.py; asked of MariaDB and of SheafDB by tests/it/mariadb.rs.\n"
    (ROOT / "tests/it/mariadb/expressions.txt").write_text(head + "\n".join(compared) + "\n")


main()
