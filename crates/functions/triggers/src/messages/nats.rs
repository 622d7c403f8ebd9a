//! NATS JetStream: a durable pull consumer per trigger.

use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::ConsumerErrorKind;
use async_nats::jetstream::{self, AckKind};
use bytes::Bytes;
use futures::StreamExt as _;
use http::HeaderMap;

use crate::headers;
use crate::messages::broker::{self, BrokerError, Message, failed, split};
use crate::messages::subscription::Credentials;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A message that is not heard of for so long is given out again.
const ACK_WAIT: Duration = Duration::from_secs(60);
/// The server says that it is there this often while there are no messages.
const HEARTBEAT: Duration = Duration::from_secs(5);
const PULL_EXPIRES: Duration = Duration::from_secs(30);

/// A connection; clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    server: String,
    context: jetstream::Context,
}

impl Connection {
    /// Connects once. Credentials: `token`, `username` and `password`, `nkey` or `creds`.
    pub async fn open(url: &str, credentials: &Credentials) -> Result<Self, BrokerError> {
        let get = |key: &str| credentials.get(key).cloned();
        let (url, user) = split(url, "nats");
        let url = url.as_str();
        let mut options = ConnectOptions::new()
            .name("fission-triggers")
            .connection_timeout(CONNECT_TIMEOUT);
        if let Some(token) = get("token") {
            options = options.token(token);
        } else if let (Some(user), Some(password)) = (get("username"), get("password")) {
            options = options.user_and_password(user, password);
        } else if let Some(seed) = get("nkey") {
            options = options.nkey(seed);
        } else if let Some(text) = get("creds") {
            options = options
                .credentials(&text)
                .map_err(|error| failed("read the credentials", url, &error))?;
        } else if let Some((user, password)) = user {
            options = options.user_and_password(user, password);
        }
        let client = options
            .connect(url)
            .await
            .map_err(|error| failed("connect", url, &error))?;
        Ok(Self {
            server: url.to_owned(),
            context: jetstream::new(client),
        })
    }

    /// Begins to take messages of a topic, where the durable consumer left off.
    pub async fn subscribe(
        &self,
        topic: &str,
        stream: Option<&str>,
        consumer: &str,
        room: usize,
    ) -> Result<Messages, BrokerError> {
        let stream = match stream {
            Some(name) => name.to_owned(),
            None => self
                .context
                .stream_by_subject(topic)
                .await
                .map_err(|error| {
                    BrokerError::Missing(format!("no stream has topic {topic}: {error}"))
                })?,
        };
        let missing = |error: &dyn std::fmt::Display| {
            BrokerError::Missing(format!("cannot read stream {stream}: {error}"))
        };
        let config = pull::Config {
            durable_name: Some(consumer.to_owned()),
            filter_subject: topic.to_owned(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: i64::try_from(room).unwrap_or(1),
            ..pull::Config::default()
        };
        let found = self
            .context
            .get_stream(&stream)
            .await
            .map_err(|error| missing(&error))?;
        // Makes it, or brings it to what the trigger says now.
        let consumer: PullConsumer =
            found
                .create_consumer(config)
                .await
                .map_err(|error| match error.kind() {
                    ConsumerErrorKind::TimedOut => {
                        failed("make the consumer", &self.server, &error)
                    }
                    _ => missing(&error),
                })?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(room)
            .expires(PULL_EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| failed("take messages", &self.server, &error))?;
        Ok(Messages {
            server: self.server.clone(),
            messages,
        })
    }

    /// Publishes to a topic; to a stream where one has it.
    pub async fn publish(
        &self,
        topic: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<(), BrokerError> {
        let mut written = async_nats::HeaderMap::new();
        for (name, value) in headers {
            if let Ok(value) = value.to_str() {
                written.append(name.as_str(), value);
            }
        }
        let told = self
            .context
            .publish_with_headers(topic.to_owned(), written, body)
            .await
            .map_err(|error| failed("publish", &self.server, &error))?;
        told.await
            .map(|_| ())
            .map_err(|error| failed("publish to a stream with the topic", &self.server, &error))
    }
}

/// Messages of a consumer.
pub(crate) struct Messages {
    server: String,
    messages: pull::Stream,
}

impl Messages {
    pub async fn next(&mut self) -> Result<Message, BrokerError> {
        match self.messages.next().await {
            Some(Ok(message)) => {
                let (message, acker) = message.split();
                let pairs = message.headers.iter().flat_map(async_nats::HeaderMap::iter);
                let pairs = pairs.flat_map(|(name, values)| {
                    let name: &str = name.as_ref();
                    values.iter().map(move |value| (name, value.as_ref()))
                });
                Ok(Message {
                    headers: headers::going_on(pairs),
                    body: message.payload,
                    handle: broker::Handle::Nats(Box::new(Handle {
                        server: self.server.clone(),
                        acker,
                    })),
                })
            }
            Some(Err(error)) => Err(failed("take messages", &self.server, &error)),
            None => Err(BrokerError::Failed {
                step: "take messages",
                server: self.server.clone(),
                reason: "the subscription ended".to_owned(),
            }),
        }
    }
}

/// What a message is acknowledged by.
pub(crate) struct Handle {
    server: String,
    acker: jetstream::message::Acker,
}

impl Handle {
    pub async fn still_working(&self) -> Result<(), BrokerError> {
        self.acker
            .ack_with(AckKind::Progress)
            .await
            .map_err(|error| self.failed(error.as_ref()))
    }

    /// Waits for the server to confirm.
    pub async fn acknowledge(&self) -> Result<(), BrokerError> {
        self.acker
            .double_ack()
            .await
            .map_err(|error| self.failed(error.as_ref()))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> BrokerError {
        failed("acknowledge", &self.server, error)
    }
}
