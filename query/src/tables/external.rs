//! Files as a table: Parquet, CSV or JSON at one or more locations, listed anew by every query, once.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::{NdvFallback, Precision};
use datafusion::common::{DFSchema, ScalarValue, Statistics, TableReference, exec_err, project_schema};
use datafusion::datasource::file_format::arrow::ArrowFormatFactory;
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
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableScan, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use sheaf_planners::data_file::TableFiles;

use super::analyzed::TableStatistics;
use super::files::{self, FileKind, FoundFile};
use super::listings::{ListingKey, Listings};
use super::pruning;
use super::sources::{Sources, Store, StoreOptions};
use super::stores::is_store_option;
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
    pub fn new(field: &Field) -> Self {
        let type_name = TypeName(field.data_type().clone());
        Self { name: field.name().clone(), type_name, nullable: field.is_nullable() }
    }

    pub fn field(&self) -> Field {
        Field::new(&self.name, self.type_name.0.clone(), self.nullable)
    }

    /// Whether the type as text, which is how the catalog keeps it, is the same type again.
    pub fn reads_back(&self) -> bool {
        let TypeName(data_type) = &self.type_name;
        DataType::from_str(&data_type.to_string()).ok().as_ref() == Some(data_type)
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
    /// Absolute paths or addresses of files, folders or patterns, all in one store.
    pub locations: Vec<String>,
    /// What the store is opened with, where the table says so itself.
    #[serde(default, skip_serializing_if = "StoreOptions::is_empty")]
    pub store: StoreOptions,
    /// The stored connection that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
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
    /// What opens the store in place of options for it.
    pub connection: Option<UsedConnection>,
}

/// A stored connection, as it is when it is used.
#[derive(Debug, Clone)]
pub struct UsedConnection {
    pub name: String,
    pub options: StoreOptions,
}

impl FilesRequest {
    /// The options for the store, and those for the format.
    pub(crate) fn split_options(&self) -> (StoreOptions, HashMap<String, String>) {
        let (mut store, mut format) = (BTreeMap::new(), HashMap::new());
        for (name, value) in &self.options {
            match is_store_option(name) {
                true => store.insert(name.to_ascii_lowercase(), value.clone()),
                false => format.insert(name.clone(), value.clone()),
            };
        }
        (StoreOptions(store), format)
    }

    /// Of these options for the store, what it is opened with.
    ///
    /// Errs when there are options beside a connection: they could send its keys to another server.
    pub(super) fn opened_with<'a>(
        &'a self,
        own: &'a StoreOptions,
    ) -> std::result::Result<&'a StoreOptions, TableError> {
        match (&self.connection, own.0.keys().next()) {
            (None, _) => Ok(own),
            (Some(connection), None) => Ok(&connection.options),
            (Some(UsedConnection { name, .. }), Some(option)) => Err(TableError::invalid(format!(
                "option '{option}' cannot stand beside connection '{name}': it is one of the connection's own"
            ))),
        }
    }

    pub(super) fn connection_name(&self) -> Option<String> {
        self.connection.as_ref().map(|it| it.name.clone())
    }
}

