//! What a client's tree means in its session, written out before the planner sees it: variables and parameters
//! become values, MySQL's functions and operators become the engine's, a divisor of zero becomes NULL.
//!
//! Trees are rewritten rather than texts, so that comments, aliases, subqueries and quoting do not matter. What the
//! result's columns are called was settled by the parser.

mod aggregates;
mod assignments;
mod exists;
mod functions;
mod having;
mod intervals;
mod values;

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, CeilFloorKind, DataType as SqlType, DateTimeField, Expr, FunctionArguments, GroupByExpr,
    GroupByWithModifier, Ident, JoinConstraint, LimitClause, Query, Select, SelectItem, SetExpr, TableFactor,
    TrimWhereField, UnaryOperator, Value, VisitMut, VisitorMut,
};
use sheaf_planners::functions::NULL_IF_ZERO;
use sheaf_planners::parser::VariableScope;
use sheaf_planners::parser::ast::{call, join_constraint};

use crate::error::QueryError;

pub use aggregates::AGGREGATES;
pub use functions::{REWRITTEN, clocks};
pub use values::literal;

/// What a statement may ask its session.
pub trait SessionValues {
    /// `@@name`, `@@session.name`, `@@global.name`; errs if there is none.
    fn system_variable(&self, scope: VariableScope, name: &str) -> Result<ScalarValue, QueryError>;
    /// `@name`; NULL if it was never set.
    fn user_variable(&self, name: &str) -> ScalarValue;
    /// `DATABASE()` and its like, by the function's name in lower case.
    fn information(&self, function: &str) -> Option<ScalarValue>;
}

/// How a tree is rewritten.
pub struct Rewrite<'a> {
    pub session: &'a dyn SessionValues,
    /// MySQL's functions and operators as well as variables.
    pub is_mysql: bool,
    /// `||` joins texts; otherwise it is OR.
    pub pipes_as_concat: bool,
    /// Values for `$1`, `$2`, …; without them placeholders stay.
    pub parameters: Option<&'a [ScalarValue]>,
}

