//! A MySQL client that shows every packet, and sends any.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

pub const CONNECT_WITH_DB: u32 = 1 << 3;
pub const PROTOCOL_41: u32 = 1 << 9;
pub const SECURE_CONNECTION: u32 = 1 << 15;
pub const MULTI_STATEMENTS: u32 = 1 << 16;
pub const PLUGIN_AUTH: u32 = 1 << 19;
pub const SESSION_TRACK: u32 = 1 << 23;
pub const DEPRECATE_EOF: u32 = 1 << 24;
/// What a modern client says, but for the flags that change replies.
pub const PLAIN: u32 = PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH;

pub struct Raw {
    pub socket: TcpStream,
    pub sequence: u8,
    pub capabilities: u32,
}

/// What a packet says, as far as these tests look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Ok { affected_rows: u8, status: u16 },
    Error { code: u16, state: String, message: String },
}

/// One result.
#[derive(Debug, Default)]
pub struct ResultSet {
    pub columns: Vec<Vec<u8>>,
    /// Payloads, not taken apart.
    pub rows: Vec<Vec<u8>>,
    pub error: Option<(u16, String)>,
    pub status: u16,
    /// Of the end of rows; 0 for what has none.
    pub warnings: u16,
}

impl Raw {
    /// Connects and logs in.
    pub async fn connect(port: u16, capabilities: u32, database: Option<&str>) -> Self {
        let (mut raw, _) = Self::greeted(port).await;
        let capabilities = capabilities | if database.is_some() { CONNECT_WITH_DB } else { 0 };
        raw.capabilities = capabilities;
        raw.send(&handshake("root", capabilities, database)).await;
        let said = said(&raw.packet().await.expect("an answer to the login"));
        assert!(matches!(said, Said::Ok { .. }), "{said:?}");
        raw
    }

    /// Connects, and reads the greeting.
    pub async fn greeted(port: u16) -> (Self, Vec<u8>) {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
        let mut raw = Self { socket, sequence: 0, capabilities: PLAIN };
        let greeting = raw.packet().await.expect("a greeting");
        (raw, greeting)
    }

    /// Sends one packet that continues the exchange.
    pub async fn send(&mut self, payload: &[u8]) {
        let framed = frame(self.sequence, payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.write_all(&framed).await.expect("the server reads");
    }

    /// Sends one packet that begins an exchange.
    pub async fn command(&mut self, payload: &[u8]) {
        self.sequence = 0;
        self.send(payload).await;
    }

    /// The next packet; None once the server has closed. Panics on a wrong sequence number.
    pub async fn packet(&mut self) -> Option<Vec<u8>> {
        let mut payload = Vec::new();
        loop {
            let mut header = [0; 4];
            let read = timeout(PATIENCE, self.socket.read_exact(&mut header)).await.expect("the server answers");
            read.ok()?;
            assert_eq!(header[3], self.sequence, "sequence number");
            self.sequence = self.sequence.wrapping_add(1);
            let n_bytes = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
            let at = payload.len();
            payload.resize(at + n_bytes, 0);
            let read = timeout(PATIENCE, self.socket.read_exact(&mut payload[at..])).await;
            read.expect("the server goes on").ok()?;
            if n_bytes < 0xFF_FFFF {
                return Some(payload);
            }
        }
    }

    /// A command that is answered by one packet.
    pub async fn ask(&mut self, payload: &[u8]) -> Said {
        self.command(payload).await;
        said(&self.packet().await.expect("an answer"))
    }

    pub async fn query(&mut self, sql: &str) -> ResultSet {
        self.command(&[b"\x03", sql.as_bytes()].concat()).await;
        self.result().await
    }

    /// The text of the first column of all rows. Panics on an error.
    pub async fn texts(&mut self, sql: &str) -> Vec<String> {
        let result = self.query(sql).await;
        assert_eq!(result.error, None, "{sql}");
        result.rows.iter().map(|row| first_text(row)).collect()
    }

    /// Reads one result to its end.
    pub async fn result(&mut self) -> ResultSet {
        let first = self.packet().await.expect("an answer");
        let mut result = ResultSet::default();
        match first[0] {
            0x00 | 0xFF => {
                result.note_end(&first);
                return result;
            }
            _ => {}
        }
        let n_columns = usize::from(first[0]);
        for _ in 0..n_columns {
            result.columns.push(self.packet().await.expect("a column"));
        }
        let has_eof = self.capabilities & DEPRECATE_EOF == 0;
        if has_eof {
            let eof = self.packet().await.expect("the end of the columns");
            assert_eq!((eof[0], eof.len()), (0xFE, 5));
        }
        self.rows(&mut result).await;
        result
    }

    /// Reads rows to their end.
    async fn rows(&mut self, result: &mut ResultSet) {
        let has_eof = self.capabilities & DEPRECATE_EOF == 0;
        loop {
            let packet = self.packet().await.expect("a row or the end");
            match packet[0] {
                0xFF => {
                    result.note_end(&packet);
                    return;
                }
                0xFE if packet.len() < 9 => {
                    assert_eq!(packet.len() == 5, has_eof, "the end in the form that was agreed on");
                    // Two bytes of warnings before it, or of counts that fit a byte each: the same place in both.
                    result.status = u16::from_le_bytes([packet[3], packet[4]]);
                    let warnings = if has_eof { [packet[1], packet[2]] } else { [packet[5], packet[6]] };
                    result.warnings = u16::from_le_bytes(warnings);
                    return;
                }
                _ => result.rows.push(packet),
            }
        }
    }

    /// Prepares a statement: its id, how many parameters and columns it has, or the error's code.
    pub async fn prepare(&mut self, sql: &str) -> Result<(u32, u16, u16), u16> {
        self.command(&[b"\x16", sql.as_bytes()].concat()).await;
        let reply = self.packet().await.expect("an answer");
        if reply[0] == 0xFF {
            return Err(u16::from_le_bytes([reply[1], reply[2]]));
        }
        let id = u32::from_le_bytes([reply[1], reply[2], reply[3], reply[4]]);
        let (n_columns, n_parameters) =
            (u16::from_le_bytes([reply[5], reply[6]]), u16::from_le_bytes([reply[7], reply[8]]));
        for n in [n_parameters, n_columns] {
            let eof = u16::from(n > 0 && self.capabilities & DEPRECATE_EOF == 0);
            for _ in 0..n + eof {
                self.packet().await.expect("a definition");
            }
        }
        Ok((id, n_parameters, n_columns))
    }

    /// Executes a statement with a cursor: the status that the reply ends with.
    pub async fn open_cursor(&mut self, id: u32) -> u16 {
        const READ_ONLY: u8 = 1;
        self.command(&[&[0x17][..], &id.to_le_bytes(), &[READ_ONLY, 1, 0, 0, 0]].concat()).await;
        let n_columns = self.packet().await.expect("the number of columns")[0];
        for _ in 0..n_columns {
            self.packet().await.expect("a column");
        }
        let end = self.packet().await.expect("the end");
        assert_eq!(end[0], 0xFE, "{end:?}");
        u16::from_le_bytes([end[3], end[4]])
    }

    /// The next rows of a cursor.
    pub async fn fetch(&mut self, id: u32, n_rows: u32) -> ResultSet {
        self.command(&[&[0x1C][..], &id.to_le_bytes(), &n_rows.to_le_bytes()].concat()).await;
        let mut result = ResultSet::default();
        self.rows(&mut result).await;
        result
    }

    /// Executes a statement; `rest` is what follows the iteration count.
    pub async fn execute(&mut self, id: u32, rest: &[u8]) -> ResultSet {
        self.command(&execution(id, rest)).await;
        self.result().await
    }

    /// Whether the server closed the connection, whatever it said before.
    pub async fn is_closed(&mut self) -> bool {
        let mut rest = [0; 1024];
        loop {
            match timeout(PATIENCE, self.socket.read(&mut rest)).await.expect("the server closes") {
                Ok(0) | Err(_) => return true,
                Ok(_) => {}
            }
        }
    }
}

impl ResultSet {
    fn note_end(&mut self, packet: &[u8]) {
        match said(packet) {
            Said::Ok { status, .. } => self.status = status,
            Said::Error { code, message, .. } => self.error = Some((code, message)),
        }
    }

