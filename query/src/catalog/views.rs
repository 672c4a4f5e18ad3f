//! Views: queries under the name of a table.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use sheaf_common::definitions::{Change, Effect, Object, Record, Refusal};
use sheaf_planners::parser::SqlDialect;
use sheaf_planners::parser::view::quoted;

use super::definition::text_of;
use super::names::find;
use super::{Catalog, CatalogError, IfExists, Result, TableInfo, check_name, now_ms, parsed};
use crate::access::AccountName;
use crate::definitions::DefinitionError;
use crate::tables::external::ColumnDef;

/// A view as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ViewDef {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<i64>,
    /// The current database of the session that made it: what a name without a database means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// As the client wrote it, but for its tables, which name their databases, and its `*`, which became columns.
    pub query: String,
    pub dialect: ViewDialect,
    /// `||` joins texts.
    pub pipes_as_concat: bool,
    /// As they were when it was made.
    pub columns: Vec<ColumnDef>,
    /// The statement that makes it has to name them: the query's own words would not.
    pub names_columns: bool,
    /// MySQL's word.
    pub algorithm: String,
    pub security: ViewSecurity,
    /// `user@host`.
    pub definer: String,
    /// Whoever embeds the engine made it, and may do everything.
    #[serde(default)]
    pub is_embedders: bool,
}

/// How the query's text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViewDialect {
    MySql,
    MySqlAnsiQuotes,
    Ansi,
}

/// By whose rights the query reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ViewSecurity {
    Definer,
    Invoker,
}

impl ViewSecurity {
    pub fn name(self) -> &'static str {
        match self {
            Self::Definer => "DEFINER",
            Self::Invoker => "INVOKER",
        }
    }
}

impl From<SqlDialect> for ViewDialect {
    fn from(dialect: SqlDialect) -> Self {
        match dialect {
            SqlDialect::MySql { ansi_quotes: false } => Self::MySql,
            SqlDialect::MySql { ansi_quotes: true } => Self::MySqlAnsiQuotes,
            SqlDialect::Ansi => Self::Ansi,
        }
    }
}

impl ViewDef {
    pub fn dialect(&self) -> SqlDialect {
        match self.dialect {
            ViewDialect::MySql => SqlDialect::MySql { ansi_quotes: false },
            ViewDialect::MySqlAnsiQuotes => SqlDialect::MySql { ansi_quotes: true },
            ViewDialect::Ansi => SqlDialect::Ansi,
        }
    }

    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(ColumnDef::field).collect::<Vec<_>>()))
    }

    pub fn definer(&self) -> AccountName {
        AccountName::parse_plain(&self.definer).unwrap_or_else(|| AccountName::new(&self.definer, "%"))
    }

    /// The statement that makes it, as `SHOW CREATE VIEW` gives it.
    pub fn create_statement(&self) -> String {
        let names: Vec<String> = self.columns.iter().map(|it| quoted(&it.name)).collect();
        let columns = if self.names_columns { format!(" ({})", names.join(", ")) } else { String::new() };
        format!(
            "CREATE ALGORITHM={} DEFINER={} SQL SECURITY {} VIEW {}{columns} AS {}",
            self.algorithm,
            self.definer().in_backticks(),
            self.security.name(),
            quoted(&self.name),
            self.query,
        )
    }
}

pub(super) fn view_info(database: &str, name: &str, record: &Record) -> Result<TableInfo> {
    let view: Arc<ViewDef> = parsed(&Object::view(database, name), record)?;
    Ok(TableInfo {
        database: database.to_owned(),
        name: name.to_owned(),
        table_type: "VIEW",
        engine: "",
        schema: view.schema(),
        created_ms: view.created_ms,
        def: None,
        version: Some(record.version),
        view: Some(view),
    })
}

impl Catalog {
    /// The definition of a view, by its exact name.
    pub fn view_def(&self, database: &str, view: &str) -> Result<Option<Arc<ViewDef>>> {
        let (definitions, object) = (self.definitions(), Object::view(database, view));
        definitions.get(&object).map(|record| parsed(&object, record)).transpose()
    }

    /// Adds a view or puts it in the place of another. `false` if there was one of this name and it was kept.
    ///
    /// Errs when a table has the name.
    pub async fn create_view(&self, database: &str, view: ViewDef, if_exists: IfExists) -> Result<bool> {
        check_name(&view.name)?;
        let database = self.changeable(database)?;
        let view = ViewDef { created_ms: Some(now_ms()), ..view };
        let change = Change::create(Object::view(&database, &view.name), text_of(&view)?, if_exists);
        let effect = self.change_one(change).await.map_err(|error| super::of_table(error, &database, &view.name))?;
        Ok(effect != Effect::Nothing)
    }

