//! `CREATE TABLE`, with columns, `AS SELECT`, `LIKE` or `CLONE`.

use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::sql::planner::SqlToRel;
use datafusion::sql::sqlparser::ast::{
    CheckConstraint, ColumnDef, ColumnOption, DataType as SqlType, ExactNumberInfo, Expr, Ident, TableConstraint,
    TimezoneInfo, Value as SqlValue, VisitMut, VisitorMut,
};
use sheaf_common::ErrorCode;
use sheaf_planners::parser::on_big_stack;
use sheaf_planners::parser::table::{CreateTable, Source};

use super::dropped::Marked;
use super::rows_of::{Value, fitted};
use super::{Answer, Attempt, QueryContext, QueryError, Session, Target, change_of, commit, done, failed, table_name};
use crate::binder::{Provider, bind};
use crate::catalog::{IfExists, TableDef};
use crate::interpreters::rewrite;
use crate::managed::definition::{ManagedColumn, ManagedDef};
use crate::managed::log::Change;
use crate::managed::types::kept_type;
use crate::managed::writer::can_partition;
use crate::session::renamed_schema;
use crate::tables::external::TypeName;

pub(super) async fn run(
    session: &Session,
    context: &Arc<QueryContext>,
    create: CreateTable,
    values: &[ScalarValue],
) -> Result<Answer, QueryError> {
    let (database, table) = table_name(session, &create.name)?;
    let catalog = session.engine().catalog();
    let exists = catalog.table(&database, &table).is_ok_and(|it| it.name == table);
    let if_exists = match (create.if_not_exists, create.or_replace) {
        (true, _) => IfExists::Keep,
        (false, true) => IfExists::Replace,
        (false, false) => IfExists::Fail,
    };
    if exists && if_exists == IfExists::Keep {
        session.warn(ErrorCode::TableExists, format!("table '{database}.{table}' exists already"));
        return done(0, "");
    }
    if exists && if_exists == IfExists::Fail {
        // Before the work, not after it; whether it still holds is checked at the end.
        let error = crate::catalog::CatalogError::TableExists { database, table };
        return Err(QueryError::from_classified(&error));
    }
    let location = session.engine().managed().new_location(&database, &table);
    let (def, rows) = match &create.source {
        Some(source) => copied(session, context, source, location, &create).await?,
        None => defined(session, context, &create, location, &table, values).await?,
    };
    let mut replaced = Marked::new(session);
    if exists {
        replaced.add(&database, &table).await?;
    }
    let created = catalog.create_table(&database, TableDef::managed(&table, def.clone()), if_exists).await;
    if created.is_err() {
        std::mem::replace(&mut replaced, Marked::new(session)).undo().await;
    }
    match created {
        Ok(true) => {
            replaced.finish();
            done(rows, "")
        }
        Ok(false) => {
            session.warn(ErrorCode::TableExists, format!("table '{database}.{table}' exists already"));
            remove_table(session, &def).await;
            done(0, "")
        }
        Err(error) => {
            remove_table(session, &def).await;
            Err(QueryError::from_classified(&error))
        }
    }
}

/// Removes a table that no name stands for.
async fn remove_table(session: &Session, def: &ManagedDef) {
    let managed = session.engine().managed();
    if let Ok(log) = managed.log(&def.location) {
        log.remove_all().await;
    }
    managed.forget(&def.location);
}

/// A table by its columns or by its query, with its first version written; the rows in it.
async fn defined(
    session: &Session,
    context: &Arc<QueryContext>,
    create: &CreateTable,
    location: String,
    name: &str,
    values: &[ScalarValue],
) -> Result<(ManagedDef, u64), QueryError> {
    let mut query = create.query.clone();
    let plan = match &mut query {
        Some(query) => {
            on_big_stack(|| rewrite(session, Some(values)).apply(query.as_mut()))?;
            Some(bind(&context.session_state, query.clone(), session.is_mysql(), ready(Ok(()))).await?)
        }
        None => None,
    };
    let mut def = declared(context, create, location)?;
    if def.columns.is_empty() {
        let Some(plan) = &plan else {
            return Err(QueryError::InvalidArgument("a table must have at least one column".to_owned()));
        };
        let schema = renamed_schema(&Arc::new(plan.schema().as_arrow().clone()), &create.names);
        for field in schema.fields() {
            def.columns.push(column(field.name(), field.data_type(), true)?);
        }
        name_parts(&mut def, create)?;
    }
    check_def(&def)?;
    check_conditions(context, &mut def, create)?;
    let log = session.engine().managed().log(&def.location).map_err(failed)?;
    let actions = def.first_actions(name).map_err(|error| QueryError::InvalidArgument(error.to_string()))?;
    let Some(plan) = plan else {
        let attempt = Attempt::new(context, &log, 0);
        let change = Change { actions, ..change_of(context, "CREATE TABLE", &[]) };
        commit(attempt, change).await?;
        return Ok((def, 0));
    };
    let n_given = plan.schema().fields().len();
    if n_given != def.columns.len() {
        let text = format!("column count doesn't match: {} columns, {n_given} selected", def.columns.len());
        return Err(QueryError::InvalidArgument(text));
    }
    let schema = def.schema();
    let fit = (0..n_given).map(Value::Column).collect();
    let plan = fitted(context, plan, &def, &schema, &def.checks, fit)?;
    let attempt = Attempt::new(context, &log, 0);
    let to = attempt.destination(&def, &schema, &def.partition_columns);
    let files = super::write_files(context, plan, &to).await?;
    let rows = files.iter().map(|it| it.rows).sum();
    let mut change = change_of(context, "CREATE TABLE AS SELECT", &files);
    change.actions = actions.into_iter().chain(change.actions).collect();
    commit(attempt, change).await?;
    Ok((def, rows))
}

