//! Keeps filters where they are when columns of one name could be taken for one another.
//!
//! DataFusion 55's `ProjectionExec` finds the column that a filter is about by its name. Under a projection with two
//! columns `id`, as a join of two tables has it, a filter about the one is pushed into the scan of the other, and rows
//! are lost. Where that can happen, filters are not pushed through physical plans at all; the logical optimizer has
//! pushed most of them before.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;

/// What every rule that pushes filters is called, its phase behind it.
const PUSHES_FILTERS: &str = "FilterPushdown";

type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// The rules, those that push filters for plans only in which they do it well.
pub fn guarded(rules: Vec<Rule>) -> Vec<Rule> {
    let guard = |rule: Rule| match rule.name().starts_with(PUSHES_FILTERS) {
        true => Arc::new(WithoutNamesakes(rule)) as Rule,
        false => rule,
    };
    rules.into_iter().map(guard).collect()
}

#[derive(Debug)]
struct WithoutNamesakes(Rule);

impl PhysicalOptimizerRule for WithoutNamesakes {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if has_namesakes(&plan)? { Ok(plan) } else { self.0.optimize(plan, config) }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// Whether a filter, or what makes filters while it runs, names a column that a projection has twice.
fn has_namesakes(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let (mut doubled, mut named) = (HashSet::new(), HashSet::new());
    plan.apply(|node| {
        if node.is::<ProjectionExec>() {
            let mut seen = HashSet::new();
            let schema = node.schema();
            let twice = schema.fields().iter().filter(|field| !seen.insert(field.name().as_str()));
            doubled.extend(twice.map(|field| field.name().clone()));
        }
        let mut name = |expr: &Arc<dyn PhysicalExpr>| {
            named.extend(collect_columns(expr).into_iter().map(|column| column.name().to_owned()));
        };
        if let Some(filter) = node.downcast_ref::<FilterExec>() {
            name(filter.predicate());
        } else if let Some(join) = node.downcast_ref::<HashJoinExec>() {
            join.on().iter().for_each(|(left, right)| [left, right].into_iter().for_each(&mut name));
        } else if let Some(sort) = node.downcast_ref::<SortExec>() {
            sort.expr().iter().for_each(|it| name(&it.expr));
        } else if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
            aggregate.aggr_expr().iter().flat_map(|it| it.expressions()).for_each(|it| name(&it));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(!doubled.is_disjoint(&named))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::ScalarValue;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{binary, col, lit};
    use datafusion::physical_plan::empty::EmptyExec;

    use super::*;

    /// A filter about `id` over a projection of `columns`.
    fn check(columns: &[(&str, &str)], expected: bool) {
        let schema =
            Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("other", DataType::Int64, true)]);
        let empty = Arc::new(EmptyExec::new(Arc::new(schema.clone())));
        let exprs: Vec<_> = columns.iter().map(|(from, to)| (col(from, &schema).unwrap(), (*to).to_owned())).collect();
        let projection: Arc<dyn ExecutionPlan> = Arc::new(ProjectionExec::try_new(exprs, empty).unwrap());
        let out = projection.schema();
        let id = col("id", &out).unwrap();
        let predicate = binary(id, Operator::Lt, lit(ScalarValue::Int64(Some(5))), &out).unwrap();
        let plan: Arc<dyn ExecutionPlan> = Arc::new(FilterExec::try_new(predicate, projection).unwrap());
        assert_eq!(has_namesakes(&plan).unwrap(), expected, "{columns:?}");
    }

    #[test]
    fn only_doubled_names_that_are_filtered_by_count() {
        check(&[("id", "id"), ("other", "other")], false);
        check(&[("id", "id"), ("other", "id")], true);
        check(&[("id", "id"), ("other", "x"), ("other", "x")], false);
    }
}
