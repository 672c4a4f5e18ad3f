//! Fields to columns: each text becomes a value of its column's type, or what MySQL makes of one that is none.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::{CastOptions, cast_with_options, interleave};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use parking_lot::Mutex;
use sheaf_common::{ErrorCode, WireError};

use super::lines::Record;

/// What a batch holds at most; then it is handed on.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 4 << 20;
/// Warnings that are kept with their text; further ones are only counted.
const WARNINGS_MAX: usize = 64;

/// The character set of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// Also ASCII, and what is said to be binary.
    Utf8,
    /// What MySQL calls so: Windows-1252.
    Latin1,
}

impl Charset {
    /// By MySQL's name.
    pub fn of_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "utf8mb4" | "utf8mb3" | "utf8" | "ascii" | "binary" => Some(Self::Utf8),
            "latin1" => Some(Self::Latin1),
            _ => None,
        }
    }
}

/// The characters of Windows-1252 from 0x80 to 0x9F; those that it has not are as in Latin-1.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// A column that fields go into.
#[derive(Debug, Clone)]
pub struct Target {
    pub name: String,
    /// The type of the table's column; a variable is a text.
    pub data_type: DataType,
    pub is_nullable: bool,
    /// What a line that ends before it gives; NULL where there is nothing.
    pub default: ScalarValue,
}

/// What came of a load so far.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub records: u64,
    /// Code and text, the first ones.
    pub warnings: Vec<(ErrorCode, String)>,
    pub n_warnings: u64,
}

impl Outcome {
    fn warn(&mut self, code: ErrorCode, text: String) {
        self.n_warnings += 1;
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push((code, text));
        }
    }
}

/// One column of the open batch.
struct Column {
    target: Target,
    values: BinaryBuilder,
    /// Rows whose line ended before it.
    missing: Vec<u32>,
}

/// Makes batches of records.
pub struct Rows {
    /// For each field of a line, the column that it goes into.
    places: Vec<Option<usize>>,
    columns: Vec<Column>,
    charset: Charset,
    /// What does not fit is made to, with a warning; else it is an error.
    is_lenient: bool,
    n_rows: usize,
    n_bytes: usize,
    outcome: Arc<Mutex<Outcome>>,
}

/// What is wrong with one value.
struct Problem {
    row: usize,
    code: ErrorCode,
    text: String,
}

impl Rows {
    /// `places` are the targets of a line's fields, in order; none of those that nobody wants.
    pub fn new(targets: Vec<Target>, places: Vec<Option<usize>>, charset: Charset, is_lenient: bool) -> Self {
        let column = |target| Column { target, values: BinaryBuilder::new(), missing: vec![] };
        let columns = targets.into_iter().map(column).collect();
        Self { places, columns, charset, is_lenient, n_rows: 0, n_bytes: 0, outcome: Arc::default() }
    }

