//! Asking a worker for admission, and its answers.

use bytes::Bytes;
use prost::Message as _;
use sheaf_common::{QueryId, WireError};

use super::wire::{check_version, read, required};
use super::{Message, PROTOCOL_VERSION, malformed};
use crate::admission::{Demand, Standing};

/// Asks one worker to let a query have tasks there.
#[derive(Debug, Clone, PartialEq)]
pub struct AdmitRequest {
    pub query: QueryId,
    /// The run of the worker that is meant, as in [`super::SubmitRequest::worker`].
    pub worker: String,
    pub demand: Demand,
    /// Stand in line, where the answer is otherwise a refusal.
    pub may_wait: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AdmitMessage {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(fixed64, tag = "2")]
    query: u64,
    #[prost(string, tag = "3")]
    worker: String,
    #[prost(uint32, tag = "4")]
    tasks: u32,
    #[prost(uint64, tag = "5")]
    memory_bytes: u64,
    #[prost(bool, tag = "6")]
    is_alone: bool,
    #[prost(bool, tag = "7")]
    may_wait: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Granted {}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Answer {
    #[prost(string, tag = "2")]
    Waiting(String),
    #[prost(message, tag = "3")]
    Granted(Granted),
    /// The error as JSON, as in a task's event.
    #[prost(bytes = "bytes", tag = "4")]
    Refused(Bytes),
}

#[derive(Clone, PartialEq, prost::Message)]
struct StandingMessage {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(oneof = "Answer", tags = "2, 3, 4")]
    answer: Option<Answer>,
}

impl Message for AdmitRequest {
    fn encode(&self) -> Result<Bytes, WireError> {
        let Self { query, worker, demand, may_wait } = self;
        let message = AdmitMessage {
            version: PROTOCOL_VERSION,
            query: query.0,
            worker: worker.clone(),
            tasks: demand.tasks,
            memory_bytes: demand.memory_bytes,
            is_alone: demand.is_alone,
            may_wait: *may_wait,
        };
        Ok(message.encode_to_vec().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        const WHAT: &str = "admit";
        let message: AdmitMessage = read(WHAT, bytes)?;
        check_version(WHAT, message.version)?;
        Ok(Self {
            query: QueryId(message.query),
            worker: message.worker,
            demand: Demand { tasks: message.tasks, memory_bytes: message.memory_bytes, is_alone: message.is_alone },
            may_wait: message.may_wait,
        })
    }
}

impl Message for Standing {
    fn encode(&self) -> Result<Bytes, WireError> {
        let answer = match self {
            Self::Waiting(reason) => Answer::Waiting(reason.clone()),
            Self::Granted => Answer::Granted(Granted {}),
            Self::Refused(error) => Answer::Refused(crate::error::to_json(error).into()),
        };
        Ok(StandingMessage { version: PROTOCOL_VERSION, answer: Some(answer) }.encode_to_vec().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        const WHAT: &str = "standing";
        let message: StandingMessage = read(WHAT, bytes)?;
        check_version(WHAT, message.version)?;
        Ok(match required(WHAT, "answer", message.answer)? {
            Answer::Waiting(reason) => Self::Waiting(reason),
            Answer::Granted(Granted {}) => Self::Granted,
            Answer::Refused(json) => {
                Self::Refused(crate::error::from_json(&json).map_err(|error| malformed(WHAT, error))?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use sheaf_common::ErrorCode;

    use super::*;

    #[test]
    fn requests_and_answers_survive_the_wire() {
        let demand = Demand { tasks: 3, memory_bytes: 1 << 40, is_alone: true };
        let request = AdmitRequest { query: QueryId::new(1, 2), worker: "w#1".into(), demand, may_wait: true };
        assert_eq!(AdmitRequest::decode(&request.encode().unwrap()).unwrap(), request);
        let error = WireError::new(ErrorCode::NoWorker, "draining").retryable();
        for standing in [Standing::Waiting("for it".into()), Standing::Granted, Standing::Refused(error)] {
            assert_eq!(Standing::decode(&standing.encode().unwrap()).unwrap(), standing);
        }
        assert!(Standing::decode(b"").is_err() && AdmitRequest::decode(b"\xff").is_err());
    }
}
