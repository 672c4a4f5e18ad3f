//! The store on disk: a `sled` tree in a folder, which is rewritten into a new one before it grows far beyond what is in
//! it; [`layout`] has the files that say where it is.

mod folder;
mod layout;
mod rewrite;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Batch, Store};
use crate::metadata::error::{MetadataError, Result};
use folder::Folder;
use layout::{Layout, SwitchError, SwitchStep};
use rewrite::{Progress, Rewrite};

/// After a rewrite that failed.
const REST: Duration = Duration::from_secs(60);

/// When the store is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewriteOptions {
    /// A smaller file is left as it is.
    pub file_bytes_min: u64,
    /// A file is rewritten that is so many times as large as the keys and values in it.
    pub times_live: u64,
    /// What one call of [`Store::tend`] copies.
    pub keys_at_once: usize,
}

impl Default for RewriteOptions {
    fn default() -> Self {
        Self { file_bytes_min: 32 << 20, times_live: 5, keys_at_once: 500 }
    }
}

/// A folder of metadata, open. One process at a time.
pub struct SledStore {
    dir: PathBuf,
    layout: Layout,
    current: Folder,
    options: RewriteOptions,
    /// Of all keys and values, as far as that was counted last.
    live_bytes: Cell<u64>,
    /// Of the file right after it was rewritten.
    fresh_bytes: u64,
    rewrite: Option<Rewrite>,
    /// No rewrite is begun before, after one that failed.
    rest_until: Option<Instant>,
    /// Whether what earlier stores left behind was looked for.
    is_tidy: bool,
    /// Told of each step of a rewrite: tests see there what a process that ends would leave.
    at: Box<dyn FnMut(Step) + Send>,
}

/// Where a process may end while a store is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Begun,
    /// In between.
    Under(Progress),
    Flushed,
    Switching(SwitchStep),
}

impl SledStore {
    /// Opens the folder, or makes it.
    ///
    /// Errs when a newer server wrote it, when it is damaged or another process has it, and leaves it as it is then.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::open_with(dir, RewriteOptions::default())
    }

    /// As [`SledStore::open`], with other bounds.
    pub fn open_with(dir: &Path, options: RewriteOptions) -> Result<Self> {
        let make = |source| MetadataError::File { action: "make folder", path: dir.to_owned(), source };
        make_private(dir).map_err(make)?;
        let layout = Layout::open(dir)?;
        let current = Folder::open(layout.folder(dir), dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            layout,
            current,
            options,
            live_bytes: Cell::new(0),
            fresh_bytes: 0,
            rewrite: None,
            rest_until: None,
            is_tidy: false,
            at: Box::new(|_| {}),
        })
    }

    fn failed(&self, action: &'static str, reason: impl ToString) -> MetadataError {
        MetadataError::Store { place: self.place(), action, reason: reason.to_string() }
    }

    /// Removes the folders that an interrupted rewrite or removal left. Not while the store is opened: whoever only looks
    /// finds what there was.
    fn tidy(&mut self) {
        self.is_tidy = true;
        match self.layout.leftovers(&self.dir) {
            Ok(leftovers) if leftovers.is_empty() => {}
            Ok(leftovers) => remove(None, leftovers),
            Err(error) => tracing::warn!(%error, place = self.place(), "could not look for old metadata folders"),
        }
    }

    /// Begins a rewrite if the file has grown too large.
    fn begin_if_due(&mut self) -> Result<()> {
        let bytes = self.current.bytes().map_err(|error| self.failed("measure", error))?;
        let times = self.options.times_live * self.live_bytes.get();
        // One that is large right after it was written would else be written for ever.
        let due = self.options.file_bytes_min.max(times).max(2 * self.fresh_bytes);
        if bytes <= due || self.rest_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        let begun = self.layout.next_number(&self.dir).map_err(|error| error.to_string());
        let begun = begun.and_then(|number| Rewrite::begin(layout::folder(&self.dir, number), number, &self.dir));
        match begun {
            Ok(rewrite) => {
                self.rewrite = Some(rewrite);
                (self.at)(Step::Begun);
            }
            Err(reason) => self.give_up(&reason),
        }
        Ok(())
    }

    /// Goes on without a rewrite that did not succeed: the store is where it was.
    fn give_up(&mut self, reason: &str) {
        tracing::warn!(reason, place = self.place(), "metadata was not rewritten, it stays as large as it is for now");
        self.rest_until = Some(Instant::now() + REST);
        if let Some(rewrite) = self.rewrite.take() {
            let path = rewrite.path.clone();
            remove(rewrite.into_folder(), vec![path]);
        }
    }

    /// Makes the new folder the store.
    fn switch(&mut self, rewrite: Rewrite) -> Result<()> {
        let (path, number, live_bytes) = (rewrite.path.clone(), rewrite.number, rewrite.live_bytes);
        let Some(to) = rewrite.into_folder() else { return Err(self.failed("replace", "no folder was made")) };
        // What came since it was copied, and what the store itself has not flushed yet.
        if let Err(error) = to.flush() {
            self.give_up(&error.to_string());
            remove(Some(to), vec![path]);
            return Ok(());
        }
        (self.at)(Step::Flushed);
        let Self { layout, dir, at, .. } = self;
        match layout.switch(dir, number, |step| at(Step::Switching(step))) {
            Ok(()) => {}
            Err(SwitchError::NotBegun(error)) => {
                self.give_up(&error.to_string());
                remove(Some(to), vec![path]);
                return Ok(());
            }
            // What is written to the one folder now may be missed in the other.
            Err(SwitchError::Unknown(error)) => return Err(self.failed("replace", error)),
        }
        let old = std::mem::replace(&mut self.current, to);
        self.live_bytes.set(live_bytes);
        self.fresh_bytes = self.current.bytes().map_err(|error| self.failed("measure", error))?;
        let before = old.bytes().unwrap_or(0);
        tracing::info!(before, now = self.fresh_bytes, live = live_bytes, "metadata was rewritten");
        crate::metrics::metadata_rewritten();
        let old_path = old.path.clone();
        remove(Some(old), vec![old_path]);
        Ok(())
    }
}

