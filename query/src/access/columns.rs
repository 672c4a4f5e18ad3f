//! The columns that a plan uses of tables on which only some may be read.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, TableReference};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::error::AccessError;
use super::privileges::Privilege;
use super::rights::Rights;

/// A table with a right on single columns only.
#[derive(Debug, Clone)]
pub struct Restricted {
    pub database: String,
    pub table: String,
}

/// Errs with the first column that a plan names and that may not be read. `plan` is as the planner made it, where every
/// column that the statement names or a `*` means stands in an expression.
///
/// A table is told by its name or alias; where one alias stands for two tables in different subqueries, both are held to
/// what may be read of either, which refuses rather more than less.
pub(crate) fn check_columns(
    rights: &Rights,
    restricted: &[Restricted],
    plan: &LogicalPlan,
) -> std::result::Result<(), AccessError> {
    for table in restricted {
        let Ok(used) = columns_of(table, plan) else {
            // A plan that cannot be walked could not be run either.
            return Err(rights.denied_table(Privilege::Select.name(), &table.table));
        };
        let may_not =
            |column: &&String| !rights.on_column(&table.database, &table.table, column).has(Privilege::Select);
        if let Some(column) = used.iter().find(may_not) {
            return Err(rights.denied_column(Privilege::Select.name(), column, &table.table));
        }
    }
    Ok(())
}

fn columns_of(table: &Restricted, plan: &LogicalPlan) -> Result<BTreeSet<String>> {
    let mut names: Vec<TableReference> = vec![];
    plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::TableScan(scan) if is_table(&scan.table_name, table) => names.push(scan.table_name.clone()),
            // A view's query stands under the view's name.
            LogicalPlan::SubqueryAlias(alias) if is_table(&alias.alias, table) || stands_for(&alias.input, table) => {
                names.push(alias.alias.clone());
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut used = BTreeSet::new();
    let mut note = |column: &Column| {
        if column.relation.as_ref().is_some_and(|it| names.iter().any(|name| name.resolved_eq(it))) {
            used.insert(column.name.clone());
        }
    };
    plan.apply_with_subqueries(|node| {
        // The scan itself names no column before the optimizer has been there.
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                match expr {
                    Expr::Column(column) | Expr::OuterReferenceColumn(_, column) => note(column),
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(used)
}

fn is_table(name: &TableReference, table: &Restricted) -> bool {
    name.table().eq_ignore_ascii_case(&table.table)
        && name.schema().is_none_or(|schema| schema.eq_ignore_ascii_case(&table.database))
}

/// Whether an alias is that of the table and not of a query over it, whose columns were named within.
fn stands_for(input: &LogicalPlan, table: &Restricted) -> bool {
    match input {
        LogicalPlan::TableScan(scan) => is_table(&scan.table_name, table),
        LogicalPlan::SubqueryAlias(alias) => is_table(&alias.alias, table) || stands_for(&alias.input, table),
        _ => false,
    }
}
