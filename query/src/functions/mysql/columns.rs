//! The arguments of a call as columns of one kind, converted as MySQL converts them, and columns of results.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray, Date32Array, DurationMicrosecondArray,
    Float64Array, Int64Array, StringArray, StringBuilder, TimestampMicrosecondArray, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, DurationMicrosecondType, Float64Type, Int64Type, Time64MicrosecondType,
    TimeUnit, TimestampMicrosecondType, UInt64Type,
};
use arrow::temporal_conversions::MICROSECONDS_IN_DAY;
use chrono::{Offset, TimeZone};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs};
use sheaf_common::ErrorCode;
use sheaf_planners::warnings::{QueryWarnings, Truncations};

use super::moments::{self, Parsed};
use super::numerals;

/// The longest text that a function may make, as MySQL's `max_allowed_packet`; longer ones are NULL.
pub(super) const TEXT_BYTES_MAX: usize = 64 << 20;
/// What one batch of results may come to. An Arrow column of texts ends at 2 GiB.
const BATCH_BYTES_MAX: usize = 512 << 20;

/// Of a text in a warning.
const WARNING_CHARS_MAX: usize = 64;

/// One call: its arguments for a batch of rows.
pub(super) struct Call<'a> {
    args: &'a ScalarFunctionArgs,
    /// A constant has one row.
    arrays: Vec<ArrayRef>,
    pub n_rows: usize,
    n_zero_divisors: std::cell::Cell<usize>,
    truncations: std::cell::RefCell<Truncations>,
}

/// A column of one kind. The value of a constant is that of every row.
pub(super) struct Column<A> {
    values: A,
    is_constant: bool,
}

impl<A> Column<A> {
    fn at(&self, row: usize) -> usize {
        if self.is_constant { 0 } else { row }
    }
}

impl Column<StringArray> {
    pub fn get(&self, row: usize) -> Option<&str> {
        let at = self.at(row);
        self.values.is_valid(at).then(|| self.values.value(at))
    }
}

impl Column<BinaryArray> {
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        let at = self.at(row);
        self.values.is_valid(at).then(|| self.values.value(at))
    }
}

impl Column<BooleanArray> {
    pub fn get(&self, row: usize) -> Option<bool> {
        let at = self.at(row);
        self.values.is_valid(at).then(|| self.values.value(at))
    }
}

impl<T: arrow::array::ArrowPrimitiveType> Column<arrow::array::PrimitiveArray<T>> {
    pub fn get(&self, row: usize) -> Option<T::Native> {
        let at = self.at(row);
        self.values.is_valid(at).then(|| self.values.value(at))
    }
}

/// Moments, and which of them had a time of day.
pub(super) struct Moments {
    values: Vec<Option<Parsed>>,
    is_constant: bool,
}

impl Moments {
    pub fn parsed(&self, row: usize) -> Option<Parsed> {
        self.values[if self.is_constant { 0 } else { row }]
    }

    pub fn get(&self, row: usize) -> Option<i64> {
        self.parsed(row).map(|it| it.moment)
    }

    pub fn datetime(&self, row: usize) -> Option<chrono::NaiveDateTime> {
        moments::datetime(self.get(row)?)
    }
}

pub(super) type Texts = Column<StringArray>;
pub(super) type Bytes = Column<BinaryArray>;
pub(super) type Ints = Column<Int64Array>;
pub(super) type UInts = Column<UInt64Array>;
pub(super) type Floats = Column<Float64Array>;
pub(super) type Spans = Column<DurationMicrosecondArray>;

impl<'a> Call<'a> {
    pub fn new(args: &'a ScalarFunctionArgs, n_rows: usize) -> Result<Self> {
        let array = |value: &ColumnarValue| match value {
            ColumnarValue::Array(array) => Ok(plain(array)?),
            ColumnarValue::Scalar(scalar) => plain(&scalar.to_array()?),
        };
        let arrays = args.args.iter().map(array).collect::<Result<Vec<_>>>()?;
        Ok(Self { args, arrays, n_rows, n_zero_divisors: std::cell::Cell::new(0), truncations: Default::default() })
    }

    pub fn n_arguments(&self) -> usize {
        self.arrays.len()
    }

    pub fn data_type(&self, idx: usize) -> &DataType {
        self.arrays.get(idx).map_or(&DataType::Null, |it| it.data_type())
    }

