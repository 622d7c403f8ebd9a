//! One look at a cluster that shall exist: what is missing is made, in an order that lets
//! nothing wait that could go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use farplane_types::names::plane_namespace;
use farplane_types::{HostPlan, KubernetesCluster, KubernetesClusterStatus};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::Api;
use kube::runtime::reflector::ObjectRef;

use super::decide::{self, Keys, PlaneView};
use super::gather::{self, World};
use super::objects::{Applier, At};
use super::planes::Plane;
use super::{approve, hosts, observe, store};
use crate::context::Context;
use crate::error::Error;
use crate::object;

/// Makes what is missing and says how far it is.
pub(super) async fn reconcile(
    context: &Context,
    cluster: &KubernetesCluster,
) -> Result<KubernetesClusterStatus, Error> {
    let uid = cluster.uid().unwrap_or_default();
    let world = gather::world(context, cluster).await?;
    let hub = Applier {
        client: &context.client,
        memory: &context.memory,
        plane: &uid,
        at: At::Hub,
    };
    let settings = &context.settings;
    // The namespace and the addresses first: keys hold the addresses.
    hub.apply_all(&decide::services(cluster, settings)?).await?;
    let addresses = addresses(context, &uid).await?;
    let now = object::now();
    let keys = decide::keys(cluster, &world, &addresses, settings, &now)?;
    hub.apply_together(&keys.secrets).await?;
    store::make(&settings.store, &uid, cluster.spec.control_plane.replicas).await?;
    // Hosts prepare while the API server starts.
    let workloads = decide::control_plane(cluster, &world, &keys, &addresses, settings)?;
    let (refused, ()) = futures::try_join!(
        keep_hosts(context, cluster, &world, &keys),
        hub.apply_together(&workloads),
    )?;
    let (plane, view) = look(context, cluster, &uid, &keys).await?;
    if let Some(view) = &view {
        tend(context, cluster, &world, &uid, &plane, view).await?;
    }
    hub.apply(&decide::kubeconfig(cluster, &keys, settings)?)
        .await?;
    Ok(decide::status(
        cluster,
        &world,
        view.as_ref(),
        &refused,
        settings,
        now,
    ))
}

/// ClusterIPs of the plane's Services, by their name.
async fn addresses(context: &Context, uid: &str) -> Result<BTreeMap<String, String>, Error> {
    let namespace = plane_namespace(uid);
    let services = Api::<Service>::namespaced(context.client.clone(), &namespace)
        .list(&kube::api::ListParams::default())
        .await
        .map_err(Error::hub(format!("list Services of {namespace}")))?;
    let address = |service: Service| {
        let name = service.name_any();
        Some((name, service.spec?.cluster_ip?))
    };
    Ok(services.items.into_iter().filter_map(address).collect())
}

async fn keep_hosts(
    context: &Context,
    cluster: &KubernetesCluster,
    world: &World,
    keys: &Keys,
) -> Result<BTreeMap<String, String>, Error> {
    let wanted = decide::plans(cluster, world, keys, &context.settings)?;
    let changes = hosts::decide(cluster, wanted.plans, &world.plans);
    let namespace = cluster.namespace().unwrap_or_default();
    let api = Api::<HostPlan>::namespaced(context.client.clone(), &namespace);
    let mut refused = hosts::apply(&api, changes).await?;
    refused.extend(wanted.refused);
    Ok(refused)
}

/// The plane's own API, and what it says once it is ready.
async fn look(
    context: &Context,
    cluster: &KubernetesCluster,
    uid: &str,
    keys: &Keys,
) -> Result<(Arc<Plane>, Option<PlaneView>), Error> {
    let plane = context.planes.connect(uid, &keys.admin_kubeconfig).await?;
    if !observe::is_ready(&plane.client).await {
        return Ok((plane, None));
    }
    context.planes.watch(&plane, ObjectRef::from_obj(cluster));
    let view = observe::observe(&plane.client).await?;
    Ok((plane, Some(view)))
}

/// What is kept inside the cluster: answers to nodes first, since they wait.
async fn tend(
    context: &Context,
    cluster: &KubernetesCluster,
    world: &World,
    uid: &str,
    plane: &Plane,
    view: &PlaneView,
) -> Result<(), Error> {
    let answers = decide::answers(cluster, world, view);
    approve::apply(&plane.client, &answers).await?;
    let inside = Applier {
        client: &plane.client,
        memory: &context.memory,
        plane: uid,
        at: At::Plane,
    };
    inside
        .apply_all(&decide::addons(cluster, &context.settings)?)
        .await?;
    approve::remove_nodes(&plane.client, &decide::strays(cluster, world, view)).await
}
