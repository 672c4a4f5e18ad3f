//! The output of one task: partitions of segments, written once, in memory or on disk until nobody needs them.
//!
//! Not retained, a segment goes as soon as all announced readers have passed it. A producer waits above `limit_bytes`
//! of held output, and at any amount when all exchanges together hold much of their share; but only while each of the
//! consumers that read still has an unread segment. So whoever is waited for goes on, and no shape of plan can deadlock;
//! what piles up for the slow while the fast are served goes to disk.
//!
//! Retained, all segments stay until the buffer is released, readers may come as often as they like, and a producer
//! never waits for consumers. In either case it may have to wait for the disk, which waits for nobody.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};

use arrow::record_batch::RecordBatch;
use arrow_flight::FlightData;
use parking_lot::Mutex;
use sheaf_common::error::MovedTo;
use sheaf_common::{ErrorCode, TaskId, WireError};
use sheaf_planners::error::to_wire;
use tokio::sync::Notify;

use super::ExchangeShape;
use super::account::{Account, InFlight};
use super::partition::{Partition, Reader, Slot};
use super::reader::ExchangeReader;
use super::spill::{OpenFile, SpillDisk, SpillError, Stored};
use super::store::{Candidate, Job, SegmentStore};
use crate::encoding;
use crate::messages::TaskAddress;

/// One batch of a partition.
pub struct Segment {
    pub batch: RecordBatch,
    /// What it is charged with.
    pub bytes: usize,
    /// Its wire form, made by the first remote reader of several: a broadcast is encoded once.
    encoded: OnceLock<Vec<FlightData>>,
}

impl Segment {
    pub(super) fn new(batch: RecordBatch, bytes: usize) -> Self {
        Self { batch, bytes, encoded: OnceLock::new() }
    }

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
    store: Arc<SegmentStore>,
    state: Mutex<State>,
    /// The file that segments are appended to; taken out while it is written to.
    file: Mutex<Option<OpenFile>>,
    this: Weak<Exchange>,
    /// Told when a reader goes away.
    left: Notify,
}

struct State {
    partitions: Vec<Partition>,
    status: Status,
    is_retained: bool,
    /// Nobody will read any more of it.
    is_abandoned: bool,
    /// Some reader got a segment.
    is_read: bool,
    /// No: some of its rows have no form on disk.
    is_spillable: bool,
    /// Bytes of all segments that are held, wherever they are.
    buffered_bytes: usize,
    buffered_bytes_max: usize,
    /// Those that are charged to the account.
    charged_bytes: usize,
    pushed_rows: u64,
    pushed_bytes: u64,
    spilled_bytes: u64,
    /// Segments that are on disk.
    n_stored: usize,
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

/// What one look at the buffer led to.
enum Step {
    Done(Result<Pushed, WireError>, Option<Job>),
    Wait,
    /// Neither memory nor disk has room.
    Full(WireError),
}

/// What a reader is to do next.
pub(super) enum Next {
    Segment(Arc<Segment>),
    /// To be read from disk, and then confirmed by [`Exchange::pass`].
    Stored(usize, Arc<Stored>),
    End,
}

/// What became of a segment that was to be written.
pub(super) enum BeginWrite {
    Begun(Job),
    /// It was read meanwhile.
    Gone,
    /// The window of bytes in flight is full.
    NoRoom,
}

impl State {
    /// Counts what segments that were taken out had, and lets producers look again.
    fn freed(&mut self, dropped: &[Slot], account: &Account, wakers: &mut Vec<Waker>) -> usize {
        let bytes: usize = dropped.iter().map(Slot::bytes).sum();
        let charged: usize = dropped.iter().map(Slot::charged_bytes).sum();
        self.buffered_bytes -= bytes;
        self.charged_bytes -= charged;
        self.n_stored -= dropped.iter().filter(|slot| matches!(slot, Slot::Disk(_))).count();
        account.release(charged);
        wakers.append(&mut self.producers);
        bytes
    }

    fn has_ended(&self) -> bool {
        matches!(self.status, Status::Failed(_) | Status::Aborted(_))
    }

    fn is_replaceable(&self) -> bool {
        matches!(self.status, Status::Running) && self.is_retained && !self.is_read && !self.is_abandoned
    }

    fn is_wanted(&self) -> bool {
        !self.is_abandoned && (self.is_retained || self.partitions.iter().any(Partition::is_wanted))
    }

