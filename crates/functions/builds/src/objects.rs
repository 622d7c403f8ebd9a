//! Deployment and Service of an environment's builder. Pure.
//!
//! The Pod has the builder image with our program in it, and a fetcher beside it; both share
//! `/packages`. No container has a token of the API server: the source comes with the request.

use std::collections::BTreeMap;

use farplane_functions_types::Environment;
use farplane_functions_types::names::{self, AUTH_KEYS_SECRET, BUILDER_ACCOUNT, port};
use kube::ResourceExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Settings;

/// Label: name of the environment.
pub const ENVIRONMENT: &str = "envName";
/// Label: namespace of the environment.
pub const ENVIRONMENT_NAMESPACE: &str = "envNamespace";
/// Label: resource version of the environment.
pub const ENVIRONMENT_VERSION: &str = "envResourceVersion";
/// Label and value: whose object it is.
pub const OWNER: (&str, &str) = ("owner", "buildermgr");
/// Annotation: digest of the Deployment as we want it.
pub const WANTED: &str = "farplane.io/builder-hash";
/// Name of the container with the build tools.
pub const BUILDER: &str = "builder";
/// Name of the container beside it.
pub const FETCHER: &str = "fetcher";

/// Where our program is in the builder image's container.
const PROGRAM: &str = "/farplane/builder";
const PACKAGES: &str = "/packages";

/// What users may say of a builder's container.
const CONTAINER_FIELDS: [&str; 5] = ["name", "image", "env", "envFrom", "resources"];
/// What users may say of a builder's Pod.
const POD_FIELDS: [&str; 7] = [
    "containers",
    "nodeSelector",
    "tolerations",
    "affinity",
    "runtimeClassName",
    "imagePullSecrets",
    "securityContext",
];
const POD_SECURITY_FIELDS: [&str; 4] = ["runAsUser", "runAsGroup", "fsGroup", "runAsNonRoot"];

/// Something of an environment that a builder may not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} cannot be set for a builder")]
pub struct Refused(pub String);

/// A builder as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Builder {
    /// Name of both objects.
    pub name: String,
    /// The Deployment.
    pub deployment: Value,
    /// The Service.
    pub service: Value,
    /// Digest of the Deployment.
    pub hash: String,
}

/// The builder of an environment; none when it has no builder image.
///
/// # Errors
/// When the environment asks for something that a builder may not have.
pub fn builder(environment: &Environment, settings: &Settings) -> Result<Option<Builder>, Refused> {
    if environment.spec.builder.image.is_empty() {
        return Ok(None);
    }
    let version = environment.resource_version().unwrap_or_default();
    let name = names::builder(&environment.name_any(), &version);
    let labels = labels(environment);
    let metadata = json!({
        "name": name,
        "namespace": environment.namespace(),
        "labels": labels,
        "ownerReferences": [{
            "apiVersion": "fission.io/v1",
            "kind": "Environment",
            "name": environment.name_any(),
            "uid": environment.uid(),
        }],
    });
    let mut deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod(environment, settings)? },
        },
    });
    let hash = hex::encode(Sha256::digest(deployment.to_string()));
    let hash = hash[..16].to_owned();
    deployment["metadata"]["annotations"] = json!({ WANTED: hash });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "selector": labels,
            "ports": [
                { "name": "fetcher-port", "port": port::FETCHER, "targetPort": port::FETCHER },
                { "name": "builder-port", "port": port::BUILDER, "targetPort": port::BUILDER },
            ],
        },
    });
    Ok(Some(Builder {
        name,
        deployment,
        service,
        hash,
    }))
}

/// Labels of a builder's objects and Pods.
pub fn labels(environment: &Environment) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        (ENVIRONMENT, environment.name_any()),
        (
            ENVIRONMENT_NAMESPACE,
            environment.namespace().unwrap_or_default(),
        ),
        (
            ENVIRONMENT_VERSION,
            environment.resource_version().unwrap_or_default(),
        ),
        (OWNER.0, OWNER.1.to_owned()),
    ])
}

fn pod(environment: &Environment, settings: &Settings) -> Result<Value, Refused> {
    let spec = &environment.spec.builder;
    let mut pod = json!({
        "serviceAccountName": BUILDER_ACCOUNT,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 5,
        "initContainers": [{
            "name": "program",
            "image": settings.image,
            "imagePullPolicy": settings.pull_policy,
            "args": ["copy", PROGRAM],
            "securityContext": hardened(),
            "volumeMounts": [{ "name": "program", "mountPath": "/farplane" }],
        }],
        "volumes": [
            { "name": "packages", "emptyDir": {} },
            { "name": "program", "emptyDir": {} },
        ],
    });
    if !environment.spec.image_pull_secret.is_empty() {
        pod["imagePullSecrets"] = json!([{ "name": environment.spec.image_pull_secret }]);
    }
    let mut tools = tools(&spec.image, settings);
    if let Some(container) = &spec.container {
        lay_over(&mut tools, "spec.builder.container", &container.0)?;
    }
    if let Some(theirs) = &spec.podspec {
        lay_pod_over(&mut pod, &mut tools, &theirs.0)?;
    }
    pod["containers"] = json!([tools, fetcher(settings)]);
    Ok(pod)
}

