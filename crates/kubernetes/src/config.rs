//! Configuration files of the API server.

use farplane_types::names::gateway_server_name;
use serde_json::{Value, json};

use crate::World;
use crate::object::yaml;

/// Port of the gateway within the hub.
const GATEWAY_PORT: u16 = 8443;

/// Where the Secret of the API server is mounted.
pub(crate) const PKI: &str = "/etc/kubernetes/pki";

/// Files by name, all public.
pub(crate) fn apiserver(world: &World) -> [(&'static str, String); 3] {
    [
        ("audit.yaml", yaml(&audit())),
        ("authentication.yaml", yaml(&authentication())),
        ("egress.yaml", yaml(&egress(world))),
    ]
}

/// Encrypts Secrets with this key (32 bytes, base64).
pub(crate) fn encryption(key: &str) -> String {
    yaml(&json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{
            "resources": ["secrets"],
            "providers": [{ "secretbox": { "keys": [{ "name": "key1", "secret": key }] } }],
        }],
    }))
}

fn authentication() -> Value {
    let paths = ["/livez", "/readyz", "/healthz"].map(|path| json!({ "path": path }));
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "jwt": [],
        "anonymous": { "enabled": true, "conditions": paths },
    })
}

/// What the organization makes the API server call, it calls through its own tunnel.
fn egress(world: &World) -> Value {
    let url = format!(
        "https://{}:{GATEWAY_PORT}",
        gateway_server_name(&world.hub.domain)
    );
    let tunnel = json!({
        "proxyProtocol": "HTTPConnect",
        "transport": { "tcp": {
            "url": url,
            "tlsConfig": {
                "caBundle": format!("{PKI}/hub-ca.crt"),
                "clientCert": format!("{PKI}/egress-client.crt"),
                "clientKey": format!("{PKI}/egress-client.key"),
            },
        } },
    });
    json!({
        "apiVersion": "apiserver.k8s.io/v1beta1",
        "kind": "EgressSelectorConfiguration",
        "egressSelections": [
            { "name": "cluster", "connection": tunnel },
            { "name": "controlplane", "connection": tunnel },
            { "name": "etcd", "connection": { "proxyProtocol": "Direct" } },
        ],
    })
}

/// Who did what, without bodies. Reads by the control plane and the nodes themselves are
/// left out: they are most of the traffic and say nothing.
fn audit() -> Value {
    let system = [
        "system:kube-controller-manager",
        "system:kube-scheduler",
        "system:apiserver",
        "farplane:hub",
    ];
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitManagedFields": true,
        "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi/*"] },
            { "level": "None", "resources": [
                { "group": "coordination.k8s.io", "resources": ["leases"] },
                { "group": "", "resources": ["events"] },
                { "group": "events.k8s.io", "resources": ["events"] },
            ] },
            { "level": "Metadata", "resources": [{ "group": "", "resources": ["secrets"] }] },
            { "level": "None", "users": system, "verbs": ["get", "list", "watch"] },
            { "level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"], "verbs": ["get", "list", "watch"] },
            { "level": "Metadata" },
        ],
    })
}
