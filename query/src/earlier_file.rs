//! Files that earlier versions of the server kept: JSON whose first fields say what it is.

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Why a file cannot be taken over.
pub(crate) enum Unreadable {
    Damaged(String),
    /// Of a version that this server does not know.
    Newer(u64),
}

/// Read before the rest, which a newer version may have changed.
#[derive(Deserialize)]
struct Header {
    format: String,
    version: u64,
}

/// What the file holds, if it is of this format and of no newer version than `known`.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8], format: &str, known: u64) -> Result<T, Unreadable> {
    let damaged = |error: serde_json::Error| Unreadable::Damaged(error.to_string());
    let header: Header = serde_json::from_slice(bytes).map_err(damaged)?;
    if header.format != format {
        return Err(Unreadable::Damaged(format!("its format is {:?}, not {format:?}", header.format)));
    }
    if header.version > known {
        return Err(Unreadable::Newer(header.version));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}
