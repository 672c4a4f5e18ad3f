//! Where tables are kept: from a URL to a store and a folder in it.

use std::fmt;
use std::path::Path as FsPath;
use std::sync::Arc;

use dashmap::DashMap;
use object_store::ObjectStore;
use object_store::path::Path;
use url::Url;

use super::durable_store::DurableStore;
use crate::tables::TableError;
use crate::tables::stores::{StoreDef, Stores, is_remote};

/// The stores of a process, one for each origin: the local disk, a bucket.
pub struct Storage {
    stores: DashMap<String, Arc<dyn ObjectStore>>,
    /// Those of buckets, shared with tables that lie there of themselves: under their names workers open them too.
    remote: Arc<Stores>,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("stores", &self.stores.len()).finish()
    }
}

/// A folder of a store.
#[derive(Debug, Clone)]
pub struct Place {
    pub store: Arc<dyn ObjectStore>,
    /// From the store's root.
    pub folder: Path,
    pub url: Url,
}

impl Storage {
    pub fn new(remote: Arc<Stores>) -> Self {
        Self { stores: DashMap::new(), remote }
    }

    /// The folder that a URL names. Credentials of object stores come from the environment.
    ///
    /// Errs when the text is no URL, or one that no store is known for.
    pub fn open(&self, location: &str) -> Result<Place, TableError> {
        let url = Url::parse(location)
            .map_err(|error| TableError::invalid(format!("location '{location}' is not a URL: {error}")))?;
        let origin = format!("{}://{}", url.scheme(), url.authority());
        let folder = match url.scheme() {
            "file" => Path::from_url_path(url.path()).map_err(|error| TableError::invalid(error.to_string()))?,
            _ => {
                let parsed = object_store::ObjectStoreScheme::parse(&url);
                parsed.map_err(|error| TableError::Unsupported { what: format!("location '{location}': {error}") })?.1
            }
        };
        if let Some(store) = self.stores.get(&origin) {
            return Ok(Place { store: Arc::clone(store.value()), folder, url });
        }
        let store: Arc<dyn ObjectStore> = match url.scheme() {
            "file" => Arc::new(DurableStore::default()),
            _ if is_remote(location) => self.remote.open(&StoreDef::of(location, [])?.0)?.1,
            _ => {
                let (store, _) =
                    object_store::parse_url(&url).map_err(|error| TableError::unreadable(location, error))?;
                Arc::from(store)
            }
        };
        self.stores.insert(origin, Arc::clone(&store));
        Ok(Place { store, folder, url })
    }
}

/// A path within a folder, as a log has it: already as the store spells it.
pub fn below(folder: &Path, relative: &str) -> object_store::Result<Path> {
    Ok(Path::parse(format!("{folder}/{relative}"))?)
}

/// The URL of a folder of this machine, with a slash at its end.
///
/// Errs when the path is not absolute.
pub fn folder_url(path: &FsPath) -> Result<Url, TableError> {
    Url::from_directory_path(path).map_err(|()| TableError::invalid(format!("'{}' is not absolute", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_found_by_their_url() {
        let storage = Storage::new(Arc::new(Stores::new(Arc::default(), None)));
        let url = folder_url(FsPath::new("/data/a b'c")).unwrap();
        let place = storage.open(url.as_str()).unwrap();
        assert_eq!(place.folder.to_string(), "data/a b'c");
        assert_eq!(below(&place.folder, "k=a%2Fb/1.parquet").unwrap().to_string(), "data/a b'c/k=a%2Fb/1.parquet");
        assert!(matches!(storage.open("no url"), Err(TableError::Invalid { .. })));
        assert!(matches!(storage.open("gopher://x/y"), Err(TableError::Unsupported { .. })));
        assert!(folder_url(FsPath::new("relative")).is_err());
    }
}
