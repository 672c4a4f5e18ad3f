//! Writes rows as Parquet files of a Delta table: the working half of `TableSinkExec`.
//!
//! Each partition of a task has its own files, named by statement and attempt: whatever else runs, no two write to
//! one. A file ends at the target's size. Rows of a partitioned table go to one open file for each folder; when memory
//! is refused, or too many are open, the largest is ended early. What was written and then not handed on (an error, a
//! drop) is removed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, UInt64Array};
use arrow::compute::{SortColumn, filter_record_batch, lexsort_to_indices, partition, take_record_batch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Schema, SchemaRef, TimestampMicrosecondType,
};
use datafusion::common::internal_datafusion_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::parquet::basic::{Compression, GzipLevel, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::parquet::schema::types::ColumnPath;
use datafusion::physical_plan::metrics::BaselineMetrics;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use deltalake_core::kernel::Add;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use sheaf_common::{ErrorCode, WireError};
use sheaf_planners::table_sink::{SinkFormat, SinkTarget, TableWriter, files_schema};
use tracing::debug;
use uuid::Uuid;

use super::file_writer::FileWriter;
use super::stats::{date_text, decimal_text, file_statistics, timestamp_text};
use super::storage::{self, Storage};

/// Rows of a row group: small enough for a scan to be shared out and pruned, large enough to compress.
const ROW_GROUP_ROWS: usize = 256 << 10;

/// Folders whose files are open at once in one partition of a task.
const OPEN_FILES_MAX: usize = 64;

/// What a folder's name says where the value is NULL: the convention of Hive.
pub const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// Opens the storage that a target names and writes there.
#[derive(Debug)]
pub struct FileWriters {
    storage: Arc<Storage>,
}

impl FileWriters {
    pub fn new(storage: Arc<Storage>) -> Self {
        Self { storage }
    }
}

impl FileWriters {
    fn open(&self, target: &SinkTarget, context: &TaskContext) -> Result<(Arc<dyn ObjectStore>, Path)> {
        let Some(store) = &target.store else {
            let place = self.storage.open(&target.location).map_err(|error| crate::tables::to_datafusion(&error))?;
            return Ok((place.store, place.folder));
        };
        let store = context.runtime_env().object_store(ObjectStoreUrl::parse(store)?)?;
        let path = target.location.splitn(4, '/').nth(3).unwrap_or_default();
        Ok((store, Path::parse(path.trim_end_matches('/'))?))
    }
}

impl TableWriter for FileWriters {
    fn write(
        &self,
        target: &SinkTarget,
        schema: &SchemaRef,
        mut rows: SendableRecordBatchStream,
        metrics: BaselineMetrics,
        context: &TaskContext,
    ) -> Result<SendableRecordBatchStream> {
        let (store, folder) = self.open(target, context)?;
        let memory = MemoryConsumer::new("table writer").register(context.memory_pool());
        let mut files = Files::new(store, folder, target, schema, memory)?;
        let work = async move {
            while let Some(batch) = rows.next().await {
                let batch = batch?;
                let _timer = metrics.elapsed_compute().timer();
                metrics.output_rows().add(batch.num_rows());
                files.write(&batch).await?;
            }
            drop(rows);
            as_batch(&files.finish().await?)
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(files_schema(), futures::stream::once(work))))
    }
}

/// What was written, as `TableSinkExec` hands it on.
pub fn as_batch(written: &Written) -> Result<RecordBatch> {
    let external = |error: serde_json::Error| DataFusionError::External(Box::new(error));
    let files = written.files.iter().map(|it| serde_json::to_string(&it.add).map(Some)).collect::<Result<Vec<_>, _>>();
    let sources = written.sources.iter().map(|it| serde_json::to_string(it).map(Some)).collect::<Result<Vec<_>, _>>();
    let (files, sources) = (files.map_err(external)?, sources.map_err(external)?);
    let (no_file, no_source) = (vec![None; sources.len()], vec![None; files.len()]);
    let rows = written.files.iter().map(|it| it.rows).chain(written.sources.iter().map(|it| it.loaded));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter(files.into_iter().chain(no_file))),
        Arc::new(UInt64Array::from_iter_values(rows)),
        Arc::new(StringArray::from_iter(no_source.into_iter().chain(sources))),
    ];
    Ok(RecordBatch::try_new(files_schema(), columns)?)
}

