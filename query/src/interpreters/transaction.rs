//! `BEGIN`, `COMMIT` and their like: there is nothing to write yet, so that a transaction is only a flag.

use sheaf_planners::parser::Transaction;

use crate::answer::Answer;
use crate::error::QueryError;
use crate::session::Session;

pub(super) fn run(session: &Session, transaction: Transaction) -> Result<Answer, QueryError> {
    session.with_state(|state| match transaction {
        Transaction::Begin => state.in_transaction = true,
        Transaction::Commit | Transaction::Rollback => state.in_transaction = false,
        Transaction::Savepoint => {}
    });
    Ok(Answer::done())
}
