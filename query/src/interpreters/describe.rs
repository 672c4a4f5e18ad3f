//! `DESCRIBE t` and `SHOW COLUMNS`: a table's columns in MySQL's words.

use arrow::datatypes::{DataType, Field};
use datafusion::sql::sqlparser::ast::{Ident, ObjectName};

use super::rows::{self, Rows};
use crate::answer::Answer;
use crate::binder::{find_table, name_parts};
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::tables::mysql_types::mysql_type;

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
    for field in found.table.schema().fields() {
        let text = |it: &str| Some(it.to_owned());
        let mysql = mysql_type(field.data_type());
        let null = text(if field.is_nullable() { "YES" } else { "NO" });
        let collation = mysql.is_text.then(|| "utf8mb4_0900_ai_ci".to_owned());
        let (name, column_type) = (Some(field.name().clone()), Some(mysql.column_type));
        rows.push(match full {
            true => {
                vec![name, column_type, collation, null, text(""), None, text(""), text("select"), text("")]
            }
            false => vec![name, column_type, null, text(""), None, text("")],
        });
    }
    Ok(rows)
}

/// One column's line of `SHOW CREATE TABLE`.
pub(super) fn column_definition(field: &Field) -> String {
    let mysql = mysql_type(field.data_type());
    let name = field.name().replace('`', "``");
    // A TEXT or JSON has no default in MySQL's own output.
    let default = match (field.is_nullable(), field.data_type()) {
        (false, _) => " NOT NULL",
        (true, DataType::Binary | DataType::LargeBinary | DataType::BinaryView) => "",
        (true, DataType::Timestamp(..)) => " NULL DEFAULT NULL",
        (true, _) => " DEFAULT NULL",
    };
    format!("  `{name}` {}{default}", mysql.column_type)
}
