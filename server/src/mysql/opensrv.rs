//! [`Connection`] over a TCP socket, with opensrv's machine for the login and for what commands mean.
//!
//! Commands that opensrv answers wrongly or not at all never reach it: it says OK to every command that it does not know, and
//! ends the connection over an unknown statement id or a query that is not UTF-8. Parameters always reach it with their
//! types: where a client leaves them out, as it may from the second execution on, it takes a byte too many for the values.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::column::{CHARSET_UTF8MB4, Column};
use super::connection::{Command, Connection, ConnectionError, Login};
use super::machine::{AUTH_PLUGIN, Greeting, Machine, MachineError, Outcome, Request, SALT_BYTES};
use super::packet::{ErrorReply, PacketBuffer, capability, status, take_bytes, take_until_zero};
use super::read_ahead::{End, Packet, ReadAhead};

/// A login has no use for more, and whoever sends it is nobody yet.
const LOGIN_PACKET_BYTES_MAX: usize = 64 << 10;

mod command {
    pub const QUIT: u8 = 0x01;
    pub const INIT_DB: u8 = 0x02;
    pub const QUERY: u8 = 0x03;
    pub const FIELD_LIST: u8 = 0x04;
    pub const STATISTICS: u8 = 0x09;
    pub const PROCESS_KILL: u8 = 0x0C;
    pub const PING: u8 = 0x0E;
    pub const CHANGE_USER: u8 = 0x11;
    pub const STMT_PREPARE: u8 = 0x16;
    pub const STMT_EXECUTE: u8 = 0x17;
    pub const STMT_SEND_LONG_DATA: u8 = 0x18;
    pub const STMT_CLOSE: u8 = 0x19;
    pub const STMT_RESET: u8 = 0x1A;
    pub const SET_OPTION: u8 = 0x1B;
    pub const STMT_FETCH: u8 = 0x1C;
    pub const RESET_CONNECTION: u8 = 0x1F;
}

/// What a connection is made with.
#[derive(Debug, Clone)]
pub struct ConnectionOptions {
    pub version: String,
    pub connection_id: u32,
    /// Whether this peer may log in at all.
    pub admits: bool,
    pub login_timeout: Duration,
    pub max_allowed_packet: usize,
}

pub struct OpensrvConnection {
    options: ConnectionOptions,
    salt: [u8; SALT_BYTES],
    packets: ReadAhead,
    socket: OwnedWriteHalf,
    write_timeout: Duration,
    buffer: PacketBuffer,
    machine: Machine,
    /// The machine waits to hear how its request was answered.
    outcome: Option<Outcome>,
    capabilities: u32,
    statements: HashMap<u32, Prepared>,
    /// A write was given up midway, so whatever follows would be read as its rest.
    cut: bool,
}

/// What has to be known of a prepared statement to read its executions.
#[derive(Default)]
struct Prepared {
    n_parameters: u16,
    /// As the client bound them last, two bytes each.
    types: Vec<u8>,
    /// Long parameter values, held back until the statement is executed: opensrv cannot forget them again.
    long_data: Vec<Vec<u8>>,
    long_data_bytes: usize,
}

impl Prepared {
    fn forget_long_data(&mut self) {
        self.long_data = Vec::new();
        self.long_data_bytes = 0;
    }

    /// The execution with its types in it. None if it is too short, or its types were never said.
    fn with_types(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        // The command, the statement's id, flags, an iteration count.
        const PREFIX_BYTES: usize = 1 + 4 + 1 + 4;
        let n_parameters = usize::from(self.n_parameters);
        if n_parameters == 0 {
            return (payload.len() >= PREFIX_BYTES).then(|| payload[..PREFIX_BYTES].to_vec());
        }
        let mut rest = payload;
        let before = take_bytes(&mut rest, PREFIX_BYTES + n_parameters.div_ceil(8))?;
        if take_bytes(&mut rest, 1)?[0] != 0 {
            self.types = take_bytes(&mut rest, 2 * n_parameters)?.to_vec();
        }
        (self.types.len() == 2 * n_parameters).then(|| [before, &[1], &self.types, rest].concat())
    }
}

