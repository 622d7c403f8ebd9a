//! One watch and its calls.
//!
//! Flow: event -> [`Known`] tells what it means -> the lane of the object -> call. A lane is a
//! bounded queue; when it is full, the watch is not read.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farplane_control::backoff;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use kube::api::{Api, DynamicObject};
use kube::core::TypeMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Resource as _, ResourceExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::caller::Call;
use crate::context::Context;
use crate::objects::Said;
use crate::subscriptions::Say;
use crate::watches::plan::Plan;

/// Calls of one trigger at the same time.
const LANES: usize = 8;
/// Changes that wait in each lane.
const LANE_LENGTH: usize = 64;
/// How long a router that is away is waited for; changes wait meanwhile.
const PATIENCE: Duration = Duration::from_secs(600);
/// Of an answer, for the log.
const KEEP: usize = 1024;

const EVENT_TYPE: HeaderName = HeaderName::from_static("x-kubernetes-event-type");
const OBJECT_TYPE: HeaderName = HeaderName::from_static("x-kubernetes-object-type");

/// What happened to an object, in the words of Kubernetes' watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// What is known of the objects: turns the events of a watch that is listed anew now and then
/// into changes. Pure.
#[derive(Default)]
struct Known {
    objects: HashMap<String, Arc<DynamicObject>>,
    /// Known before the list that is under way, and not in it so far.
    unlisted: HashMap<String, Arc<DynamicObject>>,
}

impl Known {
    fn take(&mut self, event: watcher::Event<DynamicObject>) -> Vec<(Change, Arc<DynamicObject>)> {
        match event {
            watcher::Event::Init => {
                // One that was broken off is begun again.
                let rest = std::mem::take(&mut self.objects);
                self.unlisted.extend(rest);
                Vec::new()
            }
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                self.apply(object).into_iter().collect()
            }
            watcher::Event::Delete(object) => {
                self.objects.remove(&id(&object));
                vec![(Change::Deleted, Arc::new(object))]
            }
            watcher::Event::InitDone => {
                let gone = std::mem::take(&mut self.unlisted);
                gone.into_values()
                    .map(|object| (Change::Deleted, object))
                    .collect()
            }
        }
    }

    fn apply(&mut self, object: DynamicObject) -> Option<(Change, Arc<DynamicObject>)> {
        let id = id(&object);
        let old = self
            .objects
            .remove(&id)
            .or_else(|| self.unlisted.remove(&id));
        let object = Arc::new(object);
        self.objects.insert(id, object.clone());
        match old {
            None => Some((Change::Added, object)),
            Some(old) if old.resource_version() == object.resource_version() => None,
            Some(_) => Some((Change::Modified, object)),
        }
    }
}

fn id(object: &DynamicObject) -> String {
    object.uid().unwrap_or_else(|| object.name_any())
}

/// Watches and calls until it is ended.
pub(crate) async fn run(context: Context, plan: Plan, say: Say) {
    let mut lanes = Vec::new();
    let mut tasks = JoinSet::new();
    let plan = Arc::new(plan);
    for _ in 0..LANES {
        let (sender, receiver) = mpsc::channel(LANE_LENGTH);
        lanes.push(sender);
        tasks.spawn(lane(context.clone(), plan.clone(), receiver));
    }
    let api: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), &plan.namespace, &plan.resource);
    let config = watcher::Config::default().labels(&plan.selector);
    let events = watcher(api, config).backoff(backoff::watch());
    let mut events = std::pin::pin!(events);
    let mut known = Known::default();
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                let message = farplane_types::causes(&error);
                say(Said::no("WatchStartFailed", message));
                continue;
            }
        };
        if !matches!(event, watcher::Event::Init | watcher::Event::InitApply(_)) {
            say(Said::yes("Subscribed", "the watch is running"));
        }
        for change in known.take(event) {
            let mut hasher = DefaultHasher::new();
            id(&change.1).hash(&mut hasher);
            let lane = usize::try_from(hasher.finish() % LANES as u64).unwrap_or(0);
            if lanes[lane].send(change).await.is_err() {
                say(Said::no("WatchStartFailed", "the calls have ended"));
                return;
            }
        }
    }
}

