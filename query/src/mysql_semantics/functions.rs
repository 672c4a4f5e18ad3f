//! Calls of MySQL's functions as the plan's: of those that [`crate::functions::mysql`] has, of the engine's under
//! another name, and as expressions where SQL has the same.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, DataType as SqlType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    Ident, ObjectName, Value, helpers::attached_token::AttachedToken,
};

use super::{aggregates, binary, call, cast, intervals, nested, null_if_zero, number, ours, text, truth};
use crate::error::QueryError;
use crate::functions::mysql;

/// Names that only read otherwise: MySQL's and the engine's.
const RENAMED: &[(&str, &str)] = &[("std", "stddev_pop"), ("stddev", "stddev_pop"), ("variance", "var_pop")];

/// MySQL's functions of the clock, with what they give.
const CLOCKS: &[(&str, Clock)] = &[
    ("curdate", Clock::Date),
    ("current_date", Clock::Date),
    ("current_time", Clock::Time),
    ("current_timestamp", Clock::DateTime),
    ("curtime", Clock::Time),
    ("localtime", Clock::DateTime),
    ("localtimestamp", Clock::DateTime),
    ("now", Clock::DateTime),
    ("sysdate", Clock::DateTime),
    ("utc_date", Clock::UtcDate),
    ("utc_time", Clock::UtcTime),
    ("utc_timestamp", Clock::UtcDateTime),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    Date,
    Time,
    DateTime,
    UtcDate,
    UtcTime,
    UtcDateTime,
}

/// Functions that the rewriting itself knows, with the least and the most of their arguments. The table in the
/// documentation lists them with the others.
pub const REWRITTEN: &[(&str, usize, usize)] = &[
    ("adddate", 2, 2),
    ("charset", 1, 1),
    ("coercibility", 1, 1),
    ("collation", 1, 1),
    ("date_add", 2, 2),
    ("date_sub", 2, 2),
    ("get_lock", 2, 2),
    ("if", 3, 3),
    ("ifnull", 2, 2),
    ("is_free_lock", 1, 1),
    ("is_used_lock", 1, 1),
    ("md5", 1, 1),
    ("mod", 2, 2),
    ("nullif", 2, 2),
    ("release_lock", 1, 1),
    ("sleep", 1, 1),
    ("subdate", 2, 2),
    ("timestampadd", 3, 3),
    ("unix_timestamp", 0, 1),
];

/// The names of the functions of the clock.
pub fn clocks() -> impl Iterator<Item = &'static str> {
    CLOCKS.iter().map(|(name, _)| *name)
}

/// The call in the engine's terms; none if it means the same there, or nothing.
///
/// Errs when MySQL's function does not take so many arguments.
pub(super) fn rewrite(function: &mut Function) -> Result<Option<Expr>, QueryError> {
    let [name] = function.name.0.as_slice() else { return Ok(None) };
    let Some(name) = name.as_ident().map(|it| it.value.to_lowercase()) else { return Ok(None) };
    if let Some(aggregate) = aggregates::rewrite(&name, function)? {
        return Ok(Some(aggregate));
    }
    let renamed = RENAMED.iter().find(|(it, _)| *it == name).map(|(_, engine_name)| *engine_name);
    if let Some(engine_name) = renamed {
        function.name = ObjectName::from(vec![Ident::new(engine_name)]);
    }
    if function.over.is_some() || function.filter.is_some() {
        return Ok(None);
    }
    let Some(mut arguments) = arguments(function) else { return Ok(None) };
    if let Some((_, clock)) = CLOCKS.iter().find(|(it, _)| *it == name) {
        return clock_call(*clock, &name, arguments).map(Some);
    }
    if let Some((_, least, most)) = REWRITTEN.iter().find(|(it, ..)| *it == name)
        && !(*least..=*most).contains(&arguments.len())
    {
        return Err(wrong_count(&name));
    }
    if let Some(rewritten) = special(&name, &mut arguments)? {
        return Ok(Some(rewritten));
    }
    if renamed.is_some() {
        return Ok(None);
    }
    let Some(definition) = mysql::find(&name) else { return Ok(None) };
    mysql::check_count(definition, arguments.len())?;
    Ok(Some(ours(&name, arguments)))
}

pub(super) fn wrong_count(name: &str) -> QueryError {
    let text = format!("incorrect parameter count in the call to native function '{name}'");
    sheaf_common::WireError::new(sheaf_common::ErrorCode::ParameterCount, text).into()
}

/// Calls that are more than another name.
fn special(name: &str, arguments: &mut [Expr]) -> Result<Option<Expr>, QueryError> {
    let taken = |idx: usize| arguments[idx].clone();
    Ok(Some(match (name, arguments.len()) {
        ("if", 3) => case(truth(taken(0)), taken(1), taken(2)),
        ("mod", 2) => nested(binary(taken(0), BinaryOperator::Modulo, null_if_zero(taken(1)))),
        ("ifnull", 2) => ours("coalesce", vec![taken(0), taken(1)]),
        ("nullif", 2) => case(binary(taken(0), BinaryOperator::Eq, taken(1)), super::null(), taken(0)),
        ("md5", 1) => call("md5", vec![ours("op.text", vec![taken(0)])]),
        ("unix_timestamp", 0) => ours("unix_timestamp", vec![clock_now("op.local_now", number(0))]),
        ("adddate" | "date_add", 2) => intervals::moved(taken(0), taken(1), "op.date_add")?,
        ("subdate" | "date_sub", 2) => intervals::moved(taken(0), taken(1), "op.date_sub")?,
        ("timestampadd", 3) => {
            let unit = unit_name(&arguments[0]).ok_or_else(|| no_unit(&arguments[0]))?;
            ours("op.date_add", vec![taken(2), taken(1), text(unit)])
        }
        ("timestampdiff" | "get_format", 2 | 3) => {
            if let Some(unit) = unit_name(&arguments[0]) {
                arguments[0] = text(unit);
            }
            return Ok(None);
        }
        // Texts have one character set and are compared by their bytes.
        ("charset", 1) => text("utf8mb4"),
        ("collation", 1) => text("utf8mb4_bin"),
        ("coercibility", 1) => number(4),
        // Locks between sessions: each is alone with what it may write.
        ("get_lock" | "release_lock" | "is_free_lock", _) => number(1),
        ("is_used_lock", 1) => super::null(),
        ("sleep", 1) => ours(mysql::sleep::NAME, vec![ours("op.number", vec![taken(0)])]),
        _ => return Ok(None),
    }))
}

