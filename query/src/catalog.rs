//! Databases and their tables: what names stand for.
//!
//! [`Catalog`] looks at the definitions of a [`DefinitionStore`] and changes them; [`provider`] shows them to
//! DataFusion; [`names`] finds names that differ only in case; [`import`] takes over the file of earlier versions.

pub mod connection;
pub mod definition;
pub mod import;
pub mod names;
pub mod provider;
pub mod views;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::datatypes::SchemaRef;
use serde::de::DeserializeOwned;
pub use sheaf_common::definitions::IfExists;
use sheaf_common::definitions::{Change, Definitions, Effect, Object, Record, Refusal};
use sheaf_common::{Classify, ErrorCode};
use sheaf_planners::generator::TpchTable;

use definition::text_of;
pub use definition::{DatabaseDef, DatabaseEngine, TableDef, TableSource};
use names::find;
pub use views::ViewDef;

use crate::definitions::{DefinitionError, DefinitionStore, TIMEOUT};
use crate::system;
use crate::tables::TableError;
use crate::tables::analyzed::TableStatistics;

/// The name of DataFusion's catalog: MySQL knows one only and calls it so.
pub const CATALOG: &str = "def";
/// The database that always is there.
pub const DEFAULT_DATABASE: &str = "default";

/// How often a table is altered anew when others alter it at the same time.
const ALTER_TRIES: usize = 10;

/// Longest name of a database or table, as in MySQL.
const NAME_CHARACTERS_MAX: usize = 64;

/// Why a name could not be found or the catalog not be changed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("database '{database}' exists already")]
    DatabaseExists { database: String },
    #[error("database '{database}' does not exist")]
    DatabaseNotFound { database: String },
    #[error("table '{database}.{table}' exists already")]
    TableExists { database: String, table: String },
    #[error("table '{database}.{table}' does not exist")]
    TableNotFound { database: String, table: String },
    /// `DROP VIEW` or `ALTER VIEW` of a table.
    #[error("'{database}.{table}' is not VIEW")]
    NotView { database: String, table: String },
    /// A DROP of what is not there; MySQL has numbers of their own for it.
    #[error("can't drop database '{database}': it does not exist")]
    DropDatabaseNotFound { database: String },
    #[error("can't drop table '{database}.{table}': it does not exist")]
    DropTableNotFound { database: String, table: String },
    /// A DROP without CASCADE.
    #[error("database '{database}' is not empty: it has {tables} tables")]
    NotEmpty { database: String, tables: usize },
    /// The database is made by the server: its tables are what they are.
    #[error("database '{database}' cannot be changed")]
    ReadOnly { database: String },
    #[error("'{name}' cannot be a name: {reason}")]
    Name { name: String, reason: &'static str },
    #[error("connection '{connection}' exists already")]
    ConnectionExists { connection: String },
    #[error("connection '{connection}' does not exist")]
    ConnectionNotFound { connection: String },
    /// What a connection is to be, or that it is to go.
    #[error("connection is wrong: {reason}")]
    Connection { reason: String },
    /// Others were faster again and again. The same statement may work later.
    #[error("connection '{connection}' was changed by other statements at the same time: try again")]
    ConnectionContended { connection: String },
    /// An option of a database's engine.
    #[error("database engine is wrong: {reason}")]
    Engine { reason: String },
    /// The files of a table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Somebody else changed the table first. Read it again, and decide again.
    #[error("table '{database}.{table}' was changed by another statement")]
    VersionChanged { database: String, table: String },
    /// The store of definitions refused for a reason of its own, or failed.
    #[error(transparent)]
    Definitions(DefinitionError),
    /// A newer server defined it.
    #[error("the definition of {object} cannot be read by this version: {reason}")]
    Unreadable { object: String, reason: String },
    /// The file of an earlier version could not be read or moved: the operator's to mend.
    #[error("could not access the catalog file {path:?}")]
    File { path: PathBuf, source: std::io::Error },
    /// The catalog's file is damaged. It is left as it is.
    #[error("the catalog file {path:?} is damaged: {reason}; put a copy in its place, or move it away to start anew")]
    Damaged { path: PathBuf, reason: String },
    /// A newer server wrote the file. It is left as it is.
    #[error("the catalog file {path:?} is of version {found}, this server knows versions up to {known}")]
    NewerVersion { path: PathBuf, found: u64, known: u64 },
}

