//! One function a kind of plan node: its name in EXPLAIN and what there is to say about it.
//!
//! A kind that is not listed in [`KINDS`] shows DataFusion's own line, so that a new operator is seen at once, if not
//! in our words.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::NullEquality;
use datafusion::common::stats::Precision;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_expr::utils::split_conjunction;
use datafusion::physical_expr::{Partitioning, PhysicalExprRef};
use datafusion::physical_optimizer::output_requirements::OutputRequirementExec;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::buffer::BufferExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode, PiecewiseMergeJoinExec, SortMergeJoinExec,
    SymmetricHashJoinExec,
};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::memory::LazyMemoryExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::sorts::partial_sort::PartialSortExec;
use datafusion::physical_plan::sorts::partitioned_topk::{PartitionedTopKExec, WindowFnKind};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::streaming::StreamingTableExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec, WindowExpr};
use datafusion::physical_plan::work_table::WorkTableExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, InputOrderMode, Statistics, displayable};

use super::expressions::{aggregate, aliased, sort_keys, sql, sql_list, window};
use crate::generator::GeneratorExec;
use crate::leaf::LeafSlotExec;
use crate::merge_copies::{Keep, MergeCopiesExec};
use crate::row_id::RowIdExec;
use crate::splits::file_bytes;
use crate::stage::{Leaf, Split};
use crate::table_sink::TableSinkExec;

/// Columns of a scan and files of a source that the text shows before it only counts the rest.
const SCHEMA_COLUMNS_MAX: usize = 32;
const FILE_NAMES_MAX: usize = 3;

/// What one line of EXPLAIN says of an operator, before anything is laid out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub name: String,
    pub details: Vec<Detail>,
}

/// `label: value`, or only the value where the operator's name says what it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Detail {
    pub label: &'static str,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    List(Vec<String>),
    Number(u64),
}

impl Line {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), details: vec![] }
    }

    fn detail(mut self, label: &'static str, value: Value) -> Self {
        self.details.push(Detail { label, value });
        self
    }

    /// A word or an expression with nothing before it.
    pub(super) fn text(self, value: impl Into<String>) -> Self {
        self.labelled("", value)
    }

    pub(super) fn labelled(self, label: &'static str, value: impl Into<String>) -> Self {
        self.detail(label, Value::Text(value.into()))
    }

    pub(super) fn list(self, label: &'static str, items: Vec<String>) -> Self {
        if items.is_empty() { self } else { self.detail(label, Value::List(items)) }
    }

    pub(super) fn number(self, label: &'static str, value: usize) -> Self {
        self.detail(label, Value::Number(value as u64))
    }

    /// Replaces a detail, or adds it.
    fn set(&mut self, label: &'static str, value: Value) {
        match self.details.iter_mut().find(|detail| detail.label == label) {
            Some(detail) => detail.value = value,
            None => self.details.push(Detail { label, value }),
        }
    }

    fn number_if(self, label: &'static str, value: Option<usize>) -> Self {
        match value {
            Some(value) => self.number(label, value),
            None => self,
        }
    }

    fn text_if(self, condition: bool, text: &str) -> Self {
        if condition { self.text(text) } else { self }
    }

    fn join_filter(self, filter: Option<&JoinFilter>) -> Self {
        match filter {
            Some(filter) => self.labelled("filter", sql(filter.expression().as_ref())),
            None => self,
        }
    }
}

/// Every kind of node that has a line of its own.
const KINDS: &[fn(&dyn ExecutionPlan) -> Option<Line>] = &[
    global_limit,
    local_limit,
    projection,
    sort,
    partial_sort,
    partitioned_top_k,
    merge_sorted,
    merge_partitions,
    repartition,
    aggregator,
    filter,
    hash_join,
    row_id,
    merge_copies,
    table_sink,
    nested_loop_join,
    sort_merge_join,
    symmetric_hash_join,
    piecewise_merge_join,
    cross_join,
    union,
    interleave,
    unnest,
    window_agg,
    bounded_window_agg,
    recursive_query,
    work_table,
    scalar_subquery,
    data_source,
    generator,
    lazy_memory,
    streaming_table,
    empty,
    one_row,
];

/// The line of `plan`.
pub(super) fn line(plan: &Arc<dyn ExecutionPlan>) -> Line {
    KINDS.iter().find_map(|kind| kind(plan.as_ref())).unwrap_or_else(|| own_words(plan))
}

