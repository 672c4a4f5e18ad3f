//! Tables that were dropped, until their files go.
//!
//! A table's folder gets a file that says when it was dropped, and what it was. `UNDROP TABLE` reads it; once the
//! retention is over, the files are removed by `VACUUM DROP TABLE` and by whatever is dropped next.

use std::collections::HashSet;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use super::log::now_ms;
use super::storage::{Place, below};
use super::{ManagedError, ManagedTables};
use crate::catalog::{TableDef, TableSource};

const FILE: &str = "_sheaf_dropped.json";

/// Hours for which a dropped table can be brought back.
pub const RETAIN_HOURS: u64 = 168;

/// A table that was dropped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dropped {
    pub database: String,
    pub dropped_ms: i64,
    /// Its files are being removed, and some may be gone.
    #[serde(default)]
    pub is_going: bool,
    pub table: TableDef,
}

impl Dropped {
    pub fn location(&self) -> &str {
        match &self.table.source {
            TableSource::Managed(def) => &def.location,
            TableSource::Files(_) => "",
        }
    }

    pub fn is_older_than(&self, hours: u64) -> bool {
        let age_ms = u64::try_from(now_ms().saturating_sub(self.dropped_ms)).unwrap_or(0);
        age_ms >= hours.saturating_mul(3_600_000)
    }
}

impl ManagedTables {
    /// Says in a table's folder that it is about to be dropped; a table that is there all the same is not one.
    pub async fn mark_dropped(&self, database: &str, table: &TableDef) -> Result<(), ManagedError> {
        let (database, table) = (database.to_owned(), table.clone());
        self.write_mark(&Dropped { database, dropped_ms: now_ms(), is_going: false, table }).await
    }

    async fn write_mark(&self, dropped: &Dropped) -> Result<(), ManagedError> {
        let place = self.storage().open(dropped.location())?;
        let bytes = serde_json::to_vec(dropped).map_err(|error| ManagedError::Invalid(error.to_string()))?;
        let written = place.store.put(&mark_path(&place)?, PutPayload::from(bytes)).await;
        written.map(|_| ()).map_err(|source| storage_failed(&place, source))
    }

    /// Takes back what [`Self::mark_dropped`] said.
    pub async fn unmark_dropped(&self, location: &str) -> Result<(), ManagedError> {
        let place = self.storage().open(location)?;
        match place.store.delete(&mark_path(&place)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(storage_failed(&place, source)),
        }
    }

    /// The tables that were dropped, of one database or of all, last dropped first; `live` are the locations of those
    /// that are there.
    pub async fn dropped(&self, database: Option<&str>, live: &HashSet<String>) -> Result<Vec<Dropped>, ManagedError> {
        let root = self.storage().open(self.root().as_str())?;
        let failed = |source| storage_failed(&root, source);
        let databases = match database {
            Some(database) => vec![root.folder.clone().join(super::plain(database))],
            None => root.store.list_with_delimiter(Some(&root.folder)).await.map_err(failed)?.common_prefixes,
        };
        let mut found = vec![];
        for folder in databases {
            for table in root.store.list_with_delimiter(Some(&folder)).await.map_err(failed)?.common_prefixes {
                let bytes = match root.store.get(&table.join(FILE)).await {
                    Ok(file) => file.bytes().await.map_err(failed)?,
                    Err(object_store::Error::NotFound { .. }) => continue,
                    Err(error) => return Err(failed(error)),
                };
                // One that was cut short by a crash was never acknowledged.
                let Ok(dropped) = serde_json::from_slice::<Dropped>(&bytes) else { continue };
                let is_asked = database.is_none_or(|it| it == dropped.database);
                if is_asked && !live.contains(dropped.location()) {
                    found.push(dropped);
                }
            }
        }
        found.sort_by_key(|it| std::cmp::Reverse(it.dropped_ms));
        Ok(found)
    }

    /// Removes the files of a dropped table; how many there were.
    pub async fn remove_dropped(&self, dropped: &Dropped) -> Result<u64, ManagedError> {
        let place = self.storage().open(dropped.location())?;
        // From here on nobody brings it back.
        self.write_mark(&Dropped { is_going: true, ..dropped.clone() }).await?;
        let mark = mark_path(&place)?;
        let mut listed = place.store.list(Some(&place.folder));
        let mut n_files = 0;
        while let Some(file) = listed.try_next().await.map_err(|source| storage_failed(&place, source))? {
            if file.location == mark {
                continue;
            }
            match place.store.delete(&file.location).await {
                Ok(()) => n_files += 1,
                Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(storage_failed(&place, source)),
            }
        }
        // Last, so that a removal that was cut short is taken up again.
        self.unmark_dropped(dropped.location()).await?;
        if let Ok(folder) = place.url.to_file_path() {
            let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
        }
        self.forget(dropped.location());
        Ok(n_files)
    }
}

fn mark_path(place: &Place) -> Result<Path, ManagedError> {
    below(&place.folder, FILE).map_err(|source| storage_failed(place, source))
}

fn storage_failed(place: &Place, source: object_store::Error) -> ManagedError {
    ManagedError::Storage { location: place.url.to_string(), source }
}
