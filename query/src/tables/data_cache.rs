//! What this node has read of remote objects, kept on its own disk: read through, by blocks, up to a size.
//!
//! [`store`] puts it in front of an object store, [`disk`] is how a block lies in the folder. A block belongs to one
//! content of one object of one store with its credentials, so that a changed object is never mixed with what it was
//! and nobody reads what somebody else may read. Nothing that goes wrong here is an error of a query: a damaged block
//! is dropped and fetched again, a disk without room is left alone for a while.

mod disk;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use object_store::ObjectStore;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

pub use disk::BlockId;
use store::CachedStore;

/// Bytes of an object that are fetched and kept together.
const BLOCK_BYTES: u64 = 1 << 20;
/// Blocks that wait to be written at once; what comes while so many wait is not kept.
const WRITES_MAX: usize = 64;
/// How long nothing is written after a write has failed.
const PAUSE: Duration = Duration::from_secs(30);

const HITS: &str = "sheaf_data_cache_hits_total";
const MISSES: &str = "sheaf_data_cache_misses_total";
const READ_BYTES: &str = "sheaf_data_cache_read_bytes_total";
const FETCHED_BYTES: &str = "sheaf_data_cache_fetched_bytes_total";
const EVICTED: &str = "sheaf_data_cache_evicted_total";
const DAMAGED: &str = "sheaf_data_cache_damaged_total";
const SKIPPED: &str = "sheaf_data_cache_skipped_total";
const USED_BYTES: &str = "sheaf_data_cache_used_bytes";

/// Gives every counter its words, and a zero to begin with.
pub(crate) fn describe() {
    describe_counter!(HITS, "blocks of remote objects that were read from the data cache");
    describe_counter!(MISSES, "blocks of remote objects that the data cache did not have");
    describe_counter!(READ_BYTES, "bytes that were read from the data cache");
    describe_counter!(FETCHED_BYTES, "bytes that were read from object stores through the data cache");
    describe_counter!(EVICTED, "blocks that made room for others in the data cache");
    describe_counter!(DAMAGED, "blocks of the data cache that were not what was written, and were fetched again");
    describe_counter!(SKIPPED, "blocks that were not kept since the disk of the data cache was behind");
    describe_gauge!(USED_BYTES, "bytes that the data cache takes on disk");
    for name in [HITS, MISSES, READ_BYTES, FETCHED_BYTES, EVICTED, DAMAGED, SKIPPED] {
        counter!(name).absolute(0);
    }
}

/// One per process, shared by all remote stores.
#[derive(Debug)]
pub struct DataCache {
    folder: PathBuf,
    bytes_max: u64,
    index: Mutex<Index>,
    writes: Arc<Semaphore>,
}

/// Which blocks there are. Never held while the disk is touched.
#[derive(Debug, Default)]
struct Index {
    /// By object, then by version and number.
    objects: HashMap<u128, BTreeMap<(u128, u32), Block>>,
    /// Invariant: each block once, by `Block::used`.
    by_use: BTreeMap<u64, BlockId>,
    /// Invariant: the sum of all blocks' bytes.
    bytes: u64,
    clock: u64,
    paused_until: Option<Instant>,
}

#[derive(Debug)]
struct Block {
    bytes: u64,
    used: u64,
    /// While it is on its way to the disk.
    pending: Option<Bytes>,
}

impl Index {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn get(&mut self, id: &BlockId) -> Option<&Block> {
        let used = self.tick();
        let block = self.objects.get_mut(&id.object)?.get_mut(&(id.version, id.index))?;
        self.by_use.remove(&block.used);
        self.by_use.insert(used, *id);
        block.used = used;
        Some(block)
    }

    fn insert(&mut self, id: BlockId, bytes: u64, pending: Option<Bytes>) {
        self.remove(&id);
        let used = self.tick();
        self.by_use.insert(used, id);
        self.bytes += bytes;
        self.objects.entry(id.object).or_default().insert((id.version, id.index), Block { bytes, used, pending });
    }

    fn remove(&mut self, id: &BlockId) -> bool {
        let Some(blocks) = self.objects.get_mut(&id.object) else { return false };
        let Some(block) = blocks.remove(&(id.version, id.index)) else { return false };
        if blocks.is_empty() {
            self.objects.remove(&id.object);
        }
        self.by_use.remove(&block.used);
        self.bytes -= block.bytes;
        true
    }

    /// Takes out what was used longest ago until no more than `bytes_max` are left.
    fn evict(&mut self, bytes_max: u64) -> Vec<BlockId> {
        let mut gone = vec![];
        while self.bytes > bytes_max {
            let Some((_, id)) = self.by_use.first_key_value().map(|(used, id)| (*used, *id)) else { break };
            self.remove(&id);
            gone.push(id);
        }
        gone
    }
}

impl DataCache {
    /// Opens a cache with what an earlier run left in the folder. Touches the disk.
    ///
    /// A folder that cannot be read is a warning: the cache begins empty, and tries to write later.
    pub fn open(folder: &Path, bytes_max: u64) -> Arc<Self> {
        let mut index = Index::default();
        let gone = match disk::scan(folder) {
            Ok(mut found) => {
                // Who was written last counts as used last.
                found.sort_unstable_by_key(|it| (it.written, it.id));
                for block in found {
                    index.insert(block.id, block.bytes, None);
                }
                index.evict(bytes_max)
            }
            Err(error) => {
                warn!(folder = %folder.display(), %error, "the data cache cannot be used: remote objects are read without it");
                vec![]
            }
        };
        gone.iter().for_each(|id| disk::remove(folder, id));
        info!(folder = %folder.display(), blocks = index.by_use.len(), bytes = index.bytes, "data cache opened");
        gauge!(USED_BYTES).set(index.bytes as f64);
        let writes = Arc::new(Semaphore::new(WRITES_MAX));
        Arc::new(Self { folder: folder.to_owned(), bytes_max, index: Mutex::new(index), writes })
    }

