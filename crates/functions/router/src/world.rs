//! What the API server says: triggers, functions and instances, as a stream of changes.
//!
//! A watch may break at any time and is begun again with a new list. What vanished meanwhile is
//! told as gone, so that whoever applies the events in order has the state of the API server.
//! [`Event::Synced`] comes once, after the first lists of all kinds: before it, what is missing
//! may just not have come yet.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;

use farplane_control::backoff;
use farplane_functions_types::names::{label, port};
use farplane_functions_types::{
    ExecutorType, Function, FunctionAlias, FunctionVersion, HTTPTrigger,
};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Something changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A trigger is new or has changed.
    Trigger(Box<HTTPTrigger>),
    /// A trigger was deleted.
    TriggerGone {
        /// Namespace of it.
        namespace: String,
        /// Name of it.
        name: String,
    },
    /// A function is new or has changed.
    Function(Box<Function>),
    /// A function was deleted.
    FunctionGone {
        /// Namespace of it.
        namespace: String,
        /// Name of it.
        name: String,
    },
    /// A version of a function is new.
    Version(Box<FunctionVersion>),
    /// A version was deleted.
    VersionGone {
        /// Namespace of it.
        namespace: String,
        /// Name of it.
        name: String,
    },
    /// An alias is new or has changed.
    Alias(Box<FunctionAlias>),
    /// An alias was deleted.
    AliasGone {
        /// Namespace of it.
        namespace: String,
        /// Name of it.
        name: String,
    },
    /// An instance can be called. Told again when its Pod changes.
    Instance {
        /// UID of its function.
        uid: String,
        /// Generation of the function that it was made from.
        generation: i64,
        /// Version of the function; empty for the live one.
        version: String,
        /// `ip:port`.
        address: String,
    },
    /// An instance is not to be called any more.
    InstanceGone {
        /// `ip:port`.
        address: String,
    },
    /// A router is ready.
    Router {
        /// Name of its Pod.
        name: String,
        /// `ip:port` of its internal listener.
        address: String,
    },
    /// A router is not ready any more.
    RouterGone {
        /// Name of its Pod.
        name: String,
    },
    /// All that exists has been told.
    Synced,
}

/// Watches until `shutdown`, or until nobody reads the events any more. `namespace` is the
/// platform's, where other routers are.
pub async fn watch(
    client: Client,
    namespace: &str,
    events: mpsc::Sender<Event>,
    shutdown: CancellationToken,
) {
    let routers = watcher::Config::default().labels(&format!("{}=router", label::SERVICE));
    let routers = watcher(Api::namespaced(client.clone(), namespace), routers);
    let mut routers = pin!(routers.backoff(backoff::watch()));
    let any = watcher::Config::default;
    let instances = watcher::Config::default().labels(label::FUNCTION_UID);
    let mut triggers = pin!(watcher(Api::all(client.clone()), any()).backoff(backoff::watch()));
    let mut functions = pin!(watcher(Api::all(client.clone()), any()).backoff(backoff::watch()));
    let mut versions = pin!(watcher(Api::all(client.clone()), any()).backoff(backoff::watch()));
    let mut aliases = pin!(watcher(Api::all(client.clone()), any()).backoff(backoff::watch()));
    let mut pods = pin!(watcher(Api::all(client), instances).backoff(backoff::watch()));
    let mut known_triggers = Known::<HTTPTrigger>::default();
    let mut known_functions = Known::<Function>::default();
    let mut known_versions = Known::<FunctionVersion>::default();
    let mut known_aliases = Known::<FunctionAlias>::default();
    let mut known_routers = Known::<RouterPod>::default();
    let mut known_pods = Known::<Pod>::default();
    let mut synced = false;
    loop {
        let told = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(event) = triggers.next() => known_triggers.next(event),
            Some(event) = functions.next() => known_functions.next(event),
            Some(event) = versions.next() => known_versions.next(event),
            Some(event) = aliases.next() => known_aliases.next(event),
                        Some(event) = routers.next() => known_routers.next(event.map(router_event)),
            Some(event) = pods.next() => known_pods.next(event),
            else => return,
        };
        for event in told {
            if events.send(event).await.is_err() {
                return;
            }
        }
        let listed = known_triggers.listed
            && known_functions.listed
            && known_versions.listed
            && known_aliases.listed
            && known_routers.listed
            && known_pods.listed;
        if listed && !synced {
            synced = true;
            if events.send(Event::Synced).await.is_err() {
                return;
            }
        }
    }
}

