//! The gateway over real sockets: who gets in, what they reach, and what they do not.

use std::net::SocketAddr;

use farplane_tunnel::Session;
use farplane_tunnel::lines;
use farplane_tunnel::{ALPN, Class, Incoming, OpenError, OpenHeader, PEER_ALPN, RefusalCode};
use farplane_types::wire::{AgentMessage, PlanMessage};
use farplane_types::{Host, HostPlan, KubernetesCluster};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::testing::{Keyring, Leaf, TestGateway, last_word, messages};
use crate::world::{Key, SystemPod, Tracked};

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn insert<T: Tracked>(gateway: &TestGateway, object: T) {
    gateway
        .gateway
        .world
        .change(|world| T::insert(world, object));
}

fn host(organization: &str, name: &str, uid: &str, connections: &Value) -> Host {
    read(json!({
        "apiVersion": "farplane.io/v1alpha1", "kind": "Host",
        "metadata": { "name": name, "namespace": format!("org-{organization}"), "uid": uid },
        "spec": { "endpoint": "site" },
        "status": { "connections": connections, "facts": {
            "agentVersion": "1", "operatingSystem": "test", "kernel": "6", "architecture": "x86_64",
            "vcpus": 1, "memoryBytes": 1, "nodeAddress": "192.168.0.1", "cgroupVersion": 2,
            "hasSysResource": true, "hasSystemd": false
        } },
    }))
}

/// Host `h1` of organization `demo` with a plan of plane `p1`.
pub fn furnish(gateway: &TestGateway, connections: &Value) {
    furnish_with(gateway, connections, &json!([]));
}

fn furnish_with(gateway: &TestGateway, connections: &Value, listeners: &Value) {
    insert(gateway, host("demo", "one", "h1", connections));
    insert::<KubernetesCluster>(
        gateway,
        read(json!({
            "apiVersion": "farplane.io/v1alpha1", "kind": "KubernetesCluster",
            "metadata": { "name": "c", "namespace": "org-demo", "uid": "p1" }, "spec": {},
        })),
    );
    insert::<HostPlan>(
        gateway,
        read(json!({
            "apiVersion": "farplane.io/v1alpha1", "kind": "HostPlan",
            "metadata": { "name": "one", "namespace": "org-demo", "uid": "plan1", "generation": 1 },
            "spec": {
                "plane": { "kind": "KubernetesCluster", "name": "c", "uid": "p1" },
                "reachable": ["10.96.0.0/16"],
                "listeners": listeners,
            },
        })),
    );
}

fn header(service: &str, plane: Option<&str>) -> OpenHeader {
    let mut header = OpenHeader::new(Class::Interactive, service);
    header.plane = plane.map(str::to_owned);
    header
}

async fn refused(session: &Session, service: &str, plane: Option<&str>) -> RefusalCode {
    match session.open(header(service, plane)).await {
        Err(OpenError::Refused { code, .. }) => code,
        other => panic!("{service} {plane:?}: {other:?}"),
    }
}

/// An agent that answers every stream with what it was asked for, then echoes.
fn echo(mut incoming: Incoming) {
    tokio::spawn(async move {
        while let Some(stream) = incoming.next().await {
            tokio::spawn(async move {
                let header = stream.header().clone();
                let mut stream = stream.accept().await.unwrap();
                let target = header.target.unwrap_or_default();
                let line = format!("{} {target}\n", header.service);
                stream.write_all(line.as_bytes()).await.unwrap();
                let (mut input, mut output) = tokio::io::split(stream);
                _ = tokio::io::copy(&mut input, &mut output).await;
            });
        }
    });
}

/// Sends a request with these head lines and reads until the connection ends or `enough`.
async fn exchange(
    gateway: &TestGateway,
    keyring: &Keyring,
    leaf: Option<&Leaf>,
    head: &str,
    enough: &str,
) -> String {
    let mut tls = gateway.tls(keyring, leaf, b"").await.unwrap();
    tls.write_all(head.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let seen = String::from_utf8_lossy(&text);
        if !enough.is_empty() && seen.contains(enough) {
            return seen.into_owned();
        }
        match tls.read(&mut chunk).await {
            Ok(0) | Err(_) => return seen.into_owned(),
            Ok(count) => text.extend_from_slice(&chunk[..count]),
        }
    }
}

