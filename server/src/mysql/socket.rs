//! The two halves of a client's socket, in the clear or under TLS.

use std::io;

use bytes::BytesMut;
use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest, ReadHalf as Half, WriteHalf as OtherHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ProtocolVersion;
use tokio_rustls::server::TlsStream;

/// How a client's bytes are kept from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encryption {
    /// `TLSv1.3`.
    pub version: &'static str,
    /// By the name of its standard.
    pub cipher: String,
}

#[derive(Debug)]
pub enum ReadHalf {
    Plain(OwnedReadHalf),
    /// The second is the same socket, to be asked whether the client is there without reading from it.
    Tls(Half<TlsStream<TcpStream>>, TcpStream),
}

#[derive(Debug)]
pub enum WriteHalf {
    Plain(OwnedWriteHalf),
    Tls(OtherHalf<TlsStream<TcpStream>>),
}

/// Both halves of a socket as it is.
pub fn plain(stream: TcpStream) -> (ReadHalf, WriteHalf) {
    let (read, write) = stream.into_split();
    (ReadHalf::Plain(read), WriteHalf::Plain(write))
}

/// Goes over to TLS with a client that asked for it.
pub async fn encrypted(stream: TcpStream, acceptor: &TlsAcceptor) -> io::Result<(ReadHalf, WriteHalf, Encryption)> {
    let stream = stream.into_std()?;
    let watched = TcpStream::from_std(stream.try_clone()?)?;
    let stream = acceptor.accept(TcpStream::from_std(stream)?).await?;
    let session = stream.get_ref().1;
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    };
    let cipher = session.negotiated_cipher_suite().map(|it| format!("{:?}", it.suite())).unwrap_or_default();
    let encryption = Encryption { version, cipher: cipher.replace("TLS13_", "TLS_") };
    let (read, write) = tokio::io::split(stream);
    Ok((ReadHalf::Tls(read, watched), WriteHalf::Tls(write), encryption))
}

impl ReadHalf {
    /// Waits for some bytes and appends them; zero at the end. While it waits, an empty buffer holds no memory.
    pub async fn receive(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        const READ_BYTES: usize = 16 << 10;
        // Held by an idle client for as long as it idles.
        const TLS_READ_BYTES: usize = 4 << 10;
        if into.is_empty() {
            *into = BytesMut::new();
        }
        match self {
            // The buffer is made once there is something to read.
            Self::Plain(half) => loop {
                half.readable().await?;
                into.reserve(READ_BYTES);
                match half.try_read_buf(into) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return read,
                }
            },
            Self::Tls(half, _) => {
                into.reserve(TLS_READ_BYTES);
                half.read_buf(into).await
            }
        }
    }

    /// Whether the client is seen to be gone, behind bytes that were not read.
    pub fn is_closed(&self) -> bool {
        let interest = Interest::READABLE | Interest::ERROR;
        let ready = match self {
            Self::Plain(half) => half.ready(interest).now_or_never(),
            Self::Tls(_, watched) => watched.ready(interest).now_or_never(),
        };
        matches!(ready, Some(Ok(ready)) if ready.is_read_closed() || ready.is_error())
    }
}

impl WriteHalf {
    /// Takes some of the bytes; zero if the client takes none any more.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(half) => half.write(bytes).await,
            Self::Tls(half) => half.write(bytes).await,
        }
    }

    /// Waits until the socket has all that was taken.
    pub async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(half) => half.flush().await,
            Self::Tls(half) => half.flush().await,
        }
    }
}
