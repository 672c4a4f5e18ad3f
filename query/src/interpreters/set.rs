//! `SET`: each assignment in turn, with whatever expression; the first that fails is the last.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::Expr;
use futures::TryStreamExt;
use sheaf_common::settings::Settings;
use sheaf_common::{ErrorCode, WireError};
use sheaf_planners::parser::{Assignment, AssignmentTarget, SqlDialect, StatementKind, VariableScope, parse};

use super::{is_global, query::logical_plan, rewrite};
use crate::answer::Answer;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::session::Session;
use crate::variables::{Effect, Variables, is_global_only};

/// DataFusion's options that a session may set: those of planning and running, none of what is where.
const OPTIONS: [&str; 4] =
    ["datafusion.execution.", "datafusion.optimizer.", "datafusion.explain.", "datafusion.sql_parser."];
/// Options that are settled elsewhere, and what settles them.
const OPTIONS_OF_OTHERS: [(&str, &str); 4] = [
    ("datafusion.execution.time_zone", "time_zone"),
    ("datafusion.execution.batch_size", "batch_size"),
    ("datafusion.execution.target_partitions", "max_threads"),
    ("datafusion.sql_parser.enable_ident_normalization", ""),
];

pub(super) async fn run(
    session: &Session,
    context: &Arc<QueryContext>,
    assignments: Vec<Assignment>,
    values: &[ScalarValue],
) -> Result<Answer, QueryError> {
    for Assignment { target, value } in assignments {
        let value = evaluate(session, context, value, values).await?;
        let global_name = match &target {
            AssignmentTarget::Variable { scope, name } if is_global(*scope) => Some(name.as_str()),
            AssignmentTarget::Transaction { scope, name } if is_global(*scope) => Some(*name),
            _ => None,
        };
        match global_name {
            Some(name) => global(session, name, value.as_ref()).await?,
            None => assign(session, &target, value)?,
        }
    }
    Ok(Answer::done())
}

/// The value of an expression; none for `DEFAULT`.
async fn evaluate(
    session: &Session,
    context: &Arc<QueryContext>,
    mut expr: Expr,
    values: &[ScalarValue],
) -> Result<Option<ScalarValue>, QueryError> {
    if matches!(&expr, Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value == "DEFAULT") {
        return Ok(None);
    }
    rewrite(session, Some(values)).apply(&mut expr)?;
    // Any expression is the one column of a query's one row.
    let mut query = match parse("SELECT 1", SqlDialect::Ansi)?.remove(0).kind {
        StatementKind::Query(query) => query.query,
        _ => return Err(QueryError::unsupported("this SET")),
    };
    if let datafusion::sql::sqlparser::ast::SetExpr::Select(select) = query.body.as_mut() {
        select.projection = vec![datafusion::sql::sqlparser::ast::SelectItem::UnnamedExpr(expr)];
    }
    let plan = logical_plan(session, context, query, None).await?;
    let plan = context.session_state.create_physical_plan(&plan).await?;
    let rows = datafusion::physical_plan::execute_stream(plan, context.session_state.task_ctx())?;
    let batches: Vec<_> = rows.try_collect().await?;
    let batch = batches.iter().find(|it| it.num_rows() > 0 && it.num_columns() > 0);
    batch.map_or(Ok(Some(ScalarValue::Null)), |it| Ok(Some(ScalarValue::try_from_array(it.column(0), 0)?)))
}

fn assign(session: &Session, target: &AssignmentTarget, value: Option<ScalarValue>) -> Result<(), QueryError> {
    match target {
        AssignmentTarget::User(name) => {
            session.with_state(|state| state.user_variables.insert(name.clone(), value.unwrap_or(ScalarValue::Null)));
            Ok(())
        }
        AssignmentTarget::Names { collation } => {
            let charset = value.filter(|it| !it.is_null()).map(|it| it.to_string());
            session.with_state(|state| state.variables.set_names(charset.as_deref(), collation.as_deref()))
        }
        AssignmentTarget::Transaction { name, .. } => variable(session, name, value.as_ref()),
        AssignmentTarget::Variable { name, .. } if Settings::contains(name) => setting(session, name, value.as_ref()),
        AssignmentTarget::Variable { name, .. } if name.starts_with("datafusion.") => {
            option(session, name, value.as_ref())
        }
        AssignmentTarget::Variable { name, .. } if is_global_only(name) => {
            let text = format!("variable '{name}' is a GLOBAL variable and should be set with SET GLOBAL");
            Err(WireError::new(ErrorCode::GlobalVariable, text).into())
        }
        AssignmentTarget::Variable { name, .. } => variable(session, name, value.as_ref()),
    }
}

fn text_of(value: &ScalarValue) -> String {
    match value {
        ScalarValue::Boolean(Some(value)) => if *value { "on" } else { "off" }.to_owned(),
        ScalarValue::Null => "NULL".to_owned(),
        other => other.to_string(),
    }
}

/// What new sessions of every coordinator begin with.
async fn global(session: &Session, name: &str, value: Option<&ScalarValue>) -> Result<(), QueryError> {
    if session.engine().set_global(name, value).await? == Effect::Ignored {
        session.warn(ErrorCode::UnknownVariable, format!("variable '{name}' has no effect here"));
    }
    Ok(())
}

/// One of SheafDB's own settings, for this session.
fn setting(session: &Session, name: &str, value: Option<&ScalarValue>) -> Result<(), QueryError> {
    let text = match value {
        Some(value) => text_of(value),
        None => session.engine().globals().settings.get(name).unwrap_or_default(),
    };
    session.with_state(|state| state.settings.set(name, &text).map_err(QueryError::from))
}

/// One of DataFusion's options, for this session.
fn option(session: &Session, name: &str, value: Option<&ScalarValue>) -> Result<(), QueryError> {
    if let Some((_, setting)) = OPTIONS_OF_OTHERS.iter().find(|(it, _)| *it == name) {
        return match *setting {
            "" => Err(QueryError::ReadOnlyVariable { name: name.to_owned() }),
            setting => {
                let target = AssignmentTarget::Variable { scope: VariableScope::Session, name: setting.to_owned() };
                assign(session, &target, value.cloned())
            }
        };
    }
    let is_known = session.engine().base_state().config_options().entries().iter().any(|it| it.key == name);
    if !is_known {
        return Err(QueryError::UnknownVariable { name: name.to_owned() });
    }
    if !OPTIONS.iter().any(|it| name.starts_with(it)) {
        return Err(QueryError::ReadOnlyVariable { name: name.to_owned() });
    }
    let Some(value) = value else {
        session.with_state(|state| state.options.remove(name));
        return Ok(());
    };
    let text = match value {
        ScalarValue::Boolean(Some(value)) => value.to_string(),
        other => text_of(other),
    };
    let mut tried = session.engine().base_state().config_options().as_ref().clone();
    tried.set(name, &text).map_err(|error| QueryError::WrongValue {
        name: name.to_owned(),
        value: text.clone(),
        hint: format!(": {}", error.strip_backtrace()),
    })?;
    session.with_state(|state| state.options.insert(name.to_owned(), text));
    Ok(())
}

/// One of MySQL's variables.
fn variable(session: &Session, name: &str, value: Option<&ScalarValue>) -> Result<(), QueryError> {
    let globals: Variables = session.global_variables();
    let effect = session.with_state(|state| state.variables.set(name, value, Some(&globals)));
    if effect? == Effect::Ignored {
        session.warn(ErrorCode::UnknownVariable, format!("variable '{name}' has no effect here"));
    }
    Ok(())
}
