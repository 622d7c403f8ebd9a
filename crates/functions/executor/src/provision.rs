//! Instances that are made before they are called.
//!
//! How many is a matter of the function's windows ([`mod@windows`]), and of our limits; the state
//! is told of it as [`Floor`]s, and ends no idle instance below. [`missing`] is pure. An instance
//! that is missing is asked for as a caller would ask, by a caller that knows all that there are.

mod windows;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farplane_functions_types::names::label;
use farplane_functions_types::wire::Instance;
use farplane_functions_types::{ExecutorType, Function};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::revision::Revision;
use windows::{Now, Windows};

/// Most that one function may have.
pub(crate) const MOST: usize = 20;
/// Most that are made at the same time, over all functions: callers come first.
const AT_ONCE: usize = 4;
/// Between two looks when nothing changes.
const TICK: Duration = Duration::from_secs(5);
/// Changes that arrive together cause one look.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// How many are to be asked for now. While some are asked for, it is not known which of them
/// are counted already.
fn missing(target: usize, have: usize, asked: usize, free: usize) -> usize {
    if asked > 0 {
        return 0;
    }
    target.saturating_sub(have).min(free)
}

/// What a function asks for now, and how much of it our limits leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    /// Instances that are kept ready.
    pub target: usize,
    /// What the function says.
    pub said: usize,
    /// What is wrong with windows that are left out.
    pub wrong: Option<String>,
}

impl Floor {
    fn of(said: usize, revision: &Revision, wrong: Option<String>) -> Self {
        Self {
            target: said.min(MOST).min(revision.concurrency),
            said,
            wrong,
        }
    }
}

/// A function's windows, and what they said last.
struct Page {
    generation: Option<i64>,
    windows: Windows,
    last: Now,
}

/// What functions ask for, by UID. Their windows are read once, and looked at when what they
/// said last no longer holds.
#[derive(Default)]
struct Book(HashMap<String, Page>);

impl Book {
    fn floor(&mut self, function: &Function, revision: &Revision, at: Timestamp) -> Option<Floor> {
        let said = function.spec.provisioned_concurrency.as_ref()?;
        let anchor = function.creation_timestamp();
        let anchor = anchor.map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let generation = function.metadata.generation;
        let read = || {
            let windows = Windows::of(said);
            Page {
                generation,
                last: windows.at(at, anchor),
                windows,
            }
        };
        let page = self.0.entry(revision.key.uid.clone()).or_insert_with(read);
        if page.generation != generation {
            *page = read();
        }
        if page.last.until.is_some_and(|until| until <= at) {
            page.last = page.windows.at(at, anchor);
        }
        let wrong = page.windows.wrong.clone();
        Some(Floor::of(page.last.target, revision, wrong))
    }

    /// How long nothing changes by itself.
    fn quiet(&self, at: Timestamp) -> Duration {
        let next = self.0.values().filter_map(|page| page.last.until).min();
        let left = next.map(|next| Duration::try_from(next.duration_since(at)));
        match left {
            None => TICK,
            Some(left) => left.unwrap_or(Duration::ZERO).min(TICK),
        }
    }
}

/// What is asked for now, by UID of the function.
#[derive(Default)]
struct Asked {
    counts: Mutex<HashMap<String, usize>>,
    done: Notify,
}

impl Asked {
    fn counts(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, uid: &str) {
        if let Some(count) = self.counts().get_mut(uid) {
            *count = count.saturating_sub(1);
        }
        self.done.notify_one();
    }
}

/// Keeps instances ready until it is dropped.
pub(crate) async fn run(engine: Arc<Engine>) {
    let mut functions = engine.world.functions.clone();
    let mut packages = engine.world.packages.clone();
    let asked = Arc::new(Asked::default());
    let mut book = Book::default();
    loop {
        let at = Timestamp::now();
        look(&engine, &asked, &mut book, at);
        tokio::select! {
            () = functions.changed() => {}
            () = packages.changed() => {}
            () = asked.done.notified() => {}
            () = tokio::time::sleep(book.quiet(at)) => {}
        }
        tokio::time::sleep(DEBOUNCE).await;
    }
}

fn look(engine: &Arc<Engine>, asked: &Arc<Asked>, book: &mut Book, at: Timestamp) {
    let mut floors = HashMap::new();
    let mut wanted = Vec::new();
    for function in engine.world.functions.all() {
        if function.metadata.deletion_timestamp.is_some()
            || function.spec.executor_type() != ExecutorType::Poolmgr
            || function.spec.provisioned_concurrency.is_none()
        {
            continue;
        }
        let Ok(revision) = engine.world.resolve(&function, None) else {
            continue;
        };
        if let Some(floor) = book.floor(&function, &revision, at) {
            floors.insert(revision.id(), floor.clone());
            wanted.push((revision, floor.target));
        }
    }
    let uids: HashSet<&str> = wanted.iter().map(|(one, _)| one.key.uid.as_str()).collect();
    book.0.retain(|uid, _| uids.contains(uid.as_str()));
    let mut counts = asked.counts();
    counts.retain(|uid, count| *count > 0 || uids.contains(uid.as_str()));
    drop(counts);
    if engine.state().set_floors(floors) {
        engine.moved.notify_one();
    }
    for (revision, target) in wanted {
        ask(engine, asked, &revision, target);
    }
}

