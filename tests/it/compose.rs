//! The clusters of `docker/*.yml`, in real containers: what an operator does to them, and what becomes of queries.
//!
//! Runs where `docker info` answers, `docker compose` or `docker-compose` is there, and the base image is there or can be
//! made by `docker/test-image.sh`; anywhere else it is skipped with a loud line. The image holds the binary under test.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sheaf_tests::{alone, binary, patience, root, skip};

use crate::tpch;

const DEADLINE: Duration = Duration::from_secs(540);
/// From `up` to the first answered query, when the image is there.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(10);
const IMAGE: &str = "sheafdb:test";
/// Published images stay below it: those of a binary of the profile `dist`.
const IMAGE_BYTES_MAX: u64 = 200 * 1000 * 1000;
/// What is built to be tested may be larger.
const TEST_IMAGE_BYTES_MAX: u64 = 300 * 1000 * 1000;
/// Reads a table on all workers.
const LOAD: &str = "SELECT count(*), sum(l_linenumber) FROM tpch.lineitem";
const LOAD_ANSWER: &str = "600572\t1802446";
/// Runs for seconds on three workers, each of one core.
const LONG: &str = "SELECT sum(a.number % 1000) FROM numbers(3000000000) a";

/// The words that start Compose on this machine, and the image of the binary under test, or why there is none.
fn engine() -> Result<&'static [String], &'static str> {
    static ENGINE: OnceLock<Result<Vec<String>, String>> = OnceLock::new();
    let made = ENGINE.get_or_init(|| {
        let answers = |words: &[&str]| {
            let mut command = Command::new(words[0]);
            let output = command.args(&words[1..]).stdin(Stdio::null()).output();
            output.is_ok_and(|it| it.status.success())
        };
        if !answers(&["docker", "info"]) {
            return Err("`docker info` does not answer".to_owned());
        }
        let compose = [["docker", "compose"].as_slice(), &["docker-compose"]];
        let compose = compose.into_iter().find(|words| answers(&[*words, &["version"]].concat()));
        let Some(compose) = compose else { return Err("there is no docker compose".to_owned()) };
        let mut image = Command::new("sh");
        image.arg(root().join("docker/test-image.sh")).arg(binary::sheaf()).arg(IMAGE).stdin(Stdio::null());
        let output = image.output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("docker/test-image.sh: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let n_bytes: u64 = said.trim().parse().map_err(|_| format!("docker/test-image.sh said {said:?}"))?;
        let is_published = binary::sheaf().components().any(|it| it.as_os_str() == "dist");
        let (kind, max) = if is_published { ("dist", IMAGE_BYTES_MAX) } else { ("test", TEST_IMAGE_BYTES_MAX) };
        eprintln!("the image of the stripped {kind} binary has {:.1} MB", n_bytes as f64 / 1e6);
        assert!(n_bytes <= max, "the image has {n_bytes} bytes, more than {max}");
        Ok(compose.iter().map(|it| (*it).to_owned()).collect())
    });
    made.as_deref().map_err(String::as_str)
}

/// A cluster of containers. Dropping it removes them, their network and their volumes.
struct Containers {
    compose: &'static [String],
    file: PathBuf,
    project: String,
}

impl Containers {
    /// `None`, with a loud line, where there is no engine.
    fn new(test: &str, file: &str) -> Option<Self> {
        match engine() {
            Ok(compose) => {
                let project = format!("sheaf-{test}-{}", std::process::id());
                Some(Self { compose, file: root().join("docker").join(file), project })
            }
            Err(why) => {
                skip(&format!("compose: {test}"), why);
                None
            }
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.compose[0]);
        command.args(&self.compose[1..]).args(["--project-name", &self.project, "--file"]).arg(&self.file).args(args);
        // Free ports: several clusters may run on one machine.
        for port in ["SHEAF_MYSQL_PORT", "SHEAF_MYSQL_PORT_2", "SHEAF_MYSQL_PORT_3", "SHEAF_HTTP_PORT"] {
            command.env(port, "0");
        }
        command.env("SHEAF_IMAGE", IMAGE);
        command.env("SHEAF_CORES", "1").env("SHEAF_MEMORY", "1GiB").stdin(Stdio::null());
        command
    }

    fn compose(&self, args: &[&str]) -> String {
        succeed(&mut self.command(args))
    }

    fn up(&self, workers: usize) {
        self.compose(&["up", "--detach", "--no-build", "--scale", &format!("worker={workers}")]);
    }

    /// `docker` on one of the containers.
    fn docker(&self, args: &[&str]) -> String {
        succeed(Command::new("docker").args(args).stdin(Stdio::null()))
    }

    /// As [`Self::docker`], again and again for a while: a busy machine's kernel may be too slow to freeze a container
    /// within the engine's patience.
    fn docker_insists(&self, args: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let output = Command::new("docker").args(args).stdin(Stdio::null()).output().expect("docker can be run");
            let Err(error) = said(output) else { return };
            assert!(Instant::now() < deadline, "docker {args:?}: {error}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The ids of a service's containers.
    fn ids(&self, service: &str) -> Vec<String> {
        self.compose(&["ps", "--quiet", service]).lines().map(str::to_owned).collect()
    }

    /// A client in a container of its own, in the cluster's network.
    fn client(&self, server: &str, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args([
            "run",
            "--rm",
            "--network",
            &format!("{}_default", self.project),
            IMAGE,
            "sql",
            "--host",
            server,
        ]);
        command
            .args(["-N", "--set", "min_distribute_bytes=0", "--set", "bytes_per_task=0"])
            .args(args)
            .stdin(Stdio::null());
        command
    }

    fn ask(&self, sql: &str) -> Result<String, String> {
        self.ask_of("coordinator", sql)
    }

    fn ask_of(&self, server: &str, sql: &str) -> Result<String, String> {
        said(self.client(server, &["-e", sql]).output().expect("docker can be run"))
    }

    /// Waits until a query answers so; panics with the last answer when it does not in time.
    fn wait_for(&self, sql: &str, expected: &str, patience: Duration) {
        self.wait_for_of("coordinator", sql, expected, patience);
    }

    fn wait_for_of(&self, server: &str, sql: &str, expected: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            let answer = self.ask_of(server, sql);
            if answer.as_deref().map(str::trim) == Ok(expected) {
                return;
            }
            assert!(Instant::now() < deadline, "{sql}: {answer:?}, not {expected:?}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn wait_for_workers(&self, n: usize) {
        let sql = "SELECT count(*) FROM system.nodes WHERE role = 'worker' AND state = 'alive'";
        self.wait_for(sql, &n.to_string(), Duration::from_secs(40));
    }

    fn logs(&self) -> String {
        self.command(&["logs", "--tail", "20"])
            .output()
            .map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        let _ = self.command(&["down", "--volumes", "--timeout", "5"]).output();
    }
}

fn said(output: Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    said(output).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Whether two cells are the same, where numbers may differ by a unit of the last place that is shown.
fn agree(actual: &str, expected: &str) -> bool {
    let (Ok(a), Ok(b)) = (actual.parse::<f64>(), expected.parse::<f64>()) else { return actual == expected };
    let places = |text: &str| text.split_once('.').map_or(0, |(_, digits)| digits.len() as i32);
    let unit = if actual.contains('.') { 10_f64.powi(-places(actual)) } else { 0.0 };
    (a - b).abs() <= unit * 1.000_001 + 1e-9 * b.abs()
}

#[test]
fn a_cluster_of_containers_answers_and_survives_what_is_done_to_it() {
    alone(DEADLINE, async {
        let Some(cluster) = Containers::new("cluster", "cluster.yml") else { return };

        // From nothing to the first answer.
        let started = Instant::now();
        cluster.up(3);
        while cluster.ask("SELECT 1").as_deref() != Ok("1\n") {
            assert!(started.elapsed() < Duration::from_secs(60), "no answer:\n{}", cluster.logs());
        }
        let took = started.elapsed();
        eprintln!("from `up` to the first answer: {took:?}");
        cluster.wait_for_workers(3);
        assert!(took <= patience(FIRST_ANSWER_MAX), "the first answer took {took:?}");

        // TPC-H, asked from another container, on tables that all nodes see.
        let coordinator = cluster.ids("coordinator").remove(0);
        cluster.docker(&[
            "exec",
            &coordinator,
            "sheaf",
            "tables",
            "tpch",
            "--scale",
            "0.1",
            "--files",
            "4",
            "--dir",
            "/tables/tpch",
        ]);
        let mut tables = "CREATE DATABASE tpch; USE tpch;".to_owned();
        for table in tpch::TABLES {
            let location = format!("/tables/tpch/{table}/");
            tables.push_str(&format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{location}';"));
        }
        cluster.ask(&tables).expect("tables can be made");
        for number in 1..=22 {
            let sql = format!("USE tpch; {}", tpch::query_text(number));
            let answer = cluster.ask(&sql).unwrap_or_else(|error| panic!("q{number}: {error}"));
            let rows: Vec<Vec<&str>> = answer.lines().map(|line| line.split('\t').collect()).collect();
            let expected = tpch::answer(number);
            assert_eq!(rows.len(), expected.len(), "q{number}");
            // Rows that ORDER BY leaves equal may come in any order, so each is looked for.
            let mut left = expected;
            for row in rows {
                let same = |it: &Vec<String>| it.iter().zip(&row).all(|(b, a)| agree(a, b));
                let at =
                    left.iter().position(same).unwrap_or_else(|| panic!("q{number}: {row:?} is not in the answer"));
                left.remove(at);
            }
        }
        let plan = cluster.ask("USE tpch; EXPLAIN SELECT l_returnflag, count(*) FROM lineitem GROUP BY l_returnflag");
        let plan = plan.expect("a plan can be shown");
        let hosts = cluster.ask("SELECT count(DISTINCT host) FROM system.nodes WHERE role = 'worker'");
        assert_eq!(hosts.as_deref(), Ok("3\n"), "each worker is a host of its own");
        let stage = plan.split("  Stage: ").nth(1).expect("the plan has stages");
        assert_eq!(stage.matches(":9090 (").count(), 3, "tasks on three hosts: {stage}");

        // A worker is taken away under a running query, in four ways. The query ends rightly or says who was lost, the
        // next one is answered by those that are left, and the worker comes back.
        let network = format!("{}_default", cluster.project);
        let ways: [(&str, &[&str], &[&str]); 4] = [
            ("stopped", &["stop", "--time", "10"], &["start"]),
            ("killed", &["kill"], &["start"]),
            ("paused", &["pause"], &["unpause"]),
            ("cut off", &["network", "disconnect", &network], &["network", "connect", &network]),
        ];
        for (n, (way, take, give)) in ways.into_iter().enumerate() {
            cluster.wait_for_workers(3);
            let worker = cluster.ids("worker").remove(n % 3);
            let running = cluster.client("coordinator", &["-e", LONG]);
            let running = spawn(running);
            cluster.wait_for("SELECT count(*) >= 3 FROM system.tasks", "1", Duration::from_secs(20));
            let lost = Instant::now();
            cluster.docker_insists(&[take, &[&worker]].concat());
            let outcome = said(running.wait_with_output().expect("the client ends"));
            let took = lost.elapsed();
            eprintln!("a worker {way}: after {took:?} {outcome:?}");
            match outcome {
                Ok(answer) => assert_eq!(answer.trim(), "1498500000000", "a worker {way}"),
                Err(error) => {
                    assert!(error.contains("ERROR") && took < Duration::from_secs(60), "a worker {way}: {error}")
                }
            }
            cluster.wait_for_workers(2);
            cluster.wait_for("SELECT sum(number) FROM numbers(1000)", "499500", Duration::from_secs(20));
            cluster.docker(&[give, &[&worker]].concat());
        }
        cluster.wait_for_workers(3);

        // One more worker, then a restart of each in turn while queries go on: none of them notices.
        cluster.up(4);
        cluster.wait_for_workers(4);
        let n_answers = under_load(&cluster, LOAD, LOAD_ANSWER, || {
            for worker in cluster.ids("worker") {
                cluster.docker(&["restart", "--time", "60", &worker]);
                cluster.wait_for_workers(4);
            }
        });
        eprintln!("a restart of four workers, one after another: {n_answers} queries were answered meanwhile");

        // Tables of the cluster's own lie where all nodes see them.
        let made = "CREATE TABLE default.kept AS SELECT number AS n FROM numbers(300000)";
        cluster.ask(made).expect("a managed table can be made");
        cluster.wait_for("SELECT sum(n) FROM default.kept", "44999850000", Duration::from_secs(20));

        // Volumes outlive the containers.
        cluster.compose(&["down", "--timeout", "10"]);
        cluster.up(3);
        cluster.wait_for("SELECT count(*) FROM tpch.lineitem", "600572", Duration::from_secs(40));
        cluster.wait_for("SELECT sum(n) FROM default.kept", "44999850000", Duration::from_secs(20));
    });
}

/// Asks a query again and again, several at a time, while `work` goes on; each answer must be right. Gives their number.
fn under_load(cluster: &Containers, sql: &str, expected: &str, work: impl FnOnce()) -> usize {
    const CLIENTS: usize = 2;
    let stop = AtomicBool::new(false);
    let ask = || {
        let mut n_answers = 0;
        while !stop.load(Ordering::Relaxed) {
            let answer = cluster.ask(sql);
            assert_eq!(answer.as_deref().map(str::trim), Ok(expected), "after {n_answers} right answers");
            n_answers += 1;
        }
        n_answers
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
        // Stopped also when the work fails: else the test would never end.
        let done = catch_unwind(AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let n_answers = clients.into_iter().map(|client| client.join().expect("each answer was right")).sum();
        done.unwrap_or_else(|panic| resume_unwind(panic));
        n_answers
    })
}

#[test]
fn three_coordinators_survive_the_loss_of_their_leader() {
    const PATIENCE: Duration = Duration::from_secs(40);
    const LEADER: &str = "SELECT node FROM system.raft WHERE role = 'leader'";
    alone(DEADLINE, async {
        let Some(cluster) = Containers::new("ha", "ha.yml") else { return };
        cluster.up(3);
        let coordinators = ["coordinator-1", "coordinator-2", "coordinator-3"];
        for server in coordinators {
            let copies = "SELECT count(*) FROM system.raft WHERE role IN ('leader', 'follower')";
            cluster.wait_for_of(server, copies, "3", PATIENCE);
            let workers = "SELECT count(*) FROM system.nodes WHERE role = 'worker' AND state = 'alive'";
            cluster.wait_for_of(server, workers, "3", PATIENCE);
        }
        cluster.ask_of("coordinator-2", "CREATE DATABASE kept").expect("a database can be made");
        let kept = "SELECT count(*) FROM system.databases WHERE name IN ('kept', 'later')";
        for server in coordinators {
            cluster.wait_for_of(server, kept, "1", Duration::from_secs(5));
        }

        let leader = cluster.ask_of("coordinator-1", LEADER).expect("there is a leader").trim().to_owned();
        let others = coordinators.map(str::to_owned).into_iter().filter(|it| *it != leader).collect::<Vec<_>>();
        let id = cluster.ids(&leader).remove(0);
        cluster.docker(&["kill", &id]);
        let lost = Instant::now();
        cluster.ask_of(&others[0], "CREATE DATABASE later").expect("two of three go on");
        eprintln!(
            "{leader} was killed; the next change was done after {:?}, its client's start included",
            lost.elapsed()
        );
        cluster.wait_for_of(&others[1], kept, "2", Duration::from_secs(10));
        cluster.wait_for_of(&others[1], "SELECT sum(number) FROM numbers(1000)", "499500", PATIENCE);

        // The lost one comes back and catches up.
        cluster.docker(&["start", &id]);
        cluster.wait_for_of(&leader, kept, "2", PATIENCE);
        cluster.wait_for_of(&leader, "SELECT sum(number) FROM numbers(1000)", "499500", PATIENCE);
    });
}

#[test]
fn one_container_is_a_whole_database_and_stops_in_order() {
    alone(DEADLINE, async {
        let Some(single) = Containers::new("single", "single.yml") else { return };
        single.compose(&["up", "--detach", "--no-build"]);
        let id = single.ids("sheaf").remove(0);
        let deadline = Instant::now() + Duration::from_secs(40);
        let health = |id: &str| single.docker(&["inspect", "--format", "{{.State.Health.Status}}", id]);
        while health(&id).trim() != "healthy" {
            assert!(Instant::now() < deadline, "the container is {}:\n{}", health(&id), single.logs());
            std::thread::sleep(Duration::from_millis(200));
        }
        let inside = |args: &[&str]| single.docker(&[&["exec", id.as_str()], args].concat());
        let user = single.docker(&["inspect", "--format", "{{.Config.User}}", &id]);
        assert_eq!(user, "10001:10001\n", "the server is not root");
        assert_eq!(inside(&["sheaf", "sql", "-N", "-e", "SELECT 6 * 7"]), "42\n");
        let stopping = Instant::now();
        single.docker(&["stop", "--time", "15", &id]);
        assert!(stopping.elapsed() < Duration::from_secs(12), "SIGTERM was not heard");
        assert_eq!(single.docker(&["inspect", "--format", "{{.State.ExitCode}}", &id]), "0\n");
    });
}

fn spawn(mut command: Command) -> std::process::Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("docker can be run")
}
