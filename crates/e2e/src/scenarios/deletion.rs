//! Deletion leaves nothing.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::scenarios::security::cluster_uid;
use crate::world::{CLUSTER, ORG, World};

/// After a cluster's deletion: no namespace, key, store, process, mount or table of it.
pub fn cluster(world: &World) -> Result<()> {
    let uid = cluster_uid(world, CLUSTER)?;
    world.farplane(&[
        "cluster", "delete", CLUSTER, "--org", ORG, "--yes", "--wait",
    ])?;
    let gone = world.hub_kubectl(&[
        "get",
        "namespace",
        &format!("plane-{uid}"),
        "--ignore-not-found",
    ])?;
    ensure!(
        gone.trim().is_empty(),
        "its namespace is still there: {gone}"
    );
    let store = format!("/var/lib/farplane-hub/{}/stores/{uid}", world.hub);
    ensure!(
        !std::path::Path::new(&store).exists(),
        "{store} is still there"
    );
    let plans = world.hub_kubectl(&[
        "get",
        "hostplans",
        "-n",
        &format!("org-{ORG}"),
        "--ignore-not-found",
    ])?;
    ensure!(plans.trim().is_empty(), "plans are left: {plans}");
    for host in ["one", "two"] {
        let left = world.eventually("the host is clean", Duration::from_secs(30), || {
            let line = "ps -eo args | grep -E 'kubelet|kube-proxy|flanneld|containerd' | grep -v grep; \
                        ip -o link | grep -E 'flannel|veth|cni' ; nft list tables | grep -E 'kube-proxy|flannel'; \
                        ip -o addr show lo | grep 198.18; ls -A /var/lib/farplane/containerd /var/lib/farplane/plane 2>/dev/null; \
                        cut -d' ' -f2 /proc/mounts | grep -E '^/(var/lib/kubelet|var/lib/farplane|run/farplane)/'; true";
            let left = world.on_host(host, line, None)?;
            ensure!(left.trim().is_empty(), "left on {host}: {left}");
            Ok(left)
        });
        left?;
    }
    Ok(())
}

/// A removed host is gone from the list, its identity and its machine with it.
pub fn host(world: &World) -> Result<()> {
    for name in ["one", "two"] {
        world.farplane(&["lab", "remove", name, "--org", ORG, "--yes"])?;
    }
    world.eventually("lab hosts are gone", Duration::from_secs(90), || {
        let hosts = world.hub_kubectl(&[
            "get",
            "hosts.farplane.io",
            "-n",
            &format!("org-{ORG}"),
            "--ignore-not-found",
        ])?;
        let pods =
            world.hub_kubectl(&["get", "pods", "-n", "farplane-lab", "--ignore-not-found"])?;
        ensure!(
            hosts.trim().is_empty() && pods.trim().is_empty(),
            "left: {hosts} {pods}"
        );
        Ok(())
    })
}

/// A deleted organization takes its namespace with it.
pub fn organization(world: &World) -> Result<()> {
    world.farplane(&["org", "delete", ORG, "--yes", "--wait"])?;
    let gone = world.hub_kubectl(&[
        "get",
        "namespace",
        &format!("org-{ORG}"),
        "--ignore-not-found",
    ])?;
    ensure!(
        gone.trim().is_empty(),
        "its namespace is still there: {gone}"
    );
    Ok(())
}

/// A hub is gone with its folder.
pub fn purge(world: &World) -> Result<()> {
    world.farplane(&["down", "--purge", "--name", &world.hub])?;
    let folder = format!("/var/lib/farplane-hub/{}", world.hub);
    ensure!(
        !std::path::Path::new(&folder).exists(),
        "{folder} is still there"
    );
    Ok(())
}
