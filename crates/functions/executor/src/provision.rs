//! Instances that are made before they are called.
//!
//! [`missing`] is pure. An instance that is missing is asked for as a caller would ask, by a
//! caller that knows all that there are; that they are not ended when idle is the state's
//! business.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farplane_functions_types::ExecutorType;
use farplane_functions_types::names::label;
use farplane_functions_types::wire::Instance;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::revision::Revision;

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

/// How many a function is to have.
pub(crate) fn target(revision: &Revision) -> usize {
    revision.provisioned.min(MOST).min(revision.concurrency)
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
    loop {
        look(&engine, &asked);
        tokio::select! {
            () = functions.changed() => {}
            () = packages.changed() => {}
            () = asked.done.notified() => {}
            () = tokio::time::sleep(TICK) => {}
        }
        tokio::time::sleep(DEBOUNCE).await;
    }
}

fn look(engine: &Arc<Engine>, asked: &Arc<Asked>) {
    let mut targets = HashSet::new();
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
        let uid = revision.key.uid.clone();
        targets.insert(uid.clone());
        let have = engine.state().count(&revision.id());
        let count = {
            let mut counts = asked.counts();
            let free = AT_ONCE.saturating_sub(counts.values().sum());
            let mine = counts.entry(uid).or_default();
            let count = missing(target(&revision), have, *mine, free);
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
    let mut counts = asked.counts();
    counts.retain(|uid, count| *count > 0 || targets.contains(uid));
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
