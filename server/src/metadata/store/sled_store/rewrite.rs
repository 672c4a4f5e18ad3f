//! A store on its way into a new folder, bit by bit, while the old one goes on.
//!
//! sled's file grows with what was overwritten and removed, and opening a store takes as long as the file is large. So
//! what is alive is copied now and then in the order of the keys. What changes at or before the last copied key is
//! changed in both; the rest is yet to be copied. The old folder is the store until the new one is on disk as a whole and
//! [`super::layout::Layout::switch`] says so: whatever happens before that, the new folder is thrown away.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::super::Batch;
use super::folder::Folder;
use super::panic_text;

/// Bytes that are copied at once, unless the first value has more.
const BYTES_AT_ONCE: usize = 256 << 10;

pub struct Rewrite {
    pub path: PathBuf,
    pub number: u64,
    /// Of the keys and values that were copied.
    pub live_bytes: u64,
    /// The new folder, once it is open.
    to: Option<Folder>,
    copied: Copied,
    /// Threads of their own make the folder and wait for the disk to have it: both take some flushes.
    opening: Option<JoinHandle<Result<Folder, String>>>,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

enum Copied {
    Nothing,
    /// Up to and with this key.
    UpTo(Vec<u8>),
    All,
}

/// How far a rewrite has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    Opening,
    Copying,
    /// The disk is waited for.
    Syncing,
    /// The new folder may become the store, after a flush of what came meanwhile.
    Ready,
}

impl Rewrite {
    /// Begins with a new folder; `dir` is the metadata folder.
    pub fn begin(path: PathBuf, number: u64, dir: &Path) -> Result<Self, String> {
        let open = {
            let (path, dir) = (path.clone(), dir.to_owned());
            move || Folder::open(path, &dir).map_err(|error| crate::error::chain(&error))
        };
        let opening = Some(spawn(open)?);
        Ok(Self { path, number, live_bytes: 0, to: None, copied: Copied::Nothing, opening, syncing: None })
    }

    /// Makes a change of the store in the new folder too, where that has a copy.
    pub fn mirror(&self, batch: &Batch) -> Result<(), String> {
        let Some(to) = &self.to else { return Ok(()) };
        let is_copied = |key: &[u8]| match &self.copied {
            Copied::Nothing => false,
            Copied::UpTo(last) => key <= last.as_slice(),
            Copied::All => true,
        };
        // One by one: nobody reads the new folder before it is flushed as a whole, and sled writes batches at once.
        let mut writes = batch.writes.iter().filter(|(key, _)| is_copied(key));
        guarded(|| writes.try_for_each(|(key, value)| to.write_one(key, value.as_deref())))
    }

    /// Goes on by at most so many keys. Takes no longer than that, and waits for no disk.
    pub fn go_on(&mut self, from: &Folder, n_keys: usize) -> Result<Progress, String> {
        let Some(to) = &self.to else {
            self.to = finished(&mut self.opening)?.transpose()?;
            return Ok(Progress::Opening);
        };
        if !matches!(self.copied, Copied::All) {
            if copy(from, to, &mut self.copied, &mut self.live_bytes, n_keys)? {
                self.syncing = Some(spawn(to.sync_all())?);
            }
            return Ok(Progress::Copying);
        }
        match finished(&mut self.syncing)? {
            Some(Ok(())) => Ok(Progress::Ready),
            Some(Err(error)) => Err(error.to_string()),
            None => Ok(Progress::Syncing),
        }
    }

    /// The new folder, which need not have all.
    pub fn into_folder(self) -> Option<Folder> {
        self.to
    }
}

/// Copies the next keys; whether those were the last.
fn copy(from: &Folder, to: &Folder, copied: &mut Copied, live_bytes: &mut u64, n_keys: usize) -> Result<bool, String> {
    guarded(|| {
        let last = if let Copied::UpTo(last) = &*copied { Some(last.as_slice()) } else { None };
        let (pairs, mut n_copied, mut n_bytes) = (from.after(last), 0, 0);
        for pair in pairs.take(n_keys) {
            let (key, value) = pair?;
            to.write_one(&key, Some(&value))?;
            n_bytes += key.len() + value.len();
            n_copied += 1;
            *copied = Copied::UpTo(key);
            if n_bytes >= BYTES_AT_ONCE {
                break;
            }
        }
        *live_bytes += n_bytes as u64;
        let is_all = n_copied < n_keys && n_bytes < BYTES_AT_ONCE;
        if is_all {
            *copied = Copied::All;
        }
        Ok(is_all)
    })
}

fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, String> {
    let thread = std::thread::Builder::new().name("sheaf-meta-copy".to_owned()).spawn(work);
    thread.map_err(|error| format!("the system gives no thread: {error}"))
}

/// What a thread came to, once it has.
fn finished<T>(thread: &mut Option<JoinHandle<T>>) -> Result<Option<T>, String> {
    match thread.take_if(|it| it.is_finished()) {
        Some(thread) => thread.join().map(Some).map_err(|panic| panic_text(panic.as_ref())),
        None => Ok(None),
    }
}

/// sled panics on some damage; that of a new folder must not end the store.
fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(panic) => Err(panic_text(panic.as_ref())),
    }
}
