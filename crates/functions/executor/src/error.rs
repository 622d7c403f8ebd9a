//! Failures that end the executor.

use std::net::SocketAddr;

/// Why the executor ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process may lead now.
    #[error(transparent)]
    LeaseLost(#[from] farplane_control::leader::Lost),
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
