//! What a statement is doing, for who looks at the process list.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sheaf_common::QueryId;

/// Shared by the statement's session and whatever runs it.
#[derive(Debug)]
pub struct Activity {
    /// The id that its tasks have now: one that is run again gets another.
    query: AtomicU64,
    /// Why it waits to be let in.
    queued: Mutex<Option<String>>,
}

impl Activity {
    pub fn new(query: QueryId) -> Self {
        Self { query: AtomicU64::new(query.0), queued: Mutex::new(None) }
    }

    pub fn query(&self) -> QueryId {
        QueryId(self.query.load(Ordering::Relaxed))
    }

    pub(crate) fn runs_as(&self, query: QueryId) {
        self.query.store(query.0, Ordering::Relaxed);
    }

    /// Shows a reason to wait until [`Self::runs`].
    pub(crate) fn waits(&self, reason: &str) {
        *self.queued.lock() = Some(reason.to_owned());
    }

    pub(crate) fn runs(&self) {
        *self.queued.lock() = None;
    }

    /// As the process list words it.
    pub fn state(&self) -> String {
        match &*self.queued.lock() {
            Some(reason) => format!("queued: {reason}"),
            None => "executing".to_owned(),
        }
    }
}
