//! `LOAD DATA [LOCAL] INFILE`: the lines of a file become rows of a managed table, in one commit.
//!
//! The rows come in on this node and are written by it: a client's file is a stream that nobody else can read.

use std::collections::HashMap;
use std::future::ready;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema};
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName, Query, SelectItem, SetExpr, VisitMut, VisitorMut};
use sheaf_common::{ErrorCode, WireError};
use sheaf_planners::parser::load::{LoadColumn, LoadData};
use sheaf_planners::parser::on_big_stack;
use sheaf_planners::parser::table::is_default;

use super::rewrite;
use super::table::{Target as TableTarget, Value, append, default_of, fitted, parse_query, position};
use crate::answer::Answer;
use crate::binder::bind_over;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::load::{Charset, Lines, LoadedRows, Loading, Outcome, Rows, Source, Target};
use crate::managed::log::Snapshot;
use crate::session::{Level, Session};
use crate::tables::TableError;

/// What the lines are called while their rows are planned.
const LINES: &str = "lines of the file";

pub(super) async fn run(session: &Session, context: &Arc<QueryContext>, load: LoadData) -> Result<Answer, QueryError> {
    let target = TableTarget::find(session, &load.table)?;
    let snapshot = target.latest(context).await?;
    let charset = charset(&load)?;
    let lines = Lines::new(load.format.clone()).map_err(QueryError::Wire)?;
    let fields = fields(context, &target, &snapshot, &load)?;
    let is_lenient = load.ignores_errors || load.is_local;
    let rows = Rows::new(fields.targets, fields.places, charset, is_lenient);
    let loaded = Arc::new(LoadedRows::new(Loading { source: None, lines, lines_skipped: load.lines_skipped, rows }));
    let plan = plan(session, context, &target, &snapshot, &load, &loaded).await?;
    // Only now: a client whose statement is wrong keeps its file.
    loaded.begin(source(session, context, &load)?);
    let written = append(context, &target, &snapshot, plan).await;
    let outcome = loaded.outcome();
    if written.is_ok() {
        tell(session, &outcome);
    }
    let info = format!("Records: {}  Deleted: 0  Skipped: 0  Warnings: {}", outcome.records, outcome.n_warnings);
    Ok(Answer::Done { affected_rows: written?, info })
}

fn tell(session: &Session, outcome: &Outcome) {
    session.with_state(|state| {
        for (code, text) in &outcome.warnings {
            state.warn(Level::Warning, code.numbers().mysql, text.clone());
        }
        state.warning_total += outcome.n_warnings - outcome.warnings.len() as u64;
    });
}

fn charset(load: &LoadData) -> Result<Charset, QueryError> {
    let Some(name) = &load.charset else { return Ok(Charset::Utf8) };
    Charset::of_name(name).ok_or_else(|| QueryError::unsupported(format!("a file in character set '{name}'")))
}

/// Where the lines come from: the client, or a file within the folders that this server may read.
fn source(session: &Session, context: &QueryContext, load: &LoadData) -> Result<Source, QueryError> {
    if !load.is_local {
        return Ok(Source::File(file(session, &load.file)?));
    }
    let is_on = session.engine().globals().variables.is_on("local_infile");
    let parts = context.upload.as_ref().filter(|_| is_on).and_then(|it| it.begin(&load.file));
    parts.map(Source::Client).ok_or_else(|| {
        let text = "loading local data is disabled; this must be enabled on both the client and server sides: \
                    SET GLOBAL local_infile = ON here, --local-infile or local_infile=True there";
        QueryError::Wire(WireError::new(ErrorCode::LocalFilesDisabled, text))
    })
}

fn file(session: &Session, name: &str) -> Result<PathBuf, QueryError> {
    let not_found = || WireError::new(ErrorCode::FileNotFound, format!("file '{name}' not found"));
    match session.engine().tables().sources.roots.resolve(name) {
        Ok(found) if found.pattern.is_none() && !found.is_folder => Ok(found.path),
        Ok(_) | Err(TableError::FileNotFound { .. }) => Err(not_found().into()),
        Err(error) => Err(QueryError::Wire(crate::tables::wire(&error))),
    }
}

/// What the fields of a line become.
struct Fields {
    targets: Vec<Target>,
    places: Vec<Option<usize>>,
}

