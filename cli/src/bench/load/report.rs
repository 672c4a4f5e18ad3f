//! What a load found: counts, rates and percentiles, as a table and as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::report::table;

/// The shares of statements that were answered within a time that is shown.
const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)];

pub struct LoadReport {
    pub server: String,
    pub concurrency: u16,
    pub measured: Duration,
    pub statements: Vec<StatementReport>,
}

/// What became of one statement.
pub struct StatementReport {
    name: String,
    /// Invariant: ascending, in milliseconds.
    latencies: Vec<f64>,
    errors: Vec<String>,
}

impl StatementReport {
    pub fn new(name: &str, latencies: Vec<Duration>, errors: Vec<String>) -> Self {
        let mut latencies: Vec<f64> = latencies.into_iter().map(|it| it.as_secs_f64() * 1000.0).collect();
        latencies.sort_by(f64::total_cmp);
        Self { name: name.to_owned(), latencies, errors }
    }
}

/// The time within which a share of the statements was answered: the nearest rank. NaN for none.
fn percentile(ascending: &[f64], share: f64) -> f64 {
    let rank = (share * ascending.len() as f64).ceil() as usize;
    ascending.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

impl LoadReport {
    pub fn n_errors(&self) -> usize {
        self.statements.iter().map(|it| it.errors.len()).sum()
    }

    pub fn n_statements(&self) -> usize {
        self.statements.iter().map(|it| it.latencies.len()).sum()
    }

    /// All statements as one.
    fn total(&self) -> StatementReport {
        let mut latencies: Vec<f64> = self.statements.iter().flat_map(|it| it.latencies.iter().copied()).collect();
        latencies.sort_by(f64::total_cmp);
        let errors = self.statements.iter().flat_map(|it| it.errors.iter().cloned()).collect();
        StatementReport { name: "all".to_owned(), latencies, errors }
    }

    fn rate(&self, it: &StatementReport) -> f64 {
        it.latencies.len() as f64 / self.measured.as_secs_f64()
    }

    pub fn text(&self) -> String {
        let titles = ["statement", "answers", "per s", "errors", "mean ms"];
        let titles = titles.into_iter().chain(PERCENTILES.iter().map(|it| it.0)).chain(["max"]);
        let mut rows = vec![titles.map(str::to_owned).collect::<Vec<_>>()];
        let total = self.total();
        for it in self.statements.iter().chain([&total]) {
            let milliseconds = |ms: f64| match ms {
                // A tenth of a millisecond is much of one.
                ms if ms < 10.0 => format!("{ms:.2}"),
                ms if ms.is_finite() => format!("{ms:.1}"),
                _ => "-".to_owned(),
            };
            let mean = it.latencies.iter().sum::<f64>() / it.latencies.len() as f64;
            let counts = [it.name.clone(), it.latencies.len().to_string(), format!("{:.1}", self.rate(it))];
            let percentiles = PERCENTILES.iter().map(|(_, share)| percentile(&it.latencies, *share));
            let times = std::iter::once(mean).chain(percentiles).chain([percentile(&it.latencies, 1.0)]);
            let cells = counts.into_iter().chain([it.errors.len().to_string()]).chain(times.map(milliseconds));
            rows.push(cells.collect());
        }
        let mut out = format!(
            "\n{} clients on {} for {:.1} s\n\n{}",
            self.concurrency,
            self.server,
            self.measured.as_secs_f64(),
            table(&rows)
        );
        for (words, n) in words(&total.errors) {
            out.push_str(&format!("{n} × {words}\n"));
        }
        out
    }

    pub fn json(&self) -> Value {
        let statement = |it: &StatementReport| {
            let mut object = json!({
                "name": it.name,
                "answers": it.latencies.len(),
                "per_second": self.rate(it),
                "errors": words(&it.errors),
            });
            let times = PERCENTILES.iter().map(|(name, share)| (*name, percentile(&it.latencies, *share)));
            let max = percentile(&it.latencies, 1.0);
            let mean = it.latencies.iter().sum::<f64>() / it.latencies.len() as f64;
            for (name, ms) in times.chain([("max", max), ("mean", mean)]) {
                object[format!("{name}_ms")] = json!(ms);
            }
            object
        };
        json!({
            "format": 1,
            "benchmark": "load",
            "sheafdb": env!("CARGO_PKG_VERSION"),
            "server": self.server,
            "concurrency": self.concurrency,
            "seconds": self.measured.as_secs_f64(),
            "statements": self.statements.iter().map(statement).collect::<Vec<_>>(),
            "all": statement(&self.total()),
        })
    }
}

/// How often each error was met.
fn words(errors: &[String]) -> BTreeMap<&str, usize> {
    let mut found = BTreeMap::new();
    for error in errors {
        *found.entry(error.as_str()).or_default() += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> LoadReport {
        let ms = |values: &[u64]| values.iter().map(|&it| Duration::from_millis(it)).collect();
        LoadReport {
            server: "db:1".to_owned(),
            concurrency: 4,
            measured: Duration::from_secs(2),
            statements: vec![
                StatementReport::new("q1", ms(&(1..=100).rev().collect::<Vec<_>>()), vec!["busy".to_owned(); 2]),
                StatementReport::new("q2", vec![], vec![]),
            ],
        }
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!([0.5, 0.9, 0.95, 0.99, 1.0].map(|it| percentile(&times, it)), [5.0, 9.0, 10.0, 10.0, 10.0]);
        assert_eq!(percentile(&[7.0], 0.01), 7.0);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn the_table_and_the_json_say_the_same() {
        let report = report();
        let text = report.text();
        assert!(text.contains("q1             100   50.0       2     50.5  50.0  90.0  95.0  99.0  100.0"), "{text}");
        assert!(text.contains("q2               0    0.0       0        -"), "{text}");
        assert!(text.contains("2 × busy"), "{text}");
        let json = report.json();
        assert_eq!((&json["all"]["p99_ms"], &json["all"]["answers"]), (&json!(99.0), &json!(100)));
        assert_eq!(json["statements"][0]["errors"]["busy"], json!(2));
        assert_eq!((report.n_errors(), report.n_statements()), (2, 100));
    }
}
