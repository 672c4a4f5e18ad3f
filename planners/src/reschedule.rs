//! PlanRescheduler: gives every task its share of the input and a worker.
//!
//! A piece of a file goes to the worker that read it before, its home ([`Homes`]), so that it is found in a cache. The
//! first time that is the one with less to read of the two that rendezvous hashing names first, so that coordinators
//! that know nothing of one another mostly agree. A worker that has its fair share of bytes already passes a piece on
//! to the next in the hash's order, for this query only. What reads no file goes to all workers in turn.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{Result, internal_err};
use futures::StreamExt;
use futures::stream::BoxStream;
use sheaf_common::{QueryId, StageId};

use crate::homes::{Homes, Known, key_of};
use crate::stage::{DistributedPlan, Leaf, Split, StagePlan, TaskSplits};

/// Bytes over its fair share that a worker may get for the sake of its caches, in percent.
const IMBALANCE_PERCENT: u64 = 10;
/// Workers that a piece of a file may get for its home: the better of two makes even shares, one does not.
const CHOICES: usize = 2;

/// A worker that may get tasks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Worker {
    /// Unique in the cluster and over time: the node's name and its incarnation.
    pub id: String,
    /// The node's name, as people know it.
    pub name: String,
    /// Where its Flight service is reached.
    pub host: String,
    pub port: u16,
    pub cores: usize,
}

/// Which workers exist: a public extension point.
pub trait WorkerResolver: Send + Sync + Debug {
    /// The workers that are alive now, in any order.
    fn workers(&self) -> Vec<Worker>;

    /// Told when a link to a worker broke, before its heartbeats are missed.
    fn report_lost(&self, _worker_id: &str) {}

    /// Why a worker is not to be counted on any more. `None` while it lives, also when it takes no new tasks.
    fn lost(&self, _worker_id: &str) -> Option<String> {
        None
    }

    /// Yields whenever one of the answers above may have changed.
    fn changes(&self) -> BoxStream<'static, ()> {
        futures::stream::pending().boxed()
    }
}

/// A list of workers that never changes.
#[derive(Debug, Clone, Default)]
pub struct StaticWorkers(pub Vec<Worker>);

impl WorkerResolver for StaticWorkers {
    fn workers(&self) -> Vec<Worker> {
        self.0.clone()
    }
}

/// One task, placed.
#[derive(Debug, Clone)]
pub struct PlacedTask {
    /// Index within the stage.
    pub task: usize,
    pub worker: Worker,
    pub splits: Vec<TaskSplits>,
}

/// Which worker runs what: every task of every stage, by stage.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    pub stages: BTreeMap<StageId, Vec<PlacedTask>>,
}

impl Placement {
    /// The workers that have a task.
    pub fn workers(&self) -> Vec<&Worker> {
        let mut workers: Vec<&Worker> = self.stages.values().flatten().map(|task| &task.worker).collect();
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        workers.dedup();
        workers
    }
}

/// Places all tasks of a plan. The same plan on the same workers is placed the same way while `homes` remembers it.
///
/// Errs only when there is no worker or a stage wants more tasks than there are workers: both are the caller's bug.
pub fn place(plan: &DistributedPlan, query: QueryId, workers: &[Worker], homes: &Homes) -> Result<Placement> {
    let mut workers = workers.to_vec();
    workers.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.id.cmp(&b.id)));
    let mut placement = Placement::default();
    let mut load: HashMap<String, u64> = HashMap::new();
    for stage in &plan.stages {
        if stage.task_count > workers.len() {
            return internal_err!("stage {} has {} tasks for {} workers", stage.stage, stage.task_count, workers.len());
        }
        let chosen = choose_workers(stage, query, &workers, &load, homes);
        let mut tasks: Vec<PlacedTask> = chosen
            .into_iter()
            .enumerate()
            .map(|(task, worker)| PlacedTask { task, worker: worker.clone(), splits: vec![] })
            .collect();
        for leaf in &stage.leaves {
            let shares = homes.with(&workers, |known| shares(leaf, &tasks, known));
            for (task, share) in tasks.iter_mut().zip(shares) {
                let partitions = into_partitions(share, stage.partitions_per_task);
                task.splits.push(TaskSplits { leaf: leaf.id, partitions });
            }
        }
        for task in &tasks {
            let bytes: u64 = task.splits.iter().flat_map(|it| it.partitions.iter().flatten()).map(Split::weight).sum();
            *load.entry(task.worker.id.clone()).or_default() += bytes.max(1);
        }
        placement.stages.insert(stage.stage, tasks);
    }
    Ok(placement)
}

