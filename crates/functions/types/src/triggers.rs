//! Triggers: what calls a function.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::raw::{RawObject, or_default};

/// Which function is called: one, or several by weight.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.alias) && self.alias != '' && has(self.version) && self.version != '')")
        .message("alias and version exclude each other"),
    validation = Rule::new("self.type == 'name' || ((!has(self.alias) || self.alias == '') && (!has(self.version) || self.version == ''))")
        .message("alias and version need type name")
)]
pub struct FunctionReference {
    /// `name` or `function-weights`.
    #[serde(default = "by_name", rename = "type")]
    #[schemars(regex(pattern = r"^(name|function-weights)$"))]
    pub kind: String,
    /// Name of the function, in the trigger's own namespace.
    #[serde(default)]
    pub name: String,
    /// Alias of the function.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// Version of the function.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Share of calls by name of function.
    #[serde(
        default,
        rename = "functionweights",
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub function_weights: BTreeMap<String, i64>,
}

fn by_name() -> String {
    "name".to_owned()
}

/// Calls a function for HTTP requests to a path.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "fission.io",
    version = "v1",
    kind = "HTTPTrigger",
    plural = "httptriggers",
    namespaced,
    status = "HTTPTriggerStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(
    validation = Rule::new("(has(self.relativeurl) && self.relativeurl != '') || (has(self.prefix) && self.prefix != '')")
        .message("relativeurl or prefix is needed"),
    validation = Rule::new("!has(self.relativeurl) || self.relativeurl == '' || (self.relativeurl.startsWith('/') && self.relativeurl != '/' && !self.relativeurl.contains('..'))")
        .message("relativeurl must begin with / and be neither / alone nor contain .."),
    validation = Rule::new("!has(self.prefix) || self.prefix == '' || (self.prefix.startsWith('/') && self.prefix != '/' && !self.prefix.contains('..'))")
        .message("prefix must begin with / and be neither / alone nor contain .."),
    validation = Rule::new("!has(self.relativeurl) || !(self.relativeurl in ['/router-healthz', '/readyz', '/_version', '/auth/login'] || self.relativeurl.startsWith('/fission-function/'))")
        .message("this path is the router's own"),
    validation = Rule::new("!has(self.prefix) || !(self.prefix in ['/router-healthz', '/readyz', '/_version', '/auth/login', '/auth', '/fission-function'] || self.prefix.startsWith('/fission-function/'))")
        .message("this path is the router's own")
)]
pub struct HTTPTriggerSpec {
    /// Host that requests must name. Deprecated: use `routeConfig.hostnames`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Path; `{name}` and `{name:regex}` match a segment.
    #[serde(
        default,
        rename = "relativeurl",
        skip_serializing_if = "String::is_empty"
    )]
    #[schemars(length(max = 1024))]
    pub relative_url: String,
    /// Every path below this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub prefix: Option<String>,
    /// The function sees the prefix too.
    #[serde(default)]
    pub keep_prefix: bool,
    /// HTTP method. Deprecated: use `methods`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// HTTP methods; GET when neither is given.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub methods: Vec<String>,
    /// `async`: answered with 202 at once.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(regex(pattern = r"^(|async)$"))]
    pub invocation_mode: String,
    /// What is called.
    #[serde(rename = "functionref")]
    pub function_ref: FunctionReference,
    /// Make an Ingress. Deprecated: use `routeConfig`.
    #[serde(default, rename = "createingress")]
    pub create_ingress: bool,
    /// The Ingress. Deprecated: use `routeConfig`.
    #[serde(
        default,
        rename = "ingressconfig",
        deserialize_with = "or_default",
        skip_serializing_if = "RawObject::is_empty"
    )]
    pub ingress_config: RawObject,
    /// Ingress or Gateway route to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_config: Option<RawObject>,
    /// Requests of other origins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors_config: Option<CorsConfig>,
}

