//! What `ANALYZE TABLE` found out of a table, and what the planner makes of it.
//!
//! Kept with the table's definition. What is exact, such as the rows that a Delta log tells of, is never replaced: what
//! was found out fills in what nobody knows otherwise, scaled by how much the table has grown since, as an estimate.
//!
//! Bounds are shown and not estimated by. Rows that came later may be outside of them, and DataFusion takes a filter
//! outside of a column's bounds for one that no row passes: also of bounds that are marked as inexact, it would answer
//! `SELECT min(a) … WHERE a > 9` with NULL from 9 being the greatest when the table was analyzed.

use arrow::datatypes::{Field, Schema};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Statistics};
use serde::{Deserialize, Serialize};

/// Characters of a bound that are kept.
const BOUND_CHARACTERS_MAX: usize = 64;

/// From this share of different values on, in per cent, new rows are taken to bring new ones.
const UNIQUE_PERCENT: u64 = 90;

/// A table as it was when it was analyzed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatistics {
    pub rows: u64,
    /// Of its files.
    pub disk_bytes: u64,
    /// Milliseconds since 1970.
    pub analyzed_ms: i64,
    pub columns: Vec<AnalyzedColumn>,
}

/// One column; what is not known of its type is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnalyzedColumn {
    pub name: String,
    /// Arrow's name of its type: of another one, nothing is known.
    #[serde(rename = "type")]
    pub type_name: String,
    pub nulls: u64,
    /// Different values, by a sketch: a few per cent more or less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct: Option<u64>,
    /// The bounds as text, cut to [`BOUND_CHARACTERS_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<String>,
    /// Of its values in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

impl AnalyzedColumn {
    fn is_of(&self, field: &Field) -> bool {
        self.name == *field.name() && self.type_name == field.data_type().to_string()
    }
}

/// A bound as it is kept.
pub fn bound(text: &str) -> String {
    text.chars().take(BOUND_CHARACTERS_MAX).collect()
}

impl TableStatistics {
    pub fn column(&self, field: &Field) -> Option<&AnalyzedColumn> {
        self.columns.iter().find(|it| it.is_of(field))
    }

    /// The same without columns that are not as they were any more.
    pub fn of_columns(&self, stays: impl Fn(&str) -> bool) -> Self {
        let columns = self.columns.iter().filter(|it| stays(&it.name)).cloned().collect();
        Self { columns, ..self.clone() }
    }

    /// Bytes of a row in memory, where all columns are known.
    pub fn row_bytes(&self) -> Option<u64> {
        self.columns.iter().map(|it| it.bytes).sum::<Option<u64>>()
    }

    /// What is known of some files of the table, `disk_bytes` together, with what is not known estimated. `known` and
    /// `schema` are by the same columns; the size becomes that of the columns at `projection`, where it can be told.
    pub fn fill(&self, known: Statistics, schema: &Schema, projection: &[usize], disk_bytes: u64) -> Statistics {
        let mut filled = known;
        if filled.num_rows.get_value().is_none() && self.disk_bytes > 0 {
            filled.num_rows = estimate(scaled(self.rows, disk_bytes, self.disk_bytes));
        }
        let Some(rows) = filled.num_rows.get_value().map(|it| *it as u64) else { return filled };
        for (column, field) in filled.column_statistics.iter_mut().zip(schema.fields()) {
            if let Some(analyzed) = self.column(field) {
                self.fill_column(column, analyzed, rows);
            }
        }
        let size_of = |at: &usize| filled.column_statistics.get(*at)?.byte_size.get_value().copied();
        if let Some(bytes) = projection.iter().map(size_of).sum::<Option<usize>>()
            && !projection.is_empty()
        {
            filled.total_byte_size = Precision::Inexact(bytes);
        }
        filled
    }

    fn fill_column(&self, column: &mut ColumnStatistics, analyzed: &AnalyzedColumn, rows: u64) {
        if column.null_count.get_value().is_none() {
            column.null_count = estimate(scaled(analyzed.nulls, rows, self.rows).min(rows));
        }
        if let (None, Some(distinct)) = (column.distinct_count.get_value(), analyzed.distinct) {
            let values = self.rows.saturating_sub(analyzed.nulls);
            let grows =
                rows > self.rows && u128::from(distinct) * 100 >= u128::from(values) * u128::from(UNIQUE_PERCENT);
            let distinct = if grows { scaled(distinct, rows, self.rows) } else { distinct };
            column.distinct_count = estimate(distinct.min(rows));
        }
        if let (None, Some(bytes)) = (column.byte_size.get_value(), analyzed.bytes) {
            column.byte_size = estimate(scaled(bytes, rows, self.rows));
        }
    }
}