fn fields(
    context: &QueryContext,
    target: &TableTarget,
    snapshot: &Snapshot,
    load: &LoadData,
) -> Result<Fields, QueryError> {
    let schema = &snapshot.schema;
    let mut fields = Fields { targets: vec![], places: vec![] };
    let column = |idx: usize| {
        let field = schema.field(idx);
        let default = match target.def.column(field.name()).and_then(|it| it.default.as_deref()) {
            Some(_) => evaluated(context, &default_of(context, &target.def, field.name(), field.is_nullable())?)?,
            None => ScalarValue::Null,
        };
        let (name, data_type) = (field.name().clone(), field.data_type().clone());
        Ok::<_, QueryError>(Target { name, data_type, is_nullable: field.is_nullable(), default })
    };
    if load.columns.is_empty() {
        fields.targets = (0..schema.fields().len()).map(column).collect::<Result<_, _>>()?;
        fields.places = (0..schema.fields().len()).map(Some).collect();
        return Ok(fields);
    }
    for (at, named) in load.columns.iter().enumerate() {
        // Of equal variables the last one counts: `@skip` is often named again and again.
        if load.columns[at + 1..].contains(named) && matches!(named, LoadColumn::Variable(_)) {
            fields.places.push(None);
            continue;
        }
        let new = match named {
            LoadColumn::Column(name) => column(position(target, snapshot, &ObjectName::from(vec![name.clone()]))?)?,
            LoadColumn::Variable(name) => {
                let (name, data_type) = (of_variable(name), DataType::Utf8);
                Target { name, data_type, is_nullable: true, default: ScalarValue::Null }
            }
        };
        if fields.targets.iter().any(|it| it.name == new.name) {
            let text = format!("column '{}' specified twice", new.name);
            return Err(WireError::new(ErrorCode::ColumnTwice, text).into());
        }
        fields.places.push(Some(fields.targets.len()));
        fields.targets.push(new);
    }
    Ok(fields)
}

/// The value of an expression without columns.
fn evaluated(context: &QueryContext, expr: &datafusion::logical_expr::Expr) -> Result<ScalarValue, QueryError> {
    let expr = context.session_state.create_physical_expr(expr.clone(), &DFSchema::empty())?;
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options)?;
    Ok(ScalarValue::try_from_array(expr.evaluate(&row)?.into_array(1)?.as_ref(), 0)?)
}

/// From the lines to rows of the table.
async fn plan(
    session: &Session,
    context: &QueryContext,
    target: &TableTarget,
    snapshot: &Snapshot,
    load: &LoadData,
    loaded: &Arc<LoadedRows>,
) -> Result<LogicalPlan, QueryError> {
    use datafusion::physical_plan::streaming::PartitionStream;
    let lines = Arc::clone(loaded.schema());
    let mut values: Vec<Option<Value>> = snapshot.schema.fields().iter().map(|_| None).collect();
    let mut items = vec![];
    for (idx, field) in snapshot.schema.fields().iter().enumerate() {
        if lines.index_of(field.name()).is_ok() {
            values[idx] = Some(Value::Column(items.len()));
            items.push(Expr::Identifier(Ident::with_quote('`', field.name())));
        }
    }
    for (column, value) in &load.assignments {
        let idx = position(target, snapshot, &ObjectName::from(vec![column.clone()]))?;
        if is_default(value) {
            values[idx] = Some(Value::Default);
            continue;
        }
        let mut value = value.clone();
        on_big_stack(|| {
            let ControlFlow::Continue(()) = VisitMut::visit(&mut value, &mut OfLines { lines: &lines });
        });
        values[idx] = Some(Value::Column(items.len()));
        items.push(value);
    }
    if items.is_empty() {
        // Rows of defaults are counted by what is read of them.
        items.extend(lines.fields().first().map(|it| Expr::Identifier(Ident::with_quote('`', it.name()))));
    }
    let mut query = select(items)?;
    on_big_stack(|| rewrite(session, Some(&[])).apply(query.as_mut()))?;
    let table = StreamingTable::try_new(lines, vec![Arc::clone(loaded) as _])?;
    let given: HashMap<String, Arc<dyn TableProvider>> = HashMap::from([(LINES.to_owned(), Arc::new(table) as _)]);
    let plan = bind_over(&context.session_state, query, session.is_mysql(), ready(Ok(())), &given).await?;
    let values = values.into_iter().map(|it| it.unwrap_or(Value::Default)).collect();
    fitted(context, plan, &target.def, &snapshot.schema, &snapshot.checks, values)
}

/// `SELECT items FROM lines`, the items named by their position.
fn select(items: Vec<Expr>) -> Result<Box<Query>, QueryError> {
    let mut query = parse_query(&format!("SELECT 1 FROM `{LINES}`"))?;
    if let SetExpr::Select(select) = query.body.as_mut() {
        let item = |(idx, expr): (usize, Expr)| SelectItem::ExprWithAlias {
            expr,
            alias: Ident::with_quote('`', format!("value {idx}")),
        };
        select.projection = items.into_iter().enumerate().map(item).collect();
    }
    Ok(query)
}

/// What a variable is called among the lines' columns. The planner takes no name with `@` in front for a column.
fn of_variable(name: &str) -> String {
    format!("variable @{name}")
}

/// Makes `@name` a column where the lines have it. Other variables are the session's.
struct OfLines<'a> {
    lines: &'a Schema,
}

impl VisitorMut for OfLines<'_> {
    type Break = std::convert::Infallible;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::Identifier(ident) = expr
            && ident.quote_style.is_none()
            && let Some(name) = ident.value.strip_prefix('@')
            && let column = of_variable(&name.to_lowercase())
            && self.lines.index_of(&column).is_ok()
        {
            *ident = Ident::with_quote('`', column);
        }
        ControlFlow::Continue(())
    }
}
