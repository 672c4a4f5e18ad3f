//! Two results of a benchmark next to one another: which numbers moved, and how far.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::report::table;
use crate::error::CliError;

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The JSON file of the earlier run.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The JSON file of the later run.
    #[arg(value_name = "NEW")]
    new: PathBuf,
}

/// A file that is open before the benchmark begins.
pub struct Created {
    path: PathBuf,
    file: File,
}

pub fn create(path: PathBuf) -> Result<Created, CliError> {
    match File::create(&path) {
        Ok(file) => Ok(Created { path, file }),
        Err(source) => Err(CliError::Folder { path, source }),
    }
}

pub fn write(mut created: Created, found: &Value) -> Result<(), CliError> {
    let written = writeln!(created.file, "{found:#}");
    written.map_err(|source| CliError::Folder { path: created.path, source })
}

/// Errs when the file is no result of `sheaf bench`.
pub fn read(path: &Path) -> Result<Value, CliError> {
    let refused = |why: String| CliError::NoResult { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| refused(error.to_string()))?;
    match times(&value) {
        Some(_) => Ok(value),
        None => Err(refused("it has no measured times of format 1".to_owned())),
    }
}

pub fn run(args: &CompareArgs) -> Result<(), CliError> {
    print!("{}", text(&read(&args.old)?, &read(&args.new)?)?);
    Ok(())
}

/// What is compared of a result: milliseconds by name, in the order of the file's kind. `None` for anything else.
fn times(result: &Value) -> Option<BTreeMap<(usize, String), f64>> {
    let mut found = BTreeMap::new();
    if result["format"] != 1 {
        return None;
    }
    if result["benchmark"] == "load" {
        let statements = result["statements"].as_array()?.iter().chain([&result["all"]]);
        for (n, statement) in statements.enumerate() {
            for what in ["p50", "p99"] {
                // Null where nothing was answered.
                let Some(ms) = statement[format!("{what}_ms")].as_f64() else { continue };
                found.insert((n, format!("{} {what}", statement["name"].as_str()?)), ms);
            }
        }
        return Some(found);
    }
    for query in result["queries"].as_array()? {
        let number = usize::try_from(query["query"].as_u64()?).ok()?;
        for (system, outcome) in query["systems"].as_object()? {
            let Some(ms) = outcome["wall"]["median_ms"].as_f64() else { continue };
            found.insert((number, format!("q{number} {system}")), ms);
        }
    }
    Some(found)
}

/// A line for each number that both have, and their geometric mean.
pub fn text(old: &Value, new: &Value) -> Result<String, CliError> {
    let neither = |path: &str| CliError::NoResult { path: PathBuf::from(path), why: "it has no times".to_owned() };
    let old = times(old).ok_or_else(|| neither("the earlier result"))?;
    let new = times(new).ok_or_else(|| neither("the later result"))?;
    let by_name: BTreeMap<&str, f64> = old.iter().map(|((_, name), ms)| (name.as_str(), *ms)).collect();
    let mut rows = vec![["", "old ms", "new ms", "new / old"].map(str::to_owned).to_vec()];
    let mut ratios = Vec::new();
    for ((_, name), ms) in &new {
        let Some(before) = by_name.get(name.as_str()) else { continue };
        let ratio = ms / before;
        rows.push(vec![name.clone(), format!("{before:.1}"), format!("{ms:.1}"), format!("×{ratio:.2}")]);
        if ratio.is_finite() && ratio > 0.0 {
            ratios.push(ratio);
        }
    }
    if ratios.is_empty() {
        return Ok("\nthe two results have no number in common\n".to_owned());
    }
    let mean = super::samples::geometric_mean(&ratios);
    Ok(format!("\n{}geometric mean of {} ratios: ×{mean:.2}\n", table(&rows), ratios.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn load(p50: f64) -> Value {
        let statement = |name: &str| json!({ "name": name, "p50_ms": p50, "p99_ms": 10.0 });
        json!({ "format": 1, "benchmark": "load", "statements": [statement("q1")], "all": statement("all") })
    }

    #[test]
    fn results_of_one_kind_are_compared_by_name() {
        let text = text(&load(4.0), &load(8.0)).unwrap();
        assert!(text.lines().any(|line| line == "q1 p50      4.0     8.0      ×2.00"), "{text}");
        assert!(text.ends_with("geometric mean of 4 ratios: ×1.41\n"), "{text}");
    }

    #[test]
    fn results_of_two_kinds_have_nothing_in_common() {
        let query =
            json!({ "query": 6, "systems": { "sheaf": { "wall": { "median_ms": 5.0 } }, "x": { "failed": "" } } });
        let tpch = json!({ "format": 1, "queries": [query] });
        assert!(text(&tpch, &load(1.0)).unwrap().contains("no number in common"));
        assert!(text(&tpch, &tpch).unwrap().contains("q6 sheaf"));
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        for content in ["", "{}", "[1]", r#"{"format":2,"queries":[]}"#] {
            std::fs::write(&path, content).unwrap();
            assert!(matches!(read(&path), Err(CliError::NoResult { .. })), "{content}");
        }
    }
}
