//! What makes Pods of Deployments and runs all Pods: each has an address of its own in 127.0.0.0/8
//! where a scripted fetcher and runtime listen.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use farplane_functions_types::auth::{Key, Service, now};
use farplane_functions_types::names::{label, port};
use farplane_functions_types::wire::{
    FETCHER_STATE, Failure, FetcherState, FunctionKey, SpecializeRequest,
};
use http::{HeaderMap, StatusCode};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::SECRET;

/// One Pod's fetcher.
#[derive(Default)]
struct Fetcher {
    state: Mutex<FetcherState>,
    requests: Mutex<Vec<SpecializeRequest>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Shared {
    fetchers: Mutex<HashMap<IpAddr, Arc<Fetcher>>>,
    /// Functions named `held-...` load when this is told.
    release: Notify,
}

/// A cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    shared: Arc<Shared>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

/// Tests of one process do not share addresses.
static NEXT: AtomicU16 = AtomicU16::new(1);

fn next_ip() -> IpAddr {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // Processes differ, so that two test runs do not meet.
    let process = u8::try_from(std::process::id() % 200).unwrap() + 20;
    let [high, low] = number.to_be_bytes();
    IpAddr::from([127, process, high, low])
}

impl Cluster {
    pub fn start(client: &Client) -> Self {
        let cluster = Self {
            client: client.clone(),
            shared: Arc::default(),
            tasks: Arc::default(),
        };
        let runs = cluster.clone();
        lock(&cluster.tasks).spawn(async move {
            loop {
                runs.look().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        cluster
    }

    /// Makes the Pods that are missing, as a ReplicaSet would.
    async fn look(&self) {
        let deployments: Api<Deployment> = Api::all(self.client.clone());
        let Ok(deployments) = deployments.list(&ListParams::default()).await else {
            return;
        };
        for deployment in deployments {
            let namespace = deployment.namespace().unwrap_or_default();
            let labels = deployment.spec.selector.match_labels.clone();
            let labels = labels.unwrap_or_default();
            let selector: Vec<String> = labels
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
            let list = ListParams::default().labels(&selector.join(","));
            let Ok(pods) = api.list(&list).await else {
                return;
            };
            let wanted = deployment.spec.replicas.unwrap_or(1);
            let have = i32::try_from(pods.items.len()).unwrap();
            for _ in have..wanted {
                self.make(&deployment, &api).await;
            }
            let status = json!({ "status": {
                "replicas": wanted, "readyReplicas": wanted, "availableReplicas": wanted } });
            let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &namespace);
            _ = deployments
                .patch_status(
                    &deployment.name_any(),
                    &PatchParams::default(),
                    &Patch::Merge(&status),
                )
                .await;
        }
        self.start_pods().await;
    }

    /// Starts Pods of environments, whoever made them, as a kubelet would.
    async fn start_pods(&self) {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let ours = ListParams::default().labels(label::EXECUTOR_TYPE);
        let Ok(pods) = pods.list(&ours).await else {
            return;
        };
        for pod in pods {
            let has_address = pod.status.as_ref().is_some_and(|it| it.pod_ip.is_some());
            if has_address || pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let namespace = pod.namespace().unwrap_or_default();
            let ip = self.serve(&namespace).await;
            let status = json!({ "status": {
                "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] } });
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
            let (parameters, patch) = (PatchParams::default(), Patch::Merge(&status));
            _ = api.patch_status(&pod.name_any(), &parameters, &patch).await;
        }
    }

    async fn make(&self, deployment: &Deployment, api: &Api<Pod>) {
        let template = serde_json::to_value(&deployment.spec.template).unwrap();
        let mut pod: Value = template;
        pod["metadata"]["generateName"] = format!("{}-", deployment.name_any()).into();
        let pod: Pod = serde_json::from_value(pod).unwrap();
        _ = api.create(&PostParams::default(), &pod).await;
    }

    /// Lets a fetcher and a runtime listen at an address of their own.
    async fn serve(&self, namespace: &str) -> IpAddr {
        let ip = next_ip();
        let fetcher = Arc::new(Fetcher::default());
        lock(&self.shared.fetchers).insert(ip, fetcher.clone());
        let scene = Scene {
            fetcher,
            shared: self.shared.clone(),
            key: Key::derived(SECRET, Service::Fetcher, Some(namespace)),
        };
        let router = Router::new()
            .route(FETCHER_STATE, get(state))
            .route("/specialize", post(specialize))
            .route("/readiness-healthz", get(|| async {}))
            .with_state(scene);
        let bind = async |port| TcpListener::bind(SocketAddr::new(ip, port)).await.unwrap();
        let (fetcher, runtime) = (bind(port::FETCHER).await, bind(port::RUNTIME).await);
        let mut tasks = lock(&self.tasks);
        tasks.spawn(async move { axum::serve(fetcher, router).await.unwrap() });
        tasks.spawn(async move { while runtime.accept().await.is_ok() {} });
        ip
    }

    /// Lets functions named `held-...` load.
    pub fn release(&self) {
        self.shared.release.notify_waiters();
    }

    /// What was specialised at this address.
    pub fn requests(&self, address: &str) -> Vec<SpecializeRequest> {
        let ip = address.parse::<SocketAddr>().unwrap().ip();
        let fetcher = lock(&self.shared.fetchers)[&ip].clone();
        lock(&fetcher.requests).clone()
    }

    /// As if an executor had specialised the Pod and died before it wrote that down.
    pub fn pretend(&self, address: IpAddr, function: Option<FunctionKey>) {
        let fetcher = lock(&self.shared.fetchers)[&address].clone();
        *lock(&fetcher.state) = FetcherState {
            function,
            begun: true,
        };
    }

    /// Specialisations in all.
    pub fn specialised(&self) -> usize {
        let fetchers = lock(&self.shared.fetchers);
        fetchers
            .values()
            .map(|fetcher| lock(&fetcher.requests).len())
            .sum()
    }

    /// Pods that have a label.
    pub async fn pods(&self, selector: &str) -> Vec<Pod> {
        let api: Api<Pod> = Api::all(self.client.clone());
        let list = ListParams::default().labels(selector);
        api.list(&list).await.unwrap().items
    }

    /// Pods that wait for code.
    pub async fn generic(&self) -> Vec<Pod> {
        self.pods(&format!("{}=true", label::MANAGED)).await
    }
}

#[derive(Clone)]
struct Scene {
    fetcher: Arc<Fetcher>,
    shared: Arc<Shared>,
    key: Key,
}

async fn state(State(scene): State<Scene>, headers: HeaderMap) -> Response {
    let signed = scene.key.verify("GET", FETCHER_STATE, b"", &headers, now());
    if signed.is_err() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    axum::Json(lock(&scene.fetcher.state).clone()).into_response()
}

async fn specialize(State(scene): State<Scene>, headers: HeaderMap, body: Bytes) -> Response {
    let signed = scene
        .key
        .verify("POST", "/specialize", &body, &headers, now());
    if signed.is_err() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let request: SpecializeRequest = serde_json::from_slice(&body).unwrap();
    lock(&scene.fetcher.requests).push(request.clone());
    if std::mem::replace(&mut lock(&scene.fetcher.state).begun, true) {
        return StatusCode::CONFLICT.into_response();
    }
    let function = request.function.unwrap();
    if function.name.starts_with("held") {
        scene.shared.release.notified().await;
    }
    if function.name.starts_with("bad") {
        let failure = Failure {
            component: "function".into(),
            reason: "NameError: name 'x' is not defined".into(),
            ..Failure::default()
        };
        return (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(failure)).into_response();
    }
    lock(&scene.fetcher.state).function = Some(function);
    StatusCode::OK.into_response()
}
