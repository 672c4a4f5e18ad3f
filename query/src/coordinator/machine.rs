//! The life of one distributed query, as a machine without sockets, clocks or plans: events in, actions out.
//!
//! A query has stages, a stage has tasks, a task has attempts, one after another. The last attempt of a task is its
//! version: what its consumers read. Recovery is one rule applied until nothing changes ([`recovery`]): what an
//! unfinished consumer reads must be there; a consumer that read from a version that is gone begins again, and where
//! two versions of one task can differ, so does every consumer that finished. What is complete and held is kept.
//!
//! The rule needs to know nothing of why something is gone, and the same rule starts the query, stops what nobody
//! needs any more and releases what was read. After rows went to the client the root cannot begin again, and since
//! whatever is read leads to the root, every loss of something still read is then final.
//!
//! Beside its version a task may have one speculative attempt, which nobody reads until it is complete: [`speculation`].

mod placing;
mod recovery;
mod shape;
mod speculation;
mod state;

use std::collections::{BTreeMap, BTreeSet};

use sheaf_common::{Classify, ErrorCode, StageId, TaskId, WireError};

pub use shape::{InputShape, Limits, QueryShape, ShapeError, StageShape, WorkerKey};
pub use speculation::{Candidate, Redirected};
use state::{AttemptSignal, QuerySignal};
pub use state::{AttemptState, QueryState};

/// Attempts of a task that may be lost together with their worker. It may be what kills them.
const LOSSES_MAX: u32 = 2;

/// Failed reads from a worker that lives after which the link to it counts as lost.
const LINK_FAILURES_MAX: u32 = 2;

/// What the coordinator learned.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// First of all, once.
    Started,
    /// Its worker has it.
    Accepted {
        attempt: TaskId,
    },
    Finished {
        attempt: TaskId,
    },
    Failed {
        attempt: TaskId,
        cause: Cause,
        error: WireError,
    },
    /// No heartbeat, no lease, no answer. This run of the worker never counts again, even when it does come back.
    WorkerLost {
        worker: WorkerKey,
        error: WireError,
    },
    /// A worker that may be given tasks from now on.
    WorkerJoined {
        worker: WorkerKey,
    },
    /// The attempt runs far beyond its siblings, and nobody has read from it yet.
    Straggles {
        attempt: TaskId,
    },
    /// What became of an [`Action::Redirect`] of the readers of `attempt`.
    Redirected {
        attempt: TaskId,
        outcome: Redirected,
    },
    /// The result is about to go to the client: its first row, or as much as the root holds back.
    RowsOut,
    RootFinished,
    RootFailed {
        cause: Cause,
        error: WireError,
    },
    /// The time of an [`Action::AwaitWorker`] is over.
    WaitOver {
        wait: u32,
    },
    /// `KILL`, a deadline, a client that left.
    Stopped {
        error: WireError,
    },
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It arose in the task itself.
    Itself,
    /// The task read the failure of this attempt, at first hand or passed on by those between: as good as hearing of it
    /// from the attempt itself, which could not read `unread`, if that was its trouble: then as for `Link`.
    Producer { attempt: TaskId, unread: Option<TaskId> },
    /// The task could not read from this producer. Whether that one lives, the task cannot know: who hands the event
    /// in asks its worker first, and reports a [`Event::WorkerLost`] before when there is no answer.
    Link(TaskId),
}

/// What the coordinator has to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Producers come before consumers.
    Submit(Submit),
    /// Ends the attempt and frees its output, of which no row may be used.
    Abort { attempt: TaskId, worker: WorkerKey },
    /// Ends the attempt, if it runs, and frees its output: all who need it have it.
    Release { attempt: TaskId, worker: WorkerKey },
    /// Has the worker of `from` point all its readers at `to` and end it; but only if none of them has read a row and it
    /// still runs. The answer is an [`Event::Redirected`].
    Redirect { from: TaskId, worker: WorkerKey, to: TaskId, to_worker: WorkerKey },
    /// Drops the root's stream and the rows that it held back.
    StopRoot,
    /// Runs the root from its start.
    StartRoot { inputs: Vec<Input> },
    /// What was read of its output need not be kept: nobody will read it a second time.
    EndRetention { attempt: TaskId, worker: WorkerKey },
    /// Nothing can run. Unless a worker joins within the time that a query waits for one, hand in a `WaitOver`.
    AwaitWorker { wait: u32 },
    /// The whole result is there: ends every attempt that is left.
    Succeed,
    /// Ends every attempt that is left, and the query with this error.
    Fail { error: WireError },
}

