//! All of it against a real etcd and API server.
//!
//! Ignored unless asked for, as it needs `etcd` and `kube-apiserver` in the directory that
//! `FARPLANE_TEST_BIN` names.

mod canaries;
mod exposure;
mod invocations;
mod messages;
mod rabbit;
mod versions;
mod workflows;

use std::time::Duration;

use farplane_functions_types::names::header;
use farplane_functions_types::{Function, KubernetesWatchTrigger, TimeTrigger};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use tokio::task::JoinHandle;

use super::*;
use crate::testing::{Router, SECRET, Seen, world};
use farplane_test_api::{World, eventually};

fn settings(router: &Router) -> Settings {
    Settings {
        namespace: "fission".into(),
        pod_name: "triggers-1".into(),
        router_url: router.url(),
        secret: SECRET.to_vec(),
        metrics: MetricsSource::Urls(Vec::new()),
        cluster_domain: "cluster.local".into(),
        invocations: None,
        nats_url: None,
        exposure: Exposure::default(),
    }
}

/// The triggers as a process runs them.
struct Process {
    task: JoinHandle<Result<(), Error>>,
    shutdown: CancellationToken,
}

impl Process {
    fn start(server: &World, settings: Settings) -> Self {
        let shutdown = CancellationToken::new();
        let work = run(server.client.clone(), settings, shutdown.clone());
        let task = tokio::spawn(async move {
            let outcome = work.await;
            // A test that waits for its work would not tell why.
            if let Err(error) = &outcome {
                eprintln!("the process ended: {error}");
            }
            outcome
        });
        Self { task, shutdown }
    }

    async fn end(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(60), self.task).await;
        ended.expect("to end when told").unwrap().unwrap();
    }
}

/// Calls with a header, as value, path and body.
fn calls(router: &Router, name: &str) -> Vec<(String, Seen)> {
    let seen = router.calls().into_iter().filter_map(|seen| {
        let value = seen.headers.get(name)?.to_str().unwrap().to_owned();
        Some((value, seen))
    });
    seen.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn timers_call_and_say_what_is_wrong() {
    let (server, router) = (world().await, Router::start().await);
    let process = Process::start(&server, settings(&router));
    let timer = |cron: &str| json!({ "cron": cron, "subpath": "tick", "functionref": { "type": "name", "name": "f" } });
    server
        .create::<TimeTrigger>("good", timer("* * * * * *"))
        .await;
    server
        .create::<TimeTrigger>("bad", timer("61 * * * *"))
        .await;
    server
        .condition::<TimeTrigger>("bad", "Scheduled", "False=InvalidCron")
        .await;
    server
        .condition::<TimeTrigger>("good", "Ready", "False=FunctionNotFound")
        .await;
    server.create::<Function>("f", json!({})).await;
    server
        .condition::<TimeTrigger>("good", "Ready", "True=CronRegistered")
        .await;
    let made = eventually("three calls", async || {
        let calls = calls(&router, header::TIMER_NAME);
        (calls.len() >= 3).then_some(calls)
    })
    .await;
    for (name, seen) in made {
        assert_eq!((name.as_str(), seen.method.as_str()), ("good", "POST"));
        assert_eq!(seen.target, "/fission-function/ns/f/tick");
    }
    // The next process leads at once, as the lease was given back.
    process.end().await;
    let before = router.calls().len();
    let process = Process::start(&server, settings(&router));
    eventually("calls of the next process", async || {
        (router.calls().len() > before).then_some(())
    })
    .await;
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn watches_call_for_each_change_in_order() {
    let (server, router) = (world().await, Router::start().await);
    let service = |label: &str| json!({ "ports": [{ "port": 80 }], "selector": { "app": label } });
    server.create::<Service>("before", service("x")).await;
    server
        .patch::<Service>(
            "before",
            json!({ "metadata": { "labels": { "seen": "yes" } } }),
        )
        .await;
    let watch = |namespace: &str| {
        json!({
            "type": "service", "namespace": namespace, "labelselector": { "seen": "yes" },
            "functionref": { "type": "name", "name": "f" },
        })
    };
    server.create::<Function>("f", json!({})).await;
    let process = Process::start(&server, settings(&router));
    server
        .create::<KubernetesWatchTrigger>("own", watch("ns"))
        .await;
    server
        .create::<KubernetesWatchTrigger>("foreign", watch("fission"))
        .await;
    server
        .condition::<KubernetesWatchTrigger>("foreign", "Subscribed", "False=CrossNamespace")
        .await;
    server
        .condition::<KubernetesWatchTrigger>("own", "Ready", "True=Subscribed")
        .await;
    for port in 81..90 {
        let change = json!({ "spec": { "ports": [{ "port": port }] } });
        server.patch::<Service>("before", change).await;
    }
    server.create::<Service>("unseen", service("y")).await;
    let api: Api<Service> = server.api();
    api.delete("before", &DeleteParams::default())
        .await
        .unwrap();
    let told = eventually("the deletion", async || {
        let calls = calls(&router, "x-kubernetes-event-type");
        let last = calls.last()?;
        (last.0 == "DELETED").then_some(calls)
    })
    .await;
    let mut expected = vec!["ADDED"];
    expected.extend(["MODIFIED"; 9]);
    expected.push("DELETED");
    let types: Vec<&str> = told.iter().map(|(type_, _)| type_.as_str()).collect();
    assert_eq!(types, expected);
    let ports: Vec<u64> = told[1..10]
        .iter()
        .map(|(_, seen)| {
            let object: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
            assert_eq!(object["kind"], "Service");
            assert_eq!(object["metadata"]["name"], "before");
            assert_eq!(seen.headers["x-kubernetes-object-type"], "Service");
            object["spec"]["ports"][0]["port"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(ports, (81..90).collect::<Vec<_>>());
    process.end().await;
}
