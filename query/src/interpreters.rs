//! What each kind of statement does; one file a kind.

mod create_database;
mod create_table;
mod describe;
mod drop;
mod explain;
mod kill;
mod query;
mod rows;
mod set;
mod show;
mod transaction;

use std::sync::Arc;

use datafusion::common::ScalarValue;
use sheaf_planners::parser::{OutputName, QueryStatement, Show, Statement, StatementKind, VariableScope};

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
    match statement.kind {
        StatementKind::Query(query) => query::run(session, context, *query, values).await,
        StatementKind::Explain(explain) => explain::run(session, context, *explain, values).await,
        StatementKind::CreateDatabase(create) => create_database::run(session, &create),
        StatementKind::DropDatabase { name, if_exists } => drop::database(session, &name, if_exists),
        StatementKind::CreateExternalTable(create) => create_table::run(session, context, *create).await,
        StatementKind::DropTable { names, if_exists } => drop::tables(session, &names, if_exists),
        StatementKind::Use(name) => session.use_database(&name.value).map(|()| Answer::done()),
        StatementKind::Set(assignments) => set::run(session, context, assignments, values).await,
        StatementKind::Show(show) => show::run(session, context, show).await,
        StatementKind::Describe { table, column } => describe::run(context, &table, column.as_deref()).await,
        StatementKind::Kill { connection_id, query_only } => kill::run(session, connection_id, query_only),
        StatementKind::Transaction(transaction) => transaction::run(session, transaction),
        StatementKind::Nothing => Ok(Answer::done()),
        StatementKind::Other(statement) => Err(QueryError::unsupported(format!("the statement {}", verb(&statement)))),
    }
}

/// What a statement's answer will look like, as far as it can be told before its parameters have values.
pub(crate) async fn describe_answer(
    session: &Session,
    context: &Arc<QueryContext>,
    kind: &StatementKind,
) -> Result<Described, QueryError> {
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
        StatementKind::Other(statement) => Err(QueryError::unsupported(format!("the statement {}", verb(statement)))),
        _ => Ok((vec![], None)),
    }
}

/// Names of the columns of a statement's answer, where its text gives them: MySQL's way.
pub(crate) fn output_names(kind: &StatementKind, is_mysql: bool) -> Vec<OutputName> {
    match kind {
        StatementKind::Query(query) if is_mysql || query.has_equal_items => query.names.clone(),
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
