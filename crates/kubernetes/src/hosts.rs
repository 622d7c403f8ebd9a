//! Which hosts become nodes.
//!
//! Hosts that the cluster has are kept while the selection allows it, so that no Pod moves
//! for nothing. A plan of another cluster is never overruled, not even one that is on its
//! way out: the host still undoes it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use farplane_blueprint::Refusal;
use farplane_types::host::CONNECTED;
use farplane_types::{Host, HostSelection, conditions};
use ipnet::Ipv4Net;
use kube::ResourceExt;

use crate::World;

/// Chosen hosts, and what was asked for but cannot be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Names, sorted.
    pub hosts: Vec<String>,
    /// Hosts asked for by name that cannot be had: why, and what to do.
    pub refused: BTreeMap<String, String>,
    /// Fewer hosts than asked for.
    pub shortage: Option<Refusal>,
}

/// Chooses hosts; those that the cluster has stay while the selection allows it.
pub fn choose_hosts(world: &World) -> Choice {
    let mut quota = Quota::of(world);
    let mut choice = Choice::default();
    match &world.cluster.spec.hosts {
        HostSelection::Names(names) => {
            let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            // Those it has come first: a new one must not take their share of the limit.
            let (kept, new): (Vec<&str>, Vec<&str>) =
                names.into_iter().partition(|name| is_kept(world, name));
            for name in kept.into_iter().chain(new) {
                match named(world, name, &mut quota) {
                    Ok(()) => choice.hosts.push(name.to_owned()),
                    Err(why) => {
                        choice.refused.insert(name.to_owned(), why);
                    }
                }
            }
        }
        HostSelection::Count(count) => {
            let count = *count as usize;
            let mut candidates = kept(world);
            candidates.truncate(count);
            candidates.extend(free(world, None, &candidates));
            fill(world, candidates, Some(count), &mut quota, &mut choice);
        }
        HostSelection::All(all) => {
            let endpoint = all.endpoint.as_deref();
            let mut candidates = kept(world);
            candidates.retain(|name| {
                let host = host(world, name);
                host.is_some_and(|host| endpoint.is_none_or(|one| host.spec.endpoint == one))
            });
            candidates.extend(free(world, endpoint, &candidates));
            fill(world, candidates, None, &mut quota, &mut choice);
        }
    }
    choice.hosts.sort();
    choice
}

/// Nodes without a plan of this cluster, to be deleted: their host left, or they never were
/// a host of ours.
pub fn strays(world: &World) -> Vec<String> {
    let chosen = choose_hosts(world).hosts;
    let nodes = world.view.iter().flat_map(|view| &view.nodes);
    let strays = nodes.map(|node| node.name_any()).filter(|name| {
        let plan = world.plan_of(name);
        // A host that is taken at this very look has no plan yet.
        if plan.is_none() && chosen.contains(name) {
            return false;
        }
        // While a plan is being undone, its node says so better than no node.
        plan.is_none_or(|plan| plan.spec.plane.uid != world.uid())
    });
    strays.collect()
}

fn host<'a>(world: &'a World, name: &str) -> Option<&'a Host> {
    world.hosts.iter().find(|host| host.name_any() == name)
}

fn is_kept(world: &World, name: &str) -> bool {
    let ours = world.plan_of(name).is_some_and(|plan| world.is_ours(plan));
    ours && host(world, name).is_some_and(|host| host.metadata.deletion_timestamp.is_none())
}

/// Hosts that the cluster has, by name; connected ones first, so that a smaller cluster
/// loses those that are away.
fn kept(world: &World) -> Vec<String> {
    let mut hosts: Vec<&Host> = world
        .hosts
        .iter()
        .filter(|host| is_kept(world, &host.name_any()))
        .collect();
    hosts.sort_by_key(|host| (!is_connected(host), host.name_any()));
    hosts.into_iter().map(ResourceExt::name_any).collect()
}

/// Hosts that could be taken, best first: those of the endpoint that the cluster is in
/// already, then of the endpoint with most of them, since hosts of one endpoint reach one
/// another.
fn free(world: &World, endpoint: Option<&str>, has: &[String]) -> Vec<String> {
    let usable: Vec<&Host> = world
        .hosts
        .iter()
        .filter(|host| endpoint.is_none_or(|endpoint| host.spec.endpoint == endpoint))
        .filter(|host| is_connected(host) && why_not(world, host).is_none())
        .filter(|host| !is_kept(world, &host.name_any()))
        .collect();
    let present: BTreeSet<&str> = has
        .iter()
        .filter_map(|name| host(world, name))
        .map(|host| host.spec.endpoint.as_str())
        .collect();
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for host in &usable {
        *sizes.entry(&host.spec.endpoint).or_default() += 1;
    }
    let mut ranked = usable;
    ranked.sort_by_key(|host| {
        let endpoint = host.spec.endpoint.as_str();
        let size = sizes.get(endpoint).copied().unwrap_or_default();
        (
            !present.contains(endpoint),
            std::cmp::Reverse(size),
            endpoint,
            host.name_any(),
        )
    });
    ranked.into_iter().map(ResourceExt::name_any).collect()
}

