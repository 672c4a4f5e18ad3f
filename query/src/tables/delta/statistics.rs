//! What the log says of a file's columns: from its JSON to bounds in the columns' types.

use arrow::datatypes::{DataType, TimeUnit};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use datafusion::common::ScalarValue;
use serde_json::Value;

use super::columns::DeltaColumns;
use crate::tables::pruning::ColumnBounds;

/// Writers cut timestamps to milliseconds: the greatest may be almost one later.
const TIMESTAMP_CUT_US: i64 = 999;
/// Digits that a number keeps on its way through JSON.
const EXACT_DIGITS: u8 = 15;

/// What is known of one file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileStatistics {
    /// Rows of the file, deleted ones too.
    pub rows: Option<u64>,
    /// By the table's columns; those of partitions are not in it.
    pub columns: Vec<ColumnBounds>,
}

impl FileStatistics {
    /// Reads the `stats` of an Add action. What cannot be understood is not known.
    pub fn parse(text: Option<&str>, columns: &DeltaColumns) -> Self {
        let none = || Self { rows: None, columns: vec![ColumnBounds::default(); columns.0.len()] };
        let Some(Ok(stats)) = text.map(serde_json::from_str::<Value>) else { return none() };
        let rows = stats.get("numRecords").and_then(Value::as_u64);
        // What was written with deleted rows need not be the bounds of what is left.
        let is_tight = stats.get("tightBounds").and_then(Value::as_bool) != Some(false);
        let bounds = columns.0.iter().map(|column| {
            let of = |kind: &str| stats.get(kind).and_then(|it| it.get(&column.physical));
            let data_type = column.field.data_type();
            let min = of("minValues").and_then(|it| scalar(it, data_type, false));
            let max = of("maxValues").and_then(|it| scalar(it, data_type, true));
            let is_exact = is_tight && is_exact(data_type);
            ColumnBounds { min, max, nulls: of("nullCount").and_then(Value::as_u64), is_exact }
        });
        Self { rows, columns: bounds.collect() }
    }
}

/// Whether what the log has of this type is the value itself and not something near it.
fn is_exact(data_type: &DataType) -> bool {
    data_type.is_integer() || matches!(data_type, DataType::Date32 | DataType::Decimal128(..) | DataType::Boolean)
}

/// One bound, in the type of its column.
fn scalar(value: &Value, data_type: &DataType, is_max: bool) -> Option<ScalarValue> {
    let integer = || value.as_i64();
    Some(match data_type {
        DataType::Boolean => ScalarValue::Boolean(Some(value.as_bool()?)),
        DataType::Int8 => ScalarValue::Int8(Some(integer()?.try_into().ok()?)),
        DataType::Int16 => ScalarValue::Int16(Some(integer()?.try_into().ok()?)),
        DataType::Int32 => ScalarValue::Int32(Some(integer()?.try_into().ok()?)),
        DataType::Int64 => ScalarValue::Int64(Some(integer()?)),
        // A float that was written in few digits need not be the one that is meant.
        DataType::Float32 => ScalarValue::Float32(Some(outward32(value.as_f64()? as f32, is_max))),
        DataType::Float64 => ScalarValue::Float64(Some(outward64(value.as_f64()?, is_max))),
        DataType::Decimal128(precision, scale) => {
            // A whole number is read exactly, any other only as long as a float holds all of its digits.
            if !value.is_i64() && *precision > EXACT_DIGITS {
                return None;
            }
            let text = value.as_number()?.to_string();
            ScalarValue::Decimal128(Some(decimal(&text, *scale)?), *precision, *scale)
        }
        DataType::Date32 => {
            let date: NaiveDate = value.as_str()?.parse().ok()?;
            let days = date.signed_duration_since(NaiveDate::default()).num_days();
            ScalarValue::Date32(Some(days.try_into().ok()?))
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let at = timestamp_us(value.as_str()?)?;
            let at = if is_max { at.checked_add(TIMESTAMP_CUT_US)? } else { at };
            ScalarValue::TimestampMicrosecond(Some(at), zone.clone())
        }
        DataType::Utf8 => ScalarValue::Utf8(Some(value.as_str()?.to_owned())),
        DataType::Utf8View => ScalarValue::Utf8View(Some(value.as_str()?.to_owned())),
        _ => return None,
    })
}

fn outward32(value: f32, is_max: bool) -> f32 {
    if is_max { value.next_up() } else { value.next_down() }
}

fn outward64(value: f64, is_max: bool) -> f64 {
    if is_max { value.next_up() } else { value.next_down() }
}

/// `12.5` in hundredths is 1250; `None` where digits would be lost.
fn decimal(text: &str, scale: i8) -> Option<i128> {
    let scale = usize::try_from(scale).ok()?;
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > scale || !whole.chars().chain(fraction.chars()).all(|it| it.is_ascii_digit()) {
        return None;
    }
    format!("{whole}{fraction:0<scale$}").parse::<i128>().ok().map(|it| sign * it)
}

