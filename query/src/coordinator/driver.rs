//! Carries out what the machine of a query says, and tells it what happens: the only place where the two meet.
//!
//! Calls, leases, timers and the root's stream are polled here, by one future. Dropping it ends the query on every
//! worker, since it owns the leases.

mod calls;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::ExecutionPlan;
use futures::future::BoxFuture;
use futures::stream::{AbortHandle, BoxStream, FuturesUnordered, SelectAll, StreamExt};
use sheaf_common::{Classify, ErrorCode, StageId, TaskId, WireError};
use sheaf_flight::report::{self, OperatorReport};
use sheaf_flight::{FlightClient, TaskEvent, TaskReport};
use sheaf_planners::error::to_wire;
use tokio::sync::mpsc;
use tracing::info;

use super::QueryPlan;
use super::machine::{Action, Cause, Event, Limits, Machine, Redirected, WorkerKey};
use super::root::Root;
use super::stragglers::Stragglers;
use super::tasks::{Tasks, inputs};
use super::workers::Workers;
use crate::context::QueryContext;
use crate::error::QueryError;

/// How long the tasks of a query that has its result may take to end by themselves, before they are told to.
const END_PATIENCE: Duration = Duration::from_millis(5);

/// Workers that are lost within this time are lost together, to a power cut or to a switch: nothing is run again on one of
/// them that is about to follow, and no task is blamed for both.
const LOSS_WINDOW: Duration = Duration::from_millis(200);
/// Attempts of one task that may be refused memory.
const MEMORY_REFUSALS_MAX: u32 = 2;

/// What a section did.
pub(super) struct Outcome {
    pub root: Vec<OperatorReport>,
    /// Of the attempts whose rows counted, with the names of their workers; some may not have come in time.
    pub reports: BTreeMap<TaskId, (String, TaskReport)>,
    pub n_restarts: u32,
    /// Attempts of all tasks of each stage.
    pub n_attempts: BTreeMap<StageId, u32>,
    /// Tasks that had a second attempt beside the first, and those of which it was the second that was read.
    pub n_speculated: u32,
    pub n_overtaken: u32,
}

/// One submit, from its call to its end.
struct Lease {
    worker: WorkerKey,
    attempts: Vec<TaskId>,
    is_accepted: bool,
    /// It ended with an error, which was dealt with.
    has_failed: bool,
    /// To be ended once the worker has accepted them.
    aborted: Vec<TaskId>,
    /// Ends the stream, and with it the tasks.
    drop: AbortHandle,
}

/// What a lease says; `None` at its end.
type Said = (usize, Option<Result<TaskEvent, WireError>>);

/// What a call or a timer came to.
enum Answer {
    /// Nothing hangs on it.
    Told,
    WaitOver(u32),
    /// Losses that come together have come.
    Losses,
    Release,
    /// Whether the worker lives that could not be read from, and the failure that led to the question.
    Probed(WorkerKey, Result<(), WireError>, Box<Failure>),
    /// Time to look for tasks that run far beyond their siblings.
    LookForStragglers,
    /// Whether nobody has read from one yet.
    IsUnread(TaskId, bool),
    Redirected(TaskId, Redirected),
    /// The result is there, and some tasks still run.
    EndTasks,
    ReportsOver,
}

/// A task, or a run of the root, that ended with an error.
struct Failure {
    of: Failed,
    cause: Cause,
    error: WireError,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Failed {
    Task(TaskId),
    Root { run: u32 },
}

pub(super) struct Driver<'a> {
    context: &'a QueryContext,
    client: Arc<FlightClient>,
    is_tolerant: bool,
    tasks: Tasks<'a>,
    machine: Machine,
    workers: Workers,
    root: Root<'a>,
    leases: Vec<Lease>,
    said: SelectAll<BoxStream<'static, Said>>,
    calls: FuturesUnordered<BoxFuture<'static, Answer>>,
    changes: BoxStream<'static, ()>,
    /// By attempt, the index of its lease.
    placed: HashMap<TaskId, usize>,
    /// Of every attempt that came to a good end, whether its rows count or not.
    reports: BTreeMap<TaskId, (String, TaskReport)>,
    /// None when no task is to have a second attempt.
    stragglers: Option<Stragglers>,
    /// Those of them about which a worker was asked.
    asked: HashSet<TaskId>,
    /// Attempts that were refused memory, by task.
    n_refused: HashMap<(StageId, u32), u32>,
    /// Losses that the machine has not heard of yet, and failures that came after them.
    losses: Vec<Event>,
    failures: Vec<Failure>,
    released: Vec<TaskId>,
    is_releasing: bool,
    root_report: Vec<OperatorReport>,
    /// The whole result is there.
    is_done: bool,
    /// No further report is waited for.
    is_reported: bool,
    reports_wait: Duration,
}

