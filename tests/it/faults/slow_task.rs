//! Tasks that are slow while their siblings are through.

use std::time::{Duration, Instant};

use sheaf_tests::{Client, Cluster, alone};

use super::{DEADLINE, SUMS, assert_clean, expected_sums, restarts, run, session, spec, start, wait_for_tasks};

/// Longer than any deadline: who waits for it fails.
const FOR_EVER: &str = "slow=600000";

/// A session that gives slow tasks a second attempt soon.
async fn impatient(cluster: &Cluster, faults: &str) -> Client {
    let mut client = session(cluster, faults).await;
    run(&mut client, "SET speculation_min_ms = 300, speculation_factor = 2").await;
    client
}

/// Second attempts of a session's last query, and how many of them were read.
async fn speculation(client: &mut Client) -> (String, String) {
    let mut rows = run(client, "SHOW STATUS LIKE 'Sheaf_last_query_%'").await.rows;
    let mut of = |name: &str| {
        let at = rows.iter().position(|row| row[0] == name).unwrap_or_else(|| panic!("no {name} in {rows:?}"));
        rows.remove(at).remove(1)
    };
    (of("Sheaf_last_query_speculative_attempts"), of("Sheaf_last_query_overtaken_tasks"))
}

#[test]
fn a_slow_task_is_overtaken_by_a_second_attempt() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(spec()).await;
        let mut client = session(&cluster, "").await;
        let expected = expected_sums();
        // A scan and the last stage, which the root itself reads; by every way from worker to worker.
        for (place, link) in
            [("1.1.0", "auto"), ("2.1.0", "auto"), ("1.2.0", "uds"), ("1.0.0", "tcp"), ("2.0.0", "tcp")]
        {
            let what = format!("{place} slow, links {link}");
            let mut victim = impatient(&cluster, &format!("{FOR_EVER}@{place}")).await;
            run(&mut victim, &format!("SET exchange_link = '{link}'")).await;
            let started = Instant::now();
            let (answer, mut victim) = start(victim, SUMS).await.expect("the client does not panic");
            assert_eq!(answer.unwrap_or_else(|error| panic!("{what}: {error}")).rows, expected, "{what}");
            eprintln!("{what}: {:?}", started.elapsed());
            assert_eq!(speculation(&mut victim).await, ("1".to_owned(), "1".to_owned()), "{what}");
            assert_eq!(restarts(&mut victim).await, 0, "{what}");
            assert_clean(&mut client, &what).await;
        }
    });
}

#[test]
fn a_second_attempt_is_seen() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(spec()).await;
        let mut client = session(&cluster, "").await;
        // The last stage keeps the query alive when the scan has been overtaken.
        let query = start(impatient(&cluster, &format!("{FOR_EVER}@1.1.0, slow=3000@2.*.0")).await, SUMS);
        let tasks =
            wait_for_tasks(&mut client, "it is overtaken", |it| it.iter().any(|row| row[4] == "overtaken")).await;
        let of_task: Vec<&[String]> =
            tasks.iter().filter(|row| row[0] == "1" && row[1] == "1").map(Vec::as_slice).collect();
        assert_eq!((&of_task[0][2], &of_task[0][4], of_task.len()), (&"0".to_owned(), &"overtaken".to_owned(), 2));
        assert_eq!((&of_task[1][2], &of_task[1][4]), (&"1".to_owned(), &"finished".to_owned()));
        assert_ne!(of_task[0][3], of_task[1][3], "both are on one worker");
        let stages = run(&mut client, "SELECT tasks, finished, failed FROM system.stages WHERE stage = 1").await;
        assert_eq!(stages.rows, [["3", "3", "0"]]);
        let (answer, mut victim) = query.await.expect("the client does not panic");
        assert_eq!(answer.expect("it goes on").rows, expected_sums());
        run(&mut victim, &format!("SET fault_injection = '{FOR_EVER}@1.1.0'")).await;
        let lines = run(&mut victim, &format!("EXPLAIN ANALYZE {SUMS}")).await.rows.concat();
        let text = lines.join("\n");
        assert!(text.contains("speculative attempts: 1, tasks overtaken: 1"), "{text}");
        assert!(text.contains("actual: tasks: 3, attempts: 4, rows: "), "{text}");
        run(&mut victim, "SET fault_injection = 'io@1.0.0'").await;
        let text = run(&mut victim, &format!("EXPLAIN ANALYZE {SUMS}")).await.rows.concat().join("\n");
        assert!(text.contains("restarts: 1") && text.contains("attempts: 4"), "{text}");
        assert_clean(&mut client, "second attempts").await;
    });
}

