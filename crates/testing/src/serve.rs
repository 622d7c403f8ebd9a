//! The HTTP server. Every request is a line on stdout, so that logs have something.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{any, get};
use axum::{Json, Router};
use serde_json::{Value, json};

/// Routes of the server.
pub fn router() -> Router {
    Router::new()
        .route(
            "/",
            get(|| async { format!("farplane-test-server at {}", hostname()) }),
        )
        .route("/hostname", get(|| async { hostname() }))
        .route("/healthz", get(|| async { "ok" }))
        .route("/env", get(environment))
        .route("/echo", any(echo))
        .layer(middleware::from_fn(log))
}

/// Name of the Pod.
pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default()
        .trim()
        .to_owned()
}

async fn environment() -> Json<BTreeMap<String, String>> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    Json(
        std::env::vars_os()
            .map(|(name, value)| (text(name), text(value)))
            .collect(),
    )
}

async fn echo(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Json<Value> {
    let headers: BTreeMap<&str, String> = headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str(), value)
        })
        .collect();
    Json(json!({
        "hostname": hostname(),
        "peer": peer.to_string(),
        "method": method.as_str(),
        "uri": uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    }))
}

/// Prints a line per request. Used by the other servers too.
pub async fn log(request: Request, next: Next) -> Response {
    let line = format!("{} {}", request.method(), request.uri());
    let response = next.run(request).await;
    println!("{line} {}", response.status().as_u16());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::extract::connect_info::MockConnectInfo;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    async fn ask(request: Request) -> String {
        let peer = SocketAddr::from(([192, 0, 2, 1], 5));
        let router = router().layer(MockConnectInfo(peer));
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn an_echo_tells_who_asked_what() {
        let request = Request::post("/echo?x=1")
            .header("x-test", "yes")
            .body(Body::from("hello"))
            .unwrap();
        let value: Value = serde_json::from_str(&ask(request).await).unwrap();
        assert_eq!(value["peer"], "192.0.2.1:5");
        assert_eq!(value["uri"], "/echo?x=1");
        assert_eq!(value["headers"]["x-test"], "yes");
        assert_eq!(value["body"], "hello");
    }

    #[tokio::test]
    async fn the_hostname_is_the_machines() {
        let request = Request::get("/hostname").body(Body::empty()).unwrap();
        let name = ask(request).await;
        assert!(!name.is_empty());
        assert_eq!(name, hostname());
    }
}
