//! The chapter of numeric functions, and the functions of bits.

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array};
use arrow::datatypes::{DataType, Decimal128Type};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sheaf_common::ErrorCode;
use std::sync::Arc;

use super::columns::Call;
use super::{Arguments, Chapter, Definition, Returns, numerals, refused};

const NUMERIC: Chapter = Chapter::Numeric;

pub(super) const FUNCTIONS: &[Definition] = &[
    Definition::new(NUMERIC, "abs", 1..=1, Returns::By(number_type), abs),
    Definition::new(NUMERIC, "acos", 1..=1, Returns::Float, |c| float(c, f64::acos)),
    Definition::new(NUMERIC, "asin", 1..=1, Returns::Float, |c| float(c, f64::asin)),
    Definition::new(NUMERIC, "atan", 1..=2, Returns::Float, atan),
    Definition::new(NUMERIC, "atan2", 1..=2, Returns::Float, atan),
    Definition::new(NUMERIC, "ceil", 1..=1, Returns::By(whole_type), |c| whole(c, f64::ceil, 1)),
    Definition::new(NUMERIC, "ceiling", 1..=1, Returns::By(whole_type), |c| whole(c, f64::ceil, 1)),
    Definition::new(NUMERIC, "conv", 3..=3, Returns::Text, |c| {
        let (text, from, to) = (c.text(0)?, c.int(1)?, c.int(2)?);
        c.texts_of(|row| numerals::convert_base(text.get(row)?, from.get(row)?, to.get(row)?))
    }),
    Definition::new(NUMERIC, "cos", 1..=1, Returns::Float, |c| float(c, f64::cos)),
    Definition::new(NUMERIC, "cot", 1..=1, Returns::Float, |c| {
        let x = c.float(0)?;
        c.floats_of(|row| Some(1.0 / x.get(row)?.tan()))
    }),
    Definition::new(NUMERIC, "crc32", 1..=1, Returns::UInt, |c| {
        let x = c.bytes(0)?;
        c.uints_of(|row| Some(u64::from(crc32fast::hash(x.get(row)?))))
    }),
    Definition::new(NUMERIC, "degrees", 1..=1, Returns::Float, |c| float(c, f64::to_degrees)),
    Definition::new(NUMERIC, "exp", 1..=1, Returns::Float, exp),
    Definition::new(NUMERIC, "floor", 1..=1, Returns::By(whole_type), |c| whole(c, f64::floor, -1)),
    Definition::new(NUMERIC, "ln", 1..=1, Returns::Float, |c| logarithm(c, f64::ln)),
    Definition::new(NUMERIC, "log", 1..=2, Returns::Float, log),
    Definition::new(NUMERIC, "log10", 1..=1, Returns::Float, |c| logarithm(c, f64::log10)),
    Definition::new(NUMERIC, "log2", 1..=1, Returns::Float, |c| logarithm(c, f64::log2)),
    Definition::new(NUMERIC, "pi", 0..=0, Returns::Float, |c| c.floats_of(|_| Some(std::f64::consts::PI))),
    Definition::new(NUMERIC, "pow", 2..=2, Returns::Float, power),
    Definition::new(NUMERIC, "power", 2..=2, Returns::Float, power),
    Definition::new(NUMERIC, "radians", 1..=1, Returns::Float, |c| float(c, f64::to_radians)),
    // A constant seed gives each row the same number: MySQL goes on from row to row, in an order that a distributed
    // query does not have.
    Definition::new(NUMERIC, "rand", 0..=1, Returns::Float, random).volatile(),
    Definition::new(NUMERIC, "round", 1..=2, Returns::By(rounded_type), |c| {
        cut(c, numerals::round_float, numerals::div_rounded)
    }),
    Definition::new(NUMERIC, "sign", 1..=1, Returns::Int, |c| {
        let x = c.float(0)?;
        c.ints_of(|row| x.get(row).map(|it| if it == 0.0 { 0 } else { it.signum() as i64 }))
    }),
    Definition::new(NUMERIC, "sin", 1..=1, Returns::Float, |c| float(c, f64::sin)),
    Definition::new(NUMERIC, "sqrt", 1..=1, Returns::Float, |c| float(c, f64::sqrt)),
    Definition::new(NUMERIC, "tan", 1..=1, Returns::Float, |c| float(c, f64::tan)),
    Definition::new(NUMERIC, "truncate", 2..=2, Returns::By(rounded_type), |c| {
        cut(c, numerals::truncate_float, |value, unit| value / unit)
    }),
    Definition::new(Chapter::Bit, "bit_count", 1..=1, Returns::Int, |c| {
        let x = c.uint(0)?;
        c.ints_of(|row| x.get(row).map(|it| i64::from(it.count_ones())))
    }),
    // What an aggregate of numbers takes: numbers as they are, all else converted.
    Definition::new(NUMERIC, "op.number", 1..=1, Returns::By(number_type), number)
        .simplified(|args, types| (plain_number_type(&types[0]) == types[0]).then(|| args[0].clone())),
    // What AVG sums up: whole numbers as decimals, whose sums do not overflow.
    Definition::new(NUMERIC, "op.exact", 1..=1, Returns::By(exact_type), number)
        .simplified(|args, types| (plain_exact_type(&types[0]) == types[0]).then(|| args[0].clone())),
];

