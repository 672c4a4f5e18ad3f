//! Messages over the Flight port of the other coordinators.
//!
//! One sender a replica, so that a frozen one holds up nobody else; what waits for it goes in one call. Snapshots go in
//! pieces beside the other messages, so that heartbeats do not wait for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use raft::eraftpb::Message;
use sheaf_common::WireError;
use sheaf_flight::{FlightClient, WorkerAddress};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::messages::{Chunk, Envelope, RAFT, SNAPSHOT};
use super::{Transport, encode};
use crate::metadata::disk::Identity;
use crate::metadata::node::Peers;

/// Messages that wait for one replica; beyond, they are dropped, and Raft sends anew what matters.
const QUEUE: usize = 4096;
/// Messages of one call.
const CALL_MESSAGES: usize = 256;
/// Bytes of one call, unless its first message has more.
const CALL_BYTES: usize = 4 << 20;
/// Raft takes what is not there by then for lost.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Before a replica is tried again that was not reached.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes of one piece of a snapshot.
pub const CHUNK_BYTES: usize = 1 << 20;
const CHUNK_TIMEOUT: Duration = Duration::from_secs(5);

/// Where replicas are reached. Shared by the transport and by all who learn of addresses.
#[derive(Debug, Default)]
pub struct AddressBook(Mutex<BTreeMap<u64, (String, u16)>>);

impl AddressBook {
    /// Notes where a replica is; says whether that was news.
    pub fn tell(&self, replica: u64, host: &str, port: u16) -> bool {
        let place = (host.to_owned(), port);
        self.0.lock().insert(replica, place.clone()).as_ref() != Some(&place)
    }

    /// Forgets all but these.
    pub fn retain(&self, replicas: &BTreeSet<u64>) {
        self.0.lock().retain(|replica, _| replicas.contains(replica));
    }

    pub fn address(&self, replica: u64) -> Option<WorkerAddress> {
        let known = self.0.lock().get(&replica).cloned();
        known.map(|(host, port)| WorkerAddress { node: String::new(), host, port })
    }

    /// All replicas but one, with their addresses.
    pub fn others(&self, than: u64) -> Vec<(u64, WorkerAddress)> {
        let known = self.0.lock();
        let others = known.iter().filter(|(replica, _)| **replica != than);
        others
            .map(|(replica, (host, port))| {
                (*replica, WorkerAddress { node: String::new(), host: host.clone(), port: *port })
            })
            .collect()
    }
}

/// What every message of a replica says of its sender.
#[derive(Debug, Clone)]
pub struct Sender {
    pub identity: Identity,
    pub host: String,
    pub port: u16,
}

impl Sender {
    pub fn envelope(&self, to: u64, messages: Vec<Vec<u8>>) -> Envelope {
        Envelope {
            cluster: self.identity.cluster,
            from: self.identity.replica,
            to,
            host: self.host.clone(),
            port: u32::from(self.port),
            messages,
        }
    }
}

/// Carries messages by Flight actions. Dropping it ends what is under way.
pub struct FlightTransport {
    links: Links,
    queues: Mutex<BTreeMap<u64, mpsc::Sender<Message>>>,
    tasks: Mutex<JoinSet<()>>,
    runtime: Handle,
}

/// What the sender of each replica needs.
#[derive(Clone)]
struct Links {
    client: Arc<FlightClient>,
    sender: Sender,
    addresses: Arc<AddressBook>,
    peers: Peers,
}

impl FlightTransport {
    /// Senders run on `runtime`, which must never be busy for long.
    pub fn new(
        client: Arc<FlightClient>,
        sender: Sender,
        addresses: Arc<AddressBook>,
        peers: Peers,
        runtime: Handle,
    ) -> Self {
        let links = Links { client, sender, addresses, peers };
        Self { links, queues: Mutex::default(), tasks: Mutex::default(), runtime }
    }
}

impl Transport for FlightTransport {
    fn send(&self, message: Message) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        if message.has_snapshot() {
            tasks.spawn_on(self.links.clone().send_snapshot(message), &self.runtime);
            return;
        }
        let mut queues = self.queues.lock();
        let queue = queues.entry(message.to).or_insert_with(|| {
            let (queue, waiting) = mpsc::channel(QUEUE);
            tasks.spawn_on(self.links.clone().send_all(message.to, waiting), &self.runtime);
            queue
        });
        // Full: whoever takes so little is not reached, as Raft has been told.
        let _ = queue.try_send(message);
    }
}

