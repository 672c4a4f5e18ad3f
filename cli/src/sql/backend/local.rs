//! An engine inside this process, on local files: no server, no port.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures::{StreamExt, TryStreamExt};
use sheaf_common::config::Role;
use sheaf_common::{Classify, ErrorCode};
use sheaf_flight::admission::SLOTS_PER_CORE;
use sheaf_flight::{FlightClient, InProcessChannels};
use sheaf_planners::StaticWorkers;
use sheaf_planners::parser::SqlDialect;
use sheaf_query::access;
use sheaf_query::catalog;
use sheaf_query::cluster::NoCluster;
use sheaf_query::definitions::{self, DefinitionStore, MemoryDefinitions};
use sheaf_query::replication::NotReplicated;
use sheaf_query::{Answer, Engine, EngineOptions, Identity, QueryError, Session, SessionInit};
use sheaf_server::data_dir::DataDir;
use sheaf_server::machine;
use sheaf_server::metadata::MetadataError;
use sheaf_server::metadata::group::{Group, GroupOptions, Own};
use sheaf_server::mysql::TextCells;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::super::cells::Column;
use super::{COLUMNS, DATABASES, FUNCTIONS, Names, Outcome, RowSink, SqlError};

/// What the embedded engine may use.
pub struct LocalOptions {
    /// The folder of its databases and tables; without one they go with the process.
    pub data_dir: Option<PathBuf>,
    pub memory_bytes: u64,
    pub database: Option<String>,
}

const SPILL_BYTES_MAX: u64 = 100 << 30;
const CACHE_BYTES_MAX: u64 = 10 << 30;

pub struct Local {
    session: Arc<Session>,
    /// Where statements are planned and run: its threads have large stacks.
    compute: Handle,
    /// Keeps the databases and tables of a data folder.
    _group: Option<Arc<Group>>,
    /// Held while the engine lives: other processes keep off.
    _data_dir: DataDir,
    /// Removed at the end.
    _folder: Option<tempfile::TempDir>,
}

/// A statement's answer on its way from the engine's threads.
enum Part {
    Schema(SchemaRef),
    Batch(RecordBatch),
    Done(Outcome),
}

fn refused(error: &QueryError) -> SqlError {
    let numbers = error.code().numbers();
    SqlError::Refused { code: numbers.mysql, state: numbers.sqlstate.to_owned(), message: error.to_string() }
}

/// A group of one: no other knows of it, and no port is opened for it.
async fn open_group(data_dir: &DataDir, client: &Arc<FlightClient>) -> Result<Arc<Group>, MetadataError> {
    Group::open(GroupOptions {
        dir: data_dir.path().join("metadata"),
        join: None,
        join_timeout: definitions::TIMEOUT,
        own: Own {
            name: "local".to_owned(),
            host: "localhost".to_owned(),
            port: 0,
            role: Role::All.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            coordinator_no: 1,
        },
        client: Arc::clone(client),
        runtime: Handle::current(),
    })
    .await
}

