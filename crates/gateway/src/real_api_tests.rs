//! The whole gateway against a real etcd and API server.
//!
//! Ignored unless asked for, as it needs `etcd` and `kube-apiserver` in the directory that
//! `FARPLANE_TEST_BIN` names.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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

use crate::testing::{DOMAIN, Keyring, Leaf, tls};
use crate::{Settings, run};

/// Ends the process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn start(program: &str, directory: &Path, arguments: &[String]) -> Running {
    let programs = std::env::var("FARPLANE_TEST_BIN").expect("FARPLANE_TEST_BIN is not set");
    let log = std::fs::File::create(directory.join(format!("{program}.log"))).unwrap();
    let child = Command::new(Path::new(&programs).join(program))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Running(child)
}

/// A hub's API without anything else.
struct Hub {
    client: Client,
    _processes: Vec<Running>,
    _directory: tempfile::TempDir,
}

impl Hub {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let key = KeyPair::generate().unwrap();
        std::fs::write(path.join("sa.key"), key.serialize_pem()).unwrap();
        std::fs::write(path.join("sa.pub"), key.public_key_pem()).unwrap();
        let admin = "admin,admin,1,\"system:masters\"\n";
        std::fs::write(path.join("tokens.csv"), admin).unwrap();
        let (store, peer, api) = (free_port(), free_port(), free_port());
        let etcd = [
            "--data-dir=data".to_owned(),
            format!("--listen-client-urls=http://127.0.0.1:{store}"),
            format!("--advertise-client-urls=http://127.0.0.1:{store}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
        ];
        let api_server = [
            format!("--etcd-servers=http://127.0.0.1:{store}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={api}"),
            "--cert-dir=certs".to_owned(),
            "--token-auth-file=tokens.csv".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--service-account-issuer=https://test".to_owned(),
            "--service-account-key-file=sa.pub".to_owned(),
            "--service-account-signing-key-file=sa.key".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ];
        let processes = vec![
            start("etcd", path, &etcd),
            start("kube-apiserver", path, &api_server),
        ];
        let uri = format!("https://127.0.0.1:{api}").parse().unwrap();
        let mut config = kube::Config::new(uri);
        config.accept_invalid_certs = true;
        config.auth_info.token = Some("admin".to_owned().into());
        let client = Client::try_from(config).unwrap();
        let hub = Self {
            client,
            _processes: processes,
            _directory: directory,
        };
        let namespaces: Api<Namespace> = Api::all(hub.client.clone());
        eventually("API server", async || {
            namespaces.get("default").await.ok().map(|_| ())
        })
        .await;
        hub
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

/// Asks again and again until there is an answer.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let limit = Duration::from_secs(60);
    let answer = tokio::time::timeout(limit, asking).await;
    answer.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
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
    lines::send(&mut output, &AgentMessage::Clean)
        .await
        .unwrap();
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
