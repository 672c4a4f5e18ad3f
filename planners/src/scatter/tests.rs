//! Cut plans are run task by task in this process, with plain vectors for exchanges: the rows must be those of the
//! plan that was not cut.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::ScalarValue;
use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;
use datafusion::physical_plan::{collect, execute_stream_partitioned};
use datafusion::prelude::*;
use futures::TryStreamExt;
use sheaf_common::QueryId;

use super::*;
use crate::homes::Homes;
use crate::leaf::{DistributedTaskContext, instantiate};
use crate::reschedule::{Worker, place};
use crate::splits;

/// Rows of one stage: by task, then by output partition.
type Output = Vec<Vec<Vec<RecordBatch>>>;

async fn context(directory: &std::path::Path) -> SessionContext {
    let ctx = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(3));
    let big = "SELECT value AS k, value % 7 AS g, CASE WHEN value % 11 = 0 THEN NULL ELSE value * 3 END AS v, \
               concat('s', value % 13) AS s FROM generate_series(1, 400)";
    let small = "SELECT value * 5 AS k, CASE WHEN value % 4 = 0 THEN NULL ELSE value % 5 END AS g, \
                 concat('t', value) AS name FROM generate_series(1, 40)";
    tables(&ctx, directory, &[("big", big, 4), ("small", small, 2), ("one", "SELECT 1 AS k, 2 AS g", 1)]).await;
    ctx.sql("CREATE VIEW nothing AS SELECT * FROM big WHERE k < 0").await.unwrap();
    ctx
}

/// Tables of Parquet files: name, rows, number of files.
async fn tables(ctx: &SessionContext, directory: &std::path::Path, tables: &[(&str, &str, i64)]) {
    for &(name, sql, files) in tables {
        for file in 0..files {
            let path = directory.join(name).join(format!("{file}.parquet"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let part = ctx.sql(&format!("SELECT * FROM ({sql}) WHERE k % {files} = {file}")).await.unwrap();
            let options = DataFrameWriteOptions::new().with_single_file_output(true);
            part.write_parquet(path.to_str().unwrap(), options, None).await.unwrap();
        }
        let path = directory.join(name);
        ctx.register_parquet(name, path.to_str().unwrap(), ParquetReadOptions::default()).await.unwrap();
    }
}

fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    let mut rows = vec![];
    for batch in batches {
        let columns: Vec<ArrayFormatter> =
            batch.columns().iter().map(|it| ArrayFormatter::try_new(it, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|it| it.value(row).to_string()).collect::<Vec<_>>().join("|"));
        }
    }
    rows
}

/// The plan of one task with its boundaries fed from what earlier stages put out.
fn connect(plan: PlanRef, outputs: &HashMap<StageId, Output>, task: usize, tasks: usize, ppt: usize) -> PlanRef {
    plan.transform_up(|node| {
        let Some(boundary) = node.downcast_ref::<NetworkBoundaryExec>() else { return Ok(Transformed::no(node)) };
        let output = &outputs[&boundary.stage];
        let partitions: Vec<Vec<RecordBatch>> = match boundary.kind {
            BoundaryKind::Shuffle => (task * ppt..(task + 1) * ppt)
                .map(|partition| output.iter().flat_map(|it| it[partition].clone()).collect())
                .collect(),
            BoundaryKind::Broadcast => vec![output.iter().flat_map(|it| it[0].clone()).collect()],
            BoundaryKind::Gather | BoundaryKind::Merge => {
                let own = output.iter().enumerate().filter(|(producer, _)| producer % tasks == task);
                let mut own: Vec<_> = own.map(|(_, it)| it[0].clone()).collect();
                if own.is_empty() {
                    own.push(vec![]);
                }
                own
            }
        };
        let source = MemorySourceConfig::try_new_exec(&partitions, node.schema(), None)?;
        Ok(Transformed::yes(source as PlanRef))
    })
    .unwrap()
    .data
}

