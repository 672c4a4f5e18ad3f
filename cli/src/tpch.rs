//! The 22 queries of TPC-H, and whether two answers to one of them are the same.

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

/// An answer as a client has it: cells as text, `None` for NULL.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// By column: whether it holds floating-point numbers, which may differ in their last digits.
    pub is_float: Vec<bool>,
    pub rows: Vec<Vec<Option<String>>>,
}

/// How far two floating-point numbers may differ, relative to the greater.
const FLOAT_TOLERANCE: f64 = 1e-9;

impl Query {
    /// What makes the answer differ from the expected one; `None` when they are the same.
    ///
    /// Rows must be the same multiset, and where ORDER BY decides the order, in the same order: its columns are compared
    /// row by row. Rows that are equal in them may come in any order.
    pub fn difference(&self, expected: &Answer, answer: &Answer) -> Option<String> {
        if expected.is_float.len() != answer.is_float.len() {
            return Some(format!("{} columns, not {}", answer.is_float.len(), expected.is_float.len()));
        }
        if expected.rows.len() != answer.rows.len() {
            return Some(format!("{} rows, not {}", answer.rows.len(), expected.rows.len()));
        }
        let same_cell = |column: usize, a: &Option<String>, b: &Option<String>| match (a, b) {
            (Some(a), Some(b)) if expected.is_float[column] => a == b || close(a, b),
            _ => a == b,
        };
        for (n, (right, row)) in expected.rows.iter().zip(&answer.rows).enumerate() {
            for &column in self.ordered_by {
                if !same_cell(column, &right[column], &row[column]) {
                    return Some(format!("out of order at row {}: {:?}, not {:?}", n + 1, row, right));
                }
            }
        }
        for (right, row) in sorted(expected).into_iter().zip(sorted(answer)) {
            if !(0..right.len()).all(|column| same_cell(column, &right[column], &row[column])) {
                return Some(format!("row {row:?}, not {right:?}"));
            }
        }
        None
    }
}

fn close(a: &str, b: &str) -> bool {
    let (Ok(a), Ok(b)) = (a.parse::<f64>(), b.parse::<f64>()) else { return false };
    (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= FLOAT_TOLERANCE * a.abs().max(b.abs())
}

/// The rows in an order that the last digits of floating-point numbers decide only between otherwise equal rows.
fn sorted(answer: &Answer) -> Vec<&Vec<Option<String>>> {
    let exact = |row: &Vec<Option<String>>| -> Vec<Option<String>> {
        row.iter().zip(&answer.is_float).filter(|(_, is_float)| !**is_float).map(|(cell, _)| cell.clone()).collect()
    };
    let floats = |row: &Vec<Option<String>>| -> Vec<f64> {
        let cells = row.iter().zip(&answer.is_float).filter(|(_, is_float)| **is_float);
        cells.map(|(cell, _)| cell.as_ref().and_then(|cell| cell.parse().ok()).unwrap_or(f64::NEG_INFINITY)).collect()
    };
    let mut rows: Vec<_> = answer.rows.iter().map(|row| (exact(row), floats(row), row)).collect();
    rows.sort_by(|a, b| {
        let by_floats = || {
            let mut pairs = a.1.iter().zip(&b.1);
            pairs.find_map(|(a, b)| Some(a.total_cmp(b)).filter(|it| it.is_ne())).unwrap_or(std::cmp::Ordering::Equal)
        };
        a.0.cmp(&b.0).then_with(by_floats)
    });
    rows.into_iter().map(|(_, _, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(is_float: &[bool], rows: &[&[&str]]) -> Answer {
        let cell = |text: &&str| (*text != "NULL").then(|| (*text).to_owned());
        let rows = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
        Answer { is_float: is_float.to_vec(), rows }
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
        let kinds = [false, true];
        let right = answer(&kinds, &[&["a", "1.0"], &["b", "0.3"], &["b", "2"]]);
        let same = answer(&kinds, &[&["a", "1"], &["b", "2.0"], &["b", "0.30000000000000004"]]);
        assert_eq!(QUERY.difference(&right, &same), None);
        let swapped = answer(&kinds, &[&["b", "0.3"], &["a", "1.0"], &["b", "2"]]);
        assert!(QUERY.difference(&right, &swapped).unwrap().starts_with("out of order at row 1"));
    }

    #[test]
    fn what_differs_is_told() {
        let right = answer(&[false, false], &[&["a", "1.00"], &["b", "NULL"]]);
        for (wrong, words) in [
            (answer(&[false], &[&["a"]]), "1 columns, not 2"),
            (answer(&[false, false], &[&["a", "1.00"]]), "1 rows, not 2"),
            (answer(&[false, false], &[&["a", "1.0"], &["b", "NULL"]]), "row [Some(\"a\"), Some(\"1.0\")]"),
            (answer(&[false, false], &[&["a", "1.00"], &["b", "0"]]), "Some(\"0\")"),
        ] {
            let difference = QUERY.difference(&right, &wrong).expect("a difference");
            assert!(difference.contains(words), "{difference}");
        }
    }
}
