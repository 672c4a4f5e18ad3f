//! A stock MySQL client (`mysql_async`) whose answers are text, as sqllogictest and the comparing tests want them.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use mysql_async::consts::ColumnType;
use mysql_async::prelude::{Protocol, Queryable};
use mysql_async::{Column, Conn, OptsBuilder, Params, QueryResult, Row, Value};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// No statement of a test takes longer on two cores; one that does hangs.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(300);

/// However busy the machine is, a server that runs greets by then.
const CONNECT_DEADLINE: Duration = Duration::from_secs(60);

/// Why a statement failed, as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The MySQL error number; `None` when the connection or this client failed.
    pub code: Option<u16>,
    pub state: String,
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "({code}) [{}] {}", self.state, self.message),
            None => write!(f, "(connection) {}", self.message),
        }
    }
}

impl std::error::Error for Failure {}

impl From<mysql_async::Error> for Failure {
    fn from(error: mysql_async::Error) -> Self {
        match error {
            mysql_async::Error::Server(error) => {
                Self { code: Some(error.code), state: error.state, message: error.message }
            }
            other => Self { code: None, state: String::new(), message: other.to_string() },
        }
    }
}

/// One result set: its columns as the server described them, its cells as text.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<String>>,
    pub affected_rows: u64,
    pub warnings: u16,
}

impl Table {
    pub fn names(&self) -> Vec<String> {
        self.columns.iter().map(|column| column.name_str().into_owned()).collect()
    }

    /// The only cell of a one-row, one-column answer.
    pub fn cell(&self) -> &str {
        assert!(self.rows.len() == 1 && self.rows[0].len() == 1, "one cell expected, got {:?}", self.rows);
        &self.rows[0][0]
    }

    /// The rows in an order that depends on nothing but their text.
    pub fn sorted(mut self) -> Vec<Vec<String>> {
        self.rows.sort_unstable();
        self.rows
    }
}

/// One connection. Every call has a deadline and ends in a [`Failure`] when it passes.
pub struct Client {
    conn: Conn,
    /// The socket's other half. `mysql_async` reads a pending answer to its end before it closes a connection; when
    /// the client goes, this goes at once, and the server sees a hang-up.
    _relay: JoinSet<()>,
}

impl Client {
    pub async fn connect(port: u16, database: Option<&str>) -> Result<Self, Failure> {
        let mut relay = JoinSet::new();
        let port = within(CONNECT_DEADLINE, relay_to(port, &mut relay)).await?;
        let opts = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(port)
            .user(Some("root"))
            .db_name(database)
            .prefer_socket(Some(false));
        let conn = within(CONNECT_DEADLINE, Conn::new(opts)).await?;
        Ok(Self { conn, _relay: relay })
    }

    /// A server of MySQL's kind on a Unix socket.
    pub async fn connect_socket(socket: &Path) -> Result<Self, Failure> {
        let socket = socket.to_str().map(str::to_owned);
        let opts = OptsBuilder::default().socket(socket).user(Some("root"));
        let conn = within(Duration::from_secs(10), Conn::new(opts)).await?;
        Ok(Self { conn, _relay: JoinSet::new() })
    }

    /// The server's id of this connection, which `KILL` takes.
    pub fn id(&self) -> u32 {
        self.conn.id()
    }

    /// Runs a statement through the text protocol and reads its first result set to the end.
    pub async fn query(&mut self, sql: &str) -> Result<Table, Failure> {
        self.query_within(STATEMENT_DEADLINE, sql).await
    }

    pub async fn query_within(&mut self, deadline: Duration, sql: &str) -> Result<Table, Failure> {
        within(deadline, async {
            let result = self.conn.query_iter(sql).await?;
            read(result).await
        })
        .await
    }

    /// Prepares and executes a statement: answers come through the binary protocol.
    pub async fn execute(&mut self, sql: &str, parameters: impl Into<Params>) -> Result<Table, Failure> {
        let parameters = parameters.into();
        within(STATEMENT_DEADLINE, async {
            let result = self.conn.exec_iter(sql, parameters).await?;
            read(result).await
        })
        .await
    }

