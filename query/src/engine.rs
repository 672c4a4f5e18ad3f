//! What a process has one of: catalog, runtime, functions, the sessions and the view of the cluster.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use dashmap::DashMap;
use datafusion::common::ScalarValue;
use datafusion::common::config::{ConfigNonZeroUsize, ConfigOptions};
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;
use parking_lot::RwLock;
use sheaf_common::QueryId;
use sheaf_common::definitions::{Change, IfExists, Object};
use sheaf_common::settings::Settings;
use sheaf_flight::memory::NodeMemoryPool;
use sheaf_flight::{Admission, FlightClient};
use sheaf_planners::functions::register_functions;
use sheaf_planners::keep_nan::KeepNan;
use sheaf_planners::namesakes::guarded;
use sheaf_planners::table_sink::TableWriters;
use sheaf_planners::warnings::QueryWarnings;
use sheaf_planners::{Homes, WorkerResolver};
use url::Url;

use crate::access::{Access, AccessError, Privilege, Rights};
use crate::catalog::provider::Tables;
use crate::catalog::{CATALOG, Catalog, DEFAULT_DATABASE};
use crate::cluster::ClusterControl;
use crate::context::set_joins;
use crate::coordinator::Queued;
use crate::definitions::{DefinitionStore, TIMEOUT};
use crate::error::QueryError;
use crate::functions;
use crate::managed::ManagedTables;
use crate::managed::storage::{Storage, folder_url};
use crate::managed::writer::FileWriters;
use crate::query_log::QueryLog;
use crate::replication::Replication;
use crate::session::{Session, SessionInit, State};
use crate::system::{ProcessRow, SessionSettings};
use crate::system_view::EngineView;
use crate::tables::data_cache::DataCache;
use crate::tables::hot::HotTables;
use crate::tables::listings::Listings;
use crate::tables::stores::Stores;
use crate::tables::{self, Roots, TableError};
use crate::variables::{Effect, Variables};

/// What the data folder has that no statement may read as files: keys, accounts, definitions, and rows of queries.
const PRIVATE: [&str; 7] =
    ["metadata", "tls", "tmp", "accounts.json", "accounts.json.imported", "catalog.json", "catalog.json.imported"];

/// What a process starts its engine with.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// As `system.nodes` shows it.
    pub node_name: String,
    /// Spill files. Made if it is not there.
    pub data_dir: PathBuf,
    /// Where relative locations start.
    pub base_dir: PathBuf,
    /// Where managed tables are kept: an absolute path or a URL, the same on all nodes.
    pub table_root: String,
    /// The folders that statements may read.
    pub allow_roots: Vec<PathBuf>,
    /// Threads, and so partitions, of one query on this node.
    pub cores: usize,
    /// What operators and exchanges may hold before they spill or are refused.
    pub memory_bytes: usize,
    /// Tasks that may run here at a time, those of queries of this process only included.
    pub task_slots: usize,
    /// What they may have on disk.
    pub spill_bytes_max: u64,
    /// Where what was read of remote objects is kept, and how much of it; 0 keeps nothing.
    pub cache_dir: PathBuf,
    pub cache_bytes_max: u64,
    /// Makes functions known that fail on purpose.
    pub test_functions: bool,
    /// Upper part of connection and query ids.
    pub coordinator_no: u16,
    /// Which workers get tasks; none runs everything here.
    pub workers: Arc<dyn WorkerResolver>,
    /// Its other coordinators, and how its nodes are told to leave.
    pub cluster: Arc<dyn ClusterControl>,
    /// How workers are reached.
    pub client: Arc<FlightClient>,
    /// Where databases, tables and the like are kept.
    pub definitions: Arc<dyn DefinitionStore>,
    /// Who else keeps them.
    pub replication: Arc<dyn Replication>,
}

/// What `SET GLOBAL` changes, and new sessions begin with.
#[derive(Debug, Clone, Default)]
pub struct Globals {
    pub variables: Variables,
    pub settings: Settings,
}

