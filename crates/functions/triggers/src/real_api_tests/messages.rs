//! Message triggers against a real NATS server.

use farplane_functions_types::{Function, MessageQueueTrigger};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use super::{Process, settings};
use crate::testing::{Reply, Router, world};
use farplane_test_api::{Running, eventually, free_port, start};

/// A NATS server with a stream `orders` of topics `orders.*`.
pub(super) struct Nats {
    port: u16,
    process: Option<Running>,
    directory: tempfile::TempDir,
}

impl Nats {
    pub async fn start() -> Self {
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
        self.process = Some(start("nats-server", directory, &arguments));
    }

    fn stop(&mut self) {
        self.process = None;
    }

    pub fn url(&self) -> String {
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

    pub async fn add_stream(&self, name: &str, topic: &str) {
        let config = async_nats::jetstream::stream::Config {
            name: name.into(),
            subjects: vec![topic.into()],
            ..async_nats::jetstream::stream::Config::default()
        };
        self.context().await.create_stream(config).await.unwrap();
    }

    /// Messages of a stream.
    pub async fn count(&self, stream: &str) -> u64 {
        let mut stream = self.context().await.get_stream(stream).await.unwrap();
        stream.info().await.unwrap().state.messages
    }

    /// Bodies of the messages of a topic.
    pub async fn messages(
        &self,
        topic: &str,
    ) -> Vec<async_nats::jetstream::message::StreamMessage> {
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
    let (server, router) = (world().await, Router::start().await);
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
    let (server, router) = (world().await, Router::start().await);
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