/// A table like another one, with its rows if it is a clone.
async fn copied(
    session: &Session,
    context: &Arc<QueryContext>,
    source: &Source,
    location: String,
    create: &CreateTable,
) -> Result<(ManagedDef, u64), QueryError> {
    let (name, with_rows) = match source {
        Source::Like(name) => (name, false),
        Source::Clone(name) => (name, true),
    };
    let from = Target::find(session, name)?;
    let snapshot = from.latest(context).await?;
    let comment = create.comment.clone().or(from.def.comment.clone());
    let def = ManagedDef { location, comment, ..from.def.clone() };
    let log = session.engine().managed().log(&def.location).map_err(failed)?;
    let mut actions = def.first_actions(&from.name).map_err(|error| QueryError::InvalidArgument(error.to_string()))?;
    let attempt = Attempt::new(context, &log, 0);
    let mut rows = 0;
    if with_rows {
        // Files are copied and not shared: VACUUM of the one must not take them from the other.
        for file in snapshot.files() {
            let new = crate::managed::storage::below(&log.place().folder, &file.name());
            let copied = async { log.store().copy_opts(&file.path, &new?, Default::default()).await };
            copied.await.map_err(|source| {
                failed(crate::managed::ManagedError::Storage { location: def.location.clone(), source })
            })?;
            rows += file.rows().unwrap_or(0);
            actions.push(file.add(true));
        }
    }
    let operation = if with_rows { "CLONE" } else { "CREATE TABLE" };
    let change = Change { actions, ..change_of(context, operation, &[]) };
    let committed = commit(attempt, change).await;
    if committed.is_err() {
        log.remove_all().await;
    }
    committed?;
    Ok((def, rows))
}

/// What the statement says of the table, without its CHECK constraints.
fn declared(context: &QueryContext, create: &CreateTable, location: String) -> Result<ManagedDef, QueryError> {
    let mut def = ManagedDef {
        location,
        columns: vec![],
        partition_columns: vec![],
        cluster_columns: vec![],
        checks: vec![],
        comment: create.comment.clone(),
    };
    for given in &create.columns {
        def.columns.push(declared_column(context, given)?);
    }
    if !def.columns.is_empty() {
        name_parts(&mut def, create)?;
    }
    Ok(def)
}

/// A column as a statement declares it.
pub(super) fn declared_column(context: &QueryContext, given: &ColumnDef) -> Result<ManagedColumn, QueryError> {
    let mut plain = given.clone();
    engine_type(&mut plain.data_type);
    plain.options.clear();
    let provider = Provider::new(&context.session_state, HashMap::new(), true);
    let field = SqlToRel::new(&provider).build_schema(vec![plain])?;
    let mut kept = column(&given.name.value, field.field(0).data_type(), true)?;
    for option in &given.options {
        match &option.option {
            ColumnOption::Null | ColumnOption::CharacterSet(_) | ColumnOption::Collation(_) => {}
            ColumnOption::NotNull => kept.nullable = false,
            ColumnOption::Default(expr) => kept.default = default_text(context, expr)?,
            ColumnOption::Comment(text) => kept.comment = Some(text.clone()),
            // Constraints of the table; read where those are.
            ColumnOption::Check(_) => {}
            other => return Err(QueryError::unsupported(format!("the option {other} of column '{}'", kept.name))),
        }
    }
    Ok(kept)
}

/// The text of a default; none for `DEFAULT NULL`.
fn default_text(context: &QueryContext, expr: &Expr) -> Result<Option<String>, QueryError> {
    if matches!(expr, Expr::Value(value) if value.value == SqlValue::Null) {
        return Ok(None);
    }
    let text = expr.to_string();
    // Whether it can be planned, which shows names of columns among others.
    context.session_state.create_logical_expr(&text, &DFSchema::empty())?;
    Ok(Some(text))
}

fn column(name: &str, data_type: &DataType, nullable: bool) -> Result<ManagedColumn, QueryError> {
    let kept = kept_type(data_type);
    let kept = kept.map_err(|error| QueryError::InvalidArgument(format!("column '{name}': {error}")))?;
    Ok(ManagedColumn { name: name.to_owned(), type_name: TypeName(kept), nullable, default: None, comment: None })
}

