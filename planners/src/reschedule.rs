//! PlanRescheduler: gives every task its share of the input and a worker.
//!
//! A piece of a file goes to the worker that rendezvous hashing names for it, so that the same worker reads it again
//! and finds it in its caches; a worker that has its fair share of bytes already passes it on to the next in the
//! hash's order. What reads no file goes to all workers in turn.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

use datafusion::common::{Result, internal_err};
use sheaf_common::{QueryId, StageId};

use crate::stage::{DistributedPlan, Leaf, Split, StagePlan, TaskSplits};

/// Bytes over its fair share that a worker may get for the sake of its caches, in percent.
const IMBALANCE_PERCENT: u64 = 10;

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

/// Places all tasks of a plan. The same plan on the same workers is placed the same way.
///
/// Errs only when there is no worker or a stage wants more tasks than there are workers: both are the caller's bug.
pub fn place(plan: &DistributedPlan, query: QueryId, workers: &[Worker]) -> Result<Placement> {
    let mut workers = workers.to_vec();
    workers.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.id.cmp(&b.id)));
    let mut placement = Placement::default();
    let mut load: HashMap<String, u64> = HashMap::new();
    for stage in &plan.stages {
        if stage.task_count > workers.len() {
            return internal_err!("stage {} has {} tasks for {} workers", stage.stage, stage.task_count, workers.len());
        }
        let chosen = choose_workers(stage, query, &workers, &load);
        let mut tasks: Vec<PlacedTask> = chosen
            .into_iter()
            .enumerate()
            .map(|(task, worker)| PlacedTask { task, worker: worker.clone(), splits: vec![] })
            .collect();
        for leaf in &stage.leaves {
            share_out(leaf, stage.partitions_per_task, &mut tasks);
        }
        for task in &tasks {
            let bytes: u64 = task.splits.iter().flat_map(|it| it.partitions.iter().flatten()).map(Split::weight).sum();
            *load.entry(task.worker.id.clone()).or_default() += bytes.max(1);
        }
        placement.stages.insert(stage.stage, tasks);
    }
    Ok(placement)
}

/// As many workers as the stage has tasks: all of them, or those with the least to read so far.
fn choose_workers<'a>(
    stage: &StagePlan,
    query: QueryId,
    workers: &'a [Worker],
    load: &HashMap<String, u64>,
) -> Vec<&'a Worker> {
    let mut chosen: Vec<&Worker> = workers.iter().collect();
    if stage.task_count < workers.len() {
        let seed = match stage.leaves.first().and_then(|leaf| leaf.splits.first()) {
            Some(split) => split.affinity(),
            None => format!("{query}/{}", stage.stage),
        };
        chosen.sort_by_key(|worker| {
            (load.get(&worker.id).copied().unwrap_or(0), std::cmp::Reverse(rendezvous(&seed, &worker.name)))
        });
        chosen.truncate(stage.task_count);
        chosen.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.id.cmp(&b.id)));
    }
    chosen
}

/// The weight of a worker for a key: the highest wins. The name, not the incarnation, so that a restarted worker gets
/// its files back.
fn rendezvous(key: &str, worker: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, worker).hash(&mut hasher);
    hasher.finish()
}

/// Gives every split of a leaf to exactly one task, and each task its partitions.
fn share_out(leaf: &Leaf, partitions_per_task: usize, tasks: &mut [PlacedTask]) {
    let mut shares: Vec<Vec<Split>> = vec![vec![]; tasks.len()];
    if leaf.splits.contains(&Split::Share) {
        shares.iter_mut().for_each(|share| share.push(Split::Share));
    } else {
        let total: u64 = leaf.splits.iter().map(Split::weight).sum();
        let fair = total.div_ceil(tasks.len().max(1) as u64);
        let limit = fair + fair * IMBALANCE_PERCENT / 100;
        let mut bytes = vec![0u64; tasks.len()];
        for split in &leaf.splits {
            let key = split.affinity();
            let mut order: Vec<usize> = (0..tasks.len()).collect();
            order.sort_by_key(|&task| std::cmp::Reverse(rendezvous(&key, &tasks[task].worker.name)));
            let fits = order.iter().copied().find(|&task| bytes[task] + split.weight() <= limit);
            let least = || order.iter().copied().min_by_key(|&task| bytes[task]);
            let Some(task) = fits.or_else(least) else { continue };
            bytes[task] += split.weight();
            shares[task].push(split.clone());
        }
    }
    for (task, share) in tasks.iter_mut().zip(shares) {
        task.splits.push(TaskSplits { leaf: leaf.id, partitions: into_partitions(share, partitions_per_task) });
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
                last.range = Some((range.0, next_range.1));
                last.weight += next.weight;
            }
            touch
        }
        _ => false,
    }
}
