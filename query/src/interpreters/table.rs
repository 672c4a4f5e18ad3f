//! Statements about managed tables; one file a kind.

mod alter;
mod analyze;
mod care;
mod copy_into;
mod copy_to;
mod create;
mod dropped;
mod history;
mod insert;
mod merge;
mod retry;
mod rewrite;
mod rows_of;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::common::{ScalarValue, TableReference};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::sql::sqlparser::ast::{FromTable, ObjectName, TableFactor, TableObject};
use deltalake_core::kernel::Action;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use sheaf_common::{ErrorCode, WireError};
use sheaf_planners::parser::TableStatement;
use sheaf_planners::table_sink::{SinkTarget, TableSinkExec};

use super::drop::table_name;
use crate::answer::Answer;
use crate::catalog::TableSource;
use crate::context::QueryContext;
use crate::coordinator;
use crate::error::QueryError;
use crate::managed::ManagedError;
use crate::managed::definition::ManagedDef;
use crate::managed::log::{Change, Snapshot, TableLog};
use crate::managed::storage::{Place, below};
use crate::managed::writer::{Written, WrittenFile, of_batch};
use crate::session::Session;
use crate::tables::delta::{DeltaFile, DeltaTable};
use crate::tables::listings::Listings;
use crate::tables::wire;

/// Bytes of a file at which the next one is begun.
const FILE_BYTES: u64 = 128 << 20;

/// After which what a statement that failed has left is removed.
const REMOVAL_DELAY: Duration = Duration::from_secs(1);

/// Files whose presence is checked at once.
const HEADS_MAX: usize = 16;

/// Runs a statement; `values` are those of its parameters.
pub(super) async fn run(
    session: &Session,
    context: &Arc<QueryContext>,
    statement: TableStatement,
    values: &[ScalarValue],
) -> Result<Answer, QueryError> {
    refuse_views(session, &statement)?;
    match statement {
        TableStatement::Create(create) => create::run(session, context, *create, values).await,
        TableStatement::Insert(insert) => insert::run(session, context, *insert, values).await,
        TableStatement::Update(update) => rewrite::update(session, context, *update, values).await,
        TableStatement::Delete(delete) => rewrite::delete(session, context, *delete, values).await,
        TableStatement::Merge(merge) => merge::run(session, context, *merge, values).await,
        TableStatement::Truncate(tables) => rewrite::truncate(session, context, &tables).await,
        TableStatement::History(table) => history::show(session, &table).await,
        TableStatement::Restore { table, to } => history::restore(session, context, &table, &to).await,
        TableStatement::Optimize { table, z_order, gives_way } => {
            care::optimize(session, context, &table, &z_order, gives_way).await
        }
        TableStatement::Vacuum { table, retain_hours, dry_run } => {
            care::vacuum(session, &table, retain_hours, dry_run).await
        }
        TableStatement::CopyTo(copy) => copy_to::run(session, context, *copy, values).await,
        TableStatement::CopyInto(copy) => copy_into::run(session, context, *copy).await,
        TableStatement::Undrop(table) => dropped::undrop(session, &table).await,
        TableStatement::VacuumDropped { database, retain_hours, dry_run } => {
            dropped::vacuum(session, database, retain_hours, dry_run).await
        }
        TableStatement::Alter { table, operations } => alter::run(session, context, &table, operations).await,
        TableStatement::Analyze(tables) => analyze::run(session, context, &tables).await,
    }
}

/// Rows of a view cannot be written.
fn refuse_views(session: &Session, statement: &TableStatement) -> Result<(), QueryError> {
    let (name, code, operation) = match statement {
        TableStatement::Insert(insert) => match &insert.table {
            TableObject::TableName(name) => (name, ErrorCode::NotInsertable, "INSERT"),
            _ => return Ok(()),
        },
        TableStatement::Update(update) => match &update.table.relation {
            TableFactor::Table { name, .. } => (name, ErrorCode::NotUpdatable, "UPDATE"),
            _ => return Ok(()),
        },
        TableStatement::Delete(delete) => {
            let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
            match from.first().map(|it| &it.relation) {
                Some(TableFactor::Table { name, .. }) => (name, ErrorCode::NotUpdatable, "DELETE"),
                _ => return Ok(()),
            }
        }
        _ => return Ok(()),
    };
    let (database, table) = table_name(session, name)?;
    let Ok(found) = session.engine().catalog().table(&database, &table) else { return Ok(()) };
    let what = if code == ErrorCode::NotInsertable { "insertable-into" } else { "updatable" };
    match found.is_view() {
        true => Err(WireError::new(code, format!("the target table {table} of the {operation} is not {what}")).into()),
        false => Ok(()),
    }
}
pub(super) use dropped::Marked;

