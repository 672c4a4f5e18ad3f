//! Rules of the project that a compiler does not know: layers, documents that name code, what no file may hold.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use sheaf_tests::root;

/// Low to high.
const LAYERS: [&str; 6] = ["common", "planners", "flight", "query", "server", "cli"];
/// The inputs that every operator is tried on, as `suites/README.md` heads its columns and the files mark their parts.
const CASES: [&str; 4] = ["facts", "empty", "one", "skewed"];

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files that Git knows or would take, without those it ignores.
fn tracked(suffix: &str) -> Vec<PathBuf> {
    let args = ["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"];
    let output = Command::new("git").args(args).current_dir(root()).output();
    let paths: Vec<PathBuf> = match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).lines().map(|line| root().join(line)).collect()
        }
        // An unpacked archive has no Git; then the folders of the packages hold all there is.
        _ => LAYERS.iter().chain(&["tests"]).flat_map(|folder| walk(&root().join(folder))).collect(),
    };
    paths.into_iter().filter(|path| path.to_string_lossy().ends_with(suffix) && path.exists()).collect()
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

fn metadata() -> serde_json::Value {
    let args = ["metadata", "--no-deps", "--offline", "--format-version=1"];
    let output = Command::new(env!("CARGO")).args(args).current_dir(root()).output().expect("cargo runs this test");
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn packages(metadata: &serde_json::Value) -> &Vec<serde_json::Value> {
    metadata["packages"].as_array().expect("cargo metadata lists packages")
}

fn layer(package: &str) -> Option<usize> {
    let name = package.strip_prefix("sheaf-")?;
    LAYERS.iter().position(|layer| *layer == name)
}

#[test]
fn dependencies_point_down() {
    let metadata = metadata();
    let mut n_layers = 0;
    for package in packages(&metadata) {
        let Some(from) = layer(package["name"].as_str().expect("a package has a name")) else { continue };
        n_layers += 1;
        for dependency in package["dependencies"].as_array().expect("a package lists its dependencies") {
            let Some(to) = layer(dependency["name"].as_str().expect("a dependency has a name")) else { continue };
            assert!(to < from, "{} must not depend on {}", LAYERS[from], LAYERS[to]);
        }
    }
    assert_eq!(n_layers, LAYERS.len(), "a layer is missing or renamed: this test would check nothing of it");
}

#[test]
fn every_package_has_the_licence() {
    let metadata = metadata();
    for package in packages(&metadata) {
        assert_eq!(package["license"].as_str(), Some("Apache-2.0"), "{}", package["name"]);
    }
}

#[test]
fn one_version_of_the_engine() {
    let lock = read(&root().join("Cargo.lock"));
    for name in ["arrow", "arrow-array", "arrow-flight", "datafusion", "parquet", "tonic", "prost"] {
        let n_versions = lock.lines().filter(|line| *line == format!("name = \"{name}\"")).count();
        assert_eq!(n_versions, 1, "{n_versions} versions of {name} in Cargo.lock");
    }
}

#[test]
fn every_source_file_says_what_it_is() {
    let files = tracked(".rs");
    assert!(!files.is_empty(), "no source file found");
    for path in files {
        let first = read(&path).lines().next().unwrap_or_default().to_owned();
        assert!(first.starts_with("//! ") && first.len() > 12, "{} does not begin with `//! …`", path.display());
    }
}

#[test]
fn nothing_is_left_undone_or_switched_off() {
    // Put together here, so that this file does not find itself.
    let words = [["to", "do!("], ["unimple", "mented!("], ["#[ig", "nore"], ["db", "g!("], ["```ig", "nore"]]
        .map(|halves| halves.concat());
    for path in tracked(".rs") {
        let text = read(&path);
        for word in &words {
            assert!(!text.contains(word.as_str()), "{} has {word}", path.display());
        }
    }
}

#[test]
fn no_file_names_a_machine() {
    // Homes and build folders of those who wrote it: nobody else has them.
    let words = [["/ro", "ot/"], ["/work/", "main"], ["/work/", "shared"]].map(|halves| halves.concat());
    for path in [".rs", ".toml", ".md", ".sh", ".py", ".slt", ".yml", ".yaml"].iter().flat_map(|suffix| tracked(suffix))
    {
        let text = read(&path);
        for word in &words {
            assert!(!text.contains(word.as_str()), "{} names {word}", path.display());
        }
    }
}

fn is_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Whether the source defines the item. Whole names only: `fn run` is not found in `fn run_all`.
fn defines(source: &str, item: &str) -> bool {
    const KINDS: [&str; 8] = ["fn", "struct", "enum", "trait", "type", "const", "static", "mod"];
    KINDS.iter().map(|kind| format!("{kind} {item}")).any(|definition| {
        source.match_indices(&definition).any(|(at, _)| !source[at + definition.len()..].starts_with(is_name))
    })
}

#[test]
fn architecture_names_what_exists() {
    let path = root().join("ARCHITECTURE.md");
    let text = read(&path);
    let is_path = |name: &&str| name.contains('/') && name.chars().all(|c| is_name(c) || "./-:".contains(c));
    let names: Vec<&str> = text.split('`').skip(1).step_by(2).filter(is_path).collect();
    assert!(!names.is_empty(), "ARCHITECTURE.md names no code");
    for name in names {
        let (path, item) = name.split_once("::").map_or((name, None), |(path, item)| (path, Some(item)));
        assert!(root().join(path).exists(), "ARCHITECTURE.md names {path}, which does not exist");
        let Some(item) = item.and_then(|item| item.rsplit("::").next()) else { continue };
        assert!(defines(&read(&root().join(path)), item), "ARCHITECTURE.md: {path} defines no {item}");
    }
}

/// The cells of a Markdown table's rows, header first, the dashes left out.
fn table(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("|-") && !line.starts_with("| -"));
    let cells = |row: &str| row.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.map(cells).collect()
}

