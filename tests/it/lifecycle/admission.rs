//! A full cluster: who waits, who is told to come again, and who gets through all the same.

use std::time::{Duration, Instant};

use sheaf_tests::{Client, Cluster, ClusterSpec, alone};

use super::metric;
use crate::cluster::{ENDLESS, assert_clean, run, start_query, wait_for_tasks};

const DEADLINE: Duration = Duration::from_secs(120);
const COUNT: &str =
    "SELECT count(*), sum(c) FROM (SELECT number % 100 AS k, count(*) AS c FROM numbers(1000000) GROUP BY k)";

/// Waits until a session of the process list has a state that begins so; returns the whole state.
async fn wait_for_state(client: &mut Client, id: u32, begins: &str) -> String {
    let started = Instant::now();
    loop {
        let processes = run(client, "SHOW PROCESSLIST").await.rows;
        let found = processes.into_iter().find(|row| row[0] == id.to_string());
        match found {
            Some(row) if row[6].starts_with(begins) => return row[6].clone(),
            other => assert!(started.elapsed() < Duration::from_secs(60), "no {begins:?}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn queries_wait_for_slots_and_are_told_when_there_is_no_hope() {
    alone(DEADLINE, async {
        let spec = ClusterSpec { flags: vec!["--task-slots", "2"], ..ClusterSpec::workers(2) };
        let cluster = Cluster::start(spec).await;
        let mut client = cluster.connect_distributed(None).await;
        let first = cluster.connect_distributed(None).await;
        let first_id = first.id();
        let running = start_query(first, ENDLESS);
        wait_for_tasks(&mut client, 2).await;

        // It waits, and says what for.
        let waiting = cluster.connect_distributed(None).await;
        let waiting_id = waiting.id();
        let waiting = start_query(waiting, COUNT);
        let state = wait_for_state(&mut client, waiting_id, "queued: ").await;
        assert!(state.contains("of 2 task slots taken"), "{state}");
        let next = cluster.connect_distributed(None).await;
        let next_id = next.id();
        let next = start_query(next, COUNT);
        let state = wait_for_state(&mut client, next_id, "queued: ").await;
        assert!(state.contains("1 queries wait before it"), "{state}");
        assert_eq!(metric(&cluster.coordinator, "sheaf_query_queued").await, 2.0);

        // Who looks after the server gets through: small queries of one process ask nobody.
        assert_eq!(run(&mut client, "SELECT count(*) FROM system.tasks").await.rows.len(), 1);

        // A line that is full, and patience that ends, are errors of their own; so are their cousins.
        run(&mut client, "SET admission_queue_length = 2").await;
        let error = client.query(COUNT).await.expect_err("two wait already");
        assert_eq!(error.code, Some(1203), "{error}");
        assert!(error.message.contains("admission_queue_length") && error.message.contains("try again"), "{error}");
        run(&mut client, "SET admission_queue_length = 10").await;
        run(&mut client, "SET admission_timeout_ms = 300").await;
        let asked = Instant::now();
        let error = client.query(COUNT).await.expect_err("nothing ends meanwhile");
        assert_eq!(error.code, Some(1203), "{error}");
        assert!(error.message.contains("admission_timeout_ms"), "{error}");
        assert!(asked.elapsed() >= Duration::from_millis(300), "it waited for {:?} only", asked.elapsed());
        run(&mut client, "SET admission_timeout_ms = 60000").await;
        run(&mut client, "SET max_execution_time = 300").await;
        assert_eq!(client.query(COUNT).await.expect_err("its time passes in line").code, Some(3024));
        run(&mut client, "SET max_execution_time = 0").await;
        assert_eq!(client.query("SELECT * FROM `default`.nothing").await.expect_err("no such table").code, Some(1146));

        // One that waits can be killed; what comes after it moves up, and runs once there is room.
        run(&mut client, &format!("KILL QUERY {next_id}")).await;
        assert_eq!(next.await.expect("no panic").0.expect_err("killed in line").code, Some(1317));
        run(&mut client, &format!("KILL QUERY {first_id}")).await;
        assert_eq!(running.await.expect("no panic").0.expect_err("killed").code, Some(1317));
        let (answer, _) = waiting.await.expect("no panic");
        assert_eq!(answer.expect("it has room now").rows, [["100", "1000000"]]);
        assert_clean(&mut client, "a full cluster").await;
        assert_eq!(metric(&cluster.coordinator, "sheaf_query_queued").await, 0.0);
    });
}

/// Slots for one query at a time, and many that want them: all get through, whoever places their tasks where.
#[test]
fn a_crowd_gets_through() {
    alone(DEADLINE, async {
        let spec = ClusterSpec { flags: vec!["--task-slots", "2"], ..ClusterSpec::workers(3) };
        let cluster = Cluster::start(spec).await;
        let mut crowd = vec![];
        for _ in 0..16 {
            let client = cluster.connect_distributed(None).await;
            crowd.push(start_query(client, COUNT));
        }
        for query in crowd {
            let (answer, _) = query.await.expect("no panic");
            assert_eq!(answer.expect("it waits and runs").rows, [["100", "1000000"]]);
        }
        assert!(metric(&cluster.coordinator, "sheaf_query_queued_total").await > 0.0, "nobody had to wait");
        assert_clean(&mut cluster.connect().await, "a crowd").await;
    });
}
