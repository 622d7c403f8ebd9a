//! Any single process may die; the hub may be away.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::run::pause;
use crate::scenarios::hub::condition;
use crate::scenarios::security::cluster_uid;
use crate::scenarios::workloads::{logs_exec_port_forward, pod_on};
use crate::world::{CLUSTER, World};

const MINUTE: Duration = Duration::from_secs(60);
const SYSTEM: &str = "farplane-system";
const GATEWAY: &str = "farplane-gateway";
const CONTROLLERS: &str = "farplane-controllers";

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

/// Ends Pods without any grace; there must be one.
fn kill_pod_process(world: &World, namespace: &str, selector: &str) -> Result<()> {
    let which = ["delete", "pod", "-n", namespace, "-l", selector];
    let how = ["--force", "--grace-period=0", "-o", "name"];
    let killed = world.hub_kubectl(&[&which[..], &how].concat())?;
    ensure!(
        killed.contains("pod/"),
        "no Pod in {namespace} has the label {selector}"
    );
    Ok(())
}

/// The gateway's Pod dies at once: hosts reconnect.
pub fn gateway_killed(world: &World) -> Result<()> {
    let before = containers(world)?;
    kill_pod_process(world, SYSTEM, &format!("app.kubernetes.io/name={GATEWAY}"))?;
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
        SYSTEM,
        &format!("app.kubernetes.io/name={CONTROLLERS}"),
    )?;
    world.farplane(&["org", "create", "later"])?;
    world.eventually("the new controllers work", MINUTE, || {
        world.hub_get(&["namespace", "org-later"])
    })?;
    world
        .farplane(&["org", "delete", "later", "--yes", "--wait"])
        .map(drop)
}

/// All of the hub that tenants meet is away, their control planes too: Pods serve one another,
/// by address and by Service, again and again until the outage has lasted as long as was
/// asked for. The controllers bring everything back.
pub fn hub_stopped(world: &World) -> Result<()> {
    let before = containers(world)?;
    let plane = format!("plane-{}", cluster_uid(world, CLUSTER)?);
    let pod = pod_on(world, "two")?;
    let address = world.get(&["pod", &pod])?["status"]["podIP"].clone();
    let service = world.get(&["service", "web"])?["spec"]["clusterIP"].clone();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let targets = [
        format!("{}/8080", text(&address).context("the pod has no address")?),
        format!("{}/80", text(&service).context("no cluster ip")?),
    ];
    let served = stop_hub(world, &plane).and_then(|()| served_while_away(world, &targets));
    for name in [CONTROLLERS, GATEWAY] {
        scale(world, SYSTEM, &["deployment", name], 1)?;
    }
    let (served, back) = (served?, Instant::now());
    works_again(world)?;
    eprintln!(
        "e2e: {served} answers while the hub was away; all works {:.1} s after its start",
        back.elapsed().as_secs_f64()
    );
    ensure!(containers(world)? == before, "containers were restarted");
    Ok(())
}

fn scale(world: &World, namespace: &str, what: &[&str], replicas: u32) -> Result<()> {
    let count = format!("--replicas={replicas}");
    let how = ["-n", namespace, count.as_str()];
    world
        .hub_kubectl(&[&["scale"], what, &how].concat())
        .map(drop)
}

/// The controllers first: they would bring the rest back.
fn stop_hub(world: &World, plane: &str) -> Result<()> {
    let away = |namespace: &str, label: &str| {
        let what = format!("no Pod {label} in {namespace}");
        world.eventually(&what, MINUTE, || {
            let pods = world.hub_get(&["pods", "-n", namespace, "-l", label])?;
            let left = pods["items"].as_array().map_or(0, Vec::len);
            ensure!(left == 0, "{left} are still there");
            Ok(())
        })
    };
    scale(world, SYSTEM, &["deployment", CONTROLLERS], 0)?;
    away(SYSTEM, &format!("app.kubernetes.io/name={CONTROLLERS}"))?;
    scale(world, SYSTEM, &["deployment", GATEWAY], 0)?;
    for kind in ["deployment", "statefulset"] {
        scale(world, plane, &[kind, "--all"], 0)?;
    }
    away(SYSTEM, &format!("app.kubernetes.io/name={GATEWAY}"))?;
    away(plane, "farplane.io/component")
}

/// Asks Pods from host `one` during the whole outage; gives the number of answers.
fn served_while_away(world: &World, targets: &[String]) -> Result<u32> {
    let (since, mut answers) = (Instant::now(), 0);
    loop {
        for target in targets {
            let line = format!(
                "exec 3<>/dev/tcp/{target}; printf \"GET /hostname HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3"
            );
            let answer = world.on_host("one", &format!("timeout 10 bash -c '{line}'"), None)?;
            let after = since.elapsed();
            ensure!(
                answer.contains("200 OK"),
                "{target} answered {answer:?} {after:?} after the hub went away"
            );
            answers += 1;
        }
        if since.elapsed() >= world.outage {
            return Ok(answers);
        }
        pause(Duration::from_secs(1));
    }
}
