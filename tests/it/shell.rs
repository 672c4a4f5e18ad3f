//! `sheaf sql` as scripts and people use it: forms of answers, exit statuses, an engine without a server, a terminal.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use sheaf_tests::terminal::Terminal;
use sheaf_tests::{Cluster, ClusterSpec, alone, binary};

const DEADLINE: Duration = Duration::from_secs(120);
/// What a terminal shows within.
const PATIENCE: Duration = Duration::from_secs(20);
/// A query that nobody waits for the end of.
const ENDLESS: &str = "SELECT sum(a.number % 7) FROM numbers(100000000000) a";

fn shell(args: &[&str]) -> Command {
    let mut command = Command::new(binary::sheaf());
    command.arg("sql").args(args).env("SHEAF_SQL_HISTORY", "").stdin(Stdio::null());
    command
}

fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary was built");
    // A command line that is refused reads nothing.
    let _ = child.stdin.take().expect("standard input is a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("the shell can be waited for")
}

/// Standard output, standard error and exit status.
fn said(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

#[test]
fn scripts_get_plain_answers_and_exit_statuses() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::default()).await;
        let port = cluster.mysql_port().to_string();
        let ask = |args: &[&str], input: &str| said(&run(shell(&["--port", &port]).args(args), input));
        let (out, err, code) = ask(&["-e", "SELECT 1 AS a, NULL AS b, 'x\ty' AS c; SELECT 2 AS d"], "");
        assert_eq!((out.as_str(), err.as_str(), code), ("a\tb\tc\n1\tNULL\tx\\ty\nd\n2\n", "", Some(0)));

        let two = "SELECT number AS n, cast(number AS DECIMAL(5,1)) AS d FROM numbers(2) ORDER BY n;";
        for (format, expected) in [
            ("csv", "n,d\n0,0.0\n1,1.0\n"),
            ("json", "[\n{\"n\":0,\"d\":0.0},\n{\"n\":1,\"d\":1.0}\n]\n"),
            ("table", "+---+-----+\n| n | d   |\n+---+-----+\n| 0 | 0.0 |\n| 1 | 1.0 |\n+---+-----+\n"),
            ("markdown", "| n | d |\n|---:|---:|\n| 0 | 0.0 |\n| 1 | 1.0 |\n"),
        ] {
            let (out, err, code) = ask(&["--format", format], two);
            assert_eq!((out.as_str(), err.as_str(), code), (expected, "", Some(0)), "{format}");
        }
        let (out, ..) = ask(&["-N"], "SELECT 1\\G SELECT 2;");
        assert_eq!(
            out,
            "*************************** 1. row ***************************\nInt64(1): 1\n2\n".replace("Int64(1)", "1")
        );

        // A failed statement ends a script, at its line; unless it is told to go on.
        let script = "SELECT 1;\n\nSELECT nothing;\nSELECT 3;";
        let (out, err, code) = ask(&["-N"], script);
        assert_eq!((out.as_str(), code), ("1\n", Some(1)));
        assert!(err.starts_with("ERROR 1054 (42S22) at line 3: "), "{err}");
        let (out, _, code) = ask(&["-N", "--force"], script);
        assert_eq!((out.as_str(), code), ("1\n3\n", Some(1)));

        let dir = tempfile::tempdir().expect("a folder can be made");
        let (inner, outer) = (dir.path().join("inner.sql"), dir.path().join("outer.sql"));
        std::fs::write(&inner, "SELECT 'inner';\n").expect("the folder can be written");
        std::fs::write(&outer, format!("source {}\nuse system; SELECT DATABASE();", inner.display()))
            .expect("as above");
        let (out, err, code) = ask(&["-N", "-f", outer.to_str().expect("the path is Unicode")], "");
        assert_eq!((out.as_str(), err.as_str(), code), ("inner\nsystem\n", "", Some(0)));

        let parquet = dir.path().join("out.parquet");
        let written = "SELECT number, cast('2024-02-29' AS DATE) AS day FROM numbers(20000)";
        let (_, err, code) =
            ask(&["-e", written, "--format", "parquet", "-o", parquet.to_str().expect("the path is Unicode")], "");
        assert_eq!((err.as_str(), code), ("", Some(0)));
        let counted = format!("SELECT count(*), sum(number), max(day) FROM '{}'", parquet.display());
        let (out, err, code) = said(&run(&mut shell(&["--local", "-N", "-e", &counted]), ""));
        assert_eq!((out.as_str(), err.as_str(), code), ("20000\t199990000\t2024-02-29\n", "", Some(0)));

        // A reader that has seen enough is no failure.
        let endless = format!(
            "'{}' sql --port {port} -N -e 'SELECT number FROM numbers(1000000000)' | head -1",
            binary::sheaf().display()
        );
        let output = Command::new("bash").args(["-o", "pipefail", "-c", &endless]).output().expect("bash can be run");
        let (out, err, code) = said(&output);
        assert_eq!((out.lines().count(), err.as_str(), code), (1, "", Some(0)));
    });
}

