//! What the process is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::exposure::Exposure;

/// Settings of the triggers.
#[derive(Clone)]
pub struct Settings {
    /// Namespace of the platform.
    pub namespace: String,
    /// Name of this Pod: identity in the lease.
    pub pod_name: String,
    /// The router's internal listener, such as `http://router-internal.fission.svc:8889`.
    pub router_url: String,
    /// Master secret; nothing is signed or checked when empty.
    pub secret: Vec<u8>,
    /// Where the routers' metrics are.
    pub metrics: MetricsSource,
    /// Domain of Service names.
    pub cluster_domain: String,
    /// Asynchronous calls; refused everywhere when none.
    pub invocations: Option<InvocationSettings>,
    /// NATS server for destinations of type `nats-jetstream`, and for triggers that name none.
    pub nats_url: Option<String>,
    /// What HTTPTriggers may ask for by way of Ingresses and HTTPRoutes.
    pub exposure: Exposure,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("namespace", &self.namespace)
            .field("pod_name", &self.pod_name)
            .field("router_url", &self.router_url)
            .field("metrics", &self.metrics)
            .field("invocations", &self.invocations)
            .field("exposure", &self.exposure)
            .finish_non_exhaustive()
    }
}

/// Where the routers' metrics are.
#[derive(Clone, Debug)]
pub enum MetricsSource {
    /// Every running Pod with label `svc=router` in the platform's namespace, port 8080.
    RouterPods,
    /// These addresses, each the metrics of one router.
    Urls(Vec<String>),
}

/// Asynchronous calls.
#[derive(Clone, Debug)]
pub struct InvocationSettings {
    /// Where routers send calls.
    pub listen: SocketAddr,
    /// Directory on a volume that outlives the Pod.
    pub directory: PathBuf,
}
