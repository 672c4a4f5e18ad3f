//! Queries over real workers, each behind a socket of its own: the rows must be those of one process, and nothing may
//! be left of a query that is over.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::execution::memory_pool::{MemoryPool, MemoryReservation, UnboundedMemoryPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::*;
use futures::StreamExt;
use parking_lot::Mutex;
use sheaf_common::settings::Settings;
use sheaf_common::{ErrorCode, QueryId, StageId, TaskId};
use sheaf_flight::client::TaskEvents;
use sheaf_flight::messages::{StageInput, StageSubmit, TaskAddress, TaskSpec, WorkerAddress};
use sheaf_flight::service::NoActions;
use sheaf_flight::{FetchOptions, NodeService, PooledChannels, SubmitRequest, TaskEvent, WorkerOptions, WorkerState};
use sheaf_planners::boundary::NetworkBoundaryExec;
use sheaf_planners::merge_copies::MergeCopiesExec;
use sheaf_planners::reschedule::{Worker, place};
use sheaf_planners::scatter::physical_rules;
use sheaf_planners::{DistributedPlan, Homes, ScatterOptimizer, StagePlan, splits};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

const WAIT: Duration = Duration::from_secs(60);

struct Node {
    worker: Arc<WorkerState>,
    pool: Arc<dyn MemoryPool>,
}

/// Three workers and a coordinator that is none of them.
struct Cluster {
    nodes: Vec<Node>,
    client: Arc<FlightClient>,
    context: SessionContext,
    settings: Settings,
    _servers: JoinSet<()>,
    _files: tempfile::TempDir,
}

/// Grants operators whatever they ask for and exchanges next to nothing.
#[derive(Debug, Default)]
struct StingyPool {
    inner: UnboundedMemoryPool,
    refusals: AtomicUsize,
}

impl fmt::Display for StingyPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stingy")
    }
}

impl MemoryPool for StingyPool {
    fn name(&self) -> &str {
        "stingy"
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.inner.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.inner.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<(), DataFusionError> {
        if reservation.consumer().name() == "exchanges" && reservation.size() + additional > 64 << 10 {
            self.refusals.fetch_add(1, Ordering::Relaxed);
            return Err(DataFusionError::ResourcesExhausted("stingy".into()));
        }
        self.inner.try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.inner.reserved()
    }
}

impl Cluster {
    async fn start() -> Self {
        let settings = Settings { exchange_buffer_bytes: 1, fault_tolerance: false, ..Default::default() };
        Self::start_with(settings, || Arc::new(UnboundedMemoryPool::default())).await
    }

    async fn start_with(settings: Settings, pool: impl Fn() -> Arc<dyn MemoryPool>) -> Self {
        let mut nodes = vec![];
        let mut servers = JoinSet::new();
        let runtime = tokio::runtime::Handle::current();
        for n in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let pool = pool();
            let env = RuntimeEnvBuilder::new().with_memory_pool(Arc::clone(&pool)).build_arc().unwrap();
            let base = SessionContext::new_with_config_rt(SessionConfig::new(), Arc::clone(&env)).state();
            let channels = Arc::new(PooledChannels::new(runtime.clone()));
            let client = Arc::new(FlightClient::new(Arc::clone(&channels) as _, None));
            let worker = WorkerState::new(WorkerOptions {
                address: WorkerAddress { node: format!("w{n}-1"), host: "127.0.0.1".into(), port },
                name: format!("w{n}"),
                cores: 2,
                env,
                runner: Arc::new(StageTaskRunner::new(base, client, 2)),
                runtime: runtime.clone(),
            });
            channels.set_local(&worker);
            let service = NodeService::new(Some(Arc::clone(&worker)), Arc::new(NoActions), None);
            servers.spawn(async move { service.serve(listener, std::future::pending()).await.unwrap() });
            nodes.push(Node { worker, pool });
        }
        let files = tempfile::tempdir().unwrap();
        let context = tables(files.path()).await;
        let client = Arc::new(FlightClient::new(Arc::new(PooledChannels::new(runtime)), None));
        Self { nodes, client, context, settings, _servers: servers, _files: files }
    }

    fn workers(&self) -> Vec<Worker> {
        let address = |node: &Node| node.worker.address().clone();
        let worker =
            |it: WorkerAddress| Worker { id: it.node.clone(), name: it.node, host: it.host, port: it.port, cores: 2 };
        self.nodes.iter().map(address).map(worker).collect()
    }

