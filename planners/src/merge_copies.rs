//! The end of a join whose build side was broadcast and whose build rows come out: each row once again.
//!
//! In: what the tasks of the join put out, shuffled by the row id ([`crate::row_id`]) that is their last column. Each
//! task decided by its own share of the probe rows, so a row has up to one copy from each task. Out: each row at most
//! once, in the order in which that was decided, without the row id; the input's partitions. Memory: 8 bytes and an
//! id for each row that came; it does not spill, since every task of the join held the same rows in full.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, UInt64Type};
use datafusion::common::stats::Precision;
use datafusion::common::{HashMap, Result, Statistics, internal_datafusion_err, internal_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionMapping;
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::StreamExt;

/// Which rows go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Those that any task sent: a semi join, where a task sends what it found a match for.
    FromAny,
    /// Those that every task sent: an anti join, where a task sends what it found no match for.
    FromAll,
    /// All, with `true` in this column if any task says so: a mark join.
    Marked { column: usize },
}

/// Puts the copies of build rows together.
#[derive(Debug, Clone)]
pub struct MergeCopiesExec {
    input: Arc<dyn ExecutionPlan>,
    keep: Keep,
    tasks: usize,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl MergeCopiesExec {
    /// `tasks` is exactly the number of tasks that the join ran in.
    ///
    /// Errs when the input's last column is no row id, or the mark is none.
    pub fn try_new(input: Arc<dyn ExecutionPlan>, keep: Keep, tasks: usize) -> Result<Self> {
        let before = input.schema();
        let Some((id, columns)) = before.fields().split_last() else {
            return internal_err!("copies of rows without a column");
        };
        if *id.data_type() != DataType::UInt64 || id.is_nullable() {
            return internal_err!("copies of rows are told apart by {id}, which is no row id");
        }
        if let Keep::Marked { column } = keep
            && !columns.get(column).is_some_and(|it| *it.data_type() == DataType::Boolean && !it.is_nullable())
        {
            return internal_err!("column {column} of a mark join's copies is no mark");
        }
        if u32::try_from(tasks).is_err() || tasks == 0 {
            return internal_err!("copies of rows from {tasks} tasks");
        }
        let indices: Vec<usize> = (0..columns.len()).collect();
        let schema = Arc::new(before.project(&indices)?);
        let kept = ProjectionMapping::from_indices(&indices, &before)?;
        let properties = PlanProperties::new(
            input.equivalence_properties().project(&kept, schema),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Ok(Self { input, keep, tasks, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() })
    }

    pub fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }

    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// Tasks of the join.
    pub fn tasks(&self) -> usize {
        self.tasks
    }
}

impl DisplayAs for MergeCopiesExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "MergeCopiesExec: keep={:?}, tasks={}", self.keep, self.tasks)
    }
}

