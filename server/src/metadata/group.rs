//! The group of coordinators that keeps the metadata: how one gets in, how the others find it, how it leaves.
//!
//! Who belongs to the group is metadata itself: each coordinator is a node whose definition, a [`NodeDef`], says which
//! replica it has and where it is reached. A node that starts enters its address; each of its messages says it as well,
//! so that it is found again before the group has agreed on it.

mod actions;
mod seats;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use sheaf_common::config::HostPort;
use sheaf_common::definitions::{Change, Definitions, IfExists, Object};
use sheaf_common::{Classify, ErrorCode, WireError};
use sheaf_flight::{FlightClient, WorkerAddress};
use sheaf_query::replication::Replication;
use sheaf_query::system::ReplicaRow;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use actions::GroupActions;

use super::disk::Identity;
use super::error::{MetadataError, Result};
use super::node::{MetadataNode, TICK};
use super::replica::{Options, Replica, Status};
use super::store::Store;
use super::store::sled_store::SledStore;
use super::transport::flight::{AddressBook, Assembly, FlightTransport, Sender};
use super::transport::messages::{Envelope, JOIN_GROUP, JoinGroupRequest, RAFT, STANDING, Seat, Standing};
use crate::membership::Places;

/// The replica that begins a cluster.
const FIRST_REPLICA: u64 = 1;
/// How long one request to another coordinator may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Joining and leaving wait for elections and for learners that catch up.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one coordinator of several is waited for by a node that joins; the same request may be sent again.
const SEED_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two tries to join.
const RETRY: Duration = Duration::from_millis(250);
/// How often a node looks whether addresses changed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A replica that does not say by then how it stands counts as unreachable.
const STANDING_TIMEOUT: Duration = Duration::from_secs(1);
/// A try to enter one's own address.
const ENTER_TIMEOUT: Duration = Duration::from_secs(5);

/// A coordinator, as its node's definition says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDef {
    /// 0 while its place is being made.
    pub replica: u64,
    /// Of the request by which it joined.
    #[serde(default)]
    pub token: u64,
    pub coordinator_no: u16,
    /// Its Flight address.
    pub host: String,
    pub port: u16,
    /// `all` or `coordinator`.
    pub role: String,
    pub version: String,
}

impl NodeDef {
    fn text(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| MetadataError::Broken {
            replica: self.replica,
            reason: format!("its own definition has no JSON: {error}"),
        })
    }
}

/// All coordinators by name. What cannot be read, because a newer version wrote it, is left out.
pub fn coordinators(definitions: &Definitions) -> impl Iterator<Item = (&str, Arc<NodeDef>)> {
    definitions.nodes().filter_map(|(name, record)| Some((name, record.parsed::<NodeDef>().ok()?)))
}

/// Whether an object says something of a node only, which enters it itself.
pub fn is_of_node(object: &Object) -> bool {
    match object {
        Object::Node { .. } => true,
        Object::Setting { name } => name.starts_with(seats::NUMBER_PREFIX),
        _ => false,
    }
}

/// What a node says of itself.
#[derive(Debug, Clone)]
pub struct Own {
    pub name: String,
    pub host: String,
    pub port: u16,
    pub role: String,
    pub version: String,
    /// For the node that begins a cluster; others are told theirs.
    pub coordinator_no: u16,
}

/// What a node takes part with.
pub struct GroupOptions {
    /// The folder of the metadata.
    pub dir: PathBuf,
    /// Coordinators of the cluster to join, or to be found again by; none begins one.
    pub join: Option<Arc<Places>>,
    /// How long to try to join.
    pub join_timeout: Duration,
    pub own: Own,
    pub client: Arc<FlightClient>,
    /// Carries messages: must never be busy for long.
    pub runtime: Handle,
}