    /// A store whose objects are read through this cache. Stores with the same `identity` share what they have read:
    /// it has to hold everything that decides what is read, credentials included.
    pub fn wrap(self: &Arc<Self>, store: Arc<dyn ObjectStore>, identity: &[u8]) -> Arc<dyn ObjectStore> {
        Arc::new(CachedStore::new(store, Arc::clone(self), hash(&[b"store", identity])))
    }

    /// Bytes of disk that it takes.
    pub fn used_bytes(&self) -> u64 {
        self.index.lock().bytes
    }

    /// A block, if it is here and whole.
    async fn get(self: &Arc<Self>, id: BlockId) -> Option<Bytes> {
        let pending = self.index.lock().get(&id)?.pending.clone();
        let read = match pending {
            Some(data) => Ok(data),
            None => {
                let cache = Arc::clone(self);
                spawn_blocking(move || disk::read(&cache.folder, &id)).await.unwrap_or_else(|error| Err(error.into()))
            }
        };
        match read {
            Ok(data) => {
                counter!(HITS).increment(1);
                counter!(READ_BYTES).increment(data.len() as u64);
                Some(data)
            }
            Err(error) => {
                // Somebody may have emptied the folder, which is their right.
                if error.kind() != std::io::ErrorKind::NotFound {
                    warn!(block = %id.path().display(), %error, "a block of the data cache is damaged and fetched again");
                    counter!(DAMAGED).increment(1);
                }
                self.drop_blocks(vec![id]);
                None
            }
        }
    }

    /// Whether there is anything of an object, of whatever version.
    fn knows(&self, object: u128) -> bool {
        self.index.lock().objects.contains_key(&object)
    }

    /// Keeps a block: it is read from memory until it is on disk. Returns at once.
    fn put(self: &Arc<Self>, id: BlockId, data: Bytes) {
        let bytes = disk::file_bytes(&data);
        let Ok(permit) = Arc::clone(&self.writes).try_acquire_owned() else {
            counter!(SKIPPED).increment(1);
            return;
        };
        let gone = {
            let mut index = self.index.lock();
            if bytes > self.bytes_max || index.paused_until.is_some_and(|until| Instant::now() < until) {
                return;
            }
            index.insert(id, bytes, Some(data.clone()));
            index.evict(self.bytes_max)
        };
        counter!(EVICTED).increment(gone.len() as u64);
        let cache = Arc::clone(self);
        // Nobody waits for it. It ends by itself.
        spawn_blocking(move || {
            let _permit = permit;
            gone.iter().for_each(|id| disk::remove(&cache.folder, id));
            cache.written(&id, disk::write(&cache.folder, &id, &data));
        });
        gauge!(USED_BYTES).set(self.used_bytes() as f64);
    }

    /// A write has ended.
    fn written(&self, id: &BlockId, result: std::io::Result<()>) {
        let mut index = self.index.lock();
        match result {
            Ok(()) => {
                let block = index.objects.get_mut(&id.object).and_then(|it| it.get_mut(&(id.version, id.index)));
                match block {
                    Some(block) => block.pending = None,
                    // Evicted or out of date before it was on disk.
                    None => {
                        drop(index);
                        disk::remove(&self.folder, id);
                    }
                }
            }
            Err(error) => {
                index.remove(id);
                let is_first = index.paused_until.is_none_or(|until| until <= Instant::now());
                index.paused_until = Some(Instant::now() + PAUSE);
                drop(index);
                if is_first {
                    warn!(folder = %self.folder.display(), %error, "the data cache cannot be written, which is tried again later");
                }
            }
        }
    }

    /// Forgets all versions of an object but one.
    fn keep_only(self: &Arc<Self>, object: u128, version: Option<u128>) {
        let of_others: Vec<BlockId> = {
            let index = self.index.lock();
            let Some(blocks) = index.objects.get(&object) else { return };
            let others = blocks.keys().filter(|(it, _)| Some(*it) != version);
            others.map(|&(version, index)| BlockId { object, version, index }).collect()
        };
        self.drop_blocks(of_others);
    }

    fn drop_blocks(self: &Arc<Self>, ids: Vec<BlockId>) {
        if ids.is_empty() {
            return;
        }
        {
            let mut index = self.index.lock();
            for id in &ids {
                index.remove(id);
            }
            gauge!(USED_BYTES).set(index.bytes as f64);
        }
        let cache = Arc::clone(self);
        spawn_blocking(move || ids.iter().for_each(|id| disk::remove(&cache.folder, id)));
    }
}

/// A name for something that is made of parts.
fn hash(parts: &[&[u8]]) -> u128 {
    let mut hasher = Sha256::new();
    for part in parts {
        // With its length, so that no two lists of parts run together into the same bytes.
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    u128::from_le_bytes(half)
}

#[cfg(test)]
mod tests;
