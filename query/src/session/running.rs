//! The statement that a session runs now, and how it is ended: from outside, or by its deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use sheaf_common::Classify;
use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Session, is_cancellation};
use crate::activity::Activity;
use crate::context::QueryContext;
use crate::coordinator::Counts;
use crate::error::QueryError;
use crate::metrics;
use crate::query_log::LogEntry;
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

/// What the query log says of a statement.
#[derive(Debug, Default)]
struct Outcome {
    planned: Option<Duration>,
    rows: u64,
    counts: Counts,
    /// Whether it came to its end, with an error or without.
    is_over: bool,
    /// It goes on as another one, which tells of it.
    is_void: bool,
    error: Option<(u16, String)>,
}

pub(super) struct Running {
    activity: Arc<Activity>,
    text: Arc<str>,
    started: SystemTime,
    cancel: CancellationToken,
    begun: Instant,
    outcome: Mutex<Outcome>,
    /// An [`EndReason`], 0 while there is none; the first one counts.
    reason: AtomicU8,
}

impl Running {
    /// Makes it the session's current statement until the guard goes or the next one begins.
    pub fn begin(session: &Arc<Session>, context: &QueryContext) -> RunningGuard {
        metrics::started();
        let running = Arc::new(Self {
            activity: Arc::clone(&context.activity),
            text: Arc::clone(&context.text),
            started: SystemTime::now(),
            begun: Instant::now(),
            outcome: Mutex::default(),
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

    /// Its plan runs; what comes now are rows.
    pub fn planned(&self) {
        self.outcome.lock().planned = Some(self.begun.elapsed());
    }

    /// It is over: how many rows there were, or why it failed.
    pub fn over(&self, rows: u64, counts: Option<Counts>, error: Option<&QueryError>) {
        let mut outcome = self.outcome.lock();
        outcome.rows = rows;
        outcome.counts = counts.unwrap_or_default();
        outcome.error = error.map(|it| (it.code().numbers().mysql, it.to_string()));
        outcome.is_over = true;
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

    /// Nothing is told of it: the statement begins again.
    pub fn forget(self) {
        metrics::finished();
        self.running.outcome.lock().is_void = true;
    }
}

impl RunningGuard {
    fn entry(&self) -> LogEntry {
        let (session, running) = (&self.session, &self.running);
        let total = running.begun.elapsed();
        let micros = |it: Duration| u64::try_from(it.as_micros()).unwrap_or(u64::MAX);
        let started = running.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut outcome = running.outcome.lock();
        if !outcome.is_over {
            // Its rows were not read to the end: killed, too late, or nobody wanted them.
            let error = running.error();
            outcome.error = Some((error.code().numbers().mysql, error.to_string()));
        }
        let planned = outcome.planned.unwrap_or(total);
        LogEntry {
            query_id: running.activity.query().to_string(),
            connection_id: session.connection_id,
            user: session.user.clone(),
            client_host: session.client_host.clone(),
            database: session.database(),
            statement: running.text.to_string(),
            started_ms: i64::try_from(started.as_millis()).unwrap_or(i64::MAX),
            planning_us: micros(planned),
            reading_us: micros(total.saturating_sub(planned)),
            rows: outcome.rows,
            counts: outcome.counts,
            error: outcome.error.take(),
        }
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.running.end(EndReason::Dropped);
        if !self.running.outcome.lock().is_void {
            self.session.engine.log().add(self.entry());
        }
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
        state: running.as_ref().map(|it| it.activity.state()).unwrap_or_default(),
        since_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        query_id: running.as_ref().map(|it| it.activity.query().to_string()),
        statement: running.map(|it| it.text.to_string()),
    }
}
