//! Files as a table: Parquet, CSV or JSON at one or more locations, listed anew by every query, once.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::stats::{NdvFallback, Precision};
use datafusion::common::{DFSchema, ScalarValue, Statistics, TableReference, exec_err, project_schema};
use datafusion::datasource::file_format::csv::CsvFormatFactory;
use datafusion::datasource::file_format::json::JsonFormatFactory;
use datafusion::datasource::file_format::parquet::ParquetFormatFactory;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::listing::helpers::{expr_applicable_for_cols, filter_partitioned_file};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchemaBuilder;
use datafusion::error::Result;
use datafusion::execution::cache::cache_manager::{CachedFileMetadata, SchemaFingerprint, TableScopedPath};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableScan, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path as StorePath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use super::files::{self, FileKind, FoundFile};
use super::listings::{ListingKey, Listings};
use super::roots::Roots;
use super::{TableError, to_datafusion};

/// What writers of partitioned tables call a NULL in a folder's name.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// One column as it is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDef {
    pub name: String,
    /// Arrow's name of the type.
    #[serde(rename = "type")]
    pub type_name: TypeName,
    pub nullable: bool,
}

impl ColumnDef {
    fn new(field: &Field) -> Self {
        let type_name = TypeName(field.data_type().clone());
        Self { name: field.name().clone(), type_name, nullable: field.is_nullable() }
    }

    fn field(&self) -> Field {
        Field::new(&self.name, self.type_name.0.clone(), self.nullable)
    }
}

/// A type that reads and writes itself as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeName(pub DataType);

impl Serialize for TypeName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TypeName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        DataType::from_str(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// What makes files a table. Kept in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesDef {
    pub format: FileKind,
    /// Absolute paths of files, folders or patterns.
    pub locations: Vec<String>,
    /// Options of the format, under DataFusion's names: `format.has_header`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Columns that the files hold.
    pub columns: Vec<ColumnDef>,
    /// Columns whose values stand in the names of folders.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<ColumnDef>,
}

impl FilesDef {
    fn file_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(ColumnDef::field).collect::<Vec<_>>()))
    }

    /// The table's columns: those of the files, then those of the folders.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().chain(&self.partitions).map(ColumnDef::field).collect::<Vec<_>>()))
    }
}

/// What a statement says about files that are to become a table.
#[derive(Debug, Clone, Default)]
pub struct FilesRequest {
    /// `None` goes by the files' names.
    pub format: Option<FileKind>,
    pub locations: Vec<String>,
    /// `None` asks the files.
    pub columns: Option<SchemaRef>,
    /// Columns whose values stand in the names of folders; empty asks the folders, unless columns are given.
    pub partitions: Vec<String>,
    pub options: HashMap<String, String>,
}

/// Looks at the files of a request and says what table they make.
///
/// Errs when a location is not allowed, holds no file although the files were to be asked for their columns, or holds
/// one that cannot be read.
pub async fn define(
    session: &dyn Session,
    roots: &Arc<Roots>,
    request: FilesRequest,
) -> std::result::Result<FilesDef, TableError> {
    let Some(first) = request.locations.first().cloned() else {
        return Err(TableError::invalid("a table of files needs a location"));
    };
    let found = {
        let (roots, texts, format) = (Arc::clone(roots), request.locations.clone(), request.format);
        blocking(&first, move || find(&roots, &texts, format)).await?
    };
    let Found { format, locations, files } = found;
    let options = options(&request.options, format, &first, &files)?;
    let reader = reader(session, format, &options)?;
    let file_columns = match &request.columns {
        Some(columns) => columns.as_ref().clone(),
        None if files.is_empty() => return Err(TableError::NoFiles { path: first, format: format.name() }),
        None => infer_columns(session, reader.as_ref(), &files).await?,
    };
    let names = match request.columns.is_none() && request.partitions.is_empty() {
        true => partition_names(&files, &file_columns)?,
        false => request.partitions,
    };
    let mut partitions = vec![];
    for name in names {
        // Values that no column was declared for are text.
        let declared = file_columns.field_with_name(&name).map(|field| field.data_type().clone());
        let type_name = TypeName(declared.unwrap_or(DataType::Utf8));
        partitions.push(ColumnDef { name, type_name, nullable: true });
    }
    let is_partition = |field: &Field| partitions.iter().any(|column| column.name == *field.name());
    let columns: Vec<ColumnDef> =
        file_columns.fields().iter().filter(|field| !is_partition(field)).map(|field| ColumnDef::new(field)).collect();
    check_columns(&columns, &partitions)?;
    Ok(FilesDef { format, locations, options, columns, partitions })
}

