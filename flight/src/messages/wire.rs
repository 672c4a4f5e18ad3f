//! The protobuf form of the messages, written by hand: the build needs no protobuf compiler.
//!
//! Field numbers are never used again for something else. Every message that opens an exchange carries the version.

use bytes::Bytes;
use datafusion::common::ScalarValue;
use prost::Message as _;
use sheaf_common::settings::{ExchangeCompression, Settings};
use sheaf_common::{QueryId, StageId, TaskId, WireError};
use sheaf_planners::data_file::{DeletedRows, LoggedFile};
use sheaf_planners::stage::{FileSplit, Split, TaskSplits};

use super::{Message, PROTOCOL_VERSION, malformed};

#[derive(Clone, PartialEq, prost::Message)]
struct TaskRef {
    #[prost(fixed64, tag = "1")]
    query: u64,
    #[prost(uint32, tag = "2")]
    stage: u32,
    #[prost(uint32, tag = "3")]
    task: u32,
    #[prost(uint32, tag = "4")]
    attempt: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Address {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(string, tag = "2")]
    host: String,
    #[prost(uint32, tag = "3")]
    port: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskAddress {
    #[prost(message, optional, tag = "1")]
    task: Option<TaskRef>,
    #[prost(message, optional, tag = "2")]
    worker: Option<Address>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StageInput {
    #[prost(uint32, tag = "1")]
    stage: u32,
    #[prost(message, repeated, tag = "2")]
    tasks: Vec<TaskAddress>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct File {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(sint64, tag = "3")]
    modified_ms: i64,
    #[prost(string, optional, tag = "4")]
    etag: Option<String>,
    /// Both or none: the byte range.
    #[prost(uint64, optional, tag = "5")]
    start: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    end: Option<u64>,
    #[prost(message, repeated, tag = "7")]
    partition_values: Vec<datafusion_proto::protobuf::ScalarValue>,
    #[prost(uint64, tag = "8")]
    weight: u64,
    #[prost(bool, tag = "9")]
    is_logged: bool,
    /// As `DeletedRows::to_numbers` has them; nothing when no row is deleted.
    #[prost(uint64, repeated, tag = "10")]
    deleted: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FileList {
    #[prost(message, repeated, tag = "1")]
    files: Vec<File>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Rows {
    #[prost(uint64, tag = "1")]
    start: u64,
    #[prost(uint64, tag = "2")]
    end: u64,
    #[prost(uint64, tag = "3")]
    weight: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
struct Nothing {}

#[derive(Clone, PartialEq, prost::Oneof)]
enum SplitKind {
    #[prost(message, tag = "1")]
    File(File),
    #[prost(message, tag = "2")]
    Rows(Rows),
    #[prost(message, tag = "3")]
    Whole(Nothing),
    #[prost(message, tag = "4")]
    Files(FileList),
    #[prost(message, tag = "5")]
    Share(Nothing),
}

#[derive(Clone, PartialEq, prost::Message)]
struct SplitMessage {
    #[prost(oneof = "SplitKind", tags = "1, 2, 3, 4, 5")]
    kind: Option<SplitKind>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SplitList {
    #[prost(message, repeated, tag = "1")]
    splits: Vec<SplitMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LeafSplits {
    #[prost(uint64, tag = "1")]
    leaf: u64,
    #[prost(message, repeated, tag = "2")]
    partitions: Vec<SplitList>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskSpec {
    #[prost(uint32, tag = "1")]
    task: u32,
    #[prost(uint32, tag = "2")]
    attempt: u32,
    #[prost(message, repeated, tag = "3")]
    splits: Vec<LeafSplits>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StageSubmit {
    #[prost(uint32, tag = "1")]
    stage: u32,
    #[prost(bytes = "bytes", tag = "2")]
    plan: Bytes,
    #[prost(uint32, tag = "3")]
    output_partitions: u32,
    #[prost(uint32, tag = "4")]
    readers: u32,
    #[prost(uint32, tag = "5")]
    task_count: u32,
    #[prost(uint32, tag = "6")]
    partitions_per_task: u32,
    #[prost(message, repeated, tag = "7")]
    inputs: Vec<StageInput>,
    #[prost(message, repeated, tag = "8")]
    tasks: Vec<TaskSpec>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SubmitRequest {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(fixed64, tag = "2")]
    query: u64,
    #[prost(string, tag = "3")]
    coordinator: String,
    #[prost(string, tag = "4")]
    worker: String,
    #[prost(message, repeated, tag = "5")]
    config: Vec<KeyValue>,
    #[prost(message, repeated, tag = "6")]
    settings: Vec<KeyValue>,
    #[prost(sint64, tag = "7")]
    now_ns: i64,
    #[prost(uint64, tag = "8")]
    deadline_ms: u64,
    #[prost(message, repeated, tag = "9")]
    stages: Vec<StageSubmit>,
    #[prost(message, repeated, tag = "10")]
    stores: Vec<StoreSpec>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoreSpec {
    #[prost(string, tag = "1")]
    url: String,
    #[prost(bytes = "bytes", tag = "2")]
    definition: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Finished {
    #[prost(message, optional, tag = "1")]
    task: Option<TaskRef>,
    /// JSON: reports are for people and grow new members.
    #[prost(bytes = "bytes", tag = "2")]
    report: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Failed {
    #[prost(message, optional, tag = "1")]
    task: Option<TaskRef>,
    #[prost(bytes = "bytes", tag = "2")]
    error: Bytes,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Event {
    #[prost(message, tag = "2")]
    Accepted(Nothing),
    #[prost(message, tag = "3")]
    Finished(Finished),
    #[prost(message, tag = "4")]
    Failed(Failed),
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskEvent {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(oneof = "Event", tags = "2, 3, 4")]
    event: Option<Event>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct QueryRequest {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(fixed64, tag = "2")]
    query: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EndTasksRequest {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, repeated, tag = "2")]
    aborted: Vec<TaskRef>,
    #[prost(message, repeated, tag = "3")]
    released: Vec<TaskRef>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RedirectRequest {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, optional, tag = "2")]
    task: Option<TaskRef>,
    #[prost(message, optional, tag = "3")]
    to: Option<TaskAddress>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RedirectAnswer {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bool, tag = "2")]
    is_possible: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PartitionTicket {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, optional, tag = "2")]
    task: Option<TaskRef>,
    #[prost(uint32, tag = "3")]
    partition: u32,
    #[prost(string, tag = "4")]
    worker: String,
    #[prost(uint64, tag = "5")]
    wait_ms: u64,
    #[prost(uint32, tag = "6")]
    compression: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinkOffer {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "bytes", tag = "2")]
    token: Bytes,
    #[prost(string, tag = "3")]
    host: String,
    #[prost(string, tag = "4")]
    socket: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WorkerInfo {
    #[prost(uint32, tag = "1")]
    protocol: u32,
    #[prost(string, tag = "2")]
    node: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(uint32, tag = "4")]
    cores: u32,
    #[prost(uint32, tag = "5")]
    tasks: u32,
    #[prost(uint32, tag = "6")]
    queries: u32,
    #[prost(uint64, tag = "7")]
    exchange_bytes: u64,
    #[prost(uint64, tag = "8")]
    reserved_bytes: u64,
    #[prost(uint64, tag = "9")]
    memory_limit_bytes: u64,
    #[prost(uint64, tag = "10")]
    spill_bytes: u64,
    #[prost(uint64, tag = "11")]
    started_ms: u64,
    #[prost(bool, tag = "12")]
    draining: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, prost::Enumeration)]
#[repr(i32)]
enum State {
    Unknown = 0,
    Waiting = 1,
    Running = 2,
    Finished = 3,
    Failed = 4,
    Overtaken = 5,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskRow {
    #[prost(message, optional, tag = "1")]
    task: Option<TaskRef>,
    #[prost(enumeration = "State", tag = "2")]
    state: i32,
    #[prost(string, tag = "3")]
    coordinator: String,
    #[prost(uint64, tag = "4")]
    output_rows: u64,
    #[prost(uint64, tag = "5")]
    buffered_bytes: u64,
    #[prost(uint64, tag = "6")]
    started_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskList {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, repeated, tag = "2")]
    tasks: Vec<TaskRow>,
}

pub(super) fn read<M: prost::Message + Default>(what: &str, bytes: &[u8]) -> Result<M, WireError> {
    M::decode(bytes).map_err(|error| malformed(what, error))
}

/// By their number on the wire.
const COMPRESSIONS: [ExchangeCompression; 3] =
    [ExchangeCompression::Off, ExchangeCompression::Lz4, ExchangeCompression::Zstd];

pub(super) fn check_version(what: &str, version: u32) -> Result<(), WireError> {
    if version == PROTOCOL_VERSION {
        return Ok(());
    }
    Err(malformed(what, format!("its protocol version {version} is not {PROTOCOL_VERSION}, which this node speaks")))
}

pub(super) fn required<T>(what: &str, field: &str, value: Option<T>) -> Result<T, WireError> {
    value.ok_or_else(|| malformed(what, format!("no {field}")))
}

impl From<TaskId> for TaskRef {
    fn from(id: TaskId) -> Self {
        Self { query: id.query.0, stage: id.stage.0, task: id.task, attempt: id.attempt }
    }
}

impl From<TaskRef> for TaskId {
    fn from(id: TaskRef) -> Self {
        Self { query: QueryId(id.query), stage: StageId(id.stage), task: id.task, attempt: id.attempt }
    }
}

fn key_values<K: Into<String>>(pairs: impl IntoIterator<Item = (K, String)>) -> Vec<KeyValue> {
    pairs.into_iter().map(|(key, value)| KeyValue { key: key.into(), value }).collect()
}

fn file_to_wire(file: &FileSplit) -> Result<File, WireError> {
    let values: Result<Vec<_>, _> = file.partition_values.iter().map(TryInto::try_into).collect();
    Ok(File {
        path: file.path.clone(),
        size: file.size,
        modified_ms: file.modified_ms,
        etag: file.etag.clone(),
        start: file.range.map(|range| range.0),
        end: file.range.map(|range| range.1),
        partition_values: values.map_err(|error| malformed("split", error))?,
        weight: file.weight,
        is_logged: file.logged.is_some(),
        deleted: file.logged.iter().filter_map(|it| it.deleted.as_ref()).flat_map(DeletedRows::to_numbers).collect(),
    })
}

fn file_from_wire(file: File) -> Result<FileSplit, WireError> {
    let values: Result<Vec<ScalarValue>, _> = file.partition_values.iter().map(TryInto::try_into).collect();
    let deleted = match file.deleted.as_slice() {
        [] => None,
        numbers => Some(DeletedRows::from_numbers(numbers).ok_or_else(|| malformed("split", "deleted rows"))?),
    };
    Ok(FileSplit {
        path: file.path,
        size: file.size,
        modified_ms: file.modified_ms,
        etag: file.etag,
        range: file.start.zip(file.end),
        partition_values: values.map_err(|error| malformed("split", error))?,
        weight: file.weight,
        logged: file.is_logged.then_some(LoggedFile { deleted }),
    })
}

fn split_to_wire(split: &Split) -> Result<SplitMessage, WireError> {
    let kind = match split {
        Split::File(file) => SplitKind::File(file_to_wire(file)?),
        Split::Files(files) => {
            SplitKind::Files(FileList { files: files.iter().map(file_to_wire).collect::<Result<_, _>>()? })
        }
        Split::Rows { start, end, weight } => SplitKind::Rows(Rows { start: *start, end: *end, weight: *weight }),
        Split::Whole => SplitKind::Whole(Nothing {}),
        Split::Share => SplitKind::Share(Nothing {}),
    };
    Ok(SplitMessage { kind: Some(kind) })
}

fn split_from_wire(split: SplitMessage) -> Result<Split, WireError> {
    Ok(match required("split", "kind", split.kind)? {
        SplitKind::File(file) => Split::File(file_from_wire(file)?),
        SplitKind::Files(list) => Split::Files(list.files.into_iter().map(file_from_wire).collect::<Result<_, _>>()?),
        SplitKind::Rows(rows) => Split::Rows { start: rows.start, end: rows.end, weight: rows.weight },
        SplitKind::Whole(Nothing {}) => Split::Whole,
        SplitKind::Share(Nothing {}) => Split::Share,
    })
}

fn leaf_to_wire(leaf: &TaskSplits) -> Result<LeafSplits, WireError> {
    let partitions = leaf.partitions.iter().map(|splits| {
        let splits = splits.iter().map(split_to_wire).collect::<Result<_, _>>()?;
        Ok(SplitList { splits })
    });
    Ok(LeafSplits { leaf: leaf.leaf as u64, partitions: partitions.collect::<Result<_, WireError>>()? })
}

fn leaf_from_wire(leaf: LeafSplits) -> Result<TaskSplits, WireError> {
    let partitions = leaf.partitions.into_iter().map(|list| list.splits.into_iter().map(split_from_wire).collect());
    Ok(TaskSplits { leaf: leaf.leaf as usize, partitions: partitions.collect::<Result<_, WireError>>()? })
}

impl From<&super::TaskAddress> for TaskAddress {
    fn from(address: &super::TaskAddress) -> Self {
        let worker = &address.worker;
        Self {
            task: Some(address.task.into()),
            worker: Some(Address {
                node: worker.node.clone(),
                host: worker.host.clone(),
                port: u32::from(worker.port),
            }),
        }
    }
}

impl TryFrom<TaskAddress> for super::TaskAddress {
    type Error = WireError;

    fn try_from(address: TaskAddress) -> Result<Self, WireError> {
        const WHAT: &str = "task address";
        let worker = required(WHAT, "worker", address.worker)?;
        Ok(Self {
            task: required(WHAT, "task", address.task)?.into(),
            worker: super::WorkerAddress {
                node: worker.node,
                host: worker.host,
                port: u16::try_from(worker.port).map_err(|error| malformed(WHAT, error))?,
            },
        })
    }
}

impl TryFrom<&super::StageSubmit> for StageSubmit {
    type Error = WireError;

    fn try_from(stage: &super::StageSubmit) -> Result<Self, WireError> {
        let inputs = stage
            .inputs
            .iter()
            .map(|input| StageInput { stage: input.stage.0, tasks: input.tasks.iter().map(Into::into).collect() });
        let tasks = stage.tasks.iter().map(|task| {
            let splits = task.splits.iter().map(leaf_to_wire).collect::<Result<_, _>>()?;
            Ok(TaskSpec { task: task.task, attempt: task.attempt, splits })
        });
        Ok(Self {
            stage: stage.stage.0,
            plan: stage.plan.clone(),
            output_partitions: stage.output_partitions,
            readers: stage.readers,
            task_count: stage.task_count,
            partitions_per_task: stage.partitions_per_task,
            inputs: inputs.collect(),
            tasks: tasks.collect::<Result<_, WireError>>()?,
        })
    }
}

impl TryFrom<StageSubmit> for super::StageSubmit {
    type Error = WireError;

    fn try_from(stage: StageSubmit) -> Result<Self, WireError> {
        let inputs = stage.inputs.into_iter().map(|input| {
            let tasks = input.tasks.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
            Ok(super::StageInput { stage: StageId(input.stage), tasks })
        });
        let tasks = stage.tasks.into_iter().map(|task| {
            let splits = task.splits.into_iter().map(leaf_from_wire).collect::<Result<_, _>>()?;
            Ok(super::TaskSpec { task: task.task, attempt: task.attempt, splits })
        });
        Ok(Self {
            stage: StageId(stage.stage),
            plan: stage.plan,
            output_partitions: stage.output_partitions,
            readers: stage.readers,
            task_count: stage.task_count,
            partitions_per_task: stage.partitions_per_task,
            inputs: inputs.collect::<Result<_, WireError>>()?,
            tasks: tasks.collect::<Result<_, WireError>>()?,
        })
    }
}

impl Message for super::SubmitRequest {
    fn encode(&self) -> Result<Bytes, WireError> {
        let message = SubmitRequest {
            version: PROTOCOL_VERSION,
            query: self.query.0,
            coordinator: self.coordinator.clone(),
            worker: self.worker.clone(),
            config: key_values(self.config.iter().cloned()),
            settings: key_values(self.settings.rows().into_iter().map(|row| (row.name, row.value))),
            now_ns: self.now_ns,
            deadline_ms: self.deadline_ms,
            stores: self
                .stores
                .iter()
                .map(|it| StoreSpec { url: it.url.clone(), definition: it.definition.clone() })
                .collect(),
            stages: self.stages.iter().map(TryInto::try_into).collect::<Result<_, WireError>>()?,
        };
        Ok(message.encode_to_vec().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        const WHAT: &str = "submit";
        let message: SubmitRequest = read(WHAT, bytes)?;
        check_version(WHAT, message.version)?;
        let mut settings = Settings::default();
        for KeyValue { key, value } in &message.settings {
            settings.set(key, value).map_err(|error| malformed(WHAT, error))?;
        }
        Ok(Self {
            query: QueryId(message.query),
            coordinator: message.coordinator,
            worker: message.worker,
            config: message.config.into_iter().map(|it| (it.key, it.value)).collect(),
            settings,
            now_ns: message.now_ns,
            deadline_ms: message.deadline_ms,
            stores: message
                .stores
                .into_iter()
                .map(|it| super::StoreSpec { url: it.url, definition: it.definition })
                .collect(),
            stages: message.stages.into_iter().map(TryInto::try_into).collect::<Result<_, WireError>>()?,
        })
    }
}

impl Message for super::TaskEvent {
    fn encode(&self) -> Result<Bytes, WireError> {
        const WHAT: &str = "task event";
        let event = match self {
            Self::Accepted => Event::Accepted(Nothing {}),
            Self::Finished { task, report } => Event::Finished(Finished {
                task: Some((*task).into()),
                report: serde_json::to_vec(report).map_err(|error| malformed(WHAT, error))?.into(),
            }),
            Self::Failed { task, error } => Event::Failed(Failed {
                task: Some((*task).into()),
                error: serde_json::to_vec(error).map_err(|error| malformed(WHAT, error))?.into(),
            }),
        };
        Ok(TaskEvent { version: PROTOCOL_VERSION, event: Some(event) }.encode_to_vec().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        const WHAT: &str = "task event";
        let message: TaskEvent = read(WHAT, bytes)?;
        check_version(WHAT, message.version)?;
        Ok(match required(WHAT, "event", message.event)? {
            Event::Accepted(Nothing {}) => Self::Accepted,
            Event::Finished(finished) => Self::Finished {
                task: required(WHAT, "task", finished.task)?.into(),
                report: serde_json::from_slice(&finished.report).map_err(|error| malformed(WHAT, error))?,
            },
            Event::Failed(failed) => Self::Failed {
                task: required(WHAT, "task", failed.task)?.into(),
                error: serde_json::from_slice(&failed.error).map_err(|error| malformed(WHAT, error))?,
            },
        })
    }
}

impl Message for super::QueryRequest {
    fn encode(&self) -> Result<Bytes, WireError> {
        Ok(QueryRequest { version: PROTOCOL_VERSION, query: self.query.0 }.encode_to_vec().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let message: QueryRequest = read("query", bytes)?;
        check_version("query", message.version)?;
        Ok(Self { query: QueryId(message.query) })
    }
}

impl Message for super::EndTasksRequest {
    fn encode(&self) -> Result<Bytes, WireError> {
        let refs = |tasks: &[TaskId]| tasks.iter().copied().map(Into::into).collect();
        let (aborted, released) = (refs(&self.aborted), refs(&self.released));
        Ok(EndTasksRequest { version: PROTOCOL_VERSION, aborted, released }.encode_to_vec().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let message: EndTasksRequest = read("end of tasks", bytes)?;
        check_version("end of tasks", message.version)?;
        let ids = |tasks: Vec<TaskRef>| tasks.into_iter().map(Into::into).collect();
        Ok(Self { aborted: ids(message.aborted), released: ids(message.released) })
    }
}

impl Message for super::RedirectRequest {
    fn encode(&self) -> Result<Bytes, WireError> {
        let (task, to) = (Some(self.task.into()), self.to.as_ref().map(Into::into));
        Ok(RedirectRequest { version: PROTOCOL_VERSION, task, to }.encode_to_vec().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        const WHAT: &str = "redirect";
        let message: RedirectRequest = read(WHAT, bytes)?;
        check_version(WHAT, message.version)?;
        let to = message.to.map(TryInto::try_into).transpose()?;
        Ok(Self { task: required(WHAT, "task", message.task)?.into(), to })
    }
}

impl Message for super::RedirectAnswer {
    fn encode(&self) -> Result<Bytes, WireError> {
        let message = RedirectAnswer { version: PROTOCOL_VERSION, is_possible: self.is_possible };
        Ok(message.encode_to_vec().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let message: RedirectAnswer = read("answer to a redirect", bytes)?;
        check_version("answer to a redirect", message.version)?;
        Ok(Self { is_possible: message.is_possible })
    }
}

impl Message for super::PartitionTicket {
    fn encode(&self) -> Result<Bytes, WireError> {
        let message = PartitionTicket {
            version: PROTOCOL_VERSION,
            task: Some(self.task.into()),
            partition: self.partition,
            worker: self.worker.clone(),
            wait_ms: self.wait_ms,
            compression: COMPRESSIONS.iter().position(|it| *it == self.compression).unwrap_or_default() as u32,
        };
        Ok(message.encode_to_vec().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let message: PartitionTicket = read("ticket", bytes)?;
        check_version("ticket", message.version)?;
        let compression = COMPRESSIONS.get(message.compression as usize).copied();
        Ok(Self {
            task: required("ticket", "task", message.task)?.into(),
            partition: message.partition,
            worker: message.worker,
            wait_ms: message.wait_ms,
            compression: required("ticket", "known compression", compression)?,
        })
    }
}

impl Message for super::LinkOffer {
    fn encode(&self) -> Result<Bytes, WireError> {
        let message = LinkOffer {
            version: PROTOCOL_VERSION,
            token: self.token.clone(),
            host: self.host.clone(),
            socket: self.socket.clone(),
        };
        Ok(message.encode_to_vec().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let message: LinkOffer = read("link offer", bytes)?;
        check_version("link offer", message.version)?;
        Ok(Self { token: message.token, host: message.host, socket: message.socket })
    }
}

impl Message for super::WorkerInfo {
    fn encode(&self) -> Result<Bytes, WireError> {
        let message = WorkerInfo {
            protocol: PROTOCOL_VERSION,
            node: self.node.clone(),
            version: self.version.clone(),
            cores: self.cores,
            tasks: self.tasks,
            queries: self.queries,
            exchange_bytes: self.exchange_bytes,
            reserved_bytes: self.reserved_bytes,
            memory_limit_bytes: self.memory_limit_bytes,
            spill_bytes: self.spill_bytes,
            started_ms: self.started_ms,
            draining: self.draining,
        };
        Ok(message.encode_to_vec().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        // Of whatever version: nodes of two builds ask each other who they are. Fields are only ever added.
        let message: WorkerInfo = read("worker info", bytes)?;
        Ok(Self {
            node: message.node,
            version: message.version,
            cores: message.cores,
            tasks: message.tasks,
            queries: message.queries,
            exchange_bytes: message.exchange_bytes,
            reserved_bytes: message.reserved_bytes,
            memory_limit_bytes: message.memory_limit_bytes,
            spill_bytes: message.spill_bytes,
            started_ms: message.started_ms,
            draining: message.draining,
        })
    }
}

impl Message for super::TaskList {
    fn encode(&self) -> Result<Bytes, WireError> {
        let tasks = self.tasks.iter().map(|row| TaskRow {
            task: Some(row.task.into()),
            state: match row.state {
                super::TaskState::Waiting => State::Waiting,
                super::TaskState::Running => State::Running,
                super::TaskState::Finished => State::Finished,
                super::TaskState::Failed => State::Failed,
                super::TaskState::Overtaken => State::Overtaken,
            } as i32,
            coordinator: row.coordinator.clone(),
            output_rows: row.output_rows,
            buffered_bytes: row.buffered_bytes,
            started_ms: row.started_ms,
        });
        Ok(TaskList { version: PROTOCOL_VERSION, tasks: tasks.collect() }.encode_to_vec().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        const WHAT: &str = "task list";
        let message: TaskList = read(WHAT, bytes)?;
        check_version(WHAT, message.version)?;
        let tasks = message.tasks.into_iter().map(|row| {
            let state = match row.state() {
                State::Unknown => return Err(malformed(WHAT, "no state")),
                State::Waiting => super::TaskState::Waiting,
                State::Running => super::TaskState::Running,
                State::Finished => super::TaskState::Finished,
                State::Failed => super::TaskState::Failed,
                State::Overtaken => super::TaskState::Overtaken,
            };
            Ok(super::TaskRow {
                task: required(WHAT, "task", row.task)?.into(),
                state,
                coordinator: row.coordinator,
                output_rows: row.output_rows,
                buffered_bytes: row.buffered_bytes,
                started_ms: row.started_ms,
            })
        });
        Ok(Self { tasks: tasks.collect::<Result<_, _>>()? })
    }
}
