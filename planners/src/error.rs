//! Errors of planning, and the one place where DataFusion's errors get a code of ours.

use std::error::Error;

use arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::parquet::errors::ParquetError;
use datafusion::sql::sqlparser::parser::ParserError;
use sheaf_common::{Classify, ErrorCode, WireError};

/// Why a statement was not planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The text is no statement of the session's dialect. The client's to mend.
    #[error("{message} at line {line}, column {column}")]
    Syntax {
        message: String,
        /// From 1, like the column.
        line: u64,
        column: u64,
    },
    /// The text is no statement and the parser does not say where. The client's to mend.
    #[error("{0}")]
    SyntaxAnywhere(String),
    /// A valid statement that SheafDB does not do.
    #[error("{0}")]
    Unsupported(String),
    /// The statement is deeper or wider than a plan may be. The client's to mend.
    #[error("the statement is too large: {0}")]
    TooLarge(String),
    /// A rule of ours broke: a bug, never the client's doing.
    #[error("broken invariant: {0}")]
    Invariant(&'static str),
    /// What DataFusion said. Its own message is the whole message.
    #[error("{}", to_wire(.0).message)]
    DataFusion(DataFusionError),
}

impl From<DataFusionError> for PlanError {
    fn from(error: DataFusionError) -> Self {
        Self::DataFusion(error)
    }
}

/// So that a `PlanError` survives the parts of DataFusion that call us back: [`to_wire`] finds it again.
impl From<PlanError> for DataFusionError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::DataFusion(error) => error,
            error => DataFusionError::External(Box::new(error)),
        }
    }
}

impl Classify for PlanError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Syntax { .. } | Self::SyntaxAnywhere(_) => ErrorCode::Syntax,
            Self::Unsupported(_) => ErrorCode::Unsupported,
            Self::TooLarge(_) => ErrorCode::PlanTooLarge,
            Self::Invariant(_) => ErrorCode::Internal,
            Self::DataFusion(error) => to_wire(error).code,
        }
    }

    fn is_retryable(&self) -> bool {
        match self {
            Self::DataFusion(error) => to_wire(error).retryable,
            _ => false,
        }
    }
}

/// The error as data: a `WireError` or `PlanError` anywhere in the chain as it is, else DataFusion's error classified.
///
/// The message is that of the innermost error, without DataFusion's prefixes, so that a distributed query says what
/// the same query says in one process.
pub fn to_wire(error: &DataFusionError) -> WireError {
    wire_of(error)
}

/// [`to_wire`] for an error of any type.
pub fn wire_of(error: &(dyn Error + 'static)) -> WireError {
    let mut innermost: Option<WireError> = None;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(wire) = error.downcast_ref::<WireError>() {
            return wire.clone();
        }
        if let Some(PlanError::DataFusion(inner)) = error.downcast_ref::<PlanError>() {
            next = Some(inner);
            continue;
        }
        // The last error of the chain that we know says most: what it stands in only names the place. But an I/O error
        // does not even do that, while the store's or the reader's error around it names the file.
        match error.downcast_ref::<std::io::Error>().zip(innermost.as_mut()) {
            // What it does say is whether the same read may succeed later, or on another node.
            Some((io, named)) if named.code == ErrorCode::FileUnreadable => {
                let wire = classify_io(io);
                named.retryable = wire.retryable;
                if wire.code == ErrorCode::DiskFull {
                    *named = wire;
                }
            }
            Some(_) => {}
            None => innermost = classify(error).or(innermost),
        }
        next = source_of(error);
    }
    innermost.unwrap_or_else(|| WireError::new(ErrorCode::Internal, error.to_string()))
}

/// `io::Error::source` leaves out the error that it holds and goes on with that one's source.
fn source_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// The code of one error, without its sources; `None` for a type that we do not know.
fn classify(error: &(dyn Error + 'static)) -> Option<WireError> {
    if let Some(error) = error.downcast_ref::<DataFusionError>() {
        return classify_datafusion(error);
    }
    if let Some(error) = error.downcast_ref::<PlanError>() {
        return Some(WireError { retryable: error.is_retryable(), ..WireError::new(error.code(), error.to_string()) });
    }
    if let Some(error) = error.downcast_ref::<SchemaError>() {
        return Some(classify_schema(error));
    }
    if let Some(error) = error.downcast_ref::<ArrowError>() {
        return Some(classify_arrow(error));
    }
    if let Some(error) = error.downcast_ref::<ParserError>() {
        return Some(classify_parser(error));
    }
    if let Some(error) = error.downcast_ref::<object_store::Error>() {
        return Some(classify_store(error));
    }
    if let Some(error) = error.downcast_ref::<ParquetError>() {
        return Some(WireError::new(ErrorCode::FileUnreadable, error.to_string()));
    }
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        return Some(classify_io(error));
    }
    None
}

