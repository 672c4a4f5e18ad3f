//! The catalog on disk: one JSON file, replaced as a whole.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::definition::DatabaseDef;
use super::{CatalogError, Result};

const FILE_NAME: &str = "catalog.json";
/// What the file says it is, so that another JSON file is not taken for it.
const FORMAT: &str = "sheafdb catalog";
const VERSION: u64 = 1;

#[derive(Serialize)]
struct Written<'a> {
    format: &'static str,
    version: u64,
    databases: Vec<&'a DatabaseDef>,
}

/// Read before the rest, which a newer version may have changed.
#[derive(Deserialize)]
struct Header {
    format: String,
    version: u64,
}

#[derive(Deserialize)]
struct Body {
    databases: Vec<DatabaseDef>,
}

/// The place of a catalog's file.
#[derive(Debug)]
pub(super) struct CatalogFile {
    dir: PathBuf,
    path: PathBuf,
}

impl CatalogFile {
    /// Reads the file of a data folder, which need not have one yet.
    pub fn open(dir: &Path) -> Result<(Self, Vec<DatabaseDef>)> {
        let file = Self { dir: dir.to_owned(), path: dir.join(FILE_NAME) };
        let databases = match fs::read(&file.path) {
            Ok(bytes) => file.parse(&bytes)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Shows now, not at the first CREATE, that the folder cannot be written.
                file.write(std::iter::empty())?;
                vec![]
            }
            Err(source) => return Err(file.failed(source)),
        };
        Ok((file, databases))
    }

    fn parse(&self, bytes: &[u8]) -> Result<Vec<DatabaseDef>> {
        let damaged = |reason: String| CatalogError::Damaged { path: self.path.clone(), reason };
        let header: Header = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if header.format != FORMAT {
            return Err(damaged(format!("its format is {:?}, not {FORMAT:?}", header.format)));
        }
        if header.version > VERSION {
            return Err(CatalogError::NewerVersion { path: self.path.clone(), found: header.version, known: VERSION });
        }
        let body: Body = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        Ok(body.databases)
    }

    /// Replaces the file. After an error the old one is there unharmed.
    pub fn write<'a>(&self, databases: impl Iterator<Item = &'a DatabaseDef>) -> Result<()> {
        let written = Written { format: FORMAT, version: VERSION, databases: databases.collect() };
        let bytes = serde_json::to_vec_pretty(&written).map_err(|error| self.failed(error.into()))?;
        let partial = self.dir.join(format!("{FILE_NAME}.partial"));
        let replace = || {
            let mut file = File::create(&partial)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&partial, &self.path)?;
            // The new name is on disk only once its folder is.
            File::open(&self.dir)?.sync_all()
        };
        replace().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> CatalogError {
        CatalogError::File { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::table;
    use super::super::{Catalog, DatabaseEngine, IfExists};
    use super::*;

    #[test]
    fn a_restart_finds_everything() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).unwrap();
        catalog.create_database("Tpch", DatabaseEngine::Tpch { scale: 0.1 }, false).unwrap();
        catalog.create_table("default", table("t"), IfExists::Fail).unwrap();
        let before = (catalog.databases(), catalog.database("default").unwrap());
        drop(catalog);
        let catalog = Catalog::open(dir.path()).unwrap();
        assert_eq!((catalog.databases(), catalog.database("default").unwrap()), before);
        assert!(!dir.path().join("catalog.json.partial").exists());
    }

    #[test]
    fn what_cannot_be_read_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let newer = r#"{"format": "sheafdb catalog", "version": 2, "databases": "changed"}"#;
        let damaged =
            [r#"{"format": "sheafdb catalog", "version": 1, "databa"#, "", r#"{"format": "x", "version": 1}"#];
        for text in [newer].iter().chain(&damaged) {
            fs::write(&path, text).unwrap();
            let error = Catalog::open(dir.path()).unwrap_err();
            match *text == newer {
                true => assert!(matches!(error, CatalogError::NewerVersion { found: 2, .. }), "{error}"),
                false => assert!(matches!(error, CatalogError::Damaged { .. }), "{error}"),
            }
            assert!(error.to_string().contains("catalog.json"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), *text);
        }
    }

    #[test]
    fn a_failed_write_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).unwrap();
        // A folder in the way of the new file: fails for every user, root too.
        fs::create_dir(dir.path().join("catalog.json.partial")).unwrap();
        let error = catalog.create_database("d", DatabaseEngine::Default, false).unwrap_err();
        assert!(matches!(error, CatalogError::File { .. }), "{error}");
        assert!(matches!(catalog.database("d"), Err(CatalogError::DatabaseNotFound { .. })));
    }
}
