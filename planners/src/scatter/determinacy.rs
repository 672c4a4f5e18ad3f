//! Whether another attempt at a task puts out the same rows.
//!
//! A stage is determinate when every attempt at a task puts the same multiset of rows into each of its output
//! partitions, in whatever order. Then a consumer may begin again on another attempt while its siblings keep what they
//! read from the first. What is not named here as determinate is not: never wrong, at worst more is run again.
//!
//! Partial states of an aggregation count as the same when they merge into the same: how rows were spread over the
//! partitions within a task shows in them, and in nothing that is made of them.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::logical_expr::WindowFrameUnits;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, StandardWindowExpr, WindowExpr,
};
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec, WindowUDFExpr};

use super::PlanRef;
use crate::boundary::NetworkBoundaryExec;
use crate::leaf::LeafSlotExec;
use crate::stage::{StageOutput, StagePlan};

/// Nodes that put out the same rows whenever they get the same, in whatever order; their expressions and a limit that
/// they hold are looked at apart.
const NODES: [&str; 23] = [
    "BufferExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "CrossJoinExec",
    "DataSourceExec",
    "EmptyExec",
    "FilterExec",
    "GeneratorExec",
    "HashJoinExec",
    "InterleaveExec",
    "NestedLoopJoinExec",
    "PartialSortExec",
    "PiecewiseMergeJoinExec",
    "PlaceholderRowExec",
    "ProjectionExec",
    "SortExec",
    "SortExec(TopK)",
    "SortMergeJoinExec",
    "SortPreservingMergeExec",
    "SymmetricHashJoinExec",
    "UnionExec",
    "UnnestExec",
];

/// Aggregates whose result does not depend on the order of their input. Sums and averages of floats do, in their last
/// bits, and so do all others that are made of such sums (`stddev`, `corr` and so on), which are left out: a
/// filter, a join or an exchange above decides by such a bit where a row goes.
const AGGREGATES: [&str; 14] = [
    "approx_distinct",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "count",
    "grouping",
    "max",
    "median",
    "min",
    "percentile_cont",
    "sum",
];

/// Window functions that give rows with equal keys the same value.
const TIE_FUNCTIONS: [&str; 4] = ["cume_dist", "dense_rank", "percent_rank", "rank"];

/// Whether a stage of this plan and output is determinate; `stages` holds the stages that it reads.
pub(super) fn is_determinate(plan: &PlanRef, output: &StageOutput, stages: &[StagePlan]) -> Result<bool> {
    if matches!(output, StageOutput::Hash { exprs, .. } if exprs.iter().any(is_volatile)) {
        return Ok(false);
    }
    // `exists` stops at the first node that is not.
    Ok(!plan.exists(|node| Ok(!is_determinate_node(node, stages)?))?)
}

fn is_determinate_node(node: &PlanRef, stages: &[StagePlan]) -> Result<bool> {
    if let Some(boundary) = node.downcast_ref::<NetworkBoundaryExec>() {
        let input = stages.iter().find(|it| it.stage == boundary.stage);
        let input = input.ok_or_else(|| internal_datafusion_err!("stage {} is read and not there", boundary.stage))?;
        return Ok(input.is_determinate);
    }
    if has_volatile(node)? || (node.fetch().is_some() && !keeps_the_same(node)) {
        return Ok(false);
    }
    if let Some(slot) = node.downcast_ref::<LeafSlotExec>() {
        return is_determinate_node(slot.input(), stages);
    }
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        // Under a limit it stops among its groups.
        return Ok(aggregate.limit_options().is_none() && aggregate.aggr_expr().iter().all(|it| is_exact(it)));
    }
    if let Some(repartition) = node.downcast_ref::<RepartitionExec>() {
        return Ok(matches!(repartition.partitioning(), Partitioning::Hash(..)));
    }
    if let Some(window) = node.downcast_ref::<WindowAggExec>() {
        return Ok(window.window_expr().iter().all(|it| is_determinate_window(it, &window.input().schema())));
    }
    if let Some(window) = node.downcast_ref::<BoundedWindowAggExec>() {
        return Ok(window.window_expr().iter().all(|it| is_determinate_window(it, &window.input().schema())));
    }
    Ok(NODES.contains(&node.name()))
}

fn has_volatile(node: &PlanRef) -> Result<bool> {
    let mut found = false;
    node.apply_expressions(&mut |expr| {
        found |= is_volatile(expr);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Whether the first n rows are the same n rows each time: where rows that compare equal are equal.
fn keeps_the_same(node: &PlanRef) -> bool {
    let ordering = match (node.downcast_ref::<SortExec>(), node.downcast_ref::<SortPreservingMergeExec>()) {
        (Some(sort), _) => sort.expr(),
        (_, Some(merge)) => merge.expr(),
        (None, None) => return false,
    };
    covers(ordering.iter().map(|it| &it.expr), &node.schema())
}

/// Whether the keys name every column.
fn covers<'a>(keys: impl Iterator<Item = &'a Arc<dyn PhysicalExpr>>, schema: &SchemaRef) -> bool {
    let mut named = vec![false; schema.fields().len()];
    for column in keys.filter_map(|key| key.downcast_ref::<Column>()) {
        if let Some(it) = named.get_mut(column.index()) {
            *it = true;
        }
    }
    named.into_iter().all(|it| it)
}

fn is_determinate_window(expr: &Arc<dyn WindowExpr>, input: &SchemaRef) -> bool {
    let order = expr.order_by().iter().map(|it| &it.expr);
    if covers(expr.partition_by().iter().chain(order), input) {
        return true;
    }
    let any = expr.as_any();
    let aggregate = match (
        any.downcast_ref::<PlainAggregateWindowExpr>(),
        any.downcast_ref::<SlidingAggregateWindowExpr>(),
        any.downcast_ref::<StandardWindowExpr>(),
    ) {
        (Some(plain), _, _) => plain.get_aggregate_expr(),
        (_, Some(sliding), _) => sliding.get_aggregate_expr(),
        (_, _, Some(standard)) => {
            let function = standard.get_standard_func_expr().as_any().downcast_ref::<WindowUDFExpr>();
            return function.is_some_and(|it| TIE_FUNCTIONS.contains(&it.fun().name()));
        }
        (None, None, None) => return false,
    };
    // A frame of rows ends among rows with equal keys, one of a range takes all of them in.
    let frame = expr.get_window_frame();
    let is_whole = frame.start_bound.is_unbounded() && frame.end_bound.is_unbounded();
    is_exact(aggregate) && (is_whole || frame.units != WindowFrameUnits::Rows)
}

/// Whether the result is the same in whatever order the rows come.
fn is_exact(aggregate: &AggregateFunctionExpr) -> bool {
    let name = aggregate.fun().name();
    let is_float_sum = matches!(name, "sum" | "avg") && aggregate.field().data_type().is_floating();
    AGGREGATES.contains(&name) && !is_float_sum
}
