//! One client's session: its variables, its current database, its statements.
//!
//! A statement runs under a token that `KILL`, the deadline and the drop of its answer cancel. At most one statement
//! of a session runs at a time, beside those whose rows a client fetches bit by bit; the front ends see to that.

mod planning;
mod prepared;
mod running;
mod state;
mod stream;
mod values;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use parking_lot::Mutex;
use sheaf_common::{Classify, ErrorCode};
use sheaf_planners::parser::{self, OutputName, SqlDialect, Statement};
use sheaf_planners::warnings::QueryWarnings;
use tokio_util::sync::CancellationToken;

use crate::answer::Answer;
use crate::context::QueryContext;
use crate::engine::Engine;
use crate::error::QueryError;
use crate::interpreters;
use crate::variables::Variables;

pub use prepared::Prepared;
use running::{EndReason, Running};
pub(crate) use state::State;
pub use state::{Level, Warning};
use stream::AnswerStream;
pub(crate) use stream::of_batches;

/// What a front end knows of a client when its session begins.
#[derive(Debug, Clone)]
pub struct SessionInit {
    pub connection_id: u64,
    pub user: String,
    pub client_host: String,
    pub database: Option<String>,
    pub dialect: SqlDialect,
}

/// Dropping it ends its statement and takes it off the process list.
pub struct Session {
    engine: Arc<Engine>,
    connection_id: u64,
    user: String,
    client_host: String,
    /// What the client announced; `sql_mode` may add to it.
    dialect: SqlDialect,
    /// What statements change. Never held over an await.
    state: Mutex<State>,
    /// The statement that runs now, behind those whose rows wait to be fetched; and since when there has been none.
    running: Mutex<(Vec<Arc<Running>>, SystemTime)>,
    /// Cancelled by `KILL CONNECTION`.
    killed: CancellationToken,
}

impl Session {
    pub(crate) fn new(engine: Arc<Engine>, init: SessionInit) -> Self {
        let globals = engine.globals();
        let state = State::new(globals.variables, globals.settings, init.database);
        let now = SystemTime::now();
        Self {
            engine,
            connection_id: init.connection_id,
            user: init.user,
            client_host: init.client_host,
            dialect: init.dialect,
            state: Mutex::new(state),
            running: Mutex::new((vec![], now)),
            killed: CancellationToken::new(),
        }
    }