fn plain_exact_type(data_type: &DataType) -> DataType {
    match plain_number_type(data_type) {
        DataType::UInt64 => DataType::Decimal128(20, 0),
        it if it.is_integer() => DataType::Decimal128(19, 0),
        other => other,
    }
}

fn exact_type(arguments: &Arguments) -> Result<DataType> {
    Ok(plain_exact_type(arguments.data_type(0)))
}

fn float(c: &Call, f: fn(f64) -> f64) -> Result<ArrayRef> {
    let x = c.float(0)?;
    c.floats_of(|row| x.get(row).map(f))
}

/// NULL for what has no logarithm.
fn logarithm(c: &Call, f: fn(f64) -> f64) -> Result<ArrayRef> {
    let x = c.float(0)?;
    c.floats_of(|row| x.get(row).filter(|it| *it > 0.0).map(f))
}

fn log(c: &Call) -> Result<ArrayRef> {
    if c.n_arguments() == 1 {
        return logarithm(c, f64::ln);
    }
    let (base, x) = (c.float(0)?, c.float(1)?);
    c.floats_of(|row| {
        let (base, x) = (base.get(row)?, x.get(row)?);
        (base > 0.0 && base != 1.0 && x > 0.0).then(|| x.ln() / base.ln())
    })
}

fn atan(c: &Call) -> Result<ArrayRef> {
    let (y, x) = (c.float(0)?, c.float(1)?);
    let has_two = c.n_arguments() == 2;
    c.floats_of(|row| if has_two { Some(y.get(row)?.atan2(x.get(row)?)) } else { y.get(row).map(f64::atan) })
}

fn exp(c: &Call) -> Result<ArrayRef> {
    let x = c.float(0)?;
    in_range("exp", c, |row| x.get(row).map(f64::exp))
}

fn power(c: &Call) -> Result<ArrayRef> {
    let (x, y) = (c.float(0)?, c.float(1)?);
    in_range("pow", c, |row| Some(x.get(row)?.powf(y.get(row)?)))
}

/// Errs with 1690 where a result is beyond all doubles.
fn in_range(name: &str, c: &Call, mut value: impl FnMut(usize) -> Option<f64>) -> Result<ArrayRef> {
    let mut is_beyond = false;
    let array = c.floats_of(|row| {
        let value = value(row);
        is_beyond |= value.is_some_and(|it| !it.is_finite());
        value
    })?;
    match is_beyond {
        true => refused(ErrorCode::OutOfRange, format!("DOUBLE value is out of range in '{name}'")),
        false => Ok(array),
    }
}

fn random(c: &Call) -> Result<ArrayRef> {
    if c.n_arguments() == 0 {
        let mut random = StdRng::from_os_rng();
        return c.floats_of(|_| Some(random.random::<f64>()));
    }
    let seed = c.int(0)?;
    c.floats_of(|row| {
        let seed = seed.get(row).unwrap_or(0).cast_unsigned();
        Some(StdRng::seed_from_u64(seed).random::<f64>())
    })
}

