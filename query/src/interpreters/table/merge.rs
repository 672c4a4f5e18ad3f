//! `MERGE INTO`: a table's rows changed by those of a source, and the source's own put in where they match none.
//!
//! Up to four plans, each for the whole cluster: the range of the source's keys, by which files go that cannot match;
//! which files have rows that a clause changes, and that no row is changed twice; those files written again; the rows
//! that are new. One commit for all.

use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, ScalarValue, TableReference};
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Expr as PlanExpr, ExprSchemable, Join as PlanJoin, LogicalPlan, LogicalPlanBuilder, Operator, cast,
    lit, when,
};
use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, BinaryOperator, CaseWhen, Expr, Ident, JoinConstraint, JoinOperator, Merge,
    MergeAction, MergeClauseKind, MergeInsertExpr, MergeInsertKind, ObjectName, Query, SelectItem, SetExpr,
    TableFactor, VisitMut, VisitorMut,
};
use futures::TryStreamExt;
use sheaf_common::{ErrorCode, WireError};
use sheaf_planners::functions::ROW_ID;
use sheaf_planners::parser::on_big_stack;
use sheaf_planners::parser::table::is_default;

use super::insert::{parse_expr, parse_query, position};
use super::retry::{Manner, retried};
use super::rewrite::{FILE, TARGET, has_subquery};
use super::rows_of::{Value, default_of, fitted, kept_as};
use super::{Answer, Attempt, QueryContext, QueryError, Session, Target, apart, change_of, commit, done, names};
use crate::binder::{bind_over, name_parts};
use crate::coordinator;
use crate::interpreters::rewrite;
use crate::managed::log::{Reads, Snapshot};
use crate::tables::delta::DeltaFile;

/// Columns of ours: a number for each of the table's rows, the clause that a row is for, and whether there is a row of
/// the source.
const ROW: &str = "__sheaf_row";
const ACT: &str = "__sheaf_act";
const SOURCE: &str = "__sheaf_source";

pub(super) async fn run(
    session: &Session,
    context: &Arc<QueryContext>,
    merge: Merge,
    values: &[ScalarValue],
) -> Result<Answer, QueryError> {
    let request = &Request::of(merge)?;
    let run =
        |target: Arc<Target>, attempt| async move { once(session, context, &target, request, values, attempt).await };
    retried(session, context, &request.table, Manner::Rewrites, run).await
}

/// What a MERGE says.
struct Request {
    table: ObjectName,
    alias: Ident,
    source: TableFactor,
    source_alias: Ident,
    on: Expr,
    /// In order. A clause is known by its place: those for matched rows first, then those for rows that the source does
    /// not have, then those for rows that the table does not have.
    clauses: Vec<Clause>,
}

struct Clause {
    kind: Kind,
    condition: Option<Expr>,
    action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Matched,
    BySource,
    ByTarget,
}

enum Action {
    Update(Vec<Assignment>),
    Delete,
    Insert(Box<MergeInsertExpr>),
}

impl Request {
    fn of(merge: Merge) -> Result<Self, QueryError> {
        if merge.output.is_some() {
            return Err(QueryError::unsupported("OUTPUT or RETURNING of MERGE"));
        }
        let TableFactor::Table { name, alias, args: None, .. } = merge.table else {
            return Err(QueryError::unsupported("MERGE into anything but a table"));
        };
        let last = name_parts(&name)?.pop().unwrap_or_else(|| Ident::new(""));
        let alias = alias.map_or(last, |it| it.name);
        let source_alias = source_alias(&merge.source)?;
        let mut clauses = merge.clauses.into_iter().map(Clause::of).collect::<Result<Vec<_>, _>>()?;
        // Stable: of one kind they are asked in the order in which they stand.
        clauses.sort_by_key(|it| it.kind as u8);
        if clauses.is_empty() {
            return Err(QueryError::InvalidArgument("MERGE needs a WHEN clause".to_owned()));
        }
        let conditions = clauses.iter().filter_map(|it| it.condition.as_ref()).chain([merge.on.as_ref()]);
        if conditions.into_iter().any(has_subquery) {
            return Err(QueryError::unsupported(
                "a subquery in a condition of MERGE: it can be part of the source, and so",
            ));
        }
        Ok(Self { table: name, alias, source: merge.source, source_alias, on: *merge.on, clauses })
    }

    /// The clauses of a kind with their numbers.
    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (usize, &Clause)> {
        self.clauses.iter().enumerate().filter(move |(_, it)| it.kind == kind)
    }

