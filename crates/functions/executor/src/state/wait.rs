//! Callers: who gets which Pod, and who waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::{Acquired, Answer, Effect, Grace, Phase, PodRef, State, instance};
use crate::failed::Failed;
use crate::revision::{Revision, RevisionId};

/// Most Pods that are made for callers that wait.
const MOST_MISSING: usize = 50;
/// A specialisation that breaks is tried with so many Pods.
const ATTEMPTS: u8 = 3;

/// A caller that waits.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub revision: Arc<Revision>,
    pub answer: Answer,
    pub since: Instant,
    /// Pods that broke on the way.
    pub attempts: u8,
}

/// A Pod that is to be given code.
#[derive(Debug)]
pub(crate) struct Job {
    pub pod: PodRef,
    pub waiter: Waiter,
}

impl State {
    /// Finds an instance beside those that the caller knows, or begins to make one. The answer
    /// goes to `answer` unless it is returned.
    pub fn acquire(
        &mut self,
        revision: &Arc<Revision>,
        known: &[String],
        answer: Answer,
        now: Instant,
    ) -> Acquired {
        let id = revision.id();
        self.groups.entry(id.clone()).or_default().revision = Some(revision.clone());
        if !revision.once_only
            && let Some(found) = self.another(&id, known, now)
        {
            return Acquired::Live(found);
        }
        let waiter = Waiter {
            revision: revision.clone(),
            answer,
            since: now,
            attempts: 0,
        };
        if self.free(&id, revision.concurrency) {
            if let Some(failed) = self.hopeless(&revision.environment) {
                return Acquired::Failed(failed);
            }
            let pool = self.pools.entry(revision.environment.clone()).or_default();
            pool.reserve.asked(now);
            return Acquired::Waiting(self.begin(waiter));
        }
        let Some(group) = self.groups.get_mut(&id) else {
            return Acquired::Failed(Failed::full(revision.concurrency));
        };
        if group.starting == 0 {
            return Acquired::Failed(Failed::full(revision.concurrency));
        }
        group.sharing.push(waiter);
        Acquired::Waiting(Vec::new())
    }

    fn another(
        &mut self,
        id: &RevisionId,
        known: &[String],
        now: Instant,
    ) -> Option<farplane_functions_types::wire::Instance> {
        let group = self.groups.get(id)?;
        let key = &group.revision.as_ref()?.key;
        for uid in &group.live {
            let Some(entry) = self.pods.get_mut(uid) else {
                continue;
            };
            let found = instance(&entry.view, key, false);
            let Phase::Live(live) = &mut entry.phase else {
                continue;
            };
            if live.draining.is_some() || known.contains(&found.address) {
                continue;
            }
            live.used = now;
            return Some(found);
        }
        None
    }

    /// True when one more instance may be made.
    fn free(&self, id: &RevisionId, limit: usize) -> bool {
        let taken = self
            .groups
            .get(id)
            .map_or(0, |group| group.live.len() + group.starting);
        taken < limit
    }

    /// Reserves an instance for a caller and takes a Pod, or queues for one.
    fn begin(&mut self, waiter: Waiter) -> Vec<Effect> {
        let id = waiter.revision.id();
        let environment = waiter.revision.environment.clone();
        self.groups.entry(id).or_default().starting += 1;
        let pool = self.pools.entry(environment.clone()).or_default();
        pool.queue.push_back(waiter);
        self.grant(&environment)
    }

    /// Gives ready Pods to those that wait, in the order in which they came.
    pub(super) fn grant(&mut self, environment: &str) -> Vec<Effect> {
        let mut effects = Vec::new();
        loop {
            let Some(pool) = self.pools.get_mut(environment) else {
                return effects;
            };
            if pool.ready.is_empty() {
                return effects;
            }
            let Some(waiter) = pool.queue.pop_front() else {
                return effects;
            };
            if waiter.answer.is_closed() {
                effects.extend(self.release(&waiter.revision.id()));
                continue;
            }
            let Some((_, uid)) = pool.ready.pop_first() else {
                return effects;
            };
            let Some(entry) = self.pods.get_mut(&uid) else {
                pool.queue.push_front(waiter);
                continue;
            };
            entry.phase = Phase::Claimed(waiter.revision.id());
            let pod = entry.view.reference();
            effects.push(Effect::Specialize(Job { pod, waiter }));
        }
    }

    /// One instance less is being made.
    fn release(&mut self, id: &RevisionId) -> Vec<Effect> {
        if let Some(group) = self.groups.get_mut(id) {
            group.starting = group.starting.saturating_sub(1);
        }
        self.room(id)
    }

    /// There is room for another instance: callers that shared may have their own.
    pub(super) fn room(&mut self, id: &RevisionId) -> Vec<Effect> {
        let mut effects = Vec::new();
        loop {
            let Some(group) = self.groups.get_mut(id) else {
                return effects;
            };
            let Some(limit) = group.revision.as_ref().map(|one| one.concurrency) else {
                return effects;
            };
            group.sharing.retain(|waiter| !waiter.answer.is_closed());
            if group.live.len() + group.starting >= limit || group.sharing.is_empty() {
                return effects;
            }
            let waiter = group.sharing.remove(0);
            effects.extend(self.begin(waiter));
        }
    }