struct Found {
    format: FileKind,
    locations: Vec<String>,
    files: Vec<FoundFile>,
}

fn find(roots: &Roots, texts: &[String], format: Option<FileKind>) -> std::result::Result<Found, TableError> {
    let mut format = format;
    let (mut locations, mut files) = (vec![], vec![]);
    for text in texts {
        let location = roots.resolve(text)?;
        // Which format a folder holds is what the first file of a known one says.
        format = match format {
            Some(format) => Some(format),
            None => {
                let all = files::list(roots, &location, None)?;
                all.iter().find_map(|file| FileKind::of_path(&file.path.to_string_lossy()))
            }
        };
        let Some(format) = format else {
            return Err(TableError::invalid(format!("cannot tell the format of '{text}' by its name")));
        };
        files.extend(files::list(roots, &location, Some(format))?);
        locations.push(location.text());
    }
    let format = format.ok_or_else(|| TableError::invalid("a table of files needs a location"))?;
    Ok(Found { format, locations, files })
}

/// Runs work that touches the disk off the runtime. `path` is what an error shows.
async fn blocking<T: Send + 'static>(
    path: &str,
    work: impl FnOnce() -> std::result::Result<T, TableError> + Send + 'static,
) -> std::result::Result<T, TableError> {
    SpawnedTask::spawn_blocking(work).await.map_err(|error| TableError::unreadable(path, error))?
}

/// The options of a format under the names that DataFusion knows.
fn options(
    given: &HashMap<String, String>,
    format: FileKind,
    location: &str,
    files: &[FoundFile],
) -> std::result::Result<BTreeMap<String, String>, TableError> {
    let mut options = BTreeMap::new();
    for (name, value) in given {
        let name = name.to_ascii_lowercase();
        let name = match name.strip_prefix("format.").unwrap_or(&name) {
            "header" => "has_header",
            "sep" | "separator" => "delimiter",
            other => other,
        };
        let value = if name == "delimiter" && value == "\\t" { "\t" } else { value };
        if options.insert(format!("format.{name}"), value.to_owned()).is_some() {
            return Err(TableError::invalid(format!("option '{name}' is given twice")));
        }
    }
    if format != FileKind::Parquet {
        let first = files.first().map_or(location.to_owned(), |file| file.path.to_string_lossy().into_owned());
        if let Some(compression) = files::compression_of_path(&first) {
            options.entry("format.compression".to_owned()).or_insert_with(|| compression.to_owned());
        }
        if format == FileKind::Csv && first.contains(".tsv") {
            options.entry("format.delimiter".to_owned()).or_insert_with(|| "\t".to_owned());
        }
    }
    Ok(options)
}

/// DataFusion's reader of a format, with the session's and the table's options.
fn reader(
    session: &dyn Session,
    format: FileKind,
    options: &BTreeMap<String, String>,
) -> std::result::Result<Arc<dyn FileFormat>, TableError> {
    let options: HashMap<String, String> = options.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let created = match format {
        FileKind::Parquet => ParquetFormatFactory::new().create(session, &options),
        FileKind::Csv => CsvFormatFactory::new().create(session, &options),
        FileKind::Json => JsonFormatFactory::new().create(session, &options),
    };
    created.map_err(|error| TableError::invalid(format!("option of {} is wrong: {error}", format.name())))
}

fn store(session: &dyn Session) -> Result<Arc<dyn ObjectStore>> {
    session.runtime_env().object_store(ObjectStoreUrl::local_filesystem())
}

