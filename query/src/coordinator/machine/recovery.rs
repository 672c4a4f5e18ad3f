//! The one rule: what is read must be there, and who read from what is gone begins again.

use std::collections::BTreeSet;

use sheaf_common::{StageId, TaskId, WireError};

use super::state::{AttemptSignal, QuerySignal};
use super::{
    Action, Attempt, AttemptState, Input, InputShape, Machine, Stage, StageShape, Submit, Task, TaskKey, WorkerKey,
};

impl Machine {
    /// Brings the query to where every unfinished consumer has a source for all that it reads, and nothing runs or is
    /// held that nobody reads. Errs when that would take more attempts than the query has, or a root that cannot begin
    /// again.
    pub(super) fn settle(&mut self, actions: &mut Vec<Action>) -> Result<(), Box<WireError>> {
        self.settle_speculation();
        let (needed, again) = self.void_and_needed(actions);
        if self.root.as_ref().is_some_and(|reads| self.is_root_void(reads, &again)) {
            self.stop_root(actions)?;
        }
        self.release_unneeded(&needed, actions);
        self.count(&again)?;
        self.submit_all(&again, actions);
        self.start_root(actions);
        self.await_worker(actions);
        Ok(())
    }

    /// Aborts every version that must not be used any more; returns the tasks that somebody will read or reads, and
    /// those of them that have to run again.
    ///
    /// The two questions feed each other: a task that runs again voids the attempts that read its last version, and
    /// a void attempt needs its sources again. Both sets only grow, so it ends.
    fn void_and_needed(&mut self, actions: &mut Vec<Action>) -> (BTreeSet<TaskKey>, BTreeSet<TaskKey>) {
        let mut again = BTreeSet::new();
        loop {
            let needed = self.needed();
            let missing = |key: &TaskKey| self.stages[&key.0].tasks[key.1 as usize].readable().is_none();
            let n_before = again.len();
            again.extend(needed.iter().copied().filter(missing));
            let void = self.void(&again);
            if again.len() == n_before && void.is_empty() {
                return (needed, again);
            }
            for key in void {
                self.abort(key, actions);
            }
        }
    }

    /// The tasks that an unfinished consumer reads, or will read once it runs.
    pub(super) fn needed(&self) -> BTreeSet<TaskKey> {
        let mut needed = BTreeSet::new();
        for stage in &self.shape.root {
            needed.extend(self.keys(*stage));
        }
        for shape in self.shape.stages.iter().rev() {
            let stage = &self.stages[&shape.stage];
            let is_reader = |(index, task): &(usize, &Task)| {
                let is_held = task.version().is_some_and(|(_, it)| it.state == AttemptState::Complete);
                !is_held && needed.contains(&(shape.stage, *index as u32))
            };
            let readers: BTreeSet<usize> = stage.tasks.iter().enumerate().filter(is_reader).map(|(it, _)| it).collect();
            for input in &shape.inputs {
                let has_reader = |key: &TaskKey| match input.is_dealt {
                    true => readers.contains(&(key.1 as usize % stage.tasks.len())),
                    false => !readers.is_empty(),
                };
                needed.extend(self.keys(input.stage).filter(has_reader));
            }
        }
        needed
    }

    /// The tasks whose version read from another that is gone.
    fn void(&self, again: &BTreeSet<TaskKey>) -> Vec<TaskKey> {
        let mut void = vec![];
        for shape in &self.shape.stages {
            for (index, task) in self.stages[&shape.stage].tasks.iter().enumerate() {
                let key = (shape.stage, index as u32);
                let Some((_, version)) = task.version() else { continue };
                // Its output is gone for good: it makes place for the attempt to come.
                let is_replaced = again.contains(&key);
                if is_replaced || self.has_void_input(version, index, &self.stages[&shape.stage], again) {
                    void.push(key);
                }
            }
        }
        void
    }

    fn has_void_input(&self, attempt: &Attempt, index: usize, stage: &Stage, again: &BTreeSet<TaskKey>) -> bool {
        stage.shape.inputs.iter().zip(&attempt.reads).any(|(input, reads)| {
            let source = &self.stages[&input.stage];
            let differs = !source.shape.is_determinate;
            if !attempt.state.is_live() && !differs {
                return false;
            }
            reads.iter().enumerate().any(|(producer, number)| {
                if !is_read(input, index, &stage.shape, producer as u32) {
                    return false;
                }
                let is_superseded = self.is_superseded((input.stage, producer as u32), *number, again);
                let is_broken = attempt.state.is_live() && !self.is_readable((input.stage, producer as u32), *number);
                is_superseded || is_broken
            })
        })
    }

