//! What a worker has to do: the tasks of all queries that hold a lease on it.
//!
//! A coordinator submits tasks and gets a stream of what becomes of them. That stream is the query's lease: when it
//! is dropped, for whatever reason, the tasks are aborted and their buffers freed. A coordinator that dies takes its
//! queries with it, and nothing has to be cleaned up later.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::{FutureExt, Stream};
use parking_lot::Mutex;
use sheaf_common::error::Origin;
use sheaf_common::{ErrorCode, QueryId, TaskId, WireError};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::admission::{Admission, Place, SLOTS_PER_CORE};
use crate::error::from_panic;
use crate::exchange::{Exchange, ExchangeRegistry, ExchangeShape};
use crate::messages::{
    AdmitRequest, EndTasksRequest, RedirectAnswer, RedirectRequest, StageSubmit, SubmitRequest, TaskEvent, TaskList,
    TaskRow, TaskSpec, TaskState, WorkerAddress, WorkerInfo,
};
use crate::report::TaskReport;

/// Runs one task. Implemented above this crate, where plans are known.
#[async_trait]
pub trait TaskRunner: Send + Sync + 'static {
    /// Runs the whole plan of the task, every partition once, into its exchange; neither finishes nor fails it.
    /// Comes to an early and good end when nobody reads the exchange any more.
    ///
    /// Dropping the future ends the task and all that it spawned.
    async fn run(&self, start: TaskStart) -> Result<TaskReport, WireError>;
}

/// One task to run, with all that it may need.
#[derive(Debug, Clone)]
pub struct TaskStart {
    pub id: TaskId,
    pub request: Arc<SubmitRequest>,
    /// Index into the request's stages.
    stage_idx: usize,
    /// Index into the stage's tasks.
    task_idx: usize,
    pub exchange: Arc<Exchange>,
}

impl TaskStart {
    pub fn stage(&self) -> &StageSubmit {
        &self.request.stages[self.stage_idx]
    }

    pub fn spec(&self) -> &TaskSpec {
        &self.stage().tasks[self.task_idx]
    }
}

/// What a worker is made of.
pub struct WorkerOptions {
    pub address: WorkerAddress,
    /// The name that errors and `system.nodes` show.
    pub name: String,
    pub cores: usize,
    /// Memory that exchange buffers are charged to, the operators' own, and where those spill.
    pub env: Arc<RuntimeEnv>,
    pub runner: Arc<dyn TaskRunner>,
    /// Where tasks run. Not where connections are served: these must answer also while tasks compute.
    pub runtime: Handle,
}

/// The state of one worker.
pub struct WorkerState {
    options: WorkerOptions,
    admission: Arc<Admission>,
    exchanges: ExchangeRegistry,
    tables: Mutex<Tables>,
    started: SystemTime,
}

#[derive(Default)]
struct Tables {
    leases: HashMap<u64, Lease>,
    n_leases_ever: u64,
    /// Every task of which something is left: its lease, its future, its buffer or a reader of it.
    tasks: HashMap<TaskId, TaskEntry>,
}

struct Lease {
    query: QueryId,
    tasks: Vec<TaskId>,
    events: mpsc::UnboundedSender<Result<TaskEvent, WireError>>,
}

struct TaskEntry {
    /// Held by all that is left of the task.
    exchange: Weak<Exchange>,
    abort: AbortHandle,
    state: Arc<AtomicU8>,
    coordinator: String,
    started_ms: u64,
}

const STATES: [TaskState; 5] =
    [TaskState::Waiting, TaskState::Running, TaskState::Finished, TaskState::Failed, TaskState::Overtaken];

/// What the pool may give out, if there is an end to it.
fn memory_limit(env: &RuntimeEnv) -> Option<u64> {
    match env.memory_pool.memory_limit() {
        MemoryLimit::Finite(bytes) => Some(bytes as u64),
        MemoryLimit::Infinite | MemoryLimit::Unknown => None,
    }
}

/// How often a draining worker looks for leases.
const LEASE_POLL: Duration = Duration::from_millis(50);

/// Since 1970 UTC.
fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn store_state(cell: &AtomicU8, state: TaskState) {
    cell.store(state as u8, Ordering::Relaxed);
}

