//! TPC-H at scale factor 0.1: 22 answers, for every shape of cluster, layout of files and number of cores.
//!
//! A DECIMAL of scale s agrees within 10^-s, because the answers hold averages as doubles; doubles agree to 1e-9 of
//! their value; all else is exact. `SHEAF_FULL=1` adds scale factor 1 against DuckDB, see `clients.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mysql_async::consts::ColumnType;
use sheaf_tests::cluster::DISTRIBUTE;
use sheaf_tests::{Client, Cluster, ClusterSpec, Table, alone, binary, root};

pub const TABLES: [&str; 8] = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];

/// For each query, the columns of the answer that its ORDER BY sorts by; none where one row or no order is asked for.
pub const ORDER: [&[usize]; 22] = [
    &[0, 1],
    &[0, 2, 1, 3],
    &[1, 2],
    &[0],
    &[1],
    &[],
    &[0, 1, 2],
    &[0],
    &[0, 1],
    &[2],
    &[1],
    &[0],
    &[1, 0],
    &[],
    &[0],
    &[3, 0, 1, 2],
    &[],
    &[4, 3],
    &[],
    &[0],
    &[1, 0],
    &[0],
];

pub fn folder() -> PathBuf {
    root().join("tests/tpch")
}

pub fn query_text(number: usize) -> String {
    let path = root().join(format!("cli/src/tpch/q{number}.sql"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim().trim_end_matches(';').to_owned()
}

/// Reads an answer: `|` between the cells, `"` around those that need it, `""` for one inside; an empty cell is NULL.
pub fn read_answer(path: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut rows: Vec<Vec<String>> = text.lines().map(split_line).collect();
    rows.remove(0);
    rows
}

/// The right answer to a query at scale factor 0.1.
pub fn answer(number: usize) -> Vec<Vec<String>> {
    read_answer(&folder().join(format!("answers-sf0.1/q{number}.csv")))
}

fn split_line(line: &str) -> Vec<String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            '|' if !quoted => cells.push(std::mem::take(&mut cell)),
            c => cell.push(c),
        }
    }
    cells.push(cell);
    cells.into_iter().map(|cell| if cell.is_empty() { "NULL".to_owned() } else { cell }).collect()
}

/// How far two cells of a column may lie apart.
#[derive(Debug, Clone, Copy)]
enum Tolerance {
    None,
    Absolute(f64),
    Relative(f64),
}

fn tolerances(table: &Table) -> Vec<Tolerance> {
    let of = |column: &mysql_async::Column| match column.column_type() {
        ColumnType::MYSQL_TYPE_NEWDECIMAL | ColumnType::MYSQL_TYPE_DECIMAL => {
            Tolerance::Absolute(10_f64.powi(-i32::from(column.decimals())))
        }
        ColumnType::MYSQL_TYPE_DOUBLE | ColumnType::MYSQL_TYPE_FLOAT => Tolerance::Relative(1e-9),
        _ => Tolerance::None,
    };
    table.columns.iter().map(of).collect()
}

fn agree(actual: &str, expected: &str, tolerance: Tolerance) -> bool {
    if actual == expected {
        return true;
    }
    let (Ok(a), Ok(b)) = (actual.parse::<f64>(), expected.parse::<f64>()) else { return false };
    match tolerance {
        Tolerance::None => false,
        // A little more than one unit of the last place: both are read as doubles here.
        Tolerance::Absolute(most) => (a - b).abs() <= most * (1.0 + 1e-6) + b.abs() * 1e-15,
        Tolerance::Relative(most) => (a - b).abs() <= most * b.abs(),
    }
}

/// What is wrong with an answer, if anything is: its rows as a multiset, its order in the columns of `order`.
pub fn difference(actual: &Table, expected: &[Vec<String>], order: &[usize]) -> Option<String> {
    if actual.rows.len() != expected.len() {
        return Some(format!("{} rows instead of {}", actual.rows.len(), expected.len()));
    }
    let tolerances = tolerances(actual);
    if let Some(row) = expected.iter().find(|row| row.len() != tolerances.len()) {
        return Some(format!("{} columns instead of {}", tolerances.len(), row.len()));
    }
    for (at, (a, b)) in actual.rows.iter().zip(expected).enumerate() {
        if let Some(&column) = order.iter().find(|&&column| !agree(&a[column], &b[column], tolerances[column])) {
            return Some(format!("row {at}, column {column}, by order: {:?} instead of {:?}", a[column], b[column]));
        }
    }
    // Exact columns first: they tell rows apart, and equal ones are then in the same place.
    let exact = |row: &Vec<String>| -> Vec<String> {
        let keys = row.iter().zip(&tolerances).filter(|(_, tolerance)| matches!(tolerance, Tolerance::None));
        keys.map(|(cell, _)| cell.clone()).collect()
    };
    let (mut a, mut b) = (actual.rows.clone(), expected.to_vec());
    a.sort_by_key(exact);
    b.sort_by_key(exact);
    for (a, b) in a.iter().zip(&b) {
        for (column, tolerance) in tolerances.iter().enumerate() {
            if !agree(&a[column], &b[column], *tolerance) {
                return Some(format!("column {column}: {:?} instead of {:?} in row {b:?}", a[column], b[column]));
            }
        }
    }
    None
}

