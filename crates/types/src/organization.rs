//! `Organization`: a tenant of the hub.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A tenant: a namespace at the hub, its members with their roles, and its limits.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(
    group = "farplane.io",
    version = "v1alpha1",
    kind = "Organization",
    status = "OrganizationStatus",
    shortname = "org",
    category = "farplane",
    derive = "PartialEq",
    printcolumn(name = "Namespace", type_ = "string", json_path = ".status.namespace"),
    printcolumn(name = "Hosts", type_ = "integer", json_path = ".status.usage.hosts"),
    printcolumn(name = "Clusters", type_ = "integer", json_path = ".status.usage.clusters"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,48}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label of at most 50 characters that starts with a letter")
)]
#[serde(rename_all = "camelCase")]
pub struct OrganizationSpec {
    /// Name shown to people. The object's name when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Who belongs to the organization, and as what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub members: Vec<Member>,
    /// Upper bounds. What is left out is unlimited.
    #[serde(default)]
    pub limits: OrganizationLimits,
}

/// One OIDC group or user with a role.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Who it is.
    pub subject: Subject,
    /// What they may do.
    pub role: Role,
}

/// A group or a user as the identity provider names it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    /// Every member of an OIDC group.
    Group(String),
    /// One user.
    User(String),
}

/// What a member may do within the organization.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Joins hosts, orders and deletes clusters, reads kubeconfigs.
    Admin,
    /// Reads everything and the kubeconfigs.
    Developer,
    /// Reads everything but credentials.
    Viewer,
}

/// Upper bounds of an organization.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OrganizationLimits {
    /// Most hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub hosts: Option<u32>,
    /// Most clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub clusters: Option<u32>,
    /// Most virtual CPUs over all hosts that clusters use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub vcpus: Option<u32>,
    /// Hard limits of the `ResourceQuota` in the organization's namespace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resource_quota: BTreeMap<String, String>,
}

/// What the hub observed of an organization.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OrganizationStatus {
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Namespace that holds the organization's objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What is in use.
    #[serde(default)]
    pub usage: OrganizationUsage,
    /// `Ready`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// What an organization uses of its limits.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OrganizationUsage {
    /// Hosts that exist.
    #[serde(default)]
    pub hosts: u32,
    /// Clusters that exist.
    #[serde(default)]
    pub clusters: u32,
    /// Virtual CPUs of hosts that a cluster uses.
    #[serde(default)]
    pub vcpus: u32,
}
