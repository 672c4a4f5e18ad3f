//! A coordinator that does not reach the others.

use async_trait::async_trait;
use sheaf_common::WireError;
use sheaf_common::definitions::{Applied, Change, Definitions};

use super::*;
use crate::definitions::{DefinitionError, DefinitionStore, GLANCE};

/// Definitions that were agreed on once; now nobody answers.
#[derive(Debug)]
struct CutOff {
    store: MemoryDefinitions,
    is_cut_off: std::sync::atomic::AtomicBool,
    /// How long each look was ready to wait, since it is cut off.
    waits: Mutex<Vec<Duration>>,
}

impl CutOff {
    fn new() -> Self {
        Self { store: MemoryDefinitions::new().unwrap(), is_cut_off: false.into(), waits: Mutex::default() }
    }

    fn check(&self, timeout: Duration) -> Result<(), DefinitionError> {
        if !self.is_cut_off.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(());
        }
        self.waits.lock().push(timeout);
        Err(DefinitionError::Failed(WireError::new(ErrorCode::Timeout, "not confirmed by a majority")))
    }
}

#[async_trait]
impl DefinitionStore for CutOff {
    async fn change(&self, changes: Vec<Change>, timeout: Duration) -> Result<Applied, DefinitionError> {
        self.check(timeout)?;
        self.store.change(changes, timeout).await
    }

    async fn read(&self, timeout: Duration) -> Result<Arc<Definitions>, DefinitionError> {
        self.check(timeout)?;
        self.store.read(timeout).await
    }

    fn local(&self) -> Arc<Definitions> {
        self.store.local()
    }
}

#[tokio::test]
async fn the_cluster_is_shown_and_what_is_defined_is_not() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("files")).unwrap();
    let store = Arc::new(CutOff::new());
    let engine = Engine::new(EngineOptions { definitions: Arc::clone(&store) as _, ..options(folder.path()) });
    let server = Server { engine: engine.await.unwrap(), folder };
    let session = server.session(1);
    let twice = "SELECT role FROM system.nodes";
    ask(&session, twice).await.unwrap();
    store.is_cut_off.store(true, std::sync::atomic::Ordering::Relaxed);
    for (sql, wait) in [
        ("SELECT node, role FROM system.raft", Some(GLANCE)),
        ("SELECT state FROM SYSTEM.Nodes", Some(GLANCE)),
        // The session has a plan of it.
        (twice, Some(GLANCE)),
        ("WITH it AS (SELECT node FROM system.raft) SELECT count(*) FROM it, system.one", Some(GLANCE)),
        ("SELECT count(*) FROM system.processes, system.raft", Some(ELECTION)),
        ("SHOW CLUSTER", None),
        ("SELECT 1", None),
    ] {
        store.waits.lock().clear();
        ask(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let waits = store.waits.lock().clone();
        match wait {
            Some(wait) => assert!(waits.len() == 1 && waits[0] <= wait && waits[0] > wait / 2, "{sql}: {waits:?}"),
            None => assert!(waits.is_empty(), "{sql}: {waits:?}"),
        }
    }
    for sql in [
        "SELECT name FROM system.tables",
        "SELECT count(*) FROM system.raft, system.databases",
        "SELECT count(*) FROM information_schema.tables",
        "SELECT * FROM nothing.raft",
        "SHOW TABLES FROM `default`",
        "CREATE DATABASE d",
    ] {
        let error = ask(&session, sql).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Timeout, "{sql}: {error}");
    }
}
