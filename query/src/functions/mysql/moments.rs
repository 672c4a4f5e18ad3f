//! Dates and times as MySQL reads them from texts and numbers, and writes them by a format. No arrays here.
//!
//! A moment is microseconds since 1970 without a zone; a span is microseconds of MySQL's TIME, which has a sign and
//! reaches beyond a day.

use std::fmt::Write;

use chrono::{Datelike, Duration, NaiveDate, NaiveDateTime, NaiveTime, Timelike};

/// Microseconds.
pub(super) const SECOND: i64 = 1_000_000;
pub(super) const DAY: i64 = 86_400 * SECOND;
/// MySQL's TIME ends at 838:59:59.
pub(super) const SPAN_MAX: i64 = (838 * 3600 + 59 * 60 + 59) * SECOND;
/// Days from MySQL's day 0 to 1970-01-01.
pub(super) const DAYS_TO_1970: i64 = 719_528;

pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// From Monday.
pub(super) const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

pub(super) fn datetime(moment: i64) -> Option<NaiveDateTime> {
    Some(chrono::DateTime::from_timestamp_micros(moment)?.naive_utc())
}

/// None outside the years 1 to 9999: zero dates have no place in Arrow's types.
pub(super) fn moment(at: NaiveDateTime) -> Option<i64> {
    (1..=9999).contains(&at.year()).then(|| at.and_utc().timestamp_micros())
}

pub(super) fn moment_of(date: NaiveDate, micros: i64) -> Option<i64> {
    moment(date.and_time(NaiveTime::MIN).checked_add_signed(Duration::microseconds(micros))?)
}

/// A year of two digits is one from 1970 to 2069.
pub(super) fn full_year(year: i64) -> i64 {
    match year {
        0..=69 => year + 2000,
        70..=99 => year + 1900,
        other => other,
    }
}

pub(super) fn date_of(year: i64, month: i64, day: i64) -> Option<NaiveDate> {
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, u32::try_from(month).ok()?, u32::try_from(day).ok()?);
    date.filter(|it| (1..=9999).contains(&it.year()))
}

/// What a text says, and whether it had a time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parsed {
    pub moment: i64,
    pub has_time: bool,
}

/// `2024-03-05 10:11:12.5`, `24/3/5`, `20240305101112`, `2024-03-05T10:11`: any punctuation parts the numbers. What
/// follows a whole date or time is passed over, as MySQL does with a warning.
pub(super) fn parse_moment(text: &str) -> Option<Parsed> {
    let text = text.trim();
    let n_digits = text.bytes().take_while(u8::is_ascii_digit).count();
    match text.as_bytes().get(n_digits) {
        // Digits alone, or digits and a fraction.
        None | Some(b'.') if n_digits > 4 => parse_packed(&text[..n_digits], text.get(n_digits + 1..).unwrap_or("")),
        Some(b'T' | b't') if n_digits == 8 => {
            let date = parse_packed(&text[..8], "")?;
            let rest = parse_clock(&text[9..])?;
            Some(Parsed { moment: date.moment + rest, has_time: true })
        }
        _ => parse_parted(text),
    }
}

/// `YYYYMMDD`, `YYMMDD`, `YYYYMMDDHHMMSS`, `YYMMDDHHMMSS`.
fn parse_packed(digits: &str, fraction: &str) -> Option<Parsed> {
    let (year_digits, has_time) = match digits.len() {
        6 => (2, false),
        8 => (4, false),
        12 => (2, true),
        14 => (4, true),
        _ => return None,
    };
    let number = |from: usize, n: usize| digits.get(from..from + n)?.parse::<i64>().ok();
    let year = number(0, year_digits)?;
    let year = if year_digits == 2 { full_year(year) } else { year };
    let date = date_of(year, number(year_digits, 2)?, number(year_digits + 2, 2)?)?;
    let micros = if has_time {
        let at = year_digits + 4;
        clock(number(at, 2)?, number(at + 2, 2)?, number(at + 4, 2)?)? + fraction_of(fraction)
    } else {
        0
    };
    Some(Parsed { moment: moment_of(date, micros)?, has_time })
}

