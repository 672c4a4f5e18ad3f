//! A Parquet file of the answer. Memory: one batch of rows and the row group that is being written.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;

use super::super::cells::Column;
use super::{Cells, RowWriter};

const BATCH_ROWS: usize = 8192;

#[derive(Default)]
pub struct ParquetWriter {
    columns: Vec<Column>,
    /// By column.
    held: Vec<Vec<Option<Vec<u8>>>>,
    n_held: usize,
    file: Option<ArrowWriter<Vec<u8>>>,
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

impl ParquetWriter {
    fn schema(&self) -> SchemaRef {
        let field = |it: &Column| Field::new(&it.name, it.kind.arrow_type(), true);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    /// Texts are read as values of their columns' types; one that cannot be is an error, never NULL.
    fn flush(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let schema = self.schema();
        let options = CastOptions { safe: false, ..Default::default() };
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.held.len());
        for (field, cells) in schema.fields().iter().zip(&mut self.held) {
            let cells = std::mem::take(cells);
            if field.data_type() == &DataType::Binary {
                arrays.push(Arc::new(BinaryArray::from_iter(cells)));
                continue;
            }
            let texts = cells.into_iter().map(|it| it.map(String::from_utf8).transpose());
            let texts: StringArray = texts.collect::<Result<_, _>>().map_err(failed)?;
            arrays.push(cast_with_options(&texts, field.data_type(), &options).map_err(failed)?);
        }
        let rows = RecordBatchOptions::new().with_row_count(Some(self.n_held));
        self.n_held = 0;
        let batch = RecordBatch::try_new_with_options(schema, arrays, &rows).map_err(failed)?;
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write(&batch).map_err(failed)?;
        let bytes = file.inner_mut();
        out.write_all(bytes)?;
        bytes.clear();
        Ok(())
    }
}

impl RowWriter for ParquetWriter {
    fn begin(&mut self, columns: &[Column], _: &mut dyn Write) -> io::Result<()> {
        self.columns = columns.to_vec();
        self.held = columns.iter().map(|_| Vec::new()).collect();
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        self.file = Some(ArrowWriter::try_new(Vec::new(), self.schema(), Some(properties)).map_err(failed)?);
        Ok(())
    }

    fn row(&mut self, cells: &Cells<'_>, out: &mut dyn Write) -> io::Result<()> {
        for (column, cell) in self.held.iter_mut().zip(cells) {
            column.push(cell.map(<[u8]>::to_vec));
        }
        self.n_held += 1;
        if self.n_held == BATCH_ROWS { self.flush(out) } else { Ok(()) }
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.flush(out)?;
        let Some(file) = self.file.take() else { return Ok(()) };
        out.write_all(&file.into_inner().map_err(failed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::cells::Kind;
    use super::*;
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    #[test]
    fn values_come_back_with_their_types() {
        let column = |name: &str, kind| Column { name: name.to_owned(), kind };
        let columns = [
            column("b", Kind::Bool),
            column("d", Kind::Decimal { precision: 15, scale: 2 }),
            column("day", Kind::Date),
            column("at", Kind::DateTime),
            column("f", Kind::Double),
            column("x", Kind::Bytes),
        ];
        let row: [Option<&[u8]>; 6] = [
            Some(b"1"),
            Some(b"-12.50"),
            Some(b"2024-02-29"),
            Some(b"2024-02-29 12:30:00.5"),
            Some(b"NaN"),
            Some(b"\xff"),
        ];
        let (mut writer, mut out) = (ParquetWriter::default(), Vec::new());
        writer.begin(&columns, &mut out).unwrap();
        for _ in 0..BATCH_ROWS {
            writer.row(&row, &mut out).unwrap();
        }
        writer.row(&[None; 6], &mut out).unwrap();
        writer.end(&mut out).unwrap();
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(out)).unwrap();
        let types: Vec<_> = builder.schema().fields().iter().map(|it| it.data_type().clone()).collect();
        assert_eq!(types, columns.iter().map(|it| it.kind.arrow_type()).collect::<Vec<_>>());
        let batches: Vec<_> = builder.build().unwrap().map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), BATCH_ROWS + 1);
        let first = pretty_format_batches(&[batches[0].slice(0, 1)]).unwrap().to_string();
        assert!(first.contains("| true | -12.50 | 2024-02-29 | 2024-02-29T12:30:00.500 | NaN | ff |"), "{first}");
    }

    #[test]
    fn a_text_that_is_no_number_is_refused() {
        let (mut writer, mut out) = (ParquetWriter::default(), Vec::new());
        writer.begin(&[Column { name: "n".to_owned(), kind: Kind::Int }], &mut out).unwrap();
        writer.row(&[Some(b"one")], &mut out).unwrap();
        assert!(writer.end(&mut out).is_err());
    }
}
