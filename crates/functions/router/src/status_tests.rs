//! What triggers are told of themselves.

use std::collections::HashSet;

use serde_json::{Value, json};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::*;

#[derive(Default)]
struct Facts {
    functions: HashSet<String>,
    conflicts: HashMap<Key, Key>,
}

impl Known for Facts {
    fn missing(&self, namespace: &str, name: &str, label: &str) -> Option<String> {
        let there = namespace == "ns" && label.is_empty() && self.functions.contains(name);
        (!there).then(|| format!("{name}:{label} is not there"))
    }

    fn conflict(&self, key: &Key) -> Option<Key> {
        self.conflicts.get(key).cloned()
    }
}

fn facts(functions: &[&str]) -> Facts {
    Facts {
        functions: functions.iter().map(|name| (*name).to_owned()).collect(),
        ..Facts::default()
    }
}

fn key() -> Key {
    ("ns".to_owned(), "t".to_owned())
}

fn trigger(spec: &Value, status: Option<&HTTPTriggerStatus>) -> Event {
    let mut spec = spec.clone();
    if spec["functionref"].is_null() {
        spec["functionref"] = json!({"type": "name", "name": "f"});
    }
    let mut object = json!({
        "metadata": {"namespace": "ns", "name": "t", "uid": "u", "generation": 3},
        "spec": spec,
    });
    if let Some(status) = status {
        object["status"] = json!(status);
    }
    Event::Trigger(Box::new(serde_json::from_value(object).unwrap()))
}

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn written(board: &Board, facts: &Facts, second: i64) -> Option<HTTPTriggerStatus> {
    let mut writes = board.desired(facts, &at(second));
    assert!(writes.len() <= 1);
    writes.pop().map(|write| {
        assert_eq!((write.key, write.uid.as_str()), (key(), "u"));
        write.status
    })
}

/// Status and reason of both conditions.
fn words(status: &HTTPTriggerStatus) -> Vec<(&str, &str, &str)> {
    let words = |it| -> (&str, &str, &str) {
        let it: &Condition = it;
        (&it.type_, &it.status, &it.reason)
    };
    status.conditions.iter().map(words).collect()
}

fn said(spec: &Value, facts: &Facts) -> Vec<(String, String)> {
    let mut board = Board::default();
    assert!(board.note(&trigger(spec, None)));
    let status = written(&board, facts, 1).unwrap();
    words(&status)
        .into_iter()
        .map(|(_, status, reason)| (status.to_owned(), reason.to_owned()))
        .collect()
}

#[test]
fn it_is_written_once_and_again_when_something_changed() {
    let spec = json!({"relativeurl": "/a"});
    let mut board = Board::default();
    board.note(&trigger(&spec, None));
    let first = written(&board, &facts(&[]), 1).unwrap();
    assert_eq!(
        words(&first),
        [
            ("RouteAdmitted", "True", "RouteAdmitted"),
            ("Ready", "False", "FunctionNotFound")
        ]
    );
    assert_eq!(first.observed_generation, Some(3));

    board.note(&trigger(&spec, Some(&first)));
    assert_eq!(written(&board, &facts(&[]), 2), None);

    let second = written(&board, &facts(&["f"]), 2).unwrap();
    assert_eq!(words(&second)[1], ("Ready", "True", "Ready"));
    let times: Vec<_> = second
        .conditions
        .iter()
        .map(|it| it.last_transition_time.clone())
        .collect();
    assert_eq!(times, [at(1), at(2)]);

    let gone = Event::TriggerGone {
        namespace: "ns".to_owned(),
        name: "t".to_owned(),
    };
    board.note(&gone);
    assert_eq!(written(&board, &facts(&[]), 3), None);
}

#[test]
fn conditions_of_others_are_no_reason_to_write() {
    let spec = json!({"relativeurl": "/a"});
    let mut board = Board::default();
    board.note(&trigger(&spec, None));
    let mut status = written(&board, &facts(&["f"]), 1).unwrap();
    let other = json!({
        "type": "Exposed", "status": "True", "reason": "Exposed", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    status
        .conditions
        .insert(0, serde_json::from_value(other).unwrap());
    board.note(&trigger(&spec, Some(&status)));
    assert_eq!(written(&board, &facts(&["f"]), 2), None);

    // What is written says nothing of it: it is not ours to keep.
    let next = written(&board, &facts(&[]), 3).unwrap();
    let types: Vec<_> = words(&next).iter().map(|it| it.0).collect();
    assert_eq!(types, ["RouteAdmitted", "Ready"]);
}

#[test]
fn the_reason_says_why_there_is_no_route() {
    let f = facts(&["f"]);
    let both = |reason: &str| vec![("False".to_owned(), reason.to_owned()); 2];
    let cases = [
        (json!({"relativeurl": "/{"}), "InvalidRouteTemplate"),
        (
            json!({"relativeurl": "/a", "method": "G T"}),
            "MuxBuildFailed",
        ),
        (json!({}), "MuxBuildFailed"),
        (
            json!({"relativeurl": "/a", "corsConfig": {"allowOrigins": ["*"], "allowCredentials": true}}),
            "InvalidCorsConfig",
        ),
    ];
    for (spec, reason) in cases {
        assert_eq!(said(&spec, &f), both(reason), "{spec}");
    }
    let mut f = f;
    f.conflicts
        .insert(key(), ("ns".to_owned(), "old".to_owned()));
    assert_eq!(
        said(&json!({"relativeurl": "/a"}), &f),
        both("RouteConflict")
    );
}

#[test]
fn an_alias_must_exist() {
    let reference = json!({"type": "name", "name": "f", "alias": "live"});
    let spec = json!({"relativeurl": "/a", "functionref": reference});
    assert_eq!(said(&spec, &facts(&["f"]))[1].1, "FunctionNotFound");
}

#[test]
fn all_functions_with_weights_must_exist() {
    let weights = json!({"type": "function-weights", "functionweights": {"f": 50, "g": 50}});
    let spec = json!({"relativeurl": "/a", "functionref": weights});
    assert_eq!(said(&spec, &facts(&["f"]))[1].1, "FunctionNotFound");
    assert_eq!(said(&spec, &facts(&["f", "g"]))[1].1, "Ready");
}
