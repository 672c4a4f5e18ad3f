//! `KILL [QUERY | CONNECTION] id`.

use crate::answer::Answer;
use crate::error::QueryError;
use crate::session::Session;

pub(super) fn run(session: &Session, connection_id: u64, query_only: bool) -> Result<Answer, QueryError> {
    session.engine().kill(connection_id, query_only)?;
    if connection_id == session.connection_id() {
        return Err(QueryError::Interrupted);
    }
    Ok(Answer::done())
}
