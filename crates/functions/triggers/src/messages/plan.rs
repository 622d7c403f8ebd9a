//! What a trigger reads, and where its answers go. Pure.

use farplane_functions_types::MessageQueueTrigger;
use farplane_functions_types::names::unique;
use kube::ResourceExt as _;

use crate::messages::rabbit;
use crate::objects::Said;
use crate::target::Target;

/// `messageQueueType` of NATS JetStream.
pub(crate) const NATS: &str = "nats-jetstream";
/// `messageQueueType` of RabbitMQ.
const RABBIT: &str = "rabbitmq";

/// Calls at the same time when the trigger says nothing.
const CONCURRENCY: usize = 16;
const MOST_CONCURRENCY: usize = 256;
const LONGEST_TOPIC: usize = 255;

/// Where the messages are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    Nats {
        url: String,
        /// Found by the topic when none.
        stream: Option<String>,
        /// Durable consumer: remembers what was acknowledged.
        consumer: String,
    },
    Rabbit {
        /// That of the Secret when none, or when it has one.
        host: Option<String>,
        /// That of the host when none.
        vhost: Option<String>,
    },
}

/// What a trigger reads, and where its answers go.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub namespace: String,
    pub name: String,
    pub servers: Servers,
    /// Secret of the trigger's namespace with credentials.
    pub secret: Option<String>,
    pub target: Target,
    pub topic: String,
    pub response_topic: Option<String>,
    pub error_topic: Option<String>,
    pub content_type: String,
    pub max_retries: u32,
    pub concurrency: usize,
}

impl Plan {
    /// Or what is wrong with the trigger.
    pub fn of(trigger: &MessageQueueTrigger, default_server: Option<&str>) -> Result<Self, Said> {
        let spec = &trigger.spec;
        let namespace = trigger.namespace().unwrap_or_default();
        let name = trigger.name_any();
        let target = Target::of(&namespace, &spec.function_ref)
            .map_err(|error| Said::no("InvalidFunctionReference", error.to_string()))?;
        let topic = topic(&spec.topic)?
            .ok_or_else(|| Said::no("InvalidTopic", "topic names no topic; write its name"))?;
        let (servers, shared) = match spec.message_queue_type.as_str() {
            NATS => nats(trigger, default_server, &namespace, &name)?,
            // The platform has none to share.
            RABBIT => (rabbit(trigger)?, false),
            other => {
                let message =
                    format!("messageQueueType {other:?} is not supported; {NATS} and {RABBIT} are");
                return Err(Said::no("UnsupportedQueue", message));
            }
        };
        // Namespaces share the platform's broker, and must not meet there.
        let place = |topic: String| {
            if shared {
                scoped(&namespace, &topic)
            } else {
                topic
            }
        };
        let content_type = match spec.content_type.as_str() {
            "" => "application/json",
            text => text,
        };
        Ok(Self {
            servers,
            secret: Some(spec.secret.clone()).filter(|name| !name.is_empty()),
            target,
            topic: place(topic),
            response_topic: self::topic(&spec.response_topic)?.map(place),
            error_topic: self::topic(&spec.error_topic)?.map(place),
            content_type: content_type.to_owned(),
            max_retries: u32::try_from(spec.max_retries).unwrap_or(0),
            concurrency: concurrency(trigger)?,
            namespace,
            name,
        })
    }
}

/// A value of the trigger's metadata; an empty one is none.
fn metadata<'a>(trigger: &'a MessageQueueTrigger, key: &str) -> Option<&'a str> {
    let value = trigger.spec.metadata.get(key).map(String::as_str);
    value.filter(|value| !value.is_empty())
}

fn concurrency(trigger: &MessageQueueTrigger) -> Result<usize, Said> {
    let Some(text) = trigger.spec.metadata.get("concurrency") else {
        return Ok(CONCURRENCY);
    };
    text.parse()
        .ok()
        .filter(|count| (1..=MOST_CONCURRENCY).contains(count))
        .ok_or_else(|| {
            let message =
                format!("metadata.concurrency {text:?} is no number from 1 to {MOST_CONCURRENCY}");
            Said::no("InvalidMetadata", message)
        })
}

