//! The user documentation: its links lead somewhere, its pages are in the table of contents, and its examples run.
//!
//! In the pages of [`RUN`] every block ` ```sql ` is run, in order, on a server of the page's own. A block ` ```text `
//! right behind it is the answer, as `sheaf sql --format table` writes it. `UPDATE=1` writes the answers anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sheaf_tests::{Cluster, ClusterSpec, alone, binary, root, skip};

const DEADLINE: Duration = Duration::from_secs(180);
/// Pages beside those of the SQL reference whose examples stand on their own.
const RUN: [&str; 2] = ["getting-started.md", "load-data.md"];

fn docs() -> PathBuf {
    root().join("website/docs")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All pages, the reference's too.
fn pages() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("the folder of the documentation can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|it| it == "md") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&docs(), &mut found);
    found.sort();
    found
}

/// The targets of Markdown links, without those of code blocks.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // What stands between backquotes is code too.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("");
        let mut rest = prose.as_str();
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let Some(end) = rest.find(')') else { break };
            found.push(rest[..end].to_owned());
        }
    }
    found
}

/// A heading as links name it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut n_links = 0;
    for page in pages().into_iter().chain([root().join("README.md")]) {
        for link in links(&read(&page)) {
            if link.starts_with("https://") {
                continue;
            }
            n_links += 1;
            let (path, fragment) = link.split_once('#').map_or((link.as_str(), None), |(a, b)| (a, Some(b)));
            let target =
                if path.is_empty() { page.clone() } else { page.parent().expect("a file is in a folder").join(path) };
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            if let Some(fragment) = fragment {
                let headings = read(&target);
                let found = headings.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == fragment);
                assert!(found, "{}: {link}: there is no such heading", page.display());
            }
        }
    }
    assert!(n_links > 20, "only {n_links} links were found");
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let summary = docs().join("SUMMARY.md");
    let listed: BTreeSet<PathBuf> = links(&read(&summary)).into_iter().map(|link| docs().join(link)).collect();
    let there: BTreeSet<PathBuf> = pages().into_iter().filter(|page| *page != summary).collect();
    assert_eq!(listed, there);
}

/// A block of SQL, and where the lines of its answer stand.
struct Example {
    sql: String,
    /// Line of the page, from 1.
    line: usize,
    /// The lines between the fences of the answer, if there is one.
    answer: Option<std::ops::Range<usize>>,
}

fn examples(lines: &[&str]) -> Vec<Example> {
    let mut found = Vec::new();
    let end_of = |from: usize| (from..lines.len()).find(|&n| lines[n].trim() == "```").expect("a block ends");
    let mut at = 0;
    while at < lines.len() {
        if lines[at].trim() == "```sql" {
            let end = end_of(at + 1);
            let mut next = end + 1;
            while lines.get(next).is_some_and(|line| line.trim().is_empty()) {
                next += 1;
            }
            let answer = lines.get(next).filter(|line| line.trim() == "```text").map(|_| next + 1..end_of(next + 1));
            found.push(Example { sql: lines[at + 1..end].join("\n"), line: at + 2, answer });
            at = end;
        }
        at += 1;
    }
    found
}

