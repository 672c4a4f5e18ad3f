//! Keeps a scan of Parquet from leaving out NaN.
//!
//! Writers pass over NaN when they work out a column's bounds, and the engine sorts it above all numbers. A row group
//! whose greatest number is 5 may hold rows for which `x > 100` is true, and DataFusion's reader would skip it. Lower
//! bounds do no harm. So what a scan prunes by loses the conditions that an upper bound would answer; the filter above
//! the scan keeps them.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, IsNotNullExpr, IsNullExpr, Literal, lit};
use datafusion::physical_expr::{PhysicalExpr, conjunction, split_conjunction};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

use crate::leaf::file_scan;

/// Comes after every rule that gives scans something to prune by.
#[derive(Debug)]
pub struct KeepNan;

impl PhysicalOptimizerRule for KeepNan {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| match mended(&node) {
            Some(mended) => Ok(Transformed::yes(mended)),
            None => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "KeepNan"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The scan with what is safe to prune by, if that is not what it has.
fn mended(node: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let (exec, config) = file_scan(node)?;
    let source = config.file_source().downcast_ref::<ParquetSource>()?;
    let predicate = source.filter()?;
    let schema = source.table_schema().table_schema();
    let parts = split_conjunction(&predicate);
    let safe: Vec<_> = parts.iter().filter(|part| is_safe(part, schema)).map(|part| Arc::clone(part)).collect();
    if safe.len() == parts.len() {
        return None;
    }
    let source = match source.table_parquet_options().global.pushdown_filters {
        // The scan itself filters by it: all it can do without is the pruning.
        true => {
            let mut options = source.table_parquet_options().clone();
            options.global.pruning = false;
            options.global.enable_page_index = false;
            source.clone().with_table_parquet_options(options)
        }
        false if safe.is_empty() => source.with_predicate(lit(true)),
        false => source.with_predicate(conjunction(safe)),
    };
    let keeps_filter = source.table_parquet_options().global.pushdown_filters;
    let source: Arc<dyn FileSource> = Arc::new(source);
    let mut builder = FileScanConfigBuilder::from(config.clone()).with_source(source);
    if keeps_filter {
        // Whole files are left out by their bounds whatever the options say.
        let without_bounds = |file: &PartitionedFile| PartitionedFile { statistics: None, ..file.clone() };
        let groups = config.file_groups.iter().map(|it| FileGroup::new(it.iter().map(without_bounds).collect()));
        builder = builder.with_file_groups(groups.collect());
    }
    let config = builder.build();
    Some(Arc::new(exec.clone().with_data_source(Arc::new(config))))
}

/// Whether no upper bound of a column of floats decides on a condition.
fn is_safe(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    if !reads_floats(expr, schema) {
        return true;
    }
    if let Some(inner) = expr.downcast_ref::<IsNullExpr>() {
        return inner.arg().downcast_ref::<Column>().is_some();
    }
    if let Some(inner) = expr.downcast_ref::<IsNotNullExpr>() {
        return inner.arg().downcast_ref::<Column>().is_some();
    }
    let Some(binary) = expr.downcast_ref::<BinaryExpr>() else { return false };
    let (left, right) = (binary.left(), binary.right());
    match binary.op() {
        Operator::And | Operator::Or => is_safe(left, schema) && is_safe(right, schema),
        // A number is not NaN: both bounds are those of all rows that can equal it.
        Operator::Eq => is_column_and_number(left, right) || is_column_and_number(right, left),
        Operator::Lt | Operator::LtEq => is_column_and_number(left, right),
        Operator::Gt | Operator::GtEq => is_column_and_number(right, left),
        _ => false,
    }
}

fn is_column_and_number(column: &Arc<dyn PhysicalExpr>, number: &Arc<dyn PhysicalExpr>) -> bool {
    let Some(number) = number.downcast_ref::<Literal>() else { return false };
    let is_nan = match number.value() {
        ScalarValue::Float16(value) => value.is_some_and(|it| it.to_f32().is_nan()),
        ScalarValue::Float32(value) => value.is_some_and(f32::is_nan),
        ScalarValue::Float64(value) => value.is_some_and(f64::is_nan),
        _ => false,
    };
    column.downcast_ref::<Column>().is_some() && !is_nan
}

/// Also what it will only read when it runs: the filter that a sort or a join narrows down meanwhile.
fn reads_floats(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    let is_float = |it: &Arc<dyn PhysicalExpr>| it.data_type(schema).is_ok_and(|it| it.is_floating());
    // The closure never errs.
    expr.exists(|it| Ok(it.downcast_ref::<Column>().is_some() && is_float(it))).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch};
    use arrow::datatypes::Int64Type;
    use datafusion::execution::session_state::SessionStateBuilder;
    use datafusion::parquet::arrow::ArrowWriter;
    use datafusion::parquet::file::properties::WriterProperties;
    use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};

