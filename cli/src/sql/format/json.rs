//! JSON. Numbers are numbers with all their digits; what JSON has no number for (NaN, infinities) is a string.

use std::io::{self, Write};

use super::super::cells::{Column, Kind, readable};
use super::{Cells, RowWriter};

pub struct JsonWriter {
    /// One array of all, or an object a line.
    is_array: bool,
    /// Each `"name":`, and the kind of its values.
    columns: Vec<(String, Kind)>,
    is_first: bool,
}

impl JsonWriter {
    pub fn array() -> Self {
        Self { is_array: true, columns: Vec::new(), is_first: true }
    }

    pub fn lines() -> Self {
        Self { is_array: false, ..Self::array() }
    }
}

fn string(text: &str) -> io::Result<String> {
    Ok(serde_json::to_string(text)?)
}

/// What JSON takes for a number.
fn is_json_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    // `.5` and `inf` are none; a leading zero is only one before the point.
    digits.starts_with(|c: char| c.is_ascii_digit())
        && (!digits.starts_with('0') || digits == "0" || digits[1..].starts_with(['.', 'e', 'E']))
        && digits.parse::<f64>().is_ok()
}

impl RowWriter for JsonWriter {
    fn begin(&mut self, columns: &[Column], out: &mut dyn Write) -> io::Result<()> {
        let named = columns.iter().map(|it| Ok((format!("{}:", string(&it.name)?), it.kind)));
        self.columns = named.collect::<io::Result<_>>()?;
        if self.is_array { out.write_all(b"[\n") } else { Ok(()) }
    }

    fn row(&mut self, cells: &Cells<'_>, out: &mut dyn Write) -> io::Result<()> {
        if self.is_array && !self.is_first {
            out.write_all(b",\n")?;
        }
        self.is_first = false;
        for (n, ((name, kind), cell)) in self.columns.iter().zip(cells).enumerate() {
            out.write_all(if n == 0 { b"{" } else { b"," })?;
            out.write_all(name.as_bytes())?;
            let Some(bytes) = cell else {
                out.write_all(b"null")?;
                continue;
            };
            let text = readable(bytes);
            match kind {
                Kind::Bool => out.write_all(if *text == *"0" { b"false" } else { b"true" })?,
                Kind::Int | Kind::UInt | Kind::Float | Kind::Double | Kind::Decimal { .. } if is_json_number(&text) => {
                    out.write_all(text.as_bytes())?;
                }
                Kind::Json if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok() => {
                    out.write_all(text.as_bytes())?;
                }
                _ => out.write_all(string(&text)?.as_bytes())?,
            }
        }
        if cells.is_empty() {
            out.write_all(b"{")?;
        }
        out.write_all(if self.is_array { b"}" } else { b"}\n" })
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if !self.is_array {
            return Ok(());
        }
        out.write_all(if self.is_first { b"]\n" } else { b"\n]\n" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_are_numbers() {
        for number in ["0", "-1", "1.50", "0.5", "1e300", "-0", "123456789012345678901234567890.12"] {
            assert!(is_json_number(number), "{number}");
            serde_json::from_str::<serde_json::Value>(number).unwrap();
        }
        for other in ["NaN", "inf", "-inf", ".5", "007", "", "-", "1_000"] {
            assert!(!is_json_number(other), "{other}");
        }
    }
}
