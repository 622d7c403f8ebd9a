//! Failures that end the triggers.

/// Why the triggers ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process may lead now.
    #[error(transparent)]
    LeaseLost(#[from] farplane_control::leader::Lost),
    /// The address of the router is none.
    #[error("{url:?} is not the address of a router; write http://host:port")]
    RouterAddress {
        /// As given.
        url: String,
    },
    /// The port of asynchronous calls could not be opened.
    #[error("failed to listen on {address} for asynchronous calls")]
    Listen {
        /// Address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The store of asynchronous calls could not be opened.
    #[error("{0}; is its volume mounted and writable, and used by no other process?")]
    Store(String),
    /// A task ended although nobody asked it to.
    #[error("the {part} ended; the log before this line says why")]
    Ended {
        /// Which part.
        part: &'static str,
    },
}
