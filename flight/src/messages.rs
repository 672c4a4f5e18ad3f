//! What nodes say to one another besides rows: typed requests and answers, and the names of the actions that carry them.
//!
//! The types here are the ones that the rest of the engine uses. Their protobuf form stands in `messages/wire.rs`;
//! [`Message`] goes from one to the other. Plans travel in them as opaque bytes, made by [`crate::codec`].

mod admit;
mod wire;

use std::fmt;

use bytes::Bytes;
use sheaf_common::settings::{ExchangeCompression, Settings};
use sheaf_common::{ErrorCode, QueryId, StageId, TaskId, WireError};
use sheaf_planners::stage::TaskSplits;

use crate::report::TaskReport;

pub use admit::AdmitRequest;

/// Raised when a message changes in a way that an older node would misread. Nodes of two versions refuse each other.
pub const PROTOCOL_VERSION: u32 = 2;

/// The actions that every node answers. Others go to [`crate::service::NodeActions`].
pub mod action {
    /// [`super::SubmitRequest`] in, a stream of [`super::TaskEvent`] out: the query's lease on the worker.
    pub const SUBMIT_TASKS: &str = "sheaf.v1.SubmitTasks";
    /// [`super::AdmitRequest`] in, a stream of [`crate::admission::Standing`] out: the query's place on the worker.
    pub const ADMIT: &str = "sheaf.v1.Admit";
    /// [`super::QueryRequest`] in: the query's tasks are aborted, its buffers dropped, later requests for it refused.
    pub const CANCEL_QUERY: &str = "sheaf.v1.CancelQuery";
    /// [`super::QueryRequest`] in: as a cancel, but of a query that came to its end.
    pub const RELEASE: &str = "sheaf.v1.Release";
    /// [`super::QueryRequest`] in: rows have gone to the client; what the query's exchanges retain is given up.
    pub const END_RETENTION: &str = "sheaf.v1.EndRetention";
    /// [`super::EndTasksRequest`] in: these tasks end, whatever their siblings do.
    pub const END_TASKS: &str = "sheaf.v1.EndTasks";
    /// [`super::RedirectRequest`] in, [`super::RedirectAnswer`] out: readers of a task read another attempt of it.
    pub const REDIRECT_TASK: &str = "sheaf.v1.RedirectTask";
    /// Nothing in, [`super::WorkerInfo`] out.
    pub const WORKER_INFO: &str = "sheaf.v1.WorkerInfo";
    /// Nothing in, [`super::LinkOffer`] out.
    pub const OFFER_LINKS: &str = "sheaf.v1.OfferLinks";
    /// Nothing in, [`super::TaskList`] out.
    pub const LIST_TASKS: &str = "sheaf.v1.ListTasks";
}

/// A message with a protobuf form.
pub trait Message: Sized {
    fn encode(&self) -> Result<Bytes, WireError>;

    /// Errs when the bytes are no such message, or one of another protocol version.
    fn decode(bytes: &[u8]) -> Result<Self, WireError>;
}

/// Where a worker is reached, and which run of it is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct WorkerAddress {
    /// Unique among all nodes that ever lived: a worker started again at the same address is another one.
    /// Empty when it does not matter which run answers.
    pub node: String,
    pub host: String,
    pub port: u16,
}

impl fmt::Display for WorkerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where a task's output is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TaskAddress {
    pub task: TaskId,
    pub worker: WorkerAddress,
}

/// The producers of one network boundary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageInput {
    pub stage: StageId,
    /// By task index.
    pub tasks: Vec<TaskAddress>,
}

/// One task to run.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// Index within the stage.
    pub task: u32,
    pub attempt: u32,
    pub splits: Vec<TaskSplits>,
}

/// The tasks of one stage that one worker is to run, and what they have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct StageSubmit {
    pub stage: StageId,
    /// Plan and output, as [`crate::codec::encode_stage`] made them.
    pub plan: Bytes,
    /// Partitions of each task's exchange buffer: those of a hash output, else 1.
    pub output_partitions: u32,
    /// How often each partition is going to be read: by every consumer task of a broadcast, else once.
    pub readers: u32,
    /// Tasks of the whole stage, on all workers.
    pub task_count: u32,
    pub partitions_per_task: u32,
    pub inputs: Vec<StageInput>,
    pub tasks: Vec<TaskSpec>,
}

/// Asks one worker to run tasks of one query.
#[derive(Debug, Clone, PartialEq)]
pub struct SubmitRequest {
    pub query: QueryId,
    /// The coordinator's name, for `system.tasks` and for messages.
    pub coordinator: String,
    /// The run of the worker that is meant; another one refuses. Empty for whichever answers.
    pub worker: String,
    /// DataFusion's options that differ from their defaults, the time zone among them.
    pub config: Vec<(String, String)>,
    pub settings: Settings,
    /// The statement's `now()`, in nanoseconds since 1970 UTC.
    pub now_ns: i64,
    /// Milliseconds from now after which the tasks end with a timeout; 0 is no limit. A duration and not a point in
    /// time, since nodes need not agree on the time of day.
    pub deadline_ms: u64,
    /// Object stores that the plans read, each once.
    pub stores: Vec<StoreSpec>,
    /// Producers before their consumers.
    pub stages: Vec<StageSubmit>,
}

