//! Shapes of queries at the far end of what is sensible: very many files, partitions or literals, and buffers that hold
//! next to nothing. Each has to end, with the right answer.

use std::fmt::Write;
use std::time::Duration;

use sheaf_tests::{Client, Cluster, ClusterSpec, alone};

const DEADLINE: Duration = Duration::from_secs(150);

/// Runs a statement; a query that hangs fails by the client's deadline.
async fn rows(client: &mut Client, sql: &str) -> Vec<Vec<String>> {
    let shown: String = sql.chars().take(200).collect();
    client.query(sql).await.unwrap_or_else(|error| panic!("{shown}: {error}")).rows
}

async fn plan(client: &mut Client, sql: &str) -> String {
    let lines = rows(client, &format!("EXPLAIN {sql}")).await;
    lines.into_iter().map(|mut line| line.remove(0) + "\n").collect()
}

#[test]
fn two_thousand_files_in_one_scan() {
    const FILES: u64 = 2000;
    const ROWS: u64 = 5;
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(2)).await;
        let dir = cluster.dir().join("many");
        std::fs::create_dir(&dir).expect("the cluster's folder can be written");
        for file in 0..FILES {
            let mut text = "file,n\n".to_owned();
            (0..ROWS).for_each(|n| writeln!(text, "{file},{n}").expect("a string can be written"));
            std::fs::write(dir.join(format!("{file:04}.csv")), text).expect("as above");
        }
        let mut client = cluster.connect_distributed(None).await;
        let table = format!("CREATE EXTERNAL TABLE default.many STORED AS CSV LOCATION '{}/'", dir.display());
        rows(&mut client, &table).await;
        let sql = "SELECT count(*), count(DISTINCT file), sum(file), sum(n) FROM default.many";
        let files_sum = (FILES - 1) * FILES / 2 * ROWS;
        let expected = [FILES * ROWS, FILES, files_sum, FILES * (ROWS - 1) * ROWS / 2].map(|it| it.to_string());
        assert_eq!(rows(&mut client, sql).await, [expected.to_vec()]);
        let plan = plan(&mut client, sql).await;
        assert!(plan.contains("1997 more]"), "{plan}");
        assert!(plan.contains("worker-0 (0), worker-1 (1)"), "both workers read: {plan}");
    });
}

#[test]
fn five_hundred_and_twelve_partitions() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(2).cores(256)).await;
        let mut client = cluster.connect_distributed(None).await;
        let sql = "SELECT count(*), sum(n), max(k) FROM \
                   (SELECT number % 5000 AS k, count(*) AS n FROM numbers(200000) GROUP BY k)";
        let plan = plan(&mut client, sql).await;
        let wide = plan.lines().filter(|line| line.contains("tasks: 2, partitions per task: 256")).count();
        assert!(wide >= 2, "two stages of 512 partitions: {plan}");
        assert_eq!(rows(&mut client, sql).await, [["5000", "200000", "4999"]]);
        // All to all, 512 times 512.
        let sql =
            "SELECT count(*), sum(a.number) FROM numbers(100000) a JOIN numbers(100000) b ON a.number = b.number + 1";
        rows(&mut client, "SET broadcast_bytes_max = 0").await;
        assert_eq!(rows(&mut client, sql).await, [["99999", "4999950000"]]);
    });
}

#[test]
fn a_list_of_five_thousand_literals() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(2)).await;
        let mut client = cluster.connect_distributed(None).await;
        let list: Vec<String> = (0..5000).map(|n| (n * 3).to_string()).collect();
        let sql = format!("SELECT count(*), sum(number) FROM numbers(20000) WHERE number IN ({})", list.join(", "));
        let sum: u64 = (0..5000).map(|n| n * 3).sum();
        assert_eq!(rows(&mut client, &sql).await, [["5000".to_owned(), sum.to_string()]]);
        let texts: Vec<String> = (0..5000).map(|n| format!("'x{n}'")).collect();
        let sql =
            format!("SELECT count(*) FROM numbers(20000) WHERE concat('x', number) NOT IN ({})", texts.join(", "));
        assert_eq!(rows(&mut client, &sql).await, [["15000"]]);
    });
}

/// Both inputs of a join come from one producer's rows, and no buffer holds more than a batch: who waits for whom must
/// not become a circle.
#[test]
fn tiny_buffers_do_not_hang_a_join_with_itself() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(3)).await;
        let mut client = cluster.connect_distributed(None).await;
        rows(&mut client, "CREATE DATABASE tpch ENGINE = TPCH(scale = 0.01)").await;
        let q18 = "WITH large AS (SELECT l_orderkey AS k, sum(l_quantity) AS q FROM tpch.lineitem GROUP BY l_orderkey) \
                   SELECT count(*), sum(a.q), sum(b.q), sum(l_quantity) FROM large a JOIN large b ON a.k = b.k \
                   JOIN tpch.lineitem ON l_orderkey = a.k WHERE a.q > 100";
        let expected = rows(&mut client, q18).await;
        assert_ne!(expected[0][0], "0");
        for fault_tolerance in ["off", "on"] {
            for setting in [
                format!("fault_tolerance = '{fault_tolerance}'"),
                "exchange_buffer_bytes = 1024".to_owned(),
                "broadcast_bytes_max = 0".to_owned(),
                "batch_size = 64".to_owned(),
            ] {
                rows(&mut client, &format!("SET {setting}")).await;
            }
            assert_eq!(rows(&mut client, q18).await, expected, "fault_tolerance {fault_tolerance}");
        }
    });
}
