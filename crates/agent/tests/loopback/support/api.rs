//! Objects by path, with resource versions as the hub's API has them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};

const GROUP: &str = "/apis/farplane.io/v1alpha1";

#[derive(Clone, Default)]
pub struct FakeApi {
    objects: Arc<Mutex<HashMap<String, Value>>>,
    version: Arc<Mutex<u64>>,
}

impl FakeApi {
    pub fn put(&self, path: &str, mut object: Value) {
        object["metadata"]["resourceVersion"] = json!(self.next());
        let mut objects = self.objects.lock().unwrap();
        objects.insert(format!("{GROUP}/{path}"), object);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        let objects = self.objects.lock().unwrap();
        objects.get(&format!("{GROUP}/{path}")).cloned()
    }

    pub fn remove(&self, path: &str) {
        let mut objects = self.objects.lock().unwrap();
        objects.remove(&format!("{GROUP}/{path}"));
    }

    fn next(&self) -> String {
        let mut version = self.version.lock().unwrap();
        *version += 1;
        version.to_string()
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (status, answer) = api.handle(&head.method, head.uri.path(), body);
                let bytes = serde_json::to_vec(&answer).unwrap();
                let mut response = Response::new(Full::new(bytes.into()));
                *response.status_mut() = status;
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        kube::Client::new(service, "default")
    }

    fn handle(&self, method: &Method, path: &str, mut body: Value) -> (StatusCode, Value) {
        let mut objects = self.objects.lock().unwrap();
        let target = path.strip_suffix("/status").unwrap_or(path).to_owned();
        let failure = |code: StatusCode| {
            let reason = match code {
                StatusCode::NOT_FOUND => "NotFound",
                _ => "Conflict",
            };
            let answer = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
                "message": code.to_string(), "reason": reason, "code": code.as_u16() });
            (code, answer)
        };
        match (method.as_str(), objects.get_mut(&target)) {
            ("GET", Some(object)) => (StatusCode::OK, object.clone()),
            ("POST", _) => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                let target = format!("{target}/{name}");
                if objects.contains_key(&target) {
                    return failure(StatusCode::CONFLICT);
                }
                body["metadata"]["resourceVersion"] = json!(self.next());
                body["metadata"]["uid"] = json!(format!("uid-of-{name}"));
                objects.insert(target, body.clone());
                (StatusCode::CREATED, body)
            }
            ("PUT", Some(object)) => {
                let read = &body["metadata"]["resourceVersion"];
                if object["metadata"]["resourceVersion"] != *read {
                    return failure(StatusCode::CONFLICT);
                }
                object["status"] = body["status"].clone();
                object["metadata"]["resourceVersion"] = json!(self.next());
                (StatusCode::OK, object.clone())
            }
            ("PATCH", Some(object)) => {
                if object["metadata"]["uid"] != body["metadata"]["uid"] {
                    return failure(StatusCode::CONFLICT);
                }
                for (field, value) in body["status"].as_object().unwrap() {
                    object["status"][field] = value.clone();
                }
                (StatusCode::OK, object.clone())
            }
            _ => failure(StatusCode::NOT_FOUND),
        }
    }
}
