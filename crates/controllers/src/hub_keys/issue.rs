//! Makes the hub's authorities and the gateway's certificate, and tells when it is due.
//! Pure but for the key generator.

use farplane_types::identity::Identity;
use farplane_types::names::gateway_server_name;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

const AUTHORITY_LIFE: Duration = Duration::days(3650);
const GATEWAY_LIFE: Duration = Duration::days(90);
/// How far back validity begins, for clocks that are behind.
const BACKDATE: Duration = Duration::hours(1);

/// A certificate and its key, PEM.
#[derive(Clone)]
pub(super) struct Pair {
    pub certificate: String,
    pub key: String,
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// A new authority.
pub(super) fn authority(of: &str, now: OffsetDateTime) -> Result<Pair, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name(&format!("farplane {of}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - BACKDATE;
    params.not_after = now + AUTHORITY_LIFE;
    Ok(Pair {
        certificate: params.self_signed(&key)?.pem(),
        key: key.serialize_pem(),
    })
}

/// A new certificate of the gateway, for serving and towards other gateways.
pub(super) fn gateway(
    hub: &Pair,
    hub_domain: &str,
    now: OffsetDateTime,
) -> Result<Pair, rcgen::Error> {
    let issuer = Issuer::from_ca_cert_pem(&hub.certificate, KeyPair::from_pem(&hub.key)?)?;
    let server_name = gateway_server_name(hub_domain);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![server_name])?;
    params
        .subject_alt_names
        .push(SanType::URI(Identity::Gateway.to_string().try_into()?));
    params.distinguished_name = name("farplane gateway");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - BACKDATE;
    params.not_after = now + GATEWAY_LIFE;
    Ok(Pair {
        certificate: params.signed_by(&key, &issuer)?.pem(),
        key: key.serialize_pem(),
    })
}

fn der(pem: &str) -> Option<Vec<u8>> {
    let first = Pem::iter_from_buffer(pem.as_bytes()).next()?.ok()?;
    Some(first.contents)
}

/// SHA-256 of a certificate's DER, hex.
pub(super) fn sha256(pem: &str) -> Option<String> {
    Some(hex::encode(Sha256::digest(der(pem)?)))
}

/// Why the gateway's certificate has to be issued anew; `None` when it is good.
pub(super) fn why_renew(
    current: Option<&Pair>,
    hub: &Pair,
    hub_domain: &str,
    now: OffsetDateTime,
) -> Option<&'static str> {
    let Some(current) = current else {
        return Some("there is none");
    };
    let (Some(leaf), Some(ca)) = (der(&current.certificate), der(&hub.certificate)) else {
        return Some("it is damaged");
    };
    let (Ok((_, leaf)), Ok((_, ca))) = (
        x509_parser::parse_x509_certificate(&leaf),
        x509_parser::parse_x509_certificate(&ca),
    ) else {
        return Some("it is damaged");
    };
    if leaf.verify_signature(Some(ca.public_key())).is_err() {
        return Some("another authority signed it");
    }
    if !has_name(&leaf, &gateway_server_name(hub_domain)) {
        return Some("the hub's domain changed");
    }
    let half = GATEWAY_LIFE / 2;
    (leaf.validity().not_after.to_datetime() - now < half).then_some("half of its life is over")
}

fn has_name(leaf: &X509Certificate<'_>, wanted: &str) -> bool {
    let Ok(Some(names)) = leaf.subject_alternative_name() else {
        return false;
    };
    let names = &names.value.general_names;
    names
        .iter()
        .any(|name| matches!(name, GeneralName::DNSName(name) if *name == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "hub.test";

    fn at(days: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::days(20_000 + days)
    }

    #[test]
    fn a_certificate_is_renewed_at_half_of_its_life() {
        let hub = authority("hub-ca", at(0)).unwrap();
        assert!(why_renew(None, &hub, DOMAIN, at(0)).is_some());
        let gateway = gateway(&hub, DOMAIN, at(0)).unwrap();
        assert_eq!(why_renew(Some(&gateway), &hub, DOMAIN, at(44)), None);
        assert!(why_renew(Some(&gateway), &hub, DOMAIN, at(46)).is_some());
    }

    #[test]
    fn a_certificate_of_another_hub_or_domain_is_not_kept() {
        let (hub, other) = (
            authority("hub-ca", at(0)).unwrap(),
            authority("x", at(0)).unwrap(),
        );
        let gateway = gateway(&hub, DOMAIN, at(0)).unwrap();
        assert!(why_renew(Some(&gateway), &other, DOMAIN, at(1)).is_some());
        assert!(why_renew(Some(&gateway), &hub, "else.test", at(1)).is_some());
        assert_ne!(sha256(&hub.certificate), sha256(&other.certificate));
    }
}
