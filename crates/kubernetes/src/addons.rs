//! What runs and is allowed inside the cluster: rights of nodes, of the API server towards
//! kubelets and of the organization's admins, and CoreDNS.

use serde_json::{Value, json};

use crate::API_ADDRESS;
use crate::world::World;

/// Group of the organization's admins.
pub(crate) const ADMINS: &str = "farplane:cluster-admins";
/// User as which the API server calls kubelets.
pub(crate) const KUBELET_CLIENT: &str = "farplane:apiserver";
/// Group of hosts that are not nodes yet.
pub(crate) const BOOTSTRAPPERS: &str = "system:bootstrappers:farplane";
/// Users of hosts that are not nodes yet: this and the host's name.
pub(crate) const BOOTSTRAP_USER: &str = "farplane:bootstrap:";
/// Number of the DNS Service's address in the Service range.
pub(crate) const DNS_NUMBER: u32 = 10;

const RBAC: &str = "rbac.authorization.k8s.io";
const COREDNS: &str = "coredns";
const NAMESPACE: &str = "kube-system";
/// Unprivileged, so that no capability is needed.
const DNS_PORT: u16 = 1053;

/// Objects to apply through the plane's own API server, in this order.
pub fn addons(world: &World) -> Vec<Value> {
    let mut all = vec![
        binding(
            "farplane:bootstrap",
            "system:node-bootstrapper",
            group(BOOTSTRAPPERS),
        ),
        node_role(),
        binding("farplane:node", "farplane:node", group("system:nodes")),
        binding(
            "farplane:apiserver",
            "system:kubelet-api-admin",
            json!({ "apiGroup": RBAC, "kind": "User", "name": KUBELET_CLIENT }),
        ),
        binding(ADMINS, "cluster-admin", group(ADMINS)),
    ];
    if let Some(image) = crate::node::image_reference(world, COREDNS) {
        all.extend(coredns(world, &image));
    }
    all
}

fn group(name: &str) -> Value {
    json!({ "apiGroup": RBAC, "kind": "Group", "name": name })
}

fn labels() -> Value {
    json!({ "app.kubernetes.io/managed-by": "farplane" })
}

fn binding(name: &str, role: &str, subject: Value) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": { "name": name, "labels": labels() },
        "roleRef": { "apiGroup": RBAC, "kind": "ClusterRole", "name": role },
        "subjects": [subject],
    })
}

/// What flannel and kube-proxy need: they call as the node.
fn node_role() -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "ClusterRole",
        "metadata": { "name": "farplane:node", "labels": labels() },
        "rules": [
            { "apiGroups": [""], "resources": ["nodes", "services"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"] },
            { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": ["networking.k8s.io"], "resources": ["servicecidrs"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"] },
        ],
    })
}

fn coredns(world: &World, image: &str) -> Vec<Value> {
    let metadata = json!({ "name": COREDNS, "namespace": NAMESPACE, "labels": labels() });
    let subject = json!({ "kind": "ServiceAccount", "name": COREDNS, "namespace": NAMESPACE });
    let file = corefile();
    vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata }),
        json!({
            "apiVersion": format!("{RBAC}/v1"),
            "kind": "ClusterRole",
            "metadata": { "name": "farplane:coredns", "labels": labels() },
            "rules": [
                { "apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"] },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
            ],
        }),
        binding("farplane:coredns", "farplane:coredns", subject),
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": { "Corefile": file },
        }),
        service(world),
        deployment(metadata.clone(), image),
    ]
}

/// Names of elsewhere go to the node's name servers. The second upstream answers nothing and
/// is asked only when there are none: without any CoreDNS would not start.
fn corefile() -> String {
    format!(
        "\
.:{DNS_PORT} {{
    errors
    health {{
        lameduck 5s
    }}
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }}
    prometheus :9153
    forward . /etc/resolv.conf {API_ADDRESS} {{
        policy sequential
        max_concurrent 1000
    }}
    cache 30
    loop
    reload
    loadbalance
}}
"
    )
}

fn service(world: &World) -> Value {
    let address = world.service_address(DNS_NUMBER).map(|ip| ip.to_string());
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": NAMESPACE,
            "labels": {
                "app.kubernetes.io/managed-by": "farplane",
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "clusterIP": address,
            "selector": { "k8s-app": "kube-dns" },
            "ports": [
                { "name": "dns", "port": 53, "targetPort": DNS_PORT, "protocol": "UDP" },
                { "name": "dns-tcp", "port": 53, "targetPort": DNS_PORT, "protocol": "TCP" },
                { "name": "metrics", "port": 9153, "targetPort": 9153, "protocol": "TCP" },
            ],
        },
    })
}

fn deployment(metadata: Value, image: &str) -> Value {
    let selector = json!({ "k8s-app": "kube-dns" });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": 2,
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 1 } },
            "selector": { "matchLabels": selector },
            "template": {
                "metadata": { "labels": selector },
                "spec": {
                    "serviceAccountName": COREDNS,
                    "priorityClassName": "system-cluster-critical",
                    "dnsPolicy": "Default",
                    "nodeSelector": { "kubernetes.io/os": "linux" },
                    "tolerations": [{ "key": "CriticalAddonsOnly", "operator": "Exists" }],
                    "topologySpreadConstraints": [{
                        "maxSkew": 1,
                        "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": { "matchLabels": selector },
                    }],
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": 65532,
                        "runAsGroup": 65532,
                        "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "containers": [container(image)],
                    "volumes": [{ "name": "config", "configMap": { "name": COREDNS } }],
                },
            },
        },
    })
}

fn container(image: &str) -> Value {
    json!({
        "name": COREDNS,
        "image": image,
        // Its plan brings it to every host; nobody on the internet is asked for it.
        "imagePullPolicy": "Never",
        "command": ["/usr/local/bin/coredns"],
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            { "name": "dns", "containerPort": DNS_PORT, "protocol": "UDP" },
            { "name": "dns-tcp", "containerPort": DNS_PORT, "protocol": "TCP" },
            { "name": "metrics", "containerPort": 9153, "protocol": "TCP" },
        ],
        "securityContext": crate::object::container_security(),
        "resources": { "requests": { "cpu": "50m", "memory": "48Mi" }, "limits": { "memory": "170Mi" } },
        "volumeMounts": [{ "name": "config", "mountPath": "/etc/coredns", "readOnly": true }],
        "readinessProbe": { "httpGet": { "path": "/ready", "port": 8181 }, "periodSeconds": 2 },
        "livenessProbe": { "httpGet": { "path": "/health", "port": 8080 }, "initialDelaySeconds": 30, "timeoutSeconds": 5, "failureThreshold": 5 },
    })
}
