//! The kinds of the function platform, as commands name and list them.

use farplane_functions_types::{
    CanaryConfig, Environment, Function, FunctionAlias, FunctionReference, FunctionVersion,
    HTTPTrigger, KubernetesWatchTrigger, MessageQueueTrigger, Package, TimeTrigger,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, Resource, ResourceExt as _};

use crate::failure::Scope;
use crate::objects::Kind;
use crate::time::age;
use crate::view::cells::{Cell, Tone};
use crate::view::rows::Row;

macro_rules! kind_of_namespaces {
    ($kind:ty, $noun:literal, $command:literal) => {
        impl Kind for $kind {
            const NOUN: &'static str = $noun;
            const COMMAND: &'static str = $command;
            fn api(client: Client, place: Option<&str>) -> Api<Self> {
                match place {
                    Some(namespace) => Api::namespaced(client, namespace),
                    None => Api::all(client),
                }
            }
            fn scope(place: Option<&str>) -> Scope<'_> {
                place.map_or(Scope::Cluster, Scope::Namespace)
            }
        }
    };
}

kind_of_namespaces!(Environment, "environment", "env");
kind_of_namespaces!(Package, "package", "fn");
kind_of_namespaces!(Function, "function", "fn");
kind_of_namespaces!(HTTPTrigger, "route", "route");
kind_of_namespaces!(TimeTrigger, "timer", "timer");
kind_of_namespaces!(KubernetesWatchTrigger, "watch", "spec");
kind_of_namespaces!(MessageQueueTrigger, "message queue trigger", "spec");
kind_of_namespaces!(FunctionVersion, "version", "fn");
kind_of_namespaces!(FunctionAlias, "alias", "spec");
kind_of_namespaces!(CanaryConfig, "canary", "spec");

fn since(object: &impl Resource, now: Timestamp) -> Cell {
    age(object.meta().creation_timestamp.as_ref(), now).into()
}

fn namespace(object: &impl Resource) -> Cell {
    object.meta().namespace.clone().unwrap_or_default().into()
}

/// `yes`, the reason why not, or `-` when nobody has looked yet.
pub(crate) fn verdict(conditions: &[Condition], type_: &str) -> Cell {
    match conditions.iter().find(|one| one.type_ == type_) {
        Some(one) if one.status == "True" => Cell::toned("yes", Tone::Good),
        Some(one) if one.status == "False" => Cell::toned(one.reason.clone(), Tone::Bad),
        _ => Cell::toned("-", Tone::Wait),
    }
}

/// Which function a trigger calls, in words.
pub(crate) fn target(reference: &FunctionReference) -> String {
    if !reference.function_weights.is_empty() {
        let parts: Vec<String> = reference
            .function_weights
            .iter()
            .map(|(name, weight)| format!("{name} {weight}%"))
            .collect();
        return parts.join(", ");
    }
    let name = &reference.name;
    match (reference.alias.as_str(), reference.version.as_str()) {
        ("", "") => name.clone(),
        ("", version) => format!("{name}:{version}"),
        (alias, _) => format!("{name}:{alias}"),
    }
}

/// True when a trigger calls this function.
pub(crate) fn calls(reference: &FunctionReference, function: &str) -> bool {
    reference.name == function || reference.function_weights.contains_key(function)
}

/// Methods of a route.
pub(crate) fn methods(route: &HTTPTrigger) -> Vec<String> {
    let spec = &route.spec;
    match (spec.methods.as_slice(), spec.method.as_str()) {
        ([], "") => vec!["GET".to_owned()],
        ([], method) => vec![method.to_owned()],
        (methods, _) => methods.to_vec(),
    }
}

/// Path of a route; a `*` stands for everything below a prefix.
pub(crate) fn path(route: &HTTPTrigger) -> String {
    match route.spec.prefix.as_deref() {
        Some(prefix) if !prefix.is_empty() => format!("{}/*", prefix.trim_end_matches('/')),
        _ => route.spec.relative_url.clone(),
    }
}

impl Row for Environment {
    const HEADS: &'static [&'static str] =
        &["NAME", "NAMESPACE", "IMAGE", "BUILDER", "POOL", "AGE"];

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            self.name_any().into(),
            namespace(self),
            self.spec.runtime.image.clone().into(),
            Cell::or_dash(Some(self.spec.builder.image.clone())),
            self.spec.pool_size().to_string().into(),
            since(self, now),
        ]
    }
}

impl Row for Function {
    const HEADS: &'static [&'static str] = &[
        "NAME",
        "NAMESPACE",
        "ENVIRONMENT",
        "EXECUTOR",
        "READY",
        "AGE",
    ];

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let conditions = self.status.clone().unwrap_or_default().conditions;
        vec![
            self.name_any().into(),
            namespace(self),
            Cell::or_dash(Some(self.spec.environment.name.clone())),
            self.spec.executor_type().as_str().into(),
            verdict(&conditions, "Ready"),
            since(self, now),
        ]
    }
}

impl Row for HTTPTrigger {
    const HEADS: &'static [&'static str] = &[
        "NAME",
        "NAMESPACE",
        "METHODS",
        "PATH",
        "FUNCTION",
        "READY",
        "AGE",
    ];

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let conditions = self.status.clone().unwrap_or_default().conditions;
        let path = match self.spec.host.as_str() {
            "" => path(self),
            host => format!("{host}{}", path(self)),
        };
        vec![
            self.name_any().into(),
            namespace(self),
            methods(self).join(",").into(),
            path.into(),
            target(&self.spec.function_ref).into(),
            verdict(&conditions, "Ready"),
            since(self, now),
        ]
    }
}
