//! One client's conversation: its commands go to its session, the session's answers go back.
//!
//! In: a [`Connection`]. A statement that runs is dropped, which ends it on every node, when the client hangs up, when the
//! connection is killed, and when the server stops and its grace is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::StringArray;
use arrow::array::timezone::Tz;
use arrow::compute::kernels::comparison::ilike;
use arrow::error::ArrowError;
use sheaf_common::{Classify, ErrorCode, WireError};
use sheaf_planners::error::to_wire;
use sheaf_planners::parser::{SqlDialect, Statement};
use sheaf_query::load::upload::{Part, upload};
use sheaf_query::{Answer, Engine, Prepared, QueryError, RowStream, Session, SessionInit, Tls};
use tokio_util::sync::CancellationToken;

use super::column::Column;
use super::connection::{Admitted, Command, Connection, ConnectionError};
use super::cursor::Cursors;
use super::flags::{capability, status};
use super::reply::{ErrorReply, StateChange, Summary};
use super::statements::{self, Execution};
use super::tracker::Tracker;
use super::value::RowFormat;
use super::writer::{Progress, RowsError, RowsWriter};

/// MySQL's own limit; each holds a plan.
const PREPARED_STATEMENTS_MAX: usize = 16_382;

/// A client that asked nothing for so long is taken to idle: what only makes its next statements quicker is given back.
const REST_AFTER: Duration = Duration::from_secs(5);

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
        let admitted = connection.login().await?;
        let mut conversation = Conversation::begin(&mut connection, client, admitted);
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
            if matches!(error, ConnectionError::PacketTooLarge | ConnectionError::OutOfOrder) {
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
    cursors: Cursors,
    tracker: Tracker,
}

impl<C> Drop for Conversation<'_, C> {
    fn drop(&mut self) {
        self.session.close();
    }
}

impl<'a, C: Connection> Conversation<'a, C> {
    fn begin(connection: &'a mut C, client: Client, admitted: Admitted) -> Self {
        let session = session(&client, &admitted);
        if connection.buffer().can(capability::INTERACTIVE) {
            session.set_interactive();
        }
        let tracker = Tracker::new(&session);
        Self {
            connection,
            client,
            session,
            database: admitted.login.database,
            prepared: HashMap::new(),
            last_statement: 0,
            cursors: Cursors::default(),
            tracker,
        }
    }

    /// Answers the login.
    async fn greet(&mut self) -> Result<(), Stop> {
        if let Some(name) = self.database.take()
            && let Err(error) = self.session.use_database(&name).await
        {
            self.query_error(&error).await?;
            return Err(Stop::Left);
        }
        Ok(self.done().await?)
    }

