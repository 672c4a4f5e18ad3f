//! The catalog file of earlier versions, `catalog.json`, brought into the definitions that took its place.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use sheaf_common::definitions::{Change, IfExists, Object};
use tracing::{info, warn};

use super::definition::{DatabaseDef, TableDef, text_of};
use super::{CatalogError, Result, database_change, first_changes};
use crate::definitions::DefinitionStore;
use crate::earlier_file::{self, Unreadable};

const FILE_NAME: &str = "catalog.json";
/// What the file is called once it has been taken over.
const IMPORTED_NAME: &str = "catalog.json.imported";
const FORMAT: &str = "sheafdb catalog";
const VERSION: u64 = 1;

#[derive(Deserialize)]
struct Body {
    databases: Vec<ImportedDatabase>,
}

#[derive(Deserialize)]
struct ImportedDatabase {
    #[serde(flatten)]
    database: DatabaseDef,
    #[serde(default)]
    tables: Vec<TableDef>,
}

/// Defines what has to be there before anything else, and with it, in one change, what the catalog file of an earlier
/// version in the data folder has; the file is then called `catalog.json.imported`. A store that has definitions
/// already is left alone.
///
/// Errs when the file is damaged or of a newer version, which leaves it as it is, and when the store fails.
pub async fn begin(store: &dyn DefinitionStore, data_dir: &Path, timeout: Duration) -> Result<()> {
    let path = data_dir.join(FILE_NAME);
    let databases = match fs::read(&path) {
        Ok(bytes) => Some(parse(&path, &bytes)?),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(source) => return Err(CatalogError::File { path, source }),
    };
    if store.local().databases().next().is_some() {
        if databases.is_some() {
            // Its renaming failed, or its server has joined a cluster since.
            warn!(path = %path.display(), "left the catalog file of an earlier version alone: there are definitions already");
        }
        return Ok(());
    }
    let n_tables = databases.iter().flatten().map(|it| it.tables.len()).sum::<usize>();
    let is_imported = databases.is_some();
    let changes = changes(databases.unwrap_or_default())?;
    store.change(changes, timeout).await.map_err(CatalogError::Definitions)?;
    if is_imported {
        let imported = data_dir.join(IMPORTED_NAME);
        fs::rename(&path, &imported).map_err(|source| CatalogError::File { path, source })?;
        info!(n_tables, path = %imported.display(), "took over the catalog file of an earlier version");
    }
    Ok(())
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<ImportedDatabase>> {
    let body: Body = earlier_file::read(bytes, FORMAT, VERSION).map_err(|unreadable| match unreadable {
        Unreadable::Damaged(reason) => CatalogError::Damaged { path: path.to_owned(), reason },
        Unreadable::Newer(found) => CatalogError::NewerVersion { path: path.to_owned(), found, known: VERSION },
    })?;
    Ok(body.databases)
}

fn changes(databases: Vec<ImportedDatabase>) -> Result<Vec<Change>> {
    let mut changes = first_changes()?;
    for ImportedDatabase { database, tables } in databases {
        // One may have been written by now, and one was always there.
        changes.push(database_change(&database, IfExists::Keep)?);
        for table in tables {
            let object = Object::table(&database.name, &table.name);
            changes.push(Change::create(object, text_of(&table)?, IfExists::Fail));
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use sheaf_common::definitions::{Applied, Definitions};

    use super::super::{Catalog, DatabaseEngine};
    use super::*;
    use crate::definitions::{DefinitionError, TIMEOUT};

    const OLD: &str = r#"{"format": "sheafdb catalog", "version": 1, "databases": [
        {"name": "default", "engine": "default", "tables": [{"name": "t", "created_ms": 5, "files": {
            "format": "parquet", "locations": ["/nowhere"], "options": {}, "columns": [
            {"name": "a", "type": "Int64", "nullable": true}], "partitions": []}}]},
        {"name": "Tpch", "engine": {"tpch": {"scale": "0.1"}}, "created_ms": 7, "tables": []}]}"#;

    /// A store that has nothing at all yet.
    #[derive(Debug, Default)]
    struct Empty(Mutex<(u64, Definitions)>);

    #[async_trait::async_trait]
    impl DefinitionStore for Empty {
        async fn change(&self, changes: Vec<Change>, _: Duration) -> std::result::Result<Applied, DefinitionError> {
            let mut state = self.0.lock();
            let index = state.0 + 1;
            let (effects, written) = state.1.prepare(index, &changes)?;
            state.1.commit(index, &written);
            state.0 = index;
            Ok(Applied { index, effects })
        }

        async fn read(&self, _: Duration) -> std::result::Result<Arc<Definitions>, DefinitionError> {
            Ok(self.local())
        }

        fn local(&self) -> Arc<Definitions> {
            Arc::new(self.0.lock().1.clone())
        }
    }

    #[tokio::test]
    async fn an_old_file_is_taken_over_once_and_in_one_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        fs::write(&path, OLD).unwrap();
        let store = Arc::new(Empty::default());
        begin(store.as_ref(), dir.path(), TIMEOUT).await.unwrap();
        assert!(!path.exists() && dir.path().join(IMPORTED_NAME).exists());
        assert_eq!(store.local().version(), 1);
        let catalog = Catalog::new(Arc::clone(&store) as _);
        assert_eq!(catalog.table("default", "t").unwrap().created_ms, Some(5));
        assert_eq!(catalog.database("Tpch").unwrap().engine, DatabaseEngine::Tpch { scale: 0.1 });
        // A second one finds definitions, and stays where it is.
        fs::write(&path, OLD).unwrap();
        begin(store.as_ref(), dir.path(), TIMEOUT).await.unwrap();
        assert_eq!((store.local().version(), path.exists()), (1, true));
    }

    #[tokio::test]
    async fn without_a_file_there_is_the_default_database() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Empty::default());
        for _ in 0..2 {
            begin(store.as_ref(), dir.path(), TIMEOUT).await.unwrap();
            let catalog = Catalog::new(Arc::clone(&store) as _);
            assert!(catalog.tables("default").unwrap().is_empty());
            assert_eq!(store.local().version(), 1);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let store = Empty::default();
        let newer = r#"{"format": "sheafdb catalog", "version": 2, "databases": "changed"}"#;
        let damaged =
            [r#"{"format": "sheafdb catalog", "version": 1, "databa"#, "", r#"{"format": "x", "version": 1}"#];
        for text in [newer].iter().chain(&damaged) {
            fs::write(&path, text).unwrap();
            let error = begin(&store, dir.path(), TIMEOUT).await.unwrap_err();
            match *text == newer {
                true => assert!(matches!(error, CatalogError::NewerVersion { found: 2, .. }), "{error}"),
                false => assert!(matches!(error, CatalogError::Damaged { .. }), "{error}"),
            }
            assert!(error.to_string().contains("catalog.json"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), *text);
        }
        assert_eq!(store.local().version(), 0);
    }
}
