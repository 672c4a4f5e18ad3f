//! A cluster of processes on this machine: started from this binary, waited for, stopped with nothing left behind.
//!
//! Three things keep a node from outliving whoever started it: its standard input ends then and it stops, the kernel
//! sends it SIGTERM, and a node whose parent was gone before that took effect does not start at all. The second is tied
//! to the *thread* that starts the node: use a current-thread runtime, on the main thread.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::TcpListener;
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
    /// Fewer would wait for the others for ever.
    #[error(
        "{dir:?} holds a cluster of {n_there} coordinators, not of {n_wanted}; start as many, or use another folder"
    )]
    FewerCoordinators { dir: PathBuf, n_there: usize, n_wanted: usize },
}

/// What cluster to start.
#[derive(Debug, Clone)]
pub struct LocalClusterOptions {
    /// Each node gets a folder in it, and its log stands beside.
    pub dir: PathBuf,
    /// Those that keep the metadata together; at least one.
    pub n_coordinators: usize,
    /// With none, one process is the whole database.
    pub n_workers: usize,
    /// Threads for queries, of each node.
    pub cores: usize,
    /// Bytes for queries, of each node.
    pub memory_bytes: u64,
    /// Of the first coordinator; the others get those behind it. 0 takes free ones.
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
/// In the cluster's folder: where its coordinators listened for one another.
const PORTS: &str = "coordinator-ports.json";
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
    /// The coordinators first.
    nodes: Vec<LocalNode>,
    /// Of the coordinators.
    mysql_ports: Vec<u16>,
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
        let mut cluster = Self { nodes: Vec::new(), mysql_ports: Vec::new(), secret, options };
        let seed = cluster.start_coordinators(&mut step).await?;
        let (n_coordinators, n_workers) = (cluster.options.n_coordinators, cluster.options.n_workers);
        for n in 1..=n_workers {
            cluster.spawn(&format!("worker-{n}"), "127.0.0.1:0", &["--role", "worker", "--join", &seed])?;
        }
        for n in 0..n_workers {
            let worker = cluster.wait_ready(n_coordinators + n).await?;
            step(&format!("{} joined from {}", worker.name, worker.flight));
        }
        Ok(cluster)
    }

    /// Gives the Flight address of the first. At the first start it begins the cluster, and the others join it one after
    /// another; later all of them start at once, since none is ready without a majority.
    async fn start_coordinators(&mut self, step: &mut impl FnMut(&str)) -> Result<String, LocalClusterError> {
        let options = &self.options;
        let (n_wanted, n_there) = (options.n_coordinators, coordinators_in(&options.dir));
        if n_there > n_wanted {
            return Err(LocalClusterError::FewerCoordinators { dir: options.dir.clone(), n_there, n_wanted });
        }
        let listens = match n_wanted {
            1 => vec!["127.0.0.1:0".to_owned()],
            _ => {
                let refused = |source| LocalClusterError::Folder { path: options.dir.join(PORTS), source };
                let ports = coordinator_ports(&options.dir, n_wanted).map_err(refused)?;
                ports.into_iter().map(|port| format!("127.0.0.1:{port}")).collect()
            }
        };
        let mut seed = listens[0].clone();
        for (index, listen) in listens.iter().enumerate() {
            let is_together = index < n_there;
            if !is_together && index > 0 {
                seed = self.wait_coordinators(step).await?;
            }
            self.spawn_coordinator(index, listen, &seed)?;
        }
        self.wait_coordinators(step).await
    }

    fn spawn_coordinator(&mut self, index: usize, listen: &str, seed: &str) -> Result<(), LocalClusterError> {
        let (name, role) = match self.options.n_workers {
            0 => ("server".to_owned(), "all"),
            _ => (coordinator_name(index), "coordinator"),
        };
        let mysql_port = match self.options.mysql_port {
            0 => 0,
            first => first.saturating_add(index as u16),
        };
        let mysql_listen = format!("127.0.0.1:{mysql_port}");
        let mut arguments = vec!["--role", role, "--mysql-listen", &mysql_listen];
        if index > 0 {
            arguments.extend(["--join", seed]);
        }
        self.spawn(&name, listen, &arguments)
    }

    /// Waits for the coordinators that were started; gives the Flight address of the first.
    async fn wait_coordinators(&mut self, step: &mut impl FnMut(&str)) -> Result<String, LocalClusterError> {
        let mut seed = String::new();
        for index in 0..self.nodes.len() {
            let node = self.wait_ready(index).await?;
            if index == 0 {
                seed = node.flight;
            }
            if index == self.mysql_ports.len() {
                let mysql = node.mysql.unwrap_or_default();
                step(&format!("{} is ready on {mysql}", node.name));
                let port = mysql.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
                self.mysql_ports.push(port.unwrap_or_default());
            }
        }
        Ok(seed)
    }

    /// Where MySQL clients connect, on this machine.
    pub fn mysql_port(&self) -> u16 {
        self.mysql_ports[0]
    }

    /// As [`Self::mysql_port`], of each coordinator.
    pub fn mysql_ports(&self) -> &[u16] {
        &self.mysql_ports
    }

    /// The nodes' names and process ids, the coordinators' first.
    pub fn processes(&self) -> impl Iterator<Item = (&str, u32)> {
        self.nodes.iter().filter_map(|node| Some((node.name.as_str(), node.child.id()?)))
    }

    fn spawn(&mut self, name: &str, flight_listen: &str, arguments: &[&str]) -> Result<(), LocalClusterError> {
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
            .args(["--flight-listen", flight_listen, "--http-listen", "127.0.0.1:0"])
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

    /// Ends when most coordinators have ended. A cluster goes on without a worker, and without fewer of them: `node_ended`
    /// is told why there is one less.
    pub async fn majority_end(&mut self, mut node_ended: impl FnMut(&LocalClusterError)) -> LocalClusterError {
        let n_coordinators = self.options.n_coordinators;
        loop {
            for index in 0..self.nodes.len() {
                let node = &mut self.nodes[index];
                if let (false, Ok(Some(status))) = (node.gone, node.child.try_wait()) {
                    node.gone = true;
                    let error = node.ended(status);
                    let n_left = self.nodes[..n_coordinators].iter().filter(|it| !it.gone).count();
                    if n_left * 2 <= n_coordinators {
                        return error;
                    }
                    node_ended(&error);
                }
            }
            tokio::time::sleep(WATCH).await;
        }
    }

    /// Stops every node, the workers first, and waits for their end.
    pub async fn stop(mut self) {
        let deadline = tokio::time::Instant::now() + STOP_DEADLINE;
        let mut coordinators = self.nodes.drain(..self.options.n_coordinators).collect::<Vec<_>>();
        for group in [&mut self.nodes, &mut coordinators] {
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
            // By SIGTERM a worker would finish its queries first.
            // SAFETY: kill takes no pointers.
            unsafe { libc::kill(pid, libc::SIGINT) };
        }
    }
}