/// Nodes that move no row from one place to another: the reader of a plan gains nothing from them.
pub(super) fn is_housekeeping(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<CooperativeExec>() || plan.is::<OutputRequirementExec>() || plan.is::<BufferExec>()
}

/// A limit that DataFusion folded into a node that only brings partitions together. It gets a line of its own, since
/// it is what the statement's LIMIT became.
pub(super) fn folded_limit(plan: &dyn ExecutionPlan) -> Option<Line> {
    let moves_only = plan.is::<SortPreservingMergeExec>() || plan.is::<CoalescePartitionsExec>();
    let fetch = plan.fetch().filter(|_| moves_only)?;
    Some(Line::new("Limit").text(fetch.to_string()))
}

/// DataFusion's own line, its `Exec` dropped from the name.
fn own_words(plan: &Arc<dyn ExecutionPlan>) -> Line {
    let name = plan.name().strip_suffix("Exec").unwrap_or(plan.name());
    let text = displayable(plan.as_ref()).one_line().to_string();
    let text = text.trim_end();
    match text.strip_prefix(plan.name()) {
        Some(rest) => {
            let rest = rest.trim_start_matches(':').trim();
            if rest.is_empty() { Line::new(name) } else { Line::new(name).text(rest) }
        }
        None => Line::new(name).text(text),
    }
}

fn global_limit(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<GlobalLimitExec>()?;
    let fetch = plan.fetch().map_or_else(|| "all".to_owned(), |fetch| fetch.to_string());
    let offset = Some(plan.skip()).filter(|skip| *skip > 0);
    Some(Line::new("Limit").text(fetch).number_if("offset", offset))
}

fn local_limit(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<LocalLimitExec>()?;
    Some(Line::new("Limit").text(plan.fetch().to_string()).text("per partition"))
}

fn projection(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<ProjectionExec>()?;
    let columns = plan.expr().iter().map(|it| aliased(it.expr.as_ref(), &it.alias)).collect();
    Some(Line::new("Projection").list("", columns))
}

fn sort(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<SortExec>()?;
    let per_partition = plan.preserve_partitioning() && plan.input().output_partitioning().partition_count() > 1;
    let line = Line::new("Sort").list("", sort_keys(plan.expr()));
    Some(line.number_if("limit", plan.fetch()).text_if(per_partition, "per partition"))
}

fn partial_sort(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<PartialSortExec>()?;
    let line = Line::new("PartialSort").list("", sort_keys(plan.expr()));
    Some(line.number("sorted keys", plan.common_prefix_length()).number_if("limit", plan.fetch()))
}

fn partitioned_top_k(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<PartitionedTopKExec>()?;
    let (partition_by, order_by) = plan.expr().split_at(plan.partition_prefix_len());
    let function = match plan.fn_kind() {
        WindowFnKind::RowNumber => "row_number",
        WindowFnKind::Rank => "rank",
    };
    let line = Line::new("PartitionedTopK").text(function);
    let line = line.list("partition by", sql_list(partition_by.iter().map(|key| &key.expr)));
    Some(line.list("order by", sort_keys(order_by)).number("limit", plan.fetch()))
}

fn merge_sorted(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<SortPreservingMergeExec>()?;
    Some(Line::new("MergeSorted").list("", sort_keys(plan.expr())))
}

fn merge_partitions(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<CoalescePartitionsExec>()?;
    let n_inputs = plan.input().output_partitioning().partition_count();
    Some(Line::new("MergePartitions").text(format!("{n_inputs}→1")))
}

fn repartition(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<RepartitionExec>()?;
    let n_inputs = plan.input().output_partitioning().partition_count();
    let line = Line::new("Repartition");
    let line = match plan.partitioning() {
        Partitioning::Hash(exprs, _) => line.list("hash", sql_list(exprs)),
        Partitioning::RoundRobinBatch(_) => line.text("round robin"),
        Partitioning::Range(range) => line.labelled("range", range.to_string()),
        Partitioning::UnknownPartitioning(_) => line.text("any"),
    };
    let n_outputs = plan.partitioning().partition_count();
    let line = line.labelled("partitions", format!("{n_inputs}→{n_outputs}"));
    Some(line.text_if(plan.preserve_order(), "order kept"))
}

