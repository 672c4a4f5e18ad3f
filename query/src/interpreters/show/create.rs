//! `SHOW CREATE`: for MySQL's clients in the layout that they take apart, for others as a statement that can be run.

use datafusion::sql::sqlparser::ast::Ident;

use super::catalog_error;
use crate::answer::Answer;
use crate::binder::find_table;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::interpreters::describe::column_definition;
use crate::interpreters::rows::Rows;
use crate::session::Session;

pub(super) async fn table(session: &Session, context: &QueryContext, parts: &[Ident]) -> Result<Answer, QueryError> {
    let found = find_table(&context.session_state, parts).await?;
    let info = session.engine().catalog().table(&found.reference.schema, &found.reference.table).ok();
    let def = info.as_ref().and_then(|it| it.def.as_ref());
    let statement = match def {
        Some(def) if !session.is_mysql() => def.create_statement(),
        _ => {
            let schema = found.table.schema();
            let lines: Vec<String> = schema.fields().iter().map(|it| column_definition(it)).collect();
            let engine = info.as_ref().map_or("SHEAF", |it| it.engine);
            let comment = match def {
                Some(def) => format!(" COMMENT='{}'", def.create_statement().replace('\'', "''")),
                None => String::new(),
            };
            let name = found.reference.table.replace('`', "``");
            let columns = lines.join(",\n");
            format!("CREATE TABLE `{name}` (\n{columns}\n) ENGINE={engine} DEFAULT CHARSET=utf8mb4{comment}")
        }
    };
    let mut rows = Rows::new(&["Table", "Create Table"]);
    rows.push(vec![Some(found.reference.table.to_string()), Some(statement)]);
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
