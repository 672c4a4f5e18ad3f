//! A MySQL client whose answers are text: what the commands need that talk to a running server.

mod bridge;
mod options;
mod password;
mod tls;

use std::time::Duration;

use mysql_async::consts::ColumnType;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Params, Row, Statement, Value};

use sheaf_common::config::HostPort;

pub use self::options::{IDS, LoginArgs, LoginError, attached_passwords};
pub use self::tls::Tls;
use crate::error::CliError;
use crate::tpch::{Answer, Kind};

/// A statement that takes longer than this hangs.
pub const DEADLINE: Duration = Duration::from_secs(600);

/// Where to connect, as whom, and how.
#[derive(Clone)]
pub struct Login {
    pub address: HostPort,
    pub user: String,
    pub password: Option<String>,
    pub database: Option<String>,
    pub tls: Tls,
}

impl Login {
    /// Opens a connection. It has no deadline.
    pub async fn connect(&self) -> mysql_async::Result<Conn> {
        let options = OptsBuilder::default()
            .ip_or_hostname(&self.address.host)
            .tcp_port(self.address.port)
            .user(Some(&self.user))
            .pass(self.password.as_deref())
            .db_name(self.database.as_deref())
            // Asked for otherwise, or used in place of the port that was given.
            .prefer_socket(false)
            .max_allowed_packet(Some(64 << 20))
            .wait_timeout(Some(28_800));
        bridge::connect(options, &self.address, &self.tls).await
    }
}

/// One connection.
pub struct Client {
    conn: Conn,
}

impl Client {
    /// Connects to a server on this machine that belongs to this process' user.
    pub async fn connect(port: u16) -> Result<Self, CliError> {
        let address = HostPort::new("127.0.0.1", port);
        let user = "root".to_owned();
        Self::log_in(&Login { address, user, password: None, database: None, tls: Tls::DISABLED }).await
    }

    pub async fn log_in(login: &Login) -> Result<Self, CliError> {
        let conn = within("the connection to the server", login.connect()).await?;
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

    pub async fn prepare(&mut self, what: &str, sql: &str) -> Result<Statement, CliError> {
        within(what, self.conn.prep(sql)).await
    }

    /// Runs a prepared statement with numbers for its parameters, and reads its whole answer.
    pub async fn execute(&mut self, what: &str, statement: &Statement, values: Vec<u32>) -> Result<(), CliError> {
        let values: Vec<Value> = values.into_iter().map(Value::from).collect();
        let parameters = if values.is_empty() { Params::Empty } else { Params::Positional(values) };
        within(what, self.conn.exec_drop(statement, parameters)).await
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
