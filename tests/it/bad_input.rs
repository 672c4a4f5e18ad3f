//! What a user can get wrong: each time one clear error with the right number, and a session, or a server, that goes on.
//!
//! Wrong statements that fit on a line stand in `suites/errors.slt`; here are the large ones, broken files, and the
//! command line.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use sheaf_tests::{Client, Cluster, ClusterSpec, Failure, Table, alone, binary, fixtures, skip};

const DEADLINE: Duration = Duration::from_secs(180);

async fn run(client: &mut Client, sql: &str) -> Table {
    client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// An answer, or an error with a number: not a lost connection. The session answers afterwards.
async fn answers_or_errs(client: &mut Client, what: &str, sql: &str) -> Result<Table, Failure> {
    let started = Instant::now();
    let answer = client.query_within(Duration::from_secs(60), sql).await;
    eprintln!(
        "{what}: {:.100} ({:?})",
        answer.as_ref().map_or_else(ToString::to_string, |_| "answered".to_owned()),
        started.elapsed()
    );
    if let Err(error) = &answer {
        assert!(error.code.is_some(), "{what}: {error}");
    }
    assert_eq!(run(client, "SELECT 1").await.cell(), "1", "after {what}");
    answer
}

fn nested_subqueries(n: usize) -> String {
    format!("{}SELECT 1 AS x{}", "SELECT x FROM (".repeat(n), ") AS t".repeat(n))
}

fn many_ors(n: usize) -> String {
    let terms: Vec<String> = (0..n).map(|i| format!("number = {}", i * 2)).collect();
    format!("SELECT count(*) FROM numbers(100) WHERE {}", terms.join(" OR "))
}

fn many_unions(n: usize) -> String {
    let arms: Vec<String> = (0..n).map(|i| format!("SELECT {i} AS x")).collect();
    format!("SELECT count(*), sum(x) FROM ({}) AS t", arms.join(" UNION ALL "))
}

fn many_columns(n: usize) -> String {
    let columns: Vec<String> = (0..n).map(|i| format!("number + {i} AS c{i}")).collect();
    format!("SELECT {} FROM numbers(3)", columns.join(", "))
}

#[test]
fn huge_statements_end_in_an_answer_or_an_error() {
    alone(DEADLINE, async {
        for workers in [0, 3] {
            let cluster = Cluster::start(ClusterSpec::workers(workers)).await;
            let mut client = cluster.connect_distributed(None).await;
            let nested = answers_or_errs(&mut client, "200 nested subqueries", &nested_subqueries(200)).await;
            if let Ok(table) = nested {
                assert_eq!(table.cell(), "1");
            }
            if let Ok(table) = answers_or_errs(&mut client, "10,000 ORs", &many_ors(10_000)).await {
                assert_eq!(table.cell(), "50");
            }
            if let Ok(table) = answers_or_errs(&mut client, "1,000 UNION ALL arms", &many_unions(1_000)).await {
                assert_eq!(table.rows, [["1000", "499500"]]);
            }
            if let Ok(table) = answers_or_errs(&mut client, "5,000 columns", &many_columns(5_000)).await {
                assert_eq!((table.columns.len(), table.rows.len()), (5_000, 3));
            }
            let parentheses = format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000));
            let _ = answers_or_errs(&mut client, "20,000 parentheses", &parentheses).await;
            let minuses = format!("SELECT {}1", "- ".repeat(20_000));
            let _ = answers_or_errs(&mut client, "20,000 minus signs", &minuses).await;
        }
    });
}

async fn error(client: &mut Client, sql: &str) -> Failure {
    let error = match client.query(sql).await {
        Ok(table) => panic!("{sql} gave {:?}", table.rows),
        Err(error) => error,
    };
    assert_eq!(run(client, "SELECT 1").await.cell(), "1", "after {sql}");
    error
}

