//! `DESCRIBE HISTORY` and `RESTORE`.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, NaiveDateTime, Utc};
use datafusion::sql::sqlparser::ast::ObjectName;
use deltalake_core::kernel::Action;
use object_store::ObjectStoreExt;
use serde_json::Value;
use sheaf_planners::parser::VersionClause;

use super::retry::{Manner, retried};
use super::{Answer, Attempt, QueryContext, QueryError, Session, Target, change_of, commit, done, failed, paths};
use crate::interpreters::rows::Rows;
use crate::managed::log::Reads;

pub(super) fn rows() -> Rows {
    let columns = ["#version", "timestamp", "user", "operation", "parameters", "#read_version", "metrics", "engine"];
    Rows::new(&columns)
}

/// One row for each entry of the log, newest first.
pub(super) async fn show(session: &Session, table: &ObjectName) -> Result<Answer, QueryError> {
    let target = Target::find(session, table)?;
    let mut rows = rows();
    for (version, info) in target.log.history().await.map_err(failed)? {
        let text = |key: &str| info.get(key).map(|it| it.as_str().map_or_else(|| it.to_string(), str::to_owned));
        let time = info.get("timestamp").and_then(Value::as_i64).and_then(DateTime::from_timestamp_millis);
        rows.push(vec![
            Some(version.to_string()),
            time.map(|it| it.format("%Y-%m-%d %H:%M:%S%.3f").to_string()),
            text("userName"),
            text("operation"),
            text("operationParameters"),
            text("readVersion"),
            text("operationMetrics"),
            text("engineInfo"),
        ]);
    }
    rows.answer()
}

/// Makes the table again what it was, as a new version.
pub(super) async fn restore(
    session: &Session,
    context: &Arc<QueryContext>,
    table: &ObjectName,
    to: &VersionClause,
) -> Result<Answer, QueryError> {
    let run = |target: Arc<Target>, _| async move { restore_once(context, &target, to).await };
    retried(session, context, table, Manner::Rewrites, run).await
}

async fn restore_once(context: &Arc<QueryContext>, target: &Target, to: &VersionClause) -> Result<Answer, QueryError> {
    let now = target.latest(context).await?;
    let version = version_of(target, to).await?;
    if version > now.version {
        let text = format!(
            "table '{}.{}' has no version {version}, its newest is {}",
            target.database, target.name, now.version
        );
        return Err(QueryError::InvalidArgument(text));
    }
    let then = target.log.at(version).await.map_err(failed)?;
    if then.metadata["schemaString"] != now.metadata["schemaString"] {
        return Err(QueryError::unsupported("RESTORE to a version that had other columns"));
    }
    let (here, there): (HashSet<String>, HashSet<String>) = (paths(&now), paths(&then));
    let mut change = change_of(context, "RESTORE", &[]);
    change.parameters.insert("version".to_owned(), version.into());
    change.read_version = Some(now.version);
    change.read_files.clone_from(&here);
    change.reads = Reads::Everything;
    for file in then.files().iter().filter(|it| !here.contains(&it.name())) {
        if then.place.store.head(&file.path).await.is_err() {
            let text = format!("version {version} cannot be restored: VACUUM has removed the file '{}'", file.name());
            return Err(QueryError::InvalidArgument(text));
        }
        change.actions.push(file.add(true));
    }
    let gone = now.files().iter().filter(|it| !there.contains(&it.name()));
    change.actions.extend(gone.map(|it| it.remove(true)));
    let n_adds = change.actions.iter().filter(|it| matches!(it, Action::Add(_))).count();
    change.metrics.insert("numRestoredFiles".to_owned(), n_adds.into());
    commit(Attempt::new(context, &target.log, 0), change).await?;
    done(0, format!("restored to version {version}"))
}

async fn version_of(target: &Target, version: &VersionClause) -> Result<u64, QueryError> {
    let text = match version {
        VersionClause::Version(number) => return Ok(*number),
        VersionClause::Timestamp(text) => text,
    };
    let time = parse_time(text)
        .ok_or_else(|| QueryError::InvalidArgument(format!("'{text}' is not a time such as '2026-01-31 12:00:00'")))?;
    let history = target.log.history().await.map_err(failed)?;
    let before = history.iter().find(|(_, info)| {
        info.get("timestamp").and_then(Value::as_i64).is_some_and(|it| it <= time.timestamp_millis())
    });
    before.map(|(version, _)| *version).ok_or_else(|| {
        QueryError::InvalidArgument(format!(
            "table '{}.{}' has no version as old as '{text}'",
            target.database, target.name
        ))
    })
}

/// A time in UTC.
fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    let with_time = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok();
    let date = || chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    with_time.or_else(date).map(|it| it.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for text in
            ["2026-01-31 12:00:00", "2026-01-31T12:00:00Z", "2026-01-31T14:00:00+02:00", "2026-01-31 12:00:00.000"]
        {
            assert_eq!(parse_time(text).unwrap().timestamp(), 1_769_860_800, "{text}");
        }
        assert!(parse_time("2026-01-31").is_some());
        assert!(parse_time("yesterday").is_none());
    }
}
