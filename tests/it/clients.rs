//! Stock clients as their users install them: PyMySQL, MySQL's connector and DuckDB from Python, the `mysql` or `mariadb` command line.
//!
//! What this machine cannot have is skipped with a loud line. `SHEAF_FULL=1` adds TPC-H at scale factor 1 on three
//! workers, its answers compared with DuckDB's over the same files.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use sheaf_tests::{Client, Cluster, ClusterSpec, alone, root, skip};

use crate::tpch;

const DEADLINE: Duration = Duration::from_secs(180);

fn scripts() -> PathBuf {
    root().join("tests/python")
}

/// The interpreter of an environment with the clients, or `None` where it cannot be made (no Python, no network).
pub fn python() -> Option<&'static PathBuf> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let made = PYTHON.get_or_init(|| {
        let output = Command::new("sh").arg(scripts().join("setup.sh")).output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let python = PathBuf::from(said.lines().last()?);
        (output.status.success() && python.exists()).then_some(python)
    });
    made.as_ref()
}

/// Runs one of the scripts against a server's port. Panics with what it said when it fails.
fn script(name: &str, port: u16, args: &[String]) {
    let Some(python) = python() else {
        return skip(name, "tests/python/setup.sh could not make its environment");
    };
    let mut command = Command::new(python);
    command.arg(scripts().join(name)).arg(port.to_string()).args(args);
    let said = succeed(&mut command);
    if let Some(line) = said.lines().find(|line| line.starts_with("SKIPPED")) {
        skip(name, line.trim_start_matches("SKIPPED").trim_start_matches(": "));
    }
}

fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?} ended with {status}:\n{stdout}\n{stderr}");
    stdout.into_owned()
}

#[test]
fn pymysql() {
    alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(1)).await;
        script("pymysql_client.py", cluster.mysql_port(), &[]);
    });
}

#[test]
fn mysql_connector_python() {
    alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(1)).await;
        script("connector_client.py", cluster.mysql_port(), &[]);
    });
}

#[test]
fn duckdb_attaches() {
    alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(1)).await;
        script("duckdb_attach.py", cluster.mysql_port(), &[]);
    });
}

/// What DuckDB's extension sends when it attaches, through prepared statements as it does.
#[test]
fn duckdb_start_up_is_answered() {
    const STATEMENTS: [&str; 9] = [
        "SELECT 1",
        "SELECT REPEAT('x', 65536)",
        "SELECT schema_name FROM information_schema.schemata",
        "SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_schema = 'suite'",
        "SELECT table_name, column_name, data_type, column_type, is_nullable, column_default, extra, character_set_name, \
         numeric_precision, numeric_scale FROM information_schema.columns WHERE table_schema = 'suite' \
         ORDER BY table_name, ordinal_position",
        "SELECT index_name, column_name FROM information_schema.statistics WHERE table_schema = 'suite'",
        "SELECT table_name, data_length FROM information_schema.tables WHERE table_schema = 'suite'",
        "SELECT partition_name FROM information_schema.partitions WHERE table_schema = 'suite'",
        "SELECT id, k, g, v, d, amt, day, ts, ok FROM suite.facts",
    ];
    alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(1)).await;
        let mut client = cluster.connect_to(Some("suite")).await;
        for statement in ["SET NAMES utf8mb4", "SET autocommit=1", "SET SESSION information_schema_stats_expiry = 0"] {
            client.query(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        client.query("START TRANSACTION READ ONLY").await.expect("a transaction that only reads");
        for statement in STATEMENTS {
            let answer = client.execute(statement, ()).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
            assert!(!answer.columns.is_empty(), "{statement} has no columns");
        }
        client.ping().await.expect("the session goes on");
        client.query("COMMIT").await.expect("nothing was written");
    });
}

/// Both protocols give the same text for every type.
#[test]
fn binary_and_text_protocols_agree() {
    alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(1)).await;
        let mut client = cluster.connect_to(Some("suite")).await;
        for table in ["facts", "one", "empty", "dims", "types"] {
            let sql = format!("SELECT * FROM {table} ORDER BY 1");
            let text = client.query(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            let binary = client.execute(&sql, ()).await.unwrap_or_else(|error| panic!("prepared {sql}: {error}"));
            assert_eq!(text.names(), binary.names(), "{table}");
            let types = |table: &sheaf_tests::Table| -> Vec<_> {
                table.columns.iter().map(|column| column.column_type()).collect()
            };
            assert_eq!(types(&text), types(&binary), "{table}");
            // Rows of equal keys come in any order.
            assert_eq!(text.sorted(), binary.sorted(), "{table}");
        }
    });
}

/// The first of the programs that this machine has.
pub fn found(programs: &[&'static str]) -> Option<&'static str> {
    programs.iter().copied().find(|program| Command::new(program).arg("--version").output().is_ok())
}

#[test]
fn mysql_command_line() {
    let Some(program) = found(&["mariadb", "mysql"]) else {
        return skip("the mysql command line", "neither mariadb nor mysql is installed");
    };
    alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(1)).await;
        let client = |sql: &str| {
            let mut command = Command::new(program);
            let port = cluster.mysql_port().to_string();
            command.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--user=root", "--port", &port]);
            command.args(["--batch", "--execute", sql]);
            command
        };
        assert_eq!(succeed(&mut client("SELECT 1 AS x, 'y' AS y, NULL AS z")), "x\ty\tz\n1\ty\tNULL\n");
        assert_eq!(
            succeed(&mut client("USE suite; SELECT count(*) AS n FROM facts; SELECT 2 AS two")),
            "n\n240\ntwo\n2\n"
        );
        let tables = succeed(&mut client("SHOW TABLES FROM suite"));
        assert!(tables.lines().any(|line| line == "facts"), "{tables}");
        succeed(&mut client("status"));
        let output = client("SELECT * FROM suite.no_such").output().expect("it ran a moment ago");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("ERROR 1146 (42S02)"), "{said}");
    });
}

#[test]
fn tpch_sf1_equals_duckdb() {
    if std::env::var_os("SHEAF_FULL").is_none() {
        return skip("TPC-H SF1 against DuckDB", "it takes minutes; SHEAF_FULL=1 runs it");
    }
    alone(Duration::from_secs(1_800), async {
        let data = tempfile::tempdir().expect("a temporary folder can be made");
        tpch::generate(data.path(), "1", 8);
        let spec = ClusterSpec { memory: "2GiB", allow_roots: vec![data.path().to_owned()], ..ClusterSpec::workers(3) };
        let cluster = Cluster::start(spec).await;
        let mut client: Client = cluster.connect().await;
        tpch::create_tables(&mut client, "sf1", data.path()).await;
        let queries = root().join("cli/src/tpch").display().to_string();
        script("tpch_against_duckdb.py", cluster.mysql_port(), &[data.path().display().to_string(), queries]);
    });
}
