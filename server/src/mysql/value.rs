//! Arrow values as MySQL writes them: in text rows, in the binary rows of prepared statements, and as JSON inside nested
//! values.
//!
//! In: a batch whose columns were announced by [`super::column`]. Out: one packet a row. Memory: a few words a column.
//! NaN and infinities, which MySQL does not have, are `NaN`, `inf` and `-inf` as text and IEEE bits in binary. Nanoseconds
//! are cut to microseconds; a fraction of zero is left out. Zoned timestamps are shown in the session's time zone.

use std::io::Write;
use std::ops::Range;

use arrow::array::timezone::Tz;
use arrow::array::types::*;
use arrow::array::*;
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, IntervalUnit, TimeUnit, UnionMode};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::temporal_conversions as temporal;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{Datelike, NaiveDate, NaiveDateTime, TimeZone, Timelike, Utc};
use sheaf_common::{Classify, ErrorCode};

use super::packet::PacketBuffer;
use super::wire::{NULL_TEXT, put_lenenc, put_lenenc_with};

/// Why a value cannot be told to a MySQL client.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    /// The data holds a moment that MySQL's formats have no room for. The client can cast the column to text.
    #[error("a date of column {column} is out of the range that the MySQL protocol can express")]
    DateRange { column: usize },
    /// A batch is not what its schema says: a bug.
    #[error("value cannot be shown")]
    Array(#[from] ArrowError),
}

impl ValueError {
    /// `column` counts from 0.
    fn of(column: usize, error: CellError) -> Self {
        match error {
            CellError::DateRange => Self::DateRange { column: column + 1 },
            CellError::Array(error) => Self::Array(error),
        }
    }
}

impl Classify for ValueError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::DateRange { .. } => ErrorCode::OutOfRange,
            Self::Array(_) => ErrorCode::Internal,
        }
    }
}

/// Why one cell cannot be written; the column is added where it is known.
enum CellError {
    DateRange,
    Array(ArrowError),
}

impl From<ArrowError> for CellError {
    fn from(error: ArrowError) -> Self {
        Self::Array(error)
    }
}

/// How rows are written: as text after `COM_QUERY`, in binary after `COM_STMT_EXECUTE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    Text,
    Binary,
}

/// One batch, ready to be written row by row.
pub struct BatchEncoder<'a> {
    cells: Vec<Box<dyn Cell + 'a>>,
    format: RowFormat,
}

impl<'a> BatchEncoder<'a> {
    /// Errs only where an array cannot be read at all.
    pub fn new(batch: &'a RecordBatch, format: RowFormat, zone: Tz) -> Result<Self, ValueError> {
        let cells = batch.columns().iter().map(|array| cell(array, zone)).collect::<Result<_, _>>()?;
        Ok(Self { cells, format })
    }

    /// Appends one row as a packet. On an error the buffer is as it was.
    pub fn put_row(&self, row: usize, buffer: &mut PacketBuffer) -> Result<(), ValueError> {
        buffer.begin();
        let written = match self.format {
            RowFormat::Text => self.put_text(row, buffer.payload()),
            RowFormat::Binary => self.put_binary(row, buffer.payload()),
        };
        match written {
            Ok(()) => {
                buffer.end();
                Ok(())
            }
            Err((column, error)) => {
                buffer.abandon();
                Err(ValueError::of(column, error))
            }
        }
    }

    fn put_text(&self, row: usize, out: &mut Vec<u8>) -> Result<(), (usize, CellError)> {
        for (column, cell) in self.cells.iter().enumerate() {
            if cell.is_null(row) {
                out.push(NULL_TEXT);
            } else {
                cell.text_string(row, out).map_err(|error| (column, error))?;
            }
        }
        Ok(())
    }

    fn put_binary(&self, row: usize, out: &mut Vec<u8>) -> Result<(), (usize, CellError)> {
        // The bitmap of a row starts at its third bit.
        const FIRST_BIT: usize = 2;
        out.push(0x00);
        let bitmap = out.len();
        out.resize(bitmap + (self.cells.len() + FIRST_BIT).div_ceil(8), 0);
        for (column, cell) in self.cells.iter().enumerate() {
            if cell.is_null(row) {
                out[bitmap + (column + FIRST_BIT) / 8] |= 1 << ((column + FIRST_BIT) % 8);
            } else {
                cell.binary(row, out).map_err(|error| (column, error))?;
            }
        }
        Ok(())
    }
}

/// One batch, cell by cell: the same texts, for who shows rows without a MySQL client in between.
pub struct TextCells<'a> {
    cells: Vec<Box<dyn Cell + 'a>>,
}

impl<'a> TextCells<'a> {
    /// `zone` is an offset or a name of the IANA's. Errs where it is none, or where an array cannot be read at all.
    pub fn new(batch: &'a RecordBatch, zone: &str) -> Result<Self, ValueError> {
        let zone: Tz = zone.parse()?;
        let cells = batch.columns().iter().map(|array| cell(array, zone)).collect::<Result<_, _>>()?;
        Ok(Self { cells })
    }

    /// Appends a cell's text; false for NULL, which appends nothing.
    pub fn write(&self, row: usize, column: usize, out: &mut Vec<u8>) -> Result<bool, ValueError> {
        let cell = &self.cells[column];
        if cell.is_null(row) {
            return Ok(false);
        }
        cell.text(row, out).map_err(|error| ValueError::of(column, error))?;
        Ok(true)
    }
}

type Written = Result<(), CellError>;

/// One column of a batch. The writers are called only where [`Cell::is_null`] is false.
trait Cell {
    fn is_null(&self, row: usize) -> bool;

    /// The bare text.
    fn text(&self, row: usize, out: &mut Vec<u8>) -> Written;