impl ExecutionPlan for MergeCopiesExec {
    fn name(&self) -> &str {
        "MergeCopiesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let schema = self.input.schema();
        let last = schema.fields().len() - 1;
        let id: Arc<dyn PhysicalExpr> = Arc::new(Column::new(schema.field(last).name(), last));
        InputDistributionRequirements::new(vec![Distribution::KeyPartitioned(vec![id])])
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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
        Ok(Arc::new(Self::try_new(children.swap_remove(0), self.keep, self.tasks)?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let reservation = MemoryConsumer::new(format!("MergeCopies[{partition}]")).register(context.memory_pool());
        let mut copies = Copies { keep: self.keep, tasks: self.tasks as u32, seen: HashMap::default(), reservation };
        let input = self.input.execute(partition, context)?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let rows = input.filter_map(move |batch| {
            let kept = batch.and_then(|batch| {
                let _timer = metrics.elapsed_compute().timer();
                Ok(copies.merge(&batch)?.record_output(&metrics))
            });
            let is_worth_passing = kept.as_ref().map_or(true, |batch| batch.num_rows() > 0);
            std::future::ready(is_worth_passing.then_some(kept))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    /// The join's own estimate: that is of what all tasks find together.
    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::clone(&inputs[0]).to_inexact();
        let ids = statistics.num_rows.multiply(&Precision::Exact(size_of::<u64>()));
        statistics.total_byte_size = statistics.total_byte_size.sub(&ids);
        statistics.column_statistics.pop();
        Ok(Arc::new(statistics))
    }
}

/// What is known of one row so far.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    copies: u32,
    /// It went on already.
    passed: bool,
}

/// The rows of one partition.
struct Copies {
    keep: Keep,
    tasks: u32,
    seen: HashMap<u64, Seen>,
    reservation: MemoryReservation,
}

/// Bytes of an entry, with its control byte and the slots that the map leaves free.
const ENTRY_BYTES: usize = (size_of::<(u64, Seen)>() + 1) * 8 / 7 + 1;

impl Copies {
    /// The rows of which this batch has the copy that decides.
    fn merge(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let n_columns = batch.num_columns() - 1;
        let ids = batch.column(n_columns).as_primitive_opt::<UInt64Type>();
        let ids = ids.ok_or_else(|| internal_datafusion_err!("a row id that is no UInt64"))?;
        let marks = match self.keep {
            Keep::Marked { column } => batch.column(column).as_boolean_opt(),
            Keep::FromAny | Keep::FromAll => None,
        };
        let decided_by = match self.keep {
            Keep::FromAny => 1,
            Keep::FromAll | Keep::Marked { .. } => self.tasks,
        };
        let mut passes = Vec::with_capacity(batch.num_rows());
        for (row, id) in ids.values().iter().enumerate() {
            let seen = self.seen.entry(*id).or_default();
            seen.copies += 1;
            if seen.copies > self.tasks {
                return internal_err!("{} tasks sent {} copies of row {id}", self.tasks, seen.copies);
            }
            let is_marked = marks.is_some_and(|marks| marks.is_valid(row) && marks.value(row));
            let pass = !seen.passed && (is_marked || seen.copies == decided_by);
            seen.passed |= pass;
            passes.push(pass);
        }
        self.reservation.try_resize(self.seen.capacity() * ENTRY_BYTES)?;
        let columns: Vec<usize> = (0..n_columns).collect();
        Ok(filter_record_batch(&batch.project(&columns)?, &BooleanArray::from(passes))?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, UInt64Array};
    use arrow::datatypes::{Field, Schema, SchemaRef};
    use datafusion::common::exec_err;
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::physical_plan::collect;
    use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

    use super::*;

    /// Value, mark, row id.
    type Row = (Option<i64>, bool, u64);

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("mark", DataType::Boolean, false),
            Field::new("row_id", DataType::UInt64, false),
        ]))
    }

