//! Replies that are no rows: OK, errors, ends of rows, column definitions, and what changed in the session.

use super::column::Column;
use super::flags::{capability, status};
use super::packet::PacketBuffer;
use super::wire::{NULL_TEXT, put_lenenc, put_lenenc_int};

const OK: u8 = 0x00;
const END: u8 = 0xFE;
const ERROR: u8 = 0xFF;
const FILE_REQUEST: u8 = 0xFB;

/// How a statement that returns no rows, or the end of its rows, is reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub affected_rows: u64,
    pub warnings: u16,
    pub info: String,
    /// Besides the session's: [`status::MORE_RESULTS`] and what is to be said of a cursor.
    pub status: u16,
    /// Told only to clients that asked for it.
    pub changes: Vec<StateChange>,
}

/// What a statement changed in its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateChange {
    Variable {
        name: String,
        value: String,
    },
    Database(String),
    /// Anything that is lost with the connection.
    Any,
}

impl StateChange {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut data = Vec::new();
        let kind = match self {
            Self::Variable { name, value } => {
                put_lenenc(&mut data, name.as_bytes());
                put_lenenc(&mut data, value.as_bytes());
                0
            }
            Self::Database(name) => {
                put_lenenc(&mut data, name.as_bytes());
                1
            }
            Self::Any => {
                put_lenenc(&mut data, b"1");
                2
            }
        };
        out.push(kind);
        put_lenenc(out, &data);
    }
}

/// What an error packet says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReply {
    pub code: u16,
    /// Five characters.
    pub sqlstate: &'static str,
    pub message: String,
}

impl ErrorReply {
    pub fn new(code: u16, sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { code, sqlstate, message: message.into() }
    }

    /// A packet whose fields do not fit into it, or whose fields are none.
    pub fn malformed(what: &str) -> Self {
        Self::new(1835, "HY000", format!("malformed communication packet: {what}"))
    }
}

impl PacketBuffer {
    pub fn ok(&mut self, summary: &Summary) {
        self.ok_like(OK, summary);
    }

    fn ok_like(&mut self, header: u8, summary: &Summary) {
        let told = self.can(capability::SESSION_TRACK) && !summary.changes.is_empty();
        let changed = if told { status::SESSION_STATE_CHANGED } else { 0 };
        let status = self.session_status | summary.status | changed;
        self.packet(|out| {
            out.push(header);
            put_lenenc_int(out, summary.affected_rows);
            put_lenenc_int(out, 0); // The last insert id: there are no auto-increment columns.
            out.extend_from_slice(&status.to_le_bytes());
            out.extend_from_slice(&summary.warnings.to_le_bytes());
            if told || !summary.info.is_empty() {
                put_lenenc(out, summary.info.as_bytes());
            }
            if told {
                let mut changes = Vec::new();
                summary.changes.iter().for_each(|change| change.encode(&mut changes));
                put_lenenc(out, &changes);
            }
        });
    }

    /// The end of rows. Clients that know no other end get the older packet.
    pub fn end_of_rows(&mut self, summary: &Summary) {
        if self.can(capability::DEPRECATE_EOF) {
            self.ok_like(END, summary);
        } else {
            self.eof(summary.warnings, summary.status);
        }
    }

    fn eof(&mut self, warnings: u16, status: u16) {
        let status = self.session_status | status;
        self.packet(|out| {
            out.push(END);
            out.extend_from_slice(&warnings.to_le_bytes());
            out.extend_from_slice(&status.to_le_bytes());
        });
    }

    /// An error; without its state while the client has not said that it speaks the 4.1 protocol.
    pub fn error(&mut self, error: &ErrorReply) {
        // Clients copy the message into buffers of 512 bytes or hold it whole; nobody reads a megabyte of it.
        const MESSAGE_BYTES_MAX: usize = 16 << 10;
        let with_state = self.can(capability::PROTOCOL_41);
        self.packet(|out| {
            out.push(ERROR);
            out.extend_from_slice(&error.code.to_le_bytes());
            if with_state {
                out.push(b'#');
                out.extend_from_slice(error.sqlstate.as_bytes());
            }
            let message = &error.message[..error.message.floor_char_boundary(MESSAGE_BYTES_MAX)];
            out.extend_from_slice(message.as_bytes());
        });
    }

    /// Asks for a file of the client's.
    pub fn file_request(&mut self, name: &str) {
        self.packet(|out| {
            out.push(FILE_REQUEST);
            out.extend_from_slice(name.as_bytes());
        });
    }

    /// What precedes rows: how many columns, then what each is.
    pub fn columns(&mut self, columns: &[Column]) {
        self.column_count(columns);
        self.column_definitions(columns);
    }

    /// What stands in the place of rows that wait to be fetched. The end is that of the whole reply.
    pub fn cursor(&mut self, columns: &[Column], summary: &Summary) {
        self.column_count(columns);
        for column in columns {
            self.packet(|out| column.encode(out));
        }
        self.end_of_rows(summary);
    }

