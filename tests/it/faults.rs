//! What becomes of queries when tasks fail and workers die: the right rows, or one documented error; never a hang, and
//! nothing left behind.
//!
//! Faults within tasks are brought about by the setting `fault_injection`, deaths by signals. `SHEAF_FULL=1` adds the 22
//! queries of TPC-H with a worker killed in each.

mod crowd;
#[cfg(target_os = "linux")]
mod cut_network;
mod full_disk;
mod lost_coordinator;
mod slow_task;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sheaf_tests::{Client, Cluster, ClusterSpec, Failure, Table, alone, number_from_env};
use tokio::task::JoinHandle;

use crate::tpch;

const DEADLINE: Duration = Duration::from_secs(300);
/// What is promised: nothing of a query is left on any node after this. A machine that does much else may need longer, so
/// being late is shown, and is no failure before the next.
const CLEAN_GOAL: Duration = Duration::from_secs(5);
const CLEAN_WITHIN: Duration = Duration::from_secs(60);
/// A query that lost a worker and has no answer by then hangs: noticing takes seconds, and so does running again.
const RECOVERED_WITHIN: Duration = Duration::from_secs(100);

/// Scan and partial sums, final sums, root.
const SUMS: &str = "SELECT number % 1000 AS k, count(*), sum(number % 7) FROM numbers(3000000) GROUP BY k ORDER BY k";

