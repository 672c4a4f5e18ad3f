//! A view as it is found by its name. The binder puts the plan of its query in its place.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::catalog::ViewDef;

#[derive(Debug)]
pub struct View {
    /// The database that it is in.
    pub database: String,
    pub def: Arc<ViewDef>,
    schema: SchemaRef,
}

impl View {
    pub fn new(database: &str, def: Arc<ViewDef>) -> Self {
        Self { database: database.to_owned(), schema: def.schema(), def }
    }

    /// `database.name`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.database, self.def.name)
    }
}

#[async_trait]
impl TableProvider for View {
    /// As it was when the view was made.
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        internal_err!("view {} was not expanded", self.full_name())
    }
}
