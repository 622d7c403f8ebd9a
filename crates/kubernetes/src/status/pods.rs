//! What keeps the Pods of a control plane from running, in words.

use farplane_types::names::COMPONENT_LABEL;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;

use super::State;
use crate::World;

/// State of one component, of which this many Pods are wanted and some are enough.
pub(super) fn component(world: &World, name: &str, wanted: u32, enough: u32) -> State {
    let mut pods: Vec<&Pod> = world
        .pods
        .iter()
        .filter(|pod| pod.labels().get(COMPONENT_LABEL).map(String::as_str) == Some(name))
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .collect();
    pods.sort_by_key(|pod| pod.name_any());
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    let ready = u32::try_from(ready).unwrap_or(u32::MAX);
    if ready >= wanted {
        return State::done();
    }
    let open = pods.iter().filter(|pod| !is_ready(pod));
    let troubles: Vec<(&'static str, String)> =
        open.filter_map(|pod| trouble(world, pod)).collect();
    let (reason, what) = match troubles.into_iter().next() {
        Some(trouble) => trouble,
        None if pods.len() < wanted as usize => ("PodMissing", missing(world, name)),
        None => ("PodStarting", format!("the Pods of {name} start")),
    };
    let message = match wanted {
        1 => what,
        _ => format!("{ready} of {wanted} members run; {what}"),
    };
    State {
        done: ready >= enough,
        reason,
        message,
    }
}

fn missing(world: &World, component: &str) -> String {
    format!(
        "the hub makes the Pod; if it lasts, look at the events: kubectl -n {} get events --field-selector type=Warning (component {component})",
        world.namespace()
    )
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What keeps this Pod from running; `None` while it just starts.
fn trouble(world: &World, pod: &Pod) -> Option<(&'static str, String)> {
    let name = pod.name_any();
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() == Some("Failed") {
        let why = status.message.as_ref().or(status.reason.as_ref());
        let why = why.map(String::as_str).unwrap_or("no reason is given");
        return Some((
            "PodFailed",
            format!("Pod {name} ended: {why}; free disk or memory at the hub"),
        ));
    }
    let mut conditions = status.conditions.iter().flatten();
    if let Some(unplaced) =
        conditions.find(|one| one.type_ == "PodScheduled" && one.status == "False")
    {
        let why = unplaced.message.as_deref().unwrap_or("no reason is given");
        return Some((
            "NoRoom",
            format!(
                "no node of the hub takes Pod {name}: {why}; add a node to the hub or delete what is not needed"
            ),
        ));
    }
    let containers = status.container_statuses.iter().flatten();
    containers
        .filter(|container| !container.ready)
        .find_map(|container| container_trouble(world, &name, container))
}

fn container_trouble(
    world: &World,
    pod: &str,
    container: &ContainerStatus,
) -> Option<(&'static str, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let why = waiting.message.as_deref().unwrap_or("no reason is given");
    let ended = container.last_state.as_ref();
    let ended = ended.and_then(|state| state.terminated.as_ref());
    match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" => Some((
            "ImageMissing",
            format!(
                "image {} of Pod {pod} cannot be had: {why}; check the images that the hub was installed with",
                container.image
            ),
        )),
        "CrashLoopBackOff" => Some((
            "Crashing",
            format!(
                "{} in Pod {pod} ended {} times, last with {}; look at its log: kubectl -n {} logs {pod} -c {} --previous",
                container.name,
                container.restart_count,
                ended.map_or_else(
                    || "no code".to_owned(),
                    |ended| match ended.reason.as_deref() {
                        Some("OOMKilled") => "out of memory".to_owned(),
                        _ => format!("code {}", ended.exit_code),
                    }
                ),
                world.namespace(),
                container.name
            ),
        )),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => Some((
            "CannotStart",
            format!("{} in Pod {pod} cannot be started: {why}", container.name),
        )),
        _ => None,
    }
}
