//! Makes and ends instances of functions.
//!
//! ```text
//!  router ──INSTANCES──▶ serve ─▶ world (what the function is now) ─▶ backend
//!                                                                       │
//!        Pods, watched ─▶ state (pure: who gets which Pod) ◀────────────┘
//!                           │ effects
//!                           ▼
//!                        engine: probe, specialise, label, delete      pools: Deployments
//! ```
//! One of several processes works, whoever holds the lease `fission-executor`; only it is
//! Ready. Between a request and its answer nothing is read from or written to the API server.
//! What is known is known from Pods and their fetchers: a new leader finds everything again.

mod adopt;
mod backend;
mod deploy;
mod engine;
mod error;
mod extras;
mod failed;
mod fetcher;
mod metrics;
mod objects;
mod pod;
mod pods;
mod pools;
mod provision;
#[cfg(test)]
mod real_api_tests;
mod revision;
mod serve;
mod services;
mod settings;
mod state;
mod status;
mod tenant_status;
mod tenants;
#[cfg(test)]
mod testing;
mod upkeep;
mod world;

use std::sync::Arc;
use std::time::Duration;

use farplane_control::leader::Election;
use farplane_control::mark;
use farplane_functions_types::ExecutorType;
use farplane_functions_types::names::label;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use error::Error;
pub use settings::Settings;

use backend::{Backends, Pooled};
use deploy::{Deployments, Seen};
use engine::Engine;
use metrics::Metrics;
use objects::Watched;
use pools::Pools;
use serve::Front;
use world::World;

const LEASE: &str = "fission-executor";
/// How long requests that run may take when the process is told to end.
const DRAIN: Duration = Duration::from_secs(20);
/// Pause between two looks of a process that waits: what a hand-over takes at most.
const LOOK: Duration = Duration::from_millis(500);
/// An orderly end does not wait longer for an API server that is away.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the executor until `shutdown`: answers 503 until the lease is ours and everything that
/// runs is known.
///
/// # Errors
/// When it cannot listen, the lease is lost or a part ends. The process should end then: its
/// next start begins from what there is.
pub fn run(
    client: Client,
    settings: Settings,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), Error>> {
    // Boxed here, or all of it would be compiled once more, as a part of the program.
    Box::pin(serve_until(client, settings, shutdown))
}

async fn serve_until(
    client: Client,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let metrics = Metrics::new();
    let front = Front::new(&settings.secret, metrics.clone(), shutdown.clone());
    let requests = serve::listen(settings.listen).await?;
    let probes = serve::listen(settings.metrics).await?;
    let mut servers = JoinSet::new();
    let end = CancellationToken::new();
    servers.spawn(serve::metrics(probes, front.clone(), end.clone()));
    let serving = tokio::spawn(serve::requests(requests, front.clone(), shutdown.clone()));

    let leases = Api::<Lease>::namespaced(client.clone(), &settings.namespace);
    let election = Election::new(leases, LEASE, &settings.pod_name).looking_every(LOOK);
    let work = work(
        client,
        settings,
        metrics.clone(),
        front,
        shutdown.clone(),
        async {
            // Requests that run end before another executor may take their Pods.
            if tokio::time::timeout(DRAIN, serving).await.is_err() {
                tracing::warn!("requests that still ran were cut");
            }
        },
    );
    let outcome = election.lead(&shutdown, Box::pin(work)).await;
    metrics.leads(false);
    end.cancel();
    outcome
}

/// Leads. Ends after `shutdown` and `drained`.
async fn work(
    client: Client,
    settings: Settings,
    metrics: Metrics,
    front: Front,
    shutdown: CancellationToken,
    drained: impl Future<Output = ()>,
) -> Result<(), Error> {
    let mut watches = JoinSet::new();
    let world = World::start(&client, &settings.storage_url, &mut watches);
    let ours = watcher::Config::default().labels(label::EXECUTOR_TYPE);
    let deployments =
        Watched::<Deployment>::start_with(&client, ours.clone(), &mut watches, |_| {});
    let seen = Seen {
        deployments: deployments.clone(),
        services: Watched::start_with(&client, ours.clone(), &mut watches, |_| {}),
        scalers: Watched::start_with(&client, ours, &mut watches, |_| {}),
    };
    world.ready().await;
    deployments.ready().await;
    seen.services.ready().await;
    seen.scalers.ready().await;
    let (reports, reported) = mpsc::unbounded_channel();
    let engine = Arc::new(Engine::new(client, settings, world, metrics, reports));
    let (listed, listing) = watch::channel(false);
    watches.spawn(pods::run(engine.clone(), listed));
    let own = Arc::new(Deployments::new(engine.clone()));
    let mut listings = vec![listing];
    for executor in [ExecutorType::Newdeploy, ExecutorType::Container] {
        let (listed, listing) = watch::channel(false);
        listings.push(listing);
        watches.spawn(own.clone().watch(executor, listed));
    }

    let mut parts = JoinSet::new();
    let ready = adopt::adopt(engine.clone(), listings);
    tokio::select! {
        () = ready => {}
        () = shutdown.cancelled() => return Ok(()),
        Some(_) = watches.join_next() => return Err(Error::Ended { part: "watch of objects" }),
    }
    let pools = Pools::new(engine.clone(), deployments);
    parts.spawn(named("pools", pools.run()));
    parts.spawn(named("Deployments", own.clone().run(seen)));
    parts.spawn(named("upkeep", upkeep::run(engine.clone())));
    parts.spawn(named("provisioning", provision::run(engine.clone())));
    parts.spawn(named("statuses", status::run(engine.clone(), reported)));
    let tenants = Watched::start(&engine.client, &mut watches);
    parts.spawn(named(
        "tenants",
        tenant_status::run(engine.clone(), tenants),
    ));
    parts.spawn(named("mark of the leader", keep_mark(engine.clone())));
    front.lead(Arc::new(Backends {
        pooled: Pooled(engine.clone()),
        deployments: own.clone(),
        engine: engine.clone(),
    }));
    let ended = tokio::select! {
        () = async { shutdown.cancelled().await; drained.await } => Ok(()),
        Some(_) = watches.join_next() => Err(Error::Ended { part: "watch of objects" }),
        Some(part) = parts.join_next() => Err(Error::Ended {
            part: part.unwrap_or("part that panicked"),
        }),
    };
    if ended.is_ok() {
        // Labels that are being written tell the next executor what runs.
        engine.tasks.close();
        _ = tokio::time::timeout(RELEASE_TIMEOUT, engine.tasks.wait()).await;
    }
    ended
}

/// Leads requests to this process, now that it answers them.
async fn keep_mark(engine: Arc<Engine>) {
    let settings = &engine.settings;
    let pods = Api::<Pod>::namespaced(engine.client.clone(), &settings.namespace);
    let ours = format!("{}=executor", label::SERVICE);
    mark::keep(pods, &ours, &settings.pod_name).await;
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}
