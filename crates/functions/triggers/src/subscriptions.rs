//! One task per trigger, which begins anew when the trigger changes, and what it says of
//! itself for the trigger's status.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use kube::{Resource, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::context::Context;
use crate::objects::{Kind, Said, Watched};

/// Namespace and name.
pub(crate) type Key = (String, String);

/// Says how a subscription stands.
pub(crate) type Say = Box<dyn Fn(Said) + Send + Sync>;

pub(crate) fn key<K: Kind>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// How each subscription stands, for the statuses.
#[derive(Clone)]
pub(crate) struct Board {
    said: Arc<Mutex<HashMap<Key, Said>>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Board {
    pub fn new() -> Self {
        Self {
            said: Arc::default(),
            changes: Arc::new(watch::channel(0).0),
        }
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn get(&self, key: &Key) -> Option<Said> {
        let all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(key).cloned()
    }

    fn say(&self, key: &Key, said: Said) {
        let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(key) != Some(&said) {
            all.insert(key.clone(), said);
            drop(all);
            self.changes.send_modify(|count| *count += 1);
        }
    }

    fn forget(&self, key: &Key) {
        let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(key);
    }
}

/// A subscription; it ends with this.
struct Running {
    uid: String,
    generation: i64,
    _tasks: JoinSet<()>,
}

/// Keeps a task for each trigger for which `start` makes one, until told to stop.
pub(crate) async fn keep<K, Start>(
    context: &Context,
    mut triggers: Watched<K>,
    board: &Board,
    start: Start,
) where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
    Start: Fn(&K, Say) -> Option<BoxFuture<'static, ()>>,
{
    let mut running: BTreeMap<Key, Running> = BTreeMap::new();
    loop {
        let mut next = BTreeMap::new();
        for trigger in triggers.all() {
            if trigger.meta().deletion_timestamp.is_some() {
                continue;
            }
            let key = key(trigger.as_ref());
            let uid = trigger.uid().unwrap_or_default();
            let generation = trigger.meta().generation.unwrap_or(0);
            let old = running.remove(&key);
            if let Some(old) = old.filter(|old| old.uid == uid && old.generation == generation) {
                next.insert(key, old);
                continue;
            }
            board.forget(&key);
            let (told, teller) = (key.clone(), board.clone());
            let say: Say = Box::new(move |said| teller.say(&told, said));
            let Some(task) = start(&trigger, say) else {
                continue;
            };
            let mut tasks = JoinSet::new();
            tasks.spawn(task);
            let one = Running {
                uid,
                generation,
                _tasks: tasks,
            };
            next.insert(key, one);
        }
        for key in running.keys() {
            board.forget(key);
        }
        // Those that are left are ended here.
        running = next;
        tokio::select! {
            () = triggers.changed() => {}
            () = context.stop.cancelled() => return,
        }
    }
}
