//! Asynchronous calls: durable, repeated, told of, never lost.

use std::net::SocketAddr;
use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use farplane_functions_types::auth::{self, Key, Service, Signed};
use farplane_functions_types::wire::{INVOCATIONS, INVOCATIONS_DEAD};
use farplane_functions_types::{Function, FunctionAlias};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::messages::Nats;
use super::{Process, settings};
use crate::settings::{InvocationSettings, Settings};
use crate::testing::{Reply, Router, SECRET, Seen, world};
use farplane_test_api::{eventually, free_port};

/// Hands over calls as a router does.
struct Caller(SocketAddr);

impl Caller {
    async fn ask(&self, method: &str, target: &str, body: Value, secret: &[u8]) -> (u16, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let key = Key::derived(secret, Service::Invocations, None);
        let signed = key.sign(method, target, body.as_bytes(), auth::now());
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{target}", self.0));
        for (name, value) in signed.into_iter().flat_map(Signed::headers) {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let Ok(response) = client.request(request).await else {
            return (0, Value::Null);
        };
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Calls until the process leads; the id.
    async fn call(&self, function: &str, tag: &str, body: &str, key: Option<&str>) -> String {
        let request = json!({
            "namespace": "ns", "function": function, "tag": tag, "method": "PUT", "target": "/p?q=1",
            "headers": [["x-app", "1"], ["host", "x"], ["x-fission-invoke-mode", "async"]],
            "body": BASE64_STANDARD.encode(body), "dedupKey": key,
        });
        eventually("a call to be taken", async || {
            let (status, answer) = self.ask("POST", INVOCATIONS, request.clone(), SECRET).await;
            let id = answer["invocationId"].as_str().map(str::to_owned);
            id.filter(|_| status == 202)
        })
        .await
    }

    async fn dead(&self) -> Vec<Value> {
        let target = format!("{INVOCATIONS_DEAD}/list?limit=10");
        let (status, answer) = self.ask("GET", &target, Value::Null, SECRET).await;
        assert_eq!(status, 200);
        answer["messages"].as_array().unwrap().clone()
    }
}

fn with_store(router: &Router, directory: PathBuf) -> (Settings, Caller) {
    let listen = ([127, 0, 0, 1], free_port()).into();
    let settings = Settings {
        invocations: Some(InvocationSettings { listen, directory }),
        ..settings(router)
    };
    (settings, Caller(listen))
}

fn to<'a>(calls: &'a [Seen], function: &str) -> Vec<&'a Seen> {
    let path = format!("/fission-function/ns/{function}");
    let named = |seen: &&Seen| {
        let rest = seen.target.strip_prefix(&path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':']))
    };
    calls.iter().filter(named).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