impl Classify for CatalogError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::DatabaseExists { .. } => ErrorCode::DatabaseExists,
            Self::DatabaseNotFound { .. } => ErrorCode::DatabaseNotFound,
            Self::TableExists { .. } => ErrorCode::TableExists,
            Self::TableNotFound { .. } => ErrorCode::TableNotFound,
            Self::NotView { .. } => ErrorCode::WrongObject,
            Self::DropDatabaseNotFound { .. } => ErrorCode::DropDatabaseNotFound,
            Self::DropTableNotFound { .. } => ErrorCode::DropTableNotFound,
            Self::ReadOnly { .. } => ErrorCode::AccessDenied,
            Self::ConnectionExists { .. } => ErrorCode::ConnectionExists,
            Self::ConnectionNotFound { .. } => ErrorCode::ConnectionNotFound,
            Self::NotEmpty { .. } | Self::Name { .. } | Self::Engine { .. } | Self::Connection { .. } => {
                ErrorCode::InvalidArgument
            }
            Self::Table(error) => error.code(),
            Self::VersionChanged { .. } | Self::ConnectionContended { .. } => ErrorCode::Busy,
            Self::Definitions(error) => error.code(),
            Self::Unreadable { .. } => ErrorCode::Unsupported,
            Self::File { .. } | Self::Damaged { .. } | Self::NewerVersion { .. } => ErrorCode::FileUnreadable,
        }
    }

    fn is_retryable(&self) -> bool {
        match self {
            Self::Table(error) => error.is_retryable(),
            Self::Definitions(error) => error.is_retryable(),
            Self::ConnectionContended { .. } => true,
            _ => false,
        }
    }
}

type Result<T> = std::result::Result<T, CatalogError>;

/// Whether a database is the users' or made by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseKind {
    User,
    /// `system` and `information_schema`.
    Virtual,
}

/// One line of SHOW DATABASES.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseInfo {
    pub name: String,
    pub kind: DatabaseKind,
    /// `Default`, `TPCH(scale = 1)`, `System`.
    pub engine: String,
}

/// One line of SHOW TABLES, with the table's columns.
#[derive(Debug, Clone)]
pub struct TableInfo {
    pub database: String,
    pub name: String,
    /// `BASE TABLE`, `VIEW` or `SYSTEM VIEW`, as `information_schema.TABLES` says.
    pub table_type: &'static str,
    /// `PARQUET`, `CSV`, `JSON`, `TPCH`, `SYSTEM`; empty for a view.
    pub engine: &'static str,
    pub schema: SchemaRef,
    pub created_ms: Option<i64>,
    /// How it was created, for tables that a statement created.
    pub def: Option<Arc<TableDef>>,
    /// Of the definition, for the same tables.
    pub version: Option<u64>,
    /// What a view stands for.
    pub view: Option<Arc<ViewDef>>,
}

impl TableInfo {
    pub fn is_view(&self) -> bool {
        self.view.is_some()
    }
}

/// All databases and tables. Looking at them takes no time and shows what this process knows: a session makes sure
/// before each statement that it is up to date. Changes wait for the store.
#[derive(Debug)]
pub struct Catalog {
    store: Arc<dyn DefinitionStore>,
    /// One table of this process at a time begins to use a connection.
    connecting: tokio::sync::Mutex<()>,
}

impl Catalog {
    /// The catalog of a store, which has the default database at least: see [`first_changes`].
    pub fn new(store: Arc<dyn DefinitionStore>) -> Self {
        Self { store, connecting: tokio::sync::Mutex::default() }
    }

    pub fn store(&self) -> &Arc<dyn DefinitionStore> {
        &self.store
    }

    fn definitions(&self) -> Arc<Definitions> {
        self.store.local()
    }

    async fn change(&self, changes: Vec<Change>) -> Result<Vec<Effect>> {
        let applied = self.store.change(changes, TIMEOUT).await.map_err(CatalogError::Definitions)?;
        Ok(applied.effects)
    }

    async fn change_one(&self, change: Change) -> Result<Effect> {
        let effects = self.change(vec![change]).await?;
        Ok(effects.first().copied().unwrap_or(Effect::Nothing))
    }

