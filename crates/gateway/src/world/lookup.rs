//! Questions on the world, answered without IO.
//!
//! Every answer that opens a way names whose way it is; what is not found is denied.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use farplane_types::wire::service;
use farplane_types::{HostPlanSpec, names};

use super::{ClusterView, HostView, Key, PlanView, World};
use crate::route::Via;

/// Port of every API server.
pub const API_SERVER_PORT: u16 = 6443;
/// Port of every kubelet.
pub const KUBELET_PORT: u16 = 10250;

/// What a host's agent should be told.
#[derive(Clone, Debug)]
pub enum PlanState {
    /// The host is gone or on its way out.
    Removed,
    /// No plan, or one that is being deleted.
    Nothing {
        /// UID of the plan that is being deleted.
        releasing: Option<String>,
    },
    /// This plan.
    Plan {
        /// UID of the plan object.
        uid: String,
        /// Its generation.
        generation: i64,
        /// The plan.
        spec: Arc<HostPlanSpec>,
    },
}

impl PartialEq for PlanState {
    /// UID and generation stand for the contents.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Removed, Self::Removed) => true,
            (Self::Nothing { releasing: a }, Self::Nothing { releasing: b }) => a == b,
            (
                Self::Plan {
                    uid: a,
                    generation: x,
                    ..
                },
                Self::Plan {
                    uid: b,
                    generation: y,
                    ..
                },
            ) => a == b && x == y,
            _ => false,
        }
    }
}

/// Why a way is not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The host is not known or is being deleted.
    #[error("host {uid} is not known here")]
    UnknownHost {
        /// UID asked for.
        uid: String,
    },
    /// The host has no plan, or it is being deleted.
    #[error("host {host} has no plan")]
    NoPlan {
        /// Name of the host.
        host: String,
    },
    /// Not the plane of the host.
    #[error("host {host} does not belong to plane {plane}")]
    OtherPlane {
        /// Name of the host.
        host: String,
        /// Plane asked for.
        plane: String,
    },
    /// The plan has no listener of this service.
    #[error("the plan of host {host} offers no {service} to local programs")]
    NotOffered {
        /// Name of the host.
        host: String,
        /// Service asked for.
        service: String,
    },
    /// Not a host of the organization named with it.
    #[error("host {uid} does not belong to organization {organization}")]
    OtherOrganization {
        /// UID of the host.
        uid: String,
        /// Organization named.
        organization: String,
    },
    /// A plane whose object does not exist.
    #[error("plane {plane} is not known here")]
    UnknownPlane {
        /// UID of the plane.
        plane: String,
    },
    /// A target outside of what the plane may reach.
    #[error("{target} is neither a kubelet nor in a Service or Pod range of this plane")]
    OutOfReach {
        /// Target asked for.
        target: String,
    },
    /// Not a service of agents.
    #[error("no service {service}")]
    UnknownService {
        /// Service asked for.
        service: String,
    },
}

/// A service of a host, for one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// Organization of the host.
    pub organization: String,
    /// UID of the host.
    pub uid: String,
    /// Name of the host, for logs.
    pub host: String,
    /// Service at the agent.
    pub service: &'static str,
    /// Target in the header, for `net`.
    pub target: Option<String>,
}

impl World {
    /// The host with this UID, also one that is being deleted.
    pub fn host(&self, uid: &str) -> Option<&HostView> {
        self.hosts.get(uid)
    }

    /// The host with this namespace and name.
    pub fn host_by_key(&self, key: &Key) -> Option<&HostView> {
        self.hosts.get(self.host_uids.get(key)?)
    }

    /// UIDs of hosts whose status says that this gateway holds their tunnel.
    pub fn hosts_claimed_by(&self, gateway: &str) -> Vec<(String, Key)> {
        let claimed = |host: &&HostView| host.connections.iter().any(|it| it.gateway == gateway);
        let id = |host: &HostView| (host.uid.clone(), host.key.clone());
        self.hosts.values().filter(claimed).map(id).collect()
    }

    /// The plan object for this host name, also one that is being deleted.
    pub fn plan(&self, key: &Key) -> Option<&PlanView> {
        self.plans.get(key)
    }

