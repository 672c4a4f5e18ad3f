//! Stored connections: options of object stores, their keys above all, kept under a name that tables use.
//!
//! A table keeps the name: replacing a connection changes what its tables are read with from the next statement on.

use serde::{Deserialize, Serialize};
use sheaf_common::definitions::{Change, Definitions, Effect, Object, Refusal};
use sheaf_planners::parser::is_secret_name;

use super::definition::text_of;
use super::names::find;
use super::{Catalog, CatalogError, IfExists, Result, check_name, now_ms, parsed};
use crate::definitions::{DefinitionError, TIMEOUT};
use crate::tables::external::{FilesDef, UsedConnection};
use crate::tables::sources::StoreOptions;

/// The option by which a table names its connection.
pub const OPTION: &str = "connection";
/// Tables that a message names.
const NAMED_MAX: usize = 3;
/// How often a table is begun anew when its connection was changed in between.
const TRIES_MAX: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionDef {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<i64>,
    pub options: StoreOptions,
}

impl ConnectionDef {
    /// Errs when an option is none of a store, is none of the same kind of store as the others, or makes no sense.
    pub fn new(name: &str, options: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        check_name(name)?;
        let mut kept = StoreOptions::default();
        for (option, value) in options {
            let option = option.to_ascii_lowercase();
            if kept.0.insert(option.clone(), value).is_some() {
                return Err(CatalogError::Connection { reason: format!("option '{option}' is given twice") });
            }
        }
        kept.kind()?;
        Ok(Self { name: name.to_owned(), created_ms: Some(now_ms()), options: kept })
    }

    /// What its options are for: `s3`.
    pub fn kind(&self) -> &'static str {
        self.options.kind().map_or("unknown", |kind| kind.name())
    }

    /// Its options as a statement writes them, secrets as stars.
    pub fn shown(&self) -> String {
        let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let value = |name: &str, value: &str| if is_secret_name(name) { text("***") } else { text(value) };
        let options = self.options.0.iter().map(|(name, it)| format!("{} {}", text(name), value(name, it)));
        options.collect::<Vec<_>>().join(", ")
    }
}

fn find_connection(definitions: &Definitions, name: &str) -> Option<String> {
    find(definitions.connections().map(|(name, _)| name), name).map(str::to_owned)
}

impl Catalog {
    /// All stored connections, by name. What a newer version wrote is left out.
    pub fn connections(&self) -> Vec<ConnectionDef> {
        let definitions = self.definitions();
        let all = definitions.connections().filter_map(|(_, record)| record.parsed::<ConnectionDef>().ok());
        all.map(|it| it.as_ref().clone()).collect()
    }

    /// The name of a connection as it was created, if there is one of this name or of one that differs in case only.
    pub fn connection_name(&self, name: &str) -> Result<String> {
        find_connection(&self.definitions(), name)
            .ok_or_else(|| CatalogError::ConnectionNotFound { connection: name.to_owned() })
    }

    pub fn connection(&self, name: &str) -> Result<ConnectionDef> {
        let definitions = self.definitions();
        let not_found = || CatalogError::ConnectionNotFound { connection: name.to_owned() };
        let object = Object::connection(find_connection(&definitions, name).ok_or_else(not_found)?);
        let record = definitions.get(&object).ok_or_else(not_found)?;
        Ok(parsed::<ConnectionDef>(&object, record)?.as_ref().clone())
    }

    /// Makes or replaces one. `false` if there was one of this name and it was kept.
    pub async fn create_connection(&self, connection: &ConnectionDef, if_exists: IfExists) -> Result<bool> {
        let exists = || CatalogError::ConnectionExists { connection: connection.name.clone() };
        // One that differs in case only is the same one to those who look it up.
        let name = find_connection(&self.definitions(), &connection.name).unwrap_or_else(|| connection.name.clone());
        let connection = ConnectionDef { name: name.clone(), ..connection.clone() };
        let change = Change::create(Object::connection(name), text_of(&connection)?, if_exists);
        match self.change_one(change).await {
            Ok(effect) => Ok(effect != Effect::Nothing),
            Err(CatalogError::Definitions(DefinitionError::Refused(Refusal::Exists { .. }))) => Err(exists()),
            Err(error) => Err(error),
        }
    }

