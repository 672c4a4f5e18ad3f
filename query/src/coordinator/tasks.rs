//! The stages below one root, as its machine and as the workers are told of them.
//!
//! What a stage's attempts have in common is made once and never changes: the bytes of its plan, how many tasks it has,
//! and which splits each of them reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_plan::ExecutionPlan;
use sheaf_common::{ErrorCode, StageId, TaskId, WireError};
use sheaf_flight::messages::{StageInput, StageSubmit, StoreSpec, TaskAddress, TaskSpec};
use sheaf_flight::{SubmitRequest, codec};
use sheaf_planners::boundary::NetworkBoundaryExec;
use sheaf_planners::leaf::file_scan;
use sheaf_planners::reschedule::{PlacedTask, Worker};
use sheaf_planners::stage::{BoundaryKind, StagePlan};
use sheaf_planners::table_sink::TableSinkExec;

use super::QueryPlan;
use super::machine::{Input, InputShape, QueryShape, StageShape, Submit};
use super::workers::{Workers, address};
use crate::context::QueryContext;
use crate::error::QueryError;

pub(super) struct Tasks<'a> {
    context: &'a QueryContext,
    stages: BTreeMap<StageId, Template<'a>>,
    config: Vec<(String, String)>,
    stores: Vec<StoreSpec>,
}

struct Template<'a> {
    /// Without inputs and tasks.
    submit: StageSubmit,
    /// By task index.
    placed: &'a [PlacedTask],
}

impl<'a> Tasks<'a> {
    /// All that `root` reads, directly or through other stages; adds the workers that tasks were placed on.
    ///
    /// Errs when a plan has no form on the wire.
    pub fn new(
        context: &'a QueryContext,
        plan: &'a QueryPlan,
        root: &Arc<dyn ExecutionPlan>,
        workers: &mut Workers,
    ) -> Result<(Self, QueryShape), QueryError> {
        let read = boundaries(root)?;
        let ids = stages_below(plan, read.keys().copied().collect());
        let mut stages = BTreeMap::new();
        let mut shapes = vec![];
        for stage in plan.distributed.stages.iter().filter(|it| ids.contains(&it.stage)) {
            let placed = plan.placement.stages.get(&stage.stage).map(Vec::as_slice).unwrap_or_default();
            let submit = StageSubmit {
                stage: stage.stage,
                plan: codec::encode_stage(&stage.plan, &stage.output).map_err(WireError::from)?,
                output_partitions: stage.output.partitions() as u32,
                readers: stage.readers as u32,
                task_count: stage.task_count as u32,
                partitions_per_task: stage.partitions_per_task as u32,
                inputs: vec![],
                tasks: vec![],
            };
            stages.insert(stage.stage, Template { submit, placed });
            shapes.push(shape(stage, placed, workers)?);
        }
        let config = codec::encode_config(context.session_state.config());
        let of_ids = plan.distributed.stages.iter().filter(|it| ids.contains(&it.stage));
        let stores = stores_of(context, of_ids)?;
        let root = read.into_keys().collect();
        Ok((Self { context, stages, config, stores }, QueryShape { query: context.query, stages: shapes, root }))
    }

    /// What `worker` is asked to run; `submits` come in the order of the machine.
    pub fn request(&self, worker: &Worker, submits: &[Submit], workers: &Workers) -> SubmitRequest {
        let mut stages: Vec<StageSubmit> = vec![];
        for submit in submits {
            let TaskId { stage, task, attempt, .. } = submit.attempt;
            let Some(template) = self.stages.get(&stage) else { continue };
            let inputs = inputs(&submit.inputs, workers);
            if stages.last().is_none_or(|last| last.stage != stage || last.inputs != inputs) {
                stages.push(StageSubmit { inputs, ..template.submit.clone() });
            }
            if let Some(last) = stages.last_mut() {
                let splits = template.placed.get(task as usize).map(|it| it.splits.clone()).unwrap_or_default();
                last.tasks.push(TaskSpec { task, attempt, splits });
            }
        }
        let context = self.context;
        SubmitRequest {
            query: context.query,
            coordinator: context.engine.options().node_name.clone(),
            worker: worker.id.clone(),
            config: self.config.clone(),
            settings: context.settings.clone(),
            now_ns: now_ns(context),
            deadline_ms: remaining_ms(context),
            stores: self.stores.clone(),
            stages,
        }
    }
}

/// What workers need to open the object stores that stages read.
fn stores_of<'a>(
    context: &QueryContext,
    stages: impl Iterator<Item = &'a StagePlan>,
) -> Result<Vec<StoreSpec>, QueryError> {
    let mut urls = BTreeSet::new();
    for stage in stages {
        stage.plan.apply(|node| {
            if let Some((_, config)) = file_scan(node) {
                urls.insert(config.object_store_url.clone());
            }
            if let Some(url) = node.downcast_ref::<TableSinkExec>().and_then(|it| it.target().store.as_deref()) {
                urls.insert(ObjectStoreUrl::parse(url)?);
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    let stores = &context.engine.tables().sources.stores;
    let spec = |url: ObjectStoreUrl| {
        let definition = stores.definition(&url)?;
        let definition =
            serde_json::to_vec(&definition).map_err(|error| WireError::new(ErrorCode::Internal, error.to_string()));
        Some(definition.map(|it| StoreSpec { url: url.as_str().to_owned(), definition: it.into() }))
    };
    Ok(urls.into_iter().filter_map(spec).collect::<Result<_, WireError>>()?)
}

/// Where stages are read now.
pub(super) fn inputs(inputs: &[Input], workers: &Workers) -> Vec<StageInput> {
    let address = |(task, worker): &(TaskId, _)| TaskAddress { task: *task, worker: address(workers.get(*worker)) };
    let input = |it: &Input| StageInput { stage: it.stage, tasks: it.tasks.iter().map(address).collect() };
    inputs.iter().map(input).collect()
}

fn shape(stage: &StagePlan, placed: &[PlacedTask], workers: &mut Workers) -> Result<StageShape> {
    let boundaries = boundaries(&stage.plan)?;
    let input =
        |stage: &StageId| InputShape { stage: *stage, is_dealt: boundaries.get(stage).copied().unwrap_or(false) };
    Ok(StageShape {
        stage: stage.stage,
        is_determinate: stage.is_determinate,
        has_effects: stage.plan.exists(|node| Ok(node.is::<TableSinkExec>()))?,
        inputs: stage.inputs.iter().map(input).collect(),
        workers: placed.iter().map(|task| workers.add(&task.worker).0).collect(),
    })
}

/// The stages that a plan reads itself, and whether the producers of each are dealt out among its tasks.
fn boundaries(plan: &Arc<dyn ExecutionPlan>) -> Result<BTreeMap<StageId, bool>> {
    let mut found = BTreeMap::new();
    plan.apply(|node| {
        if let Some(it) = node.downcast_ref::<NetworkBoundaryExec>() {
            *found.entry(it.stage).or_insert(true) &= matches!(it.kind, BoundaryKind::Gather | BoundaryKind::Merge);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// These stages and all that they read, directly or not.
fn stages_below(plan: &QueryPlan, mut todo: Vec<StageId>) -> BTreeSet<StageId> {
    let mut found = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if found.insert(id)
            && let Some(stage) = plan.distributed.stage(id)
        {
            todo.extend(&stage.inputs);
        }
    }
    found
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
