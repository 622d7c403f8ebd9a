//! What does a fetcher add?
//!
//! - To a cold start: the time of `/specialize` less the time that the same runtime takes when it
//!   is told to load directly, both on loopback, p50 and p99. The runtime answers at once, so that
//!   all that is measured is ours. Archives: a file of 200 bytes, a zip of 20 files.
//! - To every pool Pod: its private memory when idle and after a specialisation, and the time
//!   from its start until it accepts a connection.
//!
//! Every answer is checked, and so is that the code is in place. Setup is not timed: each
//! specialisation has a fetcher, a directory and a connection of its own.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panic")]
#![allow(clippy::print_stdout, reason = "its results are its output")]

use std::io::{Cursor, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use farplane_functions_sidecar::fetcher::{self, Settings};
use farplane_functions_types::auth::{Key, now};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const ROUNDS: usize = 400;
const CHILD: &str = "FARPLANE_BENCH_FETCHER";

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    if let Ok(address) = std::env::var(CHILD) {
        return runtime.block_on(child(address.parse().unwrap()));
    }
    for (name, archive) in [("file", b"def main(): pass\n".repeat(12)), ("zip", zip())] {
        runtime.block_on(specialise(name, &archive));
    }
    runtime.block_on(process());
}

fn zip() -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for file in 0..20 {
        let options = zip::write::SimpleFileOptions::default();
        writer
            .start_file(format!("package/{file}.py"), options)
            .unwrap();
        let line = format!("VALUE = {file}\n");
        writer.write_all(line.repeat(100).as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A runtime that loads in no time.
async fn runtime() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Of its own thread, as a real one is of its own process.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let listener = listener.into_std().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let answer = service_fn(async |request: Request<hyper::body::Incoming>| {
                    _ = request.into_body().collect().await;
                    Ok::<_, std::convert::Infallible>(
                        Response::new(Full::<bytes::Bytes>::default()),
                    )
                });
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(stream), answer));
            }
        });
    });
    address
}

async fn connect(address: SocketAddr) -> SendRequest<Full<bytes::Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn post(
    sender: &mut SendRequest<Full<bytes::Bytes>>,
    path: &str,
    body: &[u8],
    key: Option<&Key>,
) -> Duration {
    let mut request = Request::post(path).header("host", "x");
    let signed = key.and_then(|key| key.sign("POST", path, body, now()));
    for (name, value) in signed.into_iter().flat_map(|signed| signed.headers()) {
        request = request.header(name, value);
    }
    let body = Full::new(bytes::Bytes::copy_from_slice(body));
    let request = request.body(body).unwrap();
    let began = Instant::now();
    let response = sender.send_request(request).await.unwrap();
    let took = began.elapsed();
    assert_eq!(response.status(), StatusCode::OK);
    took
}

fn request(shared: &std::path::Path, archive: &[u8]) -> Value {
    let literal = base64::engine::general_purpose::STANDARD.encode(archive);
    json!({
        "FetchReq": {
            "fetchType": 1, "filename": "deployarchive",
            "archive": { "type": "literal", "literal": literal },
        },
        "LoadReq": {
            "filepath": shared.join("deployarchive"), "functionName": "main", "envVersion": 3,
        },
    })
}

fn settings(shared: &std::path::Path, runtime: SocketAddr, key: &Key) -> Settings {
    Settings {
        shared: shared.to_owned(),
        runtime,
        key: key.clone(),
        namespace: "ns".to_owned(),
        ..Settings::default()
    }
}

async fn specialise(name: &str, archive: &[u8]) {
    let key = Key::from_bytes(&[7; 32]);
    let runtime = runtime().await;
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let directory = tempfile::tempdir().unwrap();
        let shared = directory.path();
        let body = request(shared, archive);
        // A new connection, as the fetcher's.
        let load = serde_json::to_vec(&body["LoadReq"]).unwrap();
        let began = Instant::now();
        let mut sender = connect(runtime).await;
        post(&mut sender, "/v2/specialize", &load, None).await;
        direct.push(began.elapsed());

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let settings = settings(shared, runtime, &key);
        let serving = tokio::spawn(fetcher::serve(settings, listener, stop.clone()));
        let mut sender = connect(address).await;
        let body = serde_json::to_vec(&body).unwrap();
        through.push(post(&mut sender, "/specialize", &body, Some(&key)).await);
        assert!(shared.join("deployarchive").exists());
        drop(sender);
        stop.cancel();
        serving.await.unwrap();
    }
    let at = |times: &mut Vec<Duration>, percent: usize| {
        times.sort();
        times[times.len() * percent / 100].as_secs_f64() * 1e3
    };
    for percent in [50, 99] {
        let (direct, through) = (at(&mut direct, percent), at(&mut through, percent));
        println!(
            "{name}: p{percent} {through:.2} ms through the fetcher, {direct:.2} ms direct: adds {:.2} ms",
            through - direct
        );
    }
}

/// A fetcher as a process.
async fn child(listen: SocketAddr) {
    let shared = std::env::var("SHARED").unwrap();
    let runtime = std::env::var("RUNTIME").unwrap().parse().unwrap();
    let key = Key::from_bytes(&[7; 32]);
    let mut settings = settings(shared.as_ref(), runtime, &key);
    settings.listen = listen;
    fetcher::run(settings, CancellationToken::new())
        .await
        .unwrap();
}

async fn process() {
    let key = Key::from_bytes(&[7; 32]);
    let runtime = runtime().await;
    let program = std::env::current_exe().unwrap();
    let mut starts = Vec::new();
    let mut memory = (0, 0);
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let began = Instant::now();
        let mut child = std::process::Command::new(&program)
            .env(CHILD, address.to_string())
            .env("SHARED", directory.path())
            .env("RUNTIME", runtime.to_string())
            .spawn()
            .unwrap();
        while TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await;
        }
        starts.push(began.elapsed());
        let idle = private(child.id());
        let body = serde_json::to_vec(&request(directory.path(), &zip())).unwrap();
        let mut sender = connect(address).await;
        post(&mut sender, "/specialize", &body, Some(&key)).await;
        memory = (idle, private(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    starts.sort();
    println!(
        "process: accepts {:.1} ms after its start (p50); private memory {} KiB idle, {} KiB after a specialisation",
        starts[starts.len() / 2].as_secs_f64() * 1e3,
        memory.0,
        memory.1
    );
}

/// KiB of private memory.
fn private(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let field = |name: &str| -> u64 {
        let line = rollup.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        value.unwrap_or(0)
    };
    field("Private_Dirty:") + field("Private_Clean:")
}