impl Rewrite<'_> {
    /// Rewrites all expressions of `tree`, subqueries included. Recurses: call it where the stack grows.
    pub fn apply(&self, tree: &mut impl VisitMut) -> Result<(), QueryError> {
        match tree.visit(&mut Visit { rewrite: self }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(error),
        }
    }

    fn expr(&self, expr: &mut Expr) -> Result<(), QueryError> {
        if let Some(value) = self.value(expr)? {
            *expr = literal(&value);
            return Ok(());
        }
        if self.is_mysql {
            mysql_expr(expr, self.pipes_as_concat)?;
        }
        Ok(())
    }

    /// The value of a variable, a parameter or a function that asks the session; none for other expressions.
    fn value(&self, expr: &Expr) -> Result<Option<ScalarValue>, QueryError> {
        match expr {
            Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.starts_with('@') => {
                self.variable(std::slice::from_ref(ident)).map(Some)
            }
            // The one function that MySQL calls without brackets and that its dialect reads as a column.
            Expr::Identifier(ident)
                if self.is_mysql && ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("current_user") =>
            {
                Ok(self.session.information("current_user"))
            }
            Expr::CompoundIdentifier(parts) if parts[0].quote_style.is_none() && parts[0].value.starts_with("@@") => {
                self.variable(parts).map(Some)
            }
            Expr::Value(value) => match (&value.value, self.parameters) {
                (Value::Placeholder(name), Some(parameters)) => {
                    let idx = name.trim_start_matches(['$', '?', ':']).parse::<usize>().ok();
                    let value = idx.and_then(|idx| parameters.get(idx.checked_sub(1)?));
                    value.cloned().map(Some).ok_or_else(|| QueryError::ParameterCount {
                        expected: idx.unwrap_or_default(),
                        given: parameters.len(),
                    })
                }
                _ => Ok(None),
            },
            Expr::Function(function) if function.over.is_none() => {
                let has_arguments = match &function.args {
                    FunctionArguments::None => false,
                    FunctionArguments::List(list) => !list.args.is_empty(),
                    FunctionArguments::Subquery(_) => true,
                };
                match function.name.0.as_slice() {
                    [name] if !has_arguments => {
                        Ok(name.as_ident().and_then(|it| self.session.information(&it.value.to_lowercase())))
                    }
                    _ => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    fn variable(&self, parts: &[Ident]) -> Result<ScalarValue, QueryError> {
        let first = &parts[0].value;
        let Some(system) = first.strip_prefix("@@") else {
            return Ok(self.session.user_variable(&first[1..].to_lowercase()));
        };
        let (scope, skipped) = match system.to_lowercase().as_str() {
            "global" if parts.len() > 1 => (VariableScope::Global, 1),
            "session" | "local" if parts.len() > 1 => (VariableScope::Session, 1),
            _ => (VariableScope::Default, 0),
        };
        let names: Vec<&str> = parts.iter().skip(skipped).map(|it| it.value.trim_start_matches('@')).collect();
        self.session.system_variable(scope, &names.join("."))
    }
}

struct Visit<'a> {
    rewrite: &'a Rewrite<'a>,
}

impl VisitorMut for Visit<'_> {
    type Break = QueryError;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        match self.rewrite.expr(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        if self.rewrite.is_mysql
            && let Some(
                LimitClause::LimitOffset { limit: Some(limit), .. } | LimitClause::OffsetCommaLimit { limit, .. },
            ) = &mut query.limit_clause
        {
            clamp_limit(limit);
        }
        if self.rewrite.is_mysql
            && let SetExpr::Values(rows) = query.body.as_mut()
        {
            values::texts_beside_bytes(rows.rows.iter_mut().map(|it| it.content.as_mut_slice()).collect());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        exists::as_counts(select);
        if self.rewrite.is_mysql {
            assignments::settle(select);
            mysql_select(select);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        part_namesakes(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        // Hints say which index to take; there is none.
        if let TableFactor::Table { index_hints, .. } = factor {
            index_hints.clear();
        }
        ControlFlow::Continue(())
    }
}

/// `LIMIT 5, 18446744073709551615` is MySQL's way to say 'all the rest'; the engine counts in `i64`.
fn clamp_limit(limit: &mut Expr) {
    if let Expr::Value(value) = limit
        && let Value::Number(text, _) = &value.value
        && text.parse::<i64>().is_err()
        && text.parse::<u64>().is_ok()
    {
        *limit = number(i64::MAX);
    }
}

fn mysql_select(select: &mut Select) {
    if let [from] = select.from.as_slice()
        && from.joins.is_empty()
        && let TableFactor::Table { name, alias: None, args: None, .. } = &from.relation
        && let [part] = name.0.as_slice()
        && part.as_ident().is_some_and(|it| it.quote_style.is_none() && it.value.eq_ignore_ascii_case("dual"))
    {
        select.from.clear();
    }
    having::as_filter(select);
    for condition in [&mut select.selection, &mut select.having].into_iter().flatten() {
        *condition = truth(take(condition));
    }
    for join in select.from.iter_mut().flat_map(|it| &mut it.joins) {
        if let Some(JoinConstraint::On(condition)) = join_constraint(&mut join.join_operator) {
            *condition = truth(take(condition));
        }
    }
    with_rollup(&mut select.group_by);
}

/// `GROUP BY a, b WITH ROLLUP`, which the engine reads over, as its `ROLLUP (a, b)`.
fn with_rollup(group_by: &mut GroupByExpr) {
    if let GroupByExpr::Expressions(keys, modifiers) = group_by
        && let Some(at) = modifiers.iter().position(|it| matches!(it, GroupByWithModifier::Rollup))
    {
        modifiers.remove(at);
        let levels = std::mem::take(keys).into_iter().map(|key| vec![key]).collect();
        keys.push(Expr::Rollup(levels));
    }
}

/// As a condition: what is not seen to be a boolean is true unless it is zero or NULL.
fn truth(condition: Expr) -> Expr {
    if is_boolean(&condition) { condition } else { ours("op.truth", vec![condition]) }
}

fn is_boolean(expr: &Expr) -> bool {
    match expr {
        Expr::Nested(inner) | Expr::UnaryOp { op: UnaryOperator::Not, expr: inner } => is_boolean(inner),
        Expr::BinaryOp { op, .. } => matches!(
            op,
            BinaryOperator::And
                | BinaryOperator::Or
                | BinaryOperator::Eq
                | BinaryOperator::NotEq
                | BinaryOperator::Lt
                | BinaryOperator::LtEq
                | BinaryOperator::Gt
                | BinaryOperator::GtEq
                | BinaryOperator::Spaceship
        ),
        Expr::Value(value) => matches!(value.value, Value::Boolean(_) | Value::Null),
        Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotUnknown(_)
        | Expr::IsDistinctFrom(..)
        | Expr::IsNotDistinctFrom(..)
        | Expr::Like { .. }
        | Expr::ILike { .. }
        | Expr::Between { .. }
        | Expr::InList { .. }
        | Expr::InSubquery { .. }
        | Expr::AnyOp { .. }
        | Expr::AllOp { .. }
        | Expr::Exists { .. } => true,
        _ => false,
    }
}

fn mysql_expr(expr: &mut Expr, pipes_as_concat: bool) -> Result<(), QueryError> {
    match expr {
        Expr::BinaryOp { .. } => mysql_operator(expr, pipes_as_concat),
        Expr::UnaryOp { op, expr: inner } => match op {
            UnaryOperator::BangNot | UnaryOperator::Not => {
                *op = UnaryOperator::Not;
                **inner = truth(take(inner));
            }
            UnaryOperator::BitwiseNot => *expr = ours("op.bit_not", vec![take(inner)]),
            UnaryOperator::Minus | UnaryOperator::Plus if !is_number(inner) => {
                **inner = ours("op.number", vec![take(inner)]);
            }
            _ => {}
        },
        Expr::RLike { negated, expr: text, pattern, .. } => {
            let is_match = ours("regexp_like", vec![take(text), take(pattern)]);
            *expr = if *negated { negation(is_match) } else { is_match };
        }
        Expr::Like { negated, expr: value, pattern, escape_char: Some(escape), .. } if !is_backslash(&escape.value) => {
            let is_match = ours("op.like", vec![take(value), take(pattern), Expr::Value(escape.clone())]);
            *expr = if *negated { negation(is_match) } else { is_match };
        }
        Expr::IsTrue(value)
        | Expr::IsNotTrue(value)
        | Expr::IsFalse(value)
        | Expr::IsNotFalse(value)
        | Expr::IsUnknown(value)
        | Expr::IsNotUnknown(value) => **value = truth(take(value)),
        Expr::Like { expr: value, pattern, .. } => {
            for side in [value, pattern] {
                if !is_text(side) {
                    **side = ours("op.text", vec![take(side)]);
                }
            }
        }
        // Written out where the value costs nothing to say twice, so that each side is compared by its type.
        Expr::Between { expr: value, negated, low, high } if is_simple(value) => {
            let least = binary(value.as_ref().clone(), BinaryOperator::GtEq, take(low));
            let most = binary(take(value), BinaryOperator::LtEq, take(high));
            let between = nested(binary(least, BinaryOperator::And, most));
            *expr = if *negated { negation(between) } else { between };
        }
        Expr::Case { operand, conditions, .. } => {
            if let Some(value) = operand.take_if(|it| is_simple(it)) {
                for it in conditions {
                    it.condition = binary(value.as_ref().clone(), BinaryOperator::Eq, take(&mut it.condition));
                }
            } else if operand.is_none() {
                for it in conditions {
                    it.condition = truth(take(&mut it.condition));
                }
            }
        }
        // One collation is known: that of the bytes.
        Expr::Collate { expr: inner, .. } => *expr = take(inner),
        Expr::Prefixed { prefix, value } if prefix.value.starts_with('_') => *expr = take(value),
        Expr::Convert { expr: inner, data_type, charset, .. } => match (data_type.take(), charset) {
            (Some(data_type), _) => *expr = mysql_cast(take(inner), data_type),
            (None, Some(_)) => *expr = ours("op.text", vec![take(inner)]),
            (None, None) => {}
        },
        Expr::Cast { expr: inner, data_type, kind: CastKind::Cast, .. } => {
            *expr = mysql_cast(take(inner), std::mem::replace(data_type, SqlType::Unspecified));
        }
        Expr::Ceil { expr: inner, field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) } => {
            *expr = ours("ceil", vec![take(inner)]);
        }
        Expr::Floor { expr: inner, field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) } => {
            *expr = ours("floor", vec![take(inner)]);
        }
        Expr::Extract { field, expr: inner, .. } => {
            if let Some(extracted) = intervals::extract(field, inner) {
                *expr = extracted;
            }
        }
        Expr::Position { expr: part, r#in } => *expr = ours("position", vec![take(part), take(r#in)]),
        Expr::Substring { expr: inner, substring_from, substring_for, .. } => {
            let from = intervals::position_or_one(substring_from.take().map(|it| *it));
            let length = substring_for.take().map(|it| *it);
            *expr = ours("substring", [take(inner), from].into_iter().chain(length).collect());
        }
        Expr::Trim { expr: inner, trim_where, trim_what, trim_characters: None } => {
            let side = match trim_where {
                Some(TrimWhereField::Leading) => "leading",
                Some(TrimWhereField::Trailing) => "trailing",
                Some(TrimWhereField::Both) | None => "both",
            };
            let what = trim_what.take().map_or_else(|| text(" "), |it| *it);
            *expr = ours("op.trim", vec![take(inner), what, text(side)]);
        }
        Expr::MemberOf(member) => {
            *expr = ours("member_of", vec![take(&mut member.value), take(&mut member.array)]);
        }
        Expr::Value(value) => {
            if let Some(number) = number_value(&value.value) {
                *expr = number;
            }
        }
        Expr::Function(function) => {
            if let Some(rewritten) = functions::rewrite(function)? {
                *expr = rewritten;
            }
        }
        _ => {}
    }
    Ok(())
}

fn mysql_operator(expr: &mut Expr, pipes_as_concat: bool) {
    let Expr::BinaryOp { left, op, right } = expr else { return };
    if let Some(moved) = intervals::arithmetic(left, op, right) {
        *expr = moved;
        return;
    }
    match op {
        BinaryOperator::Modulo => {
            let (left, op, right) = take_binary(expr);
            *expr = binary(left, op, null_if_zero(right));
        }
        BinaryOperator::Xor => {
            let (left, _, right) = take_binary(expr);
            *expr = nested(binary(truth(left), BinaryOperator::NotEq, truth(right)));
        }
        BinaryOperator::StringConcat if !pipes_as_concat => *op = BinaryOperator::Or,
        BinaryOperator::StringConcat => {
            let (left, _, right) = take_binary(expr);
            *expr = ours("concat", vec![left, right]);
        }
        BinaryOperator::Arrow => {
            let (left, _, right) = take_binary(expr);
            *expr = ours("json_extract", vec![left, right]);
        }
        BinaryOperator::LongArrow => {
            let (left, _, right) = take_binary(expr);
            *expr = ours("json_unquote", vec![ours("json_extract", vec![left, right])]);
        }
        _ => {}
    }
}

/// `1e3` is a double and `b'101'` a number.
fn number_value(value: &Value) -> Option<Expr> {
    match value {
        Value::Number(text, _) if text.contains(['e', 'E']) => Some(functions::double(text)),
        Value::SingleQuotedByteStringLiteral(bits) | Value::DoubleQuotedByteStringLiteral(bits) => {
            let value = u64::from_str_radix(bits, 2).ok()?;
            Some(Expr::Value(Value::Number(value.to_string(), false).into()))
        }
        _ => None,
    }
}

fn mysql_cast(value: Expr, data_type: SqlType) -> Expr {
    functions::cast_call(&value, &data_type).unwrap_or_else(|| cast(value, data_type))
}

fn negation(expr: Expr) -> Expr {
    nested(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) })
}

fn is_number(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => matches!(value.value, Value::Number(..)),
        Expr::Nested(inner) | Expr::UnaryOp { expr: inner, .. } => is_number(inner),
        _ => false,
    }
}

