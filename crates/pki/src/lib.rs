//! Certificate authorities, leaves and their renewal; ECDSA P-256 throughout.
//!
//! Flow: [`CertificateAuthority::generate`] once, keep its two PEM texts, later
//! [`CertificateAuthority::from_pem`]; issue leaves with a fresh key each
//! ([`CertificateAuthority::issue`]) or for somebody else's key
//! ([`CertificateAuthority::sign_csr`]); ask [`renewal_due`] at every look.
//!
//! Promises: of a signing request only the key is used, and only after the request's own
//! signature was verified. No leaf outlives its authority. Serial numbers are random. Time
//! is a parameter; validity made by [`Validity::starting`] begins [`BACKDATE`] early, so that
//! clocks may be that far apart. Apart from the key generator all of it is pure.

mod authority;
mod error;
mod inspect;
mod keys;
mod request;

pub use authority::CertificateAuthority;
pub use error::Error;
pub use inspect::{Inspected, inspect, is_issued_by, renewal_due, sha256_der_hex};
pub use keys::{ServiceAccountKeys, service_account_keys};
pub use request::{BACKDATE, Leaf, LeafRequest, Usages, Validity};
pub use time::{Duration, OffsetDateTime};
