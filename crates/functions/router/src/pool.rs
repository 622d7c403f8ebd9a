//! Connections to one instance, kept while calls need them.

use std::sync::Mutex;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::body::Sent;
use crate::state::lock;

/// Dialling an instance in the same cluster takes longer only when it is not there.
const DIAL: Duration = Duration::from_secs(2);
/// Idle connections per instance.
const MAX_IDLE: usize = 256;

/// Sends one request at a time.
pub type Sender = SendRequest<Sent>;

/// An instance, as far as connections go.
pub struct Peer {
    address: String,
    /// The one used last is on top.
    idle: Mutex<Vec<Sender>>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing listens there, or it does not answer.
    #[error("failed to connect to {address}: {reason}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
}

impl Peer {
    /// Without connections.
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            idle: Mutex::default(),
        }
    }

    /// One that is open already.
    pub async fn idle(&self) -> Option<Sender> {
        loop {
            let mut sender = lock(&self.idle).pop()?;
            // Its task may not have seen the end of the last answer yet.
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    /// A new one.
    ///
    /// # Errors
    /// When the instance cannot be reached.
    pub async fn dial(&self) -> Result<Sender, DialError> {
        let fail = |reason: String| DialError::Connect {
            address: self.address.clone(),
            reason,
        };
        let socket = timeout(DIAL, TcpStream::connect(&self.address))
            .await
            .map_err(|_| fail(format!("no answer within {} s", DIAL.as_secs())))?
            .map_err(|error| fail(error.to_string()))?;
        socket
            .set_nodelay(true)
            .map_err(|error| fail(error.to_string()))?;
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(false)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|error| fail(error.to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to an instance ended");
            }
        });
        Ok(sender)
    }

    /// Takes back a connection whose answer has been read.
    pub fn put(&self, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut idle = lock(&self.idle);
        if idle.len() < MAX_IDLE {
            idle.push(sender);
        }
    }
}
