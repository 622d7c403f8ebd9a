//! Pieces that every object of a plane has, and the text form of configuration files.

use farplane_types::names::{COMPONENT_LABEL, ORGANIZATION_LABEL, PLANE_LABEL};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::World;

/// Label that tells members of a component apart.
pub(crate) const MEMBER_LABEL: &str = "farplane.io/member";
/// Annotation of Pod templates: a changed configuration makes new Pods.
pub(crate) const CONFIG_ANNOTATION: &str = "farplane.io/config";

/// User and group of every process at the hub.
const NOBODY: u32 = 65532;

/// Labels of every object of the plane.
pub(crate) fn labels(world: &World) -> Value {
    json!({
        PLANE_LABEL: world.uid(),
        ORGANIZATION_LABEL: world.organization,
        "app.kubernetes.io/managed-by": "farplane",
    })
}

/// Labels by which the Pods of one component are found.
pub(crate) fn selector(world: &World, component: &str, member: Option<u32>) -> Value {
    let mut labels = json!({ PLANE_LABEL: world.uid(), COMPONENT_LABEL: component });
    if let Some(member) = member {
        labels[MEMBER_LABEL] = json!(member.to_string());
    }
    labels
}

/// Labels of the Pods of one component.
pub(crate) fn pod_labels(world: &World, component: &str, member: Option<u32>) -> Value {
    let mut all = labels(world);
    if let (Some(all), Value::Object(own)) =
        (all.as_object_mut(), selector(world, component, member))
    {
        all.extend(own);
    }
    all
}

/// Metadata of an object in the plane's namespace.
pub(crate) fn metadata(world: &World, name: &str) -> Value {
    json!({ "name": name, "namespace": world.namespace(), "labels": labels(world) })
}

/// A Pod without containers: no rights at the hub, no privileges.
pub(crate) fn pod(grace_seconds: u32) -> Value {
    json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        // Addresses are in the configuration: nothing at the hub has to resolve names.
        "dnsPolicy": "Default",
        "terminationGracePeriodSeconds": grace_seconds,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": NOBODY,
            "runAsGroup": NOBODY,
            "fsGroup": NOBODY,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    })
}

/// Environment of upstream programs. Idle planes are most of what a hub holds: memory is
/// dearer there than collecting garbage.
pub(crate) fn sparing() -> Value {
    json!([{ "name": "GOGC", "value": "50" }])
}

/// Security of every container.
pub(crate) fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    })
}

/// Spreads the Pods of a component over the hub's nodes where there are several.
pub(crate) fn spread(world: &World, component: &str) -> Value {
    json!([{
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": { "matchLabels": selector(world, component, None) },
    }])
}

/// Lets one Pod of a component at a time be taken away; for components of several Pods.
pub(crate) fn disruption_budget(world: &World, component: &str) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(world, component),
        "spec": {
            "maxUnavailable": 1,
            "selector": { "matchLabels": selector(world, component, None) },
        },
    })
}

/// A volume of a Secret, readable by the Pod's group only.
pub(crate) fn secret_volume(name: &str, secret: &str) -> Value {
    json!({ "name": name, "secret": { "secretName": secret, "defaultMode": 0o440 } })
}

/// YAML with sorted keys, so that equal configuration is equal text.
pub(crate) fn yaml(value: &Value) -> String {
    // Values made of JSON always have a YAML form.
    serde_yaml_ng::to_string(&sorted(value)).unwrap_or_default()
}

fn sorted(value: &Value) -> serde_yaml_ng::Value {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort();
            let fields = keys
                .into_iter()
                .map(|key| (key.as_str().into(), sorted(&fields[key])));
            serde_yaml_ng::Value::Mapping(fields.collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => serde_yaml_ng::to_value(other).unwrap_or_default(),
    }
}

/// A short hash of several texts.
pub(crate) fn hash<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hex::encode(&hash.finalize()[..16])
}
