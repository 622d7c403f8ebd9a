//! How long from adding a host to a cluster until its Node is Ready.
//!
//! The host is a lab host whose tunnel is connected, the cluster answers already. Timed: from
//! the request that names the host in the cluster's `spec.hosts` to the first look, every
//! 50 ms, that finds the Node with condition Ready; so the controller's decision, the plan's
//! way through the tunnel, the artifacts, every process on the host, its certificates and the
//! network plugin are all in it. First round: nothing of the cluster's version was ever on the
//! host. Second round: the same host again after it was released; its artifacts are cached.
//! What the bar is about is the second.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use farplane_types::names::organization_namespace;
use farplane_types::{HostPlan, KubernetesCluster};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use crate::catalogue::names::HOST_JOIN;
use crate::hub::{Access, Hub, ORG};
use crate::process::eventually;
use crate::report::Row;

/// Cluster of this benchmark and of [`crate::memory`].
pub const CLUSTER: &str = "nodes";
/// Host of this benchmark and of [`crate::memory`].
pub const HOST: &str = "one";

const LIMIT: Duration = Duration::from_secs(180);

/// Runs it; leaves cluster and host, joined, to the next benchmark.
///
/// # Errors
/// When the hub, the host or the cluster fails.
pub async fn run(hub: &Hub) -> Result<Vec<Row>> {
    let client = prepare(hub).await?;
    let nodes: Api<Node> = Api::all(Access::read(&client, CLUSTER).await?.client().await?);
    let first = join(&client, &nodes).await?;
    release(&client, &nodes).await?;
    let again = join(&client, &nodes).await?;
    let told = |question, times: &Times| {
        let details = json!({ "planAfterSeconds": times.plan, "planToReadySeconds": times.ready - times.plan });
        Row::told(HOST_JOIN, question, times.ready, "s").with(details)
    };
    Ok(vec![
        told("host join to Node Ready, first time", &first),
        told("host join to Node Ready, artifacts cached", &again).at_most(8.0),
        Row::told(HOST_JOIN, "of it: until the plan exists", again.plan, "s"),
    ])
}

/// A fresh hub with a connected host and a cluster without nodes.
///
/// # Errors
/// When either does not come.
pub async fn prepare(hub: &Hub) -> Result<Client> {
    let client = hub.fresh().await?;
    let lab = [
        "lab",
        "add",
        HOST,
        "--org",
        ORG,
        "--endpoint",
        "lab",
        "--wait",
    ];
    hub.farplane(&lab).await?;
    hub.farplane(&["cluster", "create", CLUSTER, "--org", ORG, "--wait"])
        .await?;
    Ok(client)
}

struct Times {
    plan: f64,
    ready: f64,
}

fn plans(hub: &Client) -> Api<HostPlan> {
    Api::namespaced(hub.clone(), &organization_namespace(ORG))
}

/// Gives these hosts to the cluster.
///
/// # Errors
/// When the API refuses.
pub async fn choose(hub: &Client, hosts: &[&str]) -> Result<()> {
    let clusters: Api<KubernetesCluster> =
        Api::namespaced(hub.clone(), &organization_namespace(ORG));
    let patch = Patch::Merge(json!({ "spec": { "hosts": { "names": hosts } } }));
    clusters
        .patch(CLUSTER, &PatchParams::default(), &patch)
        .await
        .context("choose the cluster's hosts")?;
    Ok(())
}

/// Adds the host and waits for its Node.
async fn join(hub: &Client, nodes: &Api<Node>) -> Result<Times> {
    let began = Instant::now();
    choose(hub, &[HOST]).await?;
    let plans = plans(hub);
    let planned = eventually("plan of the host", LIMIT, async || {
        plans.get(HOST).await?;
        Ok(Instant::now())
    });
    let ready = eventually("Node to be Ready", LIMIT, async || {
        let node = nodes.get(HOST).await?;
        let conditions = node
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        let ready = conditions
            .iter()
            .any(|one| one.type_ == "Ready" && one.status == "True");
        ensure!(ready, "conditions: {conditions:?}");
        Ok(Instant::now())
    });
    let (planned, ready) = tokio::try_join!(planned, ready)?;
    let times = Times {
        plan: (planned - began).as_secs_f64(),
        ready: (ready - began).as_secs_f64(),
    };
    eprintln!("bench: {HOST_JOIN}: Ready after {:.2} s", times.ready);
    Ok(times)
}

/// Takes the host out and waits until nothing of it is left.
async fn release(hub: &Client, nodes: &Api<Node>) -> Result<()> {
    choose(hub, &[]).await?;
    let plans = plans(hub);
    eventually("host to be released", LIMIT, async || {
        ensure!(
            plans.get_opt(HOST).await?.is_none(),
            "its plan is still there"
        );
        ensure!(
            nodes.get_opt(HOST).await?.is_none(),
            "its Node is still there"
        );
        Ok(())
    })
    .await
}
