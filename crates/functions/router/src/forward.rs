//! Calls that another router counts.
//!
//! A router passes a call to the owner of its function, with all headers as the function shall
//! see them, and [`header::OWNER`]. The signature is over the request's line and that header, not
//! over the body, which is passed on as it comes. An owner that cannot be reached is left out: its
//! calls are served here, and the executor's limit of instances still holds.

use std::sync::Arc;
use std::time::Duration;

use farplane_functions_types::auth::{self, Key};
use farplane_functions_types::names::header;
use http::uri::PathAndQuery;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
};
use http_body_util::Full;
use hyper::body::Body as _;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout_at};

use crate::body::{Body, Call};
use crate::body::{Limit, Sent};
use crate::pool::Peer;
use crate::proxy::{self, Target};
use crate::state::{Meta, Refusal};

/// What the owner may need beyond the function's own limits.
const GRACE: Duration = Duration::from_secs(10);

/// What came of passing a call on.
pub enum Forwarded {
    /// The owner's answer, or why there is none.
    Answered(Result<Response<Body>, Refusal>),
    /// The owner cannot be reached or does not take the call; the function was not called.
    Unreachable(Request<Sent>),
}

/// Passes a call to the owner of its function.
pub async fn forward(
    owner: &Arc<Peer>,
    own_name: &str,
    key: &Key,
    target: &Target,
    request: Request<Sent>,
    id: &str,
) -> Forwarded {
    let upgrade = proxy::wants_upgrade(request.headers());
    let idle = if upgrade { None } else { owner.idle() };
    let mut link = match idle {
        Some(link) => link,
        None => match owner.dial(upgrade).await {
            Ok(link) => link,
            Err(error) => {
                tracing::info!(%error, "the owner of a function cannot be reached");
                return Forwarded::Unreachable(request);
            }
        },
    };
    let meta = target.slot.meta();
    // What is needed to serve the call here after all.
    let head = Head::of(&request);
    let request = proxy::prepare(target, &meta, request, id, upgrade)
        .and_then(|request| addressed(request, &meta, own_name, key));
    let mut request = match request {
        Ok(request) => request,
        Err(refusal) => return Forwarded::Answered(Err(refusal)),
    };
    let client = upgrade.then(|| hyper::upgrade::on(&mut request));
    let deadline = Instant::now() + meta.timeout + meta.timeout.max(meta.specialisation) + GRACE;
    let mut answer = timeout_at(deadline, link.send(request)).await;
    if let Ok(Err(failed)) = &mut answer
        && let Some(unsent) = failed.take_message()
    {
        // It was closed while it was idle.
        match owner.dial(upgrade).await {
            Ok(fresh) => link = fresh,
            Err(error) => {
                tracing::info!(%error, "the owner of a function is gone");
                return Forwarded::Unreachable(head.with(unsent.into_body()));
            }
        }
        answer = timeout_at(deadline, link.send(unsent)).await;
    }
    let response = match answer {
        Ok(Ok(response)) => response,
        Ok(Err(failed)) => return Forwarded::Answered(Err(broken(&failed.into_error()))),
        Err(_) => {
            let reason = "the router that owns the function did not answer in time";
            let refusal = Refusal::new(StatusCode::GATEWAY_TIMEOUT, reason);
            return Forwarded::Answered(Err(refusal));
        }
    };
    if is_not_taken(&response) {
        tracing::info!(status = %response.status(), id, "the owner of a function does not take a call");
        return match head.is_empty && !upgrade {
            true => Forwarded::Unreachable(head.with(Sent::Whole(Full::default()))),
            false => {
                let reason = "the router that owns the function did not take the call; try again";
                let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason);
                Forwarded::Answered(Err(refusal))
            }
        };
    }
    let peer = owner.clone();
    let call = Call {
        place: None,
        link,
        peer,
    };
    let limit = match proxy::limit(&meta, deadline) {
        Limit::Idle(idle, last) => Limit::Idle(idle + GRACE, last.map(|last| last + GRACE)),
        limit => limit,
    };
    Forwarded::Answered(Ok(proxy::pass_on(response, call, client, limit)))
}

/// A request without its body.
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    extensions: Extensions,
    is_empty: bool,
}

impl Head {
    fn of(request: &Request<Sent>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            extensions: request.extensions().clone(),
            is_empty: request.body().is_end_stream(),
        }
    }

    fn with(self, body: Sent) -> Request<Sent> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        *request.extensions_mut() = self.extensions;
        request
    }
}

/// True for an answer of the owner's own door, as [`refused`] marks it: the function was not
/// called.
fn is_not_taken<B>(response: &Response<B>) -> bool {
    response.headers().contains_key(header::OWNER)
}

/// Marks the answer to a router that passed a call on: it was not taken.
pub fn refused(mut response: Response<Body>) -> Response<Body> {
    let mark = HeaderValue::from_static("refused");
    response.headers_mut().insert(header::OWNER, mark);
    response
}

fn broken(error: &dyn std::error::Error) -> Refusal {
    let reason = format!("the router that owns the function broke off: {error}");
    Refusal::new(StatusCode::BAD_GATEWAY, reason)
}

/// The request as it goes to the owner.
fn addressed(
    request: Request<Sent>,
    meta: &Meta,
    own_name: &str,
    key: &Key,
) -> Result<Request<Sent>, Refusal> {
    let bad = || Refusal::new(StatusCode::BAD_REQUEST, "the path cannot be passed on");
    let (mut parts, body) = request.into_parts();
    let rest = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let function = &meta.key;
    let label = match function.version.as_str() {
        "" => String::new(),
        version => format!(":{version}"),
    };
    let line = format!(
        "/fission-function/{}/{}{label}{rest}",
        function.namespace, function.name
    );
    parts.uri = line.parse::<Uri>().map_err(|_| bad())?;
    let digest = Sha256::digest(own_name);
    let signed = key.sign_digest(parts.method.as_str(), &line, &digest, auth::now());
    for (name, value) in signed.into_iter().flat_map(auth::Signed::headers) {
        let value = HeaderValue::try_from(value).map_err(|_| bad())?;
        parts.headers.insert(HeaderName::from_static(name), value);
    }
    let owner = HeaderValue::from_str(own_name).map_err(|_| bad())?;
    parts.headers.insert(header::OWNER, owner);
    Ok(Request::from_parts(parts, body))
}

/// Checks that another router passed this request on.
///
/// # Errors
/// Why it is not accepted.
pub fn admitted<B>(key: &Key, request: &Request<B>) -> Result<(), Refusal> {
    let owner = request.headers().get(header::OWNER);
    let digest = Sha256::digest(owner.map_or(&b""[..], HeaderValue::as_bytes));
    let target = request.uri().path_and_query();
    let target = target.map_or("/", PathAndQuery::as_str);
    let (method, headers) = (request.method().as_str(), request.headers());
    key.verify_digest(method, target, &digest, headers, auth::now())
        .map_err(|refusal| Refusal::new(StatusCode::UNAUTHORIZED, refusal.to_string()))
}