    fn has(&self, kind: Kind) -> bool {
        self.of_kind(kind).next().is_some()
    }

    /// Whether some clause of the kind takes every row.
    fn takes_all(&self, kind: Kind) -> bool {
        self.of_kind(kind).any(|(_, it)| it.condition.is_none())
    }

    /// The number of the clause of a kind that takes a row; NULL if none does.
    fn act(&self, kind: Kind) -> Result<Expr, QueryError> {
        let always = parse_expr("true")?;
        let arms = self.of_kind(kind).map(|(number, it)| {
            let condition = it.condition.clone().unwrap_or_else(|| always.clone());
            Ok((Expr::Nested(Box::new(condition)), parse_expr(&number.to_string())?))
        });
        case(arms.collect::<Result<Vec<_>, QueryError>>()?)
    }
}

impl Clause {
    fn of(clause: datafusion::sql::sqlparser::ast::MergeClause) -> Result<Self, QueryError> {
        let kind = match clause.clause_kind {
            MergeClauseKind::Matched => Kind::Matched,
            MergeClauseKind::NotMatchedBySource => Kind::BySource,
            MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => Kind::ByTarget,
        };
        let action = match clause.action {
            MergeAction::Update(update) if update.update_predicate.is_none() && update.delete_predicate.is_none() => {
                Action::Update(update.assignments)
            }
            MergeAction::Update(_) => return Err(QueryError::unsupported("WHERE of UPDATE in MERGE")),
            MergeAction::Insert(insert) if insert.insert_predicate.is_some() => {
                return Err(QueryError::unsupported("WHERE of INSERT in MERGE"));
            }
            MergeAction::Insert(insert) => Action::Insert(Box::new(insert)),
            MergeAction::Delete { .. } => Action::Delete,
        };
        Ok(Self { kind, condition: clause.predicate, action })
    }
}

/// What the source's columns may be qualified by.
fn source_alias(source: &TableFactor) -> Result<Ident, QueryError> {
    let (alias, name) = match source {
        TableFactor::Table { alias, name, .. } | TableFactor::Function { alias, name, .. } => (alias, Some(name)),
        TableFactor::Derived { alias, .. } | TableFactor::TableFunction { alias, .. } => (alias, None),
        other => return Err(QueryError::unsupported(format!("MERGE from {other}"))),
    };
    if let Some(alias) = alias {
        return Ok(alias.name.clone());
    }
    let last = name.map(name_parts).transpose()?.and_then(|mut it| it.pop());
    last.ok_or_else(|| QueryError::InvalidArgument("the source of MERGE needs an alias".to_owned()))
}

fn case(arms: Vec<(Expr, Expr)>) -> Result<Expr, QueryError> {
    let mut case = parse_expr("CASE WHEN true THEN 1 END")?;
    if let Expr::Case { conditions, .. } = &mut case {
        *conditions = arms.into_iter().map(|(condition, result)| CaseWhen { condition, result }).collect();
    }
    Ok(case)
}

fn both(left: Expr, right: Expr) -> Expr {
    let nested = |it| Box::new(Expr::Nested(Box::new(it)));
    Expr::BinaryOp { left: nested(left), op: BinaryOperator::And, right: nested(right) }
}

fn column(alias: &Ident, name: &str) -> Expr {
    let alias = Ident::with_quote('`', alias.value.as_str());
    Expr::CompoundIdentifier(vec![alias, Ident::with_quote('`', name)])
}

fn item(expr: Expr, name: impl Into<String>) -> SelectItem {
    SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('`', name) }
}

/// Rows that clauses change in one file.
#[derive(Debug, Default, Clone, Copy)]
struct Hits {
    updated: u64,
    deleted: u64,
}

