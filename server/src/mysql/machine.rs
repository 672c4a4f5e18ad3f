//! opensrv's protocol machine, run without a socket: packets go in, its requests come out.
//!
//! It reads the login, tells commands apart and keeps what prepared statements need (bound types, parameter values). What it
//! would write after the login is dropped: its error table ends at 1885, it loses the "more results" flag for clients
//! without EOF packets, and announces every column as text of one length, so [`super::packet`] writes the replies.
//!
//! It gets one command at a time, never a byte of the next: it hands out slices of a buffer that it then frees when more
//! bytes are in it. It panics on malformed parameters; the panic is caught and ends the connection.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use datafusion::common::ScalarValue;
use opensrv_mysql::{
    AsyncMysqlIntermediary, AsyncMysqlShim, Column as OpensrvColumn, ColumnFlags, ColumnType, InitWriter,
    IntermediaryOptions, ParamParser, QueryResultWriter, StatementMetaWriter,
};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::packet::PacketBuffer;
use super::parameter::{self, ParameterError};

pub const AUTH_PLUGIN: &str = "mysql_native_password";
pub const SALT_BYTES: usize = 20;

/// What the machine wants answered. It stands still until it is told the [`Outcome`].
#[derive(Debug, PartialEq)]
pub enum Request {
    Query(String),
    UseDatabase(String),
    Prepare(String),
    Execute { statement: u32, parameters: Result<Vec<ScalarValue>, ParameterError> },
}

/// How a request was answered, as far as the machine has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    Prepared { statement: u32, n_parameters: u16 },
}

/// Why the machine stopped for good.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("{0}")]
    Protocol(#[from] io::Error),
    #[error("protocol layer panicked: {0}")]
    Panic(String),
    #[error("protocol layer ended")]
    Ended,
}

/// What a machine is started with.
#[derive(Debug, Clone)]
pub struct Greeting {
    pub version: String,
    pub connection_id: u32,
    pub salt: [u8; SALT_BYTES],
    /// Whether this peer may log in at all.
    pub admits: bool,
}

/// A user name and whether a password came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub with_password: bool,
}

/// What the machine and its driver share. Never locked while the machine is polled.
#[derive(Default)]
struct Wire {
    inbound: Vec<u8>,
    n_read: usize,
    outbound: Vec<u8>,
    drops_output: bool,
    /// The client knows plugins, so it can be told to use another.
    switches_plugin: bool,
    credentials: Option<Credentials>,
    request: Option<Request>,
    outcome: Option<Outcome>,
}

type SharedWire = Arc<Mutex<Wire>>;

pub struct Machine {
    wire: SharedWire,
    /// None once it ended or panicked.
    run: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send>>>,
}

impl Machine {
    pub fn new(greeting: Greeting) -> Self {
        let wire = SharedWire::default();
        let shim = Shim { wire: Arc::clone(&wire), greeting };
        let (source, sink) = (Source(Arc::clone(&wire)), Sink(Arc::clone(&wire)));
        let run = async move {
            let options = IntermediaryOptions {
                process_use_statement_on_query: true,
                reject_connection_on_dbname_absence: false,
            };
            AsyncMysqlIntermediary::run_with_options(shim, source, sink, &options).await
        };
        Self { wire, run: Some(Box::pin(run)) }
    }

