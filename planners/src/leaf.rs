//! Leaves whose work comes with the task, and the making of a task's own plan from a stage's template.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::datasource::listing::{FileRange, PartitionedFile};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions, SendableRecordBatchStream,
    Statistics,
};
use object_store::{ObjectMeta, ObjectStoreExt};
use sheaf_common::{ErrorCode, WireError};

use crate::generator::GeneratorExec;
use crate::stage::{FileSplit, Split, TaskSplits};

/// A leaf of a stage's template: its files or ranges come with each task.
///
/// In: the leaf as DataFusion planned it. Out: the same schema and order, over as many partitions as all tasks have
/// together, so that no rule takes it for the single partition that it is nowhere. Never runs itself.
#[derive(Debug, Clone)]
pub struct LeafSlotExec {
    pub leaf: usize,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl LeafSlotExec {
    /// A slot over `input` that shows `partitions` partitions.
    pub fn new(leaf: usize, input: Arc<dyn ExecutionPlan>, partitions: usize) -> Self {
        let properties =
            PlanProperties::clone(input.properties()).with_partitioning(Partitioning::UnknownPartitioning(partitions));
        Self { leaf, input, properties: Arc::new(properties) }
    }

    pub fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }
}

impl DisplayAs for LeafSlotExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "LeafSlotExec: leaf {}", self.leaf)
    }
}

impl ExecutionPlan for LeafSlotExec {
    fn name(&self) -> &str {
        "LeafSlotExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    crate::one_input!();

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(self.leaf, children.swap_remove(0), self.properties.partitioning.partition_count())))
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("leaf {} was run before it had its splits", self.leaf)
    }

    fn child_stats_requests(&self, _: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(None)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::clone(&inputs[0]))
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(child_pushdown_result))
    }
}

/// Which of how many tasks of its stage a plan runs in: an extension of the `SessionConfig` that a custom leaf reads
/// from its `TaskContext` to take its own share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DistributedTaskContext {
    pub task_index: usize,
    pub task_count: usize,
}

impl DistributedTaskContext {
    /// The context of the task that runs; the only task of one, outside a distributed query.
    pub fn of(context: &TaskContext) -> Self {
        let set = context.session_config().get_extension::<DistributedTaskContext>();
        set.map_or(Self { task_index: 0, task_count: 1 }, |set| *set)
    }
}

/// The scan without its files: the template that goes to the workers once, whatever the number of files.
pub fn strip_splits(leaf: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    match file_scan(leaf) {
        Some((exec, config)) => {
            let statistics = Statistics::new_unknown(config.file_source().table_schema().table_schema());
            let config = FileScanConfigBuilder::from(config.clone())
                .with_file_groups(vec![])
                .with_output_partitioning(None)
                .with_statistics(statistics)
                .build();
            Arc::new(exec.clone().with_data_source(Arc::new(config)))
        }
        None => Arc::clone(leaf),
    }
}

/// The parts of a file scan, if `plan` is one.
pub fn file_scan(plan: &Arc<dyn ExecutionPlan>) -> Option<(&DataSourceExec, &FileScanConfig)> {
    let exec = plan.downcast_ref::<DataSourceExec>()?;
    let config = exec.data_source().downcast_ref::<FileScanConfig>()?;
    Some((exec, config))
}

/// A task's own plan: every slot of the template replaced by its leaf with this task's splits.
///
/// Errs when a slot has no splits or splits of another kind than its leaf: a broken invariant of the coordinator.
pub fn instantiate(plan: Arc<dyn ExecutionPlan>, splits: &[TaskSplits]) -> Result<Arc<dyn ExecutionPlan>> {
    let by_leaf: HashMap<usize, &TaskSplits> = splits.iter().map(|it| (it.leaf, it)).collect();
    let plan = plan.transform_up(|node| {
        let Some(slot) = node.downcast_ref::<LeafSlotExec>() else { return Ok(Transformed::no(node)) };
        let splits = by_leaf
            .get(&slot.leaf)
            .ok_or_else(|| internal_datafusion_err!("a task came without splits for leaf {}", slot.leaf))?;
        Ok(Transformed::yes(fill(slot.input(), &splits.partitions)?))
    })?;
    Ok(plan.data)
}

