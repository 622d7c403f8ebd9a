//! Where routers hand over calls, and dead letters are looked at.
//!
//! Open in every process; one that does not lead answers 503, so routers ask the Service
//! again until they meet the one that does. `/readyz` says which it is.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use farplane_functions_types::FunctionAlias;
use farplane_functions_types::auth::{self, Key, Service};
use farplane_functions_types::names::header;
use farplane_functions_types::wire::{
    INVOCATION_LIMIT, INVOCATIONS, INVOCATIONS_DEAD, InvocationReply, InvocationRequest,
};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::error::Error;
use crate::invocations::queue::{News, now_ms};
use crate::invocations::record::{Policy, Record, new_id};
use crate::invocations::store::{Added, Change, Changed, Store, StoreError};
use crate::objects::Watched;
use crate::settings::InvocationSettings;
use crate::target::{Target, subpath};

/// Of a request: the largest body as base64, and its headers.
const LONGEST_REQUEST: usize = INVOCATION_LIMIT * 2;
const DEFAULT_LIST: usize = 100;
const MOST_LIST: usize = 1000;

/// What is there while this process leads.
pub(crate) struct Open {
    pub context: Context,
    pub store: Store,
    pub aliases: Watched<FunctionAlias>,
    pub news: mpsc::UnboundedSender<News>,
}

/// The listener of this process.
#[derive(Clone)]
pub(crate) struct Listener {
    key: Key,
    open: Arc<Mutex<Option<Arc<Open>>>>,
}

/// Opens the port.
pub(crate) async fn bind(
    settings: &InvocationSettings,
    secret: &[u8],
) -> Result<(Listener, tokio::net::TcpListener), Error> {
    let address = settings.listen;
    let socket = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })?;
    let listener = Listener {
        key: Key::derived(secret, Service::Invocations, None),
        open: Arc::default(),
    };
    Ok((listener, socket))
}

impl Listener {
    /// Answers until it is dropped.
    pub async fn serve(self, socket: tokio::net::TcpListener) {
        let address: Option<SocketAddr> = socket.local_addr().ok();
        let router = Router::new()
            .route("/readyz", get(ready))
            .route(INVOCATIONS, post(take))
            .route(&format!("{INVOCATIONS_DEAD}/list"), get(list))
            .route(&format!("{INVOCATIONS_DEAD}/show"), get(show))
            .route(&format!("{INVOCATIONS_DEAD}/redrive"), post(redrive))
            .route(&format!("{INVOCATIONS_DEAD}/purge"), post(purge))
            .layer(DefaultBodyLimit::max(LONGEST_REQUEST))
            .with_state(self);
        if let Err(error) = axum::serve(socket, router).await {
            tracing::error!(?address, %error, "the port of asynchronous calls is closed");
        }
    }

    /// From now on calls are taken.
    pub fn open(&self, open: Open) {
        let mut place = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(Arc::new(open));
    }

    /// From now on no calls are taken.
    pub fn close(&self) {
        let mut place = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *place = None;
    }

    fn opened(&self) -> Option<Arc<Open>> {
        let place = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        place.clone()
    }