fn unreadable(file: &FoundFile, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TableError {
    TableError::unreadable(file.path.display().to_string(), error)
}

async fn head(store: &dyn ObjectStore, file: &FoundFile) -> std::result::Result<ObjectMeta, TableError> {
    let path = StorePath::from_absolute_path(&file.path).map_err(|error| unreadable(file, error))?;
    store.head(&path).await.map_err(|error| unreadable(file, error))
}

async fn infer_columns(
    session: &dyn Session,
    reader: &dyn FileFormat,
    files: &[FoundFile],
) -> std::result::Result<Schema, TableError> {
    let store = store(session).map_err(|error| unreadable(&files[0], error))?;
    let concurrency = session.config_options().execution.meta_fetch_concurrency.get();
    // Collected first: a stream that made them would need one lifetime for all.
    let heads: Vec<_> = files.iter().map(|file| head(store.as_ref(), file)).collect();
    let metas: Vec<ObjectMeta> = futures::stream::iter(heads).buffered(concurrency).try_collect().await?;
    // An empty text file says nothing; an empty Parquet file is a broken one.
    let is_parquet = reader.get_ext() == "parquet";
    let (files, metas): (Vec<_>, Vec<_>) =
        files.iter().zip(metas).filter(|(_, meta)| is_parquet || meta.size > 0).unzip();
    let error = match read_schema(session, reader, &store, &metas).await {
        Ok(schema) if schema.fields().is_empty() && !metas.is_empty() => {
            return Err(unreadable(files[0], "it has no column"));
        }
        Ok(schema) => return Ok(schema.as_ref().clone().with_metadata(HashMap::new())),
        Err(error) => error,
    };
    // The reader does not say which file it was.
    for (file, meta) in files.iter().zip(&metas) {
        if let Err(error) = read_schema(session, reader, &store, std::slice::from_ref(meta)).await {
            return Err(unreadable(file, error));
        }
    }
    Err(TableError::invalid(format!("the files do not fit together: {error}")))
}

/// The reader's `infer_schema`. It panics on some damaged Parquet footers, which is the file's fault and no bug.
async fn read_schema(
    session: &dyn Session,
    reader: &dyn FileFormat,
    store: &Arc<dyn ObjectStore>,
    metas: &[ObjectMeta],
) -> Result<SchemaRef> {
    match AssertUnwindSafe(reader.infer_schema(session, store, metas)).catch_unwind().await {
        Ok(schema) => schema,
        Err(_) => exec_err!("its metadata is damaged"),
    }
}

/// The `key` of the `key=value` folders that all files lie in; a column that the files hold themselves wins.
fn partition_names(files: &[FoundFile], columns: &Schema) -> std::result::Result<Vec<String>, TableError> {
    let keys = |file: &FoundFile| file.partitions.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    let Some(first) = files.first().map(keys) else { return Ok(vec![]) };
    match files.iter().find(|file| keys(file) != first) {
        Some(other) => Err(TableError::invalid(format!(
            "files '{}' and '{}' lie in differently partitioned folders",
            files[0].path.display(),
            other.path.display()
        ))),
        None => Ok(first.into_iter().filter(|name| columns.field_with_name(name).is_err()).collect()),
    }
}

fn check_columns(columns: &[ColumnDef], partitions: &[ColumnDef]) -> std::result::Result<(), TableError> {
    let mut names: Vec<&str> = columns.iter().chain(partitions).map(|column| column.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(TableError::invalid(format!("column '{}' exists twice", pair[0])));
    }
    for ColumnDef { name, type_name: TypeName(data_type), .. } in columns.iter().chain(partitions) {
        // The catalog keeps types as text: one that does not read back would be lost at the next start.
        if DataType::from_str(&data_type.to_string()).ok().as_ref() != Some(data_type) {
            return Err(TableError::Unsupported { what: format!("type {data_type} of column '{name}'") });
        }
    }
    Ok(())
}

/// A table of files.
pub struct FilesTable {
    /// Keeps the statistics of tables with other columns over the same files apart.
    reference: TableReference,
    def: FilesDef,
    roots: Arc<Roots>,
    file_schema: SchemaRef,
    schema: SchemaRef,
    fingerprint: Arc<SchemaFingerprint>,
}

impl fmt::Debug for FilesTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesTable").field("reference", &self.reference).field("def", &self.def).finish()
    }
}

