//! What every part of the gateway shares, and the way from a target to an open stream.

use std::sync::{Arc, LazyLock};

use farplane_tunnel::{Class, Config, Hello, Moves, MovingStream, OpenError, OpenHeader};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::Settings;
use crate::directory::Directory;
use crate::limits::{FailedJoins, Limits};
use crate::metrics::Metrics;
use crate::peer::Peers;
use crate::route::Via;
use crate::sessions::Sessions;
use crate::tls::{Keys, Material};
use crate::world::lookup::HostRoute;
use crate::world::shared::Shared;

/// Hosts tried for one stream.
const MAX_TRIES: usize = 3;
/// Longest wait for a host's reply to an open, in milliseconds.
const OPEN_DEADLINE_MS: u32 = 10_000;

static START: LazyLock<i64> = LazyLock::new(|| Timestamp::now().as_millisecond());

/// State that outlives every connection.
pub struct Gateway {
    /// Settings as given.
    pub settings: Settings,
    /// `host:port` of the artifact server.
    pub artifacts: String,
    /// `host:port` at which it answers for images, and for nothing else.
    pub registry: String,
    /// Client of the hub's API.
    pub client: Client,
    /// What is known of the hub.
    pub world: Shared,
    /// Certificates.
    pub keys: Keys,
    /// Tunnels held here.
    pub sessions: Arc<Sessions>,
    /// Streams of agents that may move to another of their sessions.
    pub moves: Moves,
    /// Runtime of bulk copies.
    pub bulk: Handle,
    /// Sessions to other gateways.
    pub peers: Peers,
    /// What the API says of the tunnels held here.
    pub directory: Directory,
    /// Streams per organization.
    pub limits: Limits,
    /// Failed joins per address.
    pub failed_joins: FailedJoins,
    /// Counters.
    pub metrics: Metrics,
    /// Cancelled once the gateway stops accepting.
    pub shutdown: CancellationToken,
}

/// Why no stream to a host was opened.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// No gateway holds a tunnel of the host.
    #[error("host {host} is not connected")]
    NotConnected {
        /// Name of the host.
        host: String,
    },
    /// The host's agent did not open it.
    #[error("host {host} did not open {service}: {reason}")]
    Open {
        /// Name of the host.
        host: String,
        /// Service asked for.
        service: &'static str,
        /// What it said.
        reason: String,
        /// Whether trying again may help.
        retryable: bool,
    },
}

impl Gateway {
    /// TLS as it is now; `None` before the first certificates.
    pub fn material(&self) -> Option<Arc<Material>> {
        self.keys.borrow().clone()
    }

    /// What this gateway says of itself at the start of a session.
    pub fn hello(&self, class: Class) -> Hello {
        let epoch = u64::try_from(*START).unwrap_or_default();
        Hello::new(env!("CARGO_PKG_VERSION"), epoch, class)
    }

    /// Bounds of a session with one peer.
    pub fn session_config(&self) -> Config {
        Config {
            metrics: self.metrics.tunnel.clone(),
            bulk: Some(self.bulk.clone()),
            ..Config::default()
        }
    }

    /// Opens a stream on a tunnel that is held here; it moves to the host's bulk tunnel
    /// when it is bulky.
    ///
    /// # Errors
    /// When none is held or the agent does not open it.
    pub async fn open_here(
        &self,
        route: &HostRoute,
        plane: &str,
        class: Class,
    ) -> Result<MovingStream, RelayError> {
        let Some(session) = self.sessions.pick(&route.uid, class) else {
            return Err(RelayError::NotConnected {
                host: route.host.clone(),
            });
        };
        let mut header = header(route, plane, class, route.service.to_owned());
        let key = MovingStream::key();
        header.moves = Some(key.clone());
        let opened = session.open(header).await;
        let stream = opened.map_err(|error| failed(route, &error))?;
        let (sessions, uid) = (Arc::clone(&self.sessions), route.uid.clone());
        Ok(MovingStream::opened(stream, key, move || {
            sessions.of(&uid, Class::Bulk)
        }))
    }

    /// Opens a stream to the first of these that answers: over a tunnel held here, else by
    /// one hop over the gateway that holds it.
    ///
    /// # Errors
    /// The last failure, when none of them answers.
    pub async fn open(
        &self,
        mut routes: Vec<HostRoute>,
        plane: &str,
        class: Class,
    ) -> Result<(HostRoute, MovingStream), RelayError> {
        routes.sort_by_key(|route| !self.sessions.holds(&route.uid));
        let mut last = None;
        for route in routes.into_iter().take(MAX_TRIES) {
            match self.open_one(&route, plane, class).await {
                Ok(stream) => return Ok((route, stream)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| RelayError::NotConnected {
            host: "none".to_owned(),
        }))
    }

    async fn open_one(
        &self,
        route: &HostRoute,
        plane: &str,
        class: Class,
    ) -> Result<MovingStream, RelayError> {
        let here = self.open_here(route, plane, class).await;
        let retryable = match &here {
            Ok(_) => return here,
            Err(RelayError::NotConnected { .. }) => true,
            Err(RelayError::Open { retryable, .. }) => *retryable,
        };
        if !retryable {
            return here;
        }
        let own = &self.settings.pod_name;
        let others = self.world.read(|world| world.gateways_of(&route.uid, own));
        let mut last = here;
        for (gateway, address) in others.into_iter().take(MAX_TRIES) {
            let via = Via {
                organization: route.organization.clone(),
                uid: route.uid.clone(),
                service: route.service.to_owned(),
            };
            let header = header(route, plane, class, via.to_string());
            match self.peers.open(self, &gateway, address, header).await {
                // The gateway that holds the tunnel moves it there.
                Ok(stream) => return Ok(MovingStream::staying(stream)),
                Err(reason) => {
                    tracing::info!(host = route.host, peer = gateway, %reason, "hop failed");
                    last = Err(RelayError::Open {
                        host: route.host.clone(),
                        service: route.service,
                        reason: reason.to_string(),
                        retryable: true,
                    });
                }
            }
        }
        last
    }
}

fn header(route: &HostRoute, plane: &str, class: Class, service: String) -> OpenHeader {
    OpenHeader {
        class,
        service,
        plane: Some(plane.to_owned()),
        target: route.target.clone(),
        deadline_ms: OPEN_DEADLINE_MS,
        trace: None,
        moves: None,
    }
}

fn failed(route: &HostRoute, error: &OpenError) -> RelayError {
    RelayError::Open {
        host: route.host.clone(),
        service: route.service,
        reason: error.to_string(),
        retryable: error.is_retryable(),
    }
}
