//! From a plan to entries of the tables: the walk, expressions, and what goes to datafusion-proto as it is.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Schema};
use datafusion::common::format::DEFAULT_CAST_OPTIONS;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CaseExpr, CastExpr, Column, DynamicFilterPhysicalExpr, InListExpr, IsNotNullExpr, IsNullExpr,
    LambdaExpr, LambdaVariable, LikeExpr, Literal, NegativeExpr, NotExpr, TryCastExpr, UnKnownColumn,
};
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_expr::{HigherOrderFunctionExpr, PhysicalExpr, PhysicalSortExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion_proto::physical_plan::to_proto::serialize_physical_expr_with_converter;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalPlanNodeExt, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::{
    PhysicalExprNode, PhysicalExtensionExprNode, PhysicalExtensionNode, PhysicalPlanNode, physical_expr_node::ExprType,
    physical_plan_node::PhysicalPlanType,
};
use prost::Message;

use super::wire::{self, ExprKind, NodeKind};
use super::{CodecError, NoExtensions, operators, scans, windows, with_stack};

/// What a plan holds that no worker could be told.
pub(super) fn refuse<T>(what: &str, why: impl Display) -> Result<T> {
    Err(CodecError::Unsupported(format!("{what} cannot be sent to workers: {why}")).into())
}

/// One operator's way into a message; `None` for the plans of others.
type EncodeNode = fn(&Encoder, &Arc<dyn ExecutionPlan>) -> Result<Option<NodeKind>>;

/// Asked in this order; the last takes what datafusion-proto does well and refuses the rest.
const ENCODERS: &[EncodeNode] = &[
    operators::encode_boundary,
    operators::encode_slot,
    operators::encode_generator,
    operators::encode_row_id,
    operators::encode_merge_copies,
    operators::encode_table_sink,
    operators::encode_limit,
    operators::encode_partial_sort,
    operators::encode_partitioned_topk,
    operators::encode_piecewise_merge_join,
    operators::encode_recursive_query,
    operators::encode_work_table,
    operators::encode_projection,
    windows::encode_window,
    scans::encode_file_scan,
    scans::encode_memory,
    scans::encode_series,
    operators::encode_upstream,
];

/// The tables while they grow.
pub(super) struct Encoder {
    exprs: RefCell<Vec<Vec<u8>>>,
    /// Number of each entry of `exprs`.
    numbers: RefCell<HashMap<Vec<u8>, u32>>,
    nodes: RefCell<Vec<Vec<u8>>>,
    /// Only asks whether the plan can be encoded: subqueries need no value yet.
    is_trial: bool,
    /// The node at hand shows the nullability of its expressions in its schema.
    exact: Cell<bool>,
}

impl Encoder {
    pub(super) fn new(is_trial: bool) -> Self {
        Self {
            exprs: RefCell::default(),
            numbers: RefCell::default(),
            nodes: RefCell::default(),
            is_trial,
            exact: Cell::new(true),
        }
    }

    pub(super) fn finish(self, output: wire::Output) -> wire::Stage {
        wire::Stage {
            version: wire::VERSION,
            exprs: self.exprs.into_inner(),
            nodes: self.nodes.into_inner(),
            output: Some(output),
        }
    }

    /// Adds a plan below those that hold it, and returns its number.
    pub(super) fn plan(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<u32> {
        with_stack(|| {
            let outer = self.exact.replace(!is_predicate_only(plan));
            for encode in ENCODERS {
                if let Some(kind) = encode(self, plan)? {
                    self.exact.set(outer);
                    let mut nodes = self.nodes.borrow_mut();
                    nodes.push(wire::Node { kind: Some(kind) }.encode_to_vec());
                    return number(nodes.len() - 1);
                }
            }
            refuse(plan.name(), "there is no encoding for it")
        })
    }

    /// The message of a plan that datafusion-proto knows, with its children in the tables.
    pub(super) fn upstream(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<PhysicalPlanNode> {
        PhysicalPlanNode::try_from_physical_plan_with_converter(Arc::clone(plan), &NoExtensions, self)
    }

    /// Adds an expression below those that hold it, and returns its number. Equal ones share theirs.
    pub(super) fn expr(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<u32> {
        with_stack(|| {
            let kind = self.expr_kind(expr)?;
            self.add_expr(kind)
        })
    }

    fn add_expr(&self, kind: ExprKind) -> Result<u32> {
        let bytes = wire::Expr { kind: Some(kind) }.encode_to_vec();
        if let Some(known) = self.numbers.borrow().get(&bytes) {
            return Ok(*known);
        }
        let mut exprs = self.exprs.borrow_mut();
        let number = number(exprs.len())?;
        self.numbers.borrow_mut().insert(bytes.clone(), number);
        exprs.push(bytes);
        Ok(number)
    }

    pub(super) fn exprs<'a>(&self, exprs: impl IntoIterator<Item = &'a Arc<dyn PhysicalExpr>>) -> Result<Vec<u32>> {
        exprs.into_iter().map(|expr| self.expr(expr)).collect()
    }

    pub(super) fn sort_exprs<'a>(
        &self,
        exprs: impl IntoIterator<Item = &'a PhysicalSortExpr>,
    ) -> Result<Vec<wire::SortExpr>> {
        let encode = |sort: &PhysicalSortExpr| {
            Ok(wire::SortExpr {
                expr: self.expr(&sort.expr)?,
                descending: sort.options.descending,
                nulls_first: sort.options.nulls_first,
            })
        };
        exprs.into_iter().map(encode).collect()
    }

    pub(super) fn ordering<'a>(&self, exprs: impl IntoIterator<Item = &'a PhysicalSortExpr>) -> Result<wire::Ordering> {
        Ok(wire::Ordering { exprs: self.sort_exprs(exprs)? })
    }

    fn expr_kind(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<ExprKind> {
        if let Some(subquery) = expr.downcast_ref::<ScalarSubqueryExpr>() {
            return self.subquery(subquery);
        }
        if let Some(function) = expr.downcast_ref::<ScalarFunctionExpr>() {
            return self.function(function);
        }
        if let Some(cast) = expr.downcast_ref::<CastExpr>() {
            return self.cast(cast);
        }
        if let Some(cast) = expr.downcast_ref::<TryCastExpr>() {
            return Ok(ExprKind::Cast(wire::Cast {
                expr: self.expr(cast.expr())?,
                field: Some(field_to_wire(cast.target_field())?),
                explicit: cast.target_metadata().is_some(),
                safe: true,
                is_try: true,
            }));
        }
        if let Some(literal) = expr.downcast_ref::<Literal>() {
            let field = literal.return_field(&Schema::empty())?;
            if !field.metadata().is_empty() {
                let plain: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(literal.value().clone()));
                let field = Some(field_to_wire(&field)?);
                return Ok(ExprKind::Literal(wire::Literal { expr: self.expr(&plain)?, field }));
            }
        }
        if !is_known(expr) {
            return refuse(&format!("the expression {expr}"), "there is no encoding for it");
        }
        let node = serialize_physical_expr_with_converter(expr, &NoExtensions, self)?;
        Ok(ExprKind::Upstream(Box::new(node)))
    }

    /// The value itself: workers do not share the container that the expression waits for.
    fn subquery(&self, subquery: &ScalarSubqueryExpr) -> Result<ExprKind> {
        let target = subquery.return_field(&Schema::empty())?;
        #[expect(deprecated, reason = "nothing else says which slot it reads")]
        let index = subquery.index();
        let value = match subquery.results().get(index) {
            Some(value) => value,
            None if self.is_trial => ScalarValue::try_from(target.data_type())?,
            None => return Err(CodecError::SubqueryPending.into()),
        };
        let same_type = value.data_type() == *target.data_type();
        let same_nullability = value.is_null() == target.is_nullable();
        let literal: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(value));
        // A literal without NULL would change the schema above it; a predicate does not show, and is better off with
        // the bare literal, which scans can prune by.
        if same_type && (same_nullability || !self.exact.get()) {
            return self.expr_kind(&literal);
        }
        let field = Some(field_to_wire(&target)?);
        Ok(ExprKind::Cast(wire::Cast { expr: self.expr(&literal)?, field, explicit: true, safe: false, is_try: false }))
    }

    fn function(&self, function: &ScalarFunctionExpr) -> Result<ExprKind> {
        let field = function.return_field(&Schema::empty())?;
        Ok(ExprKind::Function(wire::Function {
            function: function.fun().name().to_owned(),
            name: function.name().to_owned(),
            args: self.exprs(function.args())?,
            field: Some(field_to_wire(&field)?),
        }))
    }

    fn cast(&self, cast: &CastExpr) -> Result<ExprKind> {
        let options = cast.cast_options();
        if options.format_options != DEFAULT_CAST_OPTIONS.format_options {
            return refuse(&cast.to_string(), "it has a text format of its own");
        }
        Ok(ExprKind::Cast(wire::Cast {
            expr: self.expr(cast.expr())?,
            field: Some(field_to_wire(cast.target_field())?),
            explicit: cast.has_explicit_metadata(),
            safe: options.safe,
            is_try: false,
        }))
    }
}

