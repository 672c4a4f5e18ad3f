//! Plans of every operator that DataFusion makes, encoded, decoded and encoded again.

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{NullEquality, ScalarValue};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::physical_planning_context::{ScalarSubqueryResults, SubqueryIndex};
use datafusion::logical_expr::{JoinType, Operator};
use datafusion::physical_expr::expressions::{
    BinaryExpr, CastExpr, Column, DynamicFilterPhysicalExpr, Literal, TryCastExpr, lit,
};
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_expr::{LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{HashJoinExec, PiecewiseMergeJoinExec};
use datafusion::physical_plan::joins::{
    PartitionMode, SortMergeJoinExec, StreamJoinPartitionMode, SymmetricHashJoinExec,
};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::sorts::partial_sort::PartialSortExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::work_table::WorkTableExec;
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::FutureExt;
use sheaf_common::{Classify, ErrorCode, StageId};
use sheaf_planners::boundary::NetworkBoundaryExec;
use sheaf_planners::generator::{Generator, GeneratorExec};
use sheaf_planners::leaf::{LeafSlotExec, strip_splits};
use sheaf_planners::merge_copies::{Keep, MergeCopiesExec};
use sheaf_planners::row_id::RowIdExec;
use sheaf_planners::stage::{BoundaryKind, StageOutput};
use sheaf_planners::table_sink::{SinkFormat, SinkTarget, TableSinkExec};
use tempfile::TempDir;

use super::*;

/// Tables of 400 rows: `t` in memory, `p` Parquet in three files in order of `id`, `c` CSV, `z` compressed CSV with
/// a terminator of its own, `j` JSON lines, `ja` a JSON array, `a` Arrow, `h` partitioned by its path.
struct Tables {
    context: SessionContext,
    _folder: TempDir,
}

const ROWS: &str = "SELECT value AS id, CASE WHEN value % 7 = 0 THEN NULL ELSE value % 5 END AS k, \
    concat('s', value % 11) AS s, value * 1.5 AS f, CAST(value AS DECIMAL(12, 2)) AS d, \
    CAST('2024-01-01' AS DATE) + CAST(value % 30 AS INT) AS day FROM generate_series(1, 400)";

impl Tables {
    async fn new(settings: &[(&str, &str)]) -> Self {
        let mut config = SessionConfig::new().with_target_partitions(4).with_batch_size(64);
        for (key, value) in settings {
            config = config.set_str(key, value);
        }
        let context = SessionContext::new_with_config(config);
        let tables = Self { context, _folder: TempDir::new().unwrap() };
        let folder = tables._folder.path().display().to_string();
        for statement in [
            format!("CREATE TABLE t AS {ROWS}"),
            format!("COPY (SELECT * FROM t WHERE id <= 150 ORDER BY id) TO '{folder}/p/1.parquet'"),
            format!("COPY (SELECT * FROM t WHERE id > 150 AND id <= 300 ORDER BY id) TO '{folder}/p/2.parquet'"),
            format!("COPY (SELECT * FROM t WHERE id > 300 ORDER BY id) TO '{folder}/p/3.parquet'"),
            format!("CREATE EXTERNAL TABLE p STORED AS PARQUET WITH ORDER (id ASC) LOCATION '{folder}/p/'"),
            format!("COPY t TO '{folder}/c.csv' OPTIONS ('format.has_header' 'true')"),
            format!(
                "CREATE EXTERNAL TABLE c STORED AS CSV LOCATION '{folder}/c.csv' OPTIONS ('format.has_header' 'true')"
            ),
            format!("COPY t TO '{folder}/j.json'"),
            format!("CREATE EXTERNAL TABLE j STORED AS JSON LOCATION '{folder}/j.json'"),
            format!("COPY t TO '{folder}/a.arrow'"),
            format!("CREATE EXTERNAL TABLE a STORED AS ARROW LOCATION '{folder}/a.arrow'"),
            format!("COPY t TO '{folder}/h/' STORED AS PARQUET PARTITIONED BY (s)"),
            format!("CREATE EXTERNAL TABLE h STORED AS PARQUET PARTITIONED BY (s) LOCATION '{folder}/h/'"),
        ] {
            tables.run(&statement).await;
        }
        std::fs::write(format!("{folder}/ja.json"), "[{\"x\": 1}, {\"x\": 2}, {\"x\": null}]").unwrap();
        std::fs::write(format!("{folder}/z.csv"), "x|y;1|a;2|b;3|;").unwrap();
        for statement in [
            format!(
                "CREATE EXTERNAL TABLE ja STORED AS JSON LOCATION '{folder}/ja.json' \
                 OPTIONS ('format.newline_delimited' 'false')"
            ),
            format!(
                "CREATE EXTERNAL TABLE z (x INT, y VARCHAR) STORED AS CSV LOCATION '{folder}/z.csv' OPTIONS \
                 ('format.has_header' 'true', 'format.delimiter' '|', 'format.terminator' ';')"
            ),
            format!(
                "COPY t TO '{folder}/g.csv.gz' STORED AS CSV OPTIONS ('format.compression' 'gzip', 'format.has_header' 'true')"
            ),
            format!(
                "CREATE EXTERNAL TABLE g STORED AS CSV LOCATION '{folder}/g.csv.gz' \
                 OPTIONS ('format.compression' 'gzip', 'format.has_header' 'true')"
            ),
        ] {
            tables.run(&statement).await;
        }
        tables
    }

    async fn run(&self, statement: &str) {
        let result = async { self.context.sql(statement).await?.collect().await }.await;
        result.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    async fn plan(&self, sql: &str) -> Arc<dyn ExecutionPlan> {
        let plan = async { self.context.sql(sql).await?.create_physical_plan().await }.await;
        plan.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Encodes the query's plan and back; the names of its operators.
    async fn check(&self, sql: &str) -> BTreeSet<String> {
        let plan = self.plan(sql).await;
        let context = self.context.task_ctx();
        let back = round_trip(sql, &plan, &context);
        let (expected, got) = (rows(&plan, &context).await, rows(&back, &context).await);
        assert_eq!(expected, got, "{sql}\n{}", show(&plan));
        names(&plan)
    }
}

/// Encodes, decodes and encodes again.
fn round_trip(what: &str, plan: &Arc<dyn ExecutionPlan>, context: &TaskContext) -> Arc<dyn ExecutionPlan> {
    let fail = |error: CodecError| -> ! { panic!("{what}: {error}\n{}", show(plan)) };
    check_encodable(plan).unwrap_or_else(|error| fail(error));
    let bytes = encode_stage(plan, &StageOutput::Gather).unwrap_or_else(|error| fail(error));
    let (back, output) = decode_stage(&bytes, context).unwrap_or_else(|error| fail(error));
    assert!(matches!(output, StageOutput::Gather));
    assert_eq!(show(plan), show(&back), "{what}");
    assert_eq!(plan.schema(), back.schema(), "{what}\n{}", show(plan));
    let again = encode_stage(&back, &output).unwrap_or_else(|error| fail(error));
    assert!(bytes == again, "the second encoding differs: {what}\n{}", show(plan));
    back
}

/// The plan as text, without the hint on the order of row groups, which is lost.
fn show(plan: &Arc<dyn ExecutionPlan>) -> String {
    let text = displayable(plan.as_ref()).indent(true).to_string();
    let text = text.replace(", reverse_row_groups=true", "");
    let lines = text.lines().map(|line| match line.split_once(", sort_order_for_reorder=[") {
        Some((begin, rest)) => format!("{begin}{}", rest.split_once(']').map_or("", |(_, end)| end)),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

async fn rows(plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> Vec<String> {
    let batches = collect(Arc::clone(plan), Arc::clone(context)).await;
    let batches = batches.unwrap_or_else(|error| panic!("{error}\n{}", show(plan)));
    let text = pretty_format_batches(&batches).unwrap().to_string();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines.push(batches.iter().map(RecordBatch::num_rows).sum::<usize>().to_string());
    lines
}

fn names(plan: &Arc<dyn ExecutionPlan>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let visited = plan.apply(|node| {
        names.insert(node.name().to_owned());
        Ok(TreeNodeRecursion::Continue)
    });
    visited.unwrap();
    names
}

type Settings = &'static [(&'static str, &'static str)];

/// Settings under which DataFusion plans operators that it does not plan by default, and queries for them.
const QUERIES: &[(Settings, &[&str])] = &[
    (
        &[],
        &[
            "SELECT * FROM t",
            "SELECT id + 1, f / 2, -id, NOT (k = 1), s || 'x', id % 3 = 0 AND k IS NOT NULL OR s IS NULL FROM t",
            "SELECT id FROM t WHERE k IN (1, 2, 4) AND s LIKE 's1%' AND s NOT ILIKE '%9' AND f BETWEEN 10 AND 500",
            "SELECT CASE k WHEN 1 THEN 'one' WHEN 2 THEN 'two' ELSE s END, CASE WHEN id > 5 THEN 1 END FROM t",
            "SELECT CAST(id AS VARCHAR), TRY_CAST(s AS INT), CAST(f AS DECIMAL(10, 1)), arrow_cast(id, 'Int16') FROM t",
            "SELECT day + INTERVAL '1 month', date_trunc('month', day), extract(year FROM day) FROM t",
            "SELECT day AT TIME ZONE 'Europe/Berlin' AS x, CAST(day AS TIMESTAMP) AT TIME ZONE '+05:30' AS y FROM t",
            "SELECT upper(s), substr(s, 2), regexp_replace(s, '[0-9]', 'n'), coalesce(k, 0), nullif(k, 1) FROM t",
            "SELECT count(*), count(DISTINCT k), sum(f), avg(d), min(s), max(day), stddev(f), median(id) FROM t",
            "SELECT k, count(*) FILTER (WHERE id > 100), sum(id), array_agg(id ORDER BY id DESC) FROM t GROUP BY k",
            "SELECT k, first_value(s ORDER BY id), last_value(s ORDER BY id), string_agg(s, ',') FROM t GROUP BY k",
            "SELECT k, s, sum(id), grouping(k) FROM t GROUP BY GROUPING SETS ((k), (s), (k, s), ())",
            "SELECT k, s, count(*) FROM t GROUP BY ROLLUP (k, s)",
            "SELECT DISTINCT s FROM t",
            "SELECT DISTINCT k FROM t LIMIT 3",
            "SELECT k, max(id) AS m FROM t GROUP BY k ORDER BY m DESC LIMIT 2",
            "SELECT id, approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY f) FROM t GROUP BY id",
            "SELECT * FROM t ORDER BY s DESC NULLS LAST, id",
            "SELECT * FROM t ORDER BY f LIMIT 5 OFFSET 3",
            "SELECT * FROM t LIMIT 7",
            "SELECT * FROM t LIMIT 4294967300 OFFSET 390",
            "SELECT t.id, u.s FROM t JOIN t u ON t.id = u.k",
            "SELECT t.id, u.s FROM t LEFT JOIN t u ON t.k = u.id AND t.f > u.f",
            "SELECT t.id, u.s FROM t RIGHT JOIN t u ON t.k = u.id",
            "SELECT t.id, u.s FROM t FULL JOIN t u ON t.k = u.id + 398",
            "SELECT count(1) FROM t JOIN t u ON t.id = u.id",
            "SELECT id FROM t WHERE EXISTS (SELECT 1 FROM t u WHERE u.k = t.id)",
            "SELECT id FROM t WHERE NOT EXISTS (SELECT 1 FROM t u WHERE u.k = t.id AND u.f < t.f)",
            "SELECT id FROM t WHERE id NOT IN (SELECT k FROM t)",
            "SELECT id FROM t WHERE id IN (SELECT k FROM t) OR s = 's3'",
            "SELECT t.id, u.id FROM t JOIN t u ON t.f < u.f - 590",
            "SELECT t.id, u.id FROM t LEFT JOIN t u ON t.f > u.f + 590",
            "SELECT count(*) FROM t CROSS JOIN (SELECT DISTINCT k FROM t) u",
            "SELECT id FROM t WHERE id IS NOT DISTINCT FROM k",
            "SELECT k FROM t INTERSECT SELECT id FROM t",
            "SELECT k FROM t EXCEPT SELECT id FROM t WHERE id < 3",
            "SELECT id FROM t UNION ALL SELECT k FROM t",
            "SELECT id FROM t UNION SELECT k FROM t",
            "SELECT s, id, row_number() OVER (PARTITION BY s ORDER BY id) FROM t",
            "SELECT id, rank() OVER (ORDER BY k), dense_rank() OVER (ORDER BY k), ntile(3) OVER (ORDER BY id) FROM t",
            "SELECT id, lag(k) IGNORE NULLS OVER (ORDER BY id), lead(k, 2, -1) OVER (ORDER BY id) FROM t",
            "SELECT id, first_value(k) IGNORE NULLS OVER (ORDER BY id), nth_value(k, 3) OVER (ORDER BY id) FROM t",
            "SELECT id, first_value(k) OVER (ORDER BY id), last_value(s) OVER (ORDER BY id DESC) FROM t",
            "SELECT id, first_value(k) IGNORE NULLS OVER (ORDER BY id DESC ROWS BETWEEN 1 PRECEDING AND 2 FOLLOWING), \
             lead(k) IGNORE NULLS OVER (ORDER BY id) FROM t",
            "SELECT id, sum(f) OVER (PARTITION BY s ORDER BY id ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING) FROM t",
            "SELECT id, avg(f) OVER (ORDER BY day RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW) FROM t",
            "SELECT id, count(k) OVER (), max(f) OVER (PARTITION BY k), sum(DISTINCT k) OVER (PARTITION BY s) FROM t",
            "SELECT id, sum(id) OVER (ORDER BY id), sum(id) OVER (ORDER BY id DESC) FROM t",
            "SELECT id, array_agg(k) OVER (ORDER BY id GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t",
            "SELECT * FROM (SELECT id, row_number() OVER (PARTITION BY s ORDER BY id) AS n FROM t) WHERE n <= 2",
            "SELECT unnest([1, 2, NULL]), id FROM t WHERE id < 4",
            "SELECT unnest(struct(id, s)), unnest([[1, 2], [3]]) FROM t WHERE id < 3",
            "SELECT named_struct('a', id, 'b', s)['b'], make_array(id, k)[1], map(['x'], [id]) FROM t",
            "SELECT 1, NULL, 'a', DATE '2024-02-29', TIMESTAMP '2024-01-01 00:00:00', INTERVAL '1 day', X'00FF', 1.5e0",
            "SELECT [1, 2], [[1], []], {'a': 1, 'b': [true]}, arrow_cast('x', 'Dictionary(Int32, Utf8)')",
            "SELECT 'NaN'::DOUBLE, 'Infinity'::DOUBLE, CAST(1 AS DECIMAL(38, 10)), 18446744073709551615",
            "SELECT * FROM (VALUES (1, 'a'), (NULL, 'b')) v(x, y) ORDER BY x",
            "SELECT * FROM t WHERE false",
            "SELECT * FROM generate_series(1, 5)",
            "SELECT count(*) FROM generate_series(1, 100) WHERE random() < 2",
            "SELECT count(*) FROM range(0, 10, 3)",
            "SELECT * FROM generate_series(DATE '2024-01-01', DATE '2024-01-05', INTERVAL '1 day')",
            "SELECT value, count(*) FROM generate_series(1, 100) GROUP BY value",
            "WITH RECURSIVE r AS (SELECT 1 AS n, 'a' AS x UNION ALL SELECT n + 1, x || 'b' FROM r WHERE n < 5) \
             SELECT n FROM r",
            "WITH RECURSIVE r AS (SELECT 1 AS n, 'a' AS x UNION SELECT (n + 1) % 4, 'a' FROM r) SELECT x, n FROM r",
            "SELECT k, count(DISTINCT s), count(DISTINCT id), sum(DISTINCT f) FROM t GROUP BY k",
            "SELECT corr(id, f), var_pop(f), bool_and(k > 1), bit_and(id), approx_distinct(s) FROM t",
            "SELECT id, nth_value(k, 2) IGNORE NULLS OVER (PARTITION BY s ORDER BY id DESC) FROM t",
            "SELECT id, lag(f) OVER (ORDER BY f), lag(f) OVER (ORDER BY f DESC), sum(f) OVER (ORDER BY f DESC) FROM t",
            "SELECT id, percent_rank() OVER (PARTITION BY k ORDER BY id), cume_dist() OVER (ORDER BY s) FROM t",
            "SELECT * FROM t a JOIN t b USING (id) JOIN t c USING (id) WHERE a.k + b.k > c.k",
            "SELECT (SELECT max(u.f) FROM t u WHERE u.k = t.k) FROM t",
            "SELECT id FROM t WHERE k = ANY (SELECT id FROM t WHERE id < 3)",
            "SELECT s FROM t WHERE s SIMILAR TO 's(1|2)' OR s ~ '^s3$' OR s !~* 'S4'",
            "SELECT arrow_cast(f, 'Float16') AS x, arrow_cast(s, 'LargeUtf8') AS y, arrow_cast(s, 'BinaryView') AS z FROM t",
            "SELECT arrow_cast(id, 'Decimal256(40, 2)') AS x, arrow_cast(id, 'Duration(Second)') AS y FROM t",
            "SELECT array_sort(array_agg(id)), array_contains([1, 2], id), struct(id, [id]) FROM t GROUP BY id",
            "SELECT md5(s), sha256(s), encode(s::bytea, 'hex'), uuid() IS NOT NULL FROM t",
            "SELECT * FROM (SELECT id FROM t ORDER BY id LIMIT 10) UNION ALL (SELECT id FROM t ORDER BY id DESC LIMIT 9) \
             ORDER BY id LIMIT 15",
            "SELECT c.id, j.s, a.f FROM c JOIN j ON c.id = j.id JOIN a ON a.id = j.id WHERE c.id < 10",
            "SELECT id FROM p WHERE id IN (SELECT id FROM t WHERE k = 1) ORDER BY id LIMIT 5",
            "SELECT unnest(range(1, 4)), unnest(['a', 'b'])",
            "SELECT id FROM p WHERE id > 100 AND s = 's1' ORDER BY id",
            "SELECT id FROM p ORDER BY id DESC LIMIT 3",
            "SELECT id, s FROM p ORDER BY f LIMIT 4",
            "SELECT id, sum(f) FROM p GROUP BY id",
            "SELECT k, s, id FROM p ORDER BY id, k",
            "SELECT id, sum(f) OVER (ORDER BY id) FROM p",
            "SELECT p.id, t.s FROM p JOIN t ON p.id = t.id WHERE t.k = 2",
            "SELECT count(*) FROM p",
            "SELECT count(*) FROM p LIMIT 1",
            "SELECT id * 2 AS double FROM p LIMIT 3",
            "SELECT * FROM c WHERE k = 1",
            "SELECT sum(x), max(y) FROM z",
            "SELECT * FROM g WHERE id < 10",
            "SELECT * FROM j ORDER BY id LIMIT 3",
            "SELECT sum(x) FROM ja",
            "SELECT s, id FROM a WHERE k IS NULL",
            "SELECT id, s FROM h WHERE s = 's2'",
            "SELECT s, count(*) FROM h GROUP BY s",
        ],
    ),
    (
        &[
            ("datafusion.optimizer.hash_join_single_partition_threshold", "0"),
            ("datafusion.optimizer.hash_join_single_partition_threshold_rows", "0"),
        ],
        &[
            "SELECT t.id, u.s FROM t JOIN p u ON t.id = u.id WHERE u.k = 1",
            "SELECT t.id, u.s FROM t LEFT JOIN t u ON t.k = u.id LIMIT 5",
            "SELECT id FROM t WHERE id NOT IN (SELECT k FROM t)",
            "SELECT k, count(*) FROM (SELECT k FROM t UNION ALL SELECT id % 5 FROM t) GROUP BY k",
            "SELECT k, sum(a), sum(b) FROM (SELECT k, sum(id) a, 0 b FROM t GROUP BY k UNION ALL \
             SELECT k, 0, count(*) FROM t GROUP BY k) GROUP BY k",
        ],
    ),
    (
        &[("datafusion.optimizer.prefer_hash_join", "false")],
        &[
            "SELECT t.id, u.s FROM t JOIN t u ON t.id = u.k AND t.f > u.f",
            "SELECT t.id, u.s FROM t FULL JOIN t u ON t.k = u.id",
            "SELECT k FROM t INTERSECT SELECT id FROM t",
            "SELECT id FROM t WHERE EXISTS (SELECT 1 FROM p u WHERE u.k = t.id)",
        ],
    ),
    (
        &[("datafusion.sql_parser.dialect", "duckdb")],
        &[
            "SELECT array_transform([id, k], x -> x * 2), array_filter([1, 2, 3], x -> x > id) FROM t",
            "SELECT array_any_match([id], x -> x = k) FROM t",
        ],
    ),
    (
        &[("datafusion.optimizer.enable_piecewise_merge_join", "true")],
        &["SELECT t.id, u.id FROM t JOIN t u ON t.f < u.f", "SELECT t.id, u.id FROM t LEFT JOIN t u ON t.f >= u.f"],
    ),
    (
        &[("datafusion.optimizer.enable_window_topn", "true")],
        &[
            "SELECT * FROM (SELECT id, s, row_number() OVER (PARTITION BY s ORDER BY id) AS n FROM t) WHERE n <= 2",
            "SELECT * FROM (SELECT id, s, rank() OVER (PARTITION BY s ORDER BY k) AS n FROM t) WHERE n < 3",
        ],
    ),
    (
        &[
            ("datafusion.execution.parquet.pushdown_filters", "true"),
            ("datafusion.execution.hash_join_buffering_capacity", "1000000"),
            ("datafusion.optimizer.prefer_existing_sort", "true"),
        ],
        &[
            "SELECT id FROM p WHERE k = 3 AND s <> 's1'",
            "SELECT p.id, t.s FROM t JOIN p ON p.id = t.id WHERE t.k = 2",
            "SELECT id FROM p WHERE id > 20 ORDER BY id",
            "SELECT k, min(id) FROM p GROUP BY k ORDER BY k LIMIT 2",
        ],
    ),
    (
        &[
            ("datafusion.optimizer.preserve_file_partitions", "1"),
            ("datafusion.optimizer.repartition_file_scans", "false"),
        ],
        &["SELECT s, count(*) FROM h GROUP BY s", "SELECT h.s, u.id FROM h JOIN h u ON h.s = u.s AND h.id = u.k"],
    ),
];

/// What the queries above are to plan, so that none of it is dropped from them unseen.
const OPERATORS: &[&str] = &[
    "AggregateExec",
    "BoundedWindowAggExec",
    "BufferExec",
    "CoalescePartitionsExec",
    "CrossJoinExec",
    "DataSourceExec",
    "EmptyExec",
    "FilterExec",
    "GlobalLimitExec",
    "HashJoinExec",
    "InterleaveExec",
    "LazyMemoryExec",
    "LocalLimitExec",
    "NestedLoopJoinExec",
    "PartitionedTopKExec",
    "PiecewiseMergeJoinExec",
    "PlaceholderRowExec",
    "ProjectionExec",
    "RecursiveQueryExec",
    "RepartitionExec",
    "SortExec",
    "SortMergeJoinExec",
    "SortPreservingMergeExec",
    "UnionExec",
    "UnnestExec",
    "WindowAggExec",
    "WorkTableExec",
];

#[tokio::test]
async fn every_operator_comes_back() {
    let mut seen = BTreeSet::new();
    let mut failed = Vec::new();
    for (settings, queries) in QUERIES {
        let tables = Tables::new(settings).await;
        for sql in *queries {
            // All that fail are shown at once.
            match AssertUnwindSafe(tables.check(sql)).catch_unwind().await {
                Ok(names) => seen.extend(names),
                Err(_) => failed.push(*sql),
            }
        }
    }
    assert!(failed.is_empty(), "{} failed: {failed:#?}", failed.len());
    let missing: Vec<_> = OPERATORS.iter().filter(|name| !seen.contains(**name)).collect();
    assert!(missing.is_empty(), "not planned by any query: {missing:?}");
}

fn column(name: &str, index: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(name, index))
}

fn ordering(columns: &[(&str, usize)]) -> LexOrdering {
    let sort = |(name, index): &(&str, usize)| PhysicalSortExpr::new(column(name, *index), SortOptions::default());
    LexOrdering::new(columns.iter().map(sort)).unwrap()
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Int64, false)]))
}

fn memory() -> Arc<dyn ExecutionPlan> {
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])), Arc::new(Int64Array::from(vec![5, 5, 7]))];
    let batch = RecordBatch::try_new(schema(), columns).unwrap();
    let source = MemorySourceConfig::try_new(&[vec![batch.clone(), batch], vec![]], schema(), None).unwrap();
    DataSourceExec::from_data_source(source)
}

