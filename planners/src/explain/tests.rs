//! Goldens: the three formats of one small distributed plan, and of plans that run in one process.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::*;
use crate::boundary::NetworkBoundaryExec;
use crate::generator::{Generator, GeneratorExec, spread};
use crate::leaf::LeafSlotExec;
use crate::reschedule::{PlacedTask, Worker};
use crate::stage::{BoundaryKind, Leaf, Split, StageOutput, StagePlan, TaskSplits};

const STATEMENT: &str = "SELECT number % 3 AS key, SUM(number) AS value FROM numbers \
     WHERE number > 10 AND number < 990 GROUP BY key ORDER BY key ASC LIMIT 10";

/// `numbers(1000)` as a table.
#[derive(Debug)]
struct Numbers {
    partitions: usize,
}

#[async_trait]
impl TableProvider for Numbers {
    fn schema(&self) -> SchemaRef {
        Generator::Numbers.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let ranges = spread([(0, 1000)], self.partitions);
        Ok(Arc::new(GeneratorExec::try_new(Generator::Numbers, ranges, projection.cloned())?))
    }
}

async fn physical(sql: &str, partitions: usize) -> Arc<dyn ExecutionPlan> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(partitions));
    context.register_table("numbers", Arc::new(Numbers { partitions })).unwrap();
    context.sql(sql).await.unwrap().create_physical_plan().await.unwrap()
}

/// The plan of [`STATEMENT`] for three workers, cut by hand: below the merge and at the shuffle.
async fn distributed() -> DistributedPlan {
    let mut stages: Vec<StagePlan> = vec![];
    let plan = physical(STATEMENT, 3).await;
    let root = plan.transform_up(|node| {
        if node.is::<GeneratorExec>() {
            return Ok(Transformed::yes(Arc::new(LeafSlotExec::new(0, node, 3)) as Arc<dyn ExecutionPlan>));
        }
        let hash = match node.downcast_ref::<RepartitionExec>().map(RepartitionExec::partitioning) {
            Some(Partitioning::Hash(exprs, _)) => Some(exprs.clone()),
            _ => None,
        };
        if hash.is_none() && !node.is::<SortPreservingMergeExec>() {
            return Ok(Transformed::no(node));
        }
        let input = Arc::clone(node.children()[0]);
        let stage = StageId(stages.len() as u32 + 1);
        let kind = if hash.is_some() { BoundaryKind::Shuffle } else { BoundaryKind::Merge };
        let properties = if hash.is_some() { node.properties() } else { input.properties() };
        let partitioning = properties.output_partitioning().clone();
        let boundary = NetworkBoundaryExec::new(stage, kind, 3, properties.eq_properties.clone(), partitioning);
        let scans = stages.is_empty();
        let splits = (0..3).map(|n| Split::Rows { start: n * 334, end: n * 334 + 334, weight: 2672 }).collect();
        stages.push(StagePlan {
            stage,
            plan: input,
            output: hash.clone().map_or(StageOutput::Gather, |exprs| StageOutput::Hash { exprs, partitions: 3 }),
            leaves: if scans {
                vec![Leaf { id: 0, splits, rows: Some(1000), bytes: Some(8000), table_files: None }]
            } else {
                vec![]
            },
            inputs: if scans { vec![] } else { vec![StageId(1)] },
            task_count: 3,
            partitions_per_task: 1,
            readers: 1,
            is_determinate: true,
        });
        let boundary: Arc<dyn ExecutionPlan> = Arc::new(boundary);
        let above = if hash.is_some() { boundary } else { replace_children_if_necessary(node, vec![boundary])? };
        Ok(Transformed::yes(above))
    });
    DistributedPlan { stages, root: root.unwrap().data, subqueries: vec![], reason: None }
}