/// A kind that is watched.
trait Kind: Sized {
    /// What is remembered of an object, to tell that it is gone.
    type Trace;
    /// Namespace and name.
    fn key(&self) -> (String, String);
    /// What to tell of an object, and what to remember.
    fn told(self, before: Option<Self::Trace>) -> (Option<Event>, Self::Trace);
    /// What to tell when it is deleted.
    fn gone(key: (String, String), trace: Self::Trace) -> Option<Event>;
}

/// The objects of one kind that have been told.
struct Known<K: Kind> {
    traces: HashMap<(String, String), K::Trace>,
    /// While a list is read: what was not in it yet.
    missing: Option<HashSet<(String, String)>>,
    /// A list was read to its end.
    listed: bool,
}

impl<K: Kind> Default for Known<K> {
    fn default() -> Self {
        Self {
            traces: HashMap::new(),
            missing: None,
            listed: false,
        }
    }
}

impl<K: Kind> Known<K> {
    fn next(&mut self, event: Result<watcher::Event<K>, watcher::Error>) -> Vec<Event> {
        match event {
            Ok(watcher::Event::Init) => {
                self.missing = Some(self.traces.keys().cloned().collect());
                Vec::new()
            }
            Ok(watcher::Event::InitApply(object)) => {
                let key = object.key();
                if let Some(missing) = &mut self.missing {
                    missing.remove(&key);
                }
                self.apply(object)
            }
            Ok(watcher::Event::InitDone) => {
                self.listed = true;
                let vanished = self.missing.take().unwrap_or_default();
                vanished
                    .into_iter()
                    .filter_map(|key| self.delete(key))
                    .collect()
            }
            Ok(watcher::Event::Apply(object)) => self.apply(object),
            Ok(watcher::Event::Delete(object)) => {
                let key = object.key();
                // It may have been deleted by the event that first tells of it.
                self.apply(object);
                self.delete(key).into_iter().collect()
            }
            Err(error) => {
                tracing::warn!(%error, "a watch failed and is begun again");
                Vec::new()
            }
        }
    }

    fn apply(&mut self, object: K) -> Vec<Event> {
        let key = object.key();
        let before = self.traces.remove(&key);
        let (event, trace) = object.told(before);
        self.traces.insert(key, trace);
        event.into_iter().collect()
    }

    fn delete(&mut self, key: (String, String)) -> Option<Event> {
        let trace = self.traces.remove(&key)?;
        K::gone(key, trace)
    }
}

fn key(object: &impl kube::ResourceExt) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

impl Kind for HTTPTrigger {
    type Trace = ();

    fn key(&self) -> (String, String) {
        key(self)
    }

    fn told(mut self, _: Option<()>) -> (Option<Event>, ()) {
        self.managed_fields_mut().clear();
        (Some(Event::Trigger(Box::new(self))), ())
    }

    fn gone((namespace, name): (String, String), (): ()) -> Option<Event> {
        Some(Event::TriggerGone { namespace, name })
    }
}

impl Kind for Function {
    type Trace = ();

    fn key(&self) -> (String, String) {
        key(self)
    }

    fn told(mut self, _: Option<()>) -> (Option<Event>, ()) {
        self.managed_fields_mut().clear();
        self.status = None;
        // Instances are made from it elsewhere.
        self.spec.podspec = None;
        (Some(Event::Function(Box::new(self))), ())
    }

    fn gone((namespace, name): (String, String), (): ()) -> Option<Event> {
        Some(Event::FunctionGone { namespace, name })
    }
}

impl Kind for FunctionVersion {
    type Trace = ();

    fn key(&self) -> (String, String) {
        key(self)
    }

    fn told(mut self, _: Option<()>) -> (Option<Event>, ()) {
        self.managed_fields_mut().clear();
        self.spec.snapshot.podspec = None;
        (Some(Event::Version(Box::new(self))), ())
    }

    fn gone((namespace, name): (String, String), (): ()) -> Option<Event> {
        Some(Event::VersionGone { namespace, name })
    }
}

impl Kind for FunctionAlias {
    type Trace = ();

    fn key(&self) -> (String, String) {
        key(self)
    }

    fn told(mut self, _: Option<()>) -> (Option<Event>, ()) {
        self.managed_fields_mut().clear();
        (Some(Event::Alias(Box::new(self))), ())
    }

    fn gone((namespace, name): (String, String), (): ()) -> Option<Event> {
        Some(Event::AliasGone { namespace, name })
    }
}

/// A Pod of the platform's routers.
struct RouterPod(Pod);

