//! From a physical plan's leaves to splits: the pieces that tasks will share out.
//!
//! A Parquet file gives a split for each row group, from its footer; other files the ranges that DataFusion made;
//! generators ranges of rows. A scan whose order the plan relies on keeps DataFusion's file groups whole.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::{FileScanConfig, ParquetSource};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::ObjectStore;

use crate::data_file::{DeletedRows, LoggedFile, TableFiles};
use crate::generator::GeneratorExec;
use crate::leaf::file_scan;
use crate::stage::{FileSplit, Split};

/// Footers that are read at once while a query is planned.
const FOOTER_READS_MAX: usize = 32;

/// What one leaf holds, and how it may be cut.
#[derive(Debug, Clone)]
pub struct LeafSplits {
    pub splits: Vec<Split>,
    /// Tasks that a `TaskEstimator` asked for, for a leaf that shares itself out.
    pub tasks: Option<usize>,
    pub rows: Option<usize>,
    pub bytes: Option<usize>,
    /// Files of its table, also those that filters left out.
    pub table_files: Option<usize>,
}

impl LeafSplits {
    /// Bytes that reading the leaf costs; what the scan is known or estimated to hold where its splits do not say.
    pub fn weight(&self) -> u64 {
        let splits: u64 = self.splits.iter().map(Split::weight).sum();
        if splits > 0 { splits } else { self.bytes.unwrap_or(0) as u64 }
    }
}

/// How many tasks a leaf deserves that SheafDB does not know: a public extension point.
///
/// Such a leaf is given to each of its tasks as it is and takes its own share by its `DistributedTaskContext`.
pub trait TaskEstimator: Send + Sync + std::fmt::Debug {
    /// The number of tasks for this leaf on `workers` workers; `None` leaves it to SheafDB: one task reads it whole.
    fn tasks(&self, leaf: &Arc<dyn ExecutionPlan>, workers: usize) -> Option<usize>;
}

/// The splits of all leaves of a plan, found by the leaf's address: the plan must stay alive and unchanged.
#[derive(Debug, Default)]
pub struct PlanSplits(HashMap<usize, LeafSplits>);

impl PlanSplits {
    pub fn get(&self, leaf: &Arc<dyn ExecutionPlan>) -> Option<&LeafSplits> {
        self.0.get(&address(leaf))
    }

    pub fn insert(&mut self, leaf: &Arc<dyn ExecutionPlan>, splits: LeafSplits) {
        self.0.insert(address(leaf), splits);
    }

    /// Bytes that all leaves together read.
    pub fn weight(&self) -> u64 {
        self.0.values().map(LeafSplits::weight).sum()
    }

    /// The most splits that one leaf has.
    pub fn splits_max(&self) -> usize {
        self.0.values().map(|leaf| leaf.splits.len().max(leaf.tasks.unwrap_or(0))).max().unwrap_or(0)
    }
}

fn address(leaf: &Arc<dyn ExecutionPlan>) -> usize {
    Arc::as_ptr(leaf).cast::<()>() as usize
}

/// Estimated bytes that a plan's scans read, without opening a file.
pub fn estimated_bytes(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let mut bytes = 0;
    // The closure never errs.
    let _ = plan.apply(|node| {
        if node.children().is_empty() {
            bytes += match file_scan(node) {
                Some((_, config)) => file_bytes(config),
                None => statistics(node).total_byte_size.get_value().copied().unwrap_or(0) as u64,
            };
        }
        Ok(TreeNodeRecursion::Continue)
    });
    bytes
}

/// Bytes of all files of a scan, or of the parts that it reads.
pub(crate) fn file_bytes(config: &FileScanConfig) -> u64 {
    let files = config.file_groups.iter().flat_map(|group| group.iter());
    files.map(|file| file.range.as_ref().map_or(file.object_meta.size, |it| (it.end - it.start).max(0) as u64)).sum()
}