/// How to open an object store. Holds credentials, so that it shows only its name.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreSpec {
    /// What plans call it.
    pub url: String,
    /// Opaque here.
    pub definition: Bytes,
}

impl fmt::Debug for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSpec").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What becomes of submitted tasks.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskEvent {
    /// All tasks of the request are known to the worker: their output can be read from now on.
    Accepted,
    /// A task wrote its last row. Its output is held until the query is released.
    Finished { task: TaskId, report: Box<TaskReport> },
    /// A task ended with an error. Its consumers get the same error.
    Failed { task: TaskId, error: WireError },
}

/// Names a query; the body of a cancel, of a release and of an end of retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryRequest {
    pub query: QueryId,
}

/// Names tasks that are to end. Those that the worker does not have are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndTasksRequest {
    /// Their rows must not be used: who reads them gets an error.
    pub aborted: Vec<TaskId>,
    /// Nobody needs their rows any more. Those that still run say how they ended.
    pub released: Vec<TaskId>,
}

/// Asks for the readers of a task to read another attempt in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirectRequest {
    pub task: TaskId,
    /// Without one nothing is done, and the answer says what could be.
    pub to: Option<TaskAddress>,
}

/// Whether it was, or could be, done: nobody has read a row of the task, and it still ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedirectAnswer {
    pub is_possible: bool,
}

/// Names one partition of one task's output; what a Flight ticket holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTicket {
    pub task: TaskId,
    pub partition: u32,
    /// The run of the worker that is meant, as in [`SubmitRequest::worker`].
    pub worker: String,
    /// Milliseconds to wait for a task that the worker does not know yet.
    pub wait_ms: u64,
    pub compression: ExchangeCompression,
}

/// How the rows of a worker are fetched without HTTP/2.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkOffer {
    /// Shown at the start of each link. Drawn at each start of a worker.
    pub token: Bytes,
    /// The host that the worker runs on; empty where hosts have no names.
    pub host: String,
    /// Path of its Unix socket; empty where there is none.
    pub socket: String,
}

impl fmt::Debug for LinkOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token is a secret.
        f.debug_struct("LinkOffer").field("host", &self.host).field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// What a worker says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerInfo {
    pub node: String,
    /// Its build ([`sheaf_common::build`]).
    pub version: String,
    pub cores: u32,
    /// Tasks that are known now, in whatever state.
    pub tasks: u32,
    /// Queries that hold a lease now.
    pub queries: u32,
    /// Bytes that exchange buffers hold, in memory and on disk.
    pub exchange_bytes: u64,
    /// Bytes that the memory pool has given out.
    pub reserved_bytes: u64,
    /// What it may give out; 0 where there is no limit.
    pub memory_limit_bytes: u64,
    /// Bytes that operators and exchange buffers have on disk.
    pub spill_bytes: u64,
    /// When it began, in milliseconds since 1970 UTC.
    pub started_ms: u64,
    /// It takes no more queries.
    pub draining: bool,
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Accepted, not started.
    Waiting,
    Running,
    /// Its output is held for its consumers.
    Finished,
    Failed,
    /// Another attempt was faster, and is read in its place.
    Overtaken,
}

impl TaskState {
    /// The word that `system.tasks` shows.
    pub fn name(self) -> &'static str {
        match self {
            TaskState::Waiting => "waiting",
            TaskState::Running => "running",
            TaskState::Finished => "finished",
            TaskState::Failed => "failed",
            TaskState::Overtaken => "overtaken",
        }
    }
}

/// One row of `system.tasks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRow {
    pub task: TaskId,
    pub state: TaskState,
    pub coordinator: String,
    pub output_rows: u64,
    /// Bytes of its output that are held.
    pub buffered_bytes: u64,
    /// Milliseconds since 1970 UTC.
    pub started_ms: u64,
}

/// The answer to [`action::LIST_TASKS`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskList {
    pub tasks: Vec<TaskRow>,
}

