//! Which leaves a plane has, and whether one is still good.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use farplane_pki::{
    CertificateAuthority, Duration, LeafRequest, OffsetDateTime, Usages, Validity, inspect,
    is_issued_by, renewal_due,
};
use farplane_types::identity::Identity;

use super::KeyError;
use crate::services::member_name;
use crate::{API_ADDRESS, World};

const LEAF_LIFE: Duration = Duration::days(365);

/// Who signs a leaf.
pub(super) enum Signer {
    Cluster,
    FrontProxy,
    Etcd,
    /// The hub's authority for planes.
    Plane,
}

/// A leaf as it is wanted, whenever it is made.
pub(super) struct LeafSpec {
    pub name: String,
    pub signer: Signer,
    common_name: String,
    organization: Option<&'static str>,
    dns_names: Vec<String>,
    ip_addresses: Vec<IpAddr>,
    uris: Vec<String>,
    usages: Usages,
}

impl LeafSpec {
    fn new(name: impl Into<String>, signer: Signer, common_name: &str, usages: Usages) -> Self {
        Self {
            name: name.into(),
            signer,
            common_name: common_name.to_owned(),
            organization: None,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            uris: Vec::new(),
            usages,
        }
    }

    pub fn request(&self, now: OffsetDateTime) -> LeafRequest {
        LeafRequest {
            common_name: self.common_name.clone(),
            organization: self.organization.map(ToOwned::to_owned),
            dns_names: self.dns_names.clone(),
            ip_addresses: self.ip_addresses.clone(),
            uris: self.uris.clone(),
            usages: self.usages,
            validity: Validity::starting(now, LEAF_LIFE),
        }
    }

    /// True when this certificate can be kept.
    pub fn is_good(
        &self,
        certificate: &str,
        authority: &CertificateAuthority,
        now: OffsetDateTime,
    ) -> bool {
        let Ok(found) = inspect(certificate) else {
            return false;
        };
        let same = |a: &[String], b: &[String]| {
            a.iter().collect::<BTreeSet<_>>() == b.iter().collect::<BTreeSet<_>>()
        };
        let addresses: BTreeSet<_> = found.ip_addresses.iter().collect();
        found.common_name == self.common_name
            && found.organizations.first().map(String::as_str) == self.organization
            && same(&found.dns_names, &self.dns_names)
            && same(&found.uris, &self.uris)
            && addresses == self.ip_addresses.iter().collect()
            && is_issued_by(certificate, authority.certificate_pem())
            && !renewal_due(certificate, now)
    }
}

/// ClusterIP of a Service of the plane.
pub(super) fn address(world: &World, service: &str) -> Result<Ipv4Addr, KeyError> {
    let address = world.addresses.get(service).copied();
    address.ok_or_else(|| KeyError::NoAddress {
        service: service.to_owned(),
    })
}

/// Every leaf of the plane.
pub(super) fn wanted(world: &World) -> Result<Vec<LeafSpec>, KeyError> {
    use Signer::{Cluster, Etcd, FrontProxy, Plane};
    use Usages::{Client, Server};
    let client = |name: &str, signer, user: &str| LeafSpec::new(name, signer, user, Client);

    let mut controllers = LeafSpec::new("controllers", Cluster, "controllers", Server);
    controllers.dns_names = vec!["localhost".to_owned()];
    let mut egress = client("egress-client", Plane, "plane");
    let identity = Identity::Plane {
        uid: world.uid().to_owned(),
    };
    egress.uris = vec![identity.to_string()];
    let mut admin = client("admin", Cluster, "farplane:hub");
    admin.organization = Some("system:masters");
    let mut user = client("user", Cluster, "admin");
    user.organization = Some(crate::addons::ADMINS);

    let mut all = vec![
        apiserver(world)?,
        client(
            "apiserver-kubelet-client",
            Cluster,
            crate::addons::KUBELET_CLIENT,
        ),
        client("apiserver-etcd-client", Etcd, "kube-apiserver"),
        client("front-proxy-client", FrontProxy, "front-proxy-client"),
        client(
            "controller-manager",
            Cluster,
            "system:kube-controller-manager",
        ),
        client("scheduler", Cluster, "system:kube-scheduler"),
        controllers,
        egress,
        admin,
        user,
    ];
    for member in 0..world.replicas() {
        let name = member_name(member);
        let mut etcd = LeafSpec::new(&name, Etcd, &name, Usages::ServerAndClient);
        etcd.ip_addresses = vec![address(world, &name)?.into(), Ipv4Addr::LOCALHOST.into()];
        all.push(etcd);
    }
    Ok(all)
}

fn apiserver(world: &World) -> Result<LeafSpec, KeyError> {
    let mut leaf = LeafSpec::new(
        "apiserver",
        Signer::Cluster,
        "kube-apiserver",
        Usages::Server,
    );
    leaf.dns_names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ]
    .map(ToOwned::to_owned)
    .into();
    leaf.dns_names.push(world.server_name());
    leaf.ip_addresses = vec![
        API_ADDRESS.into(),
        Ipv4Addr::LOCALHOST.into(),
        address(world, "apiserver")?.into(),
    ];
    leaf.ip_addresses
        .extend(world.service_address(1).map(IpAddr::from));
    Ok(leaf)
}