    fn batch(rows: &[Row]) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
            Arc::new(BooleanArray::from(rows.iter().map(|row| row.1).collect::<Vec<_>>())),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.2))),
        ];
        RecordBatch::try_new(schema(), columns).unwrap()
    }

    async fn run(
        context: TaskContext,
        keep: Keep,
        tasks: usize,
        batches: &[&[Row]],
    ) -> Result<Vec<(Option<i64>, bool)>> {
        let batches = batches.iter().map(|rows| batch(rows)).collect();
        let input = MemorySourceConfig::try_new_exec(&[batches], schema(), None).unwrap();
        let plan = MergeCopiesExec::try_new(input, keep, tasks).unwrap();
        let mut rows = vec![];
        for batch in collect(Arc::new(plan), Arc::new(context)).await? {
            assert!(batch.num_rows() > 0 && batch.num_columns() == 2);
            let (values, marks) = (batch.column(0).as_primitive::<arrow::datatypes::Int64Type>(), batch.column(1));
            rows.extend(values.iter().zip(marks.as_boolean().values()));
        }
        Ok(rows)
    }

    async fn check(keep: Keep, tasks: usize, batches: &[&[Row]], expected: &[(Option<i64>, bool)]) {
        let rows = run(TaskContext::default(), keep, tasks, batches).await.unwrap();
        assert_eq!(rows, expected, "{keep:?} of {tasks}");
    }

    /// Equal values are different rows when their ids are.
    const COPIES: &[&[Row]] = &[
        &[(None, false, 3), (Some(7), false, 1), (Some(7), true, 2)],
        &[],
        &[(Some(7), false, 2), (Some(7), false, 1), (None, true, 3), (Some(8), false, 9)],
    ];

    #[tokio::test]
    async fn a_row_from_any_task_comes_once() {
        let expected = [(None, false), (Some(7), false), (Some(7), true), (Some(8), false)];
        check(Keep::FromAny, 2, COPIES, &expected).await;
    }

    #[tokio::test]
    async fn a_row_must_come_from_all_tasks() {
        check(Keep::FromAll, 2, COPIES, &[(Some(7), false), (Some(7), false), (None, true)]).await;
        check(Keep::FromAll, 3, COPIES, &[]).await;
    }

    #[tokio::test]
    async fn one_task_is_enough_for_a_mark() {
        let expected = [(Some(7), true), (Some(7), false), (None, true)];
        check(Keep::Marked { column: 1 }, 2, COPIES, &expected).await;
    }

    #[tokio::test]
    async fn one_task_has_all_rows() {
        let rows: &[&[Row]] = &[&[(Some(1), false, 5), (None, true, 6)]];
        for keep in [Keep::FromAny, Keep::FromAll, Keep::Marked { column: 1 }] {
            check(keep, 1, rows, &[(Some(1), false), (None, true)]).await;
            check(keep, 1, &[], &[]).await;
        }
    }

    #[tokio::test]
    async fn more_copies_than_tasks_are_an_error() {
        for keep in [Keep::FromAny, Keep::FromAll, Keep::Marked { column: 1 }] {
            let error = run(TaskContext::default(), keep, 1, COPIES).await.unwrap_err();
            assert!(error.to_string().contains("1 tasks sent 2 copies of row 2"), "{error}");
        }
    }

    #[tokio::test]
    async fn memory_is_asked_for() {
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(16, 1.0).build_arc().unwrap();
        let context = TaskContext::default().with_runtime(runtime);
        let error = run(context, Keep::FromAny, 2, COPIES).await.unwrap_err();
        assert!(error.to_string().contains("MergeCopies[0]"), "{error}");
    }

    #[derive(Debug)]
    struct Broken(SchemaRef);

    impl PartitionStream for Broken {
        fn schema(&self) -> &SchemaRef {
            &self.0
        }

        fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
            let rows = futures::stream::iter([Ok(batch(COPIES[0])), exec_err!("the disk is gone")]);
            Box::pin(RecordBatchStreamAdapter::new(schema(), rows))
        }
    }

    #[tokio::test]
    async fn an_input_that_fails_fails_it() {
        let broken = vec![Arc::new(Broken(schema())) as Arc<dyn PartitionStream>];
        let input = StreamingTableExec::try_new(schema(), broken, None, vec![], false, None).unwrap();
        let plan = MergeCopiesExec::try_new(Arc::new(input), Keep::FromAny, 2).unwrap();
        let error = collect(Arc::new(plan), Arc::new(TaskContext::default())).await.unwrap_err();
        assert!(error.to_string().contains("the disk is gone"), "{error}");
    }

    #[test]
    fn what_has_no_row_id_is_refused() {
        let of = |columns: &[usize]| {
            let schema = Arc::new(schema().project(columns).unwrap());
            MemorySourceConfig::try_new_exec(&[vec![]], schema, None).unwrap()
        };
        assert!(MergeCopiesExec::try_new(of(&[0, 1]), Keep::FromAny, 2).is_err());
        assert!(MergeCopiesExec::try_new(of(&[]), Keep::FromAny, 2).is_err());
        assert!(MergeCopiesExec::try_new(of(&[0, 1, 2]), Keep::Marked { column: 0 }, 2).is_err());
        assert!(MergeCopiesExec::try_new(of(&[0, 1, 2]), Keep::Marked { column: 2 }, 2).is_err());
        assert!(MergeCopiesExec::try_new(of(&[0, 1, 2]), Keep::FromAll, 0).is_err());
    }
}
