//! Our own nodes, and DataFusion's operators that datafusion-proto lacks or does not carry whole.

use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{JoinType, Result};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::buffer::BufferExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec, SortMergeJoinExec, SymmetricHashJoinExec,
};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::sorts::partial_sort::PartialSortExec;
use datafusion::physical_plan::sorts::partitioned_topk::{PartitionedTopKExec, WindowFnKind};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::work_table::WorkTableExec;
use datafusion_proto::physical_plan::from_proto::parse_protobuf_partitioning;
use datafusion_proto::physical_plan::to_proto::serialize_partitioning;
use sheaf_common::StageId;
use sheaf_planners::boundary::NetworkBoundaryExec;
use sheaf_planners::generator::GeneratorExec;
use sheaf_planners::leaf::LeafSlotExec;
use sheaf_planners::merge_copies::{Keep, MergeCopiesExec};
use sheaf_planners::row_id::RowIdExec;
use sheaf_planners::stage::BoundaryKind;
use sheaf_planners::table_sink::TableSinkExec;

use super::NoExtensions;
use super::decode::{Decoder, columns_from_wire, corrupt, required, schema_from_wire};
use super::encode::{Encoder, columns_to_wire, refuse, schema_to_wire};
use super::tail::debug_tail;
use super::wire::{self, NodeKind};

type Plan = Arc<dyn ExecutionPlan>;

pub(super) fn encode_boundary(to: &Encoder, plan: &Plan) -> Result<Option<NodeKind>> {
    let Some(boundary) = plan.downcast_ref::<NetworkBoundaryExec>() else { return Ok(None) };
    let kind = match boundary.kind {
        BoundaryKind::Shuffle => wire::BoundaryKind::Shuffle,
        BoundaryKind::Broadcast => wire::BoundaryKind::Broadcast,
        BoundaryKind::Gather => wire::BoundaryKind::Gather,
        BoundaryKind::Merge => wire::BoundaryKind::Merge,
    };
    Ok(Some(NodeKind::Boundary(wire::Boundary {
        stage: boundary.stage.0,
        kind: kind as i32,
        producers: boundary.producers as u64,
        schema: Some(schema_to_wire(&boundary.schema())?),
        ordering: boundary.ordering().map(|ordering| to.ordering(ordering)).transpose()?,
        partitioning: Some(serialize_partitioning(boundary.properties().output_partitioning(), &NoExtensions, to)?),
    })))
}

pub(super) fn decode_boundary(from: &Decoder, node: &wire::Boundary) -> Result<Plan> {
    let kind = match wire::BoundaryKind::try_from(node.kind) {
        Ok(wire::BoundaryKind::Shuffle) => BoundaryKind::Shuffle,
        Ok(wire::BoundaryKind::Broadcast) => BoundaryKind::Broadcast,
        Ok(wire::BoundaryKind::Gather) => BoundaryKind::Gather,
        Ok(wire::BoundaryKind::Merge) => BoundaryKind::Merge,
        Err(_) => return corrupt("a boundary of unknown kind"),
    };
    let schema = schema_from_wire(&node.schema)?;
    let ordering = from.ordering(node.ordering.as_ref(), &schema)?;
    let partitioning = parse_protobuf_partitioning(node.partitioning.as_ref(), from.context(), &schema, from)?;
    let partitioning = required(partitioning, "a partitioning")?;
    let producers = node.producers as usize;
    Ok(Arc::new(NetworkBoundaryExec::decoded(StageId(node.stage), kind, producers, schema, ordering, partitioning)))
}

pub(super) fn encode_slot(to: &Encoder, plan: &Plan) -> Result<Option<NodeKind>> {
    let Some(slot) = plan.downcast_ref::<LeafSlotExec>() else { return Ok(None) };
    Ok(Some(NodeKind::Slot(wire::Slot {
        leaf: slot.leaf as u64,
        input: to.plan(slot.input())?,
        partitions: slot.properties().output_partitioning().partition_count() as u64,
    })))
}

pub(super) fn decode_slot(from: &Decoder, node: &wire::Slot) -> Result<Plan> {
    let input = from.plan(node.input)?;
    Ok(Arc::new(LeafSlotExec::new(node.leaf as usize, input, node.partitions as usize)))
}

