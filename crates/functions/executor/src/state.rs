//! Which Pods there are and what each is for. Pure: no IO, no clock; every change returns what
//! is to be done as [`Effect`]s.
//!
//! ```text
//!  Coming ──probed──▶ Ready ──claimed──▶ Claimed ──specialised──▶ Live ──idle, outdated──▶ Ending
//!    │                                      └──────failed──────────────────────────────────▲
//!    └── has code already (adopted) ──────────────────────────────▶ Live                    │
//!                                                        deleted by others, code lost ──────┘
//! ```
//! Promises: a Pod is claimed once; of a revision there are never more than `concurrency`
//! instances, those that are being made and those that callers wait for included; callers of a
//! pool are served in the order in which they came.

mod reap;
mod reserve;
#[cfg(test)]
mod tests;
mod view;
mod wait;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use farplane_functions_types::ObjectReference;
use farplane_functions_types::names::port;
use farplane_functions_types::wire::{FetcherState, FunctionKey, Instance};
use tokio::sync::oneshot;

use crate::failed::Failed;
use crate::provision::Floor;
use crate::revision::{Revision, RevisionId};

pub(crate) use reap::Summary;
pub(crate) use view::{PodRef, PodView};
pub(crate) use wait::{Job, Waiter};

/// Answer for a caller that waits.
pub(crate) type Answer = oneshot::Sender<Result<Instance, Failed>>;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Connect to a Pod and ask its fetcher what it is.
    Probe(PodRef),
    /// Specialise a Pod.
    Specialize(Job),
    /// Delete a Pod; the text is why.
    Delete(PodRef, &'static str, Grace),
    /// Write what an instance is into its labels.
    Label(PodRef, Labels),
    /// An instance ended by itself; tell it in the function's status.
    Lost(FunctionKey, Failed),
}

/// How long a Pod that is deleted may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grace {
    /// Its own grace period: calls may run there.
    Own,
    /// Nobody calls it.
    None,
}

/// What an instance's labels say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Labels {
    pub key: FunctionKey,
    pub code_hash: String,
    pub served: bool,
}

/// What a caller gets at once.
#[derive(Debug)]
pub(crate) enum Acquired {
    Live(Instance),
    /// The answer comes later.
    Waiting(Vec<Effect>),
    Failed(Failed),
}

#[derive(Debug)]
enum Phase {
    Coming,
    Ready,
    Claimed(RevisionId),
    Live(Live),
    Ending,
}

#[derive(Debug)]
struct Live {
    id: RevisionId,
    key: FunctionKey,
    /// Gets no new calls.
    draining: Option<Instant>,
    used: Instant,
    /// Calls that run, as each router said last, and when.
    active: HashMap<String, (usize, Instant)>,
    /// Restarts of the runtime when it got its code.
    restarts: i32,
}

#[derive(Debug)]
struct Entry {
    view: PodView,
    phase: Phase,
    probing: bool,
}

/// Pods of one environment that have no code yet.
#[derive(Debug, Default)]
struct Pool {
    /// In the order in which they became ready.
    ready: BTreeSet<(u64, String)>,
    queue: VecDeque<Waiter>,
    reserve: reserve::Reserve,
}

/// Instances of one revision.
#[derive(Debug, Default)]
struct Group {
    revision: Option<Arc<Revision>>,
    live: Vec<String>,
    /// Being made, or waited for at the pool.
    starting: usize,
    /// Callers that wait for one that is being made.
    sharing: Vec<Waiter>,
}

/// Which Pods there are and what each is for.
#[derive(Debug, Default)]
pub(crate) struct State {
    pods: HashMap<String, Entry>,
    addresses: HashMap<String, String>,
    pools: HashMap<String, Pool>,
    groups: HashMap<RevisionId, Group>,
    routers: HashMap<String, Instant>,
    /// Instances that are kept ready.
    floors: HashMap<RevisionId, Floor>,
    /// Environments that cannot have Pods, and why.
    refused: HashMap<String, String>,
    sequence: u64,
}

fn address(view: &PodView) -> Option<String> {
    view.ip.map(|ip| match ip {
        std::net::IpAddr::V4(ip) => format!("{ip}:{}", port::RUNTIME),
        std::net::IpAddr::V6(ip) => format!("[{ip}]:{}", port::RUNTIME),
    })
}

fn instance(view: &PodView, key: &FunctionKey, cold: bool) -> Instance {
    Instance {
        address: address(view).unwrap_or_default(),
        pod: Some(ObjectReference {
            namespace: view.namespace.clone(),
            name: view.name.clone(),
        }),
        function: key.clone(),
        cold,
    }
}

