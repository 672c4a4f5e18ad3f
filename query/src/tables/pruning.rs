//! Which files of a table a filter can do without, by what is known of their columns before they are opened.
//!
//! A file goes only if no row of it can make the filter true. What is not known of a file, or of one of its columns,
//! keeps it. Of floats only the lower bound is used: writers leave NaN out of their bounds, and to the engine NaN is
//! greater than every number.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, DFSchema, Result, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;

/// What is known of one column of one file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ColumnBounds {
    /// No value that is not NULL is less. Of the column's type.
    pub min: Option<ScalarValue>,
    /// No value that is not NULL is greater, but for NaN. Of the column's type.
    pub max: Option<ScalarValue>,
    pub nulls: Option<u64>,
    /// Whether `min` and `max` are values of the column, not only bounds.
    pub is_exact: bool,
}

/// What is known of one file, by the table's columns.
#[derive(Debug, Clone, Copy)]
pub struct FileBounds<'a> {
    pub rows: Option<u64>,
    pub columns: &'a [ColumnBounds],
}

/// For each file, whether it can hold a row that all `filters` are true for.
///
/// The filters are over `schema`, whose columns are those of the bounds. Errs only where a filter cannot be planned.
pub fn may_match(
    session: &dyn Session,
    schema: &SchemaRef,
    filters: &[Expr],
    files: &[FileBounds<'_>],
) -> Result<Vec<bool>> {
    let all = || vec![true; files.len()];
    // The same switch as for row groups, so that all pruning goes on and off together.
    if !session.config_options().execution.parquet.pruning {
        return Ok(all());
    }
    let Some(filter) = conjunction(filters.iter().cloned()) else { return Ok(all()) };
    let df_schema = DFSchema::try_from(Arc::clone(schema))?;
    let filter = session.create_physical_expr(filter, &df_schema)?;
    // What cannot be turned into a question about bounds keeps every file.
    match PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema)).build(filter) {
        Some(predicate) if !files.is_empty() => predicate.prune(&Bounds { schema, files }),
        _ => Ok(all()),
    }
}

/// The files of a scan that can hold a row that all `filters` are true for, by their statistics, in order.
///
/// `schema` is the table's, with its partition columns, and so is the order of the statistics.
pub fn matching(
    session: &dyn Session,
    schema: &SchemaRef,
    filters: &[Expr],
    files: Vec<PartitionedFile>,
) -> Result<Vec<PartitionedFile>> {
    if filters.is_empty() {
        return Ok(files);
    }
    let known: Vec<(Option<u64>, Vec<ColumnBounds>)> =
        files.iter().map(|file| file.statistics.as_deref().map_or_else(Default::default, bounds_of)).collect();
    let bounds: Vec<_> = known.iter().map(|(rows, columns)| FileBounds { rows: *rows, columns }).collect();
    let may_match = may_match(session, schema, filters, &bounds)?;
    Ok(files.into_iter().zip(may_match).filter(|(_, may_match)| *may_match).map(|(file, _)| file).collect())
}

/// Rows and columns as DataFusion's statistics have them. An inexact bound is still one, an inexact count is not.
fn bounds_of(statistics: &Statistics) -> (Option<u64>, Vec<ColumnBounds>) {
    let exact = |it: &Precision<usize>| match it {
        Precision::Exact(count) => u64::try_from(*count).ok(),
        Precision::Inexact(_) | Precision::Absent => None,
    };
    let bound = |it: &Precision<ScalarValue>| it.get_value().filter(|it| !it.is_null()).cloned();
    let columns = statistics.column_statistics.iter().map(|column| ColumnBounds {
        min: bound(&column.min_value),
        max: bound(&column.max_value),
        nulls: exact(&column.null_count),
        is_exact: false,
    });
    (exact(&statistics.num_rows), columns.collect())
}

struct Bounds<'a> {
    schema: &'a SchemaRef,
    files: &'a [FileBounds<'a>],
}

impl Bounds<'_> {
    /// One bound of a column for every file; `None` when no file has it.
    fn values(&self, column: &Column, bound: impl Fn(&ColumnBounds) -> Option<&ScalarValue>) -> Option<ArrayRef> {
        let index = self.schema.index_of(&column.name).ok()?;
        let data_type = self.schema.field(index).data_type();
        let null = ScalarValue::try_from(data_type).ok()?;
        let mut found = false;
        let values = self.files.iter().map(|file| {
            // A bound of another type than the column's would make an array of neither.
            let value = file.columns.get(index).and_then(&bound).filter(|it| it.data_type() == *data_type);
            found |= value.is_some();
            value.cloned().unwrap_or_else(|| null.clone())
        });
        let array = ScalarValue::iter_to_array(values.collect::<Vec<_>>()).ok()?;
        found.then_some(array)
    }
}

