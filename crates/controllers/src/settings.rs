//! What a hub is told about itself.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Settings of the controllers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Domain below which server names are made.
    pub hub_domain: String,
    /// `host:port` of the gateway for people and hosts.
    pub public_address: String,
    /// Namespace of the hub's own Pods and Secrets.
    pub namespace: String,
    /// Who this process is among those that want the lease; the Pod's name, so that a
    /// restarted container goes on at once.
    pub identity: String,
    /// Service of the gateway in `namespace`.
    pub gateway_service: String,
    /// `http://` address of the artifact server.
    pub artifacts_url: String,
    /// Images of what runs at the hub.
    pub images: Images,
    /// Where etcd of each plane keeps its data.
    pub store: Store,
    /// Whether hosts of provider `lab` are served.
    pub labs: bool,
    /// Address of metrics and health.
    pub metrics_listen: SocketAddr,
}

/// Full image references.
#[derive(Clone, Debug, Default)]
pub struct Images {
    /// Upstream control plane programs.
    pub kubernetes_server: String,
    /// etcd.
    pub etcd: String,
    /// Root of a lab host.
    pub lab_host: String,
    /// Pause, as hosts run it.
    pub pause: String,
}

/// Where etcd of each plane keeps its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// A directory of the hub's one node.
    HostPath {
        /// Path at the node.
        path: String,
        /// The same directory as this process sees it.
        mount: PathBuf,
    },
    /// Volumes of a storage class.
    StorageClass(String),
}
