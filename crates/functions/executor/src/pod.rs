//! Pods of functions: their template, and what users may change of it. Pure.
//!
//! A Pod has the runtime's container and a fetcher. Users lay a container and a Pod's spec over
//! ours ([`merge()`]); what they may say is a list ([`guard`]), so a field that nobody thought of
//! is refused instead of passed on. Our own rules come last and win. Everything is JSON, not
//! typed objects: a field of a newer Kubernetes is kept, and refused by the API server when it
//! is none.

mod guard;
mod merge;
#[cfg(test)]
mod tests;

use farplane_functions_types::names::{AUTH_KEYS_SECRET, FETCHER_ACCOUNT, annotation, label, port};
use farplane_functions_types::wire::QUIET;
use farplane_functions_types::{Environment, RawObject};
use kube::ResourceExt as _;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

pub(crate) use guard::{Refused, variables};
pub(crate) use merge::merge;

/// Name of the fetcher's container; no other may have it.
pub(crate) const FETCHER: &str = "fetcher";
/// Annotation: the container that runs functions; `kubectl logs` takes it too.
pub(crate) const MAIN_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// A Pod that waits for code is ready when its runtime is: what is counted can be used.
const POOL_FETCHER: [&str; 2] = ["fetcher", "-wait-for-runtime"];
/// Volume with the fetcher's token; no other container may mount it.
const TOKEN_VOLUME: &str = "fetcher-token";
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const INFO_VOLUME: &str = "podinfo";
/// Seconds that a token is good for; the kubelet renews it.
const TOKEN_SECONDS: u32 = 3607;
/// Volumes that fetcher and runtime share: name, path, limit.
const SHARED: [(&str, &str, &str); 4] = [
    ("userfunc", "/userfunc", "2Gi"),
    ("packages", "/packages", "2Gi"),
    ("secrets", "/secrets", "64Mi"),
    ("configs", "/configs", "64Mi"),
];
const LABEL_LIMIT: usize = 63;
/// A Pod leaves a node that is lost after so many seconds, instead of Kubernetes' five minutes: a
/// pool would count it, and it keeps nothing. The cluster takes some 50 s to call a node lost.
const LOST_SECONDS: u32 = 30;
/// User of the fetcher, as of the platform's other Pods.
const FETCHER_USER: u32 = 65532;

/// What the platform adds to every Pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Platform {
    pub image: String,
    pub pull_policy: String,
}

/// A pool's Pods.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PoolTemplate {
    /// Labels that Pods, Deployment and selector have.
    pub labels: Map<String, Value>,
    /// The template, as in a Deployment.
    pub template: Value,
    /// Digest of the template: part of the Deployment's name.
    pub hash: String,
}

/// Name of the container that runs functions.
pub(crate) fn runtime_name(environment: &Environment) -> String {
    let custom = environment.spec.runtime.container.as_ref();
    let custom = custom.and_then(|container| container.0["name"].as_str());
    let custom = custom.filter(|name| !name.is_empty());
    custom.map_or_else(|| environment.name_any().replace('.', "-"), str::to_owned)
}

/// Digest of what instances of an environment are made of; the platform's own part of a Pod
/// does not count, so they survive its upgrades.
pub(crate) fn runtime_hash(environment: &Environment) -> String {
    let spec = &environment.spec;
    digest(&json!([
        spec.version,
        spec.runtime,
        spec.resources,
        spec.keep_archive,
        spec.is_infinite(),
        spec.termination_grace_period,
        spec.image_pull_secret,
    ]))
}

/// Hex digest of a JSON value; the order of a map's fields does not matter.
pub(crate) fn digest(value: &Value) -> String {
    let mut hasher = Sha256::new();
    feed(&mut hasher, value);
    hex::encode(hasher.finalize())
}

fn feed(hasher: &mut Sha256, value: &Value) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| name.as_str());
            hasher.update(b"{");
            for (name, value) in fields {
                feed(hasher, &Value::String(name.clone()));
                feed(hasher, value);
            }
            hasher.update(b"}");
        }
        Value::Array(items) => {
            hasher.update(b"[");
            items.iter().for_each(|item| feed(hasher, item));
            hasher.update(b"]");
        }
        // With quotes and a separator, so neighbours cannot be taken for one another.
        other => hasher.update(format!("{other},").as_bytes()),
    }
}

/// Labels of everything of an environment.
pub(crate) fn environment_labels(environment: &Environment, executor: &str) -> Map<String, Value> {
    let namespace = environment.namespace().unwrap_or_default();
    let labels = [
        (label::ENVIRONMENT_NAME, environment.name_any()),
        (label::ENVIRONMENT_NAMESPACE, namespace),
        (
            label::ENVIRONMENT_UID,
            environment.uid().unwrap_or_default(),
        ),
        (label::EXECUTOR_TYPE, executor.to_owned()),
    ];
    labels
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect()
}

