//! Objects of the API: watched copies of a kind, and conditions.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Owner of the fields that we write.
pub(crate) const FIELD_MANAGER: &str = "farplane-executor";
/// Condition type that every trigger has.
pub(crate) const READY: &str = "Ready";

/// A kind known at compile time.
pub(crate) trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
        + 'static
{
}

/// All objects of a kind, and word of every change.
pub(crate) struct Watched<K: Resource<DynamicType = ()> + 'static> {
    store: Store<K>,
    changed: watch::Receiver<u64>,
}

impl<K: Kind> Clone for Watched<K> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            changed: self.changed.clone(),
        }
    }
}

impl<K: Kind> Watched<K>
where
    K::DynamicType: Hash + Eq,
{
    /// Starts to watch; ends with `tasks`. `strip` takes away what need not be kept.
    pub fn start(
        client: &Client,
        config: watcher::Config,
        tasks: &mut JoinSet<()>,
        strip: fn(&mut K),
    ) -> Self {
        let (store, writer) = reflector::store();
        let (changes, changed) = watch::channel(0);
        let events = watcher(Api::<K>::all(client.clone()), config)
            .default_backoff()
            .modify(move |object| {
                object.managed_fields_mut().clear();
                strip(object);
            });
        let events = reflector::reflector(writer, events);
        tasks.spawn(async move {
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                if let Err(error) = event {
                    tracing::warn!(kind = %K::kind(&()), %error, "a watch failed, it is started again");
                }
                changes.send_modify(|count| *count += 1);
            }
        });
        Self { store, changed }
    }

    /// Returns once all objects are known.
    pub async fn ready(&self) {
        // Fails only when the watch ended, and that is noticed elsewhere.
        _ = self.store.wait_until_ready().await;
    }

    /// Returns after the next change.
    pub async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.store.get(&ObjectRef::new(name).within(namespace))
    }
}

pub(crate) fn now() -> Time {
    Time(Timestamp::now())
}

/// True when the API answered with this HTTP code.
pub(crate) fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// What is said of an object under one type of condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub holds: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Said {
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            holds: true,
            reason,
            message: message.into(),
        }
    }

    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            holds: false,
            reason,
            message: message.into(),
        }
    }
}

/// Sets a condition, keeping `lastTransitionTime` while the status stays the same.
pub(crate) fn set_condition(
    list: &mut Vec<Condition>,
    type_: &str,
    said: &Said,
    generation: Option<i64>,
    now: &Time,
) {
    let status = if said.holds { "True" } else { "False" };
    let since = list
        .iter()
        .find(|old| old.type_ == type_ && old.status == status)
        .map_or_else(|| now.clone(), |old| old.last_transition_time.clone());
    let fresh = Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: said.reason.to_owned(),
        message: said.message.clone(),
        observed_generation: generation,
        last_transition_time: since,
    };
    match list.iter_mut().find(|old| old.type_ == type_) {
        Some(old) => *old = fresh,
        None => list.push(fresh),
    }
}
