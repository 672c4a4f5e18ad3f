//! Many clients at once, with short and long queries, while workers come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sheaf_tests::{Client, Cluster, ClusterSpec, alone, number_from_env};

use super::{assert_clean, run, session, spec};

const CLIENTS: u64 = 32;
/// A query that has no answer by then hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(110);

/// Short and long ones, and one that ends with an error of its own; with their answers.
const QUERIES: [(&str, Result<&str, u16>); 7] = [
    ("SELECT 1 + 1", Ok("2")),
    ("SELECT count(*), sum(number % 7) FROM numbers(300000)", Ok("300000 899997")),
    (
        "SELECT count(*), sum(c), sum(s) FROM (SELECT number % 1000 AS k, count(*) AS c, sum(number % 7) AS s \
         FROM numbers(2000000) GROUP BY k)",
        Ok("1000 2000000 5999995"),
    ),
    (
        "SELECT count(*), sum(a.number) FROM numbers(400000) a JOIN numbers(200000) b ON a.number = b.number",
        Ok("200000 19999900000"),
    ),
    ("SELECT number FROM numbers(2000000) ORDER BY number % 1000 DESC, number LIMIT 1", Ok("999")),
    (
        "SELECT count(*), max(r) FROM (SELECT row_number() OVER (PARTITION BY number % 10 ORDER BY number) AS r \
         FROM numbers(500000))",
        Ok("500000 50000"),
    ),
    ("SELECT sum(CAST(CASE WHEN number = 100000 THEN 'x' ELSE '1' END AS BIGINT)) FROM numbers(200000)", Err(1366)),
];

/// Errors that a query may end with when workers come and go: none left, one lost, given up after many tries, busy.
const DOCUMENTED: [u16; 3] = [1203, 1429, 1430];

/// How often what came of a query.
type Tally = Arc<Mutex<BTreeMap<String, u64>>>;

/// Asks once. Panics on what is neither right nor documented.
async fn ask(client: &mut Client, rng: &mut StdRng, tally: &Tally) {
    let (sql, expected) = QUERIES.choose(rng).expect("there are some");
    let answer = client.query_within(ANSWER_WITHIN, sql).await;
    let what = match (answer, expected) {
        (Ok(table), Ok(expected)) => {
            assert_eq!(table.rows[0].join(" "), *expected, "{sql}");
            assert_eq!(table.rows.len(), 1, "{sql}");
            "right".to_owned()
        }
        (Ok(table), Err(code)) => panic!("{sql}: error {code} was expected, not {:?}", table.rows),
        (Err(error), Err(code)) if error.code == Some(*code) => format!("error {code}, as it must"),
        (Err(error), _) => {
            let code = error.code.unwrap_or_else(|| panic!("{sql}: {error}"));
            assert!(DOCUMENTED.contains(&code), "{sql}: {error}");
            format!("error {code}")
        }
    };
    *tally.lock().entry(what).or_default() += 1;
}

/// `SHEAF_FULL=1` makes it five minutes.
#[test]
fn a_crowd_while_workers_come_and_go() {
    let is_full = sheaf_tests::is_full();
    let seconds = number_from_env("SHEAF_SECONDS", if is_full { 300 } else { 15 });
    let seed = number_from_env("SHEAF_SEED", 5);
    alone(Duration::from_secs(seconds + 150), async {
        let mut cluster = Cluster::start(ClusterSpec { cores: 1, ..spec() }).await;
        let (stop, tally) = (Arc::new(AtomicBool::new(false)), Tally::default());
        let mut clients = vec![];
        for number in 0..CLIENTS {
            let mut client = session(&cluster, "").await;
            let (stop, tally) = (Arc::clone(&stop), Arc::clone(&tally));
            let mut rng = StdRng::seed_from_u64(seed * 1000 + number);
            clients.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    ask(&mut client, &mut rng, &tally).await;
                }
            }));
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let (started, mut n_events) = (Instant::now(), 0);
        let mut admin = session(&cluster, "").await;
        while started.elapsed() < Duration::from_secs(seconds) && !clients.iter().any(|it| it.is_finished()) {
            let index = rng.random_range(0..3);
            match rng.random_range(0..4) {
                // It leaves in order, and may be waited for; it is frozen; it dies.
                0 => cluster.workers[index].as_ref().expect("all run").terminate(),
                1 => {
                    cluster.workers[index].as_ref().expect("all run").freeze();
                    tokio::time::sleep(Duration::from_millis(rng.random_range(500..8000))).await;
                    cluster.workers[index].as_ref().expect("all run").thaw();
                }
                _ => {
                    cluster.kill_worker(index);
                    tokio::time::sleep(Duration::from_millis(rng.random_range(0..2000))).await;
                    cluster.relaunch_worker(index);
                }
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(500..4000))).await;
            cluster.relaunch_dead();
            n_events += 1;
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.expect("every answer is right or a documented error");
        }
        cluster.relaunch_dead();
        cluster.wait_for_workers(3).await;
        assert_clean(&mut admin, "a crowd").await;
        let tally = tally.lock().clone();
        eprintln!("{n_events} times a worker left or came in {:?}: {tally:?}", started.elapsed());
        assert!(tally.get("right").is_some_and(|n| *n > CLIENTS), "{tally:?}");
        assert_eq!(run(&mut admin, "SELECT count(*) FROM numbers(1000000)").await.cell(), "1000000");
    });
}
