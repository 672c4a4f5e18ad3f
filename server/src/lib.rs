//! A node of SheafDB: its front ends, its membership in a cluster, the metadata that a cluster agrees on, its start and
//! stop.
//!
//! Does not know how a query runs: that is `sheaf-query`. Start at [`node`], which puts a node together from its
//! configuration, then [`membership`].

pub mod data_dir;
pub mod error;
pub mod http;
pub mod machine;
pub mod membership;
pub mod metadata;
pub mod metrics;
pub mod mysql;
pub mod node;
pub mod stop;
pub mod tls;

pub use data_dir::NodeFile;
pub use error::ServerError;