    fn is_root_void(&self, reads: &[Vec<u32>], again: &BTreeSet<TaskKey>) -> bool {
        self.shape.root.iter().zip(reads).any(|(stage, reads)| {
            reads.iter().enumerate().any(|(producer, number)| {
                let key = (*stage, producer as u32);
                self.is_superseded(key, *number, again) || !self.is_readable(key, *number)
            })
        })
    }

    /// Whether another attempt took the place of this one or is about to, or its rows must not be used: which can be
    /// so although nobody reads the task any more, and whoever did has to know.
    fn is_superseded(&self, key: TaskKey, number: u32, again: &BTreeSet<TaskKey>) -> bool {
        let task = &self.stages[&key.0].tasks[key.1 as usize];
        let is_aborted = task.current().is_some_and(|(_, it)| it.state == AttemptState::Aborted);
        again.contains(&key) || task.current != number || is_aborted
    }

    fn is_readable(&self, (stage, task): TaskKey, number: u32) -> bool {
        self.stages[&stage].tasks[task as usize].readable().is_some_and(|(readable, _)| readable == number)
    }

    /// Ends the attempts that read over a link that is lost: they would find out one by one, each at the price of all
    /// that reads from it.
    pub(super) fn leave_link(&mut self, reader: WorkerKey, producer: WorkerKey, actions: &mut Vec<Action>) {
        let keys = self.shape.stages.iter().flat_map(|it| self.keys(it.stage));
        let reads_over = |key: &TaskKey| {
            let stage = &self.stages[&key.0];
            let version = stage.tasks[key.1 as usize].version();
            version.is_some_and(|(_, it)| it.state.is_live() && it.worker == reader)
                && stage.shape.inputs.iter().any(|input| {
                    let sources =
                        self.keys(input.stage).filter(|it| is_read(input, key.1 as usize, &stage.shape, it.1));
                    sources.filter_map(|it| self.version_of(it)).any(|(_, it)| it.worker == producer)
                })
        };
        for key in keys.filter(reads_over).collect::<Vec<_>>() {
            self.at_fault.insert(key);
            self.abort(key, actions);
        }
    }

    fn abort(&mut self, key: TaskKey, actions: &mut Vec<Action>) {
        self.end_speculation(key, actions);
        let Some((id, attempt)) = self.version_of(key) else { return };
        let (was_there, worker) = (attempt.state.is_readable(), attempt.worker);
        self.signal(id, AttemptSignal::Abort);
        if was_there {
            actions.push(Action::Abort { attempt: id, worker });
        }
    }

    pub(super) fn release_unneeded(&mut self, needed: &BTreeSet<TaskKey>, actions: &mut Vec<Action>) {
        let all = self.shape.stages.iter().flat_map(|it| self.keys(it.stage));
        for key in all.filter(|key| !needed.contains(key)).collect::<Vec<_>>() {
            self.take_overtaken(key, actions);
            self.end_speculation(key, actions);
            let Some((id, attempt)) = self.version_of(key) else { continue };
            if attempt.state.is_readable() {
                let worker = attempt.worker;
                self.signal(id, AttemptSignal::Release);
                actions.push(Action::Release { attempt: id, worker });
            }
        }
    }

    /// Counts what is run again. Errs when it is once too often.
    fn count(&mut self, again: &BTreeSet<TaskKey>) -> Result<(), Box<WireError>> {
        if self.workers.is_empty() {
            // Counted when there is a worker to run it.
            return Ok(());
        }
        let had_attempts = |key: &&TaskKey| !self.stages[&key.0].tasks[key.1 as usize].attempts.is_empty();
        let repeated: Vec<TaskKey> = again.iter().filter(had_attempts).copied().collect();
        let at_fault = std::mem::take(&mut self.at_fault);
        let root_stopped = std::mem::take(&mut self.root_stopped);
        if repeated.is_empty() && !root_stopped {
            return Ok(());
        }
        for key in &repeated {
            let n_attempts = self.stages[&key.0].tasks[key.1 as usize].n_tries();
            if n_attempts >= self.limits.task_attempts_max {
                let text = format!("gave up after {n_attempts} attempts of task {} of stage {}", key.1, key.0);
                return Err(Box::new(self.give_up_because(&text)));
            }
        }
        self.n_restarts += 1;
        if self.n_restarts > self.limits.query_restarts_max {
            let text = format!("gave up after {} restarts of the query", self.limits.query_restarts_max);
            return Err(Box::new(self.give_up_because(&text)));
        }
        let for_others: BTreeSet<StageId> =
            repeated.iter().filter(|key| !at_fault.contains(key)).map(|key| key.0).collect();
        for id in for_others {
            if let Some(stage) = self.stages.get_mut(&id) {
                stage.n_restarts += 1;
                if stage.n_restarts > self.limits.stage_restarts_max {
                    let text = format!("gave up after {} restarts of stage {id}", self.limits.stage_restarts_max);
                    return Err(Box::new(self.give_up_because(&text)));
                }
            }
        }
        Ok(())
    }

