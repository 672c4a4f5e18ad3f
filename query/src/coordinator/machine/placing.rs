//! Where the next attempt of a task runs.

use std::cmp::Reverse;

use super::{LINK_FAILURES_MAX, Machine, TaskKey, WorkerKey};

impl Machine {
    /// The worker for the next attempt of a task that reads from `sources`; `None` when there is none at all.
    ///
    /// The first attempt goes where it was planned. Later ones, in this order of weight: not over a link that is lost,
    /// and if it was one that ended the last attempt, to the producer's own worker; not where the task failed before;
    /// where the last attempt was, which has the files at hand; where the query has least to do.
    pub(super) fn place(&self, key: TaskKey, sources: &[WorkerKey]) -> Option<WorkerKey> {
        let stage = &self.stages[&key.0];
        let task = &stage.tasks[key.1 as usize];
        let planned = stage.shape.workers[key.1 as usize];
        let last = task.current().map(|(_, it)| it.worker);
        if last.is_none() && self.workers.contains(&planned) {
            return Some(planned);
        }
        self.workers.iter().copied().min_by_key(|worker| self.weight(key, sources, *worker))
    }

    /// The worker for a second attempt beside one that runs: another, and one that reaches all `sources`.
    pub(super) fn place_beside(&self, key: TaskKey, sources: &[WorkerKey]) -> Option<WorkerKey> {
        let first = self.task(key)?.current().map(|(_, it)| it.worker);
        let is_fit = |worker: &WorkerKey| {
            Some(*worker) != first && !sources.iter().any(|source| self.is_link_lost(*worker, *source))
        };
        let fit = self.workers.iter().copied().filter(is_fit);
        fit.min_by_key(|worker| self.weight(key, sources, *worker))
    }

    /// What speaks against a worker, the weightiest first.
    fn weight(&self, key: TaskKey, sources: &[WorkerKey], worker: WorkerKey) -> impl Ord + use<> {
        let task = &self.stages[&key.0].tasks[key.1 as usize];
        let last = task.current().map(|(_, it)| it.worker);
        let lost_links = sources.iter().filter(|source| self.is_link_lost(worker, **source)).count();
        let is_near = last.is_some_and(|last| sources.contains(&worker) && self.is_link_lost(last, worker));
        let n_failures = task.attempts.iter().filter(|it| it.worker == worker && it.is_workers_fault).count();
        let was_here = last == Some(worker);
        (lost_links, Reverse(is_near), n_failures, Reverse(was_here), self.n_live(worker), worker)
    }

    fn is_link_lost(&self, reader: WorkerKey, producer: WorkerKey) -> bool {
        // A worker reads its own tasks without a link.
        reader != producer && self.link_failures.get(&(Some(reader), producer)).is_some_and(|n| *n >= LINK_FAILURES_MAX)
    }

    /// Attempts of the query that run there.
    fn n_live(&self, worker: WorkerKey) -> usize {
        let attempts = self.stages.values().flat_map(|stage| &stage.tasks).flat_map(|task| &task.attempts);
        attempts.filter(|it| it.worker == worker && it.state.is_live()).count()
    }
}