impl FilesTable {
    pub fn new(reference: TableReference, def: FilesDef, roots: Arc<Roots>) -> Self {
        let (file_schema, schema) = (def.file_schema(), def.schema());
        let fingerprint = Arc::new(SchemaFingerprint::from_schema(&file_schema));
        Self { reference, def, roots, file_schema, schema, fingerprint }
    }

    pub fn def(&self) -> &FilesDef {
        &self.def
    }

    async fn list(&self, listings: &Listings) -> std::result::Result<Arc<Vec<FoundFile>>, TableError> {
        let (roots, locations, format) = (Arc::clone(&self.roots), self.def.locations.clone(), self.def.format);
        let list = move || {
            let mut all = vec![];
            for text in &locations {
                all.extend(files::list(&roots, &roots.resolve(text)?, Some(format))?);
            }
            all.sort_by(|a: &FoundFile, b: &FoundFile| a.path.cmp(&b.path));
            all.dedup_by(|a, b| a.path == b.path);
            Ok(all)
        };
        let key = ListingKey { locations: self.def.locations.clone(), format };
        let shown = self.def.locations.join(", ");
        listings.files(key, blocking(&shown, list)).await
    }

    /// Bytes that a scan of the table reads for sure, before it is planned; counted until there are `enough`. What it
    /// looks at is not looked at again by the same query.
    ///
    /// A filter on folders or a limit may leave nothing of a large table, so that then nothing is sure. Nor are files
    /// that cannot be read: the scan itself says so better.
    pub async fn bytes_for_sure(&self, session: &dyn Session, scan: &TableScan, enough: u64) -> u64 {
        let is_cut = scan.fetch.is_some() || scan.filters.iter().any(|it| self.is_on_partitions(it));
        let listings = Listings::of(session);
        let (false, Ok(store), Ok(found)) = (is_cut, store(session), self.list(&listings).await) else { return 0 };
        let concurrency = session.config_options().execution.meta_fetch_concurrency.get();
        // Collected first: a stream that made them would need one lifetime for all.
        let metas: Vec<_> = found.iter().map(|file| listings.meta(&file.path, head(store.as_ref(), file))).collect();
        let mut metas = futures::stream::iter(metas).buffered(concurrency);
        let mut bytes = 0;
        while bytes < enough
            && let Some(Ok(meta)) = metas.next().await
        {
            bytes += meta.size;
        }
        bytes
    }

    /// The values of the partition columns, in the table's order.
    fn partition_values(&self, file: &FoundFile) -> std::result::Result<Vec<ScalarValue>, TableError> {
        let value = |column: &ColumnDef| {
            let TypeName(data_type) = &column.type_name;
            let found = file.partitions.iter().find(|(key, _)| *key == column.name).map(|(_, value)| value);
            match found.map(String::as_str) {
                None => Err(unreadable(file, format!("its folders give no value for column '{}'", column.name))),
                Some(NULL_PARTITION) => ScalarValue::try_from(data_type).map_err(|error| unreadable(file, error)),
                Some(text) => ScalarValue::try_from_string(text.to_owned(), data_type).map_err(|_| {
                    unreadable(file, format!("value '{text}' of column '{}' is no {data_type}", column.name))
                }),
            }
        };
        self.def.partitions.iter().map(value).collect()
    }

    /// What is known about a file, from the cache if it has not changed since.
    async fn statistics(
        &self,
        session: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        reader: &dyn FileFormat,
        meta: &ObjectMeta,
    ) -> Result<Arc<Statistics>> {
        let cache = session.runtime_env().cache_manager.get_file_statistic_cache();
        let key = TableScopedPath { table: Some(self.reference.clone()), path: meta.location.clone() };
        if let Some(cached) = cache.as_ref().and_then(|cache| cache.get(&key))
            && cached.is_valid_for(meta, &self.fingerprint)
        {
            return Ok(cached.statistics);
        }
        let mut statistics = reader.infer_stats(session, store, Arc::clone(&self.file_schema), meta).await?;
        forget_float_bounds(&mut statistics, &self.file_schema);
        let statistics = Arc::new(statistics);
        if let Some(cache) = cache {
            let entry =
                CachedFileMetadata::new(meta.clone(), Arc::clone(&self.fingerprint), Arc::clone(&statistics), None);
            cache.put(&key, entry);
        }
        Ok(statistics)
    }