    /// The text with its length before it.
    fn text_string(&self, row: usize, out: &mut Vec<u8>) -> Written {
        put_lenenc_with(out, |out| self.text(row, out))
    }

    fn binary(&self, row: usize, out: &mut Vec<u8>) -> Written {
        self.text_string(row, out)
    }

    /// As a part of a nested value's JSON.
    fn json(&self, row: usize, out: &mut Vec<u8>) -> Written {
        let mut text = Vec::new();
        self.text(row, &mut text)?;
        put_json_string(out, &String::from_utf8_lossy(&text));
        Ok(())
    }
}

fn cell<'a>(array: &'a dyn Array, zone: Tz) -> Result<Box<dyn Cell + 'a>, ArrowError> {
    fn as_of<T: 'static>(array: &dyn Array) -> Result<&T, ArrowError> {
        array.as_any().downcast_ref().ok_or_else(|| {
            ArrowError::SchemaError(format!("an array of type {} is of another class", array.data_type()))
        })
    }
    fn list<'a>(
        array: &'a dyn Array,
        values: &'a dyn Array,
        zone: Tz,
        range: impl Fn(usize) -> Range<usize> + 'a,
    ) -> Result<Box<dyn Cell + 'a>, ArrowError> {
        Ok(Box::new(ListCell { nulls: array.logical_nulls(), values: cell(values, zone)?, range: Box::new(range) }))
    }
    fn runs<'a, R: RunEndIndexType>(array: &'a dyn Array, zone: Tz) -> Result<Box<dyn Cell + 'a>, ArrowError> {
        let runs = as_of::<RunArray<R>>(array)?;
        let values = cell(runs.values().as_ref(), zone)?;
        Ok(Box::new(IndexedCell { values, index: Box::new(|row| Some(runs.get_physical_index(row))) }))
    }
    let unit_of = |unit: &TimeUnit| *unit;
    Ok(match array.data_type() {
        DataType::Null => Box::new(NullCell),
        DataType::Boolean => Box::new(as_of::<BooleanArray>(array)?),
        DataType::Int8 => Box::new(as_of::<Int8Array>(array)?),
        DataType::Int16 => Box::new(as_of::<Int16Array>(array)?),
        DataType::Int32 => Box::new(as_of::<Int32Array>(array)?),
        DataType::Int64 => Box::new(as_of::<Int64Array>(array)?),
        DataType::UInt8 => Box::new(as_of::<UInt8Array>(array)?),
        DataType::UInt16 => Box::new(as_of::<UInt16Array>(array)?),
        DataType::UInt32 => Box::new(as_of::<UInt32Array>(array)?),
        DataType::UInt64 => Box::new(as_of::<UInt64Array>(array)?),
        DataType::Float16 => Box::new(as_of::<Float16Array>(array)?),
        DataType::Float32 => Box::new(as_of::<Float32Array>(array)?),
        DataType::Float64 => Box::new(as_of::<Float64Array>(array)?),
        DataType::Decimal32(_, scale) => Box::new(DecimalCell(as_of::<Decimal32Array>(array)?, *scale)),
        DataType::Decimal64(_, scale) => Box::new(DecimalCell(as_of::<Decimal64Array>(array)?, *scale)),
        DataType::Decimal128(_, scale) => Box::new(DecimalCell(as_of::<Decimal128Array>(array)?, *scale)),
        DataType::Decimal256(_, scale) => Box::new(DecimalCell(as_of::<Decimal256Array>(array)?, *scale)),
        DataType::Utf8 => Box::new(StringCell(as_of::<StringArray>(array)?)),
        DataType::LargeUtf8 => Box::new(StringCell(as_of::<LargeStringArray>(array)?)),
        DataType::Utf8View => Box::new(StringCell(as_of::<StringViewArray>(array)?)),
        DataType::Binary => Box::new(BytesCell(as_of::<BinaryArray>(array)?)),
        DataType::LargeBinary => Box::new(BytesCell(as_of::<LargeBinaryArray>(array)?)),
        DataType::BinaryView => Box::new(BytesCell(as_of::<BinaryViewArray>(array)?)),
        DataType::FixedSizeBinary(_) => Box::new(BytesCell(as_of::<FixedSizeBinaryArray>(array)?)),
        DataType::Date32 => {
            let dates = as_of::<Date32Array>(array)?;
            let at = |row| temporal::date32_to_datetime(dates.value(row)).map(|moment| moment.date());
            Box::new(DateCell { array: dates, at })
        }
        DataType::Date64 => {
            let dates = as_of::<Date64Array>(array)?;
            let at = |row| temporal::date64_to_datetime(dates.value(row)).map(|moment| moment.date());
            Box::new(DateCell { array: dates, at })
        }
        DataType::Timestamp(unit, zoned) => {
            let zone = zoned.as_ref().map(|_| zone);
            match unit {
                TimeUnit::Second => Box::new(TimestampCell(as_of::<TimestampSecondArray>(array)?, zone)),
                TimeUnit::Millisecond => Box::new(TimestampCell(as_of::<TimestampMillisecondArray>(array)?, zone)),
                TimeUnit::Microsecond => Box::new(TimestampCell(as_of::<TimestampMicrosecondArray>(array)?, zone)),
                TimeUnit::Nanosecond => Box::new(TimestampCell(as_of::<TimestampNanosecondArray>(array)?, zone)),
            }
        }
        DataType::Time32(unit) => match unit {
            TimeUnit::Second => Box::new(TimeCell(as_of::<Time32SecondArray>(array)?, unit_of(unit))),
            _ => Box::new(TimeCell(as_of::<Time32MillisecondArray>(array)?, unit_of(unit))),
        },
        DataType::Time64(unit) => match unit {
            TimeUnit::Nanosecond => Box::new(TimeCell(as_of::<Time64NanosecondArray>(array)?, unit_of(unit))),
            _ => Box::new(TimeCell(as_of::<Time64MicrosecondArray>(array)?, unit_of(unit))),
        },
        DataType::Duration(unit) => match unit {
            TimeUnit::Second => Box::new(TimeCell(as_of::<DurationSecondArray>(array)?, unit_of(unit))),
            TimeUnit::Millisecond => Box::new(TimeCell(as_of::<DurationMillisecondArray>(array)?, unit_of(unit))),
            TimeUnit::Microsecond => Box::new(TimeCell(as_of::<DurationMicrosecondArray>(array)?, unit_of(unit))),
            TimeUnit::Nanosecond => Box::new(TimeCell(as_of::<DurationNanosecondArray>(array)?, unit_of(unit))),
        },
        DataType::List(_) => {
            let lists = as_of::<ListArray>(array)?;
            let offsets = lists.value_offsets();
            list(array, lists.values(), zone, |row| offsets[row] as usize..offsets[row + 1] as usize)?
        }
        DataType::LargeList(_) => {
            let lists = as_of::<LargeListArray>(array)?;
            let offsets = lists.value_offsets();
            list(array, lists.values(), zone, |row| offsets[row] as usize..offsets[row + 1] as usize)?
        }
        DataType::ListView(_) => {
            let lists = as_of::<ListViewArray>(array)?;
            let start = |row| lists.value_offset(row) as usize;
            list(array, lists.values(), zone, move |row| start(row)..start(row) + lists.value_size(row) as usize)?
        }
        DataType::LargeListView(_) => {
            let lists = as_of::<LargeListViewArray>(array)?;
            let start = |row| lists.value_offset(row) as usize;
            list(array, lists.values(), zone, move |row| start(row)..start(row) + lists.value_size(row) as usize)?
        }
        DataType::FixedSizeList(_, size) => {
            let lists = as_of::<FixedSizeListArray>(array)?;
            let start = |row| lists.value_offset(row) as usize;
            let size = *size as usize;
            list(array, lists.values(), zone, move |row| start(row)..start(row) + size)?
        }
        DataType::Struct(fields) => {
            let columns = as_of::<StructArray>(array)?.columns();
            let named = fields.iter().zip(columns);
            let cells = named.map(|(field, column)| Ok((field.name().as_str(), cell(column, zone)?)));
            Box::new(StructCell { nulls: array.logical_nulls(), fields: cells.collect::<Result<_, ArrowError>>()? })
        }
        DataType::Map(..) => {
            let maps = as_of::<MapArray>(array)?;
            let (keys, values) = (cell(maps.keys(), zone)?, cell(maps.values(), zone)?);
            Box::new(MapCell { nulls: array.logical_nulls(), keys, values, offsets: maps.value_offsets() })
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            if dictionary.values().is_empty() {
                Box::new(NullCell)
            } else {
                let (keys, indexes) = (dictionary.keys(), dictionary.normalized_keys());
                let index = move |row| keys.is_valid(row).then(|| indexes[row]);
                Box::new(IndexedCell { values: cell(dictionary.values(), zone)?, index: Box::new(index) })
            }
        }
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => runs::<Int16Type>(array, zone)?,
            DataType::Int32 => runs::<Int32Type>(array, zone)?,
            _ => runs::<Int64Type>(array, zone)?,
        },
        DataType::Interval(IntervalUnit::YearMonth | IntervalUnit::DayTime | IntervalUnit::MonthDayNano)
        | DataType::Union(_, UnionMode::Sparse | UnionMode::Dense) => {
            static OPTIONS: FormatOptions<'static> = FormatOptions::new();
            let shown = ArrayFormatter::try_new(array, &OPTIONS)?;
            Box::new(ShownCell { nulls: array.logical_nulls(), shown })
        }
    })
}

