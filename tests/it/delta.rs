//! Managed tables with real processes: written by many workers, read by other engines, killed in the middle.
//!
//! `SHEAF_KILLS=n` kills the server n times instead of 30.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sheaf_tests::{Client, Cluster, ClusterSpec, Coordinators, Table, alone};
use tokio::task::JoinSet;

use crate::{clients, tpch};

async fn run(client: &mut Client, sql: &str) -> Table {
    client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn code(client: &mut Client, sql: &str) -> Option<u16> {
    client.query(sql).await.err().and_then(|error| error.code)
}

/// Data files below a folder, whatever their tables.
fn data_files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (vec![], vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|it| it == "parquet") => found.push(path),
                false => {}
            }
        }
    }
    found
}

#[test]
fn other_engines_read_and_write_them() {
    alone(Duration::from_secs(180), async {
        let cluster = Cluster::start(ClusterSpec::workers(0)).await;
        clients::script("delta_tables.py", cluster.mysql_port(), &[]);
    });
}

/// CTAS by all workers, then the 22 queries over what they wrote, before and after rows were moved about.
fn tpch_by_ctas(workers: usize) {
    alone(Duration::from_secs(240), async {
        let cluster = Cluster::start(ClusterSpec::workers(workers)).await;
        let mut client = cluster.connect_distributed(None).await;
        run(&mut client, "CREATE DATABASE gen ENGINE = TPCH(scale = 0.1)").await;
        run(&mut client, "CREATE DATABASE own").await;
        run(&mut client, "USE own").await;
        let mut n_rows = 0;
        for table in tpch::TABLES {
            let extra = match table {
                "lineitem" => " CLUSTER BY (l_shipdate)",
                "orders" => " PARTITIONED BY (o_orderpriority)",
                _ => "",
            };
            n_rows += run(&mut client, &format!("CREATE TABLE {table}{extra} AS SELECT * FROM gen.{table}"))
                .await
                .affected_rows;
        }
        assert_eq!(n_rows, 866_602);
        assert_eq!(tpch::wrong_answers(&mut client).await, Vec::<String>::new());
        // Each line is deleted once and put back: the same rows in other files.
        run(&mut client, "CREATE TABLE kept AS SELECT * FROM lineitem WHERE l_orderkey % 7 = 3").await;
        let kept = run(&mut client, "SELECT count(*) FROM kept").await.cell().to_owned();
        let deleted = run(&mut client, "DELETE FROM lineitem WHERE l_orderkey % 7 = 3").await.affected_rows;
        assert_eq!(deleted.to_string(), kept);
        let back = run(&mut client, "INSERT INTO lineitem SELECT * FROM kept").await.affected_rows;
        assert_eq!(back, deleted);
        run(&mut client, "OPTIMIZE lineitem").await;
        assert_eq!(tpch::wrong_answers(&mut client).await, Vec::<String>::new());
    });
}

#[test]
fn tpch_by_ctas_in_one_process() {
    tpch_by_ctas(0);
}

#[test]
fn tpch_by_ctas_on_three_workers() {
    tpch_by_ctas(3);
}

/// What the clients of a server that is killed know for sure.
#[derive(Default)]
struct Ledger {
    /// Rows `(writer, n)` that were acknowledged, by n.
    acknowledged: Mutex<Vec<u64>>,
    /// How many were sent.
    sent: AtomicU64,
}

/// Inserts `(writer, n)` for n = 0, 1, 2, … one after another. A row whose answer was lost is never sent again.
///
/// Every fifth is a file that is to be loaded, from `files`.
async fn write_on(port: u16, writer: usize, files: PathBuf, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) {
    let Ok(mut client) = Client::connect(port, Some("default")).await else { return };
    while !stop.load(Ordering::Relaxed) {
        let n = ledger.sent.fetch_add(1, Ordering::SeqCst);
        let sql = match n % 5 {
            // A plan with a sink, which reads a table.
            4 => format!("INSERT INTO t SELECT {writer}, {n} FROM one"),
            3 => format!(
                "MERGE INTO t USING (SELECT {writer} AS w, {n} AS n) AS s ON t.w = s.w AND t.n = s.n \
                 WHEN NOT MATCHED THEN INSERT VALUES (s.w, s.n)"
            ),
            2 => {
                let file = files.join(format!("{writer}-{n}.csv"));
                std::fs::write(&file, format!("w,n\n{writer},{n}\n")).expect("a file can be written");
                format!("COPY INTO t FROM '{}'", file.display())
            }
            _ => format!("INSERT INTO t VALUES ({writer}, {n})"),
        };
        match client.query(&sql).await {
            Ok(_) => ledger.acknowledged.lock().expect("nobody panics").push(n),
            // Others were faster, five times: the row is not there.
            Err(error) if error.code == Some(1213) => {}
            Err(_) => return,
        }
    }
}

