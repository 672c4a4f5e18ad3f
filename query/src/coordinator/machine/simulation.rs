//! The machine under random schedules of a model cluster.
//!
//! The model runs attempts row by row and holds their output as workers do. Rows of a determinate stage go to the same
//! partition in every attempt, those of an indeterminate one to partitions that depend on the attempt: who mixes
//! two of them loses rows and gets others twice. Messages to a worker keep their order, messages from workers come in
//! any order and sometimes twice. Workers die, are thought dead, and join; links break; tasks fail for good or once, or
//! are slow and get a second attempt.
//!
//! `SHEAF_SCHEDULES=10000` runs so many schedules, `SHEAF_SEED=7` only the one of that seed, and prints what the
//! machine is told and says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sheaf_common::{ErrorCode, QueryId, StageId, TaskId, WireError};

use super::{
    Action, AttemptState, Cause, Event, Input, InputShape, Limits, Machine, QueryShape, Redirected, StageShape, Submit,
    WorkerKey,
};

const QUERY: QueryId = QueryId(7);
/// Steps of one schedule after which the query counts as hanging.
const STEPS_MAX: usize = 200_000;

type Row = u32;
type Lineage = BTreeSet<(StageId, u32, u32)>;

/// How the rows of a stage reach its only consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Shuffle,
    /// Read whole by every consumer, to look rows up in: they are not passed on.
    Broadcast,
    /// One partition a task, each with one reader.
    Dealt,
}

/// What the machine does not know of a stage.
#[derive(Debug, Clone)]
struct StageModel {
    kind: Kind,
    /// Partitions of each task's output.
    partitions: usize,
    /// Rows after which a task has enough, as below a LIMIT.
    fetch: Option<usize>,
    /// Rows of each task's own scan.
    scans: Vec<Vec<Row>>,
}

#[derive(Debug)]
enum RunState {
    Running,
    Finished,
    /// With what a reader of it is told: who failed first.
    Failed(Cause, WireError),
    /// Its readers were pointed at another attempt.
    Redirected(TaskId, WorkerKey),
}

/// An attempt as its worker knows it.
#[derive(Debug)]
struct Run {
    state: RunState,
    /// Somebody got a row of it.
    is_read: bool,
    /// It gets its turn seldom.
    is_slow: bool,
    scan: VecDeque<Row>,
    sources: Vec<Source>,
    output: Vec<Vec<Row>>,
    n_rows: usize,
    lineage: Lineage,
}

#[derive(Debug, Clone)]
struct Source {
    task: TaskId,
    worker: WorkerKey,
    partition: usize,
    n_read: usize,
    /// Whether its rows are passed on.
    is_passed_on: bool,
    is_done: bool,
}

#[derive(Debug)]
enum Command {
    Submit(Submit),
    End(TaskId),
    Redirect { from: TaskId, to: TaskId, to_worker: WorkerKey },
    EndAll,
}

#[derive(Debug, Default)]
struct Worker {
    is_dead: bool,
    /// Whether the coordinator gave it up.
    is_lost: bool,
    commands: VecDeque<Command>,
    runs: BTreeMap<TaskId, Run>,
    ended: BTreeSet<TaskId>,
}

impl Source {
    /// Reads another attempt of the same task, from its start.
    fn turn_to(&mut self, task: TaskId, worker: WorkerKey) {
        assert_eq!(self.n_read, 0, "rows of {} were read, and those of {task} are to follow", self.task);
        (self.task, self.worker) = (task, worker);
    }
}

/// What a reader meets.
enum Read {
    Row(Row),
    Wait,
    Done,
    Elsewhere(TaskId, WorkerKey),
    Broken(Cause, WireError),
}

#[derive(Debug, Default)]
struct Root {
    sources: Vec<Source>,
    held: Vec<Row>,
    lineage: Lineage,
}