fn context() -> Arc<TaskContext> {
    SessionContext::new().task_ctx()
}

#[tokio::test]
async fn operators_that_queries_do_not_plan() {
    let context = context();
    let partial = PartialSortExec::new(ordering(&[("b", 1), ("a", 0)]), memory(), 1)
        .with_preserve_partitioning(true)
        .with_fetch(Some(2));
    let mut limit = LocalLimitExec::new(memory(), 1 << 40);
    limit.set_required_ordering(Some(ordering(&[("b", 1)])));
    let filter = FilterExec::try_new(lit(true), memory()).unwrap().with_fetch(Some(1 << 33)).unwrap();
    let on = vec![(column("a", 0), column("a", 0))];
    let symmetric = SymmetricHashJoinExec::try_new(
        memory(),
        memory(),
        on.clone(),
        None,
        &JoinType::Left,
        NullEquality::NullEqualsNull,
        None,
        Some(ordering(&[("b", 1)])),
        StreamJoinPartitionMode::SinglePartition,
    );
    let merge = SortMergeJoinExec::try_new(
        memory(),
        memory(),
        on,
        None,
        JoinType::Inner,
        vec![SortOptions { descending: true, nulls_first: false }],
        NullEquality::NullEqualsNull,
    );
    let (less, on) = (Operator::Lt, (column("b", 1), column("b", 1)));
    let piecewise = PiecewiseMergeJoinExec::try_new(memory(), memory(), on, less, JoinType::Left, 7);
    let plans: Vec<Arc<dyn ExecutionPlan>> = vec![
        Arc::new(partial),
        Arc::new(limit),
        Arc::new(GlobalLimitExec::new(memory(), 1 << 34, Some(1 << 35))),
        filter,
        Arc::new(CoalescePartitionsExec::new(memory()).with_fetch(Some(1 << 33))),
        Arc::new(EmptyExec::new(schema()).with_partitions(3)),
        Arc::new(PlaceholderRowExec::new(schema()).with_partitions(2)),
        Arc::new(symmetric.unwrap()),
        Arc::new(merge.unwrap()),
        Arc::new(piecewise.unwrap()),
        Arc::new(WorkTableExec::new("w".into(), schema(), Some(vec![1])).unwrap()),
        Arc::new(WorkTableExec::new("w".into(), schema(), Some(vec![])).unwrap()),
    ];
    for plan in plans {
        round_trip(plan.name(), &plan, &context);
    }
}