/// Reads what cutting the plan's leaves needs: footers of Parquet files, through the runtime's metadata cache.
///
/// `estimator` is asked about leaves that are neither files nor generators. Errs when a footer cannot be read.
pub async fn of_plan(
    plan: &Arc<dyn ExecutionPlan>,
    runtime: &RuntimeEnv,
    workers: usize,
    partitions: usize,
    estimator: Option<&dyn TaskEstimator>,
) -> Result<PlanSplits> {
    let mut leaves = vec![];
    plan.apply(|node| {
        if node.children().is_empty() {
            leaves.push(Arc::clone(node));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut all = PlanSplits::default();
    for leaf in leaves {
        let known = statistics(&leaf);
        let mut tasks = None;
        let splits = if let Some((_, config)) = file_scan(&leaf) {
            of_files(config, runtime).await?
        } else if let Some(generator) = leaf.downcast_ref::<GeneratorExec>() {
            of_generator(generator, partitions, &known)
        } else {
            tasks = estimator.and_then(|it| it.tasks(&leaf, workers));
            vec![if tasks.is_some() { Split::Share } else { Split::Whole }]
        };
        let rows = known.num_rows.get_value().copied();
        let bytes = known.total_byte_size.get_value().copied();
        let table_files = file_scan(&leaf).and_then(|(_, config)| TableFiles::of_scan(config));
        all.insert(&leaf, LeafSplits { splits, tasks, rows, bytes, table_files });
    }
    Ok(all)
}

/// A node's statistics, unknown where they cannot be had.
pub fn statistics(plan: &Arc<dyn ExecutionPlan>) -> Arc<Statistics> {
    StatisticsContext::new()
        .compute(plan.as_ref(), &StatisticsArgs::new())
        .unwrap_or_else(|_| Arc::new(Statistics::new_unknown(&plan.schema())))
}

async fn of_files(config: &FileScanConfig, runtime: &RuntimeEnv) -> Result<Vec<Split>> {
    if !config.output_ordering.is_empty() || config.preserve_order {
        let groups = config.file_groups.iter().filter(|group| !group.is_empty());
        return Ok(groups.map(|group| Split::Files(group.iter().map(planned_range).collect())).collect());
    }
    if config.file_source().downcast_ref::<ParquetSource>().is_none() {
        return Ok(config
            .file_groups
            .iter()
            .flat_map(|it| it.iter())
            .map(|it| Split::File(planned_range(it)))
            .collect());
    }
    // DataFusion may have cut a file into byte ranges already: row groups are counted once for each file.
    let mut files: Vec<&PartitionedFile> = vec![];
    let mut seen: HashMap<(&str, &[ScalarValue]), ()> = HashMap::new();
    for file in config.file_groups.iter().flat_map(|group| group.iter()) {
        let key = (file.object_meta.location.as_ref(), file.partition_values.as_slice());
        if seen.insert(key, ()).is_none() {
            files.push(file);
        }
    }
    let store = runtime.object_store(&config.object_store_url)?;
    let mut reads: Vec<BoxFuture<'_, Result<Arc<ParquetMetaData>>>> = vec![];
    for file in &files {
        reads.push(footer(Arc::clone(&store), runtime, file).boxed());
    }
    // Buffered, not unordered: the list of splits is the same in every planning of the same files.
    let footers: Vec<_> = futures::stream::iter(reads).buffered(FOOTER_READS_MAX).try_collect().await?;
    Ok(files.iter().zip(footers).flat_map(|(file, footer)| row_groups(file, &footer)).collect())
}

async fn footer(
    store: Arc<dyn ObjectStore>,
    runtime: &RuntimeEnv,
    file: &PartitionedFile,
) -> Result<Arc<ParquetMetaData>> {
    DFParquetMetadata::new(store.as_ref(), &file.object_meta)
        .with_file_metadata_cache(Some(runtime.cache_manager.get_file_metadata_cache()))
        .with_page_index_policy(Some(PageIndexPolicy::Skip))
        .fetch_metadata()
        .await
        .map_err(|error| error.context(format!("file '/{}'", file.object_meta.location)))
}

/// One split for each row group of a file, or the file when its footer does not tell them apart.
fn row_groups(file: &PartitionedFile, footer: &ParquetMetaData) -> Vec<Split> {
    if footer.row_groups().iter().any(|group| group.num_columns() == 0) {
        return vec![Split::File(whole_file(file))];
    }
    let mut first_row = 0;
    let mut groups: Vec<RowGroup> = footer
        .row_groups()
        .iter()
        .map(|group| {
            // The same offset by which the reader decides whether a row group starts in its range.
            let first = group.column(0);
            let start = first.dictionary_page_offset().unwrap_or_else(|| first.data_page_offset());
            let rows = (first_row, first_row + group.num_rows().max(0) as u64);
            first_row = rows.1;
            RowGroup { start: start.max(0) as u64, weight: group.compressed_size().max(1) as u64, rows }
        })
        .collect();
    groups.sort_unstable();
    // Each range ends where the next begins, so that neighbours can be joined again.
    let ends: Vec<u64> = groups.iter().skip(1).map(|group| group.start).chain([file.object_meta.size]).collect();
    // Not with all deleted rows of the file: each split has its own.
    let logged = LoggedFile::of(file);
    let deleted = logged.and_then(|it| it.deleted.as_ref());
    let whole = FileSplit { logged: None, ..whole_file(file) };
    let split = |(group, end): (RowGroup, u64)| {
        let deleted = deleted.map(|it: &DeletedRows| it.within(group.rows.0, group.rows.1));
        let logged = logged.map(|_| LoggedFile { deleted });
        Split::File(FileSplit { range: Some((group.start, end)), weight: group.weight, logged, ..whole.clone() })
    };
    groups.into_iter().zip(ends).map(split).collect()
}

/// Where a row group lies in its file, in bytes and in rows.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RowGroup {
    start: u64,
    weight: u64,
    rows: (u64, u64),
}

fn planned_range(file: &PartitionedFile) -> FileSplit {
    let range = file.range.as_ref().map(|range| (range.start.max(0) as u64, range.end.max(0) as u64));
    let weight = range.map_or(file.object_meta.size, |(start, end)| end.saturating_sub(start));
    FileSplit { range, weight, ..whole_file(file) }
}

fn whole_file(file: &PartitionedFile) -> FileSplit {
    FileSplit {
        path: file.object_meta.location.to_string(),
        size: file.object_meta.size,
        modified_ms: file.object_meta.last_modified.timestamp_millis(),
        etag: file.object_meta.e_tag.clone(),
        range: None,
        partition_values: file.partition_values.clone(),
        weight: file.object_meta.size,
        logged: LoggedFile::of(file).cloned(),
    }
}

/// A generator's ranges cut into about `partitions` pieces, in its own unit.
fn of_generator(generator: &GeneratorExec, partitions: usize, known: &Statistics) -> Vec<Split> {
    let units: u64 = generator.ranges().iter().flatten().map(|(start, end)| end - start).sum();
    let bytes = known.total_byte_size.get_value().copied().unwrap_or(0) as u64;
    let piece = units.div_ceil(partitions.max(1) as u64).max(1);
    let mut splits = vec![];
    for &(start, end) in generator.ranges().iter().flatten() {
        let mut from = start;
        while from < end {
            let to = end.min(from.saturating_add(piece));
            let weight = (u128::from(bytes) * u128::from(to - from) / u128::from(units.max(1))) as u64;
            splits.push(Split::Rows { start: from, end: to, weight: weight.max(1) });
            from = to;
        }
    }
    splits
}
