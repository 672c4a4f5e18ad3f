//! Which attempts run far beyond their siblings: clocks, and nothing else.
//!
//! A task's time begins when its worker has taken it and all that it reads is complete. It is a straggler when at least
//! half of its stage is through, and it has run longer than both the least time and so many times the median of those.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sheaf_common::TaskId;
use sheaf_common::settings::Settings;

use super::machine::Candidate;

/// Looks at the clock are at most so far apart.
const INTERVAL_MAX: Duration = Duration::from_secs(1);
/// And at least so far.
const INTERVAL_MIN: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Stragglers {
    factor: u32,
    least: Duration,
    accepted: HashMap<TaskId, Instant>,
    finished: HashMap<TaskId, Instant>,
}

impl Stragglers {
    /// None where no task is to have a second attempt.
    pub fn new(settings: &Settings) -> Option<Self> {
        (settings.speculation && settings.fault_tolerance).then(|| Self {
            factor: u32::try_from(settings.speculation_factor).unwrap_or(u32::MAX),
            least: Duration::from_millis(settings.speculation_min_ms),
            accepted: HashMap::new(),
            finished: HashMap::new(),
        })
    }

    /// How often to look.
    pub fn interval(&self) -> Duration {
        (self.least / 4).clamp(INTERVAL_MIN, INTERVAL_MAX)
    }

    pub fn accepted(&mut self, attempt: TaskId, now: Instant) {
        self.accepted.insert(attempt, now);
    }

    pub fn finished(&mut self, attempt: TaskId, now: Instant) {
        self.finished.insert(attempt, now);
    }

    pub fn is_straggler(&self, candidate: &Candidate, now: Instant) -> bool {
        let Candidate { attempt, n_tasks, finished, inputs, .. } = candidate;
        if finished.is_empty() || finished.len() * 2 < *n_tasks {
            return false;
        }
        let mut times: Vec<Duration> = finished
            .iter()
            .filter_map(|(sibling, inputs)| self.ran(*sibling, inputs, *self.finished.get(sibling)?))
            .collect();
        times.sort_unstable();
        let Some(median) = times.get(times.len().saturating_sub(1) / 2) else { return false };
        let limit = median.saturating_mul(self.factor).max(self.least);
        self.ran(*attempt, inputs, now).is_some_and(|time| time > limit)
    }

    /// How long an attempt had all that it needs, until `end`.
    fn ran(&self, attempt: TaskId, inputs: &[TaskId], end: Instant) -> Option<Duration> {
        let inputs_end = inputs.iter().filter_map(|it| self.finished.get(it)).max();
        let begin = self.accepted.get(&attempt).max(inputs_end)?;
        Some(end.saturating_duration_since(*begin))
    }
}

#[cfg(test)]
mod tests {
    use sheaf_common::{QueryId, StageId};

    use super::super::machine::WorkerKey;
    use super::*;

    fn id(stage: u32, task: u32) -> TaskId {
        TaskId { query: QueryId(1), stage: StageId(stage), task, attempt: 0 }
    }

    /// Four tasks of stage 2, of which so many took a second each; all read the task of stage 1, which takes ten.
    fn stage(n_finished: u32, started: Instant) -> (Stragglers, Candidate) {
        let mut settings = Settings::default();
        settings.set("speculation_factor", "3").unwrap();
        settings.set("speculation_min_ms", "2000").unwrap();
        let mut stragglers = Stragglers::new(&settings).unwrap();
        (0..4).for_each(|task| stragglers.accepted(id(2, task), started));
        stragglers.finished(id(1, 0), started + Duration::from_secs(10));
        (0..n_finished).for_each(|task| stragglers.finished(id(2, task), started + Duration::from_secs(11)));
        let finished = (0..n_finished).map(|task| (id(2, task), vec![id(1, 0)])).collect();
        let candidate =
            Candidate { attempt: id(2, 3), worker: WorkerKey(0), n_tasks: 4, finished, inputs: vec![id(1, 0)] };
        (stragglers, candidate)
    }

    #[test]
    fn far_beyond_half_of_its_siblings_is_a_straggler() {
        let started = Instant::now();
        let after = |seconds| started + Duration::from_secs(seconds);
        let (stragglers, candidate) = stage(2, started);
        // Its ten seconds of waiting for what it reads do not count.
        assert!(!stragglers.is_straggler(&candidate, after(13)));
        assert!(stragglers.is_straggler(&candidate, after(14)));
        let (stragglers, candidate) = stage(1, started);
        assert!(!stragglers.is_straggler(&candidate, after(1000)));
    }

    #[test]
    fn what_is_short_is_no_straggler() {
        let started = Instant::now();
        let (mut stragglers, candidate) = stage(3, started);
        (0..3).for_each(|task| stragglers.finished(id(2, task), started + Duration::from_millis(10_001)));
        assert!(!stragglers.is_straggler(&candidate, started + Duration::from_millis(11_900)));
        assert!(stragglers.is_straggler(&candidate, started + Duration::from_millis(12_100)));
    }

    #[test]
    fn it_can_be_switched_off() {
        let mut settings = Settings::default();
        settings.set("speculation", "off").unwrap();
        assert!(Stragglers::new(&settings).is_none());
        let mut settings = Settings::default();
        settings.set("fault_tolerance", "off").unwrap();
        assert!(Stragglers::new(&settings).is_none());
    }
}