impl Hits {
    fn all(self) -> u64 {
        self.updated + self.deleted
    }
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
    let merger = Merger { session, context, target, snapshot: &snapshot, request, values };
    let candidates = merger.candidates().await?;
    let hits = merger.hits(&candidates).await?;
    let hits_of = |file: &DeltaFile| hits.get(file.path.as_ref()).copied().unwrap_or_default();
    let touched: Vec<Arc<DeltaFile>> =
        snapshot.files().iter().filter(|it| hits_of(it).all() > 0).map(Arc::clone).collect();
    // Files of which every row goes need not be read again.
    let again = touched.iter().filter(|it| it.rows() != Some(hits_of(it).deleted)).map(Arc::clone);
    let again: Vec<Arc<DeltaFile>> = again.collect();
    let attempt = Attempt::new(context, &target.log, attempt);
    let to = attempt.table_destination(target, &snapshot);
    let mut files = vec![];
    if !again.is_empty() {
        let expected: Option<u64> = again.iter().map(|it| Some(it.rows()?.saturating_sub(hits_of(it).deleted))).sum();
        files = super::write_files(context, merger.rewritten(&again).await?, &to).await?;
        let rows: u64 = files.iter().map(|it| it.rows).sum();
        if expected.is_some_and(|it| it != rows) {
            let text = "the source of MERGE had other rows when it was read again: put its rows into a table first";
            return Err(QueryError::InvalidArgument(text.to_owned()));
        }
    }
    let mut inserted = 0;
    if request.has(Kind::ByTarget) {
        let new = super::write_files(context, merger.inserted(candidates).await?, &to).await?;
        inserted = new.iter().map(|it| it.rows).sum();
        files.extend(new);
    }
    let (updated, deleted) = hits.values().fold((0, 0), |sum, it| (sum.0 + it.updated, sum.1 + it.deleted));
    if !files.is_empty() || !touched.is_empty() {
        let mut change = change_of(context, "MERGE", &files);
        change.read_version = Some(snapshot.version);
        change.read_files = names(&touched);
        // A row that another MERGE adds meanwhile may be one that this one would have changed, or not added.
        change.reads = Reads::Rows;
        change.actions.extend(touched.iter().map(|it| it.remove(true)));
        change.parameters.insert("predicate".to_owned(), request.on.to_string().into());
        for (name, count) in [
            ("numTargetRowsInserted", inserted),
            ("numTargetRowsUpdated", updated),
            ("numTargetRowsDeleted", deleted),
            ("numTargetFilesRemoved", touched.len() as u64),
        ] {
            change.metrics.insert(name.to_owned(), count.into());
        }
        commit(attempt, change).await?;
    }
    done(inserted + updated + deleted, format!("Rows inserted: {inserted}  updated: {updated}  deleted: {deleted}"))
}

struct Merger<'a> {
    session: &'a Session,
    context: &'a Arc<QueryContext>,
    target: &'a Target,
    snapshot: &'a Arc<Snapshot>,
    request: &'a Request,
    values: &'a [ScalarValue],
}

/// How the source stands beside the table.
enum Beside {
    Nothing,
    /// Pairs that `on` is true for.
    Inner(Expr),
    /// The same, and the table's rows that have none; [`SOURCE`] is NULL for those.
    Left(Expr),
}

