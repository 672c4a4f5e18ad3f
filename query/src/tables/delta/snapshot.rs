//! One version of a Delta table: its columns and its files, as its log has them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::common::runtime::SpawnedTask;
use delta_kernel::actions::deletion_vector::DeletionVectorDescriptor;
use deltalake_core::DeltaTableError;
use deltalake_core::kernel::{Action, Add, LogicalFileView, Snapshot};
use futures::TryStreamExt;
use object_store::path::Path as StorePath;
use sheaf_planners::data_file::DeletedRows;
use tokio::sync::OnceCell;

use super::columns::DeltaColumns;
use super::location::DeltaLocation;
use super::statistics::{FileStatistics, partition_value};
use super::versions::{CommitMark, commit_mark};
use crate::tables::pruning::{ColumnBounds, FileBounds};
use crate::tables::{Roots, TableError};

/// A version of a table. Immutable; what it holds of its files is shared with the versions before and after it.
pub struct DeltaSnapshot {
    pub location: DeltaLocation,
    pub version: u64,
    pub columns: DeltaColumns,
    /// As statements see the table.
    pub schema: SchemaRef,
    /// The library's own snapshot, which commits build on.
    pub log: Arc<Snapshot>,
    pub files: Vec<Arc<DeltaFile>>,
    /// The file of the version's own commit; `None` if the log has it no more.
    pub(super) commit: Option<CommitMark>,
}

impl fmt::Debug for DeltaSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaSnapshot")
            .field("location", &self.location.shown())
            .field("version", &self.version)
            .finish()
    }
}

/// A file that is part of a version.
pub struct DeltaFile {
    /// As the store has it.
    pub path: StorePath,
    pub size: u64,
    pub modified_ms: i64,
    /// Of the partition columns, in the table's order.
    pub partition_values: Vec<ScalarValue>,
    /// The log's own entry.
    view: LogicalFileView,
    facts: Arc<FileFacts>,
}

/// What does not change from version to version.
struct FileFacts {
    statistics: FileStatistics,
    deleted: Option<DeletionVectorDescriptor>,
    /// Read when they are first needed.
    deleted_rows: OnceCell<DeletedRows>,
}

impl fmt::Debug for DeltaFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaFile").field("path", &self.path).field("size", &self.size).finish_non_exhaustive()
    }
}

impl DeltaFile {
    /// Rows of the table that the file holds, if the log says.
    pub fn rows(&self) -> Option<u64> {
        self.facts.statistics.rows?.checked_sub(self.deleted_count())
    }

    /// Rows of the file, deleted ones too.
    pub fn stored_rows(&self) -> Option<u64> {
        self.facts.statistics.rows
    }

    pub fn has_deleted_rows(&self) -> bool {
        self.facts.deleted.is_some()
    }

    fn deleted_count(&self) -> u64 {
        self.facts.deleted.as_ref().map_or(0, |it| it.cardinality.max(0) as u64)
    }

    /// By the table's columns.
    pub fn columns(&self) -> &[ColumnBounds] {
        &self.facts.statistics.columns
    }

    /// Its path within the table's folder.
    pub fn name(&self) -> String {
        self.view.path().into_owned()
    }

    /// The action that takes the file out of the table.
    pub fn remove(&self, data_change: bool) -> Action {
        Action::Remove(self.view.remove_action(data_change))
    }

    /// The action that puts it back.
    pub fn add(&self, data_change: bool) -> Action {
        // The library would have its Arrow arrays used instead, which are not public.
        #[expect(deprecated)]
        let add = self.view.add_action();
        Action::Add(Add { data_change, ..add })
    }

    pub(super) fn bounds(&self) -> FileBounds<'_> {
        FileBounds { rows: self.stored_rows(), columns: self.columns() }
    }
}

impl DeltaSnapshot {
    /// Reads a version, the newest if `None`. What `before` knows of files is not worked out again.
    ///
    /// Errs when there is no table or no such version, and with a list when the table asks for what we cannot do.
    pub(super) async fn load(
        location: &DeltaLocation,
        version: Option<u64>,
        before: Option<&DeltaSnapshot>,
    ) -> Result<Self, TableError> {
        let log_store = location.log_store();
        let log = match (version, before) {
            (None, Some(before)) => Arc::clone(&before.log).update(log_store.engine(None), None).await,
            _ => Snapshot::try_new(log_store.as_ref(), version).await.map(Arc::new),
        };
        let log = log.map_err(|error| of_log(location, error))?;
        let columns = DeltaColumns::of(&log, &location.shown())?;
        let same_columns = before.filter(|it| it.columns == columns);
        let known: HashMap<&StorePath, &DeltaFile> =
            same_columns.iter().flat_map(|it| &it.files).map(|it| (&it.path, it.as_ref())).collect();
        let views: Vec<LogicalFileView> =
            log.file_views(log_store.as_ref(), None).try_collect().await.map_err(|error| of_log(location, error))?;
        let mut files = Vec::with_capacity(views.len());
        let mut unseen = vec![];
        for view in views {
            let file = file(location, &columns, &known, view)?;
            if !known.contains_key(&file.path) {
                unseen.push(file.path.clone());
            }
            files.push(Arc::new(file));
        }
        // The same order each time, so that the same part of the table goes to the same worker again.
        files.sort_by(|a, b| a.path.cmp(&b.path));
        if let Some(roots) = location.roots() {
            check_links(Arc::clone(roots), location.shown(), unseen).await?;
        }
        let (schema, version) = (columns.schema(), log.version());
        let commit = commit_mark(location, version).await?;
        Ok(Self { location: location.clone(), version, columns, schema, log, files, commit })
    }

