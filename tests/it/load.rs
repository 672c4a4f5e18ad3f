//! `LOAD DATA LOCAL INFILE` with the files of real clients.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sheaf_tests::{Cluster, ClusterSpec, alone, skip};

use crate::clients::{found, script};

const DEADLINE: Duration = Duration::from_secs(180);

pub fn command(program: &str, cluster: &Cluster, user: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--user", user, "--skip-ssl"]);
    command.args(["--port", &cluster.mysql_port().to_string()]);
    command
}

pub fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}:\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn pymysql_sends_its_files() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(1)).await;
        script("load_client.py", cluster.mysql_port(), &[]);
    });
}

#[test]
fn the_command_line_sends_its_files() {
    let Some(program) = found(&["mariadb", "mysql"]) else {
        return skip("LOAD DATA LOCAL of the command line", "neither mariadb nor mysql is installed");
    };
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::default()).await;
        let mut client = cluster.connect().await;
        for sql in
            ["CREATE DATABASE loads", "CREATE TABLE loads.t (a INT, b VARCHAR(9))", "SET GLOBAL local_infile = ON"]
        {
            client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        let file = cluster.dir().join("sent.csv");
        std::fs::write(&file, "a;b\n1;x\n2;\"y;z\"\n").expect("the cluster's folder can be written");
        let sql = format!(
            "LOAD DATA LOCAL INFILE '{}' INTO TABLE loads.t FIELDS TERMINATED BY ';' ENCLOSED BY '\"' IGNORE 1 LINES; \
             SELECT * FROM loads.t ORDER BY a",
            file.display()
        );
        let said = succeed(command(program, &cluster, "root").args(["--local-infile=1", "--batch", "-e", &sql]));
        assert_eq!(said, "a\tb\n1\tx\n2\ty;z\n");
        // A client that does not send files is refused, not waited for.
        let output = command(program, &cluster, "root").args(["--local-infile=0", "-e", &sql]).output();
        let said = String::from_utf8_lossy(&output.expect("it ran a moment ago").stderr).into_owned();
        assert!(said.contains("ERROR"), "{said}");
        assert_eq!(client.query("SELECT count(*) FROM loads.t").await.unwrap().cell(), "2");
    });
}

/// A client that dies while it sends leaves no row behind.
#[test]
fn half_a_file_is_no_file() {
    let Some(program) = found(&["mariadb", "mysql"]) else {
        return skip("half a file", "neither mariadb nor mysql is installed");
    };
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::default()).await;
        let mut client = cluster.connect().await;
        for sql in ["CREATE DATABASE loads", "CREATE TABLE loads.t (a INT)", "SET GLOBAL local_infile = ON"] {
            client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        // A pipe that is never closed: the client reads what is there, and waits.
        let pipe = cluster.dir().join("pipe");
        succeed(Command::new("mkfifo").arg(&pipe));
        let sql = format!("LOAD DATA LOCAL INFILE '{}' INTO TABLE loads.t", pipe.display());
        let mut sending = command(program, &cluster, "root")
            .args(["--local-infile=1", "-e", &sql])
            .stdin(Stdio::null())
            .spawn()
            .expect("the client is installed");
        let path = pipe.clone();
        let writer = std::thread::spawn(move || {
            use std::io::Write;
            let mut pipe = std::fs::OpenOptions::new().write(true).open(path).expect("the client reads it");
            pipe.write_all("1\n".repeat(100_000).as_bytes()).expect("the client reads it");
            pipe
        });
        let pipe = writer.join().expect("the lines were written");
        let running = "SELECT count(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'LOAD DATA%'";
        wait_for(&mut client, running, "1").await;
        sending.kill().expect("it still runs");
        sending.wait().expect("it was killed");
        drop(pipe);
        wait_for(&mut client, running, "0").await;
        assert_eq!(client.query("SELECT count(*) FROM loads.t").await.unwrap().cell(), "0");
    });
}

async fn wait_for(client: &mut sheaf_tests::Client, sql: &str, expected: &str) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let found = client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        if found.cell() == expected {
            return;
        }
        assert!(Instant::now() < until, "{sql} is {} and not {expected}", found.cell());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
