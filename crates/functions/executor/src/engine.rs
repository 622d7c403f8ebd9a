//! Does what the state says: probes, specialises, labels and deletes Pods.
//!
//! Nothing is read from or written to the API server between a request and its answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farplane_functions_types::ExecutorType;
use farplane_functions_types::names::{annotation, label, port};
use farplane_functions_types::wire::{FunctionKey, Instance};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::failed::Failed;
use crate::fetcher::{CallError, Fetchers, dial};
use crate::metrics::Metrics;
use crate::objects::is_code;
use crate::revision::Revision;
use crate::settings::Settings;
use crate::state::{Acquired, Effect, Grace, Job, Labels, PodRef, State};
use crate::tenants::Tenants;
use crate::world::World;

/// A specialisation that takes longer has its Pod replaced in the pool meanwhile. Before, the
/// processors are better used for the specialisation itself.
const PATIENCE: Duration = Duration::from_millis(50);
/// First and longest pause between two tries to connect to a Pod that starts.
const PROBE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// How long a Pod that was taken stays its pool's while callers wait for others.
const CROWDED: Duration = Duration::from_secs(3);
/// A specialisation that another executor began may still end well.
const UNFINISHED: Duration = Duration::from_secs(20);
/// Longest pause after a write failed.
const LONGEST: Duration = Duration::from_secs(10);
/// A Pod that never got code, or whose code does not load, has no calls to finish.
const AT_ONCE: u32 = 1;

/// Word of an outcome, for the function's status.
pub(crate) type Report = (FunctionKey, Option<Failed>);

/// What all parts share.
pub(crate) struct Engine {
    pub client: Client,
    pub settings: Settings,
    pub world: World,
    pub tenants: Tenants,
    pub metrics: Metrics,
    pub fetchers: Fetchers,
    state: Mutex<State>,
    /// Somebody waits for a pool, or nobody does any more.
    pub demand: Notify,
    /// Functions ask for more instances that are kept ready, or for fewer.
    pub moved: Notify,
    /// Callers may have what they waited for.
    settled: Notify,
    /// Outcomes, for statuses of functions.
    reports: mpsc::UnboundedSender<Report>,
    pub tasks: TaskTracker,
}

/// A caller that goes away gives its place back.
struct Place<'a> {
    engine: &'a Arc<Engine>,
    environment: &'a str,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let effects = self.engine.state().prune(self.environment);
        self.engine.run(effects);
        self.engine.demand.notify_one();
        self.engine.settled.notify_waiters();
    }
}

