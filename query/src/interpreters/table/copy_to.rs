//! `COPY … TO`: a query's rows in files of any format, written by all workers.
//!
//! Tasks write into a folder beside the final place whose name readers pass over. Once all are done, the coordinator
//! moves the files of the attempts that counted to where they belong, one after another: a statement that fails before
//! leaves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::common::runtime::SpawnedTask;
use datafusion::logical_expr::{Expr as PlanExpr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::sql::sqlparser::ast::Ident;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use sheaf_common::{ErrorCode, WireError};
use sheaf_planners::parser::{CopyTo, on_big_stack};
use sheaf_planners::table_sink::{SinkFormat, SinkTarget};
use url::Url;

use super::{Answer, Destination, FILE_BYTES, QueryContext, QueryError, Session};
use crate::binder::bind;
use crate::interpreters::rewrite;
use crate::interpreters::rows::Rows;
use crate::managed::file_writer::FileWriter;
use crate::managed::storage::{Place, below, folder_url};
use crate::managed::writer::Written;
use crate::session::renamed_schema;
use crate::tables::files::FileKind;
use crate::tables::stores::{StoreDef, is_remote, is_store_option};
use crate::tables::{TableError, wire};

pub(super) fn report() -> Rows {
    Rows::new(&["#files", "#rows", "#bytes"])
}

pub(super) async fn run(
    session: &Session,
    context: &Arc<QueryContext>,
    copy: CopyTo,
    values: &[ScalarValue],
) -> Result<Answer, QueryError> {
    let mut tree = copy.query.query.clone();
    on_big_stack(|| rewrite(session, Some(values)).apply(tree.as_mut()))?;
    let plan = bind(&context.session_state, tree, session.is_mysql(), ready(Ok(()))).await?;
    // Types settle only when operands are brought together.
    let state = &context.session_state;
    let analyzed = state.analyzer().execute_and_check(plan.clone(), state.config_options(), |_, _| {})?;
    let schema = renamed_schema(&Arc::new(analyzed.schema().as_arrow().clone()), &copy.query.names);
    let Options { format, store, mode } = Options::of(&copy)?;
    let (plan, schema, partition_columns) = shaped(plan, &schema, &copy.partition_by, &format)?;
    let place = place_of(context, &copy.location, &store).await?;
    if place.file.is_some() && !partition_columns.is_empty() {
        let text = format!("'{}' names a file: PARTITIONED BY needs a folder, whose name ends with '/'", copy.location);
        return Err(QueryError::InvalidArgument(text));
    }
    let before = place.files().await?;
    if mode == Mode::Error && !before.is_empty() {
        let text = format!(
            "there are files at '{}' already: OPTIONS ('mode' 'append') adds to them, 'overwrite' replaces them",
            copy.location
        );
        return Err(QueryError::InvalidArgument(text));
    }
    let staging = Staging::new(&place, &format!("{}-0", context.query))?;
    let target = SinkTarget {
        location: staging.place.url.to_string(),
        store: place.store_url.clone(),
        format: format.clone(),
        statement: context.query.to_string(),
        partition_columns,
        file_bytes: if place.file.is_some() { u64::MAX } else { FILE_BYTES },
        ..SinkTarget::default()
    };
    let files_max = place.file.is_some().then_some(1);
    let (schema, within) = (Arc::new(schema), staging.place.clone());
    let to = Destination { target, schema, place: within, cluster_columns: vec![], files_max, stays_here: false };
    let mut written = super::write(context, plan, &to).await?;
    let rows = written.rows();
    if written.files.is_empty() && place.file.is_some() {
        written = empty_file(&to, &format).await?;
    }
    let bytes: i64 = written.files.iter().map(|it| it.add.size).sum();
    let (n_files, gone) = (written.files.len(), if mode == Mode::Overwrite { before } else { BTreeSet::new() });
    // Not to be stopped halfway: a client that hangs up does not end it.
    let published = tokio::spawn(async move { place.publish(staging, &written, gone).await });
    published
        .await
        .map_err(|error| WireError::new(ErrorCode::Internal, format!("files were not moved: {error}")))??;
    let mut report = report();
    report.push([n_files.to_string(), rows.to_string(), bytes.to_string()].map(Some).to_vec());
    report.answer()
}

/// What is to happen with files that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Error,
    Append,
    Overwrite,
}