    async fn open(
        &self,
        session: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        reader: &dyn FileFormat,
        listings: &Listings,
        file: &FoundFile,
        filters: &[Expr],
    ) -> Result<Option<PartitionedFile>> {
        let meta = listings.meta(&file.path, head(store.as_ref(), file)).await?;
        if meta.size == 0 && self.def.format != FileKind::Parquet {
            return Ok(None);
        }
        let mut opened = PartitionedFile::from(meta.clone());
        opened.partition_values = self.partition_values(file)?;
        opened.table_reference = Some(self.reference.clone());
        // A NULL makes no filter true, but DataFusion's check does not look whether its answer is NULL.
        let has_null = opened.partition_values.iter().any(ScalarValue::is_null);
        if !filters.is_empty() && !has_null {
            match filter_partitioned_file(opened, filters, &self.partition_schema()?)? {
                Some(kept) => opened = kept,
                None => return Ok(None),
            }
        }
        let statistics = match session.config().collect_statistics() {
            true => match self.statistics(session, store, reader, &meta).await {
                Ok(statistics) => statistics,
                Err(error) => return Err(unreadable(file, error).into()),
            },
            false => Arc::new(Statistics::new_unknown(&self.file_schema)),
        };
        let mut opened = opened.with_statistics(statistics);
        if has_null {
            forget_null_partitions(&mut opened, self.file_schema.fields().len());
        }
        Ok(Some(opened))
    }

    fn partition_schema(&self) -> Result<DFSchema> {
        let fields = self.def.partitions.iter().map(ColumnDef::field).collect();
        DFSchema::from_unqualified_fields(fields, HashMap::new())
    }

    fn is_on_partitions(&self, filter: &Expr) -> bool {
        let names: Vec<&str> = self.def.partitions.iter().map(|column| column.name.as_str()).collect();
        !names.is_empty() && expr_applicable_for_cols(&names, filter)
    }

    /// One group per partition of the scan, each with its statistics, and those of all.
    fn group(&self, files: Vec<PartitionedFile>, partitions: usize) -> Result<(Vec<FileGroup>, Statistics)> {
        let merge =
            |all: Vec<&Statistics>| Statistics::try_merge_iter_with_ndv_fallback(all, &self.schema, NdvFallback::Max);
        let of_files = |group: &FileGroup| merge(group.iter().filter_map(|it| it.statistics.as_deref()).collect());
        let mut groups = vec![];
        for group in FileGroup::new(files).split_files(partitions.max(1)) {
            let statistics = of_files(&group)?;
            groups.push(group.with_statistics(Arc::new(statistics)));
        }
        let all = merge(groups.iter().filter_map(|group| group.file_statistics(None)).collect())?;
        Ok((groups, all))
    }
}

/// Parquet's bounds pass over NaN: a column of 1.5 and NaN has 1.5 for both, and DataFusion would read 1.5 twice.
fn forget_float_bounds(statistics: &mut Statistics, schema: &Schema) {
    for (column, field) in statistics.column_statistics.iter_mut().zip(schema.fields()) {
        if field.data_type().is_floating() {
            column.min_value = std::mem::take(&mut column.min_value).to_inexact();
            column.max_value = std::mem::take(&mut column.max_value).to_inexact();
        }
    }
}

/// DataFusion takes it that no folder's value is NULL.
fn forget_null_partitions(file: &mut PartitionedFile, n_file_columns: usize) {
    let Some(statistics) = &mut file.statistics else { return };
    let columns = &mut Arc::make_mut(statistics).column_statistics;
    for (column, value) in columns.iter_mut().skip(n_file_columns).zip(&file.partition_values) {
        if value.is_null() {
            column.null_count = Precision::Absent;
            column.min_value = Precision::Absent;
            column.max_value = Precision::Absent;
            column.distinct_count = Precision::Absent;
        }
    }
}

