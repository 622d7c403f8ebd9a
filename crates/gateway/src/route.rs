//! Where a connection or request may go, decided from names and identities alone.
//!
//! Pure: nothing here reads the world or touches a socket. What a host or plane may reach
//! is decided with the world in [`crate::world`].

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use farplane_types::identity::Identity;
use farplane_types::names;

use crate::hello::Hello;

/// What is spoken once TLS is terminated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// An agent's tunnel.
    Tunnel,
    /// A session from another gateway.
    Peer,
    /// HTTP/1.1: join, health, egress.
    Http,
}

/// First decision on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Front {
    /// Bytes are passed unopened to the API server with this server name.
    Cluster {
        /// Server name, lower case.
        server_name: String,
    },
    /// TLS ends here.
    Terminate(Protocol),
}

/// Decides by server name first, so that no protocol name reaches past a cluster's TLS.
pub fn front(hello: &Hello, hub_domain: &str) -> Front {
    if let Some(name) = &hello.server_name
        && name.ends_with(&format!(".k8s.{hub_domain}"))
    {
        return Front::Cluster {
            server_name: name.clone(),
        };
    }
    let offers = |protocol: &[u8]| hello.alpn.iter().any(|one| one == protocol);
    if offers(farplane_tunnel::ALPN) {
        Front::Terminate(Protocol::Tunnel)
    } else if offers(farplane_tunnel::PEER_ALPN) {
        Front::Terminate(Protocol::Peer)
    } else {
        Front::Terminate(Protocol::Http)
    }
}

/// Who a host is, from its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostIdentity {
    /// Organization.
    pub organization: String,
    /// Endpoint.
    pub endpoint: String,
    /// Name.
    pub host: String,
    /// UID of the `Host` object.
    pub uid: String,
}

/// A terminated connection whose identity fits its protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Tunnel of this host.
    Tunnel(HostIdentity),
    /// Session of another gateway.
    Peer,
    /// HTTP; with the plane's UID when the client proved one.
    Http {
        /// Plane that may use egress.
        plane: Option<String>,
    },
}

/// A certificate that does not fit the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{identity} may not speak {protocol:?}")]
pub struct NotAdmitted {
    /// Who asked, `nobody` without certificate.
    pub identity: String,
    /// What for.
    pub protocol: Protocol,
}

/// Whether this identity may speak this protocol.
///
/// # Errors
/// When a tunnel is not asked for by a host, or a peer session not by a gateway.
pub fn admit(protocol: Protocol, identity: Option<Identity>) -> Result<Admission, NotAdmitted> {
    match (protocol, identity) {
        (
            Protocol::Tunnel,
            Some(Identity::Host {
                organization,
                endpoint,
                host,
                uid,
            }),
        ) => Ok(Admission::Tunnel(HostIdentity {
            organization,
            endpoint,
            host,
            uid,
        })),
        (Protocol::Peer, Some(Identity::Gateway)) => Ok(Admission::Peer),
        (Protocol::Http, Some(Identity::Plane { uid })) => Ok(Admission::Http { plane: Some(uid) }),
        // A host may ask to join again with its old certificate at hand; it gains nothing by it.
        (Protocol::Http, _) => Ok(Admission::Http { plane: None }),
        (protocol, identity) => Err(NotAdmitted {
            identity: identity.map_or_else(|| "nobody".to_owned(), |one| one.to_string()),
            protocol,
        }),
    }
}

/// Reads the target of a CONNECT request: an address and a port, never a name.
pub fn egress_target(authority: &str) -> Option<SocketAddr> {
    authority
        .parse()
        .ok()
        .filter(|it: &SocketAddr| it.port() != 0)
}

/// A service of a host, asked for from the gateway that holds the host's tunnel.
///
/// Text form: `via:<organization>/<host uid>/<service>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// Organization of the host.
    pub organization: String,
    /// UID of the host.
    pub uid: String,
    /// Service at the agent.
    pub service: String,
}

impl fmt::Display for Via {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            organization,
            uid,
            service,
        } = self;
        write!(formatter, "via:{organization}/{uid}/{service}")
    }
}

/// Text that names no service of a host.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not via:<organization>/<host uid>/<service>")]
pub struct InvalidVia {
    /// What was read.
    pub text: String,
}

