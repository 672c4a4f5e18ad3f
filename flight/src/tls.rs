//! Mutual TLS between nodes: each end of a connection shows a certificate that the cluster's authority signed.
//!
//! The names in certificates are not looked at: all nodes may do the same, each says itself where it is reached, and in
//! containers addresses come and go. Who has a certificate of the authority belongs to the cluster, and nobody else.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, version,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::server::Connected;

/// Why there is no TLS. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path:?}")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path:?} holds no {what}")]
    NotPem { path: PathBuf, what: &'static str },
    #[error("the certificate {certificate:?} and the key {key:?} cannot be used together")]
    Unusable {
        certificate: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("the certificates in {path:?} cannot be used as an authority")]
    Authority {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

/// The certificates of a file of PEM: at least one.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let what = "certificate in the form of PEM";
    chain.ok().filter(|it| !it.is_empty()).ok_or_else(|| TlsError::NotPem { path: path.to_owned(), what })
}

/// The private key of a file of PEM.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let what = "private key in the form of PEM";
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| TlsError::NotPem { path: path.to_owned(), what })
}

/// Where a node's part of the cluster's TLS is kept, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterTlsFiles {
    /// The node's certificate, with those between it and the authority's.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The certificates of which one must have signed every node's.
    pub authority: PathBuf,
}

/// What a connection is for, told by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Calls, over HTTP/2.
    Calls,
    /// Rows of one stream after another ([`crate::link`]).
    Link,
}

impl Purpose {
    const LINK: &[u8] = b"sheaf-link";

    fn protocol(self) -> &'static [u8] {
        match self {
            Purpose::Calls => b"h2",
            Purpose::Link => Self::LINK,
        }
    }
}

/// Files are looked at again this often, when a connection is made.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A node's part of the cluster's TLS. New files in the place of the old ones are taken for new connections.
pub struct ClusterTls {
    files: ClusterTlsFiles,
    loaded: Mutex<Loaded>,
}

#[derive(Clone)]
struct Loaded {
    server: Arc<ServerConfig>,
    calls: Arc<ClientConfig>,
    link: Arc<ClientConfig>,
    stamps: Vec<Option<(SystemTime, u64)>>,
    looked: Instant,
}

impl ClusterTls {
    /// Errs when a file cannot be read, or does not go together with the others.
    pub fn open(files: ClusterTlsFiles) -> Result<Arc<Self>, TlsError> {
        let loaded = Mutex::new(Loaded::new(&files)?);
        Ok(Arc::new(Self { files, loaded }))
    }

    fn current(&self) -> Loaded {
        let mut loaded = self.loaded.lock();
        if loaded.looked.elapsed() >= LOOK_EVERY {
            loaded.looked = Instant::now();
            let stamps = stamps(&self.files);
            if stamps != loaded.stamps {
                match Loaded::new(&self.files) {
                    Ok(new) => {
                        tracing::info!(certificate = %self.files.certificate.display(), "took new TLS files");
                        *loaded = new;
                    }
                    // Perhaps only some of the files are new yet.
                    Err(error) => {
                        let reason = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::warn!(%error, reason, "new TLS files cannot be used, the old ones stay in use");
                        loaded.stamps = stamps;
                    }
                }
            }
        }
        loaded.clone()
    }

    /// Takes the other end for a node of the cluster, or errs with the reason why it is none.
    pub(crate) async fn accept(&self, socket: TcpStream) -> io::Result<(NodeSocket, Purpose)> {
        let server = self.current().server;
        let stream = TlsAcceptor::from(server).accept(socket).await?;
        let purpose = match stream.get_ref().1.alpn_protocol() {
            Some(Purpose::LINK) => Purpose::Link,
            _ => Purpose::Calls,
        };
        Ok((NodeSocket::Tls(Box::new(stream.into())), purpose))
    }

    /// Connects to a node of the cluster.
    pub(crate) async fn connect(&self, host: &str, port: u16, purpose: Purpose) -> io::Result<NodeSocket> {
        let socket = TcpStream::connect((host, port)).await?;
        socket.set_nodelay(true)?;
        let client = match (self.current(), purpose) {
            (loaded, Purpose::Calls) => loaded.calls,
            (loaded, Purpose::Link) => loaded.link,
        };
        let stream = TlsConnector::from(client).connect(any_name(), socket).await.map_err(|error| {
            let text = format!("{error}; does that node use TLS of the same authority (--cluster-tls-ca)?");
            io::Error::new(error.kind(), text)
        })?;
        Ok(NodeSocket::Tls(Box::new(stream.into())))
    }
}

