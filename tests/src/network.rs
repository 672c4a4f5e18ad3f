//! A network between nodes that can be cut.
//!
//! Each node tells the others the address of a proxy in this process. A proxy finds out which node a connection comes
//! from (the owner of the socket, as `/proc` says), so that a node can be cut off in both directions: what is on its
//! way stays there, connections stay open, new ones are accepted and silent. Clients are not cut off.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// The nodes that are cut off, by name.
type Cut = BTreeSet<String>;

/// Proxies in front of nodes. Dropping it ends all connections.
pub struct Network {
    /// Threads of its own: a test may block its own while it waits for a node.
    runtime: Option<Runtime>,
    cut: Arc<watch::Sender<Cut>>,
    plugs: Mutex<Vec<Plug>>,
}

/// Where a node is reached by others, and where it listens.
#[derive(Debug, Clone)]
pub struct Plug {
    pub node: String,
    pub advertised: u16,
    pub listen: u16,
}

impl Default for Network {
    fn default() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = Some(runtime.expect("a runtime needs only threads"));
        Self { runtime, cut: Arc::new(watch::Sender::new(Cut::new())), plugs: Mutex::default() }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A test's own runtime may not wait for another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Network {
    /// The plug of a node; made when it is asked for first.
    pub fn plug(&self, node: &str) -> Plug {
        let mut plugs = self.plugs.lock();
        if let Some(plug) = plugs.iter().find(|it| it.node == node) {
            return plug.clone();
        }
        let bind = || std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = |listener: &std::net::TcpListener| listener.local_addr().expect("it is bound").port();
        let listener = bind();
        // Taken by the node a moment later.
        let plug = Plug { node: node.to_owned(), advertised: port(&listener), listen: port(&bind()) };
        listener.set_nonblocking(true).expect("it is a socket");
        let (to, cut) = (plug.clone(), Arc::clone(&self.cut));
        self.runtime.as_ref().expect("it ends with the network").spawn(async move {
            let listener = TcpListener::from_std(listener).expect("it is bound");
            while let Ok((socket, peer)) = listener.accept().await {
                tokio::spawn(carry(socket, peer.port(), to.clone(), cut.subscribe()));
            }
        });
        plugs.push(plug.clone());
        plug
    }

    /// Nothing comes to a node any more, and nothing from it.
    pub fn cut_off(&self, node: &str) {
        self.cut.send_if_modified(|cut| cut.insert(node.to_owned()));
    }

    /// All that was held up goes on.
    pub fn mend(&self, node: &str) {
        self.cut.send_if_modified(|cut| cut.remove(node));
    }
}

async fn carry(from: TcpStream, port: u16, to: Plug, mut cut: watch::Receiver<Cut>) {
    // One whose owner is not known could be one that is cut off.
    let Some(source) = owner(port).await else { return };
    let ends = [source, to.node.clone()];
    if !open(&mut cut, &ends).await {
        return;
    }
    let Ok(onward) = TcpStream::connect(("127.0.0.1", to.listen)).await else { return };
    let _ = from.set_nodelay(true).and_then(|()| onward.set_nodelay(true));
    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), onward.into_split());
    tokio::join!(pump(from_read, to_write, cut.clone(), &ends), pump(to_read, from_write, cut, &ends));
}

/// Waits until neither end is cut off. False when the network is gone.
async fn open(cut: &mut watch::Receiver<Cut>, ends: &[String; 2]) -> bool {
    cut.wait_for(|cut| !ends.iter().any(|end| cut.contains(end))).await.is_ok()
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut cut: watch::Receiver<Cut>, ends: &[String; 2]) {
    let mut bytes = vec![0; 64 << 10];
    while open(&mut cut, ends).await {
        let n = from.read(&mut bytes).await.unwrap_or(0);
        // The end of a connection cannot be seen through a cut either.
        if !open(&mut cut, ends).await || n == 0 || to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}

/// The node whose process has the socket with this port of this machine.
async fn owner(port: u16) -> Option<String> {
    for _ in 0..20 {
        let found = tokio::task::spawn_blocking(move || find_owner(port)).await.ok().flatten();
        if found.is_some() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    None
}

fn find_owner(port: u16) -> Option<String> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!("0100007F:{port:04X}");
    let inode = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let inode = inode.filter(|fields| fields.get(1) == Some(&local.as_str())).find_map(|fields| {
        let inode: u64 = fields.get(9)?.parse().ok()?;
        (inode != 0).then_some(inode)
    })?;
    let socket = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    processes.map(|it| it.path()).find_map(|process| {
        let arguments = fs::read(process.join("cmdline")).ok()?;
        let mut arguments = arguments.split(|byte| *byte == 0);
        arguments.find(|it| *it == b"--node-name")?;
        let name = String::from_utf8(arguments.next()?.to_vec()).ok()?;
        let mut files = fs::read_dir(process.join("fd")).ok()?.filter_map(Result::ok);
        let has_it = files.any(|file| fs::read_link(file.path()).is_ok_and(|it| it.as_os_str() == socket.as_str()));
        has_it.then_some(name)
    })
}