async fn run_stages(plan: &DistributedPlan, ctx: &SessionContext) -> HashMap<StageId, Output> {
    let workers: Vec<Worker> = (0..3)
        .map(|n| Worker { id: n.to_string(), name: format!("w{n}"), host: String::new(), port: 0, cores: 2 })
        .collect();
    let placement = place(plan, QueryId(1), &workers, &Homes::default()).unwrap();
    let mut outputs: HashMap<StageId, Output> = HashMap::new();
    let mut subqueries = plan.subqueries.iter();
    let mut next_subquery = subqueries.next();
    for stage in &plan.stages {
        // A subquery's stages stand before those of the plan that reads its value.
        while let Some(subquery) = next_subquery
            && stages_of(&subquery.plan).iter().all(|it| outputs.contains_key(it))
        {
            let root = connect(Arc::clone(&subquery.plan), &outputs, 0, 1, 1);
            let batches = collect(root, ctx.task_ctx()).await.unwrap();
            let value = match batches.iter().find(|batch| batch.num_rows() > 0) {
                Some(batch) => ScalarValue::try_from_array(batch.column(0), 0).unwrap(),
                None => ScalarValue::try_from(subquery.plan.schema().field(0).data_type()).unwrap(),
            };
            subquery.results.set(subquery.index, value).unwrap();
            next_subquery = subqueries.next();
        }
        let mut output = vec![];
        for task in &placement.stages[&stage.stage] {
            let own = instantiate(Arc::clone(&stage.plan), &task.splits).unwrap();
            let own = connect(own, &outputs, task.task, stage.task_count, stage.partitions_per_task);
            let mut partitions: Vec<Vec<RecordBatch>> = vec![vec![]; stage.output.partitions()];
            // All at once: partitions of a join wait for one another. Reset: tasks never share what nodes remember.
            let own = reset_plan_states(own).unwrap();
            let place = DistributedTaskContext { task_index: task.task, task_count: stage.task_count };
            let config = ctx.copied_config().with_extension(Arc::new(place));
            let context = Arc::new(TaskContext::from(ctx).with_session_config(config));
            let streams = execute_stream_partitioned(own, context).unwrap();
            let collected = streams.into_iter().map(|stream| stream.try_collect::<Vec<RecordBatch>>());
            for batches in futures::future::try_join_all(collected).await.unwrap() {
                for batch in batches {
                    match &stage.output {
                        StageOutput::Hash { exprs, partitions: n } => {
                            let mut partitioner =
                                BatchPartitioner::new_hash_partitioner(exprs.clone(), *n, Time::new()).unwrap();
                            let place = |partition: usize, batch| {
                                partitions[partition].push(batch);
                                Ok(())
                            };
                            partitioner.partition(batch, place).unwrap();
                        }
                        StageOutput::Broadcast | StageOutput::Gather => partitions[0].push(batch),
                    }
                }
            }
            output.push(partitions);
        }
        outputs.insert(stage.stage, output);
    }
    outputs
}

