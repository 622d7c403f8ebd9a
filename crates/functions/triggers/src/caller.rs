//! Calls of functions through the router's internal listener, signed.
//!
//! [`Caller::call`] sends once. [`Caller::call_patiently`] goes on while nothing at all was
//! sent, so a function never sees a call twice because of us. Every call has a deadline.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use farplane_functions_types::auth::{self, Key, Service};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;

use crate::error::Error;
use crate::target::Target;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Finds a peer that is gone without a word during a long call.
const KEEPALIVE: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a page of metrics.
const LONGEST_METRICS: usize = 64 * 1024 * 1024;
/// Pauses between two tries to reach the router.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub target: Target,
    pub method: Method,
    /// As made by [`crate::target::subpath`].
    pub subpath: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// For the answer to be complete, from when it is sent.
    pub deadline: Duration,
    /// Bytes of the answer that are kept; the others are not read.
    pub keep: usize,
}

/// What a function, or the router for it, answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// There was more of the body than was asked for.
    pub truncated: bool,
}

impl Answer {
    /// Text for people: the beginning of the body.
    pub fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        text.chars().take(200).collect()
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nothing was sent.
    #[error(
        "cannot reach the router at {address}; is it running? {}",
        farplane_types::causes(source)
    )]
    NotSent {
        address: String,
        source: hyper_util::client::legacy::Error,
    },
    /// The function may have seen the call.
    #[error("the connection to the router broke before the answer: {0}")]
    Broken(String),
    /// The function may have seen the call.
    #[error("no answer within {} s", .0.as_secs())]
    Deadline(Duration),
    /// Never sent.
    #[error("the call cannot be written as HTTP: {0}")]
    Malformed(#[from] http::Error),
}

impl CallError {
    /// True when the function cannot have seen it and another try may be answered.
    pub fn was_not_sent(&self) -> bool {
        matches!(self, Self::NotSent { .. })
    }
}

/// Sends calls to the router.
#[derive(Clone)]
pub(crate) struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
    address: String,
    key: Key,
}

impl Caller {
    pub fn new(router_url: &str, secret: &[u8]) -> Result<Self, Error> {
        let address = router_url.trim_end_matches('/').to_owned();
        let parsed = address.parse::<Uri>().ok();
        let usable = parsed.is_some_and(|uri| {
            uri.scheme_str() == Some("http") && uri.authority().is_some() && uri.path() == "/"
        });
        if !usable {
            return Err(Error::RouterAddress { url: address });
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(KEEPALIVE));
        connector.set_keepalive_interval(Some(KEEPALIVE));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Ok(Self {
            client,
            address,
            key: Key::derived(secret, Service::RouterInternal, None),
        })
    }