/// Filters and joins use the value of their expressions, never the schema.
fn is_predicate_only(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<FilterExec>()
        || plan.is::<HashJoinExec>()
        || plan.is::<NestedLoopJoinExec>()
        || plan.is::<SortMergeJoinExec>()
}

/// What datafusion-proto encodes without loss, children aside.
fn is_known(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.is::<BinaryExpr>()
        || expr.is::<CaseExpr>()
        || expr.is::<Column>()
        || expr.is::<DynamicFilterPhysicalExpr>()
        || expr.is::<HigherOrderFunctionExpr>()
        || expr.is::<InListExpr>()
        || expr.is::<IsNotNullExpr>()
        || expr.is::<IsNullExpr>()
        || expr.is::<LambdaExpr>()
        || expr.is::<LambdaVariable>()
        || expr.is::<LikeExpr>()
        || expr.is::<Literal>()
        || expr.is::<NegativeExpr>()
        || expr.is::<NotExpr>()
        || expr.is::<UnKnownColumn>()
}

pub(super) fn number(n: usize) -> Result<u32> {
    match u32::try_from(n) {
        Ok(n) => Ok(n),
        Err(_) => refuse("the plan", "it is too large"),
    }
}

pub(super) fn schema_to_wire(schema: &Schema) -> Result<datafusion_proto::protobuf::Schema> {
    schema.try_into().map_err(DataFusionError::from)
}

