//! Window operators. Upstream loses `IGNORE NULLS` and the direction of window functions, and the filter and the
//! direction of window aggregates.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::WindowFrame;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, StandardWindowExpr, StandardWindowFunctionExpr, WindowExpr,
};
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec, WindowUDFExpr, create_udwf_window_expr};
use datafusion::physical_plan::{ExecutionPlan, InputOrderMode};

use super::decode::{Decoder, columns_from_wire, corrupt, required};
use super::encode::{Encoder, columns_to_wire, refuse};
use super::tail::debug_tail;
use super::wire::{self, NodeKind};

pub(super) fn encode_window(to: &Encoder, plan: &Arc<dyn ExecutionPlan>) -> Result<Option<NodeKind>> {
    let exprs = |exprs: &[Arc<dyn WindowExpr>]| -> Result<Vec<wire::WindowExpr>> {
        exprs.iter().map(|expr| encode_expr(to, expr)).collect()
    };
    let window = if let Some(window) = plan.downcast_ref::<WindowAggExec>() {
        wire::Window {
            input: to.plan(window.input())?,
            exprs: exprs(window.window_expr())?,
            can_repartition: !window.partition_keys().is_empty(),
            bounded: None,
        }
    } else if let Some(window) = plan.downcast_ref::<BoundedWindowAggExec>() {
        wire::Window {
            input: to.plan(window.input())?,
            exprs: exprs(window.window_expr())?,
            can_repartition: !window.partition_keys().is_empty(),
            bounded: Some(match &window.input_order_mode {
                InputOrderMode::Linear => wire::InputOrder { sorted: false, partially: None },
                InputOrderMode::PartiallySorted(columns) => {
                    wire::InputOrder { sorted: false, partially: columns_to_wire(Some(columns)) }
                }
                InputOrderMode::Sorted => wire::InputOrder { sorted: true, partially: None },
            }),
        }
    } else {
        return Ok(None);
    };
    Ok(Some(NodeKind::Window(window)))
}

pub(super) fn decode_window(from: &Decoder, node: &wire::Window) -> Result<Arc<dyn ExecutionPlan>> {
    let input = from.plan(node.input)?;
    let schema = input.schema();
    let exprs = node.exprs.iter().map(|expr| decode_expr(from, expr, &schema)).collect::<Result<Vec<_>>>()?;
    let Some(order) = &node.bounded else {
        return Ok(Arc::new(WindowAggExec::try_new(exprs, input, node.can_repartition)?));
    };
    let mode = match (order.sorted, columns_from_wire(&order.partially)) {
        (true, _) => InputOrderMode::Sorted,
        (false, Some(columns)) => InputOrderMode::PartiallySorted(columns),
        (false, None) => InputOrderMode::Linear,
    };
    Ok(Arc::new(BoundedWindowAggExec::try_new(exprs, input, mode, node.can_repartition)?))
}

fn encode_expr(to: &Encoder, expr: &Arc<dyn WindowExpr>) -> Result<wire::WindowExpr> {
    let mut encoded = wire::WindowExpr {
        name: expr.name().to_owned(),
        partition_by: to.exprs(expr.partition_by())?,
        order_by: to.sort_exprs(expr.order_by())?,
        frame: Some(expr.get_window_frame().as_ref().try_into().map_err(DataFusionError::from)?),
        ..Default::default()
    };
    let any = expr.as_any();
    if let Some(plain) = any.downcast_ref::<PlainAggregateWindowExpr>() {
        encoded.kind = wire::WindowKind::PlainAggregate as i32;
        refuse_filter(plain)?;
        encode_aggregate(to, plain.get_aggregate_expr(), &mut encoded)?;
    } else if let Some(sliding) = any.downcast_ref::<SlidingAggregateWindowExpr>() {
        encoded.kind = wire::WindowKind::SlidingAggregate as i32;
        refuse_filter(sliding)?;
        encode_aggregate(to, sliding.get_aggregate_expr(), &mut encoded)?;
    } else if let Some(standard) = any.downcast_ref::<StandardWindowExpr>() {
        encoded.kind = wire::WindowKind::Function as i32;
        encode_function(to, standard.get_standard_func_expr(), &mut encoded)?;
    } else {
        return refuse(&format!("the window expression {}", expr.name()), "there is no encoding for it");
    }
    Ok(encoded)
}

/// The filter of a window aggregate cannot be read. It is the last field, so that `Debug` says whether there is one.
fn refuse_filter(expr: &dyn WindowExpr) -> Result<()> {
    match debug_tail(&expr).ends_with("filter: None }") {
        true => Ok(()),
        false => refuse(expr.name(), "a window aggregate with FILTER has no encoding"),
    }
}

