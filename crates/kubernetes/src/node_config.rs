//! Configuration files of what runs on a host, and what is left to remove afterwards.

use std::net::Ipv4Addr;

use farplane_types::Unit;
use serde::Serialize;
use serde_json::json;

use crate::object::yaml;

/// Everything of ours that the plan writes.
pub(crate) const PLANE: &str = "/var/lib/farplane/plane";
/// Where the agent unpacks artifacts.
pub(crate) const ARTIFACTS: &str = "/var/lib/farplane/artifacts";
/// containerd's socket.
pub(crate) const SOCKET: &str = "/run/farplane/containerd/containerd.sock";
/// Certificate and key of the node, as the kubelet renews them.
pub(crate) const CLIENT_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
/// What containerd writes once it knows the node's Pod range; the name is containerd's.
pub(crate) const CNI_FILE: &str = "/var/lib/farplane/plane/cni/10-containerd-net.conflist";
/// Where programs of the machine are.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the kubelet with the name servers that Pods can use: where a resolver of this machine
/// answers at a loopback address, those that it asks itself.
pub(crate) const WITH_NAME_SERVERS: &str = "conf=/etc/resolv.conf; \
    own=/run/systemd/resolve/resolv.conf; \
    if [ -s $own ] && ! grep -Ev '^nameserver[[:space:]]+(127\\.|::1)' $conf | grep -q ^nameserver; \
    then conf=$own; fi; exec \"$0\" \"$@\" --resolv-conf=$conf";

/// Directory with what containerd does for single registries.
pub(crate) const REGISTRIES: &str = "certs.d";

/// Our images come with the plan or from the hub, through the agent. Whoever owns the name of
/// their registry on the internet, or answers for it, is never asked: what would be asked
/// after the hub is an address at which nobody can be.
pub(crate) fn only_the_hubs(address: Ipv4Addr, port: u16) -> String {
    format!(
        "server = \"https://127.0.0.1:1\"\n\n\
         [host.\"http://{address}:{port}\"]\n\
         capabilities = [\"pull\", \"resolve\"]\n"
    )
}

/// Directory of the registry of this image reference.
pub(crate) fn registry(reference: &str) -> Option<String> {
    let (registry, _) = reference.split_once('/')?;
    Some(format!("{REGISTRIES}/{registry}"))
}

/// What flannel finds as iptables. It works with nftables, but ends where there is no iptables
/// to look for rules of an earlier life with; there never was one here, and many machines have
/// no iptables.
pub(crate) const NO_IPTABLES: &str = r#"#!/bin/sh
case "$1" in
--version) echo "iptables v1.8.9 (nf_tables)" ;;
*) echo "iptables: there are no rules" >&2; exit 1 ;;
esac
"#;

const ROOT: &str = "/var/lib/farplane/containerd";
const STATE: &str = "/run/farplane/containerd";
const RUNC_ROOT: &str = "/run/farplane/runc";

/// Rendered by containerd. The size leaves room for VXLAN on a usual network. Only addresses
/// of other nodes go through flannel, so a link per Pod and routes are enough.
pub(crate) const CNI_TEMPLATE: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "farplane-plane",
  "plugins": [
    {
      "type": "ptp",
      "mtu": 1450,
      "ipMasq": false,
      "ipam": {
        "type": "host-local",
        "dataDir": "/var/lib/farplane/plane/addresses",
        "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {
      "type": "portmap",
      "backend": "nftables",
      "capabilities": {"portMappings": true}
    }
  ]
}
"#;

/// Path of one of our files.
pub(crate) fn path(name: &str) -> String {
    format!("{PLANE}/{name}")
}

/// containerd's settings that depend on the host.
pub(crate) struct Runtime {
    /// Directory of containerd, its shim and runc.
    pub programs: String,
    /// Directory of the CNI plugins.
    pub cni: String,
    /// Reference of the pause image.
    pub pause: String,
    /// Without CAP_SYS_RESOURCE scores cannot be lowered.
    pub restrict_oom_score_adj: bool,
    /// systemd makes the cgroups; the kubelet asks containerd which of both it is.
    pub systemd_cgroups: bool,
    /// The organization brings its own network plugin, where such plugins go.
    pub own_network: bool,
}

