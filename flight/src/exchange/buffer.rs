//! The output of one task: partitions of segments, written once, read by as many readers as were announced.
//!
//! Memory: at most `limit_bytes` of unread output, and more only while a reader waits on an empty partition. A
//! producer may wait only while nobody waits for it: while every reader that asks has something to read. So
//! whoever is waited for goes on, and no shape of plan can deadlock. The price is that output for slow readers piles
//! up while a fast one is served; it is charged to the query's account and refused with an error when that is full.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use arrow::record_batch::RecordBatch;
use arrow_flight::FlightData;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::Stream;
use parking_lot::Mutex;
use sheaf_common::{ErrorCode, TaskId, WireError};
use tokio::sync::Notify;

use super::ExchangeShape;
use crate::encoding;

/// One batch of a partition.
pub struct Segment {
    pub batch: RecordBatch,
    /// What it is charged with.
    pub bytes: usize,
    /// Its wire form, made by the first remote reader of several: a broadcast is encoded once.
    encoded: OnceLock<Vec<FlightData>>,
}

impl Segment {
    /// The messages that carry the batch, whatever was sent before it.
    pub fn encoded(&self) -> Result<&[FlightData], WireError> {
        if let Some(encoded) = self.encoded.get() {
            return Ok(encoded);
        }
        let data = encoding::encode_alone(&self.batch)?;
        Ok(self.encoded.get_or_init(|| data))
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("rows", &self.batch.num_rows()).field("bytes", &self.bytes).finish()
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is held for its readers, or the readers of that partition are gone and it was dropped.
    Taken,
    /// No reader of any partition is left: the producer can stop.
    NoReaderLeft,
}

/// One task's output.
pub struct Exchange {
    task: TaskId,
    shape: ExchangeShape,
    account: Arc<MemoryReservation>,
    state: Mutex<State>,
    /// Told when a reader goes away.
    left: Notify,
}

#[derive(Debug)]
struct State {
    partitions: Vec<Partition>,
    status: Status,
    /// Bytes of all segments that are held.
    buffered_bytes: usize,
    buffered_bytes_max: usize,
    pushed_rows: u64,
    pushed_bytes: u64,
    /// Producers that wait for room.
    producers: Vec<Waker>,
}

#[derive(Debug, Clone)]
enum Status {
    Running,
    /// Every row is there.
    Finished,
    /// The task ended with an error; nothing more is read.
    Failed(WireError),
    /// The query ended; nothing more is read or written.
    Aborted(WireError),
}

#[derive(Debug)]
struct Partition {
    /// Those that some expected reader has not passed yet.
    segments: VecDeque<Arc<Segment>>,
    /// Number of the first of `segments`, counted from the partition's first.
    base: usize,
    /// Those that came, in the order in which they came.
    readers: Vec<Reader>,
    /// How many are expected in all.
    expected: usize,
}

#[derive(Debug)]
enum Reader {
    /// Will read the segment of this number next; the waker is there while it waits for it.
    At(usize, Option<Waker>),
    /// Read the end, or went away.
    Gone,
}

impl Partition {
    fn new(expected: usize) -> Self {
        Self { segments: VecDeque::new(), base: 0, readers: Vec::new(), expected }
    }

    fn wanted(&self) -> bool {
        self.readers.len() < self.expected || self.readers.iter().any(|reader| !matches!(reader, Reader::Gone))
    }

    fn has_waiting_reader(&self) -> bool {
        self.readers.iter().any(|reader| matches!(reader, Reader::At(_, Some(_))))
    }

    fn take_wakers(&mut self, wakers: &mut Vec<Waker>) {
        for reader in &mut self.readers {
            if let Reader::At(_, waker) = reader {
                wakers.extend(waker.take());
            }
        }
    }

    /// Drops what every expected reader has passed; answers its bytes.
    fn drop_passed(&mut self, dropped: &mut Vec<Arc<Segment>>) -> usize {
        let next = if self.readers.len() < self.expected {
            0
        } else {
            let positions = self.readers.iter().filter_map(|reader| match reader {
                Reader::At(position, _) => Some(*position),
                Reader::Gone => None,
            });
            positions.min().unwrap_or(self.base + self.segments.len())
        };
        let n = next.saturating_sub(self.base).min(self.segments.len());
        self.base += n;
        let from = dropped.len();
        dropped.extend(self.segments.drain(..n));
        dropped[from..].iter().map(|segment| segment.bytes).sum()
    }
}

impl State {
    /// Counts bytes as no longer held, and lets producers look again.
    fn freed(&mut self, bytes: usize, account: &MemoryReservation, wakers: &mut Vec<Waker>) {
        if bytes > 0 {
            self.buffered_bytes -= bytes;
            account.shrink(bytes);
        }
        wakers.append(&mut self.producers);
    }