impl<'a> Driver<'a> {
    /// One root with all that it reads, not started. Rows are held back up to `hold_bytes_max`, so that the root can
    /// begin again; reports of tasks are waited for up to `reports_wait` once the result is there.
    pub fn new(
        context: &'a QueryContext,
        plan: &'a QueryPlan,
        root: &'a Arc<dyn ExecutionPlan>,
        hold_bytes_max: usize,
        reports_wait: Duration,
    ) -> Result<Self, QueryError> {
        let resolver = context.engine.workers();
        // Before the list is read, so that no change falls between.
        let changes = resolver.changes();
        let mut workers = Workers::default();
        let (tasks, shape) = Tasks::new(context, plan, root, &mut workers)?;
        let live: Vec<WorkerKey> = resolver.workers().iter().map(|worker| workers.add(worker).0).collect();
        let machine = Machine::new(shape, limits(context), live)
            .map_err(|error| WireError::new(ErrorCode::Internal, error.to_string()))?;
        let is_tolerant = context.settings.fault_tolerance;
        Ok(Self {
            context,
            client: Arc::clone(context.engine.client()),
            is_tolerant,
            tasks,
            machine,
            workers,
            root: Root::new(context, root, if is_tolerant { hold_bytes_max } else { 0 }),
            leases: vec![],
            said: SelectAll::new(),
            calls: FuturesUnordered::new(),
            changes,
            placed: HashMap::new(),
            reports: BTreeMap::new(),
            stragglers: Stragglers::new(&context.settings),
            asked: HashSet::new(),
            n_refused: HashMap::new(),
            losses: vec![],
            failures: vec![],
            released: vec![],
            is_releasing: false,
            root_report: vec![],
            is_done: false,
            is_reported: false,
            reports_wait,
        })
    }

    /// Runs it to its end and hands out its rows.
    ///
    /// Errs with what ended the query; when nobody takes the rows any more, it ends without one.
    pub async fn run(mut self, rows: &mpsc::Sender<Result<RecordBatch>>) -> Result<Outcome> {
        self.handle(Event::Started)?;
        self.look_for_stragglers_later();
        while !self.is_reported || self.root.has_outgoing() {
            tokio::select! {
                // Leases first: the error of a task says more than that of whoever read from it.
                biased;
                said = self.said.next(), if !self.said.is_empty() => if let Some((lease, said)) = said {
                    self.heard(lease, said)?;
                },
                answer = self.calls.next(), if !self.calls.is_empty() => if let Some(answer) = answer {
                    self.answered(answer)?;
                },
                changed = self.changes.next() => match changed {
                    Some(()) => self.look_at_workers()?,
                    None => self.changes = futures::stream::pending().boxed(),
                },
                permit = rows.reserve(), if self.root.has_outgoing() => match permit {
                    Ok(permit) => if let Some(batch) = self.root.pop() {
                        permit.send(Ok(batch));
                    },
                    // Nobody reads any more.
                    Err(_) => break,
                },
                batch = self.root.next(), if self.root.may_read() => self.read(batch)?,
            }
        }
        Ok(self.outcome())
    }

    /// How long a query that has no worker left waits for one. Not at all where those that are there run another build, as
    /// in a rolling upgrade, and the query may run in this process.
    fn worker_wait(&self) -> Duration {
        let engine = &self.context.engine;
        let is_upgraded =
            engine.workers().workers().is_empty() && !engine.options().cluster.of_other_builds().is_empty();
        match is_upgraded && self.machine.is_unblamed() {
            true => Duration::ZERO,
            false => Duration::from_millis(self.context.settings.worker_wait_ms),
        }
    }

