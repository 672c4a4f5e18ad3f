//! Numbers as MySQL reads them from texts, rounds and writes them. No arrays here.

use std::fmt::{Display, LowerExp};

/// The number that a text begins with, 0 if it begins with none: `'12abc'` is 12.
pub(super) fn float_of_text(text: &str) -> f64 {
    let text = text.trim_start();
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from.min(bytes.len())..].iter().take_while(|it| it.is_ascii_digit()).count();
    let sign = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let whole = digits(sign);
    let mut end = sign + whole;
    let mut n_digits = whole;
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        n_digits += fraction;
        end += 1 + fraction;
    }
    if n_digits == 0 {
        return 0.0;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    let value = text[..end].parse::<f64>().unwrap_or(0.0);
    value.clamp(f64::MIN, f64::MAX)
}

/// Whether the whole text is a number, blanks around it aside.
pub(super) fn is_number(text: &str) -> bool {
    let text = text.trim();
    text.parse::<f64>().is_ok_and(f64::is_finite)
        && text.bytes().all(|it| it.is_ascii_digit() || b"+-.eE".contains(&it))
}

/// Whether the whole text is a whole number of 64 bits, blanks around it aside.
pub(super) fn is_whole_number(text: &str) -> bool {
    let text = text.trim();
    text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok()
}

