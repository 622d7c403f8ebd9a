//! One look at a cluster that shall exist: what is missing is made, in an order that lets
//! nothing wait that could go on.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use farplane_kubernetes as blueprint;
use farplane_kubernetes::{Choice, Keys, World};
use farplane_types::names::plane_namespace;
use farplane_types::{HostPlan, KubernetesCluster, KubernetesClusterStatus};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::Api;
use kube::runtime::reflector::ObjectRef;

use super::gather::{self, Gathered};
use super::objects::{Applier, At};
use super::planes::Plane;
use super::{approve, hosts, observe, store};
use crate::context::Context;
use crate::error::Error;

/// Makes what is missing and says how far it is.
pub(super) async fn reconcile(
    context: &Context,
    cluster: &KubernetesCluster,
) -> Result<KubernetesClusterStatus, Error> {
    let Gathered {
        mut world,
        plane_ca,
    } = gather::world(context, cluster).await?;
    if let Err(refusal) = blueprint::admit(&world) {
        return Ok(blueprint::refused(&world, &refusal));
    }
    let uid = world.uid().to_owned();
    let hub = Applier {
        client: &context.client,
        memory: &context.memory,
        plane: &uid,
        at: At::Hub,
    };
    // The namespace and the addresses first: keys hold the addresses.
    hub.apply_all(&blueprint::services(&world)).await?;
    world.addresses = addresses(context, &uid).await?;
    let keys = blueprint::renew_keys(&world, &plane_ca).map_err(|source| Error::Keys {
        of: format!("cluster {}", world.name()),
        source: Box::new(source),
    })?;
    hub.apply_together(&keys.secrets(&world)).await?;
    store::make(&context.settings.store, &uid, world.replicas()).await?;
    let choice = blueprint::choose_hosts(&world);
    // Hosts prepare while the API server starts.
    let workloads = blueprint::control_plane(&world, &keys);
    let (lost, ()) = futures::try_join!(
        keep_hosts(context, &world, &keys, &choice),
        hub.apply_together(&workloads),
    )?;
    let plane = context
        .planes
        .connect(&uid, keys.admin_kubeconfig())
        .await?;
    if observe::is_ready(&plane.client).await {
        context.planes.watch(&plane, ObjectRef::from_obj(cluster));
        hub.apply(&blueprint::controllers(&world, &keys)).await?;
        world.view = Some(observe::observe(&plane.client).await?);
        tend(context, &world, &plane).await?;
    }
    hub.apply(&blueprint::public_kubeconfig(&world, &keys))
        .await?;
    Ok(blueprint::status(&world, &choice, &lost))
}

/// ClusterIPs of the plane's Services, by their name.
async fn addresses(context: &Context, uid: &str) -> Result<BTreeMap<String, Ipv4Addr>, Error> {
    let namespace = plane_namespace(uid);
    let services = Api::<Service>::namespaced(context.client.clone(), &namespace)
        .list(&kube::api::ListParams::default())
        .await
        .map_err(Error::hub(format!("list Services of {namespace}")))?;
    let address = |service: Service| {
        let name = service.name_any();
        Some((name, service.spec?.cluster_ip?.parse().ok()?))
    };
    Ok(services.items.into_iter().filter_map(address).collect())
}

/// Claims, keeps and gives back hosts. Returns, by host, why it could not be claimed.
async fn keep_hosts(
    context: &Context,
    world: &World,
    keys: &Keys,
    choice: &Choice,
) -> Result<BTreeMap<String, String>, Error> {
    let wanted = blueprint::host_plans(world, keys, choice).map_err(|source| Error::Keys {
        of: format!("the hosts of cluster {}", world.name()),
        source: Box::new(source),
    })?;
    let changes = hosts::decide(&world.cluster, wanted, &world.plans);
    let namespace = world.cluster.namespace().unwrap_or_default();
    let api = Api::<HostPlan>::namespaced(context.client.clone(), &namespace);
    hosts::apply(&api, changes).await
}

/// What is kept inside the cluster: answers to nodes first, since they wait.
async fn tend(context: &Context, world: &World, plane: &Arc<Plane>) -> Result<(), Error> {
    approve::apply(&plane.client, &blueprint::answers(world)).await?;
    let inside = Applier {
        client: &plane.client,
        memory: &context.memory,
        plane: world.uid(),
        at: At::Plane,
    };
    inside.apply_all(&blueprint::addons(world)).await?;
    approve::remove_nodes(&plane.client, &blueprint::strays(world)).await?;
    approve::spare_nodes(&plane.client, &blueprint::spared(world)).await
}
