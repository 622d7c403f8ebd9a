//! For tests: a router that checks signatures and records calls, and a real API server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use farplane_functions_types::auth::{self, Key, Service};
use farplane_test_api::World;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::caller::Caller;
use crate::target::Target;

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

pub(crate) fn target(namespace: &str, name: &str) -> Target {
    Target {
        namespace: namespace.into(),
        name: name.into(),
        tag: String::new(),
    }
}

/// A call as the router saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What the router does with a call.
pub(crate) enum Reply {
    With(u16, Bytes),
    /// Ends the connection.
    Break,
    /// Says nothing.
    Never,
}

type Answers = Box<dyn Fn(&Seen) -> Reply + Send>;

/// The router's internal listener: answers what a function would.
pub(crate) struct Router {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<Seen>>>,
    answers: Arc<Mutex<Answers>>,
    // Ends listener and connections with the test.
    tasks: JoinSet<()>,
}

impl Router {
    pub async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let echo: Answers = Box::new(|seen| Reply::With(200, seen.body.clone()));
        let answers = Arc::new(Mutex::new(echo));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, calls.clone(), answers.clone()));
        Self {
            address,
            calls,
            answers,
            tasks,
        }
    }

    /// Goes away; once this returns, connections are refused.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn caller(&self) -> Caller {
        Caller::new(&self.url(), SECRET).unwrap()
    }

    pub fn answer_with(&self, answers: impl Fn(&Seen) -> Reply + Send + 'static) {
        *self.answers.lock().unwrap() = Box::new(answers);
    }

    pub fn calls(&self) -> Vec<Seen> {
        self.calls.lock().unwrap().clone()
    }
}

async fn serve(listener: TcpListener, calls: Arc<Mutex<Vec<Seen>>>, answers: Arc<Mutex<Answers>>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (calls, answers) = (calls.clone(), answers.clone());
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let (calls, answers) = (calls.clone(), answers.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body
                    .collect()
                    .await
                    .map_err(std::io::Error::other)?
                    .to_bytes();
                let target = parts.uri.path_and_query().unwrap().to_string();
                let key = Key::derived(SECRET, Service::RouterInternal, None);
                let method = parts.method.as_str();
                if let Err(refusal) =
                    key.verify(method, &target, &body, &parts.headers, auth::now())
                {
                    return Ok(respond(401, refusal.to_string().into()));
                }
                let seen = Seen {
                    method: parts.method,
                    target,
                    headers: parts.headers,
                    body,
                };
                let reply = (answers.lock().unwrap())(&seen);
                calls.lock().unwrap().push(seen);
                match reply {
                    Reply::With(status, body) => Ok(respond(status, body)),
                    Reply::Break => Err(std::io::Error::other("cut")),
                    Reply::Never => std::future::pending().await,
                }
            }
        });
        connections.spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new();
            _ = connection
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn respond(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// A real API server with our kinds and the namespaces of platform and tests.
pub(crate) async fn world() -> World {
    World::start(&farplane_functions_types::all_crds(), &["fission"]).await
}