    fn column_count(&mut self, columns: &[Column]) {
        self.packet(|out| put_lenenc_int(out, columns.len() as u64));
    }

    fn column_definitions(&mut self, columns: &[Column]) {
        for column in columns {
            self.packet(|out| column.encode(out));
        }
        if !self.can(capability::DEPRECATE_EOF) {
            self.eof(0, 0);
        }
    }

    /// The answer to `COM_FIELD_LIST`: definitions with a default value each, no count before them.
    pub fn field_list(&mut self, columns: &[Column]) {
        for column in columns {
            self.packet(|out| {
                column.encode(out);
                out.push(NULL_TEXT);
            });
        }
        self.end_of_rows(&Summary::default());
    }

    /// The answer to `COM_STMT_PREPARE`.
    pub fn prepared(&mut self, statement: u32, parameters: &[Column], columns: &[Column]) {
        self.packet(|out| {
            out.push(OK);
            out.extend_from_slice(&statement.to_le_bytes());
            out.extend_from_slice(&(columns.len() as u16).to_le_bytes());
            out.extend_from_slice(&(parameters.len() as u16).to_le_bytes());
            out.push(0x00);
            out.extend_from_slice(&0u16.to_le_bytes());
        });
        for definitions in [parameters, columns] {
            if !definitions.is_empty() {
                self.column_definitions(definitions);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(capabilities: u32, write: impl FnOnce(&mut PacketBuffer)) -> Vec<u8> {
        let mut buffer = PacketBuffer::default();
        buffer.capabilities = capabilities;
        write(&mut buffer);
        buffer.as_bytes().to_vec()
    }

    #[test]
    fn error_packets_carry_code_and_state() {
        let error = ErrorReply::new(3024, "HY000", "late");
        assert_eq!(bytes(capability::PROTOCOL_41, |it| it.error(&error)), b"\x0d\0\0\0\xff\xd0\x0b#HY000late");
        assert_eq!(bytes(0, |it| it.error(&error)), b"\x07\0\0\0\xff\xd0\x0blate");
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let error = ErrorReply::new(1, "HY000", "é".repeat(20_000) + "x");
        let sent = bytes(0, |it| it.error(&error));
        assert_eq!(std::str::from_utf8(&sent[7..]).unwrap().len(), 16 << 10);
    }

    #[test]
    fn rows_end_as_the_client_reads_it() {
        let summary = Summary { warnings: 2, status: status::MORE_RESULTS, ..Summary::default() };
        assert_eq!(bytes(0, |it| it.end_of_rows(&summary)), b"\x05\0\0\0\xfe\x02\0\x0a\0");
        let sent = bytes(capability::DEPRECATE_EOF, |it| it.end_of_rows(&summary));
        assert_eq!(sent, b"\x07\0\0\0\xfe\0\0\x0a\0\x02\0");
    }

    #[test]
    fn changes_are_told_to_those_who_asked() {
        let changes = vec![
            StateChange::Database("tpch".into()),
            StateChange::Variable { name: "time_zone".into(), value: "UTC".into() },
            StateChange::Any,
        ];
        let summary = Summary { affected_rows: 3, info: "ok".into(), changes, ..Summary::default() };
        assert_eq!(bytes(0, |it| it.ok(&summary)), b"\x0a\0\0\0\0\x03\0\x02\0\0\0\x02ok");
        let entries = b"\x01\x05\x04tpch\x00\x0e\x09time_zone\x03UTC\x02\x02\x011";
        let told = [&b"\0\x03\0\x02\x40\0\0\x02ok"[..], &[entries.len() as u8], entries].concat();
        assert_eq!(bytes(capability::SESSION_TRACK, |it| it.ok(&summary))[4..], told);
        let without = Summary { changes: Vec::new(), ..summary };
        assert_eq!(bytes(capability::SESSION_TRACK, |it| it.ok(&without)).len(), 4 + 10);
    }

    #[test]
    fn a_cursor_is_announced_by_one_end() {
        let columns = [Column::of_parameter(None)];
        let summary = Summary { status: status::CURSOR_EXISTS, ..Summary::default() };
        for (capabilities, end) in [(0, &b"\xfe\0\0\x42\0"[..]), (capability::DEPRECATE_EOF, b"\xfe\0\0\x42\0\0\0")] {
            let sent = bytes(capabilities, |it| it.cursor(&columns, &summary));
            assert!(sent.starts_with(b"\x01\0\0\0\x01"));
            assert_eq!(&sent[sent.len() - end.len()..], end);
            let mut reader = super::super::packet::PacketReader::default();
            reader.received.extend_from_slice(&sent);
            let packets = std::iter::from_fn(|| reader.next(1 << 20).unwrap());
            assert_eq!(packets.count(), 3, "a count, a definition and the end");
        }
    }
}
