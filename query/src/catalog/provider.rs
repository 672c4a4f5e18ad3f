//! The catalog as DataFusion sees it: one catalog `def`, whose schemas are our databases.
//!
//! A name in FROM that looks like a path and is no table is opened as files, in every database.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::TableReference;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::TableType;
use sheaf_planners::generator::TpchTable;

use super::names::find;
use super::{CATALOG, Catalog, DatabaseEngine, TableSource};
use crate::managed::{ManagedError, ManagedTables};
use crate::system::{self, SystemSource};
use crate::tables::delta;
use crate::tables::external::{FilesTable, open_path};
use crate::tables::files::{FileKind, looks_like_path};
use crate::tables::generated::GeneratedTable;
use crate::tables::sources::Sources;
use crate::tables::view::View;
use crate::tables::{Roots, to_datafusion};

/// What the tables of a process are made from. One per process, shared by its sessions.
pub struct Tables {
    pub catalog: Arc<Catalog>,
    pub sources: Arc<Sources>,
    pub system: Arc<dyn SystemSource>,
    pub managed: Arc<ManagedTables>,
    /// Looks into files whose columns a statement does not give.
    files: SessionState,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").field("catalog", &self.catalog).field("sources", &self.sources).finish_non_exhaustive()
    }
}

impl Tables {
    /// `runtime` is the one that queries run in, so that footers are cached once; it has the stores of `managed`.
    pub fn new(
        catalog: Arc<Catalog>,
        roots: Arc<Roots>,
        system: Arc<dyn SystemSource>,
        managed: Arc<ManagedTables>,
        runtime: Arc<RuntimeEnv>,
    ) -> Arc<Self> {
        let sources = Arc::new(Sources::new(roots, Arc::clone(managed.stores())));
        let files = SessionStateBuilder::new().with_runtime_env(runtime).build();
        Arc::new(Self { catalog, sources, system, managed, files })
    }

    /// What goes into a session as its list of catalogs.
    pub fn catalogs(self: &Arc<Self>) -> Arc<dyn CatalogProviderList> {
        Arc::new(Catalogs(Arc::clone(self)))
    }
}

#[derive(Debug)]
struct Catalogs(Arc<Tables>);

impl CatalogProviderList for Catalogs {
    /// Nothing: catalogs are not made by sessions.
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::new(Databases(Arc::clone(&self.0))) as _)
    }
}

#[derive(Debug)]
struct Databases(Arc<Tables>);

impl CatalogProvider for Databases {
    fn schema_names(&self) -> Vec<String> {
        self.0.catalog.databases().into_iter().map(|database| database.name).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let database = self.0.catalog.database_name(name).ok()?;
        Some(Arc::new(Database { tables: Arc::clone(&self.0), database }))
    }
}

#[derive(Debug)]
struct Database {
    tables: Arc<Tables>,
    /// Invariant: as it was created, not as a statement spells it.
    database: String,
}

impl Database {
    /// The names of the tables without their columns.
    fn names(&self) -> Vec<String> {
        // Dropped since it was looked up.
        self.tables.catalog.table_names(&self.database).unwrap_or_default()
    }

    async fn open(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if system::table_names(&self.database).is_some() {
            return Ok(system::table(&self.database, name, &self.tables));
        }
        let database = self.tables.catalog.database(&self.database).map_err(|error| to_datafusion(&error))?;
        match database.engine {
            DatabaseEngine::Default => {
                let Some((_, table)) =
                    self.tables.catalog.table_def(&self.database, name).map_err(|error| to_datafusion(&error))?
                else {
                    let view = self.tables.catalog.view_def(&self.database, name);
                    let view = view.map_err(|error| to_datafusion(&error))?;
                    return Ok(view.map(|def| Arc::new(View::new(&self.database, def)) as _));
                };
                let reference = TableReference::full(CATALOG, self.database.as_str(), name);
                let files = match &table.source {
                    TableSource::Files(files) => files,
                    TableSource::Managed(def) => {
                        let opened = async {
                            let log = self.tables.managed.log(&def.location)?;
                            let snapshot = log.latest().await?;
                            Ok::<_, ManagedError>(log.table(reference, &snapshot).analyzed(table.statistics.clone()))
                        };
                        return Ok(Some(Arc::new(opened.await.map_err(|error| to_datafusion(&error))?)));
                    }
                };
                let files = self.tables.catalog.connected(files).map_err(|error| to_datafusion(&error))?;
                let sources = Arc::clone(&self.tables.sources);
                if files.format == FileKind::Delta {
                    let location = files.locations.first().map_or("", String::as_str);
                    let opened = delta::open(&self.tables.files, &sources, reference, location, &files.store).await;
                    let opened = opened.map_err(|error| to_datafusion(&error))?;
                    return Ok(Some(Arc::new(opened.analyzed(table.statistics.clone()))));
                }
                let files = FilesTable::new(reference, files, sources).analyzed(table.statistics.clone());
                Ok(Some(Arc::new(files)))
            }
            DatabaseEngine::Tpch { scale } => {
                Ok(name.parse().ok().map(|table: TpchTable| Arc::new(GeneratedTable::tpch(table, scale)) as _))
            }
        }
    }
}