/// The server, and whether namespaces share it.
fn nats(
    trigger: &MessageQueueTrigger,
    default_server: Option<&str>,
    namespace: &str,
    name: &str,
) -> Result<(Servers, bool), Said> {
    let own = metadata(trigger, "natsServer");
    let url = own.or(default_server).ok_or_else(|| {
        let message = "metadata.natsServer is missing; write nats://host:4222";
        Said::no("InvalidMetadata", message)
    })?;
    // A name of the user's own could be that of another namespace's.
    let consumer = own.and(metadata(trigger, "consumer")).map(str::to_owned);
    let servers = Servers::Nats {
        url: url.to_owned(),
        stream: metadata(trigger, "stream").map(str::to_owned),
        // Names of consumers have no dots.
        consumer: consumer.unwrap_or_else(|| unique(&["fission", namespace, name])),
    };
    Ok((servers, own.is_none()))
}

/// Keys are those of KEDA's scaler, which Fission's users know.
fn rabbit(trigger: &MessageQueueTrigger) -> Result<Servers, Said> {
    let invalid = |message: String| Said::no("InvalidMetadata", message);
    let topic = &trigger.spec.topic;
    if let Some(queue) = metadata(trigger, "queueName").filter(|queue| queue != topic) {
        return Err(invalid(format!(
            "metadata.queueName {queue:?} is not the topic {topic:?}; write the queue's name in both, or in topic only"
        )));
    }
    let host = metadata(trigger, "host");
    match host {
        Some(host) => {
            rabbit::Address::parse(host)
                .map_err(|wrong| invalid(format!("metadata.host: {wrong}")))?;
        }
        None if trigger.spec.secret.is_empty() => {
            let message = "metadata.host is missing; write amqp://host:5672/vhost, or name a Secret with key host";
            return Err(invalid(message.to_owned()));
        }
        None => {}
    }
    Ok(Servers::Rabbit {
        host: host.map(str::to_owned),
        vhost: metadata(trigger, "vhostName").map(str::to_owned),
    })
}

/// A topic of a namespace at a broker that namespaces share. Namespaces have no dots.
pub(crate) fn scoped(namespace: &str, topic: &str) -> String {
    format!("{namespace}.{topic}")
}

