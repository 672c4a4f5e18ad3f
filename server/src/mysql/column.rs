//! Arrow fields as MySQL column definitions: type, character set, display length, flags, decimals.
//!
//! Clients decide by these how they read a value, so they and [`super::value`] must agree on every type.

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use sheaf_query::binder::origins;

use super::wire::{put_lenenc, put_lenenc_int};

/// The numbers that stand for column types on the wire.
pub mod kind {
    pub const DECIMAL: u8 = 0;
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const NULL: u8 = 6;
    pub const TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const INT24: u8 = 9;
    pub const DATE: u8 = 10;
    pub const TIME: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const YEAR: u8 = 13;
    pub const VARCHAR: u8 = 15;
    pub const BIT: u8 = 16;
    pub const JSON: u8 = 245;
    pub const NEWDECIMAL: u8 = 246;
    pub const ENUM: u8 = 247;
    pub const SET: u8 = 248;
    pub const TINY_BLOB: u8 = 249;
    pub const MEDIUM_BLOB: u8 = 250;
    pub const LONG_BLOB: u8 = 251;
    pub const BLOB: u8 = 252;
    pub const VAR_STRING: u8 = 253;
    pub const STRING: u8 = 254;
    pub const GEOMETRY: u8 = 255;
}

mod flag {
    pub const NOT_NULL: u16 = 1;
    pub const BLOB: u16 = 1 << 4;
    pub const UNSIGNED: u16 = 1 << 5;
    pub const BINARY: u16 = 1 << 7;
}

/// Bytes, and all that is no text: clients give such strings back undecoded.
const CHARSET_BINARY: u16 = 63;
/// `utf8mb4_general_ci`, which every client's table has; MySQL's newer default is unknown to some.
pub const CHARSET_UTF8MB4: u16 = 45;
/// No fixed number of decimals.
const DECIMALS_FLOAT: u8 = 31;
/// What a string column is said to hold at most, in bytes. Tools draw tables by it, so not the true 4 GiB.
const TEXT_LENGTH: u32 = 4 * 1024;

/// How one column of a result, or one parameter, is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: u8,
    pub charset: u16,
    /// Bytes that a value takes as text at most.
    pub length: u32,
    pub flags: u16,
    pub decimals: u8,
    /// Which table's column it is; empty for what is computed.
    pub origin: Origin,
}

/// A column of a table, as the statement and the catalog call it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    pub database: String,
    pub alias: String,
    pub table: String,
    pub column: String,
}

impl Origin {
    fn of_field(field: &Field) -> Self {
        let text = |key: &str| field.metadata().get(key).cloned().unwrap_or_default();
        Self {
            database: text(origins::DATABASE),
            alias: text(origins::ALIAS),
            table: text(origins::TABLE),
            column: text(origins::COLUMN),
        }
    }
}

impl Column {
    pub fn of_field(field: &Field) -> Self {
        let mut column = Self::of_type(field.name(), field.data_type());
        column.origin = Origin::of_field(field);
        if !field.is_nullable() && column.kind != kind::NULL {
            column.flags |= flag::NOT_NULL;
        }
        column
    }

    pub fn of_schema(schema: &Schema) -> Vec<Self> {
        schema.fields().iter().map(|field| Self::of_field(field)).collect()
    }

    /// A parameter of a prepared statement; one of unknown type is announced as text, as MySQL does.
    pub fn of_parameter(data_type: Option<&DataType>) -> Self {
        match data_type {
            Some(data_type) => Self::of_type("?", data_type),
            None => Self::text("?"),
        }
    }

    fn text(name: &str) -> Self {
        let (kind, charset, length, flags, decimals) = (kind::VAR_STRING, CHARSET_UTF8MB4, TEXT_LENGTH, 0, 0);
        Self { name: name.to_owned(), kind, charset, length, flags, decimals, origin: Origin::default() }
    }

