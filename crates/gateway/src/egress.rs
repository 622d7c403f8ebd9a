//! Egress of planes: `CONNECT ip:port` from an API server, towards its own hosts only.
//!
//! The answer comes after the host's agent has connected, so that 200 means what it says.
//! Nothing is dialled from here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use farplane_tunnel::{MovingStream, splice_moving};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;

use crate::gateway::{Gateway, RelayError};
use crate::http::{Answer, refusal};
use crate::limits::TooManyStreams;
use crate::route;
use crate::tunnel_server::TO_HOST;
use crate::world::lookup::Denied;

/// Why egress is refused.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// No certificate of a plane.
    #[error("egress needs the certificate of a plane")]
    NotAPlane,
    /// Not an address and a port.
    #[error("CONNECT takes ip:port and nothing else")]
    Target,
    /// Headers that would carry a body.
    #[error("CONNECT takes no body")]
    Body,
    /// Out of the plane's reach.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The organization's share is used up.
    #[error(transparent)]
    Busy(#[from] TooManyStreams),
    /// The host did not answer.
    #[error(transparent)]
    Relay(#[from] RelayError),
}

impl EgressError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotAPlane | Self::Target | Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::Body => StatusCode::BAD_REQUEST,
            Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Relay(_) => StatusCode::BAD_GATEWAY,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::NotAPlane => "not-a-plane",
            Self::Target => "bad-target",
            Self::Body => "body",
            Self::Denied(_) => "denied",
            Self::Busy(_) => "busy",
            Self::Relay(_) => "unreachable",
        }
    }
}

/// Answers a CONNECT request; after 200 the connection belongs to the host's stream.
pub async fn answer(
    gateway: Arc<Gateway>,
    plane: Option<String>,
    from: IpAddr,
    mut request: Request<Incoming>,
) -> Answer {
    let authority = request.uri().authority().map_or("", |it| it.as_str());
    let opened = match check(plane.as_deref(), authority, request.headers()) {
        Ok((plane, target)) => open(&gateway, plane, target).await,
        Err(error) => Err(error),
    };
    match opened {
        Ok((host, share)) => {
            gateway.metrics.count("egress", "ok");
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(connection) = upgrade.await {
                    // Either end may go at any time; the other one is reset by the drop.
                    _ = splice_moving(TokioIo::new(connection), host, &gateway.bulk).await;
                }
                drop(share);
            });
            Response::new(Full::new(Bytes::new()))
        }
        Err(error) => {
            gateway.metrics.count("egress", error.outcome());
            tracing::warn!(peer = %from, plane, target = authority, %error, "egress refused");
            refusal(error.status(), &error)
        }
    }
}

/// Everything that is decided without the world.
fn check<'a>(
    plane: Option<&'a str>,
    authority: &str,
    headers: &HeaderMap,
) -> Result<(&'a str, SocketAddr), EgressError> {
    let plane = plane.ok_or(EgressError::NotAPlane)?;
    let body = headers.contains_key(TRANSFER_ENCODING)
        || headers.contains_key(UPGRADE)
        || headers
            .get_all(CONTENT_LENGTH)
            .iter()
            .any(|length| length != "0");
    if body {
        return Err(EgressError::Body);
    }
    let target = route::egress_target(authority).ok_or(EgressError::Target)?;
    Ok((plane, target))
}

async fn open(
    gateway: &Gateway,
    plane: &str,
    target: SocketAddr,
) -> Result<(MovingStream, OwnedSemaphorePermit), EgressError> {
    let routes = gateway.world.read(|world| world.egress(plane, target))?;
    // Hosts of one plane are of one organization.
    let organization = routes
        .first()
        .map_or("", |route| route.organization.as_str());
    let share = gateway.limits.stream(organization)?;
    let (_, stream) = gateway.open(routes, plane, TO_HOST).await?;
    Ok((stream, share))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn only_planes_may_ask_and_only_for_addresses() {
        let none = HeaderMap::new();
        assert!(matches!(
            check(None, "10.0.0.1:443", &none),
            Err(EgressError::NotAPlane)
        ));
        assert!(matches!(
            check(Some("p"), "kubernetes.default:443", &none),
            Err(EgressError::Target)
        ));
        assert!(check(Some("p"), "10.0.0.1:443", &none).is_ok());
    }

    #[test]
    fn a_body_cannot_be_smuggled() {
        for (name, value) in [
            (TRANSFER_ENCODING, "chunked"),
            (CONTENT_LENGTH, "10"),
            (UPGRADE, "websocket"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert!(matches!(
                check(Some("p"), "10.0.0.1:443", &headers),
                Err(EgressError::Body)
            ));
        }
    }
}
