//! One more column: a number for each row.
//!
//! In: any partitions, any order. Out: the same rows in the same order, and as last column `row_id: UInt64`, never
//! NULL. No two rows of all tasks of the stage have the same number; the numbers mean nothing else, have gaps, and
//! are others in the next attempt. Memory: one batch.
//!
//! A broadcast build side gets it before it is sent, so that each task that joins with it knows a row by the same
//! number ([`crate::merge_copies`]).

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Result, Statistics, internal_datafusion_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::projection::ProjectionMapping;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, ReplaceChildrenOptions,
};
use futures::StreamExt;

use crate::leaf::DistributedTaskContext;

/// The column's name. A column of the input may have it too: plans find columns by position.
pub const ROW_ID: &str = "row_id";

/// Numbers the rows of its input.
#[derive(Debug, Clone)]
pub struct RowIdExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl RowIdExec {
    /// Errs only when the input's own properties contradict its schema.
    pub fn try_new(input: Arc<dyn ExecutionPlan>) -> Result<Self> {
        let before = input.schema();
        let id = Arc::new(Field::new(ROW_ID, DataType::UInt64, false));
        let fields: Vec<_> = before.fields().iter().cloned().chain([id]).collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, before.metadata().clone()));
        // All columns stay where they are, so what is known of them holds.
        let columns: Vec<usize> = (0..before.fields().len()).collect();
        let kept = ProjectionMapping::from_indices(&columns, &before)?;
        let properties = PlanProperties::new(
            input.equivalence_properties().project(&kept, schema),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Ok(Self { input, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() })
    }

    pub fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }
}

impl DisplayAs for RowIdExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "RowIdExec")
    }
}

impl ExecutionPlan for RowIdExec {
    fn name(&self) -> &str {
        "RowIdExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
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
        Ok(Arc::new(Self::try_new(children.swap_remove(0))?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let partitions = self.properties.partitioning.partition_count();
        let mut ids = RowIds::new(partition, partitions, DistributedTaskContext::of(&context))?;
        let input = self.input.execute(partition, context)?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let schema = self.schema();
        let of_rows = Arc::clone(&schema);
        let rows = input.map(move |batch| {
            let batch = batch?;
            let _timer = metrics.elapsed_compute().timer();
            Ok(ids.add(&batch, &of_rows)?.record_output(&metrics))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::clone(&inputs[0]);
        let ids = statistics.num_rows.multiply(&Precision::Exact(size_of::<u64>()));
        statistics.total_byte_size = statistics.total_byte_size.add(&ids);
        statistics.column_statistics.push(ColumnStatistics::new_unknown());
        Ok(Arc::new(statistics))
    }
}

/// The numbers of one partition: every `step`th, from one of its own.
struct RowIds {
    next: u64,
    step: u64,
}

impl RowIds {
    /// Tasks may have different numbers of partitions: the task tells the numbers apart first, then the partition.
    fn new(partition: usize, partitions: usize, place: DistributedTaskContext) -> Result<Self> {
        let (tasks, task) = (place.task_count as u64, place.task_index as u64);
        let first = (partition as u64).checked_mul(tasks).and_then(|it| it.checked_add(task));
        let step = (partitions as u64).checked_mul(tasks);
        match (first, step) {
            (Some(next), Some(step)) => Ok(Self { next, step }),
            _ => Err(internal_datafusion_err!("{partitions} partitions of {tasks} tasks have no row ids")),
        }
    }

    fn add(&mut self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        let n_rows = batch.num_rows() as u64;
        let after = n_rows.checked_mul(self.step).and_then(|it| it.checked_add(self.next));
        let after = after.ok_or_else(|| internal_datafusion_err!("the row ids are used up"))?;
        let (first, step) = (self.next, self.step);
        self.next = after;
        let ids: ArrayRef = Arc::new(UInt64Array::from_iter_values((0..n_rows).map(|row| first + row * step)));
        let columns = batch.columns().iter().cloned().chain([ids]).collect();
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arrow::array::{Array, AsArray, Int64Array};
    use arrow::datatypes::UInt64Type;
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::physical_plan::execute_stream_partitioned;
    use datafusion::prelude::SessionConfig;
    use futures::TryStreamExt;

    use super::*;

    fn batch(values: Vec<Option<i64>>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([("a", Arc::new(Int64Array::from(values)) as ArrayRef, true)]).unwrap()
    }

    async fn run(partitions: &[Vec<RecordBatch>], task_index: usize, task_count: usize) -> Vec<Vec<RecordBatch>> {
        let schema = batch(vec![]).schema();
        let plan = RowIdExec::try_new(MemorySourceConfig::try_new_exec(partitions, schema, None).unwrap()).unwrap();
        let place = DistributedTaskContext { task_index, task_count };
        let config = SessionConfig::new().with_extension(Arc::new(place));
        let context = Arc::new(TaskContext::default().with_session_config(config));
        let streams = execute_stream_partitioned(Arc::new(plan), context).unwrap();
        futures::future::try_join_all(streams.into_iter().map(TryStreamExt::try_collect)).await.unwrap()
    }

    #[tokio::test]
    async fn no_number_comes_twice_and_every_row_stays() {
        let three = || batch(vec![Some(1), None, Some(1)]);
        let mut seen = BTreeSet::new();
        // The second task has fewer partitions than the others.
        for (task, partitions) in [(0, 3), (1, 1), (2, 3)] {
            let input = vec![vec![three(), batch(vec![]), three()]; partitions];
            for (output, input) in run(&input, task, 3).await.iter().zip(&input) {
                for (output, input) in output.iter().zip(input) {
                    assert_eq!(output.column(0), input.column(0));
                    let ids = output.column(1).as_primitive::<UInt64Type>();
                    assert_eq!(ids.null_count(), 0);
                    assert!(ids.values().iter().all(|id| seen.insert(*id)), "{ids:?} of task {task}");
                }
            }
        }
        assert_eq!(seen.len(), 7 * 6);
    }

    #[tokio::test]
    async fn an_empty_input_has_no_rows() {
        assert_eq!(run(&[vec![]], 0, 1).await, [vec![]]);
    }

    #[test]
    fn too_many_rows_are_an_error() {
        let place = DistributedTaskContext { task_index: 0, task_count: usize::MAX };
        assert!(RowIds::new(1, 2, place).is_err());
        let mut ids = RowIds { next: u64::MAX - 1, step: 1 };
        let schema = Arc::new(Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new(ROW_ID, DataType::UInt64, false),
        ]));
        assert!(ids.add(&batch(vec![Some(1), Some(2)]), &schema).is_err());
    }
}
