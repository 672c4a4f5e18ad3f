//! `sheaf cluster`: clusters on this machine.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sheaf_common::config::{ByteSize, ConfigValue};

use crate::error::CliError;
use crate::local_cluster::{LocalCluster, LocalClusterOptions, core_share, memory_share};
use crate::progress::{bytes, count};
use crate::signals;

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Start a cluster of processes on this machine, and stop it on Ctrl-C.
    ///
    /// One coordinator and some workers, on free ports of 127.0.0.1. Waits until all workers have joined, then says
    /// how to connect. Tables stay in the data folder for the next time; each node's log stands there too.
    Up(UpArgs),
}

#[derive(Debug, Args)]
pub struct UpArgs {
    /// How many workers to start.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Threads that run queries, in each process [default: this machine's cores divided among the workers].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    cores: Option<u16>,
    /// Memory of queries, in each process, such as 2GiB [default: a share of this machine's memory].
    #[arg(long, value_name = "SIZE", value_parser = byte_size)]
    memory: Option<ByteSize>,
    /// The folder of the nodes' data and logs.
    #[arg(long, value_name = "DIR", default_value = "sheaf-cluster")]
    data_dir: PathBuf,
    /// The port for MySQL clients; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    mysql_port: u16,
    /// A folder whose files statements may read; repeat it for several [default: the current folder].
    #[arg(long, value_name = "DIR")]
    allow_root: Vec<PathBuf>,
    /// Which log records the nodes write: a level, or levels by module.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

/// A size as typed.
pub fn byte_size(text: &str) -> Result<ByteSize, String> {
    ByteSize::parse(text).ok_or_else(|| format!("expected {}", ByteSize::EXPECTED))
}

pub fn run(command: ClusterCommand) -> Result<(), CliError> {
    match command {
        ClusterCommand::Up(args) => up(args),
    }
}

/// The command that connects a MySQL command line, as one would type it.
pub fn mysql_command(port: u16) -> String {
    format!("mysql --host 127.0.0.1 --port {port} --user root   (or mariadb with the same options)")
}

fn up(args: UpArgs) -> Result<(), CliError> {
    let n_workers = usize::from(args.workers);
    let here = std::env::current_dir().map_err(|source| CliError::Folder { path: PathBuf::from("."), source })?;
    let options = LocalClusterOptions {
        dir: args.data_dir,
        n_workers,
        cores: args.cores.map_or_else(|| core_share(n_workers), usize::from),
        memory_bytes: args.memory.map_or_else(|| memory_share(n_workers + 1), |size| size.0),
        mysql_port: args.mysql_port,
        allow_roots: if args.allow_root.is_empty() { vec![here] } else { args.allow_root },
        log: args.log,
    };
    signals::block_on(async move |stop| {
        eprintln!(
            "starting one coordinator and {}, each with {} and {} for queries",
            count(n_workers, "worker"),
            count(options.cores, "core"),
            bytes(options.memory_bytes)
        );
        let dir = options.dir.clone();
        let mut cluster = tokio::select! {
            cluster = LocalCluster::start(options, |step| eprintln!("  {step}")) => cluster?,
            () = stop.cancelled() => return Err(CliError::Interrupted),
        };
        println!("the cluster is up: {}, data and logs in {}", count(n_workers, "worker"), dir.display());
        println!("connect with: {}", mysql_command(cluster.mysql_port()));
        println!("stop it with Ctrl-C");
        let ended = tokio::select! {
            error = cluster.coordinator_end(|error| eprintln!("the cluster goes on without {error}")) => Err(error.into()),
            () = stop.cancelled() => Ok(()),
        };
        eprintln!("stopping");
        cluster.stop().await;
        eprintln!("stopped, nothing is left running");
        ended
    })
}