    /// All databases, the virtual ones too, by name.
    pub fn databases(&self) -> Vec<DatabaseInfo> {
        let definitions = self.definitions();
        let users = definitions.databases().map(|(name, record)| DatabaseInfo {
            name: name.to_owned(),
            kind: DatabaseKind::User,
            engine: record.parsed::<DatabaseDef>().map_or_else(|_| "unknown".to_owned(), |it| it.engine.to_string()),
        });
        let virtuals = system::DATABASES.iter().map(|name| DatabaseInfo {
            name: (*name).to_owned(),
            kind: DatabaseKind::Virtual,
            engine: "System".to_owned(),
        });
        let mut all: Vec<_> = users.chain(virtuals).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The name of a database as it was created, if it exists under this name or under one that differs in case only.
    pub fn database_name(&self, name: &str) -> Result<String> {
        let definitions = self.definitions();
        let users = definitions.databases().map(|(name, _)| name);
        find(users.chain(system::DATABASES), name)
            .map(str::to_owned)
            .ok_or_else(|| CatalogError::DatabaseNotFound { database: name.to_owned() })
    }

    /// The definition of a user's database.
    ///
    /// Errs when there is none of this name, or when it is a virtual one.
    pub fn database(&self, name: &str) -> Result<Arc<DatabaseDef>> {
        let definitions = self.definitions();
        match find(definitions.databases().map(|(name, _)| name), name) {
            Some(name) => read(&Object::database(name), &definitions),
            None if is_virtual(name) => Err(CatalogError::ReadOnly { database: name.to_owned() }),
            None => Err(CatalogError::DatabaseNotFound { database: name.to_owned() }),
        }
    }

    /// The tables of one database, virtual ones too, by name.
    pub fn tables(&self, database: &str) -> Result<Vec<TableInfo>> {
        let name = self.database_name(database)?;
        if is_virtual(&name) {
            return Ok(system::tables(&name));
        }
        let database = self.database(&name)?;
        let mut tables: Vec<_> = match database.engine {
            DatabaseEngine::Default => {
                let definitions = self.definitions();
                let tables = definitions.tables(&name).map(|(table, record)| table_info(&name, table, record));
                let views = definitions.views(&name).map(|(view, record)| views::view_info(&name, view, record));
                tables.chain(views).collect::<Result<_>>()?
            }
            DatabaseEngine::Tpch { .. } => {
                TpchTable::ALL.into_iter().map(|table| tpch_info(&database, table)).collect()
            }
        };
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tables)
    }

    /// The names of the tables of one database, virtual ones too, in order.
    pub fn table_names(&self, database: &str) -> Result<Vec<String>> {
        let name = self.database_name(database)?;
        if let Some(names) = system::table_names(&name) {
            return Ok(names);
        }
        let mut names: Vec<String> = match self.database(&name)?.engine {
            DatabaseEngine::Default => {
                let definitions = self.definitions();
                let names = definitions.tables(&name).chain(definitions.views(&name));
                names.map(|(table, _)| table.to_owned()).collect()
            }
            DatabaseEngine::Tpch { .. } => TpchTable::ALL.iter().map(|table| table.name().to_owned()).collect(),
        };
        names.sort_unstable();
        Ok(names)
    }

    /// The definition of a table that a statement created, by its exact name, with its version.
    pub fn table_def(&self, database: &str, table: &str) -> Result<Option<(u64, Arc<TableDef>)>> {
        let (definitions, object) = (self.definitions(), Object::table(database, table));
        match definitions.get(&object) {
            Some(record) => Ok(Some((record.version, parsed(&object, record)?))),
            None => Ok(None),
        }
    }

    /// One table. The name is looked up as written first, then regardless of case if that leaves one.
    pub fn table(&self, database: &str, table: &str) -> Result<TableInfo> {
        let not_found = || CatalogError::TableNotFound { database: database.to_owned(), table: table.to_owned() };
        let name = self.database_name(database)?;
        if system::table_names(&name).is_none() && self.database(&name)?.engine == DatabaseEngine::Default {
            let definitions = self.definitions();
            return match find_relation(&definitions, &name, table).ok_or_else(not_found)? {
                (Object::Table { name: found, .. }, record) => table_info(&name, found, record),
                (Object::View { name: found, .. }, record) => views::view_info(&name, found, record),
                _ => Err(not_found()),
            };
        }
        let tables = self.tables(&name)?;
        let found = find(tables.iter().map(|it| it.name.as_str()), table).map(str::to_owned);
        found.and_then(|name| tables.into_iter().find(|it| it.name == name)).ok_or_else(not_found)
    }

