//! One client's conversation: its commands go to its session, the session's answers go back.
//!
//! In: a [`Connection`]. A statement that runs is dropped, which ends it on every node, when the client hangs up, when the
//! connection is killed, and when the server stops and its grace is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::timezone::Tz;
use sheaf_common::{Classify, ErrorCode, WireError};
use sheaf_planners::error::to_wire;
use sheaf_planners::parser::SqlDialect;
use sheaf_query::{Answer, Engine, Prepared, QueryError, RowStream, Session, SessionInit};
use tokio_util::sync::CancellationToken;

use super::column::Column;
use super::connection::{Command, Connection, ConnectionError, Login};
use super::packet::{ErrorReply, Summary, capability, status};
use super::value::RowFormat;
use super::writer::{RowsError, write_rows};

/// MySQL's own limit; each holds a plan.
const PREPARED_STATEMENTS_MAX: usize = 16_382;

/// How long a client that still sends is given to see why it is left.
const LINGER: Duration = Duration::from_secs(1);

/// What a conversation needs to know besides what the client says.
pub struct Client {
    pub engine: Arc<Engine>,
    pub connection_id: u32,
    pub host: String,
    /// Cancelled when the server stops: running statements go on, no new ones are taken.
    pub stop: CancellationToken,
    pub server_started: Instant,
}

/// Serves a client until it leaves, is killed, idles too long or the server stops.
///
/// Errs when the connection broke or was refused; a client that left in order is no error.
pub async fn serve<C: Connection>(mut connection: C, client: Client) -> Result<(), ConnectionError> {
    let served = async {
        let login = connection.login().await?;
        let mut conversation = Conversation::begin(&mut connection, client, login);
        conversation.greet().await?;
        conversation.run().await
    }
    .await;
    match served {
        Err(Stop::Left) => Ok(()),
        Err(Stop::Failed(error)) => {
            if let Some(farewell) = error.farewell() {
                // Whether it arrives changes nothing.
                let _ = connection.error(&farewell).await;
            }
            if matches!(error, ConnectionError::PacketTooLarge) {
                // A socket closed with bytes in it takes back what was said last.
                let _ = tokio::time::timeout(LINGER, connection.hang_up().cancelled_owned()).await;
            }
            Err(error)
        }
        Ok(never) => match never {},
    }
}

/// Why a conversation is over.
enum Stop {
    /// Both sides know.
    Left,
    Failed(ConnectionError),
}

impl From<ConnectionError> for Stop {
    fn from(error: ConnectionError) -> Self {
        match error {
            // Clients that end without saying so are no news.
            ConnectionError::HangUp => Self::Left,
            other => Self::Failed(other),
        }
    }
}

enum Never {}

struct Conversation<'a, C> {
    connection: &'a mut C,
    client: Client,
    session: Arc<Session>,
    database: Option<String>,
    prepared: HashMap<u32, Arc<Prepared>>,
    last_statement: u32,
}

impl<C> Drop for Conversation<'_, C> {
    fn drop(&mut self) {
        self.session.close();
    }
}

impl<'a, C: Connection> Conversation<'a, C> {
    fn begin(connection: &'a mut C, client: Client, login: Login) -> Self {
        let session = session(&client, &login);
        Self { connection, client, session, database: login.database, prepared: HashMap::new(), last_statement: 0 }
    }

    /// Answers the login.
    async fn greet(&mut self) -> Result<(), Stop> {
        if let Some(name) = self.database.take()
            && let Err(error) = self.session.use_database(&name)
        {
            self.query_error(&error).await?;
            return Err(Stop::Left);
        }
        Ok(self.connection.ok(&Summary::default()).await?)
    }

    async fn run(&mut self) -> Result<Never, Stop> {
        let (hang_up, stop) = (self.connection.hang_up(), self.client.stop.clone());
        loop {
            let killed = self.session.killed().clone();
            let wait_timeout = self.seconds_of("wait_timeout");
            let command = tokio::select! {
                biased;
                () = killed.cancelled() => return self.leave_idle(1317, "the connection was killed").await,
                () = stop.cancelled() => return self.leave_idle(1053, "server shutdown in progress").await,
                command = tokio::time::timeout(wait_timeout, self.connection.next()) => match command {
                    Ok(command) => command?,
                    Err(_) => {
                        let message = "the client was disconnected by the server because of inactivity";
                        return self.leave_idle(4031, message).await;
                    }
                },
            };
            // Dropping the answer drops the statement that it comes from.
            tokio::select! {
                biased;
                () = hang_up.cancelled() => return Err(Stop::Left),
                () = killed.cancelled() => return self.leave(1317, "the connection was killed").await,
                answered = self.answer(command) => answered?,
            }
        }
    }

