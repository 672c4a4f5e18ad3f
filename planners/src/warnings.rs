//! What a query has to warn of, counted while it runs.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::common::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::error::{DataFusionError, Result};

/// The counters of one query on one node. Clones share them, so that whoever holds the session's configuration
/// counts into the same query.
///
/// A coordinator puts one into the configuration that it plans with; a worker puts its own into each task's, and
/// reports [`QueryWarnings::divisions_by_zero`] when the task is done, for the coordinator to [`QueryWarnings::add`].
#[derive(Debug, Clone, Default)]
pub struct QueryWarnings {
    divisions_by_zero: Arc<AtomicU64>,
}

impl QueryWarnings {
    /// Rows in which a divisor was zero and the quotient NULL.
    pub fn divisions_by_zero(&self) -> u64 {
        self.divisions_by_zero.load(Ordering::Relaxed)
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
