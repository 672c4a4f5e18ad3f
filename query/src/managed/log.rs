//! A table's log: what the table is now, and the next entry of it.
//!
//! An entry is written by a put that fails when its version exists, so that of two writers one wins. The other looks at
//! what the winner did: if nothing of that matters to it, it takes the next version; else its statement fails. Each
//! entry carries a `txn` action by which its writer knows it again: after an answer that was lost, the log is read
//! before anything is written twice.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use chrono::Utc;
use datafusion::common::TableReference;
use deltalake_core::DeltaTableError;
use deltalake_core::kernel::transaction::TransactionError;
use deltalake_core::kernel::{Action, Remove};
use deltalake_core::logstore::{CommitOrBytes, LogStoreRef, StorageConfig, default_logstore};
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Map, Value, json};
use sheaf_common::QueryId;
use tokio::sync::Mutex;
use tracing::warn;
use uuid::Uuid;

use super::storage::{self, Place};
use super::turns::Turns;
use super::{ManagedError, loads};
use crate::tables::delta::{AsOf, DeltaFile, DeltaLocation, DeltaSnapshot, DeltaTable, DeltaTables};

/// Commits after which the state of the log is written down as a whole.
const CHECKPOINT_COMMITS: u64 = 20;

/// How often an entry is tried again when the storage says no and the entry is not there.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Features of tables that are written as this server does it.
const KNOWN_FEATURES: [&str; 5] = ["appendOnly", "checkConstraints", "invariants", "timestampNtz", "v2Checkpoint"];
const MAPPING: &str = "columnMapping";

/// A version of a table, as writers need it. Does not change.
#[derive(Debug)]
pub struct Snapshot {
    pub location: String,
    pub version: u64,
    /// The columns, those of folders too, in the types that they are read in.
    pub schema: SchemaRef,
    pub partition_columns: Vec<String>,
    /// Names and conditions of CHECK constraints.
    pub checks: Vec<(String, String)>,
    /// The `metaData` and `protocol` actions in force, as JSON.
    pub metadata: Value,
    pub protocol: Value,
    pub place: Place,
    /// What queries read.
    pub delta: Arc<DeltaSnapshot>,
}

impl Snapshot {
    pub fn files(&self) -> &[Arc<DeltaFile>] {
        &self.delta.files
    }

    /// Errs when the table has a feature that this server does not write.
    pub fn check_writable(&self) -> Result<(), ManagedError> {
        let features = self.protocol["writerFeatures"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut unknown: Vec<&str> = features.filter(|it| !KNOWN_FEATURES.contains(it)).collect();
        // Older writers do not list it.
        let is_mapped = self.delta.columns.0.iter().any(|it| it.physical != *it.field.name());
        if is_mapped && !unknown.contains(&MAPPING) {
            unknown.push(MAPPING);
        }
        match unknown.is_empty() {
            true => Ok(()),
            false => {
                let (location, features) = (self.location.clone(), unknown.join(", "));
                Err(ManagedError::Features { location, what: "written", features })
            }
        }
    }
}

/// Which files that others add meanwhile make a change wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reads {
    /// None: of the table, only rows of [`Change::read_files`] were looked at.
    #[default]
    Files,
    /// Those of statements that looked at the table themselves. Rows that were added blindly leave the change what it
    /// would have been had it come first.
    Rows,
    /// Any: what is added now has no place in what the table becomes.
    Everything,
}

/// What an entry is to say, apart from its version.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// As DESCRIBE HISTORY shows it: `WRITE`, `DELETE`.
    pub operation: &'static str,
    pub parameters: Map<String, Value>,
    pub metrics: Map<String, Value>,
    pub actions: Vec<Action>,
    /// The version that the statement looked at; none for one that looked at nothing.
    pub read_version: Option<u64>,
    /// Paths of files whose rows the statement read: if another takes one away, what it did with them is out of date.
    pub read_files: HashSet<String>,
    /// What of others' new files matters to it.
    pub reads: Reads,
    /// What it adds does not depend on the table's rows.
    pub is_blind: bool,
    /// The number of a list of loaded files that becomes true with it: of two such changes one is out of date.
    pub loads: Option<i64>,
    pub user: String,
    /// The statements, never none.
    pub statements: Vec<QueryId>,
}