/// Files that the examples name, relative to where the server was started.
fn write_files(dir: &Path) {
    let trips = dir.join("trips");
    std::fs::create_dir_all(&trips).expect("the folder can be written");
    for (month, rows) in [("01", 3), ("02", 2)] {
        let out = trips.join(format!("2024-{month}.parquet"));
        let sql = format!(
            "SELECT number AS id, CASE WHEN number % 2 = 0 THEN 'Bonn' ELSE 'Köln' END AS city, \
             cast(number + 1 AS DOUBLE) * 2.5 AS km, cast('2024-{month}-15' AS DATE) AS day FROM numbers({rows})"
        );
        let mut command = Command::new(binary::sheaf());
        command.args(["sql", "--local", "--format", "parquet", "-e", &sql, "-o"]).arg(&out).stdin(Stdio::null());
        let output = command.output().expect("the binary was built");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let stations = "1\tBonn Hbf\t1884-02-01\n2\tKöln Hbf\t1859-12-05\n3\tKöln Süd\t\\N\n";
    std::fs::write(dir.join("stations.tsv"), stations).expect("as above");
    std::fs::write(dir.join("cities.csv"), "city,country\nBonn,DE\nKöln,DE\nLyon,FR\n").expect("as above");
}

/// Runs a page's examples in one session each; gives what differs from the page, or writes it into the page.
fn check(page: &Path, port: u16) -> Vec<String> {
    let text = read(page);
    let lines: Vec<&str> = text.lines().collect();
    let mut wrong = Vec::new();
    let mut answers = Vec::new();
    let mut database = "default".to_owned();
    for example in examples(&lines) {
        let mut command = Command::new(binary::sheaf());
        command.args(["sql", "--port", &port.to_string(), "--format", "table", &database, "-e", &example.sql]);
        let output = command.stdin(Stdio::null()).output().expect("the binary was built");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let place = format!("{}:{}", page.display(), example.line);
        if !output.status.success() {
            wrong.push(format!("{place}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        // The next block of a reader goes on in the same session.
        for line in example.sql.lines() {
            let used = line.get(..4).filter(|it| it.eq_ignore_ascii_case("USE "));
            if used.is_some() {
                line[4..].trim().trim_end_matches(';').clone_into(&mut database);
            }
        }
        if let Some(range) = example.answer {
            let expected = lines[range.clone()].join("\n");
            if expected != said.trim_end() {
                wrong.push(format!("{place}: the page has\n{expected}\nand the server says\n{said}"));
            }
            answers.push((range, said));
        }
    }
    if std::env::var_os("UPDATE").is_some() {
        let mut lines: Vec<String> = lines.into_iter().map(str::to_owned).collect();
        for (range, said) in answers.into_iter().rev() {
            lines.splice(range, said.trim_end().lines().map(str::to_owned));
        }
        std::fs::write(page, lines.join("\n") + "\n").expect("the page can be written");
    }
    wrong
}

#[test]
fn examples_run_and_answer_as_the_pages_say() {
    alone(DEADLINE, async {
        let pages = pages();
        let reference = docs().join("sql");
        let runs = |page: &PathBuf| page.starts_with(&reference) || RUN.iter().any(|it| *page == docs().join(it));
        let mut wrong = Vec::new();
        let mut n_examples = 0;
        for page in pages.into_iter().filter(runs) {
            let n = examples(&read(&page).lines().collect::<Vec<_>>()).len();
            assert!(n > 0, "{} has no example", page.display());
            n_examples += n;
            let cluster = Cluster::start(ClusterSpec::default().cores(1)).await;
            write_files(cluster.coordinator.dir());
            wrong.extend(check(&page, cluster.mysql_port()));
        }
        assert!(n_examples > 20, "only {n_examples} examples");
        assert!(wrong.is_empty() || std::env::var_os("UPDATE").is_some(), "{}", wrong.join("\n\n"));
    });
}

/// The variants of an enum of the parser, from its source.
fn variants(path: &str, name: &str) -> Vec<String> {
    let text = read(&root().join(path));
    let (_, rest) = text.split_once(&format!("pub enum {name} {{\n")).expect("the enum is there");
    let (body, _) = rest.split_once("\n}\n").expect("it ends");
    let names =
        body.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| line.starts_with(char::is_alphabetic));
    names.map(|line| line.chars().take_while(|c| c.is_alphanumeric()).collect()).collect()
}

/// `DropDatabase` as `DROP DATABASE`.
fn words(variant: &str) -> String {
    let spaced = variant.chars().flat_map(|c| c.is_uppercase().then_some(' ').into_iter().chain([c]));
    spaced.collect::<String>().trim().to_uppercase()
}

/// Each statement that the parser knows is the heading of a page of the reference, or of a part of one.
#[test]
fn every_statement_has_a_page() {
    /// What is not called as its variant is. Nothing: the statements have variants of their own, or there are none.
    const CALLED: [(&str, &str); 21] = [
        ("Query", "SELECT"),
        ("Table", ""),
        ("Account", ""),
        ("Prepared", ""),
        ("Other", ""),
        ("Transaction", "BEGIN"),
        ("Nothing", "LOCK TABLES"),
        ("Analyze", "ANALYZE TABLE"),
        ("Create", "CREATE TABLE"),
        ("Alter", "ALTER TABLE"),
        ("History", "DESCRIBE HISTORY"),
        ("View", "CREATE VIEW"),
        ("Load", "LOAD DATA"),
        ("Connection", "CREATE CONNECTION"),
        ("VacuumDropped", "VACUUM"),
        ("GrantRoles", "GRANT"),
        ("RevokeAll", "REVOKE"),
        ("RevokeRoles", "REVOKE"),
        ("DrainNode", "ALTER CLUSTER"),
        ("RemoveNode", "ALTER CLUSTER"),
        ("Deallocate", "DEALLOCATE PREPARE"),
    ];
    let reference = docs().join("sql");
    let texts: Vec<String> =
        pages().iter().filter(|page| page.starts_with(&reference)).map(|page| read(page)).collect();
    let headings: Vec<&str> = texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with('#')).collect();
    let headings: Vec<&str> = headings.iter().map(|line| line.trim_start_matches('#').trim()).collect();
    let mut n_found = 0;
    for (path, name) in [
        ("planners/src/parser.rs", "StatementKind"),
        ("planners/src/parser/table.rs", "TableStatement"),
        ("planners/src/parser/accounts.rs", "AccountStatement"),
        ("planners/src/parser/prepare.rs", "TextPrepared"),
        ("planners/src/parser/cluster.rs", "AlterCluster"),
    ] {
        for variant in variants(path, name) {
            let called = CALLED.iter().find(|(it, _)| *it == variant).map(|(_, words)| (*words).to_owned());
            let called = called.unwrap_or_else(|| words(&variant));
            let is_heading =
                |it: &&str| it.strip_prefix(&called).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric));
            assert!(
                called.is_empty() || headings.iter().any(is_heading),
                "{name}::{variant}: no page of website/docs/sql has a heading that begins with {called}"
            );
            n_found += 1;
        }
    }
    assert!(n_found > 40, "only {n_found} statements were found");
}

