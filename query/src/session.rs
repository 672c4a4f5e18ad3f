//! One client's session: its variables, its current database, its statements.
//!
//! A statement runs under a token that `KILL`, the deadline and the drop of its answer cancel. At most one statement
//! of a session runs at a time, beside those whose rows a client fetches bit by bit; the front ends see to that.

pub(crate) mod planning;
mod plans;
mod prepared;
mod quick;
mod running;
mod state;
mod stream;
mod values;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::execution::SessionState;
use futures::FutureExt;
use parking_lot::Mutex;
use sheaf_common::settings::{MetadataReads, Settings};
use sheaf_common::{Classify, ErrorCode};
use sheaf_flight::error::from_panic;
use sheaf_planners::parser::{self, OutputName, SqlDialect, Statement, StatementKind, TextPrepared, on_big_stack};
use sheaf_planners::warnings::QueryWarnings;
use tokio_util::sync::CancellationToken;

use crate::access::{AccountName, Identity, Rights, RightsSource, SessionRights};
use crate::activity::Activity;
use crate::answer::Answer;
use crate::binder::views::SessionViews;
use crate::context::QueryContext;
use crate::definitions::{ELECTION, TIMEOUT};
use crate::engine::Engine;
use crate::error::QueryError;
use crate::interpreters;
use crate::load::upload::Upload;
use crate::mysql_semantics::SessionValues;
use crate::processes;
use crate::variables::Variables;

use plans::Plans;
pub(crate) use plans::{Asking, Keeping, KeptPlan, Told};
pub use prepared::Prepared;
use quick::Lease;
use running::{EndReason, Running, RunningGuard};
pub(crate) use state::State;
pub use state::{Level, Warning};
use stream::AnswerStream;
pub(crate) use stream::of_batches;

/// What `SHOW STATUS` tells of a session's encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// `TLSv1.3`.
    pub version: &'static str,
    pub cipher: String,
}

/// What a front end knows of a client when its session begins.
#[derive(Debug, Clone)]
pub struct SessionInit {
    pub connection_id: u64,
    pub user: String,
    pub client_host: String,
    /// On whose behalf it acts.
    pub identity: Identity,
    /// How its client's bytes are kept from others; none in the clear.
    pub tls: Option<Tls>,
    pub database: Option<String>,
    pub dialect: SqlDialect,
}

/// Dropping it ends its statement and takes it off the process list.
pub struct Session {
    engine: Arc<Engine>,
    connection_id: u64,
    user: String,
    client_host: String,
    tls: Option<Tls>,
    rights: Arc<RightsSource>,
    /// What the client announced; `sql_mode` may add to it.
    dialect: SqlDialect,
    /// What statements change. Never held over an await.
    state: Mutex<State>,
    /// Of statements that may be run again.
    plans: Plans,
    /// The statement that runs now, behind those whose rows wait to be fetched; and since when there has been none.
    running: Mutex<(Vec<Arc<Running>>, SystemTime)>,
    /// Cancelled by `KILL CONNECTION`.
    killed: CancellationToken,
}

