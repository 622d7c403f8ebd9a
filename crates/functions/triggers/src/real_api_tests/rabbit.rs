//! Message triggers against a real RabbitMQ server.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use farplane_functions_types::{Function, MessageQueueTrigger};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{FieldTable, LongString};
use lapin::{BasicProperties, Channel, Confirmation, ConnectionProperties};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Process, settings};
use crate::testing::{Reply, Router, world};
use farplane_test_api::{World, eventually, free_port, program};

const USER: &str = "u";
const PASSWORD: &str = "sec/ret";
/// For one of several tries to connect.
const TRY: Duration = Duration::from_secs(5);

/// A RabbitMQ server with a user of its own, and what it wrote to its disk.
struct Rabbit {
    port: u16,
    /// Of TLS, of Erlang between servers, and of the names of those.
    others: [u16; 3],
    authority: String,
    process: Option<Child>,
    directory: tempfile::TempDir,
}

impl Rabbit {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut rabbit = Self {
            port: free_port(),
            others: [free_port(), free_port(), free_port()],
            authority: certificate(directory.path()),
            process: None,
            directory,
        };
        let settings = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\n\
             listeners.ssl.1 = 127.0.0.1:{}\n\
             ssl_options.certfile = certificate.pem\n\
             ssl_options.keyfile = key.pem\n\
             default_user = {USER}\n\
             default_pass = {PASSWORD}\n",
            rabbit.port, rabbit.others[0]
        );
        std::fs::write(rabbit.directory.path().join("rabbitmq.conf"), settings).unwrap();
        std::fs::write(rabbit.directory.path().join("plugins"), "[].").unwrap();
        rabbit.restart();
        rabbit.channel().await;
        rabbit
    }

    fn restart(&mut self) {
        let directory = self.directory.path();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(directory.join("rabbitmq-server.log"))
            .unwrap();
        let [_, distribution, names] = self.others.map(|port| port.to_string());
        // A group of its own: the server is several processes.
        let child = Command::new(program("rabbitmq-server"))
            .current_dir(directory)
            .process_group(0)
            .env("HOME", directory)
            .env("ERL_EPMD_PORT", names)
            .env("RABBITMQ_DIST_PORT", distribution)
            .env(
                "RABBITMQ_NODENAME",
                format!("rabbit{}@localhost", self.port),
            )
            .env("RABBITMQ_MNESIA_BASE", directory.join("data"))
            .env("RABBITMQ_LOG_BASE", directory.join("log"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_CONFIG_FILE", directory.join("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", directory.join("plugins"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    /// Kills what runs, without a word before.
    fn kill(&mut self) {
        let Some(mut child) = self.process.take() else {
            return;
        };
        let group = format!("-{}", child.id());
        let mut kill = Command::new("kill");
        assert!(
            kill.args(["-KILL", "--", &group])
                .status()
                .unwrap()
                .success()
        );
        child.wait().unwrap();
    }

    fn host(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
    }

    fn host_with_tls(&self) -> String {
        format!("amqps://127.0.0.1:{}/%2f", self.others[0])
    }

    fn host_with_user(&self) -> String {
        let password = PASSWORD.replace('/', "%2f");
        format!("amqp://{USER}:{password}@127.0.0.1:{}/%2f", self.port)
    }

    /// A channel with confirms, once the server answers.
    async fn channel(&self) -> Channel {
        let connection = eventually("a RabbitMQ server", async || {
            let options = ConnectionProperties::default();
            let host = self.host_with_user();
            // A client whose server ends between two of its steps may wait without an end.
            let connecting = lapin::Connection::connect(&host, options);
            timeout(TRY, connecting).await.ok()?.ok()
        })
        .await;
        let channel = connection.create_channel().await.unwrap();
        let options = ConfirmSelectOptions::default();
        channel.confirm_select(options).await.unwrap();
        channel
    }

    async fn add_queue(&self, name: &str) {
        let (options, arguments) = (QueueDeclareOptions::durable(), FieldTable::default());
        let channel = self.channel().await;
        let made = channel.queue_declare(name.into(), options, arguments).await;
        made.unwrap();
    }

    /// Messages of a queue that nobody has taken.
    async fn count(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let channel = self.channel().await;
        let found = channel.queue_declare(queue.into(), options, FieldTable::default());
        found.await.unwrap().message_count()
    }

    async fn publish(&self, queue: &str, bodies: std::ops::Range<u32>) {
        let channel = self.channel().await;
        for body in bodies {
            let mut headers = FieldTable::default();
            headers.insert("X-Number".into(), i64::from(body).into());
            headers.insert("X-Fission-Deep".into(), LongString::from("no").into());
            let properties = BasicProperties::default()
                .with_delivery_mode(2)
                .with_headers(headers);
            let options = BasicPublishOptions::default();
            let body = body.to_string();
            let told = channel
                .basic_publish(
                    "".into(),
                    queue.into(),
                    options,
                    body.as_bytes(),
                    properties,
                )
                .await
                .unwrap();
            assert_eq!(told.await.unwrap(), Confirmation::Ack(None));
        }
    }

    /// The next message of a queue, which is gone then.
    async fn take(&self, queue: &str) -> BasicGetMessage {
        let channel = self.channel().await;
        let taken = channel.basic_get(queue.into(), BasicGetOptions::default());
        let message = taken.await.unwrap().expect("a message");
        message.ack(BasicAckOptions::default()).await.unwrap();
        message
    }
}

/// Writes a certificate for this machine and its key, and returns the certificate.
fn certificate(directory: &std::path::Path) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = parameters.self_signed(&key).unwrap().pem();
    std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(directory.join("certificate.pem"), &certificate).unwrap();
    certificate
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.directory.path().join("rabbitmq-server.log");
            eprintln!("{}", std::fs::read_to_string(log).unwrap_or_default());
        }
    }
}

