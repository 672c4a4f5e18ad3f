//! A MySQL client whose answers are text: what the commands need that talk to a running server.

use std::time::Duration;

use mysql_async::consts::ColumnType;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row, Value};

use crate::error::CliError;
use crate::tpch::{Answer, Kind};

/// A statement that takes longer than this hangs.
pub const DEADLINE: Duration = Duration::from_secs(600);

/// One connection.
pub struct Client {
    conn: Conn,
}

impl Client {
    /// Connects to a server on this machine.
    pub async fn connect(port: u16) -> Result<Self, CliError> {
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(port)
            .user(Some("root"))
            // Asked for otherwise, or used in place of the port that was given.
            .prefer_socket(false)
            .max_allowed_packet(Some(64 << 20))
            .wait_timeout(Some(28_800));
        let conn = within("the connection to the server", Conn::new(options)).await?;
        Ok(Self { conn })
    }

    /// Runs a statement and reads its whole answer. `what` names it in errors.
    pub async fn ask(&mut self, what: &str, sql: &str) -> Result<Answer, CliError> {
        within(what, async {
            let mut result = self.conn.query_iter(sql).await?;
            let columns = result.columns_ref().iter();
            let kinds = columns.map(|column| kind(column.column_type())).collect();
            let rows: Vec<Row> = result.collect().await?;
            result.drop_result().await?;
            let rows = rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect());
            Ok(Answer { kinds, rows: rows.collect() })
        })
        .await
    }

    /// Says good-bye. Nobody waits long for it: the server notices either way.
    pub async fn close(self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.conn.disconnect()).await;
    }
}

async fn within<T>(what: &str, work: impl Future<Output = Result<T, mysql_async::Error>>) -> Result<T, CliError> {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(result) => result.map_err(|source| CliError::Statement { what: what.to_owned(), source }),
        Err(_) => Err(CliError::Deadline { what: what.to_owned(), deadline_s: DEADLINE.as_secs() }),
    }
}

fn kind(column: ColumnType) -> Kind {
    match column {
        ColumnType::MYSQL_TYPE_FLOAT | ColumnType::MYSQL_TYPE_DOUBLE => Kind::Float,
        ColumnType::MYSQL_TYPE_DECIMAL | ColumnType::MYSQL_TYPE_NEWDECIMAL => Kind::Decimal,
        _ => Kind::Exact,
    }
}

/// A cell of the text protocol: bytes or NULL, nothing else.
fn text(value: Value) -> Option<String> {
    match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true)),
    }
}
