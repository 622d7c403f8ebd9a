//! What is said of an object, as conditions.

use farplane_types::conditions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

pub use conditions::READY;

/// What is said of an object under one type of condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Whether it holds.
    pub holds: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

impl Said {
    /// It holds.
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            holds: true,
            reason,
            message: message.into(),
        }
    }

    /// It does not.
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            holds: false,
            reason,
            message: message.into(),
        }
    }
}

/// Sets a condition, keeping `lastTransitionTime` while the status stays the same.
pub fn set_condition(
    list: &mut Vec<Condition>,
    type_: &str,
    said: &Said,
    generation: Option<i64>,
    now: &Time,
) {
    let Said {
        holds,
        reason,
        message,
    } = said;
    conditions::set(
        list,
        type_,
        *holds,
        reason,
        message,
        generation,
        now.clone(),
    );
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let at = |second| Time(Timestamp::from_second(second).unwrap());
        let mut list = Vec::new();
        set_condition(&mut list, READY, &Said::no("A", "a"), Some(1), &at(1));
        set_condition(&mut list, READY, &Said::no("B", "b"), Some(2), &at(2));
        assert_eq!(list[0].last_transition_time, at(1));
        assert_eq!(list[0].reason, "B");
        set_condition(&mut list, READY, &Said::yes("C", ""), Some(2), &at(3));
        assert_eq!(list[0].last_transition_time, at(3));
        assert_eq!(list.len(), 1);
    }
}