    use super::*;

    /// Two row groups: 1 to 4 with a NaN, and 10 to 14. `id` counts the rows.
    fn file() -> tempfile::NamedTempFile {
        let x = vec![1.0, 2.0, f64::NAN, 3.0, 4.0, 10.0, 11.0, 12.0, 13.0, 14.0];
        let columns = [
            ("id", Arc::new(Int64Array::from_iter_values(0..10)) as ArrayRef),
            ("x", Arc::new(Float64Array::from(x)) as ArrayRef),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let file = tempfile::Builder::new().suffix(".parquet").tempfile().unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(5)).build();
        let mut writer =
            ArrowWriter::try_new(File::create(file.path()).unwrap(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        file
    }

    async fn session(file: &tempfile::NamedTempFile, pushdown: bool) -> SessionContext {
        let config = SessionConfig::new()
            .with_target_partitions(1)
            .set_bool("datafusion.execution.parquet.pushdown_filters", pushdown);
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features()
            .with_physical_optimizer_rule(Arc::new(KeepNan))
            .build();
        let session = SessionContext::new_with_state(state);
        let path = file.path().to_str().unwrap();
        session.register_parquet("t", path, ParquetReadOptions::default()).await.unwrap();
        session
    }

    #[tokio::test]
    async fn no_row_is_lost() {
        let file = file();
        for pushdown in [false, true] {
            let session = session(&file, pushdown).await;
            for (filter, expected) in [
                ("x > 5", vec![2, 5, 6, 7, 8, 9]),
                ("x >= 14", vec![2, 9]),
                ("5 < x and id < 4", vec![2]),
                ("not (x < 5)", vec![2, 5, 6, 7, 8, 9]),
                ("x <> 12 and x > 11", vec![2, 8, 9]),
                ("x < 2 or x > 13", vec![0, 2, 9]),
                ("x between 2 and 10", vec![1, 3, 4, 5]),
                ("x + 1 > 14", vec![2, 9]),
                ("x = 'NaN'::double", vec![2]),
                ("x in (1, 14)", vec![0, 9]),
            ] {
                let sql = format!("select id from t where {filter} order by id");
                let batches = session.sql(&sql).await.unwrap().collect().await.unwrap();
                let ids: Vec<i64> =
                    batches.iter().flat_map(|it| it.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
                assert_eq!(ids, expected, "{filter}, pushdown {pushdown}");
            }
            if pushdown {
                // What a sort narrows down meanwhile still leaves rows out there: see the documentation's limits.
                continue;
            }
            let batches =
                session.sql("select id from t order by x desc limit 1").await.unwrap().collect().await.unwrap();
            assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().values().to_vec(), [2]);
        }
    }

    #[tokio::test]
    async fn lower_bounds_still_prune() {
        let file = file();
        let session = session(&file, false).await;
        let plan = async |filter: &str| {
            let frame = session.sql(&format!("select id from t where {filter}")).await.unwrap();
            let plan = frame.create_physical_plan().await.unwrap();
            datafusion::physical_plan::displayable(plan.as_ref()).indent(false).to_string()
        };
        assert!(plan("x < 5").await.contains("pruning_predicate"));
        assert!(plan("id > 7 and x > 5").await.contains("id_max"));
        assert!(!plan("id > 7 and x > 5").await.contains("x_max"));
    }
}
