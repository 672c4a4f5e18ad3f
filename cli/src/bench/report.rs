//! What a benchmark found, as tables for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::samples::{Samples, geometric_mean};
use super::system::Distribution;
use crate::progress::bytes;

/// A benchmark that has run. The first system is the one that the others are compared with.
pub struct Report {
    /// What was measured, where and how: goes into the JSON as it is.
    pub conditions: Value,
    pub systems: Vec<SystemReport>,
    pub queries: Vec<QueryReport>,
}

pub struct SystemReport {
    pub name: String,
    pub description: String,
    /// Of each of its processes: its name and the most memory that it has had resident.
    pub peak_rss_bytes: Vec<(String, u64)>,
}

pub struct QueryReport {
    pub number: usize,
    /// By system.
    pub outcomes: Vec<Outcome>,
}

/// What one system made of one query.
pub enum Outcome {
    Right {
        /// Milliseconds, run by run.
        wall: Samples,
        cpu: Samples,
        n_rows: usize,
        distribution: Option<Distribution>,
    },
    /// An answer that differs from the first system's, and in what.
    Wrong(String),
    /// The system's own words.
    Failed(String),
}

impl Outcome {
    fn samples(&self, what: What) -> Option<&Samples> {
        match (self, what) {
            (Outcome::Right { wall, .. }, What::Wall) => Some(wall),
            (Outcome::Right { cpu, .. }, What::Cpu) => Some(cpu),
            _ => None,
        }
    }

    fn distribution(&self) -> Option<&Distribution> {
        match self {
            Outcome::Right { distribution, .. } => distribution.as_ref(),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum What {
    Wall,
    Cpu,
}

/// One system against the first, over the queries that both answered rightly.
#[derive(Debug, Clone, PartialEq)]
struct Total {
    n_queries: usize,
    /// Sum of the queries' medians.
    ms: f64,
    /// The same over the first system's.
    ratio: f64,
    /// Of the sums of single runs.
    spread: f64,
    /// Of the queries' ratios.
    geometric_mean: f64,
    /// The query with the greatest ratio, and that ratio.
    worst: Option<(usize, f64)>,
}

impl Report {
    /// Queries that some system did not answer, or not as the first did: `q5 on duckdb`.
    pub fn not_right(&self) -> Vec<String> {
        let mut names = Vec::new();
        for query in &self.queries {
            for (system, outcome) in self.systems.iter().zip(&query.outcomes) {
                if !matches!(outcome, Outcome::Right { .. }) {
                    names.push(format!("q{} on {}", query.number, system.name));
                }
            }
        }
        names
    }

    /// The queries' samples that a system and the first have in common.
    fn pairs(&self, system: usize, what: What) -> Vec<(usize, &Samples, &Samples)> {
        self.queries
            .iter()
            .filter_map(|query| {
                let first = query.outcomes.first()?.samples(what)?;
                Some((query.number, first, query.outcomes.get(system)?.samples(what)?))
            })
            .collect()
    }

    fn total(&self, system: usize, what: What) -> Total {
        let pairs = self.pairs(system, what);
        let ms: f64 = pairs.iter().map(|(_, _, this)| this.median()).sum();
        let first_ms: f64 = pairs.iter().map(|(_, first, _)| first.median()).sum();
        let ratios: Vec<(usize, f64)> =
            pairs.iter().map(|(number, first, this)| (*number, this.median() / first.median())).collect();
        Total {
            n_queries: pairs.len(),
            ms,
            ratio: ms / first_ms,
            spread: Samples::sums(pairs.iter().map(|(_, _, this)| *this)).spread(),
            geometric_mean: geometric_mean(&ratios.iter().map(|(_, ratio)| *ratio).collect::<Vec<_>>()),
            worst: ratios.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)),
        }
    }

    /// The tables, as text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let first = self.systems.first().map_or("", |system| system.name.as_str());
        for (what, title) in [(What::Wall, "wall time"), (What::Cpu, "CPU time of all processes")] {
            let _ = writeln!(out, "\n{title} in ms: median, spread (greatest less least, of the median), × {first}\n");
            out.push_str(&table(&self.queries_table(what)));
        }
        let exchanged = self.exchange_table();
        if exchanged.len() > 1 {
            out.push_str("\nwhat was exchanged between tasks (by one more run, EXPLAIN ANALYZE)\n\n");
            out.push_str(&table(&exchanged));
        }
        let _ = writeln!(out, "\ntotals: sums of medians over the queries that the system and {first} answered\n");
        out.push_str(&table(&self.totals_table()));
        out.push('\n');
        for system in &self.systems {
            let _ = writeln!(out, "{}: {}", system.name, system.description);
        }
        for query in &self.queries {
            for (system, outcome) in self.systems.iter().zip(&query.outcomes) {
                let (word, text) = match outcome {
                    Outcome::Right { .. } => continue,
                    Outcome::Wrong(text) => ("WRONG", text),
                    Outcome::Failed(text) => ("FAILED", text),
                };
                let _ = writeln!(out, "{word}: q{} on {}: {text}", query.number, system.name);
            }
        }
        out
    }

