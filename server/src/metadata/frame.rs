//! How every value on disk and every snapshot is wrapped: version, length, checksum.
//!
//! ```text
//! version: u8 | length of the payload: u32, little endian | CRC-32 of key, version, length, payload: u32 | payload
//! ```
//!
//! The checksum covers the key, so that a value that turns up in another's place is found out too.

pub const VERSION: u8 = 1;
const HEADER: usize = 9;

fn checksum(key: &[u8], head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in [key, head, payload] {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Wraps a payload.
///
/// # Panics
/// When it has 4 GiB or more: commands and snapshots are bounded far below.
pub fn wrap(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("values are bounded far below 4 GiB");
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&length.to_le_bytes());
    let sum = checksum(key, &bytes, payload);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The payload, or what is wrong with the bytes.
pub fn unwrap<'a>(key: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], String> {
    let (header, payload) = match bytes.split_at_checked(HEADER) {
        Some(parts) => parts,
        None => return Err(format!("{} bytes are too few for a value", bytes.len())),
    };
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if word(5) != checksum(key, &header[..5], payload) {
        return Err("its checksum does not match".to_owned());
    }
    // Only now: a version that is merely a flipped bit must not be called newer.
    if header[0] != VERSION {
        return Err(format!("it has version {}, this server knows {VERSION}", header[0]));
    }
    if word(1) as usize != payload.len() {
        return Err(format!("it has {} bytes and says {}", payload.len(), word(1)));
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let whole = wrap(b"key", b"payload");
        assert_eq!(unwrap(b"key", &whole), Ok(&b"payload"[..]));
        assert!(unwrap(b"yek", &whole).is_err());
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(unwrap(b"key", &bytes).is_err(), "bit {bit}");
        }
        for length in 0..whole.len() {
            assert!(unwrap(b"key", &whole[..length]).is_err(), "length {length}");
        }
    }
}
