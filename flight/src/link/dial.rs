//! Opening links: which one to take to a worker, and sockets that wait for their next stream.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sheaf_common::WireError;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::frame::{FrameReader, Kind, Socket, frame};
use super::{Link, LinkStream};
use crate::error::from_json;
use crate::messages::{LinkOffer, Message, PartitionTicket, WorkerAddress};
use crate::tls::{ClusterTls, Purpose};

/// A worker that does not greet by then is read over HTTP/2.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A socket that found no further stream is closed then. Shorter than workers wait for one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Sockets to one worker that are kept for further streams.
const IDLE_MAX: usize = 16;
/// Sockets of this process that read at one time; further streams go over HTTP/2, where any number shares a connection.
const SOCKETS_MAX: usize = 256;

/// Why a link could not be had. The rows may come on another way.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("it offers no Unix socket")]
    NotOffered,
    #[error("it runs on another host")]
    AnotherHost,
    #[error("{SOCKETS_MAX} links are open already")]
    TooMany,
    #[error("its socket did not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Silent,
    #[error("its socket cannot be used: {0}")]
    Broken(String),
    #[error("it refused: {0}")]
    Refused(WireError),
}

/// The links of one process to all workers.
pub(crate) struct Dialer {
    host: String,
    sockets: Arc<Semaphore>,
    idle: Arc<Mutex<Idle>>,
}

type Idle = HashMap<(WorkerAddress, Link), Vec<(Instant, Frames)>>;
type Frames = FrameReader<Box<dyn Socket>>;

/// A socket that a worker has greeted on.
pub(crate) struct Connection {
    pub(super) frames: Frames,
    pub(super) link: Link,
    worker: WorkerAddress,
    idle: Weak<Mutex<Idle>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Keeps the socket for a further stream.
    pub(super) fn keep(self) {
        let Some(idle) = self.idle.upgrade() else { return };
        if !self.frames.is_between_frames() {
            return;
        }
        let mut idle = idle.lock();
        let now = Instant::now();
        idle.retain(|_, kept| {
            kept.retain(|(since, _)| now - *since < IDLE_TIMEOUT);
            !kept.is_empty()
        });
        let kept = idle.entry((self.worker, self.link)).or_default();
        if kept.len() < IDLE_MAX {
            kept.push((now, self.frames));
        }
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("free", &self.sockets.available_permits()).finish_non_exhaustive()
    }
}

impl Dialer {
    pub fn new() -> Self {
        Self { host: super::host_id(), sockets: Arc::new(Semaphore::new(SOCKETS_MAX)), idle: Arc::default() }
    }

    #[cfg(test)]
    pub fn idle_links(&self) -> usize {
        self.idle.lock().values().map(Vec::len).sum()
    }

    /// Closes what is kept for a worker that may be gone.
    pub fn forget(&self, worker: &WorkerAddress) {
        self.idle.lock().retain(|(kept, _), _| kept != worker);
    }

    /// Whether a Unix socket that a worker offers may be seen from here.
    ///
    /// Errs with the reason why not.
    pub fn shares_socket(&self, offer: &LinkOffer) -> Result<(), DialError> {
        if offer.socket.is_empty() {
            return Err(DialError::NotOffered);
        }
        if offer.host != self.host {
            return Err(DialError::AnotherHost);
        }
        Ok(())
    }

    /// Begins to read a partition over a link of one kind; one over TCP is encrypted by `tls`.
    ///
    /// Errs when there is none; then nothing was read, and the partition can be asked for on another way.
    pub async fn open(
        &self,
        worker: &WorkerAddress,
        link: Link,
        offer: &LinkOffer,
        ticket: &PartitionTicket,
        tls: Option<&Arc<ClusterTls>>,
    ) -> Result<LinkStream, DialError> {
        let permit = Arc::clone(&self.sockets).try_acquire_owned().map_err(|_| DialError::TooMany)?;
        let mut frames = match self.take_idle(worker, link) {
            Some(frames) => frames,
            None => {
                let greeted = timeout(CONNECT_TIMEOUT, connect(worker, link, offer, tls)).await;
                greeted.unwrap_or(Err(DialError::Silent))?
            }
        };
        let broken = |error: &dyn fmt::Display| DialError::Broken(error.to_string());
        let ticket = ticket.encode().map_err(|error| broken(&error))?;
        frames.send(&frame(Kind::Fetch, &ticket)).await.map_err(|error| broken(&error))?;
        let (worker, idle) = (worker.clone(), Arc::downgrade(&self.idle));
        let connection = Connection { frames, link, worker: worker.clone(), idle, _permit: permit };
        Ok(LinkStream::new(connection, worker))
    }

    fn take_idle(&self, worker: &WorkerAddress, link: Link) -> Option<Frames> {
        let mut idle = self.idle.lock();
        let kept = idle.get_mut(&(worker.clone(), link))?;
        while let Some((since, frames)) = kept.pop() {
            if since.elapsed() < IDLE_TIMEOUT {
                return Some(frames);
            }
        }
        None
    }
}

/// A socket on which the worker said that it is the one that is meant.
async fn connect(
    worker: &WorkerAddress,
    link: Link,
    offer: &LinkOffer,
    tls: Option<&Arc<ClusterTls>>,
) -> Result<Frames, DialError> {
    let broken = |error: &dyn fmt::Display| DialError::Broken(error.to_string());
    let socket: Box<dyn Socket> = match (link, tls) {
        (Link::Uds, _) => {
            let path = PathBuf::from(&offer.socket);
            Box::new(UnixStream::connect(path).await.map_err(|error| broken(&error))?)
        }
        (Link::Tcp | Link::Local, Some(tls)) => {
            let connected = tls.connect(&worker.host, worker.port, Purpose::Link).await;
            Box::new(connected.map_err(|error| broken(&error))?)
        }
        (Link::Tcp | Link::Local, None) => {
            let stream = TcpStream::connect((worker.host.as_str(), worker.port)).await;
            let stream = stream.map_err(|error| broken(&error))?;
            stream.set_nodelay(true).map_err(|error| broken(&error))?;
            Box::new(stream)
        }
    };
    let mut frames = FrameReader::new(socket, usize::MAX);
    frames.send(&frame(Kind::Hello, &offer.token)).await.map_err(|error| broken(&error))?;
    let answer = frames.next().await.map_err(|error| broken(&error))?;
    match answer {
        Some(answer) if answer.kind == Kind::Welcome => Ok(frames),
        Some(answer) if answer.kind == Kind::Failed => {
            Err(from_json(&answer.body).map_or_else(|error| broken(&error), DialError::Refused))
        }
        Some(answer) => Err(broken(&format!("it greets with {:?}", answer.kind))),
        None => Err(broken(&"it hung up")),
    }
}
