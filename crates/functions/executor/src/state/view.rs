//! What the executor reads of a Pod.

use std::net::IpAddr;

use farplane_functions_types::names::{annotation, label};
use farplane_functions_types::wire::FunctionKey;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;

use super::Labels;
use crate::pod::{FETCHER, MAIN_CONTAINER};

/// Which Pod, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodRef {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub ip: Option<IpAddr>,
}

/// Why a Pod does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub words: String,
    /// Kubernetes has tried more than once: nobody should wait for it.
    pub lasting: bool,
}

/// What the executor reads of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodView {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub ip: Option<IpAddr>,
    /// UID of the environment.
    pub environment: String,
    /// What it is an instance of, when its labels say so.
    pub labels: Option<Labels>,
    /// A pool's Deployment counts it.
    pub pooled: bool,
    /// Is being deleted, or has ended.
    pub ending: bool,
    /// Restarts of the runtime.
    pub restarts: i32,
    pub trouble: Option<Trouble>,
    /// How the runtime ended the last time.
    pub ended: Option<String>,
}

impl PodView {
    /// True for a Pod without code of this environment that no pool's Deployment counts.
    pub fn is_extra(&self, environment: &str) -> bool {
        self.environment == environment && !self.pooled && self.labels.is_none()
    }

    /// Reads a Pod of a pool.
    pub fn read(pod: &Pod) -> Self {
        let label = |name: &str| pod.labels().get(name).cloned().unwrap_or_default();
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let containers = status
            .and_then(|status| status.container_statuses.as_deref())
            .unwrap_or_default();
        let main = pod.annotations().get(MAIN_CONTAINER);
        let runtime = containers.iter().find(|one| match main {
            Some(main) => one.name == *main,
            None => one.name != FETCHER,
        });
        let labels = (label(label::MANAGED) == "false").then(|| Labels {
            key: FunctionKey {
                namespace: label(label::FUNCTION_NAMESPACE),
                name: label(label::FUNCTION_NAME),
                uid: label(label::FUNCTION_UID),
                generation: label(label::FUNCTION_GENERATION).parse().unwrap_or(0),
                version: label(label::FUNCTION_VERSION),
            },
            code_hash: pod
                .annotations()
                .get(annotation::CODE_HASH)
                .cloned()
                .unwrap_or_default(),
            served: label(label::SERVED) == "true",
        });
        Self {
            uid: pod.uid().unwrap_or_default(),
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            ip: status
                .and_then(|status| status.pod_ip.as_deref())
                .and_then(|ip| ip.parse().ok()),
            environment: label(label::ENVIRONMENT_UID),
            pooled: labels.is_none() && pod.labels().contains_key(label::POOL),
            labels,
            ending: pod.metadata.deletion_timestamp.is_some()
                || matches!(phase, Some("Failed" | "Succeeded")),
            restarts: runtime.map_or(0, |runtime| runtime.restart_count),
            trouble: trouble(pod, containers),
            ended: runtime.and_then(ended),
        }
    }

    /// Which Pod it is.
    pub fn reference(&self) -> PodRef {
        PodRef {
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            ip: self.ip,
        }
    }

    /// Why an instance lost its code.
    pub(super) fn lost_words(&self) -> String {
        let how = self.ended.as_deref().unwrap_or("its process ended");
        format!("the function's runtime ended while it served: {how}")
    }
}

fn ended(container: &ContainerStatus) -> Option<String> {
    let last = container.last_state.as_ref()?.terminated.as_ref()?;
    let reason = last.reason.as_deref().unwrap_or("Error");
    Some(if reason == "OOMKilled" {
        "it needed more memory than the environment allows (OOMKilled)".to_owned()
    } else {
        format!("exit code {} ({reason})", last.exit_code)
    })
}

fn trouble(pod: &Pod, containers: &[ContainerStatus]) -> Option<Trouble> {
    for container in containers {
        let waiting = container
            .state
            .as_ref()
            .and_then(|state| state.waiting.as_ref());
        let Some((waiting, reason)) =
            waiting.and_then(|waiting| Some((waiting, waiting.reason.as_deref()?)))
        else {
            continue;
        };
        let image = &container.image;
        let message = waiting.message.as_deref().unwrap_or(reason);
        let (words, lasting) = match reason {
            "ErrImagePull" | "ErrImageNeverPull" => (
                format!("image {image} cannot be pulled: {message}"),
                reason != "ErrImagePull",
            ),
            "ImagePullBackOff" | "InvalidImageName" => {
                (format!("image {image} cannot be pulled: {message}"), true)
            }
            "CrashLoopBackOff" => {
                let how = ended(container).unwrap_or_else(|| message.to_owned());
                (
                    format!(
                        "container {} of image {image} ends again and again: {how}",
                        container.name
                    ),
                    true,
                )
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => (
                format!("container {} cannot be started: {message}", container.name),
                false,
            ),
            _ => continue,
        };
        return Some(Trouble { words, lasting });
    }
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let scheduled = conditions.iter().find(|one| one.type_ == "PodScheduled")?;
    (scheduled.status == "False").then(|| Trouble {
        words: format!(
            "no node has room for its Pods: {}",
            scheduled.message.as_deref().unwrap_or("not scheduled")
        ),
        lasting: false,
    })
}