#[test]
fn tls_is_spoken_as_far_as_it_is_asked_for() {
    alone(DEADLINE, async {
        let spec = ClusterSpec { flags: vec!["--mysql-listen", "0.0.0.0:0", "--insecure"], ..ClusterSpec::default() };
        let cluster = Cluster::start(spec).await;
        let port = cluster.mysql_port().to_string();
        let ca = cluster.coordinator.dir().join("tls/ca.pem").display().to_string();
        let ask = |args: &[&str]| {
            let version = ["--port", &port, "-N", "-e", "SHOW STATUS LIKE 'Ssl_version'; SELECT repeat('x', 100000)"];
            said(&run(shell(&version).args(args), ""))
        };
        let long = "x".repeat(100_000);
        let (secured, plain) = (format!("Ssl_version\tTLSv1.3\n{long}\n"), format!("Ssl_version\t\n{long}\n"));
        for (args, expected) in [
            (["--ssl-mode", "disabled"].as_slice(), &plain),
            (&[], &secured),
            (&["--ssl-mode", "REQUIRED"], &secured),
            (&["--ssl-ca", &ca], &secured),
            (&["--ssl-mode", "verify-identity", "--ssl-ca", &ca], &secured),
            // Signed by the same authority, and another name.
            (&["--ssl-mode", "verify-ca", "--ssl-ca", &ca, "--host", "127.0.0.2"], &secured),
        ] {
            let (out, err, code) = ask(args);
            assert_eq!((out.as_str(), err.as_str(), code), (expected.as_str(), "", Some(0)), "{args:?}");
        }
        let (_, err, code) = ask(&["--ssl-mode", "verify-identity", "--ssl-ca", &ca, "--host", "127.0.0.2"]);
        assert!(code == Some(3) && err.contains("there is no TLS connection") && err.contains("127.0.0.2"), "{err}");
        let (_, err, code) = ask(&["--ssl-mode", "verify-ca"]);
        assert!(code == Some(1) && err.contains("--ssl-ca FILE"), "{err}");

        // Another authority's word is not enough.
        let other = Cluster::start(ClusterSpec::default()).await;
        let stranger = other.coordinator.dir().join("tls/ca.pem").display().to_string();
        let (_, err, code) = ask(&["--ssl-ca", &stranger]);
        assert!(code == Some(3) && err.contains("there is no TLS connection"), "{err}");

        // What is refused is told as without TLS, and so is a password.
        let (_, err, code) = ask(&["--user", "nobody"]);
        assert!(code == Some(3) && err.contains("ERROR 1045 (28000)"), "{err}");
        let (_, err, code) = ask(&["-e", "CREATE USER ann IDENTIFIED BY 'se cret' REQUIRE SSL"]);
        assert_eq!(code, Some(0), "{err}");
        // The whole password first, then what the server remembers of it.
        for _ in 0..2 {
            assert_eq!(ask(&["--user", "ann", "-pse cret"]), (secured.clone(), String::new(), Some(0)));
        }
        let (_, err, code) = ask(&["--user", "ann", "--password=se cret", "--ssl-mode", "disabled"]);
        assert!(code == Some(3) && err.contains("ERROR"), "{err}");
    });
}

#[test]
fn what_cannot_be_reached_has_a_status_of_its_own() {
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free").local_addr().expect("it has one").port();
    let (out, err, code) = said(&run(&mut shell(&["--port", &port.to_string(), "-e", "SELECT 1"]), ""));
    assert_eq!((out.as_str(), code), ("", Some(3)));
    assert!(err.contains(&format!("cannot connect to 127.0.0.1:{port}")), "{err}");
    let (_, err, code) = said(&run(&mut shell(&["--formt", "csv"]), ""));
    assert!(code == Some(2) && err.contains("'--format'"), "{err}");
}

