//! What a finished task tells: what each of its operators did, and what it sent. The stuff of EXPLAIN ANALYZE.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::physical_plan::metrics::MetricValue;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use serde::{Deserialize, Serialize};

/// One operator of one task, all its partitions together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OperatorReport {
    /// DataFusion's name of the operator, such as `FilterExec`.
    pub name: String,
    /// Steps from the root of the task's plan, which has 0.
    pub depth: u32,
    pub partitions: u32,
    pub output_rows: u64,
    pub elapsed_compute_ns: u64,
    pub spilled_bytes: u64,
    /// The largest amount of memory that it says to have held.
    pub memory_bytes: u64,
    /// Every other number that the operator counts, by its name: times in nanoseconds, bytes, rows.
    pub counters: BTreeMap<String, u64>,
}

/// One task, once it is over.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskReport {
    /// In pre-order of the task's plan.
    pub operators: Vec<OperatorReport>,
    /// Rows that went into the exchange.
    pub output_rows: u64,
    /// Bytes that went into the exchange.
    pub output_bytes: u64,
    /// Bytes that the exchange wrote to disk until the task ended.
    pub spilled_bytes: u64,
    /// The most bytes of output that were held at one time.
    pub buffered_bytes_max: u64,
    /// Bytes read from other tasks, by link.
    pub input_bytes: BTreeMap<String, u64>,
    pub elapsed_ms: u64,
    /// Rows whose quotient became NULL: warnings of the statement.
    pub divisions_by_zero: u64,
    /// Values that a conversion did not take whole, and what is said of the first ones: warnings too.
    pub truncated: u64,
    pub truncated_texts: Vec<String>,
}

/// The names of `RemoteExec`'s byte counters start with this; the link follows.
pub(crate) const BYTES_BY_LINK: &str = "bytes_";

/// What the counters of one of DataFusion's counts of pruning are called behind its name.
const PRUNED: &str = ".pruned";
const MATCHED: &str = ".matched";

/// The operators of a plan that has run, in pre-order.
pub fn operators(plan: &Arc<dyn ExecutionPlan>) -> Vec<OperatorReport> {
    let mut reports = Vec::new();
    // An explicit stack: a plan may be deeper than the thread's.
    let mut stack = vec![(plan, 0)];
    while let Some((plan, depth)) = stack.pop() {
        reports.push(operator(plan.as_ref(), depth));
        stack.extend(plan.children().into_iter().rev().map(|child| (child, depth + 1)));
    }
    reports
}

fn operator(plan: &dyn ExecutionPlan, depth: u32) -> OperatorReport {
    let mut report = OperatorReport {
        name: plan.name().to_owned(),
        depth,
        partitions: plan.output_partitioning().partition_count() as u32,
        ..Default::default()
    };
    let Some(metrics) = plan.metrics() else { return report };
    for metric in metrics.iter() {
        let value = metric.value();
        match value {
            MetricValue::OutputRows(count) => report.output_rows += count.value() as u64,
            MetricValue::ElapsedCompute(time) => report.elapsed_compute_ns += time.value() as u64,
            MetricValue::SpilledBytes(count) => report.spilled_bytes += count.value() as u64,
            MetricValue::CurrentMemoryUsage(gauge) => report.memory_bytes += gauge.value() as u64,
            // Points in time do not add up.
            MetricValue::StartTimestamp(_) | MetricValue::EndTimestamp(_) => {}
            MetricValue::PeakMemoryUsage { gauge, .. } => report.memory_bytes += gauge.value() as u64,
            MetricValue::PruningMetrics { name, pruning_metrics } => {
                count(&mut report, format!("{name}{PRUNED}"), pruning_metrics.pruned() as u64);
                count(&mut report, format!("{name}{MATCHED}"), pruning_metrics.matched() as u64);
            }
            other => count(&mut report, other.name().to_owned(), other.as_usize() as u64),
        }
    }
    report
}

fn count(report: &mut OperatorReport, name: String, n: u64) {
    if n > 0 {
        *report.counters.entry(name).or_default() += n;
    }
}

/// Row groups of Parquet files that a scan was spared, by whatever means, and those that it read.
pub fn row_groups(report: &OperatorReport) -> (u64, u64) {
    let counter = |name: String| report.counters.get(&name).copied().unwrap_or(0);
    // One after another: each looks at what the one before left.
    let later = counter(format!("row_groups_pruned_bloom_filter{PRUNED}"))
        + counter(format!("limit_pruned_row_groups{PRUNED}"))
        + counter("row_groups_pruned_dynamic_filter".to_owned());
    let (pruned, matched) = (
        counter(format!("row_groups_pruned_statistics{PRUNED}")),
        counter(format!("row_groups_pruned_statistics{MATCHED}")),
    );
    (pruned + later, matched.saturating_sub(later))
}

/// Bytes that the operators read from other tasks, by link.
pub fn input_bytes(operators: &[OperatorReport]) -> BTreeMap<String, u64> {
    let mut links = BTreeMap::new();
    for report in operators.iter().filter(|report| report.name == crate::remote_exec::NAME) {
        for (name, n) in &report.counters {
            if let Some(link) = name.strip_prefix(BYTES_BY_LINK) {
                *links.entry(link.to_owned()).or_default() += n;
            }
        }
    }
    links
}