/// The first has the name of a lone one, so that a cluster can grow by further ones.
fn coordinator_name(index: usize) -> String {
    if index == 0 { "coordinator".to_owned() } else { format!("coordinator-{}", index + 1) }
}

/// How many coordinators have metadata in a cluster's folder.
pub fn coordinators_in(dir: &Path) -> usize {
    (0..).take_while(|&index| dir.join(coordinator_name(index)).join("metadata").is_dir()).count()
}

/// The Flight ports of coordinators: those of the last time, as far as they are free, so that each finds the others where
/// they were.
fn coordinator_ports(dir: &Path, n: usize) -> io::Result<Vec<u16>> {
    let path = dir.join(PORTS);
    let known: Vec<u16> = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
        Err(error) => return Err(error),
    };
    // All are held until all are known: none is given twice.
    let held: io::Result<Vec<TcpListener>> = (0..n)
        .map(|index| {
            let known = known.get(index).and_then(|port| TcpListener::bind(("127.0.0.1", *port)).ok());
            known.map_or_else(|| TcpListener::bind("127.0.0.1:0"), Ok)
        })
        .collect();
    let ports: io::Result<Vec<u16>> = held?.iter().map(|it| Ok(it.local_addr()?.port())).collect();
    let ports = ports?;
    std::fs::write(&path, serde_json::to_vec(&ports)?)?;
    Ok(ports)
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
    fn coordinators_keep_their_ports() {
        let dir = tempfile::tempdir().unwrap();
        let ports = coordinator_ports(dir.path(), 2).unwrap();
        let more = coordinator_ports(dir.path(), 3).unwrap();
        assert_eq!(more[..2], ports);
        let taken = TcpListener::bind(("127.0.0.1", ports[0])).unwrap();
        let other = coordinator_ports(dir.path(), 3).unwrap();
        assert!(other[0] != ports[0] && other[1..] == more[1..], "{other:?}");
        drop(taken);
    }

    #[test]
    fn coordinators_are_those_with_metadata() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(coordinators_in(dir.path()), 0);
        std::fs::create_dir_all(dir.path().join("coordinator/metadata")).unwrap();
        std::fs::create_dir_all(dir.path().join("coordinator-2")).unwrap();
        assert_eq!(coordinators_in(dir.path()), 1);
        std::fs::create_dir_all(dir.path().join("coordinator-2/metadata")).unwrap();
        assert_eq!(coordinators_in(dir.path()), 2);
    }

    #[test]
    fn shares_are_never_nothing() {
        assert!(core_share(10_000) == 1 && core_share(0) >= 1);
        assert!(memory_share(1_000_000) >= 64 << 20);
    }
}
