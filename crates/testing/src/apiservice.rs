//! The least of an aggregated API: discovery and one resource, `pings`, read only.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde_json::{Value, json};

use crate::serve;

const GROUP: &str = "test.farplane.io";
const NAMES: [&str; 2] = ["first", "second"];

/// Routes of the API.
pub fn router() -> Router {
    let ok = || async { "ok" };
    Router::new()
        .route("/healthz", get(ok))
        .route("/livez", get(ok))
        .route("/readyz", get(ok))
        .route(
            "/version",
            get(|| async { Json(json!({ "major": "1", "minor": "0" })) }),
        )
        .route("/apis", get(|| async { Json(groups()) }))
        .route("/apis/test.farplane.io", get(|| async { Json(group()) }))
        .route(
            "/apis/test.farplane.io/v1",
            get(|| async { Json(resources()) }),
        )
        .route(
            "/apis/test.farplane.io/v1/pings",
            get(|| async { Json(list()) }),
        )
        .route("/apis/test.farplane.io/v1/pings/{name}", get(one))
        .route("/openapi/v2", get(|| async { Json(openapi()) }))
        .route(
            "/openapi/v3",
            get(|| async { Json(json!({ "paths": {} })) }),
        )
        .fallback(|| async { not_found("the server could not find the requested resource") })
        .layer(middleware::from_fn(serve::log))
}

fn group() -> Value {
    let version = json!({ "groupVersion": format!("{GROUP}/v1"), "version": "v1" });
    json!({
        "apiVersion": "v1", "kind": "APIGroup", "name": GROUP,
        "versions": [version], "preferredVersion": version,
    })
}

fn groups() -> Value {
    json!({ "apiVersion": "v1", "kind": "APIGroupList", "groups": [group()] })
}

fn resources() -> Value {
    json!({
        "apiVersion": "v1", "kind": "APIResourceList", "groupVersion": format!("{GROUP}/v1"),
        "resources": [{
            "name": "pings", "singularName": "ping", "kind": "Ping",
            "namespaced": false, "verbs": ["get", "list"],
        }],
    })
}

fn openapi() -> Value {
    json!({
        "swagger": "2.0",
        "info": { "title": "pings", "version": "v1" },
        "paths": {},
    })
}

fn ping(name: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "Ping",
        "metadata": { "name": name },
        "answer": serve::hostname(),
    })
}

fn list() -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "PingList",
        "metadata": { "resourceVersion": "1" },
        "items": NAMES.map(ping),
    })
}

async fn one(Path(name): Path<String>) -> Response {
    match NAMES.contains(&name.as_str()) {
        true => Json(ping(&name)).into_response(),
        false => not_found(&format!("pings.{GROUP} {name:?} not found")),
    }
}

fn not_found(message: &str) -> Response {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "reason": "NotFound", "code": 404, "message": message,
    });
    (StatusCode::NOT_FOUND, Json(status)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::extract::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    async fn ask(path: &str) -> (StatusCode, Value) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn what_discovery_names_can_be_read() {
        let (_, groups) = ask("/apis").await;
        let version = groups["groups"][0]["preferredVersion"]["groupVersion"].clone();
        let base = format!("/apis/{}", version.as_str().unwrap());
        let (_, resources) = ask(&base).await;
        let name = resources["resources"][0]["name"]
            .as_str()
            .unwrap()
            .to_owned();
        let (status, list) = ask(&format!("{base}/{name}")).await;
        assert_eq!(status, 200);
        let first = list["items"][0]["metadata"]["name"]
            .as_str()
            .unwrap()
            .to_owned();
        let (status, ping) = ask(&format!("{base}/{name}/{first}")).await;
        assert_eq!((status.as_u16(), &ping["kind"]), (200, &json!("Ping")));
        assert_eq!(ask(&format!("{base}/{name}/absent")).await.0, 404);
    }
}
