//! The database `system`.

use std::collections::BTreeMap;

use datafusion::catalog::Session;
use datafusion::execution::SessionState;
use datafusion::logical_expr::Documentation;
use sheaf_common::{ErrorCode, WireError};

use super::cells::{Cell, Row, row};
use super::{SessionSettings, credits};
use crate::catalog::provider::Tables;
use crate::catalog::{DatabaseKind, TableInfo};
use crate::tables::mysql_types::mysql_type;
use crate::tables::wire;

/// The table that has no end; its rows come from elsewhere.
pub(super) const NUMBERS: (&str, &str) = ("system", "numbers");

/// Tables that depend on no definition and show everybody the same.
pub(super) const SHOWN_TO_ALL: &[&str] = &[
    "build_options",
    "contributors",
    "credits",
    "functions",
    "metrics",
    "nodes",
    NUMBERS.1,
    "one",
    "raft",
    "settings",
];
/// Tables that depend on no definition and show what the session may see.
pub(super) const SHOWN_BY_RIGHTS: &[&str] = &["processes", "queries", "stages", "tasks"];

/// Names and columns, as [`super::cells::Shape`] reads them.
pub(super) const TABLES: &[(&str, &str)] = &[
    ("build_options", "name:s value:s"),
    ("columns", "database:s table:s name:s position:u type:s column_type:s arrow_type:s is_nullable:u"),
    ("contributors", "name:s"),
    ("credits", "name:s version:s licence:s"),
    ("databases", "name:s engine:s is_virtual:u created:t? tables:u"),
    ("functions", "name:s kind:s is_alias:u syntax:s? description:s?"),
    ("metrics", "name:s kind:s labels:s value:f description:s node:s"),
    (
        "nodes",
        "name:s role:s state:s host:s port:u cores:u memory_limit:u memory_used:u exchange_bytes:u spill_bytes:u \
         tasks:u version:s started:t?",
    ),
    (NUMBERS.1, "number:u"),
    ("one", "dummy:u"),
    ("processes", "id:u user:s host:s database:s? command:s state:s since:t elapsed_ms:u query_id:s? statement:s?"),
    (
        "queries",
        "query_id:s id:u user:s host:s database:s? statement:s started:t planning_us:u reading_us:u rows:u stages:u \
         tasks:u exchange_bytes:u error_code:u? error:s? node:s",
    ),
    (
        "raft",
        "node:s replica:u role:s term:u leader:u commit_index:u applied_index:u last_index:u log_start:u \
         last_contact_ms:u?",
    ),
    ("settings", "name:s value:s default:s description:s"),
    ("stages", "query_id:s stage:u tasks:u waiting:u running:u finished:u failed:u output_rows:u buffered_bytes:u"),
    ("tables", "database:s name:s type:s engine:s created:t? location:s? statement:s?"),
    (
        "tasks",
        "query_id:s stage:u task:u attempt:u node:s state:s coordinator:s output_rows:u buffered_bytes:u started:t",
    ),
];

pub(super) async fn rows(name: &str, tables: &Tables, session: &dyn Session) -> Result<Vec<Row>, WireError> {
    Ok(match name {
        "columns" => all_tables(tables)?.iter().flat_map(columns).collect(),
        "contributors" => credits::contributors().map(|name| row![name]).collect(),
        "credits" => credits::crates().map(|(name, version, licence)| row![name, version, licence]).collect(),
        "databases" => databases(tables)?,
        "functions" => functions(session),
        "metrics" => metrics(tables).await?,
        "nodes" => nodes(tables).await?,
        "one" => vec![row![0u64]],
        "processes" => processes(tables).await?,
        "queries" => queries(tables).await?,
        "raft" => raft(tables).await?,
        "settings" => settings(session),
        "stages" => stages(tables).await?,
        "build_options" => build_options(),
        "tables" => all_tables(tables)?.iter().map(table).collect(),
        "tasks" => tasks(tables).await?,
        _ => return Err(WireError::new(ErrorCode::Internal, format!("nothing fills table system.{name}"))),
    })
}

