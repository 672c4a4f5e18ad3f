//! What a file's entry in the log says of its values, from the Parquet footer.
//!
//! Written as text and not through JSON numbers: a decimal that went through a `f64` could be rounded past its bound,
//! and a reader would leave the file out.

use std::fmt::Write;

use arrow::datatypes::{DataType, Schema};
use chrono::{DateTime, NaiveDate, TimeDelta};
use datafusion::parquet::file::metadata::ParquetMetaData;
use datafusion::parquet::file::statistics::Statistics;

/// Columns that are described, from the first: what Delta Lake's readers look at by default.
const COLUMNS_MAX: usize = 32;

/// The statistics of a file of `schema`. A column in `with_nan`, by position, gets no bounds: Parquet's pass over NaN.
pub fn file_statistics(metadata: &ParquetMetaData, schema: &Schema, with_nan: &[bool]) -> String {
    let mut mins = Object::default();
    let mut maxs = Object::default();
    let mut nulls = Object::default();
    let descriptor = metadata.file_metadata().schema_descr();
    for (column, field) in schema.fields().iter().enumerate().take(COLUMNS_MAX) {
        let mut leaves = (0..descriptor.num_columns()).filter(|it| descriptor.get_column_root_idx(*it) == column);
        let (Some(leaf), None) = (leaves.next(), leaves.next()) else { continue };
        if field.data_type().is_nested() {
            continue;
        }
        let known: Option<Vec<&Statistics>> =
            metadata.row_groups().iter().map(|group| group.column(leaf).statistics()).collect();
        let Some(known) = known else { continue };
        let null_count: Option<u64> = known.iter().map(|it| it.null_count_opt()).sum();
        if let Some(null_count) = null_count {
            nulls.add(field.name(), null_count.to_string());
        }
        if with_nan.get(column).copied().unwrap_or(false) {
            continue;
        }
        // A row group of NULLs alone has no bounds; one with values and none makes the file's unknown.
        let groups = known.iter().zip(metadata.row_groups());
        let bounded: Option<Vec<&Statistics>> = groups
            .filter(|(it, group)| it.null_count_opt() != u64::try_from(group.num_rows()).ok())
            .map(|(it, _)| it.min_bytes_opt().and(it.max_bytes_opt()).map(|_| *it))
            .collect();
        if let Some((min, max)) = bounded.and_then(|it| bounds(&it, field.data_type())) {
            mins.add(field.name(), min);
            maxs.add(field.name(), max);
        }
    }
    let rows = metadata.file_metadata().num_rows();
    format!(
        r#"{{"numRecords":{rows},"minValues":{},"maxValues":{},"nullCount":{}}}"#,
        mins.text(),
        maxs.text(),
        nulls.text()
    )
}

/// A JSON object that is written member by member.
#[derive(Default)]
struct Object(String);

impl Object {
    fn add(&mut self, name: &str, value: String) {
        let comma = if self.0.is_empty() { "" } else { "," };
        let _ = write!(self.0, "{comma}{}:{value}", quoted(name));
    }

