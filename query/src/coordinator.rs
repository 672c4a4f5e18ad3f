//! The coordinator's side of a query: from a logical plan to rows.
//!
//! [`plan`] decides whether spreading a query pays, from the sizes of its tables or else from the plan that one process
//! would run; if so it plans for the whole cluster, cuts the plan and places its tasks. [`run()`] returns the root's rows:
//! `driver.rs` sends out the tasks that [`machine`] names, as often as it takes.

mod admission;
mod attempts;
mod driver;
pub mod machine;
mod root;
mod run;
mod stats;
mod stragglers;
mod tasks;
mod workers;

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use sheaf_common::settings::{JoinStrategy, Settings};
use sheaf_flight::codec;
use sheaf_planners::explain::Explained;
use sheaf_planners::generator::GeneratorExec;
use sheaf_planners::parser::ExplainFormat;
use sheaf_planners::reschedule::{self, Placement, Worker};
use sheaf_planners::scatter::{ScatterOptimizer, physical_rules};
use sheaf_planners::splits::{self, PlanSplits};
use sheaf_planners::stage::{DistributedPlan, Split};
use tracing::error;

use crate::answer::RowStream;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::tables::delta::DeltaTable;
use crate::tables::external::FilesTable;

pub use admission::Queued;
use attempts::Attempt;
pub use stats::{Counts, QueryStats};

/// How many times more, and smaller, partitions a join has that is to take less memory.
const SPLIT_FACTOR: usize = 16;

/// A query that is ready to run.
#[derive(Debug)]
pub struct QueryPlan {
    distributed: DistributedPlan,
    /// Empty when the plan is not distributed.
    placement: Placement,
    /// What it was made of, to plan it again; none when that cannot be done.
    logical: Option<LogicalPlan>,
}

/// Plans a query, for this process or for the cluster.
///
/// Errs when the query cannot be planned or a file that it reads cannot be opened. What only prevents its being
/// spread is no error: the plan then says why.
pub async fn plan(context: &QueryContext, plan: LogicalPlan) -> Result<QueryPlan, QueryError> {
    let optimized = context.session_state.optimize(&plan)?;
    plan_again(context, optimized).await
}

/// The same for a plan that was optimized already.
pub async fn plan_again(context: &QueryContext, optimized: LogicalPlan) -> Result<QueryPlan, QueryError> {
    plan_optimized(context, optimized, false, &Ok).await
}

/// What is put on top of a physical plan before it is cut or run.
pub type Finish<'a> = &'a (dyn Fn(Arc<dyn ExecutionPlan>) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> + Sync);

/// The same, with operators on top that have no logical counterpart. It is not planned again: that would leave them out.
pub async fn plan_finished(
    context: &QueryContext,
    plan: LogicalPlan,
    finish: Finish<'_>,
) -> Result<QueryPlan, QueryError> {
    let optimized = context.session_state.optimize(&plan)?;
    let planned = plan_optimized(context, optimized, false, finish).await?;
    Ok(QueryPlan { logical: None, ..planned })
}

/// The same in this process: for a plan that reads what comes in here.
pub async fn plan_finished_here(
    context: &QueryContext,
    plan: LogicalPlan,
    finish: Finish<'_>,
) -> Result<QueryPlan, QueryError> {
    let optimized = context.session_state.optimize(&plan)?;
    let planned = plan_optimized(context, optimized, true, finish).await?;
    Ok(QueryPlan { logical: None, ..planned })
}

