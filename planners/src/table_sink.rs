//! The top of a plan that writes a table: rows go into files, and what comes out is one row for each file.
//!
//! In: any partitions, the table's columns in the table's order. Out: [`files_schema`], a row for each file, in any
//! order, once the file is whole. Memory: what [`TableWriter`] asks the pool for. Dropped before its end, it removes
//! what it wrote. The files are not part of the table until whoever reads the rows commits them.
//!
//! How files are written is not known here: [`TableWriter`] comes with the session's configuration.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Result, Statistics, internal_datafusion_err, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning};
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, ReplaceChildrenOptions,
};
use serde::{Deserialize, Serialize};

/// What is written, apart from the rows: the same for every task of a statement.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkTarget {
    /// The URL of the folder.
    pub location: String,
    /// The URL under which a query's stores have the one to write to; none for the server's own storage of tables.
    #[serde(default)]
    pub store: Option<String>,
    #[serde(default)]
    pub format: SinkFormat,
    /// Rows are read from files to be loaded: see [`LOAD_COLUMNS`]. The rows that may be left out.
    #[serde(default)]
    pub rejects_max: Option<u64>,
    /// The statement that writes: part of each file's name, so that its files can be told from others.
    pub statement: String,
    /// Columns by whose values rows are parted into folders; they are not in the files.
    pub partition_columns: Vec<String>,
    /// Bytes of a file at which the next one is begun.
    pub file_bytes: u64,
    /// Columns that get a Bloom filter.
    pub bloom_columns: Vec<String>,
}

/// How files are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SinkFormat {
    /// Parquet as a table of ours has it, with a description for its log.
    #[default]
    Table,
    /// `zstd`, `snappy`, `gzip`, `lz4` or `none`.
    Parquet {
        compression: String,
    },
    Csv {
        header: bool,
        delimiter: u8,
        null: String,
    },
    Json,
    Arrow,
}

/// Columns behind a table's own in rows that are loaded: the file that a row is from, and why it is left out.
pub const LOAD_COLUMNS: [&str; 2] = ["__sheaf_source", "__sheaf_error"];

/// Writes one partition's rows. Implemented where storage is known.
pub trait TableWriter: Send + Sync + fmt::Debug {
    /// The rows of [`files_schema`] for the files that `rows` became. `schema` is the table's, and says which columns
    /// have no NULL; the rows have its types, under any nullability.
    fn write(
        &self,
        target: &SinkTarget,
        schema: &SchemaRef,
        rows: SendableRecordBatchStream,
        metrics: BaselineMetrics,
        context: &TaskContext,
    ) -> Result<SendableRecordBatchStream>;
}

/// The extension of a `SessionConfig` that holds the writer.
#[derive(Debug)]
pub struct TableWriters(pub Arc<dyn TableWriter>);

/// What comes out: a description of each file, as its writer and its reader agreed, and the rows in it; or, in
/// `source`, one of what was loaded from a file and its rows.
pub fn files_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("file", DataType::Utf8, true),
        Field::new("rows", DataType::UInt64, false),
        Field::new("source", DataType::Utf8, true),
    ]))
}

/// Writes its input.
#[derive(Debug, Clone)]
pub struct TableSinkExec {
    input: Arc<dyn ExecutionPlan>,
    target: SinkTarget,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl TableSinkExec {
    /// Errs when the input does not have the types of the table's columns, in their order.
    pub fn try_new(input: Arc<dyn ExecutionPlan>, target: SinkTarget, schema: SchemaRef) -> Result<Self> {
        let given = input.schema();
        let n_more = if target.rejects_max.is_some() { LOAD_COLUMNS.len() } else { 0 };
        let is_alike = given.fields().len() == schema.fields().len() + n_more
            && given.fields().iter().zip(schema.fields()).all(|(a, b)| a.data_type() == b.data_type());
        if !is_alike {
            return internal_err!("rows of {given:?} for a table of {schema:?}");
        }
        let properties = PlanProperties::new(
            EquivalenceProperties::new(files_schema()),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            input.boundedness(),
        );
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Self { input, target, schema, properties: Arc::new(properties), metrics })
    }

    pub fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }

    pub fn target(&self) -> &SinkTarget {
        &self.target
    }

    /// The table's columns.
    pub fn table_schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl DisplayAs for TableSinkExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "TableSinkExec")?;
        if !self.target.partition_columns.is_empty() {
            write!(f, ": partitioned by {}", self.target.partition_columns.join(", "))?;
        }
        Ok(())
    }
}

impl ExecutionPlan for TableSinkExec {
    fn name(&self) -> &str {
        "TableSinkExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    crate::one_input!();

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (target, schema) = (self.target.clone(), Arc::clone(&self.schema));
        Ok(Arc::new(Self::try_new(children.swap_remove(0), target, schema)?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let writers = context.session_config().get_extension::<TableWriters>();
        let writers = writers.ok_or_else(|| internal_datafusion_err!("this process has no writer of tables"))?;
        let rows = self.input.execute(partition, Arc::clone(&context))?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        writers.0.write(&self.target, &self.schema, rows, metrics, &context)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::new(Statistics::new_unknown(&files_schema())))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::datasource::memory::MemorySourceConfig;

    use super::*;

    fn target() -> SinkTarget {
        SinkTarget { location: "file:///t/".into(), statement: "s".into(), file_bytes: 1, ..SinkTarget::default() }
    }

    fn schema(data_type: DataType, nullable: bool) -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("a", data_type, nullable)]))
    }

    #[test]
    fn rows_of_other_types_are_refused() {
        let input = || MemorySourceConfig::try_new_exec(&[vec![]], schema(DataType::Int64, true), None).unwrap();
        assert!(TableSinkExec::try_new(input(), target(), schema(DataType::Int64, false)).is_ok());
        assert!(TableSinkExec::try_new(input(), target(), schema(DataType::Int32, true)).is_err());
        assert!(TableSinkExec::try_new(input(), target(), Arc::new(Schema::empty())).is_err());
    }

    #[test]
    fn without_a_writer_nothing_is_written() {
        let input = MemorySourceConfig::try_new_exec(&[vec![]], schema(DataType::Int64, true), None).unwrap();
        let sink = TableSinkExec::try_new(input, target(), schema(DataType::Int64, true)).unwrap();
        let error = sink.execute(0, Arc::new(TaskContext::default())).err().unwrap().to_string();
        assert!(error.contains("no writer of tables"), "{error}");
    }
}