fn placement(plan: &DistributedPlan) -> Placement {
    let worker = |n: usize| Worker {
        id: format!("node-{n}/1"),
        name: format!("node-{n}"),
        host: "localhost".into(),
        port: 9090,
        cores: 1,
    };
    let tasks = |stage: &StagePlan| {
        let splits = |leaf: &Leaf, task: usize| TaskSplits {
            leaf: leaf.id,
            partitions: vec![leaf.splits.get(task).cloned().into_iter().collect()],
        };
        let splits = |task| stage.leaves.iter().map(|leaf| splits(leaf, task)).collect();
        let place = |task| PlacedTask { task, worker: worker(task + 1), splits: splits(task) };
        (stage.stage, (0..stage.task_count).map(place).collect())
    };
    Placement { stages: plan.stages.iter().map(tasks).collect() }
}

fn explained<'a>(
    plan: &'a DistributedPlan,
    placement: &'a Placement,
    analyze: Option<&'a AnalyzeInput>,
) -> Explained<'a> {
    Explained { plan, placement, coordinator: "node-0", analyze }
}

/// Compares with a file in `explain/tests`; `UPDATE=1` writes it instead.
#[track_caller]
fn check_golden(lines: &[String], name: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/explain/tests").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    check(lines, &std::fs::read_to_string(path).unwrap());
}

#[track_caller]
fn check(lines: &[String], expected: &str) {
    assert_eq!(lines.join("\n"), expected.trim(), "\n{}", lines.join("\n"));
}

#[tokio::test]
async fn a_distributed_plan_is_one_tree() {
    let plan = distributed().await;
    check_golden(&explained(&plan, &placement(&plan), None).text(), "distributed.txt");
}

#[tokio::test]
async fn after_a_run_every_operator_says_what_it_did() {
    let plan = distributed().await;
    let operator = |name: &str, output_rows| OperatorMetrics {
        name: name.into(),
        output_rows,
        elapsed_ns: 1_500_000,
        ..Default::default()
    };
    let remote = |output_rows| OperatorMetrics {
        read_bytes: [("local".to_owned(), 100), ("tcp".to_owned(), 2048)].into(),
        ..operator("RemoteExec", output_rows)
    };
    let task = |task: u32, operators: Vec<OperatorMetrics>| TaskMetrics {
        task,
        node: format!("node-{}", task + 1),
        elapsed_ms: 10 + u64::from(task),
        output_rows: 3,
        output_bytes: 640,
        spill_bytes: 0,
        operators,
    };
    let scan =
        |n| task(n, vec![operator("AggregateExec", 3), operator("FilterExec", 326), operator("GeneratorExec", 333)]);
    let aggregate = |n| {
        let names = ["SortExec", "ProjectionExec", "AggregateExec"];
        task(n, names.map(|name| operator(name, 1)).into_iter().chain([remote(3)]).collect())
    };
    let analyze = AnalyzeInput {
        stages: [(StageId(1), (0..3).map(scan).collect()), (StageId(2), (0..3).map(aggregate).collect())].into(),
        root: vec![operator("SortPreservingMergeExec", 3), remote(3)],
        subqueries: vec![],
        attempts: [(StageId(1), 5), (StageId(2), 3)].into(),
        restarts: 1,
        speculated: 2,
        overtaken: 1,
        output_rows: 3,
        elapsed_ms: 25,
        notes: vec!["run again for a test".into()],
    };
    let placement = placement(&plan);
    let explained = explained(&plan, &placement, Some(&analyze));
    check_golden(&explained.text(), "analyze.txt");
    let json: serde_json::Value = serde_json::from_str(&explained.json()).unwrap();
    assert_eq!(json["actual"]["rows"], 3);
    assert_eq!((&json["actual"]["restarts"], &json["actual"]["overtaken_tasks"]), (&1.into(), &1.into()));
    assert_eq!(json["stages"][0]["actual"]["attempts"], 5);
    assert_eq!(json["notes"][0], "run again for a test");
    assert_eq!(json["stages"][1]["actual"]["read_bytes"]["tcp"], 3 * 2048);
}

