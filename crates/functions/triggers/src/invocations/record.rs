//! A call as it is stored. Pure.

use std::time::Duration;

use farplane_functions_schedule::duration;
use farplane_functions_types::function::{Destination, Invocation, Topic};
use serde::{Deserialize, Serialize};

/// Attempts when the function says nothing.
const ATTEMPTS: u32 = 3;
const MOST_ATTEMPTS: i64 = 100;
const BACKOFF_BASE: Duration = Duration::from_secs(1);
const BACKOFF_CAP: Duration = Duration::from_secs(300);
const AGE: Duration = Duration::from_secs(6 * 3600);

/// When a call is repeated, and when it is given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Policy {
    pub max_attempts: u32,
    pub base_ms: u64,
    pub cap_ms: u64,
    pub max_age_ms: u64,
    pub jitter: bool,
}

impl Policy {
    /// What a function asks for; what cannot be read is as if it were not there.
    pub fn of(invocation: Option<&Invocation>) -> Self {
        let retry = invocation.and_then(|invocation| invocation.retry.as_ref());
        let time = |text: Option<&String>, default: Duration| {
            let said = text.and_then(|text| duration::parse(text).ok());
            let said = said.filter(|said| !said.is_zero()).unwrap_or(default);
            u64::try_from(said.as_millis()).unwrap_or(u64::MAX)
        };
        let attempts = retry.and_then(|retry| retry.max_attempts);
        let attempts = attempts.filter(|count| (1..=MOST_ATTEMPTS).contains(count));
        Self {
            max_attempts: attempts
                .and_then(|count| u32::try_from(count).ok())
                .unwrap_or(ATTEMPTS),
            base_ms: time(
                retry.and_then(|retry| retry.backoff_base.as_ref()),
                BACKOFF_BASE,
            ),
            cap_ms: time(
                retry.and_then(|retry| retry.backoff_cap.as_ref()),
                BACKOFF_CAP,
            ),
            max_age_ms: time(
                invocation.and_then(|invocation| invocation.max_age.as_ref()),
                AGE,
            ),
            jitter: retry.and_then(|retry| retry.jitter).unwrap_or(true),
        }
    }
}

/// A call as it is stored. Everything that is needed to deliver it: the function may have
/// changed or gone meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: String,
    pub namespace: String,
    /// Empty for a message that goes to `topic`.
    pub function: String,
    /// Alias or version.
    pub tag: String,
    pub topic: Option<Topic>,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub enqueued_ms: u64,
    /// Destinations before it.
    pub depth: u32,
    /// Attempts that failed.
    pub attempts: u32,
    /// Tries in all, also those that do not count.
    pub tries: u32,
    pub policy: Policy,
    pub on_success: Option<Destination>,
    pub on_failure: Option<Destination>,
    pub dead: Option<Dead>,
}

/// Why and when a call was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dead {
    pub reason: String,
    pub died_ms: u64,
}

impl Record {
    /// Function or topic, for queues and people.
    pub fn lane(&self) -> (String, String) {
        let name = match &self.topic {
            Some(topic) => format!("topic {}", topic.topic),
            None => self.function.clone(),
        };
        (self.namespace.clone(), name)
    }

    /// As before its first attempt.
    pub fn redriven(mut self, now_ms: u64) -> Self {
        self.attempts = 0;
        self.tries = 0;
        self.dead = None;
        self.enqueued_ms = now_ms;
        self
    }
}

/// An id that sorts by time.
pub(crate) fn new_id(now_ms: u64) -> String {
    format!("{now_ms:012x}-{:016x}", rand::random::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_function_sets_what_it_says_and_no_more() {
        let policy = |text| {
            let invocation: Invocation = serde_json::from_value(text).unwrap();
            Policy::of(Some(&invocation))
        };
        let default = Policy::of(None);
        assert_eq!((default.max_attempts, default.base_ms), (3, 1000));
        assert_eq!((default.cap_ms, default.max_age_ms), (300_000, 21_600_000));
        let said = policy(json!({
            "maxAge": "1h", "retry": { "maxAttempts": 5, "backoffBase": "2s", "jitter": false },
        }));
        assert_eq!(
            (said.max_attempts, said.base_ms, said.jitter),
            (5, 2000, false)
        );
        assert_eq!((said.cap_ms, said.max_age_ms), (300_000, 3_600_000));
        let bad = json!({ "maxAge": "soon", "retry": { "maxAttempts": 0, "backoffBase": "0s" } });
        assert_eq!(policy(bad), default);
    }
}
