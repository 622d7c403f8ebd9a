//! Which instances are not needed any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farplane_functions_types::wire::{FunctionKey, Usage};
use serde::Serialize;

use super::{Effect, Grace, Labels, Phase, State};
use crate::provision::Floor;
use crate::revision::{Revision, RevisionId};

/// A router that said nothing for so long counts for nothing.
const SILENT: Duration = Duration::from_secs(60);
/// Without word from any router for so long, nothing is known of what is used.
const BLIND: Duration = Duration::from_secs(20);
/// An instance that gets no new calls is deleted after so long, whatever routers say: what
/// still runs there may end during the Pod's grace period.
const DRAIN: Duration = Duration::from_secs(15);

/// What is told at `/v2/debugInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    pub coming: usize,
    pub ready: usize,
    pub claimed: usize,
    pub live: usize,
    pub ending: usize,
    pub waiting: usize,
}

impl State {
    /// Takes in what a router used.
    pub fn usage(&mut self, usage: &Usage, now: Instant) -> Vec<Effect> {
        let router = &usage.router;
        self.routers.insert(router.clone(), now);
        let mut spent = Vec::new();
        for one in &usage.instances {
            let uid = self.addresses.get(&one.address);
            let Some((uid, entry)) = uid.and_then(|uid| Some((uid, self.pods.get_mut(uid)?)))
            else {
                continue;
            };
            let Phase::Live(live) = &mut entry.phase else {
                continue;
            };
            let idle = Duration::from_millis(one.idle_ms);
            let used = now.checked_sub(idle).unwrap_or(live.used);
            live.used = live.used.max(used);
            live.active.insert(router.clone(), (one.active, now));
            let once = self
                .groups
                .get(&live.id)
                .and_then(|group| group.revision.as_ref())
                .is_some_and(|revision| revision.once_only);
            if once && one.active == 0 {
                spent.push(uid.clone());
            }
        }
        self.end(&spent, "its one call is over")
    }

    /// An instance was used, by somebody who does not count calls.
    pub fn tap(&mut self, address: &str, now: Instant) {
        let Some(uid) = self.addresses.get(address) else {
            return;
        };
        if let Some(entry) = self.pods.get_mut(uid)
            && let Phase::Live(live) = &mut entry.phase
        {
            live.used = now;
        }
        self.routers.insert("tap".to_owned(), now);
    }

    fn end(&mut self, uids: &[String], why: &'static str) -> Vec<Effect> {
        let mut effects = Vec::new();
        for uid in uids {
            if let Some(entry) = self.pods.get(uid) {
                effects.push(Effect::Delete(entry.view.reference(), why, Grace::Own));
            }
            effects.extend(self.leave(uid));
        }
        effects
    }

    /// Ends what has been idle for too long or is outdated.
    pub fn reap(&mut self, now: Instant) -> Vec<Effect> {
        self.routers
            .retain(|_, said| now.saturating_duration_since(*said) < SILENT);
        let blind = !self
            .routers
            .values()
            .any(|said| now.saturating_duration_since(*said) < BLIND);
        let mut effects = Vec::new();
        let ids: Vec<RevisionId> = self.groups.keys().cloned().collect();
        for id in ids {
            let drained = self.drained(&id, now);
            effects.extend(self.end(&drained, "its function has changed"));
            if !blind {
                let idle = self.idle(&id, now);
                effects.extend(self.end(&idle, "it was idle"));
            }
            let empty = self.groups.get(&id).is_some_and(|group| {
                group.live.is_empty() && group.starting == 0 && group.sharing.is_empty()
            });
            if empty {
                self.groups.remove(&id);
            }
        }
        effects
    }

    fn drained(&self, id: &RevisionId, now: Instant) -> Vec<String> {
        let Some(group) = self.groups.get(id) else {
            return Vec::new();
        };
        let over = |uid: &&String| {
            let Some(Phase::Live(live)) = self.pods.get(*uid).map(|entry| &entry.phase) else {
                return false;
            };
            let Some(since) = live.draining else {
                return false;
            };
            let heard = !live.active.is_empty()
                && live
                    .active
                    .values()
                    .all(|(active, said)| *active == 0 && *said > since);
            heard || now.saturating_duration_since(since) >= DRAIN
        };
        group.live.iter().filter(over).cloned().collect()
    }

