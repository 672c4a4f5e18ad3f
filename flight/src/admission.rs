//! Admission: which queries may have tasks on a worker now, and which have to wait.
//!
//! A query asks every worker that it was placed on before it sends tasks there, and holds what it is granted until it
//! ends. A worker grants its task slots and its memory to whole queries, in the order in which they came: tasks of one
//! query feed one another while they run, so that half of them alone could wait for ever. A query that asks for more than
//! there is runs alone. Several coordinators ask the same workers, and nobody but the worker says yes.
//!
//! A grant is a value, and for other processes a stream: whoever drops it, or dies, gives it back.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::{FutureExt, Stream, StreamExt};
use parking_lot::Mutex;
use sheaf_common::{ErrorCode, QueryId, WireError};
use tokio::sync::{Notify, watch};
use tokio_stream::wrappers::WatchStream;

/// Task slots of a worker that was not told how many it has, for each core. Many tasks wait for rows most of the time.
pub const SLOTS_PER_CORE: usize = 32;

/// What a query wants of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// A slot each.
    pub tasks: u32,
    /// What its operators need at least to work at all; a query that would take more spills.
    pub memory_bytes: u64,
    /// Nothing else beside it: it was refused memory before.
    pub is_alone: bool,
}

impl Demand {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            tasks: self.tasks.saturating_add(other.tasks),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            is_alone: self.is_alone || other.is_alone,
        }
    }
}

/// Where a request stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// Waits in line; says what for.
    Waiting(String),
    Granted,
    /// Ends the request.
    Refused(WireError),
}

/// A worker's counts of the moment, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdmissionFigures {
    pub queries: usize,
    pub waiting: usize,
    pub slots_taken: u64,
    pub memory_taken: u64,
}

/// What one worker can give, and who has it.
pub struct Admission {
    /// As errors and reasons name it.
    worker: String,
    slots: u32,
    memory_bytes: u64,
    state: Mutex<State>,
    /// Told when a grant comes back.
    returned: Notify,
}

#[derive(Default)]
struct State {
    n_ever: u64,
    granted: BTreeMap<u64, Held>,
    /// First come, first served.
    waiting: VecDeque<Waiter>,
    is_draining: bool,
}

struct Held {
    query: QueryId,
    demand: Demand,
}

struct Waiter {
    id: u64,
    query: QueryId,
    demand: Demand,
    standing: watch::Sender<Standing>,
}