struct NullCell;

impl Cell for NullCell {
    fn is_null(&self, _row: usize) -> bool {
        true
    }

    fn text(&self, _row: usize, _out: &mut Vec<u8>) -> Written {
        Ok(())
    }
}

impl Cell for &BooleanArray {
    fn is_null(&self, row: usize) -> bool {
        Array::is_null(self, row)
    }

    fn text(&self, row: usize, out: &mut Vec<u8>) -> Written {
        out.push(if self.value(row) { b'1' } else { b'0' });
        Ok(())
    }

    fn binary(&self, row: usize, out: &mut Vec<u8>) -> Written {
        out.push(u8::from(self.value(row)));
        Ok(())
    }

    fn json(&self, row: usize, out: &mut Vec<u8>) -> Written {
        out.extend_from_slice(if self.value(row) { b"true" } else { b"false" });
        Ok(())
    }
}

macro_rules! integer_cells {
    ($($array:ty),*) => {
        $(impl Cell for &$array {
            fn is_null(&self, row: usize) -> bool {
                Array::is_null(self, row)
            }

            fn text(&self, row: usize, out: &mut Vec<u8>) -> Written {
                put_display(out, self.value(row));
                Ok(())
            }

            fn binary(&self, row: usize, out: &mut Vec<u8>) -> Written {
                out.extend_from_slice(&self.value(row).to_le_bytes());
                Ok(())
            }

            fn json(&self, row: usize, out: &mut Vec<u8>) -> Written {
                self.text(row, out)
            }
        })*
    };
}

integer_cells!(Int8Array, Int16Array, Int32Array, Int64Array, UInt8Array, UInt16Array, UInt32Array, UInt64Array);

