//! `DROP DATABASE` and `DROP TABLE`. Files of external tables stay where they are, those of managed ones for a while.

use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use sheaf_common::ErrorCode;

use super::table::Marked;
use crate::answer::Answer;
use crate::binder::name_parts;
use crate::error::QueryError;
use crate::session::Session;

pub(super) async fn database(session: &Session, name: &Ident, if_exists: bool) -> Result<Answer, QueryError> {
    let catalog = session.engine().catalog();
    let name = catalog.database_name(&name.value).unwrap_or_else(|_| name.value.clone());
    // As in MySQL, its tables go with it.
    let mut marked = Marked::new(session);
    for table in catalog.table_names(&name).unwrap_or_default() {
        marked.add(&name, &table).await?;
    }
    let n_tables = match catalog.drop_database(&name, if_exists, true).await {
        Ok(n_tables) => n_tables,
        Err(error) => {
            marked.undo().await;
            return Err(QueryError::from_classified(&error));
        }
    };
    marked.finish();
    let Some(n_tables) = n_tables else {
        session.warn(ErrorCode::DatabaseNotFound, format!("database '{name}' does not exist"));
        return Ok(Answer::done());
    };
    session.with_state(|state| {
        if state.database.as_ref() == Some(&name) {
            state.database = None;
        }
    });
    Ok(Answer::Done { affected_rows: n_tables as u64, info: String::new() })
}

pub(super) async fn tables(session: &Session, names: &[ObjectName], if_exists: bool) -> Result<Answer, QueryError> {
    for name in names {
        let (database, table) = table_name(session, name)?;
        let mut marked = Marked::new(session);
        marked.add(&database, &table).await?;
        match session.engine().catalog().drop_table(&database, &table, if_exists).await {
            Ok(true) => marked.finish(),
            Ok(false) => {
                session.warn(ErrorCode::TableNotFound, format!("table '{database}.{table}' does not exist"));
            }
            Err(error) => {
                marked.undo().await;
                return Err(QueryError::from_classified(&error));
            }
        }
    }
    Ok(Answer::done())
}

/// Database and table of a name; the session's database where it names none.
pub(super) fn table_name(session: &Session, name: &ObjectName) -> Result<(String, String), QueryError> {
    let mut parts = name_parts(name)?;
    let Some(table) = parts.pop() else {
        return Err(QueryError::InvalidArgument("a table needs a name".to_owned()));
    };
    let database = match parts.pop() {
        Some(database) => database.value,
        None => session.database().ok_or(QueryError::NoDatabaseSelected)?,
    };
    let database = session.engine().catalog().database_name(&database);
    Ok((database.map_err(|error| QueryError::from_classified(&error))?, table.value))
}