impl Admission {
    /// Of a worker with so many task slots, and memory that queries may count on.
    pub fn new(worker: impl Into<String>, slots: usize, memory_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            worker: worker.into(),
            slots: u32::try_from(slots).unwrap_or(u32::MAX).max(1),
            memory_bytes: memory_bytes.max(1),
            state: Mutex::default(),
            returned: Notify::new(),
        })
    }

    /// Asks for a query. The place is in line, or granted at once; with `may_wait` off it is granted or refused.
    ///
    /// Errs with `Busy` when it would have to wait and may not, with `NoWorker` while the worker drains.
    pub fn request(self: &Arc<Self>, query: QueryId, demand: Demand, may_wait: bool) -> Result<Place, WireError> {
        // More than there is means all that there is.
        let demand = Demand {
            tasks: demand.tasks.min(self.slots),
            memory_bytes: demand.memory_bytes.min(self.memory_bytes),
            is_alone: demand.is_alone,
        };
        let mut state = self.state.lock();
        if state.is_draining {
            return Err(self.draining());
        }
        let shortage = if state.waiting.is_empty() { self.shortage(&state, demand) } else { Some(self.behind(&state)) };
        state.n_ever += 1;
        let id = state.n_ever;
        let standing = match shortage {
            None => {
                state.granted.insert(id, Held { query, demand });
                watch::Sender::new(Standing::Granted)
            }
            Some(reason) if !may_wait => {
                return Err(WireError::new(ErrorCode::Busy, reason).retryable());
            }
            Some(reason) => watch::Sender::new(Standing::Waiting(reason)),
        };
        let receiver = standing.subscribe();
        if matches!(*receiver.borrow(), Standing::Waiting(_)) {
            state.waiting.push_back(Waiter { id, query, demand, standing });
        }
        drop(state);
        Ok(Place { admission: Arc::clone(self), id, standing: receiver })
    }

    /// Grants nothing any more; who waits is refused. What was granted stays.
    pub fn drain(&self) {
        let waiting = {
            let mut state = self.state.lock();
            state.is_draining = true;
            std::mem::take(&mut state.waiting)
        };
        for waiter in waiting {
            waiter.standing.send_replace(Standing::Refused(self.draining()));
        }
    }

    pub fn is_draining(&self) -> bool {
        self.state.lock().is_draining
    }

    /// Whether a query holds a grant.
    pub fn holds(&self, query: QueryId) -> bool {
        self.state.lock().granted.values().any(|held| held.query == query)
    }

    /// Resolves once nothing is granted any more.
    pub async fn idle(&self) {
        loop {
            let returned = self.returned.notified();
            if self.state.lock().granted.is_empty() {
                return;
            }
            returned.await;
        }
    }

    pub fn figures(&self) -> AdmissionFigures {
        let state = self.state.lock();
        let (slots_taken, memory_taken) = taken(&state);
        AdmissionFigures { queries: state.granted.len(), waiting: state.waiting.len(), slots_taken, memory_taken }
    }

    /// The error for queries that come while the worker drains.
    pub fn draining(&self) -> WireError {
        let text = format!("worker {} is draining: it takes no more queries", self.worker);
        WireError::new(ErrorCode::NoWorker, text).retryable()
    }

    /// Why a demand cannot be granted now.
    fn shortage(&self, state: &State, demand: Demand) -> Option<String> {
        let worker = &self.worker;
        let n_queries = state.granted.len();
        if n_queries == 0 {
            return None;
        }
        if demand.is_alone {
            return Some(format!("waits to be alone on worker {worker}, where {n_queries} other queries run"));
        }
        if state.granted.values().any(|held| held.demand.is_alone) {
            return Some(format!("worker {worker} runs a query that needs all of its memory"));
        }
        let (slots, memory) = taken(state);
        if slots + u64::from(demand.tasks) > u64::from(self.slots) {
            let (wanted, all) = (demand.tasks, self.slots);
            return Some(format!("worker {worker} has {slots} of {all} task slots taken, {wanted} are wanted"));
        }
        if memory.saturating_add(demand.memory_bytes) > self.memory_bytes {
            let mib = |bytes: u64| bytes >> 20;
            return Some(format!(
                "worker {worker} has {} of {} MiB of memory promised, {} are wanted",
                mib(memory),
                mib(self.memory_bytes),
                mib(demand.memory_bytes)
            ));
        }
        None
    }

    fn behind(&self, state: &State) -> String {
        format!("{} queries wait before it for worker {}", state.waiting.len(), self.worker)
    }

    /// Gives a place back, and what became free to those who wait.
    fn give_back(&self, id: u64) {
        let mut state = self.state.lock();
        let is_returned = state.granted.remove(&id).is_some();
        state.waiting.retain(|waiter| waiter.id != id);
        while let Some(first) = state.waiting.front()
            && self.shortage(&state, first.demand).is_none()
        {
            let Some(Waiter { id, query, demand, standing }) = state.waiting.pop_front() else { break };
            state.granted.insert(id, Held { query, demand });
            standing.send_replace(Standing::Granted);
        }
        if let Some(first) = state.waiting.front() {
            let reason = self.shortage(&state, first.demand).unwrap_or_default();
            tell(first, reason);
        }
        for (n_before, waiter) in state.waiting.iter().enumerate().skip(1) {
            tell(waiter, format!("{n_before} queries wait before it for worker {}", self.worker));
        }
        drop(state);
        if is_returned {
            self.returned.notify_waiters();
        }
    }
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("worker", &self.worker).field("figures", &self.figures()).finish()
    }
}

fn tell(waiter: &Waiter, reason: String) {
    waiter.standing.send_if_modified(|standing| {
        let new = Standing::Waiting(reason);
        let is_new = *standing != new;
        *standing = new;
        is_new
    });
}

/// Slots and bytes that are granted.
fn taken(state: &State) -> (u64, u64) {
    state.granted.values().fold((0, 0), |(slots, memory), held| {
        (slots + u64::from(held.demand.tasks), memory.saturating_add(held.demand.memory_bytes))
    })
}

/// A query's place on one worker, in line or granted. Dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    id: u64,
    standing: watch::Receiver<Standing>,
}

impl Place {
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Each change of its standing, the present one first. Never ends by itself; the place goes with it.
    pub fn into_stream(self) -> PlaceStream {
        let standings = WatchStream::new(self.standing.clone());
        PlaceStream { standings, _place: self }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.give_back(self.id);
    }
}

