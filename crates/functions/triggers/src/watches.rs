//! Kubernetes watches: a call for every change of an object.
//!
//! Each trigger has a subscription ([`subscription`]) in a task of its own, which begins anew
//! when the trigger changes. Promises: only objects of the trigger's own namespace are seen.
//! Objects that are there when a subscription begins are told of as `ADDED`, as Kubernetes'
//! own watch does, so nothing is lost while nobody leads; a function may therefore hear of
//! an object more than once. Calls for one object are made one after the other, in the order
//! of its changes; a function that is slow makes the watch wait.

mod plan;
mod subscription;

use farplane_functions_types::KubernetesWatchTrigger;
use farplane_functions_types::triggers::TriggerStatus;
use futures::FutureExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::context::{Context, keep_statuses};
use crate::objects::{self, READY, Said, Watched, set_condition};
use crate::subscriptions::{self, Board, key};

use plan::Plan;

const SUBSCRIBED: &str = "Subscribed";

/// The status that a trigger should have; none when it has it.
fn decide(
    trigger: &KubernetesWatchTrigger,
    observed: Option<Said>,
    has_function: bool,
    now: &Time,
) -> Option<TriggerStatus> {
    let subscribed = match Plan::of(trigger) {
        Ok(_) => {
            observed.unwrap_or_else(|| Said::no("Starting", "the watch has not been answered yet"))
        }
        Err(said) => said,
    };
    let ready = if subscribed.holds && !has_function {
        let name = &trigger.spec.function_ref.name;
        let message = format!("function {name} does not exist; calls fail until it does");
        Said::no("FunctionNotFound", message)
    } else {
        subscribed.clone()
    };
    let generation = trigger.metadata.generation;
    let old = trigger.status.clone().unwrap_or_default();
    let mut status = old.clone();
    status.observed_generation = generation;
    let list = &mut status.conditions;
    set_condition(list, SUBSCRIBED, &subscribed, generation, now);
    set_condition(list, READY, &ready, generation, now);
    (status != old).then_some(status)
}

/// Keeps subscriptions and statuses until told to stop.
pub(crate) async fn run(context: Context, triggers: Watched<KubernetesWatchTrigger>) {
    tokio::select! {
        () = triggers.ready() => {}
        () = context.stop.cancelled() => return,
    }
    let board = Board::new();
    let statuses = keep_statuses(
        &context,
        triggers.clone(),
        |trigger: &KubernetesWatchTrigger| {
            let key = key(trigger);
            let function = &trigger.spec.function_ref.name;
            let has_function = context.functions.get(&key.0, function).is_some();
            decide(trigger, board.get(&key), has_function, &objects::now())
        },
        board.changes(),
    );
    let subscriptions = subscriptions::keep(
        &context,
        triggers,
        &board,
        |trigger: &KubernetesWatchTrigger, say| {
            let plan = Plan::of(trigger).ok()?;
            Some(subscription::run(context.clone(), plan, say).boxed())
        },
    );
    tokio::join!(statuses, subscriptions);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn trigger(spec: serde_json::Value) -> KubernetesWatchTrigger {
        let object = json!({
            "apiVersion": "fission.io/v1", "kind": "KubernetesWatchTrigger",
            "metadata": { "namespace": "ns", "name": "w", "generation": 1 },
            "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    }

    fn reasons(trigger: &KubernetesWatchTrigger, observed: Option<Said>, has: bool) -> String {
        let status = decide(trigger, observed, has, &objects::now()).unwrap();
        let reason = |type_: &str| {
            let one = status.conditions.iter().find(|one| one.type_ == type_);
            let one = one.unwrap();
            format!("{}={} ", one.status, one.reason)
        };
        reason(SUBSCRIBED) + &reason(READY)
    }

    #[test]
    fn statuses_say_what_is_watched_and_why_not() {
        let good = trigger(json!({
            "type": "pod", "functionref": { "type": "name", "name": "f" },
        }));
        let subscribed = || Some(Said::yes("Subscribed", ""));
        assert_eq!(reasons(&good, None, true), "False=Starting False=Starting ");
        assert_eq!(
            reasons(&good, subscribed(), true),
            "True=Subscribed True=Subscribed "
        );
        assert_eq!(
            reasons(&good, subscribed(), false),
            "True=Subscribed False=FunctionNotFound "
        );
        let foreign = trigger(json!({
            "type": "pod", "namespace": "other", "functionref": { "type": "name", "name": "f" },
        }));
        assert_eq!(
            reasons(&foreign, subscribed(), true),
            "False=CrossNamespace False=CrossNamespace "
        );
    }
}
