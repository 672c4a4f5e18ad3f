//! What a coordinator asks of those that keep the definitions together with it.

use std::fmt::Debug;

use async_trait::async_trait;
use sheaf_common::{ErrorCode, WireError};

use crate::system::ReplicaRow;

/// The group of coordinators that keeps the definitions. Implemented by who takes part in it.
#[async_trait]
pub trait Replication: Send + Sync + Debug {
    /// All replicas, also those that do not answer.
    async fn replicas(&self) -> Result<Vec<ReplicaRow>, WireError>;

    /// Removes a coordinator for good; its process ends by itself. Returns once the others can do without it.
    ///
    /// Errs when there is no such coordinator, when it is the only one, and when no majority agrees in time.
    async fn remove(&self, node: &str) -> Result<(), WireError>;
}

/// Definitions of one process.
#[derive(Debug, Clone, Copy, Default)]
pub struct NotReplicated;

#[async_trait]
impl Replication for NotReplicated {
    async fn replicas(&self) -> Result<Vec<ReplicaRow>, WireError> {
        Ok(vec![])
    }

    async fn remove(&self, node: &str) -> Result<(), WireError> {
        let text = format!("node '{node}' is not a coordinator of this cluster: there is no cluster");
        Err(WireError::new(ErrorCode::InvalidArgument, text))
    }
}
