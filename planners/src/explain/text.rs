//! The tree as lines: two spaces per level, `Name: details`, a long line continued below itself, four spaces deeper.

use std::collections::BTreeMap;

use datafusion::common::stats::Precision;
use datafusion::logical_expr::LogicalPlan;

use super::analyze::{OperatorTotals, ScannedFiles, StageTotals};
use super::expressions::on_growing_stack;
use super::operators::{Detail, Line, Value, precision};
use super::tree::{Finished, Node, Stage, Tree};

/// A line is broken where it would get wider; deep in a plan it keeps at least the second number beyond its indent.
const WIDTH_MAX: usize = 100;
const WIDTH_MIN: usize = 48;
const INDENT: usize = 2;
/// How much deeper than its line a continuation stands: not to be taken for a child.
const CONTINUATION: usize = 4;

pub(super) fn render(tree: &Tree) -> Vec<String> {
    let mut out = vec![];
    for (idx, subquery) in tree.subqueries.iter().enumerate() {
        push(&mut out, 0, &Line::new("Subquery").text((idx + 1).to_string()));
        node(&mut out, 1, subquery);
    }
    node(&mut out, 0, &tree.root);
    if !tree.stages.is_empty() {
        let n_tasks = tree.stages.iter().map(|stage| stage.tasks).sum();
        push(&mut out, 0, &Line::new("Stages").text(tree.stages.len().to_string()).number("tasks", n_tasks));
        tree.stages.iter().for_each(|it| stage(&mut out, it));
        push(&mut out, 1, &Line::new("Coordinator").text(&*tree.coordinator));
    }
    if let Some(finished) = &tree.finished {
        push(&mut out, 0, &finished_line(finished));
    }
    if let Some(reason) = &tree.reason {
        out.push(printable(&format!("not distributed: {reason}")));
    }
    out.extend(tree.notes.iter().map(|note| printable(note)));
    out
}

/// The optimized logical plan, in the same layout.
pub(super) fn logical(plan: &LogicalPlan) -> Vec<String> {
    let mut out = vec![];
    let text = on_growing_stack(|| plan.display_indent().to_string());
    for line in text.lines() {
        let level = (line.len() - line.trim_start().len()) / INDENT;
        push_pieces(&mut out, level, line.trim().split_inclusive(", ").map(str::to_owned).collect());
    }
    out
}

fn node(out: &mut Vec<String>, level: usize, it: &Node) {
    on_growing_stack(|| {
        push(out, level, &it.line);
        if let Some(actual) = &it.actual {
            continued(out, level, &scan_line(operator_line(actual, &it.estimated_rows), actual, it.scanned.as_ref()));
        }
        it.children.iter().for_each(|child| node(out, level + 1, child));
    });
}

fn stage(out: &mut Vec<String>, it: &Stage) {
    let nodes = it.nodes.iter().map(|(node, tasks)| format!("{node} ({})", ranges(tasks))).collect();
    let line = Line::new("Stage").text(it.stage.to_string()).number("tasks", it.tasks);
    push(out, 1, &line.number("partitions per task", it.partitions_per_task).list("nodes", nodes));
    if let Some(actual) = &it.actual {
        continued(out, 1, &stage_line(actual, it.attempts));
    }
}

/// `0-2, 5`: indexes of tasks.
pub(super) fn ranges(tasks: &[usize]) -> String {
    let mut tasks = tasks.to_vec();
    tasks.sort_unstable();
    let mut parts: Vec<(usize, usize)> = vec![];
    for task in tasks {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == task => *last = task,
            _ => parts.push((task, task)),
        }
    }
    let show =
        |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    parts.iter().map(show).collect::<Vec<_>>().join(", ")
}

fn operator_line(it: &OperatorTotals, estimated: &Precision<usize>) -> Line {
    let mut time = duration_ns(it.elapsed_ns);
    if it.tasks > 1 {
        time = format!("{time} (most in one task: {})", duration_ns(it.elapsed_max_ns));
    }
    let line = Line::new("actual").number("tasks", it.tasks).number("rows", it.rows as usize);
    let line = line.labelled("estimated rows", precision(estimated)).labelled("time", time);
    let line = line.labelled("memory", bytes(it.memory_bytes)).labelled("spilled", bytes(it.spill_bytes));
    line.list("read", links(&it.read_bytes))
}

/// The line with what a scan of files was spared.
fn scan_line(line: Line, actual: &OperatorTotals, scanned: Option<&ScannedFiles>) -> Line {
    let Some(scanned) = scanned else { return line };
    let counts = |[total, pruned, read]: [u64; 3]| format!("{total} total ({pruned} pruned, {read} read)");
    let line = line.labelled("files", counts(scanned.files()));
    match scanned.row_groups(actual) {
        Some(row_groups) => line.labelled("row groups", counts(row_groups)),
        None => line,
    }
}

fn stage_line(it: &StageTotals, attempts: usize) -> Line {
    let line = Line::new("actual").number("tasks", it.tasks);
    // One for each task is the rule, and goes without saying.
    let line = if attempts > it.tasks { line.number("attempts", attempts) } else { line };
    let line = line.number("rows", it.output_rows as usize);
    let line = line.labelled("output", bytes(it.output_bytes)).labelled("spilled", bytes(it.spill_bytes));
    let line = line.list("read", links(&it.read_bytes)).labelled("median task", format!("{} ms", it.median_ms));
    let slowest = format!("{} ms (task {} on {})", it.slowest_ms, it.slowest_task, it.slowest_node);
    line.labelled("slowest task", slowest)
}