/// Whether a session can be opened with this certificate and protocol.
async fn gets_session(
    gateway: &TestGateway,
    keyring: &Keyring,
    leaf: Option<&Leaf>,
    alpn: &[u8],
) -> bool {
    let Ok(tls) = gateway.tls(keyring, leaf, alpn).await else {
        return false;
    };
    let hello = farplane_tunnel::Hello::new("test", 1, Class::Interactive);
    let config = farplane_tunnel::Config::default();
    Session::connect(tls, hello, config).await.is_ok()
}

#[tokio::test]
async fn tunnels_are_for_hosts_and_peers_for_gateways() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start(&keyring, "g1");
    furnish(&gateway, &json!([]));
    let own = keyring.host("demo", "one", "h1");
    let plane = keyring.plane("p1");
    let peer = Keyring::leaf(&keyring.hub, "farplane://gateway");
    let forged_host = Keyring::leaf(&keyring.plane, "farplane://host/demo/site/one/h1");
    let forged_peer = Keyring::leaf(&keyring.host, "farplane://gateway");
    let stranger = Keyring::new().host("demo", "one", "h1");
    for (leaf, tunnel, hop) in [
        (Some(&own), true, false),
        (Some(&plane), false, false),
        (Some(&peer), false, true),
        (Some(&forged_host), false, false),
        (Some(&forged_peer), false, false),
        (Some(&stranger), false, false),
        (None, false, false),
    ] {
        assert_eq!(gets_session(&gateway, &keyring, leaf, ALPN).await, tunnel);
        assert_eq!(gets_session(&gateway, &keyring, leaf, PEER_ALPN).await, hop);
    }
}

#[tokio::test]
async fn an_agent_hears_its_plan_and_reports_on_it() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start(&keyring, "g1");
    furnish(&gateway, &json!([]));
    let stored = json!({ "metadata": { "name": "one", "namespace": "org-demo", "uid": "h1" },
        "apiVersion": "farplane.io/v1alpha1", "kind": "Host", "spec": { "endpoint": "site" }, "status": {} });
    gateway.api.put("namespaces/org-demo/hosts/one", stored);
    let stored = json!({ "metadata": { "name": "one", "namespace": "org-demo", "uid": "plan1" },
        "apiVersion": "farplane.io/v1alpha1", "kind": "HostPlan",
        "spec": { "plane": { "kind": "KubernetesCluster", "name": "c", "uid": "p1" } }, "status": {} });
    gateway.api.put("namespaces/org-demo/hostplans/one", stored);

    let leaf = keyring.host("demo", "one", "h1");
    let (session, _incoming) = gateway.tunnel(&keyring, &leaf, 1).await;
    let stream = session.open(header("plan", None)).await.unwrap();
    let (mut lines, mut output) = messages(stream);
    let first: PlanMessage = lines.next().await.unwrap().unwrap();
    assert!(matches!(first, PlanMessage::Plan { generation: 1, .. }));
    let report = AgentMessage::Report {
        generation: 1,
        applied: true,
        units: Vec::new(),
    };
    lines::send(&mut output, &report).await.unwrap();
    loop {
        let plan = gateway
            .api
            .get("namespaces/org-demo/hostplans/one")
            .unwrap();
        let host = gateway.api.get("namespaces/org-demo/hosts/one").unwrap();
        let applied = plan["status"]["conditions"][0]["status"] == "True";
        if applied && host["status"]["connections"][0]["gateway"] == "g1" {
            break;
        }
        tokio::task::yield_now().await;
    }
    session.close("test");
    loop {
        let host = gateway.api.get("namespaces/org-demo/hosts/one").unwrap();
        if host["status"]["connections"] == json!([]) {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn another_plane_and_unknown_services_are_refused() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start(&keyring, "g1");
    furnish(&gateway, &json!([]));
    let leaf = keyring.host("demo", "one", "h1");
    let (session, _incoming) = gateway.tunnel(&keyring, &leaf, 1).await;
    assert_eq!(
        refused(&session, "api", Some("p2")).await,
        RefusalCode::Forbidden
    );
    assert_eq!(refused(&session, "api", None).await, RefusalCode::Forbidden);
    // The right plane, but no API server runs.
    assert_eq!(
        refused(&session, "api", Some("p1")).await,
        RefusalCode::Unreachable
    );
    for service in ["kubelet", "net", "via:demo/h1/kubelet", ""] {
        assert_eq!(
            refused(&session, service, Some("p1")).await,
            RefusalCode::UnknownService
        );
    }
}

#[tokio::test]
async fn images_are_for_hosts_whose_plan_offers_them_and_at_an_address_of_their_own() {
    let keyring = Keyring::new();
    let images = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = images.local_addr().unwrap().to_string();
    let gateway = TestGateway::start_at(&keyring, "g1", &registry);
    furnish(&gateway, &json!([]));
    let leaf = keyring.host("demo", "one", "h1");
    let (session, _incoming) = gateway.tunnel(&keyring, &leaf, 1).await;
    assert_eq!(
        refused(&session, "registry", Some("p1")).await,
        RefusalCode::Forbidden
    );
    let listener = json!({ "address": "127.0.0.1", "port": 10270, "service": "registry" });
    furnish_with(&gateway, &json!([]), &json!([listener]));
    for plane in [Some("p2"), None] {
        assert_eq!(
            refused(&session, "registry", plane).await,
            RefusalCode::Forbidden
        );
    }
    // Whatever is asked arrives there, where nothing but images is; the files of the artifact
    // server stay a service of the host itself.
    let opening = session.open(header("registry", Some("p1")));
    let (stream, accepted) = tokio::join!(opening, images.accept());
    let (mut stream, (mut socket, _)) = (stream.unwrap(), accepted.unwrap());
    stream.write_all(b"GET /index.json").await.unwrap();
    let mut arrived = [0; 15];
    socket.read_exact(&mut arrived).await.unwrap();
    assert_eq!(&arrived, b"GET /index.json");
}

#[tokio::test]
async fn a_host_that_is_gone_is_told_so_and_gets_nothing_else() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start(&keyring, "g1");
    let leaf = keyring.host("demo", "one", "h1");
    let (session, _incoming) = gateway.tunnel(&keyring, &leaf, 1).await;
    let stream = session.open(header("plan", None)).await.unwrap();
    let (mut lines, output) = messages(stream);
    assert_eq!(lines.next().await.unwrap(), Some(PlanMessage::Removed));
    for service in ["api", "repo", "registry", "renew"] {
        assert!(
            session.open(header(service, Some("p1"))).await.is_err(),
            "{service}"
        );
    }
    last_word(lines, output).await;
    session.closed().await;
}

