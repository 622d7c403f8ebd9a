//! `Environment`: a language's runtime and, with one, its builder.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::raw::{RawObject, or_default};

/// Grace of a Pod when the environment says none, in seconds.
pub const DEFAULT_GRACE_SECONDS: i64 = 90;
/// Pods in a pool when the environment says none.
pub const DEFAULT_POOL_SIZE: i32 = 3;

/// How functions of one language run and are built.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "fission.io",
    version = "v1",
    kind = "Environment",
    plural = "environments",
    namespaced,
    status = "EnvironmentStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(
    validation = Rule::new("!has(oldSelf.version) || !has(self.version) || self.version == oldSelf.version")
        .message("version cannot change")
)]
pub struct EnvironmentSpec {
    /// Contract of the image: 1 (code in one file), 2 (with builder), 3 (with pool size).
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 3))]
    pub version: i32,
    /// What runs functions.
    pub runtime: Runtime,
    /// What builds packages; without an image, packages are ready as they are.
    #[serde(default, deserialize_with = "or_default")]
    pub builder: Builder,
    /// `single` (default) or `infinite`: how many functions one Pod may hold.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(regex(pattern = r"^(|single|infinite)$"))]
    pub allowed_functions_per_container: String,
    /// Kept for compatibility; networks are the cluster's business.
    #[serde(default)]
    pub allow_access_to_external_network: bool,
    /// CPU and memory of the runtime's container.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "RawObject::is_empty"
    )]
    pub resources: RawObject,
    /// Ready Pods kept for functions to come; 3 when left out.
    #[serde(default, rename = "poolsize", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub pool_size: Option<i32>,
    /// Seconds that a Pod has to finish its calls when it is ended; 90 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub termination_grace_period: Option<i64>,
    /// Give the runtime the archive as it is instead of unpacked.
    #[serde(default, rename = "keeparchive")]
    pub keep_archive: bool,
    /// Secret of this namespace with which images are pulled.
    #[serde(
        default,
        rename = "imagepullsecret",
        skip_serializing_if = "String::is_empty"
    )]
    pub image_pull_secret: String,
}

fn one() -> i32 {
    1
}

impl EnvironmentSpec {
    /// True when one Pod holds any number of functions.
    pub fn is_infinite(&self) -> bool {
        self.allowed_functions_per_container == "infinite"
    }

    /// Pods to keep ready.
    pub fn pool_size(&self) -> i32 {
        if self.is_infinite() {
            return 1;
        }
        self.pool_size.unwrap_or(DEFAULT_POOL_SIZE)
    }

    /// Seconds that a Pod has to finish its calls.
    pub fn grace_seconds(&self) -> i64 {
        self.termination_grace_period
            .unwrap_or(DEFAULT_GRACE_SECONDS)
    }
}

/// What runs functions.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Runtime {
    /// Image of the runtime's server.
    #[serde(default)]
    pub image: String,
    /// A Kubernetes container laid over the one we make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<RawObject>,
    /// A Kubernetes Pod spec laid over the one we make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub podspec: Option<RawObject>,
}

/// What builds packages.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Builder {
    /// Image with the build tools; none when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Build command of packages that name none; `build` when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub command: String,
    /// A Kubernetes container laid over the one we make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<RawObject>,
    /// A Kubernetes Pod spec laid over the one we make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub podspec: Option<RawObject>,
}

/// Never written: names of builders contain the resource version.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct EnvironmentStatus {
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Nothing so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