impl OpensrvConnection {
    pub fn new(stream: TcpStream, options: ConnectionOptions) -> Self {
        let salt = salt();
        let machine = Machine::new(Greeting {
            version: options.version.clone(),
            connection_id: options.connection_id,
            salt,
            admits: options.admits,
        });
        let (read, socket) = stream.into_split();
        Self {
            salt,
            packets: ReadAhead::start(read, LOGIN_PACKET_BYTES_MAX),
            socket,
            write_timeout: options.login_timeout,
            options,
            buffer: PacketBuffer::default(),
            machine,
            outcome: None,
            capabilities: 0,
            statements: HashMap::new(),
            cut: false,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        write(&mut self.socket, bytes, self.write_timeout).await
    }

    fn advance(&mut self) -> Result<Option<Request>, ConnectionError> {
        self.machine.advance().map_err(machine_failed)
    }

    /// Gives the machine one command; what it then asks for, if anything.
    fn feed(&mut self, payload: &[u8]) -> Result<Option<Request>, ConnectionError> {
        self.machine.feed(0, payload);
        self.advance()
    }

    /// The command in a packet; None if it has no reply and nobody has to know of it.
    async fn command(&mut self, packet: Packet) -> Result<Option<Command>, ConnectionError> {
        let Some((code, body)) = packet.payload.split_first() else {
            return Ok(Some(refused(1047, "08S01", "unknown command: the packet is empty")));
        };
        let code = *code;
        let statement = body.first_chunk().map(|id| u32::from_le_bytes(*id));
        Ok(Some(match code {
            command::QUIT => Command::Quit,
            command::PING => Command::Ping,
            command::STATISTICS => Command::Statistics,
            command::QUERY | command::INIT_DB | command::STMT_PREPARE => {
                if let Err(error) = std::str::from_utf8(body) {
                    let message = format!("the text is not UTF-8 at byte {}", error.valid_up_to() + 1);
                    return Ok(Some(refused(1300, "HY000", message)));
                }
                // opensrv answers this one text itself; behind a space it is a query like any other.
                let is_special = code == command::QUERY
                    && matches!(body, b"SELECT @@max_allowed_packet" | b"select @@max_allowed_packet");
                let request =
                    if is_special { self.feed(&[&[code, b' '], body].concat())? } else { self.feed(&packet.payload)? };
                return self.requested(request).map(Some);
            }
            command::STMT_EXECUTE => match statement.filter(|id| self.statements.contains_key(id)) {
                Some(id) => return self.execute(id, &packet.payload).map(Some),
                None => unknown_statement(statement, "EXECUTE"),
            },
            command::STMT_SEND_LONG_DATA => {
                if let Some(prepared) = statement.and_then(|id| self.statements.get_mut(&id)) {
                    prepared.long_data_bytes += packet.payload.len();
                    if prepared.long_data_bytes <= self.options.max_allowed_packet {
                        prepared.long_data.push(packet.payload);
                    }
                }
                return Ok(None);
            }
            command::STMT_CLOSE => match statement {
                Some(id) => {
                    self.forget_statement(id)?;
                    Command::CloseStatement(id)
                }
                None => return Ok(None),
            },
            command::STMT_RESET => match statement.and_then(|id| Some((id, self.statements.get_mut(&id)?))) {
                Some((id, prepared)) => {
                    prepared.forget_long_data();
                    Command::ResetStatement(id)
                }
                None => unknown_statement(statement, "RESET"),
            },
            // No cursor is ever opened: a result is sent whole.
            command::STMT_FETCH => refused(1421, "HY000", "the statement has no open cursor"),
            command::FIELD_LIST => {
                let table = body.split(|byte| *byte == 0).next().unwrap_or_default();
                Command::FieldList { table: String::from_utf8_lossy(table).into_owned() }
            }
            command::PROCESS_KILL => match statement {
                Some(id) => Command::KillConnection(u64::from(id)),
                None => refused(1835, "HY000", "malformed communication packet"),
            },
            command::SET_OPTION => match body {
                [0, 0, ..] => {
                    self.capabilities |= capability::MULTI_STATEMENTS;
                    Command::SetMultiStatements(true)
                }
                [1, 0, ..] => {
                    self.capabilities &= !capability::MULTI_STATEMENTS;
                    Command::SetMultiStatements(false)
                }
                _ => refused(1047, "08S01", "unknown option"),
            },
            command::RESET_CONNECTION => {
                self.forget_statements()?;
                Command::ResetConnection
            }
            command::CHANGE_USER => return self.change_user(body).await.map(Some),
            other => refused(1047, "08S01", format!("unknown command 0x{other:02x}")),
        }))
    }

    fn requested(&mut self, request: Option<Request>) -> Result<Command, ConnectionError> {
        self.outcome = Some(Outcome::Answered);
        match request {
            Some(Request::Query(text)) => Ok(Command::Query(text)),
            Some(Request::UseDatabase(name)) => Ok(Command::UseDatabase(name)),
            Some(Request::Prepare(text)) => Ok(Command::Prepare(text)),
            Some(Request::Execute { statement, parameters }) => Ok(Command::Execute { statement, parameters }),
            None => Err(ConnectionError::Protocol("the command was not understood".to_owned())),
        }
    }

    fn execute(&mut self, statement: u32, payload: &[u8]) -> Result<Command, ConnectionError> {
        let prepared = self.statements.entry(statement).or_default();
        let long_data_bytes = prepared.long_data_bytes;
        let long_data = std::mem::take(&mut prepared.long_data);
        prepared.forget_long_data();
        let Some(payload) = prepared.with_types(payload) else {
            return Ok(refused(1210, "HY000", "incorrect arguments to EXECUTE"));
        };
        if long_data_bytes > self.options.max_allowed_packet {
            return Ok(refused(1153, "08S01", "parameters longer than 'max_allowed_packet' bytes"));
        }
        for packet in long_data {
            self.feed(&packet)?;
        }
        let request = self.feed(&payload)?;
        self.requested(request)
    }

    fn forget_statement(&mut self, statement: u32) -> Result<(), ConnectionError> {
        if self.statements.remove(&statement).is_some() {
            let mut close = vec![command::STMT_CLOSE];
            close.extend_from_slice(&statement.to_le_bytes());
            self.feed(&close)?;
        }
        Ok(())
    }

    fn forget_statements(&mut self) -> Result<(), ConnectionError> {
        let statements: Vec<u32> = self.statements.keys().copied().collect();
        statements.into_iter().try_for_each(|statement| self.forget_statement(statement))
    }

    /// `COM_CHANGE_USER`, which carries a whole login.
    async fn change_user(&mut self, body: &[u8]) -> Result<Command, ConnectionError> {
        let Some(request) = ChangeUser::parse(body, self.capabilities) else {
            return Ok(refused(1835, "HY000", "malformed communication packet"));
        };
        self.forget_statements()?;
        // A client that proves itself by another plugin waits for that plugin's next message, not for OK.
        if request.with_password && request.plugin.as_deref().is_some_and(|plugin| plugin != AUTH_PLUGIN) {
            self.buffer.auth_switch(AUTH_PLUGIN, &self.salt);
            self.flush().await?;
            let answer = timeout(self.options.login_timeout, self.packets.next()).await;
            let answer = answer.map_err(|_| ConnectionError::LoginTimeout)?.map_err(|end| self.ended(end))?;
            self.buffer.set_sequence(answer.sequence.wrapping_add(1));
        }
        Ok(Command::ChangeUser(request.login))
    }

    fn ended(&mut self, end: End) -> ConnectionError {
        match end {
            End::HangUp => ConnectionError::HangUp,
            End::TooLarge { sequence } => {
                self.buffer.set_sequence(sequence.wrapping_add(1));
                ConnectionError::PacketTooLarge
            }
        }
    }
}

#[async_trait]
impl Connection for OpensrvConnection {
    async fn login(&mut self) -> Result<Login, ConnectionError> {
        let deadline = Instant::now() + self.options.login_timeout;
        self.advance()?;
        let mut greeting = self.machine.take_output();
        amend_greeting(&mut greeting)
            .ok_or_else(|| ConnectionError::Protocol("opensrv's greeting has another form".to_owned()))?;
        self.write(&greeting).await?;
        self.buffer.set_sequence(1);

        let mut is_first = true;
        loop {
            let packet = timeout_at(deadline, self.packets.next()).await;
            let packet = packet.map_err(|_| ConnectionError::LoginTimeout)?.map_err(|end| self.ended(end))?;
            self.buffer.set_sequence(packet.sequence.wrapping_add(1));
            if is_first {
                is_first = false;
                let said = packet.payload.first_chunk().map(|bits| u32::from_le_bytes(*bits)).unwrap_or_default();
                self.capabilities = said & capability::SERVER;
                self.machine.set_switches_plugin(said & capability::PLUGIN_AUTH != 0);
            }
            self.machine.feed(packet.sequence, &packet.payload);
            let request = match self.machine.advance() {
                Ok(request) => request,
                Err(error) => {
                    return Err(match self.machine.credentials() {
                        Some(who) if !self.options.admits => {
                            ConnectionError::AccessDenied { user: who.user, with_password: who.with_password }
                        }
                        _ => machine_failed(error),
                    });
                }
            };
            let Some(who) = self.machine.credentials() else {
                // It asked the client to log in by our plugin.
                let output = self.machine.take_output();
                self.write(&output).await?;
                continue;
            };
            // Its OK lacks the status flags, so the caller says it.
            self.machine.drop_output();
            self.packets.set_packet_bytes_max(self.options.max_allowed_packet);
            let database = match request {
                Some(Request::UseDatabase(name)) => {
                    self.outcome = Some(Outcome::Answered);
                    Some(name).filter(|name| !name.is_empty())
                }
                _ => None,
            };
            return Ok(Login { user: who.user, database });
        }
    }