    /// The argument's field, which tells a JSON value from a text.
    pub fn field(&self, idx: usize) -> &arrow::datatypes::Field {
        &self.args.arg_fields[idx]
    }

    pub fn return_type(&self) -> &DataType {
        self.args.return_field.data_type()
    }

    /// The argument as it is, of as many rows as the call has.
    pub fn whole(&self, idx: usize) -> Result<ArrayRef> {
        let array = &self.arrays[idx];
        if self.is_constant(idx) && self.n_rows != 1 {
            let ColumnarValue::Scalar(scalar) = &self.args.args[idx] else { return Ok(Arc::clone(array)) };
            return plain(&scalar.to_array_of_size(self.n_rows)?);
        }
        Ok(Arc::clone(array))
    }

    /// One row of the argument as it is.
    pub fn is_null(&self, idx: usize, row: usize) -> bool {
        let array = &self.arrays[idx];
        let row = if self.is_constant(idx) { 0 } else { row };
        *array.data_type() == DataType::Null || array.is_null(row)
    }

    pub fn is_constant(&self, idx: usize) -> bool {
        matches!(self.args.args.get(idx), Some(ColumnarValue::Scalar(_)))
    }

    fn column<A>(&self, idx: usize, convert: impl FnOnce(&ArrayRef) -> Result<A>) -> Result<Column<A>> {
        match self.arrays.get(idx) {
            Some(array) => Ok(Column { values: convert(array)?, is_constant: self.is_constant(idx) }),
            // An argument that was left out is NULL everywhere.
            None => {
                let null = arrow::array::new_null_array(&DataType::Null, 1);
                Ok(Column { values: convert(&null)?, is_constant: true })
            }
        }
    }

    pub fn text(&self, idx: usize) -> Result<Texts> {
        self.column(idx, |array| texts(array, self.zone()?))
    }

