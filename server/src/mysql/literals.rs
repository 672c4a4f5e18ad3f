//! Bytes within a statement's quotes that are no text: clients send them as they are, with or without `_binary` before.
//!
//! Only quotes, comments and escapes are told apart here; what the statement means is the parser's.

/// The statement with each quoted literal that is not UTF-8 as `X'…'`; none if what is not is elsewhere.
pub fn with_hexadecimals(bytes: &[u8]) -> Option<String> {
    let mut text = Vec::with_capacity(bytes.len() * 2);
    let mut rest = bytes;
    while let Some(&first) = rest.first() {
        let n_bytes = match first {
            b'\'' | b'"' => {
                let (n_bytes, value) = quoted(rest, first);
                let literal = &rest[..n_bytes];
                match std::str::from_utf8(literal) {
                    Ok(_) => text.extend_from_slice(literal),
                    Err(_) => put_hexadecimal(&mut text, &value),
                }
                rest = &rest[n_bytes..];
                continue;
            }
            b'`' => 2 + rest[1..].iter().position(|it| *it == b'`').unwrap_or(rest.len() - 1),
            b'#' => line_end(rest),
            b'-' if rest.starts_with(b"-- ") => line_end(rest),
            // A comment with a version is part of the statement.
            b'/' if rest.starts_with(b"/*") && !rest.starts_with(b"/*!") => {
                2 + rest[2..].windows(2).position(|it| it == b"*/").map_or(rest.len(), |it| it + 2)
            }
            _ => 1,
        };
        let (taken, left) = rest.split_at(n_bytes.min(rest.len()));
        text.extend_from_slice(taken);
        rest = left;
    }
    String::from_utf8(text).ok()
}

fn line_end(bytes: &[u8]) -> usize {
    bytes.iter().position(|it| *it == b'\n').map_or(bytes.len(), |it| it + 1)
}

/// How long the literal is that begins here, and its value.
fn quoted(bytes: &[u8], quote: u8) -> (usize, Vec<u8>) {
    let mut value = vec![];
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        let next = bytes.get(at + 1).copied();
        at += 1;
        match (byte, next) {
            (b'\\', Some(escaped)) => {
                at += 1;
                value.push(match escaped {
                    b'0' => 0,
                    b'b' => 8,
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b'Z' => 0x1A,
                    other => other,
                });
            }
            (byte, Some(next)) if byte == quote && next == quote => {
                at += 1;
                value.push(quote);
            }
            (byte, _) if byte == quote => return (at, value),
            (byte, _) => value.push(byte),
        }
    }
    (bytes.len(), value)
}

/// Takes the place of the literal and of the `_binary` before it.
fn put_hexadecimal(text: &mut Vec<u8>, value: &[u8]) {
    const BINARY: &[u8] = b"_binary";
    let n_before = text.trim_ascii_end().len();
    if let Some(begin) = n_before.checked_sub(BINARY.len())
        && text[begin..n_before].eq_ignore_ascii_case(BINARY)
    {
        text.truncate(begin);
    }
    text.extend_from_slice(b" X'");
    for byte in value {
        text.extend_from_slice(format!("{byte:02X}").as_bytes());
    }
    text.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_quotes_become_hexadecimal() {
        for (statement, expected) in [
            (&b"SELECT '\xFF'"[..], Some("SELECT  X'FF'")),
            (
                b"INSERT INTO t VALUES (_binary'\\0\xFF\\'', 'it''s \xC3\xA4')",
                Some("INSERT INTO t VALUES ( X'00FF27', 'it''s \u{e4}')"),
            ),
            (b"SELECT _BINARY \"\x80\"\"\", `a'b`", Some("SELECT  X'8022', `a'b`")),
            (b"SELECT 1 -- it's\n, '\xFE'", Some("SELECT 1 -- it's\n,  X'FE'")),
            (b"SELECT /* ' */ '\xFE' # '", Some("SELECT /* ' */  X'FE' # '")),
            (b"SELECT \xFF", None),
            (b"SELECT `\xFF`", None),
            (b"SELECT 'open \xFF", Some("SELECT  X'6F70656E20FF'")),
            (b"SELECT '\xFF\\", Some("SELECT  X'FF5C'")),
        ] {
            assert_eq!(with_hexadecimals(statement).as_deref(), expected, "{:?}", String::from_utf8_lossy(statement));
        }
    }
}
