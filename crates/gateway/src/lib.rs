//! The hub's one front door: routes by what the ClientHello says.
//!
//! Flow of a connection: [`accept`] -> [`hello`] -> [`route`] -> either [`passthrough`]
//! (a cluster's API server, unopened) or TLS ([`tls`]) and then a tunnel
//! ([`tunnel_server`]), another gateway ([`peer`]) or HTTP ([`http`]: [`join`], [`egress`]).
//!
//! What may reach what is decided by pure code on a local copy of the API's objects
//! ([`world`]), so that a connection costs no request to the API. Writes to the API are
//! level-triggered ([`directory`], [`report`]).
//!
//! Promises: nothing but artifact server, API servers of planes and other gateways is ever
//! dialled from here; a host or plane reaches only what its certificate and the objects of
//! its organization allow; no connection waits for another one's reader.

pub mod accept;
pub mod dial;
pub mod directory;
pub mod egress;
pub mod gateway;
pub mod hello;
pub mod http;
pub mod issue;
pub mod join;
pub mod limits;
pub mod metrics;
pub mod operations;
pub mod passthrough;
pub mod peer;
pub mod plan;
pub mod renew;
pub mod report;
pub mod rewind;
pub mod route;
pub mod sessions;
pub mod status;
pub mod tls;
pub mod tunnel_server;
pub mod world;

#[cfg(test)]
mod front_tests;
#[cfg(test)]
mod moving_tests;
#[cfg(test)]
mod real_api_tests;
#[cfg(test)]
mod testing;

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use farplane_tunnel::Moves;
use farplane_types::names::{COMPONENT_LABEL, SYSTEM_NAMESPACE};
use farplane_types::{Host, HostPlan, KubernetesCluster};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::directory::Directory;
use crate::gateway::Gateway;
use crate::limits::{FailedJoins, Limits};
use crate::metrics::Metrics;
use crate::peer::Peers;
use crate::world::shared::Shared;
use crate::world::{ApiServerPod, SystemPod, Tracked};

/// How a gateway is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Domain of the hub, `farplane.internal`.
    pub hub_domain: String,
    /// Address of the front door.
    pub listen: SocketAddr,
    /// Address of metrics and health, inside the hub only.
    pub metrics_listen: SocketAddr,
    /// Name of the gateway's Pod.
    pub pod_name: String,
    /// Address at which other gateways reach this one, at the port of `listen`.
    pub pod_ip: IpAddr,
    /// Artifact server, `http://ip:port`.
    pub artifacts_url: String,
    /// Its address for images, `http://ip:port`.
    pub registry_url: String,
    /// Most streams of one organization at a time.
    pub streams_per_organization: usize,
    /// Most bytes of one organization on their way through this gateway.
    pub bytes_in_flight_per_organization: usize,
}

impl Settings {
    /// Streams per organization when nothing else is asked for.
    pub const DEFAULT_STREAMS: usize = 4096;
    /// Bytes in flight per organization when nothing else is asked for.
    pub const DEFAULT_BYTES_IN_FLIGHT: usize = 2 * 1024 * 1024 * 1024;
}

/// Why a gateway ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an address of an artifact server.
    #[error("artifacts URL {url} is not http://ip:port")]
    ArtifactsUrl {
        /// The text.
        url: String,
    },
    /// A port could not be taken.
    #[error("failed to listen on {address}")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A task that runs for ever ended.
    #[error("a part of the gateway ended unexpectedly")]
    PartEnded,
}

fn artifacts_address(url: &str) -> Result<String, Error> {
    let address = url
        .strip_prefix("http://")
        .map(|rest| rest.trim_end_matches('/'))
        .filter(|rest| !rest.is_empty() && !rest.contains(['/', '@', '?', '#']));
    let address = address.ok_or_else(|| Error::ArtifactsUrl {
        url: url.to_owned(),
    })?;
    let has_port = address
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(if has_port {
        address.to_owned()
    } else {
        format!("{address}:80")
    })
}

