//! Where a Delta table lies, and how its log is reached.

use std::path::Path;
use std::sync::Arc;

use datafusion::execution::object_store::ObjectStoreUrl;
use deltalake_core::logstore::{LogStoreRef, StorageConfig, default_logstore};
use object_store::ObjectStore;
use object_store::path::Path as StorePath;
use object_store::prefix::PrefixStore;
use url::Url;

use crate::tables::{Roots, TableError};

/// A folder in a store.
#[derive(Debug, Clone)]
pub struct DeltaLocation {
    /// Invariant: ends with a slash.
    root: Url,
    store_url: ObjectStoreUrl,
    store: Arc<dyn ObjectStore>,
    prefix: StorePath,
    is_local: bool,
    /// What links in the folder may lead to; `None` for a folder that only this server writes.
    roots: Option<Arc<Roots>>,
}

impl DeltaLocation {
    /// A folder on this machine's disk; `store` is the one for local files. The path has to be canonical.
    pub fn local(store: Arc<dyn ObjectStore>, path: &Path) -> Result<Self, TableError> {
        let shown = path.display().to_string();
        let root = Url::from_directory_path(path)
            .map_err(|()| TableError::invalid(format!("location '{shown}' is not an absolute path")))?;
        let prefix = StorePath::from_absolute_path(path).map_err(|error| TableError::unreadable(shown, error))?;
        Ok(Self { root, store_url: ObjectStoreUrl::local_filesystem(), store, prefix, is_local: true, roots: None })
    }

    /// A folder in a store; `store_url` is what `store` is registered under. `root` has the table's whole path.
    pub fn remote(root: Url, store_url: ObjectStoreUrl, store: Arc<dyn ObjectStore>) -> Result<Self, TableError> {
        let mut root = root;
        if !root.path().ends_with('/') {
            root.set_path(&format!("{}/", root.path()));
        }
        let prefix = StorePath::from_url_path(root.path())
            .map_err(|error| TableError::invalid(format!("location '{root}' is not a path: {error}")))?;
        Ok(Self { root, store_url, store, prefix, is_local: false, roots: None })
    }

    /// The same location, whose links must not lead out of `roots`.
    pub fn within(self, roots: Arc<Roots>) -> Self {
        Self { roots: Some(roots), ..self }
    }

    pub(super) fn roots(&self) -> Option<&Arc<Roots>> {
        self.roots.as_ref()
    }

    /// As error messages show it.
    pub fn shown(&self) -> String {
        match self.root.to_file_path() {
            Ok(path) if self.is_local => path.display().to_string().trim_end_matches('/').to_owned(),
            _ => self.root.as_str().trim_end_matches('/').to_owned(),
        }
    }

    pub fn root(&self) -> &Url {
        &self.root
    }

    /// What no other location has: the same folder with other credentials is another.
    pub(crate) fn key(&self) -> String {
        format!("{} {}", self.store_url.as_str(), self.root)
    }

    pub fn store_url(&self) -> &ObjectStoreUrl {
        &self.store_url
    }

    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// A path within the table as the store has it.
    pub fn path(&self, below: &StorePath) -> StorePath {
        self.prefix.parts().chain(below.parts()).collect()
    }

    /// The table's folder in its store.
    pub fn prefix(&self) -> &StorePath {
        &self.prefix
    }

    /// What reads, and commits to, the table's log.
    pub fn log_store(&self) -> LogStoreRef {
        let below = Arc::new(PrefixStore::new(Arc::clone(&self.store), self.prefix.clone()));
        default_logstore(below, Arc::clone(&self.store), &self.root, &StorageConfig::default())
    }

    /// The same location over another store, such as one that makes writes durable.
    pub fn with_store(&self, store: Arc<dyn ObjectStore>) -> Self {
        Self { store, ..self.clone() }
    }
}
