//! `RemoteExec`: the rows of another stage, as a leaf of this task's plan.
//!
//! In: output partitions of other tasks, wherever they run. Out: their rows; one partition per plan partition for a
//! shuffle, one in all for a broadcast, one per producer for gather and merge, each in its producer's order; where
//! several tasks gather, the producers are dealt out among them. Memory: one batch per source in hand. Connects at
//! the first poll; dropping a stream tells its producers.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{RecordBatchStream, TaskContext};
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::SchedulingType;
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions, SendableRecordBatchStream,
};
use futures::stream::{SelectAll, select_all};
use futures::{Stream, StreamExt, TryStreamExt};
use sheaf_common::StageId;
use sheaf_planners::boundary::NetworkBoundaryExec;
use sheaf_planners::stage::BoundaryKind;
use tokio::sync::OnceCell;

use crate::client::{FetchStream, FlightClient, Received};
use crate::encoding::with_schema;
use crate::error::external;
use crate::link::{FetchOptions, Link};
use crate::messages::{StageInput, TaskAddress};
use crate::report::BYTES_BY_LINK;

pub(crate) const NAME: &str = "RemoteExec";

/// Which part of its stage the reading task is, and how it reads.
#[derive(Debug, Clone, Copy)]
pub struct Consumer {
    pub task_index: usize,
    pub task_count: usize,
    pub fetch: FetchOptions,
}

/// Replaces every network boundary of a plan by the reading of its producers.
///
/// Errs when a boundary has no producers among `inputs` or does not fit the consumer.
pub fn connect(
    plan: Arc<dyn ExecutionPlan>,
    inputs: &[StageInput],
    consumer: Consumer,
    client: &Arc<FlightClient>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let inputs: HashMap<StageId, &StageInput> = inputs.iter().map(|input| (input.stage, input)).collect();
    let repeated = repeated_stages(&plan)?;
    let plan = plan.transform_up(|node| {
        let Some(boundary) = node.downcast_ref::<NetworkBoundaryExec>() else { return Ok(Transformed::no(node)) };
        let input = inputs
            .get(&boundary.stage)
            .ok_or_else(|| internal_datafusion_err!("a task came without the addresses of stage {}", boundary.stage))?;
        let mut exec = RemoteExec::try_new(boundary, &input.tasks, consumer, client)?;
        if repeated.contains(&boundary.stage) {
            exec.keep_rows();
        }
        Ok(Transformed::yes(Arc::new(exec)))
    })?;
    Ok(plan.data)
}

