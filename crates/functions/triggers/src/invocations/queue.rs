//! Takes calls from the store when they are due, delivers them, and stores what came of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farplane_functions_types::function::Destination;
use farplane_functions_types::names::header;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::caller::{Answer, Call, CallError};
use crate::context::Context;
use crate::headers;
use crate::invocations::envelope;
use crate::invocations::policy::{self, Condition, Next, Outcome};
use crate::invocations::record::{Dead, Policy, Record, new_id};
use crate::invocations::schedule::{Name, Schedule};
use crate::invocations::store::{Added, Change, Store, StoreError};
use crate::messages::{NATS, nats, scoped};
use crate::target::Target;

/// Longest chain of destinations.
const MOST_DEPTH: u32 = 3;
/// Of an answer: what a result may hold, and a byte that tells of more.
const KEEP: usize = 64 * 1024 + 1;
/// After the store failed.
const STORE_PAUSE_MS: u64 = 5000;
const TIDY: Duration = Duration::from_secs(600);
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// For a topic to have a message.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(20);

const ATTEMPT: HeaderName = HeaderName::from_static("x-fission-invocation-attempt");
const DEPTH: HeaderName = HeaderName::from_static("x-fission-invocation-depth");

/// A call that waits: whose, which, when.
pub(crate) type News = (Name, String, u64);

pub(crate) fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// What deliveries share.
#[derive(Clone)]
struct Shared {
    context: Context,
    store: Store,
    broker: Arc<Mutex<Option<nats::Connection>>>,
}

/// Delivers until told to stop; calls that run then are finished.
pub(crate) async fn deliver_all(
    context: Context,
    store: Store,
    mut news: mpsc::UnboundedReceiver<News>,
) -> Result<(), StoreError> {
    let mut schedule = Schedule::default();
    let loading = store.clone();
    let waiting = tokio::task::spawn_blocking(move || loading.waiting()).await;
    for (due_ms, record) in waiting.unwrap_or_else(|_| Ok(Vec::new()))? {
        schedule.add(record.lane(), record.id, due_ms);
    }
    let shared = Shared {
        context: context.clone(),
        store: store.clone(),
        broker: Arc::default(),
    };
    let mut deliveries: JoinSet<(Name, Vec<News>)> = JoinSet::new();
    let mut tidy = tokio::time::interval(TIDY);
    loop {
        let now = now_ms();
        for (name, id) in schedule.take(now) {
            deliveries.spawn(one(shared.clone(), name, id));
        }
        let next = schedule.next().map(|due| due.saturating_sub(now));
        let pause = next.map_or(LONGEST_SLEEP, Duration::from_millis);
        tokio::select! {
            () = tokio::time::sleep(pause.min(LONGEST_SLEEP)) => {}
            Some((name, id, due_ms)) = news.recv() => schedule.add(name, id, due_ms),
            Some(ended) = deliveries.join_next() => {
                if let Ok((name, more)) = ended {
                    schedule.ended(&name);
                    for (name, id, due_ms) in more {
                        schedule.add(name, id, due_ms);
                    }
                }
            }
            _ = tidy.tick() => {
                if let Err(error) = store.change(Change::Tidy { now_ms: now }).await {
                    tracing::warn!(%error, "old asynchronous calls were not deleted");
                }
            }
            () = context.stop.cancelled() => break,
        }
    }
    let mut calls = JoinSet::new();
    calls.spawn(async move { while deliveries.join_next().await.is_some() {} });
    crate::context::drain("asynchronous calls", calls).await;
    Ok(())
}