#[tokio::test]
async fn json_holds_what_the_text_says() {
    let plan = distributed().await;
    let json: serde_json::Value = serde_json::from_str(&explained(&plan, &placement(&plan), None).json()).unwrap();
    assert_eq!(json["distributed"], true);
    assert_eq!(json["plan"]["name"], "Limit");
    let boundary = &json["plan"]["children"][0]["children"][0];
    assert_eq!((&boundary["name"], &boundary["details"]["of"][0]), (&"NetworkBoundary".into(), &"merge".into()));
    assert_eq!(boundary["details"]["tasks"], "3→1");
    assert_eq!(json["stages"][0]["nodes"]["node-2"][0], 1);
}

#[tokio::test]
async fn each_stage_is_a_cluster_of_the_drawing() {
    let plan = distributed().await;
    let graph = explained(&plan, &placement(&plan), None).graph();
    check_golden(&graph.lines().map(str::to_owned).collect::<Vec<_>>(), "distributed.dot");
    let n_nodes = graph.matches(" [label=").count();
    assert_eq!(graph.matches(" -> ").count(), n_nodes - 1, "a tree has one arrow less than boxes:\n{graph}");
}

#[tokio::test]
async fn a_plan_in_one_process_says_why() {
    let plan = DistributedPlan::local(physical(STATEMENT, 2).await, "reads 8000 bytes, less than 33554432");
    check_golden(&explained(&plan, &Placement::default(), None).text(), "local.txt");
}

#[tokio::test]
async fn operators_are_named_in_our_words() {
    for (sql, expected) in [
        ("SELECT a.number FROM numbers a JOIN numbers b ON a.number = b.number", "HashJoin: Inner, on: ["),
        ("SELECT * FROM numbers a JOIN numbers b ON a.number < b.number", "NestedLoopJoin: Inner, filter: (number <"),
        ("SELECT * FROM numbers a CROSS JOIN numbers b", "CrossJoin"),
        ("SELECT number FROM numbers UNION ALL SELECT number FROM numbers", "Union: inputs: 2"),
        (
            "SELECT rank() OVER (PARTITION BY number % 2 ORDER BY number) FROM numbers",
            "Window: rank() OVER (PARTITION BY",
        ),
        ("SELECT unnest([number, 1]) FROM numbers", "Unnest: lists: ["),
        ("SELECT count(DISTINCT number) FROM numbers", "count("),
        ("SELECT count(*) FILTER (WHERE number > 3) AS n FROM numbers", "FILTER (WHERE (number > 3))"),
        ("SELECT number, count(*) FROM numbers GROUP BY ROLLUP (number)", "grouping sets: [(), (number)]"),
        ("SELECT number FROM numbers LIMIT 5 OFFSET 2", "Limit: 5, offset: 2"),
        (
            "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT * FROM t",
            "RecursiveQuery: t",
        ),
        ("SELECT 1", "OneRow"),
        ("SELECT number FROM numbers WHERE false", "Empty: no rows"),
        ("SELECT number FROM numbers WHERE number > (SELECT max(number) / 2 FROM numbers)", "ScalarSubquery: "),
    ] {
        let plan = DistributedPlan::local(physical(sql, 2).await, "a test");
        let lines = explained(&plan, &Placement::default(), None).text();
        assert!(lines.iter().any(|line| line.contains(expected)), "{sql}\n{}", lines.join("\n"));
        assert!(!lines.iter().any(|line| line.contains("Exec")), "{sql}\n{}", lines.join("\n"));
    }
}

#[tokio::test]
async fn a_logical_plan_is_laid_out_the_same_way() {
    let context = SessionContext::new();
    context.register_table("numbers", Arc::new(Numbers { partitions: 1 })).unwrap();
    let plan = context.sql("SELECT number FROM numbers WHERE number > 1 LIMIT 3").await.unwrap();
    let lines = logical(&plan.into_optimized_plan().unwrap());
    check(
        &lines,
        "Limit: skip=0, fetch=3\n  Filter: numbers.number > UInt64(1)\n    TableScan: numbers projection=[number]",
    );
}