/// The log of one table. One for each table and process.
pub struct TableLog {
    place: Place,
    location: String,
    store: LogStoreRef,
    /// The same place as scans have it.
    read_at: DeltaLocation,
    versions: Arc<DeltaTables>,
    /// The newest version that was seen. Held while the log is looked at, not while it is written.
    newest: Mutex<Newest>,
    /// How many looks at the log have begun.
    looks: AtomicU64,
    /// Whether somebody writes a checkpoint right now.
    checkpoint: Mutex<()>,
    /// Taken by statements that rewrite files, so that those of this process never lose against one another.
    pub rewriting: Turns,
}

#[derive(Debug, Default)]
struct Newest {
    snapshot: Option<Arc<Snapshot>>,
    /// The number of the look that it was seen by.
    look: u64,
}

impl fmt::Debug for TableLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableLog").field("location", &self.location).finish_non_exhaustive()
    }
}

impl TableLog {
    /// The log at a place, which need not have one yet; scans find the place at `read_at`.
    pub fn new(place: Place, read_at: DeltaLocation, versions: Arc<DeltaTables>) -> Self {
        let location = place.url.to_string();
        let below = Arc::new(PrefixStore::new(Arc::clone(&place.store), place.folder.clone()));
        let store = default_logstore(below, Arc::clone(&place.store), &place.url, &StorageConfig::default());
        let (newest, checkpoint, rewriting) = (Mutex::default(), Mutex::default(), Turns::default());
        Self { place, location, store, read_at, versions, newest, looks: AtomicU64::new(0), checkpoint, rewriting }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The newest version, as of this call.
    pub async fn latest(&self) -> Result<Arc<Snapshot>, ManagedError> {
        let begun = self.looks.load(Ordering::Acquire);
        let mut newest = self.newest.lock().await;
        // One look is for all who asked before it began.
        if let Some(known) = newest.snapshot.as_ref().filter(|_| newest.look > begun) {
            return Ok(Arc::clone(known));
        }
        let look = self.looks.fetch_add(1, Ordering::AcqRel) + 1;
        let delta = self.versions.latest(&self.read_at, Duration::ZERO).await?;
        let snapshot = match &newest.snapshot {
            Some(known) if Arc::ptr_eq(&known.delta, &delta) => Arc::clone(known),
            _ => Arc::new(self.snapshot(delta)?),
        };
        *newest = Newest { snapshot: Some(Arc::clone(&snapshot)), look };
        Ok(snapshot)
    }

    /// An older version.
    ///
    /// Errs when it is not there, or its log is gone.
    pub async fn at(&self, version: u64) -> Result<Arc<Snapshot>, ManagedError> {
        let newest = self.latest().await?;
        let delta = self.versions.at(&newest.delta, &AsOf::Version(version)).await?;
        Ok(Arc::new(self.snapshot(delta)?))
    }

    /// A version as queries read it.
    pub fn table(&self, reference: TableReference, snapshot: &Snapshot) -> DeltaTable {
        DeltaTable::new(reference, Arc::clone(&snapshot.delta), Arc::clone(&self.versions)).newest()
    }

    /// The entries' `commitInfo`, newest first, with their versions.
    pub async fn history(&self) -> Result<Vec<(u64, Map<String, Value>)>, ManagedError> {
        let mut version = self.latest().await?.version;
        let mut entries = vec![];
        loop {
            let Some(actions) = self.entry(version).await? else { break };
            let info = actions.iter().find_map(|it| it.get("commitInfo")).and_then(Value::as_object);
            entries.push((version, info.cloned().unwrap_or_default()));
            let Some(before) = version.checked_sub(1) else { break };
            version = before;
        }
        Ok(entries)
    }

    /// The actions of one entry, as JSON; none if there is no such entry.
    async fn entry(&self, version: u64) -> Result<Option<Vec<Value>>, ManagedError> {
        let bytes = self.store.read_commit_entry(version).await.map_err(|source| failed(&self.location, source))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let lines = bytes.split(|it| *it == b'\n').filter(|it| !it.trim_ascii().is_empty());
        let actions: Result<Vec<Value>, _> = lines.map(serde_json::from_slice).collect();
        let broken = |source| failed(&self.location, DeltaTableError::SerializeLogJson { json_err: source });
        actions.map(Some).map_err(broken)
    }

    fn snapshot(&self, delta: Arc<DeltaSnapshot>) -> Result<Snapshot, ManagedError> {
        let as_json = |it: serde_json::Result<Value>| {
            it.map_err(|json_err| failed(&self.location, DeltaTableError::SerializeLogJson { json_err }))
        };
        let metadata = as_json(serde_json::to_value(delta.log.metadata()))?;
        let protocol = as_json(serde_json::to_value(delta.log.protocol()))?;
        let configuration = delta.log.metadata().configuration().iter();
        let check = configuration
            .filter_map(|(key, it)| Some((key.strip_prefix("delta.constraints.")?.to_owned(), it.clone())));
        let mut checks: Vec<(String, String)> = check.collect();
        checks.sort_unstable();
        Ok(Snapshot {
            location: self.location.clone(),
            version: delta.version,
            schema: Arc::clone(&delta.schema),
            partition_columns: delta.log.metadata().partition_columns().to_vec(),
            checks,
            metadata,
            protocol,
            place: self.place.clone(),
            delta,
        })
    }

    /// Writes the next entry; returns its version.
    ///
    /// Errs with [`ManagedError::Conflict`] when another statement's change matters to this one, and with
    /// [`ManagedError::Unknown`] when the storage does not tell whether it has the entry. After any other error the
    /// entry is not there.
    pub async fn commit(&self, change: &Change) -> Result<u64, ManagedError> {
        // Nobody else has it, so that the entry is known again.
        let ticket = Uuid::new_v4();
        let mut version = match change.read_version {
            Some(read) => read + 1,
            // Close to the end at least; entries in between are passed over one by one.
            None => self.newest.lock().await.snapshot.as_ref().map_or(0, |it| it.version + 1),
        };
        let bytes = self.render(change, ticket)?;
        let (mut attempt, mut pause) = (1, FIRST_PAUSE);
        loop {
            let entry = CommitOrBytes::LogBytes(bytes.clone().into());
            let error = match self.store.write_commit_entry(version, entry, ticket).await {
                Ok(()) => break,
                Err(TransactionError::VersionAlreadyExists(_)) => None,
                Err(error) => Some(DeltaTableError::from(error)),
            };
            match (self.entry(version).await, error) {
                // It was ours: an answer got lost.
                (Ok(Some(actions)), _) if is_of(&actions, ticket) => break,
                (Ok(Some(actions)), _) => {
                    self.check_conflict(change, version, &actions)?;
                    version += 1;
                }
                (Ok(None), Some(_)) if attempt < ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                (Ok(None), Some(source)) => return Err(failed(&self.location, source)),
                // It exists and cannot be read: a listing that is behind, or cleaned up meanwhile.
                (Ok(None), None) => {
                    let what = format!("version {version} was written and removed");
                    return Err(ManagedError::Conflict { location: self.location.clone(), what });
                }
                (Err(_), Some(DeltaTableError::ObjectStore { source })) => {
                    return Err(ManagedError::Unknown { location: self.location.clone(), version, source });
                }
                (Err(error), _) => return Err(error),
            }
        }
        Ok(version)
    }

    /// The bytes of an entry, which do not depend on its version.
    fn render(&self, change: &Change, ticket: Uuid) -> Result<Vec<u8>, ManagedError> {
        let broken = |json_err| failed(&self.location, DeltaTableError::SerializeLogJson { json_err });
        let parameters = change.parameters.iter().map(|(name, value)| {
            // Texts, whatever they are: what other readers of histories expect.
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name.clone(), Value::String(text))
        });
        let metrics = change.metrics.iter().map(|(name, it)| (name.clone(), Value::String(it.to_string())));
        let removes = change.actions.iter().any(|it| matches!(it, Action::Remove(_)));
        let mut info = json!({
            "timestamp": now_ms(),
            "operation": change.operation,
            "operationParameters": parameters.collect::<Map<_, _>>(),
            "operationMetrics": metrics.collect::<Map<_, _>>(),
            "isBlindAppend": change.is_blind && !removes,
            "engineInfo": concat!("SheafDB/", env!("CARGO_PKG_VERSION")),
            "txnId": ticket.to_string(),
            "statements": change.statements.iter().map(QueryId::to_string).collect::<Vec<_>>().join(","),
        });
        if let Some(version) = change.read_version {
            info["readVersion"] = version.into();
        }
        if !change.user.is_empty() {
            info["userName"] = change.user.clone().into();
        }
        let mut lines = vec![json!({ "commitInfo": info }).to_string()];
        for action in &change.actions {
            lines.push(serde_json::to_string(action).map_err(broken)?);
        }
        lines.push(transaction(&change.statements).to_string());
        if let Some(number) = change.loads {
            let txn = json!({"appId": loads::APPLICATION, "version": number, "lastUpdated": now_ms()});
            lines.push(json!({ "txn": txn }).to_string());
        }
        Ok(lines.join("\n").into_bytes())
    }