impl Engine {
    pub fn new(
        client: Client,
        settings: Settings,
        world: World,
        metrics: Metrics,
        reports: mpsc::UnboundedSender<Report>,
    ) -> Self {
        Self {
            tenants: Tenants::new(
                client.clone(),
                settings.secret.clone(),
                settings.namespace.clone(),
            ),
            fetchers: Fetchers::new(settings.secret.clone()),
            client,
            settings,
            world,
            metrics,
            state: Mutex::default(),
            demand: Notify::new(),
            moved: Notify::new(),
            settled: Notify::new(),
            reports,
            tasks: TaskTracker::new(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an outcome for the function's status.
    pub fn report(&self, key: FunctionKey, failed: Option<Failed>) {
        // Fails only when everything ends.
        _ = self.reports.send((key, failed));
    }

    /// True when a function's instances are Pods of pools.
    pub fn is_pooled(&self, key: &FunctionKey) -> bool {
        let revision = self.world.current(key);
        revision.is_ok_and(|revision| revision.executor == ExecutorType::Poolmgr)
    }

    /// An instance beside those that the caller knows.
    pub async fn instance(
        self: &Arc<Self>,
        revision: &Arc<Revision>,
        known: &[String],
    ) -> Result<Instance, Failed> {
        let (answer, mut answered) = oneshot::channel();
        let acquired = self
            .state()
            .acquire(revision, known, answer, Instant::now());
        match acquired {
            Acquired::Live(instance) => return Ok(instance),
            Acquired::Failed(failed) => return Err(failed),
            Acquired::Waiting(effects) => self.run(effects),
        }
        let environment = revision.environment.as_str();
        if self.state().waiting(environment) > 0 {
            self.demand.notify_one();
        }
        let place = Place {
            engine: self,
            environment,
        };
        let outcome = tokio::time::timeout(revision.specialization, &mut answered).await;
        drop(answered);
        drop(place);
        match outcome {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Failed::later("executor", "the executor is shutting down")),
            Err(_) => Err(self.late(revision)),
        }
    }

    fn late(&self, revision: &Revision) -> Failed {
        let seconds = revision.specialization.as_secs();
        let why = self
            .state()
            .trouble(&revision.environment)
            .unwrap_or_else(|| "its Pods did not become ready in time".to_owned());
        let name = &revision.environment_name;
        Failed::new(
            http::StatusCode::GATEWAY_TIMEOUT,
            "environment",
            format!("no Pod of environment {name} was free within {seconds} s: {why}"),
        )
    }

    /// Does what the state says.
    pub fn run(self: &Arc<Self>, effects: Vec<Effect>) {
        for effect in effects {
            let engine = self.clone();
            match effect {
                // The end of the process does not wait for Pods that may never come.
                Effect::Probe(pod) => tokio::spawn(async move { engine.probe(pod).await }),
                Effect::Specialize(job) => self
                    .tasks
                    .spawn(async move { engine.specialize(job).await }),
                Effect::Delete(pod, why, grace) => self
                    .tasks
                    .spawn(async move { engine.delete(&pod, why, grace).await }),
                Effect::Label(pod, labels) => self
                    .tasks
                    .spawn(async move { engine.label(&pod, &labels).await }),
                Effect::Lost(key, failed) => {
                    self.report(key, Some(failed));
                    continue;
                }
            };
        }
    }

    /// Waits until a Pod accepts connections, and asks what it is.
    async fn probe(self: Arc<Self>, pod: PodRef) {
        let began = Instant::now();
        let (mut pause, longest) = PROBE;
        // Nothing tells when a socket of another host begins to listen.
        while self.state().is_coming(&pod.uid) {
            match self.ask(&pod).await {
                Ok(said)
                    if said.begun && said.function.is_none() && began.elapsed() < UNFINISHED => {}
                Ok(said) => {
                    let current = said
                        .function
                        .as_ref()
                        .and_then(|key| self.world.current(key).ok());
                    let effects =
                        self.state()
                            .probed(&pod.uid, &said, current.as_ref(), Instant::now());
                    tracing::debug!(pod = pod.name, ?said, "probed");
                    self.run(effects);
                    self.demand.notify_one();
                    self.settled.notify_waiters();
                    return;
                }
                Err(error) => tracing::trace!(pod = pod.name, %error, "not ready yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
            if began.elapsed() > Duration::from_secs(60) {
                pause = Duration::from_secs(1);
            }
        }
    }

    async fn ask(
        &self,
        pod: &PodRef,
    ) -> Result<farplane_functions_types::wire::FetcherState, CallError> {
        let said = self.fetchers.state(pod).await?;
        let ip = pod
            .ip
            .ok_or_else(|| CallError::Broken("it has no address".to_owned()))?;
        dial(ip, port::RUNTIME)
            .await
            .map_err(|error| CallError::Broken(error.to_string()))?;
        Ok(said)
    }

    /// Gives a Pod its code and the caller its answer.
    async fn specialize(self: Arc<Self>, job: Job) {
        let Job { pod, waiter } = job;
        let revision = waiter.revision.clone();
        let taken = Instant::now();
        let left = revision
            .specialization
            .saturating_sub(taken.saturating_duration_since(waiter.since));
        let call = tokio::time::timeout(left, self.fetchers.specialize(&pod, &revision));
        tokio::pin!(call);
        let early = tokio::select! {
            biased;
            outcome = &mut call => Some(outcome),
            () = tokio::time::sleep(PATIENCE) => None,
        };
        let mut labelling = None;
        let outcome = match early {
            Some(outcome) => outcome,
            None => {
                // Not waited for: the API server may be away.
                let (engine, pod) = (self.clone(), pod.clone());
                let revision = revision.clone();
                labelling = Some(tokio::spawn(async move {
                    engine.uncrowded(&pod, &revision.environment).await;
                    engine.label(&pod, &labels_of(&revision, false)).await;
                }));
                call.await
            }
        };
        let specialised = taken.elapsed();
        let failed = match outcome {
            Ok(Ok(())) => {
                let made = self
                    .state()
                    .specialised(&pod.uid, &revision, Instant::now());
                if let Some(made) = made {
                    let since = waiter.since;
                    _ = waiter.answer.send(Ok(made));
                    self.tell(&revision, &pod, taken - since, specialised, since.elapsed());
                    if let Some(labelling) = labelling {
                        _ = labelling.await;
                    }
                    self.uncrowded(&pod, &revision.environment).await;
                    self.label(&pod, &labels_of(&revision, true)).await;
                    self.demand.notify_one();
                    return;
                }
                CallError::Broken("it was deleted".to_owned())
            }
            Ok(Err(error)) => error,
            Err(_) => CallError::Refused(Failed::new(
                http::StatusCode::GATEWAY_TIMEOUT,
                "function",
                format!(
                    "the function did not finish loading within {} s",
                    revision.specialization.as_secs()
                ),
            )),
        };
        tracing::warn!(pod = pod.name, function = revision.key.name, error = %failed, "not specialised");
        self.metrics.specialization_failed(&revision.key);
        let effects = match failed {
            CallError::Broken(reason) => {
                let reason =
                    format!("a Pod of the environment broke while it got the code: {reason}");
                let failed = Failed::later("environment", reason);
                self.state().broken(&pod.uid, waiter, failed)
            }
            CallError::Refused(failed) => {
                let effects = self.state().failed(&pod.uid, &revision.id(), &failed);
                _ = waiter.answer.send(Err(failed.clone()));
                self.report(revision.key.clone(), Some(failed));
                effects
            }
        };
        self.run(effects);
        if let Some(labelling) = labelling {
            labelling.abort();
        }
        self.delete(&pod, "it could not be specialised", Grace::None)
            .await;
    }

    /// Waits until nobody waits for Pods of an environment. By its labels a Pod leaves its pool,
    /// which starts another one in its place: those that callers wait for come first.
    async fn uncrowded(&self, pod: &PodRef, environment: &str) {
        let calm = async {
            loop {
                let mut settled = std::pin::pin!(self.settled.notified());
                settled.as_mut().enable();
                let waits = {
                    let state = self.state();
                    state.is_pooled(&pod.uid) && state.waiting(environment) > 0
                };
                if !waits {
                    return;
                }
                settled.await;
            }
        };
        _ = tokio::time::timeout(CROWDED, calm).await;
    }

    fn tell(
        &self,
        revision: &Revision,
        pod: &PodRef,
        taken: Duration,
        specialised: Duration,
        total: Duration,
    ) {
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
        tracing::info!(
            function = revision.key.name,
            namespace = revision.key.namespace,
            pod = pod.name,
            taken_ms = milliseconds(taken),
            specialised_ms = milliseconds(specialised),
            total_ms = milliseconds(total),
            "cold start"
        );
        self.metrics.cold_start(&revision.key, total);
        self.report(revision.key.clone(), None);
    }

    /// Writes what an instance is; tries again until the Pod is gone.
    async fn label(&self, pod: &PodRef, labels: &Labels) {
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        let patch = Patch::Merge(patch(pod, labels, &self.settings.pod_name));
        let parameters = PatchParams::default();
        let mut pause = Duration::from_millis(100);
        loop {
            match api.patch_metadata(&pod.name, &parameters, &patch).await {
                Ok(_) => return,
                // Another Pod has its name, or none: nothing to write to.
                Err(error) if is_code(&error, 404) || is_code(&error, 409) => return,
                Err(error) => tracing::warn!(pod = pod.name, %error, "could not write labels"),
            }
            if !self.state().is_known(&pod.uid) {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// Deletes a Pod; tries again until it is gone.
    async fn delete(&self, pod: &PodRef, why: &str, grace: Grace) {
        self.fetchers.forget(&pod.uid);
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        let parameters = DeleteParams {
            grace_period_seconds: match grace {
                Grace::Own => None,
                Grace::None => Some(AT_ONCE),
            },
            preconditions: Some(Preconditions {
                uid: Some(pod.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        tracing::info!(
            pod = pod.name,
            namespace = pod.namespace,
            why,
            "Pod deleted"
        );
        let mut pause = Duration::from_millis(100);
        loop {
            match api.delete(&pod.name, &parameters).await {
                Ok(_) => return,
                Err(error) if is_code(&error, 404) || is_code(&error, 409) => return,
                Err(error) => tracing::warn!(pod = pod.name, %error, "could not delete"),
            }
            if !self.state().is_known(&pod.uid) {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// A Pod is gone.
    pub fn gone(self: &Arc<Self>, uid: &str) {
        self.fetchers.forget(uid);
        let effects = self.state().gone(uid);
        self.run(effects);
    }
}

fn labels_of(revision: &Revision, served: bool) -> Labels {
    Labels {
        key: revision.key.clone(),
        code_hash: revision.code_hash.clone(),
        served,
    }
}

/// A merge patch of a Pod's metadata. The UID keeps it from another Pod of the same name.
fn patch(pod: &PodRef, labels: &Labels, writer: &str) -> Value {
    let Labels {
        key,
        code_hash,
        served,
    } = labels;
    let mut set = json!({
        label::MANAGED: "false",
        label::FUNCTION_NAME: key.name,
        label::FUNCTION_NAMESPACE: key.namespace,
        label::FUNCTION_UID: key.uid,
        label::FUNCTION_GENERATION: key.generation.to_string(),
        label::SERVED: served.to_string(),
    });
    if !key.version.is_empty() {
        set[label::FUNCTION_VERSION] = key.version.clone().into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "uid": pod.uid,
            "labels": set,
            "annotations": {
                annotation::CODE_HASH: code_hash,
                annotation::EXECUTOR_INSTANCE: writer,
            },
        },
    })
}
