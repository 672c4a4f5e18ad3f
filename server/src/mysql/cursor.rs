//! Rows that a client fetches bit by bit: `COM_STMT_FETCH`.
//!
//! A cursor is the result's stream, held: nothing is stored, the query waits for its reader. So it keeps what the query
//! holds until it is read to its end, closed, or ended from outside (`KILL`, a deadline, the end of the connection).

use std::collections::HashMap;
use std::convert::Infallible;

use futures::future::select_all;

use super::connection::Connection;
use super::writer::{Progress, RowsError, RowsWriter};

/// The open cursors of one connection, by their statement.
#[derive(Default)]
pub struct Cursors {
    by_statement: HashMap<u32, Cursor>,
}

enum Cursor {
    Open(RowsWriter),
    /// Ended while nobody fetched; the next fetch is told why.
    Ended(RowsError),
}

impl Cursors {
    /// In place of the one that the statement had.
    pub fn open(&mut self, statement: u32, rows: RowsWriter) {
        self.by_statement.insert(statement, Cursor::Open(rows));
    }

    pub fn close(&mut self, statement: u32) {
        self.by_statement.remove(&statement);
    }

    pub fn clear(&mut self) {
        self.by_statement.clear();
    }

    /// Writes the next rows; None if the statement has no cursor. It is closed by its last row and by an error.
    pub async fn fetch<C: Connection + ?Sized>(
        &mut self,
        connection: &mut C,
        statement: u32,
        n_rows: u32,
    ) -> Option<Result<Progress, RowsError>> {
        let mut rows = match self.by_statement.remove(&statement)? {
            Cursor::Open(rows) => rows,
            Cursor::Ended(error) => return Some(Err(error)),
        };
        let written = rows.write(connection, n_rows as usize).await;
        if matches!(written, Ok(Progress::RowsSent)) {
            self.open(statement, rows);
        }
        Some(written)
    }

    /// Lets go of what is ended from outside while nobody fetches. Goes on until it is dropped.
    pub async fn watch(&mut self) -> Infallible {
        loop {
            let open = self.by_statement.iter().filter_map(|(statement, cursor)| match cursor {
                Cursor::Open(rows) => Some((*statement, rows.ended())),
                Cursor::Ended(_) => None,
            });
            let ends: Vec<_> = open
                .map(|(statement, ended)| {
                    Box::pin(async move {
                        ended.cancelled_owned().await;
                        statement
                    })
                })
                .collect();
            if ends.is_empty() {
                return std::future::pending().await;
            }
            let (statement, ..) = select_all(ends).await;
            if let Some(cursor) = self.by_statement.get_mut(&statement)
                && let Cursor::Open(rows) = cursor
            {
                *cursor = Cursor::Ended(rows.stop());
            }
        }
    }
}
