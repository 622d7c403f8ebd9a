//! All functions and routes, kept as the world says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use farplane_functions_types::FunctionReference;
use farplane_functions_types::auth::{Key, Service};
use farplane_functions_types::wire::Usage;
use rand::Rng as _;

use crate::executor::Executor;
use crate::metrics::Metrics;
use crate::route::{Route, Table};
use crate::settings::Settings;
use crate::state::{Meta, Slot};
use crate::world::Event;

/// What all connections share.
pub struct Router {
    /// What it was told.
    pub settings: Settings,
    /// Routes.
    pub table: RwLock<Table>,
    /// Functions by namespace and name.
    functions: RwLock<HashMap<(String, String), Arc<Slot>>>,
    /// The same by UID.
    by_uid: RwLock<HashMap<String, Arc<Slot>>>,
    /// Instances that were seen before their function was.
    early: RwLock<HashMap<String, Vec<(i64, String)>>>,
    executor: Arc<Executor>,
    /// What is counted.
    pub metrics: Metrics,
    /// Signs internal calls.
    pub internal_key: Key,
    /// The world has been seen once.
    synced: AtomicBool,
}

impl Router {
    /// Knows nothing yet.
    pub fn new(settings: Settings, executor: Executor) -> Arc<Self> {
        let internal_key = Key::derived(&settings.secret, Service::RouterInternal, None);
        Arc::new(Self {
            settings,
            table: RwLock::default(),
            functions: RwLock::default(),
            by_uid: RwLock::default(),
            early: RwLock::default(),
            executor: Arc::new(executor),
            metrics: Metrics::default(),
            internal_key,
            synced: AtomicBool::new(false),
        })
    }

    /// True once the world has been seen.
    pub fn is_ready(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// The function of this name.
    pub fn function(&self, namespace: &str, name: &str) -> Option<Arc<Slot>> {
        let key = (namespace.to_owned(), name.to_owned());
        read(&self.functions).get(&key).cloned()
    }

    /// The function that a reference means, by its weights when it has some.
    pub fn resolve(&self, namespace: &str, reference: &FunctionReference) -> Option<Arc<Slot>> {
        if reference.kind != "function-weights" {
            return self.function(namespace, &reference.name);
        }
        let weights: Vec<(&String, u64)> = reference
            .function_weights
            .iter()
            .filter_map(|(name, weight)| Some((name, u64::try_from(*weight).ok()?)))
            .collect();
        let total: u64 = weights.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return None;
        }
        let mut drawn = rand::rng().random_range(0..total);
        for (name, weight) in weights {
            if drawn < weight {
                return self.function(namespace, name);
            }
            drawn -= weight;
        }
        None
    }

    /// Takes in what happened.
    pub fn apply(&self, event: Event) {
        match event {
            Event::Trigger(trigger) => match Route::of(&trigger) {
                Ok(route) => {
                    write(&self.table).put(route);
                    self.metrics.routes(read(&self.table).len());
                }
                Err(error) => {
                    let name = trigger.metadata.name.as_deref().unwrap_or_default();
                    let namespace = trigger.metadata.namespace.as_deref().unwrap_or_default();
                    tracing::warn!(namespace, name, %error, "a trigger makes no route");
                    write(&self.table).remove(namespace, name);
                }
            },
            Event::TriggerGone { namespace, name } => {
                write(&self.table).remove(&namespace, &name);
                self.metrics.routes(read(&self.table).len());
            }
            Event::Function(function) => self.put_function(Meta::of(&function)),
            Event::FunctionGone { namespace, name } => {
                let gone = write(&self.functions).remove(&(namespace, name));
                if let Some(slot) = gone {
                    write(&self.by_uid).remove(&slot.meta().key.uid);
                    slot.close();
                }
            }
            Event::Instance {
                uid,
                generation,
                version,
                address,
            } => {
                // Those of a version are not for calls of the live function.
                if version.is_empty() {
                    self.put_instance(uid, generation, address);
                }
            }
            Event::InstanceGone { address } => {
                for slot in read(&self.by_uid).values() {
                    slot.remove_instance(&address);
                }
                for list in write(&self.early).values_mut() {
                    list.retain(|(_, other)| *other != address);
                }
            }
            Event::Synced => self.synced.store(true, Ordering::Release),
        }
    }

    fn put_function(&self, meta: Meta) {
        let name = (meta.key.namespace.clone(), meta.key.name.clone());
        let (uid, generation) = (meta.key.uid.clone(), meta.key.generation);
        let known = read(&self.by_uid).get(&uid).cloned();
        let slot = if let Some(slot) = known {
            slot.change(meta);
            slot
        } else {
            let slot = Slot::new(meta, self.executor.clone());
            // One of the same name that was deleted meanwhile goes.
            let old = write(&self.functions).insert(name, slot.clone());
            if let Some(old) = old {
                write(&self.by_uid).remove(&old.meta().key.uid);
                old.close();
            }
            write(&self.by_uid).insert(uid.clone(), slot.clone());
            slot
        };
        if let Some(early) = write(&self.early).remove(&uid) {
            for (of, address) in early {
                if of == generation {
                    slot.add_instance(&address);
                }
            }
        }
    }

    fn put_instance(&self, uid: String, generation: i64, address: String) {
        let slot = read(&self.by_uid).get(&uid).cloned();
        match slot {
            Some(slot) if slot.meta().key.generation == generation => slot.add_instance(&address),
            Some(_) => {}
            None => write(&self.early)
                .entry(uid)
                .or_default()
                .push((generation, address)),
        }
    }

    /// What was used since, for the executor.
    pub fn usage(&self) -> Usage {
        let instances = read(&self.by_uid)
            .values()
            .flat_map(|slot| slot.usage())
            .collect();
        Usage {
            router: self.settings.pod_name.clone(),
            instances,
        }
    }

    /// Tells the executor what was used.
    pub async fn report(&self) {
        if let Err(error) = self.executor.report(&self.usage()).await {
            tracing::debug!(%error, "the executor does not hear what was used");
        }
    }
}

/// Reads, whatever became of those who wrote.
pub fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
