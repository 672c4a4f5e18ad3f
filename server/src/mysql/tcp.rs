//! [`Connection`] over a TCP socket.
//!
//! Here only packets are moved: what is in them is read and written by [`super::handshake`], [`super::auth`],
//! [`super::command`], [`super::statements`] and [`super::reply`], none of which knows a socket.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::auth::{Accounts, Exchange, Proof, Refusal, Salt, Step, salt};
use super::column::Column;
use super::command::Request;
use super::connection::{Command, Connection, ConnectionError, Login};
use super::flags::capability;
use super::handshake::{ChangeUser, Greeting, HandshakeResponse};
use super::packet::{FrameError, Packet, PacketBuffer};
use super::read_ahead::{End, ReadAhead};
use super::reply::ErrorReply;
use super::statements::Statements;

/// A login has no use for more, and whoever sends it is nobody yet.
const LOGIN_PACKET_BYTES_MAX: usize = 64 << 10;

/// What a connection is made with.
#[derive(Debug, Clone)]
pub struct ConnectionOptions {
    pub version: String,
    pub connection_id: u32,
    pub peer: IpAddr,
    pub accounts: Arc<dyn Accounts>,
    pub login_timeout: Duration,
    pub max_allowed_packet: usize,
}

pub struct TcpConnection {
    options: ConnectionOptions,
    salt: Salt,
    packets: ReadAhead,
    socket: OwnedWriteHalf,
    write_timeout: Duration,
    buffer: PacketBuffer,
    statements: Statements,
    /// A write was given up midway, so whatever follows would be read as its rest.
    cut: bool,
}

impl TcpConnection {
    pub fn new(stream: TcpStream, options: ConnectionOptions) -> Self {
        let (read, socket) = stream.into_split();
        Self {
            salt: salt(),
            packets: ReadAhead::start(read, LOGIN_PACKET_BYTES_MAX),
            socket,
            write_timeout: options.login_timeout,
            buffer: PacketBuffer::default(),
            statements: Statements::new(options.max_allowed_packet),
            cut: false,
            options,
        }
    }

    /// The next packet of the client, which has to bear the number that is due. The reply's packets follow it.
    async fn receive(&mut self, sequence: u8) -> Result<Packet, ConnectionError> {
        let packet = self.packets.next().await.map_err(|end| match end {
            End::HangUp => ConnectionError::HangUp,
            End::Refused(FrameError::TooLarge { sequence }) => {
                self.buffer.set_sequence(sequence.wrapping_add(1));
                ConnectionError::PacketTooLarge
            }
            End::Refused(FrameError::OutOfOrder { sequence }) => {
                self.buffer.set_sequence(sequence.wrapping_add(1));
                ConnectionError::OutOfOrder
            }
        })?;
        self.buffer.set_sequence(packet.sequence.wrapping_add(1));
        if packet.first_sequence == sequence { Ok(packet) } else { Err(ConnectionError::OutOfOrder) }
    }

    /// The client's part of a login.
    async fn message(&mut self, deadline: Instant) -> Result<Packet, ConnectionError> {
        let sequence = self.buffer.sequence();
        timeout_at(deadline, self.receive(sequence)).await.map_err(|_| ConnectionError::LoginTimeout)?
    }

    /// Makes sure that the client is who it says.
    async fn authenticate(&mut self, user: &str, proof: &Proof, deadline: Instant) -> Result<(), ConnectionError> {
        let verifier = self.options.accounts.verifier(user, self.options.peer);
        let judgement = match Exchange::begin(verifier, self.salt, proof) {
            Step::Judged(judgement) => judgement,
            Step::Ask { question, exchange } => {
                self.buffer.packet(|out| out.extend_from_slice(&question));
                self.flush().await?;
                exchange.judge(&self.message(deadline).await?.payload)
            }
        };
        let (user, host) = (user.to_owned(), self.options.peer);
        match judgement {
            Ok(before_ok) => {
                if let Some(before_ok) = before_ok {
                    self.buffer.packet(|out| out.extend_from_slice(before_ok));
                }
                Ok(())
            }
            Err(Refusal::AccessDenied { with_password }) => {
                Err(ConnectionError::AccessDenied { user, host, with_password })
            }
            Err(Refusal::PluginNotSpoken) => Err(ConnectionError::PluginNotSpoken { user, host }),
        }
    }

