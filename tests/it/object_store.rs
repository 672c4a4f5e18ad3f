//! Managed tables in an S3 server that is a process of its own and writes down what it is asked: TPC-H by CTAS, its 22
//! answers, and what a second run asks for that the cache holds. `SHEAF_FULL=1` takes scale factor 1 for it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sheaf_tests::{Client, Cluster, ClusterSpec, Table, alone, root, skip};

use crate::clients::{python, script};
use crate::lifecycle::metric;
use crate::tpch;

const KEY: &str = "who-asks";
const SECRET: &str = "hush-hush";

/// The server's process; dropping it kills it.
struct S3 {
    child: Child,
    port: u16,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl S3 {
    /// `None` where its environment cannot be made.
    fn start(buckets: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let log = dir.path().join("requests.log");
        let mut command = Command::new(python()?);
        command.arg(root().join("tests/python/s3_server.py")).arg(&log).arg(KEY).args(buckets);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python can be started");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it was asked for");
        BufReader::new(stdout).read_line(&mut line).expect("the server says where it listens");
        let port = line.trim().parse().unwrap_or_else(|_| panic!("the S3 server did not start: {line:?}"));
        Some(Self { child, port, log, _dir: dir })
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What a node needs to know for tables that are kept here.
    fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }

    /// All requests so far: method, path and range.
    fn requests(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Reads of data, not of logs, since there were `n` requests.
    fn reads_since(&self, n: usize) -> Vec<String> {
        let is_data =
            |line: &String| line.starts_with("GET ") && line.contains(".parquet") && !line.contains("_delta_log");
        self.requests().into_iter().skip(n).filter(is_data).collect()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn run(client: &mut Client, sql: &str) -> Table {
    client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Runs a statement that has to fail: the message has these parts and no secret.
async fn fails(client: &mut Client, sql: &str, parts: &[&str]) {
    let error = client.query(sql).await.expect_err(sql).to_string();
    for part in parts {
        assert!(error.contains(part), "{sql}: {part:?} is not in {error}");
    }
    assert!(!error.contains(SECRET) && !error.contains(KEY), "{error}");
}

fn spec(s3: &S3, workers: usize) -> ClusterSpec {
    ClusterSpec { flags: vec!["--table-root", "s3://lake/tables"], env: s3.env(), ..ClusterSpec::workers(workers) }
}

/// The sum of a figure over all nodes.
async fn metrics(cluster: &Cluster, name: &str) -> f64 {
    let mut sum = metric(&cluster.coordinator, name).await;
    for worker in cluster.workers.iter().flatten() {
        sum += metric(worker, name).await;
    }
    sum
}

/// Makes the eight tables from the generator's, in a database that is selected then.
async fn load(client: &mut Client, scale: &str, database: &str) {
    run(client, &format!("CREATE DATABASE gen ENGINE = TPCH(scale = {scale})")).await;
    run(client, &format!("CREATE DATABASE {database}")).await;
    run(client, &format!("USE {database}")).await;
    for table in tpch::TABLES {
        run(client, &format!("CREATE TABLE {table} AS SELECT * FROM gen.{table}")).await;
    }
}

fn check_tpch(workers: usize) {
    alone(Duration::from_secs(300), async {
        let Some(s3) = S3::start(&["lake"]) else {
            return skip("managed tables in S3", "tests/python/setup.sh could not make its environment");
        };
        let mut cluster = Cluster::start(spec(&s3, workers)).await;
        let mut client = cluster.connect_distributed(None).await;
        load(&mut client, "0.1", "kept").await;
        let before = s3.requests().len();
        assert_eq!(tpch::wrong_answers(&mut client).await, Vec::<String>::new());
        let first = s3.reads_since(before);
        assert!(!first.is_empty(), "the tables are in the store");
        assert_eq!(metrics(&cluster, "sheaf_data_cache_skipped_total").await, 0.0, "all of it is kept");
        let before = s3.requests().len();
        assert_eq!(tpch::wrong_answers(&mut client).await, Vec::<String>::new());
        assert_eq!(s3.reads_since(before), Vec::<String>::new(), "the cache holds all that the first run read");
        assert!(metrics(&cluster, "sheaf_data_cache_read_bytes_total").await > 0.0);
        // Killed, not stopped: what lies on the disks is found again.
        let before = s3.requests().len();
        for index in 0..workers {
            cluster.kill_worker(index);
        }
        cluster.crash_coordinator().await;
        cluster.relaunch_dead();
        cluster.wait_for_workers(workers.max(1)).await;
        let mut client = cluster.connect_distributed(Some("kept")).await;
        assert_eq!(tpch::wrong_answers(&mut client).await, Vec::<String>::new());
        let third = s3.reads_since(before);
        eprintln!(
            "{workers} workers: {} reads, then none, then {} after all nodes were killed",
            first.len(),
            third.len()
        );
        // What a coordinator remembered of its placement is gone with it, and a piece may have another home now.
        assert!(third.len() * 2 < first.len(), "{third:?}");
    });
}

#[test]
fn tpch_in_s3_on_one_process() {
    check_tpch(0);
}

#[test]
fn tpch_in_s3_on_three_workers() {
    check_tpch(3);
}

#[test]
fn tpch_sf1_in_s3_equals_duckdb() {
    if !sheaf_tests::is_full() {
        return skip("TPC-H SF1 in S3 against DuckDB", "it takes minutes; SHEAF_FULL=1 runs it");
    }
    alone(Duration::from_secs(3_600), async {
        let Some(s3) = S3::start(&["lake"]) else {
            return skip("TPC-H SF1 in S3 against DuckDB", "tests/python/setup.sh could not make its environment");
        };
        let data = tempfile::tempdir().expect("a temporary folder can be made");
        tpch::generate(data.path(), "1", 8);
        let queries = root().join("cli/src/tpch").display().to_string();
        for workers in [0, 3] {
            let cluster = Cluster::start(ClusterSpec { memory: "2GiB", ..spec(&s3, workers) }).await;
            let mut client = cluster.connect_distributed(None).await;
            let started = Instant::now();
            load(&mut client, "1", "sf1").await;
            eprintln!("{workers} workers: loaded in {:?}", started.elapsed());
            for round in 0..2 {
                let (before, started) = (s3.requests().len(), Instant::now());
                for number in 1..=22 {
                    run(&mut client, &tpch::query_text(number)).await;
                }
                let reads = s3.reads_since(before);
                eprintln!("{workers} workers, round {round}: {:?}, {} reads", started.elapsed(), reads.len());
                assert_eq!(reads.is_empty(), round == 1, "{reads:?}");
            }
            let arguments = [data.path().display().to_string(), queries.clone()];
            script("tpch_against_duckdb.py", cluster.mysql_port(), &arguments);
        }
    });
}

#[test]
fn what_can_be_wrong_with_a_store_is_said() {
    alone(Duration::from_secs(240), async {
        let Some(s3) = S3::start(&["lake"]) else {
            return skip("errors of an S3 server", "tests/python/setup.sh could not make its environment");
        };
        let cluster = Cluster::start(spec(&s3, 2)).await;
        let mut client = cluster.connect_distributed(None).await;
        run(&mut client, "CREATE DATABASE d").await;
        run(&mut client, "USE d").await;
        run(&mut client, "CREATE TABLE t AS SELECT number AS n FROM numbers(1000)").await;
        assert_eq!(run(&mut client, "SELECT sum(n) FROM t").await.rows, [["499500"]]);
        let create = |location: &str, endpoint: &str, key: &str| {
            format!(
                "CREATE EXTERNAL TABLE wrong STORED AS PARQUET LOCATION '{location}' OPTIONS ('s3.endpoint' '{endpoint}', \
                 's3.region' 'us-east-1', 's3.access_key_id' '{key}', 's3.secret_access_key' '{SECRET}')"
            )
        };
        let endpoint = s3.endpoint();
        fails(&mut client, &create("s3://no-such-bucket/t/", &endpoint, KEY), &["s3://no-such-bucket"]).await;
        // Into a bucket that is not there, and from one: nothing comes, nothing goes.
        fails(&mut client, "COPY t TO 's3://no-such-bucket/out' STORED AS PARQUET", &["s3://no-such-bucket"]).await;
        fails(&mut client, "COPY INTO t FROM 's3://no-such-bucket/t.parquet'", &["s3://no-such-bucket"]).await;
        assert_eq!(run(&mut client, "SELECT count(*), sum(n) FROM t").await.rows, [["1000", "499500"]]);
        let wrong_key = create("s3://lake/tables/", &endpoint, "somebody-else");
        fails(&mut client, &wrong_key, &["s3://lake/tables", "403"]).await;
        // With all its files in the cache, a query needs the log alone; without its server, not even that can be had.
        drop(s3);
        fails(&mut client, "SELECT sum(n) FROM t", &["s3://lake/tables/d/t-"]).await;
        fails(&mut client, "INSERT INTO t VALUES (1)", &["s3://lake/tables/d/t-"]).await;
        fails(&mut client, &create("s3://lake/tables/", &endpoint, KEY), &["s3://lake/tables"]).await;
        fails(&mut client, "COPY INTO t FROM 's3://lake/t.parquet'", &["s3://lake/tables/d/t-"]).await;
        assert_eq!(run(&mut client, "SHOW TABLES").await.rows, [["t"]]);
        assert_eq!(run(&mut client, "SELECT 1").await.rows, [["1"]]);
    });
}
