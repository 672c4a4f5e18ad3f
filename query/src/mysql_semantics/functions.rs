//! MySQL's functions in terms of the engine's, where a name, an order of arguments or the meaning of NULL differs.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, DataType as SqlType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArguments, Ident, ObjectName, TimezoneInfo, Value,
    helpers::attached_token::AttachedToken,
};

use super::{binary, call, cast, nested, null_if_zero, number, text};

/// Names that only read otherwise: MySQL's and the engine's.
const RENAMED: &[(&str, &str)] = &[
    ("ceiling", "ceil"),
    ("char", "chr"),
    ("curdate", "current_date"),
    ("curtime", "current_time"),
    ("lcase", "lower"),
    ("length", "octet_length"),
    ("localtime", "now"),
    ("localtimestamp", "now"),
    ("log", "ln"),
    ("mid", "substr"),
    ("ord", "ascii"),
    ("sign", "signum"),
    ("std", "stddev_pop"),
    ("stddev", "stddev_pop"),
    ("sysdate", "now"),
    ("truncate", "trunc"),
    ("ucase", "upper"),
    ("utc_timestamp", "now"),
    ("variance", "var_pop"),
];

/// Functions that are one part of a date or time.
const PARTS: &[(&str, &str)] = &[
    ("day", "day"),
    ("dayofmonth", "day"),
    ("dayofyear", "doy"),
    ("hour", "hour"),
    ("minute", "minute"),
    ("month", "month"),
    ("quarter", "quarter"),
    ("second", "second"),
    ("week", "week"),
    ("weekofyear", "week"),
    ("year", "year"),
];

/// The call in the engine's terms; none if it means the same there, or nothing.
pub(super) fn rewrite(function: &mut Function) -> Option<Expr> {
    let name = match function.name.0.as_slice() {
        [name] => name.as_ident()?.value.to_lowercase(),
        _ => return None,
    };
    if name == "group_concat" {
        group_concat(function);
        return None;
    }
    if let Some((_, engine_name)) = RENAMED.iter().find(|(it, _)| *it == name) {
        let n_arguments = arguments(function).map_or(0, |it| it.len());
        // LOG(base, x) has the same name and order in the engine.
        if name == "log" && n_arguments != 1 {
            return None;
        }
        function.name = ObjectName::from(vec![Ident::new(*engine_name)]);
        if matches!(*engine_name, "now" | "current_date" | "current_time") {
            return Some(call(engine_name, vec![]));
        }
        return None;
    }
    if function.over.is_some() || function.filter.is_some() {
        return None;
    }
    let arguments = arguments(function)?;
    if let Some((_, part)) = PARTS.iter().find(|(it, _)| *it == name) {
        let [value] = <[Expr; 1]>::try_from(arguments).ok()?;
        return Some(call("date_part", vec![text(*part), value]));
    }
    match (name.as_str(), arguments.as_slice()) {
        ("if", [condition, then, otherwise]) => Some(case(condition.clone(), then.clone(), otherwise.clone())),
        ("isnull", [value]) => Some(nested(Expr::IsNull(Box::new(value.clone())))),
        ("mod", [left, right]) => {
            Some(nested(binary(left.clone(), BinaryOperator::Modulo, null_if_zero(right.clone()))))
        }
        ("concat", [_, ..]) => Some(concat(arguments)),
        ("locate", [part, whole]) => Some(call("strpos", vec![whole.clone(), part.clone()])),
        ("now" | "current_timestamp", [_]) => Some(call("now", vec![])),
        ("date", [value]) => Some(cast(value.clone(), SqlType::Date)),
        ("dayofweek", [value]) => Some(nested(binary(weekday_from_sunday(value), BinaryOperator::Plus, number(1)))),
        ("weekday", [value]) => {
            let shifted = nested(binary(weekday_from_sunday(value), BinaryOperator::Plus, number(6)));
            Some(nested(binary(shifted, BinaryOperator::Modulo, number(7))))
        }
        ("dayname", [value]) => Some(call("to_char", vec![value.clone(), text("%A")])),
        ("monthname", [value]) => Some(call("to_char", vec![value.clone(), text("%B")])),
        ("date_format", [value, Expr::Value(format)]) => match &format.value {
            Value::SingleQuotedString(format) | Value::DoubleQuotedString(format) => {
                Some(call("to_char", vec![value.clone(), text(time_format(format))]))
            }
            _ => None,
        },
        ("date_add" | "adddate", [date, interval @ Expr::Interval(_)]) => {
            Some(nested(binary(dated(date.clone()), BinaryOperator::Plus, interval.clone())))
        }
        ("date_sub" | "subdate", [date, interval @ Expr::Interval(_)]) => {
            Some(nested(binary(dated(date.clone()), BinaryOperator::Minus, interval.clone())))
        }
        // Locks between sessions: each is alone with what it may write.
        ("get_lock" | "release_lock", _) => Some(number(1)),
        _ => None,
    }
}

