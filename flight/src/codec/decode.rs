//! From the tables to a plan: the walk, and expressions.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::format::DEFAULT_CAST_OPTIONS;
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::{Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::{FunctionRegistry, TaskContext};
use datafusion::physical_expr::expressions::{CastExpr, Literal, TryCastExpr};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::from_proto::parse_physical_expr_with_converter;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalPlanNodeExt, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::{
    PhysicalDynamicFilterNode, PhysicalExprNode, PhysicalPlanNode, physical_expr_node::ExprType,
    physical_plan_node::PhysicalPlanType,
};
use prost::Message;

use super::wire::{self, ExprKind, NodeKind};
use super::{CodecError, NoExtensions, operators, scans, windows, with_stack};

pub(super) fn corrupt<T>(what: &str) -> Result<T> {
    Err(CodecError::Corrupt(what.to_owned()).into())
}

/// A field that every writer sets.
pub(super) fn required<T>(field: Option<T>, what: &str) -> Result<T> {
    match field {
        Some(field) => Ok(field),
        None => corrupt(&format!("{what} is missing")),
    }
}

/// The tables while they are read.
pub(super) struct Decoder<'a> {
    exprs: Vec<ExprKind>,
    nodes: Vec<NodeKind>,
    context: PhysicalPlanDecodeContext<'a>,
    /// One filter for each identity, as its producer holds it: what the producer learns is seen by all.
    filters: RefCell<HashMap<u64, Arc<dyn PhysicalExpr>>>,
    /// Only lower numbers may be read, so that no message can send us in a circle.
    expr_bound: Cell<usize>,
    node_bound: Cell<usize>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(stage: &wire::Stage, context: &'a TaskContext) -> Result<Self> {
        let expr = |bytes: &Vec<u8>| match wire::Expr::decode(bytes.as_slice()) {
            Ok(wire::Expr { kind: Some(kind) }) => Ok(kind),
            Ok(_) => corrupt("an expression of unknown kind"),
            Err(error) => corrupt(&error.to_string()),
        };
        let node = |bytes: &Vec<u8>| match wire::Node::decode(bytes.as_slice()) {
            Ok(wire::Node { kind: Some(kind) }) => Ok(kind),
            Ok(_) => corrupt("a plan node of unknown kind"),
            Err(error) => corrupt(&error.to_string()),
        };
        let exprs: Vec<ExprKind> = stage.exprs.iter().map(expr).collect::<Result<_>>()?;
        let nodes: Vec<NodeKind> = stage.nodes.iter().map(node).collect::<Result<_>>()?;
        Ok(Self {
            expr_bound: Cell::new(exprs.len()),
            node_bound: Cell::new(nodes.len()),
            exprs,
            nodes,
            context: PhysicalPlanDecodeContext::new(context, &NoExtensions),
            filters: RefCell::default(),
        })
    }

    pub(super) fn task_context(&self) -> &'a TaskContext {
        self.context.task_ctx()
    }

    pub(super) fn context(&self) -> &PhysicalPlanDecodeContext<'a> {
        &self.context
    }

    /// The plan that holds all others.
    pub(super) fn root(&self) -> Result<Arc<dyn ExecutionPlan>> {
        match self.nodes.len().checked_sub(1) {
            Some(last) => self.plan(last as u32),
            None => corrupt("there is no plan"),
        }
    }

    pub(super) fn plan(&self, number: u32) -> Result<Arc<dyn ExecutionPlan>> {
        let number = number as usize;
        if number >= self.node_bound.get() {
            return corrupt("a plan node holds one that comes after it");
        }
        let outer = self.node_bound.replace(number);
        let plan = with_stack(|| self.plan_of(&self.nodes[number]));
        self.node_bound.set(outer);
        plan
    }

    fn plan_of(&self, kind: &NodeKind) -> Result<Arc<dyn ExecutionPlan>> {
        match kind {
            NodeKind::Upstream(node) => operators::decode_upstream(self, node),
            NodeKind::Boundary(node) => operators::decode_boundary(self, node),
            NodeKind::Slot(node) => operators::decode_slot(self, node),
            NodeKind::Generator(node) => operators::decode_generator(node),
            NodeKind::RowId(node) => operators::decode_row_id(self, node),
            NodeKind::MergeCopies(node) => operators::decode_merge_copies(self, node),
            NodeKind::TableSink(node) => operators::decode_table_sink(self, node),
            NodeKind::Limit(node) => operators::decode_limit(self, node),
            NodeKind::PartialSort(node) => operators::decode_partial_sort(self, node),
            NodeKind::PartitionedTopK(node) => operators::decode_partitioned_topk(self, node),
            NodeKind::PiecewiseMergeJoin(node) => operators::decode_piecewise_merge_join(self, node),
            NodeKind::RecursiveQuery(node) => operators::decode_recursive_query(self, node),
            NodeKind::WorkTable(node) => operators::decode_work_table(node),
            NodeKind::Projection(node) => operators::decode_projection(self, node),
            NodeKind::Window(node) => windows::decode_window(self, node),
            NodeKind::FileScan(node) => scans::decode_file_scan(self, node),
            NodeKind::Memory(node) => scans::decode_memory(self, node),
            NodeKind::Series(node) => scans::decode_series(self, node),
        }
    }

    pub(super) fn upstream(&self, node: Option<&PhysicalPlanNode>) -> Result<Arc<dyn ExecutionPlan>> {
        required(node, "a plan node")?.try_into_physical_plan_with_context(&self.context, self)
    }

    /// An expression over the columns of `schema`.
    pub(super) fn expr(&self, number: u32, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
        let number = number as usize;
        if number >= self.expr_bound.get() {
            return corrupt("an expression holds one that comes after it");
        }
        let outer = self.expr_bound.replace(number);
        let expr = with_stack(|| self.expr_of(&self.exprs[number], schema));
        self.expr_bound.set(outer);
        expr
    }

    fn expr_of(&self, kind: &ExprKind, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
        match kind {
            ExprKind::Upstream(node) => match (&node.expr_type, node.expr_id) {
                (Some(ExprType::DynamicFilter(filter)), Some(id)) => self.dynamic_filter(id, filter, schema),
                _ => parse_physical_expr_with_converter(node, schema, &self.context, self),
            },
            ExprKind::Function(function) => self.function(function, schema),
            ExprKind::Cast(cast) => self.cast(cast, schema),
            ExprKind::Literal(literal) => self.literal(literal, schema),
        }
    }

    /// Where the same filter stands over other columns, it is derived from the first, which keeps them one filter.
    fn dynamic_filter(
        &self,
        id: u64,
        filter: &PhysicalDynamicFilterNode,
        schema: &Schema,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let known = self.filters.borrow().get(&id).map(Arc::clone);
        let original = match known {
            Some(known) => known,
            None => {
                let original = PhysicalDynamicFilterNode { remapped_children: vec![], ..filter.clone() };
                let expr_type = Some(ExprType::DynamicFilter(Box::new(original)));
                let node = PhysicalExprNode { expr_id: Some(id), expr_type };
                let original = parse_physical_expr_with_converter(&node, schema, &self.context, self)?;
                self.filters.borrow_mut().insert(id, Arc::clone(&original));
                original
            }
        };
        if filter.remapped_children.is_empty() {
            return Ok(original);
        }
        let children = filter
            .remapped_children
            .iter()
            .map(|child| self.proto_to_physical_expr(child, schema, &self.context))
            .collect::<Result<_>>()?;
        original.with_new_children(children)
    }

    fn function(&self, function: &wire::Function, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
        let udf = self.task_context().udf(&function.function)?;
        let args = self.exprs(&function.args, schema)?;
        let field = field_from_wire(&function.field)?;
        let options = Arc::clone(self.task_context().session_config().options());
        Ok(Arc::new(ScalarFunctionExpr::new(&function.name, udf, args, field, options)))
    }

    fn cast(&self, cast: &wire::Cast, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = self.expr(cast.expr, schema)?;
        let field = field_from_wire(&cast.field)?;
        if cast.is_try {
            return Ok(match cast.explicit {
                true => Arc::new(TryCastExpr::new_with_target_field(expr, field)),
                false => Arc::new(TryCastExpr::new(expr, field.data_type().clone())),
            });
        }
        let mut options = DEFAULT_CAST_OPTIONS;
        options.safe = cast.safe;
        Ok(match cast.explicit {
            true => Arc::new(CastExpr::new_with_target_field(expr, field, Some(options))),
            false => Arc::new(CastExpr::new(expr, field.data_type().clone(), Some(options))),
        })
    }

    fn literal(&self, literal: &wire::Literal, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = self.expr(literal.expr, schema)?;
        let field = field_from_wire(&literal.field)?;
        match expr.downcast_ref::<Literal>() {
            Some(plain) => {
                let metadata = FieldMetadata::from(field.as_ref());
                Ok(Arc::new(Literal::new_with_metadata(plain.value().clone(), Some(metadata))))
            }
            None => corrupt("a literal without a value"),
        }
    }

    pub(super) fn exprs(&self, numbers: &[u32], schema: &Schema) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        numbers.iter().map(|number| self.expr(*number, schema)).collect()
    }

    pub(super) fn sort_exprs(&self, exprs: &[wire::SortExpr], schema: &Schema) -> Result<Vec<PhysicalSortExpr>> {
        let decode = |sort: &wire::SortExpr| {
            let options = SortOptions { descending: sort.descending, nulls_first: sort.nulls_first };
            Ok(PhysicalSortExpr::new(self.expr(sort.expr, schema)?, options))
        };
        exprs.iter().map(decode).collect()
    }

    /// An ordering that may be absent.
    pub(super) fn ordering(&self, ordering: Option<&wire::Ordering>, schema: &Schema) -> Result<Option<LexOrdering>> {
        match ordering {
            Some(ordering) => Ok(LexOrdering::new(self.sort_exprs(&ordering.exprs, schema)?)),
            None => Ok(None),
        }
    }
}

