//! Runs a whole query, and runs it again where that can help while no row is out.
//!
//! What can help: other workers, when one that the query was placed on drains or is gone before it was let in; and less
//! memory. A query that was refused memory is planned again to need less and waits until it has its workers to itself:
//! first with more, smaller partitions of its joins, one after another, for which the exchanges' disks hold the rest; then
//! with sort-merge joins, which spill whatever the sizes of their keys. Each is sure to need less than the one before.

use std::borrow::BorrowMut;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt};
use sheaf_common::settings::JoinStrategy;
use sheaf_common::{Classify, ErrorCode};
use sheaf_planners::error::to_wire;
use sheaf_planners::memory_need::{gathering_operators, has_hash_join};
use tokio::sync::mpsc;
use tracing::info;

use super::admission::{Admitted, admit};
use super::run::{Gathered, distributed, named};
use super::{QueryPlan, plan_optimized};
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::session::planning::apart;

/// Placements that a query tries when workers leave under it.
const PLACEMENTS_MAX: usize = 10;
/// Between two: whoever leaves has said so to the membership by then.
const PLACE_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A query as it is run now, and why it was not left as it was planned.
pub(super) struct Attempt {
    pub context: Arc<QueryContext>,
    pub plan: QueryPlan,
    /// A line for each time that it was planned again.
    pub notes: Vec<String>,
    is_alone: bool,
    /// It began in this process and stays here, even if workers join meanwhile: its rows come another way.
    stays_here: bool,
    n_placements: usize,
}

impl Attempt {
    pub fn new(context: Arc<QueryContext>, plan: QueryPlan) -> Self {
        let stays_here = !plan.distributed.is_distributed();
        Self { context, plan, notes: vec![], is_alone: false, stays_here, n_placements: 1 }
    }

    /// Waits until it may run, placing it anew where workers leave meanwhile.
    async fn let_in(&mut self) -> Result<Admitted, QueryError> {
        loop {
            let error = match admit(&self.context, &self.plan, self.is_alone).await {
                Ok(admitted) => return Ok(admitted),
                Err(error) => error,
            };
            self.place_again(error).await?;
        }
    }

    /// Gives the query other workers, if that is what `error` asks for; else errs with it.
    async fn place_again(&mut self, error: QueryError) -> Result<(), QueryError> {
        let passes = matches!(error.code(), ErrorCode::NoWorker | ErrorCode::WorkerLost) && error.is_retryable();
        if !passes || self.n_placements >= PLACEMENTS_MAX || self.plan.logical.is_none() {
            return Err(error);
        }
        self.n_placements += 1;
        tokio::time::sleep(PLACE_AGAIN_AFTER).await;
        info!(query_id = %self.context.query, %error, "placing a query again");
        self.plan_again(Arc::new(self.context.again(self.context.settings.join_strategy))).await
    }

    /// Plans the query to need less memory, if it can and `error` says that it must; else errs with it.
    async fn need_less(&mut self, error: DataFusionError) -> Result<()> {
        let wire = to_wire(&error);
        let strategy = self.lighter_strategy();
        let (ErrorCode::MemoryRefused, Some(strategy), true) = (wire.code, strategy, self.plan.logical.is_some())
        else {
            return Err(error);
        };
        let how = match strategy {
            JoinStrategy::Split => "with smaller partitions of its joins, alone on its workers",
            JoinStrategy::Sort => "with sort-merge joins, alone on its workers",
            JoinStrategy::Auto | JoinStrategy::Hash => "alone on its workers",
        };
        info!(query_id = %self.context.query, error = %wire, "running a query again {how}");
        self.notes.push(format!("run again {how}: {wire}"));
        self.is_alone = true;
        crate::metrics::run_again();
        Ok(self.plan_again(Arc::new(self.context.again(strategy))).await?)
    }

    /// The next way to run the joins of this query; its present one, if it was not alone yet; none when all were tried.
    fn lighter_strategy(&self) -> Option<JoinStrategy> {
        let distributed = &self.plan.distributed;
        let mut plans = distributed.stages.iter().map(|it| &it.plan).chain([&distributed.root]);
        let now = self.context.settings.join_strategy;
        if !plans.any(has_hash_join) {
            return (!self.is_alone).then_some(now);
        }
        match now {
            JoinStrategy::Auto if distributed.is_distributed() => Some(JoinStrategy::Split),
            // In one process all partitions share one memory, however many they are.
            JoinStrategy::Auto => Some(JoinStrategy::Sort),
            // Its users' choice stands; after ours there is one more.
            JoinStrategy::Split if self.is_alone => Some(JoinStrategy::Sort),
            JoinStrategy::Split | JoinStrategy::Hash | JoinStrategy::Sort => (!self.is_alone).then_some(now),
        }
    }

