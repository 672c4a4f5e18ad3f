//! Tables that show the server itself: the databases `system` and `information_schema`.
//!
//! Their rows are made when a scan is planned, on the node that took the statement; they never go to a worker as work.
//! What only the engine knows comes through [`SystemSource`].

mod cells;
mod credits;
mod information_schema;
mod own;
mod privileges;
mod views;

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use serde::{Deserialize, Serialize};
use sheaf_common::settings::Settings;
use sheaf_common::{TaskId, WireError};

use crate::access::{SessionRights, retain_visible};
use crate::catalog::TableInfo;
use crate::catalog::names::find;
use crate::catalog::provider::Tables;
use crate::definitions::{ELECTION, GLANCE};
use crate::query_log::LogEntry;
use crate::tables::generated::GeneratedTable;
use cells::{Cell, Row, Shape};

/// The virtual databases.
pub const DATABASES: [&str; 2] = ["information_schema", "system"];

/// What the running engine tells about itself. Each call gives the state of that moment.
#[async_trait]
pub trait SystemSource: fmt::Debug + Send + Sync {
    /// The name of the node that this is.
    fn node_name(&self) -> std::result::Result<String, WireError>;

    /// All nodes of the cluster that this one knows.
    async fn nodes(&self) -> std::result::Result<Vec<NodeRow>, WireError>;

    /// The sessions of all coordinators.
    async fn processes(&self) -> std::result::Result<Vec<ProcessRow>, WireError>;

    /// The statements that this coordinator ran last, the oldest first.
    async fn queries(&self) -> std::result::Result<Vec<LogEntry>, WireError>;

    /// The replicas of the metadata.
    async fn replicas(&self) -> std::result::Result<Vec<ReplicaRow>, WireError>;

    /// What this node counts.
    async fn metrics(&self) -> std::result::Result<Vec<MetricRow>, WireError>;

    /// The tasks of the whole cluster.
    async fn tasks(&self) -> std::result::Result<Vec<TaskRow>, WireError>;
}

/// One row of `system.nodes`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeRow {
    pub name: String,
    /// `all`, `coordinator`, `worker`.
    pub role: String,
    /// `alive`, `draining`, `lost`; `incompatible` is alive and of another build, and gets no tasks from here.
    pub state: String,
    /// The advertised Flight address.
    pub host: String,
    pub port: u16,
    pub cores: u64,
    /// What queries may take.
    pub memory_limit: u64,
    /// What the memory pool has given out.
    pub memory_used: u64,
    /// Unread bytes in exchange buffers.
    pub exchange_bytes: u64,
    /// Bytes of spill files.
    pub spill_bytes: u64,
    pub tasks: u64,
    pub version: String,
    /// Milliseconds since 1970, like all times here.
    pub started_ms: Option<i64>,
}

/// One row of `system.processes`, SHOW PROCESSLIST and `information_schema.PROCESSLIST`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRow {
    pub connection_id: u64,
    pub user: String,
    pub client_host: String,
    pub database: Option<String>,
    /// `Query` or `Sleep`.
    pub command: String,
    /// `executing`, or `queued: ` and what for.
    pub state: String,
    /// When it came into this state.
    pub since_ms: i64,
    pub query_id: Option<String>,
    /// The statement that runs.
    pub statement: Option<String>,
}

/// One row of `system.raft`: a coordinator's copy of the metadata. Figures of one that does not answer are 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaRow {
    pub node: String,
    /// The node's role: `all` or `coordinator`.
    pub node_role: String,
    pub host: String,
    pub port: u16,
    pub version: String,
    pub replica: u64,
    /// `leader`, `follower`, `candidate`, `learner`, `removed`; `unreachable` does not answer.
    pub role: String,
    pub term: u64,
    /// The replica that leads as far as this one knows; 0 is none.
    pub leader: u64,
    /// Log indices: what a majority has, what is applied here, the last entry, and the entry after which the log begins.
    pub commit: u64,
    pub applied: u64,
    pub last: u64,
    pub cut: u64,
    /// Since the coordinator that was asked last heard from it; `None` is never.
    pub last_contact_ms: Option<u64>,
}

impl ReplicaRow {
    pub fn is_reached(&self) -> bool {
        self.role != "unreachable"
    }
}

/// One row of `system.metrics`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricRow {
    pub name: String,
    /// `counter`, `gauge`, `histogram`, `summary`.
    pub kind: String,
    /// `name="value",…`; empty for most.
    pub labels: String,
    pub value: f64,
    pub description: String,
}

/// One row of `system.tasks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRow {
    /// The worker's name.
    pub node: String,
    pub task: TaskId,
    /// `waiting`, `running`, `finished`, `failed`.
    pub state: String,
    /// The name of the node whose query it belongs to.
    pub coordinator: String,
    pub output_rows: u64,
    /// Bytes of output that are held.
    pub buffered_bytes: u64,
    pub started_ms: i64,
}

/// The settings of a session, put into its DataFusion configuration as an extension so that `system.settings` shows
/// them. Without it the defaults are shown.
#[derive(Debug, Clone, Default)]
pub struct SessionSettings(pub Settings);

