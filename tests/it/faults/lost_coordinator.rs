//! Coordinators that die under the queries of their clients.

use std::time::{Duration, Instant};

use sheaf_tests::{Client, Cluster, alone};

use super::{CLEAN_WITHIN, DEADLINE, run, session, spec, wait_for_tasks};
use crate::lifecycle::until_nothing_is_held;

/// Rows without end, and an aggregate that never has one.
const FLOOD: &str = "SELECT number, number * 2 FROM numbers(1000000000000) WHERE number % 3 <> 1";
const ENDLESS: &str = "SELECT number % 1000 AS k, sum(number % 7) FROM numbers(1000000000000) GROUP BY k";

#[test]
fn a_coordinator_that_dies_is_an_error_and_leaves_nothing() {
    alone(DEADLINE, async {
        let mut cluster = Cluster::start(spec()).await;
        for (what, sql) in [("before the first row", ENDLESS), ("after the first row", FLOOD)] {
            let mut client = session(&cluster, "").await;
            let mut reader: Client = session(&cluster, "").await;
            // Then rows come at once.
            run(&mut reader, "SET result_hold_back_bytes = 0").await;
            let query = tokio::spawn(async move { reader.count_rows(sql).await });
            wait_for_tasks(&mut client, what, |it| it.len() >= 3).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            cluster.coordinator.kill();
            let killed = Instant::now();
            let answer = query.await.expect("the client does not panic");
            let error = answer.expect_err("a connection that broke is no end of a result");
            assert_eq!(error.code, None, "{what}: {error}");
            eprintln!("killed {what}: the client heard of it after {:?}: {error}", killed.elapsed());
            for worker in cluster.workers.iter().flatten() {
                let took = until_nothing_is_held(worker, CLEAN_WITHIN).await;
                eprintln!("killed {what}: {} clean after {took:?}", worker.name());
            }
            // The workers join the next one, which knows nothing of its predecessor's queries.
            let at = cluster.coordinator.ports().flight;
            cluster.crash_coordinator().await;
            if cluster.coordinator.ports().flight != at {
                (0..3).for_each(|index| cluster.kill_worker(index));
                (0..3).for_each(|index| cluster.relaunch_worker(index));
            }
            cluster.wait_for_workers(3).await;
            let mut client = session(&cluster, "").await;
            assert_eq!(run(&mut client, "SELECT count(*), sum(number) FROM numbers(1000000)").await.rows.len(), 1);
        }
    });
}
