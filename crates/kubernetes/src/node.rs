//! Plans of hosts: what makes a machine a node of the cluster.
//!
//! Order: kernel, artifacts, files, containerd, images, kubelet, kube-proxy, flannel. The
//! kubelet gets its certificate with the bootstrap certificate in the plan; kube-proxy and
//! flannel call as the kubelet does, so they wait for that certificate. flannel also waits
//! for the node's Pod range, without which it ends. Everything up to the images is there
//! before the API server answers; the kubelet and what follows starts after.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use farplane_pki::{
    CertificateAuthority, Duration, LeafRequest, Usages, Validity, inspect, is_issued_by,
    renewal_due,
};
use farplane_types::wire::service;
use farplane_types::{
    Host, HostPlan, HostPlanSpec, Listener, NetworkProvider, PlaneReference, Readiness, Unit,
};
use kube::ResourceExt as _;
use serde_json::json;

use crate::addons::{BOOTSTRAP_USER, BOOTSTRAPPERS};
use crate::keys::{KeyError, Keys, encoded, kubeconfig, now};
use crate::node_config as config;
use crate::node_config::{CLIENT_CERTIFICATE, CNI_FILE, PLANE, SOCKET};
use crate::{API_ADDRESS, API_PORT, Choice, REGISTRY_ADDRESS, REGISTRY_PORT, World};

/// A host may be away for half of this and still join again by itself.
const BOOTSTRAP_LIFE: Duration = Duration::days(365);

/// Name of the kubelet's unit.
const KUBELET: &str = "kubelet";

/// Plan of each chosen host.
///
/// # Errors
/// When a bootstrap certificate cannot be made.
pub fn host_plans(
    world: &World,
    keys: &Keys,
    choice: &Choice,
) -> Result<BTreeMap<String, HostPlanSpec>, KeyError> {
    let chosen = world
        .hosts
        .iter()
        .filter(|host| choice.hosts.contains(&host.name_any()));
    chosen
        .map(|host| Ok((host.name_any(), host_plan(world, keys, host)?)))
        .collect()
}

/// Plan of one host. The bootstrap certificate of its present plan is kept until due.
///
/// # Errors
/// When a bootstrap certificate cannot be made.
pub fn host_plan(world: &World, keys: &Keys, host: &Host) -> Result<HostPlanSpec, KeyError> {
    let node = Node::of(world, host);
    let network = &world.cluster.spec.network;
    let mut units = kernel();
    units.extend(node.artifacts());
    units.extend(node.files(keys, bootstrap(world, keys, host)?));
    units.push(node.containerd());
    units.extend(node.images());
    if may_start(world, &node.name) {
        units.push(node.kubelet());
        units.push(node.kube_proxy());
        if network.provider == NetworkProvider::Flannel {
            units.push(node.flannel());
        }
    }
    units.push(config::cleanup(
        node.cgroup_version,
        &node.program("containerd", "runc"),
        &network.pod_cidr,
    ));
    Ok(HostPlanSpec {
        plane: PlaneReference {
            kind: "KubernetesCluster".to_owned(),
            name: world.name(),
            uid: world.uid().to_owned(),
        },
        listeners: vec![
            listener(API_ADDRESS, API_PORT, service::API),
            listener(REGISTRY_ADDRESS, REGISTRY_PORT, service::REGISTRY),
        ],
        reachable: vec![network.service_cidr.clone(), network.pod_cidr.clone()],
        units,
    })
}

fn listener(address: Ipv4Addr, port: u16, service: &str) -> Listener {
    Listener {
        address: address.to_string(),
        port,
        service: service.to_owned(),
    }
}

/// A kubelet that is refused at its first request pauses for many seconds. So it starts once
/// the API server has answered and knows the rights of hosts, and then for good.
fn may_start(world: &World, host: &str) -> bool {
    let has_kubelet = |plan: &HostPlan| {
        let mut units = plan.spec.units.iter();
        units.any(|unit| matches!(unit, Unit::Process { name, .. } if name == KUBELET))
    };
    let present = world.plan_of(host).filter(|plan| world.is_ours(plan));
    crate::status::has_answered(world) || present.is_some_and(has_kubelet)
}

