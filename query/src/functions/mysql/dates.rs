//! The chapter of date and time functions, but for what adds and subtracts intervals.
//!
//! What is no date gives NULL. Zero dates (`0000-00-00`) are none: Arrow's types have no place for them.

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use chrono::{Datelike, LocalResult, NaiveDate, NaiveDateTime, Offset, TimeZone, Timelike};
use datafusion::error::Result;
use sheaf_common::ErrorCode;

use super::columns::{Call, local_moment};
use super::moments::{self, DAY, DAYS_TO_1970, FormatKind, MONTHS, SECOND, WEEKDAYS};
use super::{Arguments, Chapter, DATETIME, Definition, Returns, TIME, refused};

const DATE: Chapter = Chapter::Date;

pub(super) const FUNCTIONS: &[Definition] = &[
    Definition::new(DATE, "convert_tz", 3..=3, Returns::DateTime, convert_tz),
    Definition::new(DATE, "date", 1..=1, Returns::Date, |c| date(c, Some)),
    Definition::new(DATE, "date_format", 2..=3, Returns::Text, |c| {
        let (at, format) = (c.moment(0)?, c.text(1)?);
        // As MySQL has it, an empty format is NULL.
        c.texts_of(|row| moments::format_moment(at.get(row)?, format.get(row).filter(|it| !it.is_empty())?))
    }),
    Definition::new(DATE, "datediff", 2..=2, Returns::Int, |c| {
        let (a, b) = (c.moment(0)?, c.moment(1)?);
        c.ints_of(|row| Some(a.get(row)?.div_euclid(DAY) - b.get(row)?.div_euclid(DAY)))
    }),
    Definition::new(DATE, "day", 1..=1, Returns::Int, |c| part(c, |it| it.day().into())),
    Definition::new(DATE, "dayname", 1..=1, Returns::Text, |c| {
        let at = c.moment(0)?;
        c.texts_of(|row| Some(WEEKDAYS[at.datetime(row)?.weekday().num_days_from_monday() as usize].to_owned()))
    }),
    Definition::new(DATE, "dayofmonth", 1..=1, Returns::Int, |c| part(c, |it| it.day().into())),
    Definition::new(DATE, "dayofweek", 1..=1, Returns::Int, |c| {
        part(c, |it| i64::from(it.weekday().num_days_from_sunday()) + 1)
    }),
    Definition::new(DATE, "dayofyear", 1..=1, Returns::Int, |c| part(c, |it| it.ordinal().into())),
    Definition::new(DATE, "from_days", 1..=1, Returns::Date, |c| {
        let days = c.int(0)?;
        c.dates_of(|row| {
            let date = NaiveDate::from_num_days_from_ce_opt(i32::try_from(days.get(row)?.checked_sub(365)?).ok()?)?;
            (1..=9999).contains(&date.year()).then_some(date)
        })
    }),
    Definition::new(DATE, "from_unixtime", 1..=2, Returns::By(from_unixtime_type), from_unixtime),
    Definition::new(DATE, "get_format", 2..=2, Returns::Text, get_format),
    Definition::new(DATE, "hour", 1..=1, Returns::Int, |c| clock_part(c, |span| span.abs() / SECOND / 3600)),
    Definition::new(DATE, "last_day", 1..=1, Returns::Date, |c| {
        date(c, |it| it.with_day(moments::days_in_month(it.year(), it.month())?))
    }),
    Definition::new(DATE, "makedate", 2..=2, Returns::Date, |c| {
        let (year, day) = (c.int(0)?, c.int(1)?);
        c.dates_of(|row| {
            let (year, day) = (moments::full_year(year.get(row)?), day.get(row)?);
            let first = moments::date_of(year, 1, 1).filter(|_| day > 0)?;
            let date = first.checked_add_days(chrono::Days::new(u64::try_from(day - 1).ok()?))?;
            (date.year() <= 9999).then_some(date)
        })
    }),
    Definition::new(DATE, "maketime", 3..=3, Returns::Time, |c| {
        let (hour, minute, second) = (c.int(0)?, c.int(1)?, c.float(2)?);
        c.spans_of(|row| {
            let (hour, minute, second) = (hour.get(row)?, minute.get(row)?, second.get(row)?);
            if !(0..60).contains(&minute) || !(0.0..60.0).contains(&second) {
                return None;
            }
            let size = hour.unsigned_abs().min(1000) as i64 * 3600 + minute * 60;
            let micros = size * SECOND + (second * 1e6).round() as i64;
            Some(if hour < 0 { -micros } else { micros })
        })
    }),
    Definition::new(DATE, "microsecond", 1..=1, Returns::Int, |c| clock_part(c, |span| span.abs() % SECOND)),
    Definition::new(DATE, "minute", 1..=1, Returns::Int, |c| clock_part(c, |span| span.abs() / SECOND / 60 % 60)),
    Definition::new(DATE, "month", 1..=1, Returns::Int, |c| part(c, |it| it.month().into())),
    Definition::new(DATE, "monthname", 1..=1, Returns::Text, |c| {
        let at = c.moment(0)?;
        c.texts_of(|row| Some(MONTHS[at.datetime(row)?.month0() as usize].to_owned()))
    }),
    Definition::new(DATE, "period_add", 2..=2, Returns::Int, |c| {
        let (period, n) = (c.int(0)?, c.int(1)?);
        c.ints_of(|row| {
            let months = period_months(period.get(row)?)?.checked_add(n.get(row)?)?;
            Some(months.div_euclid(12) * 100 + months.rem_euclid(12) + 1)
        })
    }),
    Definition::new(DATE, "period_diff", 2..=2, Returns::Int, |c| {
        let (a, b) = (c.int(0)?, c.int(1)?);
        c.ints_of(|row| Some(period_months(a.get(row)?)? - period_months(b.get(row)?)?))
    }),
    Definition::new(DATE, "quarter", 1..=1, Returns::Int, |c| part(c, |it| i64::from(it.month0()) / 3 + 1)),
    Definition::new(DATE, "sec_to_time", 1..=1, Returns::Time, |c| {
        let seconds = c.float(0)?;
        c.spans_of(|row| Some((seconds.get(row)? * 1e6).round() as i64))
    }),
    Definition::new(DATE, "second", 1..=1, Returns::Int, |c| clock_part(c, |span| span.abs() / SECOND % 60)),
    Definition::new(DATE, "str_to_date", 2..=2, Returns::By(str_to_date_type), str_to_date),
    Definition::new(DATE, "time", 1..=1, Returns::Time, |c| {
        let span = c.span(0)?;
        c.spans_of(|row| span.get(row))
    }),
    Definition::new(DATE, "time_format", 2..=2, Returns::Text, |c| {
        let (span, format) = (c.span(0)?, c.text(1)?);
        c.texts_of(|row| moments::format_span(span.get(row)?, format.get(row)?))
    }),
    Definition::new(DATE, "time_to_sec", 1..=1, Returns::Int, |c| {
        let span = c.span(0)?;
        c.ints_of(|row| Some(span.get(row)? / SECOND))
    }),
    Definition::new(DATE, "timestamp", 1..=2, Returns::DateTime, |c| {
        let (at, span) = (c.moment(0)?, c.span(1)?);
        let has_span = c.n_arguments() == 2;
        c.moments_of(|row| {
            let at = at.get(row)?;
            if has_span { in_range(at.checked_add(span.get(row)?)?) } else { Some(at) }
        })
    }),
    Definition::new(DATE, "to_days", 1..=1, Returns::Int, |c| {
        let at = c.moment(0)?;
        c.ints_of(|row| Some(at.get(row)?.div_euclid(DAY) + DAYS_TO_1970))
    }),
    Definition::new(DATE, "to_seconds", 1..=1, Returns::Int, |c| {
        let at = c.moment(0)?;
        c.ints_of(|row| Some(at.get(row)?.div_euclid(SECOND) + DAYS_TO_1970 * 86_400))
    }),
    Definition::new(DATE, "unix_timestamp", 1..=1, Returns::Int, unix_timestamp),
    Definition::new(DATE, "week", 1..=2, Returns::Int, |c| {
        let (at, mode) = (c.moment(0)?, c.int(1)?);
        let has_mode = c.n_arguments() == 2;
        c.ints_of(|row| {
            let mode = if has_mode { mode.get(row)? } else { 0 };
            Some(moments::week(at.datetime(row)?.date(), mode).1)
        })
    }),
    Definition::new(DATE, "weekday", 1..=1, Returns::Int, |c| part(c, |it| it.weekday().num_days_from_monday().into())),
    Definition::new(DATE, "weekofyear", 1..=1, Returns::Int, |c| part(c, |it| it.iso_week().week().into())),
    Definition::new(DATE, "year", 1..=1, Returns::Int, |c| part(c, |it| it.year().into())),
    Definition::new(DATE, "yearweek", 1..=2, Returns::Int, |c| {
        let (at, mode) = (c.moment(0)?, c.int(1)?);
        let has_mode = c.n_arguments() == 2;
        c.ints_of(|row| {
            let mode = if has_mode { mode.get(row)? } else { 0 };
            // A week 0 would be no week of the year: the mode counts from 1 whatever it says.
            let (year, week) = moments::week(at.datetime(row)?.date(), mode | 2);
            Some(year * 100 + week)
        })
    }),
    Definition::new(DATE, "op.extract", 2..=2, Returns::Int, extract),
    // NOW: an instant as the session's clocks show it, with so many digits of a fraction.
    Definition::new(DATE, "op.local_now", 2..=2, Returns::DateTime, |c| {
        let (at, digits) = (c.moment(0)?, c.int(1)?);
        c.moments_of(|row| Some(cut_fraction(at.get(row)?, digits.get(row)?)))
    }),
    Definition::new(DATE, "op.utc_now", 2..=2, Returns::DateTime, |c| {
        let instant = arrow::compute::cast(&c.whole(0)?, &DATETIME)?;
        let instant =
            arrow::array::cast::as_primitive_array::<arrow::datatypes::TimestampMicrosecondType>(&instant).clone();
        let digits = c.int(1)?;
        c.moments_of(|row| Some(cut_fraction(instant.is_valid(row).then(|| instant.value(row))?, digits.get(row)?)))
    }),
];