/// Where the part of the page begins that [`the_list_of_functions_is_the_registry`] writes.
const FUNCTIONS: &str = "<!-- What follows is written by the tests: UPDATE=1. -->\n";

/// All functions by kind, as a part of a page. Those of MySQL under their own names have a page of theirs.
fn list_of_functions() -> String {
    let sql = "SELECT kind, name, coalesce(syntax, '') AS syntax, coalesce(description, '') AS description \
               FROM system.functions WHERE name NOT LIKE 'mysql%' AND name NOT LIKE 'sheaf%' ORDER BY name";
    let mut shell = Command::new(binary::sheaf());
    let output = shell.args(["sql", "--local", "--format", "json", "-e", sql]).stdin(Stdio::null()).output();
    let output = output.expect("the binary was built");
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("the answer is JSON");
    assert!(rows.len() > 200, "{}", String::from_utf8_lossy(&output.stderr));
    let cell = |row: &serde_json::Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let mut text = String::new();
    for (kind, title) in [
        ("scalar", "Scalar functions"),
        ("aggregate", "Aggregates"),
        ("window", "Window functions"),
        ("table", "Table functions"),
    ] {
        text.push_str(&format!("\n## {title}\n\n| function | what it gives |\n|---|---|\n"));
        for row in rows.iter().filter(|row| cell(row, "kind") == kind) {
            let (name, syntax) = (cell(row, "name"), cell(row, "syntax"));
            let syntax = syntax.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
            let call = match syntax.starts_with(&name) {
                true => format!("`{syntax}`"),
                false if syntax.is_empty() => format!("`{name}`"),
                // Another name of it.
                false => format!("`{name}`, as `{syntax}`"),
            };
            text.push_str(&format!("| {call} | {} |\n", first_sentence(&cell(row, "description"))));
        }
    }
    text
}

