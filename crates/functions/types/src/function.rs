//! `Function`: code that answers calls.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::FunctionReference;
use crate::raw::{RawObject, RawValue, or_default};

/// Seconds a call may take when the function says none.
pub const DEFAULT_TIMEOUT_SECONDS: i64 = 60;
/// Seconds an instance may be idle when the function says none.
pub const DEFAULT_IDLE_SECONDS: i64 = 120;
/// Instances of one function when it says none.
pub const DEFAULT_CONCURRENCY: i64 = 500;
/// Seconds a specialisation may take when the function says none.
pub const DEFAULT_SPECIALIZATION_SECONDS: i64 = 120;

/// Code that answers calls.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "fission.io",
    version = "v1",
    kind = "Function",
    plural = "functions",
    shortname = "fn",
    namespaced,
    status = "FunctionStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(
    validation = Rule::new("!has(self.InvokeStrategy) || !has(self.InvokeStrategy.ExecutionStrategy) || !has(self.InvokeStrategy.ExecutionStrategy.ExecutorType) || self.InvokeStrategy.ExecutionStrategy.ExecutorType != 'container' || has(self.podspec)")
        .message("executor type container needs a podspec"),
    validation = Rule::new("!has(self.provisionedConcurrency) || !has(self.InvokeStrategy) || !has(self.InvokeStrategy.ExecutionStrategy) || !has(self.InvokeStrategy.ExecutionStrategy.ExecutorType) || self.InvokeStrategy.ExecutionStrategy.ExecutorType in ['', 'poolmgr']")
        .message("provisionedConcurrency is only supported with executortype poolmgr")
)]
pub struct FunctionSpec {
    /// Environment that runs it; in the function's own namespace.
    #[serde(default, deserialize_with = "or_default")]
    pub environment: ObjectReference,
    /// The code.
    #[serde(default, deserialize_with = "or_default")]
    pub package: FunctionPackage,
    /// Secrets of this namespace that the code can read as files.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub secrets: Vec<MountedReference>,
    /// ConfigMaps of this namespace that the code can read as files.
    #[serde(
        default,
        rename = "configmaps",
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub config_maps: Vec<MountedReference>,
    /// Environment variables; newdeploy and container only.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<RawObject>,
    /// Environment variables from Secrets and ConfigMaps; newdeploy and container only.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env_from: Vec<RawObject>,
    /// CPU and memory; a pool's Pods have those of the environment.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "RawObject::is_empty"
    )]
    pub resources: RawObject,
    /// How it is run.
    #[serde(default, rename = "InvokeStrategy", deserialize_with = "or_default")]
    pub invoke_strategy: InvokeStrategy,
    /// Seconds a call may take; 60 when left out or 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_timeout: Option<i64>,
    /// Seconds an instance may be idle; 120 when left out.
    #[serde(
        default,
        rename = "idletimeout",
        skip_serializing_if = "Option::is_none"
    )]
    pub idle_timeout: Option<i64>,
    /// Answers that are sent while they are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streaming: Option<Streaming>,
    /// Offered to language models as a tool. Kept; not served yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<RawObject>,
    /// Keyed state. Kept; nothing uses it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RawObject>,
    /// Asynchronous calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<Invocation>,
    /// Most instances at a time; 500 when left out or 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<i64>,
    /// Most calls at an instance at a time; 1 when left out or 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_pod: Option<i64>,
    /// Each instance answers one call and is deleted.
    #[serde(default)]
    pub once_only: bool,
    /// Instances that are kept when idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_pods: Option<i64>,
    /// Instances that are made before they are called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioned_concurrency: Option<ProvisionedConcurrency>,
    /// How versions of it are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versioning: Option<Versioning>,
    /// A Kubernetes Pod spec; executor type container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub podspec: Option<RawObject>,
}

impl FunctionSpec {
    /// How instances are made.
    pub fn executor_type(&self) -> ExecutorType {
        self.invoke_strategy.execution_strategy.executor_type
    }

