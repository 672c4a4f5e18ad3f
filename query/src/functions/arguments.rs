//! Arguments of table functions, which have to be constants.

use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use sheaf_common::{ErrorCode, WireError};

/// An argument that no function takes: the client's to mend.
pub fn wrong(message: String) -> DataFusionError {
    DataFusionError::External(Box::new(WireError::new(ErrorCode::InvalidArgument, message)))
}

/// The value of an argument: a literal, or an expression of literals such as `10 * 1000`.
pub fn constant(function: &str, argument: &Expr) -> Result<ScalarValue> {
    if let Expr::Literal(value, _) = argument {
        return Ok(value.clone());
    }
    let simplifier = ExprSimplifier::new(SimplifyContext::default());
    let schema = DFSchema::empty();
    let simplified = simplifier.coerce(argument.clone(), &schema).and_then(|it| simplifier.simplify(it))?;
    match simplified {
        Expr::Literal(value, _) => Ok(value),
        _ => Err(wrong(format!("argument {argument} of {function} is not a constant"))),
    }
}

/// A whole number that is not negative.
pub fn count(function: &str, argument: &Expr) -> Result<u64> {
    let value = constant(function, argument)?;
    let refused = || wrong(format!("argument {argument} of {function} has to be a whole number of at least 0"));
    match value {
        ScalarValue::Int8(Some(value)) => u64::try_from(value).map_err(|_| refused()),
        ScalarValue::Int16(Some(value)) => u64::try_from(value).map_err(|_| refused()),
        ScalarValue::Int32(Some(value)) => u64::try_from(value).map_err(|_| refused()),
        ScalarValue::Int64(Some(value)) => u64::try_from(value).map_err(|_| refused()),
        ScalarValue::UInt8(Some(value)) => Ok(u64::from(value)),
        ScalarValue::UInt16(Some(value)) => Ok(u64::from(value)),
        ScalarValue::UInt32(Some(value)) => Ok(u64::from(value)),
        ScalarValue::UInt64(Some(value)) => Ok(value),
        // `1e6` and `1000.0` are whole numbers that SQL writes as others.
        ScalarValue::Float64(Some(value)) if value.fract() == 0.0 && (0.0..1.8e19).contains(&value) => Ok(value as u64),
        ScalarValue::Decimal128(Some(value), _, scale) => {
            let unit = 10i128.checked_pow(u32::from(scale.unsigned_abs())).ok_or_else(refused)?;
            let whole = if scale < 0 { value.checked_mul(unit) } else { (value % unit == 0).then_some(value / unit) };
            whole.and_then(|it| u64::try_from(it).ok()).ok_or_else(refused)
        }
        _ => Err(refused()),
    }
}

/// A text.
pub fn text(function: &str, argument: &Expr) -> Result<String> {
    match constant(function, argument)? {
        ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text)) => {
            Ok(text)
        }
        _ => Err(wrong(format!("argument {argument} of {function} has to be a text"))),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    #[test]
    fn counts_are_constant_and_not_negative() {
        let count = |argument: Expr| count("f", &argument).ok();
        assert_eq!(count(lit(5i64)), Some(5));
        assert_eq!(count(lit(10i64) * lit(100i32)), Some(1000));
        assert_eq!(count(lit(u64::MAX)), Some(u64::MAX));
        assert_eq!(count(lit(1e6)), Some(1_000_000));
        assert_eq!(count(lit(ScalarValue::Decimal128(Some(1050), 10, 1))), Some(105));
        for wrong in [lit(-1i64), lit("x"), lit(1.5), col("a"), lit(ScalarValue::Null), lit(ScalarValue::Int64(None))] {
            assert_eq!(count(wrong.clone()), None, "{wrong}");
        }
        assert_eq!(text("f", &lit("a")).unwrap(), "a");
        assert!(text("f", &lit(1i64)).is_err());
    }
}
