//! One reading of one partition.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::{FutureExt, Stream};
use sheaf_common::{ErrorCode, WireError};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::account::Charged;
use super::buffer::{Exchange, Next, Segment};
use super::spill::Stored;
use crate::error::from_join;

/// One reading of one partition. Ends after the last row, or with the producer's error; never early.
///
/// Segments on disk are read by tokio's blocking threads, the next one while this one is used. Dropping the reader
/// tells the producer that nobody wants the rest.
#[derive(Debug)]
pub struct ExchangeReader {
    exchange: Arc<Exchange>,
    partition: usize,
    reader: usize,
    /// The segment that is being read from disk.
    load: Option<Load>,
    is_done: bool,
}

#[derive(Debug)]
struct Load {
    number: usize,
    task: JoinHandle<Result<Arc<Segment>, WireError>>,
    /// Of a segment that is read ahead; one that is waited for passes through uncounted, as any batch of a plan.
    _ahead: Option<Charged>,
}

impl Load {
    fn start(number: usize, stored: Arc<Stored>, ahead: Option<Charged>) -> Result<Self, WireError> {
        let runtime = Handle::try_current().map_err(|error| WireError::new(ErrorCode::Internal, error.to_string()))?;
        let task = runtime.spawn_blocking(move || {
            stored.load().map_err(|error| error.to_wire(format!("cannot read spilled output back: {error}")))
        });
        Ok(Self { number, task, _ahead: ahead })
    }
}

impl ExchangeReader {
    pub(super) fn new(exchange: Arc<Exchange>, partition: usize, reader: usize) -> Self {
        Self { exchange, partition, reader, load: None, is_done: false }
    }

    /// Whether others read the same partition.
    pub fn is_shared(&self) -> bool {
        self.exchange.shape().readers > 1
    }

    fn poll_segment(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Arc<Segment>, WireError>>> {
        match ready!(self.exchange.poll_read(context, self.partition, self.reader)) {
            Ok(Next::Segment(segment)) => Poll::Ready(Some(Ok(segment))),
            Ok(Next::Stored(number, stored)) => {
                let mut load = match self.load.take().filter(|load| load.number == number) {
                    Some(load) => load,
                    None => match Load::start(number, stored, None) {
                        Ok(load) => load,
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    },
                };
                match load.task.poll_unpin(context) {
                    Poll::Ready(loaded) => {
                        let loaded = loaded.unwrap_or_else(|error| Err(from_join(error)));
                        Poll::Ready(Some(loaded.and_then(|segment| self.pass(segment))))
                    }
                    Poll::Pending => {
                        self.load = Some(load);
                        Poll::Pending
                    }
                }
            }
            Ok(Next::End) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    fn pass(&mut self, segment: Arc<Segment>) -> Result<Arc<Segment>, WireError> {
        if let Some((number, stored)) = self.exchange.pass(self.partition, self.reader)?
            && let Some(ahead) = self.exchange.account().hold(stored.bytes)
        {
            self.load = Some(Load::start(number, stored, Some(ahead))?);
        }
        Ok(segment)
    }
}

impl Stream for ExchangeReader {
    type Item = Result<Arc<Segment>, WireError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_done {
            return Poll::Ready(None);
        }
        let polled = self.poll_segment(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.is_done = true;
            self.load = None;
            self.exchange.leave(self.partition, self.reader);
        }
        polled
    }
}

impl Drop for ExchangeReader {
    fn drop(&mut self) {
        if !self.is_done {
            self.exchange.leave(self.partition, self.reader);
        }
    }
}