/// This node's part in the group.
pub struct Group {
    node: Arc<MetadataNode>,
    own: Own,
    coordinator_no: u16,
    join: Option<Arc<Places>>,
    sender: Sender,
    addresses: Arc<AddressBook>,
    assembly: Assembly,
    client: Arc<FlightClient>,
    /// Whether this node was let in by another just now, and has to catch up first.
    is_new: bool,
    /// Cancelled once the others go on without this node.
    removed: CancellationToken,
    /// Version of the definitions whose addresses are in the book.
    known: Mutex<u64>,
}

impl Group {
    /// Opens the metadata in a folder; where there is none, joins the cluster of another coordinator, or begins one.
    ///
    /// Errs when the folder cannot be used, and when nobody lets this node in within the time.
    pub async fn open(options: GroupOptions) -> Result<Arc<Self>> {
        let GroupOptions { dir, join, join_timeout, own, client, runtime } = options;
        let addresses = Arc::new(AddressBook::default());
        let existing = blocking({
            let dir = dir.clone();
            move || Replica::open(open_store(&dir)?, Options::new(rand::random()))
        })
        .await?;
        let is_new = existing.is_none() && join.is_some();
        let mut seat_no = None;
        let replica = match (existing, &join) {
            (Some(replica), _) => replica,
            (None, None) => {
                let identity = Identity { cluster: rand::random_range(1..=u64::MAX), replica: FIRST_REPLICA };
                blocking(move || {
                    Replica::create(open_store(&dir)?, identity, &[FIRST_REPLICA])?;
                    reopen(&dir)
                })
                .await?
            }
            (None, Some(join)) => {
                let token = token(&dir)?;
                let seat = ask_for_seat(&client, join, &own, token, join_timeout).await?;
                for place in &seat.coordinators {
                    if let Ok(port) = u16::try_from(place.port) {
                        addresses.tell(place.replica, &place.host, port);
                    }
                }
                seat_no = u16::try_from(seat.coordinator_no).ok();
                let identity = Identity { cluster: seat.cluster, replica: seat.replica };
                info!(replica = seat.replica, coordinators = seat.coordinators.len(), "has a place in the cluster");
                blocking(move || {
                    Replica::create_joining(open_store(&dir)?, identity)?;
                    reopen(&dir)
                })
                .await?
            }
        };
        let sender = Sender { identity: replica.identity(), host: own.host.clone(), port: own.port };
        let transport = |_, peers| {
            FlightTransport::new(Arc::clone(&client), sender.clone(), Arc::clone(&addresses), peers, runtime)
        };
        let node = Arc::new(MetadataNode::run(replica, transport)?);
        let definitions = node.read_local(|state| Arc::clone(state.definitions()));
        let entered = coordinators(&definitions).find(|(_, it)| it.replica == sender.identity.replica);
        let coordinator_no = seat_no.or(entered.map(|(_, it)| it.coordinator_no)).unwrap_or(own.coordinator_no);
        let group = Self {
            node,
            own,
            coordinator_no,
            join,
            sender,
            addresses,
            assembly: Assembly::default(),
            client,
            is_new,
            removed: CancellationToken::new(),
            known: Mutex::new(0),
        };
        group.note_addresses(&definitions);
        Ok(Arc::new(group))
    }

    pub fn node(&self) -> &Arc<MetadataNode> {
        &self.node
    }

    /// Different for each coordinator of the cluster.
    pub fn coordinator_no(&self) -> u16 {
        self.coordinator_no
    }

    /// Cancelled once this node was removed and the others can do without it.
    pub fn removed(&self) -> CancellationToken {
        self.removed.clone()
    }

    /// Waits until this node has what the cluster has and a vote of its own, if it has just been let in. The Flight
    /// port must be served meanwhile.
    pub async fn caught_up(&self, timeout: Duration) -> Result<()> {
        if !self.is_new {
            return Ok(());
        }
        let start = Instant::now();
        loop {
            let status = self.node.status().await?;
            if matches!(status.role, "leader" | "follower") && status.leader != 0 {
                return self.node.read(timeout.saturating_sub(start.elapsed()), |_| ()).await;
            }
            if start.elapsed() >= timeout {
                return Err(MetadataError::TimedOut { what: "the join", waited: timeout });
            }
            tokio::time::sleep(RETRY / 5).await;
        }
    }