struct Cluster {
    rng: StdRng,
    machine: Machine,
    shape: QueryShape,
    models: BTreeMap<StageId, StageModel>,
    workers: BTreeMap<WorkerKey, Worker>,
    /// On their way to the coordinator.
    events: Vec<Event>,
    /// Reader and producer; the root reads as `None`.
    cut_links: BTreeSet<(Option<WorkerKey>, WorkerKey)>,
    root: Option<Root>,
    hold_back: usize,
    is_streaming: bool,
    client: Vec<Row>,
    waits: Vec<u32>,
    faults_left: usize,
    tally: Tally,
    outcome: Option<Result<(), WireError>>,
    /// Whether it shows what the machine is told and says.
    is_replay: bool,
    submitted: BTreeMap<TaskId, WorkerKey>,
    /// Those that ran, or were to end, beside another of the same task.
    raced: BTreeSet<TaskId>,
    reported: BTreeSet<TaskId>,
}

/// What happened in a schedule.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    n_faults: usize,
    /// Faults that no query can survive, or need not.
    n_fatal: usize,
    n_retried: usize,
    /// Second attempts beside the first, and those that came to be read.
    n_speculated: usize,
    n_overtaken: usize,
}

fn first(attempt: TaskId, unread: Option<TaskId>) -> Cause {
    Cause::Producer { attempt, unread }
}

fn transient() -> WireError {
    WireError::new(ErrorCode::FileUnreadable, "read failed").retryable()
}

fn lost() -> WireError {
    WireError::new(ErrorCode::WorkerLost, "worker lost").retryable()
}

/// A mix of bits that does not change from run to run.
fn hash(row: Row, salt: u32) -> usize {
    let mixed = ((u64::from(row) << 32) | u64::from(salt)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) as usize >> 20
}

impl Cluster {
    /// A random tree of stages over a random number of workers.
    fn new(seed: u64, is_replay: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let n_workers = rng.random_range(1..=4);
        let workers: Vec<WorkerKey> = (0..n_workers).map(WorkerKey).collect();
        let n_stages = rng.random_range(1..=5u32);
        // Stage i is read by a later stage, or by the root: a tree.
        let readers: Vec<u32> = (0..n_stages)
            .map(|i| if rng.random_bool(0.8) { rng.random_range(i + 1..=n_stages) } else { i + 1 })
            .collect();
        let counts: Vec<usize> = (0..n_stages).map(|_| rng.random_range(1..=3)).collect();
        let mut stages: Vec<StageShape> = vec![];
        let mut models = BTreeMap::new();
        let mut next_row = 0;
        for i in 0..n_stages {
            let id = StageId(i + 1);
            let inputs: Vec<u32> = (0..i).filter(|it| readers[*it as usize] == i).collect();
            let (kind, partitions) = match readers[i as usize] {
                reader if reader == n_stages => (Kind::Dealt, 1),
                reader => match rng.random_range(0..3) {
                    0 => (Kind::Broadcast, 1),
                    1 => (Kind::Dealt, 1),
                    _ => (Kind::Shuffle, counts[reader as usize]),
                },
            };
            let fetch = rng.random_bool(0.1).then(|| rng.random_range(1..6));
            let is_determinate = fetch.is_none()
                && rng.random_bool(0.6)
                && inputs.iter().all(|input| stages[*input as usize].is_determinate);
            let n_tasks = counts[i as usize];
            let scans = (0..n_tasks).map(|_| {
                let n_rows = if inputs.is_empty() || rng.random_bool(0.2) { rng.random_range(0..12) } else { 0 };
                next_row += n_rows;
                (next_row - n_rows..next_row).collect()
            });
            models.insert(id, StageModel { kind, partitions, fetch, scans: scans.collect() });
            stages.push(StageShape {
                stage: id,
                is_determinate,
                has_effects: rng.random_bool(0.05),
                inputs: inputs
                    .into_iter()
                    .map(|input| {
                        let stage = StageId(input + 1);
                        InputShape { stage, is_dealt: models[&stage].kind == Kind::Dealt }
                    })
                    .collect(),
                workers: (0..n_tasks).map(|_| *workers.choose(&mut rng).unwrap()).collect(),
            });
        }
        let root = (0..n_stages).filter(|it| readers[*it as usize] == n_stages).map(|it| StageId(it + 1)).collect();
        let shape = QueryShape { query: QUERY, stages, root };
        let machine = Machine::new(shape.clone(), Limits::default(), workers.iter().copied()).unwrap();
        let faults_left = if rng.random_bool(0.1) { 0 } else { rng.random_range(1..7) };
        let hold_back = rng.random_range(0..60);
        Self {
            machine,
            shape,
            models,
            workers: workers.into_iter().map(|it| (it, Worker::default())).collect(),
            events: vec![],
            cut_links: BTreeSet::new(),
            root: None,
            hold_back,
            is_streaming: false,
            client: vec![],
            waits: vec![],
            faults_left,
            tally: Tally::default(),
            outcome: None,
            is_replay,
            submitted: BTreeMap::new(),
            raced: BTreeSet::new(),
            reported: BTreeSet::new(),
            rng,
        }
    }