/// Reference of an image that hosts import.
pub(crate) fn image_reference(world: &World, name: &str) -> Option<String> {
    let entry = world.artifact(&format!("image-{name}"), None)?;
    let images = &world.hub.images;
    let setting = match name {
        "pause" => &images.pause,
        _ => &images.coredns,
    };
    let reference = entry.reference.as_ref().unwrap_or(setting);
    (!reference.is_empty()).then(|| reference.clone())
}

fn kernel() -> Vec<Unit> {
    let sysctl = |key: &str, value: &str, optional| Unit::Sysctl {
        key: key.to_owned(),
        value: value.to_owned(),
        optional,
    };
    let module = |name: &str| Unit::KernelModule {
        name: name.to_owned(),
        // Built into many kernels; what is missing shows in what needs it.
        optional: true,
    };
    vec![
        module("overlay"),
        module("nf_conntrack"),
        module("vxlan"),
        sysctl("net.ipv4.ip_forward", "1", false),
        sysctl("fs.inotify.max_user_instances", "8192", true),
        sysctl("fs.inotify.max_user_watches", "524288", true),
    ]
}

/// A bootstrap kubeconfig: the one in the host's present plan while it is good.
fn bootstrap(world: &World, keys: &Keys, host: &Host) -> Result<String, KeyError> {
    let name = host.name_any();
    let user = format!("{BOOTSTRAP_USER}{name}");
    let failed = |source| KeyError::Make {
        name: format!("bootstrap certificate of host {name}"),
        source,
    };
    let (certificate, key) = match kept(world, keys, &name, &user) {
        Some(pair) => pair,
        None => {
            let authority =
                CertificateAuthority::from_pem(keys.text("ca.crt"), keys.text("ca.key"))
                    .map_err(failed)?;
            let validity = Validity::starting(now(world), BOOTSTRAP_LIFE);
            let mut request = LeafRequest::new(&user, Usages::Client, validity);
            request.organization = Some(BOOTSTRAPPERS.to_owned());
            let leaf = authority.issue(&request).map_err(failed)?;
            (leaf.certificate_pem, leaf.key_pem)
        }
    };
    let cluster = json!({
        "server": format!("https://{API_ADDRESS}:{API_PORT}"),
        "certificate-authority-data": encoded(keys, "ca.crt"),
    });
    let credentials = json!({
        "client-certificate-data": BASE64.encode(certificate),
        "client-key-data": BASE64.encode(key),
    });
    Ok(kubeconfig(&world.name(), &user, cluster, credentials))
}

/// Certificate and key in the host's present plan, when they can be kept.
fn kept(world: &World, keys: &Keys, host: &str, user: &str) -> Option<(String, String)> {
    let plan = world.plan_of(host).filter(|plan| world.is_ours(plan))?;
    let content = plan.spec.units.iter().find_map(|unit| match unit {
        Unit::File { path, content, .. } if *path == config::path("bootstrap.kubeconfig") => {
            Some(content)
        }
        _ => None,
    })?;
    let parsed: serde_json::Value = serde_yaml_ng::from_str(content).ok()?;
    let text = |field: &str| {
        let encoded = parsed["users"][0]["user"][field].as_str()?;
        String::from_utf8(BASE64.decode(encoded).ok()?).ok()
    };
    let (certificate, key) = (text("client-certificate-data")?, text("client-key-data")?);
    let good = inspect(&certificate).is_ok_and(|found| found.common_name == user)
        && is_issued_by(&certificate, keys.text("ca.crt"))
        && !renewal_due(&certificate, now(world));
    good.then_some((certificate, key))
}

/// A host as its plan sees it.
struct Node<'a> {
    world: &'a World,
    name: String,
    address: String,
    has_sys_resource: bool,
    cgroup_version: u8,
    /// Two managers of one tree of cgroups take controllers from each other.
    systemd_cgroups: bool,
}

impl<'a> Node<'a> {
    fn of(world: &'a World, host: &Host) -> Self {
        let facts = host.status.as_ref().and_then(|status| status.facts.clone());
        let facts = facts.unwrap_or_default();
        Self {
            world,
            name: host.name_any(),
            address: facts.node_address,
            has_sys_resource: facts.has_sys_resource,
            cgroup_version: facts.cgroup_version,
            systemd_cgroups: facts.has_systemd && facts.cgroup_version == 2,
        }
    }

    fn is_flannel(&self) -> bool {
        self.world.cluster.spec.network.provider == NetworkProvider::Flannel
    }

