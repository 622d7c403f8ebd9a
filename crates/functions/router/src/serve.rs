//! The listeners: public, internal, metrics and probes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use farplane_functions_types::auth;
use farplane_functions_types::names::header;
use http::header::{CONNECTION, HOST, HeaderValue, ORIGIN, VARY, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::answers::{json, refused, request_id, text};
use crate::body::{Body, Sent};
use crate::cors;
use crate::forward::{self, Forwarded};
use crate::internal::{Caller, internal};
use crate::login::{self, Login};
use crate::path;
use crate::proxy::{self, Answered, By, Client, Target};
use crate::queue;
use crate::route::{Found, Matched};
use crate::router::{Router, read};
use crate::stall::Stalling;
use crate::state::Refusal;
use crate::trace;
use crate::turns::Call;
use crate::workers::Workers;

/// How long a client may take to send a request's head.
const HEAD: Duration = Duration::from_secs(60);
/// Bytes of a request's head. Headers are 100 at most, which is hyper's own limit.
const MAX_HEAD: usize = 64 << 10;
/// How long calls may run on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(80);
/// Release of Fission whose contract this is; its command compares it with its own.
const CONTRACT: &str = "v1.27.0";
const OWN_PATHS: [&str; 3] = ["/router-healthz", "/readyz", "/_version"];

/// Which listener a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Everybody.
    Public,
    /// Parts of the platform.
    Internal,
    /// Whoever may forward a port to this Pod: routes, and any function by its name. On the
    /// loopback interface only.
    Forwarded,
    /// Probes and metrics.
    Metrics,
}

/// Serves until the shutdown, then lets calls come to their end.
pub async fn serve(
    router: Arc<Router>,
    listener: TcpListener,
    door: Door,
    workers: Arc<Workers>,
    shutdown: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    if door != Door::Metrics {
                        router.accept();
                    }
                    let Ok(socket) = socket.into_std() else { continue };
                    let served = connection(router.clone(), socket, door, shutdown.clone());
                    connections.spawn_on(served, workers.next());
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    // Out of file descriptors, most likely: some must be closed first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        tracing::warn!("calls that are still running are cut");
    }
}

async fn connection(
    router: Arc<Router>,
    socket: std::net::TcpStream,
    door: Door,
    shutdown: CancellationToken,
) {
    // From here on its events are those of this thread.
    let socket = match TcpStream::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "a connection cannot be served");
            return;
        }
    };
    // Only speed is lost without.
    _ = socket.set_nodelay(true);
    let client = socket.peer_addr().ok().map(|address| Client(address.ip()));
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(client) = client {
            request.extensions_mut().insert(client);
        }
        let router = router.clone();
        async move {
            let mut response = answer(&router, door, request).await;
            let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if router.is_ending() && !switches {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Stalling::new(socket)), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection ended");
    }
}

async fn answer(router: &Router, door: Door, request: Request<Incoming>) -> Response<Body> {
    let _call = Call::begin();
    match door {
        Door::Public => public(router, request).await,
        Door::Internal | Door::Forwarded if OWN_PATHS.contains(&request.uri().path()) => {
            own(router, request.uri().path())
        }
        Door::Internal => internal(router, Caller::Unknown, request).await,
        Door::Forwarded if request.uri().path().starts_with(path::FUNCTIONS) => {
            internal(router, Caller::Forwarded, request).await
        }
        Door::Forwarded => public(router, request).await,
        Door::Metrics => probes(router, request.uri().path()),
    }
}

fn probes(router: &Router, path: &str) -> Response<Body> {
    match path {
        "/healthz" => text(StatusCode::OK, "ok"),
        "/readyz" if router.is_ready() => text(StatusCode::OK, "ok"),
        "/readyz" => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "routes are still being read",
        ),
        "/metrics" => text(StatusCode::OK, router.metrics.text()),
        _ => text(StatusCode::NOT_FOUND, "there is no such path"),
    }
}

async fn public(router: &Router, request: Request<Incoming>) -> Response<Body> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let host = host(&request);
    if OWN_PATHS.contains(&path.as_str()) {
        return own(router, &path);
    }
    if let Some(login) = router.login.as_ref().filter(|_| path == login::PATH) {
        return log_in(login, request).await;
    }
    let origin = request.headers().get(ORIGIN).cloned();
    let found = read(&router.table).find(&method, &host, &path);
    match found {
        Found::Route(matched) => {
            let cors = matched.route.cors.clone();
            let mut response = call(router, matched, request).await;
            let headers = response.headers_mut();
            headers.insert(
                "x-content-type-options",
                HeaderValue::from_static("nosniff"),
            );
            headers.append(VARY, HeaderValue::from_static("Origin"));
            if let (Some(cors), Some(origin)) = (cors, origin) {
                cors::allow_origin(&cors, &origin, response.headers_mut());
            }
            response
        }
        Found::OtherMethods(routes) if method == Method::OPTIONS && origin.is_some() => {
            match cors::preflight(&routes, request.headers()) {
                Some(headers) => {
                    let mut response = text(StatusCode::NO_CONTENT, "");
                    *response.headers_mut() = headers;
                    response
                }
                None => text(StatusCode::FORBIDDEN, "this origin may not call this route"),
            }
        }
        Found::OtherMethods(_) => refused(
            &request_id(&request),
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "no route takes this method at this path",
            ),
        ),
        Found::Nothing if path == "/" && method == Method::GET => text(StatusCode::OK, ""),
        Found::Nothing => refused(
            &request_id(&request),
            Refusal::new(StatusCode::NOT_FOUND, "no route takes this path"),
        ),
    }
}

