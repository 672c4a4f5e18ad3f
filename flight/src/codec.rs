//! A stage's plan as bytes and back.
//!
//! `datafusion-proto` does most operators and expressions. What is ours:
//! - **Flat tables.** Every plan and expression is an entry that names its children by number ([`wire`]). Upstream
//!   nests them, and prost reads no more than 100 levels unless all of DataFusion is built with another feature; it
//!   would also measure a nested message again at each level. Here the depth of a plan only costs stack, and reading
//!   and writing run on one that grows.
//! - **Our nodes**: boundaries, leaf slots, generators, row ids, the merge of copies and the sink of tables.
//! - **Scalar subqueries** are their values; a plan that still holds the operator that runs them is refused.
//! - **Dynamic filters** keep their identity within a stage: who holds the same filter holds it after decoding.
//! - **Functions** travel by name and are looked up where the plan is decoded.
//!
//! Only nodes that are known to come back whole are encoded; others are refused by name, and the query runs
//! undistributed. Read from datafusion 55.2, upstream loses:
//!
//! | what | here |
//! |---|---|
//! | `PartialSortExec`, `PartitionedTopKExec`, `PiecewiseMergeJoinExec`, `RecursiveQueryExec`, `WorkTableExec` | nodes of ours |
//! | limits over 32 bits (`LocalLimitExec`, `GlobalLimitExec`, filter, merge of partitions, scans) | 64 bits |
//! | limits of sorts and merges over 63 bits | lost; no table has as many rows |
//! | `IGNORE NULLS` and reversal of window functions, reversal of window aggregates | kept |
//! | FILTER of a window aggregate (it cannot be read from the plan) | refused |
//! | metadata of projections, function results, casts and literals | kept |
//! | options and target field of casts | kept, but for a text format of their own (refused) |
//! | files: compression, order that must be kept, CSV terminator, JSON arrays, Arrow streams, metadata size hint | kept |
//! | files: columns that the reader makes, schema adapters, encryption, access plans, a column twice | refused |
//! | files: ETag, version and order of each file | lost; a task's splits bring their own |
//! | Parquet: the order in which row groups are tried for a top-k | lost; a hint |
//! | memory tables: order under a projection; 32 bits of limit | kept; tables over 32 MiB refused |
//! | `generate_series`: projection and order | kept |
//! | grouping sets without any column | refused |
//! | order that an aggregate like `first_value` may rely on | lost; it then compares, which is right as well |
//! | `BinaryExpr::fail_on_overflow`, `SortPreservingMergeExec`'s round robin of ties | lost; nothing sets them |
//! | `StreamingTableExec`, other lazy tables, sinks, `EXPLAIN`, asynchronous functions, other scans | refused |

mod config;
mod decode;
mod encode;
mod operators;
mod parquet;
mod scans;
mod tail;
mod windows;
mod wire;

#[cfg(test)]
mod round_trip;

use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::Result as DataFusionResult;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use prost::Message;
use sheaf_common::{Classify, ErrorCode, WireError};
use sheaf_planners::error::to_wire;
use sheaf_planners::stage::StageOutput;

pub use config::{decode_config, encode_config};
use decode::Decoder;
use encode::{Encoder, refuse};

/// Why a plan did not become bytes, or bytes no plan.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The plan holds something that has no encoding: the query has to run where it is. Names what and why.
    #[error("{0}")]
    Unsupported(String),
    /// The plan waits for a scalar subquery that was to run first: a bug of the coordinator.
    #[error("a plan was encoded before its scalar subquery had a value")]
    SubqueryPending,
    /// The bytes are not what this version writes: another version, or damage.
    #[error("the plan of a stage cannot be read: {0}")]
    Corrupt(String),
    /// What DataFusion said, such as that a function is unknown on this node.
    #[error("{}", to_wire(.0).message)]
    DataFusion(DataFusionError),
}

impl Classify for CodecError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Unsupported(_) => ErrorCode::Unsupported,
            Self::SubqueryPending | Self::Corrupt(_) => ErrorCode::Internal,
            Self::DataFusion(error) => to_wire(error).code,
        }
    }

    fn is_retryable(&self) -> bool {
        match self {
            Self::DataFusion(error) => to_wire(error).retryable,
            Self::Unsupported(_) | Self::SubqueryPending | Self::Corrupt(_) => false,
        }
    }
}

/// The walks go through DataFusion's code and so through its error.
impl From<CodecError> for DataFusionError {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::DataFusion(error) => error,
            error => Self::External(Box::new(error)),
        }
    }
}

impl CodecError {
    /// Ours again, if that is what DataFusion passed on. No `From`: it would make other crates' `?` ambiguous.
    fn of(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(inner) => match inner.downcast::<Self>() {
                Ok(ours) => *ours,
                Err(inner) => Self::DataFusion(DataFusionError::External(inner)),
            },
            error => Self::DataFusion(error),
        }
    }
}

impl From<CodecError> for WireError {
    fn from(error: CodecError) -> Self {
        let wire = Self::new(error.code(), error.to_string());
        if error.is_retryable() { wire.retryable() } else { wire }
    }
}

/// A stage's plan and output as bytes, the same for the same plan.
///
/// Errs when the plan holds what has no encoding, or a scalar subquery without a value. Any depth of plan will do.
pub fn encode_stage(plan: &Arc<dyn ExecutionPlan>, output: &StageOutput) -> Result<Bytes, CodecError> {
    encode(plan, output, false).map(|stage| stage.encode_to_vec().into())
}

