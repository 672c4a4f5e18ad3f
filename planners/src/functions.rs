//! Scalar functions of ours that plans may call on any node.

mod check;
mod null_if_zero;
mod row_id;
mod unsigned_modulo;

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::ScalarUDF;

pub use check::CHECK;
pub use null_if_zero::NULL_IF_ZERO;
pub use row_id::ROW_ID;

/// Makes every function of ours, and how we plan operators, known to `registry`; coordinators and workers call this
/// alike.
pub fn register_functions(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for function in functions() {
        registry.register_udf(function)?;
    }
    registry.register_expr_planner(Arc::new(unsigned_modulo::UnsignedModulo))
}

/// All of them, for registries that are built otherwise.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(ScalarUDF::from(null_if_zero::NullIfZero::new())),
        Arc::new(ScalarUDF::from(check::Check::new())),
        Arc::new(ScalarUDF::from(row_id::RowId::new())),
    ]
}
