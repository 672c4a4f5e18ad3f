//! Packets: payloads in parts of at most 16 MiB, each behind its length and a sequence number; both ways.
//!
//! Does not know sockets: whoever owns a [`PacketBuffer`] writes its bytes out and clears it, whoever owns a
//! [`PacketReader`] gives it the bytes that arrived. What stands in the payloads of replies is in [`super::reply`].

use bytes::{Buf, BytesMut};

use super::flags::status;

/// A part of this many bytes is continued by the next one.
pub const PART_MAX: usize = 0xFF_FFFF;
pub const HEADER_BYTES: usize = 4;

/// One command, or one message of the login, its parts joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Of the first part: 0 where a command begins, else what the server's last packet leads to.
    pub first_sequence: u8,
    /// Of the last part: the reply's first packet carries the next one.
    pub sequence: u8,
    pub payload: Vec<u8>,
}

/// Why bytes are no packets. Nothing that follows can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// More is announced than is allowed.
    TooLarge { sequence: u8 },
    /// A part does not follow the one before.
    OutOfOrder { sequence: u8 },
}

/// Bytes in, packets out. Memory: what arrived of one packet, whatever length it announced.
#[derive(Debug, Default)]
pub struct PacketReader {
    /// Bytes that arrived and were not looked at, to append to.
    pub received: BytesMut,
    /// The packet of which a part is still missing.
    open: Option<Packet>,
    /// The open part: how long it is, and how much of that is missing. None where a header comes next.
    part: Option<(usize, usize)>,
}

impl PacketReader {
    /// The next packet, of at most as many bytes; None until more bytes are there.
    pub fn next(&mut self, payload_bytes_max: usize) -> Result<Option<Packet>, FrameError> {
        loop {
            let (part_bytes, missing) = match self.part {
                Some(part) => part,
                None => match self.header(payload_bytes_max)? {
                    Some(n_bytes) => (n_bytes, n_bytes),
                    None => return Ok(None),
                },
            };
            let here = missing.min(self.received.len());
            if let Some(open) = &mut self.open {
                open.payload.extend_from_slice(&self.received[..here]);
            }
            self.received.advance(here);
            if here < missing {
                self.part = Some((part_bytes, missing - here));
                return Ok(None);
            }
            self.part = None;
            if part_bytes < PART_MAX {
                return Ok(self.open.take());
            }
        }
    }

    /// Opens a part: how long it is.
    fn header(&mut self, payload_bytes_max: usize) -> Result<Option<usize>, FrameError> {
        let Some([b0, b1, b2, sequence]) = self.received.first_chunk::<HEADER_BYTES>().copied() else {
            return Ok(None);
        };
        self.received.advance(HEADER_BYTES);
        let n_bytes = u32::from_le_bytes([b0, b1, b2, 0]) as usize;
        let open = match &mut self.open {
            None => self.open.insert(Packet { first_sequence: sequence, sequence, payload: Vec::new() }),
            Some(open) if sequence == open.sequence.wrapping_add(1) => open,
            Some(_) => return Err(FrameError::OutOfOrder { sequence }),
        };
        open.sequence = sequence;
        if n_bytes > payload_bytes_max.saturating_sub(open.payload.len()) {
            return Err(FrameError::TooLarge { sequence });
        }
        Ok(Some(n_bytes))
    }
}

/// Packets on their way to one client. At most one of them is open; its header is filled in when it ends.
#[derive(Debug)]
pub struct PacketBuffer {
    /// What both sides can do, [`super::flags::capability`] bits; 0 while the client has not said it.
    pub capabilities: u32,
    /// Of the session, in every reply, [`status`] bits.
    pub session_status: u16,
    bytes: Vec<u8>,
    /// The next packet's number.
    sequence: u8,
    /// Where the open packet's header stands.
    start: usize,
}

impl Default for PacketBuffer {
    fn default() -> Self {
        Self { capabilities: 0, session_status: status::AUTOCOMMIT, bytes: Vec::new(), sequence: 0, start: 0 }
    }
}

impl PacketBuffer {
    /// Whether both sides have one of the capabilities.
    pub fn can(&self, capability: u32) -> bool {
        self.capabilities & capability != 0
    }

    /// The number of the next packet, also of one that the client sends in its turn.
    pub fn sequence(&self) -> u8 {
        self.sequence
    }

