//! Workflows and their runs against a real API server.

use farplane_functions_types::{Workflow, WorkflowRun};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::{Process, settings};
use crate::testing::{Router, world};
use farplane_test_api::World;

fn call(next: &str) -> Value {
    let mut state = json!({
        "type": "Task", "function": { "type": "name", "name": "f" }, "timeout": "30s",
        "retry": { "maxAttempts": 3, "backoffBase": "1s", "jitter": false },
        "catch": [{ "errorType": "Fission.All", "next": "broken", "resultPath": "$.error" }],
        "farplane-new": true,
    });
    match next {
        "" => state["end"] = true.into(),
        next => state["next"] = next.into(),
    }
    state
}

/// Every kind of state, and numbers as both kinds of JSON.
fn spec() -> Value {
    json!({
        "startAt": "first", "timeout": "1h", "defaultRetry": { "maxAttempts": 2 },
        "historyRetention": { "maxAge": "24h", "maxCount": 5 },
        "states": {
            "first": call("choose"),
            "choose": {
                "type": "Choice", "default": "wait",
                "choices": [
                    { "variable": "$.n", "numericGreaterThan": 5, "next": "all" },
                    { "and": [
                        { "variable": "$.n", "numericLessThan": "1.5" },
                        { "variable": "$.s", "stringEquals": "" },
                    ], "next": "each" },
                    { "not": { "variable": "$.b", "isPresent": false }, "next": "wait" },
                ],
            },
            "all": {
                "type": "Parallel", "next": "done",
                "branches": [{ "startAt": "one", "states": { "one": call("") } }],
            },
            "each": {
                "type": "Map", "itemsPath": "$.items", "maxConcurrency": 2, "next": "done",
                "branches": [{ "startAt": "one", "states": { "one": call("") } }],
            },
            "wait": { "type": "Wait", "duration": "5m", "next": "done" },
            "broken": { "type": "Fail" },
            "done": { "type": "Succeed" },
        },
    })
}

async fn refused(server: &World, spec: Value) -> String {
    let object = json!({
        "apiVersion": "fission.io/v1", "kind": "Workflow",
        "metadata": { "name": "refused" }, "spec": spec,
    });
    let kind = kube::core::ApiResource::erase::<Workflow>(&());
    let api = kube::Api::<kube::core::DynamicObject>::namespaced_with(
        server.client.clone(),
        farplane_test_api::NAMESPACE,
        &kind,
    );
    let object = serde_json::from_value(object).unwrap();
    let made = api.create(&PostParams::default(), &object).await;
    made.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn workflows_are_kept_and_say_that_they_do_not_run() {
    let (server, router) = (world().await, Router::start().await);
    let process = Process::start(&server, settings(&router));
    let made = server.create::<Workflow>("w", spec()).await;
    let mut kept = serde_json::to_value(&made.spec).unwrap();
    // Not ours to read, and kept all the same.
    let mut wanted = spec();
    for states in [&mut kept, &mut wanted] {
        let text = states.to_string().replace(r#","farplane-new":true"#, "");
        *states = serde_json::from_str(&text).unwrap();
    }
    assert_eq!(kept, wanted);
    server
        .condition::<Workflow>("w", "Validated", "False=NotSupported")
        .await;
    for (spec, told) in [
        (json!({ "startAt": "a", "states": {} }), "spec.states"),
        (
            json!({ "startAt": "a", "states": { "a": { "type": "Sleep" } } }),
            "spec.states.a.type",
        ),
    ] {
        let error = refused(&server, spec).await;
        assert!(error.contains(told), "{error}");
    }
    for (name, input) in [("text", json!("x")), ("list", json!([1, { "a": null }]))] {
        let run = json!({ "workflowRef": "w", "workflowGeneration": 1, "input": input });
        let run = server.create::<WorkflowRun>(name, run).await;
        assert_eq!(run.spec.input.unwrap().0, input);
        server
            .condition::<WorkflowRun>(name, "Accepted", "False=NotSupported")
            .await;
    }
    let run = server.api::<WorkflowRun>().get("text").await.unwrap();
    let status = run.status.unwrap_or_default();
    assert_eq!(status.phase, "Failed");
    assert!(status.cause.contains("invocation.onSuccess"));
    let change = Patch::Merge(json!({ "spec": { "workflowRef": "other" } }));
    let changed = server
        .api::<WorkflowRun>()
        .patch("text", &PatchParams::default(), &change)
        .await;
    let error = changed.unwrap_err().to_string();
    assert!(error.contains("make another"), "{error}");
    process.end().await;
}