    /// Makes a database. `false` if it was there and was kept.
    pub async fn create_database(&self, name: &str, engine: DatabaseEngine, if_not_exists: bool) -> Result<bool> {
        check_name(name)?;
        engine.check()?;
        let exists = || CatalogError::DatabaseExists { database: name.to_owned() };
        if is_virtual(name) {
            return if if_not_exists { Ok(false) } else { Err(exists()) };
        }
        let database = DatabaseDef::new(name, engine, Some(now_ms()));
        let if_exists = if if_not_exists { IfExists::Keep } else { IfExists::Fail };
        match self.change_one(database_change(&database, if_exists)?).await {
            Ok(effect) => Ok(effect != Effect::Nothing),
            Err(CatalogError::Definitions(DefinitionError::Refused(Refusal::Exists { .. }))) => Err(exists()),
            Err(error) => Err(error),
        }
    }

    /// Drops a database; the number of tables that went with it, or `None` if it was not there and need not be.
    /// Files are never deleted.
    ///
    /// Errs when it has tables and `cascade` is not set, or when it is one that always is there.
    pub async fn drop_database(&self, name: &str, if_exists: bool, cascade: bool) -> Result<Option<usize>> {
        let found = {
            let definitions = self.definitions();
            find(definitions.databases().map(|(name, _)| name), name).map(str::to_owned)
        };
        if is_virtual(name) || found.as_deref() == Some(DEFAULT_DATABASE) {
            return Err(CatalogError::ReadOnly { database: found.unwrap_or_else(|| name.to_owned()) });
        }
        let found = found.unwrap_or_else(|| name.to_owned());
        let object = Object::database(&found);
        let drop = Change::Drop { object, if_missing_keep: if_exists, cascade, expected: None };
        match self.change_one(drop).await {
            Ok(Effect::Dropped { others }) => Ok(Some(others as usize)),
            Ok(_) => Ok(None),
            Err(CatalogError::Definitions(DefinitionError::Refused(refusal))) => Err(match refusal {
                Refusal::NotFound { .. } => CatalogError::DropDatabaseNotFound { database: found },
                Refusal::NotEmpty { others, .. } => CatalogError::NotEmpty { database: found, tables: others as usize },
                other => CatalogError::Definitions(DefinitionError::Refused(other)),
            }),
            Err(error) => Err(error),
        }
    }

    /// Adds a table. `false` if there was one of this name and it was kept.
    pub async fn create_table(&self, database: &str, table: TableDef, if_exists: IfExists) -> Result<bool> {
        check_name(&table.name)?;
        let database = self.changeable(database)?;
        let table = TableDef { created_ms: Some(now_ms()), ..table };
        let change = Change::create(Object::table(&database, &table.name), text_of(&table)?, if_exists);
        let created = match table.connection() {
            Some(connection) => self.change_along_connection(connection, change).await,
            None => self.change_one(change).await,
        };
        let effect = created.map_err(|error| of_table(error, &database, &table.name))?;
        Ok(effect != Effect::Nothing)
    }

    /// Puts a definition in the place of the one that had version `expected`, and returns the new version.
    ///
    /// Errs with `VersionChanged` when another statement was faster.
    async fn alter_table(&self, database: &str, table: &TableDef, expected: u64) -> Result<u64> {
        let database = self.changeable(database)?;
        let change = Change::alter(Object::table(&database, &table.name), text_of(table)?, Some(expected));
        let applied = self.store.change(vec![change], TIMEOUT).await.map_err(CatalogError::Definitions);
        Ok(applied.map_err(|error| of_table(error, &database, &table.name))?.index)
    }

    /// Keeps what was found out of a table, which has to be of `source` still. Who changes the table meanwhile comes
    /// first: it is tried again on what is there then, which `catch_up` makes known.
    ///
    /// Errs with `VersionChanged` when the table is another one by now.
    pub async fn keep_statistics<F: Future<Output = ()>>(
        &self,
        database: &str,
        table: &TableDef,
        statistics: TableStatistics,
        catch_up: impl Fn() -> F,
    ) -> Result<()> {
        let statistics = Arc::new(statistics);
        self.alter_as(database, table, catch_up, |found| TableDef {
            statistics: Some(Arc::clone(&statistics)),
            ..found.clone()
        })
        .await
    }

