//! Any single process may die; the hub may be away.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::scenarios::hub::condition;
use crate::scenarios::security::cluster_uid;
use crate::scenarios::workloads::{logs_exec_port_forward, pod_on};
use crate::world::{CLUSTER, ORG, World};

const MINUTE: Duration = Duration::from_secs(60);

/// Identity of the running containers of `web`: unchanged means untouched.
pub fn containers(world: &World) -> Result<Vec<String>> {
    let pods = world.get(&["pods", "-l", "app=web"])?;
    let items = pods["items"].as_array().cloned().unwrap_or_default();
    let mut ids: Vec<String> = items
        .iter()
        .filter_map(|pod| {
            pod["status"]["containerStatuses"][0]["containerID"]
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    ids.sort();
    ensure!(
        ids.len() == 4,
        "expected four containers, found {}",
        ids.len()
    );
    Ok(ids)
}

/// Nodes are Ready and the ways into a Pod work.
pub fn works_again(world: &World) -> Result<()> {
    world.eventually("the cluster works again", MINUTE * 2, || {
        for host in ["one", "two"] {
            condition(&world.get(&["node", host])?, "Ready")?;
        }
        logs_exec_port_forward(world)
    })
}

/// `kill -9` of the agent: it comes back, Pods are not touched.
pub fn agent_killed(world: &World) -> Result<()> {
    let before = containers(world)?;
    let pid = world.on_host("one", "pgrep -o -x farplane-agent", None)?;
    world.on_host("one", "kill -9 $(pgrep -o -x farplane-agent)", None)?;
    world.eventually("another agent runs", MINUTE, || {
        let now = world.on_host("one", "pgrep -o -x farplane-agent", None)?;
        ensure!(!now.trim().is_empty() && now != pid, "still {now}");
        Ok(())
    })?;
    works_again(world)?;
    ensure!(containers(world)? == before, "containers were restarted");
    Ok(())
}

fn kill_pod_process(world: &World, namespace: &str, selector: &str) -> Result<()> {
    world
        .hub_kubectl(&[
            "delete",
            "pod",
            "-n",
            namespace,
            "-l",
            selector,
            "--force",
            "--grace-period=0",
        ])
        .map(drop)
}

/// The gateway's Pod dies at once: hosts reconnect.
pub fn gateway_killed(world: &World) -> Result<()> {
    let before = containers(world)?;
    kill_pod_process(
        world,
        "farplane-system",
        "app.kubernetes.io/component=gateway",
    )?;
    works_again(world)?;
    ensure!(containers(world)? == before, "containers were restarted");
    Ok(())
}

/// The API server's Pod dies at once.
pub fn api_server_killed(world: &World) -> Result<()> {
    let namespace = format!("plane-{}", cluster_uid(world, CLUSTER)?);
    kill_pod_process(world, &namespace, "farplane.io/component=apiserver")?;
    works_again(world)
}

/// etcd's Pod dies at once: what was written is there.
pub fn etcd_killed(world: &World) -> Result<()> {
    world.kubectl(&["create", "configmap", "survivor"])?;
    let namespace = format!("plane-{}", cluster_uid(world, CLUSTER)?);
    kill_pod_process(world, &namespace, "farplane.io/component=etcd")?;
    works_again(world)?;
    world.kubectl(&["get", "configmap", "survivor"]).map(drop)
}

/// The controllers' Pod dies at once; another takes over and works.
pub fn controllers_killed(world: &World) -> Result<()> {
    kill_pod_process(
        world,
        "farplane-system",
        "app.kubernetes.io/component=controllers",
    )?;
    world.farplane(&["org", "create", "later"])?;
    world.eventually("the new controllers work", MINUTE, || {
        world.hub_get(&["namespace", "org-later"])
    })?;
    world
        .farplane(&["org", "delete", "later", "--yes", "--wait"])
        .map(drop)
}

/// The hub's control plane for tenants is stopped: Pods serve one another, by address.
pub fn hub_stopped(world: &World) -> Result<()> {
    let before = containers(world)?;
    let namespace = format!("plane-{}", cluster_uid(world, CLUSTER)?);
    let pod = pod_on(world, "two")?;
    let address = world.get(&["pod", &pod])?["status"]["podIP"]
        .as_str()
        .context("the pod has no address")?
        .to_owned();
    let service = world.get(&["service", "web"])?["spec"]["clusterIP"]
        .as_str()
        .context("no cluster ip")?
        .to_owned();
    for (kind, name) in [
        ("deployment", "farplane-gateway"),
        ("deployment", "farplane-controllers"),
    ] {
        world.hub_kubectl(&["scale", kind, name, "-n", "farplane-system", "--replicas=0"])?;
    }
    let served = (|| {
        world.eventually("the gateway is away", MINUTE, || {
            let gone = world.hub_get(&[
                "pods",
                "-n",
                "farplane-system",
                "-l",
                "app.kubernetes.io/component=gateway",
            ])?;
            ensure!(
                gone["items"].as_array().is_some_and(Vec::is_empty),
                "a gateway is still there"
            );
            Ok(())
        })?;
        for target in [format!("{address}:8080"), format!("{service}:80")] {
            let line = format!(
                "exec 3<>/dev/tcp/{}; printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3",
                target.replace(':', "/")
            );
            let answer = world.on_host(
                "one",
                &format!("bash -c '{}'", line.replace('\'', "'\\''")),
                None,
            )?;
            ensure!(answer.contains("200 OK"), "{target} answered {answer:?}");
        }
        Ok(())
    })();
    for name in ["farplane-gateway", "farplane-controllers"] {
        world.hub_kubectl(&[
            "scale",
            "deployment",
            name,
            "-n",
            "farplane-system",
            "--replicas=1",
        ])?;
    }
    served?;
    works_again(world)?;
    ensure!(containers(world)? == before, "containers were restarted");
    ensure!(!namespace.is_empty() && !ORG.is_empty());
    Ok(())
}
