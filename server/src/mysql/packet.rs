//! Packets of the MySQL protocol, encoded back to back: framing, integers and strings, and the replies that are no rows.
//!
//! Does not know sockets: whoever owns a [`PacketBuffer`] writes its bytes out and clears it.

use super::column::Column;

/// A payload of this many bytes or more goes out in several packets.
const PAYLOAD_MAX: usize = 0xFF_FFFF;
const HEADER_BYTES: usize = 4;

/// What both sides of a connection said they can do. Only the bits that change what we read or write.
pub mod capability {
    pub const LONG_PASSWORD: u32 = 1;
    pub const FOUND_ROWS: u32 = 1 << 1;
    pub const LONG_FLAG: u32 = 1 << 2;
    pub const CONNECT_WITH_DB: u32 = 1 << 3;
    pub const IGNORE_SPACE: u32 = 1 << 8;
    pub const PROTOCOL_41: u32 = 1 << 9;
    pub const INTERACTIVE: u32 = 1 << 10;
    pub const TRANSACTIONS: u32 = 1 << 13;
    pub const SECURE_CONNECTION: u32 = 1 << 15;
    pub const MULTI_STATEMENTS: u32 = 1 << 16;
    pub const MULTI_RESULTS: u32 = 1 << 17;
    pub const PS_MULTI_RESULTS: u32 = 1 << 18;
    pub const PLUGIN_AUTH: u32 = 1 << 19;
    pub const CONNECT_ATTRS: u32 = 1 << 20;
    pub const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
    pub const DEPRECATE_EOF: u32 = 1 << 24;

    /// All that this server announces.
    pub const SERVER: u32 = LONG_PASSWORD
        | FOUND_ROWS
        | LONG_FLAG
        | CONNECT_WITH_DB
        | IGNORE_SPACE
        | PROTOCOL_41
        | INTERACTIVE
        | TRANSACTIONS
        | SECURE_CONNECTION
        | MULTI_STATEMENTS
        | MULTI_RESULTS
        | PS_MULTI_RESULTS
        | PLUGIN_AUTH
        | CONNECT_ATTRS
        | PLUGIN_AUTH_LENENC
        | DEPRECATE_EOF;
}

/// Flags that end every reply.
pub mod status {
    pub const IN_TRANSACTION: u16 = 1;
    pub const AUTOCOMMIT: u16 = 1 << 1;
    pub const MORE_RESULTS: u16 = 1 << 3;
}

/// How a statement that returns no rows, or the end of its rows, is reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub affected_rows: u64,
    pub warnings: u16,
    pub info: String,
    /// Another result of the same command follows.
    pub more_results: bool,
}

/// What an error packet says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReply {
    pub code: u16,
    /// Five characters.
    pub sqlstate: &'static str,
    pub message: String,
}

/// Packets on their way to one client. At most one of them is open; its header is filled in when it ends.
#[derive(Debug)]
pub struct PacketBuffer {
    bytes: Vec<u8>,
    seq: u8,
    /// Where the open packet's header stands.
    start: usize,
    /// Of the session, in every reply.
    session_status: u16,
}

impl Default for PacketBuffer {
    fn default() -> Self {
        Self { bytes: Vec::new(), seq: 0, start: 0, session_status: status::AUTOCOMMIT }
    }
}

impl PacketBuffer {
    /// What replies say of the session from now on, [`status`] bits.
    pub fn set_session_status(&mut self, bits: u16) {
        self.session_status = bits;
    }

    fn status(&self, more_results: bool) -> u16 {
        self.session_status | if more_results { status::MORE_RESULTS } else { 0 }
    }