impl Globals {
    /// Sets one of our settings or of MySQL's variables; `None` is the default. Nothing is changed on an error.
    fn set(&mut self, name: &str, value: Option<&ScalarValue>) -> Result<Effect, QueryError> {
        if !Settings::contains(name) {
            return self.variables.set(name, value, None);
        }
        let text = match value {
            Some(value) => value.to_string(),
            None => Settings::default().get(name).unwrap_or_default(),
        };
        self.settings.set(name, &text)?;
        Ok(Effect::Set)
    }
}

pub struct Engine {
    options: EngineOptions,
    tables: Arc<Tables>,
    runtime: Arc<RuntimeEnv>,
    /// What every statement's state is a copy of: functions, rules, catalogs.
    base: SessionState,
    /// The same without functions, which only the planning of texts looks up: their names are most of what a copy takes.
    bare: SessionState,
    access: Arc<Access>,
    /// What this server knows of itself.
    own_variables: RwLock<Variables>,
    /// As of a version of the definitions.
    globals: RwLock<Option<(u64, Globals)>>,
    sessions: DashMap<u64, Weak<Session>>,
    log: QueryLog,
    /// Which queries may use this node's memory.
    admission: Arc<Admission>,
    queued: Arc<Queued>,
    /// Which worker read what before.
    homes: Homes,
    next_query: AtomicU64,
    hot_tables: HotTables,
    started: SystemTime,
    /// Who knows what is counted, in Prometheus' text format; set once.
    metrics: OnceLock<MetricsText>,
}

