//! Another part of the platform, as the router calls it: signed, and with a bound on what is read.

use std::time::Duration;

use bytes::Bytes;
use farplane_functions_types::auth::{self, Key};
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::settings::Error;

/// How long a connection may take to be made: the part is near, or gone.
const CONNECT: Duration = Duration::from_secs(1);
/// After this time without a packet a peer is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// Longest answer that is read, in bytes.
const LONGEST: usize = 4 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub struct NoAnswer {
    /// Nothing of the request was sent.
    pub unsent: bool,
    /// The cause in words.
    pub reason: String,
}

/// Calls one part.
#[derive(Clone, Debug)]
pub struct Part {
    client: Client<HttpConnector, Full<Bytes>>,
    address: String,
    key: Key,
}

impl Part {
    /// The part `name` at this URL, called with this key.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(name: &'static str, url: &str, key: Key) -> Result<Self, Error> {
        let address = url.trim_end_matches('/').to_owned();
        let usable = address.parse::<Uri>().is_ok_and(|uri| {
            uri.scheme_str() == Some("http") && uri.authority().is_some() && uri.path() == "/"
        });
        if !usable {
            return Err(Error::Url {
                part: name,
                url: url.to_owned(),
                reason: "http://host:port without a path is needed".to_owned(),
            });
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_keepalive(Some(KEEPALIVE));
        connector.set_keepalive_interval(Some(KEEPALIVE));
        connector.set_keepalive_retries(Some(3));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self {
            client,
            address,
            key,
        })
    }

    /// Its URL.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends one request; `target` is its path and query.
    ///
    /// # Errors
    /// Why there is no answer, whatever its status.
    pub async fn send(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), NoAnswer> {
        let unsent = |reason: String| NoAnswer {
            unsent: true,
            reason,
        };
        let mut request = Request::builder()
            .uri(format!("{}{target}", self.address))
            .header(CONTENT_TYPE, "application/json");
        let signed = self.key.sign(method.as_str(), target, &body, auth::now());
        for (name, value) in signed.into_iter().flat_map(auth::Signed::headers) {
            request = request.header(name, value);
        }
        let request = request
            .method(method)
            .body(Full::new(body))
            .map_err(|error| unsent(error.to_string()))?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| NoAnswer {
                unsent: error.is_connect(),
                reason: farplane_types::causes(&error),
            })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        match body {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) => Err(NoAnswer {
                unsent: false,
                reason: format!("the answer broke off: {error}"),
            }),
        }
    }
}
