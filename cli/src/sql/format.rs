//! The forms in which rows are written: one a file, all row by row.

mod delimited;
mod json;
mod markdown;
mod parquet;
mod table;
mod vertical;

use std::io::{self, Write};

use clap::ValueEnum;

use super::cells::Column;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Boxes, as the mysql client draws them.
    Table,
    /// A line for each column.
    Vertical,
    /// Columns separated by tabs, with a header; a backslash escapes tabs, line ends and itself.
    Tsv,
    /// The same with every byte as it is.
    Raw,
    /// RFC 4180, with a header. NULL is nothing, an empty text is "".
    Csv,
    /// One array of objects.
    Json,
    /// An object a line.
    Jsonl,
    /// A table of Markdown.
    Markdown,
    /// A Parquet file.
    Parquet,
}

impl Format {
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The writer of one answer.
    pub fn writer(self, has_header: bool) -> Box<dyn RowWriter> {
        match self {
            Format::Table => Box::new(table::TableWriter::new(has_header)),
            Format::Vertical => Box::new(vertical::VerticalWriter::default()),
            Format::Tsv => Box::new(delimited::TsvWriter { has_header, is_raw: false }),
            Format::Raw => Box::new(delimited::TsvWriter { has_header, is_raw: true }),
            Format::Csv => Box::new(delimited::CsvWriter { has_header }),
            Format::Json => Box::new(json::JsonWriter::array()),
            Format::Jsonl => Box::new(json::JsonWriter::lines()),
            Format::Markdown => Box::new(markdown::MarkdownWriter),
            Format::Parquet => Box::new(parquet::ParquetWriter::default()),
        }
    }
}

/// One row: NULL is `None`.
pub type Cells<'a> = [Option<&'a [u8]>];

/// Writes one answer. Called in the order `begin`, `row` for each row, `end`; after an error, not again.
pub trait RowWriter {
    fn begin(&mut self, columns: &[Column], out: &mut dyn Write) -> io::Result<()>;
    fn row(&mut self, cells: &Cells<'_>, out: &mut dyn Write) -> io::Result<()>;
    fn end(&mut self, out: &mut dyn Write) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::super::cells::Kind;
    use super::*;

    /// Two columns and rows with everything that has to be escaped somewhere.
    pub fn written(format: Format, has_header: bool) -> Vec<u8> {
        let column = |name: &str, kind| Column { name: name.to_owned(), kind };
        let columns = [column("n", Kind::Int), column("a|b", Kind::Text)];
        let rows: [[Option<&[u8]>; 2]; 4] = [
            [Some(b"1"), Some("x\ty \"ü\"".as_bytes())],
            [Some(b"-20"), None],
            [None, Some(b"a,b|c\nd\\")],
            [Some(b"3"), Some(b"")],
        ];
        let mut writer = format.writer(has_header);
        let mut out = Vec::new();
        writer.begin(&columns, &mut out).unwrap();
        for row in &rows {
            writer.row(row, &mut out).unwrap();
        }
        writer.end(&mut out).unwrap();
        out
    }

    fn check(format: Format, expected: &str) {
        assert_eq!(String::from_utf8(written(format, true)).unwrap(), expected);
    }

    #[test]
    fn raw_is_every_byte() {
        check(Format::Raw, "n\ta|b\n1\tx\ty \"ü\"\n-20\tNULL\nNULL\ta,b|c\nd\\\n3\t\n");
    }

    #[test]
    fn tables() {
        check(
            Format::Table,
            concat!(
                "+------+-----------+\n",
                "| n    | a|b       |\n",
                "+------+-----------+\n",
                "|    1 | x\\ty \"ü\"  |\n",
                "|  -20 | NULL      |\n",
                "| NULL | a,b|c\\nd\\ |\n",
                "|    3 |           |\n",
                "+------+-----------+\n",
            ),
        );
    }

    #[test]
    fn vertical() {
        check(
            Format::Vertical,
            concat!(
                "*************************** 1. row ***************************\n",
                "  n: 1\na|b: x\\ty \"ü\"\n",
                "*************************** 2. row ***************************\n",
                "  n: -20\na|b: NULL\n",
                "*************************** 3. row ***************************\n",
                "  n: NULL\na|b: a,b|c\nd\\\n",
                "*************************** 4. row ***************************\n",
                "  n: 3\na|b: \n",
            ),
        );
    }

    #[test]
    fn delimited() {
        check(Format::Tsv, "n\ta|b\n1\tx\\ty \"ü\"\n-20\tNULL\nNULL\ta,b|c\\nd\\\\\n3\t\n");
        check(Format::Csv, "n,a|b\n1,\"x\ty \"\"ü\"\"\"\n-20,\n,\"a,b|c\nd\\\"\n3,\"\"\n");
        assert!(written(Format::Csv, false).starts_with(b"1,"));
    }

    #[test]
    fn json() {
        check(
            Format::Json,
            concat!(
                "[\n{\"n\":1,\"a|b\":\"x\\ty \\\"ü\\\"\"},\n{\"n\":-20,\"a|b\":null},\n",
                "{\"n\":null,\"a|b\":\"a,b|c\\nd\\\\\"},\n{\"n\":3,\"a|b\":\"\"}\n]\n",
            ),
        );
        let lines = String::from_utf8(written(Format::Jsonl, true)).unwrap();
        assert_eq!(lines.lines().count(), 4);
        for line in lines.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn markdown() {
        check(
            Format::Markdown,
            "| n | a\\|b |\n|---:|---|\n| 1 | x\ty \"ü\" |\n| -20 | NULL |\n| NULL | a,b\\|c<br>d\\ |\n| 3 |  |\n",
        );
    }

    #[test]
    fn answers_without_rows() {
        let column = [Column { name: "n".to_owned(), kind: Kind::Int }];
        for (format, expected) in [
            (Format::Json, "[\n]\n"),
            (Format::Jsonl, ""),
            (Format::Csv, "n\n"),
            (Format::Table, "+---+\n| n |\n+---+\n+---+\n"),
        ] {
            let (mut writer, mut out) = (format.writer(true), Vec::new());
            writer.begin(&column, &mut out).unwrap();
            writer.end(&mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{format:?}");
        }
    }
}
