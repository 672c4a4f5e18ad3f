//! MySQL's aggregates in terms of the engine's.

use datafusion::sql::sqlparser::ast::{
    DataType as SqlType, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArguments, Ident, ObjectName, Value,
};

use super::functions::wrong_count;
use super::{call, cast, is_text, ours, text};
use crate::error::QueryError;

/// MySQL's aggregates, for the table in the documentation.
pub const AGGREGATES: &[&str] = &[
    "any_value",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "count",
    "group_concat",
    "json_arrayagg",
    "json_objectagg",
    "max",
    "min",
    "std",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "sum",
    "var_pop",
    "var_samp",
    "variance",
];

/// The call in the engine's terms. None, with or without changes within it, if the call stays one of its name.
pub(super) fn rewrite(name: &str, function: &mut Function) -> Result<Option<Expr>, QueryError> {
    match name {
        "group_concat" => return group_concat(function).map(Some),
        "avg" => return Ok(average(function)),
        // Any value will do: the least is the same in every attempt of a task.
        "any_value" => rename(function, "min"),
        "count" => count_distinct(function),
        "sum" | "std" | "stddev" | "stddev_pop" | "stddev_samp" | "var_pop" | "var_samp" | "variance" => {
            each_argument(function, |it| ours("op.number", vec![it]));
        }
        "bit_and" | "bit_or" | "bit_xor" => {
            each_argument(function, |it| ours("op.cast_unsigned", vec![it]));
            let empty = if name == "bit_and" { u64::MAX } else { 0 };
            let empty = Expr::Value(Value::Number(empty.to_string(), false).into());
            let bits = Expr::Function(std::mem::replace(function, placeholder()));
            return Ok(Some(call("coalesce", vec![bits, cast(empty, SqlType::BigIntUnsigned(None))])));
        }
        "json_arrayagg" => return json(name, function, "op.json_element", "[]").map(Some),
        "json_objectagg" => return json(name, function, "op.json_member", "{}").map(Some),
        _ => {}
    }
    Ok(None)
}

fn rename(function: &mut Function, name: &str) {
    function.name = ObjectName::from(vec![Ident::new(name)]);
}

fn placeholder() -> Function {
    match call("coalesce", vec![]) {
        Expr::Function(function) => function,
        _ => unreachable!("a call is a function"),
    }
}

fn each_argument(function: &mut Function, change: impl Fn(Expr) -> Expr) {
    let FunctionArguments::List(list) = &mut function.args else { return };
    for argument in &mut list.args {
        if let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = argument {
            *expr = change(std::mem::replace(expr, super::null()));
        }
    }
}

/// `AVG(x)` is the quotient of a sum and a count: exact for exact numbers, with four digits more.
fn average(function: &mut Function) -> Option<Expr> {
    match &function.args {
        FunctionArguments::List(list) if list.args.len() == 1 => {}
        // The engine says what is wrong.
        _ => return None,
    }
    let mut sum = function.clone();
    rename(&mut sum, "sum");
    each_argument(&mut sum, |it| ours("op.exact", vec![it]));
    let mut count = std::mem::replace(function, placeholder());
    rename(&mut count, "count");
    Some(ours("op.divide", vec![Expr::Function(sum), Expr::Function(count)]))
}

/// `COUNT(DISTINCT a, b)` counts the pairs without NULL.
fn count_distinct(function: &mut Function) {
    let FunctionArguments::List(list) = &mut function.args else { return };
    if list.duplicate_treatment != Some(DuplicateTreatment::Distinct) || list.args.len() < 2 {
        return;
    }
    let parts = plain(&list.args);
    list.args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(ours("op.key", parts)))];
}

fn plain(arguments: &[FunctionArg]) -> Vec<Expr> {
    let expr = |it: &FunctionArg| match it {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    arguments.iter().filter_map(expr).collect()
}

/// `JSON_ARRAYAGG(x)`: each value as JSON, joined, between brackets.
fn json(name: &str, function: &mut Function, element: &str, brackets: &str) -> Result<Expr, QueryError> {
    let FunctionArguments::List(list) = &mut function.args else { return Err(wrong_count(name)) };
    let parts = plain(&list.args);
    if parts.len() != if name == "json_arrayagg" { 1 } else { 2 } {
        return Err(wrong_count(name));
    }
    let joined = [ours(element, parts), text(", ")];
    list.args = joined.into_iter().map(|it| FunctionArg::Unnamed(FunctionArgExpr::Expr(it))).collect();
    rename(function, "string_agg");
    let joined = Expr::Function(std::mem::replace(function, placeholder()));
    Ok(ours("op.json_joined", vec![joined, text(brackets)]))
}

/// `GROUP_CONCAT(x ORDER BY y SEPARATOR ';')` → `string_agg(x, ';' ORDER BY y)`.
///
/// `DISTINCT` and `ORDER BY` of the value itself go by way of a list, since the values are to be ordered by what they
/// are and not by their texts.
fn group_concat(function: &mut Function) -> Result<Expr, QueryError> {
    let FunctionArguments::List(list) = &mut function.args else { return Err(wrong_count("group_concat")) };
    let mut separator = text(",");
    let mut order_by = None;
    list.clauses.retain(|it| match it {
        FunctionArgumentClause::Separator(value) => {
            separator = Expr::Value(value.clone());
            false
        }
        FunctionArgumentClause::OrderBy(exprs) => {
            order_by = Some(exprs.clone());
            true
        }
        _ => true,
    });
    let mut parts = plain(&list.args);
    if parts.is_empty() {
        return Err(wrong_count("group_concat"));
    }
    let is_distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
    let is_by_value =
        parts.len() == 1 && order_by.is_some_and(|it| it.len() == 1 && it[0].expr == parts[0] && !is_text(&parts[0]));
    if is_distinct && is_by_value {
        let value = parts.swap_remove(0);
        list.args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(value.clone()))];
        rename(function, "array_agg");
        function.filter = Some(Box::new(Expr::IsNotNull(Box::new(value))));
        let list = Expr::Function(std::mem::replace(function, placeholder()));
        return Ok(call("array_to_string", vec![list, separator]));
    }
    let value = match parts.len() {
        1 => ours("op.text", parts),
        _ => ours("concat", parts),
    };
    list.args = [value, separator].into_iter().map(|it| FunctionArg::Unnamed(FunctionArgExpr::Expr(it))).collect();
    rename(function, "string_agg");
    Ok(Expr::Function(std::mem::replace(function, placeholder())))
}
