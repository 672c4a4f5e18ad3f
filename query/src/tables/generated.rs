//! Tables whose rows are made while they are read: `numbers` and TPC-H.
//!
//! `system.numbers` has no end, so what a filter says of `number` decides where a scan begins and ends.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{BinaryExpr, Cast};
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use sheaf_planners::generator::{Generator, GeneratorExec, Ranges, TpchTable, spread};

/// A generator over all its rows.
#[derive(Debug, Clone)]
pub struct GeneratedTable {
    generator: Generator,
    ranges: Ranges,
    /// One partition, in the process that plans the scan.
    local: bool,
    /// Filters say which rows are made.
    endless: bool,
}

/// Numbers end below this one, so that how many there are is a signed number.
const NUMBERS_END: u64 = i64::MAX as u64;

impl GeneratedTable {
    /// The numbers from 0 below `n`.
    pub fn numbers(n: u64) -> Self {
        Self { generator: Generator::Numbers, ranges: vec![(0, n)], local: false, endless: false }
    }

    /// All numbers from 0, in order: what reads it has to stop.
    pub fn all_numbers() -> Self {
        Self { endless: true, ..Self::numbers(NUMBERS_END).local() }
    }

    /// A table of TPC-H; the scale has to be one that the generator knows.
    pub fn tpch(table: TpchTable, scale: f64) -> Self {
        let ranges = vec![(0, table.parts(scale))];
        Self { generator: Generator::Tpch { table, scale }, ranges, local: false, endless: false }
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

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let takes =
            if self.endless { TableProviderFilterPushDown::Inexact } else { TableProviderFilterPushDown::Unsupported };
        Ok(vec![takes; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let ranges = if self.endless { vec![numbers_between(filters)] } else { self.ranges.clone() };
        let partitions = if self.local { 1 } else { session.config().target_partitions() };
        let mut lists = spread(ranges, partitions);
        lists.retain(|list| !list.is_empty());
        if lists.is_empty() {
            lists.push(vec![]);
        }
        let plan = GeneratorExec::try_new(self.generator, lists, projection.cloned())?.limited(limit);
        Ok(Arc::new(if self.local { plan.local() } else { plan }))
    }
}

/// The numbers outside of which one of the filters, all of which hold, is false.
fn numbers_between(filters: &[Expr]) -> (u64, u64) {
    let (mut start, mut end) = (0, i128::from(NUMBERS_END));
    for filter in filters.iter().flat_map(|it| datafusion::logical_expr::utils::split_conjunction(it)) {
        let Some((op, floor, is_whole)) = comparison(filter) else { continue };
        let ceil = if is_whole { floor } else { floor + 1 };
        match op {
            Operator::Lt => end = end.min(ceil),
            Operator::LtEq => end = end.min(floor + 1),
            Operator::Gt => start = start.max(floor + 1),
            Operator::GtEq => start = start.max(ceil),
            Operator::Eq => (start, end) = (start.max(ceil), end.min(floor + 1)),
            _ => {}
        }
    }
    let end = end.max(0);
    // Both are within what numbers there are by now.
    let within = |it: i128| u64::try_from(it).unwrap_or(NUMBERS_END);
    (within(start.min(end)), within(end))
}

/// `number op value`: the operator, the value rounded down, and whether nothing was rounded off.
fn comparison(filter: &Expr) -> Option<(Operator, i128, bool)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else { return None };
    let (column, op, value) = match (left.as_ref(), right.as_ref()) {
        (column, Expr::Literal(value, _)) => (column, *op, value),
        (Expr::Literal(value, _), column) => (column, op.swap()?, value),
        _ => return None,
    };
    let is_number = match column {
        Expr::Column(_) => true,
        // In these types each number is what it is.
        Expr::Cast(Cast { expr, field }) => {
            let keeps = match field.data_type() {
                DataType::Int64 | DataType::UInt64 => true,
                DataType::Decimal128(precision, scale) => i16::from(*precision) - i16::from(*scale) >= 19,
                _ => false,
            };
            keeps && matches!(expr.as_ref(), Expr::Column(_))
        }
        _ => false,
    };
    if !is_number {
        return None;
    }
    let (unscaled, scale) = match value {
        ScalarValue::Decimal128(Some(value), _, scale) => (*value, u32::try_from(*scale).ok()?),
        ScalarValue::UInt64(Some(value)) => (i128::from(*value), 0),
        whole => match whole.cast_to(&DataType::Int64).ok()? {
            ScalarValue::Int64(Some(value)) if whole.data_type().is_integer() => (i128::from(value), 0),
            _ => return None,
        },
    };
    let unit = 10i128.checked_pow(scale)?;
    Some((op, unscaled.div_euclid(unit), unscaled.rem_euclid(unit) == 0))
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{SessionConfig, SessionContext, col, lit};

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

    #[test]
    fn filters_bound_the_numbers() {
        let number = || col("number");
        let decimal = |value: i128| lit(ScalarValue::Decimal128(Some(value), 20, 1));
        for (filters, expected) in [
            (vec![], (0, NUMBERS_END)),
            (vec![number().lt(lit(10u64))], (0, 10)),
            (vec![number().lt_eq(lit(10i32)), number().gt(lit(-5i64))], (0, 11)),
            (vec![number().gt(lit(3u8)).and(lit(8u64).gt_eq(number()))], (4, 9)),
            (vec![number().eq(lit(7u64))], (7, 8)),
            (vec![number().lt(decimal(105)), number().gt(decimal(25))], (3, 11)),
            (vec![number().eq(decimal(105))], (11, 11)),
            (vec![number().lt(lit(0u64))], (0, 0)),
            (vec![number().gt(lit(9u64)), number().lt(lit(5u64))], (5, 5)),
            (vec![number().lt(lit(5u64)).or(number().gt(lit(9u64)))], (0, NUMBERS_END)),
            (vec![number().lt(lit(1e3))], (0, NUMBERS_END)),
        ] {
            assert_eq!(numbers_between(&filters), expected, "{filters:?}");
        }
    }
}
