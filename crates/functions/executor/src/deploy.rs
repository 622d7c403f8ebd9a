//! Functions with a Deployment of their own: executor types newdeploy and container.
//!
//! Their objects are kept as the function says, and made again when somebody deletes them. One
//! that may have no instance gets its first when it is called: the caller is answered as soon as
//! a Pod says that it has its code, which is long before Kubernetes calls it Ready.

mod objects;
mod plan;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farplane_control::backoff;
use farplane_functions_types::ExecutorType;
use farplane_functions_types::names::{annotation, label, port};
use farplane_functions_types::wire::{Instance, Usage};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::backend::Backend;
use crate::engine::Engine;
use crate::failed::Failed;
use crate::fetcher::dial;
use crate::objects::{FIELD_MANAGER, Kind, Watched, is_code};
use crate::revision::Revision;
use crate::state::PodView;
use objects::{Objects, WRITTEN};
use plan::{Plan, Refusal, Wanted, not_taken};
use slots::{Deployed, Found, SlotId, Slots, slot_id};

/// Between two looks for what is idle.
const TICK: Duration = Duration::from_secs(1);
/// Changes that arrive together cause one look.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// First and longest pause between two questions to a Pod that starts.
const PROBE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// Everything is written again, whatever it says it is.
const REWRITE: Duration = Duration::from_secs(600);

/// Objects as they are.
pub(crate) struct Seen {
    pub deployments: Watched<Deployment>,
    pub services: Watched<Service>,
    pub scalers: Watched<HorizontalPodAutoscaler>,
}

/// Functions with a Deployment of their own.
pub(crate) struct Deployments {
    engine: Arc<Engine>,
    slots: Mutex<Slots>,
    /// Those whose objects cannot be made.
    refused: Mutex<HashMap<SlotId, Refusal>>,
    demand: Notify,
}

impl Backend for Deployments {
    fn instance<'a>(
        &'a self,
        revision: &'a Arc<Revision>,
        known: &'a [String],
    ) -> BoxFuture<'a, Result<Instance, Failed>> {
        Box::pin(self.find(revision, known))
    }

    fn usage(&self, usage: &Usage, now: Instant) {
        self.slots().usage(usage, now);
    }
}

/// A caller that goes away does not wait any more.
struct Waiting<'a>(&'a Deployments, SlotId);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.slots().wait(&self.1, false);
    }
}

impl Deployments {
    pub fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            slots: Mutex::default(),
            refused: Mutex::default(),
            demand: Notify::new(),
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<SlotId, Refusal>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn find(&self, revision: &Arc<Revision>, known: &[String]) -> Result<Instance, Failed> {
        let began = Instant::now();
        let id = slot_id(revision);
        let mut waiting = None;
        loop {
            let changed = match self.slots().find(revision, known, Instant::now()) {
                Found::Instance(mut instance) => {
                    if waiting.is_some() {
                        instance.cold = true;
                        self.engine
                            .metrics
                            .cold_start(&revision.key, began.elapsed());
                        self.engine.report(revision.key.clone(), None);
                        let total_ms = began.elapsed().as_secs_f64() * 1000.0;
                        tracing::info!(function = revision.key.name, total_ms, "cold start");
                    }
                    return Ok(instance);
                }
                Found::Known => {
                    let reason = "all instances that there are now are known to the caller";
                    let status = http::StatusCode::TOO_MANY_REQUESTS;
                    return Err(Failed::new(status, "executor", reason));
                }
                Found::Wait(changed) => changed,
            };
            let refused = self.refused().get(&id).cloned();
            if let Some(refused) = refused {
                return Err(refused.why);
            }
            let told = changed.notified();
            let mut told = pin!(told);
            told.as_mut().enable();
            if waiting.is_none() {
                self.slots().wait(&id, true);
                waiting = Some(Waiting(self, id.clone()));
                self.demand.notify_one();
                // It may have become ready before we listened.
                continue;
            }
            let left = revision.specialization.saturating_sub(began.elapsed());
            if tokio::time::timeout(left, told).await.is_err() {
                return Err(self.late(revision, &id));
            }
        }
    }

    fn late(&self, revision: &Revision, id: &SlotId) -> Failed {
        let seconds = revision.specialization.as_secs();
        let why = self
            .slots()
            .trouble(id)
            .unwrap_or_else(|| "see the log of its Pod".to_owned());
        let reason = format!("no Pod of the function was ready within {seconds} s: {why}");
        let failed = Failed::new(http::StatusCode::GATEWAY_TIMEOUT, "function", reason);
        self.engine
            .report(revision.key.clone(), Some(failed.clone()));
        failed
    }