/// The Pods of an environment's pool.
///
/// # Errors
/// When the environment asks for something that is not allowed.
pub(crate) fn pool(
    environment: &Environment,
    platform: &Platform,
) -> Result<PoolTemplate, Refused> {
    let spec = with_fetcher(environment, platform, &POOL_FETCHER.map(str::to_owned))?;
    let runtime_hash = runtime_hash(environment);
    let hash = digest(&json!([spec, runtime_hash]));
    let hash = hash.get(..12).unwrap_or_default().to_owned();
    let mut labels = environment_labels(environment, "poolmgr");
    labels.insert(label::MANAGED.to_owned(), "true".into());
    labels.insert(label::POOL.to_owned(), hash.clone().into());
    let template = json!({
        "metadata": {
            "labels": labels,
            "annotations": {
                annotation::RUNTIME_HASH: runtime_hash,
                MAIN_CONTAINER: runtime_name(environment),
            },
        },
        "spec": spec,
    });
    Ok(PoolTemplate {
        labels,
        template,
        hash,
    })
}

/// Spec of a Pod with a runtime and a fetcher that is started with these arguments.
///
/// # Errors
/// When the environment asks for something that is not allowed.
pub(crate) fn with_fetcher(
    environment: &Environment,
    platform: &Platform,
    arguments: &[String],
) -> Result<Value, Refused> {
    if environment.name_any().len() > LABEL_LIMIT {
        let reason = format!("is longer than {LABEL_LIMIT} characters");
        return Err(Refused::new("metadata.name", reason));
    }
    let runtime_name = runtime_name(environment);
    if runtime_name == FETCHER {
        let reason = "fetcher is the platform's own container; give runtime.container.name";
        return Err(Refused::new("metadata.name", reason));
    }
    let spec = &environment.spec;
    let mut base = json!({
        "containers": [runtime(environment, platform, &runtime_name)],
        "volumes": SHARED.map(|(name, _, limit)| json!({
            "name": name, "emptyDir": { "sizeLimit": limit },
        })),
        "terminationGracePeriodSeconds": spec.grace_seconds(),
    });
    if let Some(container) = &spec.runtime.container {
        guard::container("runtime.container", &container.0)?;
        let mut container = container.0.clone();
        container["name"] = runtime_name.clone().into();
        merge(&mut base, json!({ "containers": [container] }));
    }
    if let Some(over) = &spec.runtime.podspec {
        guard::pod("runtime.podspec", &over.0)?;
        merge(&mut base, over.0.clone());
    }
    if base["containers"][0]["image"] == "" {
        return Err(Refused::new("runtime.image", "is empty"));
    }
    harden(&mut base);
    linger(&mut base, spec.grace_seconds());
    leave_lost_nodes(&mut base);
    merge(
        &mut base,
        platform_part(spec.grace_seconds(), platform, arguments),
    );
    if !spec.image_pull_secret.is_empty() {
        let secrets = json!([{ "name": spec.image_pull_secret }]);
        merge(&mut base, json!({ "imagePullSecrets": secrets }));
    }
    Ok(base)
}

fn runtime(environment: &Environment, platform: &Platform, name: &str) -> Value {
    let spec = &environment.spec;
    let mut container = json!({
        "name": name,
        "image": spec.runtime.image,
        "imagePullPolicy": platform.pull_policy,
        "ports": [{ "name": "http-env", "containerPort": port::RUNTIME }],
        "volumeMounts": shared_mounts(),
    });
    if !spec.resources.is_empty() {
        container["resources"] = spec.resources.0.clone();
    }
    container
}

fn shared_mounts() -> Vec<Value> {
    let mut mounts: Vec<Value> = SHARED
        .iter()
        .map(|(name, path, _)| json!({ "name": name, "mountPath": path }))
        .collect();
    mounts.push(json!({ "name": INFO_VOLUME, "mountPath": "/etc/podinfo", "readOnly": true }));
    mounts
}

/// Calls that run when a Pod is deleted may end: nothing is told to stop before the fetcher
/// says that nobody calls, or the grace period is over.
fn linger(spec: &mut Value, grace: i64) {
    let containers = spec["containers"].as_array_mut();
    for container in containers.into_iter().flatten() {
        if container["lifecycle"]["preStop"].is_null() {
            merge(container, json!({ "lifecycle": lifecycle(grace) }));
        }
    }
}

