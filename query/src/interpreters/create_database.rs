//! `CREATE DATABASE`.

use sheaf_common::ErrorCode;
use sheaf_planners::parser::CreateDatabase;

use crate::answer::Answer;
use crate::catalog::DatabaseEngine;
use crate::error::QueryError;
use crate::session::Session;

pub(super) async fn run(session: &Session, create: &CreateDatabase) -> Result<Answer, QueryError> {
    let engine = match &create.engine {
        Some(engine) => DatabaseEngine::parse(&engine.name, &engine.options),
        None => Ok(DatabaseEngine::Default),
    };
    let engine = engine.map_err(|error| QueryError::from_classified(&error))?;
    let created = session.engine().catalog().create_database(&create.name.value, engine, create.if_not_exists).await;
    let created = created.map_err(|error| QueryError::from_classified(&error))?;
    if !created {
        session.warn(ErrorCode::DatabaseExists, format!("database '{}' exists already", create.name.value));
    }
    Ok(Answer::Done { affected_rows: u64::from(created), info: String::new() })
}