#[test]
fn a_local_engine_reads_files_without_a_server() {
    let dir = tempfile::tempdir().expect("a folder can be made");
    let file = dir.path().join("trips.csv");
    std::fs::write(&file, "city,km\nBonn,3\nKöln,4\nBonn,5\n").expect("the folder can be written");
    let sql = "SELECT city, sum(km) AS km FROM 'trips.csv' GROUP BY city ORDER BY city; SELECT nothing;";
    let mut command = shell(&["--local", "-e", sql, "--format", "csv"]);
    let (out, err, code) = said(&run(command.current_dir(dir.path()), ""));
    assert_eq!((out.as_str(), code), ("city,km\nBonn,8\nKöln,4\n", Some(1)));
    assert!(err.starts_with("ERROR 1054 (42S22) at line 1: "), "{err}");

    // What is made in a data folder is there the next time.
    let data = dir.path().join("data");
    let local = |sql: &str| {
        let mut command =
            shell(&["--local", "--data-dir", data.to_str().expect("the path is Unicode"), "-N", "-e", sql]);
        said(&run(command.current_dir(dir.path()), ""))
    };
    let made = format!("CREATE EXTERNAL TABLE trips STORED AS CSV LOCATION '{}'", file.display());
    assert_eq!(local(&made), (String::new(), String::new(), Some(0)));
    assert_eq!(local("SELECT count(*) FROM trips"), ("3\n".to_owned(), String::new(), Some(0)));
}

fn terminal(args: &[&str], dir: &Path) -> Terminal {
    let mut command = Command::new(binary::sheaf());
    command.arg("sql").args(args).current_dir(dir).env("SHEAF_SQL_HISTORY", dir.join("history"));
    Terminal::start(command).expect("a terminal can be had")
}

#[test]
fn a_person_edits_completes_and_cancels() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(2).cores(1)).await;
        let port = cluster.mysql_port().to_string();
        let dir = tempfile::tempdir().expect("a folder can be made");
        let set = ["--set", "min_distribute_bytes=0", "--set", "bytes_per_task=0"];
        let mut person = terminal(&[["--port", &port].as_slice(), &set].concat(), dir.path());

        person.wait_for("sheaf> ", PATIENCE);
        // A statement of two lines, then one that ends with \G.
        person.type_keys("SELECT 40 + 2\rAS answer;\r");
        person.wait_for("|     42 |", PATIENCE);
        person.wait_for("1 row (", PATIENCE);
        person.type_keys("SELECT 6 AS six\\G\r");
        person.wait_for("six: 6", PATIENCE);

        // Names are completed, keywords too.
        person.type_keys("use sys\t;\r");
        person.wait_for("sheaf system> ", PATIENCE);
        person.type_keys("sel\t name from settin\t where name = 'max_threads';\r");
        person.wait_for("| max_threads |", PATIENCE);
        person.type_keys("\\d one\r");
        person.wait_for("| dummy ", PATIENCE);

        // Ctrl-C at the prompt forgets the line; while a statement runs it ends the statement and nothing else.
        person.type_keys("SELECT oops\x03");
        person.wait_for("oops\nsheaf system> ", PATIENCE);
        person.type_keys(&format!("{ENDLESS};\r"));
        let line = person.wait_for("Ctrl-C cancels", PATIENCE);
        assert!(line.contains("running") || line.contains("stages"), "{line}");
        person.wait_for("tasks 0/", PATIENCE);
        person.type_keys("\x03");
        person.wait_for("ERROR 1317 (70100)", PATIENCE);
        person.type_keys("SELECT 'still here';\r");
        person.wait_for("| still here |", PATIENCE);

        // What is longer than the screen goes through a pager, and leaving it ends the statement.
        person.type_keys("\\P head -n 4\r");
        person.wait_for("4\nsheaf system> ", PATIENCE);
        person.type_keys("SELECT number FROM numbers(100000000);\r");
        person.wait_for("| number ", PATIENCE);
        person.wait_for("sheaf system> ", PATIENCE);
        person.type_keys("SELECT 'after the pager';\r");
        person.wait_for("| after the pager |", PATIENCE);

        person.type_keys("\\q\r");
        assert!(person.wait(PATIENCE).success());
        let history = std::fs::read_to_string(dir.path().join("history")).expect("the history was kept");
        assert!(history.contains("still here") && !history.contains("oops"), "{history}");

        // Nothing is left of what was cancelled.
        let mut client = cluster.connect().await;
        let left = client.query("SELECT count(*) FROM system.tasks").await.expect("the server answers");
        assert_eq!(left.cell(), "0");
    });
}

#[test]
fn a_local_shell_cancels_too() {
    let dir = tempfile::tempdir().expect("a folder can be made");
    let mut person = terminal(&["--local"], dir.path());
    person.wait_for("sheaf default> ", PATIENCE);
    person.type_keys(&format!("{ENDLESS};\r"));
    person.wait_for("running · ", PATIENCE);
    person.type_keys("\x03");
    person.wait_for("ERROR 1317 (70100)", PATIENCE);
    person.type_keys("\x04");
    assert!(person.wait(PATIENCE).success());
}