/// Gives all that a process counts, in Prometheus' text format.
pub type MetricsText = Box<dyn Fn() -> String + Send + Sync>;

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the data folder. There are the accounts that the store of definitions has: see [`Access::begin`].
    ///
    /// Errs when it cannot be written, or when a root does not exist.
    pub async fn new(options: EngineOptions) -> Result<Arc<Self>, QueryError> {
        sheaf_common::panics::watch();
        let spill_dir = options.data_dir.join("tmp");
        empty_folder(&spill_dir)?;
        let runtime = runtime(&spill_dir, &options)?;
        let access = Arc::new(Access::new(Arc::clone(&options.definitions)));
        let catalog = Catalog::new(Arc::clone(&options.definitions));
        let private = PRIVATE.iter().map(|it| options.data_dir.join(it)).chain([options.cache_dir.clone()]);
        let roots = Roots::new(&options.base_dir, &options.allow_roots)
            .map(|it| it.without(private))
            .map_err(|source| QueryError::Io { what: format!("could not open a folder to read: {source}"), source })?;
        let cache = open_cache(&options).await?;
        let stores = Arc::new(Stores::new(Arc::clone(&runtime), cache.clone()));
        let storage = Arc::new(Storage::new(Arc::clone(&stores)));
        let mut base = base_state(Arc::clone(&runtime), Arc::clone(&storage), cache)?;
        if options.test_functions {
            base.register_udf(functions::planted::sheaf_panic())?;
        }
        let root = table_root(&options.table_root).map_err(|error| QueryError::from_classified(&error))?;
        let managed = Arc::new(ManagedTables::new(root, storage, stores, Arc::clone(&runtime.memory_pool)));
        let mut variables = Variables::default();
        variables.announce("hostname", options.node_name.clone());
        variables.announce("datadir", options.data_dir.display().to_string());
        let started = SystemTime::now();
        // Later than any id of an earlier run of this coordinator, unless it ran a thousand statements a second.
        let first_query = started.duration_since(UNIX_EPOCH).map_or(1, |it| it.as_millis() as u64);
        Ok(Arc::new_cyclic(|engine| {
            let view = Arc::new(EngineView::new(Weak::clone(engine)));
            let tables = Tables::new(Arc::new(catalog), Arc::new(roots), view, managed, Arc::clone(&runtime));
            base.register_catalog_list(tables.catalogs());
            for (name, function) in functions::table_functions(&tables) {
                base.register_udtf(name, function);
            }
            let bare = SessionStateBuilder::new_from_existing(base.clone())
                .with_scalar_functions(vec![])
                .with_higher_order_functions(vec![])
                .with_aggregate_functions(vec![])
                .with_window_functions(vec![])
                .with_table_function_list(vec![])
                .build();
            Self {
                admission: Admission::new(
                    options.node_name.clone(),
                    options.task_slots,
                    u64::try_from(options.memory_bytes).unwrap_or(u64::MAX),
                ),
                queued: Arc::default(),
                hot_tables: HotTables::new(options.memory_bytes),
                homes: Homes::default(),
                options,
                tables,
                runtime,
                base,
                bare,
                access,
                own_variables: RwLock::new(variables),
                globals: RwLock::default(),
                sessions: DashMap::new(),
                log: QueryLog::default(),
                next_query: AtomicU64::new(first_query),
                started,
                metrics: OnceLock::new(),
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

    /// Whether a session is here. Errs if it is, is another's, and these rights do not do for ending it.
    pub(crate) fn check_kill(&self, rights: &Rights, connection_id: u64) -> Result<bool, QueryError> {
        let of = self.sessions.get(&connection_id).and_then(|it| it.upgrade());
        let Some(session) = of else { return Ok(false) };
        if session.user() != rights.who().user {
            let may = rights.need(&[Privilege::ConnectionAdmin, Privilege::Super]);
            may.map_err(|_| AccessError::NotOwner { id: connection_id })?;
            // Who manages connections does not thereby manage those of system users.
            if session.rights().global().has(Privilege::SystemUser) {
                rights.need(&[Privilege::SystemUser])?;
            }
        }
        Ok(true)
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

    /// Who may log in, and what they may do.
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// The statements that this process ran last.
    pub fn log(&self) -> &QueryLog {
        &self.log
    }

    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.tables.catalog
    }

    /// Where databases, tables and the like are kept.
    pub fn definitions(&self) -> &Arc<dyn DefinitionStore> {
        &self.options.definitions
    }

    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// The tables that statements write.
    pub fn managed(&self) -> &Arc<ManagedTables> {
        &self.tables.managed
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

    /// Which queries may use this node's memory: its worker's tasks and its own statements.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// The queries of this coordinator that wait to be let in.
    pub fn queued(&self) -> &Arc<Queued> {
        &self.queued
    }

    /// Rows of small tables that statements ask for again and again.
    pub(crate) fn hot_tables(&self) -> &HotTables {
        &self.hot_tables
    }

    /// Which worker read what before, as far as this coordinator placed it.
    pub fn homes(&self) -> &Homes {
        &self.homes
    }

    /// Makes known what `system.metrics` shows; only the first call counts.
    pub fn show_metrics(&self, text: MetricsText) {
        let _ = self.metrics.set(text);
    }

    pub(crate) fn metrics_text(&self) -> String {
        self.metrics.get().map(|text| text()).unwrap_or_default()
    }

    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// Functions and runtime for tasks: a worker's runner decodes plans with it.
    pub fn base_state(&self) -> &SessionState {
        &self.base
    }

    /// The same for statements that were planned before: it knows no functions by name.
    pub(crate) fn bare_state(&self) -> &SessionState {
        &self.bare
    }

    /// What new sessions begin with: what this server knows of itself, and what `SET GLOBAL` has changed.
    pub fn globals(&self) -> Globals {
        let definitions = self.definitions().local();
        if let Some((version, globals)) = self.globals.read().as_ref()
            && *version == definitions.version()
        {
            return globals.clone();
        }
        let mut globals = Globals { variables: self.own_variables.read().clone(), settings: Settings::default() };
        for (name, record) in definitions.settings() {
            // Other things are kept under such names too, and newer versions have more of them.
            if let Ok(value) = record.parsed::<Option<String>>() {
                let _ = globals.set(name, Some(&ScalarValue::Utf8(value.as_ref().clone())));
            }
        }
        *self.globals.write() = Some((definitions.version(), globals.clone()));
        globals
    }

    /// Changes what new sessions of every coordinator begin with; `None` goes back to the default.
    ///
    /// Errs on what is no variable or no value of it, and when the store fails; nothing is changed then.
    pub(crate) async fn set_global(&self, name: &str, value: Option<&ScalarValue>) -> Result<Effect, QueryError> {
        if self.globals().set(name, value)? == Effect::Ignored {
            return Ok(Effect::Ignored);
        }
        let object = Object::setting(name.to_ascii_lowercase());
        let change = match value {
            Some(value) => {
                let text = match value {
                    ScalarValue::Boolean(Some(value)) => Some(u8::from(*value).to_string()),
                    value if value.is_null() => None,
                    value => Some(value.to_string()),
                };
                Change::create(object, serde_json::json!(text).to_string(), IfExists::Replace)
            }
            None => Change::Drop { object, if_missing_keep: true, cascade: false, expected: None },
        };
        let changed = self.definitions().change(vec![change], TIMEOUT).await;
        changed.map(|_| Effect::Set).map_err(|error| QueryError::from_classified(&error))
    }

    /// Tells new sessions what the server knows of itself, such as its port.
    pub fn announce(&self, name: &'static str, value: impl Into<String>) {
        self.own_variables.write().announce(name, value.into());
        *self.globals.write() = None;
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
        set_joins(options, settings.join_strategy);
        options.execution.time_zone = Some(state.variables.time_zone());
        options.catalog.default_schema = state.database.clone().unwrap_or_default();
        if is_mysql {
            // NULL comes first, and last when descending.
            options.sql_parser.default_null_ordering = "nulls_min".to_owned();
            // `0.1` is a tenth; `1e-1` is the nearest double.
            options.sql_parser.parse_float_as_decimal = true;
        }
        for (name, value) in &state.options {
            // Accepted before, so that it cannot fail; were it to, the session would only lack the option.
            let _ = options.set(name, value);
        }
    }

    /// The state that one statement is planned and run with, made of [`Self::base_state`] or [`Self::bare_state`].
    pub(crate) fn session_state(
        &self,
        base: &SessionState,
        state: &State,
        is_mysql: bool,
        warnings: &QueryWarnings,
    ) -> SessionState {
        let mut session_state = base.clone();
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
        .with_cache_manager(tables::cache_config(options.memory_bytes))
        .build_arc()?;
    Ok(runtime)
}

/// The cache of remote objects, unless it is off.
async fn open_cache(options: &EngineOptions) -> Result<Option<Arc<DataCache>>, QueryError> {
    let (folder, bytes_max) = (options.cache_dir.clone(), options.cache_bytes_max);
    if bytes_max == 0 {
        return Ok(None);
    }
    let opened = SpawnedTask::spawn_blocking(move || DataCache::open(&folder, bytes_max)).await;
    opened.map(Some).map_err(|error| {
        let source = error.into();
        QueryError::Io { what: format!("could not open the data cache: {source}"), source }
    })
}

/// Everything that is the same for all sessions.
fn base_state(
    runtime: Arc<RuntimeEnv>,
    storage: Arc<Storage>,
    cache: Option<Arc<DataCache>>,
) -> Result<SessionState, QueryError> {
    let mut config = SessionConfig::new()
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false)
        .with_default_catalog_and_schema(CATALOG, "");
    // The binder gives every name its one spelling; the planner takes it as it stands.
    config.options_mut().sql_parser.enable_ident_normalization = false;
    config.set_extension(Arc::new(TableWriters(Arc::new(FileWriters::new(storage)))));
    if let Some(cache) = cache {
        config.set_extension(cache);
    }
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_physical_optimizer_rules(guarded(PhysicalOptimizer::new().rules))
        .with_physical_optimizer_rule(Arc::new(KeepNan))
        .build();
    register_functions(&mut state)?;
    for function in functions::mysql::functions() {
        state.register_udf(function)?;
    }
    Ok(state)
}

/// The URL of where tables are kept, from what the node was told; the folder need not exist yet.
fn table_root(text: &str) -> Result<Url, TableError> {
    match Url::parse(text) {
        Ok(mut url) => {
            if !url.path().ends_with('/') {
                url.set_path(&format!("{}/", url.path()));
            }
            Ok(url)
        }
        Err(_) => {
            let path = std::path::absolute(text).map_err(|error| TableError::unreadable(text, error))?;
            folder_url(&path)
        }
    }
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
