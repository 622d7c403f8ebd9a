//! Failures that end the executor.

use std::net::SocketAddr;

/// Why the executor ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lease went to somebody else or could not be renewed in time.
    #[error("lost the lease {lease}: {reason}")]
    LeaseLost {
        /// Name of the lease.
        lease: String,
        /// What happened.
        reason: String,
    },
    /// An address cannot be listened at.
    #[error("cannot listen at {address}; is it in use?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A task ended although nobody asked it to.
    #[error("the {part} ended; the log before this line says why")]
    Ended {
        /// Which part.
        part: &'static str,
    },
}
