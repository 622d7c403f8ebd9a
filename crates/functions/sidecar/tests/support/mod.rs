//! A Pod on loopback: a real fetcher and a real runtime that share a directory.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use bytes::Bytes;
use farplane_functions_sidecar::fetcher::{self, Settings};
use farplane_functions_types::auth::{Key, now};
use farplane_functions_types::wire::{FetchRequest, FunctionKey, LoadRequest, SpecializeRequest};
use farplane_functions_types::{Archive, Checksum};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Key of every fetcher here.
pub fn key() -> Key {
    Key::from_bytes(&[7; 32])
}

/// A Pod.
pub struct Pod {
    pub directory: TempDir,
    pub fetcher: SocketAddr,
    pub runtime: SocketAddr,
    runtime_process: Option<Child>,
    _stop: DropGuard,
}

/// A port that is free now.
pub fn free_address() -> SocketAddr {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

impl Pod {
    /// With fetcher and runtime.
    pub async fn new() -> Self {
        let mut pod = Self::generic(|_| {}).await;
        pod.start_runtime();
        pod
    }

    /// With a fetcher only, of changed settings.
    pub async fn generic(change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = free_address();
        let at = |name: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let mut settings = Settings {
            shared: at("userfunc"),
            secrets: at("secrets"),
            configs: at("configs"),
            runtime,
            key: key(),
            storage_key: Key::from_bytes(&[9; 32]),
            namespace: "demo".to_owned(),
            pod: "pod".to_owned(),
            ..Settings::default()
        };
        change(&mut settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fetcher = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(fetcher::serve(settings, listener, stop.clone()));
        Self {
            directory,
            fetcher,
            runtime,
            runtime_process: None,
            _stop: stop.drop_guard(),
        }
    }

    /// The shared directory.
    pub fn shared(&self) -> PathBuf {
        self.directory.path().join("userfunc")
    }

    /// Starts the runtime.
    pub fn start_runtime(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/runtime.py");
        let child = Command::new("python3")
            .arg(script)
            .arg(self.runtime.port().to_string())
            .env("CODE", self.shared().join("user"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.runtime_process = Some(child);
    }

    /// Asks the fetcher, signed.
    pub async fn post(&self, path: &str, body: &impl serde::Serialize) -> (StatusCode, String) {
        let body = serde_json::to_vec(body).unwrap();
        call(self.fetcher, Method::POST, path, body, Some(&key())).await
    }

    /// Reads from the fetcher, signed.
    pub async fn get(&self, path: &str) -> (StatusCode, String) {
        call(self.fetcher, Method::GET, path, Vec::new(), Some(&key())).await
    }

    /// Calls the function.
    pub async fn call(&self) -> (StatusCode, String) {
        call(self.runtime, Method::GET, "/", Vec::new(), None).await
    }

    /// A request that brings this archive as `deployarchive`.
    pub fn request(&self, archive: Archive, entry: &str) -> SpecializeRequest {
        let path = self.shared().join("deployarchive");
        SpecializeRequest {
            fetch: FetchRequest {
                fetch_type: 1,
                filename: "deployarchive".to_owned(),
                archive: Some(archive),
                ..FetchRequest::default()
            },
            load: LoadRequest {
                filepath: path.to_string_lossy().into_owned(),
                function_name: entry.to_owned(),
                env_version: 2,
                ..LoadRequest::default()
            },
            function: Some(FunctionKey {
                namespace: "demo".to_owned(),
                name: "hello".to_owned(),
                uid: "uid".to_owned(),
                generation: 1,
                version: String::new(),
            }),
        }
    }
}

/// An archive within a message.
pub fn literal(bytes: &[u8]) -> Archive {
    Archive {
        kind: "literal".to_owned(),
        literal: base64::engine::general_purpose::STANDARD.encode(bytes),
        checksum: Checksum::of(bytes),
        ..Archive::default()
    }
}

/// Sends a request, signed by a key.
pub async fn call(
    address: SocketAddr,
    method: Method,
    target: &str,
    body: Vec<u8>,
    key: Option<&Key>,
) -> (StatusCode, String) {
    let mut request = Request::builder()
        .method(&method)
        .uri(format!("http://{address}{target}"));
    let signed = key.and_then(|key| key.sign(method.as_str(), target, &body, now()));
    for (name, value) in signed.into_iter().flat_map(|signed| signed.headers()) {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}
