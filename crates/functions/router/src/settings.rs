//! What the router is told, and why it cannot run.

use std::net::SocketAddr;

use crate::login::Credentials;
use crate::trace::Traces;

/// What the router is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where everybody may call routes.
    pub public: SocketAddr,
    /// Where the platform's own parts call any function.
    pub internal: SocketAddr,
    /// Port of the loopback interface where those call any function who may forward a port to
    /// this Pod.
    pub forwarded: u16,
    /// Where metrics and probes are told.
    pub metrics: SocketAddr,
    /// Address of the executor, `http://...`.
    pub executor_url: String,
    /// Address of the queue of asynchronous calls, `http://...`.
    pub queue_url: String,
    /// Namespace of the platform.
    pub namespace: String,
    /// Name of this Pod.
    pub pod_name: String,
    /// Who may call routes; everybody when none.
    pub login: Option<Credentials>,
    /// Where traces go; nowhere when none.
    pub traces: Option<Traces>,
    /// The master secret.
    pub secret: Vec<u8>,
    /// Version that `/_version` tells.
    pub version: String,
}

/// Why the router cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is taken.
    #[error("failed to listen at {address}: {source}; `ss -ltnp` shows who does")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No threads.
    #[error("failed to start the threads that serve calls: {0}")]
    Workers(std::io::Error),
    /// No address of another part.
    #[error("the {part}'s address {url:?} cannot be used: {reason}")]
    Url {
        /// Whose.
        part: &'static str,
        /// The address.
        url: String,
        /// Why.
        reason: String,
    },
}
