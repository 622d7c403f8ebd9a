//! Time triggers: calls of functions at times.
//!
//! The next due time follows from the trigger and the clock alone ([`Table`]); nothing is
//! written down. Promises: each due time is one call, made by whoever leads; a due time at
//! which nobody led is left out, and none is made up for. A process that was held up makes
//! the call it is late for once. A call is repeated only while nothing of it was sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farplane_functions_schedule::cron::Schedule;
use farplane_functions_types::TimeTrigger;
use farplane_functions_types::names::header;
use farplane_functions_types::triggers::TriggerStatus;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tokio::task::JoinSet;

use crate::caller::Call;
use crate::context::{Context, drain, keep_statuses, nothing_else};
use crate::objects::{self, READY, Said, Watched, set_condition};
use crate::target::{Target, subpath};

const SCHEDULED: &str = "Scheduled";
/// The clock is looked at this often at least, as it may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);
/// Calls of one timer that may run at the same time; a due time beyond is left out.
const OVERLAP: usize = 16;
/// Calls of all timers that may run at the same time.
const CONCURRENCY: usize = 512;
/// How long a router that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of an answer, for the log.
const KEEP: usize = 1024;

/// Namespace and name.
type Key = (String, String);

/// When each timer is due next. Pure.
#[derive(Default)]
pub(crate) struct Table {
    entries: HashMap<Key, Entry>,
}

struct Entry {
    uid: String,
    generation: i64,
    schedule: Schedule,
    anchor: Timestamp,
    due: Option<Timestamp>,
}

impl Table {
    /// Takes the triggers as they are: a new or changed one is due from now on.
    pub fn sync(&mut self, triggers: &[Arc<TimeTrigger>], now: Timestamp) {
        let mut before = std::mem::take(&mut self.entries);
        for trigger in triggers {
            if trigger.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let key = key(trigger);
            let uid = trigger.uid().unwrap_or_default();
            let generation = trigger.metadata.generation.unwrap_or(0);
            let old = before.remove(&key);
            if let Some(old) = old.filter(|old| old.uid == uid && old.generation == generation) {
                self.entries.insert(key, old);
                continue;
            }
            let Ok(plan) = Plan::of(trigger) else {
                continue;
            };
            let anchor = trigger.creation_timestamp();
            let anchor = anchor.map_or(Timestamp::UNIX_EPOCH, |time| time.0);
            let entry = Entry {
                uid,
                generation,
                due: plan.schedule.next(now, anchor),
                schedule: plan.schedule,
                anchor,
            };
            self.entries.insert(key, entry);
        }
    }

    /// The timers that are due, each once, in the order of their times.
    pub fn take_due(&mut self, now: Timestamp) -> Vec<Key> {
        let mut due = Vec::new();
        for (key, entry) in &mut self.entries {
            if let Some(time) = entry.due.filter(|time| *time <= now) {
                due.push((time, key.clone()));
                entry.due = entry.schedule.next(now, entry.anchor);
            }
        }
        due.sort();
        due.into_iter().map(|(_, key)| key).collect()
    }

    /// How long nothing is due.
    pub fn quiet(&self, now: Timestamp) -> Duration {
        let next = self.entries.values().filter_map(|entry| entry.due).min();
        let Some(next) = next else {
            return LONGEST_SLEEP;
        };
        let left = next.duration_since(now);
        Duration::try_from(left).map_or(Duration::ZERO, |left| left.min(LONGEST_SLEEP))
    }
}

fn key(trigger: &TimeTrigger) -> Key {
    (trigger.namespace().unwrap_or_default(), trigger.name_any())
}

/// What a trigger asks for.
struct Plan {
    schedule: Schedule,
    target: Target,
    method: Method,
    subpath: String,
}

impl Plan {
    /// Or the condition `Ready` that says why not, and whether the schedule is at fault.
    fn of(trigger: &TimeTrigger) -> Result<Self, (Said, bool)> {
        let spec = &trigger.spec;
        let schedule =
            spec.cron
                .parse()
                .map_err(|error: farplane_functions_schedule::cron::CronError| {
                    (Said::no("InvalidCron", error.to_string()), true)
                })?;
        let refused = |message: String| (Said::no("InvalidFunctionReference", message), false);
        let namespace = trigger.namespace().unwrap_or_default();
        let target = Target::of(&namespace, &spec.function_ref)
            .map_err(|error| refused(error.to_string()))?;
        let subpath = subpath(&spec.subpath).map_err(|error| refused(error.to_string()))?;
        let method = match spec.method.as_str() {
            "" => Method::POST,
            text => text.to_ascii_uppercase().parse().map_err(|_| {
                let message = format!("method {text:?} is no HTTP method");
                (Said::no("InvalidMethod", message), false)
            })?,
        };
        Ok(Self {
            schedule,
            target,
            method,
            subpath,
        })
    }
}