    /// Says why to a client that asked nothing: it takes this for the reply to its next command.
    async fn leave_idle(&mut self, code: u16, message: &str) -> Result<Never, Stop> {
        self.connection.buffer().set_sequence(1);
        self.leave(code, message).await
    }

    /// Says why, and ends. Rows may have been sent before; then this takes the place of their end.
    async fn leave(&mut self, code: u16, message: &str) -> Result<Never, Stop> {
        let sqlstate = match code {
            1053 => "08S01",
            1317 => "70100",
            _ => "HY000",
        };
        self.connection.error(&ErrorReply { code, sqlstate, message: message.to_owned() }).await?;
        Err(Stop::Left)
    }

    async fn answer(&mut self, command: Command) -> Result<(), Stop> {
        match command {
            Command::Query(text) => self.on_query(&text).await?,
            Command::UseDatabase(name) => {
                let used = self.session.use_database(&name);
                self.done_or_error(used).await?;
            }
            Command::Prepare(text) => self.on_prepare(&text).await?,
            Command::Execute { statement, parameters } => match parameters {
                Ok(parameters) => self.on_execute(statement, parameters).await?,
                Err(error) => self.error(WireError::new(error.code(), error.to_string())).await?,
            },
            Command::CloseStatement(statement) => {
                self.prepared.remove(&statement);
            }
            Command::FieldList { table } => self.on_field_list(&table).await?,
            Command::ResetStatement(_) | Command::Ping => self.connection.ok(&Summary::default()).await?,
            Command::Statistics => self.on_statistics().await?,
            Command::SetMultiStatements(_) => {
                let capabilities = self.connection.capabilities();
                self.connection.buffer().end_of_rows(&Summary::default(), capabilities);
                self.connection.flush().await?;
            }
            Command::ResetConnection => {
                self.prepared.clear();
                self.session.reset();
                self.note_session();
                self.connection.ok(&Summary::default()).await?;
            }
            Command::ChangeUser(login) => self.on_change_user(login).await?,
            Command::KillConnection(id) => {
                let killed = self.client.engine.kill(id, false);
                self.done_or_error(killed).await?;
            }
            Command::Quit => return Err(Stop::Left),
            Command::Refused(error) => self.connection.error(&error).await?,
        }
        Ok(())
    }

    /// One text, of one statement or several. The first that fails is the last.
    async fn on_query(&mut self, text: &str) -> Result<(), ConnectionError> {
        let statements = match self.session.statements(text) {
            Ok(statements) => statements,
            Err(error) => return self.query_error(&error).await,
        };
        if statements.is_empty() {
            return self.refuse(1065, "42000", "query was empty").await;
        }
        let may_be_several = self.connection.capabilities() & capability::MULTI_STATEMENTS != 0;
        if statements.len() > 1 && !may_be_several {
            let message =
                "several statements in one text, which the client did not ask for with CLIENT_MULTI_STATEMENTS";
            return self.refuse(1064, "42000", message).await;
        }
        let n_statements = statements.len();
        for (i, statement) in statements.into_iter().enumerate() {
            let answer = self.session.run(statement).await;
            let more_results = i + 1 < n_statements;
            if !self.write_answer(answer, RowFormat::Text, more_results).await? {
                break;
            }
        }
        Ok(())
    }

    /// Whether all went well, so that a next statement may run.
    async fn write_answer(
        &mut self,
        answer: Result<Answer, QueryError>,
        format: RowFormat,
        more_results: bool,
    ) -> Result<bool, ConnectionError> {
        self.note_session();
        match answer {
            Ok(Answer::Rows(rows)) => self.write_result(rows, format, more_results).await,
            Ok(Answer::Done { affected_rows, info }) => {
                let warnings = self.session.warning_count();
                self.connection.ok(&Summary { affected_rows, warnings, info, more_results }).await?;
                Ok(true)
            }
            Err(error) => {
                self.query_error(&error).await?;
                Ok(false)
            }
        }
    }

