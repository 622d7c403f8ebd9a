//! All of it against a real etcd and API server, with Pods whose fetchers are scripted.
//!
//! Ignored unless asked for, as it needs `etcd` and `kube-apiserver` in the directory that
//! `FARPLANE_TEST_BIN` names.

mod bursts;
mod deployments;
mod leaders;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use bytes::Bytes;
use farplane_functions_types::auth::{Key, Service, now};
use farplane_functions_types::names::{self, label};
use farplane_functions_types::wire::{
    Failure, FunctionKey, INSTANCES, Instance, InstanceRequest, InstanceUsage, USAGE, Usage,
};
use farplane_functions_types::{Environment, Function, Package};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::testing::cluster::Cluster;
use crate::testing::{SECRET, world};
use farplane_test_api::{World, eventually, free_port};
use leaders::{marked, own_pod};

/// An executor as a process runs it.
struct Process {
    address: SocketAddr,
    metrics: SocketAddr,
    task: JoinHandle<Result<(), Error>>,
    shutdown: CancellationToken,
}

impl Process {
    fn start(server: &World, name: &str) -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (address, metrics) = (local(free_port()), local(free_port()));
        let settings = Settings {
            listen: address,
            metrics,
            namespace: "fission".into(),
            pod_name: name.into(),
            secret: SECRET.to_vec(),
            fetcher_image: "farplane.io/functions:1".into(),
            pull_policy: "IfNotPresent".into(),
            storage_url: "http://storagesvc.fission".into(),
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(server.client.clone(), settings, shutdown.clone()));
        Self {
            address,
            metrics,
            task,
            shutdown,
        }
    }

    async fn ready(&self) {
        eventually("an executor that leads", async || {
            let (_, told) = send(self.metrics, "GET", "/metrics", Vec::new(), false).await?;
            let told = String::from_utf8_lossy(&told);
            let leads = |line| line == "farplane_executor_leads 1";
            told.lines().any(leads).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Bytes) {
        let body = serde_json::to_vec(body).unwrap();
        send(self.address, "POST", path, body, true).await.unwrap()
    }

    async fn instance(
        &self,
        function: &Function,
        known: &[&str],
    ) -> Result<Instance, (StatusCode, Failure)> {
        let request = InstanceRequest {
            function: key(function),
            known: known.iter().map(|one| (*one).to_owned()).collect(),
        };
        let (status, body) = self
            .post(INSTANCES, &serde_json::to_value(&request).unwrap())
            .await;
        if status == StatusCode::OK {
            return Ok(serde_json::from_slice(&body).unwrap());
        }
        Err((status, serde_json::from_slice(&body).unwrap()))
    }

    async fn used(&self, address: &str, active: usize, idle_ms: u64) {
        let usage = Usage {
            router: "router-1".into(),
            instances: vec![InstanceUsage {
                address: address.into(),
                active,
                idle_ms,
            }],
        };
        let usage = serde_json::to_value(&usage).unwrap();
        assert_eq!(self.post(USAGE, &usage).await.0, StatusCode::OK);
    }
}

async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: Vec<u8>,
    signed: bool,
) -> Option<(StatusCode, Bytes)> {
    let stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.ok()?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path);
    request = request.header("host", "executor");
    if signed {
        let key = Key::derived(SECRET, Service::Executor, None);
        for (name, value) in key.sign(method, path, &body, now()).unwrap().headers() {
            request = request.header(name, value);
        }
    }
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    let response = sender.send_request(request).await.ok()?;
    let status = response.status();
    Some((
        status,
        response.into_body().collect().await.ok()?.to_bytes(),
    ))
}

fn key(function: &Function) -> FunctionKey {
    FunctionKey {
        namespace: "ns".into(),
        name: function.name_any(),
        uid: function.uid().unwrap(),
        generation: function.metadata.generation.unwrap(),
        version: String::new(),
    }
}

async fn environment(server: &World, pool: i32) -> Environment {
    server
        .create(
            "python",
            json!({ "version": 3, "runtime": { "image": "python-env" }, "poolsize": pool,
                "terminationGracePeriod": 1 }),
        )
        .await
}

async fn package(server: &World, name: &str, code: &str) -> Package {
    use base64::Engine as _;
    let literal = base64::engine::general_purpose::STANDARD.encode(code);
    server
        .create(
            name,
            json!({ "environment": { "name": "python" }, "deployment": { "literal": literal } }),
        )
        .await
}

/// A function with a package of its own.
async fn function(server: &World, name: &str, more: Value) -> Function {
    package(server, name, name).await;
    let mut spec = json!({
        "environment": { "name": "python" },
        "package": { "packageref": { "name": name }, "functionName": "main" },
    });
    let more = more.as_object().cloned().unwrap_or_default();
    spec.as_object_mut().unwrap().extend(more);
    server.create(name, spec).await
}

