//! `sheaf cluster`: clusters on this machine.

mod ask;
mod detach;
mod state;

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use sheaf_common::config::{ByteSize, ConfigValue};
use sheaf_server::error::chain;

use self::state::{ClusterFile, ClusterLock};
use crate::error::CliError;
use crate::local_cluster::{
    LocalCluster, LocalClusterError, LocalClusterOptions, coordinators_in, core_share, memory_share,
};
use crate::progress::{bytes, count};
use crate::signals;

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Start a cluster of processes on this machine, and stop it on Ctrl-C.
    ///
    /// One coordinator or several and some workers, on free ports of 127.0.0.1. Waits until all workers have joined,
    /// then says how to connect. Tables stay in the data folder for the next time; each node's log stands there too.
    Up(UpArgs),
    /// Show the nodes of a running cluster. The exit status is 1 when one of them is gone.
    Status(FolderArgs),
    /// Let a worker finish its tasks and give it no more.
    Drain(DrainArgs),
    /// Stop a cluster, whoever started it.
    Down(FolderArgs),
    /// Make a secret for the nodes of a cluster, unless the file has one already.
    ///
    /// Only the user who runs this may read the file. Every node gets it by --secret-file.
    Secret(SecretArgs),
}

#[derive(Debug, Args)]
pub struct SecretArgs {
    /// The file of the secret.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
pub struct FolderArgs {
    /// The folder of the nodes' data and logs, as sheaf cluster up had it.
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The worker's name, such as worker-1.
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    folder: FolderArgs,
    /// How long to wait for its tasks to end.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

const DATA_DIR: &str = "sheaf-cluster";

#[derive(Debug, Args)]
pub struct UpArgs {
    /// How many workers to start.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// How many coordinators to start; three keep the metadata together and go on without one of them [default: as many
    /// as the data folder has, one at first].
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u16).range(1..=7))]
    coordinators: Option<u16>,
    /// Threads that run queries, in each process [default: this machine's cores divided among the workers].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    cores: Option<u16>,
    /// Memory of queries, in each process, such as 2GiB [default: a share of this machine's memory].
    #[arg(long, value_name = "SIZE", value_parser = byte_size)]
    memory: Option<ByteSize>,
    /// The folder of the nodes' data and logs.
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// The port for MySQL clients, and those behind it for further coordinators; 0 takes free ones.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    mysql_port: u16,
    /// A folder whose files statements may read; repeat it for several [default: the current folder].
    #[arg(long, value_name = "DIR")]
    allow_root: Vec<PathBuf>,
    /// Which log records the nodes write: a level, or levels by module.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    /// Leave the cluster running in the background; sheaf cluster down stops it.
    #[arg(long, short)]
    detach: bool,
}

/// A size as typed.
pub fn byte_size(text: &str) -> Result<ByteSize, String> {
    ByteSize::parse(text).ok_or_else(|| format!("expected {}", ByteSize::EXPECTED))
}

fn duration(text: &str) -> Result<Duration, String> {
    Duration::parse(text).ok_or_else(|| format!("expected {}", Duration::EXPECTED))
}

pub fn run(command: ClusterCommand) -> Result<(), CliError> {
    match command {
        ClusterCommand::Up(args) if args.detach => detach::up(&args.data_dir),
        ClusterCommand::Up(args) => up(args),
        ClusterCommand::Status(folder) => signals::block_on(async move |_| ask::status(&folder.data_dir).await),
        ClusterCommand::Drain(args) => {
            signals::block_on(async move |_| ask::drain(&args.folder.data_dir, &args.node, args.timeout).await)
        }
        ClusterCommand::Secret(args) => secret(&args.file),
        ClusterCommand::Down(folder) => detach::down(&folder.data_dir),
    }
}

