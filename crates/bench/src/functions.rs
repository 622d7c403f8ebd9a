//! Benchmarks of functions: the platform as `farplane functions install` makes it, on a cluster
//! of one lab host, called by a client in that host's network.
//!
//! One instance of a hello function in Python is what others are compared with, in the same run
//! and by the same client. Router and instance are both called at their Pod's address, so that
//! neither has the way through a Service. Traps: a route is called only once the router counts
//! it, so that no client waits for a watch; a pool is full before a cold start is timed; Pods of
//! before are gone by then, to which end environments give them 5 s instead of 90.

mod cold;
mod memory;
mod scale;
mod warm;

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use farplane_types::names::LAB_NAMESPACE;
use http::Request;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::catalogue::names;
use crate::host_join::{self, CLUSTER, HOST};
use crate::hub::{Access, Hub, ORG};
use crate::memory::processes_of;
use crate::process::eventually;
use crate::report::Row;

const AGENT: &str = "farplane-agent";
const PLATFORM: &str = "fission";
const LIMIT: Duration = Duration::from_secs(180);
/// Port of the relay, in the router's Pod.
const RELAY_PORT: u16 = 8899;
/// What the hello functions answer.
const HELLO: &str = "Hello, world!";

/// A cluster with the platform, and the way into its network.
pub struct Cluster<'a> {
    hub: &'a Hub,
    client: Client,
    /// A process of the lab host, whose network is used.
    host: u32,
    /// `ip:port` of the router's public listener.
    router: String,
    /// Name of its Pod.
    router_pod: String,
    quick: bool,
}

/// What `farplane-bench calls` prints.
#[derive(Debug, Deserialize)]
struct Figures {
    per_second: f64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    calls: u64,
}

/// A hub with a cluster and the platform on it; `ready` when it was made before.
///
/// # Errors
/// When anything of it does not come.
pub async fn prepare(hub: &Hub, ready: bool, quick: bool) -> Result<Cluster<'_>> {
    let at_hub = match ready {
        true => hub.client().await?,
        false => make(hub).await?,
    };
    let client = Access::read(&at_hub, CLUSTER).await?.client().await?;
    let agents = processes_of(&at_hub, LAB_NAMESPACE, &[AGENT]).await?;
    let (_, host) = agents.first().context("the lab host has no agent")?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), PLATFORM);
    let routers = pods
        .list(&ListParams::default().labels("svc=router"))
        .await?;
    let router = routers.items.first().context("no router")?;
    let address = address(router).context("the router has no address")?;
    Ok(Cluster {
        hub,
        client,
        host: *host,
        router: format!("{address}:8888"),
        router_pod: router.name_any(),
        quick,
    })
}

async fn make(hub: &Hub) -> Result<Client> {
    let at_hub = host_join::prepare(hub).await?;
    host_join::choose(&at_hub, &[HOST]).await?;
    let client = Access::read(&at_hub, CLUSTER).await?.client().await?;
    let nodes: Api<Node> = Api::all(client);
    eventually("Node to be Ready", LIMIT, async || {
        let node = nodes.get(HOST).await?;
        let conditions = node.status.and_then(|status| status.conditions);
        let mut all = conditions.iter().flatten();
        let ready = all.any(|one| one.type_ == "Ready" && one.status == "True");
        ensure!(ready, "it is not");
        Ok(())
    })
    .await?;
    let install = ["functions", "install", "--cluster", CLUSTER, "--org", ORG];
    hub.farplane(&install).await?;
    let create = [
        "env",
        "create",
        "python",
        "--cluster",
        CLUSTER,
        "--org",
        ORG,
    ];
    hub.farplane(&create).await?;
    Ok(at_hub)
}

