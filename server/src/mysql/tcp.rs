//! [`Connection`] over a TCP socket.
//!
//! Here only packets are moved: what is in them is read and written by [`super::handshake`], [`super::auth`],
//! [`super::command`], [`super::statements`] and [`super::reply`], none of which knows a socket.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sheaf_query::Identity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::auth::{Accounts, Exchange, Proof, Refusal, Salt, Step, salt};
use super::column::Column;
use super::command::Request;
use super::connection::{Admitted, Command, Connection, ConnectionError};
use super::flags::capability;
use super::handshake::{ChangeUser, Greeting, HandshakeResponse, TLS_REQUEST_BYTES, asks_for_tls};
use super::packet::{FrameError, HEADER_BYTES, Packet, PacketBuffer};
use super::read_ahead::{End, ReadAhead};
use super::reply::ErrorReply;
use super::socket::{Encryption, WriteHalf, encrypted, plain};
use super::statements::Statements;

/// A login has no use for more, and whoever sends it is nobody yet.
const LOGIN_PACKET_BYTES_MAX: usize = 64 << 10;

/// What a connection is made with.
#[derive(Clone)]
pub struct ConnectionOptions {
    pub version: String,
    pub connection_id: u32,
    pub peer: IpAddr,
    pub accounts: Arc<dyn Accounts>,
    /// What answers clients that ask for TLS; none has none.
    pub tls: Option<TlsAcceptor>,
    pub login_timeout: Duration,
    pub max_allowed_packet: usize,
}

/// A client's socket: whole until the client has said whether it wants TLS.
enum Transport {
    Whole(TcpStream),
    Open {
        packets: ReadAhead,
        socket: WriteHalf,
    },
    /// Going over to TLS failed midway.
    Gone,
}

pub struct TcpConnection {
    options: ConnectionOptions,
    salt: Salt,
    transport: Transport,
    encryption: Option<Encryption>,
    /// Cancelled when the client is seen to be gone.
    hang_up: CancellationToken,
    write_timeout: Duration,
    buffer: PacketBuffer,
    statements: Statements,
    /// A write was given up midway, so whatever follows would be read as its rest.
    cut: bool,
}

impl TcpConnection {
    pub fn new(stream: TcpStream, options: ConnectionOptions) -> Self {
        Self {
            salt: salt(),
            transport: Transport::Whole(stream),
            encryption: None,
            hang_up: CancellationToken::new(),
            write_timeout: options.login_timeout,
            buffer: PacketBuffer::default(),
            statements: Statements::new(options.max_allowed_packet),
            cut: false,
            options,
        }
    }