    pub fn schema(&self) -> SchemaRef {
        let field = |it: &Column| Field::new(&it.target.name, it.target.data_type.clone(), true);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    pub fn outcome(&self) -> Arc<Mutex<Outcome>> {
        Arc::clone(&self.outcome)
    }

    pub fn is_full(&self) -> bool {
        self.n_rows >= BATCH_ROWS || self.n_bytes >= BATCH_BYTES
    }

    /// Adds a line. Errs when its fields are too few or too many, unless that is only worth a warning.
    pub fn push(&mut self, record: &Record) -> Result<(), WireError> {
        let row = self.outcome.lock().records + self.n_rows as u64 + 1;
        if record.len() < self.places.len() {
            let text = format!("row {row} doesn't contain data for all columns");
            self.complain(ErrorCode::TooFewFields, text)?;
        }
        if record.len() > self.places.len() {
            let text = format!("row {row} was truncated; it contained more data than there were input columns");
            self.complain(ErrorCode::TooManyFields, text)?;
        }
        for (idx, place) in self.places.iter().enumerate() {
            let Some(column) = place.and_then(|it| self.columns.get_mut(it)) else { continue };
            if idx >= record.len() {
                column.missing.push(self.n_rows as u32);
                column.values.append_null();
                continue;
            }
            let value = record.get(idx);
            self.n_bytes += value.map_or(0, <[u8]>::len);
            match (value, self.charset) {
                (Some(bytes), Charset::Latin1) if !is_binary(&column.target.data_type) && !bytes.is_ascii() => {
                    column.values.append_value(of_latin1(bytes));
                }
                (value, _) => column.values.append_option(value),
            }
        }
        self.n_rows += 1;
        Ok(())
    }

    fn complain(&self, code: ErrorCode, text: String) -> Result<(), WireError> {
        match self.is_lenient {
            true => {
                self.outcome.lock().warn(code, text);
                Ok(())
            }
            false => Err(WireError::new(code, text)),
        }
    }

    /// The rows since the last batch; none if there are none.
    pub fn batch(&mut self) -> Result<Option<RecordBatch>, WireError> {
        let n_rows = std::mem::take(&mut self.n_rows);
        self.n_bytes = 0;
        if n_rows == 0 {
            return Ok(None);
        }
        let schema = self.schema();
        let (mut arrays, mut problems) = (vec![], vec![]);
        for column in &mut self.columns {
            arrays.push(column.array(&mut problems).map_err(|it| self.outcome.lock().placed(it))?);
        }
        problems.sort_by_key(|it: &Problem| it.row);
        let mut outcome = self.outcome.lock();
        for problem in problems {
            let error = outcome.placed(problem);
            match self.is_lenient {
                true => outcome.warn(error.code, error.message),
                false => return Err(error),
            }
        }
        outcome.records += n_rows as u64;
        drop(outcome);
        let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
        let batch = RecordBatch::try_new_with_options(schema, arrays, &options);
        batch.map(Some).map_err(|error| WireError::new(ErrorCode::Internal, format!("lines make no batch: {error}")))
    }
}

impl Outcome {
    /// As MySQL words it, with the row's number.
    fn placed(&self, problem: Problem) -> WireError {
        let row = self.records + problem.row as u64 + 1;
        WireError::new(problem.code, format!("{} at row {row}", problem.text))
    }
}

impl Column {
    /// The column's values since the last batch. What was wrong with some is added to `problems`; err what cannot be
    /// mended.
    fn array(&mut self, problems: &mut Vec<Problem>) -> Result<ArrayRef, Problem> {
        let bytes = self.values.finish();
        let missing = std::mem::take(&mut self.missing);
        let target = &self.target;
        if is_binary(&target.data_type) {
            let values = cast(&(Arc::new(bytes) as ArrayRef), &target.data_type, 0)?;
            return self.filled(values, &missing, problems);
        }
        let texts: ArrayRef = match StringArray::try_from_binary(bytes.clone()) {
            Ok(texts) => Arc::new(texts),
            Err(_) => return Err(invalid_text(&target.name, &bytes)),
        };
        let values = cast(&texts, &target.data_type, 0)?;
        let texts = texts.as_string::<i32>();
        let is_lost = |row: &usize| texts.is_valid(*row) && values.is_null(*row);
        let mut mended = vec![];
        if values.null_count() > texts.null_count() {
            for row in (0..texts.len()).filter(is_lost) {
                let (value, problem) = salvaged(texts.value(row), target);
                problems.extend(problem.map(|(code, text)| Problem { row, code, text }));
                mended.push((row, value));
            }
        }
        let values = replaced(values, &mended, &target.data_type)?;
        self.filled(values, &missing, problems)
    }

