//! `SELECT` and its like.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{Expr, LimitClause, Query, Value};
use sheaf_planners::parser::{OutputName, QueryStatement, on_big_stack};
use sheaf_planners::warnings::QueryWarnings;

use super::rewrite;
use crate::answer::{Answer, RowStream};
use crate::binder::origins::Origins;
use crate::binder::{bind, named_relations, wait_to_show};
use crate::context::QueryContext;
use crate::coordinator::{self, QueryPlan};
use crate::error::QueryError;
use crate::mysql_semantics::Rewrite;
use crate::session::{Asking, Described, Keeping, KeptPlan, Session, Told};

pub(super) async fn run(
    session: &Session,
    context: &Arc<QueryContext>,
    statement: QueryStatement,
    values: &[ScalarValue],
) -> Result<Answer, QueryError> {
    let plan = match Keeping::begin(session, context) {
        None => None,
        Some(keeping) if values.is_empty() => {
            let names = output_names(&statement, session.is_mysql());
            let relations = on_big_stack(|| named_relations(&statement.query));
            let asking = Asking::new(session);
            let bound = bound(session, &asking, context, statement.query, Some(values)).await?;
            let (state, warnings) = (&context.session_state, &context.warnings);
            let origins = Origins::of(state, &bound);
            let told = Told { names, origins: origins.clone() };
            let optimized = keeping.optimize(state, warnings, bound, &relations, &asking, told).await?;
            return answer(context, coordinator::plan_again(context, optimized).await?, &origins).await;
        }
        Some(keeping) => with_placeholders(session, context, keeping, &statement, values).await?,
    };
    let (plan, origins) = match plan {
        Some((optimized, origins)) => (coordinator::plan_again(context, optimized).await?, origins),
        None => {
            let bound = logical_plan(session, context, statement.query, Some(values)).await?;
            let origins = Origins::of(&context.session_state, &bound);
            (coordinator::plan(context, bound).await?, origins)
        }
    };
    answer(context, plan, &origins).await
}

/// Runs a statement by the plan that the session kept of it; `None` if that does not hold any more.
pub(crate) async fn run_kept(
    session: &Session,
    context: &Arc<QueryContext>,
    kept: &KeptPlan,
    values: Vec<ScalarValue>,
) -> Result<Option<Answer>, QueryError> {
    let Some(optimized) = kept.current(session, context, values).await? else { return Ok(None) };
    let plan = coordinator::plan_again(context, optimized).await?;
    answer(context, plan, &kept.told.origins).await.map(Some)
}

async fn answer(context: &Arc<QueryContext>, plan: QueryPlan, origins: &Origins) -> Result<Answer, QueryError> {
    let rows = coordinator::run(Arc::clone(context), plan).await?;
    Ok(Answer::Rows(RowStream { schema: origins.on(rows.schema), stream: rows.stream }))
}

/// Names of a query's columns, where its text gives them.
pub(super) fn output_names(statement: &QueryStatement, is_mysql: bool) -> Vec<OutputName> {
    if is_mysql || statement.has_equal_items { statement.names.clone() } else { vec![] }
}

/// A plan for all values of the parameters, kept for the next executions, and what it is for these values. `None` where the
/// plan hangs on them.
async fn with_placeholders(
    session: &Session,
    context: &QueryContext,
    keeping: Keeping<'_>,
    statement: &QueryStatement,
    values: &[ScalarValue],
) -> Result<Option<(LogicalPlan, Origins)>, QueryError> {
    let names = output_names(statement, session.is_mysql());
    let (query, relations) = on_big_stack(|| (statement.query.clone(), named_relations(&statement.query)));
    let asking = Asking::new(session);
    // Without its values a statement may mean nothing; with them it may.
    let Ok(bound) = bound(session, &asking, context, query, None).await else {
        keeping.give_up();
        return Ok(None);
    };
    let (warnings, mut state) = (QueryWarnings::default(), SessionState::clone(&context.session_state));
    state.config_mut().options_mut().extensions.insert(warnings.clone());
    let told = Told { names, origins: Origins::of(&context.session_state, &bound) };
    if keeping.optimize(&state, &warnings, bound, &relations, &asking, told).await.is_err() {
        return Ok(None);
    }
    match session.kept_plan(&context.text, values) {
        Some((kept, values)) => {
            let plan = kept.current(session, context, values).await?;
            Ok(plan.map(|plan| (plan, kept.told.origins.clone())))
        }
        None => Ok(None),
    }
}

/// The plan of a query in its session: variables, parameters and names settled.
pub(super) async fn logical_plan(
    session: &Session,
    context: &QueryContext,
    query: Box<Query>,
    values: Option<&[ScalarValue]>,
) -> Result<LogicalPlan, QueryError> {
    bound(session, &Asking::new(session), context, query, values).await
}

/// The same, noting whether the session was asked for anything.
async fn bound(
    session: &Session,
    asking: &Asking<'_>,
    context: &QueryContext,
    mut query: Box<Query>,
    values: Option<&[ScalarValue]>,
) -> Result<LogicalPlan, QueryError> {
    on_big_stack(|| Rewrite { session: asking, ..rewrite(session, values) }.apply(query.as_mut()))?;
    limit_rows(session, &mut query);
    let wait = on_big_stack(|| wait_to_show(&query, &session.database().unwrap_or_default()));
    let caught_up = session.catch_up_to_read(wait, context.deadline);
    bind(&context.session_state, query, session.is_mysql(), caught_up).await
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
    let columns = Origins::of(&context.session_state, &plan).on(columns(context, &plan));
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
pub(super) fn columns(context: &QueryContext, plan: &LogicalPlan) -> SchemaRef {
    let state = &context.session_state;
    let analyzed = state.analyzer().execute_and_check(plan.clone(), state.config_options(), |_, _| {});
    let schema = match &analyzed {
        Ok(analyzed) => analyzed.schema(),
        // Without values not every tree can be settled.
        Err(_) => plan.schema(),
    };
    Arc::new(schema.as_arrow().clone())
}
