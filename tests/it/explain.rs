//! EXPLAIN in all its forms, on a cluster and on one process. Whole stage plans are compared in `suites/distributed`.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use sheaf_tests::{Client, Cluster, ClusterSpec, alone, skip};

const DEADLINE: Duration = Duration::from_secs(120);
const EXAMPLE: &str = "SELECT number % 3 AS key, SUM(number) AS value FROM numbers(1000) \
                       WHERE number > 10 AND number < 990 GROUP BY key ORDER BY key ASC LIMIT 10";
const TWO_TABLES: &str = "SELECT d.region, count(*), sum(f.v) FROM facts f JOIN dims d ON f.k = d.k \
                          WHERE f.v > (SELECT avg(w) - 60 FROM dims) GROUP BY d.region ORDER BY d.region";

/// The lines of an EXPLAIN.
async fn explain(client: &mut Client, sql: &str) -> Vec<String> {
    let table = client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(table.names(), ["explain"], "{sql}");
    table.rows.into_iter().map(|mut row| row.remove(0)).collect()
}

/// Each of `parts` stands below the one before it, or on its line.
fn shows(lines: &[String], parts: &[&str]) {
    let text = lines.join("\n");
    // A long element goes on in the next lines, which are indented.
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut at = 0;
    for part in parts {
        match flat[at..].find(part) {
            Some(found) => at += found + part.len(),
            None => panic!("{part:?} is missing, or stands too high, in\n{text}"),
        }
    }
}

#[test]
fn a_cluster_shows_its_stages() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(3)).await;
        let mut client = cluster.connect_distributed(None).await;
        let lines = explain(&mut client, &format!("EXPLAIN {EXAMPLE}")).await;
        let parts = [
            "Limit: 10",
            "NetworkBoundary: merge",
            "tasks: 3→1",
            "Sort: ",
            "AggregatorFinal: group by: [",
            "NetworkBoundary: shuffle",
            "tasks: 3→3",
            "AggregatorPartial: ",
            "Filter: ((number > 10) AND (number < 990))",
            "ReadDataSource: ",
            "partitions: ",
            "scan schema: [number:UInt64]",
            "statistics: [read_rows: 1000, read_bytes: 8000]",
            "worker-0",
            "worker-1",
            "worker-2",
        ];
        shows(&lines, &parts);
        assert!(lines.iter().all(|line| line.chars().count() <= 110), "lines are narrow:\n{}", lines.join("\n"));

        let undistributed = cluster.connect().await;
        let lines = explain(&mut { undistributed }, &format!("EXPLAIN {EXAMPLE}")).await;
        shows(&lines, &["Limit: 10", "ReadDataSource: ", "not distributed: "]);
        assert!(!lines.join("\n").contains("NetworkBoundary"), "{}", lines.join("\n"));
    });
}

#[test]
fn one_process_shows_the_same_tree_without_boundaries() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::default()).await;
        let mut client = cluster.connect().await;
        let lines = explain(&mut client, &format!("EXPLAIN {EXAMPLE}")).await;
        let parts = ["Limit: 10", "Sort: ", "AggregatorFinal: ", "AggregatorPartial: ", "Filter: ", "ReadDataSource: "];
        shows(&lines, &parts);
        assert!(!lines.join("\n").contains("NetworkBoundary"), "{}", lines.join("\n"));
        let logical = explain(&mut client, &format!("EXPLAIN LOGICAL {EXAMPLE}")).await;
        shows(&logical, &["Sort: ", "Aggregate: "]);
    });
}

#[test]
fn analyze_says_what_was_done() {
    alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(3)).await;
        let mut client = cluster.connect_distributed(Some("suite")).await;
        let lines = explain(&mut client, &format!("EXPLAIN ANALYZE {EXAMPLE}")).await;
        shows(
            &lines,
            &["Filter: ", "tasks: 3, rows: 979", "ReadDataSource: ", "rows: 1000", "Stages: 2, tasks: 6", "rows: 3"],
        );
        let lines = explain(&mut client, &format!("EXPLAIN ANALYZE {TWO_TABLES}")).await;
        shows(&lines, &["HashJoin", "ReadDataSource: ", "Stages: "]);
    });
}