/// What [`as_batch`] made, read again.
pub fn of_batch(batch: &RecordBatch) -> Result<Written> {
    let text = |idx: usize| {
        let column = batch.column(idx).as_string_opt::<i32>();
        column.ok_or_else(|| internal_datafusion_err!("a file that is no text"))
    };
    let (files, rows, sources) = (text(0)?, batch.column(1).as_primitive_opt(), text(2)?);
    let rows: &UInt64Array = rows.ok_or_else(|| internal_datafusion_err!("rows that are no number"))?;
    let broken = |error: serde_json::Error| internal_datafusion_err!("a file that cannot be read: {error}");
    let mut written = Written::default();
    for ((file, rows), source) in files.iter().zip(rows.values()).zip(sources.iter()) {
        if let Some(file) = file {
            written.files.push(WrittenFile { add: serde_json::from_str(file).map_err(broken)?, rows: *rows });
        }
        if let Some(source) = source {
            written.sources.push(serde_json::from_str(source).map_err(broken)?);
        }
    }
    Ok(written)
}

/// What a partition of a task, or all of them, wrote.
#[derive(Debug, Default, Clone)]
pub struct Written {
    pub files: Vec<WrittenFile>,
    /// Where the rows were loaded from, if they were; a file may come more than once.
    pub sources: Vec<LoadedSource>,
}

impl Written {
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|it| it.rows).sum()
    }

    pub fn extend(&mut self, more: Self) {
        self.files.extend(more.files);
        self.sources.extend(more.sources);
    }
}

/// What became of the rows of a file.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct LoadedSource {
    pub source: String,
    pub loaded: u64,
    pub rejected: u64,
    /// Why the first of them was.
    pub error: Option<String>,
}

impl LoadedSource {
    pub fn add(&mut self, more: Self) {
        self.loaded += more.loaded;
        self.rejected += more.rejected;
        self.error = self.error.take().or(more.error);
    }
}

/// A file that is whole and on its storage, and not yet part of its table.
#[derive(Debug, Clone)]
pub struct WrittenFile {
    pub add: Add,
    pub rows: u64,
}

/// Values of the partition columns, as the log has them.
type Key = Vec<Option<String>>;

struct OpenFile {
    /// Within the table's folder.
    path: String,
    writer: FileWriter,
    rows: u64,
    /// By column of the file.
    with_nan: Vec<bool>,
}

/// The files of one partition of one task.
pub struct Files {
    store: Arc<dyn ObjectStore>,
    folder: Path,
    /// The table's columns; those that files hold, by position; those that folders hold.
    schema: SchemaRef,
    file_schema: SchemaRef,
    in_file: Vec<usize>,
    in_folder: Vec<usize>,
    properties: WriterProperties,
    format: SinkFormat,
    file_bytes: u64,
    /// What all names begin with.
    prefix: String,
    n_begun: usize,
    open: HashMap<Key, OpenFile>,
    done: Vec<WrittenFile>,
    /// What may be left out, and what was loaded, by source.
    rejects_max: Option<u64>,
    sources: BTreeMap<String, LoadedSource>,
    /// Paths that have to go when the files are not handed on.
    begun: Vec<String>,
    memory: MemoryReservation,
}

impl Files {
    pub fn new(
        store: Arc<dyn ObjectStore>,
        folder: Path,
        target: &SinkTarget,
        schema: &SchemaRef,
        memory: MemoryReservation,
    ) -> Result<Self> {
        let in_folder = target.partition_columns.iter().map(|it| schema.index_of(it)).collect::<Result<Vec<_>, _>>()?;
        let in_file: Vec<usize> = (0..schema.fields().len()).filter(|it| !in_folder.contains(it)).collect();
        let mut properties = WriterProperties::builder()
            .set_compression(compression(&target.format)?)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_created_by(format!("SheafDB {}", env!("CARGO_PKG_VERSION")));
        for column in &target.bloom_columns {
            properties = properties.set_column_bloom_filter_enabled(ColumnPath::from(column.as_str()), true);
        }
        Ok(Self {
            store,
            folder,
            schema: Arc::clone(schema),
            file_schema: Arc::new(schema.project(&in_file)?),
            in_file,
            in_folder,
            properties: properties.build(),
            format: target.format.clone(),
            file_bytes: target.file_bytes.max(1),
            prefix: format!("part-{}-{}", target.statement, Uuid::new_v4().simple()),
            n_begun: 0,
            open: HashMap::new(),
            done: vec![],
            rejects_max: target.rejects_max,
            sources: BTreeMap::new(),
            begun: vec![],
            memory,
        })
    }

