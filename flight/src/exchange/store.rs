//! What all exchanges of a worker share: their account, their disk, and the thread that writes to it.
//!
//! Two things make segments go to disk. When the exchanges hold three quarters of their share of memory, or all
//! memory is scarce, the thread takes the coldest of all segments until they hold less. When an operator is refused
//! memory, or an exchange itself, bytes are handed over at once and the thread writes them then. Nobody waits in a
//! poll: an operator gets what the window of bytes in flight has room for, a producer is woken when it has room.
//!
//! The coldest segments are those that will be read last: retained ones that every reader has passed; then those of
//! partitions that nobody has begun to read; then those that the nearest reader is farthest from.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use datafusion::execution::DiskManager;
use datafusion::execution::memory_pool::MemoryPool;
use parking_lot::{Condvar, Mutex};

use super::account::{Account, InFlight};
use super::buffer::{BeginWrite, Exchange, Segment};
use super::spill::{SpillDisk, SpillError};
use crate::memory::Evict;

/// Bytes that one round of evicting gives back at least, where there are as many: finding them looks at every segment.
const EVICTION_BYTES_MIN: usize = 4 << 20;

pub(super) struct SegmentStore {
    pub account: Arc<Account>,
    disk: Option<SpillDisk>,
    exchanges: Mutex<Vec<Weak<Exchange>>>,
    queue: Mutex<Queue>,
    /// Told when the queue has something new.
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    /// Somebody found memory scarce.
    is_pressed: bool,
    /// No more is taken.
    is_closed: bool,
}

/// One segment to write.
pub(super) struct Job {
    pub exchange: Weak<Exchange>,
    pub partition: usize,
    /// Counted from the partition's first.
    pub number: usize,
    // Freed before it is no longer counted.
    pub segment: Arc<Segment>,
    pub _in_flight: InFlight,
}

/// A segment in memory, and how long it is until it is read.
pub(super) struct Candidate {
    pub coldness: Coldness,
    /// Index of its exchange in the list that is looked through.
    pub owner: usize,
    pub partition: usize,
    pub number: usize,
    pub bytes: usize,
}

/// Greater is colder. Bytes are those between the segment and its next reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Coldness {
    Ahead(usize),
    NotBegun(usize),
    Passed,
}

impl SegmentStore {
    /// A store whose bytes are charged to `pool`, and that spills if there is a disk for it.
    pub fn new(pool: Arc<dyn MemoryPool>, disk: Option<Arc<DiskManager>>) -> Arc<Self> {
        let disk = disk.filter(|disk| disk.tmp_files_enabled()).map(SpillDisk::new);
        let store = Arc::new(Self {
            account: Arc::new(Account::new(pool)),
            disk,
            exchanges: Mutex::default(),
            queue: Mutex::default(),
            work: Condvar::new(),
        });
        if let Some((pool, consumer)) = store.account.evicting_pool() {
            let store: Weak<Self> = Arc::downgrade(&store);
            pool.set_evictable(consumer, store);
        }
        if store.disk.is_some() {
            let spilling = Arc::clone(&store);
            let thread = std::thread::Builder::new().name("sheaf-spill".to_owned());
            if let Err(error) = thread.spawn(move || spilling.run()) {
                tracing::error!(%error, "could not start the spill thread: exchanges stay in memory");
                store.close();
            }
        }
        store
    }

    pub fn add(&self, exchange: &Arc<Exchange>) {
        let mut exchanges = self.exchanges.lock();
        exchanges.retain(|exchange| exchange.strong_count() > 0);
        exchanges.push(Arc::downgrade(exchange));
    }

    /// Errs when `bytes` more cannot be spilled now.
    pub fn check_disk(&self, bytes: usize) -> Result<(), SpillError> {
        match &self.disk {
            Some(disk) if !self.queue.lock().is_closed => disk.check(self.account.in_flight(), bytes),
            _ => Err(SpillError::NoFolder),
        }
    }

    /// To be called after bytes were charged: begins to spill in the background when that is due.
    pub fn charged(&self) {
        if self.account.excess() > 0 {
            self.relieve();
        }
    }

    /// Gives segments to the thread.
    pub fn write(&self, jobs: Vec<Job>) {
        let mut queue = self.queue.lock();
        // After the end, what is not written stays readable where it is.
        if !queue.is_closed {
            queue.jobs.extend(jobs);
            self.work.notify_one();
        }
    }

