//! The MySQL front end: listens, gives each client a connection id and a task, and stops them all.
//!
//! Does not know SQL or how a statement runs. Start at [`session`], which turns commands into statements; [`connection`] is
//! the trait that a protocol layer implements, [`tcp`] the one there is.

mod auth;
mod column;
mod command;
mod connection;
mod cursor;
mod flags;
#[cfg(test)]
mod fuzz;
mod handshake;
mod literals;
mod packet;
mod parameter;
mod read_ahead;
mod reply;
mod session;
mod socket;
mod statements;
mod tcp;
mod tracker;
mod value;
mod wire;
mod writer;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sheaf_query::Engine;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use auth::EngineAccounts;
pub use auth::{Accounts, Candidate};
use connection::ConnectionError;
use packet::PacketBuffer;
use reply::ErrorReply;
use session::Client;
use tcp::{ConnectionOptions, TcpConnection};
pub use value::{TextCells, ValueError};

/// How the front end is set up.
#[derive(Clone)]
pub struct MySqlOptions {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The upper twelve bits of every connection id, so that any coordinator knows whose a connection is.
    pub coordinator_no: u16,
    /// Who may log in; none asks the engine.
    pub accounts: Option<Arc<dyn Accounts>>,
    /// Root may come from other machines too as long as it has no password.
    pub lets_open_root_in: bool,
    /// What answers clients that ask for TLS; none has none.
    pub tls: Option<TlsAcceptor>,
    pub max_connections: usize,
    /// SheafDB's version, which stands behind MySQL's in the greeting.
    pub version: String,
    pub login_timeout: Duration,
    /// Bytes of the largest command.
    pub max_allowed_packet: usize,
}

impl MySqlOptions {
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            coordinator_no: 0,
            accounts: None,
            lets_open_root_in: false,
            tls: None,
            max_connections: 1_000,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            login_timeout: Duration::from_secs(10),
            max_allowed_packet: 64 << 20,
        }
    }
}

/// A front end that listens. Dropping it ends all connections at once.
#[derive(Debug)]
pub struct MySqlServer {
    address: SocketAddr,
    stop: CancellationToken,
    accepting: JoinSet<JoinSet<()>>,
    /// Connections that were left when it stopped to accept.
    left: JoinSet<()>,
}

impl MySqlServer {
    /// Binds the port and serves clients from then on. Errs when the port cannot be bound.
    pub async fn start(engine: Arc<Engine>, options: MySqlOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        Self::serve(listener, engine, options)
    }

    /// As [`Self::start`], on a port that is bound already.
    pub fn serve(listener: TcpListener, engine: Arc<Engine>, options: MySqlOptions) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        engine.announce("max_connections", options.max_connections.to_string());
        let accounts = options.accounts.clone().unwrap_or_else(|| {
            let lets_open_root_in = options.lets_open_root_in;
            Arc::new(EngineAccounts { engine: Arc::clone(&engine), lets_open_root_in })
        });
        let acceptor = Acceptor {
            listener,
            engine,
            accounts,
            stop: stop.clone(),
            ids: Arc::new(ConnectionIds::new(options.coordinator_no)),
            started: Instant::now(),
            options,
        };
        let mut accepting = JoinSet::new();
        accepting.spawn(acceptor.run());
        Ok(Self { address, stop, accepting, left: JoinSet::new() })
    }

    /// Where it listens, the port that it got included.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more clients, ends those that idle, and waits for the others to come to the end of their statements. One
    /// that was given up halfway may be called again.
    pub async fn drain(&mut self) {
        self.stop.cancel();
        if let Some(Ok(connections)) = self.accepting.join_next().await {
            self.left = connections;
        }
        while self.left.join_next().await.is_some() {}
    }

    /// Takes no more clients, ends those that idle, and lets statements run for `grace`; then they are ended.
    pub async fn stop(mut self, grace: Duration) {
        if timeout(grace, self.drain()).await.is_err() {
            tracing::warn!(n_connections = self.left.len(), "connections did not end in time");
            self.left.shutdown().await;
        }
    }
}

struct Acceptor {
    listener: TcpListener,
    engine: Arc<Engine>,
    accounts: Arc<dyn Accounts>,
    stop: CancellationToken,
    ids: Arc<ConnectionIds>,
    started: Instant,
    options: MySqlOptions,
}

