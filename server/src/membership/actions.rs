//! The actions of membership on a node's Flight port.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use sheaf_common::{Classify, WireError};
use sheaf_flight::service::unknown;
use sheaf_flight::{FlightClient, NodeActions, WorkerAddress};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::messages::{
    DRAIN, HEARTBEAT, HeartbeatRequest, JOIN, JoinRequest, LEAVE, LeaveRequest, WATCH, WatchRequest,
};
use super::{MembershipError, Node, Registry};

/// A worker that wants to join must answer its coordinator by then.
const REACH_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers other nodes about membership: on a coordinator joins, heartbeats and good-byes, on every node the question
/// whether it is still there.
pub struct MembershipActions {
    registry: Arc<Registry>,
    client: Arc<FlightClient>,
    /// Cancelled when the node stops.
    stop: CancellationToken,
    /// Cancelled when the node is to leave in order.
    drain: CancellationToken,
}

impl MembershipActions {
    pub fn new(
        registry: Arc<Registry>,
        client: Arc<FlightClient>,
        stop: CancellationToken,
        drain: CancellationToken,
    ) -> Self {
        Self { registry, client, stop, drain }
    }

    async fn answer(&self, name: &str, body: &[u8]) -> Option<Result<Vec<u8>, MembershipError>> {
        match name {
            JOIN => Some(self.join(body).await),
            HEARTBEAT => Some(read(HEARTBEAT, body).map(|request| self.heartbeat(&request))),
            LEAVE => Some(read(LEAVE, body).map(|request| self.leave(&request))),
            DRAIN => Some(self.drain()),
            WATCH => Some(self.watch(body).await),
            _ => None,
        }
    }

    /// Adds a worker, but only one that is reached where it says that it is.
    async fn join(&self, body: &[u8]) -> Result<Vec<u8>, MembershipError> {
        let node = Node::try_from(read::<JoinRequest>(JOIN, body)?.node)?;
        self.registry.admit(&node, Instant::now())?;
        self.reach(&node).await?;
        self.registry.join(node, Instant::now())?;
        Ok(self.registry.cluster(true, 0).encode_to_vec())
    }

    async fn reach(&self, node: &Node) -> Result<(), MembershipError> {
        let unreachable =
            |message| MembershipError::Unreachable { name: node.name.clone(), address: node.address(), message };
        let info = self.client.worker_info(&address(node), REACH_TIMEOUT).await;
        let info = info.map_err(|error| unreachable(error.message))?;
        if info.node != node.id() {
            return Err(unreachable(format!("node {} answers there", info.node)));
        }
        Ok(())
    }

    fn heartbeat(&self, request: &HeartbeatRequest) -> Vec<u8> {
        let known = self.registry.heartbeat(&request.name, request.incarnation, request.draining, Instant::now());
        self.registry.cluster(known, request.view).encode_to_vec()
    }

    fn leave(&self, request: &LeaveRequest) -> Vec<u8> {
        self.registry.leave(&request.name, request.incarnation);
        Vec::new()
    }

    /// A coordinator asks this worker to leave: it stops to take queries, and the rest goes by itself.
    fn drain(&self) -> Result<Vec<u8>, MembershipError> {
        let own = self.registry.own();
        if own.role != sheaf_common::config::Role::Worker.to_string() {
            return Err(MembershipError::NotWorker { name: own.name.clone() });
        }
        self.drain.cancel();
        Ok(Vec::new())
    }

    /// Answers when this node stops; until then its silence on an open connection says that it lives.
    async fn watch(&self, body: &[u8]) -> Result<Vec<u8>, MembershipError> {
        let request: WatchRequest = read(WATCH, body)?;
        let own = self.registry.own();
        if request.incarnation != own.incarnation {
            return Err(MembershipError::AnotherNode { asked: request.incarnation, own: own.id() });
        }
        self.stop.cancelled().await;
        Ok(Vec::new())
    }
}

#[async_trait]
impl NodeActions for MembershipActions {
    async fn act(&self, name: &str, body: Bytes) -> Result<Bytes, WireError> {
        let answer = self.answer(name, &body).await.ok_or_else(|| unknown(name))?;
        answer.map(Bytes::from).map_err(|error| {
            let wire = WireError::new(error.code(), error.to_string());
            if error.is_retryable() {
                debug!(action = name, %error, "membership refused for now");
                return wire.retryable();
            }
            warn!(action = name, %error, "membership refused");
            wire
        })
    }
}

fn read<M: Message + Default>(action: &'static str, body: &[u8]) -> Result<M, MembershipError> {
    M::decode(body).map_err(|source| MembershipError::Message { action, source })
}

/// Where a node is reached, and which start of it is meant.
pub(super) fn address(node: &Node) -> WorkerAddress {
    WorkerAddress { node: node.id(), host: node.host.clone(), port: node.port }
}
