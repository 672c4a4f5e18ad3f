//! `CREATE VIEW`, `ALTER VIEW` and `DROP VIEW`.

use std::collections::HashSet;
use std::future::ready;

use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::common::TableReference;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{ObjectName, Query};
use sheaf_common::{ErrorCode, WireError};
use sheaf_planners::parser::view::{
    CreateView, ViewManner, has_variables, names_its_columns, qualified, query_of, wildcards, with_columns,
};
use sheaf_planners::parser::{QueryStatement, UserRef, ViewStatement, on_big_stack, renamed};

use super::drop::table_name;
use super::{query, rewrite};
use crate::access::{AccountName, Privilege};
use crate::answer::Answer;
use crate::binder::{bind, views};
use crate::catalog::views::ViewSecurity;
use crate::catalog::{CatalogError, IfExists, ViewDef};
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::session::Session;
use crate::tables::external::{ColumnDef, TypeName};

/// Longest name of a column, as in MySQL.
const NAME_CHARACTERS_MAX: usize = 64;

pub(super) async fn run(
    session: &Session,
    context: &QueryContext,
    statement: ViewStatement,
) -> Result<Answer, QueryError> {
    match statement {
        ViewStatement::Create(view) => create(session, context, *view).await,
        ViewStatement::Drop { names, if_exists } => drop(session, &names, if_exists).await,
    }
}

async fn create(session: &Session, context: &QueryContext, create: CreateView) -> Result<Answer, QueryError> {
    let (database, name) = table_name(session, &create.name)?;
    let Some((name, if_exists)) = place(session, &database, name, create.manner)? else {
        return Ok(Answer::done());
    };
    if create.checks_rows {
        let text = format!("CHECK OPTION on non-updatable view '{database}.{name}'");
        return refused(ErrorCode::CheckOptionOnView, text);
    }
    if has_variables(&create.query.query) {
        return refused(ErrorCode::ViewVariable, "view's SELECT contains a variable or parameter".to_owned());
    }
    let (definer, is_embedders) = definer(session, context, create.definer.as_ref())?;
    let state = views::defining(&context.session_state, &database, &name);
    let (text, query) = settled(session, &state, &create.text).await?;
    let plan = planned(session, &state, query.query.clone()).await?;
    let schema = query::columns(context, &plan);
    let names = names(session, &create, &query, &schema)?;
    let columns = names.into_iter().zip(schema.fields()).map(|(name, field)| {
        let column = ColumnDef::new(&field.as_ref().clone().with_name(name));
        // A type that has no text is shown as one; queries of the view see what it really is.
        if column.reads_back() { column } else { ColumnDef { type_name: TypeName(DataType::Utf8View), ..column } }
    });
    let view = ViewDef {
        name,
        created_ms: None,
        database: session.database(),
        query: text,
        dialect: session.dialect().into(),
        pipes_as_concat: session.with_state(|state| state.variables.has_sql_mode("PIPES_AS_CONCAT")),
        columns: columns.collect(),
        names_columns: !create.columns.is_empty() || !names_its_columns(&query.query),
        algorithm: create.algorithm.to_owned(),
        security: if create.is_invokers { ViewSecurity::Invoker } else { ViewSecurity::Definer },
        definer: definer.plain(),
        is_embedders,
    };
    let created = session.engine().catalog().create_view(&database, view, if_exists).await;
    created.map_err(|error| QueryError::from_classified(&error))?;
    Ok(Answer::done())
}

fn refused<T>(code: ErrorCode, text: String) -> Result<T, QueryError> {
    Err(QueryError::Wire(WireError::new(code, text)))
}

/// The name that the view is to have, and what to do with one that has it already; none if that stays.
fn place(
    session: &Session,
    database: &str,
    name: String,
    manner: ViewManner,
) -> Result<Option<(String, IfExists)>, QueryError> {
    let found = session.engine().catalog().table(database, &name).ok();
    let not_view = |table: &str| {
        let (database, table) = (database.to_owned(), table.to_owned());
        QueryError::from_classified(&CatalogError::NotView { database, table })
    };
    match (manner, found) {
        (ViewManner::Alter, None) => Err(QueryError::TableNotFound { database: database.to_owned(), table: name }),
        (ViewManner::Alter, Some(found)) if !found.is_view() => Err(not_view(&found.name)),
        (ViewManner::Alter, Some(found)) => Ok(Some((found.name, IfExists::Replace))),
        (ViewManner::OrReplace, Some(found)) if found.name == name && !found.is_view() => Err(not_view(&name)),
        (ViewManner::OrReplace, _) => Ok(Some((name, IfExists::Replace))),
        (ViewManner::IfNotExists, Some(found)) if found.name == name => {
            session.note(ErrorCode::TableExists, format!("table '{database}.{name}' exists already"));
            Ok(None)
        }
        (ViewManner::IfNotExists, _) => Ok(Some((name, IfExists::Keep))),
        (ViewManner::Create, _) => Ok(Some((name, IfExists::Fail))),
    }
}

