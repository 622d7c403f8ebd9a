//! How long from `farplane cluster create` to the first `ok` of `/readyz` through the gateway.
//!
//! Timed: from the start of the command, as a person would have it, to the first good answer
//! to a client that asks the gateway by server name every 20 ms and verifies the cluster's
//! CA. Not timed: deletion of the one before, and waiting until nothing of it is left.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use farplane_types::KubernetesCluster;
use farplane_types::names::organization_namespace;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

use crate::catalogue::names::CLUSTER_CREATE;
use crate::hub::{Access, Hub, ORG, delete_cluster};
use crate::process::eventually;
use crate::report::Row;
use crate::stats::Samples;
use crate::tls;

/// Time between two looks.
const BETWEEN: Duration = Duration::from_millis(20);
/// Longest creation.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs it.
///
/// # Errors
/// When the hub, or one creation, fails.
pub async fn run(hub: &Hub, rounds: u32) -> Result<Vec<Row>> {
    let client = hub.fresh().await?;
    let mut times = Samples::default();
    let mut phases: BTreeMap<String, Samples> = BTreeMap::new();
    let mut in_order = Vec::new();
    for round in 0..rounds {
        let name = format!("c{round}");
        let began = Instant::now();
        let create = ["cluster", "create", &name, "--org", ORG];
        let command = hub.farplane(&create);
        let answered = timeout(LIMIT, first_ok(&client, &name));
        let (made, answered) = tokio::join!(command, answered);
        made?;
        let Ok(answered) = answered else {
            let why = why_not(&client, &name).await?;
            bail!("{name}: no ok of /readyz within {LIMIT:?}: {why}");
        };
        let took = answered?;
        let seconds = took.duration_since(began).as_secs_f64();
        eprintln!("bench: {CLUSTER_CREATE}: {name} answered after {seconds:.2} s");
        times.add(seconds);
        in_order.push(seconds);
        for (phase, milliseconds) in phases_of(&client, &name).await? {
            phases.entry(phase).or_default().add(milliseconds);
        }
        delete_cluster(&client, &name).await?;
    }
    let details = json!({ "runs": in_order, "phases": told(&phases) });
    let row = |percent, bar| {
        let value = times.percentile(percent).context("no run")?;
        let question = format!("cluster create to /readyz, p{percent} of {rounds}");
        anyhow::Ok(
            Row::told(CLUSTER_CREATE, question, value, "s")
                .at_most(bar)
                .with(details.clone()),
        )
    };
    let mut rows = vec![row(50, 4.0)?, row(90, 6.0)?];
    for (phase, samples) in &phases {
        let value = samples.percentile(50).context("no run")? / 1000.0;
        rows.push(Row::told(
            CLUSTER_CREATE,
            format!("phase {phase}, p50"),
            value,
            "s",
        ));
    }
    Ok(rows)
}

fn told(phases: &BTreeMap<String, Samples>) -> Value {
    let one =
        |samples: &Samples| json!({ "p50": samples.percentile(50), "p90": samples.percentile(90) });
    phases
        .iter()
        .map(|(name, samples)| (name.clone(), one(samples)))
        .collect()
}

/// The moment of the first good answer.
async fn first_ok(hub: &Client, cluster: &str) -> Result<Instant> {
    let access = loop {
        match Access::read(hub, cluster).await {
            Ok(access) => break access,
            Err(_) => sleep(BETWEEN).await,
        }
    };
    let config = tls::settings(&access.ca, None, &[b"http/1.1"])?;
    loop {
        let asked = timeout(Duration::from_secs(2), is_ready(&access, &config)).await;
        if matches!(asked, Ok(Ok(true))) {
            return Ok(Instant::now());
        }
        sleep(BETWEEN).await;
    }
}

async fn is_ready(access: &Access, config: &std::sync::Arc<rustls::ClientConfig>) -> Result<bool> {
    let mut stream = tls::connect(&access.address, &access.server_name, config).await?;
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"ok"))
}

/// What the cluster says of itself.
async fn why_not(hub: &Client, cluster: &str) -> Result<String> {
    let clusters: Api<KubernetesCluster> =
        Api::namespaced(hub.clone(), &organization_namespace(ORG));
    let status = clusters.get_status(cluster).await?.status;
    let conditions = status.unwrap_or_default().conditions;
    let told = conditions.iter().filter(|one| one.status != "True");
    let told: Vec<_> = told
        .map(|one| format!("{}: {}", one.type_, one.message))
        .collect();
    Ok(told.join("; "))
}

/// Milliseconds of each finished phase, once the API server's is.
async fn phases_of(hub: &Client, cluster: &str) -> Result<Vec<(String, f64)>> {
    let clusters: Api<KubernetesCluster> =
        Api::namespaced(hub.clone(), &organization_namespace(ORG));
    eventually(
        "phase ApiServer to be told",
        Duration::from_secs(30),
        async || {
            let status = clusters
                .get_status(cluster)
                .await?
                .status
                .unwrap_or_default();
            let done: Vec<_> = status
                .phases
                .iter()
                .filter_map(|phase| Some((phase.name.clone(), phase.milliseconds? as f64)))
                .collect();
            ensure!(
                done.iter().any(|(name, _)| name == "ApiServer"),
                "phases done: {done:?}"
            );
            Ok(done)
        },
    )
    .await
}
