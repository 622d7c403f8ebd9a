//! Objects of the API: what a kind is, watched copies of one, and how statuses are written.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A kind known at compile time.
pub trait Kind:
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
pub struct Watched<K: Resource<DynamicType = ()> + 'static> {
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
    /// Watches all of them; ends with `tasks`.
    pub fn start(client: &Client, tasks: &mut JoinSet<()>) -> Self {
        Self::start_with(client, watcher::Config::default(), tasks, |_| {})
    }

    /// Watches some of them. `strip` takes away what need not be kept.
    pub fn start_with(
        client: &Client,
        config: watcher::Config,
        tasks: &mut JoinSet<()>,
        strip: fn(&mut K),
    ) -> Self {
        Self::start_at(Api::all(client.clone()), config, tasks, strip)
    }

    /// Watches some of those of a namespace, or of all.
    pub fn start_at(
        api: Api<K>,
        config: watcher::Config,
        tasks: &mut JoinSet<()>,
        strip: fn(&mut K),
    ) -> Self {
        let (store, writer) = reflector::store();
        let (changes, changed) = watch::channel(0);
        let (lists, listed) = watch::channel(false);
        let events = watcher(api, config)
            .backoff(crate::backoff::watch())
            .modify(move |object| {
                object.managed_fields_mut().clear();
                strip(object);
            });
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

    /// Whether all objects are known.
    pub fn is_ready(&self) -> bool {
        *self.listed.borrow()
    }

    /// Returns after the next change.
    pub async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    /// The one of this name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.store.get(&ObjectRef::new(name).within(namespace))
    }
}

/// The time of conditions.
pub fn now() -> Time {
    Time(Timestamp::now())
}

/// True when the API answered with this HTTP code.
pub fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Writes a status by server-side apply: only the fields of `manager`. One that was deleted
/// meanwhile is left alone. One that was made anew gets the status of the old one, as the API
/// server does not compare UIDs here; the watch tells of it, and it is written again.
///
/// # Errors
/// When the API server does not take it.
pub async fn apply_status<K: Kind, S: Serialize>(
    api: &Api<K>,
    manager: &str,
    object: &K,
    status: &S,
) -> Result<(), kube::Error> {
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": object.name_any() },
        "status": status,
    });
    let parameters = PatchParams::apply(manager).force();
    let written = api
        .patch_status(&object.name_any(), &parameters, &Patch::Apply(&body))
        .await;
    match written {
        // Nobody is left to tell.
        Err(error) if !is_code(&error, 404) => Err(error),
        _ => Ok(()),
    }
}
