//! Links: the sockets that carry rows from a worker to those who read them.
//!
//! Calls go over HTTP/2, and rows could. But its frames are copied twice on their way through a process, which costs
//! more than the kernel's own copies: so rows have sockets of their own, over TCP or, on one host, over a Unix socket.
//! A worker offers them by an action, with a token that proves that whoever shows it knows the cluster's secret.
//!
//! ```text
//!   reader                                 worker
//!     Hello  token            ─────►
//!                             ◄─────       Welcome            (or Failed: it is not who was meant)
//!     Fetch  ticket           ─────►
//!                             ◄─────       Rows, Rows, …      (Alive, while there are none)
//!                             ◄─────       End                (or Failed, with the error)
//!     Fetch  …                             the socket serves one stream after the other
//! ```
//!
//! A frame is a header of 16 bytes ([`frame`]) and a body; the body of `Rows` is a piece of an Arrow IPC stream. The
//! socket's own windows are the backpressure, closing it is the cancel. Each end notices one that stays silent.
//! With TLS between nodes, a socket over TCP says by ALPN what it is for; one of this host is its owner's only, and as
//! it is. Where no socket can be had, or too many are open, the rows go over HTTP/2 as any Flight stream does.

mod decode;
pub(crate) mod dial;
mod frame;
mod listen;
mod receive;
mod serve;

use std::time::Duration;

use sheaf_common::settings::{ExchangeCompression, ExchangeLink, Settings};

pub use listen::LinkSocket;
pub(crate) use listen::{Door, accept};
pub(crate) use receive::LinkStream;
pub(crate) use serve::LinkServer;

/// How a batch came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// By reference, from this process.
    Local,
    /// Over a Unix socket, from this host.
    Uds,
    Tcp,
}

impl Link {
    /// In the order of their declaration.
    pub const ALL: [Link; 3] = [Link::Local, Link::Uds, Link::Tcp];

    pub fn name(self) -> &'static str {
        match self {
            Link::Local => "local",
            Link::Uds => "uds",
            Link::Tcp => "tcp",
        }
    }
}

/// How rows of other tasks are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchOptions {
    /// How long the worker of a producer waits for its task to be announced.
    pub wait: Duration,
    /// Which link to take; a forced one that cannot be had is an error.
    pub link: ExchangeLink,
    /// What packs rows that go over TCP.
    pub compression: ExchangeCompression,
}

impl FetchOptions {
    /// As a session says.
    pub fn of(settings: &Settings) -> Self {
        Self {
            wait: Duration::from_millis(settings.task_start_timeout_ms),
            link: settings.exchange_link,
            compression: settings.exchange_compression,
        }
    }
}

/// Names the running system, so that who cannot share a socket does not try: the same for all processes, and containers,
/// of one host between two starts of it. Empty where there is no such name.
pub(crate) fn host_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The number of batches in the body of a frame of rows.
#[cfg(test)]
pub(crate) fn decode_frame(body: &[u8]) -> Result<usize, arrow::error::ArrowError> {
    let body = arrow::buffer::Buffer::from(body);
    decode::Decoder::default().decode(&body).map(|batches| batches.len())
}
