//! Dates and times plus and minus intervals, and the differences between them.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use chrono::Datelike;
use datafusion::error::Result;
use sheaf_common::ErrorCode;

use super::columns::Call;
use super::moments::{self, DAY, Parsed, SECOND};
use super::{Arguments, Chapter, DATETIME, Definition, Returns, TIME, dates, numerals, refused};

const DATE: Chapter = Chapter::Date;

pub(super) const FUNCTIONS: &[Definition] = &[
    Definition::new(DATE, "addtime", 2..=2, Returns::By(addtime_type), |c| addtime(c, 1)),
    Definition::new(DATE, "subtime", 2..=2, Returns::By(addtime_type), |c| addtime(c, -1)),
    Definition::new(DATE, "timediff", 2..=2, Returns::Time, timediff),
    Definition::new(DATE, "timestampdiff", 3..=3, Returns::Int, timestampdiff),
    // date, amount, unit: DATE_ADD, DATE_SUB, ADDDATE, SUBDATE, TIMESTAMPADD, `+ INTERVAL` and `- INTERVAL`.
    Definition::new(DATE, "op.date_add", 3..=3, Returns::By(date_add_type), |c| date_add(c, 1)),
    Definition::new(DATE, "op.date_sub", 3..=3, Returns::By(date_add_type), |c| date_add(c, -1)),
];

/// An interval's unit: of one number or of several, which a text gives with any punctuation between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unit {
    name: &'static str,
    /// Of the last number that a text gives.
    last: Part,
    /// How many numbers a text may give.
    n_parts: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Year,
    Quarter,
    Month,
    Week,
    Day,
    Hour,
    Minute,
    Second,
    Microsecond,
}

const UNITS: &[Unit] = &[
    Unit { name: "microsecond", last: Part::Microsecond, n_parts: 1 },
    Unit { name: "second", last: Part::Second, n_parts: 1 },
    Unit { name: "minute", last: Part::Minute, n_parts: 1 },
    Unit { name: "hour", last: Part::Hour, n_parts: 1 },
    Unit { name: "day", last: Part::Day, n_parts: 1 },
    Unit { name: "week", last: Part::Week, n_parts: 1 },
    Unit { name: "month", last: Part::Month, n_parts: 1 },
    Unit { name: "quarter", last: Part::Quarter, n_parts: 1 },
    Unit { name: "year", last: Part::Year, n_parts: 1 },
    Unit { name: "second_microsecond", last: Part::Microsecond, n_parts: 2 },
    Unit { name: "minute_microsecond", last: Part::Microsecond, n_parts: 3 },
    Unit { name: "minute_second", last: Part::Second, n_parts: 2 },
    Unit { name: "hour_microsecond", last: Part::Microsecond, n_parts: 4 },
    Unit { name: "hour_second", last: Part::Second, n_parts: 3 },
    Unit { name: "hour_minute", last: Part::Minute, n_parts: 2 },
    Unit { name: "day_microsecond", last: Part::Microsecond, n_parts: 5 },
    Unit { name: "day_second", last: Part::Second, n_parts: 4 },
    Unit { name: "day_minute", last: Part::Minute, n_parts: 3 },
    Unit { name: "day_hour", last: Part::Hour, n_parts: 2 },
    Unit { name: "year_month", last: Part::Month, n_parts: 2 },
];

impl Unit {
    fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix("sql_tsi_").unwrap_or(&name);
        UNITS.iter().find(|it| it.name == name).copied()
    }

    /// Whether a date stays one when it is added.
    fn is_of_days(self) -> bool {
        self.last <= Part::Day
    }
}

/// Months and microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amount {
    months: i64,
    micros: i64,
}

impl Amount {
    fn add(&mut self, part: Part, n: i64) -> Option<()> {
        let months = match part {
            Part::Year => 12,
            Part::Quarter => 3,
            Part::Month => 1,
            _ => 0,
        };
        let micros = match part {
            Part::Week => 7 * DAY,
            Part::Day => DAY,
            Part::Hour => 3600 * SECOND,
            Part::Minute => 60 * SECOND,
            Part::Second => SECOND,
            Part::Microsecond => 1,
            Part::Year | Part::Quarter | Part::Month => 0,
        };
        self.months = self.months.checked_add(n.checked_mul(months)?)?;
        self.micros = self.micros.checked_add(n.checked_mul(micros)?)?;
        Some(())
    }

    fn times(self, sign: i64) -> Option<Self> {
        Some(Self { months: self.months.checked_mul(sign)?, micros: self.micros.checked_mul(sign)? })
    }
}

/// The parts of a unit in order, the last of them `unit.last`.
fn parts(unit: Unit) -> &'static [Part] {
    const ALL: [Part; 7] =
        [Part::Year, Part::Month, Part::Day, Part::Hour, Part::Minute, Part::Second, Part::Microsecond];
    let end = ALL.iter().position(|it| *it == unit.last).map_or(0, |it| it + 1);
    &ALL[end.saturating_sub(unit.n_parts)..end]
}

