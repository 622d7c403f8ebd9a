//! Functions as the router knows them, and how a call gets a place at an instance.
//!
//! [`Slot`] is one function: its [`Admission`] and the connections to its instances. A [`Place`]
//! is the right to one call at one instance; dropping it gives it to the next call in line,
//! whatever became of the call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use farplane_functions_types::function::Streaming;
use farplane_functions_types::names::header;
use farplane_functions_types::wire::{
    Failure, FunctionKey, Instance, InstanceRequest, InstanceUsage,
};
use farplane_functions_types::{ExecutorType, Function, FunctionSpec, FunctionVersion};
use http::{HeaderName, HeaderValue, StatusCode};
use kube::ResourceExt as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::admission::{Admission, Answer, Entry};
use crate::executor::{Denied, Executor};
use crate::pool::Peer;

/// Added to a specialisation's deadline for the executor's own steps.
const EXECUTOR_GRACE: Duration = Duration::from_secs(5);
/// Until an executor that knows of more instances than the router is asked again.
const FULL_PAUSE: Duration = Duration::from_millis(200);

/// Until another instance is asked for beside some that serve, when none could be made.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// What of a function calls need.
#[derive(Clone, Debug)]
pub struct Meta {
    /// The function and its state.
    pub key: FunctionKey,
    /// Tell the function who it is.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Longest call.
    pub timeout: Duration,
    /// Longest specialisation.
    pub specialisation: Duration,
    /// Its answers are sent while they are made.
    pub streaming: Option<Streaming>,
    /// Calls at an instance.
    pub per_instance: usize,
    /// Instances.
    pub limit: usize,
    /// An instance is for one call.
    pub once: bool,
}

impl Meta {
    /// Of a live function.
    pub fn of(function: &Function) -> Self {
        let key = FunctionKey {
            namespace: function.namespace().unwrap_or_default(),
            name: function.name_any(),
            uid: function.uid().unwrap_or_default(),
            generation: function.metadata.generation.unwrap_or(0),
            version: String::new(),
        };
        Self::new(key, &function.spec, function.resource_version())
    }

    /// Of a version of a function.
    pub fn of_version(version: &FunctionVersion) -> Self {
        let spec = &version.spec;
        let key = FunctionKey {
            namespace: version.namespace().unwrap_or_default(),
            name: spec.function_name.clone(),
            uid: spec.function_uid.clone(),
            generation: spec.function_generation,
            version: version.name_any(),
        };
        Self::new(key, &spec.snapshot, version.resource_version())
    }

    fn new(key: FunctionKey, spec: &FunctionSpec, resource_version: Option<String>) -> Self {
        // Instances that autoscaling makes are not ours to fill one by one.
        let pooled = spec.executor_type() == ExecutorType::Poolmgr;
        let most = spec
            .invoke_strategy
            .execution_strategy
            .max_scale
            .unwrap_or(1)
            .max(1);
        Self {
            headers: headers(&key, &resource_version.unwrap_or_default()),
            key,
            // A Deployment does not replace an instance that was used.
            once: pooled && spec.once_only,
            timeout: Duration::from_secs(spec.timeout_seconds()),
            specialisation: Duration::from_secs(spec.specialization_seconds()),
            streaming: spec.streaming.clone(),
            per_instance: if pooled {
                spec.requests_per_pod()
            } else {
                usize::MAX
            },
            limit: if pooled {
                spec.concurrency()
            } else {
                usize::try_from(most).unwrap_or(1)
            },
        }
    }
}

fn headers(key: &FunctionKey, resource_version: &str) -> Vec<(HeaderName, HeaderValue)> {
    let told = [
        (header::FUNCTION_UID, key.uid.as_str()),
        (header::FUNCTION_NAME, &key.name),
        (header::FUNCTION_NAMESPACE, &key.namespace),
        (header::FUNCTION_RESOURCE_VERSION, resource_version),
    ];
    let told = told.into_iter().filter_map(|(name, value)| {
        let value = HeaderValue::from_str(value).ok()?;
        Some((HeaderName::from_static(name), value))
    });
    told.collect()
}

/// Why a call has no place.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Status for the client.
    pub status: StatusCode,
    /// Words for the client.
    pub failure: Failure,
}

