//! `INSERT INTO` and `INSERT OVERWRITE`.
//!
//! What reads no table is run here, and its rows join those of other clients in one file and one commit. All else is a
//! plan whose tasks write their own files.

use std::future::ready;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{
    AssignmentTarget, Expr, Ident, Insert, ObjectName, Query, SetExpr, TableObject, Value as SqlValue,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use futures::TryStreamExt;
use sheaf_common::{ErrorCode, WireError};
use sheaf_planners::parser::on_big_stack;
use sheaf_planners::parser::table::is_default;

use super::retry::{Manner, retried};
use super::rows_of::{Value, fitted};
use super::{Answer, Attempt, QueryContext, QueryError, Session, Target, change_of, commit, done, paths};
use crate::binder::{bind, name_parts};
use crate::coordinator;
use crate::interpreters::rewrite;
use crate::managed::group;
use crate::managed::log::Snapshot;
use crate::managed::writer::check_rows;
use crate::tables::delta::DeltaTable;

/// What one statement may bring to a group; more is written on its own.
const GROUP_BYTES_MAX: usize = 4 << 20;

pub(super) async fn run(
    session: &Session,
    context: &Arc<QueryContext>,
    insert: Insert,
    values: &[ScalarValue],
) -> Result<Answer, QueryError> {
    let name = match &insert.table {
        TableObject::TableName(name) => name.clone(),
        other => return Err(QueryError::unsupported(format!("INSERT INTO {other}"))),
    };
    refuse(&insert)?;
    let manner = if insert.overwrite { Manner::Rewrites } else { Manner::Adds };
    let insert = &insert;
    let run = |target: Arc<Target>, attempt| async move {
        insert_once(session, context, &target, insert, values, attempt).await
    };
    retried(session, context, &name, manner, run).await
}

/// What other databases have and this one does not.
fn refuse(insert: &Insert) -> Result<(), QueryError> {
    let what = match insert {
        it if it.replace_into => "REPLACE",
        it if it.ignore => "INSERT IGNORE",
        it if it.on.is_some() => "ON DUPLICATE KEY UPDATE",
        it if it.returning.is_some() => "RETURNING",
        it if it.or.is_some() => "INSERT OR",
        it if it.partitioned.is_some() => "PARTITION of INSERT",
        _ => return Ok(()),
    };
    Err(QueryError::unsupported(what))
}

async fn insert_once(
    session: &Session,
    context: &Arc<QueryContext>,
    target: &Target,
    insert: &Insert,
    values: &[ScalarValue],
    attempt: u32,
) -> Result<Answer, QueryError> {
    let snapshot = target.latest(context).await?;
    let (columns, query) = columns_and_query(target, &snapshot, insert)?;
    let plan = match query {
        Some(mut query) => {
            on_big_stack(|| rewrite(session, Some(values)).apply(query.as_mut()))?;
            bind(&context.session_state, query, session.is_mysql(), ready(Ok(()))).await?
        }
        None => datafusion::logical_expr::LogicalPlanBuilder::empty(true).build()?,
    };
    let n_given = plan.schema().fields().len();
    if n_given != columns.len() {
        let text = format!("column count doesn't match value count: {} columns, {n_given} values", columns.len());
        return Err(QueryError::Wire(WireError::new(ErrorCode::ValueCount, text)));
    }
    let values = (0..snapshot.schema.fields().len()).map(|idx| match columns.iter().position(|it| *it == idx) {
        Some(position) => Value::Column(position),
        None => Value::Default,
    });
    let plan = fitted(context, plan, &target.def, &snapshot.schema, &snapshot.checks, values.collect())?;
    let attempt = Attempt::new(context, &target.log, attempt);
    if !insert.overwrite && !reads_a_table(&plan)? {
        let mut attempt = attempt;
        if let Some(rows) = small_rows(context, &plan).await? {
            let answer = insert_group(session, context, target, &snapshot, &attempt, rows).await;
            // The group's files are the group's to remove.
            attempt.keep();
            return answer;
        }
        return insert_files(context, target, &snapshot, attempt, plan, false).await;
    }
    insert_files(context, target, &snapshot, attempt, plan, insert.overwrite).await
}

async fn insert_files(
    context: &Arc<QueryContext>,
    target: &Target,
    snapshot: &Snapshot,
    attempt: Attempt,
    plan: LogicalPlan,
    overwrite: bool,
) -> Result<Answer, QueryError> {
    let is_blind = !reads(&plan, snapshot)?;
    let files = super::write_files(context, plan, &attempt.table_destination(target, snapshot)).await?;
    let rows: u64 = files.iter().map(|it| it.rows).sum();
    if files.is_empty() && !overwrite {
        return done(0, info(0));
    }
    let mut change = change_of(context, "WRITE", &files);
    let mode = if overwrite { "Overwrite" } else { "Append" };
    change.parameters.insert("mode".to_owned(), mode.into());
    change.is_blind = is_blind;
    if overwrite {
        change.read_version = Some(snapshot.version);
        change.read_files = paths(snapshot);
        change.actions.extend(snapshot.files().iter().map(|it| it.remove(true)));
    }
    commit(attempt, change).await?;
    done(rows, info(rows))
}

async fn insert_group(
    session: &Session,
    context: &Arc<QueryContext>,
    target: &Target,
    snapshot: &Snapshot,
    attempt: &Attempt,
    rows: RecordBatch,
) -> Result<Answer, QueryError> {
    let n_rows = rows.num_rows() as u64;
    if n_rows == 0 {
        return done(0, info(0));
    }
    let sink = attempt.table_destination(target, snapshot).target;
    check_rows(&rows, &snapshot.schema, &sink.partition_columns)?;
    let writer = session.engine().managed().group(&target.def.location).map_err(super::failed)?;
    let insert = group::Insert {
        statement: context.query,
        user: context.user.clone(),
        rows,
        schema: Arc::clone(&snapshot.schema),
        target: sink,
    };
    writer.insert(insert).await.map_err(QueryError::Wire)?;
    done(n_rows, info(n_rows))
}

/// As MySQL words it.
fn info(rows: u64) -> String {
    format!("Records: {rows}  Duplicates: 0  Warnings: 0")
}

fn reads_a_table(plan: &LogicalPlan) -> Result<bool, QueryError> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= matches!(node, LogicalPlan::TableScan(_));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Whether a plan reads the table that its rows go into.
fn reads(plan: &LogicalPlan, table: &Snapshot) -> Result<bool, QueryError> {
    let location = table.delta.location.key();
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(read) = provider.downcast_ref::<DeltaTable>()
        {
            found |= read.snapshot().location.key() == location;
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// The rows of a plan that reads nothing, in one batch; none when they turn out to be many.
async fn small_rows(context: &Arc<QueryContext>, plan: &LogicalPlan) -> Result<Option<RecordBatch>, QueryError> {
    let planned = coordinator::plan(context, plan.clone()).await?;
    let rows = coordinator::run(Arc::clone(context), planned).await?;
    let (schema, mut stream) = (rows.schema, rows.stream);
    let (mut batches, mut bytes) = (vec![], 0);
    while let Some(batch) = stream.try_next().await? {
        bytes += batch.get_array_memory_size();
        batches.push(batch);
        if bytes > GROUP_BYTES_MAX && batches.len() > 1 {
            return Ok(None);
        }
    }
    Ok(Some(concat_batches(&schema, &batches)?))
}

/// Positions of the columns that get values, in the order of the values, and where those come from; none is a row of
/// defaults.
fn columns_and_query(
    target: &Target,
    snapshot: &Snapshot,
    insert: &Insert,
) -> Result<(Vec<usize>, Option<Box<Query>>), QueryError> {
    let mut columns = vec![];
    for name in insert.columns.iter() {
        columns.push(position(target, snapshot, name)?);
    }
    let mut query = insert.source.clone();
    if !insert.assignments.is_empty() {
        let mut row = vec![];
        for assignment in &insert.assignments {
            let AssignmentTarget::ColumnName(name) = &assignment.target else {
                return Err(QueryError::unsupported("assigning to several columns at once"));
            };
            columns.push(position(target, snapshot, name)?);
            row.push(assignment.value.clone());
        }
        query = Some(values_query(vec![row])?);
    } else if columns.is_empty() {
        // `VALUES ()` is a row of defaults.
        let is_empty_row = query.as_ref().is_some_and(|it| match it.body.as_ref() {
            SetExpr::Values(values) => values.rows.iter().all(|row| row.content.is_empty()),
            _ => false,
        });
        if query.is_none() || is_empty_row {
            return Ok((vec![], None));
        }
        columns = (0..snapshot.schema.fields().len()).collect();
    }
    let mut seen = columns.clone();
    seen.sort_unstable();
    if let Some(twice) = seen.windows(2).find(|it| it[0] == it[1]) {
        let name = snapshot.schema.field(twice[0]).name();
        return Err(QueryError::InvalidArgument(format!("column '{name}' is specified twice")));
    }
    if let Some(query) = &mut query {
        fill_defaults(target, snapshot, &columns, query)?;
    }
    Ok((columns, query))
}

/// `DEFAULT` among values becomes what it stands for.
fn fill_defaults(target: &Target, snapshot: &Snapshot, columns: &[usize], query: &mut Query) -> Result<(), QueryError> {
    let SetExpr::Values(values) = query.body.as_mut() else { return Ok(()) };
    for row in &mut values.rows {
        for (expr, column) in row.content.iter_mut().zip(columns) {
            if !is_default(expr) {
                continue;
            }
            let field = snapshot.schema.field(*column);
            *expr = match target.def.column(field.name()).and_then(|it| it.default.as_deref()) {
                Some(default) => parse_expr(default)?,
                None if field.is_nullable() => Expr::Value(SqlValue::Null.into()),
                None => {
                    let text = format!("column '{}' has no default and cannot be null", field.name());
                    return Err(QueryError::Wire(WireError::new(ErrorCode::NullNotAllowed, text)));
                }
            };
        }
    }
    Ok(())
}

/// The position of a column that a statement names, in any letters.
pub(in crate::interpreters) fn position(
    target: &Target,
    snapshot: &Snapshot,
    name: &ObjectName,
) -> Result<usize, QueryError> {
    let parts = name_parts(name)?;
    let Some(Ident { value, .. }) = parts.last() else {
        return Err(QueryError::unsupported("a column without a name"));
    };
    let fields = snapshot.schema.fields();
    let found = fields.iter().position(|it| it.name() == value);
    found.or_else(|| fields.iter().position(|it| it.name().eq_ignore_ascii_case(value))).ok_or_else(|| {
        let text = format!("unknown column '{value}' in table '{}.{}'", target.database, target.name);
        QueryError::Wire(WireError::new(ErrorCode::ColumnNotFound, text))
    })
}

/// `VALUES (…), (…)`.
fn values_query(rows: Vec<Vec<Expr>>) -> Result<Box<Query>, QueryError> {
    let mut query = parse_query("VALUES (1)")?;
    if let SetExpr::Values(values) = query.body.as_mut() {
        let template = values.rows.first().cloned();
        values.rows = rows
            .into_iter()
            .filter_map(|row| {
                let mut parens = template.clone()?;
                parens.content = row;
                Some(parens)
            })
            .collect();
    }
    Ok(query)
}

/// SQL of ours, not a client's.
pub(in crate::interpreters) fn parse_query(sql: &str) -> Result<Box<Query>, QueryError> {
    let parsed = Parser::new(&GenericDialect {}).try_with_sql(sql).and_then(|mut it| it.parse_query());
    parsed.map_err(|error| QueryError::InvalidArgument(format!("cannot read {sql:?}: {error}")))
}

pub(super) fn parse_expr(sql: &str) -> Result<Expr, QueryError> {
    let parsed = Parser::new(&GenericDialect {}).try_with_sql(sql).and_then(|mut it| it.parse_expr());
    parsed.map_err(|error| QueryError::InvalidArgument(format!("cannot read {sql:?}: {error}")))
}
