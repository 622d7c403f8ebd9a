//! Calls through the router on loopback: a scripted executor, scripted instances, and the world
//! told by events.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use farplane_functions_types::auth::{self, Key, Service};
use farplane_functions_types::wire::{Failure, INSTANCES, Instance, InstanceRequest};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::*;

const SECRET: &[u8] = b"secret";

/// An instance that does what the path says.
struct Scripted {
    address: String,
    /// Calls that run now, the most at a time, and all.
    running: AtomicUsize,
    most: AtomicUsize,
    calls: AtomicUsize,
    /// Lets calls of `/gate` go on.
    gate: Semaphore,
}

impl Scripted {
    async fn start() -> Arc<Self> {
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

    fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

struct Running(Arc<Scripted>);

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
struct Script {
    asked: Mutex<Vec<InstanceRequest>>,
    instances: Mutex<Vec<String>>,
}

impl Script {
    fn asked(&self) -> usize {
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
struct World {
    router: Arc<Router>,
    public: SocketAddr,
    internal: SocketAddr,
    executor: Arc<Script>,
    shutdown: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl World {
    async fn start(spec: serde_json::Value, instances: &[&Arc<Scripted>]) -> Self {
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
            public: any,
            internal: any,
            metrics: any,
            executor_url,
            namespace: "fission".to_owned(),
            pod_name: "router".to_owned(),
            secret: SECRET.to_vec(),
            version: "1.2.3".to_owned(),
        };
        let executor_client = Executor::new(&settings.executor_url, SECRET).unwrap();
        let router = Router::new(settings, executor_client);
        let shutdown = CancellationToken::new();
        let open = async |door| {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(router.clone(), listener, door, shutdown.clone()));
            address
        };
        let (public, internal) = (open(Door::Public).await, open(Door::Internal).await);
        let world = Self {
            public,
            internal,
            executor,
            shutdown,
            router,
        };
        world.function(1, spec);
        let trigger = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "t", "uid": "t"},
            "spec": {
                "prefix": "/f", "methods": ["GET", "POST"],
                "functionref": {"type": "name", "name": "f"},
            },
        }));
        world
            .router
            .apply(Event::Trigger(Box::new(trigger.unwrap())));
        world
    }

    fn function(&self, generation: i64, spec: serde_json::Value) {
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

    fn instance(&self, address: &str) {
        self.router.apply(Event::Instance {
            uid: "u".to_owned(),
            generation: 1,
            version: String::new(),
            address: address.to_owned(),
        });
    }

    async fn get(&self, path: &str) -> (StatusCode, HeaderMap, String) {
        let request = Request::get(path).body(Full::default()).unwrap();
        send(self.public, request).await
    }
}

async fn send(
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
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
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

#[tokio::test]
async fn a_cold_call_asks_and_a_warm_one_does_not() {
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[&instance]).await;
    let (status, headers, body) = world.get("/f/a?b=c").await;
    assert_eq!(status, 200);
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert!(body.starts_with("/a?b=c\n"), "{body}");
    for line in [
        "x-fission-function-name: f",
        "x-fission-function-namespace: default",
        "x-fission-function-uid: u",
        "x-fission-function-resourceversion: 7",
        "x-fission-full-url: /f/a?b=c",
        "x-forwarded-host: localhost",
        "x-forwarded-for: 127.0.0.1",
    ] {
        assert!(body.lines().any(|it| it == line), "{line}: {body}");
    }
    assert!(body.contains("x-fission-request-id: "));
    for _ in 0..5 {
        assert_eq!(world.get("/f").await.0, 200);
    }
    assert_eq!((world.executor.asked(), instance.calls()), (1, 6));
    let metrics = world.router.metrics.text();
    let labels = r#"function_name="f",function_namespace="default""#;
    for line in [
        format!(r#"fission_function_calls_total{{{labels},path="/f",method="GET",code="200"}} 6"#),
        format!("fission_function_cold_starts_total{{{labels}}} 1"),
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn a_burst_shares_the_instances_that_there_may_be() {
    let instances = [
        Scripted::start().await,
        Scripted::start().await,
        Scripted::start().await,
    ];
    let world = World::start(json!({"concurrency": 3}), &instances.each_ref()).await;
    let running = || instances.iter().map(|it| it.running()).sum::<usize>();
    let calls = futures::future::join_all((0..10).map(|_| world.get("/f/gate")));
    let open = async {
        until("three calls run", || running() == 3).await;
        for instance in &instances {
            instance.gate.add_permits(10);
        }
    };
    let (answers, ()) = tokio::join!(calls, open);
    assert!(answers.iter().all(|(status, ..)| *status == 200));
    assert_eq!(world.executor.asked(), 3);
    assert_eq!(instances.iter().map(|it| it.calls()).sum::<usize>(), 10);
    assert!(
        instances
            .iter()
            .all(|it| it.most.load(Ordering::SeqCst) == 1)
    );
}

#[tokio::test]
async fn an_instance_that_refuses_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = listener.local_addr().unwrap().to_string();
    drop(listener);
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[&instance]).await;
    world.instance(&dead);
    assert_eq!(world.get("/f").await.0, 200);
    assert_eq!(world.get("/f").await.0, 200);
    assert_eq!((world.executor.asked(), instance.calls()), (1, 2));
    // The executor is not to name it again.
    assert_eq!(world.executor.asked.lock().unwrap()[0].known, [dead]);
}

#[tokio::test]
async fn a_call_of_which_something_was_sent_is_not_sent_again() {
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[&instance]).await;
    let (status, headers, body) = world.get("/f/die").await;
    assert_eq!(status, 502);
    assert_eq!(headers["x-fission-component"], "function");
    let failure: Failure = serde_json::from_str(&body).unwrap();
    assert_eq!(failure.component, "function");
    assert!(!failure.request_id.is_empty());
    assert_eq!(instance.calls(), 1);
    assert_eq!(world.get("/f").await.0, 200);
}