impl Session {
    pub(crate) fn new(engine: Arc<Engine>, init: SessionInit) -> Self {
        let globals = engine.globals();
        let mut state = State::new(globals.variables, globals.settings, init.database);
        state.roles = first_roles(&engine, &init.identity);
        let now = SystemTime::now();
        let who = AccountName::new(&init.user, &init.client_host);
        let rights = Arc::new(RightsSource::new(Arc::clone(engine.access()), init.identity, who));
        Self {
            engine,
            connection_id: init.connection_id,
            user: init.user,
            client_host: init.client_host,
            tls: init.tls,
            rights,
            dialect: init.dialect,
            state: Mutex::new(state),
            plans: Plans::default(),
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

    /// On whose behalf it acts.
    pub fn identity(&self) -> &Identity {
        self.rights.identity()
    }

    /// None in the clear.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// What it may do now, as far as this process knows.
    pub(crate) fn rights(&self) -> Arc<Rights> {
        let roles = self.state.lock().roles.clone();
        self.rights.now(&roles).0
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
        let text = Arc::clone(&statement.text);
        self.run_with(&text, || statement, &[], None).await
    }

    /// The same for a statement that loads a file of the client's, which the other end of `upload` brings.
    pub async fn run_uploading(self: &Arc<Self>, statement: Statement, upload: Upload) -> Result<Answer, QueryError> {
        let text = Arc::clone(&statement.text);
        self.run_with(&text, || statement, &[], Some(Arc::new(upload))).await
    }

    /// The statement to run and the values of its parameters: what `EXECUTE` names, or the statement itself.
    fn executed(
        &self,
        statement: Statement,
        values: &[ScalarValue],
    ) -> Result<(Statement, Vec<ScalarValue>), QueryError> {
        let StatementKind::Prepared(TextPrepared::Execute { name, using }) = &statement.kind else {
            return Ok((statement, values.to_vec()));
        };
        let prepared = on_big_stack(|| self.state.lock().prepared.get(name).cloned());
        let Some(prepared) = prepared else {
            return Err(QueryError::UnknownPrepared { name: name.clone(), command: "EXECUTE" });
        };
        if prepared.n_parameters != using.len() {
            return Err(QueryError::ParameterCount { expected: prepared.n_parameters, given: using.len() });
        }
        let values = using.iter().map(|variable| self.user_variable(variable)).collect();
        Ok((prepared, values))
    }

    /// `text` is what the statement was read from, which is made only if the session has no plan of it.
    async fn run_with(
        self: &Arc<Self>,
        text: &Arc<str>,
        statement: impl FnOnce() -> Statement,
        values: &[ScalarValue],
        upload: Option<Arc<Upload>>,
    ) -> Result<Answer, QueryError> {
        if let Some((kept, values)) = self.kept_plan(text, values)
            && let Some(answer) = self.run_kept(text, &kept, values).await?
        {
            return Ok(answer);
        }
        let (statement, values) = match self.executed(statement(), values) {
            Ok(executed) => executed,
            Err(error) => {
                self.state.lock().begin(false);
                return self.failed(error);
            }
        };
        self.state.lock().begin(interpreters::is_diagnostic(&statement.kind));
        let context = Arc::new(QueryContext { upload, ..self.context(&statement.text) });
        let guard = Running::begin(self, &context);
        let names = interpreters::output_names(&statement.kind, self.is_mysql());
        let n_bytes = statement.text.len();
        let work = {
            let (session, context) = (Arc::clone(self), Arc::clone(&context));
            async move { interpreters::interpret(&session, &context, statement, &values).await }
        };
        let work = planning::apart(context.cancel.clone(), n_bytes, work);
        let outcome = tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(guard.running().error()),
            outcome = work => outcome,
        };
        self.begun(outcome, &names, context, guard)
    }

    /// The plan that the session has of a statement, if it holds now, and the parameters' values as it takes them.
    pub(crate) fn kept_plan(&self, text: &str, values: &[ScalarValue]) -> Option<(Arc<KeptPlan>, Vec<ScalarValue>)> {
        self.plans.get(self, text, values)
    }

    /// Runs a statement by a plan that the session has of it: so little work that it is done here and now. `None` if the
    /// plan turns out not to hold any more.
    async fn run_kept(
        self: &Arc<Self>,
        text: &Arc<str>,
        kept: &Arc<KeptPlan>,
        values: Vec<ScalarValue>,
    ) -> Result<Option<Answer>, QueryError> {
        self.state.lock().begin(false);
        if let Some(lease) = Lease::take(kept)
            && let Some(answer) = self.run_quick(text, lease, &values).await?
        {
            return Ok(Some(answer));
        }
        let context = Arc::new(self.context_over(self.engine.bare_state(), text));
        let guard = Running::begin(self, &context);
        let work = AssertUnwindSafe(interpreters::run_kept(self, &context, kept, values)).catch_unwind();
        let outcome = tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(guard.running().error()),
            outcome = work => outcome.unwrap_or_else(|panic| Err(QueryError::Wire(from_panic(panic.as_ref())))),
        };
        match outcome.transpose() {
            Some(outcome) => self.begun(outcome, &kept.told.names, context, guard).map(Some),
            None => {
                self.plans.forget(text);
                guard.forget();
                Ok(None)
            }
        }
    }

