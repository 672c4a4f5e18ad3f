//! A second attempt beside one that runs far beyond its siblings.
//!
//! Nobody is told to read the second one before it is complete. Then the worker of the first is asked to point its
//! readers at the second, which it does only if none of them has read a row of the first: that worker alone can know,
//! so what decides is its answer, and no row of two attempts ever meets. Until then the second may end however it likes
//! and the query is none the worse.
//!
//! Only where every attempt gives the same rows, no attempt does anything but put out rows, and all that the task reads
//! is complete: what waits for its input is no straggler.

use sheaf_common::TaskId;

use super::recovery::is_read;
use super::state::AttemptSignal;
use super::{Action, AttemptState, Machine, News, QueryState, Stage, TaskKey, WorkerKey, key};

/// What became of the readers of an attempt that were to be pointed at another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirected {
    /// They read the other one from now on, and so does whoever comes later. The first has ended.
    Done,
    /// One of them has read from the first already, or the first is through: it stays.
    Refused,
    /// There was no answer: it may have happened or not.
    Unknown,
}

/// An attempt that could get a second one beside it, were it slow enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub attempt: TaskId,
    pub worker: WorkerKey,
    /// Tasks of its stage.
    pub n_tasks: usize,
    /// Those of them that are through, and what each of them read.
    pub finished: Vec<(TaskId, Vec<TaskId>)>,
    /// What it reads itself.
    pub inputs: Vec<TaskId>,
}

impl Machine {
    /// The attempts that an [`super::Event::Straggles`] may be about.
    pub fn speculation_candidates(&self) -> Vec<Candidate> {
        let mut candidates = vec![];
        for (id, stage) in &self.stages {
            let keys = || self.keys(*id);
            for key in keys().filter(|key| self.may_speculate(*key)) {
                let Some((attempt, it)) = self.version_of(key) else { continue };
                let finished = keys().filter_map(|key| {
                    let (attempt, it) = self.version_of(key)?;
                    it.state.is_done().then(|| (attempt, self.read_by(key)))
                });
                candidates.push(Candidate {
                    attempt,
                    worker: it.worker,
                    n_tasks: stage.tasks.len(),
                    finished: finished.collect(),
                    inputs: self.read_by(key),
                });
            }
        }
        candidates
    }

    /// Whether an attempt runs beside the one that consumers are told to read.
    pub fn is_speculative(&self, attempt: TaskId) -> bool {
        attempt.query == self.shape.query
            && self.task(key(attempt)).is_some_and(|it| it.speculative == Some(attempt.attempt))
    }

    /// Begins a second attempt, if the first may have one.
    pub(super) fn speculate(&mut self, first: TaskId, actions: &mut Vec<Action>) {
        let key = key(first);
        let is_current = self.version_of_id(first).is_some();
        if !is_current || !self.may_speculate(key) {
            return;
        }
        let Some((inputs, sources)) = self.inputs(key) else { return };
        let Some(worker) = self.place_beside(key, &sources) else { return };
        let number = self.submit(key, worker, inputs, actions);
        if let Some(task) = self.task_mut(key) {
            task.speculative = Some(number);
            task.is_speculated = true;
        }
    }

    fn may_speculate(&self, key: TaskKey) -> bool {
        let (Some(stage), Some(task)) = (self.stages.get(&key.0), self.task(key)) else { return false };
        let is_alone_at_work = !task.is_speculated
            && task.n_losses == 0
            && task.version().is_some_and(|(_, it)| it.state == AttemptState::Running);
        let is_complete = |id: &TaskId| self.attempt(*id).is_some_and(|it| it.state == AttemptState::Complete);
        self.state == QueryState::Holding
            && self.may_repeat(stage)
            && is_alone_at_work
            && self.read_by(key).iter().all(is_complete)
    }

    fn may_repeat(&self, stage: &Stage) -> bool {
        stage.shape.is_determinate && !stage.shape.has_effects && self.workers.len() > 1
    }

    /// The attempts that a task reads.
    fn read_by(&self, key: TaskKey) -> Vec<TaskId> {
        let shape = &self.stages[&key.0].shape;
        let inputs = shape.inputs.iter().flat_map(|input| {
            let n = self.stages[&input.stage].tasks.len() as u32;
            let read = (0..n).filter(|producer| is_read(input, key.1 as usize, shape, *producer));
            read.filter_map(|producer| {
                let source = (input.stage, producer);
                self.task(source)?.current().map(|(number, _)| self.task_id(source, number))
            })
        });
        inputs.collect()
    }

    /// Whether a task has, or had, two attempts at a time and is not through.
    pub(super) fn is_racing(&self) -> bool {
        let mut tasks = self.stages.values().flat_map(|stage| &stage.tasks);
        tasks.any(|task| task.is_speculated && task.version().is_some_and(|(_, it)| it.state.is_live()))
    }

    pub(super) fn finished(&mut self, attempt: TaskId, actions: &mut Vec<Action>) -> News {
        if !self.signal(attempt, AttemptSignal::Finish) {
            return News::None;
        }
        if self.is_speculative(attempt) {
            self.hand_over(attempt, actions);
            return News::None;
        }
        // One that is complete too waits for the answer to whose rows it are.
        let key = key(attempt);
        if self.speculative_of(key).is_some_and(|(_, state)| state.is_live()) {
            self.end_speculation(key, actions);
        }
        News::Done
    }