fn is_text(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value)
        if matches!(value.value, Value::SingleQuotedString(_) | Value::DoubleQuotedString(_)))
}

fn is_backslash(value: &Value) -> bool {
    matches!(value, Value::SingleQuotedString(text) if text == "\\")
}

/// A name or a constant.
fn is_simple(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_) => true,
        Expr::Nested(inner) | Expr::UnaryOp { expr: inner, .. } => is_simple(inner),
        _ => false,
    }
}

/// The divisor, NULL where it is zero. One that is seen not to be zero stays as it is.
fn null_if_zero(divisor: Expr) -> Expr {
    if is_nonzero(&divisor) {
        return divisor;
    }
    call(NULL_IF_ZERO, vec![divisor])
}

fn is_nonzero(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => {
            matches!(&value.value, Value::Number(text, _) if text.parse::<f64>().is_ok_and(|it| it != 0.0))
        }
        Expr::Nested(inner) | Expr::UnaryOp { op: UnaryOperator::Minus | UnaryOperator::Plus, expr: inner } => {
            is_nonzero(inner)
        }
        _ => false,
    }
}

// Parts of trees.

fn null() -> Expr {
    Expr::Value(Value::Null.into())
}

fn number(value: i64) -> Expr {
    Expr::Value(Value::Number(value.to_string(), false).into())
}

