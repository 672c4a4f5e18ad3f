//! The closed set of error codes, their numbers in every protocol, and the form in which errors cross the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a caller can act on. One row of [`ErrorCode::numbers`] each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorCode {
    AccessDenied,
    Busy,
    Cancelled,
    ColumnAmbiguous,
    ColumnNotFound,
    DatabaseExists,
    DatabaseNotFound,
    DiskFull,
    DivisionByZero,
    DropDatabaseNotFound,
    DropTableNotFound,
    FileUnreadable,
    FunctionNotFound,
    Internal,
    InvalidArgument,
    InvalidGroupBy,
    MemoryRefused,
    NoDatabaseSelected,
    NoWorker,
    OutOfRange,
    PlanTooLarge,
    ReadOnlyVariable,
    SpillFailed,
    SubqueryRows,
    Syntax,
    TableExists,
    TableNotFound,
    Timeout,
    TypeMismatch,
    UnknownCommand,
    UnknownConnection,
    UnknownVariable,
    Unsupported,
    ValueCount,
    WorkerLost,
    WrongVariableValue,
}

/// A code's numbers: MySQL error, SQLSTATE, gRPC status, HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    pub mysql: u16,
    pub sqlstate: &'static str,
    pub grpc: i32,
    pub http: u16,
}

impl ErrorCode {
    pub const ALL: [ErrorCode; 36] = {
        use ErrorCode::*;
        [
            AccessDenied,
            Busy,
            Cancelled,
            ColumnAmbiguous,
            ColumnNotFound,
            DatabaseExists,
            DatabaseNotFound,
            DiskFull,
            DivisionByZero,
            DropDatabaseNotFound,
            DropTableNotFound,
            FileUnreadable,
            FunctionNotFound,
            Internal,
            InvalidArgument,
            InvalidGroupBy,
            MemoryRefused,
            NoDatabaseSelected,
            NoWorker,
            OutOfRange,
            PlanTooLarge,
            ReadOnlyVariable,
            SpillFailed,
            SubqueryRows,
            Syntax,
            TableExists,
            TableNotFound,
            Timeout,
            TypeMismatch,
            UnknownCommand,
            UnknownConnection,
            UnknownVariable,
            Unsupported,
            ValueCount,
            WorkerLost,
            WrongVariableValue,
        ]
    };

    /// MySQL's own number where MySQL has the case, else that of its nearest kin, so that every client has words for it.
    pub fn numbers(self) -> Numbers {
        use ErrorCode::*;
        let (mysql, sqlstate, grpc, http) = match self {
            AccessDenied => (1142, "42000", 7, 403),
            Busy => (1203, "42000", 8, 503),
            Cancelled => (1317, "70100", 1, 499),
            ColumnAmbiguous => (1052, "23000", 3, 400),
            ColumnNotFound => (1054, "42S22", 3, 400),
            DatabaseExists => (1007, "HY000", 6, 409),
            DatabaseNotFound => (1049, "42000", 5, 404),
            DiskFull => (1021, "HY000", 8, 507),
            DivisionByZero => (1365, "22012", 3, 400),
            DropDatabaseNotFound => (1008, "HY000", 5, 404),
            DropTableNotFound => (1051, "42S02", 5, 404),
            FileUnreadable => (1017, "HY000", 9, 422),
            FunctionNotFound => (1305, "42000", 3, 400),
            Internal => (1105, "HY000", 13, 500),
            InvalidArgument => (1210, "HY000", 3, 400),
            InvalidGroupBy => (1055, "42000", 3, 400),
            MemoryRefused => (1041, "HY000", 8, 507),
            NoDatabaseSelected => (1046, "3D000", 9, 400),
            NoWorker => (1429, "HY000", 14, 503),
            OutOfRange => (1690, "22003", 11, 400),
            PlanTooLarge => (1436, "HY000", 3, 400),
            ReadOnlyVariable => (1238, "HY000", 9, 400),
            SpillFailed => (1026, "HY000", 13, 500),
            SubqueryRows => (1242, "21000", 3, 400),
            Syntax => (1064, "42000", 3, 400),
            TableExists => (1050, "42S01", 6, 409),
            TableNotFound => (1146, "42S02", 5, 404),
            Timeout => (3024, "HY000", 4, 504),
            TypeMismatch => (1366, "HY000", 3, 400),
            UnknownCommand => (1047, "08S01", 12, 501),
            UnknownConnection => (1094, "HY000", 5, 404),
            UnknownVariable => (1193, "HY000", 5, 404),
            Unsupported => (1235, "42000", 12, 501),
            ValueCount => (1136, "21S01", 3, 400),
            WorkerLost => (1430, "HY000", 14, 503),
            WrongVariableValue => (1231, "42000", 3, 400),
        };
        Numbers { mysql, sqlstate, grpc, http }
    }
}

/// Every error enum of the workspace answers these two; neither has a default that could hide a new variant.
pub trait Classify {
    fn code(&self) -> ErrorCode;

    /// Whether the same work may succeed elsewhere or later: a lost worker, I/O, refused memory, a caught panic.
    /// The user's own errors never are, and most kinds are theirs or the operator's: so whoever adds one that passes has
    /// to say so.
    fn is_retryable(&self) -> bool {
        false
    }
}

/// Where in a distributed query an error arose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub stage: u32,
    pub task: u32,
    /// The worker's advertised name, as `system.nodes` shows it.
    pub worker: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stage {}, task {}, worker {}", self.stage, self.task, self.worker)
    }
}

/// An error as data: what crosses Flight, matchable on the other side. The first origin is kept: those downstream
/// that only pass an error on do not add themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct WireError {
    pub code: ErrorCode,
    pub message: String,
    pub retryable: bool,
    pub origin: Option<Origin>,
}

impl WireError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: false, origin: None }
    }

    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// Sets the origin unless one is there already.
    pub fn at(mut self, origin: Origin) -> Self {
        self.origin.get_or_insert(origin);
        self
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        match &self.origin {
            Some(origin) => write!(f, " ({origin})"),
            None => Ok(()),
        }
    }
}

impl Classify for WireError {
    fn code(&self) -> ErrorCode {
        self.code
    }

    fn is_retryable(&self) -> bool {
        self.retryable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_codes_share_a_mysql_number() {
        let mut numbers: Vec<u16> = ErrorCode::ALL.iter().map(|code| code.numbers().mysql).collect();
        numbers.sort_unstable();
        let n_codes = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), n_codes);
    }

    #[test]
    fn sqlstates_have_five_characters() {
        for code in ErrorCode::ALL {
            assert_eq!(code.numbers().sqlstate.len(), 5, "{code:?}");
        }
    }

    #[test]
    fn the_first_origin_stays() {
        let origin = |stage| Origin { stage, task: 0, worker: "w1".into() };
        let error = WireError::new(ErrorCode::WorkerLost, "gone").at(origin(1)).at(origin(2));
        assert_eq!(error.origin, Some(origin(1)));
        assert_eq!(error.to_string(), "gone (stage 1, task 0, worker w1)");
    }
}