impl FromStr for Via {
    type Err = InvalidVia;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidVia {
            text: text.to_owned(),
        };
        let rest = text.strip_prefix("via:").ok_or_else(invalid)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [organization, uid, service] = parts.as_slice() else {
            return Err(invalid());
        };
        // A nested `via:` would be a second hop.
        let hops = service.contains(':');
        if !names::is_valid_name(organization) || uid.is_empty() || service.is_empty() || hops {
            return Err(invalid());
        }
        Ok(Self {
            organization: (*organization).to_owned(),
            uid: (*uid).to_owned(),
            service: (*service).to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "hub.test";

    fn hello(name: Option<&str>, alpn: &[&[u8]]) -> Hello {
        Hello {
            server_name: name.map(str::to_owned),
            alpn: alpn.iter().map(|one| one.to_vec()).collect(),
        }
    }

    fn host() -> Identity {
        Identity::Host {
            organization: "demo".into(),
            endpoint: "site".into(),
            host: "one".into(),
            uid: "u-1".into(),
        }
    }

    fn plane() -> Identity {
        Identity::Plane { uid: "p-1".into() }
    }

    #[test]
    fn cluster_names_are_passed_through_whatever_protocol_they_offer() {
        let cluster = Front::Cluster {
            server_name: "first.demo.k8s.hub.test".into(),
        };
        for alpn in [
            &[][..],
            &[farplane_tunnel::ALPN],
            &[farplane_tunnel::PEER_ALPN],
        ] {
            let hello = hello(Some("first.demo.k8s.hub.test"), alpn);
            assert_eq!(front(&hello, DOMAIN), cluster);
        }
    }

    #[test]
    fn other_names_end_here() {
        for name in [
            None,
            Some("gateway.hub.test"),
            Some("first.demo.k8s.other.test"),
            Some("k8s.hub.test"),
            Some("firstk8s.hub.test"),
        ] {
            assert_eq!(
                front(&hello(name, &[]), DOMAIN),
                Front::Terminate(Protocol::Http)
            );
            assert_eq!(
                front(&hello(name, &[farplane_tunnel::ALPN]), DOMAIN),
                Front::Terminate(Protocol::Tunnel)
            );
            assert_eq!(
                front(&hello(name, &[farplane_tunnel::PEER_ALPN]), DOMAIN),
                Front::Terminate(Protocol::Peer)
            );
        }
    }

    #[test]
    fn each_protocol_takes_its_own_role_only() {
        assert!(matches!(
            admit(Protocol::Tunnel, Some(host())),
            Ok(Admission::Tunnel(_))
        ));
        assert_eq!(
            admit(Protocol::Peer, Some(Identity::Gateway)),
            Ok(Admission::Peer)
        );
        for identity in [None, Some(plane()), Some(Identity::Gateway)] {
            assert!(admit(Protocol::Tunnel, identity).is_err());
        }
        for identity in [None, Some(plane()), Some(host())] {
            assert!(admit(Protocol::Peer, identity).is_err());
        }
    }

    #[test]
    fn only_a_plane_certificate_opens_egress() {
        let with = |identity| admit(Protocol::Http, identity);
        assert_eq!(
            with(Some(plane())),
            Ok(Admission::Http {
                plane: Some("p-1".into())
            })
        );
        for identity in [None, Some(host()), Some(Identity::Gateway)] {
            assert_eq!(with(identity), Ok(Admission::Http { plane: None }));
        }
    }

    #[test]
    fn egress_targets_are_addresses() {
        for good in ["10.0.0.1:10250", "[fd00::1]:443"] {
            assert!(egress_target(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1:0",
            "10.0.0.1:99999",
            "kubernetes.default:443",
            "user@10.0.0.1:443",
            "10.0.0.1:443/path",
            "010.0.0.1:443",
            "0x0a.0.0.1:443",
            "fd00::1:443",
        ] {
            assert_eq!(egress_target(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_hop_has_one_form_and_never_nests() {
        let via = Via {
            organization: "demo".into(),
            uid: "u-1".into(),
            service: "kubelet".into(),
        };
        assert_eq!(via.to_string().parse(), Ok(via));
        for bad in [
            "kubelet",
            "via:",
            "via:demo/u-1",
            "via:demo//kubelet",
            "via:DEMO/u-1/kubelet",
            "via:demo/u-1/kubelet/x",
            "via:demo/u-1/via:kubelet",
        ] {
            assert!(bad.parse::<Via>().is_err(), "{bad}");
        }
    }
}
