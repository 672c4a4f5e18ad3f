//! `PREPARE` and `DEALLOCATE PREPARE`. What `EXECUTE` names takes its place before a statement is interpreted.

use datafusion::common::ScalarValue;
use sheaf_planners::parser::{PrepareSource, Statement, StatementKind, TextPrepared, parse};

use crate::answer::Answer;
use crate::error::QueryError;
use crate::mysql_semantics::SessionValues;
use crate::session::Session;

/// As many as the protocol may have.
const PREPARED_MAX: usize = 16_382;

pub(super) fn run(session: &Session, statement: TextPrepared) -> Result<Answer, QueryError> {
    match statement {
        TextPrepared::Prepare { name, source } => {
            // As in MySQL, the name is free even if what follows cannot be read.
            session.with_state(|state| state.prepared.remove(&name));
            let text = match source {
                PrepareSource::Text(text) => text,
                PrepareSource::Variable(variable) => match session.user_variable(&variable) {
                    ScalarValue::Null => return Err(QueryError::Empty),
                    value => value.to_string(),
                },
            };
            let statement = match <[Statement; 1]>::try_from(parse(&text, session.dialect())?) {
                Ok([statement]) => statement,
                Err(none) if none.is_empty() => return Err(QueryError::Empty),
                Err(_) => return Err(QueryError::unsupported("preparing more than one statement at once")),
            };
            if matches!(statement.kind, StatementKind::Prepared(_) | StatementKind::Load(_)) {
                return Err(QueryError::NotPreparable);
            }
            session.with_state(|state| {
                if state.prepared.len() >= PREPARED_MAX {
                    return Err(QueryError::TooManyPrepared { most: PREPARED_MAX });
                }
                state.prepared.insert(name, statement);
                Ok(Answer::done())
            })
        }
        TextPrepared::Deallocate { name } => match session.with_state(|state| state.prepared.remove(&name)) {
            Some(_) => Ok(Answer::done()),
            None => Err(QueryError::UnknownPrepared { name, command: "DEALLOCATE PREPARE" }),
        },
        TextPrepared::Execute { name, .. } => Err(QueryError::UnknownPrepared { name, command: "EXECUTE" }),
    }
}
