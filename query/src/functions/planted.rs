//! A function that panics when it is told to. It is there for tests only: `--test-functions` makes it known.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// `sheaf_panic('planning', x)` panics while the statement is planned, `sheaf_panic('running', x)` when it meets a
/// batch. Any other word makes it give back `x`.
pub fn sheaf_panic() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(PlantedPanic { signature: Signature::any(2, Volatility::Volatile) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct PlantedPanic {
    signature: Signature,
}

fn word(value: Option<&ScalarValue>) -> &str {
    value.and_then(|value| value.try_as_str().flatten()).unwrap_or_default()
}

impl ScalarUDFImpl for PlantedPanic {
    fn name(&self) -> &str {
        "sheaf_panic"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        plan_err!("the type of sheaf_panic is that of its second argument")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        if word(args.scalar_arguments[0]) == "planning" {
            panic!("planted while planning");
        }
        Ok(Arc::clone(&args.arg_fields[1]))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let ColumnarValue::Scalar(value) = &args.args[0]
            && word(Some(value)) == "running"
        {
            panic!("planted while running");
        }
        Ok(args.args[1].clone())
    }
}