    /// Writes rows of the table's columns.
    ///
    /// Errs at a NULL in a column that has none, at a text of no length for a partition, and when storage fails.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let loaded;
        let batch = match self.rejects_max {
            Some(rejects_max) => {
                loaded = self.taken(batch, rejects_max)?;
                &loaded
            }
            None => batch,
        };
        check_nulls(batch, &self.schema)?;
        if self.in_folder.is_empty() {
            return self.write_part(vec![], batch.columns().to_vec(), batch.num_rows()).await;
        }
        let columns: Vec<SortColumn> = self
            .in_folder
            .iter()
            .map(|it| SortColumn { values: Arc::clone(batch.column(*it)), options: None })
            .collect();
        let sorted = take_record_batch(batch, &lexsort_to_indices(&columns, None)?)?;
        let keys: Vec<ArrayRef> = self.in_folder.iter().map(|it| Arc::clone(sorted.column(*it))).collect();
        for range in partition(&keys)?.ranges() {
            let mut key = Vec::with_capacity(keys.len());
            for (column, idx) in keys.iter().zip(&self.in_folder) {
                key.push(partition_text(column, range.start, self.schema.field(*idx))?);
            }
            let part = sorted.slice(range.start, range.len());
            self.write_part(key, part.columns().to_vec(), part.num_rows()).await?;
        }
        Ok(())
    }

    async fn write_part(&mut self, key: Key, columns: Vec<ArrayRef>, rows: usize) -> Result<()> {
        if !self.open.contains_key(&key) {
            if self.open.len() >= OPEN_FILES_MAX {
                self.end_largest().await?;
            }
            let file = self.begin(&key)?;
            self.open.insert(key.clone(), file);
        }
        let columns: Vec<ArrayRef> = self.in_file.iter().map(|it| Arc::clone(&columns[*it])).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let part = RecordBatch::try_new_with_options(Arc::clone(&self.file_schema), columns, &options)?;
        let Some(file) = self.open.get_mut(&key) else { return Ok(()) };
        for (seen, column) in file.with_nan.iter_mut().zip(part.columns()) {
            *seen = *seen || has_nan(column);
        }
        file.writer.write(&part).await?;
        file.rows += rows as u64;
        if file.writer.bytes() >= self.file_bytes {
            self.end(&key).await?;
        }
        self.account().await
    }

    /// Asks for the memory that open files take; ends files until it is granted.
    async fn account(&mut self) -> Result<()> {
        loop {
            let bytes = self.open.values().map(|it| it.writer.memory_size()).sum();
            match self.memory.try_resize(bytes) {
                Ok(()) => return Ok(()),
                Err(refused) if self.open.is_empty() => return Err(refused),
                Err(_) => self.end_largest().await?,
            }
        }
    }

    fn begin(&mut self, key: &Key) -> Result<OpenFile> {
        let mut path = String::new();
        for (value, idx) in key.iter().zip(&self.in_folder) {
            let value = value.as_deref().map_or(NULL_PARTITION.to_owned(), escaped);
            path += &format!("{}={value}/", escaped(self.schema.field(*idx).name()));
        }
        path += &format!("{}-{:05}.{}", self.prefix, self.n_begun, ending(&self.format));
        self.n_begun += 1;
        let (store, at) = (Arc::clone(&self.store), storage::below(&self.folder, &path)?);
        let writer = FileWriter::begin(store, at, &self.file_schema, &self.format, &self.properties)?;
        self.begun.push(path.clone());
        Ok(OpenFile { path, writer, rows: 0, with_nan: vec![false; self.in_file.len()] })
    }

    async fn end_largest(&mut self) -> Result<()> {
        let largest = self.open.iter().max_by_key(|(_, it)| it.writer.memory_size()).map(|(key, _)| key.clone());
        match largest {
            Some(key) => self.end(&key).await,
            None => Ok(()),
        }
    }

    async fn end(&mut self, key: &Key) -> Result<()> {
        let Some(file) = self.open.remove(key) else { return Ok(()) };
        let (bytes, metadata) = file.writer.finish().await?;
        let partition_values = key
            .iter()
            .zip(&self.in_folder)
            .map(|(value, idx)| (self.schema.field(*idx).name().clone(), value.clone()))
            .collect();
        let add = Add {
            path: file.path,
            partition_values,
            size: i64::try_from(bytes).unwrap_or(i64::MAX),
            modification_time: now_ms(),
            data_change: true,
            stats: metadata.map(|it| file_statistics(&it, &self.file_schema, &file.with_nan)),
            ..Add::default()
        };
        self.done.push(WrittenFile { add, rows: file.rows });
        Ok(())
    }

    /// Ends all files and hands them on.
    pub async fn finish(mut self) -> Result<Written> {
        let keys: Vec<Key> = self.open.keys().cloned().collect();
        for key in keys {
            self.end(&key).await?;
        }
        self.begun.clear();
        let sources = std::mem::take(&mut self.sources).into_values().collect();
        Ok(Written { files: std::mem::take(&mut self.done), sources })
    }

    /// The rows of a load that the table takes, counted by where they are from.
    ///
    /// Errs when more have to be left out than may be.
    fn taken(&mut self, batch: &RecordBatch, rejects_max: u64) -> Result<RecordBatch> {
        let n_columns = self.schema.fields().len();
        let text = |idx: usize| arrow::compute::cast(batch.column(idx), &DataType::Utf8);
        let (sources, errors) = (text(n_columns)?, text(n_columns + 1)?);
        let (sources, errors) = (sources.as_string::<i32>(), errors.as_string::<i32>());
        for (source, error) in sources.iter().zip(errors) {
            let source = source.unwrap_or_default();
            if !self.sources.contains_key(source) {
                let begun = LoadedSource { source: source.to_owned(), ..LoadedSource::default() };
                self.sources.insert(source.to_owned(), begun);
            }
            let Some(counts) = self.sources.get_mut(source) else { continue };
            match error {
                None => counts.loaded += 1,
                Some(error) => {
                    counts.rejected += 1;
                    counts.error.get_or_insert_with(|| error.to_owned());
                }
            }
        }
        let rejected: u64 = self.sources.values().map(|it| it.rejected).sum();
        if rejected > rejects_max {
            let first = self.sources.values().find_map(|it| Some((it.source.as_str(), it.error.as_deref()?)));
            let (source, error) = first.unwrap_or_default();
            let (code, text) = match rejects_max {
                0 => (ErrorCode::TypeMismatch, format!("cannot load file '{source}': {error}")),
                _ => {
                    let text =
                        format!("more than {rejects_max} rows could not be loaded; one of file '{source}': {error}");
                    (ErrorCode::InvalidArgument, text)
                }
            };
            return Err(DataFusionError::External(Box::new(WireError::new(code, text))));
        }
        let kept = arrow::compute::is_null(errors)?;
        let columns: Vec<usize> = (0..n_columns).collect();
        Ok(filter_record_batch(&batch.project(&columns)?, &kept)?)
    }
}