    /// Seconds a call may take.
    pub fn timeout_seconds(&self) -> u64 {
        positive(self.function_timeout, DEFAULT_TIMEOUT_SECONDS)
    }

    /// Seconds an instance may be idle. 0 is taken literally.
    pub fn idle_seconds(&self) -> u64 {
        let said = self.idle_timeout.unwrap_or(DEFAULT_IDLE_SECONDS);
        u64::try_from(said).unwrap_or(0)
    }

    /// Most instances at a time.
    pub fn concurrency(&self) -> usize {
        usize::try_from(positive(self.concurrency, DEFAULT_CONCURRENCY)).unwrap_or(usize::MAX)
    }

    /// Most calls at an instance at a time.
    pub fn requests_per_pod(&self) -> usize {
        if self.once_only {
            return 1;
        }
        usize::try_from(positive(self.requests_per_pod, 1)).unwrap_or(usize::MAX)
    }

    /// Seconds a specialisation may take.
    pub fn specialization_seconds(&self) -> u64 {
        let said = self
            .invoke_strategy
            .execution_strategy
            .specialization_timeout;
        positive(said, DEFAULT_SPECIALIZATION_SECONDS)
    }
}

fn positive(said: Option<i64>, default: i64) -> u64 {
    let value = said.filter(|&value| value > 0).unwrap_or(default);
    u64::try_from(value).unwrap_or(1)
}

/// An object of some namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReference {
    /// Namespace; that of the referring object when empty. Any other is refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    #[serde(default)]
    pub name: String,
}

/// A Secret or ConfigMap of the function's namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MountedReference {
    /// Namespace; the function's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Where its files are; `/secrets/<ns>/<name>` or `/configs/<ns>/<name>` when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mount_path: String,
}

/// Which code of which package.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct FunctionPackage {
    /// The package; in the function's own namespace.
    #[serde(default, rename = "packageref", deserialize_with = "or_default")]
    pub package_ref: PackageReference,
    /// Entry point in the words of the runtime, such as `module.function`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub function_name: String,
}

/// A package at one version.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct PackageReference {
    /// Namespace; that of the function when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Version of the package that clients saw. Kept for them: new instances follow from what
    /// the package holds.
    #[serde(
        default,
        rename = "resourceversion",
        skip_serializing_if = "String::is_empty"
    )]
    pub resource_version: String,
}

/// How a function is run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct InvokeStrategy {
    /// The strategy's settings.
    #[serde(default, rename = "ExecutionStrategy", deserialize_with = "or_default")]
    pub execution_strategy: ExecutionStrategy,
    /// `execution`.
    #[serde(
        default,
        rename = "StrategyType",
        skip_serializing_if = "String::is_empty"
    )]
    pub strategy_type: String,
}

/// Settings of an executor.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(
    validation = Rule::new("!has(self.MinScale) || self.MinScale >= 0").message("MinScale must not be negative"),
    validation = Rule::new("!has(self.MinScale) || !has(self.MaxScale) || self.MaxScale == 0 || self.MaxScale >= self.MinScale")
        .message("MaxScale must be at least MinScale"),
    validation = Rule::new("!has(self.TargetCPUPercent) || (self.TargetCPUPercent >= 0 && self.TargetCPUPercent <= 100)")
        .message("TargetCPUPercent must be between 0 and 100")
)]
pub struct ExecutionStrategy {
    /// `poolmgr` (default), `newdeploy` or `container`. Clients in Go write what they leave out
    /// as an empty text.
    #[serde(default, rename = "ExecutorType")]
    #[schemars(extend("enum" = [""]))]
    pub executor_type: ExecutorType,
    /// Fewest instances; newdeploy and container.
    #[serde(default, rename = "MinScale", skip_serializing_if = "Option::is_none")]
    pub min_scale: Option<i32>,
    /// Most instances; newdeploy and container.
    #[serde(default, rename = "MaxScale", skip_serializing_if = "Option::is_none")]
    pub max_scale: Option<i32>,
    /// Processor use that more instances are made at, in percent.
    #[serde(
        default,
        rename = "TargetCPUPercent",
        skip_serializing_if = "Option::is_none"
    )]
    pub target_cpu_percent: Option<i32>,
    /// Seconds a specialisation may take; 120 when left out.
    #[serde(
        default,
        rename = "SpecializationTimeout",
        skip_serializing_if = "Option::is_none"
    )]
    pub specialization_timeout: Option<i64>,
    /// Metrics of the HorizontalPodAutoscaler, word for word.
    #[serde(
        default,
        rename = "hpaMetrics",
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub hpa_metrics: Vec<RawObject>,
    /// Behaviour of the HorizontalPodAutoscaler, word for word.
    #[serde(
        default,
        rename = "hpaBehavior",
        skip_serializing_if = "Option::is_none"
    )]
    pub hpa_behavior: Option<RawObject>,
}