#[tokio::test]
async fn a_function_that_does_not_answer_is_given_up() {
    let instance = Scripted::start().await;
    let spec = json!({"functionTimeout": 1, "concurrency": 1});
    let world = World::start(spec, &[&instance]).await;
    let (status, headers, body) = world.get("/f/never").await;
    assert_eq!(status, 504, "{body}");
    assert_eq!(headers["x-fission-component"], "function");
    until("the instance notices", || instance.running() == 0).await;
    assert_eq!(world.get("/f").await.0, 200);
}

#[tokio::test]
async fn the_place_of_a_client_that_is_gone_is_free() {
    let instance = Scripted::start().await;
    let world = World::start(json!({"concurrency": 1}), &[&instance]).await;
    let mut client = TcpStream::connect(world.public).await.unwrap();
    client
        .write_all(b"GET /f/never HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    until("the call runs", || instance.running() == 1).await;
    drop(client);
    assert_eq!(world.get("/f").await.0, 200);
    assert_eq!(world.executor.asked(), 1);
}

#[tokio::test]
async fn a_socket_has_its_place_until_it_is_closed() {
    let instance = Scripted::start().await;
    let world = World::start(json!({"concurrency": 1}), &[&instance]).await;
    let mut socket = TcpStream::connect(world.public).await.unwrap();
    let request =
        b"GET /f/socket HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n";
    socket.write_all(request).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.to_lowercase().contains("upgrade: echo"), "{head}");
    socket.write_all(b"hello").await.unwrap();
    let mut echoed = [0; 5];
    socket.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"hello");
    let mut waiting = Box::pin(world.get("/f"));
    let slot = world.router.function("default", "f").unwrap();
    tokio::select! {
        biased;
        answer = &mut waiting => panic!("there was no place, but {answer:?}"),
        () = until("a call waits", || slot.waiting() == 1) => {}
    }
    drop(socket);
    assert_eq!(waiting.await.0, 200);
}

#[tokio::test]
async fn what_the_executor_says_reaches_the_client() {
    let world = World::start(json!({}), &[]).await;
    let request = Request::get("/f").header("x-fission-request-id", "my-id");
    let (status, headers, body) = send(world.public, request.body(Full::default()).unwrap()).await;
    assert_eq!(status, 500);
    assert_eq!(headers["x-fission-component"], "environment");
    let failure: Failure = serde_json::from_str(&body).unwrap();
    assert_eq!(failure.reason, "the code does not import");
    assert_eq!(failure.request_id, "my-id");
}

