//! Objects of the API: watched copies of a kind, conditions and statuses.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Owner of the fields that we write.
pub(crate) const FIELD_MANAGER: &str = "farplane-triggers";
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
    /// The store's own waiting wakes only one of several that wait.
    listed: watch::Receiver<bool>,
}

impl<K: Kind> Clone for Watched<K> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            changed: self.changed.clone(),
            listed: self.listed.clone(),
        }
    }
}

impl<K: Kind> Watched<K>
where
    K::DynamicType: Hash + Eq,
{
    /// Starts to watch; ends with `tasks`.
    pub fn start(client: &Client, tasks: &mut JoinSet<()>) -> Self {
        let (store, writer) = reflector::store();
        let (changes, changed) = watch::channel(0);
        let (lists, listed) = watch::channel(false);
        let events = watcher(Api::<K>::all(client.clone()), watcher::Config::default())
            .default_backoff()
            .modify(|object| object.managed_fields_mut().clear());
        let events = reflector::reflector(writer, events);
        tasks.spawn(async move {
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                match event {
                    Err(error) => {
                        tracing::warn!(kind = %K::kind(&()), %error, "a watch failed, it is started again");
                    }
                    Ok(watcher::Event::InitDone) => _ = lists.send_replace(true),
                    Ok(_) => {}
                }
                changes.send_modify(|count| *count += 1);
            }
        });
        Self {
            store,
            changed,
            listed,
        }
    }

    /// Returns once all objects are known.
    pub async fn ready(&self) {
        // Fails only when the watch ended, and that is noticed elsewhere.
        _ = self.listed.clone().wait_for(|listed| *listed).await;
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

/// Writes a status by server-side apply: only our fields of it.
pub(crate) async fn apply_status<K, S>(
    client: &Client,
    object: &K,
    status: &S,
) -> Result<(), kube::Error>
where
    K: Kind + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    S: Serialize,
{
    let namespace = object.namespace().unwrap_or_default();
    let api = Api::<K>::namespaced(client.clone(), &namespace);
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": object.name_any() },
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let written = api
        .patch_status(&object.name_any(), &parameters, &Patch::Apply(&body))
        .await;
    match written {
        // Deleted meanwhile: nobody is left to tell.
        Err(error) if !is_code(&error, 404) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let at = |second| Time(Timestamp::from_second(second).unwrap());
        let mut list = Vec::new();
        set_condition(&mut list, READY, &Said::no("A", "a"), Some(1), &at(1));
        set_condition(&mut list, READY, &Said::no("B", "b"), Some(2), &at(2));
        assert_eq!(list[0].last_transition_time, at(1));
        assert_eq!(list[0].reason, "B");
        set_condition(&mut list, READY, &Said::yes("C", ""), Some(2), &at(3));
        assert_eq!(list[0].last_transition_time, at(3));
        assert_eq!(list.len(), 1);
    }
}