    fn of_type(name: &str, data_type: &DataType) -> Self {
        let number = |kind, length, flags, decimals| Self {
            name: name.to_owned(),
            kind,
            charset: CHARSET_BINARY,
            length,
            flags: flags | flag::BINARY,
            decimals,
            origin: Origin::default(),
        };
        // DuckDB reads the precision as length less two; MySQL counts the point only where there is one.
        let decimal = |precision: u8, scale: i8| {
            let shift = scale.min(0).unsigned_abs();
            number(kind::NEWDECIMAL, u32::from(precision) + u32::from(shift) + 2, 0, scale.max(0).unsigned_abs())
        };
        match data_type {
            DataType::Null => number(kind::NULL, 0, 0, 0),
            DataType::Boolean => number(kind::TINY, 1, 0, 0),
            DataType::Int8 => number(kind::TINY, 4, 0, 0),
            DataType::Int16 => number(kind::SHORT, 6, 0, 0),
            DataType::Int32 => number(kind::LONG, 11, 0, 0),
            DataType::Int64 => number(kind::LONGLONG, 20, 0, 0),
            DataType::UInt8 => number(kind::TINY, 3, flag::UNSIGNED, 0),
            DataType::UInt16 => number(kind::SHORT, 5, flag::UNSIGNED, 0),
            DataType::UInt32 => number(kind::LONG, 10, flag::UNSIGNED, 0),
            DataType::UInt64 => number(kind::LONGLONG, 20, flag::UNSIGNED, 0),
            DataType::Float16 | DataType::Float32 => number(kind::FLOAT, 12, 0, DECIMALS_FLOAT),
            DataType::Float64 => number(kind::DOUBLE, 22, 0, DECIMALS_FLOAT),
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale)
            | DataType::Decimal256(precision, scale) => decimal(*precision, *scale),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                number(kind::BLOB, TEXT_LENGTH, flag::BLOB, 0)
            }
            DataType::Date32 | DataType::Date64 => number(kind::DATE, 10, 0, 0),
            DataType::Timestamp(unit, zone) => {
                let kind = if zone.is_some() { kind::TIMESTAMP } else { kind::DATETIME };
                let decimals = fraction_digits(unit);
                number(kind, 19 + point_and(decimals), 0, decimals)
            }
            DataType::Time32(unit) | DataType::Time64(unit) | DataType::Duration(unit) => {
                let decimals = fraction_digits(unit);
                number(kind::TIME, 10 + point_and(decimals), 0, decimals)
            }
            DataType::Dictionary(_, values) => Self::of_type(name, values),
            DataType::RunEndEncoded(_, values) => Self::of_type(name, values.data_type()),
            DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Interval(_)
            | DataType::List(_)
            | DataType::LargeList(_)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
            | DataType::FixedSizeList(..)
            | DataType::Struct(_)
            | DataType::Map(..)
            | DataType::Union(..) => Self::text(name),
        }
    }

    /// Appends the definition's payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_lenenc(out, b"def");
        let origin = &self.origin;
        for text in [&origin.database, &origin.alias, &origin.table, &self.name, &origin.column] {
            put_lenenc(out, text.as_bytes());
        }
        put_lenenc_int(out, 12); // Bytes of what follows.
        out.extend_from_slice(&self.charset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.push(self.kind);
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.push(self.decimals);
        out.extend_from_slice(&[0, 0]);
    }
}

/// MySQL has microseconds at most.
pub fn fraction_digits(unit: &TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond | TimeUnit::Nanosecond => 6,
    }
}

fn point_and(decimals: u8) -> u32 {
    if decimals == 0 { 0 } else { u32::from(decimals) + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_announced_as_mysql_does() {
        let announced = |data_type| {
            let column = Column::of_field(&Field::new("c", data_type, true));
            (column.kind, column.charset, column.length, column.flags, column.decimals)
        };
        assert_eq!(announced(DataType::Boolean), (kind::TINY, 63, 1, 128, 0));
        assert_eq!(announced(DataType::UInt64), (kind::LONGLONG, 63, 20, 128 | 32, 0));
        assert_eq!(announced(DataType::Decimal128(15, 2)), (kind::NEWDECIMAL, 63, 17, 128, 2));
        assert_eq!(announced(DataType::Decimal128(5, -2)), (kind::NEWDECIMAL, 63, 9, 128, 0));
        assert_eq!(announced(DataType::Utf8View), (kind::VAR_STRING, 45, 4096, 0, 0));
        assert_eq!(announced(DataType::BinaryView), (kind::BLOB, 63, 4096, 128 | 16, 0));
        let zoned = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        assert_eq!(announced(zoned), (kind::TIMESTAMP, 63, 26, 128, 6));
        let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Int16));
        assert_eq!(announced(dictionary), (kind::SHORT, 63, 6, 128, 0));
    }

    #[test]
    fn a_column_of_a_table_says_which() {
        let metadata = [(origins::DATABASE, "d"), (origins::ALIAS, "x"), (origins::TABLE, "t"), (origins::COLUMN, "a")];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let field = Field::new("n", DataType::Int8, true).with_metadata(metadata);
        let mut out = vec![];
        Column::of_field(&field).encode(&mut out);
        assert!(out.starts_with(b"\x03def\x01d\x01x\x01t\x01n\x01a\x0c"), "{out:?}");
        out.clear();
        Column::of_field(&Field::new("n", DataType::Int8, true)).encode(&mut out);
        assert!(out.starts_with(b"\x03def\0\0\0\x01n\0\x0c"), "{out:?}");
    }

    #[test]
    fn a_column_without_nulls_says_so() {
        assert_eq!(Column::of_field(&Field::new("c", DataType::Int64, false)).flags, 128 | 1);
    }
}
