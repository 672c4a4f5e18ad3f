//! Which version of a Delta table a statement means, and the versions that a process has read.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use deltalake_core::kernel::Action;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path as StorePath;
use parking_lot::Mutex;

use super::location::DeltaLocation;
use super::snapshot::DeltaSnapshot;
use crate::tables::TableError;

/// Tables whose newest version is kept.
const TABLES_MAX: usize = 256;
/// Files of all kept versions together.
const FILES_MAX: usize = 2_000_000;
const IN_COMMIT_TIMESTAMPS: &str = "delta.enableInCommitTimestamps";

/// `VERSION AS OF` and `TIMESTAMP AS OF`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsOf {
    Version(u64),
    /// What was current then, in milliseconds since 1970.
    Timestamp(i64),
}

impl fmt::Display for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "version {version}"),
            Self::Timestamp(ms) => match DateTime::from_timestamp_millis(*ms) {
                Some(at) => write!(f, "a version of {}", at.format("%Y-%m-%d %H:%M:%S%.3f UTC")),
                None => write!(f, "a version of {ms} ms since 1970"),
            },
        }
    }
}

/// The newest versions of tables as this process last saw them; one per process.
#[derive(Debug, Default)]
pub struct DeltaTables {
    kept: Mutex<HashMap<String, Kept>>,
}

#[derive(Debug)]
struct Kept {
    snapshot: Arc<DeltaSnapshot>,
    seen: Instant,
    used: Instant,
}

impl DeltaTables {
    /// The newest version. Of a table that was read before, only what is new in its log is read; what was seen of an
    /// object store less than `remote_ttl` ago is taken for the newest.
    ///
    /// Errs when there is no table, or none that we can read.
    pub async fn latest(
        &self,
        location: &DeltaLocation,
        remote_ttl: Duration,
    ) -> Result<Arc<DeltaSnapshot>, TableError> {
        let before = self.kept(location);
        if let Some((snapshot, seen)) = &before
            && !location.is_local()
            && seen.elapsed() < remote_ttl
        {
            return Ok(Arc::clone(snapshot));
        }
        let seen = Instant::now();
        let before = match before {
            None => None,
            Some((before, _)) => match before.compare_with_log().await? {
                Progress::None => {
                    self.keep(Arc::clone(&before), seen);
                    return Ok(before);
                }
                Progress::Commits => Some(before),
                Progress::OtherLog => None,
            },
        };
        let loaded = DeltaSnapshot::load(location, None, before.as_deref()).await;
        match loaded {
            Ok(snapshot) => {
                let snapshot = Arc::new(snapshot);
                self.keep(Arc::clone(&snapshot), seen);
                Ok(snapshot)
            }
            Err(error) => {
                self.forget(location);
                Err(error)
            }
        }
    }

    /// A version before `latest`, or that one.
    ///
    /// Errs when the log does not go back to it any more, or has not come to it yet.
    pub async fn at(&self, latest: &Arc<DeltaSnapshot>, as_of: &AsOf) -> Result<Arc<DeltaSnapshot>, TableError> {
        let location = &latest.location;
        let version = match as_of {
            AsOf::Version(version) => *version,
            AsOf::Timestamp(at_ms) => version_at(latest, *at_ms).await?,
        };
        if version == latest.version {
            return Ok(Arc::clone(latest));
        }
        if version > latest.version {
            let shown = location.shown();
            let newest = latest.version;
            return Err(TableError::invalid(format!("Delta table '{shown}' has no {as_of}: its newest is {newest}")));
        }
        let loaded = DeltaSnapshot::load(location, Some(version), Some(latest)).await;
        loaded.map(Arc::new).map_err(|error| match error {
            TableError::Unreadable { source, .. } => {
                TableError::unreadable(format!("{as_of} of Delta table {}", location.shown()), source.to_string())
            }
            other => other,
        })
    }

    /// Drops what is known of a table, so that the next look reads its log: after a commit of ours, or a DROP.
    pub fn forget(&self, location: &DeltaLocation) {
        self.kept.lock().remove(&location.key());
    }

    fn kept(&self, location: &DeltaLocation) -> Option<(Arc<DeltaSnapshot>, Instant)> {
        let mut kept = self.kept.lock();
        let found = kept.get_mut(&location.key())?;
        found.used = Instant::now();
        Some((Arc::clone(&found.snapshot), found.seen))
    }

