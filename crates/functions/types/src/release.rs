//! Versions, aliases and canaries of functions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::function::FunctionSpec;
use crate::raw::or_default;

/// Moves calls from one function to another, step by step, and back when it fails.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "fission.io",
    version = "v1",
    kind = "CanaryConfig",
    plural = "canaryconfigs",
    namespaced,
    status = "CanaryConfigStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct CanaryConfigSpec {
    /// HTTPTrigger of type `function-weights`, or FunctionAlias.
    pub trigger: String,
    /// Function, or version, that gets more calls.
    #[serde(rename = "newfunction")]
    pub new_function: String,
    /// Function, or version, that gets fewer.
    #[serde(rename = "oldfunction")]
    pub old_function: String,
    /// Percent that are moved at each step.
    #[serde(default, rename = "weightincrement")]
    #[schemars(range(min = 0, max = 100))]
    pub weight_increment: i64,
    /// Time between steps, such as `2m`.
    #[serde(default, rename = "duration")]
    pub interval: String,
    /// Percent of failed calls at which everything is moved back.
    #[serde(default, rename = "failurethreshold")]
    #[schemars(range(min = 0, max = 100))]
    pub failure_threshold: i64,
    /// `status-code`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failure_type: String,
}

/// How a canary stands.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct CanaryConfigStatus {
    /// `pending`, `succeeded`, `failed` or `aborted`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Progressing`, `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A function as it was at one moment. Named `<function>-v<sequence>`.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "fission.io",
    version = "v1",
    kind = "FunctionVersion",
    plural = "functionversions",
    shortname = "fnver",
    namespaced,
    derive = "PartialEq",
    printcolumn(name = "Sequence", type_ = "integer", json_path = ".spec.sequence"),
    printcolumn(name = "PackageDigest", type_ = "string", json_path = ".spec.packageDigest"),
    printcolumn(name = "PublishedAt", type_ = "date", json_path = ".spec.publishedAt"),
    validation = Rule::new("self.spec == oldSelf.spec")
        .message("a published FunctionVersion is immutable")
)]
#[serde(rename_all = "camelCase")]
pub struct FunctionVersionSpec {
    /// The function.
    #[schemars(length(max = 253))]
    pub function_name: String,
    /// Its UID.
    #[serde(default, rename = "functionUID")]
    pub function_uid: String,
    /// Its generation.
    #[serde(default)]
    pub function_generation: i64,
    /// Number of the version, from 1.
    pub sequence: i64,
    /// The function's spec.
    pub snapshot: FunctionSpec,
    /// Digest of its package.
    #[serde(default)]
    pub package_digest: String,
    /// Generation of its environment.
    #[serde(default)]
    pub env_observed_generation: i64,
    /// Image of its runtime.
    #[serde(default)]
    pub env_runtime_image: String,
    /// What changed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_at: Option<Time>,
}

/// A name for a version that can be moved.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "fission.io",
    version = "v1",
    kind = "FunctionAlias",
    plural = "functionaliases",
    shortname = "fnalias",
    namespaced,
    status = "FunctionAliasStatus",
    derive = "PartialEq",
    printcolumn(name = "Function", type_ = "string", json_path = ".spec.functionName"),
    printcolumn(name = "Version", type_ = "string", json_path = ".spec.version"),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".spec.weight"),
    printcolumn(
        name = "ResolvedVersion",
        type_ = "string",
        json_path = ".status.resolvedVersion"
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(
    validation = Rule::new("(has(self.version) && self.version != '') != (has(self.packageDigest) && self.packageDigest != '')")
        .message("exactly one of version and packageDigest is needed"),
    validation = Rule::new("!has(self.weight) || (has(self.secondaryVersion) && self.secondaryVersion != '')")
        .message("weight needs secondaryVersion")
)]
pub struct FunctionAliasSpec {
    /// The function.
    pub function_name: String,
    /// Version that is called.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Digest of the package of the version that is called.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub package_digest: String,
    /// Percent of calls that go to `version`; the others go to `secondaryVersion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub weight: Option<i64>,
    /// Version that gets the other calls.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub secondary_version: String,
}

/// What an alias leads to.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct FunctionAliasStatus {
    /// Version that is called.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resolved_version: String,
    /// Versions before, newest last.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub history: Vec<AliasSwitch>,
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Resolved`, `EnvDrift`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One move of an alias.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AliasSwitch {
    /// Version before.
    #[serde(default)]
    pub version: String,
    /// Digest of its package.
    #[serde(default)]
    pub package_digest: String,
    /// When it was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switched_at: Option<Time>,
}

/// A namespace that may hold functions.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "fission.io",
    version = "v1",
    kind = "FissionTenant",
    plural = "fissiontenants",
    shortname = "ftenant",
    status = "FissionTenantStatus",
    derive = "PartialEq",
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.namespace"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct FissionTenantSpec {
    /// The namespace.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("namespace cannot change"))]
    pub namespace: String,
    /// Namespace of its instances; the same when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub function_namespace: String,
    /// Namespace of its builders; the same when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub builder_namespace: String,
}

/// How a tenant stands.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct FissionTenantStatus {
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `RBACProvisioned`, `ServiceAccountsReady`, `AuthKeyProvisioned`, `WatchActive`, `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
