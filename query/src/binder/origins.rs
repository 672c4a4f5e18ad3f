//! Which table's column each column of a result is: clients show it beside their grids, and write edits back by it.
//!
//! It travels as metadata of the fields that a client sees, under Flight SQL's names where that has one. Nothing else
//! carries it: plans and batches are without.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::{JoinType, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};
use sheaf_planners::parser::{VersionClause, on_big_stack};

use super::views::SessionViews;

/// The database that the column's table is in.
pub const DATABASE: &str = "ARROW:FLIGHT:SQL:SCHEMA_NAME";
/// The table, by its own name.
pub const TABLE: &str = "ARROW:FLIGHT:SQL:TABLE_NAME";
/// The table, as the statement calls it.
pub const ALIAS: &str = "SHEAF:TABLE_ALIAS";
/// The column, by its own name.
pub const COLUMN: &str = "SHEAF:COLUMN_NAME";

#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    database: String,
    table: String,
    alias: String,
    column: String,
}

/// The origins of a plan's columns, in their order; none at all where the plan reads no table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origins(Arc<[Option<Origin>]>);

impl Origins {
    /// `plan` is as the binder made it.
    pub fn of(state: &SessionState, plan: &LogicalPlan) -> Self {
        let Some(tables) = state.config().get_extension::<SessionViews>() else { return Self::default() };
        if tables.is_empty() {
            return Self::default();
        }
        let default = state.config_options().catalog.default_schema.as_str();
        let tracer = Tracer { tables: &tables, default };
        let n_columns = plan.schema().fields().len();
        Self(on_big_stack(|| (0..n_columns).map(|idx| tracer.trace(plan, idx)).collect()))
    }

    /// `schema` with the origin of each column that has one, if it has as many columns.
    pub fn on(&self, schema: SchemaRef) -> SchemaRef {
        if self.0.len() != schema.fields().len() || self.0.iter().all(Option::is_none) {
            return schema;
        }
        let field = |(field, origin): (&FieldRef, &Option<Origin>)| match origin {
            None => Arc::clone(field),
            Some(it) => {
                let metadata = [(DATABASE, &it.database), (TABLE, &it.table), (ALIAS, &it.alias), (COLUMN, &it.column)];
                let metadata: HashMap<_, _> = metadata.map(|(name, value)| (name.to_owned(), value.clone())).into();
                Arc::new(field.as_ref().clone().with_metadata(metadata))
            }
        };
        let fields: Vec<_> = schema.fields().iter().zip(self.0.iter()).map(field).collect();
        Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
    }
}

struct Tracer<'a> {
    tables: &'a SessionViews,
    default: &'a str,
}

impl Tracer<'_> {
    /// Where column `idx` of a plan comes from; none if it is computed.
    fn trace(&self, plan: &LogicalPlan, idx: usize) -> Option<Origin> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let column = scan.projected_schema.fields().get(idx)?.name().clone();
                self.named(&scan.table_name, column)
            }
            LogicalPlan::SubqueryAlias(alias) => {
                // A view hides what it is made of.
                if self.tables.is_view(&alias.alias.clone().resolve("", self.default)) {
                    return self.named(&alias.alias, alias.schema.field(idx).name().clone());
                }
                let origin = self.trace(&alias.input, idx)?;
                Some(Origin { alias: alias.alias.table().to_owned(), ..origin })
            }
            LogicalPlan::Projection(projection) => self.expr(&projection.input, projection.expr.get(idx)?),
            LogicalPlan::Aggregate(aggregate) => self.expr(&aggregate.input, aggregate.group_expr.get(idx)?),
            LogicalPlan::Filter(filter) => self.trace(&filter.input, idx),
            LogicalPlan::Sort(sort) => self.trace(&sort.input, idx),
            LogicalPlan::Limit(limit) => self.trace(&limit.input, idx),
            LogicalPlan::Distinct(Distinct::All(input)) => self.trace(input, idx),
            LogicalPlan::Window(window) if idx < window.input.schema().fields().len() => self.trace(&window.input, idx),
            LogicalPlan::Join(join) => {
                let n_left = join.left.schema().fields().len();
                match join.join_type {
                    JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => self.trace(&join.right, idx),
                    _ if idx < n_left => self.trace(&join.left, idx),
                    JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
                        self.trace(&join.right, idx - n_left)
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn expr(&self, input: &LogicalPlan, expr: &Expr) -> Option<Origin> {
        match expr {
            Expr::Column(column) => self.trace(input, input.schema().maybe_index_of_column(column)?),
            Expr::Alias(alias) => self.expr(input, &alias.expr),
            _ => None,
        }
    }

    /// A table that the statement names. Functions in FROM are none.
    fn named(&self, name: &TableReference, column: String) -> Option<Origin> {
        let name = name.clone().resolve("", self.default);
        let table = self.tables.table(&name)?;
        let own = VersionClause::split(&table.table).0.to_owned();
        let alias = VersionClause::split(&name.table).0.to_owned();
        Some(Origin { database: table.schema.to_string(), table: own, alias, column })
    }
}