    /// Whether what a winner did leaves `change` right.
    fn check_conflict(&self, change: &Change, version: u64, winner: &[Value]) -> Result<(), ManagedError> {
        let conflict = |what: String| Err(ManagedError::Conflict { location: self.location.clone(), what });
        let is_blind = winner.iter().any(|it| it["commitInfo"]["isBlindAppend"] == true);
        let minds_adds = match change.reads {
            Reads::Files => false,
            Reads::Rows => !is_blind,
            Reads::Everything => true,
        };
        for action in winner {
            if action.get("metaData").is_some() || action.get("protocol").is_some() {
                return conflict(format!("version {version} changed its columns or properties"));
            }
            if let Some(removed) = action.get("remove") {
                // A path in the log is escaped; ours are not.
                let removed: Option<Remove> = serde_json::from_value(removed.clone()).ok();
                if removed.is_none_or(|it| change.read_files.contains(&it.path)) {
                    return conflict(format!("version {version} rewrote or deleted rows that this one changes"));
                }
            }
            if change.loads.is_some() && action["txn"]["appId"] == loads::APPLICATION {
                return conflict(format!("version {version} loaded files"));
            }
            let adds = action.get("add").is_some_and(|it| it["dataChange"] != false);
            if adds && minds_adds {
                return conflict(format!("version {version} added rows"));
            }
        }
        Ok(())
    }

