//! What a process has one of: catalog, runtime, functions, the sessions and the view of the cluster.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use dashmap::DashMap;
use datafusion::common::config::{ConfigNonZeroUsize, ConfigOptions};
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::SessionConfig;
use parking_lot::RwLock;
use sheaf_common::QueryId;
use sheaf_common::settings::Settings;
use sheaf_flight::FlightClient;
use sheaf_flight::memory::NodeMemoryPool;
use sheaf_planners::WorkerResolver;
use sheaf_planners::functions::register_functions;
use sheaf_planners::warnings::QueryWarnings;

use crate::catalog::provider::Tables;
use crate::catalog::{CATALOG, Catalog, DEFAULT_DATABASE};
use crate::error::QueryError;
use crate::functions;
use crate::session::{Session, SessionInit, State};
use crate::system::{ProcessRow, SessionSettings};
use crate::system_view::EngineView;
use crate::tables::listings::Listings;
use crate::tables::{self, Roots};
use crate::variables::Variables;

/// What a process starts its engine with.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// As `system.nodes` shows it.
    pub node_name: String,
    /// Catalog and spill files. Made if it is not there.
    pub data_dir: PathBuf,
    /// Where relative locations start.
    pub base_dir: PathBuf,
    /// The folders that statements may read.
    pub allow_roots: Vec<PathBuf>,
    /// Threads, and so partitions, of one query on this node.
    pub cores: usize,
    /// What operators and exchanges may hold before they spill or are refused.
    pub memory_bytes: usize,
    /// What they may have on disk.
    pub spill_bytes_max: u64,
    /// Upper part of connection and query ids.
    pub coordinator_no: u16,
    /// Which workers get tasks; none runs everything here.
    pub workers: Arc<dyn WorkerResolver>,
    /// How workers are reached.
    pub client: Arc<FlightClient>,
}

/// What `SET GLOBAL` changes, and new sessions begin with.
#[derive(Debug, Clone, Default)]
pub struct Globals {
    pub variables: Variables,
    pub settings: Settings,
}

pub struct Engine {
    options: EngineOptions,
    tables: Arc<Tables>,
    runtime: Arc<RuntimeEnv>,
    /// What every statement's state is a copy of: functions, rules, catalogs.
    base: SessionState,
    globals: RwLock<Globals>,
    sessions: DashMap<u64, Weak<Session>>,
    next_query: AtomicU64,
    started: SystemTime,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the data folder.
    ///
    /// Errs when it cannot be written, when its catalog is damaged, or when a root does not exist.
    pub async fn new(options: EngineOptions) -> Result<Arc<Self>, QueryError> {
        let spill_dir = options.data_dir.join("tmp");
        empty_folder(&spill_dir)?;
        let runtime = runtime(&spill_dir, &options)?;
        let catalog = Catalog::open(&options.data_dir).map_err(|error| QueryError::from_classified(&error))?;
        let roots = Roots::new(&options.base_dir, &options.allow_roots)
            .map_err(|source| QueryError::Io { what: format!("could not open a folder to read: {source}"), source })?;
        let mut base = base_state(Arc::clone(&runtime))?;
        let mut variables = Variables::default();
        variables.announce("hostname", options.node_name.clone());
        variables.announce("datadir", options.data_dir.display().to_string());
        let globals = Globals { variables, settings: Settings::default() };
        let started = SystemTime::now();
        // Later than any id of an earlier run of this coordinator, unless it ran a thousand statements a second.
        let first_query = started.duration_since(UNIX_EPOCH).map_or(1, |it| it.as_millis() as u64);
        Ok(Arc::new_cyclic(|engine| {
            let view = Arc::new(EngineView::new(Weak::clone(engine)));
            let tables = Tables::new(Arc::new(catalog), Arc::new(roots), view, Arc::clone(&runtime));
            base.register_catalog_list(tables.catalogs());
            for (name, function) in functions::table_functions(&tables) {
                base.register_udtf(name, function);
            }
            Self {
                options,
                tables,
                runtime,
                base,
                globals: RwLock::new(globals),
                sessions: DashMap::new(),
                next_query: AtomicU64::new(first_query),
                started,
            }
        }))
    }

    /// Begins a session. Its connection id must not be that of another.
    pub fn session(self: &Arc<Self>, init: SessionInit) -> Arc<Session> {
        let connection_id = init.connection_id;
        let mut init = init;
        // MySQL's clients select a database; the others have no such notion.
        if init.database.is_none() && !init.dialect.is_mysql() {
            init.database = Some(DEFAULT_DATABASE.to_owned());
        }
        let session = Arc::new(Session::new(Arc::clone(self), init));
        self.sessions.insert(connection_id, Arc::downgrade(&session));
        session
    }

    pub(crate) fn forget(&self, connection_id: u64) {
        self.sessions.remove_if(&connection_id, |_, session| session.strong_count() == 0);
    }

    /// Takes a session off the list, unless another has its number by now.
    pub(crate) fn close(&self, session: &Session) {
        self.sessions.remove_if(&session.connection_id(), |_, it| std::ptr::eq(it.as_ptr(), session));
    }