/// See [`Place::into_stream`].
pub struct PlaceStream {
    standings: WatchStream<Standing>,
    _place: Place,
}

impl Stream for PlaceStream {
    type Item = Standing;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Standing>> {
        match self.standings.next().poll_unpin(context) {
            // Nobody will change it any more: it is granted or refused. The place is held all the same.
            Poll::Ready(None) => Poll::Pending,
            polled => polled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(n: u64) -> QueryId {
        QueryId(n)
    }

    fn demand(tasks: u32, memory_bytes: u64) -> Demand {
        Demand { tasks, memory_bytes, is_alone: false }
    }

    fn waits_for(place: &Place) -> String {
        match place.standing() {
            Standing::Waiting(reason) => reason,
            other => panic!("it does not wait: {other:?}"),
        }
    }

    #[test]
    fn slots_and_memory_are_granted_in_order() {
        let admission = Admission::new("w", 4, 100);
        let first = admission.request(query(1), demand(3, 10), false).unwrap();
        let big = admission.request(query(2), demand(2, 10), true).unwrap();
        assert_eq!(waits_for(&big), "worker w has 3 of 4 task slots taken, 2 are wanted");
        let small = admission.request(query(3), demand(1, 10), true).unwrap();
        assert_eq!(waits_for(&small), "1 queries wait before it for worker w", "nobody overtakes");
        let error = admission.request(query(4), demand(1, 1), false).unwrap_err();
        assert_eq!((error.code, error.retryable), (ErrorCode::Busy, true));
        drop(first);
        assert_eq!((big.standing(), small.standing()), (Standing::Granted, Standing::Granted));
        assert_eq!(admission.figures(), AdmissionFigures { queries: 2, waiting: 0, slots_taken: 3, memory_taken: 20 });
        let hungry = admission.request(query(5), demand(1, 90), true).unwrap();
        assert!(waits_for(&hungry).contains("of memory promised"), "{}", waits_for(&hungry));
        drop(big);
        assert!(matches!(hungry.standing(), Standing::Granted));
        drop((small, hungry));
        assert_eq!(admission.figures(), AdmissionFigures::default());
    }

    #[test]
    fn more_than_there_is_runs_alone() {
        let admission = Admission::new("w", 4, 100);
        let huge = admission.request(query(1), demand(1000, 1000), false).unwrap();
        let next = admission.request(query(2), demand(1, 0), true).unwrap();
        assert!(matches!(next.standing(), Standing::Waiting(_)));
        drop(huge);
        assert_eq!(next.standing(), Standing::Granted);
        let alone = admission.request(query(3), Demand { is_alone: true, ..demand(1, 1) }, true).unwrap();
        assert!(waits_for(&alone).contains("alone"), "{}", waits_for(&alone));
        drop(next);
        assert_eq!(alone.standing(), Standing::Granted);
        assert!(admission.request(query(4), demand(1, 0), false).unwrap_err().message.contains("all of its memory"));
    }

    #[test]
    fn who_leaves_the_line_holds_nobody_up() {
        let admission = Admission::new("w", 1, 100);
        let first = admission.request(query(1), demand(1, 0), false).unwrap();
        let second = admission.request(query(2), demand(1, 0), true).unwrap();
        let third = admission.request(query(3), demand(1, 0), true).unwrap();
        drop(second);
        assert!(waits_for(&third).contains("task slots"), "{}", waits_for(&third));
        drop(first);
        assert_eq!(third.standing(), Standing::Granted);
    }

    #[tokio::test]
    async fn a_draining_worker_finishes_what_it_granted() {
        let admission = Admission::new("w", 1, 100);
        let first = admission.request(query(1), demand(1, 0), false).unwrap();
        let mut second = admission.request(query(2), demand(1, 0), true).unwrap().into_stream();
        assert!(matches!(second.next().await, Some(Standing::Waiting(_))));
        admission.drain();
        let Some(Standing::Refused(error)) = second.next().await else { panic!("it still waits") };
        assert_eq!((error.code, error.retryable), (ErrorCode::NoWorker, true));
        assert_eq!(admission.request(query(3), demand(1, 0), true).unwrap_err().code, ErrorCode::NoWorker);
        assert!(admission.holds(query(1)) && !admission.holds(query(2)));
        let idle = admission.idle();
        tokio::pin!(idle);
        assert!(idle.as_mut().now_or_never().is_none());
        drop(first);
        tokio::time::timeout(std::time::Duration::from_secs(5), idle).await.expect("nothing is granted any more");
    }
}
