//! TLS of a client: whether it is wanted, and whom it trusts.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// As MySQL's clients call them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum SslMode {
    /// No TLS.
    Disabled,
    /// TLS where the server has it; anyone may be the server.
    Preferred,
    /// TLS or no connection; anyone may be the server.
    Required,
    /// TLS, and an authority of --ssl-ca must have signed the server's certificate.
    #[value(alias = "verify_ca")]
    VerifyCa,
    /// As verify-ca, and the certificate must name the host.
    #[value(alias = "verify_identity")]
    VerifyIdentity,
}

/// Why there cannot be TLS as it was asked for. The user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("--ssl-mode {mode} needs the certificates of those who are trusted: --ssl-ca FILE")]
    NoAuthority { mode: String },
    #[error("cannot read {path:?}")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path:?} holds no certificate in the form of PEM that could be trusted")]
    NotPem { path: PathBuf },
    #[error("cannot set up TLS")]
    SetUp(#[from] Error),
}

/// How to connect.
#[derive(Clone)]
pub struct Tls {
    pub mode: SslMode,
    /// `None` where there is none to be.
    connector: Option<TlsConnector>,
}

impl Tls {
    pub const DISABLED: Self = Self { mode: SslMode::Disabled, connector: None };

    /// A file of authorities means that they matter, unless the mode says something else.
    pub fn new(mode: Option<SslMode>, authorities: Option<&Path>) -> Result<Self, TlsError> {
        let mode = mode.unwrap_or(if authorities.is_some() { SslMode::VerifyCa } else { SslMode::Preferred });
        if mode == SslMode::Disabled {
            return Ok(Self::DISABLED);
        }
        // Two providers are linked, so that there is no default one.
        let provider = Arc::new(ring::default_provider());
        let signer = match (mode >= SslMode::VerifyCa, authorities) {
            (false, _) => None,
            (true, Some(path)) => Some(verifier(path, Arc::clone(&provider))?),
            (true, None) => {
                let mode = mode.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned());
                return Err(TlsError::NoAuthority { mode });
            }
        };
        let trust = Trust { signer, mode, provider: Arc::clone(&provider) };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trust))
            .with_no_client_auth();
        Ok(Self { mode, connector: Some(TlsConnector::from(Arc::new(config))) })
    }

    /// Goes over to TLS on a connection whose server has been told so.
    pub async fn secure(&self, stream: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
        let refused = |why: String| io::Error::other(format!("there is no TLS connection: {why}"));
        let Some(connector) = &self.connector else { return Err(refused("it is disabled".to_owned())) };
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            // What no certificate can name, such as a host with an odd letter, is not asked for by its name.
            Err(_) if self.mode < SslMode::VerifyIdentity => ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            Err(_) => return Err(refused(format!("no certificate can name the host {host:?}"))),
        };
        connector.connect(name, stream).await.map_err(|error| refused(error.to_string()))
    }
}

fn verifier(path: &Path, provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let not_pem = || TlsError::NotPem { path: path.to_owned() };
    let text = fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        certificate.ok().and_then(|it| roots.add(it).ok()).ok_or_else(not_pem)?;
    }
    // Errs when there is none.
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|_| not_pem())
}

/// What is asked of a server's certificate. That the server holds its key is always asked.
#[derive(Debug)]
struct Trust {
    /// Who must have signed it.
    signer: Option<Arc<WebPkiServerVerifier>>,
    mode: SslMode,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(signer) = &self.signer else { return Ok(ServerCertVerified::assertion()) };
        // Names are looked at last.
        match signer.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.mode < SslMode::VerifyIdentity => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_verifies_has_to_say_whom_to_trust() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let refused = |mode, path: Option<&Path>| Tls::new(Some(mode), path).err().unwrap().to_string();
        assert!(refused(SslMode::VerifyCa, None).contains("--ssl-mode verify-ca needs"));
        assert!(refused(SslMode::VerifyIdentity, Some(&path)).starts_with("cannot read"));
        fs::write(&path, "no certificate").unwrap();
        assert!(refused(SslMode::VerifyCa, Some(&path)).contains("holds no certificate"));
        assert_eq!(Tls::new(None, None).unwrap().mode, SslMode::Preferred);
        assert!(Tls::new(None, Some(&path)).is_err(), "a file of authorities is used");
        assert_eq!(Tls::new(Some(SslMode::Required), None).unwrap().mode, SslMode::Required);
    }
}
