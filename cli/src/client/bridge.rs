//! MySQL's protocol over TLS, for a client library that was built without it.
//!
//! The library connects to a socket of this process, in a folder that nobody else can enter. What it says there goes to
//! the server over TLS. Between the greeting and the end of the login each packet has a number, and asking for TLS takes
//! one: the packets of that time are numbered anew. What follows is passed on as it is.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;

use mysql_async::{Conn, OptsBuilder};
use sheaf_common::config::HostPort;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio_rustls::client::TlsStream;

use super::tls::{SslMode, Tls};

/// Of a packet: three bytes of length, one of its number.
const HEADER: usize = 4;
/// Packets of a login have hundreds of bytes; what is longer comes from something else.
const LOGIN_PACKET_MAX: usize = 64 << 10;
/// What a client's answer to the greeting begins with: abilities, largest packet, character set, room for more.
const REQUEST_BYTES: usize = 32;
/// `CLIENT_SSL`, in the second byte of the abilities.
const ABILITY: u8 = 0x08;
const OK: u8 = 0x00;
const MORE: u8 = 0x01;
const ERR: u8 = 0xff;
/// Behind [`MORE`]: the password is right, and [`OK`] follows.
const FAST_LOGIN: u8 = 0x03;
const COPY_BYTES: usize = 64 << 10;

/// Connects as `options` say, over TLS as far as `tls` says.
pub async fn connect(options: OptsBuilder, address: &HostPort, tls: &Tls) -> mysql_async::Result<Conn> {
    if tls.mode == SslMode::Disabled {
        return Conn::new(options).await;
    }
    let mut server = TcpStream::connect((address.host.as_str(), address.port)).await?;
    server.set_nodelay(true)?;
    let greeting = read_packet(&mut server).await?;
    match offers_tls(&greeting) {
        true => {}
        // It says why it wants nobody, and the library knows how to read that.
        false if greeting.get(HEADER) == Some(&ERR) => {}
        false if tls.mode == SslMode::Preferred => return Conn::new(options).await,
        false => return Err(io::Error::other("the server has no TLS; --ssl-mode preferred goes without").into()),
    }
    let dir = tempfile::Builder::new().prefix("sheaf-").permissions(Permissions::from_mode(0o700)).tempdir()?;
    let path = dir.path().join("tls");
    let listener = UnixListener::bind(&path)?;
    // Without a path the library would go its own way, and without TLS.
    let socket = path.to_str().ok_or_else(|| io::Error::other(format!("{path:?} is not Unicode")))?;
    let options = options.socket(Some(socket));
    let bridge = async {
        let (library, _) = listener.accept().await?;
        log_in(library, server, &greeting, address, tls).await.map_err(mysql_async::Error::from)
    };
    tokio::try_join!(Conn::new(options), bridge).map(|(connection, ())| connection)
}

/// Carries the packets of the login; what follows it is carried in the background as long as both ends live.
async fn log_in(
    mut library: UnixStream,
    mut server: TcpStream,
    greeting: &[u8],
    address: &HostPort,
    tls: &Tls,
) -> io::Result<()> {
    library.write_all(greeting).await?;
    if !offers_tls(greeting) {
        return Ok(());
    }
    let mut answer = read_packet(&mut library).await?;
    server.write_all(&tls_request(&mut answer)?).await?;
    let mut server = tls.secure(server, &address.host).await?;
    loop {
        write_renumbered(&mut server, answer, 1).await?;
        loop {
            let said = read_packet(&mut server).await?;
            let (kind, detail) = (said.get(HEADER).copied(), said.get(HEADER + 1).copied());
            write_renumbered(&mut library, said, u8::MAX).await?;
            match (kind, detail) {
                (Some(OK | ERR), _) => {
                    tokio::spawn(carry(library, server));
                    return Ok(());
                }
                (Some(MORE), Some(FAST_LOGIN)) => {}
                _ => break,
            }
        }
        answer = read_packet(&mut library).await?;
    }
}

