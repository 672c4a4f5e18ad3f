//! Runs a plan: its scalar subqueries first, then the root.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use sheaf_common::{ErrorCode, StageId};
use sheaf_flight::TaskReport;
use sheaf_flight::report::{self, OperatorReport};
use sheaf_planners::error::to_wire;
use sheaf_planners::explain::{AnalyzeInput, OperatorMetrics, TaskMetrics};
use sheaf_planners::leaf::name_files;
use sheaf_planners::stage::ScalarSubquery;
use sheaf_planners::warnings::Truncations;
use tokio::sync::mpsc;

use super::QueryPlan;
use super::attempts::{self, Attempt};
use super::driver::Driver;
use crate::answer::RowStream;
use crate::context::QueryContext;
use crate::error::QueryError;

/// Batches of the root that wait for the client.
const READ_AHEAD_BATCHES: usize = 2;

/// How long the reports of tasks are waited for once the last row is out.
const REPORTS_WAIT: Duration = Duration::from_millis(200);

/// The same when the reports are what was asked for.
const ANALYZE_REPORTS_WAIT: Duration = Duration::from_secs(5);

pub(super) fn rows(context: Arc<QueryContext>, plan: QueryPlan) -> Result<RowStream, QueryError> {
    let schema = plan.distributed.schema();
    context.stats.change(|counts| {
        counts.stages = plan.distributed.stages.len() as u64;
        counts.tasks = plan.distributed.n_tasks() as u64;
    });
    let stream: SendableRecordBatchStream = if plan.distributed.is_distributed() {
        let mut builder = RecordBatchReceiverStream::builder(Arc::clone(&schema), READ_AHEAD_BATCHES);
        let rows = builder.tx();
        builder.spawn(async move {
            let mut attempt = Attempt::new(context, plan);
            attempts::run(&mut attempt, &rows, REPORTS_WAIT, &mut Gathered::default()).await
        });
        builder.build()
    } else {
        attempts::local(Attempt::new(context, plan))?
    };
    Ok(RowStream { schema, stream })
}

/// An error of a local plan, with the file that it is about.
pub(super) fn named(error: DataFusionError, plan: &Arc<dyn ExecutionPlan>) -> DataFusionError {
    let wire = to_wire(&error);
    match wire.code {
        ErrorCode::FileUnreadable => DataFusionError::External(Box::new(name_files(wire, plan))),
        _ => error,
    }
}

/// Runs the plan, counts its rows and keeps all that its operators tell.
pub(super) async fn analyze(attempt: &mut Attempt) -> Result<AnalyzeInput, QueryError> {
    let started = Instant::now();
    let mut gathered = Gathered::default();
    let n_rows;
    if attempt.plan.distributed.is_distributed() {
        let (sender, mut receiver) = mpsc::channel(READ_AHEAD_BATCHES);
        // The sender goes with the future that sends, so that the counting comes to an end.
        let run = async { attempts::run(attempt, &{ sender }, ANALYZE_REPORTS_WAIT, &mut gathered).await };
        let count = async {
            let mut n_rows = 0;
            while let Some(batch) = receiver.recv().await {
                n_rows += batch.map_or(0, |batch: RecordBatch| batch.num_rows() as u64);
            }
            n_rows
        };
        let (ran, counted) = tokio::join!(run, count);
        ran?;
        n_rows = counted;
    } else {
        n_rows = attempts::count_here(attempt).await?;
    }
    if !attempt.plan.distributed.is_distributed() {
        gathered.root = report::operators(&attempt.plan.distributed.root);
    }
    Ok(AnalyzeInput {
        stages: gathered.stages,
        root: gathered.root.into_iter().map(operator_metrics).collect(),
        subqueries: gathered.subqueries.into_iter().map(|it| it.into_iter().map(operator_metrics).collect()).collect(),
        attempts: gathered.attempts,
        restarts: gathered.restarts,
        speculated: gathered.speculated,
        overtaken: gathered.overtaken,
        output_rows: n_rows,
        elapsed_ms: started.elapsed().as_millis() as u64,
        notes: attempt.notes.clone(),
    })
}

/// What the tasks and the coordinator's own operators told.
#[derive(Default)]
pub(super) struct Gathered {
    stages: BTreeMap<StageId, Vec<TaskMetrics>>,
    root: Vec<OperatorReport>,
    subqueries: Vec<Vec<OperatorReport>>,
    attempts: BTreeMap<StageId, u32>,
    restarts: u32,
    speculated: u32,
    overtaken: u32,
}