macro_rules! float_cells {
    ($($array:ty: $value:ident => $wide:expr;)*) => {
        $(impl Cell for &$array {
            fn is_null(&self, row: usize) -> bool {
                Array::is_null(self, row)
            }

            fn text(&self, row: usize, out: &mut Vec<u8>) -> Written {
                let $value = self.value(row);
                put_float(out, $wide, f64::from($value));
                Ok(())
            }

            fn binary(&self, row: usize, out: &mut Vec<u8>) -> Written {
                let $value = self.value(row);
                out.extend_from_slice(&$wide.to_le_bytes());
                Ok(())
            }

            fn json(&self, row: usize, out: &mut Vec<u8>) -> Written {
                let at = out.len();
                let finite = f64::from(self.value(row)).is_finite();
                if !finite {
                    out.push(b'"');
                }
                self.text(row, out)?;
                debug_assert!(out.len() > at);
                if !finite {
                    out.push(b'"');
                }
                Ok(())
            }
        })*
    };
}

float_cells! {
    Float16Array: value => f32::from(value);
    Float32Array: value => value;
    Float64Array: value => value;
}

struct DecimalCell<'a, T: DecimalType>(&'a PrimitiveArray<T>, i8);

impl<T: DecimalType> Cell for DecimalCell<'_, T>
where
    T::Native: std::fmt::Display,
{
    fn is_null(&self, row: usize) -> bool {
        Array::is_null(self.0, row)
    }

    fn text(&self, row: usize, out: &mut Vec<u8>) -> Written {
        put_decimal(out, &self.0.value(row).to_string(), self.1);
        Ok(())
    }

    fn json(&self, row: usize, out: &mut Vec<u8>) -> Written {
        self.text(row, out)
    }
}

struct StringCell<T>(T);

impl<'a, T: ArrayAccessor<Item = &'a str>> Cell for StringCell<T> {
    fn is_null(&self, row: usize) -> bool {
        self.0.is_null(row)
    }

    fn text(&self, row: usize, out: &mut Vec<u8>) -> Written {
        out.extend_from_slice(self.0.value(row).as_bytes());
        Ok(())
    }

    fn text_string(&self, row: usize, out: &mut Vec<u8>) -> Written {
        put_lenenc(out, self.0.value(row).as_bytes());
        Ok(())
    }

    fn json(&self, row: usize, out: &mut Vec<u8>) -> Written {
        put_json_string(out, self.0.value(row));
        Ok(())
    }
}

struct BytesCell<T>(T);

impl<'a, T: ArrayAccessor<Item = &'a [u8]>> Cell for BytesCell<T> {
    fn is_null(&self, row: usize) -> bool {
        self.0.is_null(row)
    }

    fn text(&self, row: usize, out: &mut Vec<u8>) -> Written {
        out.extend_from_slice(self.0.value(row));
        Ok(())
    }

    fn text_string(&self, row: usize, out: &mut Vec<u8>) -> Written {
        put_lenenc(out, self.0.value(row));
        Ok(())
    }

    /// JSON has no bytes: hexadecimal digits stand for them.
    fn json(&self, row: usize, out: &mut Vec<u8>) -> Written {
        out.push(b'"');
        for byte in self.0.value(row) {
            out.extend_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
        out.push(b'"');
        Ok(())
    }
}

fn hex_digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

struct DateCell<'a, A, F> {
    array: &'a A,
    at: F,
}

impl<A: Array, F: Fn(usize) -> Option<NaiveDate>> Cell for DateCell<'_, A, F> {
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn text(&self, row: usize, out: &mut Vec<u8>) -> Written {
        put_date(out, (self.at)(row).ok_or(CellError::DateRange)?);
        Ok(())
    }

    fn binary(&self, row: usize, out: &mut Vec<u8>) -> Written {
        let date = (self.at)(row).ok_or(CellError::DateRange)?;
        out.push(4);
        put_binary_date(out, date)
    }
}

/// A timestamp; in the zone, if it has one, that the session shows times in.
struct TimestampCell<'a, T: ArrowTimestampType>(&'a PrimitiveArray<T>, Option<Tz>);

impl<T: ArrowTimestampType> TimestampCell<'_, T> {
    fn at(&self, row: usize) -> Result<NaiveDateTime, CellError> {
        let moment = temporal::as_datetime::<T>(self.0.value(row)).ok_or(CellError::DateRange)?;
        match self.1 {
            // A moment at the very end of the calendar may have no local time.
            Some(zone) => {
                use chrono::Offset;
                let offset = zone.offset_from_utc_datetime(&moment).fix();
                Utc.from_utc_datetime(&moment).naive_utc().checked_add_offset(offset).ok_or(CellError::DateRange)
            }
            None => Ok(moment),
        }
    }
}

impl<T: ArrowTimestampType> Cell for TimestampCell<'_, T> {
    fn is_null(&self, row: usize) -> bool {
        Array::is_null(self.0, row)
    }

    fn text(&self, row: usize, out: &mut Vec<u8>) -> Written {
        let moment = self.at(row)?;
        put_date(out, moment.date());
        out.push(b' ');
        put_clock(out, moment.hour(), moment.minute(), moment.second());
        put_fraction(out, moment.nanosecond() / 1_000, T::UNIT);
        Ok(())
    }

    fn binary(&self, row: usize, out: &mut Vec<u8>) -> Written {
        let moment = self.at(row)?;
        let micros = moment.nanosecond() / 1_000;
        out.push(if micros != 0 { 11 } else { 7 });
        put_binary_date(out, moment.date())?;
        out.extend_from_slice(&[moment.hour() as u8, moment.minute() as u8, moment.second() as u8]);
        if micros != 0 {
            out.extend_from_slice(&micros.to_le_bytes());
        }
        Ok(())
    }
}

/// A time of day, or a length of time: MySQL's TIME is both, and may be negative and longer than a day.
struct TimeCell<'a, T: ArrowPrimitiveType>(&'a PrimitiveArray<T>, TimeUnit);

