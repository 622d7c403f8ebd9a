//! Organizations: a namespace with its members' roles and bounds, and what is in use.
//!
//! Deletion: the namespace goes first, with everything in it; the object goes once the
//! namespace is gone. A namespace of the wanted name that somebody else made is left alone.

mod decide;

use std::sync::Arc;
use std::time::Duration;

use farplane_types::names::{
    ORGANIZATION_LABEL, organization_namespace, organization_of_namespace,
};
use farplane_types::{
    Host, HostPlan, JoinToken, KubernetesCluster, Organization, OrganizationStatus, conditions,
};
use k8s_openapi::api::core::v1::{LimitRange, Namespace, ResourceQuota};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, ListParams};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};

use crate::context::{Context, RESYNC, drive};
use crate::error::{Error, is_code};
use crate::object;
use decide::World;

/// How often a vanishing namespace is looked at, in case its end was missed.
const DELETION_POLL: Duration = Duration::from_secs(2);

/// Runs the controller.
pub(crate) async fn run(context: Arc<Context>) -> Error {
    let client = context.client.clone();
    let any = watcher::Config::default;
    let controller = Controller::new(Api::<Organization>::all(client.clone()), any())
        .watches(
            Api::<PartialObjectMeta<Namespace>>::all(client.clone()),
            any().labels(ORGANIZATION_LABEL),
            |namespace| by_namespace(Some(namespace.name_any())),
        )
        .watches(
            Api::<PartialObjectMeta<Host>>::all(client.clone()),
            any(),
            |host| by_namespace(host.namespace()),
        )
        .watches(
            Api::<PartialObjectMeta<KubernetesCluster>>::all(client.clone()),
            any(),
            |cluster| by_namespace(cluster.namespace()),
        )
        .watches(
            Api::<PartialObjectMeta<HostPlan>>::all(client),
            any(),
            |plan| by_namespace(plan.namespace()),
        );
    drive("Organization", controller, context, reconcile).await
}

fn by_namespace(namespace: Option<String>) -> Option<ObjectRef<Organization>> {
    let namespace = namespace?;
    organization_of_namespace(&namespace).map(ObjectRef::new)
}

async fn reconcile(
    organization: Arc<Organization>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let api = Api::<Organization>::all(context.client.clone());
    if object::is_deleting(organization.as_ref()) {
        return remove(&api, &organization, &context).await;
    }
    object::add_finalizer(&api, organization.as_ref()).await?;
    let world = gather(&context.client, &organization.name_any()).await?;
    let outcome = if decide::is_foreign(&organization, &world) {
        Ok(false)
    } else {
        apply(&context.client, &organization).await.map(|()| true)
    };
    let failure = outcome.as_ref().err().map(Error::chain);
    let status = decide::status(&organization, &world, failure, object::now());
    publish(&api, &organization, &context, status).await?;
    drop_expired_tokens(&context.client, &world).await?;
    outcome.map(|_| Action::requeue(RESYNC))
}

async fn gather(client: &Client, name: &str) -> Result<World, Error> {
    let namespace = organization_namespace(name);
    let namespaces = Api::<Namespace>::all(client.clone());
    let found = namespaces
        .get_opt(&namespace)
        .await
        .map_err(Error::hub(format!("read Namespace {namespace}")))?;
    let all = ListParams::default();
    let hosts = Api::<Host>::namespaced(client.clone(), &namespace);
    let clusters = Api::<KubernetesCluster>::namespaced(client.clone(), &namespace);
    let plans = Api::<HostPlan>::namespaced(client.clone(), &namespace);
    let tokens = Api::<JoinToken>::namespaced(client.clone(), &namespace);
    let (hosts, clusters, plans, tokens) = futures::try_join!(
        hosts.list(&all),
        clusters.list(&all),
        plans.list(&all),
        tokens.list(&all)
    )
    .map_err(Error::hub(format!("list what is in Namespace {namespace}")))?;
    Ok(World {
        namespace: found,
        hosts: hosts.items,
        clusters: clusters.items.len(),
        plans: plans.items,
        tokens: tokens.items,
    })
}

async fn apply(client: &Client, organization: &Organization) -> Result<(), Error> {
    let decide::Objects {
        namespace,
        bindings,
        quota,
        limits,
    } = decide::objects(organization);
    let name = namespace.name_any();
    // The namespace first: everything else is in it.
    object::apply(&Api::<Namespace>::all(client.clone()), &namespace).await?;
    let api = Api::<RoleBinding>::namespaced(client.clone(), &name);
    for binding in &bindings {
        object::apply(&api, binding).await?;
    }
    let quotas = Api::<ResourceQuota>::namespaced(client.clone(), &name);
    match &quota {
        Some(quota) => {
            object::apply(&quotas, quota).await?;
        }
        None => {
            object::delete(&quotas, decide::OBJECT_NAME, None).await?;
        }
    }
    object::apply(
        &Api::<LimitRange>::namespaced(client.clone(), &name),
        &limits,
    )
    .await?;
    Ok(())
}

async fn publish(
    api: &Api<Organization>,
    organization: &Organization,
    context: &Context,
    status: OrganizationStatus,
) -> Result<(), Error> {
    let before = organization.status.clone().unwrap_or_default();
    if before == status {
        return Ok(());
    }
    object::apply_status(api, organization, &status).await?;
    object::tell_ready(
        context,
        organization,
        &before.conditions,
        &status.conditions,
    )
    .await;
    Ok(())
}

/// Nothing reads a token after its end; its object would stay for ever.
async fn drop_expired_tokens(client: &Client, world: &World) -> Result<(), Error> {
    for token in decide::expired_tokens(world, &object::now()) {
        let namespace = token.namespace().unwrap_or_default();
        let api = Api::<JoinToken>::namespaced(client.clone(), &namespace);
        object::delete(&api, &token.name_any(), token.uid()).await?;
    }
    Ok(())
}

async fn remove(
    api: &Api<Organization>,
    organization: &Organization,
    context: &Context,
) -> Result<Action, Error> {
    if !object::has_finalizer(organization) {
        return Ok(Action::await_change());
    }
    let name = organization_namespace(&organization.name_any());
    let namespaces = Api::<Namespace>::all(context.client.clone());
    let found = match namespaces.get(&name).await {
        Ok(found) => Some(found),
        Err(error) if is_code(&error, 404) => None,
        Err(error) => return Err(Error::hub(format!("read Namespace {name}"))(error)),
    };
    let ours = found.filter(|found| decide::is_ours(organization, found));
    let Some(namespace) = ours else {
        object::remove_finalizer(api, organization).await?;
        return Ok(Action::await_change());
    };
    if !object::is_deleting(&namespace) {
        object::delete(&namespaces, &name, namespace.uid()).await?;
    }
    let mut status = organization.status.clone().unwrap_or_default();
    conditions::set(
        &mut status.conditions,
        conditions::READY,
        false,
        "Deleting",
        format!("waits until everything in namespace {name} is gone"),
        organization.metadata.generation,
        object::now(),
    );
    publish(api, organization, context, status).await?;
    Ok(Action::requeue(DELETION_POLL))
}
