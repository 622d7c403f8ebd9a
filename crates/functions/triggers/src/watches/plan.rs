//! What a trigger watches. Pure.

use farplane_functions_types::KubernetesWatchTrigger;
use kube::ResourceExt as _;
use kube::core::{ApiResource, GroupVersionKind};

use crate::objects::Said;
use crate::target::Target;

/// What a trigger watches, and what it calls.
#[derive(Debug)]
pub(crate) struct Plan {
    pub namespace: String,
    pub resource: ApiResource,
    pub selector: String,
    pub target: Target,
}

impl Plan {
    /// Or what is wrong with the trigger.
    pub fn of(trigger: &KubernetesWatchTrigger) -> Result<Self, Said> {
        let spec = &trigger.spec;
        let namespace = trigger.namespace().unwrap_or_default();
        if !spec.namespace.is_empty() && spec.namespace != namespace {
            let message = format!(
                "a trigger watches its own namespace {namespace}, not {}",
                spec.namespace
            );
            return Err(Said::no("CrossNamespace", message));
        }
        let (group, version, kind) = match spec.kind.to_ascii_uppercase().as_str() {
            "POD" => ("", "v1", "Pod"),
            "SERVICE" => ("", "v1", "Service"),
            "REPLICATIONCONTROLLER" => ("", "v1", "ReplicationController"),
            "JOB" => ("batch", "v1", "Job"),
            other => {
                let message = format!(
                    "type {other:?} cannot be watched; POD, SERVICE, REPLICATIONCONTROLLER and JOB can"
                );
                return Err(Said::no("UnknownType", message));
            }
        };
        let mut selector = Vec::new();
        for (label, value) in &spec.label_selector {
            if !is_label(label) || !is_value(value) {
                let message = format!("{label:?}: {value:?} is no label");
                return Err(Said::no("InvalidLabelSelector", message));
            }
            selector.push(format!("{label}={value}"));
        }
        let target = Target::of(&namespace, &spec.function_ref)
            .map_err(|error| Said::no("InvalidFunctionReference", error.to_string()))?;
        Ok(Self {
            namespace,
            resource: ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind)),
            selector: selector.join(","),
            target,
        })
    }
}

fn is_label(text: &str) -> bool {
    let name = text.bytes().all(|byte| is_word(byte) || byte == b'/');
    name && !text.is_empty()
}

fn is_value(text: &str) -> bool {
    text.bytes().all(is_word)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(kind: &str, namespace: &str, labels: serde_json::Value) -> Result<Plan, &'static str> {
        let object = json!({
            "apiVersion": "fission.io/v1", "kind": "KubernetesWatchTrigger",
            "metadata": { "namespace": "ns", "name": "w" },
            "spec": {
                "type": kind, "namespace": namespace, "labelselector": labels,
                "functionref": { "type": "name", "name": "f" },
            },
        });
        Plan::of(&serde_json::from_value(object).unwrap()).map_err(|said| said.reason)
    }

    #[test]
    fn the_four_kinds_in_any_case() {
        for (kind, plural) in [
            ("POD", "pods"),
            ("service", "services"),
            ("ReplicationController", "replicationcontrollers"),
            ("job", "jobs"),
        ] {
            let plan = plan(kind, "", json!({})).unwrap();
            assert_eq!(plan.resource.plural, plural);
            assert_eq!(plan.namespace, "ns");
        }
        for kind in ["", "SECRET", "CONFIGMAP", "NODE", "POD "] {
            assert_eq!(plan(kind, "", json!({})).unwrap_err(), "UnknownType");
        }
    }

    #[test]
    fn no_other_namespace_is_watched() {
        assert!(plan("POD", "ns", json!({})).is_ok());
        for other in ["kube-system", "*", "ns2"] {
            assert_eq!(plan("POD", other, json!({})).unwrap_err(), "CrossNamespace");
        }
    }

    #[test]
    fn selectors_hold_nothing_but_labels() {
        let labels = json!({ "a.b/c": "d_e", "f": "" });
        assert_eq!(plan("POD", "", labels).unwrap().selector, "a.b/c=d_e,f=");
        for labels in [
            json!({ "a": "b,c!=d" }),
            json!({ "": "b" }),
            json!({ "a,b": "c" }),
        ] {
            assert_eq!(plan("POD", "", labels).unwrap_err(), "InvalidLabelSelector");
        }
    }
}