    async fn next(&mut self) -> Result<Command, ConnectionError> {
        if let Some(outcome) = self.outcome.take() {
            self.machine.answer(outcome);
            self.advance()?;
        }
        loop {
            let packet = match self.packets.next().await {
                Ok(packet) => packet,
                Err(end) => return Err(self.ended(end)),
            };
            self.buffer.set_sequence(packet.sequence.wrapping_add(1));
            if let Some(command) = self.command(packet).await? {
                return Ok(command);
            }
        }
    }

    fn hang_up(&self) -> CancellationToken {
        self.packets.hang_up().clone()
    }

    fn capabilities(&self) -> u32 {
        self.capabilities
    }

    fn buffer(&mut self) -> &mut PacketBuffer {
        &mut self.buffer
    }

    fn set_write_timeout(&mut self, limit: Duration) {
        self.write_timeout = limit;
    }

    async fn flush(&mut self) -> Result<(), ConnectionError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.cut {
            return Err(ConnectionError::HangUp);
        }
        self.cut = true;
        write(&mut self.socket, self.buffer.as_bytes(), self.write_timeout).await?;
        self.cut = false;
        self.buffer.clear();
        Ok(())
    }

    async fn prepared(
        &mut self,
        statement: u32,
        parameters: &[Column],
        columns: &[Column],
    ) -> Result<(), ConnectionError> {
        self.buffer.prepared(statement, parameters, columns, self.capabilities);
        let n_parameters = parameters.len() as u16;
        self.statements.insert(statement, Prepared { n_parameters, ..Prepared::default() });
        self.outcome = Some(Outcome::Prepared { statement, n_parameters });
        self.flush().await
    }
}