    /// Names of the artifacts with the version each must have.
    fn wanted(&self) -> Vec<(&'static str, Option<&str>)> {
        let mut all = vec![
            ("containerd", None),
            ("cni", None),
            (
                "kubernetes-node",
                Some(self.world.cluster.spec.version.as_str()),
            ),
            ("image-pause", None),
            ("image-coredns", None),
        ];
        if self.is_flannel() {
            all.push(("flannel", None));
        }
        all
    }

    fn artifacts(&self) -> Vec<Unit> {
        let entries = self
            .wanted()
            .into_iter()
            .filter_map(|(name, version)| self.world.artifact(name, version));
        entries
            .map(|entry| Unit::Artifact {
                name: entry.name.clone(),
                sha256: entry.sha256.clone(),
                size: entry.size,
            })
            .collect()
    }

    /// Directory of an unpacked artifact.
    fn directory(&self, artifact: &str) -> String {
        let wanted = self.wanted();
        let version = wanted.iter().find(|(name, _)| *name == artifact);
        let entry = self
            .world
            .artifact(artifact, version.and_then(|(_, version)| *version));
        let sha256 = entry.map(|entry| entry.sha256.as_str());
        format!("{}/{}", config::ARTIFACTS, sha256.unwrap_or("missing"))
    }

    fn program(&self, artifact: &str, program: &str) -> String {
        format!("{}/{program}", self.directory(artifact))
    }

    fn files(&self, keys: &Keys, bootstrap: String) -> Vec<Unit> {
        let network = &self.world.cluster.spec.network;
        let dns = self.world.service_address(crate::addons::DNS_NUMBER);
        let runtime = config::Runtime {
            programs: self.directory("containerd"),
            cni: self.directory("cni"),
            pause: image_reference(self.world, "pause").unwrap_or_default(),
            restrict_oom_score_adj: !self.has_sys_resource,
            systemd_cgroups: self.systemd_cgroups,
            own_network: !self.is_flannel(),
        };
        let mut all = vec![
            directory(PLANE, 0o700),
            file("ca.crt", keys.text("ca.crt"), 0o644),
            file("containerd.toml", &runtime.config(), 0o600),
            file("bootstrap.kubeconfig", &bootstrap, 0o600),
            file("node.kubeconfig", &self.node_kubeconfig(keys), 0o600),
            file(
                "kubelet.yaml",
                &config::kubelet(dns, self.has_sys_resource, self.systemd_cgroups),
                0o600,
            ),
            file(
                "kube-proxy.yaml",
                &config::kube_proxy(&self.name, &network.pod_cidr, self.has_sys_resource),
                0o600,
            ),
        ];
        if let Some(registry) = config::registry(&runtime.pause) {
            all.extend([
                directory(&config::path(config::REGISTRIES), 0o755),
                directory(&config::path(&registry), 0o755),
                file(
                    &format!("{registry}/hosts.toml"),
                    &config::only_the_hubs(REGISTRY_ADDRESS, REGISTRY_PORT),
                    0o644,
                ),
            ]);
        }
        if self.is_flannel() {
            all.extend([
                directory(&config::path("cni"), 0o755),
                directory("/run/flannel", 0o755),
                file("cni.template", config::CNI_TEMPLATE, 0o644),
                file("flannel.json", &config::flannel(&network.pod_cidr), 0o644),
                directory(&config::path("bin"), 0o755),
                file("bin/iptables", config::NO_IPTABLES, 0o755),
                file("bin/ip6tables", config::NO_IPTABLES, 0o755),
            ]);
        }
        all
    }

    fn node_kubeconfig(&self, keys: &Keys) -> String {
        let cluster = json!({
            "server": format!("https://{API_ADDRESS}:{API_PORT}"),
            "certificate-authority-data": encoded(keys, "ca.crt"),
        });
        let user = json!({
            "client-certificate": CLIENT_CERTIFICATE,
            "client-key": CLIENT_CERTIFICATE,
        });
        kubeconfig(&self.world.name(), &self.name, cluster, user)
    }