fn parse_parted(text: &str) -> Option<Parsed> {
    let mut rest = text;
    let mut part = |is_first: bool| -> Option<(i64, usize)> {
        if !is_first {
            let n = rest.bytes().take_while(u8::is_ascii_punctuation).count();
            if n == 0 {
                return None;
            }
            rest = &rest[n..];
        }
        let n = rest.bytes().take_while(u8::is_ascii_digit).count();
        if n == 0 || n > 4 {
            return None;
        }
        let value = rest[..n].parse().ok()?;
        rest = &rest[n..];
        Some((value, n))
    };
    let (year, n_digits) = part(true)?;
    let year = if n_digits <= 2 { full_year(year) } else { year };
    let (month, day) = (part(false)?.0, part(false)?.0);
    let date = date_of(year, month, day)?;
    let clock_text = rest.trim_start_matches(|c: char| c == 'T' || c == 't' || c.is_ascii_whitespace());
    if clock_text.len() == rest.len() || !clock_text.starts_with(|c: char| c.is_ascii_digit()) {
        return Some(Parsed { moment: moment_of(date, 0)?, has_time: false });
    }
    let micros = parse_clock(clock_text)?;
    Some(Parsed { moment: moment_of(date, micros)?, has_time: true })
}

/// `10`, `10:11`, `10:11:12.5` as a time of day.
fn parse_clock(text: &str) -> Option<i64> {
    let mut numbers = [0i64; 3];
    let mut rest = text;
    for (idx, number) in numbers.iter_mut().enumerate() {
        let n = rest.bytes().take_while(u8::is_ascii_digit).count();
        if n == 0 || n > 2 {
            return None;
        }
        *number = rest[..n].parse().ok()?;
        rest = &rest[n..];
        match rest.as_bytes() {
            [separator, next, ..] if idx < 2 && separator.is_ascii_punctuation() && next.is_ascii_digit() => {
                rest = &rest[1..];
            }
            _ => break,
        }
    }
    let fraction = rest.strip_prefix('.').map_or(0, fraction_of);
    Some(clock(numbers[0], numbers[1], numbers[2])? + fraction)
}

fn clock(hour: i64, minute: i64, second: i64) -> Option<i64> {
    (hour < 24 && minute < 60 && second < 60).then_some(((hour * 60 + minute) * 60 + second) * SECOND)
}

/// The digits behind a point as microseconds, the seventh rounding.
fn fraction_of(digits: &str) -> i64 {
    let mut micros = 0;
    let mut unit = 100_000;
    for digit in digits.bytes().take_while(u8::is_ascii_digit).take(7) {
        let digit = i64::from(digit - b'0');
        if unit == 0 {
            return micros + i64::from(digit >= 5);
        }
        micros += digit * unit;
        unit /= 10;
    }
    micros
}

/// A number as MySQL reads it where a date is wanted: `20240305`, `20240305101112`, `240305`.
pub(super) fn moment_of_number(number: i64) -> Option<Parsed> {
    let digits = match number {
        101..=991_231 => format!("{number:06}"),
        10_000_101..=99_991_231 => number.to_string(),
        101_000_000..=991_231_235_959 => format!("{number:012}"),
        10_000_101_000_000..=99_991_231_235_959 => number.to_string(),
        _ => return None,
    };
    parse_packed(&digits, "")
}