/// `NOW(3)`: the digits of the fraction are a constant from 0 to 6.
fn clock_call(clock: Clock, name: &str, arguments: Vec<Expr>) -> Result<Expr, QueryError> {
    let digits = match <[Expr; 1]>::try_from(arguments) {
        Ok([digits]) if !matches!(clock, Clock::Date | Clock::UtcDate) => digits,
        Err(none) if none.is_empty() => number(0),
        _ => return Err(wrong_count(name)),
    };
    let is_in_range = matches!(&digits, Expr::Value(value)
        if matches!(&value.value, Value::Number(text, _) if text.parse::<u8>().is_ok_and(|it| it <= 6)));
    if !is_in_range {
        return Err(QueryError::InvalidArgument(format!("too big precision specified for '{name}', maximum is 6")));
    }
    Ok(match clock {
        Clock::DateTime => clock_now("op.local_now", digits),
        Clock::UtcDateTime => clock_now("op.utc_now", digits),
        Clock::Date => ours("date", vec![clock_now("op.local_now", digits)]),
        Clock::UtcDate => ours("date", vec![clock_now("op.utc_now", digits)]),
        Clock::Time => ours("time", vec![clock_now("op.local_now", digits)]),
        Clock::UtcTime => ours("time", vec![clock_now("op.utc_now", digits)]),
    })
}

/// The engine's `now()` is one instant for the whole statement, on all nodes.
fn clock_now(name: &str, digits: Expr) -> Expr {
    ours(name, vec![call("now", vec![]), digits])
}

/// `DAY` where a function takes a word: the parser reads it as a column.
pub(super) fn unit_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) if ident.quote_style.is_none() => Some(ident.value.to_lowercase()),
        _ => None,
    }
}

fn no_unit(expr: &Expr) -> QueryError {
    QueryError::InvalidArgument(format!("{expr} is no unit of intervals"))
}

/// The arguments of a plain call: expressions without names or clauses.
pub(super) fn arguments(function: &Function) -> Option<Vec<Expr>> {
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

pub(super) fn case(condition: Expr, then: Expr, otherwise: Expr) -> Expr {
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition, result: then }],
        else_result: Some(Box::new(otherwise)),
    }
}

/// MySQL's types in CAST and CONVERT as functions that never fail; none for the engine's own types.
pub(super) fn cast_call(value: &Expr, data_type: &SqlType) -> Option<Expr> {
    use datafusion::sql::sqlparser::ast::{CharacterLength, ExactNumberInfo};
    let one = |name: &str| Some(ours(name, vec![value.clone()]));
    let with = |name: &str, argument: Option<u64>| {
        let argument = argument.map(|it| number(i64::try_from(it).unwrap_or(i64::MAX)));
        Some(ours(name, std::iter::once(value.clone()).chain(argument).collect()))
    };
    let length = |it: &Option<CharacterLength>| match it {
        Some(CharacterLength::IntegerLength { length, .. }) => Some(*length),
        _ => None,
    };
    match data_type {
        SqlType::Signed | SqlType::SignedInteger => one("op.cast_signed"),
        SqlType::Unsigned | SqlType::UnsignedInteger => one("op.cast_unsigned"),
        SqlType::Float(_) | SqlType::Double(_) | SqlType::DoublePrecision | SqlType::Real => one("op.cast_double"),
        SqlType::Char(it) | SqlType::Character(it) | SqlType::Nvarchar(it) => with("op.cast_char", length(it)),
        SqlType::Binary(it) => with("op.cast_binary", *it),
        SqlType::Date => one("op.cast_date"),
        SqlType::Datetime(digits) => with("op.cast_datetime", Some(digits.unwrap_or(0))),
        SqlType::Time(digits, _) => with("op.cast_time", Some(digits.unwrap_or(0))),
        SqlType::JSON => one("op.cast_json"),
        SqlType::Custom(name, _) if name.to_string().eq_ignore_ascii_case("year") => one("op.cast_year"),
        SqlType::Decimal(info) | SqlType::Dec(info) | SqlType::Numeric(info) => {
            let (precision, scale) = match info {
                // DECIMAL alone has ten digits and no fraction.
                ExactNumberInfo::None => (10, 0),
                ExactNumberInfo::Precision(precision) => (*precision, 0),
                ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
            };
            let precision = number(i64::try_from(precision).unwrap_or(i64::MAX));
            Some(ours("op.cast_decimal", vec![value.clone(), precision, number(scale)]))
        }
        _ => None,
    }
}

/// `1e3` is a double, however the engine reads numbers with a point.
pub(super) fn double(text_of_number: &str) -> Expr {
    use datafusion::sql::sqlparser::ast::ExactNumberInfo;
    cast(text(text_of_number), SqlType::Double(ExactNumberInfo::None))
}
