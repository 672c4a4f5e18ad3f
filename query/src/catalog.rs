//! Databases and their tables: what names stand for, kept over a restart.
//!
//! [`Catalog`] is the state and its changes; [`provider`] shows it to DataFusion; [`names`] finds names that differ
//! only in case. One process for now: each change is on disk before it is visible.

pub mod definition;
pub mod names;
pub mod provider;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::datatypes::SchemaRef;
use parking_lot::{Mutex, RwLock};
use sheaf_common::{Classify, ErrorCode};
use sheaf_planners::generator::TpchTable;

pub use definition::{DatabaseDef, DatabaseEngine, TableDef};
use names::find;
use store::CatalogFile;

use crate::system;
use crate::tables::TableError;

/// The name of DataFusion's catalog: MySQL knows one only and calls it so.
pub const CATALOG: &str = "def";
/// The database that always is there.
pub const DEFAULT_DATABASE: &str = "default";

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
    /// An option of a database's engine.
    #[error("database engine is wrong: {reason}")]
    Engine { reason: String },
    /// The files of a table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The catalog's file could not be read or written: the operator's to mend.
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
            Self::DropDatabaseNotFound { .. } => ErrorCode::DropDatabaseNotFound,
            Self::DropTableNotFound { .. } => ErrorCode::DropTableNotFound,
            Self::ReadOnly { .. } => ErrorCode::AccessDenied,
            Self::NotEmpty { .. } | Self::Name { .. } | Self::Engine { .. } => ErrorCode::InvalidArgument,
            Self::Table(error) => error.code(),
            Self::File { .. } | Self::Damaged { .. } | Self::NewerVersion { .. } => ErrorCode::FileUnreadable,
        }
    }

    fn is_retryable(&self) -> bool {
        match self {
            Self::Table(error) => error.is_retryable(),
            _ => false,
        }
    }
}

type Result<T> = std::result::Result<T, CatalogError>;

/// What to do where the name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    Fail,
    /// IF NOT EXISTS.
    Keep,
    /// OR REPLACE.
    Replace,
}

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
    /// `BASE TABLE` or `SYSTEM VIEW`, as `information_schema.TABLES` says.
    pub table_type: &'static str,
    /// `PARQUET`, `CSV`, `JSON`, `TPCH`, `SYSTEM`.
    pub engine: &'static str,
    pub schema: SchemaRef,
    pub created_ms: Option<i64>,
    /// How it was created, for tables that a statement created.
    pub def: Option<Arc<TableDef>>,
}

type Databases = BTreeMap<String, Arc<DatabaseDef>>;

/// All databases. Cheap to read; a change is written to disk by the thread that makes it, so it may take
/// milliseconds.
#[derive(Debug)]
pub struct Catalog {
    /// Replaced as a whole, so that a reader sees one state. Held only to copy the `Arc`.
    databases: RwLock<Arc<Databases>>,
    /// Held over a whole change; guards the order of states, on disk and above. `None` lives in memory.
    file: Mutex<Option<CatalogFile>>,
}