fn classify_datafusion(error: &DataFusionError) -> Option<WireError> {
    let wire = match error {
        DataFusionError::NotImplemented(text) => WireError::new(ErrorCode::Unsupported, text),
        DataFusionError::Substrait(text) => WireError::new(ErrorCode::Unsupported, text),
        DataFusionError::Internal(text) | DataFusionError::Ffi(text) => WireError::new(ErrorCode::Internal, text),
        DataFusionError::Configuration(text) => WireError::new(ErrorCode::InvalidArgument, text),
        DataFusionError::Plan(text) => WireError::new(code_of_plan(text), text),
        DataFusionError::Execution(text) => WireError::new(code_of_execution(text), text),
        DataFusionError::ResourcesExhausted(text) => WireError::new(ErrorCode::MemoryRefused, text).retryable(),
        DataFusionError::ExecutionJoin(join) if join.is_panic() => {
            let text = join.to_string();
            let text = match sheaf_common::panics::locate(&text) {
                Some(location) => format!("panic at {location}: {text}"),
                None => text,
            };
            WireError::new(ErrorCode::Internal, text).retryable()
        }
        DataFusionError::ExecutionJoin(_) => WireError::new(ErrorCode::Cancelled, "query execution was interrupted"),
        // These say nothing of their own: their source is looked at next.
        DataFusionError::ArrowError(..)
        | DataFusionError::ParquetError(_)
        | DataFusionError::ObjectStore(_)
        | DataFusionError::IoError(_)
        | DataFusionError::SQL(..)
        | DataFusionError::SchemaError(..)
        | DataFusionError::External(_)
        | DataFusionError::Context(..)
        | DataFusionError::Diagnostic(..)
        | DataFusionError::Collection(_)
        | DataFusionError::Shared(_) => return None,
    };
    Some(wire)
}

fn classify_schema(error: &SchemaError) -> WireError {
    let code = match error {
        SchemaError::FieldNotFound { .. } => ErrorCode::ColumnNotFound,
        SchemaError::AmbiguousReference { .. }
        | SchemaError::DuplicateQualifiedField { .. }
        | SchemaError::DuplicateUnqualifiedField { .. } => ErrorCode::ColumnAmbiguous,
    };
    WireError::new(code, error.to_string())
}

fn classify_arrow(error: &ArrowError) -> WireError {
    let text = error.to_string();
    let code = match error {
        ArrowError::DivideByZero => ErrorCode::DivisionByZero,
        ArrowError::ArithmeticOverflow(_)
        | ArrowError::OffsetOverflowError(_)
        | ArrowError::DictionaryKeyOverflowError
        | ArrowError::RunEndIndexOverflowError => ErrorCode::OutOfRange,
        ArrowError::CastError(_) | ArrowError::ParseError(_) => ErrorCode::TypeMismatch,
        ArrowError::ComputeError(_) | ArrowError::InvalidArgumentError(_) => code_of_execution(&text),
        ArrowError::MemoryError(_) => return WireError::new(ErrorCode::MemoryRefused, text).retryable(),
        ArrowError::IoError(..) => return WireError::new(ErrorCode::FileUnreadable, text).retryable(),
        ArrowError::CsvError(_)
        | ArrowError::JsonError(_)
        | ArrowError::AvroError(_)
        | ArrowError::ParquetError(_)
        | ArrowError::IpcError(_) => ErrorCode::FileUnreadable,
        ArrowError::NotYetImplemented(_) => ErrorCode::Unsupported,
        ArrowError::SchemaError(_) | ArrowError::CDataInterface(_) | ArrowError::ExternalError(_) => {
            ErrorCode::Internal
        }
    };
    WireError::new(code, text)
}

fn classify_parser(error: &ParserError) -> WireError {
    match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => WireError::new(ErrorCode::Syntax, text),
        ParserError::RecursionLimitExceeded => {
            WireError::new(ErrorCode::PlanTooLarge, "the statement is nested too deeply")
        }
    }
}