    pub fn bytes(&self, idx: usize) -> Result<Bytes> {
        self.column(idx, |array| match array.data_type() {
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Ok(cast(array, &DataType::Binary)?.as_binary::<i32>().clone())
            }
            _ => Ok(texts(array, self.zone()?)?.iter().map(|it| it.map(str::as_bytes)).collect()),
        })
    }

    pub fn int(&self, idx: usize) -> Result<Ints> {
        self.column(idx, |array| ints(array, self.zone()?))
    }

    pub fn uint(&self, idx: usize) -> Result<UInts> {
        self.column(idx, |array| match array.data_type() {
            DataType::UInt64 => Ok(array.as_primitive::<UInt64Type>().clone()),
            DataType::Float64 | DataType::Float32 | DataType::Decimal128(..) | DataType::Decimal256(..) => {
                let floats = floats(array, self.zone()?)?;
                Ok(floats.iter().map(|it| it.map(|it| numerals::bits_of_float(it.round()))).collect())
            }
            DataType::Utf8 => {
                let texts = array.as_string::<i32>();
                Ok(texts.iter().map(|it| it.map(numerals::bits_of_text)).collect())
            }
            _ => Ok(ints(array, self.zone()?)?.iter().map(|it| it.map(i64::cast_unsigned)).collect()),
        })
    }

    pub fn float(&self, idx: usize) -> Result<Floats> {
        self.column(idx, |array| floats(array, self.zone()?))
    }

    /// Whether each row is true: neither zero nor NULL.
    pub fn truth(&self, idx: usize) -> Result<Column<BooleanArray>> {
        self.column(idx, |array| match array.data_type() {
            DataType::Boolean => Ok(array.as_boolean().clone()),
            _ => Ok(floats(array, self.zone()?)?.iter().map(|it| it.map(|it| it != 0.0)).collect()),
        })
    }

    pub fn moment(&self, idx: usize) -> Result<Moments> {
        let zone = self.zone()?;
        let column = self.column(idx, |array| moments_of(array, zone))?;
        Ok(Moments { values: column.values, is_constant: column.is_constant })
    }

    pub fn span(&self, idx: usize) -> Result<Spans> {
        self.column(idx, |array| spans(array, self.zone()?))
    }

    /// The session's time zone.
    pub fn zone(&self) -> Result<Tz> {
        let name = self.args.config_options.execution.time_zone.as_deref().unwrap_or("+00:00");
        Ok(name.parse()?)
    }

    /// Notes a division by zero, which the query warns of.
    pub fn divided_by_zero(&self) {
        self.n_zero_divisors.set(self.n_zero_divisors.get() + 1);
    }

    /// Warns of each text among the argument's values that is not whole: `what` is said before it.
    pub fn warn_of_texts(&self, idx: usize, what: &str, is_whole: impl Fn(&str) -> bool) {
        let Some(texts) = self.arrays[idx].as_string_opt::<i32>() else { return };
        let mut truncations = self.truncations.borrow_mut();
        for text in texts.iter().flatten().filter(|it| !is_whole(it)) {
            truncations.add(|| match text.char_indices().nth(WARNING_CHARS_MAX) {
                Some((end, _)) => format!("{what}: '{}…'", &text[..end]),
                None => format!("{what}: '{text}'"),
            });
        }
    }

    /// Passes the divisions by zero and what else there is to warn of on to the query; `n_rows` is how often a constant
    /// stands.
    pub fn report(&self, n_rows: usize) {
        let Some(warnings) = self.args.config_options.extensions.get::<QueryWarnings>() else { return };
        let n_zeros = self.n_zero_divisors.get();
        if n_zeros > 0 {
            let times = if self.n_rows == 1 { n_rows.max(1) } else { 1 };
            warnings.add((n_zeros * times) as u64);
        }
        warnings.truncate(&self.truncations.borrow());
    }

    // Columns of results: each asks for the value of a row.

    pub fn texts_of(&self, mut value: impl FnMut(usize) -> Option<String>) -> Result<ArrayRef> {
        let mut builder = StringBuilder::with_capacity(self.n_rows, self.n_rows * 8);
        let mut n_bytes = 0usize;
        for row in 0..self.n_rows {
            let text = value(row).filter(|it| it.len() <= TEXT_BYTES_MAX);
            n_bytes += text.as_ref().map_or(0, String::len);
            if n_bytes > BATCH_BYTES_MAX {
                return too_large();
            }
            builder.append_option(text);
        }
        Ok(Arc::new(builder.finish()))
    }

    pub fn bytes_of(&self, mut value: impl FnMut(usize) -> Option<Vec<u8>>) -> Result<ArrayRef> {
        let mut builder = BinaryBuilder::with_capacity(self.n_rows, self.n_rows * 8);
        let mut n_bytes = 0usize;
        for row in 0..self.n_rows {
            let bytes = value(row).filter(|it| it.len() <= TEXT_BYTES_MAX);
            n_bytes += bytes.as_ref().map_or(0, Vec::len);
            if n_bytes > BATCH_BYTES_MAX {
                return too_large();
            }
            builder.append_option(bytes);
        }
        Ok(Arc::new(builder.finish()))
    }

    pub fn ints_of(&self, value: impl FnMut(usize) -> Option<i64>) -> Result<ArrayRef> {
        Ok(Arc::new((0..self.n_rows).map(value).collect::<Int64Array>()))
    }

    pub fn uints_of(&self, value: impl FnMut(usize) -> Option<u64>) -> Result<ArrayRef> {
        Ok(Arc::new((0..self.n_rows).map(value).collect::<UInt64Array>()))
    }

    pub fn bools_of(&self, value: impl FnMut(usize) -> Option<bool>) -> Result<ArrayRef> {
        Ok(Arc::new((0..self.n_rows).map(value).collect::<BooleanArray>()))
    }

    /// What is not finite is NULL, as MySQL has no such numbers.
    pub fn floats_of(&self, mut value: impl FnMut(usize) -> Option<f64>) -> Result<ArrayRef> {
        let finite = |row| value(row).filter(|it| it.is_finite());
        Ok(Arc::new((0..self.n_rows).map(finite).collect::<Float64Array>()))
    }

    pub fn moments_of(&self, value: impl FnMut(usize) -> Option<i64>) -> Result<ArrayRef> {
        Ok(Arc::new((0..self.n_rows).map(value).collect::<TimestampMicrosecondArray>()))
    }

    pub fn spans_of(&self, mut value: impl FnMut(usize) -> Option<i64>) -> Result<ArrayRef> {
        let clamped = |row| value(row).map(|it| it.clamp(-moments::SPAN_MAX, moments::SPAN_MAX));
        Ok(Arc::new((0..self.n_rows).map(clamped).collect::<DurationMicrosecondArray>()))
    }

    pub fn dates_of(&self, mut value: impl FnMut(usize) -> Option<chrono::NaiveDate>) -> Result<ArrayRef> {
        let days = |row| value(row).map(Date32Type::from_naive_date);
        Ok(Arc::new((0..self.n_rows).map(days).collect::<Date32Array>()))
    }
}