fn text(value: impl Into<String>) -> Expr {
    Expr::Value(Value::SingleQuotedString(value.into()).into())
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, null())
}

fn take_binary(expr: &mut Expr) -> (Expr, BinaryOperator, Expr) {
    match take(expr) {
        Expr::BinaryOp { left, op, right } => (*left, op, *right),
        other => (other, BinaryOperator::And, null()),
    }
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn nested(expr: Expr) -> Expr {
    Expr::Nested(Box::new(expr))
}

fn cast(expr: Expr, data_type: SqlType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

/// A call of one of [`crate::functions::mysql`].
fn ours(name: &str, arguments: Vec<Expr>) -> Expr {
    call(&format!("{}{name}", crate::functions::mysql::PREFIX), arguments)
}

/// Gives columns that DataFusion would call alike names of their own: it refuses two of a name. All scalar subqueries
/// have one name; two variables of the same value have become the same constant.
fn part_namesakes(select: &mut Select) {
    let mut seen = HashSet::new();
    for (idx, item) in select.projection.iter_mut().enumerate() {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        let text = match &*expr {
            Expr::Value(_) | Expr::Subquery(_) => expr.to_string(),
            _ => continue,
        };
        let is_subquery = matches!(expr, Expr::Subquery(_));
        let is_first = seen.insert(text.clone());
        if is_first && !is_subquery {
            continue;
        }
        let name = if is_first { text } else { format!("{text} #{}", idx + 1) };
        let expr = std::mem::replace(expr, Expr::Value(Value::Null.into()));
        *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('`', name) };
    }
}

#[cfg(test)]
mod tests {
    use sheaf_common::Classify;
    use sheaf_planners::parser::{SqlDialect, StatementKind, parse};

    use super::*;

    struct Fixed;

    impl SessionValues for Fixed {
        fn system_variable(&self, scope: VariableScope, name: &str) -> Result<ScalarValue, QueryError> {
            match (scope, name) {
                (VariableScope::Default, "version_comment") => Ok(ScalarValue::from("it's")),
                (VariableScope::Session | VariableScope::Global, "autocommit") => Ok(ScalarValue::Int64(Some(-1))),
                _ => Err(QueryError::UnknownVariable { name: name.to_owned() }),
            }
        }

        fn user_variable(&self, name: &str) -> ScalarValue {
            if name == "x" { ScalarValue::Float64(Some(1.5)) } else { ScalarValue::Null }
        }

        fn information(&self, function: &str) -> Option<ScalarValue> {
            matches!(function, "database" | "current_user").then(|| ScalarValue::Utf8(Some(function.to_owned())))
        }
    }

    fn rewritten(sql: &str, parameters: Option<&[ScalarValue]>) -> Result<String, QueryError> {
        let statement = parse(sql, SqlDialect::MySql { ansi_quotes: false }).unwrap().remove(0);
        let StatementKind::Query(mut query) = statement.kind else { panic!("{sql}") };
        let rewrite = Rewrite { session: &Fixed, is_mysql: true, pipes_as_concat: true, parameters };
        rewrite.apply(&mut query.query)?;
        Ok(query.query.to_string())
    }

    fn check(sql: &str, expected: &str) {
        assert_eq!(rewritten(sql, None).unwrap(), expected);
    }

    #[test]
    fn variables_become_values_wherever_they_stand() {
        check("select @@version_comment limit 1", "SELECT 'it''s' LIMIT 1");
        check("select (select @@session.autocommit) + @@GLOBAL.autocommit AS a", "SELECT (SELECT -1) + -1 AS a");
        check(
            "select @x, @y, database(), current_user",
            "SELECT CAST('1.5' AS DOUBLE), NULL, 'database', 'current_user'",
        );
        assert!(matches!(rewritten("select @@nothing", None), Err(QueryError::UnknownVariable { .. })));
    }

    #[test]
    fn divisors_are_guarded_unless_they_are_seen_not_to_be_zero() {
        check("select a % b, a / b, a div b", "SELECT a % sheaf_null_if_zero(b), a / b, a DIV b");
        check("select a % 2, a % -3, a % 0", "SELECT a % 2, a % -3, a % sheaf_null_if_zero(0)");
        check("select mod(a, b)", "SELECT (a % sheaf_null_if_zero(b))");
    }

    #[test]
    fn calls_have_the_number_of_arguments_that_mysql_wants() {
        for sql in ["select left(a)", "select now(1, 2)", "select date_add(a)", "select group_concat()"] {
            let error = rewritten(sql, None).unwrap_err();
            assert_eq!(error.code(), sheaf_common::ErrorCode::ParameterCount, "{sql}");
        }
    }

    #[test]
    fn parameters_become_values() {
        let values = [ScalarValue::Int64(Some(5)), ScalarValue::from("o'k")];
        let sql = "select * from t where a = ? and b = ?";
        assert_eq!(rewritten(sql, Some(&values)).unwrap(), "SELECT * FROM t WHERE a = 5 AND b = 'o''k'");
        assert!(matches!(rewritten(sql, Some(&values[..1])), Err(QueryError::ParameterCount { .. })));
    }

    #[test]
    fn mysql_forms() {
        check("select 1 from dual", "SELECT 1");
        check("select 1 where 1", "SELECT 1 WHERE mysql_op.truth(1)");
        check("select 1 where a = 1 and b", "SELECT 1 WHERE a = 1 AND b");
        check("select not a, not a = 1, !1", "SELECT NOT mysql_op.truth(a), NOT a = 1, NOT mysql_op.truth(1)");
        check("select * from t limit 5, 18446744073709551615", "SELECT * FROM t LIMIT 5, 9223372036854775807");
        check(
            "select cast(a as unsigned), convert(b using utf8mb4)",
            "SELECT mysql_op.cast_unsigned(a), mysql_op.text(b)",
        );
        check("select a rlike 'x'", "SELECT mysql_regexp_like(a, 'x')");
        check("select d + interval 1 day", "SELECT mysql_op.date_add(d, 1, 'day')");
        check("select 1 as a from t where b having a = c", "SELECT 1 AS a FROM t WHERE (b) AND ((1) = c)");
        check("select a, max(b) as m from t having m > 1", "SELECT a, max(b) AS m FROM t HAVING m > 1");
        check("select @a := 1 as x, @a + 1", "SELECT 1 AS x, (1) + 1");
        let case = "select case a when 1 then @v := 'x' else @v := 'y' end, if(@v = 'x', 2, 3)";
        check(
            case,
            "SELECT CASE WHEN a = 1 THEN 'x' ELSE 'y' END, \
             CASE WHEN (CASE WHEN a = 1 THEN 'x' ELSE 'y' END) = 'x' THEN 2 ELSE 3 END",
        );
        check("select left(a, 2), now(3)", "SELECT mysql_left(a, 2), mysql_op.local_now(now(), 3)");
        check("select avg(a)", "SELECT mysql_op.divide(sum(mysql_op.exact(a)), count(a))");
        check("select _utf8mb4'x' collate utf8mb4_bin", "SELECT 'x'");
    }

    #[test]
    fn exists_in_a_select_list_is_counted() {
        check("select exists(select 1 from t where t.a = u.a) from u", {
            "SELECT ((SELECT count(*) FROM t WHERE t.a = u.a) > 0) FROM u"
        });
        check("select not exists (select * from t limit 1) as e", {
            "SELECT ((SELECT count(*) FROM (SELECT * FROM t LIMIT 1) AS sheaf_exists) = 0) AS e"
        });
        // An aggregate has a row whatever it counts.
        check("select if(exists(select max(a) from t), 1, 2)", {
            "SELECT CASE WHEN ((SELECT count(*) FROM (SELECT max(a) FROM t) AS sheaf_exists) > 0) THEN 1 ELSE 2 END"
        });
        check("select 1 from u where exists (select 1 from t)", "SELECT 1 FROM u WHERE EXISTS (SELECT 1 FROM t)");
    }
}