    async fn write_result(
        &mut self,
        rows: RowStream,
        format: RowFormat,
        more_results: bool,
    ) -> Result<bool, ConnectionError> {
        let (zone, ended) = (self.time_zone(), self.session.statement_token());
        match write_rows(self.connection, rows, format, zone, ended).await {
            Ok(_) => {
                let summary = Summary { warnings: self.session.warning_count(), more_results, ..Summary::default() };
                let capabilities = self.connection.capabilities();
                self.connection.buffer().end_of_rows(&summary, capabilities);
                self.connection.flush().await?;
                Ok(true)
            }
            Err(RowsError::Connection(error)) => Err(error),
            Err(RowsError::Ended) => {
                self.query_error(&QueryError::Interrupted).await?;
                Ok(false)
            }
            Err(RowsError::Query(error)) => {
                self.error(to_wire(&error)).await?;
                Ok(false)
            }
            Err(RowsError::Value(error)) => {
                self.error(WireError::new(error.code(), chain(&error))).await?;
                Ok(false)
            }
        }
    }

    async fn on_prepare(&mut self, text: &str) -> Result<(), ConnectionError> {
        if self.prepared.len() >= PREPARED_STATEMENTS_MAX {
            let message = format!("can't create more than {PREPARED_STATEMENTS_MAX} prepared statements");
            return self.refuse(1461, "42000", message).await;
        }
        let prepared = match self.session.prepare(text).await {
            Ok(prepared) => prepared,
            Err(error) => return self.query_error(&error).await,
        };
        let parameters: Vec<_> = prepared.parameters.iter().map(|it| Column::of_parameter(it.as_ref())).collect();
        let columns = prepared.columns.as_ref().map(|schema| Column::of_schema(schema)).unwrap_or_default();
        if parameters.len() > usize::from(u16::MAX) || columns.len() > usize::from(u16::MAX) {
            return self.refuse(1390, "HY000", "prepared statement contains too many placeholders or columns").await;
        }
        // Ids of one connection come around only after four billion statements; those in use are passed over.
        loop {
            self.last_statement = self.last_statement.wrapping_add(1).max(1);
            if !self.prepared.contains_key(&self.last_statement) {
                break;
            }
        }
        self.prepared.insert(self.last_statement, Arc::new(prepared));
        self.connection.prepared(self.last_statement, &parameters, &columns).await
    }

    async fn on_execute(
        &mut self,
        statement: u32,
        parameters: Vec<datafusion::common::ScalarValue>,
    ) -> Result<(), ConnectionError> {
        let Some(prepared) = self.prepared.get(&statement).cloned() else {
            return self.refuse(1243, "HY000", format!("unknown prepared statement handler ({statement})")).await;
        };
        let answer = self.session.run_prepared(&prepared, parameters).await;
        self.write_answer(answer, RowFormat::Binary, false).await.map(|_| ())
    }

    /// What the `mysql` tool asks of every table after `USE`, for its completion.
    async fn on_field_list(&mut self, table: &str) -> Result<(), ConnectionError> {
        let text = format!("SELECT * FROM `{}`", table.replace('`', "``"));
        match self.session.prepare(&text).await {
            Ok(prepared) => {
                let columns = prepared.columns.map(|schema| Column::of_schema(&schema)).unwrap_or_default();
                let capabilities = self.connection.capabilities();
                self.connection.buffer().field_list(&columns, capabilities);
                self.connection.flush().await
            }
            Err(error) => self.query_error(&error).await,
        }
    }

    /// A line for people, which is its own packet.
    async fn on_statistics(&mut self) -> Result<(), ConnectionError> {
        let uptime = self.client.server_started.elapsed().as_secs();
        let n_sessions = self.client.engine.processes().len();
        self.connection.buffer().packet(format!("Uptime: {uptime}  Threads: {n_sessions}").as_bytes());
        self.connection.flush().await
    }

    /// A new session in the place of the old one, under the same connection id.
    async fn on_change_user(&mut self, login: Login) -> Result<(), Stop> {
        self.prepared.clear();
        self.session.close();
        self.session = session(&self.client, &login);
        self.database = login.database;
        self.note_session();
        self.greet().await
    }

