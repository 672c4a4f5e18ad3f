//! Rows that are made, not read: `numbers(n)` and the tables of TPC-H.
//!
//! Out: any number of partitions in no declared order, each the rows of its own ranges. Memory: one batch.
//! A range counts rows (`numbers`) or parts of a fixed number of parts (TPC-H), so that any task can make any range.

pub mod tpch;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::stats::Precision;
use datafusion::common::{
    ColumnStatistics, Result, ScalarValue, Statistics, exec_datafusion_err, internal_err, plan_err,
};
use datafusion::config::ConfigOptions;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::{FutureExt, Stream};
use serde::{Deserialize, Serialize};

pub use tpch::TpchTable;

/// Half-open ranges of rows or parts.
pub type Ranges = Vec<(u64, u64)>;

/// How long a stream generates before it lets others run on its thread.
const YIELD_AFTER: Duration = Duration::from_millis(10);

/// What makes the rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Generator {
    /// One column `number: UInt64` that counts up; ranges are rows.
    Numbers,
    /// A table of TPC-H; ranges are parts, see [`TpchTable::parts`].
    Tpch {
        table: TpchTable,
        #[serde(with = "tpch::exact_scale")]
        scale: f64,
    },
}

impl Generator {
    /// All columns, before any projection.
    pub fn schema(&self) -> SchemaRef {
        match self {
            Self::Numbers => Arc::new(Schema::new(vec![Field::new("number", DataType::UInt64, false)])),
            Self::Tpch { table, .. } => table.schema(),
        }
    }

    /// The name to show for it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Numbers => "numbers",
            Self::Tpch { table, .. } => table.name(),
        }
    }

    /// Statistics of all columns for these ranges.
    fn statistics<'a>(&self, ranges: impl Iterator<Item = &'a (u64, u64)> + Clone) -> Statistics {
        match self {
            Self::Numbers => numbers_statistics(ranges),
            Self::Tpch { table, scale } => tpch_statistics(*table, *scale, ranges),
        }
    }
}

fn numbers_statistics<'a>(ranges: impl Iterator<Item = &'a (u64, u64)> + Clone) -> Statistics {
    let rows = ranges.clone().fold(0, |sum: u64, (start, end)| sum.saturating_add(end - start));
    let min = ranges.clone().filter(|(start, end)| start < end).map(|(start, _)| *start).min();
    let max = ranges.filter(|(start, end)| start < end).map(|(_, end)| end - 1).max();
    let value = |it: Option<u64>| it.map_or(Precision::Absent, |it| Precision::Exact(ScalarValue::UInt64(Some(it))));
    // A range of more rows than `usize` holds cannot be counted, only bounded.
    let count = |it: u64| usize::try_from(it).map_or(Precision::Inexact(usize::MAX), Precision::Exact);
    Statistics {
        num_rows: count(rows),
        total_byte_size: count(rows.saturating_mul(8)),
        column_statistics: vec![
            ColumnStatistics::new_unknown()
                .with_null_count(Precision::Exact(0))
                .with_min_value(value(min))
                .with_max_value(value(max))
                .with_distinct_count(count(rows))
                .with_byte_size(count(rows.saturating_mul(8))),
        ],
    }
}

fn tpch_statistics<'a>(table: TpchTable, scale: f64, ranges: impl Iterator<Item = &'a (u64, u64)>) -> Statistics {
    let num_rows = ranges
        .map(|(start, end)| table.rows(scale, *start, *end))
        .fold(Precision::Exact(0), |sum: Precision<usize>, rows| sum.add(&rows));
    let rows = num_rows.get_value().copied().unwrap_or(0);
    let mut column_statistics: Vec<_> = table
        .column_bytes()
        .into_iter()
        .map(|bytes| {
            ColumnStatistics::new_unknown()
                .with_null_count(Precision::Exact(0))
                .with_byte_size(Precision::Inexact(rows.saturating_mul(bytes)))
        })
        .collect();
    for (column, values) in table.key_values(scale) {
        let values = usize::try_from(values).unwrap_or(usize::MAX).min(rows);
        column_statistics[column].distinct_count = Precision::Inexact(values);
    }
    let total_byte_size = Precision::Inexact(rows.saturating_mul(table.column_bytes().iter().sum()));
    Statistics { num_rows, total_byte_size, column_statistics }
}

