//! Tables whose rows are made while they are read: `numbers` and TPC-H.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use sheaf_planners::generator::{Generator, GeneratorExec, Ranges, TpchTable, spread};

/// A generator over all its rows.
#[derive(Debug, Clone)]
pub struct GeneratedTable {
    generator: Generator,
    ranges: Ranges,
    /// One partition, in the process that plans the scan.
    local: bool,
}

impl GeneratedTable {
    /// The numbers from 0 below `n`.
    pub fn numbers(n: u64) -> Self {
        Self { generator: Generator::Numbers, ranges: vec![(0, n)], local: false }
    }

    /// A table of TPC-H; the scale has to be one that the generator knows.
    pub fn tpch(table: TpchTable, scale: f64) -> Self {
        let ranges = vec![(0, table.parts(scale))];
        Self { generator: Generator::Tpch { table, scale }, ranges, local: false }
    }

    pub fn local(mut self) -> Self {
        self.local = true;
        self
    }
}

#[async_trait]
impl TableProvider for GeneratedTable {
    fn schema(&self) -> SchemaRef {
        self.generator.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = if self.local { 1 } else { session.config().target_partitions() };
        let mut lists = spread(self.ranges.iter().copied(), partitions);
        lists.retain(|list| !list.is_empty());
        if lists.is_empty() {
            lists.push(vec![]);
        }
        let plan = GeneratorExec::try_new(self.generator, lists, projection.cloned())?.limited(limit);
        Ok(Arc::new(if self.local { plan.local() } else { plan }))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    async fn partitions(table: GeneratedTable) -> usize {
        let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(4)).state();
        table.scan(&session, None, &[], None).await.unwrap().properties().partitioning.partition_count()
    }

    #[tokio::test]
    async fn scans_take_the_partitions_that_have_rows() {
        assert_eq!(partitions(GeneratedTable::numbers(100)).await, 4);
        assert_eq!(partitions(GeneratedTable::numbers(2)).await, 2);
        assert_eq!(partitions(GeneratedTable::numbers(0)).await, 1);
        assert_eq!(partitions(GeneratedTable::numbers(100).local()).await, 1);
        assert_eq!(partitions(GeneratedTable::tpch(TpchTable::Region, 1.0)).await, 1);
    }
}