    /// Keeps this node's address entered and those of the others known; without end.
    pub async fn keep(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // One that has stopped is seen by whoever runs the node.
            let Ok(status) = self.node.status().await else { return };
            let definitions = self.definitions();
            self.note_addresses(&definitions);
            // The others stop talking to one that was removed, perhaps before it has heard of that.
            let may_be_removed = status.role == "removed" || status.leader == 0;
            if may_be_removed && self.is_let_go(&status).await {
                self.removed.cancel();
                return;
            }
            match status.role {
                "leader" | "follower" if status.leader != 0 => self.enter(&definitions, &status).await,
                _ if status.leader == 0 => self.call_out().await,
                _ => {}
            }
        }
    }

    fn definitions(&self) -> Arc<Definitions> {
        self.node.read_local(|state| Arc::clone(state.definitions()))
    }

    /// Takes new addresses from the definitions. Those from messages are newer until a definition changes.
    fn note_addresses(&self, definitions: &Definitions) {
        let mut known = self.known.lock();
        if *known == definitions.version() {
            return;
        }
        for (name, record) in definitions.nodes().filter(|(_, record)| record.version > *known) {
            let Ok(node) = record.parsed::<NodeDef>() else { continue };
            if node.replica != 0 && self.addresses.tell(node.replica, &node.host, node.port) {
                info!(node = name, replica = node.replica, host = %node.host, port = node.port, "coordinator is at");
            }
        }
        *known = definitions.version();
        let seated: BTreeSet<u64> = coordinators(definitions).map(|(_, it)| it.replica).collect();
        if seated.contains(&self.sender.identity.replica) {
            self.addresses.retain(&seated);
        }
    }

    /// Enters what this node says of itself where the definitions say something else.
    ///
    /// Only where it stands already, so that a node that is removed meanwhile does not come back by it. A node that is
    /// alone in its group begins a cluster.
    async fn enter(&self, definitions: &Definitions, status: &Status) {
        let replica = self.sender.identity.replica;
        let entered = coordinators(definitions).find(|(_, it)| it.replica == replica);
        let now = NodeDef {
            replica,
            token: entered.as_ref().map_or(0, |(_, it)| it.token),
            coordinator_no: self.coordinator_no,
            host: self.own.host.clone(),
            port: self.own.port,
            role: self.own.role.clone(),
            version: self.own.version.clone(),
        };
        let Ok(text) = now.text() else { return };
        let own = Object::node(&self.own.name);
        let changes = match &entered {
            Some((name, before)) if *name == self.own.name && **before == now => return,
            Some((name, _)) if *name == self.own.name => {
                let version = definitions.get(&own).map(|record| record.version);
                vec![Change::alter(own, text, version)]
            }
            // Started under another name.
            Some((name, _)) => vec![Change::drop(Object::node(*name)), Change::create(own, text, IfExists::Fail)],
            None if status.voters == [replica] => {
                let number = seats::reserve(self.coordinator_no, &self.own.name, IfExists::Replace);
                vec![number, Change::create(own, text, IfExists::Fail)]
            }
            None => return,
        };
        if let Err(error) = self.node.change(changes, ENTER_TIMEOUT).await {
            warn!(%error, "could not enter this node's address yet");
        }
    }

    /// Tells others where this node is, while no leader is heard: all may have new addresses.
    async fn call_out(&self) {
        let body = Bytes::from(self.sender.envelope(0, vec![]).encode_to_vec());
        let known = self.addresses.others(self.sender.identity.replica);
        let seeds = match &self.join {
            Some(join) => join.look_up().await,
            None => vec![],
        };
        let seeds = seeds.iter().map(address_of).filter(|seed| !known.iter().any(|(_, it)| it == seed));
        let places: Vec<WorkerAddress> = known.iter().map(|(_, it)| it.clone()).chain(seeds).collect();
        let calls = places.iter().map(|it| self.client.call(it, RAFT, body.clone(), CALL_TIMEOUT));
        for answer in futures::future::join_all(calls).await.into_iter().flatten() {
            let Ok(envelope) = Envelope::decode(answer) else { continue };
            if let (true, Ok(port)) = (self.is_of_cluster(&envelope), u16::try_from(envelope.port)) {
                self.addresses.tell(envelope.from, &envelope.host, port);
            }
        }
    }

    fn is_of_cluster(&self, envelope: &Envelope) -> bool {
        let own = self.sender.identity;
        envelope.cluster == own.cluster && envelope.from != 0 && envelope.from != own.replica
    }

    /// Whether a voter has applied the removal of this node, so that its vote is not needed any more. Numbers are never
    /// given twice: who knows as much as this node and does not count it, or no more, has removed it.
    async fn is_let_go(&self, status: &Status) -> bool {
        let own = status.replica;
        let was_member = status.role == "removed" || status.voters.contains(&own) || status.learners.contains(&own);
        if !was_member {
            return false;
        }
        let ask = async |address: WorkerAddress| {
            let answer = self.client.call(&address, STANDING, Bytes::new(), STANDING_TIMEOUT).await;
            answer.ok().and_then(|it| Standing::decode(it).ok())
        };
        let others = self.addresses.others(own).into_iter();
        let answers = futures::future::join_all(others.map(|(_, address)| ask(address))).await;
        answers.into_iter().flatten().any(|it| {
            it.cluster == self.sender.identity.cluster
                && it.is_voter
                && it.applied >= status.applied
                && !it.members.contains(&own)
        })
    }

    /// How all replicas stand, by the names of their nodes.
    async fn rows(&self) -> Result<Vec<ReplicaRow>> {
        let (status, definitions) = (self.node.status().await?, self.definitions());
        let row = async |name: String, node: Arc<NodeDef>| {
            let standing = match (node.replica == status.replica, self.addresses.address(node.replica)) {
                (true, _) => Some(self.standing_of(&status)),
                (false, Some(address)) => {
                    let answer = self.client.call(&address, STANDING, Bytes::new(), STANDING_TIMEOUT).await;
                    answer.ok().and_then(|it| Standing::decode(it).ok()).filter(|it| it.replica == node.replica)
                }
                (false, None) => None,
            };
            let last_contact = match node.replica == status.replica {
                true => Some(0),
                false => status.heard_ticks.get(&node.replica).map(|ticks| ticks * TICK.as_millis() as u64),
            };
            let unreachable = || Standing { role: "unreachable".to_owned(), ..Standing::default() };
            let standing = standing.unwrap_or_else(unreachable);
            ReplicaRow {
                node: name,
                node_role: node.role.clone(),
                host: node.host.clone(),
                port: node.port,
                version: node.version.clone(),
                replica: node.replica,
                role: standing.role,
                term: standing.term,
                leader: standing.leader,
                commit: standing.commit,
                applied: standing.applied,
                last: standing.last,
                cut: standing.cut,
                last_contact_ms: last_contact,
            }
        };
        Ok(futures::future::join_all(coordinators(&definitions).map(|(name, node)| row(name.to_owned(), node))).await)
    }

    async fn standing(&self) -> Result<Standing> {
        self.node.status().await.map(|status| self.standing_of(&status))
    }

    fn standing_of(&self, status: &Status) -> Standing {
        Standing {
            node: self.own.name.clone(),
            replica: status.replica,
            role: status.role.to_owned(),
            term: status.term,
            leader: status.leader,
            commit: status.commit,
            applied: status.applied,
            last: status.last,
            cut: status.cut,
            members: [status.voters.as_slice(), status.learners.as_slice()].concat(),
            is_voter: status.voters.contains(&status.replica),
            cluster: self.sender.identity.cluster,
        }
    }
}