    async fn plan(&self, sql: &str, broadcast_bytes_max: u64) -> (DistributedPlan, SessionConfig) {
        let options = ScatterOptimizer { workers: 3, partitions_per_task: 2, broadcast_bytes_max, bytes_per_task: 0 };
        let mut config = self.context.copied_config().with_create_default_catalog_and_schema(false);
        options.configure(config.options_mut());
        let state = SessionStateBuilder::new_from_existing(self.context.state())
            .with_config(config.clone())
            .with_physical_optimizer_rules(physical_rules())
            .build();
        let logical = state.create_logical_plan(sql).await.unwrap();
        let plan = state.create_physical_plan(&logical).await.unwrap();
        let found = splits::of_plan(&plan, &self.context.runtime_env(), 3, options.partitions(), None).await.unwrap();
        (options.optimize(&plan, &found, state.config_options()).unwrap(), config)
    }

    /// Runs a query as its coordinator would; answers its rows and the leases that still hold it.
    async fn run(&self, sequence: u64, sql: &str, broadcast_bytes_max: u64) -> Result<Vec<RecordBatch>, WireError> {
        let query = QueryId::new(1, sequence);
        let (plan, config) = self.plan(sql, broadcast_bytes_max).await;
        assert!(plan.is_distributed(), "{sql}");
        let placement = place(&plan, query, &self.workers(), &Homes::default()).unwrap();
        let address =
            |worker: &Worker| WorkerAddress { node: worker.id.clone(), host: worker.host.clone(), port: worker.port };
        let input = |stage: StageId| StageInput {
            stage,
            tasks: placement.stages[&stage]
                .iter()
                .map(|task| TaskAddress {
                    task: TaskId { query, stage, task: task.task as u32, attempt: 0 },
                    worker: address(&task.worker),
                })
                .collect(),
        };
        let read = |plan: &Arc<dyn ExecutionPlan>| {
            let inputs: Vec<StageInput> = stages_of(plan).into_iter().map(input).collect();
            let consumer = Consumer { task_index: 0, task_count: 1, fetch: FetchOptions::of(&Settings::default()) };
            connect(Arc::clone(plan), &inputs, consumer, &self.client).unwrap()
        };
        let context = self.context.task_ctx();
        let wire = |error: DataFusionError| to_wire(&error);
        let mut leases: Vec<TaskEvents> = vec![];
        let mut submitted = HashSet::new();
        let mut subqueries = plan.subqueries.iter().peekable();
        for stage in &plan.stages {
            while let Some(subquery) =
                subqueries.next_if(|it| stages_of(&it.plan).iter().all(|stage| submitted.contains(stage)))
            {
                let batches = collect(read(&subquery.plan), Arc::clone(&context)).await.map_err(wire)?;
                let value = match batches.iter().find(|batch| batch.num_rows() > 0) {
                    Some(batch) => ScalarValue::try_from_array(batch.column(0), 0).unwrap(),
                    None => ScalarValue::try_from(subquery.plan.schema().field(0).data_type()).unwrap(),
                };
                subquery.results.set(subquery.index, value).unwrap();
            }
            let inputs: Vec<StageInput> = stage.inputs.iter().copied().map(input).collect();
            for worker in self.workers() {
                let tasks = placement.stages[&stage.stage].iter().filter(|task| task.worker.id == worker.id);
                let tasks =
                    tasks.map(|task| TaskSpec { task: task.task as u32, attempt: 0, splits: task.splits.clone() });
                let tasks: Vec<TaskSpec> = tasks.collect();
                if tasks.is_empty() {
                    continue;
                }
                let request = request(query, stage, &config, &self.settings, inputs.clone(), tasks);
                let mut lease = self.client.submit(&address(&worker), request, WAIT).await?;
                assert_eq!(lease.next().await, Some(Ok(TaskEvent::Accepted)));
                leases.push(lease);
            }
            submitted.insert(stage.stage);
        }
        collect(read(&plan.root), context).await.map_err(wire)
    }

