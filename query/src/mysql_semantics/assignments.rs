//! `@v := value` in a SELECT list, as ODBC's catalog functions write it: the value itself, which later items of the same row
//! find as `@v`.
//!
//! Rows are made in no order, so nothing is carried from one row to the next: a list that needs that is left as it is, and
//! the planner refuses it. So is one that assigns a variable for later statements to read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Select, SelectItem, Visit,
    VisitMut, Visitor, VisitorMut,
};

/// Places where a variable's value is written out; values in values would double each time.
const PLACES_MAX: usize = 256;

/// Takes the assignments of a SELECT list apart.
pub(super) fn settle(select: &mut Select) {
    let mut assigned = Names::default();
    for item in &select.projection {
        let ControlFlow::Continue(()) = Visit::visit(item, &mut assigned);
    }
    if assigned.assigned.is_empty() {
        return;
    }
    let mut settled = select.projection.clone();
    let mut places = Replace { values: BTreeMap::new(), used: BTreeSet::new(), n_left: PLACES_MAX };
    for item in &mut settled {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { continue };
        if VisitMut::visit(expr, &mut places).is_break() {
            return;
        }
        let mut own = Names::default();
        let ControlFlow::Continue(()) = Visit::visit(&*expr, &mut own);
        for name in own.assigned {
            if let Some(mut value) = value_of(expr, &name) {
                let ControlFlow::Continue(()) = VisitMut::visit(&mut value, &mut Strip);
                places.values.insert(name, value);
            }
        }
        let ControlFlow::Continue(()) = VisitMut::visit(expr, &mut Strip);
    }
    // What is still read was assigned by the row before, or elsewhere.
    let mut left = Names::default();
    for item in &settled {
        let ControlFlow::Continue(()) = Visit::visit(item, &mut left);
    }
    for expr in select.selection.iter().chain(&select.having) {
        let ControlFlow::Continue(()) = Visit::visit(expr, &mut left);
    }
    // Nobody but a later statement reads one that has no place.
    let are_all_used = places.used == assigned.assigned;
    if are_all_used && left.read.is_disjoint(&assigned.assigned) && left.assigned.is_empty() {
        select.projection = settled;
    }
}

/// The variable that an expression names.
fn variable(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.starts_with('@') => {
            (!ident.value.starts_with("@@")).then(|| ident.value.to_lowercase())
        }
        _ => None,
    }
}

fn assignment(expr: &Expr) -> Option<(String, &Expr)> {
    match expr {
        Expr::BinaryOp { left, op: BinaryOperator::Assignment, right } => Some((variable(left)?, right)),
        _ => None,
    }
}

/// The value of a variable once an expression was evaluated that assigns it; none where that hangs on more.
fn value_of(expr: &Expr, name: &str) -> Option<Expr> {
    match expr {
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => value_of(inner, name),
        Expr::Case { case_token, end_token, operand, conditions, else_result } => {
            let mut conditions = conditions.clone();
            for when in &mut conditions {
                when.result = value_of(&when.result, name)?;
            }
            let else_result = Some(Box::new(value_of(else_result.as_deref()?, name)?));
            let (case_token, end_token, operand) = (case_token.clone(), end_token.clone(), operand.clone());
            Some(Expr::Case { case_token, end_token, operand, conditions, else_result })
        }
        Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("if") => {
            let mut function: Function = function.clone();
            let FunctionArguments::List(list) = &mut function.args else { return None };
            for argument in list.args.iter_mut().skip(1) {
                let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = argument else { return None };
                *expr = value_of(expr, name)?;
            }
            Some(Expr::Function(function))
        }
        other => {
            let (assigned, value) = assignment(other)?;
            (assigned == name).then(|| value.clone())
        }
    }
}

/// The variables that are assigned, and those that are read.
#[derive(Default)]
struct Names {
    assigned: BTreeSet<String>,
    read: BTreeSet<String>,
    /// Left sides, which are seen once more by themselves.
    n_targets: BTreeMap<String, usize>,
}

impl Visitor for Names {
    type Break = std::convert::Infallible;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        if let Some((name, _)) = assignment(expr) {
            *self.n_targets.entry(name.clone()).or_default() += 1;
            self.assigned.insert(name);
        } else if let Some(name) = variable(expr) {
            match self.n_targets.get_mut(&name) {
                // Children come next, the left one first.
                Some(n) if *n > 0 => *n -= 1,
                _ => {
                    self.read.insert(name);
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// Writes values in the places of variables. One that is assigned anew goes with the rest, which the planner refuses.
struct Replace {
    values: BTreeMap<String, Expr>,
    /// Those that had a place.
    used: BTreeSet<String>,
    n_left: usize,
}

impl VisitorMut for Replace {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Some(name) = variable(expr)
            && let Some(value) = self.values.get(&name)
        {
            if self.n_left == 0 {
                return ControlFlow::Break(());
            }
            self.n_left -= 1;
            self.used.insert(name);
            *expr = Expr::Nested(Box::new(value.clone()));
        }
        ControlFlow::Continue(())
    }
}

/// Leaves the values of assignments.
struct Strip;

impl VisitorMut for Strip {
    type Break = std::convert::Infallible;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Some((_, value)) = assignment(expr) {
            *expr = value.clone();
        }
        ControlFlow::Continue(())
    }
}
