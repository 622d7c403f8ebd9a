//! `Endpoint`: a place where infrastructure is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A place where infrastructure is: hosts behind one network.
///
/// Hosts of one endpoint reach one another directly; hosts of different endpoints need not.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(
    group = "farplane.io",
    version = "v1alpha1",
    kind = "Endpoint",
    namespaced,
    status = "EndpointStatus",
    shortname = "ep4e",
    category = "farplane",
    derive = "PartialEq",
    printcolumn(name = "Hosts", type_ = "integer", json_path = ".status.hosts"),
    printcolumn(name = "Connected", type_ = "integer", json_path = ".status.connectedHosts"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,48}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label of at most 50 characters that starts with a letter")
)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSpec {
    /// Free text for people: where this is, whom to call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
}

/// What the hub observed of an endpoint.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Hosts that belong to the endpoint.
    #[serde(default)]
    pub hosts: u32,
    /// Hosts whose agent is connected.
    #[serde(default)]
    pub connected_hosts: u32,
    /// `Ready`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