/// Requests of other origins.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.allowCredentials) && self.allowCredentials && has(self.allowOrigins) && self.allowOrigins.exists(o, o == '*'))")
        .message("allowOrigins * excludes allowCredentials")
)]
pub struct CorsConfig {
    /// Origins, or `*`.
    #[serde(default, deserialize_with = "or_default")]
    #[schemars(length(max = 256))]
    pub allow_origins: Vec<String>,
    /// Methods; those of the trigger when empty.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub allow_methods: Vec<String>,
    /// Request headers.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub allow_headers: Vec<String>,
    /// Response headers that scripts may read.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub expose_headers: Vec<String>,
    /// Cookies and credentials are sent.
    #[serde(default)]
    pub allow_credentials: bool,
    /// Seconds that a preflight is remembered, or a duration such as `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<IntOrString>,
}

/// What was observed of a trigger.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct HTTPTriggerStatus {
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `RouteAdmitted`, `Ready`, and `Exposed` when an Ingress or Gateway route is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Calls a function at times.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "fission.io",
    version = "v1",
    kind = "TimeTrigger",
    plural = "timetriggers",
    namespaced,
    status = "TriggerStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct TimeTriggerSpec {
    /// Cron with an optional field of seconds before, or `@every 5m`, `@hourly`, ...
    #[schemars(length(min = 1, max = 256))]
    pub cron: String,
    /// What is called.
    #[serde(rename = "functionref")]
    pub function_ref: FunctionReference,
    /// HTTP method; POST when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Path that the function sees; `/` when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subpath: String,
}

/// Calls a function when objects of the cluster change.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "fission.io",
    version = "v1",
    kind = "KubernetesWatchTrigger",
    plural = "kuberneteswatchtriggers",
    namespaced,
    status = "TriggerStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct KubernetesWatchTriggerSpec {
    /// Namespace that is watched: the trigger's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// `POD`, `SERVICE`, `REPLICATIONCONTROLLER` or `JOB`, in any case.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Labels that objects must have.
    #[serde(
        default,
        rename = "labelselector",
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub label_selector: BTreeMap<String, String>,
    /// What is called.
    #[serde(rename = "functionref")]
    pub function_ref: FunctionReference,
}

/// Calls a function for messages.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "fission.io",
    version = "v1",
    kind = "MessageQueueTrigger",
    plural = "messagequeuetriggers",
    namespaced,
    status = "TriggerStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct MessageQueueTriggerSpec {
    /// What is called.
    #[serde(rename = "functionref")]
    pub function_ref: FunctionReference,
    /// Kind of queue, such as `kafka` or `nats-jetstream`.
    #[serde(default)]
    pub message_queue_type: String,
    /// Topic that is read.
    #[serde(default)]
    pub topic: String,
    /// Topic for answers; none when empty.
    #[serde(
        default,
        rename = "respTopic",
        skip_serializing_if = "String::is_empty"
    )]
    pub response_topic: String,
    /// Topic for messages that failed for the last time; none when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error_topic: String,
    /// Calls after the first one that failed.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub max_retries: i64,
    /// Type of the messages' content; `application/json` when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content_type: String,
    /// Seconds between two looks at the queue (KEDA).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub polling_interval: Option<i64>,
    /// Seconds of quiet after which a connector is stopped (KEDA).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown_period: Option<i64>,
    /// Fewest connectors (KEDA).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replica_count: Option<i64>,
    /// Most connectors (KEDA).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_replica_count: Option<i64>,
    /// Settings of the queue, such as its servers.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub metadata: BTreeMap<String, String>,
    /// Secret of this namespace with credentials.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// `fission` or `keda`.
    #[serde(default, rename = "mqtkind", skip_serializing_if = "String::is_empty")]
    pub mqt_kind: String,
    /// Placement of connectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub podspec: Option<RawObject>,
}

/// What was observed of a trigger.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct TriggerStatus {
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` and `Scheduled`, `Subscribed` or `BindingReady`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
