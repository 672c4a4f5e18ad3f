//! The metadata as the store of definitions that sessions and their statements ask.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sheaf_common::definitions::{Applied, Change, Definitions};
use sheaf_common::{Classify, WireError};
use sheaf_query::definitions::{DefinitionError, DefinitionStore};

use super::error::MetadataError;
use super::node::MetadataNode;

impl fmt::Debug for MetadataNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataNode").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

impl From<MetadataError> for DefinitionError {
    fn from(error: MetadataError) -> Self {
        let (code, is_retryable) = (error.code(), error.is_retryable());
        match error {
            MetadataError::Refused(refusal) => Self::Refused(refusal),
            other => {
                let wire = WireError::new(code, crate::error::chain(&other));
                Self::Failed(if is_retryable { wire.retryable() } else { wire })
            }
        }
    }
}

#[async_trait]
impl DefinitionStore for MetadataNode {
    async fn change(&self, changes: Vec<Change>, timeout: Duration) -> Result<Applied, DefinitionError> {
        Ok(MetadataNode::change(self, changes, timeout).await?)
    }

    async fn read(&self, timeout: Duration) -> Result<Arc<Definitions>, DefinitionError> {
        Ok(MetadataNode::read(self, timeout, |state| Arc::clone(state.definitions())).await?)
    }

    fn local(&self) -> Arc<Definitions> {
        self.read_local(|state| Arc::clone(state.definitions()))
    }
}
