//! Delta Lake tables as they are read: a version of the log, planned as a scan of our own.
//!
//! [`location`]: where a table lies. [`snapshot`]: a version and its files. [`versions`]: which version, and those that
//! were read before. [`columns`] and [`statistics`]: what the log says, in Arrow's types. The library reads the log;
//! the scan is DataFusion's of Parquet files, so that it is cut and shared out as any other. Partition values, deleted
//! rows and names that the files have of their own are part of it.

mod columns;
mod location;
mod snapshot;
mod statistics;
mod versions;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use async_trait::async_trait;
use chrono::DateTime;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics, TableReference, project_schema};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileScanConfigBuilder;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::table_schema::TableSchemaBuilder;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableScan, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use object_store::ObjectMeta;
use sheaf_planners::data_file::{LoggedFile, TableFiles};

pub use columns::{DeltaColumn, DeltaColumns};
pub use location::DeltaLocation;
pub use snapshot::{DeltaFile, DeltaSnapshot};
pub use versions::{AsOf, DeltaTables};

use super::analyzed::TableStatistics;
use super::external::{ColumnDef, FilesDef, FilesRequest, TypeName, groups, reader};
use super::files::FileKind;
use super::listings::Listings;
use super::pruning::{self, ColumnBounds};
use super::sources::{Sources, StoreOptions, listing_ttl};
use super::{TableError, to_datafusion};

/// What a statement that makes a Delta table known says of it, for the catalog. The log is read once, to see that it
/// is there; what the catalog keeps of its columns is only shown.
pub async fn define(
    session: &dyn Session,
    sources: &Sources,
    request: FilesRequest,
) -> std::result::Result<FilesDef, TableError> {
    let [text] = request.locations.as_slice() else {
        return Err(TableError::invalid("a Delta table has one location"));
    };
    if request.columns.is_some() || !request.partitions.is_empty() {
        return Err(TableError::invalid("a Delta table has its columns and partitions in its log: leave them out"));
    }
    let (store, other) = request.split_options();
    if let Some(option) = other.keys().min() {
        return Err(TableError::invalid(format!("a Delta table has no option '{option}'")));
    }
    let location = sources.delta(session, text, request.opened_with(&store)?).await?;
    let snapshot = sources.deltas.latest(&location, Duration::ZERO).await?;
    let column = |it: &DeltaColumn| ColumnDef {
        name: it.field.name().clone(),
        type_name: TypeName(it.field.data_type().clone()),
        nullable: it.field.is_nullable(),
    };
    let mut columns: Vec<ColumnDef> = snapshot.columns.0.iter().map(column).collect();
    if !columns.iter().all(ColumnDef::reads_back) {
        columns.clear();
    }
    let locations = vec![location.shown()];
    Ok(FilesDef {
        format: FileKind::Delta,
        locations,
        store,
        connection: request.connection_name(),
        options: BTreeMap::new(),
        columns,
        partitions: vec![],
    })
}

/// Opens the newest version of a Delta table at a location that a statement or the catalog names.
pub async fn open(
    session: &dyn Session,
    sources: &Sources,
    reference: TableReference,
    text: &str,
    options: &StoreOptions,
) -> std::result::Result<DeltaTable, TableError> {
    let location = sources.delta(session, text, options).await?;
    let snapshot = sources.deltas.latest(&location, listing_ttl(session)).await?;
    Ok(DeltaTable::new(reference, snapshot, Arc::clone(&sources.deltas)))
}

/// A table from the catalog as a query reads it: at the version that the query saw first, whatever was committed since.
///
/// The catalog knows no session, so what it found in an object store may be older than the session allows.
pub async fn pinned(
    session: &dyn Session,
    provider: Arc<dyn TableProvider>,
) -> std::result::Result<Arc<dyn TableProvider>, TableError> {
    let Some(table) = provider.downcast_ref::<DeltaTable>() else { return Ok(provider) };
    let location = &table.snapshot.location;
    let snapshot = match location.is_local() || table.is_newest {
        true => Arc::clone(&table.snapshot),
        false => table.tables.latest(location, listing_ttl(session)).await?,
    };
    Ok(Arc::new(DeltaTable { snapshot, ..table.clone() }.pin(session)))
}

/// A version of a Delta table in a query.
#[derive(Clone)]
pub struct DeltaTable {
    reference: TableReference,
    snapshot: Arc<DeltaSnapshot>,
    /// Only these of its files; `None` for all.
    files: Option<Vec<Arc<DeltaFile>>>,
    /// A column at the end that says which file a row is from.
    path_column: Option<String>,
    /// The log was read for this statement, whatever age the session allows.
    is_newest: bool,
    tables: Arc<DeltaTables>,
    analyzed: Option<Arc<TableStatistics>>,
}

impl fmt::Debug for DeltaTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaTable").field("reference", &self.reference).field("snapshot", &self.snapshot).finish()
    }
}

impl DeltaTable {
    pub fn new(reference: TableReference, snapshot: Arc<DeltaSnapshot>, tables: Arc<DeltaTables>) -> Self {
        Self { reference, snapshot, files: None, path_column: None, is_newest: false, tables, analyzed: None }
    }