    /// Makes a change of something that uses a connection, by its exact name, and nothing if that is gone.
    ///
    /// The connection gets a new version by it, as it is, so that who has decided on the old one that nothing uses it
    /// decides again: see [`Catalog::drop_connection`].
    pub(super) async fn change_along_connection(&self, name: &str, change: Change) -> Result<Effect> {
        let object = Object::connection(name);
        let not_found = || CatalogError::ConnectionNotFound { connection: name.to_owned() };
        let _one = self.connecting.lock().await;
        for _ in 0..TRIES_MAX {
            let definitions = self.definitions();
            let record = definitions.get(&object).ok_or_else(not_found)?;
            let used = Change::alter(object.clone(), record.definition.clone(), Some(record.version));
            match self.change(vec![used, change.clone()]).await {
                Ok(effects) => return Ok(effects.last().copied().unwrap_or(Effect::Nothing)),
                Err(CatalogError::Definitions(DefinitionError::Refused(refusal))) => match refusal {
                    Refusal::NotFound { object: missing } if missing == object => return Err(not_found()),
                    Refusal::VersionChanged { object: changed, .. } if changed == object => {
                        self.store.read(TIMEOUT).await.map_err(CatalogError::Definitions)?;
                    }
                    other => return Err(CatalogError::Definitions(DefinitionError::Refused(other))),
                },
                Err(error) => return Err(error),
            }
        }
        Err(CatalogError::ConnectionContended { connection: name.to_owned() })
    }

    /// What drops one, by its exact name, unless it is changed or used by a table in between: then it is refused with
    /// `VersionChanged`, and has to be decided anew.
    ///
    /// Errs when tables use it, and when it is not there.
    pub fn drop_connection(&self, name: &str) -> Result<Change> {
        let definitions = self.definitions();
        let object = Object::connection(name);
        let Some(record) = definitions.get(&object) else {
            return Err(CatalogError::ConnectionNotFound { connection: name.to_owned() });
        };
        let expected = Some(record.version);
        let uses = |text: &str, def: &super::TableDef| (def.connection() == Some(name)).then(|| text.to_owned());
        let databases = definitions.databases().map(|(name, _)| name);
        let tables = databases.flat_map(|database| definitions.tables(database).map(move |it| (database, it)));
        let used: Vec<String> = tables
            .filter_map(|(database, (table, record))| {
                uses(&format!("'{database}.{table}'"), record.parsed::<super::TableDef>().ok()?.as_ref())
            })
            .collect();
        if used.is_empty() {
            return Ok(Change::Drop { object, if_missing_keep: false, cascade: false, expected });
        }
        let others = used.len().saturating_sub(NAMED_MAX);
        let named = used.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        let others = if others == 0 { String::new() } else { format!(" and {others} more") };
        let reason = format!(
            "'{name}' is used by {named}{others}: drop them first, or give it other options by CREATE OR REPLACE CONNECTION"
        );
        Err(CatalogError::Connection { reason })
    }

    /// What a table's connection gives it; nothing where it has none.
    pub fn used_connection(&self, name: Option<&str>) -> Result<Option<UsedConnection>> {
        let Some(name) = name else { return Ok(None) };
        let ConnectionDef { name, options, .. } = self.connection(name)?;
        Ok(Some(UsedConnection { name, options }))
    }

