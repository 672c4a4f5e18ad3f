//! A plain DataFusion program whose plans SheafDB cuts into stages and runs on workers in the same process. No server,
//! no socket, no catalog: only the crates `sheaf-planners` and `sheaf-flight`.
//!
//! It brings a table of its own, whose scan takes its share by [`DistributedTaskContext`], and implements what an
//! embedder may: [`TaskEstimator`] (how many tasks that scan deserves) and [`TaskRunner`] (how a worker runs a task).
//! [`WorkerResolver`] and `ChannelResolver` (which workers exist, how one is reached) come as stock implementations.
//! The answer is compared with the one that DataFusion gives alone.
//!
//! Run it with `cargo run --release --example embedded`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions, reset_plan_states};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use sheaf_common::settings::Settings;
use sheaf_common::{QueryId, TaskId, WireError};
use sheaf_flight::channel::InProcessChannels;
use sheaf_flight::messages::{StageInput, StageSubmit, TaskAddress, TaskSpec};
use sheaf_flight::remote_exec::{Consumer, connect};
use sheaf_flight::worker::TaskStart;
use sheaf_flight::{
    FetchOptions, FlightClient, SubmitRequest, TaskReport, TaskRunner, WorkerAddress, WorkerOptions, WorkerState, sink,
};
use sheaf_planners::error::to_wire;
use sheaf_planners::explain::Explained;
use sheaf_planners::leaf::{DistributedTaskContext, instantiate};
use sheaf_planners::reschedule::{PlacedTask, place};
use sheaf_planners::scatter::physical_rules;
use sheaf_planners::stage::StagePlan;
use sheaf_planners::{Homes, ScatterOptimizer, StaticWorkers, TaskEstimator, Worker, WorkerResolver, splits};

const N_WORKERS: usize = 3;
const N_READINGS: u64 = 100_000;
const WAIT: Duration = Duration::from_secs(10);
const QUERY: QueryId = QueryId(1);
const SQL: &str = "SELECT sensor, count(*) AS n, sum(value) AS total FROM readings WHERE value % 2 = 0 \
                   GROUP BY sensor ORDER BY total DESC, sensor LIMIT 5";

/// How tasks read one another: by reference, since all workers are in this process.
fn fetch_options() -> FetchOptions {
    FetchOptions { wait: WAIT, ..FetchOptions::of(&Settings::default()) }
}

/// The table `readings`: rows that are made, `sensor` and `value`.
#[derive(Debug)]
struct Readings(SchemaRef);

impl Readings {
    fn new() -> Self {
        let field = |name| Field::new(name, DataType::UInt64, false);
        Self(Arc::new(Schema::new(vec![field("sensor"), field("value")])))
    }
}

#[async_trait]
impl TableProvider for Readings {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| vec![0, 1]);
        let schema = Arc::new(self.0.project(&columns)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(ReadingsExec { columns, properties: Arc::new(properties) }))
    }
}

/// Out: the readings of the task that it runs in, in one partition. Every reading belongs to exactly one task.
#[derive(Debug)]
struct ReadingsExec {
    columns: Vec<usize>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for ReadingsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "ReadingsExec: {N_READINGS} readings")
    }
}

impl ExecutionPlan for ReadingsExec {
    fn name(&self) -> &str {
        "ReadingsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        // Outside a distributed query this is the only task of one.
        let task = DistributedTaskContext::of(&context);
        let mine = (0..N_READINGS).skip(task.task_index).step_by(task.task_count);
        let values: Vec<u64> = mine.collect();
        let sensors: Vec<u64> = values.iter().map(|value| value * 7 % 13).collect();
        let all: [ArrayRef; 2] = [Arc::new(UInt64Array::from(sensors)), Arc::new(UInt64Array::from(values))];
        let columns = self.columns.iter().map(|column| Arc::clone(&all[*column])).collect();
        let batch = RecordBatch::try_new(self.schema(), columns)?;
        Ok(Box::pin(MemoryStream::try_new(vec![batch], self.schema(), None)?))
    }
}

/// Readings deserve a task on every worker. SheafDB knows about files and its own generators by itself.
#[derive(Debug)]
struct EveryWorker;

impl TaskEstimator for EveryWorker {
    fn tasks(&self, leaf: &Arc<dyn ExecutionPlan>, workers: usize) -> Option<usize> {
        leaf.is::<ReadingsExec>().then_some(workers)
    }
}

/// Runs tasks in this process, from the stages themselves: nothing has to be encoded. `sheaf_query::StageTaskRunner`
/// is the one for workers elsewhere.
struct Runner {
    stages: HashMap<u32, StagePlan>,
    context: SessionContext,
    client: Arc<FlightClient>,
}

#[async_trait]
impl TaskRunner for Runner {
    async fn run(&self, start: TaskStart) -> Result<TaskReport, WireError> {
        let (submit, spec) = (start.stage(), start.spec());
        let stage = &self.stages[&submit.stage.0];
        let (task_index, task_count) = (spec.task as usize, submit.task_count as usize);
        let place = DistributedTaskContext { task_index, task_count };
        let config = self.context.copied_config().with_extension(Arc::new(place));
        let context = Arc::new(TaskContext::from(&self.context.state()).with_session_config(config));
        // Operators hold what they have seen while they run, so every task gets operators of its own.
        let task = async {
            let plan = instantiate(reset_plan_states(Arc::clone(&stage.plan))?, &spec.splits)?;
            connect(plan, &submit.inputs, Consumer { task_index, task_count, fetch: fetch_options() }, &self.client)
        };
        let plan = task.await.map_err(|error| to_wire(&error))?;
        sink::run(plan, &stage.output, &context, &start.exchange).await?;
        Ok(TaskReport::default())
    }
}

