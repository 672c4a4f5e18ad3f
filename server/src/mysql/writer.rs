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
use sheaf_query::{QueryError, RowStream};
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, ConnectionError};
use super::value::{BatchEncoder, RowFormat, ValueError};

/// Encoded rows go out when there is so much of them, or when the next batch is not there yet.
const FLUSH_BYTES: usize = 64 << 10;

/// Why not all rows were written. After all but the last the client can still be told.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    #[error(transparent)]
    Query(DataFusionError),
    #[error(transparent)]
    Value(#[from] ValueError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

/// How far the rows are after a part of them was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// As many as were asked for; more may follow.
    RowsSent,
    /// There are no more.
    AtEnd,
}

/// Rows on their way to a client, all at once or bit by bit. Dropping it ends their query.
pub struct RowsWriter {
    stream: SendableRecordBatchStream,
    /// The batch that is being written, and the row to go on with.
    open: Option<(RecordBatch, usize)>,
    format: RowFormat,
    zone: Tz,
    ended: CancellationToken,
}

impl RowsWriter {
    /// `ended` is cancelled when the statement is ended from outside.
    pub fn new(rows: RowStream, format: RowFormat, zone: Tz, ended: CancellationToken) -> Self {
        Self { stream: rows.stream, open: None, format, zone, ended }
    }

    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Writes the next rows; what precedes and follows them is the caller's, who flushes also what is written last.
    pub async fn write<C: Connection + ?Sized>(
        &mut self,
        connection: &mut C,
        n_rows: usize,
    ) -> Result<Progress, RowsError> {
        let mut n_left = n_rows;
        while n_left > 0 {
            if self.open.is_some() {
                n_left -= self.encode(connection, n_left)?;
                if connection.buffer().len() >= FLUSH_BYTES {
                    self.flush(connection).await?;
                }
                continue;
            }
            // A client sees what there is while the query works on the rest.
            let next = match self.stream.next().now_or_never() {
                Some(next) => next,
                None => {
                    self.flush(connection).await?;
                    self.stream.next().await
                }
            };
            match next {
                None => return Ok(Progress::AtEnd),
                Some(Err(error)) => return Err(RowsError::Query(error)),
                Some(Ok(batch)) => self.open = Some((batch, 0)),
            }
        }
        Ok(Progress::RowsSent)
    }

    /// Encodes rows of the open batch until there is enough to send; how many. Apart from the sending, because an encoder
    /// cannot be held over an await.
    fn encode<C: Connection + ?Sized>(&mut self, connection: &mut C, n_rows: usize) -> Result<usize, ValueError> {
        let Some((batch, first)) = self.open.take() else { return Ok(0) };
        let encoder = BatchEncoder::new(&batch, self.format, self.zone)?;
        let buffer = connection.buffer();
        let end = batch.num_rows().min(first.saturating_add(n_rows));
        let mut row = first;
        while row < end && buffer.len() < FLUSH_BYTES {
            encoder.put_row(row, buffer)?;
            row += 1;
        }
        drop(encoder);
        if row < batch.num_rows() {
            self.open = Some((batch, row));
        }
        Ok(row - first)
    }

    /// The stream notices its end only when it is polled, and a client that does not read keeps it from that: then it is
    /// dropped here, and what it held is free while the client is still waited for.
    async fn flush<C: Connection + ?Sized>(&mut self, connection: &mut C) -> Result<(), RowsError> {
        let flushed = connection.flush();
        tokio::pin!(flushed);
        tokio::select! {
            biased;
            flushed = &mut flushed => return Ok(flushed?),
            () = self.ended.cancelled() => {}
        }
        let error = self.stop();
        flushed.await?;
        Err(error)
    }

    /// Lets go of rows whose statement was ended from outside; why it was.
    pub fn stop(&mut self) -> RowsError {
        let error = match self.stream.next().now_or_never() {
            Some(Some(Err(error))) => error,
            // It had its last row ready. The client did not get it, so the end has to be told all the same.
            _ => QueryError::Interrupted.into(),
        };
        let schema = self.stream.schema();
        self.stream = Box::pin(EmptyRecordBatchStream::new(schema));
        self.open = None;
        RowsError::Query(error)
    }
}
