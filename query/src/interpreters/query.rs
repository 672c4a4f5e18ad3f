//! `SELECT` and its like.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{Expr, LimitClause, Query, Value};
use sheaf_planners::parser::{QueryStatement, on_big_stack};

use super::rewrite;
use crate::answer::Answer;
use crate::binder::bind;
use crate::context::QueryContext;
use crate::coordinator;
use crate::error::QueryError;
use crate::session::{Described, Session};

pub(super) async fn run(
    session: &Session,
    context: &Arc<QueryContext>,
    statement: QueryStatement,
    values: &[ScalarValue],
) -> Result<Answer, QueryError> {
    let plan = logical_plan(session, context, statement.query, Some(values)).await?;
    let plan = coordinator::plan(context, plan).await?;
    let rows = coordinator::run(Arc::clone(context), plan).await?;
    Ok(Answer::Rows(rows))
}

/// The plan of a query in its session: variables, parameters and names settled.
pub(super) async fn logical_plan(
    session: &Session,
    context: &QueryContext,
    mut query: Box<Query>,
    values: Option<&[ScalarValue]>,
) -> Result<LogicalPlan, QueryError> {
    on_big_stack(|| rewrite(session, values).apply(query.as_mut()))?;
    limit_rows(session, &mut query);
    bind(&context.session_state, query, session.is_mysql()).await
}

/// `sql_select_limit` stands for a LIMIT of each query that has none.
fn limit_rows(session: &Session, query: &mut Query) {
    if query.limit_clause.is_some() || query.fetch.is_some() {
        return;
    }
    let limit = session.with_state(|state| state.variables.text_of("sql_select_limit"));
    if limit.parse::<i64>().is_ok() {
        let limit = Expr::Value(Value::Number(limit, false).into());
        query.limit_clause = Some(LimitClause::LimitOffset { limit: Some(limit), offset: None, limit_by: vec![] });
    }
}

/// Types of parameters and columns before there are values.
pub(super) async fn describe(
    session: &Session,
    context: &QueryContext,
    statement: &QueryStatement,
) -> Result<Described, QueryError> {
    let query = on_big_stack(|| statement.query.clone());
    let plan = logical_plan(session, context, query, None).await?;
    let types = plan.get_parameter_types()?;
    let n_parameters = types.keys().filter_map(|it| parameter_index(it)).max().map_or(0, |it| it + 1);
    let columns = columns(context, &plan);
    Ok((ordered(types, n_parameters), Some(columns)))
}

/// `$3` → 2.
fn parameter_index(name: &str) -> Option<usize> {
    name.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)
}

fn ordered(types: HashMap<String, Option<DataType>>, n_parameters: usize) -> Vec<Option<DataType>> {
    let mut parameters = vec![None; n_parameters];
    for (name, data_type) in types {
        if let Some(idx) = parameter_index(&name) {
            // A parameter compared with nothing but NULL has no type of its own.
            parameters[idx] = data_type.filter(|it| *it != DataType::Null);
        }
    }
    parameters
}

/// The columns as they will come: types settle only when operands are brought together.
fn columns(context: &QueryContext, plan: &LogicalPlan) -> SchemaRef {
    let state = &context.session_state;
    let analyzed = state.analyzer().execute_and_check(plan.clone(), state.config_options(), |_, _| {});
    let schema = match &analyzed {
        Ok(analyzed) => analyzed.schema(),
        // Without values not every tree can be settled.
        Err(_) => plan.schema(),
    };
    Arc::new(schema.as_arrow().clone())
}