/// TIME as a text says it: `10:11:12.5`, `-10:11`, `1 02:03:04`, `101112`, or the time of day of a whole date.
pub(super) fn parse_span(text: &str) -> Option<i64> {
    let text = text.trim();
    let (is_negative, body) = match text.strip_prefix('-') {
        Some(body) => (true, body),
        None => (false, text),
    };
    // `2024-03-05 10:11:12`: a date has two parts of punctuation before its blank.
    let n_digits = body.bytes().take_while(u8::is_ascii_digit).count();
    if !is_negative && matches!(body.as_bytes().get(n_digits), Some(b'-' | b'/')) {
        return Some(parse_moment(text)?.moment.rem_euclid(DAY));
    }
    if n_digits == 0 {
        return None;
    }
    if n_digits >= 12 {
        return Some(parse_packed(&body[..n_digits], "")?.moment.rem_euclid(DAY));
    }
    let first: i64 = body[..n_digits].parse().ok()?;
    let rest = &body[n_digits..];
    let micros = match rest.as_bytes() {
        [b' ', next, ..] if next.is_ascii_digit() => first.checked_mul(DAY)?.checked_add(parts_of_span(&rest[1..])?)?,
        [b':', ..] => parts_of_span(body)?,
        _ => {
            let fraction = rest.strip_prefix('.').map_or(0, fraction_of);
            span_of_number(first)?.checked_add(fraction)?
        }
    };
    let micros = micros.min(SPAN_MAX);
    Some(if is_negative { -micros } else { micros })
}

/// `hh`, `hh:mm`, `hh:mm:ss.ffffff`, hours without an end.
fn parts_of_span(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut numbers = [0i64; 3];
    for (number, part) in numbers.iter_mut().zip(whole.split(':')) {
        let n = part.bytes().take_while(u8::is_ascii_digit).count();
        if n == 0 {
            break;
        }
        *number = part[..n].parse().ok()?;
    }
    let [hours, minutes, seconds] = numbers;
    if minutes > 59 || seconds > 59 {
        return None;
    }
    hours
        .checked_mul(3600)?
        .checked_add(minutes * 60 + seconds)?
        .checked_mul(SECOND)?
        .checked_add(fraction_of(fraction))
}

/// `101112` is 10:11:12, `1112` is 00:11:12.
pub(super) fn span_of_number(number: i64) -> Option<i64> {
    let size = number.checked_abs()?;
    if size >= 10_000_000_000 {
        return Some(moment_of_number(number)?.moment.rem_euclid(DAY));
    }
    let (hours, minutes, seconds) = (size / 10_000, size / 100 % 100, size % 100);
    if minutes > 59 || seconds > 59 {
        return None;
    }
    let micros = ((hours * 60 + minutes) * 60 + seconds).checked_mul(SECOND)?.min(SPAN_MAX);
    Some(if number < 0 { -micros } else { micros })
}

/// `2024-03-05 10:11:12`, with six digits of a fraction if there is one.
pub(super) fn moment_text(moment: i64) -> Option<String> {
    let at = datetime(moment)?;
    let mut text = at.format("%Y-%m-%d %H:%M:%S").to_string();
    put_micros(&mut text, moment.rem_euclid(SECOND));
    Some(text)
}

