//! The rows of an answer on their way to the client.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt, TryStreamExt, ready};
use sheaf_flight::error::{external, from_panic};
use sheaf_planners::parser::OutputName;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::renamed_schema;
use super::running::RunningGuard;
use crate::answer::RowStream;
use crate::context::QueryContext;
use crate::error::QueryError;

/// Gives the columns their MySQL names, ends with the statement, and ends the statement with itself.
pub(super) struct AnswerStream {
    schema: SchemaRef,
    /// Gone once the last row, or an error, is out.
    rows: Option<SendableRecordBatchStream>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    context: Arc<QueryContext>,
    guard: Option<RunningGuard>,
    n_rows: u64,
}

impl AnswerStream {
    pub fn rows(rows: RowStream, names: &[OutputName], context: Arc<QueryContext>, guard: RunningGuard) -> RowStream {
        let schema = renamed_schema(&rows.schema, names);
        let stream = Self {
            schema: Arc::clone(&schema),
            rows: Some(rows.stream),
            cancelled: Box::pin(context.cancel.clone().cancelled_owned()),
            context,
            guard: Some(guard),
            n_rows: 0,
        };
        RowStream { schema, stream: Box::pin(stream) }
    }

    fn renamed(&self, batch: RecordBatch) -> Result<RecordBatch> {
        if batch.schema_ref() == &self.schema {
            return Ok(batch);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().to_vec();
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// Nothing more comes: what ran is let go of, the session is told.
    fn end(&mut self, error: Option<DataFusionError>) -> Option<DataFusionError> {
        self.rows = None;
        let guard = self.guard.take()?;
        let session = guard.session();
        match error {
            None => {
                guard.running().over(self.n_rows, self.context.stats.counts(), None);
                session.with_state(|state| state.read(self.n_rows, &self.context));
                None
            }
            Some(error) => {
                let error = guard.running().reason_for(QueryError::from(error));
                guard.running().over(self.n_rows, self.context.stats.counts(), Some(&error));
                session.with_state(|state| state.fail(&error));
                Some(error.into())
            }
        }
    }

    fn fail(&mut self, error: DataFusionError) -> Poll<Option<Result<RecordBatch>>> {
        Poll::Ready(self.end(Some(error)).map(Err))
    }
}

impl Stream for AnswerStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.rows.is_none() {
            return Poll::Ready(None);
        }
        if this.cancelled.as_mut().poll(cx).is_ready() {
            return this.fail(QueryError::Interrupted.into());
        }
        let Some(rows) = &mut this.rows else { return Poll::Ready(None) };
        // A panic of the root ends the statement, not the session: what panicked is thrown away with the rows.
        let polled = catch_unwind(AssertUnwindSafe(|| rows.poll_next_unpin(cx)));
        let polled = polled.unwrap_or_else(|panic| Poll::Ready(Some(Err(external(from_panic(panic.as_ref()))))));
        match ready!(polled) {
            Some(Ok(batch)) => {
                this.n_rows += batch.num_rows() as u64;
                match this.renamed(batch) {
                    Ok(batch) => Poll::Ready(Some(Ok(batch))),
                    Err(error) => this.fail(error),
                }
            }
            Some(Err(error)) => this.fail(error),
            None => {
                this.end(None);
                Poll::Ready(None)
            }
        }
    }
}

impl RecordBatchStream for AnswerStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// The same rows, read.
pub(super) async fn collected(rows: RowStream) -> Result<RowStream, QueryError> {
    let schema = rows.schema;
    let batches: Vec<RecordBatch> = rows.stream.try_collect().await?;
    Ok(of_batches(schema, batches))
}

/// Rows that are there already.
pub(crate) fn of_batches(schema: SchemaRef, batches: Vec<RecordBatch>) -> RowStream {
    let batches = futures::stream::iter(batches.into_iter().map(Ok));
    let stream = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), batches));
    RowStream { schema, stream }
}
