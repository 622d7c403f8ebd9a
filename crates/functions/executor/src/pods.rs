//! Watches the Pods of functions and tells the state.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use farplane_control::backoff;
use farplane_functions_types::ExecutorType;
use farplane_functions_types::names::label;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt as _};
use tokio::sync::watch;

use crate::engine::Engine;
use crate::state::PodView;

/// Watches for as long as it is not dropped. `listed` becomes true with the first whole list.
pub(crate) async fn run(engine: Arc<Engine>, listed: watch::Sender<bool>) {
    let executor = ExecutorType::Poolmgr.as_str();
    let selector = format!("{}={executor}", label::EXECUTOR_TYPE);
    let api = Api::<Pod>::all(engine.client.clone());
    let config = watcher::Config::default().labels(&selector);
    let mut events = pin!(watcher(api, config).backoff(backoff::watch()));
    let mut listing = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(pod)) => observe(&engine, &pod),
            Ok(Event::Delete(pod)) => engine.gone(&pod.uid().unwrap_or_default()),
            Ok(Event::Init) => listing.clear(),
            Ok(Event::InitApply(pod)) => {
                listing.insert(pod.uid().unwrap_or_default());
                observe(&engine, &pod);
            }
            Ok(Event::InitDone) => {
                // What was deleted while the watch was broken.
                let uids = engine.state().uids();
                for uid in uids.iter().filter(|uid| !listing.contains(*uid)) {
                    engine.gone(uid);
                }
                listing.clear();
                listed.send_replace(true);
            }
            Err(error) => {
                tracing::warn!(%error, "the watch of Pods failed, it is started again");
            }
        }
    }
}

fn observe(engine: &Arc<Engine>, pod: &Pod) {
    let effects = engine.state().observe(PodView::read(pod), Instant::now());
    engine.run(effects);
}