/// Closes a store and removes folders, on a thread of its own: both may take long. What is not removed is found when the
/// store is opened again.
fn remove(open: Option<Folder>, paths: Vec<PathBuf>) {
    let work = move || {
        drop(open);
        for path in paths {
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(%error, ?path, "could not remove an old metadata folder");
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("sheaf-meta-tidy".to_owned()).spawn(work) {
        tracing::warn!(%error, "could not remove an old metadata folder");
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

/// The text of a panic.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked without a text".to_owned())
}

impl Store for SledStore {
    fn write(&mut self, batch: Batch) -> Result<()> {
        self.current.write(&batch).map_err(|error| self.failed("write", error))?;
        if let Some(rewrite) = &self.rewrite
            && let Err(reason) = rewrite.mirror(&batch)
        {
            self.give_up(&reason);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.current.flush().map_err(|error| self.failed("flush", error))?;
        crate::metrics::metadata_flushed();
        Ok(())
    }

    fn tend(&mut self) -> Result<()> {
        if !self.is_tidy {
            self.tidy();
        }
        let Some(rewrite) = &mut self.rewrite else { return self.begin_if_due() };
        match rewrite.go_on(&self.current, self.options.keys_at_once) {
            Ok(Progress::Ready) => {
                if let Some(rewrite) = self.rewrite.take() {
                    self.switch(rewrite)?;
                }
            }
            Ok(progress) => (self.at)(Step::Under(progress)),
            Err(reason) => self.give_up(&reason),
        }
        Ok(())
    }

    fn scan(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let pairs = self.current.after(None).collect::<std::result::Result<Vec<_>, _>>();
        let pairs = pairs.map_err(|error| self.failed("read", error))?;
        self.live_bytes.set(pairs.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum());
        Ok(pairs)
    }

    fn place(&self) -> String {
        self.dir.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use parking_lot::Mutex;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn put(store: &mut SledStore, key: &str, value: &str) {
        let mut batch = Batch::default();
        batch.put(key.into(), value.into());
        store.write(batch).unwrap();
    }

    fn copy(from: &Path, to: &Path) {
        // Old folders are removed meanwhile.
        let is_gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        fs::create_dir_all(to).unwrap();
        let entries: Vec<_> = match fs::read_dir(from) {
            Ok(entries) => entries.filter_map(std::result::Result::ok).collect(),
            Err(error) => return assert!(is_gone(&error), "{error}"),
        };
        for entry in entries {
            let to = to.join(entry.file_name());
            match entry.path().is_dir() {
                true => copy(&entry.path(), &to),
                false => {
                    fs::copy(entry.path(), to).map(drop).unwrap_or_else(|error| assert!(is_gone(&error), "{error}"))
                }
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
    fn a_newer_format_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        put(&mut SledStore::open(dir.path()).unwrap(), "a", "b");
        let path = dir.path().join("FORMAT");
        let (known, newer) = (fs::read_to_string(&path).unwrap(), "sheafdb metadata 3\n");
        fs::write(&path, newer).unwrap();
        let error = SledStore::open(dir.path()).err().expect("a newer format");
        assert!(matches!(error, MetadataError::NewerFormat { found: 3, known: 2, .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), newer);
        fs::write(&path, known).unwrap();
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

    /// Whenever the file is twice as large as after the last rewrite.
    const ALWAYS: RewriteOptions = RewriteOptions { file_bytes_min: 0, times_live: 0, keys_at_once: 4 };

    type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

    fn pairs(store: &SledStore) -> Pairs {
        store.scan().unwrap().into_iter().collect()
    }

    fn until(what: &str, mut check: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !check() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Some keys written, changed and removed.
    fn random_batch(random: &mut impl Rng) -> Batch {
        let mut batch = Batch::default();
        for _ in 0..random.random_range(1..4) {
            let key = format!("key {:02}", random.random_range(0..30)).into_bytes();
            match random.random_bool(0.2) {
                true => batch.remove(key),
                false => batch.put(key, vec![random.random(); random.random_range(0..400)]),
            }
        }
        batch
    }

    #[test]
    fn wherever_a_rewrite_is_interrupted_all_is_there() {
        const REWRITES: u64 = 3;
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("live");
        let mut random = StdRng::seed_from_u64(7);
        let mut store = SledStore::open_with(&live, ALWAYS).unwrap();
        // What a disk has at the moment a process is killed at a step, as often as it comes there.
        let (left, mut n_left) = (Arc::new(Mutex::new(vec![])), 0);
        store.at = Box::new({
            let (left, live, dir) = (Arc::clone(&left), live.clone(), dir.path().to_owned());
            move |step| {
                n_left += 1;
                let at = dir.join(format!("left {n_left}"));
                copy(&live, &at);
                left.lock().push((step, at));
            }
        });
        let (mut now, mut possible, mut steps) = (Pairs::new(), vec![Pairs::new()], BTreeSet::new());
        let deadline = Instant::now() + Duration::from_secs(120);
        while store.layout.number < REWRITES {
            assert!(Instant::now() < deadline, "not rewritten: {:?}, {steps:?}", store.layout);
            let batch = random_batch(&mut random);
            for (key, value) in &batch.writes {
                match value {
                    Some(value) => drop(now.insert(key.clone(), value.clone())),
                    None => drop(now.remove(key)),
                }
            }
            store.write(batch).unwrap();
            possible.push(now.clone());
            if random.random_bool(0.3) {
                store.flush().unwrap();
                possible = vec![now.clone()];
            }
            store.tend().unwrap();
            for (step, at) in left.lock().drain(..) {
                let found = pairs(&SledStore::open(&at).unwrap());
                assert!(possible.contains(&found), "{step:?}: {found:?}");
                steps.insert(step);
                fs::remove_dir_all(&at).unwrap();
            }
        }
        assert_eq!(pairs(&store), now);
        let switching = [
            SwitchStep::FormatPrepared,
            SwitchStep::FormatWritten,
            SwitchStep::CurrentPrepared,
            SwitchStep::CurrentWritten,
        ];
        // Others are passed too quickly at times.
        let sure = [Step::Begun, Step::Under(Progress::Copying), Step::Flushed].into_iter();
        let sure: BTreeSet<_> = sure.chain(switching.map(Step::Switching)).collect();
        assert!(steps.is_superset(&sure), "{steps:?}");
        drop(store);
        assert_eq!(pairs(&SledStore::open(&live).unwrap()), now);
    }

    #[test]
    fn what_was_overwritten_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let options = RewriteOptions { file_bytes_min: 1 << 20, times_live: 4, keys_at_once: 100 };
        let mut store = SledStore::open_with(dir.path(), options).unwrap();
        let file_bytes = |store: &SledStore| store.current.bytes().unwrap();
        let mut largest = 0;
        for round in 0..4_000 {
            put(&mut store, &format!("key {:03}", round % 100), &"x".repeat(1_000 + round % 7));
            if round % 50 == 0 {
                store.flush().unwrap();
                store.tend().unwrap();
                largest = largest.max(file_bytes(&store));
            }
        }
        until("a rewrite", || {
            store.tend().unwrap();
            store.rewrite.is_none()
        });
        assert!(store.layout.number > 0, "4 MB were written, and the file grew to {largest} bytes");
        assert_eq!(store.scan().unwrap().len(), 100);
        // Old folders go by themselves.
        until("one folder", || store.layout.leftovers(dir.path()).unwrap().is_empty());
        let number = store.layout.number;
        drop(store);
        assert_eq!(SledStore::open(dir.path()).unwrap().layout.number, number);
    }

    #[test]
    fn what_an_interrupted_rewrite_left_is_neither_read_nor_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = SledStore::open(dir.path()).unwrap();
        put(&mut store, "a", "b");
        store.flush().unwrap();
        drop(store);
        let left = dir.path().join("store-7");
        put(&mut SledStore::open(&dir.path().join("other")).unwrap(), "a", "half");
        copy(&dir.path().join("other").join("store"), &left);
        let mut store = SledStore::open(dir.path()).unwrap();
        assert_eq!(pairs(&store), Pairs::from([(b"a".to_vec(), b"b".to_vec())]));
        assert!(left.exists(), "who only looks changes nothing");
        store.tend().unwrap();
        until("it is gone", || !left.exists());
    }

    #[test]
    fn a_rewrite_that_fails_leaves_the_store_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = SledStore::open_with(dir.path(), ALWAYS).unwrap();
        // The new folder cannot be made.
        fs::write(dir.path().join("store-1"), "a file").unwrap();
        for round in 0..50 {
            put(&mut store, "a", &round.to_string());
            store.flush().unwrap();
            store.tend().unwrap();
        }
        assert!(store.rewrite.is_none() && store.rest_until.is_some());
        drop(store);
        let store = SledStore::open(dir.path()).unwrap();
        assert_eq!((store.layout.number, pairs(&store)), (0, Pairs::from([(b"a".to_vec(), b"49".to_vec())])));
    }
}