fn stages_of(plan: &PlanRef) -> Vec<StageId> {
    let mut stages = vec![];
    plan.apply(|node| {
        stages.extend(node.downcast_ref::<NetworkBoundaryExec>().map(|it| it.stage));
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
    stages
}

async fn cut(ctx: &SessionContext, options: &ScatterOptimizer, sql: &str) -> DistributedPlan {
    let mut config = ctx.copied_config().with_create_default_catalog_and_schema(false);
    options.configure(config.options_mut());
    let rules = physical_rules();
    let state = SessionStateBuilder::new_from_existing(ctx.state())
        .with_config(config)
        .with_physical_optimizer_rules(rules)
        .build();
    let logical = state.create_logical_plan(sql).await.unwrap();
    let plan = state.create_physical_plan(&logical).await.unwrap();
    let runtime = ctx.runtime_env();
    let found = splits::of_plan(&plan, &runtime, options.workers, options.partitions(), None).await.unwrap();
    options
        .optimize(&plan, &found, state.config_options())
        .unwrap_or_else(|error| panic!("{sql}: {error}\n{}", displayable(&plan)))
}

fn displayable(plan: &PlanRef) -> String {
    datafusion::physical_plan::displayable(plan.as_ref()).indent(false).to_string()
}

async fn check(ctx: &SessionContext, options: &ScatterOptimizer, sql: &str) {
    let plan = cut(ctx, options, sql).await;
    let outputs = run_stages(&plan, ctx).await;
    let root = connect(Arc::clone(&plan.root), &outputs, 0, 1, 1);
    let found = rows(&collect(root, ctx.task_ctx()).await.unwrap());
    let expected = rows(&ctx.sql(sql).await.unwrap().collect().await.unwrap());
    let (mut found_sorted, mut expected_sorted) = (found.clone(), expected.clone());
    found_sorted.sort();
    expected_sorted.sort();
    let stages: String = plan
        .stages
        .iter()
        .map(|it| format!("stage {} x{}\n{}", it.stage, it.task_count, displayable(&it.plan)))
        .collect();
    assert_eq!(found_sorted, expected_sorted, "{sql}\n{stages}root\n{}", displayable(&plan.root));
    if sql.contains("big ORDER BY k") {
        assert_eq!(found, expected, "{sql}\n{stages}root\n{}", displayable(&plan.root));
    }
    assert!(plan.is_distributed(), "{sql}");
}

const QUERIES: &[&str] = &[
    "SELECT * FROM big",
    "SELECT k, v + 1 FROM big WHERE g = 3",
    "SELECT count(*), sum(v), min(s), avg(v) FROM big WHERE k > 5",
    "SELECT g, count(*), sum(v) FROM big GROUP BY g",
    "SELECT g, count(DISTINCT s), sum(DISTINCT v % 5) FROM big GROUP BY g",
    "SELECT count(DISTINCT s) FROM big",
    "SELECT g, s, sum(v) FROM big GROUP BY ROLLUP (g, s)",
    "SELECT g, s, count(*), grouping(g) FROM big GROUP BY CUBE (g, s)",
    "SELECT DISTINCT s FROM big",
    "SELECT k, v FROM big ORDER BY k DESC",
    "SELECT k, v FROM big ORDER BY k LIMIT 7",
    "SELECT k, v FROM big ORDER BY k LIMIT 7 OFFSET 5",
    "SELECT count(*) FROM (SELECT * FROM big LIMIT 10)",
    "SELECT count(*) FROM (SELECT * FROM big WHERE v > 3 LIMIT 10 OFFSET 3)",
    "SELECT count(*) FROM (SELECT * FROM one LIMIT 1)",
    "SELECT b.k, s.name FROM big b JOIN small s ON b.k = s.k",
    "SELECT b.k, s.name FROM big b LEFT JOIN small s ON b.k = s.k",
    "SELECT b.k, s.name FROM small s LEFT JOIN big b ON b.k = s.k AND b.v > 100",
    "SELECT b.k, s.name FROM big b RIGHT JOIN small s ON b.k = s.k + 300",
    "SELECT b.k, s.name FROM big b FULL JOIN small s ON b.k = s.k + 300",
    "SELECT k FROM big WHERE k IN (SELECT k FROM small)",
    "SELECT k FROM big WHERE k NOT IN (SELECT k FROM small)",
    "SELECT k FROM big WHERE g NOT IN (SELECT g FROM small)",
    "SELECT k FROM big WHERE g NOT IN (SELECT g FROM small WHERE g IS NOT NULL)",
    "SELECT k FROM big WHERE g NOT IN (SELECT g FROM nothing)",
    "SELECT k FROM big b WHERE EXISTS (SELECT 1 FROM small s WHERE s.g = b.g)",
    "SELECT k FROM big b WHERE NOT EXISTS (SELECT 1 FROM small s WHERE s.g = b.g AND s.k > b.k)",
    "SELECT count(*) FROM big b JOIN small s ON b.k < s.k",
    "SELECT b.k, s.k FROM big b LEFT JOIN small s ON b.k > s.k * 9",
    "SELECT b.k, s.k FROM big b RIGHT JOIN small s ON b.k > s.k * 9",
    "SELECT b.k, s.k FROM big b FULL JOIN small s ON b.k > s.k * 9",
    "SELECT count(*) FROM big CROSS JOIN small",
    "SELECT count(*) FROM big CROSS JOIN one",
    "SELECT k, row_number() OVER (PARTITION BY g ORDER BY k) FROM big",
    "SELECT k, sum(v) OVER (PARTITION BY s ORDER BY k ROWS 2 PRECEDING), rank() OVER (ORDER BY k) FROM big",
    "SELECT k, sum(v) OVER () FROM big",
    "SELECT k FROM big UNION ALL SELECT k FROM small UNION ALL SELECT 1",
    "SELECT g FROM big UNION SELECT g FROM small",
    "SELECT count(*) FROM big UNION ALL SELECT count(*) FROM small",
    "SELECT k FROM big UNION ALL SELECT count(*) FROM small",
    "SELECT g FROM big INTERSECT SELECT g FROM small",
    "SELECT k FROM big EXCEPT SELECT k FROM small",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 9) SELECT * FROM r JOIN big ON n = k",
    "SELECT k, (SELECT max(k) FROM small) FROM big WHERE k > (SELECT avg(k) FROM small)",
    "SELECT k, (SELECT count(*) FROM small s WHERE s.g = b.g) FROM big b",
    "SELECT k FROM big WHERE k = (SELECT k FROM nothing)",
    "SELECT a.g, count(*) FROM big a JOIN big b ON a.g = b.g JOIN small s ON s.g = a.g GROUP BY a.g ORDER BY 2",
    "SELECT g, n FROM (SELECT g, count(*) n FROM big GROUP BY g) JOIN small USING (g)",
    "SELECT * FROM nothing",
    "SELECT count(*), sum(v) FROM nothing",
    "SELECT g, sum(v) FROM nothing GROUP BY g",
    "SELECT b.k, n.k FROM big b LEFT JOIN nothing n ON b.k = n.k",
    "SELECT max(k) FROM big WHERE s IN (SELECT s FROM big WHERE v > (SELECT avg(v) FROM big))",
];

async fn check_all(options: ScatterOptimizer, settings: &[(&str, &str)]) {
    let directory = tempfile::tempdir().unwrap();
    let ctx = context(directory.path()).await;
    for (name, value) in settings {
        ctx.sql(&format!("SET {name} = {value}")).await.unwrap();
    }
    for sql in QUERIES {
        check(&ctx, &options, sql).await;
    }
}

fn options(broadcast_bytes_max: u64) -> ScatterOptimizer {
    ScatterOptimizer { workers: 3, partitions_per_task: 2, broadcast_bytes_max, bytes_per_task: 0 }
}

#[tokio::test]
async fn rows_are_those_of_one_process_with_broadcasts() {
    check_all(options(1 << 20), &[]).await;
}

#[tokio::test]
async fn rows_are_those_of_one_process_with_shuffles() {
    check_all(options(0), &[]).await;
}

#[tokio::test]
async fn rows_are_those_of_one_process_with_sort_merge_joins() {
    check_all(options(0), &[("datafusion.optimizer.prefer_hash_join", "false")]).await;
}

#[tokio::test]
async fn rows_are_those_of_one_process_on_one_worker() {
    let options = ScatterOptimizer { workers: 1, partitions_per_task: 1, broadcast_bytes_max: 0, bytes_per_task: 0 };
    check_all(options, &[]).await;
}

#[tokio::test]
async fn a_small_build_side_is_broadcast_and_a_large_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = context(directory.path()).await;
    let sql = "SELECT b.k FROM big b JOIN small s ON b.k = s.k";
    let broadcasts = |plan: &DistributedPlan| {
        plan.stages.iter().filter(|stage| matches!(stage.output, StageOutput::Broadcast)).count()
    };
    assert_eq!(broadcasts(&cut(&ctx, &options(1 << 20), sql).await), 1);
    assert_eq!(broadcasts(&cut(&ctx, &options(0), sql).await), 0);
    // Unmatched rows of the build side cannot be told by one task alone.
    let sql = "SELECT s.k FROM small s FULL JOIN big b ON b.k = s.k";
    assert_eq!(broadcasts(&cut(&ctx, &options(1 << 20), sql).await), 0);
}