/// The columns of a statement's answer, where it has rows.
pub(super) fn answer_schema(statement: &TableStatement) -> Option<SchemaRef> {
    match statement {
        TableStatement::Analyze(_) => Some(analyze::report().schema()),
        TableStatement::History(_) => Some(history::rows().schema()),
        TableStatement::Optimize { .. } => Some(care::report().schema()),
        TableStatement::CopyTo(_) => Some(copy_to::report().schema()),
        TableStatement::CopyInto(_) => Some(copy_into::report().schema()),
        TableStatement::VacuumDropped { dry_run: true, .. } => Some(dropped::dry_run_rows().schema()),
        TableStatement::Vacuum { dry_run: true, .. } => Some(care::dry_run_rows().schema()),
        _ => None,
    }
}

pub(super) use analyze::show as show_statistics;
pub(crate) use care::small_files;
pub(super) use insert::{parse_query, position};
pub(super) use rows_of::{Value, default_of, fitted};

/// A managed table that a statement is about.
pub(super) struct Target {
    database: String,
    name: String,
    pub(super) def: ManagedDef,
    created_ms: Option<i64>,
    log: Arc<TableLog>,
}

impl Target {
    /// Errs when there is no such table, or when it is not ours to write.
    pub(super) fn find(session: &Session, name: &ObjectName) -> Result<Self, QueryError> {
        let (database, table) = table_name(session, name)?;
        let info = session.engine().catalog().table(&database, &table);
        let info = info.map_err(|error| QueryError::from_classified(&error))?;
        let def = match info.def.as_ref().map(|it| &it.source) {
            Some(TableSource::Managed(def)) => def.clone(),
            _ if info.is_view() => {
                let text = format!("'{database}.{}' is not BASE TABLE", info.name);
                return Err(WireError::new(ErrorCode::WrongObject, text).into());
            }
            _ => {
                let kind = format!("writing to table '{database}.{}', which is not a managed one,", info.name);
                return Err(QueryError::unsupported(kind));
            }
        };
        let log = session.engine().managed().log(&def.location).map_err(failed)?;
        Ok(Self { database, name: info.name, def, created_ms: info.created_ms, log })
    }

    /// The newest version, if this server may write it. From here on the statement reads this one, wherever it names
    /// the table.
    pub(super) async fn latest(&self, context: &QueryContext) -> Result<Arc<Snapshot>, QueryError> {
        let snapshot = self.log.latest().await.map_err(failed)?;
        snapshot.check_writable().map_err(failed)?;
        Listings::of(context.session_state.as_ref()).pin(&snapshot.delta);
        Ok(snapshot)
    }

    fn reference(&self) -> TableReference {
        TableReference::full(crate::catalog::CATALOG, self.database.as_str(), self.name.as_str())
    }

    /// A version as a plan reads it.
    fn table(&self, snapshot: &Snapshot) -> DeltaTable {
        self.log.table(self.reference(), snapshot)
    }
}

fn failed(error: ManagedError) -> QueryError {
    QueryError::Wire(wire(&error))
}

/// Whether a statement failed because another one was faster.
fn is_conflict(error: &QueryError) -> bool {
    matches!(error, QueryError::Wire(it) if it.code == ErrorCode::WriteConflict)
}

/// Files of one attempt at a statement. Dropped before they are committed, they are removed, on whatever node they
/// were written.
struct Attempt {
    /// What the names of its files begin with.
    mark: String,
    /// The marks of files to be removed; none once they are somebody else's to keep.
    marks: Vec<String>,
    log: Arc<TableLog>,
}

impl Attempt {
    fn new(context: &QueryContext, log: &Arc<TableLog>, attempt: u32) -> Self {
        Self::marked(format!("{}-{attempt}", context.query), log)
    }

    fn marked(mark: String, log: &Arc<TableLog>) -> Self {
        Self { marks: vec![mark.clone()], mark, log: Arc::clone(log) }
    }

    /// One whose files may be left out when the others are committed.
    fn part(&self, number: usize) -> Self {
        Self::marked(format!("{}.{number}", self.mark), &self.log)
    }

