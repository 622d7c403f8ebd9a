//! HTTP/1.1 on the front door: join, health, egress. One request per connection, so that
//! nothing can hide behind the end of another request.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farplane_types::wire::WireError;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;

use crate::accept::Connection;
use crate::gateway::Gateway;
use crate::{egress, join};

/// Longest time for a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Answer to any request.
pub type Answer = Response<Full<Bytes>>;

/// Serves one connection; `plane` is the one whose certificate the client proved.
pub async fn serve(
    gateway: Arc<Gateway>,
    connection: Connection,
    plane: Option<String>,
    from: IpAddr,
) {
    let service = service_fn(|request| {
        let gateway = Arc::clone(&gateway);
        let plane = plane.clone();
        async move { Ok::<_, Infallible>(answer(gateway, plane, from, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(peer = %from, %error, "request broke off");
    }
}

async fn answer(
    gateway: Arc<Gateway>,
    plane: Option<String>,
    from: IpAddr,
    request: Request<Incoming>,
) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::CONNECT, _) => egress::answer(gateway, plane, from, request).await,
        (&Method::POST, "/v1/join") => Box::pin(join::answer(gateway, from, request)).await,
        (&Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
        _ => refusal(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

/// A plain text answer.
pub fn text(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    answer
}

/// A JSON answer.
pub fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let Ok(body) = serde_json::to_vec(body) else {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "failed to write the answer\n",
        );
    };
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

/// A refusal with its reason.
pub fn refusal(status: StatusCode, reason: impl ToString) -> Answer {
    let body = WireError {
        error: reason.to_string(),
    };
    json(status, &body)
}
