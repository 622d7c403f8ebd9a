//! What can fail, one variant per step.

/// Failure to make, read or use keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key generator failed.
    #[error("failed to generate a key for {common_name:?}")]
    GenerateKey {
        /// Whom the key was for.
        common_name: String,
        /// Cause.
        source: rcgen::Error,
    },
    /// A key in PEM cannot be read.
    #[error("failed to read the private key of an authority (PKCS#8 PEM)")]
    ReadKey {
        /// Cause.
        source: rcgen::Error,
    },
    /// Text is no certificate in PEM.
    #[error("failed to read a certificate: {reason}")]
    ReadCertificate {
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate may not sign others.
    #[error("certificate {subject:?} is not an authority")]
    NotAnAuthority {
        /// Its subject.
        subject: String,
    },
    /// Certificate and key are not a pair.
    #[error("the key does not belong to certificate {subject:?}")]
    KeyMismatch {
        /// Its subject.
        subject: String,
    },
    /// A wanted name cannot be in a certificate.
    #[error("{name:?} cannot be a name in a certificate")]
    InvalidName {
        /// The name.
        name: String,
        /// Cause.
        source: rcgen::Error,
    },
    /// Validity ends before it begins, or the authority's own is over.
    #[error("certificate for {common_name:?} would never be valid")]
    EmptyValidity {
        /// Whom it was for.
        common_name: String,
    },
    /// Signing failed.
    #[error("failed to sign the certificate of {common_name:?}")]
    Sign {
        /// Whom it was for.
        common_name: String,
        /// Cause.
        source: rcgen::Error,
    },
    /// Text is no signing request in PEM.
    #[error("failed to read a signing request: {reason}")]
    ReadRequest {
        /// What is wrong with it.
        reason: String,
    },
    /// Whoever made the request does not hold its key.
    #[error("a signing request is not signed by its own key")]
    RequestSignature,
    /// Only ECDSA keys on P-256 are signed.
    #[error("the key of a signing request is not ECDSA P-256")]
    RequestKey,
}
