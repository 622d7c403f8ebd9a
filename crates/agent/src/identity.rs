//! Who this machine is at the hub: key, certificate and the CA it trusts, in one file.
//!
//! States: nothing -> a key that waits for its certificate -> identity -> (renewed: the
//! file is replaced as a whole) -> forgotten. A kill between key and answer finds the same key
//! again, so that the hub knows the repeated request for the same machine.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::files;

const IDENTITY: &str = "identity.json";
const PENDING: &str = "enrolling.key";

/// Key, certificate and whom to trust.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Private key, PEM.
    pub key: String,
    /// Certificate chain, PEM.
    pub certificate: String,
    /// The only CA certificates that are trusted, PEM.
    pub hub_ca: String,
    /// `farplane://host/...`, for people.
    pub identity: String,
    /// Name that the gateway's certificate must have.
    pub server_name: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Identity({})", self.identity)
    }
}

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("failed to write {path}; is the disk full or read-only?")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what an agent wrote.
    #[error("{path} is damaged; restore it, or run `farplane-agent leave` and join again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// No key could be made, or no request with it.
    #[error("failed to make a key or a signing request")]
    Key {
        /// What the library says.
        source: rcgen::Error,
    },
    /// Not PEM.
    #[error("the {what} is not PEM")]
    Pem {
        /// Which.
        what: &'static str,
        /// What the parser says.
        source: rustls_pki_types::pem::Error,
    },
    /// Not a certificate.
    #[error("the certificate cannot be read")]
    Certificate,
    /// Certificate, key and CA do not make a TLS client.
    #[error("certificate, key and CA do not fit together")]
    Tls {
        /// What rustls says.
        source: rustls::Error,
    },
}

/// Validity of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Beginning.
    pub not_before: Timestamp,
    /// End.
    pub not_after: Timestamp,
}

impl Times {
    /// When to renew: at half life, and by `spread` (0 to 1) up to a twentieth of it later,
    /// so that hosts that joined together do not renew together.
    pub fn due(&self, spread: f64) -> Timestamp {
        let life = self.not_after.as_second() - self.not_before.as_second();
        let later = (life.max(0) as f64 * spread.clamp(0.0, 1.0) / 20.0) as i64;
        let half = SignedDuration::from_secs(life / 2 + later);
        self.not_before
            .saturating_add(half)
            .unwrap_or(self.not_after)
    }
}

/// A new key.
///
/// # Errors
/// When the machine gives no randomness.
pub fn new_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| IdentityError::Key { source })
}

/// Signing request of a key, PEM. It names nobody: the hub decides the name.
///
/// # Errors
/// When it cannot be signed.
pub fn request(key: &KeyPair) -> Result<String, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key);
    request
        .and_then(|request| request.pem())
        .map_err(|source| IdentityError::Key { source })
}

/// The key of an enrolment that has not ended; the same one at every try.
///
/// # Errors
/// When it cannot be made or kept.
pub fn pending_key(agent_dir: &Path) -> Result<KeyPair, IdentityError> {
    let path = agent_dir.join(PENDING);
    let found = files::read(&path).map_err(|source| IdentityError::Read {
        path: path.clone(),
        source,
    })?;
    // Written whole or not at all, so one that cannot be read was never used.
    let text = found.and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some(key) = text.and_then(|text| KeyPair::from_pem(&text).ok()) {
        return Ok(key);
    }
    let key = new_key()?;
    files::write_private(&path, key.serialize_pem().as_bytes())
        .map_err(|source| IdentityError::Write { path, source })?;
    Ok(key)
}

impl Identity {
    /// Reads the identity; `None` when the machine has none.
    ///
    /// # Errors
    /// When the file is there and unusable.
    pub fn load(agent_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = agent_dir.join(IDENTITY);
        let found = files::read(&path).map_err(|source| IdentityError::Read {
            path: path.clone(),
            source,
        })?;
        let parsed = found
            .map(|bytes| serde_json::from_slice(&bytes))
            .transpose();
        parsed.map_err(|source| IdentityError::Damaged { path, source })
    }

