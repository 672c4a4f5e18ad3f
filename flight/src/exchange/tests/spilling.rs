//! What happens when memory does not suffice.

use std::path::PathBuf;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::MemoryConsumer;

use super::*;
use crate::memory::NodeMemoryPool;

/// Bytes of one batch of [`batch`].
const BATCH: usize = 8192;
/// Memory of which exchanges may hold 8 batches, with room for 2 in flight.
const MEMORY: usize = 16 * BATCH;

pub(super) struct Worker {
    pub pool: Arc<dyn MemoryPool>,
    pub disk: Arc<DiskManager>,
    pub registry: ExchangeRegistry,
    folder: tempfile::TempDir,
}

impl Worker {
    pub fn new(memory: usize, disk_bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mode = DiskManagerMode::Directories(vec![folder.path().to_owned()]);
        let disk = DiskManagerBuilder::default().with_mode(mode).with_max_temp_directory_size(disk_bytes);
        let disk = Arc::new(disk.build().unwrap());
        let pool: Arc<dyn MemoryPool> = Arc::new(NodeMemoryPool::new(memory));
        let registry = ExchangeRegistry::with_disk(Arc::clone(&pool), Arc::clone(&disk));
        Self { pool, disk, registry, folder }
    }

    fn files(&self) -> Vec<PathBuf> {
        let folders = self.disk.temp_dir_paths();
        let entries = folders.iter().filter_map(|it| std::fs::read_dir(it).ok()).flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Waits until nothing is left of anything; a file may be read or written a moment longer than it is needed.
    pub async fn assert_idle(&self, what: &str) {
        let deadline = Instant::now() + WAIT;
        while self.pool.reserved() > 0 || self.disk.used_disk_space() > 0 || !self.files().is_empty() {
            let left = (self.pool.reserved(), self.disk.used_disk_space(), self.files());
            assert!(Instant::now() < deadline, "{what}: left over: {left:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn retained(partitions: usize, readers: usize) -> ExchangeShape {
    ExchangeShape { partitions, readers, limit_bytes: 1, retained: true }
}

async fn push(exchange: &Exchange, partition: usize, value: i64) -> Result<Pushed, WireError> {
    tokio::time::timeout(WAIT, exchange.push(partition, batch(value))).await.expect("room within the deadline")
}

async fn values(mut reader: ExchangeReader) -> Vec<i64> {
    let mut values = vec![];
    while let Some(value) = next(&mut reader).await {
        values.push(value);
    }
    values
}

#[tokio::test]
async fn retained_output_goes_to_disk_and_is_read_again_and_again() {
    let worker = Worker::new(MEMORY, 1 << 30);
    let exchange = worker.registry.create(task(1, 0), retained(1, 1)).unwrap();
    for value in 0..100 {
        assert_eq!(push(&exchange, 0, value).await, Ok(Pushed::Taken), "nobody reads, and nobody waits for them");
        assert!(worker.pool.reserved() <= MEMORY);
    }
    exchange.finish();
    assert_eq!(exchange.buffered_bytes(), 100 * BATCH);
    assert!(exchange.spilled_bytes() > (90 * BATCH) as u64, "{}", exchange.spilled_bytes());
    assert!(worker.disk.used_disk_space() >= exchange.spilled_bytes());
    let all: Vec<i64> = (0..100).collect();
    for _ in 0..3 {
        assert_eq!(values(worker.registry.open(task(1, 0), 0, WAIT).await.unwrap()).await, all);
    }
    assert_eq!(values(exchange.read_from(0, 97).unwrap()).await, [97, 98, 99]);
    assert!(exchange.is_wanted(), "one may come again");
    let mut early = exchange.read(0).unwrap();
    assert_eq!(next(&mut early).await, Some(0));
    drop((early, exchange));
    worker.registry.release(&[task(1, 0)]);
    worker.assert_idle("released").await;
}

#[tokio::test]
async fn what_piles_up_for_the_slow_goes_to_disk() {
    let worker = Worker::new(MEMORY, 1 << 30);
    let exchange = worker.registry.create(task(1, 0), shape(2, 1)).unwrap();
    let mut waiting = exchange.read(0).unwrap();
    assert!(poll!(waiting.next()).is_pending());
    for value in 0..60 {
        push(&exchange, 1, value).await.unwrap();
        assert!(worker.pool.reserved() <= MEMORY);
    }
    assert!(exchange.spilled_bytes() > (50 * BATCH) as u64);
    push(&exchange, 0, 77).await.unwrap();
    assert_eq!(next(&mut waiting).await, Some(77));
    exchange.finish();
    assert_eq!(values(exchange.read(1).unwrap()).await, (0..60).collect::<Vec<_>>());
    assert_eq!(exchange.buffered_bytes(), 0, "read is gone");
    drop((waiting, exchange));
    worker.registry.cancel(task(1, 0).query);
    worker.assert_idle("cancelled").await;
}

#[tokio::test]
async fn producers_wait_for_their_consumers_before_anything_is_spilled() {
    let worker = Worker::new(MEMORY, 1 << 30);
    let exchange = worker.registry.create(task(1, 0), ExchangeShape { limit_bytes: 1 << 30, ..shape(1, 1) }).unwrap();
    for value in 0..6 {
        push(&exchange, 0, value).await.unwrap();
    }
    let mut waiting = exchange.push(0, batch(6)).boxed();
    assert!(poll!(&mut waiting).is_pending(), "more than five eighths of the share are held");
    let mut reader = exchange.read(0).unwrap();
    assert_eq!(next(&mut reader).await, Some(0));
    assert_eq!(poll!(&mut waiting), Poll::Ready(Ok(Pushed::Taken)));
    assert_eq!(exchange.spilled_bytes(), 0);
}

#[tokio::test]
async fn an_operator_takes_what_exchanges_hold_and_their_rows_survive() {
    let worker = Worker::new(MEMORY, 1 << 30);
    let exchange = worker.registry.create(task(1, 0), retained(1, 1)).unwrap();
    for value in 0..5 {
        push(&exchange, 0, value).await.unwrap();
    }
    assert_eq!((worker.pool.reserved(), exchange.spilled_bytes()), (5 * BATCH, 0), "this fits");
    let join = MemoryConsumer::new("HashJoinInput").register(&worker.pool);
    join.try_grow(MEMORY - 3 * BATCH).unwrap();
    assert!(worker.pool.reserved() <= MEMORY);
    let deadline = Instant::now() + WAIT;
    while join.try_grow(3 * BATCH).is_err() {
        assert!(Instant::now() < deadline, "the disk takes what is left: {}", worker.pool);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((join.size(), worker.pool.reserved()), (MEMORY, MEMORY), "all memory is the operator's");
    for value in 5..20 {
        push(&exchange, 0, value).await.unwrap();
    }
    exchange.finish();
    assert_eq!(values(exchange.read(0).unwrap()).await, (0..20).collect::<Vec<_>>(), "without any memory");
    let error = MemoryConsumer::new("HashJoinInput").register(&worker.pool).try_grow(1).unwrap_err().to_string();
    assert!(error.contains("HashJoinInput 128.0 KB") && error.contains("--memory"), "{error}");
    drop((exchange, join));
    worker.registry.cancel(task(1, 0).query);
    worker.assert_idle("cancelled").await;
}

#[tokio::test]
async fn at_the_limit_what_was_read_goes_first_and_only_unread_rows_are_an_error() {
    let pool: Arc<dyn MemoryPool> = Arc::new(NodeMemoryPool::new(MEMORY));
    let registry = ExchangeRegistry::new(Arc::clone(&pool));
    let exchange = registry.create(task(1, 0), retained(1, 1)).unwrap();
    let mut reader = exchange.read(0).unwrap();
    for value in 0..8 {
        push(&exchange, 0, value).await.unwrap();
    }
    for value in 0..6 {
        assert_eq!(next(&mut reader).await, Some(value));
    }
    assert_eq!(pool.reserved(), 8 * BATCH);
    push(&exchange, 0, 8).await.unwrap();
    assert_eq!(pool.reserved(), 3 * BATCH, "what was read is given up");
    let error = exchange.read(0).unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::MemoryRefused, true));
    assert!(error.message.contains("first 6 segments of partition 0"), "{error}");
    for value in 9..14 {
        push(&exchange, 0, value).await.unwrap();
    }
    let error = push(&exchange, 0, 14).await.unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::MemoryRefused, true));
    for words in ["unread output of task", "no folder to spill to", "exchanges 64.0 KB", "--memory"] {
        assert!(error.message.contains(words), "{error}");
    }
    exchange.finish();
    assert_eq!(values(reader).await, (6..14).collect::<Vec<_>>(), "what it took, it gives");
}

#[tokio::test]
async fn a_full_disk_is_an_error_for_unread_rows() {
    let worker = Worker::new(MEMORY, 100_000);
    let exchange = worker.registry.create(task(1, 0), retained(1, 1)).unwrap();
    let mut n = 0;
    let error = loop {
        match push(&exchange, 0, n).await {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
    };
    assert!(n >= 10, "{n} batches");
    assert_eq!((error.code, error.retryable), (ErrorCode::DiskFull, true), "{error}");
    assert!(error.message.contains("--spill-limit"), "{error}");
    // Reading makes room, though all is retained: what was read is given up before anything is refused.
    let mut reader = exchange.read(0).unwrap();
    for value in 0..n {
        assert_eq!(next(&mut reader).await, Some(value));
    }
    for value in n..3 * n {
        push(&exchange, 0, value).await.unwrap();
        assert_eq!(next(&mut reader).await, Some(value));
    }
    drop((reader, exchange));
    worker.registry.cancel(task(1, 0).query);
    worker.assert_idle("cancelled").await;
}

#[tokio::test]
async fn a_folder_that_is_gone_is_named() {
    let worker = Worker::new(MEMORY, 1 << 30);
    std::fs::remove_dir_all(worker.folder.path()).unwrap();
    let exchange = worker.registry.create(task(1, 0), retained(1, 1)).unwrap();
    let mut n = 0;
    let error = loop {
        match push(&exchange, 0, n).await {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
    };
    assert!(n >= 4, "{n} batches");
    assert_eq!((error.code, error.retryable), (ErrorCode::SpillFailed, true), "{error}");
    assert!(error.message.contains(&worker.folder.path().display().to_string()), "{error}");
    drop(exchange);
    worker.registry.cancel(task(1, 0).query);
    worker.assert_idle("cancelled").await;
}

#[tokio::test]
async fn after_the_end_of_retention_producers_wait_and_what_was_read_is_gone() {
    let worker = Worker::new(1 << 30, 1 << 30);
    let limits = ExchangeShape { limit_bytes: 2 * BATCH, ..retained(1, 1) };
    let exchange = worker.registry.create(task(1, 0), limits).unwrap();
    let mut reader = exchange.read(0).unwrap();
    for value in 0..4 {
        push(&exchange, 0, value).await.unwrap();
    }
    assert_eq!((next(&mut reader).await, next(&mut reader).await), (Some(0), Some(1)));
    assert_eq!(worker.pool.reserved(), 4 * BATCH);
    worker.registry.end_retention(task(2, 0).query);
    assert_eq!(worker.pool.reserved(), 4 * BATCH, "that was another query");
    worker.registry.end_retention(task(1, 0).query);
    assert_eq!(worker.pool.reserved(), 2 * BATCH);
    let mut waiting = exchange.push(0, batch(4)).boxed();
    assert!(poll!(&mut waiting).is_pending());
    assert_eq!(next(&mut reader).await, Some(2));
    assert_eq!(poll!(&mut waiting), Poll::Ready(Ok(Pushed::Taken)));
    assert!(exchange.read(0).unwrap_err().message.contains("opened by all its readers"));
    drop((waiting, reader));
    assert_eq!(push(&exchange, 0, 5).await, Ok(Pushed::NoReaderLeft));
    worker.assert_idle("nobody reads").await;
}

#[tokio::test]
async fn a_lost_reader_does_not_stop_a_retained_producer() {
    let worker = Worker::new(1 << 30, 1 << 30);
    let exchange = worker.registry.create(task(1, 0), retained(2, 1)).unwrap();
    push(&exchange, 0, 1).await.unwrap();
    let mut lost = exchange.read(0).unwrap();
    assert_eq!(next(&mut lost).await, Some(1));
    drop((lost, exchange.read(1).unwrap()));
    assert!(exchange.abandoned().now_or_never().is_none());
    assert_eq!(push(&exchange, 0, 2).await, Ok(Pushed::Taken));
    exchange.finish();
    assert_eq!(values(exchange.read(0).unwrap()).await, [1, 2]);
    worker.registry.end_retention(task(1, 0).query);
    exchange.abandoned().now_or_never().expect("nobody is left");
}

#[tokio::test]
async fn the_coldest_go_first() {
    // Background spilling begins above 6 batches and ends at 5.
    let worker = Worker::new(MEMORY, 1 << 30);
    let exchange = worker.registry.create(task(1, 0), retained(2, 1)).unwrap();
    let mut reader = exchange.read(0).unwrap();
    for value in 0..5 {
        push(&exchange, 0, value).await.unwrap();
    }
    for value in 0..2 {
        assert_eq!(next(&mut reader).await, Some(value));
    }
    push(&exchange, 1, 10).await.unwrap();
    push(&exchange, 1, 11).await.unwrap();
    let deadline = Instant::now() + WAIT;
    while exchange.spilled_bytes() == 0 || worker.pool.reserved() > 5 * BATCH {
        assert!(Instant::now() < deadline, "nothing was spilled: {}", worker.pool);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Those that were passed, in any order; then the others that nobody reads yet; those that are read next stay.
    for _ in 0..2 {
        assert!(reader.next().now_or_never().is_some(), "in memory");
    }
    exchange.finish();
    drop(reader);
    assert_eq!(values(exchange.read(0).unwrap()).await, [0, 1, 2, 3, 4]);
    assert_eq!(values(exchange.read(1).unwrap()).await, [10, 11]);
}