#[derive(Serialize)]
struct ContainerdConfig {
    version: u32,
    root: &'static str,
    state: &'static str,
    disabled_plugins: Vec<&'static str>,
    imports: Vec<String>,
    grpc: toml::Table,
    ttrpc: toml::Table,
    plugins: toml::Table,
}

impl Runtime {
    /// Text of containerd's configuration.
    pub fn config(&self) -> String {
        let address = |address: String| table([("address", address.into())]);
        let config = ContainerdConfig {
            version: 3,
            root: ROOT,
            state: STATE,
            disabled_plugins: vec![
                "io.containerd.nri.v1.nri",
                "io.containerd.internal.v1.tracing",
                "io.containerd.tracing.processor.v1.otlp",
            ],
            // The machine's own containerd has its files at the default place.
            imports: Vec::new(),
            grpc: address(SOCKET.to_owned()),
            ttrpc: address(format!("{SOCKET}.ttrpc")),
            plugins: self.plugins(),
        };
        // Tables of texts and numbers always have a TOML form.
        toml::to_string(&config).unwrap_or_default()
    }

    fn plugins(&self) -> toml::Table {
        let options = table([
            ("BinaryName", format!("{}/runc", self.programs).into()),
            ("Root", RUNC_ROOT.into()),
            ("SystemdCgroup", self.systemd_cgroups.into()),
        ]);
        let shim = format!("{}/containerd-shim-runc-v2", self.programs);
        let runc = table([
            ("runtime_type", "io.containerd.runc.v2".into()),
            ("runtime_path", shim.into()),
            ("options", options.into()),
        ]);
        let containerd = table([
            ("default_runtime_name", "runc".into()),
            ("runtimes", table([("runc", runc.into())]).into()),
        ]);
        let mut cni = table([("use_internal_loopback", true.into())]);
        if self.own_network {
            let bin = vec![self.cni.clone(), "/opt/cni/bin".to_owned()];
            cni.insert("bin_dirs".to_owned(), bin.into());
            cni.insert("conf_dir".to_owned(), "/etc/cni/net.d".into());
        } else {
            cni.insert("bin_dirs".to_owned(), vec![self.cni.clone()].into());
            cni.insert("conf_dir".to_owned(), path("cni").into());
            cni.insert("conf_template".to_owned(), path("cni.template").into());
        }
        let runtime = table([
            ("restrict_oom_score_adj", self.restrict_oom_score_adj.into()),
            ("netns_mounts_under_state_dir", true.into()),
            ("cni", cni.into()),
            ("containerd", containerd.into()),
        ]);
        let pinned = table([("sandbox", self.pause.clone().into())]);
        // One directory: of a list, containerd 2.4 looks at none.
        let registry = table([("config_path", path(REGISTRIES).into())]);
        let images = table([
            ("pinned_images", pinned.into()),
            ("registry", registry.into()),
        ]);
        let opt = table([("path", format!("{ROOT}/opt").into())]);
        table([
            ("io.containerd.cri.v1.images", images.into()),
            ("io.containerd.cri.v1.runtime", runtime.into()),
            ("io.containerd.internal.v1.opt", opt.into()),
        ])
    }
}

fn table<const N: usize>(entries: [(&str, toml::Value); N]) -> toml::Table {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// Without the right to lower scores, the present one is kept.
fn oom_score_adj(has_sys_resource: bool) -> i32 {
    if has_sys_resource { -999 } else { 0 }
}

/// Text of the kubelet's configuration.
pub(crate) fn kubelet(
    dns: Option<Ipv4Addr>,
    has_sys_resource: bool,
    systemd_cgroups: bool,
) -> String {
    let driver = if systemd_cgroups {
        "systemd"
    } else {
        "cgroupfs"
    };
    yaml(&json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "port": 10250,
        "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": 10248,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": path("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsMinVersion": "VersionTLS12",
        "rotateCertificates": true,
        "serverTLSBootstrap": true,
        "clusterDomain": "cluster.local",
        "clusterDNS": dns.map(|address| address.to_string()).into_iter().collect::<Vec<_>>(),
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "cgroupDriver": driver,
        "failCgroupV1": false,
        "failSwapOn": false,
        "oomScoreAdj": oom_score_adj(has_sys_resource),
        // kube-proxy works with nftables; the chains would only be left over.
        "makeIPTablesUtilChains": false,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "serializeImagePulls": false,
        // Images that came as artifacts are in no registry to be pulled from again.
        "imageGCHighThresholdPercent": 95,
        "imageGCLowThresholdPercent": 90,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "3%",
            "nodefs.inodesFree": "2%",
            "imagefs.available": "3%",
        },
    }))
}

