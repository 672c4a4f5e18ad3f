//! What one execution of one statement knows. Built once, never changed.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use datafusion::execution::SessionState;
use sheaf_common::QueryId;
use sheaf_common::settings::Settings;
use sheaf_planners::warnings::QueryWarnings;
use tokio_util::sync::CancellationToken;

use crate::coordinator::QueryStats;
use crate::engine::Engine;

pub struct QueryContext {
    pub engine: Arc<Engine>,
    pub query: QueryId,
    /// The session's settings as they were when the statement began.
    pub settings: Settings,
    /// Plans and runs it: the session's configuration, functions and catalog.
    pub session_state: SessionState,
    /// When it is ended, whatever it does.
    pub deadline: Option<Instant>,
    /// Cancelled by `KILL`, by the client's leaving, by the deadline, and when the answer is dropped.
    pub cancel: CancellationToken,
    /// Counts into the statement's warnings.
    pub warnings: QueryWarnings,
    /// What `SHOW STATUS` tells of it afterwards.
    pub stats: Arc<QueryStats>,
    pub user: String,
    pub connection_id: u64,
    /// The statement as the client wrote it.
    pub text: Arc<str>,
}

impl fmt::Debug for QueryContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryContext").field("query", &self.query).field("text", &self.text).finish_non_exhaustive()
    }
}