    /// Hands about `bytes` of the coldest segments over to be written; answers how many.
    fn spill_coldest(&self, bytes: usize) -> usize {
        if !self.account.has_room() {
            return 0;
        }
        let exchanges: Vec<Arc<Exchange>> = self.exchanges.lock().iter().filter_map(Weak::upgrade).collect();
        let mut candidates = Vec::new();
        for (owner, exchange) in exchanges.iter().enumerate() {
            exchange.candidates(owner, &mut candidates);
        }
        candidates.sort_unstable_by_key(|it| std::cmp::Reverse(it.coldness));
        let mut freed = 0;
        let mut jobs = Vec::new();
        for candidate in candidates {
            if freed >= bytes || self.check_disk(candidate.bytes).is_err() {
                break;
            }
            match exchanges[candidate.owner].begin_write(candidate.partition, candidate.number) {
                BeginWrite::Begun(job) => {
                    freed += job.segment.bytes;
                    jobs.push(job);
                }
                BeginWrite::Gone => {}
                BeginWrite::NoRoom => break,
            }
        }
        if !jobs.is_empty() {
            self.write(jobs);
        }
        freed
    }

    /// Drops retained segments that every reader has passed, until about `bytes` of memory and disk are free; answers
    /// how many. Tasks that would read them again have to run again from further up.
    pub fn drop_passed(&self, bytes: usize) -> usize {
        let exchanges: Vec<Arc<Exchange>> = self.exchanges.lock().iter().filter_map(Weak::upgrade).collect();
        let mut freed = 0;
        for exchange in exchanges {
            if freed >= bytes {
                break;
            }
            freed += exchange.drop_passed();
        }
        freed
    }

    /// Ends the thread. What it has not written yet stays in memory.
    pub fn close(&self) {
        let jobs = {
            let mut queue = self.queue.lock();
            queue.is_closed = true;
            std::mem::take(&mut queue.jobs)
        };
        drop(jobs);
        self.work.notify_all();
    }

    /// The spill thread.
    fn run(self: Arc<Self>) {
        loop {
            let jobs = {
                let mut queue = self.queue.lock();
                loop {
                    if queue.is_closed {
                        return;
                    }
                    if !queue.jobs.is_empty() || std::mem::take(&mut queue.is_pressed) {
                        break std::mem::take(&mut queue.jobs);
                    }
                    self.work.wait(&mut queue);
                }
            };
            for job in jobs {
                self.write_one(&job);
            }
            let excess = self.account.excess();
            if excess > 0 && self.check_disk(0).is_ok() {
                self.spill_coldest(excess);
            }
        }
    }

    fn write_one(&self, job: &Job) {
        let Some(exchange) = job.exchange.upgrade() else { return };
        let Some(disk) = self.disk.as_ref().filter(|_| exchange.is_writing(job)) else { return };
        let written = catch_unwind(AssertUnwindSafe(|| exchange.append(disk, &job.segment)));
        let error = match written {
            Ok(Ok(stored)) => return exchange.set_stored(job, stored),
            Ok(Err(error)) => error,
            Err(_) => SpillError::Format { detail: "panic while a segment was encoded".to_owned() },
        };
        tracing::warn!(task = %exchange.task(), %error, "could not spill a segment of an exchange");
        if matches!(error, SpillError::Format { .. }) {
            exchange.set_unspillable();
        } else {
            disk.set_failed(error.clone());
        }
        while !exchange.keep_in_memory(job) {
            if self.drop_passed(job.segment.bytes) == 0 {
                let text = format!(
                    "the unread output of task {} is beyond the memory of this worker and cannot be spilled: {error}",
                    exchange.task()
                );
                exchange.fail(error.to_wire(text));
                return;
            }
        }
    }
}

impl Evict for SegmentStore {
    fn evict(&self, bytes: usize, keep: usize) -> usize {
        let wanted = bytes.max(EVICTION_BYTES_MIN).min(self.account.charged().saturating_sub(keep));
        if wanted == 0 {
            return 0;
        }
        let has_disk = self.check_disk(0).is_ok();
        let spilled = if has_disk { self.spill_coldest(wanted) } else { 0 };
        // Retained output is given up for what the disk cannot take, and rather than that a query fails because the
        // disk is busy.
        if spilled == 0 && (keep == 0 || !has_disk) { self.drop_passed(bytes) } else { spilled }
    }

    fn relieve(&self) {
        if self.disk.is_none() {
            return;
        }
        let mut queue = self.queue.lock();
        if !queue.is_closed && !queue.is_pressed {
            queue.is_pressed = true;
            self.work.notify_one();
        }
    }
}
