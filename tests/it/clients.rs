//! Stock clients as their users install them, and what those send that cannot be installed here.
//!
//! [`installed`] lists the clients with their scripts in `tests/clients`. What was tried with which is the table of
//! `website/docs/connect.md`; `UPDATE=1` writes it anew. What this machine cannot have is skipped with a loud line.
//! `SHEAF_CLIENT=name` runs one of them. `SHEAF_FULL=1` adds TPC-H at scale factor 1 on three workers, its answers compared
//! with DuckDB's over the same files.

mod statements;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use sheaf_tests::{Client, Cluster, ClusterSpec, alone, is_full, root, skip};

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
pub fn script(name: &str, port: u16, args: &[String]) {
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

/// One client and how its script is run; the script gets the server's port, a database of its own and the certificate.
struct Installed {
    /// As the table of the docs calls it.
    name: &'static str,
    /// What has to be there: programs, and files.
    needs: &'static [&'static str],
    command: Vec<String>,
    /// Behind the three that each gets.
    more: &'static [&'static str],
}

const GO_DRIVER: &str = "/usr/share/gocode/src/github.com/go-sql-driver/mysql/driver.go";
const JAVA_DRIVER: &str = "/usr/share/java/mariadb-java-client.jar";
const NODE_FOLDERS: &str = "/usr/share/nodejs:/usr/lib/nodejs";

fn installed() -> Vec<Installed> {
    let at = |script: &str| root().join("tests/clients").join(script).display().to_string();
    let python = python().map(|it| it.display().to_string()).unwrap_or_default();
    let of_python = |name, script: &str, more| {
        let command = vec![python.clone(), at(script)];
        Installed { name, needs: &["python3"], command, more }
    };
    let other = |name, needs, words: &[&str], script: &str| {
        let command = words.iter().map(|it| (*it).to_owned()).chain([at(script)]).collect();
        Installed { name, needs, command, more: &[] }
    };
    let node_path = format!("NODE_PATH={NODE_FOLDERS}");
    vec![
        other("`mariadb` / `mysql`, `mariadb-admin`, `mariadb-show`", &["mariadb"], &["sh"], "command_line.sh"),
        other("`mariadb-dump` / `mysqldump`", &["mariadb-dump"], &["sh"], "dump.sh"),
        other("mydumper", &["mydumper", "mariadb"], &["sh"], "mydumper.sh"),
        of_python("PyMySQL", "pymysql_client.py", &[]),
        of_python("mysqlclient (MySQLdb)", "mysqlclient_client.py", &[]),
        of_python("MySQL Connector/Python", "connector_client.py", &[]),
        of_python("aiomysql", "aiomysql_client.py", &[]),
        of_python("SQLAlchemy 2 and pandas over PyMySQL", "sqlalchemy_client.py", &["pymysql"]),
        of_python("SQLAlchemy 2 and pandas over mysqlclient", "sqlalchemy_client.py", &["mysqldb"]),
        of_python("SQLAlchemy 2 and pandas over MySQL Connector/Python", "sqlalchemy_client.py", &["mysqlconnector"]),
        of_python("SQLAlchemy 1.4 over PyMySQL", "sqlalchemy_client.py", &["pymysql", "1.4"]),
        of_python("ODBC: MariaDB's driver, unixODBC, pyodbc", "odbc_client.py", &[]),
        of_python("DuckDB's `mysql` extension", "duckdb_attach.py", &[]),
        other(
            "Go: go-sql-driver/mysql",
            &["go", GO_DRIVER],
            &["env", "GO111MODULE=off", "GOPATH=/usr/share/gocode", "GOFLAGS=", "go", "run"],
            "go_client.go",
        ),
        other("Node: mysql", &["node", "/usr/share/nodejs/mysql"], &["env", &node_path, "node"], "node_client.js"),
        other(
            "Java: MariaDB Connector/J 2.7",
            &["java", JAVA_DRIVER],
            &["java", "-cp", JAVA_DRIVER],
            "java_client.java",
        ),
        other("Perl: DBD::mysql", &["perl", "/usr/lib/x86_64-linux-gnu/perl5"], &["perl"], "perl_client.pl"),
        other("PHP: mysqli and PDO", &["php"], &["php"], "php_client.php"),
        other("Ruby: mysql2", &["ruby"], &["ruby"], "ruby_client.rb"),
    ]
}

