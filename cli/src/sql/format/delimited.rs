//! Columns with something between them: CSV, and the tab-separated form of the mysql client.

use std::io::{self, Write};

use super::super::cells::{Column, readable};
use super::{Cells, RowWriter};

/// What the mysql client writes when nobody looks.
pub struct TsvWriter {
    pub has_header: bool,
    /// Nothing is escaped.
    pub is_raw: bool,
}

impl RowWriter for TsvWriter {
    fn begin(&mut self, columns: &[Column], out: &mut dyn Write) -> io::Result<()> {
        if !self.has_header {
            return Ok(());
        }
        for (n, column) in columns.iter().enumerate() {
            self.put(n, column.name.as_bytes(), out)?;
        }
        out.write_all(b"\n")
    }

    fn row(&mut self, cells: &Cells<'_>, out: &mut dyn Write) -> io::Result<()> {
        for (n, cell) in cells.iter().enumerate() {
            match cell {
                Some(bytes) => self.put(n, bytes, out)?,
                None => out.write_all(if n == 0 { b"NULL" } else { b"\tNULL" })?,
            }
        }
        out.write_all(b"\n")
    }

    fn end(&mut self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

impl TsvWriter {
    fn put(&self, n: usize, bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
        if n > 0 {
            out.write_all(b"\t")?;
        }
        if self.is_raw { out.write_all(bytes) } else { put_escaped(&readable(bytes), out) }
    }
}

fn put_escaped(text: &str, out: &mut dyn Write) -> io::Result<()> {
    if !text.contains(['\\', '\n', '\t', '\0']) {
        return out.write_all(text.as_bytes());
    }
    for c in text.chars() {
        match c {
            '\\' => out.write_all(b"\\\\")?,
            '\n' => out.write_all(b"\\n")?,
            '\t' => out.write_all(b"\\t")?,
            '\0' => out.write_all(b"\\0")?,
            other => write!(out, "{other}")?,
        }
    }
    Ok(())
}

/// RFC 4180, with line ends of one byte.
pub struct CsvWriter {
    pub has_header: bool,
}

impl RowWriter for CsvWriter {
    fn begin(&mut self, columns: &[Column], out: &mut dyn Write) -> io::Result<()> {
        if !self.has_header {
            return Ok(());
        }
        for (n, column) in columns.iter().enumerate() {
            put_csv(n, &column.name, out)?;
        }
        out.write_all(b"\n")
    }

    fn row(&mut self, cells: &Cells<'_>, out: &mut dyn Write) -> io::Result<()> {
        for (n, cell) in cells.iter().enumerate() {
            match cell {
                Some(bytes) => put_csv(n, &readable(bytes), out)?,
                None => out.write_all(if n == 0 { b"" } else { b"," })?,
            }
        }
        out.write_all(b"\n")
    }

    fn end(&mut self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

fn put_csv(n: usize, text: &str, out: &mut dyn Write) -> io::Result<()> {
    if n > 0 {
        out.write_all(b",")?;
    }
    let is_plain = |c: char| !matches!(c, ',' | '"' | '\n' | '\r');
    if !text.is_empty() && text.chars().all(is_plain) {
        return out.write_all(text.as_bytes());
    }
    write!(out, "\"{}\"", text.replace('"', "\"\""))
}
