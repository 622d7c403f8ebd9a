//! Workloads of the control plane: etcd, API server, controller-manager and scheduler.
//!
//! etcd and API server are applied at once: the one waits for the other by trying again, which is
//! quicker than any order. The controllers follow once the API server answers: before that they
//! would only take processor time from it. A changed configuration makes new Pods by its hash in
//! the template. Leaves are left out of the hash, since the programs read renewed ones from the
//! mounted Secrets; but for the one of egress, which the API server reads once.

use serde_json::{Value, json};

use crate::config::{self, PKI};
use crate::object::{
    CONFIG_ANNOTATION, container_security, disruption_budget, hash, metadata, pod, pod_labels,
    secret_volume, selector, spread,
};
use crate::services::member_name;
use crate::{API_ADDRESS, API_PORT, Keys, World, etcd};

const CONFIG: &str = "/etc/kubernetes/config";
const AUDIT: &str = "/var/log/audit";
/// Own keys of controller-manager or scheduler.
const OWN: &str = "/etc/kubernetes/own";
/// Issuer of tokens of service accounts.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How long certificates of nodes are valid.
const SIGNING_DURATION: &str = "720h";

/// Workloads at the hub with the configuration that they mount, up to the API server; none needs
/// another to be there.
pub fn control_plane(world: &World, keys: &Keys) -> Vec<Value> {
    let files = config::apiserver(world);
    let mut all = vec![config_map(world, &files)];
    all.extend(etcd::members(world, keys));
    all.push(apiserver(world, keys, &files));
    if world.replicas() > 1 {
        all.push(disruption_budget(world, "apiserver"));
    }
    all
}

fn config_map(world: &World, files: &[(&str, String)]) -> Value {
    let data: serde_json::Map<String, Value> = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), json!(text)))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(world, "apiserver"),
        "data": data,
    })
}

fn apiserver(world: &World, keys: &Keys, files: &[(&str, String)]) -> Value {
    let mut config: Vec<&str> = files.iter().map(|(_, text)| text.as_str()).collect();
    config.extend(
        [
            "ca.crt",
            "front-proxy-ca.crt",
            "etcd-ca.crt",
            "sa.pub",
            "encryption.yaml",
            "egress-client.crt",
        ]
        .map(|name| keys.text(name)),
    );
    config.push(&world.hub.ca_pem);
    let gateway = farplane_types::names::gateway_server_name(&world.hub.domain);
    let mut pod = pod(15);
    pod["hostAliases"] =
        json!([{ "ip": world.hub.gateway_address.to_string(), "hostnames": [gateway] }]);
    pod["containers"] = json!([apiserver_container(world)]);
    pod["topologySpreadConstraints"] = spread(world, "apiserver");
    pod["volumes"] = json!([
        secret_volume("pki", "apiserver"),
        { "name": "config", "configMap": { "name": "apiserver" } },
        { "name": "audit", "emptyDir": { "sizeLimit": "64Mi" } },
    ]);
    deployment(world, "apiserver", world.replicas(), &hash(config), pod)
}

fn deployment(world: &World, name: &str, replicas: u32, config: &str, pod: Value) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(world, name),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 2,
            "selector": { "matchLabels": selector(world, name, None) },
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 },
            },
            "template": {
                "metadata": {
                    "labels": pod_labels(world, name, None),
                    "annotations": { CONFIG_ANNOTATION: config },
                },
                "spec": pod,
            },
        },
    })
}

fn https(path: &str, port: u16) -> Value {
    json!({ "scheme": "HTTPS", "path": path, "port": port })
}

fn apiserver_container(world: &World) -> Value {
    let (live, ready) = (https("/livez", API_PORT), https("/readyz", API_PORT));
    json!({
        "name": "apiserver",
        "image": world.hub.images.kubernetes_server,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/usr/local/bin/kube-apiserver"],
        "args": apiserver_arguments(world),
        "env": crate::object::sparing(),
        "ports": [{ "name": "https", "containerPort": API_PORT, "protocol": "TCP" }],
        "securityContext": container_security(),
        "resources": { "requests": { "cpu": "100m", "memory": "256Mi" } },
        "volumeMounts": [
            { "name": "pki", "mountPath": PKI, "readOnly": true },
            { "name": "config", "mountPath": CONFIG, "readOnly": true },
            { "name": "audit", "mountPath": AUDIT },
        ],
        "startupProbe": { "httpGet": live, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 300 },
        "readinessProbe": { "httpGet": ready, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 3 },
        "livenessProbe": { "httpGet": live, "periodSeconds": 10, "timeoutSeconds": 15, "failureThreshold": 8 },
    })
}

