//! `Package`: the code of one or more functions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::function::ObjectReference;
use crate::raw::{RawObject, or_default};

/// Largest archive within an object, in bytes before base64.
pub const MAX_LITERAL_BYTES: usize = 256 * 1024;

/// Code: as written (`source`), as it runs (`deployment`), or both.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "fission.io",
    version = "v1",
    kind = "Package",
    plural = "packages",
    shortname = "pkg",
    namespaced,
    status = "PackageStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct PackageSpec {
    /// Environment that builds and runs it; in the package's own namespace.
    #[serde(default, deserialize_with = "or_default")]
    pub environment: ObjectReference,
    /// Code to be built.
    #[serde(default, deserialize_with = "or_default")]
    pub source: Archive,
    /// Code that runs; written by the build when there is a source.
    #[serde(default, deserialize_with = "or_default")]
    pub deployment: Archive,
    /// Build command; the environment's when empty.
    #[serde(default, rename = "buildcmd", skip_serializing_if = "String::is_empty")]
    pub build_command: String,
}

/// Where code is. At most one of `literal`, `url` and `oci`.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(
    validation = Rule::new("(has(self.literal) && size(self.literal) > 0 ? 1 : 0) + (has(self.url) && self.url != '' ? 1 : 0) + (has(self.oci) ? 1 : 0) <= 1")
        .message("at most one of literal, url, or oci may be set")
)]
pub struct Archive {
    /// `literal`, `url` or `oci`; found out from the rest when empty.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    #[schemars(regex(pattern = r"^(|literal|url|oci)$"))]
    pub kind: String,
    /// The bytes, base64; at most 256 KiB.
    // Not of format `byte`: rules would decode it in the alphabet of URLs, and fail at `+` and `/`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 349528))]
    pub literal: String,
    /// Where to download it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub url: String,
    /// What the bytes must hash to.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Checksum::is_empty"
    )]
    pub checksum: Checksum,
    /// An image that holds the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<OciArchive>,
}

impl Archive {
    /// True when it names no code at all.
    pub fn is_empty(&self) -> bool {
        self.literal.is_empty() && self.url.is_empty() && self.oci.is_none()
    }
}

/// A digest of bytes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Checksum {
    /// `sha256`.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The digest, hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sum: String,
}

impl Checksum {
    /// SHA-256 of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self::sha256(hex::encode(sha2::Sha256::digest(bytes)))
    }

    /// A SHA-256, hex.
    pub fn sha256(sum: String) -> Self {
        let kind = "sha256".to_owned();
        Self { kind, sum }
    }

    /// True when nothing is asked of the bytes.
    pub fn is_empty(&self) -> bool {
        self.sum.is_empty()
    }
}

/// An image that holds code.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct OciArchive {
    /// Reference.
    #[serde(default)]
    pub image: String,
    /// Secrets to pull it with, as in a Pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<RawObject>,
    /// Directory within the image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sub_path: String,
    /// Digest that the image must have.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
}

/// How a build stands.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct PackageStatus {
    /// `pending`, `running`, `succeeded`, `failed`, or `none` when there is nothing to build.
    #[serde(
        default,
        rename = "buildstatus",
        skip_serializing_if = "String::is_empty"
    )]
    pub build_status: String,
    /// What the build said.
    #[serde(default, rename = "buildlog", skip_serializing_if = "String::is_empty")]
    pub build_log: String,
    /// Digest of what was built from what; functions follow it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content_hash: String,
    /// When this was last written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_timestamp: Option<Time>,
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `BuildSucceeded`, `Ready`, `OCIPublished`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Words of [`PackageStatus::build_status`].
pub mod build_status {
    /// Waits to be built.
    pub const PENDING: &str = "pending";
    /// Is being built.
    pub const RUNNING: &str = "running";
    /// Built, or ready as it was.
    pub const SUCCEEDED: &str = "succeeded";
    /// The log says why.
    pub const FAILED: &str = "failed";
    /// There is nothing to build.
    pub const NONE: &str = "none";
}
