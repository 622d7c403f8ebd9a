//! A table row per kind.

use farplane_types::host::CONNECTED;
use farplane_types::names::organization_of_namespace;
use farplane_types::{Endpoint, Host, HostProvider, KubernetesCluster, Organization, conditions};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt as _};
use serde::Serialize;

use super::cells::{Cell, Tone};
use crate::time::age;

/// Something that lists show.
pub(crate) trait Row: Resource + Serialize + Clone {
    /// Heads of the columns.
    const HEADS: &'static [&'static str];
    /// One cell per column.
    fn cells(&self, now: Timestamp) -> Vec<Cell>;
}

/// `yes`, `no` or, when it was never set, `-`.
pub(crate) fn truth(list: &[Condition], type_: &str) -> Cell {
    match conditions::get(list, type_) {
        Some(condition) if condition.status == "True" => Cell::toned("yes", Tone::Good),
        Some(_) => Cell::toned("no", Tone::Bad),
        None => Cell::toned("-", Tone::Wait),
    }
}

/// Organization of an object.
pub(crate) fn organization(object: &impl Resource) -> String {
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    organization_of_namespace(&namespace)
        .unwrap_or(&namespace)
        .to_owned()
}

fn since(object: &impl Resource, now: Timestamp) -> Cell {
    age(object.meta().creation_timestamp.as_ref(), now).into()
}

impl Row for Organization {
    const HEADS: &'static [&'static str] = &["NAME", "READY", "HOSTS", "CLUSTERS", "AGE"];

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let status = self.status.clone().unwrap_or_default();
        vec![
            self.name_any().into(),
            readiness(self, &status.conditions),
            status.usage.hosts.to_string().into(),
            status.usage.clusters.to_string().into(),
            since(self, now),
        ]
    }
}

fn readiness(object: &impl Resource, list: &[Condition]) -> Cell {
    if object.meta().deletion_timestamp.is_some() {
        return Cell::toned("deleting", Tone::Wait);
    }
    truth(list, conditions::READY)
}

impl Row for Endpoint {
    const HEADS: &'static [&'static str] = &["NAME", "ORG", "HOSTS", "CONNECTED", "AGE"];

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let status = self.status.clone().unwrap_or_default();
        let tone = match status.connected_hosts {
            connected if connected == status.hosts => Tone::Plain,
            _ => Tone::Bad,
        };
        vec![
            self.name_any().into(),
            organization(self).into(),
            status.hosts.to_string().into(),
            Cell::toned(status.connected_hosts.to_string(), tone),
            since(self, now),
        ]
    }
}

impl Row for Host {
    const HEADS: &'static [&'static str] = &[
        "NAME",
        "ORG",
        "ENDPOINT",
        "KIND",
        "CONNECTED",
        "CLUSTER",
        "ADDRESS",
        "AGENT",
        "AGE",
    ];

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let status = self.status.clone().unwrap_or_default();
        let facts = status.facts.as_ref();
        let connected = if self.meta().deletion_timestamp.is_some() {
            Cell::toned("removing", Tone::Wait)
        } else {
            truth(&status.conditions, CONNECTED)
        };
        vec![
            self.name_any().into(),
            organization(self).into(),
            self.spec.endpoint.clone().into(),
            provider(self.spec.provider).into(),
            connected,
            Cell::or_dash(status.cluster.clone()),
            Cell::or_dash(facts.map(|facts| facts.node_address.clone())),
            Cell::or_dash(facts.map(|facts| facts.agent_version.clone())),
            since(self, now),
        ]
    }
}

/// Word for what provides a host.
pub(crate) fn provider(provider: HostProvider) -> &'static str {
    match provider {
        HostProvider::Own => "own",
        HostProvider::Lab => "lab",
    }
}

impl Row for KubernetesCluster {
    const HEADS: &'static [&'static str] =
        &["NAME", "ORG", "VERSION", "PHASE", "NODES", "REASON", "AGE"];

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let status = self.status.clone().unwrap_or_default();
        let reason = conditions::get(&status.conditions, conditions::READY)
            .filter(|ready| ready.status != "True")
            .map(|ready| ready.reason.clone());
        vec![
            self.name_any().into(),
            organization(self).into(),
            self.spec.version.clone().into(),
            phase(self),
            format!("{}/{}", status.ready_nodes, status.nodes.len()).into(),
            Cell::or_dash(reason),
            since(self, now),
        ]
    }
}

/// Phase of a cluster, in one word.
pub(crate) fn phase(cluster: &KubernetesCluster) -> Cell {
    let status = cluster.status.as_ref();
    let phase = match status.and_then(|status| status.phase.as_deref()) {
        _ if cluster.meta().deletion_timestamp.is_some() => "Deleting",
        Some(phase) => phase,
        None => "Pending",
    };
    let tone = match phase {
        "Ready" => Tone::Good,
        "Degraded" => Tone::Bad,
        _ => Tone::Wait,
    };
    Cell::toned(phase, tone)
}