/// An end that breaks is seen by the other one.
async fn carry(mut library: UnixStream, mut server: TlsStream<TcpStream>) {
    let _ = tokio::io::copy_bidirectional_with_sizes(&mut library, &mut server, COPY_BYTES, COPY_BYTES).await;
}

/// Whether a greeting says that the server has TLS.
fn offers_tls(greeting: &[u8]) -> bool {
    const PROTOCOL: u8 = 10;
    // The connection's id, the first part of the scramble, a filler.
    const BEFORE_ABILITIES: usize = 4 + 8 + 1;
    let Some((&PROTOCOL, rest)) = greeting.get(HEADER..).and_then(<[u8]>::split_first) else { return false };
    let Some(version) = rest.iter().position(|&byte| byte == 0) else { return false };
    rest.get(version + 1 + BEFORE_ABILITIES + 1).is_some_and(|byte| byte & ABILITY != 0)
}

/// The packet that asks for TLS, made of the client's answer, which says then that it came over TLS.
fn tls_request(answer: &mut [u8]) -> io::Result<Vec<u8>> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the answer to the server's greeting is too short");
    let body = answer.get_mut(HEADER..HEADER + REQUEST_BYTES).ok_or_else(broken)?;
    body[1] |= ABILITY;
    let header = [REQUEST_BYTES as u8, 0, 0, 1];
    Ok([header.as_slice(), body].concat())
}

/// A packet of the login, its header included.
async fn read_packet(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; HEADER];
    stream.read_exact(&mut packet).await?;
    let length = usize::from(packet[0]) | usize::from(packet[1]) << 8 | usize::from(packet[2]) << 16;
    if length > LOGIN_PACKET_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no MySQL server"));
    }
    packet.resize(HEADER + length, 0);
    stream.read_exact(&mut packet[HEADER..]).await?;
    Ok(packet)
}

async fn write_renumbered(stream: &mut (impl AsyncWrite + Unpin), mut packet: Vec<u8>, shift: u8) -> io::Result<()> {
    packet[HEADER - 1] = packet[HEADER - 1].wrapping_add(shift);
    stream.write_all(&packet).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A greeting of the protocol's version 10 with these abilities.
    fn greeting(abilities: u16) -> Vec<u8> {
        let mut body = b"\x0a8.0.36\0".to_vec();
        body.extend([7, 0, 0, 0]);
        body.extend(*b"12345678\0");
        body.extend(abilities.to_le_bytes());
        body.extend([45, 2, 0]);
        [[body.len() as u8, 0, 0, 0].as_slice(), &body].concat()
    }

    #[test]
    fn a_greeting_tells_of_tls() {
        assert!(offers_tls(&greeting(0x0800)));
        assert!(!offers_tls(&greeting(0xf7ff)));
        assert!(!offers_tls(b"\x03\0\0\0\xff\x10\x04"), "an error");
        let whole = greeting(0x0800);
        for end in 0..whole.len() - 4 {
            assert!(!offers_tls(&whole[..end]), "cut at {end}");
        }
    }

    #[test]
    fn a_request_is_the_beginning_of_the_answer() {
        let mut answer = vec![40, 0, 0, 1];
        answer.extend((0..40).map(|n| n * 2));
        let request = tls_request(&mut answer).unwrap();
        assert_eq!(request[..8], [32, 0, 0, 1, 0, 2 | 8, 4, 6]);
        assert_eq!((request.len(), answer[5]), (36, 2 | 8));
        assert_eq!(request[4..], answer[4..36]);
        assert!(tls_request(&mut [0; 20]).is_err());
    }

    #[tokio::test]
    async fn what_is_no_mysql_server_is_told_so() {
        let error = read_packet(&mut b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice()).await.unwrap_err();
        assert_eq!(error.to_string(), "this is no MySQL server");
        assert!(read_packet(&mut b"\x05\0\0\0ab".as_slice()).await.is_err());
    }
}
