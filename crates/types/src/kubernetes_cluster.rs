//! `KubernetesCluster`: a plane that runs Kubernetes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version used when none is asked for.
pub const DEFAULT_VERSION: &str = "1.37.2";

/// A pure upstream Kubernetes cluster: control plane at the hub, nodes on the
/// organization's hosts.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "farplane.io",
    version = "v1alpha1",
    kind = "KubernetesCluster",
    namespaced,
    status = "KubernetesClusterStatus",
    shortname = "kc",
    category = "farplane",
    derive = "PartialEq",
    printcolumn(name = "Version", type_ = "string", json_path = ".spec.version"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.readyNodes"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,48}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label of at most 50 characters that starts with a letter")
)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesClusterSpec {
    /// Kubernetes version, `1.37.2`.
    #[serde(default = "default_version")]
    #[schemars(regex(pattern = r"^1\.[0-9]{1,2}\.[0-9]{1,2}$"))]
    pub version: String,
    /// Which hosts become nodes.
    #[serde(default)]
    pub hosts: HostSelection,
    /// The hosted control plane.
    #[serde(default)]
    pub control_plane: ControlPlaneSpec,
    /// Addresses and Pod network. Cannot change.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("network cannot change"))]
    pub network: NetworkSpec,
}

fn default_version() -> String {
    DEFAULT_VERSION.to_owned()
}

/// Which hosts become nodes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum HostSelection {
    /// These hosts, by name. May be empty: a cluster without nodes.
    Names(#[schemars(length(max = 1000))] Vec<String>),
    /// This many free hosts, any.
    Count(#[schemars(range(min = 0, max = 1000))] u32),
    /// Every host of an endpoint that no other cluster uses, present and future.
    All(AllHosts),
}

impl Default for HostSelection {
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

/// Selection of every free host.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AllHosts {
    /// Only those of this endpoint; of every endpoint when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// The hosted control plane.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ControlPlaneSpec {
    /// API servers and etcd members: 1 or 3. Cannot change.
    #[serde(default = "one")]
    #[x_kube(
        validation = Rule::new("self == 1 || self == 3").message("replicas must be 1 or 3"),
        validation = Rule::new("self == oldSelf").message("replicas cannot change")
    )]
    pub replicas: u32,
}

fn one() -> u32 {
    1
}

impl Default for ControlPlaneSpec {
    fn default() -> Self {
        Self { replicas: 1 }
    }
}

/// Addresses and Pod network.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSpec {
    /// Pod network.
    #[serde(default)]
    pub provider: NetworkProvider,
    /// Range of Pod addresses, an IPv4 CIDR.
    #[serde(default = "default_pod_cidr")]
    #[x_kube(validation = Rule::new("isCIDR(self)").message("podCidr must be a CIDR such as 10.244.0.0/16"))]
    #[schemars(length(max = 18))]
    pub pod_cidr: String,
    /// Range of Service addresses, an IPv4 CIDR.
    #[serde(default = "default_service_cidr")]
    #[x_kube(validation = Rule::new("isCIDR(self)").message("serviceCidr must be a CIDR such as 10.96.0.0/16"))]
    #[schemars(length(max = 18))]
    pub service_cidr: String,
}

fn default_pod_cidr() -> String {
    "10.244.0.0/16".to_owned()
}

fn default_service_cidr() -> String {
    "10.96.0.0/16".to_owned()
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            provider: NetworkProvider::default(),
            pod_cidr: default_pod_cidr(),
            service_cidr: default_service_cidr(),
        }
    }
}

/// Pod network of a cluster.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum NetworkProvider {
    /// flannel with VXLAN between hosts.
    #[default]
    Flannel,
    /// Nothing: bring your own network plugin; nodes are not Ready until then.
    None,
}

/// What the hub observed of a cluster.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesClusterStatus {
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word: `Pending`, `Provisioning`, `Ready`, `Degraded`, `Deleting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Namespace of the control plane at the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `https://` address of the gateway for clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Name that clients send as SNI and verify (`tls-server-name`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Secret, in the cluster's namespace, that holds the admin kubeconfig under `kubeconfig`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig_secret: Option<String>,
    /// Steps of the creation with their times, in order:
    /// `Keys`, `Store`, `ApiServer`, `Nodes`, `AddOns`.
    #[serde(default)]
    pub phases: Vec<PhaseStatus>,
    /// Chosen hosts and their nodes.
    #[serde(default)]
    pub nodes: Vec<NodeStatus>,
    /// Nodes that are Ready.
    #[serde(default)]
    pub ready_nodes: u32,
    /// `Ready`, and one per phase.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One step of a creation.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PhaseStatus {
    /// Name of the step.
    pub name: String,
    /// When it could begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it was done for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// Duration of the step, in milliseconds, once done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<i64>,
    /// What it waits for and what to do about it; empty when done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A host that is a node of the cluster.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Host, which is also the node's name.
    pub host: String,
    /// Address of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Whether the node is Ready.
    pub ready: bool,
    /// Why not, and what to do; empty when Ready.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
