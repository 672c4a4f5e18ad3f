//! Why metadata could not be read, changed or kept.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use sheaf_common::{Classify, ErrorCode};

use super::command::Refusal;

#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The command was decided on, and the answer is no. The client's to mend.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No majority answered. A command may still take effect: look before it is sent again.
    #[error("{what} was not confirmed by a majority of coordinators within {} ms: are they up and do they reach one \
             another?", waited.as_millis())]
    TimedOut { what: &'static str, waited: Duration },
    /// More is under way than the node takes on. Nothing was done.
    #[error("metadata is busy: {what} was not begun, try again")]
    Busy { what: &'static str },
    #[error("command of {bytes} bytes is larger than the {max} bytes that one may have")]
    TooLarge { bytes: usize, max: usize },
    /// The node stops, or failed before; then the log has the reason.
    #[error("metadata of this node has stopped: {reason}")]
    Stopped { reason: String },
    /// The folder cannot be used as it is. The operator's to mend.
    #[error("cannot {action} {path:?}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A newer server wrote the folder. It is left as it is.
    #[error(
        "metadata in {path:?} is of format {found}, this server knows formats up to {known}: run the newer server, \
             or restore a backup made by this one"
    )]
    NewerFormat { path: PathBuf, found: u64, known: u64 },
    /// What was read is not what was written. It is left as it is, and nothing is guessed.
    #[error(
        "metadata in {place} is damaged: {reason}; check the folder with `sheaf meta check`, then restore a \
             backup, or empty it and join the cluster anew"
    )]
    Damaged { place: String, reason: String },
    /// The store failed. What it was asked to keep may or may not be kept, so the node must not go on.
    #[error("metadata store in {place} failed to {action}: {reason}")]
    Store { place: String, action: &'static str, reason: String },
    /// Another coordinator runs a newer version. Skipping its command would make this copy differ from all others.
    #[error(
        "log entry {index} cannot be read by this version: {reason}; start this node with the version of the others"
    )]
    UnknownCommand { index: u64, reason: String },
    /// A coordinator that was asked for a place in its cluster said no, or nothing.
    #[error("coordinator {coordinator} does not let this node in: {message}")]
    NotAdmitted { coordinator: String, message: String },
    /// The node's own record of what it promised to the others does not fit what they say.
    #[error("replica {replica} cannot go on: {reason}")]
    Broken { replica: u64, reason: String },
}

impl MetadataError {
    /// A place that should have metadata and has none.
    pub fn empty(place: impl std::fmt::Display) -> Self {
        Self::Damaged { place: place.to_string(), reason: "it is empty".to_owned() }
    }
}

impl Classify for MetadataError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::TimedOut { .. } => ErrorCode::Timeout,
            Self::NotAdmitted { .. } => ErrorCode::InvalidArgument,
            Self::Busy { .. } | Self::Stopped { .. } => ErrorCode::Busy,
            Self::TooLarge { .. } => ErrorCode::InvalidArgument,
            Self::File { .. } | Self::NewerFormat { .. } | Self::Damaged { .. } | Self::Store { .. } => {
                ErrorCode::FileUnreadable
            }
            Self::UnknownCommand { .. } => ErrorCode::Unsupported,
            Self::Broken { .. } => ErrorCode::Internal,
        }
    }

    fn is_retryable(&self) -> bool {
        match self {
            // Nothing was done, and another coordinator or a later moment may do it.
            Self::Busy { .. } | Self::Stopped { .. } => true,
            Self::Refused(_)
            | Self::NotAdmitted { .. }
            | Self::TimedOut { .. }
            | Self::TooLarge { .. }
            | Self::File { .. }
            | Self::NewerFormat { .. }
            | Self::Damaged { .. }
            | Self::Store { .. }
            | Self::UnknownCommand { .. }
            | Self::Broken { .. } => false,
        }
    }
}

pub type Result<T> = std::result::Result<T, MetadataError>;
