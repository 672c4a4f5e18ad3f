//! What each kind of statement does; one file a kind.

mod account;
mod cluster;
mod connection;
mod create_database;
pub(crate) mod create_table;
mod describe;
mod drop;
mod explain;
mod kill;
mod load;
mod prepare;
mod query;
mod rows;
mod set;
mod show;
mod table;
mod transaction;
mod view;

pub(crate) use query::run_kept;
pub(crate) use table::small_files;

use std::sync::Arc;

use datafusion::common::ScalarValue;
use sheaf_planners::parser::{OutputName, QueryStatement, Show, Statement, StatementKind, VariableScope};

use crate::access;
use crate::answer::Answer;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::mysql_semantics::Rewrite;
use crate::session::{Described, Session};

/// Runs a statement; `values` are those of its parameters.
pub(crate) async fn interpret(
    session: &Session,
    context: &Arc<QueryContext>,
    statement: Statement,
    values: &[ScalarValue],
) -> Result<Answer, QueryError> {
    catch_up_for(session, context, &statement.kind).await?;
    access::check::statement(session, context, &statement.kind)?;
    match statement.kind {
        StatementKind::Query(query) => query::run(session, context, *query, values).await,
        StatementKind::Explain(explain) => explain::run(session, context, *explain, values).await,
        StatementKind::CreateDatabase(create) => create_database::run(session, &create).await,
        StatementKind::DropDatabase { name, if_exists } => drop::database(session, &name, if_exists).await,
        StatementKind::CreateExternalTable(create) => create_table::run(session, context, *create).await,
        StatementKind::DropTable { names, if_exists } => drop::tables(session, &names, if_exists).await,
        StatementKind::Table(statement) => table::run(session, context, *statement, values).await,
        StatementKind::Load(statement) => load::run(session, context, *statement).await,
        StatementKind::View(statement) => view::run(session, context, *statement).await,
        StatementKind::Use(name) => session.use_database(&name.value).await.map(|()| Answer::done()),
        StatementKind::Set(assignments) => set::run(session, context, assignments, values).await,
        StatementKind::Show(show) => show::run(session, context, show).await,
        StatementKind::Describe { table, column } => describe::run(context, &table, column.as_deref()).await,
        StatementKind::Kill { connection_id, query_only } => {
            kill::run(session, context, connection_id, query_only).await
        }
        StatementKind::Prepared(statement) => prepare::run(session, statement),
        StatementKind::Account(statement) => account::run(session, context, *statement).await,
        StatementKind::Connection(statement) => connection::run(session, statement).await,
        StatementKind::Flush => Ok(Answer::done()),
        StatementKind::Transaction(transaction) => transaction::run(session, transaction),
        StatementKind::AlterCluster(change) => cluster::run(session, change).await,
        StatementKind::Nothing => Ok(Answer::done()),
        StatementKind::Other(statement) => Err(QueryError::unsupported(format!("the statement {}", verb(&statement)))),
    }
}

/// How much a statement has to know of what was acknowledged before it.
enum Needs {
    /// It looks at nothing that coordinators agree on; or, as queries do, sees to it where it names tables.
    Nothing,
    /// Everything, or it fails.
    All,
    /// Everything, unless there is no majority to tell: then what this process knows has to do.
    AllIfPossible,
}

fn needs_of(kind: &StatementKind) -> Needs {
    match kind {
        StatementKind::CreateDatabase(_)
        | StatementKind::DropDatabase { .. }
        | StatementKind::CreateExternalTable(_)
        | StatementKind::DropTable { .. }
        | StatementKind::Table(_)
        | StatementKind::View(_)
        | StatementKind::Load(_)
        // Grants name tables, and are decided on the accounts as they are.
        | StatementKind::Account(_)
        | StatementKind::Connection(_)
        | StatementKind::Describe { .. } => Needs::All,
        StatementKind::Set(assignments) if assignments.iter().any(access::check::is_global) => Needs::All,
        StatementKind::Show(show) => match show {
            Show::Databases { .. }
             | Show::Tables { .. }
             | Show::Columns { .. }
             | Show::CreateTable { .. }
             | Show::CreateView { .. }
             | Show::CreateDatabase { .. }
             | Show::TableStatus { .. }
             | Show::Index { .. }
             | Show::Partitions { .. }
             | Show::Stats { .. }
             | Show::Grants { .. }
             | Show::CreateUser { .. }
             | Show::Connections { .. } => Needs::All,
             // Whether others' sessions are shown depends on rights; it is also how one looks what is wrong.
             Show::Processlist { .. } => Needs::AllIfPossible,
             _ => Needs::Nothing,
         },
         // What they need is a right, which may have been taken on another coordinator.
         StatementKind::Kill { .. } | StatementKind::AlterCluster(_) | StatementKind::Flush => Needs::AllIfPossible,
        // A database that is made current is looked up there.
        StatementKind::Use(_)
        | StatementKind::Query(_)
        | StatementKind::Explain(_)
        | StatementKind::Set(_)
        | StatementKind::Transaction(_)
        | StatementKind::Prepared(_)
        | StatementKind::Nothing
        | StatementKind::Other(_) => Needs::Nothing,
    }
}

