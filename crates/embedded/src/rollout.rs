//! Waits for the hub's own Deployments and says in words what holds them up.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use kube::Client;
use kube::api::{Api, ListParams};

use crate::error::Error;
use crate::{Event, Progress};

const TIMEOUT: Duration = Duration::from_secs(180);
const INTERVAL: Duration = Duration::from_millis(200);

/// Until the node takes Pods.
pub(crate) async fn wait_node(client: &Client, progress: Progress<'_>) -> Result<(), Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut wait = Wait::new("node", "the hub's node", progress);
    loop {
        let list = nodes
            .list(&ListParams::default())
            .await
            .map_err(Error::api("list nodes"))?;
        let state = match list.items.first() {
            Some(node) if node_ready(node) => return Ok(()),
            Some(node) => node_reason(node),
            None => "the kubelet has not registered yet".to_owned(),
        };
        wait.again(state).await?;
    }
}

fn node_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|(status, _)| status == "True") && untainted(node)
}

/// The taint of a new node goes a moment after it became ready.
fn untainted(node: &Node) -> bool {
    node.spec
        .as_ref()
        .and_then(|spec| spec.taints.as_ref())
        .is_none_or(|taints| {
            !taints
                .iter()
                .any(|taint| taint.key == "node.kubernetes.io/not-ready")
        })
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<(&'a str, &'a str)> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|one| one.type_ == type_)?;
    Some((&found.status, found.message.as_deref().unwrap_or_default()))
}

fn node_reason(node: &Node) -> String {
    match condition(node, "Ready") {
        Some((_, message)) if !message.is_empty() => message.to_owned(),
        _ => "it is not ready yet".to_owned(),
    }
}

/// Why a Deployment is not as wanted yet, in words; none when it is.
pub fn lateness(deployment: &Deployment, pods: &[Pod]) -> Option<String> {
    (!available(deployment, pods, 0)).then(|| reason(deployment, pods))
}

/// Until every Deployment has its replicas available. The hub may just have come back
/// with a status of yesterday: only containers started after `since` (Unix seconds) count.
pub(crate) async fn wait_deployments(
    client: &Client,
    wanted: &[(String, String)],
    since: i64,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let mut wait = Wait::new("services", "the hub's services", progress);
    loop {
        let mut late = Vec::new();
        for (namespace, name) in wanted {
            let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
            let deployment = api
                .get(name)
                .await
                .map_err(Error::api(format!("read the Deployment {name}")))?;
            let pods = pods_of(client, namespace, &deployment).await?;
            if !available(&deployment, &pods, since) {
                late.push(describe(&deployment, &pods));
            }
        }
        if late.is_empty() {
            return Ok(());
        }
        wait.again(late.join(", ")).await?;
    }
}

fn available(deployment: &Deployment, pods: &[Pod], since: i64) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let Some(status) = &deployment.status else {
        return false;
    };
    let running = pods
        .iter()
        .filter(|pod| is_ready(pod) && started_after(pod, since));
    status.observed_generation == deployment.metadata.generation
        && status.replicas.unwrap_or(0) == wanted
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) >= wanted
        && i32::try_from(running.count()).is_ok_and(|running| running >= wanted)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|list| {
        list.iter()
            .any(|one| one.type_ == "Ready" && one.status == "True")
    })
}

fn started_after(pod: &Pod, since: i64) -> bool {
    let containers = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    containers.is_some_and(|list| {
        list.iter().all(|container| {
            let running = container
                .state
                .as_ref()
                .and_then(|state| state.running.as_ref());
            let started = running.and_then(|running| running.started_at.as_ref());
            started.is_some_and(|started| started.0.as_second() >= since)
        })
    })
}

async fn pods_of(
    client: &Client,
    namespace: &str,
    deployment: &Deployment,
) -> Result<Vec<Pod>, Error> {
    let labels = deployment.spec.selector.match_labels.iter().flatten();
    let terms: Vec<String> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = pods
        .list(&ListParams::default().labels(&terms.join(",")))
        .await
        .map_err(Error::api("list the Pods of the hub's services"))?;
    Ok(list.items)
}

fn describe(deployment: &Deployment, pods: &[Pod]) -> String {
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    format!("{name} ({})", reason(deployment, pods))
}

fn reason(deployment: &Deployment, pods: &[Pod]) -> String {
    pods.iter()
        .find_map(pod_reason)
        .or_else(|| replica_failure(deployment))
        .unwrap_or_else(|| {
            if pods.is_empty() {
                "has no Pod yet"
            } else {
                "is starting again"
            }
            .to_owned()
        })
}