/// Numbers keep their type; a boolean is a whole number; all else a double.
fn plain_number_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Boolean => DataType::Int64,
        DataType::Float16 | DataType::Float32 => DataType::Float64,
        it if it.is_integer()
            || matches!(it, DataType::Float64 | DataType::Decimal128(..) | DataType::Decimal256(..)) =>
        {
            it.clone()
        }
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
        // A date's number is whole, and so is a date and time without a fraction.
        DataType::Date32 | DataType::Date64 => DataType::Int64,
        _ => DataType::Float64,
    }
}

/// [`plain_number_type`], with whole numbers in two widths only.
fn number_type(arguments: &Arguments) -> Result<DataType> {
    Ok(plain_number_type(arguments.data_type(0)))
}

fn number(c: &Call) -> Result<ArrayRef> {
    let array = c.whole(0)?;
    if array.data_type() == c.return_type() {
        return Ok(array);
    }
    match c.return_type() {
        DataType::Int64 => {
            let x = c.int(0)?;
            c.ints_of(|row| x.get(row))
        }
        DataType::Float64 => {
            let x = c.float(0)?;
            c.floats_of(|row| x.get(row))
        }
        other if array.data_type().is_numeric() => Ok(arrow::compute::cast(&array, other)?),
        other => {
            let x = c.int(0)?;
            Ok(arrow::compute::cast(&c.ints_of(|row| x.get(row))?, other)?)
        }
    }
}

fn abs(c: &Call) -> Result<ArrayRef> {
    let array = c.whole(0)?;
    match c.return_type() {
        DataType::Float64 => float(c, f64::abs),
        DataType::Decimal128(p, s) => {
            let (p, s) = (*p, *s);
            let array = arrow::compute::cast(&array, c.return_type())?;
            let values: Decimal128Array = array.as_primitive::<Decimal128Type>().unary(i128::wrapping_abs);
            Ok(Arc::new(values.with_precision_and_scale(p, s)?))
        }
        it if it.is_unsigned_integer() => Ok(array),
        it if it.is_signed_integer() => {
            let x = c.int(0)?;
            let mut is_beyond = false;
            let ints = c.ints_of(|row| {
                let value = x.get(row)?;
                is_beyond |= value == i64::MIN;
                Some(value.wrapping_abs())
            })?;
            if is_beyond {
                return refused(ErrorCode::OutOfRange, "BIGINT value is out of range in 'abs'");
            }
            // The smallest value of a narrow type has no positive one in it.
            match arrow::compute::cast_with_options(
                &ints,
                it,
                &arrow::compute::CastOptions { safe: false, ..Default::default() },
            ) {
                Ok(ints) => Ok(ints),
                Err(_) => refused(ErrorCode::OutOfRange, "value is out of range in 'abs'"),
            }
        }
        _ => {
            let floats = c.float(0)?;
            let array = c.floats_of(|row| floats.get(row).map(f64::abs))?;
            Ok(arrow::compute::cast(&array, c.return_type())?)
        }
    }
}

/// CEIL and FLOOR of exact numbers are whole numbers.
fn whole_type(arguments: &Arguments) -> Result<DataType> {
    Ok(match arguments.data_type(0) {
        DataType::UInt64 | DataType::UInt32 | DataType::UInt16 | DataType::UInt8 => DataType::UInt64,
        it if it.is_integer() || *it == DataType::Boolean => DataType::Int64,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) if *s >= 0 => {
            // Up to 18 digits, and the one that rounding may add, fit a BIGINT.
            if i16::from(*p) - i16::from(*s) <= 18 { DataType::Int64 } else { DataType::Decimal128(38, 0) }
        }
        _ => DataType::Float64,
    })
}

fn whole(c: &Call, f: fn(f64) -> f64, side: i128) -> Result<ArrayRef> {
    match (c.data_type(0), c.return_type()) {
        (_, DataType::Float64) => float(c, f),
        (DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..), target) => {
            let scale = match c.data_type(0) {
                DataType::Decimal32(_, s) | DataType::Decimal64(_, s) | DataType::Decimal128(_, s) => *s,
                _ => 0,
            };
            let array = arrow::compute::cast(&c.whole(0)?, &DataType::Decimal128(38, scale))?;
            let unit = 10i128.pow(u32::from(scale.unsigned_abs()));
            let cut = |value: i128| match value.rem_euclid(unit) {
                0 => value / unit,
                _ => value.div_euclid(unit) + i128::from(side > 0),
            };
            let values: Decimal128Array = array.as_primitive::<Decimal128Type>().unary(cut);
            let values: ArrayRef = Arc::new(values.with_precision_and_scale(38, 0)?);
            Ok(arrow::compute::cast(&values, target)?)
        }
        (_, DataType::UInt64) => {
            let x = c.uint(0)?;
            c.uints_of(|row| x.get(row))
        }
        _ => {
            let x = c.int(0)?;
            c.ints_of(|row| x.get(row))
        }
    }
}