fn timestamp_us(text: &str) -> Option<i64> {
    match DateTime::parse_from_rfc3339(text) {
        Ok(at) => Some(at.timestamp_micros()),
        Err(_) => {
            let formats = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
            let at = formats.iter().find_map(|it| NaiveDateTime::parse_from_str(text, it).ok())?;
            Some(at.and_utc().timestamp_micros())
        }
    }
}

/// The value of a partition column, from the text that the log has for it. An empty text is NULL, as the format says.
///
/// Errs with the reason when the text is no value of the type.
pub fn partition_value(text: Option<&str>, data_type: &DataType) -> Result<ScalarValue, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{text:?} is no {data_type}: {error}");
    match (text, data_type) {
        (None | Some(""), _) => ScalarValue::try_from(data_type).map_err(|error| wrong(&error)),
        (Some(text), DataType::Timestamp(TimeUnit::Microsecond, zone)) => match timestamp_us(text) {
            Some(at) => Ok(ScalarValue::TimestampMicrosecond(Some(at), zone.clone())),
            None => Err(wrong(&"not a time")),
        },
        (Some(text), DataType::Binary) => Ok(ScalarValue::Binary(Some(text.as_bytes().to_vec()))),
        (Some(text), DataType::BinaryView) => Ok(ScalarValue::BinaryView(Some(text.as_bytes().to_vec()))),
        (Some(text), _) => {
            ScalarValue::try_from_string(text.to_owned(), data_type).map_err(|error| wrong(&error.strip_backtrace()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Field;

    use super::super::columns::DeltaColumn;
    use super::*;

    fn bounds(data_type: DataType, min: &str, max: &str) -> ColumnBounds {
        let field = Arc::new(Field::new("a", data_type, true));
        let columns = DeltaColumns(vec![DeltaColumn { field, physical: "p".to_owned(), is_partition: false }]);
        let text =
            format!(r#"{{"numRecords":7,"minValues":{{"p":{min}}},"maxValues":{{"p":{max}}},"nullCount":{{"p":2}}}}"#);
        let mut statistics = FileStatistics::parse(Some(&text), &columns);
        assert_eq!(statistics.rows, Some(7));
        statistics.columns.remove(0)
    }

    #[test]
    fn bounds_take_the_type_of_the_column() {
        let of = |data_type, min, max| {
            let found = bounds(data_type, min, max);
            assert_eq!(found.nulls, Some(2));
            (found.min, found.max)
        };
        let both = |min, max| (Some(min), Some(max));
        assert_eq!(of(DataType::Int16, "-3", "9"), both(ScalarValue::from(-3i16), ScalarValue::from(9i16)));
        let decimal = |value| ScalarValue::Decimal128(Some(value), 10, 2);
        assert_eq!(of(DataType::Decimal128(10, 2), "-1.5", "3"), both(decimal(-150), decimal(300)));
        assert_eq!(
            of(DataType::Date32, r#""1969-12-31""#, r#""1970-01-02""#),
            both(ScalarValue::Date32(Some(-1)), ScalarValue::Date32(Some(1)))
        );
        let at = |us| ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into()));
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        assert_eq!(
            of(utc, r#""1970-01-01T00:00:00.001Z""#, r#""1970-01-01T01:00:00.002+01:00""#),
            both(at(1000), at(2999))
        );
    }

    #[test]
    fn what_may_be_off_is_no_bound() {
        assert_eq!(bounds(DataType::Int8, "1000", "\"x\"").min, None);
        assert_eq!(bounds(DataType::Decimal128(20, 2), "0.1", "123456789012345.67").max, None);
        assert_eq!(bounds(DataType::Float64, "\"NaN\"", "\"Infinity\"").max, None);
        let float = bounds(DataType::Float64, "0.1", "0.3");
        assert!(float.min < Some(ScalarValue::from(0.1)) && float.max > Some(ScalarValue::from(0.3)));
        assert!(!float.is_exact && !bounds(DataType::Utf8, "\"a\"", "\"b\"").is_exact);
        assert!(bounds(DataType::Int64, "1", "2").is_exact);
    }

    #[test]
    fn partition_values_are_typed() {
        let value = |text, data_type| partition_value(Some(text), &data_type);
        assert_eq!(value("7", DataType::Int32), Ok(ScalarValue::from(7i32)));
        assert_eq!(value("true", DataType::Boolean), Ok(ScalarValue::from(true)));
        assert_eq!(value("1970-01-02", DataType::Date32), Ok(ScalarValue::Date32(Some(1))));
        assert_eq!(value("", DataType::Utf8), Ok(ScalarValue::Utf8(None)));
        assert_eq!(partition_value(None, &DataType::Int8), Ok(ScalarValue::Int8(None)));
        assert!(value("x", DataType::Int32).is_err());
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let at = ScalarValue::TimestampMicrosecond(Some(1_000_000), Some("UTC".into()));
        assert_eq!(value("1970-01-01 00:00:01", utc.clone()), Ok(at.clone()));
        assert_eq!(value("1970-01-01T00:00:01.000000Z", utc), Ok(at));
    }
}
