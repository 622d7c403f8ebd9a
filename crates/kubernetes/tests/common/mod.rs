//! Worlds for the tests of this crate.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses its own part, and may panic"
)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use farplane_kubernetes::{
    ArtifactEntry, Hub, Images, Keys, Store, View, World, renew_keys, services,
};
use farplane_pki::{CertificateAuthority, Duration, OffsetDateTime};
use farplane_types::{
    Host, HostPlan, HostPlanSpec, HostSelection, KubernetesCluster, OrganizationLimits,
    PlaneReference,
};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// Second at which clusters of these tests are made.
pub const MADE: i64 = 1_800_000_000;

pub fn cluster(name: &str, uid: &str, made: i64) -> KubernetesCluster {
    serde_json::from_value(json!({
        "apiVersion": "farplane.io/v1alpha1",
        "kind": "KubernetesCluster",
        "metadata": {
            "name": name, "namespace": "org-demo", "uid": uid, "generation": 1,
            "creationTimestamp": Timestamp::from_second(made).unwrap().to_string(),
        },
        "spec": {},
    }))
    .unwrap()
}

fn artifact(name: &str, version: &str) -> ArtifactEntry {
    let reference = name
        .strip_prefix("image-")
        .map(|image| format!("registry.farplane.internal/{image}:{version}"));
    ArtifactEntry {
        name: name.to_owned(),
        version: version.to_owned(),
        sha256: format!("sha256-of-{name}-{version}"),
        size: 1_000_000,
        reference,
    }
}

/// A hub that has made nothing yet for cluster `first`.
pub fn world() -> World {
    let cluster = cluster("first", "u-first", MADE);
    World {
        organization: "demo".to_owned(),
        limits: OrganizationLimits::default(),
        clusters: vec![cluster.clone()],
        cluster,
        hosts: vec![],
        plans: vec![],
        pods: vec![],
        addresses: BTreeMap::new(),
        stored: BTreeMap::new(),
        view: None,
        hub: Hub {
            domain: "farplane.internal".to_owned(),
            public_address: "192.0.2.1:8443".to_owned(),
            gateway_address: Ipv4Addr::new(10, 43, 0, 9),
            ca_pem: "(certificate of the hub)".to_owned(),
            images: Images {
                kubernetes_server: "hub/kubernetes-server:1".to_owned(),
                etcd: "hub/etcd:1".to_owned(),
                pause: "hub/pause:1".to_owned(),
                coredns: String::new(),
            },
            store: Store::HostPath("/srv/store".to_owned()),
            artifacts: vec![
                artifact("containerd", "2.4.2"),
                artifact("cni", "1.9.1"),
                artifact("kubernetes-node", "1.37.2"),
                artifact("kubernetes-node", "1.36.3"),
                artifact("flannel", "0.28.10"),
                artifact("image-pause", "3"),
                artifact("image-coredns", "1.15.0"),
            ],
        },
        now: Timestamp::from_millisecond(MADE * 1000 + 250).unwrap(),
    }
}

/// Gives every Service an address, as the hub would.
pub fn with_addresses(mut world: World) -> World {
    let names = services(&world);
    let names = names.iter().filter(|object| object["kind"] == "Service");
    for (number, service) in names.enumerate() {
        let name = service["metadata"]["name"].as_str().unwrap().to_owned();
        let last = 100 + u8::try_from(number).unwrap();
        world.addresses.insert(name, Ipv4Addr::new(10, 43, 0, last));
    }
    world
}

pub fn plane_ca() -> CertificateAuthority {
    let now = OffsetDateTime::from_unix_timestamp(MADE).unwrap();
    CertificateAuthority::generate("planes", Duration::days(3650), now).unwrap()
}

/// The world with addresses and keys stored.
pub fn with_keys(world: World) -> (World, Keys) {
    let mut world = with_addresses(world);
    let keys = renew_keys(&world, &plane_ca()).unwrap();
    world.stored = keys.contents().clone();
    (world, keys)
}

pub fn host(name: &str, address: &str) -> Host {
    serde_json::from_value(json!({
        "apiVersion": "farplane.io/v1alpha1",
        "kind": "Host",
        "metadata": { "name": name, "namespace": "org-demo", "uid": format!("host-{name}") },
        "spec": { "endpoint": "lab" },
        "status": {
            "facts": {
                "agentVersion": "1", "operatingSystem": "Debian", "kernel": "6.1",
                "architecture": "x86_64", "vcpus": 2, "memoryBytes": 4_000_000_000_u64,
                "nodeAddress": address, "cgroupVersion": 1,
                "hasSysResource": false, "hasSystemd": false,
            },
            "connections": [],
            "conditions": [{
                "type": "Connected", "status": "True", "reason": "Tunnel", "message": "",
                "lastTransitionTime": "2027-01-01T00:00:00Z",
            }],
        },
    }))
    .unwrap()
}

/// A plan by which a cluster has a host.
pub fn plan(host: &str, uid: &str) -> HostPlan {
    let mut plan = HostPlan::new(
        host,
        HostPlanSpec {
            plane: PlaneReference {
                kind: "KubernetesCluster".to_owned(),
                name: format!("cluster-{uid}"),
                uid: uid.to_owned(),
            },
            listeners: vec![],
            reachable: vec![],
            units: vec![],
        },
    );
    plan.metadata.namespace = Some("org-demo".to_owned());
    plan.metadata.generation = Some(1);
    plan
}

pub fn names(names: &[&str]) -> HostSelection {
    HostSelection::Names(names.iter().map(|&name| name.to_owned()).collect())
}

/// A control-plane Pod.
pub fn pod(component: &str, name: &str, status: Value) -> k8s_openapi::api::core::v1::Pod {
    serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "farplane.io/component": component } },
        "status": status,
    }))
    .unwrap()
}

pub fn ready() -> Value {
    json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] })
}

/// What a plane says that has these nodes: name, status of `Ready`, message.
pub fn view(nodes: &[(&str, &str, &str)], dns_ready: u32) -> View {
    let node = |(name, ready, message): &(&str, &str, &str)| {
        serde_json::from_value(json!({
            "metadata": { "name": name },
            "status": { "conditions": [{ "type": "Ready", "status": ready, "message": message }] },
        }))
        .unwrap()
    };
    View {
        nodes: nodes.iter().map(node).collect(),
        requests: vec![],
        dns_ready: Some(dns_ready),
    }
}

/// The same cluster, whose API server has answered.
pub fn answered(mut world: World) -> World {
    let status = json!({ "phases": [{
        "name": "ApiServer", "finishedAt": "2026-01-01T00:00:00Z", "milliseconds": 1,
    }] });
    world.cluster.status = Some(serde_json::from_value(status).unwrap());
    world
}
