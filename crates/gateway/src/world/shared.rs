//! The world, shared: fed by watches, read by everyone, and telling plan streams of changes.
//!
//! Locks are held for a lookup or one change, never across an await.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError, RwLock};

use futures::StreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_objects};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::lookup::PlanState;
use super::{Tracked, World};

/// The world with its subscribers.
pub struct Shared {
    world: RwLock<World>,
    plans: Mutex<HashMap<String, watch::Sender<PlanState>>>,
}

impl Shared {
    /// An empty world.
    pub fn new(hub_domain: &str) -> Self {
        Self {
            world: RwLock::new(World::new(hub_domain)),
            plans: Mutex::default(),
        }
    }

    /// Answers a question. `question` must be short: it holds up the watches.
    pub fn read<T>(&self, question: impl FnOnce(&World) -> T) -> T {
        question(&self.world.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the world by `change` and tells the hosts that it names.
    pub fn change(&self, change: impl FnOnce(&mut World) -> Vec<String>) {
        let affected = change(&mut self.world.write().unwrap_or_else(PoisonError::into_inner));
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        for uid in affected {
            let Some(sender) = plans.get(&uid) else {
                continue;
            };
            if sender.receiver_count() == 0 {
                plans.remove(&uid);
                continue;
            }
            let state = self.read(|world| world.plan_state(&uid));
            sender.send_if_modified(|old| {
                let differs = *old != state;
                *old = state;
                differs
            });
        }
    }

    /// What the agent of this host should be told, now and on change.
    pub fn plan_of(&self, uid: &str) -> watch::Receiver<PlanState> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock, so that no change falls between reading and subscribing.
        let state = self.read(|world| world.plan_state(uid));
        let sender = plans
            .entry(uid.to_owned())
            .or_insert_with(|| watch::channel(state.clone()).0);
        sender.send_replace(state);
        sender.subscribe()
    }

    /// Keeps the objects of one kind in step with the API, for ever.
    ///
    /// `ready` is told when the first listing is complete.
    pub async fn follow<K, T>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        wrap: impl Fn(K) -> T,
        ready: impl FnOnce(),
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Tracked,
    {
        let mut ready = Some(ready);
        let mut listing = Vec::new();
        let mut events = watch_objects(api, config).default_backoff().boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listing.clear(),
                Ok(Event::InitApply(object)) => listing.push(wrap(object)),
                Ok(Event::InitDone) => {
                    let objects = std::mem::take(&mut listing);
                    self.change(|world| T::replace(world, objects));
                    if let Some(ready) = ready.take() {
                        ready();
                    }
                }
                Ok(Event::Apply(object)) => {
                    self.change(|world| T::insert(world, wrap(object)));
                }
                Ok(Event::Delete(object)) => {
                    let key = wrap(object).key();
                    self.change(|world| T::remove(world, &key));
                }
                Err(error) => {
                    tracing::warn!(kind = std::any::type_name::<K>(), %error, "watch failed, will be repeated");
                }
            }
        }
    }
}