impl Merger<'_> {
    /// `SELECT items FROM relation [JOIN the source ON …] [WHERE …]`.
    fn query(
        &self,
        items: Vec<SelectItem>,
        relation: TableFactor,
        beside: Beside,
        selection: Option<Expr>,
    ) -> Result<Box<Query>, QueryError> {
        let mut query = match &beside {
            Beside::Nothing => parse_query("SELECT 1 FROM a")?,
            Beside::Inner(_) | Beside::Left(_) => parse_query("SELECT 1 FROM a JOIN b ON true")?,
        };
        let SetExpr::Select(select) = query.body.as_mut() else { return Ok(query) };
        (select.projection, select.selection) = (items, selection);
        for from in &mut select.from {
            from.relation = relation.clone();
            for join in &mut from.joins {
                match &beside {
                    Beside::Nothing => {}
                    Beside::Inner(on) => {
                        join.relation = self.request.source.clone();
                        join.join_operator = JoinOperator::Inner(JoinConstraint::On(on.clone()));
                    }
                    Beside::Left(on) => {
                        join.relation = self.marked_source()?;
                        join.join_operator = JoinOperator::Left(JoinConstraint::On(on.clone()));
                    }
                }
            }
        }
        Ok(query)
    }

    /// `(inner) AS alias`.
    fn derived(&self, inner: &str, alias: &Ident) -> Result<TableFactor, QueryError> {
        let query = parse_query(&format!("SELECT 1 FROM ({inner}) AS a"))?;
        let SetExpr::Select(select) = *query.body else { return Err(QueryError::unsupported("this source of MERGE")) };
        let mut from = select.from;
        let mut relation = from.swap_remove(0).relation;
        if let TableFactor::Derived { alias: Some(given), .. } = &mut relation {
            given.name = Ident::with_quote('`', alias.value.as_str());
        }
        Ok(relation)
    }

    fn target_relation(&self) -> Result<TableFactor, QueryError> {
        let alias = self.request.alias.value.replace('`', "``");
        let query = parse_query(&format!("SELECT 1 FROM {TARGET} AS `{alias}`"))?;
        let SetExpr::Select(select) = *query.body else { return Err(QueryError::unsupported("this target of MERGE")) };
        let mut from = select.from;
        Ok(from.swap_remove(0).relation)
    }

    /// The table with a number for each row.
    fn numbered_target(&self) -> Result<TableFactor, QueryError> {
        self.derived(&format!("SELECT *, {ROW_ID}() AS {ROW} FROM {TARGET}"), &self.request.alias)
    }

    /// The source with a column that is never NULL.
    fn marked_source(&self) -> Result<TableFactor, QueryError> {
        let mut relation = self.derived(&format!("SELECT *, 1 AS {SOURCE} FROM a"), &self.request.source_alias)?;
        if let TableFactor::Derived { subquery, .. } = &mut relation
            && let SetExpr::Select(select) = subquery.body.as_mut()
        {
            for from in &mut select.from {
                from.relation = self.request.source.clone();
            }
        }
        Ok(relation)
    }

    /// Whether the source, or the table, has a row that matches.
    fn exists(&self, relation: TableFactor, negated: bool) -> Result<Expr, QueryError> {
        let one = SelectItem::UnnamedExpr(parse_expr("1")?);
        let subquery = self.query(vec![one], relation, Beside::Nothing, Some(self.request.on.clone()))?;
        Ok(Expr::Exists { subquery, negated })
    }

    async fn bound(&self, query: Box<Query>, files: Option<Vec<Arc<DeltaFile>>>) -> Result<LogicalPlan, QueryError> {
        let mut query = query;
        on_big_stack(|| rewrite(self.session, Some(self.values)).apply(query.as_mut()))?;
        let reference = TableReference::full(crate::catalog::CATALOG, "", TARGET);
        let mut table = self.target.log.table(reference, self.snapshot).with_path_column(FILE);
        if let Some(files) = files {
            table = table.of_files(files);
        }
        let tables: HashMap<String, Arc<dyn TableProvider>> =
            [(TARGET.to_owned(), Arc::new(table) as Arc<dyn TableProvider>)].into_iter().collect();
        bind_over(&self.context.session_state, query, self.session.is_mysql(), ready(Ok(())), &tables).await
    }

    /// The files that can have rows which match one of the source's: `None` for all.
    async fn candidates(&self) -> Result<Option<Vec<Arc<DeltaFile>>>, QueryError> {
        let one = SelectItem::UnnamedExpr(parse_expr("1")?);
        let beside = Beside::Inner(self.request.on.clone());
        let plan = self.bound(self.query(vec![one], self.target_relation()?, beside, None)?, None).await?;
        let mut join = None;
        plan.apply(|node| {
            if let LogicalPlan::Join(found) = node {
                join = Some(found.clone());
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let Some(join) = join else { return Ok(None) };
        check_same_each_time(&join)?;
        let keys = self.keys(&join)?;
        if keys.is_empty() || self.snapshot.files().len() < 2 {
            return Ok(None);
        }
        let ranges = keys.iter().flat_map(|(_, key)| [min(key.clone()), max(key.clone())]);
        let ranges = ranges.enumerate().map(|(idx, it)| it.alias(format!("r_{idx}")));
        let plan = LogicalPlanBuilder::from(join.right.as_ref().clone())
            .aggregate(Vec::<PlanExpr>::new(), ranges.collect::<Vec<_>>())?
            .build()?;
        let context = apart(self.context);
        let plan = coordinator::plan(&context, plan).await?;
        let mut rows = coordinator::run(context, plan).await?.stream;
        let mut filters = vec![];
        while let Some(batch) = rows.try_next().await? {
            if batch.num_rows() == 0 {
                continue;
            }
            for (idx, (name, _)) in keys.iter().enumerate() {
                let of = |position: usize| ScalarValue::try_from_array(batch.column(position), 0);
                let (low, high) = (of(2 * idx)?, of(2 * idx + 1)?);
                if low.is_null() {
                    // No row of the source has a key.
                    return Ok(Some(vec![]));
                }
                let column = || PlanExpr::Column(Column::from_name(name.as_str()));
                filters.push(column().gt_eq(lit(low)).and(column().lt_eq(lit(high))));
            }
        }
        let table = self.target.table(self.snapshot);
        Ok(Some(table.matching(self.context.session_state.as_ref(), &filters)?))
    }

    /// Columns of the table that a row of the source has to be equal to, and what to.
    fn keys(&self, join: &PlanJoin) -> Result<Vec<(String, PlanExpr)>, QueryError> {
        let mut pairs = join.on.clone();
        for part in join.filter.iter().flat_map(split_conjunction) {
            if let PlanExpr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = part {
                pairs.push((left.as_ref().clone(), right.as_ref().clone()));
                pairs.push((right.as_ref().clone(), left.as_ref().clone()));
            }
        }
        let mut keys = vec![];
        for (column, key) in pairs {
            let PlanExpr::Column(found) = &column else { continue };
            let is_of_source =
                !key.column_refs().is_empty() && key.column_refs().iter().all(|it| join.right.schema().has_column(it));
            if !is_of_source || !join.left.schema().has_column(found) {
                continue;
            }
            let (ours, theirs) = (column.get_type(join.left.schema())?, key.get_type(join.right.schema())?);
            if found.name != FILE && is_one_order(&ours, &theirs) {
                keys.push((found.name.clone(), key));
            }
        }
        Ok(keys)
    }

    /// By file: the rows that clauses change.
    ///
    /// Errs when more than one row of the source would change one row of the table.
    async fn hits(&self, candidates: &Option<Vec<Arc<DeltaFile>>>) -> Result<BTreeMap<String, Hits>, QueryError> {
        let mut hits = BTreeMap::new();
        let request = self.request;
        let file = || item(column(&request.alias, FILE), FILE);
        if request.has(Kind::Matched) && candidates.as_ref().is_none_or(|it| !it.is_empty()) {
            let items = vec![file(), item(column(&request.alias, ROW), ROW), item(request.act(Kind::Matched)?, ACT)];
            let pairs = self.query(items, self.numbered_target()?, Beside::Inner(request.on.clone()), None)?;
            let sql = format!(
                "SELECT {FILE}, act, count(*) AS n, max(m) AS m FROM (SELECT {FILE}, {ROW}, max({ACT}) AS act, \
                 count(*) AS m FROM (SELECT 1) AS p WHERE {ACT} IS NOT NULL GROUP BY {FILE}, {ROW}) AS q \
                 GROUP BY {FILE}, act"
            );
            self.count(&sql, pairs, candidates.clone(), &mut hits).await?;
        }
        if request.has(Kind::BySource) {
            let items = vec![file(), item(request.act(Kind::BySource)?, ACT)];
            let is_missing = self.exists(request.source.clone(), true)?;
            let missing = self.query(items, self.target_relation()?, Beside::Nothing, Some(is_missing))?;
            let sql = format!(
                "SELECT {FILE}, {ACT}, count(*) AS n, max(1) AS m FROM (SELECT 1) AS p \
                 WHERE {ACT} IS NOT NULL GROUP BY {FILE}, {ACT}"
            );
            self.count(&sql, missing, None, &mut hits).await?;
        }
        Ok(hits)
    }

    /// Runs `sql`, whose `p` is `inner`: file, clause, rows, and how many rows of the source one of them has at most.
    async fn count(
        &self,
        sql: &str,
        inner: Box<Query>,
        files: Option<Vec<Arc<DeltaFile>>>,
        hits: &mut BTreeMap<String, Hits>,
    ) -> Result<(), QueryError> {
        let mut query = parse_query(sql)?;
        let _ = VisitMut::visit(query.as_mut(), &mut PutQuery(Some(inner)));
        let plan = self.bound(query, files).await?;
        let context = apart(self.context);
        let plan = coordinator::plan(&context, plan).await?;
        let mut rows = coordinator::run(context, plan).await?.stream;
        while let Some(batch) = rows.try_next().await? {
            let files = arrow::compute::cast(batch.column(0), &DataType::Utf8)?;
            let number = |idx: usize| arrow::compute::cast(batch.column(idx), &DataType::Int64);
            let (acts, counts, copies) = (number(1)?, number(2)?, number(3)?);
            let of = |column: &arrow::array::ArrayRef, row: usize| column.as_primitive::<Int64Type>().value(row);
            for row in 0..batch.num_rows() {
                if of(&copies, row) > 1 {
                    let text = "more than one row of the source of MERGE matches one row of the table, which would be \
                                changed twice";
                    return Err(QueryError::Wire(WireError::new(ErrorCode::SubqueryRows, text)));
                }
                let found: &mut Hits = hits.entry(files.as_string::<i32>().value(row).to_owned()).or_default();
                let n = u64::try_from(of(&counts, row)).unwrap_or(0);
                let clause = usize::try_from(of(&acts, row)).ok().and_then(|it| self.request.clauses.get(it));
                match clause.map(|it| &it.action) {
                    Some(Action::Delete) => found.deleted += n,
                    _ => found.updated += n,
                }
            }
        }
        Ok(())
    }

    /// The rows of some files as they are to be.
    async fn rewritten(&self, files: &[Arc<DeltaFile>]) -> Result<LogicalPlan, QueryError> {
        let request = self.request;
        let is_pair = Expr::IsNotNull(Box::new(column(&request.source_alias, SOURCE)));
        let is_alone = || Expr::IsNull(Box::new(column(&request.source_alias, SOURCE)));
        let mut parts = vec![];
        let has_act = |act: Expr| Expr::IsNotNull(Box::new(Expr::Nested(Box::new(act))));
        let on_act = match request.has(Kind::Matched) && !request.takes_all(Kind::Matched) {
            // Pairs that no clause takes are none: a row of the table must not come once for each.
            true => both(request.on.clone(), has_act(request.act(Kind::Matched)?)),
            false => request.on.clone(),
        };
        let if_pair = |act: Expr| case(vec![(is_pair.clone(), act)]);
        if !request.has(Kind::BySource) || request.takes_all(Kind::Matched) {
            let act = match (request.has(Kind::Matched), request.has(Kind::BySource)) {
                (true, true) => case(vec![
                    (is_pair.clone(), request.act(Kind::Matched)?),
                    (is_alone(), request.act(Kind::BySource)?),
                ])?,
                _ => if_pair(request.act(Kind::Matched)?)?,
            };
            parts.push((act, Beside::Left(on_act), None));
        } else {
            let source = || request.source.clone();
            parts.push((request.act(Kind::BySource)?, Beside::Nothing, Some(self.exists(source(), true)?)));
            let is_there = Some(self.exists(source(), false)?);
            parts.push(match request.has(Kind::Matched) {
                true => (if_pair(request.act(Kind::Matched)?)?, Beside::Left(on_act), is_there),
                false => (parse_expr("CAST(NULL AS BIGINT)")?, Beside::Nothing, is_there),
            });
        }
        let mut builder = None;
        for (act, beside, selection) in parts {
            let has_source = matches!(beside, Beside::Left(_));
            let sets = self.sets(has_source)?;
            let mut items: Vec<SelectItem> = self
                .snapshot
                .schema
                .fields()
                .iter()
                .map(|it| item(column(&request.alias, it.name()), format!("c_{}", it.name())))
                .collect();
            items.push(item(act.clone(), ACT));
            for (idx, set) in sets.iter().enumerate() {
                if let Some(value) = &set.value {
                    // Not worked out for rows of other clauses, for which it may be an error.
                    let is_of = Expr::BinaryOp {
                        left: Box::new(Expr::Nested(Box::new(act.clone()))),
                        op: BinaryOperator::Eq,
                        right: Box::new(parse_expr(&set.clause.to_string())?),
                    };
                    items.push(item(case(vec![(is_of, value.clone())])?, format!("s_{idx}")));
                }
            }
            let query = self.query(items, self.target_relation()?, beside, selection)?;
            let plan = self.changed(self.bound(query, Some(files.to_vec())).await?, &sets)?;
            builder = Some(match builder {
                None => LogicalPlanBuilder::from(plan),
                Some(before) => LogicalPlanBuilder::union(before, plan)?,
            });
        }
        let built = builder.map(LogicalPlanBuilder::build).transpose()?;
        built.ok_or_else(|| QueryError::InvalidArgument("nothing to write".to_owned()))
    }

    /// What the UPDATEs set; `with_source` for those whose rows have one of the source's.
    fn sets(&self, with_source: bool) -> Result<Vec<Set>, QueryError> {
        let mut sets: Vec<Set> = vec![];
        for (clause, it) in self.request.clauses.iter().enumerate() {
            let Action::Update(assignments) = &it.action else { continue };
            if it.kind == Kind::Matched && !with_source {
                continue;
            }
            for assignment in assignments {
                let AssignmentTarget::ColumnName(name) = &assignment.target else {
                    return Err(QueryError::unsupported("assigning to several columns at once"));
                };
                let column = position(self.target, self.snapshot, name)?;
                if sets.iter().any(|it| (it.clause, it.column) == (clause, column)) {
                    return Err(twice(self.snapshot, column));
                }
                let value = (!is_default(&assignment.value)).then(|| assignment.value.clone());
                sets.push(Set { clause, column, value });
            }
        }
        Ok(sets)
    }

    /// The table's rows from a plan of old ones, the clause of each, and new values.
    fn changed(&self, plan: LogicalPlan, sets: &[Set]) -> Result<LogicalPlan, QueryError> {
        let schema = &self.snapshot.schema;
        let given = plan.schema().columns();
        let act = || PlanExpr::Column(given[schema.fields().len()].clone());
        let number = |clause: usize| lit(clause as i64);
        let mut next = schema.fields().len() + 1;
        let mut arms: Vec<Vec<(usize, PlanExpr)>> = vec![vec![]; schema.fields().len()];
        for set in sets {
            let field = schema.field(set.column);
            let value = match &set.value {
                Some(_) => {
                    next += 1;
                    kept_as(PlanExpr::Column(given[next - 1].clone()), plan.schema(), field)?
                }
                None => {
                    let default = default_of(self.context, &self.target.def, field.name(), field.is_nullable())?;
                    cast(default, field.data_type().clone())
                }
            };
            arms[set.column].push((set.clause, value));
        }
        let mut values = vec![];
        for (idx, arms) in arms.into_iter().enumerate() {
            let old = PlanExpr::Column(given[idx].clone());
            let mut arms = arms.into_iter().map(|(clause, value)| (act().eq(number(clause)), value));
            values.push(match arms.next() {
                None => Value::Column(idx),
                Some((condition, value)) => {
                    let mut case = when(condition, value);
                    for (condition, value) in arms {
                        case = case.when(condition, value);
                    }
                    Value::Expr(case.otherwise(old)?)
                }
            });
        }
        let deletes = self.request.clauses.iter().enumerate().filter(|(_, it)| matches!(it.action, Action::Delete));
        let deletes: Vec<PlanExpr> = deletes.map(|(clause, _)| number(clause)).collect();
        let stays = match deletes.is_empty() {
            true => plan,
            false => {
                let stays = act().is_null().or(act().in_list(deletes, true));
                LogicalPlanBuilder::from(plan).filter(stays)?.build()?
            }
        };
        fitted(self.context, stays, &self.target.def, schema, &self.snapshot.checks, values)
    }

    /// The rows that are new; `files` have all of the table's that could match them.
    async fn inserted(&self, files: Option<Vec<Arc<DeltaFile>>>) -> Result<LogicalPlan, QueryError> {
        let request = self.request;
        let act = request.act(Kind::ByTarget)?;
        let mut items = vec![item(act.clone(), ACT)];
        // By column of the table: the clauses that give it a value, and where that is in the plan.
        let mut given: Vec<Vec<(usize, Option<usize>)>> = vec![vec![]; self.snapshot.schema.fields().len()];
        for (clause, it) in request.of_kind(Kind::ByTarget) {
            let Action::Insert(insert) = &it.action else { continue };
            for (column, value) in self.insert_values(insert)? {
                let position = match value {
                    None => None,
                    Some(value) => {
                        let is_of = Expr::BinaryOp {
                            left: Box::new(Expr::Nested(Box::new(act.clone()))),
                            op: BinaryOperator::Eq,
                            right: Box::new(parse_expr(&clause.to_string())?),
                        };
                        let value = match request.of_kind(Kind::ByTarget).count() {
                            1 => value,
                            _ => case(vec![(is_of, value)])?,
                        };
                        items.push(item(value, format!("i_{}", items.len())));
                        Some(items.len() - 1)
                    }
                };
                given[column].push((clause, position));
            }
        }
        let mut selection = self.exists(self.target_relation()?, true)?;
        if !request.takes_all(Kind::ByTarget) {
            let has_clause = Expr::IsNotNull(Box::new(Expr::Nested(Box::new(act))));
            selection =
                Expr::BinaryOp { left: Box::new(selection), op: BinaryOperator::And, right: Box::new(has_clause) };
        }
        let query = self.query(items, request.source.clone(), Beside::Nothing, Some(selection))?;
        let plan = self.bound(query, files).await?;
        let columns = plan.schema().columns();
        let mut values = vec![];
        for (field, given) in self.snapshot.schema.fields().iter().zip(given) {
            let mut arms = vec![];
            for (clause, _) in request.of_kind(Kind::ByTarget) {
                let position = given.iter().find(|it| it.0 == clause).and_then(|it| it.1);
                arms.push((
                    clause,
                    match position {
                        Some(position) => kept_as(PlanExpr::Column(columns[position].clone()), plan.schema(), field)?,
                        None => {
                            let default =
                                default_of(self.context, &self.target.def, field.name(), field.is_nullable())?;
                            cast(default, field.data_type().clone())
                        }
                    },
                ));
            }
            let Some((_, last)) = arms.pop() else { continue };
            let mut arms = arms.into_iter();
            values.push(Value::Expr(match arms.next() {
                None => last,
                Some((clause, value)) => {
                    let is_of = |clause: usize| PlanExpr::Column(columns[0].clone()).eq(lit(clause as i64));
                    let mut case = when(is_of(clause), value);
                    for (clause, value) in arms {
                        case = case.when(is_of(clause), value);
                    }
                    case.otherwise(last)?
                }
            }));
        }
        fitted(self.context, plan, &self.target.def, &self.snapshot.schema, &self.snapshot.checks, values)
    }

    /// The columns that an INSERT gives values to, by position; no value is the column's default.
    fn insert_values(&self, insert: &MergeInsertExpr) -> Result<Vec<(usize, Option<Expr>)>, QueryError> {
        let mut columns = vec![];
        for name in &insert.columns {
            let column = position(self.target, self.snapshot, name)?;
            if columns.contains(&column) {
                return Err(twice(self.snapshot, column));
            }
            columns.push(column);
        }
        if columns.is_empty() {
            columns = (0..self.snapshot.schema.fields().len()).collect();
        }
        let row: Vec<Expr> = match &insert.kind {
            MergeInsertKind::Values(values) => match values.rows.as_slice() {
                [row] => row.content.clone(),
                _ => return Err(QueryError::InvalidArgument("INSERT of MERGE takes one row of values".to_owned())),
            },
            MergeInsertKind::Row => return Err(QueryError::unsupported("INSERT ROW of MERGE")),
        };
        if row.len() != columns.len() {
            let text =
                format!("column count doesn't match value count: {} columns, {} values", columns.len(), row.len());
            return Err(QueryError::Wire(WireError::new(ErrorCode::ValueCount, text)));
        }
        Ok(columns
            .into_iter()
            .zip(row)
            .map(|(column, value)| (column, (!is_default(&value)).then_some(value)))
            .collect())
    }
}

/// One assignment of an UPDATE; no value is the column's default.
struct Set {
    clause: usize,
    column: usize,
    value: Option<Expr>,
}

/// Puts a query in the place of the one called `p`.
struct PutQuery(Option<Box<Query>>);

impl VisitorMut for PutQuery {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Derived { subquery, alias: Some(alias), .. } = factor
            && alias.name.value == "p"
            && let Some(query) = self.0.take()
        {
            *subquery = query;
        }
        ControlFlow::Continue(())
    }
}

fn twice(snapshot: &Snapshot, column: usize) -> QueryError {
    QueryError::InvalidArgument(format!("column '{}' is specified twice", snapshot.schema.field(column).name()))
}

/// Errs when the source has other rows each time that it is read: it is read more than once.
fn check_same_each_time(join: &PlanJoin) -> Result<(), QueryError> {
    let mut is_volatile = join.filter.as_ref().is_some_and(PlanExpr::is_volatile);
    join.right.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            is_volatile |= expr.is_volatile();
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    match is_volatile {
        true => {
            let text = "the source of MERGE is read more than once and must not have functions such as rand() in it: \
                        put its rows into a table first";
            Err(QueryError::InvalidArgument(text.to_owned()))
        }
        false => Ok(()),
    }
}

/// Whether values of two types are compared as each of them sorts on its own. Floats are left out for NaN.
fn is_one_order(a: &DataType, b: &DataType) -> bool {
    let is_number = |it: &DataType| it.is_integer() || matches!(it, DataType::Decimal128(..));
    let is_text = |it: &DataType| matches!(it, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8);
    let is_time = |it: &DataType| matches!(it, DataType::Date32 | DataType::Timestamp(..));
    (is_number(a) && is_number(b)) || (is_text(a) && is_text(b)) || (is_time(a) && a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_of_keys_that_sort_alike() {
        assert!(is_one_order(&DataType::Int32, &DataType::Int64));
        assert!(is_one_order(&DataType::Utf8View, &DataType::Utf8));
        assert!(!is_one_order(&DataType::Int64, &DataType::Utf8), "'10' is less than '9'");
        assert!(!is_one_order(&DataType::Float64, &DataType::Float64));
    }
}