    /// With defaults where lines ended early, and without NULL where none may be.
    fn filled(&self, values: ArrayRef, missing: &[u32], problems: &mut Vec<Problem>) -> Result<ArrayRef, Problem> {
        let target = &self.target;
        let mut mended: Vec<(usize, ScalarValue)> = vec![];
        if !target.default.is_null() {
            mended.extend(missing.iter().map(|row| (*row as usize, target.default.clone())));
        }
        let values = replaced(values, &mended, &target.data_type)?;
        if target.is_nullable || values.null_count() == 0 {
            return Ok(values);
        }
        let mut mended = vec![];
        for row in (0..values.len()).filter(|row| values.is_null(*row)) {
            let text = format!("column set to default value; NULL supplied to NOT NULL column '{}'", target.name);
            let problem = Problem { row, code: ErrorCode::NullSupplied, text };
            match zero(&target.data_type) {
                Some(value) => mended.push((row, value)),
                // There is nothing that the column could hold in its place.
                None => return Err(problem),
            }
            problems.push(problem);
        }
        replaced(values, &mended, &target.data_type)
    }
}

fn is_binary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn of_latin1(bytes: &[u8]) -> String {
    let of_byte = |byte: &u8| match byte {
        0x80..=0x9F => WINDOWS_1252[usize::from(byte - 0x80)],
        other => char::from(*other),
    };
    bytes.iter().map(of_byte).collect()
}

/// Values that are none of the type become NULL.
fn cast(values: &ArrayRef, data_type: &DataType, row: usize) -> Result<ArrayRef, Problem> {
    let options = CastOptions { safe: true, ..CastOptions::default() };
    cast_with_options(values, data_type, &options).map_err(|error| Problem {
        row,
        code: ErrorCode::Unsupported,
        text: format!("a text cannot become {data_type}: {error}"),
    })
}

fn invalid_text(column: &str, bytes: &arrow::array::BinaryArray) -> Problem {
    let is_wrong = |it: &(usize, Option<&[u8]>)| it.1.is_some_and(|it| std::str::from_utf8(it).is_err());
    let (row, value) = bytes.iter().enumerate().find(is_wrong).unwrap_or((0, None));
    let value = value.unwrap_or_default();
    let valid = std::str::from_utf8(value).map_or_else(|error| error.valid_up_to(), str::len);
    let mut shown = String::new();
    for byte in value.iter().skip(valid).take(6) {
        // A String takes what is written to it.
        let _ = write!(shown, "\\x{byte:02X}");
    }
    let text = format!("invalid utf8mb4 character string: '{shown}' for column '{column}'");
    Problem { row, code: ErrorCode::InvalidCharacters, text }
}

/// The array with some of its values replaced.
fn replaced(values: ArrayRef, mended: &[(usize, ScalarValue)], data_type: &DataType) -> Result<ArrayRef, Problem> {
    if mended.is_empty() {
        return Ok(values);
    }
    let failed = |row, error: String| Problem { row, code: ErrorCode::Internal, text: error };
    let first = mended[0].0;
    let new = ScalarValue::iter_to_array(mended.iter().map(|it| it.1.clone()));
    let new = new.map_err(|error| failed(first, error.to_string()))?;
    let new = cast(&new, data_type, first)?;
    let mut places: Vec<(usize, usize)> = (0..values.len()).map(|row| (0, row)).collect();
    for (position, (row, _)) in mended.iter().enumerate() {
        places[*row] = (1, position);
    }
    interleave(&[values.as_ref(), new.as_ref()], &places).map_err(|error| failed(first, error.to_string()))
}

/// What stands for nothing in a column without NULL: MySQL's implicit default.
fn zero(data_type: &DataType) -> Option<ScalarValue> {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ScalarValue::from("").cast_to(data_type).ok(),
        DataType::Boolean => Some(ScalarValue::Boolean(Some(false))),
        it if is_binary(it) => ScalarValue::Binary(Some(vec![])).cast_to(it).ok(),
        it if it.is_numeric() => ScalarValue::Int8(Some(0)).cast_to(it).ok(),
        _ => None,
    }
}

type Salvaged = (ScalarValue, Option<(ErrorCode, String)>);

/// The value of a text that is none of its type's, and what is wrong with it, if MySQL minds.
fn salvaged(text: &str, target: &Target) -> Salvaged {
    let data_type = &target.data_type;
    let null = || ScalarValue::try_from(data_type).unwrap_or(ScalarValue::Null);
    let trimmed = text.trim();
    if !data_type.is_numeric() && *data_type != DataType::Boolean {
        let kind = match data_type {
            DataType::Date32 | DataType::Date64 => "date",
            DataType::Timestamp(..) => "datetime",
            _ => "",
        };
        let value = ScalarValue::try_from_string(trimmed.to_owned(), data_type);
        if let Ok(value) = value {
            return (value, None);
        }
        let said = format!("incorrect {kind} value: '{}' for column '{}'", shown(text), target.name);
        return (null(), Some((ErrorCode::TruncatedValue, said.replace("  ", " "))));
    }
    let number = numeric_prefix(trimmed);
    let parsed: f64 = number.parse().unwrap_or(0.0);
    let problem = if number.is_empty() {
        let kind = match data_type {
            it if it.is_integer() || *it == DataType::Boolean => "integer",
            it if it.is_floating() => "double",
            _ => "decimal",
        };
        let said = format!("incorrect {kind} value: '{}' for column '{}'", shown(text), target.name);
        Some((ErrorCode::TypeMismatch, said))
    } else if number.len() < trimmed.len() {
        Some((ErrorCode::DataTruncated, format!("data truncated for column '{}'", target.name)))
    } else {
        None
    };
    if *data_type == DataType::Boolean {
        return (ScalarValue::Boolean(Some(parsed != 0.0)), problem);
    }
    // Half a unit away from zero, as MySQL rounds what goes into a whole number.
    let is_rounded = data_type.is_integer() && number.parse::<i128>().is_err();
    let written = if is_rounded { format!("{:.0}", parsed.round()) } else { number.to_owned() };
    let written = if written.is_empty() { "0".to_owned() } else { written };
    if let Ok(value) = ScalarValue::try_from_string(written, data_type) {
        return (value, problem);
    }
    let as_double = ScalarValue::Float64(Some(parsed)).cast_to(data_type).ok().filter(|it| !it.is_null());
    match as_double {
        Some(value) => (value, problem),
        None => {
            let said = format!("out of range value for column '{}'", target.name);
            (nearest(data_type, parsed < 0.0).unwrap_or_else(null), Some((ErrorCode::ValueOutOfRange, said)))
        }
    }
}