    /// What the agent of this host should be told.
    pub fn plan_state(&self, uid: &str) -> PlanState {
        let Some(host) = self.hosts.get(uid).filter(|host| !host.deleting) else {
            return PlanState::Removed;
        };
        match self.plans.get(&host.key) {
            None => PlanState::Nothing { releasing: None },
            Some(plan) if plan.deleting => PlanState::Nothing {
                releasing: Some(plan.uid.clone()),
            },
            Some(plan) => PlanState::Plan {
                uid: plan.uid.clone(),
                generation: plan.generation,
                spec: Arc::clone(&plan.spec),
            },
        }
    }

    /// The cluster whose API server has this server name (lower case).
    pub fn cluster_by_server_name(&self, name: &str) -> Option<&ClusterView> {
        self.clusters.get(self.cluster_of_name.get(name)?)
    }

    /// Addresses of a plane's API servers: the ready ones, else any that runs.
    pub fn api_servers(&self, plane: &str) -> Vec<SocketAddr> {
        let Some(pods) = self.api_servers.get(&names::plane_namespace(plane)) else {
            return Vec::new();
        };
        let address = |ip: IpAddr| SocketAddr::new(ip, API_SERVER_PORT);
        let ready = pods.values().filter(|pod| pod.ready);
        let ready: Vec<_> = ready.filter_map(|pod| pod.address.map(address)).collect();
        if !ready.is_empty() {
            return ready;
        }
        let running = pods.values().filter(|pod| pod.running);
        running.filter_map(|pod| pod.address.map(address)).collect()
    }

    /// API servers that a host may reach, by the plane that its stream names.
    ///
    /// # Errors
    /// When that plane is not the one of the host's plan.
    pub fn api_for_host(&self, uid: &str, plane: Option<&str>) -> Result<Vec<SocketAddr>, Denied> {
        let host = self.live_host(uid)?;
        let plane = plane.unwrap_or_default();
        self.plan_on(host, plane)?;
        Ok(self.api_servers(plane))
    }

    /// Whether the plan of a host offers a service of the hub to local programs, for the
    /// plane that a stream names.
    ///
    /// # Errors
    /// When that plane is not the one of the plan, or the plan has no such listener.
    pub fn offered_to_programs(
        &self,
        uid: &str,
        plane: Option<&str>,
        service: &str,
    ) -> Result<(), Denied> {
        let host = self.live_host(uid)?;
        let plan = self.plan_on(host, plane.unwrap_or_default())?;
        let mut listeners = plan.spec.listeners.iter();
        if listeners.any(|listener| listener.service == service) {
            return Ok(());
        }
        Err(Denied::NotOffered {
            host: host.key.name.clone(),
            service: service.to_owned(),
        })
    }

    /// Ways to a target of a plane's API servers, best first: one host for a kubelet, any
    /// host of the plane for an address in its ranges.
    ///
    /// # Errors
    /// When the target is nothing that this plane may reach.
    pub fn egress(&self, plane: &str, target: SocketAddr) -> Result<Vec<HostRoute>, Denied> {
        let out_of_reach = || Denied::OutOfReach {
            target: target.to_string(),
        };
        if !self.cluster_of_uid.contains_key(plane) {
            return Err(Denied::UnknownPlane {
                plane: plane.to_owned(),
            });
        }
        if !is_ordinary(target.ip()) {
            return Err(out_of_reach());
        }
        let hosts = self.hosts_of_plane(plane);
        if target.port() == KUBELET_PORT {
            let owner =
                |(host, _): &&(&HostView, &PlanView)| host.node_address == Some(target.ip());
            let routes: Vec<_> = hosts.iter().filter(owner).map(to_kubelet).collect();
            if !routes.is_empty() {
                return Ok(routes);
            }
        }
        let reaches = |(_, plan): &&(&HostView, &PlanView)| in_ranges(plan, target.ip());
        let mut within: Vec<_> = hosts.iter().filter(reaches).collect();
        if within.is_empty() {
            return Err(out_of_reach());
        }
        within.sort_by_key(|(host, _)| host.connections.is_empty());
        Ok(within
            .into_iter()
            .map(|it| to_address(it, target))
            .collect())
    }

