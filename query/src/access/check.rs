//! What a statement needs before it begins. What its tables need is seen where their names are found: in the binder.

use datafusion::sql::sqlparser::ast::{FromTable, MergeAction, ObjectName, TableFactor, TableObject, TableWithJoins};
use sheaf_planners::parser::table::{Source, TableStatement};
use sheaf_planners::parser::view::ViewManner;
use sheaf_planners::parser::{Assignment, AssignmentTarget, Show, StatementKind, VariableScope, ViewStatement};

use super::privileges::Privilege;
use super::rights::Rights;
use crate::binder::name_parts;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::interpreters::create_table::connection_option;
use crate::session::Session;

/// Errs unless the session may run the statement. No arm stands for 'all others': whoever adds a statement says here
/// what it needs.
pub(crate) fn statement(session: &Session, context: &QueryContext, kind: &StatementKind) -> Result<(), QueryError> {
    // Not asked for anything before the statement has caught up.
    let rights = context.rights.as_ref();
    match kind {
        // The binder asks for each table.
        StatementKind::Query(_) | StatementKind::Explain(_) => {}
        StatementKind::CreateDatabase(create) => {
            rights.need_on_database(Privilege::Create, &database(session, &create.name.value))?;
        }
        StatementKind::DropDatabase { name, .. } => {
            rights.need_on_database(Privilege::Drop, &database(session, &name.value))?;
        }
        StatementKind::CreateExternalTable(create) => {
            let (database, table) = table(session, &create.name)?;
            rights.need_on_table(Privilege::Create, &database, &table)?;
            if create.or_replace {
                rights.need_on_table(Privilege::Drop, &database, &table)?;
            }
            rights.need(&[Privilege::File])?;
            if let Some((_, connection)) = connection_option(&create.options) {
                // Whether it is there is told to nobody who may not use it.
                let catalog = session.engine().catalog();
                rights.need_connection(&catalog.connection_name(&connection).unwrap_or(connection))?;
            }
        }
        // As CREATE SERVER in MySQL.
        StatementKind::Connection(_) => rights.need(&[Privilege::Super])?,
        StatementKind::DropTable { names, .. } => {
            for name in names {
                let (database, table) = table(session, name)?;
                rights.need_on_table(Privilege::Drop, &database, &table)?;
            }
        }
        StatementKind::Table(statement) => table_statement(session, rights, statement)?,
        StatementKind::Load(load) => {
            let (database, table) = table(session, &load.table)?;
            rights.need_on_table(Privilege::Insert, &database, &table)?;
            if load.replaces {
                rights.need_on_table(Privilege::Delete, &database, &table)?;
            }
            if !load.is_local {
                rights.need(&[Privilege::File])?;
            }
        }
        StatementKind::View(statement) => view_statement(session, rights, statement)?,
        StatementKind::Set(assignments) => {
            if assignments.iter().any(is_global) {
                rights.need(&[Privilege::SystemVariablesAdmin, Privilege::Super])?;
            }
        }
        StatementKind::Show(shown) => show(session, rights, shown)?,
        StatementKind::Describe { table: name, .. } => seen_table(session, rights, name, None)?,
        StatementKind::Flush => rights.need(&[Privilege::Reload])?,
        StatementKind::AlterCluster(_) => rights.need(&[Privilege::Super])?,
        // What is executed is held against the rights by itself.
        StatementKind::Prepared(_) => {}
        // Whose they are, or which rights are given, is looked at where they are done.
        StatementKind::Use(_) | StatementKind::Kill { .. } | StatementKind::Account(_) => {}
        StatementKind::Transaction(_) | StatementKind::Nothing => {}
        // Not run at all.
        StatementKind::Other(_) => {}
    }
    Ok(())
}