fn too_large<T>() -> Result<T> {
    let text = format!("a function's texts for one batch of rows come to more than {} MiB", BATCH_BYTES_MAX >> 20);
    super::refused(ErrorCode::OutOfRange, text)
}

/// Without dictionaries, views and run ends, whose values count alone.
fn plain(array: &ArrayRef) -> Result<ArrayRef> {
    let target = match array.data_type() {
        DataType::Dictionary(_, value) => plain_type(value),
        DataType::RunEndEncoded(_, values) => plain_type(values.data_type()),
        other => plain_type(other),
    };
    if target == *array.data_type() { Ok(Arc::clone(array)) } else { Ok(cast(array, &target)?) }
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        other => other.clone(),
    }
}

/// Values as MySQL writes them where a text is wanted.
fn texts(array: &ArrayRef, zone: Tz) -> Result<StringArray> {
    Ok(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().clone(),
        DataType::Boolean => array.as_boolean().iter().map(|it| it.map(|it| if it { "1" } else { "0" })).collect(),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            let is_single = *array.data_type() != DataType::Float64;
            let floats = cast(array, &DataType::Float64)?;
            let write = |it: f64| match is_single {
                true => numerals::float_text(it as f32, it),
                false => numerals::float_text(it, it),
            };
            floats.as_primitive::<Float64Type>().iter().map(|it| it.map(write)).collect()
        }
        DataType::Date32 | DataType::Date64 => {
            cast(&cast(array, &DataType::Date32)?, &DataType::Utf8)?.as_string::<i32>().clone()
        }
        DataType::Timestamp(..) => {
            let moments = moments_of(array, zone)?;
            moments.into_iter().map(|it| moments::moment_text(it?.moment)).collect()
        }
        DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) => {
            spans(array, zone)?.iter().map(|it| it.map(moments::span_text)).collect()
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            let bytes = cast(array, &DataType::Binary)?;
            let bytes = bytes.as_binary::<i32>();
            bytes.iter().map(|it| it.map(|it| String::from_utf8_lossy(it).into_owned())).collect()
        }
        data_type if data_type.is_numeric() || *data_type == DataType::Null => {
            cast(array, &DataType::Utf8)?.as_string::<i32>().clone()
        }
        _ => {
            let shown = |row| match array.is_null(row) {
                true => Ok(None),
                false => arrow::util::display::array_value_to_string(array, row).map(Some),
            };
            (0..array.len()).map(shown).collect::<std::result::Result<StringArray, _>>()?
        }
    })
}

/// Values where a double is wanted: the number that a text begins with, dates as `20240305`.
fn floats(array: &ArrayRef, zone: Tz) -> Result<Float64Array> {
    Ok(match array.data_type() {
        DataType::Float64 => array.as_primitive::<Float64Type>().clone(),
        DataType::Boolean => array.as_boolean().iter().map(|it| it.map(|it| f64::from(u8::from(it)))).collect(),
        data_type if data_type.is_numeric() || *data_type == DataType::Null => {
            cast(array, &DataType::Float64)?.as_primitive::<Float64Type>().clone()
        }
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            let is_date = matches!(array.data_type(), DataType::Date32 | DataType::Date64);
            let number = |it: Parsed| {
                let number = moments::moment_number(it.moment)?;
                let fraction = it.moment.rem_euclid(moments::SECOND) as f64 / 1e6;
                Some(if is_date { (number / 1_000_000) as f64 } else { number as f64 + fraction })
            };
            moments_of(array, zone)?.into_iter().map(|it| it.and_then(number)).collect()
        }
        DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) => {
            let number = |it: i64| moments::span_number(it) as f64 + (it % moments::SECOND) as f64 / 1e6;
            spans(array, zone)?.iter().map(|it| it.map(number)).collect()
        }
        _ => texts(array, zone)?.iter().map(|it| it.map(numerals::float_of_text)).collect(),
    })
}

