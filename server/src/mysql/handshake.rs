//! The packets of a login, and of `COM_CHANGE_USER`, which carries one.

use super::auth::{Plugin, Proof, SALT_BYTES, Salt};
use super::column::CHARSET_UTF8MB4;
use super::connection::Login;
use super::flags::{capability, status};
use super::wire::{
    put_zero_ended, take_bytes, take_lenenc, take_u8, take_u16, take_u32, take_zero_ended, take_zero_ended_or_rest,
};

/// The server's first packet.
#[derive(Debug)]
pub struct Greeting<'a> {
    pub version: &'a str,
    pub connection_id: u32,
    pub salt: &'a Salt,
    /// All that this server can do for the client.
    pub capabilities: u32,
}

impl Greeting<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        const PROTOCOL_VERSION: u8 = 10;
        const SALT_START_BYTES: usize = 8;
        let (salt_start, salt_rest) = self.salt.split_at(SALT_START_BYTES);
        let [low0, low1, high0, high1] = self.capabilities.to_le_bytes();
        out.push(PROTOCOL_VERSION);
        put_zero_ended(out, self.version.as_bytes());
        out.extend_from_slice(&self.connection_id.to_le_bytes());
        put_zero_ended(out, salt_start);
        out.extend_from_slice(&[low0, low1, CHARSET_UTF8MB4 as u8]);
        out.extend_from_slice(&status::AUTOCOMMIT.to_le_bytes());
        out.extend_from_slice(&[high0, high1, SALT_BYTES as u8 + 1]);
        out.extend_from_slice(&[0; 10]);
        put_zero_ended(out, salt_rest);
        put_zero_ended(out, Plugin::DEFAULT.name().as_bytes());
    }
}

/// Whether a payload asks to go over to TLS, which takes the place of the answer; the answer follows under TLS. None while
/// too little is there to tell. `packet` begins with the header.
pub fn asks_for_tls(packet: &[u8]) -> Option<bool> {
    let [n0, n1, n2, _, c0, c1, c2, c3] = packet.first_chunk::<8>().copied()?;
    let is_short = u32::from_le_bytes([n0, n1, n2, 0]) as usize == TLS_REQUEST_BYTES;
    Some(is_short && u32::from_le_bytes([c0, c1, c2, c3]) & capability::TLS != 0)
}

/// Capabilities, the largest packet, the character set, a filler.
pub const TLS_REQUEST_BYTES: usize = 4 + 4 + 1 + 23;

/// A client's answer to the greeting.
#[derive(Debug, PartialEq, Eq)]
pub struct HandshakeResponse {
    /// What both sides can do.
    pub capabilities: u32,
    pub login: Login,
    pub proof: Proof,
}

impl HandshakeResponse {
    /// Errs with what is wrong with it. What follows the plugin's name (attributes of the client) is not looked at.
    pub fn decode(payload: &[u8]) -> Result<Self, &'static str> {
        const SHORT: &str = "the login is too short";
        let mut rest = payload;
        let said = take_u32(&mut rest).ok_or(SHORT)?;
        if said & capability::PROTOCOL_41 == 0 {
            return Err("the client does not speak the protocol of MySQL 4.1 and later");
        }
        // The largest packet that the client takes, its character set, a filler.
        let fixed = take_bytes(&mut rest, 4 + 1 + 23).ok_or(SHORT)?;
        let collation = u16::from(fixed[4]);
        if said & capability::TLS != 0 && rest.is_empty() {
            return Err("the client asks for TLS, which was not offered");
        }
        let capabilities = said & capability::SERVER;
        let user = text(take_zero_ended(&mut rest).ok_or(SHORT)?);
        let answer = if capabilities & capability::PLUGIN_AUTH_LENENC != 0 {
            take_lenenc(&mut rest)
        } else {
            take_answer(&mut rest, capabilities)
        };
        let answer = answer.ok_or(SHORT)?.to_vec();
        let database = if capabilities & capability::CONNECT_WITH_DB != 0 {
            Some(text(take_zero_ended_or_rest(&mut rest))).filter(|name| !name.is_empty())
        } else {
            None
        };
        let proof = proof(&mut rest, capabilities, answer);
        Ok(Self { capabilities, login: Login { user, database, collation }, proof })
    }
}

/// What `COM_CHANGE_USER` says.
#[derive(Debug, PartialEq, Eq)]
pub struct ChangeUser {
    pub login: Login,
    pub proof: Proof,
}

impl ChangeUser {
    /// Reads what follows the command's code; None if it is too short.
    pub fn decode(mut body: &[u8], capabilities: u32) -> Option<Self> {
        let rest = &mut body;
        let user = text(take_zero_ended(rest)?);
        let answer = take_answer(rest, capabilities)?.to_vec();
        let database = Some(text(take_zero_ended(rest)?)).filter(|name| !name.is_empty());
        // Older clients end before the character set.
        let collation = take_u16(rest);
        let proof = match collation {
            Some(_) if !rest.is_empty() => proof(rest, capabilities, answer),
            _ => Proof::Unnamed(answer),
        };
        let collation = collation.unwrap_or_default();
        Some(Self { login: Login { user, database, collation }, proof })
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An answer with one byte of length, or, of very old clients, one that a zero byte ends.
fn take_answer<'a>(input: &mut &'a [u8], capabilities: u32) -> Option<&'a [u8]> {
    if capabilities & capability::SECURE_CONNECTION != 0 {
        let n_bytes = usize::from(take_u8(input)?);
        take_bytes(input, n_bytes)
    } else {
        take_zero_ended(input)
    }
}

