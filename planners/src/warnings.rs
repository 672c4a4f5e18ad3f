//! What a query has to warn of, counted while it runs.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::common::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::error::{DataFusionError, Result};

/// The counters of one query on one node. Clones share them, so that whoever holds the session's configuration
/// counts into the same query.
///
/// A coordinator puts one into the configuration that it plans with; a worker puts its own into each task's, and
/// reports what it counted when the task is done, for the coordinator to [`QueryWarnings::add`] and
/// [`QueryWarnings::truncate`].
#[derive(Debug, Clone, Default)]
pub struct QueryWarnings {
    divisions_by_zero: Arc<AtomicU64>,
    truncations: Arc<Mutex<Truncations>>,
}

/// Values that a conversion could not take whole: MySQL's warning 1292.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Truncations {
    /// How many there were.
    pub n_values: u64,
    /// What is said of each, of the first ones.
    pub texts: Vec<String>,
}

impl Truncations {
    /// As many as a session shows.
    pub const TEXTS_MAX: usize = 64;

    /// Notes one more value.
    pub fn add(&mut self, text: impl FnOnce() -> String) {
        self.n_values += 1;
        if self.texts.len() < Self::TEXTS_MAX {
            self.texts.push(text());
        }
    }

    fn append(&mut self, other: &Self) {
        self.n_values += other.n_values;
        let room = Self::TEXTS_MAX - self.texts.len();
        self.texts.extend(other.texts.iter().take(room).cloned());
    }
}

impl QueryWarnings {
    /// Rows in which a divisor was zero and the quotient NULL.
    pub fn divisions_by_zero(&self) -> u64 {
        self.divisions_by_zero.load(Ordering::Relaxed)
    }

    fn noted(&self) -> MutexGuard<'_, Truncations> {
        // Nothing is left half done where a thread may panic.
        self.truncations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The values that conversions did not take whole.
    pub fn truncations(&self) -> Truncations {
        self.noted().clone()
    }

    /// Counts more of them.
    pub fn truncate(&self, more: &Truncations) {
        if more.n_values > 0 {
            self.noted().append(more);
        }
    }

    /// Whether there is nothing to warn of.
    pub fn are_none(&self) -> bool {
        self.divisions_by_zero() == 0 && self.noted().n_values == 0
    }

    /// Begins anew, for a plan that runs again with the configuration that it was made with.
    pub fn reset(&self) {
        self.divisions_by_zero.store(0, Ordering::Relaxed);
        *self.noted() = Truncations::default();
    }

    /// Counts `n_rows` more divisions by zero.
    pub fn add(&self, n_rows: u64) {
        self.divisions_by_zero.fetch_add(n_rows, Ordering::Relaxed);
    }
}

impl ConfigExtension for QueryWarnings {
    const PREFIX: &'static str = "sheaf_warnings";
}

impl ExtensionOptions for QueryWarnings {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, _value: &str) -> Result<()> {
        Err(DataFusionError::Configuration(format!("option {key:?} does not exist")))
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        vec![]
    }
}