    pub fn has_more(&self) -> bool {
        self.status & 8 != 0
    }
}

pub fn frame(sequence: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 0xFF_FFFF, "one packet");
    let length = (payload.len() as u32).to_le_bytes();
    [&[length[0], length[1], length[2], sequence], payload].concat()
}

pub fn execution(id: u32, rest: &[u8]) -> Vec<u8> {
    [&[0x17][..], &id.to_le_bytes(), &[0, 1, 0, 0, 0], rest].concat()
}

pub fn handshake(user: &str, capabilities: u32, database: Option<&str>) -> Vec<u8> {
    let mut payload = capabilities.to_le_bytes().to_vec();
    payload.extend_from_slice(&[0, 0, 0, 1, 45]);
    payload.extend_from_slice(&[0; 23]);
    payload.extend_from_slice(user.as_bytes());
    payload.extend_from_slice(&[0, 0]);
    if let Some(database) = database {
        payload.extend_from_slice(database.as_bytes());
        payload.push(0);
    }
    if capabilities & PLUGIN_AUTH != 0 {
        payload.extend_from_slice(b"caching_sha2_password\0");
    }
    payload
}

pub fn said(packet: &[u8]) -> Said {
    match packet[0] {
        0x00 | 0xFE => Said::Ok { affected_rows: packet[1], status: u16::from_le_bytes([packet[3], packet[4]]) },
        0xFF => {
            let rest = &packet[3..];
            let (state, message) =
                if rest.first() == Some(&b'#') { (&rest[1..6], &rest[6..]) } else { (&b""[..], rest) };
            Said::Error {
                code: u16::from_le_bytes([packet[1], packet[2]]),
                state: String::from_utf8_lossy(state).into_owned(),
                message: String::from_utf8_lossy(message).into_owned(),
            }
        }
        other => panic!("neither OK nor an error: {other:#x}"),
    }
}

/// The first value of a text row, if it is short.
pub fn first_text(row: &[u8]) -> String {
    let n_bytes = usize::from(row[0]);
    assert!(n_bytes < 251, "a long value or NULL");
    String::from_utf8_lossy(&row[1..=n_bytes]).into_owned()
}