    pub fn connection_id(&self) -> u64 {
        self.connection_id
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn client_host(&self) -> &str {
        &self.client_host
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(crate) fn is_mysql(&self) -> bool {
        self.dialect.is_mysql()
    }

    /// How this session's next text is read.
    pub fn dialect(&self) -> SqlDialect {
        match self.dialect {
            SqlDialect::MySql { ansi_quotes } => {
                let ansi_quotes = ansi_quotes || self.state.lock().variables.has_sql_mode("ANSI_QUOTES");
                SqlDialect::MySql { ansi_quotes }
            }
            SqlDialect::Ansi => SqlDialect::Ansi,
        }
    }

    /// All statements of a text, in order; none if it holds nothing but comments. Nothing of it has run yet.
    ///
    /// Errs where it cannot be read.
    pub fn statements(&self, sql: &str) -> Result<Vec<Statement>, QueryError> {
        match parser::parse(sql, self.dialect()) {
            Ok(statements) => Ok(statements),
            Err(error) => self.failed(error.into()),
        }
    }

    /// Notes the error for `SHOW ERRORS`.
    fn failed<T>(&self, error: QueryError) -> Result<T, QueryError> {
        self.state.lock().fail(&error);
        Err(error)
    }

    /// Runs all statements of a text one after another. An answer with rows has to be read, or dropped, before the
    /// next begins; so the rows of all but the last are read into memory here. Front ends use [`Self::statements`].
    pub async fn execute(self: &Arc<Self>, sql: &str) -> Result<Vec<Answer>, QueryError> {
        let mut answers = vec![];
        let statements = self.statements(sql)?;
        let n_statements = statements.len();
        for (idx, statement) in statements.into_iter().enumerate() {
            let answer = self.run(statement).await?;
            answers.push(match answer {
                Answer::Rows(rows) if idx + 1 < n_statements => Answer::Rows(stream::collected(rows).await?),
                other => other,
            });
        }
        Ok(answers)
    }

    /// Runs one statement. Dropping the future, or the rows that it gives, ends it everywhere.
    pub async fn run(self: &Arc<Self>, statement: Statement) -> Result<Answer, QueryError> {
        if statement.n_parameters > 0 {
            let error = QueryError::ParameterCount { expected: statement.n_parameters, given: 0 };
            return self.failed(error);
        }
        self.run_with(statement, &[]).await
    }

    async fn run_with(self: &Arc<Self>, statement: Statement, values: &[ScalarValue]) -> Result<Answer, QueryError> {
        self.state.lock().begin(interpreters::is_diagnostic(&statement.kind));
        let context = Arc::new(self.context(&statement.text));
        let guard = Running::begin(self, &context);
        let names = interpreters::output_names(&statement.kind, self.is_mysql());
        let work = {
            let (session, context, values) = (Arc::clone(self), Arc::clone(&context), values.to_vec());
            async move { interpreters::interpret(&session, &context, statement, &values).await }
        };
        let work = planning::apart(context.cancel.clone(), work);
        let outcome = tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(guard.running().error()),
            outcome = work => outcome,
        };
        match outcome {
            Ok(Answer::Rows(rows)) => Ok(Answer::Rows(AnswerStream::rows(rows, &names, context, guard))),
            Ok(done @ Answer::Done { affected_rows, .. }) => {
                self.state.lock().done(affected_rows, &context.warnings);
                Ok(done)
            }
            Err(error) => self.failed(guard.running().reason_for(error)),
        }
    }

    /// What one statement of this session works with.
    pub(crate) fn context(&self, text: &Arc<str>) -> QueryContext {
        let warnings = QueryWarnings::default();
        let state = self.state.lock();
        let settings = state.settings.clone();
        let limit_ms = settings.max_execution_time;
        let deadline = (limit_ms > 0).then(|| Instant::now() + Duration::from_millis(limit_ms));
        let session_state = self.engine.session_state(&state, self.is_mysql(), &warnings);
        drop(state);
        QueryContext {
            engine: Arc::clone(&self.engine),
            query: self.engine.next_query(),
            settings,
            session_state,
            deadline,
            cancel: CancellationToken::new(),
            warnings,
            stats: Arc::default(),
            user: self.user.clone(),
            connection_id: self.connection_id,
            text: Arc::clone(text),
        }
    }

    /// Reads a statement and plans it as far as it goes without its parameters' values.
    ///
    /// Errs as running it would, and on a text with more or less than one statement.
    pub async fn prepare(self: &Arc<Self>, sql: &str) -> Result<Prepared, QueryError> {
        let statement = match <[Statement; 1]>::try_from(self.statements(sql)?) {
            Ok([statement]) => statement,
            Err(none) if none.is_empty() => return self.failed(QueryError::Empty),
            Err(_) => return self.failed(QueryError::unsupported("preparing more than one statement at once")),
        };
        let context = Arc::new(self.context(&statement.text));
        let cancelled_by_drop = context.cancel.clone().drop_guard();
        let work = {
            let (session, context) = (Arc::clone(self), Arc::clone(&context));
            async move {
                let described = interpreters::describe_answer(&session, &context, &statement.kind).await;
                described.map(|described| (statement, described))
            }
        };
        let (statement, (mut parameters, columns)) = match planning::apart(context.cancel.clone(), work).await {
            Ok(described) => described,
            Err(error) => return self.failed(error),
        };
        drop(cancelled_by_drop);
        // Those that the plan does not show have no type, but are sent all the same.
        parameters.resize(statement.n_parameters, None);
        let names = interpreters::output_names(&statement.kind, self.is_mysql());
        let columns = columns.map(|it| renamed_schema(&it, &names));
        Ok(Prepared::new(statement, parameters, columns))
    }

    /// Runs a prepared statement with values for all its parameters.
    pub async fn run_prepared(
        self: &Arc<Self>,
        prepared: &Prepared,
        parameters: Vec<ScalarValue>,
    ) -> Result<Answer, QueryError> {
        let expected = prepared.parameters.len();
        if parameters.len() != expected {
            return self.failed(QueryError::ParameterCount { expected, given: parameters.len() });
        }
        self.run_with(prepared.statement(), &parameters).await
    }

    /// Makes a database the current one, under the name that it was created by.
    pub fn use_database(&self, name: &str) -> Result<(), QueryError> {
        match self.engine.catalog().database_name(name) {
            Ok(name) => {
                self.state.lock().database = Some(name);
                Ok(())
            }
            Err(_) => self.failed(QueryError::DatabaseNotFound { name: name.to_owned() }),
        }
    }

    pub fn database(&self) -> Option<String> {
        self.state.lock().database.clone()
    }

    /// Warnings of the last statement; none for one that itself is about warnings.
    pub fn warning_count(&self) -> u16 {
        let state = self.state.lock();
        if state.is_diagnostic { 0 } else { u16::try_from(state.warning_total).unwrap_or(u16::MAX) }
    }

    /// Whether each statement is a transaction of its own: a flag of every answer in MySQL's protocol.
    pub fn autocommit(&self) -> bool {
        self.state.lock().variables.is_on("autocommit")
    }

    pub fn in_transaction(&self) -> bool {
        self.state.lock().in_transaction
    }

    /// The session's value of one of MySQL's variables, as text; empty for NULL and for what is no variable.
    pub fn variable(&self, name: &str) -> String {
        self.state.lock().variables.text_of(name)
    }

    /// The variables of which the client wants to hear when they change, with their values as `SHOW VARIABLES` has them.
    pub fn tracked_variables(&self) -> Vec<(&'static str, String)> {
        let state = self.state.lock();
        let tracked = state.variables.text_of("session_track_system_variables");
        let is_tracked =
            |name: &str| tracked.split(',').map(str::trim).any(|it| it == "*" || it.eq_ignore_ascii_case(name));
        if tracked.is_empty() {
            return vec![];
        }
        state.variables.rows().into_iter().filter(|(name, _)| is_tracked(name)).collect()
    }

    /// The time zone that instants are shown in, as Arrow reads it: an offset or a name of the IANA's.
    pub fn time_zone(&self) -> String {
        self.state.lock().variables.time_zone()
    }

    /// Cancelled when the statement that runs now is ended, for who holds its rows but cannot read on; never cancelled
    /// while none runs.
    pub fn statement_token(&self) -> CancellationToken {
        self.running.lock().0.last().map(|running| running.token()).unwrap_or_default()
    }

    /// Ends the statement that runs now, if one does, and those whose rows wait to be fetched.
    pub fn cancel(&self) {
        self.running.lock().0.iter().for_each(|running| running.end(EndReason::Killed));
    }

    /// Ends the statement and the session: the front end waits on [`Self::killed`] and hangs up.
    pub fn kill(&self) {
        self.killed.cancel();
        self.cancel();
    }

    /// The client left: ends the statement and takes the session off the process list, whoever still holds it.
    pub fn close(&self) {
        self.killed.cancel();
        self.cancel();
        self.engine.close(self);
    }

    /// Cancelled once the session is to end.
    pub fn killed(&self) -> CancellationToken {
        self.killed.clone()
    }

    /// As if the client had just connected, but for its user and database: `COM_RESET_CONNECTION`.
    pub fn reset(&self) {
        self.cancel();
        let globals = self.engine.globals();
        let mut state = self.state.lock();
        let database = state.database.take();
        *state = State::new(globals.variables, globals.settings, database);
    }

    /// The line of this session in the process list.
    pub fn process(&self) -> crate::system::ProcessRow {
        running::process(self)
    }

    pub(crate) fn with_state<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        work(&mut self.state.lock())
    }

