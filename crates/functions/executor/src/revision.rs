//! What an instance is made of: a function, its package and its environment at one moment. Pure.

use std::time::Duration;

use bytes::Bytes;
use farplane_functions_types::function::MountedReference;
use farplane_functions_types::package::build_status;
use farplane_functions_types::wire::{FetchRequest, FunctionKey, LoadRequest, SpecializeRequest};
use farplane_functions_types::{
    Archive, Environment, ExecutorType, Function, FunctionSpec, ObjectReference, Package,
};
use kube::ResourceExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::failed::Failed;
use crate::pod::{digest, runtime_hash};

/// `fetchType` of a package that runs.
const DEPLOYMENT: u8 = 1;
/// Larger archives in objects are read by the fetcher itself: the executor would keep them all
/// in memory.
pub(crate) const INLINE_LIMIT: usize = 96 * 1024;
/// Put in place of an archive that is not kept.
const LEFT_OUT: &str = "literal";

/// What an instance is made of.
#[derive(Debug)]
pub(crate) struct Revision {
    /// Function, generation and version.
    pub key: FunctionKey,
    /// Digest over everything that an instance is made of.
    pub code_hash: String,
    /// UID of the environment.
    pub environment: String,
    /// Name of the environment.
    pub environment_name: String,
    pub executor: ExecutorType,
    pub concurrency: usize,
    pub idle: Duration,
    pub retain: usize,
    pub once_only: bool,
    pub specialization: Duration,
    /// What the fetcher is told, and its SHA-256.
    pub request: Bytes,
    pub request_digest: [u8; 32],
}

impl Revision {
    /// Tells instances of the same code apart from others.
    pub fn id(&self) -> RevisionId {
        RevisionId {
            uid: self.key.uid.clone(),
            version: self.key.version.clone(),
            code_hash: self.code_hash.clone(),
        }
    }
}

/// Instances with the same id have the same code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RevisionId {
    /// UID of the function.
    pub uid: String,
    /// Version; the live function when empty.
    pub version: String,
    pub code_hash: String,
}

/// The objects of a function at one moment.
pub(crate) struct Parts<'a> {
    pub function: &'a Function,
    /// Spec that is run: the function's own, or a version's.
    pub spec: &'a FunctionSpec,
    /// Name of the version; empty for the live function.
    pub version: &'a str,
    pub environment: Option<&'a Environment>,
    pub package: Option<&'a Package>,
    pub storage_url: &'a str,
}

/// Puts the objects together.
///
/// # Errors
/// When something is missing or not ready, in words.
pub(crate) fn resolve(parts: &Parts<'_>) -> Result<Revision, Failed> {
    let Parts {
        function,
        spec,
        version,
        environment,
        package,
        storage_url,
    } = *parts;
    let namespace = function.namespace().unwrap_or_default();
    let executor = spec.executor_type();
    same_namespace(spec, &namespace)?;
    if executor == ExecutorType::Poolmgr && !(spec.env.is_empty() && spec.env_from.is_empty()) {
        // Pods of a pool run before anybody knows whose code they get.
        let reason = "env and envFrom need Pods of the function's own: use executor type \
                      newdeploy or container, or name secrets and configmaps, which are files";
        return Err(Failed::wrong("function", reason));
    }
    let key = FunctionKey {
        namespace: namespace.clone(),
        name: function.name_any(),
        uid: function.uid().unwrap_or_default(),
        generation: function.metadata.generation.unwrap_or_default(),
        version: version.to_owned(),
    };
    let name = &spec.environment.name;
    let (code, request, environment_uid) = if executor == ExecutorType::Container {
        let code = json!([spec.podspec, spec.env, spec.env_from, spec.resources]);
        (code, None, String::new())
    } else {
        let environment = environment.ok_or_else(|| {
            Failed::wrong(
                "environment",
                format!("environment {namespace}/{name} does not exist; create it, or name another in the function"),
            )
        })?;
        let package = ready_package(spec, package, &namespace)?;
        let request = specialize(function, spec, environment, package, storage_url, &key);
        let code = json!([
            environment.uid(),
            runtime_hash(environment),
            content(package),
            request.load.function_name,
            spec.secrets,
            spec.config_maps,
            spec.env,
            spec.env_from,
        ]);
        let uid = environment.uid().unwrap_or_default();
        (code, Some(request), uid)
    };
    let request = request.map_or_else(Bytes::new, |request| {
        serde_json::to_vec(&request).unwrap_or_default().into()
    });
    let count = |said: Option<i64>| usize::try_from(said.unwrap_or(0)).unwrap_or(0);
    Ok(Revision {
        key,
        code_hash: digest(&code).get(..32).unwrap_or_default().to_owned(),
        environment: environment_uid,
        environment_name: name.clone(),
        executor,
        concurrency: spec.concurrency(),
        idle: Duration::from_secs(spec.idle_seconds()),
        retain: count(spec.retain_pods),
        once_only: spec.once_only,
        specialization: Duration::from_secs(spec.specialization_seconds()),
        request_digest: Sha256::digest(&request).into(),
        request,
    })
}

/// No reference leads out of the function's namespace, whatever admission let through.
fn same_namespace(spec: &FunctionSpec, namespace: &str) -> Result<(), Failed> {
    let mounted = |list: &[MountedReference]| -> Vec<(String, String)> {
        list.iter()
            .map(|one| (one.namespace.clone(), one.name.clone()))
            .collect()
    };
    let mut references = vec![
        (
            spec.environment.namespace.clone(),
            spec.environment.name.clone(),
        ),
        (
            spec.package.package_ref.namespace.clone(),
            spec.package.package_ref.name.clone(),
        ),
    ];
    references.extend(mounted(&spec.secrets));
    references.extend(mounted(&spec.config_maps));
    let foreign = references
        .iter()
        .find(|(other, _)| !other.is_empty() && other != namespace);
    match foreign {
        None => Ok(()),
        Some((other, name)) => Err(Failed::wrong(
            "executor",
            format!(
                "{other}/{name} cannot be used: a function may only name objects of its own namespace {namespace}"
            ),
        )),
    }
}

