//! One call: a place, a connection, the request, the answer.
//!
//! A request is sent again only where nothing of it was sent: the connection could not be made, or
//! was closed by the instance while it was idle.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use farplane_functions_types::names::header;
use http::header::{
    CONNECTION, FORWARDED, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use crate::body::{Body, Call, Limit, Passed, Sent};
use crate::pool::Link;
use crate::state::{Meta, Place, Refusal, Slot};

/// Every proxy adds whom it got the request from.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REQUEST_ID: HeaderName = HeaderName::from_static(header::REQUEST_ID);
const FULL_URL: HeaderName = HeaderName::from_static(header::FULL_URL);
/// Between two neighbours only, like those that `connection` names.
static HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];
/// Beginning of the headers with signatures between parts of the platform.
const SIGNATURES: &str = "x-fission-auth-";
/// Most headers that every request gets, beside those of its function.
const ADDED: usize = 5;
/// Times that a call looks for another instance when it could not be sent.
const MAX_TRIES: usize = 5;

/// Who sent a request, in its extensions.
#[derive(Clone, Copy, Debug)]
pub struct Client(pub IpAddr);

/// What of a request depends on how the function is reached.
pub struct Target {
    /// The function.
    pub slot: Arc<Slot>,
    /// Path that it sees.
    pub path: String,
    /// Variables of the path.
    pub variables: Vec<(String, String)>,
    /// How it came here.
    pub by: By,
}

/// How a call came to this router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A route: from anybody.
    Route,
    /// The internal listener: from a part of the platform, which may know the path's variables.
    Platform,
    /// Another router, which set all headers and counts it.
    Router,
}

/// An answer, and whether an instance was made for it.
pub struct Answered {
    /// The answer.
    pub response: Response<Body>,
    /// An instance was made.
    pub cold: bool,
    /// When the instance was given the request.
    pub sent: Instant,
}

/// Calls a function.
///
/// # Errors
/// Why there is no answer of the function.
pub async fn call(target: &Target, request: Request<Sent>, id: &str) -> Result<Answered, Refusal> {
    let meta = target.slot.meta();
    // A cold call may take as long as the specialisation; its own time begins with its place.
    let entry = Instant::now() + meta.timeout.max(meta.specialisation);
    let upgrade = wants_upgrade(request.headers());
    let mut request = prepare(target, &meta, request, id, upgrade)?;
    let client = upgrade.then(|| hyper::upgrade::on(&mut request));
    let mut tries = 0;
    loop {
        tries += 1;
        let place = target.slot.enter(entry).await?;
        let cold = place.cold;
        let deadline = Instant::now() + meta.timeout;
        let peer = place.peer();
        let idle = if upgrade { None } else { peer.idle() };
        let (mut link, fresh) = match idle {
            Some(link) => (link, false),
            None => match peer.dial(upgrade).await {
                Ok(link) => (link, true),
                Err(error) if tries < MAX_TRIES => {
                    tracing::info!(%error, "an instance does not answer; trying another");
                    place.is_dead();
                    continue;
                }
                Err(error) => {
                    place.is_dead();
                    return Err(Refusal::new(StatusCode::BAD_GATEWAY, error.to_string()));
                }
            },
        };
        let sent = Instant::now();
        let answer = timeout_at(deadline, link.send(request)).await;
        let Ok(answer) = answer else {
            let reason = format!(
                "the function did not answer within its timeout of {} s",
                meta.timeout.as_secs()
            );
            return Err(Refusal::of_function(StatusCode::GATEWAY_TIMEOUT, reason));
        };
        match answer {
            Ok(response) => {
                let call = Call {
                    place: Some(place),
                    link,
                    peer,
                };
                let response = pass_on(response, call, client, limit(&meta, deadline));
                return Ok(Answered {
                    response,
                    cold,
                    sent,
                });
            }
            Err(mut failed) => match failed.take_message() {
                // Nothing was sent: the connection was closed while it was idle.
                Some(unsent) if tries < MAX_TRIES => {
                    request = unsent;
                    if fresh {
                        place.is_dead();
                    }
                }
                _ => {
                    let error = failed.into_error();
                    if is_lost(&error) {
                        place.is_dead();
                        let reason = "the node of the instance stopped answering; the next call goes to another";
                        return Err(Refusal::new(StatusCode::BAD_GATEWAY, reason));
                    }
                    let reason = format!(
                        "the instance ended its connection before it answered ({error}); \
                         the function's log says whether it crashed or ran out of memory"
                    );
                    return Err(Refusal::of_function(StatusCode::BAD_GATEWAY, reason));
                }
            },
        }
    }
}

/// True when the other end is not there any more, instead of having ended the connection.
fn is_lost(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error);
    let cause = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| {
        use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
        matches!(
            cause.kind(),
            TimedOut | HostUnreachable | NetworkUnreachable
        )
    })
}

/// When the answer of a function is cut.
pub(crate) fn limit(meta: &Meta, deadline: Instant) -> Limit {
    let Some(streaming) = &meta.streaming else {
        return Limit::At(deadline);
    };
    let seconds = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    let idle = seconds(streaming.idle_timeout_seconds)
        .filter(|&it| it > 0)
        .unwrap_or(60);
    let most = seconds(streaming.max_duration_seconds).filter(|&it| it > 0);
    let last = most.map(|most| Instant::now() + std::time::Duration::from_secs(most));
    Limit::Idle(std::time::Duration::from_secs(idle), last)
}

/// True when the connection is to become something else.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        && headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.to_lowercase().contains("upgrade"))
}

