//! Rows of small tables, decoded: what statements look up that are run again and again.
//!
//! A version of a Delta table never changes, so its rows are right for as long as it is the newest; whoever uses them finds
//! that out first. Nobody holds them but [`HotTables`], which gives up what was used least recently.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{internal_err, project_schema};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, collect};
use futures::stream;
use parking_lot::Mutex;

use super::delta::{DeltaSnapshot, DeltaTable};

/// The part of a node's memory that hot rows may take, and what they never take more than.
const MEMORY_SHARE: usize = 64;
const BYTES_MAX: usize = 64 << 20;
/// Of one table: decoded, and in its files.
const TABLE_BYTES_MAX: usize = 4 << 20;
const FILE_BYTES_MAX: u64 = 1 << 20;
const FILES_MAX: usize = 64;

/// All rows of a version of a table.
#[derive(Debug)]
pub struct HotRows {
    batches: Vec<RecordBatch>,
    n_bytes: usize,
    /// When they were used last, as [`HotTables::uses`] counts.
    used: AtomicU64,
}

/// What [`HotTables::rows`] came to.
#[derive(Debug)]
pub enum Found {
    Rows(Arc<HotRows>),
    /// Too many for this place.
    TooMany,
    /// Another table is being read just now.
    Busy,
}

#[derive(Debug)]
struct Kept {
    snapshot: Arc<DeltaSnapshot>,
    rows: Arc<HotRows>,
}

/// The hot rows of a process.
#[derive(Debug)]
pub struct HotTables {
    kept: Mutex<Vec<Kept>>,
    /// Held by the one that reads a table; others do without meanwhile.
    reading: tokio::sync::Mutex<()>,
    uses: AtomicU64,
    bytes_max: usize,
}

impl HotTables {
    /// For a node with so much memory for queries.
    pub fn new(memory_bytes: usize) -> Self {
        let bytes_max = (memory_bytes / MEMORY_SHARE).min(BYTES_MAX);
        Self { kept: Mutex::default(), reading: tokio::sync::Mutex::default(), uses: AtomicU64::new(0), bytes_max }
    }

    /// Whether a version's rows may become hot, as far as its log tells.
    fn is_small(&self, snapshot: &DeltaSnapshot) -> bool {
        let files = &snapshot.files;
        files.len() <= FILES_MAX && files.iter().map(|it| it.size).sum::<u64>() <= FILE_BYTES_MAX
    }

    /// The rows of a table at its version, read if they are not here.
    ///
    /// Errs as a scan of the table does.
    pub async fn rows(&self, table: &DeltaTable, session: &dyn Session) -> Result<Found> {
        let snapshot = table.snapshot();
        if !self.is_small(snapshot) {
            return Ok(Found::TooMany);
        }
        let reading = self.reading.try_lock();
        if let Some(rows) = self.find(snapshot) {
            return Ok(Found::Rows(rows));
        }
        let Ok(_reading) = reading else { return Ok(Found::Busy) };
        let schema = table.schema();
        let scan = table.scan(session, None, &[], None).await?;
        let mut batches = vec![];
        for batch in collect(scan, session.task_ctx()).await? {
            // Fields of files may say less than those of the table do.
            batches.push(RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec())?);
        }
        let n_bytes = batches.iter().map(RecordBatch::get_array_memory_size).sum();
        if n_bytes > TABLE_BYTES_MAX.min(self.bytes_max) {
            return Ok(Found::TooMany);
        }
        let rows = Arc::new(HotRows { batches, n_bytes, used: AtomicU64::new(0) });
        self.touch(&rows);
        self.keep(snapshot, &rows);
        Ok(Found::Rows(rows))
    }

    /// Notes that rows are used.
    pub fn touch(&self, rows: &HotRows) {
        rows.used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    fn find(&self, snapshot: &Arc<DeltaSnapshot>) -> Option<Arc<HotRows>> {
        let kept = self.kept.lock();
        kept.iter().find(|it| Arc::ptr_eq(&it.snapshot, snapshot)).map(|it| Arc::clone(&it.rows))
    }

    fn keep(&self, snapshot: &Arc<DeltaSnapshot>, rows: &Arc<HotRows>) {
        let mut kept = self.kept.lock();
        // Of a table's versions only one is the newest.
        let key = snapshot.location.key();
        kept.retain(|it| it.snapshot.location.key() != key);
        kept.push(Kept { snapshot: Arc::clone(snapshot), rows: Arc::clone(rows) });
        while kept.iter().map(|it| it.rows.n_bytes).sum::<usize>() > self.bytes_max {
            let oldest = kept.iter().enumerate().min_by_key(|(_, it)| it.rows.used.load(Ordering::Relaxed));
            let Some((oldest, _)) = oldest else { return };
            kept.swap_remove(oldest);
        }
    }
}

/// A table's hot rows as a plan reads them, for as long as they are there.
#[derive(Debug)]
pub struct HotTable {
    schema: SchemaRef,
    rows: Weak<HotRows>,
}

impl HotTable {
    pub fn new(table: &DeltaTable, rows: &Arc<HotRows>) -> Self {
        Self { schema: table.schema(), rows: Arc::downgrade(rows) }
    }
}

#[async_trait]
impl TableProvider for HotTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = project_schema(&self.schema, projection)?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        let (rows, projection) = (Weak::clone(&self.rows), projection.cloned());
        Ok(Arc::new(HotRowsExec { rows, projection, properties: Arc::new(properties) }))
    }
}

/// A scan of hot rows.
///
/// In: nothing. Out: one partition, the rows in the order of their files. Memory: none of its own. It keeps no metrics, so
/// that a plan of it is the same after each run.
#[derive(Debug)]
struct HotRowsExec {
    rows: Weak<HotRows>,
    projection: Option<Vec<usize>>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for HotRowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HotRowsExec")
    }
}

impl ExecutionPlan for HotRowsExec {
    fn name(&self) -> &str {
        "HotRowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    sheaf_planners::no_input!();

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(rows) = self.rows.upgrade().filter(|_| partition == 0) else {
            return internal_err!("hot rows are gone while a plan reads partition {partition} of them");
        };
        let mut batches = vec![];
        for batch in &rows.batches {
            batches.push(Ok(match &self.projection {
                Some(projection) => batch.project(projection)?,
                None => batch.clone(),
            }));
        }
        let schema = Arc::clone(self.properties.eq_properties.schema());
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter(batches))))
    }
}
