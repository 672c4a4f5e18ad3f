//! A result's rows, from the stream of batches to the client.
//!
//! Memory: one batch, and [`FLUSH_BYTES`] of encoded rows or one row if that is wider. The next batch is asked for only when
//! the rows of the last one are with the socket, so a client that reads slowly slows the query down.

use arrow::array::timezone::Tz;
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::EmptyRecordBatchStream;
use futures::{FutureExt, StreamExt};
use sheaf_query::RowStream;
use tokio_util::sync::CancellationToken;

use super::column::Column;
use super::connection::{Connection, ConnectionError};
use super::value::{BatchEncoder, RowFormat, ValueError};

/// Encoded rows go out when there is so much of them, or when the next batch is not there yet.
const FLUSH_BYTES: usize = 64 << 10;

/// Why not all rows were written. After all but the last the client can still be told.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The statement was ended while the client did not read.
    #[error("statement was ended")]
    Ended,
    #[error(transparent)]
    Query(DataFusionError),
    #[error(transparent)]
    Value(#[from] ValueError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

/// Writes column definitions and all rows; the caller writes the end, or the error in its place.
///
/// `ended` is cancelled when the statement is ended from outside. Dropping the future ends it too.
pub async fn write_rows<C: Connection + ?Sized>(
    connection: &mut C,
    rows: RowStream,
    format: RowFormat,
    zone: Tz,
    ended: CancellationToken,
) -> Result<(), RowsError> {
    let capabilities = connection.capabilities();
    connection.buffer().columns(&Column::of_schema(&rows.schema), capabilities);
    let mut writer = RowsWriter { connection, stream: rows.stream, format, zone, ended };
    loop {
        // A client sees what there is while the query works on the rest.
        let next = match writer.stream.next().now_or_never() {
            Some(next) => next,
            None => {
                writer.flush().await?;
                writer.stream.next().await
            }
        };
        match next {
            None => return Ok(()),
            Some(Err(error)) => return Err(RowsError::Query(error)),
            Some(Ok(batch)) => writer.write_batch(&batch).await?,
        }
    }
}

struct RowsWriter<'a, C: ?Sized> {
    connection: &'a mut C,
    stream: SendableRecordBatchStream,
    format: RowFormat,
    zone: Tz,
    ended: CancellationToken,
}

impl<C: Connection + ?Sized> RowsWriter<'_, C> {
    async fn write_batch(&mut self, batch: &RecordBatch) -> Result<(), RowsError> {
        let mut row = 0;
        while row < batch.num_rows() {
            row = self.encode(batch, row)?;
            if self.connection.buffer().len() >= FLUSH_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Encodes rows from `row` on until there is enough to send; the row to go on with. Apart from the sending, because
    /// an encoder cannot be held over an await.
    fn encode(&mut self, batch: &RecordBatch, mut row: usize) -> Result<usize, ValueError> {
        let encoder = BatchEncoder::new(batch, self.format, self.zone)?;
        let buffer = self.connection.buffer();
        while row < batch.num_rows() && buffer.len() < FLUSH_BYTES {
            encoder.put_row(row, buffer)?;
            row += 1;
        }
        Ok(row)
    }

    /// The stream notices its end only when it is polled, and a client that does not read keeps it from that: then it is
    /// dropped here, and what it held is free while the client is still waited for.
    async fn flush(&mut self) -> Result<(), RowsError> {
        let flushed = self.connection.flush();
        tokio::pin!(flushed);
        tokio::select! {
            biased;
            flushed = &mut flushed => return Ok(flushed?),
            () = self.ended.cancelled() => {}
        }
        let schema = self.stream.schema();
        self.stream = Box::pin(EmptyRecordBatchStream::new(schema));
        flushed.await?;
        Err(RowsError::Ended)
    }
}