/// One virtual table.
struct Definition {
    database: &'static str,
    name: &'static str,
    shape: Shape,
}

static DEFINITIONS: LazyLock<Vec<Definition>> = LazyLock::new(|| {
    let of = |database, tables: &'static [(&'static str, &'static str)]| {
        let define = move |(name, columns): &'static (&'static str, &'static str)| Definition {
            database,
            name,
            shape: Shape::parse(columns),
        };
        tables.iter().map(define)
    };
    of("information_schema", information_schema::TABLES).chain(of("system", own::TABLES)).collect()
});

/// The names of a virtual database's tables; `None` if it is not one.
pub fn table_names(database: &str) -> Option<Vec<String>> {
    let of = DEFINITIONS.iter().filter(|it| it.database == database);
    DATABASES.contains(&database).then(|| of.map(|it| it.name.to_owned()).collect())
}

/// How long whoever reads a table waits for what other coordinators acknowledged, if it is one that shows the cluster or
/// this node and not what was defined: without a majority it is how one looks what is wrong. `None` waits in full.
pub fn wait_to_show(database: &str, table: &str) -> Option<Duration> {
    let is = |names: &[&str]| names.iter().any(|it| it.eq_ignore_ascii_case(table));
    match database.eq_ignore_ascii_case("system") {
        true if is(own::SHOWN_TO_ALL) => Some(GLANCE),
        // Whose rows are shown is a matter of rights, which may have been taken a moment ago.
        true if is(own::SHOWN_BY_RIGHTS) => Some(ELECTION),
        _ => None,
    }
}

/// The tables of a virtual database with their columns, by name.
pub fn tables(database: &str) -> Vec<TableInfo> {
    let of = DEFINITIONS.iter().filter(|it| it.database == database);
    let mut tables: Vec<_> = of
        .map(|it| TableInfo {
            database: it.database.to_owned(),
            name: it.name.to_owned(),
            table_type: "SYSTEM VIEW",
            engine: "SYSTEM",
            schema: Arc::clone(it.shape.schema()),
            created_ms: None,
            def: None,
            version: None,
            view: None,
        })
        .collect();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    tables
}

/// A virtual table as DataFusion scans it.
pub fn table(database: &str, name: &str, tables: &Arc<Tables>) -> Option<Arc<dyn TableProvider>> {
    let of = || DEFINITIONS.iter().filter(move |it| it.database == database);
    let name = find(of().map(|it| it.name), name)?;
    let definition = of().find(|it| it.name == name)?;
    if (definition.database, definition.name) == own::NUMBERS {
        return Some(Arc::new(GeneratedTable::all_numbers()));
    }
    Some(Arc::new(SystemTable { definition, tables: Arc::clone(tables) }))
}

struct SystemTable {
    definition: &'static Definition,
    tables: Arc<Tables>,
}

impl fmt::Debug for SystemTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SystemTable({}.{})", self.definition.database, self.definition.name)
    }
}

impl SystemTable {
    async fn rows(&self, session: &dyn Session) -> std::result::Result<Vec<Row>, WireError> {
        if let Some(session) = session.config().get_extension::<SessionRights>()
            && self.definition.database == "information_schema"
            && let Some(rows) = privileges::rows(self.definition.name, session.accounts())
        {
            return Ok(rows);
        }
        if (self.definition.database, self.definition.name) == ("information_schema", "VIEWS") {
            let rights = session.config().get_extension::<SessionRights>();
            return views::rows(&self.tables, rights.as_ref().map(|it| it.rights().as_ref()));
        }
        match self.definition.database {
            "system" => own::rows(self.definition.name, &self.tables, session).await,
            _ => information_schema::rows(self.definition.name, &self.tables).await,
        }
    }