impl Catalog {
    /// Reads the catalog of a data folder, or starts one if the folder has none.
    ///
    /// Errs when the file is damaged or too new, which leaves it untouched, or cannot be written.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let (file, databases) = CatalogFile::open(data_dir)?;
        let catalog = Self::with(databases);
        *catalog.file.lock() = Some(file);
        Ok(catalog)
    }

    /// A catalog that ends with the process.
    pub fn memory() -> Self {
        Self::with(vec![])
    }

    fn with(databases: Vec<DatabaseDef>) -> Self {
        let mut all: Databases = databases.into_iter().map(|it| (it.name.clone(), Arc::new(it))).collect();
        all.entry(DEFAULT_DATABASE.to_owned())
            .or_insert_with(|| Arc::new(DatabaseDef::new(DEFAULT_DATABASE, DatabaseEngine::Default, None)));
        Self { databases: RwLock::new(Arc::new(all)), file: Mutex::new(None) }
    }

    fn snapshot(&self) -> Arc<Databases> {
        Arc::clone(&self.databases.read())
    }

    /// Changes a copy, writes it, shows it. Nothing is changed on an error.
    fn change<T>(&self, change: impl FnOnce(&mut Databases) -> Result<T>) -> Result<T> {
        let file = self.file.lock();
        let before = self.snapshot();
        let mut databases = before.as_ref().clone();
        let answer = change(&mut databases)?;
        if databases != *before {
            if let Some(file) = file.as_ref() {
                file.write(databases.values().map(AsRef::as_ref))?;
            }
            *self.databases.write() = Arc::new(databases);
        }
        Ok(answer)
    }

    /// All databases, the virtual ones too, by name.
    pub fn databases(&self) -> Vec<DatabaseInfo> {
        let users = self.snapshot();
        let users = users.values().map(|database| DatabaseInfo {
            name: database.name.clone(),
            kind: DatabaseKind::User,
            engine: database.engine.to_string(),
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
        let databases = self.snapshot();
        let users = databases.keys().map(String::as_str);
        find(users.chain(system::DATABASES), name)
            .map(str::to_owned)
            .ok_or_else(|| CatalogError::DatabaseNotFound { database: name.to_owned() })
    }

    /// The definition of a user's database.
    ///
    /// Errs when there is none of this name, or when it is a virtual one.
    pub fn database(&self, name: &str) -> Result<Arc<DatabaseDef>> {
        let databases = self.snapshot();
        match find(databases.keys().map(String::as_str), name) {
            Some(name) => Ok(Arc::clone(&databases[name])),
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
            DatabaseEngine::Default => database.tables.values().map(|table| table_info(&name, table)).collect(),
            DatabaseEngine::Tpch { .. } => {
                TpchTable::ALL.into_iter().map(|table| tpch_info(&database, table)).collect()
            }
        };
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tables)
    }

    /// One table. The name is looked up as written first, then regardless of case if that leaves one.
    pub fn table(&self, database: &str, table: &str) -> Result<TableInfo> {
        let tables = self.tables(database)?;
        let found = find(tables.iter().map(|it| it.name.as_str()), table).map(str::to_owned);
        match found.and_then(|name| tables.into_iter().find(|it| it.name == name)) {
            Some(info) => Ok(info),
            None => Err(CatalogError::TableNotFound { database: database.to_owned(), table: table.to_owned() }),
        }
    }

    /// Makes a database. `false` if it was there and was kept.
    pub fn create_database(&self, name: &str, engine: DatabaseEngine, if_not_exists: bool) -> Result<bool> {
        check_name(name)?;
        engine.check()?;
        self.change(|databases| {
            if databases.contains_key(name) || is_virtual(name) {
                return match if_not_exists {
                    true => Ok(false),
                    false => Err(CatalogError::DatabaseExists { database: name.to_owned() }),
                };
            }
            let database = DatabaseDef::new(name, engine, Some(now_ms()));
            databases.insert(name.to_owned(), Arc::new(database));
            Ok(true)
        })
    }

    /// Drops a database; the number of tables that went with it, or `None` if it was not there and need not be.
    /// Files are never deleted.
    ///
    /// Errs when it has tables and `cascade` is not set, or when it is one that always is there.
    pub fn drop_database(&self, name: &str, if_exists: bool, cascade: bool) -> Result<Option<usize>> {
        self.change(|databases| {
            let found = find(databases.keys().map(String::as_str), name).map(str::to_owned);
            let Some(found) = found else {
                return match (is_virtual(name), if_exists) {
                    (true, _) => Err(CatalogError::ReadOnly { database: name.to_owned() }),
                    (false, true) => Ok(None),
                    (false, false) => Err(CatalogError::DropDatabaseNotFound { database: name.to_owned() }),
                };
            };
            if found == DEFAULT_DATABASE {
                return Err(CatalogError::ReadOnly { database: found });
            }
            let tables = databases[&found].tables.len();
            if tables > 0 && !cascade {
                return Err(CatalogError::NotEmpty { database: found, tables });
            }
            databases.remove(&found);
            Ok(Some(tables))
        })
    }

    /// Adds a table. `false` if there was one of this name and it was kept.
    pub fn create_table(&self, database: &str, table: TableDef, if_exists: IfExists) -> Result<bool> {
        check_name(&table.name)?;
        self.change(|databases| {
            let database = changeable(databases, database)?;
            if database.tables.contains_key(&table.name) {
                match if_exists {
                    IfExists::Keep => return Ok(false),
                    IfExists::Replace => {}
                    IfExists::Fail => {
                        let (database, table) = (database.name.clone(), table.name);
                        return Err(CatalogError::TableExists { database, table });
                    }
                }
            }
            let table = TableDef { created_ms: Some(now_ms()), ..table };
            database.tables.insert(table.name.clone(), Arc::new(table));
            Ok(true)
        })
    }

    /// Drops a table; `false` if it was not there and need not be. Its files stay.
    pub fn drop_table(&self, database: &str, table: &str, if_exists: bool) -> Result<bool> {
        self.change(|databases| {
            let database = changeable(databases, database)?;
            match find(database.tables.keys().map(String::as_str), table).map(str::to_owned) {
                Some(found) => Ok(database.tables.remove(&found).is_some()),
                None if if_exists => Ok(false),
                None => {
                    let (database, table) = (database.name.clone(), table.to_owned());
                    Err(CatalogError::DropTableNotFound { database, table })
                }
            }
        })
    }
}