/// Runs a gateway until `shutdown`, then drains it.
///
/// Waits for the hub's keys and for the first listing of every watched kind before it takes
/// connections; `/readyz` says so. Bulk copies run at the runtime `bulk`.
///
/// # Errors
/// When an address cannot be taken or a part fails for good; failures of the API are
/// retried for ever instead.
pub async fn run(
    client: Client,
    settings: Settings,
    bulk: Handle,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let listen = |address| move |source| Error::Listen { address, source };
    let inner = dial::listen(settings.metrics_listen).map_err(listen(settings.metrics_listen))?;
    let (keys_sender, keys) = watch::channel(None);
    let (ready_sender, ready) = watch::channel(false);
    let gateway = Arc::new(Gateway {
        artifacts: artifacts_address(&settings.artifacts_url)?,
        registry: artifacts_address(&settings.registry_url)?,
        client: client.clone(),
        world: Shared::new(&settings.hub_domain),
        keys: keys.clone(),
        sessions: Arc::default(),
        moves: Moves::default(),
        bulk,
        peers: Peers::default(),
        directory: Directory::default(),
        limits: Limits::new(
            settings.streams_per_organization,
            settings.bytes_in_flight_per_organization,
        ),
        failed_joins: FailedJoins::default(),
        metrics: Metrics::default(),
        shutdown: shutdown.clone(),
        settings,
    });
    let mut registry = Registry::default();
    gateway.metrics.register(&mut registry);

    let mut parts = JoinSet::new();
    // The inner port outlives the drain, so that health is answered to the end.
    let ended = CancellationToken::new();
    let _end = ended.clone().drop_guard();
    parts.spawn(async move {
        let served = operations::run(inner, Arc::new(registry), ready, ended).await;
        if let Err(error) = served {
            tracing::error!(%error, "inner port failed");
        }
    });
    parts.spawn(tls::follow(client.clone(), keys_sender));
    let listed = follow_world(&gateway, &mut parts);

    let prepared = async {
        let mut keys = keys;
        let keys = keys.wait_for(Option::is_some).await.is_ok();
        keys && listed.await
    };
    let prepared = tokio::select! {
        prepared = prepared => prepared,
        () = shutdown.cancelled() => return Ok(()),
        _ = parts.join_next() => false,
    };
    if !prepared {
        return Err(Error::PartEnded);
    }
    let address = gateway.settings.listen;
    let listener = dial::listen(address).map_err(listen(address))?;
    parts.spawn(Directory::run(Arc::clone(&gateway)));
    ready_sender.send_replace(true);
    tracing::info!(%address, pod = gateway.settings.pod_name, "gateway accepts connections");
    let serving = tokio::spawn(accept::run(Arc::clone(&gateway), listener));
    let failed = tokio::select! {
        () = shutdown.cancelled() => false,
        _ = parts.join_next() => true,
    };
    ready_sender.send_replace(false);
    shutdown.cancel();
    // Ends by itself at shutdown; a panic in it has been reported by the runtime.
    _ = serving.await;
    tunnel_server::drain_all(&gateway).await;
    Directory::flush(&gateway).await;
    tracing::info!("gateway stopped");
    if failed {
        Err(Error::PartEnded)
    } else {
        Ok(())
    }
}

/// Starts a watch per kind; the future is true once each has listed everything.
fn follow_world(
    gateway: &Arc<Gateway>,
    parts: &mut JoinSet<()>,
) -> impl Future<Output = bool> + use<> {
    let client = || gateway.client.clone();
    let all = watcher::Config::default;
    let api_servers = all().labels(&format!("{COMPONENT_LABEL}=apiserver"));
    let system = Api::<Pod>::namespaced(client(), SYSTEM_NAMESPACE);
    let listed = [
        follow(gateway, parts, Api::all(client()), all(), |it: Host| it),
        follow(gateway, parts, Api::all(client()), all(), |it: HostPlan| it),
        follow(
            gateway,
            parts,
            Api::all(client()),
            all(),
            |it: KubernetesCluster| it,
        ),
        follow(
            gateway,
            parts,
            Api::all(client()),
            api_servers,
            ApiServerPod,
        ),
        follow(gateway, parts, system, all(), SystemPod),
    ];
    async move {
        let listed = futures::future::join_all(listed).await;
        listed.iter().all(Result::is_ok)
    }
}

fn follow<K, T>(
    gateway: &Arc<Gateway>,
    parts: &mut JoinSet<()>,
    api: Api<K>,
    config: watcher::Config,
    wrap: fn(K) -> T,
) -> oneshot::Receiver<()>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Tracked + Send + 'static,
{
    let (sender, listed) = oneshot::channel();
    let gateway = Arc::clone(gateway);
    parts.spawn(async move {
        // Nobody waits any more once the gateway is stopping.
        let ready = || _ = sender.send(());
        gateway.world.follow(api, config, wrap, ready).await;
    });
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifact_urls_are_addresses() {
        for (url, address) in [
            ("http://10.0.0.1:8080", "10.0.0.1:8080"),
            ("http://10.0.0.1:8080/", "10.0.0.1:8080"),
            ("http://artifacts", "artifacts:80"),
        ] {
            assert_eq!(artifacts_address(url).unwrap(), address);
        }
        for bad in ["", "https://a:1", "http://", "http://a:1/path", "a:1"] {
            assert!(artifacts_address(bad).is_err(), "{bad}");
        }
    }
}
