//! `JoinToken`: the right to enrol one host.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The right to enrol one host, for at most an hour.
///
/// Whoever makes it keeps the secret; the hub stores only a hash. Deleting it revokes it.
/// The gateway consumes it by one update that carries the resource version it read, so
/// that of two uses at most one succeeds.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "farplane.io",
    version = "v1alpha1",
    kind = "JoinToken",
    namespaced,
    status = "JoinTokenStatus",
    shortname = "jt",
    category = "farplane",
    derive = "PartialEq",
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".spec.endpoint"),
    printcolumn(name = "Host", type_ = "string", json_path = ".spec.host"),
    printcolumn(name = "Used By", type_ = "string", json_path = ".status.usedBy"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt")
)]
#[serde(rename_all = "camelCase")]
pub struct JoinTokenSpec {
    /// Endpoint that the host will belong to.
    #[schemars(length(min = 1, max = 50))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("endpoint cannot change"))]
    pub endpoint: String,
    /// The only host name that may use the token; any free name when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// SHA-256 of the secret part, hex.
    #[schemars(length(min = 64, max = 64))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("secretSha256 cannot change"))]
    pub secret_sha256: String,
    /// End of validity; the gateway refuses one more than an hour after creation.
    pub expires_at: Time,
}

/// What became of a token.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct JoinTokenStatus {
    /// Host that used the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<Time>,
    /// SHA-256 of the public key that used it, hex: the same key may repeat an interrupted join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_sha256: Option<String>,
}
