//! Parameters of prepared statements as clients send them, made into scalars.
//!
//! Numbers become the widest of their kind: the planner knows the type that the placeholder needs, we do not.

use arrow::datatypes::i256;
use chrono::{NaiveDate, NaiveDateTime, NaiveTime};
use datafusion::common::ScalarValue;
use sheaf_common::{Classify, ErrorCode};

use super::column::kind;
use super::wire::{take_array, take_bytes, take_lenenc, take_u8};

/// Why a parameter's value was refused. The client's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// A date that no calendar has, zero dates among them.
    #[error("incorrect {kind} value for parameter {index}")]
    Date { kind: &'static str, index: usize },
    #[error("incorrect DECIMAL value for parameter {index}: {text:?}")]
    Decimal { text: String, index: usize },
    /// A type that no client sends.
    #[error("parameter {index} has the unknown type {kind}")]
    UnknownType { kind: u8, index: usize },
    /// Fewer bytes than the types and the NULLs ask for.
    #[error("incorrect arguments to EXECUTE: the packet ends before parameter {index} does")]
    CutOff { index: usize },
    /// Values without types, and no execution before that had any.
    #[error("incorrect arguments to EXECUTE: the types of the parameters were never given")]
    Untyped,
    /// What was sent ahead of an execution.
    #[error("long data was sent for parameter {index}, but the statement has {n_parameters}")]
    NoSuchParameter { index: usize, n_parameters: usize },
    #[error("parameters sent as long data exceed the 'max_allowed_packet' of {bytes_max} bytes")]
    LongDataTooLarge { bytes_max: usize },
}

impl Classify for ParameterError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Date { .. } | Self::Decimal { .. } => ErrorCode::TypeMismatch,
            Self::UnknownType { .. }
            | Self::CutOff { .. }
            | Self::Untyped
            | Self::NoSuchParameter { .. }
            | Self::LongDataTooLarge { .. } => ErrorCode::InvalidArgument,
        }
    }
}

/// How a client says that it sends a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterType {
    /// One of [`kind`], if the client is right.
    pub kind: u8,
    pub is_unsigned: bool,
}

impl ParameterType {
    pub fn decode([kind, flags]: [u8; 2]) -> Self {
        const UNSIGNED: u8 = 0x80;
        Self { kind, is_unsigned: flags & UNSIGNED != 0 }
    }

    /// Cuts one value off the front; `index` counts from 1 and goes into errors.
    pub fn take_scalar(self, input: &mut &[u8], index: usize) -> Result<ScalarValue, ParameterError> {
        let cut_off = || ParameterError::CutOff { index };
        let date_error = |kind| ParameterError::Date { kind, index };
        // What is signed is read so that its sign is kept.
        let integer = |signed: i64, unsigned: u64| {
            if self.is_unsigned { ScalarValue::UInt64(Some(unsigned)) } else { ScalarValue::Int64(Some(signed)) }
        };
        Ok(match self.kind {
            kind::NULL => ScalarValue::Null,
            kind::TINY => {
                let bytes = take_array(input).ok_or_else(cut_off)?;
                integer(i8::from_le_bytes(bytes).into(), u8::from_le_bytes(bytes).into())
            }
            kind::SHORT | kind::YEAR => {
                let bytes = take_array(input).ok_or_else(cut_off)?;
                integer(i16::from_le_bytes(bytes).into(), u16::from_le_bytes(bytes).into())
            }
            kind::LONG | kind::INT24 => {
                let bytes = take_array(input).ok_or_else(cut_off)?;
                integer(i32::from_le_bytes(bytes).into(), u32::from_le_bytes(bytes).into())
            }
            kind::LONGLONG => {
                let bytes = take_array(input).ok_or_else(cut_off)?;
                integer(i64::from_le_bytes(bytes), u64::from_le_bytes(bytes))
            }
            kind::FLOAT => {
                let value = take_array(input).map(f32::from_le_bytes).ok_or_else(cut_off)?;
                ScalarValue::Float64(Some(value.into()))
            }
            kind::DOUBLE => {
                let value = take_array(input).map(f64::from_le_bytes).ok_or_else(cut_off)?;
                ScalarValue::Float64(Some(value))
            }
            kind::DATE => {
                let moment = moment(take_short(input).ok_or_else(cut_off)?).ok_or_else(|| date_error("DATE"))?;
                ScalarValue::Date32(Some(days(moment.date())))
            }
            kind::DATETIME | kind::TIMESTAMP => {
                let moment = moment(take_short(input).ok_or_else(cut_off)?).ok_or_else(|| date_error("DATETIME"))?;
                ScalarValue::TimestampMicrosecond(Some(moment.and_utc().timestamp_micros()), None)
            }
            kind::TIME => {
                const DAY_MICROS: i64 = 86_400_000_000;
                let micros = time(take_short(input).ok_or_else(cut_off)?).ok_or_else(|| date_error("TIME"))?;
                // MySQL's TIME is also a length of time; what no clock shows can only be that, and goes as its text.
                if (0..DAY_MICROS).contains(&micros) {
                    ScalarValue::Time64Microsecond(Some(micros))
                } else {
                    ScalarValue::Utf8(Some(length_text(micros)))
                }
            }
            _ => {
                self.string_form(index)?;
                return self.long_scalar(take_lenenc(input).ok_or_else(cut_off)?, index);
            }
        })
    }

