//! Kept plans of the simplest statements as they run: physical plans over rows in memory.
//!
//! `SELECT … FROM t WHERE key = ?` over a small table is asked again and again, and making a physical plan, opening a file
//! and decoding it take a hundred times as long as finding the row. So what projects, filters and limits the rows of small
//! managed tables, or of none, is planned once more, over their [`HotRows`] and with functions in the places of its
//! parameters. It holds under the conditions of its kept plan, and for the versions of the tables that it was made for: each
//! run first makes sure that they are the newest, as far as the session asks for that. A statement that may be worth
//! distributing is none of these.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Weak};

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{ResolvedTableReference, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use parking_lot::Mutex;
use sheaf_common::settings::Settings;
use sheaf_planners::memory_need::gathering_operators;
use sheaf_planners::warnings::QueryWarnings;

use super::plans::{KeptPlan, over_any};
use super::{Session, renamed_schema};
use crate::access::SessionRights;
use crate::answer::RowStream;
use crate::catalog::TableSource;
use crate::context::QueryContext;
use crate::coordinator;
use crate::error::QueryError;
use crate::managed::log::TableLog;
use crate::tables::delta::{DeltaSnapshot, DeltaTable};
use crate::tables::hot::{Found, HotRows, HotTable};
use crate::tables::listings::Listings;

/// A managed table that a plan reads.
struct Table {
    log: Arc<TableLog>,
    /// The version that the plan is for.
    snapshot: Arc<DeltaSnapshot>,
    rows: Weak<HotRows>,
}

/// A plan that is ready to run. One run at a time has it.
pub(crate) struct Quick {
    /// Never executed itself: each run gets one with a state of its own.
    plan: Arc<dyn ExecutionPlan>,
    pub state: Arc<SessionState>,
    task: Arc<TaskContext>,
    pub settings: Settings,
    pub rights: Arc<SessionRights>,
    /// What `plan` counts into.
    pub warnings: QueryWarnings,
    parameters: Arc<Parameters>,
    tables: Vec<Table>,
    /// As clients see it.
    schema: SchemaRef,
}

/// What a kept plan has of its quick form.
#[derive(Default)]
pub(super) enum Slot {
    /// None yet; the versions that its tables had at the last run.
    None {
        versions: Vec<u64>,
    },
    Ready(Box<Quick>),
    /// A run has it.
    Taken,
    /// There cannot be one.
    #[default]
    Never,
}

/// What [`Quick::make`] came to.
pub(super) enum Made {
    Quick(Box<Quick>),
    /// Rows are not to be had just now.
    NotYet,
    /// The tables are too large, or of another kind.
    Unfit,
}

impl Quick {
    /// Whether a plan does no more than project, filter and limit rows that it scans or makes up.
    pub fn can_run(plan: &LogicalPlan) -> bool {
        let mut can = true;
        // The closures never err.
        let _ = plan.apply_with_subqueries(|node| {
            can &= matches!(
                node,
                LogicalPlan::Projection(_)
                    | LogicalPlan::Filter(_)
                    | LogicalPlan::TableScan(_)
                    | LogicalPlan::SubqueryAlias(_)
                    | LogicalPlan::EmptyRelation(_)
                    | LogicalPlan::Limit(_)
            );
            node.apply_expressions(|expr| {
                expr.apply(|expr| {
                    can &= !matches!(
                        expr,
                        Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_)
                    );
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        });
        can
    }

    /// The quick form of a kept plan over its tables as `context` found them.
    ///
    /// Errs when the tables cannot be read, or the plan cannot be made.
    pub async fn make(
        session: &Session,
        context: &QueryContext,
        kept: &KeptPlan,
        found: &[(&ResolvedTableReference, &DeltaTable)],
    ) -> Result<Made, QueryError> {
        let engine = &session.engine;
        let bytes: u64 = found.iter().flat_map(|(_, table)| &table.snapshot().files).map(|it| it.size).sum();
        if bytes >= context.settings.min_distribute_bytes {
            return Ok(Made::Unfit);
        }
        let (mut tables, mut providers) = (vec![], vec![]);
        for (reference, table) in found {
            let def = engine.catalog().table_def(&reference.schema, &reference.table).ok().flatten();
            let Some(TableSource::Managed(def)) = def.as_ref().map(|(_, def)| &def.source) else {
                return Ok(Made::Unfit);
            };
            let Ok(log) = engine.managed().log(&def.location) else { return Ok(Made::Unfit) };
            let rows = match engine.hot_tables().rows(table, context.session_state.as_ref()).await? {
                Found::Rows(rows) => rows,
                Found::TooMany => return Ok(Made::Unfit),
                Found::Busy => return Ok(Made::NotYet),
            };
            providers.push((*reference, Arc::new(HotTable::new(table, &rows)) as _));
            tables.push(Table { log, snapshot: Arc::clone(table.snapshot()), rows: Arc::downgrade(&rows) });
        }
        let (mut state, warnings) = (SessionState::clone(&context.session_state), QueryWarnings::default());
        // What was seen of files is of this statement only.
        state.config_mut().set_extension(Arc::new(Listings::default()));
        let options = state.config_mut().options_mut();
        options.extensions.insert(warnings.clone());
        // Few rows, in one place: nothing to be gained by sharing them out.
        options.execution.target_partitions = 1;
        // Functions count into the warnings of the options that their plan began with.
        state.mark_start_execution();
        let parameters = Arc::new(Parameters { types: kept.parameters().to_vec(), values: Mutex::default() });
        let Some(plan) = over_any(kept.plan().clone(), &providers, session)? else { return Ok(Made::Unfit) };
        let plan = with_functions(plan, &parameters)?;
        let plan = state.query_planner().create_physical_plan(&plan, &state).await?;
        if gathering_operators(&plan) > 0 {
            return Ok(Made::Unfit);
        }
        let schema = renamed_schema(&kept.told.origins.on(plan.schema()), &kept.told.names);
        Ok(Made::Quick(Box::new(Self {
            plan,
            task: state.task_ctx(),
            state: Arc::new(state),
            settings: context.settings.clone(),
            rights: Arc::clone(&context.rights),
            warnings,
            parameters,
            tables,
            schema,
        })))
    }

    /// Begins a run with these values, which fit the parameters; `None` if a table has changed, or its rows are not in memory
    /// any more.
    ///
    /// Errs when this process cannot tell what was defined before.
    async fn begin(
        &self,
        session: &Session,
        context: &QueryContext,
        kept: &KeptPlan,
        values: Vec<ScalarValue>,
    ) -> Result<Option<(SendableRecordBatchStream, Vec<Arc<HotRows>>)>, QueryError> {
        let mut held = vec![];
        if !self.tables.is_empty() {
            session.catch_up(context.deadline).await?;
            if !kept.is_defined(session) {
                return Ok(None);
            }
            for table in &self.tables {
                // What is wrong with a log is told by who reads the table.
                let Ok(latest) = table.log.latest().await else { return Ok(None) };
                let Some(rows) = table.rows.upgrade() else { return Ok(None) };
                if !Arc::ptr_eq(&latest.delta, &table.snapshot) {
                    return Ok(None);
                }
                session.engine.hot_tables().touch(&rows);
                held.push(rows);
            }
        }
        self.warnings.reset();
        *self.parameters.values.lock() = values;
        let plan = reset_plan_states(Arc::clone(&self.plan))?;
        let rows = coordinator::run_small(context, plan, Arc::clone(&self.task))?;
        Ok(Some((rows, held)))
    }
}

/// A quick plan while it runs; its drop makes it ready for the next run.
pub(super) struct Lease {
    kept: Arc<KeptPlan>,
    quick: Option<Box<Quick>>,
}

impl Lease {
    /// The quick form of a plan, if it has one and nobody runs it.
    pub fn take(kept: &Arc<KeptPlan>) -> Option<Self> {
        let mut slot = kept.quick.lock();
        match std::mem::replace(&mut *slot, Slot::Taken) {
            Slot::Ready(quick) => Some(Self { kept: Arc::clone(kept), quick: Some(quick) }),
            other => {
                *slot = other;
                None
            }
        }
    }

    pub fn quick(&self) -> Option<&Quick> {
        self.quick.as_deref()
    }

    /// Runs it; `None` if it does not hold any more, and is gone.
    pub async fn run(
        mut self,
        session: &Session,
        context: &QueryContext,
        values: Vec<ScalarValue>,
    ) -> Result<Option<RowStream>, QueryError> {
        let Some(quick) = &self.quick else { return Ok(None) };
        let Some((rows, held)) = quick.begin(session, context, &self.kept, values).await? else {
            self.quick = None;
            return Ok(None);
        };
        let schema = Arc::clone(&quick.schema);
        let held = (self, held);
        let rows = rows.map(move |batch| {
            // With the stream go the plan and its rows.
            let _ = &held;
            batch
        });
        let stream = RecordBatchStreamAdapter::new(Arc::clone(&schema), rows);
        Ok(Some(RowStream { schema, stream: Box::pin(stream) }))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.kept.quick.lock() = match self.quick.take() {
            Some(quick) => Slot::Ready(quick),
            None => Slot::None { versions: vec![] },
        };
    }
}

/// The values of a plan's parameters during one run.
#[derive(Debug)]
struct Parameters {
    types: Vec<DataType>,
    values: Mutex<Vec<ScalarValue>>,
}

/// A parameter as a function without arguments.
#[derive(Debug)]
struct Parameter {
    idx: usize,
    all: Arc<Parameters>,
    signature: Signature,
}

impl PartialEq for Parameter {
    fn eq(&self, other: &Self) -> bool {
        self.idx == other.idx && Arc::ptr_eq(&self.all, &other.all)
    }
}

impl Eq for Parameter {}

impl Hash for Parameter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.idx.hash(state);
        Arc::as_ptr(&self.all).hash(state);
    }
}

impl ScalarUDFImpl for Parameter {
    fn name(&self) -> &str {
        "sheaf_parameter"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion::error::Result<DataType> {
        Ok(self.all.types[self.idx].clone())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> datafusion::error::Result<ColumnarValue> {
        let value = self.all.values.lock().get(self.idx).cloned();
        value.map(ColumnarValue::Scalar).ok_or_else(|| {
            DataFusionError::Internal(format!("parameter {} of a plan that runs has no value", self.idx + 1))
        })
    }
}

/// The plan with functions in the places of its parameters. They count as volatile, so that nobody takes the value of one run
/// for that of all.
fn with_functions(plan: LogicalPlan, parameters: &Arc<Parameters>) -> Result<LogicalPlan, QueryError> {
    let functions: Vec<Arc<ScalarUDF>> = (0..parameters.types.len())
        .map(|idx| {
            let signature = Signature::nullary(Volatility::Volatile);
            Arc::new(ScalarUDF::from(Parameter { idx, all: Arc::clone(parameters), signature }))
        })
        .collect();
    let function = |expr: Expr| {
        let Expr::Placeholder(placeholder) = &expr else { return Ok(Transformed::no(expr)) };
        let number = placeholder.id.strip_prefix('$').and_then(|it| it.parse::<usize>().ok());
        let function = number.and_then(|it| functions.get(it.checked_sub(1)?)).cloned();
        let function = function.ok_or_else(|| DataFusionError::Internal(format!("no parameter {}", placeholder.id)))?;
        Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![]))))
    };
    let plan = plan.transform_up(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr.transform_up(function)?.update_data(|expr| name.restore(expr)))
        })
    });
    Ok(plan.data()?)
}
