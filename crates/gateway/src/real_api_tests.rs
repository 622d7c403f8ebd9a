//! The whole gateway against a real etcd and API server.
//!
//! Ignored unless asked for, as it needs `etcd` and `kube-apiserver` in the directory that
//! `FARPLANE_TEST_BIN` names.

use std::net::SocketAddr;

use farplane_test_api::{ApiServer, eventually, free_port};
use farplane_tunnel::lines::{self, LineReader};
use farplane_tunnel::{ALPN, Class, Config, Hello, Incoming, OpenHeader, Session, TunnelStream};
use farplane_types::token::Token;
use farplane_types::wire::{AgentMessage, IssuedCertificate, JoinRequest, PlanMessage};
use farplane_types::{Host, HostFacts, HostPlan, JoinToken, Organization, conditions};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use rcgen::{CertificateParams, KeyPair};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use crate::testing::{DOMAIN, Keyring, Leaf, last_word, tls};
use crate::{Settings, run};

/// A hub's API without anything else.
struct Hub {
    client: Client,
    _server: ApiServer,
}

impl Hub {
    async fn start() -> Self {
        let server = ApiServer::start();
        Self {
            client: server.client().await,
            _server: server,
        }
    }

    async fn create<K>(&self, api: Api<K>, object: Value) -> K
    where
        K: Resource + DeserializeOwned + Serialize + Clone + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        // A definition that was just made takes a moment to be served.
        eventually("object to be created", async || {
            api.create(&PostParams::default(), &object).await.ok()
        })
        .await
    }

    async fn furnish(&self, keyring: &Keyring) {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for definition in farplane_types::all_crds() {
            let definition = serde_json::to_value(definition).unwrap();
            self.create(definitions.clone(), definition).await;
        }
        for name in ["farplane-system", "org-demo"] {
            let object = json!({ "metadata": { "name": name } });
            self.create(Api::<Namespace>::all(self.client.clone()), object)
                .await;
        }
        let sources = keyring.sources();
        let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes.unwrap()).unwrap();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), "farplane-system");
        let plane_ca = text(sources.plane_ca);
        for (name, certificate, key) in [
            (
                "gateway-tls",
                text(sources.gateway_certificate),
                text(sources.gateway_key),
            ),
            ("host-ca", text(sources.host_ca), text(sources.host_ca_key)),
            ("plane-ca", plane_ca, String::new()),
        ] {
            let data = json!({ "tls.crt": certificate, "tls.key": key });
            let object = json!({ "metadata": { "name": name }, "stringData": data });
            self.create(secrets.clone(), object).await;
        }
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), "farplane-system");
        let object =
            json!({ "metadata": { "name": "hub-ca" }, "data": { "ca.crt": text(sources.hub_ca) } });
        self.create(maps, object).await;
        let organizations: Api<Organization> = Api::all(self.client.clone());
        let object = json!({ "apiVersion": "farplane.io/v1alpha1", "kind": "Organization",
            "metadata": { "name": "demo" }, "spec": {} });
        self.create(organizations, object).await;
    }

    fn org<K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>>(
        &self,
    ) -> Api<K> {
        Api::namespaced(self.client.clone(), "org-demo")
    }
}

fn token() -> Token {
    Token {
        ca_sha256: "ab".repeat(32),
        organization: "demo".into(),
        id: "t1".into(),
        secret: "cd".repeat(32),
    }
}

