//! One message: its calls, and what becomes of it.
//!
//! ```text
//! call ─▶ 2xx ─▶ response topic ─▶ acknowledged
//!   ├─ router away or function at its limit: again, as often as it takes
//!   └─ failed ─▶ again, up to maxRetries ─▶ error topic ─▶ acknowledged
//! ```
//!
//! [`decide`] is pure. What goes to the error topic is the message as it came, with the
//! reason in headers, so that it can be sent again.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::caller::{Answer, Call, CallError};
use crate::context::Context;
use crate::headers;
use crate::messages::broker::{Broker, BrokerError, Message};
use crate::messages::plan::Plan;

/// First pause after a failure; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The broker is told this often that a message is still worked on.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Of an answer: what a response topic can take.
const KEEP: usize = 1024 * 1024;

const TOPIC: HeaderName = HeaderName::from_static("x-fission-mqtrigger-topic");
const RESPONSE_TOPIC: HeaderName = HeaderName::from_static("x-fission-mqtrigger-resptopic");
const ERROR_TOPIC: HeaderName = HeaderName::from_static("x-fission-mqtrigger-errortopic");
const ERROR: HeaderName = HeaderName::from_static("x-fission-mqtrigger-error");
const ERROR_STATUS: HeaderName = HeaderName::from_static("x-fission-mqtrigger-status");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-fission-mqtrigger-attempts");

/// What becomes of a message after a call.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    /// Again after a pause.
    Again {
        counted: bool,
    },
    GiveUp {
        reason: String,
        status: Option<u16>,
    },
}

/// Decides after a call; `failures` have been counted before it.
fn decide(outcome: &Result<Answer, CallError>, failures: u32, max_retries: u32) -> Verdict {
    let (reason, status) = match outcome {
        Ok(answer) if answer.status.is_success() && !answer.truncated => return Verdict::Done,
        Ok(answer) if answer.status.is_success() => {
            let reason = format!("the answer is longer than {KEEP} bytes");
            (reason, Some(answer.status.as_u16()))
        }
        // No function has seen it, or one has no room for it now: that is no failure of the
        // message. The queue waits.
        Err(error) if error.was_not_sent() => return Verdict::Again { counted: false },
        Ok(answer) if answer.status == 429 => return Verdict::Again { counted: false },
        Ok(answer) => {
            let status = answer.status.as_u16();
            let reason = format!("the function answered {status}: {}", answer.excerpt());
            (reason, Some(status))
        }
        Err(error) => (error.to_string(), None),
    };
    if failures < max_retries {
        return Verdict::Again { counted: true };
    }
    Verdict::GiveUp { reason, status }
}

fn pause(tries: u32) -> Duration {
    let pause = FIRST_PAUSE * (1_u32 << tries.min(10));
    pause
        .min(LONGEST_PAUSE)
        .mul_f64(rand::random_range(0.5..1.0))
}

/// Sees a message to its end. An error is the broker's: the message comes again.
pub(crate) async fn deliver(
    context: &Context,
    plan: &Plan,
    broker: &Broker,
    message: Message,
) -> Result<(), BrokerError> {
    let call = call(context, plan, &message);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let outcome = {
        let outcome = see_through(context, plan, &call);
        let mut outcome = std::pin::pin!(outcome);
        loop {
            tokio::select! {
                outcome = &mut outcome => break outcome,
                _ = heartbeat.tick() => message.still_working().await?,
            }
        }
    };
    match outcome {
        Outcome::Done(answer) => {
            if let Some(topic) = &plan.response_topic {
                let mut headers = answer.headers;
                headers.retain_ours();
                broker.publish(topic, headers, answer.body).await?;
            }
        }
        Outcome::Failed {
            reason,
            status,
            attempts,
        } => {
            let (namespace, name) = (&plan.namespace, &plan.name);
            tracing::warn!(namespace, name, attempts, reason, "a message failed");
            if let Some(topic) = &plan.error_topic {
                let headers = error_headers(plan, &message, &reason, status, attempts);
                broker.publish(topic, headers, message.body.clone()).await?;
            }
        }
    }
    message.acknowledge().await
}