async fn run(client: &mut Client, sql: &str) -> Table {
    client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn expected_sums() -> Vec<Vec<String>> {
    let mut sums = vec![(0u64, 0u64); 1000];
    for number in 0..3_000_000u64 {
        let (count, sum) = &mut sums[(number % 1000) as usize];
        *count += 1;
        *sum += number % 7;
    }
    let row = |(k, (count, sum)): (usize, &(u64, u64))| vec![k.to_string(), count.to_string(), sum.to_string()];
    sums.iter().enumerate().map(row).collect()
}

fn spec() -> ClusterSpec {
    ClusterSpec { flags: vec!["--allow-fault-injection"], ..ClusterSpec::workers(3) }
}

/// A session whose queries recover, with faults.
async fn session(cluster: &Cluster, faults: &str) -> Client {
    let mut client = cluster.connect_distributed(None).await;
    run(&mut client, "SET fault_tolerance = 'on'").await;
    run(&mut client, &format!("SET fault_injection = '{faults}'")).await;
    client
}

async fn restarts(client: &mut Client) -> u64 {
    let row = run(client, "SHOW STATUS LIKE 'Sheaf_last_query_restarts'").await.rows.remove(0);
    row[1].parse().expect("a counter is a number")
}

/// Waits until no task and no output of any query is left on any node.
async fn assert_clean(client: &mut Client, after: &str) {
    let started = Instant::now();
    loop {
        let tasks = run(client, "SELECT * FROM system.tasks").await;
        let held =
            run(client, "SELECT name, exchange_bytes, spill_bytes, memory_used FROM system.nodes WHERE exchange_bytes + spill_bytes + memory_used > 0").await;
        if tasks.rows.is_empty() && held.rows.is_empty() {
            if started.elapsed() > CLEAN_GOAL {
                eprintln!("LATE: clean {:?} after {after}", started.elapsed());
            }
            return;
        }
        assert!(started.elapsed() < CLEAN_WITHIN, "after {after}: tasks {:?}, output {:?}", tasks.rows, held.rows);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs a query in the background.
fn start(mut client: Client, sql: &str) -> JoinHandle<(Result<Table, Failure>, Client)> {
    let sql = sql.to_owned();
    tokio::spawn(async move {
        let answer = client.query_within(RECOVERED_WITHIN, &sql).await;
        (answer, client)
    })
}

/// Its rows and how often something was run again.
async fn recovered(query: JoinHandle<(Result<Table, Failure>, Client)>, what: &str) -> (Table, u64) {
    let (answer, mut client) = query.await.expect("the client does not panic");
    let table = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
    let n_restarts = restarts(&mut client).await;
    (table, n_restarts)
}

/// Waits until the tasks that run are as asked for; the rows of `system.tasks` are stage, task, attempt, node, state.
async fn wait_for_tasks(client: &mut Client, what: &str, is_so: impl Fn(&[Vec<String>]) -> bool) -> Vec<Vec<String>> {
    let started = Instant::now();
    loop {
        let sql = "SELECT stage, task, attempt, node, state FROM system.tasks ORDER BY stage, task, attempt";
        let tasks = run(client, sql).await.rows;
        if is_so(&tasks) {
            return tasks;
        }
        assert!(started.elapsed() < RECOVERED_WITHIN, "{what}: {tasks:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn all_finished(tasks: &[Vec<String>], stage: &str) -> bool {
    let mut of_stage = tasks.iter().filter(|row| row[0] == stage).peekable();
    of_stage.peek().is_some() && of_stage.all(|row| row[4] == "finished")
}

/// The place of the worker with this name.
fn worker(cluster: &Cluster, name: &str) -> usize {
    let is_it = |it: &Option<sheaf_tests::cluster::Node>| it.as_ref().is_some_and(|it| it.name() == name);
    cluster.workers.iter().position(is_it).unwrap_or_else(|| panic!("no worker {name}"))
}

#[test]
fn a_task_that_fails_is_tried_again() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(spec()).await;
        let mut client = session(&cluster, "").await;
        let expected = expected_sums();
        assert_eq!(run(&mut client, SUMS).await.rows, expected);
        assert_eq!(restarts(&mut client).await, 0);
        for faults in [
            "io@1.0.0",
            "io@1.1.0+500",
            "panic@1.2.0",
            "memory@2.0.0",
            "panic@2.1.0",
            "io@1.0.0, memory@2.2.0",
            // Each of its tasks fails once.
            "io@2.*.0",
        ] {
            run(&mut client, &format!("SET fault_injection = '{faults}'")).await;
            let table = run(&mut client, SUMS).await;
            assert_eq!(table.rows, expected, "{faults}");
            let n_restarts = restarts(&mut client).await;
            assert!(n_restarts >= 1, "{faults} left no trace");
            eprintln!("{faults}: {n_restarts} restarts");
            assert_clean(&mut client, faults).await;
        }
        for (faults, code, words) in [
            ("io@1.0.*", 1017, ": gave up after 4 attempts of task 0 of stage 1"),
            ("panic@2.1.*", 1105, "internal error at stage 2, task 1"),
            ("memory@1.*.*", 1041, "injected fault: no memory"),
        ] {
            run(&mut client, &format!("SET fault_injection = '{faults}'")).await;
            let error = client.query(SUMS).await.expect_err("it fails for ever");
            assert_eq!(error.code, Some(code), "{faults}: {error}");
            assert!(error.message.contains(words), "{faults}: {error}");
            assert_clean(&mut client, faults).await;
        }
        // The user's own error is tried once, and says what one process says.
        run(&mut client, "SET fault_injection = ''").await;
        let sql = "SELECT sum(CAST(CASE WHEN number = 1000000 THEN 'x' ELSE '1' END AS BIGINT)) FROM numbers(2000000)";
        let error = client.query(sql).await.expect_err("one row cannot be cast");
        assert_eq!(error.code, Some(1366), "{error}");
        assert!(!error.message.contains("query ") && !error.message.contains("attempts"), "{error}");
        // Without tolerance the first error is the last.
        run(&mut client, "SET fault_tolerance = 'off', fault_injection = 'io@1.0.0'").await;
        let error = client.query(SUMS).await.expect_err("nothing is tried again");
        assert_eq!(error.code, Some(1017), "{error}");
        assert!(!error.message.contains("attempts"), "{error}");
        assert_clean(&mut client, "an error without tolerance").await;
    });
}

#[test]
fn faults_are_refused_where_they_are_not_allowed() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(2)).await;
        let mut client = session(&cluster, "panic@*.*.*").await;
        let error = client.query(SUMS).await.expect_err("no node allows it");
        assert!(error.message.contains("--allow-fault-injection"), "{error}");
    });
}