impl Refusal {
    /// The router's own.
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self::of("router", status, reason)
    }

    /// The function's fault.
    pub fn of_function(status: StatusCode, reason: impl Into<String>) -> Self {
        Self::of("function", status, reason)
    }

    fn of(component: &str, status: StatusCode, reason: impl Into<String>) -> Self {
        let component = component.to_owned();
        let failure = Failure {
            component,
            reason: reason.into(),
            ..Failure::default()
        };
        Self { status, failure }
    }
}

type Verdict = Result<Place, Refusal>;

/// One function.
pub struct Slot {
    meta: RwLock<Arc<Meta>>,
    admission: Mutex<Admission<oneshot::Sender<Verdict>>>,
    peers: Mutex<HashMap<String, Arc<Peer>>>,
    executor: Arc<Executor>,
    /// A task looks for calls that have waited too long.
    watched: Mutex<bool>,
}

/// The right to one call at one instance.
pub struct Place {
    slot: Arc<Slot>,
    address: String,
    /// Made for this call or for one that waited with it.
    pub cold: bool,
}

impl Place {
    /// Connections to it.
    pub fn peer(&self) -> Arc<Peer> {
        let mut peers = lock(&self.slot.peers);
        let peer = peers.entry(self.address.clone());
        peer.or_insert_with(|| Arc::new(Peer::new(&self.address)))
            .clone()
    }

    /// Nothing answers there: nobody else is sent there.
    pub fn is_dead(&self) {
        lock(&self.slot.peers).remove(&self.address);
        if lock(&self.slot.admission).spend(&self.address, now()) {
            self.slot.drive();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let next = lock(&self.slot.admission).leave(&self.address, now());
        self.slot.tell(next, false);
    }
}

impl Slot {
    /// A function without instances.
    pub fn new(meta: Meta, executor: Arc<Executor>) -> Arc<Self> {
        let mut admission = Admission::new(meta.per_instance, meta.limit);
        admission.configure(meta.per_instance, meta.limit, meta.once);
        Arc::new(Self {
            admission: Mutex::new(admission),
            meta: RwLock::new(Arc::new(meta)),
            peers: Mutex::default(),
            executor,
            watched: Mutex::new(false),
        })
    }

    /// What calls need.
    pub fn meta(&self) -> Arc<Meta> {
        self.meta
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The function changed. Instances of before are forgotten: the executor names those that are
    /// still good.
    pub fn change(self: &Arc<Self>, meta: Meta) {
        let before = self.meta();
        let mut admission = lock(&self.admission);
        admission.configure(meta.per_instance, meta.limit, meta.once);
        let stale = if before.key.generation == meta.key.generation {
            Vec::new()
        } else {
            admission.known()
        };
        for address in &stale {
            admission.remove(address);
        }
        *self.meta.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(meta);
        drop(admission);
        self.drive();
    }

    /// An instance was seen.
    pub fn add_instance(self: &Arc<Self>, address: &str) {
        let next = lock(&self.admission).seen(address, now());
        self.tell(next, true);
    }

    /// An instance is gone.
    pub fn remove_instance(self: &Arc<Self>, address: &str) {
        lock(&self.peers).remove(address);
        if lock(&self.admission).gone(address) {
            self.drive();
        }
    }

    /// The function is gone: nobody waits for it any more.
    pub fn close(&self) {
        let waiting = lock(&self.admission).close();
        for tell in waiting {
            let reason = "the function was deleted while the call waited";
            // Its client is gone.
            _ = tell.send(Err(Refusal::new(StatusCode::NOT_FOUND, reason)));
        }
    }

    fn serves(&self) -> bool {
        lock(&self.admission).serves()
    }

    /// How many calls wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        lock(&self.admission).waiting()
    }

    /// What was used, for the executor.
    pub fn usage(&self) -> Vec<InstanceUsage> {
        for peer in lock(&self.peers).values() {
            peer.sweep();
        }
        let admission = lock(&self.admission);
        admission
            .usage(now())
            .map(|(address, active, idle)| InstanceUsage {
                address: address.to_owned(),
                active,
                idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
            })
            .collect()
    }

