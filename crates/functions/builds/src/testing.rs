//! A real etcd and API server, storage, and a builder's Pod on loopback.

use std::io::{Cursor, Write as _};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use farplane_functions_sidecar::{builder, fetcher};
use farplane_functions_types::auth::{Key, Service};
use farplane_functions_types::{Environment, Package};
pub(crate) use farplane_test_api::eventually;
use farplane_test_api::{NAMESPACE, World as Server};
use kube::Resource;
use kube::api::PostParams;
use kube::core::NamespaceResourceScope;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::place::{Builder, Place};
use crate::sidecar::Sidecar;
use crate::{Settings, run_at};

pub(crate) const SECRET: &[u8] = b"master";

/// Everything that a build needs.
pub(crate) struct World {
    server: Server,
    /// Directory shared by fetcher and builder.
    pub packages: PathBuf,
    /// Where the builder is said to be.
    pub builder: Arc<Mutex<Builder>>,
    /// Where it is.
    pub real: Builder,
    pub storage: SocketAddr,
    _stop: DropGuard,
    _directory: tempfile::TempDir,
}

/// Its objects are those of the API server.
impl Deref for World {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl World {
    /// With builds of at most this long.
    pub async fn start(build_deadline: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let server = Server::start(&farplane_functions_types::all_crds(), &[]).await;
        let stop = CancellationToken::new();
        let packages = path.join("packages");
        std::fs::create_dir(&packages).unwrap();
        let storage = listen().await;
        let settings = farplane_functions_storage::Settings::local(
            path.join("archives"),
            vec![SECRET.to_vec()],
        );
        let serving = farplane_functions_storage::serve(settings, None, storage.1, stop.clone());
        tokio::spawn(async move { serving.await.unwrap() });
        let real = pod(&packages, build_deadline, &stop).await;
        Self {
            server,
            packages,
            builder: Arc::new(Mutex::new(real.clone())),
            real,
            storage: storage.0,
            _stop: stop.drop_guard(),
            _directory: directory,
        }
    }

    /// Starts a manager.
    pub fn manager(&self) -> Manager {
        let settings = Settings::new(
            SECRET.to_vec(),
            "functions".to_owned(),
            "Never".to_owned(),
            format!("http://{}", self.storage),
        );
        let builder = Arc::clone(&self.builder);
        let place: Place = Arc::new(move |_| builder.lock().unwrap().clone());
        let shutdown = CancellationToken::new();
        let running = run_at(self.client.clone(), settings, place, None, shutdown.clone());
        Manager {
            task: tokio::spawn(async move { running.await.unwrap() }),
            shutdown,
        }
    }

    pub async fn create_raw<K>(&self, object: Value)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: DeserializeOwned + Serialize + Clone + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        let api = self.api::<K>();
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    /// A fetcher of a Pod with functions.
    pub async fn fetcher(&self) -> Fetcher {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let settings = fetcher::Settings {
            shared: at("shared"),
            secrets: at("secrets"),
            configs: at("configs"),
            key: Key::derived(SECRET, Service::Fetcher, Some(NAMESPACE)),
            namespace: NAMESPACE.to_owned(),
            ..fetcher::Settings::default()
        };
        let (address, listener) = listen().await;
        let stop = CancellationToken::new();
        let client = self.client.clone();
        tokio::spawn(fetcher::serve_with(
            settings,
            client,
            listener,
            stop.clone(),
        ));
        Fetcher {
            address,
            directory,
            _stop: stop.drop_guard(),
        }
    }

    /// An environment with a builder.
    pub async fn environment(&self, name: &str) -> Environment {
        let spec =
            json!({ "version": 3, "runtime": { "image": "r" }, "builder": { "image": "b" } });
        self.create(name, spec).await
    }

