//! Deployment, Service and HorizontalPodAutoscaler of a function. Pure.

use farplane_functions_types::names::{self, annotation, label, port};
use farplane_functions_types::wire::SpecializeRequest;
use farplane_functions_types::{Environment, ExecutorType, Function, FunctionSpec};
use kube::ResourceExt as _;
use serde_json::{Map, Value, json};

use crate::failed::Failed;
use crate::pod::{
    MAIN_CONTAINER, Platform, Refused, digest, environment_labels, merge, runtime_name, users,
    variables, with_fetcher,
};
use crate::revision::Revision;

/// Digest of what was written: when it differs, the object is written again.
pub(crate) const WRITTEN: &str = "farplane.io/written-hash";
/// Processor use that more instances are made at, when the function says none.
const TARGET_CPU: i32 = 80;
/// Larger archives are read by the fetcher itself: arguments are not for them.
const ARGUMENT_LIMIT: usize = 16 * 1024;
/// Seconds that a user's image serves on after it was taken out of service.
const LINGER: i64 = 10;

/// What a function's objects are made from.
pub(crate) struct Source<'a> {
    pub function: &'a Function,
    /// The function's own, or a version's.
    pub spec: &'a FunctionSpec,
    pub environment: Option<&'a Environment>,
    pub revision: &'a Revision,
    pub platform: &'a Platform,
    /// Name of the executor that writes.
    pub writer: &'a str,
}

/// A function's objects.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Objects {
    pub namespace: String,
    pub name: String,
    /// Fewest and most instances.
    pub min: i32,
    pub max: i32,
    /// Where instances take calls.
    pub port: u16,
    pub deployment: Value,
    pub service: Value,
    pub scaler: Value,
}

/// Makes them. The Deployment has no `replicas` yet.
///
/// # Errors
/// When the function or its environment asks for something that is not allowed.
pub(crate) fn objects(source: &Source<'_>) -> Result<Objects, Failed> {
    build(source).map_err(|refused| {
        let component = match source.revision.executor {
            ExecutorType::Container => "function",
            _ => "environment",
        };
        Failed::wrong(component, refused.to_string())
    })
}

fn build(source: &Source<'_>) -> Result<Objects, Refused> {
    let Source {
        function,
        spec,
        revision,
        ..
    } = source;
    let key = &revision.key;
    let executor = revision.executor.as_str();
    let called = match key.version.as_str() {
        "" => key.name.as_str(),
        version => version,
    };
    let name = names::deployment(executor, called, &key.namespace, &key.uid);
    let selector = selector(revision);
    let mut labels = Map::new();
    for (name, value) in function.labels() {
        labels.insert(name.clone(), value.clone().into());
    }
    if let Some(environment) = source.environment {
        labels.extend(environment_labels(environment, executor));
    }
    labels.extend(selector.clone());
    let (pod, container, port) = match revision.executor {
        ExecutorType::Container => container_pod(function, spec)?,
        _ => fetcher_pod(source)?,
    };
    let strategy = &spec.invoke_strategy.execution_strategy;
    let min = strategy.min_scale.unwrap_or(0).max(0);
    let max = strategy.max_scale.unwrap_or(1).max(min).max(1);
    let meta = meta(source, &name, &labels);
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "selector": selector,
            "ports": [{ "name": "http", "port": 80, "targetPort": port }],
        },
    });
    let mut scaler = json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": meta,
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": name },
            "minReplicas": min.max(1),
            "maxReplicas": max,
            "metrics": metrics(spec, &container),
        },
    });
    if let Some(behavior) = &strategy.hpa_behavior {
        scaler["spec"]["behavior"] = behavior.0.clone();
    }
    Ok(Objects {
        namespace: key.namespace.clone(),
        name,
        min,
        max,
        port,
        deployment: sealed(deployment(
            revision, &meta, &selector, labels, &pod, &container,
        )),
        service: sealed(service),
        scaler: sealed(scaler),
    })
}

/// Goes with its function, also while no executor runs.
fn meta(source: &Source<'_>, name: &str, labels: &Map<String, Value>) -> Value {
    let key = &source.revision.key;
    json!({
        "name": name,
        "labels": labels,
        "annotations": { annotation::EXECUTOR_INSTANCE: source.writer },
        "ownerReferences": [{
            "apiVersion": "fission.io/v1",
            "kind": "Function",
            "name": key.name,
            "uid": key.uid,
        }],
    })
}

fn deployment(
    revision: &Revision,
    meta: &Value,
    selector: &Map<String, Value>,
    mut labels: Map<String, Value>,
    pod: &Value,
    container: &str,
) -> Value {
    let generation = revision.key.generation.to_string();
    labels.insert(label::FUNCTION_GENERATION.to_owned(), generation.into());
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "revisionHistoryLimit": 0,
            // The new ones serve before the old ones go.
            "strategy": { "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
            "selector": { "matchLabels": selector },
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": {
                        annotation::CODE_HASH: revision.code_hash,
                        MAIN_CONTAINER: container,
                    },
                },
                "spec": pod,
            },
        },
    })
}

/// Puts a digest of an object into it.
fn sealed(mut object: Value) -> Value {
    let hash = digest(&object).get(..16).unwrap_or_default().to_owned();
    object["metadata"]["annotations"][WRITTEN] = hash.into();
    object
}