    fn clear(&mut self, status: Status, account: &MemoryReservation) -> (Vec<Waker>, Vec<Arc<Segment>>) {
        let mut wakers = Vec::new();
        let mut dropped = Vec::new();
        self.status = status;
        for partition in &mut self.partitions {
            dropped.extend(partition.segments.drain(..));
            partition.take_wakers(&mut wakers);
        }
        self.freed(self.buffered_bytes, account, &mut wakers);
        (wakers, dropped)
    }
}

fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

impl Exchange {
    pub(super) fn new(task: TaskId, shape: ExchangeShape, account: Arc<MemoryReservation>) -> Self {
        let partitions = (0..shape.partitions).map(|_| Partition::new(shape.readers)).collect();
        let state = State {
            partitions,
            status: Status::Running,
            buffered_bytes: 0,
            buffered_bytes_max: 0,
            pushed_rows: 0,
            pushed_bytes: 0,
            producers: Vec::new(),
        };
        Self { task, shape, account, state: Mutex::new(state), left: Notify::new() }
    }

    pub fn task(&self) -> TaskId {
        self.task
    }

    pub fn shape(&self) -> ExchangeShape {
        self.shape
    }

    /// Bytes of the segments that are held.
    pub fn buffered_bytes(&self) -> usize {
        self.state.lock().buffered_bytes
    }

    /// The most bytes that were held at one time.
    pub fn buffered_bytes_max(&self) -> usize {
        self.state.lock().buffered_bytes_max
    }

    /// Rows and bytes that the producer gave.
    pub fn pushed(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.pushed_rows, state.pushed_bytes)
    }

    /// Gives a batch to the readers of a partition; waits while there is no room and nobody waits for the producer.
    ///
    /// Errs when the account refuses the bytes while a reader waits, or the exchange was ended. Dropping the future
    /// drops the batch.
    pub async fn push(&self, partition: usize, batch: RecordBatch) -> Result<Pushed, WireError> {
        let bytes = encoding::batch_bytes(&batch);
        let mut batch = Some(batch);
        std::future::poll_fn(|context| self.poll_push(context, partition, &mut batch, bytes)).await
    }

    fn poll_push(
        &self,
        context: &mut Context<'_>,
        partition: usize,
        batch: &mut Option<RecordBatch>,
        bytes: usize,
    ) -> Poll<Result<Pushed, WireError>> {
        let mut wakers = Vec::new();
        {
            let mut state = self.state.lock();
            match &state.status {
                Status::Running => {}
                Status::Failed(error) | Status::Aborted(error) => return Poll::Ready(Err(error.clone())),
                Status::Finished => {
                    let error = WireError::new(ErrorCode::Internal, "a task went on writing after its end");
                    return Poll::Ready(Err(error));
                }
            }
            if !state.partitions[partition].wanted() {
                let any = state.partitions.iter().any(Partition::wanted);
                return Poll::Ready(Ok(if any { Pushed::Taken } else { Pushed::NoReaderLeft }));
            }
            // Only a waiting reader obliges the producer to go on, and only what is held can make room by being read.
            let may_wait = state.buffered_bytes > 0 && !state.partitions.iter().any(Partition::has_waiting_reader);
            if may_wait && state.buffered_bytes + bytes > self.shape.limit_bytes {
                state.producers.push(context.waker().clone());
                return Poll::Pending;
            }
            if let Err(error) = self.account.try_grow(bytes) {
                if may_wait {
                    state.producers.push(context.waker().clone());
                    return Poll::Pending;
                }
                return Poll::Ready(Err(sheaf_planners::error::to_wire(&error)));
            }
            // Polled again after it was ready would be a bug of the caller: nothing is pushed then.
            let Some(batch) = batch.take() else { return Poll::Ready(Ok(Pushed::Taken)) };
            state.buffered_bytes += bytes;
            state.buffered_bytes_max = state.buffered_bytes_max.max(state.buffered_bytes);
            state.pushed_rows += batch.num_rows() as u64;
            state.pushed_bytes += bytes as u64;
            let target = &mut state.partitions[partition];
            target.segments.push_back(Arc::new(Segment { batch, bytes, encoded: OnceLock::new() }));
            target.take_wakers(&mut wakers);
        }
        wake(wakers);
        Poll::Ready(Ok(Pushed::Taken))
    }

    /// Says that every row is there: readers come to an end after the last.
    pub fn finish(&self) {
        let mut wakers = Vec::new();
        {
            let mut state = self.state.lock();
            if !matches!(state.status, Status::Running) {
                return;
            }
            state.status = Status::Finished;
            for partition in &mut state.partitions {
                partition.take_wakers(&mut wakers);
            }
        }
        wake(wakers);
    }

    /// Ends every reader with `error`, also those that have not read what is there: it is dropped.
    pub fn fail(&self, error: WireError) {
        self.end(Status::Failed(error));
    }

    /// Ends readers and producers with `error`, also after the end.
    pub fn abort(&self, error: &WireError) {
        self.end(Status::Aborted(error.clone()));
    }

