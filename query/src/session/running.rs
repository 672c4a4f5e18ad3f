//! The statement that a session runs now, and how it is ended: from outside, or by its deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use sheaf_common::QueryId;
use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Session, is_cancellation};
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::metrics;
use crate::system::ProcessRow;

/// Why a statement was ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum EndReason {
    Killed = 1,
    Timeout = 2,
    /// Nobody reads its rows any more.
    Dropped = 3,
}

pub(super) struct Running {
    query: QueryId,
    text: Arc<str>,
    started: SystemTime,
    cancel: CancellationToken,
    /// An [`EndReason`], 0 while there is none; the first one counts.
    reason: AtomicU8,
}

impl Running {
    /// Makes it the session's current statement until the guard goes or the next one begins.
    pub fn begin(session: &Arc<Session>, context: &QueryContext) -> RunningGuard {
        metrics::started();
        let running = Arc::new(Self {
            query: context.query,
            text: Arc::clone(&context.text),
            started: SystemTime::now(),
            cancel: context.cancel.clone(),
            reason: AtomicU8::new(0),
        });
        session.running.lock().0.push(Arc::clone(&running));
        if session.killed.is_cancelled() {
            running.end(EndReason::Killed);
        }
        let mut deadline = JoinSet::new();
        if let Some(at) = context.deadline {
            let running = Arc::clone(&running);
            deadline.spawn(async move {
                sleep_until(TokioInstant::from_std(at)).await;
                running.end(EndReason::Timeout);
            });
        }
        RunningGuard { session: Arc::clone(session), running, _deadline: deadline }
    }

    pub fn end(&self, reason: EndReason) {
        let _ = self.reason.compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire);
        self.cancel.cancel();
    }

    pub fn token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// The error for a statement that was ended.
    pub fn error(&self) -> QueryError {
        if self.reason.load(Ordering::Acquire) == EndReason::Timeout as u8 {
            QueryError::Timeout
        } else {
            QueryError::Interrupted
        }
    }

    /// The error to tell: what a part of the query says of being cancelled is only an echo of why it was.
    pub fn reason_for(&self, error: QueryError) -> QueryError {
        let ended = self.reason.load(Ordering::Acquire) != 0;
        if ended && is_cancellation(&error) { self.error() } else { error }
    }
}

/// Keeps a statement among the session's; its drop ends whatever of it still runs.
pub(super) struct RunningGuard {
    session: Arc<Session>,
    running: Arc<Running>,
    /// Waits for the deadline, if there is one. A task of its own, since whoever holds the rows may be waiting for a client
    /// that does not read.
    _deadline: JoinSet<()>,
}

impl RunningGuard {
    pub fn running(&self) -> &Running {
        &self.running
    }

    pub fn session(&self) -> &Session {
        &self.session
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.running.end(EndReason::Dropped);
        let mut current = self.session.running.lock();
        current.0.retain(|it| !Arc::ptr_eq(it, &self.running));
        if current.0.is_empty() {
            current.1 = SystemTime::now();
        }
    }
}

/// The session's line of the process list.
pub(super) fn process(session: &Session) -> ProcessRow {
    let (running, idle_since) = {
        let current = session.running.lock();
        (current.0.last().cloned(), current.1)
    };
    let since = running.as_ref().map_or(idle_since, |it| it.started);
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    ProcessRow {
        connection_id: session.connection_id,
        user: session.user.clone(),
        client_host: session.client_host.clone(),
        database: session.database(),
        command: if running.is_some() { "Query" } else { "Sleep" }.to_owned(),
        state: if running.is_some() { "executing" } else { "" }.to_owned(),
        since_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        query_id: running.as_ref().map(|it| it.query.to_string()),
        statement: running.map(|it| it.text.to_string()),
    }
}