    /// The deleted rows of a file, read once.
    ///
    /// `stored_rows` are those of the whole file. Errs when they cannot be read or make no sense.
    pub(super) async fn deleted_rows(
        &self,
        file: &DeltaFile,
        stored_rows: u64,
    ) -> Result<Option<DeletedRows>, TableError> {
        let Some(descriptor) = &file.facts.deleted else { return Ok(None) };
        let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| {
            TableError::unreadable(format!("deleted rows of {}", shown(&file.path)), error)
        };
        let read = async || {
            let (descriptor, root) = (descriptor.clone(), self.location.root().clone());
            let path = descriptor.absolute_path(&root).map_err(|error| unreadable(error.into()))?;
            if path.is_some_and(|path| !path.as_str().starts_with(root.as_str())) {
                return Err(unreadable("they lie outside the table's folder".into()));
            }
            let storage = self.location.log_store().engine(None).storage_handler();
            // The library waits for the store, and panics on some damaged vectors.
            let positions = SpawnedTask::spawn_blocking(move || descriptor.row_indexes(storage, &root)).await;
            let positions = positions.map_err(|error| unreadable(error.into()))?;
            let positions = positions.map_err(|error| unreadable(error.into()))?;
            DeletedRows::from_positions(stored_rows, positions).map_err(|error| unreadable(error.into()))
        };
        let rows = file.facts.deleted_rows.get_or_try_init(read).await?;
        if rows.count() != file.deleted_count() {
            return Err(unreadable(
                format!("there are {}, the log says {}", rows.count(), file.deleted_count()).into(),
            ));
        }
        Ok(Some(rows.clone()))
    }
}

fn shown(path: &StorePath) -> String {
    format!("'/{path}'")
}

/// An error of the library while it reads a log.
fn of_log(location: &DeltaLocation, error: DeltaTableError) -> TableError {
    match error {
        DeltaTableError::NotATable(_) => {
            TableError::invalid(format!("'{}' is not a Delta table: it has no log", location.shown()))
        }
        error => TableError::unreadable(format!("log of Delta table {}", location.shown()), error),
    }
}

fn file(
    location: &DeltaLocation,
    columns: &DeltaColumns,
    known: &HashMap<&StorePath, &DeltaFile>,
    view: LogicalFileView,
) -> Result<DeltaFile, TableError> {
    let name = view.path().into_owned();
    if name.contains("://") || name.starts_with('/') {
        let what =
            format!("file '{name}' of Delta table '{}', which lies outside the table's folder,", location.shown());
        return Err(TableError::Unsupported { what });
    }
    let path = location.path(&view.object_store_path());
    let unreadable = |error: String| TableError::unreadable(shown(&path), error);
    let size = u64::try_from(view.size()).map_err(|_| unreadable("its size in the log is negative".to_owned()))?;
    let deleted = view.deletion_vector_descriptor().map(DeletionVectorDescriptor::try_from).transpose();
    let deleted = deleted.map_err(|error| unreadable(format!("its deletion vector is wrong: {error}")))?;
    let modified_ms = view.modification_time();
    if let Some(known) = known.get(&path)
        && known.facts.deleted == deleted
    {
        let (facts, partition_values) = (Arc::clone(&known.facts), known.partition_values.clone());
        return Ok(DeltaFile { path, size, modified_ms, partition_values, view, facts });
    }
    let values = view.partition_values_map();
    let mut partition_values = vec![];
    let mut statistics = FileStatistics::parse(view.stats().as_deref(), columns);
    for (column, bounds) in columns.0.iter().zip(&mut statistics.columns).filter(|(column, _)| column.is_partition) {
        let text = values.get(&column.physical).and_then(Option::as_deref);
        let value = partition_value(text, column.field.data_type())
            .map_err(|error| unreadable(format!("value of partition column '{}': {error}", column.field.name())))?;
        *bounds = match value.is_null() {
            true => ColumnBounds { nulls: statistics.rows, ..ColumnBounds::default() },
            false => {
                let (min, max) = (Some(value.clone()), Some(value.clone()));
                ColumnBounds { min, max, nulls: Some(0), is_exact: true }
            }
        };
        partition_values.push(value);
    }
    let facts = Arc::new(FileFacts { statistics, deleted, deleted_rows: OnceCell::new() });
    Ok(DeltaFile { path, size, modified_ms, partition_values, view, facts })
}

/// Errs when a file of the table is a link, or lies below one, that leads outside what may be read.
async fn check_links(roots: Arc<Roots>, shown: String, paths: Vec<StorePath>) -> Result<(), TableError> {
    let check = move || {
        let mut folders = HashSet::new();
        for path in paths {
            let path = format!("/{path}");
            let path = Path::new(&path);
            let Some(folder) = path.parent() else { continue };
            // A folder or file that is gone is found out by whoever reads it.
            if folders.insert(folder.to_owned())
                && let Ok(real) = folder.canonicalize()
            {
                roots.check(&real, &folder.display().to_string())?;
            }
            if path.is_symlink()
                && let Ok(real) = path.canonicalize()
            {
                roots.check(&real, &path.display().to_string())?;
            }
        }
        Ok(())
    };
    SpawnedTask::spawn_blocking(check).await.map_err(|error| TableError::unreadable(shown, error))?
}