pub(super) fn schema_from_wire(schema: &Option<datafusion_proto::protobuf::Schema>) -> Result<SchemaRef> {
    let schema = required(schema.as_ref(), "a schema")?;
    Ok(Arc::new(schema.try_into().map_err(DataFusionError::from)?))
}

pub(super) fn field_from_wire(field: &Option<datafusion_proto::protobuf::Schema>) -> Result<FieldRef> {
    let schema = schema_from_wire(field)?;
    Ok(Arc::clone(required(schema.fields().first(), "a field")?))
}

pub(super) fn columns_from_wire(columns: &Option<wire::Columns>) -> Option<Vec<usize>> {
    columns.as_ref().map(|columns| columns.columns.iter().map(|column| *column as usize).collect())
}

fn reference(bytes: &[u8]) -> Result<u32> {
    match bytes.try_into() {
        Ok(bytes) => Ok(u32::from_le_bytes(bytes)),
        Err(_) => corrupt("a reference of the wrong length"),
    }
}

impl PhysicalProtoConverterExtension for Decoder<'_> {
    fn proto_to_execution_plan(
        &self,
        proto: &PhysicalPlanNode,
        _: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match &proto.physical_plan_type {
            Some(PhysicalPlanType::Extension(child)) => self.plan(reference(&child.node)?),
            _ => corrupt("a plan node within another"),
        }
    }

    fn proto_to_physical_expr(
        &self,
        proto: &PhysicalExprNode,
        schema: &Schema,
        _: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        match &proto.expr_type {
            Some(ExprType::Extension(child)) => self.expr(reference(&child.expr)?, schema),
            _ => corrupt("an expression within another"),
        }
    }

    fn execution_plan_to_proto(
        &self,
        _: &Arc<dyn ExecutionPlan>,
        _: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalPlanNode> {
        internal_err!("a decoder does not encode")
    }

    fn physical_expr_to_proto(
        &self,
        _: &Arc<dyn PhysicalExpr>,
        _: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalExprNode> {
        internal_err!("a decoder does not encode")
    }
}
