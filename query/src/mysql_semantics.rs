//! What a client's tree means in its session, written out before the planner sees it: variables and parameters
//! become values, MySQL's functions and operators become the engine's, a divisor of zero becomes NULL.
//!
//! Trees are rewritten rather than texts, so that comments, aliases, subqueries and quoting do not matter. What the
//! result's columns are called was settled by the parser.

mod exists;
mod functions;
mod values;

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, CeilFloorKind, DataType as SqlType, DateTimeField, ExactNumberInfo, Expr, Function,
    FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, GroupByExpr, GroupByWithModifier, Ident,
    LimitClause, ObjectName, Query, Select, SelectItem, TableFactor, UnaryOperator, Value, VisitMut, VisitorMut,
};
use sheaf_planners::functions::NULL_IF_ZERO;
use sheaf_planners::parser::VariableScope;

use crate::error::QueryError;

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
            mysql_expr(expr, self.pipes_as_concat);
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
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        exists::as_counts(select);
        if self.rewrite.is_mysql {
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
    for condition in [&mut select.selection, &mut select.having].into_iter().flatten() {
        truth(condition);
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

/// `WHERE 1`: a number is true unless it is zero.
fn truth(condition: &mut Expr) {
    if matches!(condition, Expr::Value(value) if matches!(value.value, Value::Number(..))) {
        let value = std::mem::replace(condition, null());
        *condition = binary(value, BinaryOperator::NotEq, number(0));
    }
}

fn mysql_expr(expr: &mut Expr, pipes_as_concat: bool) {
    match expr {
        Expr::BinaryOp { op, .. } => match op {
            BinaryOperator::Divide | BinaryOperator::Modulo => {
                let (left, op, right) = take_binary(expr);
                *expr = binary(left, op, null_if_zero(right));
            }
            BinaryOperator::MyIntegerDivide => {
                let (left, _, right) = take_binary(expr);
                let quotient = binary(left, BinaryOperator::Divide, null_if_zero(right));
                *expr = cast(quotient, SqlType::BigInt(None));
            }
            BinaryOperator::Xor => {
                let (left, _, right) = take_binary(expr);
                *expr =
                    nested(binary(cast(left, SqlType::Boolean), BinaryOperator::NotEq, cast(right, SqlType::Boolean)));
            }
            BinaryOperator::StringConcat if !pipes_as_concat => *op = BinaryOperator::Or,
            _ => {}
        },
        Expr::UnaryOp { op: op @ UnaryOperator::BangNot, .. } => *op = UnaryOperator::Not,
        Expr::RLike { negated, expr: text, pattern, .. } => {
            let op = if *negated { BinaryOperator::PGRegexNotIMatch } else { BinaryOperator::PGRegexIMatch };
            let (text, pattern) = (take(text), take(pattern));
            *expr = nested(binary(text, op, pattern));
        }
        // One collation is known: that of the bytes.
        Expr::Collate { expr: inner, .. } => *expr = take(inner),
        Expr::Prefixed { prefix, value } if prefix.value.starts_with('_') => *expr = take(value),
        Expr::Convert { expr: inner, data_type, charset, .. } => match (data_type.take(), charset) {
            (Some(data_type), _) => *expr = cast(take(inner), engine_type(data_type)),
            (None, Some(_)) => *expr = take(inner),
            (None, None) => {}
        },
        Expr::Cast { expr: inner, data_type, kind: CastKind::Cast, .. } => match data_type {
            SqlType::Binary(None) => *expr = take(inner),
            other => *other = engine_type(std::mem::replace(other, SqlType::Unspecified)),
        },
        Expr::Ceil { field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime), .. } => {}
        Expr::Function(function) => {
            if let Some(rewritten) = functions::rewrite(function) {
                *expr = rewritten;
            }
        }
        _ => {}
    }
}

/// MySQL's names of types in a cast, as the engine's.
fn engine_type(data_type: SqlType) -> SqlType {
    match data_type {
        SqlType::Signed | SqlType::SignedInteger => SqlType::BigInt(None),
        SqlType::Unsigned | SqlType::UnsignedInteger => SqlType::BigIntUnsigned(None),
        SqlType::Char(_) | SqlType::Character(_) | SqlType::Nvarchar(_) => SqlType::Varchar(None),
        SqlType::Datetime(_) => SqlType::Timestamp(None, datafusion::sql::sqlparser::ast::TimezoneInfo::None),
        // DECIMAL alone has ten digits and no fraction.
        SqlType::Decimal(ExactNumberInfo::None) => SqlType::Decimal(ExactNumberInfo::PrecisionAndScale(10, 0)),
        other => other,
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

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|it| FunctionArg::Unnamed(FunctionArgExpr::Expr(it))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: vec![] }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
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
        check("select @x, @y, database(), current_user", "SELECT 1.5, NULL, 'database', 'current_user'");
        assert!(matches!(rewritten("select @@nothing", None), Err(QueryError::UnknownVariable { .. })));
    }

    #[test]
    fn divisors_are_guarded_unless_they_are_seen_not_to_be_zero() {
        check("select a / b", "SELECT a / sheaf_null_if_zero(b)");
        check("select a / 2, a % -3, a / 0", "SELECT a / 2, a % -3, a / sheaf_null_if_zero(0)");
        check("select a div b", "SELECT CAST(a / sheaf_null_if_zero(b) AS BIGINT)");
        check("select mod(a, b)", "SELECT (a % sheaf_null_if_zero(b))");
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
        check("select 1 where 1", "SELECT 1 WHERE 1 <> 0");
        check("select * from t limit 5, 18446744073709551615", "SELECT * FROM t LIMIT 5, 9223372036854775807");
        check("select cast(a as unsigned), convert(b using utf8mb4)", "SELECT CAST(a AS BIGINT UNSIGNED), b");
        check("select a rlike 'x'", "SELECT (a ~* 'x')");
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
