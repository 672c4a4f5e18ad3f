//! Names to tables and columns: a query's tree becomes a logical plan.
//!
//! MySQL does not tell `Name` from `NAME` in columns and aliases; the planner compares letter by letter. So every name
//! of a tree is first given one spelling: that of the column or table that it can mean, else small letters.

mod provider;
mod spelling;

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::common::ResolvedTableReference;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{LogicalPlan, TableSource};
use datafusion::sql::parser::Statement as DFStatement;
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, Query, SelectItem, SetExpr, Statement as SqlStatement, TableFactor, Visit, Visitor,
};
use sheaf_planners::parser::on_big_stack;

use crate::catalog::CATALOG;
use crate::error::QueryError;
use crate::tables::files::looks_like_path;
pub(crate) use provider::Provider;
use spelling::Spelling;

/// Where names that are files are looked up while no database is selected: its tables are always there.
const DATABASE_OF_FILES: &str = "system";

/// Plans a query whose variables and parameters have been settled.
///
/// `state` says which database is current, by its default schema; empty is none. Errs with what a name cannot mean.
pub async fn bind(state: &SessionState, mut query: Box<Query>, is_mysql: bool) -> Result<LogicalPlan, QueryError> {
    let names = on_big_stack(|| Relations::of(query.as_ref()));
    let mut tables: HashMap<ResolvedTableReference, Arc<dyn TableSource>> = HashMap::new();
    let mut spelling = Spelling::new(is_mysql);
    for name in &names.relations {
        let parts = name_parts(name)?;
        let is_cte = parts.len() == 1 && names.ctes.iter().any(|it| it.eq_ignore_ascii_case(&parts[0].value));
        let found = match find_table(state, &parts).await {
            Ok(found) => found,
            // What a WITH clause names need not exist elsewhere.
            Err(_) if is_cte => continue,
            Err(error) => return Err(error),
        };
        spelling.add_table(name, &found.reference, found.table.schema().as_ref());
        tables.insert(found.reference, provider_as_source(found.table));
    }
    on_big_stack(|| {
        spelling.apply(query.as_mut());
        let provider = Provider { state, tables };
        let mut options = ParserOptions::from(&state.config_options().sql_parser);
        options.enable_ident_normalization = false;
        let plan = |query: Box<Query>| {
            let planner = SqlToRel::new_with_options(&provider, options);
            planner.statement_to_plan(DFStatement::Statement(Box::new(SqlStatement::Query(query))))
        };
        if !is_mysql {
            return plan(query).map_err(QueryError::from);
        }
        match plan(query.clone()) {
            Err(error) if is_namesake(&error) => {
                part_columns(&mut query.body);
                plan(query).map_err(QueryError::from)
            }
            planned => planned.map_err(QueryError::from),
        }
    })
}

/// Whether the planner refused two columns that it would call by one name, as it does with `a` and `t.a`.
fn is_namesake(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::Plan(text) if text.contains("require unique expression names"))
}

/// Gives every column of a SELECT list that has no alias one of its own. A MySQL session's result is named by the
/// statement's text, whatever the plan calls its columns.
fn part_columns(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            for (idx, item) in select.projection.iter_mut().enumerate() {
                if let SelectItem::UnnamedExpr(expr) = item {
                    let alias = Ident::with_quote('`', format!("{expr} #{}", idx + 1));
                    let expr = std::mem::replace(expr, Expr::Identifier(Ident::new("")));
                    *item = SelectItem::ExprWithAlias { expr, alias };
                }
            }
        }
        SetExpr::Query(query) => part_columns(&mut query.body),
        SetExpr::SetOperation { left, .. } => part_columns(left),
        _ => {}
    }
}

/// A table and the name that it was found by.
pub struct FoundTable {
    pub reference: ResolvedTableReference,
    pub table: Arc<dyn TableProvider>,
}

