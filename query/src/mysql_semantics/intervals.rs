//! `INTERVAL amount unit` beside a date.

use datafusion::sql::sqlparser::ast::{BinaryOperator, DateTimeField, Expr, Interval};

use super::{number, ours, text};
use crate::error::QueryError;

/// The date moved by an interval, or by a number of days. `function` adds or subtracts.
pub(super) fn moved(date: Expr, by: Expr, function: &str) -> Result<Expr, QueryError> {
    match by {
        Expr::Interval(interval) => match amount(&interval) {
            Some((amount, unit)) => Ok(ours(function, vec![date, amount, text(unit)])),
            None => Err(QueryError::InvalidArgument(format!(
                "the interval {} has no unit of MySQL's",
                Expr::Interval(interval)
            ))),
        },
        days => Ok(ours(function, vec![date, days, text("day")])),
    }
}

/// `date + INTERVAL 1 DAY`, `INTERVAL 1 DAY + date`, `date - INTERVAL 1 DAY`; none for other operands, and for
/// intervals in the engine's own form, which have no unit beside them.
pub(super) fn arithmetic(left: &Expr, op: &BinaryOperator, right: &Expr) -> Option<Expr> {
    let (date, interval, function) = match (left, op, right) {
        // Two intervals make one, which the engine does.
        (Expr::Interval(_), _, Expr::Interval(_)) => return None,
        (date, BinaryOperator::Plus, Expr::Interval(interval)) => (date, interval, "op.date_add"),
        (Expr::Interval(interval), BinaryOperator::Plus, date) => (date, interval, "op.date_add"),
        (date, BinaryOperator::Minus, Expr::Interval(interval)) => (date, interval, "op.date_sub"),
        _ => return None,
    };
    let (amount, unit) = amount(interval)?;
    Some(ours(function, vec![date.clone(), amount, text(unit)]))
}

fn amount(interval: &Interval) -> Option<(Expr, String)> {
    if interval.last_field.is_some() || interval.leading_precision.is_some() {
        return None;
    }
    let unit = unit(interval.leading_field.as_ref()?)?;
    Some((interval.value.as_ref().clone(), unit))
}

/// MySQL's name of a unit in small letters.
pub(super) fn unit(field: &DateTimeField) -> Option<String> {
    let name = match field {
        DateTimeField::Custom(ident) => ident.value.to_lowercase(),
        other => other.to_string().to_lowercase(),
    };
    let of_mysql = [
        "microsecond",
        "second",
        "minute",
        "hour",
        "day",
        "week",
        "month",
        "quarter",
        "year",
        "second_microsecond",
        "minute_microsecond",
        "minute_second",
        "hour_microsecond",
        "hour_second",
        "hour_minute",
        "day_microsecond",
        "day_second",
        "day_minute",
        "day_hour",
        "year_month",
    ];
    of_mysql.contains(&name.as_str()).then_some(name)
}

/// `EXTRACT(unit FROM value)`; none for units that only the engine has.
pub(super) fn extract(field: &DateTimeField, value: &Expr) -> Option<Expr> {
    Some(ours("op.extract", vec![text(unit(field)?), value.clone()]))
}

/// One where nothing is said.
pub(super) fn position_or_one(position: Option<Expr>) -> Expr {
    position.unwrap_or_else(|| number(1))
}
