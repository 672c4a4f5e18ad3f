//! `ALTER TABLE … ADD | DROP | RENAME COLUMN`.
//!
//! A column that is added as NULL costs an entry of the log. All else writes the table anew in one commit: files hold
//! columns by their names, and other engines read them.

use std::sync::Arc;

use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::sql::sqlparser::ast::{AlterTableOperation, Ident, ObjectName, RenameTableNameKind};
use serde_json::json;

use super::create::declared_column;
use super::rows_of::{Value, fitted};
use super::{Answer, Attempt, QueryContext, QueryError, Session, Target, change_of, commit, done, paths};
use crate::catalog::TableDef;
use crate::managed::definition::ManagedDef;
use crate::managed::log::Reads;

pub(super) async fn run(
    session: &Session,
    context: &Arc<QueryContext>,
    table: &ObjectName,
    operations: Vec<AlterTableOperation>,
) -> Result<Answer, QueryError> {
    let target = Target::find(session, table)?;
    let _guard = target.log.rewriting.take().await;
    let snapshot = target.latest(context).await?;
    let mut def = target.def.clone();
    // Where each column of the new table comes from.
    let mut sources: Vec<Option<usize>> = (0..def.columns.len()).map(Some).collect();
    if snapshot.schema.fields().len() != def.columns.len() {
        return Err(QueryError::unsupported("ALTER TABLE of a table whose columns another engine changed"));
    }
    for operation in operations {
        apply(context, &mut def, &mut sources, operation)?;
    }
    let is_cheap = |(position, source): (usize, &Option<usize>)| match source {
        Some(source) => *source == position && def.columns[position].name == target.def.columns[*source].name,
        None => def.columns[position].nullable && def.columns[position].default.is_none(),
    };
    let n_dropped = target.def.columns.len() - sources.iter().flatten().count();
    let stays = snapshot.files().is_empty() || (n_dropped == 0 && sources.iter().enumerate().all(is_cheap));
    let attempt = Attempt::new(context, &target.log, 0);
    let files = match stays {
        true => vec![],
        false => {
            let provider = provider_as_source(Arc::new(target.table(&snapshot)));
            let plan = LogicalPlanBuilder::scan(target.reference(), provider, None)?.build()?;
            let values = sources.iter().map(|it| it.map_or(Value::Default, Value::Column)).collect();
            let to = attempt.destination(&def, &def.schema(), &def.partition_columns);
            let plan = fitted(context, plan, &def, &to.schema, &[], values)?;
            super::write_files(context, plan, &to).await?
        }
    };
    let mut change = change_of(context, "ALTER TABLE", &files);
    change.read_version = Some(snapshot.version);
    change.read_files = paths(&snapshot);
    if !stays {
        // What others add has the columns as they were.
        change.reads = Reads::Everything;
    }
    if !stays {
        change.actions.extend(snapshot.files().iter().map(|it| it.remove(true)));
    }
    let id = snapshot.metadata["id"].as_str().unwrap_or_default();
    let mut actions = vec![json!({"metaData": def.metadata(&target.name, id)})];
    let needed = def.protocol();
    // Never lowered: another engine may have raised it for reasons of its own.
    if needed["minReaderVersion"].as_u64() > snapshot.protocol["minReaderVersion"].as_u64() {
        actions.push(json!({ "protocol": needed }));
    }
    for action in actions {
        let action = serde_json::from_value(action);
        change.actions.push(action.map_err(|error| QueryError::InvalidArgument(error.to_string()))?);
    }
    commit(attempt, change).await?;
    let before = TableDef { created_ms: target.created_ms, ..TableDef::managed(&target.name, target.def.clone()) };
    let altered = TableDef { created_ms: target.created_ms, ..TableDef::managed(&target.name, def.clone()) };
    // A column that is called as another one was says nothing of that one.
    let stays = |name: &str| {
        let was = target.def.columns.iter().position(|it| it.name == name);
        let is = def.columns.iter().position(|it| it.name == name);
        was.is_some() && is.is_some_and(|it| sources[it] == was)
    };
    let catch_up = || async {
        session.catch_up_if_possible(context.deadline).await;
    };
    // The log is written: who analyzed the table meanwhile must not be what this fails by.
    let changed = session.engine().catalog().alter_as(&target.database, &before, catch_up, |found| {
        let statistics = found.statistics.as_ref().map(|it| Arc::new(it.of_columns(stays)));
        TableDef { statistics, ..altered.clone() }
    });
    changed.await.map_err(|error| QueryError::from_classified(&error))?;
    done(files.iter().map(|it| it.rows).sum(), "")
}

