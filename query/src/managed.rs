//! Managed tables: Delta Lake tables of our own, written by tasks and committed by the coordinator.
//!
//! [`storage`] finds the folder, [`durable_store`] makes writes on a local disk last. A task writes files by
//! [`writer`], whose statistics come from [`stats`]; [`log`] commits to a table's log; [`group`] puts small inserts of
//! many clients into one file and one commit; [`turns`] says who may rewrite files now. [`types`] says what a column is kept as. They are read as any other Delta
//! table is: by [`crate::tables::delta`].

pub mod definition;
pub mod dropped;
pub mod durable_store;
pub mod file_writer;
pub mod group;
pub mod loads;
pub mod log;
pub mod stats;
pub mod storage;
pub mod turns;
pub mod types;
pub mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;

use dashmap::DashMap;
use datafusion::execution::memory_pool::MemoryPool;
use sheaf_common::{Classify, ErrorCode};
use url::Url;
use uuid::Uuid;

use crate::tables::TableError;
use crate::tables::delta::{DeltaLocation, DeltaTables};
use crate::tables::stores::{StoreDef, Stores};
use group::GroupWriter;
use log::TableLog;
use storage::{Place, Storage};

/// The managed tables of a process, as far as statements have met them.
#[derive(Debug)]
pub struct ManagedTables {
    /// The folder of all tables, with a slash at its end.
    root: Url,
    storage: Arc<Storage>,
    /// What scans open.
    stores: Arc<Stores>,
    versions: Arc<DeltaTables>,
    pool: Arc<dyn MemoryPool>,
    /// By location.
    tables: DashMap<String, (Arc<TableLog>, Arc<GroupWriter>)>,
}

impl ManagedTables {
    /// New tables get folders below `root`; they are written through `storage` and read through `stores`. Writers ask
    /// `pool` for memory.
    pub fn new(root: Url, storage: Arc<Storage>, stores: Arc<Stores>, pool: Arc<dyn MemoryPool>) -> Self {
        Self { root, storage, stores, versions: Arc::default(), pool, tables: DashMap::new() }
    }

    pub fn stores(&self) -> &Arc<Stores> {
        &self.stores
    }

    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// A folder for a new table: one that no table has had, so that a name that is used again starts empty. People who
    /// look into it find the names; they are not read back.
    pub fn new_location(&self, database: &str, table: &str) -> String {
        let id = Uuid::new_v4().simple().to_string();
        format!("{}{}/{}-{}/", self.root, plain(database), plain(table), &id[..12])
    }

    pub fn root(&self) -> &Url {
        &self.root
    }

    /// The log of the table at a location.
    pub fn log(&self, location: &str) -> Result<Arc<TableLog>, ManagedError> {
        self.table(location).map(|(log, _)| log)
    }

    /// What groups the small inserts of the table at a location.
    pub fn group(&self, location: &str) -> Result<Arc<GroupWriter>, ManagedError> {
        self.table(location).map(|(_, group)| group)
    }

    fn table(&self, location: &str) -> Result<(Arc<TableLog>, Arc<GroupWriter>), ManagedError> {
        if let Some(known) = self.tables.get(location) {
            return Ok(known.value().clone());
        }
        let place = self.storage.open(location)?;
        let read_at = self.delta_location(&place)?;
        let log = Arc::new(TableLog::new(place, read_at, Arc::clone(&self.versions)));
        let group = GroupWriter::new(Arc::clone(&log), Arc::clone(&self.pool));
        // Whoever was first is right: two logs of one table would not know of one another.
        Ok(self.tables.entry(location.to_owned()).or_insert((log, group)).value().clone())
    }

    /// Where scans find what is written to a place.
    fn delta_location(&self, place: &Place) -> Result<DeltaLocation, TableError> {
        let store = Arc::clone(&place.store);
        match place.url.to_file_path() {
            Ok(path) if place.url.scheme() == "file" => DeltaLocation::local(store, &path),
            _ => {
                let none = BTreeMap::new();
                let (url, _) = self.stores.open(&StoreDef::of(place.url.as_str(), &none)?.0)?;
                let mut root = place.url.clone();
                // The store's own path: without what some addresses have before it.
                root.set_path(place.folder.as_ref());
                DeltaLocation::remote(root, url, store)
            }
        }
    }

    /// Forgets a table that was dropped.
    pub fn forget(&self, location: &str) {
        self.tables.remove(location);
    }
}

/// A name as part of a folder's.
fn plain(name: &str) -> String {
    name.chars().map(|it| if it.is_ascii_alphanumeric() || it == '_' { it } else { '_' }).collect()
}

/// Why a managed table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ManagedError {
    /// Another statement changed the table in a way that this one did not see. Running it again may succeed.
    #[error("table at '{location}' was changed by another statement meanwhile: {what}; run the statement again")]
    Conflict { location: String, what: String },
    /// Delta Lake has it, this server does not write it.
    #[error("table at '{location}' cannot be {what}: it uses {features}")]
    Features { location: String, what: &'static str, features: String },
    /// The log could not be read or written, or what it says makes no sense.
    #[error("could not access the log of the table at '{location}'")]
    Log { location: String, source: Box<deltalake_core::DeltaTableError> },
    /// The storage did not answer, and looking for the entry failed as well.
    #[error(
        "it is not known whether the change of the table at '{location}' took effect as version {version}: \
         DESCRIBE HISTORY shows it once the storage answers again"
    )]
    Unknown { location: String, version: u64, source: object_store::Error },
    /// Data files.
    #[error("could not write to the table at '{location}'")]
    Storage { location: String, source: object_store::Error },
    #[error(transparent)]
    Table(#[from] TableError),
    /// What a statement asks of a table makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl Classify for ManagedError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Conflict { .. } => ErrorCode::WriteConflict,
            Self::Features { .. } => ErrorCode::Unsupported,
            Self::Log { source, .. } if is_disk_full(source.as_ref()) => ErrorCode::DiskFull,
            Self::Storage { source, .. } if is_disk_full(source) => ErrorCode::DiskFull,
            Self::Log { .. } | Self::Storage { .. } | Self::Unknown { .. } => ErrorCode::FileUnreadable,
            Self::Table(error) => error.code(),
            Self::Invalid(_) => ErrorCode::InvalidArgument,
        }
    }

    /// A statement is never run again below the client: whether it is safe to is known above.
    fn is_retryable(&self) -> bool {
        false
    }
}

/// Whether an error comes from a disk without room.
pub(crate) fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<std::io::Error>().is_some_and(|it| it.kind() == std::io::ErrorKind::StorageFull) {
            return true;
        }
        next = error.source();
    }
    false
}
