//! Names to tables and columns: a query's tree becomes a logical plan.
//!
//! MySQL does not tell `Name` from `NAME` in columns and aliases; the planner compares letter by letter. So every name
//! of a tree is first given one spelling: that of the column or table that it can mean, else small letters.

mod lists;
pub mod origins;
mod provider;
mod spelling;
pub(crate) mod views;

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::common::{ResolvedTableReference, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{LogicalPlan, TableSource};
use datafusion::sql::parser::Statement as DFStatement;
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, ObjectNamePart, Query, SelectItem, SetExpr, Statement as SqlStatement, TableAlias,
    TableFactor, Visit, VisitMut, Visitor, VisitorMut,
};
use sheaf_planners::parser::{VersionClause, on_big_stack};

use crate::access::{Privilege, Restricted, Rights, SessionRights, check_columns};
use crate::catalog::CATALOG;
use crate::error::QueryError;
use crate::functions::reads_nothing;
use crate::system;
use crate::tables::delta::{self, AsOf, DeltaTable};
use crate::tables::files::looks_like_path;
use crate::tables::view::View;
use crate::tables::{TableError, wire};
pub(crate) use provider::Provider;
use spelling::Spelling;

/// Where names that are files are looked up while no database is selected: its tables are always there.
const DATABASE_OF_FILES: &str = "system";

/// Plans a query whose variables and parameters have been settled.
///
/// `state` says which database is current, by its default schema; empty is none. `caught_up` is waited for if the query
/// names tables at all, or reads files. Errs with what a name cannot mean.
pub async fn bind(
    state: &SessionState,
    query: Box<Query>,
    is_mysql: bool,
    caught_up: impl Future<Output = Result<(), QueryError>>,
) -> Result<LogicalPlan, QueryError> {
    bind_over(state, query, is_mysql, caught_up, &HashMap::new()).await
}

/// The same, where some names without a database stand for given tables.
pub async fn bind_over(
    state: &SessionState,
    mut query: Box<Query>,
    is_mysql: bool,
    caught_up: impl Future<Output = Result<(), QueryError>>,
    given: &HashMap<String, Arc<dyn TableProvider>>,
) -> Result<LogicalPlan, QueryError> {
    let names = on_big_stack(|| {
        let ControlFlow::Continue(()) = VisitMut::visit(query.as_mut(), &mut Versions);
        Relations::of(query.as_ref())
    });
    if !names.relations.is_empty() || names.reads_files {
        caught_up.await?;
    }
    let mut tables: HashMap<ResolvedTableReference, Arc<dyn TableSource>> = HashMap::new();
    let mut spelling = Spelling::new(is_mysql);
    let rights = rights_of(state);
    let mut restricted = vec![];
    for name in &names.relations {
        let parts = name_parts(name)?;
        let is_cte = parts.len() == 1 && names.ctes.iter().any(|it| it.eq_ignore_ascii_case(&parts[0].value));
        if let ([part], true) = (parts.as_slice(), !given.is_empty())
            && let Some(table) = given.get(&part.value)
        {
            let schema = state.config_options().catalog.default_schema.as_str();
            let reference = ResolvedTableReference {
                catalog: CATALOG.into(),
                schema: schema.into(),
                table: part.value.as_str().into(),
            };
            spelling.add_table(name, &reference, table.schema().as_ref());
            tables.insert(reference, provider_as_source(Arc::clone(table)));
            continue;
        }
        let is_path = !is_cte && is_path(state, &parts);
        if is_path {
            // Before the file is looked for: whether it is there is told to nobody else.
            rights.need(&[Privilege::File])?;
        }
        let found = match find_table(state, &parts).await {
            Ok(found) => found,
            // What a WITH clause names need not exist elsewhere.
            Err(_) if is_cte => continue,
            Err(error) => return Err(hidden(&rights, error)),
        };
        match may_read(&rights, &found) {
            _ if is_path => {}
            Ok(None) => {}
            Ok(Some(table)) => restricted.push(table),
            // The name means what the WITH clause calls so.
            Err(_) if is_cte => continue,
            Err(error) => return Err(error),
        }
        views::note(state, &found);
        let table = match found.table.downcast_ref::<View>() {
            Some(view) => match views::expanded(state, view).await {
                Ok(table) => table,
                Err(_) if is_cte => continue,
                Err(error) => return Err(error),
            },
            None => found.table,
        };
        spelling.add_table(name, &found.reference, table.schema().as_ref());
        tables.insert(found.reference, provider_as_source(table));
    }
    let plan = on_big_stack(|| {
        spelling.apply(query.as_mut());
        let provider = Provider::new(state, tables, is_mysql);
        let mut options = ParserOptions::from(&state.config_options().sql_parser);
        options.enable_ident_normalization = false;
        let plan = |query: Box<Query>| {
            let planner = SqlToRel::new_with_options(&provider, options);
            planner.statement_to_plan(DFStatement::Statement(Box::new(SqlStatement::Query(query))))
        };
        if !is_mysql {
            return plan(query).map_err(QueryError::from);
        }
        let plan = match plan(query.clone()) {
            Err(error) if is_namesake(&error) => {
                part_columns(&mut query.body);
                plan(query)?
            }
            planned => planned?,
        };
        Ok::<_, QueryError>(lists::with_comparable_lists(plan)?)
    })?;
    on_big_stack(|| check_columns(&rights, &restricted, &plan))?;
    Ok(plan)
}

