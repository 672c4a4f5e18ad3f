//! Comparison functions.

use std::cmp::Ordering;

use arrow::array::{Array, ArrayRef, BooleanArray, Datum};
use arrow::compute::kernels::{cmp, zip::zip};
use arrow::compute::{cast, is_null, or};
use arrow::datatypes::DataType;
use datafusion::error::Result;

use super::columns::Call;
use super::{Arguments, Chapter, DATETIME, Definition, MANY, Returns};

const COMPARISON: Chapter = Chapter::Comparison;

pub(super) const FUNCTIONS: &[Definition] = &[
    Definition::new(COMPARISON, "greatest", 2..=MANY, Returns::By(common_type), |c| extreme(c, Ordering::Greater)),
    Definition::new(COMPARISON, "least", 2..=MANY, Returns::By(common_type), |c| extreme(c, Ordering::Less)),
    // The engine's own where its arguments have one type; it would read a text beside a number as a number.
    Definition::new(COMPARISON, "coalesce", 1..=MANY, Returns::By(coalesce_type), first_there)
        .simplified(|args, types| is_alike(types).then(|| datafusion::functions::core::coalesce().call(args.to_vec()))),
    // The number of bounds that a value reaches; -1 for NULL.
    Definition::new(COMPARISON, "interval", 2..=MANY, Returns::Int, |c| {
        let bounds = (0..c.n_arguments()).map(|idx| c.float(idx)).collect::<Result<Vec<_>>>()?;
        c.ints_of(|row| {
            let Some(value) = bounds[0].get(row) else { return Some(-1) };
            let reached = bounds[1..].iter().take_while(|it| it.get(row).is_none_or(|it| it <= value)).count();
            i64::try_from(reached).ok()
        })
    }),
    Definition::new(COMPARISON, "isnull", 1..=1, Returns::Bool, |c| c.bools_of(|row| Some(c.is_null(0, row))))
        .simplified(|args, _| Some(args[0].clone().is_null())),
];

/// How far types reach: each value is compared in the widest type that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Null,
    Int,
    UInt,
    Decimal,
    Float,
    Date,
    DateTime,
    Time,
    Text,
}

fn class(data_type: &DataType) -> Class {
    match data_type {
        DataType::Null => Class::Null,
        DataType::Boolean => Class::Int,
        it if it.is_unsigned_integer() => Class::UInt,
        it if it.is_integer() => Class::Int,
        it if it.is_decimal() => Class::Decimal,
        it if it.is_floating() => Class::Float,
        DataType::Date32 | DataType::Date64 => Class::Date,
        DataType::Timestamp(..) => Class::DateTime,
        DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) => Class::Time,
        _ => Class::Text,
    }
}

/// Digits before and behind the point that a number's type can have.
fn digits(data_type: &DataType) -> (i16, i16) {
    match data_type {
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => (i16::from(*p) - i16::from(*s), i16::from(*s)),
        DataType::Null => (1, 0),
        _ => (20, 0),
    }
}

fn common_type(arguments: &Arguments) -> Result<DataType> {
    let classes = || arguments.types.iter().map(class);
    let widest = classes().max().unwrap_or(Class::Null);
    Ok(match widest {
        Class::Null => DataType::Utf8,
        Class::Int => DataType::Int64,
        Class::UInt if classes().all(|it| it != Class::Int) => DataType::UInt64,
        Class::UInt => DataType::Decimal128(20, 0),
        Class::Decimal => {
            let whole = arguments.types.iter().map(|it| digits(it).0).max().unwrap_or(1);
            let behind = arguments.types.iter().map(|it| digits(it).1).max().unwrap_or(0);
            match whole + behind {
                it @ ..=38 => DataType::Decimal128(it as u8, behind as i8),
                it => DataType::Decimal256(it.min(76) as u8, behind as i8),
            }
        }
        Class::Float => DataType::Float64,
        Class::Date if classes().all(|it| matches!(it, Class::Date | Class::Null)) => DataType::Date32,
        Class::DateTime if classes().all(|it| matches!(it, Class::Date | Class::DateTime | Class::Null)) => DATETIME,
        Class::Time if classes().all(|it| matches!(it, Class::Time | Class::Null)) => super::TIME,
        _ => DataType::Utf8,
    })
}

fn is_alike(types: &[DataType]) -> bool {
    types.iter().all(|it| *it == types[0] && *it != DataType::Null)
}

fn coalesce_type(arguments: &Arguments) -> Result<DataType> {
    if is_alike(&arguments.types) { Ok(arguments.data_type(0).clone()) } else { common_type(arguments) }
}

/// An argument in the type of the result.
fn column(c: &Call, idx: usize) -> Result<ArrayRef> {
    match c.return_type() {
        DataType::Utf8 => {
            let text = c.text(idx)?;
            c.texts_of(|row| text.get(row).map(str::to_owned))
        }
        DataType::Timestamp(..) => {
            let at = c.moment(idx)?;
            c.moments_of(|row| at.get(row))
        }
        target => Ok(cast(&c.whole(idx)?, target)?),
    }
}

fn first_there(c: &Call) -> Result<ArrayRef> {
    let mut first = column(c, 0)?;
    for idx in 1..c.n_arguments() {
        if first.null_count() == 0 {
            break;
        }
        let next = column(c, idx)?;
        first = zip(&is_null(&first)?, &next as &dyn Datum, &first as &dyn Datum)?;
    }
    Ok(first)
}

/// NULL as soon as an argument is.
fn extreme(c: &Call, wanted: Ordering) -> Result<ArrayRef> {
    let mut best = column(c, 0)?;
    for idx in 1..c.n_arguments() {
        let next = column(c, idx)?;
        let is_better = match wanted {
            Ordering::Greater => cmp::gt(&next, &best)?,
            _ => cmp::lt(&next, &best)?,
        };
        // A comparison with NULL is NULL; of the two the NULL is taken.
        let is_better: BooleanArray = is_better.iter().map(|it| Some(it == Some(true))).collect();
        let takes_next = or(&is_better, &is_null(&next)?)?;
        let has_null = is_null(&best)?;
        let takes_next = arrow::compute::and_not(&takes_next, &has_null)?;
        best = zip(&takes_next, &next as &dyn Datum, &best as &dyn Datum)?;
    }
    Ok(best)
}
