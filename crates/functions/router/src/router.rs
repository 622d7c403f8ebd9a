//! All functions and routes, kept as the world says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use farplane_functions_types::FunctionReference;
use farplane_functions_types::auth::{Key, Service};
use farplane_functions_types::wire::Usage;

use crate::executor::Executor;
use crate::functions::{Functions, Missing};
use crate::login::Login;
use crate::metrics::Metrics;
use crate::owner::Routers;
use crate::pool::Peer;
use crate::queue::Queue;
use crate::route::{Route, Table};
use crate::settings::Settings;
use crate::state::{Meta, Slot, lock};
use crate::world::Event;

/// What all connections share.
pub struct Router {
    /// What it was told.
    pub settings: Settings,
    /// Checks who calls routes; nobody when none.
    pub login: Option<Login>,
    /// Routes.
    pub table: RwLock<Table>,
    /// Who counts the calls of which function.
    routers: RwLock<Routers>,
    /// Connections to other routers.
    peers: Mutex<HashMap<String, Arc<Peer>>>,
    /// Functions and their instances.
    pub functions: RwLock<Functions>,
    executor: Arc<Executor>,
    /// Who takes asynchronous calls.
    pub queue: Queue,
    /// What is counted.
    pub metrics: Metrics,
    /// Signs internal calls.
    pub internal_key: Key,
    /// The world has been seen once.
    synced: AtomicBool,
    /// The end was asked for.
    ending: AtomicBool,
    /// Connections that were taken, of the public and the internal listener.
    accepted: AtomicU64,
}

impl Router {
    /// Knows nothing yet.
    pub fn new(settings: Settings, executor: Executor, queue: Queue) -> Arc<Self> {
        let routers = Routers::new(&settings.pod_name);
        let executor = Arc::new(executor);
        let internal_key = Key::derived(&settings.secret, Service::RouterInternal, None);
        let login = settings.login.clone();
        let login = login.map(|wanted| Login::new(wanted, &settings.secret));
        Arc::new(Self {
            settings,
            login,
            routers: RwLock::new(routers),
            peers: Mutex::default(),
            table: RwLock::default(),
            functions: RwLock::new(Functions::new(executor.clone())),
            executor,
            queue,
            metrics: Metrics::default(),
            internal_key,
            synced: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
        })
    }

    /// True once the world has been seen, until the end is asked for.
    pub fn is_ready(&self) -> bool {
        self.synced.load(Ordering::Acquire) && !self.is_ending()
    }

    /// No more calls are wanted; those that come are answered, and their connections closed.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// True when no more calls are wanted.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Counts a connection.
    pub fn accept(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that were taken so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// What a reference of this namespace means.
    ///
    /// # Errors
    /// What of it is not there.
    pub fn resolve(
        &self,
        namespace: &str,
        reference: &FunctionReference,
    ) -> Result<Arc<Slot>, Missing> {
        read(&self.functions).resolve(namespace, reference, rand::random::<u64>)
    }

    /// A function, with its version or alias when there is a label.
    ///
    /// # Errors
    /// What of it is not there.
    pub fn labelled(&self, namespace: &str, name: &str, label: &str) -> Result<Arc<Slot>, Missing> {
        read(&self.functions).labelled(namespace, name, label, rand::random::<u64>)
    }

    /// The router that counts the calls of this function; none when it is this one.
    pub fn owner(&self, uid: &str) -> Option<Arc<Peer>> {
        let routers = read(&self.routers);
        let address = routers.owner(uid)?;
        let mut peers = lock(&self.peers);
        if let Some(peer) = peers.get(address) {
            return Some(peer.clone());
        }
        let peer = Arc::new(Peer::new(address));
        peers.insert(address.to_owned(), peer.clone());
        Some(peer)
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
            Event::Function(function) => write(&self.functions).put(Meta::of(&function)),
            Event::FunctionGone { namespace, name } => {
                write(&self.functions).remove_live(&namespace, &name);
            }
            Event::Version(version) => write(&self.functions).put(Meta::of_version(&version)),
            Event::VersionGone { namespace, name } => {
                write(&self.functions).remove_version(&namespace, &name);
            }
            Event::Alias(alias) => write(&self.functions).put_alias(&alias),
            Event::AliasGone { namespace, name } => {
                write(&self.functions).remove_alias(&namespace, &name);
            }
            Event::Instance {
                uid,
                generation,
                version,
                address,
            } => write(&self.functions).put_instance(uid, version, generation, address),
            Event::InstanceGone { address } => {
                write(&self.functions).remove_instance(&address);
            }
            Event::Router { name, address } => write(&self.routers).put(name, address),
            Event::RouterGone { name } => write(&self.routers).remove(&name),
            Event::Synced => self.synced.store(true, Ordering::Release),
        }
    }

    /// What was used since, for the executor.
    pub fn usage(&self) -> Usage {
        let instances = read(&self.functions)
            .all()
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
