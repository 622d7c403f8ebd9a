//! The one hop between gateways.
//!
//! Towards others: one session per gateway and class, dialled when first needed and again
//! after it ended. From others: streams `via:<organization>/<host uid>/<service>`, checked
//! against this gateway's own view of the world and opened on tunnels held here only, so
//! that a stream never hops twice.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use farplane_tunnel::{
    Class, Incoming, IncomingStream, MovingStream, OpenError, OpenHeader, RefusalCode, Session,
    SessionError, TunnelStream, splice_moving,
};
use farplane_types::names;
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use tokio_rustls::TlsConnector;

use crate::dial;
use crate::gateway::{Gateway, RelayError};
use crate::route::{InvalidVia, Via};
use crate::world::lookup::Denied;

/// Why a hop failed.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No certificate of our own yet.
    #[error("certificates are not loaded yet")]
    NoCertificates,
    /// The hub's domain makes no server name.
    #[error("hub domain {domain} makes no server name")]
    ServerName {
        /// The domain.
        domain: String,
        /// What the parser says.
        source: InvalidDnsNameError,
    },
    /// No connection.
    #[error("failed to reach gateway {gateway} at {address}")]
    Dial {
        /// Name of its Pod.
        gateway: String,
        /// Its address.
        address: SocketAddr,
        /// What the socket or TLS says.
        source: io::Error,
    },
    /// No session.
    #[error("failed to open a session to gateway {gateway}")]
    Session {
        /// Name of its Pod.
        gateway: String,
        /// What the tunnel says.
        source: SessionError,
    },
    /// No stream.
    #[error("gateway {gateway} did not open the stream: {source}")]
    Open {
        /// Name of its Pod.
        gateway: String,
        /// What the tunnel says.
        source: OpenError,
    },
}

/// The place of one session. Its lock is held while dialling: those who wait for it want
/// the same session.
type Slot = Arc<tokio::sync::Mutex<Option<Session>>>;

/// Sessions to other gateways, by Pod name and class.
#[derive(Default)]
pub struct Peers {
    slots: Mutex<HashMap<(String, Class), Slot>>,
}

impl Peers {
    /// Opens a stream at another gateway.
    ///
    /// # Errors
    /// When it cannot be reached or refuses.
    pub async fn open(
        &self,
        own: &Gateway,
        gateway: &str,
        address: SocketAddr,
        header: OpenHeader,
    ) -> Result<TunnelStream, PeerError> {
        let session = self.session(own, gateway, address, header.class).await?;
        session
            .open(header)
            .await
            .map_err(|source| PeerError::Open {
                gateway: gateway.to_owned(),
                source,
            })
    }

    async fn session(
        &self,
        own: &Gateway,
        gateway: &str,
        address: SocketAddr,
        class: Class,
    ) -> Result<Session, PeerError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            // Gateways that went away must not be kept for ever.
            slots.retain(|_, slot| match slot.try_lock() {
                Ok(session) => session.as_ref().is_some_and(|it| !it.is_closed()),
                Err(_) => true,
            });
            let key = (gateway.to_owned(), class);
            Arc::clone(slots.entry(key).or_default())
        };
        let mut place = slot.lock().await;
        if let Some(session) = place.as_ref()
            && !session.is_closed()
            && !*session.draining().borrow()
        {
            return Ok(session.clone());
        }
        let session = dial_peer(own, gateway, address, class).await?;
        *place = Some(session.clone());
        Ok(session)
    }
}

async fn dial_peer(
    own: &Gateway,
    gateway: &str,
    address: SocketAddr,
    class: Class,
) -> Result<Session, PeerError> {
    let material = own.material().ok_or(PeerError::NoCertificates)?;
    let domain = &own.settings.hub_domain;
    let name = ServerName::try_from(names::gateway_server_name(domain)).map_err(|source| {
        PeerError::ServerName {
            domain: domain.clone(),
            source,
        }
    })?;
    let failed = |source| PeerError::Dial {
        gateway: gateway.to_owned(),
        address,
        source,
    };
    let tcp = dial::tcp(address).await.map_err(failed)?;
    let connector = TlsConnector::from(Arc::clone(&material.client));
    let handshake = tokio::time::timeout(dial::DIAL_DEADLINE, connector.connect(name, tcp));
    let tls = handshake
        .await
        .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    let connected = Session::connect(tls, own.hello(class), own.session_config()).await;
    // The other side opens nothing here: its own needs are served by its own sessions.
    let (session, incoming) = connected.map_err(|source| PeerError::Session {
        gateway: gateway.to_owned(),
        source,
    })?;
    drop(incoming);
    tracing::info!(peer = gateway, %address, "session to another gateway");
    Ok(session)
}

/// Serves the session of another gateway until it ends.
pub async fn serve(gateway: Arc<Gateway>, session: Session, mut incoming: Incoming) {
    loop {
        tokio::select! {
            stream = incoming.next() => match stream {
                Some(stream) => {
                    tokio::spawn(serve_stream(Arc::clone(&gateway), stream));
                }
                None => return,
            },
            () = gateway.shutdown.cancelled() => {
                session.drain().await;
                session.closed().await;
                return;
            }
        }
    }
}

/// Why a stream of another gateway is refused.
#[derive(Debug, thiserror::Error)]
enum HopError {
    #[error(transparent)]
    Service(#[from] InvalidVia),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Relay(#[from] RelayError),
}

impl HopError {
    fn code(&self) -> RefusalCode {
        match self {
            Self::Service(_) | Self::Denied(Denied::UnknownService { .. }) => {
                RefusalCode::UnknownService
            }
            Self::Denied(_) => RefusalCode::Forbidden,
            Self::Relay(_) => RefusalCode::Unreachable,
        }
    }
}

async fn serve_stream(gateway: Arc<Gateway>, stream: IncomingStream) {
    match relay(&gateway, stream.header()).await {
        Ok(host) => {
            gateway.metrics.count("hop", "ok");
            if let Ok(asking) = stream.accept().await {
                // Either end may go at any time; the other one is reset by the drop.
                _ = splice_moving(asking, host, &gateway.bulk).await;
            }
        }
        Err(error) => {
            gateway.metrics.count("hop", error.code().as_str());
            tracing::info!(service = stream.header().service, %error, "hop refused");
            stream.refuse(error.code(), &error.to_string()).await;
        }
    }
}

async fn relay(gateway: &Gateway, header: &OpenHeader) -> Result<MovingStream, HopError> {
    let via: Via = header.service.parse()?;
    let (plane, target) = (header.plane.as_deref(), header.target.as_deref());
    let route = gateway.world.read(|world| world.via(&via, plane, target))?;
    let plane = plane.unwrap_or_default();
    Ok(gateway.open_here(&route, plane, header.class).await?)
}
