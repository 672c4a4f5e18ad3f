//! The statements that this process ran last: `system.queries`.
//!
//! Kept in memory, the oldest are forgotten: a log of all would need a place of its own and somebody who reads it.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::coordinator::Counts;

/// Statements that are kept.
const ENTRIES_MAX: usize = 1000;
/// Of a longer statement the beginning is kept.
const TEXT_BYTES_MAX: usize = 4096;

/// One statement that is over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogEntry {
    pub query_id: String,
    pub connection_id: u64,
    pub user: String,
    pub client_host: String,
    pub database: Option<String>,
    pub statement: String,
    /// Milliseconds since 1970.
    pub started_ms: i64,
    /// From the statement's start until its plan ran, or until it was done if it had no rows.
    pub planning_us: u64,
    /// From then until its last row was read.
    pub reading_us: u64,
    /// Rows that the client read.
    pub rows: u64,
    /// What a distributed query took.
    pub counts: Counts,
    /// MySQL's number and the words; none for a statement that came to its end.
    pub error: Option<(u16, String)>,
}

#[derive(Debug, Default)]
pub struct QueryLog {
    /// Invariant: at most [`ENTRIES_MAX`], the oldest first.
    entries: Mutex<VecDeque<LogEntry>>,
}

impl QueryLog {
    pub(crate) fn add(&self, mut entry: LogEntry) {
        if entry.statement.len() > TEXT_BYTES_MAX {
            let end = entry.statement.floor_char_boundary(TEXT_BYTES_MAX);
            entry.statement.truncate(end);
        }
        let mut entries = self.entries.lock();
        if entries.len() == ENTRIES_MAX {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// The oldest first.
    pub fn entries(&self) -> Vec<LogEntry> {
        self.entries.lock().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_long_texts_are_cut() {
        let log = QueryLog::default();
        for connection_id in 0..ENTRIES_MAX as u64 + 5 {
            log.add(LogEntry { connection_id, ..LogEntry::default() });
        }
        let entries = log.entries();
        assert_eq!((entries.len(), entries[0].connection_id), (ENTRIES_MAX, 5));
        log.add(LogEntry { statement: format!("{}ß", "x".repeat(TEXT_BYTES_MAX - 1)), ..LogEntry::default() });
        assert_eq!(log.entries()[ENTRIES_MAX - 1].statement.len(), TEXT_BYTES_MAX - 1);
    }
}
