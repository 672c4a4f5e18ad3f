//! The server's certificate: given by the operator, or made at the first start and kept in the data folder.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use sheaf_flight::tls::{read_certificates, read_key};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;

/// Why there is no TLS. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read or write {path:?}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Files(#[from] sheaf_flight::TlsError),
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
}

/// Files of PEM: the certificate with those between it and its root, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Files {
    /// Those of a data folder, made if they are not there: a certificate for this machine, and in `ca.pem` the one that
    /// signed it, for clients that want to know the server again. The signer's own key is forgotten.
    pub fn of_data_dir(data_dir: &Path, host_name: &str) -> Result<Self, TlsError> {
        let dir = data_dir.join("tls");
        let files = Self { certificate: dir.join("server-cert.pem"), key: dir.join("server-key.pem") };
        if !files.certificate.exists() || !files.key.exists() {
            make(&dir, &files, host_name)?;
        }
        Ok(files)
    }

    /// What answers clients that ask for TLS 1.2 or 1.3.
    pub fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let (chain, key) = (read_certificates(&self.certificate)?, read_key(&self.key)?);
        // Two providers are linked, so that there is no default one.
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|it| it.with_no_client_auth().with_single_cert(chain, key));
        let config = config.map_err(|source| sheaf_flight::TlsError::Unusable {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        })?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn make(dir: &Path, files: &Files, host_name: &str) -> Result<(), TlsError> {
    let named = |what: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("SheafDB {what}, made at first start"));
        params
    };
    let mut ca = named("certificate authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_certificate = ca.self_signed(&ca_key)?;

    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let is_dns = |it: &str| it.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    if is_dns(host_name) && !names.iter().any(|it| it == host_name) && !host_name.is_empty() {
        names.push(host_name.to_owned());
    }
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name = named("server").distinguished_name;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &Issuer::new(ca, ca_key))?;

    fs::create_dir_all(dir).map_err(|source| TlsError::File { path: dir.to_owned(), source })?;
    write(&files.key, &key.serialize_pem(), true)?;
    write(&dir.join("ca.pem"), &ca_certificate.pem(), false)?;
    // Last: with it, all are there.
    write(&files.certificate, &certificate.pem(), false)
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str, is_secret: bool) -> Result<(), TlsError> {
    let partial = path.with_extension("partial");
    let written = || {
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, if is_secret { 0o600 } else { 0o644 });
        let mut file = options.open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    written().map_err(|source| TlsError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::of_data_dir(dir.path(), "db1.example.org").unwrap();
        files.acceptor().unwrap();
        let made = fs::read_to_string(&files.certificate).unwrap();
        assert_eq!(Files::of_data_dir(dir.path(), "other").unwrap(), files);
        assert_eq!(fs::read_to_string(&files.certificate).unwrap(), made);
        assert!(dir.path().join("tls/ca.pem").exists());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
        }
        // Names that no certificate can hold are left out.
        Files::of_data_dir(&dir.path().join("more"), "a name with spaces").unwrap().acceptor().unwrap();
    }

    #[test]
    fn what_is_no_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::of_data_dir(dir.path(), "h").unwrap();
        let other = Files::of_data_dir(&dir.path().join("other"), "h").unwrap();
        let failed = |certificate: &Path, key: &Path| {
            let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
            files.acceptor().err().expect("it cannot be used").to_string()
        };
        let error = failed(&files.certificate, &other.key);
        assert!(error.contains("cannot be used together"), "{error}");
        let error = failed(&files.key, &files.key);
        assert!(error.contains("server-key.pem\" holds no certificate"), "{error}");
        let error = failed(&files.certificate, &files.certificate);
        assert!(error.contains("server-cert.pem\" holds no private key"), "{error}");
        let error = failed(&files.certificate, &dir.path().join("none"));
        assert!(error.contains("cannot read") && error.contains("none"), "{error}");
    }
}
