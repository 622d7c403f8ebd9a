//! The chart on a cluster that was there before: here one that Farplane made, so that a hub
//! runs inside a cluster of another hub. What `docs/guides/hub-on-a-cluster.md` says.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::run::run;
use crate::scenarios::bad_days::{containers, works_again};
use crate::scenarios::workloads::bring_image;
use crate::world::{CLUSTER, ORG, World};

const MINUTE: Duration = Duration::from_secs(60);
const SYSTEM: &str = "farplane-system";
/// Organization and cluster of the inner hub.
const INNER: &str = "inner";
const NESTED: &str = "nested";
/// Storage class and volume of the inner hub's store, and the directory on host `one`.
const CLASS: &str = "nested";
const STORE: &str = "/srv/nested-store";
/// Images by their name in the build's index and in the chart's values.
const IMAGES: [(&str, &str); 5] = [
    ("hub", "hub"),
    ("artifacts", "artifacts"),
    ("kubernetes-server", "kubernetesServer"),
    ("etcd", "etcd"),
    ("pause", "pause"),
];

/// Helm installs the chart, the hub that it makes serves a cluster, and all of it goes again.
pub fn installs(world: &World) -> Result<()> {
    let before = containers(world)?;
    let objects = cluster_scoped(world)?;
    let proved = prove(world);
    let removed = remove(world);
    proved?;
    removed?;
    world.eventually("nothing of the inner hub is left", MINUTE, || {
        let now = cluster_scoped(world)?;
        let left: Vec<_> = now.difference(&objects).collect();
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    })?;
    works_again(world)?;
    ensure!(containers(world)? == before, "containers were restarted");
    Ok(())
}

fn prove(world: &World) -> Result<()> {
    let mut images = json!({});
    for (name, value) in IMAGES {
        images[value] = json!(bring_image(world, name)?);
    }
    storage(world)?;
    let address = free_address()?;
    install(world, address, &images)?;
    let _forward = Forward::start(world, address)?;
    let namespace = serve(world, address)?;
    take_back(world, &namespace)
}

/// Runs `helm` against the main cluster.
fn helm(world: &World, arguments: &[&str]) -> Result<String> {
    let config = world.kubeconfig(ORG, CLUSTER)?.display().to_string();
    let all = [arguments, &["-n", SYSTEM, "--kubeconfig", &config]].concat();
    run(&world.dist.join("bin/helm"), &all, None, MINUTE * 3)?
        .success(&format!("helm {}", arguments.join(" ")))
}

/// The chart, where `farplane up` finds it: in the distribution or beside it.
fn chart(world: &World) -> PathBuf {
    let beside = world.dist.join("../charts/farplane");
    let inside = world.dist.join("charts/farplane");
    if inside.is_dir() { inside } else { beside }
}

/// A volume on host `one` for etcd, as a cluster without a provisioner offers it.
fn storage(world: &World) -> Result<()> {
    let line = format!("mkdir -p {STORE} && chown 65532:65532 {STORE} && chmod 700 {STORE}");
    world.on_host("one", &line, None)?;
    world.apply(&format!(
        r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {{name: {CLASS}}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {CLASS}}}
spec:
  storageClassName: {CLASS}
  capacity: {{storage: 8Gi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  local: {{path: {STORE}}}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [one]}}]
"#
    ))
}

/// An address of this machine only, at which nobody listens.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("look for a free port")?;
    listener.local_addr().context("read the free port")
}

fn install(world: &World, address: SocketAddr, images: &Value) -> Result<()> {
    let values = json!({
        "publicAddress": address.to_string(),
        "store": { "storageClass": CLASS },
        "images": images,
    });
    let file = world.file("chart-values.yaml");
    std::fs::write(&file, values.to_string()).context("write the chart's values")?;
    let (chart, values) = (chart(world), file.display().to_string());
    let chart = chart.display().to_string();
    let what = ["install", "farplane", chart.as_str(), "--create-namespace"];
    let how = ["--values", values.as_str(), "--wait", "--timeout", "2m"];
    helm(world, &[&what[..], &how].concat()).map(drop)
}

/// `kubectl port-forward` to the inner gateway; ended when dropped.
struct Forward(Child);

