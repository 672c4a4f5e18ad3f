//! Which files a location in an object store holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::execution::object_store::ObjectStoreUrl;
use futures::TryStreamExt;
use glob::Pattern;
use object_store::path::Path as StorePath;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;

use super::TableError;
use super::files::{FileKind, FoundFile, MATCH, partitions};
use super::roots::PATTERN;

/// Files of one location; more than these are a mistake in the location, or need a table format.
const FILES_MAX: usize = 1_000_000;
/// Locations whose files a process remembers, and files of all of them together.
const LISTINGS_MAX: usize = 1000;
const LISTED_MAX: usize = 2_000_000;

/// A store as a table reads it.
#[derive(Debug, Clone)]
pub struct RemoteStore {
    pub url: ObjectStoreUrl,
    pub store: Arc<dyn ObjectStore>,
    /// As messages show it: `s3://bucket`.
    pub address: Arc<str>,
}

impl RemoteStore {
    fn shown(&self, path: &StorePath) -> String {
        format!("{}/{path}", self.address)
    }

    fn failed(&self, path: &StorePath, error: Error) -> TableError {
        match error {
            Error::NotFound { .. } => TableError::FileNotFound { path: self.shown(path) },
            error => TableError::unreadable(self.shown(path), error),
        }
    }

    fn found(&self, meta: object_store::ObjectMeta, folders: &[String]) -> FoundFile {
        let partitions = partitions(folders.iter().map(String::as_str));
        let path = meta.location.clone();
        FoundFile { origin: Arc::clone(&self.address), path, partitions, meta: Some(meta) }
    }

    /// All files of a location, sorted by path; names that start with `.` or `_` are no data.
    ///
    /// As in a folder on disk: the files directly in it and those below folders named `key=value`; of those, only files
    /// of `kind` count, or all if `None`. Errs when there is nothing of the name.
    pub async fn list(&self, path: &str, kind: Option<FileKind>) -> Result<Vec<FoundFile>, TableError> {
        let segments: Vec<&str> = path.split('/').filter(|it| !it.is_empty()).collect();
        let n_literal = segments.iter().take_while(|it| !it.contains(PATTERN)).count();
        let top = segments[..n_literal].join("/");
        let top = StorePath::parse(&top).unwrap_or_else(|_| StorePath::from(top));
        let pattern = match segments[n_literal..].join("/").as_str() {
            "" => None,
            text => Some(
                Pattern::new(text)
                    .map_err(|error| TableError::invalid(format!("pattern '{text}' is malformed: {error}")))?,
            ),
        };
        let is_http = self.address.starts_with("http");
        if is_http && pattern.is_some() {
            return Err(TableError::Unsupported {
                what: format!("a pattern at {}, which lists no files,", self.address),
            });
        }
        if pattern.is_none() && (is_http || (!path.ends_with('/') && !segments.is_empty())) {
            match self.store.head(&top).await {
                Ok(meta) => return Ok(vec![self.found(meta, &[])]),
                Err(Error::NotFound { .. }) if !is_http => {}
                Err(error) => return Err(self.failed(&top, error)),
            }
        }
        self.list_below(&top, pattern.as_ref(), kind).await
    }