/// One attempt, to be sent to a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Submit {
    pub attempt: TaskId,
    pub worker: WorkerKey,
    pub inputs: Vec<Input>,
}

/// Where one stage is read, by task index.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    pub stage: StageId,
    pub tasks: Vec<(TaskId, WorkerKey)>,
}

/// A task of the query: its stage and its index there.
type TaskKey = (StageId, u32);

/// One attempt.
#[derive(Debug)]
struct Attempt {
    state: AttemptState,
    worker: WorkerKey,
    /// Attempt numbers that it was told to read, by input and by task index of that.
    reads: Vec<Vec<u32>>,
    /// Whether its failure speaks against its worker.
    is_workers_fault: bool,
}

#[derive(Debug, Default)]
struct Task {
    /// By number. Invariant: only the current and the speculative one can be live or complete.
    attempts: Vec<Attempt>,
    /// The number of the attempt that consumers were told to read last; 0 also before there is one.
    current: u32,
    /// An attempt beside the current one. Invariant: nobody was told to read it.
    speculative: Option<u32>,
    /// Whether there ever was such a one: there is no second.
    is_speculated: bool,
    /// Attempts that ran when their worker was lost.
    n_losses: u32,
}

impl Task {
    /// The attempt that consumers were told to read last, whatever has become of it.
    fn current(&self) -> Option<(u32, &Attempt)> {
        self.attempts.get(self.current as usize).map(|it| (self.current, it))
    }

    /// The attempt whose rows count, unless none does.
    fn version(&self) -> Option<(u32, &Attempt)> {
        self.current().filter(|(_, it)| it.state.is_live() || it.state.is_done())
    }

    /// The attempt that a consumer which starts now reads.
    fn readable(&self) -> Option<(u32, &Attempt)> {
        self.version().filter(|(_, it)| it.state.is_readable())
    }

    /// Those that may be at work or hold output.
    fn readable_mut(&mut self) -> impl Iterator<Item = &mut Attempt> {
        self.attempts.iter_mut().filter(|it| it.state.is_readable())
    }

    /// Tries that count against the limit: to have a second attempt beside the first is nobody's failure.
    fn n_tries(&self) -> u32 {
        self.attempts.len() as u32 - u32::from(self.is_speculated)
    }
}

#[derive(Debug)]
struct Stage {
    shape: StageShape,
    tasks: Vec<Task>,
    n_restarts: u32,
}

/// One query. See the module's documentation.
#[derive(Debug)]
pub struct Machine {
    shape: QueryShape,
    limits: Limits,
    state: QueryState,
    stages: BTreeMap<StageId, Stage>,
    /// What the root reads, while it reads: attempt numbers by input and by task index.
    root: Option<Vec<Vec<u32>>>,
    workers: BTreeSet<WorkerKey>,
    /// Workers given up, some before they were heard to have joined: none of them counts again.
    gone: BTreeSet<WorkerKey>,
    /// Failed reads by reader and producer; the reader is `None` for the root.
    link_failures: BTreeMap<(Option<WorkerKey>, WorkerKey), u32>,
    n_restarts: u32,
    /// Second attempts that came to be read.
    n_overtaken: u32,
    /// The wait for a worker that goes on, and how many there were.
    awaits_worker: bool,
    n_waits: u32,
    /// What went wrong last: the cause of whatever is given up.
    last_error: Option<WireError>,
    /// Tasks whose own attempt failed or was lost, and whether the root was stopped, since anything was last run again.
    at_fault: BTreeSet<TaskKey>,
    root_stopped: bool,
}

impl Machine {
    /// A query that waits for its [`Event::Started`]. Of `workers`, those that the shape names may be missing: their
    /// tasks start elsewhere.
    ///
    /// Errs when the shape describes no query.
    pub fn new(
        shape: QueryShape,
        limits: Limits,
        workers: impl IntoIterator<Item = WorkerKey>,
    ) -> Result<Self, ShapeError> {
        shape.check()?;
        let stages = shape.stages.iter().map(|it| {
            let tasks = it.workers.iter().map(|_| Task::default()).collect();
            (it.stage, Stage { shape: it.clone(), tasks, n_restarts: 0 })
        });
        Ok(Self {
            stages: stages.collect(),
            shape,
            limits,
            state: QueryState::Waiting,
            root: None,
            workers: workers.into_iter().collect(),
            gone: BTreeSet::new(),
            link_failures: BTreeMap::new(),
            n_restarts: 0,
            n_overtaken: 0,
            awaits_worker: false,
            n_waits: 0,
            last_error: None,
            at_fault: BTreeSet::new(),
            root_stopped: false,
        })
    }

