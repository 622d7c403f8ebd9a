//! RabbitMQ: a consumer per trigger, of a queue that its users made.
//!
//! Promises: queues are used as they are, never made, changed or removed. A message is done
//! with, and an answer is published, once the server has said so. A connection that breaks
//! is an error of [`Messages::next`]. What a connection holds ends with it ([`mod@line`]).

mod fields;
mod line;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use http::HeaderMap;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Acker, Channel, Confirmation, ConnectionProperties, Consumer, ErrorKind};

use crate::headers;
use crate::messages::broker::{self, BrokerError, Message, failed, split};
use crate::messages::subscription::Credentials;
use line::Line;

/// A server that is not heard of for twice as long is gone, in seconds.
const HEARTBEAT: u16 = 15;
/// Of one piece of a message. A server may offer more, and would have us make room for it.
const FRAME: u32 = 128 * 1024;
const ENDED: &str = "the connection ended";

/// Where a server is, and who we are there.
#[derive(Clone)]
pub(crate) struct Address {
    uri: AMQPUri,
    /// For people: without user and password.
    server: String,
    /// Certificates that are trusted beside those of public authorities, as PEM.
    authorities: Option<String>,
}

impl Address {
    /// Reads `amqp://user:password@host:5672/vhost`, or says what is wrong without passwords.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (server, user) = split(url, "amqp");
        let shown = server.split('?').next().unwrap_or_default();
        let wrong = || format!("{shown} is no address; write amqp://host:5672/vhost");
        let (scheme, rest) = server.split_once("://").ok_or_else(wrong)?;
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        if host.is_empty() || !matches!(scheme, "amqp" | "amqps") {
            return Err(wrong());
        }
        let mut uri: AMQPUri = server.parse().map_err(|_| wrong())?;
        if let Some((user, password)) = user {
            // Percent signs are read by the parser alone.
            let with_user = format!("amqp://{user}:{password}@host");
            let parsed: AMQPUri = with_user.parse().map_err(|_| wrong())?;
            uri.authority.userinfo = parsed.authority.userinfo;
        }
        // The parser takes an address of IPv6 for none.
        if let Some((host, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            host.clone_into(&mut uri.authority.host);
        }
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        // Sizes are ours to choose.
        uri.query.frame_max = Some(FRAME);
        uri.query.channel_max = None;
        uri.query.heartbeat = Some(HEARTBEAT);
        Ok(Self {
            uri,
            server: shown.to_owned(),
            authorities: None,
        })
    }

    /// The address of a trigger: its Secret's `host`, else that of its metadata; with the
    /// Secret's `username` and `password`, and authorities in `ca`, when it has them.
    pub fn of(
        host: Option<&str>,
        vhost: Option<&str>,
        credentials: &Credentials,
    ) -> Result<Self, BrokerError> {
        let get = |key: &str| credentials.get(key).filter(|value| !value.is_empty());
        let url = get("host").map(String::as_str).or(host);
        let missing = "neither metadata nor the Secret has a host; write amqp://host:5672/vhost";
        let url = url.ok_or_else(|| BrokerError::Invalid(missing.to_owned()))?;
        let mut address = Self::parse(url).map_err(BrokerError::Invalid)?;
        if let (Some(user), Some(password)) = (get("username"), get("password")) {
            let info = &mut address.uri.authority.userinfo;
            info.username.clone_from(user);
            info.password.clone_from(password);
        }
        if let Some(vhost) = vhost {
            vhost.clone_into(&mut address.uri.vhost);
        }
        address.authorities = get("ca").cloned();
        Ok(address)
    }
}

/// A connection; clones share it.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Inner>);

struct Inner {
    server: String,
    connection: lapin::Connection,
    /// Channels that nobody publishes on now.
    idle: Mutex<Vec<Channel>>,
    /// After the connection, which takes leave of the server on it.
    _line: Line,
}

impl Connection {
    /// Connects once.
    pub async fn open(address: Address) -> Result<Self, BrokerError> {
        let Address {
            uri,
            server,
            authorities,
        } = address;
        let options =
            ConnectionProperties::default().with_connection_name("fission-triggers".into());
        let line = Line::new();
        let connection = line
            .connect(uri, options, authorities)
            .await
            .map_err(|error| failed("connect", &server, &error))?;
        Ok(Self(Arc::new(Inner {
            server,
            connection,
            idle: Mutex::default(),
            _line: line,
        })))
    }