/// Looks up `t`, `db.t` or `def.db.t`: letter by letter, then in small letters, then in any that fits alone.
pub async fn find_table(state: &SessionState, parts: &[Ident]) -> Result<FoundTable, QueryError> {
    let (database, table) = match parts {
        [table] => (None, table),
        [database, table] => (Some(&database.value), table),
        [_, database, table] => (Some(&database.value), table),
        _ => return Err(QueryError::InvalidArgument("a table's name has at most three parts".to_owned())),
    };
    let default = state.config_options().catalog.default_schema.as_str();
    let is_path = database.is_none() && looks_like_path(&table.value);
    let database = match database {
        Some(database) => database.as_str(),
        None if !default.is_empty() => default,
        None if is_path => DATABASE_OF_FILES,
        None => return Err(QueryError::NoDatabaseSelected),
    };
    let (database, schema) = find_database(state, database)?;
    let not_found = || QueryError::TableNotFound { database: database.clone(), table: table.value.clone() };
    let mut names = vec![table.value.clone()];
    let lower = table.value.to_lowercase();
    if lower != table.value && !is_path {
        names.push(lower);
    }
    for name in names {
        if let Some(table) = schema.table(&name).await? {
            let reference =
                ResolvedTableReference { catalog: CATALOG.into(), schema: database.into(), table: name.into() };
            return Ok(FoundTable { reference, table });
        }
    }
    if is_path {
        return Err(not_found());
    }
    let mut alike = schema.table_names();
    alike.retain(|it| it.eq_ignore_ascii_case(&table.value));
    match <[String; 1]>::try_from(alike) {
        Ok([name]) => match schema.table(&name).await? {
            Some(table) => {
                let reference =
                    ResolvedTableReference { catalog: CATALOG.into(), schema: database.into(), table: name.into() };
                Ok(FoundTable { reference, table })
            }
            None => Err(not_found()),
        },
        Err(_) => Err(not_found()),
    }
}

/// A database by its name, in any letters if that fits alone, and how it is spelled.
pub fn find_database(state: &SessionState, name: &str) -> Result<(String, Arc<dyn SchemaProvider>), QueryError> {
    let not_found = || QueryError::DatabaseNotFound { name: name.to_owned() };
    let catalog = state.catalog_list().catalog(CATALOG).ok_or_else(not_found)?;
    if let Some(schema) = catalog.schema(name) {
        return Ok((name.to_owned(), schema));
    }
    let mut alike = catalog.schema_names();
    alike.retain(|it| it.eq_ignore_ascii_case(name));
    match <[String; 1]>::try_from(alike) {
        Ok([name]) => {
            let schema = catalog.schema(&name).ok_or_else(not_found)?;
            Ok((name, schema))
        }
        Err(_) => Err(not_found()),
    }
}

/// The parts of a name as identifiers.
pub fn name_parts(name: &ObjectName) -> Result<Vec<Ident>, QueryError> {
    let part = |it: &datafusion::sql::sqlparser::ast::ObjectNamePart| {
        it.as_ident().cloned().ok_or_else(|| QueryError::unsupported(format!("the name {name}")))
    };
    name.0.iter().map(part).collect()
}

/// What a query's FROM clauses name, and what its WITH clauses do.
#[derive(Default)]
struct Relations {
    relations: Vec<ObjectName>,
    ctes: BTreeSet<String>,
}

impl Relations {
    fn of(query: &Query) -> Self {
        let mut relations = Self::default();
        let ControlFlow::Continue(()) = query.visit(&mut relations);
        relations
    }

    fn add(&mut self, name: &ObjectName) {
        if !self.relations.contains(name) {
            self.relations.push(name.clone());
        }
    }
}

impl Visitor for Relations {
    type Break = std::convert::Infallible;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        let ctes = query.with.iter().flat_map(|it| &it.cte_tables);
        self.ctes.extend(ctes.map(|it| it.alias.name.value.clone()));
        if let SetExpr::Table(table) = query.body.as_ref() {
            let parts = [&table.schema_name, &table.table_name].into_iter().flatten();
            self.add(&ObjectName::from(parts.map(|it| Ident::with_quote('`', it)).collect::<Vec<_>>()));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::Table { name, args: None, .. } = factor {
            self.add(name);
        }
        ControlFlow::Continue(())
    }
}
