//! What the executor answers: routers' questions, Fission's own paths, probes and metrics.
//!
//! Every request but a probe is signed. A process that does not lead, or has not adopted yet
//! what runs, answers 503.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State as Extract;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use farplane_functions_types::Function;
use farplane_functions_types::auth::{Key, Service, now};
use farplane_functions_types::names::header;
use farplane_functions_types::wire::{
    FunctionKey, INSTANCES, Instance, InstanceRequest, USAGE, Usage,
};
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use kube::ResourceExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::backend::Backends;
use crate::error::Error;
use crate::failed::Failed;
use crate::metrics::Metrics;
use crate::state::Summary;

/// Largest body: a function's JSON, or the addresses of some ten thousand instances.
const BODY_LIMIT: usize = 4 << 20;
/// How long a body may take.
const BODY_DEADLINE: Duration = Duration::from_secs(15);

/// What requests are answered from; empty while the process does not lead.
#[derive(Clone)]
pub(crate) struct Front {
    key: Key,
    metrics: Metrics,
    leading: Arc<OnceLock<Arc<Backends>>>,
    ending: CancellationToken,
}

impl Front {
    pub fn new(secret: &[u8], metrics: Metrics, ending: CancellationToken) -> Self {
        Self {
            key: Key::derived(secret, Service::Executor, None),
            metrics,
            leading: Arc::default(),
            ending,
        }
    }

    /// From now on requests are answered.
    pub fn lead(&self, backends: Arc<Backends>) {
        self.metrics.leads(true);
        _ = self.leading.set(backends);
    }

    fn backends(&self) -> Result<&Arc<Backends>, Failed> {
        if self.ending.is_cancelled() {
            return Err(Failed::later("executor", "this executor is shutting down"));
        }
        self.leading.get().ok_or_else(|| {
            Failed::later(
                "executor",
                "this executor does not lead; another one does, or none yet",
            )
        })
    }

    async fn accept(&self, request: Request<Body>) -> Result<Response, Failed> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let expected = match path.as_str() {
            "/v2/debugInfo" => Method::GET,
            INSTANCES
            | USAGE
            | "/v2/getServiceForFunction"
            | "/v2/ensureCapacity"
            | "/v2/tapServices"
            | "/v2/unTapService" => Method::POST,
            _ => return Err(refused(StatusCode::NOT_FOUND, "there is no such path")),
        };
        if method != expected {
            let reason = format!("use {expected}");
            return Err(refused(StatusCode::METHOD_NOT_ALLOWED, reason));
        }
        let body = self.body(request).await?;
        let backends = self.backends()?;
        match path.as_str() {
            INSTANCES => {
                let asked: InstanceRequest = read(&body)?;
                let found = backends.instance(&asked.function, &asked.known).await?;
                Ok(json(&found))
            }
            USAGE => {
                backends.usage(&read::<Usage>(&body)?, Instant::now());
                Ok(StatusCode::OK.into_response())
            }
            "/v2/getServiceForFunction" => {
                let function: Function = read(&body)?;
                let found = backends.instance(&key(&function), &[]).await?;
                Ok(found.address.into_response())
            }
            "/v2/ensureCapacity" => ensure_capacity(backends, &read(&body)?).await,
            "/v2/tapServices" => {
                tap(backends, &read::<Vec<Tap>>(&body)?);
                Ok(StatusCode::OK.into_response())
            }
            "/v2/unTapService" => {
                tap(backends, &[read::<Tap>(&body)?]);
                Ok(StatusCode::OK.into_response())
            }
            _ => Ok(json(&backends.summary())),
        }
    }

    /// Reads a body and checks its signature.
    async fn body(&self, request: Request<Body>) -> Result<Bytes, Failed> {
        let unsigned = |refusal: farplane_functions_types::auth::Refusal| {
            refused(StatusCode::UNAUTHORIZED, refusal.to_string())
        };
        // Before a byte of the body is kept for somebody without a signature.
        self.key.fresh(request.headers(), now()).map_err(unsigned)?;
        let (head, body) = request.into_parts();
        let body = tokio::time::timeout(BODY_DEADLINE, to_bytes(body, BODY_LIMIT))
            .await
            .map_err(|_| refused(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))?
            .map_err(|_| {
                let reason = format!("the body is larger than {BODY_LIMIT} bytes, or broken off");
                refused(StatusCode::PAYLOAD_TOO_LARGE, reason)
            })?;
        let target = head
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        self.key
            .verify(head.method.as_str(), target, &body, &head.headers, now())
            .map_err(unsigned)?;
        Ok(body)
    }

    fn summary(&self) -> Summary {
        self.leading
            .get()
            .map(|backends| backends.summary())
            .unwrap_or_default()
    }

    fn is_ready(&self) -> bool {
        !self.ending.is_cancelled()
    }
}