    /// Begins to take messages of a queue. It and the `others` must be there.
    pub async fn subscribe<'a>(
        &self,
        queue: &'a str,
        others: impl IntoIterator<Item = &'a str>,
        room: usize,
    ) -> Result<Messages, BrokerError> {
        let room = u16::try_from(room).unwrap_or(u16::MAX);
        let channel = self.channel().await?;
        for queue in others.into_iter().chain([queue]) {
            let passive = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            channel
                .queue_declare(self.name(queue)?, passive, FieldTable::default())
                .await
                .map_err(|error| self.look_up_failed(queue, &error))?;
        }
        let taking = |error| failed("take messages", &self.0.server, &error);
        channel
            .basic_qos(room, BasicQosOptions::default())
            .await
            .map_err(taking)?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel
            .basic_consume(self.name(queue)?, "".into(), options, arguments)
            .await
            .map_err(taking)?;
        Ok(Messages {
            connection: self.clone(),
            channel,
            consumer,
            room,
        })
    }

    /// Publishes to a queue, and waits until the server has the message.
    ///
    /// Each call has a channel to itself: of several on one channel it could not be told which
    /// of their messages the server gave back.
    pub async fn publish(
        &self,
        queue: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<(), BrokerError> {
        let channel = match self.take_idle() {
            Some(channel) => channel,
            None => self.publisher().await?,
        };
        let publishing = |error: &dyn std::fmt::Display| failed("publish", &self.0.server, error);
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let (name, properties) = (self.name(queue)?, fields::written(headers));
        let told = channel
            .basic_publish("".into(), name, options, &body, properties)
            .await
            .map_err(|error| publishing(&error))?
            .await
            .map_err(|error| publishing(&error))?;
        match told {
            Confirmation::Ack(None) => {
                let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.push(channel);
                Ok(())
            }
            Confirmation::Ack(Some(_)) => Err(self.missing(queue)),
            Confirmation::Nack(_) | Confirmation::NotRequested => {
                Err(publishing(&"the server did not take the message"))
            }
        }
    }

    fn take_idle(&self) -> Option<Channel> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop()
    }

    async fn publisher(&self) -> Result<Channel, BrokerError> {
        let channel = self.channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(|error| failed("publish", &self.0.server, &error))?;
        Ok(channel)
    }

    async fn channel(&self) -> Result<Channel, BrokerError> {
        let made = self.0.connection.create_channel().await;
        made.map_err(|error| failed("open a channel", &self.0.server, &error))
    }

    fn name(&self, queue: &str) -> Result<ShortString, BrokerError> {
        ShortString::try_new(queue).map_err(|error| failed("name a queue", &self.0.server, &error))
    }

    fn missing(&self, queue: &str) -> BrokerError {
        BrokerError::Missing(format!("{} has no queue {queue}", self.0.server))
    }

    fn look_up_failed(&self, queue: &str, error: &lapin::Error) -> BrokerError {
        let not_found = AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND);
        match error.kind() {
            ErrorKind::ProtocolError(told) if *told.kind() == not_found => self.missing(queue),
            _ => failed("look up a queue", &self.0.server, error),
        }
    }
}

/// Messages of a queue.
pub(crate) struct Messages {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    room: u16,
}

impl Messages {
    pub async fn next(&mut self) -> Result<Message, BrokerError> {
        let server = &self.connection.0.server;
        match self.consumer.next().await {
            Some(Ok(delivery)) => {
                let pairs = fields::read(&delivery.properties);
                let pairs = pairs.iter().map(|(name, value)| (&**name, &**value));
                Ok(Message {
                    headers: headers::going_on(pairs),
                    body: delivery.data.into(),
                    handle: broker::Handle::Rabbit(Box::new(Handle {
                        server: server.clone(),
                        channel: self.channel.clone(),
                        room: self.room,
                        acker: delivery.acker,
                    })),
                })
            }
            Some(Err(error)) => Err(failed("take messages", server, &error)),
            None => {
                let reason = "the server ended the subscription; the queue may be gone";
                Err(failed("take messages", server, &reason))
            }
        }
    }
}