    fn text(&self) -> String {
        format!("{{{}}}", self.0)
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The least and the greatest value as JSON; none for types that have no order in Delta Lake.
fn bounds(groups: &[&Statistics], data_type: &DataType) -> Option<(String, String)> {
    match data_type {
        DataType::Float32 | DataType::Float64 => {
            let pairs: Option<Vec<(f64, f64)>> = groups.iter().map(|it| floats(it)).collect();
            let (min, max) = pairs?.into_iter().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
            // JSON has no infinity.
            (min.is_finite() && max.is_finite()).then(|| (format!("{min:?}"), format!("{max:?}")))
        }
        DataType::Utf8 | DataType::Utf8View => {
            let pairs: Option<Vec<(&str, &str)>> = groups.iter().map(|it| texts(it)).collect();
            let (min, max) = pairs?.into_iter().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
            Some((quoted(min), quoted(max)))
        }
        _ => {
            let pairs: Option<Vec<(i128, i128)>> = groups.iter().map(|it| integers(it)).collect();
            let (min, max) = pairs?.into_iter().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
            Some((integer_text(min, data_type)?, integer_text(max, data_type)?))
        }
    }
}

fn floats(statistics: &Statistics) -> Option<(f64, f64)> {
    match statistics {
        Statistics::Float(it) => Some((f64::from(*it.min_opt()?), f64::from(*it.max_opt()?))),
        Statistics::Double(it) => Some((*it.min_opt()?, *it.max_opt()?)),
        _ => None,
    }
}

fn texts(statistics: &Statistics) -> Option<(&str, &str)> {
    let (min, max) = (statistics.min_bytes_opt()?, statistics.max_bytes_opt()?);
    Some((std::str::from_utf8(min).ok()?, std::str::from_utf8(max).ok()?))
}

fn integers(statistics: &Statistics) -> Option<(i128, i128)> {
    match statistics {
        Statistics::Int32(it) => Some((i128::from(*it.min_opt()?), i128::from(*it.max_opt()?))),
        Statistics::Int64(it) => Some((i128::from(*it.min_opt()?), i128::from(*it.max_opt()?))),
        // Decimals of many digits: two's complement, most significant byte first.
        Statistics::FixedLenByteArray(_) => {
            Some((big_endian(statistics.min_bytes_opt()?)?, big_endian(statistics.max_bytes_opt()?)?))
        }
        _ => None,
    }
}

fn big_endian(bytes: &[u8]) -> Option<i128> {
    let first = *bytes.first()?;
    let mut all = [if first & 0x80 == 0 { 0 } else { 0xff }; 16];
    all.get_mut(16usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(i128::from_be_bytes(all))
}

/// A value as the log has it.
fn integer_text(value: i128, data_type: &DataType) -> Option<String> {
    match data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Some(value.to_string()),
        DataType::Decimal128(_, scale) => Some(decimal_text(value, u32::try_from(*scale).ok()?)),
        DataType::Date32 => Some(quoted(&date_text(i64::try_from(value).ok()?)?)),
        DataType::Timestamp(_, zone) => {
            let text = timestamp_text(i64::try_from(value).ok()?)?;
            Some(quoted(&format!("{text}{}", if zone.is_some() { "Z" } else { "" })))
        }
        _ => None,
    }
}

/// `-12.05` for -1205 with two digits behind the point.
pub fn decimal_text(value: i128, scale: u32) -> String {
    let digits = value.unsigned_abs().to_string();
    let scale = scale as usize;
    let sign = if value < 0 { "-" } else { "" };
    if scale == 0 {
        return format!("{sign}{digits}");
    }
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, rest) = digits.split_at(digits.len() - scale);
    format!("{sign}{whole}.{rest}")
}

/// `2024-02-29` for days since 1970; none beyond what a calendar has.
pub fn date_text(days: i64) -> Option<String> {
    let date = NaiveDate::from_ymd_opt(1970, 1, 1)?.checked_add_signed(TimeDelta::try_days(days)?)?;
    Some(date.format("%Y-%m-%d").to_string())
}

/// `2024-02-29T12:00:00.000001` for microseconds since 1970.
pub fn timestamp_text(micros: i64) -> Option<String> {
    Some(DateTime::from_timestamp_micros(micros)?.naive_utc().format("%Y-%m-%dT%H:%M:%S%.6f").to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::*;
    use arrow::datatypes::Field;
    use datafusion::parquet::arrow::ArrowWriter;

    use super::*;

    fn of(columns: Vec<(&str, ArrayRef)>, with_nan: &[bool]) -> serde_json::Value {
        let fields: Vec<_> = columns.iter().map(|(name, it)| Field::new(*name, it.data_type().clone(), true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let columns = columns.into_iter().map(|(_, it)| it).collect();
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let mut writer = ArrowWriter::try_new(vec![], Arc::clone(&schema), None).unwrap();
        writer.write(&batch).unwrap();
        writer.flush().unwrap();
        writer.write(&batch.slice(0, 1)).unwrap();
        let text = file_statistics(&writer.finish().unwrap(), &schema, with_nan);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn bounds_are_exact() {
        let decimals = Decimal128Array::from(vec![Some(-1205), Some(7), None]).with_precision_and_scale(38, 2).unwrap();
        let stamps = TimestampMicrosecondArray::from(vec![Some(1), Some(-1), None]);
        let found = of(
            vec![
                ("i", Arc::new(Int32Array::from(vec![Some(3), Some(-4), None]))),
                ("d", Arc::new(decimals)),
                ("s", Arc::new(StringArray::from(vec![Some("b\"x"), Some("a"), None]))),
                ("day", Arc::new(Date32Array::from(vec![Some(19782), Some(-1), None]))),
                ("t", Arc::new(stamps.clone().with_timezone("UTC"))),
                ("l", Arc::new(stamps)),
                ("n", Arc::new(Int64Array::from(vec![None, None, None]))),
                ("b", Arc::new(BinaryArray::from_iter(vec![Some(b"x"), None, None]))),
            ],
            &[],
        );
        assert_eq!(found["numRecords"], 4);
        let min = &found["minValues"];
        let max = &found["maxValues"];
        assert_eq!((&min["i"], &max["i"]), (&(-4).into(), &3.into()));
        assert_eq!((min["d"].to_string(), max["d"].to_string()), ("-12.05".into(), "0.07".into()));
        assert_eq!((&min["s"], &max["s"]), (&"a".into(), &"b\"x".into()));
        assert_eq!((&min["day"], &max["day"]), (&"1969-12-31".into(), &"2024-02-29".into()));
        assert_eq!(min["t"], "1969-12-31T23:59:59.999999Z");
        assert_eq!(max["l"], "1970-01-01T00:00:00.000001");
        assert!(min.get("n").is_none() && min.get("b").is_none());
        assert_eq!((&found["nullCount"]["n"], &found["nullCount"]["i"]), (&4.into(), &1.into()));
    }

    #[test]
    fn floats_with_nan_have_no_bounds() {
        let column = || Arc::new(Float64Array::from(vec![1.5, f64::NAN])) as ArrayRef;
        let found = of(vec![("f", column()), ("g", column())], &[true, false]);
        assert!(found["minValues"].get("f").is_none());
        assert_eq!(found["maxValues"]["g"], 1.5);
    }

    #[test]
    fn decimals_keep_all_their_digits() {
        assert_eq!(decimal_text(-5, 2), "-0.05");
        assert_eq!(decimal_text(1_234_567_890_123_456_789_012_345_678_901, 1), "123456789012345678901234567890.1");
        assert_eq!(decimal_text(0, 0), "0");
        assert_eq!(big_endian(&[0xff, 0x00]), Some(-256));
    }
}
