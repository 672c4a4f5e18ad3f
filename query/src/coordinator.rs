//! The coordinator's side of a query: from a logical plan to rows.
//!
//! [`plan`] makes the plan that one process would run, decides whether spreading it pays, and if so plans it again
//! for the whole cluster, cuts it and places its tasks. [`run()`] sends the tasks out and returns the root's rows.

mod launch;
mod run;
mod stats;

use std::sync::Arc;

use datafusion::common::tree_node::TreeNode;
use datafusion::execution::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
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

pub use stats::{Counts, QueryStats};

/// A query that is ready to run.
#[derive(Debug)]
pub struct QueryPlan {
    distributed: DistributedPlan,
    /// Empty when the plan is not distributed.
    placement: Placement,
}

/// Plans a query, for this process or for the cluster.
///
/// Errs when the query cannot be planned or a file that it reads cannot be opened. What only prevents its being
/// spread is no error: the plan then says why.
pub async fn plan(context: &QueryContext, plan: LogicalPlan) -> Result<QueryPlan, QueryError> {
    let state = &context.session_state;
    let optimized = state.optimize(&plan)?;
    let local = state.query_planner().create_physical_plan(&optimized, state).await?;
    match scatter(context, &optimized, &local).await? {
        Ok(plan) => Ok(plan),
        Err(reason) => {
            Ok(QueryPlan { distributed: DistributedPlan::local(local, reason), placement: Placement::default() })
        }
    }
}

/// Runs a plan. Nothing is sent before the first poll of the rows; dropping them ends the query on every node.
pub async fn run(context: Arc<QueryContext>, plan: QueryPlan) -> Result<RowStream, QueryError> {
    run::rows(context, plan)
}

/// The lines of `EXPLAIN`; with `analyze` the query is run first and its rows are thrown away.
pub async fn explain(
    context: Arc<QueryContext>,
    logical: LogicalPlan,
    format: ExplainFormat,
    analyze: bool,
) -> Result<Vec<String>, QueryError> {
    let plan = plan(&context, logical).await?;
    let input = if analyze { Some(run::analyze(&context, &plan).await?) } else { None };
    let explained = Explained {
        plan: &plan.distributed,
        placement: &plan.placement,
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
    local: &Arc<dyn ExecutionPlan>,
) -> Result<Result<QueryPlan, String>, QueryError> {
    let workers = match worthwhile(context, local) {
        Ok(workers) => workers,
        Err(reason) => return Ok(Err(reason)),
    };
    let settings = &context.settings;
    let cores: usize = workers.iter().map(|worker| worker.cores).sum();
    let partitions_per_task = match usize::try_from(settings.max_threads) {
        Ok(0) | Err(_) => (cores / workers.len()).max(1),
        Ok(threads) => threads,
    };
    let optimizer = ScatterOptimizer {
        workers: workers.len(),
        partitions_per_task,
        broadcast_bytes_max: settings.broadcast_bytes_max,
        bytes_per_task: settings.bytes_per_task,
    };
    let state = scattered_state(&context.session_state, &optimizer);
    let physical = state.query_planner().create_physical_plan(optimized, &state).await?;
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
    let placement = reschedule::place(&distributed, context.query, &workers)?;
    Ok(Ok(QueryPlan { distributed, placement }))
}

/// The workers to spread a plan over, or why that cannot pay.
fn worthwhile(context: &QueryContext, local: &Arc<dyn ExecutionPlan>) -> Result<Vec<Worker>, String> {
    let engine = &context.engine;
    let workers = engine.workers().workers();
    match workers.as_slice() {
        [] => return Err("no worker is registered".to_owned()),
        [worker] if worker.name == engine.options().node_name => return Err("the cluster is this node".to_owned()),
        _ => {}
    }
    let stays =
        |node: &Arc<dyn ExecutionPlan>| Ok(node.downcast_ref::<GeneratorExec>().is_some_and(|it| it.is_local()));
    if local.exists(stays).unwrap_or(false) {
        return Err("numbers_local stays on the node that took the statement".to_owned());
    }
    let bytes_min = context.settings.min_distribute_bytes;
    let bytes = splits::estimated_bytes(local);
    if bytes < bytes_min {
        return Err(format!("it reads about {bytes} bytes, min_distribute_bytes is {bytes_min}"));
    }
    Ok(workers)
}

/// The session's state with what a plan for the cluster is made under.
fn scattered_state(state: &SessionState, optimizer: &ScatterOptimizer) -> SessionState {
    let mut config = state.config().clone();
    optimizer.configure(config.options_mut());
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
