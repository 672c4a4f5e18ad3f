//! The worker's end of a link.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamEncoder;
use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use sheaf_common::settings::ExchangeCompression;
use sheaf_common::{ErrorCode, TaskId, WireError};
use tokio::sync::Semaphore;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::frame::{FrameError, FrameReader, Kind, Socket, frame, header};
use crate::channel::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};
use crate::client::ClusterSecret;
use crate::encoding::{from_arrow, ipc_options};
use crate::error::to_json;
use crate::exchange::ExchangeReader;
use crate::messages::{Message, PartitionTicket};
use crate::tls::Strangers;
use crate::worker::WorkerState;

/// Bytes of frames that are gathered before they are written; a batch that is larger goes alone.
const WRITE_BYTES: usize = 1 << 20;
/// Pieces of memory that one call hands to the kernel.
const WRITE_SLICES_MAX: usize = 128;
/// A token or a ticket is far smaller.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// A socket without a stream is closed then. Longer than readers keep one for their next stream.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Sockets that are served at one time, so that files and other connections can still be opened. Who comes when all
/// are taken is sent away, and reads over HTTP/2.
const SOCKETS_MAX: usize = 512;

/// Serves rows of one worker over any number of sockets.
pub(crate) struct LinkServer {
    worker: Arc<WorkerState>,
    /// Told to those only who showed the cluster's secret.
    token: ClusterSecret,
    sockets: Semaphore,
    strangers: Arc<Strangers>,
}

impl LinkServer {
    pub fn new(worker: Arc<WorkerState>, token: ClusterSecret, strangers: Arc<Strangers>) -> Self {
        Self { worker, token, sockets: Semaphore::new(SOCKETS_MAX), strangers }
    }

    /// Answers whoever is at the other end until it hangs up, or does not keep to the protocol.
    pub async fn serve(&self, socket: impl Socket, peer: Option<SocketAddr>) {
        let mut frames = FrameReader::new(socket, REQUEST_BYTES_MAX);
        if let Err(error) = self.converse(&mut frames, peer).await {
            tracing::debug!(worker = self.worker.name(), %error, "link ended");
        }
    }

    async fn converse(
        &self,
        frames: &mut FrameReader<impl Socket>,
        peer: Option<SocketAddr>,
    ) -> Result<(), FrameError> {
        let hello = match request(frames, KEEPALIVE_TIMEOUT).await {
            Ok(Some(hello)) => hello,
            Ok(None) => return Ok(()),
            Err(error) => return refuse(frames, error).await,
        };
        if hello.kind != Kind::Hello || !self.token.is(&hello.body) {
            let text = "another worker listens here, or the token of the link is wrong";
            self.strangers.refused(peer, &text);
            return fail(frames, &WireError::new(ErrorCode::AccessDenied, text)).await;
        }
        let Ok(_socket) = self.sockets.try_acquire() else {
            let text = format!("worker {} serves {SOCKETS_MAX} links already", self.worker.name());
            return fail(frames, &WireError::new(ErrorCode::Busy, text).retryable()).await;
        };
        frames.send(&frame(Kind::Welcome, &[])).await?;
        loop {
            let fetch = match request(frames, IDLE_TIMEOUT).await {
                Ok(Some(fetch)) => fetch,
                Ok(None) => return Ok(()),
                Err(error) => return refuse(frames, error).await,
            };
            if fetch.kind != Kind::Fetch {
                return refuse(frames, FrameError::Garbage(format!("{:?} is no request", fetch.kind))).await;
            }
            let opened = match PartitionTicket::decode(&fetch.body) {
                Ok(ticket) => self.open(ticket, frames).await?,
                Err(error) => Err(error),
            };
            match opened {
                Ok((task, sending)) => self.send(task, sending, frames).await?,
                Err(error) => fail(frames, &error).await?,
            }
        }
    }

    /// Waits for the task; says that it lives meanwhile.
    async fn open(
        &self,
        ticket: PartitionTicket,
        frames: &mut FrameReader<impl Socket>,
    ) -> Result<Result<(TaskId, Sending), WireError>, FrameError> {
        if let Err(error) = self.worker.check_node(&ticket.worker) {
            return Ok(Err(error));
        }
        let wait = Duration::from_millis(ticket.wait_ms);
        let open = self.worker.exchanges().open(ticket.task, ticket.partition as usize, wait);
        tokio::pin!(open);
        let mut alive = ticks();
        loop {
            tokio::select! {
                reader = &mut open => {
                    return Ok(reader.map(|reader| (ticket.task, Sending::new(reader, ticket.compression))));
                }
                _ = alive.tick() => frames.send(&frame(Kind::Alive, &[])).await?,
                // Nobody speaks now but to hang up.
                request = frames.next() => return Err(interrupted(request)),
            }
        }
    }