#[test]
fn broken_files_are_named() {
    alone(DEADLINE, async {
        for workers in [0, 3] {
            let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(workers)).await;
            let files = cluster.dir().join("fixtures");
            let mut client = cluster.connect_distributed(Some("suite")).await;
            let select = |name: &str| format!("SELECT count(*), sum(id) FROM '{}'", files.join(name).display());

            let missing = error(&mut client, &select("no_such.parquet")).await;
            assert_eq!(missing.code, Some(1017), "{missing}");
            assert!(missing.message.contains("no_such.parquet"), "{missing}");
            let corrupt = error(&mut client, &select("corrupt.parquet")).await;
            assert_eq!(corrupt.code, Some(1017), "{corrupt}");
            assert!(corrupt.message.contains("corrupt.parquet"), "{corrupt}");
            let outside = error(&mut client, "SELECT * FROM '/etc/passwd'").await;
            assert_eq!(outside.code, Some(1142), "{outside}");

            damaged_pages_are_an_error(&mut client, &files).await;
            a_replaced_file_is_read_anew(&mut client, &files).await;
            a_vanished_file_is_an_error(&mut client, &files).await;
        }
    });
}

/// The footer is whole, the pages behind it are not.
async fn damaged_pages_are_an_error(client: &mut Client, files: &Path) {
    let folder = files.join("damaged");
    std::fs::create_dir_all(&folder).expect("the fixtures' folder can be written");
    let mut bytes = std::fs::read(files.join("facts/0.parquet")).expect("the fixture was written");
    let pages = bytes.len() / 3;
    bytes[4..pages].fill(0x5a);
    std::fs::write(folder.join("0.parquet"), bytes).expect("the fixtures' folder can be written");
    run(client, &format!("CREATE EXTERNAL TABLE damaged STORED AS PARQUET LOCATION '{}/'", folder.display())).await;
    let damaged = error(client, "SELECT sum(id), sum(v), min(g), sum(d) FROM damaged").await;
    assert_eq!(damaged.code, Some(1017), "{damaged}");
    assert!(damaged.message.contains("damaged"), "it does not name the file: {damaged}");
    run(client, "DROP TABLE damaged").await;
}

/// A query sees either the file as it was or as it is, never half of each.
async fn a_replaced_file_is_read_anew(client: &mut Client, files: &Path) {
    let folder = files.join("replaced");
    std::fs::create_dir_all(&folder).expect("the fixtures' folder can be written");
    let file = folder.join("0.parquet");
    std::fs::copy(files.join("one/0.parquet"), &file).expect("the fixture was written");
    run(client, &format!("CREATE EXTERNAL TABLE replaced STORED AS PARQUET LOCATION '{}/'", folder.display())).await;
    let count = "SELECT count(*), sum(id) FROM replaced";
    assert_eq!(run(client, count).await.rows, [["1", "7"]]);
    std::fs::copy(files.join("facts/0.parquet"), &file).expect("the fixture was written");
    assert_eq!(run(client, count).await.rows, [["37", "666"]]);
    run(client, "DROP TABLE replaced").await;
}

async fn a_vanished_file_is_an_error(client: &mut Client, files: &Path) {
    let folder = files.join("vanished");
    fixtures::copy_folder(&files.join("facts"), &folder);
    run(client, &format!("CREATE EXTERNAL TABLE vanished STORED AS PARQUET LOCATION '{}/'", folder.display())).await;
    let sum = "SELECT count(*), sum(id) FROM vanished";
    assert_eq!(run(client, sum).await.rows, [["240", "28680"]]);
    std::fs::remove_dir_all(&folder).expect("it was just made");
    let vanished = error(client, sum).await;
    assert_eq!(vanished.code, Some(1017), "{vanished}");
    assert!(vanished.message.contains("vanished"), "{vanished}");
    run(client, "DROP TABLE vanished").await;
}