#[test]
fn a_worker_that_dies_loses_no_query() {
    alone(DEADLINE, async {
        let mut cluster = Cluster::start(spec()).await;
        let mut client = session(&cluster, "").await;
        let expected = expected_sums();
        // In the middle of a scan, of the second stage, and at the very beginning.
        for faults in ["abort@1.1.0+500", "abort@2.0.0+100", "abort@1.0.0"] {
            let started = Instant::now();
            let (table, n_restarts) = recovered(start(session(&cluster, faults).await, SUMS), faults).await;
            eprintln!("{faults}: {n_restarts} restarts, {:?}", started.elapsed());
            assert_eq!(table.rows, expected, "{faults}");
            assert!(n_restarts >= 1, "{faults} struck nothing");
            assert_clean(&mut client, faults).await;
            assert_eq!(cluster.relaunch_dead(), 1, "{faults}");
            cluster.wait_for_workers(3).await;
        }
        // Its output is complete, and its readers have not begun.
        let query = start(session(&cluster, "slow=1500@2.*.0").await, SUMS);
        let tasks = wait_for_tasks(&mut client, "the scans end", |it| all_finished(it, "1")).await;
        let victim = worker(&cluster, &tasks[0][3]);
        cluster.kill_worker(victim);
        let (table, n_restarts) = recovered(query, "killed with complete output").await;
        assert_eq!(table.rows, expected);
        assert!(n_restarts >= 1);
        assert_clean(&mut client, "a kill after complete output").await;
        cluster.relaunch_worker(victim);
        cluster.wait_for_workers(3).await;
        // Killed and at once there again.
        let query = start(session(&cluster, "slow=1500@2.*.0").await, SUMS);
        let tasks = wait_for_tasks(&mut client, "the scans end", |it| all_finished(it, "1")).await;
        let victim = worker(&cluster, &tasks[1][3]);
        cluster.kill_worker(victim);
        cluster.relaunch_worker(victim);
        let (table, _) = recovered(query, "killed and restarted").await;
        assert_eq!(table.rows, expected);
        assert_clean(&mut client, "a kill and a restart").await;
        cluster.wait_for_workers(3).await;
        // All of them, and all come back.
        let query = start(session(&cluster, "slow=1500@2.*.0").await, SUMS);
        wait_for_tasks(&mut client, "the scans end", |it| all_finished(it, "1")).await;
        (0..3).for_each(|index| cluster.kill_worker(index));
        (0..3).for_each(|index| cluster.relaunch_worker(index));
        let (table, n_restarts) = recovered(query, "all killed").await;
        assert_eq!(table.rows, expected);
        assert!(n_restarts >= 1);
        cluster.wait_for_workers(3).await;
        assert_clean(&mut client, "the death of all workers").await;
    });
}

#[test]
fn what_cannot_be_recovered_is_an_error() {
    alone(DEADLINE, async {
        let mut cluster = Cluster::start(spec()).await;
        let mut client = session(&cluster, "").await;
        // A task that kills its workers gets no third one.
        let (answer, _) =
            start(session(&cluster, "abort@1.1.*+1").await, SUMS).await.expect("the client does not panic");
        let error = answer.expect_err("it kills whoever runs it");
        assert_eq!(error.code, Some(1430), "{error}");
        assert!(
            error.message.contains("a third is not risked") && error.message.contains("task 1 of stage 1"),
            "{error}"
        );
        cluster.wait_for_workers(1).await;
        assert_clean(&mut client, "a task that kills its workers").await;
        assert_eq!(cluster.relaunch_dead(), 2);
        cluster.wait_for_workers(3).await;
        // Rows have gone out.
        let flood = "SELECT number, number * 2 FROM numbers(1000000000000) WHERE number % 3 <> 1";
        let mut reader = session(&cluster, "").await;
        let query = tokio::spawn(async move { reader.count_rows(flood).await });
        wait_for_tasks(&mut client, "rows flow", |it| it.len() == 3).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.kill_worker(0);
        let answer = query.await.expect("the client does not panic");
        let error = answer.expect_err("a part of its rows is lost");
        assert_eq!(error.code, Some(1430), "{error}");
        assert!(error.message.contains("rows had been sent") && error.message.contains("query "), "{error}");
        assert_clean(&mut client, "a loss after rows went out").await;
        cluster.relaunch_dead();
        cluster.wait_for_workers(3).await;
        // Nobody comes back.
        let mut waiting = session(&cluster, "slow=1500@2.*.0").await;
        run(&mut waiting, "SET worker_wait_ms = 1000").await;
        let query = start(waiting, SUMS);
        wait_for_tasks(&mut client, "the scans end", |it| all_finished(it, "1")).await;
        (0..3).for_each(|index| cluster.kill_worker(index));
        let (answer, _) = query.await.expect("the client does not panic");
        let error = answer.expect_err("no worker is left");
        assert_eq!(error.code, Some(1429), "{error}");
        assert_clean(&mut client, "the end of all workers").await;
    });
}

