//! DataFusion alone, in one process, as a peer of `sheaf bench`: the same version, compiled with the same options.

use std::path::PathBuf;

use clap::Args;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_plan::common::collect;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};

use super::peer;
use crate::error::CliError;
use crate::tpch::TABLES;

#[derive(Debug, Args)]
pub struct DataFusionArgs {
    /// The folder of the tables: TABLE.parquet, or a folder TABLE of several files.
    #[arg(long, value_name = "DIR", env = "BENCH_TABLES")]
    tables: PathBuf,
    /// Threads, and partitions of a plan.
    #[arg(long, value_name = "N", env = "BENCH_CORES")]
    cores: usize,
    /// An option of DataFusion; repeat it for several.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// As deep as that of the server's threads.
const STACK_BYTES: usize = 16 << 20;

/// Answers statements on standard input until it ends.
pub fn run(args: DataFusionArgs) -> std::result::Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.cores)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(CliError::Threads)?;
    let refused = |source| CliError::DataFusion { source: Box::new(source) };
    let context = runtime.block_on(context(&args)).map_err(refused)?;
    let mut ready = format!("DataFusion {}, target_partitions = {}", datafusion::DATAFUSION_VERSION, args.cores);
    for option in &args.set {
        ready.push_str(&format!(", {option}"));
    }
    let ask = |sql: &str| {
        // Not on this thread, which would be one more than were asked for.
        let (context, sql) = (context.clone(), sql.to_owned());
        let rows = runtime.spawn(async move { rows(&context, &sql).await });
        runtime.block_on(rows).map_err(|error| DataFusionError::External(Box::new(error)))?
    };
    peer::serve(&ready, ask).map_err(CliError::PeerPipe)
}

async fn context(args: &DataFusionArgs) -> Result<SessionContext> {
    let mut config = SessionConfig::new().with_target_partitions(args.cores);
    for option in &args.set {
        let (key, value) = option
            .split_once('=')
            .ok_or_else(|| DataFusionError::Configuration(format!("expected KEY=VALUE, got {option:?}")))?;
        config.options_mut().set(key, value)?;
    }
    let context = SessionContext::new_with_config(config);
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