/// The first sentence of a description, fit for a cell of a table.
fn first_sentence(description: &str) -> String {
    let paragraph = description.trim().split("\n\n").next().unwrap_or_default();
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = line
        .match_indices(". ")
        .map(|(at, _)| at)
        .find(|at| !line[..*at].ends_with("e.g") && !line[..*at].ends_with("i.e"));
    let sentence = line[..end.map_or(line.len(), |at| at + 1)].replace('|', "\\|");
    // Between backquotes nothing is a tag.
    let parts = sentence.split('`').enumerate();
    let parts = parts.map(|(n, part)| if n % 2 == 0 { part.replace('<', "&lt;") } else { part.to_owned() });
    parts.collect::<Vec<_>>().join("`")
}

#[test]
fn the_list_of_functions_is_the_registry() {
    let path = docs().join("sql/functions.md");
    let page = read(&path);
    let (written, listed) = page.split_once(FUNCTIONS).expect("the page has a part that is written by the tests");
    let expected = list_of_functions();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, format!("{written}{FUNCTIONS}{expected}")).expect("the page can be written");
    } else {
        let differs = listed.lines().zip(expected.lines()).find(|(listed, expected)| listed != expected);
        assert!(listed == expected, "UPDATE=1 writes it; the first difference is {differs:?}");
    }
}

#[test]
fn manifests_fit_the_schema_of_kubernetes() {
    let Some(python) = crate::clients::python() else {
        return skip("kubernetes.yml", "tests/python/setup.sh could not make its environment");
    };
    let mut check = Command::new(python.with_file_name("kubernetes-validate"));
    let output =
        check.args(["--strict", "--kubernetes-version", "1.30"]).arg(root().join("docker/kubernetes.yml")).output();
    let output = output.expect("the checker stands beside the interpreter");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("passed for resource").count(), 4, "{said}");
}

#[test]
fn the_dockerfile_is_clean() {
    let Some(python) = crate::clients::python() else {
        return skip("Dockerfile", "tests/python/setup.sh could not make its environment");
    };
    let output = Command::new(python.with_file_name("hadolint")).arg(root().join("docker/Dockerfile")).output();
    let output = output.expect("the checker stands beside the interpreter");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

#[test]
fn systemd_knows_all_of_the_unit() {
    let unit = root().join("packaging/sheafdb.service");
    let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(&unit).output() else {
        return skip("sheafdb.service", "there is no systemd-analyze");
    };
    // It also says that the binary is not installed here, which is so.
    let said = String::from_utf8_lossy(&output.stderr);
    let wrong: Vec<&str> =
        said.lines().filter(|line| line.contains("ignoring") || line.contains("Failed to parse")).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// What the page of the shell says is what the shell does.
#[test]
fn the_page_of_the_shell_lists_its_commands() {
    let page = read(&docs().join("shell.md"));
    let mut shell = Command::new(binary::sheaf());
    let output =
        shell.args(["sql", "--local", "-e", "\\?"]).stdin(Stdio::null()).output().expect("the binary was built");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(help.lines().count() > 15, "{help}");
    for line in help.lines() {
        let (usage, what) = line.trim().split_once("   ").expect("two columns");
        let row = format!("| `{}` | {} |", usage.trim(), what.trim());
        assert!(page.contains(&row), "no row {row}");
    }
}

#[test]
fn blocks_and_links_are_found() {
    let page = "a [b](c.md#d) `[x](y)`\n```sql\nSELECT 1;\n```\n\n```text\n1\n2\n```\n```sql\nUSE a;\n```\n[e](f.md)";
    assert_eq!(links(page), ["c.md#d", "f.md"]);
    let lines: Vec<&str> = page.lines().collect();
    let found = examples(&lines);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].sql.as_str(), found[0].line, found[0].answer.clone()), ("SELECT 1;", 3, Some(6..8)));
    assert!(found[1].answer.is_none());
    assert_eq!(anchor("## EXPLAIN `ANALYZE`, and more"), "explain-analyze-and-more");
}
