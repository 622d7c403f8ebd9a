//! Requests to the fetcher and the builder of a Pod, signed with the namespace's keys.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use farplane_functions_types::auth::{Key, Service, now};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;

use crate::error::BuildError;

/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Largest answer: a log, escaped.
const ANSWER_LIMIT: usize = 4 << 20;

/// One of the two.
#[derive(Debug)]
pub struct Sidecar {
    what: &'static str,
    address: SocketAddr,
    key: Key,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Sidecar {
    /// The fetcher at an address.
    pub fn fetcher(address: SocketAddr, secret: &[u8], namespace: &str) -> Self {
        let key = Key::derived(secret, Service::Fetcher, Some(namespace));
        Self::new("the fetcher of the builder", address, key)
    }

    /// The builder at an address.
    pub fn builder(address: SocketAddr, secret: &[u8], namespace: &str) -> Self {
        let key = Key::derived(secret, Service::Builder, Some(namespace));
        Self::new("the builder", address, key)
    }

    fn new(what: &'static str, address: SocketAddr, key: Key) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_DEADLINE));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        Self {
            what,
            address,
            key,
            client,
        }
    }

    /// Posts JSON.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<(StatusCode, Bytes), BuildError> {
        let body =
            serde_json::to_vec(body).map_err(|error| BuildError::Refused(error.to_string()))?;
        self.send(Method::POST, path, body, deadline).await
    }

    /// Deletes.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn delete(&self, target: &str, deadline: Duration) -> Result<StatusCode, BuildError> {
        let sent = self
            .send(Method::DELETE, target, Vec::new(), deadline)
            .await;
        sent.map(|(status, _)| status)
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<(StatusCode, Bytes), BuildError> {
        let what = self.what;
        let broken =
            |words: String| BuildError::Broken(format!("{what} cannot be reached: {words}"));
        let mut request = Request::builder()
            .method(&method)
            .uri(format!("http://{}{target}", self.address))
            .header(CONTENT_TYPE, "application/json");
        let signed = self.key.sign(method.as_str(), target, &body, now());
        for (name, value) in signed.into_iter().flat_map(|signed| signed.headers()) {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| broken(error.to_string()))?;
        let answer = async {
            let response = self.client.request(request).await;
            let response = response.map_err(|error| broken(farplane_types::causes(&error)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT)
                .collect()
                .await;
            let body = body.map_err(|error| broken(error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        match tokio::time::timeout(deadline, answer).await {
            Ok(answered) => answered,
            Err(_) => Err(BuildError::Deadline { what, deadline }),
        }
    }
}
