//! `x IN (…)` with values of other types than `x`'s, compared as a MySQL session's `=` compares them.
//!
//! The SQL planner asks about operators while it plans them, but not about lists: so they are gone over in the plan.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};

use crate::functions::mysql::list_beside;

pub(super) fn with_comparable_lists(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        let names = NamePreserver::new(&node);
        let node = node.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr = expr.transform_up(|expr| match expr {
                Expr::InList(InList { expr, list, negated }) => {
                    // A type that is not known yet is settled by the engine.
                    let Ok(own) = expr.get_type(&schema) else {
                        return Ok(Transformed::no(Expr::InList(InList { expr, list, negated })));
                    };
                    let types: Vec<_> = list.iter().map(|it| it.get_type(&schema)).collect();
                    if types.iter().any(|it| it.as_ref().is_err()) {
                        return Ok(Transformed::no(Expr::InList(InList { expr, list, negated })));
                    }
                    let list = list.into_iter().zip(types.into_iter().flatten()).collect();
                    let (expr, list) = list_beside(*expr, &own, list)?;
                    Ok(Transformed::yes(Expr::InList(InList { expr: Box::new(expr), list, negated })))
                }
                other => Ok(Transformed::no(other)),
            })?;
            Ok(expr.update_data(|expr| name.restore(expr)))
        })?;
        match node.transformed {
            true => Ok(Transformed::yes(node.data.recompute_schema()?)),
            false => Ok(node),
        }
    })?;
    Ok(plan.data)
}
