//! What calls functions besides clients: timers, watches of Kubernetes, messages, and calls
//! that nobody waits for; what moves calls between functions: canaries and versions; and what
//! leads clients to the router: Ingresses and HTTPRoutes.
//!
//! One of several processes works, whoever holds the lease `fission-triggers`; a process that
//! loses it ends, so two never work at once. All calls go to the router's internal listener,
//! signed ([`caller`]). Everything follows from the objects as they are; nothing here is told
//! anything twice.

mod caller;
mod canary;
mod context;
mod error;
mod exposure;
mod headers;
mod invocations;
mod messages;
mod objects;
#[cfg(test)]
mod real_api_tests;
mod settings;
mod subscriptions;
mod target;
#[cfg(test)]
mod testing;
mod timers;
mod versions;
mod watches;
mod workflows;

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use error::Error;
pub use exposure::{Exposure, PolicyError};
pub use settings::{InvocationSettings, MetricsSource, Settings};

use caller::Caller;
use context::Context;
use farplane_control::leader::Election;
use farplane_control::mark;
use objects::Watched;

const LEASE: &str = "fission-triggers";

/// Runs all triggers, once the lease is ours, until `shutdown`.
///
/// # Errors
/// When the lease is lost or a part ends. The process should end then: its next start begins
/// from what the API says.
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
    let caller = Caller::new(&settings.router_url, &settings.secret)?;
    // Every process listens; the one that leads takes calls.
    let mut listening = JoinSet::new();
    let listener = match &settings.invocations {
        None => None,
        Some(wanted) => {
            let (listener, socket) = invocations::bind(wanted, &settings.secret).await?;
            listening.spawn(listener.clone().serve(socket));
            Some(listener)
        }
    };
    let leases = Api::<Lease>::namespaced(client.clone(), &settings.namespace);
    let election = Election::new(leases, LEASE, &settings.pod_name);
    let work = work(client, settings, caller, listener, shutdown.clone());
    let outcome = election.lead(&shutdown, Box::pin(work)).await;
    // The port is free when this returns: the next one may begin at once.
    listening.shutdown().await;
    outcome
}

/// Runs all parts. Ends in order after `stop`, with what they were about.
async fn work(
    client: Client,
    settings: Settings,
    caller: Caller,
    listener: Option<invocations::Listener>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut watches = JoinSet::new();
    let context = Context {
        functions: Watched::start(&client, &mut watches),
        settings: Arc::new(settings),
        client: client.clone(),
        caller,
        stop: stop.clone(),
    };
    tokio::select! {
        () = context.functions.ready() => {}
        () = stop.cancelled() => return Ok(()),
    }
    let mut parts = JoinSet::new();
    let timers = Watched::start(&client, &mut watches);
    parts.spawn(named("timers", timers::run(context.clone(), timers)));
    let triggers = Watched::start(&client, &mut watches);
    parts.spawn(named("watches", watches::run(context.clone(), triggers)));
    let triggers = Watched::start(&client, &mut watches);
    parts.spawn(named("messages", messages::run(context.clone(), triggers)));
    let objects = versions::Watches {
        versions: Watched::start(&client, &mut watches),
        aliases: Watched::start(&client, &mut watches),
        environments: Watched::start(&client, &mut watches),
        packages: Watched::start_with(
            &client,
            watcher::Config::default(),
            &mut watches,
            versions::strip,
        ),
    };
    let aliases = objects.aliases.clone();
    parts.spawn(named("versions", versions::run(context.clone(), objects)));
    let (all, runs) = (
        Watched::start(&client, &mut watches),
        Watched::start(&client, &mut watches),
    );
    parts.spawn(named(
        "workflows",
        workflows::run(context.clone(), all, runs),
    ));
    let canaries = Watched::start(&client, &mut watches);
    parts.spawn(named("canaries", canary::run(context.clone(), canaries)));
    let routes = Watched::start(&client, &mut watches);
    let ingresses = exposure::watch(&client, &context.settings.namespace, &mut watches);
    let exposed = exposure::run(context.clone(), routes, ingresses);
    parts.spawn(named("exposure", exposed));
    if let (Some(listener), Some(wanted)) = (listener, &context.settings.invocations)
        && let Some(store) = stop
            .run_until_cancelled(invocations::open(&wanted.directory))
            .await
    {
        let store = store?;
        let queue = invocations::run(context.clone(), store, listener, aliases);
        parts.spawn(named("invocations", queue));
        let pods = Api::<Pod>::namespaced(client.clone(), &context.settings.namespace);
        let own = context.settings.pod_name.clone();
        let stop = stop.clone();
        let marked = async move {
            let mark = mark::keep(pods, "svc=controllers", &own);
            stop.run_until_cancelled(mark).await;
        };
        parts.spawn(named("mark of the leader", marked));
    }
    loop {
        tokio::select! {
            Some(_) = watches.join_next() => return Err(Error::Ended { part: "watch of objects" }),
            part = parts.join_next() => match part {
                None => return Ok(()),
                Some(Ok(_)) if stop.is_cancelled() => {}
                Some(Ok(part)) => return Err(Error::Ended { part }),
                Some(Err(_)) => return Err(Error::Ended { part: "part that panicked" }),
            },
        }
    }
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}
