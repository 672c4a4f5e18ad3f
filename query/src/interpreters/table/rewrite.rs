//! `DELETE`, `UPDATE` and `TRUNCATE`: files whose rows change are written anew.
//!
//! Two plans: the first says which files have rows that match and how many, the second writes those files again. Files
//! that lose all their rows are only taken out.

use std::collections::HashMap;
use std::future::ready;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::catalog::TableProvider;
use datafusion::common::{ScalarValue, TableReference};
use datafusion::logical_expr::{Expr as PlanExpr, LogicalPlan, LogicalPlanBuilder, cast, when};
use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, BinaryOperator, Delete, Expr, FromTable, Ident, ObjectName, Query, SelectItem,
    SetExpr, TableFactor, TableWithJoins, UnaryOperator, Update, Visit, VisitMut, Visitor, VisitorMut,
};
use futures::TryStreamExt;
use sheaf_planners::parser::on_big_stack;
use sheaf_planners::parser::table::is_default;

use super::insert::{parse_expr, parse_query, position};
use super::retry::{Manner, retried};
use super::rows_of::{Value, default_of, fitted};
use super::{Answer, Attempt, QueryContext, QueryError, Session, Target, apart, change_of, commit, done, names, paths};
use crate::binder::bind_over;
use crate::coordinator;
use crate::interpreters::rewrite;
use crate::managed::log::Snapshot;
use crate::tables::delta::DeltaFile;

/// What the table is called in our queries about it, so that a subquery that names it means all of it.
pub(super) const TARGET: &str = "__sheaf_target";
/// The column with the file of a row.
pub(super) const FILE: &str = "__sheaf_file";
const HIT: &str = "__sheaf_hit";

pub(super) async fn truncate(
    session: &Session,
    context: &Arc<QueryContext>,
    tables: &[ObjectName],
) -> Result<Answer, QueryError> {
    let run = |target: Arc<Target>, _| async move {
        let snapshot = target.latest(context).await?;
        if !snapshot.files().is_empty() {
            remove_all(context, &target, &snapshot, "TRUNCATE").await?;
        }
        done(0, "")
    };
    for name in tables {
        retried(session, context, name, Manner::Rewrites, run).await?;
    }
    done(0, "")
}

async fn remove_all(
    context: &Arc<QueryContext>,
    target: &Target,
    snapshot: &Snapshot,
    operation: &'static str,
) -> Result<(), QueryError> {
    let mut change = change_of(context, operation, &[]);
    change.read_version = Some(snapshot.version);
    change.read_files = paths(snapshot);
    change.actions = snapshot.files().iter().map(|it| it.remove(true)).collect();
    commit(Attempt::new(context, &target.log, 0), change).await.map(|_| ())
}

/// What a DELETE or an UPDATE says.
struct Request {
    table: ObjectName,
    alias: String,
    selection: Option<Expr>,
    assignments: Vec<Assignment>,
    operation: &'static str,
}

pub(super) async fn delete(
    session: &Session,
    context: &Arc<QueryContext>,
    delete: Delete,
    values: &[ScalarValue],
) -> Result<Answer, QueryError> {
    if !delete.tables.is_empty() || delete.using.is_some() {
        return Err(QueryError::unsupported("DELETE from more than one table"));
    }
    if delete.returning.is_some() || !delete.order_by.is_empty() || delete.limit.is_some() {
        return Err(QueryError::unsupported("ORDER BY, LIMIT or RETURNING of DELETE"));
    }
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = delete.from;
    let (table, alias) = single_table(&from, "DELETE")?;
    let request = Request { table, alias, selection: delete.selection, assignments: vec![], operation: "DELETE" };
    run(session, context, &request, values).await
}

pub(super) async fn update(
    session: &Session,
    context: &Arc<QueryContext>,
    update: Update,
    values: &[ScalarValue],
) -> Result<Answer, QueryError> {
    if update.from.is_some() || update.returning.is_some() || !update.order_by.is_empty() || update.limit.is_some() {
        return Err(QueryError::unsupported("FROM, ORDER BY, LIMIT or RETURNING of UPDATE"));
    }
    let (table, alias) = single_table(std::slice::from_ref(&update.table), "UPDATE")?;
    let (selection, assignments) = (update.selection, update.assignments);
    let request = Request { table, alias, selection, assignments, operation: "UPDATE" };
    run(session, context, &request, values).await
}