/// The columns that partition and cluster the table, by the names that it has for them.
fn name_parts(def: &mut ManagedDef, create: &CreateTable) -> Result<(), QueryError> {
    let find = |names: &[Ident], what: &str| {
        let mut found: Vec<String> = vec![];
        for name in names {
            let column = def.column(&name.value).ok_or_else(|| {
                QueryError::InvalidArgument(format!("there is no column '{}' to {what} the table by", name.value))
            })?;
            if found.contains(&column.name) {
                return Err(QueryError::InvalidArgument(format!("column '{}' is named twice", column.name)));
            }
            found.push(column.name.clone());
        }
        Ok(found)
    };
    let (partition, cluster) = (find(&create.partition_by, "partition")?, find(&create.cluster_by, "cluster")?);
    (def.partition_columns, def.cluster_columns) = (partition, cluster);
    Ok(())
}

/// Errs when two columns have one name, or partitions are made by what they cannot be made by.
fn check_def(def: &ManagedDef) -> Result<(), QueryError> {
    let invalid = |text: String| Err(QueryError::InvalidArgument(text));
    for (idx, column) in def.columns.iter().enumerate() {
        if def.columns[..idx].iter().any(|it| it.name.eq_ignore_ascii_case(&column.name)) {
            return invalid(format!("duplicate column name '{}'", column.name));
        }
        if column.name.is_empty() {
            return invalid("a column needs a name".to_owned());
        }
        let TypeName(data_type) = &column.type_name;
        if def.partition_columns.contains(&column.name) && !can_partition(data_type) {
            return invalid(format!("column '{}' of type {data_type} cannot partition a table", column.name));
        }
        if def.cluster_columns.contains(&column.name) && data_type.is_nested() {
            return invalid(format!("column '{}' of type {data_type} cannot cluster a table", column.name));
        }
    }
    if def.partition_columns.len() == def.columns.len() {
        return invalid("a table needs a column that does not partition it".to_owned());
    }
    Ok(())
}

/// Reads the CHECK constraints into the definition, with the columns spelled as they are.
fn check_conditions(context: &QueryContext, def: &mut ManagedDef, create: &CreateTable) -> Result<(), QueryError> {
    let mut given: Vec<CheckConstraint> = vec![];
    for constraint in &create.constraints {
        match constraint {
            TableConstraint::Check(check) => given.push(check.clone()),
            other => return Err(QueryError::unsupported(format!("the constraint {other}"))),
        }
    }
    for column in &create.columns {
        for option in &column.options {
            if let ColumnOption::Check(check) = &option.option {
                given.push(CheckConstraint { name: check.name.clone().or(option.name.clone()), ..check.clone() });
            }
        }
    }
    let schema = DFSchema::try_from(def.schema().as_ref().clone())?;
    for check in given {
        if check.enforced == Some(false) {
            return Err(QueryError::unsupported("a constraint that is NOT ENFORCED"));
        }
        let mut condition = *check.expr;
        let _ = condition.visit(&mut Spell { def });
        let text = condition.to_string();
        context.session_state.create_logical_expr(&text, &schema)?;
        let name = match check.name {
            Some(name) => name.value,
            None => (1..)
                .map(|n| format!("check_{n}"))
                .find(|it| def.checks.iter().all(|(name, _)| name != it))
                .unwrap_or_default(),
        };
        if def.checks.iter().any(|(it, _)| *it == name) {
            return Err(QueryError::InvalidArgument(format!("duplicate check constraint name '{name}'")));
        }
        def.checks.push((name, text));
    }
    Ok(())
}

/// Gives columns the spelling that the table has for them.
struct Spell<'a> {
    def: &'a ManagedDef,
}

impl VisitorMut for Spell<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> std::ops::ControlFlow<()> {
        if let Expr::Identifier(ident) = expr
            && let Some(column) = self.def.column(&ident.value)
        {
            ident.value.clone_from(&column.name);
        }
        std::ops::ControlFlow::Continue(())
    }
}

/// MySQL's names of types as the engine knows them.
fn engine_type(data_type: &mut SqlType) {
    let mapped = match data_type {
        SqlType::Datetime(precision) => SqlType::Timestamp(*precision, TimezoneInfo::None),
        SqlType::TinyText
        | SqlType::MediumText
        | SqlType::LongText
        | SqlType::JSON
        | SqlType::Enum(..)
        | SqlType::Set(_) => SqlType::Text,
        SqlType::TinyBlob
        | SqlType::MediumBlob
        | SqlType::LongBlob
        | SqlType::Blob(_)
        | SqlType::Varbinary(_)
        | SqlType::Binary(_) => SqlType::Bytea,
        // The digits of FLOAT(p) are bits of the mantissa: a single has 24.
        SqlType::Float(ExactNumberInfo::Precision(25..)) => SqlType::Double(ExactNumberInfo::None),
        SqlType::MediumInt(width) => SqlType::Int(*width),
        SqlType::MediumIntUnsigned(width) => SqlType::IntUnsigned(*width),
        _ => return,
    };
    *data_type = mapped;
}
