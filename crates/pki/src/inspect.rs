//! Reads certificates: what is in one, who issued it, whether it is due.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use crate::Error;

/// What is in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Begin of validity.
    pub not_before: OffsetDateTime,
    /// End of validity.
    pub not_after: OffsetDateTime,
    /// Common name; empty when there is none.
    pub common_name: String,
    /// Organizations.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub ip_addresses: Vec<IpAddr>,
    /// URIs.
    pub uris: Vec<String>,
    /// Whether it may sign others.
    pub is_authority: bool,
    /// Public key (SubjectPublicKeyInfo, DER).
    pub public_key_der: Vec<u8>,
}

/// Reads the first certificate of a PEM text.
///
/// # Errors
/// When there is none or it is damaged.
pub fn inspect(certificate_pem: &str) -> Result<Inspected, Error> {
    let der = first_der(certificate_pem)?;
    let certificate = parse(&der)?;
    let subject = certificate.subject();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().unwrap_or_default().to_owned()
    };
    let mut found = Inspected {
        not_before: certificate.validity().not_before.to_datetime(),
        not_after: certificate.validity().not_after.to_datetime(),
        common_name: subject
            .iter_common_name()
            .next()
            .map(text)
            .unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect(),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        uris: Vec::new(),
        is_authority: certificate.is_ca(),
        public_key_der: certificate.public_key().raw.to_vec(),
    };
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| damaged(&error.to_string()))?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::DNSName(name) => found.dns_names.push((*name).to_owned()),
            GeneralName::URI(uri) => found.uris.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => found.ip_addresses.extend(address(bytes)),
            _ => {}
        }
    }
    Ok(found)
}

/// True when half of the certificate's life is over, or it cannot be read.
pub fn renewal_due(certificate_pem: &str, now: OffsetDateTime) -> bool {
    let Ok(found) = inspect(certificate_pem) else {
        return true;
    };
    let life = found.not_after - found.not_before;
    now >= found.not_before + life / 2
}

/// True when the authority of `authority_pem` signed the first certificate of
/// `certificate_pem`. Validity and usages are not looked at.
pub fn is_issued_by(certificate_pem: &str, authority_pem: &str) -> bool {
    let (Ok(leaf), Ok(authority)) = (first_der(certificate_pem), first_der(authority_pem)) else {
        return false;
    };
    let (Ok(leaf), Ok(authority)) = (parse(&leaf), parse(&authority)) else {
        return false;
    };
    leaf.issuer() == authority.subject()
        && leaf.verify_signature(Some(authority.public_key())).is_ok()
}

/// SHA-256 of the first certificate in DER, hex.
///
/// # Errors
/// When there is no certificate.
pub fn sha256_der_hex(certificate_pem: &str) -> Result<String, Error> {
    Ok(hex::encode(Sha256::digest(first_der(certificate_pem)?)))
}

fn first_der(certificate_pem: &str) -> Result<Vec<u8>, Error> {
    let pem = Pem::iter_from_buffer(certificate_pem.as_bytes())
        .next()
        .ok_or_else(|| damaged("it is not PEM"))?
        .map_err(|error| damaged(&error.to_string()))?;
    if pem.label != "CERTIFICATE" {
        return Err(damaged("the PEM is of something else"));
    }
    Ok(pem.contents)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Error> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|error| damaged(&error.to_string()))?;
    Ok(certificate)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(bytes));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn damaged(reason: &str) -> Error {
    Error::ReadCertificate {
        reason: reason.to_owned(),
    }
}
