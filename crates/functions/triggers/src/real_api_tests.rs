//! All of it against a real etcd and API server.
//!
//! Ignored unless asked for, as it needs `etcd` and `kube-apiserver` in the directory that
//! `FARPLANE_TEST_BIN` names.

use farplane_functions_types::names::header;
use farplane_functions_types::{
    Function, KubernetesWatchTrigger, MessageQueueTrigger, TimeTrigger,
};
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;
use tokio::task::JoinHandle;

use super::*;
use crate::testing::api::{ApiServer, Running, free_port};
use crate::testing::{Reply, Router, SECRET, Seen, eventually};

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
    }
}

/// The triggers as a process runs them.
struct Process {
    task: JoinHandle<Result<(), Error>>,
    shutdown: CancellationToken,
}

impl Process {
    fn start(server: &ApiServer, settings: Settings) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(server.client.clone(), settings, shutdown.clone()));
        Self { task, shutdown }
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
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
    let (server, router) = (ApiServer::start().await, Router::start().await);
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
    let (server, router) = (ApiServer::start().await, Router::start().await);
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

/// A NATS server with a stream `orders` of topics `orders.*`.
struct Nats {
    port: u16,
    process: Option<Running>,
    directory: tempfile::TempDir,
}

impl Nats {
    async fn start() -> Self {
        let mut nats = Self {
            port: free_port(),
            process: None,
            directory: tempfile::tempdir().unwrap(),
        };
        nats.restart();
        let stream = nats.stream().await;
        assert_eq!(stream.cached_info().state.messages, 0);
        nats
    }

    fn restart(&mut self) {
        let arguments = [
            "--jetstream".to_owned(),
            "--store_dir=store".to_owned(),
            "--addr=127.0.0.1".to_owned(),
            format!("--port={}", self.port),
            "--user=u".to_owned(),
            "--pass=secret".to_owned(),
        ];
        let directory = self.directory.path();
        self.process = Some(testing::api::start("nats-server", directory, &arguments));
    }