/// A store that did not answer may answer later; one that answered says the same again.
fn classify_store(error: &object_store::Error) -> WireError {
    let wire = WireError::new(ErrorCode::FileUnreadable, error.to_string());
    match error {
        object_store::Error::Generic { .. } | object_store::Error::JoinError { .. } => wire.retryable(),
        _ => wire,
    }
}

fn classify_io(error: &std::io::Error) -> WireError {
    if matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
        return WireError::new(ErrorCode::DiskFull, format!("the disk is full: {error}")).retryable();
    }
    // DataFusion's disk manager has no kind of its own for it.
    if error.to_string().contains("max_temp_directory_size") {
        let text =
            "spill files take all the space that they may (--spill-limit): raise it, or run fewer queries at a time";
        return WireError::new(ErrorCode::DiskFull, text).retryable();
    }
    let wire = WireError::new(ErrorCode::FileUnreadable, error.to_string());
    match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => wire,
        _ => wire.retryable(),
    }
}

/// DataFusion's planning errors are text only. What is not listed is a bad argument of the client's.
const PLAN_TEXTS: &[(&str, ErrorCode)] = &[
    ("table function '", ErrorCode::FunctionNotFound),
    ("Table function '", ErrorCode::FunctionNotFound),
    ("table '", ErrorCode::TableNotFound),
    ("No table named '", ErrorCode::TableNotFound),
    ("Table not found: ", ErrorCode::TableNotFound),
    ("failed to resolve schema: ", ErrorCode::DatabaseNotFound),
    ("failed to resolve catalog: ", ErrorCode::DatabaseNotFound),
    ("Invalid function '", ErrorCode::FunctionNotFound),
    ("Function ", ErrorCode::TypeMismatch),
    ("Column '", ErrorCode::ColumnNotFound),
    ("Column count doesn't match", ErrorCode::ValueCount),
    ("INTERSECT/EXCEPT query must have the same number", ErrorCode::ValueCount),
    ("UNION queries have different number of columns", ErrorCode::ValueCount),
];

/// The same, for words that do not begin the text.
const PLAN_WORDS: &[(&str, ErrorCode)] = &[
    ("GROUP BY clause", ErrorCode::InvalidGroupBy),
    ("queries have different number of columns", ErrorCode::ValueCount),
    (" not found", ErrorCode::FunctionNotFound),
    ("coerce", ErrorCode::TypeMismatch),
    ("Cannot infer common", ErrorCode::TypeMismatch),
    ("common type", ErrorCode::TypeMismatch),
    ("common argument type", ErrorCode::TypeMismatch),
    ("failed to match any signature", ErrorCode::TypeMismatch),
    ("recursion limit", ErrorCode::PlanTooLarge),
];

fn code_of_plan(text: &str) -> ErrorCode {
    // `table 'x' not found` and its kin begin and end the same way; other texts only begin so.
    let begins = PLAN_TEXTS.iter().find(|(begin, code)| {
        let needs_end = matches!(code, ErrorCode::TableNotFound | ErrorCode::ColumnNotFound)
            && begin.ends_with('\'')
            && !begin.starts_with("No ");
        text.starts_with(begin) && (!needs_end || text.contains(" not found"))
    });
    let found = begins.or_else(|| PLAN_WORDS.iter().find(|(word, _)| text.contains(word)));
    match found {
        Some((begin, _)) if *begin == "Function " && text.ends_with(" not found") => ErrorCode::FunctionNotFound,
        Some((_, code)) => *code,
        None => ErrorCode::InvalidArgument,
    }
}

