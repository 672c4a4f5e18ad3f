//! The memory of one node: a limit that operators and exchange buffers share.
//!
//! DataFusion's own pools know who asks, but not whom else to ask. This one does: when memory runs out, those who
//! hold what can be evicted ([`Evict`]) are asked before anybody is refused. Who may have how much:
//!
//! - Nobody is granted what would take all together beyond the limit. (An operator that does not ask, but tells, may
//!   exceed it: [`MemoryPool::grow`] has no way to refuse.)
//! - What operators cannot spill is granted first come, first served, and evicts whatever can be evicted.
//! - Operators that spill have an equal share each of what the former leave, as in DataFusion's `FairSpillPool`. Here it
//!   is counted over all that one consumer holds, and matters only when less than a quarter of the limit is free:
//!   before that nobody is made to spill because of others that may never need theirs. Who is beyond their share then
//!   is refused, spills, and so gives it back. The last eighth is kept for those who hold little, so that whoever comes
//!   late finds room although the others have taken theirs.
//! - Exchanges get up to half of the limit. Operators that spill leave them a sixteenth.
//!
//! Memory that was evicted and is being written to disk has been handed over already: it is counted by its new owner
//! while the old bytes are still there. Whoever evicts bounds those: see [`crate::exchange`].

use std::collections::HashMap;
use std::fmt;
use std::sync::Weak;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, human_readable_size,
};
use parking_lot::Mutex;

/// Consumers that a refusal names.
const CONSUMERS_SHOWN: usize = 5;

/// Rounds of evicting for one request. Others may take in between what one round freed.
const EVICTIONS_MAX: usize = 4;

/// Holds memory that it can do without.
pub trait Evict: Send + Sync {
    /// Gives back about `bytes` of what its consumer holds, at once, but keeps `keep`; that is 0 when the one who asks
    /// cannot spill. Answers how many it gave back; 0 means that asking again is of no use now. Must not wait, and
    /// must not ask the pool to evict.
    fn evict(&self, bytes: usize, keep: usize) -> usize;

    /// Memory becomes scarce: begin to give some back, elsewhere. Must return at once.
    fn relieve(&self);
}

/// How much of `limit` bytes exchanges may hold.
pub fn exchange_share(limit: usize) -> usize {
    limit / 2
}

/// What operators that spill leave to exchanges.
pub fn exchange_floor(limit: usize) -> usize {
    limit / 16
}

/// Bytes of all together up to which nobody is held to a share.
fn plenty(limit: usize) -> usize {
    limit - limit / 4
}

/// What is kept for spilling operators that hold little.
fn entry(limit: usize) -> usize {
    limit / 8
}

/// Bytes of all together above which those who can are asked to give some back.
pub fn scarce(limit: usize) -> usize {
    limit - limit / 8
}

/// The memory of one node. See the module.
#[derive(Debug)]
pub struct NodeMemoryPool {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By id.
    consumers: HashMap<usize, Consumer>,
    /// Consumers that spill.
    n_spilling: usize,
    /// Bytes of each kind of consumer.
    fixed: usize,
    spilling: usize,
    evictable: usize,
}

#[derive(Debug)]
struct Consumer {
    name: String,
    kind: Kind,
    held: usize,
}

enum Kind {
    Fixed,
    Spilling,
    Evictable(Weak<dyn Evict>),
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Fixed => "Fixed",
            Kind::Spilling => "Spilling",
            Kind::Evictable(_) => "Evictable",
        })
    }
}

/// Why a request is not granted as things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortage {
    /// So many bytes are missing. `keep` is what the one who asks must leave to those that can be evicted; who can be
    /// evicted itself asks nobody: it may hold locks that evicting takes.
    Memory { missing: usize, keep: Option<usize> },
    /// The consumer would hold more than its share of so many bytes, whatever others do.
    Share(usize),
}

impl State {
    fn total(&self) -> usize {
        self.fixed + self.spilling + self.evictable
    }

    /// Changes what a consumer holds, and the sum of its kind.
    fn change(&mut self, consumer: usize, change: impl Fn(usize) -> usize) {
        // One that was never registered is a bug of whoever holds it, but its bytes count.
        let Some(known) = self.consumers.get_mut(&consumer) else {
            self.fixed = change(self.fixed);
            return;
        };
        known.held = change(known.held);
        let sum = match known.kind {
            Kind::Fixed => &mut self.fixed,
            Kind::Spilling => &mut self.spilling,
            Kind::Evictable(_) => &mut self.evictable,
        };
        *sum = change(*sum);
    }

    fn check(&self, limit: usize, consumer: usize, additional: usize) -> std::result::Result<(), Shortage> {
        let (kind, held) =
            self.consumers.get(&consumer).map_or((&Kind::Fixed, 0), |consumer| (&consumer.kind, consumer.held));
        let wanted = held.saturating_add(additional);
        let (cap, keep) = match kind {
            Kind::Fixed => (limit, Some(0)),
            Kind::Evictable(_) => {
                let share = exchange_share(limit);
                if self.evictable.saturating_add(additional) > share {
                    return Err(Shortage::Share(share));
                }
                (limit, None)
            }
            Kind::Spilling => {
                let share = limit.saturating_sub(self.fixed) / self.n_spilling.max(1);
                if wanted > share && self.total().saturating_add(additional) > plenty(limit) {
                    return Err(Shortage::Share(share));
                }
                let holds_little = wanted <= entry(limit) / self.n_spilling.max(1);
                (if holds_little { limit } else { limit - entry(limit) }, Some(exchange_floor(limit)))
            }
        };
        match self.total().saturating_add(additional).saturating_sub(cap) {
            0 => Ok(()),
            missing => Err(Shortage::Memory { missing, keep }),
        }
    }