#[tokio::test]
async fn calls_that_wait_for_a_deleted_function_end() {
    let instance = Scripted::start().await;
    let world = World::start(json!({"concurrency": 1}), &[&instance]).await;
    let slot = world.router.function("default", "f").unwrap();
    let first = world.get("/f/gate");
    let second = async {
        until("the first runs", || instance.running() == 1).await;
        world.get("/f/gate").await
    };
    let delete = async {
        until("the second waits", || slot.waiting() == 1).await;
        let (namespace, name) = ("default".to_owned(), "f".to_owned());
        world.router.apply(Event::FunctionGone { namespace, name });
    };
    let free = async {
        until("the function is gone", || {
            world.router.function("default", "f").is_none()
        })
        .await;
        instance.gate.add_permits(1);
    };
    let (first, second, (), ()) = tokio::join!(first, second, delete, free);
    assert_eq!(
        (first.0, second.0),
        (StatusCode::OK, StatusCode::NOT_FOUND),
        "{second:?}"
    );
    assert_eq!(world.get("/f").await.0, 404);
}

#[tokio::test]
async fn a_changed_function_leaves_its_old_instances() {
    let (old, new) = (Scripted::start().await, Scripted::start().await);
    let world = World::start(json!({"concurrency": 1}), &[&new]).await;
    world.instance(&old.address);
    let running = world.get("/f/gate");
    let change = async {
        until("the old one is called", || old.running() == 1).await;
        world.function(2, json!({"concurrency": 1}));
        // Told late, of the state before.
        world.instance(&old.address);
        let status = world.get("/f").await.0;
        old.gate.add_permits(1);
        status
    };
    let (before, after) = tokio::join!(running, change);
    assert_eq!((before.0, after), (StatusCode::OK, StatusCode::OK));
    assert_eq!((old.calls(), new.calls()), (1, 1));
}

#[tokio::test]
async fn an_instance_of_once_only_is_called_once() {
    let instances = [Scripted::start().await, Scripted::start().await];
    let world = World::start(json!({"onceOnly": true}), &instances.each_ref()).await;
    assert_eq!(world.get("/f").await.0, 200);
    // Its labels are written after the call.
    world.instance(&instances[0].address);
    assert_eq!(world.get("/f").await.0, 200);
    assert_eq!((instances[0].calls(), instances[1].calls()), (1, 1));
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[&instance]).await;
    let body = "x".repeat(3 << 20);
    for _ in 0..2 {
        let request = Request::post("/f/echo")
            .body(Full::new(Bytes::from(body.clone())))
            .unwrap();
        let (status, _, echoed) = send(world.public, request).await;
        assert_eq!(status, 200);
        assert!(echoed == body);
    }
}

#[tokio::test]
async fn the_public_door_leads_to_routes_only() {
    let world = World::start(json!({}), &[]).await;
    let status = async |path: &str| world.get(path).await.0.as_u16();
    assert_eq!(status("/").await, 200);
    assert_eq!(status("/router-healthz").await, 200);
    assert_eq!(status("/readyz").await, 503);
    world.router.apply(Event::Synced);
    assert_eq!(status("/readyz").await, 200);
    assert_eq!(status("/fission-function/f").await, 404);
    assert_eq!(status("/elsewhere").await, 404);
    let (_, headers, body) = world.get("/elsewhere").await;
    assert_eq!(headers["x-fission-component"], "router");
    assert!(serde_json::from_str::<Failure>(&body).is_ok());
    assert!(world.get("/_version").await.2.contains("1.2.3"));
    let wrong = Request::delete("/f").body(Full::default()).unwrap();
    assert_eq!(send(world.public, wrong).await.0, 405);
}

#[tokio::test]
async fn the_internal_door_wants_a_signature() {
    let instance = Scripted::start().await;
    let world = World::start(json!({}), &[&instance]).await;
    let call = async |path: &str, secret: &[u8]| {
        let body = Bytes::from_static(b"body");
        let mut request = Request::post(path);
        let key = Key::derived(secret, Service::RouterInternal, None);
        for (name, value) in key
            .sign("POST", path, &body, auth::now())
            .unwrap()
            .headers()
        {
            request = request.header(name, value);
        }
        send(world.internal, request.body(Full::new(body)).unwrap()).await
    };
    assert_eq!(call("/fission-function/f", b"other").await.0, 401);
    let (status, _, body) = call("/fission-function/default/f/echo", SECRET).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "body"));
    let (status, _, body) = call("/fission-function/f/a?b=c", SECRET).await;
    assert_eq!(status, 200);
    assert!(body.starts_with("/a?b=c\n"), "{body}");
    assert!(!body.contains("x-fission-auth-"), "{body}");
    let (status, headers, _) = call("/fission-function/g", SECRET).await;
    assert_eq!(status, 404);
    assert!(headers.contains_key("x-fission-route-miss"));
}
