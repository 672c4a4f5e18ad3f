//! Runs a plan: its scalar subqueries first, then the root, while the workers' events are listened to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::{RecordBatchReceiverStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use sheaf_common::{ErrorCode, StageId};
use sheaf_flight::report::{self, OperatorReport};
use sheaf_flight::{TaskEvent, TaskReport, WorkerAddress};
use sheaf_planners::error::to_wire;
use sheaf_planners::explain::{AnalyzeInput, OperatorMetrics, TaskMetrics};
use sheaf_planners::leaf::name_files;
use sheaf_planners::stage::ScalarSubquery;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::debug;

use super::QueryPlan;
use super::launch::{Event, Launched, address, launch, lost};
use crate::answer::RowStream;
use crate::context::QueryContext;
use crate::error::QueryError;

/// Batches of the root that wait for the client.
const READ_AHEAD_BATCHES: usize = 2;

/// How long a worker may take to hear that retention ends.
const END_RETENTION_WAIT: Duration = Duration::from_secs(5);

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
            let mut gathered = Gathered::default();
            distributed(&context, &plan, &rows, REPORTS_WAIT, &mut gathered).await?;
            Ok(())
        });
        builder.build()
    } else {
        let root = plan.distributed.root;
        let stream = execute_stream(Arc::clone(&root), context.session_state.task_ctx())?;
        let stream = stream.map_err(move |error| named(error, &root));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), stream))
    };
    Ok(RowStream { schema, stream })
}

/// An error of a local plan, with the file that it is about.
fn named(error: DataFusionError, plan: &Arc<dyn ExecutionPlan>) -> DataFusionError {
    let wire = to_wire(&error);
    match wire.code {
        ErrorCode::FileUnreadable => DataFusionError::External(Box::new(name_files(wire, plan))),
        _ => error,
    }
}

/// Runs the plan, counts its rows and keeps all that its operators tell.
pub(super) async fn analyze(context: &Arc<QueryContext>, plan: &QueryPlan) -> Result<AnalyzeInput, QueryError> {
    let started = Instant::now();
    let mut gathered = Gathered::default();
    let mut n_rows = 0;
    if plan.distributed.is_distributed() {
        let (sender, mut receiver) = mpsc::channel(READ_AHEAD_BATCHES);
        // The sender goes with the future that sends, so that the counting comes to an end.
        let run = async { distributed(context, plan, &{ sender }, ANALYZE_REPORTS_WAIT, &mut gathered).await };
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
        let root = Arc::clone(&plan.distributed.root);
        let mut stream = execute_stream(Arc::clone(&root), context.session_state.task_ctx())?;
        while let Some(batch) = stream.next().await {
            n_rows += batch?.num_rows() as u64;
        }
        gathered.root = report::operators(&root);
    }
    Ok(AnalyzeInput {
        stages: gathered.stages,
        root: gathered.root.into_iter().map(operator_metrics).collect(),
        subqueries: gathered.subqueries.into_iter().map(|it| it.into_iter().map(operator_metrics).collect()).collect(),
        output_rows: n_rows,
        elapsed_ms: started.elapsed().as_millis() as u64,
    })
}

/// What the tasks and the coordinator's own operators told.
#[derive(Default)]
struct Gathered {
    stages: BTreeMap<StageId, Vec<TaskMetrics>>,
    root: Vec<OperatorReport>,
    subqueries: Vec<Vec<OperatorReport>>,
}

