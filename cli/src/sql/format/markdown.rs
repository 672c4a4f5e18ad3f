//! A table of GitHub's Markdown.

use std::io::{self, Write};

use super::super::cells::{Column, readable};
use super::{Cells, RowWriter};

pub struct MarkdownWriter;

fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace("\r\n", "<br>").replace('\n', "<br>")
}

impl RowWriter for MarkdownWriter {
    fn begin(&mut self, columns: &[Column], out: &mut dyn Write) -> io::Result<()> {
        for column in columns {
            write!(out, "| {} ", escaped(&column.name))?;
        }
        out.write_all(b"|\n")?;
        for column in columns {
            out.write_all(if column.kind.is_number() { b"|---:" } else { b"|---" })?;
        }
        out.write_all(b"|\n")
    }

    fn row(&mut self, cells: &Cells<'_>, out: &mut dyn Write) -> io::Result<()> {
        for cell in cells {
            let text = cell.map_or_else(|| "NULL".to_owned(), |bytes| escaped(&readable(bytes)));
            write!(out, "| {text} ")?;
        }
        out.write_all(b"|\n")
    }

    fn end(&mut self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}
