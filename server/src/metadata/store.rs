//! Where metadata is kept: an ordered set of keys with values, changed in batches.
//!
//! Small on purpose, so that the store can be replaced. [`sled_store`] is the one that servers use; tests run over a
//! disk in memory that loses and tears what was not flushed.

#[cfg(test)]
pub mod memory;
pub mod sled_store;

use super::error::Result;

/// Changes that are kept together or not at all.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    /// In order; `None` removes. A later change of a key wins.
    pub writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.push((key, Some(value)));
    }

    pub fn remove(&mut self, key: Vec<u8>) {
        self.writes.push((key, None));
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// What an implementation has to promise:
///
/// - A batch is there wholly or not at all, after any crash.
/// - After [`Store::flush`] all batches written before are there after any crash, power loss included.
/// - Batches that were not flushed may be lost, but only the last ones: if one is there, so are all before it.
///
/// After an error the store must not be used again: nobody knows what it kept. Reopen it.
pub trait Store: Send {
    fn write(&mut self, batch: Batch) -> Result<()>;

    /// Blocks until all that was written is on disk.
    fn flush(&mut self) -> Result<()>;

    /// Does a little of what keeps the store small and quick to open, without waiting for the disk; to be called again and
    /// again.
    fn tend(&mut self) -> Result<()> {
        Ok(())
    }

    /// All keys with their values, in order of the keys.
    fn scan(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;

    /// The folder or whatever tells an operator where this is.
    fn place(&self) -> String;
}