/// The names in a query's FROM clauses, those of its WITH clauses included. Recurses: call it where the stack grows.
pub(crate) fn named_relations(query: &Query) -> Vec<ObjectName> {
    Relations::of(query).relations
}

/// How long a query may wait for what other coordinators acknowledged, if it names nothing but tables that show the
/// cluster itself: see [`system::wait_to_show`]. Recurses: call it where the stack grows.
pub(crate) fn wait_to_show(query: &Query, database: &str) -> Option<Duration> {
    let names = Relations::of(query);
    let is_cte = |parts: &[ObjectNamePart]| match parts {
        [ObjectNamePart::Identifier(name)] => names.ctes.iter().any(|it| it.eq_ignore_ascii_case(&name.value)),
        _ => false,
    };
    let wait = |name: &ObjectName| match name.0.as_slice() {
        [.., ObjectNamePart::Identifier(database), ObjectNamePart::Identifier(table)] => {
            system::wait_to_show(&database.value, &table.value)
        }
        [ObjectNamePart::Identifier(table)] => system::wait_to_show(database, &table.value),
        _ => None,
    };
    let named = names.relations.iter().filter(|it| !is_cte(&it.0));
    let longest = named.map(wait).try_fold(Duration::ZERO, |longest, wait| Some(longest.max(wait?)))?;
    (!names.reads_files).then_some(longest)
}

fn rights_of(state: &SessionState) -> Arc<Rights> {
    let rights = state.config().get_extension::<SessionRights>();
    rights.map_or_else(|| Arc::new(Rights::all()), |it| Arc::clone(it.rights()))
}

/// Whether a name means files and not a table that is called so.
pub(crate) fn is_path(state: &SessionState, parts: &[Ident]) -> bool {
    let Some((table, before)) = parts.split_last() else { return false };
    let default = state.config_options().catalog.default_schema.as_str();
    let database = before.last().map_or(default, |it| it.value.as_str());
    let (table, _) = VersionClause::split(&table.value);
    let is_named = || find_database(state, database).is_ok_and(|(_, schema)| schema.table_exist(table));
    looks_like_path(table) && !is_named()
}

/// Whether a table may be read; the table itself where only some of its columns may.
fn may_read(rights: &Rights, found: &FoundTable) -> Result<Option<Restricted>, QueryError> {
    let (database, named) = (&*found.reference.schema, &*found.reference.table);
    // A version of a table is read by the right to the table.
    let (table, version) = VersionClause::split(named);
    let select = Privilege::Select;
    if rights.on_table(database, table).has(select) {
        return Ok(None);
    }
    // Columns are told by the table's own name; an older version may have others besides.
    match version.is_none() && rights.on_any_column(database, table).has(select) {
        true => Ok(Some(Restricted { database: database.to_owned(), table: table.to_owned() })),
        false => Err(rights.denied_table(select.name(), table).into()),
    }
}

