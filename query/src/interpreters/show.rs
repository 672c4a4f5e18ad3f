//! `SHOW`, one function a kind.

mod constants;
mod create;
mod partitions;

use std::time::{SystemTime, UNIX_EPOCH};

use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use sheaf_planners::parser::{NothingToShow, Show, ShowFilter};

use super::rows::Rows;
use super::{account, connection, describe};
use crate::access::Privilege;
use crate::answer::Answer;
use crate::binder::{find_table, name_parts};
use crate::catalog::CatalogError;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::processes;
use crate::session::{Level, Session};

/// Characters of a statement that `SHOW PROCESSLIST` shows without FULL.
const PROCESS_TEXT_CHARACTERS: usize = 100;

pub(super) async fn run(session: &Session, context: &QueryContext, show: Show) -> Result<Answer, QueryError> {
    let state = &context.session_state;
    match show {
        Show::Databases { filter } => {
            let mut rows = Rows::new(&[&with_pattern("Database", filter.as_ref())]);
            let databases = session.engine().catalog().databases().into_iter();
            for database in databases.filter(|it| context.rights.sees_database(&it.name)) {
                rows.push(vec![Some(database.name)]);
            }
            rows.filtered(filter, 0, state)
        }
        Show::Tables { full, database, filter } => tables(session, context, full, database, filter),
        Show::Columns { full, table, database, filter } => {
            let parts = qualified(&table, database)?;
            describe::columns(context, &parts, full).await?.filtered(filter, 0, state)
        }
        Show::CreateTable { table } => create::table(session, context, &name_parts(&table)?).await,
        Show::CreateView { view } => create::view(context, &name_parts(&view)?).await,
        Show::CreateDatabase { name } => create::database(session, &name),
        Show::Variables { global, filter } => variables(session, global).filtered(filter, 0, state),
        Show::Status { filter } => status(session).filtered(filter, 0, state),
        Show::Settings { filter } => settings(session).filtered(filter, 0, state),
        Show::Functions { filter } => functions(context).filtered(filter, 0, state),
        Show::Warnings { limit } => warnings(session, limit, false).answer(),
        Show::Errors { limit } => warnings(session, limit, true).answer(),
        Show::Count { errors } => {
            let (name, count) = session.with_state(|state| match errors {
                true => ("#@@session.error_count", state.error_count() as u64),
                false => ("#@@session.warning_count", state.warning_total),
            });
            let mut rows = Rows::new(&[name]);
            rows.push(vec![Some(count.to_string())]);
            rows.answer()
        }
        Show::Processlist { full } => processlist(session, context, full).await.answer(),
        Show::TableStatus { database, filter } => table_status(session, context, database)?.filtered(filter, 0, state),
        Show::Index { table, database } => {
            // Errs if there is no such table; none has an index.
            find_table(state, &qualified(&table, database)?).await?;
            constants::indexes().answer()
        }
        Show::Partitions { table, database, filter } => {
            let table = ObjectName::from(qualified(&table, database)?);
            partitions::run(session, context, table, filter).await
        }
        Show::Stats { table, filter } => super::table::show_statistics(session, context, &table, filter),
        Show::Cluster => cluster(session).await?.answer(),
        Show::Connections { filter } => connection::show(session, context, filter),
        Show::Engines => constants::engines().answer(),
        Show::Charset { filter } => constants::charsets().filtered(filter, 0, state),
        Show::Collation { filter } => constants::collations().filtered(filter, 0, state),
        Show::Plugins => constants::plugins().answer(),
        Show::Grants { of, using } => account::grants(session, context, &of, &using)?.answer(),
        Show::CreateUser { user } => account::create_statement(session, context, &user)?.answer(),
        Show::None(NothingToShow::Privileges) => constants::privileges().answer(),
        Show::None(kind) => constants::nothing(kind).answer(),
    }
}

/// MySQL tells the pattern of a LIKE in the name of the column.
fn with_pattern(name: &str, filter: Option<&ShowFilter>) -> String {
    match filter {
        Some(ShowFilter::Like(pattern)) => format!("{name} ({pattern})"),
        _ => name.to_owned(),
    }
}

/// The parts of a table's name; `FROM database` outweighs what is written before a dot.
fn qualified(table: &ObjectName, database: Option<String>) -> Result<Vec<Ident>, QueryError> {
    let parts = name_parts(table)?;
    Ok(match (database, parts.last()) {
        (Some(database), Some(table)) => vec![Ident::with_quote('`', database), table.clone()],
        _ => parts,
    })
}

fn database_or_current(session: &Session, database: Option<String>) -> Result<String, QueryError> {
    let database = database.or_else(|| session.database()).ok_or(QueryError::NoDatabaseSelected)?;
    let found = session.engine().catalog().database_name(&database);
    found.map_err(|_| QueryError::DatabaseNotFound { name: database })
}