    async fn plan_again(&mut self, context: Arc<QueryContext>) -> Result<(), QueryError> {
        let Some(logical) = self.plan.logical.clone() else { return Ok(()) };
        let work = {
            let (context, stays_here) = (Arc::clone(&context), self.stays_here);
            async move { plan_optimized(&context, logical, stays_here, &Ok).await }
        };
        self.plan = apart(context.cancel.clone(), context.text.len(), work).await?;
        context.activity.runs_as(context.query);
        self.context = context;
        Ok(())
    }
}

/// Runs a distributed query to its end, its rows into `rows`; `attempt` is then as it ran last.
pub(super) async fn run(
    attempt: &mut Attempt,
    rows: &mpsc::Sender<Result<RecordBatch>>,
    reports_wait: Duration,
    gathered: &mut Gathered,
) -> Result<()> {
    loop {
        let admitted = attempt.let_in().await?;
        let mut is_out = false;
        let (sender, mut receiver) = mpsc::channel(1);
        *gathered = Gathered::default();
        let outcome = {
            // The sender goes with the future that sends, so that passing on comes to an end.
            let run = async {
                let sender = sender;
                match attempt.plan.distributed.is_distributed() {
                    true => distributed(&attempt.context, &attempt.plan, &sender, reports_wait, gathered).await,
                    // Its workers have gone.
                    false => here(attempt, &sender).await,
                }
            };
            let pass_on = async {
                while let Some(batch) = receiver.recv().await {
                    is_out = true;
                    if rows.send(batch).await.is_err() {
                        // Nobody reads any more: closing our end tells the query so.
                        receiver.close();
                        return;
                    }
                }
            };
            tokio::join!(run, pass_on).0
        };
        drop(admitted);
        match outcome {
            Err(error) if !is_out => again(attempt, error).await?,
            outcome => return outcome,
        }
    }
}

async fn again(attempt: &mut Attempt, error: DataFusionError) -> Result<()> {
    match to_wire(&error) {
        // A worker began to drain between letting the query in and getting its tasks.
        wire if wire.code == ErrorCode::NoWorker => Ok(attempt.place_again(wire.into()).await?),
        _ => attempt.need_less(error).await,
    }
}

/// A query that was to be distributed, in this process.
async fn here(attempt: &Attempt, rows: &mpsc::Sender<Result<RecordBatch>>) -> Result<()> {
    let mut stream = start(attempt)?;
    while let Some(batch) = stream.next().await {
        if rows.send(Ok(batch?)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The rows of a query of one process.
///
/// What holds no rows needs nobody's leave and starts at once.
pub(super) fn local(attempt: Attempt) -> Result<SendableRecordBatchStream> {
    let schema = attempt.plan.distributed.schema();
    let root = &attempt.plan.distributed.root;
    if gathering_operators(root) == 0 {
        return start(&attempt);
    }
    let rows = local_rows(attempt);
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}

fn start(attempt: &Attempt) -> Result<SendableRecordBatchStream> {
    let root = Arc::clone(&attempt.plan.distributed.root);
    let stream = execute_stream(Arc::clone(&root), attempt.context.session_state.task_ctx())?;
    let schema = stream.schema();
    let stream = stream.map(move |batch| batch.map_err(|error| named(error, &root)));
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
}

/// Runs a query of one process, keeps none of its rows and says how many there were.
pub(super) async fn count_here(attempt: &mut Attempt) -> Result<u64, QueryError> {
    let mut local = Local { attempt, stream: None, is_out: false };
    let mut n_rows = 0;
    while let Some(batch) = local.next().await? {
        n_rows += batch.num_rows() as u64;
    }
    Ok(n_rows)
}

/// A local query between two batches.
struct Local<A> {
    attempt: A,
    /// None before its start.
    stream: Option<(SendableRecordBatchStream, Admitted)>,
    is_out: bool,
}

fn local_rows(attempt: Attempt) -> impl Stream<Item = Result<RecordBatch>> + Send {
    let local = Local { attempt, stream: None, is_out: false };
    futures::stream::try_unfold(local, |mut local| async move { Ok(local.next().await?.map(|batch| (batch, local))) })
}

impl<A: BorrowMut<Attempt>> Local<A> {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let (stream, _) = match &mut self.stream {
                Some(running) => running,
                None => {
                    let attempt = self.attempt.borrow_mut();
                    let admitted = attempt.let_in().await?;
                    self.stream.insert((start(attempt)?, admitted))
                }
            };
            match stream.next().await {
                Some(Ok(batch)) => {
                    self.is_out = true;
                    return Ok(Some(batch));
                }
                Some(Err(error)) => {
                    self.stream = None;
                    if self.is_out {
                        return Err(error);
                    }
                    self.attempt.borrow_mut().need_less(error).await?;
                }
                None => {
                    self.stream = None;
                    return Ok(None);
                }
            }
        }
    }
}
