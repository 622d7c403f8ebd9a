//! The Ingress or HTTPRoute of a trigger.
//!
//! Pure. Promises: the name holds the trigger's UID, which nobody chooses, so no two triggers
//! meet and nobody else's object is taken over; the Service behind is the router, whatever the
//! trigger says; what is asked is digested into an annotation, so that something less than
//! before is seen as well as something more.

use std::collections::BTreeMap;

use farplane_functions_types::names::label;
use farplane_functions_types::{Checksum, HTTPTrigger};
use kube::{CustomResource, ResourceExt as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::ask::{Ask, Parent, Path, Route};
use super::policy::{Exposure, is_value};

/// Digest of what was applied.
const APPLIED: &str = "farplane.io/applied";
/// Service of the router and its port.
const SERVICE: &str = "router";
const PORT: u16 = 80;
/// Of namespace and name, in a name that a UID ends: 63 letters together.
const READABLE: usize = 26;

/// An HTTPRoute of the Gateway API, kept as it is.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "HTTPRoute",
    namespaced,
    schema = "disabled"
)]
pub(crate) struct HTTPRouteSpec {
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// Which kind an object is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Ingress,
    HttpRoute,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::HttpRoute => "HTTPRoute",
        }
    }
}

/// An object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub kind: Kind,
    pub name: String,
    /// Of everything that is asked for.
    pub digest: String,
    pub body: Value,
}

/// An object with our label, as it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Existing {
    pub kind: Kind,
    pub name: String,
    pub uid: String,
    pub version: String,
    pub body: Value,
}

impl Existing {
    /// None when it cannot be read; it is then as if it were not there.
    pub fn of<K: kube::Resource + Serialize>(kind: Kind, object: &K) -> Option<Self> {
        Some(Self {
            kind,
            name: object.name_any(),
            uid: object.uid()?,
            version: object.resource_version()?,
            body: serde_json::to_value(object).ok()?,
        })
    }
}

impl Wanted {
    /// None for a trigger that no API server has seen.
    pub fn of(
        trigger: &HTTPTrigger,
        ask: &Ask,
        policy: &Exposure,
        namespace: &str,
    ) -> Option<Self> {
        let uid = trigger.uid().filter(|uid| !uid.is_empty())?;
        let (kind, version, spec) = match &ask.route {
            Route::Ingress { secret } => {
                let spec = ingress(ask, secret.as_deref(), &policy.ingress_class);
                (Kind::Ingress, "networking.k8s.io/v1", spec)
            }
            Route::Gateway { parents } => {
                let spec = http_route(ask, parents);
                (Kind::HttpRoute, "gateway.networking.k8s.io/v1", spec)
            }
        };
        let name = name(trigger, &uid);
        let labels = labels(trigger, &uid);
        let mut annotations = ask.annotations.clone();
        let all = json!([labels, annotations, spec]).to_string();
        let digest = Checksum::of(all.as_bytes()).sum;
        annotations.insert(APPLIED.to_owned(), digest.clone());
        let body = json!({
            "apiVersion": version,
            "kind": kind.name(),
            "metadata": {
                "name": name, "namespace": namespace,
                "labels": labels, "annotations": annotations,
            },
            "spec": spec,
        });
        Some(Self {
            kind,
            name,
            digest,
            body,
        })
    }

    /// Whether an object is already so. What others added to it beside is left to them.
    pub fn is(&self, existing: &Existing) -> bool {
        let fields = ["/metadata/labels", "/metadata/annotations", "/spec"];
        fields.iter().all(|field| {
            let has = existing.body.pointer(field).unwrap_or(&Value::Null);
            self.body
                .pointer(field)
                .is_none_or(|wanted| covers(wanted, has))
        })
    }
}

/// Whether everything that is wanted is there. Lists are compared as a whole.
fn covers(wanted: &Value, has: &Value) -> bool {
    match (wanted, has) {
        (Value::Object(wanted), Value::Object(has)) => wanted
            .iter()
            .all(|(key, value)| has.get(key).is_some_and(|has| covers(value, has))),
        _ => wanted == has,
    }
}

fn name(trigger: &HTTPTrigger, uid: &str) -> String {
    let readable = format!(
        "{}-{}",
        trigger.namespace().unwrap_or_default(),
        trigger.name_any()
    );
    let readable: String = readable.replace('.', "-").chars().take(READABLE).collect();
    format!("{}-{uid}", readable.trim_end_matches('-'))
}

/// Fission's labels, and ours. What cannot be the value of a label is left empty.
fn labels(trigger: &HTTPTrigger, uid: &str) -> BTreeMap<&'static str, String> {
    let namespace = trigger.namespace().unwrap_or_default();
    let function = trigger.spec.function_ref.name.clone();
    let labels = [
        (label::FUNCTION_NAME, function),
        (label::TRIGGER_NAME, trigger.name_any()),
        (label::TRIGGER_NAMESPACE, namespace),
        (label::EXPOSES, uid.to_owned()),
    ];
    let fit = labels.map(|(key, value)| (key, Some(value).filter(|value| is_value(value))));
    fit.map(|(key, value)| (key, value.unwrap_or_default()))
        .into()
}

fn ingress(ask: &Ask, secret: Option<&str>, class: &str) -> Value {
    let path_type = match ask.path {
        Path::Exact(_) => "Exact",
        Path::Prefix(_) => "Prefix",
    };
    let http = json!({ "paths": [{
        "path": ask.path.text(),
        "pathType": path_type,
        "backend": { "service": { "name": SERVICE, "port": { "number": PORT } } },
    }]});
    let mut rules: Vec<Value> = ask
        .hostnames
        .iter()
        .map(|host| json!({ "host": host, "http": http }))
        .collect();
    if rules.is_empty() {
        rules.push(json!({ "http": http }));
    }
    let mut spec = json!({ "rules": rules });
    if !class.is_empty() {
        spec["ingressClassName"] = json!(class);
    }
    if let Some(secret) = secret {
        spec["tls"] = json!([{ "secretName": secret }]);
        if !ask.hostnames.is_empty() {
            spec["tls"][0]["hosts"] = json!(ask.hostnames);
        }
    }
    spec
}

/// With the defaults of the definition, as lists are compared as a whole.
fn http_route(ask: &Ask, parents: &[Parent]) -> Value {
    let parents: Vec<Value> = parents
        .iter()
        .map(|parent| {
            let mut reference = json!({
                "group": "gateway.networking.k8s.io", "kind": "Gateway",
                "namespace": parent.namespace, "name": parent.name,
            });
            if let Some(section) = &parent.section {
                reference["sectionName"] = json!(section);
            }
            if let Some(port) = parent.port {
                reference["port"] = json!(port);
            }
            reference
        })
        .collect();
    let path_type = match ask.path {
        Path::Exact(_) => "Exact",
        Path::Prefix(_) => "PathPrefix",
    };
    let mut spec = json!({
        "parentRefs": parents,
        "rules": [{
            "matches": [{ "path": { "type": path_type, "value": ask.path.text() } }],
            "backendRefs": [{
                "group": "", "kind": "Service", "name": SERVICE, "port": PORT, "weight": 1,
            }],
        }],
    });
    if !ask.hostnames.is_empty() {
        spec["hostnames"] = json!(ask.hostnames);
    }
    spec
}