fn tables(
    session: &Session,
    context: &QueryContext,
    full: bool,
    database: Option<String>,
    filter: Option<ShowFilter>,
) -> Result<Answer, QueryError> {
    let database = database_or_current(session, database)?;
    let name = with_pattern(&format!("Tables_in_{database}"), filter.as_ref());
    let mut rows = match full {
        true => Rows::new(&[&name, "Table_type"]),
        false => Rows::new(&[&name]),
    };
    let (catalog, is_seen) = (session.engine().catalog(), context.rights.tables_seen(&database));
    match full {
        true => {
            let tables = catalog.tables(&database).map_err(catalog_error)?.into_iter();
            for table in tables.filter(|it| is_seen(&it.name)) {
                rows.push(vec![Some(table.name), Some(table.table_type.to_owned())]);
            }
        }
        // Without a look at their columns.
        false => {
            let names = catalog.table_names(&database).map_err(catalog_error)?.into_iter();
            for name in names.filter(|it| is_seen(it)) {
                rows.push(vec![Some(name)]);
            }
        }
    }
    rows.filtered(filter, 0, &context.session_state)
}

/// The nodes, and what each does for the metadata.
async fn cluster(session: &Session) -> Result<Rows, QueryError> {
    let system = &session.engine().tables().system;
    let (nodes, replicas) = futures::try_join!(system.nodes(), system.replicas())?;
    let mut rows = Rows::new(&["Node", "Role", "State", "Address", "Version", "Cores", "Metadata"]);
    for node in nodes {
        let replica = replicas.iter().find(|it| it.node == node.name);
        let address = (!node.host.is_empty()).then(|| format!("{}:{}", node.host, node.port));
        let (version, cores) = (Some(node.version), (node.cores > 0).then(|| node.cores.to_string()));
        let metadata = replica.map(|it| it.role.clone());
        rows.push(vec![Some(node.name), Some(node.role), Some(node.state), address, version, cores, metadata]);
    }
    Ok(rows)
}

fn catalog_error(error: CatalogError) -> QueryError {
    QueryError::from_classified(&error)
}

fn variables(session: &Session, global: bool) -> Rows {
    let globals = session.engine().globals();
    let (variables, settings) = match global {
        true => (globals.variables, globals.settings),
        false => session.with_state(|state| (state.variables.clone(), state.settings.clone())),
    };
    let mut all: Vec<(String, String)> =
        variables.rows().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    all.extend(settings.rows().into_iter().map(|it| (it.name.to_owned(), it.value)));
    all.sort();
    let mut rows = Rows::new(&["Variable_name", "Value"]);
    for (name, value) in all {
        rows.push(vec![Some(name), Some(value)]);
    }
    rows
}

fn status(session: &Session) -> Rows {
    let engine = session.engine();
    let processes = engine.processes();
    let n_running = processes.iter().filter(|it| it.command == "Query").count();
    let uptime = engine.started().elapsed().unwrap_or_default().as_secs();
    let mut rows = Rows::new(&["Variable_name", "Value"]);
    for (name, value) in [
        ("Ssl_cipher", session.tls().map(|it| it.cipher.clone()).unwrap_or_default()),
        ("Ssl_version", session.tls().map(|it| it.version.to_owned()).unwrap_or_default()),
        ("Threads_connected", processes.len().to_string()),
        ("Threads_running", n_running.to_string()),
        ("Uptime", uptime.to_string()),
    ] {
        rows.push(vec![Some(name.to_owned()), Some(value)]);
    }
    if let Some((query, counts)) = session.with_state(|state| state.last_query) {
        for (name, value) in [
            ("Sheaf_last_query_id", query.to_string()),
            ("Sheaf_last_query_stages", counts.stages.to_string()),
            ("Sheaf_last_query_tasks", counts.tasks.to_string()),
            ("Sheaf_last_query_rows", counts.rows.to_string()),
            ("Sheaf_last_query_exchange_bytes", counts.exchange_bytes.to_string()),
            ("Sheaf_last_query_restarts", counts.restarts.to_string()),
            ("Sheaf_last_query_speculative_attempts", counts.speculated.to_string()),
            ("Sheaf_last_query_overtaken_tasks", counts.overtaken.to_string()),
        ] {
            rows.push(vec![Some(name.to_owned()), Some(value)]);
        }
    }
    rows
}

fn settings(session: &Session) -> Rows {
    let mut rows = Rows::new(&["name", "value", "default", "description"]);
    for row in session.with_state(|state| state.settings.rows()) {
        let (name, description) = (row.name.to_owned(), row.description.to_owned());
        rows.push(vec![Some(name), Some(row.value), Some(row.default), Some(description)]);
    }
    rows
}

