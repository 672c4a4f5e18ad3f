//! What `system` tables ask the running engine.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use futures::future::join_all;
use sheaf_common::{ErrorCode, WireError};
use sheaf_flight::WorkerAddress;
use sheaf_planners::Worker;

use crate::engine::Engine;
use crate::system::{NodeRow, ProcessRow, SystemSource, TaskRow};

/// How long a worker may take to say how it is before it counts as lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Weak, since the engine holds the tables that hold this.
pub(crate) struct EngineView(Weak<Engine>);

impl EngineView {
    pub fn new(engine: Weak<Engine>) -> Self {
        Self(engine)
    }

    fn engine(&self) -> Result<Arc<Engine>, WireError> {
        self.0.upgrade().ok_or_else(|| WireError::new(ErrorCode::Cancelled, "the server is stopping"))
    }
}

impl fmt::Debug for EngineView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineView")
    }
}

fn address(worker: &Worker) -> WorkerAddress {
    WorkerAddress { node: worker.id.clone(), host: worker.host.clone(), port: worker.port }
}

#[async_trait]
impl SystemSource for EngineView {
    async fn nodes(&self) -> Result<Vec<NodeRow>, WireError> {
        let engine = self.engine()?;
        let options = engine.options();
        let started = engine.started().duration_since(UNIX_EPOCH).ok();
        let started_ms = started.and_then(|it| i64::try_from(it.as_millis()).ok());
        let ask = async |worker: Worker| {
            let info = engine.client().worker_info(&address(&worker), ANSWER_TIMEOUT).await;
            let is_here = worker.name == options.node_name;
            let mut row = NodeRow {
                role: if is_here { "all" } else { "worker" }.to_owned(),
                state: if info.is_ok() { "alive" } else { "lost" }.to_owned(),
                cores: worker.cores as u64,
                name: worker.name,
                host: worker.host,
                port: worker.port,
                ..NodeRow::default()
            };
            if let Ok(info) = info {
                row.tasks = u64::from(info.tasks);
                row.exchange_bytes = info.exchange_bytes;
                row.memory_used = info.reserved_bytes;
                row.memory_limit = info.memory_limit_bytes;
                row.spill_bytes = info.spill_bytes;
                row.started_ms = i64::try_from(info.started_ms).ok();
                row.version = info.version;
            }
            row
        };
        let mut rows = join_all(engine.workers().workers().into_iter().map(ask)).await;
        if !rows.iter().any(|it| it.name == options.node_name) {
            rows.push(NodeRow {
                name: options.node_name.clone(),
                role: "coordinator".to_owned(),
                state: "alive".to_owned(),
                cores: options.cores as u64,
                memory_limit: options.memory_bytes as u64,
                memory_used: engine.runtime().memory_pool.reserved() as u64,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started_ms,
                ..NodeRow::default()
            });
        }
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(rows)
    }

    async fn processes(&self) -> Result<Vec<ProcessRow>, WireError> {
        Ok(self.engine()?.processes())
    }

    /// Workers that do not answer have no tasks that anybody could show.
    async fn tasks(&self) -> Result<Vec<TaskRow>, WireError> {
        let engine = self.engine()?;
        let ask = async |worker: Worker| {
            let tasks = engine.client().list_tasks(&address(&worker), ANSWER_TIMEOUT).await;
            let row = |it: sheaf_flight::messages::TaskRow| TaskRow {
                node: worker.name.clone(),
                task: it.task,
                state: it.state.name().to_owned(),
                coordinator: it.coordinator,
                output_rows: it.output_rows,
                buffered_bytes: it.buffered_bytes,
                started_ms: i64::try_from(it.started_ms).unwrap_or(i64::MAX),
            };
            tasks.map_or(vec![], |list| list.tasks.into_iter().map(row).collect::<Vec<_>>())
        };
        Ok(join_all(engine.workers().workers().into_iter().map(ask)).await.concat())
    }
}
