//! A statement that was read and described, to be run with values.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use sheaf_planners::parser::{Statement, on_big_stack};

/// Sees the tables as they are at each run: it is planned again, or its plan looks them up.
#[derive(Debug)]
pub struct Prepared {
    statement: Statement,
    /// One for each `?`, in order; the type is none where the statement does not tell.
    pub parameters: Vec<Option<DataType>>,
    /// None for a statement that answers without rows.
    pub columns: Option<SchemaRef>,
}

impl Prepared {
    pub(super) fn new(statement: Statement, parameters: Vec<Option<DataType>>, columns: Option<SchemaRef>) -> Self {
        Self { statement, parameters, columns }
    }

    /// The text as it was prepared.
    pub fn text(&self) -> &str {
        &self.statement.text
    }

    pub(super) fn shared_text(&self) -> Arc<str> {
        Arc::clone(&self.statement.text)
    }

    pub(super) fn statement(&self) -> Statement {
        on_big_stack(|| self.statement.clone())
    }
}
