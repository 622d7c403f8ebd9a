//! Hosts: whether they are connected and usable, and the Pods that lab hosts are.
//!
//! A lab host stands in for a machine: the controller makes a token bound to it, puts the
//! agent's configuration into a Secret and runs the Pod. A Pod that is gone took the
//! agent's keys along, so the next one gets a new token.
//!
//! Deletion: plan (the agent undoes it), then the Pod, then the object.

mod decide;
mod lab;

use std::sync::Arc;
use std::time::Duration;

use farplane_types::names::{
    COMPONENT_LABEL, LAB_NAMESPACE, ORGANIZATION_LABEL, organization_namespace,
};
use farplane_types::{Host, HostPlan, HostProvider};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::context::{Context, RESYNC, drive};
use crate::error::{Error, is_code};
use crate::object;
use decide::World;

/// How often a deletion is looked at, in case an event was missed.
const DELETION_POLL: Duration = Duration::from_secs(2);

fn gateway_pods() -> String {
    format!("{COMPONENT_LABEL}=gateway")
}

/// Runs the controller.
pub(crate) async fn run(context: Arc<Context>) -> Error {
    let client = context.client.clone();
    let any = watcher::Config::default;
    let gateways =
        Api::<PartialObjectMeta<Pod>>::namespaced(client.clone(), &context.settings.namespace);
    let controller = Controller::new(Api::<Host>::all(client.clone()), any());
    let hosts = controller.store();
    let controller = controller
        .watches(
            Api::<PartialObjectMeta<HostPlan>>::all(client.clone()),
            any(),
            |plan| Some(ObjectRef::new(&plan.name_any()).within(&plan.namespace()?)),
        )
        .watches(gateways, any().labels(&gateway_pods()), move |_| {
            let all = hosts.state();
            all.iter()
                .map(|host| ObjectRef::from_obj(host.as_ref()))
                .collect::<Vec<_>>()
        });
    let controller = if context.settings.labs {
        let pods = Api::<Pod>::namespaced(client, LAB_NAMESPACE);
        controller.watches(pods, any().labels(lab::HOST_LABEL), of_lab_pod)
    } else {
        controller
    };
    drive("Host", controller, context, reconcile).await
}

fn of_lab_pod(pod: Pod) -> Option<ObjectRef<Host>> {
    let labels = pod.labels();
    let namespace = organization_namespace(labels.get(ORGANIZATION_LABEL)?);
    Some(ObjectRef::new(labels.get(lab::HOST_LABEL)?).within(&namespace))
}

async fn reconcile(host: Arc<Host>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = host.namespace().unwrap_or_default();
    let api = Api::<Host>::namespaced(context.client.clone(), &namespace);
    let is_lab = host.spec.provider == HostProvider::Lab;
    if object::is_deleting(host.as_ref()) {
        return remove(&api, &host, &context).await;
    }
    object::add_finalizer(&api, host.as_ref()).await?;
    let world = gather(&context, &host).await?;
    prune(&api, &host, &world).await?;
    let outcome = if is_lab && context.settings.labs {
        lab::reconcile(&context, &host).await
    } else {
        Ok(lab::Outcome::default())
    };
    let lab = outcome.as_ref().copied().unwrap_or_default();
    let observation = decide::Observation {
        failure: outcome.as_ref().err().map(Error::chain),
        labs_off: is_lab && !context.settings.labs,
        lost_identity: lab.lost_identity,
    };
    let status = decide::status(&host, &world, &observation, object::now());
    if decide::differs(&host, &status) {
        object::apply_status(&api, host.as_ref(), &status).await?;
        let before = host
            .status
            .as_ref()
            .map(|status| status.conditions.as_slice());
        object::tell_ready(
            &context,
            host.as_ref(),
            before.unwrap_or_default(),
            &status.conditions,
        )
        .await;
    }
    outcome.map(|lab| Action::requeue(lab.again.unwrap_or(RESYNC)))
}

async fn gather(context: &Context, host: &Host) -> Result<World, Error> {
    let gateways = Api::<Pod>::namespaced(context.client.clone(), &context.settings.namespace)
        .list(&ListParams::default().labels(&gateway_pods()))
        .await
        .map_err(Error::hub("list the gateway's Pods"))?;
    Ok(World {
        gateways: gateways.iter().map(|pod| pod.name_any()).collect(),
        plan: plan_of(&context.client, host).await?,
    })
}

async fn plan_of(client: &Client, host: &Host) -> Result<Option<HostPlan>, Error> {
    let (namespace, name) = (host.namespace().unwrap_or_default(), host.name_any());
    Api::<HostPlan>::namespaced(client.clone(), &namespace)
        .get_opt(&name)
        .await
        .map_err(Error::hub(format!("read HostPlan {namespace}/{name}")))
}

/// Takes away entries of gateways that are no more. With the resource version, so that an
/// entry written meanwhile is not lost; the next look repeats it.
async fn prune(api: &Api<Host>, host: &Host, world: &World) -> Result<(), Error> {
    let Some(living) = decide::pruned(host, world) else {
        return Ok(());
    };
    let body = json!({
        "metadata": { "resourceVersion": host.resource_version() },
        "status": { "connections": living },
    });
    let name = host.name_any();
    match api
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(&body))
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if is_code(&error, 409) || is_code(&error, 404) => Ok(()),
        Err(error) => Err(Error::hub(format!("prune the connections of Host {name}"))(
            error,
        )),
    }
}

async fn remove(api: &Api<Host>, host: &Host, context: &Context) -> Result<Action, Error> {
    if !object::has_finalizer(host) {
        return Ok(Action::await_change());
    }
    // Connections still tell whether the agent can be waited for.
    let world = gather(context, host).await?;
    prune(api, host, &world).await?;
    let observation = decide::Observation::default();
    let status = decide::status(host, &world, &observation, object::now());
    if decide::differs(host, &status) {
        object::apply_status(api, host, &status).await?;
    }
    if let Some(plan) = &world.plan {
        let namespace = host.namespace().unwrap_or_default();
        if !object::is_deleting(plan) {
            let plans = Api::<HostPlan>::namespaced(context.client.clone(), &namespace);
            object::delete(&plans, &plan.name_any(), plan.uid()).await?;
        }
        return Ok(Action::requeue(DELETION_POLL));
    }
    if host.spec.provider == HostProvider::Lab && !lab::remove(context, host).await? {
        return Ok(Action::requeue(DELETION_POLL));
    }
    object::remove_finalizer(api, host).await?;
    Ok(Action::await_change())
}
