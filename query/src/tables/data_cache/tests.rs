//! The cache in front of a store that counts what it is asked, against the bytes of the objects themselves.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Semaphore as Gate;

use super::*;

const MIB: u64 = BLOCK_BYTES;

/// A store in memory that counts requests for bytes and for heads, and lets them through one by one.
#[derive(Debug)]
struct Counted {
    store: InMemory,
    gets: AtomicUsize,
    heads: AtomicUsize,
    gate: Gate,
    is_down: AtomicBool,
    without_ranges: AtomicBool,
    makes_up_tags: AtomicBool,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

fn down() -> Error {
    Error::Generic { store: "test", source: "the store does not answer".into() }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, path: &StorePath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.store.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &StorePath, it: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(path, it).await
    }

    async fn get_opts(&self, path: &StorePath, options: GetOptions) -> Result<GetResult> {
        let count = if options.head { &self.heads } else { &self.gets };
        count.fetch_add(1, Ordering::SeqCst);
        let _through = self.gate.acquire().await.unwrap();
        if self.is_down.load(Ordering::SeqCst)
            || (self.without_ranges.load(Ordering::SeqCst) && options.range.is_some())
        {
            return Err(down());
        }
        let mut answer = self.store.get_opts(path, options).await?;
        if self.makes_up_tags.load(Ordering::SeqCst) {
            answer.meta.e_tag = Some(format!("{:?} {:?}", self.gets, self.heads));
        }
        Ok(answer)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<StorePath>>) -> BoxStream<'static, Result<StorePath>> {
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&StorePath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&StorePath>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &StorePath, to: &StorePath, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

/// A remote store with one object, and a cache of so many bytes.
struct Case {
    remote: Arc<Counted>,
    folder: tempfile::TempDir,
    cache: Arc<DataCache>,
    store: Arc<dyn ObjectStore>,
    path: StorePath,
    data: Bytes,
}

fn bytes(seed: u64, len: u64) -> Bytes {
    let mut data = vec![0; len as usize];
    StdRng::seed_from_u64(seed).fill(&mut data[..]);
    data.into()
}

impl Case {
    async fn new(len: u64, bytes_max: u64) -> Self {
        let remote = Arc::new(Counted {
            store: InMemory::new(),
            gets: AtomicUsize::new(0),
            heads: AtomicUsize::new(0),
            gate: Gate::new(1000),
            is_down: AtomicBool::new(false),
            without_ranges: AtomicBool::new(false),
            makes_up_tags: AtomicBool::new(false),
        });
        let (path, data) = (StorePath::from("t/part-1.parquet"), bytes(len, len));
        remote.put(&path, data.clone().into()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let cache = DataCache::open(folder.path(), bytes_max);
        let store = cache.wrap(Arc::clone(&remote) as _, b"who");
        Self { remote, folder, cache, store, path, data }
    }

    /// As after a restart of the process.
    async fn reopen(&mut self, bytes_max: u64) {
        self.settle().await;
        self.cache = DataCache::open(self.folder.path(), bytes_max);
        self.store = self.cache.wrap(Arc::clone(&self.remote) as _, b"who");
    }

    /// Until all that is kept is on disk.
    async fn settle(&self) {
        drop(self.cache.writes.acquire_many(WRITES_MAX as u32).await.unwrap());
    }

    async fn check(&self, range: Range<u64>) {
        let found = self.store.get_range(&self.path, range.clone()).await.unwrap();
        assert!(found == self.data.slice(range.start as usize..range.end as usize), "{range:?}");
    }

    /// Requests for bytes and for heads since this was asked last.
    fn requests(&self) -> (usize, usize) {
        (self.remote.gets.swap(0, Ordering::SeqCst), self.remote.heads.swap(0, Ordering::SeqCst))
    }

    fn files(&self) -> Vec<disk::Found> {
        disk::scan(self.folder.path()).unwrap()
    }
}

#[tokio::test]
async fn what_was_read_is_not_read_again_and_survives_a_restart() {
    let mut case = Case::new(5 * MIB + 17, 100 * MIB).await;
    case.check(10..MIB + 5).await;
    assert_eq!(case.requests(), (1, 0), "one run of two blocks, and no head before it");
    case.check(0..2 * MIB).await;
    assert_eq!(case.requests(), (0, 0));
    case.check(MIB..5 * MIB + 17).await;
    assert_eq!(case.requests(), (2, 0), "in parts");
    case.reopen(100 * MIB).await;
    case.check(0..5 * MIB + 17).await;
    assert_eq!(case.requests(), (0, 1), "whether the object is what it was");
    assert_eq!(case.store.get(&case.path).await.unwrap().bytes().await.unwrap(), case.data);
    assert_eq!(case.requests(), (0, 0));
}

#[tokio::test]
async fn each_range_is_the_objects_own() {
    let case = Case::new(3 * MIB + 100, 2 * MIB).await;
    let (len, mut random) = (case.data.len() as u64, StdRng::seed_from_u64(1));
    for turn in 0..200 {
        let start = random.random_range(0..len);
        let end = random.random_range(start..=len);
        let range = |n: u64| {
            let from = (start + n).min(len - 1);
            from..(end + n).clamp(from + 1, len)
        };
        let ranges: Vec<Range<u64>> = (0..4).map(range).collect();
        let found = case.store.get_ranges(&case.path, &ranges).await.unwrap();
        for (found, range) in found.iter().zip(&ranges) {
            assert!(*found == case.data.slice(range.start as usize..range.end as usize), "{turn}: {range:?}");
        }
        for wanted in [
            GetRange::Offset(start),
            GetRange::Suffix(len - start),
            GetRange::Bounded(start..end + 1),
            GetRange::Bounded(start..len + MIB),
        ] {
            let options = || GetOptions { range: Some(wanted.clone()), ..GetOptions::default() };
            let ours = case.store.get_opts(&case.path, options()).await.unwrap();
            let theirs = case.remote.store.get_opts(&case.path, options()).await.unwrap();
            assert_eq!((&ours.range, &ours.meta), (&theirs.range, &theirs.meta), "{wanted:?}");
            assert!(ours.bytes().await.unwrap() == theirs.bytes().await.unwrap(), "{wanted:?}");
        }
    }
    // What makes no sense is answered as the store answers it.
    for range in [GetRange::Offset(len), GetRange::Bounded(5..5), GetRange::Bounded(len + MIB..len + 2 * MIB)] {
        let options = GetOptions { range: Some(range.clone()), ..GetOptions::default() };
        assert!(case.store.get_opts(&case.path, options).await.is_err(), "{range:?}");
    }
    let beyond = [0..10, 0..len + 1];
    let theirs = case.remote.store.get_ranges(&case.path, &beyond).await;
    assert_eq!(case.store.get_ranges(&case.path, &beyond).await.ok(), theirs.ok());
    assert!(case.store.get_ranges(&case.path, &[]).await.unwrap().is_empty());
    case.remote.put(&StorePath::from("empty"), Bytes::new().into()).await.unwrap();
    assert!(case.store.get(&StorePath::from("empty")).await.unwrap().bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_changed_object_is_never_mixed_with_what_it_was() {
    let mut case = Case::new(4 * MIB, 100 * MIB).await;
    case.check(0..MIB).await;
    let new = bytes(99, 4 * MIB + 1);
    case.remote.put(&case.path, new.clone().into()).await.unwrap();
    // Half is there of what it was, and the other half is of what it is.
    let error = case.store.get_range(&case.path, 0..2 * MIB).await.unwrap_err();
    let wire = sheaf_planners::error::wire_of(&error);
    assert_eq!(wire.message, "file changed while the query ran: '/t/part-1.parquet'");
    case.data = new;
    case.check(0..2 * MIB).await;
    case.settle().await;
    assert_eq!(case.files().len(), 2, "what it was is gone");
    // A listing and a head tell it as well.
    for turn in 0..2 {
        case.data = bytes(100 + turn, 4 * MIB + 2 + turn);
        case.remote.put(&case.path, case.data.clone().into()).await.unwrap();
        match turn {
            0 => assert_eq!(case.store.list(None).count().await, 1),
            _ => assert_eq!(case.store.head(&case.path).await.unwrap().size, 4 * MIB + 3),
        }
        case.check(0..4 * MIB).await;
    }
    // It changed while no process was there to see it.
    case.settle().await;
    case.data = bytes(200, 4 * MIB + 5);
    case.remote.put(&case.path, case.data.clone().into()).await.unwrap();
    case.reopen(100 * MIB).await;
    case.check(0..4 * MIB).await;
    // And through us.
    case.data = bytes(300, 4 * MIB + 6);
    case.store.put(&case.path, case.data.clone().into()).await.unwrap();
    case.check(0..4 * MIB).await;
    case.store.delete(&case.path).await.unwrap();
    assert!(matches!(case.store.get_range(&case.path, 0..5).await, Err(Error::NotFound { .. })));
    case.settle().await;
    assert!(case.cache.used_bytes() == 0, "{}", case.cache.used_bytes());
}

#[tokio::test]
async fn what_was_used_longest_ago_makes_room() {
    let mut case = Case::new(8 * MIB, 3 * MIB + 1000).await;
    for block in [0, 1, 2, 0, 3] {
        case.check(block * MIB..block * MIB + 1).await;
        case.settle().await;
    }
    assert_eq!(case.requests().0, 4);
    let kept: Vec<u32> = {
        let mut files = case.files();
        files.sort_unstable_by_key(|it| it.id);
        files.iter().map(|it| it.id.index).collect()
    };
    assert_eq!(kept, [0, 2, 3], "1 was used before the others");
    assert_eq!(case.cache.used_bytes(), case.files().iter().map(|it| it.bytes).sum::<u64>());
    // A smaller cache keeps what was written last.
    case.reopen(MIB + 1000).await;
    assert_eq!(case.files().len(), 1);
    case.check(0..8 * MIB).await;
    case.settle().await;
    assert!(case.cache.used_bytes() <= MIB + 1000);
    // What is larger than the whole cache is not kept.
    case.reopen(1000).await;
    case.check(0..8 * MIB).await;
    case.settle().await;
    assert_eq!((case.cache.used_bytes(), case.files().len()), (0, 0));
}

#[tokio::test]
async fn a_damaged_block_is_fetched_again() {
    let case = Case::new(2 * MIB, 100 * MIB).await;
    case.check(0..2 * MIB).await;
    case.settle().await;
    let path = case.folder.path().join(case.files()[0].id.path());
    for damage in 0..3 {
        let mut file = std::fs::read(&path).unwrap();
        match damage {
            0 => file[5000] ^= 1,
            1 => file.truncate(5000),
            _ => file.clear(),
        }
        std::fs::write(&path, file).unwrap();
        case.requests();
        case.check(0..2 * MIB).await;
        assert_eq!(case.requests(), (1, 0));
        case.settle().await;
        case.check(0..2 * MIB).await;
        assert_eq!(case.requests(), (0, 0), "it is whole again");
    }
}

#[tokio::test]
async fn without_a_folder_everything_is_read_all_the_same() {
    let mut case = Case::new(2 * MIB, 100 * MIB).await;
    let blocked = case.folder.path().join("file");
    std::fs::write(&blocked, "a file where the folder should be").unwrap();
    case.cache = DataCache::open(&blocked.join("cache"), 100 * MIB);
    case.store = case.cache.wrap(Arc::clone(&case.remote) as _, b"who");
    for _ in 0..3 {
        case.check(0..2 * MIB).await;
        case.settle().await;
    }
    assert_eq!((case.cache.used_bytes(), case.requests().0), (0, 3));
    // One that somebody empties while it is in use.
    let mut case = Case::new(2 * MIB, 100 * MIB).await;
    case.folder = tempfile::tempdir().unwrap();
    let folder = case.folder.path().join("cache");
    case.cache = DataCache::open(&folder, 100 * MIB);
    case.store = case.cache.wrap(Arc::clone(&case.remote) as _, b"who");
    for _ in 0..3 {
        case.check(0..2 * MIB).await;
        case.settle().await;
        std::fs::remove_dir_all(&folder).unwrap();
    }
    assert_eq!(case.requests().0, 3);
    case.check(0..2 * MIB).await;
    case.settle().await;
    case.check(0..2 * MIB).await;
    assert_eq!(case.requests().0, 1, "the folder is made again");
}

#[tokio::test]
async fn a_block_that_many_want_is_fetched_once() {
    let case = Case::new(4 * MIB, 100 * MIB).await;
    let closed = case.remote.gate.forget_permits(1000);
    let reads = join_all((0..20).map(|n| case.check(n..4 * MIB - n)));
    let open = async {
        // All are waiting when the first answer comes.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        case.remote.gate.add_permits(closed);
    };
    tokio::join!(reads, open);
    assert_eq!(case.requests(), (1, 0));
    // Who goes away leaves no one waiting.
    let case = Case::new(4 * MIB, 100 * MIB).await;
    let closed = case.remote.gate.forget_permits(1000);
    let gone = tokio::time::timeout(Duration::from_millis(10), case.check(0..MIB)).await;
    assert!(gone.is_err());
    case.remote.gate.add_permits(closed);
    case.check(0..MIB).await;
}

#[tokio::test]
async fn errors_are_the_stores_own_and_pass_with_it() {
    let case = Case::new(2 * MIB, 100 * MIB).await;
    let none = case.store.get_range(&StorePath::from("none"), 0..1).await;
    assert!(matches!(none, Err(Error::NotFound { .. })), "{none:?}");
    case.check(0..MIB).await;
    case.remote.is_down.store(true, Ordering::SeqCst);
    let results = join_all((0..3).map(|_| case.store.get_range(&case.path, MIB..2 * MIB))).await;
    for result in results {
        let wire = sheaf_planners::error::wire_of(&result.unwrap_err());
        assert!(wire.retryable && wire.message.contains("does not answer"), "{wire:?}");
    }
    // What is here needs no store.
    case.check(0..MIB).await;
    case.remote.is_down.store(false, Ordering::SeqCst);
    case.check(0..2 * MIB).await;
}

#[tokio::test]
async fn a_server_without_ranges_is_read_as_before() {
    let case = Case::new(2 * MIB, 100 * MIB).await;
    case.remote.without_ranges.store(true, Ordering::SeqCst);
    for n_gets in [2, 1] {
        assert_eq!(case.store.get(&case.path).await.unwrap().bytes().await.unwrap(), case.data);
        assert_eq!(case.requests().0, n_gets, "it is tried once");
    }
}

#[tokio::test]
async fn logs_are_not_kept_and_nobody_reads_with_anothers_rights() {
    let case = Case::new(MIB, 100 * MIB).await;
    let log = StorePath::from("t/_delta_log/_last_checkpoint");
    for version in ["1", "2"] {
        case.remote.put(&log, version.into()).await.unwrap();
        assert_eq!(case.store.get(&log).await.unwrap().bytes().await.unwrap(), version);
        assert_eq!(case.store.get_range(&log, 0..1).await.unwrap(), version);
        assert_eq!(case.store.get_ranges(&log, std::slice::from_ref(&(0..1))).await.unwrap(), [version]);
    }
    case.check(0..MIB).await;
    case.requests();
    let other = case.cache.wrap(Arc::clone(&case.remote) as _, b"somebody else");
    assert_eq!(other.get_range(&case.path, 0..MIB).await.unwrap(), case.data);
    assert_eq!(case.requests().0, 1);
}

#[tokio::test]
async fn a_server_that_makes_up_tags_is_read_as_before() {
    let case = Case::new(12 * MIB, 100 * MIB).await;
    case.remote.makes_up_tags.store(true, Ordering::SeqCst);
    case.store.head(&case.path).await.unwrap();
    for _ in 0..3 {
        case.check(0..12 * MIB).await;
        assert_eq!(case.store.get(&case.path).await.unwrap().bytes().await.unwrap(), case.data);
        case.settle().await;
        assert!(case.files().is_empty());
    }
    // A part from the cache and a part of what may be another: nobody knows whether they belong together.
    let mut case = Case::new(4 * MIB, 100 * MIB).await;
    case.check(0..MIB).await;
    case.data = bytes(1, 4 * MIB);
    case.remote.put(&case.path, case.data.clone().into()).await.unwrap();
    let error = case.store.get_range(&case.path, 0..2 * MIB).await.unwrap_err();
    assert!(error.to_string().contains("file changed"), "{error}");
    case.check(0..2 * MIB).await;
}