    /// Watches the Pods of one executor type for as long as it is not dropped.
    pub async fn watch(self: Arc<Self>, executor: ExecutorType, listed: watch::Sender<bool>) {
        let selector = format!("{}={}", label::EXECUTOR_TYPE, executor.as_str());
        let api = Api::<Pod>::all(self.engine.client.clone());
        let config = watcher::Config::default().labels(&selector);
        let mut events = pin!(watcher(api, config).backoff(backoff::watch()));
        let mut listing = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(pod)) => self.observe(&pod, executor),
                Ok(Event::Delete(pod)) => self.slots().gone(&pod.uid().unwrap_or_default()),
                Ok(Event::Init) => listing.clear(),
                Ok(Event::InitApply(pod)) => {
                    listing.insert(pod.uid().unwrap_or_default());
                    self.observe(&pod, executor);
                }
                Ok(Event::InitDone) => {
                    let mut slots = self.slots();
                    for uid in slots.uids_of(executor) {
                        if !listing.contains(&uid) {
                            slots.gone(&uid);
                        }
                    }
                    listed.send_replace(true);
                }
                Err(error) => {
                    tracing::warn!(%error, "the watch of Pods failed, it is started again");
                }
            }
        }
    }

    fn observe(self: &Arc<Self>, pod: &Pod, executor: ExecutorType) {
        let view = PodView::read(pod);
        let label = |name: &str| pod.labels().get(name).cloned().unwrap_or_default();
        let hash = pod.annotations().get(annotation::CODE_HASH).cloned();
        let port = match executor {
            ExecutorType::Container => own_port(pod).unwrap_or(port::RUNTIME),
            _ => port::RUNTIME,
        };
        let deployed = Deployed {
            pod: view.reference(),
            slot: (label(label::FUNCTION_UID), label(label::FUNCTION_VERSION)),
            code_hash: hash.unwrap_or_default(),
            ending: view.ending,
            trouble: view.trouble.map(|trouble| trouble.words),
            port,
            ready: false,
            executor,
        };
        if self.slots().observe(deployed.clone()) {
            let this = self.clone();
            tokio::spawn(async move { this.probe(deployed, executor).await });
        }
    }

    /// Asks a Pod until it has its code and takes calls.
    async fn probe(self: Arc<Self>, pod: Deployed, executor: ExecutorType) {
        let (mut pause, longest) = PROBE;
        let began = Instant::now();
        let uid = &pod.pod.uid;
        // Nothing tells when a socket of another host begins to listen.
        while self.slots().is_coming(uid) {
            let ready = match (pod.pod.ip, executor) {
                (None, _) => false,
                (Some(ip), ExecutorType::Container) => dial(ip, pod.port).await.is_ok(),
                (Some(_), _) => self.engine.fetchers.is_loaded(&pod.pod).await,
            };
            if ready {
                tracing::debug!(pod = pod.pod.name, "ready");
                self.slots().ready(uid);
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
            if began.elapsed() > Duration::from_secs(60) {
                pause = Duration::from_secs(1);
            }
        }
    }

    /// Keeps the objects until it is dropped.
    pub async fn run(self: Arc<Self>, mut seen: Seen) {
        let mut functions = self.engine.world.functions.clone();
        let mut versions = self.engine.world.versions.clone();
        let mut packages = self.engine.world.packages.clone();
        let mut environments = self.engine.world.environments.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut written = HashMap::new();
        loop {
            self.look(&seen, &mut written).await;
            tokio::select! {
                () = functions.changed() => {}
                () = versions.changed() => {}
                () = packages.changed() => {}
                () = environments.changed() => {}
                () = seen.deployments.changed() => {}
                () = seen.services.changed() => {}
                () = seen.scalers.changed() => {}
                () = self.demand.notified() => {}
                _ = tick.tick() => {}
            }
            tokio::time::sleep(DEBOUNCE).await;
        }
    }

    async fn look(&self, seen: &Seen, written: &mut HashMap<SlotId, Instant>) {
        let Plan {
            wanted,
            kept,
            mut refused,
        } = self.plan();
        for want in &wanted {
            if let Err(error) = self.keep(want, seen, written).await {
                let (namespace, name) = (&want.objects.namespace, &want.objects.name);
                tracing::warn!(namespace, name, %error, "a function's objects could not be written");
                if let Some(why) = not_taken(&error) {
                    let key = want.key.clone();
                    refused.insert(want.id.clone(), Refusal { key, why });
                }
            }
        }
        self.refuse(refused);
        let names: HashSet<(&str, &str)> = wanted
            .iter()
            .map(|want| (want.objects.namespace.as_str(), want.objects.name.as_str()))
            .collect();
        let superfluous = |labels: &std::collections::BTreeMap<String, String>,
                           at: (&str, &str)| {
            let pooled = labels.get(label::EXECUTOR_TYPE).map(String::as_str)
                == Some(ExecutorType::Poolmgr.as_str());
            let uid = labels.get(label::FUNCTION_UID);
            !pooled && uid.is_some_and(|uid| !kept.contains(uid)) && !names.contains(&at)
        };
        self.sweep(&seen.deployments, superfluous).await;
        self.sweep(&seen.services, superfluous).await;
        self.sweep(&seen.scalers, superfluous).await;
        self.slots()
            .keep(|id| kept.contains(&id.0) || wanted.iter().any(|want| want.id == *id));
        written.retain(|id, _| wanted.iter().any(|want| want.id == *id));
    }

    /// Deletes what no function has any more.
    async fn sweep<K>(
        &self,
        seen: &Watched<K>,
        superfluous: impl Fn(&std::collections::BTreeMap<String, String>, (&str, &str)) -> bool,
    ) where
        K: Kind + Resource<Scope = NamespaceResourceScope>,
    {
        for object in seen.all() {
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            if object.meta().deletion_timestamp.is_some()
                || !superfluous(object.labels(), (&namespace, &name))
            {
                continue;
            }
            let api = Api::<K>::namespaced(self.engine.client.clone(), &namespace);
            match api.delete(&name, &DeleteParams::background()).await {
                Err(error) if !is_code(&error, 404) => {
                    tracing::warn!(namespace, name, %error, "could not delete");
                }
                _ => tracing::info!(namespace, name, kind = %K::kind(&()), "removed"),
            }
        }
    }

    /// Writes what is not as it should be of one function.
    async fn keep(
        &self,
        want: &Wanted,
        seen: &Seen,
        written: &mut HashMap<SlotId, Instant>,
    ) -> Result<(), kube::Error> {
        let Objects {
            namespace,
            name,
            min,
            max,
            deployment,
            service,
            scaler,
            port: _,
        } = &want.objects;
        let now = Instant::now();
        let stale = written
            .get(&want.id)
            .is_none_or(|at| now.saturating_duration_since(*at) >= REWRITE);
        let there = seen.deployments.get(namespace, name);
        let have = there.as_ref().and_then(|one| one.spec.replicas);
        let used = self.slots().scale(&want.id, want.idle, now);
        let replicas = replicas(have, *min, *max, used, self.slots().is_waited_for(&want.id));
        let right = !stale && have == Some(replicas) && is_written(there.as_deref(), deployment);
        if !right {
            self.engine.tenants.ensure(namespace).await?;
            let mut object = deployment.clone();
            object["spec"]["replicas"] = replicas.into();
            self.apply::<Deployment>(namespace, name, &object).await?;
            tracing::info!(namespace, name, replicas, "Deployment of a function");
        }
        if stale || !is_written(seen.services.get(namespace, name).as_deref(), service) {
            self.apply::<Service>(namespace, name, service).await?;
        }
        if stale || !is_written(seen.scalers.get(namespace, name).as_deref(), scaler) {
            self.apply::<HorizontalPodAutoscaler>(namespace, name, scaler)
                .await?;
        }
        if stale {
            written.insert(want.id.clone(), now);
        }
        Ok(())
    }

    async fn apply<K>(&self, namespace: &str, name: &str, object: &Value) -> Result<(), kube::Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Serialize,
    {
        let api = Api::<K>::namespaced(self.engine.client.clone(), namespace);
        let mut parameters = PatchParams::apply(FIELD_MANAGER).force();
        parameters.field_validation = Some(kube::api::ValidationDirective::Strict);
        api.patch(name, &parameters, &Patch::Apply(object)).await?;
        Ok(())
    }
}

/// True when an object is there and says what was written.
fn is_written<K: Resource>(there: Option<&K>, object: &Value) -> bool {
    there.is_some_and(|there| {
        let hash = there.annotations().get(WRITTEN).map(String::as_str);
        hash.is_some() && hash == object["metadata"]["annotations"][WRITTEN].as_str()
    })
}

/// How many Pods there are to be. The autoscaler's number stands while it is within bounds.
fn replicas(have: Option<i32>, min: i32, max: i32, used: Option<i32>, waited_for: bool) -> i32 {
    let have = have.unwrap_or(if waited_for { 1 } else { min });
    if min > 0 {
        return have.clamp(min, max);
    }
    match used {
        Some(0) => 0,
        // An idle function is not woken by looking at it.
        Some(_) if have == 0 && !waited_for => 0,
        Some(_) => have.clamp(1, max),
        None => have.clamp(0, max),
    }
}

fn own_port(pod: &Pod) -> Option<u16> {
    let containers = &pod.spec.as_ref()?.containers;
    let ports = containers
        .iter()
        .find_map(|one| one.ports.as_ref()?.first());
    u16::try_from(ports?.container_port).ok()
}
