//! Physical expressions as SQL-like text: `((number > 10) AND (number < 990))`.
//!
//! DataFusion's own text shows each column with its index, which says nothing to who wrote the statement. All text goes
//! into one buffer on a stack that grows, so that ten thousand `OR`s or a thousand nested calls neither cost quadratic
//! time nor end the process.

use std::fmt::Write;
use std::sync::Arc;

use arrow::util::display::array_value_to_string;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CaseExpr, CastExpr, Column, DynamicFilterPhysicalExpr, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr,
    Literal, NegativeExpr, NotExpr, TryCastExpr, UnKnownColumn,
};
use datafusion::physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, StandardWindowExpr, WindowExpr,
};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr, ScalarFunctionExpr};
use datafusion::physical_expr_common::physical_expr::fmt_sql;
use datafusion::physical_plan::windows::WindowUDFExpr;

/// Stack that must be left before one more level of an expression is entered, and what is added when it is not.
const STACK_RED_ZONE_BYTES: usize = 64 << 10;
const STACK_SEGMENT_BYTES: usize = 2 << 20;

/// Runs one level of a recursion, on a new stack segment when this one is nearly used up.
pub(super) fn on_growing_stack<R>(level: impl FnOnce() -> R) -> R {
    stacker::maybe_grow(STACK_RED_ZONE_BYTES, STACK_SEGMENT_BYTES, level)
}

/// The text of one expression.
pub(super) fn sql(expr: &dyn PhysicalExpr) -> String {
    let mut out = String::new();
    write_expr(&mut out, expr);
    out
}

/// The texts of several expressions.
pub(super) fn sql_list<'a>(exprs: impl IntoIterator<Item = &'a Arc<dyn PhysicalExpr>>) -> Vec<String> {
    exprs.into_iter().map(|expr| sql(expr.as_ref())).collect()
}

/// `expr AS alias`, or only the expression where the alias says the same.
pub(super) fn aliased(expr: &dyn PhysicalExpr, alias: &str) -> String {
    with_alias(sql(expr), alias)
}

fn with_alias(text: String, alias: &str) -> String {
    if text == alias { text } else { format!("{text} AS {alias}") }
}

/// `key DESC NULLS FIRST`, with the place of NULLs always said: MySQL's and DataFusion's defaults differ.
pub(super) fn sort_key(key: &PhysicalSortExpr) -> String {
    let direction = if key.options.descending { "DESC" } else { "ASC" };
    let nulls = if key.options.nulls_first { "NULLS FIRST" } else { "NULLS LAST" };
    format!("{} {direction} {nulls}", sql(key.expr.as_ref()))
}

pub(super) fn sort_keys<'a>(keys: impl IntoIterator<Item = &'a PhysicalSortExpr>) -> Vec<String> {
    keys.into_iter().map(sort_key).collect()
}

/// `sum(DISTINCT x ORDER BY y ASC NULLS LAST) FILTER (WHERE z) AS alias`.
pub(super) fn aggregate(function: &AggregateFunctionExpr, filter: Option<&Arc<dyn PhysicalExpr>>) -> String {
    let text = aggregate_call(function, filter);
    // The planner names an aggregate after its logical text, types of literals included; that alias only repeats it.
    let repeats = function.name().split('(').next() == Some(function.fun().name());
    if repeats { text } else { with_alias(text, function.name()) }
}

fn aggregate_call(function: &AggregateFunctionExpr, filter: Option<&Arc<dyn PhysicalExpr>>) -> String {
    let mut out = format!("{}(", function.fun().name());
    if function.is_distinct() {
        out.push_str("DISTINCT ");
    }
    write_separated(&mut out, function.expressions().iter());
    if !function.order_bys().is_empty() {
        let _ = write!(out, " ORDER BY {}", sort_keys(function.order_bys()).join(", "));
    }
    out.push(')');
    if function.ignore_nulls() {
        out.push_str(" IGNORE NULLS");
    }
    if let Some(filter) = filter {
        out.push_str(" FILTER (WHERE ");
        write_expr(&mut out, filter.as_ref());
        out.push(')');
    }
    out
}

