//! `sheaf_null_if_zero(x)`: what a divisor becomes in a MySQL session, where a division by zero is NULL and a warning.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Scalar, new_null_array};
use arrow::compute::kernels::{cmp, nullif::nullif, numeric};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use crate::warnings::QueryWarnings;

pub const NULL_IF_ZERO: &str = "sheaf_null_if_zero";

/// Its argument, of its argument's type, with NULL for zero; counts those rows into [`QueryWarnings`].
///
/// Immutable in spite of the count: a volatile function would keep filters from being pushed down.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct NullIfZero {
    signature: Signature,
}

impl NullIfZero {
    pub fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for NullIfZero {
    fn name(&self) -> &str {
        NULL_IF_ZERO
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [arg] => Ok(arg.clone()),
            _ => Err(DataFusionError::Plan(format!("function {NULL_IF_ZERO:?} takes one argument"))),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = args.args.as_slice() else {
            return Err(DataFusionError::Internal(format!("function {NULL_IF_ZERO:?} takes one argument")));
        };
        let (value, n_zeros) = match value {
            ColumnarValue::Scalar(value) => {
                let (array, n_zeros) = null_zeros(&value.to_array()?)?;
                let scalar = ScalarValue::try_from_array(&array, 0)?;
                (ColumnarValue::Scalar(scalar), n_zeros * args.number_rows.max(1))
            }
            ColumnarValue::Array(array) => {
                let (array, n_zeros) = null_zeros(array)?;
                (ColumnarValue::Array(array), n_zeros)
            }
        };
        if n_zeros > 0
            && let Some(warnings) = args.config_options.extensions.get::<QueryWarnings>()
        {
            warnings.add(n_zeros as u64);
        }
        Ok(value)
    }
}

/// The array with NULL in place of zeros, and how many there were; what is not a number passes.
fn null_zeros(array: &ArrayRef) -> Result<(ArrayRef, usize)> {
    let data_type = array.data_type();
    if !data_type.is_numeric() {
        return Ok((Arc::clone(array), 0));
    }
    let zero = ScalarValue::new_zero(data_type)?.to_array()?;
    let zero = Scalar::new(zero);
    // Arrow's order tells the two zeros of floats apart; their sum is the positive one.
    let is_zero = match data_type.is_floating() {
        true => cmp::eq(&numeric::add(array, &zero)?, &zero)?,
        false => cmp::eq(array, &zero)?,
    };
    match is_zero.true_count() {
        0 => Ok((Arc::clone(array), 0)),
        n_zeros if n_zeros == array.len() => Ok((new_null_array(data_type, array.len()), n_zeros)),
        n_zeros => Ok((nullif(array, &is_zero)?, n_zeros)),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, Float64Array, Int32Array};

    use super::*;

    fn check(input: ArrayRef, expected: ArrayRef, n_zeros: usize) {
        let (output, n) = null_zeros(&input).unwrap();
        assert_eq!((&output, n), (&expected, n_zeros));
    }

    #[test]
    fn zeros_become_null_and_types_stay() {
        check(
            Arc::new(Int32Array::from(vec![Some(0), Some(2), None])),
            Arc::new(Int32Array::from(vec![None, Some(2), None])),
            1,
        );
        check(Arc::new(Float64Array::from(vec![0.0, -0.0])), Arc::new(Float64Array::from(vec![None::<f64>, None])), 2);
        let decimals =
            |it: Vec<Option<i128>>| Arc::new(Decimal128Array::from(it).with_precision_and_scale(9, 2).unwrap());
        check(decimals(vec![Some(0), Some(5)]), decimals(vec![None, Some(5)]), 1);
    }
}
