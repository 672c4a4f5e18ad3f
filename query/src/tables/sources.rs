//! What the tables of a process are read from: this machine's disk within its roots, and object stores.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use datafusion::catalog::Session;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::ObjectStore;
use object_store::path::Path as StorePath;
use serde::{Deserialize, Serialize};
use url::Url;

use super::TableError;
use super::delta::{DeltaLocation, DeltaTables};
use super::files::{self, FileKind, FoundFile};
use super::remote::{RemoteListings, RemoteStore};
use super::roots::Roots;
use super::stores::{self, StoreDef, StoreKind, Stores, is_remote};
use crate::system::SessionSettings;

/// Options of a store as a table keeps them: by their names with prefix, `s3.endpoint`. Holds secrets.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreOptions(pub BTreeMap<String, String>);

impl StoreOptions {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The kind of store that all of them are for.
    ///
    /// Errs when there is none, or an option that it does not have.
    pub fn kind(&self) -> Result<StoreKind, TableError> {
        stores::kind_of_options(&self.0)
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// One per process, shared by its sessions.
#[derive(Debug)]
pub struct Sources {
    pub roots: Arc<Roots>,
    pub stores: Arc<Stores>,
    pub deltas: Arc<DeltaTables>,
    listings: RemoteListings,
}

/// The store that all files of a table lie in.
#[derive(Debug, Clone)]
pub struct Store {
    pub url: ObjectStoreUrl,
    pub store: Arc<dyn ObjectStore>,
    remote: Option<RemoteStore>,
}

impl Sources {
    pub fn new(roots: Arc<Roots>, stores: Arc<Stores>) -> Self {
        Self { roots, stores, deltas: Arc::new(DeltaTables::default()), listings: RemoteListings::default() }
    }

    /// The store of a table's locations. No request is made.
    ///
    /// Errs when they lie in more than one, or when an option makes no sense.
    pub fn store(
        &self,
        session: &dyn Session,
        locations: &[String],
        options: &StoreOptions,
    ) -> Result<Store, TableError> {
        let first = locations.first().map_or("", String::as_str);
        if !is_remote(first) {
            if let Some(name) = options.0.keys().next() {
                return Err(TableError::invalid(format!("option '{name}' is not for local files")));
            }
            if let Some(other) = locations.iter().find(|it| is_remote(it)) {
                return Err(TableError::invalid(format!("locations '{first}' and '{other}' are in different stores")));
            }
            let url = ObjectStoreUrl::local_filesystem();
            let store = session.runtime_env().object_store(&url);
            let store = store.map_err(|error| TableError::unreadable(first, error))?;
            return Ok(Store { url, store, remote: None });
        }
        let (def, _) = StoreDef::of(first, &options.0)?;
        for other in &locations[1..] {
            if !is_remote(other) || StoreDef::of(other, &options.0)?.0 != def {
                return Err(TableError::invalid(format!("locations '{first}' and '{other}' are in different stores")));
            }
        }
        let (url, store) = self.stores.open(&def)?;
        let remote = RemoteStore { url: url.clone(), store: Arc::clone(&store), address: def.address.as_str().into() };
        Ok(Store { url, store, remote: Some(remote) })
    }

    /// The files of one location, in order. Files on disk are looked for each time, those of a store after
    /// `listing_ttl_ms`.
    pub async fn list(
        &self,
        session: &dyn Session,
        store: &Store,
        location: &str,
        kind: Option<FileKind>,
    ) -> Result<Arc<Vec<FoundFile>>, TableError> {
        match &store.remote {
            Some(remote) => {
                let path = location.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |it| it.1);
                self.listings.files(remote, path, kind, listing_ttl(session)).await
            }
            None => {
                let (roots, text) = (Arc::clone(&self.roots), location.to_owned());
                let list = move || files::list(&roots, &roots.resolve(&text)?, kind);
                blocking(location, list).await.map(Arc::new)
            }
        }
    }

    /// A location as the catalog keeps it, which means the same from anywhere.
    pub async fn settled(&self, store: &Store, location: &str) -> Result<String, TableError> {
        if store.remote.is_some() {
            return Ok(location.to_owned());
        }
        let (roots, text) = (Arc::clone(&self.roots), location.to_owned());
        blocking(location, move || Ok(roots.resolve(&text)?.text())).await
    }

    /// The folder of a Delta table that a statement or the catalog names.
    ///
    /// Errs when it is not within the roots or not a folder.
    pub async fn delta(
        &self,
        session: &dyn Session,
        location: &str,
        options: &StoreOptions,
    ) -> Result<DeltaLocation, TableError> {
        let store = self.store(session, &[location.to_owned()], options)?;
        if store.remote.is_some() {
            let root = Url::parse(location)
                .map_err(|error| TableError::invalid(format!("location '{location}' is not an address: {error}")))?;
            return DeltaLocation::remote(root, store.url, store.store);
        }
        let (roots, text) = (Arc::clone(&self.roots), location.to_owned());
        let found = blocking(location, move || roots.resolve(&text)).await?;
        if !found.is_folder || found.pattern.is_some() {
            return Err(TableError::invalid(format!("location '{location}' of a Delta table has to be a folder")));
        }
        Ok(DeltaLocation::local(store.store, &found.path)?.within(Arc::clone(&self.roots)))
    }
}

/// How long what was seen in an object store is taken for what is there.
pub(super) fn listing_ttl(session: &dyn Session) -> Duration {
    let settings = session.config().get_extension::<SessionSettings>().unwrap_or_default();
    Duration::from_millis(settings.0.listing_ttl_ms)
}

/// Runs work that touches the disk off the runtime. `path` is what an error shows.
pub(super) async fn blocking<T: Send + 'static>(
    path: &str,
    work: impl FnOnce() -> Result<T, TableError> + Send + 'static,
) -> Result<T, TableError> {
    SpawnedTask::spawn_blocking(work).await.map_err(|error| TableError::unreadable(path, error))?
}

/// A path on disk as the local store has it.
pub(super) fn local_path(path: &std::path::Path) -> Result<StorePath, TableError> {
    StorePath::from_absolute_path(path).map_err(|error| TableError::unreadable(path.display().to_string(), error))
}

#[cfg(test)]
pub(crate) mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    pub(crate) fn sources(session: &SessionContext, roots: &Roots) -> Arc<Sources> {
        Arc::new(Sources::new(Arc::new(roots.clone()), Arc::new(Stores::new(session.runtime_env(), None))))
    }
}
