//! From SQL text to stages and placed tasks.
//!
//! Does not know: sockets, sessions, where metadata is kept. Start at [`parser`], then [`scatter`] (where a plan is
//! cut) and [`reschedule`] (where its tasks go).

pub mod boundary;
pub mod data_file;
pub mod error;
pub mod explain;
pub mod functions;
pub mod generator;
pub mod homes;
pub mod keep_nan;
pub mod leaf;
pub mod memory_need;
pub mod merge_copies;
pub mod namesakes;
mod one_input;
pub mod parser;
pub mod reschedule;
pub mod row_id;
pub mod scatter;
pub mod splits;
pub mod stage;
pub mod table_sink;
pub mod warnings;

pub use error::PlanError;
pub use homes::Homes;
pub use reschedule::{Placement, StaticWorkers, Worker, WorkerResolver};
pub use scatter::ScatterOptimizer;
pub use splits::TaskEstimator;
pub use stage::{DistributedPlan, StagePlan};