/// Runs `sheaf` to its end. Panics when it does not end.
fn sheaf(args: &[&str], deadline: Duration) -> Output {
    let mut child = Command::new(binary::sheaf())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sheaf can be run");
    let started = Instant::now();
    while child.try_wait().expect("a child can be asked for its state").is_none() {
        if started.elapsed() > deadline {
            child.kill().expect("it runs");
            panic!("sheaf {args:?} did not end within {deadline:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("its output is read to the end")
}

/// The command fails, and says each of `words`.
fn fails_with(args: &[&str], words: &[&str]) {
    let output = sheaf(args, Duration::from_secs(60));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "sheaf {args:?} succeeded");
    for word in words {
        assert!(said.to_lowercase().contains(word), "sheaf {args:?} does not say {word:?}:\n{said}");
    }
    assert!(!said.contains("panicked"), "sheaf {args:?}:\n{said}");
}

#[test]
fn a_server_that_cannot_start_says_why() {
    alone(DEADLINE, async {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let data = dir.path().join("data").display().to_string();
        let free = ["--flight-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
        let server = |more: &[&str]| -> Vec<String> {
            ["server", "--data-dir", &data].iter().chain(free.iter()).chain(more).map(|arg| (*arg).to_owned()).collect()
        };
        let fails = |args: Vec<String>, words: &[&str]| {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            fails_with(&args, words);
        };

        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = taken.local_addr().expect("it is bound").port().to_string();
        fails(server(&["--mysql-listen", &format!("127.0.0.1:{port}")]), &[&port, "in use"]);
        fails(server(&["--no-such-option"]), &["--no-such-option"]);
        fails(server(&["--cores", "many"]), &["cores", "many"]);
        fails(server(&["--role", "king"]), &["role", "king"]);
        let file = dir.path().join("file");
        std::fs::write(&file, "no folder").expect("the temporary folder can be written");
        let below = file.join("data").display().to_string();
        fails_with(&["server", "--data-dir", &below, "--mysql-listen", "127.0.0.1:0"], &["file"]);
        fails_with(&["no-such-command"], &["no-such-command"]);
    });
}

#[test]
fn joining_nothing_is_tried_again_and_then_said() {
    alone(DEADLINE, async {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = nobody.local_addr().expect("it is bound").to_string();
        drop(nobody);
        let data = dir.path().join("data").display().to_string();
        let args =
            ["server", "--role", "worker", "--join", &address, "--data-dir", &data, "--flight-listen", "127.0.0.1:0"];
        let mut args = args.to_vec();
        args.extend(["--http-listen", "127.0.0.1:0", "--join-timeout", "3s"]);
        let output = sheaf(&args, Duration::from_secs(30));
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "it joined nothing");
        assert!(said.contains(&address), "it does not name {address}:\n{said}");
    });
}

/// What `sheaf sql --local` says to a statement that has to fail, run as somebody who may not read everything.
fn local_error(folder: &Path, is_root: bool, sql: &str) -> String {
    // Root reads whatever the bits of a file say, unless it gives that up.
    let capabilities = "-dac_override,-dac_read_search";
    let mut command = match is_root {
        true => Command::new("setpriv"),
        false => Command::new(binary::sheaf()),
    };
    if is_root {
        command.args(["--bounding-set", capabilities, "--inh-caps", capabilities, "--"]).arg(binary::sheaf());
    }
    command.args(["sql", "--local", "-e", sql]).current_dir(folder).stdin(Stdio::null());
    let output = command.output().expect("setpriv can be run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{sql} succeeded: {}", String::from_utf8_lossy(&output.stdout));
    assert!(!said.contains("panicked"), "{sql}: {said}");
    said
}

#[test]
fn files_without_permission_are_named() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let path = |name: &str| dir.path().join(name);
    let forbid = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    std::fs::create_dir_all(path("it's/out")).expect("the folder can be written");
    std::fs::write(path("it's/open.csv"), "a\n1\n").expect("as above");
    std::fs::write(path("it's/closed.csv"), "a\n1\n").expect("as above");
    forbid(&path("it's/closed.csv"), 0);
    forbid(&path("it's/out"), 0o500);
    let is_root = std::fs::File::open(path("it's/closed.csv")).is_ok();
    if is_root && !Command::new("setpriv").arg("--version").output().is_ok_and(|it| it.status.success()) {
        return skip("files without permission", "root reads them all, and there is no setpriv");
    }
    for sql in ["SELECT * FROM read_csv('it''s/closed.csv')", "SELECT sum(a) FROM read_csv('it''s/*.csv')"] {
        let said = local_error(dir.path(), is_root, sql);
        assert!(said.contains("1017") && said.contains("it's/closed.csv"), "{sql}: {said}");
        assert!(said.contains("ermission denied"), "{sql}: {said}");
    }
    let said = local_error(dir.path(), is_root, "COPY (SELECT 1 AS a) TO 'it''s/out' STORED AS PARQUET");
    assert!(said.contains("it's/out") && said.contains("ermission denied"), "{said}");
    assert_eq!(std::fs::read_dir(path("it's/out")).expect("it can be listed").count(), 0);
    forbid(&path("it's/out"), 0o700);
}

#[test]
fn the_servers_own_files_are_no_tables() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(0)).await;
        let mut client = cluster.connect_to(Some("default")).await;
        let data = cluster.coordinator.dir();
        for folder in ["cache", "metadata", "tls"] {
            std::fs::create_dir_all(data.join(folder)).expect("the data folder can be written");
            std::fs::write(data.join(folder).join("planted.csv"), "a\n1\n").expect("as above");
            let at = data.join(folder).display().to_string();
            for sql in [
                format!("SELECT * FROM read_csv('{at}/planted.csv')"),
                format!("SELECT * FROM '{at}/*.csv'"),
                format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{at}/'"),
                format!("COPY (SELECT 1 AS a) TO '{at}/out' STORED AS CSV"),
            ] {
                let refused = error(&mut client, &sql).await;
                assert_eq!(refused.code, Some(1142), "{sql}: {refused}");
            }
        }
        std::fs::write(data.join("mine.csv"), "a\n2\n").expect("as above");
        let all = format!("SELECT sum(a) FROM read_csv('{}/**/*.csv')", data.display());
        assert_eq!(run(&mut client, &all).await.cell(), "2");
    });
}

