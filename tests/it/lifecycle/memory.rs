//! Memory as a hard number: what spills, what is run again to need less, and what the processes really take.

use std::time::Duration;

use sheaf_tests::{Cluster, ClusterSpec, Table, alone};

use super::metric;
use crate::cluster::{assert_clean, run, start_query};

const DEADLINE: Duration = Duration::from_secs(240);
const LIMIT: u64 = 256 << 20;

fn spec(workers: usize) -> ClusterSpec {
    ClusterSpec { memory: "256MiB", ..ClusterSpec::workers(workers) }
}

/// Every process has stayed within 1.3 times its limit and 256 MiB.
fn assert_resident(cluster: &Cluster, after: &str) {
    for node in std::iter::once(&cluster.coordinator).chain(cluster.workers.iter().flatten()) {
        let Some(peak) = node.memory("VmHWM") else {
            sheaf_tests::skip("resident memory", "this system has no /proc");
            return;
        };
        eprintln!("{after}: {} had {} MiB at its peak", node.name(), peak >> 20);
        assert!(peak <= LIMIT * 13 / 10 + (256 << 20), "{after}: {} took {} MiB", node.name(), peak >> 20);
    }
}

#[test]
fn whatever_a_query_needs_the_process_stays_within_its_memory() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(spec(1)).await;
        let mut client = cluster.connect_distributed(None).await;
        let sort = "SELECT count(*), max(r) FROM \
                    (SELECT number, row_number() OVER (ORDER BY number * 7919 % 10000019) AS r FROM numbers(10000000))";
        assert_eq!(run(&mut client, sort).await.rows, [["10000000", "10000000"]]);
        assert_resident(&cluster, "a sort");
        let group =
            "SELECT count(*), sum(c) FROM (SELECT number AS k, count(*) AS c FROM numbers(10000000) GROUP BY k)";
        assert_eq!(run(&mut client, group).await.rows, [["10000000", "10000000"]]);
        assert_resident(&cluster, "an aggregation");
        let join = "SELECT count(*), sum(length(b.v)) FROM numbers(6000000) a JOIN \
                    (SELECT number AS k, concat('a value of some length, number ', 10000000 + number) AS v FROM numbers(6000000)) b \
                    ON a.number = b.k";
        assert_eq!(run(&mut client, join).await.rows, [["6000000", "234000000"]]);
        assert_resident(&cluster, "a hash join");
        let list: Vec<String> = (0..100_000).map(|n| (n * 3).to_string()).collect();
        let list = format!("SELECT count(*) FROM numbers(1000000) WHERE number IN ({})", list.join(", "));
        assert_eq!(run(&mut client, &list).await.cell(), "100000");
        assert_resident(&cluster, "a list");
        let wide = run(&mut client, "SELECT repeat('x', 10000000) AS w FROM numbers(1)").await;
        assert_eq!(wide.cell().len(), 10_000_000);
        assert_resident(&cluster, "a wide row");
        let worker = cluster.workers[0].as_ref().expect("nobody killed it");
        assert!(metric(worker, "sheaf_memory_reserved_bytes").await == 0.0, "something is still reserved");
        assert_clean(&mut client, "all that").await;
    });
}

/// The answer, and the lines of EXPLAIN ANALYZE.
async fn explained(cluster: &Cluster, strategy: &str, sql: &str) -> (Table, Vec<String>) {
    let mut client = cluster.connect_distributed(None).await;
    run(&mut client, "SET broadcast_bytes_max = 0").await;
    run(&mut client, &format!("SET join_strategy = '{strategy}'")).await;
    let answer = run(&mut client, sql).await;
    let lines = run(&mut client, &format!("EXPLAIN ANALYZE {sql}")).await;
    (answer, lines.rows.into_iter().flatten().collect())
}

#[test]
fn a_join_that_does_not_fit_is_split() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(spec(2)).await;
        let build = "SELECT number AS k, concat('a value of some length, number ', 10000000 + number) AS v FROM numbers(8000000)";
        let wide =
            format!("SELECT count(*), sum(length(b.v)) FROM numbers(20000000) a JOIN ({build}) b ON a.number = b.k");
        let expected = [["8000000", "312000000"]];
        let (answer, lines) = explained(&cluster, "auto", &wide).await;
        assert_eq!(answer.rows, expected);
        let text = lines.join("\n");
        assert!(text.contains("HashJoin") && text.contains("run again with smaller partitions"), "{text}");
        assert!(text.contains("HashJoinInput") && text.contains("memory refused"), "the reason is not told: {text}");
        for strategy in ["split", "sort"] {
            let (answer, lines) = explained(&cluster, strategy, &wide).await;
            assert_eq!(answer.rows, expected, "{strategy}");
            assert!(!lines.join("\n").contains("run again"), "{strategy}: {lines:?}");
        }
        let mut client = cluster.connect_distributed(None).await;
        run(&mut client, "SET join_strategy = 'hash'").await;
        run(&mut client, "SET broadcast_bytes_max = 0").await;
        let error = client.query(&wide).await.expect_err("a hash join was insisted on");
        assert_eq!(error.code, Some(1041), "{error}");
        assert!(error.message.contains("HashJoinInput") && error.message.contains("query "), "{error}");
        assert_clean(&mut client, "joins that do not fit").await;
    });
}

/// Each of the two fits the cluster, both together do not: the one that is refused memory waits for the other.
#[test]
fn two_hungry_queries_run_one_after_the_other() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(spec(1)).await;
        let hungry = "SELECT count(*), sum(length(b.v)) FROM numbers(2500000) a JOIN (SELECT number AS k, \
                      concat('a value of some length, number ', 10000000 + number) AS v FROM numbers(2500000)) b \
                      ON a.number = b.k";
        let mut queries = vec![];
        for _ in 0..4 {
            let mut client = cluster.connect_distributed(None).await;
            run(&mut client, "SET broadcast_bytes_max = 0").await;
            queries.push(start_query(client, hungry));
        }
        for query in queries {
            let (answer, _) = query.await.expect("no panic");
            assert_eq!(answer.expect("it gets its turn").rows, [["2500000", "97500000"]]);
        }
        assert_resident(&cluster, "four joins");
        assert_clean(&mut cluster.connect().await, "four joins").await;
    });
}