    /// The server's values of the variables, which `SET … = DEFAULT` goes back to.
    pub(crate) fn global_variables(&self) -> Variables {
        self.engine.globals().variables
    }

    pub fn warn(&self, code: ErrorCode, message: impl Into<String>) {
        self.state.lock().warn(Level::Warning, code.numbers().mysql, message.into());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.cancel();
        self.engine.forget(self.connection_id);
    }
}

/// A schema with MySQL's names for its columns.
pub(crate) fn renamed_schema(schema: &SchemaRef, names: &[OutputName]) -> SchemaRef {
    if names.is_empty() {
        return Arc::clone(schema);
    }
    let fields: Vec<String> = schema.fields().iter().map(|it| it.name().clone()).collect();
    let names = parser::renamed(&fields, names);
    if names == fields {
        return Arc::clone(schema);
    }
    let fields =
        schema.fields().iter().zip(names).map(|(field, name)| Arc::new(field.as_ref().clone().with_name(name)));
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
}

/// What a statement's answer will look like: types of parameters, where they can be told, and columns, if it has any.
pub(crate) type Described = (Vec<Option<DataType>>, Option<SchemaRef>);

/// Whether an error is about the statement's end rather than its doing.
fn is_cancellation(error: &QueryError) -> bool {
    error.code() == ErrorCode::Cancelled
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("connection_id", &self.connection_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