/// A leaf that generates its rows.
#[derive(Debug, Clone)]
pub struct GeneratorExec {
    generator: Generator,
    /// Invariant: no range ends before it starts; TPC-H ranges end within the table's parts.
    ranges: Vec<Ranges>,
    projection: Option<Vec<usize>>,
    /// Most rows of each partition.
    fetch: Option<usize>,
    /// Stays one partition in the process that plans it.
    local: bool,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl GeneratorExec {
    /// A plan whose partition `i` makes the rows of `ranges[i]`.
    ///
    /// Errs when the projection names a column that the generator lacks, or a range is not one of the generator's.
    pub fn try_new(generator: Generator, ranges: Vec<Ranges>, projection: Option<Vec<usize>>) -> Result<Self> {
        check_ranges(&generator, &ranges)?;
        let schema = match &projection {
            Some(columns) => Arc::new(generator.schema().project(columns)?),
            None => generator.schema(),
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(ranges.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Ok(Self {
            generator,
            ranges,
            projection,
            fetch: None,
            local: false,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// The same rows under a limit of so many per partition.
    pub fn limited(mut self, fetch: Option<usize>) -> Self {
        self.fetch = fetch;
        self
    }

    /// Marks the leaf as one that must not be split or sent away.
    pub fn local(mut self) -> Self {
        self.local = true;
        self
    }

    /// The same leaf over other ranges, one partition for each element: how a task gets its share.
    ///
    /// Errs when a range is not one of the generator's.
    pub fn with_ranges(&self, ranges: Vec<Ranges>) -> Result<Self> {
        let plan = Self::try_new(self.generator, ranges, self.projection.clone())?.limited(self.fetch);
        Ok(if self.local { plan.local() } else { plan })
    }

    pub fn generator(&self) -> &Generator {
        &self.generator
    }

    pub fn ranges(&self) -> &[Ranges] {
        &self.ranges
    }

    pub fn projection(&self) -> Option<&[usize]> {
        self.projection.as_deref()
    }

    pub fn is_local(&self) -> bool {
        self.local
    }

    /// The name that plans show: `numbers`, `lineitem`.
    pub fn label(&self) -> &'static str {
        self.generator.label()
    }

    fn batch_bytes_are_exact(&self) -> bool {
        matches!(self.generator, Generator::Numbers)
    }
}

fn check_ranges(generator: &Generator, ranges: &[Ranges]) -> Result<()> {
    let last = match generator {
        Generator::Numbers => u64::MAX,
        Generator::Tpch { scale, .. } if !TpchTable::SCALES.contains(scale) => {
            let (min, max) = (TpchTable::SCALES.start(), TpchTable::SCALES.end());
            return plan_err!("TPC-H scale {scale} is not within {min} and {max}");
        }
        Generator::Tpch { table, scale } => table.parts(*scale),
    };
    match ranges.iter().flatten().find(|(start, end)| start > end || *end > last) {
        Some((start, end)) => plan_err!("{start}..{end} is not a range of {}", generator.label()),
        None => Ok(()),
    }
}

/// Cuts ranges into `n` lists of nearly the same length, keeping their order: the first list gets the first rows.
pub fn spread(ranges: impl IntoIterator<Item = (u64, u64)>, n: usize) -> Vec<Ranges> {
    let ranges: Ranges = ranges.into_iter().filter(|(start, end)| start < end).collect();
    let total: u128 = ranges.iter().map(|(start, end)| u128::from(end - start)).sum();
    let n = n.max(1);
    let mut lists = vec![Ranges::new(); n];
    let mut done: u128 = 0;
    for (mut start, end) in ranges {
        while start < end {
            // The list that item number `done` belongs to, and the first item of the next one.
            let list = usize::try_from(done * n as u128 / total).unwrap_or(n - 1).min(n - 1);
            let list_end = ((list as u128 + 1) * total).div_ceil(n as u128);
            let taken = u64::try_from(list_end - done).unwrap_or(u64::MAX).min(end - start);
            lists[list].push((start, start + taken));
            start += taken;
            done += u128::from(taken);
        }
    }
    lists
}

impl DisplayAs for GeneratorExec {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.properties.eq_properties.schema().fields();
        let columns: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        match kind {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                let (label, partitions) = (self.label(), self.ranges.len());
                write!(f, "GeneratorExec: {label}, partitions={partitions}, projection=[{}]", columns.join(", "))?;
                match self.fetch {
                    Some(fetch) => write!(f, ", fetch={fetch}"),
                    None => Ok(()),
                }
            }
            DisplayFormatType::TreeRender => writeln!(f, "{}", self.label()),
        }
    }
}

impl ExecutionPlan for GeneratorExec {
    fn name(&self) -> &str {
        "GeneratorExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    crate::no_input!();

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self { metrics: ExecutionPlanMetricsSet::new(), ..self.as_ref().clone() }))
    }

    fn repartitioned(
        &self,
        target_partitions: usize,
        _config: &ConfigOptions,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if self.local || target_partitions <= self.ranges.len() {
            return Ok(None);
        }
        let mut lists = spread(self.ranges.iter().flatten().copied(), target_partitions);
        // Fewer items than partitions: none stays empty, but one is left even if there are no rows.
        lists.retain(|list| !list.is_empty());
        if lists.len() <= self.ranges.len() {
            return Ok(None);
        }
        Ok(Some(Arc::new(self.with_ranges(lists)?)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(ranges) = self.ranges.get(partition) else {
            return internal_err!("GeneratorExec has {} partitions, not {partition}", self.ranges.len());
        };
        let batch_size = context.session_config().batch_size().max(1);
        let (rows, needs_text) = match self.generator {
            Generator::Numbers => (Rows::numbers(ranges.clone(), batch_size), false),
            Generator::Tpch { table, scale } => {
                let comments = table.reads_comments(self.projection());
                (Rows::tpch(table, scale, comments, ranges.clone(), batch_size), comments)
            }
        };
        let preparing = (needs_text && !tpch::text_is_ready()).then(|| SpawnedTask::spawn_blocking(tpch::prepare_text));
        Ok(Box::pin(cooperative(GeneratorStream {
            schema: self.schema(),
            rows,
            projection: self.projection.clone(),
            left: self.fetch,
            preparing,
            since_yield: Duration::ZERO,
            metrics: BaselineMetrics::new(&self.metrics, partition),
        })))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _input_stats: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let of = |ranges: &[Ranges]| -> Result<Statistics> {
            let all = self.generator.statistics(ranges.iter().flatten());
            let mut projected = all.project(self.projection.as_ref());
            if self.projection.is_some() {
                let bytes = projected.column_statistics.iter().map(|column| column.byte_size);
                let sum = bytes.fold(Precision::Exact(0), |sum: Precision<usize>, it| sum.add(&it));
                projected.total_byte_size = if self.batch_bytes_are_exact() { sum } else { sum.to_inexact() };
            }
            projected.with_fetch(self.fetch, 0, 1)
        };
        let statistics = match args.partition() {
            Some(partition) => of(self.ranges.get(partition).map(std::slice::from_ref).unwrap_or_default())?,
            None if self.fetch.is_none() => of(&self.ranges)?,
            None => {
                let each: Vec<_> = self.ranges.iter().map(|it| of(std::slice::from_ref(it))).collect::<Result<_>>()?;
                match each.is_empty() {
                    true => of(&[])?,
                    false => Statistics::try_merge_iter(each.iter(), &self.schema())?,
                }
            }
        };
        Ok(Arc::new(statistics))
    }

    fn supports_limit_pushdown(&self) -> bool {
        false
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(self.clone().limited(limit)))
    }

    fn fetch(&self) -> Option<usize> {
        self.fetch
    }
}

/// The state of one partition: which ranges are left, and how far the current one is.
struct Rows {
    ranges: std::vec::IntoIter<(u64, u64)>,
    current: (u64, u64),
    batch_size: usize,
    kind: RowsKind,
}

enum RowsKind {
    Numbers,
    Tpch { table: TpchTable, scale: f64, comments: bool, part: Option<tpch::PartBatches> },
}

impl Rows {
    fn numbers(ranges: Ranges, batch_size: usize) -> Self {
        Self { ranges: ranges.into_iter(), current: (0, 0), batch_size, kind: RowsKind::Numbers }
    }

    fn tpch(table: TpchTable, scale: f64, comments: bool, ranges: Ranges, batch_size: usize) -> Self {
        let kind = RowsKind::Tpch { table, scale, comments, part: None };
        Self { ranges: ranges.into_iter(), current: (0, 0), batch_size, kind }
    }

    /// The next batch with all columns; never an empty one.
    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let RowsKind::Tpch { part: Some(batches), .. } = &mut self.kind {
                match batches.next() {
                    Some(batch) => return Ok(Some(batch?)),
                    None => self.close_part(),
                }
                continue;
            }
            while self.current.0 >= self.current.1 {
                match self.ranges.next() {
                    Some(range) => self.current = range,
                    None => return Ok(None),
                }
            }
            let (start, end) = self.current;
            match &mut self.kind {
                RowsKind::Numbers => {
                    let taken = (end - start).min(self.batch_size as u64);
                    self.current.0 = start + taken;
                    let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(start..start + taken));
                    return Ok(Some(RecordBatch::try_new(Generator::Numbers.schema(), vec![numbers])?));
                }
                RowsKind::Tpch { table, scale, comments, part } => {
                    self.current.0 = start + 1;
                    *part = Some(table.batches(*scale, start, self.batch_size, *comments));
                }
            }
        }
    }

    fn close_part(&mut self) {
        if let RowsKind::Tpch { part, .. } = &mut self.kind {
            *part = None;
        }
    }
}

