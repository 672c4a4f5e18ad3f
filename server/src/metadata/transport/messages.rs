//! What coordinators say to each other about metadata: protobuf messages of Flight actions.

/// Messages of one replica for another. Answered by an [`Envelope`] without messages.
pub const RAFT: &str = "sheaf.v1.Raft";
/// A piece of a snapshot. Answered by nothing.
pub const SNAPSHOT: &str = "sheaf.v1.RaftSnapshot";
/// A new coordinator asks for its place in the group. Answered by a [`Seat`].
pub const JOIN_GROUP: &str = "sheaf.v1.JoinGroup";
/// Asks a coordinator to remove another. Answered by nothing, once it is removed.
pub const REMOVE: &str = "sheaf.v1.RemoveNode";
/// Asks how a replica stands. Answered by a [`Standing`].
pub const STANDING: &str = "sheaf.v1.Standing";

#[derive(Clone, PartialEq, prost::Message)]
pub struct Envelope {
    #[prost(uint64, tag = "1")]
    pub cluster: u64,
    #[prost(uint64, tag = "2")]
    pub from: u64,
    /// 0 is whoever is there.
    #[prost(uint64, tag = "3")]
    pub to: u64,
    /// Where the sender is reached, as of now.
    #[prost(string, tag = "4")]
    pub host: String,
    #[prost(uint32, tag = "5")]
    pub port: u32,
    /// Raft's own messages, encoded.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub messages: Vec<Vec<u8>>,
}

/// A piece of an encoded message that holds a snapshot. Pieces come in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Chunk {
    #[prost(uint64, tag = "1")]
    pub cluster: u64,
    #[prost(uint64, tag = "2")]
    pub from: u64,
    #[prost(uint64, tag = "3")]
    pub to: u64,
    /// Drawn by the sender for each try.
    #[prost(uint64, tag = "4")]
    pub transfer: u64,
    /// Where the piece begins.
    #[prost(uint64, tag = "5")]
    pub offset: u64,
    /// Of the whole message.
    #[prost(uint64, tag = "6")]
    pub total: u64,
    /// CRC-32 of the piece.
    #[prost(fixed32, tag = "7")]
    pub checksum: u32,
    #[prost(bytes = "bytes", tag = "8")]
    pub bytes: bytes::Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct JoinGroupRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub host: String,
    #[prost(uint32, tag = "3")]
    pub port: u32,
    #[prost(string, tag = "4")]
    pub role: String,
    /// Drawn once by the new node: a request that is sent again is known by it.
    #[prost(uint64, tag = "5")]
    pub token: u64,
}

/// A new coordinator's place in the group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Seat {
    #[prost(uint64, tag = "1")]
    pub cluster: u64,
    #[prost(uint64, tag = "2")]
    pub replica: u64,
    #[prost(uint32, tag = "3")]
    pub coordinator_no: u32,
    #[prost(message, repeated, tag = "4")]
    pub coordinators: Vec<Place>,
}

/// Where a replica is reached.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Place {
    #[prost(uint64, tag = "1")]
    pub replica: u64,
    #[prost(string, tag = "2")]
    pub host: String,
    #[prost(uint32, tag = "3")]
    pub port: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RemoveRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    /// The replica that the node has; if it has none any more, or another, it was removed already. 0 is any.
    #[prost(uint64, tag = "2")]
    pub replica: u64,
}

/// How a replica stands in its group, as it knows it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Standing {
    #[prost(string, tag = "1")]
    pub node: String,
    #[prost(uint64, tag = "2")]
    pub replica: u64,
    #[prost(string, tag = "3")]
    pub role: String,
    #[prost(uint64, tag = "4")]
    pub term: u64,
    /// 0 is none.
    #[prost(uint64, tag = "5")]
    pub leader: u64,
    #[prost(uint64, tag = "6")]
    pub commit: u64,
    #[prost(uint64, tag = "7")]
    pub applied: u64,
    #[prost(uint64, tag = "8")]
    pub last: u64,
    /// The log begins after this index.
    #[prost(uint64, tag = "9")]
    pub cut: u64,
    /// The replicas of the group, voters and learners.
    #[prost(uint64, repeated, tag = "10")]
    pub members: Vec<u64>,
    /// Whether it has a vote.
    #[prost(bool, tag = "11")]
    pub is_voter: bool,
    #[prost(uint64, tag = "12")]
    pub cluster: u64,
}
