//! `EXISTS` in a select list. The engine knows it in conditions only; applications ask `SELECT EXISTS(SELECT …)`.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, Query, Select, SelectItem, SetExpr, TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::{binary, nested, number, take};

/// Counts the rows of any query, put in place of the inner one.
const COUNTED: &str = "SELECT count(*) FROM (SELECT 1) AS sheaf_exists";

/// Writes `EXISTS (q)` in the columns of `select`, at any depth of their expressions, as the comparison of a count.
pub(super) fn as_counts(select: &mut Select) {
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            // Never breaks.
            let _ = expr.visit(&mut AsCounts { depth: 0 });
        }
    }
}

struct AsCounts {
    /// Queries around the expression, counted from the column: those inside have conditions of their own.
    depth: usize,
}

impl VisitorMut for AsCounts {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.depth == 0 && matches!(expr, Expr::Exists { .. }) {
            let Expr::Exists { mut subquery, negated } = take(expr) else { return ControlFlow::Continue(()) };
            count(&mut subquery);
            let op = if negated { BinaryOperator::Eq } else { BinaryOperator::Gt };
            *expr = nested(binary(Expr::Subquery(subquery), op, number(0)));
        }
        ControlFlow::Continue(())
    }
}

/// Makes the query one that counts its rows. A plain one keeps its shape, so that one which looks at the query around
/// it can still be joined to that.
fn count(query: &mut Query) {
    let Ok(mut counted) = Parser::new(&GenericDialect {}).try_with_sql(COUNTED).and_then(|mut it| it.parse_query())
    else {
        return;
    };
    let SetExpr::Select(outer) = &mut *counted.body else { return };
    if query.with.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && let SetExpr::Select(select) = &mut *query.body
        && is_plain(select)
    {
        query.order_by = None;
        select.projection = std::mem::take(&mut outer.projection);
    } else if let [from] = outer.from.as_mut_slice()
        && let TableFactor::Derived { subquery, .. } = &mut from.relation
    {
        std::mem::swap(&mut **subquery, query);
        *query = *counted;
    }
}

/// One row out for each row that passes its condition.
fn is_plain(select: &Select) -> bool {
    let no_keys = matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    let columns_only = select.projection.iter().all(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            matches!(expr, Expr::Value(_) | Expr::Identifier(_) | Expr::CompoundIdentifier(_))
        }
        SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => true,
        _ => false,
    });
    no_keys
        && columns_only
        && select.distinct.is_none()
        && select.having.is_none()
        && select.qualify.is_none()
        && select.top.is_none()
        && !select.from.is_empty()
}
