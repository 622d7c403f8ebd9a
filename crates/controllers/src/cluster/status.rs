//! The one writer of a cluster's status.

use farplane_types::{KubernetesCluster, KubernetesClusterStatus, conditions};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use kube::api::Api;

use crate::context::Context;
use crate::error::Error;
use crate::object;

/// Writes the status, when it changed, and tells of a change of `Ready`.
pub(super) async fn publish(
    context: &Context,
    cluster: &KubernetesCluster,
    status: KubernetesClusterStatus,
) -> Result<(), Error> {
    let uid = cluster.uid().unwrap_or_default();
    context.metrics.phase(&uid, status.phase.as_deref());
    let before = cluster.status.clone().unwrap_or_default();
    if before == status {
        return Ok(());
    }
    let namespace = cluster.namespace().unwrap_or_default();
    let api = Api::<KubernetesCluster>::namespaced(context.client.clone(), &namespace);
    object::apply_status(&api, cluster, &status).await?;
    object::tell_ready(context, cluster, &before.conditions, &status.conditions).await;
    Ok(())
}

/// The status of a cluster that is being deleted.
pub(super) fn deleting(
    cluster: &KubernetesCluster,
    waits_for: &str,
    now: Time,
) -> KubernetesClusterStatus {
    let mut status = cluster.status.clone().unwrap_or_default();
    let generation = cluster.metadata.generation;
    status.observed_generation = generation;
    status.phase = Some("Deleting".to_owned());
    conditions::set(
        &mut status.conditions,
        conditions::READY,
        false,
        "Deleting",
        format!("waits for {waits_for}"),
        generation,
        now,
    );
    status
}

/// The status after a step failed: as it was, with the reason.
pub(super) fn failed(
    cluster: &KubernetesCluster,
    error: &Error,
    now: Time,
) -> KubernetesClusterStatus {
    let mut status = cluster.status.clone().unwrap_or_default();
    let generation = cluster.metadata.generation;
    status.observed_generation = generation;
    if status.phase.is_none() {
        status.phase = Some("Pending".to_owned());
    }
    // A cluster that works goes on working while the hub has a bad moment.
    if conditions::is_true(&status.conditions, conditions::READY) {
        return status;
    }
    conditions::set(
        &mut status.conditions,
        conditions::READY,
        false,
        "Failed",
        error.chain(),
        generation,
        now,
    );
    status
}