    /// Reads all rows, keeps none, and says how many there were.
    pub async fn count_rows(&mut self, sql: &str) -> Result<u64, Failure> {
        within(STATEMENT_DEADLINE, async {
            let mut result = self.conn.query_iter(sql).await?;
            let mut n_rows = 0;
            while result.next().await?.is_some() {
                n_rows += 1;
            }
            Ok(n_rows)
        })
        .await
    }

    /// Starts a query, reads its first row and leaves: the socket closes under the running statement.
    pub async fn hang_up_after_first_row(mut self, sql: &str) -> Result<(), Failure> {
        within(STATEMENT_DEADLINE, async {
            let mut result = self.conn.query_iter(sql).await?;
            result.next().await?;
            Ok(())
        })
        .await
    }

    /// Sends a statement and gives up on its answer after `patience`: the socket closes, no `KILL` is sent.
    pub async fn hang_up_after(mut self, patience: Duration, sql: &str) {
        let _ = tokio::time::timeout(patience, self.conn.query_iter(sql)).await;
    }

    pub async fn ping(&mut self) -> Result<(), Failure> {
        within(Duration::from_secs(10), self.conn.ping()).await
    }

    pub async fn disconnect(self) -> Result<(), Failure> {
        within(Duration::from_secs(10), self.conn.disconnect()).await
    }
}

/// A port that leads to the server's for one connection, as long as `relay` lives.
async fn relay_to(port: u16, relay: &mut JoinSet<()>) -> Result<u16, mysql_async::Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let own = listener.local_addr()?.port();
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    server.set_nodelay(true)?;
    relay.spawn(async move {
        if let Ok((mut client, _)) = listener.accept().await {
            let _ = client.set_nodelay(true);
            // However it ends, both sockets close.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
    });
    Ok(own)
}

async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, mysql_async::Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(deadline, work).await {
        Ok(result) => result.map_err(Failure::from),
        Err(_) => Err(Failure { code: None, state: String::new(), message: format!("no answer within {deadline:?}") }),
    }
}

async fn read<P: Protocol>(mut result: QueryResult<'_, '_, P>) -> Result<Table, mysql_async::Error> {
    let columns = result.columns().map(|columns| columns.to_vec()).unwrap_or_default();
    let rows: Vec<Row> = result.collect().await?;
    let rows = rows.into_iter().map(|row| cells(row, &columns)).collect();
    let (affected_rows, warnings) = (result.affected_rows(), result.warnings());
    result.drop_result().await?;
    Ok(Table { columns, rows, affected_rows, warnings })
}

fn cells(row: Row, columns: &[Column]) -> Vec<String> {
    row.unwrap().into_iter().zip(columns).map(|(value, column)| text(value, column)).collect()
}

/// A value as the text protocol writes it, whichever protocol it came by.
fn text(value: Value, column: &Column) -> String {
    match value {
        Value::NULL => "NULL".to_owned(),
        Value::Bytes(bytes) => String::from_utf8(bytes)
            .unwrap_or_else(|error| error.as_bytes().iter().map(|byte| format!("\\x{byte:02x}")).collect()),
        Value::Int(number) => number.to_string(),
        Value::UInt(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        // As the text protocol writes them: with an exponent where there would be a row of zeros.
        Value::Double(number) if number.abs() >= 1e16 => format!("{number:e}"),
        Value::Double(number) => number.to_string(),
        Value::Date(year, month, day, hour, minute, second, micros) => {
            let date = format!("{year:04}-{month:02}-{day:02}");
            if column.column_type() == ColumnType::MYSQL_TYPE_DATE {
                return date;
            }
            let time = format!("{date} {hour:02}:{minute:02}:{second:02}");
            if micros == 0 { time } else { format!("{time}.{micros:06}") }
        }
        Value::Time(negative, days, hours, minutes, seconds, micros) => {
            let hours = u64::from(days) * 24 + u64::from(hours);
            let sign = if negative { "-" } else { "" };
            let time = format!("{sign}{hours:02}:{minutes:02}:{seconds:02}");
            if micros == 0 { time } else { format!("{time}.{micros:06}") }
        }
    }
}