    /// Checks a stream that another gateway asks for, as if it were asked for here.
    ///
    /// # Errors
    /// As [`World::egress`], and when organization and host do not belong together.
    pub fn via(
        &self,
        via: &Via,
        plane: Option<&str>,
        target: Option<&str>,
    ) -> Result<HostRoute, Denied> {
        let host = self.live_host(&via.uid)?;
        if host.organization != via.organization {
            return Err(Denied::OtherOrganization {
                uid: via.uid.clone(),
                organization: via.organization.clone(),
            });
        }
        let plan = self.plan_on(host, plane.unwrap_or_default())?;
        match via.service.as_str() {
            service::KUBELET => Ok(to_kubelet(&(host, plan))),
            service::NET => {
                let text = target.unwrap_or_default();
                let address: Option<SocketAddr> = text.parse().ok();
                let allowed = |it: &SocketAddr| is_ordinary(it.ip()) && in_ranges(plan, it.ip());
                match address.filter(allowed) {
                    Some(address) => Ok(to_address(&(host, plan), address)),
                    None => Err(Denied::OutOfReach {
                        target: text.to_owned(),
                    }),
                }
            }
            other => Err(Denied::UnknownService {
                service: other.to_owned(),
            }),
        }
    }

    /// Other gateways that hold a tunnel of this host, newest first: Pod name and address.
    ///
    /// The address is the Pod's own; only the port is taken from the directory.
    pub fn gateways_of(&self, uid: &str, own: &str) -> Vec<(String, SocketAddr)> {
        let Some(host) = self.hosts.get(uid) else {
            return Vec::new();
        };
        let mut entries: Vec<_> = host
            .connections
            .iter()
            .filter(|entry| entry.gateway != own)
            .collect();
        entries.sort_by_key(|entry| (entry.since.0, entry.epoch));
        let address = |entry: &&farplane_types::HostConnection| {
            let port = entry.address.parse::<SocketAddr>().ok()?.port();
            let ip = self.gateways.get(&entry.gateway)?.address?;
            Some((entry.gateway.clone(), SocketAddr::new(ip, port)))
        };
        entries.iter().rev().filter_map(address).collect()
    }

    fn live_host(&self, uid: &str) -> Result<&HostView, Denied> {
        let host = self.hosts.get(uid).filter(|host| !host.deleting);
        host.ok_or_else(|| Denied::UnknownHost {
            uid: uid.to_owned(),
        })
    }

    /// The plan of a host if it is for this plane and both are in one organization.
    fn plan_on(&self, host: &HostView, plane: &str) -> Result<&PlanView, Denied> {
        let plan = self.plans.get(&host.key).filter(|plan| !plan.deleting);
        let plan = plan.ok_or_else(|| Denied::NoPlan {
            host: host.key.name.clone(),
        })?;
        let namespace = self.cluster_of_uid.get(plane).map(|key| &key.namespace);
        if plan.spec.plane.uid != plane || namespace != Some(&host.key.namespace) {
            return Err(Denied::OtherPlane {
                host: host.key.name.clone(),
                plane: plane.to_owned(),
            });
        }
        Ok(plan)
    }

    fn hosts_of_plane(&self, plane: &str) -> Vec<(&HostView, &PlanView)> {
        let Some(keys) = self.plans_of_plane.get(plane) else {
            return Vec::new();
        };
        let pair = |key: &Key| {
            let host = self.host_by_key(key).filter(|host| !host.deleting)?;
            Some((host, self.plan_on(host, plane).ok()?))
        };
        keys.iter().filter_map(pair).collect()
    }
}

fn in_ranges(plan: &PlanView, ip: IpAddr) -> bool {
    plan.reachable.iter().any(|range| range.contains(&ip))
}

fn to_kubelet((host, _): &(&HostView, &PlanView)) -> HostRoute {
    HostRoute {
        organization: host.organization.clone(),
        uid: host.uid.clone(),
        host: host.key.name.clone(),
        service: service::KUBELET,
        target: None,
    }
}

fn to_address(pair: &(&HostView, &PlanView), target: SocketAddr) -> HostRoute {
    HostRoute {
        service: service::NET,
        target: Some(target.to_string()),
        ..to_kubelet(pair)
    }
}

/// Not an address that means the machine itself, its link, or a group, whatever ranges say.
fn is_ordinary(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast())
        }
        // A mapped address would name an IPv4 one behind the back of the ranges.
        IpAddr::V6(ip) => {
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip.to_ipv4_mapped().is_some())
        }
    }
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
