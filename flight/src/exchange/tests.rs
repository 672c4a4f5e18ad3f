//! The rules of an exchange, one at a time.

use std::task::Poll;

use arrow::array::Int64Array;
use arrow::record_batch::RecordBatch;
use datafusion::execution::memory_pool::{GreedyMemoryPool, UnboundedMemoryPool};
use futures::{FutureExt, StreamExt, poll};
use sheaf_common::StageId;

use super::*;

const WAIT: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(20);

fn task(sequence: u64, task: u32) -> TaskId {
    TaskId { query: QueryId::new(0, sequence), stage: StageId(1), task, attempt: 0 }
}

/// 1024 rows of 8 bytes.
fn batch(value: i64) -> RecordBatch {
    RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![value; 1024])) as _)]).unwrap()
}

fn value(segment: &Segment) -> i64 {
    segment.batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().value(0)
}

fn registry() -> (Arc<dyn MemoryPool>, ExchangeRegistry) {
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    (Arc::clone(&pool), ExchangeRegistry::new(pool))
}

fn shape(partitions: usize, readers: usize) -> ExchangeShape {
    ExchangeShape { partitions, readers, limit_bytes: 2 * 8192, retained: false }
}

async fn next(reader: &mut ExchangeReader) -> Option<i64> {
    let segment = tokio::time::timeout(WAIT, reader.next()).await.expect("a segment or the end within the deadline");
    segment.map(|segment| value(&segment.unwrap()))
}

async fn error(reader: &mut ExchangeReader) -> WireError {
    let item = tokio::time::timeout(WAIT, reader.next()).await.expect("an error within the deadline");
    item.expect("an error, not the end").expect_err("an error, not rows")
}

#[tokio::test]
async fn rows_come_in_order_and_then_the_end() {
    let (pool, registry) = registry();
    let exchange = registry.create(task(1, 0), shape(2, 1)).unwrap();
    exchange.push(0, batch(1)).await.unwrap();
    exchange.push(1, batch(2)).await.unwrap();
    let mut reader = registry.open(task(1, 0), 0, WAIT).await.unwrap();
    assert_eq!(next(&mut reader).await, Some(1));
    assert!(poll!(reader.next()).is_pending());
    exchange.push(0, batch(3)).await.unwrap();
    exchange.finish();
    assert_eq!(next(&mut reader).await, Some(3));
    assert_eq!(next(&mut reader).await, None);
    assert_eq!(next(&mut reader).await, None, "the end stays the end");
    assert_eq!(pool.reserved(), 8192, "the other partition is still to be read");
    assert_eq!(exchange.pushed(), (3072, 3 * 8192));
    assert_eq!(exchange.buffered_bytes_max(), 2 * 8192);
}

#[tokio::test]
async fn a_producer_over_the_limit_waits_until_something_is_read() {
    let (_, registry) = registry();
    let exchange = registry.create(task(1, 0), shape(2, 1)).unwrap();
    exchange.push(0, batch(1)).await.unwrap();
    exchange.push(1, batch(2)).await.unwrap();
    let mut push = exchange.push(0, batch(3)).boxed();
    assert!(poll!(&mut push).is_pending(), "two batches are the limit");
    let mut reader = exchange.read(0).unwrap();
    assert!(poll!(&mut push).is_pending(), "a reader that has something to read does not wait for the producer");
    assert_eq!(next(&mut reader).await, Some(1));
    assert_eq!(poll!(&mut push), Poll::Ready(Ok(Pushed::Taken)));
}

#[tokio::test]
async fn a_producer_goes_on_over_the_limit_while_a_reader_waits() {
    let (_, registry) = registry();
    let exchange = registry.create(task(1, 0), shape(2, 1)).unwrap();
    exchange.push(0, batch(1)).await.unwrap();
    exchange.push(0, batch(2)).await.unwrap();
    let mut push = exchange.push(0, batch(3)).boxed();
    assert!(poll!(&mut push).is_pending());
    // The reader of the other partition has nothing, and asks.
    let mut reader = exchange.read(1).unwrap();
    assert!(poll!(reader.next()).is_pending());
    assert_eq!(poll!(&mut push), Poll::Ready(Ok(Pushed::Taken)));
    for i in 4..9 {
        exchange.push(0, batch(i)).now_or_never().expect("no wait while a reader waits").unwrap();
    }
    exchange.push(1, batch(9)).now_or_never().expect("no wait for the one who is waited for").unwrap();
    let mut push = exchange.push(0, batch(10)).boxed();
    assert!(poll!(&mut push).is_pending(), "now the reader has something");
    assert_eq!(next(&mut reader).await, Some(9));
}

