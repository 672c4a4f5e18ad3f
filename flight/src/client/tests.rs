//! Both ends of the wire, over real sockets on this host.

mod links;

use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::*;
use arrow::datatypes::*;
use async_trait::async_trait;
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use futures::{TryStreamExt, poll};
use sheaf_common::settings::Settings;
use sheaf_common::{StageId, TaskId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::channel::PooledChannels;
use crate::exchange::Exchange;
use crate::link::LinkSocket;
use crate::messages::{StageSubmit, TaskSpec, TaskState};
use crate::report::TaskReport;
use crate::service::{NoActions, NodeService};
use crate::worker::{TaskRunner, TaskStart, WorkerOptions, WorkerState};

const WAIT: Duration = Duration::from_secs(20);

/// What a task of these tests does.
type Job = dyn Fn(Arc<Exchange>) -> BoxFuture<'static, Result<(), WireError>> + Send + Sync;

struct Runner {
    job: Arc<Job>,
    /// Runs that have not been dropped.
    alive: Arc<AtomicUsize>,
}

struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl TaskRunner for Runner {
    async fn run(&self, start: TaskStart) -> Result<TaskReport, WireError> {
        self.alive.fetch_add(1, Ordering::SeqCst);
        let _alive = Alive(Arc::clone(&self.alive));
        (self.job)(Arc::clone(&start.exchange)).await?;
        Ok(TaskReport { output_rows: start.exchange.pushed().0, ..Default::default() })
    }
}

/// One worker behind a socket, and a client of another node.
struct Cluster {
    worker: Arc<WorkerState>,
    address: WorkerAddress,
    client: Arc<FlightClient>,
    pool: Arc<dyn MemoryPool>,
    alive: Arc<AtomicUsize>,
    _dir: tempfile::TempDir,
    _servers: JoinSet<()>,
    _stop: oneshot::Sender<()>,
}

impl Cluster {
    /// One whose tasks put all of `batches` into their first partition.
    async fn sending(batches: Vec<RecordBatch>) -> Self {
        Self::start(None, move |exchange| {
            let batches = batches.clone();
            async move {
                for batch in batches {
                    exchange.push(0, batch).await?;
                }
                Ok(())
            }
        })
        .await
    }

    async fn start<F>(secret: Option<&str>, job: impl Fn(Arc<Exchange>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), WireError>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = WorkerAddress { node: "w1-1".into(), host: "127.0.0.1".into(), port };
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let env = RuntimeEnvBuilder::new().with_memory_pool(Arc::clone(&pool)).build_arc().unwrap();
        let alive = Arc::new(AtomicUsize::new(0));
        let job: Arc<Job> = Arc::new(move |exchange| job(exchange).boxed());
        let worker = WorkerState::new(WorkerOptions {
            address: address.clone(),
            name: "w1".into(),
            cores: 1,
            env,
            runner: Arc::new(Runner { job, alive: Arc::clone(&alive) }),
            runtime: tokio::runtime::Handle::current(),
        });
        let service = NodeService::new(Some(Arc::clone(&worker)), Arc::new(NoActions), secret.map(ClusterSecret::new));
        let dir = tempfile::tempdir().unwrap();
        let service = service.with_socket(LinkSocket::bind(dir.path()).unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let mut servers = JoinSet::new();
        servers.spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            service.serve(listener, stopped).await.unwrap();
        });
        let client = client(secret);
        Self { worker, address, client, pool, alive, _dir: dir, _servers: servers, _stop: stop }
    }

    async fn submit(&self, request: SubmitRequest) -> Result<TaskEvents, WireError> {
        self.client.submit(&self.address, request, WAIT).await
    }

    fn fetch(&self, sequence: u64, partition: usize) -> FetchStream {
        let source = TaskAddress { task: task(sequence), worker: self.address.clone() };
        self.client.fetch(source, partition, options(Duration::from_millis(200)))
    }

    /// Waits until nothing is left of anything.
    async fn assert_idle(&self) {
        let is_idle = || {
            self.worker.list_tasks().tasks.is_empty()
                && self.worker.info().queries == 0
                && self.pool.reserved() == 0
                && self.alive.load(Ordering::SeqCst) == 0
        };
        for _ in 0..3000 {
            if is_idle() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("left over: {:?}, {:?}", self.worker.list_tasks(), self.worker.info());
    }
}

fn options(wait: Duration) -> FetchOptions {
    FetchOptions { wait, link: ExchangeLink::Tcp, compression: ExchangeCompression::Off }
}

fn client(secret: Option<&str>) -> Arc<FlightClient> {
    let channels = PooledChannels::new(tokio::runtime::Handle::current());
    Arc::new(FlightClient::new(Arc::new(channels), secret.map(ClusterSecret::new)))
}

fn task(sequence: u64) -> TaskId {
    TaskId { query: QueryId::new(0, sequence), stage: StageId(1), task: 0, attempt: 0 }
}

fn request(sequence: u64, readers: u32) -> SubmitRequest {
    SubmitRequest {
        query: QueryId::new(0, sequence),
        coordinator: "c".into(),
        worker: "w1-1".into(),
        config: vec![],
        settings: Settings { fault_tolerance: false, ..Default::default() },
        now_ns: 0,
        deadline_ms: 0,
        stores: vec![],
        stages: vec![StageSubmit {
            stage: StageId(1),
            plan: Bytes::new(),
            output_partitions: 1,
            readers,
            task_count: 1,
            partitions_per_task: 1,
            inputs: vec![],
            tasks: vec![TaskSpec { task: 0, attempt: 0, splits: vec![] }],
        }],
    }
}

async fn event(events: &mut TaskEvents) -> Option<Result<TaskEvent, WireError>> {
    tokio::time::timeout(WAIT, events.next()).await.expect("an event within the deadline")
}

async fn all(rows: FetchStream) -> Result<Vec<RecordBatch>, WireError> {
    all_over(Link::Tcp, rows).await
}

async fn all_over(link: Link, mut rows: FetchStream) -> Result<Vec<RecordBatch>, WireError> {
    let mut batches = vec![];
    while let Some(item) = tokio::time::timeout(WAIT, rows.next()).await.expect("rows within the deadline") {
        let received = item?;
        assert_eq!(received.link, link);
        assert!(received.bytes > 0);
        batches.push(received.batch);
    }
    Ok(batches)
}

/// Sends batches on every way to one reader, and to two that share the encoded form.
async fn check(batches: Vec<RecordBatch>) {
    let sent = batches.clone();
    let cluster = Cluster::sending(batches).await;
    let mut sequence = 0;
    for way in links::ways() {
        for readers in [1, 2] {
            sequence += 1;
            let events = cluster.submit(request(sequence, readers)).await.unwrap();
            for _ in 0..readers {
                let rows = way.fetch(&cluster, sequence);
                assert_eq!(all_over(way.link, rows).await.unwrap(), sent, "{way:?}, {readers} readers");
            }
            drop(events);
        }
    }
    cluster.assert_idle().await;
}

async fn check_column(array: impl Array + 'static) {
    let array: ArrayRef = Arc::new(array);
    // Nullable, with metadata, next to another column; whole, and a slice of it.
    let field = Field::new("a", array.data_type().clone(), true);
    let field = field.with_metadata([("k".to_owned(), "v".to_owned())].into());
    let schema = Arc::new(Schema::new(vec![field, Field::new("n", DataType::Int32, false)]));
    let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..array.len() as i32));
    let whole = RecordBatch::try_new(schema, vec![array, numbers]).unwrap();
    let slice = whole.slice(1, whole.num_rows() - 1);
    check(vec![whole, slice]).await;
}