impl PruningStatistics for Bounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |it| it.min.as_ref())
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        let field = self.schema.field_with_name(&column.name).ok()?;
        if may_hold_nan(field.data_type()) {
            return None;
        }
        self.values(column, |it| it.max.as_ref())
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let index = self.schema.index_of(&column.name).ok()?;
        let counts = self.files.iter().map(|file| file.columns.get(index).and_then(|it| it.nulls));
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.files.iter().map(|file| file.rows).collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

fn may_hold_nan(data_type: &DataType) -> bool {
    data_type.is_floating()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use datafusion::prelude::{SessionContext, cast, col, lit};

    use super::*;

    fn known(min: impl Into<ScalarValue>, max: impl Into<ScalarValue>, nulls: u64) -> ColumnBounds {
        ColumnBounds { min: Some(min.into()), max: Some(max.into()), nulls: Some(nulls), is_exact: true }
    }

    /// Which of three files of 10 rows stay: `a` of 1 to 5, of 6 to 9 with NULLs, and one of which nothing is known.
    /// `b` is the same without signs, `f` as floats; of `u` nothing is known anywhere.
    fn stay(filter: Expr) -> Vec<bool> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::UInt64, true),
            Field::new("f", DataType::Float64, true),
            Field::new("u", DataType::Int64, true),
        ]));
        let unknown = ColumnBounds::default;
        let first = [known(1i64, 5i64, 0), known(1u64, 5u64, 0), known(1.0, 5.0, 0), unknown()];
        let second = [known(6i64, 9i64, 3), known(6u64, 9u64, 3), known(6.0, 9.0, 3), unknown()];
        let third = [unknown(), unknown(), unknown(), unknown()];
        let file = |columns| FileBounds { rows: Some(10), columns };
        let files = [file(&first[..]), file(&second[..]), FileBounds { rows: None, columns: &third }];
        may_match(&SessionContext::new().state(), &schema, &[filter], &files).unwrap()
    }

    #[test]
    fn files_that_cannot_match_go() {
        assert_eq!(stay(col("a").gt(lit(5i64))), [false, true, true]);
        assert_eq!(stay(lit(5i64).gt_eq(col("a"))), [true, false, true]);
        assert_eq!(stay(col("a").eq(lit(7i64)).and(col("u").eq(lit(1i64)))), [false, true, true]);
        assert_eq!(stay(col("a").in_list(vec![lit(2i64), lit(3i64)], false)), [true, false, true]);
        assert_eq!(stay(col("a").between(lit(10i64), lit(20i64))), [false, false, true]);
        assert_eq!(stay(col("a").is_null()), [false, true, true]);
        assert_eq!(stay(col("a").gt_eq(lit(6i64)).and(col("b").lt(lit(9u64)))), [false, true, true]);
    }

    #[test]
    fn what_may_match_stays() {
        assert_eq!(stay(col("a").gt(lit(5i64)).or(col("u").eq(lit(1i64)))), [true; 3], "a column without bounds");
        assert_eq!(stay(col("u").is_null()), [true; 3]);
        assert_eq!(stay(col("a").not_eq(lit(3i64))), [true; 3]);
        // The optimizer turns it into what can be answered before it comes here.
        assert_eq!(stay(!col("a").lt(lit(6i64))), [true; 3]);
        assert_eq!(stay(cast(col("a"), DataType::Utf8).eq(lit("7"))), [true; 3], "text has another order");
        assert_eq!(stay((col("a") % lit(2i64)).eq(lit(9i64))), [true; 3]);
        assert_eq!(stay(cast(col("b"), DataType::Int64).gt(lit(-1i64))), [true; 3]);
    }

    #[test]
    fn nan_is_greater_than_every_bound() {
        assert_eq!(stay(col("f").gt(lit(100.0))), [true; 3]);
        assert_eq!(stay(lit(100.0).lt_eq(col("f"))), [true; 3]);
        assert_eq!(stay(col("f").not_eq(lit(100.0))), [true; 3]);
        assert_eq!(stay(!col("f").lt(lit(100.0))), [true; 3]);
        assert_eq!(stay(col("f").lt(lit(6.0))), [true, false, true]);
        assert_eq!(stay(col("f").eq(lit(0.5))), [false, false, true]);
    }
}
