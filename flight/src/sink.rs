//! The end of a task's plan: every partition of it is run, once, and its rows go into the exchange.
//!
//! In: any plan. Out: its rows in the output partitions that the stage's [`StageOutput`] gives them. Memory: for a
//! hash output up to one target batch per output partition and plan partition, charged to the pool; else one batch.
//! Ends early when nobody reads the exchange any more.

use std::sync::Arc;

use arrow::compute::interleave_record_batch;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::hash_utils::create_hashes;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::utils::evaluate_expressions_to_arrays;
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::StreamExt;
use sheaf_common::{ErrorCode, WireError};
use sheaf_planners::error::to_wire;
use sheaf_planners::stage::StageOutput;
use tokio::task::JoinSet;

use crate::encoding::{compact, from_arrow, with_schema};
use crate::error::from_join;
use crate::exchange::{Exchange, Pushed};

/// Bytes of input that a partition gathers before it sends what it has, whatever the size of the batches then.
const GATHER_BYTES_MAX: usize = 32 << 20;

/// Runs all partitions of `plan` into `exchange`, all at once. Otherwise as [`run_some_at_once`].
pub async fn run(
    plan: Arc<dyn ExecutionPlan>,
    output: &StageOutput,
    context: &Arc<TaskContext>,
    exchange: &Arc<Exchange>,
) -> Result<(), WireError> {
    run_some_at_once(plan, output, context, exchange, usize::MAX).await
}

/// Runs all partitions of `plan` into `exchange`, at most `at_once` of them at a time, in their order. Dropping the
/// future ends them. No partition may wait for another.
///
/// Errs with the first error of any partition, a panic being one; the others are ended then.
pub async fn run_some_at_once(
    plan: Arc<dyn ExecutionPlan>,
    output: &StageOutput,
    context: &Arc<TaskContext>,
    exchange: &Arc<Exchange>,
    at_once: usize,
) -> Result<(), WireError> {
    if output.partitions() != exchange.shape().partitions {
        let text = format!("an output of {} partitions for an exchange of another shape", output.partitions());
        return Err(WireError::new(ErrorCode::Internal, text));
    }
    let mut partitions = JoinSet::new();
    let mut waiting = 0..plan.output_partitioning().partition_count();
    let start = |partitions: &mut JoinSet<_>, partition| {
        let plan = Arc::clone(&plan);
        let context = Arc::clone(context);
        let exchange = Arc::clone(exchange);
        let router = Router::new(output, &context);
        partitions.spawn(async move { run_partition(plan, partition, context, router, exchange).await });
    };
    waiting.by_ref().take(at_once.max(1)).for_each(|partition| start(&mut partitions, partition));
    loop {
        tokio::select! {
            // Rows first: a task that came to its end is not one that was left alone.
            biased;
            done = partitions.join_next() => match done {
                None => return Ok(()),
                Some(outcome) => {
                    outcome.unwrap_or_else(|error| Err(from_join(error)))?;
                    waiting.next().into_iter().for_each(|partition| start(&mut partitions, partition));
                }
            },
            () = exchange.abandoned() => return Ok(()),
        }
    }
}

async fn run_partition(
    plan: Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<TaskContext>,
    mut router: Router,
    exchange: Arc<Exchange>,
) -> Result<(), WireError> {
    let schema = plan.schema();
    let mut rows = plan.execute(partition, context).map_err(|error| to_wire(&error))?;
    while let Some(batch) = rows.next().await {
        let batch = with_schema(batch.map_err(|error| to_wire(&error))?, &schema)?;
        if batch.num_rows() == 0 {
            continue;
        }
        for (target, batch) in router.route(batch)? {
            if exchange.push(target, batch).await? == Pushed::NoReaderLeft {
                return Ok(());
            }
        }
    }
    for (target, batch) in router.flush()? {
        exchange.push(target, batch).await?;
    }
    Ok(())
}

/// Which output partition a row goes to.
enum Router {
    /// All to the one that there is.
    Single,
    Hash(HashRouter),
}

