//! What one query has seen of the files of its tables.
//!
//! A query lists a location once and keeps to what it saw, however often it is planned and however many times it names
//! the table: what others write meanwhile is seen by the next one.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::ObjectMeta;
use object_store::path::Path as StorePath;
use parking_lot::Mutex;

use super::TableError;
use super::delta::DeltaSnapshot;
use super::files::{FileKind, FoundFile};

/// Where files were looked for, and which ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ListingKey {
    pub store: ObjectStoreUrl,
    pub locations: Vec<String>,
    pub format: FileKind,
}

/// An extension of the `SessionConfig` that one query is planned with.
#[derive(Debug, Default)]
pub struct Listings {
    lists: Mutex<HashMap<ListingKey, Arc<Vec<FoundFile>>>>,
    heads: Mutex<HashMap<(ObjectStoreUrl, StorePath), ObjectMeta>>,
    /// By the table's location.
    deltas: Mutex<HashMap<String, Arc<DeltaSnapshot>>>,
}

impl Listings {
    /// Those of the query that `session` plans; without one, some that begin and end with the caller.
    pub(crate) fn of(session: &dyn Session) -> Arc<Self> {
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

    /// Makes a version the one that the query reads from now on: a statement that is run again begins anew.
    pub(crate) fn pin(&self, snapshot: &Arc<DeltaSnapshot>) {
        self.deltas.lock().insert(snapshot.location.key(), Arc::clone(snapshot));
    }

    /// The version of a Delta table that this query saw first, which is `found` if it is the first.
    ///
    /// For the newest version only: what `AS OF` asks for does not change.
    pub(super) fn delta(&self, found: &Arc<DeltaSnapshot>) -> Arc<DeltaSnapshot> {
        Arc::clone(self.deltas.lock().entry(found.location.key()).or_insert_with(|| Arc::clone(found)))
    }

    /// Size and time of one file; `head` is asked the first time.
    pub(super) async fn meta(
        &self,
        store: &ObjectStoreUrl,
        path: &StorePath,
        head: impl Future<Output = Result<ObjectMeta, TableError>>,
    ) -> Result<ObjectMeta, TableError> {
        let key = (store.clone(), path.clone());
        if let Some(known) = self.heads.lock().get(&key) {
            return Ok(known.clone());
        }
        let found = head.await?;
        Ok(self.heads.lock().entry(key).or_insert(found).clone())
    }
}
