//! The reader's end of a link.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use futures::{FutureExt, Stream};
use sheaf_common::{ErrorCode, WireError};
use tokio::time::{Instant, Sleep, sleep_until};

use super::decode::Decoder;
use super::dial::Connection;
use super::frame::{FrameError, HEADER_BYTES, Kind};
use crate::channel::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};
use crate::client::Received;
use crate::error::{from_json, worker_lost};
use crate::messages::WorkerAddress;

/// A worker that has no rows says so at each interval.
const SILENCE_MAX: Duration = KEEPALIVE_INTERVAL.saturating_add(KEEPALIVE_TIMEOUT);

/// One partition, as it comes over a link. Ends after the last row or with an error, never short; dropping it before
/// closes the socket, which tells the worker.
pub(crate) struct LinkStream {
    /// None once the stream is over.
    connection: Option<Connection>,
    worker: WorkerAddress,
    decoder: Decoder,
    /// Batches of a frame that are not handed out yet.
    ready: VecDeque<RecordBatch>,
    /// Bytes on the link since the last batch.
    bytes: usize,
    silence: Pin<Box<Sleep>>,
    /// Whether `silence` counts: only while the socket has nothing.
    waits: bool,
}

impl LinkStream {
    /// The stream that the last request on the connection asked for.
    pub(super) fn new(connection: Connection, worker: WorkerAddress) -> Self {
        Self {
            connection: Some(connection),
            worker,
            decoder: Decoder::default(),
            ready: VecDeque::new(),
            bytes: 0,
            silence: Box::pin(sleep_until(Instant::now() + SILENCE_MAX)),
            waits: false,
        }
    }

    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Received, WireError>>> {
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            if let Some(batch) = self.ready.pop_front() {
                let bytes = std::mem::take(&mut self.bytes);
                return Poll::Ready(Some(Ok(Received { batch, link: connection.link, bytes })));
            }
            let frame = match connection.frames.poll_frame(context) {
                Poll::Ready(Ok(Some(frame))) => frame,
                Poll::Ready(Ok(None)) | Poll::Ready(Err(FrameError::Cut)) => {
                    return self.fail(worker_lost(&self.worker, "a stream ended before its end mark"));
                }
                Poll::Ready(Err(FrameError::Io(error))) => return self.fail(worker_lost(&self.worker, error)),
                Poll::Ready(Err(error)) => return self.fail(self.unreadable(error)),
                Poll::Pending => {
                    if !self.waits {
                        self.waits = true;
                        self.silence.as_mut().reset(Instant::now() + SILENCE_MAX);
                    }
                    if self.silence.poll_unpin(context).is_pending() {
                        return Poll::Pending;
                    }
                    let text = format!("no sign of life on a link for {} s", SILENCE_MAX.as_secs());
                    return self.fail(worker_lost(&self.worker, text));
                }
            };
            self.waits = false;
            self.bytes += HEADER_BYTES + frame.body.len();
            match frame.kind {
                Kind::Rows => match self.decoder.decode(&frame.body) {
                    Ok(batches) => self.ready.extend(batches),
                    Err(error) => return self.fail(self.unreadable(error)),
                },
                Kind::Alive => {}
                Kind::End => {
                    if let Some(connection) = self.connection.take() {
                        connection.keep();
                    }
                    return Poll::Ready(None);
                }
                Kind::Failed => {
                    let error = from_json(&frame.body).unwrap_or_else(|error| self.unreadable(error));
                    return self.fail(error);
                }
                Kind::Hello | Kind::Welcome | Kind::Fetch => {
                    return self.fail(self.unreadable(format!("{:?} came in place of rows", frame.kind)));
                }
            }
        }
    }

    fn fail(&mut self, error: WireError) -> Poll<Option<Result<Received, WireError>>> {
        self.connection = None;
        self.ready.clear();
        Poll::Ready(Some(Err(error)))
    }

    fn unreadable(&self, error: impl std::fmt::Display) -> WireError {
        let text = format!("a stream from worker {} could not be read: {error}", self.worker);
        WireError::new(ErrorCode::Internal, text).retryable()
    }
}

impl Stream for LinkStream {
    type Item = Result<Received, WireError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_batch(context)
    }
}