pub(super) fn encode_generator(_: &Encoder, plan: &Plan) -> Result<Option<NodeKind>> {
    let Some(exec) = plan.downcast_ref::<GeneratorExec>() else { return Ok(None) };
    let Ok(generator) = serde_json::to_string(exec.generator()) else {
        return refuse(exec.label(), "it has no text");
    };
    let bounds = |ranges: &Vec<(u64, u64)>| ranges.iter().flat_map(|(start, end)| [*start, *end]).collect();
    Ok(Some(NodeKind::Generator(wire::Generator {
        generator,
        partitions: exec.ranges().iter().map(|ranges| wire::Ranges { bounds: bounds(ranges) }).collect(),
        projection: columns_to_wire(exec.projection()),
        fetch: exec.fetch().map(|fetch| fetch as u64),
        local: exec.is_local(),
    })))
}

pub(super) fn decode_generator(node: &wire::Generator) -> Result<Plan> {
    let Ok(generator) = serde_json::from_str(&node.generator) else {
        return corrupt("a generator of unknown kind");
    };
    let ranges = |it: &wire::Ranges| it.bounds.chunks_exact(2).map(|bound| (bound[0], bound[1])).collect();
    let partitions = node.partitions.iter().map(ranges).collect();
    let exec = GeneratorExec::try_new(generator, partitions, columns_from_wire(&node.projection))?
        .limited(node.fetch.map(|fetch| fetch as usize));
    Ok(Arc::new(if node.local { exec.local() } else { exec }))
}

pub(super) fn encode_row_id(to: &Encoder, plan: &Plan) -> Result<Option<NodeKind>> {
    let Some(exec) = plan.downcast_ref::<RowIdExec>() else { return Ok(None) };
    Ok(Some(NodeKind::RowId(wire::RowId { input: to.plan(exec.input())? })))
}

pub(super) fn decode_row_id(from: &Decoder, node: &wire::RowId) -> Result<Plan> {
    Ok(Arc::new(RowIdExec::try_new(from.plan(node.input)?)?))
}

pub(super) fn encode_merge_copies(to: &Encoder, plan: &Plan) -> Result<Option<NodeKind>> {
    let Some(exec) = plan.downcast_ref::<MergeCopiesExec>() else { return Ok(None) };
    let (keep, column) = match exec.keep() {
        Keep::FromAny => (wire::Keep::FromAny, None),
        Keep::FromAll => (wire::Keep::FromAll, None),
        Keep::Marked { column } => (wire::Keep::Marked, Some(column as u64)),
    };
    let (input, tasks) = (to.plan(exec.input())?, exec.tasks() as u64);
    Ok(Some(NodeKind::MergeCopies(wire::MergeCopies { input, keep: keep as i32, column, tasks })))
}

pub(super) fn decode_merge_copies(from: &Decoder, node: &wire::MergeCopies) -> Result<Plan> {
    let input = from.plan(node.input)?;
    let keep = match wire::Keep::try_from(node.keep) {
        Ok(wire::Keep::FromAny) => Keep::FromAny,
        Ok(wire::Keep::FromAll) => Keep::FromAll,
        Ok(wire::Keep::Marked) => Keep::Marked { column: required(node.column, "the mark's column")? as usize },
        Err(_) => return corrupt("a merge of copies of unknown kind"),
    };
    Ok(Arc::new(MergeCopiesExec::try_new(input, keep, node.tasks as usize)?))
}

pub(super) fn encode_table_sink(to: &Encoder, plan: &Plan) -> Result<Option<NodeKind>> {
    let Some(sink) = plan.downcast_ref::<TableSinkExec>() else { return Ok(None) };
    let Ok(target) = serde_json::to_string(sink.target()) else {
        return refuse("TableSinkExec", "its target has no text");
    };
    let schema = Some(schema_to_wire(sink.table_schema())?);
    Ok(Some(NodeKind::TableSink(wire::TableSink { input: to.plan(sink.input())?, target, schema })))
}

pub(super) fn decode_table_sink(from: &Decoder, node: &wire::TableSink) -> Result<Plan> {
    let Ok(target) = serde_json::from_str(&node.target) else { return corrupt("a sink without a target") };
    let schema = schema_from_wire(&node.schema)?;
    Ok(Arc::new(TableSinkExec::try_new(from.plan(node.input)?, target, schema)?))
}

