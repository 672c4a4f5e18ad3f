//! Commands, read from their packets.
//!
//! Those about prepared statements, and the change of user, depend on what was said before: their bodies are given on to
//! [`super::statements`] and [`super::handshake`].

use std::borrow::Cow;

use super::literals::with_hexadecimals;
use super::reply::ErrorReply;
use super::wire::{take_u8, take_u16, take_u32, take_zero_ended_or_rest};

mod code {
    pub const QUIT: u8 = 0x01;
    pub const INIT_DB: u8 = 0x02;
    pub const QUERY: u8 = 0x03;
    pub const FIELD_LIST: u8 = 0x04;
    pub const STATISTICS: u8 = 0x09;
    pub const PROCESS_KILL: u8 = 0x0C;
    pub const PING: u8 = 0x0E;
    pub const CHANGE_USER: u8 = 0x11;
    pub const STMT_PREPARE: u8 = 0x16;
    pub const STMT_EXECUTE: u8 = 0x17;
    pub const STMT_SEND_LONG_DATA: u8 = 0x18;
    pub const STMT_CLOSE: u8 = 0x19;
    pub const STMT_RESET: u8 = 0x1A;
    pub const SET_OPTION: u8 = 0x1B;
    pub const STMT_FETCH: u8 = 0x1C;
    pub const RESET_CONNECTION: u8 = 0x1F;
}

/// What a packet asks for, as far as it can be told from the packet alone.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    Quit,
    UseDatabase(&'a str),
    Query(Cow<'a, str>),
    /// `pattern` is one of `LIKE`; empty for all columns.
    FieldList {
        table: &'a str,
        pattern: &'a str,
    },
    Statistics,
    KillConnection(u32),
    Ping,
    ChangeUser(&'a [u8]),
    Prepare(Cow<'a, str>),
    Execute(&'a [u8]),
    /// No reply.
    SendLongData(&'a [u8]),
    /// No reply, also where the statement's id is missing.
    CloseStatement(Option<u32>),
    ResetStatement(u32),
    Fetch {
        statement: u32,
        n_rows: u32,
    },
    SetMultiStatements(bool),
    ResetConnection,
}

impl<'a> Request<'a> {
    /// Errs with what to answer: the connection goes on.
    pub fn decode(payload: &'a [u8]) -> Result<Self, ErrorReply> {
        let mut rest = payload;
        let code = take_u8(&mut rest).ok_or_else(|| unknown("unknown command: the packet is empty"))?;
        let rest = &mut rest;
        Ok(match code {
            code::QUIT => Self::Quit,
            code::INIT_DB => Self::UseDatabase(text(rest)?),
            code::QUERY => Self::Query(statement_text(rest)?),
            code::FIELD_LIST => {
                let table = text(take_zero_ended_or_rest(rest))?;
                Self::FieldList { table, pattern: text(take_zero_ended_or_rest(rest))? }
            }
            code::STATISTICS => Self::Statistics,
            code::PROCESS_KILL => Self::KillConnection(statement(rest, "KILL")?),
            code::PING => Self::Ping,
            code::CHANGE_USER => Self::ChangeUser(rest),
            code::STMT_PREPARE => Self::Prepare(statement_text(rest)?),
            code::STMT_EXECUTE => Self::Execute(rest),
            code::STMT_SEND_LONG_DATA => Self::SendLongData(rest),
            code::STMT_CLOSE => Self::CloseStatement(take_u32(rest)),
            code::STMT_RESET => Self::ResetStatement(statement(rest, "RESET")?),
            code::STMT_FETCH => {
                let statement = statement(rest, "FETCH")?;
                let n_rows = take_u32(rest).ok_or_else(|| ErrorReply::malformed("FETCH has no number of rows"))?;
                Self::Fetch { statement, n_rows }
            }
            code::SET_OPTION => match take_u16(rest) {
                Some(0) => Self::SetMultiStatements(true),
                Some(1) => Self::SetMultiStatements(false),
                _ => return Err(unknown("unknown option of SET_OPTION: there are 0 and 1")),
            },
            code::RESET_CONNECTION => Self::ResetConnection,
            other => return Err(unknown(format!("unknown command 0x{other:02x}"))),
        })
    }
}

fn unknown(message: impl Into<String>) -> ErrorReply {
    ErrorReply::new(1047, "08S01", message)
}

fn text(bytes: &[u8]) -> Result<&str, ErrorReply> {
    std::str::from_utf8(bytes).map_err(|error| {
        ErrorReply::new(1300, "HY000", format!("the text is not UTF-8 at byte {}", error.valid_up_to() + 1))
    })
}

/// A statement's text. Clients send bytes in quotes as they are; those become hexadecimal literals.
fn statement_text(bytes: &[u8]) -> Result<Cow<'_, str>, ErrorReply> {
    match text(bytes) {
        Ok(text) => Ok(text.into()),
        Err(error) => with_hexadecimals(bytes).map(Cow::Owned).ok_or(error),
    }
}

fn statement(input: &mut &[u8], verb: &str) -> Result<u32, ErrorReply> {
    take_u32(input).ok_or_else(|| ErrorReply::malformed(&format!("{verb} has no id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_apart() {
        for (payload, expected) in [
            (&b"\x01"[..], Request::Quit),
            (b"\x02tpch", Request::UseDatabase("tpch")),
            (b"\x03SELECT 1", Request::Query("SELECT 1".into())),
            (b"\x03", Request::Query("".into())),
            (b"\x04t\0", Request::FieldList { table: "t", pattern: "" }),
            (b"\x04t\0a%", Request::FieldList { table: "t", pattern: "a%" }),
            (b"\x04t", Request::FieldList { table: "t", pattern: "" }),
            (b"\x09", Request::Statistics),
            (b"\x0c\x01\0\0\0", Request::KillConnection(1)),
            (b"\x0e", Request::Ping),
            (b"\x11root\0", Request::ChangeUser(b"root\0")),
            (b"\x16SELECT ?", Request::Prepare("SELECT ?".into())),
            (b"\x17rest", Request::Execute(b"rest")),
            (b"\x18rest", Request::SendLongData(b"rest")),
            (b"\x19\x02\0\0\0", Request::CloseStatement(Some(2))),
            (b"\x19\x02\0", Request::CloseStatement(None)),
            (b"\x1a\x03\0\0\0", Request::ResetStatement(3)),
            (b"\x1b\0\0", Request::SetMultiStatements(true)),
            (b"\x1b\x01\0", Request::SetMultiStatements(false)),
            (b"\x1c\x04\0\0\0\x0a\0\0\0", Request::Fetch { statement: 4, n_rows: 10 }),
            (b"\x1f", Request::ResetConnection),
        ] {
            assert_eq!(Request::decode(payload), Ok(expected), "{payload:?}");
        }
    }

    #[test]
    fn what_is_no_command_is_answered() {
        for (payload, code) in [
            (&b""[..], 1047),
            (b"\x77", 1047),
            (b"\x08", 1047),
            (b"\x1b\x02\0", 1047),
            (b"\x1b", 1047),
            (b"\x03\xff", 1300),
            (b"\x04t\0\xff", 1300),
            (b"\x0c\x01", 1835),
            (b"\x1a", 1835),
            (b"\x1c\x04\0\0\0", 1835),
        ] {
            assert_eq!(Request::decode(payload).map_err(|error| error.code), Err(code), "{payload:?}");
        }
    }
}
