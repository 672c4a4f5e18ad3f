//! The 22 queries of TPC-H, and whether two answers to one of them are the same.

pub mod files;

/// The eight tables.
pub const TABLES: [&str; 8] = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];

/// One query: its number, its text, and the columns of its answer that its ORDER BY names, from the first.
pub struct Query {
    pub number: usize,
    pub sql: &'static str,
    ordered_by: &'static [usize],
}

macro_rules! queries {
    ($($number:literal: $ordered_by:expr;)*) => {
        /// All queries, by number.
        pub const QUERIES: [Query; 22] = [$(Query {
            number: $number,
            sql: include_str!(concat!("tpch/q", $number, ".sql")),
            ordered_by: &$ordered_by,
        },)*];
    };
}

queries! {
    1: [0, 1];
    2: [0, 2, 1, 3];
    3: [1, 2];
    4: [0];
    5: [1];
    6: [];
    7: [0, 1, 2];
    8: [0];
    9: [0, 1];
    10: [2];
    11: [1];
    12: [0];
    13: [1, 0];
    14: [];
    15: [0];
    16: [3, 0, 1, 2];
    17: [];
    18: [4, 3];
    19: [];
    20: [0];
    21: [1, 0];
    22: [0];
}

/// What the text of a column's cells stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text, dates, whole numbers: the same or not.
    Exact,
    /// Engines differ in how many digits of a quotient or a mean they keep.
    Decimal,
    /// The last digits depend on the order in which values were added.
    Float,
}

/// An answer as a client has it: cells as text, `None` for NULL.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// By column.
    pub kinds: Vec<Kind>,
    pub rows: Vec<Vec<Option<String>>>,
}

/// How far two floating-point numbers may differ, relative to the greater.
const FLOAT_TOLERANCE: f64 = 1e-9;

impl Query {
    /// What makes the answer differ from the expected one; `None` when they are the same.
    ///
    /// Rows must be the same multiset, and where ORDER BY decides the order, in the same order: its columns are compared
    /// row by row. Rows that are equal in them may come in any order. Decimals of one scale are equal or not; one that
    /// is compared with a decimal of another scale, or with a floating-point number, may differ by one unit of its last
    /// digit.
    pub fn difference(&self, expected: &Answer, answer: &Answer) -> Option<String> {
        if expected.kinds.len() != answer.kinds.len() {
            return Some(format!("{} columns, not {}", answer.kinds.len(), expected.kinds.len()));
        }
        if expected.rows.len() != answer.rows.len() {
            return Some(format!("{} rows, not {}", answer.rows.len(), expected.rows.len()));
        }
        let same_cell = |column: usize, a: &Option<String>, b: &Option<String>| match (a, b) {
            (Some(a), Some(b)) => same_value((expected.kinds[column], a), (answer.kinds[column], b)),
            _ => a == b,
        };
        for (n, (right, row)) in expected.rows.iter().zip(&answer.rows).enumerate() {
            for &column in self.ordered_by {
                if !same_cell(column, &right[column], &row[column]) {
                    return Some(format!("out of order at row {}: {:?}, not {:?}", n + 1, row, right));
                }
            }
        }
        let is_exact: Vec<bool> =
            expected.kinds.iter().zip(&answer.kinds).map(|kinds| kinds == (&Kind::Exact, &Kind::Exact)).collect();
        for (right, row) in sorted(expected, &is_exact).into_iter().zip(sorted(answer, &is_exact)) {
            if !(0..right.len()).all(|column| same_cell(column, &right[column], &row[column])) {
                return Some(format!("row {row:?}, not {right:?}"));
            }
        }
        None
    }
}

fn same_value((a_kind, a): (Kind, &str), (b_kind, b): (Kind, &str)) -> bool {
    if a == b {
        return true;
    }
    match (a_kind, b_kind) {
        (Kind::Exact, Kind::Exact) => return false,
        (Kind::Decimal, Kind::Decimal) if scale(a) == scale(b) => return false,
        _ => {}
    }
    let (Ok(x), Ok(y)) = (a.parse::<f64>(), b.parse::<f64>()) else { return false };
    let tolerance = |kind, text| match kind {
        Kind::Float => FLOAT_TOLERANCE * x.abs().max(y.abs()),
        Kind::Decimal if scale(text) > 0 => 0.1_f64.powi(scale(text)) * (1.0 + FLOAT_TOLERANCE),
        Kind::Decimal | Kind::Exact => 0.0,
    };
    (x.is_nan() && y.is_nan()) || x == y || (x - y).abs() <= tolerance(a_kind, a).max(tolerance(b_kind, b))
}

/// Digits behind the point.
fn scale(decimal: &str) -> i32 {
    decimal.split_once('.').map_or(0, |(_, digits)| i32::try_from(digits.len()).unwrap_or(i32::MAX))
}

