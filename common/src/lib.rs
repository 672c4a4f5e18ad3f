//! What every other crate of SheafDB names: ids, errors with their class, settings, configuration, telemetry.
//!
//! Does not know: SQL, the network, DataFusion. Start at [`error`], then [`settings`].

pub mod config;
pub mod error;
pub mod ids;
pub mod settings;
pub mod telemetry;

pub use error::{Classify, ErrorCode, WireError};
pub use ids::{QueryId, StageId, TaskId};
