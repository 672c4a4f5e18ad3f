//! Expressions of dates, texts, numbers, casts and NULLs, asked here and of MariaDB's server: the answers are the same,
//! or stand in the table of `website/docs/functions.md` with both.
//!
//! The server is Debian's `mariadb-server`, started on a folder and a socket of its own; without it the test is skipped
//! with a loud line. Expressions are the lines of `mariadb/expressions.txt`.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mysql_async::consts::ColumnType;
use sheaf_tests::{Client, Cluster, ClusterSpec, Failure, alone, root, skip};

const DEADLINE: Duration = Duration::from_secs(180);
const START_DEADLINE: Duration = Duration::from_secs(60);
/// What both sessions begin with, so that they agree on what can be agreed on.
const INIT: [&str; 3] = [
    "SET time_zone = '+00:00'",
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    "SET sql_mode = 'PIPES_AS_CONCAT,ONLY_FULL_GROUP_BY,ERROR_FOR_DIVISION_BY_ZERO'",
];

/// A server of its own. Dropping it kills it.
struct MariaDb {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl MariaDb {
    /// `None` where the server is not installed.
    fn start() -> Option<Self> {
        let has = |name: &str| Command::new(name).arg("--version").stdout(Stdio::null()).status().is_ok();
        if !has("mariadbd") {
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let data = dir.path().join("data");
        let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
        let common = |command: &mut Command| {
            command.arg("--no-defaults").arg(format!("--datadir={}", data.display())).arg(format!("--user={user}"));
            command.stdin(Stdio::null()).stdout(Stdio::null());
        };
        let mut install = Command::new("mariadb-install-db");
        common(&mut install);
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        let output = install.stderr(Stdio::piped()).output().ok()?;
        assert!(output.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&output.stderr));
        let log = std::fs::File::create(dir.path().join("log")).expect("the folder was just made");
        let mut server = Command::new("mariadbd");
        common(&mut server);
        server.args(["--skip-networking", "--character-set-server=utf8mb4", "--collation-server=utf8mb4_bin"]);
        server.args(["--innodb-buffer-pool-size=16M", "--skip-log-bin"]);
        server.arg(format!("--socket={}", dir.path().join("socket").display()));
        let child = server.stderr(log).spawn().expect("the server was just found");
        Some(Self { child, dir })
    }

    async fn connect(&self) -> Client {
        let socket = self.dir.path().join("socket");
        let started = Instant::now();
        loop {
            match Client::connect_socket(&socket).await {
                Ok(client) => return client,
                Err(error) => {
                    let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                    assert!(started.elapsed() < START_DEADLINE, "MariaDB does not answer: {error}\n{}", log());
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// What a server says to an expression: its one cell, or the word `error`.
async fn answer(client: &mut Client, expression: &str) -> String {
    match client.query(&format!("SELECT {expression}")).await {
        // MariaDB fills a double up with zeros to the digits that it was rounded to.
        Ok(table) if table.columns[0].column_type() == ColumnType::MYSQL_TYPE_DOUBLE && table.cell().contains('.') => {
            table.cell().trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        Ok(table) => normal(table.cell()),
        Err(Failure { code: Some(_), .. }) => "error".to_owned(),
        Err(failure) => panic!("{expression}: {failure}"),
    }
}

/// Fractions of a second that are zero are not told apart from none: their number is a matter of declared types.
fn normal(cell: &str) -> String {
    match cell.strip_suffix(".000000") {
        Some(time) if time.contains(':') => time.to_owned(),
        _ => cell.to_owned(),
    }
}

/// The documented differences: by the expression, what MariaDB says and what SheafDB says.
fn differences() -> HashMap<String, (String, String)> {
    let page =
        std::fs::read_to_string(root().join("website/docs/functions.md")).expect("the page is part of the project");
    let mut differences = HashMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `` ")) {
        let cells: Vec<String> =
            line.trim_matches('|').replace("\\|", "\u{1}").split('|').map(|it| it.replace('\u{1}', "|")).collect();
        let code = |cell: &str| cell.trim().trim_matches('`').trim().to_owned();
        assert_eq!(cells.len(), 4, "four cells: {line}");
        assert!(!cells[3].trim().is_empty(), "no reason is given: {line}");
        let expression = code(&cells[0]).trim_start_matches("SELECT ").to_owned();
        differences.insert(expression, (code(&cells[1]), code(&cells[2])));
    }
    differences
}

#[test]
fn answers_are_those_of_mariadb_or_documented() {
    let Some(server) = MariaDb::start() else {
        return skip("mariadb", "there is no mariadbd; Debian has it in mariadb-server");
    };
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("it/mariadb/expressions.txt"));
    let text = text.expect("the expressions stand beside this file");
    let expressions: Vec<&str> = text.lines().filter(|it| !it.is_empty() && !it.starts_with('#')).collect();
    assert!(expressions.len() >= 500, "only {} expressions", expressions.len());
    let mut documented = differences();
    let mut wrong = vec![];
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::default()).await;
        let mut ours = Client::connect(cluster.mysql_port(), None).await.expect("the server is up");
        let mut theirs = server.connect().await;
        for statement in INIT {
            ours.query(statement).await.expect("a variable that is known");
            theirs.query(statement).await.expect("a variable that is known");
        }
        let mut asked: Vec<String> = expressions.iter().map(|it| (*it).to_owned()).collect();
        asked.extend(documented.keys().filter(|it| !expressions.contains(&it.as_str())).cloned());
        for expression in asked {
            let (own, other) = (answer(&mut ours, &expression).await, answer(&mut theirs, &expression).await);
            let shown = |it: &str| if it.is_empty() { "(empty)".to_owned() } else { it.to_owned() };
            match documented.remove(&expression) {
                Some((their_cell, own_cell))
                    if (shown(&other), shown(&own)) == (their_cell.clone(), own_cell.clone()) => {}
                Some(cells) => wrong.push(format!("{expression}: documented as {cells:?}, is {:?}", (other, own))),
                None if own == other => {}
                None => wrong.push(format!("{expression}: MariaDB {other:?}, SheafDB {own:?}")),
            }
        }
    });
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), expressions.len(), wrong.join("\n"));
}