macro_rules! survives {
    ($($name:ident: $array:expr;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                check_column($array).await;
            }
        )*
    };
}

fn ints() -> Int64Array {
    Int64Array::from(vec![Some(1), None, Some(3), Some(i64::MIN)])
}

fn offsets<O: OffsetSizeTrait>() -> arrow::buffer::OffsetBuffer<O> {
    arrow::buffer::OffsetBuffer::from_lengths([1, 0, 3])
}

fn item() -> FieldRef {
    Arc::new(Field::new("item", DataType::Int64, true))
}

fn structs() -> StructArray {
    let texts = StringViewArray::from(vec![Some("a text that is too long to be inlined"), None, Some("c"), Some("d")]);
    StructArray::from(vec![
        (item(), Arc::new(ints()) as ArrayRef),
        (Arc::new(Field::new("t", DataType::Utf8View, true)), Arc::new(texts) as ArrayRef),
    ])
}

survives! {
    nulls: NullArray::new(3);
    booleans: BooleanArray::from(vec![Some(true), None, Some(false)]);
    integers: ints();
    small_integers: UInt8Array::from(vec![Some(255), None, Some(0)]);
    floats: Float64Array::from(vec![Some(f64::NEG_INFINITY), None, Some(-0.0), Some(1e300)]);
    half_floats: Float16Array::from(vec![half(1.5), half(-2.0), half(0.0)]);
    decimals_32: Decimal32Array::from(vec![Some(1), None, Some(-3)]).with_precision_and_scale(9, 2).unwrap();
    decimals_64: Decimal64Array::from(vec![Some(1), None, Some(-3)]).with_precision_and_scale(18, 0).unwrap();
    decimals_128: Decimal128Array::from(vec![Some(1), None, Some(-3)]).with_precision_and_scale(38, 38).unwrap();
    decimals_256: Decimal256Array::from(vec![Some(i256::MAX), None, Some(i256::MIN)]);
    dates: Date32Array::from(vec![Some(0), None, Some(-719_528)]);
    date_times: Date64Array::from(vec![Some(0), None, Some(86_400_000)]);
    times: Time64NanosecondArray::from(vec![Some(0), None, Some(1)]);
    timestamps: TimestampNanosecondArray::from(vec![Some(0), None, Some(-1)]);
    timestamps_with_zone: TimestampMicrosecondArray::from(vec![Some(0), None, Some(1)]).with_timezone("Asia/Tokyo");
    durations: DurationSecondArray::from(vec![Some(0), None, Some(-1)]);
    intervals_of_months: IntervalYearMonthArray::from(vec![Some(0), None, Some(-1)]);
    intervals_of_days: IntervalDayTimeArray::from(vec![Some(IntervalDayTime::new(1, -2)), None, None]);
    intervals: IntervalMonthDayNanoArray::from(vec![Some(IntervalMonthDayNano::new(1, -2, 3)), None, None]);
    texts: StringArray::from(vec![Some("ä"), None, Some("")]);
    large_texts: LargeStringArray::from(vec![Some("ä"), None, Some("")]);
    text_views: StringViewArray::from(vec![Some("a text that is too long to be inlined"), None, Some("short")]);
    binaries: BinaryArray::from(vec![Some(&b"\xff\x00"[..]), None, Some(b"")]);
    large_binaries: LargeBinaryArray::from(vec![Some(&b"\xff\x00"[..]), None, Some(b"")]);
    binary_views: BinaryViewArray::from(vec![Some(&[0xff_u8; 40][..]), None, Some(b"")]);
    fixed_binaries: FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some(b"ab"), None, Some(b"cd")].into_iter(), 2).unwrap();
    lists: ListArray::new(item(), offsets(), Arc::new(ints()), Some(vec![true, false, true].into()));
    large_lists: LargeListArray::new(item(), offsets(), Arc::new(ints()), Some(vec![true, false, true].into()));
    fixed_lists: FixedSizeListArray::new(item(), 2, Arc::new(ints()), Some(vec![true, false].into()));
    struct_rows: structs();
    maps: {
        let names = ["keys", "values"];
        let keys = Arc::new(StringArray::from(vec!["a", "b", "c", "d"])) as ArrayRef;
        let fields = Fields::from(vec![
            Field::new(names[0], DataType::Utf8, false),
            Field::new(names[1], DataType::Int64, true),
        ]);
        let entries = StructArray::new(fields.clone(), vec![keys, Arc::new(ints())], None);
        let field = Arc::new(Field::new("entries", DataType::Struct(fields), false));
        MapArray::new(field, offsets(), entries, None, false)
    };
    lists_of_structs: {
        let field = Arc::new(Field::new("item", structs().data_type().clone(), true));
        ListArray::new(field, offsets(), Arc::new(structs()), None)
    };
    dictionaries: DictionaryArray::<Int32Type>::from_iter([Some("a"), None, Some("b"), Some("a")]);
    dictionaries_with_null_values: DictionaryArray::<UInt16Type>::new(
        UInt16Array::from(vec![Some(0), Some(1), None]),
        Arc::new(StringArray::from(vec![None, Some("x")])),
    );
    lists_of_dictionaries: {
        let values = DictionaryArray::<Int8Type>::from_iter([Some("a"), None, Some("b"), Some("a")]);
        let field = Arc::new(Field::new("item", values.data_type().clone(), true));
        ListArray::new(field, offsets(), Arc::new(values), None)
    };
    runs: RunArray::<Int32Type>::try_new(&Int32Array::from(vec![2, 3]), &StringArray::from(vec!["a", "b"])).unwrap();
}

