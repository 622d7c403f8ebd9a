//! Deletion of a cluster: hosts first, while the API server can still be told, then the
//! control plane, its store, its kubeconfig.

use std::time::Duration;

use farplane_types::names::plane_namespace;
use farplane_types::{HostPlan, KubernetesCluster};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use kube::runtime::controller::Action;

use super::{hosts, kubeconfig_secret, status, store};
use crate::context::Context;
use crate::error::{Error, is_code};
use crate::object;

/// How often a deletion is looked at, in case an event was missed.
const POLL: Duration = Duration::from_millis(500);
/// Time that a Pod of a deleted cluster has to end, in seconds.
const SHORT_GRACE: u32 = 1;

/// One more step towards nothing.
pub(super) async fn reconcile(
    context: &Context,
    cluster: &KubernetesCluster,
) -> Result<Action, Error> {
    if !object::has_finalizer(cluster) {
        return Ok(Action::await_change());
    }
    let (namespace, uid) = (
        cluster.namespace().unwrap_or_default(),
        cluster.uid().unwrap_or_default(),
    );
    if let Some(waits_for) = release_hosts(context, cluster, &namespace).await? {
        return wait(context, cluster, &waits_for).await;
    }
    context.planes.drop(&uid);
    if !remove_namespace(context, &plane_namespace(&uid)).await? {
        return wait(context, cluster, "the control plane's Pods to end").await;
    }
    store::remove(&context.settings.store, &uid).await?;
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &namespace);
    object::delete(&secrets, &kubeconfig_secret(cluster), None).await?;
    context.memory.forget(&uid);
    context.metrics.phase(&uid, None);
    let api = Api::<KubernetesCluster>::namespaced(context.client.clone(), &namespace);
    object::remove_finalizer(&api, cluster).await?;
    Ok(Action::await_change())
}

/// Deletes the cluster's plans. Says whom it waits for, `None` when nobody.
async fn release_hosts(
    context: &Context,
    cluster: &KubernetesCluster,
    namespace: &str,
) -> Result<Option<String>, Error> {
    let api = Api::<HostPlan>::namespaced(context.client.clone(), namespace);
    let plans = api
        .list(&ListParams::default())
        .await
        .map_err(Error::hub(format!("list HostPlans of {namespace}")))?;
    let ours = plans.iter().filter(|plan| hosts::is_ours(cluster, plan));
    let mut waiting = Vec::new();
    for plan in ours {
        if !object::is_deleting(plan) {
            object::delete(&api, &plan.name_any(), plan.uid()).await?;
        }
        waiting.push(plan.name_any());
    }
    let words = || format!("these hosts to undo their plan: {}", waiting.join(", "));
    Ok((!waiting.is_empty()).then(words))
}

/// True when it is gone.
async fn remove_namespace(context: &Context, name: &str) -> Result<bool, Error> {
    let api = Api::<Namespace>::all(context.client.clone());
    let found = api
        .get_opt(name)
        .await
        .map_err(Error::hub(format!("read Namespace {name}")))?;
    match found {
        None => Ok(true),
        Some(found) if object::is_deleting(&found) => {
            hurry_pods(context, name).await?;
            Ok(false)
        }
        Some(found) => object::delete(&api, name, found.uid()).await,
    }
}

/// Shortens the Pods' time to end: nobody needs what they would still write.
async fn hurry_pods(context: &Context, namespace: &str) -> Result<(), Error> {
    let api = Api::<Pod>::namespaced(context.client.clone(), namespace);
    let pods = api
        .list(&ListParams::default())
        .await
        .map_err(Error::hub(format!("list Pods of {namespace}")))?;
    let patient = pods.iter().filter(|pod| {
        let left = pod.metadata.deletion_grace_period_seconds;
        left.is_none_or(|left| left > i64::from(SHORT_GRACE))
    });
    let parameters = DeleteParams::default().grace_period(SHORT_GRACE);
    for pod in patient {
        match api.delete(&pod.name_any(), &parameters).await {
            Ok(_) => {}
            Err(error) if is_code(&error, 404) => {}
            Err(error) => {
                return Err(Error::hub(format!(
                    "delete Pod {namespace}/{}",
                    pod.name_any()
                ))(error));
            }
        }
    }
    Ok(())
}

async fn wait(
    context: &Context,
    cluster: &KubernetesCluster,
    waits_for: &str,
) -> Result<Action, Error> {
    let new = status::deleting(cluster, waits_for, object::now());
    status::publish(context, cluster, new).await?;
    Ok(Action::requeue(POLL))
}