/// The command that connects a MySQL command line, as one would type it, and where else it may connect.
pub fn mysql_command(ports: &[u16]) -> String {
    let (port, others) = ports.split_first().map_or((0, ports), |(port, others)| (*port, others));
    let mut text = format!("sheaf sql --port {port}   (or mysql --host 127.0.0.1 --port {port} --user root)");
    if !others.is_empty() {
        let others: Vec<String> = others.iter().map(u16::to_string).collect();
        text.push_str(&format!("\nthe other coordinators listen on {}", others.join(", ")));
    }
    text
}

/// Thirty-two random bytes as text. What is in the file stays: nodes may be using it.
fn secret(path: &Path) -> Result<(), CliError> {
    let refused = |source| CliError::Folder { path: path.to_owned(), source };
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return match std::fs::read_to_string(path).map_err(refused)?.trim().is_empty() {
                true => Err(refused(io::Error::other("the file is there and empty; remove it"))),
                false => Ok(()),
            };
        }
        Err(error) => return Err(refused(error)),
    };
    let bytes: [u8; 32] = rand::random();
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(file, "{digits}").and_then(|()| file.sync_all()).map_err(refused)
}

fn up(args: UpArgs) -> Result<(), CliError> {
    let n_workers = usize::from(args.workers);
    let n_coordinators = args.coordinators.map_or_else(|| coordinators_in(&args.data_dir).max(1), usize::from);
    let lock = ClusterLock::take(&args.data_dir)?;
    let here = std::env::current_dir().map_err(|source| CliError::Folder { path: PathBuf::from("."), source })?;
    let options = LocalClusterOptions {
        dir: args.data_dir,
        n_coordinators,
        n_workers,
        cores: args.cores.map_or_else(|| core_share(n_workers), usize::from),
        memory_bytes: args.memory.map_or_else(|| memory_share(n_workers + n_coordinators), |size| size.0),
        mysql_port: args.mysql_port,
        allow_roots: if args.allow_root.is_empty() { vec![here] } else { args.allow_root },
        log: args.log,
    };
    signals::block_on(async move |stop| {
        eprintln!(
            "starting {} and {}, each with {} and {} for queries",
            count(n_coordinators, "coordinator"),
            count(n_workers, "worker"),
            count(options.cores, "core"),
            bytes(options.memory_bytes)
        );
        let dir = options.dir.clone();
        let mut cluster = tokio::select! {
            cluster = LocalCluster::start(options, |step| eprintln!("  {step}")) => cluster?,
            () = stop.cancelled() => return Err(CliError::Interrupted),
        };
        let nodes = cluster.processes().map(|(name, _)| name.to_owned()).collect();
        let mut file = ClusterFile { pid: std::process::id(), mysql_ports: cluster.mysql_ports().to_vec(), nodes };
        lock.announce(&file)?;
        println!("the cluster is up: {}, data and logs in {}", count(n_workers, "worker"), dir.display());
        println!("connect with: {}", mysql_command(cluster.mysql_ports()));
        println!("stop it with Ctrl-C, or with sheaf cluster down --data-dir {}", dir.display());
        let ended = tokio::select! {
            error = cluster.majority_end(|error| note_end(error, &mut file, &lock)) => Err(error.into()),
            () = stop.cancelled() => Ok(()),
        };
        eprintln!("stopping");
        cluster.stop().await;
        eprintln!("stopped, nothing is left running");
        ended
    })
}

/// The cluster goes on without a node. One that was drained has left, and is not missed.
fn note_end(error: &LocalClusterError, file: &mut ClusterFile, lock: &ClusterLock) {
    match error {
        LocalClusterError::Ended { node, status, .. } if status.success() => {
            eprintln!("{node} has left");
            file.nodes.retain(|it| it != node);
            if let Err(error) = lock.announce(file) {
                eprintln!("cannot tell the others: {}", chain(&error));
            }
        }
        error => eprintln!("the cluster goes on without {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_made_once_and_for_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        secret(&path).unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        assert_eq!(first.trim().len(), 64);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        secret(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        std::fs::write(&path, "").unwrap();
        assert!(secret(&path).is_err());
    }
}
