//! Where the pieces of files were read before: what makes the placement of the next query find them in a cache again.
//!
//! Which worker a piece belongs to does not follow from its name alone: shares would be uneven, and who has too much
//! would give other pieces away in each query. So a coordinator remembers the first choice, its *home*.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use sheaf_common::RecentMap;

use crate::reschedule::Worker;

/// Pieces that are remembered at least.
const PIECES_MIN: usize = 1 << 19;

/// One per coordinator, shared by its queries.
#[derive(Debug, Default)]
pub struct Homes(Mutex<Known>);

/// A worker, by its name: a worker that was restarted has its caches still.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    pub worker: Arc<str>,
    /// How often workers had come when the piece was given to it.
    since: u64,
}

#[derive(Debug)]
pub(crate) struct Known {
    /// By the hash of the piece's name.
    homes: RecentMap<u64, Home>,
    members: HashSet<String>,
    joins: u64,
}

impl Default for Known {
    fn default() -> Self {
        Self { homes: RecentMap::new(PIECES_MIN), members: HashSet::new(), joins: 0 }
    }
}

impl Homes {
    /// Does something with what is known, told the names of the workers that exist.
    pub(crate) fn with<T>(&self, workers: &[Worker], work: impl FnOnce(&mut Known) -> T) -> T {
        // A panic of another query leaves a map of hints behind, whole or not.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.meet(workers);
        work(&mut known)
    }

    /// The home of a piece, if it has one among these workers.
    pub fn of<'a>(&self, affinity: &str, workers: &'a [Worker]) -> Option<&'a Worker> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let home = known.homes.peek(&key_of(affinity))?;
        workers.iter().find(|it| it.name == *home.worker)
    }
}

impl Known {
    fn meet(&mut self, workers: &[Worker]) {
        let is_new = |it: &&Worker| !self.members.contains(&it.name);
        if workers.iter().any(|it| is_new(&it)) {
            self.joins += 1;
        }
        if workers.len() != self.members.len() || workers.iter().any(|it| is_new(&it)) {
            self.members = workers.iter().map(|it| it.name.clone()).collect();
        }
    }

    /// The home of a piece, if that worker exists.
    pub fn get(&mut self, key: u64) -> Option<Home> {
        self.homes.get(&key).filter(|it| self.members.contains(&*it.worker)).cloned()
    }

    /// Takes a worker for the home of a piece.
    pub fn set(&mut self, key: u64, worker: Arc<str>) {
        self.homes.insert(key, Home { worker, since: self.joins });
    }

    /// Whether a piece may move for good: since it got its home, somebody has come who might take a share.
    pub fn may_move(&self, home: &Home) -> bool {
        home.since < self.joins
    }
}

pub(crate) fn key_of(affinity: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    affinity.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(names: &[&str]) -> Vec<Worker> {
        let worker = |name: &&str| Worker {
            id: format!("{name}#1"),
            name: (*name).to_owned(),
            host: String::new(),
            port: 1,
            cores: 1,
        };
        names.iter().map(worker).collect()
    }

    #[test]
    fn a_home_lasts_as_long_as_its_worker() {
        let homes = Homes::default();
        let (both, one) = (workers(&["a", "b"]), workers(&["a"]));
        homes.with(&both, |known| known.set(7, "b".into()));
        assert!(homes.with(&both, |known| known.get(7)).is_some());
        assert!(homes.with(&one, |known| known.get(7)).is_none());
        let home = homes.with(&both, |known| known.get(7)).unwrap();
        assert_eq!(&*home.worker, "b");
        assert!(homes.with(&both, |known| known.may_move(&home)), "b has come again");
    }
}
