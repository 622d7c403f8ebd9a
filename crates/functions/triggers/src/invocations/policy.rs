//! What becomes of a call after an attempt. Pure.

use crate::invocations::record::{Policy, Record};

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The function answered.
    Answered(u16),
    /// No function has seen it.
    NotSent(String),
    /// It may have been seen, but there is no answer.
    Failed(String),
}

/// How a call ended, in the words of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Success,
    RetriesExhausted,
    EventAgeExceeded,
    Http4xx,
}

impl Condition {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::RetriesExhausted => "RetriesExhausted",
            Self::EventAgeExceeded => "EventAgeExceeded",
            Self::Http4xx => "Http4xx",
        }
    }
}

/// What is next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Again at this time.
    Later { due_ms: u64, counted: bool },
    /// Over.
    End(Condition),
}

/// Decides after an attempt. `chance` is from 0 to 1.
pub(crate) fn after(record: &Record, outcome: &Outcome, now_ms: u64, chance: f64) -> Next {
    let counted = match outcome {
        Outcome::Answered(200..=299) => return Next::End(Condition::Success),
        // No room now: the function has not seen it.
        Outcome::Answered(429) | Outcome::NotSent(_) => false,
        // The function does not want it, however often it is asked. 408 and 425 ask for more.
        Outcome::Answered(status @ 400..=499) if !matches!(status, 408 | 425) => {
            return Next::End(Condition::Http4xx);
        }
        Outcome::Answered(_) | Outcome::Failed(_) => true,
    };
    if counted && record.attempts + 1 >= record.policy.max_attempts {
        return Next::End(Condition::RetriesExhausted);
    }
    let due_ms = now_ms.saturating_add(pause(&record.policy, record.tries, chance));
    if is_too_old(record, due_ms) {
        return Next::End(Condition::EventAgeExceeded);
    }
    Next::Later { due_ms, counted }
}

/// True when the call may not be attempted any more.
pub(crate) fn is_too_old(record: &Record, now_ms: u64) -> bool {
    now_ms.saturating_sub(record.enqueued_ms) > record.policy.max_age_ms
}

/// Doubles with each try; with jitter it is from a half to all of that.
fn pause(policy: &Policy, tries: u32, chance: f64) -> u64 {
    let factor = 1_u64 << tries.min(30);
    let full = policy.base_ms.saturating_mul(factor).min(policy.cap_ms);
    if !policy.jitter {
        return full;
    }
    let half = full / 2;
    // Less than 2^53 milliseconds: no digit is lost.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss
    )]
    let part = ((full - half) as f64 * chance.clamp(0.0, 1.0)) as u64;
    half + part
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn record() -> Record {
        Record {
            id: "1".into(),
            namespace: "ns".into(),
            function: "f".into(),
            tag: String::new(),
            topic: None,
            method: "POST".into(),
            target: "/".into(),
            headers: Vec::new(),
            enqueued_ms: 1_000_000,
            depth: 0,
            attempts: 0,
            tries: 0,
            policy: Policy::of(None),
            on_success: None,
            on_failure: None,
            dead: None,
        }
    }

    fn outcomes() -> Vec<Outcome> {
        let mut all: Vec<Outcome> = (100..600).map(Outcome::Answered).collect();
        all.extend([Outcome::NotSent("x".into()), Outcome::Failed("x".into())]);
        all
    }

    #[test]
    fn every_outcome_at_every_attempt() {
        for attempts in 0..3 {
            for outcome in outcomes() {
                let mut record = record();
                (record.attempts, record.tries) = (attempts, attempts);
                let next = after(&record, &outcome, 1_000_500, 1.0);
                let later = |counted| Next::Later {
                    due_ms: 1_000_500 + (1000 << attempts),
                    counted,
                };
                let expected = match &outcome {
                    Outcome::Answered(status) if (200..300).contains(status) => {
                        Next::End(Condition::Success)
                    }
                    Outcome::NotSent(_) | Outcome::Answered(429) => later(false),
                    Outcome::Answered(status)
                        if (400..500).contains(status) && ![408, 425].contains(status) =>
                    {
                        Next::End(Condition::Http4xx)
                    }
                    _ if attempts == 2 => Next::End(Condition::RetriesExhausted),
                    _ => later(true),
                };
                assert_eq!(next, expected, "{attempts} {outcome:?}");
            }
        }
    }

    #[test]
    fn age_ends_what_retries_do_not() {
        let mut record = record();
        record.tries = 40;
        let age = record.policy.max_age_ms;
        let away = Outcome::NotSent("x".into());
        let last = record.enqueued_ms + age - 300_000;
        let next = after(&record, &away, last, 1.0);
        assert!(matches!(next, Next::Later { counted: false, .. }));
        let next = after(&record, &away, last + 1, 1.0);
        assert_eq!(next, Next::End(Condition::EventAgeExceeded));
        assert!(!is_too_old(&record, record.enqueued_ms + age));
        assert!(is_too_old(&record, record.enqueued_ms + age + 1));
        // A clock that was set back makes nothing old.
        assert!(!is_too_old(&record, 0));
    }

    proptest! {
        #[test]
        fn pauses_stay_within_the_policy(base in 1_u64..1_000_000, cap in 1_u64..10_000_000, tries in 0_u32..100, chance in 0.0..1.0) {
            let mut policy = Policy::of(None);
            (policy.base_ms, policy.cap_ms) = (base, cap);
            let pause = pause(&policy, tries, chance);
            let full = base.saturating_mul(1 << tries.min(30)).min(cap);
            prop_assert!(pause <= full && pause >= full / 2);
        }
    }
}
