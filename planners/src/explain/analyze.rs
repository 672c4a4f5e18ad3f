//! From the metrics of single tasks to what is shown at an operator and of a stage.

use std::collections::BTreeMap;

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
}

impl OperatorTotals {
    fn add(&mut self, one: &OperatorMetrics) {
        self.tasks += 1;
        self.rows += one.output_rows;
        self.elapsed_ns += one.elapsed_ns;
        self.elapsed_max_ns = self.elapsed_max_ns.max(one.elapsed_ns);
        self.memory_bytes += one.memory_bytes;
        self.spill_bytes += one.spill_bytes;
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
    fn the_slowest_task_stands_against_the_median() {
        let task = |task, elapsed_ms| TaskMetrics { task, elapsed_ms, node: format!("n{task}"), ..Default::default() };
        let totals = StageTotals::of(&[task(0, 5), task(1, 90), task(2, 7)]).unwrap();
        assert_eq!((totals.median_ms, totals.slowest_ms, totals.slowest_node.as_str()), (7, 90, "n1"));
        assert_eq!(StageTotals::of(&[]), None);
    }
}