    pub fn state(&self) -> QueryState {
        self.state
    }

    /// How often something was run again.
    pub fn n_restarts(&self) -> u32 {
        self.n_restarts
    }

    /// Tasks that had a second attempt beside the first, and those of them whose second one came to be read.
    pub fn n_speculated(&self) -> (u32, u32) {
        let tasks = self.stages.values().flat_map(|stage| &stage.tasks);
        (tasks.filter(|it| it.is_speculated).count() as u32, self.n_overtaken)
    }

    /// The attempt of each task that consumers were told to read last.
    pub fn versions(&self) -> impl Iterator<Item = TaskId> {
        let keys =
            self.stages.iter().flat_map(|(stage, it)| (0..it.tasks.len() as u32).map(move |task| (*stage, task)));
        keys.filter_map(|key| {
            let (number, _) = self.task(key)?.current()?;
            Some(self.task_id(key, number))
        })
    }

    /// How many attempts the tasks of each stage had, all together.
    pub fn n_attempts(&self) -> BTreeMap<StageId, u32> {
        let n_attempts = |it: &Stage| it.tasks.iter().map(|task| task.attempts.len() as u32).sum::<u32>();
        self.stages.iter().map(|(stage, it)| (*stage, n_attempts(it))).collect()
    }

    /// Where an attempt stands; `None` for one that was never submitted.
    pub fn attempt_state(&self, attempt: TaskId) -> Option<AttemptState> {
        self.attempt(attempt).map(|it| it.state)
    }

