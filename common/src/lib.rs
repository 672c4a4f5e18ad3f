//! What every other crate of SheafDB names: ids, errors with their class, settings, configuration, telemetry, and the
//! objects that a cluster agrees on.
//!
//! Does not know: SQL, the network, DataFusion. Start at [`error`], then [`settings`].

pub mod build;
pub mod config;
pub mod definitions;
pub mod error;
pub mod ids;
pub mod panics;
pub mod recent_map;
pub mod settings;
pub mod telemetry;

pub use error::{Classify, ErrorCode, WireError};
pub use ids::{QueryId, StageId, TaskId};
pub use recent_map::RecentMap;
