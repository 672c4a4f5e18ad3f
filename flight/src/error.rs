//! Errors on their way between nodes: a [`WireError`] into a gRPC status and back, and those that arise here.

use datafusion::error::DataFusionError;
use sheaf_common::error::Origin;
use sheaf_common::{ErrorCode, TaskId, WireError};
use tokio::task::JoinError;
use tonic::{Code, Status};

use crate::messages::{TaskAddress, WorkerAddress};

/// Bytes of a message that travel. A status is a header: one without a limit would be refused by the other side,
/// and the cause lost.
const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// The status whose details hold the whole error.
pub fn to_status(error: &WireError) -> Status {
    let mut error = error.clone();
    if error.message.len() > MESSAGE_BYTES_MAX {
        let end = error.message.floor_char_boundary(MESSAGE_BYTES_MAX);
        error.message.truncate(end);
        error.message.push_str(" …");
    }
    let code = Code::from_i32(error.code.numbers().grpc);
    match serde_json::to_vec(&error) {
        Ok(details) => Status::with_details(code, format!("{:?}", error.code), details.into()),
        Err(_) => Status::new(code, error.message),
    }
}

/// The error that a call to `worker` ended with. A status that no node of ours made means that the connection broke.
pub fn from_status(status: &Status, worker: &WorkerAddress) -> WireError {
    match serde_json::from_slice(status.details()) {
        Ok(error) => error,
        Err(_) => {
            let mut detail = status.message().to_owned();
            // The transport's own message says little without its cause.
            let mut source = std::error::Error::source(status);
            while let Some(error) = source {
                let text = error.to_string();
                if !detail.contains(&text) {
                    detail = format!("{detail}: {text}");
                }
                source = error.source();
            }
            // What TLS says to who does not speak it.
            if detail.contains("frame with invalid size") {
                detail.push_str("; do nodes there use TLS (--cluster-tls-cert)?");
            }
            worker_lost(worker, detail)
        }
    }
}

/// The whole error, as frames of a link carry it.
pub(crate) fn to_json(error: &WireError) -> Vec<u8> {
    serde_json::to_vec(error).unwrap_or_default()
}

/// The error that another node made to JSON.
pub(crate) fn from_json(json: &[u8]) -> Result<WireError, serde_json::Error> {
    serde_json::from_slice(json)
}

/// The connection to a worker could not be made, or broke.
pub fn worker_lost(worker: &WorkerAddress, detail: impl std::fmt::Display) -> WireError {
    let name = if worker.node.is_empty() { worker.to_string() } else { format!("{} ({worker})", worker.node) };
    WireError::new(ErrorCode::WorkerLost, format!("worker {name} is lost: {detail}")).retryable()
}

/// An error met while the output of `source` was read, and whose doing it is.
///
/// The task's own errors, and those that it passes on, say so already. What its worker answers in its place is put down
/// to the task: its output cannot be had there. The rest is the way to it, or the worker's end.
pub(crate) fn while_reading(error: WireError, source: &TaskAddress) -> WireError {
    let is_way = error.code == ErrorCode::WorkerLost || (error.code == ErrorCode::Internal && error.retryable);
    match &error.origin {
        Some(_) => error,
        None if is_way => WireError { unread: Some(source.task), ..error },
        None => {
            let TaskId { stage, task, attempt, .. } = source.task;
            error.at(Origin { stage: stage.0, task, attempt, worker: source.worker.node.clone() })
        }
    }
}

/// As DataFusion's streams carry it.
pub fn external(error: WireError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The error of a spawned future that did not come to its end.
pub fn from_join(error: JoinError) -> WireError {
    match error.try_into_panic() {
        Ok(panic) => from_panic(panic.as_ref()),
        Err(_) => WireError::new(ErrorCode::Cancelled, "the task was cancelled"),
    }
}

/// The error of code that panicked: a bug, but one that must not take the node down, and may not strike elsewhere.
pub fn from_panic(panic: &(dyn std::any::Any + Send)) -> WireError {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message");
    let text = match sheaf_common::panics::locate(text) {
        Some(location) => format!("panic at {location}: {text}"),
        None => format!("panic: {text}"),
    };
    WireError::new(ErrorCode::Internal, text).retryable()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sheaf_common::{QueryId, StageId};

    fn address() -> WorkerAddress {
        WorkerAddress { node: "w1-5".into(), host: "h".into(), port: 9 }
    }

    #[test]
    fn an_error_survives_its_status() {
        let origin = Origin { stage: 2, task: 3, attempt: 1, worker: "w1".into() };
        for code in ErrorCode::ALL {
            let error = WireError::new(code, "größer als\nes geht").at(origin.clone());
            assert_eq!(from_status(&to_status(&error), &address()), error);
            assert_eq!(to_status(&error).code() as i32, code.numbers().grpc);
        }
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let error = WireError::new(ErrorCode::Internal, "ä".repeat(1 << 20));
        let back = from_status(&to_status(&error), &address());
        assert!(back.message.starts_with("ääää") && back.message.len() < MESSAGE_BYTES_MAX + 10);
    }

    #[test]
    fn a_status_of_the_transport_is_a_lost_worker() {
        let error = from_status(&Status::unavailable("broken pipe"), &address());
        assert_eq!((error.code, error.retryable), (ErrorCode::WorkerLost, true));
        assert_eq!(error.message, "worker w1-5 (h:9) is lost: broken pipe");
    }

    #[test]
    fn a_failed_read_names_who_was_read() {
        let task = TaskId { query: QueryId(1), stage: StageId(2), task: 3, attempt: 4 };
        let source = TaskAddress { task, worker: address() };
        let own = Origin { stage: 1, task: 0, attempt: 2, worker: "w0".into() };
        let passed_on = WireError::new(ErrorCode::MemoryRefused, "too much").at(own);
        assert_eq!(while_reading(passed_on.clone(), &source), passed_on);
        let cut = while_reading(worker_lost(&address(), "cut"), &source);
        assert_eq!((cut.unread, cut.origin), (Some(task), None));
        let gone = while_reading(WireError::new(ErrorCode::MemoryRefused, "could not be kept").retryable(), &source);
        assert_eq!(gone.unread, None);
        assert_eq!(gone.origin.map(|it| (it.stage, it.task, it.attempt)), Some((2, 3, 4)));
    }
}
