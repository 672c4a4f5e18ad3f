//! Plans that a session keeps: a statement that is run again is not planned anew from its text.
//!
//! What is kept is the optimized logical plan, with placeholders for the parameters. It holds only under the conditions
//! that it was made in ([`Conditions`]): definitions, rights, database, variables and settings are compared at each use. Its
//! tables are looked up each time and take the places of those it was made with, so rows and files are never old. The simplest
//! are kept as they run, too ([`quick`]). What asks the session, the clock or chance is not kept, nor is what may read something else at each run.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{ParamValues, ResolvedTableReference, ScalarValue};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan, TableType, Volatility};
use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use parking_lot::Mutex;
use sheaf_common::settings::Settings;
use sheaf_planners::parser::{OutputName, VariableScope};
use sheaf_planners::warnings::QueryWarnings;

use super::quick::{self, Made, Quick};
use super::{Session, State};
use crate::access::Rights;
use crate::binder::origins::Origins;
use crate::binder::{find_table, is_path, name_parts};
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::mysql_semantics::SessionValues;
use crate::system;
use crate::tables::delta::DeltaTable;
use crate::variables::Variables;

/// Statements of one session; all are forgotten when there are more.
const STATEMENTS_MAX: usize = 128;
/// Nodes and expressions of a plan. Larger ones are worth planning again, which needs a stack that only planning has.
const NODES_MAX: usize = 200;

/// What a plan was made under. Invariant: whatever planning reads is a part of it, or found again at each use.
#[derive(Clone)]
struct Conditions {
    /// Of the definitions: databases, tables, accounts.
    version: u64,
    rights: Arc<Rights>,
    database: Option<String>,
    variables: Variables,
    settings: Settings,
    options: BTreeMap<String, String>,
}

impl Conditions {
    fn of(session: &Session) -> Self {
        let version = session.engine.definitions().local().version();
        let rights = session.rights();
        let state = session.state.lock();
        Self {
            version,
            rights,
            database: state.database.clone(),
            variables: state.variables.clone(),
            settings: state.settings.clone(),
            options: state.options.clone(),
        }
    }

    fn hold(&self, session: &Session) -> bool {
        // What it is made of anew whenever accounts or roles change.
        if !Arc::ptr_eq(&self.rights, &session.rights()) || !self.are_defined(session) {
            return false;
        }
        let state: &State = &session.state.lock();
        self.database == state.database
            && self.variables == state.variables
            && self.settings == state.settings
            && self.options == state.options
    }

    fn are_defined(&self, session: &Session) -> bool {
        self.version == session.engine.definitions().local().version()
    }
}

/// A table that a kept plan reads.
#[derive(Debug, Clone)]
struct Relation {
    /// As the statement names it.
    parts: Vec<Ident>,
    reference: ResolvedTableReference,
}

/// A plan to be run again.
pub(crate) struct KeptPlan {
    plan: LogicalPlan,
    /// Of `$1`, `$2`, …
    parameters: Vec<DataType>,
    relations: Vec<Relation>,
    conditions: Conditions,
    pub told: Told,
    /// The same as it runs, where it is simple enough.
    pub(super) quick: Mutex<quick::Slot>,
}

/// What a client is told of a plan's columns.
pub(crate) struct Told {
    /// What they are called.
    pub names: Vec<OutputName>,
    pub origins: Origins,
}

impl KeptPlan {
    pub(super) fn plan(&self) -> &LogicalPlan {
        &self.plan
    }

    /// Of `$1`, `$2`, …
    pub(super) fn parameters(&self) -> &[DataType] {
        &self.parameters
    }

    /// Whether what it was made of is defined as it was.
    pub(super) fn is_defined(&self, session: &Session) -> bool {
        self.conditions.are_defined(session)
    }

    /// The values as the plan's parameters have them; `None` where the statement means something else with such values.
    fn fitting(&self, values: &[ScalarValue]) -> Option<Vec<ScalarValue>> {
        if values.len() != self.parameters.len() {
            return None;
        }
        values.iter().zip(&self.parameters).map(|(value, data_type)| fitting(value, data_type)).collect()
    }

