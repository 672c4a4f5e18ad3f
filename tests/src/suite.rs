//! sqllogictest files over the MySQL port.
//!
//! Cells are compared as text. Column types are checked too: `I` whole numbers, `R` fractions, `T` all else.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use mysql_async::consts::ColumnType as Wire;
use sqllogictest::{
    AsyncDB, DBOutput, DefaultColumnType, MakeConnection, Runner, default_normalizer, default_validator,
    strict_column_validator,
};

use crate::client::{Client, Failure};

/// One session of a suite.
struct Session {
    client: Client,
}

#[async_trait]
impl AsyncDB for Session {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        let mut table = self.client.query(sql).await?;
        if table.columns.is_empty() {
            return Ok(DBOutput::StatementComplete(table.affected_rows));
        }
        for cell in table.rows.iter_mut().flatten().filter(|cell| cell.is_empty()) {
            *cell = "(empty)".to_owned();
        }
        let types = table.columns.iter().map(|column| letter(column.column_type())).collect();
        Ok(DBOutput::Rows { types, rows: table.rows })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "sheaf"
    }

    fn error_sql_state(error: &Failure) -> Option<String> {
        Some(error.state.clone())
    }
}

fn letter(wire: Wire) -> DefaultColumnType {
    match wire {
        Wire::MYSQL_TYPE_TINY
        | Wire::MYSQL_TYPE_SHORT
        | Wire::MYSQL_TYPE_INT24
        | Wire::MYSQL_TYPE_LONG
        | Wire::MYSQL_TYPE_LONGLONG => DefaultColumnType::Integer,
        Wire::MYSQL_TYPE_FLOAT | Wire::MYSQL_TYPE_DOUBLE | Wire::MYSQL_TYPE_DECIMAL | Wire::MYSQL_TYPE_NEWDECIMAL => {
            DefaultColumnType::FloatingPoint
        }
        _ => DefaultColumnType::Text,
    }
}

/// The `.slt` files directly inside `dir`, in name order. Panics when there is none.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("cannot list {}: {error}", dir.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder was just opened").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "slt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no suite in {}", dir.display());
    files
}

/// How one file is run.
pub struct Suite<'a> {
    pub port: u16,
    pub database: &'a str,
    /// Statements that every session of the suite begins with.
    pub init: &'a [&'a str],
    /// What `$NAME` stands for in the file.
    pub variables: &'a [(&'a str, String)],
    /// What `onlyif` and `skipif` ask for.
    pub label: &'a str,
}

impl Suite<'_> {
    /// Runs a file to its end. The number of its records, or every record that did not give what it should.
    pub async fn run(&self, file: &Path) -> Result<usize, Vec<String>> {
        let records = match sqllogictest::parse_file::<DefaultColumnType>(file) {
            Ok(records) => records,
            Err(error) => return Err(vec![format!("{}: {error}", file.display())]),
        };
        let mut runner = Runner::new(|| self.session());
        self.prepare(&mut runner);
        let mut n_records = 0;
        let mut failures = Vec::new();
        for record in records {
            let counts = matches!(record, sqllogictest::Record::Statement { .. } | sqllogictest::Record::Query { .. });
            n_records += usize::from(counts);
            // All wrong records of a file are shown at once; each stands alone unless a session's setting failed.
            if let Err(error) = runner.run_async(record).await {
                failures.push(error.display(false).to_string());
            }
        }
        runner.shutdown_async().await;
        if failures.is_empty() { Ok(n_records) } else { Err(failures) }
    }

    /// Writes what the server answers into the file, in place of what was expected.
    pub async fn update(&self, file: &Path) {
        let mut runner = Runner::new(|| self.session());
        self.prepare(&mut runner);
        let types = strict_column_validator;
        let updated = runner.update_test_file(file, " ", default_validator, default_normalizer, types).await;
        updated.unwrap_or_else(|error| panic!("cannot update {}: {error}", file.display()));
        runner.shutdown_async().await;
    }

    async fn session(&self) -> Result<Session, Failure> {
        let mut client = Client::connect(self.port, Some(self.database)).await?;
        for statement in self.init {
            client.query(statement).await?;
        }
        Ok(Session { client })
    }

    fn prepare<M: MakeConnection<Conn = Session>>(&self, runner: &mut Runner<Session, M>) {
        runner.with_column_validator(strict_column_validator);
        runner.add_label(self.label);
        for (name, value) in self.variables {
            runner.set_var((*name).to_owned(), value.clone());
        }
    }
}
