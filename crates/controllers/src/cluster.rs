//! Clusters: a control plane at the hub, nodes on the organization's hosts.
//!
//! Flow of one look: gather -> Services -> keys -> workloads and plans at the same time
//! (hosts prepare while the API server starts) -> once it answers: approvals, add-ons,
//! strays -> status. What must exist is decided by `farplane-kubernetes`; here is only what
//! reads and writes. A cluster that is not ready is looked at again soon; a ready one on
//! changes, of its Pods, hosts, plans, nodes and signing requests.

mod approve;
mod artifacts;
mod claim;
mod gather;
mod hosts;
mod objects;
mod observe;
mod planes;
mod provide;
mod remove;
mod status;
mod store;

use std::sync::Arc;
use std::time::Duration;

use farplane_types::names::PLANE_LABEL;
use farplane_types::{Host, HostPlan, KubernetesCluster, KubernetesClusterStatus, conditions};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt as _;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;

use crate::context::{Context, drive};
use crate::error::Error;
use crate::object;

pub(crate) use artifacts::Index;
pub(crate) use objects::Memory;
pub(crate) use planes::Planes;

/// Pause between two looks at a cluster that is coming up; its watches are quicker mostly.
const PROVISIONING: Duration = Duration::from_millis(300);
/// The same once it has been long: something is missing that time alone does not bring.
const STUCK: Duration = Duration::from_secs(5);
/// How long a cluster is looked at often.
const PATIENCE_MS: u64 = 180_000;
/// A ready cluster is gone through again after this time, which undoes edits by others.
const READY: Duration = Duration::from_secs(120);

fn kubeconfig_secret(cluster: &KubernetesCluster) -> String {
    format!("{}-kubeconfig", cluster.name_any())
}

/// Runs the controller.
pub(crate) async fn run(context: Arc<Context>) -> Error {
    let client = context.client.clone();
    let any = watcher::Config::default;
    let of_plane = || any().labels(PLANE_LABEL);
    let controller = Controller::new(Api::<KubernetesCluster>::all(client.clone()), any());
    let (by_pod, by_namespace, by_host, by_plan) = (
        controller.store(),
        controller.store(),
        controller.store(),
        controller.store(),
    );
    let controller = controller
        .watches(
            Api::<PartialObjectMeta<Pod>>::all(client.clone()),
            of_plane(),
            move |pod| by_uid(&by_pod, pod.labels().get(PLANE_LABEL)),
        )
        .watches(
            Api::<PartialObjectMeta<Namespace>>::all(client.clone()),
            of_plane(),
            move |namespace| by_uid(&by_namespace, namespace.labels().get(PLANE_LABEL)),
        )
        // A host or plan that changes may be what any cluster beside it waits for.
        .watches(
            Api::<PartialObjectMeta<Host>>::all(client.clone()),
            any(),
            move |host| beside(&by_host, host.namespace()),
        )
        .watches(
            Api::<PartialObjectMeta<HostPlan>>::all(client),
            any(),
            move |plan| beside(&by_plan, plan.namespace()),
        )
        .reconcile_on(context.planes.changes());
    drive("KubernetesCluster", controller, context, reconcile).await
}

type Clusters = Store<KubernetesCluster>;

fn by_uid(clusters: &Clusters, uid: Option<&String>) -> Option<ObjectRef<KubernetesCluster>> {
    let found = clusters.find(|cluster| cluster.metadata.uid.as_ref() == uid)?;
    Some(ObjectRef::from_obj(found.as_ref()))
}

fn beside(clusters: &Clusters, namespace: Option<String>) -> Vec<ObjectRef<KubernetesCluster>> {
    let all = clusters.state_filter(|cluster| cluster.metadata.namespace == namespace);
    all.iter()
        .map(|cluster| ObjectRef::from_obj(cluster.as_ref()))
        .collect()
}

async fn reconcile(
    cluster: Arc<KubernetesCluster>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    if object::is_deleting(cluster.as_ref()) {
        return remove::reconcile(&context, &cluster).await;
    }
    let namespace = cluster.namespace().unwrap_or_default();
    let api = Api::<KubernetesCluster>::namespaced(context.client.clone(), &namespace);
    object::add_finalizer(&api, cluster.as_ref()).await?;
    let outcome = Box::pin(provide::reconcile(&context, &cluster)).await;
    let status = match &outcome {
        Ok(status) => status.clone(),
        Err(error) => status::failed(&cluster, error, object::now()),
    };
    status::publish(&context, &cluster, status).await?;
    outcome.map(|status| Action::requeue(pause(&cluster, &status)))
}

fn pause(cluster: &KubernetesCluster, status: &KubernetesClusterStatus) -> Duration {
    if conditions::is_true(&status.conditions, conditions::READY) {
        return READY;
    }
    let ready = conditions::get(&status.conditions, conditions::READY);
    let since = ready
        .map(|ready| &ready.last_transition_time)
        .or(cluster.metadata.creation_timestamp.as_ref());
    match since.map(|since| object::age_ms(since, &object::now())) {
        Some(age) if age > PATIENCE_MS => STUCK,
        _ => PROVISIONING,
    }
}
