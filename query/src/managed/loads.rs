//! Which files COPY INTO has loaded into a table.
//!
//! A list beside the log, `_sheaf_loads/<number>.json`, that is written before the commit which makes it true. The
//! commit says its number in a `txn` action of its own name: so the list and the rows become true together, and two
//! statements that load at the same time find out about one another. Other engines pass over both.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ManagedError;
use super::log::{TableLog, now_ms};
use super::storage::below;

/// The name of the `txn` actions.
pub const APPLICATION: &str = "sheafdb-loads";
const FOLDER: &str = "_sheaf_loads";
/// Bits of a list's number that tell those of one millisecond apart.
const RANDOM_BITS: u32 = 20;

/// What was loaded, by file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Loads {
    pub files: BTreeMap<String, Load>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Load {
    pub rows: u64,
    pub at_ms: i64,
}

impl TableLog {
    /// What has been loaded as of now.
    pub async fn loads(&self) -> Result<Loads, ManagedError> {
        let mut table = deltalake_core::DeltaTable::new(self.log_store());
        let number = async {
            table.load().await?;
            table.snapshot()?.transaction_version(self.log_store().as_ref(), APPLICATION).await
        };
        let number = number.await.map_err(|source| self.failed(source))?;
        let Some(number) = number else { return Ok(Loads::default()) };
        let path = self.loads_path(number)?;
        let read = async { self.store().get(&path).await?.bytes().await };
        let bytes = read.await.map_err(|source| self.storage_failed(source))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ManagedError::Invalid(format!("the list of loaded files '{path}' is damaged: {error}")))
    }

    /// Writes a list that the next commit is to make true; its number.
    pub async fn write_loads(&self, loads: &Loads) -> Result<i64, ManagedError> {
        // Later ones are greater, as the format wants it.
        let random = (Uuid::new_v4().as_u128() & ((1 << RANDOM_BITS) - 1)) as i64;
        let number = (now_ms() << RANDOM_BITS) | random;
        let bytes = serde_json::to_vec(loads).map_err(|error| ManagedError::Invalid(error.to_string()))?;
        let written = self.store().put(&self.loads_path(number)?, PutPayload::from(bytes)).await;
        written.map_err(|source| self.storage_failed(source))?;
        Ok(number)
    }

    /// Removes all lists before a number, which is that of the newest.
    pub async fn forget_loads_before(&self, number: i64) {
        let Ok(folder) = below(&self.place().folder, FOLDER) else { return };
        let mut listed = self.store().list(Some(&folder));
        while let Ok(Some(found)) = listed.try_next().await {
            let of = found.location.filename().and_then(|it| it.strip_suffix(".json")?.parse::<i64>().ok());
            if of.is_some_and(|it| it < number) {
                let _ = self.store().delete(&found.location).await;
            }
        }
    }

    fn loads_path(&self, number: i64) -> Result<Path, ManagedError> {
        below(&self.place().folder, &format!("{FOLDER}/{number}.json")).map_err(|source| self.storage_failed(source))
    }

    fn storage_failed(&self, source: object_store::Error) -> ManagedError {
        ManagedError::Storage { location: self.place().url.to_string(), source }
    }

    fn failed(&self, source: deltalake_core::DeltaTableError) -> ManagedError {
        ManagedError::Log { location: self.place().url.to_string(), source: Box::new(source) }
    }
}
