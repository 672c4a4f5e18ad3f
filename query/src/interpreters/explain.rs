//! `EXPLAIN`: the plan as rows of one column.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use sheaf_planners::explain::logical;
use sheaf_planners::parser::{ExplainFormat, ExplainStatement};

use super::query::logical_plan;
use crate::answer::Answer;
use crate::binder::views::SessionViews;
use crate::context::QueryContext;
use crate::coordinator;
use crate::error::QueryError;
use crate::session::{Session, of_batches};

pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("explain", DataType::Utf8, false)]))
}

pub(super) async fn run(
    session: &Session,
    context: &Arc<QueryContext>,
    statement: ExplainStatement,
    values: &[ScalarValue],
) -> Result<Answer, QueryError> {
    let ExplainStatement { query, analyze, format } = statement;
    let plan = logical_plan(session, context, query.query, Some(values)).await?;
    if let Some(views) = context.session_state.config().get_extension::<SessionViews>() {
        views.need_explained(&context.rights)?;
    }
    let lines = match format {
        ExplainFormat::Logical => {
            let plan = context.session_state.optimize(&plan)?;
            logical(&plan)
        }
        format => coordinator::explain(Arc::clone(context), plan, format, analyze).await?,
    };
    let lines: ArrayRef = Arc::new(StringArray::from(lines));
    let batch = RecordBatch::try_new(schema(), vec![lines])?;
    Ok(Answer::Rows(of_batches(schema(), vec![batch])))
}
