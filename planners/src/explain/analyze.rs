//! From the metrics of single tasks to what is shown at an operator and of a stage.

use std::collections::{BTreeMap, HashSet};

use super::{OperatorMetrics, TaskMetrics};

/// One operator over all tasks of its stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OperatorTotals {
    pub tasks: usize,
    pub rows: u64,
    /// Summed, and of the task that spent the most.
    pub elapsed_ns: u64,
    pub elapsed_max_ns: u64,
    pub memory_bytes: u64,
    pub spill_bytes: u64,
    pub read_bytes: BTreeMap<String, u64>,
    pub row_groups_pruned: u64,
    pub row_groups_read: u64,
}

/// What a scan of files was made of before it ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ScannedFiles {
    /// Of the table; none where it does not say.
    pub table: Option<usize>,
    /// Those that filters left, which tasks were made of.
    pub planned: usize,
    /// Of Parquet files.
    pub row_groups: Option<RowGroups>,
}

/// How many row groups the files that are left have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowGroups {
    Known(usize),
    /// Nobody looked into the files before: as many as the tasks met.
    AsMet,
}

impl ScannedFiles {
    /// Of some files, each named as often as there are pieces of it.
    pub fn new<'a>(table: Option<usize>, paths: impl Iterator<Item = &'a str>, row_groups: Option<RowGroups>) -> Self {
        let planned: HashSet<&str> = paths.collect();
        Self { table, planned: planned.len(), row_groups }
    }

    /// Total, pruned and read.
    pub fn files(&self) -> [u64; 3] {
        let total = self.table.unwrap_or(self.planned).max(self.planned);
        [total, total - self.planned, self.planned].map(|it| it as u64)
    }

    /// The same of row groups, where they were counted. A scan that ended early has not met all of them.
    pub fn row_groups(&self, totals: &OperatorTotals) -> Option<[u64; 3]> {
        let (pruned, read) = (totals.row_groups_pruned, totals.row_groups_read);
        let total = match self.row_groups? {
            RowGroups::Known(n) => n as u64,
            RowGroups::AsMet => pruned + read,
        };
        Some([total.max(pruned + read), pruned, read])
    }
}

impl OperatorTotals {
    fn add(&mut self, one: &OperatorMetrics) {
        self.tasks += 1;
        self.rows += one.output_rows;
        self.elapsed_ns += one.elapsed_ns;
        self.elapsed_max_ns = self.elapsed_max_ns.max(one.elapsed_ns);
        self.memory_bytes += one.memory_bytes;
        self.spill_bytes += one.spill_bytes;
        self.row_groups_pruned += one.row_groups_pruned;
        self.row_groups_read += one.row_groups_read;
        add_bytes(&mut self.read_bytes, &one.read_bytes);
    }
}

/// A stage over all its tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StageTotals {
    pub tasks: usize,
    pub output_rows: u64,
    pub output_bytes: u64,
    pub spill_bytes: u64,
    /// Bytes that the stage's tasks read from other tasks, by link.
    pub read_bytes: BTreeMap<String, u64>,
    pub median_ms: u64,
    pub slowest_ms: u64,
    pub slowest_task: u32,
    pub slowest_node: String,
}

impl StageTotals {
    pub(super) fn of(tasks: &[TaskMetrics]) -> Option<Self> {
        let slowest = tasks.iter().max_by_key(|task| task.elapsed_ms)?;
        let mut totals = Self {
            tasks: tasks.len(),
            slowest_ms: slowest.elapsed_ms,
            slowest_task: slowest.task,
            slowest_node: slowest.node.clone(),
            median_ms: median(tasks.iter().map(|task| task.elapsed_ms).collect()),
            ..Self::default()
        };
        for task in tasks {
            totals.output_rows += task.output_rows;
            totals.output_bytes += task.output_bytes;
            totals.spill_bytes += task.spill_bytes;
            for operator in &task.operators {
                totals.spill_bytes += operator.spill_bytes;
                add_bytes(&mut totals.read_bytes, &operator.read_bytes);
            }
        }
        Some(totals)
    }
}

/// The lower of the two in the middle, so that two tasks are not both "slowest" and "median".
fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

