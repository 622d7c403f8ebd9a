//! Attacks on the approver: a host asks for what it is not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use common::{host, plan, view, world};
use farplane_kubernetes::{Decision, World, answers, decide_request};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rcgen::{Attribute, CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use serde_json::json;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";
/// OID of the attribute that holds extensions.
const EXTENSION_REQUEST: &[u64] = &[1, 2, 840, 113_549, 1, 9, 14];

/// What a host of these tests asks for.
#[derive(Clone)]
struct Ask {
    user: String,
    groups: Vec<String>,
    signer: String,
    usages: Vec<String>,
    common_name: String,
    organizations: Vec<String>,
    dns: Vec<String>,
    addresses: Vec<String>,
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

impl Ask {
    /// The node's first certificate, asked for with the bootstrap certificate.
    fn bootstrap(host: &str) -> Self {
        Self {
            user: format!("farplane:bootstrap:{host}"),
            groups: texts(&["system:bootstrappers:farplane", "system:authenticated"]),
            signer: CLIENT.to_owned(),
            usages: texts(&["digital signature", "client auth"]),
            common_name: format!("system:node:{host}"),
            organizations: texts(&["system:nodes"]),
            dns: vec![],
            addresses: vec![],
        }
    }

    /// Its renewal.
    fn client(host: &str) -> Self {
        Self {
            user: format!("system:node:{host}"),
            groups: texts(&["system:nodes", "system:authenticated"]),
            ..Self::bootstrap(host)
        }
    }

    fn serving(host: &str, address: &str) -> Self {
        Self {
            signer: SERVING.to_owned(),
            usages: texts(&["digital signature", "server auth"]),
            dns: texts(&[host]),
            addresses: texts(&[address]),
            ..Self::client(host)
        }
    }

    fn parameters(&self) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, &self.common_name);
        for organization in &self.organizations {
            name.push(DnType::OrganizationName, organization);
        }
        parameters.distinguished_name = name;
        let dns = self
            .dns
            .iter()
            .map(|name| SanType::DnsName(name.as_str().try_into().unwrap()));
        let addresses = self
            .addresses
            .iter()
            .map(|it| SanType::IpAddress(it.parse().unwrap()));
        parameters.subject_alt_names = dns.chain(addresses).collect();
        parameters
    }

    fn pem(&self) -> String {
        let key = KeyPair::generate().unwrap();
        self.parameters()
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap()
    }

    fn request(&self) -> CertificateSigningRequest {
        self.request_of(&self.pem())
    }

    fn request_of(&self, pem: &str) -> CertificateSigningRequest {
        use base64::Engine as _;
        serde_json::from_value(json!({
            "metadata": { "name": "csr-1" },
            "spec": {
                "request": base64::engine::general_purpose::STANDARD.encode(pem),
                "signerName": self.signer,
                "username": self.user,
                "groups": self.groups,
                "usages": self.usages,
            },
        }))
        .unwrap()
    }
}

/// Hosts `one` and `two` are this cluster's, `far` is another's, `free` is nobody's.
fn hosts() -> World {
    let mut world = world();
    world.hosts = vec![
        host("one", "192.0.2.11"),
        host("two", "192.0.2.12"),
        host("far", "192.0.2.13"),
        host("free", "192.0.2.14"),
    ];
    world.plans = vec![
        plan("one", "u-first"),
        plan("two", "u-first"),
        plan("far", "u-other"),
    ];
    world
}

fn asked(ask: &Ask) -> Decision {
    decide_request(&hosts(), &ask.request())
}

#[track_caller]
fn denied(ask: &Ask, words: &str) {
    match asked(ask) {
        Decision::Deny(why) => assert!(why.contains(words), "{why:?} lacks {words:?}"),
        other => panic!("{other:?} instead of a denial with {words:?}"),
    }
}

#[test]
fn a_host_gets_its_own_certificates() {
    for ask in [
        Ask::bootstrap("one"),
        Ask::client("one"),
        Ask::serving("one", "192.0.2.11"),
    ] {
        assert_eq!(asked(&ask), Decision::Approve, "{}", ask.signer);
    }
    // Keys of RSA are used to encipher, too.
    let mut rsa = Ask::client("one");
    rsa.usages.push("key encipherment".to_owned());
    assert_eq!(asked(&rsa), Decision::Approve);
}

