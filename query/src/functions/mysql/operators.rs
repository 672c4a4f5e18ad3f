//! MySQL's operators: how the planner reads them, and those that the engine does not have.
//!
//! The planner asks [`MySqlOperators`] about each operator of a MySQL session's statement while it knows the operands'
//! types. What the engine computes as MySQL does is left to it, so that filters and joins keep their form.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Decimal128Array, Decimal256Array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, TimeUnit, i256};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, cast};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use sheaf_common::ErrorCode;

use super::columns::Call;
use super::json::is_json;
use super::moments;
use super::numbers::as_number;
use super::numerals;
use super::{Arguments, Chapter, Definition, Returns, call, refused};

const BIT: Chapter = Chapter::Bit;

pub(super) const FUNCTIONS: &[Definition] = &[
    Definition::new(Chapter::Numeric, "op.divide", 2..=2, Returns::By(quotient_type), divide),
    Definition::new(Chapter::Numeric, "op.div", 2..=2, Returns::By(whole_quotient_type), div),
    Definition::new(BIT, "op.bit_and", 2..=2, Returns::UInt, |c| bits(c, |a, b| a & b)),
    Definition::new(BIT, "op.bit_or", 2..=2, Returns::UInt, |c| bits(c, |a, b| a | b)),
    Definition::new(BIT, "op.bit_xor", 2..=2, Returns::UInt, |c| bits(c, |a, b| a ^ b)),
    Definition::new(BIT, "op.shift_left", 2..=2, Returns::UInt, |c| bits(c, |a, b| shift(a, b, u64::checked_shl))),
    Definition::new(BIT, "op.shift_right", 2..=2, Returns::UInt, |c| bits(c, |a, b| shift(a, b, u64::checked_shr))),
    Definition::new(BIT, "op.bit_not", 1..=1, Returns::UInt, |c| {
        let x = c.uint(0)?;
        c.uints_of(|row| x.get(row).map(|it| !it))
    }),
];

fn bits(c: &Call, f: fn(u64, u64) -> u64) -> Result<ArrayRef> {
    let (a, b) = (c.uint(0)?, c.uint(1)?);
    c.uints_of(|row| Some(f(a.get(row)?, b.get(row)?)))
}

/// Nothing is left of 64 bits that were shifted by 64 or more.
fn shift(value: u64, n: u64, f: fn(u64, u32) -> Option<u64>) -> u64 {
    u32::try_from(n).ok().and_then(|n| f(value, n)).unwrap_or(0)
}

/// Digits before and behind the point; none for what is divided as doubles.
fn exact_digits(data_type: &DataType) -> Option<(i16, i16)> {
    match data_type {
        DataType::Boolean | DataType::Null => Some((1, 0)),
        DataType::UInt64 => Some((20, 0)),
        it if it.is_integer() => Some((19, 0)),
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s)
            if *s >= 0 =>
        {
            Some((i16::from(*p) - i16::from(*s), i16::from(*s)))
        }
        _ => None,
    }
}

/// Four digits more behind the point than the dividend has.
fn quotient_type(arguments: &Arguments) -> Result<DataType> {
    let (Some(left), Some(right)) = (exact_digits(arguments.data_type(0)), exact_digits(arguments.data_type(1))) else {
        return Ok(DataType::Float64);
    };
    let scale = (left.1 + 4).min(30);
    // A divisor below one makes as many more digits as it has behind its point.
    let precision = left.0 + right.1 + scale;
    Ok(match precision {
        ..=38 => DataType::Decimal128(precision as u8, scale as i8),
        _ => DataType::Decimal256(precision.min(76) as u8, scale as i8),
    })
}

