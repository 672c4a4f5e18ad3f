//! `SHOW PARTITIONS FROM t [WHERE …]`: the files that a query with this WHERE would open.
//!
//! The query is planned as far as its scans, so that this list and the query never differ.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::sql::sqlparser::ast::{Expr, ObjectName, SetExpr, TableFactor};
use sheaf_planners::data_file::LoggedFile;
use sheaf_planners::leaf::file_scan;
use sheaf_planners::parser::{SqlDialect, StatementKind, on_big_stack, parse};
use sheaf_planners::reschedule;

use super::super::rewrite;
use super::super::rows::Rows;
use crate::answer::Answer;
use crate::binder::bind;
use crate::binder::views::SessionViews;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::session::Session;

/// Where Parquet's first row group begins: what the placement hashes beside the file's name.
const FIRST_ROW_GROUP: u64 = 4;

pub(super) async fn run(
    session: &Session,
    context: &QueryContext,
    table: ObjectName,
    filter: Option<Box<Expr>>,
) -> Result<Answer, QueryError> {
    let unsupported = || QueryError::unsupported(format!("SHOW PARTITIONS of {table}, which has no files,"));
    let mut template = parse("SELECT * FROM t", SqlDialect::Ansi)?;
    let Some(StatementKind::Query(mut query)) = template.pop().map(|it| it.kind) else { return Err(unsupported()) };
    if let SetExpr::Select(select) = query.query.body.as_mut() {
        for from in &mut select.from {
            if let TableFactor::Table { name, .. } = &mut from.relation {
                *name = table.clone();
            }
        }
        select.selection = filter.map(|it| *it);
    }
    on_big_stack(|| rewrite(session, Some(&[])).apply(query.query.as_mut()))?;
    let state = context.session_state.as_ref();
    let bound = bind(state, query.query, session.is_mysql(), session.catch_up(context.deadline)).await?;
    if let Some(views) = state.config().get_extension::<SessionViews>() {
        // A view's files are those of tables that who reads it may know nothing of.
        views.need_explained(&context.rights)?;
    }
    let logical = state.optimize(&bound)?;
    let plan = state.query_planner().create_physical_plan(&logical, state).await?;
    let mut rows = Rows::new(&["File", "#Bytes", "#Rows", "#Deleted_rows", "Partition", "Preferred_worker"]);
    let mut seen = HashSet::new();
    let mut is_of_files = false;
    let workers = context.engine.workers().workers();
    plan.apply(|node| {
        // What is left of a scan without files.
        is_of_files |= node.name() == "EmptyExec";
        if let Some((_, config)) = file_scan(node) {
            is_of_files = true;
            let address = address(context, config);
            for file in config.file_groups.iter().flat_map(|group| group.iter()) {
                // One that was cut for several threads is one file.
                if seen.insert(file.object_meta.location.clone()) {
                    let key = format!("{}:{FIRST_ROW_GROUP}", file.object_meta.location);
                    let worker =
                        reschedule::preferred(&key, &workers, context.engine.homes()).map(|it| it.name.clone());
                    rows.push(row(&address, config, file, worker));
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if is_of_files { rows.answer() } else { Err(unsupported()) }
}

/// What comes before a file's path.
fn address(context: &QueryContext, config: &FileScanConfig) -> Arc<str> {
    let definition = context.engine.tables().sources.stores.definition(&config.object_store_url);
    definition.map_or_else(|| Arc::from(""), |it| Arc::from(it.address.as_str()))
}

fn row(address: &str, config: &FileScanConfig, file: &PartitionedFile, worker: Option<String>) -> Vec<Option<String>> {
    let columns = config.file_source().table_schema().table_partition_cols();
    let pairs = columns.iter().zip(&file.partition_values).map(|(column, value)| format!("{}={value}", column.name()));
    let rows = file.statistics.as_ref().and_then(|it| it.num_rows.get_value().copied());
    let deleted = LoggedFile::of(file).and_then(|it| it.deleted.as_ref()).map_or(0, |it| it.count());
    vec![
        Some(format!("{address}/{}", file.object_meta.location)),
        Some(file.object_meta.size.to_string()),
        rows.map(|it| it.to_string()),
        Some(deleted.to_string()),
        Some(pairs.collect::<Vec<_>>().join("/")),
        worker,
    ]
}
