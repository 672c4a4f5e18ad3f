//! HAVING without anything grouped: in MySQL a filter on the rows of the SELECT list, which knows its aliases.
//!
//! Connector/J lists tables so. Where an alias and a column have one name, the alias is meant.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, Select, SelectItem, Visit, VisitMut, Visitor, VisitorMut,
};

use super::AGGREGATES;

/// Makes it a part of WHERE, if nothing is grouped.
pub(super) fn as_filter(select: &mut Select) {
    let is_grouped = match &select.group_by {
        GroupByExpr::Expressions(by, modifiers) => !by.is_empty() || !modifiers.is_empty(),
        GroupByExpr::All(_) => true,
    };
    let of_items = select.projection.iter().map(|item| Visit::visit(item, &mut Gathering));
    let gathers =
        of_items.chain(select.having.iter().map(|it| Visit::visit(it, &mut Gathering))).any(|it| it.is_break());
    if is_grouped || gathers {
        return;
    }
    let Some(mut having) = select.having.take() else { return };
    let ControlFlow::Continue(()) = VisitMut::visit(&mut having, &mut Aliases(&select.projection));
    let having = Expr::Nested(Box::new(having));
    select.selection = Some(match select.selection.take() {
        None => having,
        Some(selection) => Expr::BinaryOp {
            left: Box::new(Expr::Nested(Box::new(selection))),
            op: BinaryOperator::And,
            right: Box::new(having),
        },
    });
}

/// Breaks at what makes one value of many rows.
struct Gathering;

impl Visitor for Gathering {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::Function(function) => {
                let name = function.name.to_string();
                let gathers = function.over.is_some() || AGGREGATES.iter().any(|it| it.eq_ignore_ascii_case(&name));
                if gathers { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Writes out what aliases stand for.
struct Aliases<'a>(&'a [SelectItem]);

impl VisitorMut for Aliases<'_> {
    type Break = std::convert::Infallible;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::Identifier(name) = expr {
            let value = self.0.iter().find_map(|item| match item {
                SelectItem::ExprWithAlias { expr, alias } if alias.value.eq_ignore_ascii_case(&name.value) => {
                    Some(expr)
                }
                _ => None,
            });
            if let Some(value) = value {
                *expr = Expr::Nested(Box::new(value.clone()));
            }
        }
        ControlFlow::Continue(())
    }
}