    async fn done_or_error(&mut self, done: Result<(), QueryError>) -> Result<(), ConnectionError> {
        match done {
            Ok(()) => self.connection.ok(&Summary::default()).await,
            Err(error) => self.query_error(&error).await,
        }
    }

    async fn refuse(
        &mut self,
        code: u16,
        sqlstate: &'static str,
        message: impl Into<String>,
    ) -> Result<(), ConnectionError> {
        self.connection.error(&ErrorReply { code, sqlstate, message: message.into() }).await
    }

    async fn error(&mut self, error: impl Into<WireError>) -> Result<(), ConnectionError> {
        let reply = error_reply(&error.into(), self.client.connection_id);
        self.connection.error(&reply).await
    }

    /// As [`Self::error`], for what a statement came to; the whole chain goes to the log.
    async fn query_error(&mut self, error: &QueryError) -> Result<(), ConnectionError> {
        tracing::debug!(connection_id = self.client.connection_id, error = chain(error), "statement failed");
        self.error(error.to_wire()).await
    }

    /// Replies tell of the session, and wait as long as it says.
    fn note_session(&mut self) {
        let autocommit = if self.session.autocommit() { status::AUTOCOMMIT } else { 0 };
        let in_transaction = if self.session.in_transaction() { status::IN_TRANSACTION } else { 0 };
        self.connection.buffer().set_session_status(autocommit | in_transaction);
        let net_write_timeout = self.seconds_of("net_write_timeout");
        self.connection.set_write_timeout(net_write_timeout);
    }

    fn time_zone(&self) -> Tz {
        // The session checked the name when it was set.
        self.session.time_zone().parse().unwrap_or_else(|_| "+00:00".parse().expect("an offset is a time zone"))
    }

    fn seconds_of(&self, variable: &str) -> Duration {
        const DEFAULT_SECONDS: u64 = 60;
        const YEAR_SECONDS: u64 = 31_536_000;
        let seconds = self.session.variable(variable).parse().unwrap_or(DEFAULT_SECONDS);
        Duration::from_secs(seconds.clamp(1, YEAR_SECONDS))
    }
}

fn session(client: &Client, login: &Login) -> Arc<Session> {
    client.engine.session(SessionInit {
        connection_id: u64::from(client.connection_id),
        user: login.user.clone(),
        client_host: client.host.clone(),
        database: None,
        dialect: SqlDialect::MySql { ansi_quotes: false },
    })
}

/// What the client is told. Of our own bugs that is where they arose and where the log has the rest, never the text: it may
/// show what is not the client's.
fn error_reply(error: &WireError, connection_id: u32) -> ErrorReply {
    let numbers = error.code.numbers();
    let message = if error.code == ErrorCode::Internal {
        tracing::error!(connection_id, %error, "statement failed by an internal error");
        let origin = error.origin.as_ref().map(|origin| format!(" at {origin}")).unwrap_or_default();
        format!("internal error{origin}, the server's log has its cause under connection {connection_id}")
    } else {
        error.to_string()
    };
    ErrorReply { code: numbers.mysql, sqlstate: numbers.sqlstate, message }
}

/// An error and all its sources, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use sheaf_common::error::Origin;

    use super::*;

    #[test]
    fn errors_are_told_with_code_and_state_but_bugs_are_not_shown() {
        let told = |error: &WireError| {
            let reply = error_reply(error, 7);
            (reply.code, reply.sqlstate, reply.message)
        };
        let origin = Origin { stage: 2, task: 1, worker: "w1".into() };
        let lost = WireError::new(ErrorCode::WorkerLost, "worker is gone").at(origin.clone());
        assert_eq!(told(&lost), (1430, "HY000", "worker is gone (stage 2, task 1, worker w1)".into()));
        let (code, sqlstate, message) = told(&WireError::new(ErrorCode::Internal, "row 'secret'").at(origin));
        assert_eq!((code, sqlstate), (1105, "HY000"));
        assert!(message.contains("stage 2, task 1, worker w1") && message.contains("connection 7"), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }

    #[test]
    fn chains_are_whole() {
        let source = std::io::Error::other("no space");
        let error = QueryError::Io { what: "cannot write the catalog".into(), source };
        assert_eq!(chain(&error), "cannot write the catalog: no space");
    }
}