impl fmt::Debug for ClusterTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterTls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// When and how large each file is; it is new when that is not the same any more.
fn stamps(files: &ClusterTlsFiles) -> Vec<Option<(SystemTime, u64)>> {
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    [&files.certificate, &files.key, &files.authority].map(stamp).into()
}

impl Loaded {
    fn new(files: &ClusterTlsFiles) -> Result<Self, TlsError> {
        // Before they are read: what is written meanwhile is seen the next time.
        let stamps = stamps(files);
        let authority = |source| TlsError::Authority { path: files.authority.clone(), source };
        let unusable =
            |source| TlsError::Unusable { certificate: files.certificate.clone(), key: files.key.clone(), source };
        let mut roots = RootCertStore::empty();
        for certificate in read_certificates(&files.authority)? {
            roots.add(certificate).map_err(|error| authority(error.into()))?;
        }
        let roots = Arc::new(roots);
        // Two providers are linked, so that there is no default one.
        let provider = Arc::new(ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build();
        let servers = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let servers = Arc::new(OfCluster(servers.map_err(|error| authority(error.into()))?));
        let (chain, key) = (read_certificates(&files.certificate)?, read_key(&files.key)?);
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(clients.map_err(|error| authority(error.into()))?)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        server.alpn_protocols = [Purpose::Calls, Purpose::Link].map(|it| it.protocol().to_vec()).into();
        let client = |provider: &Arc<CryptoProvider>, purpose: Purpose| -> Result<Arc<ClientConfig>, rustls::Error> {
            let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
                .with_protocol_versions(&[&version::TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&servers) as _)
                .with_client_auth_cert(chain.clone(), key.clone_key())?;
            client.alpn_protocols = vec![purpose.protocol().to_vec()];
            // Connections last; and what was resumed would not be looked at again.
            client.resumption = Resumption::disabled();
            Ok(Arc::new(client))
        };
        Ok(Self {
            server: Arc::new(server),
            calls: client(&provider, Purpose::Calls).map_err(unusable)?,
            link: client(&provider, Purpose::Link).map_err(unusable)?,
            stamps,
            looked: Instant::now(),
        })
    }
}

/// Said in the place of the name that a certificate should have: none is looked for.
fn any_name() -> ServerName<'static> {
    ServerName::try_from("node.sheafdb").expect("it is a DNS name")
}

/// Takes every certificate of the authority, whatever names it has.
#[derive(Debug)]
struct OfCluster(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for OfCluster {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain was looked at before the name.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Makes the connections of one channel.
#[derive(Clone)]
pub(crate) struct Connector {
    pub tls: Arc<ClusterTls>,
    pub host: String,
    pub port: u16,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<NodeSocket>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<NodeSocket>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { tls, host, port } = self.clone();
        Box::pin(async move { tls.connect(&host, port, Purpose::Calls).await.map(TokioIo::new) })
    }
}

/// A connection between two nodes.
pub(crate) enum NodeSocket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Where a call came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub Option<SocketAddr>);

impl Connected for NodeSocket {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let socket = match self {
            NodeSocket::Plain(socket) => socket,
            NodeSocket::Tls(stream) => stream.get_ref().0,
        };
        Peer(socket.peer_addr().ok())
    }
}

impl AsyncRead for NodeSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            NodeSocket::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            NodeSocket::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for NodeSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            NodeSocket::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            NodeSocket::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            NodeSocket::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            NodeSocket::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            NodeSocket::Plain(socket) => socket.is_write_vectored(),
            NodeSocket::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            NodeSocket::Plain(socket) => Pin::new(socket).poll_flush(cx),
            NodeSocket::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            NodeSocket::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            NodeSocket::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

/// Who tried to reach this node and does not belong: logged, but not as often as somebody likes.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<Option<Instant>>);

/// Of those who are refused within this time, one stands in the log.
const LOG_EVERY: Duration = Duration::from_secs(1);