struct TimeParts {
    negative: bool,
    hours: u64,
    minute: u8,
    second: u8,
    micros: u32,
}

impl<T: ArrowPrimitiveType> TimeCell<'_, T>
where
    T::Native: Into<i64>,
{
    fn parts(&self, row: usize) -> TimeParts {
        let value: i64 = self.0.value(row).into();
        let (per_second, micros_per) = match self.1 {
            TimeUnit::Second => (1, 1_000_000),
            TimeUnit::Millisecond => (1_000, 1_000),
            TimeUnit::Microsecond => (1_000_000, 1),
            TimeUnit::Nanosecond => (1_000_000_000, 0),
        };
        let length = value.unsigned_abs();
        let (seconds, rest) = (length / per_second, length % per_second);
        let micros = if micros_per == 0 { rest / 1_000 } else { rest * micros_per };
        TimeParts {
            negative: value < 0,
            hours: seconds / 3600,
            minute: (seconds / 60 % 60) as u8,
            second: (seconds % 60) as u8,
            micros: micros as u32,
        }
    }
}

impl<T: ArrowPrimitiveType> Cell for TimeCell<'_, T>
where
    T::Native: Into<i64>,
{
    fn is_null(&self, row: usize) -> bool {
        Array::is_null(self.0, row)
    }

    fn text(&self, row: usize, out: &mut Vec<u8>) -> Written {
        let time = self.parts(row);
        if time.negative {
            out.push(b'-');
        }
        if time.hours > 99 {
            put_display(out, time.hours);
            out.push(b':');
            put_padded(out, u32::from(time.minute), 2);
            out.push(b':');
            put_padded(out, u32::from(time.second), 2);
        } else {
            put_clock(out, time.hours as u32, u32::from(time.minute), u32::from(time.second));
        }
        put_fraction(out, time.micros, self.1);
        Ok(())
    }

    fn binary(&self, row: usize, out: &mut Vec<u8>) -> Written {
        let time = self.parts(row);
        let days = u32::try_from(time.hours / 24).map_err(|_| CellError::DateRange)?;
        let hour = (time.hours % 24) as u8;
        if days == 0 && (hour, time.minute, time.second, time.micros) == (0, 0, 0, 0) {
            out.push(0);
            return Ok(());
        }
        out.push(if time.micros != 0 { 12 } else { 8 });
        out.push(u8::from(time.negative));
        out.extend_from_slice(&days.to_le_bytes());
        out.extend_from_slice(&[hour, time.minute, time.second]);
        if time.micros != 0 {
            out.extend_from_slice(&time.micros.to_le_bytes());
        }
        Ok(())
    }
}

/// A value that stands elsewhere: of a dictionary or of a run.
struct IndexedCell<'a> {
    values: Box<dyn Cell + 'a>,
    index: Box<dyn Fn(usize) -> Option<usize> + 'a>,
}

impl IndexedCell<'_> {
    fn with(&self, row: usize, write: impl FnOnce(&dyn Cell, usize) -> Written) -> Written {
        (self.index)(row).map_or(Ok(()), |at| write(self.values.as_ref(), at))
    }
}

impl Cell for IndexedCell<'_> {
    fn is_null(&self, row: usize) -> bool {
        (self.index)(row).is_none_or(|at| self.values.is_null(at))
    }

    fn text(&self, row: usize, out: &mut Vec<u8>) -> Written {
        self.with(row, |values, at| values.text(at, out))
    }

    fn text_string(&self, row: usize, out: &mut Vec<u8>) -> Written {
        self.with(row, |values, at| values.text_string(at, out))
    }

    fn binary(&self, row: usize, out: &mut Vec<u8>) -> Written {
        self.with(row, |values, at| values.binary(at, out))
    }

    fn json(&self, row: usize, out: &mut Vec<u8>) -> Written {
        self.with(row, |values, at| values.json(at, out))
    }
}

struct ListCell<'a> {
    nulls: Option<NullBuffer>,
    values: Box<dyn Cell + 'a>,
    range: Box<dyn Fn(usize) -> Range<usize> + 'a>,
}

impl Cell for ListCell<'_> {
    fn is_null(&self, row: usize) -> bool {
        null_at(&self.nulls, row)
    }

    fn text(&self, row: usize, out: &mut Vec<u8>) -> Written {
        out.push(b'[');
        for (i, at) in (self.range)(row).enumerate() {
            put_separator(out, i);
            put_json(self.values.as_ref(), at, out)?;
        }
        out.push(b']');
        Ok(())
    }

    fn json(&self, row: usize, out: &mut Vec<u8>) -> Written {
        self.text(row, out)
    }
}

struct StructCell<'a> {
    nulls: Option<NullBuffer>,
    fields: Vec<(&'a str, Box<dyn Cell + 'a>)>,
}

impl Cell for StructCell<'_> {
    fn is_null(&self, row: usize) -> bool {
        null_at(&self.nulls, row)
    }

    fn text(&self, row: usize, out: &mut Vec<u8>) -> Written {
        out.push(b'{');
        for (i, (name, value)) in self.fields.iter().enumerate() {
            put_separator(out, i);
            put_json_string(out, name);
            out.extend_from_slice(b": ");
            put_json(value.as_ref(), row, out)?;
        }
        out.push(b'}');
        Ok(())
    }

    fn json(&self, row: usize, out: &mut Vec<u8>) -> Written {
        self.text(row, out)
    }
}

struct MapCell<'a> {
    nulls: Option<NullBuffer>,
    keys: Box<dyn Cell + 'a>,
    values: Box<dyn Cell + 'a>,
    offsets: &'a [i32],
}