    fn hand_over(&mut self, second: TaskId, actions: &mut Vec<Action>) {
        let (Some(to_worker), Some((from, first))) =
            (self.attempt(second).map(|it| it.worker), self.version_of(key(second)))
        else {
            return;
        };
        let worker = first.worker;
        actions.push(Action::Redirect { from, worker, to: second, to_worker });
    }

    /// Takes the answer to an [`Action::Redirect`] in.
    pub(super) fn redirected(&mut self, first: TaskId, outcome: Redirected, actions: &mut Vec<Action>) -> News {
        let key = key(first);
        let Some(worker) = self.version_of_id(first) else { return News::None };
        let second = self.speculative_of(key).filter(|(_, state)| *state == AttemptState::Complete);
        match (outcome, second) {
            (Redirected::Refused, _) => {
                self.end_speculation(key, actions);
                News::None
            }
            (Redirected::Done, Some((second, _))) => {
                self.signal(first, AttemptSignal::Abort);
                self.replace_current(key, second.attempt);
                self.point_readers(first, second.attempt);
                self.n_overtaken += 1;
                News::Done
            }
            // Where its readers are, is not known, or they are where nothing is left: they have to begin again.
            (Redirected::Unknown, Some(_)) | (Redirected::Unknown | Redirected::Done, None) => {
                self.output_failed(first);
                self.at_fault.insert(key);
                actions.push(Action::Abort { attempt: first, worker });
                News::Changed
            }
        }
    }

    /// Nobody reads the task any more. If its second attempt is complete and the first is not, it was the second that was
    /// read, though the answer to the redirect has not come yet.
    pub(super) fn take_overtaken(&mut self, key: TaskKey, actions: &mut Vec<Action>) {
        let Some((second, AttemptState::Complete)) = self.speculative_of(key) else { return };
        let Some((first, attempt)) = self.version_of(key).filter(|(_, it)| it.state.is_live()) else { return };
        let worker = attempt.worker;
        self.signal(first, AttemptSignal::Abort);
        actions.push(Action::Abort { attempt: first, worker });
        self.replace_current(key, second.attempt);
        self.n_overtaken += 1;
    }

    /// Ends the second attempt of a task, if it has one.
    pub(super) fn end_speculation(&mut self, key: TaskKey, actions: &mut Vec<Action>) {
        let Some((attempt, state)) = self.speculative_of(key) else { return };
        if let Some(worker) = self.attempt(attempt).map(|it| it.worker).filter(|_| state.is_readable()) {
            self.signal(attempt, AttemptSignal::Abort);
            actions.push(Action::Abort { attempt, worker });
        }
        if let Some(task) = self.task_mut(key) {
            task.speculative = None;
        }
    }

    /// Forgets second attempts that came to nothing; those whose first did take its place.
    pub(super) fn settle_speculation(&mut self) {
        for task in self.stages.values_mut().flat_map(|stage| &mut stage.tasks) {
            let Some(second) = task.speculative else { continue };
            let is_lost = task.attempts.get(second as usize).is_none_or(|it| !it.state.is_readable());
            if is_lost {
                task.speculative = None;
            } else if task.readable().is_none() {
                task.speculative = None;
                task.current = second;
            }
        }
    }

    /// The worker of an attempt, if it is the one whose rows count.
    fn version_of_id(&self, attempt: TaskId) -> Option<WorkerKey> {
        if attempt.query != self.shape.query {
            return None;
        }
        let (number, it) = self.task(key(attempt))?.version()?;
        (number == attempt.attempt).then_some(it.worker)
    }

    fn speculative_of(&self, key: TaskKey) -> Option<(TaskId, AttemptState)> {
        let task = self.task(key)?;
        let number = task.speculative?;
        Some((self.task_id(key, number), task.attempts.get(number as usize)?.state))
    }

    fn replace_current(&mut self, key: TaskKey, second: u32) {
        if let Some(task) = self.task_mut(key) {
            task.current = second;
            task.speculative = None;
        }
    }

    /// Whoever was told to read the first attempt reads the second now.
    fn point_readers(&mut self, first: TaskId, second: u32) {
        let point = |reads: &mut Vec<u32>| {
            if let Some(number) = reads.get_mut(first.task as usize).filter(|it| **it == first.attempt) {
                *number = second;
            }
        };
        for stage in self.stages.values_mut() {
            for (index, _) in stage.shape.inputs.iter().enumerate().filter(|(_, it)| it.stage == first.stage) {
                let attempts = stage.tasks.iter_mut().flat_map(|task| &mut task.attempts);
                attempts.filter_map(|it| it.reads.get_mut(index)).for_each(point);
            }
        }
        let of_root = self.shape.root.iter().zip(self.root.iter_mut().flatten());
        of_root.filter(|(stage, _)| **stage == first.stage).for_each(|(_, reads)| point(reads));
    }
}