fn lifecycle(grace: i64) -> Value {
    if grace == 0 {
        return json!({});
    }
    json!({ "preStop": { "httpGet": { "path": QUIET, "port": port::FETCHER } } })
}

fn fetcher(grace: i64, platform: &Platform, arguments: &[String]) -> Value {
    let mut mounts = shared_mounts();
    mounts.push(json!({ "name": TOKEN_VOLUME, "mountPath": TOKEN_PATH, "readOnly": true }));
    let key = |name: &str, key: &str| {
        let reference = json!({ "name": AUTH_KEYS_SECRET, "key": key });
        json!({ "name": name, "valueFrom": { "secretKeyRef": reference } })
    };
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    json!({
        "name": FETCHER,
        "image": platform.image,
        "imagePullPolicy": platform.pull_policy,
        "args": arguments,
        "env": [
            key("FETCHER_KEY", "fetcherKey"),
            key("STORAGE_KEY", "storageKey"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_NAME", "metadata.name"),
        ],
        "ports": [{ "name": "http-fetcher", "containerPort": port::FETCHER }],
        "readinessProbe": {
            "httpGet": { "path": "/readiness-healthz", "port": port::FETCHER },
            "periodSeconds": 1,
            // It answers when the code has been loaded, or did not.
            "timeoutSeconds": 10,
            "failureThreshold": 30,
        },
        "resources": {
            "requests": { "cpu": "5m", "memory": "16Mi" },
            "limits": { "memory": "512Mi" },
        },
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": FETCHER_USER,
            "runAsGroup": FETCHER_USER,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": mounts,
        "lifecycle": lifecycle(grace),
    })
}

/// What users cannot change.
fn platform_part(grace: i64, platform: &Platform, arguments: &[String]) -> Value {
    let file =
        |path: &str, field: &str| json!({ "path": path, "fieldRef": { "fieldPath": field } });
    json!({
        "containers": [fetcher(grace, platform, arguments)],
        "serviceAccountName": FETCHER_ACCOUNT,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "volumes": [
            { "name": TOKEN_VOLUME, "projected": { "sources": [
                { "serviceAccountToken": { "path": "token", "expirationSeconds": TOKEN_SECONDS } },
                { "configMap": { "name": "kube-root-ca.crt",
                    "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [file("namespace", "metadata.namespace")] } },
            ] } },
            { "name": INFO_VOLUME, "downwardAPI": { "items": [
                file("name", "metadata.name"),
                file("namespace", "metadata.namespace"),
                file("labels", "metadata.labels"),
                file("annotations", "metadata.annotations"),
            ] } },
        ],
    })
}

/// Adds how long a Pod stays on a node that is lost, unless the user said so.
fn leave_lost_nodes(spec: &mut Value) {
    let tolerations = &mut spec["tolerations"];
    if !tolerations.is_array() {
        *tolerations = json!([]);
    }
    let Some(tolerations) = tolerations.as_array_mut() else {
        return;
    };
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let said = |one: &Value| {
            let any = one["operator"] == "Exists" && one["key"].as_str().is_none_or(str::is_empty);
            let effect = one["effect"].as_str().unwrap_or_default();
            (any || one["key"] == key) && matches!(effect, "" | "NoExecute")
        };
        if !tolerations.iter().any(said) {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": LOST_SECONDS,
            }));
        }
    }
}

/// Sets what every container of a user has, whatever they said.
fn harden(spec: &mut Value) {
    for list in ["containers", "initContainers"] {
        let Some(containers) = spec.get_mut(list).and_then(Value::as_array_mut) else {
            continue;
        };
        for container in containers {
            let context = &mut container["securityContext"];
            if !context.is_object() {
                *context = json!({});
            }
            context["allowPrivilegeEscalation"] = false.into();
            if !context["capabilities"].is_object() {
                context["capabilities"] = json!({});
            }
            context["capabilities"]["drop"] = json!(["ALL"]);
            if !context["seccompProfile"].is_object() {
                context["seccompProfile"] = json!({ "type": "RuntimeDefault" });
            }
        }
    }
}

/// A Pod's spec by users, alone: executor type container.
///
/// # Errors
/// When it asks for something that is not allowed.
pub(crate) fn users(field: &str, podspec: &RawObject) -> Result<Value, Refused> {
    guard::pod(field, &podspec.0)?;
    let mut spec = podspec.0.clone();
    harden(&mut spec);
    leave_lost_nodes(&mut spec);
    spec["automountServiceAccountToken"] = false.into();
    spec["enableServiceLinks"] = false.into();
    Ok(spec)
}