/// `'1 2:3:4'` as the amount of a unit of several parts: fewer numbers than the unit has are its last ones.
fn amount_of_text(text: &str, unit: Unit) -> Option<Amount> {
    let text = text.trim();
    let is_negative = text.starts_with('-');
    let mut numbers: Vec<(i64, usize)> = vec![];
    for digits in text.split(|it: char| !it.is_ascii_digit()).filter(|it| !it.is_empty()) {
        numbers.push((digits.parse().ok()?, digits.len()));
    }
    let parts = parts(unit);
    let mut amount = Amount::default();
    if numbers.len() > parts.len() {
        return None;
    }
    for ((number, n_digits), part) in numbers.iter().rev().zip(parts.iter().rev()) {
        // `1.5` seconds and microseconds: the digits stand behind a point.
        let number = match part {
            Part::Microsecond if *n_digits < 6 => number.checked_mul(10i64.pow(6 - *n_digits as u32))?,
            _ => *number,
        };
        amount.add(*part, number)?;
    }
    amount.times(if is_negative { -1 } else { 1 })
}

fn unit_of(arguments: &Arguments) -> Option<Unit> {
    arguments.text(2).and_then(Unit::of)
}

/// A date stays a date under days, months and years. A text becomes a date and time.
fn date_add_type(arguments: &Arguments) -> Result<DataType> {
    let is_of_days = match arguments.value(2) {
        None => false,
        Some(_) => match unit_of(arguments) {
            Some(unit) => unit.is_of_days(),
            None => {
                let name = arguments.text(2).unwrap_or_default();
                return refused(ErrorCode::InvalidArgument, format!("there is no unit {name} of intervals"));
            }
        },
    };
    Ok(match arguments.data_type(0) {
        DataType::Date32 | DataType::Date64 if is_of_days => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) => TIME,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        _ => DATETIME,
    })
}

fn date_add(c: &Call, sign: i64) -> Result<ArrayRef> {
    let names = c.text(2)?;
    let Some(unit) = names.get(0).and_then(Unit::of) else {
        return refused(ErrorCode::InvalidArgument, "the unit of an interval has to be a constant");
    };
    let (texts, floats, ints) = (c.text(1)?, c.float(1)?, c.int(1)?);
    let is_float = matches!(c.data_type(1), DataType::Float16 | DataType::Float32 | DataType::Float64);
    let amount = |row: usize| -> Option<Amount> {
        let mut amount = Amount::default();
        if unit.n_parts > 1 {
            amount = amount_of_text(texts.get(row)?, unit)?;
        } else if unit.last == Part::Second {
            // Seconds alone may have a fraction, in a decimal or a text.
            let seconds = floats.get(row)?;
            amount.micros = numerals::int_of_float((seconds * 1e6).round());
        } else if is_float {
            amount.add(unit.last, numerals::int_of_float(floats.get(row)?.round()))?;
        } else {
            amount.add(unit.last, ints.get(row)?)?;
        }
        amount.times(sign)
    };
    if matches!(c.return_type(), DataType::Duration(_)) {
        let span = c.span(0)?;
        return c.spans_of(|row| {
            let amount = amount(row)?;
            (amount.months == 0).then_some(span.get(row)?.checked_add(amount.micros)?)
        });
    }
    let at = c.moment(0)?;
    let sum = |row: usize| -> Option<i64> {
        let amount = amount(row)?;
        let moved = moments::add_months(moments::datetime(at.get(row)?)?, amount.months)?;
        dates::in_range(moved.and_utc().timestamp_micros().checked_add(amount.micros)?)
    };
    match c.return_type() {
        DataType::Date32 => c.dates_of(|row| Some(moments::datetime(sum(row)?)?.date())),
        // A text's sum shows a time only where the text or the unit had one.
        DataType::Utf8 => c.texts_of(|row| {
            let (sum, Parsed { has_time, .. }) = (sum(row)?, at.parsed(row)?);
            match has_time || !unit.is_of_days() {
                true => moments::moment_text(sum),
                false => Some(moments::datetime(sum)?.format("%Y-%m-%d").to_string()),
            }
        }),
        _ => c.moments_of(sum),
    }
}

fn addtime_type(arguments: &Arguments) -> Result<DataType> {
    Ok(match arguments.data_type(0) {
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => DATETIME,
        DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) => TIME,
        _ => DataType::Utf8,
    })
}