/// Values where a whole number is wanted: fractions are rounded, of a text its first digits count.
fn ints(array: &ArrayRef, zone: Tz) -> Result<Int64Array> {
    Ok(match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().clone(),
        DataType::UInt64 => {
            let values = array.as_primitive::<UInt64Type>();
            values.iter().map(|it| it.map(|it| i64::try_from(it).unwrap_or(i64::MAX))).collect()
        }
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::Null => cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone(),
        DataType::Boolean => array.as_boolean().iter().map(|it| it.map(i64::from)).collect(),
        DataType::Decimal128(_, scale) if (0..=38).contains(scale) => {
            let unit = 10i128.pow(u32::from(scale.unsigned_abs()));
            let values = array.as_primitive::<Decimal128Type>();
            values.iter().map(|it| it.map(|it| numerals::to_int(numerals::div_rounded(it, unit)))).collect()
        }
        DataType::Date32
        | DataType::Date64
        | DataType::Timestamp(..)
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Duration(_) => {
            floats(array, zone)?.iter().map(|it| it.map(|it| numerals::int_of_float(it.round()))).collect()
        }
        data_type if data_type.is_numeric() => {
            floats(array, zone)?.iter().map(|it| it.map(|it| numerals::int_of_float(it.round_ties_even()))).collect()
        }
        _ => texts(array, zone)?.iter().map(|it| it.map(numerals::int_of_text)).collect(),
    })
}

fn moments_of(array: &ArrayRef, zone: Tz) -> Result<Vec<Option<Parsed>>> {
    let at = |moment: i64, has_time: bool| Parsed { moment, has_time };
    Ok(match array.data_type() {
        DataType::Date32 | DataType::Date64 => {
            let days = cast(array, &DataType::Date32)?;
            let moment = |days: i32| Some(at(i64::from(days).checked_mul(MICROSECONDS_IN_DAY)?, false));
            days.as_primitive::<Date32Type>().iter().map(|it| it.and_then(moment)).collect()
        }
        DataType::Timestamp(_, has_zone) => {
            let naive = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, has_zone.clone()))?;
            let values = naive.as_primitive::<TimestampMicrosecondType>();
            let local = |it: i64| if has_zone.is_some() { local_moment(it, zone) } else { Some(it) };
            values.iter().map(|it| it.and_then(local).map(|it| at(it, true))).collect()
        }
        DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) | DataType::Null | DataType::Boolean => {
            vec![None; array.len()]
        }
        data_type if data_type.is_numeric() => {
            ints(array, zone)?.iter().map(|it| it.and_then(moments::moment_of_number)).collect()
        }
        _ => texts(array, zone)?.iter().map(|it| it.and_then(moments::parse_moment)).collect(),
    })
}

/// An instant as the clocks of a zone show it.
pub(super) fn local_moment(instant: i64, zone: Tz) -> Option<i64> {
    let utc = moments::datetime(instant)?;
    let offset = zone.offset_from_utc_datetime(&utc).fix().local_minus_utc();
    instant.checked_add(i64::from(offset).checked_mul(moments::SECOND)?)
}

fn spans(array: &ArrayRef, zone: Tz) -> Result<DurationMicrosecondArray> {
    Ok(match array.data_type() {
        DataType::Duration(_) => {
            let micros = cast(array, &DataType::Duration(TimeUnit::Microsecond))?;
            micros.as_primitive::<DurationMicrosecondType>().clone()
        }
        DataType::Time32(_) | DataType::Time64(_) => {
            let micros = cast(array, &DataType::Time64(TimeUnit::Microsecond))?;
            micros.as_primitive::<Time64MicrosecondType>().iter().collect()
        }
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            let moments = moments_of(array, zone)?;
            moments.into_iter().map(|it| it.map(|it| it.moment.rem_euclid(moments::DAY))).collect()
        }
        DataType::Null | DataType::Boolean => std::iter::repeat_n(None::<i64>, array.len()).collect(),
        data_type if data_type.is_numeric() => {
            let span = |it: f64| {
                let whole = moments::span_of_number(numerals::int_of_float(it.trunc()))?;
                whole.checked_add((it.fract() * 1e6).round() as i64)
            };
            floats(array, zone)?.iter().map(|it| it.and_then(span)).collect()
        }
        _ => texts(array, zone)?.iter().map(|it| it.and_then(moments::parse_span)).collect(),
    })
}
