//! How messages get from replica to replica: what [`super::node`] asks of the network.

pub mod flight;
pub mod messages;

use protobuf::Message as _;
use raft::eraftpb::Message;

/// Carries messages to other replicas.
///
/// May lose, delay, double and reorder them; must not change them, nor deliver those of strangers.
pub trait Transport: Send + 'static {
    /// Takes a message and returns at once. What becomes of it is told by
    /// [`super::node::Peers::unreachable`], and for a snapshot, always, by [`super::node::Peers::snapshot_sent`].
    fn send(&self, message: Message);
}

/// No network: the group has one member.
pub struct Alone;

impl Transport for Alone {
    fn send(&self, _message: Message) {}
}

/// A message as it travels.
pub fn encode(message: &Message) -> Vec<u8> {
    message.write_to_bytes().expect("a message without required fields is always whole")
}

/// Errs with the reason when the bytes are no message.
pub fn decode(bytes: &[u8]) -> Result<Message, String> {
    let mut message = Message::default();
    message.merge_from_bytes(bytes).map_err(|error| error.to_string())?;
    Ok(message)
}
