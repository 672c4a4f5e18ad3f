//! The data plane: where tasks leave their rows, how other tasks read them, and what nodes say to one another.
//!
//! Does not know: SQL, catalogs, sessions. Start at [`worker`] (what a worker has to do), then [`exchange`] (where rows
//! wait), [`memory`] (who may hold how much), [`admission`] (which queries run), [`service`] and [`client`] (the two ends of calls), [`link`] (the sockets
//! that carry rows), [`tls`] (who may connect), [`remote_exec`] (the wire as a leaf of a plan).

pub mod admission;
pub mod channel;
pub mod client;
pub mod codec;
pub mod encoding;
pub mod error;
pub mod exchange;
pub mod link;
pub mod memory;
pub mod messages;
pub mod remote_exec;
pub mod report;
pub mod service;
pub mod sink;
pub mod tls;
pub mod worker;

pub use admission::Admission;
pub use channel::{ChannelResolver, InProcessChannels, PooledChannels, WorkerChannel};
pub use client::{ClusterSecret, FlightClient};
pub use link::{FetchOptions, LinkSocket};
pub use messages::{SubmitRequest, TaskEvent, WorkerAddress};
pub use remote_exec::RemoteExec;
pub use report::TaskReport;
pub use service::{NodeActions, NodeService};
pub use tls::{ClusterTls, ClusterTlsFiles, TlsError};
pub use worker::{TaskRunner, WorkerOptions, WorkerState};