    fn end(&self, status: Status) {
        let (wakers, dropped) = {
            let mut state = self.state.lock();
            let ended = matches!(state.status, Status::Failed(_) | Status::Aborted(_));
            // The first cause is the one to tell, but a query that ended lets nobody write.
            if ended && !matches!(status, Status::Aborted(_)) {
                return;
            }
            let status = match (&state.status, status) {
                (Status::Failed(cause), Status::Aborted(_)) => Status::Aborted(cause.clone()),
                (_, status) => status,
            };
            state.clear(status, &self.account)
        };
        drop(dropped);
        wake(wakers);
    }

    /// Whether some reader is there or still expected.
    pub fn is_wanted(&self) -> bool {
        self.state.lock().partitions.iter().any(Partition::wanted)
    }

    /// Resolves when no reader is left and none expected: the producer can stop, whatever it is doing.
    pub async fn abandoned(&self) {
        loop {
            // Armed before the look, so that no leaving falls between.
            let left = self.left.notified();
            if !self.is_wanted() {
                return;
            }
            left.await;
        }
    }

    /// Begins to read a partition from its start.
    ///
    /// Errs when there is no such partition, or its readers have all come already: segments that they passed are gone.
    pub fn read(self: &Arc<Self>, partition: usize) -> Result<ExchangeReader, WireError> {
        let mut state = self.state.lock();
        let n_partitions = state.partitions.len();
        let Some(target) = state.partitions.get_mut(partition) else {
            let text = format!("task {} has {n_partitions} output partitions, no partition {partition}", self.task);
            return Err(WireError::new(ErrorCode::Internal, text));
        };
        if target.readers.len() == target.expected {
            let text = format!("partition {partition} of task {} was opened by all its readers already", self.task);
            return Err(WireError::new(ErrorCode::Internal, text));
        }
        let reader = target.readers.len();
        target.readers.push(Reader::At(0, None));
        Ok(ExchangeReader { exchange: Arc::clone(self), partition, reader, done: false })
    }

    fn poll_read(
        &self,
        context: &mut Context<'_>,
        partition: usize,
        reader: usize,
    ) -> Poll<Option<Result<Arc<Segment>, WireError>>> {
        let mut wakers = Vec::new();
        // Dropped after the lock.
        let mut dropped = Vec::new();
        let polled = {
            let mut state = self.state.lock();
            let state = &mut *state;
            if let Status::Failed(error) | Status::Aborted(error) = &state.status {
                return Poll::Ready(Some(Err(error.clone())));
            }
            let target = &mut state.partitions[partition];
            let Reader::At(position, waiting) = &mut target.readers[reader] else { return Poll::Ready(None) };
            *waiting = None;
            match target.segments.get(*position - target.base) {
                Some(segment) => {
                    let segment = Arc::clone(segment);
                    *position += 1;
                    let bytes = target.drop_passed(&mut dropped);
                    if bytes > 0 {
                        state.freed(bytes, &self.account, &mut wakers);
                    }
                    Poll::Ready(Some(Ok(segment)))
                }
                None if matches!(state.status, Status::Finished) => Poll::Ready(None),
                None => {
                    *waiting = Some(context.waker().clone());
                    // Whoever is waited for may not wait.
                    wakers.append(&mut state.producers);
                    Poll::Pending
                }
            }
        };
        wake(wakers);
        polled
    }

    /// A reader wants no more: what was kept for it alone is dropped.
    fn leave(&self, partition: usize, reader: usize) {
        let mut wakers = Vec::new();
        let mut dropped = Vec::new();
        {
            let mut state = self.state.lock();
            let state = &mut *state;
            let target = &mut state.partitions[partition];
            target.readers[reader] = Reader::Gone;
            let bytes = target.drop_passed(&mut dropped);
            state.freed(bytes, &self.account, &mut wakers);
        }
        drop(dropped);
        wake(wakers);
        self.left.notify_waiters();
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.account.shrink(self.state.get_mut().buffered_bytes);
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("task", &self.task).field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// One reading of one partition. Ends after the last row, or with the producer's error; never early.
///
/// Dropping it tells the producer that nobody wants the rest.
#[derive(Debug)]
pub struct ExchangeReader {
    exchange: Arc<Exchange>,
    partition: usize,
    reader: usize,
    done: bool,
}

impl ExchangeReader {
    /// Whether others read the same partition.
    pub fn is_shared(&self) -> bool {
        self.exchange.shape.readers > 1
    }
}

impl Stream for ExchangeReader {
    type Item = Result<Arc<Segment>, WireError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            return Poll::Ready(None);
        }
        let polled = self.exchange.poll_read(context, self.partition, self.reader);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.done = true;
            self.exchange.leave(self.partition, self.reader);
        }
        polled
    }
}

impl Drop for ExchangeReader {
    fn drop(&mut self) {
        if !self.done {
            self.exchange.leave(self.partition, self.reader);
        }
    }
}