impl State {
    /// Takes in what the API says of a Pod.
    pub fn observe(&mut self, view: PodView, now: Instant) -> Vec<Effect> {
        let uid = view.uid.clone();
        if view.ending {
            return self.ends(view);
        }
        if let Some(address) = address(&view) {
            self.addresses.insert(address, uid.clone());
        }
        let Some(entry) = self.pods.get_mut(&uid) else {
            return self.appear(view, now);
        };
        let restarted = view.restarts > entry.view.restarts;
        entry.view = view;
        let mut effects = Vec::new();
        match &entry.phase {
            Phase::Live(live) if entry.view.restarts > live.restarts => {
                let failed = Failed::wrong("function", entry.view.lost_words());
                effects.push(Effect::Lost(live.key.clone(), failed));
                effects.push(Effect::Delete(
                    entry.view.reference(),
                    "its runtime was restarted",
                    Grace::Own,
                ));
                effects.extend(self.leave(&uid));
            }
            Phase::Ready if restarted => {
                entry.phase = Phase::Coming;
                entry.probing = true;
                effects.push(Effect::Probe(entry.view.reference()));
                let environment = entry.view.environment.clone();
                if let Some(pool) = self.pools.get_mut(&environment) {
                    pool.ready.retain(|(_, ready)| *ready != uid);
                }
            }
            Phase::Coming => effects.extend(self.probe(&uid)),
            _ => {}
        }
        self.fail_hopeless(&uid);
        effects
    }

    /// A Pod that the API does not have any more.
    pub fn gone(&mut self, uid: &str) -> Vec<Effect> {
        let effects = self.leave(uid);
        if let Some(entry) = self.pods.remove(uid)
            && let Some(address) = address(&entry.view)
            && self.addresses.get(&address).is_some_and(|of| of == uid)
        {
            self.addresses.remove(&address);
        }
        effects
    }

    /// UIDs of all Pods.
    pub fn uids(&self) -> Vec<String> {
        self.pods.keys().cloned().collect()
    }

    fn appear(&mut self, view: PodView, now: Instant) -> Vec<Effect> {
        let uid = view.uid.clone();
        let served = view.labels.clone().filter(|labels| labels.served);
        let entry = Entry {
            phase: Phase::Coming,
            probing: false,
            view,
        };
        self.pods.insert(uid.clone(), entry);
        match served {
            Some(labels) => {
                self.settle(&uid, labels.key, labels.code_hash, now);
                Vec::new()
            }
            None => self.probe(&uid),
        }
    }

    fn probe(&mut self, uid: &str) -> Vec<Effect> {
        match self.pods.get_mut(uid) {
            Some(entry) if entry.view.ip.is_some() && !entry.probing => {
                entry.probing = true;
                vec![Effect::Probe(entry.view.reference())]
            }
            _ => Vec::new(),
        }
    }

    fn ends(&mut self, view: PodView) -> Vec<Effect> {
        let uid = view.uid.clone();
        if !self.is_known(&uid) {
            // Counts for nothing, but a later event must not take it for new.
            let entry = Entry {
                view,
                phase: Phase::Ending,
                probing: false,
            };
            self.pods.insert(uid, entry);
            return Vec::new();
        }
        let generic = self
            .pods
            .get(&uid)
            .is_some_and(|entry| matches!(entry.phase, Phase::Coming | Phase::Ready));
        let mut effects = self.leave(&uid);
        if generic && view.labels.is_none() {
            // A runtime that was told to end before it could hear would stay for all its time.
            let why = "it ends, and never got code";
            effects.push(Effect::Delete(view.reference(), why, Grace::None));
        }
        if let Some(entry) = self.pods.get_mut(&uid) {
            entry.view = view;
        }
        effects
    }

    /// Takes a Pod out of everything. A claimed one stays its job's until that ends.
    fn leave(&mut self, uid: &str) -> Vec<Effect> {
        let Some(entry) = self.pods.get_mut(uid) else {
            return Vec::new();
        };
        if matches!(entry.phase, Phase::Claimed(_)) {
            entry.view.ending = true;
            return Vec::new();
        }
        let phase = std::mem::replace(&mut entry.phase, Phase::Ending);
        let environment = entry.view.environment.clone();
        match phase {
            Phase::Ready => {
                if let Some(pool) = self.pools.get_mut(&environment) {
                    pool.ready.retain(|(_, ready)| ready != uid);
                }
                Vec::new()
            }
            Phase::Live(live) => {
                if let Some(group) = self.groups.get_mut(&live.id) {
                    group.live.retain(|other| other != uid);
                }
                self.room(&live.id)
            }
            Phase::Coming | Phase::Claimed(_) | Phase::Ending => Vec::new(),
        }
    }