/// Labels by which a function's Pods are found; they never change.
fn selector(revision: &Revision) -> Map<String, Value> {
    let key = &revision.key;
    let mut labels = Map::new();
    let mut set = |name: &str, value: &str| labels.insert(name.to_owned(), value.into());
    set(label::EXECUTOR_TYPE, revision.executor.as_str());
    set(label::FUNCTION_NAME, &key.name);
    set(label::FUNCTION_NAMESPACE, &key.namespace);
    set(label::FUNCTION_UID, &key.uid);
    if !key.version.is_empty() {
        set(label::FUNCTION_VERSION, &key.version);
    }
    labels
}

fn metrics(spec: &FunctionSpec, container: &str) -> Value {
    let strategy = &spec.invoke_strategy.execution_strategy;
    if !strategy.hpa_metrics.is_empty() {
        return json!(strategy.hpa_metrics);
    }
    let said = strategy.target_cpu_percent.filter(|percent| *percent > 0);
    json!([{
        "type": "ContainerResource",
        "containerResource": {
            "name": "cpu",
            "container": container,
            "target": { "type": "Utilization", "averageUtilization": said.unwrap_or(TARGET_CPU) },
        },
    }])
}

/// Variables of a function, checked.
fn environment_variables(spec: &FunctionSpec) -> Result<(Value, Value), Refused> {
    let (env, env_from) = (json!(spec.env), json!(spec.env_from));
    variables(&env, &env_from)?;
    Ok((env, env_from))
}

/// The environment's Pod, whose fetcher loads the function when it starts.
fn fetcher_pod(source: &Source<'_>) -> Result<(Value, String, u16), Refused> {
    let Some(environment) = source.environment else {
        return Err(Refused::new("environment", "does not exist"));
    };
    let request = startup_request(source.revision);
    let arguments = [
        "fetcher".to_owned(),
        "-specialize-on-startup".to_owned(),
        "-specialize-request".to_owned(),
        request,
    ];
    let mut pod = with_fetcher(environment, source.platform, &arguments)?;
    let name = runtime_name(environment);
    let (env, env_from) = environment_variables(source.spec)?;
    let mut over = json!({ "name": name, "env": env });
    if env_from != json!([]) {
        over["envFrom"] = env_from;
    }
    if !source.spec.resources.is_empty() {
        over["resources"] = source.spec.resources.0.clone();
    }
    merge(&mut pod, json!({ "containers": [over] }));
    Ok((pod, name, port::RUNTIME))
}

/// What the fetcher is told. Only what changes with the code is in it: anything else would make
/// new Pods for nothing.
fn startup_request(revision: &Revision) -> String {
    let mut request: SpecializeRequest =
        serde_json::from_slice(&revision.request).unwrap_or_default();
    request.fetch.archive = request
        .fetch
        .archive
        .filter(|archive| archive.literal.len() <= ARGUMENT_LIMIT);
    if let Some(metadata) = request.load.function_metadata.as_object_mut() {
        metadata.remove("resourceVersion");
    }
    serde_json::to_string(&request).unwrap_or_default()
}

/// A Pod of the user's own image.
fn container_pod(
    function: &Function,
    spec: &FunctionSpec,
) -> Result<(Value, String, u16), Refused> {
    let Some(podspec) = &spec.podspec else {
        return Err(Refused::new("podspec", "is missing"));
    };
    let mut pod = users("podspec", podspec)?;
    let (env, mut env_from) = environment_variables(spec)?;
    if let Some(list) = env_from.as_array_mut() {
        let named = |kind: &str, name: &str| json!({ kind: { "name": name } });
        list.extend(spec.secrets.iter().map(|one| named("secretRef", &one.name)));
        list.extend(
            spec.config_maps
                .iter()
                .map(|one| named("configMapRef", &one.name)),
        );
        variables(&json!([]), &json!(list))?;
    }
    let grace = pod["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let containers = pod["containers"].as_array_mut();
    let Some(first) = containers.and_then(|containers| containers.first_mut()) else {
        return Err(Refused::new("podspec.containers", "is empty"));
    };
    if first["name"].as_str().unwrap_or_default().is_empty() {
        first["name"] = function.name_any().into();
    }
    let mut over = json!({ "env": env });
    if !spec.resources.is_empty() {
        over["resources"] = spec.resources.0.clone();
    }
    if first["lifecycle"].is_null() && grace > 1 {
        let seconds = LINGER.min(grace - 1);
        over["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": seconds } } });
    }
    merge(first, over);
    if let Some(list) = env_from.as_array().filter(|list| !list.is_empty()) {
        let mut all = first["envFrom"].as_array().cloned().unwrap_or_default();
        all.extend(list.iter().cloned());
        first["envFrom"] = all.into();
    }
    let port = first["ports"][0]["containerPort"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok());
    let name = first["name"].as_str().unwrap_or_default().to_owned();
    let port = port.unwrap_or(port::RUNTIME);
    if first["ports"].is_null() {
        first["ports"] = json!([{ "name": "http", "containerPort": port }]);
    }
    // Kubernetes tells the router when an instance takes calls.
    if first["readinessProbe"].is_null() {
        first["readinessProbe"] = json!({ "tcpSocket": { "port": port }, "periodSeconds": 1 });
    }
    Ok((pod, name, port))
}