/// What a message is acknowledged by.
pub(crate) struct Handle {
    server: String,
    channel: Channel,
    room: u16,
    acker: Acker,
}

impl Handle {
    /// Tells nobody, as servers wait for half an hour and longer; but once the connection is
    /// gone the message is no longer ours. While there is no room for more messages nobody
    /// else would notice.
    pub fn still_working(&self) -> Result<(), BrokerError> {
        if self.channel.status().connected() {
            return Ok(());
        }
        Err(failed("keep a message", &self.server, &ENDED))
    }

    /// Returns once the server knows.
    pub async fn acknowledge(&self) -> Result<(), BrokerError> {
        let failed = |error: &dyn std::fmt::Display| failed("acknowledge", &self.server, error);
        let sent = self.acker.ack(BasicAckOptions::default()).await;
        if !sent.map_err(|error| failed(&error))? {
            return Err(failed(&ENDED));
        }
        // The server does not answer that, but does one thing after the other: what it answers
        // next comes after it. This changes nothing.
        self.channel
            .basic_qos(self.room, BasicQosOptions::default())
            .await
            .map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> (String, String, u16, String) {
        let Address { uri, server, .. } = Address::parse(url).unwrap();
        let AMQPUri {
            authority, vhost, ..
        } = uri;
        (server, authority.host, authority.port, vhost)
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let told = |server: &str, host: &str, port, vhost: &str| {
            (server.to_owned(), host.to_owned(), port, vhost.to_owned())
        };
        assert_eq!(
            address("amqp://u:p@host"),
            told("amqp://host", "host", 5672, "/")
        );
        assert_eq!(
            address("amqp://host:1/"),
            told("amqp://host:1/", "host", 1, "/")
        );
        assert_eq!(
            address("amqps://u:p@host/a%2fb?heartbeat=0"),
            told("amqps://host/a%2fb", "host", 5671, "a/b")
        );
        assert_eq!(
            address("host:5672"),
            told("amqp://host:5672", "host", 5672, "/")
        );
        // Taken for the machine's own address it would be a surprise.
        assert_eq!(
            address("amqp://[fd00::1]:5673/v"),
            told("amqp://[fd00::1]:5673/v", "fd00::1", 5673, "v")
        );
        let AMQPUri { query, .. } = Address::parse("amqp://h?frame_max=4000000000").unwrap().uri;
        assert_eq!(query.frame_max, Some(FRAME));
    }

    #[test]
    fn what_is_no_address_is_told_without_passwords() {
        let urls = [
            "http://u:secret@host:15672",
            "amqp://",
            "amqp:///vhost",
            "amqp://u:secret@",
            "amqp://u:secret@/vhost",
            "amqp://u:secret@host:port",
            "amqp://u:sec/secret@:1",
            "amqp://host?heartbeat=:secret",
        ];
        for url in urls {
            let Err(told) = Address::parse(url) else {
                panic!("{url} is an address");
            };
            assert!(told.contains("amqp://host:5672/vhost"), "{told}");
            assert!(
                !told.contains(":sec") && !told.contains("secret@"),
                "{told}"
            );
        }
    }

    #[test]
    fn secrets_have_addresses_or_users() {
        let secret = |pairs: &[(&str, &str)]| -> Credentials {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let of = |host: Option<&str>, credentials: &Credentials| {
            let uri = Address::of(host, None, credentials).unwrap().uri;
            let user = uri.authority.userinfo;
            format!("{}:{}@{}", user.username, user.password, uri.authority.host)
        };
        let whole = secret(&[("host", "amqp://u:p%40ss@own/v")]);
        assert_eq!(of(None, &whole), "u:p@ss@own");
        assert_eq!(of(Some("amqp://other"), &whole), "u:p@ss@own");
        let user = secret(&[("username", "u"), ("password", "p%40")]);
        assert_eq!(of(Some("amqp://x:y@h"), &user), "u:p%40@h");
        assert_eq!(of(Some("amqp://h"), &Credentials::new()), "guest:guest@h");
        let none = Address::of(None, None, &user);
        assert!(matches!(none, Err(BrokerError::Invalid(_))));
        let vhost = Address::of(Some("amqp://h/a"), Some("b"), &user).unwrap();
        assert_eq!(vhost.uri.vhost, "b");
    }
}