/// The plan and output of [`encode_stage`]'s bytes.
///
/// Functions come from the context's registry, object stores from its runtime, settings from its session. The caller
/// drops the plan: a deep one needs a deep stack for it. Errs when the bytes were not written by this version, or the
/// context lacks what the plan names.
pub fn decode_stage(bytes: &[u8], context: &TaskContext) -> Result<(Arc<dyn ExecutionPlan>, StageOutput), CodecError> {
    let stage = wire::Stage::decode(bytes).map_err(|error| CodecError::Corrupt(error.to_string()))?;
    if stage.version != wire::VERSION {
        let text = format!("it has version {}, not {}", stage.version, wire::VERSION);
        return Err(CodecError::Corrupt(text));
    }
    with_stack(|| {
        let decoder = Decoder::new(&stage, context)?;
        let plan = decoder.root()?;
        let output = decode_output(&decoder, stage.output.as_ref(), &plan)?;
        Ok((plan, output))
    })
    .map_err(CodecError::of)
}

/// Whether a plan can be sent to workers; the error's text is the reason why not.
///
/// Scalar subqueries may still be without a value.
pub fn check_encodable(plan: &Arc<dyn ExecutionPlan>) -> Result<(), CodecError> {
    let stage = encode(plan, &StageOutput::Gather, true)?;
    // The entries are flat but for the types of their columns, which prost reads only so deep.
    let is_readable = stage.exprs.iter().all(|bytes| wire::Expr::decode(bytes.as_slice()).is_ok())
        && stage.nodes.iter().all(|bytes| wire::Node::decode(bytes.as_slice()).is_ok());
    match is_readable {
        true => Ok(()),
        false => refuse("the plan", "a type in it is nested too deeply").map_err(CodecError::of),
    }
}

fn encode(plan: &Arc<dyn ExecutionPlan>, output: &StageOutput, is_trial: bool) -> Result<wire::Stage, CodecError> {
    with_stack(|| {
        let encoder = Encoder::new(is_trial);
        encoder.plan(plan)?;
        let output = encode_output(&encoder, output)?;
        Ok(encoder.finish(output))
    })
    .map_err(CodecError::of)
}

fn encode_output(encoder: &Encoder, output: &StageOutput) -> DataFusionResult<wire::Output> {
    let (kind, exprs, partitions) = match output {
        StageOutput::Hash { exprs, partitions } => (wire::OutputKind::Hash, encoder.exprs(exprs)?, *partitions),
        StageOutput::Broadcast => (wire::OutputKind::Broadcast, vec![], 0),
        StageOutput::Gather => (wire::OutputKind::Gather, vec![], 0),
    };
    Ok(wire::Output { kind: kind as i32, exprs, partitions: partitions as u64 })
}

fn decode_output(
    decoder: &Decoder,
    output: Option<&wire::Output>,
    plan: &Arc<dyn ExecutionPlan>,
) -> DataFusionResult<StageOutput> {
    let output = decode::required(output, "the output")?;
    match wire::OutputKind::try_from(output.kind) {
        Ok(wire::OutputKind::Hash) => {
            let exprs = decoder.exprs(&output.exprs, &plan.schema())?;
            Ok(StageOutput::Hash { exprs, partitions: output.partitions as usize })
        }
        Ok(wire::OutputKind::Broadcast) => Ok(StageOutput::Broadcast),
        Ok(wire::OutputKind::Gather) => Ok(StageOutput::Gather),
        Err(_) => decode::corrupt("an output of unknown kind"),
    }
}

/// Stack that must be left before the next step of a walk: DataFusion walks expressions itself, without looking.
const STACK_LEFT_BYTES: usize = 16 << 20;

/// Stack that is mapped when less is left. It costs memory only where it is touched.
const STACK_BYTES: usize = 64 << 20;

fn with_stack<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK_LEFT_BYTES, STACK_BYTES, work)
}

/// What datafusion-proto asks for nodes that it does not know: they never get that far. Functions are known by name.
#[derive(Debug)]
struct NoExtensions;

impl PhysicalExtensionCodec for NoExtensions {
    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        _: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> DataFusionResult<()> {
        refuse(node.name(), "there is no encoding for it")
    }

    fn try_decode(
        &self,
        _: &[u8],
        _: &[Arc<dyn ExecutionPlan>],
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        decode::corrupt("a plan node of unknown kind")
    }

    fn try_decode_udf(&self, name: &str, _: &[u8]) -> DataFusionResult<Arc<ScalarUDF>> {
        unknown_function(name)
    }

    fn try_decode_udaf(&self, name: &str, _: &[u8]) -> DataFusionResult<Arc<AggregateUDF>> {
        unknown_function(name)
    }

    fn try_decode_udwf(&self, name: &str, _: &[u8]) -> DataFusionResult<Arc<WindowUDF>> {
        unknown_function(name)
    }

    fn try_decode_higher_order_function(&self, name: &str, _: &[u8]) -> DataFusionResult<Arc<HigherOrderUDF>> {
        unknown_function(name)
    }
}

fn unknown_function<T>(name: &str) -> DataFusionResult<T> {
    let text = format!("function {name:?} does not exist on this node");
    Err(DataFusionError::External(Box::new(WireError::new(ErrorCode::FunctionNotFound, text))))
}