#[tokio::test]
async fn refused_memory_makes_a_producer_wait_and_is_an_error_only_for_a_waiting_reader() {
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(8192 + 100));
    let registry = ExchangeRegistry::new(Arc::clone(&pool));
    let exchange = registry.create(task(1, 0), ExchangeShape { limit_bytes: 1 << 30, ..shape(2, 1) }).unwrap();
    exchange.push(0, batch(1)).await.unwrap();
    let mut push = exchange.push(0, batch(2)).boxed();
    assert!(poll!(&mut push).is_pending());
    let mut reader = exchange.read(1).unwrap();
    assert!(poll!(reader.next()).is_pending());
    let Poll::Ready(Err(error)) = poll!(&mut push) else { panic!("expected an error") };
    assert_eq!((error.code, error.retryable), (ErrorCode::MemoryRefused, true), "{error}");
    assert_eq!(pool.reserved(), 8192);
}

#[tokio::test]
async fn every_reader_of_a_broadcast_reads_from_the_start() {
    let (pool, registry) = registry();
    let exchange = registry.create(task(1, 0), ExchangeShape { limit_bytes: 1 << 20, ..shape(1, 3) }).unwrap();
    let mut first = exchange.read(0).unwrap();
    exchange.push(0, batch(1)).await.unwrap();
    assert_eq!(next(&mut first).await, Some(1));
    let mut second = exchange.read(0).unwrap();
    exchange.push(0, batch(2)).await.unwrap();
    exchange.finish();
    assert_eq!((next(&mut first).await, next(&mut first).await), (Some(2), None));
    assert_eq!((next(&mut second).await, next(&mut second).await), (Some(1), Some(2)));
    assert_eq!(pool.reserved(), 2 * 8192, "the third is still to come");
    let mut third = exchange.read(0).unwrap();
    assert_eq!(next(&mut third).await, Some(1));
    assert_eq!(pool.reserved(), 8192);
    assert_eq!((next(&mut third).await, next(&mut third).await), (Some(2), None));
    assert_eq!(pool.reserved(), 0);
    let error = exchange.read(0).unwrap_err();
    assert!(error.message.contains("opened by all its readers"), "{error}");
}

#[tokio::test]
async fn what_an_abandoned_partition_held_is_dropped() {
    let (pool, registry) = registry();
    let exchange = registry.create(task(1, 0), shape(2, 1)).unwrap();
    exchange.push(0, batch(1)).await.unwrap();
    exchange.push(0, batch(1)).await.unwrap();
    let mut push = exchange.push(1, batch(2)).boxed();
    assert!(poll!(&mut push).is_pending());
    drop(exchange.read(0).unwrap());
    assert_eq!(poll!(&mut push), Poll::Ready(Ok(Pushed::Taken)));
    assert_eq!(pool.reserved(), 8192);
    for _ in 0..9 {
        assert_eq!(exchange.push(0, batch(3)).await, Ok(Pushed::Taken), "other partitions are wanted");
    }
    assert_eq!(pool.reserved(), 8192);
    assert!(exchange.abandoned().now_or_never().is_none());
    let mut abandoned = exchange.abandoned().boxed();
    assert!(poll!(&mut abandoned).is_pending());
    drop(exchange.read(1).unwrap());
    assert!(poll!(&mut abandoned).is_ready());
    assert_eq!(exchange.push(1, batch(3)).await, Ok(Pushed::NoReaderLeft));
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn one_slow_reader_of_a_broadcast_does_not_stop_the_others() {
    let (_, registry) = registry();
    let exchange = registry.create(task(1, 0), shape(1, 2)).unwrap();
    let mut fast = exchange.read(0).unwrap();
    let slow = exchange.read(0).unwrap();
    for i in 0..20 {
        assert!(poll!(fast.next()).is_pending());
        exchange.push(0, batch(i)).now_or_never().expect("no wait while a reader waits").unwrap();
        assert_eq!(next(&mut fast).await, Some(i));
    }
    assert_eq!(exchange.buffered_bytes(), 20 * 8192);
    drop(slow);
    assert_eq!(exchange.buffered_bytes(), 0);
}

#[tokio::test]
async fn an_error_reaches_readers_that_wait_and_those_that_come_later() {
    let (pool, registry) = registry();
    let exchange = registry.create(task(1, 0), shape(2, 1)).unwrap();
    let mut early = exchange.read(0).unwrap();
    assert!(poll!(early.next()).is_pending());
    exchange.push(1, batch(1)).await.unwrap();
    let cause = WireError::new(ErrorCode::DivisionByZero, "divide by zero");
    exchange.fail(cause.clone());
    exchange.fail(WireError::new(ErrorCode::Internal, "a consequence"));
    assert_eq!(error(&mut early).await, cause);
    let mut late = registry.open(task(1, 0), 1, WAIT).await.unwrap();
    assert_eq!(error(&mut late).await, cause, "rows of a failed task are not given out");
    assert_eq!(exchange.push(1, batch(2)).await, Err(cause));
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn a_reader_that_comes_first_waits_for_its_task() {
    let (_, registry) = registry();
    let registry = Arc::new(registry);
    let open = registry.open(task(1, 0), 0, WAIT);
    let mut open = std::pin::pin!(open);
    assert!(poll!(&mut open).is_pending());
    registry.create(task(1, 1), shape(1, 1)).unwrap();
    assert!(poll!(&mut open).is_pending(), "that was another task");
    let exchange = registry.create(task(1, 0), shape(1, 1)).unwrap();
    let mut reader = open.await.unwrap();
    exchange.finish();
    assert_eq!(next(&mut reader).await, None);
    let error = registry.open(task(2, 0), 0, SOON).await.unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::Timeout, true));
    assert!(error.message.contains("not announced to this worker within 20 ms"), "{error}");
}