fn shown(text: &str) -> String {
    const CHARACTERS: usize = 128;
    text.chars().take(CHARACTERS).collect()
}

/// What of a text is a number, from its beginning.
fn numeric_prefix(text: &str) -> &str {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|it| it.is_ascii_digit()).count();
    let mut at = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let whole = digits(at);
    at += whole;
    let mut fraction = 0;
    if bytes.get(at) == Some(&b'.') {
        fraction = digits(at + 1);
        if whole + fraction > 0 {
            at += 1 + fraction;
        }
    }
    if whole + fraction == 0 {
        return "";
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let n_digits = bytes.get(at + 1 + sign..).map_or(0, |_| digits(at + 1 + sign));
        if n_digits > 0 {
            at += 1 + sign + n_digits;
        }
    }
    &text[..at]
}

/// The least or the greatest value of a type.
fn nearest(data_type: &DataType, is_least: bool) -> Option<ScalarValue> {
    match data_type {
        DataType::Decimal128(digits, scale) => {
            let most = 10i128.checked_pow(u32::from(*digits))? - 1;
            Some(ScalarValue::Decimal128(Some(if is_least { -most } else { most }), *digits, *scale))
        }
        it if is_least => ScalarValue::min(it),
        it => ScalarValue::max(it),
    }
}

#[cfg(test)]
mod tests {
    use sheaf_planners::parser::load::LineFormat;

    use super::super::lines::Lines;
    use super::*;

    fn target(name: &str, data_type: DataType, is_nullable: bool) -> Target {
        Target { name: name.into(), data_type, is_nullable, default: ScalarValue::Null }
    }

    /// The batch of a text's lines, and what was said of them.
    fn load(targets: Vec<Target>, is_lenient: bool, text: &[u8]) -> Result<(Option<RecordBatch>, Outcome), WireError> {
        let places = (0..targets.len()).map(Some).collect();
        let mut rows = Rows::new(targets, places, Charset::Utf8, is_lenient);
        let mut lines = Lines::new(LineFormat::default()).unwrap();
        lines.push(text);
        lines.end();
        let mut record = Record::default();
        while lines.next(&mut record)? {
            rows.push(&record)?;
        }
        let batch = rows.batch()?;
        let outcome = rows.outcome().lock().clone();
        Ok((batch, outcome))
    }

    fn one(data_type: DataType, text: &str) -> (String, Vec<u16>) {
        let (batch, outcome) = load(vec![target("c", data_type, true)], true, format!("{text}\n").as_bytes()).unwrap();
        let value = arrow::util::display::array_value_to_string(batch.unwrap().column(0), 0).unwrap();
        (value, outcome.warnings.iter().map(|(code, _)| code.numbers().mysql).collect())
    }

    fn refused(data_type: DataType, text: &str) -> (u16, String) {
        let error = load(vec![target("c", data_type, true)], false, text.as_bytes()).unwrap_err();
        (error.code.numbers().mysql, error.message)
    }