    /// The same by the plan's quick form.
    async fn run_quick(
        self: &Arc<Self>,
        text: &Arc<str>,
        lease: Lease,
        values: &[ScalarValue],
    ) -> Result<Option<Answer>, QueryError> {
        let Some(quick) = lease.quick() else { return Ok(None) };
        let settings = quick.settings.clone();
        let (state, rights) = (Arc::clone(&quick.state), Arc::clone(&quick.rights));
        let context = Arc::new(self.context_with(text, settings, state, rights, quick.warnings.clone()));
        let guard = Running::begin(self, &context);
        let work = AssertUnwindSafe(lease.run(self, &context, values.to_vec())).catch_unwind();
        let outcome = tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(guard.running().error()),
            outcome = work => outcome.unwrap_or_else(|panic| Err(QueryError::Wire(from_panic(panic.as_ref())))),
        };
        match outcome.transpose() {
            Some(outcome) => self.begun(outcome.map(Answer::Rows), &[], context, guard).map(Some),
            None => {
                guard.forget();
                Ok(None)
            }
        }
    }

    /// What a statement that was begun answers with.
    fn begun(
        &self,
        outcome: Result<Answer, QueryError>,
        names: &[OutputName],
        context: Arc<QueryContext>,
        guard: RunningGuard,
    ) -> Result<Answer, QueryError> {
        match outcome {
            Ok(Answer::Rows(rows)) => {
                guard.running().planned();
                Ok(Answer::Rows(AnswerStream::rows(rows, names, context, guard)))
            }
            Ok(done @ Answer::Done { affected_rows, .. }) => {
                guard.running().over(affected_rows, None, None);
                self.state.lock().done(affected_rows, &context.warnings);
                Ok(done)
            }
            Err(error) => {
                let error = guard.running().reason_for(error);
                guard.running().over(0, None, Some(&error));
                self.failed(error)
            }
        }
    }

    /// What one statement of this session works with.
    pub(crate) fn context(self: &Arc<Self>, text: &Arc<str>) -> QueryContext {
        self.context_over(self.engine.base_state(), text)
    }

    fn context_over(self: &Arc<Self>, base: &SessionState, text: &Arc<str>) -> QueryContext {
        let warnings = QueryWarnings::default();
        let state = self.state.lock();
        let rights = Arc::new(SessionRights::new(Arc::clone(&self.rights), state.roles.clone()));
        let settings = state.settings.clone();
        let mut session_state = self.engine.session_state(base, &state, self.is_mysql(), &warnings);
        drop(state);
        let config = session_state.config_mut();
        config.set_extension(Arc::clone(&rights));
        config.set_extension(Arc::new(SessionViews::new(Arc::downgrade(self))));
        self.context_with(text, settings, Arc::new(session_state), rights, warnings)
    }

    fn context_with(
        self: &Arc<Self>,
        text: &Arc<str>,
        settings: Settings,
        session_state: Arc<SessionState>,
        rights: Arc<SessionRights>,
        warnings: QueryWarnings,
    ) -> QueryContext {
        let limit_ms = settings.max_execution_time;
        let deadline = (limit_ms > 0).then(|| Instant::now() + Duration::from_millis(limit_ms));
        let query = self.engine.next_query();
        QueryContext {
            engine: Arc::clone(&self.engine),
            query,
            activity: Arc::new(Activity::new(query)),
            settings,
            session_state,
            deadline,
            cancel: CancellationToken::new(),
            warnings,
            stats: Arc::default(),
            rights,
            upload: None,
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
        let (statement, (mut parameters, columns)) =
            match planning::apart(context.cancel.clone(), sql.len(), work).await {
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
        self.run_with(&prepared.shared_text(), || prepared.statement(), &parameters, None).await
    }

    /// Makes a database the current one, under the name that it was created by.
    pub async fn use_database(&self, name: &str) -> Result<(), QueryError> {
        if let Err(error) = self.catch_up(None).await {
            return self.failed(error);
        }
        match self.engine.catalog().database_name(name) {
            Ok(name) => match self.rights().need_use(&name) {
                Ok(()) => {
                    self.state.lock().database = Some(name);
                    Ok(())
                }
                Err(error) => self.failed(error.into()),
            },
            // Who may not go there is not told whether it is there.
            Err(_) => match self.rights().need_use(name) {
                Ok(()) => self.failed(QueryError::DatabaseNotFound { name: name.to_owned() }),
                Err(error) => self.failed(error.into()),
            },
        }
    }

    /// Waits until this process knows every definition that was acknowledged before, unless the session makes do with
    /// less.
    ///
    /// Errs when that takes too long, as it does without a majority of coordinators.
    pub(crate) async fn catch_up(&self, deadline: Option<Instant>) -> Result<(), QueryError> {
        if self.with_state(|state| state.settings.metadata_reads) == MetadataReads::Local {
            return Ok(());
        }
        let left = deadline.map_or(TIMEOUT, |it| it.saturating_duration_since(Instant::now()));
        let read = self.engine.definitions().read(left.min(TIMEOUT)).await;
        read.map(|_| ()).map_err(|error| QueryError::from_classified(&error))
    }

    /// The same for what has to be done without a majority too, such as `KILL`: goes on with what this process knows
    /// once that took longer than an election.
    pub(crate) async fn catch_up_if_possible(&self, deadline: Option<Instant>) {
        self.catch_up_for(ELECTION, deadline).await;
    }

    /// The same for a query of tables: in full, or for so long as is enough for what shows the cluster itself (see
    /// [`crate::system::wait_to_show`]).
    pub(crate) async fn catch_up_to_read(
        &self,
        wait: Option<Duration>,
        deadline: Option<Instant>,
    ) -> Result<(), QueryError> {
        match wait {
            Some(wait) => {
                self.catch_up_for(wait, deadline).await;
                Ok(())
            }
            None => self.catch_up(deadline).await,
        }
    }

    async fn catch_up_for(&self, wait: Duration, deadline: Option<Instant>) {
        let end = Instant::now() + wait;
        let deadline = deadline.map_or(end, |it| it.min(end));
        if let Err(error) = self.catch_up(Some(deadline)).await {
            tracing::warn!(%error, "goes on with accounts and definitions that may be behind");
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

    /// The client is a person at a keyboard: it may idle for `interactive_timeout`, as `wait_timeout` says from now on.
    pub fn set_interactive(&self) {
        let mut state = self.state.lock();
        let globals = self.engine.globals();
        if let Some(limit) = globals.variables.get("interactive_timeout") {
            // A number that the variable holds itself: it cannot be refused.
            let _ = state.variables.set("wait_timeout", Some(&limit), Some(&globals.variables));
        }
    }

    /// What the client said it speaks when it logged in, by MySQL's number. Of those that are no UTF-8 nothing is kept:
    /// texts are sent in UTF-8 whatever a client says, and the session's variables tell so.
    pub fn set_login_collation(&self, number: u16) {
        let mut state = self.state.lock();
        state.login_collation = number;
        state.variables.set_collation(number);
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

    /// Ends another session, if this one may.
    pub async fn kill_other(&self, connection_id: u64, query_only: bool) -> Result<(), QueryError> {
        let killed = processes::kill_for(&self.engine, &self.rights(), connection_id, query_only).await;
        killed.or_else(|error| self.failed(error))
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

    /// The client idles: lets go of what only makes its next statements quicker.
    pub fn rest(&self) {
        self.plans.clear();
    }

    /// As if the client had just connected, but for its user and database: `COM_RESET_CONNECTION`.
    pub fn reset(&self) {
        self.cancel();
        self.plans.clear();
        let globals = self.engine.globals();
        let mut state = self.state.lock();
        let database = state.database.take();
        let collation = state.login_collation;
        *state = State::new(globals.variables, globals.settings, database);
        state.login_collation = collation;
        state.variables.set_collation(collation);
        state.roles = first_roles(&self.engine, self.identity());
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

    pub(crate) fn note(&self, code: ErrorCode, message: impl Into<String>) {
        self.state.lock().warn(Level::Note, code.numbers().mysql, message.into());
    }

    pub fn warn(&self, code: ErrorCode, message: impl Into<String>) {
        self.state.lock().warn(Level::Warning, code.numbers().mysql, message.into());
    }
}

/// The roles that are on when a session begins.
fn first_roles(engine: &Engine, identity: &Identity) -> BTreeSet<AccountName> {
    let Identity::Account(name) = identity else { return BTreeSet::new() };
    let accounts = engine.access().accounts();
    let Some(account) = accounts.get(name) else { return BTreeSet::new() };
    match engine.globals().variables.is_on("activate_all_roles_on_login") {
        true => account.roles.keys().cloned().collect(),
        false => account.default_roles.clone(),
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