fn date(c: &Call, f: fn(NaiveDate) -> Option<NaiveDate>) -> Result<ArrayRef> {
    let at = c.moment(0)?;
    c.dates_of(|row| f(at.datetime(row)?.date()))
}

fn part(c: &Call, f: fn(NaiveDate) -> i64) -> Result<ArrayRef> {
    let at = c.moment(0)?;
    c.ints_of(|row| Some(f(at.datetime(row)?.date())))
}

/// A part of a time, which a text may also say without a date.
fn clock_part(c: &Call, f: fn(i64) -> i64) -> Result<ArrayRef> {
    let span = c.span(0)?;
    c.ints_of(|row| span.get(row).map(f))
}

/// None outside of the years 1 to 9999.
pub(super) fn in_range(moment: i64) -> Option<i64> {
    moments::moment(moments::datetime(moment)?)
}

fn cut_fraction(moment: i64, digits: i64) -> i64 {
    let unit = 10i64.pow(6 - digits.clamp(0, 6) as u32);
    moment.div_euclid(unit) * unit
}

/// `202403` or `2403` as months since year 0.
fn period_months(period: i64) -> Option<i64> {
    let (year, month) = (period.div_euclid(100), period.rem_euclid(100));
    (period > 0 && (1..=12).contains(&month)).then(|| moments::full_year(year) * 12 + month - 1)
}