fn router_event(event: watcher::Event<Pod>) -> watcher::Event<RouterPod> {
    match event {
        watcher::Event::Apply(pod) => watcher::Event::Apply(RouterPod(pod)),
        watcher::Event::Delete(pod) => watcher::Event::Delete(RouterPod(pod)),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(pod) => watcher::Event::InitApply(RouterPod(pod)),
        watcher::Event::InitDone => watcher::Event::InitDone,
    }
}

impl Kind for RouterPod {
    type Trace = ();

    fn key(&self) -> (String, String) {
        key(&self.0)
    }

    fn told(self, _: Option<()>) -> (Option<Event>, ()) {
        let name = self.0.name_any();
        let ip = self.0.status.as_ref().and_then(|it| it.pod_ip.as_ref());
        let ip = ip.and_then(|ip| ip.parse::<IpAddr>().ok());
        let takes_calls = !has_ended(&self.0) && ready(&self.0) == Some(true);
        let event = match ip.filter(|_| takes_calls) {
            Some(ip) => {
                let address = SocketAddr::new(ip, port::ROUTER_INTERNAL).to_string();
                Event::Router { name, address }
            }
            None => Event::RouterGone { name },
        };
        (Some(event), ())
    }

    fn gone((_, name): (String, String), (): ()) -> Option<Event> {
        Some(Event::RouterGone { name })
    }
}

/// Where an instance is.
#[derive(Default)]
struct Place {
    address: Option<String>,
    told: bool,
}

impl Kind for Pod {
    type Trace = Place;

    fn key(&self) -> (String, String) {
        key(self)
    }

    fn told(self, before: Option<Place>) -> (Option<Event>, Place) {
        let before = before.unwrap_or_default();
        let address = address(&self).or(before.address);
        let Some(address) = address else {
            return (None, Place::default());
        };
        let serves = serves(&self);
        let event = if serves {
            let text = |name: &str| self.labels().get(name).cloned().unwrap_or_default();
            Some(Event::Instance {
                uid: text(label::FUNCTION_UID),
                generation: text(label::FUNCTION_GENERATION).parse().unwrap_or(0),
                version: text(label::FUNCTION_VERSION),
                address: address.clone(),
            })
        } else if before.told || self.metadata.deletion_timestamp.is_some() {
            // The executor may have named an instance that was never told here.
            Some(Event::InstanceGone {
                address: address.clone(),
            })
        } else {
            None
        };
        let place = Place {
            address: Some(address),
            told: serves,
        };
        (event, place)
    }

    fn gone(_: (String, String), trace: Place) -> Option<Event> {
        let address = trace.address?;
        Some(Event::InstanceGone { address })
    }
}

/// True when a Pod takes no more calls, whatever it says of itself.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some()
}

/// What a Pod's condition `Ready` says.
fn ready(pod: &Pod) -> Option<bool> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|one| one.type_ == "Ready")?;
    Some(ready.status == "True")
}

/// True when a Pod has its code and takes calls.
fn serves(pod: &Pod) -> bool {
    if has_ended(pod) {
        return false;
    }
    let ready = ready(pod);
    if is(pod, ExecutorType::Newdeploy) || is(pod, ExecutorType::Container) {
        return ready == Some(true);
    }
    // A Pod of a pool is ready before it has code; one that was ready and is not any more has
    // crashed, and its code is gone.
    let served = pod
        .labels()
        .get(label::SERVED)
        .is_some_and(|value| value == "true");
    served && ready != Some(false)
}

fn is(pod: &Pod, executor: ExecutorType) -> bool {
    pod.labels()
        .get(label::EXECUTOR_TYPE)
        .is_some_and(|value| value == executor.as_str())
}

/// Where a Pod takes calls, once it has an address.
fn address(pod: &Pod) -> Option<String> {
    let ip = pod.status.as_ref()?.pod_ip.as_ref()?;
    let ip: IpAddr = ip.parse().ok()?;
    let own = || {
        let containers = &pod.spec.as_ref()?.containers;
        let ports = containers.iter().find_map(|it| it.ports.as_ref()?.first());
        u16::try_from(ports?.container_port).ok()
    };
    // Only images of users choose their port.
    let port = if is(pod, ExecutorType::Container) {
        own().unwrap_or(port::RUNTIME)
    } else {
        port::RUNTIME
    };
    Some(SocketAddr::new(ip, port).to_string())
}

#[cfg(test)]
#[path = "world_tests.rs"]
mod tests;
