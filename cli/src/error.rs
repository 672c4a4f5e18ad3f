//! Why a command failed. Printed as one chain, with exit status 1.

use std::io;
use std::path::PathBuf;

use datafusion::error::DataFusionError;
use sheaf_common::config::ConfigError;
use sheaf_common::telemetry::TelemetryError;
use sheaf_query::tables::tpch_files::TpchFilesError;
use sheaf_server::ServerError;

use crate::local_cluster::LocalClusterError;

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    LocalCluster(#[from] LocalClusterError),
    #[error("cannot set up logs")]
    Telemetry(#[from] TelemetryError),
    #[error("cannot start threads")]
    Threads(#[source] io::Error),
    #[error("cannot watch for signals")]
    Signals(#[source] io::Error),
    #[error("folder {path:?} cannot be made or written")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write the TPC-H tables to {path:?}")]
    Tables {
        path: PathBuf,
        #[source]
        source: TpchFilesError,
    },
    #[error("{what} failed")]
    Statement {
        what: String,
        #[source]
        source: mysql_async::Error,
    },
    #[error("{what} did not answer within {deadline_s} s")]
    Deadline { what: String, deadline_s: u64 },
    #[error("cannot start the peer {peer}")]
    PeerStart {
        peer: String,
        #[source]
        source: io::Error,
    },
    /// The peer's own words stand in the tail of its log.
    #[error("the peer {peer} cannot be measured: {what}; its log {log:?} ends with:\n{tail}")]
    PeerConfused { peer: String, what: String, log: PathBuf, tail: String },
    /// This process is a peer, and whoever asks it is gone or makes no sense.
    #[error("cannot read statements or write answers")]
    PeerPipe(#[source] io::Error),
    #[error("cannot read what process {id} ({process}) has used")]
    Measure {
        process: String,
        id: u32,
        #[source]
        source: io::Error,
    },
    /// Boxed: it is many times the size of the others.
    #[error("DataFusion cannot be set up")]
    DataFusion {
        #[source]
        source: Box<DataFusionError>,
    },
    /// The demo or a benchmark ran to its end, and not every answer was right.
    #[error("{n_wrong} of {n_all} answers are wrong: {names}")]
    Wrong { n_wrong: usize, n_all: usize, names: String },
    #[error("{what} failed")]
    Bench {
        what: &'static str,
        #[source]
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("interrupted")]
    Interrupted,
}

#[cfg(test)]
mod tests {
    use super::*;
    use sheaf_server::error::chain;

    #[test]
    fn the_chain_is_one_line_from_the_outside_in() {
        let source = io::Error::new(io::ErrorKind::PermissionDenied, "no entry");
        let error = CliError::Folder { path: PathBuf::from("/data"), source };
        assert_eq!(chain(&error), "folder \"/data\" cannot be made or written: no entry");
    }
}