struct GeneratorStream {
    schema: SchemaRef,
    rows: Rows,
    projection: Option<Vec<usize>>,
    /// Rows that the limit still allows.
    left: Option<usize>,
    /// Set while the text of TPC-H comments is being built on a blocking thread.
    preparing: Option<SpawnedTask<()>>,
    since_yield: Duration,
    metrics: BaselineMetrics,
}

impl GeneratorStream {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        if self.left == Some(0) {
            return Ok(None);
        }
        let Some(batch) = self.rows.next_batch()? else { return Ok(None) };
        let n_rows = self.left.map_or(batch.num_rows(), |left| left.min(batch.num_rows()));
        if let Some(left) = &mut self.left {
            *left -= n_rows;
        }
        let columns = match &self.projection {
            Some(columns) => columns.iter().map(|column| Arc::clone(batch.column(*column))).collect(),
            None => batch.columns().to_vec(),
        };
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        Ok(Some(batch.slice(0, n_rows)))
    }
}

impl Stream for GeneratorStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(task) = &mut this.preparing {
            let prepared = ready!(task.poll_unpin(cx));
            this.preparing = None;
            if let Err(error) = prepared {
                return Poll::Ready(Some(Err(exec_datafusion_err!("could not build the text of TPC-H: {error}"))));
            }
        }
        if this.since_yield >= YIELD_AFTER {
            this.since_yield = Duration::ZERO;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let started = Instant::now();
        let batch = this.next_batch();
        let elapsed = started.elapsed();
        this.since_yield += elapsed;
        this.metrics.elapsed_compute().add_duration(elapsed);
        if !matches!(batch, Ok(Some(_))) {
            this.left = Some(0);
        }
        this.metrics.record_poll(Poll::Ready(batch.transpose()))
    }
}