fn half(value: f32) -> <Float16Type as ArrowPrimitiveType>::Native {
    <Float16Type as ArrowPrimitiveType>::Native::from_f32(value)
}

#[tokio::test]
async fn nan_survives() {
    let cluster = Cluster::start(None, |exchange| async move {
        let array: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN]));
        exchange.push(0, RecordBatch::try_from_iter([("a", array)]).unwrap()).await.map(|_| ())
    })
    .await;
    let _events = cluster.submit(request(1, 1)).await.unwrap();
    let batches = all(cluster.fetch(1, 0)).await.unwrap();
    assert!(batches[0].column(0).as_primitive::<Float64Type>().value(0).is_nan());
}

#[tokio::test]
async fn dictionaries_may_change_between_batches() {
    let batch = |texts: &[&str]| {
        let array: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::from_iter(texts.iter().copied()));
        RecordBatch::try_from_iter([("a", array)]).unwrap()
    };
    check(vec![batch(&["a", "b"]), batch(&["a", "b"]), batch(&["c"]), batch(&["a", "b", "c"])]).await;
}

#[tokio::test]
async fn rows_without_columns_keep_their_number() {
    let options = RecordBatchOptions::new().with_row_count(Some(7));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
    check(vec![batch]).await;
}

#[tokio::test]
async fn no_batch_and_a_batch_without_rows() {
    check(vec![]).await;
    check(vec![RecordBatch::new_empty(Arc::new(Schema::new(vec![Field::new("a", DataType::Int8, true)])))]).await;
}

