//! What the cluster agrees on: databases, tables, views, users, grants, settings, connections and nodes, as commands
//! in a Raft log that every coordinator applies in the same order.
//!
//! Does not know SQL, DataFusion or what a definition means: those are texts of the catalog's. Where to start:
//! [`command`] is what can be asked for, [`state`] what it does, [`replica`] how several agree on it, without threads
//! or clocks, [`node`] runs a replica, and [`group`] brings those of a cluster together; [`definitions`] is what queries ask of it. [`store`] and [`disk`] keep it.

pub mod backup;
pub mod command;
mod definitions;
pub mod disk;
pub mod error;
mod frame;
pub mod group;
mod log;
pub mod node;
pub mod replica;
pub mod state;
pub mod store;
pub mod transport;

#[cfg(test)]
mod compat;
#[cfg(test)]
mod simulation;

pub use error::MetadataError;
pub use node::MetadataNode;
pub use state::State;
