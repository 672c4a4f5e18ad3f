//! Statements with their answers, as `tests/clients/statements/README.md` describes them.

use std::path::Path;

use sheaf_tests::{Client, Failure, Table};

/// One thing that a client does.
pub struct Part {
    pub title: String,
    statements: Vec<Expected>,
}

#[derive(Default)]
struct Expected {
    sql: String,
    names: Option<Vec<String>>,
    rows: Vec<Vec<String>>,
    /// Further rows may follow.
    has_more: bool,
    error: Option<u16>,
}

fn cells(line: &str) -> Vec<String> {
    line.split(" | ").map(|it| it.trim().to_owned()).collect()
}

/// Panics on a file that is not of the form.
pub fn read(path: &Path) -> Vec<Part> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut parts: Vec<Part> = vec![];
    for line in text.lines().filter(|it| !it.is_empty()) {
        if let Some(title) = line.strip_prefix("# ") {
            parts.push(Part { title: title.to_owned(), statements: vec![] });
            continue;
        }
        let statements = &mut parts.last_mut().expect("a file begins with what is tried").statements;
        if let Some(sql) = line.strip_prefix("> ") {
            statements.push(Expected { sql: sql.to_owned(), ..Expected::default() });
            continue;
        }
        let statement = statements.last_mut().expect("a part begins with a statement");
        match line.split_at_checked(2) {
            Some(("= ", names)) => statement.names = Some(cells(names)),
            Some(("! ", code)) => statement.error = Some(code.trim().parse().expect("an error's number")),
            _ if line == "..." => statement.has_more = true,
            _ => statement.rows.push(cells(line)),
        }
    }
    assert!(!parts.is_empty(), "{} is empty", path.display());
    parts
}

/// Asks all of it; what was answered otherwise.
pub async fn run(client: &mut Client, file: &str, parts: &[Part], is_prepared: bool) -> Vec<String> {
    let mut wrong = vec![];
    for part in parts {
        for statement in &part.statements {
            let answer = match is_prepared {
                true => client.execute(&statement.sql, ()).await,
                false => client.query(&statement.sql).await,
            };
            // As in MySQL, some statements cannot be prepared; clients send them as text.
            let is_unpreparable = |it: &Failure| is_prepared && it.code == Some(1295);
            if answer.as_ref().is_err_and(is_unpreparable) {
                continue;
            }
            if let Err(why) = statement.check(&answer) {
                let way = if is_prepared { "prepared" } else { "as text" };
                wrong.push(format!("{file}, {}, {way}: {}\n{why}", part.title, statement.sql));
            }
        }
    }
    wrong
}

impl Expected {
    fn check(&self, answer: &Result<Table, Failure>) -> Result<(), String> {
        let table = match (answer, self.error) {
            (Err(error), Some(code)) if error.code == Some(code) => return Ok(()),
            (Err(error), _) => return Err(error.to_string()),
            (Ok(_), Some(code)) => return Err(format!("did not fail with error {code}")),
            (Ok(table), None) => table,
        };
        let names = table.names();
        let Some(expected) = &self.names else {
            return if names.is_empty() { Ok(()) } else { Err(format!("has columns {names:?}")) };
        };
        let fit = |cells: &[String], expected: &[String]| {
            cells.len() == expected.len() && cells.iter().zip(expected).all(|(cell, expected)| fits(cell, expected))
        };
        if !fit(&names, expected) {
            return Err(format!("columns {names:?}, expected {expected:?}"));
        }
        let are_enough =
            if self.has_more { table.rows.len() >= self.rows.len() } else { table.rows.len() == self.rows.len() };
        match are_enough && table.rows.iter().zip(&self.rows).all(|(row, expected)| fit(row, expected)) {
            true => Ok(()),
            false => Err(format!("rows {:?}, expected {:?}", table.rows, self.rows)),
        }
    }
}

/// Whether a cell is what is expected: `*` at the end stands for any text.
fn fits(cell: &str, expected: &str) -> bool {
    match expected.strip_suffix('*') {
        Some(begin) => cell.starts_with(begin),
        None => cell == expected || (cell == "(empty)" && expected.is_empty()),
    }
}
