//! The closed set of error codes, their numbers in every protocol, and the form in which errors cross the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::TaskId;

/// A code's numbers: MySQL error, SQLSTATE, gRPC status, HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    pub mysql: u16,
    pub sqlstate: &'static str,
    pub grpc: i32,
    pub http: u16,
}

/// Declares the codes, each in one row with its numbers.
macro_rules! error_codes {
    ($($code:ident = ($mysql:literal, $sqlstate:literal, $grpc:literal, $http:literal),)+) => {
        /// What a caller can act on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($code,)+
        }

        impl ErrorCode {
            pub const ALL: [ErrorCode; [$(ErrorCode::$code),+].len()] = [$(ErrorCode::$code),+];

            /// MySQL's own number where MySQL has the case, else that of its nearest kin, so that every client has
            /// words for it.
            pub fn numbers(self) -> Numbers {
                match self {
                    $(ErrorCode::$code => {
                        Numbers { mysql: $mysql, sqlstate: $sqlstate, grpc: $grpc, http: $http }
                    })+
                }
            }
        }
    };
}

error_codes! {
    AccessDenied = (1142, "42000", 7, 403),
    AccountExists = (3163, "HY000", 6, 409),
    AccountMissing = (3162, "HY000", 5, 404),
    AccountOperation = (1396, "HY000", 9, 409),
    Busy = (1203, "42000", 8, 503),
    Cancelled = (1317, "70100", 1, 499),
    CheckOptionOnView = (1368, "HY000", 3, 400),
    CheckViolated = (3819, "HY000", 3, 400),
    ColumnAccessDenied = (1143, "42000", 7, 403),
    ColumnAmbiguous = (1052, "23000", 3, 400),
    ColumnNotFound = (1054, "42S22", 3, 400),
    ColumnTwice = (1110, "42000", 3, 400),
    ConnectionExists = (1476, "HY000", 6, 409),
    ConnectionNotFound = (1477, "HY000", 5, 404),
    DataTruncated = (1265, "01000", 3, 400),
    DatabaseAccessDenied = (1044, "42000", 7, 403),
    DatabaseExists = (1007, "HY000", 6, 409),
    DatabaseNotFound = (1049, "42000", 5, 404),
    DefinerNotFound = (1449, "HY000", 5, 404),
    DiskFull = (1021, "HY000", 8, 507),
    DivisionByZero = (1365, "22012", 3, 400),
    DropDatabaseNotFound = (1008, "HY000", 5, 404),
    DropTableNotFound = (1051, "42S02", 5, 404),
    DuplicateColumn = (1060, "42S21", 3, 400),
    FileNotFound = (29, "HY000", 5, 404),
    FileUnreadable = (1017, "HY000", 9, 422),
    FunctionNotFound = (1305, "42000", 3, 400),
    GlobalVariable = (1229, "HY000", 3, 400),
    GrantToUnknown = (1410, "42000", 7, 403),
    IllegalGrant = (1144, "42000", 3, 400),
    Internal = (1105, "HY000", 13, 500),
    InvalidArgument = (1210, "HY000", 3, 400),
    InvalidCharacters = (1300, "HY000", 3, 400),
    InvalidGroupBy = (1055, "42000", 3, 400),
    InvalidJson = (3141, "22032", 3, 400),
    InvalidJsonKey = (3158, "22032", 3, 400),
    InvalidJsonPath = (3143, "42000", 3, 400),
    InvalidRegex = (3685, "HY000", 3, 400),
    KillDenied = (1095, "HY000", 7, 403),
    LocalFilesDisabled = (3948, "42000", 9, 400),
    LoginDenied = (1045, "28000", 16, 401),
    MemoryRefused = (1041, "HY000", 8, 507),
    NoDatabaseSelected = (1046, "3D000", 9, 400),
    NoSuchGrant = (1141, "42000", 5, 404),
    NoSuchTableGrant = (1147, "42000", 5, 404),
    NoSuchUser = (1133, "42000", 5, 404),
    NoWorker = (1429, "HY000", 14, 503),
    NotInsertable = (1471, "HY000", 9, 400),
    NotUpdatable = (1288, "HY000", 9, 400),
    NullNotAllowed = (1048, "23000", 3, 400),
    NotPreparable = (1295, "HY000", 12, 501),
    NullSupplied = (1263, "22004", 3, 400),
    OutOfRange = (1690, "22003", 11, 400),
    ParameterCount = (1582, "42000", 3, 400),
    PlanTooLarge = (1436, "HY000", 3, 400),
    PluralJsonPath = (3149, "42000", 3, 400),
    PrivilegeNeeded = (1227, "42000", 7, 403),
    ReadOnlyVariable = (1238, "HY000", 9, 400),
    RoleCycle = (4027, "HY000", 3, 400),
    RoleNotGranted = (3530, "HY000", 7, 403),
    SpillFailed = (1026, "HY000", 13, 500),
    SubqueryRows = (1242, "21000", 3, 400),
    Syntax = (1064, "42000", 3, 400),
    TableExists = (1050, "42S01", 6, 409),
    TableNotFound = (1146, "42S02", 5, 404),
    Timeout = (3024, "HY000", 4, 504),
    TooFewFields = (1261, "01000", 3, 400),
    TooManyFields = (1262, "01000", 3, 400),
    TooManyPrepared = (1461, "42000", 8, 429),
    TruncatedValue = (1292, "22007", 3, 400),
    TypeMismatch = (1366, "HY000", 3, 400),
    UnknownCommand = (1047, "08S01", 12, 501),
    UnknownConnection = (1094, "HY000", 5, 404),
    UnknownPlugin = (1524, "HY000", 5, 404),
    UnknownPrepared = (1243, "HY000", 5, 404),
    UnknownRole = (3523, "HY000", 5, 404),
    UnknownVariable = (1193, "HY000", 5, 404),
    Unsupported = (1235, "42000", 12, 501),
    ValueCount = (1136, "21S01", 3, 400),
    ValueOutOfRange = (1264, "22003", 3, 400),
    ViewColumnCount = (1353, "HY000", 3, 400),
    ViewInvalid = (1356, "HY000", 9, 400),
    ViewNotExplained = (1345, "HY000", 7, 403),
    ViewRecursive = (1462, "HY000", 9, 400),
    ViewVariable = (1351, "HY000", 3, 400),
    WorkerLost = (1430, "HY000", 14, 503),
    WriteConflict = (1213, "40001", 10, 409),
    WrongCurrentPassword = (3891, "HY000", 7, 403),
    WrongObject = (1347, "HY000", 9, 400),
    WrongPasswordHash = (1827, "HY000", 3, 400),
    WrongTemporalValue = (1525, "HY000", 3, 400),
    WrongUsage = (1221, "HY000", 3, 400),
    WrongVariableValue = (1231, "42000", 3, 400),
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
    /// Which try at the task.
    pub attempt: u32,
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
    /// The attempt whose output could not be read, if that was the trouble: its worker is gone, or the link to it.
    pub unread: Option<TaskId>,
    /// Where what was to be read is read instead. No error for those who turn there.
    pub moved_to: Option<Box<MovedTo>>,
}

/// An attempt that took another one's place, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedTo {
    pub task: TaskId,
    /// The run of the worker, and its address.
    pub node: String,
    pub host: String,
    pub port: u16,
}

impl WireError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: false, origin: None, unread: None, moved_to: None }
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
        let origin = |stage| Origin { stage, task: 0, attempt: 0, worker: "w1".into() };
        let error = WireError::new(ErrorCode::WorkerLost, "gone").at(origin(1)).at(origin(2));
        assert_eq!(error.origin, Some(origin(1)));
        assert_eq!(error.to_string(), "gone (stage 1, task 0, worker w1)");
    }
}
