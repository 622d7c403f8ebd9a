//! The difference between two states of an object, as a merge patch. Pure.
//!
//! A patch names only what changes: fields that this program does not know, and those that
//! somebody else changed meanwhile, stay as they are.

use serde_json::{Map, Value};

/// What makes `new` of `old`; none when nothing changes. Lists are replaced as a whole.
pub(crate) fn patch(old: &Value, new: &Value) -> Option<Value> {
    difference(old, new, true)
}

/// As [`patch`], but what `new` does not name stays: it was set by somebody else, or is a
/// default of the API server.
pub(crate) fn overlay(old: &Value, new: &Value) -> Option<Value> {
    difference(old, new, false)
}

fn difference(old: &Value, new: &Value, forget: bool) -> Option<Value> {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut changes = Map::new();
    for (key, value) in after {
        match before.get(key) {
            Some(known) => {
                if let Some(change) = difference(known, value, forget) {
                    changes.insert(key.clone(), change);
                }
            }
            None if is_nothing(value) => {}
            None => {
                changes.insert(key.clone(), value.clone());
            }
        }
    }
    let gone = before
        .keys()
        .filter(|key| forget && !after.contains_key(*key));
    changes.extend(gone.map(|key| (key.clone(), Value::Null)));
    (!changes.is_empty()).then_some(Value::Object(changes))
}

/// Absent and empty mean the same in our kinds.
pub(crate) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_nothing),
        Value::Number(number) => number.as_i64() == Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_changes_is_named() {
        let old = json!({ "a": 1, "b": { "c": 2, "d": 3 }, "e": [1], "f": "x" });
        assert_eq!(patch(&old, &old), None);
        let new = json!({ "a": 1, "b": { "c": 4, "d": 3 }, "e": [1, 2], "g": "" });
        let expected = json!({ "b": { "c": 4 }, "e": [1, 2], "f": null });
        assert_eq!(patch(&old, &new), Some(expected));
    }

    #[test]
    fn an_overlay_leaves_what_it_does_not_name() {
        let live = json!({ "spec": { "cron": "@hourly", "method": "POST" } });
        assert_eq!(
            overlay(&live, &json!({ "spec": { "cron": "@hourly" } })),
            None
        );
        assert_eq!(
            overlay(
                &live,
                &json!({ "spec": { "cron": "@daily", "subpath": "" } })
            ),
            Some(json!({ "spec": { "cron": "@daily" } }))
        );
    }

    /// Applies a merge patch as the API server does.
    fn merged(old: &Value, patch: &Value) -> Value {
        let (Value::Object(old), Value::Object(patch)) = (old, patch) else {
            return patch.clone();
        };
        let mut all = old.clone();
        for (key, value) in patch {
            match value {
                Value::Null => drop(all.remove(key)),
                value => {
                    let before = all.get(key).cloned().unwrap_or(json!({}));
                    all.insert(key.clone(), merged(&before, value));
                }
            }
        }
        Value::Object(all)
    }

    #[test]
    fn a_patch_that_is_applied_makes_the_new_of_the_old() {
        let states = [
            json!({}),
            json!({ "a": 1 }),
            json!({ "a": { "b": [1, 2], "c": "x" } }),
            json!({ "a": { "b": [2], "d": { "e": true } }, "f": 7 }),
        ];
        for old in &states {
            for new in &states {
                let change = patch(old, new).unwrap_or(json!({}));
                assert_eq!(&merged(old, &change), new, "from {old} by {change}");
            }
        }
    }
}