fn topic(text: &str) -> Result<Option<String>, Said> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > LONGEST_TOPIC || !text.chars().all(|one| one.is_ascii_graphic()) {
        let message = format!("{text:?} cannot be the name of a topic");
        return Err(Said::no("InvalidTopic", message));
    }
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn plan(changes: Value) -> Result<Plan, &'static str> {
        let mut spec = json!({
            "messageQueueType": "nats-jetstream", "topic": "orders.new", "maxRetries": 2,
            "functionref": { "type": "name", "name": "f" },
            "metadata": { "natsServer": "nats://nats:4222", "stream": "orders" },
        });
        for (key, value) in changes.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let object = json!({
            "apiVersion": "fission.io/v1", "kind": "MessageQueueTrigger",
            "metadata": { "namespace": "ns", "name": "m" }, "spec": spec,
        });
        let trigger = serde_json::from_value(object).unwrap();
        Plan::of(&trigger, None).map_err(|said| said.reason)
    }

    #[test]
    fn a_trigger_with_everything() {
        let plan = plan(json!({ "respTopic": "done", "errorTopic": "bad" })).unwrap();
        assert_eq!((plan.max_retries, plan.concurrency), (2, CONCURRENCY));
        assert_eq!(plan.response_topic.as_deref(), Some("done"));
        assert_eq!(plan.error_topic.as_deref(), Some("bad"));
        assert_eq!(plan.content_type, "application/json");
        let Servers::Nats {
            stream, consumer, ..
        } = plan.servers
        else {
            panic!("not of NATS");
        };
        assert_eq!(stream.as_deref(), Some("orders"));
        assert!(consumer.starts_with("fission-ns-m-"), "{consumer}");
    }

    #[test]
    fn namespaces_do_not_meet_at_the_brokers_they_share() {
        let object = json!({
            "apiVersion": "fission.io/v1", "kind": "MessageQueueTrigger",
            "metadata": { "namespace": "ns", "name": "m" },
            "spec": {
                "messageQueueType": "nats-jetstream", "topic": ">", "errorTopic": "bad",
                "metadata": { "consumer": "of-another" },
                "functionref": { "type": "name", "name": "f" },
            },
        });
        let mut trigger: MessageQueueTrigger = serde_json::from_value(object).unwrap();
        // A server without a name is none of the user's own.
        for server in [None, Some(String::new())] {
            let server = server.map(|server| ("natsServer".to_owned(), server));
            trigger.spec.metadata.extend(server);
            let plan = Plan::of(&trigger, Some("nats://shared:4222")).unwrap();
            assert_eq!(plan.topic, "ns.>");
            assert_eq!(plan.error_topic.as_deref(), Some("ns.bad"));
            let Servers::Nats { consumer, .. } = plan.servers else {
                panic!("not of NATS");
            };
            assert!(consumer.starts_with("fission-ns-m-"), "{consumer}");
        }
    }

    #[test]
    fn triggers_of_rabbitmq_are_written_as_for_keda() {
        let rabbit = |secret: &str, metadata: Value| {
            plan(json!({
                "messageQueueType": "rabbitmq", "topic": "orders", "respTopic": "done",
                "secret": secret, "metadata": metadata,
            }))
        };
        let host = "amqp://u:p@rabbit:5672/v";
        let told = rabbit("", json!({ "host": host, "queueName": "orders" })).unwrap();
        assert_eq!((told.topic.as_str(), told.secret), ("orders", None));
        assert_eq!(told.response_topic.as_deref(), Some("done"));
        let servers = |host: Option<&str>, vhost: Option<&str>| Servers::Rabbit {
            host: host.map(str::to_owned),
            vhost: vhost.map(str::to_owned),
        };
        assert_eq!(told.servers, servers(Some(host), None));
        let told = rabbit("s", json!({ "vhostName": "w" })).unwrap();
        assert_eq!(told.servers, servers(None, Some("w")));
        for metadata in [
            json!({}),
            json!({ "host": "" }),
            json!({ "host": "http://rabbit:15672" }),
            json!({ "host": host, "queueName": "other" }),
        ] {
            let reason = rabbit("", metadata.clone()).unwrap_err();
            assert_eq!(reason, "InvalidMetadata", "{metadata}");
        }
    }

    #[test]
    fn bad_triggers_say_what_is_wrong() {
        let reason = |changes| plan(changes).unwrap_err();
        assert_eq!(
            reason(json!({ "messageQueueType": "x" })),
            "UnsupportedQueue"
        );
        assert_eq!(reason(json!({ "topic": "" })), "InvalidTopic");
        assert_eq!(reason(json!({ "topic": "a b" })), "InvalidTopic");
        assert_eq!(reason(json!({ "errorTopic": "a\nb" })), "InvalidTopic");
        assert_eq!(reason(json!({ "metadata": {} })), "InvalidMetadata");
        for concurrency in ["0", "257", "many"] {
            let metadata = json!({ "natsServer": "nats://x", "concurrency": concurrency });
            assert_eq!(reason(json!({ "metadata": metadata })), "InvalidMetadata");
        }
        let weights = json!({ "type": "function-weights", "functionweights": { "f": 100 } });
        assert_eq!(
            reason(json!({ "functionref": weights })),
            "InvalidFunctionReference"
        );
    }
}
