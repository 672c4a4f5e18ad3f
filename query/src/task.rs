//! The worker's side of a query: what one task goes through from its bytes to its report.
//!
//! Decode, check the files, fill in the splits, connect the inputs, run, report. Each task has a plan instance of
//! its own, since DataFusion's nodes hold run state; nothing of it is shared with another task or attempt.

mod faults;

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::execution::{SessionState, TaskContext};
use sheaf_common::settings::{JoinStrategy, Settings};
use sheaf_common::{ErrorCode, WireError};
use sheaf_flight::remote_exec::{Consumer, connect};
use sheaf_flight::report::{self, TaskReport};
use sheaf_flight::worker::{TaskRunner, TaskStart};
use sheaf_flight::{FetchOptions, FlightClient, codec, sink};
use sheaf_planners::error::to_wire;
use sheaf_planners::leaf::{DistributedTaskContext, instantiate, name_files, verify_files};
use sheaf_planners::table_sink::TableWriters;
use sheaf_planners::warnings::{QueryWarnings, Truncations};

use crate::tables::data_cache::DataCache;
use crate::tables::{self, stores};

/// Runs the tasks of one worker.
pub struct StageTaskRunner {
    /// Functions, memory pool, disk and object stores; its configuration is not used, each query brings its own.
    base: SessionState,
    client: Arc<FlightClient>,
    cores: usize,
    allows_faults: bool,
}

impl StageTaskRunner {
    /// A runner with the functions and the runtime of `base`, whose tasks read others through `client`, on so many cores.
    pub fn new(base: SessionState, client: Arc<FlightClient>, cores: usize) -> Self {
        Self { base, client, cores, allows_faults: false }
    }

    /// Lets statements make tasks fail, by the setting `fault_injection`. For tests only.
    pub fn with_faults(self, allows_faults: bool) -> Self {
        Self { allows_faults, ..self }
    }
}

/// Partitions of a task that may run at a time. Where joins are split, the others wait with their rows in the exchanges.
fn at_once(settings: &Settings, cores: usize) -> usize {
    match (settings.join_strategy, usize::try_from(settings.max_threads)) {
        (JoinStrategy::Auto | JoinStrategy::Hash | JoinStrategy::Sort, _) => usize::MAX,
        (JoinStrategy::Split, Ok(0) | Err(_)) => cores,
        (JoinStrategy::Split, Ok(threads)) => threads,
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
    // How this node writes tables is its own affair: not sent, and not DataFusion's default either.
    if let Some(writers) = base.config().get_extension::<TableWriters>() {
        config.set_extension(writers);
    }
    Ok(TaskContext::from(base).with_session_config(config).with_task_id(start.id.to_string()))
}

/// Opens the object stores that the query reads, unless they are open here.
fn adopt_stores(base: &SessionState, start: &TaskStart, context: &TaskContext) -> Result<(), WireError> {
    let cache = base.config().get_extension::<DataCache>();
    for store in &start.request.stores {
        let definition = serde_json::from_slice(&store.definition).map_err(|_| {
            WireError::new(ErrorCode::InvalidArgument, format!("the definition of store {} is malformed", store.url))
        })?;
        let adopted = stores::adopt(&context.runtime_env(), cache.as_ref(), &store.url, &definition);
        adopted.map_err(|error| tables::wire(&error))?;
    }
    Ok(())
}

#[async_trait]
impl TaskRunner for StageTaskRunner {
    async fn run(&self, start: TaskStart) -> Result<TaskReport, WireError> {
        let started = Instant::now();
        let wire = |error: DataFusionError| to_wire(&error);
        let warnings = QueryWarnings::default();
        let context = Arc::new(task_context(&self.base, &start, &warnings)?);
        adopt_stores(&self.base, &start, &context)?;
        let (template, output) = codec::decode_stage(&start.stage().plan, &context)?;
        verify_files(&template, &start.spec().splits, &context).await?;
        let plan = instantiate(template, &start.spec().splits).map_err(wire)?;
        let consumer = Consumer {
            task_index: start.spec().task as usize,
            task_count: start.stage().task_count as usize,
            fetch: FetchOptions::of(&start.request.settings),
        };
        let plan = connect(plan, &start.stage().inputs, consumer, &self.client).map_err(wire)?;
        let faulty = faults::inject(Arc::clone(&plan), &start, self.allows_faults)?;
        let at_once = at_once(&start.request.settings, self.cores);
        let ran = sink::run_some_at_once(faulty, &output, &context, &start.exchange, at_once).await;
        ran.map_err(|error| name_files(error, &plan))?;
        let operators = report::operators(&plan);
        let (output_rows, output_bytes) = start.exchange.pushed();
        let Truncations { n_values: truncated, texts: truncated_texts } = warnings.truncations();
        Ok(TaskReport {
            input_bytes: report::input_bytes(&operators),
            operators,
            output_rows,
            output_bytes,
            spilled_bytes: start.exchange.spilled_bytes(),
            buffered_bytes_max: start.exchange.buffered_bytes_max() as u64,
            elapsed_ms: started.elapsed().as_millis() as u64,
            divisions_by_zero: warnings.divisions_by_zero(),
            truncated,
            truncated_texts,
        })
    }
}

#[cfg(test)]
mod tests;
