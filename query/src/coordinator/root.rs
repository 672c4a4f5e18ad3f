//! The root of a query, as often as it has to run, and the rows of it that are held back.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::StreamExt;
use sheaf_flight::FetchOptions;
use sheaf_flight::encoding::batch_bytes;
use sheaf_flight::messages::StageInput;
use sheaf_flight::remote_exec::{Consumer, connect};
use sheaf_flight::report::{self, OperatorReport};

use crate::context::QueryContext;

pub(super) struct Root<'a> {
    context: &'a QueryContext,
    plan: &'a Arc<dyn ExecutionPlan>,
    /// The plan with its boundaries connected, and its rows, while it runs.
    running: Option<(Arc<dyn ExecutionPlan>, SendableRecordBatchStream)>,
    /// Goes up with each start.
    run: u32,
    rows: VecDeque<RecordBatch>,
    /// What `rows` are charged to while they are held back.
    account: MemoryReservation,
    hold_bytes_max: usize,
    is_out: bool,
}

impl<'a> Root<'a> {
    /// Holds back up to `hold_bytes_max` bytes of rows, as far as there is memory for them.
    pub fn new(context: &'a QueryContext, plan: &'a Arc<dyn ExecutionPlan>, hold_bytes_max: usize) -> Self {
        let account = MemoryConsumer::new("held result").register(&context.engine.runtime().memory_pool);
        let (running, rows) = (None, VecDeque::new());
        Self { context, plan, running, run: 0, rows, account, hold_bytes_max, is_out: false }
    }

    /// Which start of it this is, from 1.
    pub fn run(&self) -> u32 {
        self.run
    }

    pub fn start(&mut self, inputs: &[StageInput]) -> Result<()> {
        self.run += 1;
        // A plan keeps state where it has run.
        let plan = if self.run == 1 { Arc::clone(self.plan) } else { reset_plan_states(Arc::clone(self.plan))? };
        let consumer = Consumer { task_index: 0, task_count: 1, fetch: FetchOptions::of(&self.context.settings) };
        let plan = connect(plan, inputs, consumer, self.context.engine.client())?;
        let stream = execute_stream(Arc::clone(&plan), self.context.session_state.task_ctx())?;
        self.running = Some((plan, stream));
        Ok(())
    }

    /// Drops what it did.
    pub fn stop(&mut self) {
        self.running = None;
        self.rows.clear();
        self.account.free();
    }

    /// Whether it is to be asked for rows: once they go out, only when the last are gone.
    pub fn may_read(&self) -> bool {
        self.running.is_some() && (!self.is_out || self.rows.is_empty())
    }

    /// Its next rows; pending while it does not run.
    pub async fn next(&mut self) -> Option<Result<RecordBatch>> {
        match &mut self.running {
            Some((_, stream)) => stream.next().await,
            None => std::future::pending().await,
        }
    }

    /// Takes rows in; whether they can still be held back.
    pub fn hold(&mut self, batch: RecordBatch) -> bool {
        let bytes = batch_bytes(&batch);
        self.rows.push_back(batch);
        let has_room = self.account.size().saturating_add(bytes) <= self.hold_bytes_max;
        self.is_out || (has_room && self.account.try_grow(bytes).is_ok())
    }

    /// From now on rows go out as they come.
    pub fn let_out(&mut self) {
        self.is_out = true;
    }

    pub fn has_outgoing(&self) -> bool {
        self.is_out && !self.rows.is_empty()
    }

    pub fn pop(&mut self) -> Option<RecordBatch> {
        let batch = self.rows.pop_front();
        if let Some(batch) = &batch {
            self.account.shrink(batch_bytes(batch).min(self.account.size()));
        }
        batch
    }

    /// Ends it after its last row; what its operators did.
    pub fn finish(&mut self) -> Vec<OperatorReport> {
        self.running.take().map(|(plan, _)| report::operators(&plan)).unwrap_or_default()
    }

    /// Ends it after an error; its rows are kept, since they may be out.
    pub fn fail(&mut self) {
        self.running = None;
    }
}