    /// Writes the state of the log down as a whole if it is time to, so that it need not be read from its beginning.
    pub async fn checkpoint_if_due(&self, version: u64) {
        if version == 0 || !version.is_multiple_of(CHECKPOINT_COMMITS) {
            return;
        }
        let Ok(_guard) = self.checkpoint.try_lock() else { return };
        let mut table = deltalake_core::DeltaTable::new(Arc::clone(&self.store));
        let written = async {
            table.load_version(version).await?;
            deltalake_core::checkpoints::create_checkpoint(&table, None).await
        };
        if let Err(error) = written.await {
            // The log says the same, only at greater length.
            warn!(location = %self.location, version, %error, "a checkpoint could not be written");
        }
    }

    /// Removes files of a statement that failed, whoever wrote them: its name is in theirs.
    pub async fn remove_files_of(&self, statement: &str) {
        use futures::TryStreamExt;
        let mark = format!("part-{statement}-");
        let mut listed = self.place.store.list(Some(&self.place.folder));
        while let Ok(Some(found)) = listed.try_next().await {
            if found.location.filename().is_some_and(|it| it.starts_with(&mark)) {
                let _ = self.place.store.delete(&found.location).await;
            }
        }
    }

    /// Removes files that were never committed.
    pub async fn remove_files(&self, paths: impl IntoIterator<Item = String>) {
        for path in paths {
            if let Ok(path) = storage::below(&self.place.folder, &path) {
                let _ = self.place.store.delete(&path).await;
            }
        }
    }

    /// Removes everything below the table's folder: for one that nobody can have seen.
    pub async fn remove_all(&self) {
        use futures::TryStreamExt;
        let mut listed = self.place.store.list(Some(&self.place.folder));
        while let Ok(Some(found)) = listed.try_next().await {
            let _ = self.place.store.delete(&found.location).await;
        }
    }

    pub fn log_store(&self) -> LogStoreRef {
        Arc::clone(&self.store)
    }

    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.place.store
    }
}

/// The `txn` action: the coordinator and the number of its statement. One name for all statements of a coordinator, since
/// the log's state keeps the last number of each name for ever.
fn transaction(statements: &[QueryId]) -> Value {
    let (coordinator, number) = statements.iter().max().map_or((0, 0), |it| (it.coordinator(), it.sequence()));
    let version = i64::try_from(number).unwrap_or(i64::MAX);
    json!({"txn": {"appId": format!("sheafdb-coordinator-{coordinator}"), "version": version, "lastUpdated": now_ms()}})
}

fn is_of(actions: &[Value], ticket: Uuid) -> bool {
    let ticket = ticket.to_string();
    actions.iter().any(|it| it["commitInfo"]["txnId"] == ticket.as_str())
}

fn failed(location: &str, source: DeltaTableError) -> ManagedError {
    ManagedError::Log { location: location.to_owned(), source: Box::new(source) }
}

pub fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
}