impl Links {
    async fn send_all(self, to: u64, mut waiting: mpsc::Receiver<Message>) {
        while let Some(first) = waiting.recv().await {
            let mut messages = vec![encode(&first)];
            let mut bytes = messages[0].len();
            while messages.len() < CALL_MESSAGES && bytes < CALL_BYTES {
                let Ok(next) = waiting.try_recv() else { break };
                messages.push(encode(&next));
                bytes += messages.last().map_or(0, Vec::len);
            }
            let body = Bytes::from(self.sender.envelope(to, messages).encode_to_vec());
            if let Err(error) = self.call(to, RAFT, body, CALL_TIMEOUT).await {
                debug!(replica = to, error = %error.message, "coordinator not reached");
                self.peers.unreachable(to);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn call(&self, to: u64, action: &str, body: Bytes, timeout: Duration) -> Result<Bytes, WireError> {
        let Some(address) = self.addresses.address(to) else {
            return Err(sheaf_flight::error::worker_lost(
                &WorkerAddress { node: format!("replica {to}"), host: String::new(), port: 0 },
                "its address is not known",
            ));
        };
        let answer = self.client.call(&address, action, body, timeout).await;
        if answer.is_err() {
            // The next call makes a connection of its own: this one may lead to a process that is gone.
            self.client.resolver().forget(&address);
        }
        answer
    }

    async fn send_snapshot(self, message: Message) {
        let to = message.to;
        let bytes = Bytes::from(encode(&message));
        drop(message);
        let (total, transfer) = (bytes.len() as u64, rand::random());
        let mut arrived = true;
        for offset in (0..bytes.len()).step_by(CHUNK_BYTES) {
            let piece = bytes.slice(offset..bytes.len().min(offset + CHUNK_BYTES));
            let chunk = Chunk {
                cluster: self.sender.identity.cluster,
                from: self.sender.identity.replica,
                to,
                transfer,
                offset: offset as u64,
                total,
                checksum: crc32fast::hash(&piece),
                bytes: piece,
            };
            if let Err(error) = self.call(to, SNAPSHOT, Bytes::from(chunk.encode_to_vec()), CHUNK_TIMEOUT).await {
                warn!(replica = to, offset, total, error = %error.message, "snapshot did not arrive");
                arrived = false;
                break;
            }
        }
        self.peers.snapshot_sent(to, arrived);
    }
}

/// Puts snapshots together from their pieces: one transfer of each replica at a time.
#[derive(Debug, Default)]
pub struct Assembly(Mutex<BTreeMap<u64, Partial>>);

#[derive(Debug)]
struct Partial {
    transfer: u64,
    total: u64,
    bytes: Vec<u8>,
}

/// No snapshot is larger: what claims to be is not collected.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;

impl Assembly {
    /// Takes the next piece; the whole message once it is there.
    ///
    /// Errs with the reason when a piece is damaged or out of turn; the transfer then has to begin anew.
    pub fn take(&self, chunk: &Chunk) -> Result<Option<Vec<u8>>, String> {
        let mut partials = self.0.lock();
        if chunk.offset == 0 {
            if chunk.total > SNAPSHOT_BYTES_MAX {
                return Err(format!("a snapshot of {} bytes is too large", chunk.total));
            }
            partials.insert(chunk.from, Partial { transfer: chunk.transfer, total: chunk.total, bytes: vec![] });
        }
        let partial = partials.get_mut(&chunk.from).filter(|it| it.transfer == chunk.transfer);
        let Some(partial) = partial else { return Err("a piece of a snapshot that was not begun".to_owned()) };
        let end = chunk.offset + chunk.bytes.len() as u64;
        let reason = if crc32fast::hash(&chunk.bytes) != chunk.checksum {
            "a piece of a snapshot is damaged"
        } else if chunk.offset != partial.bytes.len() as u64 || chunk.bytes.is_empty() {
            "a piece of a snapshot is out of turn"
        } else if chunk.total != partial.total || end > partial.total {
            "a snapshot has more than it said"
        } else {
            partial.bytes.extend_from_slice(&chunk.bytes);
            if end < partial.total {
                return Ok(None);
            }
            return Ok(partials.remove(&chunk.from).map(|it| it.bytes));
        };
        partials.remove(&chunk.from);
        Err(reason.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(bytes: &'static [u8], transfer: u64, size: usize) -> Vec<Chunk> {
        let piece = |(no, piece): (usize, &'static [u8])| Chunk {
            cluster: 1,
            from: 2,
            to: 3,
            transfer,
            offset: (no * size) as u64,
            total: bytes.len() as u64,
            checksum: crc32fast::hash(piece),
            bytes: Bytes::from_static(piece),
        };
        bytes.chunks(size).enumerate().map(piece).collect()
    }

    #[test]
    fn pieces_become_whole_in_their_order_only() {
        let assembly = Assembly::default();
        let all = chunks(b"a snapshot of something", 1, 5);
        for chunk in &all[..all.len() - 1] {
            assert_eq!(assembly.take(chunk), Ok(None));
        }
        assert_eq!(assembly.take(&all[all.len() - 1]), Ok(Some(b"a snapshot of something".to_vec())));
        assert!(assembly.take(&all[1]).is_err(), "nothing was begun");
        assert_eq!(assembly.take(&all[0]), Ok(None));
        assert!(assembly.take(&all[2]).is_err(), "one was left out");
        assert!(assembly.take(&all[1]).is_err(), "it has to begin anew");
        // A new try takes the place of the one before.
        assert_eq!(assembly.take(&all[0]), Ok(None));
        let again = chunks(b"another", 2, 4);
        assert_eq!(assembly.take(&again[0]), Ok(None));
        assert!(assembly.take(&all[1]).is_err());
        assert_eq!(assembly.take(&again[1]), Ok(Some(b"another".to_vec())));
        let mut damaged = chunks(b"another", 3, 7).remove(0);
        damaged.checksum ^= 1;
        assert!(assembly.take(&damaged).is_err());
        let mut endless = chunks(b"another", 4, 7).remove(0);
        endless.total = u64::MAX;
        assert!(assembly.take(&endless).is_err());
    }

    #[test]
    fn addresses_are_news_once() {
        let book = AddressBook::default();
        assert!(book.tell(1, "a", 1) && !book.tell(1, "a", 1) && book.tell(1, "b", 1));
        assert!(book.tell(2, "c", 2));
        assert_eq!(book.others(1).len(), 1);
        assert_eq!(book.address(1).map(|it| it.host), Some("b".to_owned()));
        assert!(book.address(3).is_none());
    }
}
