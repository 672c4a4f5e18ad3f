//! `ANALYZE TABLE` and `SHOW STATS`.
//!
//! A table's columns are counted by plans of the whole cluster, a few columns each, over one listing of its files. What
//! comes out is kept with the table's definition, so that all coordinators have it and it goes when the table goes.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field};
use chrono::DateTime;
use datafusion::common::ScalarValue;
use datafusion::functions::expr_fn::octet_length;
use datafusion::functions_aggregate::expr_fn::{approx_distinct, count, max, min, sum};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};
use datafusion::sql::sqlparser::ast::{ObjectName, SetExpr, TableFactor};
use futures::TryStreamExt;
use sheaf_planners::parser::ShowFilter;
use sheaf_planners::splits::estimated_bytes;

use super::insert::parse_query;
use super::{Answer, QueryContext, QueryError, Session, apart};
use crate::binder::bind;
use crate::catalog::{CatalogError, TableDef, TableInfo};
use crate::coordinator;
use crate::interpreters::drop::table_name;
use crate::interpreters::rows::Rows;
use crate::managed::log::now_ms;
use crate::tables::analyzed::{AnalyzedColumn, TableStatistics, bound};

/// Columns that one plan counts: a sketch takes 16 KiB in each of its tasks.
const COLUMNS_AT_ONCE: usize = 32;

/// As MySQL's.
pub(super) fn report() -> Rows {
    Rows::new(&["Table", "Op", "Msg_type", "Msg_text"])
}

pub(super) async fn run(
    session: &Session,
    context: &Arc<QueryContext>,
    tables: &[ObjectName],
) -> Result<Answer, QueryError> {
    let mut rows = report();
    for name in tables {
        let (database, table) = table_name(session, name)?;
        let mut say = |kind: &str, text: &str| {
            let row = [&format!("{database}.{table}"), "analyze", kind, text];
            rows.push(row.map(|it| Some(it.to_owned())).to_vec());
        };
        // One that is missing or no table does not keep the others from being analyzed, as in MySQL.
        let info = match session.engine().catalog().table(&database, &table) {
            Ok(info) => info,
            Err(error @ CatalogError::TableNotFound { .. }) => {
                say("Error", &error.to_string());
                say("status", "Operation failed");
                continue;
            }
            Err(error) => return Err(QueryError::from_classified(&error)),
        };
        if info.is_view() {
            say("Error", &format!("'{database}.{table}' is not BASE TABLE"));
            say("status", "Operation failed");
            continue;
        }
        let Some(def) = &info.def else {
            say("note", "The storage engine for the table doesn't support analyze");
            continue;
        };
        analyze(session, context, name, &info, def).await?;
        say("status", "OK");
    }
    rows.answer()
}

async fn analyze(
    session: &Session,
    context: &Arc<QueryContext>,
    name: &ObjectName,
    info: &TableInfo,
    def: &TableDef,
) -> Result<(), QueryError> {
    let analyzed_ms = now_ms();
    let plan = bound_table(session, context, name).await?;
    let state = context.session_state.as_ref();
    let scan = state.query_planner().create_physical_plan(&state.optimize(&plan)?, state).await?;
    let disk_bytes = estimated_bytes(&scan);
    let fields: Vec<Arc<Field>> = plan.schema().fields().iter().cloned().collect();
    let (mut rows, mut columns) = (0, vec![]);
    // A table without columns still has rows.
    for at in (0..fields.len().max(1)).step_by(COLUMNS_AT_ONCE) {
        let places: Vec<usize> = (at..fields.len().min(at + COLUMNS_AT_ONCE)).collect();
        let counts = Counts::of(context, &plan, &places).await?;
        rows = counts.rows()?;
        for place in places {
            columns.push(counts.column(place, &fields[place], rows)?);
        }
    }
    let statistics = TableStatistics { rows, disk_bytes, analyzed_ms, columns };
    let catch_up = || session.catch_up_if_possible(context.deadline);
    let kept = session.engine().catalog().keep_statistics(&info.database, def, statistics, catch_up).await;
    kept.map_err(|error| QueryError::from_classified(&error))
}

/// `SELECT * FROM table`.
async fn bound_table(session: &Session, context: &QueryContext, name: &ObjectName) -> Result<LogicalPlan, QueryError> {
    let mut query = parse_query("SELECT * FROM t")?;
    if let SetExpr::Select(select) = query.body.as_mut() {
        for from in &mut select.from {
            if let TableFactor::Table { name: named, .. } = &mut from.relation {
                named.clone_from(name);
            }
        }
    }
    bind(&context.session_state, query, session.is_mysql(), ready(Ok(()))).await
}

/// What is counted of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Count {
    Values,
    Distinct,
    Min,
    Max,
    Bytes,
}

/// One row of counts.
struct Counts {
    /// Of all rows, then those of columns.
    values: Vec<ArrayRef>,
    places: BTreeMap<(usize, Count), usize>,
}

impl Counts {
    async fn of(context: &Arc<QueryContext>, plan: &LogicalPlan, columns: &[usize]) -> Result<Self, QueryError> {
        let given = plan.schema().columns();
        let (mut places, mut exprs) = (BTreeMap::new(), vec![count(lit(1i64)).alias("rows")]);
        for &at in columns {
            for (what, expr) in counted(&Expr::Column(given[at].clone()), plan.schema().field(at)) {
                places.insert((at, what), exprs.len());
                exprs.push(expr.alias(format!("x_{}", exprs.len())));
            }
        }
        let plan = LogicalPlanBuilder::from(plan.clone()).aggregate(Vec::<Expr>::new(), exprs)?.build()?;
        let context = apart(context);
        let plan = coordinator::plan(&context, plan).await?;
        let batches: Vec<_> = coordinator::run(context, plan).await?.stream.try_collect().await?;
        let row = batches.into_iter().find(|it| it.num_rows() > 0);
        let row = row.ok_or_else(|| QueryError::InvalidArgument("a count has no answer".to_owned()))?;
        Ok(Self { values: row.columns().to_vec(), places })
    }