#[test]
fn every_operator_is_tried_on_every_input() {
    let suites = root().join("tests/suites");
    let rows = table(&read(&suites.join("README.md")));
    let (header, operators) = rows.split_first().expect("the README has a table");
    assert_eq!(header.len(), CASES.len() + 1, "the table's columns are the operator and the four inputs");
    assert!(operators.len() >= 30, "only {} operators", operators.len());
    let mut named = BTreeSet::new();
    for row in operators {
        assert_eq!(row.len(), header.len(), "a cell is missing: {row:?}");
        for (cell, case) in row[1..].iter().zip(CASES) {
            let file = cell.trim_matches('`');
            assert!(!file.is_empty(), "{}: no file for {case}", row[0]);
            let path = suites.join(file);
            assert!(path.exists(), "{}: no {file}", row[0]);
            let mark = format!("# case: {case} ");
            assert!(read(&path).contains(&mark), "{}: {file} has no part {mark:?}", row[0]);
            named.insert(file.to_owned());
        }
    }
    // The other way round: a file made for the four inputs stands in the table.
    for path in sheaf_tests::suite::files(&suites) {
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let has_cases = read(&path).contains("# case: ");
        assert!(!has_cases || named.contains(&name), "{name} is missing in suites/README.md");
    }
}

#[test]
fn the_settings_page_is_the_registry() {
    let page = root().join("website/docs/settings.md");
    let text = read(&page);
    let is_setting = |line: &&str| line.starts_with("| `");
    let shown: Vec<&str> = text.lines().filter(is_setting).collect();
    let rows = sheaf_common::settings::Settings::default().rows();
    let expected: Vec<String> =
        rows.iter().map(|row| format!("| `{}` | `{}` | {} |", row.name, row.default, row.description)).collect();
    assert_eq!(shown, expected, "{}", page.display());
}

#[test]
fn the_functions_page_is_the_registry() {
    let page = root().join("website/docs/functions.md");
    let text = read(&page);
    let chapters = sheaf_query::functions::mysql::chapters();
    let code = |names: &[String]| names.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ");
    let expected: Vec<String> =
        chapters.iter().map(|(title, names)| format!("| {title} | {} |", code(names))).collect();
    let is_chapter = |line: &&str| line.starts_with("| ") && line.contains(" | `") && line.ends_with("` |");
    let shown: Vec<&str> = text.lines().filter(is_chapter).collect();
    assert_eq!(shown, expected, "{}", page.display());
    // What the page calls missing is.
    let (_, missing) = text.split_once("## What is missing").expect("the page has the part");
    let (missing, _) = missing.split_once("\n## ").expect("another part follows");
    for name in missing.split('`').skip(1).step_by(2) {
        assert!(!chapters.iter().any(|(_, names)| names.iter().any(|it| it == name)), "{name} is there");
    }
}
