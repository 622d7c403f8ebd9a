//! Calls functions: finds the route of a request, a place at an instance, and passes both ways.
//!
//! Flow: `world` watches the API server -> `router` keeps routes and functions -> `serve` takes
//! requests -> `route` finds the trigger -> `state` and `admission` find a place, `executor` is
//! asked where there is none -> `proxy` and `body` pass on.
//!
//! Promises: a warm call involves no other process; no instance has more calls than it may, no
//! function more instances; a request of which anything was sent is never sent again; what goes
//! wrong is told with the part that failed and the cause in words.

mod admission;
mod body;
mod executor;
mod metrics;
mod pool;
mod proxy;
mod route;
mod router;
mod serve;
mod settings;
mod state;
mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use executor::Executor;
use router::Router;
use serve::{Door, serve};
pub use settings::{Error, Settings};
pub use world::Event;

/// How often the executor hears what was used.
const REPORT: Duration = Duration::from_secs(5);
/// Changes of the world that wait to be taken in.
const EVENTS: usize = 1024;

/// Calls functions until the shutdown; calls that run then come to their end.
///
/// # Errors
/// When a port is taken or the executor's address cannot be used.
pub async fn run(
    client: kube::Client,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (sender, events) = mpsc::channel(EVENTS);
    let watching = tokio::spawn(world::watch(client, sender, shutdown.clone()));
    let ended = run_with(events, settings, shutdown).await;
    watching.abort();
    ended
}

/// [`run`] in a world that is told by events.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    events: mpsc::Receiver<Event>,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let executor = Executor::new(&settings.executor_url, &settings.secret)?;
    let public = listen(settings.public).await?;
    let internal = listen(settings.internal).await?;
    let metrics = listen(settings.metrics).await?;
    let router = Router::new(settings, executor);
    let world = tokio::spawn(take_in(router.clone(), events));
    let reports = tokio::spawn(report(router.clone()));
    tokio::join!(
        serve(router.clone(), public, Door::Public, shutdown.clone()),
        serve(router.clone(), internal, Door::Internal, shutdown.clone()),
        serve(router, metrics, Door::Metrics, shutdown),
    );
    world.abort();
    reports.abort();
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })
}

async fn take_in(router: Arc<Router>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        router.apply(event);
    }
}

async fn report(router: Arc<Router>) {
    let mut clock = interval(REPORT);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        router.report().await;
    }
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
