//! Lets a query in: a place on each worker that it has tasks on, and on this node if its own part holds rows.
//!
//! All are asked at once first, which suffices while nobody waits. Who is told to wait gives everything back and asks
//! for one place after another, in one order for all queries of all coordinators: so no two wait for one another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::try_join_all;
use sheaf_common::settings::JoinStrategy;
use sheaf_common::{ErrorCode, WireError};
use sheaf_flight::WorkerAddress;
use sheaf_flight::admission::{Demand, Place, Standing};
use sheaf_flight::client::Standings;
use sheaf_flight::messages::AdmitRequest;
use sheaf_planners::memory_need::least_memory;
use sheaf_planners::reschedule::Worker;
use sheaf_planners::splits;

use super::QueryPlan;
use crate::context::QueryContext;
use crate::error::QueryError;

/// A query of one process that reads less than this is let in unasked: who looks after a busy server must get through.
const UNASKED_BYTES_MAX: u64 = 1 << 20;

/// A query's places. Dropping it gives them back.
#[derive(Default)]
pub(super) struct Admitted {
    _here: Option<Place>,
    _places: Vec<Standings>,
}

/// What a query asks whom for.
#[derive(Default)]
struct Asks {
    here: Option<Demand>,
    /// By id: the order in which places are waited for.
    workers: BTreeMap<String, (Worker, Demand)>,
}

/// Waits until a query may run.
///
/// Errs with `Busy` when the line is full or took longer than `admission_timeout_ms`; with `NoWorker` or `WorkerLost`
/// when one of its workers drains or is gone, which placing it anew mends.
pub(super) async fn admit(context: &QueryContext, plan: &QueryPlan, is_alone: bool) -> Result<Admitted, QueryError> {
    let asks = asks(context, plan, is_alone);
    let timeout = Duration::from_millis(context.settings.task_start_timeout_ms.max(1));
    let refused = match at_once(context, &asks, timeout).await {
        Ok(admitted) => return Ok(admitted),
        Err(error) if error.code == ErrorCode::Busy => error,
        Err(error) => return Err(error.into()),
    };
    let Some(_line) = context.engine.queued().enter(context.settings.admission_queue_length) else {
        let text = format!(
            "the cluster is busy and {} queries wait already (admission_queue_length): {}; try again later",
            context.settings.admission_queue_length, refused.message
        );
        return Err(WireError::new(ErrorCode::Busy, text).retryable().into());
    };
    context.activity.waits(&refused.message);
    let (started, patience) = (Instant::now(), Duration::from_millis(context.settings.admission_timeout_ms));
    let mut reason = refused.message;
    let admitted = tokio::time::timeout(patience, in_line(context, &asks, timeout, &mut reason)).await;
    context.activity.runs();
    crate::metrics::queued(started.elapsed());
    match admitted {
        Ok(admitted) => Ok(admitted?),
        Err(_) => {
            let text = format!(
                "the cluster is busy: the query was not let in within {} ms (admission_timeout_ms): {reason}; try again \
                 later",
                patience.as_millis()
            );
            Err(WireError::new(ErrorCode::Busy, text).retryable().into())
        }
    }
}

fn asks(context: &QueryContext, plan: &QueryPlan, is_alone: bool) -> Asks {
    let mut asks = Asks::default();
    let split = context.settings.join_strategy == JoinStrategy::Split;
    for stage in &plan.distributed.stages {
        let placed = plan.placement.stages.get(&stage.stage).map(Vec::as_slice).unwrap_or_default();
        for task in placed {
            let partitions = match split {
                // No more run at a time than there are cores.
                true => stage.partitions_per_task.min(task.worker.cores),
                false => stage.partitions_per_task,
            };
            let memory_bytes = least_memory(&stage.plan, partitions);
            let demand = Demand { tasks: 1, memory_bytes, is_alone };
            let entry = asks.workers.entry(task.worker.id.clone());
            let (_, sum) = entry.or_insert_with(|| (task.worker.clone(), Demand::default()));
            *sum = sum.plus(demand);
        }
    }
    let distributed = &plan.distributed;
    let partitions = if distributed.is_distributed() { 1 } else { context.session_state.config().target_partitions() };
    let roots = std::iter::once(&distributed.root).chain(distributed.subqueries.iter().map(|it| &it.plan));
    let memory_bytes = roots.map(|root| least_memory(root, partitions)).sum();
    let is_small = !distributed.is_distributed() && splits::estimated_bytes(&distributed.root) < UNASKED_BYTES_MAX;
    if memory_bytes > 0 && !is_small {
        let demand = Demand { tasks: 1, memory_bytes, is_alone };
        let here = &context.engine.options().node_name;
        // A node that is one of the workers has one account for both.
        match asks.workers.values_mut().find(|(worker, _)| worker.name == *here) {
            Some((_, sum)) => *sum = sum.plus(demand),
            None => asks.here = Some(demand),
        }
    }
    asks
}