struct Options {
    format: SinkFormat,
    store: BTreeMap<String, String>,
    mode: Mode,
}

impl Options {
    /// Errs at options that the format does not have.
    fn of(copy: &CopyTo) -> Result<Self, QueryError> {
        let invalid = |text: String| QueryError::InvalidArgument(text);
        let table_error = |error: TableError| QueryError::Wire(wire(&error));
        let kind = match &copy.format {
            Some(name) => FileKind::parse(name).map_err(table_error)?,
            None => FileKind::of_path(&copy.location).ok_or_else(|| {
                invalid(format!("cannot tell the format of '{}' by its name: say STORED AS PARQUET", copy.location))
            })?,
        };
        let (mut store, mut mode, mut other) = (BTreeMap::new(), Mode::Error, BTreeMap::new());
        for (name, value) in &copy.options {
            match name.as_str() {
                _ if is_store_option(name) => _ = store.insert(name.clone(), value.clone()),
                "mode" => {
                    mode = match value.to_ascii_lowercase().as_str() {
                        "error" => Mode::Error,
                        "append" => Mode::Append,
                        "overwrite" => Mode::Overwrite,
                        _ => return Err(invalid(format!("mode '{value}' is none of error, append and overwrite"))),
                    }
                }
                _ => _ = other.insert(name.trim_start_matches("format.").to_owned(), value.clone()),
            }
        }
        let format = match kind {
            FileKind::Parquet => {
                let compression = other.remove("compression").unwrap_or_else(|| "zstd".to_owned());
                SinkFormat::Parquet { compression }
            }
            FileKind::Csv => {
                let header = match other.remove("header").or(other.remove("has_header")).as_deref() {
                    None | Some("true" | "TRUE" | "1") => true,
                    Some("false" | "FALSE" | "0") => false,
                    Some(value) => return Err(invalid(format!("option 'header' is '{value}', not true or false"))),
                };
                let delimiter = match other.remove("delimiter").as_deref() {
                    None => b',',
                    Some("\\t") => b'\t',
                    Some(text) if text.len() == 1 => text.as_bytes()[0],
                    Some(text) => return Err(invalid(format!("delimiter '{text}' is not one character"))),
                };
                let null = other.remove("null_value").unwrap_or_default();
                SinkFormat::Csv { header, delimiter, null }
            }
            FileKind::Json => SinkFormat::Json,
            FileKind::Arrow => SinkFormat::Arrow,
            FileKind::Delta => {
                return Err(QueryError::unsupported(
                    "COPY TO … STORED AS DELTA, for which there is CREATE TABLE … AS SELECT,",
                ));
            }
        };
        match other.keys().next() {
            Some(name) => Err(invalid(format!("COPY TO … STORED AS {} has no option '{name}'", kind.name()))),
            None => Ok(Self { format, store, mode }),
        }
    }
}