/// What the view's query reads is held against the rights by the binder.
fn view_statement(session: &Session, rights: &Rights, statement: &ViewStatement) -> Result<(), QueryError> {
    let need = |privilege: Privilege, name: &ObjectName| {
        let (database, view) = table(session, name)?;
        rights.need_on_table(privilege, &database, &view).map_err(QueryError::from)
    };
    match statement {
        ViewStatement::Create(create) => {
            need(Privilege::CreateView, &create.name)?;
            match create.manner {
                ViewManner::Create | ViewManner::IfNotExists => Ok(()),
                ViewManner::OrReplace | ViewManner::Alter => need(Privilege::Drop, &create.name),
            }
        }
        ViewStatement::Drop { names, .. } => names.iter().try_for_each(|name| need(Privilege::Drop, name)),
    }
}

/// A column's right to write is not enough: writing a row, or a file anew, writes all its columns. What queries within
/// read is held against the rights by the binder.
fn table_statement(session: &Session, rights: &Rights, statement: &TableStatement) -> Result<(), QueryError> {
    let need = |privileges: &[Privilege], name: &ObjectName| {
        let (database, table) = table(session, name)?;
        privileges.iter().try_for_each(|it| rights.need_on_table(*it, &database, &table)).map_err(QueryError::from)
    };
    let need_all = |privileges: &[Privilege], from: &[TableWithJoins]| {
        from.iter().try_for_each(|it| match &it.relation {
            TableFactor::Table { name, .. } => need(privileges, name),
            // Refused where it is read.
            _ => Ok(()),
        })
    };
    match statement {
        TableStatement::Create(create) => {
            need(&[Privilege::Create], &create.name)?;
            if create.or_replace {
                need(&[Privilege::Drop], &create.name)?;
            }
            match &create.source {
                Some(Source::Like(source) | Source::Clone(source)) => need(&[Privilege::Select], source)?,
                None => {}
            }
            // As in MySQL: who may create a table may not write to it by that.
            match create.query.is_some() || matches!(create.source, Some(Source::Clone(_))) {
                true => need(&[Privilege::Insert], &create.name),
                false => Ok(()),
            }
        }
        TableStatement::Insert(insert) => {
            let privileges: &[_] = match insert.overwrite {
                true => &[Privilege::Insert, Privilege::Delete],
                false => &[Privilege::Insert],
            };
            match &insert.table {
                TableObject::TableName(name) => need(privileges, name),
                _ => Ok(()),
            }
        }
        TableStatement::Update(update) => {
            need_all(&[Privilege::Update, Privilege::Select], std::slice::from_ref(&update.table))
        }
        TableStatement::Delete(delete) => {
            let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
            need_all(&[Privilege::Delete, Privilege::Select], from)
        }
        TableStatement::Merge(merge) => {
            let mut privileges = vec![Privilege::Select];
            privileges.extend(merge.clauses.iter().map(|it| match it.action {
                MergeAction::Insert(_) => Privilege::Insert,
                MergeAction::Update(_) => Privilege::Update,
                MergeAction::Delete { .. } => Privilege::Delete,
            }));
            match &merge.table {
                TableFactor::Table { name, .. } => need(&privileges, name),
                // Refused where it is read.
                _ => Ok(()),
            }
        }
        // The binder asks for what is read.
        TableStatement::CopyTo(_) => Ok(rights.need(&[Privilege::File])?),
        TableStatement::CopyInto(copy) => {
            rights.need(&[Privilege::File])?;
            need(&[Privilege::Insert], &copy.table)
        }
        TableStatement::Truncate(names) => names.iter().try_for_each(|name| need(&[Privilege::Drop], name)),
        TableStatement::VacuumDropped { database: Some(name), .. } => {
            Ok(rights.need_on_database(Privilege::Drop, &database(session, &name.value))?)
        }
        TableStatement::VacuumDropped { database: None, .. } => Ok(rights.need(&[Privilege::Drop])?),
        TableStatement::Undrop(name) => need(&[Privilege::Create], name),
        TableStatement::History(name) => need(&[Privilege::Select], name),
        TableStatement::Restore { table, .. } => need(&[Privilege::Insert, Privilege::Delete], table),
        TableStatement::Optimize { table, .. } => need(&[Privilege::Select, Privilege::Insert], table),
        TableStatement::Vacuum { table, .. } => need(&[Privilege::Delete], table),
        TableStatement::Alter { table, .. } => need(&[Privilege::Alter], table),
        // As in MySQL.
        TableStatement::Analyze(names) => {
            names.iter().try_for_each(|name| need(&[Privilege::Select, Privilege::Insert], name))
        }
    }
}

