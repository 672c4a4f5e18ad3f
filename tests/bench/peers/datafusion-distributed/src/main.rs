//! The crate `datafusion-distributed` as a peer of `sheaf bench`: one coordinator and some workers, processes each.
//!
//! The coordinator starts the workers from this same binary, plans, and answers statements on standard input. Workers
//! end when their standard input does.

#[path = "../../../../../cli/src/bench/peer.rs"]
mod peer;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use clap::{Args, Parser};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::common::collect;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use datafusion_distributed::{DistributedExt, SessionStateBuilderExt, Worker, WorkerResolver};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use url::Url;

#[derive(Parser)]
enum Role {
    /// Start workers and answer statements.
    Coordinator(CoordinatorArgs),
    /// Run tasks until standard input ends.
    Worker {
        /// Threads.
        #[arg(long)]
        cores: usize,
    },
}

#[derive(Args)]
struct CoordinatorArgs {
    /// The folder of the tables: TABLE.parquet, or a folder TABLE of several files.
    #[arg(long, env = "BENCH_TABLES")]
    tables: PathBuf,
    /// Workers to start.
    #[arg(long, env = "BENCH_WORKERS")]
    workers: usize,
    /// Threads of each process.
    #[arg(long, env = "BENCH_CORES")]
    cores: usize,
    /// An option of the coordinator's session, such as distributed.compression=lz4; outranks what is set here.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

const TABLES: [&str; 8] = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];
const STACK_BYTES: usize = 16 << 20;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    match Role::parse() {
        Role::Coordinator(args) => coordinator(&args),
        Role::Worker { cores } => worker(cores),
    }
}

fn runtime(cores: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(cores).thread_stack_size(STACK_BYTES).enable_all().build()
}

/// Says its port in its first line of output.
fn worker(cores: usize) -> std::result::Result<(), Box<dyn std::error::Error>> {
    std::thread::spawn(|| {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    runtime(cores)?.block_on(async {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?.with_nodelay(Some(true));
        println!("{}", incoming.local_addr()?.port());
        std::io::stdout().flush()?;
        // One for all queries, so that footers are read once.
        let service = Worker::default().with_runtime_env(Arc::new(RuntimeEnv::default())).into_worker_server();
        // On the runtime's own threads, as many as were asked for.
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming)).await??;
        Ok(())
    })
}

/// The workers of this run. Dropping them ends them.
struct Workers(Vec<Child>, Vec<Url>);

impl Workers {
    fn start(n_workers: usize, cores: usize) -> std::result::Result<Self, Box<dyn std::error::Error>> {
        let mut workers = Self(Vec::new(), Vec::new());
        for _ in 0..n_workers {
            let mut child = Command::new(std::env::current_exe()?)
                .args(["worker", "--cores", &cores.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let output = child.stdout.take().ok_or("a worker without output")?;
            workers.0.push(child);
            let mut port = String::new();
            BufReader::new(output).read_line(&mut port)?;
            workers.1.push(Url::parse(&format!("http://127.0.0.1:{}", port.trim()))?);
        }
        Ok(workers)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

struct Fixed(Vec<Url>);

impl WorkerResolver for Fixed {
    fn get_urls(&self) -> Result<Vec<Url>> {
        Ok(self.0.clone())
    }
}

fn coordinator(args: &CoordinatorArgs) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let workers = Workers::start(args.workers, args.cores)?;
    let runtime = runtime(args.cores)?;
    // A task runs as many partitions; of one partition DataFusion plans no exchange that could be spread.
    let mut options = vec![format!("datafusion.execution.target_partitions={}", args.cores.max(2))];
    // Compressing costs more than it saves on the loopback device; metrics are for EXPLAIN ANALYZE.
    options.extend(["distributed.compression=none", "distributed.collect_metrics=false"].map(str::to_owned));
    options.extend(args.set.iter().cloned());
    let context = runtime.block_on(context(args, workers.1.clone(), &options))?;
    let ready = format!(
        "datafusion-distributed 4.0.0, DataFusion {}, a coordinator and {} workers, {} threads each, {}",
        datafusion::DATAFUSION_VERSION,
        args.workers,
        args.cores,
        options.join(", ")
    );
    peer::serve(&ready, |sql| {
        let (context, sql) = (context.clone(), sql.to_owned());
        let rows = runtime.spawn(async move { rows(&context, &sql).await });
        runtime.block_on(rows).map_err(|error| DataFusionError::External(Box::new(error)))?
    })?;
    Ok(())
}

async fn context(args: &CoordinatorArgs, workers: Vec<Url>, options: &[String]) -> Result<SessionContext> {
    let mut state = SessionStateBuilder::new()
        .with_config(SessionConfig::new())
        .with_default_features()
        .with_distributed_worker_resolver(Fixed(workers))
        .with_distributed_planner()
        .build();
    for option in options {
        let pair = option.split_once('=');
        let (key, value) =
            pair.ok_or_else(|| DataFusionError::Configuration(format!("expected KEY=VALUE, got {option:?}")))?;
        state.config_mut().options_mut().set(key, value)?;
    }
    let context = SessionContext::new_with_state(state);
    for table in TABLES {
        let file = args.tables.join(format!("{table}.parquet"));
        let path = if file.exists() { file } else { args.tables.join(table).join("") };
        context.register_parquet(table, path.to_string_lossy(), ParquetReadOptions::default()).await?;
    }
    Ok(context)
}

async fn rows(context: &SessionContext, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let stream = context.sql(sql).await?.execute_stream().await?;
    Ok((stream.schema(), collect(stream).await?))
}