/// Text of kube-proxy's configuration.
pub(crate) fn kube_proxy(host: &str, pod_cidr: &str, has_sys_resource: bool) -> String {
    yaml(&json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": host,
        "clusterCIDR": pod_cidr,
        "bindAddress": "0.0.0.0",
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clientConnection": { "kubeconfig": path("node.kubeconfig") },
        "oomScoreAdj": oom_score_adj(has_sys_resource),
        // The machine's table of connections is not ours to resize.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }))
}

/// Text of flannel's configuration.
pub(crate) fn flannel(pod_cidr: &str) -> String {
    let config = json!({
        "Network": pod_cidr,
        "EnableNFTables": true,
        "Backend": { "Type": "vxlan" },
    });
    format!("{config:#}\n")
}

/// What a node leaves behind when its processes have stopped.
pub(crate) fn cleanup(cgroup_version: u8, runc: &str, pod_cidr: &str) -> Unit {
    let shell = |script: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), script];
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    // Hierarchies are below the mount in version 1; in version 2 there is one, and whoever
    // made the cgroups then may not be who would make them now.
    let cgroups = match cgroup_version {
        2 => "/sys/fs/cgroup/kubepods /sys/fs/cgroup/kubepods.slice",
        _ => "/sys/fs/cgroup/*/kubepods",
    };
    Unit::Cleanup {
        name: "node".to_owned(),
        commands: vec![
            // Containers outlive containerd. The agent ends shims itself: it knows its own.
            shell(format!(
                "for container in {RUNC_ROOT}/k8s.io/*; do [ -d \"$container\" ] || continue; \
                 {runc} --root {RUNC_ROOT}/k8s.io delete --force \"${{container##*/}}\"; done"
            )),
            // systemd would keep the empty slices, and make them again.
            shell(
                "[ ! -d /sys/fs/cgroup/kubepods.slice ] || systemctl stop kubepods.slice"
                    .to_owned(),
            ),
            shell(format!(
                "for top in {cgroups}; do [ -d \"$top\" ] || continue; \
                 find \"$top\" -depth -type d -exec rmdir {{}} +; done"
            )),
            // A namespace that something still holds keeps its Pod's interface here.
            shell(format!(
                "ip -4 route show root {pod_cidr} | sed -n 's/.* dev \\(veth[^ ]*\\).*/\\1/p' | \
                 while read -r link; do ip link delete \"$link\"; done; true"
            )),
            shell(
                "rm -f /var/lib/cni/results/farplane-plane-*; \
                 rmdir /var/lib/cni/results /var/lib/cni 2>/dev/null; true"
                    .to_owned(),
            ),
            // Shims have them there, those of the machine's own containerd too.
            shell(
                "for socket in /run/containerd/s/*; do \
                 grep -qsF \"$socket\" /proc/net/unix || rm -f \"$socket\"; done; \
                 rmdir /run/containerd/s /run/containerd 2>/dev/null; true"
                    .to_owned(),
            ),
        ],
        interfaces: texts(&["flannel.1"]),
        tables: texts(&[
            "ip kube-proxy",
            "ip6 kube-proxy",
            "ip flannel-ipv4",
            "ip6 flannel-ipv6",
            "ip cni_hostport",
            "ip6 cni_hostport",
        ]),
        directories: texts(&[
            STATE,
            RUNC_ROOT,
            ROOT,
            "/run/flannel",
            "/var/lib/kubelet",
            "/var/log/pods",
            "/var/log/containers",
            PLANE,
        ]),
    }
}
