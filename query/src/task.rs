//! The worker's side of a query: what one task goes through from its bytes to its report.
//!
//! Decode, check the files, fill in the splits, connect the inputs, run, report. Each task has a plan instance of
//! its own, since DataFusion's nodes hold run state; nothing of it is shared with another task or attempt.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::execution::{SessionState, TaskContext};
use sheaf_common::WireError;
use sheaf_flight::remote_exec::{Consumer, connect};
use sheaf_flight::report::{self, TaskReport};
use sheaf_flight::worker::{TaskRunner, TaskStart};
use sheaf_flight::{FetchOptions, FlightClient, codec, sink};
use sheaf_planners::error::to_wire;
use sheaf_planners::leaf::{DistributedTaskContext, instantiate, name_files, verify_files};
use sheaf_planners::warnings::QueryWarnings;

/// Runs the tasks of one worker.
pub struct StageTaskRunner {
    /// Functions, memory pool, disk and object stores; its configuration is not used, each query brings its own.
    base: SessionState,
    client: Arc<FlightClient>,
}

impl StageTaskRunner {
    /// A runner with the functions and the runtime of `base`, whose tasks read others through `client`.
    pub fn new(base: SessionState, client: Arc<FlightClient>) -> Self {
        Self { base, client }
    }
}

/// What DataFusion's operators get to know of a task.
///
/// The configuration is what the coordinator sent over DataFusion's defaults: nothing of this node's own time zone,
/// locale or number of cores gets in.
fn task_context(base: &SessionState, start: &TaskStart, warnings: &QueryWarnings) -> Result<TaskContext, WireError> {
    let place = DistributedTaskContext {
        task_index: start.spec().task as usize,
        task_count: start.stage().task_count as usize,
    };
    let mut config = codec::decode_config(&start.request.config)?.with_extension(Arc::new(place));
    config.options_mut().extensions.insert(warnings.clone());
    Ok(TaskContext::from(base).with_session_config(config).with_task_id(start.id.to_string()))
}

#[async_trait]
impl TaskRunner for StageTaskRunner {
    async fn run(&self, start: TaskStart) -> Result<TaskReport, WireError> {
        let started = Instant::now();
        let wire = |error: DataFusionError| to_wire(&error);
        let warnings = QueryWarnings::default();
        let context = Arc::new(task_context(&self.base, &start, &warnings)?);
        let (template, output) = codec::decode_stage(&start.stage().plan, &context)?;
        verify_files(&template, &start.spec().splits, &context).await?;
        let plan = instantiate(template, &start.spec().splits).map_err(wire)?;
        let consumer = Consumer {
            task_index: start.spec().task as usize,
            task_count: start.stage().task_count as usize,
            fetch: FetchOptions::of(&start.request.settings),
        };
        let plan = connect(plan, &start.stage().inputs, consumer, &self.client).map_err(wire)?;
        let ran = sink::run(Arc::clone(&plan), &output, &context, &start.exchange).await;
        ran.map_err(|error| name_files(error, &plan))?;
        let operators = report::operators(&plan);
        let (output_rows, output_bytes) = start.exchange.pushed();
        Ok(TaskReport {
            input_bytes: report::input_bytes(&operators),
            operators,
            output_rows,
            output_bytes,
            spilled_bytes: start.exchange.spilled_bytes(),
            buffered_bytes_max: start.exchange.buffered_bytes_max() as u64,
            elapsed_ms: started.elapsed().as_millis() as u64,
            divisions_by_zero: warnings.divisions_by_zero(),
        })
    }
}

#[cfg(test)]
mod tests;