    fn keep(&self, snapshot: Arc<DeltaSnapshot>, seen: Instant) {
        let mut kept = self.kept.lock();
        let key = snapshot.location.key();
        let used = Instant::now();
        kept.insert(key.clone(), Kept { snapshot, seen, used });
        let n_files = |kept: &HashMap<String, Kept>| kept.values().map(|it| it.snapshot.files.len()).sum::<usize>();
        while kept.len() > TABLES_MAX || (kept.len() > 1 && n_files(&kept) > FILES_MAX) {
            let oldest = kept.iter().filter(|(name, _)| **name != key).min_by_key(|(_, it)| it.used);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { return };
            kept.remove(&oldest);
        }
    }
}

/// The name of a commit's file.
fn commit_path(location: &DeltaLocation, version: u64) -> StorePath {
    location.prefix().clone().join("_delta_log").join(format!("{version:020}.json"))
}

/// What happened to a log since a version was read from it.
enum Progress {
    None,
    Commits,
    /// The commit that was read is gone or another: the table was made anew, or its log was cut.
    OtherLog,
}

impl DeltaSnapshot {
    /// Looks for a commit behind this version. Two requests, where listing a log costs as many as it has pages.
    async fn compare_with_log(&self) -> Result<Progress, TableError> {
        if self.commit.is_none() || commit_mark(&self.location, self.version).await? != self.commit {
            return Ok(Progress::OtherLog);
        }
        Ok(match commit_mark(&self.location, self.version + 1).await? {
            None => Progress::None,
            Some(_) => Progress::Commits,
        })
    }
}

/// What a commit's file is known by, apart from its name: time, size and tag.
pub(super) type CommitMark = (DateTime<Utc>, u64, Option<String>);

/// `None` when there is no such commit.
pub(super) async fn commit_mark(location: &DeltaLocation, version: u64) -> Result<Option<CommitMark>, TableError> {
    match location.store().head(&commit_path(location, version)).await {
        Ok(meta) => Ok(Some((meta.last_modified, meta.size, meta.e_tag))),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(TableError::unreadable(format!("log of Delta table {}", location.shown()), error)),
    }
}

/// The newest version that was there at a time.
async fn version_at(latest: &DeltaSnapshot, at_ms: i64) -> Result<u64, TableError> {
    let location = &latest.location;
    let unreadable = |error| TableError::unreadable(format!("log of Delta table {}", location.shown()), error);
    let log = location.prefix().clone().join("_delta_log");
    let mut commits: Vec<(u64, i64)> = location
        .store()
        .list(Some(&log))
        .try_filter_map(async |meta| {
            let version =
                meta.location.filename().and_then(|it| it.strip_suffix(".json")).and_then(|it| it.parse().ok());
            Ok(version.map(|version: u64| (version, meta.last_modified.timestamp_millis())))
        })
        .try_collect()
        .await
        .map_err(unreadable)?;
    commits.retain(|(version, _)| *version <= latest.version);
    commits.sort_unstable();
    let is_in_commit = latest.log.metadata().configuration().get(IN_COMMIT_TIMESTAMPS).is_some_and(|it| it == "true");
    let mut latest_ms = i64::MIN;
    let mut found = None;
    for (version, modified_ms) in commits {
        let of_commit = match is_in_commit {
            true => commit_timestamp(location, version).await?,
            false => None,
        };
        // Clocks go back; versions do not.
        latest_ms = of_commit.unwrap_or(modified_ms).max(latest_ms.saturating_add(1));
        if latest_ms > at_ms {
            break;
        }
        found = Some(version);
    }
    found.ok_or_else(|| {
        let (shown, as_of) = (location.shown(), AsOf::Timestamp(at_ms));
        TableError::invalid(format!("Delta table '{shown}' has no {as_of}: its log begins later"))
    })
}

/// The time that a commit gives itself.
async fn commit_timestamp(location: &DeltaLocation, version: u64) -> Result<Option<i64>, TableError> {
    let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| {
        TableError::unreadable(format!("version {version} of Delta table {}", location.shown()), error)
    };
    let read = async { location.store().get(&commit_path(location, version)).await?.bytes().await };
    let bytes = read.await.map_err(|error| unreadable(error.into()))?;
    for action in serde_json::Deserializer::from_slice(&bytes).into_iter::<Action>() {
        if let Action::CommitInfo(info) = action.map_err(|error| unreadable(error.into()))? {
            return Ok(info.in_commit_timestamp.or(info.timestamp));
        }
    }
    Ok(None)
}