/// One leaf with its splits, a partition for each element of `partitions`.
fn fill(leaf: &Arc<dyn ExecutionPlan>, partitions: &[Vec<Split>]) -> Result<Arc<dyn ExecutionPlan>> {
    let splits: Vec<&Split> = partitions.iter().flatten().collect();
    match splits.first() {
        None => Ok(Arc::new(EmptyExec::new(leaf.schema()))),
        Some(Split::Whole | Split::Share) => Ok(Arc::clone(leaf)),
        Some(Split::Rows { .. }) => {
            let generator = leaf
                .downcast_ref::<GeneratorExec>()
                .ok_or_else(|| internal_datafusion_err!("a range of rows for {}, not a generator", leaf.name()))?;
            let ranges = partitions
                .iter()
                .map(|splits| {
                    splits
                        .iter()
                        .filter_map(|split| match split {
                            Split::Rows { start, end, .. } => Some((*start, *end)),
                            _ => None,
                        })
                        .collect()
                })
                .collect();
            Ok(Arc::new(generator.with_ranges(ranges)?))
        }
        Some(Split::File(_) | Split::Files(_)) => {
            let (exec, config) =
                file_scan(leaf).ok_or_else(|| internal_datafusion_err!("files for {}, not a scan", leaf.name()))?;
            let groups = partitions
                .iter()
                .map(|splits| {
                    let files = splits.iter().flat_map(files_of).map(partitioned_file).collect();
                    FileGroup::new(files)
                })
                .collect();
            let config = FileScanConfigBuilder::from(config.clone()).with_file_groups(groups).build();
            Ok(Arc::new(exec.clone().with_data_source(Arc::new(config))))
        }
    }
}

/// Files that an error message lists at most.
const FILES_NAMED_MAX: usize = 3;

/// An error from reading a file with the files that `plan` reads, where it names none itself.
pub fn name_files(error: WireError, plan: &Arc<dyn ExecutionPlan>) -> WireError {
    if error.code != ErrorCode::FileUnreadable || error.message.contains('/') {
        return error;
    }
    let mut files: Vec<String> = vec![];
    // The closure never errs.
    let _ = plan.apply(|node| {
        if let Some((_, config)) = file_scan(node) {
            for file in config.file_groups.iter().flat_map(|group| group.iter()) {
                let name = format!("'/{}'", file.object_meta.location);
                if !files.contains(&name) {
                    files.push(name);
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    if files.is_empty() {
        // It was met elsewhere, and named there.
        return error;
    }
    let n_more = files.len().saturating_sub(FILES_NAMED_MAX);
    files.truncate(FILES_NAMED_MAX);
    let more = if n_more > 0 { format!(" and {n_more} more") } else { String::new() };
    WireError { message: format!("cannot read file {}{more}: {}", files.join(" or "), error.message), ..error }
}

fn files_of(split: &Split) -> &[FileSplit] {
    match split {
        Split::File(file) => std::slice::from_ref(file),
        Split::Files(files) => files,
        Split::Rows { .. } | Split::Whole | Split::Share => &[],
    }
}

/// The path as the store spells it: what came from a listing is not escaped a second time.
fn object_path(path: &str) -> object_store::path::Path {
    object_store::path::Path::parse(path).unwrap_or_else(|_| object_store::path::Path::from(path))
}

fn partitioned_file(split: &FileSplit) -> PartitionedFile {
    let meta = ObjectMeta {
        location: object_path(&split.path),
        last_modified: chrono::DateTime::from_timestamp_millis(split.modified_ms).unwrap_or_default(),
        size: split.size,
        e_tag: split.etag.clone(),
        version: None,
    };
    let mut file = PartitionedFile::new_from_meta(meta).with_partition_values(split.partition_values.clone());
    if let Some((start, end)) = split.range {
        file.range = Some(FileRange { start: start as i64, end: end as i64 });
    }
    match &split.logged {
        Some(logged) => logged.clone().attach(file),
        None => file,
    }
}

/// Checks that the files of a task are those that the coordinator planned with.
///
/// Errs with `FileUnreadable` when a file is gone, and with 'file changed' when its size or its time differ.
pub async fn verify_files(
    template: &Arc<dyn ExecutionPlan>,
    splits: &[TaskSplits],
    context: &TaskContext,
) -> Result<(), WireError> {
    let mut stores = HashMap::new();
    let visited = template.apply(|node| {
        if let Some(slot) = node.downcast_ref::<LeafSlotExec>()
            && let Some((_, config)) = file_scan(slot.input())
        {
            stores.insert(slot.leaf, context.runtime_env().object_store(&config.object_store_url)?);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    visited.map_err(|error| crate::error::to_wire(&error))?;
    for leaf in splits {
        let Some(store) = stores.get(&leaf.leaf) else { continue };
        let mut seen = "";
        for file in leaf.partitions.iter().flatten().flat_map(files_of) {
            // What a log lists has its name for itself.
            if seen == file.path || file.logged.is_some() {
                continue;
            }
            seen = &file.path;
            let meta = store.head(&object_path(&file.path)).await.map_err(|error| {
                // A store that gave no answer may give one later.
                let retryable = crate::error::wire_of(&error).retryable;
                let message = format!("file '/{}': {error}", file.path);
                WireError { retryable, ..WireError::new(ErrorCode::FileUnreadable, message) }
            })?;
            // Without a time it is a file that is written once under a name of its own.
            let is_older = file.modified_ms != 0 && meta.last_modified.timestamp_millis() != file.modified_ms;
            if meta.size != file.size || is_older {
                let text = format!("file changed while the query ran: '/{}'", file.path);
                return Err(WireError::new(ErrorCode::FileUnreadable, text));
            }
        }
    }
    Ok(())
}
