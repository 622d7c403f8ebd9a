//! What the process is told at its start.

use std::net::SocketAddr;

/// Settings of the executor.
#[derive(Clone)]
pub struct Settings {
    /// Where routers ask for instances.
    pub listen: SocketAddr,
    /// Where metrics and probes are told.
    pub metrics: SocketAddr,
    /// Namespace of the platform.
    pub namespace: String,
    /// Name of this Pod: identity in the lease.
    pub pod_name: String,
    /// Master secret; nothing is signed or checked when empty.
    pub secret: Vec<u8>,
    /// Image of our program, for fetchers.
    pub fetcher_image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: String,
    /// Address of the storage service, `http://...`.
    pub storage_url: String,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("listen", &self.listen)
            .field("metrics", &self.metrics)
            .field("namespace", &self.namespace)
            .field("pod_name", &self.pod_name)
            .field("fetcher_image", &self.fetcher_image)
            .field("storage_url", &self.storage_url)
            .finish_non_exhaustive()
    }
}