    /// Writes the identity, and forgets the key that waited for it.
    ///
    /// # Errors
    /// When it cannot be written; the one before is still there.
    pub fn store(&self, agent_dir: &Path) -> Result<(), IdentityError> {
        let path = agent_dir.join(IDENTITY);
        let bytes = serde_json::to_vec(self).map_err(io::Error::other);
        bytes
            .and_then(|bytes| files::write_private(&path, &bytes))
            .and_then(|()| files::remove(&agent_dir.join(PENDING)))
            .map_err(|source| IdentityError::Write { path, source })
    }

    /// Removes every trace of an identity.
    ///
    /// # Errors
    /// When a file stays.
    pub fn forget(agent_dir: &Path) -> Result<(), IdentityError> {
        for name in [IDENTITY, PENDING] {
            let path = agent_dir.join(name);
            files::remove(&path).map_err(|source| IdentityError::Write { path, source })?;
        }
        Ok(())
    }

    /// Validity of the certificate.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn times(&self) -> Result<Times, IdentityError> {
        let chain = certificates(&self.certificate, "certificate")?;
        let first = chain.first().ok_or(IdentityError::Certificate)?;
        let (_, parsed) =
            X509Certificate::from_der(first).map_err(|_| IdentityError::Certificate)?;
        let at = |seconds| Timestamp::from_second(seconds).map_err(|_| IdentityError::Certificate);
        Ok(Times {
            not_before: at(parsed.validity().not_before.timestamp())?,
            not_after: at(parsed.validity().not_after.timestamp())?,
        })
    }

    /// TLS towards the hub with this certificate, trusting the hub's CA only.
    ///
    /// # Errors
    /// When the parts do not fit together.
    pub fn tls(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>, IdentityError> {
        let failed = |source| IdentityError::Tls { source };
        let chain = certificates(&self.certificate, "certificate")?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|source| {
            IdentityError::Pem {
                what: "key",
                source,
            }
        })?;
        let mut roots = RootCertStore::empty();
        for root in certificates(&self.hub_ca, "hub CA")? {
            roots.add(root).map_err(failed)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(failed)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(failed)?;
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }
}

fn certificates(
    pem: &str,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|source| IdentityError::Pem { what, source })?;
    if all.is_empty() {
        return Err(IdentityError::Certificate);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn made() -> Identity {
        let key = new_key().unwrap();
        let params = CertificateParams::new(vec!["x".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Identity {
            key: key.serialize_pem(),
            hub_ca: certificate.clone(),
            certificate,
            identity: "farplane://host/demo/site/one/u".into(),
            server_name: "gateway.hub.test".into(),
        }
    }

    #[test]
    fn renewal_is_due_at_half_life_and_a_little_later() {
        let times = Times {
            not_before: at(0),
            not_after: at(24 * 3600),
        };
        assert_eq!(times.due(0.0), at(12 * 3600));
        assert_eq!(times.due(1.0), at(12 * 3600 + 4320));
        let odd = Times {
            not_before: at(10),
            not_after: at(5),
        };
        assert!(odd.due(1.0) <= at(10));
    }

    #[test]
    fn an_interrupted_enrolment_finds_its_key_again() {
        let folder = tempfile::tempdir().unwrap();
        let first = pending_key(folder.path()).unwrap();
        let again = pending_key(folder.path()).unwrap();
        assert_eq!(first.serialize_pem(), again.serialize_pem());
        made().store(folder.path()).unwrap();
        let next = pending_key(folder.path()).unwrap();
        assert_ne!(first.serialize_pem(), next.serialize_pem());
    }

    #[test]
    fn an_identity_is_kept_whole_and_forgotten_whole() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load(folder.path()).unwrap(), None);
        let one = made();
        one.store(folder.path()).unwrap();
        assert_eq!(Identity::load(folder.path()).unwrap(), Some(one.clone()));
        assert!(one.times().unwrap().not_after > Timestamp::now());
        one.tls(b"x").unwrap();
        pending_key(folder.path()).unwrap();
        Identity::forget(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        std::fs::write(folder.path().join(IDENTITY), "{").unwrap();
        assert!(matches!(
            Identity::load(folder.path()),
            Err(IdentityError::Damaged { .. })
        ));
    }

    #[test]
    fn a_certificate_of_another_key_is_refused() {
        let mut mixed = made();
        mixed.key = new_key().unwrap().serialize_pem();
        assert!(matches!(mixed.tls(b"x"), Err(IdentityError::Tls { .. })));
        assert!(!format!("{mixed:?}").contains("PRIVATE"));
    }
}
