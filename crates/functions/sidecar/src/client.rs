//! The HTTP client for archives: made when it is needed, one request each.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use farplane_functions_types::auth::{Key, NAMESPACE_HEADER, now};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Path of archives at storage.
pub const ARCHIVE_PATH: &str = "/v1/archive";
/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// A body that is sent.
pub type Body = BoxBody<Bytes, io::Error>;

/// A body without bytes.
pub fn no_body() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// Sends a request; ends when the answer's head is there.
///
/// # Errors
/// In words, when there is no answer.
pub async fn send(
    request: Request<Body>,
    deadline: Duration,
) -> Result<Response<Incoming>, String> {
    match tokio::time::timeout(deadline, client()?.request(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(farplane_types::causes(&error)),
        Err(_) => Err(format!("no answer within {} s", deadline.as_secs())),
    }
}

fn client() -> Result<Client<HttpsConnector<HttpConnector>, Body>, String> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT_DEADLINE));
    http.set_nodelay(true);
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
        .map_err(|error| format!("no TLS: {error}"))?
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    Ok(Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(connector))
}

/// True when a URL is of our storage: only then is it signed. A signature is never sent to
/// a server that a user named.
pub fn is_storage(url: &Uri, storage_url: &str) -> bool {
    if url.path() != ARCHIVE_PATH {
        return false;
    }
    // A Service has several names; they begin alike.
    let service = |uri: &Uri| {
        let host = uri.host().unwrap_or_default();
        let numeric = host.parse::<std::net::IpAddr>().is_ok() || host.starts_with('[');
        let first = host.split('.').next().unwrap_or_default();
        if numeric {
            host.to_owned()
        } else {
            first.to_owned()
        }
    };
    match storage_url.parse::<Uri>() {
        Ok(storage) if storage.host().is_some() => service(&storage) == service(url),
        _ => service(url) == "storagesvc",
    }
}

/// Signs a request to storage, for this namespace.
pub fn sign(request: &mut Request<Body>, key: &Key, namespace: &str, digest: &[u8]) {
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", hyper::http::uri::PathAndQuery::as_str)
        .to_owned();
    let Some(signed) = key.sign_digest(request.method().as_str(), &target, digest, now()) else {
        return;
    };
    let headers = request.headers_mut();
    for (name, value) in signed.headers() {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    if let Ok(namespace) = HeaderValue::from_str(namespace) {
        headers.insert(NAMESPACE_HEADER, namespace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_storage_is_signed_for() {
        let storage = "http://storagesvc.fission.svc.cluster.local";
        let is = |url: &str, storage| is_storage(&url.parse().unwrap(), storage);
        assert!(is("http://storagesvc.fission/v1/archive?id=x", storage));
        assert!(is("http://storagesvc.fission/v1/archive?id=x", ""));
        assert!(is(
            "http://127.0.0.1:1/v1/archive?id=x",
            "http://127.0.0.1:1"
        ));
        assert!(!is(
            "http://127.0.0.2:1/v1/archive?id=x",
            "http://127.0.0.1:1"
        ));
        assert!(!is("http://evil.example/v1/archive?id=x", storage));
        assert!(!is("http://evil.example/v1/archive?id=x", ""));
        assert!(!is("http://storagesvc.fission/v1/other", storage));
    }
}
