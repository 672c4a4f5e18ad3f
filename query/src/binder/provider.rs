//! What DataFusion's SQL planner may ask: the tables that were found before, everything else from the session.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableFunctionArgs;
use datafusion::common::config::ConfigOptions;
use datafusion::common::file_options::file_type::FileType;
use datafusion::common::{DFSchema, ResolvedTableReference, TableReference};
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::planner::{ExprPlanner, RelationPlanner, TypePlanner};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{AggregateUDF, Expr, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::planner::ContextProvider;
use sheaf_common::{ErrorCode, WireError};

use crate::access::{Privilege, SessionRights};
use crate::catalog::CATALOG;
use crate::error::QueryError;
use crate::functions::{mysql, reads_nothing};

pub(crate) struct Provider<'a> {
    pub state: &'a SessionState,
    /// Asked about operators and the like, in this order.
    pub planners: Vec<Arc<dyn ExprPlanner>>,
    pub tables: HashMap<ResolvedTableReference, Arc<dyn TableSource>>,
}

impl<'a> Provider<'a> {
    /// For one statement of a session, which may be one that speaks MySQL.
    pub fn new(
        state: &'a SessionState,
        tables: HashMap<ResolvedTableReference, Arc<dyn TableSource>>,
        is_mysql: bool,
    ) -> Self {
        let own: Option<Arc<dyn ExprPlanner>> = is_mysql.then(|| Arc::new(mysql::MySqlOperators) as _);
        // Ours first: the session's know nothing of MySQL.
        let planners = own.into_iter().chain(state.expr_planners().iter().cloned()).collect();
        Self { state, planners, tables }
    }
}

impl ContextProvider for Provider<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        let name = name.resolve(CATALOG, &self.state.config_options().catalog.default_schema);
        let by_name = || {
            // A name that was found in another database, or under another spelling of its database.
            let mut alike = self.tables.iter().filter(|(it, _)| {
                it.table == name.table && (it.schema.eq_ignore_ascii_case(&name.schema) || name.schema.is_empty())
            });
            alike.next().map(|(_, source)| source)
        };
        self.tables.get(&name).or_else(by_name).cloned().ok_or_else(|| {
            let database = name.schema.to_string();
            DataFusionError::from(QueryError::TableNotFound { database, table: name.table.to_string() })
        })
    }

    fn get_table_function_source(&self, name: &str, args: Vec<Expr>) -> Result<Arc<dyn TableSource>> {
        let Some(function) = self.state.table_functions().get(&name.to_lowercase()) else {
            let error = WireError::new(ErrorCode::FunctionNotFound, format!("table function '{name}' does not exist"));
            return Err(DataFusionError::External(Box::new(error)));
        };
        if !reads_nothing(name)
            && let Some(rights) = self.state.config().get_extension::<SessionRights>()
        {
            rights.need(&[Privilege::File]).map_err(QueryError::from)?;
        }
        // Arguments are constants; `numbers(10 * 10)` is one number to the function.
        let context = SimplifyContext::builder()
            .with_config_options(Arc::clone(self.state.config_options()))
            .with_query_execution_start_time(self.state.execution_props().query_execution_start_time)
            .build();
        let simplifier = ExprSimplifier::new(context);
        let schema = DFSchema::empty();
        let constant = |arg| simplifier.coerce(arg, &schema).and_then(|it| simplifier.simplify(it));
        let args = args.into_iter().map(constant).collect::<Result<Vec<_>>>()?;
        let table = function.create_table_provider_with_args(TableFunctionArgs::new(&args, self.state))?;
        Ok(provider_as_source(table))
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> Result<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_file_type(&self, extension: &str) -> Result<Arc<dyn FileType>> {
        Err(DataFusionError::NotImplemented(format!("writing files of type {extension:?}")))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        self.state.relation_planners()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        None
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    // Variables were replaced by their values before.
    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        // Not offered as what a client may have meant: it is ours alone.
        let is_public = |it: &&String| !it.starts_with("sheaf_") && !it.starts_with(mysql::PREFIX);
        self.state.scalar_functions().keys().filter(is_public).cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.state.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}