    /// Whether the producer may wait for its consumers: each of them has something to go on with.
    fn may_wait(&self) -> bool {
        !self.is_retained && self.buffered_bytes > 0 && self.partitions.iter().all(Partition::keeps_readers_busy)
    }
}

/// What the readers of a task are told whose place another attempt took.
fn moved(task: TaskId, to: &TaskAddress) -> WireError {
    let TaskAddress { task: by, worker } = to.clone();
    let to = MovedTo { task: by, node: worker.node, host: worker.host, port: worker.port };
    let text = format!("attempt {task} was overtaken by {by} on worker {}", to.node);
    WireError { moved_to: Some(Box::new(to)), ..WireError::new(ErrorCode::Cancelled, text) }
}

fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

impl Exchange {
    pub(super) fn new(task: TaskId, shape: ExchangeShape, store: &Arc<SegmentStore>) -> Arc<Self> {
        let state = State {
            partitions: (0..shape.partitions).map(|_| Partition::new(shape.readers)).collect(),
            status: Status::Running,
            is_retained: shape.retained,
            is_abandoned: false,
            is_read: false,
            is_spillable: true,
            buffered_bytes: 0,
            buffered_bytes_max: 0,
            charged_bytes: 0,
            pushed_rows: 0,
            pushed_bytes: 0,
            spilled_bytes: 0,
            n_stored: 0,
            producers: Vec::new(),
        };
        let exchange = Arc::new_cyclic(|this| Self {
            task,
            shape,
            store: Arc::clone(store),
            state: Mutex::new(state),
            file: Mutex::default(),
            this: Weak::clone(this),
            left: Notify::new(),
        });
        store.add(&exchange);
        exchange
    }

    pub fn task(&self) -> TaskId {
        self.task
    }

    pub fn shape(&self) -> ExchangeShape {
        self.shape
    }

    /// Bytes of the segments that are held, as they are in memory; those on disk count as well.
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

    /// Bytes that were written to disk until now, whether they are still there or not.
    pub fn spilled_bytes(&self) -> u64 {
        self.state.lock().spilled_bytes
    }

    /// Gives a batch to the readers of a partition. Waits for consumers where the module's rules let it; where memory
    /// is full, waits until the disk has taken something.
    ///
    /// Errs when neither memory nor disk has room for what nobody has read, or the exchange was ended. Dropping the
    /// future drops the batch.
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
        loop {
            let mut wakers = Vec::new();
            let step = self.try_push(context, partition, batch, bytes, &mut wakers);
            wake(wakers);
            match step {
                Step::Done(outcome, job) => {
                    if let Some(job) = job {
                        self.store.write(vec![job]);
                    }
                    self.store.charged();
                    return Poll::Ready(outcome);
                }
                Step::Wait => return Poll::Pending,
                // What was read already goes before anything is refused.
                Step::Full(error) if self.store.drop_passed(bytes) == 0 => return Poll::Ready(Err(error)),
                Step::Full(_) => {}
            }
        }
    }

    fn try_push(
        &self,
        context: &mut Context<'_>,
        partition: usize,
        batch: &mut Option<RecordBatch>,
        bytes: usize,
        wakers: &mut Vec<Waker>,
    ) -> Step {
        let mut state = self.state.lock();
        match &state.status {
            Status::Running => {}
            Status::Failed(error) | Status::Aborted(error) => return Step::Done(Err(error.clone()), None),
            Status::Finished => {
                let error = WireError::new(ErrorCode::Internal, "a task went on writing after its end");
                return Step::Done(Err(error), None);
            }
        }
        if state.is_abandoned || (!state.is_retained && !state.partitions[partition].is_wanted()) {
            let pushed = if state.is_wanted() { Pushed::Taken } else { Pushed::NoReaderLeft };
            return Step::Done(Ok(pushed), None);
        }
        let is_full = state.buffered_bytes + bytes > self.shape.limit_bytes || self.store.account.is_tight();
        if is_full && state.may_wait() {
            state.producers.push(context.waker().clone());
            return Step::Wait;
        }
        let hold = match self.store.account.try_charge(bytes) {
            Ok(()) => None,
            Err(_) if state.may_wait() => {
                state.producers.push(context.waker().clone());
                return Step::Wait;
            }
            Err(refused) => match self.check_disk(&state, bytes) {
                Ok(()) => match self.store.account.poll_begin_write(context, bytes) {
                    Poll::Ready(hold) => Some(hold),
                    Poll::Pending => return Step::Wait,
                },
                Err(why) => {
                    let text = format!(
                        "the unread output of task {} does not fit this worker's memory and cannot be spilled, since \
                         {why}; {}",
                        self.task,
                        to_wire(&refused).message
                    );
                    return Step::Full(why.to_wire(text));
                }
            },
        };
        let Some(batch) = batch.take() else {
            return Step::Done(Err(WireError::new(ErrorCode::Internal, "a batch was pushed twice")), None);
        };
        state.buffered_bytes += bytes;
        state.buffered_bytes_max = state.buffered_bytes_max.max(state.buffered_bytes);
        state.pushed_rows += batch.num_rows() as u64;
        state.pushed_bytes += bytes as u64;
        let segment = Arc::new(Segment::new(batch, bytes));
        let slot =
            if hold.is_some() { Slot::Writing(Arc::clone(&segment)) } else { Slot::Memory(Arc::clone(&segment)) };
        state.charged_bytes += slot.charged_bytes();
        let target = &mut state.partitions[partition];
        let number = target.push(slot);
        target.take_wakers(wakers);
        let job = hold.map(|hold| self.job(partition, number, segment, hold));
        Step::Done(Ok(Pushed::Taken), job)
    }

