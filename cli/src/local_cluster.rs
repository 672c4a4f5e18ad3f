//! A cluster of processes on this machine: started from this binary, waited for, stopped with nothing left behind.
//!
//! Three things keep a node from outliving whoever started it: its standard input ends then and it stops, the kernel
//! sends it SIGTERM, and a node whose parent was gone before that took effect does not start at all. The second is tied
//! to the *thread* that starts the node: use a current-thread runtime, on the main thread.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use sheaf_server::NodeFile;
use sheaf_server::data_dir::read_node_file;
use tokio::process::{Child, Command};

/// Why a local cluster did not come up.
#[derive(Debug, thiserror::Error)]
pub enum LocalClusterError {
    #[error("folder {path:?} cannot be made or written")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start {node}")]
    Start {
        node: String,
        #[source]
        source: io::Error,
    },
    /// The node's own words stand in the tail of its log.
    #[error("{node} ended with {status}, its log {log:?} ends with:\n{tail}")]
    Ended { node: String, status: ExitStatus, log: PathBuf, tail: String },
    #[error("{node} was not ready within {deadline_s} s, its log {log:?} ends with:\n{tail}")]
    NotReady { node: String, deadline_s: u64, log: PathBuf, tail: String },
}

/// What cluster to start.
#[derive(Debug, Clone)]
pub struct LocalClusterOptions {
    /// Each node gets a folder in it, and its log stands beside.
    pub dir: PathBuf,
    /// With none, one process is the whole database.
    pub n_workers: usize,
    /// Threads for queries, of each node.
    pub cores: usize,
    /// Bytes for queries, of each node.
    pub memory_bytes: u64,
    /// 0 takes a free port.
    pub mysql_port: u16,
    /// Folders that statements may read.
    pub allow_roots: Vec<PathBuf>,
    pub log: String,
}

/// A node must be ready after so long.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How often a starting node is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How often a running node is looked at.
const WATCH: Duration = Duration::from_millis(200);
/// A node that was asked to stop is killed after so long.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How much of a failed node's log is shown.
const TAIL_LINES: usize = 15;

/// One process of a local cluster. Dropping it kills the process.
struct LocalNode {
    name: String,
    log: PathBuf,
    data_dir: PathBuf,
    child: Child,
    /// Its end was noticed and told.
    gone: bool,
}

/// A running local cluster. Dropping it kills its processes; [`LocalCluster::stop`] lets them end in order.
pub struct LocalCluster {
    /// The coordinator first.
    nodes: Vec<LocalNode>,
    mysql_port: u16,
    secret: String,
    options: LocalClusterOptions,
}

impl LocalCluster {
    /// Starts the nodes and waits until all of them are ready and joined. `step` hears of each.
    pub async fn start(options: LocalClusterOptions, mut step: impl FnMut(&str)) -> Result<Self, LocalClusterError> {
        let dir = &options.dir;
        let refused = |source| LocalClusterError::Folder { path: dir.clone(), source };
        std::fs::create_dir_all(dir).map_err(refused)?;
        // Other users of this machine reach loopback ports too.
        let secret = format!("{:032x}", rand::random::<u128>());
        let mut cluster = Self { nodes: Vec::new(), mysql_port: 0, secret, options };

        let (name, role) =
            if cluster.options.n_workers == 0 { ("server", "all") } else { ("coordinator", "coordinator") };
        let mysql_listen = format!("127.0.0.1:{}", cluster.options.mysql_port);
        cluster.spawn(name, &["--role", role, "--mysql-listen", &mysql_listen])?;
        let coordinator = cluster.wait_ready(0).await?;
        let mysql = coordinator.mysql.unwrap_or_default();
        cluster.mysql_port = mysql.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or_default();
        step(&format!("{name} is ready on {mysql}"));

        for n in 1..=cluster.options.n_workers {
            cluster.spawn(&format!("worker-{n}"), &["--role", "worker", "--join", &coordinator.flight])?;
        }
        for n in 1..=cluster.options.n_workers {
            let worker = cluster.wait_ready(n).await?;
            step(&format!("{} joined from {}", worker.name, worker.flight));
        }
        Ok(cluster)
    }

    /// Where MySQL clients connect, on this machine.
    pub fn mysql_port(&self) -> u16 {
        self.mysql_port
    }

    /// The nodes' names and process ids, the coordinator's first.
    pub fn processes(&self) -> impl Iterator<Item = (&str, u32)> {
        self.nodes.iter().filter_map(|node| Some((node.name.as_str(), node.child.id()?)))
    }