    fn run(mut self) -> (Tally, bool) {
        self.tell(Event::Started);
        for _ in 0..STEPS_MAX {
            if self.outcome.is_some() {
                self.tally.n_overtaken = self.machine.n_speculated().1 as usize;
                self.check_end();
                return (self.tally, matches!(self.outcome, Some(Ok(()))));
            }
            self.step();
        }
        panic!("the query hangs: {:?}", self.machine);
    }

    fn step(&mut self) {
        if self.faults_left > 0 && self.rng.random_bool(0.02) {
            self.faults_left -= 1;
            self.fault();
            return;
        }
        if self.rng.random_bool(0.01) {
            self.straggle();
        }
        match self.rng.random_range(0..10) {
            0..=1 => self.deliver_event(),
            2..=3 => self.deliver_command(),
            4..=7 => self.step_run(),
            8 => self.step_root(),
            _ => {
                // A clock that runs slowly: all else has most likely come to rest.
                if !self.waits.is_empty() && self.rng.random_bool(0.01) {
                    let wait = self.waits.remove(0);
                    self.tell(Event::WaitOver { wait });
                }
            }
        }
    }

    fn fault(&mut self) {
        self.tally.n_faults += 1;
        let all: Vec<WorkerKey> = self.workers.keys().copied().collect();
        let worker = *all.choose(&mut self.rng).unwrap();
        match self.rng.random_range(0..16) {
            0..=4 => {
                // Events that are on their way may still arrive, before or after the news.
                self.workers.get_mut(&worker).unwrap().is_dead = true;
                self.events.push(Event::WorkerLost { worker, error: lost() });
            }
            5 => self.events.push(Event::WorkerLost { worker, error: lost() }),
            6..=8 => {
                let joined = WorkerKey(all.len() as u32);
                self.workers.insert(joined, Worker::default());
                self.events.push(Event::WorkerJoined { worker: joined });
            }
            9..=10 => self.fail_a_task(transient()),
            11 => {
                self.tally.n_fatal += 1;
                self.fail_a_task(WireError::new(ErrorCode::DivisionByZero, "final"));
            }
            12..=13 => {
                let reader = if self.rng.random_bool(0.2) { None } else { all.choose(&mut self.rng).copied() };
                if reader != Some(worker) {
                    self.cut_links.insert((reader, worker));
                }
            }
            14 => {
                if self.root.is_some() {
                    self.tell(Event::RootFailed { cause: Cause::Itself, error: transient() });
                }
            }
            _ => {
                if self.rng.random_bool(0.3) {
                    self.tally.n_fatal += 1;
                    self.tell(Event::Stopped { error: WireError::new(ErrorCode::Cancelled, "stopped") });
                }
            }
        }
    }

    /// Somebody finds a task slow, rightly or not; the news of it may come late.
    fn straggle(&mut self) {
        let runs: Vec<TaskId> = self.workers.values().flat_map(|it| it.runs.keys().copied()).collect();
        if let Some(attempt) = runs.choose(&mut self.rng).copied() {
            self.events.push(Event::Straggles { attempt });
        }
    }