fn aggregator(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<AggregateExec>()?;
    let name = match plan.mode() {
        AggregateMode::Partial => "AggregatorPartial",
        AggregateMode::PartialReduce => "AggregatorMerge",
        AggregateMode::Final | AggregateMode::FinalPartitioned => "AggregatorFinal",
        AggregateMode::Single | AggregateMode::SinglePartitioned => "Aggregator",
    };
    let functions =
        plan.aggr_expr().iter().zip(plan.filter_expr()).map(|(it, filter)| aggregate(it, filter.as_ref())).collect();
    let line = group_by(Line::new(name), plan).list("aggregates", functions);
    let ordered = *plan.input_order_mode() != InputOrderMode::Linear;
    let line = line.number_if("limit", plan.limit_options().map(|limit| limit.limit()));
    Some(line.text_if(ordered, "input ordered by group"))
}

fn group_by(line: Line, plan: &AggregateExec) -> Line {
    let groups = plan.group_expr();
    let keys = sql_list(groups.expr().iter().map(|(expr, _)| expr));
    if groups.is_single() {
        return line.list("group by", keys);
    }
    let sets = groups.groups().iter().map(|is_null| {
        let kept = keys.iter().zip(is_null).filter(|(_, is_null)| !**is_null).map(|(key, _)| key.as_str());
        format!("({})", kept.collect::<Vec<_>>().join(", "))
    });
    line.list("grouping sets", sets.collect())
}

fn filter(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<FilterExec>()?;
    Some(Line::new("Filter").text(sql(plan.predicate().as_ref())).number_if("limit", plan.fetch()))
}

fn hash_join(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<HashJoinExec>()?;
    let build = match plan.partition_mode() {
        PartitionMode::CollectLeft => "whole",
        PartitionMode::Partitioned => "by partition",
        PartitionMode::Auto => "undecided",
    };
    let line = Line::new("HashJoin").text(plan.join_type().to_string());
    let line = line.list("on", equalities(plan.on())).join_filter(plan.filter()).labelled("build", build);
    let line = line.text_if(plan.null_equality() == NullEquality::NullEqualsNull, "NULLs are equal");
    Some(line.text_if(plan.null_aware, "null aware").number_if("limit", plan.fetch()))
}

fn row_id(plan: &dyn ExecutionPlan) -> Option<Line> {
    plan.is::<RowIdExec>().then(|| Line::new("RowId"))
}

fn merge_copies(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<MergeCopiesExec>()?;
    let keep = match plan.keep() {
        Keep::FromAny => "from any task",
        Keep::FromAll => "from all tasks",
        Keep::Marked { .. } => "marked by any task",
    };
    Some(Line::new("MergeCopies").text(keep).number("tasks", plan.tasks()))
}

fn table_sink(plan: &dyn ExecutionPlan) -> Option<Line> {
    let target = plan.downcast_ref::<TableSinkExec>()?.target();
    let line = Line::new("TableSink").text(target.location.clone());
    match target.partition_columns.is_empty() {
        true => Some(line),
        false => Some(line.list("partitioned by", target.partition_columns.clone())),
    }
}

/// `(l_orderkey = o_orderkey)` each.
fn equalities(on: &[(PhysicalExprRef, PhysicalExprRef)]) -> Vec<String> {
    on.iter().map(|(left, right)| format!("({} = {})", sql(left.as_ref()), sql(right.as_ref()))).collect()
}

fn nested_loop_join(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<NestedLoopJoinExec>()?;
    Some(Line::new("NestedLoopJoin").text(plan.join_type().to_string()).join_filter(plan.filter()))
}

fn sort_merge_join(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<SortMergeJoinExec>()?;
    let line = Line::new("SortMergeJoin").text(plan.join_type().to_string());
    let line = line.list("on", equalities(plan.on())).join_filter(plan.filter().as_ref());
    Some(line.text_if(plan.null_equality() == NullEquality::NullEqualsNull, "NULLs are equal"))
}

fn symmetric_hash_join(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<SymmetricHashJoinExec>()?;
    let line = Line::new("SymmetricHashJoin").text(plan.join_type().to_string());
    Some(line.list("on", equalities(plan.on())).join_filter(plan.filter()))
}

fn piecewise_merge_join(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<PiecewiseMergeJoinExec>()?;
    let on = format!("({} {} {})", sql(plan.on.0.as_ref()), plan.operator, sql(plan.on.1.as_ref()));
    Some(Line::new("PiecewiseMergeJoin").text(plan.join_type().to_string()).list("on", vec![on]))
}

fn cross_join(plan: &dyn ExecutionPlan) -> Option<Line> {
    plan.downcast_ref::<CrossJoinExec>()?;
    Some(Line::new("CrossJoin"))
}

fn union(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<UnionExec>()?;
    Some(Line::new("Union").number("inputs", plan.inputs().len()))
}

fn interleave(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<InterleaveExec>()?;
    Some(Line::new("Union").number("inputs", plan.inputs().len()).text("partition by partition"))
}