/// A zone by name or offset; `SYSTEM` is UTC, in which servers run.
fn zone(name: &str) -> Option<Tz> {
    if name.eq_ignore_ascii_case("system") {
        return "+00:00".parse().ok();
    }
    name.parse().ok()
}

/// The instant at which the clocks of a zone show a moment: the first where they show it twice, and where they leave it
/// out the one that they jump at.
fn instant_of(at: NaiveDateTime, zone: Tz) -> Option<i64> {
    match zone.offset_from_local_datetime(&at) {
        LocalResult::Single(offset) | LocalResult::Ambiguous(offset, _) => {
            let seconds = i64::from(offset.fix().local_minus_utc());
            at.and_utc().timestamp_micros().checked_sub(seconds * SECOND)
        }
        LocalResult::None => {
            let earlier = at.checked_sub_signed(chrono::Duration::hours(3))?;
            let before = zone.offset_from_local_datetime(&earlier).earliest()?;
            let seconds = i64::from(before.fix().local_minus_utc());
            let guess = at.and_utc().timestamp_micros().checked_sub(seconds * SECOND)?;
            // Clocks jump at a whole quarter of an hour: the last one at which the earlier offset still holds.
            let quarter = 900 * SECOND;
            let mut jump = guess.div_euclid(quarter) * quarter;
            for _ in 0..16 {
                let then = zone.offset_from_utc_datetime(&moments::datetime(jump - 1)?).fix().local_minus_utc();
                if i64::from(then) == seconds {
                    break;
                }
                jump -= quarter;
            }
            Some(jump)
        }
    }
}