    /// The next packet gets this sequence number.
    pub fn set_sequence(&mut self, seq: u8) {
        self.seq = seq;
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets the packets, which were written out. Memory that one very wide row took is given back.
    pub fn clear(&mut self) {
        const KEEP_BYTES: usize = 1 << 20;
        self.bytes.clear();
        self.bytes.shrink_to(KEEP_BYTES);
        self.start = 0;
    }

    pub fn begin(&mut self) {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEADER_BYTES]);
    }

    /// The open packet's payload, to append to.
    pub fn payload(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Forgets the open packet.
    pub fn abandon(&mut self) {
        self.bytes.truncate(self.start);
    }

    pub fn end(&mut self) {
        let n_bytes = self.bytes.len() - self.start - HEADER_BYTES;
        if n_bytes < PAYLOAD_MAX {
            self.fill_header(self.start, n_bytes);
            return;
        }
        // A payload that fills its last packet is followed by an empty one, or the reader would wait for more.
        let payload = self.bytes.split_off(self.start + HEADER_BYTES);
        self.bytes.truncate(self.start);
        for part in payload.chunks(PAYLOAD_MAX).chain(n_bytes.is_multiple_of(PAYLOAD_MAX).then_some(&[][..])) {
            let header = self.bytes.len();
            self.bytes.extend_from_slice(&[0; HEADER_BYTES]);
            self.bytes.extend_from_slice(part);
            self.fill_header(header, part.len());
        }
    }

    fn fill_header(&mut self, at: usize, n_bytes: usize) {
        let length = (n_bytes as u32).to_le_bytes();
        self.bytes[at..at + HEADER_BYTES].copy_from_slice(&[length[0], length[1], length[2], self.seq]);
        self.seq = self.seq.wrapping_add(1);
    }

    /// A packet of one already encoded payload.
    pub fn packet(&mut self, payload: &[u8]) {
        self.begin();
        self.bytes.extend_from_slice(payload);
        self.end();
    }

    pub fn ok(&mut self, summary: &Summary) {
        self.ok_like(0x00, summary);
    }

    fn ok_like(&mut self, header: u8, summary: &Summary) {
        let status = self.status(summary.more_results);
        self.begin();
        self.bytes.push(header);
        put_lenenc_int(&mut self.bytes, summary.affected_rows);
        put_lenenc_int(&mut self.bytes, 0); // The last insert id: there are no auto-increment columns.
        self.bytes.extend_from_slice(&status.to_le_bytes());
        self.bytes.extend_from_slice(&summary.warnings.to_le_bytes());
        if !summary.info.is_empty() {
            put_lenenc(&mut self.bytes, summary.info.as_bytes());
        }
        self.end();
    }

    /// The end of rows. Clients that know no other end get the older packet.
    pub fn end_of_rows(&mut self, summary: &Summary, capabilities: u32) {
        if capabilities & capability::DEPRECATE_EOF != 0 {
            self.ok_like(0xFE, summary);
        } else {
            self.eof(summary.warnings, summary.more_results);
        }
    }

    fn eof(&mut self, warnings: u16, more_results: bool) {
        let status = self.status(more_results);
        self.begin();
        self.bytes.push(0xFE);
        self.bytes.extend_from_slice(&warnings.to_le_bytes());
        self.bytes.extend_from_slice(&status.to_le_bytes());
        self.end();
    }

    /// An error. `with_state` is false only where the client has not yet said that it speaks the 4.1 protocol.
    pub fn error(&mut self, error: &ErrorReply, with_state: bool) {
        // Clients copy the message into buffers of 512 bytes or hold it whole; nobody reads a megabyte of it.
        const MESSAGE_BYTES_MAX: usize = 16 << 10;
        self.begin();
        self.bytes.push(0xFF);
        self.bytes.extend_from_slice(&error.code.to_le_bytes());
        if with_state {
            self.bytes.push(b'#');
            self.bytes.extend_from_slice(error.sqlstate.as_bytes());
        }
        let message = &error.message[..error.message.floor_char_boundary(MESSAGE_BYTES_MAX)];
        self.bytes.extend_from_slice(message.as_bytes());
        self.end();
    }

    /// What precedes rows: how many columns, then what each is.
    pub fn columns(&mut self, columns: &[Column], capabilities: u32) {
        self.begin();
        put_lenenc_int(&mut self.bytes, columns.len() as u64);
        self.end();
        self.column_definitions(columns, capabilities);
    }

    fn column_definitions(&mut self, columns: &[Column], capabilities: u32) {
        for column in columns {
            self.begin();
            column.encode(&mut self.bytes);
            self.end();
        }
        if capabilities & capability::DEPRECATE_EOF == 0 {
            self.eof(0, false);
        }
    }

    /// The answer to `COM_FIELD_LIST`: definitions with a default value each, no count before them.
    pub fn field_list(&mut self, columns: &[Column], capabilities: u32) {
        for column in columns {
            self.begin();
            column.encode(&mut self.bytes);
            self.bytes.push(NULL_TEXT);
            self.end();
        }
        self.end_of_rows(&Summary::default(), capabilities);
    }

    /// The answer to `COM_STMT_PREPARE`.
    pub fn prepared(&mut self, statement: u32, parameters: &[Column], columns: &[Column], capabilities: u32) {
        self.begin();
        self.bytes.push(0x00);
        self.bytes.extend_from_slice(&statement.to_le_bytes());
        self.bytes.extend_from_slice(&(columns.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(&(parameters.len() as u16).to_le_bytes());
        self.bytes.push(0x00);
        self.bytes.extend_from_slice(&0u16.to_le_bytes());
        self.end();
        for definitions in [parameters, columns] {
            if !definitions.is_empty() {
                self.column_definitions(definitions, capabilities);
            }
        }
    }

    /// Asks the client to log in again by another plugin.
    pub fn auth_switch(&mut self, plugin: &str, salt: &[u8]) {
        self.begin();
        self.bytes.push(0xFE);
        self.bytes.extend_from_slice(plugin.as_bytes());
        self.bytes.push(0);
        self.bytes.extend_from_slice(salt);
        self.bytes.push(0);
        self.end();
    }
}

/// NULL in a text row, where a length would stand.
pub const NULL_TEXT: u8 = 0xFB;

pub fn put_lenenc_int(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_le_bytes();
    match value {
        0..=250 => out.push(value as u8),
        251..=0xFFFF => {
            out.push(0xFC);
            out.extend_from_slice(&bytes[..2]);
        }
        0x1_0000..=0xFF_FFFF => {
            out.push(0xFD);
            out.extend_from_slice(&bytes[..3]);
        }
        _ => {
            out.push(0xFE);
            out.extend_from_slice(&bytes);
        }
    }
}

pub fn put_lenenc(out: &mut Vec<u8>, value: &[u8]) {
    put_lenenc_int(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Writes a string whose length is known only once it is written. Short ones, which are nearly all, are not moved.
pub fn put_lenenc_with<E>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    let at = out.len();
    out.push(0);
    write(out)?;
    let n_bytes = out.len() - at - 1;
    if n_bytes <= 250 {
        out[at] = n_bytes as u8;
    } else {
        let mut length = Vec::with_capacity(9);
        put_lenenc_int(&mut length, n_bytes as u64);
        out.splice(at..=at, length);
    }
    Ok(())
}

/// Cuts a length-encoded integer off the front. None where the bytes end before it does.
#[cfg(test)]
pub fn take_lenenc_int(input: &mut &[u8]) -> Option<u64> {
    let first = take_bytes(input, 1)?[0];
    let n_bytes = match first {
        0xFC => 2,
        0xFD => 3,
        0xFE => 8,
        0xFB | 0xFF => return None,
        small => return Some(u64::from(small)),
    };
    let mut bytes = [0; 8];
    bytes[..n_bytes].copy_from_slice(take_bytes(input, n_bytes)?);
    Some(u64::from_le_bytes(bytes))
}

/// Cuts that many bytes off the front. None where there are fewer.
pub fn take_bytes<'a>(input: &mut &'a [u8], n_bytes: usize) -> Option<&'a [u8]> {
    let (bytes, rest) = input.split_at_checked(n_bytes)?;
    *input = rest;
    Some(bytes)
}

/// Cuts a string that a zero byte ends off the front, and the zero byte.
pub fn take_until_zero<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = input.iter().position(|byte| *byte == 0)?;
    let bytes = take_bytes(input, end)?;
    take_bytes(input, 1)?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_back() {
        for value in [0, 250, 251, 0xFFFF, 0x1_0000, 0xFF_FFFF, 0x100_0000, u64::MAX] {
            let mut bytes = Vec::new();
            put_lenenc_int(&mut bytes, value);
            let mut rest = bytes.as_slice();
            assert_eq!((take_lenenc_int(&mut rest), rest.len()), (Some(value), 0));
        }
        assert_eq!(take_lenenc_int(&mut &[0xFC, 1][..]), None);
    }

    #[test]
    fn a_length_written_afterwards_is_the_same() {
        for n_bytes in [0, 250, 251, 70_000] {
            let text = vec![b'x'; n_bytes];
            let (mut before, mut after) = (vec![7], vec![7]);
            put_lenenc(&mut before, &text);
            let written: Result<(), ()> = put_lenenc_with(&mut after, |out| {
                out.extend_from_slice(&text);
                Ok(())
            });
            written.unwrap();
            assert_eq!(before, after);
        }
    }

    #[test]
    fn long_payloads_are_split() {
        for (n_bytes, lengths) in [
            (3, vec![3]),
            (PAYLOAD_MAX - 1, vec![PAYLOAD_MAX - 1]),
            (PAYLOAD_MAX, vec![PAYLOAD_MAX, 0]),
            (PAYLOAD_MAX + 5, vec![PAYLOAD_MAX, 5]),
        ] {
            let mut buffer = PacketBuffer::default();
            buffer.set_sequence(255);
            buffer.packet(&vec![1; n_bytes]);
            let (mut rest, mut seq) = (buffer.as_bytes(), 255u8);
            for expected in lengths {
                let header = take_bytes(&mut rest, 4).unwrap();
                let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
                assert_eq!((length, header[3]), (expected, seq));
                take_bytes(&mut rest, length).unwrap();
                seq = seq.wrapping_add(1);
            }
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn an_abandoned_row_leaves_no_bytes() {
        let mut buffer = PacketBuffer::default();
        buffer.packet(b"whole");
        buffer.begin();
        buffer.payload().extend_from_slice(b"half");
        buffer.abandon();
        buffer.packet(b"next");
        assert_eq!(buffer.as_bytes(), b"\x05\0\0\0whole\x04\0\0\x01next");
    }

    #[test]
    fn error_packets_carry_code_and_state() {
        let mut buffer = PacketBuffer::default();
        let error = ErrorReply { code: 3024, sqlstate: "HY000", message: "late".into() };
        buffer.error(&error, true);
        assert_eq!(buffer.as_bytes(), b"\x0d\0\0\0\xff\xd0\x0b#HY000late");
        buffer.clear();
        buffer.error(&error, false);
        assert_eq!(buffer.as_bytes(), b"\x07\0\0\x01\xff\xd0\x0blate");
    }

    #[test]
    fn rows_end_as_the_client_reads_it() {
        let summary = Summary { warnings: 2, more_results: true, ..Summary::default() };
        let mut buffer = PacketBuffer::default();
        buffer.end_of_rows(&summary, 0);
        assert_eq!(buffer.as_bytes(), b"\x05\0\0\0\xfe\x02\0\x0a\0");
        buffer.clear();
        buffer.end_of_rows(&summary, capability::DEPRECATE_EOF);
        assert_eq!(buffer.as_bytes(), b"\x07\0\0\x01\xfe\0\0\x0a\0\x02\0");
    }
}