impl Drop for Files {
    /// Removes what was begun and not handed on. Off this thread, since nothing here may wait.
    fn drop(&mut self) {
        let begun = std::mem::take(&mut self.begun);
        let (false, Ok(runtime)) = (begun.is_empty(), tokio::runtime::Handle::try_current()) else { return };
        let open: Vec<OpenFile> = self.open.drain().map(|(_, file)| file).collect();
        let (store, folder) = (Arc::clone(&self.store), self.folder.clone());
        runtime.spawn(async move {
            for file in open {
                file.writer.abort().await;
            }
            for path in begun {
                let Ok(path) = storage::below(&folder, &path) else { continue };
                match store.delete(&path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => debug!(%path, %error, "a file of a statement that failed stays; VACUUM removes it"),
                }
            }
        });
    }
}

/// What a file's name ends with.
fn ending(format: &SinkFormat) -> &'static str {
    match format {
        SinkFormat::Table => "zstd.parquet",
        SinkFormat::Parquet { .. } => "parquet",
        SinkFormat::Csv { .. } => "csv",
        SinkFormat::Json => "json",
        SinkFormat::Arrow => "arrow",
    }
}

/// Errs when there is no compression of that name.
fn compression(format: &SinkFormat) -> Result<Compression> {
    let SinkFormat::Parquet { compression } = format else { return Ok(Compression::ZSTD(ZstdLevel::default())) };
    Ok(match compression.to_ascii_lowercase().as_str() {
        "zstd" => Compression::ZSTD(ZstdLevel::default()),
        "snappy" => Compression::SNAPPY,
        "gzip" => Compression::GZIP(GzipLevel::default()),
        "lz4" => Compression::LZ4_RAW,
        "none" | "uncompressed" => Compression::UNCOMPRESSED,
        other => {
            let text = format!("there is no compression '{other}': use zstd, snappy, gzip, lz4 or none");
            return Err(DataFusionError::External(Box::new(WireError::new(ErrorCode::InvalidArgument, text))));
        }
    })
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Errs as [`Files::write`] would for rows that the table cannot hold, before anything is written.
pub fn check_rows(batch: &RecordBatch, schema: &Schema, partition_columns: &[String]) -> Result<()> {
    check_nulls(batch, schema)?;
    for name in partition_columns {
        let idx = schema.index_of(name)?;
        for row in 0..batch.num_rows() {
            partition_text(batch.column(idx), row, schema.field(idx))?;
        }
    }
    Ok(())
}

fn check_nulls(batch: &RecordBatch, schema: &Schema) -> Result<()> {
    for (column, field) in batch.columns().iter().zip(schema.fields()) {
        if !field.is_nullable() && column.logical_null_count() > 0 {
            let text = format!("column '{}' cannot be null", field.name());
            return Err(DataFusionError::External(Box::new(WireError::new(ErrorCode::NullNotAllowed, text))));
        }
    }
    Ok(())
}

fn has_nan(column: &ArrayRef) -> bool {
    match column.data_type() {
        DataType::Float32 => column.as_primitive::<Float32Type>().values().iter().any(|it| it.is_nan()),
        DataType::Float64 => column.as_primitive::<Float64Type>().values().iter().any(|it| it.is_nan()),
        _ => false,
    }
}

/// A value of a partition column as the log has it.
///
/// Errs for a text of no length, which readers of Delta Lake take for NULL.
fn partition_text(column: &ArrayRef, row: usize, field: &Field) -> Result<Option<String>> {
    if column.is_null(row) {
        return Ok(None);
    }
    let invalid = |why: &str| {
        let text = format!("column '{}' partitions the table and cannot hold {why}", field.name());
        DataFusionError::External(Box::new(WireError::new(ErrorCode::InvalidArgument, text)))
    };
    Ok(Some(match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::Int8 => column.as_primitive::<Int8Type>().value(row).to_string(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Decimal128(_, scale) => {
            decimal_text(column.as_primitive::<Decimal128Type>().value(row), u32::try_from(*scale).unwrap_or(0))
        }
        DataType::Utf8View => match column.as_string_view().value(row) {
            "" => return Err(invalid("a text of no length, which Delta Lake takes for NULL")),
            text => text.to_owned(),
        },
        DataType::Date32 => date_text(i64::from(column.as_primitive::<Date32Type>().value(row)))
            .ok_or_else(|| invalid("a date beyond the calendar"))?,
        DataType::Timestamp(..) => timestamp_text(column.as_primitive::<TimestampMicrosecondType>().value(row))
            .ok_or_else(|| invalid("a time beyond the calendar"))?
            .replace('T', " "),
        other => return Err(invalid(&format!("values of type {other}"))),
    }))
}

/// Whether a table can be partitioned by columns of this type.
pub fn can_partition(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(data_type, Boolean | Int8 | Int16 | Int32 | Int64 | Decimal128(..) | Utf8View | Date32 | Timestamp(..))
}

/// A name or value as part of a folder's name: what is not a letter, a digit or one of `-_.~` as `%41`.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => escaped += &format!("%{byte:02X}"),
        }
    }
    // A folder of this name would lead elsewhere.
    if escaped.chars().all(|it| it == '.') { escaped.replace('.', "%2E") } else { escaped }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int32Array, StringViewArray};
    use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool, UnboundedMemoryPool};
    use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::managed::durable_store::DurableStore;

    fn table() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int32, false),
            Field::new("k", DataType::Utf8View, true),
            Field::new("x", DataType::Float64, true),
        ]))
    }

    fn rows(ids: &[Option<i32>], keys: &[Option<&str>]) -> RecordBatch {
        let schema =
            Schema::new(table().fields().iter().map(|it| it.as_ref().clone().with_nullable(true)).collect::<Vec<_>>());
        let xs = Float64Array::from_iter_values(ids.iter().map(|it| f64::from(it.unwrap_or_default())));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(ids.to_vec())),
            Arc::new(StringViewArray::from(keys.to_vec())),
            Arc::new(xs),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn files(folder: &tempfile::TempDir, partitioned: bool, file_bytes: u64, pool: Arc<dyn MemoryPool>) -> Files {
        let target = SinkTarget {
            location: String::new(),
            statement: "q1".into(),
            partition_columns: if partitioned { vec!["k".into()] } else { vec![] },
            file_bytes,
            ..SinkTarget::default()
        };
        let memory = MemoryConsumer::new("test").register(&pool);
        let at = Path::from_absolute_path(folder.path()).unwrap();
        Files::new(Arc::new(DurableStore::default()), at, &target, &table(), memory).unwrap()
    }

    fn read(folder: &tempfile::TempDir, add: &Add) -> Vec<i32> {
        let file = std::fs::File::open(folder.path().join(&add.path)).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        reader.flat_map(|batch| batch.unwrap().column(0).as_primitive::<Int32Type>().values().to_vec()).collect()
    }

    fn n_files(folder: &tempfile::TempDir) -> usize {
        let mut n_files = 0;
        let mut folders = vec![folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { n_files += 1 }
            }
        }
        n_files
    }

    #[tokio::test]
    async fn each_folder_has_the_rows_of_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = files(&folder, true, 1 << 20, Arc::new(UnboundedMemoryPool::default()));
        let ids = [Some(1), Some(2), Some(3), Some(4)];
        files.write(&rows(&ids, &[Some("a/b"), None, Some("a/b"), Some("..")])).await.unwrap();
        files.write(&rows(&[], &[])).await.unwrap();
        files.write(&rows(&[Some(5)], &[None])).await.unwrap();
        let mut written = files.finish().await.unwrap().files;
        written.sort_by(|a, b| a.add.partition_values["k"].cmp(&b.add.partition_values["k"]));
        let found: Vec<_> = written
            .iter()
            .map(|it| (it.add.partition_values["k"].as_deref(), read(&folder, &it.add), it.rows))
            .collect();
        assert_eq!(found, [(None, vec![2, 5], 2), (Some(".."), vec![4], 1), (Some("a/b"), vec![1, 3], 2)]);
        assert!(written[2].add.path.starts_with("k=a%2Fb/part-q1-"), "{}", written[2].add.path);
        assert!(written[1].add.path.starts_with("k=%2E%2E/"), "{}", written[1].add.path);
        assert_eq!(n_files(&folder), 3);
        // What is handed on comes back the same.
        let all = Written { files: written.clone(), sources: vec![] };
        let back = of_batch(&as_batch(&all).unwrap()).unwrap().files;
        assert_eq!((&back[0].add.path, back[0].rows), (&written[0].add.path, 2));
        assert_eq!(
            back[0].add.size,
            i64::try_from(std::fs::metadata(folder.path().join(&written[0].add.path)).unwrap().len()).unwrap()
        );
    }

    #[tokio::test]
    async fn files_end_at_their_size_and_when_memory_is_refused() {
        let many: Vec<Option<i32>> = (0..20_000).map(Some).collect();
        let keys = vec![Some("x"); many.len()];
        for (file_bytes, pool) in [
            (10_000, Arc::new(UnboundedMemoryPool::default()) as Arc<dyn MemoryPool>),
            (1 << 30, Arc::new(GreedyMemoryPool::new(100_000)) as Arc<dyn MemoryPool>),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut files = files(&folder, false, file_bytes, pool);
            for _ in 0..5 {
                files.write(&rows(&many, &keys)).await.unwrap();
            }
            let written = files.finish().await.unwrap().files;
            assert!(written.len() > 1, "{}", written.len());
            assert_eq!(written.iter().map(|it| it.rows).sum::<u64>(), 100_000);
            let read: usize = written.iter().map(|it| read(&folder, &it.add).len()).sum();
            assert_eq!(read, 100_000);
        }
    }

    #[tokio::test]
    async fn nulls_and_empty_values_are_refused_where_they_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        let pool = || Arc::new(UnboundedMemoryPool::default());
        let error = files(&folder, false, 1, pool()).write(&rows(&[None], &[Some("a")])).await.unwrap_err();
        assert!(error.to_string().contains("column 'id' cannot be null"), "{error}");
        let error = files(&folder, true, 1, pool()).write(&rows(&[Some(1)], &[Some("")])).await.unwrap_err();
        assert!(error.to_string().contains("column 'k' partitions the table"), "{error}");
    }

    #[tokio::test]
    async fn what_is_dropped_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = files(&folder, true, 1, Arc::new(UnboundedMemoryPool::default()));
        files.write(&rows(&[Some(1), Some(2)], &[Some("a"), Some("b")])).await.unwrap();
        assert_eq!(n_files(&folder), 2);
        drop(files);
        for _ in 0..200 {
            if n_files(&folder) == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{} files are left", n_files(&folder));
    }
}