#[tokio::test]
async fn a_batch_larger_than_every_window_comes_in_one_piece() {
    let array: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1_000_000));
    check(vec![RecordBatch::try_from_iter([("a", array)]).unwrap(); 2]).await;
}

#[tokio::test]
async fn a_task_says_what_became_of_it() {
    let cluster = Cluster::start(None, |exchange| async move {
        let array: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        exchange.push(0, RecordBatch::try_from_iter([("a", array)]).unwrap()).await.map(|_| ())
    })
    .await;
    let mut events = cluster.submit(request(1, 1)).await.unwrap();
    assert_eq!(event(&mut events).await, Some(Ok(TaskEvent::Accepted)));
    let Some(Ok(TaskEvent::Finished { task: finished, report })) = event(&mut events).await else { panic!() };
    assert_eq!((finished, report.output_rows), (task(1), 3));
    let list = cluster.client.list_tasks(&cluster.address, WAIT).await.unwrap();
    assert_eq!((list.tasks[0].state, list.tasks[0].output_rows), (TaskState::Finished, 3));
    assert!(list.tasks[0].buffered_bytes > 0);
    let info = cluster.client.worker_info(&cluster.address, WAIT).await.unwrap();
    assert_eq!((info.node.as_str(), info.tasks, info.queries), ("w1-1", 1, 1));
    cluster.client.release(&cluster.address, task(1).query, WAIT).await.unwrap();
    assert_eq!(event(&mut events).await, None, "a released query comes to its end");
    cluster.assert_idle().await;
}

#[tokio::test]
async fn an_error_comes_typed_with_its_origin() {
    let cluster =
        Cluster::start(None, |_| async { Err(WireError::new(ErrorCode::DivisionByZero, "divide by zero")) }).await;
    let mut events = cluster.submit(request(1, 1)).await.unwrap();
    let error = all(cluster.fetch(1, 0)).await.unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::DivisionByZero, false));
    assert_eq!(error.to_string(), "divide by zero (stage 1, task 0, worker w1)");
    assert_eq!(event(&mut events).await, Some(Ok(TaskEvent::Accepted)));
    assert_eq!(event(&mut events).await, Some(Ok(TaskEvent::Failed { task: task(1), error })));
    drop(events);
    cluster.assert_idle().await;
}