    fn submit_all(&mut self, again: &BTreeSet<TaskKey>, actions: &mut Vec<Action>) {
        let in_order = self.shape.stages.iter().flat_map(|it| self.keys(it.stage));
        for key in in_order.filter(|key| again.contains(key)).collect::<Vec<_>>() {
            // Without a place for its producers, there is nothing that it could be told to read.
            let Some((inputs, sources)) = self.inputs(key) else { continue };
            let Some(worker) = self.place(key, &sources) else { continue };
            let number = self.submit(key, worker, inputs, actions);
            if let Some(task) = self.task_mut(key) {
                task.current = number;
            }
        }
    }

    /// What an attempt that starts now is told to read, and the workers that it really reads from; `None` when something
    /// of that has no place.
    pub(super) fn inputs(&self, key: TaskKey) -> Option<(Vec<Input>, Vec<WorkerKey>)> {
        let shape = &self.stages[&key.0].shape;
        let reads = |input: &InputShape, producer| is_read(input, key.1 as usize, shape, producer);
        let inputs = shape.inputs.iter().map(|it| self.input(it.stage, |producer| reads(it, producer)));
        let inputs = inputs.collect::<Option<Vec<Input>>>()?;
        let sources = shape.inputs.iter().zip(&inputs).flat_map(|(it, input)| {
            input.tasks.iter().filter(move |(task, _)| reads(it, task.task)).map(|(_, worker)| *worker)
        });
        let sources = sources.collect();
        Some((inputs, sources))
    }

    /// Begins one more attempt; returns its number.
    pub(super) fn submit(
        &mut self,
        key: TaskKey,
        worker: WorkerKey,
        inputs: Vec<Input>,
        actions: &mut Vec<Action>,
    ) -> u32 {
        let reads = numbers(&inputs);
        let attempt = Attempt { state: AttemptState::Submitted, worker, reads, is_workers_fault: false };
        let Some(task) = self.task_mut(key) else { return 0 };
        task.attempts.push(attempt);
        let number = task.attempts.len() as u32 - 1;
        let attempt = self.task_id(key, number);
        actions.push(Action::Submit(Submit { attempt, worker, inputs }));
        number
    }

    fn start_root(&mut self, actions: &mut Vec<Action>) {
        if self.root.is_some() {
            return;
        }
        let inputs: Option<Vec<Input>> = self.shape.root.iter().map(|stage| self.input(*stage, |_| true)).collect();
        if let Some(inputs) = inputs {
            self.root = Some(numbers(&inputs));
            self.step(QuerySignal::RootStarted);
            actions.push(Action::StartRoot { inputs });
        }
    }

    /// Nothing has a place: somebody has to look at the clock.
    fn await_worker(&mut self, actions: &mut Vec<Action>) {
        let awaits = self.root.is_none();
        if awaits && !self.awaits_worker {
            self.n_waits += 1;
            actions.push(Action::AwaitWorker { wait: self.n_waits });
        }
        self.awaits_worker = awaits;
    }

    /// Where a stage is read now; `None` when a task that is read has no place. For one that is not, which may have been
    /// released, it is the last place that it had.
    fn input(&self, stage: StageId, is_read: impl Fn(u32) -> bool) -> Option<Input> {
        let tasks = self.stages[&stage].tasks.iter().enumerate().map(|(index, task)| {
            let (number, attempt) = match is_read(index as u32) {
                true => task.readable()?,
                false => task.current()?,
            };
            Some((self.task_id((stage, index as u32), number), attempt.worker))
        });
        Some(Input { stage, tasks: tasks.collect::<Option<_>>()? })
    }

    pub(super) fn version_of(&self, key: TaskKey) -> Option<(TaskId, &Attempt)> {
        let (number, attempt) = self.stages[&key.0].tasks[key.1 as usize].version()?;
        Some((self.task_id(key, number), attempt))
    }

    pub(super) fn keys(&self, stage: StageId) -> impl Iterator<Item = TaskKey> + use<> {
        let n = self.stages[&stage].tasks.len() as u32;
        (0..n).map(move |task| (stage, task))
    }
}

/// Whether the consumer of this index reads from the producer of that.
pub(super) fn is_read(input: &InputShape, consumer: usize, shape: &StageShape, producer: u32) -> bool {
    !input.is_dealt || producer as usize % shape.workers.len() == consumer
}

fn numbers(inputs: &[Input]) -> Vec<Vec<u32>> {
    inputs.iter().map(|input| input.tasks.iter().map(|(task, _)| task.attempt).collect()).collect()
}