    /// A place for one call, by this moment.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn enter(self: &Arc<Self>, deadline: Instant) -> Verdict {
        let (tell, told) = oneshot::channel();
        // Bound first: the lock must not be held while waiting.
        let entry = lock(&self.admission).enter(tell, now());
        let id = match entry {
            Entry::Go(address) => return Ok(self.place(address, false)),
            Entry::Wait(id) => id,
            Entry::Refuse(_) => {
                let reason = "too many calls wait for this function";
                return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, reason));
            }
        };
        let line = InLine { slot: self, id };
        self.drive();
        let verdict = timeout_at(deadline, told).await;
        std::mem::forget(line);
        match verdict {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the function was deleted while the call waited",
            )),
            Err(_) => {
                lock(&self.admission).give_up(id);
                let reason = "no instance was free within the function's timeout; \
                    more concurrency or requestsPerPod may help";
                Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, reason))
            }
        }
    }

    fn place(self: &Arc<Self>, address: String, cold: bool) -> Place {
        Place {
            slot: self.clone(),
            address,
            cold,
        }
    }

    /// Gives places to those whose turn it is. One that is gone drops its place, which gives it
    /// to the next.
    fn tell(self: &Arc<Self>, next: Vec<(oneshot::Sender<Verdict>, String)>, cold: bool) {
        for (tell, address) in next {
            // The receiver is gone: the place goes on by its drop.
            _ = tell.send(Ok(self.place(address, cold)));
        }
    }

    /// Asks for instances as far as calls need them, now and when they have waited for long.
    fn drive(self: &Arc<Self>) {
        let (asks, due) = {
            let mut admission = lock(&self.admission);
            (admission.ask(now()), admission.due())
        };
        for _ in 0..asks {
            tokio::spawn(self.clone().ask());
        }
        if due.is_some() && !std::mem::replace(&mut *lock(&self.watched), true) {
            tokio::spawn(self.clone().watch());
        }
    }

    async fn watch(self: Arc<Self>) {
        loop {
            let due = lock(&self.admission).due();
            let Some(due) = due else { break };
            // Those that are late already have been asked for as far as there is room.
            let soonest = now() + Duration::from_millis(5);
            sleep_until(Instant::from_std(due.max(soonest))).await;
            let asks = lock(&self.admission).ask(now());
            for _ in 0..asks {
                tokio::spawn(self.clone().ask());
            }
        }
        *lock(&self.watched) = false;
        // One that came in between has not found the watch running.
        if lock(&self.admission).due().is_some() {
            self.drive();
        }
    }

    /// Boxed: it calls itself through [`Slot::drive`].
    fn ask(self: Arc<Self>) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let meta = self.meta();
            let known = lock(&self.admission).known();
            let request = InstanceRequest {
                function: meta.key.clone(),
                known,
            };
            let deadline = Instant::now() + meta.specialisation + EXECUTOR_GRACE;
            let answer = self.executor.instance(&request, deadline).await;
            // It is asked for all this while, so nobody asks again at once.
            match &answer {
                Err(Denied::Full(_)) if self.serves() => sleep(FULL_PAUSE).await,
                Err(Denied::Failed { .. }) if self.serves() => sleep(FAILED_PAUSE).await,
                _ => {}
            }
            let mut refusal = None;
            let (next, refused) = {
                let mut admission = lock(&self.admission);
                // The lock holds back a change of the function meanwhile.
                let changed = self.meta().key.generation > known_generation(&answer, &meta);
                match answer {
                    _ if changed => (Vec::new(), admission.answered(Answer::Outdated)),
                    Ok(instance) => {
                        let next = admission.add(&instance.address, now());
                        (next, admission.answered(Answer::Added))
                    }
                    Err(denied) => {
                        refusal = Some(refusal_of(denied));
                        (Vec::new(), admission.answered(Answer::Failed))
                    }
                }
            };
            self.tell(next, true);
            for (tell, refusal) in refused.into_iter().zip(refusal.iter().cycle()) {
                // Its client is gone.
                _ = tell.send(Err(refusal.clone()));
            }
            self.drive();
        })
    }
}

/// Which generation an answer speaks of.
fn known_generation(answer: &Result<Instance, Denied>, asked: &Meta) -> i64 {
    match answer {
        Ok(instance) => instance.function.generation,
        Err(_) => asked.key.generation,
    }
}

fn refusal_of(denied: Denied) -> Refusal {
    match denied {
        Denied::Full(failure) => Refusal {
            status: StatusCode::TOO_MANY_REQUESTS,
            failure,
        },
        Denied::Failed { status, failure } => Refusal { status, failure },
    }
}

/// Takes a call out of the line when its client is gone.
struct InLine<'a> {
    slot: &'a Arc<Slot>,
    id: u64,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        lock(&self.slot.admission).give_up(self.id);
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