#[tokio::test]
async fn a_cancel_ends_readers_producers_and_latecomers() {
    let (pool, registry) = registry();
    let exchange = registry.create(task(1, 0), shape(1, 1)).unwrap();
    let other = registry.create(task(2, 0), shape(1, 1)).unwrap();
    other.push(0, batch(1)).await.unwrap();
    exchange.push(0, batch(1)).await.unwrap();
    exchange.push(0, batch(1)).await.unwrap();
    let mut push = exchange.push(0, batch(2)).boxed();
    assert!(poll!(&mut push).is_pending());
    let mut reader = exchange.read(0).unwrap();
    let waiting = registry.open(task(1, 7), 0, WAIT);
    let mut waiting = std::pin::pin!(waiting);
    assert!(poll!(&mut waiting).is_pending());
    registry.cancel(task(1, 0).query);
    assert_eq!(waiting.await.unwrap_err().code, ErrorCode::Cancelled);
    assert_eq!(push.await.unwrap_err().code, ErrorCode::Cancelled);
    assert_eq!(error(&mut reader).await.code, ErrorCode::Cancelled);
    assert_eq!(registry.open(task(1, 0), 0, WAIT).await.unwrap_err().code, ErrorCode::Cancelled);
    assert_eq!(registry.create(task(1, 1), shape(1, 1)).unwrap_err().code, ErrorCode::Cancelled);
    assert_eq!((pool.reserved(), registry.len()), (8192, 1), "only the other query's");
}

#[tokio::test]
async fn released_tasks_are_gone_but_their_query_may_go_on() {
    let (pool, registry) = registry();
    let exchange = registry.create(task(1, 0), shape(1, 1)).unwrap();
    exchange.push(0, batch(1)).await.unwrap();
    registry.release(&[task(1, 0)]);
    assert_eq!((pool.reserved(), registry.len()), (0, 0));
    assert_eq!(registry.open(task(1, 0), 0, WAIT).await.unwrap_err().code, ErrorCode::Cancelled);
    registry.create(task(1, 1), shape(1, 1)).unwrap();
    registry.open(task(1, 1), 0, WAIT).await.unwrap();
}

#[tokio::test]
async fn a_task_has_one_buffer_and_only_its_partitions() {
    let (_, registry) = registry();
    let exchange = registry.create(task(1, 0), shape(1, 1)).unwrap();
    assert_eq!(registry.create(task(1, 0), shape(1, 1)).unwrap_err().code, ErrorCode::Internal);
    assert!(exchange.read(1).unwrap_err().message.contains("no partition 1"));
}

#[test]
fn tombstones_are_bounded() {
    let mut tombstones = Tombstones::default();
    for i in 0..TOMBSTONES_MAX as u64 + 10 {
        tombstones.insert(i);
        tombstones.insert(i);
    }
    assert_eq!((tombstones.ended.len(), tombstones.order.len()), (TOMBSTONES_MAX, TOMBSTONES_MAX));
    assert!(!tombstones.contains(9) && tombstones.contains(10));
}

mod random;
mod spilling;
