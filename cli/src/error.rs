//! Why a command failed. Printed as one chain, with exit status 1.

use std::io;
use std::path::PathBuf;

use datafusion::error::DataFusionError;
use sheaf_common::config::{ConfigError, HostPort};
use sheaf_common::telemetry::TelemetryError;
use sheaf_query::tables::tpch_files::TpchFilesError;
use sheaf_server::ServerError;
use sheaf_server::metadata::MetadataError;

use crate::client::LoginError;
use crate::local_cluster::LocalClusterError;
use crate::sql::SqlError;

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
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
    #[error("a cluster runs in {dir:?} already; sheaf cluster down stops it")]
    ClusterRuns { dir: PathBuf },
    #[error("no cluster runs in {dir:?}; sheaf cluster up starts one, --data-dir names another folder")]
    NoCluster { dir: PathBuf },
    /// The log's own words stand in its tail.
    #[error("the cluster did not come up, its log {log:?} ends with:\n{tail}")]
    NotUp { log: PathBuf, tail: String },
    #[error("the cluster of process {pid} did not stop within {patience_s} s")]
    NotDown { pid: u32, patience_s: u64 },
    #[error("not alive: {nodes}")]
    NodesGone { nodes: String },
    #[error("{node} still runs {tasks} tasks after {patience_s} s; it gets no more")]
    StillBusy { node: String, tasks: String, patience_s: u64 },
    #[error("{n_errors} of {n_all} statements failed")]
    StatementsFailed { n_errors: usize, n_all: usize },
    #[error("{path:?} is no result of sheaf bench: {why}")]
    NoResult { path: PathBuf, why: String },
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    #[error("the node at {address} is not ready")]
    Health {
        address: HostPort,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("cannot read from the terminal")]
    Terminal(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The user has been told what failed already.
    #[error("failed")]
    Told { code: u8 },
}

impl CliError {
    /// The exit status of the process: 1, but for what scripts have to tell apart.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Sql(error) if error.is_lost() => 3,
            Self::Told { code } => *code,
            _ => 1,
        }
    }
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