    /// The files of a part go the way of the others.
    fn absorb(&mut self, part: Self) {
        let mut part = part;
        self.marks.append(&mut part.marks);
    }

    /// The files are not this attempt's to remove any more.
    fn keep(&mut self) {
        self.marks.clear();
    }

    /// What the attempt writes into: a table of these columns.
    fn destination(&self, def: &ManagedDef, schema: &SchemaRef, partition_columns: &[String]) -> Destination {
        let target = SinkTarget {
            location: def.location.clone(),
            statement: self.mark.clone(),
            partition_columns: partition_columns.to_vec(),
            file_bytes: FILE_BYTES,
            ..SinkTarget::default()
        };
        let (schema, place) = (Arc::clone(schema), self.log.place().clone());
        Destination {
            target,
            schema,
            place,
            cluster_columns: def.cluster_columns.clone(),
            files_max: None,
            stays_here: false,
        }
    }

    /// The same for a table as it is.
    fn table_destination(&self, target: &Target, snapshot: &Snapshot) -> Destination {
        self.destination(&target.def, &snapshot.schema, &snapshot.partition_columns)
    }
}

/// Where and how rows are written.
struct Destination {
    target: SinkTarget,
    schema: SchemaRef,
    place: Place,
    /// Columns by which rows are sorted within each file.
    cluster_columns: Vec<String>,
    /// No more files than the rows are worth.
    files_max: Option<usize>,
    /// The rows come in on this node.
    stays_here: bool,
}

impl Destination {
    /// The same for rows that take about `bytes`: in no more files than these are worth.
    fn compacted(self, bytes: u64) -> Self {
        let n_files = usize::try_from(bytes.div_ceil(self.target.file_bytes)).unwrap_or(usize::MAX).max(1);
        Self { files_max: Some(n_files), ..self }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let marks = std::mem::take(&mut self.marks);
        let (false, Ok(runtime)) = (marks.is_empty(), tokio::runtime::Handle::try_current()) else { return };
        let log = Arc::clone(&self.log);
        runtime.spawn(async move {
            // Tasks that are being ended remove their own first; what they were just completing appears meanwhile.
            tokio::time::sleep(REMOVAL_DELAY).await;
            for mark in marks {
                log.remove_files_of(&mark).await;
            }
        });
    }
}

/// The same statement under an id of its own. Tasks are known by their query and their place in its plan: of two plans of
/// one statement, what ends the first would end the second.
fn apart(context: &QueryContext) -> Arc<QueryContext> {
    Arc::new(context.again(context.settings.join_strategy))
}

/// Runs a plan whose rows fit the table and writes them; nothing of it is visible yet.
async fn write_files(
    context: &Arc<QueryContext>,
    plan: LogicalPlan,
    to: &Destination,
) -> Result<Vec<WrittenFile>, QueryError> {
    Ok(write(context, plan, to).await?.files)
}

/// Writes rows that come in on this node and adds them to a table; how many.
pub(super) async fn append(
    context: &Arc<QueryContext>,
    target: &Target,
    snapshot: &Snapshot,
    plan: LogicalPlan,
) -> Result<u64, QueryError> {
    let attempt = Attempt::new(context, &target.log, 0);
    let to = Destination { stays_here: true, ..attempt.table_destination(target, snapshot) };
    let files = write_files(context, plan, &to).await?;
    let rows = files.iter().map(|it| it.rows).sum();
    if !files.is_empty() {
        let mut change = change_of(context, "WRITE", &files);
        change.parameters.insert("mode".to_owned(), "Append".into());
        change.is_blind = true;
        commit(attempt, change).await?;
    }
    Ok(rows)
}

