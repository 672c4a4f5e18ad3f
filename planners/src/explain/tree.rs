//! The one tree that all three formats show: stages joined at their boundaries, operators with their metrics.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use datafusion::common::stats::Precision;
use datafusion::datasource::physical_plan::{FileScanConfig, ParquetSource};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{ExecutionPlan, Statistics};
use sheaf_common::StageId;

use super::analyze::{OperatorTotals, ReportName, RowGroups, ScannedFiles, StageTotals, totals};
use super::expressions::{on_growing_stack, sort_keys, sql_list};
use super::operators::{Line, folded_limit, is_housekeeping, line, staged_scan};
use super::{AnalyzeInput, Explained, OperatorMetrics};
use crate::boundary::NetworkBoundaryExec;
use crate::data_file::TableFiles;
use crate::leaf::{LeafSlotExec, file_scan};
use crate::reschedule::Placement;
use crate::stage::{DistributedPlan, Leaf, Split, StageOutput, StagePlan};

/// What stands in a task's plan where its template has a network boundary.
const REMOTE: &str = "RemoteExec";

/// All that is shown.
#[derive(Debug)]
pub(super) struct Tree {
    pub root: Node,
    /// Scalar subqueries, in the order in which they run.
    pub subqueries: Vec<Node>,
    pub stages: Vec<Stage>,
    pub coordinator: String,
    /// Why the plan is not distributed.
    pub reason: Option<String>,
    pub finished: Option<Finished>,
    /// Lines of their own.
    pub notes: Vec<String>,
}

/// A query that has run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finished {
    pub output_rows: u64,
    pub elapsed_ms: u64,
    pub restarts: u32,
    pub speculated: u32,
    pub overtaken: u32,
}

#[derive(Debug)]
pub(super) struct Node {
    pub line: Line,
    /// Where it runs; `None` on the coordinator.
    pub stage: Option<StageId>,
    /// Rows over all tasks, as they were estimated before the run.
    pub estimated_rows: Precision<usize>,
    pub actual: Option<OperatorTotals>,
    /// What it reads, of a scan of files.
    pub scanned: Option<ScannedFiles>,
    pub children: Vec<Node>,
}

#[derive(Debug)]
pub(super) struct Stage {
    pub stage: StageId,
    pub tasks: usize,
    pub partitions_per_task: usize,
    /// Indexes of tasks by the name of their node.
    pub nodes: BTreeMap<String, Vec<usize>>,
    pub actual: Option<StageTotals>,
    /// Of all its tasks; 0 before it has run.
    pub attempts: usize,
}

pub(super) fn build(explained: &Explained<'_>) -> Tree {
    let Explained { plan, placement, coordinator, analyze } = *explained;
    let mut shown = HashSet::new();
    let mut walk = |root: &Arc<dyn ExecutionPlan>, report: Option<&Vec<OperatorMetrics>>| {
        let totals = report.map_or_else(Vec::new, |it| totals(&report_names(root), std::iter::once(it.as_slice())));
        Walk { plan, placement, analyze, stage: None, totals, next: 0, shown: &mut shown }.node(root).0
    };
    let subquery_reports = analyze.map(|it| it.subqueries.as_slice()).unwrap_or_default();
    let subqueries = plan.subqueries.iter().enumerate().map(|(idx, it)| walk(&it.plan, subquery_reports.get(idx)));
    let subqueries = subqueries.collect();
    let root = walk(&plan.root, analyze.map(|it| &it.root));
    Tree {
        root,
        subqueries,
        stages: plan.stages.iter().map(|it| stage(it, placement, analyze)).collect(),
        coordinator: coordinator.to_owned(),
        reason: plan.reason.clone().filter(|_| !plan.is_distributed()),
        finished: analyze.map(|it| Finished {
            output_rows: it.output_rows,
            elapsed_ms: it.elapsed_ms,
            restarts: it.restarts,
            speculated: it.speculated,
            overtaken: it.overtaken,
        }),
        notes: analyze.map_or_else(Vec::new, |it| it.notes.clone()),
    }
}