impl Forward {
    fn start(world: &World, address: SocketAddr) -> Result<Self> {
        let port = format!("{}:8443", address.port());
        let child = Command::new(world.dist.join("bin/kubectl"))
            .arg("--kubeconfig")
            .arg(world.kubeconfig(ORG, CLUSTER)?)
            .args(["port-forward", "-n", SYSTEM, "--address", "127.0.0.1"])
            .args(["svc/farplane-gateway", &port])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start kubectl port-forward")?;
        let forward = Self(child);
        world.eventually("the inner gateway can be reached", MINUTE / 2, || {
            TcpStream::connect(address).with_context(|| format!("connect to {address}"))
        })?;
        Ok(forward)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // One that ended by itself needs neither.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `farplane` against the inner hub, which the main cluster's kubeconfig leads to.
fn inner(world: &World, arguments: &[&str]) -> Result<String> {
    world.farplane_at(&world.kubeconfig(ORG, CLUSTER)?, arguments)
}

/// Orders a cluster of the inner hub and uses it; gives the namespace of its control plane.
fn serve(world: &World, address: SocketAddr) -> Result<String> {
    inner(world, &["org", "create", INNER])?;
    inner(
        world,
        &["cluster", "create", NESTED, "--org", INNER, "--wait"],
    )?;
    let config = world.file("nested.kubeconfig");
    let text = inner(world, &["cluster", "kubeconfig", NESTED, "--org", INNER])?;
    ensure!(
        text.contains(&format!("https://{address}")),
        "the kubeconfig does not lead to {address}: {text}"
    );
    std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
    let kubectl = |arguments: &[&str]| nested_kubectl(world, &config, arguments);
    let ready = kubectl(&["get", "--raw", "/readyz"])?;
    ensure!(ready.trim() == "ok", "/readyz answers {ready:?}");
    kubectl(&["create", "configmap", "proof", "--from-literal=a=b"])?;
    let read = kubectl(&["get", "configmap", "proof", "-o", "jsonpath={.data.a}"])?;
    ensure!(read == "b", "the ConfigMap has {read:?}");
    let stored = world.on_host("one", &format!("ls {STORE}/data/member"), None)?;
    ensure!(
        stored.contains("wal"),
        "etcd's data is not in the volume: {stored}"
    );
    let object = ["kubernetescluster", NESTED, "-n", "org-inner"];
    let namespace = world.get(&object)?["status"]["namespace"].clone();
    let namespace = namespace.as_str().context("the status has no namespace")?;
    Ok(namespace.to_owned())
}

fn nested_kubectl(world: &World, config: &Path, arguments: &[&str]) -> Result<String> {
    let what = format!("kubectl (nested) {}", arguments.join(" "));
    world.kubectl_with(config, arguments, None)?.success(&what)
}

fn take_back(world: &World, namespace: &str) -> Result<()> {
    inner(
        world,
        &[
            "cluster", "delete", NESTED, "--org", INNER, "--yes", "--wait",
        ],
    )?;
    inner(world, &["org", "delete", INNER, "--yes", "--wait"])?;
    for gone in [namespace, "org-inner"] {
        let left = world.kubectl(&["get", "namespace", gone, "--ignore-not-found"])?;
        ensure!(left.trim().is_empty(), "namespace {gone} is left: {left}");
    }
    Ok(())
}

/// Everything that the chart leaves by design, and what this scenario made beside it.
fn remove(world: &World) -> Result<()> {
    helm(world, &["uninstall", "farplane", "--wait"])?;
    let namespace = ["delete", "namespace", SYSTEM, "--ignore-not-found"];
    world.kubectl(&[&namespace[..], &["--wait=false"]].concat())?;
    let kinds = world.kubectl(&["get", "customresourcedefinitions", "-o", "name"])?;
    for kind in kinds.lines().filter(|name| name.ends_with(".farplane.io")) {
        world.kubectl(&["delete", kind, "--wait=false"])?;
    }
    for kind in ["persistentvolume", "storageclass"] {
        let what = ["delete", kind, CLASS, "--ignore-not-found", "--wait=false"];
        world.kubectl(&what)?;
    }
    world
        .on_host("one", &format!("rm -rf {STORE}"), None)
        .map(drop)
}

/// Names of what is in no namespace, and of the namespaces.
fn cluster_scoped(world: &World) -> Result<BTreeSet<String>> {
    let kinds = "namespaces,customresourcedefinitions,persistentvolumes,storageclasses,\
                 clusterroles,clusterrolebindings,apiservices";
    let all = world.kubectl(&["get", kinds, "-o", "name"])?;
    Ok(all.lines().map(str::to_owned).collect())
}