/// `rank() OVER (PARTITION BY a ORDER BY b ASC NULLS LAST RANGE BETWEEN …)`.
pub(super) fn window(function: &dyn WindowExpr) -> String {
    // DataFusion keeps a window aggregate's FILTER to itself: only the name that it gave the column tells of it.
    if function.name().contains(" FILTER (WHERE ") {
        return function.name().to_owned();
    }
    let mut out = window_call(function);
    out.push_str(" OVER (");
    if !function.partition_by().is_empty() {
        out.push_str("PARTITION BY ");
        write_separated(&mut out, function.partition_by().iter());
        out.push(' ');
    }
    if !function.order_by().is_empty() {
        let _ = write!(out, "ORDER BY {} ", sort_keys(function.order_by()).join(", "));
    }
    let _ = write!(out, "{})", function.get_window_frame());
    out
}

fn window_call(function: &dyn WindowExpr) -> String {
    let any = function.as_any();
    if let Some(it) = any.downcast_ref::<PlainAggregateWindowExpr>() {
        return aggregate_call(it.get_aggregate_expr(), None);
    }
    if let Some(it) = any.downcast_ref::<SlidingAggregateWindowExpr>() {
        return aggregate_call(it.get_aggregate_expr(), None);
    }
    let Some(it) = any.downcast_ref::<StandardWindowExpr>() else { return function.name().to_owned() };
    let standard = it.get_standard_func_expr();
    let (name, args) = match standard.as_any().downcast_ref::<WindowUDFExpr>() {
        Some(udf) => (udf.fun().name(), udf.args().to_vec()),
        None => (standard.name(), standard.expressions()),
    };
    let mut out = format!("{name}(");
    write_separated(&mut out, args.iter());
    out.push(')');
    out
}

fn write_separated<'a>(out: &mut String, exprs: impl Iterator<Item = &'a Arc<dyn PhysicalExpr>>) {
    for (idx, expr) in exprs.enumerate() {
        if idx > 0 {
            out.push_str(", ");
        }
        write_expr(out, expr.as_ref());
    }
}

fn write_expr(out: &mut String, expr: &dyn PhysicalExpr) {
    on_growing_stack(|| write_level(out, expr));
}

/// One level; kinds that are not listed here print themselves.
fn write_level(out: &mut String, expr: &dyn PhysicalExpr) {
    if let Some(it) = expr.downcast_ref::<Column>() {
        out.push_str(it.name());
    } else if let Some(it) = expr.downcast_ref::<UnKnownColumn>() {
        out.push_str(it.name());
    } else if let Some(it) = expr.downcast_ref::<Literal>() {
        write_literal(out, it.value());
    } else if let Some(it) = expr.downcast_ref::<BinaryExpr>() {
        write_binary(out, it);
    } else if let Some(it) = expr.downcast_ref::<CastExpr>() {
        write_cast(out, "CAST", it.expr().as_ref(), &it.cast_type().to_string());
    } else if let Some(it) = expr.downcast_ref::<TryCastExpr>() {
        write_cast(out, "TRY_CAST", it.expr().as_ref(), &it.cast_type().to_string());
    } else if let Some(it) = expr.downcast_ref::<NotExpr>() {
        write_around(out, "(NOT ", it.arg().as_ref(), ")");
    } else if let Some(it) = expr.downcast_ref::<NegativeExpr>() {
        write_around(out, "(- ", it.arg().as_ref(), ")");
    } else if let Some(it) = expr.downcast_ref::<IsNullExpr>() {
        write_around(out, "(", it.arg().as_ref(), " IS NULL)");
    } else if let Some(it) = expr.downcast_ref::<IsNotNullExpr>() {
        write_around(out, "(", it.arg().as_ref(), " IS NOT NULL)");
    } else if let Some(it) = expr.downcast_ref::<LikeExpr>() {
        write_like(out, it);
    } else if let Some(it) = expr.downcast_ref::<InListExpr>() {
        write_in_list(out, it);
    } else if let Some(it) = expr.downcast_ref::<CaseExpr>() {
        write_case(out, it);
    } else if let Some(it) = expr.downcast_ref::<ScalarFunctionExpr>() {
        out.push_str(it.fun().name());
        out.push('(');
        write_separated(out, it.args().iter());
        out.push(')');
    } else if let Some(it) = expr.downcast_ref::<DynamicFilterPhysicalExpr>() {
        write_dynamic_filter(out, it);
    } else {
        let _ = write!(out, "{}", fmt_sql(expr));
    }
}

