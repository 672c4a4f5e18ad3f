//! What the front end asks of a protocol layer: commands in, replies out.
//!
//! The layer may be replaced: [`super::session`] and [`super::writer`] know only the trait.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::column::Column;
use super::packet::PacketBuffer;
use super::reply::{ErrorReply, Summary};
use super::statements::Execution;

/// Who logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub database: Option<String>,
}

/// What a client asks for. Each but [`Command::CloseStatement`] and [`Command::Quit`] gets an answer.
#[derive(Debug, PartialEq)]
pub enum Command {
    Query(String),
    UseDatabase(String),
    Prepare(String),
    /// Ends the cursor that the statement had.
    Execute(Execution),
    /// The next rows of a statement's cursor.
    Fetch {
        statement: u32,
        n_rows: u32,
    },
    /// No reply.
    CloseStatement(u32),
    /// Its cursor is closed.
    ResetStatement(u32),
    /// The columns of a table, those that are `LIKE` the pattern; all if it is empty.
    FieldList {
        table: String,
        pattern: String,
    },
    Ping,
    Statistics,
    SetMultiStatements(bool),
    /// As if the client had connected anew. Its prepared statements are gone.
    ResetConnection,
    ChangeUser(Login),
    KillConnection(u64),
    /// No reply; the connection ends.
    Quit,
    /// The layer can read the command, but it cannot be run: the error is the whole answer.
    Refused(ErrorReply),
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("client hung up")]
    HangUp,
    #[error("client sent a packet larger than max_allowed_packet")]
    PacketTooLarge,
    #[error("client sent packets out of order")]
    OutOfOrder,
    #[error("client did not log in in time")]
    LoginTimeout,
    #[error("client did not take its result in time")]
    WriteTimeout,
    #[error("access denied for user '{user}'@'{host}' (using password: {})", if *.with_password { "YES" } else { "NO" })]
    AccessDenied { user: String, host: IpAddr, with_password: bool },
    #[error("user '{user}'@'{host}' logs in by a plugin that the client does not know; it needs a newer client")]
    PluginNotSpoken { user: String, host: IpAddr },
    /// Bytes that are not the MySQL protocol.
    #[error("bad packet: {0}")]
    Protocol(&'static str),
    #[error("cannot write to client")]
    Write(#[source] std::io::Error),
}

impl ConnectionError {
    /// The last words to the client, where there is any use in them.
    pub fn farewell(&self) -> Option<ErrorReply> {
        let (code, sqlstate) = match self {
            Self::HangUp | Self::WriteTimeout | Self::Write(_) => return None,
            Self::PacketTooLarge => (1153, "08S01"),
            Self::LoginTimeout => (1159, "08S01"),
            Self::OutOfOrder => (1156, "08S01"),
            Self::AccessDenied { .. } => (1045, "28000"),
            Self::PluginNotSpoken { .. } => (1251, "08004"),
            Self::Protocol(what) => return Some(ErrorReply::malformed(what)),
        };
        let message = match self {
            Self::PacketTooLarge => "got a packet bigger than 'max_allowed_packet' bytes".to_owned(),
            Self::OutOfOrder => "got packets out of order".to_owned(),
            other => other.to_string(),
        };
        Some(ErrorReply { code, sqlstate, message })
    }
}

/// One client's conversation. A reply is on its way to the client when its method returns.
#[async_trait]
pub trait Connection: Send {
    /// Greets the client and makes sure who it is. The caller then answers with [`Self::ok`] or [`Self::error`].
    async fn login(&mut self) -> Result<Login, ConnectionError>;

    /// The next command. Dropping the future before it is ready loses none, but for a change of user.
    async fn next(&mut self) -> Result<Command, ConnectionError>;

    /// Cancelled when the client is seen to be gone, also while a command is being answered.
    fn hang_up(&self) -> CancellationToken;

    /// Replies that are encoded but not sent, and what was agreed on for their encoding: rows are appended here, between
    /// [`PacketBuffer::columns`] and [`PacketBuffer::end_of_rows`].
    fn buffer(&mut self) -> &mut PacketBuffer;

    /// How long one write may wait for the client to read.
    fn set_write_timeout(&mut self, limit: Duration);

    /// Sends what [`Self::buffer`] holds. Waits while the client does not read, up to the limit. Dropping the future midway
    /// leaves a reply cut: nothing can be sent after it.
    async fn flush(&mut self) -> Result<(), ConnectionError>;

    /// Answers [`Command::Prepare`]: makes the statement known under this id.
    async fn prepared(
        &mut self,
        statement: u32,
        parameters: &[Column],
        columns: &[Column],
    ) -> Result<(), ConnectionError>;

    async fn ok(&mut self, summary: &Summary) -> Result<(), ConnectionError> {
        self.buffer().ok(summary);
        self.flush().await
    }

    /// Ends the answer to a command, also one of which rows were already sent.
    async fn error(&mut self, error: &ErrorReply) -> Result<(), ConnectionError> {
        self.buffer().error(error);
        self.flush().await
    }
}
