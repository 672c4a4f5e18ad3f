//! The store on disk: one `sled` tree in a folder, with a file `FORMAT` beside it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Batch, Store};
use crate::metadata::error::{MetadataError, Result};

const FORMAT_FILE: &str = "FORMAT";
/// What `FORMAT` says before the number, so that another program's folder is not taken for ours.
const FORMAT_NAME: &str = "sheafdb metadata";
/// Of the keys and values together; [`crate::metadata::frame`] has the version of a single value.
const FORMAT: u64 = 1;
const CACHE_BYTES: u64 = 32 << 20;
/// A store that stays locked for so long belongs to another process.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// A folder of metadata, open. One process at a time.
pub struct SledStore {
    dir: PathBuf,
    db: sled::Db,
    /// sled's own file. Its flush ends with `sync_file_range` on Linux, which leaves the drive's cache and the file's
    /// length to chance; `fdatasync` does not.
    file: File,
}

impl SledStore {
    /// Opens the folder, or makes it.
    ///
    /// Errs when a newer server wrote it, when it is damaged or another process has it, and leaves it as it is then.
    pub fn open(dir: &Path) -> Result<Self> {
        let failed = |action: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| MetadataError::File { action, path, source }
        };
        make_private(dir).map_err(failed("make folder", dir))?;
        let store = dir.join("store");
        check_format(dir, store.exists())?;
        let config = sled::Config::new().path(&store).cache_capacity(CACHE_BYTES).flush_every_ms(None);
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
                Err(panic) => return Err(damaged(panic_text(panic.as_ref()))),
            }
        };
        let path = store.join("db");
        let file = File::options().write(true).open(&path).map_err(failed("open", &path))?;
        Ok(Self { dir: dir.to_owned(), db, file })
    }

    fn failed(&self, action: &'static str, reason: String) -> MetadataError {
        MetadataError::Store { place: self.place(), action, reason }
    }
}

/// Makes a folder that only its owner may look into: what is kept has the verifiers of passwords and the keys of stored
/// connections.
fn make_private(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    // Not where somebody else made it and gave it to this server's group, as container platforms do: it stays as it is.
    #[cfg(unix)]
    let _ = fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700));
    Ok(())
}

/// Whether another has the store. sled tells it by its message only.
fn is_locked(error: &std::io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

/// The text of a panic.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked without a text".to_owned())
}

fn check_format(dir: &Path, has_store: bool) -> Result<()> {
    let path = dir.join(FORMAT_FILE);
    let failed = |action| {
        let path = path.clone();
        move |source| MetadataError::File { action, path, source }
    };
    let damaged = |reason: String| MetadataError::Damaged { place: path.display().to_string(), reason };
    match fs::read_to_string(&path) {
        Ok(text) => {
            let number = text.trim_end().strip_prefix(FORMAT_NAME).and_then(|rest| rest.trim().parse::<u64>().ok());
            match number {
                Some(FORMAT) => Ok(()),
                Some(found) if found > FORMAT => Err(MetadataError::NewerFormat { path, found, known: FORMAT }),
                _ => Err(damaged(format!("it says {text:?}, not \"{FORMAT_NAME} {FORMAT}\""))),
            }
        }
        // The file is written before the store is made.
        Err(error) if error.kind() == ErrorKind::NotFound && has_store => Err(damaged("it is missing".to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let write = || {
                let partial = dir.join(format!("{FORMAT_FILE}.partial"));
                let mut file = File::create(&partial)?;
                writeln!(file, "{FORMAT_NAME} {FORMAT}")?;
                file.sync_all()?;
                fs::rename(&partial, &path)?;
                // The new name is on disk only once its folder is.
                File::open(dir)?.sync_all()
            };
            write().map_err(failed("write"))
        }
        Err(error) => Err(failed("read")(error)),
    }
}

impl Store for SledStore {
    fn write(&mut self, batch: Batch) -> Result<()> {
        let mut writes = sled::Batch::default();
        for (key, value) in batch.writes {
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
        }
        self.db.apply_batch(writes).map_err(|error| self.failed("write", error.to_string()))
    }

    fn flush(&mut self) -> Result<()> {
        self.db.flush().map_err(|error| self.failed("flush", error.to_string()))?;
        self.file.sync_data().map_err(|error| self.failed("flush", error.to_string()))?;
        crate::metrics::metadata_flushed();
        Ok(())
    }

    fn scan(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let pairs = self.db.iter().map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())));
        pairs.collect::<std::result::Result<_, _>>().map_err(|error| self.failed("read", error.to_string()))
    }

    fn place(&self) -> String {
        self.dir.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &mut SledStore, key: &str, value: &str) {
        let mut batch = Batch::default();
        batch.put(key.into(), value.into());
        store.write(batch).unwrap();
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &to.join(entry.file_name())),
                false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
            }
        }
    }

    #[test]
    fn what_was_flushed_is_there_after_a_crash_and_a_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = SledStore::open(&dir.path().join("live")).unwrap();
        for round in 0..20 {
            put(&mut store, &format!("flushed {round:02}"), "x");
            store.flush().unwrap();
            put(&mut store, "open", &round.to_string());
            // What a disk has at the moment a process is killed, while the store is still open.
            let at = dir.path().join(format!("copy {round}"));
            copy(&dir.path().join("live"), &at);
            let found = SledStore::open(&at).unwrap().scan().unwrap();
            let flushed: Vec<_> = found.iter().filter(|(key, _)| key.starts_with(b"flushed")).collect();
            assert_eq!(flushed.len(), round + 1);
        }
    }

    #[test]
    fn another_format_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        put(&mut SledStore::open(dir.path()).unwrap(), "a", "b");
        let path = dir.path().join(FORMAT_FILE);
        let newer = format!("{FORMAT_NAME} {}\n", FORMAT + 1);
        fs::write(&path, &newer).unwrap();
        let error = SledStore::open(dir.path()).err().expect("a newer format");
        assert!(matches!(error, MetadataError::NewerFormat { found: 2, known: 1, .. }), "{error}");
        assert!(error.to_string().contains("run the newer server"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), newer);
        for text in ["", "other 1", "sheafdb metadata x"] {
            fs::write(&path, text).unwrap();
            let error = SledStore::open(dir.path()).err().expect("not a format");
            assert!(matches!(error, MetadataError::Damaged { .. }), "{error}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(SledStore::open(dir.path()), Err(MetadataError::Damaged { .. })));
        fs::write(&path, format!("{FORMAT_NAME} {FORMAT}\n")).unwrap();
        assert_eq!(SledStore::open(dir.path()).unwrap().scan().unwrap(), [(b"a".to_vec(), b"b".to_vec())]);
    }

    #[test]
    fn a_damaged_store_names_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        drop(SledStore::open(dir.path()).unwrap());
        // sled's own settings, not its log, whose tail it may drop by itself.
        fs::write(dir.path().join("store").join("conf"), "these are no settings").unwrap();
        let error = SledStore::open(dir.path()).err().expect("damage").to_string();
        assert!(error.contains(&*dir.path().to_string_lossy()) && error.contains("sheaf meta check"), "{error}");
    }
}