fn functions(context: &QueryContext) -> Rows {
    let state = &context.session_state;
    let mut all: Vec<(String, &str)> = vec![];
    all.extend(state.scalar_functions().keys().map(|it| (it.clone(), "scalar")));
    all.extend(state.aggregate_functions().keys().map(|it| (it.clone(), "aggregate")));
    all.extend(state.window_functions().keys().map(|it| (it.clone(), "window")));
    all.extend(state.table_functions().keys().map(|it| (it.clone(), "table")));
    all.retain(|(name, _)| !name.starts_with("sheaf_"));
    all.sort();
    let mut rows = Rows::new(&["name", "kind"]);
    for (name, kind) in all {
        rows.push(vec![Some(name), Some(kind.to_owned())]);
    }
    rows
}

fn warnings(session: &Session, limit: Option<(u64, u64)>, errors_only: bool) -> Rows {
    let (offset, count) = limit.unwrap_or((0, u64::MAX));
    let all = session.with_state(|state| state.warnings.clone());
    let mut rows = Rows::new(&["Level", "#Code", "Message"]);
    let shown = all.into_iter().filter(|it| !errors_only || it.level == Level::Error);
    let skip = usize::try_from(offset).unwrap_or(usize::MAX);
    for it in shown.skip(skip).take(usize::try_from(count).unwrap_or(usize::MAX)) {
        rows.push(vec![Some(it.level.name().to_owned()), Some(it.code.to_string()), Some(it.message)]);
    }
    rows
}

async fn processlist(session: &Session, context: &QueryContext, full: bool) -> Rows {
    let sees_all = context.rights.global().has(Privilege::Process);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    let mut rows = Rows::new(&["#Id", "User", "Host", "db", "Command", "#Time", "State", "Info"]);
    for it in processes::all(session.engine()).await {
        if !sees_all && it.user != session.user() {
            continue;
        }
        let text = match full {
            true => it.statement,
            false => it.statement.map(|text| text.chars().take(PROCESS_TEXT_CHARACTERS).collect()),
        };
        let seconds = now_ms.saturating_sub(it.since_ms).max(0) / 1000;
        rows.push(vec![
            Some(it.connection_id.to_string()),
            Some(it.user),
            Some(it.client_host),
            it.database,
            Some(it.command),
            Some(seconds.to_string()),
            Some(it.state),
            text,
        ]);
    }
    rows
}

fn table_status(session: &Session, context: &QueryContext, database: Option<String>) -> Result<Rows, QueryError> {
    let database = database_or_current(session, database)?;
    let mut rows = Rows::new(&[
        "Name",
        "Engine",
        "#Version",
        "Row_format",
        "#Rows",
        "#Avg_row_length",
        "#Data_length",
        "#Max_data_length",
        "#Index_length",
        "#Data_free",
        "#Auto_increment",
        "Create_time",
        "Update_time",
        "Check_time",
        "Collation",
        "#Checksum",
        "Create_options",
        "Comment",
    ]);
    let tables = session.engine().catalog().tables(&database).map_err(catalog_error)?;
    let is_seen = context.rights.tables_seen(&database);
    for table in tables.into_iter().filter(|it| is_seen(&it.name)) {
        let text = |it: &str| Some(it.to_owned());
        let created = table.created_ms.and_then(chrono::DateTime::from_timestamp_millis);
        if table.is_view() {
            // As MySQL has it: nothing is known but that it is there.
            let mut row = vec![Some(table.name)];
            row.extend(std::iter::repeat_n(None, 10));
            row.push(created.map(|it| it.format("%Y-%m-%d %H:%M:%S").to_string()));
            row.extend(std::iter::repeat_n(None, 5));
            row.push(text("VIEW"));
            rows.push(row);
            continue;
        }
        let mut row = vec![Some(table.name), text(table.engine), text("10"), text("Dynamic")];
        row.extend([None, None, None, None, None, None, None]);
        row.extend([created.map(|it| it.format("%Y-%m-%d %H:%M:%S").to_string()), None, None]);
        row.extend([text("utf8mb4_0900_ai_ci"), None, text(""), text("")]);
        rows.push(row);
    }
    Ok(rows)
}

/// The columns of what is never there.
fn columns_of(kind: NothingToShow) -> &'static [&'static str] {
    match kind {
        NothingToShow::Triggers => {
            &["Trigger", "Event", "Table", "Statement", "Timing", "Created", "sql_mode", "Definer"]
        }
        NothingToShow::Events => &["Db", "Name", "Definer", "Time zone", "Type", "Execute at", "Status"],
        NothingToShow::Routines => {
            &["Db", "Name", "Type", "Definer", "Modified", "Created", "Security_type", "Comment"]
        }
        NothingToShow::Privileges => &["Privilege", "Context", "Comment"],
        NothingToShow::OpenTables => &["Database", "Table", "#In_use", "#Name_locked"],
        NothingToShow::Replicas => &["#Server_Id", "Host", "#Port", "#Source_Id", "Replica_UUID"],
        NothingToShow::BinaryLogStatus => {
            &["File", "#Position", "Binlog_Do_DB", "Binlog_Ignore_DB", "Executed_Gtid_Set"]
        }
    }
}
