//! What statements do with the cluster, and what other coordinators ask of this one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sheaf_common::{ErrorCode, WireError};
use sheaf_flight::service::unknown;
use sheaf_flight::{FlightClient, NodeActions, WorkerAddress};
use sheaf_planners::Worker;
use sheaf_query::cluster::ClusterControl;
use sheaf_query::definitions::DefinitionStore;
use sheaf_query::{Engine, processes};

use super::Registry;
use super::actions::address;
use super::messages::DRAIN;
use crate::metadata::group::coordinators;

/// How long a worker may take to stop taking queries.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A coordinator's hand on its cluster.
pub struct Control {
    registry: Arc<Registry>,
    client: Arc<FlightClient>,
    /// Know the coordinators.
    definitions: Arc<dyn DefinitionStore>,
}

impl Control {
    pub fn new(registry: Arc<Registry>, client: Arc<FlightClient>, definitions: Arc<dyn DefinitionStore>) -> Self {
        Self { registry, client, definitions }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("registry", &self.registry).finish_non_exhaustive()
    }
}

#[async_trait]
impl ClusterControl for Control {
    fn coordinators(&self) -> Vec<WorkerAddress> {
        let definitions = self.definitions.local();
        let others =
            coordinators(&definitions).filter(|(name, it)| *name != self.registry.own().name && it.replica != 0);
        others.map(|(_, it)| WorkerAddress { node: String::new(), host: it.host.clone(), port: it.port }).collect()
    }

    fn draining(&self) -> Vec<Worker> {
        self.registry.draining_workers()
    }

    fn of_other_builds(&self) -> Vec<Worker> {
        self.registry.of_other_builds()
    }

    async fn drain(&self, node: &str) -> Result<(), WireError> {
        let own = self.registry.own();
        let worker = self.registry.worker(node).ok_or_else(|| {
            let text = match own.name == node {
                true => format!("node '{node}' takes this statement and cannot be drained by it: stop it instead"),
                false => format!("node '{node}' is not a live worker of this cluster, see system.nodes"),
            };
            WireError::new(ErrorCode::InvalidArgument, text)
        })?;
        self.client.call(&address(&worker), DRAIN, Bytes::new(), DRAIN_TIMEOUT).await?;
        // Its next heartbeat says so too; until then nothing is to be placed there.
        self.registry.drain(&worker);
        Ok(())
    }
}

/// Answers other coordinators about the sessions of this one.
pub struct SessionActions(pub Arc<Engine>);

