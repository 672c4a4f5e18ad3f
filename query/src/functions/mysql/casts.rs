//! What CAST and CONVERT do in a MySQL session: a value that does not fit gives what it begins with, 0 or NULL, where
//! the engine's own casts end the statement.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Decimal256Array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Decimal256Type, Float64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{Cast, Expr};
use sheaf_common::ErrorCode;

use super::columns::Call;
use super::moments::{self, SECOND};
use super::{Arguments, Chapter, DATETIME, Definition, Returns, is_text, numerals, refused, text_type};

const CAST: Chapter = Chapter::Cast;
const INCORRECT_DATETIME: &str = "Incorrect datetime value";

pub(super) const FUNCTIONS: &[Definition] = &[
    Definition::new(CAST, "op.cast_signed", 1..=1, Returns::Int, |c| {
        if *c.data_type(0) == DataType::UInt64 {
            let x = c.uint(0)?;
            return c.ints_of(|row| x.get(row).map(u64::cast_signed));
        }
        c.warn_of_texts(0, "Truncated incorrect INTEGER value", numerals::is_whole_number);
        let x = c.int(0)?;
        c.ints_of(|row| x.get(row))
    })
    .simplified(|args, types| fits_int(&types[0]).then(|| plain_cast(&args[0], DataType::Int64))),
    Definition::new(CAST, "op.cast_unsigned", 1..=1, Returns::UInt, |c| {
        c.warn_of_texts(0, "Truncated incorrect INTEGER value", numerals::is_whole_number);
        let x = c.uint(0)?;
        c.uints_of(|row| x.get(row))
    })
    .simplified(|args, types| types[0].is_unsigned_integer().then(|| plain_cast(&args[0], DataType::UInt64))),
    Definition::new(CAST, "op.cast_double", 1..=1, Returns::Float, |c| {
        c.warn_of_texts(0, "Truncated incorrect DOUBLE value", numerals::is_number);
        let x = c.float(0)?;
        c.floats_of(|row| x.get(row))
    })
    .simplified(|args, types| types[0].is_numeric().then(|| plain_cast(&args[0], DataType::Float64))),
    // value, precision, scale
    Definition::new(CAST, "op.cast_decimal", 3..=3, Returns::By(decimal_type), decimal),
    Definition::new(CAST, "op.cast_char", 1..=2, Returns::By(text_type), |c| {
        let (x, n) = (c.text(0)?, c.int(1)?);
        let has_length = c.n_arguments() == 2;
        c.texts_of(|row| {
            let x = x.get(row)?;
            let n = if has_length { usize::try_from(n.get(row)?).ok()? } else { usize::MAX };
            Some(x.chars().take(n).collect())
        })
    })
    .simplified(|args, types| (is_text(&types[0]) && args.len() == 1).then(|| args[0].clone())),
    Definition::new(CAST, "op.cast_binary", 1..=2, Returns::Bytes, |c| {
        let (x, n) = (c.bytes(0)?, c.int(1)?);
        let has_length = c.n_arguments() == 2;
        c.bytes_of(|row| {
            let mut bytes = x.get(row)?.to_vec();
            if has_length {
                let n = usize::try_from(n.get(row)?).ok().filter(|it| *it <= super::columns::TEXT_BYTES_MAX)?;
                bytes.resize(n, 0);
            }
            Some(bytes)
        })
    }),
    Definition::new(CAST, "op.cast_date", 1..=1, Returns::Date, |c| {
        c.warn_of_texts(0, INCORRECT_DATETIME, |text| moments::parse_moment(text).is_some());
        let at = c.moment(0)?;
        c.dates_of(|row| Some(at.datetime(row)?.date()))
    })
    .simplified(|args, types| {
        let is_date = matches!(types[0], DataType::Date32 | DataType::Timestamp(_, None));
        is_date.then(|| plain_cast(&args[0], DataType::Date32))
    }),
    // value, digits of the fraction
    Definition::new(CAST, "op.cast_datetime", 2..=2, Returns::DateTime, |c| {
        c.warn_of_texts(0, INCORRECT_DATETIME, |text| moments::parse_moment(text).is_some());
        let (at, digits) = (c.moment(0)?, c.int(1)?);
        c.moments_of(|row| rounded(at.get(row)?, digits.get(row)?))
    }),
    Definition::new(CAST, "op.cast_time", 2..=2, Returns::Time, |c| {
        c.warn_of_texts(0, "Truncated incorrect time value", |text| moments::parse_span(text).is_some());
        let (span, digits) = (c.span(0)?, c.int(1)?);
        c.spans_of(|row| rounded(span.get(row)?, digits.get(row)?))
    }),
    Definition::new(CAST, "op.cast_year", 1..=1, Returns::Int, |c| {
        let (at, number, text) = (c.moment(0)?, c.int(0)?, c.text(0)?);
        c.ints_of(|row| {
            let year = match at.datetime(row).filter(|_| text.get(row).is_some_and(|it| it.len() > 4)) {
                Some(at) => i64::from(chrono::Datelike::year(&at)),
                None => moments::full_year(number.get(row)?),
            };
            (year == 0 || (1901..=2155).contains(&year)).then_some(year)
        })
    }),
    // A moment that a comparison needs; what cannot be read is NULL.
    Definition::new(CAST, "op.moment", 1..=1, Returns::DateTime, |c| {
        let at = c.moment(0)?;
        c.moments_of(|row| at.get(row))
    })
    .simplified(|args, types| (types[0] == DATETIME).then(|| args[0].clone())),
    // Whether a value is true: neither zero nor NULL.
    Definition::new(CAST, "op.truth", 1..=1, Returns::Bool, |c| {
        let x = c.truth(0)?;
        c.bools_of(|row| x.get(row))
    })
    .simplified(|args, types| match &types[0] {
        DataType::Boolean => Some(args[0].clone()),
        it if it.is_numeric() => {
            let zero = ScalarValue::new_zero(it).ok()?;
            Some(args[0].clone().not_eq(Expr::Literal(zero, None)))
        }
        _ => None,
    }),
];

