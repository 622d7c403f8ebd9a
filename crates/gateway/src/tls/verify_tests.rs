//! Whose certificates are accepted in which role.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(authority: &Authority, uris: &[&str]) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(vec!["gateway.hub.test".to_owned()]).unwrap();
    for uri in uris {
        let uri = (*uri).try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, authority).unwrap().der().clone()
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.add(authority.der().clone()).unwrap();
    Arc::new(store)
}

const HOST: &str = "farplane://host/demo/site/one/u-1";
const PLANE: &str = "farplane://plane/p-1";
const GATEWAY: &str = "farplane://gateway";

#[test]
fn an_identity_counts_only_from_the_ca_of_its_role() {
    let (host, plane, hub) = (authority(), authority(), authority());
    let verifier = RoleVerifier::new(roots(&host), roots(&plane), roots(&hub)).unwrap();
    let accepts = |authority: &Authority, uris: &[&str]| {
        let certificate = leaf(authority, uris);
        verifier
            .verify_client_cert(&certificate, &[], UnixTime::now())
            .is_ok()
    };
    for (own, uri) in [(&host, HOST), (&plane, PLANE), (&hub, GATEWAY)] {
        for authority in [&host, &plane, &hub] {
            let right = std::ptr::eq(authority, own);
            assert_eq!(accepts(authority, &[uri]), right, "{uri}");
        }
        assert!(
            !accepts(&super::tests::authority(), &[uri]),
            "stranger: {uri}"
        );
    }
}

#[test]
fn a_certificate_with_no_identity_or_two_is_nobody() {
    let host = authority();
    for uris in [
        &[][..],
        &[HOST, PLANE],
        &[HOST, HOST],
        &[HOST, "https://elsewhere.test/"],
        &["farplane://host/demo/site/one"],
    ] {
        assert_eq!(peer(&leaf(&host, uris)), Err(NoIdentity), "{uris:?}");
    }
    let found = peer(&leaf(&host, &[HOST])).unwrap();
    assert_eq!(found.identity.to_string(), HOST);
}

#[test]
fn damaged_certificates_are_nobody() {
    let bytes = leaf(&authority(), &[HOST]);
    for end in 0..bytes.len() {
        let cut = CertificateDer::from(bytes[..end].to_vec());
        assert_eq!(peer(&cut), Err(NoIdentity));
    }
}
