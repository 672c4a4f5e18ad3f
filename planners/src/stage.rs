//! What ScatterOptimizer returns: stages, what they read, and how their rows leave them. Plain data.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::physical_planning_context::{ScalarSubqueryResults, SubqueryIndex};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use sheaf_common::StageId;

use crate::data_file::LoggedFile;

/// How the rows of one stage get to the tasks of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BoundaryKind {
    /// N → M by hash: a row goes to the one task that owns its key.
    Shuffle,
    /// Every consumer task reads all rows.
    Broadcast,
    /// N → 1, in any order.
    Gather,
    /// N → 1, each producer's rows in the order that the consumer merges by.
    Merge,
}

impl BoundaryKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Shuffle => "shuffle",
            Self::Broadcast => "broadcast",
            Self::Gather => "gather",
            Self::Merge => "merge",
        }
    }
}

/// How a stage's rows are spread over its output partitions.
#[derive(Debug, Clone)]
pub enum StageOutput {
    /// `partitions` = tasks of the consumer × its partitions per task. Partition `g` belongs to consumer task
    /// `g / partitions_per_task`, as its plan's partition `g % partitions_per_task`.
    Hash { exprs: Vec<Arc<dyn PhysicalExpr>>, partitions: usize },
    /// One partition, read from its start by every consumer task.
    Broadcast,
    /// One partition per task, read by one consumer. A plan of one partition keeps its order.
    Gather,
}

impl StageOutput {
    /// Output partitions of each task.
    pub fn partitions(&self) -> usize {
        match self {
            Self::Hash { partitions, .. } => *partitions,
            Self::Broadcast | Self::Gather => 1,
        }
    }
}

/// A part of one file. Which row groups it means is fixed by the byte range: those that start in `start..end`.
#[derive(Debug, Clone, PartialEq)]
pub struct FileSplit {
    /// Path within the object store of the leaf.
    pub path: String,
    /// Bytes of the whole file when the query was planned.
    pub size: u64,
    /// Modification time when the query was planned, in milliseconds since the epoch; 0 where a name is used once only.
    pub modified_ms: i64,
    pub etag: Option<String>,
    /// First byte of the range. `None`: the whole file, which also serves formats that cannot be cut.
    pub range: Option<(u64, u64)>,
    /// Values of the table's partition columns.
    pub partition_values: Vec<ScalarValue>,
    /// Bytes that reading it costs, for balancing only.
    pub weight: u64,
    /// What the table's log says of the file; of its deleted rows those that lie in `range`.
    pub logged: Option<LoggedFile>,
}

/// The unit of scan work.
#[derive(Debug, Clone, PartialEq)]
pub enum Split {
    File(FileSplit),
    /// Files that stay together and in this order, since the plan relies on their common order.
    Files(Vec<FileSplit>),
    /// Numbers `start..end` of a generator, in the generator's own unit.
    Rows {
        start: u64,
        end: u64,
        weight: u64,
    },
    /// A leaf that cannot be cut: read whole by one task.
    Whole,
    /// A leaf that takes its own share by its `DistributedTaskContext`: given to every task.
    Share,
}

impl Split {
    /// Bytes that reading it costs; an estimate.
    pub fn weight(&self) -> u64 {
        match self {
            Self::File(file) => file.weight,
            Self::Files(files) => files.iter().map(|file| file.weight).sum(),
            Self::Rows { weight, .. } => *weight,
            Self::Whole | Self::Share => 0,
        }
    }

    /// What the placement hashes, so that the same piece of a file goes to the same worker again.
    pub fn affinity(&self) -> String {
        match self {
            Self::File(file) => format!("{}:{}", file.path, file.range.map_or(0, |range| range.0)),
            Self::Files(files) => files.first().map(|file| file.path.clone()).unwrap_or_default(),
            Self::Rows { start, .. } => start.to_string(),
            Self::Whole | Self::Share => String::new(),
        }
    }
}

/// A scan of one stage, with all that its tasks will read together.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Number within the query, from 0; the `LeafSlotExec` of the stage's plan carries the same.
    pub id: usize,
    pub splits: Vec<Split>,
    /// Estimated rows and bytes of the scan, for EXPLAIN; `None` where nothing is known.
    pub rows: Option<usize>,
    pub bytes: Option<usize>,
    /// Files of its table, also those that filters left out, for EXPLAIN ANALYZE.
    pub table_files: Option<usize>,
}

/// One task's share of one leaf, by partition of the task's plan. Never without a partition.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSplits {
    pub leaf: usize,
    pub partitions: Vec<Vec<Split>>,
}

/// A part of a query between network boundaries.
#[derive(Debug, Clone)]
pub struct StagePlan {
    pub stage: StageId,
    /// The template: leaves stand in `LeafSlotExec`, inputs are `NetworkBoundaryExec`.
    pub plan: Arc<dyn ExecutionPlan>,
    pub output: StageOutput,
    pub leaves: Vec<Leaf>,
    /// The stages that this one reads.
    pub inputs: Vec<StageId>,
    pub task_count: usize,
    /// Plan partitions of each task that are fed by a shuffle; scans have at most as many.
    pub partitions_per_task: usize,
    /// Readers of each output partition: the consumer's tasks for a broadcast, else 1.
    pub readers: usize,
    /// Whether every attempt at a task puts the same rows, in any order, into each of its output partitions.
    pub is_determinate: bool,
}

/// An uncorrelated scalar subquery: a plan of its own, run before the plan that uses its value.
#[derive(Debug, Clone)]
pub struct ScalarSubquery {
    /// The subquery, distributed or not. Its own subqueries come before it in the list.
    pub plan: Arc<dyn ExecutionPlan>,
    /// Where the value goes: the container that the expressions of the outer plan read.
    pub results: ScalarSubqueryResults,
    pub index: SubqueryIndex,
}

/// A physical plan, cut.
#[derive(Debug, Clone)]
pub struct DistributedPlan {
    /// Producers before consumers. Empty when the plan is not distributed.
    pub stages: Vec<StagePlan>,
    /// What the coordinator runs: reads the last stages, or is the whole plan when there are none.
    pub root: Arc<dyn ExecutionPlan>,
    /// Run first, in this order, each as stages of its own among `stages`.
    pub subqueries: Vec<ScalarSubquery>,
    /// Why the plan is not distributed; `None` when it is.
    pub reason: Option<String>,
}

impl DistributedPlan {
    /// The plan as one process runs it.
    pub fn local(root: Arc<dyn ExecutionPlan>, reason: impl Into<String>) -> Self {
        Self { stages: vec![], root, subqueries: vec![], reason: Some(reason.into()) }
    }

    pub fn is_distributed(&self) -> bool {
        !self.stages.is_empty()
    }

    pub fn stage(&self, id: StageId) -> Option<&StagePlan> {
        self.stages.iter().find(|stage| stage.stage == id)
    }

    pub fn n_tasks(&self) -> usize {
        self.stages.iter().map(|stage| stage.task_count).sum()
    }

    pub fn schema(&self) -> SchemaRef {
        self.root.schema()
    }
}