fn replica_failure(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|one| {
        one.type_.as_deref() == Some("ReplicaFailure") && one.status.as_deref() == Some("True")
    })?;
    failure.message.clone()
}

/// Why a Pod is not ready, in words; none when it is.
pub fn pod_reason(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    if conditions
        .iter()
        .any(|one| one.type_ == "Ready" && one.status == "True")
    {
        return None;
    }
    let containers = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses);
    if let Some(reason) = containers.flatten().find_map(container_reason) {
        return Some(reason);
    }
    let unscheduled = conditions
        .iter()
        .find(|one| one.type_ == "PodScheduled" && one.status != "True");
    match unscheduled.and_then(|one| one.message.clone()) {
        Some(message) => Some(format!("cannot be placed: {message}")),
        None => Some("is starting".to_owned()),
    }
}

fn container_reason(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    let name = &container.name;
    if let Some(waiting) = &state.waiting {
        let words = match waiting.reason.as_deref()? {
            "ContainerCreating" | "PodInitializing" => return None,
            "ErrImageNeverPull" | "ErrImagePull" | "ImagePullBackOff" => {
                format!("{name}: the image {} is missing", container.image)
            }
            "CrashLoopBackOff" => crash(container),
            other => format!(
                "{name}: {other} {}",
                waiting.message.as_deref().unwrap_or_default()
            ),
        };
        return Some(words);
    }
    if state.terminated.is_some() {
        return Some(crash(container));
    }
    match container.restart_count {
        _ if container.ready => None,
        0 => Some(format!("{name} runs but is not ready yet")),
        count => Some(format!(
            "{name} was started {count} times more and is not ready yet"
        )),
    }
}

fn crash(container: &ContainerStatus) -> String {
    let states = [&container.state, &container.last_state];
    let ended = states
        .into_iter()
        .flatten()
        .find_map(|state| state.terminated.as_ref());
    let code = ended.map_or(-1, |ended| ended.exit_code);
    let name = &container.name;
    match container.restart_count {
        0 | 1 => format!("{name} ended with code {code} and is started again"),
        count => format!("{name} ends with code {code} again and again, {count} times so far"),
    }
}

/// Bounds a wait and tells its state when it changes.
pub(crate) struct Wait<'a> {
    name: &'static str,
    what: &'static str,
    progress: Progress<'a>,
    started: Instant,
    told: String,
}

impl<'a> Wait<'a> {
    pub fn new(name: &'static str, what: &'static str, progress: Progress<'a>) -> Self {
        Self {
            name,
            what,
            progress,
            started: Instant::now(),
            told: String::new(),
        }
    }

    /// Pauses before the next look.
    ///
    /// # Errors
    /// When the whole wait took too long.
    pub async fn again(&mut self, state: String) -> Result<(), Error> {
        if self.started.elapsed() > TIMEOUT {
            return Err(Error::TimedOut {
                what: self.what.to_owned(),
                seconds: TIMEOUT.as_secs(),
                state,
            });
        }
        if self.told != state {
            (self.progress)(Event::Waiting {
                name: self.name.to_owned(),
                for_what: state.clone(),
            });
            self.told = state;
        }
        tokio::time::sleep(INTERVAL).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": {}, "status": status })).unwrap()
    }

    #[test]
    fn a_missing_image_is_named() {
        let pod = pod(json!({ "containerStatuses": [{
            "name": "hub", "image": "farplane.io/hub:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": "ErrImageNeverPull" } },
        }] }));
        assert_eq!(
            pod_reason(&pod).unwrap(),
            "hub: the image farplane.io/hub:1 is missing"
        );
    }

    #[test]
    fn a_crash_tells_its_exit_code() {
        let pod = pod(json!({ "containerStatuses": [{
            "name": "hub", "image": "x", "imageID": "", "ready": false, "restartCount": 3,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "exitCode": 2 } },
        }] }));
        let reason = pod_reason(&pod).unwrap();
        assert!(
            reason.contains("code 2") && reason.contains("3 times"),
            "{reason}"
        );
    }

    #[test]
    fn a_container_of_before_the_last_stop_does_not_count() {
        let pod = pod(json!({ "containerStatuses": [{
            "name": "hub", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
            "state": { "running": { "startedAt": "2026-01-01T00:00:10Z" } },
        }] }));
        let started = 1_767_225_610;
        assert!(started_after(&pod, started) && !started_after(&pod, started + 1));
    }

    #[test]
    fn a_ready_pod_has_no_reason() {
        let pod = pod(json!({ "conditions": [{ "type": "Ready", "status": "True" }] }));
        assert_eq!(pod_reason(&pod), None);
    }
}
