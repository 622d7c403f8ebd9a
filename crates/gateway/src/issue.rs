//! Certificates of hosts: signs a request's key for an identity, nothing else of it.

use farplane_types::identity::Identity;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

/// Validity of a host's certificate.
pub const VALIDITY: Duration = Duration::hours(24);
/// How far back validity begins, for clocks that are behind.
const BACKDATE: Duration = Duration::hours(1);

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request is damaged, or its signature does not fit its key.
    #[error("the signing request is damaged")]
    Request {
        /// What the parser says.
        source: rcgen::Error,
    },
    /// A key of another kind than hosts make.
    #[error("the signing request's key is not ECDSA P-256")]
    KeyKind,
    /// The CA of hosts is unusable.
    #[error("failed to read the CA of hosts")]
    Authority {
        /// What the parser says.
        source: rcgen::Error,
    },
    /// The signature failed.
    #[error("failed to sign for {identity}")]
    Sign {
        /// For whom.
        identity: String,
        /// What the signer says.
        source: rcgen::Error,
    },
}

/// A signing request whose signature is proven.
pub struct Request {
    parsed: CertificateSigningRequestParams,
}

impl Request {
    /// Reads a PKCS#10 request in PEM.
    ///
    /// # Errors
    /// When it is damaged or its key is of a kind that is not accepted.
    pub fn parse(pem: &str) -> Result<Self, IssueError> {
        let parsed = CertificateSigningRequestParams::from_pem(pem)
            .map_err(|source| IssueError::Request { source })?;
        if parsed.public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(IssueError::KeyKind);
        }
        Ok(Self { parsed })
    }

    /// SHA-256 of the public key, hex.
    pub fn key_sha256(&self) -> String {
        hex::encode(Sha256::digest(self.parsed.public_key.der_bytes()))
    }
}

/// A signed certificate.
pub struct Issued {
    /// The certificate in PEM.
    pub certificate: String,
    /// End of its validity.
    pub not_after: OffsetDateTime,
}

/// Signs the request's key for this identity with the CA in PEM.
///
/// # Errors
/// When the CA is unusable.
pub fn sign(
    request: &Request,
    identity: &Identity,
    ca: (&str, &str),
    now: OffsetDateTime,
) -> Result<Issued, IssueError> {
    let authority = |source| IssueError::Authority { source };
    let key = KeyPair::from_pem(ca.1).map_err(authority)?;
    let issuer = Issuer::from_ca_cert_pem(ca.0, key).map_err(authority)?;
    let failed = |source| IssueError::Sign {
        identity: identity.to_string(),
        source,
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let uri = identity.to_string().try_into().map_err(failed)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - BACKDATE;
    params.not_after = now + VALIDITY;
    let certificate = params
        .signed_by(&request.parsed.public_key, &issuer)
        .map_err(failed)?;
    Ok(Issued {
        certificate: certificate.pem(),
        not_after: now + VALIDITY,
    })
}