/// The tables of all databases. One that is dropped meanwhile is left out.
pub(super) fn all_tables(tables: &Tables) -> Result<Vec<TableInfo>, WireError> {
    let mut all = vec![];
    for database in tables.catalog.databases() {
        match tables.catalog.tables(&database.name) {
            Ok(found) => all.extend(found),
            Err(crate::catalog::CatalogError::DatabaseNotFound { .. }) => {}
            Err(error) => return Err(wire(&error)),
        }
    }
    Ok(all)
}

fn databases(tables: &Tables) -> Result<Vec<Row>, WireError> {
    let all = all_tables(tables)?;
    let databases = tables.catalog.databases().into_iter();
    Ok(databases
        .map(|it| {
            let created = tables.catalog.database(&it.name).ok().and_then(|def| def.created_ms);
            let count = all.iter().filter(|table| table.database == it.name).count() as u64;
            let is_virtual = u64::from(it.kind == DatabaseKind::Virtual);
            row![it.name, it.engine, is_virtual, created.map(Cell::Time), count]
        })
        .collect())
}

fn table(table: &TableInfo) -> Row {
    let location = table.def.as_ref().map(|def| def.locations());
    let statement = table.def.as_ref().map(|def| def.create_statement());
    let created = table.created_ms.map(Cell::Time);
    row![&table.database, &table.name, table.table_type, table.engine, created, location, statement]
}

fn columns(table: &TableInfo) -> Vec<Row> {
    let fields = table.schema.fields().iter().zip(1u64..);
    fields
        .map(|(field, position)| {
            let mysql = mysql_type(field.data_type());
            let (database, table, is_nullable) = (&table.database, &table.name, u64::from(field.is_nullable()));
            let arrow = field.data_type().to_string();
            row![database, table, field.name(), position, mysql.data_type, mysql.column_type, arrow, is_nullable]
        })
        .collect()
}

fn functions(session: &dyn Session) -> Vec<Row> {
    /// What a name stands for, in the order in which names are shown.
    type Entries<'a> = BTreeMap<(String, &'static str), (bool, Option<&'a Documentation>)>;
    let mut all = Entries::new();
    for (name, function) in session.scalar_functions() {
        all.insert((name.clone(), "scalar"), (name != function.name(), function.documentation()));
    }
    for (name, function) in session.aggregate_functions() {
        all.insert((name.clone(), "aggregate"), (name != function.name(), function.documentation()));
    }
    for (name, function) in session.window_functions() {
        all.insert((name.clone(), "window"), (name != function.name(), function.documentation()));
    }
    for name in session.higher_order_functions().keys() {
        all.insert((name.clone(), "scalar"), (false, None));
    }
    if let Some(state) = session.as_any().downcast_ref::<SessionState>() {
        all.extend(state.table_functions().keys().map(|name| ((name.clone(), "table"), (false, None))));
    }
    let entries = all.into_iter();
    entries
        .map(|((name, kind), (is_alias, documentation))| {
            let syntax = documentation.map(|it| it.syntax_example.clone());
            row![name, kind, u64::from(is_alias), syntax, documentation.map(|it| it.description.clone())]
        })
        .collect()
}

fn settings(session: &dyn Session) -> Vec<Row> {
    let rows = match session.config().get_extension::<SessionSettings>() {
        Some(settings) => settings.0.rows(),
        None => SessionSettings::default().0.rows(),
    };
    rows.into_iter().map(|it| row![it.name, it.value, it.default, it.description]).collect()
}

async fn nodes(tables: &Tables) -> Result<Vec<Row>, WireError> {
    let nodes = tables.system.nodes().await?.into_iter();
    Ok(nodes
        .map(|it| {
            row![
                it.name,
                it.role,
                it.state,
                it.host,
                u64::from(it.port),
                it.cores,
                it.memory_limit,
                it.memory_used,
                it.exchange_bytes,
                it.spill_bytes,
                it.tasks,
                it.version,
                it.started_ms.map(Cell::Time),
            ]
        })
        .collect())
}

/// What the coordinator that is asked counts.
async fn metrics(tables: &Tables) -> Result<Vec<Row>, WireError> {
    let node = tables.system.node_name()?;
    let metrics = tables.system.metrics().await?.into_iter();
    Ok(metrics.map(|it| row![it.name, it.kind, it.labels, it.value, it.description, &node]).collect())
}

