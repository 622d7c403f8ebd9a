//! Which hub is the right one, before anything is known of it but a hash.
//!
//! Accepted is a chain that presents the CA certificate with the pinned hash, whose leaf that CA
//! signed for a gateway. No other root counts. Presenting somebody else's CA certificate is
//! easy, so the hash alone proves nothing: the signature does.

use std::sync::Arc;

use farplane_types::identity::Identity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, PeerIncompatible,
    RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// What speaks against a hub beyond what TLS itself knows.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PinError {
    /// The pinned CA is not in the chain.
    #[error("the hub did not show the CA certificate that the token names")]
    WrongCa,
    /// The right CA signed it, for somebody else than a gateway.
    #[error("the hub's certificate is not that of a gateway")]
    NotAGateway,
}

/// Accepts what chains to one CA that is known by its hash.
#[derive(Debug)]
struct PinnedCa {
    pin: Vec<u8>,
    server_name: Option<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
}

/// TLS for an enrolment: no client certificate, the pinned CA only.
///
/// # Errors
/// When TLS 1.3 is not to be had.
pub fn tls(
    pin_sha256: &str,
    server_name: Option<ServerName<'static>>,
) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = PinnedCa {
        // Something that is no hash matches nothing.
        pin: hex::decode(pin_sha256).unwrap_or_default(),
        server_name,
        provider: Arc::clone(&provider),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn refused(reason: PinError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
}

fn is_gateway(certificate: &CertificateDer<'_>) -> bool {
    let wanted = Identity::Gateway.to_string();
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return false;
    };
    let mut names = names.value.general_names.iter();
    names.any(|name| matches!(name, GeneralName::URI(uri) if *uri == wanted))
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = |one: &&CertificateDer<'_>| Sha256::digest(one).as_slice() == self.pin;
        let ca = intermediates
            .iter()
            .find(pinned)
            .ok_or_else(|| refused(PinError::WrongCa))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, intermediates, now, algorithms)?;
        if !is_gateway(end_entity) {
            return Err(refused(PinError::NotAGateway));
        }
        if let Some(name) = &self.server_name {
            verify_server_name(&leaf, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