fn unnest(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<UnnestExec>()?;
    let schema = plan.input().schema();
    let name = |idx: usize| schema.field(idx).name().clone();
    let lists = plan.list_column_indices().iter().map(|list| name(list.index_in_input_schema)).collect();
    let structs = plan.struct_column_indices().iter().map(|idx| name(*idx)).collect();
    Some(Line::new("Unnest").list("lists", lists).list("structs", structs))
}

fn window_agg(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<WindowAggExec>()?;
    Some(Line::new("Window").list("", windows(plan.window_expr())))
}

fn bounded_window_agg(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<BoundedWindowAggExec>()?;
    Some(Line::new("Window").list("", windows(plan.window_expr())))
}

fn windows(functions: &[Arc<dyn WindowExpr>]) -> Vec<String> {
    functions.iter().map(|function| window(function.as_ref())).collect()
}

fn recursive_query(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<RecursiveQueryExec>()?;
    let rows = if plan.is_distinct() { "distinct rows" } else { "all rows" };
    Some(Line::new("RecursiveQuery").text(plan.name()).text(rows))
}

fn work_table(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<WorkTableExec>()?;
    Some(Line::new("WorkTable").text(plan.name()))
}

fn scalar_subquery(plan: &dyn ExecutionPlan) -> Option<Line> {
    let plan = plan.downcast_ref::<ScalarSubqueryExec>()?;
    Some(Line::new("ScalarSubquery").number("subqueries", plan.subqueries().len()))
}

fn empty(plan: &dyn ExecutionPlan) -> Option<Line> {
    plan.downcast_ref::<EmptyExec>()?;
    Some(Line::new("Empty").text("no rows"))
}

fn one_row(plan: &dyn ExecutionPlan) -> Option<Line> {
    plan.downcast_ref::<PlaceholderRowExec>()?;
    Some(Line::new("OneRow"))
}

fn data_source(plan: &dyn ExecutionPlan) -> Option<Line> {
    let exec = plan.downcast_ref::<DataSourceExec>()?;
    let source = exec.data_source();
    if let Some(config) = source.downcast_ref::<FileScanConfig>() {
        return Some(files(plan, config));
    }
    let kind = if source.is::<MemorySourceConfig>() { "memory" } else { "source" };
    let line = scan(kind, plan, plan.output_partitioning().partition_count());
    Some(line.number_if("limit", plan.fetch()))
}

/// The scan of a stage, in so many partitions over all tasks. What they read together stands with the stage, since the template that the workers get
/// has no files left.
pub(super) fn staged_scan(slot: &LeafSlotExec, leaf: Option<&Leaf>, partitions: usize) -> Line {
    let mut line = line(slot.input());
    line.set("partitions", Value::Number(partitions as u64));
    let Some(leaf) = leaf else { return line };
    let paths = leaf.splits.iter().flat_map(|split| match split {
        Split::File(file) => std::slice::from_ref(file),
        Split::Files(files) => files.as_slice(),
        Split::Rows { .. } | Split::Whole | Split::Share => &[],
    });
    let files = file_names(paths.map(|file| file.path.as_str()));
    if !files.is_empty() {
        line.details.insert(1, Detail { label: "files", value: Value::List(files) });
        let known = |value: Option<usize>| value.map_or(Precision::Absent, Precision::Exact);
        let weight = leaf.splits.iter().map(Split::weight).sum();
        let bytes = or_about(known(leaf.bytes), weight);
        line.set("statistics", Value::Text(read_counts(&known(leaf.rows), &bytes)));
    }
    line.number("splits", leaf.splits.len())
}

/// The last two parts of the paths, each file once; how many more there are when there are many. The folder is shown
/// because it is what tells one table's `part-0.parquet` from another's.
fn file_names<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut paths: Vec<&str> = paths.collect();
    paths.sort_unstable();
    paths.dedup();
    let mut names: Vec<String> = paths.iter().take(FILE_NAMES_MAX).map(|path| tail(path).to_owned()).collect();
    if paths.len() > names.len() {
        names.push(format!("{} more", paths.len() - names.len()));
    }
    names
}

/// `lineitem/part-0.parquet` of a longer path.
fn tail(path: &str) -> &str {
    let mut separators = path.rmatch_indices('/');
    match (separators.next(), separators.next()) {
        (Some(_), Some((folder, _))) => &path[folder + 1..],
        _ => path,
    }
}

