//! Parameters of prepared statements as clients send them, made into scalars.
//!
//! Numbers become the widest of their kind: the planner knows the type that the placeholder needs, we do not.

use arrow::datatypes::i256;
use chrono::{NaiveDate, NaiveDateTime, NaiveTime};
use datafusion::common::ScalarValue;
use opensrv_mysql::{ColumnType, ParamValue, ValueInner};
use sheaf_common::{Classify, ErrorCode};

/// Why a parameter's value was refused. The client's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// A date that no calendar has, zero dates among them.
    #[error("incorrect {kind} value for parameter {index}")]
    Date { kind: &'static str, index: usize },
    #[error("incorrect DECIMAL value for parameter {index}: {text:?}")]
    Decimal { text: String, index: usize },
}

impl Classify for ParameterError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Date { .. } | Self::Decimal { .. } => ErrorCode::TypeMismatch,
        }
    }
}

/// Reads one parameter; `index` counts from 1 and goes into errors.
pub fn scalar(parameter: ParamValue<'_>, index: usize) -> Result<ScalarValue, ParameterError> {
    let date_error = |kind| ParameterError::Date { kind, index };
    Ok(match parameter.value.into_inner() {
        ValueInner::NULL => ScalarValue::Null,
        ValueInner::Int(value) => ScalarValue::Int64(Some(value)),
        ValueInner::UInt(value) => ScalarValue::UInt64(Some(value)),
        ValueInner::Double(value) => ScalarValue::Float64(Some(value)),
        ValueInner::Bytes(bytes) => match parameter.coltype {
            ColumnType::MYSQL_TYPE_DECIMAL | ColumnType::MYSQL_TYPE_NEWDECIMAL => {
                let text = String::from_utf8_lossy(bytes);
                decimal(&text).ok_or_else(|| ParameterError::Decimal { text: text.into_owned(), index })?
            }
            ColumnType::MYSQL_TYPE_BIT if bytes.len() <= 8 => {
                ScalarValue::UInt64(Some(bytes.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte))))
            }
            ColumnType::MYSQL_TYPE_TINY_BLOB
            | ColumnType::MYSQL_TYPE_MEDIUM_BLOB
            | ColumnType::MYSQL_TYPE_LONG_BLOB
            | ColumnType::MYSQL_TYPE_BLOB
            | ColumnType::MYSQL_TYPE_GEOMETRY
            | ColumnType::MYSQL_TYPE_BIT => ScalarValue::Binary(Some(bytes.to_vec())),
            // Several clients send all bytes as a string, so what is no text is taken for bytes.
            _ => match std::str::from_utf8(bytes) {
                Ok(text) => ScalarValue::Utf8(Some(text.to_owned())),
                Err(_) => ScalarValue::Binary(Some(bytes.to_vec())),
            },
        },
        ValueInner::Date(bytes) => {
            let moment = moment(bytes).ok_or_else(|| date_error("DATE"))?;
            ScalarValue::Date32(Some(days(moment.date())))
        }
        ValueInner::Datetime(bytes) => {
            let moment = moment(bytes).ok_or_else(|| date_error("DATETIME"))?;
            ScalarValue::TimestampMicrosecond(Some(moment.and_utc().timestamp_micros()), None)
        }
        ValueInner::Time(bytes) => {
            const DAY_MICROS: i64 = 86_400_000_000;
            let micros = time(bytes).ok_or_else(|| date_error("TIME"))?;
            // MySQL's TIME is also a length of time; what no clock shows can only be that, and goes as its text.
            if (0..DAY_MICROS).contains(&micros) {
                ScalarValue::Time64Microsecond(Some(micros))
            } else {
                ScalarValue::Utf8(Some(length_text(micros)))
            }
        }
    })
}

fn days(date: NaiveDate) -> i32 {
    let seconds = date.and_time(NaiveTime::MIN).and_utc().timestamp();
    // A year of two bytes keeps this far inside an i32.
    seconds.div_euclid(86_400) as i32
}

/// A decimal of just the precision and scale that its text has.
fn decimal(text: &str) -> Option<ScalarValue> {
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let sign_bytes = usize::from(whole.starts_with(['-', '+']));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let n_digits = whole.len() - sign_bytes + fraction.len();
    if n_digits == 0 || !is_number(&whole[sign_bytes..]) || !is_number(fraction) {
        return None;
    }
    let unscaled = format!("{}{fraction}", whole.trim_start_matches('+'));
    let precision = u8::try_from(n_digits).ok()?;
    let scale = i8::try_from(fraction.len()).ok()?;
    match precision {
        0..=38 => Some(ScalarValue::Decimal128(Some(unscaled.parse().ok()?), precision, scale)),
        39..=76 => Some(ScalarValue::Decimal256(Some(i256::from_string(&unscaled)?), precision, scale)),
        _ => None,
    }
}

