//! Which nodes the cluster has: a coordinator's registry of its workers, and a worker's links to all coordinators.
//!
//! A node that starts is a new *incarnation*, even under an old name: nothing that an earlier one held is expected of it.
//! A worker joins by a Flight action, then sends heartbeats. It is lost when they stay away, or at once when its connection
//! breaks; it is then asked to join again, which it may, as long as the coordinator reaches it.

mod actions;
mod client;
mod control;
mod discovery;
mod links;
mod messages;
mod places;
mod registry;
mod watch;

pub use actions::MembershipActions;
pub use client::{ControlLink, FlightLink, JoinOptions, MemberClient, SeedLink};
pub use control::{Control, SessionActions};
pub use discovery::discover_workers;
pub use links::{Coordinators, LinkOptions, MemberLinks};
pub use places::{LOOKUP_TIMEOUT, NameService, Places, SystemNames};
pub use registry::{Member, MemberState, Registry};
pub use watch::watch_workers;

use messages::NodeMessage;
use sheaf_common::{Classify, ErrorCode};

/// The version of the server.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The version and the commit: plans go only between nodes of the same build.
pub const BUILD: &str = env!("SHEAF_BUILD");

/// One start of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// Drawn at each start; 0 is none.
    pub incarnation: u64,
    /// The Flight address that others are told.
    pub host: String,
    pub port: u16,
    pub cores: usize,
    pub memory_bytes: u64,
    pub role: String,
    /// Its build: plans go only to workers that have that of their coordinator.
    pub version: String,
}

impl Node {
    /// A name that no other start of any node has.
    pub fn id(&self) -> String {
        node_id(&self.name, self.incarnation)
    }

    /// The advertised address, as `HOST:PORT`.
    pub fn address(&self) -> String {
        sheaf_common::config::HostPort::new(&self.host, self.port).to_string()
    }
}

/// [`Node::id`] of a node that is known by name and incarnation only.
pub fn node_id(name: &str, incarnation: u64) -> String {
    format!("{name}#{incarnation:016x}")
}

/// Why a message about membership was refused, or a worker could not join.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error("message of action {action} cannot be read")]
    Message {
        action: &'static str,
        #[source]
        source: prost::DecodeError,
    },
    #[error("node {name} has no usable {what}")]
    Incomplete { name: String, what: &'static str },
    /// Two nodes were given one name; or one was restarted so fast that its predecessor still counts as live.
    #[error("node name {name} belongs to the live worker at {address}")]
    NameTaken { name: String, address: String },
    /// Nobody else would reach it either.
    #[error("the coordinator cannot reach node {name} at {address}, is its advertised address right? {message}")]
    Unreachable { name: String, address: String, message: String },
    /// The node that was asked for was started again, or never was here.
    #[error("incarnation {asked:016x} was asked for, here is {own}")]
    AnotherNode { asked: u64, own: String },
    /// The node that was asked is itself a worker.
    #[error("node {name} is not a coordinator: join the one that it joined")]
    NotCoordinator { name: String },
    /// It takes statements too: its clients would be left alone.
    #[error("node {name} is not a worker only: stop it instead")]
    NotWorker { name: String },
    /// The coordinator said no, and will say so again.
    #[error("coordinator {coordinator} refused the join: {message}")]
    Refused { coordinator: String, message: String },
    #[error("could not join coordinator {coordinator} within {waited_s} s: {message}")]
    JoinTimeout { coordinator: String, waited_s: u64, message: String },
}

impl Classify for MembershipError {
    fn code(&self) -> ErrorCode {
        match self {
            MembershipError::Message { .. }
            | MembershipError::Incomplete { .. }
            | MembershipError::NotCoordinator { .. }
            | MembershipError::NotWorker { .. }
            | MembershipError::Refused { .. } => ErrorCode::InvalidArgument,
            MembershipError::NameTaken { .. } => ErrorCode::Busy,
            MembershipError::Unreachable { .. } | MembershipError::JoinTimeout { .. } => ErrorCode::NoWorker,
            MembershipError::AnotherNode { .. } => ErrorCode::WorkerLost,
        }
    }

    fn is_retryable(&self) -> bool {
        match self {
            MembershipError::NameTaken { .. }
            | MembershipError::Unreachable { .. }
            | MembershipError::AnotherNode { .. }
            | MembershipError::JoinTimeout { .. } => true,
            MembershipError::Message { .. }
            | MembershipError::Incomplete { .. }
            | MembershipError::NotCoordinator { .. }
            | MembershipError::NotWorker { .. }
            | MembershipError::Refused { .. } => false,
        }
    }
}

impl From<&Node> for NodeMessage {
    fn from(node: &Node) -> Self {
        Self {
            name: node.name.clone(),
            incarnation: node.incarnation,
            host: node.host.clone(),
            port: u32::from(node.port),
            cores: u32::try_from(node.cores).unwrap_or(u32::MAX),
            memory_bytes: node.memory_bytes,
            role: node.role.clone(),
            version: node.version.clone(),
        }
    }
}

impl TryFrom<NodeMessage> for Node {
    type Error = MembershipError;

    fn try_from(message: NodeMessage) -> Result<Self, MembershipError> {
        let incomplete = |what| MembershipError::Incomplete { name: message.name.clone(), what };
        if message.name.is_empty() {
            return Err(incomplete("name"));
        }
        if message.incarnation == 0 {
            return Err(incomplete("incarnation"));
        }
        if message.host.is_empty() {
            return Err(incomplete("host"));
        }
        let port = u16::try_from(message.port).ok().filter(|port| *port != 0).ok_or_else(|| incomplete("port"))?;
        if message.cores == 0 {
            return Err(incomplete("number of cores"));
        }
        Ok(Self {
            port,
            cores: message.cores as usize,
            name: message.name,
            incarnation: message.incarnation,
            host: message.host,
            memory_bytes: message.memory_bytes,
            role: message.role,
            version: message.version,
        })
    }
}