    /// Leaves the rows that the session may see.
    async fn retain_visible(&self, session: &dyn Session, rows: &mut Vec<Row>) -> std::result::Result<(), WireError> {
        let Some(rights) = session.config().get_extension::<SessionRights>() else { return Ok(()) };
        let rights = rights.rights().as_ref();
        if rights.account().is_none() {
            return Ok(());
        }
        let mut own_queries = vec![];
        let has_column = |name: &str| self.schema().column_with_name(name).is_some();
        // Asks all coordinators: not where no row is told by its query.
        if self.definition.database == "system" && has_column("query_id") && !has_column("user") {
            let processes = self.tables.system.processes().await?.into_iter();
            own_queries.extend(processes.filter(|it| it.user == rights.who().user).filter_map(|it| it.query_id));
        }
        let columns: Vec<String> = self.schema().fields().iter().map(|it| it.name().clone()).collect();
        let cell = |row: &Row, at: usize| match row.get(at) {
            Some(Cell::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let table = (self.definition.database, self.definition.name);
        retain_visible(rights, table, &columns, rows, cell, |query| own_queries.iter().any(|it| it == query));
        Ok(())
    }
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.definition.shape.schema())
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let external = |error: WireError| DataFusionError::External(Box::new(error));
        let mut rows = self.rows(session).await.map_err(external)?;
        self.retain_visible(session, &mut rows).await.map_err(external)?;
        let batch = self.definition.shape.batch(rows)?;
        let exec = MemorySourceConfig::try_new_exec(&[vec![batch]], self.schema(), projection.cloned())?;
        Ok(exec)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use sheaf_common::{QueryId, StageId};

    use super::*;
    use crate::catalog::DatabaseEngine;
    use crate::catalog::provider::tests::{answer, session};

    /// An engine with one node, one session and one task.
    #[derive(Debug)]
    pub(crate) struct Nothing;

    #[async_trait]
    impl SystemSource for Nothing {
        fn node_name(&self) -> std::result::Result<String, WireError> {
            Ok("n1".to_owned())
        }

        async fn nodes(&self) -> std::result::Result<Vec<NodeRow>, WireError> {
            Ok(vec![NodeRow { name: "n1".into(), role: "all".into(), state: "alive".into(), ..NodeRow::default() }])
        }

        async fn processes(&self) -> std::result::Result<Vec<ProcessRow>, WireError> {
            Ok(vec![ProcessRow { connection_id: 7, command: "Sleep".into(), ..ProcessRow::default() }])
        }

        async fn queries(&self) -> std::result::Result<Vec<LogEntry>, WireError> {
            Ok(vec![LogEntry { statement: "SELECT 1".into(), ..LogEntry::default() }])
        }

        async fn replicas(&self) -> std::result::Result<Vec<ReplicaRow>, WireError> {
            Ok(vec![ReplicaRow { node: "n1".into(), role: "leader".into(), ..ReplicaRow::default() }])
        }

        async fn metrics(&self) -> std::result::Result<Vec<MetricRow>, WireError> {
            Ok(vec![MetricRow { name: "sheaf_things".into(), value: 1.5, ..MetricRow::default() }])
        }

        async fn tasks(&self) -> std::result::Result<Vec<TaskRow>, WireError> {
            let task = TaskId { query: QueryId(1), stage: StageId(2), task: 3, attempt: 0 };
            Ok(vec![TaskRow {
                node: "n1".into(),
                task,
                state: "running".into(),
                coordinator: "n1".into(),
                output_rows: 1,
                buffered_bytes: 2,
                started_ms: 3,
            }])
        }
    }

    #[tokio::test]
    async fn every_table_is_scanned() {
        let (_folder, tables, session) = session();
        tables.catalog.create_database("tpch", DatabaseEngine::Tpch { scale: 0.1 }, false).await.unwrap();
        for database in DATABASES {
            for table in table_names(database).unwrap() {
                let sql = format!("select * from {database}.\"{table}\" limit 100");
                answer(&session, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            }
        }
    }

    async fn check(sql: &str, expected: &[&str]) {
        let (_folder, tables, session) = session();
        tables.catalog.create_database("tpch", DatabaseEngine::Tpch { scale: 0.1 }, false).await.unwrap();
        let text = answer(&session, sql).await.unwrap();
        for part in expected {
            assert!(text.contains(part), "{sql}: no {part} in\n{text}");
        }
    }

    #[tokio::test]
    async fn tables_show_what_there_is() {
        check("select dummy from system.one", &["| 0 "]).await;
        check("select * from system.databases", &["| default ", "| TPCH(scale = 0.1) ", "| information_schema "]).await;
        check("select * from system.tables where name = 'nation'", &["| tpch ", "| TPCH "]).await;
        let columns = "select name, type from system.columns where \"table\" = 'orders' and database = 'tpch'";
        check(columns, &["| o_orderkey ", "| bigint ", "| decimal ", "| varchar "]).await;
        check("select kind, count(*) from system.functions group by kind", &["aggregate", "table", "scalar"]).await;
        check("select value from system.settings where name = 'batch_size'", &["| 8192 "]).await;
        check("select value from system.metrics where name = 'sheaf_things'", &["| 1.5 "]).await;
        check("select number from system.numbers where number > 41 limit 1", &["| 42 "]).await;
        check("select sum(number) from system.numbers where number <= 10", &["| 55 "]).await;
        check("select name from system.nodes where state = 'alive'", &["| n1 "]).await;
        check("select node, stage, task from system.tasks", &["| n1   | 2     | 3    |"]).await;
        check("select statement, node from system.queries where error is null", &["| SELECT 1  | n1 "]).await;
        check("select stage, tasks, running from system.stages", &["| 2     | 1     | 1 "]).await;
        check("select value from system.build_options where name = 'datafusion'", &["| 5"]).await;
        check("select name, licence from system.credits", &["datafusion", "Apache-2.0"]).await;
        check("select \"DEFAULT_CHARACTER_SET_NAME\" from information_schema.schemata", &["utf8mb4"]).await;
        let sql = "select \"COLUMN_TYPE\", \"IS_NULLABLE\" from information_schema.columns \
                   where \"TABLE_NAME\" = 'lineitem' and \"COLUMN_NAME\" = 'l_quantity'";
        check(sql, &["| decimal(15,2) | NO "]).await;
        check("select \"ID\", \"COMMAND\" from information_schema.PROCESSLIST", &["| 7  | Sleep "]).await;
    }
}