async fn processes(tables: &Tables) -> Result<Vec<Row>, WireError> {
    let processes = tables.system.processes().await?.into_iter();
    Ok(processes
        .map(|it| {
            row![
                it.connection_id,
                it.user,
                it.client_host,
                it.database,
                it.command,
                it.state,
                Cell::Time(it.since_ms),
                elapsed_ms(it.since_ms),
                it.query_id,
                it.statement,
            ]
        })
        .collect())
}

async fn raft(tables: &Tables) -> Result<Vec<Row>, WireError> {
    let replicas = tables.system.replicas().await?.into_iter();
    Ok(replicas
        .map(|it| {
            row![
                it.node,
                it.replica,
                it.role,
                it.term,
                it.leader,
                it.commit,
                it.applied,
                it.last,
                it.cut,
                it.last_contact_ms,
            ]
        })
        .collect())
}

async fn tasks(tables: &Tables) -> Result<Vec<Row>, WireError> {
    let tasks = tables.system.tasks().await?.into_iter();
    Ok(tasks
        .map(|it| {
            row![
                it.task.query.to_string(),
                u64::from(it.task.stage.0),
                u64::from(it.task.task),
                u64::from(it.task.attempt),
                it.node,
                it.state,
                it.coordinator,
                it.output_rows,
                it.buffered_bytes,
                Cell::Time(it.started_ms),
            ]
        })
        .collect())
}

/// The statements that this coordinator ran last.
async fn queries(tables: &Tables) -> Result<Vec<Row>, WireError> {
    let node = tables.system.node_name()?;
    let queries = tables.system.queries().await?.into_iter();
    Ok(queries
        .map(|it| {
            let (code, error) = it.error.map_or((None, None), |(code, error)| (Some(u64::from(code)), Some(error)));
            row![
                it.query_id,
                it.connection_id,
                it.user,
                it.client_host,
                it.database,
                it.statement,
                Cell::Time(it.started_ms),
                it.planning_us,
                it.reading_us,
                it.rows,
                it.counts.stages,
                it.counts.tasks,
                it.counts.exchange_bytes,
                code,
                error,
                &node,
            ]
        })
        .collect())
}

/// The tasks of `system.tasks`, by stage.
async fn stages(tables: &Tables) -> Result<Vec<Row>, WireError> {
    /// Waiting, running, finished, failed, then rows and bytes.
    type Sums = [u64; 6];
    let mut stages = BTreeMap::<(String, u32), Sums>::new();
    // Where another attempt was faster, that one counts.
    for task in tables.system.tasks().await?.into_iter().filter(|it| it.state != "overtaken") {
        let sums = stages.entry((task.task.query.to_string(), task.task.stage.0)).or_default();
        match task.state.as_str() {
            "waiting" => sums[0] += 1,
            "running" => sums[1] += 1,
            "finished" => sums[2] += 1,
            _ => sums[3] += 1,
        }
        sums[4] += task.output_rows;
        sums[5] += task.buffered_bytes;
    }
    let row = |((query, stage), sums): ((String, u32), Sums)| {
        let [waiting, running, finished, failed, rows, bytes] = sums;
        let n_tasks = waiting + running + finished + failed;
        row![query, u64::from(stage), n_tasks, waiting, running, finished, failed, rows, bytes]
    };
    Ok(stages.into_iter().map(row).collect())
}

/// What this binary was built as.
fn build_options() -> Vec<Row> {
    let option = |name: &str, value: &str| row![name, value];
    vec![
        option("version", env!("CARGO_PKG_VERSION")),
        option("rust_version", env!("CARGO_PKG_RUST_VERSION")),
        option("target_arch", std::env::consts::ARCH),
        option("target_os", std::env::consts::OS),
        option("debug_assertions", if cfg!(debug_assertions) { "on" } else { "off" }),
        option("datafusion", datafusion::DATAFUSION_VERSION),
    ]
}

/// Milliseconds since a time; 0 if clocks disagree.
pub(super) fn elapsed_ms(since_ms: i64) -> u64 {
    u64::try_from(chrono::Utc::now().timestamp_millis().saturating_sub(since_ms)).unwrap_or(0)
}
