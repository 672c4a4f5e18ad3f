//! A cluster of real processes in trouble: workers that come and die, clients that leave, and what must not remain.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sheaf_tests::{Client, Cluster, ClusterSpec, Table, alone, number_from_env};

const DEADLINE: Duration = Duration::from_secs(180);
/// What the project promises for every way a query can end. A machine that does much else may need longer, so being late is
/// shown, and is no failure before the next.
const CLEAN_GOAL: Duration = Duration::from_secs(2);
const CLEAN_WITHIN: Duration = Duration::from_secs(60);
/// Runs for minutes on every worker, with a shuffle in the middle.
pub(crate) const ENDLESS: &str = "SELECT number % 1000 AS k, sum(number % 7) FROM numbers(1000000000000) GROUP BY k";
/// Streams rows for minutes.
const FLOOD: &str = "SELECT number, number * 2 FROM numbers(1000000000000) WHERE number % 3 <> 1";

pub(crate) async fn run(client: &mut Client, sql: &str) -> Table {
    client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Waits until no task of any query is left on any node, and no statement but our own.
pub(crate) async fn assert_clean(client: &mut Client, after: &str) {
    let started = Instant::now();
    loop {
        let tasks = run(client, "SELECT * FROM system.tasks").await;
        let processes = run(client, "SHOW PROCESSLIST").await;
        let busy = processes.rows.iter().filter(|row| row.iter().any(|cell| cell.contains("1000000000"))).count();
        if tasks.rows.is_empty() && busy == 0 {
            if started.elapsed() > CLEAN_GOAL {
                eprintln!("LATE: clean {:?} after {after}", started.elapsed());
            }
            return;
        }
        assert!(
            started.elapsed() < CLEAN_WITHIN,
            "{CLEAN_WITHIN:?} after {after}: tasks {:?}, processes {:?}",
            tasks.rows,
            processes.rows
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the query has tasks on `n` workers.
pub(crate) async fn wait_for_tasks(client: &mut Client, n: usize) -> Vec<String> {
    let started = Instant::now();
    loop {
        let workers = run(client, "SELECT DISTINCT node FROM system.tasks ORDER BY node").await;
        if workers.rows.len() >= n {
            return workers.rows.into_iter().flatten().collect();
        }
        assert!(started.elapsed() < CLEAN_WITHIN, "tasks on {:?} only", workers.rows);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn start_query(
    mut client: Client,
    sql: &'static str,
) -> tokio::task::JoinHandle<(Result<Table, sheaf_tests::Failure>, Instant)> {
    tokio::spawn(async move {
        let answer = client.query_within(DEADLINE, sql).await;
        (answer, Instant::now())
    })
}

#[test]
fn a_worker_joins_and_takes_work() {
    alone(DEADLINE, async {
        let mut cluster = Cluster::start(ClusterSpec::workers(1)).await;
        let mut client = cluster.connect_distributed(None).await;
        let sum = "SELECT sum(number) FROM numbers(1000000)";
        assert_eq!(run(&mut client, sum).await.cell(), "499999500000");
        let newcomer = cluster.launch_worker();
        cluster.wait_for_workers(2).await;
        let query = start_query(cluster.connect_distributed(None).await, ENDLESS);
        let busy = wait_for_tasks(&mut client, 2).await;
        let name = cluster.workers[newcomer].as_ref().expect("it was just started").name().to_owned();
        assert!(busy.contains(&name), "tasks are on {busy:?}, none on {name}");
        query.abort();
        assert_clean(&mut client, "the client left").await;
        assert_eq!(run(&mut client, sum).await.cell(), "499999500000");
    });
}

#[test]
fn without_tolerance_a_killed_worker_fails_its_query_and_no_other() {
    alone(DEADLINE, async {
        let mut cluster = Cluster::start(ClusterSpec::workers(3)).await;
        let mut client = cluster.connect_distributed(None).await;
        let mut fragile = cluster.connect_distributed(None).await;
        run(&mut fragile, "SET fault_tolerance = 'off'").await;
        let query = start_query(fragile, ENDLESS);
        wait_for_tasks(&mut client, 3).await;
        let name = cluster.workers[1].as_ref().expect("nobody killed it yet").name().to_owned();
        let killed = Instant::now();
        cluster.kill_worker(1);
        let (answer, ended) = query.await.expect("the client does not panic");
        let error = answer.expect_err("a third of its rows are lost");
        let took = ended.duration_since(killed);
        eprintln!("the client heard of it after {took:?}");
        assert!(error.message.contains(&name), "the error does not name {name}: {error}");
        assert_eq!(error.code, Some(1430), "{error}");
        let next = run(&mut client, "SELECT count(*), sum(number % 10) FROM numbers(3000000)").await;
        assert_eq!(next.rows, [["3000000", "13500000"]]);
        cluster.wait_for_workers(2).await;
        assert_clean(&mut client, "the worker was killed").await;
    });
}

#[test]
fn the_last_workers_end_is_an_error_not_a_hang() {
    alone(DEADLINE, async {
        let mut cluster = Cluster::start(ClusterSpec::workers(1)).await;
        let mut client = cluster.connect_distributed(None).await;
        cluster.kill_worker(0);
        cluster.wait_for_workers(0).await;
        // A coordinator without workers may run it itself or refuse it; it must say which at once.
        match client.query("SELECT sum(number) FROM numbers(1000)").await {
            Ok(table) => assert_eq!(table.cell(), "499500"),
            Err(error) => assert!(matches!(error.code, Some(1429 | 1430)), "{error}"),
        }
        cluster.launch_worker();
        cluster.wait_for_workers(1).await;
        assert_eq!(run(&mut client, "SELECT sum(number) FROM numbers(1000)").await.cell(), "499500");
    });
}

/// Figures that must be back where they were once no query runs: name and value, summed over the nodes.
async fn reserved(client: &mut Client) -> Vec<Vec<String>> {
    run(client, "SELECT name, memory_used, exchange_bytes, spill_bytes, tasks FROM system.nodes ORDER BY name")
        .await
        .rows
}

#[test]
fn whatever_ends_a_query_nothing_of_it_remains() {
    let seed = number_from_env("SHEAF_SEED", 7);
    let n_repetitions = number_from_env("SHEAF_REPETITIONS", 100);
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(3)).await;
        let mut client = cluster.connect_distributed(None).await;
        run(&mut client, "SELECT count(*) FROM numbers(1000)").await;
        let before = reserved(&mut client).await;
        let mut rng = StdRng::seed_from_u64(seed);
        for repetition in 0..n_repetitions {
            let victim = cluster.connect_distributed(None).await;
            let id = victim.id();
            let pause = Duration::from_millis(rng.random_range(0..250));
            let sql = if rng.random_bool(0.5) { ENDLESS } else { FLOOD };
            let after = match rng.random_range(0..5) {
                0 => {
                    victim.hang_up_after(pause, sql).await;
                    "a hang-up"
                }
                1 => {
                    victim.hang_up_after_first_row(FLOOD).await.expect("the first row comes");
                    "a hang-up after the first row"
                }
                2 => {
                    let query = start_query(victim, sql);
                    tokio::time::sleep(pause).await;
                    kill(&mut client, &format!("KILL QUERY {id}"), &query).await;
                    let (answer, _) = query.await.expect("the client does not panic");
                    assert_eq!(answer.expect_err("it was killed").code, Some(1317), "repetition {repetition}");
                    "KILL QUERY"
                }
                3 => {
                    let mut victim = victim;
                    let limited = run(&mut victim, &format!("{FLOOD} LIMIT 10")).await;
                    assert_eq!(limited.rows.len(), 10);
                    "a LIMIT"
                }
                _ => {
                    let mut victim = victim;
                    let error = victim.query(FAILS).await.expect_err("one row cannot be cast");
                    assert_eq!(error.code, Some(1366), "{error}");
                    assert_eq!(run(&mut victim, "SELECT 1").await.cell(), "1");
                    "an error in a task"
                }
            };
            assert_clean(&mut client, &format!("{after} (seed {seed}, repetition {repetition})")).await;
        }
        assert_eq!(reserved(&mut client).await, before, "memory that no query uses is still reserved");
    });
}

/// Fails on one row of one task, while the other tasks still have much to do.
const FAILS: &str =
    "SELECT sum(CAST(CASE WHEN number = 1000000 THEN 'x' ELSE '1' END AS BIGINT)) FROM numbers(1000000000000)";

/// A `KILL` that comes before the statement has nothing to end, so it is sent until the statement has ended.
async fn kill<T>(client: &mut Client, statement: &str, query: &tokio::task::JoinHandle<T>) {
    let started = Instant::now();
    while !query.is_finished() {
        match client.query(statement).await {
            Ok(_) => {}
            // The statement has ended, and its session with it.
            Err(error) if error.code == Some(1094) => return,
            Err(error) => panic!("{statement}: {error}"),
        }
        assert!(started.elapsed() < CLEAN_WITHIN, "{statement} has no effect");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

#[test]
fn ten_million_rows_stream() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(3)).await;
        let mut client = cluster.connect_distributed(None).await;
        run(&mut client, "SELECT count(*) FROM numbers(1000000)").await;
        let nodes: Vec<_> = std::iter::once(&cluster.coordinator).chain(cluster.workers.iter().flatten()).collect();
        let before: Vec<Option<u64>> = nodes.iter().map(|node| node.memory("VmHWM")).collect();
        let n_rows = client.count_rows("SELECT number, number * 2 AS twice FROM numbers(10000000)").await;
        assert_eq!(n_rows, Ok(10_000_000));
        for (node, before) in nodes.iter().zip(before) {
            let (Some(before), Some(after)) = (before, node.memory("VmHWM")) else {
                sheaf_tests::skip("memory of a streamed result", "this system has no /proc");
                return;
            };
            // The whole result is 160 MB as batches; read-ahead and exchange buffers are a few batches each.
            let grown = (after - before) >> 20;
            eprintln!("{}: {grown} MiB more at its peak", node.name());
            assert!(grown < 96, "{} grew by {grown} MiB", node.name());
        }
        assert_clean(&mut client, "ten million rows").await;
    });
}

#[test]
fn a_stopped_cluster_leaves_no_process() {
    alone(DEADLINE, async {
        let spec = ClusterSpec { flags: vec!["--drain-timeout", "300ms"], ..ClusterSpec::workers(1) };
        let mut cluster = Cluster::start(spec).await;
        let mut client = cluster.connect_distributed(None).await;
        let mut impatient = cluster.connect_distributed(None).await;
        run(&mut impatient, "SET worker_wait_ms = 500").await;
        let query = start_query(impatient, ENDLESS);
        wait_for_tasks(&mut client, 1).await;
        let status = cluster.workers[0].as_mut().expect("nobody killed it").stop(Duration::from_secs(15));
        assert!(status.success(), "a worker told to stop ended with {status}");
        let (answer, _) = query.await.expect("the client does not panic");
        answer.expect_err("its only worker has gone");
        let status = cluster.coordinator.stop(Duration::from_secs(15));
        assert!(status.success(), "a coordinator told to stop ended with {status}");
    });
}

#[test]
fn tables_are_there_after_a_restart() {
    alone(DEADLINE, async {
        let mut cluster = Cluster::start_with_fixtures(ClusterSpec::default()).await;
        let count = "SELECT count(*), sum(v) FROM suite.facts";
        let before = run(&mut cluster.connect().await, count).await.rows;
        cluster.restart_coordinator().await;
        assert_eq!(run(&mut cluster.connect().await, count).await.rows, before);
    });
}