impl Strangers {
    pub fn refused(&self, peer: Option<SocketAddr>, why: &dyn fmt::Display) {
        let peer = peer.map_or_else(|| "this host".to_owned(), |it| it.to_string());
        let mut logged = self.0.lock();
        if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            *logged = Some(Instant::now());
            tracing::warn!(peer, %why, "refused a stranger at the port of the nodes");
        } else {
            tracing::debug!(peer, %why, "refused a stranger at the port of the nodes");
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// An authority, which signs certificates.
    struct Authority {
        params: CertificateParams,
        key: KeyPair,
        pem: String,
    }

    impl Authority {
        fn new(name: &str) -> Self {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            Self { params, key, pem }
        }

        /// Writes what a node needs; `trusted` are the authorities of its cluster.
        fn issue(&self, dir: &Path, trusted: &[&Authority]) -> ClusterTlsFiles {
            let params = CertificateParams::new(vec!["some-node".to_owned()]).unwrap();
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &Issuer::new(self.params.clone(), &self.key)).unwrap();
            let file = |name: &str, text: String| {
                let path = dir.join(name);
                fs::write(&path, text).unwrap();
                path
            };
            ClusterTlsFiles {
                certificate: file("cert.pem", certificate.pem()),
                key: file("key.pem", key.serialize_pem()),
                authority: file("ca.pem", trusted.iter().map(|it| it.pem.as_str()).collect()),
            }
        }
    }

    fn node(authority: &Authority, trusted: &[&Authority]) -> (tempfile::TempDir, Arc<ClusterTls>) {
        let dir = tempfile::tempdir().unwrap();
        let tls = ClusterTls::open(authority.issue(dir.path(), trusted)).unwrap();
        (dir, tls)
    }

    /// What the two ends say of a connection, with a byte there and back.
    async fn meet(server: &ClusterTls, client: &ClusterTls) -> (io::Result<Purpose>, io::Result<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = async {
            let (mut socket, purpose) = server.accept(listener.accept().await?.0).await?;
            let byte = socket.read_u8().await?;
            socket.write_u8(byte).await?;
            socket.flush().await?;
            Ok(purpose)
        };
        let asked = async {
            let mut socket = client.connect("127.0.0.1", port, Purpose::Link).await?;
            socket.write_u8(7).await?;
            socket.flush().await?;
            assert_eq!(socket.read_u8().await?, 7);
            Ok(())
        };
        tokio::join!(served, asked)
    }

    #[tokio::test]
    async fn only_those_of_the_authority_meet() {
        let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
        let (_a, first) = node(&ours, &[&ours]);
        let (_b, second) = node(&ours, &[&ours]);
        let (served, asked) = meet(&first, &second).await;
        assert_eq!((served.unwrap(), asked.unwrap()), (Purpose::Link, ()));
        // It trusts us, and we do not trust it; and the other way round.
        for trusted in [[&ours].as_slice(), &[&theirs]] {
            let (_c, stranger) = node(&theirs, trusted);
            let (served, asked) = meet(&first, &stranger).await;
            assert!(served.is_err() && asked.is_err());
            let (served, asked) = meet(&stranger, &first).await;
            assert!(served.is_err() && asked.is_err());
        }
    }

    #[tokio::test]
    async fn new_files_are_taken_and_useless_ones_are_not() {
        let (old, new) = (Authority::new("old"), Authority::new("new"));
        let (dir, first) = node(&old, &[&old]);
        let (_b, second) = node(&new, &[&old, &new]);
        assert!(meet(&first, &second).await.0.is_err(), "the new authority is not known yet");
        let look_again = || first.loaded.lock().looked = Instant::now() - LOOK_EVERY;
        fs::write(dir.path().join("ca.pem"), "no certificate").unwrap();
        look_again();
        let (_c, third) = node(&old, &[&old]);
        assert!(meet(&first, &third).await.0.is_ok(), "the old ones stay in use");
        new.issue(dir.path(), &[&old, &new]);
        look_again();
        assert!(meet(&first, &second).await.0.is_ok());
        assert!(meet(&second, &first).await.0.is_ok());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let ours = Authority::new("ours");
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = ours.issue(dir.path(), &[&ours]);
        let failed = |files: ClusterTlsFiles| match ClusterTls::open(files) {
            Ok(_) => panic!("files that cannot be used were taken"),
            Err(error) => error.to_string(),
        };
        let key = ours.issue(other.path(), &[&ours]).key;
        let error = failed(ClusterTlsFiles { key, ..files.clone() });
        assert!(error.contains("cannot be used together"), "{error}");
        let error = failed(ClusterTlsFiles { authority: files.key.clone(), ..files.clone() });
        assert!(error.contains("key.pem\" holds no certificate"), "{error}");
        let error = failed(ClusterTlsFiles { key: files.certificate.clone(), ..files.clone() });
        assert!(error.contains("cert.pem\" holds no private key"), "{error}");
        let error = failed(ClusterTlsFiles { authority: dir.path().join("none"), ..files });
        assert!(error.contains("cannot read") && error.contains("none"), "{error}");
    }
}