/// A database whose tables statements may change.
fn changeable<'a>(databases: &'a mut Databases, name: &str) -> Result<&'a mut DatabaseDef> {
    let found = find(databases.keys().map(String::as_str), name).map(str::to_owned);
    match found.and_then(|found| databases.get_mut(&found)) {
        Some(database) if database.engine == DatabaseEngine::Default => Ok(Arc::make_mut(database)),
        Some(_) => Err(CatalogError::ReadOnly { database: name.to_owned() }),
        None if is_virtual(name) => Err(CatalogError::ReadOnly { database: name.to_owned() }),
        None => Err(CatalogError::DatabaseNotFound { database: name.to_owned() }),
    }
}

fn table_info(database: &str, table: &Arc<TableDef>) -> TableInfo {
    TableInfo {
        database: database.to_owned(),
        name: table.name.clone(),
        table_type: "BASE TABLE",
        engine: table.files.format.name(),
        schema: table.files.schema(),
        created_ms: table.created_ms,
        def: Some(Arc::clone(table)),
    }
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
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::tables::external::{ColumnDef, FilesDef, TypeName};
    use crate::tables::files::FileKind;

    pub(crate) fn table(name: &str) -> TableDef {
        let columns = vec![ColumnDef { name: "a".into(), type_name: TypeName(DataType::Int64), nullable: true }];
        let files = FilesDef {
            format: FileKind::Parquet,
            locations: vec!["/nowhere".into()],
            options: BTreeMap::new(),
            columns,
            partitions: vec![],
        };
        TableDef::new(name, files)
    }

    #[test]
    fn tables_come_and_go() {
        let catalog = Catalog::memory();
        assert!(catalog.create_table("default", table("t"), IfExists::Fail).unwrap());
        assert!(matches!(
            catalog.create_table("default", table("t"), IfExists::Fail),
            Err(CatalogError::TableExists { .. })
        ));
        assert!(!catalog.create_table("default", table("t"), IfExists::Keep).unwrap());
        assert!(catalog.create_table("default", table("t"), IfExists::Replace).unwrap());
        // Another table, as on a MySQL server that tells case apart.
        assert!(catalog.create_table("default", table("T"), IfExists::Fail).unwrap());
        assert_eq!(catalog.table("default", "T").unwrap().name, "T");
        assert!(catalog.drop_table("default", "T", false).unwrap());
        assert_eq!(catalog.table("DEFAULT", "T").unwrap().name, "t");
        let schema = Schema::new(vec![Field::new("a", DataType::Int64, true)]);
        assert_eq!(catalog.table("default", "t").unwrap().schema.as_ref(), &schema);
        assert!(catalog.drop_table("default", "t", false).unwrap());
        assert!(!catalog.drop_table("default", "t", true).unwrap());
        let error = catalog.drop_table("default", "t", false).unwrap_err();
        assert_eq!((error.code().numbers().mysql, error.to_string().contains("default.t")), (1051, true));
    }

    #[test]
    fn databases_come_and_go() {
        let catalog = Catalog::memory();
        assert!(catalog.create_database("d", DatabaseEngine::Default, false).unwrap());
        assert!(!catalog.create_database("d", DatabaseEngine::Default, true).unwrap());
        let code = |error: CatalogError| error.code().numbers().mysql;
        assert_eq!(code(catalog.create_database("d", DatabaseEngine::Default, false).unwrap_err()), 1007);
        assert_eq!(code(catalog.create_database("System", DatabaseEngine::Default, false).unwrap_err()), 1007);
        catalog.create_table("d", table("t"), IfExists::Fail).unwrap();
        assert!(matches!(catalog.drop_database("d", false, false), Err(CatalogError::NotEmpty { .. })));
        assert_eq!(catalog.drop_database("d", false, true).unwrap(), Some(1));
        assert_eq!(code(catalog.drop_database("d", false, true).unwrap_err()), 1008);
        assert_eq!(catalog.drop_database("d", true, true).unwrap(), None);
        for name in ["default", "information_schema", "SYSTEM"] {
            assert!(matches!(catalog.drop_database(name, true, true), Err(CatalogError::ReadOnly { .. })), "{name}");
        }
        for name in ["", "a/b", "a ", &"x".repeat(65)] {
            let refused = catalog.create_database(name, DatabaseEngine::Default, false);
            assert!(matches!(refused, Err(CatalogError::Name { .. })), "{name}");
        }
    }

    #[test]
    fn generated_databases_are_full_and_fixed() {
        let catalog = Catalog::memory();
        let engine = DatabaseEngine::parse("tpch", &[("scale".into(), "0.1".into())]).unwrap();
        catalog.create_database("tpch", engine, false).unwrap();
        let names: Vec<_> = catalog.tables("tpch").unwrap().into_iter().map(|table| table.name).collect();
        let expected = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];
        assert_eq!(names, expected);
        assert!(matches!(catalog.create_table("tpch", table("t"), IfExists::Fail), Err(CatalogError::ReadOnly { .. })));
        assert_eq!(catalog.drop_database("tpch", false, false).unwrap(), Some(0));
    }
}
