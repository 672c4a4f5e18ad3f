//! Where the output of tasks waits for those who read it: one registry a worker, one buffer a task.
//!
//! A buffer is known from the moment its task is submitted, so that a consumer that comes early waits for rows and
//! not for the task. A reader of a task that nobody submitted waits up to its deadline, since its own message may
//! have overtaken the other. Tasks that ended and queries that were cancelled leave tombstones: who comes for them
//! later is answered at once.
//!
//! All buffers of a worker share one account of its memory pool, and one disk: see `store.rs`. Memory is held to the
//! pool's limit, and exceeded only by what is on its way to disk, at most an eighth of the limit (256 MiB, if that
//! is less) or one segment.

mod account;
mod buffer;
mod partition;
mod reader;
mod spill;
mod store;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::DiskManager;
use datafusion::execution::memory_pool::MemoryPool;
use parking_lot::Mutex;
use sheaf_common::{ErrorCode, QueryId, TaskId, WireError};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use buffer::{Exchange, Pushed, Segment};
pub use reader::ExchangeReader;
use store::SegmentStore;

/// Ended queries, and as many ended tasks, whose late requests are still answered as such.
const TOMBSTONES_MAX: usize = 16_384;

/// How a task's buffer is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExchangeShape {
    pub partitions: usize,
    /// How often each partition is read.
    pub readers: usize,
    /// Unread bytes at which the producer starts to wait, where nothing is retained.
    pub limit_bytes: usize,
    /// Whether segments stay when they have been read, for readers that come again.
    pub retained: bool,
}

/// All exchange buffers of one worker.
pub struct ExchangeRegistry {
    store: Arc<SegmentStore>,
    state: Mutex<State>,
    /// Told of every task that becomes known and every query that ends.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    queries: HashMap<QueryId, HashMap<TaskId, Arc<Exchange>>>,
    cancelled: Tombstones<QueryId>,
    /// Of queries that may still be alive: more of them may be submitted, but not these.
    released: Tombstones<TaskId>,
}

impl ExchangeRegistry {
    /// Buffers whose bytes are charged to `pool`, and that have nowhere to spill.
    pub fn new(pool: Arc<dyn MemoryPool>) -> Self {
        Self::with_store(SegmentStore::new(pool, None))
    }

    /// Buffers whose bytes are charged to `pool`, and that spill to `disk`. Evicts for others if the pool is a
    /// [`crate::memory::NodeMemoryPool`]. Dropping it ends its spill thread.
    pub fn with_disk(pool: Arc<dyn MemoryPool>, disk: Arc<DiskManager>) -> Self {
        Self::with_store(SegmentStore::new(pool, Some(disk)))
    }

    fn with_store(store: Arc<SegmentStore>) -> Self {
        Self { store, state: Mutex::default(), changed: Notify::new() }
    }

    /// Makes the buffer of a task and wakes the readers that wait for it.
    ///
    /// Errs when the task has one already, or its query was cancelled.
    pub fn create(&self, task: TaskId, shape: ExchangeShape) -> Result<Arc<Exchange>, WireError> {
        let exchange = {
            let mut state = self.state.lock();
            if state.cancelled.contains(task.query) {
                return Err(ended(task.query));
            }
            let tasks = state.queries.entry(task.query).or_default();
            if tasks.contains_key(&task) {
                return Err(WireError::new(ErrorCode::Internal, format!("task {task} was submitted twice")));
            }
            let exchange = Exchange::new(task, shape, &self.store);
            tasks.insert(task, Arc::clone(&exchange));
            exchange
        };
        self.changed.notify_waiters();
        Ok(exchange)
    }

    /// The buffer of a task, if it is known.
    pub fn get(&self, task: TaskId) -> Option<Arc<Exchange>> {
        self.state.lock().queries.get(&task.query)?.get(&task).cloned()
    }

