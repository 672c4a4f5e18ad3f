//! Boxes as wide as their widest cell.
//!
//! Memory: the first [`ROWS_MAX`] rows or [`BYTES_MAX`] bytes decide the widths and are held until then; a cell of a
//! later row that is wider sticks out.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use super::super::cells::{Column, printable, readable};
use super::{Cells, RowWriter};

const ROWS_MAX: usize = 10_000;
const BYTES_MAX: usize = 8 << 20;

pub struct TableWriter {
    has_header: bool,
    names: Vec<String>,
    is_number: Vec<bool>,
    /// In columns of a terminal.
    widths: Vec<usize>,
    /// Until the widths are fixed. NULL is its word.
    held: Vec<Vec<String>>,
    held_bytes: usize,
    is_fixed: bool,
}

impl TableWriter {
    pub fn new(has_header: bool) -> Self {
        let (names, is_number, widths, held) = Default::default();
        Self { has_header, names, is_number, widths, held, held_bytes: 0, is_fixed: false }
    }

    fn line(&self, out: &mut dyn Write) -> io::Result<()> {
        for width in &self.widths {
            write!(out, "+{:-<1$}", "", width + 2)?;
        }
        out.write_all(b"+\n")
    }

    fn put(&self, cells: &[String], is_header: bool, out: &mut dyn Write) -> io::Result<()> {
        for (n, cell) in cells.iter().enumerate() {
            let pad = self.widths[n].saturating_sub(cell.width());
            if self.is_number[n] && !is_header {
                write!(out, "| {:pad$}{cell} ", "")?;
            } else {
                write!(out, "| {cell}{:pad$} ", "")?;
            }
        }
        out.write_all(b"|\n")
    }

    fn fix(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.is_fixed = true;
        self.line(out)?;
        if self.has_header {
            self.put(&self.names, true, out)?;
            self.line(out)?;
        }
        for row in std::mem::take(&mut self.held) {
            self.put(&row, false, out)?;
        }
        Ok(())
    }
}

impl RowWriter for TableWriter {
    fn begin(&mut self, columns: &[Column], _: &mut dyn Write) -> io::Result<()> {
        self.names = columns.iter().map(|it| printable(&it.name).into_owned()).collect();
        self.is_number = columns.iter().map(|it| it.kind.is_number()).collect();
        let width = |name: &String| if self.has_header { name.width() } else { 0 };
        self.widths = self.names.iter().map(width).collect();
        Ok(())
    }

    fn row(&mut self, cells: &Cells<'_>, out: &mut dyn Write) -> io::Result<()> {
        let text = |cell: &Option<&[u8]>| match cell {
            Some(bytes) => printable(&readable(bytes)).into_owned(),
            None => "NULL".to_owned(),
        };
        let row: Vec<String> = cells.iter().map(text).collect();
        if self.is_fixed {
            return self.put(&row, false, out);
        }
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.width());
        }
        self.held_bytes += row.iter().map(String::len).sum::<usize>();
        self.held.push(row);
        if self.held.len() >= ROWS_MAX || self.held_bytes >= BYTES_MAX { self.fix(out) } else { Ok(()) }
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if !self.is_fixed {
            self.fix(out)?;
        }
        self.line(out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::cells::Kind;
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_nothing_is_lost() {
        let columns = [Column { name: "n".to_owned(), kind: Kind::Int }];
        let (mut writer, mut out) = (TableWriter::new(true), Vec::new());
        writer.begin(&columns, &mut out).unwrap();
        for n in 0..ROWS_MAX + 5 {
            writer.row(&[Some((n * 1000).to_string().as_bytes())], &mut out).unwrap();
            assert!(writer.held.len() < ROWS_MAX);
        }
        writer.end(&mut out).unwrap();
        // Rows, the header, and three lines.
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), ROWS_MAX + 5 + 4);
    }
}