/// The status that a trigger should have; none when it has it.
fn decide(trigger: &TimeTrigger, has_function: bool, now: &Time) -> Option<TriggerStatus> {
    let generation = trigger.metadata.generation;
    let (scheduled, ready) = match Plan::of(trigger) {
        Ok(plan) => {
            let scheduled = Said::yes("CronRegistered", "the schedule is in force");
            let never = plan.schedule.next(now.0, now.0).is_none();
            let scheduled = if never {
                Said::no("InvalidCron", "the schedule names no time that ever comes")
            } else {
                scheduled
            };
            let ready = if never {
                scheduled.clone()
            } else if has_function {
                Said::yes("CronRegistered", "")
            } else {
                let name = &plan.target.name;
                let message = format!("function {name} does not exist; calls fail until it does");
                Said::no("FunctionNotFound", message)
            };
            (scheduled, ready)
        }
        Err((said, true)) => (said.clone(), said),
        Err((said, false)) => (Said::no("NotScheduled", "see condition Ready"), said),
    };
    let old = trigger.status.clone().unwrap_or_default();
    let mut status = old.clone();
    status.observed_generation = generation;
    let list = &mut status.conditions;
    set_condition(list, SCHEDULED, &scheduled, generation, now);
    set_condition(list, READY, &ready, generation, now);
    (status != old).then_some(status)
}

/// Makes the calls and keeps the statuses until told to stop.
pub(crate) async fn run(context: Context, triggers: Watched<TimeTrigger>) {
    tokio::select! {
        () = triggers.ready() => {}
        () = context.stop.cancelled() => return,
    }
    let functions = &context.functions;
    let statuses = keep_statuses(
        &context,
        triggers.clone(),
        |trigger: &TimeTrigger| {
            let namespace = trigger.namespace().unwrap_or_default();
            let name = &trigger.spec.function_ref.name;
            let has_function = functions.get(&namespace, name).is_some();
            decide(trigger, has_function, &objects::now())
        },
        nothing_else(),
    );
    tokio::join!(statuses, call_when_due(&context, triggers));
}

async fn call_when_due(context: &Context, mut triggers: Watched<TimeTrigger>) {
    let mut table = Table::default();
    let mut calls = JoinSet::new();
    let mut running: HashMap<Key, Arc<()>> = HashMap::new();
    loop {
        let now = Timestamp::now();
        table.sync(&triggers.all(), now);
        for key in table.take_due(now) {
            let Some(trigger) = triggers.get(&key.0, &key.1) else {
                continue;
            };
            let mark = running.entry(key).or_default();
            // One more than the calls: the entry itself.
            if Arc::strong_count(mark) > OVERLAP || calls.len() >= CONCURRENCY {
                let (namespace, name) = (trigger.namespace(), trigger.name_any());
                tracing::warn!(
                    namespace,
                    name,
                    "a due call is left out: too many before it still run"
                );
                continue;
            }
            calls.spawn(call(context.clone(), trigger, mark.clone()));
        }
        let quiet = table.quiet(Timestamp::now());
        tokio::select! {
            () = tokio::time::sleep(quiet) => {}
            () = triggers.changed() => {}
            Some(_) = calls.join_next() => running.retain(|_, mark| Arc::strong_count(mark) > 1),
            () = context.stop.cancelled() => break,
        }
    }
    drain("timers", calls).await;
}

async fn call(context: Context, trigger: Arc<TimeTrigger>, _running: Arc<()>) {
    let Ok(plan) = Plan::of(&trigger) else {
        return;
    };
    let (namespace, name) = (trigger.namespace(), trigger.name_any());
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::try_from(&name) {
        headers.insert(HeaderName::from_static(header::TIMER_NAME), value);
    }
    let call = Call {
        deadline: context.deadline(&plan.target),
        target: plan.target,
        method: plan.method,
        subpath: plan.subpath,
        headers,
        body: Bytes::new(),
        keep: KEEP,
    };
    match context.caller.call_patiently(&call, PATIENCE).await {
        Ok(answer) if answer.status.is_success() => {
            tracing::debug!(namespace, name, status = %answer.status, "timer called");
        }
        Ok(answer) => {
            let (status, excerpt) = (answer.status, answer.excerpt());
            tracing::warn!(namespace, name, %status, excerpt, "the call of a timer failed");
        }
        Err(error) => tracing::warn!(namespace, name, %error, "the call of a timer failed"),
    }
}

#[cfg(test)]
#[path = "timers_tests.rs"]
mod tests;
