//! The bytes that all exchanges of a worker hold together, in memory and on their way to disk.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use parking_lot::Mutex;

use crate::memory::{NodeMemoryPool, exchange_floor, exchange_share, scarce};

/// Bytes that may be on their way to disk, where the pool has no limit to take an eighth of.
const WINDOW_BYTES_MAX: usize = 256 << 20;

/// One account for all exchanges of a worker.
///
/// Bytes in memory are charged to the pool. Bytes that are being written are not: they were handed over to whoever
/// needed them. They are bounded by a window instead, an eighth of the pool's limit, so that memory is never exceeded
/// by more than that. A segment larger than the window goes when no other is on its way.
#[derive(Debug)]
pub(super) struct Account {
    pool: Arc<dyn MemoryPool>,
    reservation: MemoryReservation,
    /// None where the pool has no limit.
    limit: Option<usize>,
    window: usize,
    flight: Mutex<Flight>,
}

#[derive(Debug, Default)]
struct Flight {
    bytes: usize,
    /// Producers that wait for room in the window.
    waiting: Vec<Waker>,
}

impl Account {
    pub fn new(pool: Arc<dyn MemoryPool>) -> Self {
        let reservation = MemoryConsumer::new("exchanges").register(&pool);
        let limit = match pool.memory_limit() {
            MemoryLimit::Finite(limit) => Some(limit),
            MemoryLimit::Infinite | MemoryLimit::Unknown => None,
        };
        let window = limit.map_or(WINDOW_BYTES_MAX, |limit| (limit / 8).min(WINDOW_BYTES_MAX));
        Self { pool, reservation, limit, window, flight: Mutex::default() }
    }

    /// The pool, where it is one that asks for evictions, and the account's consumer there.
    pub fn evicting_pool(&self) -> Option<(&NodeMemoryPool, &MemoryConsumer)> {
        Some((self.pool.downcast_ref()?, self.reservation.consumer()))
    }

    pub fn try_charge(&self, bytes: usize) -> Result<()> {
        self.reservation.try_grow(bytes)
    }

    pub fn release(&self, bytes: usize) {
        if bytes > 0 {
            self.reservation.shrink(bytes);
        }
    }

    /// Bytes that are charged to the pool.
    pub fn charged(&self) -> usize {
        self.reservation.size()
    }

    /// Bytes that are being written.
    pub fn in_flight(&self) -> usize {
        self.flight.lock().bytes
    }

    /// Bytes to evict in the background: down to five eighths of the exchanges' share once three quarters of it are
    /// held, and down to three quarters of all memory once it is scarce; but never below the least that is theirs.
    pub fn excess(&self) -> usize {
        let Some(limit) = self.limit else { return 0 };
        let (share, held) = (exchange_share(limit), self.charged());
        let over_share = if held > share / 4 * 3 { held - share / 8 * 5 } else { 0 };
        let total = self.pool.reserved();
        let over_all = if total > scarce(limit) { total - limit / 4 * 3 } else { 0 };
        over_share.max(over_all).min(held.saturating_sub(exchange_floor(limit)))
    }

    /// Whether so much is held that producers should wait for their consumers, if they may, before any of it has to be
    /// spilled.
    pub fn is_tight(&self) -> bool {
        self.limit.is_some_and(|limit| self.charged() > exchange_share(limit) / 8 * 5)
    }

    /// Hands bytes over to be written, from memory when they were charged, if the window has room.
    pub fn begin_write(self: &Arc<Self>, bytes: usize, is_charged: bool) -> Option<InFlight> {
        let mut flight = self.flight.lock();
        if !self.fits(&flight, bytes) {
            return None;
        }
        flight.bytes += bytes;
        drop(flight);
        if is_charged {
            self.release(bytes);
        }
        Some(InFlight { account: Arc::clone(self), bytes })
    }

    /// As [`Self::begin_write`] of bytes that were not charged; wakes the context when there is room again.
    pub fn poll_begin_write(self: &Arc<Self>, context: &Context<'_>, bytes: usize) -> Poll<InFlight> {
        let mut flight = self.flight.lock();
        if !self.fits(&flight, bytes) {
            flight.waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        flight.bytes += bytes;
        Poll::Ready(InFlight { account: Arc::clone(self), bytes })
    }

    /// Whether the window of bytes in flight is not full.
    pub fn has_room(&self) -> bool {
        self.flight.lock().bytes < self.window.max(1)
    }

    fn fits(&self, flight: &Flight, bytes: usize) -> bool {
        flight.bytes == 0 || flight.bytes + bytes <= self.window
    }

    /// Charges bytes that are freed when the answer is dropped.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Option<Charged> {
        self.try_charge(bytes).ok()?;
        Some(Charged { account: Arc::clone(self), bytes })
    }
}

/// Bytes that are being written.
#[derive(Debug)]
pub(super) struct InFlight {
    account: Arc<Account>,
    bytes: usize,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let waiting = {
            let mut flight = self.account.flight.lock();
            flight.bytes -= self.bytes;
            std::mem::take(&mut flight.waiting)
        };
        for waker in waiting {
            waker.wake();
        }
    }
}

/// Bytes that are charged for as long as this lives.
#[derive(Debug)]
pub(super) struct Charged {
    account: Arc<Account>,
    bytes: usize,
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.account.release(self.bytes);
    }
}