/// Moves rows into other files without changing what they say; errors end it.
async fn rewrite_on(port: u16, seed: u64, stop: Arc<AtomicBool>) {
    let Ok(mut client) = Client::connect(port, Some("default")).await else { return };
    let mut random = SmallRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let sql = match random.random_range(0..5) {
            4 => "MERGE INTO t USING t AS s ON t.w = s.w AND t.n = s.n WHEN MATCHED AND t.n % 4 = 1 THEN UPDATE SET w = s.w"
                .to_owned(),
            0 => "OPTIMIZE t".to_owned(),
            1 => "UPDATE t SET w = w WHERE n % 3 = 1".to_owned(),
            2 => format!("CREATE TABLE copy_{} AS SELECT * FROM t", random.random_range(0..u32::MAX)),
            _ => format!("DELETE FROM trash WHERE n < {}", random.random_range(0..1000)),
        };
        if client.query(&sql).await.is_err_and(|error| error.code.is_none()) {
            return;
        }
    }
}

#[test]
fn killed_writers_lose_nothing_and_double_nothing() {
    const WRITERS: usize = 6;
    let n_kills: u64 = std::env::var("SHEAF_KILLS").ok().and_then(|it| it.parse().ok()).unwrap_or(30);
    alone(Duration::from_secs(120 + n_kills * 6), async {
        let mut cluster = Cluster::start(ClusterSpec::workers(0)).await;
        let mut client = cluster.connect_to(Some("default")).await;
        run(&mut client, "CREATE TABLE t (w INT NOT NULL, n BIGINT NOT NULL)").await;
        run(&mut client, "CREATE TABLE one AS SELECT 1 AS x").await;
        run(&mut client, "CREATE TABLE trash AS SELECT number AS n FROM numbers(1000)").await;
        let ledgers: Vec<Arc<Ledger>> = (0..WRITERS).map(|_| Arc::default()).collect();
        let mut random = SmallRng::seed_from_u64(20);
        let mut n_unanswered = 0;
        let files = cluster.coordinator.dir().join("files");
        std::fs::create_dir_all(&files).expect("a folder can be made");
        for kill in 0..n_kills {
            let stop = Arc::new(AtomicBool::new(false));
            let mut clients = JoinSet::new();
            for (writer, ledger) in ledgers.iter().enumerate() {
                let (port, files) = (cluster.mysql_port(), files.clone());
                clients.spawn(write_on(port, writer, files, Arc::clone(ledger), Arc::clone(&stop)));
            }
            clients.spawn(rewrite_on(cluster.mysql_port(), kill, Arc::clone(&stop)));
            tokio::time::sleep(Duration::from_millis(random.random_range(20..400))).await;
            cluster.crash_coordinator().await;
            stop.store(true, Ordering::Relaxed);
            clients.join_all().await;
            let mut client = cluster.connect_to(Some("default")).await;
            // Files of statements that died are loaded now, all others are passed over.
            run(&mut client, &format!("COPY INTO t FROM '{}/*.csv'", files.display())).await;
            let table = run(&mut client, "SELECT w, n, count(*) FROM t GROUP BY w, n").await;
            let mut seen = vec![vec![]; WRITERS];
            for row in &table.rows {
                let [w, n, copies] = row.as_slice() else { panic!("{row:?}") };
                assert_eq!(copies, "1", "after kill {kill}: row ({w}, {n}) is there {copies} times");
                seen[w.parse::<usize>().expect("a number")].push(n.parse::<u64>().expect("a number"));
            }
            for (writer, ledger) in ledgers.iter().enumerate() {
                let sent = ledger.sent.load(Ordering::SeqCst);
                let mut rows = std::mem::take(&mut seen[writer]);
                rows.sort_unstable();
                assert!(rows.iter().all(|it| *it < sent), "after kill {kill}: a row that was never sent");
                let acknowledged = ledger.acknowledged.lock().expect("nobody panics");
                let lost: Vec<&u64> = acknowledged.iter().filter(|it| rows.binary_search(it).is_err()).collect();
                assert!(lost.is_empty(), "after kill {kill}: rows {lost:?} of writer {writer} were acknowledged");
                n_unanswered = n_unanswered.max(rows.len() - acknowledged.len());
            }
        }
        let mut client = cluster.connect_to(Some("default")).await;
        // A copy is whole or not there.
        for row in run(&mut client, "SHOW TABLES LIKE 'copy\\_%'").await.rows {
            let sums =
                run(&mut client, &format!("SELECT count(*), count(DISTINCT w * 1000000 + n) FROM {}", row[0])).await;
            assert_eq!(sums.rows[0][0], sums.rows[0][1], "{}", row[0]);
        }
        let before = run(&mut client, "SELECT count(*), sum(n) FROM t").await.rows;
        let folder = cluster.dir().join("coordinator/tables");
        let n_before = data_files(&folder).len();
        run(&mut client, "VACUUM t RETAIN 0 HOURS").await;
        assert_eq!(run(&mut client, "SELECT count(*), sum(n) FROM t").await.rows, before);
        let location = run(&mut client, "SELECT location FROM system.tables WHERE name = 't'").await.cell().to_owned();
        let own = PathBuf::from(location.trim_start_matches("file://"));
        run(&mut client, "OPTIMIZE t").await;
        run(&mut client, "VACUUM t RETAIN 0 HOURS").await;
        assert_eq!(run(&mut client, "SELECT count(*), sum(n) FROM t").await.rows, before);
        let left: Vec<_> =
            data_files(&own).into_iter().filter(|it| !it.display().to_string().contains("_delta_log")).collect();
        assert_eq!(left.len(), 1, "VACUUM leaves what the table reads: {left:?}");
        eprintln!("{n_kills} kills, {} rows, {n_unanswered} written without an answer, {n_before} files", before[0][0]);
    });
}

