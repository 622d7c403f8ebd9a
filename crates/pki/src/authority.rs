//! Certificate authorities.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SubjectPublicKeyInfo,
};
use time::{Duration, OffsetDateTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::error::Error;
use crate::inspect::{self, inspect};
use crate::request::{Leaf, LeafRequest, Validity, distinguished_name, serial_number};

/// Longest signing request that is looked at, in bytes of PEM.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// A certificate authority: its certificate and its key.
pub struct CertificateAuthority {
    certificate_pem: String,
    not_after: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CertificateAuthority({})", self.certificate_pem)
    }
}

impl CertificateAuthority {
    /// A new authority with a fresh key; it may sign leaves, not other authorities.
    ///
    /// # Errors
    /// When the key generator fails or `lifetime` is not positive.
    pub fn generate(
        common_name: &str,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Self, Error> {
        if !lifetime.is_positive() {
            return Err(Error::EmptyValidity {
                common_name: common_name.to_owned(),
            });
        }
        let key = KeyPair::generate().map_err(|source| Error::GenerateKey {
            common_name: common_name.to_owned(),
            source,
        })?;
        let validity = Validity::starting(now, lifetime);
        let mut params = CertificateParams::default();
        params.not_before = validity.not_before;
        params.not_after = validity.not_after;
        params.serial_number = Some(serial_number());
        params.distinguished_name = distinguished_name(common_name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        let certificate = params.self_signed(&key).map_err(|source| Error::Sign {
            common_name: common_name.to_owned(),
            source,
        })?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem())
    }

    /// The authority of these two texts (certificate, and PKCS#8 key).
    ///
    /// # Errors
    /// When one cannot be read, they are not a pair, or the certificate may not sign.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pem(key_pem).map_err(|source| Error::ReadKey { source })?;
        let found = inspect(certificate_pem)?;
        if !found.is_authority {
            return Err(Error::NotAnAuthority {
                subject: found.common_name,
            });
        }
        if found.public_key_der != key.subject_public_key_info() {
            return Err(Error::KeyMismatch {
                subject: found.common_name,
            });
        }
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key).map_err(|source| {
            Error::ReadCertificate {
                reason: source.to_string(),
            }
        })?;
        Ok(Self {
            certificate_pem: certificate_pem.to_owned(),
            not_after: found.not_after,
            issuer,
        })
    }

    /// Certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Private key, PKCS#8 PEM.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// End of the authority's own validity.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// SHA-256 of the certificate in DER, hex: what join tokens pin.
    ///
    /// # Errors
    /// None in practice: the certificate was read before.
    pub fn sha256_der_hex(&self) -> Result<String, Error> {
        inspect::sha256_der_hex(&self.certificate_pem)
    }

    /// A leaf with a fresh key. Its validity ends with the authority's at the latest.
    ///
    /// # Errors
    /// When a name cannot be in a certificate, validity is empty, or making the key fails.
    pub fn issue(&self, request: &LeafRequest) -> Result<Leaf, Error> {
        let key = KeyPair::generate().map_err(|source| Error::GenerateKey {
            common_name: request.common_name.clone(),
            source,
        })?;
        let certificate_pem = self.sign(request, &key)?;
        Ok(Leaf {
            chain_pem: format!("{certificate_pem}{}", self.certificate_pem),
            certificate_pem,
            key_pem: key.serialize_pem(),
        })
    }

    /// A leaf, PEM, for the key of a signing request. Nothing else of the request is used:
    /// names and usages are those of `request`.
    ///
    /// # Errors
    /// As [`Self::issue`], and when the signing request cannot be read, is not signed by its
    /// own key, or has a key that is not ECDSA P-256.
    pub fn sign_csr(&self, csr_pem: &str, request: &LeafRequest) -> Result<String, Error> {
        self.sign(request, &requested_key(csr_pem)?)
    }

    fn sign(
        &self,
        request: &LeafRequest,
        key: &impl rcgen::PublicKeyData,
    ) -> Result<String, Error> {
        let certificate = request
            .params(self.not_after)?
            .signed_by(key, &self.issuer)
            .map_err(|source| Error::Sign {
                common_name: request.common_name.clone(),
                source,
            })?;
        Ok(certificate.pem())
    }
}

fn requested_key(csr_pem: &str) -> Result<SubjectPublicKeyInfo, Error> {
    let unreadable = |reason: &str| Error::ReadRequest {
        reason: reason.to_owned(),
    };
    if csr_pem.len() > MAX_REQUEST_BYTES {
        return Err(unreadable("it is too long"));
    }
    let pem = x509_parser::pem::Pem::iter_from_buffer(csr_pem.as_bytes())
        .next()
        .and_then(Result::ok)
        .filter(|pem| pem.label.ends_with("CERTIFICATE REQUEST"))
        .ok_or_else(|| unreadable("it is not PEM of a certificate request"))?;
    let (rest, csr) = X509CertificationRequest::from_der(&pem.contents)
        .map_err(|error| unreadable(&error.to_string()))?;
    if !rest.is_empty() {
        return Err(unreadable("something follows it"));
    }
    let key = SubjectPublicKeyInfo::from_der(csr.certification_request_info.subject_pki.raw)
        .map_err(|_| Error::RequestKey)?;
    if *key.algorithm() != rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(Error::RequestKey);
    }
    csr.verify_signature()
        .map_err(|_| Error::RequestSignature)?;
    Ok(key)
}