    /// A task that runs fails by itself; of one that is complete, what is held cannot be read.
    fn fail_a_task(&mut self, error: WireError) {
        let alive = self.workers.iter().filter(|(_, it)| !it.is_dead);
        let runs: Vec<(WorkerKey, TaskId)> =
            alive.flat_map(|(key, it)| it.runs.keys().map(move |task| (*key, *task))).collect();
        let Some((worker, task)) = runs.choose(&mut self.rng).copied() else { return };
        let run = self.workers.get_mut(&worker).unwrap().runs.get_mut(&task).unwrap();
        match run.state {
            RunState::Running => {
                run.state = RunState::Failed(first(task, None), error.clone());
                self.events.push(Event::Failed { attempt: task, cause: Cause::Itself, error });
            }
            RunState::Finished => run.state = RunState::Failed(first(task, None), transient()),
            RunState::Failed(..) | RunState::Redirected(..) => {}
        }
    }

    fn deliver_event(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.events.len());
        let event = if self.rng.random_bool(0.1) { self.events[index].clone() } else { self.events.swap_remove(index) };
        self.tell(event);
    }

    fn deliver_command(&mut self) {
        let busy: Vec<WorkerKey> =
            self.workers.iter().filter(|(_, it)| !it.commands.is_empty()).map(|(key, _)| *key).collect();
        let Some(key) = busy.choose(&mut self.rng).copied() else { return };
        let worker = self.workers.get_mut(&key).unwrap();
        let command = worker.commands.pop_front().unwrap();
        if worker.is_dead {
            if let Command::Redirect { from, .. } = command {
                self.events.push(Event::Redirected { attempt: from, outcome: Redirected::Unknown });
            }
            return;
        }
        match command {
            Command::Redirect { from, to, to_worker } => {
                let run = worker.runs.get_mut(&from);
                let is_done = run.is_some_and(|run| {
                    let may_be = matches!(run.state, RunState::Running) && !run.is_read;
                    if may_be {
                        run.state = RunState::Redirected(to, to_worker);
                    }
                    may_be
                });
                let outcome = match is_done {
                    // The answer is lost.
                    _ if self.rng.random_bool(0.1) => {
                        self.tally.n_faults += 1;
                        Redirected::Unknown
                    }
                    true => Redirected::Done,
                    false => Redirected::Refused,
                };
                self.events.push(Event::Redirected { attempt: from, outcome });
            }
            Command::Submit(submit) => {
                let task = submit.attempt;
                let mut run = self.start(submit);
                run.is_slow = task.attempt == 0 && self.rng.random_bool(0.2);
                let worker = self.workers.get_mut(&key).unwrap();
                assert!(worker.runs.insert(task, run).is_none(), "{task} was submitted twice");
                self.events.push(Event::Accepted { attempt: task });
            }
            Command::End(task) => {
                worker.runs.remove(&task);
                worker.ended.insert(task);
            }
            Command::EndAll => {
                let runs = std::mem::take(&mut worker.runs);
                worker.ended.extend(runs.into_keys());
            }
        }
    }

    fn start(&self, submit: Submit) -> Run {
        let task = submit.attempt;
        let model = &self.models[&task.stage];
        let n_consumers = model.scans.len();
        let sources = submit.inputs.iter().flat_map(|input| {
            let from = &self.models[&input.stage];
            input.tasks.iter().enumerate().filter_map(move |(producer, (source, worker))| {
                let partition = match from.kind {
                    Kind::Shuffle => task.task as usize,
                    Kind::Broadcast => 0,
                    Kind::Dealt if producer % n_consumers == task.task as usize => 0,
                    Kind::Dealt => return None,
                };
                Some(Source {
                    task: *source,
                    worker: *worker,
                    partition,
                    n_read: 0,
                    is_passed_on: from.kind != Kind::Broadcast,
                    is_done: false,
                })
            })
        });
        Run {
            state: RunState::Running,
            is_read: false,
            is_slow: false,
            scan: model.scans[task.task as usize].iter().copied().collect(),
            sources: sources.collect(),
            output: vec![vec![]; model.partitions],
            n_rows: 0,
            lineage: Lineage::new(),
        }
    }

    /// What `reader` gets when it asks a source for its next row; and the lineage of that.
    fn read(&self, reader: Option<WorkerKey>, source: &Source) -> (Read, Lineage) {
        let worker = &self.workers[&source.worker];
        if worker.is_dead || self.cut_links.contains(&(reader, source.worker)) {
            return (Read::Broken(Cause::Link(source.task), lost()), Lineage::new());
        }
        let Some(run) = worker.runs.get(&source.task) else {
            if worker.ended.contains(&source.task) || worker.is_lost {
                let ended = WireError::new(ErrorCode::Cancelled, "the query has ended");
                return (Read::Broken(first(source.task, None), ended), Lineage::new());
            }
            return (Read::Wait, Lineage::new());
        };
        let mut lineage = run.lineage.clone();
        if !self.is_determinate(source.task.stage) {
            lineage.insert((source.task.stage, source.task.task, source.task.attempt));
        }
        let read = match (&run.state, run.output[source.partition].get(source.n_read)) {
            (RunState::Failed(cause, error), _) => Read::Broken(*cause, error.clone()),
            (RunState::Redirected(task, worker), _) => Read::Elsewhere(*task, *worker),
            (_, Some(row)) => Read::Row(*row),
            (RunState::Finished, None) => Read::Done,
            (RunState::Running, None) => Read::Wait,
        };
        (read, lineage)
    }

    /// To be called with every row that was read.
    fn mark_read(&mut self, source: &Source) {
        let run = self.workers.get_mut(&source.worker).and_then(|it| it.runs.get_mut(&source.task));
        run.expect("a row was just read there").is_read = true;
    }

    fn is_determinate(&self, stage: StageId) -> bool {
        self.shape.stages.iter().any(|it| it.stage == stage && it.is_determinate)
    }

    fn step_run(&mut self) {
        let alive = self.workers.iter().filter(|(_, it)| !it.is_dead);
        let running: Vec<(WorkerKey, TaskId)> = alive
            .flat_map(|(key, it)| it.runs.iter().map(move |(task, run)| (*key, *task, run)))
            .filter(|(_, _, run)| matches!(run.state, RunState::Running))
            .map(|(key, task, _)| (key, task))
            .collect();
        let Some((key, task)) = running.choose(&mut self.rng).copied() else { return };
        let run = &self.workers[&key].runs[&task];
        if run.is_slow && self.rng.random_bool(0.95) {
            return;
        }
        let open: Vec<usize> = (0..run.sources.len()).filter(|it| !run.sources[*it].is_done).collect();
        let chosen = open.choose(&mut self.rng).copied();
        let read = chosen.map(|it| self.read(Some(key), &run.sources[it]));
        if let (Some(chosen), Some((Read::Row(_), _))) = (chosen, &read) {
            let source = run.sources[chosen].clone();
            self.mark_read(&source);
        }
        let is_determinate = self.is_determinate(task.stage);
        let fetch = self.models[&task.stage].fetch;
        let run = self.workers.get_mut(&key).unwrap().runs.get_mut(&task).unwrap();
        let mut row = None;
        match (chosen, read) {
            (Some(index), Some((read, lineage))) => {
                if !matches!(read, Read::Wait | Read::Broken(..) | Read::Elsewhere(..)) {
                    run.lineage.extend(lineage);
                }
                let source = &mut run.sources[index];
                match read {
                    Read::Row(it) => {
                        source.n_read += 1;
                        row = source.is_passed_on.then_some(it);
                    }
                    Read::Done => source.is_done = true,
                    Read::Wait => {}
                    Read::Elsewhere(task, worker) => source.turn_to(task, worker),
                    Read::Broken(cause, error) => {
                        let passed_on = match cause {
                            Cause::Link(producer) => first(task, Some(producer)),
                            cause => cause,
                        };
                        run.state = RunState::Failed(passed_on, error.clone());
                        self.events.push(Event::Failed { attempt: task, cause, error });
                        return;
                    }
                }
            }
            _ => row = run.scan.pop_front(),
        }
        if let Some(row) = row {
            run.n_rows += 1;
            let salt = if is_determinate { 0 } else { 1 + task.attempt };
            let partition = hash(row, salt) % run.output.len();
            run.output[partition].push(row);
        }
        let has_enough = fetch.is_some_and(|fetch| run.n_rows >= fetch);
        if has_enough || (run.scan.is_empty() && run.sources.iter().all(|source| source.is_done)) {
            run.state = RunState::Finished;
            self.events.push(Event::Finished { attempt: task });
        }
    }

    fn step_root(&mut self) {
        let Some(root) = &self.root else { return };
        let open: Vec<usize> = (0..root.sources.len()).filter(|it| !root.sources[*it].is_done).collect();
        let Some(index) = open.choose(&mut self.rng).copied() else {
            let root = self.root.take().unwrap();
            self.client.extend(root.held);
            self.check_lineage(&root.lineage);
            self.tell(Event::RootFinished);
            return;
        };
        let source = root.sources[index].clone();
        let (read, lineage) = self.read(None, &source);
        if let Read::Row(_) = &read {
            self.mark_read(&source);
        }
        let root = self.root.as_mut().unwrap();
        match read {
            Read::Row(row) => {
                root.lineage.extend(lineage);
                root.sources[index].n_read += 1;
                root.held.push(row);
                if root.held.len() > self.hold_back && !self.is_streaming {
                    self.is_streaming = true;
                    self.tell(Event::RowsOut);
                }
                if self.is_streaming
                    && let Some(root) = &mut self.root
                {
                    self.client.append(&mut root.held);
                }
            }
            Read::Done => {
                root.lineage.extend(lineage);
                root.sources[index].is_done = true;
            }
            Read::Wait => {}
            Read::Elsewhere(task, worker) => root.sources[index].turn_to(task, worker),
            Read::Broken(cause, error) => self.tell(Event::RootFailed { cause, error }),
        }
    }

    /// The producer that could not be read, if it was that.
    fn unread(event: &Event) -> Option<TaskId> {
        match event {
            Event::Failed { cause, .. } | Event::RootFailed { cause, .. } => match cause {
                Cause::Link(producer) => Some(*producer),
                Cause::Producer { unread, .. } => *unread,
                Cause::Itself => None,
            },
            _ => None,
        }
    }

    /// Hands an event to the machine and does what it says.
    fn tell(&mut self, event: Event) {
        // Who says that it cannot read is believed after the producer's worker was asked.
        if let Some(worker) = Self::unread(&event).map(|producer| self.submitted[&producer])
            && self.workers[&worker].is_dead
            && !self.workers[&worker].is_lost
        {
            self.tell(Event::WorkerLost { worker, error: lost() });
        }
        if let Event::WorkerLost { worker, .. } = &event {
            // Its lease is dropped: whatever it runs of the query ends, once it hears of it.
            let worker = self.workers.get_mut(worker).unwrap();
            worker.is_lost = true;
            worker.commands.push_back(Command::EndAll);
        }
        if let Event::Finished { attempt } = &event {
            self.reported.insert(*attempt);
        }
        let was_over = self.machine.state().is_over();
        let text = if self.is_replay { format!("{event:?}") } else { String::new() };
        let actions = self.machine.handle(event);
        if self.is_replay {
            println!("{text}");
            actions.iter().for_each(|action| println!("    {action:?}"));
        }
        assert!(!was_over || actions.is_empty(), "after the end of the query: {actions:?}");
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        assert!(self.outcome.is_none(), "after the end of the query: {action:?}");
        match action {
            Action::Submit(submit) => {
                self.check_submit(&submit);
                self.submitted.insert(submit.attempt, submit.worker);
                self.workers.get_mut(&submit.worker).unwrap().commands.push_back(Command::Submit(submit));
            }
            Action::Abort { attempt, worker } => {
                let was_complete = self.reported.contains(&attempt);
                assert!(
                    !(was_complete && self.is_determinate(attempt.stage) && !self.raced.contains(&attempt)),
                    "{attempt} is complete and held, and still is computed again"
                );
                self.workers.get_mut(&worker).unwrap().commands.push_back(Command::End(attempt));
            }
            Action::Release { attempt, worker } => {
                self.workers.get_mut(&worker).unwrap().commands.push_back(Command::End(attempt));
            }
            Action::Redirect { from, worker, to, to_worker } => {
                assert_eq!(self.submitted.get(&to), Some(&to_worker));
                assert!(self.raced.contains(&to) && self.reported.contains(&to), "{to} takes over and is not through");
                let command = Command::Redirect { from, to, to_worker };
                self.workers.get_mut(&worker).unwrap().commands.push_back(command);
            }
            Action::StopRoot => {
                assert!(!self.is_streaming, "rows went out and the root is stopped");
                self.root = None;
            }
            Action::StartRoot { inputs } => {
                assert!(!self.is_streaming && self.root.is_none());
                let tasks = inputs.iter().flat_map(|input: &Input| &input.tasks);
                let source = |(task, worker): &(TaskId, WorkerKey)| Source {
                    task: *task,
                    worker: *worker,
                    partition: 0,
                    n_read: 0,
                    is_passed_on: true,
                    is_done: false,
                };
                self.root = Some(Root { sources: tasks.map(source).collect(), ..Root::default() });
            }
            Action::EndRetention { .. } => assert!(self.is_streaming),
            Action::AwaitWorker { wait } => self.waits.push(wait),
            Action::Succeed => self.outcome = Some(Ok(())),
            Action::Fail { error } => self.outcome = Some(Err(error)),
        }
    }

    fn check_submit(&mut self, submit: &Submit) {
        let Submit { attempt, worker, inputs } = submit;
        assert!(!self.workers[worker].is_lost, "{attempt} is sent to a worker that was given up");
        // One more where one of them was a second beside another.
        assert!(attempt.attempt <= Limits::default().task_attempts_max, "{attempt}");
        assert!(!self.submitted.contains_key(attempt), "{attempt} is submitted twice");
        let is_speculative = self.machine.is_speculative(*attempt);
        let earlier: Vec<TaskId> = (0..attempt.attempt).map(|it| TaskId { attempt: it, ..*attempt }).collect();
        assert!(earlier.iter().all(|it| self.submitted.contains_key(it)), "{attempt} has no predecessor");
        let is_there = |it: &&TaskId| self.machine.attempt_state(**it).is_some_and(AttemptState::is_readable);
        let beside: Vec<TaskId> = earlier.iter().filter(is_there).copied().collect();
        assert_eq!(beside.len(), usize::from(is_speculative), "{attempt} runs beside {beside:?}");
        if is_speculative {
            self.tally.n_speculated += 1;
            assert!(self.is_determinate(attempt.stage) && !self.is_streaming, "{attempt}");
            assert!(!self.shape.stages.iter().any(|it| it.stage == attempt.stage && it.has_effects), "{attempt}");
            assert_ne!(self.submitted[&beside[0]], *worker, "{attempt} is where {} is", beside[0]);
            assert!(self.raced.insert(beside[0]) && self.raced.insert(*attempt), "{attempt} is the third");
        } else if attempt.attempt > 0 {
            self.tally.n_retried += 1;
        }
        let n_consumers = self.models[&attempt.stage].scans.len();
        for (source, at) in inputs.iter().flat_map(|input| &input.tasks) {
            let is_dealt = self.models[&source.stage].kind == Kind::Dealt;
            if is_dealt && source.task as usize % n_consumers != attempt.task as usize {
                continue;
            }
            assert_eq!(self.submitted.get(source), Some(at), "{attempt} reads {source}, which has no place");
            assert!(self.machine.attempt_state(*source).is_some_and(AttemptState::is_readable), "{source}");
        }
    }

    fn check_lineage(&self, lineage: &Lineage) {
        let mut versions = BTreeMap::new();
        for (stage, task, attempt) in lineage {
            let other = versions.insert((*stage, *task), *attempt);
            assert!(other.is_none(), "rows of attempts {other:?} and {attempt} of task {task} of stage {stage} mix");
        }
    }

    fn check_end(&mut self) {
        match self.outcome.clone() {
            Some(Ok(())) => self.check_rows(),
            Some(Err(error)) => self.check_error(&error),
            None => unreachable!("called at the end"),
        }
        // The leases end with the query; whatever is still on its way changes nothing.
        for worker in self.workers.values_mut() {
            worker.commands.push_back(Command::EndAll);
        }
        while !self.events.is_empty() {
            self.deliver_event();
        }
        while self.workers.values().any(|it| !it.commands.is_empty()) {
            self.deliver_command();
        }
        while !self.events.is_empty() {
            self.deliver_event();
        }
        for (key, worker) in self.workers.iter().filter(|(_, it)| !it.is_dead) {
            assert!(worker.runs.is_empty(), "{key:?} still runs {:?}", worker.runs.keys());
        }
    }

    fn check_rows(&self) {
        let mut rows = self.client.clone();
        rows.sort_unstable();
        let n_rows = rows.len();
        rows.dedup();
        assert_eq!(rows.len(), n_rows, "rows came twice");
        // Rows that no broadcast and no limit takes out of the way reach the client, every one.
        let mut passed: BTreeSet<StageId> = self.shape.root.iter().copied().collect();
        for stage in self.shape.stages.iter().rev() {
            if passed.contains(&stage.stage) && self.models[&stage.stage].fetch.is_none() {
                let inputs = stage.inputs.iter().map(|input| input.stage);
                passed.extend(inputs.filter(|input| self.models[input].kind != Kind::Broadcast));
            }
        }
        let is_certain = |stage: &&StageId| self.models[*stage].fetch.is_none();
        let expected = passed.iter().filter(is_certain).flat_map(|stage| self.models[stage].scans.iter().flatten());
        for row in expected {
            assert!(rows.binary_search(row).is_ok(), "row {row} is missing");
        }
    }

    fn check_error(&self, error: &WireError) {
        let because = |texts: &[&str]| texts.iter().any(|text| error.message.contains(text));
        let is_fatal = because(&["final", "stopped"]);
        let is_out = because(&["rows had been sent"]);
        let is_bounded = because(&["gave up after", "ended with the loss", "no worker is left"]);
        assert!(is_fatal || is_out || is_bounded, "no reason to fail: {error}");
        assert!(!is_fatal || self.tally.n_fatal > 0, "{error}");
        assert!(!is_out || self.is_streaming, "{error}");
        // What a single fault can do is always made good, as long as there is another worker and the root can.
        assert!(is_fatal || is_out || self.tally.n_faults > 1 || self.workers.len() == 1, "one fault: {error}");
    }
}

