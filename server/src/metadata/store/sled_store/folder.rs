//! One folder of sled's, opened under a guard and flushed for good.

use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::Batch;
use crate::metadata::error::{MetadataError, Result};

const CACHE_BYTES: u64 = 32 << 20;
/// A store that stays locked for so long belongs to another process.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(20);

pub struct Folder {
    pub path: PathBuf,
    db: sled::Db,
    /// sled's own file. Its flush ends with `sync_file_range` on Linux, which leaves the drive's cache and the file's
    /// length to chance; `fdatasync` does not.
    file: File,
}

type Pair = (Vec<u8>, Vec<u8>);

impl Folder {
    /// Opens the folder, or makes it. `dir` is the metadata folder, which errors name.
    ///
    /// Errs when it is damaged or another process has it.
    pub fn open(path: PathBuf, dir: &Path) -> Result<Self> {
        let failed = |action: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| MetadataError::File { action, path, source }
        };
        let config = sled::Config::new().path(&path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let damaged = |reason: String| MetadataError::Damaged { place: dir.display().to_string(), reason };
        let start = Instant::now();
        let db = loop {
            // sled panics on some damage.
            match catch_unwind(AssertUnwindSafe(|| config.open())) {
                Ok(Ok(db)) => break db,
                // One that this process has just closed gives its lock back by a thread of sled's, sooner or later.
                Ok(Err(sled::Error::Io(source))) if is_locked(&source) && start.elapsed() < LOCK_TIMEOUT => {
                    std::thread::sleep(LOCK_RETRY);
                }
                Ok(Err(sled::Error::Io(source))) => return Err(failed("open metadata in", dir)(source)),
                Ok(Err(error)) => return Err(damaged(error.to_string())),
                Err(panic) => return Err(damaged(super::panic_text(panic.as_ref()))),
            }
        };
        let file_path = path.join("db");
        let file = File::options().write(true).open(&file_path).map_err(failed("open", &file_path))?;
        Ok(Self { path, db, file })
    }

    /// A batch that is there wholly or not at all after a crash.
    pub fn write(&self, batch: &Batch) -> sled::Result<()> {
        let mut writes = sled::Batch::default();
        for (key, value) in &batch.writes {
            match value {
                Some(value) => writes.insert(key.as_slice(), value.as_slice()),
                None => writes.remove(key.as_slice()),
            }
        }
        self.db.apply_batch(writes)
    }

    /// One change, which may be there without those before and after it as long as nothing was flushed.
    pub fn write_one(&self, key: &[u8], value: Option<&[u8]>) -> sled::Result<()> {
        match value {
            Some(value) => self.db.insert(key, value).map(drop),
            None => self.db.remove(key).map(drop),
        }
    }

    /// All pairs from the first key after one, in order.
    pub fn after(&self, key: Option<&[u8]>) -> impl Iterator<Item = sled::Result<Pair>> + use<> {
        let start = key.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_vec()));
        let pairs = self.db.range::<Vec<u8>, _>((start, Bound::Unbounded));
        pairs.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    pub fn flush(&self) -> io::Result<()> {
        self.db.flush().map_err(|error| io::Error::other(error.to_string()))?;
        self.file.sync_data()
    }

    /// What brings a new folder to disk with all its files and their names; to be called where one may wait.
    pub fn sync_all(&self) -> impl FnOnce() -> io::Result<()> + Send + 'static {
        let (db, path) = (self.db.clone(), self.path.clone());
        move || {
            db.flush().map_err(|error| io::Error::other(error.to_string()))?;
            sync_folder(&path)
        }
    }

    /// Size of the file.
    pub fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let path = entry.path();
        match entry.file_type()?.is_dir() {
            true => sync_folder(&path)?,
            false => match File::open(&path) {
                Ok(file) => file.sync_all()?,
                // sled removes files whose values were replaced meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
        }
    }
    File::open(path)?.sync_all()
}

/// Whether another has the store. sled tells it by its message only.
fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}
