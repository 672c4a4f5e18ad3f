//! `sheaf cluster` from the outside: a cluster that is left in the background, looked at, hurt, and stopped.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sheaf_tests::{alone, binary};

const DEADLINE: Duration = Duration::from_secs(120);

fn cluster(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(binary::sheaf());
    command.arg("cluster").args(args).arg("--data-dir").arg(dir.join("cluster")).current_dir(dir).stdin(Stdio::null());
    command.output().expect("the binary was built")
}

/// The answer of a coordinator.
fn ask(port: u64, sql: &str) -> (String, String, Option<i32>) {
    let mut command = Command::new(binary::sheaf());
    command.args(["sql", "--port", &port.to_string(), "-N", "-e", sql]).stdin(Stdio::null());
    said(&command.output().expect("the binary was built"))
}

/// The ports for MySQL clients, of each coordinator.
fn mysql_ports(dir: &Path) -> Vec<u64> {
    let text = std::fs::read(dir.join("cluster/cluster.json")).expect("the cluster says where it is");
    let value: Value = serde_json::from_slice(&text).expect("the file is JSON");
    value["mysql_ports"].as_array().expect("a list of ports").iter().filter_map(Value::as_u64).collect()
}

/// Waits until `sheaf cluster status` gives this exit status, and says this.
fn wait_for_status(dir: &Path, code: i32, says: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (out, err, found) = said(&cluster(dir, &["status"]));
        if found == Some(code) && (out.contains(says) || err.contains(says)) {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?} {out}{err}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn kill(pid: i32) {
    // SAFETY: a signal to a node of a test's own cluster, whose process is its parent and has not waited for it.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

fn said(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

fn process(file: &Path) -> i32 {
    let text = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let value: Value = serde_json::from_slice(&text).expect("the file is JSON");
    i32::try_from(value["pid"].as_i64().expect("a process id")).expect("process ids are small")
}

fn is_alive(pid: i32) -> bool {
    // SAFETY: signal 0 only asks whether the process is there.
    unsafe { libc::kill(pid, 0) == 0 }
}

/// Stops the cluster also when the test fails.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        cluster(self.0, &["down"]);
    }
}

#[test]
fn a_cluster_in_the_background_is_looked_at_and_stopped() {
    alone(DEADLINE, async {
        let dir = tempfile::tempdir().expect("a folder can be made");
        let (_, err, code) = said(&cluster(dir.path(), &["status"]));
        assert!(code == Some(1) && err.contains("no cluster runs in"), "{err}");

        let up = ["up", "--workers", "2", "--cores", "1", "--memory", "256MiB", "--detach"];
        let _down = Down(dir.path());
        let (out, err, code) = said(&cluster(dir.path(), &up));
        assert!(code == Some(0) && out.contains("coordinator, worker-1, worker-2"), "{out}{err}");
        let nodes = ["coordinator", "worker-1", "worker-2"];
        let pids = nodes.map(|node| process(&dir.path().join("cluster").join(node).join("node.json")));
        let (_, err, code) = said(&cluster(dir.path(), &up));
        assert!(code == Some(1) && err.contains("runs in"), "{err}");

        let (out, err, code) = said(&cluster(dir.path(), &["status"]));
        assert!(code == Some(0) && out.matches("alive").count() == 3, "{out}{err}");

        // A cluster goes on without a worker, and says which.
        kill(pids[2]);
        wait_for_status(dir.path(), 1, "not alive: worker-2");

        let (out, err, code) = said(&cluster(dir.path(), &["down"]));
        assert_eq!((out.as_str(), code), ("stopped, nothing is left running\n", Some(0)), "{err}");
        assert!(!is_alive(pids[0]) && !is_alive(pids[1]), "a node outlived its cluster");
    });
}

#[test]
fn coordinators_keep_the_metadata_together_and_over_a_restart() {
    alone(DEADLINE, async {
        let dir = tempfile::tempdir().expect("a folder can be made");
        let up = |more: &[&str]| {
            let args = ["up", "--workers", "1", "--cores", "1", "--memory", "256MiB", "--detach"];
            said(&cluster(dir.path(), &[args.as_slice(), more].concat()))
        };
        let _down = Down(dir.path());
        let (out, err, code) = up(&["--coordinators", "3"]);
        assert!(code == Some(0) && out.contains("the other coordinators listen on"), "{out}{err}");
        wait_for_status(dir.path(), 0, "coordinator-3");
        let ports = mysql_ports(dir.path());
        assert_eq!(ports.len(), 3, "{ports:?}");
        let made = ask(ports[2], "CREATE DATABASE kept");
        assert_eq!(made, (String::new(), String::new(), Some(0)));
        for port in &ports {
            let (out, err, _) = ask(*port, "SHOW DATABASES LIKE 'kept'");
            assert_eq!(out, "kept\n", "{err}");
        }

        // One may be lost, the first too: the others go on, and say which is gone.
        kill(process(&dir.path().join("cluster/coordinator/node.json")));
        wait_for_status(dir.path(), 1, "not alive: coordinator");
        let (_, err, code) = ask(ports[1], "CREATE DATABASE later");
        assert_eq!(code, Some(0), "{err}");

        // A worker is drained by any of them.
        let (out, err, code) = said(&cluster(dir.path(), &["drain", "worker-1"]));
        assert!(code == Some(0) && out.contains("worker-1 is drained"), "{out}{err}");
        // It has left, and is not missed.
        wait_for_status(dir.path(), 1, "not alive: coordinator\n");
        let (out, err, code) = said(&cluster(dir.path(), &["down"]));
        assert_eq!((out.as_str(), code), ("stopped, nothing is left running\n", Some(0)), "{err}");

        // As many as there were, and what all of them know is there again.
        let (_, err, code) = up(&["--coordinators", "1"]);
        assert!(code == Some(1) && err.contains("holds a cluster of 3 coordinators"), "{err}");
        let (out, err, code) = up(&[]);
        assert!(code == Some(0) && out.contains("coordinator, coordinator-2, coordinator-3, worker-1"), "{out}{err}");
        wait_for_status(dir.path(), 0, "alive");
        for port in mysql_ports(dir.path()) {
            let (out, err, _) = ask(port, "SHOW DATABASES WHERE `Database` IN ('kept', 'later')");
            assert_eq!(out, "kept\nlater\n", "{err}");
        }
    });
}