    /// A value that was sent as its bytes alone, whatever its type.
    pub fn long_scalar(self, bytes: &[u8], index: usize) -> Result<ScalarValue, ParameterError> {
        let form = self.string_form(index).unwrap_or(StringForm::Text);
        Ok(match form {
            StringForm::Decimal => {
                let text = String::from_utf8_lossy(bytes);
                decimal(&text).ok_or_else(|| ParameterError::Decimal { text: text.into_owned(), index })?
            }
            StringForm::Bits if bytes.len() <= 8 => {
                ScalarValue::UInt64(Some(bytes.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte))))
            }
            StringForm::Bytes | StringForm::Bits => ScalarValue::Binary(Some(bytes.to_vec())),
            // Several clients send all bytes as a string, so what is no text is taken for bytes.
            StringForm::Text => match std::str::from_utf8(bytes) {
                Ok(text) => ScalarValue::Utf8(Some(text.to_owned())),
                Err(_) => ScalarValue::Binary(Some(bytes.to_vec())),
            },
        })
    }

    /// What the bytes of a value mean that has its length before it.
    fn string_form(self, index: usize) -> Result<StringForm, ParameterError> {
        Ok(match self.kind {
            kind::DECIMAL | kind::NEWDECIMAL => StringForm::Decimal,
            kind::BIT => StringForm::Bits,
            kind::TINY_BLOB | kind::MEDIUM_BLOB | kind::LONG_BLOB | kind::BLOB | kind::GEOMETRY => StringForm::Bytes,
            kind::VARCHAR | kind::VAR_STRING | kind::STRING | kind::ENUM | kind::SET | kind::JSON => StringForm::Text,
            kind => return Err(ParameterError::UnknownType { kind, index }),
        })
    }
}

enum StringForm {
    Text,
    Bytes,
    Bits,
    Decimal,
}

/// Bytes behind one byte of length: how dates and times are sent.
fn take_short<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let n_bytes = usize::from(take_u8(input)?);
    take_bytes(input, n_bytes)
}

fn days(date: NaiveDate) -> i32 {
    let seconds = date.and_time(NaiveTime::MIN).and_utc().timestamp();
    // A year of two bytes keeps this far inside an i32.
    seconds.div_euclid(86_400) as i32
}

/// `0.125`, 2 → `12.5`.
fn without_exponent(digits: &str, exponent: i32) -> Option<String> {
    const DIGITS_MAX: i32 = 76;
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |it| ("-", it));
    let digits = if sign.is_empty() { digits.strip_prefix('+').unwrap_or(digits) } else { digits };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{fraction}");
    let point = i32::try_from(whole.len()).ok()?.checked_add(exponent)?;
    let is_number = !all.is_empty() && all.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || !(-DIGITS_MAX..=DIGITS_MAX).contains(&point) {
        return None;
    }
    let n_digits = i32::try_from(all.len()).ok()?;
    // Zeros that stand for no digit would count as digits.
    let text = match usize::try_from(point) {
        Ok(point) if point >= all.len() => {
            format!("{all}{}", "0".repeat(usize::try_from(point as i64 - i64::from(n_digits)).ok()?))
        }
        Ok(point) => format!("{}.{}", all[..point].trim_start_matches('0'), &all[point..]),
        Err(_) => format!(".{}{all}", "0".repeat(usize::try_from(-point).ok()?)),
    };
    let text = text.trim_start_matches('0');
    Some(format!("{sign}{}", if text.is_empty() { "0" } else { text }))
}

