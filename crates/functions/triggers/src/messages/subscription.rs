//! One trigger: connects, takes messages while there is room, and connects again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::context::Context;
use crate::messages::broker::{Broker, BrokerError, Messages};
use crate::messages::delivery;
use crate::messages::plan::{Plan, Servers};
use crate::messages::{nats, rabbit};
use crate::objects::Said;
use crate::subscriptions::Say;

/// Pauses between two tries to reach a broker.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// For a broker to answer when a subscription begins.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(15);

/// User names, passwords and the like, from the trigger's Secret.
pub(crate) type Credentials = BTreeMap<String, String>;

/// Takes messages and calls until it is ended.
pub(crate) async fn run(context: Context, plan: Plan, say: Say) {
    let plan = Arc::new(plan);
    let mut pause = FIRST_PAUSE;
    loop {
        let began = match tokio::time::timeout(BEGIN_TIMEOUT, begin(&context, &plan)).await {
            Ok(began) => began,
            Err(_) => Err(BrokerError::Missing(format!(
                "the broker did not answer within {} s",
                BEGIN_TIMEOUT.as_secs()
            ))),
        };
        let error = match began {
            Ok((broker, messages)) => {
                pause = FIRST_PAUSE;
                say(Said::yes("Subscribed", "messages are taken"));
                match serve(&context, &plan, broker, messages).await {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        let (namespace, name) = (&plan.namespace, &plan.name);
        tracing::warn!(namespace, name, %error, "no messages are taken; trying again");
        let reason = match &error {
            BrokerError::Failed { .. } => "BrokerUnavailable",
            BrokerError::Missing(_) => "TopicNotFound",
            BrokerError::Invalid(_) => "InvalidMetadata",
            BrokerError::Secret { .. } => "InvalidSecret",
        };
        say(Said::no(reason, error.to_string()));
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn begin(context: &Context, plan: &Plan) -> Result<(Broker, Messages), BrokerError> {
    let credentials = credentials(context, plan).await?;
    match &plan.servers {
        Servers::Nats {
            url,
            stream,
            consumer,
        } => {
            let connection = nats::Connection::open(url, &credentials).await?;
            let room = plan.concurrency;
            let messages = connection
                .subscribe(&plan.topic, stream.as_deref(), consumer, room)
                .await?;
            let broker = Broker::Nats(Box::new(connection));
            Ok((broker, Messages::Nats(Box::new(messages))))
        }
        Servers::Rabbit { host, vhost } => {
            let address = rabbit::Address::of(host.as_deref(), vhost.as_deref(), &credentials)?;
            let connection = rabbit::Connection::open(address).await?;
            let others = [&plan.response_topic, &plan.error_topic];
            let others = others.into_iter().flatten().map(String::as_str);
            let messages = connection
                .subscribe(&plan.topic, others, plan.concurrency)
                .await?;
            let broker = Broker::Rabbit(connection);
            Ok((broker, Messages::Rabbit(Box::new(messages))))
        }
    }
}

/// Ends in order when we are told to stop; messages that are worked on are finished first.
async fn serve(
    context: &Context,
    plan: &Arc<Plan>,
    broker: Broker,
    mut messages: Messages,
) -> Result<(), BrokerError> {
    let room = Arc::new(Semaphore::new(plan.concurrency));
    let mut deliveries: JoinSet<Result<(), BrokerError>> = JoinSet::new();
    loop {
        let next = async {
            // Closed never.
            let permit = room.clone().acquire_owned().await.ok();
            messages.next().await.map(|message| (permit, message))
        };
        tokio::select! {
            next = next => {
                let (permit, message) = next?;
                let (context, plan, broker) = (context.clone(), plan.clone(), broker.clone());
                deliveries.spawn(async move {
                    let _permit = permit;
                    delivery::deliver(&context, &plan, &broker, message).await
                });
            }
            Some(done) = deliveries.join_next() => {
                if let Ok(outcome) = done {
                    outcome?;
                }
            }
            () = context.stop.cancelled() => break,
        }
    }
    while let Some(done) = deliveries.join_next().await {
        if let Ok(outcome) = done {
            outcome?;
        }
    }
    Ok(())
}

/// The trigger's Secret, of its own namespace.
async fn credentials(context: &Context, plan: &Plan) -> Result<Credentials, BrokerError> {
    let Some(name) = &plan.secret else {
        return Ok(Credentials::new());
    };
    let refused = |reason: String| BrokerError::Secret {
        secret: format!("{}/{name}", plan.namespace),
        reason,
    };
    let api = Api::<Secret>::namespaced(context.client.clone(), &plan.namespace);
    let secret = match api.get_opt(name).await {
        Ok(Some(secret)) => secret,
        Ok(None) => return Err(refused("it does not exist".to_owned())),
        Err(error) => return Err(refused(error.to_string())),
    };
    let mut credentials = Credentials::new();
    for (key, value) in secret.data.unwrap_or_default() {
        let text =
            String::from_utf8(value.0).map_err(|_| refused(format!("key {key} is not text")))?;
        credentials.insert(key, text.trim_end_matches('\n').to_owned());
    }
    Ok(credentials)
}
