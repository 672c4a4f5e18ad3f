//! Accounts of real servers: they outlive a restart, are the same on all coordinators, and nobody gets in where nobody
//! should.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use sheaf_tests::cluster::Ports;
use sheaf_tests::coordinators::node_name;
use sheaf_tests::{Client, Cluster, ClusterSpec, Coordinators, alone, binary};

const DEADLINE: Duration = Duration::from_secs(120);

async fn login(ports: Ports, user: &str, password: &str) -> Result<Conn, mysql_async::Error> {
    let port = ports.mysql.expect("a coordinator takes statements");
    let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port).prefer_socket(Some(false));
    Conn::new(opts.user(Some(user.to_owned())).pass(Some(password.to_owned()).filter(|it| !it.is_empty()))).await
}

fn is_denied(outcome: Result<Conn, mysql_async::Error>) -> bool {
    matches!(outcome, Err(mysql_async::Error::Server(error)) if error.code == 1045 && error.state == "28000")
}

#[test]
fn accounts_and_rights_outlive_a_restart() {
    alone(DEADLINE, async {
        let mut cluster = Cluster::start(ClusterSpec::workers(0)).await;
        assert!(cluster.coordinator.log().contains("root has no password"), "{}", cluster.coordinator.log());
        let mut root = cluster.connect().await;
        for sql in [
            "CREATE DATABASE tp ENGINE = TPCH(scale = 0.001)",
            "CREATE USER ann IDENTIFIED BY 'hush', old IDENTIFIED WITH mysql_native_password BY 'hush too'",
            "GRANT SELECT ON tp.nation TO ann WITH GRANT OPTION",
        ] {
            root.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        let error = root.query("CREATE USER ann").await.expect_err("it is there");
        assert_eq!((error.code, error.state.as_str()), (Some(1396), "HY000"));
        drop(root);
        cluster.restart_coordinator().await;
        let ports = cluster.coordinator.ports();
        let mut ann = login(ports, "ann", "hush").await.expect("her password is known");
        let count: Option<i64> = ann.query_first("SELECT count(*) FROM tp.nation").await.expect("she may read it");
        assert_eq!(count, Some(25));
        let grants: Vec<String> = ann.query("SHOW GRANTS").await.expect("her own");
        assert_eq!(
            grants,
            ["GRANT USAGE ON *.* TO `ann`@`%`", "GRANT SELECT ON `tp`.`nation` TO `ann`@`%` WITH GRANT OPTION"]
        );
        let denied = ann.query_drop("SELECT * FROM tp.region").await.expect_err("she may not");
        assert!(denied.to_string().contains("1142"), "{denied}");
        login(ports, "old", "hush too").await.expect("the older plugin");
        assert!(is_denied(login(ports, "old", "hush").await));
        assert!(is_denied(login(ports, "eve", "").await));
        // What was typed is in no log.
        assert!(!cluster.coordinator.log().contains("hush"));
    });
}

/// A server on a folder of its own, until its standard input ends.
fn server(dir: &std::path::Path, listen: &str, more: &[&str]) -> Command {
    let mut command = Command::new(binary::sheaf());
    command.args(["server", "--stop-with-stdin", "--flight-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    command.args(["--mysql-listen", listen, "--data-dir"]).arg(dir).args(more).current_dir(std::env::temp_dir());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts the server and gives the port that it says it has; its guard ends it.
fn started(mut command: Command) -> (Guard, u16) {
    use std::io::BufRead;
    let mut child = command.spawn().expect("sheaf can be run");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is piped");
    std::io::BufReader::new(stdout).read_line(&mut line).expect("a line when it is ready");
    let guard = Guard(child);
    let node: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    let address = node["mysql"].as_str().expect("it takes statements");
    (guard, address.rsplit(':').next().and_then(|it| it.parse().ok()).expect("a port"))
}

struct Guard(std::process::Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // The end of its input ends it; the kill is for one that hangs.
        drop(self.0.stdin.take());
        std::thread::sleep(Duration::from_millis(200));
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn beyond_loopback_root_has_a_password() {
    alone(DEADLINE, async {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let mut open = server(&dir.path().join("open"), "0.0.0.0:0", &[]).spawn().expect("sheaf can be run");
        // Its input stays open: the end of it would stop the server before it has looked.
        let _input = open.stdin.take();
        let output = open.wait_with_output().expect("it ends by itself");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("--root-password-file"), "{said}");

        let file = dir.path().join("password");
        std::fs::write(&file, "first of root\n").expect("a file can be written");
        let with_password = ["--root-password-file", file.to_str().expect("a path of text")];
        let data = dir.path().join("closed");
        let (guard, port) = started(server(&data, "0.0.0.0:0", &with_password));
        let ports = |mysql: u16| Ports { mysql: Some(mysql), flight: 0, http: 0 };
        assert!(is_denied(login(ports(port), "root", "").await));
        let mut root = login(ports(port), "root", "first of root").await.expect("the password of the file");
        let me: Option<String> = root.query_first("SELECT CURRENT_USER()").await.expect("a row");
        assert_eq!(me.as_deref(), Some("root@%"));
        root.query_drop("SET PASSWORD = 'second'").await.expect("the own password");
        drop((root, guard));
        // The file has only the first one; the server starts without it too.
        let (guard, port) = started(server(&data, "0.0.0.0:0", &[]));
        login(ports(port), "root", "second").await.expect("the password that was set");
        assert!(is_denied(login(ports(port), "root", "first of root").await));
        drop(guard);
        // Who says so gets it open.
        let (_guard, port) = started(server(&dir.path().join("insecure"), "0.0.0.0:0", &["--insecure"]));
        login(ports(port), "root", "").await.expect("whoever comes");
    });
}

fn code_of<T>(outcome: Result<T, mysql_async::Error>) -> Option<u16> {
    match outcome {
        Err(mysql_async::Error::Server(error)) => Some(error.code),
        _ => None,
    }
}

/// Somebody's session with one coordinator.
async fn login_at(
    cluster: &Coordinators,
    index: usize,
    user: &str,
    password: &str,
) -> Result<Conn, mysql_async::Error> {
    let ports = Ports { mysql: Some(cluster.mysql_port(index)), flight: 0, http: 0 };
    login(ports, user, password).await
}

async fn run(client: &mut Client, sql: &str) {
    client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

const COUNT: &str = "SELECT count(*) FROM tp.nation";

#[test]
fn accounts_are_those_of_the_cluster() {
    alone(DEADLINE, async {
        let mut cluster = Coordinators::start(3, 0);
        let mut roots = Vec::new();
        for index in 0..3 {
            roots.push(cluster.connect(index).await);
        }
        run(&mut roots[0], "CREATE DATABASE tp ENGINE = TPCH(scale = 0.001)").await;
        for round in 0..9 {
            let (here, there) = (round % 3, (round + 1 + round / 3 % 2) % 3);
            let user = format!("u{round}");
            run(&mut roots[here], &format!("CREATE USER {user} IDENTIFIED BY 'hush {round}'")).await;
            let password = format!("hush {round}");
            let mut session = login_at(&cluster, there, &user, &password).await.expect("it is there at once");
            assert_eq!(code_of(session.query_drop(COUNT).await), Some(1142));
            run(&mut roots[here], &format!("GRANT SELECT ON tp.* TO {user}")).await;
            assert_eq!(session.query_first::<i64, _>(COUNT).await.expect("it was granted"), Some(25));
            // A prepared statement asks each time too.
            let prepared = session.prep(COUNT).await.expect("it may be read");
            run(&mut roots[here], &format!("REVOKE SELECT ON tp.* FROM {user}")).await;
            assert_eq!(code_of(session.query_drop(COUNT).await), Some(1142), "round {round}: it was taken");
            assert_eq!(code_of(session.exec_drop(&prepared, ()).await), Some(1142));
            run(&mut roots[here], &format!("ALTER USER {user} IDENTIFIED BY 'other'")).await;
            assert!(is_denied(login_at(&cluster, there, &user, &password).await), "round {round}: an old password");
            run(&mut roots[there], &format!("DROP USER {user}")).await;
            assert!(is_denied(login_at(&cluster, here, &user, "other").await), "round {round}: it is gone");
            let error = roots[here].query(&format!("DROP USER {user}")).await.expect_err("it is gone");
            assert_eq!(error.code, Some(1396), "{error}");
        }
        // Each coordinator decides on what the others did, however they come together.
        let mut together = Vec::new();
        for (index, mut root) in roots.into_iter().enumerate() {
            together.push(async move {
                for n in 0..10 {
                    run(&mut root, &format!("CREATE USER c{index}_{n}, ROLE_{index}_{n}")).await;
                    run(&mut root, &format!("GRANT ROLE_{index}_{n} TO c{index}_{n}")).await;
                    // All three mean the same user; one makes it.
                    run(&mut root, &format!("CREATE USER IF NOT EXISTS shared{n}")).await;
                    run(&mut root, &format!("GRANT SELECT ON d{index}.* TO shared{n}")).await;
                }
                root
            });
        }
        let mut roots = futures::future::join_all(together).await;
        for root in &mut roots {
            let shared = root.query("SHOW GRANTS FOR shared9").await.expect("it is there");
            assert_eq!(shared.rows.len(), 4, "{:?}", shared.rows);
            let created = root.query("SHOW GRANTS FOR c2_9").await.expect("it is there");
            assert_eq!(created.rows[1][0], "GRANT `ROLE_2_9`@`%` TO `c2_9`@`%`");
        }
        // The leader dies; the accounts do not.
        run(&mut roots[0], "CREATE USER ann IDENTIFIED BY 'hush'").await;
        run(&mut roots[0], "GRANT SELECT ON tp.nation TO ann").await;
        let leader = cluster.leader().await;
        cluster.kill(leader);
        for survivor in cluster.running() {
            let mut ann = login_at(&cluster, survivor, "ann", "hush").await.expect("a survivor knows her");
            assert_eq!(ann.query_first::<i64, _>(COUNT).await.expect("she may"), Some(25));
        }
        let survivor = cluster.running()[0];
        run(&mut roots[survivor], "CREATE USER bob IDENTIFIED BY 'hush too'").await;
        cluster.restart(leader);
        login_at(&cluster, leader, "bob", "hush too").await.expect("who was made meanwhile");
        assert!((0..3).all(|index| !cluster.node(index).log().contains("hush")), "what was typed is in no log");
    });
}

#[test]
fn without_a_majority_root_looks_what_is_wrong_and_others_wait() {
    alone(DEADLINE, async {
        let mut cluster = Coordinators::start(3, 0);
        let mut root = cluster.connect(0).await;
        run(&mut root, "CREATE USER ann IDENTIFIED BY 'hush', warden IDENTIFIED BY 'hush'").await;
        run(&mut root, "GRANT CONNECTION_ADMIN ON *.* TO warden").await;
        cluster.kill(1);
        cluster.kill(2);
        // Root's login waits for an election that does not come, and goes on with what this coordinator knows.
        let mut root = cluster.connect(0).await;
        let shown = root.query("SHOW CLUSTER").await.expect("the cluster is shown");
        assert_eq!(shown.rows.len(), 3, "{:?}", shown.rows);
        // So do the tables that show the cluster; those that show what is defined wait for the others.
        let raft = root.query("SELECT node, role FROM system.raft").await.expect("the replicas are shown").sorted();
        let roles: Vec<&str> = raft.iter().map(|row| row[1].as_str()).collect();
        assert!(roles[0] != "leader" && roles[1..] == ["unreachable", "unreachable"], "{raft:?}");
        let lost = "SELECT count(*) FROM system.nodes WHERE state = 'lost'";
        assert_eq!(root.query(lost).await.expect("the nodes are shown").cell(), "2");
        let error = root.query("SELECT count(*) FROM system.tables").await.expect_err("nobody confirms it");
        assert!(error.message.contains("majority"), "{error}");
        login_at(&cluster, 0, "warden", "hush").await.expect("who looks after connections");
        assert_eq!(code_of(login_at(&cluster, 0, "ann", "hush").await), Some(3032));
        // Who does not know the password is told nothing else than ever.
        assert!(is_denied(login_at(&cluster, 0, "ann", "wrong").await));
        assert!(is_denied(login_at(&cluster, 0, "eve", "").await));
        cluster.restart(1);
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(error) = login_at(&cluster, 0, "ann", "hush").await {
            assert!(Instant::now() < deadline, "a majority is back: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

#[test]
fn a_backup_has_the_accounts_and_shows_no_secret() {
    alone(DEADLINE, async {
        let mut cluster = Coordinators::start(1, 0);
        let mut root = cluster.connect(0).await;
        for sql in [
            "CREATE DATABASE tp ENGINE = TPCH(scale = 0.001)",
            "CREATE USER ann IDENTIFIED BY 'hush'",
            "CREATE ROLE readers",
            "GRANT SELECT ON tp.* TO readers",
            "GRANT readers TO ann",
            "SET DEFAULT ROLE readers TO ann",
            "CREATE CONNECTION lake OPTIONS ('s3.region' 'here', 's3.secret_access_key' 'hush hush')",
            "GRANT USAGE ON CONNECTION lake TO ann",
        ] {
            run(&mut root, sql).await;
        }
        let kept = root.query("SHOW CREATE USER ann").await.expect("root sees it").cell().to_owned();
        let verifier = kept.split("AS '*").nth(1).and_then(|it| it.split('\'').next()).expect("a verifier").to_owned();
        drop(root);
        let dir = cluster.dir().to_owned();
        let mut stopped = cluster.nodes[0].take().expect("it ran");
        stopped.stop(Duration::from_secs(15));
        let (data, file) = (dir.join(node_name(0)), dir.join("backup.txt"));
        let meta = |args: &[&std::ffi::OsStr]| {
            let output = Command::new(binary::sheaf()).arg("meta").args(args).output().expect("it can be started");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{args:?}: {said}");
            String::from_utf8(output.stdout).expect("text")
        };
        let os = std::ffi::OsStr::new;
        meta(&[os("export"), os("--data-dir"), data.as_os_str(), os("--file"), file.as_os_str()]);
        let exported = std::fs::read_to_string(&file).expect("the file is there");
        assert!(exported.contains(&verifier) && exported.contains("hush hush"), "a backup restores everything");
        for place in [["--data-dir", data.to_str().expect("text")], ["--file", file.to_str().expect("text")]] {
            let inspected = meta(&[os("inspect"), os(place[0]), os(place[1])]);
            assert!(inspected.contains("user 'ann@%'") && inspected.contains("grant of SELECT on tp.*"), "{inspected}");
            assert!(inspected.contains("connection 'lake'"), "{inspected}");
            assert!(!inspected.contains(&verifier) && !inspected.contains("hush"), "{inspected}");
        }
        let new = dir.join(node_name(1));
        meta(&[os("import"), os("--data-dir"), new.as_os_str(), os("--file"), file.as_os_str()]);
        cluster.add();
        let mut ann = login_at(&cluster, 1, "ann", "hush").await.expect("her password is known");
        assert_eq!(ann.query_first::<i64, _>(COUNT).await.expect("her role is on"), Some(25));
        let lake: Vec<(String, String, String)> = ann.query("SHOW CONNECTIONS").await.expect("she may use it");
        assert_eq!((lake.len(), lake[0].0.as_str()), (1, "lake"));
    });
}

#[test]
fn accounts_of_an_earlier_version_are_taken_over_once() {
    // `ann` with the password 'password' and one right, as earlier versions kept it.
    const OLD: &str = r#"{"format": "sheafdb accounts", "version": 1, "accounts": {
        "root@localhost": {"verifier": {"plugin": "caching_sha2_password"}, "grants": {"global": ["SELECT", "CREATE USER"]}},
        "ann@%": {"verifier": {"plugin": "mysql_native_password", "verifier": "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"},
            "grants": {"databases": {"system": ["SELECT"]}}}}}"#;
    alone(DEADLINE, async {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("a folder can be made");
        std::fs::write(data.join("accounts.json"), OLD).expect("a file can be written");
        let ports = |mysql: u16| Ports { mysql: Some(mysql), flight: 0, http: 0 };
        let (guard, port) = started(server(&data, "127.0.0.1:0", &[]));
        login(ports(port), "ann", "password").await.expect("her password is known");
        assert!(!data.join("accounts.json").exists() && data.join("accounts.json.imported").exists());
        let mut root = login(ports(port), "root", "").await.expect("as it was");
        root.query_drop("DROP USER ann").await.expect("it may");
        drop((root, guard));
        // Another file of that kind changes nothing any more.
        std::fs::write(data.join("accounts.json"), OLD).expect("a file can be written");
        let (_guard, port) = started(server(&data, "127.0.0.1:0", &[]));
        assert!(is_denied(login(ports(port), "ann", "password").await));
        assert!(data.join("accounts.json").exists());
    });
}