    fn check_disk(&self, state: &State, bytes: usize) -> Result<(), SpillError> {
        if !state.is_spillable {
            return Err(SpillError::Format { detail: "its rows have no form on disk".to_owned() });
        }
        self.store.check_disk(bytes)
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

    /// Whether its readers could still read another attempt instead: they have no row of this one, which still runs.
    pub fn is_replaceable(&self) -> bool {
        self.state.lock().is_replaceable()
    }

    /// Points all readers, those to come too, at another attempt, and ends the producer. No, and nothing is changed, when
    /// one of them has read a segment or the task has ended.
    pub fn replace(&self, by: &TaskAddress) -> bool {
        self.end_if(Status::Aborted(moved(self.task, by)), State::is_replaceable)
    }

    fn end(&self, status: Status) {
        // The first cause is the one to tell, but a query that ended lets nobody write.
        let is_abort = matches!(status, Status::Aborted(_));
        self.end_if(status, |state| !state.has_ended() || is_abort);
    }

    fn end_if(&self, status: Status, may_end: impl FnOnce(&State) -> bool) -> bool {
        let mut wakers = Vec::new();
        let mut dropped = Vec::new();
        {
            let mut state = self.state.lock();
            if !may_end(&state) {
                return false;
            }
            state.status = match (&state.status, status) {
                (Status::Failed(cause), Status::Aborted(_)) => Status::Aborted(cause.clone()),
                (_, status) => status,
            };
            for partition in &mut state.partitions {
                partition.clear(&mut dropped);
                partition.take_wakers(&mut wakers);
            }
            state.freed(&dropped, &self.store.account, &mut wakers);
        }
        drop(dropped);
        drop(self.file.lock().take());
        wake(wakers);
        true
    }

    /// Drops what was read, and from now on behaves as if nothing had been retained.
    pub fn end_retention(&self) {
        let mut wakers = Vec::new();
        let mut dropped = Vec::new();
        {
            let mut state = self.state.lock();
            if !std::mem::take(&mut state.is_retained) {
                return;
            }
            for partition in &mut state.partitions {
                partition.drop_unneeded(&mut dropped);
            }
            state.freed(&dropped, &self.store.account, &mut wakers);
        }
        self.let_go(dropped);
        wake(wakers);
        self.left.notify_waiters();
    }

    /// Drops all that is there and lets the producer stop; who reads on gets an error. No, if it has ended already.
    pub(super) fn abandon(&self) -> bool {
        let mut wakers = Vec::new();
        let mut dropped = Vec::new();
        {
            let mut state = self.state.lock();
            if !matches!(state.status, Status::Running) {
                return false;
            }
            state.is_abandoned = true;
            for partition in &mut state.partitions {
                partition.clear(&mut dropped);
                partition.take_wakers(&mut wakers);
            }
            state.freed(&dropped, &self.store.account, &mut wakers);
        }
        self.let_go(dropped);
        wake(wakers);
        self.left.notify_waiters();
        true
    }

    /// Whether some reader is there or still expected.
    pub fn is_wanted(&self) -> bool {
        self.state.lock().is_wanted()
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
    /// Errs when there is no such partition, its readers have all come already and nothing is retained, or what it
    /// began with is gone.
    pub fn read(self: &Arc<Self>, partition: usize) -> Result<ExchangeReader, WireError> {
        self.read_from(partition, 0)
    }

    /// Begins to read a partition at its segment number `position`, counted from 0; as [`Self::read`].
    pub fn read_from(self: &Arc<Self>, partition: usize, position: usize) -> Result<ExchangeReader, WireError> {
        let mut state = self.state.lock();
        let n_partitions = state.partitions.len();
        let (is_retained, has_ended, is_abandoned) = (state.is_retained, state.has_ended(), state.is_abandoned);
        let Some(target) = state.partitions.get_mut(partition) else {
            let text = format!("task {} has {n_partitions} output partitions, no partition {partition}", self.task);
            return Err(WireError::new(ErrorCode::Internal, text));
        };
        if !is_retained && !target.is_expecting() {
            let text = format!("partition {partition} of task {} was opened by all its readers already", self.task);
            return Err(WireError::new(ErrorCode::Internal, text));
        }
        if is_abandoned {
            return Err(super::ended(self.task.query));
        }
        // One that has ended has a better reason, which its readers get to hear.
        if position < target.base() && !has_ended {
            let text = format!(
                "the first {} segments of partition {partition} of task {} were read and could not be kept: the task \
                 has to run again",
                target.base(),
                self.task
            );
            return Err(WireError::new(ErrorCode::MemoryRefused, text).retryable());
        }
        let reader = target.open(position);
        Ok(ExchangeReader::new(Arc::clone(self), partition, reader))
    }

    pub(super) fn poll_read(
        &self,
        context: &mut Context<'_>,
        partition: usize,
        reader: usize,
    ) -> Poll<Result<Next, WireError>> {
        let mut wakers = Vec::new();
        // Dropped after the lock.
        let mut dropped = Vec::new();
        let polled = {
            let mut state = self.state.lock();
            let state = &mut *state;
            if let Status::Failed(error) | Status::Aborted(error) = &state.status {
                return Poll::Ready(Err(error.clone()));
            }
            // What is gone must not look like an end.
            if state.is_abandoned {
                return Poll::Ready(Err(super::ended(self.task.query)));
            }
            let target = &mut state.partitions[partition];
            let Reader::At(position, waiting) = target.reader_mut(reader) else { return Poll::Ready(Ok(Next::End)) };
            *waiting = None;
            let position = *position;
            match target.slot(position) {
                Some(Slot::Memory(segment) | Slot::Writing(segment)) => {
                    let segment = Arc::clone(segment);
                    self.advance(state, partition, reader, &mut dropped, &mut wakers);
                    Poll::Ready(Ok(Next::Segment(segment)))
                }
                Some(Slot::Disk(stored)) => match stored.loaded() {
                    Some(segment) => {
                        self.advance(state, partition, reader, &mut dropped, &mut wakers);
                        Poll::Ready(Ok(Next::Segment(segment)))
                    }
                    None => Poll::Ready(Ok(Next::Stored(position, Arc::clone(stored)))),
                },
                None if matches!(state.status, Status::Finished) => Poll::Ready(Ok(Next::End)),
                None => {
                    target.wait(reader, context.waker().clone());
                    // Whoever is waited for may not wait.
                    wakers.append(&mut state.producers);
                    Poll::Pending
                }
            }
        };
        self.let_go(dropped);
        wake(wakers);
        polled
    }

    /// Moves a reader past the segment that it read from disk. Answers the one after it, if that is on disk too.
    pub(super) fn pass(&self, partition: usize, reader: usize) -> Result<Option<(usize, Arc<Stored>)>, WireError> {
        let mut wakers = Vec::new();
        let mut dropped = Vec::new();
        let next = {
            let mut state = self.state.lock();
            let state = &mut *state;
            if let Status::Failed(error) | Status::Aborted(error) = &state.status {
                return Err(error.clone());
            }
            self.advance(state, partition, reader, &mut dropped, &mut wakers);
            let target = &mut state.partitions[partition];
            let position = match target.reader_mut(reader) {
                Reader::At(position, _) => Some(*position),
                Reader::Gone(_) => None,
            };
            position.and_then(|position| match target.slot(position) {
                Some(Slot::Disk(stored)) => Some((position, Arc::clone(stored))),
                _ => None,
            })
        };
        self.let_go(dropped);
        wake(wakers);
        Ok(next)
    }

    fn advance(
        &self,
        state: &mut State,
        partition: usize,
        reader: usize,
        dropped: &mut Vec<Slot>,
        wakers: &mut Vec<Waker>,
    ) {
        state.is_read = true;
        let target = &mut state.partitions[partition];
        target.advance(reader);
        if !state.is_retained {
            target.drop_unneeded(dropped);
            state.freed(dropped, &self.store.account, wakers);
        }
    }

    /// A reader wants no more: what was kept for it alone is dropped, unless another may come in its place.
    pub(super) fn leave(&self, partition: usize, reader: usize) {
        let mut wakers = Vec::new();
        let mut dropped = Vec::new();
        {
            let mut state = self.state.lock();
            let state = &mut *state;
            let target = &mut state.partitions[partition];
            target.leave(reader);
            if !state.is_retained {
                target.drop_unneeded(&mut dropped);
                state.freed(&dropped, &self.store.account, &mut wakers);
            }
        }
        self.let_go(dropped);
        wake(wakers);
        self.left.notify_waiters();
    }

    /// Drops segments, and the file that they were in if no other is left there. Not under the lock.
    fn let_go(&self, dropped: Vec<Slot>) {
        if dropped.iter().any(|slot| matches!(slot, Slot::Disk(_))) && self.state.lock().n_stored == 0 {
            drop(self.file.lock().take());
        }
    }

    /// The account that what a reader has read ahead is charged to.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.store.account
    }
}

/// What the store asks of an exchange.
impl Exchange {
    /// Adds every segment that could be spilled.
    pub(super) fn candidates(&self, owner: usize, found: &mut Vec<Candidate>) {
        let state = self.state.lock();
        if state.has_ended() || !state.is_spillable {
            return;
        }
        for (partition, it) in state.partitions.iter().enumerate() {
            it.candidates(|coldness, number, bytes| {
                found.push(Candidate { coldness, owner, partition, number, bytes });
            });
        }
    }