fn own(router: &Router, path: &str) -> Response<Body> {
    match path {
        "/_version" => {
            let version = serde_json::json!({
                "Build": { "Version": CONTRACT, "GitCommit": "", "BuildDate": "" },
                "ServerTime": { "Timezone": "UTC", "CurrentTime": time() },
                "farplane": { "version": router.settings.version },
            });
            json(StatusCode::OK, &version)
        }
        "/readyz" if !router.is_ready() => probes(router, path),
        _ => text(StatusCode::OK, ""),
    }
}

async fn log_in(login: &Login, request: Request<Incoming>) -> Response<Body> {
    let id = request_id(&request);
    if request.method() != Method::POST {
        let reason = "a login is a POST";
        return refused(&id, Refusal::new(StatusCode::METHOD_NOT_ALLOWED, reason));
    }
    let body = Limited::new(request.into_body(), login::LONGEST).collect();
    let token = match body.await {
        Ok(body) => login.login(&body.to_bytes(), auth::now()),
        Err(_) => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the login broke off or is too large",
        )),
    };
    match token {
        Ok(token) => json(StatusCode::CREATED, &token),
        Err(refusal) => refused(&id, refusal),
    }
}

async fn call(router: &Router, matched: Matched, mut request: Request<Incoming>) -> Response<Body> {
    let id = request_id(&request);
    if let Some(login) = &router.login
        && let Err(refusal) = login.admit(request.headers_mut())
    {
        let mut response = refused(&id, refusal);
        let bearer = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
        return response;
    }
    let Matched {
        route,
        path,
        variables,
    } = matched;
    let is_async = route.is_async || queue::is_wanted(request.headers());
    let slot = match router.resolve(&route.namespace, &route.function) {
        Ok(slot) => slot,
        Err(error) => {
            let reason = format!("route {}/{}: {error}", route.namespace, route.trigger);
            return refused(&id, Refusal::new(StatusCode::NOT_FOUND, reason));
        }
    };
    let target = Target {
        slot,
        path,
        variables,
        by: By::Route,
    };
    let request = request.map(Sent::Client);
    run(router, &target, &route.path, is_async, request, &id).await
}

/// Calls a function, or hands the call to the queue; counts and traces it.
pub async fn run(
    router: &Router,
    target: &Target,
    path: &str,
    is_async: bool,
    mut request: Request<Sent>,
    id: &str,
) -> Response<Body> {
    let began = Instant::now();
    let method = request.method().clone();
    let meta = target.slot.meta();
    let waiting = Gone { id, began };
    // Of a call that another router passed on, that one has told.
    let traces = router.settings.traces.as_ref();
    let traced = traces.filter(|_| target.by != By::Router).map(|traces| {
        let call = trace::Call {
            method: &method,
            route: path,
            function: &meta.key,
            id,
        };
        traces.begin(&call, request.headers_mut())
    });
    let called = match is_async {
        true => hand_over(router, target, request, id).await,
        false => call_or_forward(router, target, request, id).await,
    };
    std::mem::forget(waiting);
    let (response, overhead, cold) = match called {
        Ok(answered) => (answered.response, answered.sent - began, answered.cold),
        Err(refusal) => (refused(id, refusal), began.elapsed(), false),
    };
    let status = response.status();
    if let Some(traced) = traced {
        traced.answered(status, cold.then_some(overhead));
    }
    if target.by == By::Router {
        // The router that passed it on counts it.
        return response;
    }
    router
        .metrics
        .called(&meta.key, path, &method, status, overhead, cold);
    response
}

/// Gives the call to the queue; the function is called later, by the internal listener.
async fn hand_over(
    router: &Router,
    target: &Target,
    request: Request<Sent>,
    id: &str,
) -> Result<Answered, Refusal> {
    let meta = target.slot.meta();
    let dedup_key = request.headers().get(header::DEDUP_KEY);
    let dedup_key = dedup_key.and_then(|key| key.to_str().ok().map(str::to_owned));
    let request = proxy::prepare(target, &meta, request, id, false)?;
    let response = router.queue.take(&meta.key, dedup_key, request).await?;
    Ok(Answered {
        response,
        cold: false,
        sent: Instant::now(),
    })
}

async fn call_or_forward(
    router: &Router,
    target: &Target,
    mut request: Request<Sent>,
    id: &str,
) -> Result<Answered, Refusal> {
    let owner = match target.by {
        By::Router => None,
        By::Route | By::Platform => router.owner(&target.slot.meta().key.uid),
    };
    if let Some(owner) = owner {
        let (own, key) = (&router.settings.pod_name, &router.internal_key);
        let sent = Instant::now();
        match forward::forward(&owner, own, key, target, request, id).await {
            Forwarded::Answered(answer) => {
                return answer.map(|response| Answered {
                    response,
                    cold: false,
                    sent,
                });
            }
            Forwarded::Unreachable(unsent) => request = unsent,
        }
    }
    proxy::call(target, request, id).await
}

/// Says so when a client does not wait for its answer.
struct Gone<'a> {
    id: &'a str,
    began: Instant,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let waited = self.began.elapsed();
        tracing::info!(status = 499, id = self.id, ?waited, "the client is gone");
    }
}

fn time() -> String {
    k8s_openapi::jiff::Timestamp::now().to_string()
}

fn host<B>(request: &Request<B>) -> String {
    let header = request
        .headers()
        .get(HOST)
        .and_then(|value| value.to_str().ok());
    header
        .or_else(|| request.uri().host())
        .unwrap_or_default()
        .to_owned()
}