    fn holders(&self) -> Vec<Weak<dyn Evict>> {
        let holder = |consumer: &Consumer| match &consumer.kind {
            Kind::Evictable(holder) if consumer.held > 0 => Some(Weak::clone(holder)),
            _ => None,
        };
        self.consumers.values().filter_map(holder).collect()
    }
}

impl NodeMemoryPool {
    /// A pool of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// Says that what a registered consumer holds can be evicted, and by whom.
    pub fn set_evictable(&self, consumer: &MemoryConsumer, holder: Weak<dyn Evict>) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(known) = state.consumers.get_mut(&consumer.id()) else { return };
        match std::mem::replace(&mut known.kind, Kind::Evictable(holder)) {
            Kind::Fixed => state.fixed -= known.held,
            Kind::Spilling => {
                state.spilling -= known.held;
                state.n_spilling -= 1;
            }
            Kind::Evictable(_) => state.evictable -= known.held,
        }
        state.evictable += known.held;
    }

    /// Asks those who can to give some back soon, if memory is scarce and they have more than their least.
    fn relieve(&self) {
        let holders = {
            let state = self.state.lock();
            let is_scarce = state.total() > scarce(self.limit) && state.evictable > exchange_floor(self.limit);
            if is_scarce { state.holders() } else { vec![] }
        };
        for holder in holders.iter().filter_map(Weak::upgrade) {
            holder.relieve();
        }
    }

    fn refusal(&self, consumer: &MemoryConsumer, additional: usize, shortage: Shortage) -> DataFusionError {
        let state = self.state.lock();
        let size = human_readable_size;
        let held = state.consumers.get(&consumer.id()).map_or(0, |consumer| consumer.held);
        let why = match shortage {
            Shortage::Memory { missing, .. } => format!("{} too much", size(missing)),
            Shortage::Share(share) => format!("more than its share of {}", size(share)),
        };
        let mut consumers: Vec<&Consumer> = state.consumers.values().filter(|it| it.held > 0).collect();
        consumers.sort_unstable_by(|a, b| b.held.cmp(&a.held).then_with(|| a.name.cmp(&b.name)));
        let more = consumers.len().saturating_sub(CONSUMERS_SHOWN);
        let mut holders: Vec<String> =
            consumers.iter().take(CONSUMERS_SHOWN).map(|it| format!("{} {}", it.name, size(it.held))).collect();
        if more > 0 {
            holders.push(format!("{more} others"));
        }
        let holders = if holders.is_empty() { "nobody holds any".to_owned() } else { holders.join(", ") };
        DataFusionError::ResourcesExhausted(format!(
            "memory refused: {} asked for {} beside the {} that it holds, {why}; of the node's {} (--memory) {} are \
             held: {holders}; raise --memory, or lower max_threads, batch_size or the number of queries at a time",
            consumer.name(),
            size(additional),
            size(held),
            size(self.limit),
            size(state.total()),
        ))
    }
}

impl fmt::Display for NodeMemoryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reserved, limit) = (human_readable_size(self.reserved()), human_readable_size(self.limit));
        write!(f, "{}(reserved: {reserved}, limit: {limit})", self.name())
    }
}

impl MemoryPool for NodeMemoryPool {
    fn name(&self) -> &str {
        "node"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        let mut state = self.state.lock();
        let kind = if consumer.can_spill() { Kind::Spilling } else { Kind::Fixed };
        state.n_spilling += usize::from(consumer.can_spill());
        state.consumers.insert(consumer.id(), Consumer { name: consumer.name().to_owned(), kind, held: 0 });
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        let mut state = self.state.lock();
        if let Some(Consumer { kind: Kind::Spilling, .. }) = state.consumers.remove(&consumer.id()) {
            state.n_spilling -= 1;
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.state.lock().change(reservation.consumer().id(), |held| held.saturating_add(additional));
        self.relieve();
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.state.lock().change(reservation.consumer().id(), |held| held.saturating_sub(shrink));
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let consumer = reservation.consumer();
        for round in 0.. {
            let (shortage, holders) = {
                let mut state = self.state.lock();
                match state.check(self.limit, consumer.id(), additional) {
                    Ok(()) => {
                        state.change(consumer.id(), |held| held + additional);
                        break;
                    }
                    Err(shortage) => (shortage, state.holders()),
                }
            };
            let freed = match shortage {
                Shortage::Memory { missing, keep: Some(keep) } if round < EVICTIONS_MAX => {
                    holders.iter().filter_map(Weak::upgrade).map(|holder| holder.evict(missing, keep)).sum()
                }
                Shortage::Memory { .. } | Shortage::Share(_) => 0,
            };
            if freed == 0 {
                return Err(self.refusal(consumer, additional, shortage));
            }
        }
        self.relieve();
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.state.lock().total()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}

#[cfg(test)]
mod tests;
