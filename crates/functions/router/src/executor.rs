//! The executor, as the router sees it: who makes instances.
//!
//! Asking twice is harmless (another instance is made at worst), so whatever goes wrong on the
//! way is tried again until the deadline: a new executor may take over meanwhile.

use std::time::Duration;

use bytes::Bytes;
use farplane_functions_types::auth::{Key, Service};
use farplane_functions_types::wire::{Failure, INSTANCES, Instance, InstanceRequest, USAGE, Usage};
use http::{Method, StatusCode};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};

use crate::part::Part;
use crate::settings::Error;

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a report may take; the next one tells the same.
const REPORT: Duration = Duration::from_secs(5);

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
    part: Part,
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
        let key = Key::derived(secret, Service::Executor, None);
        Ok(Self {
            part: Part::new("executor", url, key)?,
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
        let answer = self.part.send(Method::POST, path, body.into()).await;
        answer.map_err(|none| none.reason)
    }

    fn too_late(&self, last: &str) -> Denied {
        let reason = format!(
            "no instance in time from the executor at {}: {last}; is it running and ready?",
            self.part.address()
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
