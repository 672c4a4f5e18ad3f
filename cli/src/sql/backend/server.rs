//! A server, over the MySQL port; and a second connection to it for what is asked beside a running statement.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Value};
use tokio::sync::Mutex;

use super::super::cells::Column;
use super::{COLUMNS, DATABASES, FUNCTIONS, Names, Outcome, RowSink, Snapshot, SqlError};
use crate::client::Login;

/// Where to connect, and how to begin.
#[derive(Clone)]
pub struct Target {
    pub login: Login,
    /// Statements that every connection of the user's begins with.
    pub init: Vec<String>,
}

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// A killed statement ends within two seconds; then its rest has to be read.
const RECOVER_DEADLINE: Duration = Duration::from_secs(10);
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

impl Target {
    async fn connect(&self) -> Result<Conn, SqlError> {
        let refused = |reason: String| SqlError::Connect { server: self.login.address.to_string(), reason };
        match tokio::time::timeout(CONNECT_DEADLINE, self.login.connect()).await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(mysql_async::Error::Server(error))) => {
                Err(refused(format!("ERROR {} ({}): {}", error.code, error.state, error.message)))
            }
            Ok(Err(error)) => Err(refused(words(&error))),
            Err(_) => Err(refused(format!("no answer within {} s", CONNECT_DEADLINE.as_secs()))),
        }
    }
}

fn failed(error: mysql_async::Error) -> SqlError {
    match error {
        mysql_async::Error::Server(error) => {
            SqlError::Refused { code: error.code, state: error.state, message: error.message }
        }
        other => SqlError::Lost(words(&other)),
    }
}

/// An error of the client's side. Its own text holds those of its sources.
fn words(error: &mysql_async::Error) -> String {
    match error {
        mysql_async::Error::Io(mysql_async::IoError::Io(error)) => error.to_string(),
        other => other.to_string(),
    }
}

pub struct Server {
    target: Target,
    conn: Conn,
    side: Arc<Side>,
}

impl Server {
    pub async fn connect(target: Target) -> Result<Self, SqlError> {
        let conn = target.connect().await?;
        let mut aside = target.clone();
        aside.login.database = None;
        let side = Arc::new(Side { target: aside, main: Mutex::new(conn.id()), conn: Mutex::new(None) });
        let mut server = Self { target, conn, side };
        server.init().await?;
        Ok(server)
    }

    async fn init(&mut self) -> Result<(), SqlError> {
        for statement in &self.target.init {
            self.conn.query_drop(statement).await.map_err(failed)?;
        }
        Ok(())
    }

    pub fn side(&self) -> Arc<Side> {
        Arc::clone(&self.side)
    }

    pub fn description(&self) -> String {
        format!("{}@{}", self.target.login.user, self.target.login.address)
    }

    pub async fn run(&mut self, sql: &str, sink: &mut dyn RowSink) -> Result<Outcome, SqlError> {
        let mut result = self.conn.query_iter(sql).await.map_err(failed)?;
        let columns: Vec<Column> = result.columns_ref().iter().map(Column::of_mysql).collect();
        let has_rows = !columns.is_empty();
        let mut n_rows = 0;
        if has_rows {
            let n_columns = columns.len();
            sink.begin(columns)?;
            while let Some(row) = result.next().await.map_err(failed)? {
                let cell = |n| match row.as_ref(n) {
                    Some(Value::Bytes(bytes)) => Some(bytes.as_slice()),
                    // The text protocol has texts and NULL.
                    _ => None,
                };
                let cells: Vec<Option<&[u8]>> = (0..n_columns).map(cell).collect();
                sink.row(&cells)?;
                n_rows += 1;
            }
        }
        let outcome = Outcome {
            has_rows,
            n_rows,
            affected_rows: result.affected_rows(),
            warnings: result.warnings(),
            info: result.info().into_owned(),
        };
        result.drop_result().await.map_err(failed)?;
        Ok(outcome)
    }

    pub async fn reconnect(&mut self) -> Result<(), SqlError> {
        let conn = self.target.connect().await?;
        *self.side.main.lock().await = conn.id();
        *self.side.conn.lock().await = None;
        // The old one is closed in the background: nobody is left to answer.
        self.conn = conn;
        self.init().await
    }

