//! Hashes, addresses, UUIDs and what stands in no chapter of its own.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::error::Result;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use std::net::{Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

use super::columns::Call;
use super::texts::to_hex;
use super::{Arguments, Chapter, Definition, Returns};

const HASH: Chapter = Chapter::Hash;
const VARIOUS: Chapter = Chapter::Various;
const SMALL: &[u8; 16] = b"0123456789abcdef";

pub(super) const FUNCTIONS: &[Definition] = &[
    Definition::new(HASH, "sha", 1..=1, Returns::Text, sha1),
    Definition::new(HASH, "sha1", 1..=1, Returns::Text, sha1),
    Definition::new(HASH, "sha2", 2..=2, Returns::Text, |c| {
        let (x, n) = (c.bytes(0)?, c.int(1)?);
        c.texts_of(|row| {
            let x = x.get(row)?;
            Some(match n.get(row)? {
                224 => to_hex(&Sha224::digest(x), SMALL),
                0 | 256 => to_hex(&Sha256::digest(x), SMALL),
                384 => to_hex(&Sha384::digest(x), SMALL),
                512 => to_hex(&Sha512::digest(x), SMALL),
                _ => return None,
            })
        })
    }),
    Definition::new(VARIOUS, "bin_to_uuid", 1..=2, Returns::Text, |c| {
        let (x, swaps) = (c.bytes(0)?, c.int(1)?);
        c.texts_of(|row| {
            let bytes: [u8; 16] = x.get(row)?.try_into().ok()?;
            let bytes = if swaps.get(row).is_some_and(|it| it != 0) { unswapped(bytes) } else { bytes };
            Some(Uuid::from_bytes(bytes).hyphenated().to_string())
        })
    }),
    Definition::new(VARIOUS, "inet6_aton", 1..=1, Returns::Bytes, |c| {
        let x = c.text(0)?;
        c.bytes_of(|row| {
            let text = x.get(row)?;
            let four = text.parse::<Ipv4Addr>().map(|it| it.octets().to_vec());
            four.or_else(|_| text.parse::<Ipv6Addr>().map(|it| it.octets().to_vec())).ok()
        })
    }),
    Definition::new(VARIOUS, "inet6_ntoa", 1..=1, Returns::Text, |c| {
        let x = c.bytes(0)?;
        c.texts_of(|row| {
            let bytes = x.get(row)?;
            let four = <[u8; 4]>::try_from(bytes).map(|it| Ipv4Addr::from(it).to_string());
            four.or_else(|_| <[u8; 16]>::try_from(bytes).map(|it| Ipv6Addr::from(it).to_string())).ok()
        })
    }),
    Definition::new(VARIOUS, "inet_aton", 1..=1, Returns::UInt, |c| {
        let x = c.text(0)?;
        c.uints_of(|row| address(x.get(row)?))
    }),
    Definition::new(VARIOUS, "inet_ntoa", 1..=1, Returns::Text, |c| {
        let x = c.int(0)?;
        c.texts_of(|row| Some(Ipv4Addr::from(u32::try_from(x.get(row)?).ok()?).to_string()))
    }),
    Definition::new(VARIOUS, "is_ipv4", 1..=1, Returns::Bool, |c| {
        let x = c.text(0)?;
        c.bools_of(|row| Some(x.get(row).is_some_and(|it| it.parse::<Ipv4Addr>().is_ok())))
    }),
    Definition::new(VARIOUS, "is_ipv6", 1..=1, Returns::Bool, |c| {
        let x = c.text(0)?;
        c.bools_of(|row| Some(x.get(row).is_some_and(|it| it.parse::<Ipv6Addr>().is_ok())))
    }),
    Definition::new(VARIOUS, "is_uuid", 1..=1, Returns::Bool, |c| {
        let x = c.text(0)?;
        c.bools_of(|row| Some(uuid_of(x.get(row)?).is_some()))
    }),
    Definition::new(VARIOUS, "name_const", 2..=2, Returns::By(second_type), |c| c.whole(1)),
    Definition::new(VARIOUS, "uuid", 0..=0, Returns::Text, |c| {
        c.texts_of(|_| Some(Uuid::new_v4().hyphenated().to_string()))
    })
    .volatile(),
    Definition::new(VARIOUS, "uuid_to_bin", 1..=2, Returns::Bytes, |c| {
        let (x, swaps) = (c.text(0)?, c.int(1)?);
        c.bytes_of(|row| {
            let bytes = uuid_of(x.get(row)?)?.into_bytes();
            Some(if swaps.get(row).is_some_and(|it| it != 0) { swapped(bytes) } else { bytes }.to_vec())
        })
    }),
];

fn second_type(arguments: &Arguments) -> Result<DataType> {
    Ok(plain(arguments.data_type(1)))
}

/// As a call's columns have it.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::Dictionary(_, value) => plain(value),
        other => other.clone(),
    }
}

fn sha1(c: &Call) -> Result<ArrayRef> {
    let x = c.bytes(0)?;
    c.texts_of(|row| Some(to_hex(&Sha1::digest(x.get(row)?), SMALL)))
}

/// `127.1` is 127.0.0.1: the last number stands for all that is left out.
fn address(text: &str) -> Option<u64> {
    let parts = text.split('.').map(|it| it.parse::<u8>().ok()).collect::<Option<Vec<_>>>()?;
    let (last, first) = parts.split_last()?;
    if first.len() > 3 {
        return None;
    }
    let high = first.iter().zip([24, 16, 8]).fold(0u64, |sum, (part, shift)| sum | u64::from(*part) << shift);
    Some(high | u64::from(*last))
}

/// Plain digits, or groups with hyphens, or those within braces.
fn uuid_of(text: &str) -> Option<Uuid> {
    let is_known = matches!(text.len(), 32 | 36 | 38);
    Uuid::try_parse(text).ok().filter(|_| is_known)
}

/// The high part of the time first, so that UUIDs sort by time.
fn swapped(b: [u8; 16]) -> [u8; 16] {
    [b[6], b[7], b[4], b[5], b[0], b[1], b[2], b[3], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]
}

fn unswapped(b: [u8; 16]) -> [u8; 16] {
    [b[4], b[5], b[6], b[7], b[2], b[3], b[0], b[1], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_be_short() {
        assert_eq!(
            ["10.0.5.9", "127.1", "1.2.3.4.5", "256.1", ""].map(address),
            [Some(167_773_449), Some(2_130_706_433), None, None, None]
        );
    }

    #[test]
    fn swapping_goes_both_ways() {
        let bytes: [u8; 16] = std::array::from_fn(|idx| idx as u8);
        assert_eq!(unswapped(swapped(bytes)), bytes);
    }
}