/// Asks for instances that are missing.
fn ask(engine: &Arc<Engine>, asked: &Arc<Asked>, revision: &Arc<Revision>, target: usize) {
    let have = engine.state().count(&revision.id());
    let count = {
        let mut counts = asked.counts();
        let free = AT_ONCE.saturating_sub(counts.values().sum());
        let mine = counts.entry(revision.key.uid.clone()).or_default();
        let count = missing(target, have, *mine, free);
        *mine += count;
        count
    };
    for _ in 0..count {
        let (engine, revision, asked) = (engine.clone(), revision.clone(), asked.clone());
        engine.tasks.clone().spawn(async move {
            // It knows all that there are, so another is made.
            let known = engine.state().addresses(&revision.key.uid);
            match engine.instance(&revision, &known).await {
                Ok(made) => mark(&engine, &made).await,
                Err(failed) => {
                    let function = &revision.key.name;
                    tracing::warn!(function, %failed, "not provisioned");
                    // Code that does not load is not tried again at once.
                    tokio::time::sleep(TICK).await;
                }
            }
            asked.end(&revision.key.uid);
        });
    }
}

/// Says on the Pod why it is there.
async fn mark(engine: &Engine, made: &Instance) {
    let Some(pod) = &made.pod else {
        return;
    };
    let api = Api::<Pod>::namespaced(engine.client.clone(), &pod.namespace);
    let patch = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "labels": { label::PROVISIONED: "true" } },
    });
    let patched = api
        .patch_metadata(&pod.name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    if let Err(error) = patched {
        tracing::debug!(pod = pod.name, %error, "could not label a provisioned Pod");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::{Parts, resolve};

    fn function(generation: i64, target: i64, windows: serde_json::Value) -> Function {
        serde_json::from_value(json!({
            "metadata": {
                "name": "f", "namespace": "ns", "uid": "u", "generation": generation,
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "environment": { "name": "e" }, "package": { "packageref": { "name": "p" } },
                "concurrency": 5,
                "provisionedConcurrency": { "target": target, "windows": windows },
            },
        }))
        .unwrap()
    }

    fn revision(function: &Function) -> Revision {
        let environment = json!({
            "metadata": { "name": "e", "namespace": "ns", "uid": "e" },
            "spec": { "version": 3, "runtime": { "image": "i" } },
        });
        let package = json!({
            "metadata": { "name": "p", "namespace": "ns", "uid": "p" },
            "spec": { "environment": { "name": "e" }, "deployment": { "literal": "eA==" } },
        });
        resolve(&Parts {
            function,
            spec: &function.spec,
            version: "",
            environment: Some(&serde_json::from_value(environment).unwrap()),
            package: Some(&serde_json::from_value(package).unwrap()),
            storage_url: "",
        })
        .unwrap()
    }

    #[test]
    fn what_a_window_said_holds_until_its_end_or_until_the_function_changes() {
        let office = json!([{ "name": "w", "start": "0 8 * * *", "duration": "1h", "target": 4 }]);
        let mut book = Book::default();
        let mut ask = |function: &Function, time: &str| {
            let at: Timestamp = time.parse().unwrap();
            let floor = book.floor(function, &revision(function), at).unwrap();
            (floor.target, book.quiet(at))
        };
        let first = function(1, 2, office.clone());
        assert_eq!(
            ask(&first, "2026-11-27T07:59:58Z"),
            (2, Duration::from_secs(2))
        );
        assert_eq!(ask(&first, "2026-11-27T08:00:00Z"), (4, TICK));
        assert_eq!(ask(&first, "2026-11-27T09:00:00Z"), (2, TICK));
        // More than the function may have, and its first windows are gone.
        let second = function(2, 9, json!([]));
        assert_eq!(ask(&second, "2026-11-28T08:00:00Z"), (5, TICK));
    }

    #[test]
    fn as_many_are_asked_for_as_are_missing_and_few_at_once() {
        assert_eq!(missing(3, 0, 0, 4), 3);
        assert_eq!(missing(3, 1, 0, 4), 2);
        assert_eq!(missing(3, 0, 3, 1), 0, "they are being made");
        assert_eq!(missing(3, 2, 0, 2), 1);
        assert_eq!(missing(10, 0, 0, 4), 4);
        assert_eq!(missing(2, 5, 0, 4), 0);
    }
}
