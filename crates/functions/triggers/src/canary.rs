//! Canaries: move calls to a new function step by step, and back when it fails.
//!
//! ```text
//! pending ─▶ step ─▶ window with calls ─┬▶ few errors ─▶ step ... 100 % ─▶ window ─▶ succeeded
//!                      (none: waits)    └▶ too many ─▶ all back ─▶ failed
//! ```
//! The weight in force is what the HTTPTrigger, or the FunctionAlias, says; nothing else is
//! remembered. What is counted begins anew when another process takes over: a window is never
//! judged by calls from before it. [`step`] and [`metrics`] are pure.

mod metrics;
mod place;
mod scrape;
mod step;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use farplane_functions_schedule::duration;
use farplane_functions_types::CanaryConfig;
use farplane_functions_types::release::CanaryConfigStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::context::Context;
use crate::objects::{self, READY, Said, Watched, set_condition};
use crate::subscriptions::{Key, key};

use metrics::{Baseline, Sample};
use place::PlaceError;
use step::Decision;

const PROGRESSING: &str = "Progressing";
/// Between two steps when the object says nothing.
const INTERVAL: Duration = Duration::from_secs(120);
const SHORTEST: Duration = Duration::from_secs(1);
/// After something was not there, or a write met another.
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// Words of `status.status`.
const PENDING: &str = "pending";
const SUCCEEDED: &str = "succeeded";
const FAILED: &str = "failed";
const ABORTED: &str = "aborted";

/// A canary that is not over.
struct Entry {
    uid: String,
    generation: i64,
    due: Timestamp,
    /// Counters when its window began.
    baseline: Option<Baseline>,
}

/// What a look at a canary came to.
struct Outcome {
    status: &'static str,
    message: String,
    /// When to look again, and from which counters on.
    next: Option<(Duration, Option<Baseline>)>,
}

impl Outcome {
    fn end(status: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            next: None,
        }
    }

    fn wait(message: impl Into<String>, pause: Duration, baseline: Option<Baseline>) -> Self {
        Self {
            status: PENDING,
            message: message.into(),
            next: Some((pause, baseline)),
        }
    }
}

/// Moves canaries until told to stop.
pub(crate) async fn run(context: Context, mut canaries: Watched<CanaryConfig>) {
    tokio::select! {
        () = canaries.ready() => {}
        () = context.stop.cancelled() => return,
    }
    let mut entries: HashMap<Key, Entry> = HashMap::new();
    loop {
        let now = Timestamp::now();
        let all = canaries.all();
        sync(&mut entries, &all, now);
        let mut samples = None;
        for canary in &all {
            let key = key(canary.as_ref());
            let Some(entry) = entries.get_mut(&key).filter(|entry| entry.due <= now) else {
                continue;
            };
            if samples.is_none() {
                samples = Some(scrape::all(&context).await);
            }
            let samples = samples.as_deref().unwrap_or_default();
            let outcome = look(&context, canary, entry.baseline.take(), samples).await;
            tell(&context, canary, &outcome).await;
            match outcome.next {
                Some((pause, baseline)) => {
                    entry.due = Timestamp::now().saturating_add(pause).unwrap_or(now);
                    entry.baseline = baseline;
                }
                None => _ = entries.remove(&key),
            }
        }
        let next = entries.values().map(|entry| entry.due).min();
        let quiet = next.map_or(LONGEST_SLEEP, |next| {
            let left = next.duration_since(Timestamp::now());
            Duration::try_from(left).map_or(Duration::ZERO, |left| left.min(LONGEST_SLEEP))
        });
        tokio::select! {
            () = tokio::time::sleep(quiet) => {}
            () = canaries.changed() => {}
            () = context.stop.cancelled() => return,
        }
    }
}

/// Takes the canaries as they are; those that are over for their generation stay so.
fn sync(entries: &mut HashMap<Key, Entry>, canaries: &[Arc<CanaryConfig>], now: Timestamp) {
    let mut before = std::mem::take(entries);
    for canary in canaries {
        if canary.metadata.deletion_timestamp.is_some() || is_over(canary) {
            continue;
        }
        let key = key(canary.as_ref());
        let uid = canary.uid().unwrap_or_default();
        let generation = canary.metadata.generation.unwrap_or(0);
        let old = before.remove(&key);
        let same = old.filter(|old| old.uid == uid && old.generation == generation);
        let entry = same.unwrap_or(Entry {
            uid,
            generation,
            due: now,
            baseline: None,
        });
        entries.insert(key, entry);
    }
}

