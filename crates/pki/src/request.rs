//! What is asked of an authority and what it gives.

use std::fmt;
use std::net::IpAddr;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use crate::Error;

/// How early validity begins, for clocks that are behind.
pub const BACKDATE: Duration = Duration::minutes(15);

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Begin.
    pub not_before: OffsetDateTime,
    /// End.
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// Valid for `lifetime` from now on, and [`BACKDATE`] before.
    pub fn starting(now: OffsetDateTime, lifetime: Duration) -> Self {
        Self {
            not_before: now.saturating_sub(BACKDATE),
            not_after: now.saturating_add(lifetime),
        }
    }
}

/// Which end of a connection may use a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usages {
    /// Serving only.
    Server,
    /// Calling only.
    Client,
    /// Both.
    ServerAndClient,
}

impl Usages {
    fn extended(self) -> Vec<ExtendedKeyUsagePurpose> {
        let server = ExtendedKeyUsagePurpose::ServerAuth;
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        match self {
            Self::Server => vec![server],
            Self::Client => vec![client],
            Self::ServerAndClient => vec![server, client],
        }
    }
}

/// A leaf as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafRequest {
    /// Common name; the user, for Kubernetes.
    pub common_name: String,
    /// Organization; the group, for Kubernetes.
    pub organization: Option<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub ip_addresses: Vec<IpAddr>,
    /// URIs; an identity within Farplane.
    pub uris: Vec<String>,
    /// Serving, calling or both.
    pub usages: Usages,
    /// When.
    pub validity: Validity,
}

impl LeafRequest {
    /// A leaf without organizations and alternative names.
    pub fn new(common_name: impl Into<String>, usages: Usages, validity: Validity) -> Self {
        Self {
            common_name: common_name.into(),
            organization: None,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            uris: Vec::new(),
            usages,
            validity,
        }
    }

    pub(crate) fn params(&self, not_after: OffsetDateTime) -> Result<CertificateParams, Error> {
        let Self {
            common_name,
            organization,
            dns_names,
            ip_addresses,
            uris,
            usages,
            validity,
        } = self;
        let not_after = validity.not_after.min(not_after);
        if not_after <= validity.not_before {
            return Err(Error::EmptyValidity {
                common_name: common_name.clone(),
            });
        }
        let mut params = CertificateParams::default();
        params.not_before = validity.not_before;
        params.not_after = not_after;
        params.serial_number = Some(serial_number());
        params.distinguished_name = distinguished_name(common_name, organization.as_deref());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.extended();
        params.use_authority_key_identifier_extension = true;
        let text = |name: &String| {
            rcgen::string::Ia5String::try_from(name.as_str()).map_err(|source| Error::InvalidName {
                name: name.clone(),
                source,
            })
        };
        for name in dns_names {
            let name = text(name)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        for &address in ip_addresses {
            params.subject_alt_names.push(SanType::IpAddress(address));
        }
        for uri in uris {
            params.subject_alt_names.push(SanType::URI(text(uri)?));
        }
        Ok(params)
    }
}

/// A certificate with its fresh key.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The leaf alone, PEM.
    pub certificate_pem: String,
    /// The leaf followed by its authority, PEM: for peers that know the authority by its
    /// hash only.
    pub chain_pem: String,
    /// Private key, PKCS#8 PEM.
    pub key_pem: String,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Leaf({})", self.certificate_pem)
    }
}

pub(crate) fn distinguished_name(
    common_name: &str,
    organization: Option<&str>,
) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

/// Random, so that two leaves of one authority never share it, whatever their key.
pub(crate) fn serial_number() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    // Positive and without leading zeros.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}