/// The same, with what is told of the files that rows were loaded from.
async fn write(context: &Arc<QueryContext>, plan: LogicalPlan, to: &Destination) -> Result<Written, QueryError> {
    let Destination { target, schema, cluster_columns, files_max, .. } = to;
    let finish = |plan: Arc<dyn ExecutionPlan>| {
        let column = |name: &String| -> datafusion::error::Result<Arc<dyn PhysicalExpr>> {
            Ok(Arc::new(Column::new(name, schema.index_of(name)?)))
        };
        let mut plan = plan;
        if files_max.is_some_and(|it| it < plan.output_partitioning().partition_count()) {
            plan = Arc::new(CoalescePartitionsExec::new(plan));
        } else if !target.partition_columns.is_empty() {
            // Each folder's rows in one place, or there would be a file for each task and folder.
            let keys = target.partition_columns.iter().map(column).collect::<Result<Vec<_>, _>>()?;
            let partitions = plan.output_partitioning().partition_count();
            plan = Arc::new(RepartitionExec::try_new(plan, Partitioning::Hash(keys, partitions))?);
        }
        let order = cluster_columns.iter().map(|it| Ok(PhysicalSortExpr::new_default(column(it)?)));
        if let Some(order) = LexOrdering::new(order.collect::<datafusion::error::Result<Vec<_>>>()?) {
            plan = Arc::new(SortExec::new(order, plan).with_preserve_partitioning(true));
        }
        Ok(Arc::new(TableSinkExec::try_new(plan, target.clone(), Arc::clone(schema))?) as Arc<dyn ExecutionPlan>)
    };
    let context = apart(context);
    let plan = match to.stays_here {
        true => coordinator::plan_finished_here(&context, plan, &finish).await?,
        false => coordinator::plan_finished(&context, plan, &finish).await?,
    };
    let mut rows = coordinator::run(context, plan).await?.stream;
    let mut written = Written::default();
    while let Some(batch) = rows.try_next().await? {
        written.extend(of_batch(&batch)?);
    }
    check_present(&to.place, &written.files).await?;
    Ok(written)
}

/// Errs unless this node sees every file with its whole length: one that wrote elsewhere has lost them to the table.
async fn check_present(place: &Place, files: &[WrittenFile]) -> Result<(), QueryError> {
    let owned: Vec<(String, i64)> = files.iter().map(|it| (it.add.path.clone(), it.add.size)).collect();
    let place = place.clone();
    let heads = futures::stream::iter(owned).map(move |(path, size)| {
        let place = place.clone();
        async move {
            let meta = place.store.head(&below(&place.folder, &path)?).await?;
            Ok::<_, object_store::Error>((path, u64::try_from(size) == Ok(meta.size)))
        }
    });
    let mut heads = heads.buffer_unordered(HEADS_MAX).boxed();
    while let Some(head) = heads.next().await {
        let why = match head {
            Ok((_, true)) => continue,
            Ok((path, false)) => format!("'{path}' has another length"),
            Err(error) => error.to_string(),
        };
        let text = format!(
            "a file that a worker wrote is not where this node looks for it ({why}): --table-root has to be storage \
             that all nodes share"
        );
        return Err(QueryError::Wire(WireError::new(ErrorCode::FileUnreadable, text)));
    }
    Ok(())
}

/// Commits what an attempt wrote. Not to be stopped halfway: a client that hangs up does not end it.
async fn commit(attempt: Attempt, change: Change) -> Result<u64, QueryError> {
    let mut attempt = attempt;
    let committed = tokio::spawn(async move {
        let version = attempt.log.commit(&change).await;
        if matches!(version, Ok(_) | Err(ManagedError::Unknown { .. })) {
            attempt.keep();
        }
        if let Ok(version) = version {
            let log = Arc::clone(&attempt.log);
            tokio::spawn(async move { log.checkpoint_if_due(version).await });
        }
        version
    });
    match committed.await {
        Ok(version) => version.map_err(failed),
        Err(error) => Err(QueryError::Wire(WireError::new(
            ErrorCode::Internal,
            format!("the commit of a table ended without an answer: {error}"),
        ))),
    }
}

/// The parts of a change that are the same for every statement.
fn change_of(context: &QueryContext, operation: &'static str, files: &[WrittenFile]) -> Change {
    let rows: u64 = files.iter().map(|it| it.rows).sum();
    Change {
        operation,
        metrics: [("numFiles".to_owned(), files.len().into()), ("numOutputRows".to_owned(), rows.into())]
            .into_iter()
            .collect(),
        actions: files.iter().map(|it| Action::Add(it.add.clone())).collect(),
        user: context.user.clone(),
        statements: vec![context.query],
        ..Change::default()
    }
}

/// Files as the log names them.
fn names(files: &[Arc<DeltaFile>]) -> HashSet<String> {
    files.iter().map(|it| it.name()).collect()
}

/// Paths of all files of a version.
fn paths(snapshot: &Snapshot) -> HashSet<String> {
    names(snapshot.files())
}

fn done(affected_rows: u64, info: impl Into<String>) -> Result<Answer, QueryError> {
    Ok(Answer::Done { affected_rows, info: info.into() })
}
