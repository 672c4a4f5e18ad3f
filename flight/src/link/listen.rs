//! Where links arrive: on the port of HTTP/2, told apart by their first byte, and on a Unix socket.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::LinkServer;
use super::frame::MARK;
use crate::channel::KEEPALIVE_TIMEOUT;
use crate::tls::{ClusterTls, NodeSocket, Purpose, Strangers};

const FILE: &str = "flight.sock";
/// The system's own limit is 108 bytes on Linux and 104 elsewhere.
const PATH_BYTES_MAX: usize = 100;
/// Who only this user may speak to.
const OWNER_ONLY: u32 = 0o600;
const BACKLOG: u32 = 1024;
/// Accepting fails when no file can be opened; it may work again later.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// A Unix socket that listens. Dropping it removes its file.
#[derive(Debug)]
pub struct LinkSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl LinkSocket {
    /// Listens in `dir`, in the place of a socket that an earlier process left there, or in the folder of temporary files
    /// where the path would be too long for a socket. Needs a Tokio runtime.
    ///
    /// Errs when no socket can be made there, as on some network file systems.
    pub fn bind(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE);
        let is_short = path.as_os_str().len() <= PATH_BYTES_MAX;
        let path = if is_short {
            path
        } else {
            std::env::temp_dir().join(format!("sheaf-{:016x}.sock", rand::random::<u64>()))
        };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixSocket::new_stream()?;
        socket.bind(&path)?;
        // Before it listens: until then nobody can connect.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(OWNER_ONLY))?;
        Ok(Self { listener: socket.listen(BACKLOG)?, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves links without end.
    pub(crate) async fn accept(&self, links: &Arc<LinkServer>) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((socket, _)) => {
                        let links = Arc::clone(links);
                        tasks.spawn(async move { links.serve(socket, None).await });
                    }
                    Err(error) => retry(&error).await,
                },
                Some(_) = tasks.join_next() => {}
            }
        }
    }
}

impl Drop for LinkSocket {
    fn drop(&mut self) {
        // One that is gone already is what is wanted.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Who is let in, and what becomes of him.
#[derive(Clone)]
pub(crate) struct Door {
    pub links: Option<Arc<LinkServer>>,
    pub tls: Option<Arc<ClusterTls>>,
    pub strangers: Arc<Strangers>,
    /// Where connections go that are no links.
    pub others: mpsc::Sender<io::Result<NodeSocket>>,
}

/// Serves the links among the connections of `listener`, hands the others on, and ends when nobody takes these.
pub(crate) async fn accept(listener: TcpListener, door: Door) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    tasks.spawn(door.clone().enter(socket));
                }
                Err(error) => retry(&error).await,
            },
            Some(_) = tasks.join_next() => {}
            () = door.others.closed() => return,
        }
    }
}

impl Door {
    async fn enter(self, socket: TcpStream) {
        // A connection that cannot be set up is broken: its end will be seen by who serves it.
        let _ = socket.set_nodelay(true);
        let peer = socket.peer_addr().ok();
        let mut first = [0];
        // Who connects and says nothing holds nothing up but itself.
        let Ok(Ok(n)) = timeout(KEEPALIVE_TIMEOUT, socket.peek(&mut first)).await else { return };
        let Some(tls) = &self.tls else {
            let is_link = n == 1 && first[0] == MARK[0];
            let purpose = if is_link && self.links.is_some() { Purpose::Link } else { Purpose::Calls };
            return self.serve(NodeSocket::Plain(socket), purpose, peer).await;
        };
        if n == 0 {
            // It only looked whether somebody listens, as probes do.
            return;
        }
        let accepted = timeout(KEEPALIVE_TIMEOUT, tls.accept(socket)).await;
        match accepted {
            Ok(Ok((socket, purpose))) => self.serve(socket, purpose, peer).await,
            Ok(Err(error)) => {
                let why = format!("{error}: it shows no certificate of the cluster's authority over TLS");
                self.strangers.refused(peer, &why);
            }
            Err(_) => self.strangers.refused(peer, &"it began TLS and did not go on"),
        }
    }

    async fn serve(self, socket: NodeSocket, purpose: Purpose, peer: Option<SocketAddr>) {
        match (purpose, self.links) {
            (Purpose::Link, Some(links)) => links.serve(socket, peer).await,
            // A node that runs no tasks has no rows.
            (Purpose::Link, None) => {}
            // When the service has ended, so has the connection.
            (Purpose::Calls, _) => drop(self.others.send(Ok(socket)).await),
        }
    }
}

async fn retry(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(ACCEPT_RETRY).await;
}
