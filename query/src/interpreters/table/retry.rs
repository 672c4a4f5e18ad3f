//! Statements that lose against others: run again on the table as it is by then.
//!
//! A statement reads a version and commits the next one. Where another commit came between the two and changed what it
//! read, nothing of it counts, and it begins anew: after a pause that grows, so that statements that meet do not meet
//! again, a bounded number of times, and never past the statement's deadline.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::sql::sqlparser::ast::ObjectName;
use rand::Rng;
use tracing::debug;

use super::{Answer, QueryContext, QueryError, Session, Target, is_conflict};
use crate::managed::turns::Claim;

/// How often a statement is run.
const TRIES: u32 = 10;

/// Before the second try, twice as long before each further one, and never longer than the last.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Whether a statement takes files out of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// It only adds some: it conflicts with next to nothing.
    Adds,
    /// Statements of this process that do wait for one another; those of others are found out at the commit.
    Rewrites,
}

/// Finds the table and runs `once` on it; again when another statement was faster. It is told which try it is, from 0.
///
/// Errs with the last try's conflict when all were in vain, or when the deadline leaves no time for another.
pub(super) async fn retried<F, Fut>(
    session: &Session,
    context: &QueryContext,
    table: &ObjectName,
    manner: Manner,
    once: F,
) -> Result<Answer, QueryError>
where
    F: Fn(Arc<Target>, u32) -> Fut,
    Fut: Future<Output = Result<Answer, QueryError>> + Send,
{
    let (mut attempt, mut claim) = (0, None);
    loop {
        let target = Arc::new(Target::find(session, table)?);
        let outcome = {
            let _turn = match manner {
                Manner::Adds => None,
                Manner::Rewrites => Some(target.log.rewriting.take().await),
            };
            once(Arc::clone(&target), attempt).await
        };
        attempt += 1;
        match outcome {
            Err(error) if is_conflict(&error) => {
                let pause = pause(attempt);
                if attempt >= TRIES || context.deadline.is_some_and(|it| Instant::now() + pause >= it) {
                    return Err(error);
                }
                if manner == Manner::Rewrites && claim.is_none() {
                    // It may be upkeep of another coordinator that it lost against.
                    claim = Claim::new(&target.log, context.query).await;
                }
                debug!(query = %context.query, attempt, ?pause, %error, "a statement is run again");
                tokio::time::sleep(pause).await;
            }
            other => return other,
        }
    }
}

/// How long to wait after the `attempt`-th try: somewhere in the upper half, so that two that met part.
fn pause(attempt: u32) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LAST_PAUSE);
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit() {
        for attempt in 1..40 {
            let found = pause(attempt);
            assert!(found >= FIRST_PAUSE / 2 && found <= LAST_PAUSE, "{attempt}: {found:?}");
        }
        assert!(pause(1) <= FIRST_PAUSE);
        assert!(pause(20) >= LAST_PAUSE / 2);
    }
}
