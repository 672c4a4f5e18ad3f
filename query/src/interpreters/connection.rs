//! `CREATE CONNECTION` and `DROP CONNECTION`.

use sheaf_common::ErrorCode;
use sheaf_planners::parser::{ConnectionStatement, ShowFilter};

use super::rows::Rows;
use crate::access::AccessError;
use crate::answer::Answer;
use crate::catalog::connection::ConnectionDef;
use crate::catalog::{CatalogError, IfExists};
use crate::context::QueryContext;
use crate::definitions::TIMEOUT;
use crate::error::QueryError;
use crate::session::Session;

/// How often a DROP is decided anew when others were faster.
const TRIES_MAX: usize = 16;

pub(super) async fn run(session: &Session, statement: ConnectionStatement) -> Result<Answer, QueryError> {
    match statement {
        ConnectionStatement::Create { name, options, if_not_exists, or_replace } => {
            let if_exists = match (if_not_exists, or_replace) {
                (true, _) => IfExists::Keep,
                (false, true) => IfExists::Replace,
                (false, false) => IfExists::Fail,
            };
            create(session, &name, options, if_exists).await?;
        }
        ConnectionStatement::Drop { name, if_exists } => drop(session, &name, if_exists).await?,
    }
    Ok(Answer::done())
}

async fn create(
    session: &Session,
    name: &str,
    options: Vec<(String, String)>,
    if_exists: IfExists,
) -> Result<(), QueryError> {
    let failed = |error: CatalogError| QueryError::from_classified(&error);
    let connection = ConnectionDef::new(name, options).map_err(failed)?;
    if !session.engine().catalog().create_connection(&connection, if_exists).await.map_err(failed)? {
        session.warn(ErrorCode::ConnectionExists, format!("connection '{name}' exists already"));
    }
    Ok(())
}

/// The grants on it go in the same command, so that one that is made later under its name begins without any.
async fn drop(session: &Session, name: &str, if_exists: bool) -> Result<(), QueryError> {
    let (catalog, access) = (session.engine().catalog(), session.engine().access());
    for _ in 0..TRIES_MAX {
        let decided = catalog.connection_name(name).and_then(|name| Ok((catalog.drop_connection(&name)?, name)));
        let (drop, name) = match decided {
            Ok(decided) => decided,
            Err(CatalogError::ConnectionNotFound { connection }) if if_exists => {
                session.warn(ErrorCode::ConnectionNotFound, format!("connection '{connection}' does not exist"));
                return Ok(());
            }
            Err(error) => return Err(QueryError::from_classified(&error)),
        };
        let dropped = access.change_along(vec![drop], |accounts| {
            accounts.forget_connection(&name);
            Ok(())
        });
        match dropped.await {
            // A table came that uses it, or it was replaced.
            Err(AccessError::Outdated) => access.catch_up(TIMEOUT).await?,
            dropped => return Ok(dropped?),
        }
    }
    Err(AccessError::Outdated.into())
}

/// `SHOW CONNECTIONS`: those that may be used, without their secrets.
pub(super) fn show(
    session: &Session,
    context: &QueryContext,
    filter: Option<ShowFilter>,
) -> Result<Answer, QueryError> {
    let mut rows = Rows::new(&["Connection", "Kind", "Options"]);
    let connections = session.engine().catalog().connections().into_iter();
    for connection in connections.filter(|it| context.rights.may_use_connection(&it.name)) {
        let (kind, options) = (connection.kind().to_owned(), connection.shown());
        rows.push(vec![Some(connection.name), Some(kind), Some(options)]);
    }
    rows.filtered(filter, 0, &context.session_state)
}
