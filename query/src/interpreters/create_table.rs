//! `CREATE EXTERNAL TABLE`.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::sql::parser::CreateExternalTable;
use datafusion::sql::planner::SqlToRel;
use datafusion::sql::sqlparser::ast::Value;
use sheaf_common::ErrorCode;

use super::drop::table_name;
use crate::answer::Answer;
use crate::binder::Provider;
use crate::catalog::connection::OPTION;
use crate::catalog::{IfExists, TableDef};
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::session::Session;
use crate::tables::delta;
use crate::tables::external::{FilesRequest, define};
use crate::tables::files::FileKind;

pub(super) async fn run(
    session: &Session,
    context: &QueryContext,
    create: CreateExternalTable,
) -> Result<Answer, QueryError> {
    let (database, table) = table_name(session, &create.name)?;
    if create.temporary || create.unbounded {
        return Err(QueryError::unsupported("a temporary or unbounded table"));
    }
    if !create.constraints.is_empty() || !create.order_exprs.is_empty() {
        return Err(QueryError::unsupported("a constraint or an order of an external table"));
    }
    let if_exists = match (create.if_not_exists, create.or_replace) {
        (true, _) => IfExists::Keep,
        (false, true) => IfExists::Replace,
        (false, false) => IfExists::Fail,
    };
    let engine = session.engine();
    if if_exists == IfExists::Keep && engine.catalog().table(&database, &table).is_ok() {
        session.warn(ErrorCode::TableExists, format!("table '{database}.{table}' exists already"));
        return Ok(Answer::done());
    }
    let columns = match create.columns.is_empty() {
        true => None,
        false => {
            let provider = Provider::new(&context.session_state, HashMap::new(), false);
            Some(Arc::new(SqlToRel::new(&provider).build_schema(create.columns)?))
        }
    };
    let format = FileKind::parse(&create.file_type).map_err(|error| QueryError::from_classified(&error))?;
    let unquoted = |name: &String| name.trim_matches(['`', '"']).to_owned();
    let mut options: HashMap<_, _> =
        create.options.iter().map(|(name, value)| (name.clone(), option_text(value.clone()))).collect();
    let connection = connection_option(&create.options).map(|(option, _)| option.clone());
    let connection = connection.and_then(|option| options.remove(&option));
    let connection = engine.catalog().used_connection(connection.as_deref());
    let request = FilesRequest {
        format: Some(format),
        locations: create.locations,
        columns,
        partitions: create.table_partition_cols.iter().map(unquoted).collect(),
        options,
        connection: connection.map_err(|error| QueryError::from_classified(&error))?,
    };
    let sources = &engine.tables().sources;
    let files = match format {
        FileKind::Delta => delta::define(context.session_state.as_ref(), sources, request).await,
        _ => define(context.session_state.as_ref(), sources, request).await,
    };
    let files = files.map_err(|error| QueryError::Wire(crate::tables::wire(&error)))?;
    let created = engine.catalog().create_table(&database, TableDef::new(&table, files), if_exists).await;
    if !created.map_err(|error| QueryError::from_classified(&error))? {
        session.warn(ErrorCode::TableExists, format!("table '{database}.{table}' exists already"));
    }
    Ok(Answer::done())
}

/// The option that names a stored connection.
pub(crate) fn connection_option(options: &[(String, Value)]) -> Option<(&String, String)> {
    let option = options.iter().find(|(name, _)| name.eq_ignore_ascii_case(OPTION))?;
    Some((&option.0, option_text(option.1.clone())))
}

fn option_text(value: Value) -> String {
    match value {
        Value::Number(text, _) => text,
        value => value.clone().into_string().unwrap_or_else(|| value.to_string()),
    }
}
