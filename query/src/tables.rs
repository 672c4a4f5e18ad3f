//! Table engines: what a name in FROM can stand for.
//!
//! [`external`]: files as a table. [`delta`]: Delta Lake tables. [`listings`]: what a query has seen of both.
//! [`analyzed`]: what ANALYZE TABLE found out of either.
//! [`pruning`]: which files a filter can do without. [`hot`]: rows of small tables that are kept decoded. [`generated`]: rows
//! that are made.
//! [`sources`]: where files are, [`roots`] on this machine's disk and [`stores`] elsewhere, listed by [`remote`] and
//! read through [`data_cache`]. [`tpch_files`] writes TPC-H as Parquet. [`mysql_types`]: how a column's type is called by
//! MySQL. [`view`]: the name of a query.

pub mod analyzed;
pub mod data_cache;
pub mod delta;
pub mod external;
pub mod files;
pub mod generated;
pub mod hot;
pub mod listings;
pub mod mysql_types;
pub mod pruning;
pub mod remote;
pub mod roots;
pub mod sources;
pub mod stores;
pub mod tpch_files;
pub mod view;

use std::error::Error;
use std::fmt::Write;
use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::cache::cache_manager::{
    CacheManagerConfig, DEFAULT_FILE_STATISTICS_MEMORY_LIMIT, DEFAULT_METADATA_CACHE_LIMIT,
};
use sheaf_common::{Classify, ErrorCode, WireError};
use sheaf_planners::error::wire_of;

pub use roots::Roots;

/// The parts of a node's memory that footers and statistics of files may take.
const FOOTERS_SHARE: usize = 16;
const STATISTICS_SHARE: usize = 64;

/// What can be wrong with the files behind a table.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TableError {
    /// The path leads outside the folders that the server was told to serve. The client's to mend, or the operator's.
    #[error("access to '{path}' is denied: it is not within a folder that this server may read")]
    AccessDenied { path: String },
    /// There is nothing at the path.
    #[error("file '{path}' does not exist")]
    FileNotFound { path: String },
    /// A folder or pattern without a file that the format could read.
    #[error("no {format} file found at '{path}': add files, or declare the columns of the table")]
    NoFiles { path: String, format: &'static str },
    /// A file is there but cannot be read: damaged, of another format, or the disk failed.
    #[error("cannot read file '{path}'")]
    Unreadable { path: String, source: Arc<dyn Error + Send + Sync> },
    /// A location, format or option that this server does not know.
    #[error("{what} is not supported")]
    Unsupported { what: String },
    /// A location, format or option that makes no sense.
    #[error("{what}")]
    Invalid { what: String },
}

impl TableError {
    pub(crate) fn unreadable(path: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unreadable { path: path.into(), source: Arc::from(source.into()) }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }
}

impl Classify for TableError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::AccessDenied { .. } => ErrorCode::AccessDenied,
            Self::FileNotFound { .. } | Self::NoFiles { .. } | Self::Unreadable { .. } => ErrorCode::FileUnreadable,
            Self::Unsupported { .. } => ErrorCode::Unsupported,
            Self::Invalid { .. } => ErrorCode::InvalidArgument,
        }
    }

    fn is_retryable(&self) -> bool {
        match self {
            Self::Unreadable { source, .. } => wire_of(source.as_ref()).retryable,
            Self::AccessDenied { .. }
            | Self::FileNotFound { .. }
            | Self::NoFiles { .. }
            | Self::Unsupported { .. }
            | Self::Invalid { .. } => false,
        }
    }
}

impl From<TableError> for DataFusionError {
    fn from(error: TableError) -> Self {
        to_datafusion(&error)
    }
}

/// One of our errors as DataFusion carries it: the whole chain of causes in one message, the code kept.
pub fn to_datafusion(error: &(impl Classify + Error)) -> DataFusionError {
    DataFusionError::External(Box::new(wire(error)))
}

pub(crate) fn wire(error: &(impl Classify + Error)) -> WireError {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // A cause that only repeats the text of its own cause is written once.
        let text = cause.to_string();
        if !message.contains(&text) {
            let _ = write!(message, ": {text}");
        }
        source = cause.source();
    }
    let wire = WireError::new(error.code(), message);
    if error.is_retryable() { wire.retryable() } else { wire }
}

/// How the caches of a runtime have to be set for tables to show what is on disk.
///
/// DataFusion's listing cache never notices a new file, so it is off. Its caches of footers and statistics compare a
/// file's size and modification time at each use; they get shares of a node's memory, beside what queries are given.
pub fn cache_config(memory_bytes: usize) -> CacheManagerConfig {
    CacheManagerConfig::default()
        .with_list_files_cache(None)
        .with_list_files_cache_limit(0)
        .with_metadata_cache_limit((memory_bytes / FOOTERS_SHARE).max(DEFAULT_METADATA_CACHE_LIMIT))
        .with_file_statistics_cache_limit((memory_bytes / STATISTICS_SHARE).max(DEFAULT_FILE_STATISTICS_MEMORY_LIMIT))
}