pub(super) fn span_text(span: i64) -> String {
    let size = span.unsigned_abs();
    let seconds = size / SECOND.unsigned_abs();
    let sign = if span < 0 { "-" } else { "" };
    let mut text = format!("{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    put_micros(&mut text, (size % SECOND.unsigned_abs()).cast_signed());
    text
}

fn put_micros(text: &mut String, micros: i64) {
    if micros != 0 {
        let _ = write!(text, ".{micros:06}");
    }
}

/// `20240305101112` as a number, without the fraction.
pub(super) fn moment_number(moment: i64) -> Option<i64> {
    let at = datetime(moment)?;
    Some(date_number(at.date()) * 1_000_000 + clock_number(at.time()))
}

pub(super) fn date_number(date: NaiveDate) -> i64 {
    i64::from(date.year()) * 10_000 + i64::from(date.month()) * 100 + i64::from(date.day())
}

fn clock_number(time: NaiveTime) -> i64 {
    i64::from(time.hour()) * 10_000 + i64::from(time.minute()) * 100 + i64::from(time.second())
}

pub(super) fn span_number(span: i64) -> i64 {
    let seconds = span / SECOND;
    seconds / 3600 * 10_000 + seconds / 60 % 60 * 100 + seconds % 60
}

/// The last day of its month stays one where the month is shorter.
pub(super) fn add_months(at: NaiveDateTime, months: i64) -> Option<NaiveDateTime> {
    let total = i64::from(at.year()).checked_mul(12)?.checked_add(i64::from(at.month0()))?.checked_add(months)?;
    let (year, month) = (i32::try_from(total.div_euclid(12)).ok()?, u32::try_from(total.rem_euclid(12)).ok()? + 1);
    let day = at.day().min(days_in_month(year, month)?);
    Some(NaiveDate::from_ymd_opt(year, month, day)?.and_time(at.time()))
}

pub(super) fn days_in_month(year: i32, month: u32) -> Option<u32> {
    let (next_year, next_month) = if month == 12 { (year.checked_add(1)?, 1) } else { (year, month + 1) };
    Some(NaiveDate::from_ymd_opt(next_year, next_month, 1)?.pred_opt()?.day())
}

/// `WEEK(date, mode)`, and the year that the week belongs to in `YEARWEEK`. Modes are MySQL's, 0 to 7.
///
/// Odd modes begin on Monday; bit 1 counts from 1 and gives days before week 1 to the year before; bit 2 makes week 1
/// the one in which the first such weekday lies, instead of the first with four days.
pub(super) fn week(date: NaiveDate, mode: i64) -> (i64, i64) {
    let mode = mode & 7;
    let monday_first = mode & 1 != 0;
    let mut counts_from_one = mode & 2 != 0;
    let by_first_weekday = (mode & 4 != 0) ^ !monday_first;
    let day_number = |date: NaiveDate| i64::from(date.num_days_from_ce());
    let weekday = |date: NaiveDate| match monday_first {
        true => i64::from(date.weekday().num_days_from_monday()),
        false => i64::from(date.weekday().num_days_from_sunday()),
    };
    let mut year = date.year();
    let first_of = |year: i32| NaiveDate::from_ymd_opt(year, 1, 1).unwrap_or(date);
    let days_of = |year: i32| if first_of(year).leap_year() { 366 } else { 365 };
    let mut first = day_number(first_of(year));
    let mut first_weekday = weekday(first_of(year));
    if date.month() == 1 && i64::from(date.day()) <= 7 - first_weekday {
        let belongs_to_last = (by_first_weekday && first_weekday != 0) || (!by_first_weekday && first_weekday >= 4);
        if !counts_from_one && belongs_to_last {
            return (i64::from(year), 0);
        }
        if belongs_to_last {
            counts_from_one = true;
            year -= 1;
            let days = days_of(year);
            first -= days;
            first_weekday = (first_weekday + 53 * 7 - days) % 7;
        }
    }
    let starts_before = (by_first_weekday && first_weekday != 0) || (!by_first_weekday && first_weekday >= 4);
    let days = if starts_before {
        day_number(date) - (first + (7 - first_weekday))
    } else {
        day_number(date) - (first - first_weekday)
    };
    if counts_from_one && days >= 52 * 7 {
        let next_weekday = (first_weekday + days_of(year)) % 7;
        if (!by_first_weekday && next_weekday < 4) || (by_first_weekday && next_weekday == 0) {
            return (i64::from(year) + 1, 1);
        }
    }
    (i64::from(year), days / 7 + 1)
}

/// `DATE_FORMAT`.
pub(super) fn format_moment(moment: i64, format: &str) -> Option<String> {
    let at = datetime(moment)?;
    let mut out = String::with_capacity(format.len() + 8);
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let Some(letter) = letters.next() else {
            out.push('%');
            break;
        };
        put_letter(&mut out, at, letter);
    }
    Some(out)
}

