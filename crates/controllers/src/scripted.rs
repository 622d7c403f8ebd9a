//! An API server for tests: objects in memory by path, with resource versions.
//!
//! Knows get, list, create, replace, patch (as a merge) and delete; no watches, no
//! admission, no ownership of fields.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// The server; clones share their objects.
#[derive(Clone, Default)]
pub(crate) struct Hub {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Every request answers 500 while set.
    down: bool,
}

impl Hub {
    pub fn client(&self) -> Client {
        let hub = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let hub = hub.clone();
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body
                    .collect()
                    .await
                    .map(|all| all.to_bytes())
                    .unwrap_or_default();
                let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                // Lets concurrent callers take turns.
                tokio::task::yield_now().await;
                let (status, answer) = hub.answer(&parts.method, parts.uri.path(), body);
                let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
                *response.status_mut() = status;
                Ok::<_, Infallible>(response)
            }
        });
        Client::new(service, "default")
    }

    pub fn set_down(&self, down: bool) {
        self.state.lock().unwrap().down = down;
    }

    /// The object at this path, as it is.
    pub fn object(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> (StatusCode, Value) {
        let mut state = self.state.lock().unwrap();
        if state.down {
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "Down");
        }
        let path = path
            .trim_end_matches("/status")
            .trim_end_matches("/approval")
            .to_owned();
        let old = state.objects.get(&path).cloned();
        match (method, old) {
            (&Method::GET, Some(object)) => (StatusCode::OK, object),
            (&Method::GET, None) => state.list(&path),
            (&Method::POST, _) => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                let path = format!("{path}/{name}");
                if state.objects.contains_key(&path) {
                    return refuse(StatusCode::CONFLICT, "AlreadyExists");
                }
                (StatusCode::CREATED, state.store(path, body))
            }
            (&Method::PUT, Some(old)) => {
                let (seen, have) = (version(&body), version(&old));
                if !seen.is_null() && seen != have {
                    return refuse(StatusCode::CONFLICT, "Conflict");
                }
                (StatusCode::OK, state.store(path, body))
            }
            (&Method::PATCH, old) => {
                let mut object = old.unwrap_or_else(|| json!({}));
                merge(&mut object, body);
                (StatusCode::OK, state.store(path, object))
            }
            (&Method::DELETE, Some(_)) => {
                state.objects.remove(&path);
                (
                    StatusCode::OK,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
                )
            }
            _ => refuse(StatusCode::NOT_FOUND, "NotFound"),
        }
    }
}

impl State {
    fn store(&mut self, path: String, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path, object.clone());
        object
    }

    fn list(&self, path: &str) -> (StatusCode, Value) {
        let below = format!("{path}/");
        let direct = |key: &&String| {
            key.strip_prefix(&below)
                .is_some_and(|rest| !rest.contains('/'))
        };
        let keys: Vec<&String> = self.objects.keys().filter(direct).collect();
        if keys.is_empty() {
            return refuse(StatusCode::NOT_FOUND, "NotFound");
        }
        let items: Vec<&Value> = keys.iter().map(|key| &self.objects[*key]).collect();
        (StatusCode::OK, json!({"metadata": {}, "items": items}))
    }
}

fn version(object: &Value) -> &Value {
    &object["metadata"]["resourceVersion"]
}

fn refuse(status: StatusCode, reason: &str) -> (StatusCode, Value) {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": reason, "message": reason, "code": status.as_u16(),
    });
    (status, body)
}

fn merge(object: &mut Value, patch: Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    object.remove(&key);
                } else {
                    merge(object.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (object, patch) => *object = patch,
    }
}
