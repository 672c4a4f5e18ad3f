//! What runs the shell's statements: a server, or an engine inside this process.

mod local;
mod server;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use local::{Local, LocalOptions};
pub use server::{Server, Target};

use super::cells::Column;
use super::format::Cells;
use crate::client::LoginError;

/// Why a statement did not end well.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The engine's own words.
    #[error("ERROR {code} ({state}): {message}")]
    Refused { code: u16, state: String, message: String },
    /// The server cannot be reached, or does not let this user in.
    #[error("cannot connect to {server}: {reason}")]
    Connect { server: String, reason: String },
    #[error("lost the connection to the server: {0}")]
    Lost(String),
    #[error("cannot write the answer")]
    Output(#[from] io::Error),
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The embedded engine cannot be started.
    #[error("cannot start the embedded engine: {0}")]
    Start(String),
}

impl SqlError {
    /// Whether whoever reads the answer has gone: nothing to complain about.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Connect { .. })
    }
}

/// Where the rows of an answer go.
pub trait RowSink {
    fn begin(&mut self, columns: Vec<Column>) -> io::Result<()>;
    fn row(&mut self, cells: &Cells<'_>) -> io::Result<()>;
}

/// How a statement ended.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub has_rows: bool,
    pub n_rows: u64,
    pub affected_rows: u64,
    pub warnings: u16,
    pub info: String,
}

/// What a running statement has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub stages: u64,
    pub stages_done: u64,
    pub tasks: u64,
    pub tasks_done: u64,
    /// Rows that its tasks gave to one another and to the coordinator.
    pub rows: u64,
    /// What its exchanges hold now.
    pub bytes: u64,
}

/// Names that the shell completes.
#[derive(Debug, Clone, Default)]
pub struct Names {
    pub databases: Vec<String>,
    /// Database, table, column.
    pub columns: Vec<[String; 3]>,
    pub functions: Vec<String>,
}

/// Runs statements, one at a time.
pub enum Backend {
    Server(Box<Server>),
    Local(Box<Local>),
}

impl Backend {
    /// Runs one statement and gives its rows away as they come. When the sink refuses one, the statement may still run:
    /// [`Control::cancel`] ends it.
    pub async fn run(&mut self, sql: &str, sink: &mut dyn RowSink) -> Result<Outcome, SqlError> {
        match self {
            Self::Server(server) => server.run(sql, sink).await,
            Self::Local(local) => local.run(sql, sink).await,
        }
    }

    /// Connects anew. Settings and variables of the session are as at its beginning, its database is the same.
    pub async fn reconnect(&mut self) -> Result<(), SqlError> {
        match self {
            Self::Server(server) => server.reconnect().await,
            Self::Local(_) => Ok(()),
        }
    }

    /// Makes the session usable after a statement whose answer was not read.
    pub async fn recover(&mut self) -> Result<(), SqlError> {
        match self {
            Self::Server(server) => server.recover().await,
            Self::Local(_) => Ok(()),
        }
    }

    /// What may be asked beside a running statement.
    pub fn control(&self) -> Control {
        match self {
            Self::Server(server) => Control::Server(server.side()),
            Self::Local(local) => Control::Local(local.session()),
        }
    }

    /// Such as `root@127.0.0.1:3307`.
    pub fn description(&self) -> String {
        match self {
            Self::Server(server) => server.description(),
            Self::Local(_) => "an engine in this process".to_owned(),
        }
    }

    pub async fn close(self) {
        match self {
            Self::Server(server) => server.close().await,
            Self::Local(local) => local.close(),
        }
    }
}

/// Looks at a running statement and ends it, from a connection of its own.
#[derive(Clone)]
pub enum Control {
    Server(Arc<server::Side>),
    Local(Arc<sheaf_query::Session>),
}

/// What is asked beside the statement must not hold it up for longer.
const PATIENCE: Duration = Duration::from_secs(2);

impl Control {
    /// Ends the statement that runs. Errs when the server does not hear of it.
    pub async fn cancel(&self) -> Result<(), SqlError> {
        match self {
            Self::Server(side) => within(side.kill()).await,
            Self::Local(session) => {
                session.cancel();
                Ok(())
            }
        }
    }

    /// `None` where nothing is known: the engine runs the statement in one process.
    pub async fn snapshot(&self) -> Option<Snapshot> {
        match self {
            Self::Server(side) => within(side.snapshot()).await.ok().flatten(),
            Self::Local(_) => None,
        }
    }

    pub async fn names(&self) -> Option<Names> {
        match self {
            Self::Server(side) => within(side.names()).await.ok(),
            Self::Local(session) => within(local::names(session)).await.ok(),
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T, SqlError>>) -> Result<T, SqlError> {
    let late = || SqlError::Lost(format!("no answer within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(late()))
}

/// What the names come from, one statement each.
const DATABASES: &str = "SELECT name FROM system.databases ORDER BY name";
const COLUMNS: &str = "SELECT database, `table`, name FROM system.columns";
const FUNCTIONS: &str = "SELECT DISTINCT name FROM system.functions ORDER BY name";