fn plain_cast(expr: &Expr, data_type: DataType) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr.clone()), data_type))
}

fn fits_int(data_type: &DataType) -> bool {
    data_type.is_signed_integer()
        || matches!(data_type, DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::Boolean)
}

/// To so many digits of a fraction.
fn rounded(micros: i64, digits: i64) -> Option<i64> {
    let unit = 10i64.pow(6 - digits.clamp(0, 6) as u32);
    debug_assert!(unit <= SECOND);
    micros.checked_add(unit / 2).map(|it| it.div_euclid(unit) * unit)
}

/// MySQL ends at 65 digits, 30 of them behind the point.
fn decimal_type(arguments: &Arguments) -> Result<DataType> {
    let (Some(precision), Some(scale)) = (arguments.int(1), arguments.int(2)) else {
        return Ok(DataType::Decimal128(10, 0));
    };
    if !(1..=65).contains(&precision) || !(0..=30).contains(&scale) || scale > precision {
        let text = format!("DECIMAL({precision}, {scale}) has more than 65 digits, 30 of them behind the point");
        return refused(ErrorCode::InvalidArgument, text);
    }
    Ok(match precision {
        ..=38 => DataType::Decimal128(precision as u8, scale as i8),
        _ => DataType::Decimal256(precision as u8, scale as i8),
    })
}

/// A value beyond the type becomes the type's largest.
fn decimal(c: &Call) -> Result<ArrayRef> {
    c.warn_of_texts(0, "Truncated incorrect DECIMAL value", numerals::is_number);
    let (target, array) = (c.return_type(), c.whole(0)?);
    let (precision, scale) = match target {
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => (*precision, *scale),
        _ => return datafusion::common::internal_err!("{target} is no decimal"),
    };
    let wide = DataType::Decimal256(76, scale);
    let safe = CastOptions { safe: true, ..CastOptions::default() };
    let values: ArrayRef = match array.data_type() {
        it if it.is_decimal() || it.is_integer() || it.is_null() => cast_with_options(&array, &wide, &safe)?,
        DataType::Utf8 => {
            let texts = array.as_string::<i32>().iter().map(|it| it.map(plain_number));
            let texts: ArrayRef = Arc::new(texts.collect::<arrow::array::StringArray>());
            cast_with_options(&texts, &wide, &safe)?
        }
        _ => {
            let floats = c.float(0)?;
            let floats = c.floats_of(|row| floats.get(row))?;
            // By their shortest text, so that 0.1 is a tenth.
            let texts = floats.as_primitive::<Float64Type>().iter().map(|it| it.map(|it| it.to_string()));
            let texts: ArrayRef = Arc::new(texts.collect::<arrow::array::StringArray>());
            cast_with_options(&texts, &wide, &safe)?
        }
    };
    let values = values.as_primitive::<Decimal256Type>();
    let max = arrow::datatypes::i256::from_i128(10).wrapping_pow(u32::from(precision)) - arrow::datatypes::i256::ONE;
    let is_wide = matches!(target, DataType::Decimal256(..));
    let clamped = values.iter().map(|it| it.map(|it| it.clamp(max.wrapping_neg(), max)));
    Ok(match is_wide {
        true => Arc::new(clamped.collect::<Decimal256Array>().with_precision_and_scale(precision, scale)?),
        false => {
            let narrow = clamped.map(|it| it.and_then(arrow::datatypes::i256::to_i128));
            Arc::new(narrow.collect::<Decimal128Array>().with_precision_and_scale(precision, scale)?)
        }
    })
}

/// The number that a text begins with, as a text without an exponent.
fn plain_number(text: &str) -> String {
    let text = text.trim_start();
    let sign = usize::from(text.starts_with(['-', '+']));
    let mut end = sign + text[sign..].bytes().take_while(u8::is_ascii_digit).count();
    if text.as_bytes().get(end) == Some(&b'.') {
        end += 1 + text[end + 1..].bytes().take_while(u8::is_ascii_digit).count();
    }
    match text.as_bytes().get(end) {
        Some(b'e' | b'E') => numerals::float_of_text(text).to_string(),
        _ if end == sign || &text[sign..end] == "." => "0".to_owned(),
        _ => text[..end].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_the_start_of_texts() {
        for (text, expected) in [
            ("12.5x", "12.5"),
            ("x", "0"),
            (" -3", "-3"),
            ("1e2", "100"),
            (".", "0"),
            ("", "0"),
            (".5", ".5"),
            ("-", "0"),
        ] {
            assert_eq!(plain_number(text), expected, "{text}");
        }
    }

    #[test]
    fn fractions_are_rounded() {
        assert_eq!(rounded(1_500_000, 0), Some(2_000_000));
        assert_eq!(rounded(1_234_567, 3), Some(1_235_000));
        assert_eq!(rounded(i64::MAX, 0), None);
    }
}