    /// The plan over its tables as they are now; `None` if it does not hold for them.
    ///
    /// Errs as planning anew would where a table cannot be read.
    pub async fn current(
        &self,
        session: &Session,
        context: &QueryContext,
        values: Vec<ScalarValue>,
    ) -> Result<Option<LogicalPlan>, QueryError> {
        let mut plan = self.plan.clone();
        if !self.relations.is_empty() {
            let wait = |it: &Relation| system::wait_to_show(&it.reference.schema, &it.reference.table);
            let longest = |longest: Duration, it| Some(wait(it)?.max(longest));
            let wait = self.relations.iter().try_fold(Duration::ZERO, longest);
            session.catch_up_to_read(wait, context.deadline).await?;
            if !self.conditions.are_defined(session) {
                return Ok(None);
            }
            let mut found = vec![];
            for relation in &self.relations {
                let table = find_table(&context.session_state, &relation.parts).await?;
                if table.reference != relation.reference {
                    return Ok(None);
                }
                found.push((&relation.reference, table.table));
            }
            let Some(over_tables) = over(plan, &found, session)? else { return Ok(None) };
            plan = over_tables;
            self.quicken(session, context, &found).await;
        } else {
            self.quicken(session, context, &[]).await;
        }
        if !values.is_empty() {
            plan = plan.with_param_values(ParamValues::from(values))?;
        }
        Ok(Some(plan))
    }

    /// Makes the plan's quick form, if it can have one and its tables are the same as at the run before: of a table that
    /// changes between any two runs it would be made in vain.
    async fn quicken(
        &self,
        session: &Session,
        context: &QueryContext,
        found: &[(&ResolvedTableReference, Arc<dyn TableProvider>)],
    ) {
        let tables: Option<Vec<(&ResolvedTableReference, &DeltaTable)>> =
            found.iter().map(|(reference, table)| Some((*reference, table.downcast_ref::<DeltaTable>()?))).collect();
        {
            let mut slot = self.quick.lock();
            let quick::Slot::None { versions } = &mut *slot else { return };
            let Some(tables) = &tables else {
                *slot = quick::Slot::Never;
                return;
            };
            let now: Vec<u64> = tables.iter().map(|(_, table)| table.snapshot().version).collect();
            if *versions != now {
                *versions = now;
                return;
            }
        }
        let made = Quick::make(session, context, self, &tables.unwrap_or_default()).await;
        *self.quick.lock() = match made {
            Ok(Made::Quick(quick)) => quick::Slot::Ready(quick),
            Ok(Made::NotYet) => return,
            Ok(Made::Unfit) => quick::Slot::Never,
            Err(error) => {
                tracing::debug!(%error, "a kept plan has no quick form");
                quick::Slot::Never
            }
        };
    }
}

/// A value of the type that the planner expects: only where the statement's meaning does not hang on which it is.
fn fitting(value: &ScalarValue, data_type: &DataType) -> Option<ScalarValue> {
    let given = value.data_type();
    if given == *data_type {
        return (!value.is_null()).then(|| value.clone());
    }
    let is_text = |it: &DataType| matches!(it, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let are_alike = (given.is_integer() && data_type.is_integer()) || (is_text(&given) && is_text(data_type));
    if value.is_null() || !are_alike {
        return None;
    }
    let cast = value.cast_to(data_type).ok()?;
    (cast.cast_to(&given).ok()? == *value).then_some(cast)
}

/// The relation that a scan reads.
fn relation_of<'a, T>(found: &'a [(&ResolvedTableReference, T)], scan: &TableScan, database: &str) -> Option<&'a T> {
    let reference = scan.table_name.clone().resolve(crate::catalog::CATALOG, database);
    found.iter().find(|(it, _)| **it == reference).map(|(_, table)| table)
}

/// The plan with these tables in the places of those that it was made with.
fn over(
    plan: LogicalPlan,
    found: &[(&ResolvedTableReference, Arc<dyn TableProvider>)],
    session: &Session,
) -> Result<Option<LogicalPlan>, QueryError> {
    replaced(plan, found, session, |scan, table| Ok(is_like(&source_as_provider(&scan.source)?, table)))
}

/// The same with tables of any kind that have the same columns, which give all their rows: the plan's own nodes filter and
/// limit them.
pub(super) fn over_any(
    plan: LogicalPlan,
    found: &[(&ResolvedTableReference, Arc<dyn TableProvider>)],
    session: &Session,
) -> Result<Option<LogicalPlan>, QueryError> {
    replaced(plan, found, session, |scan, table| {
        (scan.filters, scan.fetch) = (vec![], None);
        Ok(scan.source.schema() == table.schema())
    })
}

