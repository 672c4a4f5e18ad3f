//! The consuming end: starts the producers, reads what they make, and counts.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::select_all;
use sheaf_common::settings::{ExchangeCompression, ExchangeLink, Settings};
use sheaf_common::{QueryId, StageId, TaskId, WireError};
use sheaf_flight::messages::{StageSubmit, TaskAddress, TaskSpec};
use sheaf_flight::{
    ChannelResolver, ClusterSecret, FetchOptions, FlightClient, PooledChannels, SubmitRequest, WorkerAddress,
    WorkerChannel, WorkerState,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::super::cpu::process_time;
use super::producer::{CPU, NODE, Ready, Rows, address};
use super::{LinkKind, Run, Shape};
use crate::error::CliError;

/// No call and no run takes longer.
const DEADLINE: Duration = Duration::from_secs(300);
const STAGE: StageId = StageId(1);

/// One producer, and who reads from it.
pub struct Consumer {
    client: Arc<FlightClient>,
    fetch: FetchOptions,
    producer: WorkerAddress,
    ready: Ready,
    sequence: u64,
    /// Held: its end stops the producer.
    place: Place,
}

enum Place {
    Here { _worker: Arc<WorkerState> },
    Process { _child: Child },
}

impl Consumer {
    /// Starts a producer that holds `gib` GiB.
    pub async fn start(
        link: LinkKind,
        compression: ExchangeCompression,
        gib: f64,
        hash: bool,
    ) -> Result<Self, CliError> {
        let channels = Arc::new(PooledChannels::new(Handle::current()));
        let secret = format!("{:032x}", rand::random::<u128>());
        let resolver: Arc<dyn ChannelResolver> = match link {
            LinkKind::Http2 => Arc::new(WithoutLinks(PooledChannels::new(Handle::current()))),
            LinkKind::Tcp | LinkKind::Uds | LinkKind::Local => channels.clone(),
        };
        let client = FlightClient::new(resolver, Some(ClusterSecret::new(&secret)));
        let forced = match link {
            LinkKind::Tcp | LinkKind::Http2 => ExchangeLink::Tcp,
            LinkKind::Uds => ExchangeLink::Uds,
            LinkKind::Local => ExchangeLink::Local,
        };
        let fetch = FetchOptions { wait: DEADLINE, link: forced, compression };
        let (ready, place) = match link {
            LinkKind::Local => {
                let rows = Arc::new(Rows::generate(gib, hash)?);
                let ready = Ready { port: 0, rows: rows.rows, bytes: rows.bytes };
                let worker = rows.worker(0);
                channels.set_local(&worker);
                (ready, Place::Here { _worker: worker })
            }
            LinkKind::Tcp | LinkKind::Uds | LinkKind::Http2 => {
                let (ready, child) = start_process(gib, hash, &secret).await?;
                (ready, Place::Process { _child: child })
            }
        };
        Ok(Self { client: Arc::new(client), fetch, producer: address(ready.port), ready, sequence: 0, place })
    }

    /// Bytes that one run passes on, as they are in memory.
    pub fn arrow_bytes(&self) -> u64 {
        self.ready.bytes
    }

    /// Passes all rows on once.
    ///
    /// Errs when a task fails or not all of its rows arrive.
    pub async fn run(&mut self, shape: Shape) -> Result<Run, CliError> {
        self.sequence += 1;
        let query = QueryId::new(0, self.sequence);
        let cpu_before = self.cpu().await?;
        let started = Instant::now();
        let events = self.client.submit(&self.producer, submit(query, shape), DEADLINE).await?;
        let mut tasks = JoinSet::new();
        for partition in 0..shape.consumers {
            let streams = (0..shape.producers).map(|task| {
                let task = TaskId { query, stage: STAGE, task, attempt: 0 };
                let source = TaskAddress { task, worker: self.producer.clone() };
                self.client.fetch(source, partition as usize, self.fetch)
            });
            let mut stream = select_all(streams);
            tasks.spawn(async move {
                let (mut rows, mut bytes) = (0, 0);
                while let Some(received) = stream.next().await {
                    let received = received?;
                    rows += received.batch.num_rows() as u64;
                    bytes += received.bytes as u64;
                }
                Ok::<_, WireError>((rows, bytes))
            });
        }
        let (mut rows, mut wire_bytes) = (0, 0);
        let all = async {
            while let Some(joined) = tasks.join_next().await {
                let joined = joined.map_err(|error| CliError::Bench { what: "a run", error: error.into() })?;
                let (task_rows, task_bytes) = joined?;
                rows += task_rows;
                wire_bytes += task_bytes;
            }
            Ok::<_, CliError>(())
        };
        let late = || CliError::Deadline { what: "a run".to_owned(), deadline_s: DEADLINE.as_secs() };
        tokio::time::timeout(DEADLINE, all).await.map_err(|_| late())??;
        let wall = started.elapsed();
        let cpu = self.cpu().await? - cpu_before;
        drop(events);
        self.client.release(&self.producer, query, DEADLINE).await?;
        if rows != self.ready.rows {
            let text = format!("{rows} rows arrived, {} were sent", self.ready.rows);
            return Err(CliError::Bench { what: "a run", error: text.into() });
        }
        if let Place::Here { .. } = self.place {
            wire_bytes = 0;
        }
        Ok(Run { wall, cpu, wire_bytes })
    }

    /// Processor time of both ends.
    async fn cpu(&self) -> Result<Duration, CliError> {
        let own = process_time();
        if let Place::Here { .. } = self.place {
            return Ok(own);
        }
        let answer = self.client.call(&self.producer, CPU, Bytes::new(), DEADLINE).await?;
        let nanoseconds: Option<u64> = std::str::from_utf8(&answer).ok().and_then(|text| text.parse().ok());
        let text = "the processor time of the producing process cannot be read";
        let theirs = nanoseconds.ok_or_else(|| CliError::Bench { what: "a run", error: text.into() })?;
        Ok(own + Duration::from_nanos(theirs))
    }
}

/// Lets rows go over the channels of calls, as they do where workers cannot be connected to directly.
#[derive(Debug)]
struct WithoutLinks(PooledChannels);

#[async_trait]
impl ChannelResolver for WithoutLinks {
    async fn resolve(&self, worker: &WorkerAddress) -> Result<WorkerChannel, WireError> {
        self.0.resolve(worker).await
    }

    async fn connect(&self, worker: &WorkerAddress) -> Result<Channel, WireError> {
        self.0.connect(worker).await
    }
}

async fn start_process(gib: f64, hash: bool, secret: &str) -> Result<(Ready, Child), CliError> {
    let what = "starting the producing process";
    let failed = |error: std::io::Error| CliError::Bench { what, error: error.into() };
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["bench", "exchange-producer", "--gib", &gib.to_string()]);
    if hash {
        command.arg("--hash");
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().map_err(failed)?;
    let gone = || failed(std::io::ErrorKind::BrokenPipe.into());
    let mut stdin = child.stdin.take().ok_or_else(gone)?;
    stdin.write_all(format!("{secret}\n").as_bytes()).await.map_err(failed)?;
    stdin.flush().await.map_err(failed)?;
    // Its end would stop the producer.
    child.stdin = Some(stdin);
    let stdout = child.stdout.take().ok_or_else(gone)?;
    let mut line = String::new();
    let mut stdout = BufReader::new(stdout);
    let read = tokio::time::timeout(DEADLINE, stdout.read_line(&mut line)).await;
    let late = |_| CliError::Deadline { what: "the producing process".to_owned(), deadline_s: DEADLINE.as_secs() };
    read.map_err(late)?.map_err(failed)?;
    let ready = serde_json::from_str(&line).map_err(|error| failed(error.into()))?;
    Ok((ready, child))
}

fn submit(query: QueryId, shape: Shape) -> SubmitRequest {
    SubmitRequest {
        query,
        coordinator: "bench".to_owned(),
        worker: NODE.to_owned(),
        config: Vec::new(),
        // Rows are read once: none is kept.
        settings: Settings { fault_tolerance: false, ..Settings::default() },
        now_ns: 0,
        deadline_ms: DEADLINE.as_millis() as u64,
        stores: Vec::new(),
        stages: vec![StageSubmit {
            stage: STAGE,
            plan: Bytes::new(),
            output_partitions: shape.consumers,
            readers: 1,
            task_count: shape.producers,
            partitions_per_task: 1,
            inputs: Vec::new(),
            tasks: (0..shape.producers).map(|task| TaskSpec { task, attempt: 0, splits: Vec::new() }).collect(),
        }],
    }
}