    /// A package of a source with this build script.
    pub async fn package(&self, name: &str, script: &str) -> Package {
        let spec = json!({
            "environment": { "name": "python", "namespace": NAMESPACE },
            "source": source(script),
            "buildcmd": "./build.sh",
        });
        self.create(name, spec).await
    }

    /// Waits until a package's status is one of these; any other end is an error.
    pub async fn status(&self, name: &str, word: &str) -> Package {
        let what = format!("package {name} to be {word}");
        let api = self.api::<Package>();
        eventually(&what, async || {
            let package = api.get(name).await.ok()?;
            let now = package.status.as_ref()?.build_status.clone();
            (now == word).then_some(package)
        })
        .await
    }

    /// Downloads the deployment of a package with the platform's key.
    pub async fn download(&self, package: &Package) -> Vec<u8> {
        let (_, target) = package.spec.deployment.url.split_once("/v1/").unwrap();
        let target = format!("/v1/{target}");
        let key = Key::derived(SECRET, Service::Storage, None);
        let signed = key.sign("GET", &target, b"", farplane_functions_types::auth::now());
        let mut request = hyper::Request::get(format!("http://{}{target}", self.storage));
        for (name, value) in signed.unwrap().headers() {
            request = request.header(name, value);
        }
        let body = http_body_util::Empty::<bytes::Bytes>::new();
        let client =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
                .build_http();
        let response = client.request(request.body(body).unwrap()).await.unwrap();
        assert_eq!(response.status(), hyper::StatusCode::OK);
        let body = http_body_util::BodyExt::collect(response.into_body());
        body.await.unwrap().to_bytes().to_vec()
    }
}

/// A fetcher with the API server's client.
pub(crate) struct Fetcher {
    address: SocketAddr,
    directory: tempfile::TempDir,
    _stop: DropGuard,
}

impl Fetcher {
    /// Asks it to fetch; the error is in its words.
    pub async fn fetch(&self, request: &Value) -> Result<(), String> {
        let fetcher = Sidecar::fetcher(self.address, SECRET, NAMESPACE);
        let deadline = Duration::from_secs(30);
        let (status, body) = fetcher.post("/fetch", request, deadline).await.unwrap();
        if status.is_success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&body).into_owned())
    }

    /// Reads a file that it wrote.
    pub fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.directory.path().join(path)).unwrap()
    }
}

/// A manager as a process runs it.
pub(crate) struct Manager {
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Manager {
    /// Ends it in order.
    pub async fn end(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }

    /// Ends it as a kill would.
    pub async fn kill(self) {
        self.task.abort();
        _ = self.task.await;
    }
}

/// An archive with a build script.
pub(crate) fn source(script: &str) -> Value {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().unix_permissions(0o755);
    writer.start_file("build.sh", options).unwrap();
    writer
        .write_all(format!("#!/bin/sh\n{script}\n").as_bytes())
        .unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    let literal = base64::engine::general_purpose::STANDARD.encode(bytes);
    json!({ "type": "literal", "literal": literal })
}

async fn listen() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap(), listener)
}

async fn pod(packages: &Path, deadline: Duration, stop: &CancellationToken) -> Builder {
    let key = |service| Key::derived(SECRET, service, Some(NAMESPACE));
    let (fetcher_address, fetcher_listener) = listen().await;
    let settings = fetcher::Settings {
        shared: packages.to_owned(),
        key: key(Service::Fetcher),
        storage_key: key(Service::Storage),
        namespace: NAMESPACE.to_owned(),
        ..fetcher::Settings::default()
    };
    tokio::spawn(fetcher::serve(settings, fetcher_listener, stop.clone()));
    let (builder_address, builder_listener) = listen().await;
    let settings = builder::Settings {
        packages: packages.to_owned(),
        key: key(Service::Builder),
        deadline,
        ..builder::Settings::default()
    };
    tokio::spawn(builder::serve(settings, builder_listener, stop.clone()));
    Builder::Ready {
        fetcher: fetcher_address,
        builder: builder_address,
    }
}
