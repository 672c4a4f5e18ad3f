//! What a plan needs of memory at the least: enough to begin with, since what is more goes to disk.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec, SymmetricHashJoinExec,
};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::windows::WindowAggExec;
use datafusion::physical_plan::{ExecutionPlan, InputOrderMode};

/// Bytes without which a partition of an operator that holds rows cannot even spill: DataFusion's sort sets so much
/// aside for merging its runs.
const OPERATOR_BYTES: u64 = 10 << 20;

/// Whether an operator gathers rows, rather than letting them through.
fn gathers(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        // Of a top-k only the k are kept.
        return sort.fetch().is_none();
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        let is_grouped = !aggregate.group_expr().is_empty();
        return is_grouped && !matches!(aggregate.input_order_mode(), InputOrderMode::Sorted);
    }
    plan.is::<HashJoinExec>()
        || plan.is::<CrossJoinExec>()
        || plan.is::<NestedLoopJoinExec>()
        || plan.is::<SortMergeJoinExec>()
        || plan.is::<SymmetricHashJoinExec>()
        || plan.is::<WindowAggExec>()
}

/// Operators of a plan that gather rows, each of which does so in every partition that runs at a time.
pub fn gathering_operators(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let mut n_operators = 0;
    // The closure never errs.
    let _ = plan.apply(|node| {
        n_operators += u64::from(gathers(node));
        Ok(TreeNodeRecursion::Continue)
    });
    n_operators
}

/// Bytes that a plan needs at the least when so many of its partitions run at a time.
pub fn least_memory(plan: &Arc<dyn ExecutionPlan>, partitions: usize) -> u64 {
    gathering_operators(plan).saturating_mul(partitions as u64).saturating_mul(OPERATOR_BYTES)
}

/// Whether a plan has a join that holds one of its inputs and cannot spill it.
pub fn has_hash_join(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.exists(|node| Ok(node.is::<HashJoinExec>())).unwrap_or(false)
}