/// A name that SQL and messages have to quote: there, not there, wrong, and what is made of it.
#[test]
fn names_with_quotes_are_names() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(2)).await;
        let mut client = cluster.connect_distributed(Some("default")).await;
        let folder = cluster.coordinator.dir().join("o'clock \"x\"");
        std::fs::create_dir_all(&folder).expect("the data folder can be written");
        std::fs::write(folder.join("a'b.csv"), "n\n1\n2\n").expect("as above");
        std::fs::write(folder.join("bad'.parquet"), "no parquet").expect("as above");
        let at = |name: &str| format!("{}/{name}", folder.display()).replace('\'', "''");
        assert_eq!(run(&mut client, &format!("SELECT sum(n) FROM '{}'", at("a'b.csv"))).await.cell(), "3");
        for name in ["no'ne.csv", "bad'.parquet"] {
            let wrong = error(&mut client, &format!("SELECT * FROM '{}'", at(name))).await;
            assert_eq!(wrong.code, Some(1017), "{wrong}");
            assert!(wrong.message.contains(name), "{wrong}");
        }
        run(&mut client, "CREATE TABLE `t'\"``` (n INT)").await;
        let missing = error(&mut client, &format!("COPY INTO `t'\"``` FROM '{}'", at("no'ne.csv"))).await;
        assert_eq!(missing.code, Some(1017), "{missing}");
        let wrong = error(&mut client, "INSERT INTO `t'\"``` (`o'``x`) VALUES (1)").await;
        assert_eq!(wrong.code, Some(1054), "{wrong}");
        assert!(wrong.message.contains("o'`x") && wrong.message.contains("t'\"`"), "{wrong}");
        assert_eq!(run(&mut client, "SELECT count(*) FROM `t'\"```").await.cell(), "0");
        run(&mut client, &format!("COPY INTO `t'\"``` FROM '{}'", at("a'b.csv"))).await;
        assert_eq!(run(&mut client, "SELECT sum(n) FROM `t'\"```").await.cell(), "3");
    });
}