/// The arguments of a plain call: expressions without names or clauses.
fn arguments(function: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(list) = &function.args else { return Some(vec![]) };
    if list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
        return None;
    }
    let plain = |it: &FunctionArg| match it {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    list.args.iter().map(plain).collect()
}

fn case(condition: Expr, then: Expr, otherwise: Expr) -> Expr {
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition, result: then }],
        else_result: Some(Box::new(otherwise)),
    }
}

/// NULL if any part is NULL, which the engine's own `concat` leaves out.
fn concat(parts: Vec<Expr>) -> Expr {
    let is_text = |it: &Expr| matches!(it, Expr::Value(value) if matches!(value.value, Value::SingleQuotedString(_) | Value::DoubleQuotedString(_)));
    let as_text = |it: Expr| if is_text(&it) { it } else { cast(it, SqlType::Varchar(None)) };
    let joined = parts.into_iter().map(as_text).reduce(|left, right| binary(left, BinaryOperator::StringConcat, right));
    nested(joined.unwrap_or_else(|| text("")))
}

/// `GROUP_CONCAT(x ORDER BY y SEPARATOR ';')` → `string_agg(x, ';' ORDER BY y)`.
fn group_concat(function: &mut Function) {
    let FunctionArguments::List(list) = &mut function.args else { return };
    let mut separator = text(",");
    list.clauses.retain(|it| match it {
        FunctionArgumentClause::Separator(value) => {
            separator = Expr::Value(value.clone());
            false
        }
        _ => true,
    });
    let plain: Vec<Expr> = list
        .args
        .iter()
        .filter_map(|it| match it {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
            _ => None,
        })
        .collect();
    let value = match <[Expr; 1]>::try_from(plain) {
        Ok([value]) => cast(value, SqlType::Varchar(None)),
        Err(parts) => concat(parts),
    };
    list.args = [value, separator].into_iter().map(|it| FunctionArg::Unnamed(FunctionArgExpr::Expr(it))).collect();
    function.name = ObjectName::from(vec![Ident::new("string_agg")]);
}

/// A text that is to be a date or a time, as one.
fn dated(expr: Expr) -> Expr {
    let n_characters = match &expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => text.trim().len(),
            _ => 0,
        },
        _ => 0,
    };
    match n_characters {
        0 => expr,
        // `2024-03-05` and shorter forms of it.
        1..=10 => cast(expr, SqlType::Date),
        _ => cast(expr, SqlType::Timestamp(None, TimezoneInfo::None)),
    }
}

/// Sunday is 0.
fn weekday_from_sunday(value: &Expr) -> Expr {
    call("date_part", vec![text("dow"), value.clone()])
}

/// MySQL's letters for parts of a time, as the engine's.
fn time_format(format: &str) -> String {
    let mut translated = String::with_capacity(format.len());
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            translated.push(letter);
            continue;
        }
        match letters.next() {
            Some('i') => translated.push_str("%M"),
            Some('M') => translated.push_str("%B"),
            Some('s') => translated.push_str("%S"),
            Some('W') => translated.push_str("%A"),
            Some('c') => translated.push_str("%-m"),
            Some('e') => translated.push_str("%-d"),
            Some('k') => translated.push_str("%-H"),
            Some('l') => translated.push_str("%-I"),
            Some('h') => translated.push_str("%I"),
            Some('f') => translated.push_str("%6f"),
            Some('r') => translated.push_str("%I:%M:%S %p"),
            Some(other) => translated.extend(['%', other]),
            None => translated.push_str("%%"),
        }
    }
    translated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_times() {
        assert_eq!(time_format("%Y-%m-%d %H:%i:%s"), "%Y-%m-%d %H:%M:%S");
        assert_eq!(time_format("%W %M %e 100%"), "%A %B %-d 100%%");
    }
}