/// Makes sure that a statement sees what was acknowledged before it. Queries see to it themselves, where they name
/// tables.
async fn catch_up_for(session: &Session, context: &QueryContext, kind: &StatementKind) -> Result<(), QueryError> {
    match needs_of(kind) {
        Needs::Nothing => Ok(()),
        Needs::All => session.catch_up(context.deadline).await,
        Needs::AllIfPossible => {
            session.catch_up_if_possible(context.deadline).await;
            Ok(())
        }
    }
}

/// What a statement's answer will look like, as far as it can be told before its parameters have values.
pub(crate) async fn describe_answer(
    session: &Session,
    context: &Arc<QueryContext>,
    kind: &StatementKind,
) -> Result<Described, QueryError> {
    catch_up_for(session, context, kind).await?;
    access::check::statement(session, context, kind)?;
    match kind {
        StatementKind::Query(query) => query::describe(session, context, query).await,
        StatementKind::Explain(_) => Ok((vec![], Some(explain::schema()))),
        StatementKind::Show(show) => match show::run(session, context, show.clone()).await? {
            Answer::Rows(rows) => Ok((vec![], Some(rows.schema))),
            Answer::Done { .. } => Ok((vec![], None)),
        },
        StatementKind::Describe { table, column } => match describe::run(context, table, column.as_deref()).await? {
            Answer::Rows(rows) => Ok((vec![], Some(rows.schema))),
            Answer::Done { .. } => Ok((vec![], None)),
        },
        StatementKind::Table(statement) => Ok((vec![], table::answer_schema(statement))),
        StatementKind::Prepared(_) | StatementKind::Load(_) => Err(QueryError::NotPreparable),
        StatementKind::Other(statement) => Err(QueryError::unsupported(format!("the statement {}", verb(statement)))),
        _ => Ok((vec![], None)),
    }
}

/// Names of the columns of a statement's answer, where its text gives them: MySQL's way.
pub(crate) fn output_names(kind: &StatementKind, is_mysql: bool) -> Vec<OutputName> {
    match kind {
        StatementKind::Query(query) => query::output_names(query, is_mysql),
        _ => vec![],
    }
}

/// Whether a statement asks about the one before it, whose warnings must stay.
pub(crate) fn is_diagnostic(kind: &StatementKind) -> bool {
    matches!(kind, StatementKind::Show(Show::Warnings { .. } | Show::Errors { .. } | Show::Count { .. }))
        || matches!(kind, StatementKind::Query(query) if asks_for_counts(query))
}

/// `SELECT @@warning_count`: as MySQL has it, it reads the warnings of the statement before.
fn asks_for_counts(query: &QueryStatement) -> bool {
    query.names.iter().any(|it| match it {
        OutputName::Column(name) => {
            let name = name.to_ascii_lowercase();
            name.contains("@@") && (name.ends_with("warning_count") || name.ends_with("error_count"))
        }
        OutputName::Wildcard => false,
    })
}

/// How a session's trees are rewritten; `values` are those of parameters, if there are any yet.
fn rewrite<'a>(session: &'a Session, values: Option<&'a [ScalarValue]>) -> Rewrite<'a> {
    let pipes_as_concat = session.with_state(|state| state.variables.has_sql_mode("PIPES_AS_CONCAT"));
    Rewrite { session, is_mysql: session.is_mysql(), pipes_as_concat, parameters: values }
}

/// The first words of a statement, to name it by.
fn verb(statement: &datafusion::sql::sqlparser::ast::Statement) -> String {
    let text = statement.to_string();
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// Whether a scope means the server rather than the session.
fn is_global(scope: VariableScope) -> bool {
    scope == VariableScope::Global
}