async fn distributed(
    context: &QueryContext,
    plan: &QueryPlan,
    rows: &mpsc::Sender<Result<RecordBatch>>,
    reports_wait: Duration,
    gathered: &mut Gathered,
) -> Result<()> {
    for subquery in &plan.distributed.subqueries {
        let (sender, mut receiver) = mpsc::channel(READ_AHEAD_BATCHES);
        let run = async { section(context, plan, &subquery.plan, &{ sender }, reports_wait, gathered).await };
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
    gathered.root = section(context, plan, &plan.distributed.root, rows, reports_wait, gathered).await?;
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
    reports_wait: Duration,
    gathered: &mut Gathered,
) -> Result<Vec<OperatorReport>> {
    let Launched { root, mut events, n_tasks } = launch(context, plan, root).await?;
    let mut n_finished = 0;
    let mut n_sent = 0;
    // Apart from the loop: a slow client holds that up.
    let mut ending = JoinSet::new();
    let mut stream = execute_stream(Arc::clone(&root), context.session_state.task_ctx())?;
    loop {
        tokio::select! {
            // Events first: the error of a task says more than that of whoever read from it.
            biased;
            event = events.next(), if n_tasks > 0 => {
                if let Some(event) = event {
                    n_finished += usize::from(heard(context, event, gathered)?);
                }
            }
            batch = stream.next() => match batch {
                Some(Ok(batch)) => {
                    if rows.send(Ok(batch)).await.is_err() {
                        // Nobody reads any more.
                        return Ok(vec![]);
                    }
                    n_sent += 1;
                    // As many wait for their reader at most: the first is with the client.
                    if n_sent == READ_AHEAD_BATCHES + 1 && context.settings.fault_tolerance {
                        ending.spawn(end_retention(context, plan));
                    }
                }
                Some(Err(error)) => return Err(error),
                None => break,
            },
        }
    }
    drop(stream);
    let operators = report::operators(&root);
    let bytes: u64 = report::input_bytes(&operators).values().sum();
    context.stats.change(|counts| counts.exchange_bytes += bytes);
    let deadline = tokio::time::Instant::now() + reports_wait;
    while n_finished < n_tasks {
        match tokio::time::timeout_at(deadline, events.next()).await {
            // All rows are out: what befalls a task now changes nothing any more.
            Ok(Some((worker, Ok(event)))) => n_finished += usize::from(heard(context, (worker, Ok(event)), gathered)?),
            _ => break,
        }
    }
    Ok(operators)
}

/// Tells every worker of the query that a loss cannot be mended any more: what its exchanges retain is of no use.
fn end_retention(context: &QueryContext, plan: &QueryPlan) -> impl Future<Output = ()> + use<> {
    let (client, query) = (Arc::clone(context.engine.client()), context.query);
    let placed = plan.placement.stages.values().flatten();
    let workers: BTreeMap<String, WorkerAddress> =
        placed.map(|task| (task.worker.id.clone(), address(&task.worker))).collect();
    async move {
        let tell = async |worker: WorkerAddress| {
            if let Err(error) = client.end_retention(&worker, query, END_RETENTION_WAIT).await {
                // It goes on holding more than it needs to, until the query ends.
                debug!(query_id = %query, %worker, %error, "a worker was not told to end retention");
            }
        };
        join_all(workers.into_values().map(tell)).await;
    }
}

/// Whether it was the end of a task. Errs when a task failed or a worker is gone.
fn heard(context: &QueryContext, (worker, event): Event, gathered: &mut Gathered) -> Result<bool, QueryError> {
    match event {
        Ok(TaskEvent::Accepted) => Ok(false),
        Ok(TaskEvent::Finished { task, report }) => {
            let TaskReport {
                operators,
                output_rows,
                output_bytes,
                spilled_bytes,
                elapsed_ms,
                input_bytes,
                divisions_by_zero,
                ..
            } = *report;
            context.warnings.add(divisions_by_zero);
            context.stats.change(|counts| counts.exchange_bytes += input_bytes.values().sum::<u64>());
            gathered.stages.entry(task.stage).or_default().push(TaskMetrics {
                task: task.task,
                node: worker.name,
                elapsed_ms,
                output_rows,
                output_bytes,
                spill_bytes: spilled_bytes,
                operators: operators.into_iter().map(operator_metrics).collect(),
            });
            Ok(true)
        }
        Ok(TaskEvent::Failed { error, .. }) => Err(error.into()),
        Err(error) => {
            lost(context, &worker, &error);
            Err(error.into())
        }
    }
}

fn operator_metrics(report: OperatorReport) -> OperatorMetrics {
    OperatorMetrics {
        read_bytes: report::input_bytes(std::slice::from_ref(&report)),
        name: report.name,
        output_rows: report.output_rows,
        elapsed_ns: report.elapsed_compute_ns,
        memory_bytes: report.memory_bytes,
        spill_bytes: report.spilled_bytes,
    }
}