fn stage(plan: &StagePlan, placement: &Placement, analyze: Option<&AnalyzeInput>) -> Stage {
    let mut nodes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for placed in placement.stages.get(&plan.stage).into_iter().flatten() {
        nodes.entry(placed.worker.name.clone()).or_default().push(placed.task);
    }
    let tasks = analyze.and_then(|it| it.stages.get(&plan.stage));
    Stage {
        stage: plan.stage,
        tasks: plan.task_count,
        partitions_per_task: plan.partitions_per_task,
        nodes,
        actual: tasks.and_then(|tasks| StageTotals::of(tasks)),
        attempts: analyze.and_then(|it| it.attempts.get(&plan.stage)).map_or(0, |it| *it as usize),
    }
}

/// The names, in pre-order, under which the nodes of a template come back in a task's report.
fn report_names(plan: &Arc<dyn ExecutionPlan>) -> Vec<ReportName> {
    let mut names = vec![];
    let mut pending = vec![plan];
    while let Some(plan) = pending.pop() {
        if plan.is::<LeafSlotExec>() {
            names.push(ReportName::Leaf);
            continue;
        }
        let name = if plan.is::<NetworkBoundaryExec>() { REMOTE } else { plan.name() };
        names.push(ReportName::Named(name.to_owned()));
        pending.extend(plan.children().into_iter().rev());
    }
    names
}

/// One walk through the plan of one stage, or of the root; other stages are entered at their boundaries.
struct Walk<'a, 'b> {
    plan: &'a DistributedPlan,
    placement: &'a Placement,
    analyze: Option<&'a AnalyzeInput>,
    stage: Option<&'a StagePlan>,
    /// Of the nodes of this stage, in pre-order; `next` is the one that is entered next.
    totals: Vec<Option<OperatorTotals>>,
    next: usize,
    shown: &'b mut HashSet<StageId>,
}

impl<'a> Walk<'a, '_> {
    fn node(&mut self, plan: &Arc<dyn ExecutionPlan>) -> (Node, Arc<Statistics>) {
        on_growing_stack(|| {
            if let Some(slot) = plan.downcast_ref::<LeafSlotExec>() {
                self.scan(slot)
            } else if let Some(boundary) = plan.downcast_ref::<NetworkBoundaryExec>() {
                self.boundary(boundary)
            } else {
                self.operator(plan)
            }
        })
    }

    fn take_totals(&mut self) -> Option<OperatorTotals> {
        self.next += 1;
        self.totals.get_mut(self.next - 1).and_then(Option::take)
    }

    fn finish(
        &self,
        line: Line,
        actual: Option<OperatorTotals>,
        statistics: Arc<Statistics>,
        children: Vec<Node>,
    ) -> (Node, Arc<Statistics>) {
        let stage = self.stage.map(|it| it.stage);
        (Node { line, stage, estimated_rows: statistics.num_rows, actual, scanned: None, children }, statistics)
    }

    fn operator(&mut self, plan: &Arc<dyn ExecutionPlan>) -> (Node, Arc<Statistics>) {
        let actual = self.take_totals();
        let (mut children, inputs): (Vec<_>, Vec<_>) = plan.children().into_iter().map(|it| self.node(it)).unzip();
        let statistics = statistics(plan.as_ref(), &inputs);
        if is_housekeeping(plan.as_ref()) && children.len() == 1 {
            return (children.remove(0), statistics);
        }
        let (mut node, statistics) = self.finish(line(plan), actual, statistics, children);
        node.scanned = scanned_here(plan);
        match folded_limit(plan.as_ref()) {
            // One operator on two lines: what it did stands at the second.
            Some(limit) => self.finish(limit, None, statistics, vec![node]),
            None => (node, statistics),
        }
    }

    fn scan(&mut self, slot: &LeafSlotExec) -> (Node, Arc<Statistics>) {
        let actual = self.take_totals();
        let leaf = self.stage.and_then(|stage| stage.leaves.iter().find(|leaf| leaf.id == slot.leaf));
        let mut statistics = statistics(slot.input().as_ref(), &[]);
        if let (Precision::Absent, Some(rows)) = (&statistics.num_rows, leaf.and_then(|leaf| leaf.rows)) {
            Arc::make_mut(&mut statistics).num_rows = Precision::Inexact(rows);
        }
        let line = staged_scan(slot, leaf, self.scanned_partitions(slot.leaf));
        let (mut node, statistics) = self.finish(line, actual, statistics, vec![]);
        node.scanned = leaf.and_then(|leaf| scanned_by_tasks(slot, leaf));
        (node, statistics)
    }

    /// Partitions that the tasks of this stage read a leaf in, all together.
    fn scanned_partitions(&self, leaf: usize) -> usize {
        let tasks = self.stage.and_then(|stage| self.placement.stages.get(&stage.stage));
        let shares = tasks.into_iter().flatten().flat_map(|task| &task.splits);
        shares.filter(|share| share.leaf == leaf).map(|share| share.partitions.len()).sum()
    }

    fn boundary(&mut self, boundary: &NetworkBoundaryExec) -> (Node, Arc<Statistics>) {
        let actual = self.take_totals();
        let producer = self.plan.stage(boundary.stage);
        let consumers = self.stage.map_or(1, |stage| stage.task_count);
        let line = boundary_line(boundary, producer, consumers);
        let unknown = || Arc::new(Statistics::new_unknown(&boundary.schema()));
        // A stage is shown once: a second reader names it only.
        let (children, statistics) = match producer.filter(|it| self.shown.insert(it.stage)) {
            Some(producer) => {
                let (node, statistics) = self.enter(producer);
                (vec![node], statistics)
            }
            None => (vec![], unknown()),
        };
        self.finish(line, actual, statistics, children)
    }

    fn enter(&mut self, producer: &'a StagePlan) -> (Node, Arc<Statistics>) {
        let reports = self.analyze.and_then(|it| it.stages.get(&producer.stage)).map(Vec::as_slice).unwrap_or_default();
        let totals = totals(&report_names(&producer.plan), reports.iter().map(|task| task.operators.as_slice()));
        let (plan, placement, analyze) = (self.plan, self.placement, self.analyze);
        let stage = Some(producer);
        Walk { plan, placement, analyze, stage, totals, next: 0, shown: self.shown }.node(&producer.plan)
    }
}