/// The table of a statement about one, and what its columns may be qualified by.
fn single_table(from: &[TableWithJoins], what: &str) -> Result<(ObjectName, String), QueryError> {
    let [TableWithJoins { relation: TableFactor::Table { name, alias, args: None, .. }, joins }] = from else {
        return Err(QueryError::unsupported(format!("{what} of anything but one table")));
    };
    if !joins.is_empty() {
        return Err(QueryError::unsupported(format!("{what} of joined tables")));
    }
    let last = crate::binder::name_parts(name)?.pop().map(|it| it.value).unwrap_or_default();
    let alias = alias.as_ref().map_or(last, |it| it.name.value.clone());
    Ok((name.clone(), alias))
}

async fn run(
    session: &Session,
    context: &Arc<QueryContext>,
    request: &Request,
    values: &[ScalarValue],
) -> Result<Answer, QueryError> {
    let run =
        |target: Arc<Target>, attempt| async move { once(session, context, &target, request, values, attempt).await };
    retried(session, context, &request.table, Manner::Rewrites, run).await
}

async fn once(
    session: &Session,
    context: &Arc<QueryContext>,
    target: &Target,
    request: &Request,
    values: &[ScalarValue],
    attempt: u32,
) -> Result<Answer, QueryError> {
    let snapshot = target.latest(context).await?;
    if request.operation == "DELETE" && request.selection.is_none() {
        let rows: Option<u64> = snapshot.files().iter().map(|it| it.rows()).sum();
        if let Some(rows) = rows {
            if !snapshot.files().is_empty() {
                remove_all(context, target, &snapshot, "DELETE").await?;
            }
            return done(rows, "");
        }
    }
    let sets = assigned(session, target, &snapshot, request, values)?;
    let rewriter = Rewriter { session, context, target, snapshot: &snapshot, request, sets, values };
    let hits = rewriter.hits().await?;
    let (matched, changed) = hits.values().fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    let answer = match request.operation {
        "UPDATE" => done(changed, format!("Rows matched: {matched}  Changed: {changed}  Warnings: 0")),
        _ => done(matched, ""),
    };
    // Files of which every row goes need not be read again.
    let hits_of = |file: &DeltaFile| hits.get(file.path.as_ref()).copied().unwrap_or_default();
    let is_emptied = |file: &DeltaFile| request.operation == "DELETE" && file.rows() == Some(hits_of(file).0);
    let touched: Vec<Arc<DeltaFile>> = snapshot.files().iter().filter(|it| hits_of(it).1 > 0).map(Arc::clone).collect();
    if touched.is_empty() {
        return answer;
    }
    let again: Vec<Arc<DeltaFile>> = touched.iter().filter(|it| !is_emptied(it)).map(Arc::clone).collect();
    let attempt = Attempt::new(context, &target.log, attempt);
    let mut files = vec![];
    if !again.is_empty() {
        let plan = rewriter.rewritten(again).await?;
        files = super::write_files(context, plan, &attempt.table_destination(target, &snapshot)).await?;
    }
    let mut change = change_of(context, request.operation, &files);
    change.read_version = Some(snapshot.version);
    change.read_files = names(&touched);
    change.actions.extend(touched.iter().map(|it| it.remove(true)));
    if let Some(selection) = &request.selection {
        change.parameters.insert("predicate".to_owned(), selection.to_string().into());
    }
    change.metrics.insert("numMatchedRows".to_owned(), matched.into());
    commit(attempt, change).await?;
    answer
}

/// The columns that an UPDATE sets, by position, and what to.
fn assigned(
    session: &Session,
    target: &Target,
    snapshot: &Snapshot,
    request: &Request,
    values: &[ScalarValue],
) -> Result<Vec<(usize, Option<Expr>)>, QueryError> {
    let mut sets: Vec<(usize, Option<Expr>)> = vec![];
    for assignment in &request.assignments {
        let AssignmentTarget::ColumnName(name) = &assignment.target else {
            return Err(QueryError::unsupported("assigning to several columns at once"));
        };
        let column = position(target, snapshot, name)?;
        if sets.iter().any(|(it, _)| *it == column) {
            let name = snapshot.schema.field(column).name();
            return Err(QueryError::InvalidArgument(format!("column '{name}' is specified twice")));
        }
        let mut value = assignment.value.clone();
        let is_default = is_default(&value);
        on_big_stack(|| rewrite(session, Some(values)).apply(&mut value))?;
        sets.push((column, (!is_default).then_some(value)));
    }
    Ok(sets)
}

/// Gives the first CASE of a tree its condition. Not by text: what a client wrote would be read in another dialect.
struct PutCondition(Option<Expr>);