    /// Puts what `altered` makes of a table in its place, as often as others change its statistics meanwhile.
    ///
    /// Errs with `VersionChanged` when they change anything else.
    pub async fn alter_as<F: Future<Output = ()>>(
        &self,
        database: &str,
        table: &TableDef,
        catch_up: impl Fn() -> F,
        altered: impl Fn(&TableDef) -> TableDef,
    ) -> Result<()> {
        for _ in 0..ALTER_TRIES {
            let Some((version, found)) = self.table_def(database, &table.name)? else {
                let (database, table) = (database.to_owned(), table.name.clone());
                return Err(CatalogError::TableNotFound { database, table });
            };
            if found.source != table.source || found.created_ms != table.created_ms {
                break;
            }
            match self.alter_table(database, &altered(&found), version).await {
                Err(CatalogError::VersionChanged { .. }) => catch_up().await,
                other => return other.map(|_| ()),
            }
        }
        Err(CatalogError::VersionChanged { database: database.to_owned(), table: table.name.clone() })
    }

    /// Drops a table; `false` if it was not there and need not be. Its files stay.
    pub async fn drop_table(&self, database: &str, table: &str, if_exists: bool) -> Result<bool> {
        let database = self.changeable(database)?;
        let found = find_table(&self.definitions(), &database, table).unwrap_or_else(|| table.to_owned());
        let object = Object::table(&database, &found);
        let drop = Change::Drop { object, if_missing_keep: if_exists, cascade: false, expected: None };
        match self.change_one(drop).await {
            Ok(effect) => Ok(effect != Effect::Nothing),
            Err(error) => Err(match of_table(error, &database, &found) {
                CatalogError::TableNotFound { database, table } => CatalogError::DropTableNotFound { database, table },
                other => other,
            }),
        }
    }

    /// The exact name of a database whose tables statements may change.
    fn changeable(&self, name: &str) -> Result<String> {
        let database = self.database(name)?;
        match database.engine {
            DatabaseEngine::Default => Ok(database.name.clone()),
            DatabaseEngine::Tpch { .. } => Err(CatalogError::ReadOnly { database: name.to_owned() }),
        }
    }
}

/// What has to be defined before anything else: the database that always is there.
///
/// Errs never in practice: its definition is known.
pub fn first_changes() -> Result<Vec<Change>> {
    let default = DatabaseDef::new(DEFAULT_DATABASE, DatabaseEngine::Default, None);
    Ok(vec![database_change(&default, IfExists::Keep)?])
}

/// What puts a database in its place.
pub(super) fn database_change(database: &DatabaseDef, if_exists: IfExists) -> Result<Change> {
    Ok(Change::Create {
        object: Object::database(&database.name),
        definition: text_of(database)?,
        if_exists,
        sealed: database.engine != DatabaseEngine::Default,
    })
}

/// A refusal that is about a table, in the words of the statement.
fn of_table(error: CatalogError, database: &str, table: &str) -> CatalogError {
    let (database, table) = (database.to_owned(), table.to_owned());
    let CatalogError::Definitions(DefinitionError::Refused(refusal)) = error else { return error };
    match refusal {
        Refusal::Exists { .. } => CatalogError::TableExists { database, table },
        Refusal::NotFound { object: Object::Database { .. } } => CatalogError::DatabaseNotFound { database },
        Refusal::NotFound { .. } => CatalogError::TableNotFound { database, table },
        Refusal::Sealed { .. } => CatalogError::ReadOnly { database },
        Refusal::VersionChanged { .. } => CatalogError::VersionChanged { database, table },
        other => CatalogError::Definitions(DefinitionError::Refused(other)),
    }
}

/// A table or a view by its name, as [`find`] has it.
fn find_relation<'a>(
    definitions: &'a Definitions,
    database: &str,
    name: &str,
) -> Option<(&'a Object, &'a Arc<Record>)> {
    let objects = |name: &str| [Object::table(database, name), Object::view(database, name)];
    let exact = |name: &str| objects(name).into_iter().find_map(|it| definitions.get_with_key(&it));
    exact(name).or_else(|| {
        let names = definitions.tables(database).chain(definitions.views(database)).map(|(name, _)| name);
        exact(find(names, name)?)
    })
}