fn add_bytes(sum: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (link, bytes) in more {
        *sum.entry(link.clone()).or_default() += bytes;
    }
}

/// What the nodes of a plan are called in the reports of the tasks that ran it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReportName {
    Named(String),
    /// A leaf: what runs is the scan with the task's splits, or nothing at all when it got none.
    Leaf,
}

/// The totals of each node of a plan, given its names in pre-order and the reports of all who ran it.
///
/// A plan that ran may hold nodes that the template lacks (the sink of its output, say): names decide then. A node
/// that is not found in a task's report has no totals of that task.
pub(super) fn totals<'a>(
    names: &[ReportName],
    reports: impl Iterator<Item = &'a [OperatorMetrics]>,
) -> Vec<Option<OperatorTotals>> {
    let mut totals: Vec<Option<OperatorTotals>> = vec![None; names.len()];
    for report in reports {
        for (total, operator) in totals.iter_mut().zip(align(names, report)) {
            if let Some(operator) = operator {
                total.get_or_insert_default().add(operator);
            }
        }
    }
    totals
}

fn align<'a>(names: &[ReportName], report: &'a [OperatorMetrics]) -> Vec<Option<&'a OperatorMetrics>> {
    if names.len() == report.len() {
        return report.iter().map(Some).collect();
    }
    let mut next = 0;
    let find = |name: &ReportName| {
        let found = report[next..].iter().position(|operator| match name {
            ReportName::Named(name) => operator.name == *name,
            ReportName::Leaf => true,
        })?;
        next += found + 1;
        Some(&report[next - 1])
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(name: &str, output_rows: u64) -> OperatorMetrics {
        OperatorMetrics { name: name.into(), output_rows, elapsed_ns: output_rows, ..Default::default() }
    }

    #[test]
    fn operators_are_summed_over_tasks() {
        let names = [ReportName::Named("FilterExec".into()), ReportName::Leaf];
        let tasks = [[operator("FilterExec", 1), operator("A", 10)], [operator("FilterExec", 2), operator("A", 30)]];
        let totals = totals(&names, tasks.iter().map(|task| task.as_slice()));
        let filter = totals[0].as_ref().unwrap();
        assert_eq!((filter.tasks, filter.rows, filter.elapsed_ns, filter.elapsed_max_ns), (2, 3, 3, 2));
        assert_eq!(totals[1].as_ref().unwrap().rows, 40);
    }

    #[test]
    fn nodes_that_only_the_run_has_are_skipped() {
        let names = [ReportName::Named("FilterExec".into()), ReportName::Leaf];
        let report = [operator("SinkExec", 7), operator("FilterExec", 1), operator("EmptyExec", 0)];
        let totals = totals(&names, std::iter::once(report.as_slice()));
        assert_eq!(totals[0].as_ref().unwrap().rows, 1);
        assert_eq!(totals[1].as_ref().unwrap().rows, 0);
    }

    #[test]
    fn files_and_row_groups_are_told_apart() {
        let paths = || ["a", "a", "b"].into_iter();
        let totals = OperatorTotals { row_groups_pruned: 2, row_groups_read: 1, ..Default::default() };
        let scanned = ScannedFiles::new(Some(10), paths(), Some(RowGroups::Known(4)));
        assert_eq!((scanned.files(), scanned.row_groups(&totals)), ([10, 8, 2], Some([4, 2, 1])));
        let scanned = ScannedFiles::new(None, paths(), Some(RowGroups::AsMet));
        assert_eq!((scanned.files(), scanned.row_groups(&totals)), ([2, 0, 2], Some([3, 2, 1])));
        assert_eq!(ScannedFiles::new(None, paths(), None).row_groups(&totals), None);
    }

    #[test]
    fn the_slowest_task_stands_against_the_median() {
        let task = |task, elapsed_ms| TaskMetrics { task, elapsed_ms, node: format!("n{task}"), ..Default::default() };
        let totals = StageTotals::of(&[task(0, 5), task(1, 90), task(2, 7)]).unwrap();
        assert_eq!((totals.median_ms, totals.slowest_ms, totals.slowest_node.as_str()), (7, 90, "n1"));
        assert_eq!(StageTotals::of(&[]), None);
    }
}
