//! `OPTIMIZE` and `VACUUM`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::TimeDelta;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use deltalake_core::DeltaTable;
use deltalake_core::kernel::Action;
use deltalake_core::operations::vacuum::VacuumMode;

use super::insert::position;
use super::retry::{Manner, retried};
use super::{
    Answer, Attempt, Destination, QueryContext, QueryError, Session, Target, change_of, commit, done, failed, names,
};
use crate::interpreters::rows::Rows;
use crate::managed::ManagedError;
use crate::managed::log::Snapshot;
use crate::tables::delta::DeltaFile;

/// Files below this are worth being put together.
const SMALL_BYTES: u64 = 32 << 20;

/// What upkeep puts together at a time: little enough to be through before somebody wants the table.
const UPKEEP_BYTES_MAX: u64 = 512 << 20;

/// Hours for which VACUUM keeps what is no part of the table any more: readers of older versions, and writers that
/// have not committed yet, may need it.
const RETAIN_HOURS: u64 = 168;

pub(super) fn report() -> Rows {
    Rows::new(&["#files_removed", "#files_added", "#bytes_removed", "#bytes_added"])
}

pub(super) fn dry_run_rows() -> Rows {
    Rows::new(&["file"])
}

/// Writes small files together; with columns to sort by, all files anew.
pub(super) async fn optimize(
    session: &Session,
    context: &Arc<QueryContext>,
    table: &ObjectName,
    sort_by: &[Ident],
    gives_way: bool,
) -> Result<Answer, QueryError> {
    if sort_by.len() > 1 {
        return Err(QueryError::unsupported("ZORDER BY more than one column"));
    }
    if gives_way {
        return optimize_unless_wanted(session, context, table).await;
    }
    let run =
        |target: Arc<Target>, attempt| async move { optimize_once(context, &target, sort_by, attempt, false).await };
    retried(session, context, table, Manner::Rewrites, run).await
}

/// The same for upkeep: once, and only while no statement wants to change rows of the table.
async fn optimize_unless_wanted(
    session: &Session,
    context: &Arc<QueryContext>,
    table: &ObjectName,
) -> Result<Answer, QueryError> {
    let target = Target::find(session, table)?;
    let Some(_turn) = target.log.rewriting.take_if_unwanted() else { return Err(gave_way(&target)) };
    if target.log.is_claimed().await {
        return Err(gave_way(&target));
    }
    tokio::select! {
        biased;
        () = target.log.rewriting.wanted() => Err(gave_way(&target)),
        done = optimize_once(context, &target, &[], 0, true) => done,
    }
}

fn gave_way(target: &Target) -> QueryError {
    let location = target.def.location.clone();
    failed(ManagedError::Conflict { location, what: "a statement that changes rows came first".to_owned() })
}

/// The files that are worth being put together: small ones with others beside them in their folder, of which one alone
/// may be small. With a limit, about so many bytes of them.
pub(crate) fn small_files(snapshot: &Snapshot, bytes_max: Option<u64>) -> Vec<Arc<DeltaFile>> {
    let mut folders: BTreeMap<usize, Vec<&Arc<DeltaFile>>> = BTreeMap::new();
    let mut numbers = HashMap::new();
    for file in snapshot.files().iter().filter(|it| it.size < SMALL_BYTES) {
        let next = numbers.len();
        folders.entry(*numbers.entry(&file.partition_values).or_insert(next)).or_default().push(file);
    }
    let mut left = bytes_max.unwrap_or(u64::MAX);
    let mut chosen = vec![];
    for files in folders.values() {
        let n_fitting = files.iter().take_while(|it| {
            let fits = left > 0;
            left = left.saturating_sub(it.size);
            fits
        });
        let n_fitting = n_fitting.count();
        if n_fitting > 1 {
            chosen.extend(files[..n_fitting].iter().map(|it| Arc::clone(it)));
        }
    }
    chosen
}

async fn optimize_once(
    context: &Arc<QueryContext>,
    target: &Target,
    sort_by: &[Ident],
    attempt: u32,
    gives_way: bool,
) -> Result<Answer, QueryError> {
    let snapshot = target.latest(context).await?;
    let mut sort_columns = target.def.cluster_columns.clone();
    if !sort_by.is_empty() {
        sort_columns.clear();
        for name in sort_by {
            let idx = position(target, &snapshot, &ObjectName::from(vec![name.clone()]))?;
            sort_columns.push(snapshot.schema.field(idx).name().clone());
        }
    }
    let chosen: Vec<Arc<DeltaFile>> = match sort_by.is_empty() {
        true => small_files(&snapshot, gives_way.then_some(UPKEEP_BYTES_MAX)),
        false => snapshot.files().to_vec(),
    };
    let mut report = report();
    if chosen.is_empty() {
        report.push(vec![Some("0".to_owned()); 4]);
        return report.answer();
    }
    let provider = target.table(&snapshot).of_files(chosen.clone());
    let plan = LogicalPlanBuilder::scan(target.reference(), provider_as_source(Arc::new(provider)), None)?.build()?;
    let attempt = Attempt::new(context, &target.log, attempt);
    let bytes: u64 = chosen.iter().map(|it| it.size).sum();
    let to = attempt.table_destination(target, &snapshot).compacted(bytes);
    let files = super::write_files(context, plan, &Destination { cluster_columns: sort_columns, ..to }).await?;
    let mut change = change_of(context, "OPTIMIZE", &files);
    change.read_version = Some(snapshot.version);
    change.read_files = names(&chosen);
    // The rows are the same: who follows changes has nothing to do.
    for action in &mut change.actions {
        if let Action::Add(add) = action {
            add.data_change = false;
        }
    }
    change.actions.extend(chosen.iter().map(|it| it.remove(false)));
    let added: i64 = files.iter().map(|it| it.add.size).sum();
    if gives_way && target.log.is_claimed().await {
        return Err(gave_way(target));
    }
    commit(attempt, change).await?;
    report.push([chosen.len() as i64, files.len() as i64, bytes as i64, added].map(|it| Some(it.to_string())).to_vec());
    report.answer()
}

/// Removes files that no version within the retention needs, those of statements that died among them.
pub(super) async fn vacuum(
    session: &Session,
    table: &ObjectName,
    retain_hours: Option<u64>,
    dry_run: bool,
) -> Result<Answer, QueryError> {
    let target = Target::find(session, table)?;
    target.log.latest().await.map_err(failed)?.check_writable().map_err(failed)?;
    let hours = retain_hours.unwrap_or(RETAIN_HOURS);
    let retention = i64::try_from(hours).ok().and_then(TimeDelta::try_hours);
    let Some(retention) = retention else {
        return Err(QueryError::InvalidArgument(format!("{hours} hours are too many")));
    };
    let _turn = target.log.rewriting.take().await;
    let mut opened = DeltaTable::new(target.log.log_store());
    let source = |source| failed(ManagedError::Log { location: target.def.location.clone(), source: Box::new(source) });
    opened.load().await.map_err(source)?;
    let vacuum = opened
        .vacuum()
        .with_mode(VacuumMode::Full)
        .with_retention_period(retention)
        .with_enforce_retention_duration(false)
        .with_dry_run(dry_run);
    let (_, metrics) = vacuum.await.map_err(source)?;
    if dry_run {
        let mut rows = dry_run_rows();
        metrics.files_deleted.into_iter().for_each(|it| rows.push(vec![Some(it)]));
        return rows.answer();
    }
    done(metrics.files_deleted.len() as u64, format!("{} files removed", metrics.files_deleted.len()))
}