fn moment(bytes: &[u8]) -> Option<NaiveDateTime> {
    let (date, time) = bytes.split_at_checked(4)?;
    let year = u16::from_le_bytes([date[0], date[1]]);
    let date = NaiveDate::from_ymd_opt(i32::from(year), u32::from(date[2]), u32::from(date[3]))?;
    let at = |hour: u8, minute: u8, second: u8, micros: u32| {
        date.and_hms_micro_opt(u32::from(hour), u32::from(minute), u32::from(second), micros)
    };
    match *time {
        [] => at(0, 0, 0, 0),
        [hour, minute, second] => at(hour, minute, second, 0),
        [hour, minute, second, m0, m1, m2, m3] => at(hour, minute, second, u32::from_le_bytes([m0, m1, m2, m3])),
        _ => None,
    }
}

/// Microseconds, negative ones included.
fn time(bytes: &[u8]) -> Option<i64> {
    let ([negative, d0, d1, d2, d3, hour, minute, second], micros) = match *bytes {
        [] => return Some(0),
        [n, d0, d1, d2, d3, hour, minute, second] => ([n, d0, d1, d2, d3, hour, minute, second], 0),
        [n, d0, d1, d2, d3, hour, minute, second, m0, m1, m2, m3] => {
            ([n, d0, d1, d2, d3, hour, minute, second], u32::from_le_bytes([m0, m1, m2, m3]))
        }
        _ => return None,
    };
    let hours = i64::from(u32::from_le_bytes([d0, d1, d2, d3])) * 24 + i64::from(hour);
    let seconds = hours * 3600 + i64::from(minute) * 60 + i64::from(second);
    let length = seconds * 1_000_000 + i64::from(micros);
    Some(if negative == 0 { length } else { -length })
}

/// A length of time as MySQL writes it.
fn length_text(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let (seconds, fraction) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    let whole = format!("{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction == 0 { whole } else { format!("{whole}.{fraction:06}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_keep_their_scale() {
        assert_eq!(decimal("-1.50"), Some(ScalarValue::Decimal128(Some(-150), 3, 2)));
        assert_eq!(decimal("+7"), Some(ScalarValue::Decimal128(Some(7), 1, 0)));
        assert_eq!(decimal(".5"), Some(ScalarValue::Decimal128(Some(5), 1, 1)));
        assert!(matches!(decimal(&"9".repeat(39)), Some(ScalarValue::Decimal256(Some(_), 39, 0))));
        for wrong in ["", "-", "1e5", "1.2.3", "abc", &"9".repeat(77)] {
            assert_eq!(decimal(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn dates_of_every_length() {
        let date = NaiveDate::from_ymd_opt(2024, 2, 29).unwrap();
        assert_eq!(moment(&[0xE8, 7, 2, 29]), date.and_hms_opt(0, 0, 0));
        assert_eq!(moment(&[0xE8, 7, 2, 29, 23, 59, 58]), date.and_hms_opt(23, 59, 58));
        assert_eq!(moment(&[0xE8, 7, 2, 29, 0, 0, 0, 1, 0, 0, 0]), date.and_hms_micro_opt(0, 0, 0, 1));
        for wrong in [&[][..], &[0xE8, 7, 2, 30], &[0, 0, 0, 0], &[0xE8, 7, 2, 29, 24, 0, 0], &[0xE8, 7, 2, 29, 1]] {
            assert_eq!(moment(wrong), None, "{wrong:?}");
        }
        assert_eq!(days(NaiveDate::from_ymd_opt(1969, 12, 31).unwrap()), -1);
    }

    #[test]
    fn times_of_every_length() {
        assert_eq!(time(&[]), Some(0));
        assert_eq!(time(&[0, 0, 0, 0, 0, 1, 1, 1]), Some(3_661_000_000));
        assert_eq!(time(&[1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]), Some(-86_400_000_001));
        assert_eq!(time(&[0; 5]), None);
        assert_eq!(length_text(-86_400_000_001), "-24:00:00.000001");
        assert_eq!(length_text(360_000_000_000), "100:00:00");
    }
}