/// `(left op right)`. A chain of the same AND or OR is one pair of parentheses, however the parser nested it.
fn write_binary(out: &mut String, binary: &BinaryExpr) {
    let operator = *binary.op();
    out.push('(');
    if matches!(operator, Operator::And | Operator::Or) {
        let mut n_written = 0;
        let mut pending = vec![binary.right(), binary.left()];
        while let Some(expr) = pending.pop() {
            match expr.downcast_ref::<BinaryExpr>() {
                Some(inner) if *inner.op() == operator => pending.extend([inner.right(), inner.left()]),
                _ => {
                    if n_written > 0 {
                        let _ = write!(out, " {operator} ");
                    }
                    n_written += 1;
                    write_expr(out, expr.as_ref());
                }
            }
        }
    } else {
        write_expr(out, binary.left().as_ref());
        let _ = write!(out, " {operator} ");
        write_expr(out, binary.right().as_ref());
    }
    out.push(')');
}

fn write_around(out: &mut String, before: &str, expr: &dyn PhysicalExpr, after: &str) {
    out.push_str(before);
    write_expr(out, expr);
    out.push_str(after);
}

fn write_cast(out: &mut String, keyword: &str, expr: &dyn PhysicalExpr, kind: &str) {
    out.push_str(keyword);
    write_around(out, "(", expr, " AS ");
    out.push_str(kind);
    out.push(')');
}

fn write_like(out: &mut String, like: &LikeExpr) {
    let not = if like.negated() { "NOT " } else { "" };
    let operator = if like.case_insensitive() { "ILIKE" } else { "LIKE" };
    write_around(out, "(", like.expr().as_ref(), &format!(" {not}{operator} "));
    write_around(out, "", like.pattern().as_ref(), ")");
}

fn write_in_list(out: &mut String, in_list: &InListExpr) {
    let operator = if in_list.negated() { " NOT IN (" } else { " IN (" };
    write_around(out, "(", in_list.expr().as_ref(), operator);
    write_separated(out, in_list.list().iter());
    out.push_str("))");
}

fn write_case(out: &mut String, case: &CaseExpr) {
    out.push_str("CASE");
    if let Some(expr) = case.expr() {
        write_around(out, " ", expr.as_ref(), "");
    }
    for (when, then) in case.when_then_expr() {
        write_around(out, " WHEN ", when.as_ref(), "");
        write_around(out, " THEN ", then.as_ref(), "");
    }
    if let Some(expr) = case.else_expr() {
        write_around(out, " ELSE ", expr.as_ref(), "");
    }
    out.push_str(" END");
}

/// A filter whose bounds are found while the query runs: only what it looks at is known.
fn write_dynamic_filter(out: &mut String, filter: &DynamicFilterPhysicalExpr) {
    out.push_str("dynamic_filter(");
    write_separated(out, filter.children().into_iter());
    out.push(')');
}

