//! Upkeep of managed tables that nobody asks for: small files are written together in the background.
//!
//! One coordinator does it, whoever leads them, and one table at a time: `OPTIMIZE` as a session of its own runs it, one
//! task a stage, so that it takes less than a quarter of what any worker has. It shows among the sessions and in the
//! query log as any other. Whoever changes rows of the table comes first: see [`crate::managed::turns`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sheaf_common::Classify;
use sheaf_planners::parser::table::TableStatement;
use sheaf_planners::parser::{SqlDialect, StatementKind, parse};
use tracing::{debug, info, warn};

use crate::access::Identity;
use crate::answer::Answer;
use crate::catalog::{DatabaseKind, TableSource};
use crate::engine::Engine;
use crate::error::QueryError;
use crate::interpreters::small_files;
use crate::managed::definition::ManagedDef;
use crate::session::{Session, SessionInit};

/// The user that its sessions show. Nobody can log in as one without an account of this name.
pub const USER: &str = "sheaf.compaction";

/// How often tables are looked at, and how many at a time: each look asks the storage whether there is a new version.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const LOOKS_AT_ONCE: usize = 16;

/// Small files with which it starts.
const FILES_MIN: usize = 32;

/// How long a table is left alone after its files were written together, after a statement came first, and after an
/// error.
const REST: Duration = Duration::from_secs(5);
const REST_AFTER_GIVING_WAY: Duration = Duration::from_secs(10);
const REST_AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Of the cores, which part its plans may keep busy.
const CORES_SHARE: usize = 4;

/// Ids of connections are 32 bits; this is none of them.
const CONNECTION_IDS: u64 = 1 << 32;

/// Keeps the tables of a cluster compact for as long as the future lives. `leads` says whether this coordinator is the
/// one to do it.
pub async fn keep<F: Future<Output = bool>>(engine: Arc<Engine>, leads: impl Fn() -> F) {
    let mut upkeep = Upkeep { engine, resting: HashMap::new(), next: 0 };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if upkeep.engine.globals().settings.auto_compaction && leads().await {
            upkeep.look().await;
        }
    }
}

struct Table {
    database: String,
    name: String,
    def: ManagedDef,
}

struct Upkeep {
    engine: Arc<Engine>,
    /// By location: until when a table is left alone.
    resting: HashMap<String, Instant>,
    /// Which table is looked at next.
    next: usize,
}

impl Upkeep {
    async fn look(&mut self) {
        let tables = self.tables();
        let now = Instant::now();
        self.resting.retain(|_, until| *until > now);
        for _ in 0..tables.len().min(LOOKS_AT_ONCE) {
            self.next = (self.next + 1) % tables.len();
            let table = &tables[self.next];
            if self.resting.contains_key(&table.def.location) {
                continue;
            }
            match self.needs_it(&table.def).await {
                Ok(false) => {}
                Ok(true) => {
                    let rest = self.compact(table).await;
                    self.resting.insert(table.def.location.clone(), Instant::now() + rest);
                }
                Err(error) => {
                    debug!(table = %table.name, %error, "a table cannot be looked at");
                    self.resting.insert(table.def.location.clone(), Instant::now() + REST_AFTER_FAILURE);
                }
            }
        }
    }

    /// All managed tables, in one order.
    fn tables(&self) -> Vec<Table> {
        let catalog = self.engine.catalog();
        let databases = catalog.databases().into_iter().filter(|it| it.kind == DatabaseKind::User);
        // One that is dropped meanwhile has none.
        let tables = databases.flat_map(|it| catalog.tables(&it.name).unwrap_or_default());
        let managed = tables.filter_map(|info| match &info.def.as_ref()?.source {
            TableSource::Managed(def) => Some(Table { database: info.database, name: info.name, def: def.clone() }),
            TableSource::Files(_) => None,
        });
        managed.collect()
    }

    async fn needs_it(&self, def: &ManagedDef) -> Result<bool, QueryError> {
        let log = self.engine.managed().log(&def.location).map_err(|error| QueryError::from_classified(&error))?;
        let snapshot = log.latest().await.map_err(|error| QueryError::from_classified(&error))?;
        Ok(snapshot.check_writable().is_ok() && small_files(&snapshot, None).len() >= FILES_MIN)
    }

    /// Runs it; how long the table rests then.
    async fn compact(&self, table: &Table) -> Duration {
        let Table { database, name, .. } = table;
        let started = Instant::now();
        match run(&self.session(), database, name).await {
            Ok(()) => {
                info!(%database, table = %name, elapsed_ms = started.elapsed().as_millis() as u64, "table compacted");
                REST
            }
            // A statement came first, which is as it should be.
            Err(error) if error.code() == sheaf_common::ErrorCode::WriteConflict => {
                debug!(%database, table = %name, %error, "compaction gave way");
                REST_AFTER_GIVING_WAY
            }
            Err(error) => {
                warn!(%database, table = %name, %error, "a table could not be compacted");
                REST_AFTER_FAILURE
            }
        }
    }

    fn session(&self) -> Arc<Session> {
        let options = self.engine.options();
        let session = self.engine.session(SessionInit {
            connection_id: CONNECTION_IDS + u64::from(options.coordinator_no),
            user: USER.to_owned(),
            client_host: options.node_name.clone(),
            identity: Identity::Embedder,
            tls: None,
            database: None,
            dialect: SqlDialect::MySql { ansi_quotes: false },
        });
        let threads = (options.cores / CORES_SHARE).max(1) as u64;
        session.with_state(|state| {
            state.settings.max_threads = threads;
            // One task for each stage.
            state.settings.bytes_per_task = u64::MAX;
            state.settings.speculation = false;
        });
        session
    }
}

async fn run(session: &Arc<Session>, database: &str, table: &str) -> Result<(), QueryError> {
    let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
    let text = format!("OPTIMIZE TABLE {}.{}", quoted(database), quoted(table));
    for mut statement in parse(&text, session.dialect())? {
        if let StatementKind::Table(statement) = &mut statement.kind
            && let TableStatement::Optimize { gives_way, .. } = statement.as_mut()
        {
            *gives_way = true;
        }
        if let Answer::Rows(rows) = session.run(statement).await? {
            let _: Vec<_> = futures::TryStreamExt::try_collect(rows.stream).await?;
        }
    }
    Ok(())
}