    fn header(&self, first: &str) -> Vec<String> {
        std::iter::once(first.to_owned()).chain(self.systems.iter().map(|system| system.name.clone())).collect()
    }

    fn queries_table(&self, what: What) -> Vec<Vec<String>> {
        let mut rows = vec![self.header("query")];
        for query in &self.queries {
            let baseline = query.outcomes.first().and_then(|outcome| outcome.samples(what)).map(Samples::median);
            let cell = |(n, outcome): (usize, &Outcome)| match outcome {
                Outcome::Wrong(_) => "WRONG".to_owned(),
                Outcome::Failed(_) => "FAILED".to_owned(),
                Outcome::Right { .. } => {
                    let Some(samples) = outcome.samples(what) else { return "-".to_owned() };
                    let cell = format!("{:.1} {:>4}", samples.median(), percent(samples.spread()));
                    match baseline {
                        Some(baseline) if n > 0 => format!("{cell} {}", ratio(samples.median() / baseline)),
                        _ => cell,
                    }
                }
            };
            let cells = query.outcomes.iter().enumerate().map(cell);
            rows.push(std::iter::once(format!("q{}", query.number)).chain(cells).collect());
        }
        rows
    }

    fn exchange_table(&self) -> Vec<Vec<String>> {
        let shown: Vec<usize> = (0..self.systems.len())
            .filter(|&n| self.queries.iter().any(|it| it.outcomes[n].distribution().is_some_and(|it| it.tasks > 0)))
            .collect();
        if shown.is_empty() {
            return vec![];
        }
        let names = shown.iter().map(|&n| self.systems[n].name.clone());
        let mut rows = vec![std::iter::once("query".to_owned()).chain(names).collect::<Vec<_>>()];
        for query in &self.queries {
            let cells = shown.iter().map(|&n| query.outcomes[n].distribution().map_or("-".to_owned(), exchanged));
            rows.push(std::iter::once(format!("q{}", query.number)).chain(cells).collect());
        }
        rows
    }

    fn totals_table(&self) -> Vec<Vec<String>> {
        let titles =
            ["system", "queries", "wall s", "spread", "ratio", "mean ratio", "worst", "CPU s", "spread", "ratio"];
        let mut rows = vec![titles.iter().chain(&["worst", "peak RSS"]).map(|it| (*it).to_owned()).collect::<Vec<_>>()];
        for (n, system) in self.systems.iter().enumerate() {
            let (wall, cpu) = (self.total(n, What::Wall), self.total(n, What::Cpu));
            let worst = |total: &Total| total.worst.map_or("-".to_owned(), |(q, it)| format!("q{q} {}", ratio(it)));
            rows.push(vec![
                system.name.clone(),
                format!("{} of {}", wall.n_queries, self.queries.len()),
                format!("{:.2}", wall.ms / 1000.0),
                percent(wall.spread),
                ratio(wall.ratio),
                ratio(wall.geometric_mean),
                worst(&wall),
                format!("{:.2}", cpu.ms / 1000.0),
                percent(cpu.spread),
                ratio(cpu.ratio),
                worst(&cpu),
                bytes(system.peak_rss_bytes.iter().map(|(_, n_bytes)| n_bytes).sum()),
            ]);
        }
        rows
    }