fn malformed(what: &str, detail: impl fmt::Display) -> WireError {
    WireError::new(ErrorCode::InvalidArgument, format!("malformed {what} message: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::OperatorReport;
    use datafusion::common::ScalarValue;
    use sheaf_planners::data_file::{DeletedRows, LoggedFile};
    use sheaf_planners::stage::{FileSplit, Split};

    fn check<M: Message + PartialEq + fmt::Debug>(message: &M) {
        let bytes = message.encode().unwrap();
        assert_eq!(&M::decode(&bytes).unwrap(), message);
    }

    fn task() -> TaskId {
        TaskId { query: QueryId::new(3, 9), stage: StageId(2), task: 1, attempt: 4 }
    }

    fn request() -> SubmitRequest {
        let worker = WorkerAddress { node: "w1-77".into(), host: "::1".into(), port: 9090 };
        let mut settings = Settings::default();
        settings.set("batch_size", "17").unwrap();
        let file = FileSplit {
            path: "data/a b.parquet".into(),
            size: 1 << 40,
            modified_ms: -5,
            etag: Some("e".into()),
            range: Some((4, 99)),
            partition_values: vec![ScalarValue::from("x"), ScalarValue::Int64(None)],
            weight: 12,
            logged: None,
        };
        let deleted = DeletedRows::from_positions(9, [0, 3, 4]).unwrap();
        let logged = FileSplit { logged: Some(LoggedFile { deleted: Some(deleted) }), ..file.clone() };
        let whole_file =
            FileSplit { range: None, etag: None, logged: Some(LoggedFile { deleted: None }), ..file.clone() };
        SubmitRequest {
            query: QueryId::new(3, 9),
            coordinator: "c".into(),
            worker: "w".into(),
            config: vec![("datafusion.execution.time_zone".into(), "Asia/Tokyo".into())],
            settings,
            now_ns: -1,
            deadline_ms: 5,
            stores: vec![StoreSpec { url: "s3://b".into(), definition: Bytes::from_static(b"hush") }],
            stages: vec![StageSubmit {
                stage: StageId(2),
                plan: Bytes::from_static(b"plan"),
                output_partitions: 8,
                readers: 3,
                task_count: 2,
                partitions_per_task: 4,
                inputs: vec![StageInput { stage: StageId(1), tasks: vec![TaskAddress { task: task(), worker }] }],
                tasks: vec![TaskSpec {
                    task: 1,
                    attempt: 0,
                    splits: vec![TaskSplits {
                        leaf: 7,
                        partitions: vec![
                            vec![],
                            vec![Split::Whole, Split::Share],
                            vec![Split::Rows { start: 3, end: u64::MAX, weight: 1 }, Split::File(file.clone())],
                            vec![Split::Files(vec![file, logged, whole_file])],
                        ],
                    }],
                }],
            }],
        }
    }

    #[test]
    fn messages_survive_the_wire() {
        check(&request());
        check(&TaskEvent::Accepted);
        let error = WireError { unread: Some(task()), ..WireError::new(ErrorCode::DivisionByZero, "divide by zero") };
        check(&TaskEvent::Failed { task: task(), error });
        let operator = OperatorReport { name: "FilterExec".into(), output_rows: 5, ..Default::default() };
        let report = TaskReport { output_rows: 5, operators: vec![operator], ..Default::default() };
        check(&TaskEvent::Finished { task: task(), report: Box::new(report) });
        check(&QueryRequest { query: QueryId(u64::MAX) });
        let to = TaskAddress { task: task(), worker: WorkerAddress { node: "w".into(), host: "h".into(), port: 1 } };
        check(&RedirectRequest { task: task(), to: Some(to) });
        check(&RedirectRequest { task: task(), to: None });
        for is_possible in [true, false] {
            check(&RedirectAnswer { is_possible });
        }
        check(&EndTasksRequest { aborted: vec![task()], released: vec![TaskId { attempt: 0, ..task() }, task()] });
        for compression in [ExchangeCompression::Off, ExchangeCompression::Lz4, ExchangeCompression::Zstd] {
            check(&PartitionTicket { task: task(), partition: 3, worker: "w".into(), wait_ms: 1, compression });
        }
        check(&LinkOffer { token: Bytes::from_static(b"t"), host: "h".into(), socket: "/s".into() });
        check(&WorkerInfo { node: "n".into(), cores: 3, reserved_bytes: 1 << 50, ..Default::default() });
        for state in
            [TaskState::Waiting, TaskState::Running, TaskState::Finished, TaskState::Failed, TaskState::Overtaken]
        {
            let row = TaskRow {
                task: task(),
                state,
                coordinator: "c".into(),
                output_rows: 1,
                buffered_bytes: 2,
                started_ms: 3,
            };
            check(&TaskList { tasks: vec![row] });
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(SubmitRequest::decode(b"\xff\xff").unwrap_err().code, ErrorCode::InvalidArgument);
        // An empty message has version 0.
        let error = SubmitRequest::decode(b"").unwrap_err();
        assert!(error.message.contains("protocol version 0"), "{error}");
    }

    #[test]
    fn ipv6_hosts_are_bracketed() {
        let address = WorkerAddress { node: String::new(), host: "::1".into(), port: 9 };
        assert_eq!(address.to_string(), "[::1]:9");
    }
}
