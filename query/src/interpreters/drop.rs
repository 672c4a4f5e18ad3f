//! `DROP DATABASE` and `DROP TABLE`. Files stay where they are.

use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use sheaf_common::ErrorCode;

use crate::answer::Answer;
use crate::binder::name_parts;
use crate::error::QueryError;
use crate::session::Session;

pub(super) fn database(session: &Session, name: &Ident, if_exists: bool) -> Result<Answer, QueryError> {
    let catalog = session.engine().catalog();
    let name = catalog.database_name(&name.value).unwrap_or_else(|_| name.value.clone());
    // As in MySQL, its tables go with it.
    let dropped = catalog.drop_database(&name, if_exists, true).map_err(|error| QueryError::from_classified(&error))?;
    let Some(n_tables) = dropped else {
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

pub(super) fn tables(session: &Session, names: &[ObjectName], if_exists: bool) -> Result<Answer, QueryError> {
    for name in names {
        let (database, table) = table_name(session, name)?;
        let dropped = session.engine().catalog().drop_table(&database, &table, if_exists);
        if !dropped.map_err(|error| QueryError::from_classified(&error))? {
            session.warn(ErrorCode::TableNotFound, format!("table '{database}.{table}' does not exist"));
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