/// Numbers plain, texts and times in quotes, NULL as NULL.
fn write_literal(out: &mut String, value: &ScalarValue) {
    use ScalarValue::*;
    if value.is_null() {
        out.push_str("NULL");
        return;
    }
    match value {
        Utf8(Some(text)) | LargeUtf8(Some(text)) | Utf8View(Some(text)) => write_quoted(out, text),
        Dictionary(_, inner) | RunEndEncoded(_, _, inner) => write_literal(out, inner),
        Binary(Some(bytes)) | LargeBinary(Some(bytes)) | BinaryView(Some(bytes)) | FixedSizeBinary(_, Some(bytes)) => {
            out.push_str("X'");
            for byte in bytes {
                let _ = write!(out, "{byte:02X}");
            }
            out.push('\'');
        }
        _ if value.data_type().is_temporal() => write_quoted(out, &display(value)),
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

/// A point or a span of time as Arrow shows it in a result.
fn display(value: &ScalarValue) -> String {
    value.to_array().ok().and_then(|array| array_value_to_string(&array, 0).ok()).unwrap_or_else(|| value.to_string())
}

fn write_quoted(out: &mut String, text: &str) {
    let _ = write!(out, "'{}'", text.replace('\'', "''"));
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use datafusion::physical_expr::expressions::{in_list, lit};

    use super::*;

    fn column(name: &str, index: usize) -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(name, index))
    }

    fn binary(left: Arc<dyn PhysicalExpr>, op: Operator, right: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        Arc::new(BinaryExpr::new(left, op, right))
    }

    #[track_caller]
    fn check(expr: Arc<dyn PhysicalExpr>, expected: &str) {
        assert_eq!(sql(expr.as_ref()), expected);
    }

    #[test]
    fn binaries_are_in_parentheses_and_columns_have_no_index() {
        let over = binary(column("number", 3), Operator::Gt, lit(10u64));
        let under = binary(column("number", 3), Operator::Lt, lit(990u64));
        check(binary(over, Operator::And, under), "((number > 10) AND (number < 990))");
    }

    #[test]
    fn literals_read_as_sql() {
        check(lit("it's"), "'it''s'");
        check(lit(ScalarValue::Int64(None)), "NULL");
        check(lit(ScalarValue::Date32(Some(10_471))), "'1998-09-02'");
        check(lit(ScalarValue::Decimal128(Some(1234), 15, 2)), "12.34");
        check(lit(ScalarValue::Binary(Some(vec![0, 255]))), "X'00FF'");
    }

    #[test]
    fn other_kinds_read_as_sql() {
        let a = || column("a", 0);
        check(Arc::new(CastExpr::new(a(), DataType::Int64, None)), "CAST(a AS Int64)");
        check(Arc::new(NotExpr::new(Arc::new(IsNullExpr::new(a())))), "(NOT (a IS NULL))");
        check(Arc::new(LikeExpr::new(true, false, a(), lit("%x"))), "(a NOT LIKE '%x')");
        let schema = arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new("a", DataType::Int64, true)]);
        check(in_list(a(), vec![lit(1i64), lit(2i64)], &true, &schema).unwrap(), "(a NOT IN (1, 2))");
        let case = CaseExpr::try_new(Some(a()), vec![(lit(1i64), lit("one"))], Some(lit("more"))).unwrap();
        check(Arc::new(case), "CASE a WHEN 1 THEN 'one' ELSE 'more' END");
    }

    #[test]
    fn a_deep_chain_and_deep_nesting_end() {
        let leaf = || binary(column("a", 0), Operator::Eq, lit(1i64));
        let chain = (0..20_000).fold(leaf(), |chain, _| binary(chain, Operator::Or, leaf()));
        assert_eq!(sql(chain.as_ref()).matches(" OR ").count(), 20_000);
        let nested = (0..20_000).fold(column("a", 0), |inner, _| binary(inner, Operator::Plus, lit(1i64)));
        assert!(sql(nested.as_ref()).ends_with("+ 1)"));
        // Dropping such a tree recurses in DataFusion itself, which is not what is tested here.
        std::mem::forget((chain, nested));
    }
}
