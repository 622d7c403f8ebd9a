//! Everything that a decision about a cluster looks at. Reads only.

use std::collections::BTreeMap;

use farplane_kubernetes::{Hub, Images, Store, World};
use farplane_pki::CertificateAuthority;
use farplane_types::names::{organization_of_namespace, plane_namespace};
use farplane_types::{Host, HostPlan, KubernetesCluster, Organization};
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};

use crate::context::Context;
use crate::error::Error;
use crate::settings;
use crate::{hub_keys, object};

/// Secret with everything secret of a plane; Pods mount others, split from it.
pub(super) const PKI: &str = "pki";

/// What decisions need, and the authority that signs the plane's identity at the gateway.
pub(super) struct Gathered {
    pub world: World,
    pub plane_ca: CertificateAuthority,
}

/// Reads the hub's side of a cluster: `addresses` and `view` come later.
pub(super) async fn world(
    context: &Context,
    cluster: &KubernetesCluster,
) -> Result<Gathered, Error> {
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
    let name = organization_of_namespace(&namespace).unwrap_or_default();
    let (clusters, hosts, plans, pods, pki, gateway, organization) = futures::try_join!(
        clusters.list(&all),
        hosts.list(&all),
        plans.list(&all),
        pods.list(&all),
        secrets.get_opt(PKI),
        services.get(&context.settings.gateway_service),
        organizations.get_opt(name),
    )
    .map_err(Error::hub(format!(
        "read what cluster {} depends on",
        cluster.name_any()
    )))?;
    let (plane_ca, hub) =
        futures::try_join!(hub_keys::plane_ca(context), hub(context, &gateway, cluster))?;
    let plane_ca = CertificateAuthority::from_pem(&plane_ca.0, &plane_ca.1);
    let world = World {
        organization: name.to_owned(),
        limits: organization.map(|it| it.spec.limits).unwrap_or_default(),
        cluster: cluster.clone(),
        clusters: clusters.items,
        hosts: hosts.items,
        plans: plans.items,
        pods: pods.items,
        addresses: BTreeMap::new(),
        stored: contents(pki),
        view: None,
        hub,
        now: object::now().0,
    };
    let plane_ca = plane_ca.map_err(|source| Error::Keys {
        of: "the hub's authority of planes".to_owned(),
        source: Box::new(source),
    })?;
    Ok(Gathered { world, plane_ca })
}

async fn hub(
    context: &Context,
    gateway: &Service,
    cluster: &KubernetesCluster,
) -> Result<Hub, Error> {
    let settings = &context.settings;
    let (ca_pem, artifacts) = futures::try_join!(
        hub_keys::hub_ca(context),
        context.artifacts.text(&settings.artifacts_url),
    )?;
    let address = gateway.spec.as_ref().and_then(|it| it.cluster_ip.as_ref());
    let gateway_address = address
        .and_then(|it| it.parse().ok())
        .ok_or_else(|| Error::Decide {
            cluster: cluster.name_any(),
            source: format!(
                "Service {}/{} has no IPv4 address within the hub",
                settings.namespace, settings.gateway_service
            )
            .into(),
        })?;
    let artifacts = World::artifacts(&artifacts).map_err(|source| Error::Artifacts {
        url: settings.artifacts_url.clone(),
        source: Box::new(source),
    })?;
    let store = match &settings.store {
        settings::Store::HostPath { path, .. } => Store::HostPath(path.clone()),
        settings::Store::StorageClass(name) => {
            Store::StorageClass(Some(name.clone()).filter(|name| !name.is_empty()))
        }
    };
    Ok(Hub {
        domain: settings.hub_domain.clone(),
        public_address: settings.public_address.clone(),
        gateway_address,
        ca_pem,
        images: Images {
            kubernetes_server: settings.images.kubernetes_server.clone(),
            etcd: settings.images.etcd.clone(),
            pause: settings.images.pause.clone(),
            // The artifact says it.
            coredns: String::new(),
        },
        store,
        artifacts,
    })
}

fn contents(secret: Option<Secret>) -> BTreeMap<String, Vec<u8>> {
    let data = secret.and_then(|secret| secret.data).unwrap_or_default();
    data.into_iter()
        .map(|(key, bytes)| (key, bytes.0))
        .collect()
}