fn is_over(canary: &CanaryConfig) -> bool {
    canary.status.as_ref().is_some_and(|status| {
        matches!(status.status.as_str(), SUCCEEDED | FAILED | ABORTED)
            && status.observed_generation == canary.metadata.generation
    })
}

/// One look: where it stands, what was counted, and a step where one is due.
async fn look(
    context: &Context,
    canary: &CanaryConfig,
    baseline: Option<Baseline>,
    samples: &[Sample],
) -> Outcome {
    let spec = &canary.spec;
    let interval = match spec.interval.as_str() {
        "" => INTERVAL,
        text => match duration::parse(text) {
            Ok(interval) => interval.max(SHORTEST),
            Err(error) => return Outcome::end(ABORTED, format!("duration: {error}")),
        },
    };
    if !matches!(spec.failure_type.as_str(), "" | "status-code") {
        let message = format!(
            "failureType {:?} is not known; status-code is",
            spec.failure_type
        );
        return Outcome::end(ABORTED, message);
    }
    let place = match place::find(&context.client, canary).await {
        Ok(place) => place,
        Err(PlaceError::Wait(message)) => return Outcome::wait(message, RETRY, baseline),
        Err(PlaceError::Unfit(message)) => return Outcome::end(FAILED, message),
    };
    let which = place.counted(canary);
    let fresh = || Some(metrics::baseline(samples, &which, Timestamp::now()));
    let weight = place.weight(&spec.new_function);
    let window = match &baseline {
        Some(baseline) => metrics::window(baseline, samples, &which),
        None if weight <= 0 => metrics::Window::default(),
        None => {
            let message = format!("{weight} % of calls go to the new one; counting");
            return Outcome::wait(message, interval, fresh());
        }
    };
    match step::decide(
        weight,
        spec.weight_increment,
        spec.failure_threshold,
        window,
    ) {
        Decision::Wait => {
            let message = format!("no calls of the new one at {weight} %; waiting for some");
            Outcome::wait(message, interval, baseline)
        }
        Decision::Step(to) => match place.step(&context.client, canary, to).await {
            Ok(()) => {
                let message = format!(
                    "{to} % of calls go to the new one; {} of {} failed before",
                    window.errors, window.calls
                );
                Outcome::wait(message, interval, fresh())
            }
            Err(message) => Outcome::wait(message, RETRY, baseline),
        },
        Decision::RollBack => match place.roll_back(&context.client, canary).await {
            Ok(()) => {
                let message = format!(
                    "{} of {} calls of the new one failed at {weight} %; all go to the old one",
                    window.errors, window.calls
                );
                Outcome::end(FAILED, message)
            }
            Err(message) => Outcome::wait(message, RETRY, baseline),
        },
        Decision::Succeed => match place.finish(&context.client, canary).await {
            Ok(()) => Outcome::end(SUCCEEDED, "all calls go to the new one"),
            Err(message) => Outcome::wait(message, RETRY, baseline),
        },
    }
}

/// The status that a canary should have; none when it has it.
fn decide_status(
    canary: &CanaryConfig,
    outcome: &Outcome,
    now: &Time,
) -> Option<CanaryConfigStatus> {
    let message = outcome.message.clone();
    let (progressing, ready) = match outcome.status {
        PENDING => (
            Said::yes("InProgress", message.clone()),
            Said::no("InProgress", message),
        ),
        SUCCEEDED => (
            Said::no("Succeeded", message.clone()),
            Said::yes("Succeeded", message),
        ),
        FAILED => (
            Said::no("Failed", message.clone()),
            Said::no("Failed", message),
        ),
        _ => (
            Said::no("Aborted", message.clone()),
            Said::no("Aborted", message),
        ),
    };
    let generation = canary.metadata.generation;
    let old = canary.status.clone().unwrap_or_default();
    let mut status = old.clone();
    outcome.status.clone_into(&mut status.status);
    status.observed_generation = generation;
    let list = &mut status.conditions;
    set_condition(list, PROGRESSING, &progressing, generation, now);
    set_condition(list, READY, &ready, generation, now);
    (status != old).then_some(status)
}

async fn tell(context: &Context, canary: &CanaryConfig, outcome: &Outcome) {
    let (namespace, name) = (canary.namespace(), canary.name_any());
    let (status, message) = (outcome.status, &outcome.message);
    tracing::info!(namespace, name, status, message, "canary");
    let Some(wanted) = decide_status(canary, outcome, &objects::now()) else {
        return;
    };
    // The end of a canary must be written, or the next process begins it again.
    for _ in 0..5 {
        match objects::apply_status(&context.client, canary, &wanted).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(namespace, name, %error, "could not write the status of a canary");
            }
        }
        if outcome.next.is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
#[path = "canary/tests.rs"]
mod tests;