impl Router {
    fn new(output: &StageOutput, context: &TaskContext) -> Self {
        match output {
            StageOutput::Broadcast | StageOutput::Gather => Self::Single,
            StageOutput::Hash { exprs, partitions } => {
                let account = MemoryConsumer::new("exchange sink").register(context.memory_pool());
                let batch_rows = context.session_config().batch_size();
                Self::Hash(HashRouter::new(exprs.clone(), *partitions, batch_rows, account))
            }
        }
    }

    fn route(&mut self, batch: RecordBatch) -> Result<Vec<(usize, RecordBatch)>, WireError> {
        match self {
            Self::Single => Ok(vec![(0, compact(batch)?)]),
            Self::Hash(router) => router.route(batch),
        }
    }

    fn flush(&mut self) -> Result<Vec<(usize, RecordBatch)>, WireError> {
        match self {
            Self::Single => Ok(vec![]),
            Self::Hash(router) => router.flush(),
        }
    }
}

/// Gathers rows per target until each has a batch of the target size on average, then copies every row once.
struct HashRouter {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    batch_rows: usize,
    account: MemoryReservation,
    hashes: Vec<u64>,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    pending_bytes: usize,
    /// For each target its rows, as (index into `pending`, row).
    targets: Vec<Vec<(usize, usize)>>,
}

impl HashRouter {
    fn new(exprs: Vec<Arc<dyn PhysicalExpr>>, n: usize, batch_rows: usize, account: MemoryReservation) -> Self {
        Self {
            exprs,
            batch_rows,
            account,
            hashes: vec![],
            pending: vec![],
            pending_rows: 0,
            pending_bytes: 0,
            targets: vec![vec![]; n],
        }
    }

    /// The hash is the one that DataFusion's own repartitioning uses. With it, a task's partition `hash % all` of
    /// all tasks is at the same time its own partition `hash % its own`, as the plan above says.
    fn route(&mut self, batch: RecordBatch) -> Result<Vec<(usize, RecordBatch)>, WireError> {
        let keys = evaluate_expressions_to_arrays(&self.exprs, &batch).map_err(|error| to_wire(&error))?;
        self.hashes.clear();
        self.hashes.resize(batch.num_rows(), 0);
        create_hashes(&keys, REPARTITION_RANDOM_STATE.random_state(), &mut self.hashes)
            .map_err(|error| to_wire(&error))?;
        // A division a row is dear, and most clusters have a power of two of partitions.
        match self.targets.len() as u64 {
            n if n.is_power_of_two() => self.assign(|hash| hash & (n - 1)),
            n => self.assign(|hash| hash % n),
        }
        self.pending_rows += batch.num_rows();
        self.pending_bytes += get_record_batch_memory_size(&batch);
        self.pending.push(batch);
        let is_full =
            self.pending_rows >= self.batch_rows * self.targets.len() || self.pending_bytes >= GATHER_BYTES_MAX;
        // Refused memory is no error here: sending what is there gives it back.
        if is_full || self.account.try_resize(self.pending_bytes).is_err() { self.flush() } else { Ok(vec![]) }
    }

    /// Notes for each row of the next batch where it goes.
    fn assign(&mut self, target_of: impl Fn(u64) -> u64) {
        let source = self.pending.len();
        for (row, hash) in self.hashes.iter().enumerate() {
            self.targets[target_of(*hash) as usize].push((source, row));
        }
    }

    fn flush(&mut self) -> Result<Vec<(usize, RecordBatch)>, WireError> {
        let mut batches = Vec::with_capacity(self.targets.len());
        let pending: Vec<&RecordBatch> = self.pending.iter().collect();
        for (target, rows) in self.targets.iter_mut().enumerate() {
            for rows in rows.chunks(self.batch_rows) {
                batches.push((target, compact(interleave(&pending, rows)?)?));
            }
            rows.clear();
        }
        self.pending.clear();
        self.pending_rows = 0;
        self.pending_bytes = 0;
        self.account.free();
        Ok(batches)
    }
}

fn interleave(batches: &[&RecordBatch], rows: &[(usize, usize)]) -> Result<RecordBatch, WireError> {
    if batches[0].num_columns() > 0 {
        return interleave_record_batch(batches, rows).map_err(from_arrow);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(batches[0].schema(), vec![], &options).map_err(from_arrow)
}

#[cfg(test)]
mod tests;
