//! Client certificates: the identity in one must be signed by the CA of its role.
//!
//! The URI is read first and chooses the one CA that may have signed it, so that a CA of
//! one role can never speak for another.

use std::sync::Arc;

use farplane_types::identity::Identity;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::TlsError;

/// What a verified client certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub identity: Identity,
    /// End of validity, in seconds since 1970.
    pub not_after: i64,
}

/// A certificate without exactly one identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("certificate does not name exactly one identity")]
pub struct NoIdentity;

/// Reads the one identity of a certificate. Says nothing on who signed it.
///
/// # Errors
/// When there is none, or more than one URI.
pub fn peer(certificate: &CertificateDer<'_>) -> Result<Peer, NoIdentity> {
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| NoIdentity)?;
    if !rest.is_empty() {
        return Err(NoIdentity);
    }
    let names = parsed.subject_alternative_name().map_err(|_| NoIdentity)?;
    let names = names.ok_or(NoIdentity)?;
    let mut uris = names.value.general_names.iter().filter_map(|name| {
        if let GeneralName::URI(uri) = name {
            Some(*uri)
        } else {
            None
        }
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(NoIdentity);
    };
    Ok(Peer {
        identity: uri.parse().map_err(|_| NoIdentity)?,
        not_after: parsed.validity().not_after.timestamp(),
    })
}

/// Verifies client certificates by role.
#[derive(Clone, Debug)]
pub struct RoleVerifier {
    host: Arc<dyn ClientCertVerifier>,
    plane: Arc<dyn ClientCertVerifier>,
    gateway: Arc<dyn ClientCertVerifier>,
    mandatory: bool,
}

impl RoleVerifier {
    /// A verifier with one set of roots per role.
    ///
    /// # Errors
    /// When a set is empty.
    pub fn new(
        host: Arc<RootCertStore>,
        plane: Arc<RootCertStore>,
        gateway: Arc<RootCertStore>,
    ) -> Result<Self, TlsError> {
        let build = |object, roots| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|source| TlsError::Verifier { object, source })
        };
        Ok(Self {
            host: build("host-ca", host)?,
            plane: build("plane-ca", plane)?,
            gateway: build("hub-ca", gateway)?,
            mandatory: true,
        })
    }

    /// Whether a client without certificate is turned away.
    #[must_use]
    pub fn mandatory(self, mandatory: bool) -> Self {
        Self { mandatory, ..self }
    }
}

impl ClientCertVerifier for RoleVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let refused = CertificateError::ApplicationVerificationFailure;
        let verifier = match peer(end_entity).map_err(|_| refused)?.identity {
            Identity::Host { .. } => &self.host,
            Identity::Plane { .. } => &self.plane,
            Identity::Gateway => &self.gateway,
        };
        verifier.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.host
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.host
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.host.supported_verify_schemes()
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