    #[test]
    fn values_become_what_mysql_makes_of_them() {
        use DataType::*;
        let decimal = || Decimal128(5, 2);
        for (data_type, text, value, warnings) in [
            (Int32, "12", "12", &[][..]),
            (Int32, " 12 ", "12", &[]),
            (Int32, "1.5", "2", &[]),
            (Int32, "-2.5", "-3", &[]),
            (Int32, "1e3", "1000", &[]),
            (Int32, "12abc", "12", &[1265]),
            (Int32, "abc", "0", &[1366]),
            (Int32, "", "0", &[1366]),
            (Int32, "3000000000", "2147483647", &[1264]),
            (Int8, "-129", "-128", &[1264]),
            (Int64, "9223372036854775807", "9223372036854775807", &[]),
            (Float64, "1.5x", "1.5", &[1265]),
            (decimal(), "1.5", "1.50", &[]),
            (decimal(), "99999", "999.99", &[1264]),
            (decimal(), "-99999", "-999.99", &[1264]),
            (Boolean, "7", "true", &[]),
            (Boolean, "0", "false", &[]),
            (Date32, "2026-02-03", "2026-02-03", &[]),
            (Date32, "never", "", &[1292]),
            (Utf8View, "text", "text", &[]),
            (Int32, "\\N", "", &[]),
        ] {
            assert_eq!(one(data_type.clone(), text), (value.to_owned(), warnings.to_vec()), "{data_type} {text:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_row() {
        let (code, message) = refused(DataType::Int32, "1\n2\nx\ny\n");
        assert_eq!((code, message.as_str()), (1366, "incorrect integer value: 'x' for column 'c' at row 3"));
        let (code, message) = refused(DataType::Date32, "2026-01-01\n0000-00-00\n");
        assert_eq!((code, message.as_str()), (1292, "incorrect date value: '0000-00-00' for column 'c' at row 2"));
        assert_eq!(refused(DataType::Int32, "1\n1\t2\n").0, 1262);
        let two = || vec![target("a", DataType::Int32, true), target("b", DataType::Int32, true)];
        assert_eq!(load(two(), false, b"1\t2\n1\n").unwrap_err().message, "row 2 doesn't contain data for all columns");
        let (batch, outcome) = load(two(), true, b"1\t2\n1\n1\t2\t3\n").unwrap();
        let codes: Vec<u16> = outcome.warnings.iter().map(|it| it.0.numbers().mysql).collect();
        assert_eq!((codes, outcome.records, outcome.n_warnings), (vec![1261, 1262], 3, 2));
        assert!(batch.unwrap().column(1).is_null(1));
    }

    #[test]
    fn nulls_and_missing_fields() {
        let strict = || vec![target("c", DataType::Int32, false)];
        let error = load(strict(), false, b"1\n\\N\n").unwrap_err();
        assert_eq!((error.code.numbers().mysql, error.message.ends_with("'c' at row 2")), (1263, true));
        let (batch, outcome) = load(strict(), true, b"\\N\n").unwrap();
        assert_eq!((batch.unwrap().column(0).null_count(), outcome.n_warnings), (0, 1));
        let dates = vec![target("d", DataType::Date32, false)];
        assert_eq!(load(dates, true, b"\\N\n").unwrap_err().code, ErrorCode::NullSupplied);
        let seven = Target { default: ScalarValue::Int32(Some(7)), ..target("b", DataType::Int32, false) };
        let (batch, _) = load(vec![target("a", DataType::Int32, true), seven], true, b"1\n2\t3\n").unwrap();
        let expected: ArrayRef = Arc::new(arrow::array::Int32Array::from(vec![7, 3]));
        assert_eq!(batch.unwrap().column(1), &expected);
    }

    #[test]
    fn bytes_and_characters() {
        let wrong = load(vec![target("c", DataType::Utf8View, true)], true, b"ok\n\xe9t\xe9\n").unwrap_err();
        assert_eq!(wrong.code, ErrorCode::InvalidCharacters);
        assert!(wrong.message.contains("'\\xE9\\x74\\xE9' for column 'c' at row 2"), "{}", wrong.message);
        let (batch, _) = load(vec![target("c", DataType::BinaryView, true)], false, b"\xe9\n").unwrap();
        assert_eq!(batch.unwrap().column(0).as_binary_view().value(0), b"\xe9");
        assert_eq!(of_latin1(b"\x80 \xe9\x9f"), "€ éŸ");
        assert_eq!((Charset::of_name("UTF8MB4"), Charset::of_name("koi8r")), (Some(Charset::Utf8), None));
    }

    #[test]
    fn prefixes_of_numbers() {
        for (text, expected) in [
            ("12abc", "12"),
            ("-1.5e3x", "-1.5e3"),
            ("1e", "1"),
            (".5", ".5"),
            ("1.", "1."),
            (".", ""),
            ("-", ""),
            ("", ""),
        ] {
            assert_eq!(numeric_prefix(text), expected, "{text}");
        }
    }
}
