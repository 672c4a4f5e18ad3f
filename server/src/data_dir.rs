//! The folder of a node: made where it is missing, locked against a second server, described in `node.json`.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::ServerError;

/// A started node as scripts, tests and other commands find it: in `node.json`, and as one line on standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    pub name: String,
    pub role: String,
    pub pid: u32,
    pub version: String,
    /// `HOST:PORT` where MySQL clients connect; a worker has none.
    pub mysql: Option<String>,
    /// `HOST:PORT` where other nodes connect, as advertised.
    pub flight: String,
    /// `HOST:PORT` of health and metrics.
    pub http: String,
}

const LOCK: &str = "lock";
const NODE: &str = "node.json";

/// A node's folder. Dropping it lets another server have it.
pub struct DataDir {
    path: PathBuf,
    /// Locked as long as it is open; the system lets go of it however the process ends.
    _lock: File,
}

impl DataDir {
    /// Opens the folder, making it where it is missing.
    ///
    /// Errs when it cannot be made or written, or when a running server has it.
    pub fn open(path: &Path) -> Result<Self, ServerError> {
        let refused = |source| ServerError::DataDir { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(refused)?;
        let path = path.canonicalize().map_err(refused)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(|source| ServerError::DataDir { path: path.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner =
                    read_node_file(&path).ok().map_or_else(String::new, |node| format!(" (process {})", node.pid));
                return Err(ServerError::DataDirInUse { path, owner });
            }
            Err(TryLockError::Error(source)) => return Err(ServerError::DataDir { path, source }),
        }
        // What an earlier server wrote must not be taken for this one's.
        match std::fs::remove_file(path.join(NODE)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(ServerError::DataDir { path, source });
            }
            _ => {}
        }
        Ok(Self { path, _lock: lock })
    }

    /// The folder's absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `node.json`, whole or not at all.
    pub fn announce(&self, node: &NodeFile) -> Result<(), ServerError> {
        let refused = |source| ServerError::DataDir { path: self.path.clone(), source };
        let text = serde_json::to_string_pretty(node).map_err(|error| refused(error.into()))?;
        let temporary = self.path.join(format!("{NODE}.new"));
        let mut file = File::create(&temporary).map_err(refused)?;
        writeln!(file, "{text}").map_err(refused)?;
        std::fs::rename(&temporary, self.path.join(NODE)).map_err(refused)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // A stopped node has no address. If this fails, the next server on the folder removes it.
        let _ = std::fs::remove_file(self.path.join(NODE));
    }
}

/// What the server on a data folder says of itself; errs with `NotFound` until it is ready.
pub fn read_node_file(data_dir: &Path) -> io::Result<NodeFile> {
    let text = std::fs::read_to_string(data_dir.join(NODE))?;
    Ok(serde_json::from_str(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("sheaf-data-dir-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    fn node() -> NodeFile {
        NodeFile {
            name: "n".to_owned(),
            role: "all".to_owned(),
            pid: 42,
            version: "0".to_owned(),
            mysql: None,
            flight: "127.0.0.1:1".to_owned(),
            http: "127.0.0.1:2".to_owned(),
        }
    }

    #[test]
    fn one_server_has_the_folder() {
        let path = scratch("lock");
        let first = DataDir::open(&path).unwrap();
        first.announce(&node()).unwrap();
        assert_eq!(read_node_file(&path).unwrap(), node());
        let error = DataDir::open(&path).err().expect("a second server").to_string();
        assert!(error.contains("in use by another server (process 42)"), "{error}");
        drop(first);
        assert!(read_node_file(&path).is_err(), "a stopped node has no address");
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let path = scratch("file");
        std::fs::write(&path, "a file").unwrap();
        let error = DataDir::open(&path.join("data")).err().expect("a file in the way").to_string();
        assert!(error.contains("cannot be made or written") && error.contains("file"), "{error}");
    }
}