impl WorkerState {
    /// With as many task slots as its cores are worth, and all of its memory to promise.
    pub fn new(options: WorkerOptions) -> Arc<Self> {
        let memory_bytes = memory_limit(&options.env);
        let slots = options.cores * SLOTS_PER_CORE;
        let admission = Admission::new(options.name.clone(), slots, memory_bytes.unwrap_or(u64::MAX));
        Self::with_admission(options, admission)
    }

    /// Lets in whom `admission` lets in, which others of this process may ask too.
    pub fn with_admission(options: WorkerOptions, admission: Arc<Admission>) -> Arc<Self> {
        // A task's panic is to be found by whoever reads its error.
        sheaf_common::panics::watch();
        let env = &options.env;
        let exchanges = ExchangeRegistry::with_disk(Arc::clone(&env.memory_pool), Arc::clone(&env.disk_manager));
        Arc::new(Self { options, admission, exchanges, tables: Mutex::default(), started: SystemTime::now() })
    }

    pub fn address(&self) -> &WorkerAddress {
        &self.options.address
    }

    pub fn name(&self) -> &str {
        &self.options.name
    }

    pub fn exchanges(&self) -> &ExchangeRegistry {
        &self.exchanges
    }

    /// Errs when `node` names another run of a worker than this.
    pub fn check_node(&self, node: &str) -> Result<(), WireError> {
        if node.is_empty() || node == self.options.address.node {
            return Ok(());
        }
        let text = format!("worker {node} is lost: {} runs at its address", self.options.address.node);
        Err(WireError::new(ErrorCode::WorkerLost, text).retryable())
    }

    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// Asks for a query to be let in: see [`Admission::request`].
    pub fn admit(&self, request: &AdmitRequest) -> Result<Place, WireError> {
        self.check_node(&request.worker)?;
        self.admission.request(request.query, request.demand, request.may_wait)
    }

    /// Takes tasks and starts them. The answer begins with `Accepted` and stays open until it is dropped or the query
    /// is released or cancelled.
    ///
    /// Errs, and takes none of them, when a task is known already, the query was cancelled, the worker drains and the
    /// query is not one of those that it still finishes, or the request makes no sense.
    pub fn submit(self: &Arc<Self>, request: SubmitRequest) -> Result<LeaseStream, WireError> {
        self.check_node(&request.worker)?;
        let is_here = || self.tables.lock().leases.values().any(|lease| lease.query == request.query);
        if self.admission.is_draining() && !self.admission.holds(request.query) && !is_here() {
            return Err(self.admission.draining());
        }
        let request = Arc::new(request);
        let starts = self.create_exchanges(&request)?;
        let deadline = (request.deadline_ms > 0).then(|| Instant::now() + Duration::from_millis(request.deadline_ms));
        let (events, receiver) = mpsc::unbounded_channel();
        // The receiver is here: the send cannot fail.
        let _ = events.send(Ok(TaskEvent::Accepted));
        let mut tables = self.tables.lock();
        tables.n_leases_ever += 1;
        let lease = tables.n_leases_ever;
        tables.tasks.retain(|_, entry| entry.exchange.strong_count() > 0);
        let mut tasks = Vec::with_capacity(starts.len());
        for start in starts {
            let (id, exchange) = (start.id, Arc::downgrade(&start.exchange));
            let state = Arc::new(AtomicU8::new(TaskState::Waiting as u8));
            tasks.push(id);
            let run = run_task(
                Arc::clone(&self.options.runner),
                self.options.name.clone(),
                start,
                deadline,
                Arc::clone(&state),
                events.clone(),
            );
            let entry = TaskEntry {
                exchange,
                abort: self.options.runtime.spawn(run).abort_handle(),
                state,
                coordinator: request.coordinator.clone(),
                started_ms: milliseconds(SystemTime::now()),
            };
            tables.tasks.insert(id, entry);
        }
        tables.leases.insert(lease, Lease { query: request.query, tasks, events });
        drop(tables);
        // A cancel may have come between the making of the buffers and now.
        if self.exchanges.is_cancelled(request.query) {
            self.cancel(request.query);
        }
        Ok(LeaseStream { worker: Arc::clone(self), lease, receiver })
    }

