//! Real `sheaf` processes: one, or a coordinator and its workers, on free ports over a temporary folder.
//!
//! No process outlives its [`Cluster`], nor the test process if that dies first. When a test fails, the folder with
//! logs and data stays, and the end of every log is printed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Client, Failure};
use crate::{binary, fixtures};

/// However slow and busy the machine is, nothing takes longer to answer its first statement.
const READY_DEADLINE: Duration = Duration::from_secs(120);

/// What to start.
#[derive(Debug, Clone)]
pub struct ClusterSpec {
    /// Worker processes beside the coordinator; 0 starts one process that is both.
    pub workers: usize,
    /// Cores of each node.
    pub cores: usize,
    /// Memory of each node.
    pub memory: &'static str,
    /// Folders that tables may lie in, beside the cluster's own.
    pub allow_roots: Vec<PathBuf>,
    /// Further flags of every node.
    pub flags: Vec<&'static str>,
    /// Environment variables of every node.
    pub env: Vec<(&'static str, String)>,
    /// Where the nodes are, if not all in one place. The test's own thread has to be where the coordinator is.
    #[cfg(target_os = "linux")]
    pub wires: Option<std::sync::Arc<crate::wires::Wires>>,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            workers: 0,
            cores: 2,
            memory: "1GiB",
            allow_roots: Vec::new(),
            flags: Vec::new(),
            env: Vec::new(),
            #[cfg(target_os = "linux")]
            wires: None,
        }
    }
}

impl ClusterSpec {
    pub fn workers(workers: usize) -> Self {
        Self { workers, ..Self::default() }
    }

    pub fn cores(self, cores: usize) -> Self {
        Self { cores, ..self }
    }
}

/// One process. Dropping it kills it.
pub struct Node {
    child: Child,
    dir: PathBuf,
    log: PathBuf,
    name: String,
    ports: Ports,
}

/// Where a node listens, as it wrote it into its data folder.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// `None` on a node that takes no statements.
    pub mysql: Option<u16>,
    pub flight: u16,
    pub http: u16,
}

impl Node {
    pub(crate) fn start(dir: &Path, args: Vec<String>) -> Self {
        Self::start_by(vec![], dir, args, &[])
    }

