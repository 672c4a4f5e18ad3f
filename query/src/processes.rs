//! The sessions of all coordinators: `SHOW PROCESSLIST` and `KILL` from whichever of them.
//!
//! A connection's id has its coordinator's number in it, so no two are equal. Each coordinator is asked for its own
//! sessions, by two actions on the port of the nodes; one that does not answer in time has none that could be shown.

use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use sheaf_common::{ErrorCode, WireError};
use sheaf_flight::WorkerAddress;

use crate::access::{AccessError, Privilege, Rights};
use crate::engine::Engine;
use crate::error::QueryError;
use crate::system::ProcessRow;

/// Nothing in, the rows of [`Engine::processes`] out, as JSON.
const LIST_PROCESSES: &str = "sheaf.v1.ListProcesses";
/// [`KillRequest`] in, nothing out. Errs with `UnknownConnection` where the session is not.
const KILL: &str = "sheaf.v1.Kill";

/// How long another coordinator may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize, Deserialize)]
struct KillRequest {
    connection_id: u64,
    query_only: bool,
}

/// The sessions of every coordinator that answers, by connection id.
pub async fn all(engine: &Engine) -> Vec<ProcessRow> {
    let ask = async |coordinator: WorkerAddress| {
        let answer = engine.client().call(&coordinator, LIST_PROCESSES, vec![].into(), ANSWER_TIMEOUT).await;
        let rows = answer.and_then(|body| read::<Vec<ProcessRow>>(LIST_PROCESSES, &body));
        rows.unwrap_or_else(|error| {
            tracing::warn!(%coordinator, %error, "the sessions of a coordinator are not known");
            vec![]
        })
    };
    let others = join_all(engine.options().cluster.coordinators().into_iter().map(ask)).await;
    let mut rows = engine.processes();
    rows.extend(others.into_iter().flatten());
    rows.sort_unstable_by_key(|it| it.connection_id);
    rows
}

/// As [`kill`], for somebody: the sessions of others only who may do so.
pub async fn kill_for(
    engine: &Engine,
    rights: &Rights,
    connection_id: u64,
    query_only: bool,
) -> Result<(), QueryError> {
    let is_here = engine.check_kill(rights, connection_id)?;
    // What the user of a session elsewhere may do is not known here, so it counts as a system user.
    let manages_all = rights.global().has_any(&[Privilege::ConnectionAdmin, Privilege::Super])
        && rights.global().has(Privilege::SystemUser);
    if !is_here && !manages_all {
        let found = all(engine).await.into_iter().find(|it| it.connection_id == connection_id);
        if found.is_some_and(|it| it.user != rights.who().user) {
            return Err(AccessError::NotOwner { id: connection_id }.into());
        }
    }
    kill(engine, connection_id, query_only).await
}

/// Ends the statement of a session, or the session with it, on whichever coordinator it is.
///
/// Errs with `UnknownConnection` when no coordinator has it, and as its coordinator does when that does not answer.
pub async fn kill(engine: &Engine, connection_id: u64, query_only: bool) -> Result<(), QueryError> {
    let unknown = match engine.kill(connection_id, query_only) {
        Err(error @ QueryError::UnknownConnection { .. }) => error,
        done => return done,
    };
    let body = write(KILL, &KillRequest { connection_id, query_only })?;
    let ask = async |coordinator: WorkerAddress| {
        engine.client().call(&coordinator, KILL, body.clone().into(), ANSWER_TIMEOUT).await
    };
    let mut silent = None;
    for answer in join_all(engine.options().cluster.coordinators().into_iter().map(ask)).await {
        match answer {
            Ok(_) => return Ok(()),
            Err(error) if error.code == ErrorCode::UnknownConnection => {}
            Err(error) => silent = Some(error),
        }
    }
    Err(silent.map_or(unknown, QueryError::from))
}

/// What another coordinator is answered; `None` when the action is none of these.
pub fn answer(engine: &Engine, action: &str, body: &[u8]) -> Option<Result<Vec<u8>, WireError>> {
    match action {
        LIST_PROCESSES => Some(write(LIST_PROCESSES, &engine.processes())),
        KILL => Some(read::<KillRequest>(KILL, body).and_then(|request| {
            let killed = engine.kill(request.connection_id, request.query_only);
            killed.map(|()| vec![]).map_err(|error| error.to_wire())
        })),
        _ => None,
    }
}

fn write(action: &str, message: &impl Serialize) -> Result<Vec<u8>, WireError> {
    let written = serde_json::to_vec(message);
    written.map_err(|error| WireError::new(ErrorCode::Internal, format!("message of action {action}: {error}")))
}

fn read<'a, M: Deserialize<'a>>(action: &str, body: &'a [u8]) -> Result<M, WireError> {
    serde_json::from_slice(body).map_err(|error| {
        WireError::new(ErrorCode::InvalidArgument, format!("message of action {action} cannot be read: {error}"))
    })
}
