//! How a worker is reached.
//!
//! [`ChannelResolver`] is an extension point: who embeds the crates can bring a mesh, or keep all workers in one
//! process. The default keeps one HTTP/2 connection to each worker and hands out clones of it.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use dashmap::DashMap;
use parking_lot::RwLock;
use sheaf_common::{ErrorCode, WireError};
use tonic::transport::{Channel, Endpoint};

use crate::error::worker_lost;
use crate::messages::WorkerAddress;
use crate::tls::{ClusterTls, Connector};
use crate::worker::WorkerState;

/// Unread bytes of one stream that the sender may have on their way.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The protocol's maximum: streams that nobody reads now must never stop others on the same connection, or a join
/// that reads one input first would wait for itself.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = i32::MAX as u32;
/// A peer that is frozen, or unplugged, is noticed within the sum of the two.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A batch goes in few frames; the protocol's default of 16 KiB is made for pages.
pub(crate) const FRAME_BYTES_MAX: u32 = 256 << 10;
/// Errors travel in headers.
pub(crate) const HEADER_BYTES_MAX: u32 = 256 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A way to a worker.
#[derive(Clone)]
pub enum WorkerChannel {
    /// In this process: batches pass by reference.
    Local(Arc<WorkerState>),
    /// Over a connection.
    Remote(Channel),
}

impl fmt::Debug for WorkerChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WorkerChannel::Local(_) => "Local",
            WorkerChannel::Remote(_) => "Remote",
        })
    }
}

/// Finds the way to a worker.
#[async_trait]
pub trait ChannelResolver: Send + Sync + fmt::Debug + 'static {
    /// Errs with `WorkerLost` when the worker cannot be reached.
    async fn resolve(&self, worker: &WorkerAddress) -> Result<WorkerChannel, WireError>;

    /// A connection to the worker even if it lives in this process.
    ///
    /// Errs where there are no connections, which is the default, and as [`Self::resolve`] does.
    async fn connect(&self, worker: &WorkerAddress) -> Result<Channel, WireError> {
        let text = format!("worker {worker} is not reached over connections here");
        Err(WireError::new(ErrorCode::Unsupported, text))
    }

    /// Whether the host and port of a worker's address can be connected to as they are: then rows get links of their
    /// own ([`crate::link`]). If not, they go over the channels.
    fn is_direct(&self) -> bool {
        false
    }

    /// What encrypts the links that go to workers' addresses directly, if something does.
    fn tls(&self) -> Option<&Arc<ClusterTls>> {
        None
    }

    /// Told that a call over the channel failed: the next one may need a new connection.
    fn forget(&self, _worker: &WorkerAddress) {}
}

/// One connection a worker, made at the first call, plus the worker of this process, if it has one.
pub struct PooledChannels {
    channels: DashMap<(String, u16), Channel>,
    local: RwLock<Option<Weak<WorkerState>>>,
    /// Where connections live: their pings must be answered also while queries keep their own threads busy.
    runtime: tokio::runtime::Handle,
    tls: Option<Arc<ClusterTls>>,
}

impl PooledChannels {
    /// Connections that are driven by `runtime`.
    pub fn new(runtime: tokio::runtime::Handle) -> Self {
        Self { channels: DashMap::new(), local: RwLock::new(None), runtime, tls: None }
    }

    /// Connects to those only who show a certificate of the cluster, and shows this node's.
    pub fn with_tls(mut self, tls: Option<Arc<ClusterTls>>) -> Self {
        self.tls = tls;
        self
    }

    /// Says which worker lives in this process. It is kept by a weak reference: the worker owns its client.
    pub fn set_local(&self, worker: &Arc<WorkerState>) {
        *self.local.write() = Some(Arc::downgrade(worker));
    }

    fn local(&self, worker: &WorkerAddress) -> Option<Arc<WorkerState>> {
        let local = self.local.read().as_ref()?.upgrade()?;
        (!worker.node.is_empty() && local.address().node == worker.node).then_some(local)
    }
}

impl fmt::Debug for PooledChannels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledChannels").field("channels", &self.channels.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl ChannelResolver for PooledChannels {
    async fn resolve(&self, worker: &WorkerAddress) -> Result<WorkerChannel, WireError> {
        if let Some(local) = self.local(worker) {
            return Ok(WorkerChannel::Local(local));
        }
        self.connect(worker).await.map(WorkerChannel::Remote)
    }

    async fn connect(&self, worker: &WorkerAddress) -> Result<Channel, WireError> {
        let key = (worker.host.clone(), worker.port);
        if let Some(channel) = self.channels.get(&key) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{worker}"))
            .map_err(|error| worker_lost(worker, error))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        // The connection's own future is spawned where it is made.
        let _runtime = self.runtime.enter();
        let (host, port) = key.clone();
        let connect = || match &self.tls {
            Some(tls) => endpoint.connect_with_connector_lazy(Connector { tls: Arc::clone(tls), host, port }),
            None => endpoint.connect_lazy(),
        };
        let channel = self.channels.entry(key).or_insert_with(connect);
        Ok(channel.clone())
    }

    fn tls(&self) -> Option<&Arc<ClusterTls>> {
        self.tls.as_ref()
    }

    fn is_direct(&self) -> bool {
        true
    }

    fn forget(&self, worker: &WorkerAddress) {
        self.channels.remove(&(worker.host.clone(), worker.port));
    }
}

/// Workers that all live in this process, found by their node id. No sockets: for tests and for embedding.
#[derive(Default)]
pub struct InProcessChannels {
    workers: DashMap<String, Weak<WorkerState>>,
}

impl InProcessChannels {
    /// Adds a worker, by a weak reference.
    pub fn add(&self, worker: &Arc<WorkerState>) {
        self.workers.insert(worker.address().node.clone(), Arc::downgrade(worker));
    }
}

impl fmt::Debug for InProcessChannels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcessChannels").field("workers", &self.workers.len()).finish()
    }
}

#[async_trait]
impl ChannelResolver for InProcessChannels {
    async fn resolve(&self, worker: &WorkerAddress) -> Result<WorkerChannel, WireError> {
        let known = self.workers.get(&worker.node).and_then(|known| known.upgrade());
        known.map(WorkerChannel::Local).ok_or_else(|| worker_lost(worker, "no such worker in this process"))
    }
}