    fn create_exchanges(&self, request: &Arc<SubmitRequest>) -> Result<Vec<TaskStart>, WireError> {
        let mut starts: Vec<TaskStart> = Vec::new();
        for (stage_idx, stage) in request.stages.iter().enumerate() {
            let shape = ExchangeShape {
                partitions: stage.output_partitions as usize,
                readers: stage.readers as usize,
                limit_bytes: request.settings.exchange_buffer_bytes as usize,
                retained: request.settings.fault_tolerance,
            };
            for (task_idx, spec) in stage.tasks.iter().enumerate() {
                let id = TaskId { query: request.query, stage: stage.stage, task: spec.task, attempt: spec.attempt };
                let created = if spec.task < stage.task_count && shape.partitions > 0 {
                    self.exchanges.create(id, shape)
                } else {
                    Err(WireError::new(ErrorCode::InvalidArgument, format!("task {id} does not fit its stage")))
                };
                match created {
                    Ok(exchange) => {
                        starts.push(TaskStart { id, request: Arc::clone(request), stage_idx, task_idx, exchange });
                    }
                    Err(error) => {
                        let created: Vec<TaskId> = starts.iter().map(|start| start.id).collect();
                        self.exchanges.release(&created);
                        return Err(error);
                    }
                }
            }
        }
        Ok(starts)
    }

    /// Ends a query for good: its tasks, its buffers, and what may still be submitted for it.
    pub fn cancel(&self, query: QueryId) {
        self.exchanges.cancel(query);
        let error = WireError::new(ErrorCode::Cancelled, format!("query {query} was cancelled"));
        for lease in self.take_leases(query) {
            let _ = lease.events.send(Err(error.clone()));
            self.end(lease);
        }
    }

    /// Keeps the output of a query's tasks no longer than until it was read.
    pub fn end_retention(&self, query: QueryId) {
        self.exchanges.end_retention(query);
    }

    /// Ends what was submitted of a query so far.
    pub fn release(&self, query: QueryId) {
        for lease in self.take_leases(query) {
            self.end(lease);
        }
    }

    /// Resolves once no query has a place or a task here: what a draining worker waits for.
    pub async fn drained(&self) {
        loop {
            self.admission.idle().await;
            if self.tables.lock().leases.is_empty() {
                return;
            }
            // Queries that never asked for a place have no one to tell of their end.
            tokio::time::sleep(LEASE_POLL).await;
        }
    }

    /// Ends all queries: the node stops.
    pub fn cancel_all(&self) {
        let queries: Vec<QueryId> = self.tables.lock().leases.values().map(|lease| lease.query).collect();
        for query in queries {
            self.cancel(query);
        }
    }

    fn take_leases(&self, query: QueryId) -> Vec<Lease> {
        self.tables.lock().leases.extract_if(|_, lease| lease.query == query).map(|(_, lease)| lease).collect()
    }

    fn end_lease(&self, lease: u64) {
        let lease = self.tables.lock().leases.remove(&lease);
        if let Some(lease) = lease {
            self.end(lease);
        }
    }

    fn end(&self, lease: Lease) {
        self.abort(&lease.tasks);
    }

    /// Ends tasks whose rows must not be used, and others whose rows nobody needs any more: of those, the ones that
    /// run come to an early and good end. Frees the output of both.
    pub fn end_tasks(&self, request: &EndTasksRequest) {
        self.abort(&request.aborted);
        self.exchanges.abandon(&request.released);
    }

    /// Has the readers of a task read another attempt, and ends it; or only says whether that could be done.
    pub fn redirect(&self, request: &RedirectRequest) -> RedirectAnswer {
        let exchange = self.exchanges.get(request.task);
        let is_possible = match (&exchange, &request.to) {
            (None, _) => false,
            (Some(exchange), None) => exchange.is_replaceable(),
            (Some(exchange), Some(to)) => exchange.replace(to),
        };
        if is_possible
            && request.to.is_some()
            && let Some(entry) = self.tables.lock().tasks.get(&request.task)
        {
            entry.abort.abort();
            store_state(&entry.state, TaskState::Overtaken);
        }
        RedirectAnswer { is_possible }
    }