fn fill(
    world: &World,
    candidates: Vec<String>,
    count: Option<usize>,
    quota: &mut Quota,
    choice: &mut Choice,
) {
    let mut over_quota = None;
    for name in candidates {
        if count.is_some_and(|count| choice.hosts.len() >= count) {
            break;
        }
        match host(world, &name).map(|host| quota.take(world, host)) {
            Some(Ok(())) => choice.hosts.push(name),
            Some(Err(why)) => over_quota = Some((name, why)),
            None => {}
        }
    }
    let missing = count.is_some_and(|count| choice.hosts.len() < count);
    choice.shortage = match over_quota {
        Some((name, why)) => Some(Refusal::new("QuotaExceeded", format!("host {name} {why}"))),
        None if missing => Some(Refusal::new(
            "NoFreeHost",
            format!(
                "{} hosts are wanted and {} can be had; join more (farplane host join-command), free some by deleting a cluster, or lower spec.hosts.count",
                count.unwrap_or_default(),
                choice.hosts.len()
            ),
        )),
        None => None,
    };
}

/// Whether a host asked for by name can be had.
fn named(world: &World, name: &str, quota: &mut Quota) -> Result<(), String> {
    let Some(host) = host(world, name) else {
        return Err(
            "does not exist; correct the name or join it (farplane host join-command)".to_owned(),
        );
    };
    if !is_kept(world, name)
        && let Some(why) = why_not(world, host)
    {
        return Err(why);
    }
    quota.take(world, host)
}

/// Why a host that the cluster does not have cannot be taken.
fn why_not(world: &World, host: &Host) -> Option<String> {
    if host.metadata.deletion_timestamp.is_some() {
        return Some("is being removed; choose another host".to_owned());
    }
    if let Some(plan) = world.plan_of(&host.name_any()) {
        let by = &plan.spec.plane.name;
        return Some(if plan.metadata.deletion_timestamp.is_some() {
            format!("is being released by cluster {by}; it joins as soon as it is clean")
        } else {
            format!("is used by cluster {by}; choose another host or remove it there")
        });
    }
    let Some(facts) = &host
        .status
        .as_ref()
        .and_then(|status| status.facts.as_ref())
    else {
        return Some(
            "has not joined yet; run the command of `farplane host join-command` on it".to_owned(),
        );
    };
    if host.spec.unschedulable {
        return Some(
            "is kept off new clusters; set spec.unschedulable of the host to false".to_owned(),
        );
    }
    if !facts.missing.is_empty() {
        return Some(format!("cannot run Pods: {}", facts.missing.join("; ")));
    }
    address_trouble(world, host, &facts.node_address)
}

/// Why a host cannot be a node at the address that it has.
fn address_trouble(world: &World, host: &Host, address: &str) -> Option<String> {
    let Ok(parsed) = address.parse::<Ipv4Addr>() else {
        return Some(format!(
            "has no usable IPv4 address ({address:?}); give it one and start its agent again"
        ));
    };
    let network = &world.cluster.spec.network;
    for range in [&network.pod_cidr, &network.service_cidr] {
        if range
            .parse::<Ipv4Net>()
            .is_ok_and(|it| it.contains(&parsed))
        {
            return Some(format!(
                "has the address {address} within the cluster's own range {range}; make the cluster anew with another range, or choose another host"
            ));
        }
    }
    let holder = holder(world, address)?;
    (holder != host.name_any()).then(|| {
        format!(
            "has the same address {address} as host {holder} of this cluster; two nodes cannot share one, choose another host"
        )
    })
}

/// Host of the cluster that has this address; of several the one that came first, so that a
/// host which claims the address of another one later gets nothing by it.
pub(crate) fn holder(world: &World, address: &str) -> Option<String> {
    let ours = world.plans.iter().filter(|plan| world.is_ours(plan));
    let holding = ours.filter(|plan| {
        let facts = host(world, &plan.name_any())
            .and_then(|host| host.status.as_ref())
            .and_then(|status| status.facts.as_ref());
        facts.is_some_and(|facts| facts.node_address == address)
    });
    let since = |plan: &&farplane_types::HostPlan| {
        let created = plan.metadata.creation_timestamp.as_ref();
        (created.map(|time| time.0), plan.name_any())
    };
    holding.min_by_key(since).map(ResourceExt::name_any)
}

pub(crate) fn is_connected(host: &Host) -> bool {
    let status = host.status.as_ref();
    status.is_some_and(|status| conditions::is_true(&status.conditions, CONNECTED))
}

fn vcpus(host: &Host) -> u32 {
    let facts = host
        .status
        .as_ref()
        .and_then(|status| status.facts.as_ref());
    facts.map_or(0, |facts| facts.vcpus)
}

/// What is left of the organization's virtual CPUs.
struct Quota {
    limit: Option<u32>,
    used: u32,
}

impl Quota {
    fn of(world: &World) -> Self {
        let used = world
            .hosts
            .iter()
            .filter(|host| world.plan_of(&host.name_any()).is_some())
            .map(vcpus)
            .fold(0, u32::saturating_add);
        Self {
            limit: world.limits.vcpus,
            used,
        }
    }

    /// Counts a host. Those that the cluster has are counted already and stay.
    fn take(&mut self, world: &World, host: &Host) -> Result<(), String> {
        if is_kept(world, &host.name_any()) {
            return Ok(());
        }
        let after = self.used.saturating_add(vcpus(host));
        if let Some(limit) = self.limit.filter(|&limit| after > limit) {
            return Err(format!(
                "would bring organization {} to {after} vCPUs, and it may use {limit}; remove hosts from clusters or ask the operator for a higher limit",
                world.organization
            ));
        }
        self.used = after;
        Ok(())
    }
}
