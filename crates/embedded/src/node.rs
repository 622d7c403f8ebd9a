//! Configuration of what runs containers: containerd, CNI, kubelet, kube-proxy.
//!
//! Files are written from scratch at every start of the supervisor, so a new release's
//! settings take effect with its programs.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::error::Error;
use crate::files::{Files, write};
use crate::network::POD_RANGE;
use crate::record::Record;

/// Writes every file of the node.
pub(crate) fn configure(record: &Record, files: &Files, pause: &str) -> Result<(), Error> {
    let config = files.config();
    let dist = &record.dist;
    let oom_adjustable = may_lower_oom_scores();
    let containerd = containerd_config(files, dist, pause, !oom_adjustable);
    write(
        &config.join("containerd.toml"),
        containerd.as_bytes(),
        0o600,
    )?;
    write_json(&config.join("cni/10-farplane.conflist"), &cni_config(files))?;
    write_json(&config.join("kubelet.json"), &kubelet_config(record, files))?;
    write_json(
        &config.join("kube-proxy.json"),
        &proxy_config(record, files),
    )?;
    // Pods get the machine's name servers; one on loopback would be another's.
    let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let usable: Vec<&str> = resolv
        .lines()
        .filter(|line| !line.contains("127.0.0.") && !line.contains("::1"))
        .collect();
    write(
        &config.join("resolv.conf"),
        (usable.join("\n") + "\n").as_bytes(),
        0o644,
    )?;
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<(), Error> {
    write(path, format!("{value:#}\n").as_bytes(), 0o600).map(|_| ())
}

/// Lowering `oom_score_adj` needs CAP_SYS_RESOURCE (bit 24).
fn may_lower_oom_scores() -> bool {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .is_some_and(|capabilities| capabilities & (1 << 24) != 0)
}

fn containerd_config(files: &Files, dist: &Path, pause: &str, restrict_oom: bool) -> String {
    let root = files.state.join("containerd");
    let opt = files.state.join("containerd/opt");
    let conf = files.config().join("cni");
    let (socket, root, opt) = (files.containerd_socket(), quoted(&root), quoted(&opt));
    let (bin, conf) = (quoted(&dist.join("cni")), quoted(&conf));
    let (socket, runc) = (quoted(&socket), quoted(&dist.join("bin/runc")));
    let ttrpc = quoted(&files.run().join("containerd.ttrpc.sock"));
    format!(
        r#"version = 3
root = {root}
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
address = {socket}

[ttrpc]
address = {ttrpc}

[plugins.'io.containerd.internal.v1.opt']
path = {opt}

[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{pause}"

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = {restrict_oom}
max_container_log_line_size = 16384

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [{bin}]
conf_dir = {conf}
max_conf_num = 1

[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = "runc"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = {runc}
SystemdCgroup = false
"#
    )
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    Value::from(path.display().to_string()).to_string()
}

fn cni_config(files: &Files) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "farplane-hub",
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "ranges": [[{ "subnet": POD_RANGE }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
                "dataDir": files.state.join("addresses"),
            },
        }],
    })
}

fn kubelet_config(record: &Record, files: &Files) -> Value {
    let pki = files.pki();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": record.hub_address(),
        "port": 10250,
        "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": 10248,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": pki.join("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": pki.join("kubelet-server.crt"),
        "tlsPrivateKeyFile": pki.join("kubelet-server.key"),
        "containerRuntimeEndpoint": format!("unix://{}", files.containerd_socket().display()),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": record.name.cgroup(),
        "failCgroupV1": false,
        "failSwapOn": false,
        "resolvConf": files.config().join("resolv.conf"),
        "podLogsDir": files.logs().join("pods"),
        "volumePluginDir": files.state.join("kubelet/volume-plugins"),
        "maxPods": 250,
        "podPidsLimit": -1,
        "registryPullQPS": 0,
        "serializeImagePulls": false,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "containerLogMaxSize": "10Mi",
        "containerLogMaxFiles": 2,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "2%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "2%",
        },
    })
}

fn proxy_config(record: &Record, files: &Files) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": { "kubeconfig": files.pki().join("kube-proxy.kubeconfig") },
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": record.name,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        // The machine's table of connections is not the hub's to resize.
        "conntrack": { "maxPerCore": 0, "min": 0 },
        // A new Service shall work within a blink.
        "nftables": { "minSyncPeriod": "100ms" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            name: crate::HubName::new("t-one").unwrap(),
            range: 3,
            dist: "/opt/far plane".into(),
            listen: None,
            hub_domain: "hub.test".into(),
            anchor: None,
            supervisor: None,
            anchored_at: 0,
            fingerprint: String::new(),
        }
    }

    #[test]
    fn two_hubs_share_no_cgroup_and_no_socket() {
        let one = kubelet_config(&record(), &Files::new("/s/one"));
        let mut other = record();
        other.name = crate::HubName::new("t-two").unwrap();
        let two = kubelet_config(&other, &Files::new("/s/two"));
        for field in [
            "cgroupRoot",
            "containerRuntimeEndpoint",
            "podLogsDir",
            "volumePluginDir",
        ] {
            assert_ne!(one[field], two[field], "{field}");
        }
    }

    #[test]
    fn paths_with_blanks_stay_one_path() {
        let files = Files::new("/state \"x\"");
        let text = containerd_config(&files, &record().dist, "pause:1", true);
        assert!(text.contains("bin_dirs = [\"/opt/far plane/cni\"]"));
        assert!(text.contains(r#"root = "/state \"x\"/containerd""#));
        assert!(text.contains("restrict_oom_score_adj = true"));
    }
}