/// How the calls for a message ended.
enum Outcome {
    Done(Answer),
    Failed {
        reason: String,
        status: Option<u16>,
        attempts: u32,
    },
}

async fn see_through(context: &Context, plan: &Plan, call: &Call) -> Outcome {
    let (mut failures, mut tries) = (0, 0);
    loop {
        let outcome = context.caller.call(call).await;
        match (decide(&outcome, failures, plan.max_retries), outcome) {
            (Verdict::Done, Ok(answer)) => return Outcome::Done(answer),
            (Verdict::GiveUp { reason, status }, _) => {
                return Outcome::Failed {
                    reason,
                    status,
                    attempts: failures + 1,
                };
            }
            (Verdict::Again { counted }, _) => failures += u32::from(counted),
            (Verdict::Done, Err(_)) => {}
        }
        tokio::time::sleep(pause(tries)).await;
        tries += 1;
    }
}

fn call(context: &Context, plan: &Plan, message: &Message) -> Call {
    let mut headers = message.headers.clone();
    if let Ok(value) = HeaderValue::try_from(&plan.content_type) {
        headers.entry(header::CONTENT_TYPE).or_insert(value);
    }
    headers.insert(TOPIC, headers::value(&plan.topic));
    let optional = [
        (RESPONSE_TOPIC, &plan.response_topic),
        (ERROR_TOPIC, &plan.error_topic),
    ];
    for (name, topic) in optional {
        if let Some(topic) = topic {
            headers.insert(name, headers::value(topic));
        }
    }
    Call {
        deadline: context.deadline(&plan.target),
        target: plan.target.clone(),
        method: Method::POST,
        subpath: "/".to_owned(),
        headers,
        body: message.body.clone(),
        keep: KEEP,
    }
}

fn error_headers(
    plan: &Plan,
    message: &Message,
    reason: &str,
    status: Option<u16>,
    attempts: u32,
) -> HeaderMap {
    let mut headers = message.headers.clone();
    headers.insert(TOPIC, headers::value(&plan.topic));
    headers.insert(ERROR, headers::value(reason));
    headers.insert(ATTEMPTS, HeaderValue::from(attempts));
    if let Some(status) = status {
        headers.insert(ERROR_STATUS, HeaderValue::from(status));
    }
    headers
}

/// Headers of an answer that go on to a topic.
trait RetainOurs {
    fn retain_ours(&mut self);
}

impl RetainOurs for HeaderMap {
    fn retain_ours(&mut self) {
        let keep: HeaderMap = self
            .iter()
            .filter(|(name, _)| headers::goes_on(name) && *name != header::DATE)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        *self = keep;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::StatusCode;

    fn answered(status: u16) -> Result<Answer, CallError> {
        Ok(Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"why"),
            truncated: false,
        })
    }

    #[test]
    fn every_outcome_has_its_verdict() {
        let again = |counted| Verdict::Again { counted };
        assert_eq!(decide(&answered(200), 0, 0), Verdict::Done);
        assert_eq!(decide(&answered(204), 9, 0), Verdict::Done);
        assert_eq!(decide(&answered(500), 0, 2), again(true));
        assert_eq!(decide(&answered(404), 1, 2), again(true));
        // A full function is waited for, however often it was tried.
        assert_eq!(decide(&answered(429), 2, 2), again(false));
        let late = || Err(CallError::Deadline(Duration::from_secs(1)));
        assert_eq!(decide(&late(), 1, 2), again(true));
        let Verdict::GiveUp { reason, status } = decide(&answered(500), 2, 2) else {
            panic!("not given up");
        };
        assert_eq!(
            (reason.as_str(), status),
            ("the function answered 500: why", Some(500))
        );
        let verdict = decide(&late(), 2, 2);
        assert!(matches!(verdict, Verdict::GiveUp { status: None, .. }));
        // Without retries the first failure is the last.
        assert!(matches!(
            decide(&answered(302), 0, 0),
            Verdict::GiveUp { .. }
        ));
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        for tries in 0..100 {
            let longest = LONGEST_PAUSE.min(FIRST_PAUSE * (1 << tries.min(10)));
            let pause = pause(tries);
            assert!(
                pause <= longest && pause * 2 >= longest,
                "{tries}: {pause:?}"
            );
        }
    }
}