    /// The next packet of the client, which has to bear the number that is due. The reply's packets follow it.
    async fn receive(&mut self, sequence: u8) -> Result<Packet, ConnectionError> {
        let Transport::Open { packets, .. } = &self.transport else { return Err(ConnectionError::HangUp) };
        let packet = packets.next().await.map_err(|end| match end {
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

    /// Goes over to TLS if that is what the client asks for in the place of its login, and reads ahead from then on.
    async fn open(&mut self, deadline: Instant) -> Result<(), ConnectionError> {
        let Transport::Whole(stream) = &self.transport else { return Ok(()) };
        let wants_tls = match self.options.tls.is_some() {
            true => timeout_at(deadline, asked_for_tls(stream)).await.map_err(|_| ConnectionError::LoginTimeout)??,
            false => false,
        };
        let Transport::Whole(mut stream) = std::mem::replace(&mut self.transport, Transport::Gone) else {
            return Err(ConnectionError::HangUp);
        };
        let (read, socket) = match &self.options.tls {
            Some(acceptor) if wants_tls => {
                let mut request = [0; HEADER_BYTES + TLS_REQUEST_BYTES];
                let over = async {
                    stream.read_exact(&mut request).await?;
                    encrypted(stream, acceptor).await
                };
                let over = timeout_at(deadline, over).await.map_err(|_| ConnectionError::LoginTimeout)?;
                let (read, socket, encryption) = over.map_err(ConnectionError::Tls)?;
                self.encryption = Some(encryption);
                // The request was a packet of the exchange.
                self.buffer.set_sequence(request[HEADER_BYTES - 1].wrapping_add(1));
                (read, socket)
            }
            _ => plain(stream),
        };
        let packets = ReadAhead::start(read, LOGIN_PACKET_BYTES_MAX, self.hang_up.clone());
        self.transport = Transport::Open { packets, socket };
        Ok(())
    }

    /// The client's part of a login.
    async fn message(&mut self, deadline: Instant) -> Result<Packet, ConnectionError> {
        let sequence = self.buffer.sequence();
        timeout_at(deadline, self.receive(sequence)).await.map_err(|_| ConnectionError::LoginTimeout)?
    }

    /// Makes sure that the client is who it says.
    async fn authenticate(
        &mut self,
        user: &str,
        proof: &Proof,
        deadline: Instant,
    ) -> Result<Identity, ConnectionError> {
        let candidate = self.options.accounts.candidate(user, self.options.peer).await;
        let verifier = candidate.as_ref().map(|it| it.verifier.clone());
        let judgement = match Exchange::begin(verifier, self.salt, proof) {
            Step::Judged(judgement) => judgement,
            Step::Ask { question, exchange } => {
                self.buffer.packet(|out| out.extend_from_slice(&question));
                self.flush().await?;
                exchange.judge(&self.message(deadline).await?.payload)
            }
        };
        let (user, host) = (user.to_owned(), self.options.peer);
        match (judgement, candidate) {
            // Only who knows the password is told more than that it is not let in.
            (Ok(_), Some(candidate)) if candidate.requires_tls && self.encryption.is_none() => {
                let with_password = candidate.verifier.has_password();
                Err(ConnectionError::AccessDenied { user, host, with_password })
            }
            (Ok(_), Some(candidate)) if candidate.is_locked => Err(ConnectionError::Locked { user, host }),
            (Ok(_), Some(candidate)) if candidate.is_offline => Err(ConnectionError::Offline { user, host }),
            (Ok(before_ok), Some(candidate)) => {
                if let Some(before_ok) = before_ok {
                    self.buffer.packet(|out| out.extend_from_slice(before_ok));
                }
                Ok(candidate.identity)
            }
            (Ok(_), None) => Err(ConnectionError::AccessDenied { user, host, with_password: true }),
            (Err(Refusal::AccessDenied { with_password }), _) => {
                Err(ConnectionError::AccessDenied { user, host, with_password })
            }
            (Err(Refusal::PluginNotSpoken), _) => Err(ConnectionError::PluginNotSpoken { user, host }),
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
            Request::Query(text) => Command::Query(text.into_owned()),
            Request::FieldList { table, pattern } => {
                Command::FieldList { table: table.to_owned(), pattern: pattern.to_owned() }
            }
            Request::Statistics => Command::Statistics,
            Request::KillConnection(id) => Command::KillConnection(u64::from(id)),
            Request::Ping => Command::Ping,
            Request::ChangeUser(body) => return self.change_user(body).await.map(Some),
            Request::Prepare(text) => Command::Prepare(text.into_owned()),
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
        let identity = self.authenticate(&login.user, &proof, deadline).await?;
        Ok(Command::ChangeUser(Admitted { login, identity, encryption: self.encryption.clone() }))
    }
}

#[async_trait]
impl Connection for TcpConnection {
    async fn login(&mut self) -> Result<Admitted, ConnectionError> {
        let deadline = Instant::now() + self.options.login_timeout;
        let (version, connection_id, salt) = (&self.options.version, self.options.connection_id, &self.salt);
        let tls = if self.options.tls.is_some() { capability::TLS } else { 0 };
        let capabilities = capability::SERVER | tls;
        self.buffer.packet(|out| Greeting { version, connection_id, salt, capabilities }.encode(out));
        self.flush().await?;
        self.open(deadline).await?;
        let packet = self.message(deadline).await?;
        let HandshakeResponse { capabilities, login, proof } =
            HandshakeResponse::decode(&packet.payload).map_err(ConnectionError::Protocol)?;
        self.buffer.capabilities = capabilities;
        if self.encryption.is_none() && self.options.accounts.require_tls() {
            return Err(ConnectionError::InsecureTransport);
        }
        let identity = self.authenticate(&login.user, &proof, deadline).await?;
        if let Transport::Open { packets, .. } = &self.transport {
            packets.set_packet_bytes_max(self.options.max_allowed_packet);
        }
        Ok(Admitted { login, identity, encryption: self.encryption.clone() })
    }

    async fn next(&mut self) -> Result<Command, ConnectionError> {
        loop {
            let packet = self.receive(0).await?;
            if let Some(command) = self.command(&packet.payload).await? {
                return Ok(command);
            }
        }
    }

    async fn file_part(&mut self) -> Result<Option<Vec<u8>>, ConnectionError> {
        let sequence = self.buffer.sequence();
        let packet = self.receive(sequence).await?;
        Ok((!packet.payload.is_empty()).then_some(packet.payload))
    }

    fn hang_up(&self) -> CancellationToken {
        self.hang_up.clone()
    }

    fn buffer(&mut self) -> &mut PacketBuffer {
        &mut self.buffer
    }

    fn rest(&mut self) {
        self.buffer.rest();
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
        let (bytes, limit) = (self.buffer.as_bytes(), self.write_timeout);
        match &mut self.transport {
            Transport::Whole(stream) => {
                let written = timeout(limit, stream.write_all(bytes)).await;
                written.map_err(|_| ConnectionError::WriteTimeout)?.map_err(ConnectionError::Write)?;
            }
            Transport::Open { socket, .. } => write(socket, bytes, limit).await?,
            Transport::Gone => return Err(ConnectionError::HangUp),
        }
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
async fn write(socket: &mut WriteHalf, mut bytes: &[u8], limit: Duration) -> Result<(), ConnectionError> {
    while !bytes.is_empty() {
        let written = timeout(limit, socket.write(bytes)).await.map_err(|_| ConnectionError::WriteTimeout)?;
        match written.map_err(ConnectionError::Write)? {
            0 => return Err(ConnectionError::HangUp),
            n_bytes => bytes = &bytes[n_bytes..],
        }
    }
    let flushed = timeout(limit, socket.flush()).await.map_err(|_| ConnectionError::WriteTimeout)?;
    flushed.map_err(ConnectionError::Write)
}

/// Whether the client's first packet asks for TLS. Nothing is read: what follows a request is TLS's own.
async fn asked_for_tls(stream: &TcpStream) -> Result<bool, ConnectionError> {
    // A client that sends its first packet byte by byte is waited for.
    const PAUSE: Duration = Duration::from_millis(5);
    let mut start = [0; 8];
    loop {
        match stream.peek(&mut start).await {
            Ok(0) | Err(_) => return Err(ConnectionError::HangUp),
            Ok(n_bytes) => match asks_for_tls(&start[..n_bytes]) {
                Some(asks) => return Ok(asks),
                None => tokio::time::sleep(PAUSE).await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use sheaf_query::access::Verifier;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::super::auth::Candidate;
    use super::*;
    use crate::tls::Files;

    /// Everybody without a password; `tls` has to come under TLS.
    #[derive(Debug)]
    struct Open {
        require_tls: bool,
    }

    #[async_trait]
    impl Accounts for Open {
        async fn candidate(&self, user: &str, _peer: IpAddr) -> Option<Candidate> {
            let (identity, verifier) = (Identity::Embedder, Verifier::CachingSha2(None));
            let (is_locked, requires_tls, is_offline) = (user == "locked", user == "tls", user == "offline");
            Some(Candidate { identity, verifier, is_locked, requires_tls, is_offline })
        }

        fn require_tls(&self) -> bool {
            self.require_tls
        }
    }

    fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
        let [n0, n1, n2, _] = (payload.len() as u32).to_le_bytes();
        [&[n0, n1, n2, sequence], payload].concat()
    }

    const CAPABILITIES: u32 = capability::PROTOCOL_41 | capability::SECURE_CONNECTION | capability::PLUGIN_AUTH;

    fn head(capabilities: u32) -> Vec<u8> {
        [&capabilities.to_le_bytes()[..], &[0, 0, 0, 1, 45], &[0; 23]].concat()
    }

    fn login(user: &str, capabilities: u32) -> Vec<u8> {
        [&head(capabilities), user.as_bytes(), b"\0\0caching_sha2_password\0"].concat()
    }

    /// What a server with the accounts makes of a client that logs in so.
    async fn admitted(user: &str, with_tls: bool, require_tls: bool) -> Result<Admitted, ConnectionError> {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::of_data_dir(dir.path(), "here").unwrap();
        let options = ConnectionOptions {
            version: "8.4.0-x".into(),
            connection_id: 1,
            peer: std::net::Ipv4Addr::LOCALHOST.into(),
            accounts: Arc::new(Open { require_tls }),
            tls: Some(files.acceptor().unwrap()),
            login_timeout: Duration::from_secs(10),
            max_allowed_packet: 1 << 20,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, server) = tokio::join!(client, listener.accept());
        let (mut client, mut server) = (client.unwrap(), TcpConnection::new(server.unwrap().0, options));
        let talk = async {
            let mut header = [0; 4];
            client.read_exact(&mut header).await.unwrap();
            let mut greeting = vec![0; usize::from(header[0])];
            client.read_exact(&mut greeting).await.unwrap();
            if !with_tls {
                client.write_all(&packet(1, &login(user, CAPABILITIES))).await.unwrap();
                return;
            }
            // In two parts: what has come of it says nothing yet.
            let request = packet(1, &head(CAPABILITIES | capability::TLS));
            client.write_all(&request[..6]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            client.write_all(&request[6..]).await.unwrap();
            let mut roots = RootCertStore::empty();
            let ca = std::fs::read(dir.path().join("tls/ca.pem")).unwrap();
            roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
            let config = config.with_safe_default_protocol_versions().unwrap();
            let config = config.with_root_certificates(roots).with_no_client_auth();
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, client).await.unwrap();
            stream.write_all(&packet(2, &login(user, CAPABILITIES | capability::TLS))).await.unwrap();
            stream.flush().await.unwrap();
        };
        let limit = Duration::from_secs(20);
        let (said, ()) = timeout(limit, async { tokio::join!(server.login(), talk) }).await.expect("an end");
        said
    }

    #[tokio::test]
    async fn a_login_goes_over_to_tls() {
        let admitted_with = admitted("tls", true, true).await.unwrap();
        assert_eq!(admitted_with.login.user, "tls");
        let encryption = admitted_with.encryption.expect("TLS");
        assert_eq!(encryption.version, "TLSv1.3");
        assert!(encryption.cipher.starts_with("TLS_"), "{encryption:?}");
        assert_eq!(admitted("anybody", false, false).await.unwrap().encryption, None);
    }

    #[tokio::test]
    async fn who_has_to_come_under_tls_is_refused_in_the_clear() {
        let refused = admitted("tls", false, false).await.unwrap_err();
        assert_eq!(refused.farewell().unwrap().code, 1045);
        let refused = admitted("anybody", false, true).await.unwrap_err();
        assert_eq!(refused.farewell().unwrap().code, 3159);
        let refused = admitted("locked", true, true).await.unwrap_err();
        assert_eq!(refused.farewell().unwrap().code, 3118);
        let refused = admitted("offline", true, true).await.unwrap_err();
        assert_eq!(refused.farewell().unwrap().code, 3032);
    }
}