/// What is slow and has no second attempt takes its time.
#[test]
fn only_where_it_changes_nothing_has_a_task_a_second_attempt() {
    const SLOW: &str = "slow=2500@1.1.0";
    alone(DEADLINE, async {
        let cluster = Cluster::start(spec()).await;
        let mut client = impatient(&cluster, SLOW).await;
        let none = ("0".to_owned(), "0".to_owned());
        // Its attempts are not alike.
        let limited = "SELECT count(*), sum(c) FROM (SELECT n, count(*) AS c FROM \
                       (SELECT number AS n FROM numbers(3000000) WHERE number % 3 <> 1 LIMIT 20000) GROUP BY n)";
        assert_eq!(run(&mut client, limited).await.rows, [["20000", "20000"]]);
        assert_eq!(speculation(&mut client).await, none);
        // Its rows have been read, most likely; and in any case they come out right.
        run(&mut client, "SET fault_injection = 'slow=300@1.1.0+8192'").await;
        let streamed = "SELECT count(*), sum(c) FROM (SELECT n, count(*) AS c FROM \
                        (SELECT number AS n FROM numbers(100000) WHERE number % 2 = 0) GROUP BY n)";
        assert_eq!(run(&mut client, streamed).await.rows, [["50000", "50000"]]);
        // It writes.
        run(&mut client, &format!("SET fault_injection = '{SLOW}'")).await;
        run(&mut client, "CREATE TABLE `default`.written (n BIGINT)").await;
        run(&mut client, "INSERT INTO `default`.written SELECT number FROM numbers(300000)").await;
        run(&mut client, "SET fault_injection = ''").await;
        assert_eq!(
            run(&mut client, "SELECT count(*), sum(n) FROM `default`.written").await.rows,
            [["300000", "44999850000"]]
        );
        // It is not wanted.
        run(&mut client, &format!("SET speculation = 'off', fault_injection = '{SLOW}'")).await;
        let started = Instant::now();
        assert_eq!(run(&mut client, SUMS).await.rows, expected_sums());
        assert!(started.elapsed() >= Duration::from_millis(2500), "the fault did not strike");
        assert_eq!(speculation(&mut client).await, none);
        assert_clean(&mut client, "slow tasks").await;
    });
}

/// The worker of the slow attempt dies while the second one runs, and the other way round.
#[test]
fn the_loss_of_either_attempt_is_no_loss() {
    alone(DEADLINE, async {
        let mut cluster = Cluster::start(spec()).await;
        let mut client = session(&cluster, "").await;
        for (attempt, faults) in
            [("0", "slow=600000@1.1.0, slow=3000@1.1.1"), ("1", "slow=4000@1.1.0, slow=600000@1.1.1")]
        {
            let query = start(impatient(&cluster, faults).await, SUMS);
            let is_there = |row: &Vec<String>, attempt: &str| row[0] == "1" && row[1] == "1" && row[2] == attempt;
            let tasks = wait_for_tasks(&mut client, "both run", |it| it.iter().any(|row| is_there(row, "1"))).await;
            let row = tasks.iter().find(|row| is_there(row, attempt)).expect("both are there");
            cluster.kill_worker(super::worker(&cluster, &row[3]));
            let (table, n_restarts) = super::recovered(query, faults).await;
            eprintln!("attempt {attempt} killed: {n_restarts} restarts");
            assert_eq!(table.rows, expected_sums(), "{faults}");
            assert_clean(&mut client, faults).await;
            cluster.relaunch_dead();
            cluster.wait_for_workers(3).await;
        }
    });
}