#[test]
fn the_name_of_another_node_is_denied() {
    for mut ask in [
        Ask::bootstrap("one"),
        Ask::client("one"),
        Ask::serving("one", "192.0.2.11"),
    ] {
        ask.common_name = "system:node:two".to_owned();
        denied(&ask, "subject is not exactly CN=system:node:one");
    }
    let mut odd = Ask::client("one");
    odd.common_name = "system:node:one\0".to_owned();
    denied(&odd, "subject");
}

#[test]
fn hosts_of_others_are_denied() {
    denied(&Ask::bootstrap("far"), "does not belong to this cluster");
    denied(&Ask::bootstrap("free"), "does not belong to this cluster");
    denied(&Ask::client("nobody"), "does not belong to this cluster");
    denied(&Ask::bootstrap(""), "does not belong to this cluster");
    denied(
        &Ask::bootstrap("one/../two"),
        "does not belong to this cluster",
    );
    let ask = Ask::bootstrap("one");
    let mut leaving = hosts();
    leaving.plans[0].metadata.deletion_timestamp = Some(Time(leaving.now));
    assert!(matches!(
        decide_request(&leaving, &ask.request()),
        Decision::Deny(_)
    ));
    let mut removed = hosts();
    removed.hosts[0].metadata.deletion_timestamp = Some(Time(removed.now));
    assert!(matches!(
        decide_request(&removed, &ask.request()),
        Decision::Deny(_)
    ));
}

#[test]
fn other_groups_are_denied() {
    let mut masters = Ask::client("one");
    masters.organizations = texts(&["system:masters"]);
    denied(&masters, "subject is not exactly");
    let mut both = Ask::client("one");
    both.organizations = texts(&["system:nodes", "system:masters"]);
    denied(&both, "subject");
    let mut none = Ask::client("one");
    none.organizations.clear();
    denied(&none, "subject");
    let mut requestor = Ask::client("one");
    requestor.groups.push("system:masters".to_owned());
    denied(&requestor, "groups are not exactly");
    let mut plain = Ask::client("one");
    plain.groups = texts(&["system:authenticated"]);
    denied(&plain, "groups are not exactly");
}

#[test]
fn names_and_addresses_of_others_are_denied() {
    denied(
        &Ask::serving("one", "192.0.2.12"),
        "address is not the host's",
    );
    let mut more = Ask::serving("one", "192.0.2.11");
    more.addresses.push("198.18.0.1".to_owned());
    denied(&more, "address is not the host's");
    let mut named = Ask::serving("one", "192.0.2.11");
    named.dns.push("kubernetes.default.svc".to_owned());
    denied(&named, "only one is a name of this host");
    let mut any = Ask::serving("one", "192.0.2.11");
    any.dns = texts(&["*"]);
    denied(&any, "only one is a name");
    let mut empty = Ask::serving("one", "192.0.2.11");
    (empty.dns, empty.addresses) = (vec![], vec![]);
    denied(&empty, "without a name or address");
    let mut client = Ask::client("one");
    client.dns = texts(&["one"]);
    denied(&client, "no alternative names");
}

#[test]
fn an_address_taken_from_another_host_is_denied() {
    let at = |second| {
        Some(Time(
            k8s_openapi::jiff::Timestamp::from_second(second).unwrap(),
        ))
    };
    let mut world = hosts();
    // Host two says of itself that it has the address of host one.
    world.hosts[1] = host("two", "192.0.2.11");
    world.plans[0].metadata.creation_timestamp = at(100);
    world.plans[1].metadata.creation_timestamp = at(200);
    match decide_request(&world, &Ask::serving("two", "192.0.2.11").request()) {
        Decision::Deny(why) => assert!(
            why.contains("host one of this cluster has this address"),
            "{why}"
        ),
        other => panic!("{other:?}"),
    }
    let own = decide_request(&world, &Ask::serving("one", "192.0.2.11").request());
    assert_eq!(own, Decision::Approve);
}

#[test]
fn other_usages_are_denied() {
    let mut both = Ask::client("one");
    both.usages.push("server auth".to_owned());
    denied(&both, "usages are not exactly client auth");
    let mut signing = Ask::client("one");
    signing.usages.push("cert sign".to_owned());
    denied(&signing, "usages");
    let mut swapped = Ask::serving("one", "192.0.2.11");
    swapped.usages = texts(&["digital signature", "client auth"]);
    denied(&swapped, "usages are not exactly server auth");
    let mut none = Ask::client("one");
    none.usages.clear();
    denied(&none, "usages");
}