/// As many workers as the stage has tasks: all of them, or those that read most of it before, or have the least to read.
fn choose_workers<'a>(
    stage: &StagePlan,
    query: QueryId,
    workers: &'a [Worker],
    load: &HashMap<String, u64>,
    homes: &Homes,
) -> Vec<&'a Worker> {
    let mut chosen: Vec<&Worker> = workers.iter().collect();
    if stage.task_count < workers.len() {
        let seed = match stage.leaves.first().and_then(|leaf| leaf.splits.first()) {
            Some(split) => split.affinity(),
            None => format!("{query}/{}", stage.stage),
        };
        let at_home = homes.with(workers, |known| bytes_at_home(stage, known));
        chosen.sort_by_key(|worker| {
            let at_home = at_home.get(worker.name.as_str()).copied().unwrap_or(0);
            let load = load.get(&worker.id).copied().unwrap_or(0);
            (Reverse(at_home), load, Reverse(rendezvous(&seed, &worker.name)))
        });
        chosen.truncate(stage.task_count);
        chosen.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.id.cmp(&b.id)));
    }
    chosen
}

/// How much of a stage's files has its home where, by the worker's name.
fn bytes_at_home(stage: &StagePlan, known: &mut Known) -> HashMap<Arc<str>, u64> {
    let mut bytes: HashMap<Arc<str>, u64> = HashMap::new();
    for split in stage.leaves.iter().flat_map(|leaf| &leaf.splits).filter(|it| is_of_file(it)) {
        if let Some(home) = known.get(key_of(&split.affinity())) {
            *bytes.entry(home.worker).or_default() += split.weight();
        }
    }
    bytes
}

/// The weight of a worker for a key: the highest wins. The name, not the incarnation, so that a restarted worker gets
/// its files back.
fn rendezvous(key: &str, worker: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, worker).hash(&mut hasher);
    hasher.finish()
}

/// The worker that a split of this affinity goes to while it is not too busy.
pub fn preferred<'a>(affinity: &str, workers: &'a [Worker], homes: &Homes) -> Option<&'a Worker> {
    let hashed = || workers.iter().max_by_key(|worker| rendezvous(affinity, &worker.name));
    homes.of(affinity, workers).or_else(hashed)
}

fn is_of_file(split: &Split) -> bool {
    matches!(split, Split::File(_) | Split::Files(_))
}

/// Gives every split of a leaf to exactly one task.
fn shares(leaf: &Leaf, tasks: &[PlacedTask], known: &mut Known) -> Vec<Vec<Split>> {
    if leaf.splits.contains(&Split::Share) {
        return vec![vec![Split::Share]; tasks.len()];
    }
    let total: u64 = leaf.splits.iter().map(Split::weight).sum();
    let largest = leaf.splits.iter().map(Split::weight).max().unwrap_or(0);
    let fair = total.div_ceil(tasks.len().max(1) as u64);
    let slack = fair * IMBALANCE_PERCENT / 100;
    let mut sharing = Sharing { tasks, known, bytes: vec![0; tasks.len()], limit: fair + slack };
    // What is at home stays, as long as that costs the query no more than one split.
    let mut given = sharing.at_home(&leaf.splits, fair + slack.max(largest));
    for (given, split) in given.iter_mut().zip(&leaf.splits) {
        if given.is_none() {
            *given = sharing.anywhere(split);
        }
    }
    let mut shares = vec![vec![]; tasks.len()];
    for (split, task) in leaf.splits.iter().zip(given) {
        if let Some(task) = task {
            shares[task].push(split.clone());
        }
    }
    shares
}

/// How far the splits of a leaf are shared out.
struct Sharing<'a> {
    tasks: &'a [PlacedTask],
    known: &'a mut Known,
    /// By task.
    bytes: Vec<u64>,
    /// Of one task, while others have room.
    limit: u64,
}