#[tokio::test]
async fn a_host_just_joined_is_not_taken_for_a_removed_one() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start(&keyring, "g1");
    // The API knows the host, the watch does not yet.
    let object = json!({ "metadata": { "name": "one", "namespace": "org-demo", "uid": "h1" },
        "apiVersion": "farplane.io/v1alpha1", "kind": "Host", "spec": { "endpoint": "site" } });
    gateway.api.put("namespaces/org-demo/hosts/one", object);
    let leaf = keyring.host("demo", "one", "h1");
    let (session, _incoming) = gateway.tunnel(&keyring, &leaf, 1).await;
    let opening = tokio::spawn({
        let session = session.clone();
        async move { session.open(header("plan", None)).await.unwrap() }
    });
    furnish(&gateway, &json!([]));
    let (mut lines, _output) = messages(opening.await.unwrap());
    assert!(matches!(
        lines.next().await.unwrap(),
        Some(PlanMessage::Plan { .. })
    ));
}

#[tokio::test]
async fn a_host_is_never_told_removed_while_the_api_is_away() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start(&keyring, "g1");
    gateway
        .api
        .down
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let leaf = keyring.host("demo", "one", "h1");
    let (session, _incoming) = gateway.tunnel(&keyring, &leaf, 1).await;
    assert!(session.open(header("plan", None)).await.is_err());
    session.closed().await;
}

#[tokio::test]
async fn a_deleted_host_loses_its_streams_at_once_and_may_clean_itself() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start(&keyring, "g1");
    furnish(&gateway, &json!([]));
    let leaf = keyring.host("demo", "one", "h1");
    let (session, _incoming) = gateway.tunnel(&keyring, &leaf, 1).await;
    let plan = session.open(header("plan", None)).await.unwrap();
    let (mut lines, output) = messages(plan);
    assert!(matches!(
        lines.next().await.unwrap(),
        Some(PlanMessage::Plan { .. })
    ));
    let mut renew = session.open(header("renew", None)).await.unwrap();
    let key = Key {
        namespace: "org-demo".into(),
        name: "one".into(),
    };
    gateway
        .gateway
        .world
        .change(|world| Host::remove(world, &key));
    assert_eq!(lines.next().await.unwrap(), Some(PlanMessage::Removed));
    assert!(renew.read_u8().await.is_err());
    last_word(lines, output).await;
    session.closed().await;
}