/// The exact name of a table, as [`find`] has it. The name as written costs no walk over the others.
fn find_table(definitions: &Definitions, database: &str, table: &str) -> Option<String> {
    if definitions.get(&Object::table(database, table)).is_some() {
        return Some(table.to_owned());
    }
    find(definitions.tables(database).map(|(name, _)| name), table).map(str::to_owned)
}

fn parsed<T: DeserializeOwned + Send + Sync + 'static>(object: &Object, record: &Record) -> Result<Arc<T>> {
    record.parsed().map_err(|reason| CatalogError::Unreadable { object: object.to_string(), reason })
}

/// The definition of a database that was found a moment ago.
fn read<T: DeserializeOwned + Send + Sync + 'static>(object: &Object, definitions: &Definitions) -> Result<Arc<T>> {
    match definitions.get(object) {
        Some(record) => parsed(object, record),
        None => Err(CatalogError::DatabaseNotFound { database: object.to_string() }),
    }
}

fn table_info(database: &str, name: &str, record: &Record) -> Result<TableInfo> {
    let table: Arc<TableDef> = parsed(&Object::table(database, name), record)?;
    Ok(TableInfo {
        database: database.to_owned(),
        name: name.to_owned(),
        table_type: "BASE TABLE",
        engine: table.engine(),
        schema: table.schema(),
        created_ms: table.created_ms,
        def: Some(table),
        version: Some(record.version),
        view: None,
    })
}

fn tpch_info(database: &DatabaseDef, table: TpchTable) -> TableInfo {
    TableInfo {
        database: database.name.clone(),
        name: table.name().to_owned(),
        table_type: "BASE TABLE",
        engine: "TPCH",
        schema: table.schema(),
        created_ms: database.created_ms,
        def: None,
        version: None,
        view: None,
    }
}

fn is_virtual(name: &str) -> bool {
    system::DATABASES.iter().any(|it| it.eq_ignore_ascii_case(name))
}

