//! The executor, as the router sees it: who makes instances.
//!
//! Asking twice is harmless (another instance is made at worst), so whatever goes wrong on the
//! way is tried again until the deadline: a new executor may take over meanwhile.

use std::time::Duration;

use bytes::Bytes;
use farplane_functions_types::auth::{self, Key, Service};
use farplane_functions_types::wire::{Failure, INSTANCES, Instance, InstanceRequest, USAGE, Usage};
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};

use crate::settings::Error;

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a connection may take to be made: the executor is near, or gone.
const CONNECT: Duration = Duration::from_secs(1);
/// After this time without a packet a peer is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long a report may take; the next one tells the same.
const REPORT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// Longest answer that is read.
const LONGEST: usize = 1 << 20;

/// Why there is no instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The function has as many instances as it may.
    #[error("{}", .0.reason)]
    Full(Failure),
    /// None could be made.
    #[error("{}", failure.reason)]
    Failed {
        /// For the client.
        status: StatusCode,
        /// The cause.
        failure: Failure,
    },
}

/// Why a report did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum NotReported {
    /// No answer.
    #[error("the executor cannot be told what is used: {0}")]
    Unreachable(String),
    /// An answer that is not 200.
    #[error("the executor answered {status} to a report of what is used: {reason}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its words.
        reason: String,
    },
}

/// Asks the executor.
#[derive(Clone, Debug)]
pub struct Executor {
    client: Client<HttpConnector, Full<Bytes>>,
    address: String,
    key: Key,
}

/// What came of one try.
enum Tried {
    Instance(Instance),
    Denied(Denied),
    /// To be tried again; what to say when there is no time left.
    Later(String),
}

impl Executor {
    /// An executor at this URL, with the master secret.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(url: &str, secret: &[u8]) -> Result<Self, Error> {
        let address = url.trim_end_matches('/').to_owned();
        let usable = address.parse::<Uri>().is_ok_and(|uri| {
            uri.scheme_str() == Some("http") && uri.authority().is_some() && uri.path() == "/"
        });
        if !usable {
            return Err(Error::ExecutorUrl {
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
            key: Key::derived(secret, Service::Executor, None),
        })
    }

    /// Asks for an instance until there is one, or none can be made, or `deadline`.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn instance(
        &self,
        asked: &InstanceRequest,
        deadline: Instant,
    ) -> Result<Instance, Denied> {
        let mut last = "it did not answer".to_owned();
        loop {
            match timeout_at(deadline, self.try_once(asked)).await {
                Ok(Tried::Instance(instance)) => return Ok(instance),
                Ok(Tried::Denied(denied)) => return Err(denied),
                Ok(Tried::Later(reason)) => last = reason,
                Err(_) => return Err(self.too_late(&last)),
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(self.too_late(&last));
            }
            sleep(PAUSE).await;
        }
    }

    async fn try_once(&self, asked: &InstanceRequest) -> Tried {
        let (status, body) = match self.post(INSTANCES, asked).await {
            Ok(answer) => answer,
            Err(reason) => return Tried::Later(reason),
        };
        match status {
            StatusCode::OK => match serde_json::from_slice::<Instance>(&body) {
                // Its watch is behind ours; soon it is not.
                Ok(instance) if instance.function.generation < asked.function.generation => {
                    Tried::Later("it does not know the function's newest state yet".to_owned())
                }
                Ok(instance) => Tried::Instance(instance),
                Err(error) => {
                    let reason = format!("the executor's answer cannot be read: {error}");
                    Tried::Denied(failed(StatusCode::BAD_GATEWAY, reason))
                }
            },
            StatusCode::SERVICE_UNAVAILABLE => Tried::Later(failure(status, &body).reason),
            StatusCode::TOO_MANY_REQUESTS => Tried::Denied(Denied::Full(failure(status, &body))),
            // The client of a function is not the one who signed wrongly.
            StatusCode::UNAUTHORIZED => {
                let reason = format!("the executor refused: {}", failure(status, &body).reason);
                Tried::Denied(failed(StatusCode::BAD_GATEWAY, reason))
            }
            _ => Tried::Denied(Denied::Failed {
                status,
                failure: failure(status, &body),
            }),
        }
    }

    /// Tells what was used.
    ///
    /// # Errors
    /// When it did not arrive; the next report tells it too.
    pub async fn report(&self, usage: &Usage) -> Result<(), NotReported> {
        let answer = tokio::time::timeout(REPORT, self.post(USAGE, usage)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {REPORT:?}")));
        let (status, body) = answer.map_err(NotReported::Unreachable)?;
        if status.is_success() {
            return Ok(());
        }
        let reason = failure(status, &body).reason;
        Err(NotReported::Refused { status, reason })
    }

    async fn post(
        &self,
        path: &str,
        message: &impl Serialize,
    ) -> Result<(StatusCode, Bytes), String> {
        let body = serde_json::to_vec(message).map_err(|error| error.to_string())?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", self.address))
            .header(CONTENT_TYPE, "application/json");
        let signed = self.key.sign("POST", path, &body, auth::now());
        for (name, value) in signed.into_iter().flat_map(auth::Signed::headers) {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| farplane_types::causes(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        match body {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) => Err(format!("the answer broke off: {error}")),
        }
    }

    fn too_late(&self, last: &str) -> Denied {
        let reason = format!(
            "no instance in time from the executor at {}: {last}; is it running and ready?",
            self.address
        );
        failed(StatusCode::GATEWAY_TIMEOUT, reason)
    }
}

fn failed(status: StatusCode, reason: String) -> Denied {
    let failure = Failure {
        component: "executor".to_owned(),
        reason,
        ..Failure::default()
    };
    Denied::Failed { status, failure }
}

/// The words of an answer that is no success, whoever gave it.
fn failure(status: StatusCode, body: &[u8]) -> Failure {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(body);
        Failure {
            component: "executor".to_owned(),
            reason: format!("the executor answered {status}: {}", text.trim()),
            ..Failure::default()
        }
    })
}

#[cfg(test)]
#[path = "executor_tests.rs"]
mod tests;
