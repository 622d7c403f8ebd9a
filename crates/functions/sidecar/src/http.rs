//! The small HTTP/1 server of both sidecars: bounded, signed, no framework.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farplane_functions_types::auth::{Key, Refusal, now};
use farplane_functions_types::names::header;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// An answer.
pub type Reply = Response<Full<Bytes>>;

/// Largest body of a request: a literal archive in base64 beside a function's metadata.
pub const BODY_LIMIT: usize = 4 << 20;
/// How long a client may take to send a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// How long a client may take to send a body.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// How long requests may run on after the shutdown.
const GRACE: Duration = Duration::from_secs(20);
/// Connections at once. Callers are the executor, the build manager and probes.
const CONNECTIONS: usize = 64;

/// Serves until the shutdown; then lets the requests that run finish.
pub async fn serve<S, F>(listener: TcpListener, shutdown: CancellationToken, answer: S)
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let tracker = TaskTracker::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room) => accepted,
            () = shutdown.cancelled() => break,
        };
        let Some((stream, permit)) = accepted else {
            continue;
        };
        let (answer, shutdown) = (answer.clone(), shutdown.clone());
        tracker.spawn(async move {
            connection(stream, answer, shutdown).await;
            drop(permit);
        });
    }
    tracker.close();
    if tokio::time::timeout(GRACE, tracker.wait()).await.is_err() {
        tracing::warn!("requests were still running at the end of the grace period");
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            _ = stream.set_nodelay(true);
            Some((stream, permit))
        }
        Err(error) => {
            tracing::warn!(%error, "failed to accept a connection");
            // Out of descriptors, most likely; another attempt at once would spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn connection<S, F>(stream: TcpStream, answer: S, shutdown: CancellationToken)
where
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Reply>,
{
    let service = service_fn(|request| {
        let reply = answer(request);
        async move { Ok::<_, Infallible>(reply.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Why a request's body is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Not signed as it should be.
    #[error("{0}")]
    Signature(#[from] Refusal),
    /// Too large.
    #[error("the request is larger than {BODY_LIMIT} bytes; give large archives by URL")]
    TooLarge,
    /// Did not come.
    #[error("the request's body did not come within {} s", BODY_DEADLINE.as_secs())]
    Late,
    /// The connection broke.
    #[error("the request's body ended too early: {0}")]
    Broken(String),
    /// Not what it should be.
    #[error("the request cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

impl BodyError {
    /// The answer to it.
    pub fn reply(&self, component: &'static str) -> Reply {
        let status = match self {
            Self::Signature(_) => StatusCode::UNAUTHORIZED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) | Self::Json(_) => StatusCode::BAD_REQUEST,
        };
        failure(status, component, self.to_string())
    }
}

/// Reads a request's body and checks its signature.
///
/// # Errors
/// When it is not signed by the key, or does not come.
pub async fn body(request: Request<Incoming>, key: &Key) -> Result<Bytes, BodyError> {
    // Before a byte of the body is kept for somebody without a signature.
    key.fresh(request.headers(), now())?;
    let (head, body) = request.into_parts();
    let collected = tokio::time::timeout(BODY_DEADLINE, Limited::new(body, BODY_LIMIT).collect());
    let bytes = match collected.await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(BodyError::TooLarge),
        Ok(Err(error)) => return Err(BodyError::Broken(error.to_string())),
        Err(_) => return Err(BodyError::Late),
    };
    let target = head
        .uri
        .path_and_query()
        .map_or("/", hyper::http::uri::PathAndQuery::as_str);
    key.verify(head.method.as_str(), target, &bytes, &head.headers, now())?;
    Ok(bytes)
}

/// Reads a signed request's body as JSON.
///
/// # Errors
/// See [`body`]; or when it is no such JSON.
pub async fn read<T: DeserializeOwned>(
    request: Request<Incoming>,
    key: &Key,
) -> Result<T, BodyError> {
    Ok(serde_json::from_slice(&body(request, key).await?)?)
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = status;
    reply
}

/// An answer in words, with the part that it is from.
pub fn failure(status: StatusCode, component: &'static str, reason: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(reason.into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(header::COMPONENT, HeaderValue::from_static(component));
    reply
}

/// An answer in JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    let bytes = match serde_json::to_vec(value) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::error!(%error, "failed to write an answer as JSON");
            return empty(StatusCode::INTERNAL_SERVER_ERROR);
        }
    };
    let mut reply = Response::new(Full::new(bytes.into()));
    *reply.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    reply.headers_mut().insert(CONTENT_TYPE, json);
    reply
}

/// The answer to a method that a path does not have.
pub fn method_not_allowed(allowed: &'static str) -> Reply {
    let mut reply = empty(StatusCode::METHOD_NOT_ALLOWED);
    let allowed = HeaderValue::from_static(allowed);
    reply.headers_mut().insert(ALLOW, allowed);
    reply
}

/// The answer of `/version`.
pub fn version() -> Reply {
    #[derive(Serialize)]
    struct Version {
        version: &'static str,
    }
    let version = env!("CARGO_PKG_VERSION");
    json(StatusCode::OK, &Version { version })
}
