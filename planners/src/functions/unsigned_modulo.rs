//! `unsigned % 3`: a literal beside an unsigned operand is unsigned too, as in MySQL.
//!
//! DataFusion finds no integer type for `UInt64` and `Int64` together and computes in decimals, many times slower.
//! Only the modulo is planned so: its result fits the operand's type whatever the values.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::sql::sqlparser::ast::BinaryOperator;

#[derive(Debug)]
pub(super) struct UnsignedModulo;

impl ExprPlanner for UnsignedModulo {
    fn plan_binary_op(&self, mut expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        if matches!(expr.op, BinaryOperator::Modulo)
            && let Expr::Literal(ScalarValue::Int64(Some(divisor @ 1..)), _) = expr.right
            // A type that is not known yet is settled later, without this.
            && expr.left.get_type(schema).is_ok_and(|it| it == DataType::UInt64)
        {
            expr.right = Expr::Literal(ScalarValue::UInt64(Some(divisor.unsigned_abs())), None);
        }
        Ok(PlannerResult::Original(expr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{Field, Schema};
    use datafusion::logical_expr::{col, lit};

    fn check(data_type: DataType, divisor: i64, expected: ScalarValue) {
        let schema = Schema::new(vec![Field::new("a", data_type, true)]);
        let schema = DFSchema::try_from(schema).unwrap();
        let expr = RawBinaryExpr { op: BinaryOperator::Modulo, left: col("a"), right: lit(divisor) };
        let PlannerResult::Original(expr) = UnsignedModulo.plan_binary_op(expr, &schema).unwrap() else {
            panic!("left to the others")
        };
        assert_eq!(expr.right, Expr::Literal(expected, None));
    }

    #[test]
    fn a_divisor_is_unsigned_beside_an_unsigned_operand() {
        check(DataType::UInt64, 3, ScalarValue::UInt64(Some(3)));
        check(DataType::UInt64, -3, ScalarValue::Int64(Some(-3)));
        check(DataType::UInt64, 0, ScalarValue::Int64(Some(0)));
        check(DataType::Int64, 3, ScalarValue::Int64(Some(3)));
    }
}
