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
mod answers;
mod body;
mod cors;
mod executor;
mod forward;
mod functions;
mod internal;
mod login;
mod metrics;
mod owner;
mod part;
mod path;
mod pool;
mod proxy;
mod queue;
mod route;
mod router;
mod serve;
mod settings;
mod stall;
mod state;
mod status;
mod trace;
mod turns;
mod workers;
mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use executor::Executor;
pub use login::Credentials;
use queue::Queue;
use router::Router;
use serve::{Door, serve};
pub use settings::{Error, Settings};
use state::lock;
use status::Board;
pub use trace::Traces;
use workers::Workers;
pub use world::Event;

/// How often the executor hears what was used.
const REPORT: Duration = Duration::from_secs(5);
/// Changes that come together cause one look at the statuses.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// After a status could not be written.
const RETRY: Duration = Duration::from_secs(5);
/// No connection for this long after the end was asked for: all have heard.
const QUIET: Duration = Duration::from_secs(2);
/// Connections are taken for this long after the end was asked for, at most.
const LONGEST_LEAVE: Duration = Duration::from_secs(15);
/// Changes of the world that wait to be taken in.
const EVENTS: usize = 1024;

/// Calls functions until the shutdown; calls that run then come to their end.
///
/// # Errors
/// When a port is taken or the address of another part cannot be used.
pub fn run(
    client: kube::Client,
    settings: Settings,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), Error>> {
    // Boxed here, or all of it would be compiled once more, as a part of the program.
    Box::pin(serve_until(client, settings, shutdown))
}

async fn serve_until(
    client: kube::Client,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (sender, events) = mpsc::channel(EVENTS);
    let namespace = settings.namespace.clone();
    let watched = client.clone();
    let watching = tokio::spawn(async move {
        let forever = CancellationToken::new();
        Box::pin(world::watch(watched, &namespace, sender, forever)).await;
    });
    let ended = serve_all(events, Some(client), settings, shutdown).await;
    watching.abort();
    ended
}

/// [`run`] in a world that is told by events. No status is written.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    events: mpsc::Receiver<Event>,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    serve_all(events, None, settings, shutdown).await
}

async fn serve_all(
    events: mpsc::Receiver<Event>,
    client: Option<kube::Client>,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let executor = Executor::new(&settings.executor_url, &settings.secret)?;
    let public = listen(settings.public).await?;
    let internal = listen(settings.internal).await?;
    let forwarded = listen((Ipv4Addr::LOCALHOST, settings.forwarded).into()).await?;
    let metrics = listen(settings.metrics).await?;
    let queue = Queue::new(&settings.queue_url, &settings.secret)?;
    let router = Router::new(settings, executor, queue);
    let workers = Arc::new(Workers::start().map_err(Error::Workers)?);
    let mut tasks = JoinSet::new();
    let statuses = Arc::new(Statuses::default());
    tasks.spawn(take_in(router.clone(), events, statuses.clone()));
    if let Some(client) = client {
        tasks.spawn(write_statuses(router.clone(), statuses, client));
    }
    tasks.spawn(report(router.clone()));
    let (quiet, done) = (CancellationToken::new(), CancellationToken::new());
    tasks.spawn(leave(router.clone(), shutdown, quiet.clone()));
    let serving = |listener, door, until: &CancellationToken| {
        serve(
            router.clone(),
            listener,
            door,
            workers.clone(),
            until.clone(),
        )
    };
    tasks.spawn(serving(metrics, Door::Metrics, &done));
    tokio::join!(
        serving(public, Door::Public, &quiet),
        serving(internal, Door::Internal, &quiet),
        serving(forwarded, Door::Forwarded, &quiet),
    );
    done.cancel();
    if let Some(traces) = router.settings.traces.clone() {
        // Waits for the collector, on the runtime that it is told from.
        _ = tokio::task::spawn_blocking(move || traces.end()).await;
    }
    Ok(())
}

/// After the shutdown was asked for, connections are taken until nobody sends any more: it takes
/// a while until all nodes have heard that this router is not ready.
async fn leave(router: Arc<Router>, shutdown: CancellationToken, quiet: CancellationToken) {
    shutdown.cancelled().await;
    router.end();
    let latest = Instant::now() + LONGEST_LEAVE;
    let mut before = router.accepted();
    while Instant::now() < latest {
        sleep(QUIET).await;
        let accepted = router.accepted();
        if accepted == before {
            break;
        }
        before = accepted;
    }
    quiet.cancel();
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })
}

async fn take_in(router: Arc<Router>, mut events: mpsc::Receiver<Event>, statuses: Arc<Statuses>) {
    while let Some(event) = events.recv().await {
        if lock(&statuses.board).note(&event) {
            statuses.changed.notify_one();
        }
        router.apply(event);
    }
}

/// Triggers whose status may have to be written.
#[derive(Default)]
struct Statuses {
    board: Mutex<Board>,
    changed: Notify,
}

async fn write_statuses(router: Arc<Router>, statuses: Arc<Statuses>, client: kube::Client) {
    let mut written = true;
    loop {
        if written {
            statuses.changed.notified().await;
            sleep(DEBOUNCE).await;
        } else {
            sleep(RETRY).await;
        }
        // Before all is known, functions seem to be missing.
        written = router.is_ready();
        if written {
            let writes = lock(&statuses.board).desired(router.as_ref(), &status::now());
            written = status::write(&client, writes).await;
        }
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
mod calls_tests;
#[cfg(test)]
mod doors_tests;
#[cfg(test)]
mod forward_tests;
#[cfg(test)]
mod testing;