/// Stages that are read from inside a loop: the recursive term of a recursive query runs once a round.
fn repeated_stages(plan: &Arc<dyn ExecutionPlan>) -> Result<HashSet<StageId>> {
    let mut stages = HashSet::new();
    plan.apply(|node| {
        if let Some(recursive) = node.downcast_ref::<RecursiveQueryExec>() {
            recursive.recursive_term().apply(|node| {
                if let Some(boundary) = node.downcast_ref::<NetworkBoundaryExec>() {
                    stages.insert(boundary.stage);
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(stages)
}

/// One output partition of one task.
#[derive(Debug, Clone)]
struct Source {
    task: TaskAddress,
    partition: usize,
}

/// What a loop reads again: rows of one partition and the account that they are charged to.
#[derive(Debug)]
struct Kept {
    batches: Vec<RecordBatch>,
    _account: MemoryReservation,
}

/// Rows of another stage.
#[derive(Debug)]
pub struct RemoteExec {
    stage: StageId,
    kind: BoundaryKind,
    /// By plan partition.
    sources: Vec<Vec<Source>>,
    properties: Arc<PlanProperties>,
    client: Arc<FlightClient>,
    fetch: FetchOptions,
    metrics: ExecutionPlanMetricsSet,
    /// By plan partition; for a plan that is run again and again, since an exchange can be read only once.
    kept: Option<Vec<Arc<OnceCell<Kept>>>>,
}

impl RemoteExec {
    /// What `consumer` reads over `boundary` from `producers`, which stand in the order of their task index.
    ///
    /// Errs when the number of producers is not the planned one, or the partitions cannot be shared evenly.
    pub fn try_new(
        boundary: &NetworkBoundaryExec,
        producers: &[TaskAddress],
        consumer: Consumer,
        client: &Arc<FlightClient>,
    ) -> Result<Self> {
        if producers.len() != boundary.producers {
            return Err(internal_datafusion_err!(
                "stage {} was planned with {} tasks and has {}",
                boundary.stage,
                boundary.producers,
                producers.len()
            ));
        }
        let planned = boundary.properties().output_partitioning();
        let source = |task: &TaskAddress, partition| Source { task: task.clone(), partition };
        let (sources, partitioning): (Vec<Vec<Source>>, _) = match boundary.kind {
            BoundaryKind::Shuffle => {
                let n = planned.partition_count();
                if n == 0 || !n.is_multiple_of(consumer.task_count) {
                    return Err(internal_datafusion_err!("{n} partitions for {} tasks", consumer.task_count));
                }
                let own = n / consumer.task_count;
                let first = own * consumer.task_index;
                let sources =
                    (first..first + own).map(|g| producers.iter().map(|task| source(task, g)).collect()).collect();
                (sources, with_count(planned, own))
            }
            BoundaryKind::Broadcast => {
                let all = producers.iter().map(|task| source(task, 0)).collect();
                (vec![all], Partitioning::UnknownPartitioning(1))
            }
            BoundaryKind::Gather | BoundaryKind::Merge => {
                // Where a union spreads its inputs over several tasks, each producer has one reader among them.
                let own = producers.iter().skip(consumer.task_index).step_by(consumer.task_count);
                let mut each: Vec<_> = own.map(|task| vec![source(task, 0)]).collect();
                if each.is_empty() {
                    // No plan runs over no partition.
                    each.push(vec![]);
                }
                let partitioning = with_count(planned, each.len());
                (each, partitioning)
            }
        };
        let properties = PlanProperties::clone(boundary.properties())
            .with_partitioning(partitioning)
            .with_scheduling_type(SchedulingType::Cooperative);
        Ok(Self {
            stage: boundary.stage,
            kind: boundary.kind,
            sources,
            properties: Arc::new(properties),
            client: Arc::clone(client),
            fetch: consumer.fetch,
            metrics: ExecutionPlanMetricsSet::new(),
            kept: None,
        })
    }

    /// Lets every partition be executed any number of times, at the price of holding its rows.
    fn keep_rows(&mut self) {
        self.kept = Some(self.sources.iter().map(|_| Arc::default()).collect());
    }

    fn read(&self, partition: usize) -> RemoteStream {
        let fetches = self.sources[partition]
            .iter()
            .map(|source| self.client.fetch(source.task.clone(), source.partition, self.fetch));
        RemoteStream {
            schema: self.schema(),
            sources: select_all(fetches),
            baseline: BaselineMetrics::new(&self.metrics, partition),
            bytes: Link::ALL.map(|link| {
                MetricBuilder::new(&self.metrics).counter(format!("{BYTES_BY_LINK}{}", link.name()), partition)
            }),
        }
    }
}

/// The same partitioning over another number of partitions.
fn with_count(partitioning: &Partitioning, count: usize) -> Partitioning {
    match partitioning {
        Partitioning::Hash(exprs, _) => Partitioning::Hash(exprs.clone(), count),
        _ => Partitioning::UnknownPartitioning(count),
    }
}

impl DisplayAs for RemoteExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{NAME}: {} from stage {}, {}", self.kind.name(), self.stage, self.properties.output_partitioning())
    }
}

impl ExecutionPlan for RemoteExec {
    fn name(&self) -> &str {
        NAME
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(kept) = &self.kept else { return Ok(Box::pin(cooperative(self.read(partition)))) };
        let kept = Arc::clone(&kept[partition]);
        let rows = self.read(partition);
        let account = MemoryConsumer::new("rows read by a loop").register(context.memory_pool());
        let batches = async move {
            let fill = async {
                let mut rows = rows;
                let mut batches = Vec::new();
                while let Some(batch) = rows.try_next().await? {
                    account.try_grow(crate::encoding::batch_bytes(&batch))?;
                    batches.push(batch);
                }
                Ok::<_, DataFusionError>(Kept { batches, _account: account })
            };
            let kept = kept.get_or_try_init(|| fill).await?;
            Ok::<_, DataFusionError>(futures::stream::iter(kept.batches.clone().into_iter().map(Ok)))
        };
        let stream = futures::stream::once(batches).try_flatten();
        Ok(Box::pin(cooperative(RecordBatchStreamAdapter::new(self.schema(), Box::pin(stream)))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// One plan partition: whatever comes first from any of its sources.
struct RemoteStream {
    schema: SchemaRef,
    sources: SelectAll<FetchStream>,
    baseline: BaselineMetrics,
    /// By [`Link`].
    bytes: [Count; Link::ALL.len()],
}

impl RemoteStream {
    fn accept(&self, received: Received) -> Result<RecordBatch> {
        self.bytes[received.link as usize].add(received.bytes);
        with_schema(received.batch, &self.schema).map_err(external)
    }
}

impl Stream for RemoteStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Decoding happens here; the waiting does not count.
        let timer = self.baseline.elapsed_compute().clone();
        let timer = timer.timer();
        let polled = self.sources.poll_next_unpin(context);
        let polled = polled.map(|item| item.map(|item| item.map_err(external).and_then(|it| self.accept(it))));
        drop(timer);
        if let Poll::Ready(Some(Err(_))) = &polled {
            // The other sources are of no use any more.
            self.sources.clear();
        }
        if let Poll::Ready(Some(Ok(batch))) = &polled {
            batch.record_output(&self.baseline);
        }
        polled
    }
}

impl RecordBatchStream for RemoteStream {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }
}