/// What somebody is told of a table that was not found: nothing, if it might not be read either.
fn hidden(rights: &Rights, error: QueryError) -> QueryError {
    let select = Privilege::Select.name();
    match &error {
        QueryError::TableNotFound { database, table } if !rights.sees_table(database, table) => {
            rights.denied_table(select, table).into()
        }
        QueryError::DatabaseNotFound { name } if !rights.sees_database(name) => rights.denied_database(name).into(),
        _ => error,
    }
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

/// Looks up `t`, `db.t` or `def.db.t`, with a version behind it or without; a query sees one version of it throughout.
pub async fn find_table(state: &SessionState, parts: &[Ident]) -> Result<FoundTable, QueryError> {
    let mut parts = parts.to_vec();
    let mut clause = None;
    if let Some(last) = parts.last_mut() {
        let (table, version) = VersionClause::split(&last.value);
        (last.value, clause) = (table.to_owned(), version);
    }
    let FoundTable { reference, table } = find_newest(state, &parts).await?;
    let failed = |error: TableError| QueryError::Wire(wire(&error));
    let Some(clause) = clause else {
        let table = delta::pinned(state, table).await.map_err(failed)?;
        return Ok(FoundTable { reference, table });
    };
    let Some(versioned) = table.downcast_ref::<DeltaTable>() else {
        let what = format!("{}.{}{clause}: it is not a Delta table, and so", reference.schema, reference.table);
        return Err(QueryError::unsupported(what));
    };
    let versioned = versioned.as_of(&as_of(state, &clause)?).await.map_err(failed)?;
    let name = format!("{}{clause}", reference.table);
    let reference = ResolvedTableReference { table: name.into(), ..reference };
    Ok(FoundTable { reference, table: Arc::new(versioned) })
}

/// A time is one of the session's time zone, unless it names its own.
fn as_of(state: &SessionState, clause: &VersionClause) -> Result<AsOf, QueryError> {
    let text = match clause {
        VersionClause::Version(version) => return Ok(AsOf::Version(*version)),
        VersionClause::Timestamp(text) => text,
    };
    let zone = state.config_options().execution.time_zone.as_deref().unwrap_or("UTC");
    let in_zone = DataType::Timestamp(TimeUnit::Millisecond, Some(zone.into()));
    match ScalarValue::try_from_string(text.clone(), &in_zone) {
        Ok(ScalarValue::TimestampMillisecond(Some(at), _)) => Ok(AsOf::Timestamp(at)),
        _ => Err(QueryError::InvalidArgument(format!("'{text}' is not a time, such as '2024-01-31 12:00:00'"))),
    }
}

/// Letter by letter, then in small letters, then in any that fits alone.
async fn find_newest(state: &SessionState, parts: &[Ident]) -> Result<FoundTable, QueryError> {
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
    let part =
        |it: &ObjectNamePart| it.as_ident().cloned().ok_or_else(|| QueryError::unsupported(format!("the name {name}")));
    name.0.iter().map(part).collect()
}

/// Lets a table of a version be called by its name alone, as the table itself can.
struct Versions;

impl VisitorMut for Versions {
    type Break = std::convert::Infallible;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::Table { name, alias: alias @ None, .. } = factor
            && let Some(ObjectNamePart::Identifier(ident)) = name.0.last()
            && let (table, Some(_)) = VersionClause::split(&ident.value)
        {
            let name = Ident { value: table.to_owned(), ..ident.clone() };
            *alias = Some(TableAlias { explicit: true, name, columns: vec![], at: None });
        }
        ControlFlow::Continue(())
    }
}

/// What a query's FROM clauses name, and what its WITH clauses do.
#[derive(Default)]
struct Relations {
    relations: Vec<ObjectName>,
    ctes: BTreeSet<String>,
    /// By a function, which needs a right of its own.
    reads_files: bool,
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
        match factor {
            TableFactor::Table { name, args: None, .. } => self.add(name),
            TableFactor::Table { name, .. } => {
                let function = name.0.last().and_then(|it| it.as_ident()).map_or("", |it| it.value.as_str());
                self.reads_files |= !reads_nothing(function);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
