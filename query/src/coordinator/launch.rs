//! Sends the tasks of one plan to their workers and listens to what becomes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, try_join_all};
use futures::stream::{BoxStream, SelectAll, select_all};
use sheaf_common::{ErrorCode, StageId, TaskId, WireError};
use sheaf_flight::client::TaskEvents;
use sheaf_flight::messages::{StageInput, StageSubmit, TaskAddress, TaskSpec};
use sheaf_flight::remote_exec::{Consumer, connect};
use sheaf_flight::{FetchOptions, SubmitRequest, TaskEvent, WorkerAddress, codec};
use sheaf_planners::boundary::NetworkBoundaryExec;
use sheaf_planners::reschedule::{PlacedTask, Worker};
use sheaf_planners::stage::StagePlan;

use super::QueryPlan;
use crate::context::QueryContext;
use crate::error::QueryError;

/// What a worker said of a task, or that the worker is no more.
pub(super) type Event = (Worker, Result<TaskEvent, WireError>);

/// The tasks of one root, running. Dropping it ends them.
pub(super) struct Launched {
    /// The root with its boundaries connected.
    pub root: Arc<dyn ExecutionPlan>,
    /// One lease a worker, all together. None of them ends by itself.
    pub events: SelectAll<BoxStream<'static, Event>>,
    pub n_tasks: usize,
}

/// Starts all that `root` reads, directly or through other stages.
///
/// Errs when a worker does not answer within `task_start_timeout_ms` or refuses; nothing is left running then.
pub(super) async fn launch(
    context: &QueryContext,
    plan: &QueryPlan,
    root: &Arc<dyn ExecutionPlan>,
) -> Result<Launched, QueryError> {
    let ids = stages_below(plan, root)?;
    let stages: Vec<&StagePlan> = plan.distributed.stages.iter().filter(|it| ids.contains(&it.stage)).collect();
    let timeout = Duration::from_millis(context.settings.task_start_timeout_ms.max(1));
    let mut by_worker: BTreeMap<&str, (&Worker, Vec<StageSubmit>)> = BTreeMap::new();
    for stage in &stages {
        let bytes = codec::encode_stage(&stage.plan, &stage.output).map_err(WireError::from)?;
        let placed = plan.placement.stages.get(&stage.stage).map(Vec::as_slice).unwrap_or_default();
        for task in placed {
            let (_, submits) = by_worker.entry(&task.worker.id).or_insert_with(|| (&task.worker, vec![]));
            if submits.last().is_none_or(|last| last.stage != stage.stage) {
                submits.push(StageSubmit {
                    stage: stage.stage,
                    plan: bytes.clone(),
                    output_partitions: stage.output.partitions() as u32,
                    readers: stage.readers as u32,
                    task_count: stage.task_count as u32,
                    partitions_per_task: stage.partitions_per_task as u32,
                    inputs: stage.inputs.iter().map(|it| input(context, plan, *it)).collect(),
                    tasks: vec![],
                });
            }
            if let Some(submit) = submits.last_mut() {
                let splits = task.splits.clone();
                submit.tasks.push(TaskSpec { task: task.task as u32, attempt: 0, splits });
            }
        }
    }
    let config = codec::encode_config(context.session_state.config());
    let mut submits: Vec<BoxFuture<'_, Result<(&Worker, TaskEvents), QueryError>>> = vec![];
    for (worker, stages) in by_worker.into_values() {
        let request = SubmitRequest {
            query: context.query,
            coordinator: context.engine.options().node_name.clone(),
            worker: worker.id.clone(),
            config: config.clone(),
            settings: context.settings.clone(),
            now_ns: now_ns(context),
            deadline_ms: remaining_ms(context),
            stages,
        };
        submits.push(submit(context, worker, request, timeout).boxed());
    }
    let leases = try_join_all(submits).await?;
    let events = leases.into_iter().map(|(worker, events)| {
        let (here, gone) = (worker.clone(), worker.clone());
        let ended = futures::stream::once(async move {
            let text = format!("worker {} ({}:{}) gave up the query", gone.name, gone.host, gone.port);
            let error = WireError::new(ErrorCode::WorkerLost, text).retryable();
            (gone, Err(error))
        });
        events.map(move |event| (here.clone(), event)).chain(ended).boxed()
    });
    let inputs: Vec<StageInput> = ids.iter().map(|it| input(context, plan, *it)).collect();
    let consumer = Consumer { task_index: 0, task_count: 1, fetch: FetchOptions::of(&context.settings) };
    let root = connect(Arc::clone(root), &inputs, consumer, context.engine.client())?;
    let n_tasks = stages.iter().map(|stage| stage.task_count).sum();
    Ok(Launched { root, events: select_all(events), n_tasks })
}

async fn submit<'a>(
    context: &QueryContext,
    worker: &'a Worker,
    request: SubmitRequest,
    timeout: Duration,
) -> Result<(&'a Worker, TaskEvents), QueryError> {
    let submitted = context.engine.client().submit(&address(worker), request, timeout).await;
    let events = submitted.inspect_err(|error| lost(context, worker, error))?;
    Ok((worker, events))
}

/// Tells the membership of a worker that could not be reached, before its heartbeats are missed.
pub(super) fn lost(context: &QueryContext, worker: &Worker, error: &WireError) {
    if error.code == ErrorCode::WorkerLost {
        context.engine.workers().report_lost(&worker.id);
    }
}

/// The stages that a plan reads, directly or not.
fn stages_below(plan: &QueryPlan, root: &Arc<dyn ExecutionPlan>) -> Result<BTreeSet<StageId>, QueryError> {
    let mut found = BTreeSet::new();
    let mut todo = vec![];
    root.apply(|node| {
        todo.extend(node.downcast_ref::<NetworkBoundaryExec>().map(|it| it.stage));
        Ok(TreeNodeRecursion::Continue)
    })?;
    while let Some(id) = todo.pop() {
        if found.insert(id)
            && let Some(stage) = plan.distributed.stage(id)
        {
            todo.extend(&stage.inputs);
        }
    }
    Ok(found)
}

/// Where the output of a stage is read.
fn input(context: &QueryContext, plan: &QueryPlan, stage: StageId) -> StageInput {
    let placed = plan.placement.stages.get(&stage).map(Vec::as_slice).unwrap_or_default();
    let tasks = placed.iter().map(|it: &PlacedTask| TaskAddress {
        task: TaskId { query: context.query, stage, task: it.task as u32, attempt: 0 },
        worker: address(&it.worker),
    });
    StageInput { stage, tasks: tasks.collect() }
}

pub(super) fn address(worker: &Worker) -> WorkerAddress {
    WorkerAddress { node: worker.id.clone(), host: worker.host.clone(), port: worker.port }
}

fn now_ns(context: &QueryContext) -> i64 {
    let started = context.session_state.execution_props().query_execution_start_time;
    started.and_then(|it| it.timestamp_nanos_opt()).unwrap_or_default()
}

/// Until the statement's deadline; 0 is none.
fn remaining_ms(context: &QueryContext) -> u64 {
    context.deadline.map_or(0, |deadline| {
        let remaining = deadline.saturating_duration_since(Instant::now());
        (remaining.as_millis() as u64).max(1)
    })
}
