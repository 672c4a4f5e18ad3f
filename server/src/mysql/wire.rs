//! Integers and strings as packets hold them, read and written.
//!
//! Readers cut off the front of a slice and give None where it ends too early: what a client sent is never indexed.

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

/// Writes a string that a zero byte ends.
pub fn put_zero_ended(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(value);
    out.push(0);
}

/// That many bytes.
pub fn take_bytes<'a>(input: &mut &'a [u8], n_bytes: usize) -> Option<&'a [u8]> {
    let (bytes, rest) = input.split_at_checked(n_bytes)?;
    *input = rest;
    Some(bytes)
}

pub fn take_array<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*bytes)
}

pub fn take_u8(input: &mut &[u8]) -> Option<u8> {
    take_array::<1>(input).map(|[byte]| byte)
}

pub fn take_u16(input: &mut &[u8]) -> Option<u16> {
    take_array(input).map(u16::from_le_bytes)
}

pub fn take_u32(input: &mut &[u8]) -> Option<u32> {
    take_array(input).map(u32::from_le_bytes)
}

pub fn take_lenenc_int(input: &mut &[u8]) -> Option<u64> {
    let n_bytes = match take_u8(input)? {
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

pub fn take_lenenc<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let n_bytes = take_lenenc_int(input)?;
    take_bytes(input, usize::try_from(n_bytes).ok()?)
}

/// A string that a zero byte ends, and the zero byte.
pub fn take_zero_ended<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = input.iter().position(|byte| *byte == 0)?;
    let bytes = take_bytes(input, end)?;
    take_u8(input)?;
    Some(bytes)
}

/// As [`take_zero_ended`], of clients that leave the zero byte out at the packet's end.
pub fn take_zero_ended_or_rest<'a>(input: &mut &'a [u8]) -> &'a [u8] {
    take_zero_ended(input).unwrap_or_else(|| std::mem::take(input))
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
        assert_eq!(take_lenenc_int(&mut &[0xFB][..]), None, "NULL is no length");
    }

    #[test]
    fn a_length_beyond_the_bytes_is_none() {
        assert_eq!(take_lenenc(&mut &[3, 1, 2][..]), None);
        assert_eq!(take_lenenc(&mut &[0xFE, 255, 255, 255, 255, 255, 255, 255, 255][..]), None);
        assert_eq!(take_lenenc(&mut &[2, 1, 2, 3][..]), Some(&[1, 2][..]));
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
    fn zero_ended_strings() {
        let mut rest = &b"one\0two"[..];
        assert_eq!(take_zero_ended(&mut rest), Some(&b"one"[..]));
        assert_eq!(take_zero_ended(&mut rest), None);
        assert_eq!((take_zero_ended_or_rest(&mut rest), rest.len()), (&b"two"[..], 0));
    }
}
