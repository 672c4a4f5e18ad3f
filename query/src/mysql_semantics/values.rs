//! Values as parts of a SQL tree.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{DataType as SqlType, ExactNumberInfo, Expr, TimezoneInfo, UnaryOperator, Value};

use super::{cast, null, text};

/// An expression of this value and, as far as SQL can say it, of this type.
pub fn literal(value: &ScalarValue) -> Expr {
    if value.is_null() {
        return null();
    }
    match value {
        ScalarValue::Boolean(Some(value)) => Expr::Value(Value::Boolean(*value).into()),
        ScalarValue::Utf8(Some(value)) | ScalarValue::LargeUtf8(Some(value)) | ScalarValue::Utf8View(Some(value)) => {
            text(value)
        }
        ScalarValue::Binary(Some(value))
        | ScalarValue::LargeBinary(Some(value))
        | ScalarValue::BinaryView(Some(value))
        | ScalarValue::FixedSizeBinary(_, Some(value)) => bytes(value),
        ScalarValue::Float32(Some(value)) if !value.is_finite() => cast(text(value.to_string()), SqlType::Real),
        ScalarValue::Float64(Some(value)) if !value.is_finite() => {
            cast(text(value.to_string()), SqlType::Double(ExactNumberInfo::None))
        }
        // As a number with a point it would be a decimal in a MySQL session.
        ScalarValue::Float32(Some(value)) => cast(text(format!("{value:?}")), SqlType::Double(ExactNumberInfo::None)),
        ScalarValue::Float64(Some(value)) => cast(text(format!("{value:?}")), SqlType::Double(ExactNumberInfo::None)),
        other => match other.data_type() {
            data_type if data_type.is_integer() => number(other.to_string()),
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale)
            | DataType::Decimal256(precision, scale) => {
                let info = ExactNumberInfo::PrecisionAndScale(u64::from(precision), i64::from(scale));
                cast(text(decimal_text(other)), SqlType::Decimal(info))
            }
            DataType::Date32 | DataType::Date64 => cast(text(other.to_string()), SqlType::Date),
            DataType::Time32(_) | DataType::Time64(_) => {
                cast(text(array_text(other)), SqlType::Time(None, TimezoneInfo::None))
            }
            DataType::Timestamp(_, _) => cast(text(array_text(other)), SqlType::Timestamp(None, TimezoneInfo::None)),
            _ => text(array_text(other)),
        },
    }
}

/// Texts as bytes where another row of VALUES has bytes in their place: the engine has no type for both.
pub(super) fn texts_beside_bytes(mut rows: Vec<&mut [Expr]>) {
    let is_bytes = |it: &Expr| matches!(it, Expr::Value(value) if matches!(value.value, Value::HexStringLiteral(_)));
    let n_columns = rows.iter().map(|it| it.len()).max().unwrap_or_default();
    for column in 0..n_columns {
        if !rows.iter().any(|row| row.get(column).is_some_and(is_bytes)) {
            continue;
        }
        for cell in rows.iter_mut().filter_map(|row| row.get_mut(column)) {
            let Expr::Value(value) = &*cell else { continue };
            if let Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) = &value.value {
                *cell = bytes(text.as_bytes());
            }
        }
    }
}

/// A number; a negative one as the minus of its size, as the parser would give it.
fn number(digits: String) -> Expr {
    let value = |digits: &str| Expr::Value(Value::Number(digits.to_owned(), false).into());
    match digits.strip_prefix('-') {
        Some(size) => Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(value(size)) },
        None => value(&digits),
    }
}

fn bytes(value: &[u8]) -> Expr {
    use std::fmt::Write;
    let hex = value.iter().fold(String::with_capacity(value.len() * 2), |mut hex, byte| {
        let _ = write!(hex, "{byte:02X}");
        hex
    });
    Expr::Value(Value::HexStringLiteral(hex).into())
}

fn decimal_text(value: &ScalarValue) -> String {
    array_text(value)
}

/// As Arrow shows it within an array: ScalarValue's own form of decimals, times and timestamps is for debugging.
fn array_text(value: &ScalarValue) -> String {
    let shown = value.to_array().ok().and_then(|array| arrow::util::display::array_value_to_string(&array, 0).ok());
    shown.unwrap_or_else(|| value.to_string())
}
