//! From a view to the plan of its query, which becomes a part of the query that names the view.
//!
//! The query is read anew each time, in the dialect and the database that it was written in, and by the rights of the
//! view's definer or of who asks.

use std::collections::HashMap;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Weak};

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, ResolvedTableReference};
use datafusion::datasource::ViewTable;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use parking_lot::Mutex;
use sheaf_common::{Classify, ErrorCode, WireError};
use sheaf_planners::PlanError;
use sheaf_planners::parser::on_big_stack;
use sheaf_planners::parser::view::query_of;

use super::{FoundTable, bind_over};
use crate::access::{Privilege, Rights, SessionRights};
use crate::catalog::views::ViewSecurity;
use crate::error::QueryError;
use crate::mysql_semantics::Rewrite;
use crate::session::Session;
use crate::tables::view::View;

/// Views within views.
const DEPTH_MAX: usize = 64;
/// Nodes of a view's plan: a view that names another twice, which names a third twice, doubles at each step.
const NODES_MAX: usize = 20_000;

/// The session that a statement's views are expanded for, as part of its DataFusion configuration, and what the statement
/// names. No lock of it is held over an await.
#[derive(Debug, Default)]
pub(crate) struct SessionViews {
    session: Weak<Session>,
    /// Database and name of views, those within views too.
    used: Mutex<Vec<(String, String)>>,
    /// What stands in the statement's own FROM clauses; of each whether it is a view.
    tables: Mutex<Vec<(ResolvedTableReference, bool)>>,
}

impl SessionViews {
    pub fn new(session: Weak<Session>) -> Self {
        Self { session, ..Self::default() }
    }

    /// Whether the statement names no table.
    pub fn is_empty(&self) -> bool {
        self.tables.lock().is_empty()
    }

    /// A table or view of the statement, as the catalog spells it.
    pub fn table(&self, name: &ResolvedTableReference) -> Option<ResolvedTableReference> {
        self.tables.lock().iter().find(|it| is_same(&it.0, name)).map(|it| it.0.clone())
    }

    pub fn is_view(&self, name: &ResolvedTableReference) -> bool {
        self.tables.lock().iter().any(|(table, is_view)| *is_view && is_same(table, name))
    }

    /// Errs unless the rights are enough to be told how the views were planned.
    pub fn need_explained(&self, rights: &Rights) -> Result<(), QueryError> {
        let hidden = |(database, name): &(String, String)| !rights.on_table(database, name).has(Privilege::ShowView);
        match self.used.lock().iter().any(hidden) {
            false => Ok(()),
            true => {
                let text = "EXPLAIN/SHOW can not be issued; lacking privileges for underlying table";
                Err(QueryError::Wire(WireError::new(ErrorCode::ViewNotExplained, text)))
            }
        }
    }
}

fn is_same(a: &ResolvedTableReference, b: &ResolvedTableReference) -> bool {
    a.table == b.table && a.schema.eq_ignore_ascii_case(&b.schema)
}

/// Remembers a table that the statement names, unless a view within it does.
pub(super) fn note(state: &SessionState, found: &FoundTable) {
    if state.config().get_extension::<Expanding>().is_none()
        && let Some(views) = state.config().get_extension::<SessionViews>()
    {
        views.tables.lock().push((found.reference.clone(), found.table.is::<View>()));
    }
}

/// The views that are being expanded, from the outermost on; part of the configuration of the inner ones.
#[derive(Debug, Clone, Default)]
struct Expanding(Vec<(String, String)>);

/// `state` for a statement that is about to make view `name`: its query cannot be made of the view itself.
pub(crate) fn defining(state: &SessionState, database: &str, name: &str) -> SessionState {
    let mut state = state.clone();
    state.config_mut().set_extension(Arc::new(Expanding(vec![(database.to_owned(), name.to_owned())])));
    state
}

/// What stands for a view in a plan.
pub(super) async fn expanded(state: &SessionState, view: &View) -> Result<Arc<dyn TableProvider>, QueryError> {
    Ok(Arc::new(ViewTable::new(plan(state, view).await?, None)))
}

/// The columns of a view as they are now.
///
/// Errs as a query of the view does.
pub(crate) async fn columns(state: &SessionState, view: &View) -> Result<SchemaRef, QueryError> {
    Ok(Arc::new(plan(state, view).await?.schema().as_arrow().clone()))
}

