//! Streams that the hub opens here, each checked against the plan in force.
//!
//! The hub is not free to reach into the machine or its network: it reaches the kubelet of the
//! plane that has the machine, and addresses within the plan's ranges. A stream whose plan ends
//! or changes so that it would be refused is reset.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use farplane_tunnel::{Incoming, IncomingStream, MOVE, Moves, OpenHeader, RefusalCode, splice_tcp};
use farplane_types::HostPlanSpec;
use farplane_types::wire::service;
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// The only peer whose streams are accepted.
const HUB: &str = "hub";
/// Port of the kubelet.
const KUBELET_PORT: u16 = 10250;
/// Longest time for a connection, if the opener does not stop waiting before.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// Why a stream is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a service of agents.
    #[error("the agent has no service {service:?}")]
    UnknownService {
        /// The name.
        service: String,
    },
    /// No plan is in force.
    #[error("no plan is in force on this host")]
    NoPlan,
    /// The host is another plane's.
    #[error("this host is not the asking plane's")]
    OtherPlane,
    /// No address is known at which the kubelet could be.
    #[error("this host's address is not known")]
    NoAddress,
    /// Not an address and a port.
    #[error("the target is not ip:port")]
    BadTarget,
    /// Not within the plan's ranges.
    #[error("{target} is not within the plan's ranges")]
    OutOfRange {
        /// The target.
        target: SocketAddr,
    },
}

impl Refused {
    fn code(&self) -> RefusalCode {
        match self {
            Self::UnknownService { .. } => RefusalCode::UnknownService,
            Self::NoAddress => RefusalCode::Unreachable,
            _ => RefusalCode::Forbidden,
        }
    }
}

/// What a stream may reach.
///
/// # Errors
/// When it may reach nothing.
pub fn authorise(
    header: &OpenHeader,
    plan: Option<&HostPlanSpec>,
    node: Option<IpAddr>,
) -> Result<SocketAddr, Refused> {
    let service = header.service.as_str();
    if !matches!(service, service::KUBELET | service::NET) {
        return Err(Refused::UnknownService {
            service: service.to_owned(),
        });
    }
    let plan = plan.ok_or(Refused::NoPlan)?;
    if header.plane.as_deref() != Some(plan.plane.uid.as_str()) {
        return Err(Refused::OtherPlane);
    }
    if service == service::KUBELET {
        let node = node.ok_or(Refused::NoAddress)?;
        return Ok(SocketAddr::new(node, KUBELET_PORT));
    }
    let target = header.target.as_deref().ok_or(Refused::BadTarget)?;
    // Names are never looked up: only what is an address as it stands is a target.
    let target: SocketAddr = target.parse().map_err(|_| Refused::BadTarget)?;
    let scoped = matches!(target, SocketAddr::V6(it) if it.scope_id() != 0);
    if target.port() == 0 || scoped {
        return Err(Refused::BadTarget);
    }
    let ranges = plan
        .reachable
        .iter()
        .filter_map(|it| it.parse::<IpNet>().ok());
    let within = ranges.into_iter().any(|range| range.contains(&target.ip()));
    if !within || is_special(target.ip()) {
        return Err(Refused::OutOfRange { target });
    }
    Ok(target)
}

/// Addresses that are never a Service or a Pod, whatever a range says: the machine itself, the
/// cloud's metadata service, and IPv4 in the clothes of IPv6, which would leave as IPv4.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(it) => {
            it.is_loopback()
                || it.is_unspecified()
                || it.is_link_local()
                || it.is_multicast()
                || it.is_broadcast()
        }
        IpAddr::V6(it) => {
            let embeds_v4 = it.to_ipv4().is_some();
            embeds_v4
                || it.is_loopback()
                || it.is_unspecified()
                || it.is_multicast()
                || it.is_unicast_link_local()
        }
    }
}

/// What serving needs to know; a clone sees the same.
#[derive(Clone)]
pub struct World {
    /// The plan in force.
    pub plan: watch::Receiver<Option<Arc<HostPlanSpec>>>,
    /// Address of the node.
    pub node: watch::Receiver<Option<IpAddr>>,
    /// Streams that the hub may move to the bulk session.
    pub moves: Moves,
    /// Runtime of bulk copies.
    pub bulk: Handle,
}

impl World {
    fn authorise(&self, header: &OpenHeader) -> Result<SocketAddr, Refused> {
        let plan = self.plan.borrow().clone();
        authorise(header, plan.as_deref(), *self.node.borrow())
    }
}

/// Serves every stream of a session until it ends.
pub async fn run(mut incoming: Incoming, world: World) {
    while let Some(stream) = incoming.next().await {
        tokio::spawn(one(stream, world.clone()));
    }
}

async fn one(stream: IncomingStream, mut world: World) {
    let header = stream.header().clone();
    if header.service == MOVE {
        return world.moves.hand_over(HUB, stream).await;
    }
    let target = match world.authorise(&header) {
        Ok(target) => target,
        Err(refused) => {
            tracing::warn!(
                service = header.service,
                plane = header.plane,
                target = header.target,
                trace = header.trace,
                %refused,
                "stream refused"
            );
            return stream.refuse(refused.code(), &refused.to_string()).await;
        }
    };
    let deadline = stream.deadline().min(Instant::now() + DIAL_DEADLINE);
    let dialled = timeout_at(deadline, TcpStream::connect(target)).await;
    let socket = match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(socket) => socket,
        Err(error) => {
            let code = match error.kind() {
                io::ErrorKind::TimedOut => RefusalCode::Timeout,
                _ => RefusalCode::Unreachable,
            };
            tracing::info!(service = header.service, %target, %error, "target not reached");
            return stream.refuse(code, &format!("{target}: {error}")).await;
        }
    };
    // Works without; only latency suffers.
    _ = socket.set_nodelay(true);
    let Ok(stream) = stream.accept().await else {
        return;
    };
    let stream = world.moves.accepted(HUB, header.moves.as_deref(), stream);
    let bulk = world.bulk.clone();
    // Dropping both resets both, which is what a plan's end shall do.
    tokio::select! {
        _ = splice_tcp(socket, stream, &bulk) => {}
        () = forbidden(&mut world, &header) => {
            tracing::info!(service = header.service, %target, "stream cut, the plan changed");
        }
    }
}

/// Waits until the stream would be refused.
async fn forbidden(world: &mut World, header: &OpenHeader) {
    loop {
        if world.plan.changed().await.is_err() {
            return std::future::pending().await;
        }
        if world.authorise(header).is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
