//! A cluster of several coordinators and workers, as real processes that are killed, frozen and started again.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::client::{Client, Failure};
use crate::cluster::{Node, Ports};
use crate::network::Network;

/// Statements that may fail while a leader is elected are tried again for so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Coordinators with one group of metadata, and their workers.
pub struct Coordinators {
    /// `None` where one was killed or removed. A node keeps its index, name, folder and ports.
    pub nodes: Vec<Option<Node>>,
    places: Vec<Ports>,
    pub workers: Vec<Node>,
    /// Flags of every node that is started from now on.
    pub flags: Vec<String>,
    /// What the nodes reach each other through, if it can be cut.
    network: Option<Network>,
    /// Last, so that the processes are gone before their files.
    dir: tempfile::TempDir,
}

impl Coordinators {
    /// Starts one that begins the cluster, then the others, then the workers, and returns when all are ready.
    ///
    /// Panics with the log of one that does not get there.
    pub fn start(coordinators: usize, workers: usize) -> Self {
        Self::start_with(coordinators, workers, vec![], None)
    }

    /// As [`Coordinators::start`], with further flags for every node, and through a network that can be cut.
    pub fn start_with(coordinators: usize, workers: usize, flags: Vec<String>, network: Option<Network>) -> Self {
        let dir = tempfile::Builder::new().prefix("sheaf-test-").tempdir().expect("a temporary folder can be made");
        let mut cluster = Self { nodes: vec![], places: vec![], workers: vec![], flags, network, dir };
        for _ in 0..coordinators {
            cluster.add();
        }
        for _ in 0..workers {
            let worker = cluster.start_worker(cluster.workers.len());
            cluster.workers.push(worker);
        }
        cluster
    }

    /// Starts one more coordinator, which joins by the first that runs; returns its index once it has a vote.
    pub fn add(&mut self) -> usize {
        let index = self.nodes.len();
        let mut args = self.args("coordinator", &node_name(index), None);
        if let Some(seed) = self.running().first().filter(|_| !self.flags.iter().any(|it| it == "--join")) {
            args.extend(["--join".to_owned(), format!("127.0.0.1:{}", self.places[*seed].flight)]);
        }
        let node = Node::start(&self.folder(index), args);
        self.places.push(node.ports());
        self.nodes.push(Some(node));
        index
    }

    /// Starts a worker, which is told all coordinators, in a turn of its own; the flags may name others. Returns once it is
    /// ready.
    pub fn start_worker(&self, index: usize) -> Node {
        let name = format!("worker-{index}");
        let dir = self.dir.path().join(&name);
        // One that ran there before may have been killed.
        let _ = std::fs::remove_file(dir.join("node.json"));
        let mut args = self.args("worker", &name, None);
        let is_told = self.flags.iter().any(|it| it == "--join");
        for turn in (0..self.places.len()).filter(|_| !is_told) {
            let seed = self.places[(index + turn) % self.places.len()].flight;
            args.extend(["--join".to_owned(), format!("127.0.0.1:{seed}")]);
        }
        Node::start(&dir, args)
    }

    /// Lets a worker finish what it runs and leave, and starts it again with the flags of now.
    pub fn replace_worker(&mut self, index: usize) {
        self.workers[index].stop(PATIENCE);
        self.workers[index] = self.start_worker(index);
    }

    /// Stops a coordinator in order and starts it again with the flags of now.
    pub fn replace(&mut self, index: usize) {
        self.nodes[index].take().expect("it ran").stop(PATIENCE);
        self.restart(index);
    }

    /// Nothing comes to a coordinator any more, and nothing from it; only its clients reach it.
    pub fn cut_off(&self, index: usize) {
        self.network.as_ref().expect("it was started with one").cut_off(&node_name(index));
    }

    pub fn mend(&self, index: usize) {
        self.network.as_ref().expect("it was started with one").mend(&node_name(index));
    }

    fn folder(&self, index: usize) -> std::path::PathBuf {
        self.dir.path().join(node_name(index))
    }