pub(super) fn field_to_wire(field: &FieldRef) -> Result<datafusion_proto::protobuf::Schema> {
    schema_to_wire(&Schema::new(vec![Field::clone(field)]))
}

pub(super) fn columns_to_wire(columns: Option<&[usize]>) -> Option<wire::Columns> {
    columns.map(|columns| wire::Columns { columns: columns.iter().map(|column| *column as u64).collect() })
}

/// Where datafusion-proto would nest a child, it gets the child's number.
impl PhysicalProtoConverterExtension for Encoder {
    fn execution_plan_to_proto(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        _: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalPlanNode> {
        let node = self.plan(plan)?.to_le_bytes().to_vec();
        let reference = PhysicalExtensionNode { node, inputs: vec![] };
        Ok(PhysicalPlanNode { physical_plan_type: Some(PhysicalPlanType::Extension(reference)) })
    }

    fn physical_expr_to_proto(
        &self,
        expr: &Arc<dyn PhysicalExpr>,
        _: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalExprNode> {
        let expr = self.expr(expr)?.to_le_bytes().to_vec();
        let reference = PhysicalExtensionExprNode { expr, inputs: vec![] };
        Ok(PhysicalExprNode { expr_id: None, expr_type: Some(ExprType::Extension(reference)) })
    }

    fn proto_to_execution_plan(
        &self,
        _: &PhysicalPlanNode,
        _: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        internal_err!("an encoder does not decode")
    }

    fn proto_to_physical_expr(
        &self,
        _: &PhysicalExprNode,
        _: &Schema,
        _: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        internal_err!("an encoder does not decode")
    }
}