/// The same for a plan that was optimized already; `stays_here` says that it is not to be distributed.
async fn plan_optimized(
    context: &QueryContext,
    optimized: LogicalPlan,
    stays_here: bool,
    finish: Finish<'_>,
) -> Result<QueryPlan, QueryError> {
    let state = context.session_state.as_ref();
    let mut local = None;
    let scattered = match workers(context) {
        _ if stays_here => Err("it began in this process".to_owned()),
        Err(reason) => Err(reason),
        Ok(workers) => {
            // Which plan is made first decides only whether both are: neither is needed to make the other.
            let worth = if reads_enough(context, &optimized).await? {
                Ok(())
            } else {
                let plan = state.query_planner().create_physical_plan(&optimized, state).await?;
                worthwhile(context, local.insert(plan))
            };
            match worth {
                Ok(()) => scatter(context, &optimized, workers, finish).await?,
                Err(reason) => Err(reason),
            }
        }
    };
    let reason = match scattered {
        Ok((distributed, placement)) => {
            return Ok(QueryPlan { distributed, placement, logical: Some(optimized) });
        }
        Err(reason) => reason,
    };
    let local = match local {
        Some(local) => local,
        None => state.query_planner().create_physical_plan(&optimized, state).await?,
    };
    let distributed = DistributedPlan::local(finish(local)?, reason);
    Ok(QueryPlan { distributed, placement: Placement::default(), logical: Some(optimized) })
}

/// Runs a plan. Nothing is sent before the first poll of the rows; dropping them ends the query on every node.
pub async fn run(context: Arc<QueryContext>, plan: QueryPlan) -> Result<RowStream, QueryError> {
    run::rows(context, plan)
}

