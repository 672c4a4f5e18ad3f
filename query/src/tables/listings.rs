//! What one query has seen of the files of its tables.
//!
//! A query lists a location once and keeps to what it saw, however often it is planned and however many times it names
//! the table: what others write meanwhile is seen by the next one.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::catalog::Session;
use object_store::ObjectMeta;
use parking_lot::Mutex;

use super::TableError;
use super::files::{FileKind, FoundFile};

/// Where files were looked for, and which ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ListingKey {
    pub locations: Vec<String>,
    pub format: FileKind,
}

/// An extension of the `SessionConfig` that one query is planned with.
#[derive(Debug, Default)]
pub struct Listings {
    lists: Mutex<HashMap<ListingKey, Arc<Vec<FoundFile>>>>,
    heads: Mutex<HashMap<PathBuf, ObjectMeta>>,
}

impl Listings {
    /// Those of the query that `session` plans; without one, some that begin and end with the caller.
    pub(super) fn of(session: &dyn Session) -> Arc<Self> {
        session.config().get_extension::<Self>().unwrap_or_default()
    }

    /// The files at some locations; `list` is asked the first time.
    pub(super) async fn files(
        &self,
        key: ListingKey,
        list: impl Future<Output = Result<Vec<FoundFile>, TableError>>,
    ) -> Result<Arc<Vec<FoundFile>>, TableError> {
        if let Some(known) = self.lists.lock().get(&key) {
            return Ok(Arc::clone(known));
        }
        let found = Arc::new(list.await?);
        // Whoever was first is right: two lists of one query must not differ.
        Ok(Arc::clone(self.lists.lock().entry(key).or_insert(found)))
    }

    /// Size and time of one file; `head` is asked the first time.
    pub(super) async fn meta(
        &self,
        path: &Path,
        head: impl Future<Output = Result<ObjectMeta, TableError>>,
    ) -> Result<ObjectMeta, TableError> {
        if let Some(known) = self.heads.lock().get(path) {
            return Ok(known.clone());
        }
        let found = head.await?;
        Ok(self.heads.lock().entry(path.to_owned()).or_insert(found).clone())
    }
}