async fn lane(
    context: Context,
    plan: Arc<Plan>,
    mut changes: mpsc::Receiver<(Change, Arc<DynamicObject>)>,
) {
    while let Some((change, object)) = changes.recv().await {
        let (namespace, name) = (&plan.namespace, object.name_any());
        let change = change.as_str();
        let call = match write(&context, &plan, change, &object) {
            Ok(call) => call,
            Err(error) => {
                tracing::error!(namespace, name, change, %error, "cannot write an object as JSON");
                continue;
            }
        };
        match context.caller.call_patiently(&call, PATIENCE).await {
            Ok(answer) if answer.status.is_success() => {}
            Ok(answer) => {
                let (status, excerpt) = (answer.status, answer.excerpt());
                let function = &plan.target.name;
                tracing::warn!(namespace, name, change, function, %status, excerpt, "the call for a change failed");
            }
            Err(error) => {
                let function = &plan.target.name;
                tracing::warn!(namespace, name, change, function, %error, "the call for a change failed");
            }
        }
    }
}

fn write(
    context: &Context,
    plan: &Plan,
    change: &'static str,
    object: &DynamicObject,
) -> Result<Call, serde_json::Error> {
    let mut object = object.clone();
    // Items of a list come without them.
    object.types = Some(TypeMeta {
        api_version: plan.resource.api_version.clone(),
        kind: plan.resource.kind.clone(),
    });
    object.meta_mut().managed_fields = None;
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(EVENT_TYPE, HeaderValue::from_static(change));
    if let Ok(kind) = HeaderValue::try_from(&plan.resource.kind) {
        headers.insert(OBJECT_TYPE, kind);
    }
    Ok(Call {
        deadline: context.deadline(&plan.target),
        target: plan.target.clone(),
        method: Method::POST,
        subpath: "/".to_owned(),
        headers,
        body: Bytes::from(serde_json::to_vec(&object)?),
        keep: KEEP,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use watcher::Event;

    fn object(uid: &str, version: u32) -> DynamicObject {
        let object = json!({
            "metadata": { "name": uid, "uid": uid, "resourceVersion": version.to_string() },
        });
        serde_json::from_value(object).unwrap()
    }

    /// Changes as `ADDED a1`.
    fn take(known: &mut Known, event: Event<DynamicObject>) -> Vec<String> {
        let told = known.take(event).into_iter().map(|(change, object)| {
            let version = object.resource_version().unwrap_or_default();
            format!("{} {}{version}", change.as_str(), object.name_any())
        });
        let mut told: Vec<String> = told.collect();
        told.sort();
        told
    }

    #[test]
    fn events_of_a_watch_are_told_as_they_are() {
        let mut known = Known::default();
        let mut told = |event| take(&mut known, event).concat();
        assert_eq!(told(Event::Init), "");
        assert_eq!(told(Event::InitApply(object("a", 1))), "ADDED a1");
        assert_eq!(told(Event::InitDone), "");
        assert_eq!(told(Event::Apply(object("a", 2))), "MODIFIED a2");
        assert_eq!(told(Event::Apply(object("b", 3))), "ADDED b3");
        assert_eq!(told(Event::Delete(object("a", 4))), "DELETED a4");
        assert_eq!(told(Event::Apply(object("a", 5))), "ADDED a5");
    }

    #[test]
    fn a_new_list_tells_only_what_changed_meanwhile() {
        let mut known = Known::default();
        for name in ["same", "changed", "gone"] {
            take(&mut known, Event::Apply(object(name, 1)));
        }
        let mut told = |event| take(&mut known, event).concat();
        assert_eq!(told(Event::Init), "");
        assert_eq!(told(Event::InitApply(object("same", 1))), "");
        // Broken off and begun again.
        assert_eq!(told(Event::Init), "");
        assert_eq!(told(Event::InitApply(object("same", 1))), "");
        assert_eq!(
            told(Event::InitApply(object("changed", 2))),
            "MODIFIED changed2"
        );
        assert_eq!(told(Event::InitApply(object("new", 3))), "ADDED new3");
        assert_eq!(told(Event::InitDone), "DELETED gone1");
        assert_eq!(told(Event::Apply(object("same", 4))), "MODIFIED same4");
    }
}