impl Local {
    pub async fn start(options: LocalOptions, compute: Handle) -> Result<Self, SqlError> {
        let start = |error: &dyn std::error::Error| SqlError::Start(sheaf_server::error::chain(error));
        let folder = match options.data_dir {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("sheaf-local-").tempdir().map_err(|it| start(&it))?),
        };
        let data_dir = match (&options.data_dir, &folder) {
            (Some(path), _) => path.clone(),
            (None, Some(folder)) => folder.path().to_owned(),
            (None, None) => unreachable!("one of them was made above"),
        };
        let data_dir = DataDir::open(&data_dir).map_err(|it| start(&it))?;
        let base_dir = std::env::current_dir().map_err(|it| start(&it))?;
        let client = Arc::new(FlightClient::new(Arc::new(InProcessChannels::default()), None));
        let group = match &folder {
            Some(_) => None,
            None => Some(open_group(&data_dir, &client).await.map_err(|it| start(&it))?),
        };
        let definitions: Arc<dyn DefinitionStore> = match &group {
            Some(group) => {
                let begun = catalog::import::begin(group.node().as_ref(), data_dir.path(), definitions::TIMEOUT);
                begun.await.map_err(|it| start(&it))?;
                Arc::clone(group.node()) as _
            }
            None => Arc::new(MemoryDefinitions::new().map_err(|it| start(&it))?),
        };
        let engine = Engine::new(EngineOptions {
            node_name: "local".to_owned(),
            data_dir: data_dir.path().to_owned(),
            table_root: data_dir.path().join("tables").display().to_string(),
            base_dir,
            // Whoever runs the shell may read what they may read.
            allow_roots: vec![PathBuf::from("/")],
            cores: machine::cores(),
            memory_bytes: usize::try_from(options.memory_bytes).unwrap_or(usize::MAX),
            task_slots: machine::cores() * SLOTS_PER_CORE,
            test_functions: false,
            spill_bytes_max: SPILL_BYTES_MAX,
            cache_dir: data_dir.path().join("cache"),
            // Gone with the session unless a folder was named, and then the next session has it.
            cache_bytes_max: if folder.is_some() { 0 } else { CACHE_BYTES_MAX },
            coordinator_no: 1,
            workers: Arc::new(StaticWorkers::default()),
            cluster: Arc::new(NoCluster),
            client,
            definitions,
            replication: Arc::new(NotReplicated),
        });
        let engine = engine.await.map_err(|error| refused(&error))?;
        let begun = access::import::begin(engine.access(), data_dir.path(), None, definitions::TIMEOUT);
        begun.await.map_err(|it| start(&it))?;
        let session = engine.session(SessionInit {
            connection_id: 1,
            user: std::env::var("USER").unwrap_or_else(|_| "local".to_owned()),
            client_host: "localhost".to_owned(),
            identity: Identity::Embedder,
            tls: None,
            database: None,
            dialect: SqlDialect::MySql { ansi_quotes: false },
        });
        let database = options.database.as_deref().unwrap_or(catalog::DEFAULT_DATABASE);
        session.use_database(database).await.map_err(|error| refused(&error))?;
        Ok(Self { session, compute, _group: group, _data_dir: data_dir, _folder: folder })
    }

    pub fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session)
    }

    pub async fn run(&mut self, sql: &str, sink: &mut dyn RowSink) -> Result<Outcome, SqlError> {
        // A few batches: the engine's threads run on while rows are written.
        let (parts, mut inbox) = mpsc::channel(4);
        let (session, sql) = (self.session(), sql.to_owned());
        let work = self.compute.spawn(async move {
            if let Err(error) = statement(&session, &sql, &parts).await {
                // Nobody listens any more when the sink has refused a row.
                let _ = parts.send(Err(error)).await;
            }
        });
        // Ends with this call, whatever becomes of it.
        let _guard = AbortOnDrop(work.abort_handle());
        let (mut n_rows, mut cell) = (0, Vec::new());
        let mut ends: Vec<Option<usize>> = Vec::new();
        let zone = self.session.time_zone();
        while let Some(part) = inbox.recv().await {
            match part? {
                Part::Schema(schema) => sink.begin(Column::of_schema(&schema))?,
                Part::Batch(batch) => {
                    let texts = TextCells::new(&batch, &zone).map_err(value_error)?;
                    for row in 0..batch.num_rows() {
                        cell.clear();
                        ends.clear();
                        for column in 0..batch.num_columns() {
                            let is_some = texts.write(row, column, &mut cell).map_err(value_error)?;
                            ends.push(is_some.then_some(cell.len()));
                        }
                        let mut start = 0;
                        let cells = ends.iter().map(|end| {
                            end.map(|end| {
                                let text = &cell[start..end];
                                start = end;
                                text
                            })
                        });
                        sink.row(&cells.collect::<Vec<_>>())?;
                        n_rows += 1;
                    }
                }
                Part::Done(outcome) => return Ok(Outcome { n_rows, ..outcome }),
            }
        }
        Err(SqlError::Refused {
            code: ErrorCode::Internal.numbers().mysql,
            state: ErrorCode::Internal.numbers().sqlstate.to_owned(),
            message: "the statement ended without an answer: a panic, see above".to_owned(),
        })
    }

    pub fn close(self) {
        self.session.close();
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn value_error(error: impl Classify + std::error::Error) -> SqlError {
    let numbers = error.code().numbers();
    let message = sheaf_server::error::chain(&error);
    SqlError::Refused { code: numbers.mysql, state: numbers.sqlstate.to_owned(), message }
}

type Parts = mpsc::Sender<Result<Part, SqlError>>;

async fn statement(session: &Arc<Session>, sql: &str, parts: &Parts) -> Result<(), SqlError> {
    // The shell sends one statement at a time; what it takes for one may be several where its reader and the engine's
    // disagree, and then the last one's answer counts.
    let mut outcome = Outcome::default();
    let statements = session.statements(sql).map_err(|error| refused(&error))?;
    let last = statements.len().saturating_sub(1);
    for (n, statement) in statements.into_iter().enumerate() {
        let answer = session.run(statement).await.map_err(|error| refused(&error))?;
        match answer {
            Answer::Done { affected_rows, info } => {
                outcome = Outcome { affected_rows, info, ..Outcome::default() };
            }
            Answer::Rows(mut rows) => {
                outcome = Outcome { has_rows: true, ..Outcome::default() };
                if n == last && parts.send(Ok(Part::Schema(Arc::clone(&rows.schema)))).await.is_err() {
                    return Ok(());
                }
                while let Some(batch) = rows.stream.next().await {
                    let batch = batch.map_err(|error| refused(&QueryError::from(error)))?;
                    if n == last && parts.send(Ok(Part::Batch(batch))).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
    outcome.warnings = session.warning_count();
    let _ = parts.send(Ok(Part::Done(outcome))).await;
    Ok(())
}

/// Asked in the same session, so only while no statement runs: the shell completes names at its prompt.
pub async fn names(session: &Arc<Session>) -> Result<Names, SqlError> {
    let databases = texts(session, DATABASES).await?;
    let columns = texts(session, COLUMNS).await?.into_iter().filter_map(|row| row.try_into().ok()).collect();
    let functions = texts(session, FUNCTIONS).await?;
    let first = |rows: Vec<Vec<String>>| rows.into_iter().filter_map(|row| row.into_iter().next()).collect();
    Ok(Names { databases: first(databases), columns, functions: first(functions) })
}

async fn texts(session: &Arc<Session>, sql: &str) -> Result<Vec<Vec<String>>, SqlError> {
    let mut found = Vec::new();
    for answer in session.execute(sql).await.map_err(|error| refused(&error))? {
        let Answer::Rows(rows) = answer else { continue };
        let batches: Vec<RecordBatch> =
            rows.stream.try_collect().await.map_err(|error| refused(&QueryError::from(error)))?;
        for batch in &batches {
            let texts = TextCells::new(batch, "+00:00").map_err(value_error)?;
            for row in 0..batch.num_rows() {
                let text = |column| {
                    let mut out = Vec::new();
                    texts.write(row, column, &mut out).map_err(value_error)?;
                    Ok(String::from_utf8_lossy(&out).into_owned())
                };
                found.push((0..batch.num_columns()).map(text).collect::<Result<_, SqlError>>()?);
            }
        }
    }
    Ok(found)
}