/// By whose rights the view will read, and whether that is who embeds the engine.
fn definer(
    session: &Session,
    context: &QueryContext,
    named: Option<&UserRef>,
) -> Result<(AccountName, bool), QueryError> {
    let own = context.rights.account();
    let named = match named {
        None | Some(UserRef::Current) => None,
        Some(UserRef::Named { user, host }) => Some(AccountName::new(user, host)).filter(|it| Some(it) != own),
    };
    match (named, own) {
        (None, Some(own)) => Ok((own.clone(), false)),
        (None, None) => Ok((AccountName::new(session.user(), "%"), true)),
        (Some(named), _) => {
            context.rights.need(&[Privilege::SetAnyDefiner, Privilege::Super])?;
            if session.engine().access().accounts().get(&named).is_none() {
                let text = format!("the user specified as a definer ({named}) does not exist");
                session.note(ErrorCode::DefinerNotFound, text);
            }
            Ok((named, false))
        }
    }
}

/// The query's text with its tables' databases and without `*`, and the query that it is then.
async fn settled(session: &Session, state: &SessionState, text: &str) -> Result<(String, QueryStatement), QueryError> {
    let dialect = session.dialect();
    let text = match session.database() {
        Some(database) => qualified(text, dialect, &database)?,
        None => text.to_owned(),
    };
    let mut columns = vec![];
    for wildcard in wildcards(&text, dialect)? {
        let probed = planned(session, state, wildcard.probe.clone()).await?;
        let column = |(table, field): (Option<&TableReference>, &FieldRef)| -> Vec<String> {
            let table = table.into_iter().flat_map(|it| [it.schema(), Some(it.table())]).flatten();
            table.chain([field.name().as_str()]).map(str::to_owned).collect()
        };
        let stood_for = probed.schema().iter().map(column).collect();
        columns.push((wildcard, stood_for));
    }
    let text = with_columns(&text, columns);
    let query = query_of(&text, dialect)?;
    Ok((text, query))
}

async fn planned(session: &Session, state: &SessionState, query: Box<Query>) -> Result<LogicalPlan, QueryError> {
    let mut query = query;
    on_big_stack(|| rewrite(session, Some(&[])).apply(query.as_mut()))?;
    bind(state, query, session.is_mysql(), ready(Ok(()))).await
}

/// The names of the view's columns.
fn names(
    session: &Session,
    create: &CreateView,
    query: &QueryStatement,
    schema: &SchemaRef,
) -> Result<Vec<String>, QueryError> {
    let fields: Vec<String> = schema.fields().iter().map(|it| it.name().clone()).collect();
    let is_given = !create.columns.is_empty();
    let mut names = match is_given {
        true => create.columns.iter().map(|it| it.value.clone()).collect(),
        false if session.is_mysql() => renamed(&fields, &query.names),
        false => fields.clone(),
    };
    if names.len() != fields.len() {
        let text = "view's SELECT and view's field list have different column counts".to_owned();
        return refused(ErrorCode::ViewColumnCount, text);
    }
    let mut seen = HashSet::new();
    for (name, position) in names.iter_mut().zip(1..) {
        let is_wrong = name.is_empty() || name.ends_with(' ') || name.chars().count() > NAME_CHARACTERS_MAX;
        if is_wrong && is_given {
            return Err(QueryError::InvalidArgument(format!("incorrect column name '{name}'")));
        }
        if is_wrong {
            // As MySQL calls what its own words cannot name.
            *name = format!("Name_exp_{position}");
        }
        if !seen.insert(name.to_lowercase()) {
            return refused(ErrorCode::DuplicateColumn, format!("duplicate column name '{name}'"));
        }
    }
    Ok(names)
}

async fn drop(session: &Session, names: &[ObjectName], if_exists: bool) -> Result<Answer, QueryError> {
    let names = names.iter().map(|it| table_name(session, it)).collect::<Result<Vec<_>, _>>()?;
    let missing = session.engine().catalog().drop_views(&names, if_exists).await;
    for (database, view) in missing.map_err(|error| QueryError::from_classified(&error))? {
        session.note(ErrorCode::DropTableNotFound, format!("unknown table '{database}.{view}'"));
    }
    Ok(Answer::done())
}