    /// A Pod broke while it was specialised: its caller gets another one.
    pub fn broken(&mut self, uid: &str, mut waiter: Waiter, failed: Failed) -> Vec<Effect> {
        waiter.attempts += 1;
        if waiter.attempts >= ATTEMPTS {
            let effects = self.failed(uid, &waiter.revision.id(), &failed);
            _ = waiter.answer.send(Err(failed));
            return effects;
        }
        // The reservation is still held.
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.phase = Phase::Ending;
        }
        let environment = waiter.revision.environment.clone();
        let pool = self.pools.entry(environment.clone()).or_default();
        pool.queue.push_front(waiter);
        self.grant(&environment)
    }

    /// Forgets callers that went away.
    pub fn prune(&mut self, environment: &str) -> Vec<Effect> {
        let Some(pool) = self.pools.get_mut(environment) else {
            return Vec::new();
        };
        let (closed, open): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut pool.queue)
            .into_iter()
            .partition(|waiter| waiter.answer.is_closed());
        pool.queue = open;
        let mut effects = Vec::new();
        for waiter in closed {
            effects.extend(self.release(&waiter.revision.id()));
        }
        effects
    }

    /// Callers that wait for a Pod of an environment.
    pub fn waiting(&self, environment: &str) -> usize {
        let pool = self.pools.get(environment);
        pool.map_or(0, |pool| pool.queue.len())
    }

    /// Pods of an environment that wait for code.
    pub fn ready(&self, environment: &str) -> usize {
        let pool = self.pools.get(environment);
        pool.map_or(0, |pool| pool.ready.len())
    }

    /// Pods that callers wait for and that nobody makes, where a pool has `size` Pods: not those
    /// that are on their way, nor those by which the pool's Deployment fills it again.
    pub fn missing(&self, environment: &str, size: usize) -> usize {
        let waiting = self.waiting(environment).min(MOST_MISSING);
        if waiting == 0 {
            return 0;
        }
        let (mut coming, mut pooled) = (0, 0);
        for entry in self.pods.values() {
            if entry.view.environment != environment {
                continue;
            }
            let is_coming = matches!(entry.phase, Phase::Coming) && entry.view.labels.is_none();
            let hopeless = entry.view.trouble.as_ref().is_some_and(|it| it.lasting);
            coming += usize::from(is_coming && !hopeless);
            let is_ending = matches!(entry.phase, Phase::Ending);
            pooled += usize::from(entry.view.pooled && !is_ending);
        }
        waiting.saturating_sub(coming + size.saturating_sub(pooled))
    }

    /// Ends Pods that no pool counts, where `size` Pods are to be ready: those that nobody took, and
    /// those that will never be ready.
    pub fn shed(&mut self, environment: &str, size: usize) -> Vec<Effect> {
        let mut surplus = self.ready(environment).saturating_sub(size);
        let mut effects = Vec::new();
        for entry in self.pods.values_mut() {
            let view = &entry.view;
            if !view.is_extra(environment) {
                continue;
            }
            let hopeless = view.trouble.as_ref().is_some_and(|it| it.lasting);
            match entry.phase {
                Phase::Ready if surplus > 0 => surplus -= 1,
                Phase::Coming if hopeless => {}
                _ => continue,
            }
            entry.phase = Phase::Ending;
            let why = "nobody waits for it any more";
            effects.push(Effect::Delete(view.reference(), why, Grace::None));
        }
        if let Some(pool) = self.pools.get_mut(environment) {
            let pods = &self.pods;
            pool.ready.retain(|(_, uid)| {
                let entry = pods.get(uid);
                entry.is_some_and(|entry| matches!(entry.phase, Phase::Ready))
            });
        }
        effects
    }

    /// True when a pool's Deployment counts a Pod.
    pub fn is_pooled(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|entry| entry.view.pooled)
    }

    /// Why no Pod of an environment will become ready soon; none while one may.
    pub fn hopeless(&self, environment: &str) -> Option<Failed> {
        if let Some(why) = self.refused.get(environment) {
            let reason = format!("the environment cannot have Pods: {why}");
            return Some(Failed::wrong("environment", reason));
        }
        if self.ready(environment) > 0 {
            return None;
        }
        let coming = self.pods.values().filter(|entry| {
            entry.view.environment == environment && matches!(entry.phase, Phase::Coming)
        });
        let mut words = None;
        for entry in coming {
            match &entry.view.trouble {
                Some(trouble) if trouble.lasting => words = Some(&trouble.words),
                _ => return None,
            }
        }
        words.map(|words| Failed::wrong("environment", words.clone()))
    }

    /// What keeps Pods of an environment from becoming ready, for those that waited in vain.
    pub fn trouble(&self, environment: &str) -> Option<String> {
        let coming = self.pods.values().filter(|entry| {
            entry.view.environment == environment && matches!(entry.phase, Phase::Coming)
        });
        coming
            .filter_map(|entry| entry.view.trouble.as_ref())
            .map(|trouble| trouble.words.clone())
            .next()
    }

    /// Notes why an environment cannot have Pods, or that it can.
    pub fn refuse(&mut self, environment: &str, why: Option<String>) {
        let Some(why) = why else {
            self.refused.remove(environment);
            return;
        };
        self.refused.insert(environment.to_owned(), why);
        self.fail_waiting(environment);
    }

    /// Answers those that wait when nothing will come of it.
    pub(super) fn fail_hopeless(&mut self, uid: &str) {
        let troubled = self
            .pods
            .get(uid)
            .filter(|entry| entry.view.trouble.is_some());
        if let Some(entry) = troubled {
            let environment = entry.view.environment.clone();
            self.fail_waiting(&environment);
        }
    }

    fn fail_waiting(&mut self, environment: &str) {
        if self.waiting(environment) == 0 {
            return;
        }
        let Some(failed) = self.hopeless(environment) else {
            return;
        };
        let Some(pool) = self.pools.get_mut(environment) else {
            return;
        };
        for waiter in std::mem::take(&mut pool.queue) {
            self.give_up(&waiter.revision.id(), &failed);
            _ = waiter.answer.send(Err(failed.clone()));
        }
    }
}