    /// Checks who asks, and whether this process can answer.
    fn admit(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Arc<Open>, Refused> {
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        self.key
            .verify(method.as_str(), target, body, headers, auth::now())
            .map_err(|refusal| Refused(StatusCode::UNAUTHORIZED, refusal.to_string()))?;
        self.opened().ok_or_else(|| {
            let reason = "this process does not lead; ask again";
            Refused(StatusCode::SERVICE_UNAVAILABLE, reason.to_owned())
        })
    }
}

/// Why nothing was done.
struct Refused(StatusCode, String);

impl axum::response::IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.0, self.1).into_response();
        if self.0 == StatusCode::SERVICE_UNAVAILABLE {
            // The next connection may lead to the process that takes calls.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

fn bad(reason: impl Into<String>) -> Refused {
    Refused(StatusCode::BAD_REQUEST, reason.into())
}

async fn ready(State(listener): State<Listener>) -> StatusCode {
    match listener.opened() {
        Some(_) => StatusCode::OK,
        None => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn take(
    State(listener): State<Listener>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let open = listener.admit(&method, &uri, &headers, &body)?;
    let request: InvocationRequest =
        serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    let added = accept(&open, request)?;
    let (lane, due_ms) = (added.record.lane(), added.record.enqueued_ms);
    let made = added.record.id.clone();
    let Changed::Added(id) = open.store.change(Change::Add(Box::new(added))).await? else {
        return Err(bad("the call was not stored"));
    };
    if id == made {
        // The receiver lives as long as this process leads.
        _ = open.news.send((lane, made, due_ms));
    }
    let reply = Json(InvocationReply {
        invocation_id: id.clone(),
    });
    let headers = [(header::INVOCATION_ID, id)];
    Ok((StatusCode::ACCEPTED, headers, reply).into_response())
}

/// What is stored of a request.
fn accept(open: &Open, request: InvocationRequest) -> Result<Added, Refused> {
    let body = BASE64_STANDARD
        .decode(&request.body)
        .map_err(|error| bad(format!("body is not base64: {error}")))?;
    if body.len() > INVOCATION_LIMIT {
        let reason = format!("asynchronous calls take at most {INVOCATION_LIMIT} bytes");
        return Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, reason));
    }
    if request.method.parse::<Method>().is_err() {
        return Err(bad(format!("{:?} is no method", request.method)));
    }
    let reference = farplane_functions_types::FunctionReference {
        name: request.function,
        alias: request.tag,
        ..farplane_functions_types::FunctionReference::default()
    };
    let target =
        Target::of(&request.namespace, &reference).map_err(|error| bad(error.to_string()))?;
    let path = subpath(&request.target).map_err(|error| bad(error.to_string()))?;
    let function = open.context.functions.get(&target.namespace, &target.name);
    let Some(function) = function else {
        let reason = format!(
            "function {}/{} does not exist",
            target.namespace, target.name
        );
        return Err(Refused(StatusCode::NOT_FOUND, reason));
    };
    let invocation = function.spec.invocation.as_ref();
    let now = now_ms();
    let record = Record {
        id: new_id(now),
        tag: pinned(&open.aliases, &target),
        namespace: target.namespace,
        function: target.name,
        topic: None,
        method: request.method,
        target: path,
        headers: request.headers,
        enqueued_ms: now,
        depth: 0,
        attempts: 0,
        tries: 0,
        policy: Policy::of(invocation),
        on_success: invocation.and_then(|invocation| invocation.on_success.clone()),
        on_failure: invocation.and_then(|invocation| invocation.on_failure.clone()),
        dead: None,
    };
    Ok(Added {
        record,
        body,
        dedup_key: request.dedup_key,
    })
}

/// The version that an alias leads to now; any other tag as it is.
fn pinned(aliases: &Watched<FunctionAlias>, target: &Target) -> String {
    let alias = aliases.get(&target.namespace, &target.tag);
    let alias = alias.filter(|alias| alias.spec.function_name == target.name);
    let Some(alias) = alias else {
        return target.tag.clone();
    };
    let weight = alias.spec.weight.unwrap_or(100);
    if !alias.spec.secondary_version.is_empty() && rand::random_range(0..100) >= weight {
        return alias.spec.secondary_version.clone();
    }
    let resolved = alias.status.as_ref();
    let resolved = resolved.map(|status| status.resolved_version.clone());
    resolved
        .filter(|version| !version.is_empty())
        .unwrap_or_else(|| alias.spec.version.clone())
}

type Parameters = Query<HashMap<String, String>>;

/// Only one queue has dead letters here; others of the contract are empty.
fn is_ours(query: &HashMap<String, String>) -> bool {
    query
        .get("queue")
        .is_none_or(|queue| matches!(queue.as_str(), "" | "asyncinv"))
}

async fn list(
    State(listener): State<Listener>,
    Query(query): Parameters,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Value>, Refused> {
    let open = listener.admit(&method, &uri, &headers, b"")?;
    if !is_ours(&query) {
        return Ok(Json(json!({ "messages": [] })));
    }
    let limit = query.get("limit").and_then(|limit| limit.parse().ok());
    let limit = limit.unwrap_or(DEFAULT_LIST).clamp(1, MOST_LIST);
    let after = query.get("token").cloned().unwrap_or_default();
    let namespace = query.get("namespace").filter(|name| !name.is_empty());
    let dead = open
        .store
        .dead(&after, limit, namespace.map(String::as_str))?;
    let messages: Vec<Value> = dead.iter().map(summary).collect();
    let mut answer = json!({ "messages": messages });
    if let Some(last) = dead.last().filter(|_| dead.len() == limit) {
        answer["nextToken"] = json!(last.id);
    }
    Ok(Json(answer))
}

async fn show(
    State(listener): State<Listener>,
    Query(query): Parameters,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Value>, Refused> {
    let open = listener.admit(&method, &uri, &headers, b"")?;
    let id = query.get("id").filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| bad("parameter id is needed"))?;
    let found = open.store.get(id)?;
    let Some((record, body)) = found.filter(|(record, _)| record.dead.is_some()) else {
        let reason = format!("there is no dead call {id}");
        return Err(Refused(StatusCode::NOT_FOUND, reason));
    };
    let (path, parameters) = record
        .target
        .split_once('?')
        .unwrap_or((&record.target, ""));
    let headers: HashMap<&str, &str> = record
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut answer = summary(&record);
    answer["envelope"] = json!({
        "version": "1.0",
        "namespace": record.namespace,
        "function": record.function,
        "functionVersion": record.tag,
        "method": record.method,
        "path": path,
        "query": parameters,
        "headers": headers,
        "body": BASE64_STANDARD.encode(body),
        "enqueueTime": time(record.enqueued_ms),
        "depth": record.depth,
    });
    Ok(Json(answer))
}

async fn redrive(
    State(listener): State<Listener>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refused> {
    let open = listener.admit(&method, &uri, &headers, &body)?;
    let body: Value = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    let ids = body["ids"].as_array().cloned().unwrap_or_default();
    let ids = ids.iter().filter_map(|id| id.as_str().map(str::to_owned));
    let ids: Vec<String> = ids.take(MOST_LIST).collect();
    if ids.is_empty() {
        return Err(bad("ids must not be empty"));
    }
    let now = now_ms();
    let change = Change::Redrive {
        ids: ids.clone(),
        now_ms: now,
    };
    let changed = open.store.change(change).await?;
    for id in ids {
        let found = open.store.get(&id)?;
        // Those that waited already are in the schedule.
        let redriven = found.filter(|(record, _)| record.dead.is_none());
        if let Some((record, _)) = redriven.filter(|(record, _)| record.enqueued_ms == now) {
            _ = open.news.send((record.lane(), id, now));
        }
    }
    Ok(counted(&changed))
}

async fn purge(
    State(listener): State<Listener>,
    Query(query): Parameters,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refused> {
    let open = listener.admit(&method, &uri, &headers, &body)?;
    if !is_ours(&query) {
        return Ok(counted(&Changed::Nothing));
    }
    let change = Change::Purge {
        ids: Vec::new(),
        namespace: query
            .get("namespace")
            .filter(|name| !name.is_empty())
            .cloned(),
    };
    Ok(counted(&open.store.change(change).await?))
}

fn counted(changed: &Changed) -> Json<Value> {
    let count = match changed {
        Changed::Count(count) => *count,
        _ => 0,
    };
    Json(json!({ "count": count }))
}

fn summary(record: &Record) -> Value {
    let dead = record.dead.as_ref();
    json!({
        "id": record.id,
        "namespace": record.namespace,
        "function": record.function,
        "topic": record.topic.as_ref().map(|topic| &topic.topic),
        "reason": dead.map(|dead| &dead.reason),
        "attempts": record.attempts,
        "enqueuedAt": time(record.enqueued_ms),
        "diedAt": dead.map(|dead| time(dead.died_ms)),
    })
}

fn time(milliseconds: u64) -> String {
    let milliseconds = i64::try_from(milliseconds).unwrap_or(0);
    Timestamp::from_millisecond(milliseconds)
        .unwrap_or_default()
        .to_string()
}