    /// Everything, with every single run, for programs.
    pub fn json(&self) -> Value {
        let system = |(n, system): (usize, &SystemReport)| {
            let total = |what| {
                let total = self.total(n, what);
                json!({
                    "ms": total.ms,
                    "ratio": total.ratio,
                    "spread": total.spread,
                    "geometric_mean_ratio": total.geometric_mean,
                    "worst_query": total.worst.map(|(number, _)| number),
                    "worst_ratio": total.worst.map(|(_, ratio)| ratio),
                })
            };
            let mut by_link: BTreeMap<&str, u64> = BTreeMap::new();
            for (link, n_bytes) in self
                .queries
                .iter()
                .filter_map(|query| query.outcomes[n].distribution())
                .flat_map(|it| &it.bytes_by_link)
            {
                *by_link.entry(link).or_default() += n_bytes;
            }
            json!({
                "name": system.name,
                "description": system.description,
                "processes": system.peak_rss_bytes.iter()
                    .map(|(name, n_bytes)| json!({ "name": name, "peak_rss_bytes": n_bytes })).collect::<Vec<_>>(),
                "queries": self.pairs(n, What::Wall).len(),
                "wall": total(What::Wall),
                "cpu": total(What::Cpu),
                "exchanged_bytes": by_link,
            })
        };
        let query = |query: &QueryReport| {
            let outcomes = self.systems.iter().zip(&query.outcomes);
            let outcomes: serde_json::Map<String, Value> =
                outcomes.map(|(system, outcome)| (system.name.clone(), outcome_json(outcome))).collect();
            json!({ "query": query.number, "systems": outcomes })
        };
        json!({
            "format": 1,
            "conditions": self.conditions,
            "compared_with": self.systems.first().map(|system| &system.name),
            "systems": self.systems.iter().enumerate().map(system).collect::<Vec<_>>(),
            "queries": self.queries.iter().map(query).collect::<Vec<_>>(),
        })
    }
}

fn outcome_json(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Wrong(text) => json!({ "wrong": text }),
        Outcome::Failed(text) => json!({ "failed": text }),
        Outcome::Right { wall, cpu, n_rows, distribution } => {
            let series = |samples: &Samples| json!({ "median_ms": samples.median(), "spread": samples.spread(), "runs_ms": samples.0 });
            let mut object = json!({ "rows": n_rows, "wall": series(wall), "cpu": series(cpu) });
            if let Some(it) = distribution {
                object["stages"] = json!(it.stages);
                object["tasks"] = json!(it.tasks);
                object["exchanged_bytes"] = json!(it.bytes_by_link);
                object["spilled_bytes"] = json!(it.spilled_bytes);
                object["not_distributed"] = json!(it.reason);
            }
            object
        }
    }
}

/// `6 tasks, tcp 1.2 MiB`.
fn exchanged(it: &Distribution) -> String {
    if it.tasks == 0 {
        return "one process".to_owned();
    }
    let mut cell = format!("{} tasks", it.tasks);
    for (link, n_bytes) in &it.bytes_by_link {
        let _ = write!(cell, ", {link} {}", bytes(*n_bytes));
    }
    if it.spilled_bytes > 0 {
        let _ = write!(cell, ", spilled {}", bytes(it.spilled_bytes));
    }
    cell
}

fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.0}%", share * 100.0) } else { "-".to_owned() }
}

fn ratio(ratio: f64) -> String {
    if ratio.is_finite() { format!("×{ratio:.2}") } else { "-".to_owned() }
}

