//! Instances of functions that have a Deployment of their own: who is ready, who waits, what is
//! used. Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farplane_functions_types::wire::{Instance, Usage};
use farplane_functions_types::{ExecutorType, ObjectReference};
use tokio::sync::Notify;

use crate::revision::Revision;
use crate::state::PodRef;

/// Without word from any router for so long, nothing is known of what is used.
const BLIND: Duration = Duration::from_secs(20);
/// A router that said nothing for so long counts for nothing.
const SILENT: Duration = Duration::from_secs(60);

/// UID of the function and name of the version.
pub(crate) type SlotId = (String, String);

/// The slot of a revision.
pub(crate) fn slot_id(revision: &Revision) -> SlotId {
    (revision.key.uid.clone(), revision.key.version.clone())
}

/// What is read of a Pod.
#[derive(Clone, Debug)]
pub(crate) struct Deployed {
    pub pod: PodRef,
    pub slot: SlotId,
    pub code_hash: String,
    pub ending: bool,
    pub trouble: Option<String>,
    pub port: u16,
    /// It answered that it has its code.
    pub ready: bool,
    pub executor: ExecutorType,
}

impl Deployed {
    fn address(&self) -> Option<String> {
        Some(match self.pod.ip? {
            IpAddr::V4(ip) => format!("{ip}:{}", self.port),
            IpAddr::V6(ip) => format!("[{ip}]:{}", self.port),
        })
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// When it was asked for or used last.
    used: Option<Instant>,
    /// Calls that run, as each router said last.
    active: HashMap<String, (usize, Instant)>,
    /// Callers that wait for its first Pod.
    waiting: usize,
    changed: Arc<Notify>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: HashMap<SlotId, Slot>,
    pods: HashMap<String, Deployed>,
    routers: HashMap<String, Instant>,
}

/// What a caller finds.
#[derive(Debug)]
pub(crate) enum Found {
    Instance(Instance),
    /// It knows all of them.
    Known,
    /// None is ready; told when that may have changed.
    Wait(Arc<Notify>),
}

impl Slots {
    /// Takes in what the API says of a Pod. True when it is to be asked whether it is ready.
    pub fn observe(&mut self, mut pod: Deployed) -> bool {
        let uid = pod.pod.uid.clone();
        let before = self.pods.get(&uid);
        pod.ready = before.is_some_and(|before| before.ready);
        let asked = before.is_some_and(|before| before.pod.ip.is_some());
        let ask = !asked && pod.pod.ip.is_some() && !pod.ending;
        let slot = pod.slot.clone();
        self.pods.insert(uid, pod);
        self.tell(&slot);
        ask
    }

    pub fn gone(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// UIDs of the Pods of an executor type.
    pub fn uids_of(&self, executor: ExecutorType) -> Vec<String> {
        let of = self.pods.iter().filter(|(_, pod)| pod.executor == executor);
        of.map(|(uid, _)| uid.clone()).collect()
    }

    /// True while a Pod may become ready.
    pub fn is_coming(&self, uid: &str) -> bool {
        self.pods
            .get(uid)
            .is_some_and(|pod| !pod.ready && !pod.ending)
    }

    /// A Pod has its code and takes calls.
    pub fn ready(&mut self, uid: &str) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        pod.ready = true;
        let slot = pod.slot.clone();
        self.tell(&slot);
    }

    fn tell(&mut self, slot: &SlotId) {
        if let Some(slot) = self.slots.get(slot) {
            slot.changed.notify_waiters();
        }
    }

    /// An instance beside those that the caller knows.
    pub fn find(&mut self, revision: &Revision, known: &[String], now: Instant) -> Found {
        let id = slot_id(revision);
        let slot = self.slots.entry(id.clone()).or_default();
        slot.used = Some(now);
        let changed = slot.changed.clone();
        let mut any = false;
        for pod in self.pods.values() {
            let right = pod.slot == id && pod.code_hash == revision.code_hash;
            let Some(address) = pod.address().filter(|_| right && pod.ready && !pod.ending) else {
                continue;
            };
            any = true;
            if known.contains(&address) {
                continue;
            }
            return Found::Instance(Instance {
                address,
                pod: Some(ObjectReference {
                    namespace: pod.pod.namespace.clone(),
                    name: pod.pod.name.clone(),
                }),
                function: revision.key.clone(),
                cold: false,
            });
        }
        if any {
            return Found::Known;
        }
        Found::Wait(changed)
    }

    /// Counts a caller that waits.
    pub fn wait(&mut self, id: &SlotId, more: bool) {
        let slot = self.slots.entry(id.clone()).or_default();
        slot.waiting = match more {
            true => slot.waiting + 1,
            false => slot.waiting.saturating_sub(1),
        };
    }

    /// Why no Pod of a function becomes ready.
    pub fn trouble(&self, id: &SlotId) -> Option<String> {
        let mut pods = self.pods.values().filter(|pod| pod.slot == *id);
        pods.find_map(|pod| pod.trouble.clone())
    }

    /// All that wait look again.
    pub fn wake(&self) {
        for slot in self.slots.values() {
            slot.changed.notify_waiters();
        }
    }

    /// Takes in what a router used.
    pub fn usage(&mut self, usage: &Usage, now: Instant) {
        self.routers.insert(usage.router.clone(), now);
        let by_address: HashMap<String, SlotId> = self
            .pods
            .values()
            .filter_map(|pod| Some((pod.address()?, pod.slot.clone())))
            .collect();
        let mut active: HashMap<&SlotId, usize> = HashMap::new();
        for one in &usage.instances {
            let Some(id) = by_address.get(&one.address) else {
                continue;
            };
            *active.entry(id).or_default() += one.active;
            let slot = self.slots.entry(id.clone()).or_default();
            let used = now.checked_sub(Duration::from_millis(one.idle_ms));
            slot.used = slot.used.max(used);
        }
        for (id, count) in active {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.active.insert(usage.router.clone(), (count, now));
            }
        }
    }

    /// How many instances a function is to have, if it may have none: 1 while it is used, 0 when
    /// it was idle for too long, none when that is not known.
    pub fn scale(&mut self, id: &SlotId, idle: Duration, now: Instant) -> Option<i32> {
        let fresh = |said: &Instant, limit| now.saturating_duration_since(*said) < limit;
        let blind = !self.routers.values().any(|said| fresh(said, BLIND));
        let slot = self.slots.entry(id.clone()).or_default();
        let used = *slot.used.get_or_insert(now);
        let busy = slot.waiting > 0
            || slot
                .active
                .values()
                .any(|(count, said)| *count > 0 && fresh(said, SILENT));
        if busy || now.saturating_duration_since(used) < idle {
            return Some(1);
        }
        (!blind).then_some(0)
    }

    /// True when somebody asked for an instance and waits.
    pub fn is_waited_for(&self, id: &SlotId) -> bool {
        self.slots.get(id).is_some_and(|slot| slot.waiting > 0)
    }

    /// Forgets functions that are gone.
    pub fn keep(&mut self, used: impl Fn(&SlotId) -> bool) {
        self.slots.retain(|id, slot| slot.waiting > 0 || used(id));
    }
}