    /// Begins to read a partition from its start; waits up to `wait` for the task to become known.
    ///
    /// Errs when the task stays unknown, its query has ended, or all readers that the partition was made for are
    /// there already.
    pub async fn open(&self, task: TaskId, partition: usize, wait: Duration) -> Result<ExchangeReader, WireError> {
        let deadline = Instant::now() + wait;
        loop {
            // Armed before the look, so that no change falls between.
            let changed = self.changed.notified();
            {
                let state = self.state.lock();
                if let Some(exchange) = state.queries.get(&task.query).and_then(|tasks| tasks.get(&task)) {
                    return exchange.read(partition);
                }
                if state.cancelled.contains(task.query) || state.released.contains(task) {
                    return Err(ended(task.query));
                }
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                let text = format!("task {task} was not announced to this worker within {} ms", wait.as_millis());
                return Err(WireError::new(ErrorCode::Timeout, text).retryable());
            }
        }
    }

    /// Aborts the buffers of some tasks: what they hold is freed, who reads or writes them, now or later, gets an
    /// error. Other tasks of their queries go on.
    pub fn release(&self, tasks: &[TaskId]) {
        let mut removed = Vec::new();
        {
            let mut state = self.state.lock();
            for task in tasks {
                state.released.insert(*task);
                let Some(tasks) = state.queries.get_mut(&task.query) else { continue };
                removed.extend(tasks.remove(task));
                if tasks.is_empty() {
                    state.queries.remove(&task.query);
                }
            }
        }
        // Outside the lock: an abort wakes others, and drops batches.
        for exchange in removed {
            exchange.abort(&ended(exchange.task().query));
        }
        self.changed.notify_waiters();
    }

    /// Gives up the output of some tasks that nobody needs any more. Those that still write come to an early and good end.
    pub fn abandon(&self, tasks: &[TaskId]) {
        let done: Vec<TaskId> =
            tasks.iter().filter(|task| !self.get(**task).is_some_and(|it| it.abandon())).copied().collect();
        self.release(&done);
    }

    /// Ends a query for good: all its buffers are aborted, and whatever comes of it later is refused.
    pub fn cancel(&self, query: QueryId) {
        let buffers = {
            let mut state = self.state.lock();
            state.cancelled.insert(query);
            state.queries.remove(&query)
        };
        for exchange in buffers.into_iter().flat_map(HashMap::into_values) {
            exchange.abort(&ended(query));
        }
        self.changed.notify_waiters();
    }

    /// Ends the retention of all that a query has here: what was read is dropped, and from now on producers wait for
    /// consumers. To be called when a loss could not be mended any more, since rows have gone to the client.
    pub fn end_retention(&self, query: QueryId) {
        let exchanges: Vec<Arc<Exchange>> =
            self.state.lock().queries.get(&query).into_iter().flat_map(HashMap::values).cloned().collect();
        for exchange in exchanges {
            exchange.end_retention();
        }
    }

    /// Whether a cancel of the query came by.
    pub fn is_cancelled(&self, query: QueryId) -> bool {
        self.state.lock().cancelled.contains(query)
    }

    /// Bytes that all buffers hold, as they are in memory; those on disk count as well.
    pub fn buffered_bytes(&self) -> usize {
        let state = self.state.lock();
        state.queries.values().flat_map(HashMap::values).map(|exchange| exchange.buffered_bytes()).sum()
    }

    /// Number of buffers.
    pub fn len(&self) -> usize {
        self.state.lock().queries.values().map(HashMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for ExchangeRegistry {
    fn drop(&mut self) {
        self.store.close();
    }
}

impl fmt::Debug for ExchangeRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeRegistry").field("state", &self.state).finish_non_exhaustive()
    }
}

fn ended(query: QueryId) -> WireError {
    WireError::new(ErrorCode::Cancelled, format!("query {query} was cancelled or has ended"))
}

/// What ended last, as much of it as is worth remembering.
#[derive(Debug)]
struct Tombstones<K> {
    /// Invariant: the members of `order`, and no other.
    ended: HashSet<K>,
    order: VecDeque<K>,
}

impl<K> Default for Tombstones<K> {
    fn default() -> Self {
        Self { ended: HashSet::new(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash> Tombstones<K> {
    fn contains(&self, key: K) -> bool {
        self.ended.contains(&key)
    }

    fn insert(&mut self, key: K) {
        if !self.ended.insert(key) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > TOMBSTONES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ended.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
