//! A router on loopback for tests: a scripted executor, scripted instances, and the world told by
//! events.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use farplane_functions_types::wire::{Failure, INSTANCES, Instance, InstanceRequest};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::executor::Executor;
use crate::queue::Queue;
use crate::router::Router;
use crate::serve::{Door, serve};
use crate::workers::Workers;
use crate::{Credentials, Event, Settings};

pub(crate) const SECRET: &[u8] = b"secret";

/// An instance that does what the path says.
pub(crate) struct Scripted {
    pub(crate) address: String,
    /// Calls that run now, the most at a time, and all.
    pub(crate) running: AtomicUsize,
    pub(crate) most: AtomicUsize,
    pub(crate) calls: AtomicUsize,
    /// Lets calls of `/gate` go on.
    pub(crate) gate: Semaphore,
}

impl Scripted {
    pub(crate) async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = Arc::new(Self {
            address: listener.local_addr().unwrap().to_string(),
            running: AtomicUsize::default(),
            most: AtomicUsize::default(),
            calls: AtomicUsize::default(),
            gate: Semaphore::new(0),
        });
        let accepting = instance.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let instance = accepting.clone();
                let service = service_fn(move |request| instance.clone().answer(request));
                let connection = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                tokio::spawn(connection);
            }
        });
        instance
    }

    async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let _running = Running::begin(&self);
        let text = |text: String| Response::new(Full::new(Bytes::from(text)));
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/gate" => self.gate.acquire().await.unwrap().forget(),
            "/never" => std::future::pending().await,
            "/die" => return Err(std::io::Error::other("died")),
            "/socket" => {
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let mut stream = TokioIo::new(upgrade.await.unwrap());
                    let (mut read, mut write) = tokio::io::split(&mut stream);
                    _ = tokio::io::copy(&mut read, &mut write).await;
                });
                let response = Response::builder()
                    .status(101)
                    .header("connection", "upgrade");
                return Ok(response
                    .header("upgrade", "echo")
                    .body(Full::default())
                    .unwrap());
            }
            "/echo" => {
                let body = request.into_body().collect().await.unwrap();
                return Ok(Response::new(Full::new(body.to_bytes())));
            }
            _ => {}
        }
        let headers: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()))
            .collect();
        Ok(text(format!("{}\n{}", request.uri(), headers.concat())))
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

pub(crate) struct Running(Arc<Scripted>);

impl Running {
    fn begin(instance: &Arc<Scripted>) -> Self {
        let now = instance.running.fetch_add(1, Ordering::SeqCst) + 1;
        instance.most.fetch_max(now, Ordering::SeqCst);
        instance.calls.fetch_add(1, Ordering::SeqCst);
        Self(instance.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An executor that gives away instances, then refuses.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) asked: Mutex<Vec<InstanceRequest>>,
    pub(crate) instances: Mutex<Vec<String>>,
}

impl Script {
    pub(crate) fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let (status, body) = if path == INSTANCES {
            let request: InstanceRequest = serde_json::from_slice(&body).unwrap();
            self.asked.lock().unwrap().push(request.clone());
            match self.instances.lock().unwrap().pop() {
                Some(address) => {
                    let function = request.function;
                    let instance = Instance {
                        address,
                        pod: None,
                        function,
                        cold: true,
                    };
                    (200, serde_json::to_vec(&instance).unwrap())
                }
                None => {
                    let reason = "the code does not import".to_owned();
                    let component = "environment".to_owned();
                    let failure = Failure {
                        component,
                        reason,
                        ..Failure::default()
                    };
                    (500, serde_json::to_vec(&failure).unwrap())
                }
            }
        } else {
            (200, Vec::new())
        };
        let response = Response::builder().status(status);
        Ok(response.body(Full::new(Bytes::from(body))).unwrap())
    }
}

