//! From a query's columns to a table's: each cast to the type that it is kept in, defaults where none is given, CHECK
//! constraints tested.

use arrow::datatypes::{Field, SchemaRef};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, cast, lit};
use sheaf_common::{ErrorCode, WireError};
use sheaf_planners::functions::CHECK;

use crate::context::QueryContext;
use crate::error::QueryError;
use crate::managed::definition::ManagedDef;

/// What a table's column is made of.
pub(in crate::interpreters) enum Value {
    /// A column of the query, by position.
    Column(usize),
    /// The column's default, or NULL.
    Default,
    Expr(Expr),
}

/// The rows of `plan` as rows of a table: `values` are for the table's columns in its order.
///
/// Errs when a column that cannot be NULL has no value and no default, and when a default or a constraint cannot be
/// planned.
pub(in crate::interpreters) fn fitted(
    context: &QueryContext,
    plan: LogicalPlan,
    def: &ManagedDef,
    schema: &SchemaRef,
    checks: &[(String, String)],
    values: Vec<Value>,
) -> Result<LogicalPlan, QueryError> {
    let given = plan.schema().columns();
    let mut exprs = vec![];
    for (value, field) in values.into_iter().zip(schema.fields()) {
        let expr = match value {
            Value::Column(idx) => Expr::Column(given[idx].clone()),
            Value::Expr(expr) => expr,
            Value::Default => default_of(context, def, field.name(), field.is_nullable())?,
        };
        exprs.push(kept_as(expr, plan.schema(), field)?.alias(field.name()));
    }
    let mut builder = LogicalPlanBuilder::from(plan).project(exprs)?;
    let columns = DFSchema::try_from(schema.as_ref().clone())?;
    for (name, condition) in checks {
        let condition = context.session_state.create_logical_expr(condition, &columns)?;
        let check = context.session_state.scalar_functions().get(CHECK).cloned();
        let check = check.ok_or_else(|| QueryError::unsupported("checking constraints"))?;
        let message = format!("check constraint '{name}' is violated");
        builder = builder.filter(check.call(vec![condition, lit(message)]))?;
    }
    Ok(builder.build()?)
}

/// A value of a plan of columns `schema` in the type that a table keeps it in.
pub(super) fn kept_as(value: Expr, schema: &DFSchema, field: &Field) -> Result<Expr, QueryError> {
    if value.get_type(schema)?.is_numeric() && field.data_type().is_temporal() {
        let text = format!("a number cannot go into column '{}', which has dates or times", field.name());
        return Err(QueryError::Wire(WireError::new(ErrorCode::TypeMismatch, text)));
    }
    Ok(cast(value, field.data_type().clone()))
}

/// What a column gets that a statement gives no value.
pub(in crate::interpreters) fn default_of(
    context: &QueryContext,
    def: &ManagedDef,
    name: &str,
    nullable: bool,
) -> Result<Expr, QueryError> {
    match def.column(name).and_then(|it| it.default.as_deref()) {
        Some(default) => Ok(context.session_state.create_logical_expr(default, &DFSchema::empty())?),
        None if nullable => Ok(lit(ScalarValue::Null)),
        None => {
            let text = format!("column '{name}' has no default and cannot be null");
            Err(QueryError::Wire(WireError::new(ErrorCode::NullNotAllowed, text)))
        }
    }
}