/// All places or none, without waiting for any.
async fn at_once(context: &QueryContext, asks: &Asks, timeout: Duration) -> Result<Admitted, WireError> {
    let admission = context.engine.admission();
    let here = asks.here.map(|demand| admission.request(context.query, demand, false)).transpose()?;
    let places = asks.workers.values().map(|(worker, demand)| ask(context, worker, *demand, false, timeout));
    Ok(Admitted { _here: here, _places: try_join_all(places).await? })
}

/// One place after another; `reason` is what is being waited for.
async fn in_line(
    context: &QueryContext,
    asks: &Asks,
    timeout: Duration,
    reason: &mut String,
) -> Result<Admitted, WireError> {
    let mut admitted = Admitted::default();
    if let Some(demand) = asks.here {
        let place = context.engine.admission().request(context.query, demand, true)?;
        let mut standings = place.into_stream().map(Ok).boxed();
        granted(context, &mut standings, reason).await?;
        admitted._places.push(standings);
    }
    for (worker, demand) in asks.workers.values() {
        let mut standings = ask(context, worker, *demand, true, timeout).await?;
        let outcome = granted(context, &mut standings, reason).await;
        outcome.inspect_err(|error| lost(context, worker, error))?;
        admitted._places.push(standings);
    }
    Ok(admitted)
}

/// Until a place is granted.
async fn granted(context: &QueryContext, standings: &mut Standings, reason: &mut String) -> Result<(), WireError> {
    loop {
        match standings.next().await.transpose()? {
            Some(Standing::Granted) => return Ok(()),
            Some(Standing::Waiting(why)) => {
                context.activity.waits(&why);
                *reason = why;
            }
            Some(Standing::Refused(error)) => return Err(error),
            None => {
                return Err(WireError::new(ErrorCode::WorkerLost, "a worker gave up a query that waited").retryable());
            }
        }
    }
}

async fn ask(
    context: &QueryContext,
    worker: &Worker,
    demand: Demand,
    may_wait: bool,
    timeout: Duration,
) -> Result<Standings, WireError> {
    let request = AdmitRequest { query: context.query, worker: worker.id.clone(), demand, may_wait };
    let address = WorkerAddress { node: worker.id.clone(), host: worker.host.clone(), port: worker.port };
    let asked = context.engine.client().admit(&address, &request, timeout).await;
    asked.inspect_err(|error| lost(context, worker, error))
}

/// Tells the membership of a worker that could not be reached.
fn lost(context: &QueryContext, worker: &Worker, error: &WireError) {
    if error.code == ErrorCode::WorkerLost {
        context.engine.workers().report_lost(&worker.id);
    }
}

/// How many of this coordinator's queries wait to be let in.
#[derive(Debug, Default)]
pub struct Queued(std::sync::atomic::AtomicU64);

impl Queued {
    pub fn len(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Joins the line unless `most` are in it.
    fn enter(self: &Arc<Self>, most: u64) -> Option<InLine> {
        use std::sync::atomic::Ordering::Relaxed;
        self.0.fetch_update(Relaxed, Relaxed, |n| (n < most).then_some(n + 1)).ok()?;
        Some(InLine(Arc::clone(self)))
    }
}

struct InLine(Arc<Queued>);

impl Drop for InLine {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_long_as_it_may_be() {
        let queued = Arc::new(Queued::default());
        let first = queued.enter(2);
        let second = queued.enter(2);
        assert!(first.is_some() && second.is_some() && queued.enter(2).is_none());
        drop(first);
        assert!(queued.enter(2).is_some());
        drop(second);
        assert!(queued.is_empty() && queued.enter(0).is_none());
    }
}