fn address(worker: &Worker) -> WorkerAddress {
    WorkerAddress { node: worker.id.clone(), host: worker.host.clone(), port: worker.port }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let names = (0..N_WORKERS).map(|n| format!("worker-{n}"));
    let worker = |name: String| Worker { id: name.clone(), name, host: "here".into(), port: 0, cores: 1 };
    let resolver: Arc<dyn WorkerResolver> = Arc::new(StaticWorkers(names.map(worker).collect()));
    let workers = resolver.workers();

    // 1. An ordinary session, planned for as many partitions as the workers have together.
    let scatter = ScatterOptimizer {
        workers: workers.len(),
        partitions_per_task: 1,
        broadcast_bytes_max: 10 << 20,
        bytes_per_task: 0,
    };
    let mut config = SessionConfig::new();
    scatter.configure(config.options_mut());
    let builder = SessionStateBuilder::new().with_config(config).with_default_features();
    let context = SessionContext::new_with_state(builder.with_physical_optimizer_rules(physical_rules()).build());
    context.register_table("readings", Arc::new(Readings::new()))?;

    // 2. Its physical plan, cut into stages; and the workers that run the tasks of each.
    let physical = context.sql(SQL).await?.create_physical_plan().await?;
    let (runtime, partitions) = (context.runtime_env(), scatter.partitions());
    let splits = splits::of_plan(&physical, &runtime, workers.len(), partitions, Some(&EveryWorker)).await?;
    let plan = scatter.optimize(&physical, &splits, context.state().config_options())?;
    let placement = place(&plan, QUERY, &workers, &Homes::default())?;
    for line in (Explained { plan: &plan, placement: &placement, coordinator: "this program", analyze: None }).text() {
        println!("{line}");
    }

    // 3. The workers. Links to them pass batches by reference.
    let channels = Arc::new(InProcessChannels::default());
    let client = Arc::new(FlightClient::new(Arc::clone(&channels) as _, None));
    let stages = plan.stages.iter().map(|stage| (stage.stage.0, stage.clone())).collect();
    let runner = Arc::new(Runner { stages, context: context.clone(), client: Arc::clone(&client) });
    let start = |worker: &Worker| {
        let state = WorkerState::new(WorkerOptions {
            address: address(worker),
            name: worker.name.clone(),
            cores: worker.cores,
            env: context.runtime_env(),
            runner: Arc::clone(&runner) as _,
            runtime: tokio::runtime::Handle::current(),
        });
        channels.add(&state);
        state
    };
    let _running: Vec<Arc<WorkerState>> = workers.iter().map(start).collect();

    // 4. Each worker gets its tasks. What comes back is the query's lease: the tasks live as long as it is held.
    let input = |stage: &StagePlan| {
        let id = |task: usize| TaskId { query: QUERY, stage: stage.stage, task: task as u32, attempt: 0 };
        let of = |placed: &PlacedTask| TaskAddress { task: id(placed.task), worker: address(&placed.worker) };
        StageInput { stage: stage.stage, tasks: placement.stages[&stage.stage].iter().map(of).collect() }
    };
    let inputs: Vec<StageInput> = plan.stages.iter().map(input).collect();
    let mut leases = vec![];
    for worker in &workers {
        let submit = |stage: &StagePlan| StageSubmit {
            stage: stage.stage,
            plan: Default::default(),
            output_partitions: stage.output.partitions() as u32,
            readers: stage.readers as u32,
            task_count: stage.task_count as u32,
            partitions_per_task: stage.partitions_per_task as u32,
            inputs: inputs.iter().filter(|input| stage.inputs.contains(&input.stage)).cloned().collect(),
            tasks: placement.stages[&stage.stage]
                .iter()
                .filter(|placed| placed.worker == *worker)
                .map(|placed| TaskSpec { task: placed.task as u32, attempt: 0, splits: placed.splits.clone() })
                .collect(),
        };
        let request = SubmitRequest {
            query: QUERY,
            coordinator: "this program".into(),
            worker: worker.id.clone(),
            config: vec![],
            // Nothing here runs a task again, so that nothing has to be kept for it.
            settings: Settings { fault_tolerance: false, ..Settings::default() },
            now_ns: 0,
            deadline_ms: 0,
            stores: vec![],
            stages: plan.stages.iter().map(submit).filter(|stage| !stage.tasks.is_empty()).collect(),
        };
        leases.push(client.submit(&address(worker), request, WAIT).await?);
    }

    // 5. The root reads the last stage, here.
    let consumer = Consumer { task_index: 0, task_count: 1, fetch: fetch_options() };
    let root = connect(Arc::clone(&plan.root), &inputs, consumer, &client)?;
    let rows = collect(root, context.task_ctx()).await?;
    drop(leases);

    // The same by DataFusion alone.
    let alone = SessionContext::new();
    alone.register_table("readings", Arc::new(Readings::new()))?;
    let expected = alone.sql(SQL).await?.collect().await?;
    let (rows, expected) = (pretty_format_batches(&rows)?.to_string(), pretty_format_batches(&expected)?.to_string());
    println!("{rows}");
    assert!(plan.is_distributed(), "{:?}", plan.reason);
    assert_eq!(rows, expected, "the workers' answer differs from DataFusion's");
    Ok(())
}