#[test]
fn a_worker_that_dies_leaves_no_row() {
    alone(Duration::from_secs(120), async {
        let mut cluster = Cluster::start(ClusterSpec::workers(2)).await;
        let mut client = cluster.connect_distributed(Some("default")).await;
        run(&mut client, "CREATE TABLE t AS SELECT number AS n FROM numbers(1000)").await;
        let port = cluster.mysql_port();
        let insert = tokio::spawn(async move {
            let mut client = Client::connect(port, Some("default")).await.expect("a session");
            client.query("SET min_distribute_bytes = 0").await.expect("a setting");
            client.query("INSERT INTO t SELECT number FROM numbers(300000000)").await
        });
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cluster.kill_worker(0);
        let outcome = insert.await.expect("the client does not panic");
        let n = run(&mut client, "SELECT count(*) FROM t").await.cell().to_owned();
        match outcome {
            Ok(table) => assert_eq!((table.affected_rows, n.as_str()), (300_000_000, "300001000")),
            Err(_) => assert_eq!(n, "1000"),
        }
    });
}

#[test]
fn thirty_two_clients_share_commits() {
    alone(Duration::from_secs(120), async {
        let cluster = Cluster::start(ClusterSpec::workers(0)).await;
        let mut client = cluster.connect_to(Some("default")).await;
        run(&mut client, "CREATE TABLE t (id BIGINT NOT NULL, s VARCHAR(20))").await;
        let started = Instant::now();
        let mut clients = JoinSet::new();
        for writer in 0..32u64 {
            let port = cluster.mysql_port();
            clients.spawn(async move {
                let mut client = Client::connect(port, Some("default")).await.expect("a session");
                for n in 0..20 {
                    run(&mut client, &format!("INSERT INTO t VALUES ({}, 'row')", writer * 20 + n)).await;
                }
            });
        }
        // Readers go on meanwhile, and never see a row twice.
        while clients.try_join_next().is_some() || !clients.is_empty() {
            let seen = run(&mut client, "SELECT count(*) - count(DISTINCT id) FROM t").await;
            assert_eq!(seen.cell(), "0");
        }
        let took = started.elapsed();
        assert_eq!(run(&mut client, "SELECT count(*), sum(id) FROM t").await.rows, [["640", "204480"]]);
        let commits = run(&mut client, "DESCRIBE HISTORY t").await.rows.len();
        eprintln!("640 inserts of 32 clients in {took:?}, {commits} commits");
        assert!(commits <= 160, "{commits} commits for 640 inserts");
    });
}

