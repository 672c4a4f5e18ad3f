//! Faults on demand, so that tests can show what becomes of a query when a task fails.
//!
//! The setting `fault_injection` lists them, separated by commas: `KIND@STAGE.TASK.ATTEMPT+ROWS`. Each of the three
//! numbers may be `*`. A fault strikes when a partition of the task has put out so many rows, without `+ROWS` before the
//! first. The kinds: `io`, `memory` and `panic` end the task as their namesakes do, `abort` ends the whole process,
//! `slow=MS` makes each batch wait.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use futures::StreamExt;
use sheaf_common::{ErrorCode, TaskId, WireError};
use sheaf_flight::worker::TaskStart;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Io,
    Memory,
    Panic,
    Abort,
    Slow(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault {
    kind: Kind,
    /// Stage, task, attempt; `None` is any.
    place: [Option<u32>; 3],
    after_rows: u64,
}

impl FromStr for Fault {
    type Err = WireError;

    fn from_str(text: &str) -> Result<Self, WireError> {
        let read = || {
            let (kind, place) = text.split_once('@')?;
            let (place, after_rows) = match place.split_once('+') {
                Some((place, rows)) => (place, rows.parse().ok()?),
                None => (place, 0),
            };
            let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
            let place: Vec<Option<u32>> = place.split('.').map(number).collect::<Option<_>>()?;
            let kind = match kind.split_once('=') {
                None if kind == "io" => Kind::Io,
                None if kind == "memory" => Kind::Memory,
                None if kind == "panic" => Kind::Panic,
                None if kind == "abort" => Kind::Abort,
                Some(("slow", ms)) => Kind::Slow(Duration::from_millis(ms.parse().ok()?)),
                _ => return None,
            };
            Some(Self { kind, place: place.try_into().ok()?, after_rows })
        };
        read().ok_or_else(|| {
            let text = format!("fault {text:?} is not KIND@STAGE.TASK.ATTEMPT or KIND@STAGE.TASK.ATTEMPT+ROWS");
            WireError::new(ErrorCode::InvalidArgument, text)
        })
    }
}

impl Fault {
    fn is_at(&self, task: TaskId) -> bool {
        let here = [task.stage.0, task.task, task.attempt];
        self.place.iter().zip(here).all(|(place, here)| place.is_none_or(|it| it == here))
    }

    async fn strike(self) -> Result<()> {
        match self.kind {
            Kind::Io => Err(DataFusionError::IoError(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "injected fault: no answer",
            ))),
            Kind::Memory => Err(DataFusionError::ResourcesExhausted("injected fault: no memory".to_owned())),
            Kind::Panic => panic!("injected fault: panic"),
            Kind::Abort => std::process::abort(),
            Kind::Slow(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
        }
    }
}

/// The plan with the faults that its statement asks for; the plan itself when there is none.
///
/// Errs when the setting cannot be read, or this node does not take part in such tests.
pub(super) fn inject(
    plan: Arc<dyn ExecutionPlan>,
    start: &TaskStart,
    is_allowed: bool,
) -> Result<Arc<dyn ExecutionPlan>, WireError> {
    let setting = &start.request.settings.fault_injection;
    if setting.is_empty() {
        return Ok(plan);
    }
    if !is_allowed {
        let text = "fault_injection is set, and this node does not allow it: start it with --allow-fault-injection";
        return Err(WireError::new(ErrorCode::AccessDenied, text));
    }
    let faults: Vec<Fault> = setting.split(',').map(|it| it.trim().parse()).collect::<Result<_, _>>()?;
    let faults: Vec<Fault> = faults.into_iter().filter(|fault| fault.is_at(start.id)).collect();
    if faults.is_empty() {
        return Ok(plan);
    }
    tracing::warn!(task = %start.id, ?faults, "faults are injected");
    Ok(Arc::new(FaultExec { input: plan, faults }))
}

/// The rows of its input, with faults among them. Only ever the uppermost node of a task's plan.
#[derive(Debug)]
struct FaultExec {
    input: Arc<dyn ExecutionPlan>,
    faults: Vec<Fault>,
}

impl DisplayAs for FaultExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "FaultExec: {:?}", self.faults)
    }
}

impl ExecutionPlan for FaultExec {
    fn name(&self) -> &str {
        "FaultExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    sheaf_planners::one_input!();

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self { input: children.swap_remove(0), faults: self.faults.clone() }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let schema = input.schema();
        let faults = self.faults.clone();
        let rows = futures::stream::try_unfold((input, 0u64), move |(mut input, n_rows)| {
            let faults = faults.clone();
            async move {
                for fault in faults.into_iter().filter(|fault| n_rows >= fault.after_rows) {
                    fault.strike().await?;
                }
                let Some(batch) = input.next().await.transpose()? else { return Ok(None) };
                let n_rows = n_rows + batch.num_rows() as u64;
                Ok(Some((batch, (input, n_rows))))
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sheaf_common::{QueryId, StageId};

    #[test]
    fn faults_are_read_and_found() {
        let fault: Fault = "io@2.*.0+500".parse().unwrap();
        assert_eq!(fault, Fault { kind: Kind::Io, place: [Some(2), None, Some(0)], after_rows: 500 });
        let task = TaskId { query: QueryId(1), stage: StageId(2), task: 7, attempt: 0 };
        assert!(fault.is_at(task) && !fault.is_at(TaskId { attempt: 1, ..task }));
        let slow: Fault = "slow=20@*.*.*".parse().unwrap();
        assert_eq!(slow.kind, Kind::Slow(Duration::from_millis(20)));
        for wrong in ["io", "io@1.2", "io@1.2.x", "hum@1.2.3", "slow@1.2.3", "io@1.2.3+", ""] {
            assert_eq!(wrong.parse::<Fault>().unwrap_err().code, ErrorCode::InvalidArgument, "{wrong}");
        }
    }
}
