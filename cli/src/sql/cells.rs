//! Columns and cells of an answer, whichever engine gave it: texts as MySQL writes them, with the kind of each column.

use std::borrow::Cow;

use arrow::datatypes::{DataType, Schema, TimeUnit};
use mysql_async::consts::{ColumnFlags, ColumnType};

/// What the texts of a column stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing but NULL.
    Null,
    /// `1` or `0`.
    Bool,
    Int,
    UInt,
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: i8,
    },
    Date,
    /// Microseconds at most.
    DateTime,
    /// JSON: lists, structs and maps come as it.
    Json,
    Bytes,
    /// Times of day, intervals and all else too.
    Text,
}

impl Kind {
    /// Whether people want to see the digits one below the other.
    pub fn is_number(self) -> bool {
        matches!(self, Kind::Int | Kind::UInt | Kind::Float | Kind::Double | Kind::Decimal { .. })
    }

    fn of_type(data_type: &DataType) -> Self {
        match data_type {
            DataType::Null => Kind::Null,
            DataType::Boolean => Kind::Bool,
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Kind::Int,
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => Kind::UInt,
            DataType::Float16 | DataType::Float32 => Kind::Float,
            DataType::Float64 => Kind::Double,
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale)
            | DataType::Decimal256(precision, scale) => Kind::Decimal { precision: *precision, scale: *scale },
            DataType::Date32 | DataType::Date64 => Kind::Date,
            DataType::Timestamp(..) => Kind::DateTime,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Kind::Bytes
            }
            DataType::Dictionary(_, value) => Kind::of_type(value),
            DataType::RunEndEncoded(_, value) => Kind::of_type(value.data_type()),
            DataType::Struct(_)
            | DataType::Map(..)
            | DataType::List(_)
            | DataType::LargeList(_)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
            | DataType::FixedSizeList(..) => Kind::Json,
            _ => Kind::Text,
        }
    }

    /// The type of a Parquet column that holds it.
    pub fn arrow_type(self) -> DataType {
        match self {
            Kind::Null | Kind::Json | Kind::Text => DataType::Utf8,
            Kind::Bool => DataType::Boolean,
            Kind::Int => DataType::Int64,
            Kind::UInt => DataType::UInt64,
            Kind::Float => DataType::Float32,
            Kind::Double => DataType::Float64,
            Kind::Decimal { precision: precision @ 1..=38, scale } => DataType::Decimal128(precision, scale),
            Kind::Decimal { precision: precision @ 39..=76, scale } => DataType::Decimal256(precision, scale),
            Kind::Decimal { .. } => DataType::Utf8,
            Kind::Date => DataType::Date32,
            Kind::DateTime => DataType::Timestamp(TimeUnit::Microsecond, None),
            Kind::Bytes => DataType::Binary,
        }
    }
}

/// One column of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
}

/// MySQL's number for "no character set".
const CHARSET_BINARY: u16 = 63;

impl Column {
    pub fn of_schema(schema: &Schema) -> Vec<Self> {
        let fields = schema.fields().iter();
        fields.map(|it| Self { name: it.name().clone(), kind: Kind::of_type(it.data_type()) }).collect()
    }

    /// As a MySQL server announces it.
    pub fn of_mysql(column: &mysql_async::Column) -> Self {
        use ColumnType::*;
        let is_unsigned = column.flags().contains(ColumnFlags::UNSIGNED_FLAG);
        let kind = match column.column_type() {
            MYSQL_TYPE_NULL => Kind::Null,
            MYSQL_TYPE_TINY if column.column_length() == 1 => Kind::Bool,
            MYSQL_TYPE_TINY | MYSQL_TYPE_SHORT | MYSQL_TYPE_INT24 | MYSQL_TYPE_LONG | MYSQL_TYPE_LONGLONG => {
                if is_unsigned {
                    Kind::UInt
                } else {
                    Kind::Int
                }
            }
            MYSQL_TYPE_YEAR => Kind::UInt,
            MYSQL_TYPE_FLOAT => Kind::Float,
            MYSQL_TYPE_DOUBLE => Kind::Double,
            MYSQL_TYPE_DECIMAL | MYSQL_TYPE_NEWDECIMAL => {
                // The length counts a sign and a point beside the digits.
                let precision = u8::try_from(column.column_length().saturating_sub(2)).unwrap_or(u8::MAX);
                let scale = i8::try_from(column.decimals()).unwrap_or(0);
                Kind::Decimal { precision, scale }
            }
            MYSQL_TYPE_DATE | MYSQL_TYPE_NEWDATE => Kind::Date,
            MYSQL_TYPE_DATETIME | MYSQL_TYPE_TIMESTAMP => Kind::DateTime,
            MYSQL_TYPE_JSON => Kind::Json,
            MYSQL_TYPE_VARCHAR
            | MYSQL_TYPE_VAR_STRING
            | MYSQL_TYPE_STRING
            | MYSQL_TYPE_TINY_BLOB
            | MYSQL_TYPE_MEDIUM_BLOB
            | MYSQL_TYPE_LONG_BLOB
            | MYSQL_TYPE_BLOB
                if column.character_set() == CHARSET_BINARY =>
            {
                Kind::Bytes
            }
            _ => Kind::Text,
        };
        Self { name: column.name_str().into_owned(), kind }
    }
}

/// A cell's bytes as text: as they are when they are one, else `0x` and hexadecimal digits.
pub fn readable(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            Cow::Owned(format!("0x{}", digits.collect::<String>()))
        }
    }
}

/// A text without what moves a terminal's cursor or changes its state.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_digits() {
        assert_eq!(readable("ü".as_bytes()), "ü");
        assert_eq!(readable(&[0xff, 0x00]), "0xff00");
    }

    #[test]
    fn a_terminal_gets_nothing_to_obey() {
        assert_eq!(printable("plain"), "plain");
        assert_eq!(printable("a\nb\t\x1b[2J"), "a\\nb\\t\\u{1b}[2J");
    }

    #[test]
    fn every_kind_has_a_type() {
        assert_eq!(Kind::Decimal { precision: 15, scale: 2 }.arrow_type(), DataType::Decimal128(15, 2));
        assert_eq!(Kind::Decimal { precision: 76, scale: 0 }.arrow_type(), DataType::Decimal256(76, 0));
        assert_eq!(Kind::Decimal { precision: 99, scale: 0 }.arrow_type(), DataType::Utf8);
        let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Int64));
        assert_eq!(Kind::of_type(&dictionary), Kind::Int);
    }
}