    /// What a Pod's fetcher says. `current` is the code that its function has now.
    pub fn probed(
        &mut self,
        uid: &str,
        said: &FetcherState,
        current: Option<&Arc<Revision>>,
        now: Instant,
    ) -> Vec<Effect> {
        let Some(entry) = self.pods.get_mut(uid) else {
            return Vec::new();
        };
        entry.probing = false;
        if !matches!(entry.phase, Phase::Coming) {
            return Vec::new();
        }
        let reference = entry.view.reference();
        if !said.begun && said.function.is_none() {
            if entry.view.labels.is_some() {
                // Named for a function that it never got.
                entry.phase = Phase::Ending;
                let why = "it was never given its code";
                return vec![Effect::Delete(reference, why, Grace::None)];
            }
            entry.phase = Phase::Ready;
            self.sequence += 1;
            let ready = (self.sequence, uid.to_owned());
            let environment = entry.view.environment.clone();
            self.pools
                .entry(environment.clone())
                .or_default()
                .ready
                .insert(ready);
            return self.grant(&environment);
        }
        let labelled = entry.view.labels.clone();
        let Some(key) = said.function.clone() else {
            entry.phase = Phase::Ending;
            let why = "its specialisation was not finished";
            return vec![Effect::Delete(reference, why, Grace::None)];
        };
        let code_hash = match (labelled, current) {
            (Some(labels), _) if labels.key == key => labels.code_hash,
            (_, Some(current)) if current.key == key => current.code_hash.clone(),
            _ => {
                entry.phase = Phase::Ending;
                let why = "its function has changed since";
                return vec![Effect::Delete(reference, why, Grace::Own)];
            }
        };
        self.settle(uid, key.clone(), code_hash.clone(), now);
        let served = true;
        vec![Effect::Label(
            reference,
            Labels {
                key,
                code_hash,
                served,
            },
        )]
    }

    fn settle(&mut self, uid: &str, key: FunctionKey, code_hash: String, now: Instant) {
        let id = RevisionId {
            uid: key.uid.clone(),
            version: key.version.clone(),
            code_hash,
        };
        let Some(entry) = self.pods.get_mut(uid) else {
            return;
        };
        entry.phase = Phase::Live(Live {
            id: id.clone(),
            key,
            draining: None,
            used: now,
            active: HashMap::new(),
            restarts: entry.view.restarts,
        });
        let group = self.groups.entry(id).or_default();
        group.live.push(uid.to_owned());
    }

    /// A claimed Pod has its code now. None when it was deleted meanwhile: it broke.
    pub fn specialised(
        &mut self,
        uid: &str,
        revision: &Arc<Revision>,
        now: Instant,
    ) -> Option<Instance> {
        let entry = self.pods.get_mut(uid)?;
        let Phase::Claimed(id) = &entry.phase else {
            return None;
        };
        if entry.view.ending {
            return None;
        }
        let id = id.clone();
        if let Some(group) = self.groups.get_mut(&id) {
            group.starting = group.starting.saturating_sub(1);
        }
        let mut made = instance(&entry.view, &revision.key, true);
        self.settle(uid, revision.key.clone(), id.code_hash.clone(), now);
        let cold = made.clone();
        made.cold = false;
        let sharing = self
            .groups
            .get_mut(&id)
            .map(|group| std::mem::take(&mut group.sharing))
            .unwrap_or_default();
        for waiter in sharing {
            _ = waiter.answer.send(Ok(made.clone()));
        }
        Some(cold)
    }

    /// A claimed Pod could not be specialised, and another one would not do better.
    pub fn failed(&mut self, uid: &str, id: &RevisionId, failed: &Failed) -> Vec<Effect> {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.phase = Phase::Ending;
        }
        self.give_up(id, failed);
        self.room(id)
    }

    /// A reservation ends without an instance; those that shared it get the same answer.
    fn give_up(&mut self, id: &RevisionId, failed: &Failed) {
        let Some(group) = self.groups.get_mut(id) else {
            return;
        };
        group.starting = group.starting.saturating_sub(1);
        if group.starting == 0 {
            for waiter in std::mem::take(&mut group.sharing) {
                _ = waiter.answer.send(Err(failed.clone()));
            }
        }
    }
}

impl State {
    /// True while it is not known what a Pod is.
    pub fn is_coming(&self, uid: &str) -> bool {
        let entry = self.pods.get(uid);
        entry.is_some_and(|entry| matches!(entry.phase, Phase::Coming))
    }

    /// True while the API has a Pod.
    pub fn is_known(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// Pods that are being asked what they are.
    pub fn probing(&self) -> usize {
        self.pods.values().filter(|entry| entry.probing).count()
    }

    /// Instances of a revision, with those that are being made.
    pub fn count(&self, id: &RevisionId) -> usize {
        let group = self.groups.get(id);
        group.map_or(0, |group| group.live.len() + group.starting)
    }

    /// Instances of a revision that have their code.
    pub fn live(&self, id: &RevisionId) -> usize {
        self.groups.get(id).map_or(0, |group| group.live.len())
    }

    /// Addresses of a function's instances.
    pub fn addresses(&self, function: &str) -> Vec<String> {
        self.pods
            .values()
            .filter(|entry| matches!(&entry.phase, Phase::Live(live) if live.id.uid == function))
            .filter_map(|entry| address(&entry.view))
            .collect()
    }
}