fn proof(rest: &mut &[u8], capabilities: u32, answer: Vec<u8>) -> Proof {
    if capabilities & capability::PLUGIN_AUTH != 0 {
        Proof::Named { plugin: text(take_zero_ended_or_rest(rest)), answer }
    } else {
        Proof::Unnamed(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(capabilities: u32, rest: &[u8]) -> Vec<u8> {
        [&capabilities.to_le_bytes()[..], &[0, 0, 0, 1, 45], &[0; 23], rest].concat()
    }

    fn login(user: &str, database: Option<&str>) -> Login {
        Login { user: user.into(), database: database.map(Into::into), collation: 45 }
    }

    fn named(plugin: &str, answer: &[u8]) -> Proof {
        Proof::Named { plugin: plugin.into(), answer: answer.into() }
    }

    #[test]
    fn a_greeting_has_everything_in_its_place() {
        let mut out = Vec::new();
        Greeting {
            version: "8.4.0-x",
            connection_id: 7,
            salt: b"abcdefghijklmnopqrst",
            capabilities: capability::SERVER,
        }
        .encode(&mut out);
        let mut rest = out.as_slice();
        assert_eq!(take_u8(&mut rest), Some(10));
        assert_eq!(take_zero_ended(&mut rest), Some(&b"8.4.0-x"[..]));
        assert_eq!(take_u32(&mut rest), Some(7));
        assert_eq!(take_zero_ended(&mut rest), Some(&b"abcdefgh"[..]));
        let low = take_u16(&mut rest).unwrap();
        assert_eq!((take_u8(&mut rest), take_u16(&mut rest)), (Some(45), Some(2)));
        let high = take_u16(&mut rest).unwrap();
        assert_eq!(u32::from(high) << 16 | u32::from(low), capability::SERVER);
        assert_eq!(take_u8(&mut rest), Some(21));
        assert_eq!(take_bytes(&mut rest, 10), Some(&[0; 10][..]));
        assert_eq!(take_zero_ended(&mut rest), Some(&b"ijklmnopqrst"[..]));
        assert_eq!((take_zero_ended(&mut rest), rest.len()), (Some(&b"caching_sha2_password"[..]), 0));
    }

    #[test]
    fn logins_of_all_ages() {
        use capability::*;
        for (capabilities, rest, expected) in [
            (PROTOCOL_41, &b"u\0secret\0"[..], (login("u", None), Proof::Unnamed(b"secret".to_vec()))),
            (
                PROTOCOL_41 | SECURE_CONNECTION | CONNECT_WITH_DB,
                b"u\0\x02ab\0",
                (login("u", None), Proof::Unnamed(b"ab".to_vec())),
            ),
            (
                PROTOCOL_41 | SECURE_CONNECTION | CONNECT_WITH_DB | PLUGIN_AUTH,
                b"u\0\x02ab" as &[u8],
                (login("u", None), named("", b"ab")),
            ),
            (
                PROTOCOL_41 | PLUGIN_AUTH_LENENC | SECURE_CONNECTION | CONNECT_WITH_DB | PLUGIN_AUTH | CONNECT_ATTRS,
                b"u\0\x02abdb\0plugin\0\x04\x01k\x01v",
                (login("u", Some("db")), named("plugin", b"ab")),
            ),
            // The plugin's name without its zero byte.
            (PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH, b"\0\0plugin", (login("", None), named("plugin", b""))),
        ] {
            let read = HandshakeResponse::decode(&response(capabilities, rest)).unwrap();
            assert_eq!((read.capabilities, (read.login, read.proof)), (capabilities, expected));
        }
        // What we did not announce is not agreed on.
        let read = HandshakeResponse::decode(&response(PROTOCOL_41 | 1 << 5 | 1 << 30, b"u\0\0")).unwrap();
        assert_eq!(read.capabilities, PROTOCOL_41);
    }

    #[test]
    fn what_is_no_login_is_refused_with_a_reason() {
        use capability::*;
        let tls = HandshakeResponse::decode(&response(PROTOCOL_41 | TLS, b""));
        assert!(tls.unwrap_err().contains("TLS"));
        assert!(HandshakeResponse::decode(&response(0, b"u\0")).unwrap_err().contains("4.1"));
        for payload in [
            &b""[..],
            b"\0\x02\0",
            &response(PROTOCOL_41, b"no end"),
            &response(PROTOCOL_41 | SECURE_CONNECTION, b"u\0\x05abc"),
            &response(PROTOCOL_41 | PLUGIN_AUTH_LENENC, b"u\0\xfe\xff\xff\xff\xff\xff\xff\xff\xff"),
        ] {
            assert!(HandshakeResponse::decode(payload).is_err(), "{payload:?}");
        }
    }

    #[test]
    fn change_user_is_read() {
        let all = capability::SERVER;
        let read = ChangeUser::decode(b"root\0\0tpch\0\x2d\0mysql_native_password\0", all).unwrap();
        assert_eq!(read.login, login("root", Some("tpch")));
        assert_eq!(read.proof, named("mysql_native_password", b""));
        let read = ChangeUser::decode(b"u\0\x02ab\0", all).unwrap();
        let unsaid = Login { collation: 0, ..login("u", None) };
        assert_eq!((read.login, read.proof), (unsaid, Proof::Unnamed(b"ab".to_vec())));
        assert_eq!(ChangeUser::decode(b"u\0\xffab\0", all), None);
        assert_eq!(ChangeUser::decode(b"u", all), None);
    }
}
