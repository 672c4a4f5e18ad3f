//! The producing end: a worker whose tasks push batches that are held in memory.

use std::io::{BufRead, Write};
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use clap::Args;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_expr::expressions::col;
use serde::{Deserialize, Serialize};
use sheaf_common::{ErrorCode, WireError};
use sheaf_flight::service::unknown;
use sheaf_flight::worker::TaskStart;
use sheaf_flight::{
    ClusterSecret, LinkSocket, NodeActions, NodeService, TaskReport, TaskRunner, WorkerAddress, WorkerOptions,
    WorkerState, encoding, sink,
};
use sheaf_planners::generator::TpchTable;
use sheaf_planners::stage::StageOutput;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::super::cpu::process_time;
use crate::error::CliError;

/// Tells the processor time of the process, in nanoseconds, as text.
pub const CPU: &str = "sheaf.bench.Cpu";
/// The producing worker's id.
pub const NODE: &str = "bench-1";
const BATCH_ROWS: usize = 8192;
const KEY: &str = "l_orderkey";

#[derive(Debug, Args)]
pub struct ProducerArgs {
    /// GiB of Arrow to hold.
    #[arg(long)]
    gib: f64,
    /// Spread rows by the hash of their key.
    #[arg(long)]
    hash: bool,
}

/// What the producer tells once it can be read, as a line of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    pub port: u16,
    pub rows: u64,
    pub bytes: u64,
}

/// Rows of lineitem in memory.
pub struct Rows {
    batches: Vec<RecordBatch>,
    hash: bool,
    pub rows: u64,
    /// As they are in memory.
    pub bytes: u64,
}

impl Rows {
    /// The first `gib` GiB of lineitem, in its own order, in batches of up to 8192 rows.
    pub fn generate(gib: f64, hash: bool) -> Result<Self, CliError> {
        let what = "generating lineitem";
        let bytes_wanted = (gib * f64::from(1 << 30)) as u64;
        // At scale 1 the table takes more than 1 GiB.
        let scale = gib.max(*TpchTable::SCALES.start());
        let parts = TpchTable::Lineitem.parts(scale);
        let mut rows = Self { batches: Vec::new(), hash, rows: 0, bytes: 0 };
        for part in 0..parts {
            for batch in TpchTable::Lineitem.batches(scale, part, BATCH_ROWS, true) {
                let batch = batch.map_err(|error| CliError::Bench { what, error: error.into() })?;
                rows.rows += batch.num_rows() as u64;
                rows.bytes += encoding::batch_bytes(&batch) as u64;
                rows.batches.push(batch);
            }
            if rows.bytes >= bytes_wanted {
                return Ok(rows);
            }
        }
        let text = format!("{gib} GiB of lineitem were wanted, scale {scale} has {} bytes", rows.bytes);
        Err(CliError::Bench { what, error: text.into() })
    }

    /// The worker that serves them.
    pub fn worker(self: Arc<Self>, port: u16) -> Arc<WorkerState> {
        WorkerState::new(WorkerOptions {
            address: address(port),
            name: NODE.to_owned(),
            cores: sheaf_server::machine::cores(),
            env: Arc::new(RuntimeEnv::default()),
            runner: self,
            runtime: Handle::current(),
        })
    }
}

pub fn address(port: u16) -> WorkerAddress {
    WorkerAddress { node: NODE.to_owned(), host: "127.0.0.1".to_owned(), port }
}

#[async_trait]
impl TaskRunner for Rows {
    async fn run(&self, start: TaskStart) -> Result<TaskReport, WireError> {
        let stage = start.stage();
        let (first, step) = (start.id.task as usize, stage.task_count as usize);
        let own = self.batches.iter().skip(first).step_by(step).cloned();
        let partitions = stage.output_partitions as usize;
        if self.hash {
            let wire = |error| sheaf_planners::error::to_wire(&error);
            let own: Vec<RecordBatch> = own.collect();
            let schema = TpchTable::Lineitem.schema();
            let exprs = vec![col(KEY, &schema).map_err(wire)?];
            let plan = MemorySourceConfig::try_new_exec(&[own], schema, None).map_err(wire)?;
            let output = StageOutput::Hash { exprs, partitions };
            sink::run(plan, &output, &Arc::new(TaskContext::default()), &start.exchange).await?;
        } else {
            for (n, batch) in own.enumerate() {
                start.exchange.push(n % partitions, batch).await?;
            }
        }
        Ok(TaskReport { output_rows: start.exchange.pushed().0, ..TaskReport::default() })
    }
}

struct CpuAction;

#[async_trait]
impl NodeActions for CpuAction {
    async fn act(&self, name: &str, _: Bytes) -> Result<Bytes, WireError> {
        match name {
            CPU => Ok(process_time().as_nanos().to_string().into()),
            _ => Err(unknown(name)),
        }
    }
}

/// Reads the secret from standard input, tells on standard output where it is reached, and serves until standard input
/// ends: until the process that started it is gone.
pub fn run_producer(args: &ProducerArgs) -> Result<(), CliError> {
    let failed = |error: std::io::Error| CliError::Bench { what: "the producing process", error: error.into() };
    let mut secret = String::new();
    std::io::stdin().lock().read_line(&mut secret).map_err(failed)?;
    let rows = Arc::new(Rows::generate(args.gib, args.hash)?);
    let runtime = super::runtime()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let ready = Ready { port, rows: rows.rows, bytes: rows.bytes };
    let dir = tempfile::tempdir().map_err(failed)?;
    let (worker, socket) = runtime.block_on(async { (rows.worker(port), LinkSocket::bind(dir.path())) });
    let secret = ClusterSecret::new(secret.trim_end());
    let service =
        NodeService::new(Some(worker), Arc::new(CpuAction), Some(secret)).with_socket(socket.map_err(failed)?);
    runtime.spawn(async move { service.serve(listener, std::future::pending()).await });
    let mut stdout = std::io::stdout().lock();
    let line = serde_json::to_string(&ready).map_err(|error| failed(error.into()))?;
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(failed)?;
    let mut rest = String::new();
    while std::io::stdin().lock().read_line(&mut rest).map_err(failed)? > 0 {}
    runtime.shutdown_background();
    Ok(())
}

impl From<WireError> for CliError {
    fn from(error: WireError) -> Self {
        let what = if error.code == ErrorCode::WorkerLost { "reaching the producing process" } else { "a run" };
        CliError::Bench { what, error: error.into() }
    }
}