    /// Starts a node by a program that takes its command line as arguments and becomes it.
    fn start_by(launcher: Vec<String>, dir: &Path, args: Vec<String>, env: &[(&'static str, String)]) -> Self {
        fs::create_dir_all(dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
        let log = dir.with_extension("log");
        let sheaf = binary::sheaf().into();
        let mut words = launcher.into_iter().map(OsString::from).chain([sheaf]);
        let mut command = Command::new(words.next().expect("the binary is one word at least"));
        command.args(words);
        let name = dir.file_name().and_then(|name| name.to_str()).expect("the folder was named after the node");
        command.current_dir(dir).args(["server", "--node-name", name, "--data-dir"]).arg(dir).args(args);
        command.envs(env.iter().map(|(name, value)| (*name, value)));
        let mut child = spawn(command, &log);
        let deadline = Instant::now() + READY_DEADLINE;
        let (name, ports) = loop {
            if let Some(node) = read_node(&dir.join("node.json")) {
                break node;
            }
            let ended = child.try_wait().expect("a child can be asked for its state");
            if let Some(status) = ended {
                panic!("the node ended at its start ({status}):\n{}", tail(&log));
            }
            if Instant::now() > deadline {
                // Dropping a `Child` does not end it.
                let _ = child.kill();
                panic!("the node did not say where it listens:\n{}", tail(&log));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        Self { child, dir: dir.to_owned(), log, name, ports }
    }

    /// The node's name, as `system.nodes` and errors show it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn ports(&self) -> Ports {
        self.ports
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of the log.
    pub fn tail(&self) -> String {
        tail(&self.log)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `kill -9`: the process gets no chance to say goodbye.
    pub fn kill(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// `SIGTERM`, and a wait for an orderly end. Panics when it takes longer than `deadline`.
    pub fn stop(&mut self, deadline: Duration) -> std::process::ExitStatus {
        self.signal(libc::SIGTERM);
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked for its state") {
                return status;
            }
            assert!(Instant::now() < end, "the node did not stop within {deadline:?}:\n{}", tail(&self.log));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `SIGTERM`, without waiting for anything.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// `SIGSTOP`: the process does nothing more, and its connections stay open.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// `SIGCONT`, after [`Self::freeze`].
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = i32::try_from(self.child.id()).expect("process ids are small");
        // SAFETY: a signal to our own child, which was not waited for yet, so that its id is not another's.
        unsafe { libc::kill(pid, signal) };
    }

    /// How the process ended, if it has.
    pub fn exit_status(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("a child can be asked for its state")
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked for its state").is_some()
    }

    /// A memory figure of the process in bytes (`VmRSS`, `VmHWM`), where the system has it.
    pub fn memory(&self, figure: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with(figure))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_node(path: &Path) -> Option<(String, Ports)> {
    let node: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let port = |key: &str| node[key].as_str()?.rsplit_once(':')?.1.parse().ok();
    let ports = Ports { mysql: port("mysql"), flight: port("flight")?, http: port("http")? };
    Some((node["name"].as_str()?.to_owned(), ports))
}

/// Starts a process whose output goes to `log` and that the system ends together with this one.
pub fn spawn(mut command: Command, log: &Path) -> Child {
    // The server refuses variables that look like mistyped keys of its own; those of the tests are not for it.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHEAF_")) {
        command.env_remove(name);
    }
    let output = File::create(log).unwrap_or_else(|error| panic!("cannot write {}: {error}", log.display()));
    let errors = output.try_clone().expect("a file can be opened twice");
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    spawn_bound(command).unwrap_or_else(|error| panic!("cannot start {}: {error}", binary::sheaf().display()))
}

/// Linux binds a child's life to the thread that made it, and a test's thread ends before others that may still use
/// the child. So one thread makes all children and lives as long as the process.
fn spawn_bound(mut command: Command) -> std::io::Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: std::sync::LazyLock<mpsc::Sender<Order>> = std::sync::LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        let run = move || {
            for (mut command, answer) in inbox {
                // The asker may have panicked; then the child is of no use.
                if let Err(mpsc::SendError(Ok(mut child))) = answer.send(command.spawn()) {
                    let _ = child.kill();
                }
            }
        };
        std::thread::Builder::new().name("spawner".to_owned()).spawn(run).expect("one more thread can be had");
        orders
    });
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;
        // SAFETY: `prctl` is safe between fork and exec: it takes no lock and allocates nothing.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
    }
    let (answer, child) = mpsc::channel();
    SPAWNER.send((command, answer)).expect("the spawner never ends");
    child.recv().expect("the spawner answers every order")
}

/// The bytes of all files in a folder and those within.
pub fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A coordinator and its workers, or one process that is both.
pub struct Cluster {
    spec: ClusterSpec,
    pub coordinator: Node,
    /// `None` where a worker was killed or stopped.
    pub workers: Vec<Option<Node>>,
    /// Last, so that the processes are gone before their files.
    dir: Option<tempfile::TempDir>,
}

impl Cluster {
    /// Starts the processes and returns when the coordinator answers and knows all workers.
    ///
    /// Panics with the logs when that takes too long.
    pub async fn start(spec: ClusterSpec) -> Self {
        let dir = tempfile::Builder::new().prefix("sheaf-test-").tempdir().expect("a temporary folder can be made");
        let role = if spec.workers == 0 { "all" } else { "coordinator" };
        let args = node_args(&spec, dir.path(), role, None);
        let coordinator = Node::start_by(launcher(&spec, None), &dir.path().join("coordinator"), args, &spec.env);
        let mut cluster = Self { spec, coordinator, workers: Vec::new(), dir: Some(dir) };
        for _ in 0..cluster.spec.workers {
            cluster.launch_worker();
        }
        let nodes = if cluster.spec.workers == 0 { 1 } else { cluster.spec.workers };
        cluster.wait_for_workers(nodes).await;
        cluster
    }

    /// Starts as [`Cluster::start`] does and makes the suites' tables, in database `suite`.
    pub async fn start_with_fixtures(spec: ClusterSpec) -> Self {
        let cluster = Self::start(spec).await;
        let files = cluster.dir().join("fixtures");
        fixtures::write(&files);
        let mut client = cluster.connect().await;
        for statement in fixtures::statements(&files) {
            client.query(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        cluster
    }

    /// Starts one more worker; returns its index. Does not wait until the coordinator knows it.
    pub fn launch_worker(&mut self) -> usize {
        self.workers.push(None);
        let index = self.workers.len() - 1;
        self.relaunch_worker(index);
        index
    }

    /// Starts a worker again that was killed or has died: the same name and folder, another incarnation.
    pub fn relaunch_worker(&mut self, index: usize) {
        // Its lock and its address go with the old process.
        drop(self.workers[index].take());
        let dir = self.dir().join(format!("worker-{index}"));
        // A missing file is what is wanted: the new process writes its own.
        let _ = fs::remove_file(dir.join("node.json"));
        let mut args = node_args(&self.spec, self.dir(), "worker", Some(index));
        args.extend([
            "--join".to_owned(),
            format!("{}:{}", advertised(&self.spec, None), self.coordinator.ports.flight),
        ]);
        self.workers[index] = Some(Node::start_by(launcher(&self.spec, Some(index)), &dir, args, &self.spec.env));
    }

    /// Starts again every worker that was killed or has died; returns how many there were.
    pub fn relaunch_dead(&mut self) -> usize {
        let is_dead = |it: &mut Option<Node>| it.as_mut().is_none_or(Node::has_ended);
        let dead: Vec<usize> =
            self.workers.iter_mut().map(is_dead).enumerate().filter(|it| it.1).map(|it| it.0).collect();
        for index in &dead {
            self.relaunch_worker(*index);
        }
        dead.len()
    }

    /// Waits until the coordinator would place tasks on exactly `n` workers.
    pub async fn wait_for_workers(&self, n: usize) {
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            let seen = self.n_workers().await;
            if seen == Ok(n) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the coordinator does not see {n} workers but {seen:?}:\n{}",
                tail(&self.coordinator.log)
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn n_workers(&self) -> Result<usize, Failure> {
        let mut client = Client::connect(self.mysql_port(), None).await?;
        let nodes = client.query(WORKERS).await?;
        Ok(nodes.rows.len())
    }

    pub fn mysql_port(&self) -> u16 {
        self.coordinator.ports.mysql.expect("a coordinator takes statements")
    }

    /// A session as a client's first one is.
    pub async fn connect(&self) -> Client {
        self.connect_to(None).await
    }

    pub async fn connect_to(&self, database: Option<&str>) -> Client {
        let connected = Client::connect(self.mysql_port(), database).await;
        connected.unwrap_or_else(|error| panic!("cannot connect: {error}\n{}", tail(&self.coordinator.log)))
    }

    /// A session in which everything that can be distributed is.
    pub async fn connect_distributed(&self, database: Option<&str>) -> Client {
        let mut client = self.connect_to(database).await;
        for statement in DISTRIBUTE {
            client.query(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        client
    }

    /// Stops the coordinator, starts it again over the same folder and waits until it answers.
    pub async fn restart_coordinator(&mut self) {
        let role = if self.spec.workers == 0 { "all" } else { "coordinator" };
        self.coordinator.stop(Duration::from_secs(15));
        let args = node_args(&self.spec, self.dir(), role, None);
        self.coordinator = Node::start_by(vec![], &self.dir().join("coordinator"), args, &self.spec.env);
        self.wait_for_workers(usize::from(self.spec.workers == 0)).await;
    }

    /// `kill -9` to the coordinator, and a new start over what it left.
    pub async fn crash_coordinator(&mut self) {
        let role = if self.spec.workers == 0 { "all" } else { "coordinator" };
        self.coordinator.kill();
        // Where the dead one listened.
        let _ = fs::remove_file(self.coordinator.dir.join("node.json"));
        let args = node_args(&self.spec, self.dir(), role, None);
        self.coordinator = Node::start_by(vec![], &self.dir().join("coordinator"), args, &self.spec.env);
        self.wait_for_workers(usize::from(self.spec.workers == 0)).await;
    }

    /// `kill -9` to one worker.
    pub fn kill_worker(&mut self, index: usize) {
        self.workers[index].take().expect("the worker was alive").kill();
    }

    /// The temporary folder; nodes may read tables below it.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("the folder lives as long as the cluster").path()
    }
}

/// Statements after which nothing is too small to be distributed.
pub const DISTRIBUTE: [&str; 2] = ["SET min_distribute_bytes = 0", "SET bytes_per_task = 0"];

/// Lists the nodes that tasks are placed on.
const WORKERS: &str = "SELECT name FROM system.nodes WHERE role IN ('all', 'worker') AND state = 'alive'";

/// What starts the coordinator, or a worker, where it belongs.
fn launcher(spec: &ClusterSpec, worker: Option<usize>) -> Vec<String> {
    #[cfg(target_os = "linux")]
    if let Some(wires) = &spec.wires {
        return wires.launcher(worker);
    }
    let _ = (spec, worker);
    vec![]
}

/// Where the coordinator, or a worker, is reached by the others.
fn advertised(spec: &ClusterSpec, worker: Option<usize>) -> String {
    #[cfg(target_os = "linux")]
    if let Some(wires) = &spec.wires {
        return worker.map_or_else(|| wires.coordinator().to_owned(), |index| wires.address(index));
    }
    let _ = (spec, worker);
    "127.0.0.1".to_owned()
}

fn node_args(spec: &ClusterSpec, dir: &Path, role: &str, worker: Option<usize>) -> Vec<String> {
    let address = advertised(spec, worker);
    let mut args: Vec<String> = ["--role", role, "--http-listen", "127.0.0.1:0"].map(str::to_owned).to_vec();
    args.extend(["--flight-listen".to_owned(), format!("{address}:0")]);
    if address != "127.0.0.1" {
        args.extend(["--secret".to_owned(), "of one test".to_owned()]);
    }
    if role != "worker" && !spec.flags.contains(&"--mysql-listen") {
        args.extend(["--mysql-listen".to_owned(), "127.0.0.1:0".to_owned()]);
    }
    args.extend(["--cores".to_owned(), spec.cores.to_string(), "--memory".to_owned(), spec.memory.to_owned()]);
    args.extend(spec.flags.iter().map(|it| (*it).to_owned()));
    let roots = std::iter::once(dir).chain(spec.allow_roots.iter().map(PathBuf::as_path));
    args.extend(roots.flat_map(|root| ["--allow-root".to_owned(), root.display().to_string()]));
    args
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let nodes = std::iter::once(&self.coordinator).chain(self.workers.iter().flatten());
        for node in nodes {
            eprintln!("---- {} ----\n{}", node.log.display(), tail(&node.log));
        }
        if let Some(dir) = self.dir.take() {
            eprintln!("logs and data are kept in {}", dir.keep().display());
        }
    }
}