#[test]
fn a_frozen_worker_is_given_up_and_comes_back() {
    alone(DEADLINE, async {
        let is_full = sheaf_tests::is_full();
        let cluster = Cluster::start(spec()).await;
        let mut client = session(&cluster, "").await;
        let query = start(session(&cluster, "slow=1500@2.*.0").await, SUMS);
        let tasks = wait_for_tasks(&mut client, "the scans end", |it| all_finished(it, "1")).await;
        let frozen = worker(&cluster, &tasks[0][3]);
        let started = Instant::now();
        cluster.workers[frozen].as_ref().expect("it lives").freeze();
        let (table, n_restarts) = recovered(query, "frozen").await;
        let took = started.elapsed();
        eprintln!("a frozen worker: {n_restarts} restarts, {took:?}");
        assert_eq!(table.rows, expected_sums());
        assert!(n_restarts >= 1);
        if is_full {
            // Long after all others have forgotten it.
            tokio::time::sleep(Duration::from_secs(30).saturating_sub(took)).await;
        }
        cluster.workers[frozen].as_ref().expect("it lives").thaw();
        cluster.wait_for_workers(3).await;
        // Its old tasks are void.
        assert_clean(&mut client, "a worker froze and came back").await;
        assert_eq!(run(&mut client, SUMS).await.rows, expected_sums());
    });
}

/// Queries over a stage of which no two attempts are alike, and what their answer must be whatever its rows were. Of
/// each, a part of the readers has read the first attempt to its end when the others lose it.
const INDETERMINATE: [(&str, &str, &str); 7] = [
    (
        "random",
        "SELECT count(*), count(DISTINCT n), sum(c) FROM \
         (SELECT r, min(n) AS n, count(*) AS c FROM (SELECT number AS n, random() AS r FROM numbers(50000)) GROUP BY r)",
        "50000 50000 50000",
    ),
    (
        "uuid",
        "SELECT count(*), count(DISTINCT n), sum(c) FROM \
         (SELECT r, min(n) AS n, count(*) AS c FROM (SELECT number AS n, uuid() AS r FROM numbers(50000)) GROUP BY r)",
        "50000 50000 50000",
    ),
    (
        "limit",
        "SELECT count(*), sum(c) FROM (SELECT n, count(*) AS c FROM \
         (SELECT number AS n FROM numbers(3000000) WHERE number % 3 <> 1 LIMIT 20000) GROUP BY n)",
        "20000 20000",
    ),
    (
        "top-k with ties",
        "SELECT count(*), sum(c) FROM (SELECT n, count(*) AS c FROM \
         (SELECT number AS n FROM numbers(3000000) ORDER BY number % 7 LIMIT 20000) GROUP BY n)",
        "20000 20000",
    ),
    (
        "row_number over ties",
        "SELECT count(*), sum(c), min(c), max(c) FROM (SELECT rn, n % 100 AS h, count(*) AS c FROM (SELECT number AS n, \
         row_number() OVER (PARTITION BY number % 10 ORDER BY number % 2) AS rn FROM numbers(200000)) GROUP BY rn, h)",
        "200000 200000 1 1",
    ),
    (
        "float keys",
        "SELECT sum(c), sum(k) FROM (SELECT s, count(*) AS c, sum(k) AS k FROM (SELECT number % 5000 AS k, \
         sum(CAST(number AS DOUBLE) / 3) AS s FROM numbers(300000) GROUP BY number % 5000) GROUP BY s)",
        "5000 12497500",
    ),
    (
        "round-robin",
        "SELECT count(*), sum(c) FROM (SELECT x, count(*) AS c FROM (SELECT number AS x FROM numbers(300000) UNION ALL \
         SELECT number + 300000 FROM numbers(300000)) WHERE x % 2 = 0 GROUP BY x)",
        "300000 300000",
    ),
];

