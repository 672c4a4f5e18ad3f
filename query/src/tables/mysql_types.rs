//! What MySQL calls the type of a column: for DESCRIBE, `information_schema.COLUMNS` and SHOW CREATE TABLE.

use arrow::datatypes::{DataType, TimeUnit};

/// The longest `varchar` that MySQL can declare in utf8mb4; stands for text without a limit, which has no length in
/// its name.
const TEXT_CHARACTERS: u64 = 16_383;
const BLOB_BYTES: u64 = u32::MAX as u64;

/// A type as `information_schema.COLUMNS` splits it up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MysqlType {
    /// `decimal`: lower case, without arguments.
    pub data_type: &'static str,
    /// `decimal(15,2)`, `int unsigned`.
    pub column_type: String,
    pub characters_max: Option<u64>,
    pub octets_max: Option<u64>,
    pub numeric_precision: Option<u64>,
    pub numeric_scale: Option<i64>,
    pub datetime_precision: Option<u64>,
    /// Whether it has a character set and a collation.
    pub is_text: bool,
}

/// The MySQL type that a column of this Arrow type is shown as.
pub fn mysql_type(data_type: &DataType) -> MysqlType {
    use DataType::*;
    match data_type {
        Boolean => MysqlType { column_type: "tinyint(1)".into(), ..integer("tinyint", 3, false) },
        Int8 => integer("tinyint", 3, false),
        Int16 => integer("smallint", 5, false),
        Int32 => integer("int", 10, false),
        Int64 => integer("bigint", 19, false),
        UInt8 => integer("tinyint", 3, true),
        UInt16 => integer("smallint", 5, true),
        UInt32 => integer("int", 10, true),
        UInt64 => integer("bigint", 20, true),
        Float16 | Float32 => MysqlType { numeric_precision: Some(12), ..plain("float") },
        Float64 => MysqlType { numeric_precision: Some(22), ..plain("double") },
        Decimal32(precision, scale)
        | Decimal64(precision, scale)
        | Decimal128(precision, scale)
        | Decimal256(precision, scale) => decimal(u64::from(*precision), i64::from(*scale)),
        Utf8 | LargeUtf8 | Utf8View => text(TEXT_CHARACTERS),
        Binary | LargeBinary | BinaryView => blob(),
        FixedSizeBinary(size) => binary("binary", u64::try_from(*size).unwrap_or(0)),
        Date32 | Date64 => plain("date"),
        Time32(unit) | Time64(unit) => fractional("time", unit),
        Timestamp(unit, None) => fractional("datetime", unit),
        Timestamp(unit, Some(_)) => fractional("timestamp", unit),
        // MySQL's TIME goes beyond a day, and below zero.
        Duration(unit) => fractional("time", unit),
        // MySQL has no such type that a column could have: clients get its text.
        Interval(_) => text(64),
        List(_) | ListView(_) | FixedSizeList(..) | LargeList(_) | LargeListView(_) | Struct(_) | Union(..)
        | Map(..) => plain("json"),
        Dictionary(_, value) => mysql_type(value),
        RunEndEncoded(_, values) => mysql_type(values.data_type()),
        Null => binary("binary", 0),
    }
}

fn plain(name: &'static str) -> MysqlType {
    MysqlType { data_type: name, column_type: name.to_owned(), ..MysqlType::default() }
}

fn integer(name: &'static str, digits: u64, is_unsigned: bool) -> MysqlType {
    let column_type = if is_unsigned { format!("{name} unsigned") } else { name.to_owned() };
    MysqlType { column_type, numeric_precision: Some(digits), numeric_scale: Some(0), ..plain(name) }
}

fn decimal(precision: u64, scale: i64) -> MysqlType {
    // A negative scale has no name in MySQL: its zeros are digits like others.
    let (precision, scale) =
        if scale < 0 { (precision.saturating_add(scale.unsigned_abs()), 0) } else { (precision, scale) };
    MysqlType {
        column_type: format!("decimal({precision},{scale})"),
        numeric_precision: Some(precision),
        numeric_scale: Some(scale),
        ..plain("decimal")
    }
}

fn text(characters: u64) -> MysqlType {
    MysqlType { characters_max: Some(characters), octets_max: Some(characters * 4), is_text: true, ..plain("varchar") }
}

fn binary(name: &'static str, bytes: u64) -> MysqlType {
    MysqlType {
        column_type: format!("{name}({bytes})"),
        characters_max: Some(bytes),
        octets_max: Some(bytes),
        ..plain(name)
    }
}

fn blob() -> MysqlType {
    MysqlType { characters_max: Some(BLOB_BYTES), octets_max: Some(BLOB_BYTES), ..plain("longblob") }
}

fn fractional(name: &'static str, unit: &TimeUnit) -> MysqlType {
    let digits = match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        // MySQL stops at microseconds.
        TimeUnit::Microsecond | TimeUnit::Nanosecond => 6,
    };
    let column_type = if digits == 0 { name.to_owned() } else { format!("{name}({digits})") };
    MysqlType { column_type, datetime_precision: Some(digits), ..plain(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(data_type: DataType, name: &str, column_type: &str) {
        let it = mysql_type(&data_type);
        assert_eq!((it.data_type, it.column_type.as_str()), (name, column_type), "{data_type}");
    }

    #[test]
    fn types_have_their_mysql_names() {
        check(DataType::Boolean, "tinyint", "tinyint(1)");
        check(DataType::UInt64, "bigint", "bigint unsigned");
        check(DataType::Decimal128(15, 2), "decimal", "decimal(15,2)");
        check(DataType::Decimal128(5, -2), "decimal", "decimal(7,0)");
        check(DataType::Utf8View, "varchar", "varchar");
        check(DataType::Timestamp(TimeUnit::Nanosecond, None), "datetime", "datetime(6)");
        check(DataType::Timestamp(TimeUnit::Second, Some("UTC".into())), "timestamp", "timestamp");
        check(DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Date32)), "date", "date");
        check(DataType::Null, "binary", "binary(0)");
    }
}