fn apiserver_arguments(world: &World) -> Vec<String> {
    let etcd: Vec<String> = (0..world.replicas())
        .filter_map(|member| world.addresses.get(&member_name(member)))
        .map(|address| format!("https://{address}:2379"))
        .collect();
    let network = &world.cluster.spec.network;
    let mut arguments = vec![
        "--bind-address=0.0.0.0".to_owned(),
        format!("--secure-port={API_PORT}"),
        format!("--advertise-address={API_ADDRESS}"),
        format!("--service-cluster-ip-range={}", network.service_cidr),
        format!("--etcd-servers={}", etcd.join(",")),
        format!("--etcd-cafile={PKI}/etcd-ca.crt"),
        format!("--etcd-certfile={PKI}/apiserver-etcd-client.crt"),
        format!("--etcd-keyfile={PKI}/apiserver-etcd-client.key"),
        format!("--tls-cert-file={PKI}/apiserver.crt"),
        format!("--tls-private-key-file={PKI}/apiserver.key"),
        "--tls-min-version=VersionTLS12".to_owned(),
        format!("--client-ca-file={PKI}/ca.crt"),
        format!("--authentication-config={CONFIG}/authentication.yaml"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--enable-bootstrap-token-auth=false".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--service-account-issuer={ISSUER}"),
        format!("--service-account-key-file={PKI}/sa.pub"),
        format!("--service-account-signing-key-file={PKI}/sa.key"),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--kubelet-certificate-authority={PKI}/ca.crt"),
        format!("--kubelet-client-certificate={PKI}/apiserver-kubelet-client.crt"),
        format!("--kubelet-client-key={PKI}/apiserver-kubelet-client.key"),
        format!("--requestheader-client-ca-file={PKI}/front-proxy-ca.crt"),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        format!("--proxy-client-cert-file={PKI}/front-proxy-client.crt"),
        format!("--proxy-client-key-file={PKI}/front-proxy-client.key"),
        format!("--egress-selector-config-file={CONFIG}/egress.yaml"),
        format!("--encryption-provider-config={PKI}/encryption.yaml"),
        format!("--audit-policy-file={CONFIG}/audit.yaml"),
        format!("--audit-log-path={AUDIT}/audit.log"),
        // Below the volume's limit together; one beyond it would evict the Pod.
        "--audit-log-maxsize=10".to_owned(),
        "--audit-log-maxbackup=3".to_owned(),
        "--profiling=false".to_owned(),
    ];
    if world.replicas() > 1 {
        // Long connections spread over replicas that come back.
        arguments.push("--goaway-chance=0.001".to_owned());
    }
    arguments
}

/// Controller-manager and scheduler, for an API server that answers.
pub fn controllers(world: &World, keys: &Keys) -> Value {
    let config = hash(["ca.crt", "sa.pub"].map(|name| keys.text(name)));
    let mut pod = pod(10);
    pod["containers"] = json!([
        controller(world, "controller-manager", 10257, manager_arguments(world)),
        controller(world, "scheduler", 10259, Vec::new()),
    ]);
    pod["topologySpreadConstraints"] = spread(world, "controllers");
    pod["volumes"] = json!([
        secret_volume("controller-manager", "controller-manager"),
        secret_volume("scheduler", "scheduler"),
    ]);
    let replicas = world.replicas().min(2);
    deployment(world, "controllers", replicas, &config, pod)
}

fn controller(world: &World, name: &str, port: u16, mut arguments: Vec<String>) -> Value {
    arguments.extend([
        format!("--kubeconfig={OWN}/{name}.kubeconfig"),
        // Without somebody to ask for rights, only health is answered.
        "--bind-address=0.0.0.0".to_owned(),
        format!("--secure-port={port}"),
        format!("--tls-cert-file={OWN}/controllers.crt"),
        format!("--tls-private-key-file={OWN}/controllers.key"),
        "--tls-min-version=VersionTLS12".to_owned(),
        "--leader-elect=true".to_owned(),
        "--profiling=false".to_owned(),
    ]);
    let health = https("/healthz", port);
    json!({
        "name": name,
        "image": world.hub.images.kubernetes_server,
        "imagePullPolicy": "IfNotPresent",
        "command": [format!("/usr/local/bin/kube-{name}")],
        "args": arguments,
        "env": crate::object::sparing(),
        "ports": [{ "containerPort": port, "protocol": "TCP" }],
        "securityContext": container_security(),
        "resources": { "requests": { "cpu": "25m", "memory": "48Mi" } },
        "volumeMounts": [{ "name": name, "mountPath": OWN, "readOnly": true }],
        "startupProbe": { "httpGet": health, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 60 },
        "livenessProbe": { "httpGet": health, "periodSeconds": 15, "timeoutSeconds": 15, "failureThreshold": 6 },
    })
}

fn manager_arguments(world: &World) -> Vec<String> {
    let network = &world.cluster.spec.network;
    vec![
        "--controllers=*".to_owned(),
        "--allocate-node-cidrs=true".to_owned(),
        format!("--cluster-cidr={}", network.pod_cidr),
        format!("--service-cluster-ip-range={}", network.service_cidr),
        "--use-service-account-credentials=true".to_owned(),
        format!("--root-ca-file={OWN}/ca.crt"),
        format!("--service-account-private-key-file={OWN}/sa.key"),
        format!("--cluster-signing-cert-file={OWN}/ca.crt"),
        format!("--cluster-signing-key-file={OWN}/ca.key"),
        format!("--cluster-signing-duration={SIGNING_DURATION}"),
        // Each of its controllers gets an account first, one after the other: at the usual
        // rate that takes six seconds, in which no node gets its certificate.
        "--kube-api-qps=100".to_owned(),
        "--kube-api-burst=200".to_owned(),
        // It asks for the lease before the API server has it to give.
        "--leader-elect-retry-period=1s".to_owned(),
    ]
}