/// Rows of cells as lines, the first cell to the left and the others to the right of their columns.
pub fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|it| it.chars().count()).max();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or(0);
            let _ = if column == 0 { write!(line, "{cell:<width$}") } else { write!(line, "  {cell:>width$}") };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(wall: &[f64], cpu: &[f64]) -> Outcome {
        let (wall, cpu) = (Samples(wall.to_vec()), Samples(cpu.to_vec()));
        Outcome::Right { wall, cpu, n_rows: 4, distribution: None }
    }

    fn report() -> Report {
        let system = |name: &str| SystemReport {
            name: name.to_owned(),
            description: format!("the system {name}"),
            peak_rss_bytes: vec![("p".to_owned(), 1 << 20), ("q".to_owned(), 1 << 20)],
        };
        let mut spread = right(&[100.0, 110.0, 90.0], &[60.0, 60.0, 60.0]);
        if let Outcome::Right { distribution, .. } = &mut spread {
            let bytes_by_link = BTreeMap::from([("local".to_owned(), 0), ("tcp".to_owned(), 3 << 20)]);
            *distribution = Some(Distribution { stages: 2, tasks: 4, bytes_by_link, ..Distribution::default() });
        }
        let queries = vec![
            QueryReport {
                number: 1,
                outcomes: vec![right(&[50.0, 52.0, 48.0], &[40.0, 40.0, 40.0]), spread, right(&[25.0; 3], &[20.0; 3])],
            },
            QueryReport {
                number: 2,
                outcomes: vec![
                    right(&[10.0; 3], &[10.0; 3]),
                    right(&[10.0; 3], &[5.0; 3]),
                    Outcome::Wrong("3 rows, not 4".to_owned()),
                ],
            },
        ];
        Report { conditions: json!({}), systems: ["a", "b", "c"].map(system).into(), queries }
    }

    #[test]
    fn totals_are_over_the_queries_that_both_answered() {
        let report = report();
        let total = report.total(1, What::Wall);
        assert_eq!((total.n_queries, total.ms, total.worst), (2, 110.0, Some((1, 2.0))));
        assert!((total.ratio - 110.0 / 60.0).abs() < 1e-12 && (total.geometric_mean - 2.0_f64.sqrt()).abs() < 1e-12);
        assert!((total.spread - 20.0 / 110.0).abs() < 1e-12);
        let total = report.total(2, What::Cpu);
        assert_eq!((total.n_queries, total.ms, total.ratio), (1, 20.0, 0.5));
        assert_eq!(report.total(0, What::Wall).ratio, 1.0);
    }

    #[test]
    fn the_tables_show_medians_ratios_and_what_went_wrong() {
        let report = report();
        let text = report.text();
        for line in [
            "query          a                 b                c",
            "q1     50.0   8%  100.0  20% ×2.00  25.0   0% ×0.50",
            "q2     10.0   0%   10.0   0% ×1.00            WRONG",
            "q1     4 tasks, local 0 B, tcp 3.0 MiB",
            "q2                                   -",
            "b: the system b",
            "WRONG: q2 on c: 3 rows, not 4",
        ] {
            assert!(text.lines().any(|it| it == line), "no line {line:?} in\n{text}");
        }
        assert!(text.contains("c        1 of 2    0.03"), "{text}");
        assert_eq!(report.not_right(), ["q2 on c"]);
    }

    #[test]
    fn the_json_has_every_run() {
        let json = report().json();
        assert_eq!(json["queries"][0]["systems"]["b"]["wall"]["runs_ms"], json!([100.0, 110.0, 90.0]));
        assert_eq!(json["queries"][0]["systems"]["b"]["exchanged_bytes"]["tcp"], json!(3 << 20));
        assert_eq!(json["queries"][1]["systems"]["c"], json!({ "wrong": "3 rows, not 4" }));
        assert_eq!(json["systems"][2]["queries"], json!(1));
        assert_eq!(json["systems"][1]["exchanged_bytes"], json!({ "local": 0, "tcp": 3 << 20 }));
        assert_eq!(json["systems"][1]["processes"][0]["peak_rss_bytes"], json!(1 << 20));
        assert_eq!(json["compared_with"], json!("a"));
    }
}