/// Looks at the files of a request and says what table they make.
///
/// Errs when a location is not allowed, holds no file although the files were to be asked for their columns, or holds
/// one that cannot be read.
pub async fn define(
    session: &dyn Session,
    sources: &Sources,
    request: FilesRequest,
) -> std::result::Result<FilesDef, TableError> {
    let Some(first) = request.locations.first().cloned() else {
        return Err(TableError::invalid("a table of files needs a location"));
    };
    let (store_options, format_options) = request.split_options();
    let store = sources.store(session, &request.locations, request.opened_with(&store_options)?)?;
    let connection = request.connection_name();
    let Found { format, locations, files } = find(session, sources, &store, &request).await?;
    let options = options(&format_options, format, &first, &files)?;
    let reader = reader(session, format, &options)?;
    let file_columns = match &request.columns {
        Some(columns) => columns.as_ref().clone(),
        None if files.is_empty() => return Err(TableError::NoFiles { path: first, format: format.name() }),
        None => infer_columns(session, reader.as_ref(), &store.store, &files).await?,
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
    Ok(FilesDef { format, locations, store: store_options, connection, options, columns, partitions })
}

struct Found {
    format: FileKind,
    locations: Vec<String>,
    files: Vec<FoundFile>,
}

async fn find(
    session: &dyn Session,
    sources: &Sources,
    store: &Store,
    request: &FilesRequest,
) -> std::result::Result<Found, TableError> {
    let mut format = request.format;
    let (mut locations, mut files) = (vec![], vec![]);
    for text in &request.locations {
        // Which format a folder holds is what the first file of a known one says.
        format = match format {
            Some(format) => Some(format),
            None => {
                let all = sources.list(session, store, text, None).await?;
                all.iter().find_map(|file| FileKind::of_path(file.path.as_ref()))
            }
        };
        let Some(format) = format else {
            return Err(TableError::invalid(format!("cannot tell the format of '{text}' by its name")));
        };
        files.extend(sources.list(session, store, text, Some(format)).await?.iter().cloned());
        locations.push(sources.settled(store, text).await?);
    }
    let format = format.ok_or_else(|| TableError::invalid("a table of files needs a location"))?;
    Ok(Found { format, locations, files })
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
    if format.is_text() {
        let first = files.first().map_or(location.to_owned(), FoundFile::shown);
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
pub(super) fn reader(
    session: &dyn Session,
    format: FileKind,
    options: &BTreeMap<String, String>,
) -> std::result::Result<Arc<dyn FileFormat>, TableError> {
    let options: HashMap<String, String> = options.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let created = match format {
        FileKind::Parquet => ParquetFormatFactory::new().create(session, &options),
        FileKind::Csv => CsvFormatFactory::new().create(session, &options),
        FileKind::Json => JsonFormatFactory::new().create(session, &options),
        FileKind::Arrow => ArrowFormatFactory::new().create(session, &options),
        FileKind::Delta => return Err(TableError::invalid("a Delta table is not a table of plain files")),
    };
    created.map_err(|error| TableError::invalid(format!("option of {} is wrong: {error}", format.name())))
}

fn unreadable(file: &FoundFile, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TableError {
    TableError::unreadable(file.shown(), error)
}

async fn head(store: &dyn ObjectStore, file: &FoundFile) -> std::result::Result<ObjectMeta, TableError> {
    match &file.meta {
        Some(meta) => Ok(meta.clone()),
        None => store.head(&file.path).await.map_err(|error| unreadable(file, error)),
    }
}

async fn infer_columns(
    session: &dyn Session,
    reader: &dyn FileFormat,
    store: &Arc<dyn ObjectStore>,
    files: &[FoundFile],
) -> std::result::Result<Schema, TableError> {
    let concurrency = session.config_options().execution.meta_fetch_concurrency.get();
    // Collected first: a stream that made them would need one lifetime for all.
    let heads: Vec<_> = files.iter().map(|file| head(store.as_ref(), file)).collect();
    let metas: Vec<ObjectMeta> = futures::stream::iter(heads).buffered(concurrency).try_collect().await?;
    // An empty text file says nothing; any other that is empty is a broken one.
    let is_text = ["csv", "json"].contains(&reader.get_ext().as_str());
    let (files, metas): (Vec<_>, Vec<_>) =
        files.iter().zip(metas).filter(|(_, meta)| !is_text || meta.size > 0).unzip();
    let error = match read_schema(session, reader, store, &metas).await {
        Ok(schema) if schema.fields().is_empty() && !metas.is_empty() => {
            return Err(unreadable(files[0], "it has no column"));
        }
        Ok(schema) => return Ok(schema.as_ref().clone().with_metadata(HashMap::new())),
        Err(error) => error,
    };
    // The reader does not say which file it was.
    for (file, meta) in files.iter().zip(&metas) {
        if let Err(error) = read_schema(session, reader, store, std::slice::from_ref(meta)).await {
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
            files[0].shown(),
            other.shown()
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
    // One that does not read back would be lost at the next start.
    match columns.iter().chain(partitions).find(|column| !column.reads_back()) {
        Some(ColumnDef { name, type_name: TypeName(data_type), .. }) => {
            Err(TableError::Unsupported { what: format!("type {data_type} of column '{name}'") })
        }
        None => Ok(()),
    }
}

/// A table of files.
pub struct FilesTable {
    /// Keeps the statistics of tables with other columns over the same files apart.
    reference: TableReference,
    def: FilesDef,
    sources: Arc<Sources>,
    file_schema: SchemaRef,
    schema: SchemaRef,
    /// A column at the end that says which file a row is from.
    path_column: Option<String>,
    fingerprint: Arc<SchemaFingerprint>,
    analyzed: Option<Arc<TableStatistics>>,
}

impl fmt::Debug for FilesTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesTable").field("reference", &self.reference).field("def", &self.def).finish()
    }
}

impl FilesTable {
    pub fn new(reference: TableReference, def: FilesDef, sources: Arc<Sources>) -> Self {
        let (file_schema, schema) = (def.file_schema(), def.schema());
        let fingerprint = Arc::new(SchemaFingerprint::from_schema(&file_schema));
        Self { reference, def, sources, file_schema, schema, path_column: None, fingerprint, analyzed: None }
    }

    /// The table with what was found out of it before, for estimates.
    pub fn analyzed(self, analyzed: Option<Arc<TableStatistics>>) -> Self {
        Self { analyzed, ..self }
    }

    /// The table with one more column at the end: the file that a row is from, as messages show it.
    pub fn with_path_column(self, name: &str) -> Self {
        let path = Arc::new(Field::new(name, DataType::Utf8, false));
        let schema = Schema::new(self.schema.fields().iter().cloned().chain([path]).collect::<Vec<_>>());
        Self { schema: Arc::new(schema), path_column: Some(name.to_owned()), ..self }
    }

    /// The columns that are not in the files.
    fn folder_fields(&self) -> Vec<Field> {
        let path = self.path_column.iter().map(|name| Field::new(name, DataType::Utf8, false));
        self.def.partitions.iter().map(ColumnDef::field).chain(path).collect()
    }

    pub fn def(&self) -> &FilesDef {
        &self.def
    }

    fn store(&self, session: &dyn Session) -> std::result::Result<Store, TableError> {
        self.sources.store(session, &self.def.locations, &self.def.store)
    }

    async fn list(
        &self,
        session: &dyn Session,
        store: &Store,
        listings: &Listings,
    ) -> std::result::Result<Arc<Vec<FoundFile>>, TableError> {
        let list = async {
            let mut all: Vec<FoundFile> = vec![];
            for text in &self.def.locations {
                let found = self.sources.list(session, store, text, Some(self.def.format)).await?;
                all.extend(found.iter().cloned());
            }
            all.sort_by(|a, b| a.path.cmp(&b.path));
            all.dedup_by(|a, b| a.path == b.path);
            Ok(all)
        };
        let (store, locations) = (store.url.clone(), self.def.locations.clone());
        listings.files(ListingKey { store, locations, format: self.def.format }, list).await
    }

    /// Bytes that a scan of the table reads for sure, before it is planned; counted until there are `enough`. What it
    /// looks at is not looked at again by the same query.
    ///
    /// A filter on folders or a limit may leave nothing of a large table, so that then nothing is sure. Nor are files
    /// that cannot be read: the scan itself says so better.
    pub async fn bytes_for_sure(&self, session: &dyn Session, scan: &TableScan, enough: u64) -> u64 {
        let is_cut = scan.fetch.is_some() || scan.filters.iter().any(|it| self.is_on_partitions(it));
        let listings = Listings::of(session);
        let (false, Ok(store)) = (is_cut, self.store(session)) else { return 0 };
        let Ok(found) = self.list(session, &store, &listings).await else { return 0 };
        let concurrency = session.config_options().execution.meta_fetch_concurrency.get();
        // Collected first: a stream that made them would need one lifetime for all.
        let metas: Vec<_> =
            found.iter().map(|file| listings.meta(&store.url, &file.path, head(store.store.as_ref(), file))).collect();
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
        store: &Store,
        reader: &dyn FileFormat,
        listings: &Listings,
        file: &FoundFile,
        filters: &[Expr],
    ) -> Result<Option<PartitionedFile>> {
        let meta = listings.meta(&store.url, &file.path, head(store.store.as_ref(), file)).await?;
        if meta.size == 0 && self.def.format.is_text() {
            return Ok(None);
        }
        let mut opened = PartitionedFile::from(meta.clone());
        opened.partition_values = self.partition_values(file)?;
        if self.path_column.is_some() {
            opened.partition_values.push(ScalarValue::from(file.shown()));
        }
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
            true => match self.statistics(session, &store.store, reader, &meta).await {
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
        DFSchema::from_unqualified_fields(self.folder_fields().into(), HashMap::new())
    }

    fn is_on_partitions(&self, filter: &Expr) -> bool {
        let names: Vec<&str> = self.def.partitions.iter().map(|column| column.name.as_str()).collect();
        !names.is_empty() && expr_applicable_for_cols(&names, filter)
    }
}

/// One group per partition of a scan, each with its statistics, and those of all. The statistics are by `schema`.
pub(super) fn groups(
    files: Vec<PartitionedFile>,
    partitions: usize,
    schema: &Schema,
) -> Result<(Vec<FileGroup>, Statistics)> {
    let merge = |all: Vec<&Statistics>| Statistics::try_merge_iter_with_ndv_fallback(all, schema, NdvFallback::Max);
    let of_files = |group: &FileGroup| merge(group.iter().filter_map(|it| it.statistics.as_deref()).collect());
    let mut groups = vec![];
    for group in FileGroup::new(files).split_files(partitions.max(1)) {
        let statistics = of_files(&group)?;
        groups.push(group.with_statistics(Arc::new(statistics)));
    }
    let all = merge(groups.iter().filter_map(|group| group.file_statistics(None)).collect())?;
    Ok((groups, all))
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
        let store = self.store(session)?;
        let listings = Listings::of(session);
        let found = self.list(session, &store, &listings).await?;
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
        let files = pruning::matching(session, &self.schema, filters, files)?;
        let files: Vec<PartitionedFile> = files.into_iter().map(|it| TableFiles(found.len()).attach(it)).collect();
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(project_schema(&self.schema, projection)?)));
        }
        let disk_bytes: u64 = files.iter().map(|it| it.object_meta.size).sum();
        let (groups, statistics) = groups(files, session.config().target_partitions(), &self.schema)?;
        let mut statistics = if cut { statistics.to_inexact() } else { statistics };
        if let Some(analyzed) = &self.analyzed {
            let all: Vec<usize> = (0..self.schema.fields().len()).collect();
            statistics = analyzed.fill(statistics, &self.schema, projection.unwrap_or(&all), disk_bytes);
        }
        let partition_fields: Vec<_> = self.folder_fields().into_iter().map(Arc::new).collect();
        let table_schema =
            TableSchemaBuilder::from(&self.file_schema).with_table_partition_cols(partition_fields).build();
        let source = reader.file_source(table_schema);
        let scan = FileScanConfigBuilder::new(store.url, source)
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
    sources: &Arc<Sources>,
    path: &str,
) -> std::result::Result<FilesTable, TableError> {
    let request = FilesRequest { locations: vec![path.to_owned()], ..FilesRequest::default() };
    let def = define(session, sources, request).await?;
    Ok(FilesTable::new(TableReference::bare(path.to_owned()), def, Arc::clone(sources)))
}

#[cfg(test)]
mod tests;