    /// Ends another session's statement, or the session with it.
    pub fn kill(&self, connection_id: u64, query_only: bool) -> Result<(), QueryError> {
        let session = self.sessions.get(&connection_id).and_then(|it| it.upgrade());
        match session {
            Some(session) if query_only => session.cancel(),
            Some(session) => session.kill(),
            None => return Err(QueryError::UnknownConnection { id: connection_id }),
        }
        Ok(())
    }

    /// All sessions of this process, by connection id.
    pub fn processes(&self) -> Vec<ProcessRow> {
        // Collected first: the drop of a session that goes meanwhile takes the map's lock.
        let sessions: Vec<Arc<Session>> = self.sessions.iter().filter_map(|it| it.value().upgrade()).collect();
        let mut rows: Vec<ProcessRow> = sessions.iter().map(|it| it.process()).collect();
        rows.sort_unstable_by_key(|it| it.connection_id);
        rows
    }

    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.tables.catalog
    }

    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    pub fn runtime(&self) -> &Arc<RuntimeEnv> {
        &self.runtime
    }

    pub fn workers(&self) -> &Arc<dyn WorkerResolver> {
        &self.options.workers
    }

    pub fn client(&self) -> &Arc<FlightClient> {
        &self.options.client
    }

    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// Functions and runtime for tasks: a worker's runner decodes plans with it.
    pub fn base_state(&self) -> &SessionState {
        &self.base
    }

    pub fn globals(&self) -> Globals {
        self.globals.read().clone()
    }

    pub(crate) fn change_globals<R>(&self, change: impl FnOnce(&mut Globals) -> R) -> R {
        change(&mut self.globals.write())
    }

    /// Tells new sessions what the server knows of itself, such as its port.
    pub fn announce(&self, name: &'static str, value: impl Into<String>) {
        self.change_globals(|it| it.variables.announce(name, value.into()));
    }

    pub(crate) fn next_query(&self) -> QueryId {
        QueryId::new(self.options.coordinator_no, self.next_query.fetch_add(1, Ordering::Relaxed))
    }

    /// DataFusion's options for one session.
    pub(crate) fn options_of(&self, state: &State, is_mysql: bool) -> ConfigOptions {
        let mut options = self.base.config_options().as_ref().clone();
        self.configure(&mut options, state, is_mysql);
        options
    }

    fn configure(&self, options: &mut ConfigOptions, state: &State, is_mysql: bool) {
        let settings = &state.settings;
        let threads = match usize::try_from(settings.max_threads) {
            Ok(0) | Err(_) => self.options.cores,
            Ok(threads) => threads,
        };
        options.execution.target_partitions = threads.max(1);
        let batch_size = usize::try_from(settings.batch_size).unwrap_or(usize::MAX);
        if let Ok(batch_size) = ConfigNonZeroUsize::try_new(batch_size.max(1)) {
            options.execution.batch_size = batch_size;
        }
        options.execution.time_zone = Some(state.variables.time_zone());
        options.catalog.default_schema = state.database.clone().unwrap_or_default();
        if is_mysql {
            // NULL comes first, and last when descending.
            options.sql_parser.default_null_ordering = "nulls_min".to_owned();
        }
        for (name, value) in &state.options {
            // Accepted before, so that it cannot fail; were it to, the session would only lack the option.
            let _ = options.set(name, value);
        }
    }

    /// The state that one statement is planned and run with.
    pub(crate) fn session_state(&self, state: &State, is_mysql: bool, warnings: &QueryWarnings) -> SessionState {
        let mut session_state = self.base.clone();
        let options = session_state.config_mut().options_mut();
        self.configure(options, state, is_mysql);
        options.extensions.insert(warnings.clone());
        session_state.config_mut().set_extension(Arc::new(SessionSettings(state.settings.clone())));
        session_state.config_mut().set_extension(Arc::new(Listings::default()));
        session_state.mark_start_execution();
        session_state
    }
}

fn runtime(spill_dir: &Path, options: &EngineOptions) -> Result<Arc<RuntimeEnv>, QueryError> {
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![spill_dir.to_owned()]))
        .with_max_temp_directory_size(options.spill_bytes_max);
    let pool = NodeMemoryPool::new(options.memory_bytes);
    let runtime = RuntimeEnvBuilder::new()
        .with_disk_manager_builder(disk)
        .with_memory_pool(Arc::new(pool))
        .with_cache_manager(tables::cache_config())
        .build_arc()?;
    Ok(runtime)
}

/// Everything that is the same for all sessions.
fn base_state(runtime: Arc<RuntimeEnv>) -> Result<SessionState, QueryError> {
    let mut config = SessionConfig::new()
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false)
        .with_default_catalog_and_schema(CATALOG, "");
    // The binder gives every name its one spelling; the planner takes it as it stands.
    config.options_mut().sql_parser.enable_ident_normalization = false;
    let mut state =
        SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features().build();
    register_functions(&mut state)?;
    Ok(state)
}

/// Makes a folder, or clears what an earlier run of this server left in it.
fn empty_folder(path: &Path) -> Result<(), QueryError> {
    let failed = |source| QueryError::Io {
        what: format!("could not write to the data folder: {:?}: {source}", path.display().to_string()),
        source,
    };
    std::fs::create_dir_all(path).map_err(failed)?;
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(failed)?;
    }
    Ok(())
}
