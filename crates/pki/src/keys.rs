//! Keys that are not in certificates.

use std::fmt;

use rcgen::KeyPair;

use crate::Error;

/// The pair that signs and verifies tokens of service accounts.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceAccountKeys {
    /// Private key, PKCS#8 PEM.
    pub private_pem: String,
    /// Public key, PEM.
    pub public_pem: String,
}

impl fmt::Debug for ServiceAccountKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ServiceAccountKeys({})", self.public_pem)
    }
}

/// A new pair, ECDSA P-256.
///
/// # Errors
/// When the key generator fails.
pub fn service_account_keys() -> Result<ServiceAccountKeys, Error> {
    let key = KeyPair::generate().map_err(|source| Error::GenerateKey {
        common_name: "service accounts".to_owned(),
        source,
    })?;
    Ok(ServiceAccountKeys {
        private_pem: key.serialize_pem(),
        public_pem: key.public_key_pem(),
    })
}