fn code_of_execution(text: &str) -> ErrorCode {
    let lower = text.to_lowercase();
    let found = [
        ("divide by zero", ErrorCode::DivisionByZero),
        ("division by zero", ErrorCode::DivisionByZero),
        ("overflow", ErrorCode::OutOfRange),
        ("out of range", ErrorCode::OutOfRange),
        ("too large to store in a decimal", ErrorCode::OutOfRange),
        ("too small to store in a decimal", ErrorCode::OutOfRange),
        ("scalar subquery returned more than one row", ErrorCode::SubqueryRows),
        ("cannot cast", ErrorCode::TypeMismatch),
        ("cast error", ErrorCode::TypeMismatch),
        ("parse", ErrorCode::TypeMismatch),
    ];
    found.iter().find(|(word, _)| lower.contains(word)).map_or(ErrorCode::InvalidArgument, |(_, code)| *code)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::common::Column;

    use super::*;

    fn check(error: DataFusionError, code: ErrorCode, retryable: bool, message: &str) {
        let wire = to_wire(&error);
        assert_eq!((wire.code, wire.retryable, wire.message.as_str()), (code, retryable, message), "{error:?}");
    }

    fn plan(text: &str) -> DataFusionError {
        DataFusionError::Plan(text.to_owned())
    }

    #[test]
    fn texts_of_planning() {
        for (text, code) in [
            ("table 'sheaf.main.t' not found", ErrorCode::TableNotFound),
            ("No table named 't'", ErrorCode::TableNotFound),
            ("table function 'f' not found", ErrorCode::FunctionNotFound),
            ("Invalid function 'f'.\nDid you mean 'g'?", ErrorCode::FunctionNotFound),
            ("Aggregate Function f not found", ErrorCode::FunctionNotFound),
            ("Function f not found", ErrorCode::FunctionNotFound),
            ("Function 'abs' failed to match any signature", ErrorCode::TypeMismatch),
            ("failed to resolve schema: d", ErrorCode::DatabaseNotFound),
            ("Column 'x' not found", ErrorCode::ColumnNotFound),
            ("Column count doesn't match insert query!", ErrorCode::ValueCount),
            ("UNION queries have different number of columns", ErrorCode::ValueCount),
            (
                "x must appear in the GROUP BY clause or must be part of an aggregate function",
                ErrorCode::InvalidGroupBy,
            ),
            ("Cannot coerce arithmetic expression Utf8 + Date32 to valid types", ErrorCode::TypeMismatch),
            ("something else", ErrorCode::InvalidArgument),
        ] {
            check(plan(text), code, false, text);
        }
    }

    #[test]
    fn errors_of_arrow() {
        let arrow = |error| DataFusionError::ArrowError(Box::new(error), None);
        check(arrow(ArrowError::DivideByZero), ErrorCode::DivisionByZero, false, "Divide by zero error");
        let overflow = ArrowError::ArithmeticOverflow("1 + 1".into());
        check(arrow(overflow), ErrorCode::OutOfRange, false, "Arithmetic overflow: 1 + 1");
        let cast = ArrowError::CastError("no".into());
        check(arrow(cast), ErrorCode::TypeMismatch, false, "Cast error: no");
        let io = ArrowError::IoError("gone".into(), std::io::Error::other("gone"));
        check(arrow(io), ErrorCode::FileUnreadable, true, "Io error: gone");
    }

    #[test]
    fn errors_of_files() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        check(DataFusionError::IoError(io), ErrorCode::FileUnreadable, false, "no such file");
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let text = "the disk is full: no storage space";
        check(DataFusionError::IoError(full()), ErrorCode::DiskFull, true, text);
        let arrow = ArrowError::IoError("no storage space".into(), full());
        check(DataFusionError::ArrowError(Box::new(arrow), None), ErrorCode::DiskFull, true, text);
        let limit = std::io::Error::other("more than allowed: datafusion.runtime.max_temp_directory_size");
        let text =
            "spill files take all the space that they may (--spill-limit): raise it, or run fewer queries at a time";
        check(DataFusionError::IoError(limit), ErrorCode::DiskFull, true, text);
        let parquet = ParquetError::General("Invalid Parquet file. Corrupt footer".into());
        let text = "Parquet error: Invalid Parquet file. Corrupt footer";
        check(DataFusionError::ParquetError(Box::new(parquet)), ErrorCode::FileUnreadable, false, text);
        let store = object_store::Error::Generic { store: "s3", source: "timed out".into() };
        let text = "Generic s3 error: timed out";
        check(DataFusionError::ObjectStore(Box::new(store)), ErrorCode::FileUnreadable, true, text);
    }

    #[test]
    fn a_missing_file_is_named() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let store = object_store::Error::NotFound { path: "a.parquet".into(), source: Box::new(io) };
        let parquet = ParquetError::External(Box::new(store));
        let text = "Object at location a.parquet not found: no such file";
        check(DataFusionError::ParquetError(Box::new(parquet)), ErrorCode::FileUnreadable, false, text);
    }

    #[test]
    fn the_rest_of_datafusion() {
        let refused = DataFusionError::ResourcesExhausted("too much".into());
        check(refused, ErrorCode::MemoryRefused, true, "too much");
        check(DataFusionError::NotImplemented("x".into()), ErrorCode::Unsupported, false, "x");
        check(DataFusionError::Internal("x".into()), ErrorCode::Internal, false, "x");
        let syntax = ParserError::ParserError("Expected: an expression".into());
        let syntax = DataFusionError::SQL(Box::new(syntax), None);
        check(syntax, ErrorCode::Syntax, false, "Expected: an expression");
        let missing = SchemaError::FieldNotFound { field: Box::new(Column::from_name("x")), valid_fields: vec![] };
        let missing = DataFusionError::SchemaError(Box::new(missing), Box::new(None));
        check(missing, ErrorCode::ColumnNotFound, false, "No field named x.");
    }

    #[test]
    fn the_innermost_error_counts() {
        let inner = plan("table 't' not found").context("while planning");
        check(inner, ErrorCode::TableNotFound, false, "table 't' not found");
        let shared = DataFusionError::Shared(Arc::new(DataFusionError::ResourcesExhausted("too much".into())));
        let wrapped = ArrowError::ExternalError(Box::new(shared));
        let wrapped = DataFusionError::ArrowError(Box::new(wrapped), None);
        check(wrapped, ErrorCode::MemoryRefused, true, "too much");
    }

    /// Whether an error of this code can be one that passes. Every code has to choose.
    fn may_pass(code: ErrorCode) -> bool {
        use ErrorCode::*;
        match code {
            // Somebody else's state, or this node's: another attempt meets another.
            Busy | DiskFull | FileUnreadable | Internal | MemoryRefused | NoWorker | SpillFailed | Timeout
            | WorkerLost => true,
            // What the statement says, or what it says about the data: the same everywhere and at any time.
            AccessDenied | CheckViolated | ColumnAmbiguous | ColumnNotFound | ConnectionExists | ConnectionNotFound
            | DatabaseExists | DatabaseNotFound | DivisionByZero | DropDatabaseNotFound | DropTableNotFound
            | FunctionNotFound | InvalidArgument | InvalidGroupBy | InvalidJson | InvalidJsonKey | InvalidJsonPath
            | InvalidRegex | NoDatabaseSelected | NullNotAllowed | OutOfRange | ParameterCount | PlanTooLarge
            | PluralJsonPath | ReadOnlyVariable | SubqueryRows | Syntax | TableExists | TableNotFound
            | TypeMismatch | UnknownCommand | UnknownConnection | UnknownVariable | Unsupported | ValueCount
            | WriteConflict | WrongTemporalValue | WrongVariableValue => false,
            // Who asks, and what of: accounts and their rights.
            AccountExists | AccountMissing | AccountOperation | ColumnAccessDenied | DatabaseAccessDenied
            | GrantToUnknown | IllegalGrant | KillDenied | LoginDenied | NoSuchGrant | NoSuchTableGrant
            | NoSuchUser | PrivilegeNeeded | RoleCycle | RoleNotGranted | UnknownPlugin | UnknownRole
            | WrongCurrentPassword | WrongPasswordHash | WrongUsage => false,
            // Prepared statements in text.
            NotPreparable | TooManyPrepared | UnknownPrepared => false,
            // Views, and files whose lines are loaded.
            CheckOptionOnView | ColumnTwice | DataTruncated | DefinerNotFound | DuplicateColumn | FileNotFound
            | GlobalVariable | InvalidCharacters | LocalFilesDisabled | NotInsertable | NotUpdatable | NullSupplied
            | TooFewFields | TooManyFields | TruncatedValue | ValueOutOfRange | ViewColumnCount | ViewInvalid
            | ViewNotExplained | ViewRecursive | ViewVariable | WrongObject => false,
            // Somebody wanted it so.
            Cancelled => false,
        }
    }

    #[test]
    fn what_passes_is_tried_again_and_what_is_the_users_is_not() {
        let arrow = |error| DataFusionError::ArrowError(Box::new(error), None);
        let parquet = |error| DataFusionError::ParquetError(Box::new(error));
        let store = |error| DataFusionError::ObjectStore(Box::new(error));
        let io = |kind| std::io::Error::new(kind, "io");
        let timed_out = || Box::new(io(std::io::ErrorKind::TimedOut));
        let cases = [
            // Disks, networks and stores.
            (DataFusionError::IoError(io(std::io::ErrorKind::TimedOut)), ErrorCode::FileUnreadable, true),
            (DataFusionError::IoError(io(std::io::ErrorKind::StorageFull)), ErrorCode::DiskFull, true),
            (arrow(ArrowError::IoError("io".into(), io(std::io::ErrorKind::Other))), ErrorCode::FileUnreadable, true),
            (parquet(ParquetError::External(timed_out())), ErrorCode::FileUnreadable, true),
            (store(object_store::Error::Generic { store: "s3", source: timed_out() }), ErrorCode::FileUnreadable, true),
            // The store answered.
            (DataFusionError::IoError(io(std::io::ErrorKind::NotFound)), ErrorCode::FileUnreadable, false),
            (DataFusionError::IoError(io(std::io::ErrorKind::PermissionDenied)), ErrorCode::FileUnreadable, false),
            (
                store(object_store::Error::NotFound {
                    path: "a".into(),
                    source: Box::new(io(std::io::ErrorKind::NotFound)),
                }),
                ErrorCode::FileUnreadable,
                false,
            ),
            (parquet(ParquetError::General("corrupt".into())), ErrorCode::FileUnreadable, false),
            (
                DataFusionError::External(Box::new(WireError::new(ErrorCode::FileUnreadable, "file changed"))),
                ErrorCode::FileUnreadable,
                false,
            ),
            // Memory.
            (DataFusionError::ResourcesExhausted("memory".into()), ErrorCode::MemoryRefused, true),
            (arrow(ArrowError::MemoryError("memory".into())), ErrorCode::MemoryRefused, true),
            // A bug that shows without a panic shows again.
            (DataFusionError::Internal("bug".into()), ErrorCode::Internal, false),
            // The user's.
            (arrow(ArrowError::DivideByZero), ErrorCode::DivisionByZero, false),
            (arrow(ArrowError::ArithmeticOverflow("1".into())), ErrorCode::OutOfRange, false),
            (arrow(ArrowError::CastError("x".into())), ErrorCode::TypeMismatch, false),
            (arrow(ArrowError::ParseError("x".into())), ErrorCode::TypeMismatch, false),
            (DataFusionError::Execution("Cannot cast string 'x'".into()), ErrorCode::TypeMismatch, false),
            (
                DataFusionError::Execution("Scalar subquery returned more than one row".into()),
                ErrorCode::SubqueryRows,
                false,
            ),
            (DataFusionError::NotImplemented("x".into()), ErrorCode::Unsupported, false),
            (plan("table 't' not found"), ErrorCode::TableNotFound, false),
        ];
        for (error, code, retryable) in cases {
            let wire = to_wire(&error);
            assert_eq!((wire.code, wire.retryable), (code, retryable), "{error:?}");
            assert!(!wire.retryable || may_pass(code), "{error:?}");
            // On its way through a consumer it stays what it is.
            let passed_on = to_wire(&DataFusionError::External(Box::new(wire.clone())).context("reading"));
            assert_eq!(passed_on, wire);
        }
        let n_passing = ErrorCode::ALL.iter().filter(|code| may_pass(**code)).count();
        assert_eq!(n_passing, 9, "a code was moved: the table above has to show it");
    }

    #[tokio::test]
    async fn a_panic_is_tried_again_and_a_cancel_is_not() {
        let panic = tokio::spawn(async { panic!("on purpose") }).await.unwrap_err();
        let wire = to_wire(&DataFusionError::ExecutionJoin(Box::new(panic)));
        assert_eq!((wire.code, wire.retryable), (ErrorCode::Internal, true));
        let task = tokio::spawn(std::future::pending::<()>());
        task.abort();
        let wire = to_wire(&DataFusionError::ExecutionJoin(Box::new(task.await.unwrap_err())));
        assert_eq!((wire.code, wire.retryable), (ErrorCode::Cancelled, false));
    }

    #[test]
    fn ours_is_found_anywhere() {
        let wire = WireError::new(ErrorCode::WorkerLost, "worker w1 was lost").retryable();
        let external = DataFusionError::External(Box::new(wire.clone()));
        let io = std::io::Error::other(DataFusionError::Shared(Arc::new(external)));
        assert_eq!(to_wire(&DataFusionError::IoError(io).context("reading")), wire);
        let ours = PlanError::TooLarge("too many columns".into());
        let ours = DataFusionError::from(ours).context("planning");
        check(ours, ErrorCode::PlanTooLarge, false, "the statement is too large: too many columns");
    }
}
