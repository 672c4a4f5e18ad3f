//! A disk in memory for tests: it crashes when it is told to, and then loses, tears and reorders what was not flushed.
//!
//! It is a file of records, read from the front up to the first that is not whole: what a log-structured store does.
//! A crash may spoil any record that was not flushed and keep later ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::Rng;

use super::{Batch, Store};
use crate::metadata::error::{MetadataError, Result};

/// Where the next crash comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailPoint {
    /// The batch never reaches the disk.
    BeforeWrite,
    /// It does, but the process dies at once.
    AfterWrite,
    BeforeFlush,
    AfterFlush,
}

impl FailPoint {
    pub const ALL: [Self; 4] = [Self::BeforeWrite, Self::AfterWrite, Self::BeforeFlush, Self::AfterFlush];
}

#[derive(Debug, Default)]
struct Disk {
    /// Batches in the order of their writes; `None` did not make it to the disk whole.
    records: Vec<Option<Batch>>,
    n_flushed: usize,
    /// Operations to go until it fires.
    fail: Option<(u64, FailPoint)>,
    n_flushes: u64,
}

/// The disk, which outlives the processes that use it.
#[derive(Debug, Default, Clone)]
pub struct MemoryDisk(Arc<Mutex<Disk>>);

impl MemoryDisk {
    /// A process opens the disk.
    pub fn open(&self) -> MemoryStore {
        let mut disk = self.0.lock();
        disk.fail = None;
        let mut map = BTreeMap::new();
        let n_whole = disk.records.iter().take_while(|record| record.is_some()).count();
        assert!(n_whole >= disk.n_flushed, "a flushed record is damaged");
        disk.records.truncate(n_whole);
        for batch in disk.records.iter().flatten() {
            apply(&mut map, batch);
        }
        MemoryStore { disk: self.clone(), map, failed: false }
    }

    /// Power is lost: each record that was not flushed is spoilt or not.
    pub fn crash(&self, random: &mut impl Rng) {
        let mut disk = self.0.lock();
        let n_flushed = disk.n_flushed;
        for record in &mut disk.records[n_flushed..] {
            if random.random_bool(0.4) {
                *record = None;
            }
        }
    }

    /// The process dies in its `operations`-th write or flush from now that fits the point.
    pub fn fail_after(&self, operations: u64, point: FailPoint) {
        self.0.lock().fail = Some((operations, point));
    }

    /// Takes back [`MemoryDisk::fail_after`].
    pub fn heal(&self) {
        self.0.lock().fail = None;
    }

    pub fn n_flushes(&self) -> u64 {
        self.0.lock().n_flushes
    }

    /// Puts other bytes in the place of a value, as a rotten disk would.
    pub fn damage(&self, key: &[u8], value: Option<Vec<u8>>) {
        let mut store = self.open();
        store.write(Batch { writes: vec![(key.to_vec(), value)] }).expect("no fail point is set");
        store.flush().expect("no fail point is set");
    }
}

fn apply(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, batch: &Batch) {
    for (key, value) in &batch.writes {
        match value {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
    }
}

/// One process's use of a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryStore {
    disk: MemoryDisk,
    map: BTreeMap<Vec<u8>, Vec<u8>>,
    failed: bool,
}

impl MemoryStore {
    fn fire(&mut self, at: FailPoint) -> Result<()> {
        let mut disk = self.disk.0.lock();
        match &mut disk.fail {
            Some((left, point)) if *point == at && *left > 0 => *left -= 1,
            Some((_, point)) if *point == at => {
                self.failed = true;
                disk.fail = None;
            }
            _ => {}
        }
        match self.failed {
            true => {
                let reason = format!("the fail point {at:?} fired");
                Err(MetadataError::Store { place: self.place(), action: "write", reason })
            }
            false => Ok(()),
        }
    }
}

impl Store for MemoryStore {
    fn write(&mut self, batch: Batch) -> Result<()> {
        self.fire(FailPoint::BeforeWrite)?;
        apply(&mut self.map, &batch);
        self.disk.0.lock().records.push(Some(batch));
        self.fire(FailPoint::AfterWrite)
    }

    fn flush(&mut self) -> Result<()> {
        self.fire(FailPoint::BeforeFlush)?;
        {
            let mut disk = self.disk.0.lock();
            disk.n_flushed = disk.records.len();
            disk.n_flushes += 1;
        }
        self.fire(FailPoint::AfterFlush)
    }

    fn scan(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(self.map.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}
