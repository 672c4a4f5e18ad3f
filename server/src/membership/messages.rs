//! What nodes say to each other about the cluster: protobuf messages of the actions `Join`, `Heartbeat`, `Leave` and
//! `Watch`.

/// Flight action types. A change that an older node would misread gets a new version in the name.
pub const JOIN: &str = "sheaf.v1.Join";
pub const HEARTBEAT: &str = "sheaf.v1.Heartbeat";
pub const LEAVE: &str = "sheaf.v1.Leave";
/// Nothing in, nothing out: the worker drains.
pub const DRAIN: &str = "sheaf.v1.Drain";
pub const WATCH: &str = "sheaf.v1.Watch";

#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeMessage {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
    #[prost(string, tag = "3")]
    pub host: String,
    #[prost(uint32, tag = "4")]
    pub port: u32,
    #[prost(uint32, tag = "5")]
    pub cores: u32,
    #[prost(uint64, tag = "6")]
    pub memory_bytes: u64,
    #[prost(string, tag = "7")]
    pub role: String,
    #[prost(string, tag = "8")]
    pub version: String,
}

/// A worker asks to be given tasks. Answered by a [`ClusterMessage`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct JoinRequest {
    #[prost(message, required, tag = "1")]
    pub node: NodeMessage,
}

/// A worker is alive. Answered by a [`ClusterMessage`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeartbeatRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
    /// The version of the cluster's state that the worker has; the members are sent only when it is not the current one.
    #[prost(uint64, tag = "3")]
    pub view: u64,
    /// It takes no more queries and leaves once those that it has are done.
    #[prost(bool, tag = "4")]
    pub draining: bool,
}

/// A worker stops and wants no more tasks. Answered by nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LeaveRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
}

/// Asks a node to answer when it stops, with nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchRequest {
    #[prost(uint64, tag = "1")]
    pub incarnation: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ClusterMessage {
    /// Whether the coordinator counts the asking worker as live; if not, it has to join again.
    #[prost(bool, tag = "1")]
    pub known: bool,
    #[prost(string, tag = "2")]
    pub coordinator: String,
    #[prost(uint64, tag = "3")]
    pub view: u64,
    #[prost(message, repeated, tag = "4")]
    pub members: Vec<MemberMessage>,
    /// How long the coordinator waits for a heartbeat.
    #[prost(uint64, tag = "5")]
    pub lost_after_ms: u64,
    /// All coordinators, sent when the members are.
    #[prost(message, repeated, tag = "6")]
    pub coordinators: Vec<CoordinatorMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct CoordinatorMessage {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub host: String,
    #[prost(uint32, tag = "3")]
    pub port: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct MemberMessage {
    #[prost(message, required, tag = "1")]
    pub node: NodeMessage,
    #[prost(bool, tag = "2")]
    pub live: bool,
}