fn addtime(c: &Call, sign: i64) -> Result<ArrayRef> {
    let (at, span, added) = (c.moment(0)?, c.span(0)?, c.span(1)?);
    let moved = |value: i64, row: usize| value.checked_add(added.get(row)?.checked_mul(sign)?);
    match c.return_type() {
        DataType::Timestamp(..) => c.moments_of(|row| dates::in_range(moved(at.get(row)?, row)?)),
        DataType::Duration(_) => c.spans_of(|row| moved(span.get(row)?, row)),
        _ => {
            let text = c.text(0)?;
            c.texts_of(|row| match is_date_and_time(text.get(row)?) {
                true => moments::moment_text(dates::in_range(moved(at.get(row)?, row)?)?),
                false => Some(moments::span_text(moved(span.get(row)?, row)?)),
            })
        }
    }
}

/// A date and a time, rather than a time alone.
fn is_date_and_time(text: &str) -> bool {
    let n_digits = text.trim().bytes().take_while(u8::is_ascii_digit).count();
    matches!(text.trim().as_bytes().get(n_digits), Some(b'-' | b'/')) || n_digits >= 12
}

/// Both have to be times, or both dates and times.
fn timediff(c: &Call) -> Result<ArrayRef> {
    let is_moment = |idx: usize, text: Option<&str>| match c.data_type(idx) {
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => true,
        DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) => false,
        _ => text.is_some_and(is_date_and_time),
    };
    let (texts, moments, spans) = ([c.text(0)?, c.text(1)?], [c.moment(0)?, c.moment(1)?], [c.span(0)?, c.span(1)?]);
    c.spans_of(|row| {
        let kinds = [0, 1].map(|idx| is_moment(idx, texts[idx].get(row)));
        match kinds {
            [true, true] => moments[0].get(row)?.checked_sub(moments[1].get(row)?),
            [false, false] => spans[0].get(row)?.checked_sub(spans[1].get(row)?),
            _ => None,
        }
    })
}

/// unit, from, to: how many whole units lie between them.
fn timestampdiff(c: &Call) -> Result<ArrayRef> {
    let name = c.text(0)?;
    let Some(unit) = name.get(0).and_then(Unit::of).filter(|it| it.n_parts == 1) else {
        let name = name.get(0).unwrap_or_default();
        return refused(ErrorCode::InvalidArgument, format!("there is no unit {name} of TIMESTAMPDIFF"));
    };
    let (from, to) = (c.moment(1)?, c.moment(2)?);
    c.ints_of(|row| {
        let (from, to) = (from.get(row)?, to.get(row)?);
        let micros = to.checked_sub(from)?;
        let per = match unit.last {
            Part::Microsecond => 1,
            Part::Second => SECOND,
            Part::Minute => 60 * SECOND,
            Part::Hour => 3600 * SECOND,
            Part::Day => DAY,
            Part::Week => 7 * DAY,
            Part::Month => return whole_months(from, to),
            Part::Quarter => return Some(whole_months(from, to)? / 3),
            Part::Year => return Some(whole_months(from, to)? / 12),
        };
        Some(micros / per)
    })
}

fn whole_months(from: i64, to: i64) -> Option<i64> {
    if from > to {
        return whole_months(to, from).map(|it| -it);
    }
    let (a, b) = (moments::datetime(from)?, moments::datetime(to)?);
    let months = (i64::from(b.year()) - i64::from(a.year())) * 12 + i64::from(b.month()) - i64::from(a.month());
    let is_short = (b.day(), b.time()) < (a.day(), a.time());
    Some(months - i64::from(is_short))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, unit: &str, months: i64, micros: i64) {
        assert_eq!(amount_of_text(text, Unit::of(unit).unwrap()), Some(Amount { months, micros }), "{text} {unit}");
    }

    #[test]
    fn texts_give_the_last_parts_of_a_unit() {
        check("1:1", "minute_second", 0, 61 * SECOND);
        check("1 10", "day_hour", 0, DAY + 10 * 3600 * SECOND);
        check("-1 10", "day_hour", 0, -DAY - 10 * 3600 * SECOND);
        check("1.999999", "second_microsecond", 0, 1_999_999);
        check("1.5", "second_microsecond", 0, 1_500_000);
        check("2-3", "year_month", 27, 0);
        check("10", "day_minute", 0, 600 * SECOND);
        assert_eq!(amount_of_text("1:2:3", Unit::of("minute_second").unwrap()), None);
        assert_eq!(Unit::of("SQL_TSI_DAY"), Unit::of("day"));
        assert_eq!(Unit::of("fortnight"), None);
    }

    #[test]
    fn months_are_whole() {
        let at = |text: &str| moments::parse_moment(text).unwrap().moment;
        assert_eq!(whole_months(at("2003-02-01"), at("2003-05-01")), Some(3));
        assert_eq!(whole_months(at("2024-01-31"), at("2024-02-29")), Some(0));
        assert_eq!(whole_months(at("2002-05-01"), at("2001-01-01")), Some(-16));
    }
}
