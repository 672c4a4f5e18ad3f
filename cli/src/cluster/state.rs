//! What one `sheaf cluster` command leaves for the others to find: a file and a lock in the cluster's folder.
//!
//! The lock is held by the process that runs the cluster, however it ends. So a file whose lock is free is one that a
//! dead process left, and its process id belongs to nobody.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::CliError;

const FILE: &str = "cluster.json";
const LOCK: &str = "cluster.lock";
/// How often others are looked at.
const POLL: Duration = Duration::from_millis(50);

/// A running cluster, as its folder describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// The process that stops all nodes when it gets SIGTERM.
    pub pid: u32,
    /// Of each coordinator.
    pub mysql_ports: Vec<u16>,
    /// The coordinators' names first.
    pub nodes: Vec<String>,
}

/// The right to run a cluster in a folder. Dropping it gives it up.
pub struct ClusterLock {
    dir: PathBuf,
    _lock: File,
}

fn refused(path: &Path) -> impl Fn(io::Error) -> CliError {
    let path = path.to_owned();
    move |source| CliError::Folder { path: path.clone(), source }
}

fn open_lock(dir: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(dir.join(LOCK))
}

impl ClusterLock {
    /// Makes the folder and takes it. Errs when another cluster runs there.
    pub fn take(dir: &Path) -> Result<Self, CliError> {
        fs::create_dir_all(dir).map_err(refused(dir))?;
        let lock = open_lock(dir).map_err(refused(dir))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CliError::ClusterRuns { dir: dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(refused(dir)(source)),
        }
        // What an earlier process left must not be taken for this one's.
        match fs::remove_file(dir.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(dir)(error)),
            _ => Ok(Self { dir: dir.to_owned(), _lock: lock }),
        }
    }

    /// Tells others how to reach the cluster.
    pub fn announce(&self, cluster: &ClusterFile) -> Result<(), CliError> {
        let path = self.dir.join(FILE);
        let text = serde_json::to_vec_pretty(cluster).map_err(io::Error::from).map_err(refused(&path))?;
        // Renamed into its place: nobody reads half of it.
        let part = self.dir.join("cluster.json.part");
        fs::write(&part, text).and_then(|()| fs::rename(&part, &path)).map_err(refused(&path))
    }
}

impl Drop for ClusterLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.dir.join(FILE));
    }
}

/// Whether a process holds the folder.
fn is_held(dir: &Path) -> bool {
    open_lock(dir).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

/// The cluster that runs in a folder. Errs when none does.
pub fn running(dir: &Path) -> Result<ClusterFile, CliError> {
    let none = || CliError::NoCluster { dir: dir.to_owned() };
    if !dir.is_dir() || !is_held(dir) {
        return Err(none());
    }
    let text = fs::read(dir.join(FILE)).map_err(|_| none())?;
    serde_json::from_slice(&text).map_err(|_| none())
}

/// Waits until the cluster's process has gone. False when it is still there after `patience`.
pub fn wait_until_gone(dir: &Path, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while is_held(dir) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_cluster_and_says_which() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(running(dir.path()), Err(CliError::NoCluster { .. })));
        let lock = ClusterLock::take(dir.path()).unwrap();
        assert!(matches!(ClusterLock::take(dir.path()), Err(CliError::ClusterRuns { .. })));
        assert!(matches!(running(dir.path()), Err(CliError::NoCluster { .. })), "it is not up yet");
        let cluster = ClusterFile { pid: 7, mysql_ports: vec![3307], nodes: vec!["coordinator".to_owned()] };
        lock.announce(&cluster).unwrap();
        assert_eq!(running(dir.path()).unwrap(), cluster);
        assert!(!wait_until_gone(dir.path(), Duration::from_millis(60)));
        drop(lock);
        assert!(wait_until_gone(dir.path(), Duration::ZERO));
        assert!(matches!(running(dir.path()), Err(CliError::NoCluster { .. })));
    }

    #[test]
    fn what_a_dead_process_left_is_no_cluster() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), r#"{"pid":1,"mysql_ports":[1],"nodes":[]}"#).unwrap();
        assert!(matches!(running(dir.path()), Err(CliError::NoCluster { .. })));
    }
}
