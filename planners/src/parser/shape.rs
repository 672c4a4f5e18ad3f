//! The shape of parsed trees: long chains of AND and OR are balanced, what is nested too deeply is refused, and so are
//! keywords that sqlparser took for the names of tables.
//!
//! Everything after the parser walks these trees by recursion, execution included, on stacks of ordinary size.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, ObjectName, Query, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::tokenizer::Location;

/// Levels of expressions within one statement, once chains are balanced.
const EXPRESSION_DEPTH_MAX: usize = 1000;
/// Levels that a call counts for: planning takes a time that grows with the third power of their number.
const CALL_LEVELS: usize = 4;
/// Levels of subqueries.
const QUERY_DEPTH_MAX: usize = 250;
/// Levels of subqueries within expressions: the planner checks each of them anew for each that it stands in, so that
/// every level doubles its time.
const NESTED_QUERY_DEPTH_MAX: usize = 16;
/// Shorter chains stay as they were written.
const CHAIN_MIN: usize = 16;

/// Words that stand where a table's name is missing. Quoted, they are names.
const NO_NAMES: [&str; 18] = [
    "AND", "AS", "BY", "CROSS", "FROM", "GROUP", "HAVING", "INNER", "JOIN", "LEFT", "LIMIT", "ON", "OR", "ORDER",
    "RIGHT", "SELECT", "UNION", "WHERE",
];

/// What is wrong with a tree.
pub(super) enum Misshapen {
    /// Levels of this are too many.
    TooDeep(&'static str),
    /// A keyword stands for a table.
    NoName { word: String, at: Location },
}

/// Balances and checks `tree`. Recurses: call it where the stack grows.
pub(super) fn settle(tree: &mut impl VisitMut) -> Result<(), Misshapen> {
    let mut shape = Shape { expressions: 0, queries: 0, nested_queries: 0 };
    match tree.visit(&mut shape) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(what) => Err(what),
    }
}

struct Shape {
    expressions: usize,
    queries: usize,
    nested_queries: usize,
}

/// How many levels an expression is.
fn levels(expr: &Expr) -> usize {
    if matches!(expr, Expr::Function(_)) { CALL_LEVELS } else { 1 }
}

fn is_nested_query(expr: &Expr) -> bool {
    matches!(expr, Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. })
}

impl VisitorMut for Shape {
    type Break = Misshapen;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Self::Break> {
        self.queries += 1;
        match self.queries > QUERY_DEPTH_MAX {
            true => ControlFlow::Break(Misshapen::TooDeep("subqueries")),
            false => ControlFlow::Continue(()),
        }
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Self::Break> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &mut ObjectName) -> ControlFlow<Self::Break> {
        match name.0.last().and_then(|it| it.as_ident()) {
            Some(ident)
                if ident.quote_style.is_none() && NO_NAMES.contains(&ident.value.to_ascii_uppercase().as_str()) =>
            {
                ControlFlow::Break(Misshapen::NoName { word: ident.value.clone(), at: ident.span.start })
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        balance(expr);
        self.expressions += levels(expr);
        self.nested_queries += usize::from(is_nested_query(expr));
        if self.expressions > EXPRESSION_DEPTH_MAX {
            return ControlFlow::Break(Misshapen::TooDeep("expressions"));
        }
        if self.nested_queries > NESTED_QUERY_DEPTH_MAX {
            return ControlFlow::Break(Misshapen::TooDeep("subqueries within expressions"));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        self.expressions -= levels(expr);
        self.nested_queries -= usize::from(is_nested_query(expr));
        ControlFlow::Continue(())
    }
}

fn chain_op(expr: &Expr) -> Option<BinaryOperator> {
    match expr {
        Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => Some(op.clone()),
        _ => None,
    }
}

/// Makes `a OR b OR c OR …`, which parses as deep as it is long, as deep as the logarithm of it.
fn balance(expr: &mut Expr) {
    let Some(op) = chain_op(expr) else { return };
    // Balanced already, or too short to matter: the length of the left spine tells.
    let mut spine = &*expr;
    let mut n_spine = 0;
    while let Expr::BinaryOp { left, op: inner, .. } = spine
        && *inner == op
        && n_spine < CHAIN_MIN
    {
        spine = left;
        n_spine += 1;
    }
    if n_spine < CHAIN_MIN {
        return;
    }
    let mut operands = vec![];
    let mut pending = vec![std::mem::replace(expr, Expr::Identifier("".into()))];
    while let Some(next) = pending.pop() {
        match next {
            Expr::BinaryOp { left, op: inner, right } if inner == op => {
                pending.push(*right);
                pending.push(*left);
            }
            other => operands.push(other),
        }
    }
    while operands.len() > 1 {
        let mut level = Vec::with_capacity(operands.len().div_ceil(2));
        let mut rest = operands.into_iter();
        while let Some(left) = rest.next() {
            level.push(match rest.next() {
                Some(right) => Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) },
                None => left,
            });
        }
        operands = level;
    }
    *expr = operands.pop().expect("a chain has operands");
}