    fn job(&self, partition: usize, number: usize, segment: Arc<Segment>, in_flight: InFlight) -> Job {
        Job { exchange: Weak::clone(&self.this), partition, number, segment, _in_flight: in_flight }
    }

    pub(super) fn begin_write(&self, partition: usize, number: usize) -> BeginWrite {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(slot) = state.partitions[partition].slot_mut(number) else { return BeginWrite::Gone };
        let Slot::Memory(segment) = slot else { return BeginWrite::Gone };
        let Some(hold) = self.store.account.begin_write(segment.bytes, true) else { return BeginWrite::NoRoom };
        let segment = Arc::clone(segment);
        *slot = Slot::Writing(Arc::clone(&segment));
        state.charged_bytes -= segment.bytes;
        BeginWrite::Begun(self.job(partition, number, segment, hold))
    }

    /// Whether a segment has still to be written.
    pub(super) fn is_writing(&self, job: &Job) -> bool {
        matches!(self.state.lock().partitions[job.partition].slot(job.number), Some(Slot::Writing(_)))
    }

    /// Writes a segment. Blocks; called by one thread only.
    pub(super) fn append(&self, disk: &SpillDisk, segment: &Segment) -> Result<Stored, SpillError> {
        // Not locked while it is written to: the end of a query waits for no disk.
        let open = self.file.lock().take().filter(|file| !file.is_full());
        let mut file = open.map_or_else(|| disk.create(), Ok)?;
        let stored = file.append(segment)?;
        *self.file.lock() = Some(file);
        if self.state.lock().has_ended() {
            drop(self.file.lock().take());
        }
        Ok(stored)
    }