/// Each write that takes some bytes gets the whole time anew: a slow client is served, one that stopped is not.
async fn write(socket: &mut OwnedWriteHalf, mut bytes: &[u8], limit: Duration) -> Result<(), ConnectionError> {
    while !bytes.is_empty() {
        let written = timeout(limit, socket.write(bytes)).await.map_err(|_| ConnectionError::WriteTimeout)?;
        match written.map_err(ConnectionError::Write)? {
            0 => return Err(ConnectionError::HangUp),
            n_bytes => bytes = &bytes[n_bytes..],
        }
    }
    Ok(())
}

fn machine_failed(error: MachineError) -> ConnectionError {
    ConnectionError::Protocol(error.to_string())
}

fn refused(code: u16, sqlstate: &'static str, message: impl Into<String>) -> Command {
    Command::Refused(ErrorReply { code, sqlstate, message: message.into() })
}

fn unknown_statement(statement: Option<u32>, verb: &str) -> Command {
    match statement {
        Some(id) => refused(1243, "HY000", format!("unknown prepared statement handler ({id}) given to {verb}")),
        None => refused(1835, "HY000", "malformed communication packet"),
    }
}

/// Printable bytes, as the plugin wants them; none is zero, which would end the salt early.
fn salt() -> [u8; SALT_BYTES] {
    std::array::from_fn(|_| {
        loop {
            let byte = rand::random_range(0x21..0x7F);
            if byte != b'$' {
                break byte;
            }
        }
    })
}

/// Sets in opensrv's greeting what it leaves out: capabilities, character set and status. None if it is no greeting.
fn amend_greeting(packet: &mut [u8]) -> Option<()> {
    const HEADER_BYTES: usize = 4;
    let version_at = HEADER_BYTES + 1;
    let version_end = version_at + packet.get(version_at..)?.iter().position(|byte| *byte == 0)?;
    // The version's zero byte, the connection id, half the salt, a zero byte.
    let flags_at = version_end + 1 + 4 + 8 + 1;
    let flags: &mut [u8; 7] = packet.get_mut(flags_at..)?.first_chunk_mut()?;
    let [low0, low1, high0, high1] = capability::SERVER.to_le_bytes();
    let [status0, status1] = status::AUTOCOMMIT.to_le_bytes();
    *flags = [low0, low1, CHARSET_UTF8MB4 as u8, status0, status1, high0, high1];
    Some(())
}