    /// The table with what was found out of it before, for estimates.
    pub fn analyzed(self, analyzed: Option<Arc<TableStatistics>>) -> Self {
        Self { analyzed, ..self }
    }

    /// The same of a version that nobody can have written after.
    pub fn newest(self) -> Self {
        Self { is_newest: true, ..self }
    }

    /// The table with some of its version's files only: what an UPDATE or an OPTIMIZE reads.
    pub fn of_files(self, files: Vec<Arc<DeltaFile>>) -> Self {
        Self { files: Some(files), ..self }
    }

    /// The table with one more column at the end: the `DeltaFile::path` of the file that a row is from.
    pub fn with_path_column(self, name: &str) -> Self {
        Self { path_column: Some(name.to_owned()), ..self }
    }

    pub fn snapshot(&self) -> &Arc<DeltaSnapshot> {
        &self.snapshot
    }

    /// The table at the version that its query saw first; this one, if that is now.
    pub fn pin(self, session: &dyn Session) -> Self {
        match session.config().get_extension::<Listings>() {
            Some(listings) => Self { snapshot: listings.delta(&self.snapshot), ..self },
            None => self,
        }
    }

    /// The same table as it was.
    pub async fn as_of(&self, as_of: &AsOf) -> std::result::Result<Self, TableError> {
        let snapshot = self.tables.at(&self.snapshot, as_of).await?;
        let older = Self::new(self.reference.clone(), snapshot, Arc::clone(&self.tables));
        Ok(older.analyzed(self.analyzed.clone()))
    }

    /// Bytes that a scan reads for sure; with a filter or a limit nothing is sure.
    pub fn bytes_for_sure(&self, scan: &TableScan) -> u64 {
        match scan.fetch.is_some() || !scan.filters.is_empty() {
            true => 0,
            false => self.files().iter().map(|file| file.size).sum(),
        }
    }

    fn path_field(&self) -> Option<FieldRef> {
        self.path_column.as_ref().map(|name| Arc::new(Field::new(name, DataType::Utf8, false)))
    }

    fn files(&self) -> &[Arc<DeltaFile>] {
        self.files.as_deref().unwrap_or(&self.snapshot.files)
    }

    /// The files that filters leave, in order.
    ///
    /// The same function is what shows files to users, so that both agree.
    pub fn matching(&self, session: &dyn Session, filters: &[Expr]) -> Result<Vec<Arc<DeltaFile>>> {
        let bounds: Vec<_> = self.files().iter().map(|file| file.bounds()).collect();
        let may_match = pruning::may_match(session, &self.schema(), filters, &bounds)?;
        let kept = self.files().iter().zip(may_match).filter(|(_, may_match)| *may_match);
        Ok(kept.map(|(file, _)| Arc::clone(file)).collect())
    }

    /// A file as DataFusion's scan takes it.
    async fn open(&self, session: &dyn Session, file: &DeltaFile) -> Result<PartitionedFile> {
        let meta = ObjectMeta {
            location: file.path.clone(),
            last_modified: DateTime::from_timestamp_millis(file.modified_ms).unwrap_or_default(),
            size: file.size,
            e_tag: None,
            version: None,
        };
        let deleted = match (file.has_deleted_rows(), file.stored_rows()) {
            (false, _) => None,
            (true, Some(rows)) => self.snapshot.deleted_rows(file, rows).await?,
            (true, None) => {
                let rows = stored_rows(session, self.snapshot.location.store().as_ref(), &meta).await?;
                self.snapshot.deleted_rows(file, rows).await?
            }
        };
        let mut opened = PartitionedFile::from(meta);
        opened.partition_values = file.partition_values.clone();
        if self.path_column.is_some() {
            opened.partition_values.push(ScalarValue::from(file.path.as_ref()));
        }
        opened.table_reference = Some(self.reference.clone());
        opened.statistics = Some(Arc::new(self.statistics(file)));
        Ok(LoggedFile { deleted }.attach(opened))
    }

    /// The columns under the table's names, in the order in which a scan has them.
    fn scan_schema(&self) -> Schema {
        let columns = &self.snapshot.columns;
        let mut ordered: Vec<(usize, FieldRef)> = columns
            .scan_order()
            .into_iter()
            .zip(self.schema().fields())
            .map(|(place, field)| (place, Arc::clone(field)))
            .collect();
        ordered.sort_by_key(|(place, _)| *place);
        Schema::new(ordered.into_iter().map(|(_, field)| field).chain(self.path_field()).collect::<Fields>())
    }

    /// What the planner may take for granted of a file, by the scan's columns.
    fn statistics(&self, file: &DeltaFile) -> Statistics {
        let columns = &self.snapshot.columns;
        let mut ordered = vec![ColumnStatistics::new_unknown(); columns.0.len()];
        for (bounds, place) in file.columns().iter().zip(columns.scan_order()) {
            ordered[place] = column_statistics(bounds, file.has_deleted_rows());
        }
        if self.path_column.is_some() {
            ordered.push(ColumnStatistics::new_unknown());
        }
        let count = |it: Option<u64>| it.and_then(|it| usize::try_from(it).ok());
        Statistics {
            num_rows: count(file.rows()).map_or(Precision::Absent, Precision::Exact),
            // Compressed, so that it is less than what is read from it.
            total_byte_size: count(Some(file.size)).map_or(Precision::Absent, Precision::Inexact),
            column_statistics: ordered,
        }
    }
}