#[async_trait]
impl NodeActions for SessionActions {
    async fn act(&self, name: &str, body: Bytes) -> Result<Bytes, WireError> {
        let answer = processes::answer(&self.0, name, &body).ok_or_else(|| unknown(name))?;
        answer.map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use parking_lot::Mutex;
    use sheaf_common::config::Role;
    use sheaf_flight::{NodeService, PooledChannels};
    use sheaf_planners::StaticWorkers;
    use sheaf_planners::parser::SqlDialect;
    use sheaf_query::{EngineOptions, QueryError, SessionInit};
    use tokio::net::TcpListener;
    use tokio::runtime::Handle;
    use tokio::task::JoinSet;

    use super::super::{Node, VERSION};
    use super::*;

    /// Coordinators that know one another.
    #[derive(Debug, Default)]
    struct Others(Mutex<Vec<WorkerAddress>>);

    #[async_trait]
    impl ClusterControl for Others {
        fn coordinators(&self) -> Vec<WorkerAddress> {
            self.0.lock().clone()
        }

        fn draining(&self) -> Vec<Worker> {
            vec![]
        }

        async fn drain(&self, node: &str) -> Result<(), WireError> {
            Err(WireError::new(ErrorCode::InvalidArgument, node))
        }
    }

    struct Coordinator {
        engine: Arc<Engine>,
        others: Arc<Others>,
        address: WorkerAddress,
        _serving: JoinSet<()>,
        _folder: tempfile::TempDir,
    }

    async fn coordinator(number: u16) -> Coordinator {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = Node {
            name: format!("c{number}"),
            incarnation: u64::from(number),
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
            cores: 1,
            memory_bytes: 1 << 28,
            role: Role::Coordinator.to_string(),
            version: VERSION.to_owned(),
        };
        let folder = tempfile::tempdir().unwrap();
        let client = Arc::new(FlightClient::new(Arc::new(PooledChannels::new(Handle::current())), None));
        let others = Arc::new(Others::default());
        let engine = Engine::new(EngineOptions {
            node_name: node.name.clone(),
            data_dir: folder.path().join("data"),
            table_root: folder.path().join("tables").display().to_string(),
            base_dir: folder.path().to_owned(),
            allow_roots: vec![],
            cores: 1,
            memory_bytes: 1 << 28,
            task_slots: 32,
            test_functions: false,
            spill_bytes_max: 1 << 30,
            cache_dir: std::path::PathBuf::new(),
            cache_bytes_max: 0,
            coordinator_no: number,
            workers: Arc::new(StaticWorkers::default()),
            cluster: others.clone(),
            client,
            definitions: Arc::new(sheaf_query::definitions::MemoryDefinitions::new().unwrap()),
            replication: Arc::new(sheaf_query::replication::NotReplicated),
        });
        let engine = engine.await.unwrap();
        let address = address(&node);
        let mut serving = JoinSet::new();
        let service = NodeService::new(None, Arc::new(SessionActions(engine.clone())), None);
        serving.spawn(async move {
            service.serve(listener, std::future::pending()).await.unwrap();
        });
        Coordinator { engine, others, address, _serving: serving, _folder: folder }
    }

    fn session(engine: &Arc<Engine>, connection_id: u64) -> Arc<sheaf_query::Session> {
        engine.session(SessionInit {
            connection_id,
            user: "u".to_owned(),
            client_host: "h".to_owned(),
            identity: sheaf_query::Identity::Embedder,
            tls: None,
            database: None,
            dialect: SqlDialect::MySql { ansi_quotes: false },
        })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn any_coordinator_lists_and_kills_the_sessions_of_all() {
        let (first, second) = (coordinator(1).await, coordinator(2).await);
        first.others.0.lock().push(second.address.clone());
        second.others.0.lock().push(first.address.clone());
        let (asking, victim) = (session(&first.engine, 11), session(&second.engine, 22));
        let running = {
            let victim = victim.clone();
            tokio::spawn(async move {
                let answers = victim.execute("select count(*) from numbers(100000000000) where sin(number) > 2").await;
                match answers.map(|mut answers| answers.remove(0)) {
                    Ok(sheaf_query::Answer::Rows(mut rows)) => {
                        futures::StreamExt::next(&mut rows.stream).await.map(|row| row.map_err(QueryError::from))
                    }
                    Ok(sheaf_query::Answer::Done { .. }) => None,
                    Err(error) => Some(Err(error)),
                }
            })
        };
        let started = Instant::now();
        loop {
            let processes = processes::all(&first.engine).await;
            assert_eq!(processes.iter().map(|it| it.connection_id).collect::<Vec<_>>(), [11, 22]);
            if processes[1].statement.as_ref().is_some_and(|text| text.contains("numbers")) {
                assert!(processes[1].query_id.as_ref().is_some_and(|id| id.starts_with("0002")), "{:?}", processes[1]);
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "{processes:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(asking.execute("kill query 22").await.is_ok());
        let ended = tokio::time::timeout(Duration::from_secs(5), running).await.expect("it ends").unwrap();
        let error = ended.expect("an answer").expect_err("it was killed");
        assert_eq!(sheaf_common::Classify::code(&error), ErrorCode::Cancelled, "{error}");
        assert!(!victim.killed().is_cancelled(), "only its statement was to end");
        assert!(asking.execute("kill 22").await.is_ok());
        assert!(victim.killed().is_cancelled());
        let error = asking.execute("kill 33").await.expect_err("nobody has it");
        assert_eq!(sheaf_common::Classify::code(&error), ErrorCode::UnknownConnection, "{error}");
    }
}
