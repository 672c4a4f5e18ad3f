//! `SLEEP(n)`: waits without holding a thread, so that the statement ends as soon as it is killed or too late.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use async_trait::async_trait;
use datafusion::error::Result;
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use sheaf_common::ErrorCode;

use super::{PREFIX, refused};

/// What plans call it, behind [`PREFIX`].
pub(crate) const NAME: &str = "op.sleep";

/// More is as good as for ever, and what a clock can count.
const SECONDS_MAX: f64 = 1e9;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sleep {
    name: String,
    signature: Signature,
}

/// The function for a registry.
pub(super) fn function() -> Arc<ScalarUDF> {
    let sleep = Sleep { name: format!("{PREFIX}{NAME}"), signature: Signature::any(1, Volatility::Volatile) };
    Arc::new(AsyncScalarUDF::new(Arc::new(sleep)).into_scalar_udf())
}

impl ScalarUDFImpl for Sleep {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        refused(
            ErrorCode::Unsupported,
            "SLEEP() in this place is not supported: it waits in select lists and conditions",
        )
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for Sleep {
    /// Waits once for each row, one after another; each is 0 then.
    ///
    /// Errs with 1210 where the time is NULL or negative, as a strict MySQL does.
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let n_rows = args.number_rows;
        let seconds = args.args[0].to_array(n_rows)?;
        let seconds = cast(&seconds, &DataType::Float64)?;
        let seconds = seconds.as_primitive::<Float64Type>();
        for row in 0..n_rows {
            let is_time = seconds.is_valid(row) && seconds.value(row) >= 0.0;
            if !is_time {
                return refused(
                    ErrorCode::InvalidArgument,
                    "incorrect arguments to sleep: neither NULL nor less than 0",
                );
            }
            let time = Duration::from_secs_f64(seconds.value(row).min(SECONDS_MAX));
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
        }
        let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; n_rows]));
        Ok(ColumnarValue::Array(zeros))
    }
}