/// The rows in an order that numbers which may differ a little decide only between otherwise equal rows.
fn sorted<'a>(answer: &'a Answer, is_exact: &[bool]) -> Vec<&'a Vec<Option<String>>> {
    let exact = |row: &Vec<Option<String>>| -> Vec<Option<String>> {
        row.iter().zip(is_exact).filter(|(_, is_exact)| **is_exact).map(|(cell, _)| cell.clone()).collect()
    };
    let numbers = |row: &Vec<Option<String>>| -> Vec<f64> {
        let cells = row.iter().zip(is_exact).filter(|(_, is_exact)| !**is_exact);
        cells.map(|(cell, _)| cell.as_ref().and_then(|cell| cell.parse().ok()).unwrap_or(f64::NEG_INFINITY)).collect()
    };
    let mut rows: Vec<_> = answer.rows.iter().map(|row| (exact(row), numbers(row), row)).collect();
    rows.sort_by(|a, b| {
        let by_numbers = || {
            let mut pairs = a.1.iter().zip(&b.1);
            pairs.find_map(|(a, b)| Some(a.total_cmp(b)).filter(|it| it.is_ne())).unwrap_or(std::cmp::Ordering::Equal)
        };
        a.0.cmp(&b.0).then_with(by_numbers)
    });
    rows.into_iter().map(|(_, _, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use Kind::{Decimal, Exact, Float};

    fn answer(kinds: &[Kind], rows: &[&[&str]]) -> Answer {
        let cell = |text: &&str| (*text != "NULL").then(|| (*text).to_owned());
        let rows = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
        Answer { kinds: kinds.to_vec(), rows }
    }

    const QUERY: Query = Query { number: 0, sql: "", ordered_by: &[0] };

    #[test]
    fn queries_are_numbered_and_read_only() {
        for (n, query) in QUERIES.iter().enumerate() {
            assert_eq!(query.number, n + 1);
            let text = query.sql.trim_start().to_ascii_uppercase();
            assert!(text.starts_with("SELECT") || text.starts_with("WITH"), "q{}", query.number);
            // The last ORDER BY that is not within parentheses is the answer's.
            let has_order = text.contains("\nORDER BY") || text.contains(" ORDER BY");
            assert_eq!(has_order, !query.ordered_by.is_empty(), "q{}", query.number);
        }
    }

    #[test]
    fn equal_keys_may_come_in_any_order() {
        let kinds = [Exact, Float];
        let right = answer(&kinds, &[&["a", "1.0"], &["b", "0.3"], &["b", "2"]]);
        let same = answer(&kinds, &[&["a", "1"], &["b", "2.0"], &["b", "0.30000000000000004"]]);
        assert_eq!(QUERY.difference(&right, &same), None);
        let swapped = answer(&kinds, &[&["b", "0.3"], &["a", "1.0"], &["b", "2"]]);
        assert!(QUERY.difference(&right, &swapped).unwrap().starts_with("out of order at row 1"));
    }

    #[test]
    fn what_differs_is_told() {
        let right = answer(&[Exact, Exact], &[&["a", "1.00"], &["b", "NULL"]]);
        for (wrong, words) in [
            (answer(&[Exact], &[&["a"]]), "1 columns, not 2"),
            (answer(&[Exact, Exact], &[&["a", "1.00"]]), "1 rows, not 2"),
            (answer(&[Exact, Exact], &[&["a", "1.0"], &["b", "NULL"]]), "row [Some(\"a\"), Some(\"1.0\")]"),
            (answer(&[Exact, Exact], &[&["a", "1.00"], &["b", "0"]]), "Some(\"0\")"),
        ] {
            let difference = QUERY.difference(&right, &wrong).expect("a difference");
            assert!(difference.contains(words), "{difference}");
        }
    }
    #[test]
    fn engines_may_keep_other_digits() {
        let one = |kind, text| answer(&[kind], &[&[text]]);
        let same = |a, b| Query { number: 0, sql: "", ordered_by: &[] }.difference(&a, &b).is_none();
        assert!(same(one(Decimal, "25.522005"), one(Float, "25.52200585")));
        assert!(same(one(Decimal, "1.67"), one(Decimal, "1.666666")));
        assert!(same(one(Exact, "3"), one(Decimal, "3.00")));
        assert!(!same(one(Decimal, "25.522005"), one(Float, "25.522007")));
        assert!(!same(one(Decimal, "1.67"), one(Decimal, "1.66")));
        assert!(!same(one(Exact, "3"), one(Decimal, "4")));
        assert!(!same(one(Exact, "3"), one(Float, "3.1")));
        assert!(!same(one(Exact, "a"), one(Float, "3")));
    }
}