#[async_trait]
impl TableProvider for FilesTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
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
        let reader = reader(session, self.def.format, &self.def.options).map_err(|error| to_datafusion(&error))?;
        let store = store(session)?;
        let listings = Listings::of(session);
        let found = self.list(&listings).await?;
        let on_partitions: Vec<Expr> = filters.iter().filter(|it| self.is_on_partitions(it)).cloned().collect();
        let concurrency = session.config_options().execution.meta_fetch_concurrency.get();
        let mut opened = futures::stream::iter(found.iter())
            .map(|file| self.open(session, &store, reader.as_ref(), &listings, file, &on_partitions))
            .boxed()
            .buffered(concurrency);
        let (mut files, mut rows, mut cut) = (vec![], Precision::Exact(0), false);
        while let Some(file) = opened.try_next().await? {
            let Some(file) = file else { continue };
            rows = rows.add(&file.statistics.as_ref().map_or(Precision::Absent, |it| it.num_rows));
            files.push(file);
            // The files so far have all the rows that the limit asks for: the others are not looked at.
            if let (Some(limit), Precision::Exact(rows)) = (limit, rows)
                && filters.is_empty()
                && rows > limit
            {
                cut = true;
                break;
            }
        }
        drop(opened);
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(project_schema(&self.schema, projection)?)));
        }
        let (groups, statistics) = self.group(files, session.config().target_partitions())?;
        let statistics = if cut { statistics.to_inexact() } else { statistics };
        let partition_fields: Vec<_> = self.def.partitions.iter().map(|column| Arc::new(column.field())).collect();
        let table_schema =
            TableSchemaBuilder::from(&self.file_schema).with_table_partition_cols(partition_fields).build();
        let source = reader.file_source(table_schema);
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source)
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        reader.create_physical_plan(session, scan).await
    }
}