    fn stop(&mut self) {
        self.process = None;
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    async fn context(&self) -> async_nats::jetstream::Context {
        let client = eventually("a NATS server", async || {
            let options = async_nats::ConnectOptions::new();
            let options = options.user_and_password("u".into(), "secret".into());
            options.connect(self.url()).await.ok()
        })
        .await;
        async_nats::jetstream::new(client)
    }

    async fn stream(&self) -> async_nats::jetstream::stream::Stream {
        let config = async_nats::jetstream::stream::Config {
            name: "orders".into(),
            subjects: vec!["orders.*".into()],
            ..async_nats::jetstream::stream::Config::default()
        };
        self.context()
            .await
            .get_or_create_stream(config)
            .await
            .unwrap()
    }

    /// Bodies of the messages of a topic.
    async fn messages(&self, topic: &str) -> Vec<async_nats::jetstream::message::StreamMessage> {
        let mut stream = self.stream().await;
        let last = stream.info().await.unwrap().state.last_sequence;
        let mut found = Vec::new();
        for sequence in 1..=last {
            let message = stream.get_raw_message(sequence).await.unwrap();
            if message.subject.as_str() == topic {
                found.push(message);
            }
        }
        found
    }

    async fn publish(&self, bodies: std::ops::Range<u32>) {
        let context = self.context().await;
        for body in bodies {
            let body = body.to_string().into();
            let told = context.publish("orders.new", body).await.unwrap();
            told.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd, kube-apiserver and nats-server in FARPLANE_TEST_BIN"]
#[allow(clippy::too_many_lines, reason = "one story, told in order")]
async fn messages_are_retried_answered_and_never_lost() {
    let (server, router) = (ApiServer::start().await, Router::start().await);
    let mut nats = Nats::start().await;
    // Message 3 always fails, message 5 the first two times.
    let failures = std::sync::atomic::AtomicU32::new(0);
    router.answer_with(move |seen| match &seen.body[..] {
        b"3" => Reply::With(500, "three is bad".into()),
        b"5" if failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2 => Reply::Break,
        body => Reply::With(200, [body, b" done"].concat().into()),
    });
    server.create::<Function>("f", json!({})).await;
    let trigger = |secret: &str| {
        json!({
            "messageQueueType": "nats-jetstream", "topic": "orders.new", "respTopic": "orders.done",
            "errorTopic": "orders.bad", "maxRetries": 2, "contentType": "text/plain",
            "secret": secret, "metadata": { "natsServer": nats.url() },
            "functionref": { "type": "name", "name": "f" },
        })
    };
    let process = Process::start(&server, settings(&router));
    server
        .create::<MessageQueueTrigger>("m", trigger("credentials"))
        .await;
    server
        .condition::<MessageQueueTrigger>("m", "BindingReady", "False=InvalidSecret")
        .await;
    let secret = json!({ "metadata": { "name": "credentials" }, "stringData": { "username": "u", "password": "secret" } });
    let secret: Secret = serde_json::from_value(secret).unwrap();
    let secrets: Api<Secret> = server.api();
    secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
    nats.publish(1..11).await;
    server
        .condition::<MessageQueueTrigger>("m", "Ready", "True=Subscribed")
        .await;
    let bad = eventually("nine answers and one failure", async || {
        let done = nats.messages("orders.done").await;
        let bad = nats.messages("orders.bad").await;
        (done.len() == 9 && bad.len() == 1).then_some(bad)
    })
    .await;
    let header = |name: &str| bad[0].headers.get(name).unwrap().to_string();
    assert_eq!(bad[0].payload, "3");
    assert_eq!(header("x-fission-mqtrigger-status"), "500");
    assert_eq!(header("x-fission-mqtrigger-attempts"), "3");
    assert!(header("x-fission-mqtrigger-error").contains("three is bad"));
    let count = |body: &str| {
        router
            .calls()
            .iter()
            .filter(|seen| seen.body == body)
            .count()
    };
    assert_eq!((count("3"), count("5"), count("7")), (3, 3, 1));
    let seen = router.calls()[0].clone();
    assert_eq!(seen.target, "/fission-function/ns/f");
    assert_eq!(seen.headers["content-type"], "text/plain");
    assert_eq!(seen.headers["x-fission-mqtrigger-topic"], "orders.new");

    // The broker goes away and comes back; what is in it is not lost.
    nats.stop();
    server
        .condition::<MessageQueueTrigger>("m", "Ready", "False=BrokerUnavailable")
        .await;
    nats.restart();
    nats.publish(11..15).await;
    server
        .condition::<MessageQueueTrigger>("m", "Ready", "True=Subscribed")
        .await;
    eventually("four more answers", async || {
        (nats.messages("orders.done").await.len() == 13).then_some(())
    })
    .await;
    // The next process goes on where this one was; nothing is done twice.
    process.end().await;
    nats.publish(15..17).await;
    let process = Process::start(&server, settings(&router));
    eventually("two more answers", async || {
        (nats.messages("orders.done").await.len() == 15).then_some(())
    })
    .await;
    assert_eq!((count("1"), count("14"), count("16")), (1, 1, 1));
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd, kube-apiserver and nats-server in FARPLANE_TEST_BIN"]
async fn a_slow_function_leaves_messages_in_the_queue() {
    let (server, router) = (ApiServer::start().await, Router::start().await);
    let nats = Nats::start().await;
    let (open, gate) = tokio::sync::watch::channel(false);
    router.answer_with(move |_| {
        if *gate.borrow() {
            Reply::With(200, bytes::Bytes::new())
        } else {
            Reply::With(429, "full".into())
        }
    });
    server.create::<Function>("f", json!({})).await;
    let metadata =
        json!({ "natsServer": nats.url().replace("//", "//u:secret@"), "concurrency": "2" });
    let trigger = json!({
        "messageQueueType": "nats-jetstream", "topic": "orders.new", "metadata": metadata,
        "functionref": { "type": "name", "name": "f" },
    });
    server.create::<MessageQueueTrigger>("m", trigger).await;
    nats.publish(1..21).await;
    let process = Process::start(&server, settings(&router));
    // However often it is tried, only two messages are out, and none is given up.
    eventually("many tries", async || {
        (router.calls().len() >= 8).then_some(())
    })
    .await;
    let bodies: std::collections::BTreeSet<_> =
        router.calls().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies.len(), 2, "{bodies:?}");
    open.send_replace(true);
    eventually("all messages", async || {
        let bodies = router.calls().into_iter().map(|seen| seen.body);
        let bodies: std::collections::BTreeSet<_> = bodies.collect();
        (bodies.len() == 20).then_some(())
    })
    .await;
    process.end().await;
}