/// `value`, which was found where there were `of`, where there are `now`.
fn scaled(value: u64, now: u64, of: u64) -> u64 {
    match of {
        0 => value,
        _ => u64::try_from(u128::from(value) * u128::from(now) / u128::from(of)).unwrap_or(u64::MAX),
    }
}

fn estimate(value: u64) -> Precision<usize> {
    Precision::Inexact(usize::try_from(value).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use datafusion::common::ScalarValue;

    use super::*;

    fn schema() -> Schema {
        Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("s", DataType::Utf8, true),
            Field::new("f", DataType::Float64, true),
        ])
    }

    fn analyzed() -> TableStatistics {
        let column = |name: &str, data_type: DataType, distinct, min: &str, bytes| AnalyzedColumn {
            name: name.into(),
            type_name: data_type.to_string(),
            nulls: 10,
            distinct: Some(distinct),
            min: Some(min.into()),
            max: None,
            bytes: Some(bytes),
        };
        TableStatistics {
            rows: 100,
            disk_bytes: 1000,
            analyzed_ms: 1,
            columns: vec![
                column("id", DataType::Int64, 90, "-5", 800),
                column("s", DataType::Utf8, 3, "a", 400),
                column("f", DataType::Float64, 9, "NaN", 800),
            ],
        }
    }

    #[test]
    fn what_nobody_knows_is_estimated() {
        let filled = analyzed().fill(Statistics::new_unknown(&schema()), &schema(), &[1], 2000);
        assert_eq!(filled.num_rows, Precision::Inexact(200));
        let [id, s, f] = filled.column_statistics.as_slice() else { panic!("{filled:?}") };
        // A key has as many values as rows, a flag has no more than before.
        assert_eq!((id.distinct_count, s.distinct_count), (Precision::Inexact(180), Precision::Inexact(3)));
        assert_eq!((s.null_count, f.byte_size), (Precision::Inexact(20), Precision::Inexact(1600)));
        // Bounds that rows may be outside of are none.
        assert_eq!((&id.min_value, &id.max_value), (&Precision::Absent, &Precision::Absent));
        assert_eq!(filled.total_byte_size, Precision::Inexact(800));
    }

    #[test]
    fn what_is_known_stays() {
        let mut known = Statistics::new_unknown(&schema());
        known.num_rows = Precision::Exact(2);
        known.column_statistics[0].null_count = Precision::Exact(0);
        known.column_statistics[0].min_value = Precision::Exact(ScalarValue::Int64(Some(1)));
        let filled = analyzed().fill(known.clone(), &schema(), &[], 1000);
        assert_eq!(filled.num_rows, Precision::Exact(2));
        assert_eq!(filled.column_statistics[0].null_count, Precision::Exact(0));
        assert_eq!(filled.column_statistics[0].min_value, known.column_statistics[0].min_value);
        // No more different values than rows.
        assert_eq!(filled.column_statistics[1].distinct_count, Precision::Inexact(2));
        assert_eq!(filled.total_byte_size, Precision::Absent);
    }

    #[test]
    fn a_column_of_another_type_is_another() {
        let other = Schema::new(vec![Field::new("id", DataType::Utf8, false)]);
        let filled = analyzed().fill(Statistics::new_unknown(&other), &other, &[0], 1000);
        assert_eq!(filled.column_statistics[0], ColumnStatistics::new_unknown());
        assert_eq!(filled.num_rows, Precision::Inexact(100));
    }

    #[test]
    fn it_reads_back() {
        let text = serde_json::to_string(&analyzed()).unwrap();
        assert_eq!(serde_json::from_str::<TableStatistics>(&text).unwrap(), analyzed());
        assert_eq!(bound(&"ä".repeat(100)).chars().count(), BOUND_CHARACTERS_MAX);
    }
}