/// Runs one of them.
///
/// # Errors
/// When an answer is missing or wrong.
pub async fn run(cluster: &Cluster<'_>, name: &str) -> Result<Vec<Row>> {
    match name {
        names::FUNCTIONS_WARM => warm::run(cluster).await,
        names::FUNCTIONS_ECHO => warm::echo(cluster).await,
        names::FUNCTIONS_COLD => cold::run(cluster).await,
        names::FUNCTIONS_BURST => cold::burst(cluster).await,
        names::FUNCTIONS_NEWDEPLOY => cold::newdeploy(cluster).await,
        names::FUNCTIONS_BUILD => cold::build(cluster).await,
        names::FUNCTIONS_LIMIT => scale::limit(cluster).await,
        names::FUNCTIONS_ROUTES => scale::routes(cluster).await,
        names::FUNCTIONS_MEMORY => memory::run(cluster).await,
        other => anyhow::bail!("benchmark {other} is listed but nothing runs it"),
    }
}

fn address(pod: &Pod) -> Option<String> {
    pod.status.as_ref()?.pod_ip.clone()
}

impl Cluster<'_> {
    /// Runs `farplane` for this cluster.
    async fn farplane(&self, arguments: &[&str]) -> Result<String> {
        let place = ["--cluster", CLUSTER, "--org", ORG];
        self.hub.farplane(&[arguments, &place].concat()).await
    }

    /// Calls from the lab host's network: `--clients`, `--calls`, ... as arguments.
    async fn calls(&self, address: &str, paths: &[&str], arguments: &[&str]) -> Result<Figures> {
        let own = std::env::current_exe().context("find this program")?;
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.host.to_string(), "--net", "--"])
            .arg(own)
            .args(["calls", address])
            .args(paths)
            .args(arguments)
            .kill_on_drop(true);
        if !arguments.contains(&"--echo") {
            command.args(["--expect", HELLO]);
        }
        let output = command.output().await.context("start nsenter")?;
        ensure!(
            output.status.success(),
            "calls of {address}{}: {}",
            paths.first().unwrap_or(&""),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        serde_json::from_slice(&output.stdout).context("read the figures of the calls")
    }

    /// A relay to an address in the network of the router's Pod, until it is dropped; and where it
    /// listens.
    async fn relay(&self, target: &str) -> Result<(Child, String)> {
        let routers = processes_of(&self.client, PLATFORM, &["router"]).await?;
        let (_, router) = routers.first().context("no process of the router")?;
        let host = self.router.split(':').next().unwrap_or_default();
        let listen = format!("{host}:{RELAY_PORT}");
        let own = std::env::current_exe().context("find this program")?;
        let mut relay = Command::new("nsenter")
            .args(["--target", &router.to_string(), "--net", "--"])
            .arg(own)
            .args(["relay", &listen, target])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start nsenter")?;
        let said = relay.stdout.take().context("the relay has no output")?;
        let first = BufReader::new(said).lines().next_line().await;
        ensure!(
            first.context("read from the relay")?.is_some(),
            "the relay ended before it listened"
        );
        Ok((relay, listen))
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("fission.io", "v1", kind);
        let resource = ApiResource::from_gvk(&kind);
        Api::namespaced_with(self.client.clone(), "default", &resource)
    }

    async fn create(&self, kind: &str, name: &str, spec: Value) -> Result<()> {
        let object = json!({
            "apiVersion": "fission.io/v1", "kind": kind,
            "metadata": { "name": name, "namespace": "default", "labels": { "bench": "yes" } },
            "spec": spec,
        });
        let object: DynamicObject = serde_json::from_value(object).context("make an object")?;
        let created = self.api(kind).create(&PostParams::default(), &object).await;
        created.with_context(|| format!("create {kind} {name}"))?;
        Ok(())
    }

    /// A route to a function at `/<name>`.
    async fn route(&self, name: &str, function: &str, method: &str) -> Result<()> {
        let target = json!({ "type": "name", "name": function });
        let spec = json!({
            "relativeurl": format!("/{name}"), "methods": [method], "functionref": target,
        });
        self.create("HTTPTrigger", name, spec).await
    }

    /// Makes a function of code, with these options of `fn create`.
    async fn function(&self, name: &str, file: &str, text: &str, options: &[&str]) -> Result<()> {
        let folder = tempfile::tempdir().context("make a folder")?;
        let path = folder.path().join(file);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        let path = path.display().to_string();
        let create = ["fn", "create", name, "--code", &path];
        self.farplane(&[&create[..], options].concat()).await?;
        Ok(())
    }

    /// Copies of a function, each with a route at `/<prefix><number>`, which the router knows.
    async fn copies(&self, of: &str, prefix: &str, count: usize) -> Result<Vec<String>> {
        let spec = self.api("Function").get(of).await?.data["spec"].clone();
        self.functions(&spec, prefix, count).await
    }

    /// Functions of this spec, each with a route at `/<prefix><number>`, which the router knows.
    async fn functions(&self, spec: &Value, prefix: &str, count: usize) -> Result<Vec<String>> {
        let before = self.known_routes().await?;
        let mut names = Vec::new();
        for number in 0..count {
            let name = format!("{prefix}{number}");
            self.create("Function", &name, spec.clone()).await?;
            self.route(&name, &name, "GET").await?;
            names.push(name);
        }
        eventually("routes to be known", LIMIT, async || {
            let known = self.known_routes().await?;
            ensure!(known >= before + count, "{known} are");
            Ok(())
        })
        .await?;
        Ok(names)
    }

    /// How many routes the router has.
    async fn known_routes(&self) -> Result<usize> {
        let path = format!(
            "/api/v1/namespaces/{PLATFORM}/pods/{}:8080/proxy/metrics",
            self.router_pod
        );
        let request = Request::get(path)
            .body(Vec::new())
            .context("make a request")?;
        let text = self.client.request_text(request).await;
        let text = text.context("read the router's metrics")?;
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix("fission_router_routes "));
        count
            .and_then(|count| count.parse().ok())
            .context("the router's metrics tell no number of routes")
    }

    /// Pods with these labels, also those that are ending.
    async fn all_pods(&self, labels: &str) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "default");
        Ok(pods
            .list(&ListParams::default().labels(labels))
            .await?
            .items)
    }

    /// Pods with these labels that stay.
    async fn pods(&self, labels: &str) -> Result<Vec<Pod>> {
        let all = self.all_pods(labels).await?;
        let stays = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
        Ok(all.into_iter().filter(stays).collect())
    }

    /// Waits until an environment has so many Pods without code at least, and all are ready.
    async fn full_pool(&self, environment: &str, least: usize) -> Result<()> {
        let labels = format!("environmentName={environment},managed=true");
        eventually("a full pool", LIMIT, async || {
            let pods = self.all_pods(&labels).await?;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            ensure!(
                ready == pods.len() && ready >= least,
                "{ready} Pods of {} are ready",
                pods.len()
            );
            Ok(())
        })
        .await
    }

    /// `ip:port` of a function's only instance.
    async fn instance(&self, function: &str) -> Result<String> {
        let pods = self.pods(&format!("functionName={function}")).await?;
        ensure!(pods.len() == 1, "{function} has {} instances", pods.len());
        let address = address(&pods[0]).context("the instance has no address")?;
        Ok(format!("{address}:8888"))
    }

    /// Deletes what [`Cluster::create`] and [`Cluster::function`] made, and waits for instances.
    async fn clear(&self, functions: &[String]) -> Result<()> {
        let made = ListParams::default().labels("bench=yes");
        for kind in ["HTTPTrigger", "Function"] {
            let api = self.api(kind);
            api.delete_collection(&DeleteParams::default(), &made)
                .await?;
        }
        for name in functions {
            self.farplane(&["fn", "delete", name, "--yes"]).await?;
        }
        eventually("instances to be gone", LIMIT, async || {
            let left = self.all_pods("functionName").await?;
            let names: Vec<_> = left.iter().map(ResourceExt::name_any).collect();
            ensure!(names.is_empty(), "there are {names:?}");
            Ok(())
        })
        .await
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|one| one.type_ == "Ready" && one.status == "True")
}
