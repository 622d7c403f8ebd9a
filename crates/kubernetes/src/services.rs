//! Namespace and Services of a plane. Their addresses go into certificates, so they come
//! before everything else.

use farplane_types::names;
use serde_json::{Value, json};

use crate::API_PORT;
use crate::object::{labels, metadata, selector};
use crate::world::{Store, World};

/// Namespace and Services of the plane, in this order.
pub fn services(world: &World) -> Vec<Value> {
    let mut all = vec![namespace(world)];
    all.extend((0..world.replicas()).map(|member| etcd(world, member)));
    all.push(apiserver(world));
    all
}

/// Name of the Service, StatefulSet, Secret and key of an etcd member.
pub(crate) fn member_name(member: u32) -> String {
    format!("etcd-{member}")
}

fn namespace(world: &World) -> Value {
    let mut labels = labels(world);
    // A directory of the node is more than the stricter levels allow a volume to be.
    labels["pod-security.kubernetes.io/enforce"] = match world.hub.store {
        Store::HostPath(_) => json!("privileged"),
        Store::StorageClass(_) => json!("restricted"),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": names::plane_namespace(world.uid()),
            "labels": labels,
            "annotations": { "farplane.io/cluster": world.name() },
        },
    })
}

fn etcd(world: &World, member: u32) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(world, &member_name(member)),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(world, "etcd", Some(member)),
            // Members find one another before any is ready; and the API server need not
            // wait for a probe.
            "publishNotReadyAddresses": true,
            "ports": [
                { "name": "client", "port": 2379, "targetPort": 2379, "protocol": "TCP" },
                { "name": "peer", "port": 2380, "targetPort": 2380, "protocol": "TCP" },
            ],
        },
    })
}

fn apiserver(world: &World) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(world, "apiserver"),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(world, "apiserver", None),
            // One that is not ready is better than none, but not than a ready one.
            "publishNotReadyAddresses": world.replicas() == 1,
            "ports": [
                { "name": "https", "port": API_PORT, "targetPort": API_PORT, "protocol": "TCP" },
            ],
        },
    })
}