impl Acceptor {
    /// Until the server stops; the connections that are left.
    async fn run(self) -> JoinSet<()> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return connections,
                Some(ended) = connections.join_next() => note_end(ended),
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer, &mut connections),
                    Err(error) => {
                        // Out of file descriptors, most often: accepting again at once would spin.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr, connections: &mut JoinSet<()>) {
        // Refusals take a moment each, so they count too, but not without end.
        let most = self.options.max_connections.saturating_add(64);
        if connections.len() >= most {
            return;
        }
        match self.ids.take(self.options.max_connections) {
            Some(id) => connections.spawn(self.serve(stream, peer, id)),
            None => connections.spawn(refuse(stream)),
        };
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, id: TakenId) -> impl Future<Output = ()> + Send + use<> {
        let connection_id = id.id;
        let options = ConnectionOptions {
            version: format!("8.4.0-sheafdb-{}", self.options.version),
            connection_id,
            peer: peer.ip().to_canonical(),
            accounts: Arc::clone(&self.accounts),
            tls: self.options.tls.clone(),
            login_timeout: self.options.login_timeout,
            max_allowed_packet: self.options.max_allowed_packet,
        };
        let client = Client {
            engine: Arc::clone(&self.engine),
            connection_id,
            host: peer.ip().to_canonical().to_string(),
            stop: self.stop.clone(),
            server_started: self.started,
        };
        async move {
            // Held until the session is gone: nobody else gets the id before.
            let _id = id;
            // Replies are written whole, waiting for more would only delay them.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            let connection = TcpConnection::new(stream, options);
            match session::serve(connection, client).await {
                Ok(()) => {}
                Err(
                    error @ (ConnectionError::WriteTimeout
                    | ConnectionError::AccessDenied { .. }
                    | ConnectionError::Locked { .. }
                    | ConnectionError::Offline { .. }
                    | ConnectionError::InsecureTransport
                    | ConnectionError::Tls(_)
                    | ConnectionError::PluginNotSpoken { .. }),
                ) => {
                    tracing::warn!(connection_id, %peer, %error, "connection ended");
                }
                Err(error) => tracing::debug!(connection_id, %peer, %error, "connection ended"),
            }
        }
    }
}

/// A panic ends its connection only.
fn note_end(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}

/// Tells a client that there are too many, in the form of a server that does not know yet what the client speaks.
async fn refuse(mut stream: TcpStream) {
    const REFUSAL_LIMIT: Duration = Duration::from_secs(1);
    let mut buffer = PacketBuffer::default();
    buffer.error(&ErrorReply::new(1040, "08004", "too many connections"));
    // A client that does not take it is none.
    let _ = timeout(REFUSAL_LIMIT, async {
        stream.write_all(buffer.as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
}

/// Gives out connection ids that no living connection has.
#[derive(Debug)]
struct ConnectionIds {
    coordinator_no: u16,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    last: u32,
    /// Invariant: sequence numbers from 1 to [`ConnectionIds::SEQUENCE_MAX`].
    sequences: HashSet<u32>,
}

impl ConnectionIds {
    const SEQUENCE_BITS: u32 = 20;
    const SEQUENCE_MAX: u32 = (1 << Self::SEQUENCE_BITS) - 1;

    fn new(coordinator_no: u16) -> Self {
        Self { coordinator_no, taken: Mutex::default() }
    }

    /// None if so many, or all that there are, are taken.
    fn take(self: &Arc<Self>, most: usize) -> Option<TakenId> {
        let mut taken = self.taken.lock();
        if taken.sequences.len() >= most.min(Self::SEQUENCE_MAX as usize) {
            return None;
        }
        let mut sequence = taken.last;
        loop {
            sequence = if sequence >= Self::SEQUENCE_MAX { 1 } else { sequence + 1 };
            if taken.sequences.insert(sequence) {
                break;
            }
        }
        taken.last = sequence;
        let id = u32::from(self.coordinator_no) << Self::SEQUENCE_BITS | sequence;
        Some(TakenId { id, ids: Arc::clone(self) })
    }
}

/// An id that is free again once this is dropped.
#[derive(Debug)]
struct TakenId {
    id: u32,
    ids: Arc<ConnectionIds>,
}

impl Drop for TakenId {
    fn drop(&mut self) {
        self.ids.taken.lock().sequences.remove(&(self.id & ConnectionIds::SEQUENCE_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_carry_the_coordinator_and_are_not_given_twice() {
        let ids = Arc::new(ConnectionIds::new(3));
        let (first, second) = (ids.take(2).unwrap(), ids.take(2).unwrap());
        assert_eq!((first.id, second.id), (3 << 20 | 1, 3 << 20 | 2));
        assert!(ids.take(2).is_none());
        drop(first);
        ids.taken.lock().last = ConnectionIds::SEQUENCE_MAX - 1;
        assert_eq!(ids.take(3).unwrap().id, 3 << 20 | ConnectionIds::SEQUENCE_MAX);
        let again = ids.take(3).unwrap();
        assert_eq!(again.id, 3 << 20 | 1);
        assert_eq!(ids.take(3).unwrap().id, 3 << 20 | 3, "2 is still taken");
    }
}