    /// Drops all of these views or none of them; their databases are spelled as they were created. The names of those
    /// that were not there, which is an error unless `if_exists`.
    pub async fn drop_views(&self, names: &[(String, String)], if_exists: bool) -> Result<Vec<(String, String)>> {
        let (mut drops, mut missing) = (vec![], vec![]);
        let definitions = self.definitions();
        for (database, name) in names {
            let database = self.changeable(database)?;
            let found = find(definitions.views(&database).map(|(name, _)| name), name).map(str::to_owned);
            let Some(found) = found else {
                if self.table(&database, name).is_ok() {
                    return Err(CatalogError::NotView { database, table: name.clone() });
                }
                missing.push((database, name.clone()));
                continue;
            };
            // One that somebody else drops meanwhile is gone, which is what was asked for.
            let object = Object::view(&database, &found);
            let drop = Change::Drop { object, if_missing_keep: true, cascade: false, expected: None };
            if !drops.contains(&drop) {
                drops.push(drop);
            }
        }
        if let (Some((database, table)), false) = (missing.first().cloned(), if_exists) {
            return Err(CatalogError::DropTableNotFound { database, table });
        }
        if !drops.is_empty() {
            match self.change(drops).await {
                Ok(_) => {}
                Err(CatalogError::Definitions(DefinitionError::Refused(Refusal::NotFound { .. }))) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::super::tests::{catalog, table};
    use super::*;
    use crate::tables::external::TypeName;
    use sheaf_common::Classify;

    fn view(name: &str) -> ViewDef {
        ViewDef {
            name: name.to_owned(),
            created_ms: None,
            database: Some("default".to_owned()),
            query: "SELECT `default`.t.a FROM `default`.t".to_owned(),
            dialect: ViewDialect::MySql,
            pipes_as_concat: true,
            columns: vec![ColumnDef { name: "a`".into(), type_name: TypeName(DataType::Int64), nullable: true }],
            names_columns: true,
            algorithm: "MERGE".to_owned(),
            security: ViewSecurity::Invoker,
            definer: "r@t@%".to_owned(),
            is_embedders: false,
        }
    }

    fn code<T: std::fmt::Debug>(result: Result<T>) -> u16 {
        result.unwrap_err().code().numbers().mysql
    }

    #[tokio::test]
    async fn views_and_tables_share_their_names() {
        let catalog = catalog();
        catalog.create_table("default", table("t"), IfExists::Fail).await.unwrap();
        assert!(catalog.create_view("default", view("v"), IfExists::Fail).await.unwrap());
        assert_eq!(code(catalog.create_view("default", view("v"), IfExists::Fail).await), 1050);
        assert_eq!(code(catalog.create_view("default", view("t"), IfExists::Replace).await), 1050);
        assert_eq!(code(catalog.create_table("default", table("v"), IfExists::Replace).await), 1050);
        assert!(catalog.create_view("default", view("v"), IfExists::Replace).await.unwrap());
        assert_eq!(catalog.table_names("default").unwrap(), ["t", "v"]);
        let types: Vec<_> = catalog.tables("default").unwrap().iter().map(|it| it.table_type).collect();
        assert_eq!(types, ["BASE TABLE", "VIEW"]);
        let found = catalog.table("default", "V").unwrap();
        assert_eq!((found.name.as_str(), found.is_view()), ("v", true));
        assert_eq!(code(catalog.drop_table("default", "v", false).await), 1051);
        let name = |name: &str| ("default".to_owned(), name.to_owned());
        assert_eq!(code(catalog.drop_views(&[name("v"), name("t")], true).await), 1347);
        assert_eq!(code(catalog.drop_views(&[name("v"), name("x")], false).await), 1051);
        assert!(catalog.table("default", "v").is_ok(), "all or none");
        assert_eq!(catalog.drop_views(&[name("V"), name("v"), name("x")], true).await.unwrap(), [name("x")]);
        assert!(catalog.table("default", "v").is_err());
    }

    #[test]
    fn a_view_tells_how_it_was_made() {
        let expected = "CREATE ALGORITHM=MERGE DEFINER=`r@t`@`%` SQL SECURITY INVOKER VIEW `v` (`a```) AS SELECT \
                        `default`.t.a FROM `default`.t";
        assert_eq!(view("v").create_statement(), expected);
        let text = text_of(&view("v")).unwrap();
        assert_eq!(serde_json::from_str::<ViewDef>(&text).unwrap(), view("v"));
        assert!(text.contains(r#""security":"INVOKER""#), "{text}");
    }
}