/// The whole number that a text begins with, held at the ends of its type.
pub(super) fn int_of_text(text: &str) -> i64 {
    let text = text.trim_start();
    let (is_negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let n = digits.bytes().take_while(u8::is_ascii_digit).count();
    let size = digits[..n].bytes().fold(0i128, |value, digit| (value * 10 + i128::from(digit - b'0')).min(1 << 100));
    to_int(if is_negative { -size } else { size })
}

/// The bits of a text's number, as CAST to UNSIGNED has them.
pub(super) fn bits_of_text(text: &str) -> u64 {
    let text = text.trim_start();
    if text.starts_with('-') {
        return int_of_text(text).cast_unsigned();
    }
    let digits = text.strip_prefix('+').unwrap_or(text);
    let n = digits.bytes().take_while(u8::is_ascii_digit).count();
    let size = digits[..n].bytes().fold(0u128, |value, digit| (value * 10 + u128::from(digit - b'0')).min(1 << 100));
    u64::try_from(size).unwrap_or(u64::MAX)
}

pub(super) fn to_int(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Held at the ends of the type; what is not a number is 0.
pub(super) fn int_of_float(value: f64) -> i64 {
    value as i64
}

pub(super) fn bits_of_float(value: f64) -> u64 {
    if value < 0.0 { (value as i64).cast_unsigned() } else { value as u64 }
}

/// Half away from zero. `unit` is positive.
pub(super) fn div_rounded(value: i128, unit: i128) -> i128 {
    let (quotient, rest) = (value / unit, value % unit);
    if rest.unsigned_abs() >= unit.unsigned_abs().div_ceil(2) { quotient + value.signum() } else { quotient }
}

/// A float as MySQL writes it: the shortest digits that mean it, an exponent from 15 digits on.
pub(super) fn float_text(value: impl Display + LowerExp, size: f64) -> String {
    let size = size.abs();
    if size == 0.0 {
        return "0".to_owned();
    }
    if !(1e-15..1e15).contains(&size) { format!("{value:e}") } else { value.to_string() }
}

/// A double at so many digits behind the point; negative ones before it. Half away from zero.
pub(super) fn round_float(value: f64, digits: i64) -> f64 {
    at_digits(value, digits, f64::round_ties_even)
}

pub(super) fn truncate_float(value: f64, digits: i64) -> f64 {
    at_digits(value, digits, f64::trunc)
}

fn at_digits(value: f64, digits: i64, cut: fn(f64) -> f64) -> f64 {
    // MySQL knows no negative zero.
    cut_at(value, digits, cut) + 0.0
}

fn cut_at(value: f64, digits: i64, cut: fn(f64) -> f64) -> f64 {
    let digits = digits.clamp(-330, 330) as i32;
    let unit = 10f64.powi(digits.abs());
    if digits >= 0 {
        let scaled = value * unit;
        if scaled.is_finite() { cut(scaled) / unit } else { value }
    } else if unit.is_finite() {
        cut(value / unit) * unit
    } else {
        0.0
    }
}

/// `-1234.5` at two digits is `-1,234.50`. `text` is a plain number, with a sign and a point at most.
pub(super) fn grouped(text: &str) -> String {
    let (sign, body) = match text.strip_prefix('-') {
        Some(body) => ("-", body),
        None => ("", text),
    };
    let (whole, fraction) = body.split_once('.').map_or((body, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut out = String::with_capacity(text.len() * 4 / 3 + 1);
    out.push_str(sign);
    for (idx, digit) in whole.chars().enumerate() {
        if idx > 0 && (whole.len() - idx) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// A decimal's text at another number of digits behind the point, half away from zero.
pub(super) fn round_text(text: &str, digits: usize) -> String {
    let (sign, body) = match text.strip_prefix('-') {
        Some(body) => ("-", body),
        None => ("", text),
    };
    let (whole, fraction) = body.split_once('.').unwrap_or((body, ""));
    let mut kept: Vec<u8> = whole.bytes().chain(fraction.bytes().chain(std::iter::repeat(b'0')).take(digits)).collect();
    let rounds_up = fraction.as_bytes().get(digits).is_some_and(|it| *it >= b'5');
    let mut carry = rounds_up;
    for digit in kept.iter_mut().rev() {
        if !carry {
            break;
        }
        carry = *digit == b'9';
        *digit = if carry { b'0' } else { *digit + 1 };
    }
    if carry {
        kept.insert(0, b'1');
    }
    let all = String::from_utf8_lossy(&kept).into_owned();
    let (whole, fraction) = all.split_at(all.len() - digits);
    let sign = if all.bytes().all(|it| it == b'0') { "" } else { sign };
    if digits == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// `CONV`: a text's number in another base. A negative `to` gives a sign; none for bases outside 2 to 36.
pub(super) fn convert_base(text: &str, from: i64, to: i64) -> Option<String> {
    let base = u32::try_from(from.checked_abs()?).ok().filter(|it| (2..=36).contains(it))?;
    let target = u64::try_from(to.checked_abs()?).ok().filter(|it| (2..=36).contains(it))?;
    let text = text.trim_start();
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = digits.chars().map_while(|it| it.to_digit(base));
    let limit = u128::from(u64::MAX);
    let size = digits.fold(0u128, |value, digit| (value * u128::from(base) + u128::from(digit)).min(limit));
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    let bits = if is_negative { (size.min(1 << 63)).wrapping_neg() } else { size };
    let (sign, bits) = match to < 0 && bits.cast_signed() < 0 {
        true => ("-", bits.wrapping_neg()),
        false => ("", bits),
    };
    Some(format!("{sign}{}", in_base(bits, target)))
}

/// Digits and capitals; `base` is 2 to 36.
pub(super) fn in_base(mut value: u64, base: u64) -> String {
    let mut digits = Vec::with_capacity(64);
    loop {
        let digit = u32::try_from(value % base).unwrap_or(0);
        digits.push(char::from_digit(digit, 36).unwrap_or('0').to_ascii_uppercase());
        value /= base;
        if value == 0 {
            break;
        }
    }
    digits.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_numbers_as_far_as_they_go() {
        for (text, expected) in [
            ("12", 12.0),
            (" -1.5e2x", -150.0),
            ("1e", 1.0),
            (".5", 0.5),
            ("abc", 0.0),
            ("", 0.0),
            ("1.2.3", 1.2),
            ("-", 0.0),
        ] {
            assert_eq!(float_of_text(text), expected, "{text}");
        }
        assert_eq!(float_of_text("1e999"), f64::MAX);
        assert_eq!(["12abc", "-7.9", "99999999999999999999", "x"].map(int_of_text), [12, -7, i64::MAX, 0]);
        assert_eq!([bits_of_text("18446744073709551615"), bits_of_text("-1")], [u64::MAX, u64::MAX]);
        assert!(is_number(" 1.5e3 ") && !is_number("1x") && !is_number("inf") && !is_number("nan"));
    }

    #[test]
    fn halves_go_away_from_zero() {
        assert_eq!([25, -25, 24, -24].map(|it| div_rounded(it, 10)), [3, -3, 2, -2]);
        assert_eq!(round_text("-1234.995", 2), "-1235.00");
        assert_eq!(round_text("9.99", 1), "10.0");
        assert_eq!(round_text("-0.001", 2), "0.00");
        assert_eq!(round_text("5", 3), "5.000");
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(["12332.1235", "-1234567", "12", "999"].map(grouped), ["12,332.1235", "-1,234,567", "12", "999"]);
    }

    #[test]
    fn bases_of_the_manual() {
        assert_eq!(convert_base("a", 16, 2).as_deref(), Some("1010"));
        assert_eq!(convert_base("6E", 18, 8).as_deref(), Some("172"));
        assert_eq!(convert_base("-17", 10, -18).as_deref(), Some("-H"));
        assert_eq!(convert_base("1", 1, 2), None);
    }

    #[test]
    fn floats_are_short() {
        assert_eq!([0.1f64, 1.0, 1e20, 1e-20].map(|it| float_text(it, it)), ["0.1", "1", "1e20", "1e-20"]);
    }
}