    /// Remembers where the user is, for a connection that has to be made anew.
    pub fn note_database(&mut self, database: Option<String>) {
        self.target.login.database = database;
    }

    pub async fn recover(&mut self) -> Result<(), SqlError> {
        // Reads what is left of the answer before it asks.
        match tokio::time::timeout(RECOVER_DEADLINE, self.conn.ping()).await {
            // The end of the killed statement may be what is told here.
            Ok(Ok(())) | Ok(Err(mysql_async::Error::Server(_))) => Ok(()),
            Ok(Err(_)) | Err(_) => self.reconnect().await,
        }
    }

    /// Says good-bye. Nobody waits long for it: the server notices either way.
    pub async fn close(self) {
        let _ = tokio::time::timeout(CLOSE_DEADLINE, self.conn.disconnect()).await;
        if let Ok(mut side) = self.side.conn.try_lock()
            && let Some(conn) = side.take()
        {
            let _ = tokio::time::timeout(CLOSE_DEADLINE, conn.disconnect()).await;
        }
    }
}

/// The second connection, made when it is first needed.
pub struct Side {
    /// Without a database: the user's may be gone.
    target: Target,
    /// The id of the connection whose statements are looked at.
    main: Mutex<u32>,
    conn: Mutex<Option<Conn>>,
}

impl Side {
    async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>, SqlError> {
        let mut held = self.conn.lock().await;
        // Taken out: a call that is given up midway must not leave half an answer behind.
        let mut conn = match held.take() {
            Some(conn) => conn,
            None => self.target.connect().await?,
        };
        let rows: Vec<mysql_async::Row> = conn.query(sql).await.map_err(failed)?;
        *held = Some(conn);
        let text = |value: Value| match value {
            Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            _ => String::new(),
        };
        Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect())
    }

    pub async fn kill(&self) -> Result<(), SqlError> {
        let id = *self.main.lock().await;
        self.rows(&format!("KILL QUERY {id}")).await.map(drop)
    }

    pub async fn snapshot(&self) -> Result<Option<Snapshot>, SqlError> {
        let id = *self.main.lock().await;
        let rows = self
            .rows(&format!(
                "SELECT t.stage, count(*), sum(CASE WHEN t.state = 'finished' THEN 1 ELSE 0 END), \
                 sum(t.output_rows), sum(t.buffered_bytes) FROM system.tasks t \
                 JOIN system.processes p ON p.query_id = t.query_id WHERE p.id = {id} GROUP BY t.stage"
            ))
            .await?;
        Ok(snapshot(&rows))
    }

    pub async fn names(&self) -> Result<Names, SqlError> {
        let first = |rows: Vec<Vec<String>>| rows.into_iter().filter_map(|row| row.into_iter().next()).collect();
        let databases = first(self.rows(DATABASES).await?);
        let columns = self.rows(COLUMNS).await?.into_iter().filter_map(|row| row.try_into().ok()).collect();
        let functions = first(self.rows(FUNCTIONS).await?);
        Ok(Names { databases, columns, functions })
    }
}

/// Rows of stage, tasks, finished tasks, rows and bytes, put together.
fn snapshot(rows: &[Vec<String>]) -> Option<Snapshot> {
    let mut total = Snapshot::default();
    for row in rows {
        let number = |n: usize| row.get(n).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let (tasks, done) = (number(1), number(2));
        total.stages += 1;
        total.stages_done += u64::from(tasks == done);
        total.tasks += tasks;
        total.tasks_done += done;
        total.rows += number(3);
        total.bytes += number(4);
    }
    (total.tasks > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_add_up() {
        let row = |cells: &[&str]| cells.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let rows = [row(&["1", "3", "3", "100", "10"]), row(&["2", "4", "1", "7", "0"])];
        let expected = Snapshot { stages: 2, stages_done: 1, tasks: 7, tasks_done: 4, rows: 107, bytes: 10 };
        assert_eq!(snapshot(&rows), Some(expected));
        assert_eq!(snapshot(&[]), None);
    }
}