/// One attempt; tells what waits after it.
async fn one(shared: Shared, name: Name, id: String) -> (Name, Vec<News>) {
    let store = shared.store.clone();
    let wanted = id.clone();
    let read = tokio::task::spawn_blocking(move || store.get(&wanted)).await;
    let again = |name: &Name, id: &str| (name.clone(), id.to_owned(), now_ms() + STORE_PAUSE_MS);
    let (record, body) = match read {
        Ok(Ok(Some((record, body)))) if record.dead.is_none() => (record, body),
        Ok(Ok(_)) => return (name, Vec::new()),
        Ok(Err(error)) => {
            tracing::error!(id, %error, "an asynchronous call could not be read");
            let more = vec![again(&name, &id)];
            return (name, more);
        }
        Err(_) => return (name, Vec::new()),
    };
    let (change, more) = attempt(&shared, record, body).await;
    match shared.store.change(change).await {
        Ok(_) => (name, more),
        Err(error) => {
            tracing::error!(id, %error, "the outcome of a call was not stored, it is made again");
            let more = vec![again(&name, &id)];
            (name, more)
        }
    }
}

async fn attempt(shared: &Shared, mut record: Record, body: Vec<u8>) -> (Change, Vec<News>) {
    let body = Bytes::from(body);
    let (outcome, response) = if policy::is_too_old(&record, now_ms()) {
        (None, Bytes::new())
    } else {
        let (outcome, response) = match &record.topic {
            Some(_) => (publish(shared, &record, body.clone()).await, Bytes::new()),
            None => call(shared, &record, body.clone()).await,
        };
        (Some(outcome), response)
    };
    let now = now_ms();
    let next = outcome
        .as_ref()
        .map_or(Next::End(Condition::EventAgeExceeded), |outcome| {
            policy::after(&record, outcome, now, rand::random_range(0.0..1.0))
        });
    match next {
        Next::Later { due_ms, counted } => {
            record.attempts += u32::from(counted);
            record.tries += 1;
            let more = vec![(record.lane(), record.id.clone(), due_ms)];
            let record = Box::new(record);
            (Change::Later { record, due_ms }, more)
        }
        Next::End(condition) => end(shared, record, &body, condition, outcome, &response, now),
    }
}

fn end(
    shared: &Shared,
    mut record: Record,
    body: &[u8],
    condition: Condition,
    outcome: Option<Outcome>,
    response: &[u8],
    now: u64,
) -> (Change, Vec<News>) {
    let made = u32::from(outcome.is_some());
    record.attempts += made;
    let status = match &outcome {
        Some(Outcome::Answered(status)) => Some(*status),
        _ => None,
    };
    let destination = match condition {
        Condition::Success => record.on_success.clone(),
        _ => record.on_failure.clone(),
    };
    let result = envelope::write(&record, body, condition, record.attempts, status, response);
    let next = destination.and_then(|to| follow(&shared.context, &record, &to, result, now));
    let next = next.map(Box::new);
    let more = next
        .iter()
        .map(|added| (added.record.lane(), added.record.id.clone(), now))
        .collect();
    if condition == Condition::Success {
        let id = record.id;
        return (Change::Done { id, next }, more);
    }
    let detail = match &outcome {
        Some(Outcome::Answered(status)) => format!(": the function answered {status}"),
        Some(Outcome::NotSent(reason) | Outcome::Failed(reason)) => format!(": {reason}"),
        None => String::new(),
    };
    let reason = format!("{}{detail}", condition.as_str());
    let (namespace, function, id) = (&record.namespace, &record.function, &record.id);
    tracing::warn!(
        namespace,
        function,
        id,
        reason,
        "an asynchronous call is dead"
    );
    record.dead = Some(Dead {
        reason,
        died_ms: now,
    });
    let record = Box::new(record);
    (Change::Dead { record, next }, more)
}