    /// Runs until the machine asks for something (`Some`) or wants another packet (`None`).
    ///
    /// Nothing that it waits for needs a waker: it reads from memory, writes to memory, or waits for [`Self::answer`].
    pub fn advance(&mut self) -> Result<Option<Request>, MachineError> {
        let run = self.run.as_mut().ok_or(MachineError::Ended)?;
        let polled = catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(&mut Context::from_waker(Waker::noop()))));
        let error = match polled {
            Ok(Poll::Pending) => return Ok(self.wire.lock().request.take()),
            Ok(Poll::Ready(Ok(()))) => MachineError::Ended,
            Ok(Poll::Ready(Err(error))) => MachineError::Protocol(error),
            Err(panic) => MachineError::Panic(panic_message(panic.as_ref())),
        };
        self.run = None;
        Err(error)
    }

    /// Gives it one packet. It must have taken the one before.
    pub fn feed(&mut self, sequence: u8, payload: &[u8]) {
        let mut framed = PacketBuffer::default();
        framed.set_sequence(sequence);
        framed.packet(payload);
        let mut wire = self.wire.lock();
        debug_assert_eq!(wire.n_read, wire.inbound.len(), "two commands at once");
        wire.inbound.clear();
        wire.inbound.extend_from_slice(framed.as_bytes());
        wire.n_read = 0;
    }

    /// Lets it go on after a request.
    pub fn answer(&mut self, outcome: Outcome) {
        self.wire.lock().outcome = Some(outcome);
    }

    /// The packets that it wrote since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.wire.lock().outbound)
    }

    /// From now on its output is dropped.
    pub fn drop_output(&mut self) {
        let mut wire = self.wire.lock();
        wire.drops_output = true;
        wire.outbound = Vec::new();
    }

    pub fn set_switches_plugin(&mut self, can: bool) {
        self.wire.lock().switches_plugin = can;
    }

    /// Who the client says it is, once it got that far.
    pub fn credentials(&self) -> Option<Credentials> {
        self.wire.lock().credentials.clone()
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// What the machine reads from. Empty means pending: an end would be taken for the client's.
struct Source(SharedWire);

impl AsyncRead for Source {
    fn poll_read(self: Pin<&mut Self>, _cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.0.lock();
        let unread = &wire.inbound[wire.n_read..];
        if unread.is_empty() {
            return Poll::Pending;
        }
        let n_bytes = unread.len().min(buffer.remaining());
        buffer.put_slice(&unread[..n_bytes]);
        wire.n_read += n_bytes;
        if wire.n_read == wire.inbound.len() {
            // Memory that one very large command took is given back.
            const KEEP_BYTES: usize = 64 << 10;
            wire.inbound.clear();
            wire.inbound.shrink_to(KEEP_BYTES);
            wire.n_read = 0;
        }
        Poll::Ready(Ok(()))
    }
}

/// What the machine writes to.
struct Sink(SharedWire);

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut wire = self.0.lock();
        if !wire.drops_output {
            wire.outbound.extend_from_slice(bytes);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.0.lock();
        if !wire.drops_output {
            parts.iter().for_each(|part| wire.outbound.extend_from_slice(part));
        }
        Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Turns opensrv's callbacks into requests.
struct Shim {
    wire: SharedWire,
    greeting: Greeting,
}

impl Shim {
    async fn ask(&self, request: Request) -> Outcome {
        self.wire.lock().request = Some(request);
        poll_fn(|_| self.wire.lock().outcome.take().map_or(Poll::Pending, Poll::Ready)).await
    }
}

#[async_trait]
impl AsyncMysqlShim<Sink> for Shim {
    type Error = io::Error;

    fn version(&self) -> String {
        self.greeting.version.clone()
    }

    fn connect_id(&self) -> u32 {
        self.greeting.connection_id
    }

    fn default_auth_plugin(&self) -> &str {
        AUTH_PLUGIN
    }

    async fn auth_plugin_for_username(&self, _user: &[u8]) -> &str {
        // The empty name keeps opensrv from asking a client to switch that knows no plugins.
        if self.wire.lock().switches_plugin { AUTH_PLUGIN } else { "" }
    }

    fn salt(&self) -> [u8; SALT_BYTES] {
        self.greeting.salt
    }

    async fn authenticate(&self, _plugin: &str, username: &[u8], _salt: &[u8], auth_data: &[u8]) -> bool {
        let user = String::from_utf8_lossy(username).into_owned();
        self.wire.lock().credentials = Some(Credentials { user, with_password: !auth_data.is_empty() });
        self.greeting.admits
    }

    async fn on_prepare<'a>(&'a mut self, query: &'a str, info: StatementMetaWriter<'a, Sink>) -> io::Result<()> {
        match self.ask(Request::Prepare(query.to_owned())).await {
            Outcome::Answered => Ok(()),
            // The client has its reply already; this is how opensrv learns of the statement.
            Outcome::Prepared { statement, n_parameters } => {
                let parameter = OpensrvColumn {
                    table: String::new(),
                    column: String::new(),
                    coltype: ColumnType::MYSQL_TYPE_VAR_STRING,
                    colflags: ColumnFlags::empty(),
                };
                let parameters = vec![parameter; usize::from(n_parameters)];
                info.reply(statement, &parameters, &[]).await
            }
        }
    }

    async fn on_execute<'a>(
        &'a mut self,
        statement: u32,
        parameters: ParamParser<'a>,
        _results: QueryResultWriter<'a, Sink>,
    ) -> io::Result<()> {
        let scalars = parameters.into_iter().zip(1..).map(|(parameter, index)| parameter::scalar(parameter, index));
        let parameters = scalars.collect();
        self.ask(Request::Execute { statement, parameters }).await;
        Ok(())
    }

    async fn on_close<'a>(&'a mut self, _statement: u32)
    where
        Sink: 'async_trait,
    {
    }

    async fn on_query<'a>(&'a mut self, query: &'a str, _results: QueryResultWriter<'a, Sink>) -> io::Result<()> {
        self.ask(Request::Query(query.to_owned())).await;
        Ok(())
    }

    async fn on_init<'a>(&'a mut self, database: &'a str, _reply: InitWriter<'a, Sink>) -> io::Result<()> {
        self.ask(Request::UseDatabase(database.to_owned())).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Capabilities 4.1, secure connection, plugins; then packet size, character set, user, no password, plugin.
    fn handshake(user: &[u8]) -> Vec<u8> {
        let mut payload = 0x0008_8200u32.to_le_bytes().to_vec();
        payload.extend_from_slice(&[0, 0, 0, 1, 45]);
        payload.extend_from_slice(&[0; 23]);
        payload.extend_from_slice(user);
        payload.extend_from_slice(b"\0\0mysql_native_password\0");
        payload
    }

    fn started(admits: bool) -> Machine {
        let greeting = Greeting { version: "8".into(), connection_id: 1, salt: [b'a'; SALT_BYTES], admits };
        let mut machine = Machine::new(greeting);
        assert_eq!(machine.advance().unwrap(), None);
        machine
    }

    fn logged_in() -> Machine {
        let mut machine = started(true);
        machine.feed(1, &handshake(b"root"));
        assert_eq!(machine.advance().unwrap(), None);
        assert_eq!(machine.credentials(), Some(Credentials { user: "root".into(), with_password: false }));
        machine.drop_output();
        machine
    }

    fn execute(statement: u32, rest: &[u8]) -> Vec<u8> {
        let mut payload = vec![0x17];
        payload.extend_from_slice(&statement.to_le_bytes());
        payload.extend_from_slice(&[0, 1, 0, 0, 0]);
        payload.extend_from_slice(rest);
        payload
    }

    fn prepared(n_parameters: u16) -> Machine {
        let mut machine = logged_in();
        machine.feed(0, b"\x16SELECT ?");
        assert_eq!(machine.advance().unwrap(), Some(Request::Prepare("SELECT ?".into())));
        machine.answer(Outcome::Prepared { statement: 9, n_parameters });
        assert_eq!(machine.advance().unwrap(), None);
        machine
    }

    #[test]
    fn queries_come_through_one_after_another() {
        let mut machine = logged_in();
        for text in ["SELECT 1", "USE tpch", "select @@version"] {
            machine.feed(0, format!("\x03{text}").as_bytes());
            assert_eq!(machine.advance().unwrap(), Some(Request::Query(text.into())));
            machine.answer(Outcome::Answered);
            assert_eq!(machine.advance().unwrap(), None);
        }
        assert!(machine.take_output().is_empty());
    }

    #[test]
    fn a_command_of_several_packets_comes_through() {
        let mut machine = logged_in();
        let text = format!("SELECT '{}'", "x".repeat(0xFF_FFFF));
        machine.feed(0, format!("\x03{text}").as_bytes());
        assert_eq!(machine.advance().unwrap(), Some(Request::Query(text)));
    }

    #[test]
    fn parameters_are_read() {
        let mut machine = prepared(2);
        machine.feed(0, &execute(9, &[0b10, 1, 8, 0, 253, 0, 5, 0, 0, 0, 0, 0, 0, 0]));
        let parameters = vec![ScalarValue::Int64(Some(5)), ScalarValue::Null];
        let expected = Request::Execute { statement: 9, parameters: Ok(parameters) };
        assert_eq!(machine.advance().unwrap(), Some(expected));
        machine.answer(Outcome::Answered);
        assert_eq!(machine.advance().unwrap(), None);
    }

    #[test]
    fn long_data_is_a_parameter() {
        let mut machine = prepared(1);
        for part in [&b"\x18\x09\0\0\0\0\0ab"[..], b"\x18\x09\0\0\0\0\0cd"] {
            machine.feed(0, part);
            assert_eq!(machine.advance().unwrap(), None);
        }
        machine.feed(0, &execute(9, &[0, 1, 252, 0]));
        let parameters = vec![ScalarValue::Binary(Some(b"abcd".to_vec()))];
        let expected = Request::Execute { statement: 9, parameters: Ok(parameters) };
        assert_eq!(machine.advance().unwrap(), Some(expected));
    }

    #[test]
    fn malformed_parameters_end_the_machine_and_nothing_else() {
        for rest in [&[][..], &[0, 1], &[0, 1, 0x77, 0], &[0, 0], &[0, 1, 8, 0, 1]] {
            let mut machine = prepared(1);
            machine.feed(0, &execute(9, rest));
            assert!(matches!(machine.advance(), Err(MachineError::Panic(_))), "{rest:?}");
            assert!(matches!(machine.advance(), Err(MachineError::Ended)));
        }
    }

    #[test]
    fn a_peer_that_is_not_admitted_is_refused() {
        let mut machine = started(false);
        machine.feed(1, &handshake(b"eve"));
        assert!(matches!(machine.advance(), Err(MachineError::Protocol(_))));
        assert_eq!(machine.credentials().unwrap().user, "eve");
    }

    #[test]
    fn garbage_instead_of_a_login_is_an_error() {
        for payload in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0xFF; 40]] {
            let mut machine = started(true);
            machine.feed(1, payload);
            assert!(machine.advance().is_err(), "{payload:?}");
            assert_eq!(machine.credentials(), None);
        }
    }
}