#[tokio::test]
async fn a_panic_is_an_error_and_the_worker_goes_on() {
    let cluster = Cluster::start(None, |_| async { panic!("planted") }).await;
    let _events = cluster.submit(request(1, 1)).await.unwrap();
    let error = all(cluster.fetch(1, 0)).await.unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::Internal, true));
    let (place, text) = error.message.rsplit_once(": ").expect("place and text");
    assert_eq!(text, "planted");
    assert!(place.starts_with("panic at ") && place.contains("client/tests.rs:"), "{error}");
    cluster.client.worker_info(&cluster.address, WAIT).await.unwrap();
}

/// Pushes until it is stopped.
async fn endless(exchange: Arc<Exchange>) -> Result<(), WireError> {
    let array: ArrayRef = Arc::new(Int64Array::from(vec![7; 8192]));
    let batch = RecordBatch::try_from_iter([("a", array)]).unwrap();
    while exchange.push(0, batch.clone()).await? != crate::exchange::Pushed::NoReaderLeft {}
    Ok(())
}

#[tokio::test]
async fn a_dropped_lease_ends_its_query() {
    let cluster = Cluster::start(None, endless).await;
    let mut events = cluster.submit(request(1, 1)).await.unwrap();
    event(&mut events).await.unwrap().unwrap();
    let mut rows = cluster.fetch(1, 0);
    rows.next().await.unwrap().unwrap();
    assert_eq!(cluster.alive.load(Ordering::SeqCst), 1);
    drop(events);
    let error = all(rows).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Cancelled);
    cluster.assert_idle().await;
    let error = all(cluster.fetch(1, 0)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Cancelled, "at once, without waiting for the task");
}