/// The rows under the names that the client gave their columns; what parts folders is text.
fn shaped(
    plan: LogicalPlan,
    named: &Schema,
    partition_by: &[Ident],
    format: &SinkFormat,
) -> Result<(LogicalPlan, Schema, Vec<String>), QueryError> {
    let mut seen = BTreeSet::new();
    if let Some(field) = named.fields().iter().find(|it| !seen.insert(it.name().as_str())) {
        return Err(QueryError::InvalidArgument(format!("column '{}' exists twice: give one an alias", field.name())));
    }
    let mut partition_columns: Vec<String> = vec![];
    for name in partition_by {
        let found = named.fields().iter().find(|it| it.name().eq_ignore_ascii_case(&name.value));
        let found = found.ok_or_else(|| {
            let text = format!("unknown column '{}' to partition by", name.value);
            QueryError::Wire(WireError::new(ErrorCode::ColumnNotFound, text))
        })?;
        if partition_columns.contains(found.name()) {
            return Err(QueryError::InvalidArgument(format!("column '{}' is named twice", found.name())));
        }
        partition_columns.push(found.name().clone());
    }
    if partition_columns.len() == named.fields().len() {
        return Err(QueryError::InvalidArgument(
            "there has to be a column that does not partition the files".to_owned(),
        ));
    }
    let (mut exprs, mut fields) = (vec![], vec![]);
    for (column, field) in plan.schema().columns().into_iter().zip(named.fields()) {
        let is_partition = partition_columns.contains(field.name());
        let mut data_type = field.data_type().clone();
        if !is_partition && data_type.is_nested() && matches!(format, SinkFormat::Csv { .. }) {
            return Err(QueryError::unsupported(format!("a column of type {data_type} ('{}') in CSV", field.name())));
        }
        if is_partition {
            data_type = DataType::Utf8View;
        } else if data_type == DataType::Null {
            // Readers of Parquet do not know what it is.
            data_type = DataType::Utf8;
        }
        exprs.push(cast(PlanExpr::Column(column), data_type.clone()).alias(field.name()));
        fields.push(Field::new(field.name(), data_type, true));
    }
    let plan = LogicalPlanBuilder::from(plan).project(exprs)?.build()?;
    Ok((plan, Schema::new(fields), partition_columns))
}

/// Where files go.
struct Final {
    /// The folder.
    place: Place,
    /// A name in it, if the location is one file.
    file: Option<String>,
    store_url: Option<String>,
}

/// Errs when the location is not within what this server may write.
async fn place_of(
    context: &QueryContext,
    location: &str,
    options: &BTreeMap<String, String>,
) -> Result<Final, QueryError> {
    let failed = |error: TableError| QueryError::Wire(wire(&error));
    let is_file = !location.ends_with('/') && FileKind::of_path(location).is_some();
    let sources = &context.engine.tables().sources;
    if is_remote(location) {
        let (def, path) = StoreDef::of(location, options).map_err(failed)?;
        let (store_url, store) = sources.stores.open(&def).map_err(failed)?;
        let (folder, file) = match (is_file, path.rsplit_once('/')) {
            (true, Some((folder, file))) => (folder.to_owned(), Some(file.to_owned())),
            (true, None) => (String::new(), Some(path)),
            (false, _) => (path, None),
        };
        let folder = Path::parse(folder.trim_end_matches('/'))
            .map_err(|error| QueryError::InvalidArgument(error.to_string()))?;
        let url = Url::parse(&format!("{}/", def.address)).and_then(|it| it.join(&format!("{folder}/")));
        let url = url.map_err(|error| QueryError::InvalidArgument(format!("location '{location}': {error}")))?;
        return Ok(Final { place: Place { store, folder, url }, file, store_url: Some(store_url.as_str().to_owned()) });
    }
    if let Some(name) = options.keys().next() {
        return Err(QueryError::InvalidArgument(format!("option '{name}' is not for local files")));
    }
    let (roots, text) = (Arc::clone(&sources.roots), location.to_owned());
    let resolved = SpawnedTask::spawn_blocking(move || roots.resolve_new(&text)).await;
    let path = resolved.map_err(|error| QueryError::InvalidArgument(error.to_string()))?.map_err(failed)?;
    let (folder, file) = match (is_file, path.parent(), path.file_name()) {
        (true, Some(folder), Some(file)) => (folder.to_owned(), Some(file.to_string_lossy().into_owned())),
        _ => (path, None),
    };
    let url = folder_url(&folder).map_err(failed)?;
    let place = context.engine.managed().storage().open(url.as_str()).map_err(failed)?;
    Ok(Final { place, file, store_url: None })
}