/// NULL and a warning for a divisor of zero. Exact numbers are rounded half away from zero.
fn divide(c: &Call) -> Result<ArrayRef> {
    let (precision, scale) = match c.return_type() {
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => (*precision, *scale),
        _ => {
            let (a, b) = (c.float(0)?, c.float(1)?);
            return c.floats_of(|row| {
                let (a, b) = (a.get(row)?, b.get(row)?);
                if b == 0.0 {
                    c.divided_by_zero();
                    return None;
                }
                Some(a / b)
            });
        }
    };
    let side = |idx: usize| -> Result<(ArrayRef, i16)> {
        let scale = exact_digits(c.data_type(idx)).map_or(0, |it| it.1);
        let array = c.whole(idx)?;
        let array = if *array.data_type() == DataType::Boolean {
            arrow::compute::cast(&array, &DataType::Int64)?
        } else {
            array
        };
        let wide = DataType::Decimal256(76, scale as i8);
        Ok((cast_with_options(&array, &wide, &CastOptions { safe: false, ..CastOptions::default() })?, scale))
    };
    // Both as the bare digits of their scales: a · 10^(scale + right - left) / b.
    let narrow = narrow_sides(c, scale)?;
    let array: ArrayRef = match (c.return_type(), narrow) {
        (DataType::Decimal128(..), Some((a, b, unit))) => {
            let value = |(a, b): (Option<i128>, Option<i128>)| {
                let (a, b) = (a?, b?);
                if b == 0 {
                    c.divided_by_zero();
                    return None;
                }
                match a.checked_mul(unit) {
                    Some(dividend) => Some(rounded_quotient(dividend, b)),
                    None => wide_quotient(i256::from_i128(a).checked_mul(i256::from_i128(unit))?, i256::from_i128(b))
                        .and_then(i256::to_i128),
                }
            };
            let values: Decimal128Array = a.iter().zip(b.iter()).map(value).collect();
            Arc::new(values.with_precision_and_scale(precision, scale)?)
        }
        (target, _) => {
            let ((a, left), (b, right)) = (side(0)?, side(1)?);
            let exponent = u32::try_from(i16::from(scale) + right - left).unwrap_or(0);
            let unit = i256::from_i128(10).wrapping_pow(exponent);
            let (a, b) = (a.as_primitive::<Decimal256Type>(), b.as_primitive::<Decimal256Type>());
            let value = |(a, b): (Option<i256>, Option<i256>)| {
                let (a, b) = (a?, b?);
                if b == i256::ZERO {
                    c.divided_by_zero();
                    return None;
                }
                wide_quotient(a.checked_mul(unit)?, b)
            };
            let values = a.iter().zip(b.iter()).map(value);
            match target {
                DataType::Decimal128(..) => {
                    let narrow = values.map(|it| it.and_then(i256::to_i128)).collect::<Decimal128Array>();
                    Arc::new(narrow.with_precision_and_scale(precision, scale)?)
                }
                _ => Arc::new(values.collect::<Decimal256Array>().with_precision_and_scale(precision, scale)?),
            }
        }
    };
    Ok(array)
}

/// Both operands' digits in 128 bits and the unit of their quotient, where that is enough.
fn narrow_sides(c: &Call, scale: i8) -> Result<Option<(Decimal128Array, Decimal128Array, i128)>> {
    let side = |idx: usize| -> Result<Option<(Decimal128Array, i16)>> {
        let Some((_, scale)) = exact_digits(c.data_type(idx)) else { return Ok(None) };
        if matches!(c.data_type(idx), DataType::Decimal256(..)) {
            return Ok(None);
        }
        let array = c.whole(idx)?;
        let array = match array.data_type() {
            DataType::Boolean => arrow::compute::cast(&array, &DataType::Int64)?,
            _ => array,
        };
        let target = DataType::Decimal128(38, scale as i8);
        let array = cast_with_options(&array, &target, &CastOptions { safe: false, ..CastOptions::default() })?;
        Ok(Some((array.as_primitive::<Decimal128Type>().clone(), scale)))
    };
    let (Some((a, left)), Some((b, right))) = (side(0)?, side(1)?) else { return Ok(None) };
    let exponent = i16::from(scale) + right - left;
    let unit = u32::try_from(exponent).ok().and_then(|it| 10i128.checked_pow(it));
    Ok(unit.map(|unit| (a, b, unit)))
}

fn rounded_quotient(a: i128, b: i128) -> i128 {
    let (quotient, rest) = (a.wrapping_div(b), a.wrapping_rem(b));
    if rest.unsigned_abs() >= b.unsigned_abs().div_ceil(2) {
        quotient + if (a < 0) == (b < 0) { 1 } else { -1 }
    } else {
        quotient
    }
}

fn wide_quotient(a: i256, b: i256) -> Option<i256> {
    let (quotient, rest) = (a.checked_div(b)?, a.checked_rem(b)?);
    let is_negative = (a < i256::ZERO) != (b < i256::ZERO);
    let step = if is_negative { i256::MINUS_ONE } else { i256::ONE };
    let (rest, half) = (if rest < i256::ZERO { rest.wrapping_neg() } else { rest }, i256::from_i128(2));
    let size = if b < i256::ZERO { b.wrapping_neg() } else { b };
    if rest.checked_mul(half)? >= size { quotient.checked_add(step) } else { Some(quotient) }
}

