//! Whether the same piece of a file goes to the same worker again, and whether workers get even shares.

use std::collections::HashMap;

use super::*;
use crate::stage::FileSplit;

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

fn workers(range: std::ops::Range<usize>, incarnation: usize) -> Vec<Worker> {
    let worker = |n: usize| Worker {
        id: format!("w{n}#{incarnation}"),
        name: format!("w{n}"),
        host: "h".to_owned(),
        port: 1,
        cores: 1,
    };
    range.map(worker).collect()
}

fn split(file: usize, start: u64, weight: u64) -> Split {
    Split::File(FileSplit {
        path: format!("t/part-{file}.parquet"),
        size: 1 << 30,
        modified_ms: 0,
        etag: None,
        range: Some((start, start + weight)),
        partition_values: vec![],
        weight,
        logged: None,
    })
}

/// A table of so many row groups, eight a file, whose sizes differ by half.
fn table(n_splits: usize, numbers: &mut Numbers) -> Vec<Split> {
    (0..n_splits).map(|n| split(n / 8, 4 + (n as u64 % 8) * 100, 50 + numbers.below(50) as u64)).collect()
}

/// Which worker reads what, by piece; and whether no share is too large.
fn placed(splits: &[Split], workers: &[Worker], homes: &Homes) -> HashMap<String, String> {
    let leaf = Leaf { id: 0, splits: splits.to_vec(), rows: None, bytes: None, table_files: None };
    let task = |(task, worker): (usize, &Worker)| PlacedTask { task, worker: worker.clone(), splits: vec![] };
    let tasks: Vec<PlacedTask> = workers.iter().enumerate().map(task).collect();
    let shares = homes.with(workers, |known| shares(&leaf, &tasks, known));
    let total: u64 = splits.iter().map(Split::weight).sum();
    let largest = splits.iter().map(Split::weight).max().unwrap_or(0);
    let fair = total.div_ceil(workers.len() as u64);
    let mut found = HashMap::new();
    for (task, share) in tasks.iter().zip(&shares) {
        let bytes: u64 = share.iter().map(Split::weight).sum();
        let limit = fair + (fair * IMBALANCE_PERCENT / 100).max(largest);
        assert!(bytes <= limit, "{} has {bytes} of {total} among {}", task.worker.name, workers.len());
        for split in share {
            assert!(found.insert(split.affinity(), task.worker.name.clone()).is_none(), "a piece is read twice");
        }
    }
    assert_eq!(found.len(), splits.len(), "a piece is not read");
    found
}

/// How many of the pieces that were placed before went to the same worker.
#[derive(Default)]
struct Ratio {
    same: usize,
    all: usize,
    last: HashMap<String, String>,
}

impl Ratio {
    fn add(&mut self, found: HashMap<String, String>) {
        for (piece, worker) in found {
            if let Some(before) = self.last.insert(piece, worker.clone()) {
                self.all += 1;
                self.same += usize::from(before == worker);
            }
        }
    }

    fn check(&self, what: &str) {
        assert!(self.all > 0 && self.same * 100 >= self.all * 95, "{what}: {} of {}", self.same, self.all);
    }
}

#[test]
fn the_same_piece_goes_to_the_same_worker_again() {
    let mut numbers = Numbers(7);
    for n_workers in [2, 3, 8, 16] {
        for n_splits in [24, 64, 200, 1000] {
            let (homes, workers) = (Homes::default(), workers(0..n_workers, 1));
            let splits = table(n_splits, &mut numbers);
            let mut ratio = Ratio::default();
            for query in 0..40 {
                // The whole table and, in between, what a filter leaves of it.
                let some = match query % 2 {
                    0 => splits.clone(),
                    _ => {
                        let (from, n) = (numbers.below(n_splits), n_splits / 4 + numbers.below(n_splits * 3 / 4));
                        let mut idx: Vec<usize> = (from..from + n).map(|it| it % n_splits).collect();
                        idx.sort_unstable();
                        idx.into_iter().map(|it| splits[it].clone()).collect()
                    }
                };
                ratio.add(placed(&some, &workers, &homes));
            }
            ratio.check(&format!("{n_splits} splits on {n_workers} workers"));
        }
    }
}

#[test]
fn a_table_that_grows_stays_where_it_is() {
    let mut numbers = Numbers(11);
    let (homes, workers) = (Homes::default(), workers(0..4, 1));
    let mut splits = table(80, &mut numbers);
    let mut ratio = Ratio::default();
    for file in 0..50 {
        ratio.add(placed(&splits, &workers, &homes));
        splits.push(split(1000 + file, 4, 70));
    }
    ratio.check("a file more in each query");
}

#[test]
fn only_the_pieces_of_a_worker_that_leaves_move() {
    let mut numbers = Numbers(3);
    let homes = Homes::default();
    let all = workers(0..4, 1);
    let splits = table(400, &mut numbers);
    let before = placed(&splits, &all, &homes);
    let after = placed(&splits, &all[..3], &homes);
    let of_others = before.iter().filter(|(_, worker)| *worker != "w3");
    let (stayed, n): (Vec<bool>, usize) =
        (of_others.clone().map(|(piece, worker)| after[piece] == *worker).collect(), of_others.count());
    assert_eq!(stayed.iter().filter(|it| **it).count(), n, "what lay on the other workers stays there");
    // Its successor has other pieces to begin with, and they stay with it from then on.
    let mut ratio = Ratio::default();
    for _ in 0..5 {
        ratio.add(placed(&splits, &all, &homes));
    }
    ratio.check("after it came back");
    assert!(ratio.last.values().filter(|it| *it == "w3").count() * 7 > splits.len(), "it gets a share");
    // A new process of the same name is the same worker to the cache on its disk.
    let again = placed(&splits, &workers(0..4, 2), &homes);
    assert_eq!(again, ratio.last);
}

#[test]
fn coordinators_that_know_nothing_of_one_another_agree_on_a_table() {
    let splits = table(400, &mut Numbers(5));
    let workers = workers(0..5, 1);
    assert_eq!(placed(&splits, &workers, &Homes::default()), placed(&splits, &workers, &Homes::default()));
    // And mostly, when one of them met a part of it first.
    let homes = Homes::default();
    placed(&splits[..150], &workers, &homes);
    let (one, other) = (placed(&splits, &workers, &homes), placed(&splits, &workers, &Homes::default()));
    let same = splits.iter().filter(|it| one[&it.affinity()] == other[&it.affinity()]).count();
    assert!(same * 2 > splits.len(), "{same} of {}", splits.len());
}
