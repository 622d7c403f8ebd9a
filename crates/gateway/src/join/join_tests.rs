//! Joining against a scripted API.

use super::*;
use crate::issue::Request as SigningRequest;
use crate::testing::{FakeApi, Keyring, TestGateway};
use farplane_types::HostFacts;
use rcgen::{CertificateParams, KeyPair};

const TOKEN: &str = "namespaces/org-demo/jointokens/t1";

fn token() -> Token {
    Token {
        ca_sha256: "ab".repeat(32),
        organization: "demo".into(),
        id: "t1".into(),
        secret: "cd".repeat(32),
    }
}

fn csr() -> String {
    let params = CertificateParams::new(vec!["gateway.hub.test".to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

fn request(host: &str, csr: &str) -> JoinRequest {
    JoinRequest {
        token: token().to_string(),
        host: host.into(),
        csr: csr.into(),
        facts: HostFacts::default(),
    }
}

fn api() -> FakeApi {
    let api = FakeApi::default();
    let now = Timestamp::now();
    let end = now + k8s_openapi::jiff::SignedDuration::from_mins(10);
    api.put(
        TOKEN,
        json!({
            "apiVersion": "farplane.io/v1alpha1", "kind": "JoinToken",
            "metadata": { "name": "t1", "namespace": "org-demo", "creationTimestamp": now.to_string() },
            "spec": { "endpoint": "site", "secretSha256": token().secret_sha256(),
                "expiresAt": end.to_string() },
        }),
    );
    api.put(
        "organizations/demo",
        json!({ "apiVersion": "farplane.io/v1alpha1", "kind": "Organization",
            "metadata": { "name": "demo" }, "spec": {} }),
    );
    api
}

#[tokio::test]
async fn a_join_makes_the_host_and_a_certificate_that_opens_a_tunnel() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start_with(&keyring, "g1", api());
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["gateway.hub.test".to_owned()]).unwrap();
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let issued = enrol(&gateway.gateway, &request("one", &csr))
        .await
        .unwrap();
    assert_eq!(issued.identity, "farplane://host/demo/site/one/uid-of-one");
    assert_eq!(issued.server_name, "gateway.hub.test");
    let host = gateway.api.get("namespaces/org-demo/hosts/one").unwrap();
    assert_eq!(host["status"]["conditions"][0]["type"], "Enrolled");
    assert!(host["status"]["certificateNotAfter"].is_string());
    assert!(host["status"]["facts"].is_object());
    let leaf = crate::testing::Leaf {
        certificate: issued.certificate,
        key: key.serialize_pem(),
    };
    let (session, _incoming) = gateway.tunnel(&keyring, &leaf, 1).await;
    assert!(!session.is_closed());
}

#[tokio::test]
async fn of_many_uses_of_one_token_at_once_exactly_one_succeeds() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start_with(&keyring, "g1", api());
    let joins = (0..8).map(|number| {
        let gateway = Arc::clone(&gateway.gateway);
        let request = request(&format!("host{number}"), &csr());
        tokio::spawn(async move { enrol(&gateway, &request).await })
    });
    let mut joined = 0;
    for join in futures::future::join_all(joins).await {
        match join.unwrap() {
            Ok(_) => joined += 1,
            Err(JoinError::Refused(Refusal::Used { .. })) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(joined, 1);
    assert_eq!(gateway.api.count("namespaces/org-demo/hosts"), 1);
}

#[tokio::test]
async fn a_join_whose_answer_got_lost_is_answered_again_to_the_same_key_only() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start_with(&keyring, "g1", api());
    let csr = csr();
    let first = enrol(&gateway.gateway, &request("one", &csr))
        .await
        .unwrap();
    let again = enrol(&gateway.gateway, &request("one", &csr))
        .await
        .unwrap();
    assert_eq!(first.identity, again.identity);
    let other = enrol(&gateway.gateway, &request("one", &self::csr())).await;
    assert!(matches!(
        other,
        Err(JoinError::Refused(Refusal::Used { .. }))
    ));
}

#[tokio::test]
async fn a_taken_name_does_not_burn_the_token() {
    let keyring = Keyring::new();
    let api = api();
    api.put(
        "namespaces/org-demo/hosts/one",
        json!({ "apiVersion": "farplane.io/v1alpha1", "kind": "Host", "spec": { "endpoint": "site" },
            "metadata": { "name": "one", "namespace": "org-demo", "uid": "other" } }),
    );
    let gateway = TestGateway::start_with(&keyring, "g1", api);
    let taken = enrol(&gateway.gateway, &request("one", &csr())).await;
    assert!(matches!(
        taken,
        Err(JoinError::Refused(Refusal::NameTaken { .. }))
    ));
    assert!(gateway.api.get(TOKEN).unwrap()["status"].is_null());
    assert!(
        enrol(&gateway.gateway, &request("two", &csr()))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_damaged_request_does_not_burn_the_token() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start_with(&keyring, "g1", api());
    let bad = enrol(&gateway.gateway, &request("one", "nonsense")).await;
    assert!(matches!(
        bad,
        Err(JoinError::Refused(Refusal::BadRequest { .. }))
    ));
    assert!(gateway.api.get(TOKEN).unwrap()["status"].is_null());
}

#[tokio::test]
async fn without_the_api_nobody_joins_and_nobody_is_told_that_a_token_is_bad() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start_with(&keyring, "g1", api());
    gateway
        .api
        .down
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let failed = enrol(&gateway.gateway, &request("one", &csr())).await;
    assert!(matches!(failed, Err(JoinError::Api { .. })));
    gateway
        .api
        .down
        .store(false, std::sync::atomic::Ordering::Relaxed);
    assert!(
        enrol(&gateway.gateway, &request("one", &csr()))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_token_of_another_organization_or_unknown_is_refused_alike() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start_with(&keyring, "g1", api());
    for (organization, id) in [("other", "t1"), ("demo", "t2")] {
        let mut forged = token();
        forged.organization = organization.into();
        forged.id = id.into();
        let mut request = request("one", &csr());
        request.token = forged.to_string();
        let refused = enrol(&gateway.gateway, &request).await;
        assert!(matches!(refused, Err(JoinError::Refused(Refusal::Unknown))));
    }
}

#[test]
fn a_certificate_names_the_identity_and_nothing_of_the_request() {
    let keyring = Keyring::new();
    let request = SigningRequest::parse(&csr()).unwrap();
    let identity: Identity = "farplane://host/demo/site/one/u".parse().unwrap();
    let (certificate, key) = (keyring.host.pem(), keyring.host.key().serialize_pem());
    let now = OffsetDateTime::now_utc();
    let issued = issue::sign(&request, &identity, (&certificate, &key), now).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(issued.certificate.as_bytes()).unwrap();
    let parsed = pem.parse_x509().unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    assert!(!parsed.is_ca());
    assert_eq!(parsed.subject().iter().count(), 0);
}