fn put_letter(out: &mut String, at: NaiveDateTime, letter: char) {
    let hour12 = (at.hour() + 11) % 12 + 1;
    let half = if at.hour() < 12 { "AM" } else { "PM" };
    let weekday = WEEKDAYS[at.weekday().num_days_from_monday() as usize];
    let month = MONTHS[at.month0() as usize];
    let padded = |out: &mut String, value: i64, width: usize| {
        let _ = write!(out, "{value:0width$}");
    };
    let plain = |out: &mut String, value: u32| {
        let _ = write!(out, "{value}");
    };
    match letter {
        'a' => out.push_str(&weekday[..3]),
        'b' => out.push_str(&month[..3]),
        'c' => plain(out, at.month()),
        'D' => {
            let ending = match (at.day(), at.day() % 10) {
                (11..=13, _) => "th",
                (_, 1) => "st",
                (_, 2) => "nd",
                (_, 3) => "rd",
                _ => "th",
            };
            let _ = write!(out, "{}{ending}", at.day());
        }
        'd' => padded(out, at.day().into(), 2),
        'e' => plain(out, at.day()),
        'f' => padded(out, i64::from(at.nanosecond() / 1000), 6),
        'H' => padded(out, at.hour().into(), 2),
        'h' | 'I' => padded(out, hour12.into(), 2),
        'i' => padded(out, at.minute().into(), 2),
        'j' => padded(out, at.ordinal().into(), 3),
        'k' => plain(out, at.hour()),
        'l' => plain(out, hour12),
        'M' => out.push_str(month),
        'm' => padded(out, at.month().into(), 2),
        'p' => out.push_str(half),
        'r' => {
            let _ = write!(out, "{hour12:02}:{:02}:{:02} {half}", at.minute(), at.second());
        }
        'S' | 's' => padded(out, at.second().into(), 2),
        'T' => {
            let _ = write!(out, "{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second());
        }
        'U' => padded(out, week(at.date(), 0).1, 2),
        'u' => padded(out, week(at.date(), 1).1, 2),
        'V' => padded(out, week(at.date(), 2).1, 2),
        'v' => padded(out, week(at.date(), 3).1, 2),
        'W' => out.push_str(weekday),
        'w' => plain(out, at.weekday().num_days_from_sunday()),
        'X' => padded(out, week(at.date(), 2).0, 4),
        'x' => padded(out, week(at.date(), 3).0, 4),
        'Y' => padded(out, at.year().into(), 4),
        'y' => padded(out, i64::from(at.year() % 100), 2),
        other => out.push(other),
    }
}

/// `TIME_FORMAT`: hours go beyond 23; letters of dates give zeros or nothing, as MySQL's do.
pub(super) fn format_span(span: i64, format: &str) -> Option<String> {
    let size = span.checked_abs()?;
    let hours = size / SECOND / 3600;
    let at = datetime(size.rem_euclid(DAY))?;
    let mut out = String::with_capacity(format.len() + 8);
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('H') => {
                let _ = write!(out, "{}{hours:02}", if span < 0 { "-" } else { "" });
            }
            Some('k') => {
                let _ = write!(out, "{}{hours}", if span < 0 { "-" } else { "" });
            }
            Some('T') => {
                let sign = if span < 0 { "-" } else { "" };
                let _ = write!(out, "{sign}{hours:02}:{:02}:{:02}", at.minute(), at.second());
            }
            Some(letter @ ('h' | 'I' | 'l' | 'i' | 's' | 'S' | 'f' | 'p' | 'r')) => put_letter(&mut out, at, letter),
            Some('d' | 'e' | 'c' | 'm' | 'y') => out.push_str("00"),
            Some('Y') => out.push_str("0000"),
            Some('a' | 'b' | 'D' | 'j' | 'M' | 'U' | 'u' | 'V' | 'v' | 'W' | 'w' | 'X' | 'x') => return None,
            Some(other) => out.push(other),
            None => out.push('%'),
        }
    }
    Some(out)
}