/// What `COM_CHANGE_USER` says.
#[derive(Debug, PartialEq, Eq)]
struct ChangeUser {
    login: Login,
    with_password: bool,
    plugin: Option<String>,
}

impl ChangeUser {
    fn parse(mut body: &[u8], capabilities: u32) -> Option<Self> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let body = &mut body;
        let user = text(take_until_zero(body)?);
        let n_auth = if capabilities & capability::SECURE_CONNECTION != 0 {
            usize::from(take_bytes(body, 1)?[0])
        } else {
            body.iter().position(|byte| *byte == 0)? + 1
        };
        let with_password = take_bytes(body, n_auth)?.iter().any(|byte| *byte != 0);
        let database = Some(text(take_until_zero(body)?)).filter(|name| !name.is_empty());
        take_bytes(body, 2); // The character set; older clients end here.
        let plugin = (capabilities & capability::PLUGIN_AUTH != 0).then(|| take_until_zero(body).map(text)).flatten();
        Some(Self { login: Login { user, database }, with_password, plugin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_amended_in_place() {
        let greeting = Greeting { version: "8.4.0-x".into(), connection_id: 7, salt: salt(), admits: true };
        let mut machine = Machine::new(greeting);
        assert_eq!(machine.advance().unwrap(), None);
        let before = machine.take_output();
        let mut after = before.clone();
        amend_greeting(&mut after).unwrap();
        assert_eq!(before.len(), after.len());
        let flags = 4 + 1 + "8.4.0-x".len() + 1 + 4 + 8 + 1;
        assert_eq!(before[flags + 2], 0x21, "opensrv's character set, so this is the place");
        assert_eq!(after[flags + 2..flags + 5], [45, 2, 0]);
        let said = u32::from_le_bytes([after[flags], after[flags + 1], after[flags + 5], after[flags + 6]]);
        assert_eq!(said, capability::SERVER);
        assert_eq!((&before[..flags], &before[flags + 7..]), (&after[..flags], &after[flags + 7..]));
        assert_eq!(amend_greeting(&mut [0; 9]), None);
    }

    #[test]
    fn change_user_is_read() {
        let all = capability::SERVER;
        let body = b"root\0\0tpch\0\x2d\0mysql_native_password\0";
        let read = ChangeUser::parse(body, all).unwrap();
        assert_eq!(read.login, Login { user: "root".into(), database: Some("tpch".into()) });
        assert_eq!((read.with_password, read.plugin.as_deref()), (false, Some(AUTH_PLUGIN)));
        let read = ChangeUser::parse(b"u\0\x02ab\0", all).unwrap();
        assert_eq!((read.login.database, read.with_password, read.plugin), (None, true, None));
        assert_eq!(ChangeUser::parse(b"u\0\xffab\0", all), None);
        assert_eq!(ChangeUser::parse(b"u", all), None);
    }
    #[test]
    fn executions_get_the_types_of_an_earlier_one() {
        let mut prepared = Prepared { n_parameters: 2, ..Prepared::default() };
        let prefix = [0x17, 9, 0, 0, 0, 0, 1, 0, 0, 0];
        let payload = |rest: &[u8]| [&prefix[..], rest].concat();
        assert_eq!(prepared.with_types(&payload(&[0, 0, 7])), None, "no types yet");
        let first = payload(&[0b10, 1, 8, 0, 253, 0, 5]);
        assert_eq!(prepared.with_types(&first).as_deref(), Some(&first[..]));
        assert_eq!(prepared.with_types(&payload(&[0b01, 0, 7])), Some(payload(&[0b01, 1, 8, 0, 253, 0, 7])));
        for rest in [&[][..], &[0], &[0, 1, 8, 0, 253]] {
            assert_eq!(prepared.with_types(&payload(rest)), None, "{rest:?}");
        }
        let mut without = Prepared::default();
        assert_eq!(without.with_types(&prefix).as_deref(), Some(&prefix[..]));
        assert_eq!(without.with_types(&prefix[..9]), None);
    }
}
