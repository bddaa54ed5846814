//! Certificates and keys from PEM files, checked when the configuration is, so that a wrong file stops the start with a
//! message that names it and not with a failed handshake later.

use super::Secret;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};
use std::fmt;

/// Greatest file that is taken for a PEM file, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What TLS to etcd needs beyond the system's roots.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// PEM certificates that are trusted.
    pub ca_pem: Option<String>,
    /// PEM certificate chain and key that prove who this broker is.
    pub identity: Option<(String, Secret)>,
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ca, identity) = (self.ca_pem.is_some(), self.identity.is_some());
        f.debug_struct("EtcdTls").field("ca_pem", &ca).field("identity", &identity).finish()
    }
}

/// The text of a PEM file.
pub fn read(path: &str) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|e| format!("the file cannot be read: {e}"))?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(format!("expected a file of at most {FILE_BYTES_MAX} bytes"));
    }
    std::fs::read_to_string(path).map_err(|e| format!("the file cannot be read: {e}"))
}

/// A file with certificates to trust: its text.
pub fn roots(path: &str) -> Result<String, String> {
    let text = read(path)?;
    let mut store = RootCertStore::empty();
    for certificate in certificates(&text)? {
        store.add(certificate).map_err(|e| format!("a certificate in the file cannot be trusted: {e}"))?;
    }
    Ok(text)
}

/// A file with a certificate and those that lead to its root: its text.
pub fn chain(path: &str) -> Result<String, String> {
    let text = read(path)?;
    certificates(&text).map(|_| text)
}

/// A file with a private key: its text.
pub fn key(path: &str) -> Result<Secret, String> {
    let text = read(path)?;
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|e| match e {
        pem::Error::NoItemsFound => "the file has no private key in PEM format".to_owned(),
        error => format!("the file is not in PEM format: {error}"),
    })?;
    ring::sign::any_supported_type(&key).map_err(|e| format!("the private key cannot be used: {e}"))?;
    Ok(Secret::new(text))
}

/// Says what is wrong if `chain` and `key`, each right by itself, do not belong together.
pub fn belong_together(chain: &str, key: &Secret) -> Result<(), String> {
    let certificates = certificates(chain)?;
    let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|e| e.to_string())?;
    match CertifiedKey::from_der(certificates, key, &ring::default_provider()) {
        Ok(_) => Ok(()),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err("the key is not that of the (first) certificate".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err("the file has no certificate in PEM format".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("the file is not in PEM format: {error}")),
    }
}