/// What `STR_TO_DATE`'s result is, which its format decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FormatKind {
    Date,
    Time,
    DateTime,
}

pub(super) fn kind_of_format(format: &str) -> FormatKind {
    let letters = || format.split('%').skip(1).filter_map(|it| it.chars().next());
    let has_time = letters().any(|it| "fHhIiklprSsT".contains(it));
    let has_date = letters().any(|it| "abcDdejMmUuVvWwXxYy".contains(it));
    match (has_date, has_time) {
        (true, true) => FormatKind::DateTime,
        (false, true) => FormatKind::Time,
        _ => FormatKind::Date,
    }
}

/// `STR_TO_DATE`: a moment, or for a format without a date a span.
pub(super) fn parse_by_format(text: &str, format: &str) -> Option<i64> {
    let mut at = ByFormat { rest: text, ..ByFormat::default() };
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '%' => at.take(letters.next()?)?,
            it if it.is_ascii_whitespace() => at.rest = at.rest.trim_start(),
            it => {
                at.rest = at.rest.trim_start();
                at.rest = at.rest.strip_prefix(it)?;
            }
        }
    }
    at.finish(kind_of_format(format))
}

#[derive(Default)]
struct ByFormat<'a> {
    rest: &'a str,
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    day_of_year: Option<i64>,
    /// Week, and the mode that counts it.
    week: Option<(i64, i64)>,
    week_year: Option<i64>,
    /// From Monday.
    weekday: Option<i64>,
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
    is_afternoon: Option<bool>,
    is_half_day: bool,
}