/// Joins whose build side is the small `build`, by which of its rows are wanted of what the tasks find. `build` has NULL
/// keys and rows that come twice; nine of ten rows of `probe` have one `g`.
const BUILD_ROWS: &[(&[&str], &str)] = &[
    (&["FromAny"], "SELECT * FROM build b WHERE EXISTS (SELECT 1 FROM probe p WHERE p.g = b.g)"),
    (&["FromAll"], "SELECT * FROM build b WHERE NOT EXISTS (SELECT 1 FROM probe p WHERE p.g = b.g AND p.k > 5000)"),
    (&["FromAny"], "SELECT name FROM build WHERE k IN (SELECT v FROM probe)"),
    (&["FromAll"], "SELECT name FROM build b WHERE NOT EXISTS (SELECT 1 FROM probe p WHERE p.v = b.k)"),
    (
        &["FromAny"],
        "SELECT * FROM build b WHERE EXISTS (SELECT 1 FROM probe p WHERE p.g = b.g AND p.k <> b.k AND p.v < b.k)",
    ),
    (&["FromAll"], "SELECT * FROM build b WHERE NOT EXISTS (SELECT 1 FROM probe p WHERE p.g = b.g AND p.k > b.k * 9)"),
    (
        &["FromAny", "FromAll"],
        "SELECT b.name FROM build b WHERE EXISTS (SELECT 1 FROM probe p WHERE p.g = b.g AND \
         p.k <> b.k) AND NOT EXISTS (SELECT 1 FROM probe p WHERE p.g = b.g AND p.k <> b.k AND p.v > b.k * 20)",
    ),
    (
        &["Marked { column: 3 }"],
        "SELECT k, name FROM build b WHERE g = 2 OR EXISTS (SELECT 1 FROM probe p WHERE p.v = b.k)",
    ),
    (
        &["Marked"],
        "SELECT name FROM build b WHERE g IS NULL OR NOT EXISTS (SELECT 1 FROM probe p WHERE p.g = b.g AND p.v < b.k)",
    ),
    // No row on one side; the estimate does not know.
    (&["FromAny"], "SELECT * FROM build b WHERE EXISTS (SELECT 1 FROM probe p WHERE p.g = b.g AND p.v % 3 = 1)"),
    (&["FromAll"], "SELECT * FROM build b WHERE NOT EXISTS (SELECT 1 FROM probe p WHERE p.g = b.g AND p.v % 3 = 1)"),
    (
        &["Marked"],
        "SELECT * FROM build b WHERE g = 1 OR EXISTS (SELECT 1 FROM probe p WHERE p.g = b.g AND p.v % 3 = 1)",
    ),
    (&["FromAny"], "SELECT * FROM build b WHERE k % 3 = 5 AND EXISTS (SELECT 1 FROM probe p WHERE p.g = b.g)"),
    (&["FromAll"], "SELECT * FROM build b WHERE k % 3 = 5 AND NOT EXISTS (SELECT 1 FROM probe p WHERE p.g = b.g)"),
    (&["FromAny"], "SELECT * FROM one WHERE EXISTS (SELECT 1 FROM probe p WHERE p.k = one.k)"),
    (&["FromAll"], "SELECT * FROM one WHERE NOT EXISTS (SELECT 1 FROM probe p WHERE p.k = one.k)"),
    (&["FromAll"], "SELECT * FROM one WHERE NOT EXISTS (SELECT 1 FROM probe p WHERE p.v = one.k)"),
    // What stands above relies on where the rows are.
    (&["FromAny"], "SELECT g, count(*) FROM build b WHERE EXISTS (SELECT 1 FROM probe p WHERE p.g = b.g) GROUP BY g"),
    (
        &["FromAll"],
        "SELECT k, row_number() OVER (PARTITION BY k ORDER BY name) FROM build b WHERE NOT EXISTS \
     (SELECT 1 FROM probe p WHERE p.v = b.k)",
    ),
    (
        &["FromAny"],
        "SELECT count(*) FROM (SELECT g FROM build b WHERE EXISTS (SELECT 1 FROM probe p WHERE p.g = b.g) LIMIT 7)",
    ),
    (
        &["FromAll"],
        "SELECT count(*) FROM (SELECT g FROM build b WHERE NOT EXISTS (SELECT 1 FROM probe p WHERE p.v = b.k) LIMIT 7)",
    ),
];