/// How instances are made.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum ExecutorType {
    /// A ready Pod of the environment's pool is given the code.
    #[default]
    #[serde(alias = "")]
    Poolmgr,
    /// A Deployment per function.
    Newdeploy,
    /// A Deployment per function of the user's own image.
    Container,
}

impl ExecutorType {
    /// As in labels and objects.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Poolmgr => "poolmgr",
            Self::Newdeploy => "newdeploy",
            Self::Container => "container",
        }
    }
}

/// Answers that are sent while they are made.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Streaming {
    /// `auto`, `sse`, `chunked` or `websocket`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(regex(pattern = r"^(|auto|sse|chunked|websocket)$"))]
    pub protocol: String,
    /// Seconds without a byte after which the answer is cut; 60 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_seconds: Option<i64>,
    /// Seconds after which the answer is cut in any case; none when left out or 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duration_seconds: Option<i64>,
}

/// Asynchronous calls of a function.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Invocation {
    /// Attempts and pauses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Age at which a call is given up, such as `6h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
    /// Where the outcome goes after success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_success: Option<Destination>,
    /// Where the outcome goes after the last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<Destination>,
}

/// Attempts and pauses.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Attempts in all; 3 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<i64>,
    /// First pause, such as `1s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_base: Option<String>,
    /// Longest pause, such as `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_cap: Option<String>,
    /// Pauses vary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<bool>,
}

/// Where the outcome of an asynchronous call goes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// A function of this namespace, its alias or version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionReference>,
    /// A topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<Topic>,
}

/// A topic of a message queue.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Topic {
    /// Kind of queue.
    #[serde(default)]
    pub message_queue_type: String,
    /// Name.
    #[serde(default)]
    pub topic: String,
}

/// Instances that are made before they are called.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProvisionedConcurrency {
    /// How many.
    #[schemars(range(min = 1))]
    pub target: i64,
    /// Times with another number; the largest of those that are open counts.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 32))]
    pub windows: Vec<Window>,
}

/// A time with another number of instances.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// Name.
    pub name: String,
    /// When it opens: cron, `CRON_TZ=` allowed.
    pub start: String,
    /// How long it is open, such as `8h`.
    pub duration: String,
    /// How many instances.
    #[schemars(range(min = 0))]
    pub target: i64,
}

/// How versions of a function are made.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Versioning {
    /// `auto`, also when left out, or `manual`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(regex(pattern = r"^(|auto|manual)$"))]
    pub mode: String,
    /// How many are kept; 10 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<i64>,
}

/// What was observed of a function.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct FunctionStatus {
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Provisioned instances that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioned_ready: Option<i64>,
    /// Provisioned instances that are wanted now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioned_target: Option<i64>,
    /// Provisioned instances that the spec asks for outside of windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioned_spec_target: Option<i64>,
    /// `Ready`, `PackageReady`, `ToolExposed`, `Provisioned`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Last failure of an instance, in the function's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<RawValue>,
}