impl ByFormat<'_> {
    fn number(&mut self, n_digits: usize) -> Option<i64> {
        self.rest = self.rest.trim_start();
        let n = self.rest.bytes().take(n_digits).take_while(u8::is_ascii_digit).count();
        let value = self.rest.get(..n)?.parse().ok()?;
        self.rest = &self.rest[n..];
        Some(value)
    }

    /// The place of a name that the rest begins with; whole names first.
    fn name(&mut self, names: &[&str], n_letters: Option<usize>) -> Option<i64> {
        self.rest = self.rest.trim_start();
        for (idx, name) in names.iter().enumerate() {
            let name = n_letters.map_or(*name, |n| &name[..n]);
            if self.rest.get(..name.len()).is_some_and(|it| it.eq_ignore_ascii_case(name)) {
                self.rest = &self.rest[name.len()..];
                return i64::try_from(idx).ok();
            }
        }
        None
    }

    fn take(&mut self, letter: char) -> Option<()> {
        match letter {
            'Y' => {
                let before = self.rest.trim_start().len();
                let year = self.number(4)?;
                self.year = Some(if before - self.rest.len() <= 2 { full_year(year) } else { year });
            }
            'y' => self.year = Some(full_year(self.number(2)?)),
            'm' | 'c' => self.month = Some(self.number(2)?),
            'M' => self.month = Some(self.name(&MONTHS, None)? + 1),
            'b' => self.month = Some(self.name(&MONTHS, Some(3))? + 1),
            'd' | 'e' => self.day = Some(self.number(2)?),
            'D' => {
                self.day = Some(self.number(2)?);
                self.rest = self.rest.get(2..)?;
            }
            'j' => self.day_of_year = Some(self.number(3)?),
            'W' => self.weekday = Some(self.name(&WEEKDAYS, None)?),
            'a' => self.weekday = Some(self.name(&WEEKDAYS, Some(3))?),
            'w' => self.weekday = Some((self.number(1)? + 6) % 7),
            'U' => self.week = Some((self.number(2)?, 0)),
            'u' => self.week = Some((self.number(2)?, 1)),
            'V' => self.week = Some((self.number(2)?, 2)),
            'v' => self.week = Some((self.number(2)?, 3)),
            'X' | 'x' => self.week_year = Some(self.number(4)?),
            'H' | 'k' => self.hour = self.number(2)?,
            'h' | 'I' | 'l' => {
                self.hour = self.number(2)?;
                self.is_half_day = true;
            }
            'i' => self.minute = self.number(2)?,
            'S' | 's' => self.second = self.number(2)?,
            'f' => {
                let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count().min(6);
                self.micros = fraction_of(self.rest.get(..digits)?);
                self.rest = &self.rest[digits..];
            }
            'p' => {
                self.is_afternoon = Some(self.name(&["AM", "PM"], None)? == 1);
                self.is_half_day = true;
            }
            'T' => self.all("H:i:S")?,
            'r' => {
                self.all("I:i:S")?;
                self.take('p')?;
            }
            '%' => self.rest = self.rest.strip_prefix('%')?,
            '.' => self.rest = self.rest.trim_start_matches(|c: char| c.is_ascii_punctuation()),
            '@' => self.rest = self.rest.trim_start_matches(|c: char| c.is_alphabetic()),
            '#' => self.rest = self.rest.trim_start_matches(|c: char| c.is_ascii_digit()),
            _ => return None,
        }
        Some(())
    }

    /// Letters with the separators between them.
    fn all(&mut self, letters: &str) -> Option<()> {
        for letter in letters.chars() {
            match letter {
                ':' => self.rest = self.rest.strip_prefix(':')?,
                letter => self.take(letter)?,
            }
        }
        Some(())
    }

    fn finish(self, kind: FormatKind) -> Option<i64> {
        let mut hour = self.hour;
        if self.is_half_day {
            if !(1..=12).contains(&hour) {
                return None;
            }
            hour = hour % 12 + if self.is_afternoon == Some(true) { 12 } else { 0 };
        }
        let micros = if kind == FormatKind::Time {
            let seconds = (hour * 60 + self.minute) * 60 + self.second;
            (self.minute < 60 && self.second < 60).then_some(seconds * SECOND)?
        } else {
            clock(hour, self.minute, self.second)?
        } + self.micros;
        if kind == FormatKind::Time {
            return Some(micros);
        }
        let date = match (self.year.or(self.week_year)?, self.day_of_year, self.week, self.weekday) {
            (year, Some(day), _, _) => date_of(year, 1, 1)?.checked_add_signed(Duration::days(day.checked_sub(1)?))?,
            (year, None, Some((number, mode)), Some(weekday)) if self.month.is_none() => {
                date_of_week(year, number, mode, weekday)?
            }
            (year, ..) => date_of(year, self.month?, self.day?)?,
        };
        moment_of(date, micros)
    }
}