    /// Sends all that there is, until the end or an error of the producer, or until the reader hangs up.
    async fn send(
        &self,
        task: TaskId,
        mut sending: Sending,
        frames: &mut FrameReader<impl Socket>,
    ) -> Result<(), FrameError> {
        let mut ticks = ticks();
        std::future::poll_fn(|context| {
            loop {
                sending.fill(context);
                // What is written may wait in front of the socket, encrypted.
                let is_through =
                    sending.queue.is_empty() && Pin::new(&mut frames.socket).poll_flush(context)?.is_ready();
                if is_through {
                    if sending.ended {
                        return Poll::Ready(Ok(()));
                    }
                    if ticks.poll_tick(context).is_ready() {
                        sending.push(Kind::Alive, vec![]);
                        continue;
                    }
                } else if !sending.queue.is_empty() && sending.poll_write(&mut frames.socket, context)?.is_ready() {
                    continue;
                } else if ticks.poll_tick(context).is_ready() {
                    // Nobody reads. A query that has ended meanwhile must not be held by a reader that is frozen.
                    if self.worker.exchanges().get(task).is_none() {
                        return Poll::Ready(Err(FrameError::Cut));
                    }
                    continue;
                }
                return match frames.poll_frame(context) {
                    Poll::Ready(request) => Poll::Ready(Err(interrupted(request))),
                    Poll::Pending => Poll::Pending,
                };
            }
        })
        .await
    }
}

fn ticks() -> Interval {
    let mut ticks = interval(KEEPALIVE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first is at once.
    ticks.reset();
    ticks
}

async fn request(
    frames: &mut FrameReader<impl Socket>,
    deadline: Duration,
) -> Result<Option<super::frame::Frame>, FrameError> {
    // Who says nothing for so long has no use for the socket.
    timeout(deadline, frames.next()).await.unwrap_or(Ok(None))
}

/// What came in the middle of a stream ends it.
fn interrupted(request: Result<Option<super::frame::Frame>, FrameError>) -> FrameError {
    match request {
        Ok(None) => FrameError::Cut,
        Ok(Some(frame)) => FrameError::Garbage(format!("{:?} in the middle of a stream", frame.kind)),
        Err(error) => error,
    }
}

async fn fail(frames: &mut FrameReader<impl Socket>, error: &WireError) -> Result<(), FrameError> {
    frames.send(&frame(Kind::Failed, &to_json(error))).await?;
    Ok(())
}

/// Tells why and hangs up.
async fn refuse(frames: &mut FrameReader<impl Socket>, error: FrameError) -> Result<(), FrameError> {
    // Who is gone cannot be told.
    if !matches!(error, FrameError::Io(_) | FrameError::Cut) {
        let _ = fail(frames, &WireError::new(ErrorCode::InvalidArgument, error.to_string())).await;
    }
    Err(error)
}

/// One partition on its way.
struct Sending {
    reader: ExchangeReader,
    compression: ExchangeCompression,
    /// The encoder, and the schema that the other side knows.
    encoder: Option<(StreamEncoder, SchemaRef)>,
    /// Whole frames but for the start of the first, which is written already.
    queue: VecDeque<Buffer>,
    queued_bytes: usize,
    /// The last frame is in the queue.
    ended: bool,
}

impl Sending {
    fn new(reader: ExchangeReader, compression: ExchangeCompression) -> Self {
        Self { reader, compression, encoder: None, queue: VecDeque::new(), queued_bytes: 0, ended: false }
    }

    /// Takes what is there, up to what goes in one write.
    fn fill(&mut self, context: &mut Context<'_>) {
        while !self.ended && self.queued_bytes < WRITE_BYTES {
            let outcome = match self.reader.poll_next_unpin(context) {
                Poll::Pending => return,
                Poll::Ready(Some(segment)) => segment.and_then(|segment| self.encode(&segment.batch)),
                Poll::Ready(None) => {
                    self.ended = true;
                    self.push(Kind::End, vec![]);
                    Ok(())
                }
            };
            if let Err(error) = outcome {
                self.ended = true;
                self.push(Kind::Failed, vec![Buffer::from_vec(to_json(&error))]);
            }
        }
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<(), WireError> {
        // A batch may have NULLs in a column whose schema said until now that it has none.
        let known = self
            .encoder
            .take_if(|(_, schema)| !Arc::ptr_eq(schema, batch.schema_ref()) && schema != batch.schema_ref());
        drop(known);
        if self.encoder.is_none() {
            let encoder = StreamEncoder::try_new_with_options(batch.schema_ref(), ipc_options(self.compression)?);
            self.encoder = Some((encoder.map_err(from_arrow)?, batch.schema()));
        }
        let (encoder, _) = self.encoder.as_mut().expect("it was made just now");
        let pieces = encoder.encode(batch).map_err(from_arrow)?;
        self.push(Kind::Rows, pieces);
        Ok(())
    }

    fn push(&mut self, kind: Kind, pieces: Vec<Buffer>) {
        let len = pieces.iter().map(Buffer::len).sum();
        let header = header(kind, len);
        self.queued_bytes += header.len() + len;
        self.queue.push_back(Buffer::from(&header));
        self.queue.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
    }

    fn poll_write(&mut self, socket: &mut impl Socket, context: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
        let n_slices = slices.iter_mut().zip(&self.queue).map(|(slice, piece)| *slice = IoSlice::new(piece)).count();
        let mut written = ready!(Pin::new(socket).poll_write_vectored(context, &slices[..n_slices]))?;
        if written == 0 {
            return Poll::Ready(Err(FrameError::Cut));
        }
        self.queued_bytes -= written;
        while let Some(piece) = self.queue.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                break;
            }
            written -= piece.len();
            self.queue.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}
