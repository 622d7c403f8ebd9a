//! The agent against the real gateway over loopback: its whole life as a host.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{
    Hub, Machine, PLANE, TestGateway, UID, echo_server, leaf, own, stop, until, until_or,
};
use farplane_agent::files::private_directory;
use farplane_agent::identity::Identity;
use farplane_agent::run::Ended;
use farplane_agent::serve::World;
use farplane_agent::state::Epoch;
use farplane_agent::status::Board;
use farplane_agent::tunnel::{Common, Keeper};
use farplane_tunnel::{Class, OpenError, OpenHeader, RefusalCode};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NO_ARTIFACTS: &str = "127.0.0.1:1";

/// A plan with one file and the API server's local address.
fn plan(file: &std::path::Path, listen: &str) -> serde_json::Value {
    json!({
        "listeners": [{ "address": listen, "port": 6443, "service": "api" }],
        "reachable": ["10.96.0.0/16"],
        "units": [{ "file": { "path": file, "content": "hello", "mode": 0o600 } }],
    })
}

/// Connects to a local address that the agent brings up.
async fn local(address: &str) -> TcpStream {
    let connecting = async {
        loop {
            if let Ok(mut socket) = TcpStream::connect((address, 6443)).await {
                let mut word = [0; 4];
                if socket.read_exact(&mut word).await.is_ok() && word == *b"api\n" {
                    return socket;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let connected = tokio::time::timeout(Duration::from_secs(60), connecting).await;
    connected.expect("the API server is reached through the tunnel")
}

async fn echoes(socket: &mut TcpStream) {
    socket.write_all(b"ping").await.unwrap();
    let mut word = [0; 4];
    socket.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
}

/// Joins machine `one` and waits until its plan is true.
async fn joined(hub: &Hub, gateway: &TestGateway, machine: &Machine, plan: &serde_json::Value) {
    until("the host joins", || {
        hub.host()
            .is_some_and(|it| !it["status"]["facts"].is_null())
    })
    .await;
    gateway.knows(hub);
    gateway.plans(hub, 1, plan);
    let state = || format!("no plan: {} {:?}", hub.plan_status(), machine.status());
    until_or(|| hub.is_applied(1), state).await;
    until("the status says so", || machine.status().phase == "running").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_joins_serves_restarts_and_is_removed_to_nothing() {
    let hub = Hub::new();
    let gateway = hub.gateway(None, NO_ARTIFACTS).await;
    let machine = Machine::new(gateway.address, Some(&hub.token("t1", 10)));
    let file = machine.folder.path().join("file");
    let _server = echo_server(&own(71)).await;
    gateway.api_server(&own(71));

    let agent = machine.start();
    joined(&hub, &gateway, &machine, &plan(&file, &own(81))).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "hello");
    let host = hub.host().unwrap();
    assert_eq!(
        host["status"]["facts"]["agentVersion"],
        farplane_agent::VERSION
    );
    let mut socket = local(&own(81)).await;
    echoes(&mut socket).await;
    // Half-close passes through both ways.
    socket.shutdown().await.unwrap();
    assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0);
    stop(agent).await;
    assert!(file.exists(), "what the plan made outlives the agent");

    let agent = machine.start();
    echoes(&mut local(&own(81)).await).await;
    gateway.removes(&hub);
    let ended = tokio::time::timeout(Duration::from_secs(60), agent.1).await;
    let ended = ended.expect("a removed host ends by itself");
    assert_eq!(ended.unwrap().unwrap(), Ended::Removed);
    assert!(!file.exists());
    assert!(Identity::load(&machine.agent_dir()).unwrap().is_none());
    assert_eq!(machine.status().phase, "removed");
    assert!(TcpStream::connect((own(81), 6443)).await.is_err());

    // Started again by a service manager: the spent token is not tried.
    let agent = machine.start();
    until("it says what to do", || {
        let status = machine.status();
        status
            .problems
            .get("enrolment")
            .is_some_and(|it| it.contains("join-command"))
    })
    .await;
    stop(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_streams_of_the_hub_are_checked_here_too() {
    let hub = Hub::new();
    let gateway = hub.gateway(None, NO_ARTIFACTS).await;
    let machine = Machine::new(gateway.address, Some(&hub.token("t1", 10)));
    let agent = machine.start();
    let file = machine.folder.path().join("file");
    joined(&hub, &gateway, &machine, &plan(&file, &own(82))).await;
    let session = gateway
        .gateway
        .sessions
        .pick(UID, Class::Interactive)
        .unwrap();
    for (service, plane, target, code) in [
        ("kubelet", Some("p2"), None, RefusalCode::Forbidden),
        ("kubelet", None, None, RefusalCode::Forbidden),
        (
            "net",
            Some("p2"),
            Some("10.96.0.1:443"),
            RefusalCode::Forbidden,
        ),
        (
            "net",
            Some("p1"),
            Some("127.0.0.1:22"),
            RefusalCode::Forbidden,
        ),
        (
            "net",
            Some("p1"),
            Some("[::ffff:10.96.0.1]:443"),
            RefusalCode::Forbidden,
        ),
        (
            "net",
            Some("p1"),
            Some("localhost:22"),
            RefusalCode::Forbidden,
        ),
        ("net", Some("p1"), None, RefusalCode::Forbidden),
        ("shell", Some("p1"), None, RefusalCode::UnknownService),
    ] {
        let mut header = OpenHeader::new(Class::Interactive, service);
        header.plane = plane.map(str::to_owned);
        header.target = target.map(str::to_owned);
        match session.open(header).await {
            Err(OpenError::Refused { code: said, .. }) => {
                assert_eq!(said, code, "{service} {target:?}")
            }
            other => panic!("{service} {target:?}: {other:?}"),
        }
    }
    stop(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_resets_local_connections_and_the_agent_comes_back() {
    let hub = Hub::new();
    let gateway = hub.gateway(None, NO_ARTIFACTS).await;
    let address = gateway.address;
    let machine = Machine::new(address, Some(&hub.token("t1", 10)));
    let file = machine.folder.path().join("file");
    let _server = echo_server(&own(73)).await;
    gateway.api_server(&own(73));
    let agent = machine.start();
    joined(&hub, &gateway, &machine, &plan(&file, &own(83))).await;
    let mut socket = local(&own(83)).await;
    gateway.kill().await;
    let error = socket.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    // Nobody there: reset after a short wait, never an end of file and never a hang.
    let mut waiting = TcpStream::connect((own(83), 6443)).await.unwrap();
    let error = waiting.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(file.exists());

    let gateway = hub.gateway(Some(address), NO_ARTIFACTS).await;
    gateway.knows(&hub);
    gateway.plans(&hub, 1, &plan(&file, &own(83)));
    gateway.api_server(&own(73));
    echoes(&mut local(&own(83)).await).await;
    stop(agent).await;
}

/// An identity as the hub signs it, valid from so many hours ago.
fn identity_of(hub: &Hub, since: i64) -> Identity {
    let uri = format!("farplane://host/demo/site/one/{UID}");
    let signed = leaf(&hub.host_ca, &uri, (since, since + 24));
    Identity {
        key: signed.key,
        certificate: signed.certificate,
        hub_ca: hub.hub_ca.pem(),
        identity: uri,
        server_name: "gateway.hub.test".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_past_its_half_life_is_renewed_with_a_new_key() {
    let hub = Hub::new();
    let gateway = hub.gateway(None, NO_ARTIFACTS).await;
    let machine = Machine::new(gateway.address, None);
    hub.put_host();
    gateway.knows(&hub);
    let old = identity_of(&hub, -23);
    private_directory(&machine.agent_dir()).unwrap();
    old.store(&machine.agent_dir()).unwrap();
    let agent = machine.start();
    let now = || Identity::load(&machine.agent_dir()).unwrap().unwrap();
    until("the certificate is renewed", || now() != old).await;
    assert_ne!(now().key, old.key);
    assert_eq!(now().identity, old.identity);
    assert!(now().times().unwrap().not_after > old.times().unwrap().not_after);
    let end = now().times().unwrap().not_after;
    until("status and hub say so", || {
        let told = hub.host().unwrap()["status"]["certificateNotAfter"].clone();
        machine.status().certificate_not_after == Some(end) && told == end.to_string()
    })
    .await;
    stop(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_does_not_cut_what_runs() {
    let hub = Hub::new();
    let gateway = hub.gateway(None, NO_ARTIFACTS).await;
    hub.put_host();
    gateway.knows(&hub);
    gateway.plans(&hub, 1, &json!({}));
    let _server = echo_server(&own(74)).await;
    gateway.api_server(&own(74));
    let folder = tempfile::tempdir().unwrap();
    let (identity, seen) = watch::channel(Arc::new(identity_of(&hub, -12)));
    let shutdown = CancellationToken::new();
    let common = Common {
        hub: gateway.address.to_string().parse().unwrap(),
        proxy: None,
        identity: seen,
        epoch: Arc::new(Epoch::load(folder.path())),
        world: World {
            plan: watch::channel(None).1,
            node: watch::channel(None).1,
            moves: Default::default(),
            bulk: tokio::runtime::Handle::current(),
        },
        board: Arc::new(Board::new("hub")),
        tunnels: Arc::default(),
        turn: Arc::default(),
        shutdown: shutdown.clone(),
    };
    let tunnels = Arc::clone(&common.tunnels);
    for class in [Class::Interactive, Class::Bulk] {
        tokio::spawn(Keeper::new(class, common.clone()).run());
    }
    let sessions = &gateway.gateway.sessions;
    let epoch = |class| {
        let session = sessions
            .pick(UID, class)
            .filter(|it| it.peer().class == class);
        session.map(|it| it.peer().epoch)
    };
    let header = |service: &str| {
        let mut header = OpenHeader::new(Class::Interactive, service);
        header.plane = Some(PLANE.to_owned());
        header
    };
    let patience = Duration::from_secs(30);
    until("both are there", || {
        epoch(Class::Interactive).is_some() && epoch(Class::Bulk).is_some()
    })
    .await;
    let (_, session) = tunnels.session(Class::Interactive).await;
    let plan = session.open(header("plan")).await.unwrap();
    let mut running = session.open(header("api")).await.unwrap();
    drop(session);
    let before = (epoch(Class::Interactive), epoch(Class::Bulk));

    identity.send_replace(Arc::new(identity_of(&hub, 0)));
    until("the interactive session takes no new streams", || {
        let held = sessions.all();
        held.iter().any(|it| *it.draining().borrow()) || epoch(Class::Bulk) != before.1
    })
    .await;
    let mut word = [0; 4];
    running.read_exact(&mut word).await.unwrap();
    // While one is exchanged, new streams find the other, from both sides.
    for _ in 0..20 {
        tunnels.open(header("api"), patience).await.unwrap();
        assert!(sessions.pick(UID, Class::Interactive).is_some());
    }
    running.write_all(b"ping").await.unwrap();
    running.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping", "a stream outlives the renewal");
    drop((running, plan));
    until("both sessions are new", || {
        epoch(Class::Interactive) > before.0 && epoch(Class::Bulk) > before.1
    })
    .await;
    shutdown.cancel();
    until("sessions end with the agent", || !sessions.holds(UID)).await;
}

/// Serves one archive; the first answer breaks off half way. Answers the ranges asked for.
async fn artifact_server(content: Vec<u8>, path: String) -> (String, Arc<Mutex<Vec<u64>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let ranges = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            assert!(
                head.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
                "{head}"
            );
            let range = head
                .lines()
                .find_map(|line| line.strip_prefix("range: bytes="));
            let offset: usize = range.unwrap().trim_end_matches('-').parse().unwrap();
            let first = ranges.lock().unwrap().is_empty();
            ranges.lock().unwrap().push(offset as u64);
            let rest = &content[offset..];
            let answer = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n\r\n",
                rest.len()
            );
            socket.write_all(answer.as_bytes()).await.unwrap();
            let sent = if first { &rest[..rest.len() / 2] } else { rest };
            socket.write_all(sent).await.unwrap();
        }
    });
    (address, asked)
}

fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let content: Vec<u8> = (0..400_000).map(|_| rand::random()).collect();
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "bin/program", &content[..])
        .unwrap();
    zstd::encode_all(&tar.into_inner().unwrap()[..], 1).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_come_through_the_tunnel_and_go_on_where_they_broke_off() {
    let archive = archive();
    let sha256 = hex::encode(Sha256::digest(&archive));
    let size = archive.len();
    let path = format!("/artifacts/{sha256}");
    let (server, asked) = artifact_server(archive, path).await;
    let hub = Hub::new();
    let gateway = hub.gateway(None, &server).await;
    let bulk = farplane_tunnel::bulk_runtime(1, 5).unwrap();
    let mut machine = Machine::new(gateway.address, Some(&hub.token("t1", 10)));
    machine.bulk = bulk.handle().clone();
    let agent = machine.start();
    let plan = json!({
        "units": [{ "artifact": { "name": "a", "sha256": sha256, "size": size } }],
    });
    joined(&hub, &gateway, &machine, &plan).await;
    let unpacked = machine
        .state()
        .join("artifacts")
        .join(&sha256)
        .join("bin/program");
    assert!(unpacked.exists(), "{}", hub.plan_status());
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked[0], 0);
    assert!(asked[1] > 0, "{asked:?}");
    stop(agent).await;
    bulk.shutdown_background();
}