/// Generates the eight tables as Parquet, `files` files each.
pub fn generate(dir: &Path, scale: &str, files: usize) {
    let mut command = Command::new(binary::sheaf());
    command.args(["tables", "tpch", "--scale", scale, "--files", &files.to_string(), "--dir"]).arg(dir);
    let output = command.output().expect("sheaf can be run");
    assert!(output.status.success(), "sheaf tables tpch: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes a database with one table per folder that [`generate`] wrote.
pub async fn create_tables(client: &mut Client, database: &str, dir: &Path) {
    run(client, &format!("CREATE DATABASE {database}")).await;
    run(client, &format!("USE {database}")).await;
    for table in TABLES {
        let folder = dir.join(table);
        let location =
            if folder.is_dir() { format!("{}/", folder.display()) } else { format!("{}.parquet", folder.display()) };
        run(client, &format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{location}'")).await;
    }
}

async fn run(client: &mut Client, sql: &str) -> Table {
    client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn check_shape(workers: usize) {
    alone(Duration::from_secs(240), async {
        let data = tempfile::tempdir().expect("a temporary folder can be made");
        let layouts = [1, 8].map(|files| (files, data.path().join(format!("files{files}"))));
        for (files, dir) in &layouts {
            generate(dir, "0.1", *files);
        }
        let mut failures = Vec::new();
        for cores in [1, 4] {
            let spec =
                ClusterSpec { allow_roots: vec![data.path().to_owned()], ..ClusterSpec::workers(workers).cores(cores) };
            let cluster = Cluster::start(spec).await;
            let mut client = cluster.connect().await;
            for statement in DISTRIBUTE {
                run(&mut client, statement).await;
            }
            for (files, dir) in &layouts {
                create_tables(&mut client, &format!("files{files}"), dir).await;
                let started = Instant::now();
                let shape = format!("{workers} workers, {cores} cores, {files} files");
                failures.extend(wrong_answers(&mut client).await.into_iter().map(|wrong| format!("{shape}, {wrong}")));
                eprintln!("{workers} workers, {cores} cores, {files} files: 22 queries in {:?}", started.elapsed());
            }
        }
        assert!(failures.is_empty(), "{} answers are wrong:\n{}", failures.len(), failures.join("\n"));
    });
}

/// What is wrong with the answers of the 22 queries over the tables of the current database, at scale factor 0.1.
pub async fn wrong_answers(client: &mut Client) -> Vec<String> {
    let mut failures = Vec::new();
    for number in 1..=22 {
        let expected = answer(number);
        let wrong = match client.query(&query_text(number)).await {
            Ok(table) => difference(&table, &expected, ORDER[number - 1]),
            Err(error) => Some(error.to_string()),
        };
        failures.extend(wrong.map(|wrong| format!("q{number}: {wrong}")));
    }
    failures
}

#[test]
fn tpch_one_process() {
    check_shape(0);
}

#[test]
fn tpch_one_worker() {
    check_shape(1);
}

#[test]
fn tpch_three_workers() {
    check_shape(3);
}

#[test]
fn tpch_generator_database() {
    alone(Duration::from_secs(120), async {
        let cluster = Cluster::start(ClusterSpec::workers(3)).await;
        let mut client = cluster.connect_distributed(None).await;
        run(&mut client, "CREATE DATABASE gen ENGINE = TPCH(scale = 0.1)").await;
        run(&mut client, "USE gen").await;
        for number in [1, 3, 6, 13] {
            let expected = answer(number);
            let table = run(&mut client, &query_text(number)).await;
            assert_eq!(difference(&table, &expected, ORDER[number - 1]), None, "q{number}");
        }
    });
}

#[test]
fn answers_are_read_as_they_were_written() {
    assert_eq!(split_line("1|\"a|b \"\"c\"\"\"||x"), ["1", "a|b \"c\"", "NULL", "x"]);
    assert!(agree("36002.123829", "36002.12382901414", Tolerance::Absolute(1e-6)));
    assert!(!agree("36002.122380", "36002.12382901414", Tolerance::Absolute(1e-6)));
    assert!(!agree("abc", "abd", Tolerance::Relative(1.0)));
}