#[test]
fn json_is_json() {
    alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(3)).await;
        let mut client = cluster.connect_distributed(Some("suite")).await;
        for sql in [EXAMPLE, TWO_TABLES] {
            let text = explain(&mut client, &format!("EXPLAIN FORMAT=JSON {sql}")).await.join("\n");
            let json: serde_json::Value =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
            assert!(json.is_object(), "{text}");
        }
    });
}

#[test]
fn graphviz_draws_every_plan() {
    alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(3)).await;
        let mut client = cluster.connect_distributed(Some("suite")).await;
        let nasty = "SELECT concat('a\"b', '\\\\', '<x>', '{|}', g), count(*) FROM facts WHERE g <> '\"' GROUP BY g";
        for sql in [EXAMPLE, TWO_TABLES, nasty] {
            let graph = explain(&mut client, &format!("EXPLAIN FORMAT=GRAPH {sql}")).await.join("\n");
            assert!(graph.starts_with("digraph") && graph.trim_end().ends_with('}'), "{graph}");
            let drawing = Command::new("dot").arg("-Tsvg").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let Ok(mut dot) = drawing else {
                return skip("EXPLAIN FORMAT=GRAPH through dot", "Graphviz is not installed");
            };
            dot.stdin.take().expect("it was piped").write_all(graph.as_bytes()).expect("dot reads its input");
            let output = dot.wait_with_output().expect("dot ends");
            assert!(output.status.success(), "dot cannot draw\n{graph}");
            assert!(String::from_utf8_lossy(&output.stdout).contains("</svg>"), "dot drew nothing");
        }
    });
}

#[test]
fn analyze_counts_files_and_row_groups() {
    alone(DEADLINE, async {
        for workers in [0, 3] {
            let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(workers)).await;
            let mut client = cluster.connect_distributed(Some("suite")).await;
            client.query("CREATE TABLE files (n BIGINT)").await.expect("a table");
            for n in 0..4 {
                client.query(&format!("INSERT INTO files VALUES ({n}), ({n}5)")).await.expect("rows");
            }
            let lines = explain(&mut client, "EXPLAIN ANALYZE SELECT n + 1 FROM files WHERE n = 35").await;
            let parts =
                ["ReadDataSource: ", "files: 4 total (3 pruned, 1 read)", "row groups: 1 total (0 pruned, 1 read)"];
            shows(&lines, &parts);
            let lines = explain(&mut client, "EXPLAIN ANALYZE SELECT n + 1 FROM files").await;
            shows(&lines, &["files: 4 total (0 pruned, 4 read)", "row groups: 4 total (0 pruned, 4 read)"]);
            // The tasks look at row groups by themselves: the files of this table have several each.
            let sql = "EXPLAIN ANALYZE FORMAT=JSON SELECT v + 1 FROM facts WHERE id = 5";
            let text = explain(&mut client, sql).await.join("\n");
            let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|it| panic!("{it}:\n{text}"));
            let actual = scan(&json["plan"]).unwrap_or_else(|| panic!("no scan in {text}"));
            let [files, groups] = [&actual["files"], &actual["row_groups"]];
            let n = |counts: &serde_json::Value, name: &str| counts[name].as_u64().unwrap_or_else(|| panic!("{text}"));
            assert!(n(files, "total") > 1 && n(files, "read") == 1, "{text}");
            assert_eq!(n(files, "total"), n(files, "pruned") + n(files, "read"), "{text}");
            assert!(n(groups, "total") > 1 && n(groups, "read") == 1, "{text}");
            assert_eq!(n(groups, "total"), n(groups, "pruned") + n(groups, "read"), "{text}");
        }
    });
}

/// What the first scan of a plan did.
fn scan(node: &serde_json::Value) -> Option<serde_json::Value> {
    if node["actual"]["files"].is_object() {
        return Some(node["actual"].clone());
    }
    node["children"].as_array()?.iter().find_map(scan)
}
