//! What the cluster agrees on: databases, tables, views, users, grants, settings, connections and nodes, as commands
//! in a Raft log that every coordinator applies in the same order.
//!
//! The server does not run on it yet: its catalog still keeps a file of its own, and nothing outside of this module
//! calls it.
//!
//! Does not know SQL, DataFusion or what a definition means: those are texts of the catalog's. Where to start:
//! [`command`] is what can be asked for, [`state`] what it does, [`replica`] how several agree on it, without threads
//! or clocks, and [`node`] runs a replica. [`store`] and [`disk`] keep it.

pub mod command;
pub mod disk;
pub mod error;
mod frame;
mod log;
pub mod node;
pub mod replica;
pub mod state;
pub mod store;
pub mod transport;

#[cfg(test)]
mod simulation;

pub use command::{Change, IfExists, Object, Outcome, Refusal, Request, Right};
pub use error::MetadataError;
pub use node::MetadataNode;
pub use state::State;