/// Runs a client's script; what was tried, or why not. Errs with what it said.
fn tried(client: &Installed, port: u16, database: &str, ca: &str) -> Result<Result<Vec<String>, String>, String> {
    let has = |it: &'static str| if it.starts_with('/') { Path::new(it).exists() } else { found(&[it]).is_some() };
    if let Some(missing) = client.needs.iter().copied().find(|it| !has(it)) {
        return Ok(Err(format!("there is no {missing}")));
    }
    if client.command[0].is_empty() {
        return Ok(Err("tests/python/setup.sh could not make its environment".to_owned()));
    }
    let mut command = Command::new(&client.command[0]);
    command.args(&client.command[1..]).arg(port.to_string()).arg(database).arg(ca).args(client.more);
    let Output { status, stdout, stderr } = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    if let Some(why) = stdout.lines().find_map(|it| it.strip_prefix("SKIPPED ")) {
        return Ok(Err(why.to_owned()));
    }
    // What its own environment lacks, it cannot import.
    if stderr.contains("ModuleNotFoundError") {
        return Ok(Err(stderr.lines().last().unwrap_or_default().to_owned()));
    }
    let tried: Vec<String> = stdout.lines().filter_map(|it| it.strip_prefix("TRIED ")).map(str::to_owned).collect();
    match status.success() && !tried.is_empty() {
        true => Ok(Ok(tried)),
        false => Err(format!("{status}\n{stdout}\n{stderr}")),
    }
}

/// Every client does all that its script asks of it, and the table in the docs says what that is.
#[test]
fn installed_clients() {
    alone(Duration::from_secs(600), async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(1)).await;
        let ca = cluster.coordinator.dir().join("tls/ca.pem").display().to_string();
        let port = cluster.mysql_port();
        let only = std::env::var("SHEAF_CLIENT").ok();
        let clients = installed();
        let wanted = |it: &&Installed| only.as_ref().is_none_or(|only| it.name.contains(only.as_str()));
        let (mut failed, mut results) = (vec![], table::Results::default());
        for (n, client) in clients.iter().enumerate().filter(|(_, it)| wanted(it)) {
            match tried(client, port, &format!("client{n}"), &ca) {
                Ok(Ok(tried)) => results.add(client.name, tried),
                Ok(Err(why)) => skip(client.name, &why),
                Err(said) => failed.push(format!("{}: {said}", client.name)),
            }
        }
        assert!(failed.is_empty(), "{} clients:\n{}", failed.len(), failed.join("\n\n"));
        results.check("installed", only.is_none());
    });
}

/// What those clients send that cannot be installed here is answered as they need it.
#[test]
fn statements_of_other_clients() {
    const CLIENTS: [(&str, &str); 11] = [
        ("MySQL Connector/J", "connector_j.txt"),
        ("MariaDB Connector/J 2 and 3", "mariadb_connector_j.txt"),
        ("Metabase", "metabase.txt"),
        ("Grafana", "grafana.txt"),
        ("DBeaver", "dbeaver.txt"),
        ("Superset", "superset.txt"),
        ("Tableau", "tableau.txt"),
        ("Power BI", "power_bi.txt"),
        ("sqlx", "sqlx.txt"),
        ("Percona Toolkit", "percona_toolkit.txt"),
        ("DuckDB's `mysql` extension, on connect", "duckdb.txt"),
    ];
    alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(1)).await;
        let (mut failed, mut results) = (vec![], table::Results::default());
        for (name, file) in CLIENTS {
            let parts = statements::read(&root().join("tests/clients/statements").join(file));
            for is_prepared in [false, true] {
                let mut client = cluster.connect_to(Some("suite")).await;
                failed.extend(statements::run(&mut client, file, &parts, is_prepared).await);
            }
            results.add(name, parts.into_iter().map(|it| it.title).collect());
        }
        assert!(failed.is_empty(), "{} statements:\n{}", failed.len(), failed.join("\n\n"));
        results.check("statements", true);
    });
}

#[test]
fn accounts_and_tls() {
    alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(0)).await;
        let ca = cluster.coordinator.dir().join("tls/ca.pem").display().to_string();
        script("users_client.py", cluster.mysql_port(), std::slice::from_ref(&ca));
        let Some(program) = found(&["mariadb", "mysql"]) else {
            return skip("the mysql command line under TLS", "neither mariadb nor mysql is installed");
        };
        let mut command = Command::new(program);
        command.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--user=root", "--batch"]);
        command.args(["--port", &cluster.mysql_port().to_string(), "--ssl-ca", &ca]);
        let said = succeed(command.args(["--execute", "SHOW STATUS LIKE 'Ssl_version'"]));
        assert!(said.contains("TLSv1."), "{said}");
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
fn tpch_sf1_equals_duckdb() {
    if !is_full() {
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

#[test]
fn pruning_loses_no_row() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(2)).await;
        let folder = cluster.dir().join("pruning");
        std::fs::create_dir(&folder).expect("the cluster's folder can be written");
        script("pruning_against_duckdb.py", cluster.mysql_port(), &[folder.display().to_string()]);
    });
}

#[test]
fn tables_in_object_stores() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(2)).await;
        let folder = cluster.dir().join("lake");
        std::fs::create_dir(&folder).expect("the cluster's folder can be written");
        script("remote_tables.py", cluster.mysql_port(), &[folder.display().to_string()]);
    });
}