fn trigger(metadata: Value, secret: &str) -> Value {
    json!({
        "messageQueueType": "rabbitmq", "topic": "orders", "respTopic": "done", "errorTopic": "bad",
        "maxRetries": 2, "contentType": "text/plain", "secret": secret, "metadata": metadata,
        "functionref": { "type": "name", "name": "f" },
    })
}

async fn add_secret(server: &World, data: Value) {
    let secret = json!({ "metadata": { "name": "credentials" }, "stringData": data });
    let secret: Secret = serde_json::from_value(secret).unwrap();
    let secrets: Api<Secret> = server.api();
    let made = secrets.create(&PostParams::default(), &secret).await;
    made.unwrap();
}

/// What a trigger says of its subscription.
async fn message(server: &World, name: &str) -> String {
    let triggers: Api<MessageQueueTrigger> = server.api();
    let trigger = triggers.get(name).await.unwrap();
    let conditions = trigger.status.unwrap().conditions;
    let mut conditions = conditions.into_iter();
    let bound = conditions.find(|one| one.type_ == "BindingReady").unwrap();
    bound.message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd, kube-apiserver and rabbitmq-server in FARPLANE_TEST_BIN"]
async fn rabbit_messages_are_retried_and_answered() {
    let (server, router) = (world().await, Router::start().await);
    let rabbit = Rabbit::start().await;
    // Message 3 always fails, message 5 the first two times.
    let failures = std::sync::atomic::AtomicU32::new(0);
    router.answer_with(move |seen| match &seen.body[..] {
        b"3" => Reply::With(500, "three is bad".into()),
        b"5" if failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2 => Reply::Break,
        body => Reply::With(200, [body, b" done"].concat().into()),
    });
    for queue in ["orders", "done", "bad"] {
        rabbit.add_queue(queue).await;
    }
    server.create::<Function>("f", json!({})).await;
    add_secret(&server, json!({ "host": rabbit.host_with_user() })).await;
    let spec = trigger(json!({ "queueName": "orders" }), "credentials");
    server.create::<MessageQueueTrigger>("m", spec).await;
    rabbit.publish("orders", 1..11).await;
    let process = Process::start(&server, settings(&router));
    server
        .condition::<MessageQueueTrigger>("m", "Ready", "True=Subscribed")
        .await;
    eventually("nine answers and one failure", async || {
        let counts = (rabbit.count("done").await, rabbit.count("bad").await);
        (counts == (9, 1)).then_some(())
    })
    .await;
    let mut done = BTreeSet::new();
    for _ in 0..9 {
        let message = rabbit.take("done").await;
        assert_eq!(*message.properties.delivery_mode(), Some(2));
        done.insert(String::from_utf8(message.delivery.data).unwrap());
    }
    assert_eq!((done.len(), done.contains("5 done")), (9, true));
    let bad = rabbit.take("bad").await;
    let headers = bad.properties.headers().clone().unwrap();
    let header = |name: &str| {
        let value = headers.inner()[name].as_long_string().unwrap();
        value.to_string()
    };
    assert_eq!(bad.delivery.data, b"3");
    assert_eq!(header("x-number"), "3");
    assert_eq!(header("x-fission-mqtrigger-status"), "500");
    assert_eq!(header("x-fission-mqtrigger-attempts"), "3");
    assert!(header("x-fission-mqtrigger-error").contains("three is bad"));
    assert!(!headers.contains_key("x-fission-deep"));
    let count = |body: &str| {
        let calls = router.calls();
        calls.iter().filter(|seen| seen.body == body).count()
    };
    assert_eq!((count("3"), count("5"), count("7")), (3, 3, 1));
    let seen = router.calls()[0].clone();
    assert_eq!(seen.target, "/fission-function/ns/f");
    assert_eq!(seen.headers["content-type"], "text/plain");
    assert_eq!(seen.headers["x-number"].as_bytes(), &seen.body[..]);
    assert_eq!(seen.headers["x-fission-mqtrigger-topic"], "orders");
    assert_eq!(seen.headers["x-fission-mqtrigger-resptopic"], "done");
    // The next process goes on where this one was; nothing is done twice.
    process.end().await;
    rabbit.publish("orders", 11..13).await;
    let process = Process::start(&server, settings(&router));
    eventually("two more answers", async || {
        (rabbit.count("done").await == 2).then_some(())
    })
    .await;
    assert_eq!((count("1"), count("10"), count("12")), (1, 1, 1));
    process.end().await;
    assert_eq!(rabbit.count("orders").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd, kube-apiserver and rabbitmq-server in FARPLANE_TEST_BIN"]
async fn rabbit_messages_outlive_the_server() {
    let (server, router) = (world().await, Router::start().await);
    let mut rabbit = Rabbit::start().await;
    let (open, gate) = tokio::sync::watch::channel(false);
    router.answer_with(move |seen| {
        if *gate.borrow() {
            Reply::With(200, seen.body.clone())
        } else {
            Reply::With(429, "full".into())
        }
    });
    for queue in ["orders", "done", "bad"] {
        rabbit.add_queue(queue).await;
    }
    server.create::<Function>("f", json!({})).await;
    let password = format!("{PASSWORD}\n");
    let secret = json!({ "username": USER, "password": password, "ca": rabbit.authority });
    add_secret(&server, secret).await;
    let metadata = json!({ "host": rabbit.host_with_tls(), "concurrency": "2" });
    let spec = trigger(metadata, "credentials");
    server.create::<MessageQueueTrigger>("m", spec).await;
    rabbit.publish("orders", 1..21).await;
    let process = Process::start(&server, settings(&router));
    // However often it is tried, only two messages are out, and none is given up.
    eventually("many tries", async || {
        (router.calls().len() >= 8).then_some(())
    })
    .await;
    let bodies = || -> BTreeSet<_> {
        let calls = router.calls().into_iter();
        calls.map(|seen| seen.body).collect()
    };
    assert_eq!(bodies().len(), 2, "{:?}", bodies());
    rabbit.kill();
    server
        .condition::<MessageQueueTrigger>("m", "Ready", "False=BrokerUnavailable")
        .await;
    rabbit.restart();
    rabbit.channel().await;
    server
        .condition::<MessageQueueTrigger>("m", "Ready", "True=Subscribed")
        .await;
    open.send_replace(true);
    eventually("all answers", async || {
        (rabbit.count("done").await >= 20 && rabbit.count("orders").await == 0).then_some(())
    })
    .await;
    process.end().await;
    let mut done = BTreeSet::new();
    for _ in 0..rabbit.count("done").await {
        done.insert(rabbit.take("done").await.delivery.data);
    }
    assert_eq!(done.len(), 20, "{done:?}");
    assert_eq!(rabbit.count("bad").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd, kube-apiserver and rabbitmq-server in FARPLANE_TEST_BIN"]
async fn rabbit_tells_what_is_missing_or_refused() {
    let (server, router) = (world().await, Router::start().await);
    let rabbit = Rabbit::start().await;
    server.create::<Function>("f", json!({})).await;
    let with_user = json!({ "host": rabbit.host_with_user() });
    let wrong = rabbit.host_with_user().replace("ret@", "ret-wrong-one@");
    assert_ne!(wrong, rabbit.host_with_user());
    for (name, metadata) in [
        ("no-queue", with_user),
        ("no-user", json!({ "host": wrong })),
        ("no-trust", json!({ "host": rabbit.host_with_tls() })),
    ] {
        let spec = trigger(metadata, "");
        server.create::<MessageQueueTrigger>(name, spec).await;
    }
    add_secret(&server, json!({ "username": USER })).await;
    let spec = trigger(json!({}), "credentials");
    server.create::<MessageQueueTrigger>("no-host", spec).await;
    let process = Process::start(&server, settings(&router));
    for (name, reason) in [
        ("no-queue", "False=TopicNotFound"),
        ("no-user", "False=BrokerUnavailable"),
        ("no-trust", "False=BrokerUnavailable"),
        ("no-host", "False=InvalidMetadata"),
    ] {
        server
            .condition::<MessageQueueTrigger>(name, "BindingReady", reason)
            .await;
    }
    let told = message(&server, "no-user").await;
    assert!(told.contains("ACCESS_REFUSED"), "{told}");
    assert!(told.contains(&rabbit.host()), "{told}");
    assert!(!told.contains("sec") && !told.contains("wrong"), "{told}");
    let told = message(&server, "no-trust").await;
    assert!(told.contains("certificate"), "{told}");
    // Messages are taken once there is a place for each answer to go.
    rabbit.add_queue("orders").await;
    rabbit.publish("orders", 1..2).await;
    for (queue, missing) in [("done", "bad"), ("bad", "")] {
        rabbit.add_queue(queue).await;
        if !missing.is_empty() {
            eventually("the next queue to be missed", async || {
                let told = message(&server, "no-queue").await;
                told.ends_with(&format!("has no queue {missing}"))
                    .then_some(())
            })
            .await;
            assert!(router.calls().is_empty());
        }
    }
    server
        .condition::<MessageQueueTrigger>("no-queue", "Ready", "True=Subscribed")
        .await;
    eventually("an answer", async || {
        (rabbit.count("done").await == 1).then_some(())
    })
    .await;
    // A queue that goes away later is told of too.
    let channel = rabbit.channel().await;
    let gone = channel.queue_delete("orders".into(), Default::default());
    gone.await.unwrap();
    server
        .condition::<MessageQueueTrigger>("no-queue", "Ready", "False=TopicNotFound")
        .await;
    process.end().await;
}
