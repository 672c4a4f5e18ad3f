//! EXPLAIN: a distributed plan as lines of text, as JSON and as a Graphviz drawing; after a run, with what it did.
//!
//! One tree is shown, whatever the number of stages: below a network boundary stands the plan of the stage that it
//! reads. After the tree a block says which node runs which tasks. Nothing here plans or runs anything.
//!
//! In: a [`DistributedPlan`], where its tasks are placed, and after a run the metrics of every task.
//! Out: text without control characters, whatever the names and literals of the statement hold.

mod analyze;
mod expressions;
mod graph;
mod json;
mod operators;
mod text;
mod tree;

use std::collections::BTreeMap;

use datafusion::logical_expr::LogicalPlan;
use sheaf_common::StageId;

use crate::reschedule::Placement;
use crate::stage::DistributedPlan;

/// What one operator of one task did, all its partitions together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperatorMetrics {
    /// DataFusion's name of the operator, such as `FilterExec`.
    pub name: String,
    pub output_rows: u64,
    /// Time on a processor, summed over partitions.
    pub elapsed_ns: u64,
    pub memory_bytes: u64,
    pub spill_bytes: u64,
    /// Bytes that it read from other tasks, by link (`local`, `uds`, `tcp`); only a `RemoteExec` reads any.
    pub read_bytes: BTreeMap<String, u64>,
    /// Row groups of Parquet files that statistics, bloom filters or a limit spared it, and those that it read.
    pub row_groups_pruned: u64,
    pub row_groups_read: u64,
}

/// What one task did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskMetrics {
    /// Index within the stage.
    pub task: u32,
    pub node: String,
    pub elapsed_ms: u64,
    /// Rows and bytes that went into its exchange.
    pub output_rows: u64,
    pub output_bytes: u64,
    /// Bytes of them that its exchange wrote to disk.
    pub spill_bytes: u64,
    /// In pre-order of the task's plan.
    pub operators: Vec<OperatorMetrics>,
}

/// What a whole query did, for `EXPLAIN ANALYZE`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnalyzeInput {
    /// By stage, one element a task, in any order.
    pub stages: BTreeMap<StageId, Vec<TaskMetrics>>,
    /// The coordinator's own operators, in pre-order of the plan that it ran.
    pub root: Vec<OperatorMetrics>,
    /// The same for each scalar subquery of the plan, in its order.
    pub subqueries: Vec<Vec<OperatorMetrics>>,
    /// Attempts of all tasks of each stage.
    pub attempts: BTreeMap<StageId, u32>,
    /// How often something was run again after a failure or a loss.
    pub restarts: u32,
    /// Tasks that had a second attempt beside the first, and those of which the second was read.
    pub speculated: u32,
    pub overtaken: u32,
    /// Rows that went to the client, and how long the statement took in all.
    pub output_rows: u64,
    pub elapsed_ms: u64,
    /// What a reader should know of how it came to run like this.
    pub notes: Vec<String>,
}

/// A plan with all that is known of it when it is shown.
#[derive(Debug, Clone, Copy)]
pub struct Explained<'a> {
    pub plan: &'a DistributedPlan,
    /// Where its tasks run, or would run; empty for a plan that is not distributed.
    pub placement: &'a Placement,
    /// The name of the node that took the statement and runs the root.
    pub coordinator: &'a str,
    /// What the query did, once it has run.
    pub analyze: Option<&'a AnalyzeInput>,
}

impl Explained<'_> {
    /// `EXPLAIN` and `EXPLAIN ANALYZE`: one element a line, two spaces per level.
    pub fn text(&self) -> Vec<String> {
        text::render(&tree::build(self))
    }

    /// `EXPLAIN FORMAT=JSON`: one object, indented.
    pub fn json(&self) -> String {
        json::render(&tree::build(self))
    }

    /// `EXPLAIN FORMAT=GRAPH`: a drawing in the language of Graphviz, each stage a cluster.
    pub fn graph(&self) -> String {
        graph::render(&tree::build(self))
    }
}

/// `EXPLAIN LOGICAL`: the optimized logical plan, laid out as [`Explained::text`] is.
pub fn logical(plan: &LogicalPlan) -> Vec<String> {
    text::logical(plan)
}

#[cfg(test)]
mod tests;
