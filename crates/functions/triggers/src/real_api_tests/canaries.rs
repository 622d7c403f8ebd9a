//! Canaries against a router's metrics that the test writes.

use std::sync::{Arc, Mutex};

use axum::routing::get;
use farplane_functions_types::{CanaryConfig, FunctionAlias, FunctionVersion, HTTPTrigger};
use kube::Api;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Process, settings};
use crate::settings::{MetricsSource, Settings};
use crate::testing::{Router, world};
use farplane_test_api::{World, eventually};

/// The metrics of a router that has had so many calls, of which so many failed.
#[derive(Clone, Default)]
struct Metrics {
    text: Arc<Mutex<String>>,
}

impl Metrics {
    async fn serve(&self, tasks: &mut JoinSet<()>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/metrics", listener.local_addr().unwrap());
        let text = self.text.clone();
        let page = get(move || async move { text.lock().unwrap().clone() });
        let router = axum::Router::new().route("/metrics", page);
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    fn set(&self, function: &str, version: &str, calls: u32, errors: u32) {
        let labels = format!(
            "function_namespace=\"ns\",function_name=\"{function}\",function_version=\"{version}\""
        );
        *self.text.lock().unwrap() = format!(
            "fission_function_calls_total{{{labels}}} {calls}\nfission_function_errors_total{{{labels}}} {errors}\n"
        );
    }
}

async fn canary_settings(router: &Router, metrics: &Metrics, tasks: &mut JoinSet<()>) -> Settings {
    let url = metrics.serve(tasks).await;
    Settings {
        metrics: MetricsSource::Urls(vec![url]),
        ..settings(router)
    }
}

async fn weight(server: &World) -> i64 {
    let api: Api<HTTPTrigger> = server.api();
    let trigger = api.get("t").await.unwrap();
    let weights = trigger.spec.function_ref.function_weights;
    assert_eq!(weights.values().sum::<i64>(), 100);
    weights["new"]
}

async fn until_weight(server: &World, wanted: i64) {
    let what = format!("{wanted} %");
    eventually(&what, async || {
        (weight(server).await == wanted).then_some(())
    })
    .await;
}

async fn trigger(server: &World) {
    let reference =
        json!({ "type": "function-weights", "functionweights": { "old": 100, "new": 0 } });
    let spec = json!({ "relativeurl": "/x", "functionref": reference });
    server.create::<HTTPTrigger>("t", spec).await;
}

fn spec(trigger: &str, new: &str, old: &str) -> Value {
    json!({
        "trigger": trigger, "newfunction": new, "oldfunction": old,
        "weightincrement": 50, "duration": "1s", "failurethreshold": 10,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_good_canary_ends_and_a_bad_one_goes_back() {
    let (server, router) = (world().await, Router::start().await);
    let (metrics, mut tasks) = (Metrics::default(), JoinSet::new());
    // Calls of before, most of which failed, count for nothing.
    metrics.set("new", "", 1000, 900);
    let settings = canary_settings(&router, &metrics, &mut tasks).await;
    let process = Process::start(&server, settings);
    trigger(&server).await;
    server
        .create::<CanaryConfig>("c", spec("t", "new", "old"))
        .await;
    until_weight(&server, 50).await;
    server
        .condition::<CanaryConfig>("c", "Progressing", "True=InProgress")
        .await;
    metrics.set("new", "", 1010, 901);
    until_weight(&server, 100).await;
    // No success before a window at 100 % with calls.
    let api: Api<CanaryConfig> = server.api();
    let status = async || api.get("c").await.unwrap().status.unwrap();
    assert_eq!(status().await.status, "pending");
    metrics.set("new", "", 1020, 901);
    server
        .condition::<CanaryConfig>("c", "Ready", "True=Succeeded")
        .await;
    assert_eq!(
        (status().await.status.as_str(), weight(&server).await),
        ("succeeded", 100)
    );

    // Changed, it begins anew; the function fails now, and the router was restarted.
    server
        .patch::<HTTPTrigger>(
            "t",
            json!({ "spec": { "functionref": { "functionweights": { "old": 100, "new": 0 } } } }),
        )
        .await;
    server
        .patch::<CanaryConfig>("c", json!({ "spec": { "weightincrement": 20 } }))
        .await;
    until_weight(&server, 20).await;
    metrics.set("new", "", 8, 1);
    server
        .condition::<CanaryConfig>("c", "Ready", "False=Failed")
        .await;
    assert_eq!(
        (status().await.status.as_str(), weight(&server).await),
        ("failed", 0)
    );
    // Something that can never work says so.
    let mut bad = spec("t", "new", "old");
    bad["duration"] = json!("soon");
    server.create::<CanaryConfig>("bad", bad).await;
    server
        .condition::<CanaryConfig>("bad", "Ready", "False=Aborted")
        .await;
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_canary_moves_an_alias() {
    let (server, router) = (world().await, Router::start().await);
    let (metrics, mut tasks) = (Metrics::default(), JoinSet::new());
    let settings = canary_settings(&router, &metrics, &mut tasks).await;
    let process = Process::start(&server, settings);
    for sequence in [1, 2] {
        let spec = json!({ "functionName": "f", "sequence": sequence, "snapshot": {} });
        let name = format!("f-v{sequence}");
        server.create::<FunctionVersion>(&name, spec).await;
    }
    let alias = json!({ "functionName": "f", "version": "f-v1" });
    server.create::<FunctionAlias>("prod", alias).await;
    metrics.set("f", "f-v1", 1000, 1000);
    server
        .create::<CanaryConfig>("c", spec("prod", "f-v2", "f-v1"))
        .await;
    let api: Api<FunctionAlias> = server.api();
    let alias = async || {
        let spec = api.get("prod").await.unwrap().spec;
        (spec.version, spec.weight, spec.secondary_version)
    };
    eventually("half of the calls", async || {
        (alias().await == ("f-v1".into(), Some(50), "f-v2".into())).then_some(())
    })
    .await;
    metrics.set("f", "f-v2", 10, 0);
    eventually("all calls", async || {
        (alias().await.1 == Some(0)).then_some(())
    })
    .await;
    metrics.set("f", "f-v2", 20, 1);
    server
        .condition::<CanaryConfig>("c", "Ready", "True=Succeeded")
        .await;
    assert_eq!(alias().await, ("f-v2".into(), None, String::new()));
    process.end().await;
}