/// The plan with the tables that were found in the places of its own; `None` if one is missing or does not fit its scan.
fn replaced(
    plan: LogicalPlan,
    found: &[(&ResolvedTableReference, Arc<dyn TableProvider>)],
    session: &Session,
    fits: impl Fn(&mut TableScan, &Arc<dyn TableProvider>) -> datafusion::error::Result<bool>,
) -> Result<Option<LogicalPlan>, QueryError> {
    let database = session.database().unwrap_or_default();
    let mut holds = true;
    let plan = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
        match relation_of(found, &scan, &database) {
            Some(table) if fits(&mut scan, table)? => scan.source = provider_as_source(Arc::clone(table)),
            _ => holds = false,
        }
        Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
    })?;
    Ok(holds.then_some(plan.data))
}

/// Whether a plan over one table holds for another: of the same kind, with the same columns.
fn is_like(one: &Arc<dyn TableProvider>, other: &Arc<dyn TableProvider>) -> bool {
    let kind = |it: &Arc<dyn TableProvider>| {
        let any: &dyn Any = it.as_ref();
        any.type_id()
    };
    kind(one) == kind(other) && one.schema() == other.schema()
}

#[derive(Default)]
pub(crate) struct Plans(Mutex<HashMap<Arc<str>, Slot>>);

enum Slot {
    Kept(Arc<KeptPlan>),
    /// Looked at, and found to be none that can be kept.
    Never,
}

impl Plans {
    /// The plan of a statement if it holds now, and the values of its parameters as it takes them.
    pub fn get(
        &self,
        session: &Session,
        text: &str,
        values: &[ScalarValue],
    ) -> Option<(Arc<KeptPlan>, Vec<ScalarValue>)> {
        let kept = match self.0.lock().get(text)? {
            Slot::Kept(kept) => Arc::clone(kept),
            Slot::Never => return None,
        };
        if !kept.conditions.hold(session) {
            self.forget(text);
            return None;
        }
        let values = kept.fitting(values)?;
        Some((kept, values))
    }

    /// Whether it is worth looking at whether a statement's plan can be kept.
    fn is_open(&self, text: &str) -> bool {
        !self.0.lock().contains_key(text)
    }

    fn put(&self, text: &Arc<str>, slot: Slot) {
        let mut slots = self.0.lock();
        if slots.len() >= STATEMENTS_MAX {
            slots.clear();
        }
        slots.insert(Arc::clone(text), slot);
    }

    pub fn forget(&self, text: &str) {
        self.0.lock().remove(text);
    }

    pub fn clear(&self) {
        *self.0.lock() = HashMap::new();
    }
}

/// Notes whether a statement asked its session for anything.
pub(crate) struct Asking<'a> {
    session: &'a Session,
    asked: AtomicBool,
}

impl<'a> Asking<'a> {
    pub fn new(session: &'a Session) -> Self {
        Self { session, asked: AtomicBool::new(false) }
    }

    fn note(&self) -> &'a Session {
        self.asked.store(true, Ordering::Relaxed);
        self.session
    }
}

impl SessionValues for Asking<'_> {
    fn system_variable(&self, scope: VariableScope, name: &str) -> Result<ScalarValue, QueryError> {
        self.note().system_variable(scope, name)
    }

    fn user_variable(&self, name: &str) -> ScalarValue {
        self.note().user_variable(name)
    }

    fn information(&self, function: &str) -> Option<ScalarValue> {
        // Every function is asked about; only those that the session answers count.
        let value = self.session.information(function);
        if value.is_some() {
            self.note();
        }
        value
    }
}

/// A statement that is planned, and whose plan may be kept.
pub(crate) struct Keeping<'a> {
    session: &'a Session,
    context: &'a QueryContext,
    conditions: Conditions,
}

impl<'a> Keeping<'a> {
    /// Before planning begins: the conditions have to be those under which it did. None where it is known to be in vain.
    pub fn begin(session: &'a Session, context: &'a QueryContext) -> Option<Self> {
        let is_open = session.plans.is_open(&context.text);
        is_open.then(|| Self { session, context, conditions: Conditions::of(session) })
    }

    /// Optimizes what a statement was bound to, and keeps the plan if it may be used again. What there is to warn of
    /// meanwhile is counted by `warnings` alone.
    pub async fn optimize(
        self,
        state: &SessionState,
        warnings: &QueryWarnings,
        bound: LogicalPlan,
        relations: &[ObjectName],
        asking: &Asking<'_>,
        told: Told,
    ) -> Result<LogicalPlan, QueryError> {
        let lasts = !asking.asked.load(Ordering::Relaxed) && is_lasting(&bound)?;
        let parameters = if lasts { parameters(&bound)? } else { None };
        let plan = state.optimize(&bound)?;
        let mut slot = Slot::Never;
        // What was warned of has to be told at each run.
        if let Some(parameters) = parameters
            && warnings.are_none()
            && let Some(relations) = self.relations(state, &plan, relations).await?
        {
            let (plan, conditions) = (plan.clone(), self.conditions);
            let quick = match Quick::can_run(&plan) {
                true => quick::Slot::None { versions: vec![] },
                false => quick::Slot::Never,
            };
            let quick = Mutex::new(quick);
            slot = Slot::Kept(Arc::new(KeptPlan { plan, parameters, relations, conditions, told, quick }));
        }
        self.session.plans.put(&self.context.text, slot);
        Ok(plan)
    }