#[tokio::test]
async fn our_own_nodes() {
    let tables = Tables::new(&[]).await;
    let context = tables.context.task_ctx();
    let hash = Partitioning::Hash(vec![column("a", 0)], 6);
    let gather = Partitioning::UnknownPartitioning(3);
    let boundary = |kind, ordering: Option<LexOrdering>, partitioning: &Partitioning| -> Arc<dyn ExecutionPlan> {
        let partitioning = partitioning.clone();
        Arc::new(NetworkBoundaryExec::decoded(StageId(4), kind, 3, schema(), ordering, partitioning))
    };
    let numbers = GeneratorExec::try_new(Generator::Numbers, vec![vec![(0, 5), (7, 9)], vec![]], Some(vec![]));
    let numbers: Arc<dyn ExecutionPlan> = Arc::new(numbers.unwrap().limited(Some(3)).local());
    let scan = tables.plan("SELECT id, s FROM p WHERE k > 1").await;
    let mut leaf = None;
    let visited = scan.apply(|node| {
        if node.is::<DataSourceExec>() {
            leaf = Some(strip_splits(node));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    visited.unwrap();
    let plans = [
        boundary(BoundaryKind::Shuffle, None, &hash),
        boundary(BoundaryKind::Gather, None, &gather),
        boundary(BoundaryKind::Merge, Some(ordering(&[("b", 1), ("a", 0)])), &gather),
        boundary(BoundaryKind::Broadcast, None, &Partitioning::UnknownPartitioning(1)),
        Arc::new(LeafSlotExec::new(2, Arc::clone(&numbers), 9)),
        Arc::new(LeafSlotExec::new(0, leaf.unwrap(), 12)),
        numbers,
    ];
    for plan in plans {
        round_trip(plan.name(), &plan, &context);
    }
}

#[tokio::test]
async fn row_ids_and_their_merge() {
    let context = context();
    let ids: Arc<dyn ExecutionPlan> = Arc::new(RowIdExec::try_new(memory()).unwrap());
    let back = round_trip("row ids", &ids, &context);
    assert_eq!(back.schema(), ids.schema());
    assert_eq!(rows(&back, &context).await, rows(&ids, &context).await);
    let mark = ProjectionExpr::new(lit(true), "mark");
    let columns = [ProjectionExpr::new(column("a", 0), "a"), mark, ProjectionExpr::new(column("row_id", 2), "row_id")];
    let marked: Arc<dyn ExecutionPlan> = Arc::new(ProjectionExec::try_new(columns, Arc::clone(&ids)).unwrap());
    for keep in [Keep::FromAny, Keep::FromAll, Keep::Marked { column: 1 }] {
        let plan: Arc<dyn ExecutionPlan> = Arc::new(MergeCopiesExec::try_new(Arc::clone(&marked), keep, 7).unwrap());
        let back = round_trip(&format!("{keep:?}"), &plan, &context);
        let back = back.downcast_ref::<MergeCopiesExec>().unwrap();
        assert_eq!((back.keep(), back.tasks(), back.schema()), (keep, 7, plan.schema()));
    }
    // Damage that prost cannot see: ids that the input does not have, and a mark without its column.
    let memory = encode_stage(&memory(), &StageOutput::Gather).unwrap();
    for (keep, column) in
        [(wire::Keep::FromAny, None), (wire::Keep::Marked, None), (wire::Keep::Marked, Some(u64::MAX))]
    {
        let mut stage = wire::Stage::decode(memory.as_ref()).unwrap();
        let input = stage.nodes.len() as u32 - 1;
        let merge = wire::MergeCopies { input, keep: keep as i32, column, tasks: 2 };
        stage.nodes.push(wire::Node { kind: Some(wire::NodeKind::MergeCopies(merge)) }.encode_to_vec());
        assert!(decode_stage(&stage.encode_to_vec(), &context).is_err(), "{keep:?} {column:?}");
    }
}

#[test]
fn sinks_come_back_whole() {
    let context = context();
    let target = SinkTarget {
        location: "file:///data/a%20b/".into(),
        statement: "s-1".into(),
        partition_columns: vec!["a".into()],
        file_bytes: 1 << 27,
        bloom_columns: vec!["b".into()],
        store: Some("s3://b".into()),
        format: SinkFormat::Csv { header: true, delimiter: b';', null: "\\N".into() },
        rejects_max: None,
    };
    let input = memory();
    let fields = input.schema().fields().iter().map(|it| it.as_ref().clone().with_nullable(false)).collect::<Vec<_>>();
    let table = Arc::new(Schema::new(fields));
    let plan: Arc<dyn ExecutionPlan> =
        Arc::new(TableSinkExec::try_new(input, target.clone(), Arc::clone(&table)).unwrap());
    let back = round_trip("a sink", &plan, &context);
    let back = back.downcast_ref::<TableSinkExec>().unwrap();
    assert_eq!((back.target(), back.table_schema()), (&target, &table));
}

#[test]
fn outputs() {
    let context = context();
    let check = |output: StageOutput| {
        let bytes = encode_stage(&memory(), &output).unwrap();
        let (plan, back) = decode_stage(&bytes, &context).unwrap();
        assert_eq!(format!("{back:?}"), format!("{output:?}"));
        assert_eq!(encode_stage(&plan, &back).unwrap(), bytes);
    };
    let sum = BinaryExpr::new(column("a", 0), Operator::Plus, column("b", 1));
    check(StageOutput::Hash { exprs: vec![Arc::new(sum), column("b", 1)], partitions: 12 });
    check(StageOutput::Broadcast);
    check(StageOutput::Gather);
}

#[test]
fn fields_of_expressions_stay() {
    let context = context();
    let metadata = HashMap::from([("kind".to_owned(), "x".to_owned())]);
    let target = Field::new("c", DataType::Int32, false).with_metadata(metadata.clone());
    let safe = arrow::compute::CastOptions { safe: true, ..datafusion::common::format::DEFAULT_CAST_OPTIONS };
    let literal = Literal::new_with_metadata(ScalarValue::from(5i64), Some(FieldMetadata::from(metadata)));
    let exprs: Vec<Arc<dyn PhysicalExpr>> = vec![
        Arc::new(CastExpr::new_with_target_field(column("b", 1), Arc::new(target.clone()), None)),
        Arc::new(CastExpr::new(column("b", 1), DataType::Int16, Some(safe))),
        Arc::new(TryCastExpr::new_with_target_field(column("b", 1), Arc::new(target))),
        Arc::new(literal),
    ];
    for expr in exprs {
        let projection = ProjectionExpr::new(Arc::clone(&expr), "x");
        let plan: Arc<dyn ExecutionPlan> = Arc::new(ProjectionExec::try_new([projection], memory()).unwrap());
        let back = round_trip("expression", &plan, &context);
        let back = back.downcast_ref::<ProjectionExec>().unwrap();
        assert_eq!(&back.expr()[0].expr, &expr);
    }
}

/// Metadata that only the schema has.
#[test]
fn metadata_of_a_projection_stays() {
    let metadata = HashMap::from([("kind".to_owned(), "x".to_owned())]);
    let field = Field::new("x", DataType::Int64, true).with_metadata(metadata.clone());
    let wanted = Schema::new_with_metadata(vec![field], metadata);
    let exprs = [ProjectionExpr::new(column("a", 0), "x")];
    let plan = ProjectionExec::try_new_with_schema_metadata(exprs, memory(), &wanted).unwrap();
    assert_eq!(plan.schema().as_ref(), &wanted);
    round_trip("projection", &(Arc::new(plan) as _), &context());
}

fn greater_than_subquery(results: &ScalarSubqueryResults) -> Arc<dyn ExecutionPlan> {
    let index = SubqueryIndex::new(0);
    let subquery: Arc<dyn PhysicalExpr> =
        Arc::new(ScalarSubqueryExpr::new(DataType::Int64, true, index, results.clone()));
    let predicate = Arc::new(BinaryExpr::new(column("b", 1), Operator::Gt, Arc::clone(&subquery)));
    let filter = Arc::new(FilterExec::try_new(predicate, memory()).unwrap());
    Arc::new(ProjectionExec::try_new([ProjectionExpr::new(subquery, "x")], filter).unwrap())
}

#[tokio::test]
async fn a_scalar_subquery_is_its_value() {
    let context = context();
    let results = ScalarSubqueryResults::new(1);
    let plan = greater_than_subquery(&results);
    let error = encode_stage(&plan, &StageOutput::Gather).unwrap_err();
    assert!(matches!(error, CodecError::SubqueryPending) && error.code() == ErrorCode::Internal, "{error:?}");
    check_encodable(&plan).unwrap();
    results.set(SubqueryIndex::new(0), ScalarValue::from(6i64)).unwrap();
    let bytes = encode_stage(&plan, &StageOutput::Gather).unwrap();
    let (back, _) = decode_stage(&bytes, &context).unwrap();
    assert_eq!(back.schema(), plan.schema());
    assert!(show(&back).contains("FilterExec: b@1 > 6"), "{}", show(&back));
    assert_eq!(rows(&back, &context).await, rows(&plan, &context).await);
    assert_eq!(rows(&back, &context).await.last().unwrap(), "2");
}

#[tokio::test]
async fn a_subquery_of_a_whole_plan_is_refused() {
    let tables = Tables::new(&[]).await;
    let plan = tables.plan("SELECT id FROM t WHERE f > (SELECT avg(f) FROM t)").await;
    let error = check_encodable(&plan).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ScalarSubqueryExec cannot be sent to workers: subqueries run before the plan is sent"
    );
    assert_eq!(error.code(), ErrorCode::Unsupported);
}

#[tokio::test]
async fn what_cannot_be_encoded_is_named() {
    let tables = Tables::new(&[("datafusion.catalog.information_schema", "true")]).await;
    for (sql, name) in [
        ("SELECT table_name FROM information_schema.tables", "StreamingTableExec"),
        ("SELECT sum(f) FILTER (WHERE k = 1) OVER (ORDER BY id) FROM t", "FILTER"),
        ("SELECT avg(f) FILTER (WHERE k = 1) OVER (ORDER BY id ROWS 2 PRECEDING) FROM t", "FILTER"),
        ("SELECT 1 FROM t GROUP BY GROUPING SETS ((), ())", "grouping sets"),
        ("EXPLAIN SELECT 1", "ExplainExec"),
    ] {
        let plan = tables.plan(sql).await;
        let error = check_encodable(&plan).expect_err(sql);
        assert!(error.to_string().contains(name), "{sql}: {error}");
        assert_eq!(error.code(), ErrorCode::Unsupported, "{sql}");
        assert!(encode_stage(&plan, &StageOutput::Gather).is_err());
    }
}

/// The filter that a join or a top-k fills is the one that its scan asks.
#[tokio::test]
async fn dynamic_filters_stay_shared() {
    let settings = [("datafusion.execution.parquet.pushdown_filters", "true")];
    let tables = Tables::new(&settings).await;
    let context = tables.context.task_ctx();
    for sql in [
        "SELECT p.id, t.s FROM t JOIN p ON p.id = t.id WHERE t.k = 2",
        "SELECT id FROM p ORDER BY f LIMIT 4",
        "SELECT min(id), max(f) FROM p WHERE k > 0",
    ] {
        let plan = tables.plan(sql).await;
        let bytes = encode_stage(&plan, &StageOutput::Gather).unwrap();
        let (back, _) = decode_stage(&bytes, &context).unwrap();
        assert_eq!(filters(&plan), filters(&back), "{sql}");
        assert!(filters(&back).values().any(|n| *n > 1), "{sql}\n{}", show(&back));
        rows(&back, &context).await;
        if back.is::<SortExec>() || sql.contains("JOIN") {
            assert!(!show(&back).contains("DynamicFilter [ empty ]"), "{sql}\n{}", show(&back));
        }
    }
}

/// How often each filter stands in the plan.
fn filters(plan: &Arc<dyn ExecutionPlan>) -> HashMap<u64, usize> {
    let mut filters = HashMap::new();
    let visited = plan.apply(|node| {
        let produced = node.dynamic_expressions_produced();
        let mut count = |expr: &Arc<dyn PhysicalExpr>| {
            expr.apply(|expr| {
                if expr.is::<DynamicFilterPhysicalExpr>() {
                    *filters.entry(expr.expression_id().unwrap()).or_insert(0) += 1;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        };
        for expr in &produced {
            count(expr)?;
        }
        node.apply_expressions(&mut count)
    });
    visited.unwrap();
    filters
}

/// On a stack that the plan itself fits on: making, running and dropping it is DataFusion's.
fn on_a_deep_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(512 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn ten_thousand_ors() {
    on_a_deep_stack(|| {
        let equals = |i: i64| -> Arc<dyn PhysicalExpr> {
            Arc::new(BinaryExpr::new(column("b", 1), Operator::Eq, lit(ScalarValue::from(i))))
        };
        let or = |left, right| -> Arc<dyn PhysicalExpr> { Arc::new(BinaryExpr::new(left, Operator::Or, right)) };
        let left_deep = (0..10_000).map(equals).reduce(or).unwrap();
        let right_deep = (0..10_000).map(equals).reduce(|left, right| or(right, left)).unwrap();
        for predicate in [left_deep, right_deep] {
            let plan: Arc<dyn ExecutionPlan> = Arc::new(FilterExec::try_new(predicate, memory()).unwrap());
            let output = StageOutput::Gather;
            // The walks themselves do without the deep stack.
            let shallow = Arc::clone(&plan);
            let bytes = std::thread::spawn(move || encode_stage(&shallow, &output).unwrap()).join().unwrap();
            let sent = bytes.clone();
            let back = std::thread::spawn(move || decode_stage(&sent, &context()).unwrap().0).join().unwrap();
            assert_eq!(encode_stage(&back, &StageOutput::Gather).unwrap(), bytes);
            assert!(bytes.len() < 1 << 20, "{}", bytes.len());
        }
    });
}

#[test]
fn a_thousand_levels_of_plan() {
    on_a_deep_stack(|| {
        let mut plan = memory();
        for _ in 0..1000 {
            plan = Arc::new(CoalescePartitionsExec::new(plan));
        }
        round_trip("depth", &plan, &context());
    });
}

#[test]
fn a_type_too_deep_to_read_is_refused() {
    let mut data_type = DataType::Int64;
    for _ in 0..60 {
        data_type = DataType::new_list(data_type, true);
    }
    let schema = Arc::new(Schema::new(vec![Field::new("deep", data_type, true)]));
    let plan: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(schema));
    let error = check_encodable(&plan).unwrap_err();
    assert!(error.to_string().contains("nested too deeply"), "{error}");
}

#[test]
fn damaged_bytes_are_an_error() {
    let context = context();
    let on = vec![(column("a", 0), column("a", 0))];
    let join = HashJoinExec::try_new(
        memory(),
        memory(),
        on,
        None,
        &JoinType::Inner,
        Some(vec![]),
        PartitionMode::CollectLeft,
        NullEquality::NullEqualsNothing,
        false,
    );
    let plan: Arc<dyn ExecutionPlan> = Arc::new(join.unwrap());
    let bytes = encode_stage(&plan, &StageOutput::Gather).unwrap();
    for end in 0..bytes.len() {
        assert!(decode_stage(&bytes[..end], &context).is_err(), "{end} of {} bytes", bytes.len());
    }
    let mut stage = wire::Stage::decode(bytes.as_ref()).unwrap();
    stage.version += 1;
    let error = decode_stage(&stage.encode_to_vec(), &context).unwrap_err();
    assert!(matches!(error, CodecError::Corrupt(_)), "{error:?}");
    // A node that holds itself.
    let looped = wire::Slot { leaf: 0, input: 0, partitions: 1 };
    let looped = wire::Node { kind: Some(wire::NodeKind::Slot(looped)) };
    let stage = wire::Stage { version: wire::VERSION, nodes: vec![looped.encode_to_vec()], ..Default::default() };
    let error = decode_stage(&stage.encode_to_vec(), &context).unwrap_err();
    assert!(matches!(error, CodecError::Corrupt(_)), "{error:?}");
}

#[tokio::test]
async fn an_unknown_function_is_named() {
    let tables = Tables::new(&[]).await;
    let plan = tables.plan("SELECT upper(s) FROM t").await;
    let bytes = encode_stage(&plan, &StageOutput::Gather).unwrap();
    let error = decode_stage(&bytes, &TaskContext::default()).unwrap_err();
    assert!(error.to_string().contains("upper"), "{error}");
}

/// `array_agg` and others resolve through a context that is made from the transferred configuration.
#[tokio::test]
async fn a_worker_of_the_same_configuration_reads_it() {
    let settings = [("datafusion.execution.time_zone", "+05:30")];
    let tables = Tables::new(&settings).await;
    let state = tables.context.state();
    let config = decode_config(&encode_config(state.config())).unwrap();
    let worker = SessionContext::new_with_config_rt(config, tables.context.runtime_env());
    let sql = "SELECT k, array_agg(day AT TIME ZONE 'Europe/Berlin' ORDER BY id) FROM p GROUP BY k";
    let plan = tables.plan(sql).await;
    let bytes = encode_stage(&plan, &StageOutput::Gather).unwrap();
    let (back, _) = decode_stage(&bytes, &worker.task_ctx()).unwrap();
    assert_eq!(rows(&plan, &tables.context.task_ctx()).await, rows(&back, &worker.task_ctx()).await);
}