fn encode_aggregate(to: &Encoder, aggregate: &AggregateFunctionExpr, encoded: &mut wire::WindowExpr) -> Result<()> {
    encoded.function = aggregate.fun().name().to_owned();
    encoded.args = to.exprs(&aggregate.expressions())?;
    encoded.ignore_nulls = aggregate.ignore_nulls();
    encoded.distinct = aggregate.is_distinct();
    encoded.reversed = aggregate.is_reversed();
    encoded.aggregate_order_by = to.sort_exprs(aggregate.order_bys())?;
    encoded.human_display = aggregate.human_display().unwrap_or_default().to_owned();
    encoded.human_display_alias = aggregate.human_display_alias().unwrap_or_default().to_owned();
    Ok(())
}

fn encode_function(
    to: &Encoder,
    function: &Arc<dyn StandardWindowFunctionExpr>,
    encoded: &mut wire::WindowExpr,
) -> Result<()> {
    let Some(udf) = function.as_any().downcast_ref::<WindowUDFExpr>() else {
        return refuse(function.name(), "it is no window function that is found by its name");
    };
    // Neither flag has a getter; they are the last fields that `Debug` prints.
    let tail = debug_tail(udf);
    let flags = [(false, false), (false, true), (true, false), (true, true)]
        .into_iter()
        .find(|(reversed, ignore)| tail.ends_with(&format!(", is_reversed: {reversed}, ignore_nulls: {ignore} }}")));
    let Some((reversed, ignore_nulls)) = flags else {
        return refuse(function.name(), "its direction is not known");
    };
    encoded.reversed = reversed;
    encoded.ignore_nulls = ignore_nulls;
    encoded.args = to.exprs(udf.args())?;
    if !reversed {
        encoded.function = udf.fun().name().to_owned();
        return Ok(());
    }
    // A reversed `first_value` runs as `last_value`: what can be built again by name is the one it came from.
    let original = function.reverse_expr();
    let original = original.as_ref().and_then(|it| it.as_any().downcast_ref::<WindowUDFExpr>());
    match original {
        Some(original) => encoded.function = original.fun().name().to_owned(),
        None => return refuse(function.name(), "it cannot be turned back"),
    }
    Ok(())
}

fn decode_expr(from: &Decoder, expr: &wire::WindowExpr, schema: &SchemaRef) -> Result<Arc<dyn WindowExpr>> {
    let partition_by = from.exprs(&expr.partition_by, schema)?;
    let order_by = from.sort_exprs(&expr.order_by, schema)?;
    let frame: WindowFrame = required(expr.frame.clone(), "a window frame")?.try_into()?;
    let frame = Arc::new(frame);
    Ok(match wire::WindowKind::try_from(expr.kind) {
        Ok(wire::WindowKind::Function) => {
            let function = decode_function(from, expr, schema)?;
            Arc::new(StandardWindowExpr::new(function, &partition_by, &order_by, frame))
        }
        Ok(wire::WindowKind::PlainAggregate) => {
            let aggregate = decode_aggregate(from, expr, schema)?;
            Arc::new(PlainAggregateWindowExpr::new(aggregate, &partition_by, &order_by, frame, None))
        }
        Ok(wire::WindowKind::SlidingAggregate) => {
            let aggregate = decode_aggregate(from, expr, schema)?;
            Arc::new(SlidingAggregateWindowExpr::new(aggregate, &partition_by, &order_by, frame, None))
        }
        Err(_) => return corrupt("a window expression of unknown kind"),
    })
}

fn decode_aggregate(from: &Decoder, expr: &wire::WindowExpr, schema: &SchemaRef) -> Result<Arc<AggregateFunctionExpr>> {
    let udaf = from.task_context().udaf(&expr.function)?;
    let args = from.exprs(&expr.args, schema)?;
    let builder = AggregateExprBuilder::new(udaf, args)
        .schema(Arc::clone(schema))
        .alias(&expr.name)
        .order_by(from.sort_exprs(&expr.aggregate_order_by, schema)?)
        .with_ignore_nulls(expr.ignore_nulls)
        .with_distinct(expr.distinct)
        .with_reversed(expr.reversed)
        .human_display(&expr.human_display)
        .human_display_alias(&expr.human_display_alias);
    Ok(Arc::new(builder.build()?))
}

fn decode_function(
    from: &Decoder,
    expr: &wire::WindowExpr,
    schema: &SchemaRef,
) -> Result<Arc<dyn StandardWindowFunctionExpr>> {
    let udwf = from.task_context().udwf(&expr.function)?;
    let args = from.exprs(&expr.args, schema)?;
    let function = create_udwf_window_expr(&udwf, &args, schema, expr.name.clone(), expr.ignore_nulls)?;
    match expr.reversed {
        false => Ok(function),
        true => required(function.reverse_expr(), "the reverse of a window function"),
    }
}
