//! Panics, and coordinators that die under their queries.

use std::time::Duration;

use sheaf_tests::{Cluster, ClusterSpec, alone};

use super::until_nothing_is_held;
use crate::cluster::{ENDLESS, assert_clean, run, start_query, wait_for_tasks};

const DEADLINE: Duration = Duration::from_secs(120);

#[test]
fn a_panic_ends_its_query_and_nothing_else() {
    alone(DEADLINE, async {
        let spec = ClusterSpec { flags: vec!["--test-functions"], ..ClusterSpec::workers(2) };
        let cluster = Cluster::start(spec).await;
        let mut client = cluster.connect_distributed(None).await;
        let other =
            start_query(cluster.connect_distributed(None).await, "SELECT sum(number % 7) FROM numbers(300000000)");
        for (where_, sql) in [
            ("a task", "SELECT sum(sheaf_panic('running', number)) FROM numbers(1000000)"),
            ("the root", "SELECT sheaf_panic('running', number) FROM numbers_local(10)"),
            ("planning", "SELECT sheaf_panic('planning', number) FROM numbers(1000000)"),
        ] {
            let error = client.query(sql).await.expect_err(sql);
            assert_eq!(error.code, Some(1105), "{where_}: {error}");
            assert!(error.message.contains("query/src/functions/planted.rs:"), "{where_}: {error}");
            assert_eq!(error.message.contains("worker worker-"), where_ == "a task", "{error}");
            assert_eq!(run(&mut client, "SELECT 1").await.cell(), "1", "the connection is the same");
        }
        let sum = other.await.expect("the client does not panic").0.expect("no panic of its own");
        assert_eq!(sum.cell(), "899999997");
        assert_clean(&mut client, "panics").await;
    });
}

/// A coordinator that is gone takes its queries along, on every worker.
#[test]
fn nothing_outlives_a_coordinator() {
    alone(DEADLINE, async {
        for freezes in [false, true] {
            let mut cluster = Cluster::start(ClusterSpec::workers(2)).await;
            let mut client = cluster.connect_distributed(None).await;
            let _query = start_query(cluster.connect_distributed(None).await, ENDLESS);
            wait_for_tasks(&mut client, 2).await;
            // A frozen process keeps its connections; it is missed when it does not answer a ping.
            let goal = Duration::from_secs(if freezes { 10 } else { 2 });
            match freezes {
                true => cluster.coordinator.freeze(),
                false => cluster.coordinator.kill(),
            }
            for worker in cluster.workers.iter().flatten() {
                let took = until_nothing_is_held(worker, Duration::from_secs(60)).await;
                let late = if took > goal { "LATE: " } else { "" };
                eprintln!("{late}coordinator {}: clean after {took:?}", if freezes { "frozen" } else { "killed" });
            }
        }
    });
}