    async fn assert_idle(&self) {
        let is_idle = |node: &Node| {
            let info = node.worker.info();
            let is_empty = info.exchange_bytes == 0 && info.spill_bytes == 0 && node.pool.reserved() == 0;
            info.tasks == 0 && info.queries == 0 && is_empty
        };
        for _ in 0..3000 {
            if self.nodes.iter().all(is_idle) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let infos: Vec<_> = self.nodes.iter().map(|node| (node.worker.info(), node.worker.list_tasks())).collect();
        panic!("left over: {infos:?}");
    }

    async fn check(&self, sequence: u64, sql: &str, broadcast_bytes_max: u64) {
        let running = self.run(sequence, sql, broadcast_bytes_max);
        let found = tokio::time::timeout(WAIT, running).await.unwrap_or_else(|_| panic!("{sql} hangs"));
        let found = found.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let expected = self.context.sql(sql).await.unwrap().collect().await.unwrap();
        assert_eq!(rows(&found), rows(&expected), "{sql}");
        self.assert_idle().await;
    }
}

fn request(
    query: QueryId,
    stage: &StagePlan,
    config: &SessionConfig,
    settings: &Settings,
    inputs: Vec<StageInput>,
    tasks: Vec<TaskSpec>,
) -> SubmitRequest {
    SubmitRequest {
        query,
        coordinator: "c".into(),
        worker: String::new(),
        config: codec::encode_config(config),
        settings: settings.clone(),
        now_ns: 0,
        deadline_ms: 0,
        stores: vec![],
        stages: vec![StageSubmit {
            stage: stage.stage,
            plan: codec::encode_stage(&stage.plan, &stage.output).unwrap(),
            output_partitions: stage.output.partitions() as u32,
            readers: stage.readers as u32,
            task_count: stage.task_count as u32,
            partitions_per_task: stage.partitions_per_task as u32,
            inputs,
            tasks,
        }],
    }
}

fn stages_of(plan: &Arc<dyn ExecutionPlan>) -> Vec<StageId> {
    let mut stages = vec![];
    plan.apply(|node| {
        stages.extend(node.downcast_ref::<NetworkBoundaryExec>().map(|it| it.stage));
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
    stages
}

async fn tables(directory: &std::path::Path) -> SessionContext {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(3));
    let big = "SELECT value AS k, value % 7 AS g, CASE WHEN value % 11 = 0 THEN NULL ELSE value * 3 END AS v, \
               concat('a rather long text for a view ', value % 13) AS s FROM generate_series(1, 30000)";
    let small = "SELECT value * 5 AS k, CASE WHEN value % 4 = 0 THEN NULL ELSE value % 5 END AS g FROM \
                 generate_series(1, 400)";
    for (name, sql, files) in [("big", big, 5), ("small", small, 2)] {
        let path = directory.join(name);
        std::fs::create_dir_all(&path).unwrap();
        for file in 0..files {
            let part = context.sql(&format!("SELECT * FROM ({sql}) WHERE k % {files} = {file}")).await.unwrap();
            let file = path.join(format!("{file}.parquet"));
            let options = DataFrameWriteOptions::new().with_single_file_output(true);
            part.write_parquet(file.to_str().unwrap(), options, None).await.unwrap();
        }
        context.register_parquet(name, path.to_str().unwrap(), ParquetReadOptions::default()).await.unwrap();
    }
    context
}

/// As text, in an order that does not depend on where they came from.
fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    let mut rows = vec![];
    for batch in batches {
        let columns: Vec<ArrayFormatter> =
            batch.columns().iter().map(|it| ArrayFormatter::try_new(it, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|it| it.value(row).to_string()).collect::<Vec<_>>().join("|"));
        }
    }
    rows.sort();
    rows
}

