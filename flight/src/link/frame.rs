//! What goes over a link: frames of a header and a body.
//!
//! The header: three bytes that mark a frame, the kind, the protocol's version and the body's length in bytes, both in
//! little endian. The mark begins with a zero byte, which no HTTP/2 connection does: both share a port.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use arrow::buffer::Buffer;
use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::io::poll_read_buf;

use crate::messages::PROTOCOL_VERSION;

pub(super) const HEADER_BYTES: usize = 16;
pub(super) const MARK: [u8; 3] = [0, b'S', b'X'];

/// Bytes of small frames that are read at once; of a large one, so many are copied once more.
const AHEAD_BYTES: usize = 32 << 10;
/// Allocated at once for a body on the word of its header alone; more only as it comes.
const TRUSTED_BYTES: usize = 64 << 20;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The token of the worker that is meant.
    Hello = 1,
    /// Empty: the token is right.
    Welcome = 2,
    /// A [`crate::messages::PartitionTicket`].
    Fetch = 3,
    /// Whole messages of an Arrow IPC stream.
    Rows = 4,
    /// Empty: there are no more rows.
    End = 5,
    /// A [`sheaf_common::WireError`] as JSON: there are no more rows, and some are missing.
    Failed = 6,
    /// Empty: the next rows take their time.
    Alive = 7,
}

impl Kind {
    const ALL: [Kind; 7] = [Kind::Hello, Kind::Welcome, Kind::Fetch, Kind::Rows, Kind::End, Kind::Failed, Kind::Alive];
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other end closed the socket within a frame.
    #[error("the connection ended within a frame")]
    Cut,
    #[error("what came is no frame: {0}")]
    Garbage(String),
    /// The other end runs another version.
    #[error("frames have protocol version {0}, this node speaks {PROTOCOL_VERSION}")]
    Version(u32),
}

/// A frame that came whole.
#[derive(Debug)]
pub(super) struct Frame {
    pub kind: Kind,
    pub body: Buffer,
}

/// The header of a frame whose body has `len` bytes.
pub(super) fn header(kind: Kind, len: usize) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..3].copy_from_slice(&MARK);
    bytes[3] = kind as u8;
    bytes[4..8].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    bytes[8..].copy_from_slice(&(len as u64).to_le_bytes());
    bytes
}

/// A whole frame in one piece.
pub(super) fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    [&header(kind, body.len()), body].concat()
}

fn parse(bytes: &[u8], len_max: usize) -> Result<(Kind, usize), FrameError> {
    let (mark, rest) = bytes.split_at(MARK.len());
    if mark != MARK {
        return Err(FrameError::Garbage(format!("it begins with {mark:02x?}")));
    }
    let number = |range: std::ops::Range<usize>| {
        let mut number = [0; 8];
        number[..range.len()].copy_from_slice(&bytes[range]);
        u64::from_le_bytes(number)
    };
    let version = number(4..8) as u32;
    if version != PROTOCOL_VERSION {
        return Err(FrameError::Version(version));
    }
    let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == rest[0]);
    let kind = kind.ok_or_else(|| FrameError::Garbage(format!("frame kind {} does not exist", rest[0])))?;
    let len = usize::try_from(number(8..16)).ok().filter(|len| *len <= len_max);
    let len = len.ok_or_else(|| FrameError::Garbage(format!("a frame of more than {len_max} bytes")))?;
    Ok((kind, len))
}

/// A socket of any kind.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// Reads frames from a socket, each body into memory of its own that arrays can be made over.
pub(super) struct FrameReader<S> {
    pub socket: S,
    /// What came and is not yet taken, from `taken`.
    ahead: Vec<u8>,
    taken: usize,
    partial: Option<Partial>,
    len_max: usize,
}

struct Partial {
    kind: Kind,
    len: usize,
    body: Vec<u8>,
}

impl<S: Socket> FrameReader<S> {
    /// Refuses bodies of more than `len_max` bytes.
    pub fn new(socket: S, len_max: usize) -> Self {
        Self { socket, ahead: Vec::with_capacity(AHEAD_BYTES), taken: 0, partial: None, len_max }
    }

    /// Sends bytes of whole frames, out of every buffer.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await?;
        self.socket.flush().await
    }

    /// Whether nothing of a further frame came yet.
    pub fn is_between_frames(&self) -> bool {
        self.partial.is_none() && self.taken == self.ahead.len()
    }

    /// The next frame; `None` when the other end closed the socket after the last one.
    pub async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        std::future::poll_fn(|context| self.poll_frame(context)).await
    }

    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Frame>, FrameError>> {
        loop {
            let ready = &self.ahead[self.taken..];
            let Some(partial) = &mut self.partial else {
                if ready.len() >= HEADER_BYTES {
                    let (kind, len) = parse(&ready[..HEADER_BYTES], self.len_max)?;
                    self.taken += HEADER_BYTES;
                    self.partial = Some(Partial { kind, len, body: Vec::with_capacity(len.min(TRUSTED_BYTES)) });
                    continue;
                }
                self.ahead.drain(..self.taken);
                self.taken = 0;
                let room = AHEAD_BYTES - self.ahead.len();
                let socket = Pin::new(&mut self.socket);
                if ready!(poll_read_buf(socket, context, &mut (&mut self.ahead).limit(room)))? == 0 {
                    let end = if self.ahead.is_empty() { Ok(None) } else { Err(FrameError::Cut) };
                    return Poll::Ready(end);
                }
                continue;
            };
            let missing = partial.len - partial.body.len();
            if missing == 0 {
                let frame = self.partial.take().map(|it| Frame { kind: it.kind, body: Buffer::from_vec(it.body) });
                return Poll::Ready(Ok(frame));
            }
            if !ready.is_empty() {
                let n = ready.len().min(missing);
                partial.body.extend_from_slice(&ready[..n]);
                self.taken += n;
                continue;
            }
            let socket = Pin::new(&mut self.socket);
            if ready!(poll_read_buf(socket, context, &mut (&mut partial.body).limit(missing)))? == 0 {
                return Poll::Ready(Err(FrameError::Cut));
            }
        }
    }
}