#[tokio::test]
async fn a_cancel_ends_a_query_for_good() {
    let cluster = Cluster::start(None, endless).await;
    let mut events = cluster.submit(request(1, 1)).await.unwrap();
    event(&mut events).await.unwrap().unwrap();
    cluster.client.cancel(&cluster.address, task(1).query, WAIT).await.unwrap();
    assert_eq!(event(&mut events).await.unwrap().unwrap_err().code, ErrorCode::Cancelled);
    cluster.assert_idle().await;
    let refused = cluster.submit(request(1, 1)).await;
    assert_eq!(refused.err().map(|error| error.code), Some(ErrorCode::Cancelled));
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_its_producer() {
    let cluster = Cluster::start(None, endless).await;
    let mut events = cluster.submit(request(1, 1)).await.unwrap();
    event(&mut events).await.unwrap().unwrap();
    let mut rows = cluster.fetch(1, 0);
    rows.next().await.unwrap().unwrap();
    drop(rows);
    assert!(matches!(event(&mut events).await, Some(Ok(TaskEvent::Finished { .. }))));
}

#[tokio::test]
async fn retained_rows_are_read_again_until_retention_ends() {
    let cluster = Cluster::start(None, |exchange| async move {
        for i in 0..4 {
            let array: ArrayRef = Arc::new(Int64Array::from(vec![i; 100]));
            exchange.push(0, RecordBatch::try_from_iter([("a", array)]).unwrap()).await?;
        }
        Ok(())
    });
    let cluster = cluster.await;
    let mut retained = request(1, 1);
    retained.settings.fault_tolerance = true;
    let events = cluster.submit(retained).await.unwrap();
    let first = all(cluster.fetch(1, 0)).await.unwrap();
    assert_eq!(first.len(), 4);
    assert_eq!(cluster.worker.info().exchange_bytes, 4 * 800);
    assert_eq!(all(cluster.fetch(1, 0)).await.unwrap(), first);
    cluster.client.end_retention(&cluster.address, QueryId::new(0, 1), WAIT).await.unwrap();
    assert_eq!(cluster.worker.info().exchange_bytes, 0);
    let error = all(cluster.fetch(1, 0)).await.unwrap_err();
    assert!(error.message.contains("opened by all its readers"), "{error}");
    drop(events);
    cluster.assert_idle().await;
}

#[tokio::test]
async fn tasks_end_while_their_siblings_go_on() {
    let cluster = Cluster::start(None, endless).await;
    let mut many = request(1, 1);
    many.stages[0].task_count = 3;
    many.stages[0].tasks = (0..3).map(|task| TaskSpec { task, attempt: 0, splits: vec![] }).collect();
    let mut events = cluster.submit(many).await.unwrap();
    assert_eq!(event(&mut events).await.unwrap().unwrap(), TaskEvent::Accepted);
    let (aborted, released) = (task(1), TaskId { task: 1, ..task(1) });
    let request = EndTasksRequest { aborted: vec![aborted], released: vec![released] };
    let mut reader = cluster.fetch(1, 0);
    reader.next().await.unwrap().unwrap();
    cluster.client.end_tasks(&cluster.address, &request, WAIT).await.unwrap();
    // Of the one nothing more is heard, the other says how it ended.
    let Some(Ok(TaskEvent::Finished { task: ended, .. })) = event(&mut events).await else { panic!() };
    assert_eq!(ended, released);
    let error = loop {
        match tokio::time::timeout(WAIT, reader.next()).await.unwrap().expect("an error, not the end") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!((error.code, error.unread), (ErrorCode::Cancelled, None));
    assert_eq!(error.origin.map(|it| (it.stage, it.task, it.attempt)), Some((aborted.stage.0, 0, 0)));
    let left = |state| cluster.worker.list_tasks().tasks.iter().filter(|row| row.state == state).count();
    // The aborted one goes when its future is dropped.
    for _ in 0..3000 {
        if left(TaskState::Running) == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(left(TaskState::Running), 1);
    // Whoever comes late for what nobody needed finds an error and no end.
    let late = TaskAddress { task: released, worker: cluster.address.clone() };
    assert_eq!(all(cluster.client.fetch(late, 0, options(WAIT))).await.unwrap_err().code, ErrorCode::Cancelled);
    drop(events);
    cluster.assert_idle().await;
}

/// The first attempt of the task gives a batch of 1 and then no more, or never one; the second gives 2 and ends.
async fn twice(exchange: Arc<Exchange>) -> Result<(), WireError> {
    let TaskId { task, attempt, .. } = exchange.task();
    let array: ArrayRef = Arc::new(Int64Array::from(vec![i64::from(attempt) + 1; 10]));
    let batch = RecordBatch::try_from_iter([("a", array)]).unwrap();
    if attempt == 1 || task == 1 {
        exchange.push(0, batch).await?;
    }
    if attempt == 0 {
        std::future::pending::<()>().await;
    }
    Ok(())
}

#[tokio::test]
async fn readers_without_a_row_can_be_pointed_at_another_attempt() {
    let cluster = Cluster::start(None, twice).await;
    let mut both = request(1, 3);
    both.settings.fault_tolerance = true;
    both.stages[0].task_count = 2;
    let spec = |task, attempt| TaskSpec { task, attempt, splits: vec![] };
    both.stages[0].tasks = vec![spec(0, 0), spec(0, 1), spec(1, 0), spec(1, 1)];
    let events = cluster.submit(both).await.unwrap();
    let at = |task, attempt| {
        let task = TaskId { task, attempt, ..tests::task(1) };
        TaskAddress { task, worker: cluster.address.clone() }
    };
    let ask = async |task, to| {
        let request = RedirectRequest { task: at(task, 0).task, to };
        cluster.client.redirect(&cluster.address, &request, WAIT).await.unwrap()
    };
    for link in [ExchangeLink::Tcp, ExchangeLink::Uds] {
        let options = FetchOptions { link, ..options(WAIT) };
        // One waits already, one comes late, and where it goes shows in what it says of errors.
        let mut early = cluster.client.fetch(at(0, 0), 0, options);
        if link == ExchangeLink::Tcp {
            assert!(tokio::time::timeout(Duration::from_millis(100), early.next()).await.is_err(), "nothing is there");
            assert!(ask(0, None).await);
            assert!(ask(0, Some(at(0, 1))).await);
        }
        let late = cluster.client.fetch(at(0, 0), 0, options);
        for reader in [early, late] {
            let rows: Vec<RecordBatch> = reader.map(|it| it.map(|it| it.batch)).try_collect().await.unwrap();
            assert_eq!(rows.len(), 1);
            assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().value(0), 2);
        }
    }
    // It can be done once, and not where somebody has a row.
    assert!(!ask(0, Some(at(0, 1))).await && !ask(0, None).await);
    let mut reader = cluster.client.fetch(at(1, 0), 0, options(WAIT));
    reader.next().await.unwrap().unwrap();
    assert!(!ask(1, None).await && !ask(1, Some(at(1, 1))).await);
    assert!(poll!(reader.next()).is_pending(), "it reads on");
    let overtaken = |it: &&crate::messages::TaskRow| it.state == TaskState::Overtaken;
    let tasks = cluster.worker.list_tasks().tasks;
    assert_eq!(tasks.iter().filter(overtaken).map(|it| it.task).collect::<Vec<_>>(), [at(0, 0).task]);
    drop((events, reader));
    cluster.assert_idle().await;
}

#[tokio::test]
async fn a_deadline_ends_a_task() {
    let cluster = Cluster::start(None, endless).await;
    let mut events = cluster.submit(SubmitRequest { deadline_ms: 50, ..request(1, 1) }).await.unwrap();
    event(&mut events).await.unwrap().unwrap();
    let Some(Ok(TaskEvent::Failed { error, .. })) = event(&mut events).await else { panic!() };
    assert_eq!(error.code, ErrorCode::Timeout);
    assert_eq!(all(cluster.fetch(1, 0)).await.unwrap_err().code, ErrorCode::Timeout);
}

#[tokio::test]
async fn a_task_that_is_not_there_is_an_error_after_the_wait() {
    let cluster = Cluster::start(None, endless).await;
    let error = all(cluster.fetch(1, 0)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout);
    assert!(error.message.contains("within 200 ms"), "{error}");
}

#[tokio::test]
async fn another_run_of_a_worker_refuses() {
    let cluster = Cluster::start(None, endless).await;
    let refused = cluster.submit(SubmitRequest { worker: "w1-0".into(), ..request(1, 1) }).await;
    assert_eq!(refused.err().map(|error| (error.code, error.retryable)), Some((ErrorCode::WorkerLost, true)));
    let worker = WorkerAddress { node: "w1-0".into(), ..cluster.address.clone() };
    let rows = cluster.client.fetch(TaskAddress { task: task(1), worker }, 0, options(WAIT));
    assert_eq!(all(rows).await.unwrap_err().code, ErrorCode::WorkerLost);
}

#[tokio::test]
async fn the_secret_is_checked_on_every_call() {
    let cluster = Cluster::start(Some("s3cret"), endless).await;
    cluster.client.worker_info(&cluster.address, WAIT).await.unwrap();
    for wrong in [None, Some(""), Some("s3cre"), Some("s3crets"), Some("S3cret")] {
        let client = client(wrong);
        let code = |error: WireError| error.code;
        let info = client.worker_info(&cluster.address, WAIT).await.unwrap_err();
        assert_eq!(info.code, ErrorCode::AccessDenied, "{wrong:?}");
        let submitted = client.submit(&cluster.address, request(1, 1), WAIT).await;
        assert_eq!(submitted.err().map(code), Some(ErrorCode::AccessDenied), "{wrong:?}");
        let source = TaskAddress { task: task(1), worker: cluster.address.clone() };
        let fetched = all(client.fetch(source, 0, options(WAIT))).await;
        assert_eq!(fetched.err().map(code), Some(ErrorCode::AccessDenied), "{wrong:?}");
    }
    assert!(cluster.worker.list_tasks().tasks.is_empty());
}

#[tokio::test]
async fn an_unknown_action_is_refused() {
    let cluster = Cluster::start(None, endless).await;
    let error = cluster.client.call(&cluster.address, "sheaf.v1.Nonsense", Bytes::new(), WAIT).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownCommand);
}

#[tokio::test]
async fn nobody_at_an_address_is_a_lost_worker() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let worker = WorkerAddress { node: "w9-1".into(), host: "127.0.0.1".into(), port };
    let error = client(None).worker_info(&worker, WAIT).await.unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::WorkerLost, true));
    assert!(error.message.contains("w9-1"), "{error}");
}

