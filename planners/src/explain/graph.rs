//! The tree in the language of Graphviz: rows flow upwards, each stage is a cluster.

use std::collections::BTreeMap;
use std::fmt::Write;

use sheaf_common::StageId;

use super::analyze::OperatorTotals;
use super::expressions::on_growing_stack;
use super::operators::{Detail, Value};
use super::text::{bytes, duration_ns, links, printable, ranges};
use super::tree::{Node, Stage, Tree};

/// Characters of one line of a label, and lines of one label: a box stays readable.
const LABEL_WIDTH_MAX: usize = 60;
const LABEL_LINES_MAX: usize = 12;

/// Boxes by where they run (`None` is the coordinator), and the arrows between them.
#[derive(Default)]
struct Drawing {
    boxes: BTreeMap<Option<StageId>, Vec<(usize, String)>>,
    arrows: Vec<(usize, usize)>,
    n_boxes: usize,
}

pub(super) fn render(tree: &Tree) -> String {
    let mut drawing = Drawing::default();
    for (idx, subquery) in tree.subqueries.iter().enumerate() {
        let id = drawing.add(None, format!("Subquery {}", idx + 1));
        let child = drawing.node(subquery);
        drawing.arrows.push((child, id));
    }
    drawing.node(&tree.root);
    drawing.dot(tree)
}

impl Drawing {
    fn add(&mut self, stage: Option<StageId>, label: String) -> usize {
        let id = self.n_boxes;
        self.n_boxes += 1;
        self.boxes.entry(stage).or_default().push((id, label));
        id
    }

    fn node(&mut self, it: &Node) -> usize {
        on_growing_stack(|| {
            let id = self.add(it.stage, label(it));
            for child in &it.children {
                let child = self.node(child);
                self.arrows.push((child, id));
            }
            id
        })
    }

    fn dot(&self, tree: &Tree) -> String {
        let mut out = String::from(
            "digraph explain {\n  rankdir=BT;\n  fontname=\"monospace\";\n  labeljust=l;\n  node [shape=box, fontname=\"monospace\"];\n",
        );
        for (stage, boxes) in &self.boxes {
            let (name, title) = match stage {
                Some(id) => (format!("stage_{id}"), stage_title(tree.stages.iter().find(|it| it.stage == *id), *id)),
                None => ("coordinator".to_owned(), format!("coordinator: {}", tree.coordinator)),
            };
            let _ = writeln!(out, "  subgraph cluster_{name} {{\n    label={};", quoted(&title));
            for (id, label) in boxes {
                let _ = writeln!(out, "    n{id} [label={}];", quoted(label));
            }
            out.push_str("  }\n");
        }
        for (from, to) in &self.arrows {
            let _ = writeln!(out, "  n{from} -> n{to};");
        }
        if let Some(reason) = &tree.reason {
            let _ = writeln!(out, "  label={};", quoted(&format!("not distributed: {reason}")));
        }
        out.push_str("}\n");
        out
    }
}

fn stage_title(stage: Option<&Stage>, id: StageId) -> String {
    let Some(stage) = stage else { return format!("stage {id}") };
    let mut title = format!("stage {id}, tasks: {}", stage.tasks);
    for (node, tasks) in &stage.nodes {
        let _ = write!(title, "\n{node}: {}", ranges(tasks));
    }
    title
}

/// The name, then a line for each detail.
fn label(it: &Node) -> String {
    let mut lines = vec![it.line.name.clone()];
    lines.extend(it.line.details.iter().flat_map(detail_lines).take(LABEL_LINES_MAX));
    if let Some(actual) = &it.actual {
        lines.push(actual_line(actual));
        lines.extend(links(&actual.read_bytes));
    }
    lines.join("\n")
}

fn detail_lines(detail: &Detail) -> Vec<String> {
    let label = if detail.label.is_empty() { String::new() } else { format!("{}: ", detail.label) };
    match &detail.value {
        Value::Text(text) => vec![cut(&format!("{label}{text}"))],
        Value::Number(number) => vec![format!("{label}{number}")],
        Value::List(items) => items.iter().map(|item| cut(&format!("{label}{item}"))).collect(),
    }
}

fn actual_line(it: &OperatorTotals) -> String {
    let (time, memory, spilled) = (duration_ns(it.elapsed_ns), bytes(it.memory_bytes), bytes(it.spill_bytes));
    format!("actual: rows {}, {time}, memory {memory}, spilled {spilled}", it.rows)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LABEL_WIDTH_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A string of the language: quotes and backslashes escaped, each line ended flush left.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for line in text.split('\n') {
        out.push_str(&printable(line).replace('\\', "\\\\").replace('"', "\\\""));
        out.push_str("\\l");
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_language_means_otherwise_is_escaped() {
        assert_eq!(quoted("a \"b\" \\ c"), r#""a \"b\" \\ c\l""#);
        assert_eq!(quoted("one\ntwo\t"), r#""one\ltwo\\t\l""#);
    }
}
