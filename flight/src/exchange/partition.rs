//! One partition of a task's output: its segments, and how far who has read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use super::buffer::Segment;
use super::spill::Stored;
use super::store::Coldness;

/// Where a segment is.
pub(super) enum Slot {
    /// In memory, and charged.
    Memory(Arc<Segment>),
    /// In memory until the spill thread has written it; counted as in flight.
    Writing(Arc<Segment>),
    Disk(Arc<Stored>),
}

impl Slot {
    /// As it is in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Slot::Memory(segment) | Slot::Writing(segment) => segment.bytes,
            Slot::Disk(stored) => stored.bytes,
        }
    }

    pub fn charged_bytes(&self) -> usize {
        match self {
            Slot::Memory(segment) => segment.bytes,
            Slot::Writing(_) | Slot::Disk(_) => 0,
        }
    }
}

pub(super) enum Reader {
    /// Will read the segment of this number next; the waker is there while it waits for it.
    At(usize, Option<Waker>),
    /// Read the end, or went away, at this number.
    Gone(usize),
}

pub(super) struct Partition {
    /// Those that are held, in their order.
    slots: VecDeque<Slot>,
    /// Number of the first of `slots`, counted from the partition's first.
    base: usize,
    /// Those that came, in the order in which they came.
    readers: Vec<Reader>,
    /// How many are expected in all, those that come again not counted.
    expected: usize,
}

impl Partition {
    pub fn new(expected: usize) -> Self {
        Self { slots: VecDeque::new(), base: 0, readers: Vec::new(), expected }
    }

    /// Number of the first segment that is held.
    pub fn base(&self) -> usize {
        self.base
    }

    /// Adds a segment; answers its number.
    pub fn push(&mut self, slot: Slot) -> usize {
        self.slots.push_back(slot);
        self.base + self.slots.len() - 1
    }

    pub fn slot(&self, number: usize) -> Option<&Slot> {
        self.slots.get(number.checked_sub(self.base)?)
    }

    pub fn slot_mut(&mut self, number: usize) -> Option<&mut Slot> {
        self.slots.get_mut(number.checked_sub(self.base)?)
    }

    /// Whether announced readers are still to come.
    pub fn is_expecting(&self) -> bool {
        self.readers.len() < self.expected
    }

    /// Whether somebody reads, or is still to come.
    pub fn is_wanted(&self) -> bool {
        self.is_expecting() || self.positions().next().is_some()
    }

    /// Whether everybody who reads the partition has something to read. Who has not come yet waits for nobody; when
    /// they come and find nothing, the producer hears of it.
    pub fn keeps_readers_busy(&self) -> bool {
        let end = self.base + self.slots.len();
        self.positions().all(|position| position < end)
    }

    /// Adds a reader; answers its index.
    pub fn open(&mut self, position: usize) -> usize {
        self.readers.push(Reader::At(position, None));
        self.readers.len() - 1
    }

    pub fn reader_mut(&mut self, reader: usize) -> &mut Reader {
        &mut self.readers[reader]
    }

    pub fn wait(&mut self, reader: usize, waker: Waker) {
        if let Reader::At(_, waiting) = &mut self.readers[reader] {
            *waiting = Some(waker);
        }
    }

    pub fn advance(&mut self, reader: usize) {
        if let Reader::At(position, _) = &mut self.readers[reader] {
            *position += 1;
        }
    }

    pub fn leave(&mut self, reader: usize) {
        if let Reader::At(position, _) = self.readers[reader] {
            self.readers[reader] = Reader::Gone(position);
        }
    }

    pub fn take_wakers(&mut self, wakers: &mut Vec<Waker>) {
        for reader in &mut self.readers {
            if let Reader::At(_, waker) = reader {
                wakers.extend(waker.take());
            }
        }
    }

    /// Of those that read now.
    fn positions(&self) -> impl Iterator<Item = usize> {
        self.readers.iter().filter_map(|reader| match reader {
            Reader::At(position, _) => Some(*position),
            Reader::Gone(_) => None,
        })
    }

    /// Drops what nobody who reads or is expected is going to read.
    pub fn drop_unneeded(&mut self, dropped: &mut Vec<Slot>) {
        let needed = if self.is_expecting() { Some(0) } else { self.positions().min() };
        self.drop_to(needed.unwrap_or(usize::MAX), dropped);
    }

    /// Drops what as many readers have passed as are expected, and whoever reads now has.
    pub fn drop_passed(&mut self, dropped: &mut Vec<Slot>) {
        self.drop_to(self.passed(), dropped);
    }

    fn drop_to(&mut self, number: usize, dropped: &mut Vec<Slot>) {
        let n = number.saturating_sub(self.base).min(self.slots.len());
        self.base += n;
        dropped.extend(self.slots.drain(..n));
    }

    /// Number of the first segment that somebody has yet to read for the first time. One who went away early may
    /// have been lost: what it has not read counts as unread, unless another has read it in its place.
    fn passed(&self) -> usize {
        let mut reached: Vec<usize> = self
            .readers
            .iter()
            .map(|reader| match reader {
                Reader::At(position, _) | Reader::Gone(position) => *position,
            })
            .collect();
        reached.sort_unstable_by(|a, b| b.cmp(a));
        let by_expected = match self.expected {
            0 => usize::MAX,
            n => reached.get(n - 1).copied().unwrap_or(0),
        };
        by_expected.min(self.positions().min().unwrap_or(usize::MAX))
    }

    pub fn clear(&mut self, dropped: &mut Vec<Slot>) {
        self.drop_to(usize::MAX, dropped);
    }

    /// Names every segment in memory: how cold it is, its number and its bytes.
    pub fn candidates(&self, mut found: impl FnMut(Coldness, usize, usize)) {
        let mut positions: Vec<usize> = self.positions().collect();
        let is_begun = !positions.is_empty();
        if self.is_expecting() {
            positions.push(0);
        }
        positions.sort_unstable();
        let first = positions.first().copied();
        let mut ahead = 0;
        for (idx, slot) in self.slots.iter().enumerate() {
            let number = self.base + idx;
            if positions.binary_search(&number).is_ok() {
                ahead = 0;
            }
            if let Slot::Memory(segment) = slot {
                let coldness = match first {
                    Some(first) if first <= number && is_begun => Coldness::Ahead(ahead),
                    Some(first) if first <= number => Coldness::NotBegun(ahead),
                    _ => Coldness::Passed,
                };
                found(coldness, number, segment.bytes);
            }
            ahead += slot.bytes();
        }
    }
}