    async fn list_below(
        &self,
        top: &StorePath,
        pattern: Option<&Pattern>,
        kind: Option<FileKind>,
    ) -> Result<Vec<FoundFile>, TableError> {
        let mut objects = self.store.list(Some(top).filter(|it| !it.as_ref().is_empty()));
        let (mut found, mut is_empty) = (vec![], true);
        while let Some(meta) = objects.try_next().await.map_err(|error| self.failed(top, error))? {
            is_empty = false;
            let Some(parts) = meta.location.prefix_match(top) else { continue };
            let mut folders: Vec<String> = parts.map(|it| it.as_ref().to_owned()).collect();
            let Some(name) = folders.pop() else { continue };
            if folders.iter().chain([&name]).any(|it| it.starts_with(['.', '_'])) {
                continue;
            }
            let wanted = match pattern {
                Some(pattern) => {
                    let below = folders.iter().chain([&name]).map(String::as_str).collect::<Vec<_>>().join("/");
                    pattern.matches_with(&below, MATCH)
                }
                None => {
                    folders.iter().all(|it| it.contains('='))
                        && kind.is_none_or(|kind| FileKind::of_path(&name) == Some(kind))
                }
            };
            if wanted {
                found.push(self.found(meta, &folders));
            }
            if found.len() > FILES_MAX {
                let text = format!("location {} holds more than {FILES_MAX} files", self.shown(top));
                return Err(TableError::invalid(text));
            }
        }
        if is_empty && pattern.is_none() {
            return Err(TableError::FileNotFound { path: self.shown(top) });
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}

/// What a process has listed lately; one per process.
#[derive(Debug, Default)]
pub struct RemoteListings(Mutex<HashMap<ListedAt, Listed>>);

/// When, and what was there.
type Listed = (Instant, Arc<Vec<FoundFile>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ListedAt {
    store: ObjectStoreUrl,
    path: String,
    kind: Option<FileKind>,
}

impl RemoteListings {
    /// The files of a location, as they were at most `ttl` ago.
    pub async fn files(
        &self,
        store: &RemoteStore,
        path: &str,
        kind: Option<FileKind>,
        ttl: Duration,
    ) -> Result<Arc<Vec<FoundFile>>, TableError> {
        let key = ListedAt { store: store.url.clone(), path: path.to_owned(), kind };
        if let Some((at, files)) = self.0.lock().get(&key)
            && at.elapsed() < ttl
        {
            return Ok(Arc::clone(files));
        }
        let at = Instant::now();
        let files = Arc::new(store.list(path, kind).await?);
        self.keep(key, (at, Arc::clone(&files)), LISTED_MAX);
        Ok(files)
    }

    /// Remembers a listing; the oldest ones go when there are too many, or they are too long.
    fn keep(&self, key: ListedAt, listed: Listed, files_max: usize) {
        let mut kept = self.0.lock();
        kept.insert(key, listed);
        let n_files = |kept: &HashMap<ListedAt, Listed>| kept.values().map(|(_, files)| files.len()).sum::<usize>();
        while kept.len() > LISTINGS_MAX || n_files(&kept) > files_max {
            let oldest = kept.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { return };
            kept.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    async fn store(names: &[&str]) -> RemoteStore {
        let store = Arc::new(InMemory::new());
        for name in names {
            store.put(&StorePath::parse(name).unwrap(), "x".into()).await.unwrap();
        }
        let url = ObjectStoreUrl::parse("s3://b").unwrap();
        RemoteStore { url, store, address: Arc::from("s3://b") }
    }

    async fn names(store: &RemoteStore, path: &str, kind: Option<FileKind>) -> Vec<String> {
        store.list(path, kind).await.unwrap().iter().map(|file| file.path.to_string()).collect()
    }

    #[tokio::test]
    async fn folders_and_patterns_hold_their_files() {
        let files =
            ["t/a.csv", "t/b.csv.gz", "t/c.json", "t/.hidden.csv", "t/_tmp/e.csv", "t/d=1/x.csv", "t/deep/y.csv"];
        let store = store(&files).await;
        assert_eq!(names(&store, "t", Some(FileKind::Csv)).await, ["t/a.csv", "t/b.csv.gz", "t/d=1/x.csv"]);
        assert_eq!(names(&store, "t/", Some(FileKind::Csv)).await, ["t/a.csv", "t/b.csv.gz", "t/d=1/x.csv"]);
        assert_eq!(names(&store, "t/*.csv", None).await, ["t/a.csv"]);
        assert_eq!(names(&store, "t/*/?.csv", None).await, ["t/d=1/x.csv", "t/deep/y.csv"]);
        assert_eq!(names(&store, "**/*.json", None).await, ["t/c.json"]);
        assert_eq!(names(&store, "t/c.json", None).await, ["t/c.json"]);
        let error = store.list("none", None).await.unwrap_err();
        assert!(matches!(&error, TableError::FileNotFound { path } if path == "s3://b/none"), "{error}");
        assert!(store.list("t/[", None).await.is_err());
    }

    #[tokio::test]
    async fn partitions_are_read_from_folders() {
        let store = store(&["t/y=2024/m=a%2Fb/a.parquet"]).await;
        let files = store.list("t", Some(FileKind::Parquet)).await.unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(files[0].partitions, [pair("y", "2024"), pair("m", "a/b")]);
    }

    #[tokio::test]
    async fn listings_age() {
        let store = store(&["t/a.csv"]).await;
        let listings = RemoteListings::default();
        let count = async |ttl| listings.files(&store, "t", None, ttl).await.unwrap().len();
        let long = Duration::from_secs(1000);
        assert_eq!(count(long).await, 1);
        store.store.put(&StorePath::from("t/b.csv"), "x".into()).await.unwrap();
        assert_eq!((count(long).await, count(Duration::ZERO).await, count(long).await), (1, 2, 2));
    }

    #[tokio::test]
    async fn old_listings_make_room() {
        let store = store(&["t/a.csv", "t/b.csv", "u/a.csv"]).await;
        let listings = RemoteListings::default();
        let key = |path: &str| ListedAt { store: store.url.clone(), path: path.to_owned(), kind: None };
        for path in ["u", "t"] {
            let files = Arc::new(store.list(path, None).await.unwrap());
            listings.keep(key(path), (Instant::now(), files), 2);
        }
        let kept: Vec<String> = listings.0.lock().keys().map(|it| it.path.clone()).collect();
        assert_eq!(kept, ["t"]);
        for n in 0..=LISTINGS_MAX {
            listings.keep(key(&n.to_string()), (Instant::now(), Arc::default()), 2);
        }
        assert_eq!(listings.0.lock().len(), LISTINGS_MAX);
        assert!(!listings.0.lock().contains_key(&key("t")));
    }
}
