//! Causes, in words.

use super::*;
use serde_json::json;

fn facts(parts: Value) -> Facts {
    let of = |key: &str| parts.get(key).cloned().unwrap_or(Value::Null);
    let function = json!({
        "metadata": { "name": "hello" }, "status": of("status"),
        "spec": {
            "environment": { "name": "python" },
            "package": { "packageref": { "name": "hello-1" } },
            "InvokeStrategy": of("strategy"),
        },
    });
    Facts {
        function: serde_json::from_value(function).unwrap(),
        environment: serde_json::from_value(of("environment")).unwrap(),
        package: serde_json::from_value(of("package")).unwrap(),
        pools: serde_json::from_value(parts.get("pools").cloned().unwrap_or(json!([]))).unwrap(),
        waiting: serde_json::from_value(parts.get("waiting").cloned().unwrap_or(json!([])))
            .unwrap(),
        deployments: Vec::new(),
        instances: serde_json::from_value(parts.get("instances").cloned().unwrap_or(json!([])))
            .unwrap(),
        routes: serde_json::from_value(parts.get("routes").cloned().unwrap_or(json!([]))).unwrap(),
        timers: Vec::new(),
    }
}

fn repeat(words: &str) -> String {
    format!("farplane {words} -n shop --cluster c --org o")
}

fn package(status: Value) -> Value {
    json!({
        "metadata": { "name": "hello-1" }, "status": status,
        "spec": { "environment": { "name": "python" }, "source": { "literal": "eA==" } },
    })
}

fn environment() -> Value {
    json!({ "metadata": { "name": "python" }, "spec": { "runtime": { "image": "img" }, "version": 3 } })
}

fn ready() -> Value {
    json!({ "metadata": { "name": "p" }, "status": { "conditions": [{ "type": "Ready", "status": "True" }] } })
}

fn part<'a>(all: &'a [Finding], part: &str) -> &'a Finding {
    all.iter().find(|finding| finding.part == part).unwrap()
}

#[test]
fn a_failed_build_ends_the_wait_with_its_log() {
    let facts = facts(json!({
        "environment": environment(),
        "package": package(json!({ "buildstatus": "failed", "buildlog": "a\nModuleNotFound: x\n" })),
    }));
    let Verdict::Failed(failure) = callable(&facts, &repeat) else {
        panic!("it waits");
    };
    let words = failure.to_string();
    assert!(words.contains("failed:\na\nModuleNotFound: x\n"), "{words}");
    assert!(
        words.contains("fn deploy DIR --name hello --env python -n shop"),
        "{words}"
    );
}

#[test]
fn a_missing_image_is_the_cause_that_is_told() {
    let facts = facts(json!({
        "environment": environment(),
        "package": package(json!({ "buildstatus": "succeeded" })),
        "waiting": [{ "metadata": { "name": "p" }, "status": { "containerStatuses": [{
            "name": "python", "image": "img", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": "ImagePullBackOff" } },
        }] } }],
    }));
    let all = findings(&facts, &repeat);
    assert_eq!(part(&all, "code").health, Health::Good);
    let pool = part(&all, "pool");
    assert_eq!(pool.health, Health::Bad);
    assert!(pool.words.contains("0 of 3 Pods") && pool.words.contains("image img is missing"));
    assert!(pool.next.contains("env describe python"), "{}", pool.next);
    // An image may still be pushed: the wait goes on.
    assert!(matches!(callable(&facts, &repeat), Verdict::Going(_)));
}

#[test]
fn one_ready_pod_of_the_pool_is_enough() {
    let facts = facts(json!({
        "environment": environment(), "waiting": [ready()],
        "package": package(json!({ "buildstatus": "succeeded" })),
    }));
    assert!(matches!(callable(&facts, &repeat), Verdict::Done(_)));
}

#[test]
fn what_is_absent_is_told_with_the_command_that_makes_it() {
    let all = findings(&facts(json!({})), &repeat);
    assert!(part(&all, "code").words.contains("no package hello-1"));
    assert_eq!(
        part(&all, "environment").next,
        "`farplane env create python -n shop --cluster c --org o` makes it"
    );
    let with = facts(json!({ "environment": environment() }));
    assert!(
        part(&findings(&with, &repeat), "pool")
            .next
            .contains("`farplane functions status --cluster c --org o`")
    );
}

#[test]
fn a_deployment_that_may_scale_to_zero_needs_no_instance() {
    let strategy = |least: i32| json!({ "ExecutionStrategy": { "ExecutorType": "newdeploy", "MinScale": least } });
    let package = package(json!({ "buildstatus": "succeeded" }));
    let zero =
        facts(json!({ "strategy": strategy(0), "environment": environment(), "package": package }));
    assert!(matches!(callable(&zero, &repeat), Verdict::Done(_)));
    let one =
        facts(json!({ "strategy": strategy(1), "environment": environment(), "package": package }));
    assert!(matches!(callable(&one, &repeat), Verdict::Going(_)));
}

#[test]
fn the_last_error_is_told_whoever_wrote_it() {
    assert_eq!(error_words(&json!("boom")).unwrap(), "boom");
    assert_eq!(
        error_words(&json!({ "component": "function", "reason": "NameError: x\n", "time": "now" }))
            .unwrap(),
        "function: NameError: x (at now)"
    );
    assert_eq!(error_words(&json!({})), None);
    let facts = facts(json!({ "status": { "lastError": "boom" } }));
    assert!(
        part(&findings(&facts, &repeat), "last error")
            .next
            .contains("fn logs hello")
    );
}

#[test]
fn who_failed_decides_what_to_do() {
    let next = |component: &str| {
        let error = json!({ "component": component, "reason": "x" });
        let facts = facts(json!({ "status": { "lastError": error } }));
        part(&findings(&facts, &repeat), "last error").next.clone()
    };
    assert!(next("function").contains("`farplane fn update hello --code FILE -n shop"));
    assert!(next("environment").contains("`farplane env describe python -n shop"));
    assert!(next("executor").contains("`farplane functions status --cluster c"));
    let refused = json!({ "conditions": [{ "type": "Ready", "status": "False", "reason": "NotRunnable",
        "message": "podspec: hostPath", "lastTransitionTime": "2026-01-01T00:00:00Z" }] });
    let all = findings(&facts(json!({ "status": refused })), &repeat);
    assert_eq!(
        part(&all, "function").words,
        "NotRunnable: podspec: hostPath"
    );
}

#[test]
fn a_route_that_is_refused_says_why() {
    let facts = facts(json!({ "routes": [{
        "metadata": { "name": "r" },
        "spec": { "relativeurl": "/a", "functionref": { "type": "name", "name": "hello" } },
        "status": { "conditions": [{ "type": "Ready", "status": "False", "reason": "RouteConflict",
            "message": "/a is taken", "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
    }] }));
    assert_eq!(
        part(&findings(&facts, &repeat), "route").words,
        "GET /a is not served (RouteConflict): /a is taken"
    );
}