async fn join(
    address: SocketAddr,
    keyring: &Keyring,
    name: &str,
    key: &KeyPair,
) -> (String, String) {
    let params = CertificateParams::new(vec!["x".to_owned()]).unwrap();
    let request = JoinRequest {
        token: token().to_string(),
        host: name.into(),
        csr: params.serialize_request(key).unwrap().pem().unwrap(),
        facts: HostFacts {
            node_address: "192.168.0.1".into(),
            ..HostFacts::default()
        },
    };
    let body = serde_json::to_string(&request).unwrap();
    let mut stream = tls(address, keyring, None, b"http/1.1").await.unwrap();
    let head = format!(
        "POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    _ = stream.read_to_string(&mut answer).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

async fn agent(
    address: SocketAddr,
    keyring: &Keyring,
    leaf: &Leaf,
) -> (Session, Incoming, TunnelStream) {
    let io = tls(address, keyring, Some(leaf), ALPN).await.unwrap();
    let hello = Hello::new("test", 1, Class::Interactive);
    let (session, incoming) = Session::connect(io, hello, Config::default())
        .await
        .unwrap();
    let header = OpenHeader::new(Class::Interactive, "plan");
    let plan = session.open(header).await.unwrap();
    (session, incoming, plan)
}

fn plan_object(finalizer: bool) -> Value {
    let finalizers = if finalizer {
        json!(["farplane.io/cleanup"])
    } else {
        json!([])
    };
    json!({ "apiVersion": "farplane.io/v1alpha1", "kind": "HostPlan",
        "metadata": { "name": "one", "finalizers": finalizers },
        "spec": { "plane": { "kind": "KubernetesCluster", "name": "c", "uid": "p1" } } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
#[allow(clippy::too_many_lines, reason = "one story, told in order")]
async fn a_host_joins_gets_a_plan_releases_it_and_is_removed() {
    let keyring = Keyring::new();
    let hub = Hub::start().await;
    hub.furnish(&keyring).await;
    let end = (Timestamp::now() + SignedDuration::from_mins(10)).to_string();
    let object = json!({ "apiVersion": "farplane.io/v1alpha1", "kind": "JoinToken",
        "metadata": { "name": "t1" },
        "spec": { "endpoint": "site", "secretSha256": token().secret_sha256(), "expiresAt": end } });
    hub.create(hub.org::<JoinToken>(), object).await;

    let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let stop = CancellationToken::new();
    let settings = Settings {
        hub_domain: DOMAIN.into(),
        listen: address,
        metrics_listen: ([127, 0, 0, 1], free_port()).into(),
        pod_name: "g1".into(),
        pod_ip: address.ip(),
        artifacts_url: "http://127.0.0.1:1".into(),
        registry_url: "http://127.0.0.1:1".into(),
        streams_per_organization: Settings::DEFAULT_STREAMS,
        bytes_in_flight_per_organization: Settings::DEFAULT_BYTES_IN_FLIGHT,
    };
    let bulk = tokio::runtime::Handle::current();
    let gateway = tokio::spawn(run(hub.client.clone(), settings, bulk, stop.clone()));
    eventually("gateway to listen", async || {
        tokio::net::TcpStream::connect(address).await.ok()
    })
    .await;

    let key = KeyPair::generate().unwrap();
    let (head, body) = join(address, &keyring, "one", &key).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head} {body}");
    let issued: IssuedCertificate = serde_json::from_str(&body).unwrap();
    let (head, _) = join(address, &keyring, "two", &KeyPair::generate().unwrap()).await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    let leaf = Leaf {
        certificate: issued.certificate,
        key: key.serialize_pem(),
    };
    let (_session, _incoming, plan) = agent(address, &keyring, &leaf).await;
    let (input, mut output) = tokio::io::split(plan);
    let mut heard = LineReader::new(BufReader::new(input), 1 << 20);
    assert_eq!(heard.next().await.unwrap(), Some(PlanMessage::Nothing));

    let hosts = hub.org::<Host>();
    eventually("directory entry", async || {
        let status = hosts.get_status("one").await.ok()?.status?;
        let entry = status.connections.first()?.clone();
        assert!(conditions::is_true(&status.conditions, "Enrolled"));
        assert_eq!(status.facts?.node_address, "192.168.0.1");
        (entry.gateway == "g1" && entry.address == address.to_string()).then_some(())
    })
    .await;
    // The controllers' own part of the status survives ours and the other way round.
    let other = json!({ "apiVersion": "farplane.io/v1alpha1", "kind": "Host", "status": {
        "cluster": "c", "connections": [{ "gateway": "g2", "address": "10.0.0.1:8443", "epoch": 1,
            "since": "2026-01-01T00:00:00Z" }] } });
    let params = PatchParams::apply("gateway-g2").force();
    hosts
        .patch_status("one", &params, &Patch::Apply(other))
        .await
        .unwrap();

    let plans = hub.org::<HostPlan>();
    hub.create(plans.clone(), plan_object(true)).await;
    let message = heard.next().await.unwrap();
    assert!(
        matches!(message, Some(PlanMessage::Plan { generation: 1, .. })),
        "{message:?}"
    );
    let report = AgentMessage::Report {
        generation: 1,
        applied: true,
        units: Vec::new(),
    };
    lines::send(&mut output, &report).await.unwrap();
    eventually("Applied", async || {
        let status = plans.get_status("one").await.ok()?.status?;
        conditions::is_true(&status.conditions, "Applied").then_some(())
    })
    .await;
    plans.delete("one", &DeleteParams::default()).await.unwrap();
    assert_eq!(heard.next().await.unwrap(), Some(PlanMessage::Nothing));
    lines::send(&mut output, &AgentMessage::Clean)
        .await
        .unwrap();
    eventually("Released", async || {
        let status = plans.get_status("one").await.ok()?.status?;
        assert!(conditions::is_true(&status.conditions, "Applied"));
        conditions::is_true(&status.conditions, "Released").then_some(())
    })
    .await;

    let finalizers = json!({ "metadata": { "finalizers": ["farplane.io/cleanup"] } });
    let params = PatchParams::default();
    hosts
        .patch("one", &params, &Patch::Merge(finalizers))
        .await
        .unwrap();
    hosts.delete("one", &DeleteParams::default()).await.unwrap();
    assert_eq!(heard.next().await.unwrap(), Some(PlanMessage::Removed));
    last_word(heard, output).await;
    eventually(
        "own directory entry to go and the other to stay",
        async || {
            let status = hosts.get_status("one").await.ok()?.status?;
            assert_eq!(status.cluster.as_deref(), Some("c"));
            let gateways: Vec<_> = status
                .connections
                .iter()
                .map(|it| it.gateway.as_str())
                .collect();
            (gateways == ["g2"]).then_some(())
        },
    )
    .await;
    stop.cancel();
    gateway.await.unwrap().unwrap();
}