fn convert_tz(c: &Call) -> Result<ArrayRef> {
    let (at, from, to) = (c.moment(0)?, c.text(1)?, c.text(2)?);
    let mut zones = std::collections::HashMap::<String, Option<Tz>>::new();
    let mut known = |name: &str| match zones.get(name) {
        Some(zone) => *zone,
        None => *zones.entry(name.to_owned()).or_insert(zone(name)),
    };
    c.moments_of(|row| {
        let (from, to) = (known(from.get(row)?)?, known(to.get(row)?)?);
        in_range(local_moment(instant_of(at.datetime(row)?, from)?, to)?)
    })
}

fn from_unixtime_type(arguments: &Arguments) -> Result<DataType> {
    Ok(if arguments.types.len() == 1 { DATETIME } else { DataType::Utf8 })
}

fn from_unixtime(c: &Call) -> Result<ArrayRef> {
    let (seconds, zone) = (c.float(0)?, c.zone()?);
    let moment = |row: usize| {
        // MySQL's end of time, in the year 3001.
        let seconds = seconds.get(row).filter(|it| (0.0..=32_536_771_199.999_999).contains(it))?;
        local_moment((seconds * 1e6).round() as i64, zone)
    };
    if c.n_arguments() == 1 {
        return c.moments_of(moment);
    }
    let format = c.text(1)?;
    c.texts_of(|row| moments::format_moment(moment(row)?, format.get(row)?))
}

/// Seconds since 1970 of a moment in the session's zone, 0 before them.
fn unix_timestamp(c: &Call) -> Result<ArrayRef> {
    let (at, zone) = (c.moment(0)?, c.zone()?);
    c.ints_of(|row| {
        let seconds = instant_of(at.datetime(row)?, zone)?.div_euclid(SECOND);
        Some(if (0..=32_536_771_199).contains(&seconds) { seconds } else { 0 })
    })
}

fn get_format(c: &Call) -> Result<ArrayRef> {
    let (kind, place) = (c.text(0)?, c.text(1)?);
    c.texts_of(|row| {
        let kind = kind.get(row)?.to_ascii_uppercase();
        let place = place.get(row)?.to_ascii_uppercase();
        let format = match (kind.as_str(), place.as_str()) {
            ("DATE", "USA") => "%m.%d.%Y",
            ("DATE", "JIS" | "ISO") => "%Y-%m-%d",
            ("DATE", "EUR") => "%d.%m.%Y",
            ("DATE", "INTERNAL") => "%Y%m%d",
            ("DATETIME" | "TIMESTAMP", "USA" | "EUR") => "%Y-%m-%d %H.%i.%s",
            ("DATETIME" | "TIMESTAMP", "JIS" | "ISO") => "%Y-%m-%d %H:%i:%s",
            ("DATETIME" | "TIMESTAMP", "INTERNAL") => "%Y%m%d%H%i%s",
            ("TIME", "USA") => "%h:%i:%s %p",
            ("TIME", "JIS" | "ISO") => "%H:%i:%s",
            ("TIME", "EUR") => "%H.%i.%s",
            ("TIME", "INTERNAL") => "%H%i%s",
            _ => return None,
        };
        Some(format.to_owned())
    })
}

