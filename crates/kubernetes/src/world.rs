//! Everything that the decisions look at, gathered by the controller.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use farplane_types::{Host, HostPlan, KubernetesCluster, OrganizationLimits, names};
use ipnet::Ipv4Net;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};

/// What was read, at one look.
#[derive(Clone, Debug)]
pub struct World {
    /// Organization of the cluster.
    pub organization: String,
    /// Its limits.
    pub limits: OrganizationLimits,
    /// The cluster, with its UID.
    pub cluster: KubernetesCluster,
    /// Every cluster of the organization, this one too, in any order.
    pub clusters: Vec<KubernetesCluster>,
    /// Every host of the organization.
    pub hosts: Vec<Host>,
    /// Every plan of the organization, those of other clusters too.
    pub plans: Vec<HostPlan>,
    /// Pods in the plane's namespace.
    pub pods: Vec<Pod>,
    /// ClusterIPs of the Services in the plane's namespace, by name; empty before there are any.
    pub addresses: BTreeMap<String, Ipv4Addr>,
    /// Contents of the Secret `pki`; empty before the first keys.
    pub stored: BTreeMap<String, Vec<u8>>,
    /// What the plane's own API server said; none unless it was ready.
    pub view: Option<View>,
    /// The hub.
    pub hub: Hub,
    /// Now.
    pub now: Timestamp,
}

/// What a plane's own API server said.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Signing requests.
    pub requests: Vec<CertificateSigningRequest>,
    /// Pods of CoreDNS that are ready; none when nobody looked.
    pub dns_ready: Option<u32>,
}

/// The hub as its blueprints need to know it.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Domain below which server names are made.
    pub domain: String,
    /// `host:port` of the gateway for people and hosts.
    pub public_address: String,
    /// Address of the gateway's Service within the hub.
    pub gateway_address: Ipv4Addr,
    /// Certificate of the hub's CA, PEM.
    pub ca_pem: String,
    /// Images.
    pub images: Images,
    /// Where etcd keeps its data.
    pub store: Store,
    /// What hosts can be told to fetch.
    pub artifacts: Vec<ArtifactEntry>,
}

/// Full image references.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// Upstream control plane programs, run at the hub.
    pub kubernetes_server: String,
    /// etcd, run at the hub.
    pub etcd: String,
    /// Pause, imported at hosts, unless the artifact says its reference itself.
    pub pause: String,
    /// CoreDNS, imported at hosts, unless the artifact says its reference itself.
    pub coredns: String,
}

/// Where etcd of each plane keeps its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// `<path>/<plane uid>/etcd-<i>` of the hub's one node; the controller makes it.
    HostPath(String),
    /// Volumes of this storage class; of the default class when none.
    StorageClass(Option<String>),
}

/// One entry of the artifact server's `index.json`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct ArtifactEntry {
    /// What it is: `containerd`, `cni`, `kubernetes-node`, `flannel`, `image-<name>`.
    pub name: String,
    /// Version of what is in it.
    pub version: String,
    /// SHA-256 of the archive, hex.
    pub sha256: String,
    /// Size of the archive, in bytes.
    pub size: u64,
    /// Reference of the image in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

impl World {
    /// Parses the artifact server's `index.json`.
    ///
    /// # Errors
    /// When the text is not such an index.
    pub fn artifacts(index: &str) -> Result<Vec<ArtifactEntry>, serde_json::Error> {
        serde_json::from_str(index)
    }

    /// UID of the cluster; empty when it has none yet.
    pub fn uid(&self) -> &str {
        self.cluster.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Name of the cluster.
    pub fn name(&self) -> String {
        self.cluster.name_any()
    }

    /// Namespace of the plane at the hub.
    pub fn namespace(&self) -> String {
        names::plane_namespace(self.uid())
    }

    /// What clients send as SNI and verify.
    pub fn server_name(&self) -> String {
        names::cluster_server_name(&self.organization, &self.name(), &self.hub.domain)
    }

    /// API servers and etcd members.
    pub fn replicas(&self) -> u32 {
        self.cluster.spec.control_plane.replicas
    }

    /// The plan of a host, whoever it belongs to.
    pub fn plan_of(&self, host: &str) -> Option<&HostPlan> {
        self.plans.iter().find(|plan| plan.name_any() == host)
    }

    /// True when the plan is this cluster's and not on its way out.
    pub fn is_ours(&self, plan: &HostPlan) -> bool {
        plan.spec.plane.uid == self.uid() && plan.metadata.deletion_timestamp.is_none()
    }

    /// First artifact of this name and, where given, version.
    pub(crate) fn artifact(&self, name: &str, version: Option<&str>) -> Option<&ArtifactEntry> {
        self.hub.artifacts.iter().find(|entry| {
            entry.name == name && version.is_none_or(|version| entry.version == version)
        })
    }

    /// The `n`th address of the Service range: 1 is the API server's, 10 that of DNS.
    pub(crate) fn service_address(&self, n: u32) -> Option<Ipv4Addr> {
        let range: Ipv4Net = self.cluster.spec.network.service_cidr.parse().ok()?;
        range.hosts().nth(n.checked_sub(1)? as usize)
    }
}
