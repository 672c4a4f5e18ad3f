//! A line for each column, as `\G` of the mysql client asks for.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use super::super::cells::{Column, printable, readable};
use super::{Cells, RowWriter};

#[derive(Default)]
pub struct VerticalWriter {
    names: Vec<String>,
    n_rows: u64,
}

impl RowWriter for VerticalWriter {
    fn begin(&mut self, columns: &[Column], _: &mut dyn Write) -> io::Result<()> {
        let names: Vec<String> = columns.iter().map(|it| printable(&it.name).into_owned()).collect();
        let width = names.iter().map(|it| it.width()).max().unwrap_or(0);
        self.names = names.iter().map(|it| format!("{}{it}", " ".repeat(width - it.width()))).collect();
        Ok(())
    }

    fn row(&mut self, cells: &Cells<'_>, out: &mut dyn Write) -> io::Result<()> {
        self.n_rows += 1;
        writeln!(out, "*************************** {}. row ***************************", self.n_rows)?;
        for (name, cell) in self.names.iter().zip(cells) {
            let Some(bytes) = cell else {
                writeln!(out, "{name}: NULL")?;
                continue;
            };
            // Line ends stay: long texts are what this form is for.
            let text = readable(bytes);
            let lines: Vec<_> = text.split('\n').map(printable).collect();
            writeln!(out, "{name}: {}", lines.join("\n"))?;
        }
        Ok(())
    }

    fn end(&mut self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}
