//! `SHOW CREATE`: for MySQL's clients in the layout that they take apart, for others as a statement that can be run.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::sql::sqlparser::ast::Ident;

use super::catalog_error;
use crate::access::Privilege;
use crate::answer::Answer;
use crate::binder::find_table;
use crate::catalog::{CatalogError, TableSource};
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::interpreters::describe::column_definition;
use crate::interpreters::rows::Rows;
use crate::session::Session;
use crate::tables::view::View;

pub(super) async fn table(session: &Session, context: &QueryContext, parts: &[Ident]) -> Result<Answer, QueryError> {
    let found = find_table(&context.session_state, parts).await?;
    if let Some(view) = found.table.downcast_ref::<View>() {
        context.rights.need_on_table(Privilege::ShowView, &view.database, &view.def.name)?;
        return view_answer(view);
    }
    let info = session.engine().catalog().table(&found.reference.schema, &found.reference.table).ok();
    let def = info.as_ref().and_then(|it| it.def.as_ref());
    let statement = match def {
        Some(def) if !session.is_mysql() => def.create_statement(),
        _ => {
            let schema = found.table.schema();
            let managed = def.and_then(|it| match &it.source {
                TableSource::Managed(managed) => Some(managed),
                TableSource::Files(_) => None,
            });
            let column = |it: &Arc<Field>| column_definition(it, managed.and_then(|managed| managed.column(it.name())));
            let mut lines: Vec<String> = schema.fields().iter().map(column).collect();
            for (name, condition) in managed.iter().flat_map(|it| &it.checks) {
                lines.push(format!("  CONSTRAINT `{}` CHECK ({condition})", name.replace('`', "``")));
            }
            let engine = info.as_ref().map_or("SHEAF", |it| it.engine);
            let comment = match (def, managed) {
                (_, Some(managed)) => managed.comment.clone(),
                (Some(def), None) => Some(def.create_statement()),
                (None, None) => None,
            };
            let comment = comment.map(|it| format!(" COMMENT='{}'", it.replace('\'', "''"))).unwrap_or_default();
            let name = found.reference.table.replace('`', "``");
            let columns = lines.join(",\n");
            format!("CREATE TABLE `{name}` (\n{columns}\n) ENGINE={engine} DEFAULT CHARSET=utf8mb4{comment}")
        }
    };
    let mut rows = Rows::new(&["Table", "Create Table"]);
    rows.push(vec![Some(found.reference.table.to_string()), Some(statement)]);
    rows.answer()
}

pub(super) async fn view(context: &QueryContext, parts: &[Ident]) -> Result<Answer, QueryError> {
    let found = find_table(&context.session_state, parts).await?;
    match found.table.downcast_ref::<View>() {
        Some(view) => view_answer(view),
        None => {
            let (database, table) = (found.reference.schema.to_string(), found.reference.table.to_string());
            Err(catalog_error(CatalogError::NotView { database, table }))
        }
    }
}

fn view_answer(view: &View) -> Result<Answer, QueryError> {
    let mut rows = Rows::new(&["View", "Create View", "character_set_client", "collation_connection"]);
    let text = |it: &str| Some(it.to_owned());
    let statement = view.def.create_statement();
    rows.push(vec![text(&view.def.name), Some(statement), text("utf8mb4"), text("utf8mb4_0900_ai_ci")]);
    rows.answer()
}

pub(super) fn database(session: &Session, name: &str) -> Result<Answer, QueryError> {
    let catalog = session.engine().catalog();
    let name = catalog.database_name(name).map_err(catalog_error)?;
    let engine = catalog.databases().into_iter().find(|it| it.name == name).map(|it| it.engine);
    let quoted = name.replace('`', "``");
    let statement = match engine.as_deref() {
        Some(engine) if engine.starts_with("TPCH") => format!("CREATE DATABASE `{quoted}` ENGINE = {engine}"),
        _ => format!("CREATE DATABASE `{quoted}` /*!40100 DEFAULT CHARACTER SET utf8mb4 */"),
    };
    let mut rows = Rows::new(&["Database", "Create Database"]);
    rows.push(vec![Some(name), Some(statement)]);
    rows.answer()
}