fn finished_line(it: &Finished) -> Line {
    let line = Line::new("Finished").number("rows", it.output_rows as usize);
    let mut line = line.labelled("time", format!("{} ms", it.elapsed_ms));
    if it.restarts > 0 {
        line = line.number("restarts", it.restarts as usize);
    }
    if it.speculated > 0 {
        line = line.number("speculative attempts", it.speculated as usize);
        line = line.number("tasks overtaken", it.overtaken as usize);
    }
    line
}

/// `tcp 1.2 KiB`, one element a link.
pub(super) fn links(by_link: &BTreeMap<String, u64>) -> Vec<String> {
    by_link.iter().map(|(link, n)| format!("{link} {}", bytes(*n))).collect()
}

pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

pub(super) fn duration_ns(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

/// A line of its own.
fn push(out: &mut Vec<String>, level: usize, line: &Line) {
    push_pieces(out, level, pieces(line));
}

/// A line that belongs to the one above it.
fn continued(out: &mut Vec<String>, level: usize, line: &Line) {
    push_pieces(out, level + CONTINUATION / INDENT, pieces(line));
}

/// A line cut where it may be broken; a separator ends the piece before it.
fn pieces(line: &Line) -> Vec<String> {
    if line.details.is_empty() {
        return vec![line.name.clone()];
    }
    let mut pieces = vec![format!("{}: ", line.name)];
    for (idx, detail) in line.details.iter().enumerate() {
        if idx > 0 {
            end_with_comma(&mut pieces);
        }
        pieces.extend(detail_pieces(detail));
    }
    // The name never stands alone on its line.
    let first = pieces.remove(1);
    pieces[0].push_str(&first);
    pieces
}

fn end_with_comma(pieces: &mut [String]) {
    if let Some(last) = pieces.last_mut() {
        last.push_str(", ");
    }
}

fn detail_pieces(detail: &Detail) -> Vec<String> {
    let label = if detail.label.is_empty() { String::new() } else { format!("{}: ", detail.label) };
    match &detail.value {
        Value::Text(text) => vec![format!("{label}{text}")],
        Value::Number(number) => vec![format!("{label}{number}")],
        Value::List(items) => {
            let (open, close) = if detail.label.is_empty() { ("", "") } else { ("[", "]") };
            let mut pieces: Vec<String> = vec![];
            for (idx, item) in items.iter().enumerate() {
                if idx > 0 {
                    end_with_comma(&mut pieces);
                    pieces.push(item.clone());
                } else {
                    pieces.push(format!("{label}{open}{item}"));
                }
            }
            if let Some(last) = pieces.last_mut() {
                last.push_str(close);
            }
            pieces
        }
    }
}

fn push_pieces(out: &mut Vec<String>, level: usize, pieces: Vec<String>) {
    let indent = level * INDENT;
    let width_first = WIDTH_MAX.saturating_sub(indent).max(WIDTH_MIN);
    let width_next = WIDTH_MAX.saturating_sub(indent + CONTINUATION).max(WIDTH_MIN);
    let mut lines: Vec<String> = vec![String::new()];
    let mut used = 0;
    for piece in pieces.iter().flat_map(|piece| narrow(piece, width_next)) {
        let width = if lines.len() == 1 { width_first } else { width_next };
        let n_chars = piece.chars().count();
        if used > 0 && used + piece.trim_end().chars().count() > width {
            lines.push(String::new());
            used = 0;
        }
        used += n_chars;
        if let Some(line) = lines.last_mut() {
            line.push_str(&printable(piece));
        }
    }
    for (idx, line) in lines.iter().enumerate() {
        let depth = if idx == 0 { indent } else { indent + CONTINUATION };
        out.push(format!("{:depth$}{}", "", line.trim_end()));
    }
}

/// A piece that is too wide for a line of its own, cut after its spaces.
fn narrow(piece: &str, width: usize) -> Vec<&str> {
    if piece.chars().count() <= width { vec![piece] } else { piece.split_inclusive(' ').collect() }
}

/// Line breaks and other control characters, which names and literals may hold, are written out.
pub(super) fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_line_is_continued_below_itself() {
        let line = Line::new("Projection").list("", (0..30).map(|n| format!("column_{n}")).collect());
        let mut out = vec![];
        push(&mut out, 1, &line);
        assert!(out.len() > 1);
        assert!(out.iter().all(|line| line.chars().count() <= WIDTH_MAX), "{out:#?}");
        assert!(out[0].starts_with("  Projection: column_0, ") && out[1].starts_with("      column_"), "{out:#?}");
        assert!(out[0].ends_with(',') && !out.last().unwrap().ends_with(','), "{out:#?}");
    }

    #[test]
    fn one_long_expression_is_broken_at_its_spaces() {
        let text = vec!["(a = 1)"; 100].join(" OR ");
        let mut out = vec![];
        push(&mut out, 0, &Line::new("Filter").text(text.clone()));
        assert!(out.iter().all(|line| line.chars().count() <= WIDTH_MAX), "{out:#?}");
        let joined = out.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        assert_eq!(joined, format!("Filter: {text}"));
    }

    #[test]
    fn no_control_character_gets_out() {
        let mut out = vec![];
        push(&mut out, 0, &Line::new("Filter").text("a = 'x\ny\u{1b}'"));
        assert_eq!(out, ["Filter: a = 'x\\ny\\u{1b}'"]);
    }

    #[test]
    fn tasks_are_shown_as_ranges() {
        assert_eq!(ranges(&[3, 0, 1, 2, 7]), "0-3, 7");
        assert_eq!(ranges(&[]), "");
    }

    #[test]
    fn numbers_have_units() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536), bytes(5 << 30)], ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        let times = [duration_ns(5), duration_ns(1_500), duration_ns(2_000_000), duration_ns(3_210_000_000)];
        assert_eq!(times, ["5 ns", "1.5 µs", "2.0 ms", "3.21 s"]);
    }
}
