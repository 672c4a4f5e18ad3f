//! What `system` tables ask the running engine.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use futures::future::{join, join_all};
use sheaf_common::{ErrorCode, WireError};
use sheaf_flight::WorkerAddress;
use sheaf_planners::Worker;

use crate::engine::Engine;
use crate::processes;
use crate::query_log::LogEntry;
use crate::system::{MetricRow, NodeRow, ProcessRow, ReplicaRow, SystemSource, TaskRow};

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
    fn node_name(&self) -> Result<String, WireError> {
        Ok(self.engine()?.options().node_name.clone())
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, WireError> {
        let engine = self.engine()?;
        let options = engine.options();
        let started = engine.started().duration_since(UNIX_EPOCH).ok();
        let started_ms = started.and_then(|it| i64::try_from(it.as_millis()).ok());
        let draining = options.cluster.draining();
        let ask = async |worker: Worker, state: &str| {
            let info = engine.client().worker_info(&address(&worker), ANSWER_TIMEOUT).await;
            let is_here = worker.name == options.node_name;
            let mut row = NodeRow {
                role: if is_here { "all" } else { "worker" }.to_owned(),
                state: if info.is_ok() { state } else { "lost" }.to_owned(),
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
        let others = options.cluster.of_other_builds();
        let alive = engine.workers().workers().into_iter().map(|worker| ask(worker, "alive"));
        let others = others.into_iter().map(|worker| ask(worker, "incompatible"));
        let draining = draining.into_iter().map(|worker| ask(worker, "draining"));
        // Together: those that do not answer are waited for, and that once.
        let (mut rows, replicas) = join(join_all(alive.chain(others).chain(draining)), self.replicas()).await;
        let mut own_place = (String::new(), 0);
        for replica in replicas? {
            if replica.node == options.node_name {
                own_place = (replica.host, replica.port);
                continue;
            }
            match rows.iter_mut().find(|it| it.name == replica.node) {
                Some(row) => row.role = replica.node_role,
                None => rows.push(NodeRow {
                    state: if replica.is_reached() { "alive" } else { "lost" }.to_owned(),
                    name: replica.node,
                    role: replica.node_role,
                    host: replica.host,
                    port: replica.port,
                    version: replica.version,
                    ..NodeRow::default()
                }),
            }
        }
        if !rows.iter().any(|it| it.name == options.node_name) {
            rows.push(NodeRow {
                name: options.node_name.clone(),
                role: "coordinator".to_owned(),
                state: "alive".to_owned(),
                host: own_place.0,
                port: own_place.1,
                cores: options.cores as u64,
                memory_limit: options.memory_bytes as u64,
                memory_used: engine.runtime().memory_pool.reserved() as u64,
                version: sheaf_common::build::id().to_owned(),
                started_ms,
                ..NodeRow::default()
            });
        }
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(rows)
    }

    async fn processes(&self) -> Result<Vec<ProcessRow>, WireError> {
        let engine = self.engine()?;
        Ok(processes::all(&engine).await)
    }

    async fn queries(&self) -> Result<Vec<LogEntry>, WireError> {
        Ok(self.engine()?.log().entries())
    }

    async fn replicas(&self) -> Result<Vec<ReplicaRow>, WireError> {
        self.engine()?.options().replication.replicas().await
    }

    async fn metrics(&self) -> Result<Vec<MetricRow>, WireError> {
        Ok(metric_rows(&self.engine()?.metrics_text()))
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
        let workers = engine.workers().workers().into_iter().chain(engine.options().cluster.draining());
        Ok(join_all(workers.map(ask)).await.concat())
    }
}

/// Reads Prometheus' text format, as `/metrics` has it.
fn metric_rows(text: &str) -> Vec<MetricRow> {
    let (mut kinds, mut descriptions, mut rows) = (HashMap::new(), HashMap::new(), vec![]);
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(text)) => {
                descriptions.insert(name, text);
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                kinds.insert(name, kind);
            }
            _ => {
                let Some((series, Ok(value))) = line.rsplit_once(' ').map(|(it, value)| (it, value.parse())) else {
                    continue;
                };
                let (name, labels) = series.split_once('{').unwrap_or((series, ""));
                // A histogram's parts have names of their own.
                let whole = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                let known = |it: &HashMap<&str, &str>| {
                    let found = it.get(name).or_else(|| it.get(whole?)).copied().unwrap_or_default();
                    found.to_owned()
                };
                rows.push(MetricRow {
                    name: name.to_owned(),
                    kind: known(&kinds),
                    labels: labels.trim_end_matches('}').to_owned(),
                    value,
                    description: known(&descriptions),
                });
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read() {
        let text = "# HELP a_total things that were done\n# TYPE a_total counter\na_total 3\n\n# TYPE h histogram\n\
                    h_bucket{le=\"+Inf\"} 2\nh_sum 1.5\nbroken\n";
        let rows = metric_rows(text);
        let shown: Vec<_> = rows.iter().map(|it| (&*it.name, &*it.kind, &*it.labels, it.value)).collect();
        let expected = [
            ("a_total", "counter", "", 3.0),
            ("h_bucket", "histogram", "le=\"+Inf\"", 2.0),
            ("h_sum", "histogram", "", 1.5),
        ];
        assert_eq!(shown, expected);
        assert_eq!(rows[0].description, "things that were done");
    }
}