fn check_name(name: &str) -> Result<()> {
    let reason = match name {
        "" => "it is empty",
        _ if name.chars().count() > NAME_CHARACTERS_MAX => "it has more than 64 characters",
        _ if name.contains(['\0', '/', '\\']) => "it has a character that paths have",
        _ if name.ends_with(' ') => "it ends with a space",
        _ => return Ok(()),
    };
    Err(CatalogError::Name { name: name.to_owned(), reason })
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::definitions::MemoryDefinitions;
    use crate::tables::external::{ColumnDef, FilesDef, TypeName};
    use crate::tables::files::FileKind;

    pub(crate) fn table(name: &str) -> TableDef {
        let columns = vec![ColumnDef { name: "a".into(), type_name: TypeName(DataType::Int64), nullable: true }];
        let files = FilesDef {
            format: FileKind::Parquet,
            locations: vec!["/nowhere".into()],
            store: Default::default(),
            connection: None,
            options: BTreeMap::new(),
            columns,
            partitions: vec![],
        };
        TableDef::new(name, files)
    }

    pub(crate) fn catalog() -> Catalog {
        Catalog::new(Arc::new(MemoryDefinitions::new().unwrap()))
    }

    #[tokio::test]
    async fn tables_come_and_go() {
        let catalog = catalog();
        assert!(catalog.create_table("default", table("t"), IfExists::Fail).await.unwrap());
        assert!(matches!(
            catalog.create_table("default", table("t"), IfExists::Fail).await,
            Err(CatalogError::TableExists { .. })
        ));
        assert!(!catalog.create_table("default", table("t"), IfExists::Keep).await.unwrap());
        assert!(catalog.create_table("default", table("t"), IfExists::Replace).await.unwrap());
        // Another table, as on a MySQL server that tells case apart.
        assert!(catalog.create_table("default", table("T"), IfExists::Fail).await.unwrap());
        assert_eq!(catalog.table("default", "T").unwrap().name, "T");
        assert!(catalog.drop_table("default", "T", false).await.unwrap());
        assert_eq!(catalog.table("DEFAULT", "T").unwrap().name, "t");
        let schema = Schema::new(vec![Field::new("a", DataType::Int64, true)]);
        assert_eq!(catalog.table("default", "t").unwrap().schema.as_ref(), &schema);
        assert!(catalog.drop_table("default", "t", false).await.unwrap());
        assert!(!catalog.drop_table("default", "t", true).await.unwrap());
        let error = catalog.drop_table("default", "t", false).await.unwrap_err();
        assert_eq!((error.code().numbers().mysql, error.to_string().contains("default.t")), (1051, true));
    }

    #[tokio::test]
    async fn statistics_and_other_changes_do_not_lose_one_another() {
        let catalog = catalog();
        catalog.create_table("default", table("t"), IfExists::Fail).await.unwrap();
        let seen = catalog.table("default", "t").unwrap().def.unwrap();
        let statistics = |rows| TableStatistics { rows, ..TableStatistics::default() };
        catalog.keep_statistics("default", &seen, statistics(1), || async {}).await.unwrap();
        // Somebody is about to put the table as it was first in its place: the new statistics stay.
        catalog.alter_as("default", &seen, || async {}, |found| found.clone()).await.unwrap();
        let (_, found) = catalog.table_def("default", "t").unwrap().unwrap();
        assert_eq!(found.statistics.as_ref().map(|it| it.rows), Some(1));
        // A table of other files is another table, and its statistics are not those of the first.
        let mut other = table("t");
        if let TableSource::Files(files) = &mut other.source {
            files.locations = vec!["/elsewhere".into()];
        }
        catalog.create_table("default", other, IfExists::Replace).await.unwrap();
        let refused = catalog.keep_statistics("default", &seen, statistics(2), || async {}).await;
        assert!(matches!(refused, Err(CatalogError::VersionChanged { .. })));
        assert_eq!(catalog.table_def("default", "t").unwrap().unwrap().1.statistics, None);
        catalog.drop_table("default", "t", false).await.unwrap();
        let refused = catalog.keep_statistics("default", &seen, statistics(2), || async {}).await;
        assert!(matches!(refused, Err(CatalogError::TableNotFound { .. })));
    }

    #[tokio::test]
    async fn databases_come_and_go() {
        let catalog = catalog();
        assert!(catalog.create_database("d", DatabaseEngine::Default, false).await.unwrap());
        assert!(!catalog.create_database("d", DatabaseEngine::Default, true).await.unwrap());
        let code = |error: CatalogError| error.code().numbers().mysql;
        assert_eq!(code(catalog.create_database("d", DatabaseEngine::Default, false).await.unwrap_err()), 1007);
        assert_eq!(code(catalog.create_database("System", DatabaseEngine::Default, false).await.unwrap_err()), 1007);
        catalog.create_table("d", table("t"), IfExists::Fail).await.unwrap();
        assert!(matches!(catalog.drop_database("d", false, false).await, Err(CatalogError::NotEmpty { .. })));
        assert_eq!(catalog.drop_database("d", false, true).await.unwrap(), Some(1));
        assert_eq!(code(catalog.drop_database("d", false, true).await.unwrap_err()), 1008);
        assert_eq!(catalog.drop_database("d", true, true).await.unwrap(), None);
        for name in ["default", "information_schema", "SYSTEM"] {
            assert!(
                matches!(catalog.drop_database(name, true, true).await, Err(CatalogError::ReadOnly { .. })),
                "{name}"
            );
        }
        for name in ["", "a/b", "a ", &"x".repeat(65)] {
            let refused = catalog.create_database(name, DatabaseEngine::Default, false).await;
            assert!(matches!(refused, Err(CatalogError::Name { .. })), "{name}");
        }
    }

    #[tokio::test]
    async fn generated_databases_are_full_and_fixed() {
        let catalog = catalog();
        let engine = DatabaseEngine::parse("tpch", &[("scale".into(), "0.1".into())]).unwrap();
        catalog.create_database("tpch", engine, false).await.unwrap();
        let names: Vec<_> = catalog.tables("tpch").unwrap().into_iter().map(|table| table.name).collect();
        let expected = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];
        assert_eq!(names, expected);
        assert!(matches!(
            catalog.create_table("tpch", table("t"), IfExists::Fail).await,
            Err(CatalogError::ReadOnly { .. })
        ));
        assert_eq!(catalog.drop_database("tpch", false, false).await.unwrap(), Some(0));
    }
}