#[test]
fn a_host_that_is_no_node_yet_gets_no_serving_certificate() {
    let mut early = Ask::bootstrap("one");
    early.signer = SERVING.to_owned();
    denied(&early, "before it is a node");
}

#[test]
fn what_is_not_asked_of_us_is_not_answered() {
    let mut general = Ask::client("one");
    general.signer = "kubernetes.io/kube-apiserver-client".to_owned();
    assert_eq!(asked(&general), Decision::Ignore);
    let mut person = Ask::client("one");
    person.user = "admin".to_owned();
    assert_eq!(asked(&person), Decision::Ignore);
    let mut answered = Ask::client("two").request();
    answered.status = serde_json::from_value(json!({
        "conditions": [{ "type": "Denied", "status": "True", "reason": "x" }],
    }))
    .unwrap();
    assert_eq!(decide_request(&hosts(), &answered), Decision::Ignore);
}

#[test]
fn a_second_list_of_extensions_is_denied() {
    // SEQUENCE { SEQUENCE { subjectAltName, OCTET STRING { SEQUENCE { dNSName "evil" } } } }
    const HIDDEN: &[u8] = b"\x30\x11\x30\x0f\x06\x03\x55\x1d\x11\x04\x08\x30\x06\x82\x04evil";
    let ask = Ask::serving("one", "192.0.2.11");
    let key = KeyPair::generate().unwrap();
    let values = [&[0x31, u8::try_from(HIDDEN.len()).unwrap()], HIDDEN].concat();
    let hidden = Attribute {
        oid: EXTENSION_REQUEST,
        values,
    };
    let request = ask.parameters();
    let request = request.serialize_request_with_attributes(&key, vec![hidden]);
    let pem = request.unwrap().pem().unwrap();
    let decision = decide_request(&hosts(), &ask.request_of(&pem));
    let Decision::Deny(why) = decision else {
        panic!("{decision:?}");
    };
    assert!(why.contains("attributes"), "{why}");
}

#[test]
fn text_that_can_be_read_in_two_ways_is_denied() {
    let good = Ask::client("one");
    let pem = good.pem();
    let other = Ask::client("two").pem();
    for (text, words) in [
        (format!("{pem}{other}"), "not one block"),
        (format!("-----BEGIN X-----\n{pem}"), "PEM"),
        (pem.replacen("\n", "\nProc-Type: 4\n\n", 1), "PEM"),
        (
            pem.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
            "not of a certificate request",
        ),
        (pem.replace('\n', ""), "PEM"),
        (String::new(), "not one block"),
    ] {
        match decide_request(&hosts(), &good.request_of(&text)) {
            Decision::Deny(why) => assert!(why.contains(words), "{why:?} lacks {words:?}"),
            decision => panic!("{decision:?} for {text}"),
        }
    }
}

#[test]
fn a_request_that_its_key_did_not_sign_is_denied() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let good = Ask::client("one");
    let pem = good.pem();
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let mut der = STANDARD.decode(body).unwrap();
    *der.last_mut().unwrap() ^= 1;
    let lines = STANDARD.encode(der);
    let lines: Vec<&str> = lines
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    let text = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        lines.join("\n")
    );
    let decision = decide_request(&hosts(), &good.request_of(&text));
    assert!(
        matches!(&decision, Decision::Deny(why) if why.contains("not signed")),
        "{decision:?}"
    );
}

#[test]
fn only_open_requests_of_nodes_get_an_answer() {
    let mut world = hosts();
    let mut seen = view(&[], 0);
    let mut foreign = Ask::client("one");
    foreign.user = "somebody".to_owned();
    let mut bad = Ask::client("one");
    bad.common_name = "admin".to_owned();
    seen.requests = vec![
        foreign.request(),
        Ask::client("one").request(),
        bad.request(),
    ];
    world.view = Some(seen);
    let answers = answers(&world);
    assert_eq!(answers.len(), 2);
    assert!(answers[0].approved && answers[0].reason.is_empty());
    assert!(!answers[1].approved && !answers[1].reason.is_empty());
}