    fn containerd(&self) -> Unit {
        let path = format!("{}:{}", self.directory("containerd"), config::SYSTEM_PATH);
        Unit::Process {
            name: "containerd".to_owned(),
            command: vec![
                self.program("containerd", "containerd"),
                format!("--config={}", config::path("containerd.toml")),
            ],
            environment: BTreeMap::from([
                ("PATH".to_owned(), path),
                // It fetches images: an agent behind a proxy adds the proxy to what is said here.
                ("NO_PROXY".to_owned(), self.inside()),
            ]),
            wait_for: Vec::new(),
            readiness: Some(Readiness::UnixSocket(SOCKET.to_owned())),
            restart_on: vec![key_of("containerd.toml")],
            remove_after: Vec::new(),
        }
    }

    /// What no proxy of the site leads to.
    fn inside(&self) -> String {
        let network = &self.world.cluster.spec.network;
        let own = "localhost,127.0.0.0/8,::1,.svc,.cluster.local";
        format!(
            "{own},{API_ADDRESS},{},{}",
            network.service_cidr, network.pod_cidr
        )
    }

    fn images(&self) -> Vec<Unit> {
        let image = |name: &str| {
            Some(Unit::Image {
                reference: image_reference(self.world, name)?,
                archive: self.program(&format!("image-{name}"), "image.tar"),
                ctr: self.program("containerd", "ctr"),
                socket: SOCKET.to_owned(),
            })
        };
        ["pause", "coredns"].into_iter().filter_map(image).collect()
    }

    fn kubelet(&self) -> Unit {
        Unit::Process {
            name: KUBELET.to_owned(),
            command: vec![
                "/bin/sh".to_owned(),
                "-c".to_owned(),
                config::WITH_NAME_SERVERS.to_owned(),
                self.program("kubernetes-node", "kubelet"),
                format!("--config={}", config::path("kubelet.yaml")),
                format!(
                    "--bootstrap-kubeconfig={}",
                    config::path("bootstrap.kubeconfig")
                ),
                "--kubeconfig=/var/lib/kubelet/kubeconfig".to_owned(),
                format!("--hostname-override={}", self.name),
                format!("--node-ip={}", self.address),
            ],
            environment: BTreeMap::new(),
            wait_for: vec![config::path("bootstrap.kubeconfig"), SOCKET.to_owned()],
            readiness: Some(Readiness::Http("http://127.0.0.1:10248/healthz".to_owned())),
            restart_on: vec![key_of("kubelet.yaml"), key_of("ca.crt")],
            remove_after: Vec::new(),
        }
    }

    fn kube_proxy(&self) -> Unit {
        Unit::Process {
            name: "kube-proxy".to_owned(),
            command: vec![
                self.program("kubernetes-node", "kube-proxy"),
                format!("--config={}", config::path("kube-proxy.yaml")),
            ],
            environment: BTreeMap::new(),
            wait_for: vec![CLIENT_CERTIFICATE.to_owned()],
            readiness: Some(Readiness::Http("http://127.0.0.1:10256/livez".to_owned())),
            restart_on: vec![key_of("kube-proxy.yaml"), key_of("node.kubeconfig")],
            remove_after: Vec::new(),
        }
    }

    fn flannel(&self) -> Unit {
        Unit::Process {
            name: "flannel".to_owned(),
            command: vec![
                self.program("flannel", "flanneld"),
                "--kube-subnet-mgr".to_owned(),
                format!("--kubeconfig-file={}", config::path("node.kubeconfig")),
                format!("--net-config-path={}", config::path("flannel.json")),
                format!("--iface={}", self.address),
                "--ip-masq".to_owned(),
            ],
            environment: BTreeMap::from([
                ("NODE_NAME".to_owned(), self.name.clone()),
                (
                    "PATH".to_owned(),
                    format!("{}:{}", config::path("bin"), config::SYSTEM_PATH),
                ),
            ]),
            wait_for: vec![CLIENT_CERTIFICATE.to_owned(), CNI_FILE.to_owned()],
            readiness: Some(Readiness::Path("/run/flannel/subnet.env".to_owned())),
            restart_on: vec![key_of("flannel.json"), key_of("node.kubeconfig")],
            remove_after: vec!["/run/flannel/subnet.env".to_owned()],
        }
    }
}

fn file(name: &str, content: &str, mode: u32) -> Unit {
    Unit::File {
        path: config::path(name),
        content: content.to_owned(),
        mode,
    }
}

fn directory(path: &str, mode: u32) -> Unit {
    Unit::Directory {
        path: path.to_owned(),
        mode,
    }
}

/// Key of the unit of one of our files.
fn key_of(name: &str) -> String {
    format!("file{}", config::path(name))
}
