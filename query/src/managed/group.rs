//! Group commit: the rows that many clients insert at the same time become one file and one entry of the log.
//!
//! The first to come starts a leader; while it waits for the disk, others queue up, and the leader takes all of them
//! next. So the number of commits follows the disk, not the clients. A statement is answered once the entry that has
//! its rows is on the disk.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
use deltalake_core::kernel::Action;
use parking_lot::Mutex;
use serde_json::json;
use sheaf_common::{QueryId, WireError};
use sheaf_planners::error::to_wire;
use sheaf_planners::table_sink::SinkTarget;
use tokio::sync::oneshot;

use super::log::{Change, TableLog};
use super::writer::{Files, WrittenFile};
use crate::tables::wire;

/// Rows of one group: more wait for the next.
const GROUP_ROWS_MAX: usize = 128 << 10;

/// Rows on their way into a table.
#[derive(Debug)]
pub struct Insert {
    pub statement: QueryId,
    pub user: String,
    /// Of the table's columns in its order and types.
    pub rows: RecordBatch,
    /// The table's columns as the statement saw them, and where and how its files are written.
    pub schema: SchemaRef,
    pub target: SinkTarget,
}

type Outcome = Result<u64, WireError>;

/// The inserts that wait for one table.
#[derive(Default)]
struct Queue {
    waiting: Vec<(Insert, oneshot::Sender<Outcome>)>,
    has_leader: bool,
}

/// Groups the small inserts of one table.
pub struct GroupWriter {
    log: Arc<TableLog>,
    pool: Arc<dyn MemoryPool>,
    queue: Mutex<Queue>,
}

impl fmt::Debug for GroupWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupWriter").field("log", &self.log).finish_non_exhaustive()
    }
}

impl GroupWriter {
    pub fn new(log: Arc<TableLog>, pool: Arc<dyn MemoryPool>) -> Arc<Self> {
        Arc::new(Self { log, pool, queue: Mutex::default() })
    }

    /// Puts rows into the table; returns the version that has them. Once it was called the rows may get there, even
    /// when the future is dropped.
    ///
    /// Errs for the whole group alike; rows that the table cannot hold must have been refused before.
    pub async fn insert(self: &Arc<Self>, insert: Insert) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let leads = {
            let mut queue = self.queue.lock();
            queue.waiting.push((insert, answer));
            !std::mem::replace(&mut queue.has_leader, true)
        };
        if leads {
            let group = Arc::clone(self);
            // Apart from the client that happened to come first: if that hangs up, the others' rows go on.
            tokio::spawn(async move { group.lead().await });
        }
        answered.await.unwrap_or_else(|_| {
            Err(WireError::new(
                sheaf_common::ErrorCode::Internal,
                "the writer of a group of inserts ended without an answer",
            ))
        })
    }

    async fn lead(&self) {
        // Whatever ends this future, a panic too, the next insert finds no leader and starts one.
        let resign = Resign(self);
        loop {
            let group = {
                let mut queue = self.queue.lock();
                let group = next_group(&mut queue.waiting);
                if group.is_empty() {
                    queue.has_leader = false;
                    std::mem::forget(resign);
                    return;
                }
                group
            };
            let (inserts, answers): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            let outcome = self.write(&inserts).await;
            if let Ok(version) = outcome {
                let log = Arc::clone(&self.log);
                tokio::spawn(async move { log.checkpoint_if_due(version).await });
            }
            for answer in answers {
                // Who hung up does not want to know.
                let _ = answer.send(outcome.clone());
            }
        }
    }

    async fn write(&self, inserts: &[Insert]) -> Outcome {
        let Some(first) = inserts.first() else { return Ok(0) };
        let written = self.write_files(first, inserts).await.map_err(|error| to_wire(&error))?;
        let rows: u64 = written.iter().map(|it| it.rows).sum();
        let change = Change {
            operation: "WRITE",
            parameters: [("mode".to_owned(), json!("Append"))].into_iter().collect(),
            metrics: [
                ("numFiles".to_owned(), json!(written.len())),
                ("numOutputRows".to_owned(), json!(rows)),
                ("numStatements".to_owned(), json!(inserts.len())),
            ]
            .into_iter()
            .collect(),
            actions: written.iter().map(|it| Action::Add(it.add.clone())).collect(),
            user: first.user.clone(),
            statements: inserts.iter().map(|it| it.statement).collect(),
            is_blind: true,
            ..Change::default()
        };
        match self.log.commit(&change).await {
            Ok(version) => Ok(version),
            Err(error) => {
                if !matches!(error, super::ManagedError::Unknown { .. }) {
                    self.log.remove_files(written.into_iter().map(|it| it.add.path)).await;
                }
                Err(wire(&error))
            }
        }
    }

    async fn write_files(&self, first: &Insert, inserts: &[Insert]) -> datafusion::error::Result<Vec<WrittenFile>> {
        let place = self.log.place();
        let memory = MemoryConsumer::new("table writer").register(&self.pool);
        let (store, folder) = (Arc::clone(&place.store), place.folder.clone());
        let mut files = Files::new(store, folder, &first.target, &first.schema, memory)?;
        let rows = concat_batches(inserts[0].rows.schema_ref(), inserts.iter().map(|it| &it.rows))?;
        files.write(&rows).await?;
        Ok(files.finish().await?.files)
    }
}

/// Gives the leader's place up.
struct Resign<'a>(&'a GroupWriter);

impl Drop for Resign<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.has_leader = false;
        // Their senders go, and who waits gets an error instead of waiting for ever.
        queue.waiting.clear();
    }
}

/// The inserts that go together: those from the front of the queue that mean the same columns.
fn next_group(waiting: &mut Vec<(Insert, oneshot::Sender<Outcome>)>) -> Vec<(Insert, oneshot::Sender<Outcome>)> {
    let mut rows = 0;
    let mut n_taken = 0;
    for (insert, _) in waiting.iter() {
        let (first, _) = &waiting[0];
        let is_alike = insert.schema == first.schema
            && insert.rows.schema() == first.rows.schema()
            && insert.target.partition_columns == first.target.partition_columns;
        rows += insert.rows.num_rows();
        if n_taken > 0 && (!is_alike || rows > GROUP_ROWS_MAX) {
            break;
        }
        n_taken += 1;
    }
    waiting.drain(..n_taken).collect()
}
