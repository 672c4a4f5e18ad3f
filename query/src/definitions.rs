//! Where databases, tables, users and the like are kept: what the rest of this crate asks of it.
//!
//! A server keeps them in a log that its coordinators agree on; [`MemoryDefinitions`] is for programs that embed the
//! engine, and for tests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sheaf_common::definitions::{Applied, Change, Definitions, Refusal};
use sheaf_common::{Classify, ErrorCode, WireError};

use crate::catalog::{CatalogError, first_changes};

/// How long a statement waits for a change or for an up-to-date look when nothing shorter limits it.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than coordinators take to elect a leader: who has heard nothing for this long is cut off from a majority.
pub const ELECTION: Duration = Duration::from_secs(3);
/// Longer than an up-to-date look takes while nothing is wrong.
pub const GLANCE: Duration = Duration::from_secs(1);

/// Why definitions were not changed, or not read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DefinitionError {
    /// It was decided on, and the answer is no: nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store could not do it, or not in time; then a change may still take effect.
    #[error("{0}")]
    Failed(WireError),
}

impl Classify for DefinitionError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Failed(error) => error.code,
        }
    }

    fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_retryable(),
            Self::Failed(error) => error.retryable,
        }
    }
}

/// Keeps definitions for one process or for a cluster.
#[async_trait]
pub trait DefinitionStore: Send + Sync + fmt::Debug + 'static {
    /// Carries out all changes, in order and each seeing those before it, or none. When it returns they outlive any
    /// crash, and [`DefinitionStore::local`] shows them.
    ///
    /// Dropping the future leaves open whether they take effect.
    async fn change(&self, changes: Vec<Change>, timeout: Duration) -> Result<Applied, DefinitionError>;

    /// Everything that was acknowledged before the call, by whichever coordinator.
    async fn read(&self, timeout: Duration) -> Result<Arc<Definitions>, DefinitionError>;

    /// What this process knows, which may be behind. Takes no time.
    fn local(&self) -> Arc<Definitions>;
}

/// Definitions that end with the process.
#[derive(Debug)]
pub struct MemoryDefinitions {
    /// The number of the last change, and what it led to. Replaced as a whole.
    state: Mutex<(u64, Arc<Definitions>)>,
}

impl MemoryDefinitions {
    /// The default database and nothing else.
    ///
    /// Errs never in practice, as [`first_changes`] does.
    pub fn new() -> Result<Self, CatalogError> {
        let store = Self { state: Mutex::default() };
        store.apply(&first_changes()?).map_err(CatalogError::Definitions)?;
        Ok(store)
    }

    fn apply(&self, changes: &[Change]) -> Result<Applied, DefinitionError> {
        let mut state = self.state.lock();
        let (index, definitions) = (state.0 + 1, &mut state.1);
        let (effects, written) = definitions.prepare(index, changes)?;
        Arc::make_mut(definitions).commit(index, &written);
        state.0 = index;
        Ok(Applied { index, effects })
    }
}

#[async_trait]
impl DefinitionStore for MemoryDefinitions {
    async fn change(&self, changes: Vec<Change>, _: Duration) -> Result<Applied, DefinitionError> {
        self.apply(&changes)
    }

    async fn read(&self, _: Duration) -> Result<Arc<Definitions>, DefinitionError> {
        Ok(self.local())
    }

    fn local(&self) -> Arc<Definitions> {
        Arc::clone(&self.state.lock().1)
    }
}

#[cfg(test)]
mod tests {
    use sheaf_common::definitions::{IfExists, Object};

    use super::*;

    #[tokio::test]
    async fn a_snapshot_stays_as_it_was() {
        let store = MemoryDefinitions::new().unwrap();
        let setting = |value: &str| vec![Change::create(Object::setting("a"), value, IfExists::Replace)];
        store.change(setting("1"), TIMEOUT).await.unwrap();
        let before = store.read(TIMEOUT).await.unwrap();
        let applied = store.change(setting("2"), TIMEOUT).await.unwrap();
        let value = |definitions: &Definitions| definitions.get(&Object::setting("a")).unwrap().definition.clone();
        assert_eq!((value(&before), value(&store.local())), ("1".to_owned(), "2".to_owned()));
        assert_eq!((applied.index, store.local().version()), (3, 3));
        let refused = store.change(vec![Change::drop(Object::database("d"))], TIMEOUT).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::DatabaseNotFound);
        assert_eq!(store.local().version(), 3);
    }
}
