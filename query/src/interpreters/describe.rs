//! `DESCRIBE t` and `SHOW COLUMNS`: a table's columns in MySQL's words.

use arrow::datatypes::{DataType, Field};
use datafusion::sql::sqlparser::ast::{Ident, ObjectName};

use super::rows::{self, Rows};
use crate::access::{Level, Privileges};
use crate::answer::Answer;
use crate::binder::{find_table, name_parts, views};
use crate::catalog::TableSource;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::managed::definition::ManagedColumn;
use crate::tables::mysql_types::mysql_type;
use crate::tables::view::View;

pub(super) async fn run(
    context: &QueryContext,
    table: &ObjectName,
    column: Option<&str>,
) -> Result<Answer, QueryError> {
    let mut rows = columns(context, &name_parts(table)?, false).await?;
    if let Some(column) = column {
        rows.retain(|row| row[0].as_deref().is_some_and(|it| rows::is_like(column, it)));
    }
    rows.answer()
}

/// A table's columns; with `full`, what only `SHOW FULL COLUMNS` shows as well.
pub(super) async fn columns(context: &QueryContext, parts: &[Ident], full: bool) -> Result<Rows, QueryError> {
    let found = find_table(&context.session_state, parts).await?;
    let names: &[&str] = match full {
        true => &["Field", "Type", "Collation", "Null", "Key", "Default", "Extra", "Privileges", "Comment"],
        false => &["Field", "Type", "Null", "Key", "Default", "Extra"],
    };
    let mut rows = Rows::new(names);
    let (database, table) = (&found.reference.schema, &found.reference.table);
    let schema = match found.table.downcast_ref::<View>() {
        Some(view) => views::columns(&context.session_state, view).await?,
        None => found.table.schema(),
    };
    let info = context.engine.catalog().table(database, table).ok();
    let managed = info.as_ref().and_then(|it| it.def.as_ref()).and_then(|it| match &it.source {
        TableSource::Managed(managed) => Some(managed),
        TableSource::Files(_) => None,
    });
    for field in schema.fields() {
        let on_column = context.rights.on_column(database, table, field.name());
        if on_column.is_global_only() {
            continue;
        }
        let of_columns = on_column & Privileges::all_of(Level::Column);
        let privileges = of_columns.names().to_lowercase().replace(", ", ",");
        let text = |it: &str| Some(it.to_owned());
        let mysql = mysql_type(field.data_type());
        let null = text(if field.is_nullable() { "YES" } else { "NO" });
        let collation = mysql.is_text.then(|| "utf8mb4_0900_ai_ci".to_owned());
        let (name, column_type) = (Some(field.name().clone()), Some(mysql.column_type));
        let column = managed.and_then(|it| it.column(field.name()));
        let default = column.and_then(ManagedColumn::shown_default);
        rows.push(match full {
            true => {
                let comment = column.and_then(|it| it.comment.clone()).unwrap_or_default();
                vec![name, column_type, collation, null, text(""), default, text(""), Some(privileges), Some(comment)]
            }
            false => vec![name, column_type, null, text(""), default, text("")],
        });
    }
    Ok(rows)
}

/// One column's line of `SHOW CREATE TABLE`, with what a managed table knows of it.
pub(super) fn column_definition(field: &Field, managed: Option<&ManagedColumn>) -> String {
    let mysql = mysql_type(field.data_type());
    let name = field.name().replace('`', "``");
    // A TEXT or JSON has no default in MySQL's own output.
    let default = match (field.is_nullable(), field.data_type()) {
        (false, _) => " NOT NULL",
        (true, DataType::Binary | DataType::LargeBinary | DataType::BinaryView) => "",
        (true, DataType::Timestamp(..)) => " NULL DEFAULT NULL",
        (true, _) => " DEFAULT NULL",
    };
    let default = match managed.and_then(|it| it.default.as_ref()) {
        Some(value) if field.is_nullable() => format!(" DEFAULT {value}"),
        Some(value) => format!(" NOT NULL DEFAULT {value}"),
        None => default.to_owned(),
    };
    let comment = managed.and_then(|it| it.comment.as_ref());
    let comment = comment.map(|it| format!(" COMMENT '{}'", it.replace('\'', "''"))).unwrap_or_default();
    format!("  `{name}` {}{default}{comment}", mysql.column_type)
}