#[async_trait]
impl SchemaProvider for Database {
    fn table_names(&self) -> Vec<String> {
        self.names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let opened = match self.open(name).await? {
            // Only a name in another case costs a walk over all of them.
            None => match find(self.names().iter().map(String::as_str), name) {
                Some(found) => self.open(found).await?,
                None => None,
            },
            opened => opened,
        };
        if opened.is_some() {
            return Ok(opened);
        }
        if !looks_like_path(name) {
            return Ok(None);
        }
        let table = open_path(&self.tables.files, &self.tables.sources, name).await?;
        Ok(Some(Arc::new(table)))
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        let kind = if system::table_names(&self.database).is_some() { TableType::View } else { TableType::Base };
        Ok(self.table_exist(name).then_some(kind))
    }

    fn table_exist(&self, name: &str) -> bool {
        find(self.names().iter().map(String::as_str), name).is_some()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::super::IfExists;
    use super::super::definition::TableDef;
    use super::*;
    use crate::managed::storage::Storage;
    use crate::system::tests::Nothing;
    use crate::tables::external::{FilesRequest, define};
    use crate::tables::roots::tests::sandbox;
    use crate::tables::stores::Stores;

    /// A session over an empty catalog that may read a folder `root` below the guard's.
    pub(crate) fn session() -> (tempfile::TempDir, Arc<Tables>, SessionContext) {
        let (folder, roots) = sandbox();
        let runtime = RuntimeEnvBuilder::new().with_cache_manager(crate::tables::cache_config(0)).build_arc().unwrap();
        let catalog = Arc::new(crate::catalog::tests::catalog());
        let root = crate::managed::storage::folder_url(folder.path()).unwrap();
        let stores = Arc::new(Stores::new(Arc::clone(&runtime), None));
        let storage = Arc::new(Storage::new(Arc::clone(&stores)));
        let managed = ManagedTables::new(root, storage, stores, Arc::clone(&runtime.memory_pool));
        let system = Arc::new(Nothing);
        let tables = Tables::new(catalog, Arc::new(roots), system, Arc::new(managed), Arc::clone(&runtime));
        let config = SessionConfig::new().with_default_catalog_and_schema(CATALOG, "default");
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(config.with_create_default_catalog_and_schema(false).with_target_partitions(2))
            .with_runtime_env(runtime)
            .with_catalog_list(tables.catalogs())
            .build();
        let session = SessionContext::new_with_state(state);
        crate::functions::register(&session, &tables);
        (folder, tables, session)
    }

    pub(crate) async fn answer(session: &SessionContext, sql: &str) -> Result<String> {
        let batches = session.sql(sql).await?.collect().await?;
        Ok(pretty_format_batches(&batches)?.to_string())
    }

    #[tokio::test]
    async fn names_and_paths_become_tables() {
        let (folder, tables, session) = session();
        std::fs::write(folder.path().join("root/a.csv"), "n\n1\n").unwrap();
        let request = FilesRequest { locations: vec!["a.csv".to_owned()], ..FilesRequest::default() };
        let files = define(&session.state(), &tables.sources, request).await.unwrap();
        tables.catalog.create_table("default", TableDef::new("Tab", files), IfExists::Fail).await.unwrap();
        for name in ["\"Tab\"", "tab", "default.TAB", "def.default.tab", "'a.csv'", "'*.csv'", "system.\"a.csv\""] {
            let text = answer(&session, &format!("select n from {name}")).await.unwrap();
            assert!(text.contains("| 1 |"), "{name}: {text}");
        }
        let error = answer(&session, "select * from '/etc/passwd'").await.unwrap_err().to_string();
        assert!(error.contains("access to '/etc/passwd' is denied"), "{error}");
        let error = answer(&session, "select * from 'none.csv'").await.unwrap_err().to_string();
        assert!(error.contains("file 'none.csv' does not exist"), "{error}");
        assert!(answer(&session, "select * from nothing").await.is_err());
    }

    #[tokio::test]
    async fn generated_databases_are_read() {
        let (_folder, tables, session) = session();
        let engine = DatabaseEngine::Tpch { scale: 0.001 };
        tables.catalog.create_database("tpch", engine, false).await.unwrap();
        let sql = "select count(*), min(n_name) from tpch.nation join TPCH.Region on n_regionkey = r_regionkey";
        let text = answer(&session, sql).await.unwrap();
        assert!(text.contains("| 25 ") && text.contains("ALGERIA"), "{text}");
    }
}
