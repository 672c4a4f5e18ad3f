//! What a coordinator asks of its cluster beside workers for tasks.

use std::fmt::Debug;

use async_trait::async_trait;
use sheaf_common::{ErrorCode, WireError};
use sheaf_flight::WorkerAddress;
use sheaf_planners::Worker;

/// The cluster as statements change and ask it. Implemented by who knows its members.
#[async_trait]
pub trait ClusterControl: Send + Sync + Debug {
    /// The other coordinators that are alive, each with clients of its own.
    fn coordinators(&self) -> Vec<WorkerAddress>;

    /// The workers that still run tasks but get no more.
    fn draining(&self) -> Vec<Worker>;

    /// The live workers that get no tasks from here, since they run another build of the server.
    fn of_other_builds(&self) -> Vec<Worker> {
        vec![]
    }

    /// Lets a worker finish what it runs and leave; returns once it takes no more queries.
    ///
    /// Errs when no live worker has that name, or it does not answer.
    async fn drain(&self, node: &str) -> Result<(), WireError>;
}

/// A process on its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCluster;

#[async_trait]
impl ClusterControl for NoCluster {
    fn coordinators(&self) -> Vec<WorkerAddress> {
        vec![]
    }

    fn draining(&self) -> Vec<Worker> {
        vec![]
    }

    async fn drain(&self, node: &str) -> Result<(), WireError> {
        let text = format!("node '{node}' is not a worker of this cluster: there is no cluster");
        Err(WireError::new(ErrorCode::InvalidArgument, text))
    }
}
