//! etcd of a plane: a StatefulSet of one Pod per member, so that members are replaced one
//! by one and keep their store.

use serde_json::{Value, json};

use crate::Keys;
use crate::object::{
    CONFIG_ANNOTATION, container_security, disruption_budget, hash, metadata, pod, pod_labels,
    secret_volume, selector, spread,
};
use crate::services::member_name;
use crate::world::{Store, World};

/// Most that the store may hold; etcd's own default.
const QUOTA_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Volume for it: the store, its log and snapshots.
const VOLUME: &str = "8Gi";

const PKI: &str = "/etc/etcd/pki";
const DATA: &str = "/var/lib/etcd";

/// Every member, and what keeps a majority of several.
pub(crate) fn members(world: &World, keys: &Keys) -> Vec<Value> {
    let mut all: Vec<Value> = (0..world.replicas())
        .map(|member| stateful_set(world, keys, member))
        .collect();
    if world.replicas() > 1 {
        all.push(disruption_budget(world, "etcd"));
    }
    all
}

fn stateful_set(world: &World, keys: &Keys, member: u32) -> Value {
    let name = member_name(member);
    let mut pod = pod(20);
    pod["containers"] = json!([container(world, member)]);
    pod["volumes"] = json!([secret_volume("pki", &name)]);
    pod["topologySpreadConstraints"] = spread(world, "etcd");
    let mut spec = json!({
        "serviceName": name,
        "replicas": 1,
        "podManagementPolicy": "Parallel",
        "selector": { "matchLabels": selector(world, "etcd", Some(member)) },
    });
    match &world.hub.store {
        Store::HostPath(path) => {
            let path = format!("{path}/{}/{name}", world.uid());
            let volume =
                json!({ "name": "data", "hostPath": { "path": path, "type": "Directory" } });
            push(&mut pod["volumes"], volume);
        }
        Store::StorageClass(class) => {
            spec["volumeClaimTemplates"] = json!([claim(world, class.as_deref())]);
            spec["persistentVolumeClaimRetentionPolicy"] =
                json!({ "whenDeleted": "Delete", "whenScaled": "Retain" });
        }
    }
    let config = hash([keys.text("etcd-ca.crt")]);
    spec["template"] = json!({
        "metadata": {
            "labels": pod_labels(world, "etcd", Some(member)),
            "annotations": { CONFIG_ANNOTATION: config },
        },
        "spec": pod,
    });
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(world, &name),
        "spec": spec,
    })
}

fn claim(world: &World, class: Option<&str>) -> Value {
    let mut claim = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": { "name": "data", "labels": crate::object::labels(world) },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": VOLUME } },
        },
    });
    if let Some(class) = class {
        claim["spec"]["storageClassName"] = json!(class);
    }
    claim
}

fn push(list: &mut Value, item: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(item);
    }
}

fn container(world: &World, member: u32) -> Value {
    // Asked of the port: health over HTTP would be open to everybody at the hub.
    let port = json!({ "port": 2379 });
    json!({
        "name": "etcd",
        "image": world.hub.images.etcd,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/usr/local/bin/etcd"],
        "args": arguments(world, member),
        "env": crate::object::sparing(),
        "ports": [
            { "name": "client", "containerPort": 2379, "protocol": "TCP" },
            { "name": "peer", "containerPort": 2380, "protocol": "TCP" },
        ],
        "securityContext": container_security(),
        "resources": { "requests": { "cpu": "50m", "memory": "64Mi" } },
        "volumeMounts": [
            { "name": "pki", "mountPath": PKI, "readOnly": true },
            { "name": "data", "mountPath": DATA },
        ],
        "startupProbe": { "tcpSocket": port, "periodSeconds": 1, "failureThreshold": 300 },
        "livenessProbe": { "tcpSocket": port, "periodSeconds": 20, "failureThreshold": 6 },
    })
}

fn arguments(world: &World, member: u32) -> Vec<String> {
    let url = |member: u32, port: u16| {
        let address = world.addresses.get(&member_name(member));
        let address = address.map(ToString::to_string).unwrap_or_default();
        format!("https://{address}:{port}")
    };
    let cluster: Vec<String> = (0..world.replicas())
        .map(|member| format!("{}={}", member_name(member), url(member, 2380)))
        .collect();
    let mut arguments = vec![
        format!("--name={}", member_name(member)),
        // Below the mount, so that etcd itself makes it with the mode that it wants.
        format!("--data-dir={DATA}/data"),
        "--listen-client-urls=https://0.0.0.0:2379".to_owned(),
        format!("--advertise-client-urls={}", url(member, 2379)),
        "--listen-peer-urls=https://0.0.0.0:2380".to_owned(),
        format!("--initial-advertise-peer-urls={}", url(member, 2380)),
        format!("--initial-cluster={}", cluster.join(",")),
        format!("--initial-cluster-token={}", world.uid()),
        "--listen-metrics-urls=http://127.0.0.1:2381".to_owned(),
        format!("--quota-backend-bytes={QUOTA_BYTES}"),
        "--auto-compaction-mode=periodic".to_owned(),
        "--auto-compaction-retention=8h".to_owned(),
        "--tls-min-version=TLS1.2".to_owned(),
    ];
    if world.replicas() == 1 {
        // A new leader is awaited for one election timeout at most, and nothing is served before
        // it; nobody else stands for election here, so that nothing is gained by patience.
        arguments.extend([
            "--heartbeat-interval=20".to_owned(),
            "--election-timeout=100".to_owned(),
        ]);
    }
    for peer in ["", "peer-"] {
        arguments.extend([
            format!("--{peer}cert-file={PKI}/tls.crt"),
            format!("--{peer}key-file={PKI}/tls.key"),
            format!("--{peer}trusted-ca-file={PKI}/ca.crt"),
        ]);
    }
    arguments.extend([
        "--client-cert-auth=true".to_owned(),
        "--peer-client-cert-auth=true".to_owned(),
        // Peers come from the address of their Pod, while certificates name the Service.
        "--peer-skip-client-san-verification=true".to_owned(),
    ]);
    arguments
}