fn files(plan: &dyn ExecutionPlan, config: &FileScanConfig) -> Line {
    let source = config.file_source();
    let paths = config.file_groups.iter().flat_map(|group| group.iter()).map(|file| file.path().as_ref());
    let line = Line::new("ReadDataSource").text(source.file_type()).list("files", file_names(paths));
    let mut line = scan_facts(line, plan, config.file_groups.len());
    let known = compute_statistics(plan).unwrap_or_else(|| Arc::new(Statistics::new_unknown(&plan.schema())));
    let bytes = or_about(known.total_byte_size, file_bytes(config));
    line.set("statistics", Value::Text(read_counts(&known.num_rows, &bytes)));
    let line = match source.filter() {
        Some(filter) => line.list("pushed filters", sql_list(split_conjunction(&filter))),
        None => line,
    };
    line.number_if("limit", config.limit)
}

/// What is known, or else about so many bytes of files.
fn or_about(known: Precision<usize>, bytes: u64) -> Precision<usize> {
    if known == Precision::Absent && bytes > 0 { Precision::Inexact(bytes as usize) } else { known }
}

fn generator(plan: &dyn ExecutionPlan) -> Option<Line> {
    let generator = plan.downcast_ref::<GeneratorExec>()?;
    Some(scan(generator.label(), plan, generator.ranges().len()).number_if("limit", plan.fetch()))
}

fn lazy_memory(plan: &dyn ExecutionPlan) -> Option<Line> {
    let exec = plan.downcast_ref::<LazyMemoryExec>()?;
    let names: Vec<String> = exec.generators().iter().map(|generator| generator.read().to_string()).collect();
    Some(scan(&names.join(", "), plan, names.len()))
}

fn streaming_table(plan: &dyn ExecutionPlan) -> Option<Line> {
    let exec = plan.downcast_ref::<StreamingTableExec>()?;
    Some(scan("table", plan, exec.partitions().len()).number_if("limit", exec.limit()))
}

fn scan(kind: &str, plan: &dyn ExecutionPlan, partitions: usize) -> Line {
    scan_facts(Line::new("ReadDataSource").text(kind), plan, partitions)
}

fn scan_facts(line: Line, plan: &dyn ExecutionPlan, partitions: usize) -> Line {
    let line = line.number("partitions", partitions).labelled("scan schema", schema(&plan.schema()));
    line.labelled("statistics", statistics(plan))
}

/// `[number:UInt64]`.
fn schema(schema: &Schema) -> String {
    let fields = schema.fields();
    let mut columns: Vec<String> =
        fields.iter().take(SCHEMA_COLUMNS_MAX).map(|field| format!("{}:{}", field.name(), field.data_type())).collect();
    if fields.len() > columns.len() {
        columns.push(format!("{} more", fields.len() - columns.len()));
    }
    format!("[{}]", columns.join(", "))
}

fn statistics(plan: &dyn ExecutionPlan) -> String {
    match compute_statistics(plan) {
        Some(statistics) => read_counts(&statistics.num_rows, &statistics.total_byte_size),
        None => read_counts(&Precision::Absent, &Precision::Absent),
    }
}

/// Statistics only inform: a plan whose statistics fail still runs, and is shown.
fn compute_statistics(plan: &dyn ExecutionPlan) -> Option<Arc<Statistics>> {
    StatisticsContext::new().compute(plan, &StatisticsArgs::new()).ok()
}

/// `[read_rows: 1000, read_bytes: ~8000]`: `~` for an estimate, `?` for what nobody knows.
fn read_counts(rows: &Precision<usize>, bytes: &Precision<usize>) -> String {
    format!("[read_rows: {}, read_bytes: {}]", precision(rows), precision(bytes))
}

pub(super) fn precision(value: &Precision<usize>) -> String {
    match value {
        Precision::Exact(value) => value.to_string(),
        Precision::Inexact(value) => format!("~{value}"),
        Precision::Absent => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_shown_with_their_folder_and_counted() {
        let paths = ["data/t/b.parquet", "data/t/a.parquet", "data/t/a.parquet", "c", "x/d"];
        assert_eq!(file_names(paths.into_iter()), ["c", "t/a.parquet", "t/b.parquet", "1 more"]);
    }

    #[test]
    fn a_detail_is_replaced_or_added() {
        let mut line = Line::new("ReadDataSource").number("partitions", 1);
        line.set("partitions", Value::Number(3));
        line.set("files", Value::List(vec!["a".into()]));
        assert_eq!(line, Line::new("ReadDataSource").number("partitions", 3).list("files", vec!["a".into()]));
    }
}