    fn abort(&self, tasks: &[TaskId]) {
        {
            let tables = self.tables.lock();
            for entry in tasks.iter().filter_map(|task| tables.tasks.get(task)) {
                entry.abort.abort();
            }
        }
        self.exchanges.release(tasks);
    }

    /// Every task of which something is left.
    pub fn list_tasks(&self) -> TaskList {
        let mut tables = self.tables.lock();
        tables.tasks.retain(|_, entry| entry.exchange.strong_count() > 0);
        let rows = tables.tasks.iter().filter_map(|(task, entry)| {
            let exchange = entry.exchange.upgrade()?;
            Some(TaskRow {
                task: *task,
                state: STATES[usize::from(entry.state.load(Ordering::Relaxed))],
                coordinator: entry.coordinator.clone(),
                output_rows: exchange.pushed().0,
                buffered_bytes: exchange.buffered_bytes() as u64,
                started_ms: entry.started_ms,
            })
        });
        let mut tasks: Vec<TaskRow> = rows.collect();
        tasks.sort_by_key(|row| row.task);
        TaskList { tasks }
    }

    pub fn info(&self) -> WorkerInfo {
        let tasks = self.list_tasks().tasks.len() as u32;
        // A query whose tasks were started at several times holds several leases.
        let queries: HashSet<QueryId> = self.tables.lock().leases.values().map(|lease| lease.query).collect();
        WorkerInfo {
            node: self.options.address.node.clone(),
            version: sheaf_common::build::id().to_owned(),
            cores: self.options.cores as u32,
            tasks,
            queries: queries.len() as u32,
            exchange_bytes: self.exchanges.buffered_bytes() as u64,
            reserved_bytes: self.options.env.memory_pool.reserved() as u64,
            memory_limit_bytes: memory_limit(&self.options.env).unwrap_or(0),
            spill_bytes: self.options.env.disk_manager.used_disk_space(),
            started_ms: milliseconds(self.started),
            draining: self.admission.is_draining(),
        }
    }
}

/// Memory is refused by whoever comes last: which query that was belongs into the message.
fn in_query(mut error: WireError, query: QueryId) -> WireError {
    if error.code == ErrorCode::MemoryRefused && error.origin.is_none() {
        error.message.push_str(&format!("; query {query}"));
    }
    error
}

/// One task from its start to its event.
async fn run_task(
    runner: Arc<dyn TaskRunner>,
    worker: String,
    start: TaskStart,
    deadline: Option<Instant>,
    state: Arc<AtomicU8>,
    events: mpsc::UnboundedSender<Result<TaskEvent, WireError>>,
) {
    store_state(&state, TaskState::Running);
    let id = start.id;
    let deadline_ms = start.request.deadline_ms;
    let exchange = Arc::clone(&start.exchange);
    let run = AssertUnwindSafe(async { runner.run(start).await }).catch_unwind();
    let outcome = match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, run).await.unwrap_or_else(|_| {
            let text = format!("the query ran longer than the {deadline_ms} ms that it was given");
            Ok(Err(WireError::new(ErrorCode::Timeout, text)))
        }),
        None => run.await,
    };
    let event = match outcome.unwrap_or_else(|panic| Err(from_panic(panic.as_ref()))) {
        Ok(report) => {
            exchange.finish();
            store_state(&state, TaskState::Finished);
            TaskEvent::Finished { task: id, report: Box::new(report) }
        }
        Err(error) => {
            let error = in_query(error, id.query);
            let error = error.at(Origin { stage: id.stage.0, task: id.task, attempt: id.attempt, worker });
            tracing::debug!(task = %id, %error, "task failed");
            exchange.fail(error.clone());
            store_state(&state, TaskState::Failed);
            TaskEvent::Failed { task: id, error }
        }
    };
    // Nobody listens to a lease that has ended.
    let _ = events.send(Ok(event));
}

/// What becomes of the tasks of one submit. Dropping it ends them.
pub struct LeaseStream {
    worker: Arc<WorkerState>,
    lease: u64,
    receiver: mpsc::UnboundedReceiver<Result<TaskEvent, WireError>>,
}

impl Stream for LeaseStream {
    type Item = Result<TaskEvent, WireError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(context)
    }
}

impl Drop for LeaseStream {
    fn drop(&mut self) {
        self.worker.end_lease(self.lease);
    }
}
