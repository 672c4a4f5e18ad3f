//! `sheaf_check(condition, message)`: what keeps rows that break a CHECK constraint out of a table.

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use sheaf_common::{ErrorCode, WireError};

pub const CHECK: &str = "sheaf_check";

/// True for each row; errs with the message when the condition of one is false. NULL is no violation.
///
/// Volatile, so that no rule moves it, evaluates it early or takes it away.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Check {
    signature: Signature,
}

impl Check {
    pub fn new() -> Self {
        Self { signature: Signature::exact(vec![DataType::Boolean, DataType::Utf8], Volatility::Volatile) }
    }
}

impl ScalarUDFImpl for Check {
    fn name(&self) -> &str {
        CHECK
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [condition, ColumnarValue::Scalar(ScalarValue::Utf8(Some(message)))] = args.args.as_slice() else {
            return Err(DataFusionError::Internal(format!("function {CHECK:?} takes a condition and a text")));
        };
        let condition = condition.to_array(args.number_rows)?;
        let is_broken = condition.as_boolean_opt().is_none_or(has_false);
        match is_broken {
            true => Err(DataFusionError::External(Box::new(WireError::new(ErrorCode::CheckViolated, message)))),
            false => Ok(ColumnarValue::Array(std::sync::Arc::new(BooleanArray::from(vec![true; condition.len()])))),
        }
    }
}

fn has_false(condition: &BooleanArray) -> bool {
    condition.iter().any(|it| it == Some(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_no_violation() {
        assert!(!has_false(&BooleanArray::from(vec![Some(true), None])));
        assert!(has_false(&BooleanArray::from(vec![None, Some(false)])));
        assert!(!has_false(&BooleanArray::from(Vec::<bool>::new())));
    }
}