fn whole_quotient_type(arguments: &Arguments) -> Result<DataType> {
    let is_unsigned = (0..2).any(|idx| arguments.data_type(idx).is_unsigned_integer());
    Ok(if is_unsigned { DataType::UInt64 } else { DataType::Int64 })
}

/// `DIV`: the quotient without its fraction.
fn div(c: &Call) -> Result<ArrayRef> {
    let is_whole = |idx: usize| c.data_type(idx).is_integer() || *c.data_type(idx) == DataType::Boolean;
    let mut is_beyond = false;
    let mut value = |quotient: Option<i128>, is_unsigned: bool| -> Option<i128> {
        let quotient = quotient?;
        is_beyond |= if is_unsigned { u64::try_from(quotient).is_err() } else { i64::try_from(quotient).is_err() };
        Some(quotient)
    };
    let is_unsigned = *c.return_type() == DataType::UInt64;
    let quotients: Vec<Option<i128>> = if is_whole(0) && is_whole(1) {
        let wide = |idx: usize| -> Result<Box<dyn Fn(usize) -> Option<i128>>> {
            if *c.data_type(idx) == DataType::UInt64 {
                let x = c.uint(idx)?;
                return Ok(Box::new(move |row| x.get(row).map(i128::from)));
            }
            let x = c.int(idx)?;
            Ok(Box::new(move |row| x.get(row).map(i128::from)))
        };
        let (a, b) = (wide(0)?, wide(1)?);
        (0..c.n_rows).map(|row| value(quotient(c, a(row), b(row)), is_unsigned)).collect()
    } else if let (Some((a, b, _)), Some(left), Some(right)) = (
        narrow_sides(c, exact_digits(c.data_type(0)).map_or(0, |it| it.1) as i8)?,
        exact_digits(c.data_type(0)),
        exact_digits(c.data_type(1)),
    ) {
        // Brought to one scale, the quotient of the digits is that of the numbers.
        let scale = left.1.max(right.1);
        let unit = |own: i16| 10i128.checked_pow(u32::try_from(scale - own).unwrap_or(0)).unwrap_or(i128::MAX);
        let (left, right) = (unit(left.1), unit(right.1));
        let pairs = a.iter().zip(b.iter());
        pairs
            .map(|(a, b)| {
                value(
                    quotient(c, a.and_then(|it| it.checked_mul(left)), b.and_then(|it| it.checked_mul(right))),
                    is_unsigned,
                )
            })
            .collect()
    } else {
        let (a, b) = (c.float(0)?, c.float(1)?);
        let quotient = |row: usize| {
            let (a, b) = (a.get(row)?, b.get(row)?);
            if b == 0.0 {
                c.divided_by_zero();
                return None;
            }
            Some((a / b).trunc() as i128)
        };
        (0..c.n_rows).map(|row| value(quotient(row), is_unsigned)).collect()
    };
    if is_beyond {
        let name = if is_unsigned { "BIGINT UNSIGNED" } else { "BIGINT" };
        return refused(ErrorCode::OutOfRange, format!("{name} value is out of range in 'DIV'"));
    }
    match is_unsigned {
        true => c.uints_of(|row| u64::try_from(quotients[row]?).ok()),
        false => c.ints_of(|row| i64::try_from(quotients[row]?).ok()),
    }
}

fn quotient(c: &Call, a: Option<i128>, b: Option<i128>) -> Option<i128> {
    let (a, b) = (a?, b?);
    if b == 0 {
        c.divided_by_zero();
    }
    a.checked_div(b)
}

/// How a MySQL session's operators are planned.
#[derive(Debug)]
pub(crate) struct MySqlOperators;

/// What an operand is to a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Number,
    Text,
    Date,
    Moment,
    Time,
    /// NULL, lists, and what is not known yet.
    Other,
}

fn kind(data_type: &DataType) -> Kind {
    match data_type {
        DataType::Boolean => Kind::Bool,
        it if it.is_numeric() => Kind::Number,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
        DataType::Date32 | DataType::Date64 => Kind::Date,
        DataType::Timestamp(..) => Kind::Moment,
        DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) => Kind::Time,
        DataType::Dictionary(_, value) => kind(value),
        _ => Kind::Other,
    }
}

