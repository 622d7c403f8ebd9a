//! Whether a spec can be met at all.

use std::net::SocketAddrV4;

use farplane_blueprint::Refusal;
use farplane_types::HostSelection;
use ipnet::Ipv4Net;
use kube::ResourceExt as _;

use crate::World;

/// Nodes get a /24 each of the Pod range.
const LONGEST_POD_PREFIX: u8 = 24;
/// The controller-manager gives out no more than 2^16 of them.
const SHORTEST_POD_PREFIX: u8 = 8;
/// The API server takes no larger Service range.
const SHORTEST_SERVICE_PREFIX: u8 = 12;
/// Room for the addresses that are given out by number.
const LONGEST_SERVICE_PREFIX: u8 = 27;

/// Ranges that mean something else on every host.
const RESERVED: [&str; 5] = [
    "198.18.0.0/15",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "0.0.0.0/8",
];

/// Checks version, ranges and the organization's limit of clusters.
///
/// # Errors
/// When the cluster cannot be had: what is wrong and what to do.
pub fn admit(world: &World) -> Result<(), Refusal> {
    quota(world)?;
    version(world)?;
    ranges(world)
}

/// The oldest clusters fit; one that has keys already exists and is not taken away.
fn quota(world: &World) -> Result<(), Refusal> {
    let Some(limit) = world.limits.clusters else {
        return Ok(());
    };
    let age = |cluster: &farplane_types::KubernetesCluster| {
        let created = cluster.metadata.creation_timestamp.as_ref();
        (created.map(|time| time.0), cluster.name_any())
    };
    let own = age(&world.cluster);
    let older = world
        .clusters
        .iter()
        .filter(|cluster| cluster.metadata.uid != world.cluster.metadata.uid && age(cluster) < own)
        .count();
    if !world.stored.is_empty() || older < limit as usize {
        return Ok(());
    }
    Err(Refusal::new(
        "QuotaExceeded",
        format!(
            "organization {} may have {limit} clusters and has {older} older ones; delete one or ask the operator for a higher limit",
            world.organization
        ),
    ))
}

fn version(world: &World) -> Result<(), Refusal> {
    let wanted = &world.cluster.spec.version;
    let mut offered: Vec<&str> = world
        .hub
        .artifacts
        .iter()
        .filter(|entry| entry.name == "kubernetes-node")
        .map(|entry| entry.version.as_str())
        .collect();
    if offered.contains(&wanted.as_str()) {
        return Ok(());
    }
    offered.sort_unstable();
    let offered = if offered.is_empty() {
        "it offers none: its artifacts are missing".to_owned()
    } else {
        format!("set spec.version to one of: {}", offered.join(", "))
    };
    Err(Refusal::new(
        "UnknownVersion",
        format!("this hub does not offer Kubernetes {wanted}; {offered}"),
    ))
}

fn ranges(world: &World) -> Result<(), Refusal> {
    let network = &world.cluster.spec.network;
    let invalid = |message: String| Refusal::new("InvalidNetwork", message);
    let range = |field: &str, text: &str| -> Result<Ipv4Net, Refusal> {
        let parsed: Ipv4Net = text.parse().map_err(|_| {
            invalid(format!(
                "spec.network.{field} {text:?} is not an IPv4 CIDR such as 10.96.0.0/16"
            ))
        })?;
        if parsed.trunc() != parsed {
            return Err(invalid(format!(
                "spec.network.{field} {text} has bits beyond its prefix; write {}",
                parsed.trunc()
            )));
        }
        let reserved = RESERVED
            .iter()
            .filter_map(|text| text.parse::<Ipv4Net>().ok());
        match reserved.into_iter().find(|other| overlap(&parsed, other)) {
            None => Ok(parsed),
            Some(other) => Err(invalid(format!(
                "spec.network.{field} {text} overlaps {other}, which hosts use themselves; choose a private range"
            ))),
        }
    };
    let pods = range("podCidr", &network.pod_cidr)?;
    let services = range("serviceCidr", &network.service_cidr)?;
    if pods.prefix_len() < SHORTEST_POD_PREFIX {
        return Err(invalid(format!(
            "spec.network.podCidr {pods} is too large; use a prefix of at least /{SHORTEST_POD_PREFIX}"
        )));
    }
    if pods.prefix_len() > LONGEST_POD_PREFIX {
        return Err(invalid(format!(
            "spec.network.podCidr {pods} has no room for a node; use a prefix of at most /{LONGEST_POD_PREFIX}"
        )));
    }
    if !(SHORTEST_SERVICE_PREFIX..=LONGEST_SERVICE_PREFIX).contains(&services.prefix_len()) {
        return Err(invalid(format!(
            "spec.network.serviceCidr {services} must have a prefix from /{SHORTEST_SERVICE_PREFIX} to /{LONGEST_SERVICE_PREFIX}"
        )));
    }
    if overlap(&pods, &services) {
        return Err(invalid(format!(
            "spec.network.podCidr {pods} and serviceCidr {services} overlap; choose ranges that do not"
        )));
    }
    let gateway: Option<SocketAddrV4> = world.hub.public_address.parse().ok();
    let hides = |range: &Ipv4Net| gateway.is_some_and(|gateway| range.contains(gateway.ip()));
    if let Some(range) = [pods, services].into_iter().find(hides) {
        return Err(invalid(format!(
            "the range {range} of spec.network holds the hub's own address {}, which hosts could not reach any more; choose another range",
            world.hub.public_address
        )));
    }
    room(world, &pods)
}

/// Every host that is asked for needs a /24 of the Pod range.
fn room(world: &World, pods: &Ipv4Net) -> Result<(), Refusal> {
    let room = 1_usize << (LONGEST_POD_PREFIX - pods.prefix_len());
    let wanted = match &world.cluster.spec.hosts {
        HostSelection::Names(names) => names.len(),
        HostSelection::Count(count) => *count as usize,
        HostSelection::All(_) => 0,
    };
    if wanted <= room {
        return Ok(());
    }
    Err(Refusal::new(
        "InvalidNetwork",
        format!(
            "spec.network.podCidr {pods} has room for {room} nodes and spec.hosts asks for {wanted}; ask for fewer hosts, or make the cluster anew with a larger range"
        ),
    ))
}

fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}
