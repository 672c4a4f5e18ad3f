//! One file that is being written, in any format that tables or COPY have.
//!
//! Nothing is visible under its name before [`FileWriter::finish`] returns.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::csv;
use arrow::datatypes::SchemaRef;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter as IpcWriter, IpcWriteOptions};
use arrow::json::LineDelimitedWriter;
use datafusion::error::{DataFusionError, Result};
use datafusion::parquet::arrow::AsyncArrowWriter;
use datafusion::parquet::arrow::arrow_writer::ArrowWriterOptions;
use datafusion::parquet::file::metadata::ParquetMetaData;
use datafusion::parquet::file::properties::WriterProperties;
use futures::FutureExt;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use sheaf_planners::table_sink::SinkFormat;
use tokio::io::AsyncWriteExt;

/// Bytes that an upload to a store holds back.
const UPLOAD_BYTES: usize = 10 << 20;

/// A file that has been begun.
pub struct FileWriter {
    sink: Sink,
    /// Of formats that are written through a buffer of ours.
    bytes: u64,
}

enum Sink {
    Parquet(Box<AsyncArrowWriter<BufWriter>>),
    Csv { to: BufWriter, header: bool, options: csv::WriterBuilder },
    Json(BufWriter),
    Arrow { to: BufWriter, writer: Box<IpcWriter<Vec<u8>>> },
}

impl FileWriter {
    /// Begins a file of columns `schema`. Arrow's own schema is part of a Parquet file only if it is no table's: those
    /// are what any writer of Parquet makes.
    pub fn begin(
        store: Arc<dyn ObjectStore>,
        path: Path,
        schema: &SchemaRef,
        format: &SinkFormat,
        properties: &WriterProperties,
    ) -> Result<Self> {
        let to = BufWriter::new(store, path);
        let sink = match format {
            SinkFormat::Table | SinkFormat::Parquet { .. } => {
                let options = ArrowWriterOptions::new()
                    .with_properties(properties.clone())
                    .with_skip_arrow_metadata(*format == SinkFormat::Table);
                let writer = AsyncArrowWriter::try_new_with_options(to, Arc::clone(schema), options)?;
                Sink::Parquet(Box::new(writer))
            }
            SinkFormat::Csv { header, delimiter, null } => {
                let options = csv::WriterBuilder::new().with_delimiter(*delimiter).with_null(null.clone());
                Sink::Csv { to, header: *header, options }
            }
            SinkFormat::Json => Sink::Json(to),
            SinkFormat::Arrow => {
                let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
                let writer = IpcWriter::try_new_with_options(Vec::new(), schema, options)?;
                Sink::Arrow { to, writer: Box::new(writer) }
            }
        };
        Ok(Self { sink, bytes: 0 })
    }

    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let (to, encoded) = match &mut self.sink {
            Sink::Parquet(writer) => return Ok(writer.write(batch).await?),
            Sink::Csv { to, header, options } => {
                // Names stand before the first row of a file alone.
                let mut writer = options.clone().with_header(std::mem::take(header)).build(Vec::new());
                writer.write(batch)?;
                (to, writer.into_inner())
            }
            Sink::Json(to) => {
                let mut writer = LineDelimitedWriter::new(Vec::new());
                writer.write(batch)?;
                writer.finish()?;
                (to, writer.into_inner())
            }
            Sink::Arrow { to, writer } => {
                writer.write(batch)?;
                (to, std::mem::take(writer.get_mut()))
            }
        };
        self.bytes += encoded.len() as u64;
        Ok(to.write_all(&encoded).await?)
    }

    /// Bytes of the file so far, about.
    pub fn bytes(&self) -> u64 {
        match &self.sink {
            Sink::Parquet(writer) => (writer.bytes_written() + writer.in_progress_size()) as u64,
            _ => self.bytes,
        }
    }

    pub fn memory_size(&self) -> usize {
        match &self.sink {
            Sink::Parquet(writer) => writer.memory_size(),
            _ => usize::try_from(self.bytes).unwrap_or(usize::MAX).min(UPLOAD_BYTES),
        }
    }

    /// Ends the file: its bytes, and the footer of one that has a description.
    pub async fn finish(self) -> Result<(u64, Option<ParquetMetaData>)> {
        let mut bytes = self.bytes;
        let mut to = match self.sink {
            Sink::Parquet(mut writer) => {
                let metadata = writer.finish().await?;
                return Ok((writer.bytes_written() as u64, Some(metadata)));
            }
            Sink::Csv { to, .. } | Sink::Json(to) => to,
            Sink::Arrow { mut to, mut writer } => {
                writer.finish()?;
                let end = std::mem::take(writer.get_mut());
                bytes += end.len() as u64;
                to.write_all(&end).await?;
                to
            }
        };
        to.shutdown().await.map_err(DataFusionError::IoError)?;
        Ok((bytes, None))
    }

    /// Gives the file up.
    pub async fn abort(self) {
        let mut to = match self.sink {
            Sink::Parquet(writer) => writer.into_inner(),
            Sink::Csv { to, .. } | Sink::Json(to) | Sink::Arrow { to, .. } => to,
        };
        // An upload that is being completed cannot be given up and panics; its file is removed by the caller.
        let _ = AssertUnwindSafe(to.abort()).catch_unwind().await;
    }
}