pub(super) async fn distributed(
    context: &QueryContext,
    plan: &QueryPlan,
    rows: &mpsc::Sender<Result<RecordBatch>>,
    reports_wait: Duration,
    gathered: &mut Gathered,
) -> Result<()> {
    for subquery in &plan.distributed.subqueries {
        let (sender, mut receiver) = mpsc::channel(READ_AHEAD_BATCHES);
        // Its rows go nowhere but here: it can begin again as long as there is memory for them.
        let run =
            async { section(context, plan, &subquery.plan, &{ sender }, usize::MAX, reports_wait, gathered).await };
        let read = async {
            let mut batches = vec![];
            while let Some(Ok(batch)) = receiver.recv().await {
                batches.push(batch);
            }
            batches
        };
        let (ran, batches) = tokio::join!(run, read);
        gathered.subqueries.push(ran?);
        subquery.results.set(subquery.index, scalar(subquery, &batches)?)?;
    }
    let hold_bytes_max = usize::try_from(context.settings.result_hold_back_bytes).unwrap_or(usize::MAX);
    gathered.root =
        section(context, plan, &plan.distributed.root, rows, hold_bytes_max, reports_wait, gathered).await?;
    Ok(())
}

/// The one value of a scalar subquery: NULL when it has no row.
fn scalar(subquery: &ScalarSubquery, batches: &[RecordBatch]) -> Result<ScalarValue> {
    let n_rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    match batches.iter().find(|batch| batch.num_rows() > 0) {
        Some(_) if n_rows > 1 => exec_err!("Scalar subquery returned more than one row"),
        Some(batch) => ScalarValue::try_from_array(batch.column(0), 0),
        None => ScalarValue::try_from(subquery.plan.schema().field(0).data_type()),
    }
}

/// Runs one root and the stages below it; returns what the root's operators did.
async fn section(
    context: &QueryContext,
    plan: &QueryPlan,
    root: &Arc<dyn ExecutionPlan>,
    rows: &mpsc::Sender<Result<RecordBatch>>,
    hold_bytes_max: usize,
    reports_wait: Duration,
    gathered: &mut Gathered,
) -> Result<Vec<OperatorReport>> {
    let driver = Driver::new(context, plan, root, hold_bytes_max, reports_wait)?;
    let outcome = driver.run(rows).await?;
    context.stats.change(|counts| {
        counts.restarts += u64::from(outcome.n_restarts);
        counts.speculated += u64::from(outcome.n_speculated);
        counts.overtaken += u64::from(outcome.n_overtaken);
    });
    gathered.attempts.extend(outcome.n_attempts);
    gathered.restarts += outcome.n_restarts;
    gathered.speculated += outcome.n_speculated;
    gathered.overtaken += outcome.n_overtaken;
    for (task, (node, report)) in outcome.reports {
        let TaskReport {
            operators,
            output_rows,
            output_bytes,
            spilled_bytes,
            elapsed_ms,
            input_bytes,
            divisions_by_zero,
            truncated,
            truncated_texts,
            ..
        } = report;
        context.warnings.add(divisions_by_zero);
        context.warnings.truncate(&Truncations { n_values: truncated, texts: truncated_texts });
        context.stats.change(|counts| counts.exchange_bytes += input_bytes.values().sum::<u64>());
        gathered.stages.entry(task.stage).or_default().push(TaskMetrics {
            task: task.task,
            node,
            elapsed_ms,
            output_rows,
            output_bytes,
            spill_bytes: spilled_bytes,
            operators: operators.into_iter().map(operator_metrics).collect(),
        });
    }
    Ok(outcome.root)
}

fn operator_metrics(report: OperatorReport) -> OperatorMetrics {
    let (row_groups_pruned, row_groups_read) = report::row_groups(&report);
    OperatorMetrics {
        row_groups_pruned,
        row_groups_read,
        read_bytes: report::input_bytes(std::slice::from_ref(&report)),
        name: report.name,
        output_rows: report.output_rows,
        elapsed_ns: report.elapsed_compute_ns,
        memory_bytes: report.memory_bytes,
        spill_bytes: report.spilled_bytes,
    }
}