async fn context_with_probe(directory: &std::path::Path) -> SessionContext {
    let ctx = context(directory).await;
    let probe = "SELECT value AS k, CASE WHEN value % 10 > 0 THEN 1 ELSE value % 7 END AS g, \
                 CASE WHEN value % 11 = 0 THEN NULL ELSE value * 3 END AS v FROM generate_series(1, 6000)";
    let build = "SELECT value % 15 * 101 AS k, CASE WHEN value % 4 = 0 THEN NULL ELSE value % 5 END AS g, \
                 concat('t', value % 15) AS name FROM generate_series(1, 30)";
    tables(&ctx, directory, &[("probe", probe, 4), ("build", build, 2)]).await;
    ctx
}

fn all_text(plan: &DistributedPlan) -> String {
    plan.stages.iter().map(|stage| displayable(&stage.plan)).chain([displayable(&plan.root)]).collect()
}

#[tokio::test]
async fn build_rows_of_a_broadcast_side_are_those_of_one_process() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = context_with_probe(directory.path()).await;
    for (workers, partitions_per_task) in [(3, 2), (2, 1), (1, 3)] {
        let options =
            ScatterOptimizer { workers, partitions_per_task, broadcast_bytes_max: 1 << 20, bytes_per_task: 0 };
        for (keeps, sql) in BUILD_ROWS {
            let text = all_text(&cut(&ctx, &options, sql).await);
            for keep in *keeps {
                assert!(text.contains(&format!("MergeCopiesExec: keep={keep}")), "{sql}\n{text}");
            }
            assert!(text.contains(&format!("tasks={workers}")), "{sql}\n{text}");
            check(&ctx, &options, sql).await;
        }
    }
}