#[async_trait]
impl Replication for Group {
    async fn replicas(&self) -> std::result::Result<Vec<ReplicaRow>, WireError> {
        self.rows().await.map_err(|error| to_wire(&error))
    }

    async fn remove(&self, node: &str) -> std::result::Result<(), WireError> {
        Group::remove(self, node).await.map_err(|error| to_wire(&error))
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("own", &self.own.name).field("sender", &self.sender).finish_non_exhaustive()
    }
}

fn open_store(dir: &Path) -> Result<Box<dyn Store>> {
    Ok(Box::new(SledStore::open(dir)?))
}

/// Opens what was made a moment ago.
fn reopen(dir: &Path) -> Result<Replica> {
    let replica = Replica::open(open_store(dir)?, Options::new(rand::random()))?;
    replica.ok_or_else(|| MetadataError::empty(dir.display()))
}

/// Runs what waits for the disk on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(MetadataError::Stopped { reason: error.to_string() }))
}

fn address_of(place: &HostPort) -> WorkerAddress {
    WorkerAddress { node: String::new(), host: place.host.clone(), port: place.port }
}

/// What names this node's request to join, over restarts until it has its place.
fn token(dir: &Path) -> Result<u64> {
    let path = dir.join("join-token");
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| MetadataError::File { action, path, source }
    };
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse() {
            Ok(token) => Ok(token),
            Err(_) => Err(MetadataError::Damaged {
                place: path.display().to_string(),
                reason: format!("it says {text:?}, which is no number"),
            }),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(dir).map_err(failed("make folder", dir))?;
            let token: u64 = rand::random_range(1..=u64::MAX);
            let partial = dir.join("join-token.partial");
            fs::write(&partial, format!("{token}\n")).map_err(failed("write", &partial))?;
            fs::rename(&partial, &path).map_err(failed("write", &path))?;
            Ok(token)
        }
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// Asks the coordinators in turn.
async fn ask_for_seat(client: &FlightClient, join: &Places, own: &Own, token: u64, timeout: Duration) -> Result<Seat> {
    let request = JoinGroupRequest {
        name: own.name.clone(),
        host: own.host.clone(),
        port: u32::from(own.port),
        role: own.role.clone(),
        token,
    };
    let (body, start) = (Bytes::from(request.encode_to_vec()), Instant::now());
    loop {
        let refused = |message: String| MetadataError::NotAdmitted { coordinator: join.to_string(), message };
        // Its own address may be among them, so that all nodes can be told the same.
        let own_place = HostPort::new(&own.host, own.port);
        let places: Vec<HostPort> = join.look_up().await.into_iter().filter(|it| *it != own_place).collect();
        let mut failures: Vec<WireError> = vec![];
        for place in &places {
            let left = timeout.saturating_sub(start.elapsed());
            let patience = if places.len() == 1 { CHANGE_TIMEOUT } else { SEED_TIMEOUT };
            match client.call(&address_of(place), JOIN_GROUP, body.clone(), left.min(patience)).await {
                Ok(answer) => return Seat::decode(answer).map_err(|error| refused(error.to_string())),
                Err(error) => {
                    warn!(coordinator = %place, error = %error.message, "cannot join by this coordinator yet");
                    failures.push(error);
                }
            }
        }
        if failures.iter().all(is_final) || start.elapsed() + RETRY >= timeout {
            let texts: Vec<String> = failures.into_iter().map(|error| error.message).collect();
            let none = || "no address but this node's own".to_owned();
            return Err(refused(if texts.is_empty() { none() } else { texts.join("; ") }));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether asking again cannot help.
fn is_final(error: &WireError) -> bool {
    matches!(
        error.code,
        ErrorCode::AccessDenied | ErrorCode::InvalidArgument | ErrorCode::Unsupported | ErrorCode::UnknownCommand
    )
}

/// An error of ours as it goes to another node.
fn to_wire(error: &MetadataError) -> WireError {
    let wire = WireError::new(error.code(), crate::error::chain(error));
    if error.is_retryable() { wire.retryable() } else { wire }
}