impl Cell for MapCell<'_> {
    fn is_null(&self, row: usize) -> bool {
        null_at(&self.nulls, row)
    }

    fn text(&self, row: usize, out: &mut Vec<u8>) -> Written {
        out.push(b'{');
        for (i, at) in (self.offsets[row] as usize..self.offsets[row + 1] as usize).enumerate() {
            put_separator(out, i);
            let mut key = Vec::new();
            self.keys.text(at, &mut key)?;
            put_json_string(out, &String::from_utf8_lossy(&key));
            out.extend_from_slice(b": ");
            put_json(self.values.as_ref(), at, out)?;
        }
        out.push(b'}');
        Ok(())
    }

    fn json(&self, row: usize, out: &mut Vec<u8>) -> Written {
        self.text(row, out)
    }
}

/// What has no MySQL form: intervals and unions, as Arrow shows them.
struct ShownCell<'a> {
    nulls: Option<NullBuffer>,
    shown: ArrayFormatter<'a>,
}

impl Cell for ShownCell<'_> {
    fn is_null(&self, row: usize) -> bool {
        null_at(&self.nulls, row)
    }

    fn text(&self, row: usize, out: &mut Vec<u8>) -> Written {
        out.extend_from_slice(self.shown.value(row).try_to_string()?.as_bytes());
        Ok(())
    }
}

fn null_at(nulls: &Option<NullBuffer>, row: usize) -> bool {
    nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
}

fn put_separator(out: &mut Vec<u8>, i: usize) {
    if i > 0 {
        out.extend_from_slice(b", ");
    }
}

fn put_json(value: &dyn Cell, row: usize, out: &mut Vec<u8>) -> Written {
    if value.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    value.json(row, out)
}

fn put_json_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string is JSON and a Vec takes every byte");
}

fn put_display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("a Vec takes every byte");
}

fn put_padded(out: &mut Vec<u8>, value: u32, width: usize) {
    write!(out, "{value:0width$}").expect("a Vec takes every byte");
}

/// The shortest digits that read back as the same number, with an exponent where zeros would fill the line.
fn put_float(out: &mut Vec<u8>, value: impl std::fmt::Display + std::fmt::LowerExp, magnitude: f64) {
    let magnitude = magnitude.abs();
    if magnitude == 0.0 || !magnitude.is_finite() || (1e-5..1e15).contains(&magnitude) {
        put_display(out, value);
    } else {
        write!(out, "{value:e}").expect("a Vec takes every byte");
    }
}

/// Puts the point into a decimal's digits. Not cut to the declared precision: a value that overflowed it must show.
fn put_decimal(out: &mut Vec<u8>, unscaled: &str, scale: i8) {
    let digits = unscaled.strip_prefix('-').unwrap_or(unscaled);
    if digits.len() < unscaled.len() {
        out.push(b'-');
    }
    if scale <= 0 {
        out.extend_from_slice(digits.as_bytes());
        let n_zeros = if digits == "0" { 0 } else { usize::from(scale.unsigned_abs()) };
        out.resize(out.len() + n_zeros, b'0');
        return;
    }
    let scale = usize::from(scale.unsigned_abs());
    let n_whole = digits.len().saturating_sub(scale);
    let (whole, fraction) = digits.split_at(n_whole);
    out.extend_from_slice(if whole.is_empty() { b"0" } else { whole.as_bytes() });
    out.push(b'.');
    out.resize(out.len() + scale - fraction.len(), b'0');
    out.extend_from_slice(fraction.as_bytes());
}

fn put_date(out: &mut Vec<u8>, date: NaiveDate) {
    if date.year() < 0 {
        out.push(b'-');
    }
    put_padded(out, date.year().unsigned_abs(), 4);
    out.push(b'-');
    put_padded(out, date.month(), 2);
    out.push(b'-');
    put_padded(out, date.day(), 2);
}

fn put_clock(out: &mut Vec<u8>, hour: u32, minute: u32, second: u32) {
    let digits = |value: u32| [b'0' + (value / 10 % 10) as u8, b'0' + (value % 10) as u8];
    let ([h1, h0], [m1, m0], [s1, s0]) = (digits(hour), digits(minute), digits(second));
    out.extend_from_slice(&[h1, h0, b':', m1, m0, b':', s1, s0]);
}

fn put_fraction(out: &mut Vec<u8>, micros: u32, unit: TimeUnit) {
    if micros == 0 {
        return;
    }
    out.push(b'.');
    match unit {
        TimeUnit::Second | TimeUnit::Millisecond => put_padded(out, micros / 1_000, 3),
        TimeUnit::Microsecond | TimeUnit::Nanosecond => put_padded(out, micros, 6),
    }
}

