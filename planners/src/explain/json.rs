//! The tree as one JSON object: what the text shows, with numbers as numbers.

use datafusion::common::stats::Precision;
use serde_json::{Map, Value as Json, json};

use super::analyze::{OperatorTotals, StageTotals};
use super::expressions::on_growing_stack;
use super::operators::{Detail, Value};
use super::tree::{Node, Stage, Tree};

pub(super) fn render(tree: &Tree) -> String {
    let mut object = json!({
        "distributed": !tree.stages.is_empty(),
        "plan": node(&tree.root),
        "subqueries": tree.subqueries.iter().map(node).collect::<Vec<_>>(),
        "coordinator": tree.coordinator,
        "stages": tree.stages.iter().map(stage).collect::<Vec<_>>(),
    });
    if let Some(reason) = &tree.reason {
        object["reason"] = json!(reason);
    }
    if let Some(finished) = &tree.finished {
        object["actual"] = json!({
            "rows": finished.output_rows,
            "elapsed_ms": finished.elapsed_ms,
            "restarts": finished.restarts,
            "speculative_attempts": finished.speculated,
            "overtaken_tasks": finished.overtaken,
        });
    }
    if !tree.notes.is_empty() {
        object["notes"] = json!(tree.notes);
    }
    on_growing_stack(|| format!("{object:#}"))
}

fn node(it: &Node) -> Json {
    on_growing_stack(|| {
        let mut object = json!({
            "name": it.line.name,
            "details": details(&it.line.details),
            "estimated_rows": estimate(&it.estimated_rows),
            "children": it.children.iter().map(node).collect::<Vec<_>>(),
        });
        if let Some(stage) = it.stage {
            object["stage"] = json!(stage.0);
        }
        if let Some(actual) = &it.actual {
            object["actual"] = operator(actual);
            if let Some(scanned) = &it.scanned {
                let counts =
                    |[total, pruned, read]: [u64; 3]| json!({ "total": total, "pruned": pruned, "read": read });
                object["actual"]["files"] = counts(scanned.files());
                if let Some(row_groups) = scanned.row_groups(actual) {
                    object["actual"]["row_groups"] = counts(row_groups);
                }
            }
        }
        object
    })
}

/// By label; what has no label stands in the list `of`.
fn details(details: &[Detail]) -> Json {
    let mut object = Map::new();
    let mut of = vec![];
    for detail in details {
        match (detail.label, &detail.value) {
            ("", Value::List(items)) => of.extend(items.iter().map(|item| json!(item))),
            ("", value) => of.push(scalar(value)),
            (label, value) => {
                object.insert(label.replace(' ', "_"), scalar(value));
            }
        }
    }
    if !of.is_empty() {
        object.insert("of".to_owned(), Json::Array(of));
    }
    Json::Object(object)
}

fn scalar(value: &Value) -> Json {
    match value {
        Value::Text(text) => json!(text),
        Value::List(items) => json!(items),
        Value::Number(number) => json!(number),
    }
}

fn estimate(rows: &Precision<usize>) -> Json {
    match rows.get_value() {
        Some(rows) => json!(rows),
        None => Json::Null,
    }
}

fn operator(it: &OperatorTotals) -> Json {
    json!({
        "tasks": it.tasks,
        "rows": it.rows,
        "elapsed_ns": it.elapsed_ns,
        "elapsed_max_ns": it.elapsed_max_ns,
        "memory_bytes": it.memory_bytes,
        "spilled_bytes": it.spill_bytes,
        "read_bytes": it.read_bytes,
    })
}

fn stage(it: &Stage) -> Json {
    let mut object = json!({
        "stage": it.stage.0,
        "tasks": it.tasks,
        "partitions_per_task": it.partitions_per_task,
        "nodes": it.nodes,
    });
    if let Some(actual) = &it.actual {
        object["actual"] = stage_actual(actual);
        object["actual"]["attempts"] = json!(it.attempts);
    }
    object
}

fn stage_actual(it: &StageTotals) -> Json {
    json!({
        "tasks": it.tasks,
        "rows": it.output_rows,
        "output_bytes": it.output_bytes,
        "spilled_bytes": it.spill_bytes,
        "read_bytes": it.read_bytes,
        "median_task_ms": it.median_ms,
        "slowest_task_ms": it.slowest_ms,
        "slowest_task": it.slowest_task,
        "slowest_node": it.slowest_node,
    })
}