    pub(super) fn set_stored(&self, job: &Job, stored: Stored) {
        let mut state = self.state.lock();
        state.spilled_bytes += stored.bytes_on_disk;
        if let Some(slot) = state.partitions[job.partition].slot_mut(job.number)
            && matches!(slot, Slot::Writing(_))
        {
            *slot = Slot::Disk(Arc::new(stored));
            state.n_stored += 1;
        }
    }

    /// Takes a segment that could not be written back into memory; no, if there is no room for it.
    pub(super) fn keep_in_memory(&self, job: &Job) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(slot) = state.partitions[job.partition].slot_mut(job.number) else { return true };
        if !matches!(slot, Slot::Writing(_)) {
            return true;
        }
        let bytes = job.segment.bytes;
        if self.store.account.try_charge(bytes).is_err() {
            return false;
        }
        *slot = Slot::Memory(Arc::clone(&job.segment));
        state.charged_bytes += bytes;
        true
    }

    pub(super) fn set_unspillable(&self) {
        self.state.lock().is_spillable = false;
    }

    /// Drops what is only retained, and a file in which nothing is left; answers their bytes.
    pub(super) fn drop_passed(&self) -> usize {
        let mut wakers = Vec::new();
        let mut dropped = Vec::new();
        let (mut freed, is_file_unused) = {
            let mut state = self.state.lock();
            let state = &mut *state;
            if state.is_retained {
                for partition in &mut state.partitions {
                    partition.drop_passed(&mut dropped);
                }
            }
            (state.freed(&dropped, &self.store.account, &mut wakers), state.n_stored == 0)
        };
        if is_file_unused {
            freed += self.file.lock().take().map_or(0, |file| file.bytes() as usize);
        }
        drop(dropped);
        wake(wakers);
        freed
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.store.account.release(self.state.get_mut().charged_bytes);
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("task", &self.task).field("shape", &self.shape).finish_non_exhaustive()
    }
}