/// The request as the function sees it.
pub(crate) fn prepare(
    target: &Target,
    meta: &Meta,
    request: Request<Sent>,
    id: &str,
    upgrade: bool,
) -> Result<Request<Sent>, Refusal> {
    let (mut parts, body) = request.into_parts();
    let bad = || Refusal::new(StatusCode::BAD_REQUEST, "the path cannot be passed on");
    let full = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let full = HeaderValue::from_str(full).map_err(|_| bad())?;
    let path = match parts.uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", target.path)),
        None => PathAndQuery::try_from(target.path.as_str()),
    };
    parts.uri = Uri::from(path.map_err(|_| bad())?);
    strip(&mut parts.headers, upgrade);
    let headers = &mut parts.headers;
    // Nobody but the platform says the variables; signatures are not for functions, which could
    // use them.
    let own = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with(SIGNATURES)
            || [header::OWNER, header::INVOKE_MODE, header::DEDUP_KEY].contains(&name)
            || name.starts_with(header::PARAMS) && target.by == By::Route
    };
    remove(headers, own);
    headers.reserve(meta.headers.len() + target.variables.len() + ADDED);
    for (name, value) in &meta.headers {
        headers.insert(name, value.clone());
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    if target.by == By::Router {
        return Ok(Request::from_parts(parts, body));
    }
    // Of an asynchronous call, the queue knows what the client wrote.
    if target.by == By::Route || !headers.contains_key(FULL_URL) {
        headers.insert(FULL_URL, full);
    }
    if let Some(host) = headers.get(HOST).cloned() {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
    if let Some(Client(address)) = parts.extensions.get() {
        let address = address.to_string();
        let hop = forwarded(&address, headers.get(HOST));
        headers.extend(hop.map(|hop| (FORWARDED, hop)));
        let before = headers
            .get(FORWARDED_FOR)
            .and_then(|value| value.to_str().ok());
        let chain = match before {
            Some(before) => [before, &address].join(", "),
            None => address,
        };
        if let Ok(chain) = HeaderValue::try_from(chain) {
            headers.insert(FORWARDED_FOR, chain);
        }
    }
    for (name, value) in &target.variables {
        let name = HeaderName::try_from(format!("{}{name}", header::PARAMS));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    Ok(Request::from_parts(parts, body))
}

/// What `Forwarded` tells of this hop (RFC 7239, section 4).
fn forwarded(client: &str, host: Option<&HeaderValue>) -> Option<HeaderValue> {
    let mut hop = String::with_capacity(64);
    // An address of IPv6.
    match client.contains(':') {
        true => hop.extend(["for=\"[", client, "]\""]),
        false => hop.extend(["for=", client]),
    }
    let host = host.and_then(|host| host.to_str().ok());
    // A quote would end the quoted text.
    if let Some(host) = host.filter(|host| !host.contains(['"', '\\'])) {
        hop.extend([";host=\"", host, "\""]);
    }
    hop.push_str(";proto=http");
    HeaderValue::try_from(hop).ok()
}

/// Removes the headers whose name is meant: seldom any, so they are looked for first.
fn remove(headers: &mut HeaderMap, meant: impl Fn(&HeaderName) -> bool) {
    let meant: Vec<HeaderName> = headers.keys().filter(|name| meant(name)).cloned().collect();
    for name in meant {
        headers.remove(name);
    }
}

/// Takes away what is between two neighbours only.
fn strip(headers: &mut HeaderMap, upgrade: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| !(upgrade && *name == UPGRADE))
        .collect();
    for name in named {
        headers.remove(name);
    }
    remove(headers, |name| {
        HOP_BY_HOP.contains(name) || !upgrade && *name == UPGRADE
    });
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// The answer as the client sees it.
pub(crate) fn pass_on(
    mut response: Response<Incoming>,
    call: Call,
    client: Option<hyper::upgrade::OnUpgrade>,
    limit: Limit,
) -> Response<Body> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let instance = hyper::upgrade::on(&mut response);
        let Call { place, link, .. } = call;
        tokio::spawn(join(client, instance, place, link));
        let (parts, _) = response.into_parts();
        return Response::from_parts(parts, Body::Text(None));
    }
    let (mut parts, body) = response.into_parts();
    strip(&mut parts.headers, false);
    // Said by routers only.
    parts.headers.remove(header::OWNER);
    Response::from_parts(parts, Passed::on(body, call, limit))
}

/// A WebSocket: bytes both ways until one side ends. The place is taken all the while.
async fn join(
    client: hyper::upgrade::OnUpgrade,
    instance: hyper::upgrade::OnUpgrade,
    place: Option<Place>,
    link: Link,
) {
    let joined = async {
        let (client, instance) = tokio::try_join!(client, instance)?;
        let (mut client, mut instance) = (TokioIo::new(client), TokioIo::new(instance));
        tokio::io::copy_bidirectional(&mut client, &mut instance).await?;
        Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    };
    if let Err(error) = joined.await {
        tracing::debug!(%error, "an upgraded connection ended");
    }
    drop((place, link));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_is_told_as_the_standard_says() {
        let told = |client: &str, host: Option<&'static str>| {
            let host = host.map(HeaderValue::from_static);
            forwarded(client, host.as_ref()).unwrap()
        };
        assert_eq!(
            told("10.0.0.1", Some("a.example:80")),
            "for=10.0.0.1;host=\"a.example:80\";proto=http"
        );
        assert_eq!(told("::1", None), "for=\"[::1]\";proto=http");
        assert_eq!(
            told("::1", Some("a\";for=b")),
            "for=\"[::1]\";proto=http",
            "a client says no more than its own name for us"
        );
    }
}