fn refused(status: StatusCode, reason: impl Into<String>) -> Failed {
    Failed::new(status, "executor", reason)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failed> {
    serde_json::from_slice(body).map_err(|error| {
        refused(
            StatusCode::BAD_REQUEST,
            format!("the request cannot be read: {error}"),
        )
    })
}

fn json<T: Serialize>(value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn failure(failed: &Failed) -> Response {
    let mut response = json(&failed.message());
    *response.status_mut() = failed.status;
    if let Ok(component) = failed.component.parse() {
        response.headers_mut().insert(header::COMPONENT, component);
    }
    response
}

fn key(function: &Function) -> FunctionKey {
    FunctionKey {
        namespace: function.namespace().unwrap_or_default(),
        name: function.name_any(),
        uid: function.uid().unwrap_or_default(),
        generation: function.metadata.generation.unwrap_or(0),
        version: String::new(),
    }
}

/// Fission's message about a service that was used.
#[derive(Deserialize)]
struct Tap {
    #[serde(rename = "ServiceURL", alias = "ServiceUrl", default)]
    service_url: TapUrl,
}

/// Fission writes Go's URL as an object or as text.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum TapUrl {
    Text(String),
    Parts {
        #[serde(rename = "Host", default)]
        host: String,
    },
    #[default]
    None,
}

fn tap(backends: &Backends, taps: &[Tap]) {
    for tap in taps {
        let address = match &tap.service_url {
            TapUrl::Text(url) => url
                .trim_start_matches("http://")
                .split('/')
                .next()
                .unwrap_or_default(),
            TapUrl::Parts { host } => host,
            TapUrl::None => continue,
        };
        backends.tap(address, Instant::now());
    }
}

/// Fission's question for one more instance.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Capacity {
    function: Function,
    #[serde(default)]
    observed_ready_endpoints: usize,
    #[serde(default)]
    observed_busy_endpoints: usize,
}

async fn ensure_capacity(backends: &Arc<Backends>, asked: &Capacity) -> Result<Response, Failed> {
    if asked.observed_busy_endpoints >= asked.observed_ready_endpoints {
        let known = backends.addresses(&key(&asked.function));
        let found: Instance = backends.instance(&key(&asked.function), &known).await?;
        return Ok(found.address.into_response());
    }
    Ok(StatusCode::OK.into_response())
}

async fn answer(Extract(front): Extract<Front>, request: Request<Body>) -> Response {
    match front.accept(request).await {
        Ok(response) => response,
        Err(failed) => failure(&failed),
    }
}

async fn readiness(Extract(front): Extract<Front>) -> Response {
    if front.is_ready() {
        return "ok".into_response();
    }
    let reason = "shutting down";
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

async fn numbers(Extract(front): Extract<Front>) -> Response {
    let text = front.metrics.text(&front.summary());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], text).into_response()
}

fn probes() -> Router<Front> {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readiness))
}

/// Listens.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })
}

/// Serves requests until `stop`; then those that run may end.
pub(crate) async fn requests(listener: TcpListener, front: Front, stop: CancellationToken) {
    let router = probes().fallback(any(answer)).with_state(front);
    serve(listener, router, stop).await;
}

/// Serves metrics and probes until `stop`.
pub(crate) async fn metrics(listener: TcpListener, front: Front, stop: CancellationToken) {
    let router = probes().route("/metrics", get(numbers)).with_state(front);
    serve(listener, router, stop).await;
}

async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    use axum::serve::ListenerExt as _;
    let listener = listener.tap_io(|stream| _ = stream.set_nodelay(true));
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::warn!(%error, "serving ended");
    }
}