impl RecordBatchStream for GeneratorStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::UInt64Type;
    use datafusion::physical_plan::{collect, collect_partitioned};
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    fn context(batch_size: usize) -> Arc<TaskContext> {
        SessionContext::new_with_config(SessionConfig::new().with_batch_size(batch_size)).task_ctx()
    }

    fn numbers(ranges: Vec<Ranges>) -> GeneratorExec {
        GeneratorExec::try_new(Generator::Numbers, ranges, None).unwrap()
    }

    async fn values(plan: GeneratorExec) -> Vec<Vec<u64>> {
        let partitions = collect_partitioned(Arc::new(plan), context(3)).await.unwrap();
        let of = |batches: Vec<RecordBatch>| {
            batches.iter().flat_map(|batch| batch.column(0).as_primitive::<UInt64Type>().values().to_vec()).collect()
        };
        partitions.into_iter().map(of).collect()
    }

    fn statistics(plan: &GeneratorExec) -> Statistics {
        plan.statistics_from_inputs(&[], &StatisticsArgs::new()).unwrap().as_ref().clone()
    }

    #[test]
    fn spread_loses_and_doubles_nothing() {
        for (total, n) in [(0, 3), (1, 3), (10, 3), (12, 4), (7, 1), (u64::MAX, 5)] {
            let lists = spread([(0, total / 3), (total / 3, total)], n);
            assert_eq!(lists.len(), n);
            let mut next = 0;
            for (start, end) in lists.iter().flatten() {
                assert_eq!(*start, next);
                assert!(start < end);
                next = *end;
            }
            assert_eq!(next, total);
            let length = |list: &Ranges| list.iter().map(|(start, end)| end - start).sum::<u64>();
            let lengths: Vec<u64> = lists.iter().map(length).collect();
            assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1, "{lengths:?}");
        }
    }

    #[tokio::test]
    async fn numbers_count_up_over_batches_and_ranges() {
        let plan = numbers(vec![vec![(0, 4), (10, 11)], vec![], vec![(5, 5), (7, 9)]]);
        assert_eq!(values(plan).await, [vec![0, 1, 2, 3, 10], vec![], vec![7, 8]]);
    }

    #[tokio::test]
    async fn a_limit_ends_inside_a_batch() {
        let plan = numbers(vec![vec![(0, 100)], vec![(100, 102)]]).limited(Some(4));
        assert_eq!(statistics(&plan).num_rows, Precision::Exact(6));
        assert_eq!(values(plan).await, [vec![0, 1, 2, 3], vec![100, 101]]);
    }

    #[tokio::test]
    async fn no_column_still_counts_rows() {
        let plan = GeneratorExec::try_new(Generator::Numbers, vec![vec![(0, 10)]], Some(vec![])).unwrap();
        let batches = collect(Arc::new(plan), context(4)).await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 10);
    }

    #[test]
    fn numbers_are_counted_exactly() {
        let it = statistics(&numbers(vec![vec![(0, 400)], vec![(400, 1000)]]));
        assert_eq!((it.num_rows, it.total_byte_size), (Precision::Exact(1000), Precision::Exact(8000)));
        assert_eq!(it.column_statistics[0].max_value, Precision::Exact(ScalarValue::UInt64(Some(999))));
    }

    #[test]
    fn repartitions_unless_local() {
        let config = ConfigOptions::default();
        let plan = numbers(vec![vec![(0, 10)]]);
        let spread = plan.repartitioned(4, &config).unwrap().unwrap();
        assert_eq!(spread.properties().partitioning.partition_count(), 4);
        assert!(plan.clone().local().repartitioned(4, &config).unwrap().is_none());
        assert!(numbers(vec![vec![(0, 1)]]).repartitioned(4, &config).unwrap().is_none());
    }

    #[test]
    fn refuses_what_cannot_run() {
        assert!(GeneratorExec::try_new(Generator::Numbers, vec![vec![(2, 1)]], None).is_err());
        assert!(GeneratorExec::try_new(Generator::Numbers, vec![], Some(vec![1])).is_err());
        let tpch = |scale| Generator::Tpch { table: TpchTable::Nation, scale };
        assert!(GeneratorExec::try_new(tpch(1.0), vec![vec![(0, 2)]], None).is_err());
        assert!(GeneratorExec::try_new(tpch(0.0), vec![vec![(0, 1)]], None).is_err());
        assert!(GeneratorExec::try_new(tpch(f64::NAN), vec![vec![(0, 1)]], None).is_err());
    }

    #[tokio::test]
    async fn a_table_is_projected() {
        let generator = Generator::Tpch { table: TpchTable::Supplier, scale: 0.01 };
        let plan = GeneratorExec::try_new(generator, vec![vec![(0, 1)]], Some(vec![3, 0])).unwrap();
        assert_eq!(statistics(&plan).num_rows, Precision::Exact(100));
        let batches = collect(Arc::new(plan), context(64)).await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 100);
        assert_eq!(batches[0].schema().field(1).name(), "s_suppkey");
    }
}