/// ROUND and TRUNCATE keep exact numbers exact, with as many digits behind the point as a constant says.
fn rounded_type(arguments: &Arguments) -> Result<DataType> {
    Ok(match arguments.data_type(0) {
        DataType::UInt64 | DataType::UInt32 | DataType::UInt16 | DataType::UInt8 => DataType::UInt64,
        it if it.is_integer() || *it == DataType::Boolean => DataType::Int64,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) if *s >= 0 => {
            let wanted = if arguments.types.len() < 2 { Some(0) } else { arguments.int(1) };
            let whole = i16::from(*p) - i16::from(*s);
            // Zeros are added as far as there is room for them.
            let room = (37 - whole).clamp(i16::from(*s), 30);
            let scale = wanted.map_or(*s, |it| it.clamp(0, i64::from(room)) as i8);
            let precision = (whole + i16::from(scale) + 1).clamp(1, 38);
            DataType::Decimal128(precision as u8, scale)
        }
        _ => DataType::Float64,
    })
}

fn cut(c: &Call, float_cut: fn(f64, i64) -> f64, exact_cut: fn(i128, i128) -> i128) -> Result<ArrayRef> {
    let digits = c.int(1)?;
    let has_digits = c.n_arguments() > 1;
    let wanted = |row| if has_digits { digits.get(row) } else { Some(0) };
    // The value at so many digits behind the point; both scales are of decimals.
    let at_digits = |value: i128, scale: i64, digits: i64, target: i64| -> Option<i128> {
        let dropped = scale - digits.clamp(-40, scale);
        let kept = match u32::try_from(dropped).ok()? {
            0 => value,
            it @ 1..=38 => exact_cut(value, 10i128.pow(it)).checked_mul(10i128.pow(it))?,
            _ => 0,
        };
        match u32::try_from(target - scale) {
            Ok(added) => kept.checked_mul(10i128.checked_pow(added)?),
            Err(_) => Some(kept / 10i128.checked_pow(u32::try_from(scale - target).ok()?)?),
        }
    };
    match c.return_type() {
        DataType::Float64 => {
            let x = c.float(0)?;
            c.floats_of(|row| Some(float_cut(x.get(row)?, wanted(row)?)))
        }
        DataType::UInt64 => {
            let x = c.uint(0)?;
            c.uints_of(|row| u64::try_from(at_digits(i128::from(x.get(row)?), 0, wanted(row)?, 0)?).ok())
        }
        DataType::Int64 => {
            let x = c.int(0)?;
            c.ints_of(|row| i64::try_from(at_digits(i128::from(x.get(row)?), 0, wanted(row)?, 0)?).ok())
        }
        target => {
            let (DataType::Decimal128(precision, target_scale), scale) = (target, decimal_scale(c.data_type(0))) else {
                return datafusion::common::internal_err!("{target} is no type of ROUND");
            };
            let array = arrow::compute::cast(&c.whole(0)?, &DataType::Decimal128(38, scale))?;
            let values = array.as_primitive::<Decimal128Type>();
            let value = |row: usize| {
                let value = values.is_valid(row).then(|| values.value(row))?;
                at_digits(value, i64::from(scale), wanted(row)?, i64::from(*target_scale))
            };
            let out: Decimal128Array = (0..c.n_rows).map(value).collect();
            Ok(Arc::new(out.with_precision_and_scale(*precision, *target_scale)?))
        }
    }
}

fn decimal_scale(data_type: &DataType) -> i8 {
    match data_type {
        DataType::Decimal32(_, s) | DataType::Decimal64(_, s) | DataType::Decimal128(_, s) => *s,
        _ => 0,
    }
}

/// The call that makes a number of an expression, for operators and aggregates.
pub(super) fn as_number(expr: Expr) -> Result<Expr> {
    super::call("op.number", vec![expr])
}
