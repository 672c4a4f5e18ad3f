//! The tables as Parquet files in a folder, and sessions of servers that have them as tables.

use std::path::{Path, PathBuf};

use super::TABLES;
use crate::client::Client;
use crate::error::CliError;
use crate::tables::{location, write_tpch};

/// What the tables' database is called.
pub const DATABASE: &str = "tpch";

/// Where a command writes everything. A temporary one is removed when dropped.
pub enum Folder {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    /// The folder that was asked for, made where it is missing, or else a temporary one.
    pub fn open(dir: Option<PathBuf>, prefix: &str) -> Result<Self, CliError> {
        let Some(path) = dir else {
            let temporary = tempfile::Builder::new().prefix(prefix).tempdir();
            let path = std::env::temp_dir();
            return temporary.map(Folder::Temporary).map_err(|source| CliError::Folder { path, source });
        };
        let made = std::fs::create_dir_all(&path).and_then(|()| path.canonicalize());
        made.map(Folder::Given).map_err(|source| CliError::Folder { path, source })
    }

    pub fn path(&self) -> &Path {
        match self {
            Folder::Given(path) => path,
            Folder::Temporary(dir) => dir.path(),
        }
    }
}

/// The files that are asked about.
pub struct TableFiles {
    pub dir: PathBuf,
    pub scale: f64,
    /// Of each of the larger tables.
    pub files: usize,
}

impl TableFiles {
    pub fn in_folder(dir: &Path, scale: f64, files: usize) -> Self {
        Self { dir: dir.join(format!("tables-sf{scale}-{files}")), scale, files }
    }

    /// Writes them, unless an earlier command did in the same folder.
    pub async fn write(&self) -> Result<(), CliError> {
        if self.dir.exists() {
            eprintln!("taking the tables that are in {}", self.dir.display());
            return Ok(());
        }
        // The folder has its name only once it is whole.
        let mut partial = self.dir.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let refused = |source| CliError::Folder { path: partial.clone(), source };
        if partial.exists() {
            std::fs::remove_dir_all(&partial).map_err(refused)?;
        }
        write_tpch(&partial, self.scale, self.files).await?;
        std::fs::rename(&partial, &self.dir).map_err(refused)
    }
}

/// A session of a server over whose files the tables were created; then `settings` are run, statements each.
pub async fn open(
    name: &str,
    port: u16,
    tables: &TableFiles,
    settings: &[impl AsRef<str>],
) -> Result<Client, CliError> {
    let mut client = Client::connect(port).await?;
    let mut statements = vec![format!("CREATE DATABASE IF NOT EXISTS {DATABASE}"), format!("USE {DATABASE}")];
    for table in TABLES {
        // Backslashes escape in MySQL's texts.
        let location = location(&tables.dir, table, tables.files).replace('\\', "\\\\").replace('\'', "''");
        statements.push(format!("DROP TABLE IF EXISTS {table}"));
        statements.push(format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{location}'"));
    }
    statements.extend(settings.iter().map(|statement| statement.as_ref().to_owned()));
    for statement in statements {
        client.ask(&format!("{statement:?} on {name}"), &statement).await?;
    }
    Ok(client)
}
