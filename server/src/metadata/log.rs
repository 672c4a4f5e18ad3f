//! The log as Raft reads it: in memory, so that reading it cannot fail. [`super::disk`] keeps it.

use std::cell::Cell;
use std::collections::VecDeque;

use protobuf::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::storage::{GetEntriesContext, RaftState, Storage};
use raft::{Error, StorageError};

use super::disk::Position;

/// Invariant: `entries` follow `cut` without gaps.
pub struct Log {
    pub hard_state: HardState,
    pub conf_state: ConfState,
    cut: Position,
    entries: VecDeque<Entry>,
    bytes: usize,
    snapshot: Option<Snapshot>,
    /// Raft asked for a snapshot that is not there; it asks again.
    snapshot_wanted: Cell<bool>,
}

impl Log {
    pub fn new(hard_state: HardState, conf_state: ConfState, cut: Position, entries: Vec<Entry>) -> Self {
        let bytes = entries.iter().map(size).sum();
        let snapshot_wanted = Cell::new(false);
        Self { hard_state, conf_state, cut, entries: entries.into(), bytes, snapshot: None, snapshot_wanted }
    }

    pub fn cut(&self) -> Position {
        self.cut
    }

    pub fn last(&self) -> u64 {
        self.cut.index + self.entries.len() as u64
    }

    pub fn n_entries(&self) -> usize {
        self.entries.len()
    }

    /// Of all entries, as they travel.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds entries, in the place of those with the same or a higher index.
    pub fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else { return };
        assert!(first > self.cut.index && first <= self.last() + 1, "entries follow the log without a gap");
        for gone in self.entries.drain((first - self.cut.index - 1) as usize..) {
            self.bytes -= size(&gone);
        }
        self.bytes += entries.iter().map(size).sum::<usize>();
        self.entries.extend(entries);
    }

    /// Where an entry stands, if the log still knows.
    pub fn position(&self, index: u64) -> Option<Position> {
        match index.checked_sub(self.cut.index)? {
            0 => Some(self.cut),
            offset => self.entries.get(offset as usize - 1).map(|entry| Position { index, term: entry.term }),
        }
    }

    /// Forgets the entries up to `cut`.
    pub fn cut_off(&mut self, cut: Position) {
        while self.entries.front().is_some_and(|entry| entry.index <= cut.index) {
            let gone = self.entries.pop_front();
            self.bytes -= gone.as_ref().map_or(0, size);
        }
        self.cut = cut;
        // Whoever gets an old one could not go on from it.
        if self.snapshot.as_ref().is_some_and(|it| it.get_metadata().index < cut.index) {
            self.snapshot = None;
        }
    }

    /// Starts anew after a snapshot of another replica.
    pub fn restart(&mut self, cut: Position, conf_state: ConfState) {
        self.entries.clear();
        self.bytes = 0;
        self.cut = cut;
        self.conf_state = conf_state;
        self.snapshot = None;
    }

    /// Whether Raft waits for [`Log::offer`].
    pub fn wants_snapshot(&self) -> bool {
        self.snapshot_wanted.get()
    }

    pub fn offer(&mut self, snapshot: Snapshot) {
        self.snapshot_wanted.set(false);
        self.snapshot = Some(snapshot);
    }
}

fn size(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + 32
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.cut.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let range = (low - self.cut.index - 1) as usize..(high - self.cut.index - 1) as usize;
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut total = 0;
        let fits = |entry: &&Entry| {
            let first = total == 0;
            total += u64::from(entry.compute_size());
            first || total <= max_size
        };
        Ok(self.entries.range(range).take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.position(index) {
            Some(position) => Ok(position.term),
            None if index < self.cut.index => Err(Error::Store(StorageError::Compacted)),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.cut.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // A replica refuses a snapshot from before it was a member, and Raft would send it the same one for ever.
        let is_for = |snapshot: &Snapshot| {
            let members = snapshot.get_metadata().get_conf_state();
            members.voters.contains(&to) || members.learners.contains(&to)
        };
        match &self.snapshot {
            Some(it) if it.get_metadata().index >= request_index && is_for(it) => Ok(it.clone()),
            _ => {
                self.snapshot_wanted.set(true);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 10].into(), ..Entry::default() }
    }

    fn log() -> Log {
        let cut = Position { index: 5, term: 2 };
        Log::new(HardState::default(), ConfState::default(), cut, (6..=9).map(|index| entry(index, 2)).collect())
    }

    fn indices(log: &Log, low: u64, high: u64, max: u64) -> Vec<u64> {
        log.entries(low, high, max, GetEntriesContext::empty(false)).unwrap().iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn what_was_cut_off_is_told_from_what_is_not_there_yet() {
        let log = log();
        assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (6, 9));
        assert_eq!(log.term(5), Ok(2));
        assert_eq!(log.term(4), Err(Error::Store(StorageError::Compacted)));
        assert_eq!(log.term(10), Err(Error::Store(StorageError::Unavailable)));
        let context = || GetEntriesContext::empty(false);
        assert_eq!(log.entries(5, 7, u64::MAX, context()), Err(Error::Store(StorageError::Compacted)));
        assert_eq!(log.entries(6, 11, u64::MAX, context()), Err(Error::Store(StorageError::Unavailable)));
        assert_eq!(indices(&log, 6, 10, u64::MAX), [6, 7, 8, 9]);
        assert_eq!(indices(&log, 7, 10, 0), [7], "at least one");
        assert_eq!(indices(&log, 7, 7, 0), [0; 0]);
    }

    #[test]
    fn later_entries_take_the_place_of_earlier_ones() {
        let mut log = log();
        log.append(vec![entry(8, 3)]);
        assert_eq!((log.last(), log.term(8), log.n_entries()), (8, Ok(3), 3));
        let bytes = log.bytes();
        log.cut_off(Position { index: 7, term: 2 });
        assert_eq!((log.first_index(), log.n_entries(), log.bytes()), (Ok(8), 1, bytes / 3));
    }

    #[test]
    fn a_snapshot_that_is_not_there_is_asked_for() {
        let mut log = log();
        assert!(log.snapshot(0, 2).is_err() && log.wants_snapshot());
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = 7;
        snapshot.mut_metadata().mut_conf_state().learners = vec![2];
        log.offer(snapshot);
        assert!(log.snapshot(7, 2).is_ok() && !log.wants_snapshot());
        assert!(log.snapshot(8, 2).is_err());
        assert!(log.snapshot(7, 3).is_err(), "3 was no member then");
        log.cut_off(Position { index: 8, term: 2 });
        assert!(log.snapshot(0, 2).is_err());
    }
}