async fn scene(pool: i32) -> (World, Cluster, Process) {
    let server = world().await;
    let cluster = Cluster::start(&server.client);
    environment(&server, pool).await;
    let executor = Process::start(&server, "executor-1");
    executor.ready().await;
    (server, cluster, executor)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_function_gets_an_instance_and_its_labels_say_so() {
    let (server, cluster, executor) = scene(2).await;
    let hello = function(&server, "hello", json!({})).await;
    let made = executor.instance(&hello, &[]).await.unwrap();
    assert!(made.cold);
    assert_eq!(made.function, key(&hello));
    // The code came with the message, signed.
    let request = &cluster.requests(&made.address)[0];
    assert!(!request.fetch.archive.as_ref().unwrap().literal.is_empty());
    assert_eq!(request.load.filepath, "/userfunc/deployarchive");
    assert_eq!(request.load.function_name, "main");
    // Its labels are those of the contract.
    let pod = eventually("labels", async || {
        let selector = format!("{}=hello,{}=true", label::FUNCTION_NAME, label::SERVED);
        cluster.pods(&selector).await.pop()
    })
    .await;
    assert_eq!(pod.name_any(), made.pod.as_ref().unwrap().name);
    let labels = pod.labels();
    assert_eq!(labels[label::MANAGED], "false");
    assert_eq!(labels[label::FUNCTION_UID], hello.uid().unwrap());
    assert_eq!(labels[label::FUNCTION_GENERATION], "1");
    assert_eq!(labels[label::ENVIRONMENT_NAME], "python");
    assert_eq!(labels[label::EXECUTOR_TYPE], "poolmgr");
    assert!(pod.annotations().contains_key("executorInstanceId"));
    // A warm one is named again; when it is known, another is made.
    let warm = executor.instance(&hello, &[]).await.unwrap();
    assert_eq!(
        (warm.address.as_str(), warm.cold),
        (made.address.as_str(), false)
    );
    let second = executor.instance(&hello, &[&made.address]).await.unwrap();
    assert_ne!(second.address, made.address);
    // The namespace has what its Pods need.
    let keys: Secret = server.api().get(names::AUTH_KEYS_SECRET).await.unwrap();
    let keys = keys.data.unwrap();
    let expected = farplane_functions_types::auth::derive(SECRET, Service::Fetcher, Some("ns"));
    assert_eq!(keys["fetcherKey"].0, hex::encode(expected).into_bytes());
    let (status, text) = executor
        .post(
            "/v2/getServiceForFunction",
            &serde_json::to_value(&hello).unwrap(),
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    assert!([made.address.as_bytes(), second.address.as_bytes()].contains(&text.as_ref()));
    executor.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn nobody_without_a_signature_is_answered() {
    let (server, _cluster, executor) = scene(1).await;
    let hello = function(&server, "hello", json!({})).await;
    let request = json!({ "function": key(&hello) });
    let body = serde_json::to_vec(&request).unwrap();
    let (status, _) = send(executor.address, "POST", INSTANCES, body, false)
        .await
        .unwrap();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = send(executor.address, "GET", "/v2/debugInfo", Vec::new(), false)
        .await
        .unwrap();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    executor.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn code_that_does_not_load_is_told_in_its_own_words() {
    let (server, cluster, executor) = scene(1).await;
    let bad = function(&server, "bad", json!({})).await;
    let (status, failure) = executor.instance(&bad, &[]).await.unwrap_err();
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(failure.component, "function");
    assert!(failure.reason.contains("NameError"), "{failure:?}");
    // It is told in the function's status.
    eventually("the status of bad", async || {
        let status = server.api::<Function>().get("bad").await.ok()?.status?;
        let error = status.last_error?.0;
        let ready = status.conditions.iter().find(|one| one.type_ == "Ready")?;
        let told = error["reason"].as_str()?.contains("NameError") && ready.status == "False";
        told.then_some(())
    })
    .await;
    // Its Pod is not used again.
    eventually("the Pod to be deleted", async || {
        let pods = cluster
            .pods(&format!("{}=python", label::ENVIRONMENT_NAME))
            .await;
        let address = |pod: &Pod| pod.status.clone()?.pod_ip;
        let ips: Vec<String> = pods.iter().filter_map(address).collect();
        let used = ips
            .iter()
            .any(|ip| !cluster.requests(&format!("{ip}:8888")).is_empty());
        (!used).then_some(())
    })
    .await;
    executor.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn another_executor_takes_over_what_runs() {
    let (server, cluster, executor) = scene(3).await;
    for name in ["executor-1", "executor-2"] {
        own_pod(&server, name).await;
    }
    marked(&server, "executor-1").await;
    let hello = function(&server, "hello", json!({})).await;
    let made = executor.instance(&hello, &[]).await.unwrap();
    // A specialisation that was not written down: labels still say generic.
    let lost = function(&server, "lost", json!({})).await;
    let other = Process::start(&server, "executor-2");
    let (status, failure) = eventually("the second to listen", async || {
        other_answers(&other, &hello).await
    })
    .await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(failure.reason.contains("does not lead"), "{failure:?}");
    executor.end().await;
    let pods = eventually("generic Pods", async || {
        let pods = cluster.generic().await;
        (!pods.is_empty()).then_some(pods)
    })
    .await;
    let ip = pods[0].status.as_ref().unwrap().pod_ip.clone().unwrap();
    cluster.pretend(ip.parse().unwrap(), Some(key(&lost)));
    other.ready().await;
    let before = cluster.specialised();
    let found = other.instance(&hello, &[]).await.unwrap();
    assert_eq!((found.address, found.cold), (made.address, false));
    marked(&server, "executor-2").await;
    other.end().await;
    assert_eq!(cluster.specialised(), before);
}

async fn other_answers(process: &Process, function: &Function) -> Option<(StatusCode, Failure)> {
    let body = serde_json::to_vec(&json!({ "function": key(function) })).unwrap();
    let (status, body) = send(process.address, "POST", INSTANCES, body, true).await?;
    Some((status, serde_json::from_slice(&body).ok()?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn what_was_specialised_before_a_crash_is_found_by_asking() {
    let server = world().await;
    let cluster = Cluster::start(&server.client);
    environment(&server, 1).await;
    let lost = function(&server, "lost", json!({})).await;
    let executor = Process::start(&server, "executor-1");
    executor.ready().await;
    let pod = eventually("a generic Pod", async || {
        let pod = cluster.generic().await.pop()?;
        pod.status.as_ref()?.pod_ip.clone()?;
        Some(pod)
    })
    .await;
    // The process dies, and leaves a Pod with code and the labels of a generic one.
    executor.task.abort();
    let ip = pod.status.as_ref().unwrap().pod_ip.clone().unwrap();
    cluster.pretend(ip.parse().unwrap(), Some(key(&lost)));
    release_lease(&server).await;
    let next = Process::start(&server, "executor-2");
    next.ready().await;
    let found = next.instance(&lost, &[]).await.unwrap();
    assert_eq!(found.address, format!("{ip}:8888"));
    assert_eq!(cluster.specialised(), 0, "it had its code already");
    eventually("its labels", async || {
        let selector = format!("{}=lost,{}=true", label::FUNCTION_NAME, label::SERVED);
        cluster.pods(&selector).await.pop()
    })
    .await;
    next.end().await;
}

/// Saves the test the time after which a dead process's lease is taken.
async fn release_lease(server: &World) {
    let api: Api<Lease> = Api::namespaced(server.client.clone(), "fission");
    api.delete(LEASE, &DeleteParams::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn new_code_gets_new_instances_and_the_old_ones_go() {
    let (server, cluster, executor) = scene(2).await;
    let hello = function(&server, "hello", json!({})).await;
    let old = executor.instance(&hello, &[]).await.unwrap();
    server
        .patch::<Package>(
            "hello",
            json!({ "spec": { "deployment": { "literal": "bmV3" } } }),
        )
        .await;
    let new = eventually("an instance of the new code", async || {
        let found = executor.instance(&hello, &[]).await.unwrap();
        (found.address != old.address).then_some(found)
    })
    .await;
    let request = &cluster.requests(&new.address)[0];
    assert_eq!(request.fetch.archive.as_ref().unwrap().literal, "bmV3");
    executor.used(&old.address, 0, 60_000).await;
    let name = old.pod.unwrap().name;
    eventually("the old instance to be deleted", async || {
        executor.used(&old.address, 0, 60_000).await;
        server
            .api::<Pod>()
            .get_opt(&name)
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    executor.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn an_idle_instance_is_deleted_and_an_environment_takes_its_pool_with_it() {
    let (server, cluster, executor) = scene(1).await;
    let hello = function(&server, "hello", json!({ "idletimeout": 1 })).await;
    let made = executor.instance(&hello, &[]).await.unwrap();
    executor.used(&made.address, 1, 0).await;
    let name = made.pod.unwrap().name;
    assert!(server.api::<Pod>().get_opt(&name).await.unwrap().is_some());
    eventually("the idle instance to be deleted", async || {
        executor.used(&made.address, 0, 1000).await;
        server
            .api::<Pod>()
            .get_opt(&name)
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    server
        .api::<Environment>()
        .delete("python", &DeleteParams::default())
        .await
        .unwrap();
    eventually("the pool to go", async || {
        let list = kube::api::ListParams::default();
        let pools = server.api::<Deployment>().list(&list).await.unwrap();
        pools.items.is_empty().then_some(())
    })
    .await;
    let (_, failure) = executor.instance(&hello, &[]).await.unwrap_err();
    assert_eq!(failure.component, "environment");
    assert!(failure.reason.contains("does not exist"), "{failure:?}");
    _ = cluster;
    executor.end().await;
}
