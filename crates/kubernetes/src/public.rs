//! The kubeconfig that people get.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use farplane_types::names::organization_namespace;
use kube::Resource as _;
use serde_json::{Value, json};

use crate::keys::{encoded, kubeconfig};
use crate::{Keys, World};

/// The Secret `<cluster>-kubeconfig` in the organization's namespace. Its user is an admin of
/// the cluster by a group, so that a binding inside the cluster can take that away; and by
/// the gateway's address with `tls-server-name`, so that no DNS is needed.
pub fn public_kubeconfig(world: &World, keys: &Keys) -> Value {
    // Two clusters of one name meet in one person's file; labels of DNS hold no dot.
    let name = format!("{}.{}", world.name(), world.organization);
    let cluster = json!({
        "server": server(world),
        "tls-server-name": world.server_name(),
        "certificate-authority-data": encoded(keys, "ca.crt"),
    });
    let user = json!({
        "client-certificate-data": encoded(keys, "user.crt"),
        "client-key-data": encoded(keys, "user.key"),
    });
    let text = kubeconfig(&name, &format!("admin@{name}"), cluster, user);
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret_name(world),
            "namespace": organization_namespace(&world.organization),
            "labels": crate::object::labels(world),
            "ownerReferences": world.cluster.controller_owner_ref(&()).into_iter().collect::<Vec<_>>(),
        },
        "type": "Opaque",
        "data": { "kubeconfig": BASE64.encode(text) },
    })
}

/// Name of that Secret.
pub(crate) fn secret_name(world: &World) -> String {
    format!("{}-kubeconfig", world.name())
}

/// What clients dial.
pub(crate) fn server(world: &World) -> String {
    format!("https://{}", world.hub.public_address)
}