    pub fn set_sequence(&mut self, sequence: u8) {
        self.sequence = sequence;
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

    /// Gives back what memory it can: nothing will be written for a while.
    pub fn rest(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
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
        if n_bytes < PART_MAX {
            self.fill_header(self.start, n_bytes);
            return;
        }
        // A payload that fills its last packet is followed by an empty one, or the reader would wait for more.
        let payload = self.bytes.split_off(self.start + HEADER_BYTES);
        self.bytes.truncate(self.start);
        for part in payload.chunks(PART_MAX).chain(n_bytes.is_multiple_of(PART_MAX).then_some(&[][..])) {
            let header = self.bytes.len();
            self.bytes.extend_from_slice(&[0; HEADER_BYTES]);
            self.bytes.extend_from_slice(part);
            self.fill_header(header, part.len());
        }
    }

    fn fill_header(&mut self, at: usize, n_bytes: usize) {
        let length = (n_bytes as u32).to_le_bytes();
        self.bytes[at..at + HEADER_BYTES].copy_from_slice(&[length[0], length[1], length[2], self.sequence]);
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// A whole packet.
    pub fn packet(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.begin();
        write(&mut self.bytes);
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(first_sequence: u8, payload: &[u8]) -> Vec<u8> {
        let mut buffer = PacketBuffer::default();
        buffer.set_sequence(first_sequence);
        buffer.packet(|out| out.extend_from_slice(payload));
        buffer.as_bytes().to_vec()
    }

    #[test]
    fn long_payloads_are_split_and_joined() {
        for (n_bytes, lengths) in [
            (3, vec![3]),
            (PART_MAX - 1, vec![PART_MAX - 1]),
            (PART_MAX, vec![PART_MAX, 0]),
            (PART_MAX + 5, vec![PART_MAX, 5]),
        ] {
            let bytes = framed(255, &vec![1; n_bytes]);
            let mut rest = bytes.as_slice();
            for (part, expected) in lengths.iter().enumerate() {
                let (header, payload) = rest.split_at(HEADER_BYTES);
                assert_eq!(u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize, *expected);
                assert_eq!(header[3], 255u8.wrapping_add(part as u8));
                rest = &payload[*expected..];
            }
            assert!(rest.is_empty());

            let mut reader = PacketReader::default();
            reader.received.extend_from_slice(&bytes);
            let packet = reader.next(n_bytes).unwrap().unwrap();
            assert_eq!((packet.first_sequence, packet.sequence), (255, 254u8.wrapping_add(lengths.len() as u8)));
            assert!(packet.payload.len() == n_bytes && packet.payload.iter().all(|byte| *byte == 1));
            assert_eq!(reader.next(n_bytes), Ok(None));
        }
    }

    #[test]
    fn packets_come_whole_however_their_bytes_arrive() {
        let payloads = [&b"one"[..], b"", b"three"];
        let bytes: Vec<u8> =
            payloads.iter().zip(7..).flat_map(|(payload, sequence)| framed(sequence, payload)).collect();
        for step in 1..=bytes.len() {
            let mut reader = PacketReader::default();
            let mut packets = Vec::new();
            for part in bytes.chunks(step) {
                reader.received.extend_from_slice(part);
                while let Some(packet) = reader.next(5).unwrap() {
                    packets.push(packet.payload);
                }
            }
            assert_eq!(packets, payloads, "{step} bytes at a time");
        }
    }

    #[test]
    fn what_is_too_large_is_refused_at_its_header() {
        let mut reader = PacketReader::default();
        reader.received.extend_from_slice(&framed(0, b"12345"));
        reader.received.extend_from_slice(&[6, 0, 0, 3]);
        assert_eq!(reader.next(5).unwrap().unwrap().payload, b"12345");
        assert_eq!(reader.next(5), Err(FrameError::TooLarge { sequence: 3 }));

        // Parts count together.
        let mut reader = PacketReader::default();
        reader.received.extend_from_slice(&framed(0, &vec![0; PART_MAX + 2])[..PART_MAX + 2 * HEADER_BYTES]);
        assert_eq!(reader.next(PART_MAX + 1), Err(FrameError::TooLarge { sequence: 1 }));
    }

    #[test]
    fn parts_out_of_order_are_refused() {
        let mut bytes = framed(0, &vec![0; PART_MAX + 2]);
        bytes[HEADER_BYTES + PART_MAX + 3] = 2;
        let mut reader = PacketReader::default();
        reader.received.extend_from_slice(&bytes);
        assert_eq!(reader.next(usize::MAX), Err(FrameError::OutOfOrder { sequence: 2 }));
    }

    #[test]
    fn an_abandoned_row_leaves_no_bytes() {
        let mut buffer = PacketBuffer::default();
        buffer.packet(|out| out.extend_from_slice(b"whole"));
        buffer.begin();
        buffer.payload().extend_from_slice(b"half");
        buffer.abandon();
        buffer.packet(|out| out.extend_from_slice(b"next"));
        assert_eq!(buffer.as_bytes(), b"\x05\0\0\0whole\x04\0\0\x01next");
    }
}
