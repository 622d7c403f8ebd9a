//! Where the builder of an environment is, and what keeps it from being ready.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use farplane_control::backoff;
use farplane_functions_types::Environment;
use farplane_functions_types::names::port;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::runtime::reflector::{Store, store};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio_util::sync::CancellationToken;

use crate::objects::{ENVIRONMENT, ENVIRONMENT_VERSION, OWNER};

/// A builder at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Builder {
    /// It takes requests.
    Ready {
        /// Its fetcher.
        fetcher: SocketAddr,
        /// Its builder.
        builder: SocketAddr,
    },
    /// It does not; in words, why.
    NotReady(String),
}

/// Tells where builders are.
pub type Place = Arc<dyn Fn(&Environment) -> Builder + Send + Sync>;

/// Builders' Pods of all namespaces, as they change.
pub struct Pods {
    store: Store<Pod>,
    /// Pods that changed.
    pub changes: BoxStream<'static, Result<Pod, watcher::Error>>,
}

impl Pods {
    /// Watches them.
    pub fn watch(client: Client, shutdown: &CancellationToken) -> Self {
        let config = watcher::Config::default().labels(&format!("{}={}", OWNER.0, OWNER.1));
        let (reader, writer) = store();
        let events = watcher(Api::<Pod>::all(client), config).backoff(backoff::watch());
        let changes = reflector(writer, events)
            .touched_objects()
            .take_until(shutdown.clone().cancelled_owned())
            .into_stream()
            .boxed();
        Self {
            store: reader,
            changes,
        }
    }

    /// Tells where builders are.
    pub fn place(&self) -> Place {
        let store = self.store.clone();
        Arc::new(move |environment| {
            let pods = store.state();
            let own = pods.iter().filter(|pod| is_of(pod, environment));
            of_pods(own.map(AsRef::as_ref))
        })
    }
}

fn is_of(pod: &Pod, environment: &Environment) -> bool {
    let labels = pod.labels();
    pod.namespace() == environment.namespace()
        && labels.get(ENVIRONMENT) == Some(&environment.name_any())
        && labels.get(ENVIRONMENT_VERSION) == environment.resource_version().as_ref()
        && pod.metadata.deletion_timestamp.is_none()
}

/// The first Pod that is ready, else what is wrong with the last one.
pub fn of_pods<'a>(pods: impl Iterator<Item = &'a Pod>) -> Builder {
    let mut trouble = "its Pod does not exist yet".to_owned();
    for pod in pods {
        let status = pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let ready = conditions
            .into_iter()
            .flatten()
            .any(|one| one.type_ == "Ready" && one.status == "True");
        let address = status.and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok());
        match address {
            Some(address) if ready => {
                return Builder::Ready {
                    fetcher: SocketAddr::new(address, port::FETCHER),
                    builder: SocketAddr::new(address, port::BUILDER),
                };
            }
            _ => trouble = trouble_of(pod),
        }
    }
    Builder::NotReady(trouble)
}

/// What keeps a Pod from being ready, in words.
fn trouble_of(pod: &Pod) -> String {
    let name = pod.name_any();
    let Some(status) = &pod.status else {
        return format!("Pod {name} is not looked after yet");
    };
    let containers = status.init_container_statuses.iter().flatten();
    let containers = containers.chain(status.container_statuses.iter().flatten());
    if let Some(trouble) = containers.into_iter().find_map(of_container) {
        return format!("Pod {name}: {trouble}");
    }
    let conditions = status.conditions.iter().flatten();
    let unscheduled = conditions
        .into_iter()
        .find(|one| one.type_ == "PodScheduled" && one.status != "True");
    match unscheduled.and_then(|one| one.message.as_ref()) {
        Some(message) => format!("Pod {name} has no node: {message}"),
        None => format!("Pod {name} is starting"),
    }
}

fn of_container(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if matches!(reason, "" | "PodInitializing" | "ContainerCreating") {
            return None;
        }
        let message = waiting.message.as_deref().unwrap_or_default();
        return Some(format!("container {}: {reason}: {message}", status.name));
    }
    let ended = state.terminated.as_ref()?;
    (ended.exit_code != 0).then(|| {
        let code = ended.exit_code;
        let name = &status.name;
        format!("container {name} ended with code {code}; see its log")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: serde_json::Value) -> Pod {
        let object = json!({ "metadata": { "name": "b", "namespace": "ns" }, "status": status });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_ready_pod_is_where_builds_go() {
        let ready = pod(json!({
            "podIP": "10.0.0.7", "conditions": [{ "type": "Ready", "status": "True" }],
        }));
        let starting = pod(json!({ "podIP": "10.0.0.8" }));
        let found = of_pods([&starting, &ready].into_iter());
        assert_eq!(
            found,
            Builder::Ready {
                fetcher: "10.0.0.7:8000".parse().unwrap(),
                builder: "10.0.0.7:8001".parse().unwrap(),
            }
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (status, words) in [
            (json!({}), "is starting"),
            (
                json!({ "containerStatuses": [{
                    "name": "builder", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                    "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } },
                }] }),
                "container builder: ImagePullBackOff: no such image",
            ),
            (
                json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "message": "no room" }] }),
                "has no node: no room",
            ),
        ] {
            let Builder::NotReady(said) = of_pods([&pod(status)].into_iter()) else {
                unreachable!()
            };
            assert!(said.contains(words), "{said}");
        }
    }
}