/// How a connection comes to harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Cut,
    /// It stays open and says nothing.
    Freeze,
}

/// Passes bytes on, until it is told not to.
async fn proxy(target: u16, harm: Harm, mut now: oneshot::Receiver<()>) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let stop = CancellationToken::new();
        let mut connections = JoinSet::new();
        loop {
            let (mut near, _) = tokio::select! {
                accepted = listener.accept() => accepted.unwrap(),
                _ = &mut now => break,
            };
            let stop = stop.clone();
            connections.spawn(async move {
                let mut far = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    () = stop.cancelled() => if harm == Harm::Freeze {
                        std::future::pending::<()>().await;
                    },
                }
            });
        }
        stop.cancel();
        // All of them: a frozen one never ends.
        while connections.join_next().await.is_some() {}
    });
    (port, tasks)
}

async fn check_harm(harm: Harm) {
    let cluster = Cluster::start(None, endless).await;
    let (harm_now, now) = oneshot::channel();
    let (port, _proxy) = proxy(cluster.address.port, harm, now).await;
    let _events = cluster.submit(request(1, 1)).await.unwrap();
    let worker = WorkerAddress { port, ..cluster.address.clone() };
    let mut rows = client(None).fetch(TaskAddress { task: task(1), worker }, 0, options(WAIT));
    rows.next().await.unwrap().unwrap();
    harm_now.send(()).unwrap();
    let started = std::time::Instant::now();
    let error = all(rows).await.unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::WorkerLost, true), "{error}");
    assert!(error.message.contains("w1-1"), "{error}");
    eprintln!("noticed after {:?}", started.elapsed());
}