/// Runs a plan of this process that gathers no rows: it needs nobody's leave and starts at once.
pub(crate) fn run_small(
    context: &QueryContext,
    plan: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream, QueryError> {
    // Counted as a query, of no stages and tasks.
    context.stats.change(|_| {});
    Ok(execute_stream(plan, task)?)
}

/// The lines of `EXPLAIN`; with `analyze` the query is run first and its rows are thrown away.
pub async fn explain(
    context: Arc<QueryContext>,
    logical: LogicalPlan,
    format: ExplainFormat,
    analyze: bool,
) -> Result<Vec<String>, QueryError> {
    let plan = plan(&context, logical).await?;
    let mut attempt = Attempt::new(Arc::clone(&context), plan);
    let input = if analyze { Some(run::analyze(&mut attempt).await?) } else { None };
    let explained = Explained {
        plan: &attempt.plan.distributed,
        placement: &attempt.plan.placement,
        coordinator: &context.engine.options().node_name,
        analyze: input.as_ref(),
    };
    Ok(match format {
        ExplainFormat::Json => explained.json().lines().map(str::to_owned).collect(),
        ExplainFormat::Graph => explained.graph().lines().map(str::to_owned).collect(),
        ExplainFormat::Text | ExplainFormat::Logical => explained.text(),
    })
}

/// The plan for the cluster, or why there is none.
async fn scatter(
    context: &QueryContext,
    optimized: &LogicalPlan,
    workers: Vec<Worker>,
    finish: Finish<'_>,
) -> Result<Result<(DistributedPlan, Placement), String>, QueryError> {
    let settings = &context.settings;
    let cores: usize = workers.iter().map(|worker| worker.cores).sum();
    let partitions_per_task = match usize::try_from(settings.max_threads) {
        Ok(0) | Err(_) => (cores / workers.len()).max(1),
        Ok(threads) => threads,
    };
    let is_split = settings.join_strategy == JoinStrategy::Split;
    let optimizer = ScatterOptimizer {
        workers: workers.len(),
        partitions_per_task: if is_split { partitions_per_task * SPLIT_FACTOR } else { partitions_per_task },
        // What is split is not sent whole.
        broadcast_bytes_max: if is_split { 0 } else { settings.broadcast_bytes_max },
        bytes_per_task: settings.bytes_per_task,
    };
    let state = scattered_state(&context.session_state, &optimizer, settings);
    let physical = state.query_planner().create_physical_plan(optimized, &state).await?;
    if let Err(reason) = worthwhile(context, &physical) {
        return Ok(Err(reason));
    }
    let physical = finish(physical)?;
    let runtime = context.engine.runtime();
    let found = splits::of_plan(&physical, runtime, workers.len(), optimizer.partitions(), None).await?;
    if !reads_splits(&physical, &found)? {
        return Ok(Err("it reads no table that can be split".to_owned()));
    }
    let distributed = match optimizer.optimize(&physical, &found, state.config_options()) {
        Ok(distributed) => distributed,
        Err(reason) => {
            // Right all the same, in one process; but whoever runs the server should hear of it.
            error!(query_id = %context.query, %reason, "a plan could not be cut");
            return Ok(Err(reason.strip_backtrace()));
        }
    };
    if let Some(reason) = distributed.reason {
        return Ok(Err(reason));
    }
    for stage in &distributed.stages {
        if let Err(reason) = codec::check_encodable(&stage.plan) {
            return Ok(Err(reason.to_string()));
        }
    }
    let placement = reschedule::place(&distributed, context.query, &workers, context.engine.homes())?;
    Ok(Ok((distributed, placement)))
}

/// The workers to spread a plan over, or why there are none.
fn workers(context: &QueryContext) -> Result<Vec<Worker>, String> {
    let engine = &context.engine;
    let workers = engine.workers().workers();
    match workers.as_slice() {
        [] => Err(match engine.options().cluster.of_other_builds().len() {
            0 => "no worker is registered".to_owned(),
            n => format!("no worker runs this build ({}), {n} run another", sheaf_common::build::id()),
        }),
        [worker] if worker.name == engine.options().node_name => Err("the cluster is this node".to_owned()),
        _ => Ok(workers),
    }
}

/// Whether a plan is sure to read enough to be spread, as far as can be told before it is a physical one.
///
/// Making a physical plan is most of what a short query costs the coordinator, and this saves making two.
async fn reads_enough(context: &QueryContext, optimized: &LogicalPlan) -> Result<bool, QueryError> {
    let bytes_min = context.settings.min_distribute_bytes;
    let mut scans = vec![];
    optimized.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            scans.push(scan.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut bytes: u64 = 0;
    for scan in &scans {
        if bytes >= bytes_min {
            break;
        }
        let provider = source_as_provider(&scan.source)?;
        if let Some(table) = provider.downcast_ref::<FilesTable>() {
            bytes += table.bytes_for_sure(context.session_state.as_ref(), scan, bytes_min - bytes).await;
        } else if let Some(table) = provider.downcast_ref::<DeltaTable>() {
            bytes += table.bytes_for_sure(scan);
        }
    }
    Ok(bytes >= bytes_min)
}

/// Why spreading a plan, for one process or for the cluster, cannot pay.
fn worthwhile(context: &QueryContext, plan: &Arc<dyn ExecutionPlan>) -> Result<(), String> {
    let stays =
        |node: &Arc<dyn ExecutionPlan>| Ok(node.downcast_ref::<GeneratorExec>().is_some_and(|it| it.is_local()));
    if plan.exists(stays).unwrap_or(false) {
        return Err("numbers_local stays on the node that took the statement".to_owned());
    }
    let bytes_min = context.settings.min_distribute_bytes;
    let bytes = splits::estimated_bytes(plan);
    if bytes < bytes_min {
        return Err(format!("it reads about {bytes} bytes, min_distribute_bytes is {bytes_min}"));
    }
    Ok(())
}

/// The session's state with what a plan for the cluster is made under.
fn scattered_state(state: &SessionState, optimizer: &ScatterOptimizer, settings: &Settings) -> SessionState {
    let mut config = state.config().clone();
    optimizer.configure(config.options_mut());
    if settings.join_strategy == JoinStrategy::Split {
        // A filter made of a join's build side waits for all partitions of it, which here come one after another.
        config.options_mut().optimizer.enable_join_dynamic_filter_pushdown = false;
    }
    SessionStateBuilder::new_from_existing(state.clone())
        .with_config(config)
        .with_physical_optimizer_rules(physical_rules())
        .build()
}

fn reads_splits(plan: &Arc<dyn ExecutionPlan>, found: &PlanSplits) -> Result<bool, QueryError> {
    Ok(plan.exists(|node| {
        let splits = found.get(node).map(|leaf| leaf.splits.as_slice()).unwrap_or_default();
        Ok(splits.iter().any(|split| !matches!(split, Split::Whole)))
    })?)
}