/// Upstream cuts the limits to 32 bits.
pub(super) fn encode_limit(to: &Encoder, plan: &Plan) -> Result<Option<NodeKind>> {
    let ordering = |it: &Option<LexOrdering>| it.as_ref().map(|ordering| to.ordering(ordering)).transpose();
    let limit = if let Some(limit) = plan.downcast_ref::<GlobalLimitExec>() {
        wire::Limit {
            input: to.plan(limit.input())?,
            local: false,
            skip: limit.skip() as u64,
            fetch: limit.fetch().map(|fetch| fetch as u64),
            required_ordering: ordering(limit.required_ordering())?,
        }
    } else if let Some(limit) = plan.downcast_ref::<LocalLimitExec>() {
        wire::Limit {
            input: to.plan(limit.input())?,
            local: true,
            skip: 0,
            fetch: Some(limit.fetch() as u64),
            required_ordering: ordering(limit.required_ordering())?,
        }
    } else {
        return Ok(None);
    };
    Ok(Some(NodeKind::Limit(limit)))
}

pub(super) fn decode_limit(from: &Decoder, node: &wire::Limit) -> Result<Plan> {
    let input = from.plan(node.input)?;
    let ordering = from.ordering(node.required_ordering.as_ref(), &input.schema())?;
    let fetch = node.fetch.map(|fetch| fetch as usize);
    if node.local {
        let mut limit = LocalLimitExec::new(input, required(fetch, "a limit")?);
        limit.set_required_ordering(ordering);
        return Ok(Arc::new(limit));
    }
    let mut limit = GlobalLimitExec::new(input, node.skip as usize, fetch);
    limit.set_required_ordering(ordering);
    Ok(Arc::new(limit))
}

pub(super) fn encode_partial_sort(to: &Encoder, plan: &Plan) -> Result<Option<NodeKind>> {
    let Some(sort) = plan.downcast_ref::<PartialSortExec>() else { return Ok(None) };
    Ok(Some(NodeKind::PartialSort(wire::PartialSort {
        input: to.plan(sort.input())?,
        ordering: Some(to.ordering(sort.expr())?),
        common_prefix_length: sort.common_prefix_length() as u64,
        preserve_partitioning: sort.preserve_partitioning(),
        fetch: sort.fetch().map(|fetch| fetch as u64),
    })))
}

pub(super) fn decode_partial_sort(from: &Decoder, node: &wire::PartialSort) -> Result<Plan> {
    let input = from.plan(node.input)?;
    let ordering = required(from.ordering(node.ordering.as_ref(), &input.schema())?, "an ordering")?;
    let sort = PartialSortExec::new(ordering, input, node.common_prefix_length as usize)
        .with_preserve_partitioning(node.preserve_partitioning)
        .with_fetch(node.fetch.map(|fetch| fetch as usize));
    Ok(Arc::new(sort))
}

pub(super) fn encode_partitioned_topk(to: &Encoder, plan: &Plan) -> Result<Option<NodeKind>> {
    let Some(topk) = plan.downcast_ref::<PartitionedTopKExec>() else { return Ok(None) };
    let is_rank = match topk.fn_kind() {
        WindowFnKind::RowNumber => false,
        WindowFnKind::Rank => true,
    };
    Ok(Some(NodeKind::PartitionedTopK(wire::PartitionedTopK {
        input: to.plan(topk.input())?,
        ordering: Some(to.ordering(topk.expr())?),
        partition_prefix_len: topk.partition_prefix_len() as u64,
        fetch: PartitionedTopKExec::fetch(topk) as u64,
        is_rank,
    })))
}

pub(super) fn decode_partitioned_topk(from: &Decoder, node: &wire::PartitionedTopK) -> Result<Plan> {
    let input = from.plan(node.input)?;
    let ordering = required(from.ordering(node.ordering.as_ref(), &input.schema())?, "an ordering")?;
    let kind = if node.is_rank { WindowFnKind::Rank } else { WindowFnKind::RowNumber };
    let (prefix, fetch) = (node.partition_prefix_len as usize, node.fetch as usize);
    Ok(Arc::new(PartitionedTopKExec::try_new(input, ordering, prefix, fetch, kind)?))
}

