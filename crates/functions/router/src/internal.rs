//! Calls of any function by its name: from parts of the platform, which sign them, and through
//! `kubectl port-forward`, which the API server lets through for those who may open it to the
//! router's Pod. Whoever may do so may read the secret that calls are signed with, too.
//!
//! Fission's command calls functions by a forwarded port without a signature (1.27.0).

use farplane_functions_types::auth;
use farplane_functions_types::names::header;
use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;

use crate::answers::{refused, request_id};
use crate::body::{Body, Sent};
use crate::forward;
use crate::path;
use crate::proxy::{By, Target};
use crate::queue;
use crate::router::Router;
use crate::serve::run;
use crate::state::Refusal;

/// Largest body of a signed call, in bytes.
const MAX_BODY: usize = 16 << 20;

/// Whether a request has to be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Anybody who reaches the listener.
    Unknown,
    /// The API server let it through.
    Forwarded,
}

/// Calls a function, or looks after asynchronous calls.
pub async fn internal(
    router: &Router,
    caller: Caller,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let id = request_id(&request);
    let by = match request.headers().contains_key(header::OWNER) {
        true => By::Router,
        false => By::Platform,
    };
    let request = match (by, caller) {
        (By::Router, _) => {
            let admitted = forward::admitted(&router.internal_key, &request);
            admitted.map(|()| request.map(Sent::Client))
        }
        (_, Caller::Forwarded) => Ok(request.map(Sent::Client)),
        (_, Caller::Unknown) => admitted(router, request).await,
    };
    // A router that passed it on serves it itself then, where it can.
    let marked = |response| match by {
        By::Router => forward::refused(response),
        By::Route | By::Platform => response,
    };
    let request = match request {
        Ok(request) => request,
        Err(refusal) => return marked(refused(&id, refusal)),
    };
    let line = request
        .uri()
        .path_and_query()
        .map_or("/", PathAndQuery::as_str);
    if let Some(rest) = line.strip_prefix(queue::DEAD).map(str::to_owned) {
        let (parts, body) = request.into_parts();
        let answer = router.queue.dead(parts.method, &rest, body).await;
        return answer.unwrap_or_else(|refusal| refused(&id, refusal));
    }
    let known = |namespace: &str, name: &str| router.labelled(namespace, name, "").is_ok();
    let missing = |reason: String| {
        let mut response = refused(&id, Refusal::new(StatusCode::NOT_FOUND, reason));
        let miss = HeaderValue::from_static("true");
        response.headers_mut().insert(header::ROUTE_MISS, miss);
        marked(response)
    };
    let Some((namespace, name, label, path)) = path::internal(&path, known) else {
        return missing(format!("no function is at {path}"));
    };
    let slot = match router.labelled(&namespace, &name, &label) {
        Ok(slot) => slot,
        Err(error) => return missing(error.to_string()),
    };
    let target = Target {
        slot,
        path,
        variables: Vec::new(),
        by,
    };
    let is_async = by != By::Router && queue::is_wanted(request.headers());
    run(router, &target, "", is_async, request, &id).await
}

/// Internal calls are signed, over their body too: it is read whole before it is passed on.
async fn admitted(router: &Router, request: Request<Incoming>) -> Result<Request<Sent>, Refusal> {
    // Before a byte of the body is kept for somebody without a signature.
    router
        .internal_key
        .fresh(request.headers(), auth::now())
        .map_err(|refusal| Refusal::new(StatusCode::UNAUTHORIZED, refusal.to_string()))?;
    let (parts, body) = request.into_parts();
    let read = Limited::new(body, MAX_BODY).collect().await;
    let body = read
        .map_err(|_| {
            Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body broke off or is too large",
            )
        })?
        .to_bytes();
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    router
        .internal_key
        .verify(
            parts.method.as_str(),
            target,
            &body,
            &parts.headers,
            auth::now(),
        )
        .map_err(|refusal| Refusal::new(StatusCode::UNAUTHORIZED, refusal.to_string()))?;
    Ok(Request::from_parts(parts, Sent::Whole(Full::new(body))))
}