#[tokio::test]
async fn egress_reaches_the_planes_hosts_and_nothing_at_the_hub() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start(&keyring, "g1");
    furnish(&gateway, &json!([]));
    let leaf = keyring.host("demo", "one", "h1");
    let (_session, incoming) = gateway.tunnel(&keyring, &leaf, 1).await;
    echo(incoming);
    gateway.holding("h1").await;
    let plane = keyring.plane("p1");
    let connect = |target: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");

    let head = connect("192.168.0.1:10250") + "early";
    let answer = exchange(&gateway, &keyring, Some(&plane), &head, "early").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("kubelet \nearly"), "{answer}");

    let head = connect("10.96.0.10:443") + "early";
    let answer = exchange(&gateway, &keyring, Some(&plane), &head, "early").await;
    assert!(answer.contains("net 10.96.0.10:443\nearly"), "{answer}");

    let hub = gateway.address.to_string();
    let other = keyring.plane("p2");
    let peer = Keyring::leaf(&keyring.hub, "farplane://gateway");
    for (leaf, target) in [
        (Some(&plane), hub.as_str()),
        (Some(&plane), "10.97.0.1:443"),
        (Some(&plane), "localhost:10250"),
        (Some(&other), "192.168.0.1:10250"),
        (Some(&other), "10.96.0.10:443"),
        (Some(&peer), "192.168.0.1:10250"),
        (Some(&leaf), "192.168.0.1:10250"),
        (None, "192.168.0.1:10250"),
    ] {
        let answer = exchange(&gateway, &keyring, leaf, &connect(target), "").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{target}: {answer}");
    }
    let smuggled =
        "CONNECT 10.96.0.10:443 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = exchange(&gateway, &keyring, Some(&plane), smuggled, "").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

fn pod(name: &str, address: SocketAddr) -> SystemPod {
    SystemPod(read(json!({
        "metadata": { "name": name, "namespace": "farplane-system" },
        "status": { "phase": "Running", "podIP": address.ip().to_string() },
    })))
}

#[tokio::test]
async fn a_gateway_without_the_tunnel_reaches_the_one_with_it_by_one_hop() {
    let keyring = Keyring::new();
    let with = TestGateway::start(&keyring, "with");
    let without = TestGateway::start(&keyring, "without");
    let connections = json!([{ "gateway": "with", "address": with.address.to_string(),
        "epoch": 1, "since": "2026-01-01T00:00:00Z" }]);
    for gateway in [&with, &without] {
        furnish(gateway, &connections);
        insert(gateway, pod("with", with.address));
        insert(gateway, pod("without", without.address));
    }
    let leaf = keyring.host("demo", "one", "h1");
    let (session, incoming) = with.tunnel(&keyring, &leaf, 1).await;
    echo(incoming);
    with.holding("h1").await;
    let plane = keyring.plane("p1");
    let head = "CONNECT 10.96.0.10:443 HTTP/1.1\r\nHost: x\r\n\r\nearly";
    let answer = exchange(&without, &keyring, Some(&plane), head, "early").await;
    assert!(answer.contains("net 10.96.0.10:443\nearly"), "{answer}");

    // The tunnel is gone but the directory still says otherwise: no second hop, an answer.
    session.close("test");
    while with.gateway.sessions.holds("h1") {
        tokio::task::yield_now().await;
    }
    let answer = exchange(&without, &keyring, Some(&plane), head, "").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

#[tokio::test]
async fn an_unknown_cluster_name_is_answered_with_an_alert() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start(&keyring, "g1");
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let tcp = tokio::net::TcpStream::connect(gateway.address)
        .await
        .unwrap();
    let name = "none.demo.k8s.hub.test".try_into().unwrap();
    let error = connector.connect(name, tcp).await.unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
}

#[tokio::test]
async fn an_organization_over_its_share_is_told_busy() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start(&keyring, "g1");
    furnish(&gateway, &json!([]));
    let leaf = keyring.host("demo", "one", "h1");
    let (session, _incoming) = gateway.tunnel(&keyring, &leaf, 1).await;
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(session.open(header("renew", None)).await.unwrap());
    }
    assert_eq!(refused(&session, "renew", None).await, RefusalCode::Busy);
    drop(held);
    while session.open(header("renew", None)).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn health_is_answered_and_everything_else_is_not_there() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start(&keyring, "g1");
    for (path, status) in [("/healthz", "200"), ("/metrics", "404"), ("/", "404")] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = exchange(&gateway, &keyring, None, &head, "").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
}