/// Decided by the format where it is constant; else a date and time.
fn str_to_date_type(arguments: &Arguments) -> Result<DataType> {
    Ok(match arguments.text(1).map(moments::kind_of_format) {
        Some(FormatKind::Date) => DataType::Date32,
        Some(FormatKind::Time) => TIME,
        Some(FormatKind::DateTime) | None => DATETIME,
    })
}

fn str_to_date(c: &Call) -> Result<ArrayRef> {
    let (text, format) = (c.text(0)?, c.text(1)?);
    let parsed = |row: usize| moments::parse_by_format(text.get(row)?, format.get(row)?);
    match c.return_type() {
        DataType::Date32 => c.dates_of(|row| Some(moments::datetime(parsed(row)?)?.date())),
        DataType::Duration(_) => c.spans_of(parsed),
        _ => c.moments_of(|row| {
            // A time alone would need a date.
            let is_time = moments::kind_of_format(format.get(row)?) == FormatKind::Time;
            parsed(row).filter(|_| !is_time)
        }),
    }
}

/// `EXTRACT(unit FROM value)`: unit, value.
fn extract(c: &Call) -> Result<ArrayRef> {
    let unit = c.text(0)?;
    let unit = unit.get(0).unwrap_or_default().to_ascii_lowercase();
    let of_date: Option<fn(NaiveDateTime) -> i64> = match unit.as_str() {
        "year" => Some(|at| at.year().into()),
        "quarter" => Some(|at| i64::from(at.month0()) / 3 + 1),
        "month" => Some(|at| at.month().into()),
        "week" => Some(|at| moments::week(at.date(), 0).1),
        "day" => Some(|at| at.day().into()),
        "year_month" => Some(|at| i64::from(at.year()) * 100 + i64::from(at.month())),
        "day_hour" => Some(|at| i64::from(at.day()) * 100 + i64::from(at.hour())),
        "day_minute" => Some(|at| day_and(at) / 100),
        "day_second" => Some(day_and),
        "day_microsecond" => Some(|at| day_and(at) * SECOND + i64::from(at.nanosecond() / 1000)),
        _ => None,
    };
    if let Some(of_date) = of_date {
        let at = c.moment(1)?;
        return c.ints_of(|row| at.datetime(row).map(of_date));
    }
    let of_time: fn(i64) -> i64 = match unit.as_str() {
        "hour" => |span| span / SECOND / 3600,
        "minute" => |span| span / SECOND / 60 % 60,
        "second" => |span| span / SECOND % 60,
        "microsecond" => |span| span % SECOND,
        "hour_minute" => |span| moments::span_number(span) / 100,
        "hour_second" => moments::span_number,
        "hour_microsecond" => |span| moments::span_number(span) * SECOND + span % SECOND,
        "minute_second" => |span| moments::span_number(span) % 10_000,
        "minute_microsecond" => |span| moments::span_number(span) % 10_000 * SECOND + span % SECOND,
        "second_microsecond" => |span| span % (60 * SECOND),
        _ => return refused(ErrorCode::InvalidArgument, format!("there is no unit {unit} of time")),
    };
    let span = c.span(1)?;
    c.ints_of(|row| span.get(row).map(of_time))
}

/// Day, hour, minute and second, two digits each.
fn day_and(at: NaiveDateTime) -> i64 {
    let clock = i64::from(at.hour()) * 10_000 + i64::from(at.minute()) * 100 + i64::from(at.second());
    i64::from(at.day()) * 1_000_000 + clock
}