pub(crate) fn is_global(assignment: &Assignment) -> bool {
    match &assignment.target {
        AssignmentTarget::Variable { scope, .. } | AssignmentTarget::Transaction { scope, .. } => {
            *scope == VariableScope::Global
        }
        AssignmentTarget::User(_) | AssignmentTarget::Names { .. } => false,
    }
}

/// What is listed is cut down to what one may see; what is named has to be seen.
fn show(session: &Session, rights: &Rights, show: &Show) -> Result<(), QueryError> {
    match show {
        Show::Tables { database: named, .. } | Show::TableStatus { database: named, .. } => {
            if let Some(name) = named.clone().or_else(|| session.database()) {
                rights.need_use(&database(session, &name))?;
            }
        }
        Show::CreateDatabase { name } => rights.need_use(&database(session, name))?,
        Show::Columns { table, database, .. } | Show::Index { table, database } => {
            seen_table(session, rights, table, database.as_deref())?;
        }
        Show::Partitions { table, database, .. } => {
            // It tells of the values in its files.
            let (database, table) = table_in(session, table, database.as_deref())?;
            rights.need_on_table(Privilege::Select, &database, &table)?;
        }
        Show::Stats { table: name, .. } => {
            // Bounds are values of rows.
            let (database, table) = table(session, name)?;
            rights.need_on_table(Privilege::Select, &database, &table)?;
        }
        Show::CreateView { view } => {
            let (database, view) = table(session, view)?;
            rights.need_on_table(Privilege::Select, &database, &view)?;
            rights.need_on_table(Privilege::ShowView, &database, &view)?;
        }
        Show::CreateTable { table: name } => {
            let (database, table) = table(session, name)?;
            // It tells of all columns.
            if rights.on_table(&database, &table).is_global_only() {
                return Err(rights.denied_table("SHOW", &table).into());
            }
        }
        Show::Databases { .. }
        | Show::Variables { .. }
        | Show::Status { .. }
        | Show::Warnings { .. }
        | Show::Errors { .. }
        | Show::Count { .. }
        | Show::Processlist { .. }
        | Show::Engines
        | Show::Charset { .. }
        | Show::Collation { .. }
        | Show::Plugins
        | Show::Cluster
        | Show::Settings { .. }
        | Show::Functions { .. }
        | Show::Connections { .. }
        | Show::Grants { .. }
        | Show::CreateUser { .. }
        | Show::None(_) => {}
    }
    Ok(())
}

fn seen_table(session: &Session, rights: &Rights, name: &ObjectName, of: Option<&str>) -> Result<(), QueryError> {
    let (database, table) = table_in(session, name, of)?;
    match rights.sees_table(&database, &table) {
        true => Ok(()),
        false => Err(rights.denied_table(Privilege::Select.name(), &table).into()),
    }
}

/// A database as it is spelled in the catalog, or as the statement spells it where there is none.
pub(crate) fn database(session: &Session, name: &str) -> String {
    session.engine().catalog().database_name(name).unwrap_or_else(|_| name.to_owned())
}

/// Database and table of a name, spelled alike.
pub(crate) fn table(session: &Session, name: &ObjectName) -> Result<(String, String), QueryError> {
    table_in(session, name, None)
}

/// As [`table`]; a database that is named apart outweighs the one before the dot.
fn table_in(session: &Session, name: &ObjectName, of: Option<&str>) -> Result<(String, String), QueryError> {
    let mut parts = name_parts(name)?;
    let table = parts.pop().map(|it| it.value).unwrap_or_default();
    let named = match (of, parts.pop()) {
        (Some(of), _) => of.to_owned(),
        (None, Some(named)) => named.value,
        (None, None) => session.database().ok_or(QueryError::NoDatabaseSelected)?,
    };
    let database = database(session, &named);
    let table = session.engine().catalog().table(&database, &table).map_or(table, |it| it.name);
    Ok((database, table))
}
