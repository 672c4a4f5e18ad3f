//! `UNDROP TABLE` and `VACUUM DROP TABLE`, and what `DROP TABLE` does with a table's files.

use std::collections::HashSet;

use chrono::DateTime;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use sheaf_common::{ErrorCode, WireError};
use tracing::warn;

use super::{Answer, QueryError, Session, done, failed, table_name};
use crate::catalog::{Catalog, IfExists, TableSource};
use crate::interpreters::rows::Rows;
use crate::managed::dropped::RETAIN_HOURS;

pub(super) fn dry_run_rows() -> Rows {
    Rows::new(&["database", "table", "dropped_at", "location"])
}

/// Managed tables whose folders say that they are dropped, while the catalog does not know it yet.
pub(in crate::interpreters) struct Marked<'a> {
    session: &'a Session,
    locations: Vec<String>,
}

impl<'a> Marked<'a> {
    pub fn new(session: &'a Session) -> Self {
        Self { session, locations: vec![] }
    }

    /// Says so of one table; nothing of one that is not managed, or not there.
    pub async fn add(&mut self, database: &str, table: &str) -> Result<(), QueryError> {
        let Ok(info) = self.session.engine().catalog().table(database, table) else { return Ok(()) };
        let Some(table) = info.def.as_ref() else { return Ok(()) };
        if let TableSource::Managed(def) = &table.source {
            self.session.engine().managed().mark_dropped(&info.database, table).await.map_err(failed)?;
            self.locations.push(def.location.clone());
        }
        Ok(())
    }

    /// Takes it back: the tables stay.
    pub async fn undo(self) {
        for location in &self.locations {
            if let Err(error) = self.session.engine().managed().unmark_dropped(location).await {
                // It is not believed of a table that is there.
                warn!(%location, %error, "a table that was not dropped is marked as dropped");
            }
        }
    }

    /// The tables are gone; those that were dropped long ago lose their files, whenever that is done.
    pub fn finish(self) {
        let managed = self.session.engine().managed().clone();
        self.locations.iter().for_each(|it| managed.forget(it));
        if self.locations.is_empty() {
            return;
        }
        let live = live(self.session.engine().catalog());
        tokio::spawn(async move {
            let removed = async {
                for dropped in managed.dropped(None, &live).await?.iter().filter(|it| it.is_older_than(RETAIN_HOURS)) {
                    managed.remove_dropped(dropped).await?;
                }
                Ok::<_, crate::managed::ManagedError>(())
            };
            if let Err(error) = removed.await {
                warn!(%error, "files of dropped tables could not be removed; VACUUM DROP TABLE tries again");
            }
        });
    }
}

/// The locations of all tables that are there.
fn live(catalog: &Catalog) -> HashSet<String> {
    let databases = catalog.databases();
    let tables = databases.iter().flat_map(|it| catalog.tables(&it.name).unwrap_or_default());
    let locations = tables.filter_map(|it| match &it.def?.source {
        TableSource::Managed(def) => Some(def.location.clone()),
        TableSource::Files(_) => None,
    });
    locations.collect()
}

/// Brings back the table that was dropped last under a name.
pub(super) async fn undrop(session: &Session, name: &ObjectName) -> Result<Answer, QueryError> {
    let (database, table) = table_name(session, name)?;
    let (catalog, managed) = (session.engine().catalog(), session.engine().managed());
    let dropped = managed.dropped(Some(&database), &live(catalog)).await.map_err(failed)?;
    let found = dropped
        .iter()
        .find(|it| it.table.name == table)
        .or_else(|| dropped.iter().find(|it| it.table.name.eq_ignore_ascii_case(&table)));
    let gone = |why: &str| {
        let text = format!("table '{database}.{table}' cannot be brought back: {why}");
        Err(QueryError::Wire(WireError::new(ErrorCode::TableNotFound, text)))
    };
    let found = match found {
        None => return gone("none of this name was dropped, or its files are gone"),
        Some(found) if found.is_going => return gone("its files are being removed"),
        Some(found) if found.is_older_than(RETAIN_HOURS) => return gone("it was dropped too long ago"),
        Some(found) => found,
    };
    // Whether there is still something to bring back.
    managed.log(found.location()).map_err(failed)?.latest().await.map_err(failed)?;
    let created = catalog.create_table(&database, found.table.clone(), IfExists::Fail).await;
    created.map_err(|error| QueryError::from_classified(&error))?;
    managed.unmark_dropped(found.location()).await.map_err(failed)?;
    done(0, "")
}

/// Removes the files of tables that were dropped before the retention began.
pub(super) async fn vacuum(
    session: &Session,
    database: Option<Ident>,
    retain_hours: Option<u64>,
    dry_run: bool,
) -> Result<Answer, QueryError> {
    let (catalog, managed) = (session.engine().catalog(), session.engine().managed());
    let database = database.map(|it| catalog.database_name(&it.value).unwrap_or(it.value));
    let dropped = managed.dropped(database.as_deref(), &live(catalog)).await.map_err(failed)?;
    let hours = retain_hours.unwrap_or(RETAIN_HOURS);
    let dropped = dropped.into_iter().filter(|it| it.is_going || it.is_older_than(hours));
    if dry_run {
        let mut rows = dry_run_rows();
        for it in dropped {
            let at =
                DateTime::from_timestamp_millis(it.dropped_ms).map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string());
            let location = it.location().to_owned();
            rows.push(vec![Some(it.database), Some(it.table.name), at, Some(location)]);
        }
        return rows.answer();
    }
    let mut n_files = 0;
    for it in dropped {
        n_files += managed.remove_dropped(&it).await.map_err(failed)?;
    }
    done(n_files, format!("{n_files} files removed"))
}