    async fn run(&mut self) -> Result<Never, Stop> {
        let (hang_up, stop) = (self.connection.hang_up(), self.client.stop.clone());
        let mut rests = false;
        loop {
            let killed = self.session.killed().clone();
            let wait_timeout = self.seconds_of("wait_timeout");
            let patience = match rests {
                true => wait_timeout.saturating_sub(REST_AFTER),
                false => wait_timeout.min(REST_AFTER),
            };
            let command = tokio::select! {
                biased;
                () = killed.cancelled() => return self.leave_idle(1317, "the connection was killed").await,
                () = stop.cancelled() => return self.leave_idle(1053, "server shutdown in progress").await,
                never = self.cursors.watch() => match never {},
                command = tokio::time::timeout(patience, self.connection.next()) => match command {
                    Ok(command) => command?,
                    Err(_) if !rests && wait_timeout > REST_AFTER => {
                        rests = true;
                        self.connection.rest();
                        self.session.rest();
                        continue;
                    }
                    Err(_) => {
                        let message = "the client was disconnected by the server because of inactivity";
                        return self.leave_idle(4031, message).await;
                    }
                },
            };
            rests = false;
            // What works on a command is large, and must not be a part of every connection that waits for one.
            let answer = Box::pin(self.answer(command));
            // Dropping the answer drops the statement that it comes from.
            tokio::select! {
                biased;
                () = hang_up.cancelled() => return Err(Stop::Left),
                () = killed.cancelled() => return self.leave(1317, "the connection was killed").await,
                answered = answer => answered?,
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
                let used = self.session.use_database(&name).await;
                self.done_or_error(used).await?;
            }
            Command::Prepare(text) => self.on_prepare(&text).await?,
            Command::Execute(execution) => self.on_execute(execution).await?,
            Command::Fetch { statement, n_rows } => self.on_fetch(statement, n_rows).await?,
            Command::CloseStatement(statement) => {
                self.cursors.close(statement);
                self.prepared.remove(&statement);
            }
            Command::FieldList { table, pattern } => self.on_field_list(&table, &pattern).await?,
            Command::ResetStatement(statement) => {
                self.cursors.close(statement);
                self.connection.ok(&Summary::default()).await?;
            }
            Command::Ping => self.connection.ok(&Summary::default()).await?,
            Command::Statistics => self.on_statistics().await?,
            Command::SetMultiStatements(_) => {
                self.connection.buffer().end_of_rows(&Summary::default());
                self.connection.flush().await?;
            }
            Command::ResetConnection => {
                self.cursors.clear();
                self.prepared.clear();
                self.session.reset();
                self.note_session();
                self.done().await?;
            }
            Command::ChangeUser(admitted) => self.on_change_user(admitted).await?,
            Command::KillConnection(id) => {
                let killed = self.session.kill_other(id, false).await;
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
        let may_be_several = self.connection.buffer().can(capability::MULTI_STATEMENTS);
        if statements.len() > 1 && !may_be_several {
            let message =
                "several statements in one text, which the client did not ask for with CLIENT_MULTI_STATEMENTS";
            return self.refuse(1064, "42000", message).await;
        }
        let n_statements = statements.len();
        for (i, statement) in statements.into_iter().enumerate() {
            let answer = match statement.wants_clients_file() {
                true => self.run_uploading(statement).await?,
                false => self.session.run(statement).await,
            };
            let status = if i + 1 < n_statements { status::MORE_RESULTS } else { 0 };
            if !self.write_answer(answer, RowFormat::Text, status).await? {
                break;
            }
        }
        Ok(())
    }

    /// Runs a statement that loads a file of the client's, and brings it the file when it asks for it. Memory: the parts that
    /// wait to be read; a statement that is slower than the client makes the client wait.
    async fn run_uploading(&mut self, statement: Statement) -> Result<Result<Answer, QueryError>, ConnectionError> {
        if !self.connection.buffer().can(capability::LOCAL_FILES) {
            return Ok(self.session.run(statement).await);
        }
        let net_read_timeout = self.seconds_of("net_read_timeout");
        let (upload, mut uploader) = upload();
        let run = self.session.run_uploading(statement, upload);
        tokio::pin!(run);
        let file = tokio::select! {
            biased;
            answer = &mut run => return Ok(answer),
            Ok(file) = &mut uploader.wanted => file,
        };
        self.connection.request_file(&file).await?;
        // The client sends all of its file, also when the statement has failed meanwhile: then it is thrown away.
        let mut answer = None;
        loop {
            let part = tokio::select! {
                biased;
                ended = &mut run, if answer.is_none() => {
                    answer = Some(ended);
                    continue;
                }
                part = tokio::time::timeout(net_read_timeout, self.connection.file_part()) => part,
            };
            let part = part.map_err(|_| ConnectionError::ReadTimeout)??;
            let is_end = part.is_none();
            if answer.is_none() {
                tokio::select! {
                    biased;
                    ended = &mut run => answer = Some(ended),
                    // It fails when the statement ends, which is seen next.
                    _ = uploader.parts.send(part.map_or(Part::End, Part::Bytes)) => {}
                }
            }
            if is_end {
                return Ok(match answer {
                    Some(answer) => answer,
                    None => run.await,
                });
            }
        }
    }

    /// Whether all went well, so that a next statement may run. `status` goes into the answer's last packet.
    async fn write_answer(
        &mut self,
        answer: Result<Answer, QueryError>,
        format: RowFormat,
        status: u16,
    ) -> Result<bool, ConnectionError> {
        self.note_session();
        match answer {
            Ok(Answer::Rows(rows)) => {
                self.connection.buffer().columns(&Column::of_schema(&rows.schema));
                let written = self.rows_writer(rows, format).write(self.connection, usize::MAX).await;
                self.end_rows(written.map(|_| status)).await
            }
            Ok(Answer::Done { affected_rows, info }) => {
                let (warnings, changes) = (self.session.warning_count(), self.changes());
                self.connection.ok(&Summary { affected_rows, warnings, info, status, changes }).await?;
                Ok(true)
            }
            Err(error) => {
                self.query_error(&error).await?;
                Ok(false)
            }
        }
    }

    fn rows_writer(&self, rows: RowStream, format: RowFormat) -> RowsWriter {
        RowsWriter::new(rows, format, self.time_zone(), self.session.statement_token())
    }

    /// Writes the end of rows with this status, or the error in its place; whether all went well.
    async fn end_rows(&mut self, written: Result<u16, RowsError>) -> Result<bool, ConnectionError> {
        match written {
            Ok(status) => {
                let summary = Summary { warnings: self.session.warning_count(), status, ..Summary::default() };
                self.connection.buffer().end_of_rows(&summary);
                self.connection.flush().await?;
                return Ok(true);
            }
            Err(RowsError::Connection(error)) => return Err(error),
            Err(RowsError::Query(error)) => self.error(to_wire(&error)).await?,
            Err(RowsError::Value(error)) => self.error(WireError::new(error.code(), chain(&error))).await?,
        }
        Ok(false)
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

    async fn on_execute(&mut self, execution: Execution) -> Result<(), ConnectionError> {
        let Execution { statement, with_cursor, parameters } = execution;
        self.cursors.close(statement);
        let Some(prepared) = self.prepared.get(&statement).cloned() else {
            return self.connection.error(&statements::unknown(statement, "EXECUTE")).await;
        };
        let parameters = match parameters {
            Ok(parameters) => parameters,
            Err(error) => return self.error(WireError::new(error.code(), error.to_string())).await,
        };
        match self.session.run_prepared(&prepared, parameters).await {
            Ok(Answer::Rows(rows)) if with_cursor => {
                self.note_session();
                let columns = Column::of_schema(&rows.schema);
                self.cursors.open(statement, self.rows_writer(rows, RowFormat::Binary));
                let warnings = self.session.warning_count();
                let summary = Summary { warnings, status: status::CURSOR_EXISTS, ..Summary::default() };
                self.connection.buffer().cursor(&columns, &summary);
                self.connection.flush().await
            }
            answer => self.write_answer(answer, RowFormat::Binary, 0).await.map(|_| ()),
        }
    }

    async fn on_fetch(&mut self, statement: u32, n_rows: u32) -> Result<(), ConnectionError> {
        if !self.prepared.contains_key(&statement) {
            return self.connection.error(&statements::unknown(statement, "FETCH")).await;
        }
        let Some(written) = self.cursors.fetch(self.connection, statement, n_rows).await else {
            return self.refuse(1421, "HY000", format!("the statement ({statement}) has no open cursor")).await;
        };
        let status = written.map(|progress| match progress {
            Progress::RowsSent => status::CURSOR_EXISTS,
            Progress::AtEnd => status::LAST_ROW_SENT,
        });
        self.end_rows(status).await.map(|_| ())
    }

    /// What the `mysql` tool asks of every table after `USE`, for its completion.
    async fn on_field_list(&mut self, table: &str, pattern: &str) -> Result<(), ConnectionError> {
        let text = format!("SELECT * FROM `{}`", table.replace('`', "``"));
        match self.session.prepare(&text).await {
            Ok(prepared) => {
                let columns = prepared.columns.map(|schema| Column::of_schema(&schema)).unwrap_or_default();
                match like(columns, pattern) {
                    Ok(columns) => self.connection.buffer().field_list(&columns),
                    Err(error) => {
                        return self.refuse(1210, "HY000", format!("wrong pattern of columns: {error}")).await;
                    }
                }
                self.connection.flush().await
            }
            Err(error) => self.query_error(&error).await,
        }
    }

    /// A line for people, which is its own packet.
    async fn on_statistics(&mut self) -> Result<(), ConnectionError> {
        let uptime = self.client.server_started.elapsed().as_secs();
        let n_sessions = self.client.engine.processes().len();
        let line = format!("Uptime: {uptime}  Threads: {n_sessions}");
        self.connection.buffer().packet(|out| out.extend_from_slice(line.as_bytes()));
        self.connection.flush().await
    }

    /// A new session in the place of the old one, under the same connection id.
    async fn on_change_user(&mut self, admitted: Admitted) -> Result<(), Stop> {
        self.cursors.clear();
        self.prepared.clear();
        let before = std::mem::replace(&mut self.session, session(&self.client, &admitted));
        if self.connection.buffer().can(capability::INTERACTIVE) {
            self.session.set_interactive();
        }
        self.tracker = Tracker::new(&self.session);
        self.database = admitted.login.database;
        self.note_session();
        let greeted = self.greet().await;
        // Only now: its end is what this conversation waits for.
        before.close();
        greeted
    }

    async fn done_or_error(&mut self, done: Result<(), QueryError>) -> Result<(), ConnectionError> {
        match done {
            Ok(()) => self.done().await,
            Err(error) => self.query_error(&error).await,
        }
    }

    /// OK, with what the command changed.
    async fn done(&mut self) -> Result<(), ConnectionError> {
        let changes = self.changes();
        self.connection.ok(&Summary { changes, ..Summary::default() }).await
    }

    /// What clients that track their session have to hear.
    fn changes(&mut self) -> Vec<StateChange> {
        let is_tracked = self.connection.buffer().can(capability::SESSION_TRACK);
        if is_tracked { self.tracker.changes(&self.session) } else { Vec::new() }
    }

    async fn refuse(
        &mut self,
        code: u16,
        sqlstate: &'static str,
        message: impl Into<String>,
    ) -> Result<(), ConnectionError> {
        self.connection.error(&ErrorReply::new(code, sqlstate, message)).await
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
        self.connection.buffer().session_status = autocommit | in_transaction;
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

fn session(client: &Client, admitted: &Admitted) -> Arc<Session> {
    let session = client.engine.session(SessionInit {
        connection_id: u64::from(client.connection_id),
        user: admitted.login.user.clone(),
        client_host: client.host.clone(),
        identity: admitted.identity.clone(),
        tls: admitted.encryption.as_ref().map(|it| Tls { version: it.version, cipher: it.cipher.clone() }),
        database: None,
        dialect: SqlDialect::MySql { ansi_quotes: false },
    });
    session.set_login_collation(admitted.login.collation);
    session
}

/// Where a panic was that an error tells of: `crate/src/file.rs:line:column`.
fn panic_place(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("panic at ")?;
    let end = rest.find(|it: char| it.is_whitespace() || it == ',').unwrap_or(rest.len());
    Some(rest[..end].trim_end_matches(':'))
}

/// What the client is told. Of our own bugs that is where they arose and where the log has the rest, never the text: it may
/// show what is not the client's.
fn error_reply(error: &WireError, connection_id: u32) -> ErrorReply {
    let numbers = error.code.numbers();
    let message = if error.code == ErrorCode::Internal {
        tracing::error!(connection_id, %error, "statement failed by an internal error");
        let origin = error.origin.as_ref().map(|origin| format!(" at {origin}")).unwrap_or_default();
        let place = panic_place(&error.message).map(|it| format!(": panic at {it}")).unwrap_or_default();
        format!("internal error{origin}{place}, the server's log has its cause under connection {connection_id}")
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

/// Those whose name is `LIKE` the pattern, in any case; all if it is empty.
fn like(columns: Vec<Column>, pattern: &str) -> Result<Vec<Column>, ArrowError> {
    if pattern.is_empty() {
        return Ok(columns);
    }
    let names = StringArray::from_iter_values(columns.iter().map(|column| &column.name));
    let fits = ilike(&names, &StringArray::new_scalar(pattern))?;
    Ok(columns.into_iter().zip(fits.iter()).filter(|(_, fits)| *fits == Some(true)).map(|(column, _)| column).collect())
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
        let origin = Origin { stage: 2, task: 1, attempt: 0, worker: "w1".into() };
        let lost = WireError::new(ErrorCode::WorkerLost, "worker is gone").at(origin.clone());
        assert_eq!(told(&lost), (1430, "HY000", "worker is gone (stage 2, task 1, worker w1)".into()));
        let (code, sqlstate, message) = told(&WireError::new(ErrorCode::Internal, "row 'secret'").at(origin));
        assert_eq!((code, sqlstate), (1105, "HY000"));
        assert!(message.contains("stage 2, task 1, worker w1") && message.contains("connection 7"), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }

    #[test]
    fn columns_are_found_by_pattern() {
        let columns =
            || ["id", "Order_ID", "orderxid"].map(|name| Column { name: name.into(), ..Column::of_parameter(None) });
        for (pattern, expected) in [
            ("", &["id", "Order_ID", "orderxid"][..]),
            ("ID", &["id"]),
            ("%\\_id", &["Order_ID"]),
            ("order%", &["Order_ID", "orderxid"]),
            ("i", &[]),
        ] {
            let found: Vec<String> = like(columns().into(), pattern).unwrap().into_iter().map(|it| it.name).collect();
            assert_eq!(found, expected, "{pattern}");
        }
    }

    #[test]
    fn chains_are_whole() {
        let source = std::io::Error::other("no space");
        let error = QueryError::Io { what: "cannot write the catalog".into(), source };
        assert_eq!(chain(&error), "cannot write the catalog: no space");
    }
}