    /// Nobody has to look at the statement again.
    pub fn give_up(self) {
        self.session.plans.put(&self.context.text, Slot::Never);
    }

    /// The tables that the plan reads; `None` if one of what it reads is none that can be looked up by name.
    async fn relations(
        &self,
        state: &SessionState,
        plan: &LogicalPlan,
        names: &[ObjectName],
    ) -> Result<Option<Vec<Relation>>, QueryError> {
        let (mut relations, mut tables) = (vec![], vec![]);
        for name in names {
            let parts = name_parts(name)?;
            if is_path(state, &parts) {
                return Ok(None);
            }
            // What is not found is the name of a WITH clause.
            let Ok(found) = find_table(state, &parts).await else { continue };
            if found.table.table_type() != TableType::Base {
                return Ok(None);
            }
            relations.push(Relation { parts, reference: found.reference });
            tables.push(found.table);
        }
        let holds = {
            let found: Vec<_> = relations.iter().map(|it: &Relation| &it.reference).zip(tables).collect();
            over(plan.clone(), &found, self.session)?.is_some()
        };
        Ok(holds.then_some(relations))
    }
}

/// The types of all parameters, in order; `None` if one has none.
fn parameters(plan: &LogicalPlan) -> Result<Option<Vec<DataType>>, QueryError> {
    let types = plan.get_parameter_types()?;
    let in_order = (1..=types.len()).map(|n| types.get(&format!("${n}")).cloned().flatten());
    Ok(in_order.map(|it| it.filter(|it| *it != DataType::Null)).collect())
}

/// Whether a plan is small, gives the same over the same tables whenever it is run, and is as good without its
/// parameters' values.
fn is_lasting(plan: &LogicalPlan) -> Result<bool, DataFusionError> {
    let (mut lasts, mut n_nodes) = (true, 0);
    plan.apply_with_subqueries(|node| {
        n_nodes += 1;
        let mut has_placeholder = false;
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                n_nodes += 1;
                match expr {
                    Expr::ScalarFunction(call) => lasts &= call.func.signature().volatility == Volatility::Immutable,
                    Expr::Placeholder(_) => has_placeholder = true,
                    Expr::ScalarVariable(..) => lasts = false,
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        match node {
            // Pushed down, a limit decides what is read.
            LogicalPlan::Limit(_) => lasts &= !has_placeholder,
            LogicalPlan::Extension(_)
            | LogicalPlan::Dml(_)
            | LogicalPlan::Ddl(_)
            | LogicalPlan::Copy(_)
            | LogicalPlan::Statement(_)
            | LogicalPlan::Explain(_)
            | LogicalPlan::Analyze(_)
            | LogicalPlan::DescribeTable(_) => lasts = false,
            _ => {}
        }
        let goes_on = lasts && n_nodes <= NODES_MAX;
        Ok(if goes_on { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(lasts && n_nodes <= NODES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fit_where_they_mean_the_same() {
        let int = ScalarValue::Int64(Some(5));
        assert_eq!(fitting(&int, &DataType::Int64), Some(int.clone()));
        assert_eq!(fitting(&int, &DataType::Int32), Some(ScalarValue::Int32(Some(5))));
        assert_eq!(fitting(&ScalarValue::Int64(Some(-5)), &DataType::UInt64), None);
        assert_eq!(fitting(&ScalarValue::Int64(Some(300)), &DataType::Int8), None);
        assert_eq!(fitting(&ScalarValue::Int64(None), &DataType::Int64), None);
        assert_eq!(fitting(&ScalarValue::from("5"), &DataType::Int64), None, "a text compares by another rule");
        assert_eq!(fitting(&ScalarValue::Float64(Some(5.0)), &DataType::Int64), None);
        let text = ScalarValue::Utf8View(Some("x".to_owned()));
        assert_eq!(fitting(&ScalarValue::from("x"), &DataType::Utf8View), Some(text));
    }
}