/// The files of a scan that the coordinator runs itself.
fn scanned_here(plan: &Arc<dyn ExecutionPlan>) -> Option<ScannedFiles> {
    let (_, config) = file_scan(plan)?;
    let paths = config.file_groups.iter().flat_map(|group| group.iter()).map(|file| file.path().as_ref());
    Some(ScannedFiles::new(TableFiles::of_scan(config), paths, is_parquet(config).then_some(RowGroups::AsMet)))
}

/// The files of a stage's scan, from the splits of its tasks.
fn scanned_by_tasks(slot: &LeafSlotExec, leaf: &Leaf) -> Option<ScannedFiles> {
    let (_, config) = file_scan(slot.input())?;
    let files = || {
        leaf.splits.iter().flat_map(|split| match split {
            Split::File(file) => std::slice::from_ref(file),
            Split::Files(files) => files.as_slice(),
            Split::Rows { .. } | Split::Whole | Split::Share => &[],
        })
    };
    // A split of a part of a Parquet file is one of its row groups.
    let is_row_group = |split: &Split| matches!(split, Split::File(file) if file.range.is_some());
    let row_groups = match leaf.splits.iter().all(is_row_group) {
        true => RowGroups::Known(leaf.splits.len()),
        false => RowGroups::AsMet,
    };
    let paths = files().map(|file| file.path.as_str());
    Some(ScannedFiles::new(leaf.table_files, paths, is_parquet(config).then_some(row_groups)))
}

fn is_parquet(config: &FileScanConfig) -> bool {
    config.file_source().is::<ParquetSource>()
}

/// DataFusion's estimate for a node from those of its inputs; what a boundary reads counts as its input.
fn statistics(plan: &dyn ExecutionPlan, inputs: &[Arc<Statistics>]) -> Arc<Statistics> {
    plan.statistics_from_inputs(inputs, &StatisticsArgs::new())
        .unwrap_or_else(|_| Arc::new(Statistics::new_unknown(&plan.schema())))
}

fn boundary_line(boundary: &NetworkBoundaryExec, producer: Option<&StagePlan>, consumers: usize) -> Line {
    let line = Line::new("NetworkBoundary").text(boundary.kind.name());
    let line = match producer.map(|it| &it.output) {
        Some(StageOutput::Hash { exprs, .. }) => line.list("hash", sql_list(exprs)),
        _ => line,
    };
    let line = match boundary.ordering() {
        Some(ordering) => line.list("order", sort_keys(ordering)),
        None => line,
    };
    let producers = producer.map_or(boundary.producers, |it| it.task_count);
    line.number("stage", boundary.stage.0 as usize).labelled("tasks", format!("{producers}→{consumers}"))
}
