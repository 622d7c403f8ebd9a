//! Everything that a decision about a cluster looks at. Reads only.

use std::collections::BTreeMap;

use farplane_types::names::{organization_of_namespace, plane_namespace};
use farplane_types::{Host, HostPlan, KubernetesCluster, Organization};
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};

use crate::context::Context;
use crate::error::Error;
use crate::hub_keys;

/// Secret with everything secret of a plane; Pods mount others, split from it.
pub(super) const PKI: &str = "pki";

/// The hub's side of a cluster.
pub(super) struct World {
    pub organization: Option<Organization>,
    /// Clusters of the organization, oldest first.
    pub clusters: Vec<KubernetesCluster>,
    pub hosts: Vec<Host>,
    pub plans: Vec<HostPlan>,
    pub pods: Vec<Pod>,
    /// Contents of the Secret [`PKI`]; empty before the first keys.
    pub pki: BTreeMap<String, Vec<u8>>,
    /// Address of the gateway within the hub.
    pub gateway_address: String,
    /// PEM of certificate and key.
    pub plane_ca: (String, String),
    /// PEM.
    pub hub_ca: String,
    /// `index.json` of the artifact server.
    pub artifacts: String,
}

pub(super) async fn world(context: &Context, cluster: &KubernetesCluster) -> Result<World, Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let plane = plane_namespace(&cluster.uid().unwrap_or_default());
    let client = &context.client;
    let all = ListParams::default();
    let clusters = Api::<KubernetesCluster>::namespaced(client.clone(), &namespace);
    let hosts = Api::<Host>::namespaced(client.clone(), &namespace);
    let plans = Api::<HostPlan>::namespaced(client.clone(), &namespace);
    let pods = Api::<Pod>::namespaced(client.clone(), &plane);
    let secrets = Api::<Secret>::namespaced(client.clone(), &plane);
    let services = Api::<Service>::namespaced(client.clone(), &context.settings.namespace);
    let organizations = Api::<Organization>::all(client.clone());
    let organization = organization_of_namespace(&namespace).unwrap_or_default();
    let (clusters, hosts, plans, pods, pki, gateway, organization) = futures::try_join!(
        clusters.list(&all),
        hosts.list(&all),
        plans.list(&all),
        pods.list(&all),
        secrets.get_opt(PKI),
        services.get(&context.settings.gateway_service),
        organizations.get_opt(organization),
    )
    .map_err(Error::hub(format!(
        "read what cluster {} depends on",
        cluster.name_any()
    )))?;
    let mut clusters = clusters.items;
    clusters.sort_by_key(|one| {
        let created = one.metadata.creation_timestamp.as_ref();
        (created.map(|time| time.0), one.name_any())
    });
    let (plane_ca, hub_ca, artifacts) = futures::try_join!(
        hub_keys::plane_ca(context),
        hub_keys::hub_ca(context),
        context.artifacts.text(&context.settings.artifacts_url),
    )?;
    Ok(World {
        organization,
        clusters,
        hosts: hosts.items,
        plans: plans.items,
        pods: pods.items,
        pki: contents(pki),
        gateway_address: gateway
            .spec
            .and_then(|spec| spec.cluster_ip)
            .unwrap_or_default(),
        plane_ca,
        hub_ca,
        artifacts,
    })
}

fn contents(secret: Option<Secret>) -> BTreeMap<String, Vec<u8>> {
    let data = secret.and_then(|secret| secret.data).unwrap_or_default();
    data.into_iter()
        .map(|(key, bytes)| (key, bytes.0))
        .collect()
}