#[test]
fn random_schedules_keep_the_invariants() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a whole number"));
    let seeds = match number("SHEAF_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SHEAF_SCHEDULES").unwrap_or(2_000),
    };
    let is_replay = number("SHEAF_SEED").is_some();
    let (mut n_recovered, mut n_failed, n_seeds) = (0, 0, seeds.end - seeds.start);
    let (mut n_speculated, mut n_overtaken) = (0, 0);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| Cluster::new(seed, is_replay).run());
        let (tally, succeeded) = outcome.unwrap_or_else(|_| panic!("replay it with SHEAF_SEED={seed}"));
        n_recovered += usize::from(succeeded && tally.n_retried > 0);
        n_failed += usize::from(!succeeded);
        n_speculated += tally.n_speculated;
        n_overtaken += tally.n_overtaken;
    }
    println!("{n_seeds} schedules: {n_recovered} recovered, {n_failed} failed as they may");
    println!("{n_speculated} second attempts, {n_overtaken} of them came to be read");
    // Machines that give up at once, or clusters without faults, would prove nothing.
    assert!(n_seeds < 1_000 || n_recovered as u64 > n_seeds / 10, "only {n_recovered} queries recovered");
    assert!(n_seeds < 1_000 || n_overtaken as u64 > n_seeds / 50, "only {n_overtaken} second attempts were read");
}