    /// The temporary folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Those that are not killed.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].is_some()).collect()
    }

    pub fn node(&self, index: usize) -> &Node {
        self.nodes[index].as_ref().expect("it runs")
    }

    pub fn mysql_port(&self, index: usize) -> u16 {
        self.places[index].mysql.expect("a coordinator takes statements")
    }

    /// `kill -9`.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].take().expect("it ran").kill();
    }

    /// `SIGSTOP`: it says nothing any more, and its connections stay open. [`Coordinators::thaw`] lets it go on.
    pub fn freeze(&self, index: usize) {
        self.signal(index, libc::SIGSTOP);
    }

    pub fn thaw(&self, index: usize) {
        self.signal(index, libc::SIGCONT);
    }

    fn signal(&self, index: usize, signal: i32) {
        let pid = i32::try_from(self.node(index).pid()).expect("process ids are small");
        // SAFETY: a signal to our own child, which was not waited for yet, so that its id is not another's.
        unsafe { libc::kill(pid, signal) };
    }

    /// Waits until one has ended by itself, as one that was removed does.
    ///
    /// Panics when it does not.
    pub async fn ended(&mut self, index: usize) {
        let deadline = Instant::now() + PATIENCE;
        let mut node = self.nodes[index].take().expect("it ran");
        while !node.has_ended() {
            assert!(Instant::now() < deadline, "coordinator {index} did not end:\n{}", node.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts one again that was killed, where it was; returns once it is ready.
    pub fn restart(&mut self, index: usize) {
        self.nodes[index] = Some(self.start_again(index));
    }

    /// Starts all that do not run at once, and waits for all of them.
    pub fn restart_all(&mut self) {
        let stopped: Vec<usize> = (0..self.nodes.len()).filter(|index| self.nodes[*index].is_none()).collect();
        let started: Vec<(usize, Node)> = std::thread::scope(|scope| {
            let cluster = &*self;
            let start = |index: usize| scope.spawn(move || (index, cluster.start_again(index)));
            let threads: Vec<_> = stopped.into_iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().expect("the node starts")).collect()
        });
        for (index, node) in started {
            self.nodes[index] = Some(node);
        }
    }

    /// A session with one coordinator.
    pub async fn connect(&self, index: usize) -> Client {
        let connected = Client::connect(self.mysql_port(index), None).await;
        connected.unwrap_or_else(|error| panic!("cannot connect to coordinator {index}: {error}"))
    }

    /// The index of the coordinator that leads, as one that runs says.
    ///
    /// Panics when there is none for long.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for asked in self.running() {
                if let Ok(Some(leader)) = self.leader_by(asked).await {
                    return leader;
                }
            }
            assert!(Instant::now() < deadline, "the coordinators have no leader");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn leader_by(&self, asked: usize) -> Result<Option<usize>, Failure> {
        let mut client = Client::connect(self.mysql_port(asked), None).await?;
        // One that was cut off may not know yet that its term is over.
        let latest = "SELECT node FROM system.raft WHERE role = 'leader' ORDER BY term DESC LIMIT 1";
        let rows = client.query(latest).await?.rows;
        let Some(name) = rows.first().and_then(|row| row.first()) else { return Ok(None) };
        Ok(self.running().into_iter().find(|index| *name == node_name(*index)))
    }

    fn start_again(&self, index: usize) -> Node {
        let folder = self.folder(index);
        // One that was killed could not take its own away.
        let _ = std::fs::remove_file(folder.join("node.json"));
        Node::start(&folder, self.args("coordinator", &node_name(index), Some(self.places[index])))
    }

    fn args(&self, role: &str, name: &str, ports: Option<Ports>) -> Vec<String> {
        let address = |port: u16| format!("127.0.0.1:{port}");
        let (mut flight, http) = ports.map_or((0, 0), |it| (it.flight, it.http));
        let mysql = ports.and_then(|it| it.mysql).unwrap_or(0);
        let mut args: Vec<String> = ["--role", role, "--cores", "1", "--memory", "256MiB"].map(str::to_owned).to_vec();
        if let Some(network) = &self.network {
            let plug = network.plug(name);
            flight = plug.listen;
            args.extend(["--advertise-address".to_owned(), address(plug.advertised)]);
        }
        args.extend(["--flight-listen".to_owned(), address(flight), "--http-listen".to_owned(), address(http)]);
        if role != "worker" {
            args.extend(["--mysql-listen".to_owned(), address(mysql)]);
        }
        args.extend(self.flags.iter().cloned());
        args
    }
}

impl Drop for Coordinators {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let nodes = self.nodes.iter().flatten().chain(&self.workers);
            nodes.for_each(|node| eprintln!("---- {} ----\n{}", node.name(), node.tail()));
        }
    }
}

/// The name of a coordinator.
pub fn node_name(index: usize) -> String {
    format!("coordinator-{index}")
}
