//! What all brokers can do: give messages, take them back, publish.

use bytes::Bytes;
use http::HeaderMap;

use crate::messages::{nats, rabbit};

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
    /// What the trigger or its Secret says makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Credentials.
    #[error("cannot use Secret {secret}: {reason}")]
    Secret { secret: String, reason: String },
}

/// A connection to a broker.
#[derive(Clone)]
pub(crate) enum Broker {
    Nats(Box<nats::Connection>),
    Rabbit(rabbit::Connection),
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
            Self::Rabbit(connection) => connection.publish(topic, &headers, body).await,
        }
    }
}

/// Messages of a topic, as they come.
pub(crate) enum Messages {
    Nats(Box<nats::Messages>),
    Rabbit(Box<rabbit::Messages>),
}

impl Messages {
    pub async fn next(&mut self) -> Result<Message, BrokerError> {
        match self {
            Self::Nats(messages) => messages.next().await,
            Self::Rabbit(messages) => messages.next().await,
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
    Rabbit(Box<rabbit::Handle>),
}

impl Message {
    /// Nobody else shall get it yet.
    pub async fn still_working(&self) -> Result<(), BrokerError> {
        match &self.handle {
            Handle::Nats(handle) => handle.still_working().await,
            Handle::Rabbit(handle) => handle.still_working(),
        }
    }

    /// It is done with; returns once the broker knows.
    pub async fn acknowledge(self) -> Result<(), BrokerError> {
        match self.handle {
            Handle::Nats(handle) => handle.acknowledge().await,
            Handle::Rabbit(handle) => handle.acknowledge().await,
        }
    }
}

/// The error of a step at a server, whose address is told without passwords.
pub(crate) fn failed(
    step: &'static str,
    server: &str,
    error: &dyn std::fmt::Display,
) -> BrokerError {
    BrokerError::Failed {
        step,
        server: server.to_owned(),
        reason: error.to_string(),
    }
}

/// Takes `user:password@` out of an address: it is told to the client, and to nobody
/// else. `scheme` is that of an address without one.
pub(crate) fn split(url: &str, scheme: &str) -> (String, Option<(String, String)>) {
    let (scheme, rest) = url.split_once("://").unwrap_or((scheme, url));
    let Some((user, host)) = rest.rsplit_once('@') else {
        return (format!("{scheme}://{rest}"), None);
    };
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let user = (user.to_owned(), password.to_owned());
    (format!("{scheme}://{host}"), Some(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_without_passwords() {
        let address = |text| split(text, "nats").0;
        assert_eq!(address("nats://host:4222"), "nats://host:4222");
        assert_eq!(address("host"), "nats://host");
        assert_eq!(address("tls://u:p@ss@host:1"), "tls://host:1");
        let user = split("nats://u:p@ss@host", "nats").1;
        assert_eq!(user, Some(("u".into(), "p@ss".into())));
    }
}