    /// Tells the machine, and does what it says.
    fn handle(&mut self, event: Event) -> Result<()> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let is_final = is_final(&event);
            let mut submits = vec![];
            let mut aborted = vec![];
            let mut retained = HashSet::new();
            let mut start = None;
            for action in self.machine.handle(event) {
                match action {
                    Action::Submit(submit) => submits.push(submit),
                    Action::Abort { attempt, .. } => aborted.push(attempt),
                    Action::Release { attempt, .. } => self.release(attempt),
                    Action::Redirect { from, worker, to, to_worker } => self.redirect(from, worker, to, to_worker),
                    Action::StopRoot => self.root.stop(),
                    Action::StartRoot { inputs } => start = Some(inputs),
                    Action::EndRetention { worker, .. } => {
                        retained.insert(worker);
                    }
                    Action::AwaitWorker { wait } => self.after(self.worker_wait(), Answer::WaitOver(wait)),
                    Action::Succeed => self.succeed(),
                    Action::Fail { error } if is_final => return Err(external(error)),
                    Action::Fail { error } => return Err(external(self.with_query(error))),
                }
            }
            self.abort(aborted);
            self.submit(submits);
            if self.is_tolerant {
                self.end_retention(retained);
            }
            if let Some(stages) = start
                && let Err(error) = self.root.start(&inputs(&stages, &self.workers))
            {
                events.push_back(Event::RootFailed { cause: Cause::Itself, error: to_wire(&error) });
            }
        }
        Ok(())
    }

    /// The text of an error that is not the statement's own fault names the query, as logs do.
    fn with_query(&self, error: WireError) -> WireError {
        WireError { message: format!("query {}: {}", self.context.query, error.message), ..error }
    }

    /// What a lease says.
    fn heard(&mut self, number: usize, said: Option<Result<TaskEvent, WireError>>) -> Result<()> {
        let lease = &mut self.leases[number];
        let key = lease.worker;
        match said {
            Some(Ok(TaskEvent::Accepted)) => {
                lease.is_accepted = true;
                let (attempts, aborted) = (lease.attempts.clone(), std::mem::take(&mut lease.aborted));
                self.abort(aborted);
                if let Some(stragglers) = &mut self.stragglers {
                    attempts.iter().for_each(|attempt| stragglers.accepted(*attempt, Instant::now()));
                }
                attempts.into_iter().try_for_each(|attempt| self.handle(Event::Accepted { attempt }))
            }
            Some(Ok(TaskEvent::Finished { task, report })) => {
                if let Some(stragglers) = &mut self.stragglers {
                    stragglers.finished(task, Instant::now());
                }
                self.handle(Event::Finished { attempt: task })?;
                self.reported(task, key, *report);
                Ok(())
            }
            Some(Ok(TaskEvent::Failed { task, error })) => self.failed(Failed::Task(task), error),
            Some(Err(error)) => {
                lease.has_failed = true;
                let is_refused = !lease.is_accepted && error.code != ErrorCode::WorkerLost;
                if !is_refused {
                    return self.lose(key, error);
                }
                let attempts = lease.attempts.clone();
                attempts.into_iter().try_for_each(|attempt| self.failed(Failed::Task(attempt), error.clone()))
            }
            None if lease.has_failed => Ok(()),
            None => {
                let worker = self.workers.get(key);
                let text = format!("worker {} ({}:{}) gave up the query", worker.name, worker.host, worker.port);
                self.lose(key, WireError::new(ErrorCode::WorkerLost, text).retryable())
            }
        }
    }

    fn answered(&mut self, answer: Answer) -> Result<()> {
        match answer {
            Answer::Told => Ok(()),
            Answer::WaitOver(wait) => self.handle(Event::WaitOver { wait }),
            Answer::Losses => self.take_losses(),
            Answer::Release => {
                self.send_releases();
                Ok(())
            }
            Answer::Probed(key, lives, failure) => {
                if let Err(error) = lives {
                    self.lose(key, error)?;
                }
                self.fail(*failure)
            }
            Answer::LookForStragglers => {
                self.look_for_stragglers();
                Ok(())
            }
            Answer::IsUnread(attempt, true) => self.handle(Event::Straggles { attempt }),
            Answer::IsUnread(_, false) => Ok(()),
            Answer::Redirected(attempt, outcome) => self.handle(Event::Redirected { attempt, outcome }),
            Answer::EndTasks => {
                self.end_unreported();
                Ok(())
            }
            Answer::ReportsOver => {
                self.end_reports();
                Ok(())
            }
        }
    }

    /// Takes the root's next rows, its end, or its error.
    fn read(&mut self, batch: Option<Result<RecordBatch>>) -> Result<()> {
        match batch {
            Some(Ok(batch)) => {
                if !self.root.hold(batch) {
                    self.root.let_out();
                    self.handle(Event::RowsOut)?;
                }
                Ok(())
            }
            Some(Err(error)) => {
                self.root.fail();
                self.failed(Failed::Root { run: self.root.run() }, to_wire(&error))
            }
            None => {
                self.root_report = self.root.finish();
                let bytes: u64 = report::input_bytes(&self.root_report).values().sum();
                self.context.stats.change(|counts| counts.exchange_bytes += bytes);
                self.handle(Event::RootFinished)
            }
        }
    }

    /// Whether a worker that was read from lives decides what its reader's failure means, so it is asked first.
    fn failed(&mut self, of: Failed, error: WireError) -> Result<()> {
        if self.is_done {
            // All rows are there: what befalls a task now changes nothing any more.
            return Ok(());
        }
        if !self.is_tolerant {
            return Err(external(error));
        }
        let cause = self.cause(of, &error);
        let failure = Failure { of, cause, error: self.memory_bounded(of, cause, error) };
        match self.unread(&failure) {
            Some(worker) => self.probe(worker, failure),
            None => return self.fail(failure),
        }
        Ok(())
    }

    /// A task that was refused memory may find it on another worker, but twice refused is refused. The root has but one
    /// place to run.
    fn memory_bounded(&mut self, of: Failed, cause: Cause, error: WireError) -> WireError {
        if (cause, error.code) != (Cause::Itself, ErrorCode::MemoryRefused) {
            return error;
        }
        let may_try_again = match of {
            Failed::Task(task) if self.machine.is_speculative(task) => true,
            Failed::Task(task) => {
                let n_refused = self.n_refused.entry((task.stage, task.task)).or_default();
                *n_refused += 1;
                *n_refused < MEMORY_REFUSALS_MAX
            }
            Failed::Root { .. } => false,
        };
        WireError { retryable: error.retryable && may_try_again, ..error }
    }

    fn fail(&mut self, failure: Failure) -> Result<()> {
        if !self.losses.is_empty() && failure.error.is_retryable() {
            // It may be what a loss led to, which the machine has to hear of first.
            self.failures.push(failure);
            return Ok(());
        }
        let Failure { of, cause, error } = failure;
        match of {
            Failed::Task(attempt) => self.handle(Event::Failed { attempt, cause, error }),
            Failed::Root { run } if run == self.root.run() => self.handle(Event::RootFailed { cause, error }),
            // It was started again while the worker was asked.
            Failed::Root { .. } => Ok(()),
        }
    }

    fn cause(&self, of: Failed, error: &WireError) -> Cause {
        let first = error.origin.as_ref().map(|it| TaskId {
            query: self.context.query,
            stage: StageId(it.stage),
            task: it.task,
            attempt: it.attempt,
        });
        match (first, error.unread) {
            (Some(first), unread) if of != Failed::Task(first) => Cause::Producer { attempt: first, unread },
            (_, Some(producer)) => Cause::Link(producer),
            (_, None) => Cause::Itself,
        }
    }

    /// The worker of an attempt that could not be read, and should have been readable.
    fn unread(&self, failure: &Failure) -> Option<WorkerKey> {
        let (Cause::Link(attempt) | Cause::Producer { unread: Some(attempt), .. }) = failure.cause else { return None };
        let is_readable = self.machine.attempt_state(attempt)?.is_readable();
        let worker = self.leases[*self.placed.get(&attempt)?].worker;
        (failure.error.is_retryable() && is_readable && self.workers.is_live(worker)).then_some(worker)
    }

    /// Counts on a worker no more, and ends what of the query may still run there.
    fn lose(&mut self, key: WorkerKey, error: WireError) -> Result<()> {
        if !self.workers.is_live(key) {
            return Ok(());
        }
        self.workers.lose(key);
        let worker = self.workers.get(key);
        let error = if error.code == ErrorCode::WorkerLost {
            // Before its heartbeats are missed.
            self.context.engine.workers().report_lost(&worker.id);
            error
        } else {
            let text = format!("worker {} gave up the query: {}", worker.name, error.message);
            WireError::new(ErrorCode::WorkerLost, text).retryable()
        };
        let mut is_used = false;
        for lease in self.leases.iter_mut().filter(|it| it.worker == key) {
            is_used = true;
            lease.has_failed = true;
            lease.drop.abort();
        }
        if self.is_done || (!is_used && !self.is_tolerant) {
            return Ok(());
        }
        if !self.is_tolerant {
            return Err(external(error));
        }
        if is_used {
            info!(query_id = %self.context.query, worker = worker.id, %error, "a query lost a worker");
        }
        if self.losses.is_empty() {
            self.after(LOSS_WINDOW, Answer::Losses);
        }
        self.losses.push(Event::WorkerLost { worker: key, error });
        Ok(())
    }

    /// Takes in the losses that came together, and then the failures that came after the first of them.
    fn take_losses(&mut self) -> Result<()> {
        std::mem::take(&mut self.losses).into_iter().try_for_each(|loss| self.handle(loss))?;
        std::mem::take(&mut self.failures).into_iter().try_for_each(|failure| self.fail(failure))
    }

    /// Workers come and go; who came first, since nothing may be left to run on.
    fn look_at_workers(&mut self) -> Result<()> {
        let resolver = Arc::clone(self.context.engine.workers());
        for worker in resolver.workers() {
            let (key, is_new) = self.workers.add(&worker);
            if is_new {
                self.handle(Event::WorkerJoined { worker: key })?;
            }
        }
        let lost: Vec<(WorkerKey, String)> =
            self.workers.live().filter_map(|(key, worker)| Some((key, resolver.lost(&worker.id)?))).collect();
        for (key, reason) in lost {
            let worker = self.workers.get(key);
            let text = format!("worker {} ({}:{}) is lost: {reason}", worker.name, worker.host, worker.port);
            self.lose(key, WireError::new(ErrorCode::WorkerLost, text).retryable())?;
        }
        Ok(())
    }

    /// The result is there: what is left to come are reports.
    fn succeed(&mut self) {
        self.is_done = true;
        self.root.let_out();
        if self.unreported().is_empty() {
            self.end_reports();
            return;
        }
        self.after(END_PATIENCE, Answer::EndTasks);
        self.after(self.reports_wait, Answer::ReportsOver);
    }

    /// Keeps what an attempt did: its rows count, or may come to.
    fn reported(&mut self, task: TaskId, worker: WorkerKey, report: TaskReport) {
        self.reports.insert(task, (self.workers.get(worker).name.clone(), report));
        if self.is_done && self.unreported().is_empty() {
            self.end_reports();
        }
    }

    /// Attempts whose rows count and that did not say yet what they did.
    fn unreported(&self) -> Vec<TaskId> {
        let counts =
            |it: &TaskId| self.machine.attempt_state(*it).is_some_and(|state| state.is_live() || state.is_done());
        self.machine.versions().filter(|it| !self.reports.contains_key(it) && counts(it)).collect()
    }

    /// Gives up the leases.
    fn end_reports(&mut self) {
        self.is_reported = true;
        self.said.clear();
        self.calls.clear();
    }

    /// What the tasks did whose rows counted.
    fn outcome(self) -> Outcome {
        let versions: HashSet<TaskId> = self.machine.versions().collect();
        let mut reports = self.reports;
        reports.retain(|task, _| versions.contains(task));
        let (n_speculated, n_overtaken) = self.machine.n_speculated();
        Outcome {
            root: self.root_report,
            reports,
            n_restarts: self.machine.n_restarts(),
            n_attempts: self.machine.n_attempts(),
            n_speculated,
            n_overtaken,
        }
    }
}

/// Whether an event says that the statement cannot be run, whoever tries.
fn is_final(event: &Event) -> bool {
    match event {
        Event::Failed { error, .. } | Event::RootFailed { error, .. } => !error.is_retryable(),
        Event::Stopped { .. } => true,
        _ => false,
    }
}

fn limits(context: &QueryContext) -> Limits {
    let settings = &context.settings;
    let number = |setting: u64| u32::try_from(setting).unwrap_or(u32::MAX);
    Limits {
        task_attempts_max: number(settings.task_attempts_max),
        stage_restarts_max: number(settings.stage_restarts_max),
        query_restarts_max: number(settings.query_restarts_max),
    }
}

fn external(error: WireError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
