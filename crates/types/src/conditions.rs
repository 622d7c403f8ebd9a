//! Typed conditions: one helper that keeps the transition time when nothing changed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition type that every kind has: the object is usable.
pub const READY: &str = "Ready";

/// Sets a condition in `list`, keeping `lastTransitionTime` while the status stays the same.
///
/// `now` is a parameter so that the caller stays pure.
pub fn set(
    list: &mut Vec<Condition>,
    type_: &str,
    status: bool,
    reason: &str,
    message: impl Into<String>,
    generation: Option<i64>,
    now: Time,
) {
    let status = if status { "True" } else { "False" };
    put(
        list,
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.into(),
            observed_generation: generation,
            last_transition_time: now,
        },
    );
}

/// Puts a condition into `list`, in place of the one of its type. The time is kept while the
/// status stays the same.
pub fn put(list: &mut Vec<Condition>, mut fresh: Condition) {
    match list.iter_mut().find(|old| old.type_ == fresh.type_) {
        Some(old) => {
            if old.status == fresh.status {
                fresh.last_transition_time = old.last_transition_time.clone();
            }
            *old = fresh;
        }
        None => list.push(fresh),
    }
}

/// The condition of this type, if it was ever set.
pub fn get<'a>(list: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    list.iter().find(|condition| condition.type_ == type_)
}

/// True when the condition exists with status `True`.
pub fn is_true(list: &[Condition], type_: &str) -> bool {
    get(list, type_).is_some_and(|condition| condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut list = Vec::new();
        set(&mut list, READY, false, "Waiting", "a", Some(1), at(1));
        set(&mut list, READY, false, "StillWaiting", "b", Some(2), at(2));
        assert_eq!(list[0].last_transition_time, at(1));
        assert_eq!(list[0].reason, "StillWaiting");
        set(&mut list, READY, true, "Done", "", Some(2), at(3));
        assert_eq!(list[0].last_transition_time, at(3));
        assert!(is_true(&list, READY));
    }
}
