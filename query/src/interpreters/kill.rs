//! `KILL [QUERY | CONNECTION] id`.

use crate::answer::Answer;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::processes;
use crate::session::Session;

pub(super) async fn run(
    session: &Session,
    context: &QueryContext,
    connection_id: u64,
    query_only: bool,
) -> Result<Answer, QueryError> {
    processes::kill_for(session.engine(), &context.rights, connection_id, query_only).await?;
    if connection_id == session.connection_id() {
        return Err(QueryError::Interrupted);
    }
    Ok(Answer::done())
}