    fn idle(&self, id: &RevisionId, now: Instant) -> Vec<String> {
        let Some((group, revision)) = self
            .groups
            .get(id)
            .and_then(|group| Some((group, group.revision.as_ref()?)))
        else {
            return Vec::new();
        };
        let mut unused: Vec<(Instant, &String)> = group
            .live
            .iter()
            .filter_map(|uid| match &self.pods.get(uid)?.phase {
                Phase::Live(live) if live.draining.is_none() && !self.is_active(live) => {
                    Some((live.used, uid))
                }
                _ => None,
            })
            .collect();
        unused.sort();
        let keep = revision
            .retain
            .max(self.floor(id).map_or(0, |floor| floor.target));
        let spare = group.live.len().saturating_sub(keep);
        unused
            .into_iter()
            .filter(|(used, _)| now.saturating_duration_since(*used) >= revision.idle)
            .take(spare)
            .map(|(_, uid)| uid.clone())
            .collect()
    }

    /// Takes how many instances are kept ready. True when that is other than before.
    pub fn set_floors(&mut self, floors: HashMap<RevisionId, Floor>) -> bool {
        let moved = self.floors != floors;
        self.floors = floors;
        moved
    }

    /// How many instances of a revision are kept ready.
    pub fn floor(&self, id: &RevisionId) -> Option<&Floor> {
        self.floors.get(id)
    }

    /// Some router that is still heard of said that calls run there.
    fn is_active(&self, live: &super::Live) -> bool {
        live.active
            .iter()
            .any(|(router, (active, _))| *active > 0 && self.routers.contains_key(router))
    }

    /// Functions that have instances, with what those are made of.
    pub fn revisions(&self) -> Vec<(RevisionId, FunctionKey)> {
        let key = |group: &super::Group| {
            let live = group
                .live
                .iter()
                .find_map(|uid| match &self.pods.get(uid)?.phase {
                    Phase::Live(live) => Some(live.key.clone()),
                    _ => None,
                });
            live.or_else(|| Some(group.revision.as_ref()?.key.clone()))
        };
        self.groups
            .iter()
            .filter_map(|(id, group)| Some((id.clone(), key(group)?)))
            .collect()
    }

    /// Takes in that a revision is what its function is now (`current`), or that it is not.
    pub fn refresh(
        &mut self,
        id: &RevisionId,
        current: Option<&Arc<Revision>>,
        now: Instant,
    ) -> Vec<Effect> {
        let Some(group) = self.groups.get_mut(id) else {
            return Vec::new();
        };
        if let Some(current) = current {
            group.revision = Some(current.clone());
        }
        let mut effects = Vec::new();
        for uid in &group.live {
            let Some(entry) = self.pods.get_mut(uid) else {
                continue;
            };
            let reference = entry.view.reference();
            let Phase::Live(live) = &mut entry.phase else {
                continue;
            };
            let changed = match current {
                Some(current) => {
                    let changed = live.draining.is_some() || live.key != current.key;
                    live.key = current.key.clone();
                    live.draining = None;
                    changed
                }
                None => {
                    let changed = live.draining.is_none();
                    live.draining.get_or_insert(now);
                    changed
                }
            };
            if changed {
                let labels = Labels {
                    key: live.key.clone(),
                    code_hash: id.code_hash.clone(),
                    served: current.is_some(),
                };
                effects.push(Effect::Label(reference, labels));
            }
        }
        effects
    }

    /// Numbers for people.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary {
            waiting: self.pools.values().map(|pool| pool.queue.len()).sum(),
            ..Summary::default()
        };
        for entry in self.pods.values() {
            let count = match entry.phase {
                Phase::Coming => &mut summary.coming,
                Phase::Ready => &mut summary.ready,
                Phase::Claimed(_) => &mut summary.claimed,
                Phase::Live(_) => &mut summary.live,
                Phase::Ending => &mut summary.ending,
            };
            *count += 1;
        }
        summary
    }
}