    /// The definition of a table's files with the options of its connection.
    pub fn connected(&self, files: &FilesDef) -> Result<FilesDef> {
        let connection = self.used_connection(files.connection.as_deref())?;
        let store = connection.map_or_else(|| files.store.clone(), |it| it.options);
        Ok(FilesDef { store, ..files.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::TableSource;
    use super::super::tests::{catalog, table};
    use super::*;

    fn connection(name: &str, secret: &str) -> ConnectionDef {
        let options = [("S3.region", "here"), ("s3.access_key_id", "who"), ("s3.secret_access_key", secret)];
        ConnectionDef::new(name, options.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap()
    }

    #[tokio::test]
    async fn connections_come_and_go() {
        let catalog = catalog();
        assert!(catalog.create_connection(&connection("Lake", "a"), IfExists::Fail).await.unwrap());
        let again = catalog.create_connection(&connection("lake", "b"), IfExists::Fail).await;
        assert!(matches!(again, Err(CatalogError::ConnectionExists { .. })), "{again:?}");
        assert!(!catalog.create_connection(&connection("lake", "b"), IfExists::Keep).await.unwrap());
        assert_eq!(catalog.connection("LAKE").unwrap().options.0["s3.secret_access_key"], "a");
        assert!(catalog.create_connection(&connection("lake", "b"), IfExists::Replace).await.unwrap());
        assert_eq!(catalog.connection("lake").unwrap().options.0["s3.secret_access_key"], "b");
        let all = catalog.connections();
        assert_eq!((all.len(), all[0].name.as_str(), all[0].kind()), (1, "Lake", "s3"));
        assert_eq!(all[0].shown(), "'s3.access_key_id' '***', 's3.region' 'here', 's3.secret_access_key' '***'");
        assert!(!format!("{all:?}").contains("\"b\""), "{all:?}");
        // A table reads with what the connection says now.
        let mut used = table("t");
        let TableSource::Files(files) = &mut used.source else { panic!("{used:?}") };
        files.connection = Some("Lake".to_owned());
        let files = files.clone();
        assert_eq!(catalog.connected(&files).unwrap().store.0["s3.secret_access_key"], "b");
        assert!(used.create_statement().ends_with("OPTIONS ('connection' 'Lake')"), "{}", used.create_statement());
        catalog.create_table("default", used, IfExists::Fail).await.unwrap();
        let error = catalog.drop_connection("Lake").unwrap_err().to_string();
        assert!(error.contains("'default.t'") && error.contains("REPLACE"), "{error}");
        catalog.drop_table("default", "t", false).await.unwrap();
        let drop = catalog.drop_connection("Lake").unwrap();
        catalog.store().change(vec![drop], TIMEOUT).await.unwrap();
        assert!(matches!(catalog.connected(&files), Err(CatalogError::ConnectionNotFound { .. })));
    }

    #[tokio::test]
    async fn a_connection_and_what_uses_it_never_miss_each_other() {
        let catalog = catalog();
        let change = async |change: Change| catalog.store().change(vec![change], TIMEOUT).await;
        catalog.create_connection(&connection("c", "a"), IfExists::Fail).await.unwrap();
        let mut used = table("t");
        let TableSource::Files(files) = &mut used.source else { panic!("{used:?}") };
        files.connection = Some("c".to_owned());
        // It was decided to drop it, and then a table came.
        let drop = catalog.drop_connection("c").unwrap();
        assert!(catalog.create_table("default", used.clone(), IfExists::Fail).await.unwrap());
        let error = change(drop).await.unwrap_err();
        assert!(matches!(error, DefinitionError::Refused(Refusal::VersionChanged { .. })), "{error}");
        let error = catalog.drop_connection("c").unwrap_err().to_string();
        assert!(error.contains("'default.t'"), "{error}");
        assert_eq!(catalog.connection("c").unwrap().options.0["s3.secret_access_key"], "a");
        // A table that is not made leaves all as it is.
        let again = catalog.create_table("default", used.clone(), IfExists::Fail).await;
        assert!(matches!(again, Err(CatalogError::TableExists { .. })), "{again:?}");
        assert!(!catalog.create_table("default", used.clone(), IfExists::Keep).await.unwrap());
        // Its options were looked at, and then it went.
        catalog.drop_table("default", "t", false).await.unwrap();
        change(catalog.drop_connection("c").unwrap()).await.unwrap();
        let late = catalog.create_table("default", used, IfExists::Fail).await;
        assert!(matches!(late, Err(CatalogError::ConnectionNotFound { .. })), "{late:?}");
        assert!(catalog.table("default", "t").is_err());
    }

    #[test]
    fn options_are_of_one_kind_of_store() {
        for (options, reason) in [
            (vec![], "no option"),
            (vec![("format.delimiter", ",")], "'format.delimiter'"),
            (vec![("s3.region", "x"), ("azure.account_name", "y")], "azure"),
            (vec![("s3.regoin", "x")], "s3.regoin"),
            (vec![("gcs.service_account", "/etc/passwd")], "service_account"),
            (vec![("s3.region", "x"), ("S3.REGION", "y")], "twice"),
        ] {
            let options = options.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
            let error = ConnectionDef::new("c", options).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(ConnectionDef::new("", [("s3.region".to_owned(), "x".to_owned())]).is_err());
        let azure = ConnectionDef::new("c", [("azure.sas_key".to_owned(), "x".to_owned())]).unwrap();
        assert_eq!(azure.kind(), "azure");
    }
}
