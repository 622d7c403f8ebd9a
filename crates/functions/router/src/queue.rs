//! The queue of asynchronous calls, as the router sees it: calls are handed over to it, and
//! answered with 202 once they are durable there.
//!
//! It is away for seconds while another process takes over. A call of which nothing was taken is
//! offered again meanwhile; one that may have been taken is not: its client decides.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use farplane_functions_types::auth::{Key, Service};
use farplane_functions_types::names::header;
use farplane_functions_types::wire::{
    FunctionKey, INVOCATION_LIMIT, INVOCATIONS, INVOCATIONS_DEAD, InvocationReply,
    InvocationRequest,
};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use tokio::time::{Instant, sleep, timeout_at};

use crate::body::{Body, Sent};
use crate::part::Part;
use crate::settings::Error;
use crate::state::Refusal;

/// Beginning of the internal listener's paths for calls that could not be delivered.
pub const DEAD: &str = "/v1/async/dlq/";
/// How long a call is offered.
const PATIENCE: Duration = Duration::from_secs(15);
/// Pause between two offers.
const PAUSE: Duration = Duration::from_millis(100);

/// True for a call whose client does not wait for the function.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    let mode = headers.get(header::INVOKE_MODE);
    mode.is_some_and(|mode| mode.as_bytes().eq_ignore_ascii_case(b"async"))
}

/// Hands calls over.
#[derive(Clone, Debug)]
pub struct Queue {
    part: Part,
}

impl Queue {
    /// The queue at this URL, with the master secret.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(url: &str, secret: &[u8]) -> Result<Self, Error> {
        let key = Key::derived(secret, Service::Invocations, None);
        Ok(Self {
            part: Part::new("queue of asynchronous calls", url, key)?,
        })
    }

    /// Hands over a call: `request` is as the function shall see it.
    ///
    /// # Errors
    /// Why it was not taken, or may not have been.
    pub async fn take(
        &self,
        function: &FunctionKey,
        dedup_key: Option<String>,
        request: Request<Sent>,
    ) -> Result<Response<Body>, Refusal> {
        let (parts, body) = request.into_parts();
        let body = whole(body).await?;
        let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let message = InvocationRequest {
            namespace: function.namespace.clone(),
            function: function.name.clone(),
            tag: function.version.clone(),
            method: parts.method.as_str().to_owned(),
            target: target.to_owned(),
            headers: texts(&parts.headers),
            body: BASE64_STANDARD.encode(body),
            dedup_key,
        };
        let message = serde_json::to_vec(&message).map_err(|error| {
            let reason = format!("the call cannot be written down: {error}");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason)
        })?;
        let (status, answer) = self.ask(Method::POST, INVOCATIONS, message.into()).await?;
        if status != StatusCode::ACCEPTED {
            return Err(refusal(status, &answer));
        }
        let reply: InvocationReply = serde_json::from_slice(&answer).map_err(|error| {
            let reason = format!("the queue's answer cannot be read: {error}");
            Refusal::new(StatusCode::BAD_GATEWAY, reason)
        })?;
        let mut response = passed(status, answer);
        if let Ok(id) = HeaderValue::try_from(reply.invocation_id) {
            let name = HeaderName::from_static(header::INVOCATION_ID);
            response.headers_mut().insert(name, id);
        }
        Ok(response)
    }

    /// What operators ask about calls that could not be delivered; `rest` is path and query below
    /// [`DEAD`].
    ///
    /// # Errors
    /// When the queue does not answer.
    pub async fn dead(
        &self,
        method: Method,
        rest: &str,
        body: Sent,
    ) -> Result<Response<Body>, Refusal> {
        let body = whole(body).await?;
        let target = format!("{INVOCATIONS_DEAD}/{rest}");
        let (status, answer) = self.ask(method, &target, body).await?;
        if status.is_success() {
            return Ok(passed(status, answer));
        }
        Err(refusal(status, &answer))
    }

    /// Asks until the queue answers, or there is no time left, or it may have done it.
    async fn ask(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Refusal> {
        let deadline = Instant::now() + PATIENCE;
        let away = |reason: &str| {
            let reason = format!(
                "the queue of asynchronous calls at {} does not answer: {reason}; \
                 are the controllers running?",
                self.part.address()
            );
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason)
        };
        let mut last = "no answer in time".to_owned();
        loop {
            let asked = self.part.send(method.clone(), target, body.clone());
            match timeout_at(deadline, asked).await {
                Err(_) => return Err(away(&last)),
                Ok(Ok((StatusCode::SERVICE_UNAVAILABLE, words))) => {
                    last = String::from_utf8_lossy(&words).into_owned();
                }
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(none)) if none.unsent => last = none.reason,
                Ok(Err(none)) => {
                    let reason = format!("{}; the call may have been taken", none.reason);
                    return Err(away(&reason));
                }
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(away(&last));
            }
            sleep(PAUSE).await;
        }
    }
}

async fn whole(body: Sent) -> Result<Bytes, Refusal> {
    let body = Limited::new(body, INVOCATION_LIMIT).collect().await;
    let body = body.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            let reason = format!(
                "asynchronous calls take at most {INVOCATION_LIMIT} bytes; \
                 store the rest somewhere and send its address"
            );
            return Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason);
        }
        Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("the body broke off: {error}"),
        )
    })?;
    Ok(body.to_bytes())
}

/// Headers that are text; the message is JSON.
fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    };
    headers.iter().filter_map(text).collect()
}

fn passed(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::text(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// The queue's words for the client. One who signed wrongly is the router, not the client.
fn refusal(status: StatusCode, words: &[u8]) -> Refusal {
    let words = String::from_utf8_lossy(words);
    match status {
        StatusCode::UNAUTHORIZED => {
            let reason = format!("the queue of asynchronous calls refused: {words}");
            Refusal::new(StatusCode::BAD_GATEWAY, reason)
        }
        _ => Refusal::new(status, words),
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
