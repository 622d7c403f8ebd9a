//! Calls and logs through an API server to a node, whose kubelet is one of ours: it forwards
//! ports and tells logs as kubelets do.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use farplane_functions_types::auth::{Key, Service, now};
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::world::{World, err};

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// What a kubelet was asked for.
#[derive(Default)]
struct Seen {
    ports: Vec<String>,
    logs: Vec<String>,
}

/// A kubelet; gives its port.
async fn kubelet() -> (u16, Arc<Mutex<Seen>>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&shared));
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let answer = service_fn(move |request| {
                    let answer = answer(request, &seen);
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                let serving = hyper::server::conn::http1::Builder::new();
                let _ = serving
                    .serve_connection(TokioIo::new(stream), answer)
                    .with_upgrades()
                    .await;
            });
        }
    });
    (port, seen)
}

fn answer(request: Request<Incoming>, seen: &Mutex<Seen>) -> Response<Body> {
    let target = request.uri().to_string();
    let mut seen = seen.lock().unwrap();
    if target.starts_with("/portForward/fission/router-1") {
        seen.ports.push(target);
        return forward(request);
    }
    if target.starts_with("/containerLogs/default/instance-1/python") {
        let count = seen.logs.len();
        seen.logs.push(target.clone());
        return logs(count, target.contains("follow=true"));
    }
    let mut answer = Response::new(Full::from(target).boxed());
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer
}

/// Two lines and the end; then one of them again with one more, and so on.
fn logs(count: usize, follow: bool) -> Response<Body> {
    let line = |number: usize| format!("2026-01-01T00:00:0{number}.5Z line {number}\n");
    let text = line(count) + &line(count + 1);
    let first = futures::stream::iter([Ok(Frame::data(Bytes::from(text)))]);
    // The third stream stays open, as that of an instance that is quiet.
    match follow && count == 2 {
        true => Response::new(BodyExt::boxed(StreamBody::new(
            first.chain(futures::stream::pending()),
        ))),
        false => Response::new(BodyExt::boxed(StreamBody::new(first))),
    }
}

/// Forwards to a router that answers one request, in the words of `v4.channel.k8s.io`.
fn forward(request: Request<Incoming>) -> Response<Body> {
    let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
    assert!(header("sec-websocket-protocol").contains("v4.channel.k8s.io"));
    let accept = derive_accept_key(header("sec-websocket-key").as_bytes());
    tokio::spawn(async move {
        let upgraded = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await;
        for channel in [0_u8, 1] {
            let port = 8889_u16.to_le_bytes();
            let frame = vec![channel, port[0], port[1]];
            socket.send(Message::binary(frame)).await.unwrap();
        }
        let (near, mut far) = tokio::io::duplex(1 << 16);
        tokio::spawn(router(near));
        let mut buffer = [0; 1024];
        loop {
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Binary(bytes))) if bytes[0] == 0 => {
                        far.write_all(&bytes[1..]).await.unwrap();
                    }
                    Some(Ok(_)) => {}
                    _ => return,
                },
                count = far.read(&mut buffer) => {
                    let count = count.unwrap();
                    if count == 0 {
                        return;
                    }
                    let frame = [&[0], &buffer[..count]].concat();
                    socket.send(Message::binary(frame)).await.unwrap();
                }
            }
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept)
        .header("sec-websocket-protocol", "v4.channel.k8s.io")
        .body(Full::default().boxed())
        .unwrap()
}

/// Echoes the body of a request that is signed for it.
async fn router(stream: tokio::io::DuplexStream) {
    let answer = service_fn(|request: Request<Incoming>| async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let key = Key::derived(b"master", Service::RouterInternal, None);
        let target = head.uri.to_string();
        let checked = key.verify(head.method.as_str(), &target, &body, &head.headers, now());
        let (status, text) = match checked {
            Ok(()) => (StatusCode::OK, body),
            Err(error) => (StatusCode::UNAUTHORIZED, Bytes::from(error.to_string())),
        };
        let mut answer = Response::new(Full::new(text));
        *answer.status_mut() = status;
        Ok::<_, std::convert::Infallible>(answer)
    });
    let serving = hyper::server::conn::http1::Builder::new();
    let _ = serving.serve_connection(TokioIo::new(stream), answer).await;
}

