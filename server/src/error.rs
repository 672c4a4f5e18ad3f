//! Why a node cannot start, or stops by itself.

use std::io;
use std::path::PathBuf;

use sheaf_common::config::{ConfigError, HostPort};
use sheaf_common::telemetry::TelemetryError;
use sheaf_common::{Classify, ErrorCode, WireError};

use crate::membership::MembershipError;
use crate::metadata::MetadataError;
use crate::tls::TlsError;

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
    #[error("cannot use the metadata")]
    Metadata(#[from] MetadataError),
    /// What an earlier version left in the data folder.
    #[error("cannot take over the catalog of an earlier version")]
    Import(#[source] WireError),
    #[error("cannot make the first accounts, or take over those of an earlier version")]
    Accounts(#[source] WireError),
    #[error("cannot open the query engine")]
    Engine(#[source] WireError),
    /// The operator's to mend.
    #[error(
        "mysql_listen {address} is beyond loopback and root has no password: give --root-password-file FILE, or \
         SHEAF_ROOT_PASSWORD, or --insecure to let everyone in who reaches the port"
    )]
    OpenRoot { address: HostPort },
    #[error("cannot offer TLS to MySQL clients")]
    Tls(#[from] TlsError),
    #[error("cannot use TLS between the nodes")]
    ClusterTls(#[source] sheaf_flight::TlsError),
    #[error("cannot be part of the cluster")]
    Membership(#[from] MembershipError),
    #[error("cannot watch for signals")]
    Signals(#[source] io::Error),
}

impl Classify for ServerError {
    fn code(&self) -> ErrorCode {
        match self {
            ServerError::Config(_) | ServerError::Listen { .. } | ServerError::OpenRoot { .. } => {
                ErrorCode::InvalidArgument
            }
            ServerError::DataDir { .. } | ServerError::Tls(_) | ServerError::ClusterTls(_) => ErrorCode::FileUnreadable,
            ServerError::DataDirInUse { .. } => ErrorCode::Busy,
            ServerError::Membership(error) => error.code(),
            ServerError::Engine(error) | ServerError::Import(error) | ServerError::Accounts(error) => error.code,
            ServerError::Metadata(error) => error.code(),
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
