//! What the front end asks of a protocol layer: commands in, replies out.
//!
//! The layer may be replaced: [`super::session`] and [`super::writer`] know only the trait.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use sheaf_query::Identity;
use tokio_util::sync::CancellationToken;

use super::column::Column;
use super::packet::PacketBuffer;
use super::reply::{ErrorReply, Summary};
use super::socket::Encryption;
use super::statements::Execution;

/// Who a client says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub database: Option<String>,
    /// The number of the collation that the client speaks; 0 is none.
    pub collation: u16,
}

/// Somebody who proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    pub login: Login,
    pub identity: Identity,
    /// None in the clear.
    pub encryption: Option<Encryption>,
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
    ChangeUser(Admitted),
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
    #[error("client did not send its file in time")]
    ReadTimeout,
    #[error("client did not take its result in time")]
    WriteTimeout,
    #[error("access denied for user '{user}'@'{host}' (using password: {})", if *.with_password { "YES" } else { "NO" })]
    AccessDenied { user: String, host: IpAddr, with_password: bool },
    #[error("user '{user}'@'{host}' logs in by a plugin that the client does not know; it needs a newer client")]
    PluginNotSpoken { user: String, host: IpAddr },
    #[error("connections using insecure transport are prohibited while --require_secure_transport=ON")]
    InsecureTransport,
    #[error("cannot go over to TLS")]
    Tls(#[source] std::io::Error),
    #[error("access denied for user '{user}'@'{host}'. Account is locked.")]
    Locked { user: String, host: IpAddr },
    #[error(
        "the server is currently in offline mode: no majority of the coordinators confirms that '{user}'@'{host}' may log \
         in, and it has neither CONNECTION_ADMIN nor SUPER; try another coordinator, or again later"
    )]
    Offline { user: String, host: IpAddr },
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
            Self::HangUp | Self::WriteTimeout | Self::Write(_) | Self::Tls(_) => return None,
            Self::PacketTooLarge => (1153, "08S01"),
            Self::LoginTimeout | Self::ReadTimeout => (1159, "08S01"),
            Self::OutOfOrder => (1156, "08S01"),
            Self::AccessDenied { .. } => (1045, "28000"),
            Self::PluginNotSpoken { .. } => (1251, "08004"),
            Self::Locked { .. } => (3118, "HY000"),
            Self::Offline { .. } => (3032, "HY000"),
            Self::InsecureTransport => (3159, "HY000"),
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
    async fn login(&mut self) -> Result<Admitted, ConnectionError>;

    /// The next command. Dropping the future before it is ready loses none, but for a change of user.
    async fn next(&mut self) -> Result<Command, ConnectionError>;

    /// Cancelled when the client is seen to be gone, also while a command is being answered.
    fn hang_up(&self) -> CancellationToken;

    /// Replies that are encoded but not sent, and what was agreed on for their encoding: rows are appended here, between
    /// [`PacketBuffer::columns`] and [`PacketBuffer::end_of_rows`].
    fn buffer(&mut self) -> &mut PacketBuffer;

    /// How long one write may wait for the client to read.
    /// Gives back what memory it can while its client idles.
    fn rest(&mut self);

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

    /// Asks the client for a file of its own, in the place of a reply. Its parts come with [`Self::file_part`].
    async fn request_file(&mut self, name: &str) -> Result<(), ConnectionError> {
        self.buffer().file_request(name);
        self.flush().await
    }

    /// The next part of the file that was asked for; none at its end. Dropping the future before it is ready loses none.
    async fn file_part(&mut self) -> Result<Option<Vec<u8>>, ConnectionError>;

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