pub(super) fn encode_piecewise_merge_join(to: &Encoder, plan: &Plan) -> Result<Option<NodeKind>> {
    let Some(join) = plan.downcast_ref::<PiecewiseMergeJoinExec>() else { return Ok(None) };
    // The number of partitions that the join counts down has no getter; it is the last field that `Debug` prints.
    let tail = debug_tail(join);
    let counted = tail.rsplit_once("num_partitions: ").and_then(|(_, rest)| rest.strip_suffix(" }"));
    let Some(num_partitions) = counted.and_then(|digits| digits.parse().ok()) else {
        return refuse(plan.name(), "its number of partitions is not known");
    };
    Ok(Some(NodeKind::PiecewiseMergeJoin(wire::PiecewiseMergeJoin {
        buffered: to.plan(join.buffered())?,
        streamed: to.plan(join.streamed())?,
        on_buffered: to.expr(&join.on.0)?,
        on_streamed: to.expr(&join.on.1)?,
        operator: format!("{:?}", join.operator),
        join_type: join.join_type().to_string(),
        num_partitions,
    })))
}

pub(super) fn decode_piecewise_merge_join(from: &Decoder, node: &wire::PiecewiseMergeJoin) -> Result<Plan> {
    let buffered = from.plan(node.buffered)?;
    let streamed = from.plan(node.streamed)?;
    let on = (from.expr(node.on_buffered, &buffered.schema())?, from.expr(node.on_streamed, &streamed.schema())?);
    let operator = required(Operator::from_proto_name(&node.operator), "a known operator")?;
    let join_type = JoinType::from_str(&node.join_type)?;
    let num_partitions = node.num_partitions as usize;
    Ok(Arc::new(PiecewiseMergeJoinExec::try_new(buffered, streamed, on, operator, join_type, num_partitions)?))
}

pub(super) fn encode_recursive_query(to: &Encoder, plan: &Plan) -> Result<Option<NodeKind>> {
    let Some(query) = plan.downcast_ref::<RecursiveQueryExec>() else { return Ok(None) };
    Ok(Some(NodeKind::RecursiveQuery(wire::RecursiveQuery {
        name: query.name().to_owned(),
        schema: Some(schema_to_wire(&query.schema())?),
        static_term: to.plan(query.static_term())?,
        recursive_term: to.plan(query.recursive_term())?,
        is_distinct: query.is_distinct(),
    })))
}

pub(super) fn decode_recursive_query(from: &Decoder, node: &wire::RecursiveQuery) -> Result<Plan> {
    let schema = schema_from_wire(&node.schema)?;
    let static_term = from.plan(node.static_term)?;
    let recursive_term = from.plan(node.recursive_term)?;
    let query = RecursiveQueryExec::try_new(node.name.clone(), schema, static_term, recursive_term, node.is_distinct)?;
    Ok(Arc::new(query))
}

/// The projection has no getter; `Debug` prints it after the name and the schema, which are known.
pub(super) fn encode_work_table(_: &Encoder, plan: &Plan) -> Result<Option<NodeKind>> {
    let Some(table) = plan.downcast_ref::<WorkTableExec>() else { return Ok(None) };
    let (name, schema) = (table.name(), table.schema());
    let text = format!("{table:?}");
    let begin = format!("WorkTableExec {{ name: {name:?}, schema: {schema:?}, projection: ");
    let Some(projection) = text.strip_prefix(&begin).and_then(parse_projection) else {
        return refuse("WorkTableExec", "its projection is not known");
    };
    Ok(Some(NodeKind::WorkTable(wire::WorkTable {
        name: name.to_owned(),
        schema: Some(schema_to_wire(&schema)?),
        projection: columns_to_wire(projection.as_deref()),
    })))
}

/// `None, …` or `Some([0, 2]), …`.
fn parse_projection(text: &str) -> Option<Option<Vec<usize>>> {
    if text.starts_with("None,") {
        return Some(None);
    }
    let (list, _) = text.strip_prefix("Some([")?.split_once("]),")?;
    let columns = list.split(", ").filter(|column| !column.is_empty()).map(|column| column.parse().ok());
    columns.collect::<Option<Vec<usize>>>().map(Some)
}