/// A decimal of just the precision and scale that its text has; also with an exponent, as Ruby's clients write it.
fn decimal(text: &str) -> Option<ScalarValue> {
    let text = text.trim();
    if let Some((digits, exponent)) = text.split_once(['e', 'E']) {
        return decimal(&without_exponent(digits, exponent.parse().ok()?)?);
    }
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

    fn read(kind: u8, is_unsigned: bool, mut bytes: &[u8]) -> Result<ScalarValue, ParameterError> {
        let value = ParameterType { kind, is_unsigned }.take_scalar(&mut bytes, 3)?;
        assert!(bytes.is_empty(), "{value:?} left {bytes:?}");
        Ok(value)
    }

    #[test]
    fn every_type_is_read_to_its_end() {
        use ScalarValue::*;
        for (kind, is_unsigned, bytes, expected) in [
            (kind::NULL, false, &[][..], Null),
            (kind::TINY, false, &[0xFF], Int64(Some(-1))),
            (kind::TINY, true, &[0xFF], UInt64(Some(255))),
            (kind::SHORT, false, &[0, 0x80], Int64(Some(-32_768))),
            (kind::YEAR, true, &[0xE8, 7], UInt64(Some(2024))),
            (kind::LONG, false, &[0xFE, 0xFF, 0xFF, 0xFF], Int64(Some(-2))),
            (kind::INT24, true, &[1, 0, 0, 0], UInt64(Some(1))),
            (kind::LONGLONG, false, &[0xFF; 8], Int64(Some(-1))),
            (kind::LONGLONG, true, &[0xFF; 8], UInt64(Some(u64::MAX))),
            (kind::FLOAT, false, &[0, 0, 0xC0, 0x3F], Float64(Some(1.5))),
            (kind::DOUBLE, false, &[0, 0, 0, 0, 0, 0, 0xF8, 0xBF], Float64(Some(-1.5))),
            (kind::DATE, false, &[4, 0xB2, 7, 1, 2], Date32(Some(1))),
            (kind::DATETIME, false, &[4, 0xB2, 7, 1, 2], TimestampMicrosecond(Some(86_400_000_000), None)),
            (kind::TIME, false, &[0], Time64Microsecond(Some(0))),
            (kind::VAR_STRING, false, b"\x02ok", Utf8(Some("ok".into()))),
            (kind::STRING, false, &[1, 0xFF], Binary(Some(vec![0xFF]))),
            (kind::BLOB, false, b"\x02ok", Binary(Some(b"ok".to_vec()))),
            (kind::BIT, true, &[2, 1, 2], UInt64(Some(258))),
            (kind::NEWDECIMAL, false, b"\x031.5", Decimal128(Some(15), 2, 1)),
            (kind::JSON, false, b"\x02{}", Utf8(Some("{}".into()))),
        ] {
            assert_eq!(read(kind, is_unsigned, bytes), Ok(expected), "type {kind}");
            for end in 0..bytes.len() {
                assert_eq!(read(kind, is_unsigned, &bytes[..end]), Err(ParameterError::CutOff { index: 3 }));
            }
        }
        assert_eq!(read(0x77, false, &[1]), Err(ParameterError::UnknownType { kind: 0x77, index: 3 }));
        assert_eq!(read(kind::DATE, false, &[0]), Err(ParameterError::Date { kind: "DATE", index: 3 }));
    }

    #[test]
    fn decimals_keep_their_scale() {
        assert_eq!(decimal("0.125e2"), decimal("12.5"));
        assert_eq!(decimal("-5E-3"), decimal("-.005"));
        assert_eq!(decimal("1.5e3"), decimal("1500"));
        assert_eq!(decimal("1e1000"), None);
        assert_eq!(decimal("-1.50"), Some(ScalarValue::Decimal128(Some(-150), 3, 2)));
        assert_eq!(decimal("+7"), Some(ScalarValue::Decimal128(Some(7), 1, 0)));
        assert_eq!(decimal(".5"), Some(ScalarValue::Decimal128(Some(5), 1, 1)));
        assert!(matches!(decimal(&"9".repeat(39)), Some(ScalarValue::Decimal256(Some(_), 39, 0))));
        for wrong in ["", "-", "1e", "e5", "1.2.3", "abc", "7äe-3", "+-1e2", &"9".repeat(77)] {
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