    /// Sends a call once.
    pub async fn call(&self, call: &Call) -> Result<Answer, CallError> {
        let request = self.request(call)?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|source| {
                if source.is_connect() {
                    let address = self.address.clone();
                    CallError::NotSent { address, source }
                } else {
                    CallError::Broken(farplane_types::causes(&source))
                }
            })?;
            read(response, call.keep).await
        };
        match tokio::time::timeout(call.deadline, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallError::Deadline(call.deadline)),
        }
    }

    /// Sends a call; tries again for up to `patience` while nothing was sent.
    pub async fn call_patiently(
        &self,
        call: &Call,
        patience: Duration,
    ) -> Result<Answer, CallError> {
        let end = Instant::now() + patience;
        let mut pause = FIRST_PAUSE;
        loop {
            let outcome = self.call(call).await;
            match &outcome {
                Err(error) if error.was_not_sent() && Instant::now() + pause < end => {}
                _ => return outcome,
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Reads an address of the platform, unsigned.
    pub async fn get(&self, url: &str, deadline: Duration) -> Result<Bytes, CallError> {
        let request = Request::builder().uri(url).body(Full::default())?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|source| {
                let address = url.to_owned();
                CallError::NotSent { address, source }
            })?;
            read(response, LONGEST_METRICS).await
        };
        match tokio::time::timeout(deadline, exchange).await {
            Ok(outcome) => Ok(outcome?.body),
            Err(_) => Err(CallError::Deadline(deadline)),
        }
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, http::Error> {
        let target = call.target.path(&call.subpath);
        let mut request = Request::builder()
            .method(&call.method)
            .uri(format!("{}{target}", self.address))
            .body(Full::new(call.body.clone()))?;
        let headers = request.headers_mut();
        headers.extend(call.headers.clone());
        let signed = self
            .key
            .sign(call.method.as_str(), &target, &call.body, auth::now());
        for (name, value) in signed.into_iter().flat_map(auth::Signed::headers) {
            let value = HeaderValue::try_from(value)?;
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(request)
    }
}

/// Reads at most `keep` bytes of the body.
async fn read(response: http::Response<Incoming>, keep: usize) -> Result<Answer, CallError> {
    let (parts, mut body) = response.into_parts();
    let mut kept = BytesMut::new();
    let mut truncated = false;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CallError::Broken(farplane_types::causes(&error)))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let room = keep - kept.len();
        kept.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            truncated = true;
            break;
        }
    }
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body: kept.freeze(),
        truncated,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Router, target};

    fn call() -> Call {
        Call {
            target: target("ns", "f"),
            method: Method::POST,
            subpath: "/a?b=c".into(),
            headers: HeaderMap::from_iter([(
                HeaderName::from_static("x-test"),
                HeaderValue::from_static("1"),
            )]),
            body: Bytes::from_static(b"hello"),
            deadline: Duration::from_secs(10),
            keep: 4,
        }
    }

    #[tokio::test]
    async fn a_call_is_signed_and_its_answer_bounded() {
        let router = Router::start().await;
        let answer = router.caller().call(&call()).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!((&answer.body[..], answer.truncated), (&b"hell"[..], true));
        let seen = router.calls();
        assert_eq!(seen[0].target, "/fission-function/ns/f/a?b=c");
        assert_eq!(seen[0].headers["x-test"], "1");
    }

    #[tokio::test]
    async fn a_call_signed_with_another_key_is_refused() {
        let router = Router::start().await;
        let caller = Caller::new(&router.url(), b"another secret").unwrap();
        let answer = caller.call(&call()).await.unwrap();
        assert_eq!(answer.status, 401);
        assert!(router.calls().is_empty());
    }

    #[tokio::test]
    async fn a_router_that_comes_late_is_waited_for() {
        // At a port that nobody else is given while there is no router.
        let address = ([127, 0, 0, 1], farplane_test_api::free_port()).into();
        let router = Router::start_at(address).await;
        let caller = router.caller();
        router.end().await;
        let error = caller.call(&call()).await.unwrap_err();
        assert!(error.was_not_sent(), "{error}");
        let waiting = tokio::spawn(async move {
            let patience = Duration::from_secs(60);
            caller.call_patiently(&call(), patience).await
        });
        let router = Router::start_at(address).await;
        assert_eq!(waiting.await.unwrap().unwrap().status, 200);
        assert_eq!(router.calls().len(), 1);
    }

    #[tokio::test]
    async fn a_call_that_was_sent_is_not_repeated() {
        let router = Router::start().await;
        router.answer_with(|_| crate::testing::Reply::Break);
        let patience = Duration::from_secs(60);
        let outcome = router.caller().call_patiently(&call(), patience).await;
        let error = outcome.unwrap_err();
        assert!(matches!(error, CallError::Broken(_)), "{error}");
        assert_eq!(router.calls().len(), 1);
    }

    #[tokio::test]
    async fn no_answer_ends_at_the_deadline() {
        let router = Router::start().await;
        router.answer_with(|_| crate::testing::Reply::Never);
        let mut call = call();
        call.deadline = Duration::from_millis(50);
        let error = router.caller().call(&call).await.unwrap_err();
        assert!(matches!(error, CallError::Deadline(_)), "{error}");
    }

    #[test]
    fn only_http_addresses_are_taken() {
        for bad in ["", "router", "https://router", "http://router/path"] {
            assert!(Caller::new(bad, b"").is_err(), "{bad}");
        }
        assert!(Caller::new("http://router-internal.fission.svc:8889/", b"").is_ok());
    }
}