impl Final {
    /// The files that readers find there now.
    async fn files(&self) -> Result<BTreeSet<Path>, QueryError> {
        let failed = |source: object_store::Error| storage_failed(&self.place, source);
        if let Some(file) = &self.file {
            let path = below(&self.place.folder, file).map_err(failed)?;
            return match self.place.store.head(&path).await {
                Ok(_) => Ok([path].into_iter().collect()),
                Err(object_store::Error::NotFound { .. }) => Ok(BTreeSet::new()),
                Err(error) => Err(failed(error)),
            };
        }
        let is_seen = |path: &Path| {
            let n_above = self.place.folder.parts().count();
            path.parts().skip(n_above).all(|it| !it.as_ref().starts_with(['_', '.']))
        };
        let listed = self.place.store.list(Some(&self.place.folder));
        let found: Vec<Path> = listed.map_ok(|it| it.location).try_collect().await.map_err(failed)?;
        Ok(found.into_iter().filter(is_seen).collect())
    }

    /// Moves what was written to its place, then removes what it replaces.
    async fn publish(self, staging: Staging, written: &Written, gone: BTreeSet<Path>) -> Result<(), QueryError> {
        let failed = |source: object_store::Error| storage_failed(&self.place, source);
        let mut moved = vec![];
        for file in &written.files {
            let from = below(&staging.place.folder, &file.add.path).map_err(failed)?;
            let name = self.file.as_deref().unwrap_or(&file.add.path);
            let to = below(&self.place.folder, name).map_err(failed)?;
            match self.place.store.rename(&from, &to).await {
                Ok(()) => moved.push(to),
                Err(error) => {
                    for path in moved {
                        let _ = self.place.store.delete(&path).await;
                    }
                    return Err(failed(error));
                }
            }
        }
        for path in gone.iter().filter(|it| !moved.contains(it)) {
            self.place.store.delete(path).await.map_err(failed)?;
        }
        Ok(())
    }
}

/// A file without rows, for who asked for one by its name.
async fn empty_file(to: &Destination, format: &SinkFormat) -> Result<Written, QueryError> {
    let name = "part-0";
    let path = below(&to.place.folder, name).map_err(|source| storage_failed(&to.place, source))?;
    let store = Arc::clone(&to.place.store);
    let mut file = FileWriter::begin(store, path, &to.schema, format, &WriterProperties::default())?;
    file.write(&RecordBatch::new_empty(Arc::clone(&to.schema))).await?;
    let (bytes, _) = file.finish().await?;
    let add = deltalake_core::kernel::Add { path: name.to_owned(), size: bytes as i64, ..Default::default() };
    let files = vec![crate::managed::writer::WrittenFile { add, rows: 0 }];
    Ok(Written { files, sources: vec![] })
}

fn storage_failed(place: &Place, source: object_store::Error) -> QueryError {
    let code = match crate::managed::is_disk_full(&source) {
        true => ErrorCode::DiskFull,
        false => ErrorCode::FileUnreadable,
    };
    QueryError::Wire(WireError::new(code, format!("could not write files at '{}': {source}", place.url)))
}

/// The folder that tasks write to. Dropped, it goes with all that is still in it.
struct Staging {
    place: Place,
}

impl Staging {
    fn new(at: &Final, mark: &str) -> Result<Self, QueryError> {
        let name = format!("_sheaf_{mark}");
        let folder = below(&at.place.folder, &name).map_err(|source| storage_failed(&at.place, source))?;
        let url = at.place.url.join(&format!("{name}/"));
        let url = url.map_err(|error| QueryError::InvalidArgument(error.to_string()))?;
        Ok(Self { place: Place { store: Arc::clone(&at.place.store), folder, url } })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let place = self.place.clone();
        runtime.spawn(async move {
            // Tasks that are being ended remove their own first; what they were just completing appears meanwhile.
            tokio::time::sleep(super::REMOVAL_DELAY).await;
            let mut listed = place.store.list(Some(&place.folder));
            while let Ok(Some(found)) = listed.try_next().await {
                let _ = place.store.delete(&found.location).await;
            }
            // Object stores have no folders, and their stores do not remove those of a disk.
            if let Ok(folder) = place.url.to_file_path() {
                let _ = SpawnedTask::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
            }
        });
    }
}