#[tokio::test]
async fn a_cut_stream_is_an_error_and_never_a_short_result() {
    check_harm(Harm::Cut).await;
}

#[tokio::test]
async fn a_frozen_worker_is_noticed() {
    check_harm(Harm::Freeze).await;
}

#[tokio::test]
async fn a_plan_of_any_size_and_an_error_of_any_length_arrive() {
    let cluster =
        Cluster::start(None, |_| async { Err(WireError::new(ErrorCode::OutOfRange, "ä".repeat(1 << 20))) }).await;
    let mut large = request(1, 1);
    large.stages[0].plan = vec![7; 64 << 20].into();
    let mut events = cluster.submit(large).await.unwrap();
    assert_eq!(event(&mut events).await, Some(Ok(TaskEvent::Accepted)));
    let error = all(cluster.fetch(1, 0)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::OutOfRange);
    assert_eq!(error.origin.expect("the task that failed").worker, "w1");
}

#[tokio::test]
async fn a_stream_without_its_end_mark_is_an_error() {
    let array: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let batch = RecordBatch::try_from_iter([("a", array)]).unwrap();
    let (mut encoder, schema) = encoding::Encoder::new(batch.schema_ref(), ExchangeCompression::Off).unwrap();
    let mut messages = vec![schema];
    messages.extend(encoder.encode(&batch).unwrap());
    let read = |messages: Vec<FlightData>| async {
        let worker = WorkerAddress { node: "w1".into(), ..Default::default() };
        let stream = RemoteStream::new(futures::stream::iter(messages.into_iter().map(Ok)).boxed(), worker);
        stream.map(|item| item.map(|it| it.batch)).collect::<Vec<_>>().await
    };
    let whole: Vec<_> = messages.iter().cloned().chain([encoding::end_mark()]).collect();
    assert_eq!(read(whole).await, vec![Ok(batch.clone())]);
    let worker = WorkerAddress { node: "w1".into(), ..Default::default() };
    let stream = RemoteStream::new(futures::stream::iter(messages.into_iter().map(Ok)).boxed(), worker);
    let items: Vec<_> = stream.take(2).collect().await;
    assert_eq!(items[0].as_ref().unwrap().batch, batch);
    assert_eq!(items[1].as_ref().unwrap_err().code, ErrorCode::WorkerLost);
}

#[tokio::test]
async fn streams_that_nobody_reads_do_not_stop_others() {
    const N_IDLE: u64 = 300;
    let cluster = Cluster::start(None, endless).await;
    let mut held = vec![];
    for sequence in 1..=N_IDLE {
        held.push((cluster.submit(request(sequence, 1)).await.unwrap(), cluster.fetch(sequence, 0)));
    }
    for (_, rows) in &mut held {
        // Opened, and then left alone with a full window.
        tokio::time::timeout(WAIT, rows.next()).await.unwrap().unwrap().unwrap();
    }
    let _events = cluster.submit(request(N_IDLE + 1, 1)).await.unwrap();
    let mut rows = cluster.fetch(N_IDLE + 1, 0);
    for _ in 0..200 {
        tokio::time::timeout(WAIT, rows.next()).await.unwrap().unwrap().unwrap();
    }
}