/// A Pod on the node that answers.
fn pod(world: &World, namespace: &str, name: &str, labels: serde_json::Value, containers: &[&str]) {
    let containers: Vec<_> = containers
        .iter()
        .map(|name| json!({ "name": name, "image": "i" }))
        .collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "spec": { "nodeName": "one", "containers": containers },
    });
    world.write("pod.json", &object.to_string());
    let made = world.kubectl(&["create", "-f", "pod.json"]);
    assert!(made.status.success(), "{}", err(&made));
    let status = json!({ "status": {
        "phase": "Running", "podIP": "10.1.0.1",
        "conditions": [{ "type": "Ready", "status": "True" }],
    } });
    patch(world, &["pod", name, "-n", namespace], &status);
}

fn patch(world: &World, what: &[&str], status: &serde_json::Value) {
    let status = status.to_string();
    let words = [
        &["patch"],
        what,
        &["--subresource=status", "--type=merge", "-p", &status],
    ]
    .concat();
    let patched = world.kubectl(&words);
    assert!(patched.status.success(), "{}", err(&patched));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd, kube-apiserver, kubectl and helm in FARPLANE_TEST_BIN"]
async fn calls_and_logs_go_through_the_api_server_to_the_node() {
    let (port, seen) = kubelet().await;
    let work = tokio::task::spawn_blocking(move || {
        let world = World::start();
        world.install();
        let status = json!({ "status": {
            "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
        } });
        patch(&world, &["node", "one"], &status);
        let secret = [
            "create",
            "secret",
            "generic",
            "fission-internal-auth",
            "-n",
            "fission",
            "--from-literal=secret=master",
        ];
        assert!(world.kubectl(&secret).status.success());
        world.write("hello.py", "def main(): return 'hi'\n");
        world.expect(0, "fn create hello --env python --code hello.py --no-wait");
        called(&world);
        logged(&world);
        followed(&world);
    });
    work.await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.ports.len(), 1, "{:?}", seen.ports);
    assert!(seen.ports[0].contains("port=8889"), "{:?}", seen.ports);
    assert!(
        seen.logs
            .iter()
            .all(|asked| asked.contains("timestamps=true"))
    );
    let again = seen
        .logs
        .iter()
        .filter(|asked| asked.contains("sinceTime=2026-01-01"));
    assert!(again.count() >= 1, "{:?}", seen.logs);
}

fn called(world: &World) {
    let labels = json!({ "application": "fission-router", "svc": "router" });
    pod(world, "fission", "router-1", labels, &["router"]);
    let big = "x".repeat(100_000);
    world.write("body", &big);
    let output = world.run(&["fn", "call", "hello", "--body", "@body"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(output.stdout, big.as_bytes());
    assert!(err(&output).starts_with("200 OK in "), "{}", err(&output));
}

/// The container is the one of the environment, not the one that brings its code.
fn logged(world: &World) {
    let none = world.expect(0, "fn logs hello");
    assert!(none.contains("function hello has no instance"), "{none}");
    let labels = json!({ "functionName": "hello" });
    pod(
        world,
        "default",
        "instance-1",
        labels,
        &["fetcher", "python"],
    );
    assert_eq!(world.expect(0, "fn logs hello"), "line 0\nline 1\n");
}

/// Streams that end are taken up again, and no line is told twice.
fn followed(world: &World) {
    let mut following = Command::new(env!("CARGO_BIN_EXE_farplane"))
        .args(["fn", "logs", "-f", "hello"])
        .env("KUBECONFIG", world.path().join("kubeconfig"))
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let first: Vec<String> = lines.take(3).map(Result::unwrap).collect();
    following.kill().unwrap();
    following.wait().unwrap();
    assert_eq!(first, ["line 1", "line 2", "line 3"]);
}