#[test]
fn indeterminate_stages_give_rows_that_fit_together() {
    alone(DEADLINE, async {
        let mut cluster = Cluster::start(spec()).await;
        let mut client = session(&cluster, "").await;
        for (name, sql, expected) in INDETERMINATE {
            let rows = run(&mut client, sql).await.rows;
            assert_eq!(rows[0].join(" "), expected, "{name}, without a fault");
            let plan = run(&mut client, &format!("EXPLAIN {sql}")).await;
            let n_stages = plan.rows.iter().flatten().filter(|line| line.contains("stage")).count();
            assert!(n_stages > 0, "{name} is not distributed: {:?}", plan.rows);
            // One reader of the last stages stands still while its siblings read all that there is.
            let faults = "slow=1000@2.1.0, slow=1000@3.1.0";
            let query = start(session(&cluster, faults).await, sql);
            let is_ready = |it: &[Vec<String>]| {
                all_finished(it, "1") && it.iter().any(|row| row[0] != "1" && row[4] == "finished")
            };
            let started = Instant::now();
            let mut victim = None;
            while victim.is_none() && !query.is_finished() && started.elapsed() < Duration::from_secs(5) {
                let sql = "SELECT stage, task, attempt, node, state FROM system.tasks ORDER BY stage, task, attempt";
                let tasks = run(&mut client, sql).await.rows;
                if is_ready(&tasks) {
                    victim = tasks.iter().find(|row| row[0] == "1").map(|row| worker(&cluster, &row[3]));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if let Some(victim) = victim {
                cluster.kill_worker(victim);
            }
            let (table, n_restarts) = recovered(query, name).await;
            eprintln!("{name}: {n_restarts} restarts, killed: {victim:?}");
            assert_eq!(table.rows[0].join(" "), expected, "{name}");
            assert_clean(&mut client, name).await;
            cluster.relaunch_dead();
            cluster.wait_for_workers(3).await;
        }
    });
}

/// The queries of TPC-H that the short form kills workers in: the longest and those of most stages.
const SHORT: [usize; 6] = [2, 5, 9, 13, 18, 21];

/// What one killed query took.
struct Killed {
    query: usize,
    alone: Duration,
    added: Duration,
    n_restarts: u64,
}

/// How long each batch of each task waits: queries of a second on two cores then last long enough to be hit.
const SLOW_SCANS: &str = "slow=4@*.*.*";

/// A kill counts that took something away, so that each query is asked until as many have.
#[test]
fn tpch_with_a_worker_killed_in_each_query() {
    let is_full = sheaf_tests::is_full();
    let n_rounds = number_from_env("SHEAF_ROUNDS", if is_full { 5 } else { 1 });
    let seed = number_from_env("SHEAF_SEED", 11);
    let (scale, queries) = if is_full { ("1", (1..=22).collect()) } else { ("0.1", SHORT.to_vec()) };
    alone(if is_full { Duration::from_secs(7200) } else { DEADLINE }, async {
        let data = tempfile::tempdir().expect("a temporary folder can be made");
        tpch::generate(data.path(), scale, 8);
        let mut cluster = Cluster::start(ClusterSpec { allow_roots: vec![data.path().to_owned()], ..spec() }).await;
        let mut admin = session(&cluster, "").await;
        tpch::create_tables(&mut admin, "tpch", data.path()).await;
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut hits, mut n_kills) = (vec![], 0);
        for number in queries {
            let sql = tpch::query_text(number);
            let mut client = session(&cluster, SLOW_SCANS).await;
            run(&mut client, "USE tpch").await;
            // Once for the caches, and once for the clock.
            run(&mut client, &sql).await;
            let started = Instant::now();
            let expected = run(&mut client, &sql).await;
            let took = started.elapsed();
            let mut n_hits = 0;
            for round in 0..10 * n_rounds {
                if n_hits == n_rounds {
                    break;
                }
                let mut victim = session(&cluster, SLOW_SCANS).await;
                run(&mut victim, "USE tpch").await;
                let index = rng.random_range(0..3);
                let pause = took.mul_f64(rng.random_range(0.05..0.9));
                let started = Instant::now();
                let query = start(victim, &sql);
                tokio::time::sleep(pause).await;
                cluster.kill_worker(index);
                let what = format!("q{number}, round {round}, worker {index} after {pause:?} (seed {seed})");
                let (table, n_restarts) = recovered(query, &what).await;
                let added = started.elapsed().saturating_sub(took);
                assert_eq!(tpch::difference(&table, &expected.rows, tpch::ORDER[number - 1]), None, "{what}");
                assert_clean(&mut admin, &what).await;
                cluster.relaunch_worker(index);
                cluster.wait_for_workers(3).await;
                n_kills += 1;
                if n_restarts > 0 {
                    n_hits += 1;
                    hits.push(Killed { query: number, alone: took, added, n_restarts });
                }
            }
            assert_eq!(n_hits, n_rounds, "q{number} was hit too seldom");
        }
        for it in &hits {
            let Killed { query, alone, added, n_restarts } = it;
            eprintln!("q{query}: {alone:.0?} alone, {added:.0?} more with a kill, {n_restarts} restarts");
        }
        let mut over: Vec<f64> =
            hits.iter().map(|it| (it.added.as_secs_f64() - 0.35 * it.alone.as_secs_f64()).max(0.0)).collect();
        over.sort_by(f64::total_cmp);
        let p95 = over.get((over.len() * 95).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default();
        eprintln!(
            "{n_kills} kills, {} of them hit, as many right answers; beyond 0.35 of the query at the 95th percentile: {p95:.2} s",
            hits.len()
        );
    });
}
