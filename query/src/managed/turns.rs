//! Whose turn it is to rewrite a table's files.
//!
//! Statements of one process wait for one another. Upkeep, which nobody waits for, takes a turn only when nobody wants
//! it, and ends as soon as somebody does. Of other processes it learns by claims: a statement that lost against another
//! commit leaves a small file in the table's folder until it is done, and while there is one, upkeep keeps away.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use sheaf_common::QueryId;
use tokio::sync::{Mutex, MutexGuard, watch};

use super::log::TableLog;
use super::storage::below;

const FOLDER: &str = "_sheaf_claims";

/// A claim that is older was left by a server that was killed.
const CLAIM_AGE_MAX: Duration = Duration::from_secs(3600);

/// The turns of one table in one process.
#[derive(Debug, Default)]
pub struct Turns {
    turn: Mutex<()>,
    /// How many wait for it.
    waiting: watch::Sender<usize>,
}

impl Turns {
    /// Waits until all who came before are done.
    pub async fn take(&self) -> MutexGuard<'_, ()> {
        if let Ok(turn) = self.turn.try_lock() {
            return turn;
        }
        let _waits = Waits::new(&self.waiting);
        self.turn.lock().await
    }

    /// The turn, unless somebody has it or waits for it.
    pub fn take_if_unwanted(&self) -> Option<MutexGuard<'_, ()>> {
        if *self.waiting.borrow() > 0 {
            return None;
        }
        self.turn.try_lock().ok()
    }

    /// Comes back when somebody waits.
    pub async fn wanted(&self) {
        // Errs only without a sender, which is here.
        let _ = self.waiting.subscribe().wait_for(|it| *it > 0).await;
    }
}

/// Counts among those who wait, however the waiting ends.
struct Waits<'a>(&'a watch::Sender<usize>);

impl<'a> Waits<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|it| *it += 1);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|it| *it = it.saturating_sub(1));
    }
}

/// Keeps upkeep of all processes away from a table until it is dropped.
pub struct Claim {
    log: Arc<TableLog>,
    path: Path,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Claim {
    /// None where the storage does not take it: the statement can do without.
    pub async fn new(log: &Arc<TableLog>, statement: QueryId) -> Option<Self> {
        let path = below(&log.place().folder, &format!("{FOLDER}/{statement}")).ok()?;
        // Made before the file is: a put whose answer is not waited for may have happened.
        let claim = Self { log: Arc::clone(log), path };
        claim.log.store().put(&claim.path, PutPayload::from_static(b"claimed")).await.ok()?;
        Some(claim)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (log, path) = (Arc::clone(&self.log), self.path.clone());
        runtime.spawn(async move {
            let _ = log.store().delete(&path).await;
        });
    }
}

impl TableLog {
    /// Whether a statement somewhere keeps upkeep away. Claims that were left behind are removed.
    pub async fn is_claimed(&self) -> bool {
        let Ok(folder) = below(&self.place().folder, FOLDER) else { return false };
        let mut is_claimed = false;
        let mut listed = self.store().list(Some(&folder));
        while let Ok(Some(found)) = listed.try_next().await {
            let age = Utc::now().signed_duration_since(found.last_modified).to_std().unwrap_or_default();
            match age > CLAIM_AGE_MAX {
                true => _ = self.store().delete(&found.location).await,
                false => is_claimed = true,
            }
        }
        is_claimed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn upkeep_gives_way() {
        let turns = Arc::new(Turns::default());
        let upkeep = turns.take_if_unwanted().unwrap();
        assert!(turns.take_if_unwanted().is_none(), "there is one turn");
        let other = Arc::clone(&turns);
        let statement = tokio::spawn(async move {
            let _turn = other.take().await;
        });
        tokio::time::timeout(Duration::from_secs(60), turns.wanted()).await.expect("somebody waits");
        assert!(turns.take_if_unwanted().is_none(), "somebody waits");
        drop(upkeep);
        statement.await.unwrap();
        assert!(turns.take_if_unwanted().is_some(), "nobody waits any more");
    }

    #[tokio::test]
    async fn who_does_not_wait_any_more_is_not_counted() {
        let turns = Turns::default();
        let _turn = turns.take().await;
        let gave_up = tokio::time::timeout(Duration::from_millis(1), turns.take()).await;
        assert!(gave_up.is_err());
        assert_eq!(*turns.waiting.borrow(), 0);
    }
}