impl VisitorMut for PutCondition {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Case { conditions, .. } = expr
            && let Some(first) = conditions.first_mut()
            && let Some(condition) = self.0.take()
        {
            first.condition = condition;
        }
        ControlFlow::Continue(())
    }
}

pub(super) fn has_subquery(expr: &Expr) -> bool {
    struct Find;
    impl Visitor for Find {
        type Break = ();

        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }
    Visit::visit(expr, &mut Find).is_break()
}

struct Rewriter<'a> {
    session: &'a Session,
    context: &'a Arc<QueryContext>,
    target: &'a Target,
    snapshot: &'a Arc<Snapshot>,
    request: &'a Request,
    /// By position; no expression is the column's default.
    sets: Vec<(usize, Option<Expr>)>,
    values: &'a [ScalarValue],
}

impl Rewriter<'_> {
    /// `SELECT items FROM the table`.
    fn query(&self, items: Vec<SelectItem>) -> Result<Box<Query>, QueryError> {
        let alias = self.request.alias.replace('`', "``");
        let mut query = parse_query(&format!("SELECT 1 FROM {TARGET} AS `{alias}`"))?;
        if let SetExpr::Select(select) = query.body.as_mut() {
            select.projection = items;
        }
        Ok(query)
    }

    async fn bound(&self, query: Box<Query>, files: Option<Vec<Arc<DeltaFile>>>) -> Result<LogicalPlan, QueryError> {
        let reference = TableReference::full(crate::catalog::CATALOG, "", TARGET);
        let mut table = self.target.log.table(reference, self.snapshot).with_path_column(FILE);
        if let Some(files) = files {
            table = table.of_files(files);
        }
        let tables: HashMap<String, Arc<dyn TableProvider>> =
            [(TARGET.to_owned(), Arc::new(table) as Arc<dyn TableProvider>)].into_iter().collect();
        bind_over(&self.context.session_state, query, self.session.is_mysql(), ready(Ok(())), &tables).await
    }

    /// The statement's condition, with variables and parameters settled.
    fn condition(&self) -> Result<Option<Expr>, QueryError> {
        let Some(condition) = self.request.selection.clone() else { return Ok(None) };
        // As the condition of a SELECT: a number is one in MySQL.
        let mut query = parse_query("SELECT 1")?;
        if let SetExpr::Select(select) = query.body.as_mut() {
            select.selection = Some(condition);
        }
        on_big_stack(|| rewrite(self.session, Some(self.values)).apply(query.as_mut()))?;
        match *query.body {
            SetExpr::Select(select) => Ok(select.selection),
            _ => Ok(None),
        }
    }

    /// By file: rows that match, and those of them that a change would leave different.
    async fn hits(&self) -> Result<HashMap<String, (u64, u64)>, QueryError> {
        let mut differs: Option<Expr> = None;
        for (column, value) in &self.sets {
            let name = Expr::Identifier(Ident::with_quote('`', self.snapshot.schema.field(*column).name()));
            // A default is written out by the plan below; that it might be the same is not looked at.
            let Some(value) = value else {
                differs = None;
                break;
            };
            let value = Expr::Nested(Box::new(value.clone()));
            let is_other = Expr::Nested(Box::new(Expr::IsDistinctFrom(Box::new(name), Box::new(value))));
            differs = Some(match differs {
                None => is_other,
                Some(before) => {
                    Expr::BinaryOp { left: Box::new(before), op: BinaryOperator::Or, right: Box::new(is_other) }
                }
            });
        }
        let counted = "count(CASE WHEN true THEN 1 END)";
        let sql = format!("SELECT {FILE}, count(*) AS n, {counted} AS m FROM t GROUP BY {FILE}");
        let mut template = parse_query(&sql)?;
        let _ = VisitMut::visit(template.as_mut(), &mut PutCondition(differs));
        let mut query = self.query(vec![])?;
        if let (SetExpr::Select(select), SetExpr::Select(template)) = (query.body.as_mut(), *template.body) {
            select.projection = template.projection;
            select.group_by = template.group_by;
            select.selection = self.condition()?;
        }
        let plan = self.bound(query, None).await?;
        let context = apart(self.context);
        let plan = coordinator::plan(&context, plan).await?;
        let mut rows = coordinator::run(context, plan).await?.stream;
        let mut hits = HashMap::new();
        while let Some(batch) = rows.try_next().await? {
            let files = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8)?;
            let (files, n, m) = (files.as_string::<i32>(), batch.column(1), batch.column(2));
            let (n, m) = (n.as_primitive::<Int64Type>(), m.as_primitive::<Int64Type>());
            for row in 0..batch.num_rows() {
                let count = |it: i64| u64::try_from(it).unwrap_or(0);
                hits.insert(files.value(row).to_owned(), (count(n.value(row)), count(m.value(row))));
            }
        }
        Ok(hits)
    }

    /// The rows of some files as they are to be.
    async fn rewritten(&self, files: Vec<Arc<DeltaFile>>) -> Result<LogicalPlan, QueryError> {
        let schema = &self.snapshot.schema;
        let alias = &self.request.alias;
        let column =
            |name: &str| Expr::CompoundIdentifier(vec![Ident::with_quote('`', alias), Ident::with_quote('`', name)]);
        let item = |expr: Expr, name: String| SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('`', name) };
        let mut items: Vec<SelectItem> =
            schema.fields().iter().map(|it| item(column(it.name()), format!("c_{}", it.name()))).collect();
        let hit = match self.condition()? {
            Some(condition) => Expr::IsTrue(Box::new(Expr::Nested(Box::new(condition)))),
            None => parse_expr("true")?,
        };
        let is_delete = self.request.operation == "DELETE";
        if !is_delete {
            items.push(item(hit.clone(), HIT.to_owned()));
            for (idx, (_, value)) in self.sets.iter().enumerate() {
                let value = match value {
                    Some(value) => value.clone(),
                    None => parse_expr("NULL")?,
                };
                items.push(item(value, format!("s_{idx}")));
            }
        }
        let mut query = self.query(items)?;
        if is_delete && let SetExpr::Select(select) = query.body.as_mut() {
            select.selection =
                Some(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(Expr::Nested(Box::new(hit.clone()))) });
        }
        if !is_delete && has_subquery(&hit) {
            return self.rewritten_apart(query, hit, files).await;
        }
        let plan = self.bound(query, Some(files)).await?;
        self.fitted(plan)
    }

    /// The same where the condition has a subquery, which the engine plans as a filter only: rows that match and rows
    /// that do not, each by a plan of its own.
    async fn rewritten_apart(
        &self,
        query: Box<Query>,
        hit: Expr,
        files: Vec<Arc<DeltaFile>>,
    ) -> Result<LogicalPlan, QueryError> {
        let mut plans = vec![];
        for matches in [true, false] {
            let mut part = query.clone();
            if let SetExpr::Select(select) = part.body.as_mut() {
                let condition = Box::new(Expr::Nested(Box::new(hit.clone())));
                select.selection = Some(match matches {
                    true => *condition,
                    false => Expr::UnaryOp { op: UnaryOperator::Not, expr: condition },
                });
                for item in &mut select.projection {
                    if let SelectItem::ExprWithAlias { expr, alias } = item
                        && alias.value == HIT
                    {
                        *expr = parse_expr(if matches { "true" } else { "false" })?;
                    }
                }
            }
            let plan = self.bound(part, Some(files.clone())).await?;
            plans.push(self.fitted(plan)?);
        }
        let mut builder = None;
        for plan in plans {
            builder = Some(match builder {
                None => LogicalPlanBuilder::from(plan),
                Some(before) => LogicalPlanBuilder::union(before, plan)?,
            });
        }
        let built = builder.map(LogicalPlanBuilder::build).transpose()?;
        built.ok_or_else(|| QueryError::InvalidArgument("nothing to write".to_owned()))
    }

    /// The columns of a plan of old rows, hits and new values as the table's.
    fn fitted(&self, plan: LogicalPlan) -> Result<LogicalPlan, QueryError> {
        let schema = &self.snapshot.schema;
        let n_columns = schema.fields().len();
        let given = plan.schema().columns();
        let mut values: Vec<Value> = (0..n_columns).map(Value::Column).collect();
        for (idx, (column, value)) in self.sets.iter().enumerate() {
            let field = schema.field(*column);
            let new = match value {
                Some(_) => PlanExpr::Column(given[n_columns + 1 + idx].clone()),
                None => default_of(self.context, &self.target.def, field.name(), field.is_nullable())?,
            };
            let old = PlanExpr::Column(given[*column].clone());
            let new = cast(new, field.data_type().clone());
            values[*column] = Value::Expr(when(PlanExpr::Column(given[n_columns].clone()), new).otherwise(old)?);
        }
        fitted(self.context, plan, &self.target.def, schema, &self.snapshot.checks, values)
    }
}
