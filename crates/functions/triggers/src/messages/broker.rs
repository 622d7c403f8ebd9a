//! What all brokers can do: give messages, take them back, publish.

use bytes::Bytes;
use http::HeaderMap;

use crate::messages::nats;

/// Why a broker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerError {
    /// It is away, or refuses us.
    #[error("cannot {step} at {server}: {reason}")]
    Failed {
        step: &'static str,
        server: String,
        reason: String,
    },
    /// What the trigger names is not there.
    #[error("{0}")]
    Missing(String),
    /// Credentials.
    #[error("cannot use Secret {secret}: {reason}")]
    Secret { secret: String, reason: String },
}

/// A connection to a broker.
#[derive(Clone)]
pub(crate) enum Broker {
    Nats(nats::Connection),
}

impl Broker {
    /// Returns once the broker has the message for good.
    pub async fn publish(
        &self,
        topic: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(), BrokerError> {
        match self {
            Self::Nats(connection) => connection.publish(topic, &headers, body).await,
        }
    }
}

/// Messages of a topic, as they come.
pub(crate) enum Messages {
    Nats(Box<nats::Messages>),
}

impl Messages {
    pub async fn next(&mut self) -> Result<Message, BrokerError> {
        match self {
            Self::Nats(messages) => messages.next().await,
        }
    }
}

/// A message that is ours until it is acknowledged, or we are gone.
pub(crate) struct Message {
    /// Those that may go on.
    pub headers: HeaderMap,
    pub body: Bytes,
    pub handle: Handle,
}

/// What a message is acknowledged by.
pub(crate) enum Handle {
    Nats(Box<nats::Handle>),
}

impl Message {
    /// Nobody else shall get it yet.
    pub async fn still_working(&self) -> Result<(), BrokerError> {
        match &self.handle {
            Handle::Nats(handle) => handle.still_working().await,
        }
    }

    /// It is done with; returns once the broker knows.
    pub async fn acknowledge(self) -> Result<(), BrokerError> {
        match self.handle {
            Handle::Nats(handle) => handle.acknowledge().await,
        }
    }
}