fn apply(
    context: &QueryContext,
    def: &mut ManagedDef,
    sources: &mut Vec<Option<usize>>,
    operation: AlterTableOperation,
) -> Result<(), QueryError> {
    match operation {
        AlterTableOperation::AddColumn { column_def, if_not_exists, column_position, .. } => {
            if column_position.is_some() {
                return Err(QueryError::unsupported("FIRST or AFTER of ADD COLUMN"));
            }
            let column = declared_column(context, &column_def)?;
            if def.column(&column.name).is_some() {
                return match if_not_exists {
                    true => Ok(()),
                    false => invalid(format!("duplicate column name '{}'", column.name)),
                };
            }
            def.columns.push(column);
            sources.push(None);
        }
        AlterTableOperation::DropColumn { column_names, if_exists, .. } => {
            for name in column_names {
                let Some(position) = find(def, &name) else {
                    match if_exists {
                        true => continue,
                        false => return missing(&name),
                    }
                };
                check_unused(def, position)?;
                def.columns.remove(position);
                sources.remove(position);
            }
            if def.columns.len() <= def.partition_columns.len() {
                return invalid("a table needs a column that does not partition it".to_owned());
            }
        }
        AlterTableOperation::RenameColumn { old_column_name, new_column_name } => {
            let Some(position) = find(def, &old_column_name) else { return missing(&old_column_name) };
            if find(def, &new_column_name).is_some_and(|it| it != position) {
                return invalid(format!("duplicate column name '{}'", new_column_name.value));
            }
            check_unused(def, position)?;
            def.columns[position].name = new_column_name.value;
        }
        AlterTableOperation::RenameTable { table_name } => {
            let (RenameTableNameKind::As(name) | RenameTableNameKind::To(name)) = table_name;
            return Err(QueryError::unsupported(format!("renaming a table to {name}")));
        }
        other => return Err(QueryError::unsupported(format!("ALTER TABLE {other}"))),
    }
    Ok(())
}

fn find(def: &ManagedDef, name: &Ident) -> Option<usize> {
    let column = def.column(&name.value)?.name.clone();
    def.columns.iter().position(|it| it.name == column)
}

/// Errs when the table's folders, order or constraints are made of the column.
fn check_unused(def: &ManagedDef, position: usize) -> Result<(), QueryError> {
    let name = &def.columns[position].name;
    if def.partition_columns.contains(name) || def.cluster_columns.contains(name) {
        return invalid(format!("column '{name}' partitions or clusters the table"));
    }
    // By text: a condition that only mentions the word is one to look at before.
    match def.checks.iter().find(|(_, condition)| condition.contains(name.as_str())) {
        Some((check, _)) => invalid(format!("column '{name}' is part of the check constraint '{check}'")),
        None => Ok(()),
    }
}

fn missing(name: &Ident) -> Result<(), QueryError> {
    let text = format!("unknown column '{}'", name.value);
    Err(QueryError::Wire(sheaf_common::WireError::new(sheaf_common::ErrorCode::ColumnNotFound, text)))
}

fn invalid<T>(text: String) -> Result<T, QueryError> {
    Err(QueryError::InvalidArgument(text))
}