impl ExprPlanner for MySqlOperators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = expr;
        // A type that is not known yet, such as a parameter's, is settled later and by the engine's rules.
        let (Ok(left_type), Ok(right_type)) = (left.get_type(schema), right.get_type(schema)) else {
            return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
        };
        let planned = |name: &str, left, right| Ok(PlannerResult::Planned(call(name, vec![left, right])?));
        let original = |op, left, right| Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
        match op {
            BinaryOperator::Divide => planned("op.divide", left, right),
            BinaryOperator::MyIntegerDivide => planned("op.div", left, right),
            BinaryOperator::BitwiseAnd => planned("op.bit_and", left, right),
            BinaryOperator::BitwiseOr => planned("op.bit_or", left, right),
            BinaryOperator::BitwiseXor | BinaryOperator::PGBitwiseXor => planned("op.bit_xor", left, right),
            BinaryOperator::PGBitwiseShiftLeft => planned("op.shift_left", left, right),
            BinaryOperator::PGBitwiseShiftRight => planned("op.shift_right", left, right),
            BinaryOperator::Plus | BinaryOperator::Minus | BinaryOperator::Multiply | BinaryOperator::Modulo => {
                let has_interval = [&left_type, &right_type].iter().any(|it| matches!(it, DataType::Interval(_)));
                if has_interval {
                    return original(op, left, right);
                }
                let (left, right) = (operand(left, &left_type)?, operand(right, &right_type)?);
                original(op, left, right)
            }
            BinaryOperator::And | BinaryOperator::Or => {
                let (left, right) = (condition(left, &left_type)?, condition(right, &right_type)?);
                original(op, left, right)
            }
            BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
            | BinaryOperator::Spaceship => {
                let left = unquoted(left, schema)?;
                let right = unquoted(right, schema)?;
                let (left, right) = comparable(left, &left_type, right, &right_type)?;
                original(op, left, right)
            }
            _ => original(op, left, right),
        }
    }
}

/// A JSON string is compared by what it says, without its quotes.
fn unquoted(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    match expr.to_field(schema) {
        Ok((_, field)) if is_json(&field) => call("json_unquote", vec![expr]),
        _ => Ok(expr),
    }
}

/// An operand of arithmetic: numbers stay, all else becomes one.
fn operand(expr: Expr, data_type: &DataType) -> Result<Expr> {
    match kind(data_type) {
        Kind::Number | Kind::Other => Ok(expr),
        _ => as_number(expr),
    }
}

/// A condition: a boolean stays, all else is true unless it is zero.
fn condition(expr: Expr, data_type: &DataType) -> Result<Expr> {
    match data_type {
        DataType::Boolean | DataType::Null => Ok(expr),
        _ => call("op.truth", vec![expr]),
    }
}

/// Both sides in types that the engine compares as MySQL would. Types that are alike stay as they are.
fn comparable(left: Expr, left_type: &DataType, right: Expr, right_type: &DataType) -> Result<(Expr, Expr)> {
    let (a, b) = (kind(left_type), kind(right_type));
    // The engine would make decimals of both, which neither NaN nor a large number is.
    match (left_type.is_floating(), right_type.is_floating()) {
        (true, false) if is_decimal(right_type) => return Ok((left, cast(right, DataType::Float64))),
        (false, true) if is_decimal(left_type) => return Ok((cast(left, DataType::Float64), right)),
        _ => {}
    }
    if a == b || a == Kind::Other || b == Kind::Other {
        return Ok((left, right));
    }
    Ok((beside(left, left_type, right_type)?, beside(right, right_type, left_type)?))
}

fn is_decimal(data_type: &DataType) -> bool {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
    matches!(data_type, Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..))
}

/// One side, as it is compared with another of the given type.
fn beside(expr: Expr, own: &DataType, other: &DataType) -> Result<Expr> {
    match (kind(own), kind(other)) {
        (Kind::Text, Kind::Number | Kind::Bool) => number_of_text(expr, other),
        (Kind::Text, Kind::Date | Kind::Moment) => moment_of_text(expr, other),
        (Kind::Text, Kind::Time) => call("time", vec![expr]),
        (Kind::Bool, Kind::Number | Kind::Text) => as_number(expr),
        (Kind::Number, Kind::Date | Kind::Moment) => call("op.moment", vec![expr]),
        (Kind::Time, Kind::Number | Kind::Bool) | (Kind::Date | Kind::Moment, Kind::Bool) => as_number(expr),
        _ => Ok(expr),
    }
}