#[allow(clippy::too_many_lines, reason = "one story, told in order")]
async fn calls_are_delivered_repeated_told_of_and_redriven() {
    let (server, router) = (world().await, Router::start().await);
    let directory = tempfile::tempdir().unwrap();
    let (settings, caller) = with_store(&router, directory.path().into());
    let retry = json!({ "maxAttempts": 2, "backoffBase": "50ms" });
    let invocation = json!({
        "retry": retry, "onSuccess": { "function": { "type": "name", "name": "good" } },
        "onFailure": { "function": { "type": "name", "name": "bad" } },
    });
    let spec = json!({ "invocation": invocation });
    server.create::<Function>("f", spec).await;
    server.create::<Function>("good", json!({})).await;
    // A chain without an end.
    let chain =
        json!({ "invocation": { "onSuccess": { "function": { "type": "name", "name": "bad" } } } });
    server.create::<Function>("bad", chain).await;
    let alias = json!({ "functionName": "f", "version": "f-v7" });
    server.create::<FunctionAlias>("prod", alias).await;
    router.answer_with(|seen| match &seen.body[..] {
        b"fail" => Reply::With(500, "broken".into()),
        b"refuse" => Reply::With(422, "no".into()),
        _ => Reply::With(200, "fine".into()),
    });
    let process = Process::start(&server, settings);

    // Success, and what its destination is told.
    let id = caller.call("f", "", "hello", None).await;
    let calls = eventually("the destination", async || {
        let calls = router.calls();
        (!to(&calls, "good").is_empty()).then_some(calls)
    })
    .await;
    let first = to(&calls, "f")[0];
    assert_eq!(
        (first.method.as_str(), first.target.as_str()),
        ("PUT", "/fission-function/ns/f/p?q=1")
    );
    assert_eq!(first.headers["x-fission-invocation-id"], id.as_str());
    assert_eq!(first.headers["x-fission-invocation-attempt"], "1");
    assert_eq!(first.headers["x-app"], "1");
    assert!(!first.headers.contains_key("x-fission-invoke-mode"));
    let told = to(&calls, "good")[0];
    let told: Value = serde_json::from_slice(&told.body).unwrap();
    assert_eq!(told["requestContext"]["condition"], "Success");
    assert_eq!(told["requestContext"]["invocationId"], id.as_str());
    assert_eq!(
        (&told["requestPayload"], &told["responsePayload"]),
        (&json!("hello"), &json!("fine"))
    );

    // An alias is pinned to its version when the call is taken.
    caller.call("f", "prod", "x", None).await;
    eventually("a call of the version", async || {
        let calls = router.calls();
        (!to(&calls, "f:f-v7").is_empty()).then_some(())
    })
    .await;

    // Failures: repeated, then dead, and told of; the chain ends.
    let id = caller.call("f", "", "fail", None).await;
    let refused = caller.call("f", "", "refuse", None).await;
    let dead = eventually("two dead calls", async || {
        let dead = caller.dead().await;
        (dead.len() == 2).then_some(dead)
    })
    .await;
    let find = |id: &str| dead.iter().find(|one| one["id"] == id).unwrap().clone();
    assert_eq!(find(&id)["attempts"], 2);
    assert_eq!(
        find(&id)["reason"],
        "RetriesExhausted: the function answered 500"
    );
    assert_eq!(find(&refused)["attempts"], 1);
    assert_eq!(
        find(&refused)["reason"],
        "Http4xx: the function answered 422"
    );
    eventually("the chain to end", async || {
        (to(&router.calls(), "bad").len() == 6).then_some(())
    })
    .await;
    let calls = router.calls();
    let depths = to(&calls, "bad").into_iter();
    let mut depths: Vec<_> = depths
        .map(|seen| seen.headers["x-fission-invocation-depth"].to_str().unwrap())
        .collect();
    depths.sort_unstable();
    assert_eq!(depths, ["1", "1", "2", "2", "3", "3"]);

    // Dead ones can be looked at, made again, and deleted.
    let show = format!("{INVOCATIONS_DEAD}/show?id={id}");
    let (_, shown) = caller.ask("GET", &show, Value::Null, SECRET).await;
    assert_eq!(shown["envelope"]["body"], BASE64_STANDARD.encode("fail"));
    assert_eq!(shown["envelope"]["path"], "/p");
    router.answer_with(|_| Reply::With(200, Bytes::new()));
    let redrive = format!("{INVOCATIONS_DEAD}/redrive");
    let (_, answer) = caller
        .ask("POST", &redrive, json!({ "ids": [id] }), SECRET)
        .await;
    assert_eq!(answer["count"], 1);
    eventually("the call again", async || {
        let calls = router.calls();
        let failed = to(&calls, "f")
            .into_iter()
            .filter(|seen| seen.body == "fail");
        (failed.count() == 3).then_some(())
    })
    .await;
    let purge = format!("{INVOCATIONS_DEAD}/purge");
    let (_, answer) = caller.ask("POST", &purge, Value::Null, SECRET).await;
    assert_eq!(answer["count"], 1);
    assert!(caller.dead().await.is_empty());

    // The same key is the same call.
    let first = caller.call("f", "", "once", Some("k")).await;
    assert_eq!(caller.call("f", "", "once", Some("k")).await, first);
    // Strangers and nonsense.
    let status = async |body: Value, secret: &[u8]| {
        let (status, _) = caller.ask("POST", INVOCATIONS, body, secret).await;
        StatusCode::from_u16(status).unwrap()
    };
    let good = |function: &str, body: usize| {
        let body = BASE64_STANDARD.encode(vec![b'x'; body]);
        json!({ "namespace": "ns", "function": function, "method": "POST", "target": "/", "body": body })
    };
    assert_eq!(status(good("f", 1), b"another").await, 401);
    assert_eq!(status(good("unknown", 1), SECRET).await, 404);
    assert_eq!(status(good("../f", 1), SECRET).await, 400);
    assert_eq!(status(good("f", 256 * 1024 + 1), SECRET).await, 413);
    assert_eq!(status(good("f", 256 * 1024), SECRET).await, 202);
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd, kube-apiserver and nats-server in FARPLANE_TEST_BIN"]
async fn calls_outlive_the_process_and_results_reach_topics() {
    // At a port that nobody else is given while there is no router.
    let address = ([127, 0, 0, 1], free_port()).into();
    let (server, router) = (world().await, Router::start_at(address).await);
    let nats = Nats::start().await;
    let directory = tempfile::tempdir().unwrap();
    let (mut settings, caller) = with_store(&router, directory.path().into());
    settings.nats_url = Some(nats.url().replace("//", "//u:secret@"));
    let topic = json!({ "messageQueueType": "nats-jetstream", "topic": "done" });
    // However long the first process tried in vain, the second one need not wait.
    let retry = json!({ "backoffBase": "50ms", "backoffCap": "1s" });
    let invocation = json!({ "retry": retry, "onSuccess": { "topic": topic } });
    server
        .create::<Function>("f", json!({ "invocation": invocation }))
        .await;
    // Nobody answers: the calls wait.
    router.end().await;
    let process = Process::start(&server, settings.clone());
    let mut ids = Vec::new();
    for body in ["1", "2", "3"] {
        ids.push(caller.call("f", "", body, None).await);
    }
    process.end().await;
    let router = Router::start_at(address).await;
    let process = Process::start(&server, settings);
    let calls = eventually("the calls", async || {
        let calls = router.calls();
        (calls.len() == 3).then_some(calls)
    })
    .await;
    let mut delivered: Vec<_> = calls
        .iter()
        .map(|seen| seen.headers["x-fission-invocation-id"].to_str().unwrap())
        .collect();
    delivered.sort_unstable();
    ids.sort();
    assert_eq!(delivered, ids);
    // Topics of a namespace have its name before theirs.
    nats.add_stream("results", "ns.done").await;
    eventually("three results", async || {
        (nats.count("results").await == 3).then_some(())
    })
    .await;
    process.end().await;
}