/// The rows of a file whose log entry does not say.
async fn stored_rows(session: &dyn Session, store: &dyn object_store::ObjectStore, meta: &ObjectMeta) -> Result<u64> {
    let footer = DFParquetMetadata::new(store, meta)
        .with_file_metadata_cache(Some(session.runtime_env().cache_manager.get_file_metadata_cache()))
        .fetch_metadata()
        .await
        .map_err(|error| to_datafusion(&TableError::unreadable(format!("'/{}'", meta.location), error)))?;
    Ok(footer.file_metadata().num_rows().max(0) as u64)
}

fn column_statistics(bounds: &ColumnBounds, has_deleted_rows: bool) -> ColumnStatistics {
    let bound = |value: &Option<ScalarValue>| match value {
        Some(value) if bounds.is_exact && !has_deleted_rows => Precision::Exact(value.clone()),
        Some(value) => Precision::Inexact(value.clone()),
        None => Precision::Absent,
    };
    let nulls = match bounds.nulls.and_then(|it| usize::try_from(it).ok()) {
        Some(nulls) if !has_deleted_rows => Precision::Exact(nulls),
        Some(nulls) => Precision::Inexact(nulls),
        None => Precision::Absent,
    };
    let mut statistics = ColumnStatistics::new_unknown();
    statistics.null_count = nulls;
    statistics.min_value = bound(&bounds.min);
    statistics.max_value = bound(&bounds.max);
    statistics
}

#[async_trait]
impl TableProvider for DeltaTable {
    fn schema(&self) -> SchemaRef {
        let schema = &self.snapshot.schema;
        match self.path_field() {
            Some(path) => Arc::new(Schema::new(schema.fields().iter().cloned().chain([path]).collect::<Fields>())),
            None => Arc::clone(schema),
        }
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let DeltaSnapshot { columns, location, .. } = self.snapshot.as_ref();
        let (mut files, mut rows, mut is_cut) = (vec![], Some(0u64), false);
        for file in self.matching(session, filters)? {
            files.push(TableFiles(self.files().len()).attach(self.open(session, &file).await?));
            rows = rows.zip(file.rows()).map(|(rows, more)| rows + more);
            // The files so far have all the rows that the limit asks for.
            if let (Some(limit), Some(rows)) = (limit, rows)
                && filters.is_empty()
                && rows > limit as u64
            {
                is_cut = true;
                break;
            }
        }
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(project_schema(&self.schema(), projection)?)));
        }
        let file_schema = columns.file_schema();
        let made: Vec<FieldRef> = columns.partition_fields().into_iter().chain(self.path_field()).collect();
        let table_schema = TableSchemaBuilder::from(&file_schema).with_table_partition_cols(made).build();
        let disk_bytes: u64 = files.iter().map(|it| it.object_meta.size).sum();
        let (groups, statistics) = groups(files, session.config().target_partitions(), table_schema.table_schema())?;
        let mut statistics = if is_cut { statistics.to_inexact() } else { statistics };
        let order: Vec<usize> = columns.scan_order().into_iter().chain([columns.0.len()]).collect();
        let projection: Vec<usize> = match projection {
            Some(projection) => projection.clone(),
            None => (0..self.schema().fields().len()).collect(),
        };
        let places: Vec<usize> = projection.iter().map(|&it| order[it]).collect();
        if let Some(analyzed) = &self.analyzed {
            statistics = analyzed.fill(statistics, &self.scan_schema(), &places, disk_bytes);
        }
        let reader = reader(session, FileKind::Parquet, &BTreeMap::new()).map_err(|error| to_datafusion(&error))?;
        let scan = FileScanConfigBuilder::new(location.store_url().clone(), reader.file_source(table_schema))
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(Some(places))?
            .with_limit(limit)
            .build();
        let scan = reader.create_physical_plan(session, scan).await?;
        // Column mapping never changes the path's name, which is no column of the table.
        let chosen: Vec<Option<&DeltaColumn>> = projection.iter().map(|&it| columns.0.get(it)).collect();
        if chosen.iter().flatten().all(|it| it.physical == *it.field.name()) {
            return Ok(scan);
        }
        let named = chosen.iter().enumerate().map(|(at, column)| {
            let path = self.path_column.as_deref().unwrap_or_default();
            let (physical, name) = column.map_or((path, path), |it| (it.physical.as_str(), it.field.name().as_str()));
            let expr: Arc<dyn PhysicalExpr> = Arc::new(Column::new(physical, at));
            (expr, name.to_owned())
        });
        Ok(Arc::new(ProjectionExec::try_new(named.collect::<Vec<_>>(), scan)?))
    }
}