pub(super) fn decode_work_table(node: &wire::WorkTable) -> Result<Plan> {
    let projected = schema_from_wire(&node.schema)?;
    let Some(columns) = columns_from_wire(&node.projection) else {
        return Ok(Arc::new(WorkTableExec::new(node.name.clone(), projected, None)?));
    };
    // The schema is only there to be projected: columns that are not read may be anything.
    let width = columns.iter().max().map_or(0, |last| last + 1);
    let unread = Arc::new(Field::new("unread", DataType::Null, true));
    let mut fields: Vec<_> = std::iter::repeat_n(unread, width).collect();
    for (column, field) in columns.iter().zip(projected.fields()) {
        fields[*column] = Arc::clone(field);
    }
    let whole = Arc::new(Schema::new_with_metadata(fields, projected.metadata().clone()));
    Ok(Arc::new(WorkTableExec::new(node.name.clone(), whole, Some(columns))?))
}

/// Metadata that the plan's schema has and its expressions do not say is lost upstream.
pub(super) fn encode_projection(to: &Encoder, plan: &Plan) -> Result<Option<NodeKind>> {
    let Some(projection) = plan.downcast_ref::<ProjectionExec>() else { return Ok(None) };
    let schema = projection.schema();
    if schema.metadata().is_empty() && schema.fields().iter().all(|field| field.metadata().is_empty()) {
        return Ok(None);
    }
    Ok(Some(NodeKind::Projection(wire::Projection {
        input: to.plan(projection.input())?,
        exprs: to.exprs(projection.expr().iter().map(|it| &it.expr))?,
        aliases: projection.expr().iter().map(|it| it.alias.clone()).collect(),
        schema: Some(schema_to_wire(&schema)?),
    })))
}

pub(super) fn decode_projection(from: &Decoder, node: &wire::Projection) -> Result<Plan> {
    let input = from.plan(node.input)?;
    let exprs = from.exprs(&node.exprs, &input.schema())?;
    let exprs = exprs.into_iter().zip(&node.aliases).map(|(expr, alias)| ProjectionExpr::new(expr, alias.clone()));
    let schema = schema_from_wire(&node.schema)?;
    Ok(Arc::new(ProjectionExec::try_new_with_schema_metadata(exprs, input, &schema)?))
}

/// What datafusion-proto carries whole, or whole but for a limit, and a clear word for the rest.
pub(super) fn encode_upstream(to: &Encoder, plan: &Plan) -> Result<Option<NodeKind>> {
    if plan.is::<ScalarSubqueryExec>() {
        return refuse("ScalarSubqueryExec", "subqueries run before the plan is sent");
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>()
        && aggregate.group_expr().has_grouping_set()
        && aggregate.group_expr().expr().is_empty()
    {
        return refuse("AggregateExec", "it has grouping sets without columns");
    }
    if !is_known(plan) {
        return Ok(None);
    }
    // These have 32 bits for it upstream.
    let has_short_fetch = plan.is::<FilterExec>() || plan.is::<CoalescePartitionsExec>();
    let fetch = plan.fetch().filter(|fetch| has_short_fetch && u32::try_from(*fetch).is_err());
    let node = to.upstream(plan)?;
    Ok(Some(NodeKind::Upstream(wire::Upstream { node: Some(Box::new(node)), fetch: fetch.map(|fetch| fetch as u64) })))
}

fn is_known(plan: &Plan) -> bool {
    plan.is::<AggregateExec>()
        || plan.is::<BufferExec>()
        || plan.is::<CoalescePartitionsExec>()
        || plan.is::<CooperativeExec>()
        || plan.is::<CrossJoinExec>()
        || plan.is::<EmptyExec>()
        || plan.is::<FilterExec>()
        || plan.is::<HashJoinExec>()
        || plan.is::<InterleaveExec>()
        || plan.is::<NestedLoopJoinExec>()
        || plan.is::<PlaceholderRowExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<RepartitionExec>()
        || plan.is::<SortExec>()
        || plan.is::<SortMergeJoinExec>()
        || plan.is::<SortPreservingMergeExec>()
        || plan.is::<SymmetricHashJoinExec>()
        || plan.is::<UnionExec>()
        || plan.is::<UnnestExec>()
}

pub(super) fn decode_upstream(from: &Decoder, node: &wire::Upstream) -> Result<Plan> {
    let plan = from.upstream(node.node.as_deref())?;
    match node.fetch {
        Some(fetch) => required(plan.with_fetch(Some(fetch as usize)), "an operator with a limit"),
        None => Ok(plan),
    }
}