#[tokio::test]
async fn build_rows_are_shuffled_where_copies_do_not_pay() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = context_with_probe(directory.path()).await;
    for (_, sql) in BUILD_ROWS {
        let text = all_text(&cut(&ctx, &options(0), sql).await);
        assert!(!text.contains("MergeCopiesExec"), "{sql}\n{text}");
    }
    // As large as the probe side, an outer join, and a NOT IN that NULLs decide on.
    for sql in [
        "SELECT k FROM probe a WHERE EXISTS (SELECT 1 FROM probe p WHERE p.v = a.k)",
        "SELECT b.k, p.k FROM build b LEFT JOIN probe p ON p.g = b.g",
        "SELECT b.k, p.k FROM build b FULL JOIN probe p ON p.v = b.k",
        "SELECT k FROM build WHERE g NOT IN (SELECT v FROM probe)",
    ] {
        let text = all_text(&cut(&ctx, &options(1 << 20), sql).await);
        assert!(!text.contains("MergeCopiesExec"), "{sql}\n{text}");
        check(&ctx, &options(1 << 20), sql).await;
    }
}

#[tokio::test]
async fn stages_whose_attempts_may_differ_are_indeterminate() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = context(directory.path()).await;
    for (sql, is_determinate) in [
        ("SELECT k, v + 1 FROM big WHERE g = 3", true),
        ("SELECT g, count(*), sum(v), max(v), count(DISTINCT s), median(v) FROM big GROUP BY g", true),
        ("SELECT g, avg(CAST(v AS DECIMAL(18, 2))) FROM big GROUP BY g", true),
        ("SELECT b.k, s.name FROM big b FULL JOIN small s ON b.k = s.k", true),
        ("SELECT b.k, s.name FROM big b JOIN small s ON b.k = s.k", true),
        ("SELECT k FROM big WHERE g NOT IN (SELECT g FROM small)", true),
        ("SELECT g FROM big UNION SELECT g FROM small", true),
        ("SELECT k, v FROM big ORDER BY k", true),
        // Volatile functions, wherever they stand.
        ("SELECT k, random() FROM big", false),
        ("SELECT k, uuid() FROM big", false),
        ("SELECT k FROM big WHERE random() < 0.5", false),
        // The first rows of no order, of an order with ties, of one without.
        ("SELECT count(*) FROM (SELECT * FROM big LIMIT 10)", false),
        ("SELECT count(*) FROM (SELECT * FROM big WHERE v > 3 LIMIT 10 OFFSET 3)", false),
        ("SELECT k, g FROM big ORDER BY g LIMIT 7", false),
        ("SELECT k, g FROM big ORDER BY g, k LIMIT 7", true),
        // Windows that tell rows with equal keys apart, and windows that do not.
        ("SELECT k, row_number() OVER (PARTITION BY g ORDER BY s) FROM big", false),
        ("SELECT k, ntile(3) OVER (PARTITION BY g ORDER BY s) FROM big", false),
        ("SELECT k, lag(k) OVER (PARTITION BY g ORDER BY s) FROM big", false),
        ("SELECT k, first_value(k) OVER (PARTITION BY g ORDER BY s) FROM big", false),
        ("SELECT k, sum(v) OVER (PARTITION BY g ORDER BY s ROWS 2 PRECEDING) FROM big", false),
        ("SELECT k, sum(v) OVER (PARTITION BY g ORDER BY s) FROM big", true),
        ("SELECT k, rank() OVER (PARTITION BY g ORDER BY s) FROM big", true),
        ("SELECT g, s, row_number() OVER (PARTITION BY g ORDER BY s) FROM (SELECT g, s FROM big)", true),
        // Aggregates that look at the order of their input.
        ("SELECT g, array_agg(k) FROM big GROUP BY g", false),
        ("SELECT g, first_value(k) FROM big GROUP BY g", false),
        ("SELECT g, last_value(k ORDER BY s) FROM big GROUP BY g", false),
        ("SELECT g, string_agg(s, ',') FROM big GROUP BY g", false),
        ("SELECT g, approx_median(v) FROM big GROUP BY g", false),
        // Sums of floats, whose last bits a filter or an exchange may decide by.
        ("SELECT g, sum(CAST(v AS DOUBLE)) FROM big GROUP BY g", false),
        ("SELECT g, avg(v) FROM big GROUP BY g", false),
        ("SELECT g, stddev(v) FROM big GROUP BY g", false),
        ("SELECT k, avg(v) OVER (PARTITION BY g) FROM big", false),
        ("SELECT a, count(*) FROM (SELECT g, avg(v) AS a FROM big GROUP BY g) GROUP BY a", false),
        // All of this further up.
        ("SELECT g, count(*) FROM (SELECT g, random() AS r FROM big) WHERE r < 2 GROUP BY g", false),
        ("SELECT n, count(*) FROM (SELECT g, array_agg(k)[1] AS n FROM big GROUP BY g) GROUP BY n", false),
    ] {
        let plan = cut(&ctx, &options(0), sql).await;
        let shown = |it: &StagePlan| format!("stage {} {}\n{}", it.stage, it.is_determinate, displayable(&it.plan));
        let stages: String = plan.stages.iter().map(shown).collect();
        assert_eq!(plan.stages.iter().all(|it| it.is_determinate), is_determinate, "{sql}\n{stages}");
        // What reads from an indeterminate stage is indeterminate, up to the root.
        for stage in &plan.stages {
            let reads_other = stage.inputs.iter().any(|it| !plan.stage(*it).unwrap().is_determinate);
            assert!(!(reads_other && stage.is_determinate), "{sql}\n{stages}");
        }
        assert!(plan.is_distributed(), "{sql}");
    }
}

#[test]
fn round_robins_and_row_numbers_are_indeterminate() {
    use datafusion::physical_expr::Partitioning;
    let scan: PlanRef = Arc::new(datafusion::physical_plan::empty::EmptyExec::new(Arc::new(Schema::empty())));
    let repartition =
        |partitioning| -> PlanRef { Arc::new(RepartitionExec::try_new(Arc::clone(&scan), partitioning).unwrap()) };
    let is_determinate = |plan: &PlanRef| determinacy::is_determinate(plan, &StageOutput::Gather, &[]).unwrap();
    assert!(is_determinate(&scan));
    assert!(is_determinate(&repartition(Partitioning::Hash(vec![], 3))));
    assert!(!is_determinate(&repartition(Partitioning::RoundRobinBatch(3))));
    // A broadcast build side is numbered anew by each attempt.
    let numbered: PlanRef = Arc::new(crate::row_id::RowIdExec::try_new(Arc::clone(&scan)).unwrap());
    assert!(!is_determinate(&numbered));
}
