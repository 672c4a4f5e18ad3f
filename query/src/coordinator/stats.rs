//! What a session can ask about the query that it ran last.

use parking_lot::Mutex;

/// Counted while a query runs, read when it is over. Nothing for statements that are no queries.
#[derive(Debug, Default)]
pub struct QueryStats(Mutex<Option<Counts>>);

/// Of one query; all zero but the rows when it was not distributed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub stages: u64,
    pub tasks: u64,
    /// Rows of the answer.
    pub rows: u64,
    /// Bytes that tasks and the root read from tasks, over whichever link.
    pub exchange_bytes: u64,
    /// How often something was run again after a failure or a loss.
    pub restarts: u64,
    /// Tasks that had a second attempt beside the first, and those of which the second was read.
    pub speculated: u64,
    pub overtaken: u64,
}

impl QueryStats {
    pub fn counts(&self) -> Option<Counts> {
        *self.0.lock()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(self.0.lock().get_or_insert_default());
    }
}