/// The day of a week that is counted by `mode`; `weekday` from Monday.
fn date_of_week(year: i64, number: i64, mode: i64, weekday: i64) -> Option<NaiveDate> {
    let first = date_of(year, 1, 1)?;
    let offset = |date: NaiveDate| i64::from(date.weekday().num_days_from_monday());
    // Weeks are seven days, so that a year's 372 nearest days hold the one.
    (-7..=371).filter_map(|days| first.checked_add_signed(Duration::days(days))).find(|date| {
        let (week_year, week_number) = week(*date, mode);
        week_year == year && week_number == number && offset(*date) == weekday
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let shown = parse_moment(text).and_then(|it| moment_text(it.moment));
        assert_eq!(shown.as_deref(), expected, "{text}");
    }

    #[test]
    fn texts_are_read_with_any_punctuation() {
        check("2024-03-05", Some("2024-03-05 00:00:00"));
        check("2024-3-5 1:2:3.25", Some("2024-03-05 01:02:03.250000"));
        check("24/03/05", Some("2024-03-05 00:00:00"));
        check("99.12.31 23+30+15", Some("1999-12-31 23:30:15"));
        check("20240305", Some("2024-03-05 00:00:00"));
        check("240305101112", Some("2024-03-05 10:11:12"));
        check("2024-03-05T10:11", Some("2024-03-05 10:11:00"));
        check("2024-03-05abc", Some("2024-03-05 00:00:00"));
        for wrong in ["", "abc", "2024-02-30", "2024-13-01", "2024-01-01 25:00:00", "0000-00-00", "2024", "2024-01"] {
            check(wrong, None);
        }
    }

    #[test]
    fn spans_go_beyond_a_day() {
        for (text, expected) in [
            ("10:11:12", "10:11:12"),
            ("-1:02", "-01:02:00"),
            ("1 02:03:04", "26:03:04"),
            ("101112", "10:11:12"),
            ("1112", "00:11:12"),
            ("900:00:00", "838:59:59"),
            ("2024-03-05 10:11:12.5", "10:11:12.500000"),
        ] {
            assert_eq!(parse_span(text).map(span_text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(parse_span("10:61:00"), None);
        assert_eq!(parse_span("x"), None);
    }

    #[test]
    fn weeks_of_the_manual() {
        let date = NaiveDate::from_ymd_opt(2008, 2, 20).unwrap();
        assert_eq!([0, 1].map(|mode| week(date, mode).1), [7, 8]);
        assert_eq!(week(NaiveDate::from_ymd_opt(2008, 12, 31).unwrap(), 1).1, 53);
        assert_eq!(week(NaiveDate::from_ymd_opt(1987, 1, 1).unwrap(), 2), (1986, 52));
        let first = NaiveDate::from_ymd_opt(2000, 1, 1).unwrap();
        assert_eq!([week(first, 0), week(first, 2)], [(2000, 0), (1999, 52)]);
    }

    #[test]
    fn formats_of_the_manual() {
        let format = |text: &str, format: &str| format_moment(parse_moment(text)?.moment, format);
        assert_eq!(format("2009-10-04 22:23:00", "%W %M %Y").as_deref(), Some("Sunday October 2009"));
        assert_eq!(format("1900-10-04 22:23:00", "%D %y %a %d %m %b %j").as_deref(), Some("4th 00 Thu 04 10 Oct 277"));
        assert_eq!(
            format("1997-10-04 22:23:00", "%H %k %I %r %T %S %w").as_deref(),
            Some("22 22 10 10:23:00 PM 22:23:00 00 6")
        );
        assert_eq!(format("1999-01-01", "%X %V").as_deref(), Some("1998 52"));
        assert_eq!(format_span(parse_span("100:00:00").unwrap(), "%H %k %h %I %l").as_deref(), Some("100 100 04 04 4"));
    }

    #[test]
    fn texts_by_format() {
        let parsed = |text, format| parse_by_format(text, format).and_then(moment_text);
        assert_eq!(parsed("01,5,2013", "%d,%m,%Y").as_deref(), Some("2013-05-01 00:00:00"));
        assert_eq!(parsed("May 1, 2013", "%M %d,%Y").as_deref(), Some("2013-05-01 00:00:00"));
        assert_eq!(parsed("200442 Monday", "%X%V %W").as_deref(), Some("2004-10-18 00:00:00"));
        assert_eq!(parse_by_format("a09:30:17", "a%h:%i:%s").map(span_text).as_deref(), Some("09:30:17"));
        assert_eq!(parsed("abc", "%Y"), None);
        assert_eq!(kind_of_format("%h:%i"), FormatKind::Time);
    }

    #[test]
    fn months_end_where_the_month_does() {
        let at = |text: &str| datetime(parse_moment(text).unwrap().moment).unwrap();
        assert_eq!(add_months(at("2024-01-31"), 1).unwrap(), at("2024-02-29"));
        assert_eq!(add_months(at("2024-03-31"), -13).unwrap(), at("2023-02-28"));
        assert_eq!(add_months(at("2024-03-31"), i64::MAX), None);
    }
}