/// The call or message that a destination asks for.
fn follow(
    context: &Context,
    record: &Record,
    to: &Destination,
    body: Vec<u8>,
    now: u64,
) -> Option<Added> {
    let depth = record.depth + 1;
    let (namespace, id) = (record.namespace.clone(), &record.id);
    if depth > MOST_DEPTH {
        tracing::warn!(
            namespace,
            id,
            "a chain of destinations ends: it has {MOST_DEPTH} already"
        );
        return None;
    }
    let topic = to.topic.clone().filter(|topic| !topic.topic.is_empty());
    let reference = to.function.as_ref();
    let reference = reference.filter(|reference| !reference.name.is_empty());
    let target = match reference.map(|reference| Target::of(&namespace, reference)) {
        Some(Ok(target)) => Some(target),
        Some(Err(error)) => {
            tracing::warn!(namespace, id, %error, "a destination is no function");
            return None;
        }
        None => None,
    };
    if topic.is_none() && target.is_none() {
        return None;
    }
    let (function, tag) = target.map_or_else(Default::default, |to| (to.name, to.tag));
    let known = context.functions.get(&namespace, &function);
    let invocation = known
        .as_ref()
        .and_then(|function| function.spec.invocation.as_ref());
    let record = Record {
        id: new_id(now),
        namespace,
        tag,
        topic: topic.filter(|_| function.is_empty()),
        method: "POST".to_owned(),
        target: "/".to_owned(),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        enqueued_ms: now,
        depth,
        attempts: 0,
        tries: 0,
        policy: Policy::of(invocation),
        on_success: invocation.and_then(|invocation| invocation.on_success.clone()),
        on_failure: invocation.and_then(|invocation| invocation.on_failure.clone()),
        dead: None,
        function,
    };
    Some(Added {
        record,
        body,
        dedup_key: None,
    })
}

async fn call(shared: &Shared, record: &Record, body: Bytes) -> (Outcome, Bytes) {
    let target = Target {
        namespace: record.namespace.clone(),
        name: record.function.clone(),
        tag: record.tag.clone(),
    };
    let mut headers = headers::of_call(&record.headers);
    let id = HeaderName::from_static(header::INVOCATION_ID);
    headers.insert(id, headers::value(&record.id));
    headers.insert(ATTEMPT, HeaderValue::from(record.attempts + 1));
    headers.insert(DEPTH, HeaderValue::from(record.depth));
    let mut call = Call {
        deadline: shared.context.deadline(&target),
        target,
        method: record.method.parse().unwrap_or(Method::POST),
        subpath: record.target.clone(),
        headers,
        body,
        keep: KEEP,
    };
    let mut outcome = shared.context.caller.call(&call).await;
    // The version was deleted meanwhile: the function itself is nearest to what was meant.
    if matches!(&outcome, Ok(answer) if is_miss(answer)) && !call.target.tag.is_empty() {
        call.target.tag.clear();
        outcome = shared.context.caller.call(&call).await;
    }
    match outcome {
        Ok(answer) => (Outcome::Answered(answer.status.as_u16()), answer.body),
        Err(error @ CallError::NotSent { .. }) => {
            (Outcome::NotSent(error.to_string()), Bytes::new())
        }
        Err(error) => (Outcome::Failed(error.to_string()), Bytes::new()),
    }
}

fn is_miss(answer: &Answer) -> bool {
    answer.status == 404 && answer.headers.contains_key(header::ROUTE_MISS)
}

/// To a topic of the platform's broker.
async fn publish(shared: &Shared, record: &Record, body: Bytes) -> Outcome {
    let (Some(topic), Some(url)) = (&record.topic, &shared.context.settings.nats_url) else {
        return Outcome::Failed("the platform has no NATS server for topics".to_owned());
    };
    if topic.message_queue_type != NATS {
        let kind = &topic.message_queue_type;
        return Outcome::Failed(format!(
            "topics of type {kind:?} are not supported; {NATS} is"
        ));
    }
    let publishing = async {
        let mut broker = shared.broker.lock().await;
        let connection = match &*broker {
            Some(connection) => connection.clone(),
            None => nats::Connection::open(url, &std::collections::BTreeMap::new()).await?,
        };
        *broker = Some(connection.clone());
        drop(broker);
        let mut headers = HeaderMap::new();
        let id = HeaderName::from_static(header::INVOCATION_ID);
        headers.insert(id, headers::value(&record.id));
        let topic = scoped(&record.namespace, &topic.topic);
        connection.publish(&topic, &headers, body).await
    };
    match tokio::time::timeout(PUBLISH_TIMEOUT, publishing).await {
        Ok(Ok(())) => Outcome::Answered(200),
        Ok(Err(error)) => Outcome::Failed(error.to_string()),
        Err(_) => Outcome::Failed("the broker does not answer".to_owned()),
    }
}