fn constant_text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text), _) => {
            text.as_deref()
        }
        _ => None,
    }
}

/// A constant that is a whole number stays one, so that it can be compared without converting the other side.
fn number_of_text(expr: Expr, other: &DataType) -> Result<Expr> {
    let Some(text) = constant_text(&expr) else { return as_number(expr) };
    let value = match text.trim().parse::<i64>() {
        Ok(value) if !other.is_floating() => ScalarValue::Int64(Some(value)),
        _ => ScalarValue::Float64(Some(numerals::float_of_text(text))),
    };
    Ok(Expr::Literal(value, None))
}

/// A constant becomes a date where it is one and the other side has dates: such a comparison can skip files.
fn moment_of_text(expr: Expr, other: &DataType) -> Result<Expr> {
    let Some(text) = constant_text(&expr) else { return call("op.moment", vec![expr]) };
    let Some(parsed) = moments::parse_moment(text) else {
        let kind = if kind(other) == Kind::Date { "DATE" } else { "DATETIME" };
        return refused(ErrorCode::WrongTemporalValue, format!("incorrect {kind} value: '{text}'"));
    };
    let days = parsed.moment.div_euclid(moments::DAY);
    let value = match i32::try_from(days) {
        Ok(days) if kind(other) == Kind::Date && parsed.moment.rem_euclid(moments::DAY) == 0 => {
            ScalarValue::Date32(Some(days))
        }
        _ => match other {
            // In the unit of the other side, which is the zone's own.
            DataType::Timestamp(TimeUnit::Nanosecond, None) => match parsed.moment.checked_mul(1000) {
                Some(nanos) => ScalarValue::TimestampNanosecond(Some(nanos), None),
                None => ScalarValue::TimestampMicrosecond(Some(parsed.moment), None),
            },
            DataType::Timestamp(_, Some(_)) => return Ok(expr),
            _ => ScalarValue::TimestampMicrosecond(Some(parsed.moment), None),
        },
    };
    Ok(Expr::Literal(value, None))
}

/// The values of an IN list as they are compared with a value of the given type.
pub(crate) fn list_beside(
    value: Expr,
    value_type: &DataType,
    list: Vec<(Expr, DataType)>,
) -> Result<(Expr, Vec<Expr>)> {
    let has_number = list.iter().any(|(_, it)| kind(it) == Kind::Number);
    let value = match kind(value_type) {
        Kind::Text if has_number => as_number(value)?,
        _ => value,
    };
    let is_number = has_number && matches!(kind(value_type), Kind::Text | Kind::Other);
    let number = if is_number { DataType::Float64 } else { value_type.clone() };
    let list = list.into_iter().map(|(expr, own)| {
        if number.is_floating() && is_decimal(&own) {
            return Ok(cast(expr, DataType::Float64));
        }
        let is_alike = kind(&own) == kind(&number) || [kind(&own), kind(&number)].contains(&Kind::Other);
        if is_alike { Ok(expr) } else { beside(expr, &own, &number) }
    });
    Ok((value, list.collect::<Result<Vec<_>>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_rounded_half_away_from_zero() {
        assert_eq!(
            [(20_000, 3), (-20_000, 3), (1, 2), (-1, 2), (1, -2)].map(|(a, b)| rounded_quotient(a, b)),
            [6667, -6667, 1, -1, -1]
        );
        let wide = |a, b| wide_quotient(i256::from_i128(a), i256::from_i128(b)).unwrap().to_i128();
        assert_eq!(
            [(20_000, 3), (-20_000, 3), (1, -2), (4, 2)].map(|(a, b)| wide(a, b)),
            [Some(6667), Some(-6667), Some(-1), Some(2)]
        );
    }

    #[test]
    fn constants_are_compared_without_converting_columns() {
        let number =
            |text: &str| number_of_text(Expr::Literal(ScalarValue::from(text), None), &DataType::Int32).unwrap();
        assert_eq!(number("7"), Expr::Literal(ScalarValue::Int64(Some(7)), None));
        assert_eq!(number("7x"), Expr::Literal(ScalarValue::Float64(Some(7.0)), None));
        let date = |text: &str| moment_of_text(Expr::Literal(ScalarValue::from(text), None), &DataType::Date32);
        assert_eq!(date("1970-1-2").unwrap(), Expr::Literal(ScalarValue::Date32(Some(1)), None));
        assert!(date("yesterday").is_err());
    }
}