async fn plan(state: &SessionState, view: &View) -> Result<LogicalPlan, QueryError> {
    let mut expanding = state.config().get_extension::<Expanding>().map_or_else(Expanding::default, |it| (*it).clone());
    let this = (view.database.clone(), view.def.name.clone());
    if expanding.0.contains(&this) {
        let text = format!("'{}' contains view recursion", view.full_name());
        return Err(QueryError::Wire(WireError::new(ErrorCode::ViewRecursive, text)));
    }
    if expanding.0.len() >= DEPTH_MAX {
        return Err(PlanError::TooLarge(format!("more than {DEPTH_MAX} views within each other")).into());
    }
    expanding.0.push(this.clone());
    let views = state.config().get_extension::<SessionViews>();
    let session = views.as_ref().and_then(|it| it.session.upgrade());
    let (Some(views), Some(session)) = (views, session) else {
        return Err(QueryError::unsupported("a view outside a session"));
    };
    views.used.lock().push(this);
    let state = state_of(state, view, expanding)?;
    of_query(&session, &state, view).await.map_err(|error| broken(view, error))
}

/// The state that a view's query is planned in.
fn state_of(state: &SessionState, view: &View, expanding: Expanding) -> Result<SessionState, QueryError> {
    let mut inner = state.clone();
    let config = inner.config_mut();
    config.set_extension(Arc::new(expanding));
    config.options_mut().catalog.default_schema = view.def.database.clone().unwrap_or_default();
    // Who embeds the engine needs no rights and knows of no accounts.
    if view.def.security == ViewSecurity::Definer
        && let Some(session) = state.config().get_extension::<SessionRights>()
        && session.rights().account().is_some()
    {
        let definer = view.def.definer();
        let rights = match (view.def.is_embedders, session.accounts().get(&definer)) {
            (true, _) => Rights::all(),
            (false, Some(account)) => {
                let roles = account.default_roles.clone();
                Rights::of(session.accounts(), &definer, definer.clone(), &roles)
            }
            (false, None) => {
                let text = format!("the user specified as a definer ({definer}) does not exist");
                return Err(QueryError::Wire(WireError::new(ErrorCode::DefinerNotFound, text)));
            }
        };
        config.set_extension(Arc::new(session.of_definer(rights)));
    }
    Ok(inner)
}

/// The plan of the query, with the view's names for its columns. Boxed, for it may meet another view.
fn of_query<'a>(
    session: &'a Arc<Session>,
    state: &'a SessionState,
    view: &'a View,
) -> Pin<Box<dyn Future<Output = Result<LogicalPlan, QueryError>> + Send + 'a>> {
    Box::pin(async move {
        let dialect = view.def.dialect();
        let mut query = query_of(&view.def.query, dialect)?.query;
        let (is_mysql, pipes_as_concat) = (dialect.is_mysql(), view.def.pipes_as_concat);
        on_big_stack(|| {
            let rewrite = Rewrite { session: &**session, is_mysql, pipes_as_concat, parameters: Some(&[]) };
            rewrite.apply(query.as_mut())
        })?;
        let plan = bind_over(state, query, is_mysql, ready(Ok(())), &HashMap::new()).await?;
        on_big_stack(|| {
            check_size(&plan)?;
            named(plan, view)
        })
    })
}

fn check_size(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut n_nodes = 0;
    plan.apply_with_subqueries(|_| {
        n_nodes += 1;
        Ok(if n_nodes > NODES_MAX { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    match n_nodes > NODES_MAX {
        true => Err(PlanError::TooLarge("its views stand for too much".to_owned()).into()),
        false => Ok(()),
    }
}

fn named(plan: LogicalPlan, view: &View) -> Result<LogicalPlan, QueryError> {
    let names = view.def.columns.iter().map(|it| it.name.as_str());
    let n_columns = plan.schema().fields().len();
    if names.len() != n_columns {
        let text = format!("its query has {n_columns} columns, not {}", names.len());
        return Err(QueryError::Wire(WireError::new(ErrorCode::ViewColumnCount, text)));
    }
    let given = plan.schema().columns();
    let column = |(given, name): (Column, &str)| Expr::Column(given).alias(name);
    let exprs: Vec<Expr> = given.into_iter().zip(names).map(column).collect();
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

/// What a user of the view is told of what is wrong with its query: not what it is made of.
fn broken(view: &View, error: QueryError) -> QueryError {
    let is_broken = matches!(
        error.code(),
        ErrorCode::AccessDenied
            | ErrorCode::ColumnAccessDenied
            | ErrorCode::ColumnAmbiguous
            | ErrorCode::ColumnNotFound
            | ErrorCode::DatabaseAccessDenied
            | ErrorCode::DatabaseNotFound
            | ErrorCode::FunctionNotFound
            | ErrorCode::NoDatabaseSelected
            | ErrorCode::PrivilegeNeeded
            | ErrorCode::TableNotFound
            | ErrorCode::ViewColumnCount
            | ErrorCode::ViewInvalid
    );
    if !is_broken {
        return error;
    }
    let text = format!(
        "view '{}' references invalid table(s) or column(s) or function(s) or definer/invoker of view lack rights to use \
         them",
        view.full_name()
    );
    QueryError::Wire(WireError::new(ErrorCode::ViewInvalid, text))
}
