//! Sessions, interpreters, catalogs and table engines; the coordinator's side of a query and the worker's.
//!
//! Does not know: the wire protocols of clients. Start at [`session`], then [`interpreters`] (one a statement kind),
//! then [`coordinator`] (where a plan becomes stages that run).

pub mod access;
pub mod activity;
pub mod answer;
pub mod binder;
pub mod catalog;
pub mod cluster;
pub mod compaction;
pub mod context;
pub mod coordinator;
pub mod definitions;
mod earlier_file;
pub mod engine;
pub mod error;
pub mod functions;
pub mod interpreters;
pub mod load;
pub mod managed;
pub mod metrics;
pub mod mysql_semantics;
pub mod processes;
pub mod query_log;
pub mod replication;
pub mod session;
pub mod system;
mod system_view;
pub mod tables;
pub mod task;
pub mod variables;

pub use access::Identity;
pub use answer::{Answer, RowStream};
pub use context::QueryContext;
pub use engine::{Engine, EngineOptions};
pub use error::QueryError;
pub use session::{Prepared, Session, SessionInit, Tls};
pub use task::StageTaskRunner;
