//! What users may say of Pods: lists of fields, and rules for values of some.
//!
//! Each rule answers to a way in which a tenant could leave its namespace: the node's resources,
//! another identity, the fetcher's token or the platform's keys.

use farplane_functions_types::names::AUTH_KEYS_SECRET;
use serde_json::{Map, Value};

use super::{FETCHER, INFO_VOLUME, SHARED, TOKEN_VOLUME};

/// Something that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {reason}")]
pub(crate) struct Refused {
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Refused {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

const POD_FIELDS: [&str; 17] = [
    "containers",
    "initContainers",
    "volumes",
    "nodeSelector",
    "tolerations",
    "affinity",
    "topologySpreadConstraints",
    "runtimeClassName",
    "imagePullSecrets",
    "terminationGracePeriodSeconds",
    "dnsPolicy",
    "dnsConfig",
    "hostAliases",
    "securityContext",
    "schedulerName",
    "overhead",
    "preemptionPolicy",
];
/// Fields whose zero value says nothing: written by tools that write everything.
const EMPTY_POD_FIELDS: [&str; 10] = [
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "shareProcessNamespace",
    "automountServiceAccountToken",
    "serviceAccountName",
    "serviceAccount",
    "nodeName",
    "priorityClassName",
    "enableServiceLinks",
];
const POD_SECURITY_FIELDS: [&str; 8] = [
    "runAsUser",
    "runAsGroup",
    "runAsNonRoot",
    "fsGroup",
    "fsGroupChangePolicy",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seccompProfile",
];
const CONTAINER_FIELDS: [&str; 19] = [
    "name",
    "image",
    "imagePullPolicy",
    "command",
    "args",
    "workingDir",
    "env",
    "envFrom",
    "resources",
    "resizePolicy",
    "volumeMounts",
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "securityContext",
    "terminationMessagePath",
    "terminationMessagePolicy",
];
const SECURITY_FIELDS: [&str; 9] = [
    "runAsUser",
    "runAsGroup",
    "runAsNonRoot",
    "readOnlyRootFilesystem",
    "allowPrivilegeEscalation",
    "privileged",
    "capabilities",
    "seccompProfile",
    "procMount",
];
const VOLUME_TYPES: [&str; 9] = [
    "emptyDir",
    "configMap",
    "secret",
    "projected",
    "downwardAPI",
    "persistentVolumeClaim",
    "ephemeral",
    "csi",
    "image",
];
const PROJECTED: [&str; 4] = ["configMap", "secret", "downwardAPI", "clusterTrustBundle"];

type Check = Result<(), Refused>;

/// Checks a Pod's spec.
pub(crate) fn pod(field: &str, spec: &Value) -> Check {
    for (name, value) in object(field, spec)? {
        let field = format!("{field}.{name}");
        if is_nothing(value) && EMPTY_POD_FIELDS.contains(&name.as_str()) {
            continue;
        }
        if !POD_FIELDS.contains(&name.as_str()) {
            return Err(Refused::new(field, "cannot be set"));
        }
        match name.as_str() {
            "securityContext" => {
                only(&field, value, &POD_SECURITY_FIELDS)?;
                seccomp(&field, value)?;
            }
            "volumes" => each(&field, value, volume)?,
            "containers" | "initContainers" => each(&field, value, container)?,
            _ => {}
        }
    }
    Ok(())
}

/// Checks a container.
pub(crate) fn container(field: &str, container: &Value) -> Check {
    for (name, value) in object(field, container)? {
        // An init container with this runs beside the others.
        let sidecar = name == "restartPolicy" && field.contains("initContainers");
        if !CONTAINER_FIELDS.contains(&name.as_str()) && !sidecar {
            return Err(Refused::new(format!("{field}.{name}"), "cannot be set"));
        }
        let field = format!("{field}.{name}");
        match name.as_str() {
            "name" if value == FETCHER => {
                return Err(Refused::new(
                    field,
                    "fetcher is the platform's own container",
                ));
            }
            "ports" => each(&field, value, container_port)?,
            "env" => each(&field, value, |field, item| {
                keys(field, &item["valueFrom"]["secretKeyRef"]["name"])
            })?,
            "envFrom" => each(&field, value, |field, item| {
                keys(field, &item["secretRef"]["name"])
            })?,
            "volumeMounts" => each(&field, value, mount)?,
            "securityContext" => security(&field, value)?,
            "livenessProbe" | "readinessProbe" | "startupProbe" | "lifecycle" => {
                own_host(&field, value)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn object<'value>(
    field: &str,
    value: &'value Value,
) -> Result<&'value Map<String, Value>, Refused> {
    value
        .as_object()
        .ok_or_else(|| Refused::new(field, "must be an object"))
}

fn each(field: &str, list: &Value, check: impl Fn(&str, &Value) -> Check) -> Check {
    if list.is_null() {
        return Ok(());
    }
    let items = list
        .as_array()
        .ok_or_else(|| Refused::new(field, "must be a list"))?;
    items
        .iter()
        .enumerate()
        .try_for_each(|(index, item)| check(&format!("{field}[{index}]"), item))
}

fn only(field: &str, value: &Value, fields: &[&str]) -> Check {
    if value.is_null() {
        return Ok(());
    }
    let unknown = object(field, value)?
        .keys()
        .find(|name| !fields.contains(&name.as_str()));
    match unknown {
        Some(name) => Err(Refused::new(format!("{field}.{name}"), "cannot be set")),
        None => Ok(()),
    }
}

fn is_nothing(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(false)) || value == ""
}

fn container_port(field: &str, item: &Value) -> Check {
    let set = |name: &str| !item[name].is_null() && item[name] != 0 && item[name] != "";
    if set("hostPort") || set("hostIP") {
        return Err(Refused::new(field, "hostPort and hostIP cannot be set"));
    }
    Ok(())
}

fn mount(field: &str, item: &Value) -> Check {
    if item["name"] == TOKEN_VOLUME {
        return Err(Refused::new(field, "the fetcher's token cannot be mounted"));
    }
    if !item["mountPropagation"].is_null() && item["mountPropagation"] != "None" {
        return Err(Refused::new(field, "mountPropagation cannot be set"));
    }
    Ok(())
}

fn security(field: &str, context: &Value) -> Check {
    only(field, context, &SECURITY_FIELDS)?;
    for name in ["privileged", "allowPrivilegeEscalation"] {
        if !is_nothing(&context[name]) {
            return Err(Refused::new(format!("{field}.{name}"), "cannot be set"));
        }
    }
    let proc = &context["procMount"];
    if !is_nothing(proc) && proc != "Default" {
        return Err(Refused::new(
            format!("{field}.procMount"),
            "must be Default",
        ));
    }
    only(
        &format!("{field}.capabilities"),
        &context["capabilities"],
        &["add", "drop"],
    )?;
    each(
        &format!("{field}.capabilities.add"),
        &context["capabilities"]["add"],
        |field, capability| {
            if capability == "NET_BIND_SERVICE" {
                return Ok(());
            }
            Err(Refused::new(
                field,
                "cannot be added; only NET_BIND_SERVICE can",
            ))
        },
    )?;
    seccomp(field, context)
}

fn seccomp(field: &str, context: &Value) -> Check {
    let kind = &context["seccompProfile"]["type"];
    if kind.is_null() || kind == "RuntimeDefault" || kind == "Localhost" {
        return Ok(());
    }
    Err(Refused::new(
        format!("{field}.seccompProfile.type"),
        "must be RuntimeDefault or Localhost",
    ))
}

/// The kubelet makes these requests: with a host of their own they reach the node's network.
fn own_host(field: &str, value: &Value) -> Check {
    match value {
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
            if name == "host" && !is_nothing(value) {
                return Err(Refused::new(format!("{field}.host"), "cannot be set"));
            }
            own_host(&format!("{field}.{name}"), value)
        }),
        _ => Ok(()),
    }
}

fn keys(field: &str, secret: &Value) -> Check {
    if secret == AUTH_KEYS_SECRET {
        return Err(Refused::new(
            field,
            format!("Secret {AUTH_KEYS_SECRET} is the platform's own"),
        ));
    }
    Ok(())
}

fn volume(field: &str, volume: &Value) -> Check {
    let reserved = SHARED
        .iter()
        .map(|(name, _, _)| *name)
        .chain([TOKEN_VOLUME, INFO_VOLUME]);
    for (name, value) in object(field, volume)? {
        let field = format!("{field}.{name}");
        match name.as_str() {
            "name" => {
                if reserved.clone().any(|ours| value == ours) {
                    return Err(Refused::new(
                        field,
                        "is the name of a volume of the platform",
                    ));
                }
            }
            "secret" => keys(&field, &value["secretName"])?,
            "csi" => keys(&field, &value["nodePublishSecretRef"]["name"])?,
            "projected" => each(&field, &value["sources"], |field, source| {
                only(field, source, &PROJECTED)?;
                keys(field, &source["secret"]["name"])
            })?,
            kind if VOLUME_TYPES.contains(&kind) => {}
            _ => return Err(Refused::new(field, "volumes of this type cannot be used")),
        }
    }
    Ok(())
}

/// Variables by which other code than the function's would run, or that are the platform's.
const VARIABLES: [&str; 8] = [
    "RESOURCE_VERSION_COUNT",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "NODE_OPTIONS",
    "PYTHONPATH",
];

/// Checks a function's environment variables.
pub(crate) fn variables(env: &Value, env_from: &Value) -> Check {
    each("env", env, |field, item| {
        let name = item["name"].as_str().unwrap_or_default().to_uppercase();
        if name.starts_with("FISSION_") || VARIABLES.contains(&name.as_str()) {
            return Err(Refused::new(field, format!("{name} cannot be set")));
        }
        only(
            &format!("{field}.valueFrom"),
            &item["valueFrom"],
            &["secretKeyRef", "configMapKeyRef"],
        )?;
        keys(field, &item["valueFrom"]["secretKeyRef"]["name"])
    })?;
    each("envFrom", env_from, |field, item| {
        keys(field, &item["secretRef"]["name"])
    })
}