    fn rows(&self) -> Result<u64, QueryError> {
        Ok(number(&self.values[0])?.unwrap_or(0))
    }

    fn column(&self, at: usize, field: &Field, rows: u64) -> Result<AnalyzedColumn, QueryError> {
        let value = |what: Count| self.places.get(&(at, what)).map(|place| &self.values[*place]);
        let counted = |what: Count| value(what).map_or(Ok(None), number);
        let text = |what: Count| value(what).map_or(Ok(None), text);
        let n_values = counted(Count::Values)?.unwrap_or(rows);
        let width = field.data_type().primitive_width().map(|it| it as u64);
        let fixed = width.or((*field.data_type() == DataType::Boolean).then_some(1));
        Ok(AnalyzedColumn {
            name: field.name().clone(),
            type_name: field.data_type().to_string(),
            nulls: rows.saturating_sub(n_values),
            distinct: counted(Count::Distinct)?.map(|it| it.min(n_values)),
            min: text(Count::Min)?.map(|it| bound(&it)),
            max: text(Count::Max)?.map(|it| bound(&it)),
            bytes: match fixed {
                Some(width) => Some(width.saturating_mul(n_values)),
                // No value, no byte.
                None if value(Count::Bytes).is_some() => Some(counted(Count::Bytes)?.unwrap_or(0)),
                None => None,
            },
        })
    }
}

/// What can be counted of a column of this type.
fn counted(column: &Expr, field: &Field) -> Vec<(Count, Expr)> {
    let column = || column.clone();
    let mut counts = vec![(Count::Values, count(column()))];
    let data_type = field.data_type();
    let is_text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_ordered = is_text
        || data_type.is_numeric()
        || data_type.is_temporal() && !matches!(data_type, DataType::Interval(_) | DataType::Duration(_))
        || *data_type == DataType::Boolean;
    if is_ordered {
        // Sketches of floats there are none: by the text, each value is one, NaN too.
        let key = if data_type.is_floating() { cast(column(), DataType::Utf8) } else { column() };
        counts.push((Count::Distinct, approx_distinct(key)));
        counts.push((Count::Min, min(column())));
        counts.push((Count::Max, max(column())));
    }
    if is_text {
        counts.push((Count::Bytes, sum(cast(octet_length(column()), DataType::Int64))));
    }
    counts
}

fn number(value: &ArrayRef) -> Result<Option<u64>, QueryError> {
    let value = arrow::compute::cast(value, &DataType::UInt64)?;
    Ok(match ScalarValue::try_from_array(&value, 0)? {
        ScalarValue::UInt64(value) => value,
        _ => None,
    })
}

fn text(value: &ArrayRef) -> Result<Option<String>, QueryError> {
    if value.is_null(0) {
        return Ok(None);
    }
    let value = arrow::compute::cast(value, &DataType::Utf8)?;
    Ok(match ScalarValue::try_from_array(&value, 0)? {
        ScalarValue::Utf8(value) => value,
        _ => None,
    })
}

/// A row for each column, and one without a name for the table; numbers are NULL as long as nobody analyzed it.
pub(in crate::interpreters) fn show(
    session: &Session,
    context: &QueryContext,
    table: &ObjectName,
    filter: Option<ShowFilter>,
) -> Result<Answer, QueryError> {
    let (database, table) = table_name(session, table)?;
    let info = session.engine().catalog().table(&database, &table);
    let info = info.map_err(|error| QueryError::from_classified(&error))?;
    let Some(def) = info.def.as_ref() else {
        return Err(QueryError::unsupported(format!("SHOW STATS of '{database}.{table}', which is not analyzed,")));
    };
    let names = ["Column_name", "#Rows", "#Nulls", "#Distinct", "Min", "Max", "Avg_width", "Analyzed"];
    let mut rows = Rows::new(&names);
    let statistics = def.statistics.as_deref();
    let n_rows = statistics.map(|it| it.rows);
    let shown = |it: u64| it.to_string();
    let width =
        |bytes: Option<u64>, of: u64| bytes.filter(|_| of > 0).map(|it| format!("{:.1}", it as f64 / of as f64));
    let schema = def.schema();
    let declared = schema.fields().iter().map(|it| (it.name(), statistics.and_then(|of| of.column(it))));
    // What the catalog knows of a Delta table that others write need not be all of it.
    let others = statistics.iter().flat_map(|it| &it.columns).filter(|it| schema.index_of(&it.name).is_err());
    for (name, column) in declared.chain(others.map(|it| (&it.name, Some(it)))) {
        let n_values = column.zip(n_rows).map_or(0, |(it, rows)| rows.saturating_sub(it.nulls));
        rows.push(vec![
            Some(name.clone()),
            column.and(n_rows).map(shown),
            column.map(|it| shown(it.nulls)),
            column.and_then(|it| it.distinct).map(shown),
            column.and_then(|it| it.min.clone()),
            column.and_then(|it| it.max.clone()),
            width(column.and_then(|it| it.bytes), n_values),
            None,
        ]);
    }
    let at = statistics.and_then(|it| DateTime::from_timestamp_millis(it.analyzed_ms));
    rows.push(vec![
        None,
        n_rows.map(shown),
        None,
        None,
        None,
        None,
        statistics.and_then(|it| width(it.row_bytes(), it.rows)),
        at.map(|it| it.format("%Y-%m-%d %H:%M:%S").to_string()),
    ]);
    rows.filtered(filter, 0, &context.session_state)
}