/// A router with a function `f` at `/f/...`.
pub(crate) struct World {
    pub(crate) router: Arc<Router>,
    pub(crate) public: SocketAddr,
    pub(crate) internal: SocketAddr,
    pub(crate) forwarded: SocketAddr,
    pub(crate) executor: Arc<Script>,
    pub(crate) shutdown: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl World {
    pub(crate) async fn start(spec: serde_json::Value, instances: &[&Arc<Scripted>]) -> Self {
        Self::start_with(spec, instances, None, None).await
    }

    /// With a queue that takes asynchronous calls, and a user who alone may call routes.
    pub(crate) async fn start_with(
        spec: serde_json::Value,
        instances: &[&Arc<Scripted>],
        queue: Option<Queue>,
        login: Option<Credentials>,
    ) -> Self {
        let executor = Arc::new(Script::default());
        executor
            .instances
            .lock()
            .unwrap()
            .extend(instances.iter().rev().map(|it| it.address.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let executor_url = format!("http://{}", listener.local_addr().unwrap());
        let script = executor.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = script.clone();
                let service = service_fn(move |request| script.clone().answer(request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        let any = "127.0.0.1:0".parse().unwrap();
        let settings = Settings {
            traces: None,
            public: any,
            internal: any,
            forwarded: 0,
            metrics: any,
            queue_url: executor_url.clone(),
            executor_url,
            namespace: "fission".to_owned(),
            pod_name: "router".to_owned(),
            login,
            secret: SECRET.to_vec(),
            version: "1.2.3".to_owned(),
        };
        let executor_client = Executor::new(&settings.executor_url, SECRET).unwrap();
        let nobody = || Queue::new(&settings.queue_url, SECRET).unwrap();
        let queue = queue.unwrap_or_else(nobody);
        let router = Router::new(settings, executor_client, queue);
        let shutdown = CancellationToken::new();
        let open = async |door| {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let workers = Arc::new(Workers::here());
            tokio::spawn(serve(
                router.clone(),
                listener,
                door,
                workers,
                shutdown.clone(),
            ));
            address
        };
        let world = Self {
            public: open(Door::Public).await,
            internal: open(Door::Internal).await,
            forwarded: open(Door::Forwarded).await,
            executor,
            shutdown: shutdown.clone(),
            router: router.clone(),
        };
        world.function(1, spec);
        world.trigger(
            "t",
            json!({
                "prefix": "/f", "methods": ["GET", "POST"],
                "functionref": {"type": "name", "name": "f"},
            }),
        );
        world
    }

    pub(crate) fn trigger(&self, name: &str, spec: serde_json::Value) {
        let trigger = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": name, "uid": name}, "spec": spec,
        }));
        self.router
            .apply(Event::Trigger(Box::new(trigger.unwrap())));
    }

    pub(crate) fn function(&self, generation: i64, spec: serde_json::Value) {
        let function = serde_json::from_value(json!({
            "metadata": {
                "namespace": "default", "name": "f", "uid": "u", "resourceVersion": "7",
                "generation": generation,
            },
            "spec": spec,
        }));
        self.router
            .apply(Event::Function(Box::new(function.unwrap())));
    }

    pub(crate) fn instance(&self, address: &str) {
        self.router.apply(Event::Instance {
            uid: "u".to_owned(),
            generation: 1,
            version: String::new(),
            address: address.to_owned(),
        });
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, HeaderMap, String) {
        let request = Request::get(path).body(Full::default()).unwrap();
        send(self.public, request).await
    }
}

pub(crate) async fn send(
    to: SocketAddr,
    mut request: Request<Full<Bytes>>,
) -> (StatusCode, HeaderMap, String) {
    request
        .headers_mut()
        .entry("host")
        .or_insert(http::HeaderValue::from_static("localhost"));
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    connection.abort();
    (
        head.status,
        head.headers,
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

/// Waits for a condition that nothing else tells of.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .is_ok(),
        "{what}"
    );
}
