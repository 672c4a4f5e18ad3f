//! What a statement answers with.

use std::fmt;

use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;

/// One statement's answer.
#[derive(Debug)]
pub enum Answer {
    Rows(RowStream),
    /// No rows, but it was done.
    Done {
        affected_rows: u64,
        info: String,
    },
}

impl Answer {
    /// Done, with nothing to say.
    pub fn done() -> Self {
        Self::Done { affected_rows: 0, info: String::new() }
    }
}

/// Rows as they come. Dropping it ends the query on every node.
pub struct RowStream {
    /// What the client sees: names as the session's dialect gives them.
    pub schema: SchemaRef,
    /// Batches of `schema`; an error ends it.
    pub stream: SendableRecordBatchStream,
}

impl fmt::Debug for RowStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowStream").field("schema", &self.schema).finish_non_exhaustive()
    }
}