/// The package that a function names, when it has code that can be run.
///
/// # Errors
/// When it is missing or not ready, in words.
pub(crate) fn ready_package<'a>(
    spec: &FunctionSpec,
    package: Option<&'a Package>,
    namespace: &str,
) -> Result<&'a Package, Failed> {
    let name = &spec.package.package_ref.name;
    let package = package.ok_or_else(|| {
        Failed::wrong(
            "executor",
            format!("package {namespace}/{name} does not exist; create it, or name another in the function"),
        )
    })?;
    let status = package.status.as_ref();
    let built = status.map_or("", |status| status.build_status.as_str());
    match built {
        build_status::FAILED => Err(Failed::wrong(
            "function",
            format!("package {namespace}/{name} could not be built; its build log says why"),
        )),
        build_status::PENDING | build_status::RUNNING => Err(Failed::later(
            "function",
            format!("package {namespace}/{name} is still being built ({built})"),
        )),
        _ if package.spec.deployment.is_empty() && package.spec.source.is_empty() => {
            Err(Failed::wrong(
                "function",
                format!(
                    "package {namespace}/{name} names no code: neither source nor deployment is set"
                ),
            ))
        }
        _ if package.spec.deployment.is_empty() => Err(Failed::later(
            "function",
            format!("package {namespace}/{name} has not been built yet"),
        )),
        _ if package.spec.deployment.oci.is_some() => Err(Failed::wrong(
            "function",
            format!(
                "package {namespace}/{name} keeps its code in an image (oci), which cannot be run yet; give it as an archive"
            ),
        )),
        _ => Ok(package),
    }
}

/// Name of the code below `/userfunc`.
fn filename(environment: &Environment, uid: &str) -> String {
    if environment.spec.is_infinite() {
        return uid.to_owned();
    }
    let name = if environment.spec.version <= 1 {
        "user"
    } else {
        "deployarchive"
    };
    name.to_owned()
}

fn specialize(
    function: &Function,
    spec: &FunctionSpec,
    environment: &Environment,
    package: &Package,
    storage_url: &str,
    key: &FunctionKey,
) -> SpecializeRequest {
    let filename = filename(environment, &key.uid);
    let archive = &package.spec.deployment;
    let kept = archive.literal != LEFT_OUT;
    SpecializeRequest {
        fetch: FetchRequest {
            fetch_type: DEPLOYMENT,
            package: ObjectReference {
                namespace: key.namespace.clone(),
                name: package.name_any(),
            },
            url: String::new(),
            storage_url: storage_url.to_owned(),
            filename: filename.clone(),
            secret_list: spec.secrets.clone(),
            config_map_list: spec.config_maps.clone(),
            keep_archive: environment.spec.keep_archive,
            archive: kept.then(|| archive.clone()),
        },
        load: LoadRequest {
            filepath: format!("/userfunc/{filename}"),
            function_name: spec.package.function_name.clone(),
            url: String::new(),
            function_metadata: metadata(function),
            env_version: environment.spec.version,
        },
        function: Some(key.clone()),
    }
}

fn metadata(function: &Function) -> Value {
    json!({
        "name": function.name_any(),
        "namespace": function.namespace(),
        "uid": function.uid(),
        "generation": function.metadata.generation,
        "resourceVersion": function.resource_version(),
        "labels": function.labels(),
    })
}

/// What a package's code is: changes with every change of it.
fn content(package: &Package) -> Value {
    let archive = &package.spec.deployment;
    if archive.literal == LEFT_OUT {
        // Its bytes are in the checksum that took their place.
        return json!(archive.checksum);
    }
    let literal = hex::encode(Sha256::digest(archive.literal.as_bytes()));
    json!([literal, archive.url, archive.checksum])
}

/// Takes away what the executor does not need of a package.
pub(crate) fn strip_package(package: &mut Package) {
    package.spec.source = match package.spec.source.is_empty() {
        true => Archive::default(),
        false => Archive {
            url: LEFT_OUT.to_owned(),
            ..Archive::default()
        },
    };
    if let Some(status) = &mut package.status {
        status.build_log.clear();
    }
    package.annotations_mut().clear();
    let archive = &mut package.spec.deployment;
    if archive.literal.len() > INLINE_LIMIT {
        let sum = hex::encode(Sha256::digest(archive.literal.as_bytes()));
        archive.checksum.sum = sum;
        LEFT_OUT.clone_into(&mut archive.literal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_refused_where_pods_run_before_the_code_is_known() {
        let refused = |executor: &str, field: &str| {
            let function: Function = serde_json::from_value(json!({
                "metadata": { "name": "f", "namespace": "ns" },
                "spec": {
                    "environment": { "name": "python" },
                    "InvokeStrategy": { "ExecutionStrategy": { "ExecutorType": executor } },
                    field: [{ "name": "A", "value": "1" }],
                },
            }))
            .unwrap();
            let parts = Parts {
                function: &function,
                spec: &function.spec,
                version: "",
                environment: None,
                package: None,
                storage_url: "",
            };
            resolve(&parts).err().unwrap().to_string()
        };
        assert!(refused("poolmgr", "env").contains("env and envFrom"));
        assert!(refused("poolmgr", "envFrom").contains("env and envFrom"));
        assert!(refused("newdeploy", "env").contains("python does not exist"));
    }
}