#[test]
fn what_goes_wrong_changes_nothing() {
    alone(Duration::from_secs(120), async {
        let cluster = Cluster::start(ClusterSpec::workers(0)).await;
        let mut client = cluster.connect_to(Some("default")).await;
        // Names that SQL and file systems do not like.
        run(&mut client, "CREATE TABLE `it's \"a\" t` (`c'd` INT, n INT) PARTITIONED BY (`c'd`)").await;
        run(&mut client, "INSERT INTO `it's \"a\" t` VALUES (1, 2), (NULL, 3)").await;
        let sum = run(&mut client, "SELECT sum(n), sum(`c'd`) FROM `it's \"a\" t`").await;
        assert_eq!(sum.rows, [["5", "1"]]);
        run(&mut client, "CREATE TABLE t AS SELECT number AS n FROM numbers(100)").await;
        // An error in the middle of many rows: nothing of them, and no file, is left.
        let folder = cluster.dir().join("coordinator/tables");
        let before = data_files(&folder).len();
        let sql = "INSERT INTO t SELECT CAST(CASE WHEN number = 2999999 THEN 'x' ELSE '1' END AS BIGINT) FROM numbers(3000000)";
        assert_eq!(code(&mut client, sql).await, Some(1366));
        assert_eq!(run(&mut client, "SELECT count(*) FROM t").await.cell(), "100");
        let deadline = Instant::now() + Duration::from_secs(10);
        while data_files(&folder).len() > before {
            assert!(Instant::now() < deadline, "files of a statement that failed are left");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // A log that cannot be written to: a file stands where its folder was.
        let location = run(&mut client, "SELECT location FROM system.tables WHERE name = 't'").await.cell().to_owned();
        let log = PathBuf::from(location.trim_start_matches("file://")).join("_delta_log");
        let aside = log.with_extension("aside");
        std::fs::rename(&log, &aside).expect("a folder can be renamed");
        std::fs::write(&log, "").expect("a file can be written");
        assert_eq!(code(&mut client, "INSERT INTO t VALUES (1)").await, Some(1017));
        std::fs::remove_file(&log).expect("a file can be removed");
        std::fs::rename(&aside, &log).expect("a folder can be renamed");
        run(&mut client, "INSERT INTO t VALUES (1)").await;
        assert_eq!(run(&mut client, "SELECT count(*) FROM t").await.cell(), "101");
    });
}

#[test]
fn copies_that_go_wrong_change_nothing() {
    alone(Duration::from_secs(120), async {
        let cluster = Cluster::start(ClusterSpec::workers(2)).await;
        let mut client = cluster.connect_distributed(Some("default")).await;
        let folder = cluster.coordinator.dir().join("it's here");
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a file can be written");
        let at = |name: &str| format!("{}/{name}", folder.display()).replace('\'', "''");
        run(&mut client, "CREATE TABLE t (id INT NOT NULL, s VARCHAR(20))").await;
        for n in 0..5 {
            write(&format!("good \"{n}\".csv"), &format!("id,s\n{n},a\n{},\n", n + 10));
        }
        write("line.csv", "id,s\n100,a\n101,b,c\n");
        write("other.csv", "number,s\n100,a\n");
        let all = format!("COPY INTO t FROM '{}'", at("*.csv"));
        // Each alone, and all together: an error, and nothing is loaded.
        assert_eq!(code(&mut client, &all).await, Some(1017));
        std::fs::remove_file(folder.join("line.csv")).expect("a file can be removed");
        assert_eq!(code(&mut client, &all).await, Some(1054));
        std::fs::remove_file(folder.join("other.csv")).expect("a file can be removed");
        assert_eq!(run(&mut client, "SELECT count(*) FROM t").await.cell(), "0");
        write("line.csv", "id,s\n100,a\n101,b,c\n");
        let report = run(&mut client, &format!("{all} OPTIONS (on_error continue)")).await;
        let statuses: Vec<&str> = report.rows.iter().map(|row| row[1].as_str()).collect();
        assert_eq!(statuses.iter().filter(|it| **it == "LOADED").count(), 5, "{report:?}");
        assert_eq!(statuses.iter().filter(|it| **it == "FAILED").count(), 1, "{report:?}");
        assert_eq!(run(&mut client, "SELECT count(*), sum(id) FROM t").await.rows, [["10", "70"]]);
        // Writing ends in the middle: readers find nothing, and soon nothing is left.
        let out = at("out");
        let sql = format!(
            "COPY (SELECT CAST(CASE WHEN number = 2999999 THEN 'x' ELSE '1' END AS BIGINT) AS n FROM numbers(3000000)) \
             TO '{out}' STORED AS PARQUET"
        );
        assert_eq!(code(&mut client, &sql).await, Some(1366));
        assert_eq!(code(&mut client, &format!("SELECT * FROM read_parquet('{out}')")).await, Some(1017));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !data_files(&folder.join("out")).is_empty() {
            assert!(Instant::now() < deadline, "files of a statement that failed are left");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Many workers' files, and what they are together.
        run(&mut client, &format!("COPY (SELECT number AS n FROM numbers(100000)) TO '{out}' STORED AS PARQUET")).await;
        let sum = run(&mut client, &format!("SELECT count(*), sum(n) FROM read_parquet('{out}')")).await;
        assert_eq!(sum.rows, [["100000", "4999950000"]]);
    });
}

async fn n_files(client: &mut Client, table: &str) -> usize {
    run(client, &format!("SHOW PARTITIONS FROM {table}")).await.rows.len()
}

/// Many small files become few, by nobody's statement, while rows come and go.
#[test]
fn small_files_are_compacted_beside_readers_and_writers() {
    const WRITERS: u64 = 4;
    const ROWS: u64 = 60;
    alone(Duration::from_secs(240), async {
        let cluster = Cluster::start(ClusterSpec::workers(0)).await;
        let mut client = cluster.connect_to(Some("default")).await;
        run(&mut client, "CREATE TABLE t (id BIGINT NOT NULL)").await;
        // Switched off, nothing happens, however many files there are.
        run(&mut client, "SET GLOBAL auto_compaction = off").await;
        run(&mut client, "CREATE TABLE off (id BIGINT NOT NULL)").await;
        for n in 0..40 {
            run(&mut client, &format!("INSERT INTO off VALUES ({n})")).await;
        }
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(n_files(&mut client, "off").await, 40);
        assert_eq!(run(&mut client, "DESCRIBE HISTORY off").await.rows.len(), 41);
        run(&mut client, "SET GLOBAL auto_compaction = on").await;
        let mut clients = JoinSet::new();
        for writer in 0..WRITERS {
            let port = cluster.mysql_port();
            clients.spawn(async move {
                let mut client = Client::connect(port, Some("default")).await.expect("a session");
                for n in 0..ROWS {
                    let id = writer * ROWS + n;
                    run(&mut client, &format!("INSERT INTO t VALUES ({id}), ({})", 1000 + id)).await;
                    // A statement of a user is never refused for what nobody asked for.
                    let deleted = run(&mut client, &format!("DELETE FROM t WHERE id = {}", 1000 + id)).await;
                    assert_eq!(deleted.affected_rows, 1);
                }
            });
        }
        while !clients.is_empty() {
            let _ = clients.try_join_next().map(|it| it.expect("a writer does not panic"));
            let seen = run(&mut client, "SELECT count(*) - count(DISTINCT id) FROM t").await;
            assert_eq!(seen.cell(), "0");
        }
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let (t, off) = (n_files(&mut client, "t").await, n_files(&mut client, "off").await);
            if t < 100 && off == 1 {
                break;
            }
            assert!(Instant::now() < deadline, "there are {t} and {off} files");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let n = WRITERS * ROWS;
        let sum = run(&mut client, "SELECT count(*), sum(id) FROM t").await.rows;
        assert_eq!(sum, [[n.to_string(), (n * (n - 1) / 2).to_string()]]);
        assert_eq!(run(&mut client, "SELECT count(*), sum(id) FROM off").await.rows, [["40", "780"]]);
        assert!(cluster.coordinator.log().contains("table compacted"), "{}", cluster.coordinator.log());
    });
}

/// The leader compacts, the other one writes: nothing that it says is refused, and it does not compact itself.
#[test]
fn compaction_gives_way_to_statements_of_other_coordinators() {
    alone(Duration::from_secs(240), async {
        let tables = tempfile::tempdir().expect("a temporary folder can be made");
        let flags = vec!["--table-root".to_owned(), tables.path().display().to_string()];
        let cluster = Coordinators::start_with(2, 0, flags, None);
        let leader = cluster.leader().await;
        let mut client = cluster.connect(1 - leader).await;
        run(&mut client, "USE default").await;
        run(&mut client, "CREATE TABLE t (id BIGINT NOT NULL, v BIGINT)").await;
        for n in 0..120 {
            run(&mut client, &format!("INSERT INTO t VALUES ({n}, 0)")).await;
            if n % 3 == 0 {
                run(&mut client, &format!("UPDATE t SET v = v + 1 WHERE id % 40 = {}", n % 40)).await;
            }
        }
        let deadline = Instant::now() + Duration::from_secs(120);
        while n_files(&mut client, "t").await >= 32 {
            assert!(Instant::now() < deadline, "nobody compacts");
            run(&mut client, "UPDATE t SET v = v + 1 WHERE id = 7").await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(run(&mut client, "SELECT count(*), sum(id) FROM t").await.rows, [["120", "7140"]]);
        let compacts = |index: usize| cluster.node(index).log().contains("table compacted");
        assert!(compacts(leader) && !compacts(1 - leader), "{}", cluster.node(1 - leader).log());
    });
}

/// Two coordinators add the same rows where they are missing, each looking first: no row comes twice.
#[test]
fn merges_of_two_coordinators_add_a_row_once() {
    alone(Duration::from_secs(180), async {
        let tables = tempfile::tempdir().expect("a temporary folder can be made");
        let flags = vec!["--table-root".to_owned(), tables.path().display().to_string()];
        let cluster = Coordinators::start_with(2, 0, flags, None);
        let mut client = cluster.connect(0).await;
        run(&mut client, "USE default").await;
        run(&mut client, "CREATE TABLE t (id BIGINT NOT NULL, n BIGINT)").await;
        let mut writers = JoinSet::new();
        for index in 0..2 {
            let port = cluster.mysql_port(index);
            writers.spawn(async move {
                let mut client = Client::connect(port, Some("default")).await.expect("a session");
                for round in 0..15 {
                    let sql = format!(
                        "MERGE INTO t USING (SELECT CAST(number AS BIGINT) + {round} * 5 AS id FROM numbers(10)) AS s \
                         ON t.id = s.id WHEN MATCHED THEN UPDATE SET n = t.n + 1 \
                         WHEN NOT MATCHED THEN INSERT VALUES (s.id, 1)"
                    );
                    run(&mut client, &sql).await;
                }
            });
        }
        writers.join_all().await;
        // Each row was met as often as both have it: nothing was lost either.
        let rows = run(&mut client, "SELECT count(*), count(DISTINCT id), sum(n) FROM t").await.rows;
        assert_eq!(rows, [["80", "80", "300"]]);
    });
}

/// A MERGE that takes its time, beside a steady stream of rows.
#[test]
fn a_merge_comes_through_beside_inserts() {
    alone(Duration::from_secs(180), async {
        let cluster = Cluster::start(ClusterSpec::workers(0)).await;
        let mut client = cluster.connect_to(Some("default")).await;
        run(&mut client, "CREATE TABLE t AS SELECT number AS id, 0 AS v FROM numbers(100000)").await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for writer in 1..=2u64 {
            let (port, stop) = (cluster.mysql_port(), Arc::clone(&stop));
            writers.spawn(async move {
                let mut client = Client::connect(port, Some("default")).await.expect("a session");
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    run(&mut client, &format!("INSERT INTO t VALUES ({}, 7)", writer * 1_000_000 + n)).await;
                    n += 1;
                }
                n
            });
        }
        for round in 1..=5 {
            let sql = format!(
                "MERGE INTO t USING (SELECT number * 2 AS id FROM numbers(60000)) AS s ON t.id = s.id \
                 WHEN MATCHED THEN UPDATE SET v = {round} WHEN NOT MATCHED THEN INSERT VALUES (s.id, {round})"
            );
            run(&mut client, &sql).await;
        }
        stop.store(true, Ordering::Relaxed);
        let n_inserted: u64 = writers.join_all().await.into_iter().sum();
        let rows = run(&mut client, "SELECT v, count(*), count(DISTINCT id) FROM t GROUP BY v ORDER BY v").await.rows;
        let n_inserted = n_inserted.to_string();
        assert_eq!(rows, [["0", "50000", "50000"], ["5", "60000", "60000"], ["7", &n_inserted, &n_inserted]]);
    });
}
