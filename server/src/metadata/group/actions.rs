//! What other coordinators ask of this one, over its Flight port.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use sheaf_common::{ErrorCode, WireError};
use sheaf_flight::NodeActions;
use sheaf_flight::service::unknown;

use super::super::transport::decode;
use super::super::transport::messages::{
    Chunk, Envelope, JOIN_GROUP, JoinGroupRequest, RAFT, REMOVE, RemoveRequest, SNAPSHOT, STANDING,
};
use super::{Group, to_wire};

/// Answers the actions of the group.
pub struct GroupActions(pub Arc<Group>);

fn invalid(message: String) -> WireError {
    WireError::new(ErrorCode::InvalidArgument, message)
}

fn read<M: prost::Message + Default>(action: &str, body: Bytes) -> Result<M, WireError> {
    M::decode(body).map_err(|error| invalid(format!("message of action {action} cannot be read: {error}")))
}

#[async_trait]
impl NodeActions for GroupActions {
    async fn act(&self, name: &str, body: Bytes) -> Result<Bytes, WireError> {
        let group = &self.0;
        match name {
            RAFT => group.receive(&read(RAFT, body)?).map(|answer| Bytes::from(answer.encode_to_vec())),
            SNAPSHOT => group.receive_piece(&read(SNAPSHOT, body)?).map(|()| Bytes::new()),
            JOIN_GROUP => {
                let request: JoinGroupRequest = read(JOIN_GROUP, body)?;
                let seat = group.admit(&request).await.map_err(|error| to_wire(&error))?;
                Ok(Bytes::from(seat.encode_to_vec()))
            }
            REMOVE => {
                let request: RemoveRequest = read(REMOVE, body)?;
                group.remove_for(&request).await.map_err(|error| to_wire(&error))?;
                Ok(Bytes::new())
            }
            STANDING => {
                let standing = group.standing().await.map_err(|error| to_wire(&error))?;
                Ok(Bytes::from(standing.encode_to_vec()))
            }
            _ => Err(unknown(name)),
        }
    }
}

impl Group {
    /// Brings messages to the replica, and learns where their sender is.
    fn receive(&self, envelope: &Envelope) -> Result<Envelope, WireError> {
        let own = self.sender.identity;
        self.check(envelope.cluster, envelope.to)?;
        let port = u16::try_from(envelope.port).map_err(|_| invalid(format!("{} is not a port", envelope.port)))?;
        if self.is_of_cluster(envelope) {
            self.addresses.tell(envelope.from, &envelope.host, port);
        }
        let peers = self.node.peers();
        for bytes in &envelope.messages {
            let message = decode(bytes).map_err(|error| invalid(format!("a message cannot be read: {error}")))?;
            if message.from != envelope.from || message.to != own.replica {
                return Err(invalid(format!("a message of replica {} for {}", message.from, message.to)));
            }
            peers.deliver(message);
        }
        Ok(self.sender.envelope(envelope.from, vec![]))
    }

    fn receive_piece(&self, chunk: &Chunk) -> Result<(), WireError> {
        self.check(chunk.cluster, chunk.to)?;
        let Some(bytes) = self.assembly.take(chunk).map_err(invalid)? else { return Ok(()) };
        let message = decode(&bytes).map_err(|error| invalid(format!("a snapshot cannot be read: {error}")))?;
        if message.from != chunk.from || message.to != self.sender.identity.replica {
            return Err(invalid(format!("a snapshot of replica {} for {}", message.from, message.to)));
        }
        self.node.peers().deliver(message);
        Ok(())
    }

    /// Whether a message is meant for this replica of this cluster.
    fn check(&self, cluster: u64, to: u64) -> Result<(), WireError> {
        let own = self.sender.identity;
        if cluster != own.cluster {
            return Err(invalid(format!("node {} belongs to another cluster", self.own.name)));
        }
        if to != 0 && to != own.replica {
            return Err(invalid(format!("node {} has replica {}, not {to}", self.own.name, own.replica)));
        }
        Ok(())
    }
}
