//! Message queues: a call for every message.
//!
//! Each trigger has a subscription in a task of its own ([`subscription`]): broker ->
//! message -> call ([`delivery`]) -> answer to the response topic -> acknowledged. A message
//! is acknowledged only after its call succeeded and the answer was published, or after the
//! last failure was published to the error topic; so it is delivered at least once, whatever
//! is killed. Calls at the same time are bounded, and no more messages are taken than that: a
//! slow function makes its queue wait, not us.
//!
//! Brokers: [`nats`] and [`rabbit`]. The word of `messageQueueType` decides.

mod broker;
mod delivery;
pub(crate) mod nats;
mod plan;
mod rabbit;
mod subscription;

use farplane_functions_types::MessageQueueTrigger;
use farplane_functions_types::triggers::TriggerStatus;
use futures::FutureExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::context::{Context, keep_statuses};
use crate::objects::{self, READY, Said, Watched, set_condition};
use crate::subscriptions::{self, Board, key};

use plan::Plan;
pub(crate) use plan::{NATS, scoped};

const BINDING_READY: &str = "BindingReady";

/// The status that a trigger should have; none when it has it.
fn decide(
    trigger: &MessageQueueTrigger,
    observed: Option<Said>,
    has_function: bool,
    default_server: Option<&str>,
    now: &Time,
) -> Option<TriggerStatus> {
    let bound = match Plan::of(trigger, default_server) {
        Ok(_) => {
            observed.unwrap_or_else(|| Said::no("Starting", "the broker has not answered yet"))
        }
        Err(said) => said,
    };
    let ready = if bound.holds && !has_function {
        let name = &trigger.spec.function_ref.name;
        let message = format!("function {name} does not exist; calls fail until it does");
        Said::no("FunctionNotFound", message)
    } else {
        bound.clone()
    };
    let generation = trigger.metadata.generation;
    let old = trigger.status.clone().unwrap_or_default();
    let mut status = old.clone();
    status.observed_generation = generation;
    let list = &mut status.conditions;
    set_condition(list, BINDING_READY, &bound, generation, now);
    set_condition(list, READY, &ready, generation, now);
    (status != old).then_some(status)
}

/// Keeps subscriptions and statuses until told to stop.
pub(crate) async fn run(context: Context, triggers: Watched<MessageQueueTrigger>) {
    tokio::select! {
        () = triggers.ready() => {}
        () = context.stop.cancelled() => return,
    }
    let board = Board::new();
    let default_server = context.settings.nats_url.as_deref();
    let statuses = keep_statuses(
        &context,
        triggers.clone(),
        |trigger: &MessageQueueTrigger| {
            let key = key(trigger);
            let function = &trigger.spec.function_ref.name;
            let has_function = context.functions.get(&key.0, function).is_some();
            let now = objects::now();
            decide(trigger, board.get(&key), has_function, default_server, &now)
        },
        board.changes(),
    );
    let subscriptions = subscriptions::keep(
        &context,
        triggers,
        &board,
        |trigger: &MessageQueueTrigger, say| {
            let plan = Plan::of(trigger, default_server).ok()?;
            Some(subscription::run(context.clone(), plan, say).boxed())
        },
    );
    tokio::join!(statuses, subscriptions);
}