impl Sharing<'_> {
    /// The tasks of those splits that go where they were read before, since none gets more than `limit` by that.
    fn at_home(&mut self, splits: &[Split], limit: u64) -> Vec<Option<usize>> {
        let by_name: HashMap<&str, usize> =
            self.tasks.iter().enumerate().map(|(idx, task)| (task.worker.name.as_str(), idx)).collect();
        let place = |split: &Split| {
            let home = is_of_file(split).then(|| self.known.get(key_of(&split.affinity())))??;
            let task = *by_name.get(&*home.worker)?;
            let fits = self.bytes[task] + split.weight() <= limit;
            fits.then(|| self.bytes[task] += split.weight())?;
            Some(task)
        };
        splits.iter().map(place).collect()
    }

    /// The task of a split without a home, or whose home has enough.
    fn anywhere(&mut self, split: &Split) -> Option<usize> {
        let affinity = split.affinity();
        let mut order: Vec<usize> = (0..self.tasks.len()).collect();
        order.sort_by_key(|&task| Reverse(rendezvous(&affinity, &self.tasks[task].worker.name)));
        let fits = |task: &usize| self.bytes[*task] + split.weight() <= self.limit;
        let least = |among: &[usize]| among.iter().copied().min_by_key(|&task| self.bytes[task]);
        let key = key_of(&affinity);
        let home = is_of_file(split).then(|| self.known.get(key)).flatten();
        let first = match is_of_file(split) && home.is_none() {
            true => least(&order[..order.len().min(CHOICES)]).filter(fits),
            false => None,
        };
        let task = first.or_else(|| order.iter().copied().find(|it| fits(it))).or_else(|| least(&order))?;
        if is_of_file(split) && home.is_none_or(|it| self.known.may_move(&it)) {
            self.known.set(key, Arc::from(self.tasks[task].worker.name.as_str()));
        }
        self.bytes[task] += split.weight();
        Some(task)
    }
}

/// Cuts one task's splits into at most `partitions` runs of about equal bytes, at least one, and joins neighbouring
/// row groups of a file into one range.
fn into_partitions(mut splits: Vec<Split>, partitions: usize) -> Vec<Vec<Split>> {
    if splits.iter().any(|split| matches!(split, Split::Files(_))) {
        // Each has an order of its own, which only a partition of its own keeps.
        return splits.into_iter().map(|split| vec![split]).collect();
    }
    splits.sort_by(|a, b| position(a).cmp(&position(b)));
    let n_partitions = partitions.min(splits.len()).max(1);
    let total: u64 = splits.iter().map(|split| split.weight().max(1)).sum();
    let mut runs: Vec<Vec<Split>> = vec![vec![]; n_partitions];
    let mut before = 0u64;
    let n_splits = splits.len();
    for (idx, split) in splits.into_iter().enumerate() {
        let weight = split.weight().max(1);
        let middle = u128::from(before) + u128::from(weight / 2);
        let by_bytes = (middle * n_partitions as u128 / u128::from(total.max(1))) as usize;
        // Never leave a later partition without a split while there are enough.
        let at_most = n_partitions - 1 - (n_splits - 1 - idx).min(n_partitions - 1);
        let partition = by_bytes.min(n_partitions - 1).max(at_most);
        before += weight;
        runs[partition].push(split);
    }
    runs.into_iter().map(joined).collect()
}

fn position(split: &Split) -> (&str, u64) {
    match split {
        Split::File(file) => (&file.path, file.range.map_or(0, |range| range.0)),
        Split::Files(files) => (files.first().map_or("", |file| &file.path), 0),
        Split::Rows { start, .. } => ("", *start),
        Split::Whole | Split::Share => ("", 0),
    }
}

/// Joins ranges that begin where the one before them ends, so that a file is opened once for them.
fn joined(splits: Vec<Split>) -> Vec<Split> {
    let mut out: Vec<Split> = vec![];
    for split in splits {
        if !out.last_mut().is_some_and(|last| extend(last, &split)) {
            out.push(split);
        }
    }
    out
}

/// Lengthens `last` by `next` if the two touch.
fn extend(last: &mut Split, next: &Split) -> bool {
    match (last, next) {
        (Split::Rows { end, weight, .. }, Split::Rows { start, end: next_end, weight: next_weight }) => {
            let touch = *end == *start;
            if touch {
                *end = *next_end;
                *weight += next_weight;
            }
            touch
        }
        (Split::File(last), Split::File(next)) => {
            let (Some(range), Some(next_range)) = (last.range, next.range) else { return false };
            let touch =
                last.path == next.path && last.partition_values == next.partition_values && range.1 == next_range.0;
            if touch {
                if let Some(deleted) = last.logged.as_mut().and_then(|it| it.deleted.as_mut())
                    && let Some(later) = next.logged.as_ref().and_then(|it| it.deleted.as_ref())
                {
                    deleted.extend(later);
                }
                last.range = Some((range.0, next_range.1));
                last.weight += next.weight;
            }
            touch
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