    /// What the session has to do; None if it has nothing to do and the client waits for nothing.
    async fn command(&mut self, payload: &[u8]) -> Result<Option<Command>, ConnectionError> {
        let request = match Request::decode(payload) {
            Ok(request) => request,
            Err(error) => return Ok(Some(Command::Refused(error))),
        };
        Ok(Some(match request {
            Request::Quit => Command::Quit,
            Request::UseDatabase(name) => Command::UseDatabase(name.to_owned()),
            Request::Query(text) => Command::Query(text.to_owned()),
            Request::FieldList { table, pattern } => {
                Command::FieldList { table: table.to_owned(), pattern: pattern.to_owned() }
            }
            Request::Statistics => Command::Statistics,
            Request::KillConnection(id) => Command::KillConnection(u64::from(id)),
            Request::Ping => Command::Ping,
            Request::ChangeUser(body) => return self.change_user(body).await.map(Some),
            Request::Prepare(text) => Command::Prepare(text.to_owned()),
            Request::Execute(body) => match self.statements.execute(body) {
                Ok(execution) => Command::Execute(execution),
                Err(error) => Command::Refused(error),
            },
            Request::SendLongData(body) => {
                self.statements.send_ahead(body);
                return Ok(None);
            }
            Request::CloseStatement(statement) => {
                let Some(statement) = statement else { return Ok(None) };
                self.statements.close(statement);
                Command::CloseStatement(statement)
            }
            Request::ResetStatement(statement) => match self.statements.reset(statement) {
                Ok(()) => Command::ResetStatement(statement),
                Err(error) => Command::Refused(error),
            },
            Request::Fetch { statement, n_rows } => Command::Fetch { statement, n_rows },
            Request::SetMultiStatements(on) => {
                let others = self.buffer.capabilities & !capability::MULTI_STATEMENTS;
                self.buffer.capabilities = others | if on { capability::MULTI_STATEMENTS } else { 0 };
                Command::SetMultiStatements(on)
            }
            Request::ResetConnection => {
                self.statements.clear();
                Command::ResetConnection
            }
        }))
    }

    /// A whole login within a connection. Who fails it is sent away, as by MySQL: the old user is gone already.
    async fn change_user(&mut self, body: &[u8]) -> Result<Command, ConnectionError> {
        let Some(ChangeUser { login, proof }) = ChangeUser::decode(body, self.buffer.capabilities) else {
            return Ok(Command::Refused(ErrorReply::malformed("CHANGE_USER is too short")));
        };
        self.statements.clear();
        let deadline = Instant::now() + self.options.login_timeout;
        self.authenticate(&login.user, &proof, deadline).await?;
        Ok(Command::ChangeUser(login))
    }
}

#[async_trait]
impl Connection for TcpConnection {
    async fn login(&mut self) -> Result<Login, ConnectionError> {
        let deadline = Instant::now() + self.options.login_timeout;
        let (version, connection_id, salt) = (&self.options.version, self.options.connection_id, &self.salt);
        self.buffer.packet(|out| Greeting { version, connection_id, salt }.encode(out));
        self.flush().await?;
        let packet = self.message(deadline).await?;
        let HandshakeResponse { capabilities, login, proof } =
            HandshakeResponse::decode(&packet.payload).map_err(ConnectionError::Protocol)?;
        self.buffer.capabilities = capabilities;
        self.authenticate(&login.user, &proof, deadline).await?;
        self.packets.set_packet_bytes_max(self.options.max_allowed_packet);
        Ok(login)
    }

    async fn next(&mut self) -> Result<Command, ConnectionError> {
        loop {
            let packet = self.receive(0).await?;
            if let Some(command) = self.command(&packet.payload).await? {
                return Ok(command);
            }
        }
    }

    fn hang_up(&self) -> CancellationToken {
        self.packets.hang_up().clone()
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
        self.buffer.prepared(statement, parameters, columns);
        self.statements.insert(statement, parameters.len());
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
