//! Workers that leave in order while queries run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sheaf_tests::{Client, Cluster, ClusterSpec, Node, alone};

use crate::cluster::{ENDLESS, assert_clean, run, start_query, wait_for_tasks};

const DEADLINE: Duration = Duration::from_secs(150);
const CLIENTS: usize = 4;

/// Waits until a worker's process has ended by itself, and well.
async fn wait_for_end(cluster: &mut Cluster, index: usize) {
    wait_for_end_of(cluster.workers[index].as_mut().expect("it was there")).await;
}

async fn wait_for_end_of(node: &mut Node) {
    let started = Instant::now();
    let status = loop {
        if let Some(status) = node.exit_status() {
            break status;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{} does not leave:\n{}", node.name(), node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(status.success(), "{} was drained and ended with {status}", node.name());
}

#[test]
fn a_coordinator_that_is_told_to_leave_finishes_its_statements() {
    alone(DEADLINE, async {
        let mut cluster = Cluster::start(ClusterSpec::workers(2)).await;
        let mut idle = cluster.connect_distributed(None).await;
        let long = "SELECT sum(number % 7), count(*) FROM numbers(1500000000)";
        let query = start_query(cluster.connect_distributed(None).await, long);
        wait_for_tasks(&mut idle, 2).await;
        assert!(!query.is_finished(), "the query was to be still running");
        cluster.coordinator.terminate();
        let error = loop {
            // What came before the signal is answered.
            match idle.query("SELECT 1").await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => break error,
            }
        };
        assert!(matches!(error.code, Some(1053) | None), "{error}");
        let refused = Client::connect(cluster.mysql_port(), None).await;
        assert!(refused.is_err(), "it takes connections on its way out");
        let (answer, _) = query.await.expect("no panic");
        assert_eq!(answer.expect("it ends in peace").rows, [["4499999995", "1500000000"]]);
        wait_for_end_of(&mut cluster.coordinator).await;
    });
}

#[test]
fn a_coordinator_waits_for_its_statements_and_not_for_ever() {
    alone(DEADLINE, async {
        let flags = vec!["--drain-timeout", "500ms"];
        let mut cluster = Cluster::start(ClusterSpec { flags, ..ClusterSpec::workers(2) }).await;
        let mut client = cluster.connect_distributed(None).await;
        let query = start_query(cluster.connect_distributed(None).await, ENDLESS);
        wait_for_tasks(&mut client, 2).await;
        cluster.coordinator.terminate();
        let (answer, _) = query.await.expect("no panic");
        let error = answer.expect_err("it has no end");
        assert!(matches!(error.code, Some(1317) | None), "{error}");
        wait_for_end_of(&mut cluster.coordinator).await;
        for worker in cluster.workers.iter().flatten() {
            super::until_nothing_is_held(worker, Duration::from_secs(10)).await;
        }
    });
}

#[test]
fn a_drained_worker_finishes_its_queries() {
    alone(DEADLINE, async {
        let mut cluster = Cluster::start(ClusterSpec::workers(2)).await;
        let mut client = cluster.connect_distributed(None).await;
        let long = "SELECT sum(number % 7), count(*) FROM numbers(1500000000)";
        let query = start_query(cluster.connect_distributed(None).await, long);
        wait_for_tasks(&mut client, 2).await;
        for (node, says) in [("nobody", "is not a live worker"), ("coordinator", "cannot be drained")] {
            let error = client.query(&format!("ALTER CLUSTER DRAIN NODE '{node}'")).await.expect_err(node);
            assert!(error.message.contains(says), "{error}");
        }
        run(&mut client, "ALTER CLUSTER DRAIN NODE 'worker-0'").await;
        let states = run(&mut client, "SELECT name, state FROM system.nodes WHERE role = 'worker' ORDER BY name").await;
        assert_eq!(states.rows, [["worker-0", "draining"], ["worker-1", "alive"]]);
        assert!(!query.is_finished(), "the query was to be still running");
        // What comes now goes to the other.
        let short = run(&mut client, "SELECT sum(number) FROM numbers(1000000)").await;
        assert_eq!(short.cell(), "499999500000");
        let (answer, _) = query.await.expect("no panic");
        assert_eq!(answer.expect("a draining worker ends it in peace").rows, [["4499999995", "1500000000"]]);
        wait_for_end(&mut cluster, 0).await;
        cluster.wait_for_workers(1).await;
        assert_clean(&mut client, "a drain").await;
    });
}

/// Every worker is replaced, one after another, while clients ask without a pause: no query fails.
#[test]
fn a_rolling_restart_loses_no_query() {
    alone(DEADLINE, async {
        let mut cluster = Cluster::start(ClusterSpec::workers(3)).await;
        let stop = Arc::new(AtomicBool::new(false));
        let n_queries = Arc::new(AtomicU64::new(0));
        let mut clients = vec![];
        for _ in 0..CLIENTS {
            let mut client = cluster.connect_distributed(None).await;
            let (stop, n_queries) = (Arc::clone(&stop), Arc::clone(&n_queries));
            clients.push(tokio::spawn(async move {
                let sql = "SELECT count(*), sum(c), sum(s) FROM \
                           (SELECT number % 1000 AS k, count(*) AS c, sum(number % 7) AS s FROM numbers(3000000) GROUP BY k)";
                while !stop.load(Ordering::Relaxed) {
                    let answer = run(&mut client, sql).await;
                    assert_eq!(answer.rows, [["1000", "3000000", "8999994"]]);
                    n_queries.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        let mut admin = cluster.connect().await;
        for index in 0..3 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            // Either way to say it.
            match index {
                1 => drop(run(&mut admin, "ALTER CLUSTER DRAIN NODE 'worker-1'").await),
                _ => cluster.workers[index].as_ref().expect("it is there").terminate(),
            }
            wait_for_end(&mut cluster, index).await;
            cluster.relaunch_worker(index);
            cluster.wait_for_workers(3).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.expect("every answer was right");
        }
        let n_queries = n_queries.load(Ordering::Relaxed);
        eprintln!("{n_queries} queries while three workers were replaced");
        assert!(n_queries >= 10, "{n_queries} queries are no load");
        assert_clean(&mut admin, "a rolling restart").await;
    });
}
