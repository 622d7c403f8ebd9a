//! `Host`: a machine with our agent on it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Condition: at least one gateway holds a tunnel of this host.
pub const CONNECTED: &str = "Connected";
/// Condition: a certificate was issued to this host.
pub const ENROLLED: &str = "Enrolled";

/// A machine with our agent on it. Made by joining, or ahead of it to reserve the name.
///
/// Deleting a host revokes its certificate at once and takes it out of its cluster.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "farplane.io",
    version = "v1alpha1",
    kind = "Host",
    namespaced,
    status = "HostStatus",
    shortname = "fphost",
    category = "farplane",
    derive = "PartialEq",
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".spec.endpoint"),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".status.cluster"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.facts.nodeAddress"),
    printcolumn(
        name = "Connected",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Connected')].status"
    ),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.facts.agentVersion", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,48}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label of at most 50 characters that starts with a letter")
)]
#[serde(rename_all = "camelCase")]
pub struct HostSpec {
    /// Endpoint that the host belongs to. Cannot change.
    #[schemars(length(min = 1, max = 50))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("endpoint cannot change"))]
    pub endpoint: String,
    /// What provides the machine. Cannot change.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("provider cannot change"))]
    pub provider: HostProvider,
    /// Keep new clusters off this host.
    #[serde(default)]
    pub unschedulable: bool,
}

/// What provides the machine of a host.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum HostProvider {
    /// The customer's own machine, joined with a token.
    #[default]
    Own,
    /// A throw-away privileged Pod at the hub, for trying out and for tests.
    Lab,
}

/// What the hub observed of a host.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What the agent says of its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<HostFacts>,
    /// Tunnels that gateways hold, one entry per gateway.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["gateway"]))]
    pub connections: Vec<HostConnection>,
    /// Cluster that uses the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// End of the validity of the newest certificate issued to the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_not_after: Option<Time>,
    /// `Enrolled`, `Connected`, `Ready`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A tunnel that one gateway holds.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostConnection {
    /// Name of the gateway's Pod.
    pub gateway: String,
    /// Address (`ip:port`) at which other gateways reach that gateway.
    pub address: String,
    /// The agent's count of its own starts and dials; a lower one is stale.
    pub epoch: u64,
    /// Since when.
    pub since: Time,
}

/// What an agent says of its machine.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostFacts {
    /// Version of the agent.
    pub agent_version: String,
    /// `PRETTY_NAME` of os-release.
    pub operating_system: String,
    /// Kernel release.
    pub kernel: String,
    /// Machine architecture as the kernel names it (`x86_64`).
    pub architecture: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Address by which the other hosts of the endpoint reach this one.
    pub node_address: String,
    /// 1 (also hybrid) or 2.
    pub cgroup_version: u8,
    /// Whether the agent has CAP_SYS_RESOURCE; without it containerd must not lower
    /// `oom_score_adj`.
    pub has_sys_resource: bool,
    /// Whether systemd runs as PID 1.
    pub has_systemd: bool,
    /// What the machine lacks to run workloads, in words; empty when nothing.
    #[serde(default)]
    pub missing: Vec<String>,
}
