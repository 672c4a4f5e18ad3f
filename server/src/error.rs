//! Why a node cannot start, or stops by itself.

use std::io;
use std::path::PathBuf;

use sheaf_common::config::{ConfigError, HostPort};
use sheaf_common::telemetry::TelemetryError;
use sheaf_common::{Classify, ErrorCode, WireError};

use crate::membership::MembershipError;

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The operator's to mend; nothing was opened yet.
    #[error("the configuration was refused")]
    Config(#[from] ConfigError),
    #[error("cannot set up logs and metrics")]
    Telemetry(#[from] TelemetryError),
    /// Not writable, or something else stands at its place. The operator's to mend.
    #[error("data folder {path:?} cannot be made or written")]
    DataDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Two servers were given one folder.
    #[error("data folder {path:?} is in use by another server{owner}")]
    DataDirInUse { path: PathBuf, owner: String },
    /// Most often the port is another process's.
    #[error("cannot listen for {what} on {address}, choose another address with {flag}")]
    Listen {
        what: &'static str,
        address: HostPort,
        flag: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot start threads")]
    Threads(#[source] io::Error),
    /// A listener ended though nobody stopped the node.
    #[error("{what} ended unexpectedly: {message}")]
    Ended { what: &'static str, message: String },
    #[error("cannot open the query engine")]
    Engine(#[source] WireError),
    #[error("cannot be part of the cluster")]
    Membership(#[from] MembershipError),
    #[error("cannot watch for signals")]
    Signals(#[source] io::Error),
}

impl Classify for ServerError {
    fn code(&self) -> ErrorCode {
        match self {
            ServerError::Config(_) | ServerError::Listen { .. } => ErrorCode::InvalidArgument,
            ServerError::DataDir { .. } => ErrorCode::FileUnreadable,
            ServerError::DataDirInUse { .. } => ErrorCode::Busy,
            ServerError::Membership(error) => error.code(),
            ServerError::Engine(error) => error.code,
            ServerError::Telemetry(_)
            | ServerError::Threads(_)
            | ServerError::Ended { .. }
            | ServerError::Signals(_) => ErrorCode::Internal,
        }
    }
}

/// An error and all its sources, as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(error.to_string().trim_end());
        source = error.source();
    }
    text
}
