//! What one execution of one statement knows. Built once, never changed.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use datafusion::common::config::ConfigOptions;
use datafusion::execution::SessionState;
use sheaf_common::QueryId;
use sheaf_common::settings::{JoinStrategy, Settings};
use sheaf_planners::warnings::QueryWarnings;
use tokio_util::sync::CancellationToken;

use crate::access::SessionRights;
use crate::activity::Activity;
use crate::coordinator::QueryStats;
use crate::engine::Engine;
use crate::load::upload::Upload;

pub struct QueryContext {
    pub engine: Arc<Engine>,
    pub query: QueryId,
    /// The session's settings as they were when the statement began.
    pub settings: Settings,
    /// Plans and runs it: the session's configuration, functions and catalog.
    pub session_state: Arc<SessionState>,
    /// When it is ended, whatever it does.
    pub deadline: Option<Instant>,
    /// Cancelled by `KILL`, by the client's leaving, by the deadline, and when the answer is dropped.
    pub cancel: CancellationToken,
    /// Counts into the statement's warnings.
    pub warnings: QueryWarnings,
    /// What `SHOW STATUS` tells of it afterwards.
    pub stats: Arc<QueryStats>,
    /// What the session may do, as it is when the statement first asks.
    pub(crate) rights: Arc<SessionRights>,
    /// What the process list tells of it meanwhile.
    pub activity: Arc<Activity>,
    /// Brings the client's file to a statement that loads one; none where the client cannot send files.
    pub upload: Option<Arc<Upload>>,
    pub user: String,
    pub connection_id: u64,
    /// The statement as the client wrote it.
    pub text: Arc<str>,
}

impl QueryContext {
    /// The same statement, to be run once more under an id of its own, with its joins run as `strategy` says.
    pub(crate) fn again(&self, strategy: JoinStrategy) -> Self {
        let settings = Settings { join_strategy: strategy, ..self.settings.clone() };
        let mut session_state = SessionState::clone(&self.session_state);
        set_joins(session_state.config_mut().options_mut(), strategy);
        Self {
            engine: Arc::clone(&self.engine),
            query: self.engine.next_query(),
            settings,
            session_state: Arc::new(session_state),
            deadline: self.deadline,
            cancel: self.cancel.clone(),
            warnings: self.warnings.clone(),
            stats: Arc::clone(&self.stats),
            rights: Arc::clone(&self.rights),
            activity: Arc::clone(&self.activity),
            upload: self.upload.clone(),
            user: self.user.clone(),
            connection_id: self.connection_id,
            text: Arc::clone(&self.text),
        }
    }
}

/// DataFusion's side of [`JoinStrategy`].
pub(crate) fn set_joins(options: &mut ConfigOptions, strategy: JoinStrategy) {
    if strategy == JoinStrategy::Sort {
        options.optimizer.prefer_hash_join = false;
    }
}

impl fmt::Debug for QueryContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryContext").field("query", &self.query).field("text", &self.text).finish_non_exhaustive()
    }
}
