//! The leaf that stands where a plan was cut.
//!
//! In: nothing; it names the stage that it reads. Out: that stage's rows, as its kind says. It is data for the
//! planner, the codec and EXPLAIN and never runs: before a plan runs, every one is replaced by a `RemoteExec`.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions, SendableRecordBatchStream,
};
use sheaf_common::StageId;

use crate::stage::BoundaryKind;

/// Rows of another stage.
#[derive(Debug, Clone)]
pub struct NetworkBoundaryExec {
    /// The stage that is read.
    pub stage: StageId,
    pub kind: BoundaryKind,
    /// Tasks of that stage.
    pub producers: usize,
    properties: Arc<PlanProperties>,
}

impl NetworkBoundaryExec {
    /// A boundary over all partitions of the consuming stage, as its template shows them.
    ///
    /// `partitioning` counts them: tasks × partitions per task for a shuffle, the producers for gather and merge,
    /// one for a broadcast. `equivalences` are those of the rows, with an ordering only for a merge.
    pub fn new(
        stage: StageId,
        kind: BoundaryKind,
        producers: usize,
        equivalences: EquivalenceProperties,
        partitioning: Partitioning,
    ) -> Self {
        let properties =
            PlanProperties::new(equivalences, partitioning, EmissionType::Incremental, Boundedness::Bounded);
        Self { stage, kind, producers, properties: Arc::new(properties) }
    }

    /// A boundary as it comes out of the codec: what is known of its rows is their schema and their order.
    pub fn decoded(
        stage: StageId,
        kind: BoundaryKind,
        producers: usize,
        schema: SchemaRef,
        ordering: Option<LexOrdering>,
        partitioning: Partitioning,
    ) -> Self {
        let equivalences = EquivalenceProperties::new_with_orderings(schema, ordering);
        Self::new(stage, kind, producers, equivalences, partitioning)
    }

    /// The order within each partition, for a merge.
    pub fn ordering(&self) -> Option<&LexOrdering> {
        self.properties.output_ordering()
    }

    /// The keys of a shuffle.
    pub fn hash_exprs(&self) -> &[Arc<dyn PhysicalExpr>] {
        match &self.properties.partitioning {
            Partitioning::Hash(exprs, _) => exprs,
            _ => &[],
        }
    }
}

impl DisplayAs for NetworkBoundaryExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "NetworkBoundaryExec: {} from stage {}, {}",
            self.kind.name(),
            self.stage,
            self.properties.partitioning
        )
    }
}

impl ExecutionPlan for NetworkBoundaryExec {
    fn name(&self) -> &str {
        "NetworkBoundaryExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("a network boundary (stage {}) was run before it was connected", self.stage)
    }
}