    fn spawn(&mut self, name: &str, arguments: &[&str]) -> Result<(), LocalClusterError> {
        let start = |source| LocalClusterError::Start { node: name.to_owned(), source };
        let options = &self.options;
        let data_dir = options.dir.join(name);
        let log = options.dir.join(format!("{name}.log"));
        let out = File::create(&log).map_err(start)?;
        let mut command = Command::new(std::env::current_exe().map_err(start)?);
        // The cluster is the one that was asked for, whatever is set around it.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("SHEAF_") {
                command.env_remove(variable);
            }
        }
        command
            .args(["server", "--stop-with-stdin", "--node-name", name])
            .arg("--data-dir")
            .arg(&data_dir)
            .args(["--flight-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"])
            .args(["--cores", &options.cores.to_string(), "--memory", &options.memory_bytes.to_string()])
            .args(["--log", &options.log])
            .args(arguments)
            .env("SHEAF_SECRET", &self.secret)
            .stdin(Stdio::piped())
            .stdout(out.try_clone().map_err(start)?)
            .stderr(out)
            .kill_on_drop(true)
            // A Ctrl-C at the terminal is for the one who started the nodes: it stops them in order.
            .process_group(0);
        for root in &options.allow_roots {
            command.arg("--allow-root").arg(root);
        }
        die_with_parent(&mut command);
        let child = command.spawn().map_err(start)?;
        self.nodes.push(LocalNode { name: name.to_owned(), log, data_dir, child, gone: false });
        Ok(())
    }

    async fn wait_ready(&mut self, index: usize) -> Result<NodeFile, LocalClusterError> {
        let node = &mut self.nodes[index];
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            let status = node.child.try_wait();
            if let Ok(Some(status)) = status {
                return Err(node.ended(status));
            }
            // A file of an earlier start names another process.
            if let Ok(file) = read_node_file(&node.data_dir)
                && Some(file.pid) == node.child.id()
            {
                return Ok(file);
            }
            if Instant::now() >= deadline {
                let (node, log, tail) = (node.name.clone(), node.log.clone(), tail(&node.log));
                return Err(LocalClusterError::NotReady { node, deadline_s: READY_DEADLINE.as_secs(), log, tail });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends when a node ends that nobody asked to.
    pub async fn first_end(&mut self) -> LocalClusterError {
        loop {
            for node in &mut self.nodes {
                if let Ok(Some(status)) = node.child.try_wait() {
                    return node.ended(status);
                }
            }
            tokio::time::sleep(WATCH).await;
        }
    }

    /// Ends when the coordinator ends. A cluster goes on without a worker: `worker_ended` is told why there is one less.
    pub async fn coordinator_end(&mut self, mut worker_ended: impl FnMut(&LocalClusterError)) -> LocalClusterError {
        loop {
            for (n, node) in self.nodes.iter_mut().enumerate() {
                if let (false, Ok(Some(status))) = (node.gone, node.child.try_wait()) {
                    node.gone = true;
                    let error = node.ended(status);
                    if n == 0 {
                        return error;
                    }
                    worker_ended(&error);
                }
            }
            tokio::time::sleep(WATCH).await;
        }
    }

    /// Stops every node, the workers first, and waits for their end.
    pub async fn stop(mut self) {
        let deadline = tokio::time::Instant::now() + STOP_DEADLINE;
        let mut coordinator = self.nodes.drain(..1).collect::<Vec<_>>();
        for group in [&mut self.nodes, &mut coordinator] {
            for node in group.iter_mut() {
                node.terminate();
            }
            for node in group.iter_mut() {
                if tokio::time::timeout_at(deadline, node.child.wait()).await.is_err() {
                    let _ = node.child.kill().await;
                }
            }
        }
    }
}

impl LocalNode {
    fn ended(&self, status: ExitStatus) -> LocalClusterError {
        let (node, log, tail) = (self.name.clone(), self.log.clone(), tail(&self.log));
        LocalClusterError::Ended { node, status, log, tail }
    }

    fn terminate(&self) {
        // A child that was waited for has no id any more, so the signal cannot hit another process.
        if let Some(pid) = self.child.id().and_then(|pid| libc::pid_t::try_from(pid).ok()) {
            // SAFETY: kill takes no pointers.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
    }
}

/// Has the kernel end the child when this thread ends.
#[cfg(target_os = "linux")]
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: getpid takes no pointers.
    let parent = unsafe { libc::getpid() };
    // SAFETY: between fork and exec only calls that are safe after a signal are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as libc::c_ulong) != 0 {
                return Err(io::Error::last_os_error());
            }
            if libc::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

/// Elsewhere the end of standard input has to do.
#[cfg(not(target_os = "linux"))]
pub fn die_with_parent(_command: &mut Command) {}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    const BYTES_MAX: u64 = 16 << 10;
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(BYTES_MAX)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_else(|error| format!("(unreadable: {error})"));
    let lines: Vec<&str> = text.lines().collect();
    let lines = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// What each of `n_nodes` processes gets when they share this machine: all memory that a single node would take by
/// itself, but for room that their own code and caches need.
pub fn memory_share(n_nodes: usize) -> u64 {
    const SHARE: u64 = 60;
    const LEAST: u64 = 64 << 20;
    let total = sheaf_server::machine::memory_bytes() / 100 * SHARE;
    (total / n_nodes.max(1) as u64).max(LEAST)
}

/// The cores of each of `n_workers` that share this machine.
pub fn core_share(n_workers: usize) -> usize {
    (sheaf_server::machine::cores() / n_workers.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines() {
        let path = std::env::temp_dir().join(format!("sheaf-tail-{}", std::process::id()));
        let lines: Vec<String> = (0..5000).map(|n| format!("line {n}")).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let tail = tail(&path);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("  line 4999"), "{tail}");
    }

    #[test]
    fn shares_are_never_nothing() {
        assert!(core_share(10_000) == 1 && core_share(0) >= 1);
        assert!(memory_share(1_000_000) >= 64 << 20);
    }
}
