//! Why a statement failed: what the front ends turn into their protocols' errors.

use std::fmt::Display;

use datafusion::error::DataFusionError;
use sheaf_common::settings::SettingError;
use sheaf_common::{Classify, ErrorCode, WireError};
use sheaf_planners::PlanError;
use sheaf_planners::error::{to_wire, wire_of};

use crate::access::AccessError;

#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The text could not be read or planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// From a part of the engine that has its own words: a table, a worker, an operator. The words are kept.
    #[error("{0}")]
    Wire(WireError),
    /// `FROM t` where no database is selected. The client's to mend.
    #[error("no database selected")]
    NoDatabaseSelected,
    #[error("database '{name}' does not exist")]
    DatabaseNotFound { name: String },
    #[error("table '{database}.{table}' does not exist")]
    TableNotFound { database: String, table: String },
    #[error("unknown system variable '{name}'")]
    UnknownVariable { name: String },
    #[error("variable '{name}' is a read only variable")]
    ReadOnlyVariable { name: String },
    #[error("variable '{name}' can't be set to the value of '{value}'{hint}")]
    WrongValue { name: String, value: String, hint: String },
    /// Another session's number that no session has.
    #[error("unknown thread id: {id}")]
    UnknownConnection { id: u64 },
    /// `KILL`, or the client left.
    #[error("query execution was interrupted")]
    Interrupted,
    /// Longer than `max_execution_time`.
    #[error("query execution was interrupted, maximum statement execution time exceeded")]
    Timeout,
    /// A name that `PREPARE` was never given, or that was given back.
    #[error("unknown prepared statement handler ({name}) given to {command}")]
    UnknownPrepared { name: String, command: &'static str },
    #[error("can't create more than {most} prepared statements")]
    TooManyPrepared { most: usize },
    /// `PREPARE` of what itself is about prepared statements.
    #[error("this command is not supported in the prepared statement protocol yet")]
    NotPreparable,
    /// A prepared statement run with another number of parameters than it has.
    #[error("statement takes {expected} parameters, got {given}")]
    ParameterCount { expected: usize, given: usize },
    /// Nothing to run in what the client sent.
    #[error("query was empty")]
    Empty,
    /// Something that we read but do not do.
    #[error("{what} is not supported")]
    Unsupported { what: String },
    /// A right that the session has not got, or a statement about rights that cannot be done.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// An argument that makes no sense. The client's to mend.
    #[error("{0}")]
    InvalidArgument(String),
    /// The data folder could not be used. The operator's to mend.
    #[error("{what}")]
    Io { what: String, source: std::io::Error },
}

impl QueryError {
    pub fn unsupported(what: impl Display) -> Self {
        Self::Unsupported { what: what.to_string() }
    }

    /// One of the workspace's errors as a statement's: its code and words stay.
    pub fn from_classified(error: &(impl Classify + std::error::Error + 'static)) -> Self {
        let wire = WireError::new(error.code(), error.to_string());
        Self::Wire(if error.is_retryable() { wire.retryable() } else { wire })
    }

    /// The error as data, for streams and the wire.
    pub fn to_wire(&self) -> WireError {
        match self {
            Self::Wire(wire) => wire.clone(),
            Self::Plan(PlanError::DataFusion(error)) => to_wire(error),
            other => {
                let wire = WireError::new(other.code(), other.to_string());
                if other.is_retryable() { wire.retryable() } else { wire }
            }
        }
    }
}

impl Classify for QueryError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Plan(error) => error.code(),
            Self::Wire(wire) => wire.code,
            Self::Access(error) => error.code(),
            Self::NoDatabaseSelected => ErrorCode::NoDatabaseSelected,
            Self::DatabaseNotFound { .. } => ErrorCode::DatabaseNotFound,
            Self::TableNotFound { .. } => ErrorCode::TableNotFound,
            Self::UnknownVariable { .. } => ErrorCode::UnknownVariable,
            Self::ReadOnlyVariable { .. } => ErrorCode::ReadOnlyVariable,
            Self::WrongValue { .. } => ErrorCode::WrongVariableValue,
            Self::UnknownConnection { .. } => ErrorCode::UnknownConnection,
            Self::Interrupted => ErrorCode::Cancelled,
            Self::Timeout => ErrorCode::Timeout,
            Self::ParameterCount { .. } | Self::InvalidArgument(_) => ErrorCode::InvalidArgument,
            Self::UnknownPrepared { .. } => ErrorCode::UnknownPrepared,
            Self::TooManyPrepared { .. } => ErrorCode::TooManyPrepared,
            Self::NotPreparable => ErrorCode::NotPreparable,
            Self::Empty => ErrorCode::Syntax,
            Self::Unsupported { .. } => ErrorCode::Unsupported,
            Self::Io { .. } => ErrorCode::FileUnreadable,
        }
    }

    fn is_retryable(&self) -> bool {
        match self {
            Self::Plan(error) => error.is_retryable(),
            Self::Wire(wire) => wire.retryable,
            Self::Access(error) => error.is_retryable(),
            Self::Io { .. } => true,
            _ => false,
        }
    }
}

impl From<WireError> for QueryError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        Self::Wire(to_wire(&error))
    }
}

impl From<arrow::error::ArrowError> for QueryError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Wire(wire_of(&error))
    }
}

/// How an error of ours travels in a stream of batches.
impl From<QueryError> for DataFusionError {
    fn from(error: QueryError) -> Self {
        Self::External(Box::new(error.to_wire()))
    }
}

impl From<SettingError> for QueryError {
    fn from(error: SettingError) -> Self {
        match error {
            SettingError::Unknown { name } => Self::UnknownVariable { name },
            SettingError::Value { name, value, expected } => {
                Self::WrongValue { name: name.to_owned(), value, hint: format!(": expected {expected}") }
            }
        }
    }
}