/// The table that a path in FROM stands for.
///
/// Errs as [`define`] does.
pub async fn open_path(
    session: &dyn Session,
    roots: &Arc<Roots>,
    path: &str,
) -> std::result::Result<FilesTable, TableError> {
    let request = FilesRequest { locations: vec![path.to_owned()], ..FilesRequest::default() };
    let def = define(session, roots, request).await?;
    Ok(FilesTable::new(TableReference::bare(path.to_owned()), def, Arc::clone(roots)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use arrow::array::{AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::Int64Type;
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    use datafusion::datasource::source_as_provider;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::logical_expr::LogicalPlan;
    use datafusion::parquet::arrow::ArrowWriter;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::super::roots::tests::sandbox;
    use super::*;

    fn session() -> SessionContext {
        let runtime = RuntimeEnvBuilder::new().with_cache_manager(super::super::cache_config()).build_arc().unwrap();
        SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(2), runtime)
    }

    fn write_parquet(path: &Path, values: &[i64]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(values.to_vec()))]);
        let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), schema, None).unwrap();
        writer.write(&batch.unwrap()).unwrap();
        writer.close().unwrap();
    }

    async fn table(session: &SessionContext, roots: &Roots, path: &str) -> std::result::Result<FilesTable, TableError> {
        open_path(&session.state(), &Arc::new(roots.clone()), path).await
    }

    /// The first column of a query over table `t`, as whole numbers.
    async fn numbers(session: &SessionContext, sql: &str) -> Result<Vec<i64>> {
        let batches = session.sql(sql).await?.collect().await?;
        Ok(batches.iter().flat_map(|it| it.column(0).as_primitive::<Int64Type>().values().to_vec()).collect())
    }

    #[tokio::test]
    async fn sees_what_others_write() {
        let (folder, roots) = sandbox();
        let root = folder.path().join("root");
        write_parquet(&root.join("t/1.parquet"), &[1, 2]);
        let session = session();
        session.register_table("t", Arc::new(table(&session, &roots, "t").await.unwrap())).unwrap();
        assert_eq!(numbers(&session, "select count(*) from t").await.unwrap(), [2]);
        write_parquet(&root.join("t/2.parquet"), &[3]);
        assert_eq!(numbers(&session, "select count(*) from t").await.unwrap(), [3]);
        // Of the same size as before: only the time tells.
        write_parquet(&root.join("t/2.parquet"), &[7]);
        assert_eq!(numbers(&session, "select max(a) from t").await.unwrap(), [7]);
        fs::remove_dir_all(root.join("t")).unwrap();
        let error = numbers(&session, "select count(*) from t").await.unwrap_err().to_string();
        assert!(error.contains("/t' does not exist"), "{error}");
        fs::create_dir(root.join("t")).unwrap();
        assert_eq!(numbers(&session, "select count(*) from t").await.unwrap(), [0]);
    }

    #[tokio::test]
    async fn names_the_file_that_it_cannot_read() {
        let (folder, roots) = sandbox();
        let root = folder.path().join("root");
        write_parquet(&root.join("t/1.parquet"), &[1, 2]);
        let session = session();
        session.register_table("t", Arc::new(table(&session, &roots, "t").await.unwrap())).unwrap();
        fs::write(root.join("t/2.parquet"), "this is no Parquet file").unwrap();
        let error = numbers(&session, "select a from t").await.unwrap_err().to_string();
        assert!(error.contains("cannot read file") && error.contains("t/2.parquet"), "{error}");
        let error = table(&session, &roots, "t").await.unwrap_err().to_string();
        assert!(error.contains("t/2.parquet"), "{error}");
        fs::write(root.join("t/2.parquet"), "").unwrap();
        assert!(numbers(&session, "select a from t").await.is_err());
    }

    #[tokio::test]
    async fn a_query_keeps_to_what_it_saw() {
        let (folder, roots) = sandbox();
        let root = folder.path().join("root");
        write_parquet(&root.join("t/1.parquet"), &[1, 2]);
        let session = session();
        let table = table(&session, &roots, "t").await.unwrap();
        let mut query = session.state();
        query.config_mut().set_extension(Arc::new(Listings::default()));
        let files = async |state: &datafusion::execution::SessionState| {
            let scan = table.scan(state, None, &[], None).await.unwrap();
            let (_, config) = sheaf_planners::leaf::file_scan(&scan).unwrap();
            let sizes = config.file_groups.iter().flat_map(|group| group.iter()).map(|it| it.object_meta.size);
            sizes.collect::<Vec<u64>>()
        };
        let before = files(&query).await;
        assert_eq!(before.len(), 1);
        write_parquet(&root.join("t/1.parquet"), &(0..1000).collect::<Vec<_>>());
        write_parquet(&root.join("t/2.parquet"), &[3]);
        assert_eq!(files(&query).await, before);
        assert_eq!(files(&session.state()).await.len(), 2, "the next query sees it");
    }

    #[tokio::test]
    async fn what_a_scan_surely_reads_is_known_before_it_is_planned() {
        let (folder, roots) = sandbox();
        let root = folder.path().join("root");
        write_parquet(&root.join("t/k=1/1.parquet"), &[1, 2]);
        write_parquet(&root.join("t/k=2/1.parquet"), &[3]);
        let bytes = ["t/k=1/1.parquet", "t/k=2/1.parquet"].map(|it| fs::metadata(root.join(it)).unwrap().len());
        let session = session();
        session.register_table("t", Arc::new(table(&session, &roots, "t").await.unwrap())).unwrap();
        for (sql, enough, expected) in [
            ("select a from t", u64::MAX, bytes[0] + bytes[1]),
            ("select a from t", 1, bytes[0]),
            ("select a from t where a > 1", u64::MAX, bytes[0] + bytes[1]),
            // Of these, only a part of the files may be read.
            ("select a from t where k = '1'", u64::MAX, 0),
            ("select a from t limit 1", u64::MAX, 0),
        ] {
            let state = session.state();
            let plan = state.optimize(&state.create_logical_plan(sql).await.unwrap()).unwrap();
            let mut scans = vec![];
            plan.apply(|node| {
                if let LogicalPlan::TableScan(scan) = node {
                    scans.push(scan.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
            .unwrap();
            let provider = source_as_provider(&scans[0].source).unwrap();
            let table = provider.downcast_ref::<FilesTable>().unwrap();
            assert_eq!(table.bytes_for_sure(&state, &scans[0], enough).await, expected, "{sql}, {enough}");
        }
    }

    #[tokio::test]
    async fn folders_give_columns() {
        let (folder, roots) = sandbox();
        let root = folder.path().join("root");
        write_parquet(&root.join("t/k=x/1.parquet"), &[1, 2]);
        write_parquet(&root.join("t/k=y/1.parquet"), &[3]);
        write_parquet(&root.join(format!("t/k={NULL_PARTITION}/1.parquet")), &[4]);
        let session = session();
        session.register_table("t", Arc::new(table(&session, &roots, "t").await.unwrap())).unwrap();
        let check = async |sql: &str| numbers(&session, sql).await.unwrap();
        assert_eq!(check("select a from t where k = 'x' order by a").await, [1, 2]);
        assert_eq!(check("select a from t where k is null").await, [4]);
        assert_eq!(check("select count(*) from t where k <> 'x'").await, [1]);
        assert_eq!(check("select count(distinct k) from t").await, [2]);
        assert_eq!(check("select count(k) from t").await, [3]);
    }

    #[tokio::test]
    async fn options_reach_the_reader() {
        let (folder, roots) = sandbox();
        let root = folder.path().join("root");
        fs::write(root.join("a.csv"), "1;x\n2;y\n").unwrap();
        let (session, roots) = (session(), Arc::new(roots));
        let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let request = |options| FilesRequest { locations: vec!["a.csv".to_owned()], options, ..Default::default() };
        let options = HashMap::from([option("HEADER", "false"), option("format.delimiter", ";")]);
        let def = define(&session.state(), &roots, request(options)).await.unwrap();
        assert_eq!(def.columns.len(), 2);
        let read_back: FilesDef = serde_json::from_str(&serde_json::to_string(&def).unwrap()).unwrap();
        assert_eq!(read_back, def);
        let reference = TableReference::bare("t");
        session.register_table("t", Arc::new(FilesTable::new(reference, read_back, Arc::clone(&roots)))).unwrap();
        assert_eq!(numbers(&session, "select column_1 from t").await.unwrap(), [1, 2]);
        let wrong = define(&session.state(), &roots, request(HashMap::from([option("no_such", "1")]))).await;
        assert!(matches!(wrong, Err(TableError::Invalid { .. })), "{wrong:?}");
    }

    #[tokio::test]
    async fn an_empty_folder_needs_columns() {
        let (folder, roots) = sandbox();
        fs::create_dir(folder.path().join("root/t")).unwrap();
        let (session, roots) = (session(), Arc::new(roots));
        let request = FilesRequest {
            format: Some(FileKind::Parquet),
            locations: vec!["t".to_owned()],
            ..FilesRequest::default()
        };
        let refused = define(&session.state(), &roots, request.clone()).await;
        assert!(matches!(refused, Err(TableError::NoFiles { .. })), "{refused:?}");
        let columns = Some(Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)])));
        let def = define(&session.state(), &roots, FilesRequest { columns, ..request }).await.unwrap();
        session.register_table("t", Arc::new(FilesTable::new("t".into(), def, roots))).unwrap();
        assert_eq!(numbers(&session, "select count(*) from t").await.unwrap(), [0]);
    }

    #[tokio::test]
    async fn text_formats_are_read_by_their_names() {
        let (folder, roots) = sandbox();
        let root = folder.path().join("root");
        fs::write(root.join("a.tsv"), "n\tm\n1\t2\n").unwrap();
        fs::write(root.join("a.jsonl"), "{\"n\": 5}\n{\"n\": 6}\n").unwrap();
        let session = session();
        for (path, expected) in [("a.tsv", vec![1]), ("a.jsonl", vec![5, 6])] {
            session.deregister_table("t").unwrap();
            session.register_table("t", Arc::new(table(&session, &roots, path).await.unwrap())).unwrap();
            assert_eq!(numbers(&session, "select n from t").await.unwrap(), expected);
        }
        assert!(matches!(table(&session, &roots, "none.csv").await, Err(TableError::FileNotFound { .. })));
    }
}