fn hardened() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

fn key(variable: &str, name: &str) -> Value {
    let reference = json!({ "name": AUTH_KEYS_SECRET, "key": name });
    json!({ "name": variable, "valueFrom": { "secretKeyRef": reference } })
}

fn probe(port: u16) -> Value {
    json!({ "httpGet": { "path": "/healthz", "port": port }, "periodSeconds": 2 })
}

/// The container of the builder image. It runs as the image's user, which may be root without
/// any capability: images install what they build with as root.
fn tools(image: &str, settings: &Settings) -> Value {
    json!({
        "name": BUILDER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [PROGRAM, "builder", PACKAGES],
        "env": [
            key("BUILDER_KEY", "builderKey"),
            { "name": "BUILDER_DEADLINE", "value": settings.build_deadline.as_secs().to_string() },
        ],
        "ports": [{ "name": "builder", "containerPort": port::BUILDER }],
        "readinessProbe": probe(port::BUILDER),
        "resources": { "requests": { "cpu": "10m", "memory": "32Mi" } },
        "securityContext": hardened(),
        "volumeMounts": [
            { "name": "packages", "mountPath": PACKAGES },
            { "name": "program", "mountPath": "/farplane", "readOnly": true },
        ],
    })
}

fn fetcher(settings: &Settings) -> Value {
    let mut security = hardened();
    security["runAsNonRoot"] = json!(true);
    security["readOnlyRootFilesystem"] = json!(true);
    json!({
        "name": FETCHER,
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "args": ["fetcher", PACKAGES],
        "env": [
            key("FETCHER_KEY", "fetcherKey"),
            key("STORAGE_KEY", "storageKey"),
            { "name": "POD_NAMESPACE", "valueFrom": { "fieldRef": { "fieldPath": "metadata.namespace" } } },
            { "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
        ],
        "ports": [{ "name": "fetcher", "containerPort": port::FETCHER }],
        "readinessProbe": probe(port::FETCHER),
        "resources": { "requests": { "cpu": "10m", "memory": "16Mi" }, "limits": { "memory": "256Mi" } },
        "securityContext": security,
        "volumeMounts": [{ "name": "packages", "mountPath": PACKAGES }],
    })
}

fn fields<'a>(
    field: &str,
    value: &'a Value,
    allowed: &[&str],
) -> Result<Vec<(&'a String, &'a Value)>, Refused> {
    let said = value.as_object().into_iter().flatten();
    let mut fields = Vec::new();
    for (name, value) in said.filter(|(_, value)| !is_nothing(value)) {
        if !allowed.contains(&name.as_str()) {
            return Err(Refused(format!("{field}.{name}")));
        }
        fields.push((name, value));
    }
    Ok(fields)
}

/// Tools write fields that say nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn lay_over(tools: &mut Value, field: &str, theirs: &Value) -> Result<(), Refused> {
    for (name, value) in fields(field, theirs, &CONTAINER_FIELDS)? {
        match name.as_str() {
            "env" | "envFrom" => {
                if value
                    .to_string()
                    .contains(&format!("\"{AUTH_KEYS_SECRET}\""))
                {
                    return Err(Refused(format!("{field}.{name}: {AUTH_KEYS_SECRET}")));
                }
                let mut all = value.as_array().cloned().unwrap_or_default();
                // Ours come last: of two of a name the last one counts.
                all.extend(tools[name].as_array().cloned().unwrap_or_default());
                tools[name] = json!(all);
            }
            "image" | "resources" => tools[name] = value.clone(),
            _ => {}
        }
    }
    Ok(())
}

fn lay_pod_over(pod: &mut Value, tools: &mut Value, theirs: &Value) -> Result<(), Refused> {
    let field = "spec.builder.podspec";
    for (name, value) in fields(field, theirs, &POD_FIELDS)? {
        match name.as_str() {
            "containers" => {
                for container in value.as_array().into_iter().flatten() {
                    let other = container["name"].as_str().unwrap_or_default();
                    if other != BUILDER && !other.is_empty() {
                        return Err(Refused(format!("{field}.containers: {other}")));
                    }
                    lay_over(tools, &format!("{field}.containers"), container)?;
                }
            }
            "securityContext" => {
                let inner = format!("{field}.{name}");
                fields(&inner, value, &POD_SECURITY_FIELDS)?;
                pod[name] = value.clone();
            }
            _ => pod[name] = value.clone(),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