const QUERIES: &[&str] = &[
    "SELECT * FROM big",
    "SELECT count(*) FROM big",
    "SELECT g, s, count(*), sum(v), count(DISTINCT v % 100) FROM big GROUP BY g, s",
    "SELECT k, v FROM big ORDER BY v DESC, k LIMIT 9 OFFSET 3",
    "SELECT k FROM big ORDER BY k",
    "SELECT count(*) FROM (SELECT * FROM big LIMIT 10)",
    "SELECT b.k, s.g FROM big b JOIN small s ON b.k = s.k",
    "SELECT b.k, s.g FROM big b FULL JOIN small s ON b.k = s.k + 7",
    "SELECT a.g, count(*) FROM big a JOIN big b ON a.k = b.k JOIN small s ON s.k = a.k GROUP BY a.g",
    "SELECT k FROM big WHERE g NOT IN (SELECT g FROM small WHERE g IS NOT NULL)",
    "SELECT k FROM small m WHERE EXISTS (SELECT 1 FROM big b WHERE b.g = m.g AND b.k <> m.k AND b.v < m.k)",
    "SELECT k, g FROM small m WHERE NOT EXISTS (SELECT 1 FROM big b WHERE b.v = m.k)",
    "SELECT k FROM small m WHERE g IS NULL OR EXISTS (SELECT 1 FROM big b WHERE b.v = m.k)",
    "SELECT k, row_number() OVER (PARTITION BY g ORDER BY k) FROM big",
    "SELECT k FROM big UNION ALL SELECT k FROM small",
    "SELECT g FROM big UNION SELECT g FROM small",
    "SELECT k, (SELECT max(k) FROM small) FROM big WHERE k > (SELECT avg(k) FROM small) AND k < 1500",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r JOIN small ON k = n * 5 WHERE n < 20) \
     SELECT n, count(*) FROM r JOIN big ON g = n % 7 GROUP BY n",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_those_of_one_process() {
    let cluster = Cluster::start().await;
    let mut sequence = 0;
    for broadcast_bytes_max in [0, 1 << 30] {
        for sql in QUERIES {
            sequence += 1;
            cluster.check(sequence, sql, broadcast_bytes_max).await;
        }
    }
}

/// The queries of the list above that need the tasks' own numbers do use them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_build_sides_are_numbered_and_merged() {
    let cluster = Cluster::start().await;
    let mut n_merges = 0;
    for sql in QUERIES {
        let (plan, _) = cluster.plan(sql, 1 << 30).await;
        n_merges +=
            plan.stages.iter().filter(|stage| stage.plan.exists(|it| Ok(it.is::<MergeCopiesExec>())).unwrap()).count();
    }
    assert!(n_merges >= 3, "{n_merges}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_the_same_when_exchanges_have_no_memory() {
    for fault_tolerance in [false, true] {
        let pools = Mutex::new(vec![]);
        let settings = Settings { exchange_buffer_bytes: 1 << 30, fault_tolerance, ..Default::default() };
        let cluster = Cluster::start_with(settings, || {
            let pool = Arc::new(StingyPool::default());
            pools.lock().push(Arc::clone(&pool));
            pool
        });
        let cluster = cluster.await;
        for (sequence, sql) in QUERIES.iter().enumerate() {
            cluster.check(sequence as u64, sql, 0).await;
        }
        for pool in pools.lock().iter() {
            assert!(pool.refusals.load(Ordering::Relaxed) > 0, "nothing had to spill, retained: {fault_tolerance}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_names_its_task_and_leaves_nothing() {
    let cluster = Cluster::start().await;
    let sql = "SELECT g, sum(1 / (k - 777)) FROM big GROUP BY g";
    let error = cluster.run(1, sql, 0).await.unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::DivisionByZero, false), "{error}");
    assert_eq!(error.message, "Divide by zero error");
    assert_eq!(error.origin.expect("the task that divided").stage, 1);
    cluster.assert_idle().await;
    cluster.check(2, "SELECT count(*) FROM big", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_query_that_was_dropped_at_any_moment() {
    let cluster = Cluster::start().await;
    let sql = "SELECT a.s, count(*) FROM big a JOIN big b ON a.g = b.g WHERE a.k < 300 GROUP BY a.s ORDER BY 1";
    for sequence in 0..20 {
        let patience = Duration::from_millis(sequence * 7);
        let _ = tokio::time::timeout(patience, cluster.run(sequence, sql, 0)).await;
        cluster.assert_idle().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_fails_the_query() {
    let cluster = Cluster::start().await;
    cluster.check(1, "SELECT sum(k) FROM small", 0).await;
    let (plan, _) = cluster.plan("SELECT sum(k) FROM small", 0).await;
    let file = cluster._files.path().join("small/0.parquet");
    std::fs::File::options().append(true).open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let splits = place(&plan, QueryId(1), &cluster.workers(), &Homes::default()).unwrap();
    let context = cluster.context.task_ctx();
    let mut errors = vec![];
    for stage in &plan.stages {
        for task in &splits.stages[&stage.stage] {
            errors.extend(verify_files(&stage.plan, &task.splits, &context).await.err());
        }
    }
    assert!(errors.iter().any(|error| error.message.contains("file changed")), "{errors:?}");
}