fn put_binary_date(out: &mut Vec<u8>, date: NaiveDate) -> Written {
    let year = u16::try_from(date.year()).map_err(|_| CellError::DateRange)?;
    out.extend_from_slice(&year.to_le_bytes());
    out.extend_from_slice(&[date.month() as u8, date.day() as u8]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Field, Schema, i256};

    use super::*;
    use crate::mysql::wire::{take_bytes, take_lenenc_int};

    fn encode(array: ArrayRef, row: usize, format: RowFormat) -> Result<Vec<u8>, ValueError> {
        let schema = Arc::new(Schema::new(vec![Field::new("c", array.data_type().clone(), true)]));
        let batch = RecordBatch::try_new(schema, vec![array]).unwrap();
        let mut buffer = PacketBuffer::default();
        let zone: Tz = "+02:00".parse().unwrap();
        BatchEncoder::new(&batch, format, zone)?.put_row(row, &mut buffer)?;
        Ok(buffer.as_bytes()[4..].to_vec())
    }

    /// Text of one value, None for NULL.
    fn text(array: impl Array + 'static, row: usize) -> Option<String> {
        let payload = encode(Arc::new(array), row, RowFormat::Text).unwrap();
        if payload == [NULL_TEXT] {
            return None;
        }
        let mut rest = payload.as_slice();
        let length = take_lenenc_int(&mut rest).unwrap() as usize;
        assert_eq!(rest.len(), length);
        Some(String::from_utf8(rest.to_vec()).unwrap())
    }

    /// Bytes of one value that is not NULL, in a binary row.
    fn binary(array: impl Array + 'static) -> Vec<u8> {
        let payload = encode(Arc::new(array), 0, RowFormat::Binary).unwrap();
        assert_eq!(payload[..2], [0, 0], "header and bitmap");
        payload[2..].to_vec()
    }

    fn check(array: impl Array + Clone + 'static, expected_text: &str, expected_binary: &[u8]) {
        assert_eq!(text(array.clone(), 0).as_deref(), Some(expected_text));
        assert_eq!(binary(array), expected_binary, "{expected_text}");
    }

    /// As [`check`], for types whose binary form is their text.
    fn check_text(array: impl Array + Clone + 'static, expected: &str) {
        let mut string = Vec::new();
        put_lenenc(&mut string, expected.as_bytes());
        check(array, expected, &string);
    }

    #[test]
    fn integers() {
        check(BooleanArray::from(vec![true]), "1", &[1]);
        check(Int8Array::from(vec![-1]), "-1", &[255]);
        check(Int16Array::from(vec![-2]), "-2", &[254, 255]);
        check(Int32Array::from(vec![i32::MIN]), "-2147483648", &[0, 0, 0, 128]);
        check(Int64Array::from(vec![i64::MIN]), "-9223372036854775808", &i64::MIN.to_le_bytes());
        check(UInt8Array::from(vec![255]), "255", &[255]);
        check(UInt16Array::from(vec![65535]), "65535", &[255, 255]);
        check(UInt32Array::from(vec![1 << 31]), "2147483648", &[0, 0, 0, 128]);
        check(UInt64Array::from(vec![u64::MAX]), "18446744073709551615", &[255; 8]);
    }

    #[test]
    fn floats() {
        for (value, shown) in [
            (0.1, "0.1"),
            (-0.0, "-0"),
            (1e15, "1e15"),
            (123456789012345.6, "123456789012345.6"),
            (1e-5, "0.00001"),
            (1.5e-7, "1.5e-7"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            check(Float64Array::from(vec![value]), shown, &value.to_le_bytes());
        }
        check(Float32Array::from(vec![0.1]), "0.1", &0.1f32.to_le_bytes());
    }

    #[test]
    fn decimals() {
        for (unscaled, scale, shown) in
            [(12345, 2, "123.45"), (-5, 2, "-0.05"), (0, 2, "0.00"), (7, 0, "7"), (7, -2, "700"), (0, -2, "0")]
        {
            let array = Decimal128Array::from(vec![unscaled]).with_precision_and_scale(38, scale).unwrap();
            check_text(array, shown);
        }
        let wide = i256::from_string("123456789012345678901234567890123456789012345").unwrap();
        let array = Decimal256Array::from(vec![wide]).with_precision_and_scale(76, 5).unwrap();
        check_text(array, "1234567890123456789012345678901234567890.12345");
        check_text(Decimal32Array::from(vec![-15]).with_precision_and_scale(9, 1).unwrap(), "-1.5");
    }

    #[test]
    fn strings_and_bytes() {
        check_text(StringArray::from(vec!["naïve"]), "naïve");
        check_text(LargeStringArray::from(vec![""]), "");
        check_text(StringViewArray::from(vec!["longer than twelve bytes"]), "longer than twelve bytes");
        check_text(StringArray::from(vec!["x".repeat(300)]), &"x".repeat(300));
        check_text(BinaryArray::from(vec![b"ab".as_slice()]), "ab");
        check_text(BinaryViewArray::from(vec![b"ab".as_slice()]), "ab");
        check_text(FixedSizeBinaryArray::try_from_iter([b"abc"].into_iter()).unwrap(), "abc");
        assert_eq!(binary(BinaryArray::from(vec![[0u8, 255].as_slice()])), [2, 0, 255]);
    }

    #[test]
    fn dates_and_timestamps() {
        check(Date32Array::from(vec![10_000]), "1997-05-19", &[4, 0xCD, 0x07, 5, 19]);
        check(Date64Array::from(vec![864_000_000_000]), "1997-05-19", &[4, 0xCD, 0x07, 5, 19]);
        check(Date32Array::from(vec![-1]), "1969-12-31", &[4, 0xB1, 0x07, 12, 31]);
        check(TimestampSecondArray::from(vec![61]), "1970-01-01 00:01:01", &[7, 0xB2, 0x07, 1, 1, 0, 1, 1]);
        check(
            TimestampMillisecondArray::from(vec![1_500]),
            "1970-01-01 00:00:01.500",
            &[11, 0xB2, 0x07, 1, 1, 0, 0, 1, 0x20, 0xA1, 0x07, 0],
        );
        check(
            TimestampNanosecondArray::from(vec![-1]),
            "1969-12-31 23:59:59.999999",
            &[11, 0xB1, 0x07, 12, 31, 23, 59, 59, 0x3F, 0x42, 0x0F, 0],
        );
        let zoned = TimestampMicrosecondArray::from(vec![0]).with_timezone("America/New_York");
        check(zoned, "1970-01-01 02:00:00", &[7, 0xB2, 0x07, 1, 1, 2, 0, 0]);
    }

    #[test]
    fn what_the_protocol_cannot_say_is_an_error() {
        let before_christ = || Arc::new(Date32Array::from(vec![-800_000]));
        assert_eq!(text(Date32Array::from(vec![-800_000]), 0).as_deref(), Some("-0221-09-04"));
        let error = encode(before_christ(), 0, RowFormat::Binary).unwrap_err();
        assert!(matches!(error, ValueError::DateRange { column: 1 }), "{error}");
        assert_eq!(error.code(), ErrorCode::OutOfRange);
        let never = Arc::new(TimestampSecondArray::from(vec![i64::MAX]));
        assert!(encode(never, 0, RowFormat::Text).is_err());
    }

    #[test]
    fn times() {
        check(Time32SecondArray::from(vec![3_661]), "01:01:01", &[8, 0, 0, 0, 0, 0, 1, 1, 1]);
        check(Time32MillisecondArray::from(vec![0]), "00:00:00", &[0]);
        check(Time64MicrosecondArray::from(vec![1]), "00:00:00.000001", &[12, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        check(Time64NanosecondArray::from(vec![1_000_000_000]), "00:00:01", &[8, 0, 0, 0, 0, 0, 0, 0, 1]);
        check(DurationSecondArray::from(vec![-90_000]), "-25:00:00", &[8, 1, 1, 0, 0, 0, 1, 0, 0]);
        check(
            DurationMillisecondArray::from(vec![360_000_250]),
            "100:00:00.250",
            &[12, 0, 4, 0, 0, 0, 4, 0, 0, 0x90, 0xD0, 0x03, 0],
        );
    }

    #[test]
    fn intervals_are_text() {
        let month_day = IntervalMonthDayNanoType::make_value(1, 2, 3_000_000_000);
        let shown = text(IntervalMonthDayNanoArray::from(vec![month_day]), 0).unwrap();
        assert_eq!(shown, "1 mons 2 days 3.000000000 secs");
    }

    #[test]
    fn nested_values_are_json() {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
        assert_eq!(text(lists.clone(), 0).as_deref(), Some("[1, null]"));
        assert_eq!(text(lists.clone(), 1), None);
        assert_eq!(text(lists.clone(), 2).as_deref(), Some("[]"));
        assert_eq!(text(lists.slice(2, 1), 0).as_deref(), Some("[]"));

        let names: ArrayRef = Arc::new(StringArray::from(vec![Some("a \"b\"\n"), None]));
        let sums: ArrayRef = Arc::new(Float64Array::from(vec![1.5, f64::NAN]));
        let fields = [("name", names), ("sum", sums)]
            .map(|(name, array)| (Arc::new(Field::new(name, array.data_type().clone(), true)), array));
        let structs = StructArray::from(fields.to_vec());
        assert_eq!(text(structs.clone(), 0).as_deref(), Some(r#"{"name": "a \"b\"\n", "sum": 1.5}"#));
        assert_eq!(text(structs.clone(), 1).as_deref(), Some(r#"{"name": null, "sum": "NaN"}"#));

        let field = Arc::new(Field::new("item", structs.data_type().clone(), true));
        let outer = ListArray::new(field, OffsetBuffer::new(vec![0, 0, 2].into()), Arc::new(structs), None);
        let shown = text(outer, 1).unwrap();
        assert!(shown.starts_with(r#"[{"name": "a"#) && shown.ends_with(r#""NaN"}]"#), "{shown}");

        let fixed = FixedSizeListArray::from_iter_primitive::<Int8Type, _, _>(
            [Some(vec![Some(1), Some(2)]), Some(vec![Some(3), Some(4)])],
            2,
        );
        assert_eq!(text(fixed.slice(1, 1), 0).as_deref(), Some("[3, 4]"));

        let mut maps = MapBuilder::new(None, StringBuilder::new(), BinaryBuilder::new());
        maps.keys().append_value("k");
        maps.values().append_value([0, 171]);
        maps.append(true).unwrap();
        assert_eq!(text(maps.finish(), 0).as_deref(), Some(r#"{"k": "00ab"}"#));
    }

    #[test]
    fn dictionaries_and_runs_are_shown_by_value() {
        let words: DictionaryArray<Int8Type> = [Some("x"), None, Some("y")].into_iter().collect();
        assert_eq!(text(words.clone(), 2).as_deref(), Some("y"));
        assert_eq!(text(words, 1), None);
        let empty: DictionaryArray<Int8Type> = [None::<&str>].into_iter().collect();
        assert_eq!(text(empty, 0), None);
        let numbers = DictionaryArray::new(Int8Array::from(vec![1]), Arc::new(Int16Array::from(vec![7, 8])));
        check(numbers, "8", &[8, 0]);
        let runs = RunArray::try_new(&Int32Array::from(vec![2, 3]), &Int64Array::from(vec![Some(5), None])).unwrap();
        assert_eq!(text(runs.clone(), 1).as_deref(), Some("5"));
        assert_eq!(text(runs, 2), None);
    }

    #[test]
    fn nulls() {
        assert_eq!(text(NullArray::new(1), 0), None);
        let payload = encode(Arc::new(Int64Array::from(vec![None])), 0, RowFormat::Binary).unwrap();
        assert_eq!(payload, [0, 0b100]);
        let columns: Vec<ArrayRef> =
            (0..9).map(|_| Arc::new(Int8Array::from(vec![None, Some(1)])) as ArrayRef).collect();
        let fields: Vec<Field> = (0..9).map(|i| Field::new(i.to_string(), DataType::Int8, true)).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let mut buffer = PacketBuffer::default();
        let encoder = BatchEncoder::new(&batch, RowFormat::Binary, "UTC".parse().unwrap()).unwrap();
        encoder.put_row(0, &mut buffer).unwrap();
        encoder.put_row(1, &mut buffer).unwrap();
        let mut rest = buffer.as_bytes();
        assert_eq!(take_bytes(&mut rest, 7).unwrap()[4..], [0, 0b1111_1100, 0b111]);
        assert_eq!(rest[4..], [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    }
}