    /// Takes an event; returns what is to be done now. Never fails: what is late, doubled or about another query
    /// changes nothing, and after the end of the query nothing does.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        if self.state.is_over() {
            return vec![];
        }
        let mut actions = vec![];
        let outcome = match self.learn(event, &mut actions) {
            Ok(News::None) => Ok(()),
            Ok(News::Done) => {
                self.release_unneeded(&self.needed(), &mut actions);
                Ok(())
            }
            Ok(News::Changed) => self.settle(&mut actions),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => actions,
            Err(error) => {
                self.step(QuerySignal::Fail);
                vec![Action::Fail { error: *error }]
            }
        }
    }

    /// Writes down what an event says. Errs when it ends the query.
    fn learn(&mut self, event: Event, actions: &mut Vec<Action>) -> Result<News, Box<WireError>> {
        match event {
            Event::Started => Ok(News::Changed),
            Event::Accepted { attempt } => {
                self.signal(attempt, AttemptSignal::Accept);
                Ok(News::None)
            }
            Event::Finished { attempt } => Ok(self.finished(attempt, actions)),
            Event::Straggles { attempt } => {
                self.speculate(attempt, actions);
                Ok(News::None)
            }
            Event::Redirected { attempt, outcome } => Ok(self.redirected(attempt, outcome, actions)),
            Event::Failed { attempt, cause, error } => self.failed(attempt, cause, error, actions),
            Event::WorkerLost { worker, error } => self.worker_lost(worker, error),
            Event::WorkerJoined { worker } => {
                if !self.gone.contains(&worker) {
                    self.workers.insert(worker);
                }
                Ok(if self.awaits_worker { News::Changed } else { News::None })
            }
            Event::RowsOut => {
                // An attempt that another one races may open its inputs yet, and the other has taken its turn there.
                if self.step(QuerySignal::RowsOut) && !self.is_racing() {
                    self.end_retention(actions);
                }
                Ok(News::None)
            }
            Event::RootFinished => {
                if self.step(QuerySignal::RootFinished) {
                    let keys: Vec<TaskKey> = self.shape.stages.iter().flat_map(|it| self.keys(it.stage)).collect();
                    keys.into_iter().for_each(|key| self.take_overtaken(key, actions));
                    actions.push(Action::Succeed);
                }
                Ok(News::None)
            }
            Event::RootFailed { cause, error } => self.root_failed(cause, error, actions),
            Event::WaitOver { wait } if self.awaits_worker && wait == self.n_waits => {
                let text = match &self.last_error {
                    Some(error) => format!("no worker is left to run the query, after: {error}"),
                    None => "no worker is left to run the query".to_owned(),
                };
                let error = WireError::new(ErrorCode::NoWorker, text);
                Err(Box::new(if self.is_unblamed() { error.retryable() } else { error }))
            }
            Event::WaitOver { .. } => Ok(News::None),
            Event::Stopped { error } => Err(Box::new(error)),
        }
    }

    /// Whether no worker was lost while it ran a task: then the workers left for reasons of their own, and it is no risk to
    /// run the query again, elsewhere or in this process.
    pub fn is_unblamed(&self) -> bool {
        self.stages.values().flat_map(|stage| &stage.tasks).all(|task| task.n_losses == 0)
    }

    fn failed(
        &mut self,
        attempt: TaskId,
        cause: Cause,
        error: WireError,
        actions: &mut Vec<Action>,
    ) -> Result<News, Box<WireError>> {
        if !self.attempt(attempt).is_some_and(|it| it.state.is_live()) {
            return Ok(News::None);
        }
        if self.is_speculative(attempt) {
            // Its end is no loss to anybody; what it was is for the first to say, should it meet the same.
            self.signal(attempt, AttemptSignal::Fail);
            return Ok(News::Changed);
        }
        if is_final(&error) {
            return Err(Box::new(error));
        }
        self.last_error = Some(error);
        self.signal(attempt, AttemptSignal::Fail);
        let (at_fault, unread) = match cause {
            Cause::Itself => (attempt, None),
            Cause::Link(producer) => (attempt, Some(producer)),
            Cause::Producer { attempt: first, unread } if self.output_failed(first) => (first, unread),
            Cause::Producer { attempt: first, .. } => (attempt, Some(first)),
        };
        self.charge(at_fault, unread, actions);
        Ok(News::Changed)
    }

    fn root_failed(
        &mut self,
        cause: Cause,
        error: WireError,
        actions: &mut Vec<Action>,
    ) -> Result<News, Box<WireError>> {
        if self.root.is_none() {
            return Ok(News::None);
        }
        if is_final(&error) {
            return Err(Box::new(error));
        }
        self.last_error = Some(error.clone());
        match cause {
            Cause::Producer { attempt: first, unread } if self.output_failed(first) => {
                self.charge(first, unread, actions);
            }
            Cause::Link(producer) | Cause::Producer { attempt: producer, .. } => {
                // The root cannot move to where its producer is reached: that one has to come nearer.
                if let Some(worker) = self.link_failed(None, producer) {
                    self.give_up(worker);
                }
            }
            Cause::Itself => {}
        }
        self.stop_root(actions)?;
        Ok(News::Changed)
    }

    fn worker_lost(&mut self, worker: WorkerKey, error: WireError) -> Result<News, Box<WireError>> {
        if !self.workers.contains(&worker) {
            self.gone.insert(worker);
            return Ok(News::None);
        }
        for stage in self.stages.values_mut() {
            for (index, task) in stage.tasks.iter_mut().enumerate() {
                // Not one that its worker had not accepted yet: where several die one after another, tasks are sent to
                // those of whom it is not known yet, and are not to blame.
                let is_lost = |it: &Attempt| it.worker == worker && it.state == AttemptState::Running;
                let n_lost = task.attempts.iter().filter(|it| is_lost(it)).count();
                let is_version_lost = task.version().is_some_and(|(_, it)| is_lost(it));
                task.n_losses += n_lost as u32;
                if is_version_lost && task.n_losses >= LOSSES_MAX {
                    let text = format!(
                        "{LOSSES_MAX} attempts of task {index} of stage {} ended with the loss of their worker, a third \
                         is not risked: {}",
                        stage.shape.stage, error.message
                    );
                    return Err(Box::new(given_up(&error, text)));
                }
            }
        }
        self.last_error = Some(error);
        self.give_up(worker);
        Ok(News::Changed)
    }

    /// Takes a worker, and all that it has, out of the query.
    fn give_up(&mut self, worker: WorkerKey) {
        self.workers.remove(&worker);
        self.gone.insert(worker);
        for stage in self.stages.values_mut() {
            for (index, task) in stage.tasks.iter_mut().enumerate() {
                for lost in task.readable_mut().filter(|it| it.worker == worker) {
                    let Some(next) = lost.state.next(AttemptSignal::Lose) else { continue };
                    lost.state = next;
                    if next == AttemptState::Lost {
                        self.at_fault.insert((stage.shape.stage, index as u32));
                    }
                }
            }
        }
    }

    /// An attempt failed, or its output cannot be read although its worker lives; whether that is news.
    fn output_failed(&mut self, attempt: TaskId) -> bool {
        self.signal(attempt, AttemptSignal::Fail) || self.signal(attempt, AttemptSignal::Lose)
    }

    /// Puts a failure down to the attempt, or to the link over which it could not read.
    fn charge(&mut self, attempt: TaskId, unread: Option<TaskId>, actions: &mut Vec<Action>) {
        self.at_fault.insert(key(attempt));
        let Some(it) = self.attempt_mut(attempt) else { return };
        let reader = it.worker;
        match unread {
            None => it.is_workers_fault = true,
            Some(producer) => {
                if let Some(producer) = self.link_failed(Some(reader), producer) {
                    self.leave_link(reader, producer, actions);
                }
            }
        }
    }

    /// Counts a read that failed; returns the producer's worker once the link to it is lost.
    fn link_failed(&mut self, reader: Option<WorkerKey>, producer: TaskId) -> Option<WorkerKey> {
        let producer = self.attempt(producer).filter(|it| it.state.is_readable())?.worker;
        let n = self.link_failures.entry((reader, producer)).or_default();
        *n += 1;
        (*n >= LINK_FAILURES_MAX).then_some(producer)
    }

    fn end_retention(&self, actions: &mut Vec<Action>) {
        for (stage, it) in &self.stages {
            for (index, task) in it.tasks.iter().enumerate() {
                let Some((number, attempt)) = task.readable() else { continue };
                let id = self.task_id((*stage, index as u32), number);
                actions.push(Action::EndRetention { attempt: id, worker: attempt.worker });
            }
        }
    }

    /// Errs when rows have gone out: what the client has cannot be taken back.
    fn stop_root(&mut self, actions: &mut Vec<Action>) -> Result<(), Box<WireError>> {
        if self.root.take().is_none() {
            return Ok(());
        }
        if !self.step(QuerySignal::RootStopped) {
            return Err(Box::new(self.give_up_because("rows had been sent when a part of the result was lost")));
        }
        self.root_stopped = true;
        actions.push(Action::StopRoot);
        Ok(())
    }

    /// The error of a query that is not tried any further, with what went wrong last.
    fn give_up_because(&self, reason: &str) -> WireError {
        match &self.last_error {
            Some(error) => given_up(error, format!("{reason}: {}", error.message)),
            None => WireError::new(ErrorCode::Internal, reason),
        }
    }

    /// One step of the query; whether there is one.
    fn step(&mut self, signal: QuerySignal) -> bool {
        match self.state.next(signal) {
            Some(next) => {
                self.state = next;
                true
            }
            None => false,
        }
    }

    /// One step of an attempt; whether there is one.
    fn signal(&mut self, attempt: TaskId, signal: AttemptSignal) -> bool {
        let Some(it) = self.attempt_mut(attempt) else { return false };
        match it.state.next(signal) {
            Some(next) => {
                it.state = next;
                true
            }
            None => false,
        }
    }

    fn task(&self, (stage, task): TaskKey) -> Option<&Task> {
        self.stages.get(&stage)?.tasks.get(task as usize)
    }

    fn task_mut(&mut self, (stage, task): TaskKey) -> Option<&mut Task> {
        self.stages.get_mut(&stage)?.tasks.get_mut(task as usize)
    }

    fn attempt(&self, id: TaskId) -> Option<&Attempt> {
        if id.query != self.shape.query {
            return None;
        }
        self.task(key(id))?.attempts.get(id.attempt as usize)
    }

    fn attempt_mut(&mut self, id: TaskId) -> Option<&mut Attempt> {
        if id.query != self.shape.query {
            return None;
        }
        self.task_mut(key(id))?.attempts.get_mut(id.attempt as usize)
    }

    fn task_id(&self, (stage, task): TaskKey, attempt: u32) -> TaskId {
        TaskId { query: self.shape.query, stage, task, attempt }
    }
}

/// What an event can lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    None,
    /// A consumer is done: something may have become superfluous, and nothing can be missing.
    Done,
    Changed,
}

fn key(attempt: TaskId) -> TaskKey {
    (attempt.stage, attempt.task)
}

/// Whether an error ends the query. A task that says that it was cancelled does not: it is the coordinator that
/// cancels, and of what it has cancelled it hears no more. So it was the worker that gave the task up.
fn is_final(error: &WireError) -> bool {
    !error.is_retryable() && error.code != ErrorCode::Cancelled
}

fn given_up(cause: &WireError, message: String) -> WireError {
    WireError { message, retryable: false, ..cause.clone() }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
